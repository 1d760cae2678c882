//! Logout tokens: what is believed, and every one that must be refused.

use aws_lc_rs::hmac;
use chrono::DateTime;
use serde_json::{Value, json};
use symbolon_domain::{
    identity_provider::ProviderSecrets,
    ports::{ConnectorError, Connectors as _, Logout},
    secret::Secret,
};
use wiremock::ResponseTemplate;

use crate::{
    provider::{NOW, Provider, changed, instance, object, of_the_catalog},
    test_key::{TestKey, base64url},
};

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";

fn claims(provider: &Provider) -> Value {
    json!({
        "iss": provider.issuer, "aud": "client", "sub": "alice", "sid": "session-1",
        "jti": "token-1", "iat": NOW, "exp": NOW + 120, "events": { EVENT: {} },
    })
}

fn header() -> Value {
    json!({"alg": "ES256", "kid": "k1", "typ": "logout+jwt"})
}

async fn verify(provider: &Provider, token: &str) -> Result<Logout, ConnectorError> {
    provider.connector().verify_logout(&Secret::new(token)).await
}

/// The token is refused for what it is, not for what happened meanwhile.
async fn refused(provider: &Provider, token: &str) -> bool {
    match verify(provider, token).await {
        Ok(_) => false,
        Err(ConnectorError::Untrusted { .. }) => true,
        Err(error) => panic!("{error}"),
    }
}

async fn refused_with(provider: &Provider, changes: &Value) -> bool {
    let claims = changed(claims(provider), changes);
    refused(provider, &provider.key.sign(&header(), &claims)).await
}

#[tokio::test]
async fn a_logout_token_tells_whose_session_ended_however_it_is_typed() {
    let provider = Provider::start().await;
    let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
    for typ in ["logout+jwt", "Logout+JWT", "application/logout+jwt", "JWT"] {
        let token = provider.key.sign(&changed(header(), &json!({"typ": typ})), &claims(&provider));
        let logout = verify(&provider, &token).await.unwrap();
        assert_eq!(logout.external_id.unwrap().as_str(), "alice");
        assert_eq!(logout.session_id.as_deref(), Some("session-1"));
        assert_eq!(logout.token_id, "token-1");
        assert_eq!(logout.refused_from, at(NOW + 120 + 60), "{typ}");
    }
    let untyped = provider.key.sign(&json!({"alg": "ES256", "kid": "k1"}), &claims(&provider));
    assert!(verify(&provider, &untyped).await.is_ok());
    let alone = changed(claims(&provider), &json!({"sub": null}));
    let logout = verify(&provider, &provider.key.sign(&header(), &alone)).await.unwrap();
    assert_eq!((logout.external_id, logout.session_id.as_deref()), (None, Some("session-1")));
    let alone = changed(claims(&provider), &json!({"sid": null}));
    let logout = verify(&provider, &provider.key.sign(&header(), &alone)).await.unwrap();
    assert_eq!((logout.external_id.unwrap().as_str(), logout.session_id), ("alice", None));
}

#[tokio::test]
async fn a_token_for_somebody_else_of_somebody_else_or_for_something_else_is_refused() {
    let provider = Provider::start().await;
    for changes in [
        json!({"iss": "https://attacker.example"}),
        json!({"aud": "another"}),
        json!({"aud": ["another"]}),
        json!({"aud": null}),
        json!({"exp": NOW - 61}),
        json!({"exp": null}),
        json!({"iat": null}),
        json!({"iat": NOW + 3600}),
        json!({"jti": null}),
        json!({"events": null}),
        json!({"events": {}}),
        json!({"events": {"http://schemas.openid.net/event/another": {}}}),
        json!({"nonce": "n"}),
        json!({"sub": null, "sid": null}),
        json!({"sub": ["alice"]}),
    ] {
        assert!(refused_with(&provider, &changes).await, "{changes}");
    }
    // An ID token is none, be it that it is good as such; nor is a token of another type.
    assert!(refused(&provider, &provider.id_token(&provider.claims())).await);
    let other = changed(header(), &json!({"typ": "at+jwt"}));
    assert!(refused(&provider, &provider.key.sign(&other, &claims(&provider))).await);
    // And a logout token is no ID token, whatever else it says.
    let both = changed(provider.claims(), &json!({"events": { EVENT: {} }}));
    provider.answer_id_token(&provider.key.sign(&header(), &both));
    let exchanged = provider.exchange().await;
    assert!(matches!(exchanged, Err(ConnectorError::Untrusted { .. })), "{exchanged:?}");
}

#[tokio::test]
async fn a_token_that_the_provider_did_not_sign_is_refused() {
    let provider = Provider::start().await;
    let good = claims(&provider);
    let (attacker, header) = (TestKey::ec(), header());
    assert!(refused(&provider, &attacker.sign(&header, &good)).await);
    assert!(refused(&provider, &TestKey::rsa().sign(&json!({"alg": "RS256"}), &good)).await);
    let token = provider.key.sign(&header, &good);
    let (message, signature) = token.rsplit_once('.').unwrap();
    let other = provider.key.sign(&header, &changed(good.clone(), &json!({"sub": "bob"})));
    let moved = format!("{message}.{}", other.rsplit_once('.').unwrap().1);
    assert!(refused(&provider, &moved).await);
    for alg in ["none", "None", "NONE", ""] {
        let header = base64url(changed(header.clone(), &json!({"alg": alg})).to_string());
        let claims = base64url(good.to_string());
        for signature in ["", signature] {
            assert!(refused(&provider, &format!("{header}.{claims}.{signature}")).await, "{alg}");
        }
    }
    let message = format!(
        "{}.{}",
        base64url(changed(header.clone(), &json!({"alg": "HS256"})).to_string()),
        base64url(good.to_string()),
    );
    for secret in ["secret", "client", ""] {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let signature = base64url(hmac::sign(&key, message.as_bytes()));
        assert!(refused(&provider, &format!("{message}.{signature}")).await);
    }
    for extra in [json!({"jwk": attacker.jwk("k1")}), json!({"crit": ["x"], "x": 1})] {
        let header = changed(header.clone(), &extra);
        assert!(refused(&provider, &provider.key.sign(&header, &good)).await, "{extra}");
    }
}

#[tokio::test]
async fn nobody_is_asked_for_the_sake_of_what_is_no_token() {
    let provider = Provider::start().await;
    for junk in ["", ".", "a.b", "a.b.c", "a.b.c.d.e", &"a".repeat(40_000)] {
        assert!(refused(&provider, junk).await);
    }
    let unsigned = base64url(json!({"alg": "none"}).to_string());
    let claims = base64url(claims(&provider).to_string());
    assert!(refused(&provider, &format!("{unsigned}.{claims}.")).await);
    assert_eq!(provider.server.received_requests().await.unwrap().len(), 0);
}

#[tokio::test]
async fn a_key_that_nobody_knows_is_asked_for_twice_a_minute_at_most() {
    let provider = Provider::start().await;
    for number in 0..20 {
        let kid = format!("invented-{number}");
        let token =
            TestKey::ec().sign(&changed(header(), &json!({"kid": kid})), &claims(&provider));
        assert!(refused(&provider, &token).await);
    }
    assert_eq!(provider.requests("/jwks").await.len(), 2, "the keys, and once more for new ones");
}

#[tokio::test]
async fn without_keys_nothing_is_said_of_a_token() {
    let provider = Provider::start().await;
    provider.answer("/jwks", ResponseTemplate::new(503));
    let token = provider.key.sign(&header(), &claims(&provider));
    let unknown = verify(&provider, &token).await;
    assert!(matches!(unknown, Err(ConnectorError::Unavailable { .. })), "{unknown:?}");
}

#[tokio::test]
async fn a_type_whose_accounts_no_logout_token_names_takes_none() {
    let provider = Provider::start().await;
    let at = |path: &str| format!("{}{path}", provider.issuer);
    let config = json!({
        "authorization_endpoint": at("/authorize"), "token_endpoint": at("/token"),
        "profile_endpoint": at("/me"), "account_id": "/id", "client_id": "client",
    });
    let connector = provider
        .registry
        .connect(&instance("oauth2", object(&config)), &ProviderSecrets::new())
        .unwrap();
    let token = Secret::new(provider.key.sign(&header(), &claims(&provider)));
    let refused = connector.verify_logout(&token).await;
    assert!(matches!(refused, Err(ConnectorError::Untrusted { .. })), "{refused:?}");
    assert_eq!(provider.requests("/jwks").await.len(), 0);
}

const ENTRY: &str = r#"
    [authorization]
    scopes = ["openid"]
    [token]
    authentication = "basic"
    [openid]
    issuer = "{origin}"
    issuers = ["{origin}/{/claims/tid}"]
    [account]
"#;

#[tokio::test]
async fn a_logout_names_the_account_as_the_entry_of_the_catalog_does_or_not_at_all() {
    let provider = Provider::start().await;
    let verify = async |account: &str, changes: Value| {
        let connector = of_the_catalog(&provider, &format!("{ENTRY}{account}"));
        let claims = changed(claims(&provider), &changes);
        let token = Secret::new(provider.key.sign(&header(), &claims));
        match connector.verify_logout(&token).await {
            Ok(logout) => Ok(logout.external_id.map(|it| it.as_str().to_owned())),
            Err(ConnectorError::Untrusted { .. }) => Err(()),
            Err(error) => panic!("{error}"),
        }
    };
    let (sub, own) = ("", r#"id = ["{/claims/tid}:{/claims/oid}", "/claims/sub"]"#);
    let full = json!({"tid": "t", "oid": "o"});
    assert_eq!(verify(sub, json!({})).await, Ok(Some("alice".into())));
    assert_eq!(verify(own, full.clone()).await, Ok(Some("t:o".into())));
    // The second of them would be the id of another account; the session tells which it is.
    for account in [own, r#"id = "/userinfo/sub""#] {
        assert_eq!(verify(account, json!({"sid": null})).await, Err(()));
        assert_eq!(verify(account, json!({"tid": "t", "sid": null})).await, Err(()));
        assert_eq!(verify(account, json!({"tid": "t"})).await, Ok(None));
    }
    assert_eq!(verify(sub, json!({"sub": null})).await, Ok(None));
    // A further name of the issuer is made of the very token.
    let named = |it: &str| json!({"tid": "t", "iss": format!("{}/{it}", provider.issuer)});
    assert_eq!(verify(sub, named("t")).await, Ok(Some("alice".into())));
    assert_eq!(verify(sub, named("u")).await, Err(()));
}
