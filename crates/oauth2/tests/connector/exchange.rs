use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, TimeDelta};
use serde_json::json;
use symbolon_domain::{ports::CodeExchange, secret::Secret};

use crate::{
    assert_refused,
    provider::{NOW, Provider, VERIFIER, code_exchange, form},
    test_key::TestKey,
};

#[tokio::test]
async fn a_code_is_traded_for_tokens_and_a_profile() {
    let provider = Provider::with_key(TestKey::rsa()).await;
    let grant = provider.exchange().await.unwrap();
    let now = DateTime::from_timestamp(NOW, 0).unwrap();
    assert_eq!(grant.credentials.access_token, Some(Secret::new("access-1")));
    assert_eq!(grant.credentials.refresh_token, Some(Secret::new("refresh-1")));
    assert!(grant.credentials.id_token.is_some());
    assert_eq!(grant.credentials.token_type.as_deref(), Some("Bearer"));
    assert_eq!(grant.credentials.obtained_at, Some(now));
    assert_eq!(grant.credentials.expires_at, Some(now + TimeDelta::hours(1)));
    assert_eq!(grant.credentials.scopes, ["openid", "profile", "email"]);
    assert_eq!(grant.claims["sub"], "alice");

    let account = provider.connector().build_identity(&grant).await.unwrap();
    assert_eq!(account.external_id.as_str(), "alice");
    assert_eq!(account.name.as_deref(), Some("Alice"));
    assert_eq!(account.legacy_id, None);
}

#[tokio::test]
async fn the_token_request_proves_the_code_to_be_ours() {
    let provider = Provider::start().await;
    provider.exchange().await.unwrap();
    let requests = provider.requests("/token").await;
    assert_eq!(requests.len(), 1);
    let form = form(&requests[0]);
    assert_eq!(form["grant_type"], "authorization_code");
    assert_eq!(form["code"], "the-code");
    assert_eq!(form["redirect_uri"], "https://app.example/callback/1");
    assert_eq!(form["code_verifier"], VERIFIER);
    assert_eq!(requests[0].url.query(), None);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(requests[0].headers["user-agent"], format!("symbolon/{version}").as_str());
}

#[tokio::test]
async fn client_secret_basic_is_form_urlencoded_in_the_header() {
    let provider = Provider::start().await;
    provider.answer_tokens(&json!({
        "id_token": provider.id_token(&provider.claims_with(&json!({"aud": "cli:ent"}))),
    }));
    let connector = provider.connector_with(&json!({
        "client_id": "cli:ent", "client_secret": "se cret%", "token_endpoint_auth_method": "client_secret_basic",
    }));
    connector.exchange(&code_exchange()).await.unwrap();
    let request = &provider.requests("/token").await[0];
    let header = request.headers["authorization"].to_str().unwrap();
    let pair = STANDARD.decode(header.strip_prefix("Basic ").unwrap()).unwrap();
    assert_eq!(pair, b"cli%3Aent:se+cret%25");
    assert!(!form(request).contains_key("client_secret"));
}

#[tokio::test]
async fn client_secret_post_is_in_the_body_alone() {
    let provider = Provider::start().await;
    let connector =
        provider.connector_with(&json!({"token_endpoint_auth_method": "client_secret_post"}));
    connector.exchange(&code_exchange()).await.unwrap();
    let request = &provider.requests("/token").await[0];
    assert_eq!(form(request)["client_id"], "client");
    assert_eq!(form(request)["client_secret"], "secret");
    assert!(!request.headers.contains_key("authorization"));
}

#[tokio::test]
async fn a_public_client_names_itself_in_the_body() {
    let provider = Provider::start().await;
    let connector = provider
        .connector_with(&json!({"client_secret": null, "token_endpoint_auth_method": "none"}));
    connector.exchange(&code_exchange()).await.unwrap();
    let request = &provider.requests("/token").await[0];
    assert_eq!(form(request)["client_id"], "client");
    assert!(!request.headers.contains_key("authorization"));
}

#[tokio::test]
async fn without_a_configured_method_the_client_authenticates_as_the_provider_lists() {
    for (listed, in_header) in [
        (json!(null), true),
        (json!(["client_secret_post", "client_secret_basic"]), true),
        (json!(["client_secret_post", "private_key_jwt"]), false),
    ] {
        let provider = Provider::start().await;
        provider.publish(&json!({"token_endpoint_auth_methods_supported": listed}));
        provider.exchange().await.unwrap();
        let request = &provider.requests("/token").await[0];
        assert_eq!(request.headers.contains_key("authorization"), in_header, "{listed}");
        assert_eq!(form(request).contains_key("client_secret"), !in_header, "{listed}");
    }
}

#[tokio::test]
async fn granted_scopes_are_the_answers_or_those_that_were_asked_for() {
    let provider = Provider::start().await;
    let id_token = provider.id_token(&provider.claims());
    let exchange = CodeExchange { scopes: vec!["openid".into(), "a".into()], ..code_exchange() };
    let grant = provider.connector().exchange(&exchange).await.unwrap();
    assert_eq!(grant.credentials.scopes, ["openid", "a"]);

    provider.answer_tokens(&json!({"id_token": id_token, "scope": "openid b c"}));
    let grant = provider.connector().exchange(&exchange).await.unwrap();
    assert_eq!(grant.credentials.scopes, ["openid", "b", "c"]);
}

#[tokio::test]
async fn an_unknown_expiry_stays_unknown() {
    for life in [json!(null), json!(-1), json!(0), json!("soon"), json!([])] {
        let provider = Provider::start().await;
        let id_token = provider.id_token(&provider.claims());
        provider.answer_tokens(&json!({"id_token": id_token, "expires_in": life}));
        let grant = provider.exchange().await.unwrap();
        assert_eq!(grant.credentials.expires_at, None, "{life}");
    }
}

#[tokio::test]
async fn an_expiry_beyond_all_reason_is_bounded() {
    for life in [json!(1e308), json!(u64::MAX), json!("99999999999999999999")] {
        let provider = Provider::start().await;
        let id_token = provider.id_token(&provider.claims());
        provider.answer_tokens(&json!({"id_token": id_token, "expires_in": life}));
        let end = provider.exchange().await.unwrap().credentials.expires_at.unwrap();
        assert_eq!(end, DateTime::from_timestamp(NOW, 0).unwrap() + TimeDelta::days(3650));
    }
}

#[tokio::test]
async fn a_token_type_is_read_in_any_case_and_one_that_we_cannot_present_is_refused() {
    let provider = Provider::start().await;
    let id_token = provider.id_token(&provider.claims());
    provider.answer_tokens(&json!({"id_token": id_token, "token_type": "bEARER"}));
    assert!(provider.exchange().await.is_ok());
    provider.answer_tokens(&json!({"id_token": id_token, "token_type": "DPoP"}));
    assert_refused!(provider.exchange().await, Unavailable);
}

#[tokio::test]
async fn an_answer_without_an_id_token_is_refused() {
    let provider = Provider::start().await;
    provider.answer_tokens(&json!({}));
    assert_refused!(provider.exchange().await, Untrusted);
}

#[tokio::test]
async fn status_200_with_an_error_is_an_error() {
    let provider = Provider::start().await;
    let id_token = provider.id_token(&provider.claims());
    provider.answer_tokens(&json!({"id_token": id_token, "error": "invalid_grant"}));
    assert_refused!(provider.exchange().await, GrantRejected);
}
