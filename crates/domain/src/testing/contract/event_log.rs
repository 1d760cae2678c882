//! [`EventLog`](crate::ports::EventLog), but for what other ports write.

use std::{collections::HashSet, sync::Arc, time::Duration};

use serde_json::{Map, json};

use super::{ALL, Store, identity, link, linked, now, provider, race};
use crate::{
    event::{Actor, Event, EventKind, NewEvent},
    ids::{ApiKeyId, EventId, IdentityId, ProviderId},
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

/// Events are found by kind, identity, provider, user and organization, each alone and together,
/// from a place on; and the last of them by itself.
pub async fn events_are_found_by_what_they_concern(store: &Arc<dyn Store>) {
    let revoked = EventKind::GrantRevoked;
    let failed = EventKind::GrantRevocationFailed;
    let of = |about, nth: i64| NewEvent {
        identity_id: Some(IdentityId(nth)),
        provider_id: Some(ProviderId(10 + nth)),
        user_id: Some(fixtures::user(&format!("user-{nth}"))),
        organization_id: Some(fixtures::organization(&format!("organization-{nth}"))),
        ..NewEvent::new(about, &fixtures::ACTOR)
    };
    for event in
        [of(revoked, 1), of(failed, 1), of(revoked, 2), NewEvent::new(revoked, &fixtures::ACTOR)]
    {
        store.events().append(&event).await.unwrap();
    }
    let all = list(store, EventFilter::default(), ALL).await;
    let [first, second, third, nobodys] = all.as_slice() else { panic!("{all:?}") };
    let none = EventFilter::default;
    let one = IdentityId(1);
    for (filter, meant) in [
        (EventFilter { kinds: vec![revoked], ..none() }, vec![first, third, nobodys]),
        (EventFilter { kinds: vec![failed, revoked], ..none() }, all.iter().collect()),
        (EventFilter { kinds: vec![EventKind::IdentityLinked], ..none() }, vec![]),
        (EventFilter { identity_id: Some(one), ..none() }, vec![first, second]),
        (EventFilter { identity_id: Some(IdentityId(3)), ..none() }, vec![]),
        (EventFilter { provider_id: Some(ProviderId(12)), ..none() }, vec![third]),
        (EventFilter { user_id: Some(fixtures::user("user-1")), ..none() }, vec![first, second]),
        (EventFilter { user_id: Some(fixtures::user("USER-1")), ..none() }, vec![]),
        (
            EventFilter {
                organization_id: Some(fixtures::organization("organization-2")),
                ..none()
            },
            vec![third],
        ),
        (EventFilter { after: Some(second.id), ..none() }, vec![third, nobodys]),
        (EventFilter { kinds: vec![revoked], identity_id: Some(one), ..none() }, vec![first]),
        (EventFilter { identity_id: Some(one), after: Some(first.id), ..none() }, vec![second]),
        (
            EventFilter {
                identity_id: Some(one),
                user_id: Some(fixtures::user("user-2")),
                ..none()
            },
            vec![],
        ),
    ] {
        let found = list(store, filter.clone(), ALL).await;
        assert_eq!(found.iter().collect::<Vec<_>>(), meant, "{filter:?}");
        let last = store.events().find_last(&filter).await.unwrap();
        assert_eq!(last.as_ref(), meant.last().copied(), "{filter:?}");
    }
}

/// Of events that tell the same turn of a provider instance at once, one is added; none that says
/// again what the latest says, and none that says that all is well where nothing was wrong. One
/// instance's turns are not another's.
pub async fn of_events_that_tell_the_same_turn_one_is_added(store: &Arc<dyn Store>) {
    let (one, other) = (provider(store, "p").await, provider(store, "q").await);
    let (bad, good) = (EventKind::ProviderClientRejected, EventKind::ProviderClientAccepted);
    let tell = async |provider, about, opposite| {
        let told = race(16, |racer| {
            let actor = Actor::replica(format!("replica-{racer}"));
            let event = NewEvent { provider_id: Some(provider), ..NewEvent::new(about, &actor) };
            let store = store.clone();
            async move { store.events().append_turn(&event, opposite, about == bad).await.unwrap() }
        })
        .await;
        told.into_iter().filter(|it| *it).count()
    };
    for (provider, about, opposite, added) in [
        (one, good, bad, 0),
        (one, bad, good, 1),
        (one, bad, good, 0),
        (other, good, bad, 0),
        (one, good, bad, 1),
        (one, good, bad, 0),
        (other, bad, good, 1),
        (one, bad, good, 1),
        (ProviderId(4_711), bad, good, 0),
    ] {
        assert_eq!(tell(provider, about, opposite).await, added, "{about:?} of {provider}");
    }
    let nobodys = NewEvent { provider_id: None, ..NewEvent::new(bad, &fixtures::ACTOR) };
    assert!(!store.events().append_turn(&nobodys, good, true).await.unwrap());

    let told = async |provider| {
        let filter = EventFilter {
            kinds: vec![bad, good],
            provider_id: Some(provider),
            ..EventFilter::default()
        };
        list(store, filter, ALL).await.iter().map(|it| it.about).collect::<Vec<_>>()
    };
    assert_eq!(told(one).await, [bad, good, bad]);
    assert_eq!(told(other).await, [bad]);
}

/// Events come in pages of ascending id, whatever is appended meanwhile.
pub async fn events_come_in_pages(store: &Arc<dyn Store>) {
    let append = async || store.events().append(&fixtures::new_event()).await.unwrap();
    for _ in 0..4 {
        append().await;
    }
    let filter = EventFilter { kinds: vec![EventKind::GrantRevoked], ..EventFilter::default() };
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

/// Whoever goes on after the last event misses none, however many write meanwhile and however long
/// their transactions take, and sees ids only ascend; what the writer of an event reads next has
/// the event.
pub async fn a_reader_who_goes_on_after_the_last_event_misses_none(store: &Arc<dyn Store>) {
    const WRITERS: usize = 8;
    const EACH: usize = 12;
    let at = provider(store, "of short ones").await;
    // Their deletion is a transaction of many events, between whose ids fall those of others that
    // are over sooner.
    let mut doomed = Vec::new();
    for writer in 0..WRITERS {
        let id = provider(store, &format!("of long one {writer}")).await;
        for user in 0..EACH {
            linked(store, &link(id, &format!("doomed-{user}"), &format!("doomed-{user}"))).await;
        }
        doomed.push(id);
    }
    let start = store.events().find_last(&EventFilter::default()).await.unwrap().unwrap().id;
    let (done, over) = tokio::sync::watch::channel(());
    let reader = tokio::spawn(follow(store.clone(), start, over));
    race(2 * WRITERS, |nth| {
        let (store, doomed) = (store.clone(), doomed.clone());
        async move {
            let writer = nth / 2;
            if nth % 2 == 1 {
                let actor = &fixtures::ACTOR;
                store.providers().delete(doomed[writer], true, actor).await.unwrap();
                return;
            }
            let user = format!("user-{writer}");
            for _ in 0..EACH {
                let identity = linked(&store, &link(at, &user, &user)).await;
                let own = EventFilter { identity_id: Some(identity.id), ..EventFilter::default() };
                let own = store.events().find_last(&own).await.unwrap().unwrap();
                let version = own.after.unwrap()["version"].as_i64();
                assert_eq!(version, Some(identity.version), "a writer reads its own event");
            }
        }
    })
    .await;
    drop(done);
    let seen = reader.await.unwrap();
    let ids: Vec<EventId> = seen.iter().map(|it| it.id).collect();
    assert!(ids.windows(2).all(|it| it[0] < it[1]), "{ids:?}");
    // Of a short one a link each; of a long one an unlink each, with what becomes of its grant, and
    // the provider's own.
    assert_eq!(seen.len(), WRITERS * (EACH + 2 * EACH + 1));
    for writer in 0..WRITERS {
        let user = fixtures::user(&format!("user-{writer}"));
        let versions: Vec<_> = seen
            .iter()
            .filter(|it| it.user_id.as_ref() == Some(&user))
            .map(|it| it.after.as_ref().unwrap()["version"].as_i64().unwrap())
            .collect();
        let expected: Vec<_> = (1..).take(EACH).collect();
        assert_eq!(versions, expected, "the events of an identity are in its order");
    }
}

/// Every event after this one, read on and on until nothing is written any more.
async fn follow(
    store: Arc<dyn Store>,
    mut after: EventId,
    mut over: tokio::sync::watch::Receiver<()>,
) -> Vec<Event> {
    let mut seen = Vec::new();
    loop {
        // Looked at before the read: what was written before the end is then read.
        let last = over.has_changed().is_err();
        let filter = EventFilter { after: Some(after), ..EventFilter::default() };
        let page = PageRequest { limit: 7, after: None };
        let read = store.events().list(&filter, page).await.unwrap();
        if let Some(newest) = read.items.last() {
            after = newest.id;
        } else if last {
            return seen;
        } else {
            let _ = tokio::time::timeout(Duration::from_millis(1), over.changed()).await;
        }
        seen.extend(read.items);
    }
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
