//! [`RevocationRepository`](crate::ports::RevocationRepository), and what is queued there.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::{
    ALL, LONG, Store, events, identity, kinds, link, linked, provider, race, unlink_revoking,
};
use crate::{
    credentials::Credentials,
    event::EventKind,
    ids::{IdentityId, RevocationId},
    ports::{ClaimedRevocation, Link, NewRevocation, ProviderDeletion, RevocationEnd},
    revocation::{GrantOwner, OrphanedGrant, QueuedRevocation, RevocationStatus},
    testing::fixtures,
};

/// An identity is unlinked, and its grant waits.
async fn queued(store: &Arc<dyn Store>) -> RevocationId {
    let identity = identity(store).await;
    let unlinked = unlink_revoking(store, identity.id).await;
    unlinked.unwrap().1.unwrap()
}

async fn claimed(store: &Arc<dyn Store>, id: RevocationId) -> ClaimedRevocation {
    store.revocations().claim(id, LONG).await.unwrap().unwrap()
}

async fn find(store: &Arc<dyn Store>, id: RevocationId) -> QueuedRevocation {
    let all = store.revocations().list(ALL).await.unwrap().items;
    all.into_iter().find(|it| it.id == id).unwrap()
}

/// The grant of an unlinked identity waits for its revocation, due at once, and is told of in the
/// same breath.
pub async fn an_unlinked_grant_waits_for_its_revocation(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let unlinked = unlink_revoking(store, identity.id).await;
    let id = unlinked.unwrap().1.unwrap();

    let found = find(store, id).await;
    assert_eq!(found.status, RevocationStatus::Waiting);
    assert_eq!(
        (found.owner, found.provider_id),
        (GrantOwner::Identity(identity.id), identity.idp_id)
    );
    assert_eq!((&found.user_id, &found.external_id), (&identity.user_id, &identity.external_id));
    assert_eq!(
        (found.attempts, found.queued_at, &found.actor),
        (0, found.due_at, &fixtures::ACTOR)
    );

    let due = store.revocations().claim_due(10, LONG).await.unwrap();
    let [claimed] = due.as_slice() else { panic!("{due:?}") };
    assert_eq!((claimed.queued.id, claimed.queued.attempts), (id, 1));
    assert_eq!(claimed.grant, Some(OrphanedGrant::new(fixtures::credentials())));
    let told = events(store).await;
    let [_, unlinked, queued] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(unlinked.about, EventKind::IdentityUnlinked);
    assert_eq!(
        (queued.about, queued.identity_id),
        (EventKind::GrantRevocationQueued, Some(identity.id))
    );
    assert_eq!(queued.detail["revocation_id"], id.0);
    assert_eq!(queued.actor, fixtures::ACTOR);
}

/// Nothing is queued for an identity without credentials.
pub async fn nothing_is_queued_for_an_identity_without_credentials(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let identity = linked(store, &Link { credentials: None, ..link(provider, "u", "a") }).await;
    let unlinked = unlink_revoking(store, identity.id).await;
    assert_eq!(unlinked.unwrap().1, None);
    assert_eq!(store.revocations().list(ALL).await.unwrap().items, []);
    assert_eq!(kinds(store).await, [EventKind::IdentityLinked, EventKind::IdentityUnlinked]);
}

/// A claimed revocation is nobody else's while the claim lasts.
pub async fn a_claimed_revocation_is_nobody_elses(store: &Arc<dyn Store>) {
    let id = queued(store).await;
    claimed(store, id).await;
    assert_eq!(store.revocations().claim(id, LONG).await.unwrap(), None);
    assert_eq!(store.revocations().claim_due(10, LONG).await.unwrap(), []);
    assert_eq!(store.revocations().claim(RevocationId(4_711), LONG).await.unwrap(), None);
}

/// Of racing claims, exactly one gets each revocation.
pub async fn of_racing_claims_one_gets_the_revocation(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let mut all = HashSet::new();
    for name in 0..8 {
        let row = linked(store, &link(provider, &format!("u{name}"), &format!("a{name}"))).await;
        let unlinked = unlink_revoking(store, row.id).await;
        all.insert(unlinked.unwrap().1.unwrap());
    }
    let claims = race(16, |_| {
        let store = store.clone();
        async move { store.revocations().claim_due(3, LONG).await.unwrap() }
    })
    .await;
    assert!(claims.iter().all(|it| it.len() <= 3));
    let claimed: Vec<_> = claims.into_iter().flatten().map(|it| it.queued.id).collect();
    let different: HashSet<_> = claimed.iter().copied().collect();
    assert_eq!((claimed.len(), different), (8, all));
}

/// A claim that ran out is claimed again, and what its old holder writes is not taken.
pub async fn a_claim_that_ran_out_is_claimed_again_and_its_old_holder_fenced_off(
    store: &Arc<dyn Store>,
) {
    let id = queued(store).await;
    let old = store.revocations().claim(id, Duration::ZERO).await.unwrap().unwrap();
    let new = claimed(store, id).await;
    assert_eq!(new.queued.attempts, 2);
    assert_eq!(new.grant, old.grant);
    for end in [
        RevocationEnd::Revoked,
        RevocationEnd::Failed("no".into()),
        RevocationEnd::Later { pause: Duration::ZERO, error: "no".into() },
    ] {
        assert!(!store.revocations().settle(&old.queued, &end).await.unwrap(), "{end:?}");
    }
    assert_eq!(find(store, id).await, new.queued);
    assert!(store.revocations().settle(&new.queued, &RevocationEnd::Revoked).await.unwrap());
}

/// A revocation that ended, however it did, is over: it is told of once, by whoever took the grant
/// away, and nobody can claim it.
pub async fn a_revocation_that_ended_is_over(store: &Arc<dyn Store>) {
    let why = "it does not want to".to_owned();
    for (end, status, about) in [
        (RevocationEnd::Revoked, RevocationStatus::Revoked, EventKind::GrantRevoked),
        (RevocationEnd::Failed(why), RevocationStatus::Failed, EventKind::GrantRevocationFailed),
    ] {
        let provider = provider(store, status.as_str()).await;
        let row = linked(store, &link(provider, "u", "a")).await;
        let unlinked = unlink_revoking(store, row.id).await;
        let id = unlinked.unwrap().1.unwrap();
        let claimed = store.revocations().claim(id, Duration::ZERO).await.unwrap().unwrap();
        let told = kinds(store).await.len();
        assert!(store.revocations().settle(&claimed.queued, &end).await.unwrap());
        assert!(!store.revocations().settle(&claimed.queued, &end).await.unwrap());

        assert_eq!(find(store, id).await.status, status);
        assert_eq!(store.revocations().claim(id, LONG).await.unwrap(), None);
        assert_eq!(store.revocations().claim_due(10, LONG).await.unwrap(), []);
        let told = events(store).await.split_off(told);
        let [event] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!((event.about, event.identity_id), (about, Some(row.id)));
        assert_eq!((event.provider_id, &event.actor), (Some(provider), &fixtures::ACTOR));
        let detail = event.detail.get("detail").and_then(|it| it.as_str());
        assert_eq!(detail.is_some(), about == EventKind::GrantRevocationFailed);
    }
}

/// A revocation that is put off keeps its grant and the reason, is told of to nobody, and is not
/// due before its time.
pub async fn a_revocation_that_is_put_off_is_not_due(store: &Arc<dyn Store>) {
    let id = queued(store).await;
    let told = kinds(store).await.len();
    let first = store.revocations().claim(id, LONG).await.unwrap().unwrap();
    let at_once = RevocationEnd::Later { pause: Duration::ZERO, error: "503".into() };
    assert!(store.revocations().settle(&first.queued, &at_once).await.unwrap());
    let second = claimed(store, id).await;
    assert_eq!((second.queued.attempts, second.queued.last_error.as_deref()), (2, Some("503")));
    assert_eq!(second.grant, first.grant);

    let later = RevocationEnd::Later { pause: LONG, error: "503".into() };
    assert!(store.revocations().settle(&second.queued, &later).await.unwrap());
    assert_eq!(store.revocations().claim_due(10, LONG).await.unwrap(), []);
    assert_eq!(find(store, id).await.status, RevocationStatus::Waiting);
    assert_eq!(kinds(store).await.len(), told);
}

/// What is due longest is claimed first, and no more than asked for.
pub async fn what_is_due_longest_is_claimed_first(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let mut ids = Vec::new();
    for name in ["a", "b", "c"] {
        let row = linked(store, &link(provider, name, name)).await;
        let unlinked = unlink_revoking(store, row.id).await;
        ids.push(unlinked.unwrap().1.unwrap());
    }
    for id in ids {
        let due = store.revocations().claim_due(1, LONG).await.unwrap();
        assert_eq!(due.iter().map(|it| it.queued.id).collect::<Vec<_>>(), [id]);
    }
}

/// A grant that comes when its identity is gone can be queued too.
pub async fn a_grant_can_be_queued_when_its_identity_is_gone(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let (kept, secrets) = store.providers().find_with_secrets(provider).await.unwrap().unwrap();
    let grant =
        OrphanedGrant { credentials: Credentials::default(), provider: Some((kept, secrets)) };
    let new = NewRevocation {
        owner: GrantOwner::Identity(IdentityId(4_711)),
        provider_id: provider,
        user_id: fixtures::user("u"),
        external_id: fixtures::external_id("a"),
        grant: grant.clone(),
        actor: fixtures::ACTOR,
    };
    let queued = store.revocations().queue(&new).await.unwrap();
    assert_eq!(find(store, queued.id).await, queued);
    assert_eq!(claimed(store, queued.id).await.grant, Some(grant));
    assert_eq!(kinds(store).await, [EventKind::GrantRevocationQueued]);
}

/// A deleted provider leaves a copy of itself with the grants of its identities, and with those
/// that were waiting already.
pub async fn a_deleted_provider_leaves_what_its_revocations_need(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let copy = store.providers().find_with_secrets(provider).await.unwrap();
    for name in ["u", "v"] {
        linked(store, &link(provider, name, name)).await;
    }
    let early = linked(store, &link(provider, "w", "w")).await;
    unlink_revoking(store, early.id).await;
    let ended = linked(store, &link(provider, "x", "x")).await;
    let ended = unlink_revoking(store, ended.id).await;
    let ended = claimed(store, ended.unwrap().1.unwrap()).await;
    store.revocations().settle(&ended.queued, &RevocationEnd::Revoked).await.unwrap();

    let deleted = store.providers().delete(provider, true, &fixtures::ACTOR).await.unwrap();
    assert_eq!(deleted, ProviderDeletion::Deleted(2));
    let due = store.revocations().claim_due(10, LONG).await.unwrap();
    let users: HashSet<_> = due.iter().map(|it| it.queued.user_id.as_str().to_owned()).collect();
    assert_eq!(users, HashSet::from(["u", "v", "w"].map(str::to_owned)));
    for claimed in due {
        let grant = claimed.grant.unwrap();
        assert_eq!(grant.credentials, fixtures::credentials());
        assert_eq!(grant.provider, copy, "{:?}", claimed.queued);
    }
}

/// A row rebound without credentials, to another user of the same account too, gives up its grant.
pub async fn a_row_rebound_without_credentials_gives_up_its_grant(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let asked =
        Link { credentials: None, reattach: true, ..link(identity.idp_id, "v", "account-1") };
    let rebound = linked(store, &asked).await;
    assert_eq!(rebound.id, identity.id);
    let due = store.revocations().claim_due(10, LONG).await.unwrap();
    let [claimed] = due.as_slice() else { panic!("{due:?}") };
    assert_eq!(claimed.queued.user_id, identity.user_id, "whose it was");
    assert_eq!(claimed.grant, Some(OrphanedGrant::new(fixtures::credentials())));
}
