use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::relying_party::{RelyingParty, start};

async fn post(rp: &RelyingParty, path: &str, body: Value) -> (StatusCode, Value) {
    let response = rp.http.post(rp.url(path)).json(&body).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test]
async fn faults_are_switched_from_outside() {
    let rp = start().await;
    let fault = json!({
        "endpoint": "jwks",
        "fault": {"kind": "status", "status": 502, "body": "no", "after_processing": false},
        "times": 1,
    });
    let (status, body) = post(&rp, "/sandbox/faults", fault.clone()).await;
    assert_eq!((status, &body["items"]), (StatusCode::CREATED, &json!([fault])));
    assert_eq!(rp.get(&rp.url("/jwks")).await.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(rp.get(&rp.url("/jwks")).await.status(), StatusCode::OK);

    for endpoint in ["jwks", "userinfo"] {
        let fault = json!({"endpoint": endpoint, "fault": {"kind": "drop_before"}});
        assert_eq!(post(&rp, "/sandbox/faults", fault).await.0, StatusCode::CREATED);
    }
    assert!(rp.http.get(rp.url("/jwks")).send().await.is_err());
    let clear = |query| rp.http.delete(rp.url(&format!("/sandbox/faults{query}"))).send();
    assert_eq!(clear("?endpoint=jwks").await.unwrap().status(), StatusCode::NO_CONTENT);
    assert_eq!(rp.get(&rp.url("/jwks")).await.status(), StatusCode::OK);
    assert_eq!(rp.sandbox.faults().active().len(), 1);
    assert_eq!(clear("").await.unwrap().status(), StatusCode::NO_CONTENT);
    let left: Value = rp.get(&rp.url("/sandbox/faults")).await.json().await.unwrap();
    assert_eq!(left, json!({"items": []}));
}

#[tokio::test]
async fn a_fault_that_makes_no_sense_is_refused() {
    let rp = start().await;
    for bad in [
        json!({"endpoint": "jwks", "fault": {"kind": "no_refresh_token"}}),
        json!({"endpoint": "jwks", "fault": {"kind": "status", "status": 42}}),
        json!({"endpoint": "jwks", "fault": {"kind": "hang"}, "times": 0}),
        json!({"endpoint": "jwks", "fault": {"kind": "unheard_of"}}),
        json!({"endpoint": "nowhere", "fault": {"kind": "hang"}}),
        json!({"endpoint": "jwks", "fault": {"kind": "hang"}, "more": 1}),
    ] {
        let (status, body) = post(&rp, "/sandbox/faults", bad.clone()).await;
        assert!(status.is_client_error() && body["error"].is_string(), "{bad} {status} {body}");
    }
    assert_eq!(rp.sandbox.faults().active(), []);
}

#[tokio::test]
async fn another_sites_page_switches_nothing() {
    let rp = start().await;
    let request = rp.http.post(rp.url("/sandbox/expire-access-tokens"));
    let response = request.header("sec-fetch-site", "cross-site").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn tokens_keys_and_grants_end_from_outside() {
    let rp = start().await;
    let tokens = rp.exchange().await;
    let expired = rp.http.post(rp.url("/sandbox/expire-access-tokens")).send().await.unwrap();
    assert_eq!(expired.json::<Value>().await.unwrap(), json!({"expired": 1}));
    let status = rp.userinfo(tokens.text("access_token")).await.status();
    assert_eq!(status, StatusCode::UNAUTHORIZED);

    let (_, keys) = post(&rp, "/sandbox/rotate-keys", json!({"algorithm": "RS256"})).await;
    assert_eq!(keys["keys"].as_array().unwrap().len(), 2);
    assert_eq!(keys["keys"][1]["alg"], "RS256");
    let (_, keys) = post(&rp, "/sandbox/rotate-keys", json!({"retire": true})).await;
    assert_eq!(keys["keys"].as_array().unwrap().len(), 1);
    rp.verify(rp.exchange().await.text("id_token")).await.unwrap();

    let (_, revoked) = post(&rp, "/sandbox/revoke-grants", json!({"sub": "ada"})).await;
    assert_eq!(revoked, json!({"revoked": 2}));
    assert!(rp.sandbox.is_revoked(tokens.text("refresh_token")));
}

#[tokio::test]
async fn records_are_read_from_outside_after_a_number() {
    let rp = start().await;
    for _ in 0..3 {
        rp.get(&rp.url("/jwks")).await;
    }
    let url = rp.url("/sandbox/records?after=2");
    let records: Value = rp.get(&url).await.json().await.unwrap();
    assert_eq!(records["items"].as_array().unwrap().len(), 1);
    assert_eq!(records["items"][0]["number"], 3);
    assert_eq!(records["counters"]["requests"], 3);
    let bad = rp.get(&rp.url("/sandbox/records?after=x")).await;
    assert_eq!(bad.status(), StatusCode::BAD_REQUEST);
}
