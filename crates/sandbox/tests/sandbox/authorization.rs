use reqwest::StatusCode;
use symbolon_sandbox::{Endpoint, Fault, InvalidSettings, NotApproved, Times};

use crate::relying_party::{
    REDIRECT_URI, STATE, assert_refused, location, parameters, start, tokens,
};

#[tokio::test]
async fn a_redirect_uri_must_be_the_registered_one_character_by_character() {
    let rp = start().await;
    for near in [
        "http://127.0.0.1:9/callback",
        "http://127.0.0.1:9/callback?kept=1&",
        "http://127.0.0.1:9/callback/?kept=1",
        "http://127.0.0.1:9/CALLBACK?kept=1",
        "http://127.0.0.1:09/callback?kept=1",
        "http://localhost:9/callback?kept=1",
        "http://127.0.0.1:9/callback?kept=1#",
        "",
    ] {
        let url = rp.authorization_url(&[("redirect_uri", near)]);
        for response in [rp.get(&url).await, rp.decide(&url, "account", "ada").await] {
            assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{near}");
            assert!(!response.headers().contains_key("location"), "{near}");
        }
    }
    rp.sandbox.add_redirect_uri("shop", "http://localhost:9/callback?kept=1").unwrap();
    let url = rp.authorization_url(&[("redirect_uri", "http://localhost:9/callback?kept=1")]);
    assert_eq!(rp.get(&url).await.status(), StatusCode::OK);
    let refused = rp.sandbox.add_redirect_uri("nobody", REDIRECT_URI);
    assert_eq!(refused, Err(InvalidSettings::UnknownClient("nobody".to_owned())));
}

#[tokio::test]
async fn an_unknown_client_gets_a_page_and_no_redirect() {
    let rp = start().await;
    let response = rp.get(&rp.authorization_url(&[("client_id", "nobody")])).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    assert!(!response.headers().contains_key("location"));
}

#[tokio::test]
async fn a_request_with_a_mistake_goes_back_with_an_error() {
    let rp = start().await;
    for (changes, error) in [
        (&[("response_type", "token")][..], "unsupported_response_type"),
        (&[("response_type", "")], "invalid_request"),
        (&[("response_mode", "fragment")], "invalid_request"),
        (&[("scope", "profile")], "invalid_scope"),
        (&[("scope", "")], "invalid_scope"),
        (&[("code_challenge", "")], "invalid_request"),
        (&[("code_challenge", "short")], "invalid_request"),
        (&[("code_challenge_method", "plain")], "invalid_request"),
        (&[("code_challenge_method", "")], "invalid_request"),
        (&[("request", "x.y.z")], "request_not_supported"),
        (&[("request_uri", "https://shop.example/r")], "request_uri_not_supported"),
        (&[("prompt", "none")], "login_required"),
    ] {
        let response = rp.get(&rp.authorization_url(changes)).await;
        assert_eq!(response.status(), StatusCode::FOUND, "{changes:?}");
        let got = parameters(&location(&response));
        assert_eq!(got["error"], error, "{changes:?}");
        assert_eq!((got["state"].as_str(), got["iss"].as_str()), (STATE, rp.sandbox.issuer()));
    }
}

#[tokio::test]
async fn a_parameter_that_is_there_twice_is_refused() {
    let rp = start().await;
    let url = format!("{}&nonce=another", rp.authorization_url(&[]));
    assert_eq!(parameters(&location(&rp.get(&url).await))["error"], "invalid_request");
    let url = format!("{}&client_id=another", rp.authorization_url(&[]));
    assert_eq!(rp.get(&url).await.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn cancelling_goes_back_with_access_denied() {
    let rp = start().await;
    let url = rp.authorization_url(&[]);
    let response = rp.decide(&url, "cancel", "1").await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    let got = parameters(&location(&response));
    assert_eq!((got["error"].as_str(), got["state"].as_str()), ("access_denied", STATE));
    assert_eq!(parameters(&rp.sandbox.deny(&url).unwrap())["error"], "access_denied");
}

#[tokio::test]
async fn another_sites_page_cannot_answer_for_the_user() {
    let rp = start().await;
    let url = rp.authorization_url(&[]);
    let post =
        |site: &str| rp.http.post(&url).form(&[("account", "ada")]).header("sec-fetch-site", site);
    for site in ["cross-site", "same-site"] {
        assert_eq!(post(site).send().await.unwrap().status(), StatusCode::FORBIDDEN);
    }
    assert_eq!(post("same-origin").send().await.unwrap().status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn an_authorization_request_may_be_posted() {
    let rp = start().await;
    let form = parameters(&rp.authorization_url(&[]));
    let response = rp.http.post(rp.url("/authorize")).form(&form).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.text().await.unwrap().contains("Choose an account"));
}

#[tokio::test]
async fn an_exchange_must_match_the_request_that_the_code_is_of() {
    let rp = start().await;
    let code = rp.code();
    let verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    let wrong = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    for (redirect_uri, verifier, error) in [
        (REDIRECT_URI, wrong, "invalid_grant"),
        (REDIRECT_URI, "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM", "invalid_grant"),
        (REDIRECT_URI, "short", "invalid_request"),
        (REDIRECT_URI, "", "invalid_request"),
        ("http://127.0.0.1:9/callback", verifier, "invalid_grant"),
        ("", verifier, "invalid_request"),
    ] {
        let form = [
            ("grant_type", "authorization_code"),
            ("code", &code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
        ];
        assert_refused(rp.try_token(&form).await.unwrap(), 400, error).await;
    }
    tokens(rp.try_exchange(&code).await.unwrap()).await;
}

#[tokio::test]
async fn an_unknown_grant_type_is_refused() {
    let rp = start().await;
    let refused = rp.try_token(&[("grant_type", "password")]).await.unwrap();
    assert_refused(refused, 400, "unsupported_grant_type").await;
    assert_refused(rp.try_token(&[("code", "x")]).await.unwrap(), 400, "invalid_request").await;
}

#[tokio::test]
async fn the_authorization_response_lacks_or_forges_iss_on_request() {
    let rp = start().await;
    let url = rp.authorization_url(&[]);
    let faults = rp.sandbox.faults();
    faults.inject(Endpoint::Authorize, Fault::IssMissing, Times::Next(1)).unwrap();
    faults.inject(Endpoint::Authorize, Fault::IssWrong, Times::Next(1)).unwrap();
    let state = Fault::Parameter { name: "state".to_owned(), value: Some("forged".to_owned()) };
    faults.inject(Endpoint::Decision, state, Times::Next(1)).unwrap();

    // The page in between uses none of them up.
    rp.get(&url).await;
    let missing = parameters(&location(&rp.decide(&url, "account", "ada").await));
    assert!(!missing.contains_key("iss") && missing.contains_key("code"));
    let wrong = parameters(&rp.sandbox.approve(&url, "ada").unwrap());
    assert_ne!(wrong["iss"], rp.sandbox.issuer());
    assert_eq!(parameters(&rp.sandbox.approve(&url, "ada").unwrap())["state"], "forged");
    assert_eq!(parameters(&rp.sandbox.approve(&url, "ada").unwrap())["state"], STATE);
}

#[tokio::test]
async fn what_is_no_authorization_request_is_not_approved() {
    let rp = start().await;
    let elsewhere = "https://another.example/authorize?client_id=shop";
    assert_eq!(rp.sandbox.approve(elsewhere, "ada"), Err(NotApproved::Elsewhere));
    let stopped = rp.sandbox.approve(&rp.authorization_url(&[]), "nobody");
    assert_eq!(stopped, Err(NotApproved::Stopped { status: 400 }));
}
