//! Which tokens of which issuers say who a user is.

use std::sync::Arc;

use serde_json::{Value, json};
use symbolon_domain::{
    ports::{ConnectorError, ProvenSubject, SubjectTokens as _},
    secret::Secret,
};
use symbolon_oauth2::{SigningAlg, TrustedIssuer, TrustedIssuers};
use wiremock::ResponseTemplate;

use crate::{
    provider::{DISCOVERY, NOW, Provider, loopback, ok},
    test_key::TestKey,
};

const AUDIENCE: &str = "https://symbolon.example";

fn trusted(provider: &Provider) -> TrustedIssuer {
    TrustedIssuer {
        issuer: provider.issuer.clone(),
        audience: AUDIENCE.to_owned(),
        jwks_uri: None,
        algorithms: vec![SigningAlg::Es256],
        user_claim: "sub".to_owned(),
        provider_types: None,
    }
}

fn issuers(provider: &Provider, issuer: TrustedIssuer) -> TrustedIssuers {
    let clock = Arc::new(provider.clock.clone());
    TrustedIssuers::new(loopback(), clock, vec![issuer]).unwrap()
}

fn claims(provider: &Provider) -> Value {
    json!({
        "iss": provider.issuer, "aud": AUDIENCE, "sub": "user-42", "iat": NOW, "exp": NOW + 300,
    })
}

fn with(claims: &Value, more: &Value) -> Value {
    let mut claims = claims.clone();
    for (name, value) in more.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn signed(provider: &Provider, claims: &Value) -> Secret {
    Secret::new(provider.key.sign(&json!({"alg": "ES256", "kid": "k1"}), claims))
}

async fn refused(issuers: &TrustedIssuers, token: &Secret) -> String {
    match issuers.prove(token).await {
        Err(ConnectorError::Untrusted { detail }) => detail,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_token_of_a_trusted_issuer_proves_its_user() {
    let provider = Provider::start().await;
    let types = Some(vec!["github".to_owned()]);
    let issuer = TrustedIssuer { provider_types: types.clone(), ..trusted(&provider) };
    let issuers = issuers(&provider, issuer);
    let user_id = symbolon_domain::ids::UserId::new("user-42").unwrap();
    let expected =
        ProvenSubject { issuer: provider.issuer.clone(), user_id, provider_types: types };
    for more in [
        json!({}),
        json!({"aud": ["https://other.example", AUDIENCE], "azp": "a client of the product's"}),
        json!({"iat": null}),
    ] {
        let token = signed(&provider, &with(&claims(&provider), &more));
        assert_eq!(issuers.prove(&token).await.unwrap(), expected, "{more}");
    }
    // An access token (RFC 9068).
    let header = json!({"alg": "ES256", "kid": "k1", "typ": "at+jwt"});
    let token = Secret::new(provider.key.sign(&header, &claims(&provider)));
    assert_eq!(issuers.prove(&token).await.unwrap(), expected);
    assert_eq!(provider.requests("/jwks").await.len(), 1);
}

#[tokio::test]
async fn the_user_is_in_the_claim_that_is_configured() {
    let provider = Provider::start().await;
    let issuer = TrustedIssuer { user_claim: "uid".to_owned(), ..trusted(&provider) };
    let issuers = issuers(&provider, issuer);
    for (uid, user) in [(json!("u"), "u"), (json!(42), "42")] {
        let token = signed(&provider, &with(&claims(&provider), &json!({"uid": uid})));
        assert_eq!(issuers.prove(&token).await.unwrap().user_id.as_str(), user);
    }
    for uid in [json!(null), json!(""), json!(["u"]), json!(1.5), json!("a\nb"), json!(true)] {
        let token = signed(&provider, &with(&claims(&provider), &json!({"uid": uid})));
        assert!(refused(&issuers, &token).await.contains("names the user"), "{uid}");
    }
}

#[tokio::test]
async fn what_does_not_prove_a_user_to_us_is_refused() {
    let provider = Provider::start().await;
    let issuers = issuers(&provider, trusted(&provider));
    let good = claims(&provider);
    for (more, why) in [
        (json!({"iss": "https://elsewhere.example"}), "not trusted"),
        (json!({"iss": format!("{}/", provider.issuer)}), "not trusted"),
        (json!({"iss": null}), "not trusted"),
        (json!({"aud": "https://other.example"}), "aud"),
        (json!({"aud": null}), "aud"),
        (json!({"aud": []}), "aud"),
        (json!({"exp": null}), "exp"),
        (json!({"exp": NOW - 61}), "expired"),
        (json!({"exp": "tomorrow"}), "time"),
        (json!({"nbf": NOW + 61}), "not valid yet"),
        (json!({"iat": NOW + 61}), "future"),
        (json!({"sub": null}), "names the user"),
    ] {
        let told = refused(&issuers, &signed(&provider, &with(&good, &more))).await;
        assert!(told.contains(why), "{more}: {told}");
        assert!(!told.contains("elsewhere"), "{told}");
    }
    for text in ["", "a.b.c", "sym_no-jwt"] {
        refused(&issuers, &Secret::new(text)).await;
    }
    let alg = |alg: &str| json!({"alg": alg, "kid": "k1"});
    for header in [alg("none"), alg("HS256"), alg("RS256"), alg("EdDSA")] {
        refused(&issuers, &Secret::new(provider.key.sign(&header, &good))).await;
    }
    let logout = json!({"alg": "ES256", "kid": "k1", "typ": "logout+jwt"});
    refused(&issuers, &Secret::new(provider.key.sign(&logout, &good))).await;
    // Signed by somebody else.
    let stranger = TestKey::ec();
    let header = json!({"alg": "ES256", "kid": "k1"});
    assert!(
        refused(&issuers, &Secret::new(stranger.sign(&header, &good))).await.contains("signature")
    );
}

#[tokio::test]
async fn one_issuers_key_does_not_sign_for_another() {
    let (one, other) = (Provider::start().await, Provider::start().await);
    let clock = Arc::new(one.clock.clone());
    let both = vec![trusted(&one), trusted(&other)];
    let issuers = TrustedIssuers::new(loopback(), clock, both).unwrap();
    let token = signed(&other, &claims(&one));
    assert!(refused(&issuers, &token).await.contains("signature"));
    issuers.prove(&signed(&other, &claims(&other))).await.unwrap();
}

#[tokio::test]
async fn keys_are_fetched_again_after_a_rotation_and_from_where_the_operator_says() {
    let provider = Provider::start().await;
    provider.answer(DISCOVERY, ResponseTemplate::new(500));
    let jwks_uri = Some(format!("{}/jwks", provider.issuer).parse().unwrap());
    let issuers = issuers(&provider, TrustedIssuer { jwks_uri, ..trusted(&provider) });
    issuers.prove(&signed(&provider, &claims(&provider))).await.unwrap();
    let new = TestKey::ec();
    provider.answer("/jwks", ok(&json!({"keys": [new.jwk("k2")]})));
    let token = new.sign(&json!({"alg": "ES256", "kid": "k2"}), &claims(&provider));
    issuers.prove(&Secret::new(token)).await.unwrap();
    assert_eq!(provider.requests("/jwks").await.len(), 2);
    // A flood of invented key ids asks for them no more often.
    for kid in ["x", "y", "z"] {
        let token = new.sign(&json!({"alg": "ES256", "kid": kid}), &claims(&provider));
        refused(&issuers, &Secret::new(token)).await;
    }
    assert_eq!(provider.requests("/jwks").await.len(), 2);
}

#[tokio::test]
async fn an_issuer_whose_keys_are_not_to_be_had_is_nobodys_fault() {
    let provider = Provider::start().await;
    provider.answer("/jwks", ResponseTemplate::new(503));
    let issuers = issuers(&provider, trusted(&provider));
    let told = issuers.prove(&signed(&provider, &claims(&provider))).await;
    assert!(matches!(told, Err(ConnectorError::Unavailable { .. })), "{told:?}");
}
