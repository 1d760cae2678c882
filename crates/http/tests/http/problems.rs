use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use axum::{
    body::Body,
    http::{Method, Request},
};
use chrono::TimeDelta;
use serde_json::json;
use symbolon_domain::{
    ports::{MockApiKeyRepository, RepositoryError},
    testing::{TestClock, fixtures},
};

use crate::app::{ADMIN, Mocks, Ports, request};

#[tokio::test]
async fn a_problem_says_what_to_do_and_names_the_request() {
    let app = Mocks::default().app();
    let request = Request::get("/v1/identities")
        .header("authorization", format!("Bearer {ADMIN}"))
        .header("x-request-id", "req-7")
        .body(Body::empty());
    let answer = app.send(request.unwrap()).await;
    assert_eq!(answer.header("x-request-id"), "req-7");
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.header("x-content-type-options"), "nosniff");
    insta::assert_snapshot!(serde_json::to_string_pretty(&answer.json()).unwrap(), @r#"
    {
      "code": "filter_required",
      "detail": "give at least one filter, for example `user_id`",
      "request_id": "req-7",
      "status": 400,
      "title": "Bad Request",
      "type": "about:blank"
    }
    "#);
}

#[tokio::test]
async fn a_request_id_that_is_not_well_formed_is_replaced() {
    let app = Mocks::default().app();
    for given in ["", "a b", "a/b", &"x".repeat(65)] {
        let request = Request::get("/healthz").header("x-request-id", given.as_bytes());
        let answer = app.send(request.body(Body::empty()).unwrap()).await;
        let id = answer.header("x-request-id");
        assert!(!id.is_empty() && id != given, "{given:?} became {id:?}");
    }
}

#[tokio::test]
async fn without_a_valid_key_nothing_is_looked_at() {
    let app = Mocks::default().app();
    for authorization in [
        None,
        Some("Bearer sym_unknown"),
        Some("Bearer sym_revoked"),
        Some("Basic sym_admin"),
        Some("Bearer x"),
    ] {
        let mut request = Request::post("/v1/identities").header("content-type", "text/plain");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let answer = app.send(request.body(Body::from("not json")).unwrap()).await;
        answer.problem(401, "unauthenticated");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
}

#[tokio::test]
async fn a_good_key_is_remembered_for_five_seconds_and_a_bad_one_not_at_all() {
    let reads = Arc::new(AtomicUsize::new(0));
    let (count, clock) = (Arc::clone(&reads), Arc::new(TestClock::default()));
    let mut keys = MockApiKeyRepository::new();
    keys.expect_find_by_hash().returning(move |hash| {
        count.fetch_add(1, Ordering::Relaxed);
        Ok(hash.matches(ADMIN).then(fixtures::api_key))
    });
    let app = Ports { keys: Arc::new(keys), clock: clock.clone(), ..Ports::default() }.app();
    let call = async |key: &str| {
        let request = request(Method::GET, "/v1/identities", key, None);
        (app.send(request).await.status.as_u16(), reads.load(Ordering::Relaxed))
    };

    assert_eq!(call(ADMIN).await, (400, 1));
    assert_eq!(call(ADMIN).await, (400, 1));
    clock.advance(TimeDelta::milliseconds(4999));
    assert_eq!(call(ADMIN).await, (400, 1));
    clock.advance(TimeDelta::milliseconds(1));
    assert_eq!(call(ADMIN).await, (400, 2));
    // A clock that was set back proves nothing.
    clock.advance(TimeDelta::minutes(-1));
    assert_eq!(call(ADMIN).await, (400, 3));

    assert_eq!(call("sym_other").await, (401, 4));
    assert_eq!(call("sym_other").await, (401, 5));
}

#[tokio::test]
async fn where_nothing_is_there_is_a_problem_too() {
    let app = Mocks::default().app();
    for path in ["/", "/v1", "/v1/nothing", "/v1/identities/1/nothing", "/connect", "/callback/1/2"]
    {
        app.get(path).await.problem(404, "not_found");
    }
}

#[tokio::test]
async fn a_method_that_a_path_does_not_take_is_a_problem_that_lists_the_others() {
    let app = Mocks::default().app();
    let answer = app.call(Method::PUT, "/v1/providers/1", None).await;
    answer.problem(405, "method_not_allowed");
    let mut allowed: Vec<_> = answer.header("allow").split(',').map(str::trim).collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["DELETE", "GET", "HEAD", "PATCH"]);
    app.call(Method::DELETE, "/healthz", None).await.problem(405, "method_not_allowed");
    app.call(Method::POST, "/connect/x", None).await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn a_body_must_be_json_and_say_so() {
    let app = Mocks::default().app();
    let send = async |content_type: Option<&str>, body: String| {
        let mut request =
            Request::post("/v1/identities").header("authorization", format!("Bearer {ADMIN}"));
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        app.send(request.body(Body::from(body)).unwrap()).await
    };
    for content_type in [None, Some("text/plain"), Some("application/x-www-form-urlencoded")] {
        let answer = send(content_type, "{}".into()).await;
        answer.problem(415, "unsupported_media_type");
    }
    for content_type in ["application/json; charset=utf-8", "application/vnd.x+json"] {
        send(Some(content_type), "{}".into()).await.refuses("provider_id");
    }
    for body in ["", "[]", "null", "7", "\"x\""] {
        send(Some("application/json"), body.into()).await.refuses("body");
    }
    send(Some("application/json"), "{\"user_id\"".into()).await.refuses("body");
    let big = format!("{{\"user_id\":\"{}\"}}", "x".repeat(1024 * 1024));
    send(Some("application/json"), big).await.problem(413, "payload_too_large");
}

#[tokio::test]
async fn a_failing_store_is_our_fault_and_its_words_stay_inside() {
    let mut mocks = Mocks::default();
    mocks
        .identities
        .expect_find()
        .returning(|_| Err(RepositoryError::Store("canary: password=x".into())));
    let answer = mocks.app().get("/v1/identities/1").await;
    answer.problem(500, "internal_error");
    assert!(!answer.body.contains("canary"));
}

#[tokio::test]
async fn a_store_that_is_away_asks_for_patience() {
    let mut mocks = Mocks::default();
    mocks
        .identities
        .expect_find()
        .returning(|_| Err(RepositoryError::Unavailable("canary: password=x".into())));
    let answer = mocks.app().get("/v1/identities/1").await;
    answer.problem(503, "service_unavailable");
    assert_eq!(answer.header("retry-after"), "1");
    assert!(!answer.body.contains("canary"));
}

#[tokio::test]
async fn a_panic_is_an_internal_error_with_a_request_id() {
    // A mock without an expectation panics when it is called.
    let answer = Mocks::default().app().get("/v1/identities/1").await;
    answer.problem(500, "internal_error");
    assert_eq!(answer.json()["request_id"], answer.header("x-request-id"));
}

#[tokio::test]
async fn a_nul_character_never_reaches_a_store() {
    let app = Mocks::default().app();
    app.get("/v1/identities?provider_type=%00").await.refuses("provider_type");
    let body = json!({"a": "b\0c"});
    app.call(Method::PUT, "/v1/identities/1/data", Some(body)).await.refuses("body");
}
