//! ID tokens that must be refused, and what else must not happen then.

use aws_lc_rs::hmac;
use serde_json::{Value, json};

use crate::{
    assert_refused,
    provider::{NOW, Provider, code_exchange},
    raw_server::RawServer,
    test_key::{TestKey, base64url},
};

async fn accepted(provider: &Provider, id_token: &str) -> bool {
    provider.answer_id_token(id_token);
    match provider.exchange().await {
        Ok(_) => true,
        Err(symbolon_domain::ports::ConnectorError::Untrusted { .. }) => false,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn each_allowed_algorithm_is_verified_and_a_bad_signature_refused() {
    for (key, alg) in [
        (TestKey::rsa(), "RS256"),
        (TestKey::rsa(), "PS256"),
        (TestKey::ec(), "ES256"),
        (TestKey::ed(), "EdDSA"),
    ] {
        let provider = Provider::with_key(key).await;
        let header = json!({"alg": alg, "kid": "k1"});
        let token = provider.key.sign(&header, &provider.claims());
        assert!(accepted(&provider, &token).await, "{alg}");

        let (message, signature) = token.rsplit_once('.').unwrap();
        let flipped = if signature.starts_with('A') { "B" } else { "A" };
        let bad = format!("{message}.{flipped}{}", &signature[1..]);
        assert!(!accepted(&provider, &bad).await, "{alg}");

        let other = provider.key.sign(&header, &provider.claims_with(&json!({"sub": "bob"})));
        let moved = format!("{message}.{}", other.rsplit_once('.').unwrap().1);
        assert!(!accepted(&provider, &moved).await, "{alg}");
    }
}

#[tokio::test]
async fn an_unsigned_token_is_refused() {
    let provider = Provider::start().await;
    for alg in ["none", "None", "nOnE", "NONE", ""] {
        let header = base64url(json!({"alg": alg, "kid": "k1"}).to_string());
        let claims = base64url(provider.claims().to_string());
        assert!(!accepted(&provider, &format!("{header}.{claims}.")).await, "{alg}");
    }
}

#[tokio::test]
async fn a_token_signed_with_a_shared_secret_is_refused() {
    let provider = Provider::with_key(TestKey::rsa()).await;
    let message = format!(
        "{}.{}",
        base64url(json!({"alg": "HS256", "kid": "k1"}).to_string()),
        base64url(provider.claims().to_string()),
    );
    for secret in ["secret", &provider.key.public_pem(), ""] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let signature = hmac::sign(&key, message.as_bytes());
        assert!(!accepted(&provider, &format!("{message}.{}", base64url(signature))).await);
    }
}

#[tokio::test]
async fn an_es256_signature_of_zeros_is_refused() {
    let provider = Provider::start().await;
    let token = provider.id_token(&provider.claims());
    let (message, _) = token.rsplit_once('.').unwrap();
    for length in [0, 1, 32, 64, 65, 128] {
        let signature = base64url(vec![0; length]);
        assert!(!accepted(&provider, &format!("{message}.{signature}")).await, "{length}");
    }
}

#[tokio::test]
async fn an_algorithm_outside_the_configured_list_is_refused() {
    let provider = Provider::with_key(TestKey::rsa()).await;
    let connector = provider.connector_with(&json!({"id_token_signing_algs": ["ES256"]}));
    assert_refused!(connector.exchange(&code_exchange()).await, Untrusted);
    let connector = provider.connector_with(&json!({"id_token_signing_algs": ["RS256"]}));
    assert!(connector.exchange(&code_exchange()).await.is_ok());
}

#[tokio::test]
async fn a_key_that_the_token_brings_along_is_neither_used_nor_fetched() {
    let provider = Provider::start().await;
    let attacker = TestKey::ec();
    let keys = json!({"keys": [attacker.jwk("evil")]}).to_string();
    let elsewhere = RawServer::saying(format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{keys}",
        keys.len()
    ))
    .await;
    let at = |path: &str| format!("{}{path}", elsewhere.uri);
    for extra in [
        json!({"jwk": attacker.jwk("evil")}),
        json!({"jku": at("/jwks")}),
        json!({"x5u": at("/x5u")}),
        json!({"crit": ["x"], "x": 1}),
        json!({"crit": ["b64"], "b64": false}),
        json!({"b64": false}),
    ] {
        let mut header = json!({"alg": "ES256", "kid": "evil"});
        header.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        assert!(!accepted(&provider, &attacker.sign(&header, &provider.claims())).await);
        // Refused even where the issuer's own key signed it.
        header["kid"] = json!("k1");
        assert!(!accepted(&provider, &provider.key.sign(&header, &provider.claims())).await);
    }
    assert_eq!(elsewhere.requests(), 0);
    assert_eq!(provider.requests("/jwks").await.len(), 0, "not even its own keys were needed");
}

#[tokio::test]
async fn a_token_typed_as_another_one_is_refused() {
    let provider = Provider::start().await;
    for typ in ["at+jwt", "application/at+jwt", "logout+jwt", "secevent+jwt"] {
        let header = json!({"alg": "ES256", "kid": "k1", "typ": typ});
        assert!(!accepted(&provider, &provider.key.sign(&header, &provider.claims())).await);
    }
}

/// Relying-party checks A.1, A.2 and A.5, by what is wrong with the claims.
#[tokio::test]
async fn claims_that_prove_nothing_are_refused_and_no_profile_is_read() {
    let provider = Provider::start().await;
    let cases: &[(&str, Value)] = &[
        ("iss wrong", json!({"iss": "https://attacker.example"})),
        ("iss with a slash", json!({"iss": format!("{}/", provider.issuer)})),
        ("iss missing", json!({"iss": null})),
        ("sub missing", json!({"sub": null})),
        ("aud wrong", json!({"aud": "other"})),
        ("aud missing", json!({"aud": null})),
        ("aud with a stranger", json!({"aud": ["client", "other"]})),
        ("azp wrong", json!({"azp": "other"})),
        ("azp wrong with two", json!({"aud": ["client", "other"], "azp": "other"})),
        ("iat missing", json!({"iat": null})),
        ("iat in the future", json!({"iat": NOW + 3600})),
        ("iat long ago", json!({"iat": NOW - 7 * 86_400})),
        ("exp missing", json!({"exp": null})),
        ("exp past", json!({"exp": NOW - 301})),
        ("nbf in the future", json!({"nbf": NOW + 3600})),
        ("nonce wrong", json!({"nonce": "other"})),
        ("nonce missing", json!({"nonce": null})),
        ("at_hash wrong", json!({"at_hash": "77QmUPtjPfzWtF2AnpK9RQ"})),
        ("c_hash wrong", json!({"c_hash": "LDktKdoQak3Pk0cnXxCltA"})),
    ];
    for (name, changes) in cases {
        let token = provider.id_token(&provider.claims_with(changes));
        assert!(!accepted(&provider, &token).await, "{name}");
    }
    assert!(provider.requests("/userinfo").await.is_empty());
}

#[tokio::test]
async fn an_audience_as_a_list_of_one_is_accepted() {
    let provider = Provider::start().await;
    let token = provider.id_token(&provider.claims_with(&json!({"aud": ["client"]})));
    assert!(accepted(&provider, &token).await);
}

#[tokio::test]
async fn a_right_at_hash_is_accepted() {
    let provider = Provider::start().await;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, b"access-1");
    let at_hash = base64url(&digest.as_ref()[..16]);
    let token = provider.id_token(&provider.claims_with(&json!({"at_hash": at_hash})));
    assert!(accepted(&provider, &token).await);
}

#[tokio::test]
async fn a_claim_given_twice_is_refused() {
    let provider = Provider::start().await;
    let TestKey::Ec(_) = &provider.key else { panic!() };
    let claims = provider.claims().to_string().replacen('{', r#"{"sub":"bob","#, 1);
    // Signed as it stands: a `Value` could not hold it.
    let token = sign_text(&provider.key, &claims);
    assert!(!accepted(&provider, &token).await);
}

fn sign_text(key: &TestKey, claims: &str) -> String {
    let TestKey::Ec(key) = key else { panic!("EC only") };
    let header = base64url(json!({"alg": "ES256", "kid": "k1"}).to_string());
    let message = format!("{header}.{}", base64url(claims));
    let random = aws_lc_rs::rand::SystemRandom::new();
    let signature = key.sign(&random, message.as_bytes()).unwrap();
    format!("{message}.{}", base64url(signature))
}

#[tokio::test]
async fn a_token_of_unbounded_length_is_refused() {
    let provider = Provider::start().await;
    let token = provider.id_token(&provider.claims_with(&json!({"groups": "x".repeat(40_000)})));
    assert!(!accepted(&provider, &token).await);
}
