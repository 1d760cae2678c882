//! MCP servers: what is found out about them, every hostile answer on the way, and the grant's life.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use serde_json::{Value, json};
use symbolon_domain::{
    credentials::Credentials,
    identity_provider::{IdentityProvider, ProviderSecrets},
    ids::ExternalId,
    ports::{
        AuthorizationRequest, Connector, ConnectorError, Connectors as _, Grant, RefreshRequest,
        Registered, Revocation,
    },
    secret::Secret,
};
use symbolon_oauth2::{
    Mcp, Registry,
    http::{HttpClient, HttpSettings},
};
use url::Url;
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers::any};

use crate::{
    assert_refused,
    provider::{
        NONCE, NOW, TestClock, authorization_request, changed, code_exchange, form, instance,
        loopback, object, ok,
    },
    stand_in::addresses,
    test_key::TestKey,
};

const OF_PATH: &str = "/.well-known/oauth-protected-resource/mcp";
const OF_HOST: &str = "/.well-known/oauth-protected-resource";
const SERVER: &str = "/.well-known/oauth-authorization-server/as";
const REDIRECT_URI: &str = "https://app.example/callback/1";

/// An MCP server at `/mcp` and its authorization server at `/as`, on loopback.
struct World {
    server: MockServer,
    registry: Registry,
    key: TestKey,
    answers: Arc<Mutex<BTreeMap<String, ResponseTemplate>>>,
}

impl World {
    async fn new() -> Self {
        let server = MockServer::start().await;
        let answers = Arc::new(Mutex::new(BTreeMap::<String, ResponseTemplate>::new()));
        let table = Arc::clone(&answers);
        let by_path = move |request: &Request| {
            let table = table.lock().unwrap();
            table.get(request.url.path()).cloned().unwrap_or_else(|| ResponseTemplate::new(404))
        };
        Mock::given(any()).respond_with(by_path).mount(&server).await;
        let registry = Registry::new(loopback(), Arc::new(TestClock::new())).with(Mcp);
        let world = Self { server, registry, key: TestKey::ec(), answers };
        world.answer("/mcp", ResponseTemplate::new(401));
        world.answer(OF_PATH, ok(&world.resource()));
        world.answer(SERVER, ok(&world.metadata()));
        world.answer("/as/jwks", ok(&json!({"keys": [world.key.jwk("k1")]})));
        world.answer("/as/register", created(&world.registration()));
        world.answer_tokens(&json!({}));
        world
    }

    fn answer(&self, path: &str, answer: ResponseTemplate) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.server.uri())
    }

    fn resource(&self) -> Value {
        json!({
            "resource": self.at("/mcp"),
            "authorization_servers": [self.at("/as"), self.at("/other")],
            "scopes_supported": ["mcp:read", "mcp:write"],
        })
    }

    fn metadata(&self) -> Value {
        json!({
            "issuer": self.at("/as"),
            "authorization_endpoint": self.at("/as/authorize"),
            "token_endpoint": self.at("/as/token"),
            "registration_endpoint": self.at("/as/register"),
            "revocation_endpoint": self.at("/as/revoke"),
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_post", "none"],
        })
    }

    fn registration(&self) -> Value {
        json!({
            "client_id": "registered", "client_secret": "its-secret", "client_secret_expires_at": 0,
            "redirect_uris": [REDIRECT_URI], "token_endpoint_auth_method": "client_secret_post",
            "registration_access_token": "its-token",
            "registration_client_uri": self.at("/as/register/registered"),
        })
    }

    fn publish(&self, changes: &Value) {
        self.answer(SERVER, ok(&changed(self.metadata(), changes)));
    }

    fn answer_tokens(&self, changes: &Value) {
        let usual = json!({
            "access_token": "access-1", "refresh_token": "refresh-1", "token_type": "Bearer",
            "expires_in": 3600,
        });
        self.answer("/as/token", ok(&changed(usual, changes)));
    }

    fn instance(&self, changes: &Value) -> IdentityProvider {
        instance("mcp", object(&changed(json!({"url": self.at("/mcp")}), changes)))
    }

    async fn register(&self, changes: &Value) -> Result<Registered, ConnectorError> {
        let secrets = ProviderSecrets::new();
        let instance = self.instance(changes);
        self.registry.check("mcp", &instance.config, &secrets).unwrap();
        let registered = self.registry.register(&instance, &secrets, &addresses()).await?;
        Ok(registered.expect("an MCP server always tells something"))
    }

    /// Registered, and then as the service would connect it.
    async fn connector(&self) -> Arc<dyn Connector> {
        let registered = self.register(&json!({})).await.unwrap();
        let instance = self.instance(&Value::Object(registered.config));
        self.registry.connect(&instance, &registered.secrets).unwrap()
    }

    async fn grant(&self) -> (Arc<dyn Connector>, Grant) {
        let connector = self.connector().await;
        let grant = connector.exchange(&code_exchange()).await.unwrap();
        (connector, grant)
    }

    async fn account(&self) -> Result<String, ConnectorError> {
        let (connector, grant) = self.grant().await;
        connector.build_identity(&grant).await.map(|it| it.external_id.as_str().to_owned())
    }

    fn token(&self, typ: &str, changes: &Value) -> String {
        let claims = json!({
            "iss": self.at("/as"), "aud": "registered", "sub": "alice", "nonce": NONCE,
            "iat": NOW, "exp": NOW + 300,
        });
        let header = json!({"alg": "ES256", "kid": "k1", "typ": typ});
        self.key.sign(&header, &changed(claims, changes))
    }

    async fn requests(&self, path: &str) -> Vec<Request> {
        let all = self.server.received_requests().await.unwrap();
        all.into_iter().filter(|it| it.url.path() == path).collect()
    }
}

fn created(body: &Value) -> ResponseTemplate {
    ResponseTemplate::new(201).set_body_json(body)
}

fn challenge(parameters: &str) -> ResponseTemplate {
    ResponseTemplate::new(401).insert_header("www-authenticate", format!("Bearer {parameters}"))
}

fn query(url: &Url) -> BTreeMap<String, String> {
    url.query_pairs().into_owned().collect()
}

#[tokio::test]
async fn an_address_is_enough_to_register_a_client() {
    let world = World::new().await;
    let registered = world.register(&json!({"client_name": "Agents Inc."})).await.unwrap();
    let expected = json!({
        "authorization_server": world.at("/as"), "resource": world.at("/mcp"),
        "scopes": ["mcp:read", "mcp:write"], "client_id": "registered",
        "token_endpoint_auth_method": "client_secret_post",
        "registration_client_uri": world.at("/as/register/registered"),
    });
    assert_eq!(Value::Object(registered.config), expected);
    let secrets: Vec<_> =
        registered.secrets.iter().map(|(it, value)| (&**it, value.expose())).collect();
    let expected = [("client_secret", "its-secret"), ("registration_access_token", "its-token")];
    assert_eq!(secrets, expected);
    let requests = world.requests("/as/register").await;
    let body: Value = requests[0].body_json().unwrap();
    let expected = json!({
        "client_name": "Agents Inc.", "redirect_uris": [REDIRECT_URI],
        "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
        "token_endpoint_auth_method": "client_secret_post",
    });
    assert_eq!(body, expected);

    // Where it tells of logouts, it is told where to.
    world.publish(&json!({"backchannel_logout_supported": true}));
    let registry = Registry::new(loopback(), Arc::new(TestClock::new())).with(Mcp);
    let (instance, secrets) = (world.instance(&json!({})), ProviderSecrets::new());
    registry.register(&instance, &secrets, &addresses()).await.unwrap().unwrap();
    let requests = world.requests("/as/register").await;
    let body: Value = requests[1].body_json().unwrap();
    assert_eq!(body["backchannel_logout_uri"], "https://app.example/backchannel-logout/1");
}

#[tokio::test]
async fn the_challenge_says_where_to_look_and_what_to_ask_for() {
    let world = World::new().await;
    let told = format!(r#"resource_metadata="{}", scope="mcp:read""#, world.at("/elsewhere"));
    world.answer("/mcp", challenge(&told));
    world.answer("/elsewhere", ok(&world.resource()));
    let registered = world.register(&json!({})).await.unwrap();
    assert_eq!(registered.config["scopes"], json!(["mcp:read"]));
    assert_eq!(world.requests(OF_PATH).await.len(), 0);
}

#[tokio::test]
async fn without_a_challenge_the_path_is_asked_before_the_host() {
    let world = World::new().await;
    world.answer(OF_PATH, ResponseTemplate::new(404));
    let root = changed(world.resource(), &json!({"resource": world.server.uri()}));
    world.answer(OF_HOST, ok(&root));
    let registered = world.register(&json!({})).await.unwrap();
    assert_eq!(registered.config["resource"], json!(world.server.uri()));
    assert_eq!(world.requests(OF_PATH).await.len(), 1);
}

#[tokio::test]
async fn metadata_about_another_resource_are_refused() {
    let world = World::new().await;
    for resource in [
        json!("https://evil.example/mcp"),
        json!(world.at("/other")),
        json!(world.at("/mcp/deeper")),
        json!(world.at("/mc")),
        json!("not an address"),
        json!(null),
        json!([world.at("/mcp")]),
    ] {
        let named = changed(world.resource(), &json!({"resource": resource}));
        world.answer(OF_PATH, ok(&named));
        assert_refused!(world.register(&json!({})).await, Misconfigured, resource);
    }
    assert_eq!(world.requests("/as/register").await.len(), 0);
}

#[tokio::test]
async fn a_server_cannot_name_what_it_shares_a_host_with_as_itself() {
    let world = World::new().await;
    let whole = changed(world.resource(), &json!({"resource": world.server.uri()}));
    world.answer("/mcp/own", ok(&whole));
    let told = format!(r#"resource_metadata="{}""#, world.at("/mcp/own"));
    world.answer("/mcp", challenge(&told));
    assert_refused!(world.register(&json!({})).await, Misconfigured);
    // At the host's own address it is the host's word.
    world.answer(OF_HOST, ok(&whole));
    let told = format!(r#"resource_metadata="{}""#, world.at(OF_HOST));
    world.answer("/mcp", challenge(&told));
    assert!(world.register(&json!({})).await.is_ok());
}

#[tokio::test]
async fn metadata_of_another_issuer_are_refused_and_so_are_those_without_s256() {
    let world = World::new().await;
    for changes in [
        json!({"issuer": "https://evil.example"}),
        json!({"issuer": world.at("/as/")}),
        json!({"issuer": null}),
        json!({"code_challenge_methods_supported": null}),
        json!({"code_challenge_methods_supported": ["plain"]}),
        json!({"authorization_endpoint": null}),
        json!({"token_endpoint": "ftp://as.example/token"}),
        json!({"registration_endpoint": null}),
        json!({"token_endpoint_auth_methods_supported": ["private_key_jwt"]}),
    ] {
        let world = World::new().await;
        world.publish(&changes);
        assert_refused!(world.register(&json!({})).await, Misconfigured, changes);
        assert_eq!(world.requests("/as/register").await.len(), 0, "{changes}");
    }
}

#[tokio::test]
async fn openid_discovery_is_asked_where_there_is_no_rfc_8414() {
    for place in ["/.well-known/openid-configuration/as", "/as/.well-known/openid-configuration"] {
        let world = World::new().await;
        world.answer(SERVER, ResponseTemplate::new(200).set_body_string("<html>an app</html>"));
        world.answer(place, ok(&world.metadata()));
        assert!(world.register(&json!({})).await.is_ok(), "{place}");
    }
}

#[tokio::test]
async fn the_operator_may_choose_another_of_the_servers_that_are_named() {
    let world = World::new().await;
    let other = changed(world.metadata(), &json!({"issuer": world.at("/other")}));
    world.answer("/.well-known/oauth-authorization-server/other", ok(&other));
    let chosen = json!({"authorization_server": world.at("/other")});
    let registered = world.register(&chosen).await.unwrap();
    assert_eq!(registered.config["authorization_server"], json!(world.at("/other")));
    let unknown = json!({"authorization_server": world.at("/unknown")});
    assert_refused!(world.register(&unknown).await, Misconfigured);
}

#[tokio::test]
async fn a_client_that_is_configured_is_used_and_none_is_registered() {
    let world = World::new().await;
    world.publish(&json!({"registration_endpoint": null}));
    let registered = world.register(&json!({"client_id": "mine"})).await.unwrap();
    assert_eq!(registered.config.get("client_id"), None);
    assert_eq!(registered.config["authorization_server"], json!(world.at("/as")));
    assert!(registered.secrets.is_empty());
}

#[tokio::test]
async fn a_refused_registration_says_what_to_do_and_one_that_may_pass_is_no_refusal() {
    let error = json!({"error": "invalid_redirect_uri", "error_description": "<b>no</b>"});
    for status in [400, 401, 403, 404] {
        let world = World::new().await;
        world.answer("/as/register", ResponseTemplate::new(status).set_body_json(&error));
        match world.register(&json!({})).await {
            Err(ConnectorError::Misconfigured { detail }) => {
                assert!(detail.contains("invalid_redirect_uri") && detail.contains("by hand"));
                assert!(!detail.contains("<b>"));
            }
            other => panic!("{status}: {other:?}"),
        }
    }
    for answer in [
        ResponseTemplate::new(429),
        ResponseTemplate::new(503),
        ResponseTemplate::new(307).insert_header("location", "/elsewhere"),
        ResponseTemplate::new(201).set_body_string("{"),
    ] {
        let world = World::new().await;
        world.answer("/as/register", answer);
        assert_refused!(world.register(&json!({})).await, Unavailable);
        assert_eq!(world.requests("/elsewhere").await.len(), 0);
    }
}

#[tokio::test]
async fn a_registration_that_is_not_ours_or_cannot_be_used_is_refused() {
    for changes in [
        json!({"client_id": null}),
        json!({"client_id": "a\nb"}),
        json!({"client_secret": null}),
        json!({"redirect_uris": ["https://evil.example/callback"]}),
        json!({"redirect_uris": []}),
        json!({"token_endpoint_auth_method": "private_key_jwt"}),
    ] {
        let world = World::new().await;
        world.answer("/as/register", created(&changed(world.registration(), &changes)));
        assert_refused!(world.register(&json!({})).await, Untrusted, changes);
    }
}

#[tokio::test]
async fn the_server_may_make_us_a_public_client() {
    let world = World::new().await;
    let public = json!({"token_endpoint_auth_method": "none", "client_secret": null});
    world.answer("/as/register", created(&changed(world.registration(), &public)));
    let (_, grant) = world.grant().await;
    assert!(grant.credentials.access_token.is_some());
    let sent = form(&world.requests("/as/token").await[0]);
    assert_eq!(sent["client_id"], "registered");
    assert!(!sent.contains_key("client_secret"));
}

#[tokio::test]
async fn the_token_of_a_registration_goes_nowhere_else() {
    let world = World::new().await;
    let elsewhere = json!({"registration_client_uri": "https://evil.example/registered"});
    world.answer("/as/register", created(&changed(world.registration(), &elsewhere)));
    let registered = world.register(&json!({})).await.unwrap();
    assert!(!registered.config.contains_key("registration_client_uri"));
    assert!(!registered.secrets.contains_key("registration_access_token"));
}

#[tokio::test]
async fn redirects_are_not_followed_on_the_way() {
    let moved = || ResponseTemplate::new(302).insert_header("location", "/elsewhere");
    for path in [OF_PATH, SERVER] {
        let world = World::new().await;
        world.answer(path, moved());
        world.answer("/elsewhere", ok(&world.resource()));
        assert_refused!(world.register(&json!({})).await, Misconfigured, path);
        assert_eq!(world.requests("/elsewhere").await.len(), 0);
    }
    // A redirected challenge is none.
    let world = World::new().await;
    world.answer("/mcp", moved());
    assert!(world.register(&json!({})).await.is_ok());
    assert_eq!(world.requests("/elsewhere").await.len(), 0);
}

#[tokio::test]
async fn an_outage_is_told_from_a_server_that_has_nothing_to_tell() {
    for path in [OF_PATH, SERVER] {
        let world = World::new().await;
        world.answer(path, ResponseTemplate::new(503));
        assert_refused!(world.register(&json!({})).await, Unavailable, path);
        let world = World::new().await;
        world.answer(path, ResponseTemplate::new(404));
        assert_refused!(world.register(&json!({})).await, Misconfigured, path);
    }
}

#[tokio::test]
async fn private_addresses_are_refused_wherever_they_are_named() {
    let strict = HttpClient::new(HttpSettings { allow_http: true, ..HttpSettings::default() });
    let registry = Registry::new(strict.unwrap(), Arc::new(TestClock::new())).with(Mcp);
    let secrets = ProviderSecrets::new();
    for url in ["http://127.0.0.1/mcp", "http://169.254.169.254/", "http://[::1]/mcp"] {
        let config = object(&json!({"url": url}));
        assert_eq!(registry.check("mcp", &config, &secrets).unwrap_err().field, "url");
    }
    // A name that resolves to one is found out when connecting.
    let instance = instance("mcp", object(&json!({"url": "http://localhost:1/mcp"})));
    assert_refused!(registry.register(&instance, &secrets, &addresses()).await, Misconfigured);

    // Our loopback server stands for a public one; what it names is checked as an address is.
    let world = World::new().await;
    for named in
        ["http://user:pass@127.0.0.1/as", "ftp://127.0.0.1/as", "as", "https://a.example/?q"]
    {
        let servers = json!({"authorization_servers": [named]});
        world.answer(OF_PATH, ok(&changed(world.resource(), &servers)));
        assert_refused!(world.register(&json!({})).await, Misconfigured, named);
    }
}

#[tokio::test]
async fn the_browser_is_sent_with_pkce_and_the_resource() {
    let world = World::new().await;
    let connector = world.connector().await;
    let url = connector.authorize(&authorization_request()).await.unwrap();
    let sent = query(&url);
    assert_eq!(url.path(), "/as/authorize");
    assert_eq!(sent["client_id"], "registered");
    assert_eq!(sent["code_challenge"], "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    assert_eq!(sent["code_challenge_method"], "S256");
    assert_eq!(sent["resource"], world.at("/mcp"));
    assert_eq!(sent["scope"], "mcp:read mcp:write");
    let other = AuthorizationRequest { scopes: vec!["mcp:read".into()], ..authorization_request() };
    assert_eq!(query(&connector.authorize(&other).await.unwrap())["scope"], "mcp:read");
}

#[tokio::test]
async fn what_tells_the_account_and_brings_a_refresh_token_is_asked_for_where_it_is_known() {
    let world = World::new().await;
    let listed = json!({"scopes_supported": ["openid", "offline_access", "email"]});
    world.publish(&listed);
    let connector = world.connector().await;
    let asked = AuthorizationRequest { scopes: vec!["mcp:read".into()], ..authorization_request() };
    for (request, scope) in [
        (authorization_request(), "mcp:read mcp:write openid offline_access"),
        (asked, "mcp:read openid offline_access"),
    ] {
        let sent = query(&connector.authorize(&request).await.unwrap());
        assert_eq!(sent["scope"], scope);
        assert_eq!((sent["nonce"].as_str(), sent["prompt"].as_str()), (NONCE, "consent"));
    }
}

#[tokio::test]
async fn a_response_of_another_issuer_is_refused() {
    let world = World::new().await;
    let connector = world.connector().await;
    assert_eq!(connector.check_issuer(Some(&world.at("/as")), true).await, Ok(()));
    assert_eq!(connector.check_issuer(None, false).await, Ok(()));
    assert_refused!(connector.check_issuer(Some("https://evil.example"), false).await, Untrusted);
    assert_refused!(connector.check_issuer(None, true).await, Untrusted);

    let world = World::new().await;
    world.publish(&json!({"authorization_response_iss_parameter_supported": true}));
    let connector = world.connector().await;
    assert_refused!(connector.check_issuer(None, false).await, Untrusted);
}

#[tokio::test]
async fn tokens_are_asked_for_the_resource_at_the_exchange_and_at_each_refresh() {
    let world = World::new().await;
    let (connector, grant) = world.grant().await;
    let request = RefreshRequest {
        refresh_token: Secret::new("refresh-1"),
        external_id: connector.build_identity(&grant).await.unwrap().external_id,
        redirect_uri: None,
        dpop_key: None,
    };
    world.answer_tokens(&json!({"access_token": "access-2", "refresh_token": "refresh-2"}));
    let renewed = connector.refresh(&request).await.unwrap();
    assert_eq!(renewed.refresh_token, Some(Secret::new("refresh-2")));
    let sent: Vec<_> = world.requests("/as/token").await.iter().map(form).collect();
    assert_eq!(sent[0]["grant_type"], "authorization_code");
    assert_eq!(sent[0]["code_verifier"], crate::provider::VERIFIER);
    assert_eq!(sent[1]["grant_type"], "refresh_token");
    for sent in sent {
        assert_eq!(sent["resource"], world.at("/mcp"));
        assert_eq!(
            (sent["client_id"].as_str(), sent["client_secret"].as_str()),
            ("registered", "its-secret")
        );
    }
}

#[tokio::test]
async fn tokens_go_to_whoever_issued_them_though_the_server_names_another_by_then() {
    let world = World::new().await;
    let connector = world.connector().await;
    let evil = json!({"authorization_servers": ["https://evil.example"]});
    world.answer(OF_PATH, ok(&changed(world.resource(), &evil)));
    let before = world.requests(OF_PATH).await.len();
    connector.authorize(&authorization_request()).await.unwrap();
    connector.exchange(&code_exchange()).await.unwrap();
    assert_eq!(world.requests(OF_PATH).await.len(), before, "nobody asks it again");
    assert_eq!(world.requests("/as/token").await.len(), 1);
}

#[tokio::test]
async fn a_grant_ends_at_the_revocation_endpoint_where_there_is_one() {
    let world = World::new().await;
    world.answer("/as/revoke", ResponseTemplate::new(200));
    let (connector, grant) = world.grant().await;
    let ended = connector.revoke(&grant.credentials).await;
    assert_eq!(ended, Ok(Revocation::Revoked));
    assert_eq!(form(&world.requests("/as/revoke").await[0])["token"], "refresh-1");

    let world = World::new().await;
    world.publish(&json!({"revocation_endpoint": null}));
    let (connector, grant) = world.grant().await;
    assert_eq!(connector.revoke(&grant.credentials).await, Ok(Revocation::Unsupported));
    assert_eq!(connector.revoke(&Credentials::default()).await, Ok(Revocation::Unsupported));
}

#[tokio::test]
async fn the_account_is_the_subject_of_the_id_token() {
    let world = World::new().await;
    world.publish(
        &json!({"jwks_uri": world.at("/as/jwks"), "userinfo_endpoint": world.at("/as/me")}),
    );
    world.answer_tokens(&json!({"id_token": world.token("JWT", &json!({}))}));
    world.answer("/as/me", ResponseTemplate::new(401));
    assert_eq!(world.account().await.unwrap(), "alice");
    world.answer("/as/me", ok(&json!({"sub": "mallory"})));
    assert_refused!(world.account().await, Untrusted);
    // It is verified in full.
    let connector = world.connector().await;
    for changes in [
        json!({"nonce": "another"}),
        json!({"aud": "another"}),
        json!({"iss": "https://evil.example"}),
        json!({"exp": NOW - 61}),
    ] {
        world.answer_tokens(&json!({"id_token": world.token("JWT", &changes)}));
        assert_refused!(connector.exchange(&code_exchange()).await, Untrusted, changes);
    }
}

#[tokio::test]
async fn without_an_id_token_it_is_who_the_userinfo_endpoint_names() {
    let world = World::new().await;
    world.publish(&json!({"userinfo_endpoint": world.at("/as/me")}));
    world.answer("/as/me", ok(&json!({"sub": "alice", "name": "Alice"})));
    assert_eq!(world.account().await.unwrap(), "alice");
    // Not passed over because it is down.
    world.answer("/as/me", ResponseTemplate::new(503));
    assert_refused!(world.account().await, Unavailable);
    // The form of our own ids is nobody's.
    world.answer("/as/me", ok(&json!({"sub": "grant-1"})));
    assert_refused!(world.account().await, Untrusted);
}

#[tokio::test]
async fn without_those_it_is_the_subject_of_a_signed_access_token() {
    let world = World::new().await;
    world.publish(&json!({"jwks_uri": world.at("/as/jwks")}));
    let with = async |token: String| {
        world.answer_tokens(&json!({"access_token": token}));
        world.account().await
    };
    let ours = json!({"aud": world.at("/mcp"), "client_id": "registered"});
    assert_eq!(with(world.token("at+jwt", &ours)).await.unwrap(), "alice");
    // Of another issuer, for another client, of no user: those tell nothing of an account.
    for changes in [
        json!({"iss": "https://evil.example"}),
        json!({"client_id": "another"}),
        json!({"sub": "registered"}),
        json!({"sub": null}),
    ] {
        let account = with(world.token("at+jwt", &changes)).await.unwrap();
        assert!(account.starts_with("grant-"), "{changes}");
    }
    let forged = TestKey::ec().sign(
        &json!({"alg": "ES256", "kid": "k1"}),
        &json!({"iss": world.at("/as"), "sub": "alice"}),
    );
    assert_refused!(with(forged).await, Untrusted);

    // Not passed over because the keys are not to be had.
    let world = World::new().await;
    world.publish(&json!({"jwks_uri": world.at("/as/jwks")}));
    world.answer("/as/jwks", ResponseTemplate::new(503));
    world.answer_tokens(&json!({"access_token": world.token("at+jwt", &ours)}));
    assert_refused!(world.account().await, Unavailable);
}

#[tokio::test]
async fn without_those_it_is_who_introspection_names() {
    let world = World::new().await;
    world.publish(&json!({"introspection_endpoint": world.at("/as/introspect")}));
    let active = json!({"active": true, "sub": "alice", "client_id": "registered"});
    world.answer("/as/introspect", ok(&active));
    assert_eq!(world.account().await.unwrap(), "alice");
    let sent = form(&world.requests("/as/introspect").await[0]);
    assert_eq!((&*sent["token"], &*sent["client_secret"]), ("access-1", "its-secret"));
    for answer in [
        ok(&json!({"active": false})),
        ok(&changed(active.clone(), &json!({"client_id": "another"}))),
        ok(&changed(active, &json!({"active": "true"}))),
        ResponseTemplate::new(403),
    ] {
        world.answer("/as/introspect", answer);
        assert!(world.account().await.unwrap().starts_with("grant-"));
    }
    world.answer("/as/introspect", ResponseTemplate::new(500));
    assert_refused!(world.account().await, Unavailable);
}

#[tokio::test]
async fn where_nobody_tells_each_grant_is_an_account_of_its_own() {
    let world = World::new().await;
    let mut ids = BTreeSet::new();
    for _ in 0..3 {
        let (connector, grant) = world.grant().await;
        let id = connector.build_identity(&grant).await.unwrap().external_id;
        assert_eq!(connector.build_identity(&grant).await.unwrap().external_id, id);
        assert!(id.as_str().starts_with("grant-"));
        ids.insert(id.as_str().to_owned());
    }
    assert_eq!(ids.len(), 3);
}

#[tokio::test]
async fn a_refresh_keeps_the_account_that_it_is_of() {
    let world = World::new().await;
    world.publish(&json!({"jwks_uri": world.at("/as/jwks")}));
    let connector = world.connector().await;
    let request = |id: &str| RefreshRequest {
        refresh_token: Secret::new("refresh-1"),
        external_id: ExternalId::new(id).unwrap(),
        redirect_uri: None,
        dpop_key: None,
    };
    let changes = json!({"nonce": null});
    world.answer_tokens(&json!({"id_token": world.token("JWT", &changes)}));
    assert!(connector.refresh(&request("alice")).await.is_ok());
    assert_refused!(connector.refresh(&request("bob")).await, Untrusted);
    // Nobody said whose it is, so an ID token contradicts nothing.
    assert!(connector.refresh(&request("grant-x")).await.is_ok());
}

#[tokio::test]
async fn an_id_token_that_nobody_could_verify_is_left_out() {
    let world = World::new().await;
    world.answer_tokens(&json!({"id_token": world.token("JWT", &json!({"sub": "mallory"}))}));
    let (connector, grant) = world.grant().await;
    assert_eq!((grant.credentials.id_token.clone(), grant.claims.len()), (None, 0));
    assert!(
        connector.build_identity(&grant).await.unwrap().external_id.as_str().starts_with("grant-")
    );
}

#[tokio::test]
async fn a_client_is_deleted_where_it_was_registered() {
    let world = World::new().await;
    let registered = world.register(&json!({})).await.unwrap();
    let instance = world.instance(&Value::Object(registered.config));
    let path = "/as/register/registered";
    for (status, fine) in [(204, true), (401, true), (404, true), (500, false)] {
        world.answer(path, ResponseTemplate::new(status));
        let deleted = world.registry.deregister(&instance, &registered.secrets).await;
        assert_eq!(deleted.is_ok(), fine, "{status}: {deleted:?}");
    }
    let sent = &world.requests(path).await[0];
    assert_eq!(sent.method.as_str(), "DELETE");
    assert_eq!(sent.headers["authorization"], "Bearer its-token");
    // A client that an operator brought is not ours to delete.
    let own = world.instance(&json!({"client_id": "mine"}));
    assert_eq!(world.registry.deregister(&own, &ProviderSecrets::new()).await, Ok(()));
}

#[tokio::test]
async fn what_was_not_registered_says_so() {
    let world = World::new().await;
    let connector =
        world.registry.connect(&world.instance(&json!({})), &ProviderSecrets::new()).unwrap();
    assert_refused!(connector.authorize(&authorization_request()).await, Misconfigured);
    assert_refused!(connector.exchange(&code_exchange()).await, Misconfigured);
    // It may be a declared one, before the first start: whether that would work is what is asked.
    assert_eq!(connector.reachable().await, Ok(()));
    world.answer(OF_PATH, ResponseTemplate::new(404));
    assert_refused!(connector.reachable().await, Misconfigured);
}

#[tokio::test]
async fn a_configuration_that_does_not_fit_is_refused_by_its_field() {
    let world = World::new().await;
    for (changes, field) in [
        (json!({"url": null}), "url"),
        (json!({"url": "mcp.example"}), "url"),
        (json!({"url": world.at("/mcp#x")}), "url"),
        (json!({"authorization_server": "as"}), "authorization_server"),
        (json!({"client_name": "a\nb"}), "client_name"),
        (json!({"client_id": "a\nb"}), "client_id"),
        (json!({"resource": "x"}), "resource"),
        (json!({"registration_client_uri": "ftp://a.example"}), "registration_client_uri"),
        (json!({"issuer": "https://a.example"}), "issuer"),
    ] {
        let config = world.instance(&changes).config;
        let error = world.registry.check("mcp", &config, &ProviderSecrets::new()).unwrap_err();
        assert_eq!(error.field, field, "{changes}");
    }
}

/// An authorization server that binds tokens, and an instance that wants them bound.
async fn bound() -> (World, Arc<dyn Connector>) {
    let world = World::new().await;
    world.publish(&json!({
        "dpop_signing_alg_values_supported": ["RS256", "ES256"],
        "userinfo_endpoint": world.at("/as/me"),
    }));
    world.answer_tokens(&json!({"token_type": "DPoP"}));
    let registered = world.register(&json!({"dpop": true})).await.unwrap();
    let mut config = registered.config;
    config.insert("dpop".into(), true.into());
    let instance = world.instance(&Value::Object(config));
    let connector = world.registry.connect(&instance, &registered.secrets).unwrap();
    (world, connector)
}

#[tokio::test]
async fn a_grant_of_an_mcp_server_is_bound_to_a_key() {
    let (world, connector) = bound().await;
    let body: Value = world.requests("/as/register").await[0].body_json().unwrap();
    assert_eq!(body["dpop_bound_access_tokens"], true);
    let dpop_key = connector.new_dpop_key();
    let request = AuthorizationRequest { dpop_key: dpop_key.clone(), ..authorization_request() };
    assert!(query(&connector.authorize(&request).await.unwrap()).contains_key("dpop_jkt"));

    let exchange = symbolon_domain::ports::CodeExchange { dpop_key, ..code_exchange() };
    let grant = connector.exchange(&exchange).await.unwrap();
    assert_eq!(grant.credentials.dpop_key, exchange.dpop_key);
    world.answer("/as/me", ok(&json!({"sub": "alice"})));
    let account = connector.build_identity(&grant).await.unwrap();
    assert_eq!(account.external_id.as_str(), "alice");
    let asked = &world.requests("/as/me").await[0];
    assert_eq!(asked.headers["authorization"], "DPoP access-1");
    assert!(asked.headers.contains_key("dpop"));
    let refresh = RefreshRequest {
        refresh_token: Secret::new("refresh-1"),
        external_id: account.external_id,
        redirect_uri: None,
        dpop_key: grant.credentials.key_of_refresh_token().cloned(),
    };
    let renewed = connector.refresh(&refresh).await.unwrap();
    assert_eq!(renewed.dpop_key, exchange.dpop_key);
    let proven = world.requests("/as/token").await;
    assert!(proven.len() == 2 && proven.iter().all(|it| it.headers.contains_key("dpop")));

    // A token that is its bearer's is not what was asked for.
    world.answer_tokens(&json!({}));
    assert_refused!(connector.exchange(&exchange).await, Misconfigured);
}

#[tokio::test]
async fn an_authorization_server_that_binds_nothing_is_no_mcp_server_to_bind_at() {
    for algs in [json!(null), json!([]), json!(["RS256"])] {
        let world = World::new().await;
        world.publish(&json!({"dpop_signing_alg_values_supported": algs}));
        assert_refused!(world.register(&json!({"dpop": true})).await, Misconfigured);
        assert!(world.requests("/as/register").await.is_empty(), "{algs}");
        // Turned on later, it is asked too; while nothing is found out yet, there is nobody to ask.
        let later = json!({"dpop": true, "authorization_server": world.at("/as")});
        for (config, refused) in [(later, true), (json!({"dpop": true}), false)] {
            let config = world.instance(&config).config;
            let verified = world.registry.verify("mcp", &config, &ProviderSecrets::new()).await;
            assert_eq!(verified.is_err(), refused, "{verified:?}");
        }
        // Without, all is as ever.
        let registered = world.register(&json!({})).await.unwrap();
        assert!(registered.config.contains_key("client_id"));
        let connector = world.connector().await;
        assert_eq!(connector.new_dpop_key(), None);
    }
}
