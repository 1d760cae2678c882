use std::time::Duration;

use reqwest::{Response, StatusCode};
use serde_json::Value;
use symbolon_sandbox::{Endpoint, Fault, Outcome, Times};

use crate::relying_party::{RelyingParty, assert_refused, location, soon, start, tokens};

fn inject(rp: &RelyingParty, endpoint: Endpoint, fault: Fault) {
    rp.sandbox.faults().inject(endpoint, fault, Times::Next(1)).unwrap();
}

/// Refreshes once with a fault, and once more with the same token, which tells whether the first
/// one was processed.
async fn refreshed_with(fault: Fault) -> (RelyingParty, Result<Response, reqwest::Error>, bool) {
    let rp = start().await;
    let first = rp.exchange().await;
    inject(&rp, Endpoint::Refresh, fault);
    let faulty = rp.try_refresh(first.text("refresh_token")).await;
    let processed = rp.sandbox.refreshes() == 1;
    let again = rp.try_refresh(first.text("refresh_token")).await.unwrap();
    assert_eq!(again.status() == StatusCode::BAD_REQUEST, processed);
    assert_eq!(rp.sandbox.faults().active(), []);
    (rp, faulty, processed)
}

#[tokio::test]
async fn a_status_is_answered_instead_of_processing() {
    let fault = Fault::Status { status: 503, body: "away".to_owned(), after_processing: false };
    let (_rp, answer, processed) = refreshed_with(fault).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status().as_u16(), processed), (503, false));
    assert_eq!(answer.text().await.unwrap(), "away");
}

#[tokio::test]
async fn a_status_is_answered_after_processing_on_request() {
    let fault = Fault::Status { status: 504, body: String::new(), after_processing: true };
    let (rp, answer, processed) = refreshed_with(fault).await;
    assert_eq!((answer.unwrap().status().as_u16(), processed), (504, true));
    let record = &rp.sandbox.records()[2];
    assert!(record.committed && record.issued.contains_key("refresh_token"));
}

#[tokio::test]
async fn too_many_requests_say_when_to_come_back() {
    let (_rp, answer, processed) = refreshed_with(Fault::rate_limited(7)).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status().as_u16(), processed), (429, false));
    assert_eq!(answer.headers()["retry-after"], "7");
}

#[tokio::test]
async fn a_redirect_leads_away_and_nothing_is_processed() {
    let location_of = "https://another.example/token".to_owned();
    let (_rp, answer, processed) =
        refreshed_with(Fault::Redirect { location: location_of.clone() }).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status().as_u16(), processed), (307, false));
    assert_eq!(location(&answer), location_of);
}

#[tokio::test]
async fn a_connection_is_dropped_before_anything_is_processed() {
    let (rp, answer, processed) = refreshed_with(Fault::DropBefore).await;
    assert!(answer.is_err() && !processed);
    let record = &rp.sandbox.records()[2];
    assert_eq!((&record.outcome, record.committed), (&Outcome::Cut, false));
    assert_eq!(record.faults, ["drop_before"]);
}

#[tokio::test]
async fn a_connection_is_dropped_after_the_rotation() {
    let (rp, answer, processed) = refreshed_with(Fault::DropAfter).await;
    let error = answer.unwrap_err();
    assert!(error.is_request() && !error.is_timeout(), "{error:?}");
    assert!(processed);
    let record = &rp.sandbox.records()[2];
    assert_eq!((&record.outcome, record.committed), (&Outcome::Cut, true));
    assert!(record.issued.contains_key("refresh_token"));
}

#[tokio::test]
async fn a_hanging_request_is_never_processed_and_is_cut_when_faults_are_cleared() {
    let rp = start().await;
    let first = rp.exchange().await;
    inject(&rp, Endpoint::Refresh, Fault::Hang);
    let (hung, ()) = soon(async {
        tokio::join!(rp.try_refresh(first.text("refresh_token")), async {
            let hangs = |it: &symbolon_sandbox::Records| {
                it.items
                    .last()
                    .is_some_and(|it| it.faults == ["hang"] && it.outcome == Outcome::Pending)
            };
            rp.sandbox.wait_for(hangs).await;
            rp.sandbox.faults().clear_all();
        })
    })
    .await;
    assert!(hung.is_err());
    assert_eq!(rp.sandbox.refreshes(), 0);
    rp.refresh(first.text("refresh_token")).await;
}

#[tokio::test]
async fn a_client_that_leaves_a_hanging_request_is_noticed() {
    let rp = start().await;
    inject(&rp, Endpoint::Jwks, Fault::Hang);
    let request = rp.http.get(rp.url("/jwks")).timeout(Duration::from_millis(50));
    assert!(request.send().await.unwrap_err().is_timeout());
    let left = rp.sandbox.wait_for(|it| it.items[0].outcome == Outcome::Abandoned);
    soon(left).await;
}

#[tokio::test]
async fn a_delayed_request_is_processed_though_the_client_has_left() {
    let rp = start().await;
    let first = rp.exchange().await;
    inject(&rp, Endpoint::Refresh, Fault::Delay { delay_ms: 300 });
    let form = [("grant_type", "refresh_token"), ("refresh_token", first.text("refresh_token"))];
    let request = rp.http.post(rp.url("/token")).form(&form);
    let request = request.basic_auth("shop", Some(rp.sandbox.client_secret()));
    let left = request.timeout(Duration::from_millis(30)).send().await;
    assert!(left.unwrap_err().is_timeout());
    assert_eq!(rp.sandbox.refreshes(), 0);
    let records = soon(rp.sandbox.wait_for(|it| it.counters.refreshes == 1)).await;
    assert_eq!(records.items.last().unwrap().faults, ["delay"]);
}

#[tokio::test]
async fn a_delayed_answer_was_processed_before() {
    let rp = start().await;
    let first = rp.exchange().await;
    inject(&rp, Endpoint::Refresh, Fault::DelayAnswer { delay_ms: 300 });
    let (answer, ()) = soon(async {
        tokio::join!(rp.refresh(first.text("refresh_token")), async {
            let records = rp.sandbox.wait_for(|it| it.counters.refreshes == 1).await;
            assert_eq!(records.items.last().unwrap().outcome, Outcome::Pending);
        })
    })
    .await;
    answer.text("refresh_token");
}

#[tokio::test]
async fn a_page_stands_where_json_should() {
    let (_rp, answer, processed) = refreshed_with(Fault::Html).await;
    let answer = answer.unwrap();
    assert_eq!((answer.status(), processed), (StatusCode::OK, true));
    assert_eq!(answer.headers()["content-type"], "text/html; charset=utf-8");
    assert!(answer.text().await.unwrap().starts_with("<!DOCTYPE html>"));
}

#[tokio::test]
async fn json_ends_in_the_middle() {
    let (_rp, answer, processed) = refreshed_with(Fault::TruncatedJson).await;
    let text = answer.unwrap().text().await.unwrap();
    assert!(processed && text.starts_with('{') && text.len() > 10);
    assert!(serde_json::from_str::<Value>(&text).unwrap_err().is_eof());
}

#[tokio::test]
async fn an_oversized_body_is_valid_json_of_that_size() {
    for (endpoint, path) in
        [(Endpoint::Jwks, "/jwks"), (Endpoint::Discovery, "/.well-known/openid-configuration")]
    {
        let rp = start().await;
        inject(&rp, endpoint, Fault::Oversized { bytes: 1_000_000 });
        let body: Value = rp.get(&rp.url(path)).await.json().await.unwrap();
        assert_eq!(body["padding"].as_str().unwrap().len(), 1_000_000);
        let usual: Value = rp.get(&rp.url(path)).await.json().await.unwrap();
        assert_eq!(body.as_object().unwrap().len(), usual.as_object().unwrap().len() + 1);
    }
}

#[tokio::test]
async fn a_member_is_replaced_or_removed() {
    let rp = start().await;
    let url = rp.url("/.well-known/openid-configuration");
    inject(&rp, Endpoint::Discovery, Fault::member("issuer", "https://another.example"));
    inject(&rp, Endpoint::Discovery, Fault::member("issuer", Value::Null));
    let replaced: Value = rp.get(&url).await.json().await.unwrap();
    assert_eq!(replaced["issuer"], "https://another.example");
    let removed: Value = rp.get(&url).await.json().await.unwrap();
    assert!(removed.get("issuer").is_none());

    let tokens = rp.exchange().await;
    inject(&rp, Endpoint::Userinfo, Fault::member("sub", "mallory"));
    let userinfo: Value = rp.userinfo(tokens.text("access_token")).await.json().await.unwrap();
    assert_eq!((&userinfo["sub"], &userinfo["name"]), (&"mallory".into(), &"Ada Lovelace".into()));
}

#[tokio::test]
async fn every_endpoint_can_be_down() {
    let rp = start().await;
    let tokens = rp.exchange().await;
    let url = rp.authorization_url(&[]);
    for endpoint in Endpoint::ALL {
        rp.sandbox.faults().inject(endpoint, Fault::status(500), Times::UntilCleared).unwrap();
        let secret = Some(rp.sandbox.client_secret());
        let post = |path: &str| rp.http.post(rp.url(path)).basic_auth("shop", secret.clone());
        let status = match endpoint {
            Endpoint::Discovery => {
                rp.get(&rp.url("/.well-known/openid-configuration")).await.status()
            }
            Endpoint::Jwks => rp.get(&rp.url("/jwks")).await.status(),
            Endpoint::Authorize => rp.get(&url).await.status(),
            Endpoint::Decision => rp.decide(&url, "account", "ada").await.status(),
            Endpoint::Token => rp.try_token(&[]).await.unwrap().status(),
            Endpoint::Exchange => rp.try_exchange("code").await.unwrap().status(),
            Endpoint::Refresh => rp.try_refresh("token").await.unwrap().status(),
            Endpoint::Userinfo => rp.userinfo(tokens.text("access_token")).await.status(),
            Endpoint::Revoke => rp.revoke("token").await.status(),
            Endpoint::Introspect => post("/introspect").send().await.unwrap().status(),
        };
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{endpoint}");
        rp.sandbox.faults().clear(endpoint);
    }
    assert_eq!(rp.userinfo(tokens.text("access_token")).await.status(), StatusCode::OK);
    assert_eq!(rp.sandbox.faults().active(), []);
}

#[tokio::test]
async fn the_client_is_refused_and_an_error_comes_with_200_on_request() {
    let rp = start().await;
    let first = rp.exchange().await;
    inject(&rp, Endpoint::Token, Fault::invalid_client());
    inject(&rp, Endpoint::Token, Fault::error_with_200("invalid_grant"));
    let refused = rp.try_refresh(first.text("refresh_token")).await.unwrap();
    assert_refused(refused, 401, "invalid_client").await;
    let refused = rp.try_refresh(first.text("refresh_token")).await.unwrap();
    assert_refused(refused, 200, "invalid_grant").await;
    tokens(rp.try_refresh(first.text("refresh_token")).await.unwrap()).await;
}

#[tokio::test]
async fn a_sandbox_stops_while_a_request_hangs() {
    let rp = start().await;
    inject(&rp, Endpoint::Jwks, Fault::Hang);
    let request = rp.http.get(rp.url("/jwks")).send();
    let hung = tokio::spawn(request);
    soon(rp.sandbox.wait_for(|it| it.count(Endpoint::Jwks) == 1)).await;
    soon(rp.sandbox.stop()).await;
    assert!(soon(hung).await.unwrap().is_err());
}

#[tokio::test]
async fn a_dropped_sandbox_answers_no_more() {
    let rp = start().await;
    let url = rp.url("/jwks");
    assert_eq!(rp.get(&url).await.status(), StatusCode::OK);
    drop(rp.sandbox);
    // The listener closes as soon as its task runs again.
    let gone = async {
        while rp.http.get(&url).send().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(gone).await;
}
