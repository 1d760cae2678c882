//! Who may be handed which token, and what a rejected one does.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use symbolon_domain::{
    Error,
    api_key::{ApiKey, KeyLimits, UserPattern},
    credentials::{Credentials, DPOP},
    dpop::DpopRequest,
    event::{Actor, EventKind},
    freeze::FreezeSubject,
    identity::{IdentityStatus, InvalidReason},
    ids::{IdentityId, ProviderId},
    page::PageRequest,
    ports::{ConnectorError, LedgerFilter, LedgerRepository, OrganizationIdentityRepository, Sent},
    secret::{Secret, SecretHash},
    services::{DpopProof, Ledger, Recipient, Rejected, TokenNeed, Vending},
    testing::{PlainProofs, RefreshFault, fixtures},
};

use crate::world::World;

fn vending(world: &World) -> Vending {
    Vending {
        vending: world.store.clone(),
        organization_identities: world.store.clone(),
        tokens: world.replica("a"),
        ledger: Ledger::new(world.store.clone(), world.clock.clone()),
        proofs: Arc::new(PlainProofs),
    }
}

fn limited(limits: KeyLimits) -> ApiKey {
    ApiKey { limits, ..fixtures::api_key() }
}

fn to(key: &ApiKey) -> Recipient<'_> {
    Recipient { key, acting_user: None, request_id: "request-1" }
}

async fn issue(world: &World, id: IdentityId, key: &ApiKey) -> Result<SecretHash, Error> {
    let issued = vending(world).issue(id, to(key), &TokenNeed::default()).await;
    issued.map(|it| it.access_token.hash())
}

/// The request of [`prove`].
fn get() -> DpopRequest {
    DpopRequest::new("GET", "https://api.example/files?a=b", Some("n")).unwrap()
}

async fn prove(
    world: &World,
    id: IdentityId,
    key: &ApiKey,
    named: Option<&SecretHash>,
) -> Result<DpopProof, Error> {
    vending(world).prove(id, to(key), &get(), named).await
}

/// A world whose provider binds its tokens.
async fn binding() -> (World, IdentityId) {
    let world = World::new().await;
    world.provider.set_binding(true);
    let id = world.identity().await;
    (world, id)
}

#[tokio::test]
async fn each_limit_of_a_key_holds_for_its_tokens() {
    let world = World::new().await;
    let id = world.identity().await;
    let texts = |all: &[&str]| Some(all.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
    let users = |text: &str| Some(vec![UserPattern::new(text).unwrap()]);
    let granted = world.stored(id).await.credentials.unwrap().scopes;
    let granted: Vec<_> = granted.iter().map(String::as_str).collect();
    let more: Vec<_> = granted.iter().copied().chain(["another"]).collect();
    let none = || KeyLimits::NONE;
    for within in [
        none(),
        KeyLimits { provider_types: texts(&["scripted"]), ..none() },
        KeyLimits { providers: Some(vec![world.provider_id]), ..none() },
        KeyLimits { users: users("user-1"), ..none() },
        KeyLimits { users: users("user*"), ..none() },
        KeyLimits { token_scopes: texts(&more), ..none() },
    ] {
        issue(&world, id, &limited(within)).await.unwrap();
    }
    for unseen in [
        KeyLimits { provider_types: texts(&["github"]), ..none() },
        KeyLimits { providers: Some(vec![ProviderId(world.provider_id.0 + 1)]), ..none() },
        KeyLimits { users: users("user-10"), ..none() },
        KeyLimits { organizations: Some(vec![fixtures::organization("acme")]), ..none() },
    ] {
        let refused = issue(&world, id, &limited(unseen)).await;
        assert!(matches!(refused, Err(Error::NotFound("identity"))), "{refused:?}");
    }
    let less = limited(KeyLimits { token_scopes: texts(&["another"]), ..none() });
    let refused = issue(&world, id, &less).await;
    assert!(matches!(refused, Err(Error::BeyondLimits(it)) if it.contains(granted[0])));
    let need = TokenNeed { scopes: vec!["beyond".into()], ..TokenNeed::default() };
    let refused = vending(&world).issue(id, to(&less), &need).await;
    assert!(matches!(refused, Err(Error::BeyondLimits(it)) if it.contains("beyond")));
}

#[tokio::test]
async fn a_key_of_an_organization_is_handed_tokens_of_what_that_organization_uses() {
    let world = World::new().await;
    let id = world.identity().await;
    let acme = fixtures::organization("acme");
    let key = limited(KeyLimits {
        organizations: Some(vec![fixtures::organization("apex"), acme.clone()]),
        ..KeyLimits::NONE
    });
    assert!(issue(&world, id, &key).await.is_err());
    world.store.attach(&acme, id, &Actor::OPERATOR).await.unwrap();
    issue(&world, id, &key).await.unwrap();
    world.store.detach(&acme, id, &Actor::OPERATOR).await.unwrap();
    assert!(issue(&world, id, &key).await.is_err());
}

#[tokio::test]
async fn a_token_whose_scopes_are_not_known_is_not_for_a_key_that_is_limited_to_some() {
    let world = World::new().await;
    let unknown = Credentials { scopes: Vec::new(), ..world.provider.grant("account-1") };
    let id = world.identity_with(Some(unknown)).await;
    let key = limited(KeyLimits { token_scopes: Some(vec!["x".into()]), ..KeyLimits::NONE });
    let refused = issue(&world, id, &key).await;
    assert!(matches!(refused, Err(Error::BeyondLimits(_))), "{refused:?}");
    issue(&world, id, &fixtures::api_key()).await.unwrap();
}

#[tokio::test]
async fn what_is_frozen_is_refused_with_who_and_why_and_handed_out_again_after() {
    let world = World::new().await;
    let id = world.identity().await;
    let vending = vending(&world);
    let key = fixtures::api_key();
    let subject = FreezeSubject::Provider(world.provider_id);
    let actor = Actor::OPERATOR.because("a leak");
    vending.freeze(&subject, &actor).await.unwrap();
    let hash = SecretHash::of("x");
    for refused in [
        vending.issue(id, to(&key), &TokenNeed::default()).await.map(drop),
        vending.refresh(id, &key).await,
        vending.report_rejected(id, &key, &hash).await.map(drop),
        vending.prove(id, to(&key), &get(), None).await.map(drop),
    ] {
        let Err(error @ Error::Frozen(_)) = refused else { panic!("{refused:?}") };
        let told = error.to_string();
        assert!(told.contains("provider ") && told.contains("by operator, because: a leak"));
    }
    // One who may not know of the identity is not told what it is frozen for.
    let users = Some(vec![UserPattern::new("nobody").unwrap()]);
    let other = limited(KeyLimits { users, ..KeyLimits::NONE });
    let refused = issue(&world, id, &other).await;
    assert!(matches!(refused, Err(Error::NotFound(_))), "{refused:?}");
    assert_eq!(world.provider.refreshes(), 0);

    vending.unfreeze(&subject, &actor).await.unwrap();
    issue(&world, id, &key).await.unwrap();
    let again = vending.unfreeze(&subject, &actor).await;
    assert!(matches!(again, Err(Error::NotFound("freeze"))), "{again:?}");
}

#[tokio::test]
async fn a_freeze_that_comes_during_a_refresh_refuses_what_came_of_it() {
    let world = World::new().await;
    let id = world.identity().await;
    world.expire();
    world.provider.fail_next([RefreshFault::Delay(Duration::from_secs(1))]);
    let frozen = vending(&world);
    let asked = tokio::spawn(async move {
        frozen.issue(id, to(&fixtures::api_key()), &TokenNeed::default()).await
    });
    // On this one thread the other task runs until it waits for the provider.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let organization = fixtures::organization("acme");
    world.store.attach(&organization, id, &Actor::OPERATOR).await.unwrap();
    let subject = FreezeSubject::Organization(organization);
    vending(&world).freeze(&subject, &Actor::OPERATOR).await.unwrap();
    let refused = asked.await.unwrap();
    assert!(matches!(refused, Err(Error::Frozen(_))), "{refused:?}");
    // What was obtained is kept all the same.
    assert_eq!(world.stored(id).await.generation, 2);
}

#[tokio::test]
async fn what_is_handed_out_is_noted_and_what_is_refused_is_not() {
    let world = World::new().await;
    let id = world.identity().await;
    let vending = vending(&world);
    let key = fixtures::api_key();
    let user = fixtures::user("eve");
    let eve = Recipient { acting_user: Some(&user), ..to(&key) };
    let token = vending.issue(id, eve, &TokenNeed::default()).await.unwrap().access_token;
    vending
        .issue(
            id,
            to(&limited(KeyLimits {
                users: Some(vec![UserPattern::new("nobody").unwrap()]),
                ..KeyLimits::NONE
            })),
            &TokenNeed::default(),
        )
        .await
        .unwrap_err();
    let page = PageRequest::default();
    let found = vending.ledger.list(Some(id), Some(&token.hash()), page).await.unwrap().items;
    let [entry] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(entry.hand_out.acting_user, Some(user));
    assert_eq!(entry.hand_out.to.to_string(), "api_key:1");
    assert_eq!((entry.tally.times, entry.tally.request_id.as_str()), (1, "request-1"));
    let all = world.store.list_ledger(&LedgerFilter::default(), page).await.unwrap();
    assert_eq!(all.items.len(), 1);
}

async fn report(world: &World, id: IdentityId, token: &SecretHash) -> Result<Rejected, Error> {
    vending(world).report_rejected(id, &fixtures::api_key(), token).await
}

#[tokio::test]
async fn a_rejected_token_is_replaced_once_however_many_report_it() {
    let world = World::new().await;
    let id = world.identity().await;
    let key = fixtures::api_key();
    let old = issue(&world, id, &key).await.unwrap();
    world.clock.advance(TimeDelta::seconds(31));
    assert_eq!(report(&world, id, &old).await.unwrap(), Rejected::Replaced);
    assert_eq!(report(&world, id, &old).await.unwrap(), Rejected::AlreadyReplaced);
    let other = SecretHash::of("some other token");
    assert_eq!(report(&world, id, &other).await.unwrap(), Rejected::AlreadyReplaced);
    assert_ne!(issue(&world, id, &key).await.unwrap(), old);
    assert_eq!(world.provider.refreshes(), 1);
}

#[tokio::test]
async fn a_caller_in_a_loop_does_not_spend_a_refresh_token_each_time() {
    let world = World::new().await;
    let id = world.identity().await;
    let key = fixtures::api_key();
    world.clock.advance(TimeDelta::seconds(31));
    for _ in 0..10 {
        let token = issue(&world, id, &key).await.unwrap();
        let reported = report(&world, id, &token).await;
        if world.provider.refreshes() == 1 && reported.is_err() {
            let Err(Error::TooSoon { retry_after, .. }) = reported else { panic!("{reported:?}") };
            assert_eq!(retry_after, Duration::from_secs(30));
        }
    }
    assert_eq!(world.provider.refreshes(), 1);
    world.clock.advance(TimeDelta::seconds(30));
    let token = issue(&world, id, &key).await.unwrap();
    assert_eq!(report(&world, id, &token).await.unwrap(), Rejected::Replaced);
}

#[tokio::test]
async fn a_rejected_token_whose_grant_is_refused_makes_the_identity_invalid() {
    let world = World::new().await;
    let id = world.identity().await;
    let old = issue(&world, id, &fixtures::api_key()).await.unwrap();
    world.clock.advance(TimeDelta::seconds(31));
    let code = "invalid_grant".into();
    world.provider.fail_next([RefreshFault::Refuse(ConnectorError::GrantRejected { code })]);
    let reason = Some(InvalidReason::GrantRejected);
    for _ in 0..2 {
        let told = report(&world, id, &old).await;
        assert!(matches!(&told, Err(Error::IdentityNotValid { reason: it, .. }) if *it == reason));
    }
    assert_eq!(world.find(id).await.status, IdentityStatus::Invalid);
    assert_eq!(world.events(EventKind::IdentityInvalidated).await.len(), 1);
}

#[tokio::test]
async fn a_rejected_token_without_a_refresh_token_makes_the_identity_invalid() {
    let world = World::new().await;
    let grant = world.provider.grant("account-1");
    let unknown_end = Credentials { refresh_token: None, expires_at: None, ..grant };
    let id = world.identity_with(Some(unknown_end)).await;
    let old = issue(&world, id, &fixtures::api_key()).await.unwrap();
    world.clock.advance(TimeDelta::days(100));
    assert_eq!(issue(&world, id, &fixtures::api_key()).await.unwrap(), old);
    let told = report(&world, id, &old).await;
    let reason = Some(InvalidReason::NoRefreshToken);
    assert!(matches!(&told, Err(Error::IdentityNotValid { reason: it, .. }) if *it == reason));
    assert_eq!(world.find(id).await.invalid.map(|it| it.reason), reason);
    assert_eq!(world.provider.refreshes(), 0);
}

#[tokio::test]
async fn a_rejected_token_stays_while_the_provider_is_away_and_the_identity_valid() {
    let world = World::new().await;
    let id = world.identity().await;
    let old = issue(&world, id, &fixtures::api_key()).await.unwrap();
    world.clock.advance(TimeDelta::seconds(31));
    world.provider.fail_next([RefreshFault::Refuse(ConnectorError::Unavailable {
        detail: "status 503".into(),
        retry_after: None,
        sent: Sent::Answered,
    })]);
    for _ in 0..3 {
        let told = report(&world, id, &old).await;
        assert!(matches!(told, Err(Error::ProviderUnavailable { .. })), "{told:?}");
    }
    // While it backs off the provider is left alone.
    assert_eq!(world.provider.refreshes(), 1);
    assert_eq!(world.find(id).await.status, IdentityStatus::Valid);
    assert_eq!(issue(&world, id, &fixtures::api_key()).await.unwrap(), old);
}

#[tokio::test]
async fn a_token_that_is_bound_says_so_and_a_proof_is_made_with_its_key() {
    let (world, id) = binding().await;
    let key = fixtures::api_key();
    let token = vending(&world).issue(id, to(&key), &TokenNeed::default()).await.unwrap();
    assert_eq!(token.token_type, DPOP);
    let dpop_key = world.stored(id).await.credentials.unwrap().dpop_key.unwrap();
    let expected = PlainProofs::text(&dpop_key, &get(), &token.access_token);
    let hash = token.access_token.hash();
    for named in [None, Some(&hash)] {
        let proof = prove(&world, id, &key, named).await.unwrap();
        assert_eq!(proof.proof.expose(), expected);
        assert_eq!(proof.access_token, hash);
    }
}

#[tokio::test]
async fn after_a_refresh_the_key_is_the_same_and_the_old_token_gets_no_more_proofs() {
    let (world, id) = binding().await;
    let key = fixtures::api_key();
    let old = issue(&world, id, &key).await.unwrap();
    let before = world.stored(id).await.credentials.unwrap();
    vending(&world).refresh(id, &key).await.unwrap();
    let after = world.stored(id).await.credentials.unwrap();
    assert_eq!(before.dpop_key, after.dpop_key);
    assert_ne!(before.access_token, after.access_token);
    let refused = prove(&world, id, &key, Some(&old)).await;
    assert!(matches!(refused, Err(Error::AccessTokenReplaced)), "{refused:?}");
    let new = issue(&world, id, &key).await.unwrap();
    assert_eq!(prove(&world, id, &key, Some(&new)).await.unwrap().access_token, new);
}

#[tokio::test]
async fn nothing_is_refreshed_for_a_proof() {
    let (world, id) = binding().await;
    world.expire();
    prove(&world, id, &fixtures::api_key(), None).await.unwrap();
    assert_eq!(world.provider.refreshes(), 0);
}

#[tokio::test]
async fn a_bearers_token_needs_no_proof_and_an_invalid_identity_gets_none() {
    let world = World::new().await;
    let key = fixtures::api_key();
    let id = world.identity().await;
    let refused = prove(&world, id, &key, None).await;
    let named = matches!(&refused, Err(Error::InvalidRequest { field, .. }) if field == "id");
    assert!(named, "{refused:?}");

    let (world, id) = binding().await;
    world.provider.end_grant("account-1");
    vending(&world).refresh(id, &key).await.unwrap_err();
    let refused = prove(&world, id, &key, None).await;
    assert!(matches!(refused, Err(Error::IdentityNotValid { .. })), "{refused:?}");
}

#[tokio::test]
async fn who_may_not_have_the_token_gets_no_proof_and_whoever_gets_one_is_in_the_ledger() {
    let (world, id) = binding().await;
    let token = world.stored(id).await.credentials.unwrap().access_token.unwrap().hash();
    let users = Some(vec![UserPattern::new("nobody").unwrap()]);
    let unseen = limited(KeyLimits { users, ..KeyLimits::NONE });
    let refused = prove(&world, id, &unseen, None).await;
    assert!(matches!(refused, Err(Error::NotFound("identity"))), "{refused:?}");
    let token_scopes = Some(vec!["another".to_owned()]);
    let less = limited(KeyLimits { token_scopes, ..KeyLimits::NONE });
    let refused = prove(&world, id, &less, None).await;
    assert!(matches!(refused, Err(Error::BeyondLimits(_))), "{refused:?}");

    let vending = vending(&world);
    let key = fixtures::api_key();
    let other = SecretHash::of("another token");
    vending.prove(id, to(&key), &get(), Some(&other)).await.unwrap_err();
    let found = async || {
        let page = PageRequest::default();
        vending.ledger.list(Some(id), Some(&token), page).await.unwrap().items
    };
    assert_eq!(found().await.len(), 0);
    vending.prove(id, to(&key), &get(), Some(&token)).await.unwrap();
    let entries = found().await;
    let [entry] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!((entry.hand_out.to.to_string().as_str(), entry.tally.times), ("api_key:1", 1));
}

#[tokio::test]
async fn a_token_that_the_provider_did_not_bind_is_handed_to_nobody_until_it_binds_again() {
    let (world, id) = binding().await;
    let key = fixtures::api_key();
    world.provider.set_binding(false);
    world.expire();
    for _ in 0..2 {
        let refused = issue(&world, id, &key).await;
        assert!(matches!(refused, Err(Error::ProviderMisconfigured { .. })), "{refused:?}");
        let refused = prove(&world, id, &key, None).await;
        assert!(matches!(refused, Err(Error::ProviderMisconfigured { .. })), "{refused:?}");
    }
    assert_eq!(vending(&world).open_for_sentry(id).await.unwrap(), None);
    // The grant is not lost: what came in its place is kept, with the key.
    assert_eq!(world.provider.refreshes(), 1);
    let stored = world.stored(id).await;
    assert_eq!((stored.status, stored.generation), (IdentityStatus::Valid, 2));

    world.provider.set_binding(true);
    vending(&world).refresh(id, &key).await.unwrap();
    let token = vending(&world).issue(id, to(&key), &TokenNeed::default()).await.unwrap();
    assert_eq!(token.token_type, DPOP);
}

#[tokio::test]
async fn a_key_that_cannot_be_read_is_for_the_operator() {
    let (world, _) = binding().await;
    let dpop_key = Some(Secret::new(PlainProofs::UNREADABLE));
    let unreadable = Credentials { dpop_key, ..world.provider.grant("account-1") };
    let id = world.identity_with(Some(unreadable)).await;
    let refused = prove(&world, id, &fixtures::api_key(), None).await;
    assert!(matches!(refused, Err(Error::ProviderMisconfigured { .. })), "{refused:?}");
}
