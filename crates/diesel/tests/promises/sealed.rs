//! What lies in the database, and what is made of it by somebody who can write there.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use symbolon_domain::{
    api_key::KeyLimits,
    credentials::Credentials,
    event::EventKind,
    ids::{IdentityId, LinkSessionId, ProviderId},
    link_session::{
        Attempt, AttemptProof, CompletionClaim, LinkFailure, LinkSession, NewLinkSession,
        PendingLink,
    },
    page::PageRequest,
    ports::{
        DataOutcome, DataUpdate, EventFilter, LeaseOutcome, Link, LinkOutcome, LinkOwner,
        NewAuthProvider, NewIdentityProvider, ProviderDeletion, RepositoryError, RevocationEnd,
        SsoOutcome, SsoSignIn, Unlink, UnlinkOutcome,
    },
    secret::{Secret, SecretHash},
    testing::{RunningClock, contract::Store, fixtures},
};

use crate::bench::{Bench, on_both};

on_both! {
    nothing_secret_lies_in_the_open
    sealed_credentials_open_in_no_other_row
    credentials_that_do_not_open_are_replaced_by_new_ones
    older_credentials_do_not_come_back
    credentials_that_were_never_sealed_are_refused
    a_lease_of_credentials_that_do_not_open_is_given_back
    sealed_provider_secrets_open_in_no_other_row_and_no_older_ones
    what_a_session_holds_opens_in_no_other_session
    a_session_that_ended_holds_nothing
    a_queued_grant_is_sealed_and_wiped_when_it_has_ended
    a_provider_whose_secrets_do_not_open_can_be_deleted
    credentials_for_single_sign_on_are_sealed_and_open_in_no_other_row
}

/// In every secret of these tests.
const CANARY: &str = "canary-5e1f";

pub(crate) fn credentials(name: &str) -> Credentials {
    let secret = |kind| Some(Secret::new(format!("{CANARY}-{kind}-{name}")));
    Credentials {
        access_token: secret("access"),
        refresh_token: secret("refresh"),
        id_token: secret("id"),
        dpop_key: secret("dpop"),
        ..fixtures::credentials()
    }
}

pub(crate) async fn provider(store: &Arc<dyn Store>, name: &str) -> ProviderId {
    let new = NewIdentityProvider {
        external_id: Some(name.to_owned()),
        secrets: [("client_secret".to_owned(), Secret::new(format!("{CANARY}-{name}")))].into(),
        ..fixtures::new_identity_provider()
    };
    store.providers().insert(&new, &fixtures::ACTOR).await.unwrap().id
}

pub(crate) fn link(provider_id: ProviderId, name: &str) -> Link {
    Link {
        provider_id,
        owner: LinkOwner::User(fixtures::user(name)),
        external_id: fixtures::external_id(name),
        credentials: Some(credentials(name)),
        ..fixtures::link()
    }
}

pub(crate) async fn linked(store: &Arc<dyn Store>, link: &Link) -> IdentityId {
    match store.identities().link(link).await.unwrap() {
        LinkOutcome::Created(it) | LinkOutcome::Updated(it) | LinkOutcome::SignedIn(it) => it.id,
        other => panic!("{other:?}"),
    }
}

fn new_session(name: &str) -> NewLinkSession {
    use symbolon_domain::ports::Clock as _;
    let now = RunningClock.now();
    let session = LinkSession {
        created_at: now,
        expires_at: now + TimeDelta::minutes(10),
        ..fixtures::link_session()
    };
    NewLinkSession { session, token: SecretHash::of(&format!("{CANARY}-token-{name}")) }
}

pub(crate) fn attempt(provider_id: ProviderId, name: &str) -> Attempt {
    let secret = |kind| Secret::new(format!("{CANARY}-{kind}-{name}"));
    Attempt {
        provider_id,
        browser: secret("browser").hash(),
        state: secret("state").hash(),
        proof: AttemptProof {
            code_verifier: secret("verifier"),
            nonce: secret("nonce"),
            dpop_key: Some(secret("dpop key")),
        },
    }
}

pub(crate) fn claim(id: LinkSessionId, name: &str) -> CompletionClaim {
    CompletionClaim { id, code: SecretHash::of(&format!("{CANARY}-code-{name}")) }
}

/// A session whose browser is on its way.
pub(crate) async fn begun(
    store: &Arc<dyn Store>,
    provider: ProviderId,
    name: &str,
) -> LinkSessionId {
    let id = store.sessions().insert(&new_session(name)).await.unwrap().id;
    assert!(store.sessions().begin(id, &attempt(provider, name)).await.unwrap());
    id
}

/// A session that waits for completion.
pub(crate) async fn waiting(
    store: &Arc<dyn Store>,
    provider: ProviderId,
    name: &str,
) -> LinkSessionId {
    let id = begun(store, provider, name).await;
    let Attempt { state, browser, .. } = attempt(provider, name);
    store.sessions().take_attempt(&state, &browser).await.unwrap().unwrap();
    let mut pending = PendingLink { credentials: credentials(name), ..fixtures::pending_link() };
    pending.provider_id = provider;
    pending.account.external_id = fixtures::external_id(name);
    assert!(store.sessions().await_completion(&claim(id, name), &pending).await.unwrap());
    id
}

fn assert_unsealable<T: std::fmt::Debug>(
    result: Result<T, RepositoryError>,
    expected: &'static str,
    id: i64,
) {
    match result {
        Err(RepositoryError::Unsealable { table, row }) => assert_eq!((table, row), (expected, id)),
        other => panic!("{other:?}"),
    }
}

async fn nothing_secret_lies_in_the_open(Bench { store, raw }: Bench) {
    let at = provider(&store, "one").await;
    let secrets = [("client_secret".to_owned(), Secret::new(format!("{CANARY}-new")))].into();
    let config = fixtures::new_identity_provider().config;
    store
        .providers()
        .update(&fixtures::provider_update(at, 1, &config, &secrets), &fixtures::ACTOR)
        .await
        .unwrap()
        .unwrap();
    let id = linked(&store, &link(at, "one")).await;
    let update = DataUpdate {
        id,
        credentials: Some(credentials("two")),
        if_version: None,
        ..fixtures::data_update()
    };
    let updated = store.identities().update_data(&update).await.unwrap();
    assert!(matches!(updated, DataOutcome::Updated(_)), "{updated:?}");
    begun(&store, at, "begun").await;
    waiting(&store, at, "waiting").await;
    let key = SecretHash::of(&format!("{CANARY}-key"));
    store
        .api_keys()
        .insert("key", &[], &KeyLimits::default(), &key, &fixtures::ACTOR)
        .await
        .unwrap();

    let everything = raw.everything().await;
    let holds = |text: &str| everything.windows(text.len()).any(|it| it == text.as_bytes());
    assert!(holds("account-1") || holds("one"), "nothing was looked at");
    assert!(!holds(CANARY));
    assert!(!holds(&hex::encode(CANARY)));
}

async fn credentials_for_single_sign_on_are_sealed_and_open_in_no_other_row(
    Bench { store, raw }: Bench,
) {
    let provider_id = provider(&store, "one").await;
    let new = NewAuthProvider { provider_id, ..fixtures::new_auth_provider() };
    let of = store.auth_providers().insert(&new, &fixtures::ACTOR).await.unwrap();
    let linked = async |name: &str| {
        let asked = SsoSignIn {
            auth_provider_id: of.id,
            user: Some(fixtures::user(name)),
            ident: fixtures::external_id(name),
            credentials: Some(credentials(name)),
            ..fixtures::sso_sign_in()
        };
        match store.auth_identities().sign_in(&asked).await.unwrap() {
            SsoOutcome::Linked { identity, .. } => identity.id,
            other => panic!("{other:?}"),
        }
    };
    let first = linked("one").await;
    let second = linked("two").await;
    let everything = raw.everything().await;
    let holds = |text: &str| everything.windows(text.len()).any(|it| it == text.as_bytes());
    assert!(holds("organization-1"), "nothing was looked at");
    assert!(!holds(&format!("{CANARY}-access")));

    raw.execute(&format!(
        "UPDATE auth_identities SET credentials = \
         (SELECT credentials FROM auth_identities WHERE id = {second}) WHERE id = {first}"
    ))
    .await;
    let moved = store.auth_identities().find_credentials(first).await;
    assert_unsealable(moved, "auth_identities", first.0);
    let own = store.auth_identities().find_credentials(second).await.unwrap();
    assert_eq!(own, Some(credentials("two")));
}

async fn sealed_credentials_open_in_no_other_row(Bench { store, raw }: Bench) {
    let at = provider(&store, "one").await;
    let first = linked(&store, &link(at, "one")).await;
    let second = linked(&store, &link(at, "two")).await;
    raw.execute(&format!(
        "UPDATE identities SET credentials = \
         (SELECT credentials FROM identities WHERE id = {second}) WHERE id = {first}"
    ))
    .await;

    assert_unsealable(store.credentials().find(first).await, "identities", first.0);
    // It does not keep the link alive: it goes, and that its grant cannot be ended is on record.
    let unlinked = store
        .identities()
        .unlink(&Unlink::unguarded(first, &fixtures::ACTOR).revoking())
        .await
        .unwrap();
    assert!(matches!(unlinked, UnlinkOutcome::Unlinked(_, None)), "{unlinked:?}");
    let page = PageRequest { limit: 200, after: None };
    let told = store.events().list(&EventFilter::default(), page).await.unwrap().items;
    let last = told.last().unwrap();
    assert_eq!((last.about, last.identity_id), (EventKind::GrantRevocationFailed, Some(first)));
    assert!(last.detail["detail"].as_str().unwrap().contains("do not open"));
    assert!(store.credentials().find(second).await.unwrap().is_some());
}

async fn a_queued_grant_is_sealed_and_wiped_when_it_has_ended(Bench { store, raw }: Bench) {
    let at = provider(&store, "one").await;
    let (first, second) =
        (linked(&store, &link(at, "one")).await, linked(&store, &link(at, "two")).await);
    let mut queued = Vec::new();
    for id in [first, second] {
        let unlinked = store
            .identities()
            .unlink(&Unlink::unguarded(id, &fixtures::ACTOR).revoking())
            .await
            .unwrap();
        let UnlinkOutcome::Unlinked(_, Some(id)) = unlinked else { panic!("{unlinked:?}") };
        queued.push(id);
    }
    let everything = raw.everything().await;
    assert!(!everything.windows(CANARY.len()).any(|it| it == CANARY.as_bytes()));
    assert!(!everything.windows(CANARY.len() * 2).any(|it| it == hex::encode(CANARY).as_bytes()));

    // It opens in no other row, and the claimant is told.
    raw.execute(&format!(
        "UPDATE revocations SET sealed = (SELECT sealed FROM revocations WHERE id = {}) \
         WHERE id = {}",
        queued[1], queued[0]
    ))
    .await;
    for (id, opens) in [(queued[0], false), (queued[1], true)] {
        let claimed = store.revocations().claim(id, Duration::from_mins(1)).await.unwrap();
        let claimed = claimed.unwrap();
        assert_eq!(claimed.grant.is_some(), opens);
        let end = RevocationEnd::Failed("no".to_owned());
        assert!(store.revocations().settle(&claimed.queued, &end).await.unwrap());
    }
    let left = raw.texts("SELECT 'x' AS value FROM revocations WHERE sealed IS NOT NULL").await;
    assert_eq!(left, [""; 0]);
}

async fn a_provider_whose_secrets_do_not_open_can_be_deleted(Bench { store, raw }: Bench) {
    let at = provider(&store, "one").await;
    linked(&store, &link(at, "one")).await;
    raw.execute(&format!("UPDATE identity_providers SET secrets = {}", raw.bytes("x"))).await;
    let deleted = store.providers().delete(at, true, &fixtures::ACTOR).await.unwrap();
    assert_eq!(deleted, ProviderDeletion::Deleted(1));
    let due = store.revocations().claim_due(10, Duration::from_mins(1)).await.unwrap();
    assert_eq!(due.len(), 1);
    assert_eq!(due[0].grant.as_ref().unwrap().provider, None);
}

async fn credentials_that_do_not_open_are_replaced_by_new_ones(Bench { store, raw }: Bench) {
    let at = provider(&store, "one").await;
    let id = linked(&store, &link(at, "one")).await;
    let spoiled = format!("UPDATE identities SET credentials = {}", raw.bytes("spoiled"));
    let update = DataUpdate {
        id,
        credentials: Some(credentials("one")),
        if_version: None,
        ..fixtures::data_update()
    };

    raw.execute(&spoiled).await;
    assert_eq!(linked(&store, &link(at, "one")).await, id);
    let stored = store.credentials().find(id).await.unwrap().unwrap();
    assert_eq!((stored.credentials, stored.generation), (Some(credentials("one")), 2));

    raw.execute(&spoiled).await;
    let updated = store.identities().update_data(&update).await.unwrap();
    assert!(matches!(updated, DataOutcome::Updated(_)), "{updated:?}");
    let stored = store.credentials().find(id).await.unwrap().unwrap();
    assert_eq!((stored.credentials, stored.generation), (Some(credentials("one")), 3));
}

async fn older_credentials_do_not_come_back(Bench { store, raw }: Bench) {
    let at = provider(&store, "one").await;
    let id = linked(&store, &link(at, "one")).await;
    raw.execute(&format!(
        "CREATE TABLE older AS SELECT credentials FROM identities WHERE id = {id}"
    ))
    .await;
    linked(&store, &link(at, "one")).await;
    assert_eq!(store.credentials().find(id).await.unwrap().unwrap().generation, 2);
    raw.execute("UPDATE identities SET credentials = (SELECT credentials FROM older)").await;
    assert_unsealable(store.credentials().find(id).await, "identities", id.0);
}

async fn credentials_that_were_never_sealed_are_refused(Bench { store, raw }: Bench) {
    let at = provider(&store, "one").await;
    let id = linked(&store, &link(at, "one")).await;
    let plain = String::from_utf8(credentials("one").to_plain().to_vec()).unwrap();
    raw.execute(&format!("UPDATE identities SET credentials = {}", raw.bytes(&plain))).await;
    assert_unsealable(store.credentials().find(id).await, "identities", id.0);
}

async fn a_lease_of_credentials_that_do_not_open_is_given_back(Bench { store, raw }: Bench) {
    let at = provider(&store, "one").await;
    let id = linked(&store, &link(at, "one")).await;
    raw.execute("CREATE TABLE good AS SELECT credentials FROM identities").await;
    raw.execute(&format!("UPDATE identities SET credentials = {}", raw.bytes("spoiled"))).await;
    let time = Duration::from_mins(10);
    let taken = store.credentials().take_lease(id, 1, "r", time).await;
    assert_unsealable(taken, "identities", id.0);

    raw.execute("UPDATE identities SET credentials = (SELECT credentials FROM good)").await;
    let taken = store.credentials().take_lease(id, 1, "r", time).await.unwrap();
    assert!(matches!(taken, LeaseOutcome::Taken(..)), "{taken:?}");
}

async fn sealed_provider_secrets_open_in_no_other_row_and_no_older_ones(
    Bench { store, raw }: Bench,
) {
    let (first, second) = (provider(&store, "one").await, provider(&store, "two").await);
    raw.execute("CREATE TABLE older AS SELECT id, secrets FROM identity_providers").await;
    raw.execute(&format!(
        "UPDATE identity_providers SET secrets = (SELECT secrets FROM older WHERE id = {second}) \
         WHERE id = {first}"
    ))
    .await;
    let swapped = store.providers().find_with_secrets(first).await;
    assert_unsealable(swapped, "identity_providers", first.0);

    let (config, secrets) =
        (fixtures::new_identity_provider().config, fixtures::provider_secrets());
    let replaced = store
        .providers()
        .update(&fixtures::provider_update(first, 1, &config, &secrets), &fixtures::ACTOR)
        .await
        .unwrap();
    assert!(replaced.is_some(), "what does not open can be replaced");
    let (_, opened) = store.providers().find_with_secrets(first).await.unwrap().unwrap();
    assert_eq!(opened, secrets);
    raw.execute(&format!(
        "UPDATE identity_providers SET secrets = (SELECT secrets FROM older WHERE id = {first}) \
         WHERE id = {first}"
    ))
    .await;
    let older = store.providers().find_with_secrets(first).await;
    assert_unsealable(older, "identity_providers", first.0);
}

async fn what_a_session_holds_opens_in_no_other_session(Bench { store, raw }: Bench) {
    let at = provider(&store, "one").await;
    let first = begun(&store, at, "one").await;
    let second = begun(&store, at, "two").await;
    raw.execute(&format!(
        "UPDATE link_sessions SET proof = \
         (SELECT proof FROM link_sessions WHERE id = {second}) WHERE id = {first}"
    ))
    .await;
    let Attempt { state, browser, .. } = attempt(at, "one");
    let taken = store.sessions().take_attempt(&state, &browser).await;
    assert_unsealable(taken, "link_sessions", first.0);

    let third = waiting(&store, at, "three").await;
    let fourth = waiting(&store, at, "four").await;
    raw.execute(&format!(
        "UPDATE link_sessions SET pending = \
         (SELECT pending FROM link_sessions WHERE id = {fourth}) WHERE id = {third}"
    ))
    .await;
    let pending = store.sessions().find_pending(&claim(third, "three")).await;
    assert_unsealable(pending, "link_sessions", third.0);
}

async fn a_session_that_ended_holds_nothing(Bench { store, raw }: Bench) {
    let at = provider(&store, "one").await;
    let with_session = |name: &str, id| Link { session: Some(claim(id, name)), ..link(at, name) };
    let linked_one = waiting(&store, at, "linked").await;
    linked(&store, &with_session("linked", linked_one)).await;
    let signed_in = waiting(&store, at, "signed-in").await;
    let sign_in = Link {
        owner: LinkOwner::Whoever,
        external_id: fixtures::external_id("linked"),
        ..with_session("signed-in", signed_in)
    };
    linked(&store, &sign_in).await;
    let failed = waiting(&store, at, "failed").await;
    assert!(store.sessions().fail(failed, LinkFailure::Untrusted).await.unwrap());
    waiting(&store, at, "expired").await;
    begun(&store, at, "expired before it came back").await;
    let statuses = "SELECT status AS value FROM link_sessions ORDER BY id";
    raw.execute(
        "UPDATE link_sessions SET expires_at = '2026-01-01 00:00:00+00:00' \
         WHERE status IN ('pending', 'awaiting_completion')",
    )
    .await;
    assert_eq!(store.sessions().expire().await.unwrap(), 2);

    let ends = ["linked", "signed_in", "failed", "expired", "expired"];
    assert_eq!(raw.texts(statuses).await, ends);
    let held = raw
        .texts(
            "SELECT 'held' AS value FROM link_sessions WHERE coalesce(browser_hash, state_hash, \
             proof, code_hash, pending) IS NOT NULL",
        )
        .await;
    assert!(held.is_empty(), "{} sessions hold something", held.len());
}
