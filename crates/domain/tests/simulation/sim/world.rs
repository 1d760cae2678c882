use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use symbolon_domain::{
    credentials::Credentials,
    event::Actor,
    identity::IdentityFilter,
    identity_provider::{ProviderOptions, ProviderSecrets},
    ids::{ExternalId, IdentityId, ProviderId, UserId},
    page::PageRequest,
    ports::{
        Clock, CredentialsRepository, IdentityProviderRepository, IdentityRepository, Lease, Link,
        LinkOwner, NewIdentityProvider, RepositoryError,
    },
    services::{Identities, Providers, Revocations, Tasks, TokenPorts, TokenSettings, Tokens},
    testing::{MemoryStore, fixtures},
};
use tokio::{sync::Notify, time::Instant};

use super::{
    mutant::Mutant,
    plan::{Away, CALL_TIMEOUT, Dice, MARGIN, Plan},
    ports::Ports,
    truth::{Process, Row, Truth},
};

/// One database, one provider, some replicas, and what is true of all of them.
pub(crate) struct World {
    pub(crate) plan: Plan,
    pub(crate) dice: Dice,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) provider_id: ProviderId,
    /// Rings with every change of the rows.
    pub(crate) bell: Notify,
    truth: Mutex<Truth>,
    replicas: Mutex<BTreeMap<usize, Replica>>,
    /// The lease that each row really has, for mutants.
    latest: Mutex<BTreeMap<IdentityId, Lease>>,
    mutant: Option<Mutant>,
    began: Instant,
    is_calm: AtomicBool,
    is_traced: bool,
}

/// The service under test, as one start of one replica has it.
#[derive(Clone)]
pub(crate) struct Replica {
    pub(crate) ports: Ports,
    pub(crate) tokens: Tokens,
    pub(crate) identities: Arc<Identities>,
    pub(crate) tasks: Tasks,
}

/// Whether a call comes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    Answers,
    Refuses,
    /// It stands still for this long.
    Waits(Duration),
}

/// True time.
struct WorldClock(Instant);

impl Clock for WorldClock {
    fn now(&self) -> DateTime<Utc> {
        at(self.0.elapsed())
    }
}

/// The time this long after the beginning.
pub(crate) fn at(elapsed: Duration) -> DateTime<Utc> {
    fixtures::NOW + elapsed
}

impl World {
    pub(crate) async fn new(
        seed: u64,
        mutant: Option<Mutant>,
        is_traced: bool,
    ) -> Result<Arc<Self>, RepositoryError> {
        let dice = Dice::new(seed);
        let plan = Plan::draw(&dice, seed);
        let began = Instant::now();
        let store = Arc::new(MemoryStore::new(Arc::new(WorldClock(began))));
        let provider = NewIdentityProvider {
            provider_type: "simulated".to_owned(),
            external_id: None,
            config: serde_json::Map::new(),
            secrets: ProviderSecrets::new(),
            options: ProviderOptions::default(),
        };
        let provider =
            IdentityProviderRepository::insert(&*store, &provider, &Actor::OPERATOR).await?;
        let world = Arc::new(Self {
            truth: Mutex::new(Truth::new(&plan)),
            plan,
            dice,
            store,
            provider_id: provider.id,
            bell: Notify::new(),
            replicas: Mutex::default(),
            latest: Mutex::default(),
            mutant,
            began,
            is_calm: AtomicBool::new(false),
            is_traced,
        });
        for slot in 0..world.plan.replicas {
            world.start(slot);
        }
        Ok(world)
    }

    /// Starts a replica, in place of the one that was there.
    pub(crate) fn start(self: &Arc<Self>, slot: usize) {
        let process = Process {
            name: String::new(),
            slot,
            crashed: None,
            stalled: None,
            failed: None,
            sign_of_life: None,
        };
        let mut truth = self.truth();
        let id = truth.processes.len();
        let name = format!("{}{id}", ["a", "b", "c", "d"][slot % 4]);
        truth.processes.push(Process { name: name.clone(), ..process });
        drop(truth);
        self.trace(&name, format_args!("starts"));

        let ports = Ports::new(self, id, slot, &name);
        let port = Arc::new(ports.clone());
        let tasks = Tasks::default();
        let providers = Arc::new(Providers {
            providers: port.clone(),
            connectors: port.clone(),
            public_url: None,
        });
        let revocations = Arc::new(Revocations {
            queue: port.clone(),
            identities: port.clone(),
            auth_identities: self.store.clone(),
            credentials: port.clone(),
            providers: providers.clone(),
            clock: port.clone(),
            tasks: tasks.clone(),
            timeout: CALL_TIMEOUT,
        });
        let identities = Arc::new(Identities {
            identities: port.clone(),
            events: self.store.clone(),
            providers: providers.clone(),
            revocations,
            clock: port.clone(),
        });
        let token_ports = TokenPorts {
            credentials: port.clone(),
            providers,
            identities: identities.clone(),
            clock: port,
            tasks: tasks.clone(),
        };
        let tokens = Tokens::new(token_ports, Self::settings(name));
        let replica = Replica { ports, tokens, identities, tasks };
        lock(&self.replicas).insert(slot, replica);
    }

    pub(crate) fn settings(replica: String) -> TokenSettings {
        TokenSettings {
            public_url: None,
            margin: MARGIN,
            call_timeout: CALL_TIMEOUT,
            concurrency_per_provider: 4,
            replica,
        }
    }

    pub(crate) fn replicas(&self) -> Vec<Replica> {
        lock(&self.replicas).values().cloned().collect()
    }

    /// Any replica, dead ones too: a caller may come while nobody is there.
    pub(crate) fn some_replica(&self, dice: &Dice) -> Replica {
        let all = self.replicas();
        let nth = usize::try_from(dice.below(all.len() as u64)).unwrap_or(0);
        all[nth].clone()
    }

    /// Ends the circle of world, replicas and ports.
    pub(crate) fn forget_replicas(&self) {
        lock(&self.replicas).clear();
    }

    pub(crate) fn truth(&self) -> MutexGuard<'_, Truth> {
        lock(&self.truth)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        at(self.elapsed())
    }

    /// From now on nothing goes wrong.
    pub(crate) fn calm(&self) {
        self.is_calm.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.is_calm.load(Ordering::Relaxed)
    }

    pub(crate) fn trace(&self, who: &str, what: fmt::Arguments<'_>) {
        if self.is_traced {
            let what: String = what.to_string().chars().take(160).collect();
            println!("{:>8.3} {who:<9} {what}", self.elapsed().as_secs_f64());
        }
    }

    /// Looks at all rows and holds them against what was there.
    pub(crate) async fn observe(&self, by_link: bool) {
        let everything = IdentityFilter::default();
        let page = PageRequest { limit: 100, after: None };
        let found = IdentityRepository::list(&*self.store, &everything, page).await;
        let mut rows = Vec::new();
        for identity in found.into_iter().flat_map(|it| it.items) {
            let stored = CredentialsRepository::find(&*self.store, identity.id).await;
            if let Ok(Some(stored)) = stored {
                rows.push(Row { account: identity.external_id.as_str().to_owned(), stored });
            }
        }
        let now = self.elapsed();
        self.truth().observe(rows, by_link, now);
        self.bell.notify_waiters();
    }

    fn away(&self, is_meant: impl Fn(Away) -> bool) -> Option<Duration> {
        if self.is_calm() {
            return None;
        }
        let now = self.elapsed();
        let truth = self.truth();
        let open = truth.windows.iter();
        let open = open.filter(|it| is_meant(it.what) && it.from <= now && now < it.until);
        open.map(|it| it.until.saturating_sub(now)).max()
    }

    /// Whether the database answers a replica.
    pub(crate) fn reach(&self, slot: usize) -> Reach {
        if self.away(|it| it == Away::Database || it == Away::Replica(slot)).is_some() {
            Reach::Refuses
        } else {
            self.away(|it| it == Away::Paused).map_or(Reach::Answers, Reach::Waits)
        }
    }

    /// Whether the provider answers anybody.
    pub(crate) fn reach_provider(&self) -> Reach {
        let away = self.away(|it| it == Away::Provider);
        away.map_or(Reach::Answers, |_| Reach::Refuses)
    }

    /// Whether a row has another account by now, or none that a grant is kept for.
    pub(crate) async fn lost_its_account(&self, lease: &Lease, brought: &Credentials) -> bool {
        let stored = CredentialsRepository::find(&*self.store, lease.identity_id).await;
        let row = IdentityRepository::find(&*self.store, lease.identity_id).await;
        let (Ok(Some(stored)), Ok(Some(row))) = (stored, row) else { return true };
        let truth = self.truth();
        let access = brought.access_token.as_ref();
        let access = access.and_then(|it| truth.provider.access(it.expose()));
        stored.credentials.is_none()
            || access.is_some_and(|it| it.account != row.external_id.as_str())
    }

    pub(crate) fn user(nth: u64) -> UserId {
        fixtures::user(&format!("user-{nth}"))
    }

    pub(crate) fn account(name: &str) -> ExternalId {
        fixtures::external_id(name)
    }

    pub(crate) fn link(
        &self,
        user: UserId,
        account: ExternalId,
        credentials: Option<Credentials>,
    ) -> Link {
        Link {
            provider_id: self.provider_id,
            owner: LinkOwner::User(user),
            external_id: account,
            credentials,
            reattach: true,
            ..fixtures::link()
        }
    }

    pub(super) fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    pub(super) fn latest(&self, id: IdentityId) -> Lease {
        let none = Lease { identity_id: id, generation: 0, attempt: 0, unanswered: 0 };
        lock(&self.latest).get(&id).cloned().unwrap_or(none)
    }

    pub(super) fn set_latest(&self, lease: Lease) {
        lock(&self.latest).insert(lease.identity_id, lease);
    }

    /// A lease that every condition lets through, whoever holds it.
    pub(super) async fn as_it_is(&self, lease: &Lease) -> Result<Lease, RepositoryError> {
        let stored = CredentialsRepository::find(&*self.store, lease.identity_id).await?;
        let generation = stored.map_or(lease.generation, |it| it.generation);
        let latest = self.latest(lease.identity_id);
        Ok(Lease { generation, unanswered: lease.unanswered, ..latest })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
