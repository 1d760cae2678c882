//! Built-in types of the catalog against one server on loopback that stands in for all hosts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use symbolon_domain::{
    identity_provider::{IdentityProvider, ProviderSecrets},
    ports::{
        ClientAddresses, Connector, ConnectorError, Connectors as _, InvalidConfig, Registered,
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

use crate::provider::{TestClock, instance, object};

/// Where a client that registers itself is reached.
pub(crate) fn addresses() -> ClientAddresses {
    let at = |path| Url::parse("https://app.example").unwrap().join(path).unwrap();
    ClientAddresses {
        redirect_uri: at("/callback/1"),
        backchannel_logout_uri: at("/backchannel-logout/1"),
    }
}

/// One server in the place of every host.
pub(crate) struct StandIn {
    pub(crate) server: MockServer,
    pub(crate) registry: Registry,
    answers: Arc<Mutex<BTreeMap<String, ResponseTemplate>>>,
}

/// Where a request was to go, without its scheme and query.
pub(crate) fn place(request: &Request) -> String {
    let host = request.headers.get("host").and_then(|it| it.to_str().ok()).unwrap_or_default();
    format!("{host}{}", request.url.path())
}

/// The JSON-RPC method of a request; empty where it has none.
pub(crate) fn rpc_method(request: &Request) -> String {
    let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    body["method"].as_str().unwrap_or_default().to_owned()
}

/// Our catalog, whose requests all go to this server.
pub(crate) fn registry(stand_in: std::net::SocketAddr) -> Registry {
    let http = HttpClient::new(HttpSettings {
        timeout: Duration::from_secs(2),
        max_response_bytes: 64 * 1024,
        stand_in: Some(stand_in),
        ..HttpSettings::default()
    });
    Registry::new(http.unwrap(), Arc::new(TestClock::new())).with_catalog(Catalog::built_in())
}

impl StandIn {
    pub(crate) async fn start() -> Self {
        let server = MockServer::start().await;
        let answers = Arc::new(Mutex::new(BTreeMap::<String, ResponseTemplate>::new()));
        let table = Arc::clone(&answers);
        let by_place = move |request: &Request| {
            let table = table.lock().unwrap();
            let place = place(request);
            let of_method = format!("{place} {}", rpc_method(request));
            let answer = table.get(&of_method).or_else(|| table.get(&place));
            answer.cloned().unwrap_or_else(|| ResponseTemplate::new(404))
        };
        Mock::given(any()).respond_with(by_place).mount(&server).await;
        let registry = registry(*server.address());
        Self { server, registry, answers }
    }

    /// What is answered at `HOST/PATH`, or there to the JSON-RPC method that follows a space.
    pub(crate) fn answer(&self, place: &str, answer: ResponseTemplate) {
        self.answers.lock().unwrap().insert(place.to_owned(), answer);
    }

    pub(crate) async fn requests(&self, at: &str) -> Vec<Request> {
        let all = self.server.received_requests().await.unwrap();
        all.into_iter().filter(|it| place(it) == at).collect()
    }

    pub(crate) async fn count(&self) -> usize {
        self.server.received_requests().await.unwrap().len()
    }

    pub(crate) fn connect(
        &self,
        provider_type: &str,
        config: &Value,
    ) -> Result<Arc<dyn Connector>, InvalidConfig> {
        let (instance, secrets) = with_secret(provider_type, config);
        self.registry.connect(&instance, &secrets)
    }

    pub(crate) async fn register(
        &self,
        provider_type: &str,
        config: &Value,
    ) -> Result<Option<Registered>, ConnectorError> {
        let (instance, secrets) = with_secret(provider_type, config);
        self.registry.register(&instance, &secrets, &addresses()).await
    }
}

/// An instance of the type, its `client_secret` apart.
pub(crate) fn with_secret(
    provider_type: &str,
    config: &Value,
) -> (IdentityProvider, ProviderSecrets) {
    let mut config = object(config);
    let secret = config.remove("client_secret");
    let secret = secret.map(|it| Secret::new(it.as_str().unwrap()));
    let secrets = secret.map(|it| ("client_secret".to_owned(), it)).into_iter().collect();
    (instance(provider_type, config), secrets)
}

/// The answer of an MCP server to the request of this id.
pub(crate) fn rpc(id: u64, result: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": result})
}
