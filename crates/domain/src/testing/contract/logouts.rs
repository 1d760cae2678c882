//! [`LogoutRepository`](crate::ports::LogoutRepository).

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use serde_json::json;

use super::{
    LONG, Store, auth_identities::account, auth_providers::single_sign_on, end_invalid, events,
    lease, link, linked, now, provider, race, unlink,
};
use crate::{
    credentials::Credentials,
    event::EventKind,
    ids::{IdentityId, ProviderId},
    link_evidence::{IdTokenEvidence, LinkEvidence, LinkMethod},
    ports::{
        BackOff, FailureClass, Link, LinkOwner, LogoutOutcome, ProviderLogout, RefreshClaim,
        RefreshEnd, SsoSignIn,
    },
    secret::SecretHash,
    testing::fixtures::{self, external_id},
};

/// The provider's word about this account, in a token of its own.
fn logout(provider_id: ProviderId, account: &str, token: &str) -> ProviderLogout {
    ProviderLogout {
        provider_id,
        external_id: Some(external_id(account)),
        session_id: Some("session-1".into()),
        token: SecretHash::of(token),
        forget_at: now() + TimeDelta::hours(1),
        refresh_within: Duration::ZERO,
        actor: fixtures::ACTOR.because("the provider said so"),
    }
}

async fn log_out(store: &Arc<dyn Store>, logout: &ProviderLogout) -> LogoutOutcome {
    store.logouts().log_out(logout).await.unwrap()
}

/// A logout tells of the identity and of its place in each organization's single sign-on with the
/// instance, and of no other account and no other instance; the links stay as they were.
pub async fn a_logout_tells_of_every_link_of_the_account_and_of_no_other(store: &Arc<dyn Store>) {
    let (meant, other) = (provider(store, "meant").await, provider(store, "other").await);
    let identity = linked(store, &link(meant, "ada", "a")).await;
    linked(store, &link(meant, "grace", "b")).await;
    linked(store, &link(other, "ada", "a")).await;
    let (one, two) =
        (single_sign_on(store, "one", meant).await, single_sign_on(store, "two", meant).await);
    let elsewhere = single_sign_on(store, "elsewhere", other).await;
    let accounts =
        [account(store, &one, "ada", "a").await, account(store, &two, "ada-2", "a").await];
    account(store, &one, "grace", "b").await;
    account(store, &elsewhere, "ada", "a").await;
    let before = events(store).await.len();

    let word = logout(meant, "a", "t");
    assert_eq!(log_out(store, &word).await, LogoutOutcome::Told(3));

    let told = events(store).await.split_off(before);
    let [of_identity, of_one, of_two] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(of_identity.about, EventKind::IdentityLoggedOut);
    assert_eq!(of_identity.identity_id, Some(identity.id));
    assert_eq!(of_identity.user_id, Some(identity.user_id.clone()));
    assert_eq!(of_identity.detail, fixtures::object(json!({"session_id": "session-1"})));
    for ((event, account), of) in [of_one, of_two].into_iter().zip(&accounts).zip([&one, &two]) {
        assert_eq!(event.about, EventKind::AuthIdentityLoggedOut);
        assert_eq!(event.user_id.as_ref(), Some(&account.user_id));
        assert_eq!(event.organization_id.as_ref(), Some(&of.organization_id));
        let detail = json!({"auth_identity_id": account.id.0, "session_id": "session-1"});
        assert_eq!(event.detail, fixtures::object(detail));
    }
    for event in &told {
        assert_eq!(event.provider_id, Some(meant));
        assert_eq!(event.actor, word.actor);
    }
    let found = store.identities().find(identity.id).await.unwrap();
    assert_eq!(found, Some(identity));
    let found = store.auth_identities().find(accounts[0].id).await.unwrap();
    assert_eq!(found.as_ref(), Some(&accounts[0]));

    // Without a session none is told of.
    let word = ProviderLogout { session_id: None, ..logout(meant, "b", "u") };
    assert_eq!(log_out(store, &word).await, LogoutOutcome::Told(2));
    let told = events(store).await.split_off(before + 3);
    assert!(told.iter().all(|it| !it.detail.contains_key("session_id")), "{told:?}");
}

/// A logout of an account that nobody has linked tells nobody, and its token counts all the same.
pub async fn a_logout_of_an_account_that_nobody_linked_is_taken_and_tells_nobody(
    store: &Arc<dyn Store>,
) {
    let provider = provider(store, "p").await;
    linked(store, &link(provider, "ada", "a")).await;
    let before = events(store).await.len();
    let word = logout(provider, "A", "t");
    assert_eq!(log_out(store, &word).await, LogoutOutcome::Told(0));
    assert_eq!(log_out(store, &word).await, LogoutOutcome::Replayed);
    assert_eq!(events(store).await.len(), before);
}

/// The provider's word about a session alone.
fn session_over(provider_id: ProviderId, session: &str, token: &str) -> ProviderLogout {
    let session_id = Some(session.to_owned());
    ProviderLogout { external_id: None, session_id, ..logout(provider_id, "nobody", token) }
}

/// A link that began with this session at the provider.
fn link_in(provider: ProviderId, user: &str, account: &str, session: &str) -> Link {
    let id_token = Some(IdTokenEvidence { sid: Some(session.to_owned()), ..Default::default() });
    let evidence = LinkEvidence { id_token, ..LinkEvidence::of(LinkMethod::Browser) };
    Link { evidence, ..link(provider, user, account) }
}

/// A logout that names a session alone tells of every account that was linked or signed in with it
/// at that instance, and of no other; each time it is another session, all of them count.
pub async fn a_logout_of_a_session_alone_tells_of_every_account_that_began_with_it(
    store: &Arc<dyn Store>,
) {
    let (meant, other) = (provider(store, "meant").await, provider(store, "other").await);
    let ada = linked(store, &link_in(meant, "ada", "a", "s")).await;
    let grace = linked(store, &link_in(meant, "grace", "b", "s")).await;
    linked(store, &link_in(meant, "alan", "c", "another")).await;
    linked(store, &link(meant, "edsger", "d")).await;
    linked(store, &link_in(other, "ada", "a", "s")).await;
    // Linked again in another session, and signed in in a third: the first goes on.
    linked(store, &link_in(meant, "ada", "a", "s-2")).await;
    linked(store, &Link { owner: LinkOwner::Whoever, ..link_in(meant, "nobody", "a", "s-3") })
        .await;
    let of = single_sign_on(store, "o", meant).await;
    let signed_in = account(store, &of, "barbara", "e").await;
    let again = SsoSignIn {
        auth_provider_id: of.id,
        ident: external_id("e"),
        user: None,
        provider_session: Some("s".into()),
        ..fixtures::sso_sign_in()
    };
    store.auth_identities().sign_in(&again).await.unwrap();

    let before = events(store).await.len();
    let word = session_over(meant, "s", "t");
    assert_eq!(log_out(store, &word).await, LogoutOutcome::Told(3));
    let told = events(store).await.split_off(before);
    let mut of_identities = Vec::new();
    for event in &told {
        assert_eq!(event.detail["session_id"], "s");
        assert_eq!((event.provider_id, &event.actor), (Some(meant), &word.actor));
        match event.about {
            EventKind::IdentityLoggedOut => of_identities.extend(event.identity_id),
            _ => assert_eq!(event.detail["auth_identity_id"], signed_in.id.0, "{event:?}"),
        }
    }
    of_identities.sort();
    assert_eq!(of_identities, [ada.id, grace.id]);
    for (session, told) in [("s-2", 1), ("s-3", 1), ("nobody's", 0), ("S", 0)] {
        let word = session_over(meant, session, session);
        assert_eq!(log_out(store, &word).await, LogoutOutcome::Told(told), "{session}");
    }
    let elsewhere = session_over(other, "s", "t");
    assert_eq!(log_out(store, &elsewhere).await, LogoutOutcome::Told(1));
}

/// A session that ended is not remembered, whether or not the logout named the account; one that
/// goes on is, whatever is forgotten.
pub async fn a_session_that_ended_is_not_remembered(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    for session in ["s", "u", "v"] {
        linked(store, &link_in(provider, "ada", "a", session)).await;
    }
    let by_account =
        ProviderLogout { session_id: Some("u".into()), ..logout(provider, "a", "by account") };
    assert_eq!(log_out(store, &by_account).await, LogoutOutcome::Told(1));
    assert_eq!(store.logouts().forget_sessions().await.unwrap(), 0);
    for (token, session, told) in
        [("1", "s", 1), ("2", "s", 0), ("3", "u", 0), ("4", "v", 1), ("5", "v", 0)]
    {
        let word = session_over(provider, session, token);
        assert_eq!(log_out(store, &word).await, LogoutOutcome::Told(told), "{session}");
    }
    // An account that is gone is told of to nobody.
    let identity = linked(store, &link_in(provider, "ada", "a", "w")).await;
    unlink(store, identity.id).await;
    let word = session_over(provider, "w", "6");
    assert_eq!(log_out(store, &word).await, LogoutOutcome::Told(0));
}

/// A token counts once, whatever it says the second time, until its time to be forgotten has come;
/// another instance's token of the same name is another.
pub async fn a_logout_token_counts_once_until_it_is_forgotten(store: &Arc<dyn Store>) {
    let (provider, other) = (provider(store, "p").await, provider(store, "q").await);
    linked(store, &link(provider, "ada", "a")).await;
    linked(store, &link(provider, "grace", "b")).await;
    let long = logout(provider, "a", "long");
    let short = ProviderLogout { forget_at: now(), ..logout(provider, "a", "short") };
    for word in [&long, &short, &logout(provider, "a", "another")] {
        assert_eq!(log_out(store, word).await, LogoutOutcome::Told(1));
    }
    let before = events(store).await.len();
    for again in [&long, &short, &logout(provider, "b", "long")] {
        assert_eq!(log_out(store, again).await, LogoutOutcome::Replayed);
    }
    assert_eq!(events(store).await.len(), before);
    assert_eq!(log_out(store, &logout(other, "a", "long")).await, LogoutOutcome::Told(0));

    assert_eq!(store.logouts().forget_tokens().await.unwrap(), 1);
    assert_eq!(store.logouts().forget_tokens().await.unwrap(), 0);
    assert_eq!(log_out(store, &long).await, LogoutOutcome::Replayed);
    assert_eq!(log_out(store, &short).await, LogoutOutcome::Told(1));
}

/// Of many that bring one token at the same time, one is told, and there is one event.
pub async fn of_racing_logouts_with_one_token_one_is_taken(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    linked(store, &link(provider, "ada", "a")).await;
    let word = logout(provider, "a", "t");
    let outcomes = race(8, |_| {
        let (store, word) = (store.clone(), word.clone());
        async move { store.logouts().log_out(&word).await.unwrap() }
    })
    .await;
    let told = outcomes.iter().filter(|it| **it == LogoutOutcome::Told(1)).count();
    let replayed = outcomes.iter().filter(|it| **it == LogoutOutcome::Replayed).count();
    assert_eq!((told, replayed), (1, 7), "{outcomes:?}");
    let all = events(store).await;
    let told = all.iter().filter(|it| it.about == EventKind::IdentityLoggedOut).count();
    assert_eq!(told, 1);
}

/// Credentials are due within the time that a logout says, also where nothing was planned; but not
/// what was granted for the user's absence, cannot be refreshed, is invalid, backs off, or is
/// another's.
pub async fn a_logout_makes_credentials_due_that_may_have_ended_with_it(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let long_lived = Credentials {
        expires_at: Some(now() + TimeDelta::hours(1)),
        obtained_at: Some(now()),
        ..fixtures::credentials()
    };
    // No refresh is planned for what says nothing of its end.
    let endless = Credentials { expires_at: None, ..fixtures::credentials() };
    let no_token = Credentials { refresh_token: None, ..long_lived.clone() };
    let mut ids = Vec::new();
    for (name, credentials, scopes) in [
        ("due", &long_lived, &["openid"][..]),
        ("endless", &endless, &[]),
        ("absent", &long_lived, &["openid", "offline_access"]),
        ("no token", &no_token, &["openid"]),
        ("invalid", &long_lived, &["openid"]),
        ("backs off", &long_lived, &["openid"]),
        ("another", &long_lived, &["openid"]),
    ] {
        let link = Link {
            credentials: Some(credentials.clone()),
            scopes: scopes.iter().map(|it| (*it).to_owned()).collect(),
            ..link(provider, name, name)
        };
        ids.push(linked(store, &link).await.id);
    }
    while store.refresh_schedule().plan_missing(200).await.unwrap() > 0 {}
    store.credentials().end(&lease(store, ids[4]).await, &end_invalid()).await.unwrap();
    let back_off = BackOff {
        until: now() + TimeDelta::hours(1),
        class: FailureClass::Unavailable,
        failures: 1,
        detail: "no answer".into(),
    };
    let failed = RefreshEnd::Failed { back_off, answered: true };
    store.credentials().end(&lease(store, ids[5]).await, &failed).await.unwrap();
    assert_eq!(due(store, provider).await, []);

    for name in ["due", "endless", "absent", "no token", "invalid", "backs off"] {
        let word = logout(provider, name, name);
        assert_eq!(log_out(store, &word).await, LogoutOutcome::Told(1));
    }
    let mut found = due(store, provider).await;
    found.sort();
    assert_eq!(found, ids[..2]);

    // What is within a time is not due before it, and what is due before stays so.
    let later = ProviderLogout { refresh_within: LONG, ..logout(provider, "another", "later") };
    assert_eq!(log_out(store, &later).await, LogoutOutcome::Told(1));
    assert_eq!(due(store, provider).await, []);
    assert_eq!(log_out(store, &logout(provider, "another", "now")).await, LogoutOutcome::Told(1));
    let later = ProviderLogout { refresh_within: LONG, ..logout(provider, "another", "again") };
    assert_eq!(log_out(store, &later).await, LogoutOutcome::Told(1));
    assert_eq!(due(store, provider).await, ids[6..]);
}

/// What is due, claimed for as long as a test runs.
async fn due(store: &Arc<dyn Store>, provider_id: ProviderId) -> Vec<IdentityId> {
    let claim = RefreshClaim {
        provider_id,
        limit: 200,
        time: LONG,
        per_second: 1000,
        urgent_for: Duration::from_mins(5),
    };
    let due = store.refresh_schedule().claim_due(&claim).await.unwrap();
    due.iter().map(|it| it.identity_id).collect()
}
