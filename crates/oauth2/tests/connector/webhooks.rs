//! The sender of webhooks against a receiver on loopback, which checks signatures by itself.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::DateTime;
use sha2::{Digest as _, Sha256};
use symbolon_domain::{
    ports::{WebhookAnswer, WebhookMessage, WebhookSender as _},
    secret::Secret,
    webhook::WebhookSecrets,
};
use symbolon_oauth2::{
    StandardWebhooks,
    http::{HttpClient, HttpSettings},
};
use wiremock::{Mock, MockServer, Request, ResponseTemplate, matchers};

use crate::provider::{TestClock, loopback};

fn sender(http: HttpClient) -> StandardWebhooks {
    StandardWebhooks::new(http, Arc::new(TestClock::new()))
}

fn message(url: &str, secrets: &[Secret]) -> WebhookMessage {
    WebhookMessage {
        url: url.parse().unwrap(),
        id: "evt_7".into(),
        at: DateTime::from_timestamp(1_674_087_231, 999_000_000).unwrap(),
        body: r#"{"type":"identity.linked","data":{"name":"Zoë"}}"#.into(),
        secrets: secrets.to_vec(),
    }
}

/// HMAC (RFC 2104) over nothing but the hash function: not what the sender uses.
fn hmac_sha256(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut block = [0_u8; 64];
    block[..key.len()].copy_from_slice(key);
    let padded = |pad: u8| block.map(|it| it ^ pad);
    let inner = Sha256::new().chain_update(padded(0x36)).chain_update(text).finalize();
    Sha256::new().chain_update(padded(0x5c)).chain_update(inner).finalize().into()
}

/// What a receiver does that knows one secret.
fn is_signed(request: &Request, secret: &Secret) -> bool {
    let header = |name: &str| request.headers[name].to_str().unwrap();
    let mut signed = format!("{}.{}.", header("webhook-id"), header("webhook-timestamp"));
    signed.push_str(std::str::from_utf8(&request.body).unwrap());
    let key = STANDARD.decode(secret.expose().strip_prefix("whsec_").unwrap()).unwrap();
    let expected = format!("v1,{}", STANDARD.encode(hmac_sha256(&key, signed.as_bytes())));
    header("webhook-signature").split(' ').any(|it| it == expected)
}

async fn receiver(answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(matchers::any()).respond_with(answer).mount(&server).await;
    server
}

#[tokio::test]
async fn a_receiver_verifies_the_signature_with_any_secret_that_is_good() {
    let server = receiver(ResponseTemplate::new(204)).await;
    let [new, old, other] = std::array::from_fn(|_| WebhookSecrets::random());
    let sent = message(&server.uri(), &[new.clone(), old.clone()]);
    let answer = sender(loopback()).send(&sent).await.unwrap();
    assert_eq!(answer, WebhookAnswer { status: 204, retry_after: None });

    let received = server.received_requests().await.unwrap().remove(0);
    assert_eq!(received.method.as_str(), "POST");
    assert_eq!(received.body, sent.body.as_bytes());
    for (name, value) in [
        ("content-type", "application/json"),
        ("webhook-id", "evt_7"),
        ("webhook-timestamp", "1674087231"),
    ] {
        assert_eq!(received.headers[name], value, "{name}");
    }
    assert!(is_signed(&received, &new) && is_signed(&received, &old));
    assert!(!is_signed(&received, &other));
    let mut altered = received.clone();
    altered.body.push(b' ');
    assert!(!is_signed(&altered, &new));
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let elsewhere = receiver(ResponseTemplate::new(204)).await;
    let answer = ResponseTemplate::new(307).insert_header("location", elsewhere.uri());
    let server = receiver(answer).await;
    let sent = message(&server.uri(), &[WebhookSecrets::random()]);
    assert_eq!(sender(loopback()).send(&sent).await.unwrap().status, 307);
    assert!(elsewhere.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn what_the_receiver_answers_is_read_and_bounded() {
    let answer = ResponseTemplate::new(503).insert_header("retry-after", "120");
    let server = receiver(answer.set_body_bytes(vec![b'x'; 4 * 1024 * 1024])).await;
    let sent = message(&server.uri(), &[WebhookSecrets::random()]);
    let answer = sender(loopback()).send(&sent).await.unwrap();
    let retry_after = Some(std::time::Duration::from_mins(2));
    assert_eq!(answer, WebhookAnswer { status: 503, retry_after });
}

#[tokio::test]
async fn an_address_inside_is_refused_and_nothing_is_sent() {
    let server = receiver(ResponseTemplate::new(204)).await;
    let settings = HttpSettings { allow_http: true, ..HttpSettings::default() };
    let guarded = sender(HttpClient::new(settings).unwrap());
    let port = server.address().port();
    for host in ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "2130706433"] {
        let sent = message(&format!("http://{host}:{port}/"), &[WebhookSecrets::random()]);
        let refused = guarded.send(&sent).await.unwrap_err();
        assert!(refused.to_string().contains("public internet"), "{host}: {refused}");
    }
    assert!(server.received_requests().await.unwrap().is_empty());
    assert!(guarded.check(&"http://10.1.2.3/".parse().unwrap()).is_err());
    assert!(guarded.check(&"ftp://receiver.example/".parse().unwrap()).is_err());
    assert!(guarded.check(&"https://u:p@receiver.example/".parse().unwrap()).is_err());
    assert!(guarded.check(&"https://receiver.example/".parse().unwrap()).is_ok());
}
