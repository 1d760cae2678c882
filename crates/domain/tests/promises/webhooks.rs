//! What the dispatcher promises, over the in-memory store.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::TimeDelta;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use serde_json::Value;
use symbolon_domain::{
    event::{EventKind, NewEvent},
    ids::{IdentityId, WebhookEndpointId},
    page::PageRequest,
    ports::{
        EventFilter, EventLog as _, NewWebhookEndpoint, WebhookAnswer, WebhookMessage,
        WebhookRepository, WebhookSendError, WebhookSender,
    },
    services::{Busy, DeliverySettings, Tasks, WebhookDispatcher},
    testing::{MemoryStore, TestClock, fixtures},
    webhook::{DeliveryStatus, WebhookDelivery},
};
use url::Url;

/// What a receiver answers to its nth message, and what it was sent.
#[derive(Default)]
struct Receiver {
    script: Mutex<Vec<Result<u16, &'static str>>>,
    retry_after: Option<Duration>,
    received: Mutex<Vec<WebhookMessage>>,
    in_flight: Mutex<HashSet<(String, String)>>,
    takes: Duration,
}

#[async_trait]
impl WebhookSender for Receiver {
    fn check(&self, _: &Url) -> Result<(), WebhookSendError> {
        Ok(())
    }

    async fn send(&self, message: &WebhookMessage) -> Result<WebhookAnswer, WebhookSendError> {
        let key = (message.url.to_string(), message.id.clone());
        assert!(
            self.in_flight.lock().unwrap().insert(key.clone()),
            "sent twice at a time: {key:?}"
        );
        tokio::time::sleep(self.takes).await;
        self.in_flight.lock().unwrap().remove(&key);
        self.received.lock().unwrap().push(message.clone());
        let mut script = self.script.lock().unwrap();
        let answer = if script.is_empty() { Ok(204) } else { script.remove(0) };
        let retry_after = self.retry_after;
        answer
            .map(|status| WebhookAnswer { status, retry_after })
            .map_err(|error| WebhookSendError(error.into()))
    }
}

impl Receiver {
    fn answering(script: impl IntoIterator<Item = Result<u16, &'static str>>) -> Arc<Self> {
        Arc::new(Self { script: Mutex::new(script.into_iter().collect()), ..Self::default() })
    }

    /// The events that were received, by id, in their order.
    fn ids(&self) -> Vec<String> {
        self.received.lock().unwrap().iter().map(|it| it.id.clone()).collect()
    }
}

struct World {
    clock: Arc<TestClock>,
    store: Arc<MemoryStore>,
    receiver: Arc<Receiver>,
    endpoint: WebhookEndpointId,
}

impl World {
    async fn new(receiver: Arc<Receiver>) -> Self {
        let clock = Arc::new(TestClock::default());
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let endpoint = add_endpoint(&store, "https://receiver.example/hook").await;
        Self { clock, store, receiver, endpoint }
    }

    fn dispatcher(&self) -> WebhookDispatcher {
        WebhookDispatcher {
            webhooks: self.store.clone(),
            sender: self.receiver.clone(),
            clock: self.clock.clone(),
            tasks: Tasks::default(),
            settings: Arc::new(DeliverySettings {
                max_attempts: 3,
                first_retry: Duration::from_secs(5),
                concurrency: 4,
                lease: Duration::from_mins(1),
                replica: "replica-1".into(),
            }),
            busy: Busy::default(),
        }
    }

    async fn happen(&self, about: EventKind, identity: Option<i64>) -> String {
        let identity_id = identity.map(IdentityId);
        let event = NewEvent { identity_id, ..NewEvent::new(about, &fixtures::ACTOR) };
        self.store.append(&event).await.unwrap();
        let last = self.store.find_last(&EventFilter::default()).await.unwrap().unwrap();
        format!("evt_{}", last.id)
    }

    async fn deliveries(&self, status: DeliveryStatus) -> Vec<WebhookDelivery> {
        let page = PageRequest { limit: 200, after: None };
        self.store.list_deliveries(self.endpoint, Some(status), page).await.unwrap().items
    }

    async fn last_kind(&self) -> EventKind {
        self.store.find_last(&EventFilter::default()).await.unwrap().unwrap().about
    }
}

async fn add_endpoint(store: &MemoryStore, url: &str) -> WebhookEndpointId {
    let new = NewWebhookEndpoint {
        url: url.parse().unwrap(),
        kinds: vec![EventKind::IdentityLinked, EventKind::IdentityUnlinked],
        ..fixtures::new_webhook_endpoint()
    };
    WebhookRepository::insert(store, &new, &fixtures::ACTOR).await.unwrap().id
}

/// Lets a dispatcher do whatever is to be done now; how many tries it made.
async fn work(dispatcher: &WebhookDispatcher) -> u64 {
    let mut tries = 0;
    for task in dispatcher.pass(|| false).await.unwrap() {
        tries += task.await.unwrap();
    }
    tries
}

#[tokio::test(start_paused = true)]
async fn an_event_arrives_signed_as_get_v1_events_shows_it() {
    let world = World::new(Receiver::answering([])).await;
    let id = world.happen(EventKind::IdentityLinked, Some(7)).await;
    world.happen(EventKind::IdentityRefreshed, Some(7)).await;
    assert_eq!(work(&world.dispatcher()).await, 1);
    let received = world.receiver.received.lock().unwrap().remove(0);
    assert_eq!((received.id, received.at), (id, fixtures::NOW));
    assert_eq!(received.url.as_str(), "https://receiver.example/hook");
    assert_eq!(received.secrets, [fixtures::new_webhook_endpoint().secret]);
    let body: Value = serde_json::from_str(&received.body).unwrap();
    let filter = EventFilter { kinds: vec![EventKind::IdentityLinked], ..EventFilter::default() };
    let event = world.store.find_last(&filter).await.unwrap().unwrap();
    assert_eq!(body["type"], "identity.linked");
    assert_eq!(body["timestamp"], serde_json::json!(event.at));
    assert_eq!(body["data"], Value::Object(event.shown()));
    assert_eq!(world.deliveries(DeliveryStatus::Delivered).await.len(), 1);
    assert_eq!(work(&world.dispatcher()).await, 0, "once is enough");
}

#[tokio::test(start_paused = true)]
async fn events_of_one_identity_arrive_in_order_whatever_fails() {
    let world = World::new(Receiver::answering([Ok(500), Err("no answer")])).await;
    let dispatcher = world.dispatcher();
    let linked = world.happen(EventKind::IdentityLinked, Some(7)).await;
    let unlinked = world.happen(EventKind::IdentityUnlinked, Some(7)).await;
    assert_eq!(work(&dispatcher).await, 1, "the second waits");
    assert_eq!(work(&dispatcher).await, 0, "it is not time yet");
    world.clock.advance(TimeDelta::seconds(7));
    assert_eq!(work(&dispatcher).await, 1);
    world.clock.advance(TimeDelta::seconds(7));
    assert_eq!(work(&dispatcher).await, 0, "the second wait is longer");
    world.clock.advance(TimeDelta::seconds(14));
    assert_eq!(work(&dispatcher).await, 2);
    assert_eq!(world.receiver.ids(), [linked.clone(), linked.clone(), linked, unlinked]);
}

#[tokio::test(start_paused = true)]
async fn after_the_last_try_it_is_given_up_told_and_replayed() {
    let world = World::new(Receiver::answering([Ok(500), Ok(302), Err("no answer")])).await;
    let dispatcher = world.dispatcher();
    let linked = world.happen(EventKind::IdentityLinked, Some(7)).await;
    let unlinked = world.happen(EventKind::IdentityUnlinked, Some(7)).await;
    for _ in 0..2 {
        assert_eq!(work(&dispatcher).await, 1);
        world.clock.advance(TimeDelta::hours(7));
    }
    // The last try, and then the one that waited for it.
    assert_eq!(work(&dispatcher).await, 2);
    assert_eq!(world.receiver.ids().last(), Some(&unlinked));
    let dead = world.deliveries(DeliveryStatus::Dead).await;
    assert_eq!(dead.len(), 1);
    assert_eq!((dead[0].attempts, dead[0].last_error.as_deref()), (3, Some("no answer")));
    assert_eq!(world.last_kind().await, EventKind::WebhookDeliveryFailed);

    assert_eq!(world.store.replay_dead(world.endpoint, &fixtures::ACTOR).await.unwrap(), 1);
    assert_eq!(work(&dispatcher).await, 1);
    assert_eq!(world.receiver.ids().last(), Some(&linked));
    assert!(world.deliveries(DeliveryStatus::Dead).await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_asks_for_time_gets_it() {
    let receiver = Receiver {
        script: Mutex::new(vec![Ok(503)]),
        retry_after: Some(Duration::from_mins(20)),
        ..Receiver::default()
    };
    let world = World::new(Arc::new(receiver)).await;
    let dispatcher = world.dispatcher();
    world.happen(EventKind::IdentityLinked, None).await;
    assert_eq!(work(&dispatcher).await, 1);
    world.clock.advance(TimeDelta::minutes(19));
    assert_eq!(work(&dispatcher).await, 0);
    world.clock.advance(TimeDelta::minutes(2));
    assert_eq!(work(&dispatcher).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_is_gone_is_switched_off_and_caught_up_when_it_is_back() {
    let world = World::new(Receiver::answering([Ok(410)])).await;
    let dispatcher = world.dispatcher();
    let first = world.happen(EventKind::IdentityLinked, Some(1)).await;
    assert_eq!(work(&dispatcher).await, 1);
    let found = WebhookRepository::find(&*world.store, world.endpoint).await.unwrap().unwrap();
    assert!(!found.enabled);
    let last = world.store.find_last(&EventFilter::default()).await.unwrap().unwrap();
    assert_eq!(last.about, EventKind::WebhookEndpointUpdated);
    assert_eq!(last.actor.reason.as_deref(), Some("the receiver answered 410 Gone"));
    let second = world.happen(EventKind::IdentityLinked, Some(2)).await;
    world.clock.advance(TimeDelta::hours(1));
    assert_eq!(work(&dispatcher).await, 0);

    let on =
        symbolon_domain::ports::WebhookEndpointUpdate { enabled: Some(true), ..Default::default() };
    WebhookRepository::update(&*world.store, world.endpoint, &on, &fixtures::ACTOR).await.unwrap();
    assert_eq!(work(&dispatcher).await, 2);
    assert_eq!(world.receiver.ids(), [first.clone(), first, second]);
}

#[tokio::test(start_paused = true)]
async fn two_dispatchers_share_the_work_and_send_nothing_twice_at_a_time() {
    let receiver = Receiver { takes: Duration::from_secs(1), ..Receiver::default() };
    let world = World::new(Arc::new(receiver)).await;
    add_endpoint(&world.store, "https://other.example/hook").await;
    let mut expected: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for nth in 0..40 {
        let id = world.happen(EventKind::IdentityLinked, Some(nth % 5)).await;
        expected.entry(nth % 5).or_default().push(id);
    }
    let (one, two) = (world.dispatcher(), world.dispatcher());
    let (first, second) = tokio::join!(work(&one), work(&two));
    assert_eq!(first + second, 80);
    assert!(first > 0 && second > 0, "{first} and {second}");
    for host in ["receiver.example", "other.example"] {
        let taken = world.receiver.received.lock().unwrap();
        let mut told: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        for message in taken.iter().filter(|it| it.url.host_str() == Some(host)) {
            let body: Value = serde_json::from_str(&message.body).unwrap();
            let identity = body["data"]["identity_id"].as_i64().unwrap();
            told.entry(identity).or_default().push(message.id.clone());
        }
        assert_eq!(told, expected, "{host}: once, and in the order of each identity");
    }
}

#[tokio::test(start_paused = true)]
async fn one_dispatcher_is_at_an_endpoint_once_and_stops_between_batches() {
    let receiver = Receiver { takes: Duration::from_secs(1), ..Receiver::default() };
    let world = World::new(Arc::new(receiver)).await;
    let dispatcher = world.dispatcher();
    for nth in 0..9 {
        world.happen(EventKind::IdentityLinked, Some(nth)).await;
    }
    let busy = dispatcher.pass(|| false).await.unwrap();
    assert_eq!((busy.len(), dispatcher.pass(|| false).await.unwrap().len()), (1, 0));
    for task in busy {
        assert_eq!(task.await.unwrap(), 9);
    }
    world.happen(EventKind::IdentityLinked, Some(1)).await;
    for task in dispatcher.pass(|| true).await.unwrap() {
        assert_eq!(task.await.unwrap(), 0);
    }
    assert_eq!(work(&dispatcher).await, 1);
    assert_eq!(dispatcher.tasks.running(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_a_dead_process_had_claimed_is_sent_by_another() {
    let world = World::new(Receiver::answering([])).await;
    world.happen(EventKind::IdentityLinked, Some(1)).await;
    world.store.fan_out(world.endpoint, 10).await.unwrap();
    let claimed = world.store.claim(world.endpoint, 9, Duration::from_mins(1)).await.unwrap();
    assert_eq!(claimed.len(), 1);
    assert_eq!(work(&world.dispatcher()).await, 0, "it may be alive");
    world.clock.advance(TimeDelta::minutes(2));
    assert_eq!(work(&world.dispatcher()).await, 1);
}

/// Keeps what is counted and measured, by name and label.
#[derive(Default)]
struct Meter(Mutex<BTreeMap<String, Arc<AtomicU64>>>);

impl Meter {
    fn value(&self, key: &Key) -> Arc<AtomicU64> {
        let labels = key.labels().map(|it| format!(" {}={}", it.key(), it.value()));
        let name = key.name().to_owned() + &labels.collect::<String>();
        Arc::clone(self.0.lock().unwrap().entry(name).or_default())
    }

    fn count(&self, outcome: &str) -> u64 {
        let name = format!("symbolon_webhook_deliveries_total outcome={outcome}");
        self.0.lock().unwrap().get(&name).map_or(0, |it| it.load(Ordering::Relaxed))
    }

    fn oldest(&self) -> f64 {
        let values = self.0.lock().unwrap();
        f64::from_bits(
            values["symbolon_webhook_oldest_undelivered_seconds"].load(Ordering::Relaxed),
        )
    }
}

impl Recorder for Meter {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.value(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.value(key))
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test(start_paused = true)]
async fn each_try_is_counted_by_its_outcome_and_the_oldest_delivery_measured() {
    let meter = Meter::default();
    let _metering = metrics::set_default_local_recorder(&meter);
    let counts = || ["delivered", "retried", "dead"].map(|outcome| meter.count(outcome));
    let world = World::new(Receiver::answering([Ok(500), Err("no answer"), Ok(500)])).await;
    let dispatcher = world.dispatcher();
    dispatcher.sweep(Duration::from_hours(1)).await.unwrap();
    assert!(meter.oldest().abs() < 0.1, "nothing waits: {}", meter.oldest());

    world.happen(EventKind::IdentityLinked, Some(7)).await;
    for expected in [[0, 1, 0], [0, 2, 0]] {
        assert_eq!(work(&dispatcher).await, 1);
        assert_eq!(counts(), expected);
        world.clock.advance(TimeDelta::hours(7));
    }
    dispatcher.sweep(Duration::from_hours(1)).await.unwrap();
    assert!((meter.oldest() - 14.0 * 3600.0).abs() < 1.0, "{}", meter.oldest());
    assert_eq!(work(&dispatcher).await, 1);
    assert_eq!(counts(), [0, 2, 1], "given up");
    dispatcher.sweep(Duration::from_hours(1)).await.unwrap();
    assert!(meter.oldest().abs() < 0.1, "what was given up waits no more: {}", meter.oldest());

    world.store.replay_dead(world.endpoint, &fixtures::ACTOR).await.unwrap();
    assert_eq!(work(&dispatcher).await, 1);
    assert_eq!(counts(), [1, 2, 1]);
}
