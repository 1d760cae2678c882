use std::{
    io,
    sync::{Arc, Mutex},
};

use axum::{
    body::Body,
    http::{Method, Request},
};
use serde_json::json;
use symbolon_domain::{ports::RepositoryError, testing::fixtures};
use tracing::subscriber::DefaultGuard;

use crate::app::{ADMIN, Mocks, request};

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// Everything, down to TRACE, for as long as the guard lives.
    fn capture() -> (Self, DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        self.text().lines().map(|it| serde_json::from_str(it).unwrap()).collect()
    }
}

#[tokio::test]
async fn a_request_is_one_line_with_its_route_and_who_asked() {
    let mut mocks = Mocks::default();
    mocks.identities.expect_find().returning(|_| Ok(Some(fixtures::identity())));
    let app = mocks.app();
    let (log, _guard) = Log::capture();
    let request = Request::get("/v1/identities/1?x=canary")
        .header("authorization", format!("Bearer {ADMIN}"))
        .header("x-request-id", "req-7");
    app.send(request.body(Body::empty()).unwrap()).await;

    let lines: Vec<_> = log.lines().into_iter().filter(|it| it["level"] == "INFO").collect();
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!(line["fields"]["message"], "answered");
    assert_eq!(line["fields"]["status"], 200);
    assert!(line["fields"]["duration_ms"].is_number());
    let span = json!({
        "name": "request", "method": "GET", "route": "/v1/identities/{id}",
        "request_id": "req-7", "key": 1,
    });
    assert_eq!(line["span"], span);
    assert!(!log.text().contains("canary"));
}

#[tokio::test]
async fn a_health_check_is_quiet() {
    let app = Mocks::default().app();
    let (log, _guard) = Log::capture();
    app.browse("/healthz", None).await;
    assert!(log.lines().iter().all(|it| it["level"] != "INFO"), "{}", log.text());
}

#[tokio::test]
async fn a_failure_is_one_error_with_its_causes() {
    #[derive(Debug, thiserror::Error)]
    #[error("the outer cause")]
    struct Outer(#[source] io::Error);

    let mut mocks = Mocks::default();
    mocks.identities.expect_find().returning(|_| {
        let error = Outer(io::Error::other("the inner cause"));
        Err(RepositoryError::Store(Box::new(error)))
    });
    let app = mocks.app();
    let (log, _guard) = Log::capture();
    app.get("/v1/identities/1").await.problem(500, "internal_error");
    let errors: Vec<_> = log.lines().into_iter().filter(|it| it["level"] == "ERROR").collect();
    let [error] = errors.as_slice() else { panic!("{errors:?}") };
    assert_eq!(error["fields"]["error"], "the store failed: the outer cause: the inner cause",);
    assert_eq!(error["span"]["route"], "/v1/identities/{id}");
}

/// Whatever a caller, a browser or a provider sends that might be a secret.
#[tokio::test]
async fn no_secret_is_logged_or_answered() {
    const CANARY: &str = "canaryabcdefghijklmnopqrstuvwxyzABCDEFGHIJK";
    assert_eq!(CANARY.len(), 43);
    let mut mocks = Mocks::default();
    mocks.credentials.expect_find().returning(|_| Ok(None));
    mocks.sessions.expect_find_by_token().returning(|_| Ok(None));
    mocks.sessions.expect_find_by_state().returning(|_| Ok(None));
    mocks.sessions.expect_find_pending().returning(|_| Ok(None));
    mocks.sessions.expect_find().returning(|_| Ok(None));
    mocks.connectors.expect_find_type().returning(|_| Some(fixtures::provider_type()));
    mocks.connectors.expect_check().returning(|_, _, _| Ok(()));
    mocks.providers.expect_insert().returning(|_, _| Ok(fixtures::identity_provider()));
    mocks.identities.expect_update_data().returning(|_| Err(RepositoryError::Conflict));
    let app = mocks.app();
    let (log, _guard) = Log::capture();
    let cookie = format!("__Host-symbolon={CANARY}");

    let mut answers = vec![
        app.browse(&format!("/connect/{CANARY}?x={CANARY}"), Some(&cookie)).await,
        app.browse(&format!("/callback/1?state={CANARY}&code={CANARY}"), Some(&cookie)).await,
        app.browse(&format!("/callback/1?state={CANARY}&error={CANARY}"), Some(&cookie)).await,
        app.browse(&format!("/callback/{CANARY}?state={CANARY}"), Some(&cookie)).await,
        app.send(request(Method::GET, "/v1/providers", CANARY, None)).await,
        app.send(request(Method::GET, "/v1/providers", &format!("sym_{CANARY}"), None)).await,
    ];
    for (method, path, body) in [
        (
            Method::POST,
            "/v1/link-sessions/1/complete",
            json!({"completion_code": CANARY, "user_id": "u"}),
        ),
        (Method::POST, "/v1/link-sessions/1/complete", json!({"completion_code": [CANARY]})),
        (
            Method::POST,
            "/v1/providers",
            json!({"type": "oidc", "config": {"client_secret": CANARY}}),
        ),
        (
            Method::POST,
            "/v1/providers",
            json!({"type": "oidc", "config": {"client_secret": [CANARY]}}),
        ),
        (Method::POST, "/v1/providers", json!({"type": "oidc", "config": CANARY})),
        (Method::PUT, "/v1/identities/1/data", json!({"access_token": CANARY})),
        (Method::PUT, "/v1/identities/1/data", json!({"access_token": [CANARY]})),
        (
            Method::POST,
            "/v1/identities",
            json!({"data": {"refresh_token": CANARY}, "reattach": CANARY}),
        ),
        (Method::POST, "/v1/identities/1/token", json!({"scopes": CANARY})),
    ] {
        answers.push(app.call(method, path, Some(body)).await);
    }
    for answer in answers {
        assert!(!format!("{answer:?}").contains("canary"), "{answer:?}");
    }
    assert!(log.text().contains("/callback/{provider_id}"), "the log is really captured");
    assert!(!log.text().contains("canary"), "{}", log.text());
}
