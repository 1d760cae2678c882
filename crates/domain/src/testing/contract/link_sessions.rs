//! [`LinkSessionRepository`](crate::ports::LinkSessionRepository).

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use serde_json::json;

use super::{PATIENCE, Store, events, kinds, link, linked, now, provider, race};
use crate::{
    account::ExternalAccount,
    event::{Actor, EventKind},
    ids::{LinkSessionId, ProviderId},
    link_session::{
        Attempt, AttemptProof, CompletionClaim, LinkFailure, LinkSession, LinkSessionStatus,
        NewLinkSession, PendingLink, Purpose,
    },
    ports::{Link, LinkOutcome, LinkOwner, RepositoryError},
    secret::{Secret, SecretHash},
    testing::fixtures,
};

/// The same, for a user and for a reason.
fn on_behalf(actor: Actor) -> Actor {
    Actor { acting_user: Some(fixtures::user("ü")), ..actor.because("because she asked") }
}

/// A session is found as it was inserted, by its id and by its token.
pub async fn a_session_is_found_by_id_and_token(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let sparse = LinkSession { provider_id: None, user_id: None, ..live_session(provider) };
    let full = LinkSession {
        purpose: Purpose::SignIn,
        organization_id: Some(fixtures::organization("org-1")),
        return_url: "https://product.example/ü?a=b&c#d".into(),
        scopes: vec!["openid".into(), "a:b/c".into()],
        login_hint: Some("ada@example".into()),
        reattach: true,
        auto_complete: true,
        created_by: on_behalf(Actor::replica("replica-1")),
        ..live_session(provider)
    };
    for (name, session) in [("sparse", sparse), ("full", full)] {
        let new = under_token(name, session.clone());
        let inserted = store.sessions().insert(&new).await.unwrap();
        assert_eq!(inserted, LinkSession { id: inserted.id, ..session });
        let found = store.sessions().find(inserted.id).await.unwrap();
        assert_eq!(found.as_ref(), Some(&inserted));
        let found = store.sessions().find_by_token(&new.token).await.unwrap();
        assert_eq!(found.as_ref(), Some(&inserted));
    }
    assert_eq!(kinds(store).await, []);
}

/// A session that is not there is absent, whatever is asked of it.
pub async fn a_session_that_is_not_there_is_absent(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let (sessions, id) = (store.sessions(), LinkSessionId(4_711));
    let (trip, claim) = (trip("none", provider), claim(id, "none"));
    assert_eq!(sessions.find(id).await.unwrap(), None);
    assert_eq!(sessions.find_by_token(&SecretHash::of("none")).await.unwrap(), None);
    assert!(!sessions.begin(id, &trip).await.unwrap());
    assert_eq!(sessions.find_by_state(&trip.state).await.unwrap(), None);
    assert_eq!(sessions.take_attempt(&trip.state, &trip.browser).await.unwrap(), None);
    assert!(!sessions.await_completion(&claim, &pending_link(provider)).await.unwrap());
    assert_eq!(sessions.find_pending(&claim).await.unwrap(), None);
    assert!(!sessions.fail(id, LinkFailure::Untrusted).await.unwrap());
    assert_eq!(sessions.expire().await.unwrap(), 0);
    assert_eq!(kinds(store).await, []);
}

/// A token is taken once.
pub async fn the_token_of_a_session_is_taken_once(store: &Arc<dyn Store>) {
    let new = under_token("one", live_session(provider(store, "p").await));
    let first = store.sessions().insert(&new).await.unwrap();
    let second = store.sessions().insert(&new).await;
    assert!(matches!(second, Err(RepositoryError::Conflict)), "{second:?}");
    assert_eq!(store.sessions().find_by_token(&new.token).await.unwrap(), Some(first));
}

/// A trip belongs to the browser that began it: no other begins one, or uses it up.
pub async fn a_trip_belongs_to_the_browser_that_began_it(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let session = insert(store, "s", live_session(provider)).await;
    let (own, other) = (trip("own", provider), trip("other", provider));
    let sessions = store.sessions();
    assert!(sessions.begin(session.id, &own).await.unwrap());
    assert!(!sessions.begin(session.id, &other).await.unwrap());
    assert_eq!(sessions.find_by_state(&other.state).await.unwrap(), None);
    assert_eq!(sessions.take_attempt(&own.state, &other.browser).await.unwrap(), None);
    assert_eq!(sessions.take_attempt(&other.state, &own.browser).await.unwrap(), None);

    let proof = sessions.take_attempt(&own.state, &own.browser).await.unwrap();
    assert_eq!(proof, Some(own.proof));
}

/// Of racing browsers, exactly one begins the trip.
pub async fn of_racing_browsers_one_begins_the_trip(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let id = insert(store, "s", live_session(provider)).await.id;
    let begun = race(16, |racer| {
        let (store, trip) = (store.clone(), trip(&racer.to_string(), provider));
        async move { store.sessions().begin(id, &trip).await.unwrap() }
    })
    .await;
    let winners: Vec<_> = (0..16).filter(|racer| begun[*racer]).collect();
    let [winner] = winners.as_slice() else { panic!("{winners:?} have begun") };
    let found = store.sessions().find_by_state(&trip(&winner.to_string(), provider).state).await;
    assert_eq!(found.unwrap().unwrap().0.id, id);
}

/// A trip begun again by the same browser replaces the one before: its state is good for nothing.
pub async fn a_trip_begun_again_replaces_the_one_before(store: &Arc<dyn Store>) {
    let (first, second) = (provider(store, "p").await, provider(store, "q").await);
    let session = insert(store, "s", live_session(first)).await;
    let old = trip("old", first);
    let new = Attempt {
        browser: old.browser,
        proof: AttemptProof {
            code_verifier: Secret::new("v2"),
            nonce: Secret::new("n2"),
            dpop_key: Some(Secret::new("k2")),
        },
        ..trip("new", second)
    };
    let sessions = store.sessions();
    for trip in [&old, &new] {
        assert!(sessions.begin(session.id, trip).await.unwrap());
    }
    assert_eq!(sessions.find_by_state(&old.state).await.unwrap(), None);
    assert_eq!(sessions.take_attempt(&old.state, &old.browser).await.unwrap(), None);

    let found = sessions.find_by_state(&new.state).await.unwrap();
    assert_eq!(found, Some((session, second, new.browser)));
    let proof = sessions.take_attempt(&new.state, &new.browser).await.unwrap();
    assert_eq!(proof, Some(new.proof));
}

/// Finding a session by its state does not use up the trip, and a used one is still found.
pub async fn finding_a_session_by_its_state_does_not_use_it_up(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let session = insert(store, "s", live_session(provider)).await;
    let trip = trip("s", provider);
    let sessions = store.sessions();
    assert!(sessions.begin(session.id, &trip).await.unwrap());
    let found = Some((session, provider, trip.browser));
    for _ in 0..2 {
        assert_eq!(sessions.find_by_state(&trip.state).await.unwrap(), found);
    }
    assert!(sessions.take_attempt(&trip.state, &trip.browser).await.unwrap().is_some());
    assert_eq!(sessions.find_by_state(&trip.state).await.unwrap(), found);
}

/// Of racing callbacks, exactly one gets the proof, and the trip is not begun again.
pub async fn of_racing_callbacks_one_gets_the_proof(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let session = insert(store, "s", live_session(provider)).await;
    let trip = trip("s", provider);
    assert!(store.sessions().begin(session.id, &trip).await.unwrap());
    let (state, browser) = (trip.state, trip.browser);
    let proofs = race(32, |_| {
        let store = store.clone();
        async move { store.sessions().take_attempt(&state, &browser).await.unwrap() }
    })
    .await;
    let proofs: Vec<_> = proofs.into_iter().flatten().collect();
    let [proof] = proofs.as_slice() else { panic!("{} got the proof", proofs.len()) };
    assert_eq!(*proof, trip.proof);
    assert!(!store.sessions().begin(session.id, &trip).await.unwrap());
}

/// A session waits for completion only once its trip was used up, and once.
pub async fn a_session_waits_only_after_its_trip_and_once(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let (sessions, link) = (store.sessions(), pending_link(provider));
    let session = insert(store, "s", live_session(provider)).await;
    let (trip, first) = (trip("s", provider), claim(session.id, "first"));
    assert!(!sessions.await_completion(&first, &link).await.unwrap(), "no trip");
    assert!(sessions.begin(session.id, &trip).await.unwrap());
    assert!(!sessions.await_completion(&first, &link).await.unwrap(), "not used up");
    assert_eq!(sessions.find_pending(&first).await.unwrap(), None);
    assert!(sessions.take_attempt(&trip.state, &trip.browser).await.unwrap().is_some());
    assert_eq!(status(store, session.id).await, LinkSessionStatus::Pending);

    assert!(sessions.await_completion(&first, &link).await.unwrap());
    let second = claim(session.id, "second");
    assert!(!sessions.await_completion(&second, &link).await.unwrap(), "it waits already");
    assert_eq!(sessions.find_pending(&second).await.unwrap(), None);
    let waiting = LinkSession { status: LinkSessionStatus::AwaitingCompletion, ..session.clone() };
    assert_eq!(sessions.find_pending(&first).await.unwrap(), Some((waiting, link)));
    assert!(!sessions.begin(session.id, &trip).await.unwrap());
}

/// Of racing callbacks that would make a session wait, one does, and its code is the one.
pub async fn of_racing_codes_one_opens_the_session(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let id = used_trip(store, "s", live_session(provider)).await.id;
    let kept =
        race(16, |racer| {
            let (store, claim) = (store.clone(), claim(id, &racer.to_string()));
            async move {
                store.sessions().await_completion(&claim, &pending_link(provider)).await.unwrap()
            }
        })
        .await;
    for (racer, kept) in kept.iter().enumerate() {
        let found = store.sessions().find_pending(&claim(id, &racer.to_string())).await.unwrap();
        assert_eq!(found.is_some(), *kept);
    }
    assert_eq!(kept.into_iter().filter(|it| *it).count(), 1);
}

/// What waits is found by whoever has the code, as often as asked, and by nobody else.
pub async fn what_waits_is_found_by_whoever_has_the_code(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let session = used_trip(store, "s", live_session(provider)).await;
    let own = claim(session.id, "s");
    let link = PendingLink {
        account: ExternalAccount {
            legacy_id: Some(fixtures::external_id("old")),
            email: Some("ada@example".into()),
            email_verified: true,
            claims: fixtures::object(json!({ "groups": ["ü", null] })),
            ..fixtures::account()
        },
        ..pending_link(provider)
    };
    assert!(store.sessions().await_completion(&own, &link).await.unwrap());
    let other = waiting(store, "other", live_session(provider)).await;
    for _ in 0..2 {
        let (found, pending) = store.sessions().find_pending(&own).await.unwrap().unwrap();
        assert_eq!((found.id, pending), (session.id, link.clone()));
    }
    for wrong in [claim(own.id, "wrong"), CompletionClaim { code: other.code, ..own }] {
        assert_eq!(store.sessions().find_pending(&wrong).await.unwrap(), None);
    }
}

/// A failed session drops what it held, keeps the first reason, and is told of once, in the name
/// of whoever created it, for whom and why.
pub async fn a_failed_session_drops_what_it_held(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let session = LinkSession {
        organization_id: Some(fixtures::organization("org-1")),
        created_by: on_behalf(Actor::OPERATOR),
        ..live_session(provider)
    };
    let pending = insert(store, "pending", session.clone()).await.id;
    let used = used_trip(store, "used", session.clone()).await.id;
    let waits = waiting(store, "waits", session.clone()).await;
    let unlinked = waiting(store, "unlinked", session.clone()).await;
    let outcome = store.identities().link(&sign_in(provider, unlinked)).await.unwrap();
    assert_eq!(outcome, LinkOutcome::NobodyLinked);

    for id in [pending, used, waits.id, unlinked.id] {
        let told = kinds(store).await.len();
        assert!(store.sessions().fail(id, LinkFailure::AccessDenied).await.unwrap());
        assert!(!store.sessions().fail(id, LinkFailure::Untrusted).await.unwrap());

        let failed = LinkSession {
            id,
            status: LinkSessionStatus::Failed,
            error: Some(LinkFailure::AccessDenied),
            ..session.clone()
        };
        assert_eq!(store.sessions().find(id).await.unwrap(), Some(failed));
        let told = events(store).await.split_off(told);
        let [event] = told.as_slice() else { panic!("{told:?}") };
        let by = on_behalf(Actor::OPERATOR);
        assert_eq!((event.about, &event.actor), (EventKind::LinkSessionFailed, &by));
        assert_eq!((event.provider_id, &event.user_id), (Some(provider), &session.user_id));
        assert_eq!(event.detail["error"], "access_denied");
        assert_eq!(event.organization_id, Some(fixtures::organization("org-1")));
    }
    for claim in [waits, unlinked] {
        assert_eq!(store.sessions().find_pending(&claim).await.unwrap(), None);
        let outcome = store.identities().link(&sign_in(provider, claim)).await.unwrap();
        assert_eq!(outcome, LinkOutcome::SessionUsed);
    }
    let state = trip("used", provider).state;
    assert_eq!(store.sessions().find_by_state(&state).await.unwrap(), None);
    let again = store.sessions().begin(pending, &trip("again", provider)).await.unwrap();
    assert!(!again, "a failed session is not begun");
}

/// A session that was inserted too late reads as expired, and nothing can be done with it.
pub async fn a_session_that_comes_too_late_is_expired(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let session = insert(store, "s", past_session(provider)).await;
    assert_eq!(session.status, LinkSessionStatus::Expired);
    let trip = trip("s", provider);
    assert!(!store.sessions().begin(session.id, &trip).await.unwrap());
    assert_eq!(store.sessions().find_by_state(&trip.state).await.unwrap(), None);
    assert!(!store.sessions().fail(session.id, LinkFailure::AccessDenied).await.unwrap());
    assert_eq!(kinds(store).await, []);
}

/// Sessions of the same age, each in another state.
struct RunningOut {
    begun: (LinkSessionId, Attempt),
    used: LinkSessionId,
    waits: CompletionClaim,
    unlinked: CompletionClaim,
    linked: LinkSessionId,
    failed: LinkSessionId,
}

impl RunningOut {
    /// `None` when they ran out before all of them were there.
    async fn new(store: &Arc<dyn Store>, provider: ProviderId, age: TimeDelta) -> Option<Self> {
        let sessions = store.sessions();
        let session = LinkSession { expires_at: now() + age, ..live_session(provider) };
        let insert = async |name: &str| {
            let name = format!("{name} {age}");
            let id = insert(store, &name, session.clone()).await.id;
            let trip = trip(&name, provider);
            sessions.begin(id, &trip).await.unwrap().then_some((id, trip))
        };
        let use_up = async |name| {
            let (id, trip) = insert(name).await?;
            let proof = sessions.take_attempt(&trip.state, &trip.browser).await.unwrap();
            proof.map(|_| id)
        };
        let wait = async |name| {
            let claim = claim(use_up(name).await?, name);
            let kept = sessions.await_completion(&claim, &pending_link(provider)).await.unwrap();
            kept.then_some(claim)
        };
        let begun = insert("begun").await?;
        let used = use_up("used").await?;
        let waits = wait("waits").await?;
        let unlinked = wait("unlinked").await?;
        let outcome = store.identities().link(&sign_in(provider, unlinked)).await.unwrap();
        if outcome != LinkOutcome::NobodyLinked {
            return None;
        }
        let completed = wait("linked").await?;
        let asked = Link { session: Some(completed), ..link(provider, "other", "other") };
        if store.identities().link(&asked).await.unwrap() == LinkOutcome::SessionUsed {
            return None;
        }
        let failed = use_up("failed").await?;
        sessions.fail(failed, LinkFailure::AccessDenied).await.unwrap().then_some(Self {
            begun,
            used,
            waits,
            unlinked,
            linked: completed.id,
            failed,
        })
    }
}

/// A session whose time ran out reads as expired from every method, and nothing can be done with
/// it; an end stays what it is.
pub async fn a_session_that_ran_out_is_expired_everywhere(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    // On a slow machine the first ones are over before they are all there.
    let mut ages = [500, 2_000, 8_000, 16_000].into_iter().map(TimeDelta::milliseconds);
    let RunningOut { begun, used, waits, unlinked, linked, failed } = loop {
        let age = ages.next().unwrap();
        if let Some(all) = RunningOut::new(store, provider, age).await {
            break all;
        }
    };
    let (begun, trip) = begun;
    let ran_out = async {
        while status(store, begun).await != LinkSessionStatus::Expired {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ran_out).await.unwrap();
    let told = kinds(store).await;
    let sessions = store.sessions();

    for id in [begun, used, waits.id, unlinked.id] {
        assert_eq!(status(store, id).await, LinkSessionStatus::Expired);
        assert!(!sessions.fail(id, LinkFailure::AccessDenied).await.unwrap());
    }
    let (found, _, _) = sessions.find_by_state(&trip.state).await.unwrap().unwrap();
    assert_eq!((found.id, found.status), (begun, LinkSessionStatus::Expired));
    assert!(!sessions.begin(begun, &trip).await.unwrap());
    assert_eq!(sessions.take_attempt(&trip.state, &trip.browser).await.unwrap(), None);
    let late = claim(used, "late");
    assert!(!sessions.await_completion(&late, &pending_link(provider)).await.unwrap());
    for claim in [waits, unlinked] {
        assert_eq!(sessions.find_pending(&claim).await.unwrap(), None);
        let asked = Link { session: Some(claim), ..link(provider, "late", "late") };
        let outcome = store.identities().link(&asked).await.unwrap();
        assert_eq!(outcome, LinkOutcome::SessionUsed);
    }

    assert!(sessions.expire().await.unwrap() >= 4);
    assert_eq!(sessions.expire().await.unwrap(), 0, "each once");
    assert_eq!(sessions.find_by_state(&trip.state).await.unwrap(), None, "it was dropped");
    assert_eq!(status(store, begun).await, LinkSessionStatus::Expired);
    assert_eq!(status(store, linked).await, LinkSessionStatus::Linked);
    assert_eq!(status(store, failed).await, LinkSessionStatus::Failed);
    assert_eq!(kinds(store).await, told);
}

/// Expiring marks what has run out, counts each once, and leaves alone what lives.
pub async fn expiring_counts_what_has_run_out_once(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    for name in ["a", "b", "c"] {
        insert(store, name, past_session(provider)).await;
    }
    let live = waiting(store, "live", live_session(provider)).await;
    assert_eq!(store.sessions().expire().await.unwrap(), 3);
    assert_eq!(store.sessions().expire().await.unwrap(), 0);
    assert!(store.sessions().find_pending(&live).await.unwrap().is_some());
    let found = store.sessions().find_by_token(&SecretHash::of("token a")).await.unwrap();
    assert_eq!(found.unwrap().status, LinkSessionStatus::Expired);
    assert_eq!(kinds(store).await, []);
}

/// A session stands in nobody's way: its provider can be deleted and its identity unlinked.
pub async fn a_session_stands_in_nobodys_way(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let claim = waiting(store, "linked", live_session(provider)).await;
    waiting(store, "waits", live_session(provider)).await;
    let asked = Link { session: Some(claim), ..link(provider, "u", "a") };
    let identity = linked(store, &asked).await;

    let gone = super::unlink(store, identity.id).await;
    assert!(gone.is_some());
    let found = store.sessions().find(claim.id).await.unwrap().unwrap();
    assert_eq!(found.status, LinkSessionStatus::Linked);
    let deleted = store.providers().delete(provider, false, &fixtures::ACTOR).await.unwrap();
    assert_eq!(deleted, crate::ports::ProviderDeletion::Deleted(0));
}

/// A pending session that lives as long as a test runs.
pub(super) fn live_session(provider_id: ProviderId) -> LinkSession {
    LinkSession {
        provider_id: Some(provider_id),
        created_at: now(),
        expires_at: now() + TimeDelta::minutes(10),
        ..fixtures::link_session()
    }
}

/// A session to be kept, under the token of this name.
pub(super) fn under_token(name: &str, session: LinkSession) -> NewLinkSession {
    NewLinkSession { session, token: SecretHash::of(&format!("token {name}")) }
}

/// A trip whose state and browser have this name.
pub(super) fn trip(name: &str, provider_id: ProviderId) -> Attempt {
    Attempt {
        provider_id,
        browser: SecretHash::of(&format!("browser {name}")),
        state: SecretHash::of(&format!("state {name}")),
        ..fixtures::attempt()
    }
}

/// The session after its trip was used up: the browser is back, and the provider not asked yet.
pub(super) async fn used_trip(
    store: &Arc<dyn Store>,
    name: &str,
    session: LinkSession,
) -> LinkSession {
    let attempt = trip(name, session.provider_id.unwrap());
    let session = insert(store, name, session).await;
    assert!(store.sessions().begin(session.id, &attempt).await.unwrap());
    let proof = store.sessions().take_attempt(&attempt.state, &attempt.browser).await.unwrap();
    assert_eq!(proof, Some(attempt.proof));
    session
}

/// A session that waits for completion, and who may complete it.
pub(super) async fn waiting(
    store: &Arc<dyn Store>,
    name: &str,
    session: LinkSession,
) -> CompletionClaim {
    let link = pending_link(session.provider_id.unwrap());
    let session = used_trip(store, name, session).await;
    let claim = claim(session.id, name);
    assert!(store.sessions().await_completion(&claim, &link).await.unwrap());
    claim
}

/// The right to complete a session with the code of this name.
pub(super) fn claim(id: LinkSessionId, name: &str) -> CompletionClaim {
    CompletionClaim { id, code: SecretHash::of(&format!("code {name}")) }
}

/// What every session of these cases waits with.
pub(super) fn pending_link(provider_id: ProviderId) -> PendingLink {
    PendingLink { provider_id, ..fixtures::pending_link() }
}

/// A sign-in with the account that every session waits with.
pub(super) fn sign_in(provider_id: ProviderId, claim: CompletionClaim) -> Link {
    let owner = LinkOwner::Whoever;
    Link { owner, session: Some(claim), ..link(provider_id, "nobody", "account-1") }
}

/// How far a session got.
pub(super) async fn status(store: &Arc<dyn Store>, id: LinkSessionId) -> LinkSessionStatus {
    store.sessions().find(id).await.unwrap().unwrap().status
}

async fn insert(store: &Arc<dyn Store>, name: &str, session: LinkSession) -> LinkSession {
    store.sessions().insert(&under_token(name, session)).await.unwrap()
}

/// A session whose time ran out before it came.
fn past_session(provider_id: ProviderId) -> LinkSession {
    let expires_at = now() - TimeDelta::minutes(10);
    LinkSession { expires_at, ..live_session(provider_id) }
}
