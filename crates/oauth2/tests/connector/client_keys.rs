//! Clients that sign who they are, and requests that are pushed or name what tokens are for.

use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, jwk::Jwk};
use serde_json::{Map, Value, json};
use symbolon_domain::ports::ConnectorError;
use url::Url;
use wiremock::{Request, ResponseTemplate};

use crate::provider::{
    NOW, Provider, authorization_request, code_exchange, form, ok, refresh_request,
};

const EC: &str = include_str!("client_key_ec.pem");
const RSA: &str = include_str!("client_key_rsa.pem");
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// The claims of the assertion in a request, verified with the key; none checks its times, since
/// the clock is the test's.
fn assertion(request: &Request, key: &DecodingKey, algorithm: Algorithm) -> Map<String, Value> {
    let form = form(request);
    assert_eq!(form["client_assertion_type"], JWT_BEARER);
    assert!(!form.contains_key("client_secret"), "{form:?}");
    assert!(request.headers.get("authorization").is_none());
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_aud = false;
    decode(&form["client_assertion"], key, &validation).unwrap().claims
}

#[tokio::test]
async fn a_client_with_a_key_signs_each_request_anew() {
    for (pem, algorithm) in [(EC, Algorithm::ES256), (RSA, Algorithm::RS256)] {
        let provider = Provider::start().await;
        let connector =
            provider.connector_with(&json!({"client_secret": null, "client_private_key": pem}));
        let keys = connector.public_keys();
        assert_eq!(keys.len(), 1);
        let key: Jwk = serde_json::from_value(keys[0].clone()).unwrap();
        let key = DecodingKey::from_jwk(&key).unwrap();
        let grant = connector.exchange(&code_exchange()).await.unwrap();
        connector.refresh(&refresh_request()).await.unwrap();
        provider.answer("/revoke", ResponseTemplate::new(200));
        connector.revoke(&grant.credentials).await.unwrap();
        let mut names = Vec::new();
        let mut requests = provider.requests("/token").await;
        requests.extend(provider.requests("/revoke").await);
        for request in &requests {
            let claims = assertion(request, &key, algorithm);
            assert_eq!(claims["iss"], "client");
            assert_eq!(claims["sub"], "client");
            assert_eq!(claims["aud"], provider.issuer.as_str());
            assert_eq!(claims["iat"], NOW);
            assert_eq!(claims["exp"], NOW + 60);
            names.push(claims["jti"].clone());
        }
        assert_eq!(names.len(), 4);
        names.dedup();
        assert_eq!(names.len(), 4, "an assertion was used twice");
    }
}

#[tokio::test]
async fn a_client_secret_can_sign_instead_of_being_sent() {
    let provider = Provider::start().await;
    let connector =
        provider.connector_with(&json!({"token_endpoint_auth_method": "client_secret_jwt"}));
    connector.exchange(&code_exchange()).await.unwrap();
    let requests = provider.requests("/token").await;
    let claims = assertion(&requests[0], &DecodingKey::from_secret(b"secret"), Algorithm::HS256);
    assert_eq!(claims["aud"], provider.issuer.as_str());
    assert!(!String::from_utf8_lossy(&requests[0].body).contains("=secret"));
    assert!(connector.public_keys().is_empty(), "a secret has no public half");
}

#[tokio::test]
async fn the_next_key_is_published_before_it_signs() {
    let provider = Provider::start().await;
    let connector = provider.connector_with(&json!({
        "client_secret": null, "client_private_key": EC, "client_private_key_next": RSA,
    }));
    let keys = connector.public_keys();
    assert_eq!(
        keys.iter().map(|it| it["kty"].as_str().unwrap()).collect::<Vec<_>>(),
        ["EC", "RSA"]
    );
    let names: Vec<_> = keys.iter().map(|it| it["kid"].clone()).collect();
    assert_ne!(names[0], names[1]);
    for key in &keys {
        for private in ["d", "p", "q", "dp", "dq", "qi"] {
            assert!(key.get(private).is_none(), "{private} is published");
        }
    }
}

#[tokio::test]
async fn a_request_is_pushed_where_the_provider_insists() {
    let provider = Provider::start().await;
    provider.publish(&json!({
        "pushed_authorization_request_endpoint": format!("{}/par", provider.issuer),
        "require_pushed_authorization_requests": true,
    }));
    let name = "urn:ietf:params:oauth:request_uri:1";
    provider.answer(
        "/par",
        ResponseTemplate::new(201).set_body_json(json!({"request_uri": name, "expires_in": 60})),
    );
    for config in [
        json!({}),
        json!({"token_endpoint_auth_method": "client_secret_post"}),
        json!({"client_secret": null, "client_private_key": EC}),
        json!({"client_secret": null}),
    ] {
        let url =
            provider.connector_with(&config).authorize(&authorization_request()).await.unwrap();
        let query: Vec<_> = url.query_pairs().into_owned().collect();
        let expected =
            [("client_id", "client"), ("request_uri", name)].map(|(a, b)| (a.into(), b.into()));
        assert_eq!(query, expected, "the browser carries no more than that");
        let pushed = provider.requests("/par").await;
        let body = &pushed.last().unwrap().body;
        let pairs: Vec<_> = url::form_urlencoded::parse(body).into_owned().collect();
        let form = form(pushed.last().unwrap());
        assert_eq!(pairs.len(), form.len(), "a parameter is there twice: {pairs:?}");
        for (name, value) in [
            ("response_type", "code"),
            ("client_id", "client"),
            ("state", "the-state"),
            ("code_challenge_method", "S256"),
        ] {
            assert_eq!(form[name], value, "{config}");
        }
    }
}

#[tokio::test]
async fn a_request_is_pushed_where_the_operator_wants_it_and_not_otherwise() {
    let provider = Provider::start().await;
    let par = json!({"pushed_authorization_request_endpoint": format!("{}/par", provider.issuer)});
    provider.publish(&par);
    let url = provider.connector().authorize(&authorization_request()).await.unwrap();
    assert!(url.query_pairs().any(|(name, _)| name == "state"));
    let pushing = json!({"pushed_authorization_requests": true});
    provider.answer("/par", ok(&json!({"request_uri": "urn:x"})));
    let url = provider.connector_with(&pushing).authorize(&authorization_request()).await.unwrap();
    assert!(url.query_pairs().any(|(name, value)| name == "request_uri" && value == "urn:x"));
    assert_eq!(provider.requests("/par").await.len(), 1);
}

#[tokio::test]
async fn a_push_that_fails_says_who_must_act() {
    let pushing = json!({"pushed_authorization_requests": true});
    let provider = Provider::start().await;
    let connector = provider.connector_with(&pushing);
    let request = authorization_request();
    // There is no such endpoint.
    let refused = connector.authorize(&request).await;
    assert!(matches!(refused, Err(ConnectorError::Misconfigured { .. })), "{refused:?}");
    let provider = Provider::start().await;
    provider.publish(
        &json!({"pushed_authorization_request_endpoint": format!("{}/par", provider.issuer)}),
    );
    let connector = provider.connector_with(&pushing);
    let answer = |status, body: Value| ResponseTemplate::new(status).set_body_json(body);
    provider.answer("/par", answer(401, json!({"error": "invalid_client"})));
    let refused = connector.authorize(&request).await;
    assert!(matches!(refused, Err(ConnectorError::ClientRejected { .. })), "{refused:?}");
    for body in [answer(200, json!({})), answer(201, json!([])), answer(500, json!({}))] {
        provider.answer("/par", body);
        let refused = connector.authorize(&request).await;
        assert!(matches!(refused, Err(ConnectorError::Unavailable { .. })), "{refused:?}");
    }
}

#[tokio::test]
async fn what_the_tokens_are_for_is_said_at_every_step() {
    let provider = Provider::start().await;
    let resource = "https://api.example/v1";
    let connector = provider.connector_with(&json!({"resource": [resource]}));
    let said = |pairs: Vec<(String, String)>| {
        pairs.into_iter().filter(|(name, value)| name == "resource" && value == resource).count()
    };
    let url: Url = connector.authorize(&authorization_request()).await.unwrap();
    assert_eq!(said(url.query_pairs().into_owned().collect()), 1);
    connector.exchange(&code_exchange()).await.unwrap();
    connector.refresh(&refresh_request()).await.unwrap();
    let requests = provider.requests("/token").await;
    assert_eq!(requests.len(), 2);
    for request in &requests {
        let pairs = url::form_urlencoded::parse(&request.body).into_owned().collect();
        assert_eq!(said(pairs), 1);
    }
}

#[tokio::test]
async fn the_response_comes_back_as_the_operator_wants_it() {
    let provider = Provider::start().await;
    let connector = provider.connector_with(&json!({"response_mode": "form_post"}));
    let url = connector.authorize(&authorization_request()).await.unwrap();
    assert!(url.query_pairs().any(|it| it == ("response_mode".into(), "form_post".into())));
}
