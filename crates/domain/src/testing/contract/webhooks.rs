//! [`WebhookRepository`](crate::ports::WebhookRepository).

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use serde_json::{Value, json};

use super::{ALL, LONG, Store, race};
use crate::{
    event::{Actor, Event, EventKind, NewEvent},
    ids::{EventId, IdentityId, WebhookDeliveryId, WebhookEndpointId},
    page::PageRequest,
    ports::{ClaimedDelivery, DeliveryEnd, EventFilter, NewWebhookEndpoint, WebhookEndpointUpdate},
    testing::fixtures::{self, ACTOR},
    webhook::{DeliveryStatus, WebhookDelivery, WebhookEndpoint, WebhookSecrets},
};

const ABSENT: WebhookEndpointId = WebhookEndpointId(4711);

async fn endpoint(store: &Arc<dyn Store>, kinds: &[EventKind]) -> WebhookEndpoint {
    let new = NewWebhookEndpoint { kinds: kinds.to_vec(), ..fixtures::new_webhook_endpoint() };
    store.webhooks().insert(&new, &ACTOR).await.unwrap()
}

/// An event about this identity.
async fn happen(store: &Arc<dyn Store>, about: EventKind, identity: Option<i64>) -> EventId {
    let event = NewEvent { identity_id: identity.map(IdentityId), ..NewEvent::new(about, &ACTOR) };
    store.events().append(&event).await.unwrap();
    let last = store.events().find_last(&EventFilter::default()).await.unwrap();
    last.unwrap().id
}

async fn claim(store: &Arc<dyn Store>, of: WebhookEndpointId) -> Vec<ClaimedDelivery> {
    store.webhooks().fan_out(of, 1000).await.unwrap();
    store.webhooks().claim(of, 100, LONG).await.unwrap()
}

fn told(claimed: &[ClaimedDelivery]) -> Vec<EventId> {
    claimed.iter().map(|it| it.event.id).collect()
}

async fn settle(store: &Arc<dyn Store>, claim: &ClaimedDelivery, end: DeliveryEnd) -> bool {
    store.webhooks().settle(&claim.delivery, &end, &Actor::replica("replica-1")).await.unwrap()
}

const DELIVERED: DeliveryEnd = DeliveryEnd::Delivered { status: 204 };

fn dead() -> DeliveryEnd {
    DeliveryEnd::Dead { status: Some(500), error: "the receiver answered 500".into() }
}

fn retry(after: Duration) -> DeliveryEnd {
    DeliveryEnd::Retry { after, status: None, error: "no answer".into() }
}

async fn deliveries(
    store: &Arc<dyn Store>,
    of: WebhookEndpointId,
    status: Option<DeliveryStatus>,
) -> Vec<WebhookDelivery> {
    store.webhooks().list_deliveries(of, status, ALL).await.unwrap().items
}

async fn last_event(store: &Arc<dyn Store>) -> Event {
    store.events().find_last(&EventFilter::default()).await.unwrap().unwrap()
}

/// A webhook endpoint is found as it was inserted, with its secret and alone, and told of.
pub async fn a_webhook_endpoint_is_found_as_it_was_inserted(store: &Arc<dyn Store>) {
    let new = NewWebhookEndpoint {
        kinds: vec![EventKind::IdentityLinked, EventKind::IdentityUnlinked],
        enabled: false,
        ..fixtures::new_webhook_endpoint()
    };
    let made = store.webhooks().insert(&new, &ACTOR).await.unwrap();
    assert_eq!((&made.url, &made.kinds, made.enabled), (&new.url, &new.kinds, false));
    let event = last_event(store).await;
    assert_eq!((event.about, event.actor), (EventKind::WebhookEndpointCreated, ACTOR));
    assert_eq!((event.before, event.after), (None, Some(made.facts())));
    assert_eq!(event.detail["endpoint_id"], made.id.0);

    assert_eq!(store.webhooks().find(made.id).await.unwrap(), Some(made.clone()));
    let secrets = WebhookSecrets::one(new.secret);
    let found = store.webhooks().find_with_secrets(made.id).await.unwrap();
    assert_eq!(found, Some((made.clone(), secrets)));
    assert_eq!(store.webhooks().find(ABSENT).await.unwrap(), None);
    assert_eq!(store.webhooks().find_with_secrets(ABSENT).await.unwrap(), None);

    let other = endpoint(store, &[]).await;
    let page = PageRequest { limit: 1, after: None };
    let first = store.webhooks().list(page).await.unwrap();
    assert_eq!((first.items, first.next), (vec![made.clone()], Some(made.id.0)));
    let page = PageRequest { limit: 1, after: Some(made.id.0) };
    assert_eq!(store.webhooks().list(page).await.unwrap().items, [other]);
}

/// A webhook endpoint is changed key by key, and each change is told.
pub async fn a_webhook_endpoint_is_changed_and_removed(store: &Arc<dyn Store>) {
    let made = endpoint(store, &[]).await;
    let update = WebhookEndpointUpdate { enabled: Some(false), ..Default::default() };
    let changed = store.webhooks().update(made.id, &update, &ACTOR).await.unwrap().unwrap();
    assert_eq!(changed, WebhookEndpoint { enabled: false, ..made.clone() });
    let event = last_event(store).await;
    assert_eq!(event.about, EventKind::WebhookEndpointUpdated);
    let told = (event.before.unwrap(), event.after.unwrap());
    let key = |on: bool| fixtures::object(serde_json::json!({ "enabled": on }));
    assert_eq!(told, (key(true), key(false)));
    assert_eq!(store.webhooks().find(made.id).await.unwrap(), Some(changed.clone()));
    // Nothing changes, nothing is told.
    store.webhooks().update(made.id, &update, &ACTOR).await.unwrap().unwrap();
    assert_eq!(last_event(store).await.id, event.id);
    assert_eq!(store.webhooks().update(ABSENT, &update, &ACTOR).await.unwrap(), None);

    assert!(store.webhooks().delete(made.id, &ACTOR).await.unwrap());
    let event = last_event(store).await;
    assert_eq!(event.about, EventKind::WebhookEndpointDeleted);
    assert_eq!((event.before, event.after), (Some(changed.facts()), None));
    assert!(!store.webhooks().delete(made.id, &ACTOR).await.unwrap());
    assert_eq!(store.webhooks().find(made.id).await.unwrap(), None);
}

/// A new secret goes before the old ones, which stay good for a time; racing rotations all count.
pub async fn a_webhook_secret_is_rotated(store: &Arc<dyn Store>) {
    let made = endpoint(store, &[]).await;
    let new = WebhookSecrets::random();
    let day = Duration::from_hours(24);
    let rotated = store.webhooks().rotate_secret(made.id, &new, day, &ACTOR).await.unwrap();
    assert_eq!(rotated, Some(made.clone()));
    let (_, secrets) = store.webhooks().find_with_secrets(made.id).await.unwrap().unwrap();
    let old = fixtures::new_webhook_endpoint().secret;
    assert_eq!(secrets.good_at(super::now()), [new.clone(), old.clone()]);
    assert_eq!(
        secrets.good_at(super::now() + Duration::from_hours(25)),
        std::slice::from_ref(&new)
    );
    let event = last_event(store).await;
    assert_eq!(event.about, EventKind::WebhookEndpointUpdated);
    let shown = Value::Object(event.shown()).to_string();
    assert!(shown.contains("secret"), "{shown}");
    for secret in [&new, &old] {
        assert!(!shown.contains(secret.expose().trim_start_matches("whsec_")), "{shown}");
    }

    let race: Vec<_> = (0..2).map(|_| WebhookSecrets::random()).collect();
    let racers = race.clone();
    super::race(2, |nth| {
        let (store, secret) = (store.clone(), racers[nth].clone());
        async move { store.webhooks().rotate_secret(made.id, &secret, day, &ACTOR).await.unwrap() }
    })
    .await;
    let (_, secrets) = store.webhooks().find_with_secrets(made.id).await.unwrap().unwrap();
    let good = secrets.good_at(super::now());
    assert!(race.iter().all(|it| good.contains(it)) && good[2] == new, "none was lost");
    assert_eq!(store.webhooks().rotate_secret(ABSENT, &new, day, &ACTOR).await.unwrap(), None);
}

/// Each event that an endpoint wants becomes one delivery, whoever fans out at the same time, and
/// none of before the endpoint was there.
pub async fn each_event_becomes_one_delivery(store: &Arc<dyn Store>) {
    happen(store, EventKind::GrantRevoked, None).await;
    let all = endpoint(store, &[]).await;
    let some = endpoint(store, &[EventKind::IdentityLinked]).await;
    let off = NewWebhookEndpoint { enabled: false, ..fixtures::new_webhook_endpoint() };
    let off = store.webhooks().insert(&off, &ACTOR).await.unwrap();
    let linked = happen(store, EventKind::IdentityLinked, Some(1)).await;
    let revoked = happen(store, EventKind::GrantRevoked, None).await;

    race(8, |_| {
        let (store, endpoints) = (store.clone(), [all.id, some.id, off.id, ABSENT]);
        async move {
            for id in endpoints {
                while store.webhooks().fan_out(id, 2).await.unwrap() > 0 {}
            }
        }
    })
    .await;
    let of_all = deliveries(store, all.id, None).await;
    // Its own creation, that of the two others, and what happened then.
    assert_eq!(of_all.len(), 5, "{of_all:?}");
    let last: Vec<_> = of_all[3..].iter().map(|it| (it.event_id, it.kind)).collect();
    assert_eq!(last, [(linked, EventKind::IdentityLinked), (revoked, EventKind::GrantRevoked)]);
    let of_some = deliveries(store, some.id, None).await;
    assert_eq!(of_some.iter().map(|it| it.event_id).collect::<Vec<_>>(), [linked]);
    assert_eq!((of_some[0].status, of_some[0].attempts), (DeliveryStatus::Pending, 0));
    assert_eq!(of_some[0].identity_id, Some(IdentityId(1)));
    assert_eq!(deliveries(store, off.id, None).await, []);

    // What happened while it was off is told when it is on.
    let on = WebhookEndpointUpdate { enabled: Some(true), ..Default::default() };
    store.webhooks().update(off.id, &on, &ACTOR).await.unwrap();
    store.webhooks().fan_out(off.id, 100).await.unwrap();
    let caught_up = deliveries(store, off.id, None).await;
    assert!(caught_up.iter().any(|it| it.event_id == linked), "{caught_up:?}");
}

/// Of racing claims each delivery goes to one, and to nobody else while the claim lasts.
pub async fn of_racing_claims_each_delivery_goes_to_one(store: &Arc<dyn Store>) {
    let at = endpoint(store, &[EventKind::GrantRevoked]).await.id;
    for _ in 0..20 {
        happen(store, EventKind::GrantRevoked, None).await;
    }
    store.webhooks().fan_out(at, 1000).await.unwrap();
    let claims = race(8, |_| {
        let store = store.clone();
        async move {
            let mut own = Vec::new();
            for _ in 0..20 {
                own.extend(store.webhooks().claim(at, 3, LONG).await.unwrap());
            }
            own
        }
    })
    .await;
    let claimed: Vec<_> = claims.into_iter().flatten().collect();
    let ids: BTreeSet<WebhookDeliveryId> = claimed.iter().map(|it| it.delivery.id).collect();
    assert_eq!((claimed.len(), ids.len()), (20, 20));
    assert!(claimed.iter().all(|it| it.delivery.attempts == 1));
    assert!(claimed.iter().all(|it| it.event.id == it.delivery.event_id));
}

/// A claim that ran out is another's, and its first holder settles nothing.
pub async fn a_claim_that_ran_out_is_anothers(store: &Arc<dyn Store>) {
    let at = endpoint(store, &[EventKind::GrantRevoked]).await.id;
    happen(store, EventKind::GrantRevoked, Some(1)).await;
    store.webhooks().fan_out(at, 1000).await.unwrap();
    let first = store.webhooks().claim(at, 9, Duration::ZERO).await.unwrap();
    let second = claim(store, at).await;
    assert_eq!(told(&first), told(&second));
    assert_eq!((first[0].delivery.attempts, second[0].delivery.attempts), (1, 2));
    assert!(!settle(store, &first[0], DELIVERED).await);
    assert!(!settle(store, &first[0], dead()).await);
    assert!(settle(store, &second[0], DELIVERED).await);
    assert!(!settle(store, &second[0], DELIVERED).await, "it is settled already");
    assert!(claim(store, at).await.is_empty());
    let done = deliveries(store, at, Some(DeliveryStatus::Delivered)).await;
    assert_eq!((done.len(), done[0].last_status), (1, Some(204)));
    assert!(done[0].settled_at.is_some() && done[0].last_error.is_none());
}

/// What concerns one identity is told in order: a later event waits until the earlier arrived or
/// was given up; other identities, and what concerns none, do not wait.
pub async fn deliveries_of_one_identity_come_in_order(store: &Arc<dyn Store>) {
    let at = endpoint(store, &[EventKind::GrantRevoked]).await.id;
    let other = endpoint(store, &[EventKind::GrantRevoked]).await.id;
    let mut of = Vec::new();
    for identity in [Some(1), Some(1), Some(2), None, None, Some(1)] {
        of.push(happen(store, EventKind::GrantRevoked, identity).await);
    }
    let first = claim(store, at).await;
    assert_eq!(told(&first), [of[0], of[2], of[3], of[4]]);
    assert!(claim(store, at).await.is_empty(), "the others wait");

    assert!(settle(store, &first[0], retry(LONG)).await);
    assert!(claim(store, at).await.is_empty(), "until the first has arrived");
    let tried = deliveries(store, at, None).await.remove(0);
    assert_eq!(tried.last_error.as_deref(), Some("no answer"));
    assert!(tried.next_attempt_at > super::now() + Duration::from_mins(5));

    // The other endpoint is on its own.
    let others = claim(store, other).await;
    assert_eq!(told(&others), [of[0], of[2], of[3], of[4]]);
    assert!(settle(store, &others[0], retry(Duration::ZERO)).await);
    let again = claim(store, other).await;
    assert_eq!(told(&again), [of[0]]);
    assert_eq!(again[0].delivery.attempts, 2);
    assert!(settle(store, &again[0], DELIVERED).await);
    let second = claim(store, other).await;
    assert_eq!(told(&second), [of[1]]);
    assert!(settle(store, &second[0], dead()).await);
    let third = claim(store, other).await;
    assert_eq!(told(&third), [of[5]], "what was given up stands in nobody's way");
}

/// Giving up is told, but not for ever: neither to the endpoint itself nor when a failure was what
/// could not be told.
pub async fn giving_up_is_told_once(store: &Arc<dyn Store>) {
    let at = endpoint(store, &[EventKind::GrantRevoked, EventKind::WebhookDeliveryFailed]).await.id;
    let other = endpoint(store, &[EventKind::WebhookDeliveryFailed]).await.id;
    let event = happen(store, EventKind::GrantRevoked, Some(1)).await;
    let claimed = claim(store, at).await;
    assert!(settle(store, &claimed[0], dead()).await);
    let failed = last_event(store).await;
    assert_eq!(failed.about, EventKind::WebhookDeliveryFailed);
    assert_eq!(failed.actor, Actor::replica("replica-1"));
    for (key, value) in [
        ("endpoint_id", at.0),
        ("delivery_id", claimed[0].delivery.id.0),
        ("event_id", event.0),
        ("attempts", 1),
        ("status", 500),
    ] {
        assert_eq!(failed.detail[key], value, "{key}");
    }

    assert!(claim(store, at).await.is_empty(), "its own failure");
    let claimed = claim(store, other).await;
    assert_eq!(told(&claimed), [failed.id]);
    assert!(settle(store, &claimed[0], dead()).await);
    assert_eq!(last_event(store).await.id, failed.id);
}

/// What was given up is replayed, one or all, with all its attempts; so is what arrived. It is told
/// of by whoever asked for it, with what it was.
pub async fn what_was_given_up_is_replayed(store: &Arc<dyn Store>) {
    let at = endpoint(store, &[EventKind::GrantRevoked]).await.id;
    let other = endpoint(store, &[EventKind::GrantRevoked]).await.id;
    for _ in 0..4 {
        happen(store, EventKind::GrantRevoked, None).await;
    }
    let claimed = claim(store, at).await;
    assert!(settle(store, &claimed[0], DELIVERED).await);
    for claim in &claimed[1..3] {
        assert!(settle(store, claim, dead()).await);
    }
    let id = |nth: usize| claimed[nth].delivery.id;
    let webhooks = store.webhooks();
    let replay = async |at, id| webhooks.replay(at, id, &ACTOR).await.unwrap();
    let before = last_event(store).await.id;
    assert_eq!(replay(other, id(0)).await, None, "not another endpoint's");
    assert_eq!(last_event(store).await.id, before);
    for nth in [0, 1] {
        let replayed = replay(at, id(nth)).await.unwrap();
        assert_eq!((replayed.status, replayed.attempts), (DeliveryStatus::Pending, 0));
        let event = last_event(store).await;
        assert_eq!((event.about, &event.actor), (EventKind::WebhookDeliveryReplayed, &ACTOR));
        let of = claimed[nth].event.id.0;
        let told = json!({"endpoint_id": at.0, "replayed": 1, "event_ids": [of]});
        assert_eq!(Value::Object(event.detail), told);
    }
    let before = last_event(store).await.id;
    let under_way = replay(at, id(3)).await.unwrap();
    assert_eq!(under_way.attempts, 1, "what is under way stays as it is");
    assert_eq!(last_event(store).await.id, before, "and is not told of");
    let again = claim(store, at).await;
    assert_eq!(again.iter().map(|it| it.delivery.id).collect::<Vec<_>>(), [id(0), id(1)]);
    assert!(settle(store, &again[1], dead()).await);

    assert_eq!(webhooks.replay_dead(at, &ACTOR).await.unwrap(), 2);
    let event = last_event(store).await;
    assert_eq!((event.about, &event.actor), (EventKind::WebhookDeliveryReplayed, &ACTOR));
    let of = [claimed[1].event.id.0, claimed[2].event.id.0];
    let told = json!({"endpoint_id": at.0, "replayed": 2, "event_ids": of});
    assert_eq!(Value::Object(event.detail), told);
    assert_eq!(webhooks.replay_dead(at, &ACTOR).await.unwrap(), 0);
    assert_eq!(last_event(store).await.id, event.id, "nothing was, and nothing is told");
    let ids: BTreeSet<_> = claim(store, at).await.iter().map(|it| it.delivery.id).collect();
    assert_eq!(ids, BTreeSet::from([id(1), id(2)]));
}

/// Deliveries that arrived are forgotten after a time, and do not come again; nothing else is.
pub async fn deliveries_that_arrived_are_forgotten(store: &Arc<dyn Store>) {
    let at = endpoint(store, &[EventKind::GrantRevoked]).await.id;
    assert_eq!(store.webhooks().oldest_pending().await.unwrap(), None);
    for _ in 0..3 {
        happen(store, EventKind::GrantRevoked, None).await;
    }
    let claimed = claim(store, at).await;
    let oldest = store.webhooks().oldest_pending().await.unwrap();
    assert_eq!(oldest, Some(claimed[0].delivery.created_at));
    assert!(settle(store, &claimed[0], DELIVERED).await);
    assert!(settle(store, &claimed[1], dead()).await);
    assert_eq!(store.webhooks().sweep(LONG).await.unwrap(), 0);
    assert_eq!(store.webhooks().sweep(Duration::ZERO).await.unwrap(), 1);
    store.webhooks().fan_out(at, 1000).await.unwrap();
    let left = deliveries(store, at, None).await;
    assert_eq!(
        left.iter().map(|it| it.status).collect::<Vec<_>>(),
        [DeliveryStatus::Dead, DeliveryStatus::Pending]
    );

    let off = WebhookEndpointUpdate { enabled: Some(false), ..Default::default() };
    store.webhooks().update(at, &off, &ACTOR).await.unwrap();
    assert_eq!(store.webhooks().oldest_pending().await.unwrap(), None, "it is off");
    assert!(store.webhooks().claim(at, 9, LONG).await.unwrap().is_empty());
}
