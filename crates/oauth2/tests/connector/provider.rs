//! An OpenID provider on loopback that does as a test says.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};
use symbolon_domain::{
    credentials::Credentials,
    identity_provider::{IdentityProvider, ProviderOptions, ProviderSecrets},
    ids::{ExternalId, ProviderId},
    ports::{
        AuthorizationRequest, Clock, CodeExchange, Connector, ConnectorError, Connectors as _,
        Grant, RefreshRequest,
    },
    secret::Secret,
};
use symbolon_oauth2::{
    Registry,
    catalog::Catalog,
    http::{HttpClient, HttpSettings},
};
use url::Url;
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

use crate::test_key::TestKey;

pub(crate) const NOW: i64 = 1_700_000_000;
pub(crate) const NONCE: &str = "the-nonce";
pub(crate) const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// What an entry of the catalog begins with whose provider is at `{origin}`.
pub(crate) const EXAMPLE: &str = r#"
    title = "Example"
    description = "An example."
    documentation = ["https://docs.example/oauth"]
    checked = "2026-11-25"
    evidence = "pages"
    [parameters.origin]
    description = "Where it is."
    example = "https://provider.example"
    kind = "origin"
"#;

/// The connector of a type of the catalog whose entry goes on like this, at this provider.
pub(crate) fn of_the_catalog(provider: &Provider, rest: &str) -> Arc<dyn Connector> {
    let registry = Registry::new(loopback(), Arc::new(provider.clock.clone()));
    let registry =
        registry.with_catalog(Catalog::entry("example", &format!("{EXAMPLE}{rest}")).unwrap());
    let config = object(&json!({"origin": provider.issuer, "client_id": "client"}));
    let secrets = ProviderSecrets::from([("client_secret".to_owned(), Secret::new("secret"))]);
    registry.connect(&instance("example", config), &secrets).unwrap()
}

/// A clock that a test moves.
#[derive(Clone)]
pub(crate) struct TestClock(Arc<AtomicI64>);

impl TestClock {
    pub(crate) fn new() -> Self {
        Self(Arc::new(AtomicI64::new(NOW)))
    }

    pub(crate) fn advance(&self, seconds: i64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp(self.0.load(Ordering::SeqCst), 0).unwrap()
    }
}

/// A client that may go to loopback over http.
pub(crate) fn loopback() -> HttpClient {
    loopback_within(Duration::from_secs(10))
}

pub(crate) fn loopback_within(timeout: Duration) -> HttpClient {
    let settings = HttpSettings {
        timeout,
        max_response_bytes: 64 * 1024,
        allow_private_networks: true,
        allow_http: true,
        stand_in: None,
    };
    HttpClient::new(settings).unwrap()
}

pub(crate) struct Provider {
    pub(crate) server: MockServer,
    pub(crate) key: TestKey,
    pub(crate) clock: TestClock,
    pub(crate) registry: Registry,
    pub(crate) issuer: String,
    answers: Answers,
}

type Answers = Arc<Mutex<BTreeMap<String, ResponseTemplate>>>;

pub(crate) const DISCOVERY: &str = "/.well-known/openid-configuration";

impl Provider {
    pub(crate) async fn start() -> Self {
        Self::with_key(TestKey::ec()).await
    }

    pub(crate) async fn with_key(key: TestKey) -> Self {
        let clock = TestClock::new();
        let registry = Registry::new(loopback(), Arc::new(clock.clone()));
        Self::with(key, clock, registry).await
    }

    /// With a client whose whole call may take this long.
    pub(crate) async fn within(timeout: Duration) -> Self {
        let clock = TestClock::new();
        let registry = Registry::new(loopback_within(timeout), Arc::new(clock.clone()));
        Self::with(TestKey::ec(), clock, registry).await
    }

    pub(crate) async fn with(key: TestKey, clock: TestClock, registry: Registry) -> Self {
        let server = MockServer::start().await;
        let answers = Answers::default();
        let table = answers.clone();
        let by_path = move |request: &Request| {
            let table = table.lock().unwrap();
            table.get(request.url.path()).cloned().unwrap_or_else(|| ResponseTemplate::new(404))
        };
        Mock::given(any()).respond_with(by_path).mount(&server).await;
        let provider = Self { issuer: server.uri(), server, key, clock, registry, answers };
        provider.answer(DISCOVERY, ok(&provider.metadata()));
        provider.answer("/jwks", ok(&json!({"keys": [provider.key.jwk("k1")]})));
        provider.answer_tokens(&json!({"id_token": provider.id_token(&provider.claims())}));
        provider.answer("/userinfo", ok(&json!({"sub": "alice", "name": "Alice"})));
        provider
    }

    /// What the path answers from now on.
    pub(crate) fn answer(&self, path: &str, answer: ResponseTemplate) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    pub(crate) fn metadata(&self) -> Value {
        let at = |path: &str| format!("{}{path}", self.issuer);
        json!({
            "issuer": self.issuer,
            "authorization_endpoint": at("/authorize"),
            "token_endpoint": at("/token"),
            "jwks_uri": at("/jwks"),
            "userinfo_endpoint": at("/userinfo"),
            "revocation_endpoint": at("/revoke"),
            "code_challenge_methods_supported": ["plain", "S256"],
        })
    }

    /// Changes what the discovery document says; `null` leaves a key out.
    pub(crate) fn publish(&self, changes: &Value) {
        self.answer(DISCOVERY, ok(&changed(self.metadata(), changes)));
    }

    /// Answers the token endpoint with the usual tokens and these changes.
    pub(crate) fn answer_tokens(&self, changes: &Value) {
        let usual = json!({
            "access_token": "access-1", "refresh_token": "refresh-1", "token_type": "Bearer",
            "expires_in": 3600,
        });
        self.answer("/token", ok(&changed(usual, changes)));
    }

    pub(crate) fn answer_id_token(&self, id_token: &str) {
        self.answer_tokens(&json!({"id_token": id_token}));
    }

    pub(crate) fn claims(&self) -> Value {
        json!({
            "iss": self.issuer, "aud": "client", "sub": "alice", "nonce": NONCE,
            "iat": NOW, "exp": NOW + 300,
        })
    }

    pub(crate) fn claims_with(&self, changes: &Value) -> Value {
        changed(self.claims(), changes)
    }

    pub(crate) fn id_token(&self, claims: &Value) -> String {
        let alg = match self.key {
            TestKey::Ec(_) => "ES256",
            TestKey::Ed(_) => "EdDSA",
            TestKey::Rsa(_) => "RS256",
        };
        self.key.sign(&json!({"alg": alg, "kid": "k1", "typ": "JWT"}), claims)
    }

    pub(crate) fn connector(&self) -> Arc<dyn Connector> {
        self.connector_with(&json!({}))
    }

    /// A connector with these changes to its configuration; `null` leaves a key out.
    pub(crate) fn connector_with(&self, changes: &Value) -> Arc<dyn Connector> {
        let mut config = changed(
            json!({"issuer": self.issuer, "client_id": "client", "client_secret": "secret"}),
            changes,
        );
        let config_object = config.as_object_mut().unwrap();
        let names = [
            "client_secret",
            "client_secret_next",
            "client_private_key",
            "client_private_key_next",
        ];
        let secrets: ProviderSecrets = names
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), config_object.remove(name)?)))
            .map(|(name, it)| (name, Secret::new(it.as_str().unwrap())))
            .collect();
        self.registry.connect(&instance("oidc", object(&config)), &secrets).unwrap()
    }

    pub(crate) async fn exchange(&self) -> Result<Grant, ConnectorError> {
        self.connector().exchange(&code_exchange()).await
    }

    pub(crate) async fn refresh(&self) -> Result<Credentials, ConnectorError> {
        self.connector().refresh(&refresh_request()).await
    }

    /// Requests that came to a path.
    pub(crate) async fn requests(&self, path: &str) -> Vec<Request> {
        let all = self.server.received_requests().await.unwrap();
        all.into_iter().filter(|it| it.url.path() == path).collect()
    }
}

pub(crate) fn ok(body: &Value) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(body)
}

pub(crate) fn object(value: &Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// `null` removes a key.
pub(crate) fn changed(mut value: Value, changes: &Value) -> Value {
    let members = value.as_object_mut().unwrap();
    for (name, change) in changes.as_object().unwrap() {
        members.insert(name.clone(), change.clone());
    }
    members.retain(|_, value| !value.is_null());
    value
}

pub(crate) fn instance(provider_type: &str, config: Map<String, Value>) -> IdentityProvider {
    IdentityProvider {
        id: ProviderId(1),
        provider_type: provider_type.into(),
        external_id: None,
        config,
        secret_names: Vec::new(),
        options: ProviderOptions::default(),
        names_issuer: false,
        date_added: DateTime::from_timestamp(NOW, 0).unwrap(),
        version: 1,
    }
}

pub(crate) fn authorization_request() -> AuthorizationRequest {
    AuthorizationRequest {
        redirect_uri: Url::parse("https://app.example/callback/1").unwrap(),
        state: Secret::new("the-state"),
        nonce: Secret::new(NONCE),
        code_verifier: Secret::new(VERIFIER),
        scopes: Vec::new(),
        login_hint: None,
        dpop_key: None,
    }
}

pub(crate) fn code_exchange() -> CodeExchange {
    CodeExchange {
        code: Secret::new("the-code"),
        redirect_uri: Url::parse("https://app.example/callback/1").unwrap(),
        code_verifier: Secret::new(VERIFIER),
        nonce: Secret::new(NONCE),
        state: Secret::new("the-state"),
        scopes: Vec::new(),
        parameters: BTreeMap::new(),
        dpop_key: None,
    }
}

pub(crate) fn refresh_request() -> RefreshRequest {
    RefreshRequest {
        refresh_token: Secret::new("refresh-0"),
        external_id: ExternalId::new("alice").unwrap(),
        redirect_uri: None,
        dpop_key: None,
    }
}

/// A form's fields.
pub(crate) fn form(request: &Request) -> BTreeMap<String, String> {
    url::form_urlencoded::parse(&request.body).into_owned().collect()
}

/// Asserts that the result is an error of this variant.
#[macro_export]
macro_rules! assert_refused {
    ($result:expr, $variant:ident $(, $($context:tt)+)?) => {
        match $result {
            Err(symbolon_domain::ports::ConnectorError::$variant { .. }) => {}
            other => panic!("expected {}, got {:?} {}", stringify!($variant), other.map(|_| "a success"),
                concat!($(stringify!($($context)+))?)),
        }
    };
}
