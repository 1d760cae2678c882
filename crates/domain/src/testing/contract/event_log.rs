//! [`EventLog`](crate::ports::EventLog), but for what other ports write.

use std::{collections::HashSet, sync::Arc};

use serde_json::{Map, json};

use super::{ALL, Store, identity, now, race};
use crate::{
    event::{Actor, Event, EventKind, NewEvent},
    ids::{ApiKeyId, IdentityId},
    page::PageRequest,
    ports::EventFilter,
    testing::fixtures,
};

/// An event is found as it was appended, with an id and the store's time; whatever it names may be
/// gone.
pub async fn an_event_is_found_as_it_was_appended(store: &Arc<dyn Store>) {
    let actors = [
        Actor::api_key(ApiKeyId(i64::MAX)).because("a user asked"),
        Actor { acting_user: Some(fixtures::user("u")), ..Actor::OPERATOR },
        Actor::replica("a:b ü"),
        Actor::SENTRY,
    ];
    let mut appended = Vec::new();
    for (nth, about) in EventKind::ALL.iter().copied().enumerate() {
        let event = NewEvent { about, actor: actors[nth % 4].clone(), ..fixtures::new_event() };
        appended.push(event);
    }
    let detail = fixtures::object(json!({ "n": [1, null, { "ü": true }] }));
    appended.push(NewEvent { detail, ..fixtures::new_event() });
    appended.push(NewEvent {
        identity_id: None,
        provider_id: None,
        user_id: None,
        organization_id: None,
        before: None,
        after: None,
        detail: Map::new(),
        ..fixtures::new_event()
    });
    for event in &appended {
        store.events().append(event).await.unwrap();
    }

    let found = list(store, EventFilter::default(), ALL).await;
    assert_eq!(found.len(), appended.len());
    for (found, appended) in found.into_iter().zip(appended) {
        assert!((found.at - now()).num_minutes().abs() < 5, "{}", found.at);
        assert_eq!(found.at.timestamp_subsec_nanos() % 1000, 0);
        assert_eq!(found, appended.kept(found.id, found.at));
    }
}

/// Events are found by kind and by identity, each alone and together.
pub async fn events_are_found_by_kind_and_identity(store: &Arc<dyn Store>) {
    for (about, identity) in [
        (EventKind::GrantRevoked, Some(1)),
        (EventKind::GrantRevocationFailed, Some(1)),
        (EventKind::GrantRevoked, Some(2)),
        (EventKind::GrantRevoked, None),
    ] {
        let identity_id = identity.map(IdentityId);
        let event = NewEvent { about, identity_id, ..fixtures::new_event() };
        store.events().append(&event).await.unwrap();
    }
    let all = list(store, EventFilter::default(), ALL).await;
    let [first, failed, second, nobodys] = all.as_slice() else { panic!("{all:?}") };
    let revoked = Some(EventKind::GrantRevoked);
    let one = Some(IdentityId(1));
    for (kind, identity_id, meant) in [
        (revoked, None, vec![first, second, nobodys]),
        (None, one, vec![first, failed]),
        (revoked, one, vec![first]),
        (Some(EventKind::IdentityLinked), None, vec![]),
        (None, Some(IdentityId(3)), vec![]),
    ] {
        let filter = EventFilter { kind, identity_id };
        let found = list(store, filter, ALL).await;
        assert_eq!(found.iter().collect::<Vec<_>>(), meant, "{filter:?}");
    }
}

/// Events come in pages of ascending id, whatever is appended meanwhile.
pub async fn events_come_in_pages(store: &Arc<dyn Store>) {
    let append = async || store.events().append(&fixtures::new_event()).await.unwrap();
    for _ in 0..4 {
        append().await;
    }
    let filter = EventFilter { kind: Some(EventKind::GrantRevoked), ..EventFilter::default() };
    let page = PageRequest { limit: 3, after: None };
    let first = store.events().list(&filter, page).await.unwrap();
    assert_eq!((first.items.len(), first.next), (3, first.items.last().map(|it| it.id.0)));

    append().await;
    let page = PageRequest { limit: 2, after: first.next };
    let second = store.events().list(&filter, page).await.unwrap();
    assert_eq!((second.items.len(), second.next), (2, None));
    let ids: Vec<_> = first.items.iter().chain(&second.items).map(|it| it.id).collect();
    assert!(ids.is_sorted() && ids.iter().collect::<HashSet<_>>().len() == 5, "{ids:?}");
}

/// No event is lost when many are appended at once, and no id is given twice.
pub async fn no_event_is_lost_in_a_race(store: &Arc<dyn Store>) {
    race(64, |_| {
        let store = store.clone();
        async move { store.events().append(&fixtures::new_event()).await.unwrap() }
    })
    .await;
    let ids: HashSet<_> =
        list(store, EventFilter::default(), ALL).await.into_iter().map(|it| it.id).collect();
    assert_eq!(ids.len(), 64);
}

/// What happened to an identity stays on record when the identity is gone.
pub async fn the_record_outlives_the_identity(store: &Arc<dyn Store>) {
    let id = identity(store).await.id;
    super::unlink(store, id).await;
    let event = NewEvent { identity_id: Some(id), ..fixtures::new_event() };
    store.events().append(&event).await.unwrap();
    let about = EventFilter { identity_id: Some(id), ..EventFilter::default() };
    let kinds: Vec<_> = list(store, about, ALL).await.into_iter().map(|it| it.about).collect();
    let expected =
        [EventKind::IdentityLinked, EventKind::IdentityUnlinked, EventKind::GrantRevoked];
    assert_eq!(kinds, expected);
}

async fn list(store: &Arc<dyn Store>, filter: EventFilter, page: PageRequest) -> Vec<Event> {
    store.events().list(&filter, page).await.unwrap().items
}
