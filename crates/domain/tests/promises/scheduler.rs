//! Refreshed before anybody asks: fair, within its rate, and without a stampede.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use symbolon_domain::{
    credentials::Credentials,
    event::{Actor, EventKind},
    identity_provider::{IdentityProvider, ProviderOptions, ProviderSecrets, ProviderType},
    ids::{IdentityId, ProviderId},
    ports::{
        Clock, Connector, ConnectorError, Connectors, IdentityProviderRepository as _,
        IdentityRepository, InvalidConfig, Link, LinkOutcome, NewIdentityProvider, Sent,
    },
    refresh_plan::RefreshPlan,
    services::{
        Identities, Providers, Revocations, Scheduler, SchedulerSettings, Tasks, TokenNeed,
        TokenPorts, TokenSettings, Tokens,
    },
    testing::{MemoryStore, RefreshFault, ScriptedProvider, fixtures},
};
use tokio::time::Instant;

const CALL_TIMEOUT: Duration = Duration::from_secs(10);
const MARGIN: Duration = Duration::from_mins(5);

/// The time of the runtime, which a test turns forward.
struct VirtualClock(Instant);

impl Clock for VirtualClock {
    fn now(&self) -> DateTime<Utc> {
        fixtures::NOW + TimeDelta::from_std(self.0.elapsed()).unwrap()
    }
}

/// Providers in memory, by the `external_id` of their instance.
struct Catalog(BTreeMap<String, ScriptedProvider>);

impl Connectors for Catalog {
    fn types(&self) -> Vec<ProviderType> {
        self.0.values().next().unwrap().types()
    }

    fn check(
        &self,
        _: &str,
        _: &serde_json::Map<String, serde_json::Value>,
        _: &ProviderSecrets,
    ) -> Result<(), InvalidConfig> {
        Ok(())
    }

    fn connect(
        &self,
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
    ) -> Result<Arc<dyn Connector>, InvalidConfig> {
        self.0[provider.external_id.as_deref().unwrap()].connect(provider, secrets)
    }
}

struct World {
    clock: Arc<VirtualClock>,
    store: Arc<MemoryStore>,
    providers: BTreeMap<&'static str, (ProviderId, ScriptedProvider)>,
    services: (Arc<Providers>, Arc<Identities>),
    tasks: Tasks,
}

impl World {
    async fn with(names: &[&'static str]) -> Self {
        Self::planning(names, RefreshPlan { ahead: Some(MARGIN * 3), margin: MARGIN }).await
    }

    async fn planning(names: &[&'static str], plan: RefreshPlan) -> Self {
        let clock = Arc::new(VirtualClock(Instant::now()));
        let store = Arc::new(MemoryStore::planning(clock.clone(), plan));
        let mut providers = BTreeMap::new();
        for &name in names {
            let time = clock.clone();
            let scripted = ScriptedProvider::new(TimeDelta::hours(1), move || time.now());
            let new = NewIdentityProvider {
                provider_type: "scripted".into(),
                external_id: Some(name.into()),
                config: serde_json::Map::new(),
                secrets: ProviderSecrets::new(),
                options: ProviderOptions::default(),
            };
            let made = store.insert(&new, &Actor::OPERATOR).await.unwrap();
            providers.insert(name, (made.id, scripted));
        }
        let scripted = providers.iter().map(|(name, it)| ((*name).to_owned(), it.1.clone()));
        let connectors = Arc::new(Catalog(scripted.collect()));
        let tasks = Tasks::default();
        let known = Arc::new(Providers { providers: store.clone(), connectors, public_url: None });
        let revocations = Arc::new(Revocations {
            queue: store.clone(),
            identities: store.clone(),
            auth_identities: store.clone(),
            credentials: store.clone(),
            providers: known.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            timeout: CALL_TIMEOUT,
        });
        let identities = Arc::new(Identities {
            identities: store.clone(),
            events: store.clone(),
            providers: known.clone(),
            revocations,
            clock: clock.clone(),
        });
        Self { clock, store, providers, services: (known, identities), tasks }
    }

    fn tokens(&self, replica: &str) -> Tokens {
        let ports = TokenPorts {
            credentials: self.store.clone(),
            providers: self.services.0.clone(),
            identities: self.services.1.clone(),
            clock: self.clock.clone(),
            tasks: self.tasks.clone(),
        };
        let settings = TokenSettings {
            public_url: None,
            margin: MARGIN,
            call_timeout: CALL_TIMEOUT,
            concurrency_per_provider: 8,
            replica: replica.into(),
        };
        Tokens::new(ports, settings)
    }

    fn scheduler(&self, tokens: &Tokens, per_second_per_provider: u32) -> Scheduler {
        let settings = SchedulerSettings {
            per_second_per_provider,
            at_once_per_provider: 6,
            urgent_for: MARGIN,
            claim: Duration::from_mins(2),
        };
        let store = self.store.clone();
        Scheduler::new(store, tokens.clone(), self.clock.clone(), self.tasks.clone(), settings)
    }

    fn provider(&self, name: &str) -> &ScriptedProvider {
        &self.providers[name].1
    }

    async fn link(&self, provider: &str, account: &str) -> IdentityId {
        let credentials = Some(self.provider(provider).grant(account));
        self.link_with(provider, account, credentials).await
    }

    async fn link_with(
        &self,
        provider: &str,
        account: &str,
        credentials: Option<Credentials>,
    ) -> IdentityId {
        let link = Link {
            provider_id: self.providers[provider].0,
            owner: fixtures::owner(account),
            external_id: fixtures::external_id(account),
            credentials,
            ..fixtures::link()
        };
        match self.store.link(&link).await.unwrap() {
            LinkOutcome::Created(identity) => identity.id,
            other => panic!("{other:?}"),
        }
    }

    async fn link_many(&self, provider: &str, count: usize) {
        for n in 0..count {
            self.link(provider, &format!("{provider}-{n}")).await;
        }
    }

    async fn expires_at(&self, id: IdentityId) -> DateTime<Utc> {
        let found = IdentityRepository::find(&*self.store, id).await.unwrap();
        found.unwrap().expires_at.unwrap()
    }
}

/// Runs schedulers for this long, as the service does.
async fn run(schedulers: &[Scheduler], time: Duration) {
    run_every(Duration::from_millis(100), schedulers, time).await;
}

/// The same, looking this often.
async fn run_every(pause: Duration, schedulers: &[Scheduler], time: Duration) {
    let end = Instant::now() + time;
    let mut first = 0;
    while Instant::now() < end {
        // None is always the first to look.
        for place in 0..schedulers.len() {
            schedulers[(first + place) % schedulers.len()].pass().await.unwrap();
        }
        first += 1;
        tokio::time::sleep(pause).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_refreshed_before_it_is_within_the_margin_and_nobody_asked() {
    let world = World::with(&["p"]).await;
    let id = world.link("p", "a").await;
    let scheduler = world.scheduler(&world.tokens("one"), 100);
    let first = world.expires_at(id).await;
    let second = Duration::from_secs(1);
    run_every(second, std::slice::from_ref(&scheduler), Duration::from_mins(44)).await;
    assert_eq!(world.provider("p").refreshes(), 0);
    run_every(second, &[scheduler], Duration::from_mins(11)).await;
    assert_eq!(world.provider("p").refreshes(), 1);
    assert!(world.expires_at(id).await > first);
    assert!(world.clock.now() <= first - TimeDelta::from_std(MARGIN).unwrap());
}

#[tokio::test(start_paused = true)]
async fn two_replicas_refresh_each_token_once_and_none_comes_too_late() {
    let world = World::with(&["p"]).await;
    world.link_many("p", 200).await;
    let schedulers = ["one", "two"].map(|replica| world.scheduler(&world.tokens(replica), 50));
    run_every(Duration::from_secs(1), &schedulers, Duration::from_mins(56)).await;
    assert_eq!(world.provider("p").refreshes(), 200);
    assert_eq!(world.provider("p").most_uses_of_one_token(), 1);
    let page = symbolon_domain::page::PageRequest { limit: 200, after: None };
    let told = symbolon_domain::ports::EventFilter {
        kinds: vec![EventKind::IdentityRefreshed],
        ..Default::default()
    };
    let events = symbolon_domain::ports::EventLog::list(&*world.store, &told, page).await.unwrap();
    let replicas: std::collections::BTreeSet<_> =
        events.items.iter().map(|it| it.actor.who.to_string()).collect();
    assert_eq!(replicas.len(), 2, "both had a part in it: {replicas:?}");
}

#[tokio::test(start_paused = true)]
async fn a_provider_with_thousands_due_does_not_starve_one_with_ten() {
    let world = World::with(&["big", "small"]).await;
    world.link_many("big", 3000).await;
    world.link_many("small", 10).await;
    tokio::time::advance(Duration::from_hours(2)).await;
    let scheduler = world.scheduler(&world.tokens("one"), 20);
    while scheduler.pass().await.unwrap().planned > 0 {}
    run(&[scheduler], Duration::from_secs(2)).await;
    assert_eq!(world.provider("small").refreshes(), 10);
    assert!(world.provider("big").refreshes() < 100);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_the_backlog_is_worked_off_at_the_rate_and_not_at_once() {
    let world = World::with(&["p"]).await;
    world.link_many("p", 1000).await;
    tokio::time::advance(Duration::from_hours(2)).await;
    let schedulers =
        ["one", "two", "three"].map(|replica| world.scheduler(&world.tokens(replica), 20));
    let mut before = 0;
    for second in 1..=45 {
        run(&schedulers, Duration::from_secs(1)).await;
        let refreshed = world.provider("p").refreshes();
        // What one second keeps comes on top, once.
        assert!(refreshed - before <= 20 + 20, "{} in second {second}", refreshed - before);
        assert!(refreshed <= 20 * (second + 1), "{refreshed} after {second} s");
        before = refreshed;
    }
    assert!(before >= 20 * 44, "{before}");
}

#[tokio::test(start_paused = true)]
async fn what_asks_for_time_gets_it_at_every_replica() {
    let world = World::with(&["p"]).await;
    world.link_many("p", 200).await;
    tokio::time::advance(Duration::from_hours(2)).await;
    let busy = ConnectorError::Unavailable {
        detail: "429".into(),
        retry_after: Some(Duration::from_secs(30)),
        sent: Sent::Answered,
    };
    world.provider("p").fail_next(std::iter::repeat_n(RefreshFault::Refuse(busy), 3));
    let schedulers = ["one", "two"].map(|replica| world.scheduler(&world.tokens(replica), 10));
    run(&schedulers, Duration::from_secs(29)).await;
    let asked = world.provider("p").refreshes();
    assert!((1..=12).contains(&asked), "{asked} calls although it asked for time");
    run(&schedulers, Duration::from_mins(1)).await;
    assert!(world.provider("p").refreshes() >= asked + 150);
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_rejects_our_client_is_tried_about_once_a_minute_and_harms_nobody() {
    let world = World::with(&["p"]).await;
    world.link_many("p", 300).await;
    tokio::time::advance(Duration::from_hours(2)).await;
    let rejected = ConnectorError::ClientRejected { code: "invalid_client".into() };
    world.provider("p").fail_next(std::iter::repeat_n(RefreshFault::Refuse(rejected), 1000));
    let scheduler = world.scheduler(&world.tokens("one"), 100);
    run(std::slice::from_ref(&scheduler), Duration::from_mins(10)).await;
    let asked = world.provider("p").refreshes();
    assert!((6..=30).contains(&asked), "{asked}");
}

#[tokio::test(start_paused = true)]
async fn a_provider_that_hangs_delays_nobody_elses_tokens() {
    let world = World::with(&["good", "hangs"]).await;
    let mut good = Vec::new();
    let mut hanging = Vec::new();
    for n in 0..40 {
        good.push(world.link("good", &format!("g{n}")).await);
        hanging.push(world.link("hangs", &format!("h{n}")).await);
    }
    world.provider("hangs").fail_next(std::iter::repeat_n(RefreshFault::Hang, 10_000));
    world.provider("hangs").set_reachable(false);
    tokio::time::advance(Duration::from_hours(2)).await;
    let tokens = world.tokens("one");
    let scheduler = world.scheduler(&tokens, 100);
    let callers: Vec<_> = hanging
        .iter()
        .map(|&id| {
            let tokens = tokens.clone();
            tokio::spawn(async move { tokens.issue(id, &TokenNeed::default()).await })
        })
        .collect();
    // Everybody who asks at the other provider has a token at once, by the clock that stands
    // still while nobody waits.
    let started = Instant::now();
    for id in &good[..20] {
        tokens.issue(*id, &TokenNeed::default()).await.unwrap();
    }
    assert!(started.elapsed() < Duration::from_millis(1), "{:?}", started.elapsed());
    run(std::slice::from_ref(&scheduler), Duration::from_secs(2)).await;
    assert_eq!(world.provider("good").refreshes(), 40);

    // Those who wait for the one that hangs are told so as soon as that is known.
    for caller in callers {
        let error = caller.await.unwrap().unwrap_err();
        assert!(matches!(error, symbolon_domain::Error::ProviderUnavailable { .. }), "{error:?}");
    }
    assert!(started.elapsed() <= CALL_TIMEOUT * 3, "{:?}", started.elapsed());
    let (refused_at, asked) = (Instant::now(), world.provider("hangs").refreshes());
    for id in &hanging {
        tokens.issue(*id, &TokenNeed::default()).await.unwrap_err();
    }
    assert!(refused_at.elapsed() < Duration::from_millis(1), "{:?}", refused_at.elapsed());
    assert_eq!(world.provider("hangs").refreshes(), asked);
}

#[tokio::test(start_paused = true)]
async fn when_a_provider_is_back_one_call_finds_out_and_the_rest_follows() {
    let world = World::with(&["p"]).await;
    world.link_many("p", 50).await;
    tokio::time::advance(Duration::from_hours(2)).await;
    world.provider("p").fail_next(std::iter::repeat_n(RefreshFault::LoseRequest, 5));
    let scheduler = world.scheduler(&world.tokens("one"), 100);
    world.provider("p").set_reachable(false);
    run(std::slice::from_ref(&scheduler), Duration::from_secs(10)).await;
    world.provider("p").set_reachable(true);
    run(&[scheduler], Duration::from_mins(5)).await;
    // Five went unanswered; each has had its one careful retry, and nobody is lost.
    let page = symbolon_domain::page::PageRequest { limit: 200, after: None };
    let told = symbolon_domain::ports::EventFilter {
        kinds: vec![EventKind::IdentityRefreshed],
        ..Default::default()
    };
    let events = symbolon_domain::ports::EventLog::list(&*world.store, &told, page).await.unwrap();
    assert_eq!(events.items.len(), 50);
}

#[tokio::test(start_paused = true)]
async fn an_idle_refresh_token_is_kept_alive_also_where_nothing_is_refreshed_ahead() {
    let world = World::planning(&["p"], RefreshPlan { ahead: None, margin: MARGIN }).await;
    let lapses = Credentials {
        refresh_expires_at: Some(fixtures::NOW + TimeDelta::days(30)),
        ..world.provider("p").grant("a")
    };
    world.link_with("p", "a", Some(lapses)).await;
    world.link("p", "b").await;
    let scheduler = world.scheduler(&world.tokens("one"), 100);
    for _ in 0..29 {
        scheduler.pass().await.unwrap();
        tokio::time::advance(Duration::from_hours(24)).await;
    }
    world.tasks.drain().await;
    assert_eq!(world.provider("p").refreshes(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_has_not_begun_at_a_shutdown_is_anothers_at_once() {
    let world = World::with(&["p"]).await;
    world.link_many("p", 100).await;
    tokio::time::advance(Duration::from_hours(2)).await;
    let slow = RefreshFault::Delay(Duration::from_secs(5));
    world.provider("p").fail_next(std::iter::repeat_n(slow, 6));
    let one = world.scheduler(&world.tokens("one"), 1000);
    one.pass().await.unwrap();
    tokio::task::yield_now().await;
    one.stop().await;
    world.tasks.drain().await;
    assert_eq!(world.provider("p").refreshes(), 6, "what was under way is finished");
    let two = world.scheduler(&world.tokens("two"), 1000);
    run(&[two], Duration::from_secs(3)).await;
    assert_eq!(world.provider("p").refreshes(), 100);
    assert_eq!(world.provider("p").most_uses_of_one_token(), 1);
}
