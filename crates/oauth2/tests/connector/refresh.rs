//! A refresh token is spent at most once, and who asked learns whether it was.

use std::time::Duration;

use serde_json::{Value, json};
use symbolon_domain::{
    credentials::Credentials,
    ports::{ConnectorError, Sent},
    secret::Secret,
};
use tokio::io::AsyncWriteExt as _;
use wiremock::ResponseTemplate;

use crate::{
    assert_refused,
    provider::{DISCOVERY, Provider, form},
    raw_server::RawServer,
    test_key::TestKey,
};

fn sent(result: &Result<Credentials, ConnectorError>) -> Option<Sent> {
    match result {
        Err(ConnectorError::Unavailable { sent, .. }) => Some(*sent),
        _ => None,
    }
}

/// A provider whose token endpoint is elsewhere.
async fn with_token_endpoint(endpoint: &str) -> Provider {
    let provider = Provider::within(Duration::from_millis(1500)).await;
    provider.publish(&json!({"token_endpoint": endpoint}));
    provider
}

#[tokio::test]
async fn new_credentials_come_for_a_refresh_token() {
    let provider = Provider::start().await;
    provider.answer_tokens(&json!({"access_token": "access-2", "refresh_token": "refresh-2"}));
    let credentials = provider.refresh().await.unwrap();
    assert_eq!(credentials.access_token, Some(Secret::new("access-2")));
    assert_eq!(credentials.refresh_token, Some(Secret::new("refresh-2")));
    let requests = provider.requests("/token").await;
    assert_eq!(requests.len(), 1);
    assert_eq!(form(&requests[0])["grant_type"], "refresh_token");
    assert_eq!(form(&requests[0])["refresh_token"], "refresh-0");
}

#[tokio::test]
async fn what_was_not_sent_again_is_absent() {
    let provider = Provider::start().await;
    provider.answer_tokens(&json!({"refresh_token": null}));
    let credentials = provider.refresh().await.unwrap();
    assert_eq!(credentials.refresh_token, None);
    assert_eq!(credentials.id_token, None);
    assert!(credentials.scopes.is_empty());
}

#[tokio::test]
async fn when_the_refresh_token_ends_is_told_where_the_provider_says_so() {
    for (answer, lives) in [
        (json!({}), None),
        (json!({"refresh_token_expires_in": 15_897_600}), Some(15_897_600)),
        (json!({"refresh_expires_in": "1800"}), Some(1800)),
        // Keycloak's word for one that does not end.
        (json!({"refresh_expires_in": 0}), None),
        (json!({"refresh_expires_in": "soon"}), None),
    ] {
        let provider = Provider::start().await;
        provider.answer_tokens(&answer);
        let credentials = provider.refresh().await.unwrap();
        let life = credentials.refresh_expires_at.map(|it| it - credentials.obtained_at.unwrap());
        assert_eq!(life.map(|it| it.num_seconds()), lives, "{answer}");
    }
}

#[tokio::test]
async fn a_narrower_scope_is_told() {
    let provider = Provider::start().await;
    provider.answer_tokens(&json!({"scope": "openid"}));
    assert_eq!(provider.refresh().await.unwrap().scopes, ["openid"]);
}

#[tokio::test]
async fn an_id_token_in_the_answer_must_be_of_the_same_issuer_account_and_client() {
    let provider = Provider::start().await;
    provider.answer_id_token(&provider.id_token(&provider.claims_with(&json!({"nonce": null}))));
    assert!(provider.refresh().await.unwrap().id_token.is_some());
    for changes in [
        json!({"iss": "https://attacker.example"}),
        json!({"sub": "bob"}),
        json!({"sub": null}),
        json!({"aud": "other"}),
        json!({"exp": 1}),
        json!({"at_hash": "x"}),
    ] {
        provider.answer_id_token(&provider.id_token(&provider.claims_with(&changes)));
        assert_refused!(provider.refresh().await, Untrusted);
    }
    provider.answer_id_token(
        &TestKey::ec().sign(&json!({"alg": "ES256", "kid": "k1"}), &provider.claims()),
    );
    assert_refused!(provider.refresh().await, Untrusted);
}

#[tokio::test]
async fn tokens_are_not_lost_when_the_keys_cannot_be_fetched() {
    let provider = Provider::start().await;
    provider.answer("/jwks", ResponseTemplate::new(503));
    let credentials = provider.refresh().await.unwrap();
    assert_eq!(credentials.refresh_token, Some(Secret::new("refresh-1")));
    assert_eq!(credentials.id_token, None, "an ID token that nobody verified is not kept");

    // What does not fit even unverified is refused all the same.
    for changes in [json!({"sub": "bob"}), json!({"iss": "https://attacker.example"})] {
        provider.answer_id_token(&provider.id_token(&provider.claims_with(&changes)));
        assert_refused!(provider.refresh().await, Untrusted);
    }
}

#[tokio::test]
async fn each_answer_says_who_must_act() {
    let cases: &[(u16, Value, &str)] = &[
        (400, json!({"error": "invalid_grant"}), "grant"),
        (401, json!({"error": "invalid_client"}), "client"),
        (400, json!({"error": "unauthorized_client"}), "client"),
        (400, json!({"error": "invalid_scope"}), "client"),
        (400, json!({"error": "never_heard_of"}), "client"),
        (200, json!({"error": "invalid_grant"}), "grant"),
        (500, json!({"error": "invalid_grant"}), "answered"),
        (503, json!({}), "answered"),
        (403, json!({}), "answered"),
        (302, json!({}), "answered"),
        (200, json!({}), "unknown"),
        (200, json!(["x"]), "unknown"),
    ];
    for (status, body, expected) in cases {
        let provider = Provider::start().await;
        provider.answer("/token", ResponseTemplate::new(*status).set_body_json(body));
        let result = provider.refresh().await;
        let class = match (&result, sent(&result)) {
            (Err(ConnectorError::GrantRejected { .. }), _) => "grant",
            (Err(ConnectorError::ClientRejected { .. }), _) => "client",
            (_, Some(Sent::Answered)) => "answered",
            (_, Some(Sent::Unknown)) => "unknown",
            _ => panic!("{result:?}"),
        };
        assert_eq!(class, *expected, "{status} {body}");
        assert_eq!(provider.requests("/token").await.len(), 1, "sent once");
    }
}

#[tokio::test]
async fn the_providers_wish_to_wait_is_passed_on() {
    for (header, seconds) in [("17", 17), ("Tue, 14 Nov 2023 22:14:20 GMT", 60), ("99999999", 3600)]
    {
        let provider = Provider::start().await;
        let answer = ResponseTemplate::new(429).insert_header("retry-after", header);
        provider.answer("/token", answer);
        let Err(ConnectorError::Unavailable { retry_after, sent: Sent::Answered, .. }) =
            provider.refresh().await
        else {
            panic!()
        };
        assert_eq!(retry_after, Some(Duration::from_secs(seconds)), "{header}");
    }
}

#[tokio::test]
async fn no_connection_means_not_sent() {
    // Bound and dropped: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let provider = with_token_endpoint(&format!("http://127.0.0.1:{port}/token")).await;
    assert_eq!(sent(&provider.refresh().await), Some(Sent::No));
}

#[tokio::test]
async fn no_such_host_means_not_sent() {
    let provider = with_token_endpoint("http://host.invalid/token").await;
    assert_eq!(sent(&provider.refresh().await), Some(Sent::No));
}

#[tokio::test]
async fn no_tls_means_not_sent() {
    let plain = RawServer::saying("HTTP/1.1 200 OK\r\n\r\n").await;
    let provider = with_token_endpoint(&format!("https://127.0.0.1:{}/token", plain.port)).await;
    assert_eq!(sent(&provider.refresh().await), Some(Sent::No));
    assert_eq!(plain.requests(), 0);
}

#[tokio::test]
async fn a_handshake_that_never_ends_means_not_sent() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let provider = with_token_endpoint(&format!("https://127.0.0.1:{port}/token")).await;
    assert_eq!(sent(&provider.refresh().await), Some(Sent::No));
}

#[tokio::test]
async fn a_connection_cut_after_the_request_leaves_it_unknown() {
    for answer in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\ncontent-length: 500\r\n\r\n{\"access_token\":\"a",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{\"acc",
        "nonsense\r\n\r\n",
    ] {
        let server = RawServer::saying(answer).await;
        let provider = with_token_endpoint(&server.uri).await;
        assert_eq!(sent(&provider.refresh().await), Some(Sent::Unknown), "{answer}");
        assert_eq!(server.requests(), 1, "sent once");
    }
}

#[tokio::test]
async fn a_status_that_says_no_counts_though_the_body_is_lost() {
    let head = "HTTP/1.1 503 No\r\ncontent-length: 500\r\n\r\n{";
    let server = RawServer::saying(head).await;
    let provider = with_token_endpoint(&server.uri).await;
    assert_eq!(sent(&provider.refresh().await), Some(Sent::Answered));
}

#[tokio::test]
async fn silence_after_the_request_leaves_it_unknown() {
    let server = RawServer::start(|stream| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let provider = with_token_endpoint(&server.uri).await;
    assert_eq!(sent(&provider.refresh().await), Some(Sent::Unknown));
    assert_eq!(server.requests(), 1, "sent once");
}

#[tokio::test]
async fn a_body_that_trickles_in_is_cut_off_at_the_deadline() {
    let server = RawServer::start(|mut stream| async move {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n").await;
        while stream.write_all(b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let provider = with_token_endpoint(&server.uri).await;
    assert_eq!(sent(&provider.refresh().await), Some(Sent::Unknown));
}

#[tokio::test]
async fn each_refresh_has_a_connection_of_its_own() {
    // Says that it keeps the connection, and closes it: a pooled connection would be dead.
    let body = r#"{"access_token":"a","token_type":"Bearer"}"#;
    let server = RawServer::saying(format!(
        "HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    ))
    .await;
    let provider = with_token_endpoint(&server.uri).await;
    for _ in 0..5 {
        assert!(provider.refresh().await.is_ok());
    }
    assert_eq!(server.requests(), 5);
}

#[tokio::test]
async fn metadata_that_cannot_be_had_send_nothing() {
    let provider = Provider::start().await;
    provider.answer(DISCOVERY, ResponseTemplate::new(500));
    assert_eq!(sent(&provider.refresh().await), Some(Sent::No));
    assert_eq!(provider.requests("/token").await.len(), 0);
}
