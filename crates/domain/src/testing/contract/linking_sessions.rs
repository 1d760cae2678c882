//! [`link`](crate::ports::IdentityRepository::link) and the session that it completes.

use std::sync::Arc;

use super::{
    Store, claim, credentials_of, events, kinds, link, linked, live_session, pending_link,
    provider, race, sign_in, status, used_trip, waiting,
};
use crate::{
    event::EventKind,
    identity::IdentityFilter,
    ids::LinkSessionId,
    link_session::{CompletionClaim, LinkFailure, LinkSession, LinkSessionStatus},
    ports::{Link, LinkOutcome, Taken},
    testing::fixtures,
};

/// A link completes its session once: it is linked, names the identity, and holds nothing more.
pub async fn a_link_completes_its_session_once(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let claim = waiting(store, "s", live_session(provider)).await;
    let before = store.sessions().find(claim.id).await.unwrap().unwrap();
    let asked = Link { session: Some(claim), ..link(provider, "u", "a") };
    let identity = linked(store, &asked).await;

    let completed =
        LinkSession { status: LinkSessionStatus::Linked, identity_id: Some(identity.id), ..before };
    assert_eq!(store.sessions().find(claim.id).await.unwrap(), Some(completed.clone()));
    assert_eq!(store.sessions().find_pending(&claim).await.unwrap(), None);
    assert!(!store.sessions().fail(claim.id, LinkFailure::Untrusted).await.unwrap());

    let again = store.identities().link(&asked).await.unwrap();
    assert_eq!(again, LinkOutcome::SessionUsed);
    assert_eq!(store.identities().find(identity.id).await.unwrap(), Some(identity));
    assert_eq!(store.sessions().find(claim.id).await.unwrap(), Some(completed));
    assert_eq!(kinds(store).await, [EventKind::IdentityLinked]);
}

/// A link completes its session whatever becomes of it, if something does: also one that updates
/// or rebinds a row.
pub async fn an_update_and_a_rebinding_complete_the_session_too(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let first = linked(store, &link(provider, "u", "a")).await;
    for (name, user) in [("update", "u"), ("rebinding", "v")] {
        let claim = waiting(store, name, live_session(provider)).await;
        let asked = Link { session: Some(claim), reattach: true, ..link(provider, user, "a") };
        assert_eq!(linked(store, &asked).await.id, first.id);
        let found = store.sessions().find(claim.id).await.unwrap().unwrap();
        assert_eq!((found.status, found.identity_id), (LinkSessionStatus::Linked, Some(first.id)));
    }
}

/// A wrong code changes nothing; neither does a session that does not wait, or is not there.
pub async fn a_link_without_the_code_changes_nothing(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let own = waiting(store, "own", live_session(provider)).await;
    let other = waiting(store, "other", live_session(provider)).await;
    let used = used_trip(store, "used", live_session(provider)).await.id;
    let failed = waiting(store, "failed", live_session(provider)).await;
    store.sessions().fail(failed.id, LinkFailure::AccessDenied).await.unwrap();
    linked(store, &link(provider, "v", "taken")).await;
    let told = kinds(store).await;

    for wrong in [
        claim(own.id, "wrong"),
        CompletionClaim { code: other.code, ..own },
        claim(used, "used"),
        failed,
        claim(LinkSessionId(4_711), "own"),
    ] {
        // That the account is taken is told only to whoever has the code.
        for account in ["a", "taken"] {
            let asked = Link { session: Some(wrong), ..link(provider, "u", account) };
            let outcome = store.identities().link(&asked).await.unwrap();
            assert_eq!(outcome, LinkOutcome::SessionUsed);
        }
        let outcome = store.identities().link(&sign_in(provider, wrong)).await.unwrap();
        assert_eq!(outcome, LinkOutcome::SessionUsed);
    }
    let of_user =
        IdentityFilter { user_id: Some(fixtures::user("u")), ..IdentityFilter::default() };
    assert_eq!(store.identities().list(&of_user, super::ALL).await.unwrap().items, []);
    assert_eq!(status(store, used).await, LinkSessionStatus::Pending);
    for claim in [own, other] {
        assert!(store.sessions().find_pending(&claim).await.unwrap().is_some());
    }
    assert_eq!(kinds(store).await, told);
}

/// A link that is refused leaves its session waiting: it can be completed with reattach then.
pub async fn a_refused_link_leaves_its_session_waiting(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let first = linked(store, &link(provider, "v", "a")).await;
    let claim = waiting(store, "s", live_session(provider)).await;
    let asked = Link { session: Some(claim), ..link(provider, "u", "a") };
    for _ in 0..2 {
        let outcome = store.identities().link(&asked).await.unwrap();
        assert_eq!(outcome, LinkOutcome::Taken(Taken::Account));
    }
    let (found, _) = store.sessions().find_pending(&claim).await.unwrap().unwrap();
    assert_eq!(found.status, LinkSessionStatus::AwaitingCompletion);
    assert_eq!(found.identity_id, None);

    let outcome = store.identities().link(&Link { reattach: true, ..asked }).await.unwrap();
    assert!(matches!(outcome, LinkOutcome::Rebound(it) if it.id == first.id));
    assert_eq!(status(store, claim.id).await, LinkSessionStatus::Linked);
}

/// A sign-in that finds the owner completes its session and renews the identity.
pub async fn a_sign_in_completes_its_session(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let identity = linked(store, &link(provider, "u", "account-1")).await;
    let claim = waiting(store, "s", live_session(provider)).await;
    let outcome = store.identities().link(&sign_in(provider, claim)).await.unwrap();

    let LinkOutcome::SignedIn(signed_in) = outcome else { panic!("{outcome:?}") };
    assert_eq!((signed_in.id, signed_in.version), (identity.id, 2));
    assert!(signed_in.date_verified >= identity.date_verified);
    assert_eq!(credentials_of(store, identity.id).await.generation, 2);
    let found = store.sessions().find(claim.id).await.unwrap().unwrap();
    assert_eq!((found.status, found.identity_id), (LinkSessionStatus::SignedIn, Some(identity.id)));
    assert_eq!(store.sessions().find_pending(&claim).await.unwrap(), None);
    assert_eq!(kinds(store).await, [EventKind::IdentityLinked, EventKind::IdentitySignedIn]);
}

/// A sign-in that finds nobody leaves its session unlinked, holding what it held; a second
/// completion with a user links the account.
pub async fn a_sign_in_of_nobody_can_be_completed_with_a_user(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let claim = waiting(store, "s", live_session(provider)).await;
    for _ in 0..2 {
        let outcome = store.identities().link(&sign_in(provider, claim)).await.unwrap();
        assert_eq!(outcome, LinkOutcome::NobodyLinked);
        let (found, held) = store.sessions().find_pending(&claim).await.unwrap().unwrap();
        assert_eq!((found.status, found.identity_id), (LinkSessionStatus::Unlinked, None));
        assert_eq!(held, pending_link(provider));
    }
    assert_eq!(kinds(store).await, []);

    let asked = Link { session: Some(claim), ..link(provider, "u", "account-1") };
    let outcome = store.identities().link(&asked).await.unwrap();
    let LinkOutcome::Created(identity) = outcome else { panic!("{outcome:?}") };
    let found = store.sessions().find(claim.id).await.unwrap().unwrap();
    assert_eq!((found.status, found.identity_id), (LinkSessionStatus::Linked, Some(identity.id)));
    assert_eq!(store.sessions().find_pending(&claim).await.unwrap(), None);
}

/// Of racing completions of one session, exactly one is done.
pub async fn of_racing_completions_one_is_done(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let claim = waiting(store, "s", live_session(provider)).await;
    let outcomes = race(32, |racer| {
        let store = store.clone();
        let user = format!("u{racer}");
        let asked = Link { session: Some(claim), ..link(provider, &user, &user) };
        async move { store.identities().link(&asked).await.unwrap() }
    })
    .await;
    let created: Vec<_> = outcomes
        .iter()
        .filter_map(|it| match it {
            LinkOutcome::Created(identity) => Some(identity.id),
            LinkOutcome::SessionUsed => None,
            other => panic!("{other:?}"),
        })
        .collect();
    let [winner] = created.as_slice() else { panic!("{created:?}") };
    let found = store.sessions().find(claim.id).await.unwrap().unwrap();
    assert_eq!(found.identity_id, Some(*winner));
    assert_eq!(kinds(store).await, [EventKind::IdentityLinked]);
}

/// Of a completion and a failure that race, one happens.
pub async fn of_a_completion_and_a_failure_one_happens(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    for round in 0..8 {
        let name = format!("s{round}");
        let claim = waiting(store, &name, live_session(provider)).await;
        let failure = {
            let store = store.clone();
            let why = LinkFailure::AccessDenied;
            tokio::spawn(async move { store.sessions().fail(claim.id, why).await.unwrap() })
        };
        let asked = Link { session: Some(claim), ..link(provider, &name, &name) };
        let outcome = store.identities().link(&asked).await.unwrap();
        let found = status(store, claim.id).await;
        match (outcome, failure.await.unwrap()) {
            (LinkOutcome::Created(_), false) => assert_eq!(found, LinkSessionStatus::Linked),
            (LinkOutcome::SessionUsed, true) => assert_eq!(found, LinkSessionStatus::Failed),
            other => panic!("{other:?}"),
        }
    }
}

/// The organization of the session is on record with the event.
pub async fn the_organization_of_the_session_is_on_record(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let session = LinkSession {
        organization_id: Some(fixtures::organization("org-1")),
        ..live_session(provider)
    };
    let claim = waiting(store, "s", session).await;
    linked(store, &Link { session: Some(claim), ..link(provider, "u", "a") }).await;
    linked(store, &link(provider, "v", "b")).await;
    let told = events(store).await;
    assert_eq!(told[0].organization_id, Some(fixtures::organization("org-1")));
    let last = told.last().unwrap();
    assert_eq!((last.about, &last.organization_id), (EventKind::IdentityLinked, &None));
}
