//! [`IdentityRepository`](crate::ports::IdentityRepository), but for linking and listing.

use std::sync::Arc;

use serde_json::json;

use super::{Store, credentials_of, end_invalid, events, identity, kinds, lease, link, linked};
use super::{provider, race, unlink};
use crate::{
    credentials::Credentials,
    event::EventKind,
    identity::{Identity, IdentityStatus},
    ids::IdentityId,
    ports::{DataOutcome, DataUpdate, Link},
    secret::Secret,
    testing::fixtures,
};

/// What nobody linked is not there: to be found, changed, or unlinked.
pub async fn an_identity_that_is_not_there_is_absent(store: &Arc<dyn Store>) {
    let nobody = IdentityId(4_711);
    assert_eq!(store.identities().find(nobody).await.unwrap(), None);
    let update = DataUpdate { id: nobody, if_version: Some(1), ..fixtures::data_update() };
    assert_eq!(store.identities().update_data(&update).await.unwrap(), DataOutcome::Absent);
    assert_eq!(unlink(store, nobody).await, None);
    assert_eq!(kinds(store).await, []);
}

/// New data replaces the old, raises the version by one, and leaves the credentials alone.
pub async fn new_data_replaces_the_old(store: &Arc<dyn Store>) {
    let before = identity(store).await;
    let credentials = credentials_of(store, before.id).await;
    let data = fixtures::object(json!({ "rank": [1, 2.5, "ü", null, true, { "deep": {} }] }));
    let update = DataUpdate { id: before.id, data: data.clone(), ..fixtures::data_update() };
    let outcome = store.identities().update_data(&update).await.unwrap();

    let after = Identity { data, version: 2, ..before.clone() };
    assert_eq!(outcome, DataOutcome::Updated(after.clone()));
    assert_eq!(store.identities().find(before.id).await.unwrap(), Some(after));
    assert_eq!(credentials_of(store, before.id).await, credentials);
    let event = events(store).await.pop().unwrap();
    assert_eq!(event.about, EventKind::IdentityDataUpdated);
    assert_eq!((event.identity_id, event.provider_id), (Some(before.id), Some(before.idp_id)));
    assert_eq!((event.user_id, event.actor), (Some(before.user_id), update.actor));
}

/// An update for another version changes nothing; one for the version that is there is done.
pub async fn an_update_for_another_version_changes_nothing(store: &Arc<dyn Store>) {
    let before = identity(store).await;
    let credentials = credentials_of(store, before.id).await;
    let update = DataUpdate {
        id: before.id,
        credentials: Some(Credentials::default()),
        ..fixtures::data_update()
    };
    for other in [0, 2] {
        let refused = DataUpdate { if_version: Some(other), ..update.clone() };
        let outcome = store.identities().update_data(&refused).await.unwrap();
        assert_eq!(outcome, DataOutcome::VersionConflict);
    }
    assert_eq!(store.identities().find(before.id).await.unwrap(), Some(before.clone()));
    assert_eq!(credentials_of(store, before.id).await, credentials);
    assert_eq!(kinds(store).await, [EventKind::IdentityLinked]);

    let meant = DataUpdate { if_version: Some(1), ..update };
    let outcome = store.identities().update_data(&meant).await.unwrap();
    assert!(matches!(outcome, DataOutcome::Updated(it) if it.version == 2));
}

/// Of racing updates for one version, exactly one is done.
pub async fn of_racing_updates_for_one_version_one_is_done(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let outcomes = race(32, |racer| {
        let store = store.clone();
        let update = DataUpdate {
            id: identity.id,
            data: fixtures::object(json!({ "racer": racer })),
            if_version: Some(1),
            ..fixtures::data_update()
        };
        async move { store.identities().update_data(&update).await.unwrap() }
    })
    .await;
    let done: Vec<_> = outcomes
        .into_iter()
        .filter_map(|it| match it {
            DataOutcome::Updated(identity) => Some(identity),
            _ => None,
        })
        .collect();
    let [winner] = done.as_slice() else { panic!("{done:?}") };
    assert_eq!(store.identities().find(identity.id).await.unwrap().as_ref(), Some(winner));
    assert_eq!(kinds(store).await, [EventKind::IdentityLinked, EventKind::IdentityDataUpdated]);
}

/// Credentials that come with new data go over the old ones and are a new generation.
pub async fn credentials_with_new_data_go_over_the_old_ones(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let answer = Credentials {
        access_token: Some(Secret::new("access-2")),
        expires_at: Some(fixtures::NOW),
        ..Credentials::default()
    };
    let update = DataUpdate {
        id: identity.id,
        credentials: Some(answer.clone()),
        ..fixtures::data_update()
    };
    let outcome = store.identities().update_data(&update).await.unwrap();

    let DataOutcome::Updated(updated) = outcome else { panic!("{outcome:?}") };
    assert_eq!(updated.expires_at, Some(fixtures::NOW));
    let stored = credentials_of(store, identity.id).await;
    assert_eq!(stored.credentials, Some(fixtures::credentials().renewed_by(answer)));
    assert_eq!(stored.generation, 2);
}

/// Credentials that come with new data make an invalid identity valid; new data alone does not.
pub async fn credentials_with_new_data_make_an_invalid_identity_valid(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let held = lease(store, identity.id).await;
    store.credentials().end(&held, &end_invalid()).await.unwrap();

    let update = DataUpdate { id: identity.id, ..fixtures::data_update() };
    store.identities().update_data(&update).await.unwrap();
    let stored = credentials_of(store, identity.id).await;
    assert_eq!(stored.status, IdentityStatus::Invalid);
    assert!(stored.invalid.is_some());

    let update = DataUpdate { credentials: Some(fixtures::credentials()), ..update };
    let outcome = store.identities().update_data(&update).await.unwrap();
    let DataOutcome::Updated(updated) = outcome else { panic!("{outcome:?}") };
    assert_eq!((updated.status, updated.invalid), (IdentityStatus::Valid, None));
}

/// Unlinking gives back the identity and its credentials, is told of, and leaves nothing.
pub async fn unlinking_gives_back_what_might_be_revoked(store: &Arc<dyn Store>) {
    let identity = identity(store).await;
    let gone = unlink(store, identity.id).await;

    assert_eq!(gone, Some((identity.clone(), Some(fixtures::credentials()))));
    assert_eq!(store.identities().find(identity.id).await.unwrap(), None);
    assert_eq!(store.credentials().find(identity.id).await.unwrap(), None);
    let event = events(store).await.pop().unwrap();
    assert_eq!(event.about, EventKind::IdentityUnlinked);
    assert_eq!((event.identity_id, event.provider_id), (Some(identity.id), Some(identity.idp_id)));
    assert_eq!((event.user_id, event.actor), (Some(identity.user_id), fixtures::ACTOR));

    let again = unlink(store, identity.id).await;
    assert_eq!(again, None);
    assert_eq!(kinds(store).await, [EventKind::IdentityLinked, EventKind::IdentityUnlinked]);
}

/// Unlinking an identity without credentials gives back none.
pub async fn unlinking_without_credentials_gives_back_none(store: &Arc<dyn Store>) {
    let provider = provider(store, "p").await;
    let asked = Link { credentials: None, ..link(provider, "u", "a") };
    let identity = linked(store, &asked).await;
    let gone = unlink(store, identity.id).await;
    assert_eq!(gone, Some((identity, None)));
}

/// Of racing unlinks, exactly one gets the credentials.
pub async fn of_racing_unlinks_one_gets_the_credentials(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    let outcomes = race(16, |_| {
        let store = store.clone();
        async move { unlink(&store, id).await }
    })
    .await;
    assert_eq!(outcomes.iter().flatten().count(), 1, "{outcomes:?}");
    assert_eq!(kinds(store).await, [EventKind::IdentityLinked, EventKind::IdentityUnlinked]);
}

/// An account that was unlinked can be linked again, as another identity.
pub async fn an_unlinked_account_can_be_linked_again(store: &Arc<dyn Store>) {
    let first = identity(store).await;
    unlink(store, first.id).await;
    let second = linked(store, &link(first.idp_id, "user-2", "account-1")).await;
    assert!(second.id > first.id, "an id is not given twice");
    assert_eq!(second.version, 1);
    assert_eq!(credentials_of(store, second.id).await.generation, 1);
}
