//! Provider instances: whose ids they are, and who changes them at the same time.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use async_trait::async_trait;
use serde_json::{Map, Value, json};
use symbolon_domain::{
    Error,
    identity_provider::{IdentityProvider, OptionChanges, ProviderSecrets, ProviderType},
    ports::{
        Connector, ConnectorError, Connectors, IdentityProviderRepository, InvalidConfig,
        MockIdentityProviderRepository, RepositoryError, Sent,
    },
    services::{HIDDEN, Providers},
    testing::{ScriptedProvider, fixtures},
};

use crate::world::World;

const ACTOR: symbolon_domain::event::Actor = fixtures::ACTOR;

async fn at_issuer(world: &World, external_id: Option<&str>, issuer: &str) -> IdentityProvider {
    let config = fixtures::object(json!({ "issuer": issuer }));
    let external_id = external_id.map(str::to_owned);
    world
        .providers
        .ensure("scripted", external_id, config, OptionChanges::default(), &ACTOR)
        .await
        .unwrap()
}

#[tokio::test]
async fn the_issuer_of_a_provider_with_identities_stays_as_it_is() {
    let world = World::new().await;
    world.identity().await;
    let config = fixtures::object(json!({ "issuer": "https://another.example" }));
    let patched = world
        .providers
        .update(world.provider_id, &config, OptionChanges::default(), None, &ACTOR)
        .await;
    let ensured =
        world.providers.ensure("scripted", None, config, OptionChanges::default(), &ACTOR).await;
    for refused in [patched, ensured] {
        assert!(
            matches!(&refused, Err(Error::InvalidRequest { field, problem })
                if field == "config.issuer" && problem.contains("another provider")),
            "{refused:?}"
        );
    }
    let other = fixtures::object(json!({ "client_id": "another" }));
    world
        .providers
        .update(world.provider_id, &other, OptionChanges::default(), None, &ACTOR)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_issuer_of_a_provider_without_identities_may_change_and_is_got_to_know_anew() {
    let world = World::new().await;
    let before = at_issuer(&world, Some("a"), "https://one.example").await;
    for issuer in ["https://two.example", "https://three.example"] {
        IdentityProviderRepository::record_issuer_named(&*world.store, before.id).await.unwrap();
        let after = at_issuer(&world, Some("a"), issuer).await;
        assert_eq!((after.id, after.names_issuer), (before.id, false));
        assert_eq!(after.config["issuer"], json!(issuer));
    }
}

/// The port of a provider in whose way somebody else's update comes once.
fn contested(first: IdentityProvider) -> MockIdentityProviderRepository {
    let mut port = MockIdentityProviderRepository::new();
    let changed = IdentityProvider { version: first.version + 1, ..first.clone() };
    let mut reads = vec![changed.clone(), first.clone()];
    port.expect_find_by_key().returning(move |_, _| Ok(Some(first.clone())));
    port.expect_find_with_secrets()
        .returning(move |_| Ok(reads.pop().map(|it| (it, ProviderSecrets::new()))));
    port.expect_update().returning(move |update, _| {
        let config = update.config.clone();
        let version_is_right = update.version == changed.version;
        Ok(version_is_right.then(|| IdentityProvider { config, ..changed.clone() }))
    });
    port
}

#[tokio::test]
async fn a_declared_provider_is_brought_up_to_date_though_another_replica_was_first() {
    let provider = IdentityProvider { config: Map::new(), ..fixtures::identity_provider() };
    let providers = Providers {
        providers: Arc::new(contested(provider)),
        connectors: Arc::new(ScriptedProvider::default()),
        public_url: None,
    };
    let config = fixtures::object(json!({ "client_id": "new" }));
    let ensured = providers
        .ensure("scripted", None, config.clone(), OptionChanges::default(), &ACTOR)
        .await
        .unwrap();
    assert_eq!(ensured.config, config);
}

/// A provider whose stored secret does not open.
fn locked() -> Providers {
    let mut port = MockIdentityProviderRepository::new();
    let provider = IdentityProvider {
        provider_type: "scripted".into(),
        config: Map::new(),
        ..fixtures::identity_provider()
    };
    let (found, updated) = (provider.clone(), provider.clone());
    port.expect_find_by_key().returning(move |_, _| Ok(Some(provider.clone())));
    port.expect_find_with_secrets().returning(|id| {
        Err(RepositoryError::Unsealable { table: "identity_providers", row: id.0 })
    });
    port.expect_find().returning(move |_| Ok(Some(found.clone())));
    port.expect_update().returning(move |update, _| {
        let secret_names = update.secrets.keys().cloned().collect();
        let config = update.config.clone();
        Ok(Some(IdentityProvider { config, secret_names, ..updated.clone() }))
    });
    Providers {
        providers: Arc::new(port),
        connectors: Arc::new(ScriptedProvider::default()),
        public_url: None,
    }
}

#[tokio::test]
async fn secrets_that_do_not_open_are_mended_by_sending_them_again() {
    let (providers, id) = (locked(), fixtures::identity_provider().id);
    let config = fixtures::object(json!({ "client_secret": "new" }));
    for updated in [
        providers.update(id, &config, OptionChanges::default(), None, &ACTOR).await,
        providers.ensure("scripted", None, config.clone(), OptionChanges::default(), &ACTOR).await,
    ] {
        assert_eq!(updated.unwrap().secret_names, ["client_secret"]);
    }
    let removed = fixtures::object(json!({ "client_secret": null }));
    let updated =
        providers.update(id, &removed, OptionChanges::default(), None, &ACTOR).await.unwrap();
    assert!(updated.secret_names.is_empty());
}

#[tokio::test]
async fn secrets_that_do_not_open_are_not_dropped_by_a_change_of_something_else() {
    let (providers, id) = (locked(), fixtures::identity_provider().id);
    for changes in
        [json!({ "client_id": "new" }), json!({ "client_id": "new", "client_secret": HIDDEN })]
    {
        let refused = providers
            .update(id, &fixtures::object(changes), OptionChanges::default(), None, &ACTOR)
            .await;
        assert!(
            matches!(&refused, Err(Error::InvalidRequest { field, .. })
                if field == "config.client_secret"),
            "{refused:?}"
        );
    }
}

/// A catalog of one type whose key `dpop` is asked about, and which counts how often it was.
struct Asking {
    answer: Result<(), ConnectorError>,
    asked: AtomicUsize,
}

#[async_trait]
impl Connectors for Asking {
    fn types(&self) -> Vec<ProviderType> {
        let asked_keys = vec!["dpop".to_owned()];
        vec![ProviderType { name: "asking".into(), asked_keys, ..fixtures::provider_type() }]
    }

    fn check(
        &self,
        _provider_type: &str,
        _config: &Map<String, Value>,
        _secrets: &ProviderSecrets,
    ) -> Result<(), InvalidConfig> {
        Ok(())
    }

    async fn verify(
        &self,
        provider_type: &str,
        config: &Map<String, Value>,
        _secrets: &ProviderSecrets,
    ) -> Result<(), ConnectorError> {
        assert_eq!((provider_type, &config["dpop"]), ("asking", &json!(true)));
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.answer.clone()
    }

    fn connect(
        &self,
        _provider: &IdentityProvider,
        _secrets: &ProviderSecrets,
    ) -> Result<Arc<dyn Connector>, InvalidConfig> {
        panic!("nobody links here")
    }
}

#[tokio::test]
async fn what_not_every_provider_can_do_is_asked_before_it_is_configured() {
    let none = OptionChanges::default;
    let plain = || fixtures::object(json!({"client_id": "a"}));
    let bound = || fixtures::object(json!({"client_id": "a", "dpop": true}));
    let cannot = ConnectorError::Misconfigured { detail: "no ES256".into() };
    let away = ConnectorError::Unavailable {
        detail: "no answer".into(),
        retry_after: None,
        sent: Sent::No,
    };
    for (answer, refused) in [(Ok(()), false), (Err(cannot), true), (Err(away), false)] {
        let world = World::new().await;
        let asking = Arc::new(Asking { answer, asked: AtomicUsize::new(0) });
        let connectors: Arc<dyn Connectors> = asking.clone();
        let providers = Providers { providers: world.store.clone(), connectors, public_url: None };
        let asked = || asking.asked.swap(0, Ordering::SeqCst);
        let check = |result: Result<IdentityProvider, Error>| {
            match &result {
                Err(Error::ProviderMisconfigured { detail }) => {
                    assert!(refused && detail.contains("no ES256"), "{detail}");
                }
                other => assert!(!refused && other.is_ok(), "{other:?}"),
            }
            assert_eq!(asked(), 1);
        };
        // Where nothing is asked of it, nobody asks.
        let made = providers.create("asking", None, plain(), none(), &ACTOR).await.unwrap();
        let config = fixtures::object(json!({"client_id": "b"}));
        providers.update(made.id, &config, none(), None, &ACTOR).await.unwrap();
        assert_eq!(asked(), 0);

        let id = Some("other".to_owned());
        check(providers.create("asking", id.clone(), bound(), none(), &ACTOR).await);
        let kept = providers.providers.find_by_key("asking", id.as_deref()).await.unwrap();
        assert_eq!(kept.is_none(), refused, "nothing is left of one that cannot");
        check(providers.update(made.id, &bound(), none(), None, &ACTOR).await);
        let id = Some("declared".to_owned());
        providers.create("asking", id.clone(), plain(), none(), &ACTOR).await.unwrap();
        check(providers.ensure("asking", id.clone(), bound(), none(), &ACTOR).await);
        if !refused {
            // As it is already: a start does not wait for anybody.
            providers.ensure("asking", id, bound(), none(), &ACTOR).await.unwrap();
            assert_eq!(asked(), 0);
        }
    }
}
