//! What is secret shows in no error, whatever a provider does with it.

use std::{
    io,
    sync::{LazyLock, Mutex},
};

use serde_json::{Value, json};
use symbolon_domain::{
    ids::ExternalId,
    ports::{AuthorizationRequest, CodeExchange, ConnectorError, RefreshRequest},
    secret::Secret,
};
use wiremock::ResponseTemplate;

use crate::{
    provider::{DISCOVERY, Provider, authorization_request, code_exchange, ok},
    stand_in::StandIn,
};

const CANARY: &str = "canary-5f1c7d";

/// All that is logged in this process.
static LOG: LazyLock<()> = LazyLock::new(|| {
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(|| LogWriter)
        .init();
});
static LOGGED: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct LogWriter;

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOGGED.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn assert_silent(error: &ConnectorError) {
    let shown = format!("{error} {error:?} {error:#?}").to_lowercase();
    assert!(!shown.contains("canary"), "{shown}");
}

/// Bodies in which a provider gives back what it was sent, or should have kept to itself.
fn echoes() -> Vec<(u16, String)> {
    let canary = CANARY;
    vec![
        (400, json!({"error": canary}).to_string()),
        (400, json!({"error": format!("x.{canary}")}).to_string()),
        (400, json!({"error": "invalid_grant", "error_description": canary}).to_string()),
        (401, json!({"error": "invalid_client", "error_uri": canary}).to_string()),
        (500, canary.to_owned()),
        (302, canary.to_owned()),
        (403, format!("<html>{canary}")),
        (200, canary.to_owned()),
        (200, json!({"access_token": [canary]}).to_string()),
        (200, json!({"access_token": canary, "token_type": canary}).to_string()),
        (200, json!({"access_token": canary, "id_token": canary}).to_string()),
        (200, json!({"access_token": canary, "refresh_token": {"x": canary}}).to_string()),
        (200, json!({"error": canary}).to_string()),
        (200, json!({"error": {"x": canary}}).to_string()),
    ]
}

#[tokio::test]
async fn no_error_of_any_step_shows_a_secret() {
    let exchange = CodeExchange {
        code: Secret::new(CANARY),
        code_verifier: Secret::new(format!("{CANARY}-verifier")),
        nonce: Secret::new(format!("{CANARY}-nonce")),
        ..code_exchange()
    };
    let refresh = RefreshRequest {
        refresh_token: Secret::new(CANARY),
        external_id: ExternalId::new("alice").unwrap(),
        redirect_uri: None,
        dpop_key: None,
    };
    for (status, body) in echoes() {
        let provider = Provider::start().await;
        let answer = || {
            ResponseTemplate::new(status)
                .insert_header("location", format!("/{CANARY}"))
                .insert_header("retry-after", CANARY)
                .set_body_string(body.clone())
        };
        let connector = provider.connector_with(&json!({"client_secret": CANARY}));
        provider.answer("/token", answer());
        provider.answer("/revoke", answer());
        if let Err(error) = connector.exchange(&exchange).await {
            assert_silent(&error);
        } else {
            panic!("{status} {body} was taken for an ID token");
        }
        match connector.refresh(&refresh).await {
            Err(error) => assert_silent(&error),
            Ok(credentials) => assert!(!format!("{credentials:?}").contains("canary")),
        }

        let provider = Provider::start().await;
        let connector = provider.connector_with(&json!({"client_secret": CANARY}));
        let id_token = provider.id_token(&provider.claims());
        provider.answer_tokens(&json!({"access_token": CANARY, "id_token": id_token}));
        let grant = connector.exchange(&code_exchange()).await.unwrap();
        assert!(!format!("{grant:?}").contains("canary"));
        for path in ["/userinfo", "/revoke"] {
            provider.answer(path, answer());
        }
        if let Err(error) = connector.build_identity(&grant).await {
            assert_silent(&error);
        }
        if let Err(error) = connector.revoke(&grant.credentials).await {
            assert_silent(&error);
        }
    }
}

#[tokio::test]
async fn no_error_shows_what_metadata_and_tokens_hold() {
    let documents: Vec<Value> = vec![
        json!({"issuer": CANARY}),
        json!({"token_endpoint": CANARY}),
        json!({"token_endpoint": format!("ftp://{CANARY}/{CANARY}")}),
        json!({"jwks_uri": format!("https://user:{CANARY}@127.0.0.1/?{CANARY}")}),
    ];
    for document in documents {
        let provider = Provider::start().await;
        provider.publish(&document);
        assert_silent(&provider.exchange().await.unwrap_err());
    }
    for changes in [
        json!({"iss": CANARY}),
        json!({"aud": CANARY}),
        json!({"azp": CANARY}),
        json!({"nonce": CANARY}),
        json!({"sub": format!("{CANARY}\n")}),
        json!({"at_hash": CANARY}),
    ] {
        let provider = Provider::start().await;
        provider.answer_id_token(&provider.id_token(&provider.claims_with(&changes)));
        assert_silent(&provider.exchange().await.unwrap_err());
    }
}

#[tokio::test]
async fn no_secret_of_a_request_is_in_an_address_but_what_the_browser_must_carry() {
    let provider = Provider::start().await;
    let request =
        AuthorizationRequest { code_verifier: Secret::new(CANARY), ..authorization_request() };
    let connector = provider.connector_with(&json!({"client_secret": CANARY}));
    let url = connector.authorize(&request).await.unwrap();
    assert!(!url.as_str().contains("canary"));
    let exchange = CodeExchange { code: Secret::new(CANARY), ..code_exchange() };
    let grant = connector.exchange(&exchange).await.unwrap();
    connector.build_identity(&grant).await.unwrap();
    provider.answer("/revoke", ok(&json!({})));
    connector.revoke(&grant.credentials).await.unwrap();
    for request in provider.server.received_requests().await.unwrap() {
        assert!(!request.url.as_str().contains("canary"));
        assert!(!request.url.as_str().contains("access-1"));
        assert_eq!(request.url.query(), None);
    }
    assert_eq!(provider.requests(DISCOVERY).await.len(), 1);
}

#[tokio::test]
async fn no_log_line_shows_a_secret_even_at_the_finest_level() {
    LazyLock::force(&LOG);
    let provider = Provider::start().await;
    let connector = provider.connector_with(&json!({"client_secret": CANARY}));
    let id_token = provider.id_token(&provider.claims_with(&json!({"canary": CANARY})));
    provider.answer_tokens(&json!({
        "access_token": CANARY, "refresh_token": CANARY, "id_token": id_token,
    }));
    let exchange = CodeExchange { code: Secret::new(CANARY), ..code_exchange() };
    let grant = connector.exchange(&exchange).await.unwrap();
    connector.build_identity(&grant).await.unwrap();
    let request = RefreshRequest {
        refresh_token: Secret::new(CANARY),
        external_id: ExternalId::new("alice").unwrap(),
        redirect_uri: None,
        dpop_key: None,
    };
    connector.refresh(&request).await.unwrap();
    provider.answer("/revoke", ok(&json!({})));
    connector.revoke(&grant.credentials).await.unwrap();
    provider.answer("/token", ResponseTemplate::new(500).set_body_string(CANARY));
    connector.refresh(&request).await.unwrap_err();
    // A token that stands in an address.
    let trello = StandIn::start().await;
    let config = json!({"key": "0471642aefef5fa1fa76530ce1ba4c85"});
    let connector = trello.connect("trello", &config).unwrap();
    for answer in [ResponseTemplate::new(200), ResponseTemplate::new(500)] {
        trello.answer(&format!("api.trello.com/1/tokens/{CANARY}"), answer);
        if let Err(error) = connector.revoke(&grant.credentials).await {
            assert_silent(&error);
        }
    }
    assert_eq!(trello.count().await, 2);

    let logged = String::from_utf8(LOGGED.lock().unwrap().clone()).unwrap();
    // Our own lines and those of the HTTP library are among them.
    assert!(logged.contains("symbolon_oauth2::http") && logged.contains("hyper_util"), "{logged}");
    let leaks: Vec<_> = logged
        .lines()
        .filter(|it| it.contains("canary") || it.contains(id_token.as_str()))
        // What the provider of this test sends is its own.
        .filter(|it| !it.contains("wiremock"))
        .collect();
    assert!(leaks.is_empty(), "{leaks:#?}");
}
