use std::collections::BTreeMap;

use serde_json::{Value, json};
use symbolon_domain::ports::AuthorizationRequest;

use crate::{
    assert_refused,
    provider::{NONCE, Provider, authorization_request},
};

async fn query(provider: &Provider, config: &Value) -> BTreeMap<String, String> {
    query_of(provider, config, &authorization_request()).await
}

async fn query_of(
    provider: &Provider,
    config: &Value,
    request: &AuthorizationRequest,
) -> BTreeMap<String, String> {
    let url = provider.connector_with(config).authorize(request).await.unwrap();
    let pairs: Vec<_> = url.query_pairs().into_owned().collect();
    let query: BTreeMap<_, _> = pairs.iter().cloned().collect();
    assert_eq!(pairs.len(), query.len(), "a parameter is there twice");
    query
}

#[tokio::test]
async fn the_browser_is_sent_with_state_nonce_and_an_s256_challenge() {
    let provider = Provider::start().await;
    let query = query(&provider, &json!({})).await;
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "client"),
        ("redirect_uri", "https://app.example/callback/1"),
        ("scope", "openid profile email"),
        ("state", "the-state"),
        ("nonce", NONCE),
        // RFC 7636, appendix B.
        ("code_challenge", "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(query[name], value);
    }
    assert!(!query.contains_key("prompt") && !query.contains_key("login_hint"));
}

#[tokio::test]
async fn what_the_authorization_endpoint_has_in_its_query_stays() {
    let provider = Provider::start().await;
    provider.publish(&json!({
        "authorization_endpoint": format!("{}/authorize?tenant=a%20b", provider.issuer),
    }));
    assert_eq!(query(&provider, &json!({})).await["tenant"], "a b");
}

#[tokio::test]
async fn a_provider_without_s256_is_refused() {
    for methods in [json!([]), json!(["plain"]), json!(["s256"])] {
        let provider = Provider::start().await;
        provider.publish(&json!({"code_challenge_methods_supported": methods}));
        let result = provider.connector().authorize(&authorization_request()).await;
        assert_refused!(result, Misconfigured);
    }
}

#[tokio::test]
async fn a_provider_that_says_nothing_of_pkce_gets_it_all_the_same() {
    let provider = Provider::start().await;
    provider.publish(&json!({"code_challenge_methods_supported": null}));
    assert_eq!(query(&provider, &json!({})).await["code_challenge_method"], "S256");
}

#[tokio::test]
async fn offline_access_is_asked_for_with_consent_where_the_provider_lists_it() {
    let provider = Provider::start().await;
    provider.publish(&json!({"scopes_supported": ["openid", "offline_access"]}));
    let query = query(&provider, &json!({})).await;
    assert_eq!(query["scope"], "openid profile email offline_access");
    assert_eq!(query["prompt"], "consent");
}

#[tokio::test]
async fn configured_scopes_are_asked_for_with_openid_and_nothing_else() {
    let provider = Provider::start().await;
    provider.publish(&json!({"scopes_supported": ["offline_access"]}));
    let query = query(&provider, &json!({"scopes": ["calendar.read"]})).await;
    assert_eq!(query["scope"], "openid calendar.read");
    assert!(!query.contains_key("prompt"));
}

#[tokio::test]
async fn scopes_of_an_attempt_replace_the_configured_ones_but_for_offline_access() {
    let provider = Provider::start().await;
    let request =
        AuthorizationRequest { scopes: vec!["calendar.read".into()], ..authorization_request() };
    let config = json!({"scopes": ["openid", "mail.read", "offline_access"]});
    let query = query_of(&provider, &config, &request).await;
    assert_eq!(query["scope"], "openid calendar.read offline_access");
    assert_eq!(query["prompt"], "consent");
}

#[tokio::test]
async fn the_account_to_suggest_is_sent_along() {
    let provider = Provider::start().await;
    let request = AuthorizationRequest {
        login_hint: Some("alice&state=x@b.example".into()),
        ..authorization_request()
    };
    let query = query_of(&provider, &json!({}), &request).await;
    assert_eq!(query["login_hint"], "alice&state=x@b.example");
    assert_eq!(query["state"], "the-state");
}

#[tokio::test]
async fn an_issuer_in_the_response_must_be_the_providers() {
    let provider = Provider::start().await;
    let connector = provider.connector();
    assert_eq!(connector.check_issuer(Some(&provider.issuer), false).await, Ok(()));
    let slash = format!("{}/", provider.issuer);
    let upper = provider.issuer.to_uppercase();
    for other in ["", "https://attacker.example", &slash, &upper] {
        assert_refused!(connector.check_issuer(Some(other), false).await, Untrusted);
    }
}

#[tokio::test]
async fn an_issuer_in_the_response_is_missed_when_required_or_announced() {
    let provider = Provider::start().await;
    let connector = provider.connector();
    assert_eq!(connector.check_issuer(None, false).await, Ok(()));
    assert_refused!(connector.check_issuer(None, true).await, Untrusted);

    let announcing = Provider::start().await;
    announcing.publish(&json!({"authorization_response_iss_parameter_supported": true}));
    assert_refused!(announcing.connector().check_issuer(None, false).await, Untrusted);
}

#[tokio::test]
async fn a_wrong_issuer_in_the_response_sends_nothing() {
    let provider = Provider::start().await;
    let result = provider.connector().check_issuer(Some("https://attacker.example"), false).await;
    assert_refused!(result, Untrusted);
    assert!(provider.server.received_requests().await.unwrap().is_empty());
}
