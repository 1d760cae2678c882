//! Two client secrets at once: the one that works is sent, and no token is risked on the other.

use std::sync::{Arc, Mutex};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use metrics_exporter_prometheus::PrometheusBuilder;
use serde_json::{Value, json};
use symbolon_domain::{
    credentials::Credentials,
    ports::{Connector, ConnectorError, Revocation, Sent},
    secret::Secret,
};
use tokio::io::AsyncWriteExt as _;
use wiremock::{Mock, Request, ResponseTemplate, matchers::path};

use crate::{
    assert_refused,
    provider::{Provider, code_exchange, form, object, ok, refresh_request},
    raw_server::RawServer,
};

/// Which secrets the provider knows just now.
#[derive(Clone, Default)]
struct Known(Arc<Mutex<Vec<&'static str>>>);

impl Known {
    fn set(&self, secrets: &[&'static str]) {
        *self.0.lock().unwrap() = secrets.to_vec();
    }

    fn has(&self, request: &Request) -> bool {
        self.0.lock().unwrap().contains(&secret_of(request).as_str())
    }
}

/// The secret of `client_secret_basic`.
fn secret_of(request: &Request) -> String {
    let header = request.headers["authorization"].to_str().unwrap();
    let pair = STANDARD.decode(header.strip_prefix("Basic ").unwrap()).unwrap();
    String::from_utf8(pair).unwrap().split_once(':').unwrap().1.to_owned()
}

fn invalid_client() -> ResponseTemplate {
    ResponseTemplate::new(401).set_body_json(json!({"error": "invalid_client"}))
}

/// A provider that answers so whatever comes with a secret that it does not know.
async fn provider_that_rejects_with(answer: ResponseTemplate) -> (Provider, Known) {
    let provider = Provider::start().await;
    let known = Known::default();
    for at in ["/token", "/revoke"] {
        let known = known.clone();
        Mock::given(path(at))
            .and(move |request: &Request| !known.has(request))
            .respond_with(answer.clone())
            .with_priority(1)
            .mount(&provider.server)
            .await;
    }
    provider.answer("/revoke", ResponseTemplate::new(200));
    (provider, known)
}

async fn provider() -> (Provider, Known) {
    provider_that_rejects_with(invalid_client()).await
}

fn with_two(provider: &Provider) -> Arc<dyn Connector> {
    provider.connector_with(&json!({"client_secret": "old", "client_secret_next": "new"}))
}

/// The secrets that were sent to the path, in their order.
async fn sent_to(provider: &Provider, path: &str) -> Vec<String> {
    provider.requests(path).await.iter().map(secret_of).collect()
}

#[tokio::test]
async fn the_other_secret_is_tried_where_the_first_is_not_known_and_remembered() {
    let (provider, known) = provider().await;
    known.set(&["new"]);
    let refreshed = with_two(&provider).refresh(&refresh_request()).await.unwrap();
    assert_eq!(refreshed.access_token, Some(Secret::new("access-1")));
    assert_eq!(sent_to(&provider, "/token").await, ["old", "new"]);
    let requests = provider.requests("/token").await;
    assert_eq!(form(&requests[0]), form(&requests[1]), "the same request, but for the secret");

    // By another connector too: one is made for each call.
    with_two(&provider).exchange(&code_exchange()).await.unwrap();
    assert_eq!(sent_to(&provider, "/token").await[2..], ["new"]);
    let grant = Credentials { refresh_token: Some(Secret::new("r")), ..Credentials::default() };
    assert_eq!(with_two(&provider).revoke(&grant).await, Ok(Revocation::Revoked));
    assert_eq!(sent_to(&provider, "/revoke").await, ["new"]);

    // The provider is set back.
    known.set(&["old"]);
    with_two(&provider).refresh(&refresh_request()).await.unwrap();
    with_two(&provider).refresh(&refresh_request()).await.unwrap();
    assert_eq!(sent_to(&provider, "/token").await[3..], ["new", "old", "old"]);
}

#[tokio::test]
async fn while_both_are_known_the_current_one_is_sent() {
    let (provider, known) = provider().await;
    known.set(&["old", "new"]);
    with_two(&provider).refresh(&refresh_request()).await.unwrap();
    assert_eq!(sent_to(&provider, "/token").await, ["old"]);
}

#[tokio::test]
async fn every_step_that_is_authenticated_tries_both() {
    let (provider, known) = provider().await;
    known.set(&["new"]);
    assert!(with_two(&provider).exchange(&code_exchange()).await.is_ok());
    assert_eq!(sent_to(&provider, "/token").await, ["old", "new"]);

    let (provider, known) = self::provider().await;
    known.set(&["new"]);
    let credentials =
        Credentials { access_token: Some(Secret::new("a")), ..Credentials::default() };
    assert_eq!(with_two(&provider).revoke(&credentials).await, Ok(Revocation::Revoked));
    assert_eq!(sent_to(&provider, "/revoke").await, ["old", "new"]);
}

#[tokio::test]
async fn the_code_is_understood_with_every_status_that_is_about_the_request() {
    for status in [400, 401, 403, 200] {
        let answer =
            ResponseTemplate::new(status).set_body_json(json!({"error": "invalid_client"}));
        let (provider, known) = provider_that_rejects_with(answer).await;
        known.set(&["new"]);
        assert!(with_two(&provider).refresh(&refresh_request()).await.is_ok(), "{status}");
    }
}

#[tokio::test]
async fn only_when_both_are_rejected_is_our_client() {
    let (provider, known) = provider().await;
    known.set(&[]);
    for _ in 0..2 {
        let refused = with_two(&provider).refresh(&refresh_request()).await;
        assert_eq!(
            refused,
            Err(ConnectorError::ClientRejected { code: "invalid_client".to_owned() })
        );
    }
    // Each is tried once for each call, and nothing is learned of it.
    assert_eq!(sent_to(&provider, "/token").await, ["old", "new", "old", "new"]);
}

#[tokio::test]
async fn with_one_secret_nothing_is_sent_twice() {
    let (provider, known) = provider().await;
    known.set(&[]);
    for changes in [
        json!({"client_secret": "old"}),
        // The same text twice is one secret.
        json!({"client_secret": "old", "client_secret_next": "old"}),
    ] {
        let before = provider.requests("/token").await.len();
        let refused = provider.connector_with(&changes).refresh(&refresh_request()).await;
        assert_refused!(refused, ClientRejected);
        assert_eq!(provider.requests("/token").await.len(), before + 1, "{changes}");
    }
}

#[tokio::test]
async fn an_answer_that_does_not_say_so_plainly_risks_no_second_use() {
    let answers: &[(u16, &str)] = &[
        (400, r#"{"error":"invalid_grant"}"#),
        (400, r#"{"error":"unauthorized_client"}"#),
        (400, r#"{"error":"INVALID_CLIENT"}"#),
        (400, r#"{"error":"invalid_client "}"#),
        (400, r#"{"error":["invalid_client"]}"#),
        (400, r#"{"error_description":"invalid_client"}"#),
        (400, "invalid_client"),
        (401, ""),
        (401, "<html>invalid_client</html>"),
        (403, ""),
        (407, ""),
        (429, r#"{"error":"invalid_client"}"#),
        (500, r#"{"error":"invalid_client"}"#),
        (503, r#"{"error":"invalid_client"}"#),
        (302, r#"{"error":"invalid_client"}"#),
        (200, r#"{"token_type":"mac","access_token":"x"}"#),
        (200, "<html>"),
        (200, ""),
    ];
    for (status, body) in answers {
        let provider = Provider::start().await;
        provider.answer("/token", ResponseTemplate::new(*status).set_body_string(*body));
        assert!(with_two(&provider).refresh(&refresh_request()).await.is_err());
        assert_eq!(provider.requests("/token").await.len(), 1, "{status} {body}");
    }
    for cut in [
        "",
        "HTTP/1.1 401 No\r\ncontent-length: 500\r\n\r\n{\"error\":\"invalid_client\"",
        "HTTP/1.1 400 No\r\ntransfer-encoding: chunked\r\n\r\n1a\r\n{\"error\":\"invalid_client\"}",
    ] {
        let server = RawServer::saying(cut).await;
        let provider = Provider::start().await;
        provider.publish(&json!({"token_endpoint": server.uri}));
        assert!(with_two(&provider).refresh(&refresh_request()).await.is_err());
        assert_eq!(server.requests(), 1, "{cut}");
    }
}

#[tokio::test]
async fn what_became_of_the_second_try_is_what_became_of_the_refresh() {
    let grant = json!({"error": "invalid_grant"});
    let cases: &[(u16, Value, &str)] = &[
        (503, json!({}), "answered"),
        (200, json!({}), "unknown"),
        (400, grant, "grant"),
        (400, json!({"error": "invalid_scope"}), "client"),
    ];
    for (status, body, expected) in cases {
        let (provider, known) = provider().await;
        known.set(&["new"]);
        provider.answer("/token", ResponseTemplate::new(*status).set_body_json(body));
        let class = match with_two(&provider).refresh(&refresh_request()).await {
            Err(ConnectorError::Unavailable { sent: Sent::Answered, .. }) => "answered",
            Err(ConnectorError::Unavailable { sent: Sent::Unknown, .. }) => "unknown",
            Err(ConnectorError::GrantRejected { .. }) => "grant",
            Err(ConnectorError::ClientRejected { .. }) => "client",
            other => panic!("{other:?}"),
        };
        assert_eq!(class, *expected, "{status} {body}");
        assert_eq!(sent_to(&provider, "/token").await, ["old", "new"]);

        // What proves that the secret is known is remembered, and nothing else.
        let _ = with_two(&provider).refresh(&refresh_request()).await;
        let again: &[&str] = if *expected == "grant" { &["new"] } else { &["old", "new"] };
        assert_eq!(sent_to(&provider, "/token").await[2..], *again, "{status} {body}");
    }
}

#[tokio::test]
async fn a_connection_that_is_cut_on_the_second_try_leaves_it_unknown() {
    let answers = Arc::new(Mutex::new(0));
    let server = RawServer::start(move |mut stream| {
        let first = {
            let mut count = answers.lock().unwrap();
            *count += 1;
            *count == 1
        };
        async move {
            if first {
                let body = r#"{"error":"invalid_client"}"#;
                let length = body.len();
                let head = format!("HTTP/1.1 401 No\r\ncontent-length: {length}\r\n\r\n");
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let provider = Provider::start().await;
    provider.publish(&json!({"token_endpoint": server.uri}));
    let lost = with_two(&provider).refresh(&refresh_request()).await;
    assert!(
        matches!(lost, Err(ConnectorError::Unavailable { sent: Sent::Unknown, .. })),
        "{lost:?}"
    );
    assert_eq!(server.requests(), 2);
}

#[tokio::test]
async fn another_secret_is_learned_anew() {
    let (provider, known) = provider().await;
    known.set(&["new", "newest"]);
    with_two(&provider).refresh(&refresh_request()).await.unwrap();
    // The rotation is over, and the next one begins.
    let changed =
        provider.connector_with(&json!({"client_secret": "new", "client_secret_next": "newest"}));
    changed.refresh(&refresh_request()).await.unwrap();
    assert_eq!(sent_to(&provider, "/token").await, ["old", "new", "new"]);
}

#[tokio::test]
async fn the_metric_tells_which_one_works() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let _recording = metrics::set_default_local_recorder(&recorder);
    let (provider, known) = provider().await;
    known.set(&["new"]);
    for _ in 0..3 {
        with_two(&provider).refresh(&refresh_request()).await.unwrap();
    }
    // Says nothing about the secret.
    provider.answer("/token", ResponseTemplate::new(503));
    with_two(&provider).refresh(&refresh_request()).await.unwrap_err();

    let shown = handle.render();
    let count = |secret: &str, outcome: &str| {
        let labels = [
            "symbolon_provider_client_secret_total{".to_owned(),
            "provider_id=\"1\"".to_owned(),
            format!("secret=\"{secret}\""),
            format!("outcome=\"{outcome}\""),
        ];
        let line = shown.lines().find(|line| labels.iter().all(|it| line.contains(it.as_str())));
        line.map(|it| it.rsplit_once(' ').unwrap().1.to_owned())
    };
    assert_eq!(count("current", "rejected").as_deref(), Some("1"), "{shown}");
    assert_eq!(count("next", "accepted").as_deref(), Some("3"), "{shown}");
    assert_eq!(count("next", "rejected"), None, "{shown}");
    assert_eq!(count("current", "accepted"), None, "{shown}");
    assert!(!shown.contains("old") && !shown.contains("\"new\""), "{shown}");
}

#[tokio::test]
async fn an_answer_that_quotes_the_next_secret_is_not_shown() {
    let provider = Provider::start().await;
    provider.answer("/token", ok(&json!({"error": "canary-next"})));
    let two = json!({"client_secret": "canary-now", "client_secret_next": "canary-next"});
    let refused = provider.connector_with(&two).refresh(&refresh_request()).await.unwrap_err();
    assert!(!format!("{refused} {refused:?}").contains("canary"), "{refused:?}");
}

#[tokio::test]
async fn a_next_secret_needs_a_current_one_and_is_not_quoted() {
    let provider = Provider::start().await;
    let config = object(&json!({"issuer": provider.issuer, "client_id": "client"}));
    let check = |secrets: &[(&str, &str)]| {
        use symbolon_domain::ports::Connectors as _;
        let secrets =
            secrets.iter().map(|(name, it)| ((*name).to_owned(), Secret::new(*it))).collect();
        provider.registry.check("oidc", &config, &secrets)
    };
    assert_eq!(check(&[("client_secret", "a"), ("client_secret_next", "b")]), Ok(()));
    for wrong in [
        &[("client_secret_next", "canary")][..],
        &[("client_secret", "a"), ("client_secret_next", "")],
        &[("client_secret", "a"), ("client_secret_next", "canary\n")],
    ] {
        let error = check(wrong).unwrap_err();
        assert_eq!(error.field, "client_secret_next");
        assert!(!format!("{error:?}").contains("canary"), "{error:?}");
    }
}
