use jsonwebtoken::{Algorithm, decode_header, errors::ErrorKind};
use reqwest::StatusCode;
use serde_json::{Value, json};
use symbolon_sandbox::{Endpoint, ExpiresIn, Fault, IdTokenFlaw, Times};

use crate::relying_party::{NONCE, RelyingParty, Tokens, start, tokens};

async fn exchanged_with(rp: &RelyingParty, fault: Fault) -> Tokens {
    rp.sandbox.faults().inject(Endpoint::Exchange, fault, Times::Next(1)).unwrap();
    rp.exchange().await
}

/// The claims, unverified.
fn claims(id_token: &str) -> Value {
    jsonwebtoken::dangerous::insecure_decode::<Value>(id_token).unwrap().claims
}

#[tokio::test]
async fn expires_in_is_what_was_asked_for() {
    let rp = start().await;
    for (value, expected) in [
        (ExpiresIn::Text, json!("3600")),
        (ExpiresIn::Words, json!("soon")),
        (ExpiresIn::Zero, json!(0)),
        (ExpiresIn::Negative, json!(-1)),
        (ExpiresIn::Huge, json!(1e308)),
        (ExpiresIn::Missing, Value::Null),
    ] {
        let tokens = exchanged_with(&rp, Fault::ExpiresIn { value }).await;
        assert_eq!(tokens.0["expires_in"], expected, "{value:?}");
        assert_eq!(rp.userinfo(tokens.text("access_token")).await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_refresh_answers_without_a_refresh_token_and_the_old_one_stays_good() {
    let rp = start().await;
    let first = rp.exchange().await;
    let faults = rp.sandbox.faults();
    faults.inject(Endpoint::Refresh, Fault::NoRefreshToken, Times::Next(1)).unwrap();
    let second = rp.refresh(first.text("refresh_token")).await;
    assert!(second.0.get("refresh_token").is_none());
    let third = rp.refresh(first.text("refresh_token")).await;
    third.text("refresh_token");
    assert_eq!(rp.sandbox.refresh_reuses(), 0);
}

#[tokio::test]
async fn an_exchange_gives_no_refresh_token_on_request() {
    let rp = start().await;
    let tokens = exchanged_with(&rp, Fault::NoRefreshToken).await;
    assert!(tokens.0.get("refresh_token").is_none());
    tokens.text("access_token");
}

#[tokio::test]
async fn a_narrower_scope_is_granted_and_said_so() {
    let rp = start().await;
    let first = rp.exchange().await;
    let narrower = Fault::NarrowerScope { scope: "openid offline_access".to_owned() };
    rp.sandbox.faults().inject(Endpoint::Refresh, narrower, Times::Next(1)).unwrap();
    let second = rp.refresh(first.text("refresh_token")).await;
    assert_eq!(second.0["scope"], "openid");
    let userinfo: Value = rp.userinfo(second.text("access_token")).await.json().await.unwrap();
    assert_eq!(userinfo, json!({"sub": "ada"}));

    let none = Fault::NarrowerScope { scope: "email".to_owned() };
    rp.sandbox.faults().inject(Endpoint::Refresh, none, Times::Next(1)).unwrap();
    let third = rp.refresh(second.text("refresh_token")).await;
    assert!(third.0.get("id_token").is_none());
    assert_eq!(rp.userinfo(third.text("access_token")).await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn an_id_token_has_one_claim_wrong() {
    let rp = start().await;
    let good = claims(rp.exchange().await.text("id_token"));
    for (flaw, name) in [
        (IdTokenFlaw::OtherSubject, "sub"),
        (IdTokenFlaw::OtherIssuer, "iss"),
        (IdTokenFlaw::OtherNonce, "nonce"),
        (IdTokenFlaw::OtherAudience, "aud"),
    ] {
        let bad = exchanged_with(&rp, Fault::id_token(flaw.clone())).await;
        let bad = claims(bad.text("id_token"));
        for (claim, value) in good.as_object().unwrap() {
            let varies = ["iat", "exp", "auth_time", "at_hash"].contains(&claim.as_str());
            if claim == name {
                assert_ne!(&bad[claim], value, "{flaw:?}");
            } else if !varies {
                assert_eq!(&bad[claim], value, "{flaw:?}");
            }
        }
    }
    let bad = IdTokenFlaw::Claim { name: "sub".to_owned(), value: Value::Null };
    let bad = claims(exchanged_with(&rp, Fault::id_token(bad)).await.text("id_token"));
    assert!(bad.get("sub").is_none() && bad["nonce"] == NONCE);
}

#[tokio::test]
async fn an_id_token_with_wrong_claims_is_rightly_signed() {
    let rp = start().await;
    for (flaw, why) in [
        (IdTokenFlaw::OtherIssuer, ErrorKind::InvalidIssuer),
        (IdTokenFlaw::OtherAudience, ErrorKind::InvalidAudience),
        (IdTokenFlaw::Expired, ErrorKind::ExpiredSignature),
        (IdTokenFlaw::BadSignature, ErrorKind::InvalidSignature),
    ] {
        let tokens = exchanged_with(&rp, Fault::id_token(flaw.clone())).await;
        let refused = rp.verify(tokens.text("id_token")).await.unwrap_err();
        assert_eq!(refused.kind(), &why, "{flaw:?}");
    }
    for flaw in [IdTokenFlaw::OtherSubject, IdTokenFlaw::OtherNonce, IdTokenFlaw::OtherAccessToken]
    {
        let tokens = exchanged_with(&rp, Fault::id_token(flaw)).await;
        rp.verify(tokens.text("id_token")).await.unwrap();
    }
}

#[tokio::test]
async fn an_id_token_has_a_header_that_must_not_be_trusted() {
    let rp = start().await;
    let none = exchanged_with(&rp, Fault::id_token(IdTokenFlaw::AlgNone)).await;
    let none = none.text("id_token");
    assert!(none.starts_with("eyJhbGciOiJub25lIn0.") && none.ends_with('.'), "{none}");

    let hs256 = exchanged_with(&rp, Fault::id_token(IdTokenFlaw::Hs256)).await;
    assert_eq!(decode_header(hs256.text("id_token")).unwrap().alg, Algorithm::HS256);

    let keys = rp.get(&rp.url("/jwks")).await.text().await.unwrap();
    let unknown = exchanged_with(&rp, Fault::id_token(IdTokenFlaw::UnknownKid)).await;
    let kid = decode_header(unknown.text("id_token")).unwrap().kid.unwrap();
    assert!(!keys.contains(&format!("\"{kid}\"")));

    let without = exchanged_with(&rp, Fault::id_token(IdTokenFlaw::NoKid)).await;
    assert_eq!(decode_header(without.text("id_token")).unwrap().kid, None);

    let missing = exchanged_with(&rp, Fault::id_token(IdTokenFlaw::Missing)).await;
    assert!(missing.0.get("id_token").is_none());
}

#[tokio::test]
async fn a_refresh_names_another_user_on_request() {
    let rp = start().await;
    let first = rp.exchange().await;
    let fault = Fault::id_token(IdTokenFlaw::OtherSubject);
    rp.sandbox.faults().inject(Endpoint::Token, fault, Times::Next(1)).unwrap();
    let response = rp.try_refresh(first.text("refresh_token")).await.unwrap();
    assert_eq!(claims(tokens(response).await.text("id_token"))["sub"], "mallory");
}
