//! Provider instances whose client is registered when they are made.

use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};
use symbolon_domain::{
    Error,
    event::Actor,
    identity_provider::{IdentityProvider, OptionChanges, ProviderType},
    ids::ProviderId,
    page::PageRequest,
    ports::{
        ClientAddresses, ConnectorError, IdentityProviderRepository, IdentityRepository as _, Link,
        MockConnectors, NewIdentityProvider, ProviderFilter, ProviderUpdate, Registered, Sent,
    },
    secret::Secret,
    services::Providers,
    testing::{MemoryStore, fixtures},
};
use url::Url;

const ACTOR: Actor = fixtures::ACTOR;

/// What was asked of the provider: `register REDIRECT_URI`, `deregister CLIENT_ID`.
type Asked = Arc<Mutex<Vec<String>>>;

struct Case {
    store: Arc<MemoryStore>,
    providers: Providers,
    asked: Asked,
}

fn registering_type() -> ProviderType {
    let owned = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>();
    ProviderType {
        name: "registering".into(),
        secret_names: owned(&["client_secret", "registration_access_token"]),
        authority_keys: owned(&["url", "authorization_server"]),
        registered_keys: owned(&[
            "authorization_server",
            "client_id",
            "client_secret",
            "registration_access_token",
        ]),
        ..fixtures::provider_type()
    }
}

fn registered() -> Registered {
    Registered {
        config: fixtures::object(json!({
            "authorization_server": "https://as.example", "client_id": "given",
        })),
        secrets: [("client_secret", "s"), ("registration_access_token", "r")]
            .map(|(name, value)| (name.to_owned(), Secret::new(value)))
            .into(),
    }
}

fn with(answer: Result<Option<Registered>, ConnectorError>) -> Case {
    let (store, asked) = (Arc::new(MemoryStore::default()), Asked::default());
    let mut connectors = MockConnectors::new();
    connectors.expect_types().returning(|| vec![registering_type()]);
    connectors.expect_find_type().returning(|name| (name == "registering").then(registering_type));
    connectors.expect_check().returning(|_, _, _| Ok(()));
    let log = Arc::clone(&asked);
    connectors.expect_register().returning(move |_, _, at| {
        let ClientAddresses { redirect_uri, backchannel_logout_uri } = at;
        let asked = format!("register {redirect_uri} {backchannel_logout_uri}");
        log.lock().unwrap().push(asked);
        answer.clone()
    });
    let log = Arc::clone(&asked);
    connectors.expect_deregister().returning(move |provider, secrets| {
        assert!(secrets.contains_key("registration_access_token"));
        let client_id = provider.config["client_id"].as_str().unwrap();
        log.lock().unwrap().push(format!("deregister {client_id}"));
        Ok(())
    });
    let providers = Providers {
        providers: store.clone(),
        connectors: Arc::new(connectors),
        public_url: Some(Url::parse("https://symbolon.example").unwrap()),
    };
    Case { store, providers, asked }
}

impl Case {
    async fn create(&self, config: Value) -> Result<IdentityProvider, Error> {
        let config = fixtures::object(config);
        self.providers.create("registering", None, config, OptionChanges::default(), &ACTOR).await
    }

    async fn ensure(&self, config: Value) -> Result<IdentityProvider, Error> {
        let config = fixtures::object(config);
        self.providers.ensure("registering", None, config, OptionChanges::default(), &ACTOR).await
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }

    async fn count(&self) -> usize {
        let (filter, page) = (ProviderFilter::default(), PageRequest { limit: 10, after: None });
        let found = IdentityProviderRepository::list(&*self.store, &filter, page).await;
        found.unwrap().items.len()
    }
}

fn url() -> Value {
    json!({ "url": "https://mcp.example" })
}

#[tokio::test]
async fn what_the_provider_tells_is_kept_with_the_instance_and_the_secrets_are_sealed() {
    let case = with(Ok(Some(registered())));
    let provider = case.create(url()).await.unwrap();
    let redirect_uri = format!("https://symbolon.example/callback/{}", provider.id);
    let logout_uri = format!("https://symbolon.example/backchannel-logout/{}", provider.id);
    assert_eq!(case.asked(), [format!("register {redirect_uri} {logout_uri}")]);
    assert_eq!(provider.config["client_id"], json!("given"));
    assert_eq!(provider.config["authorization_server"], json!("https://as.example"));
    let mut names = provider.secret_names.clone();
    names.sort();
    assert_eq!(names, ["client_secret", "registration_access_token"]);
    let (kept, secrets) = IdentityProviderRepository::find_with_secrets(&*case.store, provider.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((kept, secrets), (provider, registered().secrets));
}

#[tokio::test]
async fn what_the_operator_gave_stays_as_it_is() {
    let case = with(Ok(Some(registered())));
    let config = json!({ "url": "https://mcp.example", "client_id": "mine" });
    let provider = case.create(config).await.unwrap();
    assert_eq!(provider.config["client_id"], json!("mine"));
}

#[tokio::test]
async fn a_client_that_is_null_is_none() {
    let case = with(Ok(Some(registered())));
    let config = json!({ "url": "https://mcp.example", "client_id": null, "client_secret": null });
    let provider = case.create(config).await.unwrap();
    assert_eq!(provider.config["client_id"], json!("given"));
}

#[tokio::test]
async fn an_instance_that_cannot_be_registered_is_not_left_behind() {
    for error in [
        ConnectorError::Misconfigured { detail: "no".into() },
        ConnectorError::ClientRejected { code: "invalid_client_metadata".into() },
        ConnectorError::Unavailable { detail: "no".into(), retry_after: None, sent: Sent::No },
        ConnectorError::Untrusted { detail: "no".into() },
    ] {
        let case = with(Err(error.clone()));
        let refused = case.create(url()).await.unwrap_err();
        let operators = matches!(
            error,
            ConnectorError::Misconfigured { .. } | ConnectorError::ClientRejected { .. }
        );
        match refused {
            Error::ProviderMisconfigured { .. } => assert!(operators, "{error}"),
            Error::ProviderUnavailable { .. } => assert!(!operators, "{error}"),
            other => panic!("{error}: {other:?}"),
        }
        assert_eq!(case.count().await, 0, "{error}");
    }
}

#[tokio::test]
async fn a_process_that_does_not_know_its_own_address_registers_nothing() {
    let mut case = with(Ok(Some(registered())));
    case.providers.public_url = None;
    assert!(matches!(case.create(url()).await, Err(Error::ProviderMisconfigured { .. })));
    assert_eq!((case.count().await, case.asked().len()), (0, 0));
}

#[tokio::test]
async fn a_client_is_given_back_when_what_was_told_cannot_be_kept() {
    let case = with(Ok(Some(registered())));
    // Takes the row away between the registration and the write.
    let store = Arc::clone(&case.store);
    let asked = Arc::clone(&case.asked);
    let mut connectors = MockConnectors::new();
    connectors.expect_find_type().returning(|_| Some(registering_type()));
    connectors.expect_check().returning(|_, _, _| Ok(()));
    connectors.expect_register().returning(move |provider, _, _| {
        let (store, id) = (Arc::clone(&store), provider.id);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let actor = ACTOR;
                let gone = IdentityProviderRepository::delete(&*store, id, false, &actor);
                runtime.block_on(gone).unwrap();
            });
        });
        Ok(Some(registered()))
    });
    connectors.expect_deregister().returning(move |provider, _| {
        asked.lock().unwrap().push(format!("deregister {}", provider.config["client_id"]));
        Ok(())
    });
    let providers = Providers { connectors: Arc::new(connectors), ..case.providers };
    let config = fixtures::object(url());
    let created =
        providers.create("registering", None, config, OptionChanges::default(), &ACTOR).await;
    assert!(matches!(created, Err(Error::NotFound(_))), "{created:?}");
    assert_eq!(*case.asked.lock().unwrap(), ["deregister \"given\""]);
}

#[tokio::test]
async fn a_declared_instance_is_registered_once_and_keeps_what_was_told() {
    let case = with(Ok(Some(registered())));
    let made = case.ensure(url()).await.unwrap();
    assert_eq!(case.asked().len(), 1);
    for _ in 0..2 {
        assert_eq!(case.ensure(url()).await.unwrap(), made);
    }
    assert_eq!(case.asked().len(), 0);
    // Who declares a client has nothing of the other one, and the same accounts.
    let own = json!({ "url": "https://mcp.example", "client_id": "mine" });
    let changed = case.ensure(own).await.unwrap();
    assert_eq!(changed.config["client_id"], json!("mine"));
    assert_eq!(changed.config["authorization_server"], json!("https://as.example"));
    assert_eq!((changed.secret_names.len(), case.asked().len()), (0, 0));
}

#[tokio::test]
async fn a_declared_instance_whose_registration_was_interrupted_is_registered_at_the_next_start() {
    let case = with(Ok(Some(registered())));
    let half = half(&case).await;
    let whole = case.ensure(url()).await.unwrap();
    assert_eq!((whole.id, &whole.config["client_id"]), (half.id, &json!("given")));
}

/// An instance as a crash leaves it between its insertion and its registration.
async fn half(case: &Case) -> IdentityProvider {
    let new = NewIdentityProvider {
        provider_type: "registering".into(),
        config: fixtures::object(url()),
        secrets: [].into(),
        ..fixtures::new_identity_provider()
    };
    IdentityProviderRepository::insert(&*case.store, &new, &ACTOR).await.unwrap()
}

impl Case {
    async fn update(&self, id: ProviderId, changes: Value) -> Result<IdentityProvider, Error> {
        let changes = fixtures::object(changes);
        self.providers.update(id, &changes, OptionChanges::default(), None, &ACTOR).await
    }
}

#[tokio::test]
async fn an_instance_whose_registration_was_cut_off_is_registered_by_the_next_change() {
    let case = with(Ok(Some(registered())));
    let cut_off = half(&case).await;
    let whole = case.update(cut_off.id, json!({})).await.unwrap();
    assert_eq!(case.asked().len(), 1);
    assert_eq!((whole.id, &whole.config["client_id"]), (cut_off.id, &json!("given")));
    let (kept, secrets) = IdentityProviderRepository::find_with_secrets(&*case.store, whole.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((kept, secrets), (whole.clone(), registered().secrets));
    // Once is enough.
    case.update(whole.id, json!({ "note": "x" })).await.unwrap();
    assert_eq!(case.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_registration_that_fails_again_keeps_the_instance_and_its_changes() {
    let silent =
        ConnectorError::Unavailable { detail: "no".into(), retry_after: None, sent: Sent::No };
    let case = with(Err(silent));
    let cut_off = half(&case).await;
    let refused = case.update(cut_off.id, json!({ "note": "x" })).await;
    assert!(matches!(refused, Err(Error::ProviderUnavailable { .. })), "{refused:?}");
    let kept = IdentityProviderRepository::find(&*case.store, cut_off.id).await.unwrap().unwrap();
    assert_eq!(kept.config["note"], json!("x"));
    assert_eq!(kept.config.get("client_id"), None);
}

#[tokio::test]
async fn of_two_who_mend_an_instance_at_once_one_gives_its_client_back() {
    let case = with(Ok(Some(registered())));
    let cut_off = half(&case).await;
    let asked = Arc::clone(&case.asked);
    // While this one is registered, somebody else is, and is kept.
    let (store, id) = (Arc::clone(&case.store), cut_off.id);
    let mut connectors = MockConnectors::new();
    connectors.expect_find_type().returning(|_| Some(registering_type()));
    connectors.expect_check().returning(|_, _, _| Ok(()));
    connectors.expect_register().returning(move |provider, _, _| {
        let config = fixtures::object(json!({
            "url": "https://mcp.example", "authorization_server": "https://as.example",
            "client_id": "first",
        }));
        let update = ProviderUpdate {
            id,
            version: provider.version,
            config,
            secrets: [("client_secret".to_owned(), Secret::new("of first"))].into(),
            options: provider.options,
        };
        let store = Arc::clone(&store);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                let actor = ACTOR;
                let first = IdentityProviderRepository::update(&*store, &update, &actor);
                runtime.block_on(first).unwrap().unwrap();
            });
        });
        Ok(Some(registered()))
    });
    connectors.expect_deregister().returning(move |provider, secrets| {
        assert_eq!(secrets, &registered().secrets);
        asked.lock().unwrap().push(format!("deregister {}", provider.config["client_id"]));
        Ok(())
    });
    let providers = Providers { connectors: Arc::new(connectors), ..case.providers };
    let options = OptionChanges::default();
    let mended = providers.update(cut_off.id, &Map::new(), options, None, &ACTOR).await.unwrap();
    assert_eq!(mended.config["client_id"], json!("first"));
    let (_, secrets) = IdentityProviderRepository::find_with_secrets(&*case.store, cut_off.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(secrets["client_secret"], Secret::new("of first"));
    assert!(!secrets.contains_key("registration_access_token"), "that of the other client");
    assert_eq!(*case.asked.lock().unwrap(), ["deregister \"given\""]);
}

#[tokio::test]
async fn who_takes_the_client_away_gets_another_one_and_nothing_of_the_old() {
    let case = with(Ok(Some(registered())));
    let made = case.create(url()).await.unwrap();
    let own = json!({ "client_id": "mine", "client_secret": "own" });
    let own = case.update(made.id, own).await.unwrap();
    case.asked();
    let anew = case.update(own.id, json!({ "client_id": null })).await.unwrap();
    assert_eq!(case.asked().len(), 1);
    assert_eq!(anew.config["client_id"], json!("given"));
    let (_, secrets) = IdentityProviderRepository::find_with_secrets(&*case.store, anew.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(secrets, registered().secrets);
}

#[tokio::test]
async fn what_the_client_was_registered_for_stays_as_it_is() {
    let case = with(Ok(Some(registered())));
    let provider = case.create(url()).await.unwrap();
    let other = fixtures::object(json!({ "url": "https://another.example" }));
    let patched =
        case.providers.update(provider.id, &other, OptionChanges::default(), None, &ACTOR).await;
    let ensured = case.ensure(Value::Object(other)).await;
    for refused in [patched, ensured] {
        assert!(
            matches!(&refused, Err(Error::InvalidRequest { field, .. }) if field == "config.url"),
            "{refused:?}"
        );
    }
    // An operator may mend what was found out.
    let other = fixtures::object(json!({ "client_id": "mine", "client_secret": "new" }));
    case.providers
        .update(provider.id, &other, OptionChanges::default(), None, &ACTOR)
        .await
        .unwrap();
}

#[tokio::test]
async fn a_deleted_instance_takes_its_client_with_it_unless_grants_are_still_to_be_ended() {
    let case = with(Ok(Some(registered())));
    let provider = case.create(url()).await.unwrap();
    case.asked();
    case.providers.delete(provider.id, false, &ACTOR).await.unwrap();
    assert_eq!(case.asked(), ["deregister given"]);

    let provider = case.create(url()).await.unwrap();
    case.asked();
    let link = Link { provider_id: provider.id, ..fixtures::link() };
    case.store.link(&link).await.unwrap();
    assert!(matches!(
        case.providers.delete(provider.id, false, &ACTOR).await,
        Err(Error::ProviderInUse(1))
    ));
    assert_eq!(case.providers.delete(provider.id, true, &ACTOR).await.unwrap(), 1);
    assert_eq!(case.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_type_that_finds_nothing_out_is_never_asked() {
    let mut connectors = MockConnectors::new();
    connectors.expect_find_type().returning(|_| Some(fixtures::provider_type()));
    connectors.expect_check().returning(|_, _, _| Ok(()));
    connectors.expect_register().never();
    connectors.expect_deregister().never();
    let providers = Providers {
        providers: Arc::new(MemoryStore::default()),
        connectors: Arc::new(connectors),
        public_url: None,
    };
    let options = OptionChanges::default();
    let provider = providers.create("oidc", None, Map::new(), options, &ACTOR).await.unwrap();
    providers.delete(provider.id, false, &ACTOR).await.unwrap();
}
