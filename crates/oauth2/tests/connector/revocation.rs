use serde_json::json;
use symbolon_domain::{
    credentials::Credentials,
    ports::{ConnectorError, Revocation, Sent},
    secret::Secret,
};
use wiremock::ResponseTemplate;

use crate::{
    assert_refused,
    provider::{Provider, form},
};

fn credentials(refresh_token: Option<&str>, access_token: Option<&str>) -> Credentials {
    Credentials {
        refresh_token: refresh_token.map(Secret::new),
        access_token: access_token.map(Secret::new),
        ..Credentials::default()
    }
}

#[tokio::test]
async fn the_refresh_token_is_revoked_and_then_the_access_token() {
    let provider = Provider::start().await;
    provider.answer("/revoke", ResponseTemplate::new(200));
    let result = provider.connector().revoke(&credentials(Some("r"), Some("a"))).await;
    assert_eq!(result, Ok(Revocation::Revoked));
    let requests = provider.requests("/revoke").await;
    let sent: Vec<_> = requests
        .iter()
        .map(form)
        .map(|it| (it["token"].clone(), it["token_type_hint"].clone()))
        .collect();
    assert_eq!(sent, [("r".into(), "refresh_token".into()), ("a".into(), "access_token".into())]);
    assert!(requests[0].headers.contains_key("authorization"));
}

#[tokio::test]
async fn an_access_token_alone_is_revoked() {
    let provider = Provider::start().await;
    provider.answer("/revoke", ResponseTemplate::new(200));
    let result = provider.connector().revoke(&credentials(None, Some("a"))).await;
    assert_eq!(result, Ok(Revocation::Revoked));
}

#[tokio::test]
async fn a_provider_without_the_endpoint_does_not_revoke() {
    let provider = Provider::start().await;
    provider.publish(&json!({"revocation_endpoint": null}));
    let result = provider.connector().revoke(&credentials(Some("r"), None)).await;
    assert_eq!(result, Ok(Revocation::Unsupported));
}

#[tokio::test]
async fn nothing_to_revoke_asks_nobody() {
    let provider = Provider::start().await;
    let result = provider.connector().revoke(&Credentials::default()).await;
    assert_eq!(result, Ok(Revocation::Unsupported));
    assert!(provider.server.received_requests().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_token_that_is_not_known_any_more_counts_as_revoked() {
    for error in ["invalid_token", "invalid_grant"] {
        let provider = Provider::start().await;
        let answer = ResponseTemplate::new(400).set_body_json(json!({"error": error}));
        provider.answer("/revoke", answer);
        let result = provider.connector().revoke(&credentials(Some("r"), None)).await;
        assert_eq!(result, Ok(Revocation::Revoked), "{error}");
    }
}

#[tokio::test]
async fn a_refused_revocation_says_who_must_act() {
    let provider = Provider::start().await;
    let refuse = |status: u16, error: &str| {
        provider.answer(
            "/revoke",
            ResponseTemplate::new(status).set_body_json(json!({"error": error})),
        );
    };
    let connector = provider.connector();
    refuse(401, "invalid_client");
    assert_refused!(connector.revoke(&credentials(Some("r"), None)).await, ClientRejected);
    refuse(503, "server_error");
    let result = connector.revoke(&credentials(Some("r"), None)).await;
    assert!(matches!(result, Err(ConnectorError::Unavailable { sent: Sent::Answered, .. })));
    refuse(400, "unsupported_token_type");
    let result = connector.revoke(&credentials(Some("r"), None)).await;
    assert_eq!(result, Ok(Revocation::Unsupported));
}
