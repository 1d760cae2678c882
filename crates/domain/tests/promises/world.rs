use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use symbolon_domain::{
    credentials::Credentials,
    event::{Actor, Event, EventKind},
    identity::Identity,
    identity_provider::{ProviderOptions, ProviderSecrets},
    ids::{IdentityId, ProviderId},
    page::PageRequest,
    ports::{
        Clock, CredentialsRepository, EventFilter, EventLog, IdentityProviderRepository,
        IdentityRepository, Link, LinkOutcome, NewIdentityProvider, StoredCredentials,
    },
    services::{Identities, Providers, Revocations, Tasks, TokenPorts, TokenSettings, Tokens},
    testing::{MemoryStore, ScriptedProvider, TestClock, fixtures},
};

/// One database, one provider, one clock; as many replicas as a test asks for.
pub(crate) struct World {
    pub(crate) clock: Arc<TestClock>,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) provider: ScriptedProvider,
    pub(crate) provider_id: ProviderId,
    pub(crate) providers: Arc<Providers>,
    pub(crate) identities: Arc<Identities>,
    pub(crate) revocations: Arc<Revocations>,
    pub(crate) tasks: Tasks,
}

pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

impl World {
    pub(crate) async fn new() -> Self {
        let clock = Arc::new(TestClock::default());
        let store = Arc::new(MemoryStore::new(clock.clone()));
        let time = clock.clone();
        let provider = ScriptedProvider::new(TimeDelta::hours(1), move || time.now());
        let providers = Arc::new(Providers {
            providers: store.clone(),
            connectors: Arc::new(provider.clone()),
            public_url: None,
        });
        let new = NewIdentityProvider {
            provider_type: "scripted".into(),
            external_id: None,
            config: serde_json::Map::new(),
            secrets: ProviderSecrets::new(),
            options: ProviderOptions::default(),
        };
        let provider_id =
            IdentityProviderRepository::insert(&*store, &new, &Actor::OPERATOR).await.unwrap().id;
        let tasks = Tasks::default();
        let revocations = Arc::new(Revocations {
            queue: store.clone(),
            identities: store.clone(),
            credentials: store.clone(),
            auth_identities: store.clone(),
            providers: providers.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            timeout: CALL_TIMEOUT,
        });
        let identities = Arc::new(Identities {
            identities: store.clone(),
            events: store.clone(),
            providers: providers.clone(),
            revocations: revocations.clone(),
            clock: clock.clone(),
        });
        Self { clock, store, provider, provider_id, providers, identities, revocations, tasks }
    }

    pub(crate) fn replica(&self, name: &str) -> Tokens {
        self.replica_over(name, self.store.clone())
    }

    pub(crate) fn replica_over(
        &self,
        name: &str,
        credentials: Arc<dyn CredentialsRepository>,
    ) -> Tokens {
        let ports = TokenPorts {
            credentials,
            providers: self.providers.clone(),
            identities: self.identities.clone(),
            clock: self.clock.clone(),
            tasks: self.tasks.clone(),
        };
        let settings = TokenSettings {
            public_url: None,
            margin: Duration::from_mins(1),
            call_timeout: CALL_TIMEOUT,
            concurrency_per_provider: 16,
            replica: name.into(),
        };
        Tokens::new(ports, settings)
    }

    /// `user-1`'s `account-1`, with fresh credentials of the provider.
    pub(crate) async fn identity(&self) -> IdentityId {
        self.identity_with(Some(self.provider.grant("account-1"))).await
    }

    pub(crate) async fn identity_with(&self, credentials: Option<Credentials>) -> IdentityId {
        let link = Link { provider_id: self.provider_id, credentials, ..fixtures::link() };
        match self.store.link(&link).await.unwrap() {
            LinkOutcome::Created(identity) | LinkOutcome::Updated(identity) => identity.id,
            other => panic!("{other:?}"),
        }
    }

    /// Time passes until the token has expired.
    pub(crate) fn expire(&self) {
        self.clock.advance(TimeDelta::hours(2));
    }

    pub(crate) async fn find(&self, id: IdentityId) -> Identity {
        IdentityRepository::find(&*self.store, id).await.unwrap().unwrap()
    }

    pub(crate) async fn stored(&self, id: IdentityId) -> StoredCredentials {
        CredentialsRepository::find(&*self.store, id).await.unwrap().unwrap()
    }

    pub(crate) async fn events(&self, kind: EventKind) -> Vec<Event> {
        let filter = EventFilter { kinds: vec![kind], ..EventFilter::default() };
        EventLog::list(&*self.store, &filter, PageRequest::default()).await.unwrap().items
    }
}
