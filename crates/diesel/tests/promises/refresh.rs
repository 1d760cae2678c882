//! The token service over a real database: what comes in the middle of a refresh.

use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;
use symbolon_domain::{
    Error,
    credentials::Credentials,
    event::{Actor, EventKind},
    identity_provider::{ProviderOptions, ProviderSecrets},
    ids::{IdentityId, ProviderId},
    page::PageRequest,
    ports::{Clock as _, EventFilter, IdentityRepository, Link, LinkOutcome, NewIdentityProvider},
    secret::Secret,
    services::{
        Identities, Providers, Revocations, Tasks, TokenNeed, TokenPorts, TokenSettings, Tokens,
    },
    testing::{RefreshFault, RunningClock, ScriptedProvider, contract::Store, fixtures},
};

use crate::bench::{Bench, on_both};

on_both! {
    an_unlink_during_a_refresh_is_final_and_the_fresh_token_is_revoked_too
    a_link_that_keeps_the_refresh_token_during_a_refresh_loses_none
}

/// How long the provider takes, so that something comes in between.
const CALL: Duration = Duration::from_millis(1500);

/// The service as a replica has it, over one database and one provider.
struct Replica {
    bench: Bench,
    provider: ScriptedProvider,
    provider_id: ProviderId,
    identities: Arc<Identities>,
    tokens: Tokens,
    tasks: Tasks,
}

impl Replica {
    async fn over(bench: Bench) -> Self {
        let store: Arc<dyn Store> = bench.store.clone();
        let provider = ScriptedProvider::new(TimeDelta::hours(1), || RunningClock.now());
        let new = NewIdentityProvider {
            provider_type: "scripted".into(),
            external_id: None,
            config: serde_json::Map::new(),
            secrets: ProviderSecrets::new(),
            options: ProviderOptions::default(),
        };
        let provider_id = store.providers().insert(&new, &fixtures::ACTOR).await.unwrap().id;
        let (clock, tasks) = (Arc::new(RunningClock), Tasks::default());
        let providers = Arc::new(Providers {
            providers: store.clone(),
            connectors: Arc::new(provider.clone()),
            public_url: None,
        });
        let call_timeout = Duration::from_secs(20);
        let revocations = Arc::new(Revocations {
            queue: store.clone(),
            identities: store.clone(),
            credentials: store.clone(),
            auth_identities: store.clone(),
            providers: providers.clone(),
            clock: clock.clone(),
            tasks: tasks.clone(),
            timeout: call_timeout,
        });
        let identities = Arc::new(Identities {
            identities: store.clone(),
            events: store.clone(),
            providers: providers.clone(),
            revocations,
            clock: clock.clone(),
        });
        let ports = TokenPorts {
            credentials: store,
            providers,
            identities: identities.clone(),
            clock,
            tasks: tasks.clone(),
        };
        let settings = TokenSettings {
            margin: Duration::from_mins(1),
            call_timeout,
            concurrency_per_provider: 4,
            replica: "a".into(),
            public_url: None,
        };
        let tokens = Tokens::new(ports, settings);
        Self { bench, provider, provider_id, identities, tokens, tasks }
    }

    async fn link(&self, credentials: Credentials) -> IdentityId {
        let credentials = Some(credentials);
        let link = Link { provider_id: self.provider_id, credentials, ..fixtures::link() };
        match self.bench.store.identities().link(&link).await.unwrap() {
            LinkOutcome::Created(identity) | LinkOutcome::Updated(identity) => identity.id,
            other => panic!("{other:?}"),
        }
    }

    /// A refresh whose sending is written down, so that its call is under way.
    async fn refresh_under_way(
        &self,
        id: IdentityId,
    ) -> impl Future<Output = Result<(), Error>> + use<> {
        self.provider.fail_next([RefreshFault::Delay(CALL)]);
        let tokens = self.tokens.clone();
        let refresh = tokio::spawn(async move { tokens.refresh(id).await });
        let sendings = "SELECT CAST(unanswered AS TEXT) AS value FROM identities";
        while self.bench.raw.texts(sendings).await != ["1"] {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        async { refresh.await.unwrap() }
    }
}

async fn an_unlink_during_a_refresh_is_final_and_the_fresh_token_is_revoked_too(bench: Bench) {
    let replica = Replica::over(bench).await;
    let id = replica.link(replica.provider.grant("account-1")).await;
    let refresh = replica.refresh_under_way(id).await;

    // Without a revocation of its own: what is revoked is what came after it.
    replica.identities.unlink(id, false, Actor::OPERATOR).await.unwrap();
    assert_eq!(replica.provider.revocations(), 0);

    let answer = refresh.await;
    assert!(matches!(answer, Err(Error::NotFound(_))), "{answer:?}");
    replica.tasks.drain().await;
    let store = &replica.bench.store;
    assert_eq!(IdentityRepository::find(&**store, id).await.unwrap(), None);
    assert_eq!(store.credentials().find(id).await.unwrap(), None);
    assert_eq!(replica.provider.refreshes(), 1);
    assert_eq!(replica.provider.revocations(), 1);
    let filter = EventFilter { identity_id: Some(id), ..EventFilter::default() };
    let events = store.events().list(&filter, PageRequest::default()).await.unwrap().items;
    let kinds: Vec<_> = events.iter().map(|it| it.about).collect();
    let expected = [
        EventKind::IdentityLinked,
        EventKind::IdentityUnlinked,
        EventKind::GrantRevocationQueued,
        EventKind::GrantRevoked,
    ];
    assert_eq!(kinds, expected);
}

async fn a_link_that_keeps_the_refresh_token_during_a_refresh_loses_none(bench: Bench) {
    let replica = Replica::over(bench).await;
    let id = replica.link(replica.provider.grant("account-1")).await;
    let refresh = replica.refresh_under_way(id).await;

    let linked = Credentials {
        access_token: Some(Secret::new("of the new link")),
        refresh_token: None,
        ..fixtures::credentials()
    };
    assert_eq!(replica.link(linked).await, id);

    refresh.await.unwrap();
    // What came is what is used from now on, and the provider takes what is handed out.
    replica.tokens.refresh(id).await.unwrap();
    let answer = replica.tokens.issue(id, &TokenNeed::default()).await.unwrap();
    assert!(replica.provider.accepts("account-1", &answer.access_token));
    assert_eq!(replica.provider.refreshes(), 2);
    assert_eq!(replica.provider.most_uses_of_one_token(), 1);
    assert_eq!(replica.provider.revoked_by_reuse(), 0);
}
