use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::StatusCode;
use serde_json::{Value, json};
use symbolon_sandbox::{
    Account, Client, Endpoint, InvalidSettings, Outcome, Sandbox, SandboxSettings,
    SigningAlgorithm, StartError, fingerprint,
};

use crate::relying_party::{
    NONCE, REDIRECT_URI, STATE, assert_refused, location, parameters, settings, soon, start,
    start_with, tokens,
};

#[tokio::test]
async fn a_user_signs_in_and_the_tokens_hold() {
    let rp = start().await;
    let url = rp.authorization_url(&[]);
    let page = rp.get(&url).await;
    assert_eq!(page.status(), StatusCode::OK);

    let answer = rp.decide(&url, "account", "grace").await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    let back = location(&answer);
    assert!(back.starts_with(&format!("{REDIRECT_URI}&")), "{back}");
    let got = parameters(&back);
    assert_eq!((got["state"].as_str(), got["iss"].as_str()), (STATE, rp.sandbox.issuer()));

    let response = rp.try_exchange(&got["code"]).await.unwrap();
    assert_eq!(response.headers()["cache-control"], "no-store");
    let tokens = tokens(response).await;
    assert_eq!(tokens.0["token_type"], "Bearer");
    assert_eq!(tokens.0["expires_in"], 3600);
    assert_eq!(tokens.0["scope"], "openid profile email");
    let claims = rp.verify(tokens.text("id_token")).await.unwrap();
    assert_eq!(claims["sub"], "grace");
    assert_eq!(claims["nonce"], NONCE);
    assert_eq!(claims["auth_time"], claims["iat"]);

    let userinfo: Value = rp.userinfo(tokens.text("access_token")).await.json().await.unwrap();
    assert_eq!(
        userinfo,
        json!({
            "sub": "grace",
            "name": "Grace Hopper",
            "preferred_username": "grace",
            "picture": rp.url("/avatars/1"),
            "email": "grace@compiler.example",
            "email_verified": true,
        }),
    );
    let picture = rp.get(userinfo["picture"].as_str().unwrap()).await;
    assert_eq!(picture.headers()["content-type"], "image/svg+xml");
    assert!(picture.text().await.unwrap().contains("GH"));
}

#[tokio::test]
async fn the_metadata_name_the_issuer_and_endpoints_that_are_there() {
    let rp = start().await;
    let url = rp.url("/.well-known/openid-configuration");
    let metadata: Value = rp.get(&url).await.json().await.unwrap();
    assert_eq!(metadata["issuer"], rp.sandbox.issuer());
    assert_eq!(metadata["code_challenge_methods_supported"], json!(["S256"]));
    assert_eq!(metadata["authorization_response_iss_parameter_supported"], true);
    for name in [
        "authorization_endpoint",
        "token_endpoint",
        "userinfo_endpoint",
        "jwks_uri",
        "revocation_endpoint",
        "introspection_endpoint",
    ] {
        let status = rp.get(metadata[name].as_str().unwrap()).await.status();
        assert_ne!(status, StatusCode::NOT_FOUND, "{name}");
    }
}

#[tokio::test]
async fn at_hash_is_the_left_half_of_the_access_tokens_hash() {
    let rp = start().await;
    let tokens = rp.exchange().await;
    let claims = rp.verify(tokens.text("id_token")).await.unwrap();
    let at_hash = URL_SAFE_NO_PAD.decode(claims["at_hash"].as_str().unwrap()).unwrap();
    let hash = digest(&SHA256, tokens.text("access_token").as_bytes());
    assert_eq!(at_hash, hash.as_ref()[..16]);
}

#[tokio::test]
async fn rs256_is_signed_when_asked_for_and_keys_rotate() {
    let rp =
        start_with(SandboxSettings { signing_algorithm: SigningAlgorithm::Rs256, ..settings() })
            .await;
    let first = rp.exchange().await;
    let header = jsonwebtoken::decode_header(first.text("id_token")).unwrap();
    assert_eq!(header.alg, jsonwebtoken::Algorithm::RS256);
    rp.verify(first.text("id_token")).await.unwrap();

    rp.sandbox.rotate_keys(SigningAlgorithm::Es256);
    let second = rp.exchange().await;
    rp.verify(first.text("id_token")).await.unwrap();
    rp.verify(second.text("id_token")).await.unwrap();

    rp.sandbox.replace_keys(SigningAlgorithm::Es256);
    assert!(rp.verify(first.text("id_token")).await.is_err());
    assert!(rp.verify(second.text("id_token")).await.is_err());
    rp.verify(rp.exchange().await.text("id_token")).await.unwrap();
}

#[tokio::test]
async fn a_code_is_good_once_and_its_reuse_revokes_what_it_gave() {
    let rp = start().await;
    let code = rp.code();
    let tokens = tokens(rp.try_exchange(&code).await.unwrap()).await;
    assert_refused(rp.try_exchange(&code).await.unwrap(), 400, "invalid_grant").await;
    assert!(rp.sandbox.is_revoked(tokens.text("access_token")));
    assert_eq!(rp.userinfo(tokens.text("access_token")).await.status(), StatusCode::UNAUTHORIZED);
    let refused = rp.try_refresh(tokens.text("refresh_token")).await.unwrap();
    assert_refused(refused, 400, "invalid_grant").await;
    assert_eq!(rp.sandbox.revoked_families(), 1);
}

#[tokio::test]
async fn a_code_expires_after_a_minute() {
    let rp = start().await;
    let code = rp.code();
    rp.sandbox.advance_clock(Duration::from_secs(61));
    assert_refused(rp.try_exchange(&code).await.unwrap(), 400, "invalid_grant").await;
}

#[tokio::test]
async fn an_access_token_expires_in_time_and_on_command() {
    let rp = start_with(SandboxSettings {
        access_token_lifetime: Duration::from_secs(20),
        ..settings()
    })
    .await;
    let first = rp.exchange().await;
    assert_eq!(first.0["expires_in"], 20);
    rp.sandbox.advance_clock(Duration::from_secs(20));
    let refused = rp.userinfo(first.text("access_token")).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let challenge = refused.headers()["www-authenticate"].to_str().unwrap().to_owned();
    assert!(challenge.contains("error=\"invalid_token\""), "{challenge}");

    let second = rp.exchange().await;
    assert_eq!(rp.userinfo(second.text("access_token")).await.status(), StatusCode::OK);
    rp.sandbox.expire_access_tokens();
    let status = rp.userinfo(second.text("access_token")).await.status();
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(!rp.sandbox.is_revoked(second.text("access_token")));
}

#[tokio::test]
async fn who_shows_no_access_token_is_told_of_no_error() {
    let rp = start().await;
    let refused = rp.get(&rp.url("/userinfo")).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(refused.headers()["www-authenticate"], "Bearer realm=\"sandbox\"");
}

#[tokio::test]
async fn revoking_either_token_ends_everything_of_the_consent() {
    let rp = start().await;
    for name in ["access_token", "refresh_token"] {
        let (tokens, others) = (rp.exchange().await, rp.exchange().await);
        assert_eq!(rp.revoke(tokens.text(name)).await.status(), StatusCode::OK);
        let status = rp.userinfo(tokens.text("access_token")).await.status();
        assert_eq!(status, StatusCode::UNAUTHORIZED);
        let refused = rp.try_refresh(tokens.text("refresh_token")).await.unwrap();
        assert_refused(refused, 400, "invalid_grant").await;
        assert!(rp.sandbox.is_revoked(tokens.text("refresh_token")));
        assert_eq!(rp.userinfo(others.text("access_token")).await.status(), StatusCode::OK);
    }
    assert_eq!(rp.revoke("never heard of").await.status(), StatusCode::OK);
    assert_eq!(rp.sandbox.revoked_families(), 2);
    assert_eq!(rp.sandbox.refresh_reuses(), 0);
}

#[tokio::test]
async fn a_client_reaches_no_other_clients_tokens() {
    let rp = start().await;
    let other = Client { client_secret: None, ..Client::new("public") };
    rp.sandbox.add_client(other).unwrap();
    let tokens = rp.exchange().await;
    for (path, error) in [("/revoke", "invalid_grant"), ("/token", "invalid_grant")] {
        let form = [
            ("client_id", "public"),
            ("token", tokens.text("refresh_token")),
            ("grant_type", "refresh_token"),
            ("refresh_token", tokens.text("refresh_token")),
        ];
        let response = rp.http.post(rp.url(path)).form(&form).send().await.unwrap();
        assert_refused(response, 400, error).await;
    }
    assert!(!rp.sandbox.is_revoked(tokens.text("refresh_token")));
    rp.refresh(tokens.text("refresh_token")).await;
}

#[tokio::test]
async fn a_client_proves_itself_in_the_header_or_in_the_body_and_not_in_both() {
    let rp = start().await;
    let secret = rp.sandbox.client_secret();
    let tokens = rp.exchange().await;
    let form = |secret: &str| {
        [
            ("grant_type", "refresh_token".to_owned()),
            ("refresh_token", tokens.text("refresh_token").to_owned()),
            ("client_id", "shop".to_owned()),
            ("client_secret", secret.to_owned()),
        ]
    };
    let post = |form: &[(&str, String)]| rp.http.post(rp.url("/token")).form(form);

    assert_refused(post(&form("wrong")).send().await.unwrap(), 401, "invalid_client").await;
    assert_refused(post(&form(&secret)[..3]).send().await.unwrap(), 401, "invalid_client").await;
    let wrong = post(&form(&secret)[..2]).basic_auth("shop", Some("wrong")).send().await.unwrap();
    assert!(wrong.headers().contains_key("www-authenticate"));
    assert_refused(wrong, 401, "invalid_client").await;
    let both = post(&form(&secret)).basic_auth("shop", Some(&secret)).send().await.unwrap();
    assert_refused(both, 400, "invalid_request").await;

    assert_eq!(post(&form(&secret)).send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn introspection_tells_a_client_of_its_own_live_tokens() {
    let rp = start().await;
    let tokens = rp.exchange().await;
    let introspect = async |token: &str| -> Value {
        let request = rp.http.post(rp.url("/introspect")).form(&[("token", token)]);
        let request = request.basic_auth("shop", Some(rp.sandbox.client_secret()));
        request.send().await.unwrap().json().await.unwrap()
    };
    let access = introspect(tokens.text("access_token")).await;
    assert_eq!((&access["active"], &access["sub"]), (&json!(true), &json!("ada")));
    assert_eq!(introspect(tokens.text("refresh_token")).await["active"], true);
    rp.sandbox.revoke_grants_of("ada");
    for name in ["access_token", "refresh_token"] {
        assert_eq!(introspect(tokens.text(name)).await, json!({"active": false}));
    }
}

#[tokio::test]
async fn an_accounts_own_claims_are_in_the_id_token_and_at_userinfo() {
    let mut ada = Account::new("ada", "Ada", "ada@analytical.example");
    ada.claims.insert("groups".to_owned(), json!(["engines"]));
    ada.claims.insert("iss".to_owned(), json!("https://elsewhere.example"));
    let rp = start_with(SandboxSettings { accounts: vec![ada], ..settings() }).await;
    let tokens = rp.exchange().await;
    let claims = rp.verify(tokens.text("id_token")).await.unwrap();
    assert_eq!(claims["groups"], json!(["engines"]));
    let userinfo: Value = rp.userinfo(tokens.text("access_token")).await.json().await.unwrap();
    assert_eq!(userinfo["groups"], json!(["engines"]));
}

#[tokio::test]
async fn records_name_tokens_by_fingerprint_and_hold_no_secret() {
    let rp = start().await;
    let code = rp.code();
    let tokens = tokens(rp.try_exchange(&code).await.unwrap()).await;
    rp.userinfo(tokens.text("access_token")).await;
    let records = rp.sandbox.records();
    let trail: Vec<_> = records.iter().map(|it| (it.endpoint, it.method.as_str())).collect();
    assert_eq!(
        trail,
        [(Endpoint::Decision, "POST"), (Endpoint::Exchange, "POST"), (Endpoint::Userinfo, "GET")],
    );
    assert_eq!(records[0].issued["code"], fingerprint(&code));
    assert_eq!(records[1].presented["code"], fingerprint(&code));
    assert_eq!(records[1].client_id.as_deref(), Some("shop"));
    assert!(records[1].committed);
    let access = fingerprint(tokens.text("access_token"));
    assert_eq!(
        (&records[1].issued["access_token"], &records[2].presented["access_token"]),
        (&access, &access)
    );
    assert_eq!(records[2].outcome, Outcome::Answered { status: 200, error: None });

    let json = rp.get(&rp.url("/sandbox/records")).await.text().await.unwrap();
    assert!(json.contains(&access));
    let secret = rp.sandbox.client_secret();
    for text in [&code, tokens.text("access_token"), tokens.text("refresh_token"), &secret] {
        assert!(!json.contains(text) && !format!("{records:?}").contains(text));
    }
}

#[tokio::test]
async fn only_loopback_is_listened_on_and_the_port_is_free_after_a_stop() {
    let refused =
        Sandbox::start(SandboxSettings { listen: "0.0.0.0:0".parse().unwrap(), ..settings() })
            .await;
    assert!(
        matches!(refused, Err(StartError::Invalid(InvalidSettings::NotLoopback(_)))),
        "{refused:?}"
    );

    let first = Sandbox::start(settings()).await.unwrap();
    let listen = first.address();
    assert!(listen.ip().is_loopback());
    let taken = Sandbox::start(SandboxSettings { listen, ..settings() }).await;
    assert!(matches!(taken, Err(StartError::Listen { .. })), "{taken:?}");
    soon(first.stop()).await;
    let second = Sandbox::start(SandboxSettings { listen, ..settings() }).await.unwrap();
    assert_eq!(second.address(), listen);
}

#[tokio::test]
async fn another_name_for_this_machine_is_refused() {
    let rp = start().await;
    let get = |host: &str| rp.http.get(rp.url("/jwks")).header("host", host);
    let refused = get("sandbox.attacker.example").send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(get("localhost:1234").send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn settings_that_cannot_be_used_are_refused() {
    let twice = vec![Client::new("shop"), Client::new("shop")];
    for (settings, expected) in [
        (SandboxSettings { clients: vec![], ..settings() }, InvalidSettings::NoClient),
        (SandboxSettings { accounts: vec![], ..settings() }, InvalidSettings::NoAccount),
        (
            SandboxSettings { clients: twice, ..settings() },
            InvalidSettings::Duplicate("shop".to_owned()),
        ),
    ] {
        let refused = Sandbox::start(settings).await;
        assert!(matches!(&refused, Err(StartError::Invalid(it)) if *it == expected), "{refused:?}");
    }
}
