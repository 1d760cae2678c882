//! Which keys verify, and how often they are fetched.

use std::sync::Arc;

use serde_json::json;
use symbolon_oauth2::Registry;
use wiremock::ResponseTemplate;

use crate::{
    assert_refused,
    provider::{Provider, TestClock, code_exchange, loopback, ok},
    test_key::TestKey,
};

#[tokio::test]
async fn a_token_without_a_kid_is_verified_with_the_fitting_keys() {
    let provider = Provider::with_key(TestKey::rsa()).await;
    let token = provider.key.sign(&json!({"alg": "RS256"}), &provider.claims());
    provider.answer_id_token(&token);
    assert!(provider.exchange().await.is_ok(), "one key");

    let provider = Provider::with_key(TestKey::rsa()).await;
    let others = [TestKey::rsa(), TestKey::ec()];
    provider.answer(
        "/jwks",
        ok(&json!({"keys": [others[0].jwk("a"), others[1].jwk("b"), provider.key.jwk("c")]})),
    );
    let token = provider.key.sign(&json!({"alg": "RS256"}), &provider.claims());
    provider.answer_id_token(&token);
    assert!(provider.exchange().await.is_ok(), "several keys");
}

#[tokio::test]
async fn keys_are_fetched_from_where_the_metadata_say() {
    let provider = Provider::start().await;
    provider.publish(&json!({"jwks_uri": format!("{}/elsewhere", provider.issuer)}));
    provider.answer("/jwks", ResponseTemplate::new(500));
    provider.answer("/elsewhere", ok(&json!({"keys": [provider.key.jwk("k1")]})));
    assert!(provider.exchange().await.is_ok());
    assert_eq!(provider.requests("/jwks").await.len(), 0);
}

#[tokio::test]
async fn keys_rotated_just_before_signing_are_fetched_once_more() {
    let provider = Provider::start().await;
    provider.exchange().await.unwrap();
    let new = TestKey::ec();
    provider.answer("/jwks", ok(&json!({"keys": [new.jwk("k2")]})));
    provider.answer_id_token(&new.sign(&json!({"alg": "ES256", "kid": "k2"}), &provider.claims()));
    assert!(provider.exchange().await.is_ok());
    assert_eq!(provider.requests("/jwks").await.len(), 2);
}

#[tokio::test]
async fn many_logins_after_a_rotation_fetch_the_keys_once() {
    let provider = Provider::start().await;
    provider.exchange().await.unwrap();
    let new = TestKey::ec();
    provider.answer("/jwks", ok(&json!({"keys": [new.jwk("k2")]})));
    provider.answer_id_token(&new.sign(&json!({"alg": "ES256", "kid": "k2"}), &provider.claims()));
    let logins = (0..16).map(|_| {
        let connector = provider.connector();
        tokio::spawn(async move { connector.exchange(&code_exchange()).await })
    });
    for login in logins.collect::<Vec<_>>() {
        assert!(login.await.unwrap().is_ok());
    }
    assert_eq!(provider.requests("/jwks").await.len(), 2);
}

#[tokio::test]
async fn a_key_that_was_taken_back_verifies_for_ten_minutes_at_most() {
    let provider = Provider::start().await;
    provider.exchange().await.unwrap();
    provider.answer("/jwks", ok(&json!({"keys": []})));
    provider.clock.advance(600);
    let token = provider.id_token(&provider.claims_with(&json!({"exp": 1_800_000_000})));
    provider.answer_id_token(&token);
    assert_refused!(provider.exchange().await, Untrusted);
}

#[tokio::test]
async fn a_flood_of_unknown_key_ids_fetches_the_keys_once_in_half_a_minute() {
    let provider = Provider::start().await;
    provider.exchange().await.unwrap();
    for round in 1..=2 {
        for n in 0..20 {
            let header = json!({"alg": "ES256", "kid": format!("invented-{round}-{n}")});
            provider.answer_id_token(&provider.key.sign(&header, &provider.claims()));
            assert_refused!(provider.exchange().await, Untrusted);
        }
        assert_eq!(provider.requests("/jwks").await.len(), 1 + round);
        provider.clock.advance(30);
    }
}

#[tokio::test]
async fn a_bad_signature_with_a_known_key_fetches_nothing() {
    let provider = Provider::start().await;
    let attacker = TestKey::ec();
    let header = json!({"alg": "ES256", "kid": "k1"});
    provider.answer_id_token(&attacker.sign(&header, &provider.claims()));
    for _ in 0..5 {
        assert_refused!(provider.exchange().await, Untrusted);
    }
    assert_eq!(provider.requests("/jwks").await.len(), 1);
}

#[tokio::test]
async fn the_same_key_id_at_two_issuers_names_two_keys() {
    let clock = TestClock::new();
    let registry = Registry::new(loopback(), Arc::new(clock.clone()));
    let honest = Provider::with(TestKey::ec(), clock.clone(), registry.clone()).await;
    let hostile = Provider::with(TestKey::ec(), clock, registry).await;
    assert!(honest.exchange().await.is_ok());
    assert!(hostile.exchange().await.is_ok());
    // Signed by the hostile issuer's `k1`, with all the claims of the honest one.
    honest.answer_id_token(&hostile.id_token(&honest.claims()));
    assert_refused!(honest.exchange().await, Untrusted);
}

#[tokio::test]
async fn an_encryption_key_does_not_verify() {
    let provider = Provider::start().await;
    let mut key = provider.key.jwk("k1");
    key["use"] = json!("enc");
    provider.answer("/jwks", ok(&json!({"keys": [key]})));
    assert_refused!(provider.exchange().await, Untrusted);
}

#[tokio::test]
async fn a_key_of_another_kind_under_the_named_id_does_not_verify() {
    let provider = Provider::start().await;
    for other in [
        TestKey::rsa().jwk("k1"),
        TestKey::ed().jwk("k1"),
        json!({"kty": "oct", "kid": "k1", "k": "c2VjcmV0"}),
        json!({"kty": "EC", "crv": "P-256", "kid": "k1", "x": "AA", "y": "AA"}),
    ] {
        let provider =
            Provider::with(TestKey::ec(), provider.clock.clone(), provider.registry.clone()).await;
        provider.answer("/jwks", ok(&json!({"keys": [other]})));
        assert_refused!(provider.exchange().await, Untrusted);
    }
}

#[tokio::test]
async fn keys_that_cannot_be_had_are_no_proof_of_anything() {
    for answer in [
        ResponseTemplate::new(500),
        ResponseTemplate::new(200).set_body_string("<html>"),
        ResponseTemplate::new(200).set_body_string("x".repeat(100_000)),
        ok(&json!({"keys": {}})),
        ok(&json!({"keys": vec![json!({}); 300]})),
    ] {
        let provider = Provider::start().await;
        provider.answer("/jwks", answer);
        assert_refused!(provider.exchange().await, Unavailable);
    }
}
