//! Who is harmed by a failed refresh, and who is told.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::TimeDelta;
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::json;
use symbolon_domain::{
    Error,
    event::{Actor, Event, EventKind, NewEvent},
    identity::IdentityStatus,
    ids::{ExternalId, IdentityId},
    page::{Page, PageRequest},
    ports::{
        ConnectorError, EventFilter, EventLog, IdentityRepository as _, Link, LinkOutcome,
        RepositoryError, Sent,
    },
    services::{Identities, TokenNeed, TokenPorts, TokenSettings, Tokens},
    testing::{MemoryStore, RefreshFault, fixtures},
};

use crate::world::{CALL_TIMEOUT, World};

async fn another_identity(world: &World, number: u32) -> IdentityId {
    let account = format!("account-{number}");
    let link = Link {
        provider_id: world.provider_id,
        owner: fixtures::owner(&format!("user-{number}")),
        external_id: ExternalId::new(account.clone()).unwrap(),
        credentials: Some(world.provider.grant(&account)),
        ..fixtures::link()
    };
    match world.store.link(&link).await.unwrap() {
        LinkOutcome::Created(identity) => identity.id,
        other => panic!("{other:?}"),
    }
}

fn client_rejected(code: &str) -> ConnectorError {
    ConnectorError::ClientRejected { code: code.into() }
}

/// Refreshes by force; every failure but that of the provider's outage can be tried again at once.
async fn refresh(world: &World, tokens: &Tokens, id: IdentityId) -> Result<(), Error> {
    let result = tokens.refresh(id).await;
    world.tasks.drain().await;
    result
}

async fn refuse(world: &World, tokens: &Tokens, id: IdentityId, error: ConnectorError) {
    world.provider.fail_next([RefreshFault::Refuse(error)]);
    refresh(world, tokens, id).await.unwrap_err();
}

/// What the log says of the client, oldest first.
async fn told(world: &World) -> Vec<&'static str> {
    let filter = EventFilter {
        kinds: vec![EventKind::ProviderClientRejected, EventKind::ProviderClientAccepted],
        provider_id: Some(world.provider_id),
        ..EventFilter::default()
    };
    let page = EventLog::list(&*world.store, &filter, PageRequest::default()).await.unwrap();
    page.items.iter().map(|it| it.about.as_str()).collect()
}

const REJECTED: &str = "provider.client_rejected";
const ACCEPTED: &str = "provider.client_accepted";

#[tokio::test]
async fn of_all_failures_only_a_rejected_grant_makes_an_identity_invalid() {
    let unavailable = |retry_after: Option<u64>, sent| ConnectorError::Unavailable {
        detail: "status 503".into(),
        retry_after: retry_after.map(Duration::from_secs),
        sent,
    };
    let text = || "words of ours".to_owned();
    let table = [
        (ConnectorError::GrantRejected { code: "bad_refresh_token".into() }, true),
        (ConnectorError::GrantRejected { code: "invalid_grant".into() }, true),
        (client_rejected("invalid_client"), false),
        (client_rejected("unauthorized_client"), false),
        (client_rejected("invalid_scope"), false),
        (client_rejected("unrecognized_error"), false),
        (client_rejected("http_401"), false),
        (ConnectorError::Misconfigured { detail: text() }, false),
        (ConnectorError::Untrusted { detail: text() }, false),
        (unavailable(None, Sent::No), false),
        (unavailable(None, Sent::Answered), false),
        (unavailable(Some(1), Sent::Answered), false),
        (unavailable(Some(86_400), Sent::Answered), false),
        // Once; and once more after the careful retry, which is answered.
        (unavailable(None, Sent::Unknown), false),
    ];
    for (error, invalid) in table {
        let world = World::new().await;
        let (id, other) = (world.identity().await, another_identity(&world, 2).await);
        let tokens = world.replica("a");
        world.provider.fail_next([RefreshFault::Refuse(error.clone())]);
        let result = refresh(&world, &tokens, id).await;
        let expected = if invalid { IdentityStatus::Invalid } else { IdentityStatus::Valid };
        assert_eq!(world.find(id).await.status, expected, "{error}");
        assert_eq!(world.find(other).await.status, IdentityStatus::Valid, "{error}");
        let events = world.events(EventKind::IdentityInvalidated).await;
        assert_eq!(events.len(), usize::from(invalid), "{error}");
        match &error {
            ConnectorError::GrantRejected { .. } => {
                assert!(matches!(result, Err(Error::IdentityNotValid { .. })), "{error}");
            }
            ConnectorError::ClientRejected { .. } | ConnectorError::Misconfigured { .. } => {
                assert!(matches!(result, Err(Error::ProviderMisconfigured { .. })), "{error}");
            }
            ConnectorError::Unavailable { sent: Sent::Unknown, .. } => result.unwrap(),
            _ => assert!(matches!(result, Err(Error::ProviderUnavailable { .. })), "{error}"),
        }
        // What was not invalidated works again when the provider does.
        if !invalid {
            world.clock.advance(TimeDelta::hours(2));
            tokens.issue(id, &TokenNeed::default()).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_rejected_client_harms_no_identity_and_is_told_once() {
    let world = World::new().await;
    let tokens = world.replica("a");
    let mut ids = vec![world.identity().await];
    for number in 2..=5 {
        ids.push(another_identity(&world, number).await);
    }
    world.expire();
    for _ in 0..3 {
        for id in &ids {
            refuse(&world, &tokens, *id, client_rejected("invalid_client")).await;
        }
    }
    for id in &ids {
        assert_eq!(world.find(*id).await.status, IdentityStatus::Valid);
    }
    let events = world.events(EventKind::ProviderClientRejected).await;
    let [event] = &events[..] else { panic!("{events:?}") };
    assert_eq!(event.provider_id, Some(world.provider_id));
    assert_eq!(event.identity_id, None);
    assert_eq!(event.actor, Actor::replica("a"));
    assert_eq!(json!(event.detail), json!({"error": "invalid_client"}));

    // The operator has mended it.
    for id in &ids {
        refresh(&world, &tokens, *id).await.unwrap();
    }
    assert_eq!(told(&world).await, [REJECTED, ACCEPTED]);

    refuse(&world, &tokens, ids[0], client_rejected("invalid_client")).await;
    refresh(&world, &tokens, ids[0]).await.unwrap();
    assert_eq!(told(&world).await, [REJECTED, ACCEPTED, REJECTED, ACCEPTED]);
}

#[tokio::test]
async fn a_client_that_always_worked_is_not_worth_an_event() {
    let world = World::new().await;
    let id = world.identity().await;
    let tokens = world.replica("a");
    refresh(&world, &tokens, id).await.unwrap();
    refuse(&world, &tokens, id, ConnectorError::GrantRejected { code: "invalid_grant".into() })
        .await;
    assert!(told(&world).await.is_empty());
}

#[tokio::test]
async fn one_identitys_odd_error_is_not_the_clients() {
    let world = World::new().await;
    let (odd, fine) = (world.identity().await, another_identity(&world, 2).await);
    let tokens = world.replica("a");
    for _ in 0..4 {
        refuse(&world, &tokens, odd, client_rejected("invalid_scope")).await;
        refuse(&world, &tokens, odd, client_rejected("invalid_scope")).await;
        refresh(&world, &tokens, fine).await.unwrap();
    }
    assert!(told(&world).await.is_empty());
    for _ in 0..3 {
        refuse(&world, &tokens, odd, client_rejected("invalid_scope")).await;
    }
    assert_eq!(told(&world).await, [REJECTED]);
}

#[tokio::test]
async fn outages_say_nothing_of_the_client() {
    let world = World::new().await;
    let id = world.identity().await;
    let tokens = world.replica("a");
    refuse(&world, &tokens, id, client_rejected("invalid_client")).await;
    refuse(&world, &tokens, id, ConnectorError::Misconfigured { detail: "x".into() }).await;
    assert_eq!(told(&world).await, [REJECTED]);
}

#[tokio::test]
async fn another_replica_and_a_restart_do_not_tell_it_again() {
    let world = World::new().await;
    let id = world.identity().await;
    refuse(&world, &world.replica("a"), id, client_rejected("invalid_client")).await;
    refuse(&world, &world.replica("b"), id, client_rejected("invalid_client")).await;
    refuse(&world, &world.replica("a"), id, client_rejected("invalid_client")).await;
    assert_eq!(told(&world).await, [REJECTED]);
    // Whoever sees it first tells that it works again.
    refresh(&world, &world.replica("c"), id).await.unwrap();
    refresh(&world, &world.replica("d"), id).await.unwrap();
    assert_eq!(told(&world).await, [REJECTED, ACCEPTED]);
}

/// Replica `b` knew of the rejection; `a` told that it works again, and is gone before the next.
#[tokio::test]
async fn what_a_replica_took_for_told_is_looked_up_again_after_a_while() {
    let world = World::new().await;
    let id = world.identity().await;
    let (a, b) = (world.replica("a"), world.replica("b"));
    refuse(&world, &b, id, client_rejected("invalid_client")).await;
    refresh(&world, &a, id).await.unwrap();
    assert_eq!(told(&world).await, [REJECTED, ACCEPTED]);
    refuse(&world, &b, id, client_rejected("invalid_client")).await;
    assert_eq!(told(&world).await, [REJECTED, ACCEPTED]);
    world.clock.advance(TimeDelta::minutes(10));
    refuse(&world, &b, id, client_rejected("invalid_client")).await;
    assert_eq!(told(&world).await, [REJECTED, ACCEPTED, REJECTED]);
}

#[tokio::test]
async fn the_gauge_shows_whether_the_client_is_rejected_now() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let world = World::new().await;
    let id = world.identity().await;
    let tokens = world.replica("a");
    let line = |value| {
        format!(
            "symbolon_provider_client_rejected{{provider_id=\"{}\"}} {value}",
            world.provider_id
        )
    };
    refuse(&world, &tokens, id, client_rejected("invalid_client")).await;
    assert!(recorder.handle().render().contains(&line(1)), "{}", recorder.handle().render());
    refresh(&world, &tokens, id).await.unwrap();
    assert!(recorder.handle().render().contains(&line(0)), "{}", recorder.handle().render());
}

/// A log that can be out of order.
struct Shaky {
    store: Arc<MemoryStore>,
    broken: AtomicBool,
}

#[async_trait]
impl EventLog for Shaky {
    async fn append(&self, event: &NewEvent) -> Result<(), RepositoryError> {
        EventLog::append(&*self.store, event).await
    }

    async fn append_turn(
        &self,
        event: &NewEvent,
        opposite: EventKind,
        may_come_first: bool,
    ) -> Result<bool, RepositoryError> {
        if self.broken.load(Ordering::SeqCst) {
            return Err(RepositoryError::Store("the log is out of order".into()));
        }
        self.store.append_turn(event, opposite, may_come_first).await
    }

    async fn list(
        &self,
        filter: &EventFilter,
        page: PageRequest,
    ) -> Result<Page<Event>, RepositoryError> {
        EventLog::list(&*self.store, filter, page).await
    }

    async fn find_last(&self, filter: &EventFilter) -> Result<Option<Event>, RepositoryError> {
        EventLog::find_last(&*self.store, filter).await
    }
}

#[tokio::test]
async fn what_could_not_be_written_is_written_with_the_next_answer() {
    let world = World::new().await;
    let id = world.identity().await;
    let log = Arc::new(Shaky { store: world.store.clone(), broken: AtomicBool::new(true) });
    let identities = Identities {
        identities: world.store.clone(),
        events: log.clone(),
        providers: world.providers.clone(),
        revocations: world.revocations.clone(),
        clock: world.clock.clone(),
    };
    let ports = TokenPorts {
        credentials: world.store.clone(),
        providers: world.providers.clone(),
        identities: Arc::new(identities),
        clock: world.clock.clone(),
        tasks: world.tasks.clone(),
    };
    let settings = TokenSettings {
        public_url: None,
        margin: Duration::from_mins(1),
        call_timeout: CALL_TIMEOUT,
        concurrency_per_provider: 16,
        replica: "a".into(),
    };
    let tokens = Tokens::new(ports, settings);
    refuse(&world, &tokens, id, client_rejected("invalid_client")).await;
    assert!(told(&world).await.is_empty());
    log.broken.store(false, Ordering::SeqCst);
    refuse(&world, &tokens, id, client_rejected("invalid_client")).await;
    assert_eq!(told(&world).await, [REJECTED]);
}
