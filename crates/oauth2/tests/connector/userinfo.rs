use serde_json::{Value, json};
use symbolon_domain::{account::ExternalAccount, ports::ConnectorError};
use wiremock::ResponseTemplate;

use crate::{
    assert_refused,
    provider::{Provider, ok},
    test_key::TestKey,
};

async fn build(provider: &Provider) -> Result<ExternalAccount, ConnectorError> {
    let grant = provider.exchange().await.unwrap();
    provider.connector().build_identity(&grant).await
}

fn signed(provider: &Provider, key: &TestKey, claims: &Value) -> ResponseTemplate {
    let jwt = key.sign(&json!({"alg": "ES256", "kid": "k1"}), claims);
    assert!(!provider.issuer.is_empty());
    ResponseTemplate::new(200).set_body_raw(jwt, "application/jwt")
}

#[tokio::test]
async fn the_access_token_is_in_the_header_and_nowhere_else() {
    let provider = Provider::start().await;
    build(&provider).await.unwrap();
    let requests = provider.requests("/userinfo").await;
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].headers["authorization"], "Bearer access-1");
    assert_eq!(requests[0].url.query(), None);
    assert!(requests[0].body.is_empty());
}

#[tokio::test]
async fn a_profile_of_another_account_refuses_the_login() {
    for answer in [
        json!({"sub": "bob"}),
        json!({"sub": "ALICE"}),
        json!({"name": "Alice"}),
        json!({"sub": ["alice"]}),
        json!({"sub": null}),
    ] {
        let provider = Provider::start().await;
        provider.answer("/userinfo", ok(&answer));
        assert_refused!(build(&provider).await, Untrusted);
    }
}

#[tokio::test]
async fn claims_asked_for_by_scope_are_read_from_userinfo() {
    let provider = Provider::start().await;
    provider.answer(
        "/userinfo",
        ok(&json!({
            "sub": "alice", "name": "Alice", "preferred_username": "al", "locale": "de",
            "picture": "https://p.example/a.png", "email": "a@b.example", "email_verified": true,
        })),
    );
    let account = build(&provider).await.unwrap();
    assert_eq!(
        Value::Object(account.profile()),
        json!({
            "name": "Alice", "preferred_username": "al", "locale": "de",
            "picture": "https://p.example/a.png", "email": "a@b.example", "email_verified": true,
        })
    );
}

#[tokio::test]
async fn without_a_userinfo_endpoint_the_id_token_is_enough() {
    let provider = Provider::start().await;
    provider.publish(&json!({"userinfo_endpoint": null}));
    provider.answer_id_token(&provider.id_token(&provider.claims_with(&json!({"name": "A"}))));
    assert_eq!(build(&provider).await.unwrap().name.as_deref(), Some("A"));
}

#[tokio::test]
async fn a_signed_profile_is_verified() {
    let provider = Provider::start().await;
    let claims = json!({"iss": provider.issuer, "aud": "client", "sub": "alice", "name": "Signed"});
    provider.answer("/userinfo", signed(&provider, &provider.key, &claims));
    assert_eq!(build(&provider).await.unwrap().name.as_deref(), Some("Signed"));

    let with = |name: &str, value: &str| {
        let mut changed = claims.clone();
        changed[name] = json!(value);
        changed
    };
    for bad in [
        signed(&provider, &TestKey::ec(), &claims),
        signed(&provider, &provider.key, &with("iss", "https://attacker.example")),
        signed(&provider, &provider.key, &with("aud", "other")),
        signed(&provider, &provider.key, &with("sub", "bob")),
        ResponseTemplate::new(200).set_body_raw("eyJhbGciOiJub25lIn0.e30.", "application/jwt"),
    ] {
        provider.answer("/userinfo", bad);
        assert_refused!(build(&provider).await, Untrusted);
    }
}

#[tokio::test]
async fn a_profile_that_cannot_be_read_may_be_asked_for_again() {
    for answer in [
        ResponseTemplate::new(401),
        ResponseTemplate::new(500),
        ResponseTemplate::new(302).insert_header("location", "/jwks"),
        ResponseTemplate::new(200).set_body_string("<html>"),
        ResponseTemplate::new(200).set_body_string(r#"{"sub":"alice","sub":"alice"}"#),
    ] {
        let provider = Provider::start().await;
        provider.answer("/userinfo", answer);
        assert_refused!(build(&provider).await, Unavailable);
    }
}

#[tokio::test]
async fn a_token_for_a_resource_need_not_work_at_the_userinfo_endpoint() {
    for status in [401, 403] {
        let provider = Provider::start().await;
        provider.answer("/userinfo", ResponseTemplate::new(status));
        // Without a resource nothing explains it.
        let grant = provider.exchange().await.unwrap();
        let refused = provider.connector().build_identity(&grant).await;
        assert!(matches!(refused, Err(ConnectorError::Unavailable { .. })), "{refused:?}");

        let connector = provider.connector_with(&json!({"resource": ["https://api.example/v1"]}));
        let account = connector.build_identity(&grant).await.unwrap();
        assert_eq!(account.external_id.as_str(), provider.claims()["sub"].as_str().unwrap());
    }
    // Where it works, its answer counts, and must fit.
    let provider = Provider::start().await;
    let grant = provider.exchange().await.unwrap();
    provider.answer("/userinfo", ok(&json!({"sub": "somebody else"})));
    let connector = provider.connector_with(&json!({"resource": ["https://api.example/v1"]}));
    let refused = connector.build_identity(&grant).await;
    assert!(matches!(refused, Err(ConnectorError::Untrusted { .. })), "{refused:?}");
}
