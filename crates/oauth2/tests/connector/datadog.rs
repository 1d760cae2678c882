//! Datadog: the cases of the original (DD-01 to DD-17), and every answer of its MCP server that
//! must be refused.

use std::{collections::BTreeMap, net::TcpListener, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use symbolon_domain::{
    account::ExternalAccount,
    credentials::Credentials,
    identity_provider::ProviderSecrets,
    ports::{ConnectorError, Connectors as _, Grant, Revocation},
    secret::Secret,
};
use tokio::io::AsyncWriteExt as _;
use url::Url;
use wiremock::{Request, ResponseTemplate};

use crate::{
    assert_refused,
    provider::{
        VERIFIER, authorization_request, changed, code_exchange, form, instance, object, ok,
        refresh_request,
    },
    raw_server::RawServer,
    stand_in::{self, StandIn, addresses, rpc, rpc_method},
    test_key::base64url,
};

const REGISTER: &str = "app.datadoghq.eu/api/v2/oauth2/register";
const TOKEN: &str = "app.datadoghq.eu/api/v2/oauth2/token";
const MCP: &str = "mcp.datadoghq.eu/v1/mcp";
const SCOPES: &str = "mcp_all";

fn site() -> Value {
    json!({"site": "datadoghq.eu"})
}

fn with_client() -> Value {
    changed(site(), &json!({"client_id": "dcr-id", "client_secret": "dcr-secret"}))
}

fn whoami() -> Value {
    json!({
        "user_uuid": "user-1", "org_uuid": "org-1", "user_email": "ada@datadog.example",
        "user_name": "Ada",
    })
}

fn contents(text: &str) -> Value {
    json!({"contents": [{"uri": "datadog://mcp/whoami", "text": text}]})
}

fn events(stream: &str) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_raw(stream.as_bytes().to_vec(), "text/event-stream")
}

fn initialized() -> ResponseTemplate {
    let result = json!({
        "protocolVersion": "2025-06-18", "capabilities": {}, "serverInfo": {"name": "s", "version": "1"},
    });
    ok(&rpc(1, &result)).insert_header("mcp-session-id", "session-1")
}

/// Datadog's site in Europe, whose MCP server knows Ada.
async fn world() -> StandIn {
    let world = StandIn::start().await;
    let registered = json!({
        "client_id": "dcr-id", "client_secret": "dcr-secret",
        "token_endpoint_auth_method": "client_secret_basic",
        "redirect_uris": ["https://app.example/callback/1"],
    });
    world.answer(REGISTER, ResponseTemplate::new(201).set_body_json(registered));
    let tokens = json!({
        "access_token": "access-1", "refresh_token": "refresh-1", "token_type": "Bearer",
        "expires_in": 3600, "scope": SCOPES,
    });
    world.answer(TOKEN, ok(&tokens));
    world.answer(&format!("{MCP} initialize"), initialized());
    world.answer(&format!("{MCP} notifications/initialized"), ResponseTemplate::new(202));
    answer_read(&world, ok(&rpc(2, &contents(&whoami().to_string()))));
    world
}

fn answer_read(world: &StandIn, answer: ResponseTemplate) {
    world.answer(&format!("{MCP} resources/read"), answer);
}

fn grant_of(token: &str) -> Grant {
    let credentials =
        Credentials { access_token: Some(Secret::new(token)), ..Credentials::default() };
    Grant { credentials, claims: object(&json!({})), facts: object(&json!({})) }
}

/// Whose a token is that somebody brought.
async fn account_of(world: &StandIn, token: &str) -> Result<ExternalAccount, ConnectorError> {
    let connector = world.connect("datadog_pat", &site()).unwrap();
    connector.build_identity(&grant_of(token)).await
}

fn query(url: &Url) -> BTreeMap<String, String> {
    url.query_pairs().into_owned().collect()
}

fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request.headers.get(name).map(|it| it.to_str().unwrap())
}

fn basic() -> String {
    format!("Basic {}", STANDARD.encode("dcr-id:dcr-secret"))
}

/// \[DD-01\]
#[tokio::test]
async fn a_client_is_registered_with_what_it_needs_and_no_more() {
    let world = world().await;
    let registered = world.register("datadog", &site()).await.unwrap().unwrap();
    assert_eq!(registered.config["client_id"], "dcr-id");
    assert_eq!(registered.config["token_endpoint_auth_method"], "client_secret_basic");
    assert_eq!(registered.secrets["client_secret"].expose(), "dcr-secret");
    let requests = world.requests(REGISTER).await;
    assert_eq!((requests.len(), world.count().await), (1, 1));
    let body: Value = serde_json::from_slice(&requests[0].body).unwrap();
    assert_eq!(
        body,
        json!({
            "client_name": "Symbolon", "redirect_uris": ["https://app.example/callback/1"],
            "grant_types": ["authorization_code", "refresh_token"], "response_types": ["code"],
            "token_endpoint_auth_method": "none",
        })
    );
    let named = changed(site(), &json!({"client_name": "Agents Inc."}));
    world.register("datadog", &named).await.unwrap().unwrap();
    let body: Value = serde_json::from_slice(&world.requests(REGISTER).await[1].body).unwrap();
    assert_eq!(body["client_name"], "Agents Inc.");
}

/// \[DD-02\]
#[tokio::test]
async fn a_client_that_is_there_is_not_registered_anew() {
    let world = world().await;
    assert_eq!(world.register("datadog", &with_client()).await, Ok(None));
    assert_eq!(world.count().await, 0);
}

/// \[DD-03\], \[DD-06\], \[DD-07\]
#[tokio::test]
async fn a_registration_that_fails_gives_no_client() {
    let world = world().await;
    for status in [429, 500, 503] {
        world.answer(REGISTER, ResponseTemplate::new(status));
        assert_refused!(world.register("datadog", &site()).await, Unavailable, status);
    }
    world.answer(REGISTER, ResponseTemplate::new(400));
    assert_refused!(world.register("datadog", &site()).await, Misconfigured);
    for text in ["", "<html>", "[]", "{\"client_id\": "] {
        world.answer(REGISTER, ResponseTemplate::new(201).set_body_string(text));
        assert_refused!(world.register("datadog", &site()).await, Unavailable, text);
    }
    for body in [
        json!({"client_id": "dcr-id", "token_endpoint_auth_method": "client_secret_basic"}),
        json!({
            "client_id": "dcr-id", "client_secret": "",
            "token_endpoint_auth_method": "client_secret_basic",
        }),
        json!({"client_secret": "dcr-secret"}),
        json!({"client_id": "a\nb", "client_secret": "dcr-secret"}),
        json!({"client_id": "a", "client_secret": "b", "redirect_uris": ["https://b.example"]}),
    ] {
        world.answer(REGISTER, ResponseTemplate::new(201).set_body_json(&body));
        assert_refused!(world.register("datadog", &site()).await, Untrusted, body);
    }
}

/// \[DD-04\], \[DD-05\]: that there is no TLS to be had is told like that there is no connection.
#[tokio::test]
async fn a_registration_that_reaches_nobody_may_be_tried_again() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = free.local_addr().unwrap();
    drop(free);
    let registry = stand_in::registry(nobody);
    let provider = instance("datadog", object(&site()));
    let refused = registry.register(&provider, &ProviderSecrets::new(), &addresses()).await;
    assert_refused!(refused, Unavailable);
}

/// \[DD-08\], \[DD-09\], \[DD-10\], \[DD-13\]
#[tokio::test]
async fn the_browser_brings_the_registered_client_the_challenge_and_the_resource() {
    let world = world().await;
    let connector = world.connect("datadog", &with_client()).unwrap();
    let url = connector.authorize(&authorization_request()).await.unwrap();
    assert_eq!(url.host_str(), Some("app.datadoghq.eu"));
    assert_eq!(url.path(), "/oauth2/v1/authorize");
    let challenge = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, VERIFIER.as_bytes());
    let expected = [
        ("client_id", "dcr-id"),
        ("code_challenge", &base64url(challenge)),
        ("code_challenge_method", "S256"),
        ("redirect_uri", "https://app.example/callback/1"),
        ("resource", "https://mcp.datadoghq.eu"),
        ("response_type", "code"),
        ("scope", SCOPES),
        ("state", "the-state"),
    ];
    let expected: BTreeMap<String, String> =
        expected.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(query(&url), expected);
}

/// \[DD-14\]
#[tokio::test]
async fn a_code_is_traded_with_the_verifier_and_the_client_in_the_header_alone() {
    let world = world().await;
    let connector = world.connect("datadog", &with_client()).unwrap();
    connector.exchange(&code_exchange()).await.unwrap();
    let request = &world.requests(TOKEN).await[0];
    assert_eq!(header(request, "authorization"), Some(basic().as_str()));
    let expected = [
        ("code", "the-code"),
        ("code_verifier", VERIFIER),
        ("grant_type", "authorization_code"),
        ("redirect_uri", "https://app.example/callback/1"),
        ("resource", "https://mcp.datadoghq.eu"),
    ];
    let expected: BTreeMap<String, String> =
        expected.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    assert_eq!(form(request), expected);
}

/// \[DD-15\], \[DD-16\]: there is always a verifier here, and a client unless its registration was
/// cut off.
#[tokio::test]
async fn without_a_client_nothing_is_sent_and_it_is_told_what_to_do() {
    let world = world().await;
    let connector = world.connect("datadog", &site()).unwrap();
    let credentials =
        Credentials { refresh_token: Some(Secret::new("r")), ..Credentials::default() };
    let told = [
        connector.authorize(&authorization_request()).await.err(),
        connector.exchange(&code_exchange()).await.err(),
        connector.refresh(&refresh_request()).await.err(),
        connector.reachable().await.err(),
    ];
    for error in told {
        let Some(ConnectorError::Misconfigured { detail }) = error else {
            panic!("{error:?}");
        };
        assert!(detail.contains("PATCH /v1/providers/ID"), "{detail}");
    }
    assert_eq!(connector.revoke(&credentials).await, Ok(Revocation::Unsupported));
    assert_eq!(world.count().await, 0);
}

/// \[DD-17\]
#[tokio::test]
async fn an_account_is_linked_with_the_client_that_was_registered_for_it() {
    let world = world().await;
    let registered = world.register("datadog", &site()).await.unwrap().unwrap();
    let (mut provider, _) = stand_in::with_secret("datadog", &site());
    provider.config.extend(registered.config);
    let connector = world.registry.connect(&provider, &registered.secrets).unwrap();
    let url = connector.authorize(&authorization_request()).await.unwrap();
    let grant = connector.exchange(&code_exchange()).await.unwrap();
    let exchange = &world.requests(TOKEN).await[0];
    let verifier = form(exchange)["code_verifier"].clone();
    let challenge = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, verifier.as_bytes());
    assert_eq!(query(&url)["code_challenge"], base64url(challenge));
    assert_eq!(header(exchange, "authorization"), Some(basic().as_str()));
    let account = connector.build_identity(&grant).await.unwrap();
    assert_eq!(account.external_id.as_str(), "user-1");
    assert_eq!(account.name.as_deref(), Some("Ada"));
    assert_eq!(account.email.as_deref(), Some("ada@datadog.example"));
    assert!(!account.email_verified, "nobody says that it was");
    assert_eq!(account.claims["tenant"], "org-1");

    let renewed = connector.refresh(&refresh_request()).await.unwrap();
    assert!(renewed.access_token.is_some());
    let refresh = &world.requests(TOKEN).await[1];
    assert_eq!(header(refresh, "authorization"), Some(basic().as_str()));
    let form = form(refresh);
    assert_eq!(form["grant_type"], "refresh_token");
    assert_eq!(form["refresh_token"], "refresh-0");
    assert!(!form.contains_key("client_id") && !form.contains_key("client_secret"), "{form:?}");
}

#[tokio::test]
async fn a_client_that_is_given_no_secret_proves_nothing_but_its_verifier() {
    let world = world().await;
    let public = json!({"client_id": "public-id", "token_endpoint_auth_method": "none"});
    world.answer(REGISTER, ResponseTemplate::new(201).set_body_json(public));
    let registered = world.register("datadog", &site()).await.unwrap().unwrap();
    assert!(registered.secrets.is_empty());
    let (mut provider, _) = stand_in::with_secret("datadog", &site());
    provider.config.extend(registered.config);
    let connector = world.registry.connect(&provider, &registered.secrets).unwrap();
    connector.exchange(&code_exchange()).await.unwrap();
    connector.refresh(&refresh_request()).await.unwrap();
    for request in world.requests(TOKEN).await {
        assert_eq!(header(&request, "authorization"), None);
        assert_eq!(form(&request)["client_id"], "public-id");
    }
}

#[tokio::test]
async fn a_registered_client_is_taken_back_where_the_answer_says_how() {
    let world = world().await;
    let at = "app.datadoghq.eu/api/v2/oauth2/register/dcr-id";
    let registered = |uri: &str| {
        ResponseTemplate::new(201).set_body_json(json!({
            "client_id": "dcr-id", "client_secret": "dcr-secret",
            "registration_client_uri": uri, "registration_access_token": "manage",
        }))
    };
    world.answer(at, ResponseTemplate::new(204));
    for (uri, deletions) in [
        (format!("https://{at}"), 1),
        // Our token goes nowhere but to where the client was registered.
        ("https://evil.example/register/dcr-id".to_owned(), 1),
    ] {
        world.answer(REGISTER, registered(&uri));
        let registered = world.register("datadog", &site()).await.unwrap().unwrap();
        let (mut provider, _) = stand_in::with_secret("datadog", &site());
        provider.config.extend(registered.config);
        world.registry.deregister(&provider, &registered.secrets).await.unwrap();
        let deleted = world.requests(at).await;
        assert_eq!(deleted.len(), deletions, "{uri}");
        assert_eq!(header(&deleted[0], "authorization"), Some("Bearer manage"));
    }
    assert_eq!(world.count().await, 3);
}

/// \[MP-05\], \[MP-06\], \[MP-13\], \[MP-14\]
#[tokio::test]
async fn a_site_that_datadog_does_not_have_is_refused() {
    let world = world().await;
    for provider_type in ["datadog", "datadog_pat"] {
        for config in [
            json!({}),
            json!({"site": "evil.example.com"}),
            json!({"site": ""}),
            json!({"site": "DATADOGHQ.COM"}),
            json!({"site": "datadoghq.com/"}),
            json!({"site": "x.datadoghq.com"}),
        ] {
            let refused = world.connect(provider_type, &config).err().map(|it| it.field);
            assert_eq!(refused.as_deref(), Some("site"), "{provider_type} {config}");
        }
        assert!(world.connect(provider_type, &json!({"site": "us3.datadoghq.com"})).is_ok());
    }
}

#[tokio::test]
async fn where_users_open_datadog_follows_from_the_site() {
    let world = world().await;
    let client = json!({"client_id": "dcr-id", "client_secret": "dcr-secret"});
    for (config, host) in [
        (json!({"site": "datadoghq.com"}), "app.datadoghq.com"),
        (json!({"site": "ap1.datadoghq.com"}), "ap1.datadoghq.com"),
        (json!({"site": "datadoghq.com", "web": "us3.datadoghq.com"}), "us3.datadoghq.com"),
    ] {
        let connector = world.connect("datadog", &changed(config, &client)).unwrap();
        let url = connector.authorize(&authorization_request()).await.unwrap();
        assert_eq!(url.host_str(), Some(host));
    }
}

#[tokio::test]
async fn a_client_that_nobody_registered_must_be_whole() {
    let world = world().await;
    for (config, field) in [
        (changed(with_client(), &json!({"client_id": null})), "client_id"),
        (
            changed(with_client(), &json!({"token_endpoint_auth_method": "none"})),
            "token_endpoint_auth_method",
        ),
        (
            changed(
                site(),
                &json!({"client_id": "a", "token_endpoint_auth_method": "client_secret_post"}),
            ),
            "client_secret",
        ),
        (changed(site(), &json!({"client_name": "a\nb"})), "client_name"),
        (
            changed(site(), &json!({"registration_client_uri": "http://a.example"})),
            "registration_client_uri",
        ),
    ] {
        let refused = world.connect("datadog", &config).err().map(|it| it.field);
        assert_eq!(refused.as_deref(), Some(field), "{config}");
    }
}

/// \[MP-09\]
#[tokio::test]
async fn a_token_that_a_user_brings_tells_whose_it_is() {
    let world = world().await;
    let account = account_of(&world, "ddpat_1").await.unwrap();
    assert_eq!(account.external_id.as_str(), "user-1");
    assert_eq!(account.claims["tenant"], "org-1");
    let asked = world.requests(MCP).await;
    let methods: Vec<String> = asked.iter().map(rpc_method).collect();
    assert_eq!(methods, ["initialize", "notifications/initialized", "resources/read", ""]);
    let sent = |index: usize| -> Value { serde_json::from_slice(&asked[index].body).unwrap() };
    assert_eq!(sent(0)["params"]["protocolVersion"], "2025-11-25");
    assert_eq!(sent(0)["params"]["clientInfo"]["name"], "symbolon");
    assert_eq!(sent(1).get("id"), None, "a notification is not answered");
    assert_eq!(sent(2)["params"], json!({"uri": "datadog://mcp/whoami"}));
    for (index, request) in asked.iter().enumerate() {
        assert_eq!(header(request, "authorization"), Some("Bearer ddpat_1"));
        let agreed = (index > 0).then_some(("session-1", "2025-06-18"));
        assert_eq!(header(request, "mcp-session-id"), agreed.map(|it| it.0), "{index}");
        assert_eq!(header(request, "mcp-protocol-version"), agreed.map(|it| it.1), "{index}");
    }
    for request in &asked[..3] {
        assert_eq!(header(request, "accept"), Some("application/json, text/event-stream"));
    }
    assert_eq!(asked[3].method.as_str(), "DELETE", "the session is given up");
    let connector = world.connect("datadog_pat", &site()).unwrap();
    let capabilities = connector.capabilities();
    assert!(!capabilities.browser && !capabilities.refresh && !capabilities.sign_in);
    assert_refused!(connector.refresh(&refresh_request()).await, Misconfigured);
}

#[tokio::test]
async fn a_server_may_answer_with_events_and_keep_no_session() {
    let world = world().await;
    let answer = rpc(2, &contents(&whoami().to_string()));
    for stream in [
        format!("data: {answer}\n\n"),
        format!("\u{feff}: hi\r\n\r\nid: 1\r\nevent: message\r\ndata: {answer}\r\n\r\n"),
        // Before it: nothing, something else, a request of the server's own, and no JSON.
        format!(
            "data:\n\ndata: {}\n\ndata: {}\n\ndata: {{\n\ndata: {answer}\n\n",
            json!({"jsonrpc": "2.0", "method": "notifications/message"}),
            json!({"jsonrpc": "2.0", "id": 2, "method": "ping"}),
        ),
        // After it: whatever.
        format!("data: {answer}\n\ndata: {}\n\ndata: ", rpc(2, &contents("{}"))),
        format!("data: [{answer}]\n\n"),
    ] {
        answer_read(&world, events(&stream));
        let account = account_of(&world, "t").await;
        assert_eq!(account.unwrap().external_id.as_str(), "user-1", "{stream}");
    }
    let result = json!({"protocolVersion": "2025-03-26"});
    world.answer(&format!("{MCP} initialize"), events(&format!("data: {}\n\n", rpc(1, &result))));
    account_of(&world, "t").await.unwrap();
    let asked = world.requests(MCP).await;
    let last = asked.last().unwrap();
    assert_eq!(rpc_method(last), "resources/read", "there is no session to give up");
    assert_eq!(header(last, "mcp-session-id"), None);
    assert_eq!(header(last, "mcp-protocol-version"), Some("2025-03-26"));
}

#[tokio::test]
async fn a_stream_that_stays_open_is_left_once_the_answer_is_there() {
    let first = rpc(1, &json!({"protocolVersion": "2025-06-18"}));
    let second = rpc(2, &contents(&whoami().to_string()));
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\ndata: {first}\n\ndata: {second}\n\n"
    );
    let server = RawServer::start(move |mut stream| {
        let answer = answer.clone();
        async move {
            stream.write_all(answer.as_bytes()).await.unwrap();
            tokio::time::sleep(Duration::from_mins(1)).await;
        }
    })
    .await;
    let registry = stand_in::registry(([127, 0, 0, 1], server.port).into());
    let provider = instance("datadog_pat", object(&site()));
    let connector = registry.connect(&provider, &ProviderSecrets::new()).unwrap();
    let account = connector.build_identity(&grant_of("t")).await.unwrap();
    assert_eq!(account.external_id.as_str(), "user-1");
    assert_eq!(server.requests(), 3);
}

/// \[MP-15\]
#[tokio::test]
async fn a_token_that_is_refused_is_the_owners_to_see_to() {
    let world = world().await;
    for method in ["initialize", "notifications/initialized", "resources/read"] {
        let world = self::world().await;
        for status in [400, 401, 403, 404] {
            world.answer(&format!("{MCP} {method}"), ResponseTemplate::new(status));
            assert_refused!(account_of(&world, "t").await, Misconfigured, method, status);
        }
        for status in [302, 408, 429, 500, 503] {
            world.answer(&format!("{MCP} {method}"), ResponseTemplate::new(status));
            assert_refused!(account_of(&world, "t").await, Unavailable, method, status);
        }
    }
    for code in [-32002, -32600, -32601, -32602, 0] {
        let error = json!({"jsonrpc": "2.0", "id": 2, "error": {"code": code, "message": "no"}});
        answer_read(&world, ok(&error));
        assert_refused!(account_of(&world, "t").await, Misconfigured, code);
        answer_read(&world, events(&format!("data: {error}\n\n")));
        assert_refused!(account_of(&world, "t").await, Misconfigured, code);
    }
    let error = json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32700, "message": "no"}});
    answer_read(&world, ok(&error));
    assert_refused!(account_of(&world, "t").await, Misconfigured);
    let trouble = json!({"jsonrpc": "2.0", "id": 2, "error": {"code": -32603, "message": "no"}});
    answer_read(&world, ok(&trouble));
    assert_refused!(account_of(&world, "t").await, Unavailable);
}

#[tokio::test]
async fn a_hostile_answer_is_nobodys_account() {
    let world = world().await;
    let right = contents(&whoami().to_string());
    for body in [
        rpc(3, &right),
        rpc(1, &right),
        json!({"jsonrpc": "2.0", "id": "2", "result": right}),
        json!({"jsonrpc": "2.0", "result": right}),
        json!({"jsonrpc": "1.0", "id": 2, "result": right}),
        json!({"jsonrpc": "2.0", "id": 2, "result": [right]}),
        json!({"jsonrpc": "2.0", "id": 2}),
        json!([]),
        json!([rpc(3, &right)]),
        json!("text"),
        rpc(2, &json!({})),
        rpc(2, &json!({"contents": []})),
        rpc(2, &json!({"contents": {}})),
        rpc(2, &json!({"contents": [{"uri": "datadog://mcp/whoami", "blob": "e30="}]})),
        rpc(2, &json!({"contents": [{"uri": "datadog://mcp/whoami", "text": 1}]})),
        rpc(2, &json!({"contents": [{"uri": "datadog://mcp/other", "text": "{}"}]})),
        rpc(2, &contents("")),
        rpc(2, &contents("user_uuid: user-1")),
        rpc(2, &contents("{\"user_uuid\": \"a\", \"user_uuid\": \"b\"}")),
        rpc(2, &contents("{}")),
        rpc(2, &contents("[]")),
        rpc(2, &contents("{\"user_uuid\": null}")),
        rpc(2, &contents("{\"user_uuid\": {\"a\": 1}}")),
        rpc(2, &contents(&json!({"user_uuid": "x".repeat(256)}).to_string())),
    ] {
        answer_read(&world, ok(&body));
        assert_refused!(account_of(&world, "t").await, Untrusted, body);
    }
    for text in ["", "{", "<html></html>", "data: {}\n\n", "{\"id\": 2, \"id\": 2}"] {
        answer_read(&world, ResponseTemplate::new(200).set_body_string(text));
        assert_refused!(account_of(&world, "t").await, Unavailable, text);
    }
    let answer = rpc(2, &right);
    for stream in [
        String::new(),
        format!("data: {answer}"),
        format!("data: {answer}\n"),
        format!("event: {answer}\n\n"),
        format!("data: {}\n\n", rpc(3, &right)),
        answer.to_string(),
        format!(": {}\n\ndata: {answer}\n\n", "x".repeat(128 * 1024)),
        format!("data: {}", "x".repeat(128 * 1024)),
        ": \n\n".repeat(64 * 1024),
    ] {
        answer_read(&world, events(&stream));
        assert_refused!(account_of(&world, "t").await, Unavailable, stream);
    }
    let long = whoami().to_string() + &" ".repeat(128 * 1024);
    answer_read(&world, ok(&rpc(2, &contents(&long))));
    assert_refused!(account_of(&world, "t").await, Unavailable);
}

#[tokio::test]
async fn a_session_begins_with_what_both_sides_know() {
    for result in
        [json!({}), json!({"protocolVersion": "2001-01-01"}), json!({"protocolVersion": 1})]
    {
        let world = world().await;
        world.answer(&format!("{MCP} initialize"), ok(&rpc(1, &result)));
        assert_refused!(account_of(&world, "t").await, Misconfigured, result);
        assert_eq!(world.count().await, 1);
    }
    for id in ["a b", "", &"x".repeat(1025)] {
        let world = world().await;
        let result = json!({"protocolVersion": "2025-06-18"});
        let answer = ok(&rpc(1, &result)).insert_header("mcp-session-id", id);
        world.answer(&format!("{MCP} initialize"), answer);
        if id.is_empty() {
            // As good as none.
            account_of(&world, "t").await.unwrap();
        } else {
            assert_refused!(account_of(&world, "t").await, Untrusted, id);
        }
    }
}
