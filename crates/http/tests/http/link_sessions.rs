use serde_json::{Value, json};
use symbolon_domain::{
    link_session::{LinkFailure, LinkSession, LinkSessionStatus, Purpose},
    ports::LinkOutcome,
    testing::fixtures,
};

use crate::app::Mocks;

fn new_session() -> Value {
    json!({"user_id": "user-1", "return_url": "https://product.example/linked", "purpose": "link"})
}

#[tokio::test]
async fn a_session_is_started_and_its_address_is_shown_once() {
    let mut mocks = Mocks::default();
    mocks
        .auth_providers
        .expect_find_by_organization()
        .withf(|it| *it == fixtures::organization("7"))
        .return_once(|_| Ok(Some(fixtures::auth_provider())));
    mocks.providers.expect_find().return_once(|_| Ok(Some(fixtures::identity_provider())));
    mocks.connectors.expect_find_type().returning(|_| Some(fixtures::provider_type()));
    mocks
        .sessions
        .expect_insert()
        .withf(|new| {
            let expected = LinkSession {
                id: symbolon_domain::ids::LinkSessionId(0),
                purpose: Purpose::SignIn,
                user_id: Some(fixtures::user("42")),
                organization_id: Some(fixtures::organization("7")),
                scopes: vec!["email".into()],
                login_hint: Some("ada@example.com".into()),
                reattach: true,
                auto_complete: true,
                ..fixtures::link_session()
            };
            new.session == expected
        })
        .return_once(|_| Ok(fixtures::link_session()));
    let body = json!({
        "user_id": 42, "organization_id": 7, "provider_id": 1, "purpose": "sign_in",
        "return_url": "https://product.example/linked", "scopes": ["email"],
        "login_hint": "ada@example.com", "reattach": true, "auto_complete": true,
    });
    let answer = mocks.app().post("/v1/link-sessions", body).await;
    assert_eq!((answer.status.as_u16(), answer.header("cache-control")), (201, "no-store"));
    assert_eq!(answer.header("location"), "/v1/link-sessions/1");
    let body = answer.json();
    assert_eq!(body["id"], 1);
    assert_eq!(body["expires_at"], "2026-01-01T00:10:00Z");
    let token = body["url"].as_str().unwrap().strip_prefix("https://symbolon.example/connect/");
    assert_eq!(token.unwrap().len(), 43);
    assert_eq!(body.as_object().unwrap().len(), 3);
}

#[tokio::test]
async fn a_session_that_makes_no_sense_is_refused_by_field() {
    let mut mocks = Mocks::default();
    mocks.providers.expect_find().returning(|_| Ok(None));
    let app = mocks.app();
    let with = |key: &str, value: Value| {
        let mut body = new_session();
        body[key] = value;
        body
    };
    for (body, field) in [
        (json!({}), "return_url"),
        (json!({"return_url": "https://product.example/"}), "purpose"),
        (with("purpose", json!("steal")), "purpose"),
        (with("purpose", json!(1)), "purpose"),
        (with("return_url", json!("https://evil.example/")), "return_url"),
        (with("return_url", json!("javascript:alert(1)")), "return_url"),
        (with("return_url", json!(null)), "return_url"),
        (with("provider_id", json!(99)), "provider_id"),
        (with("provider_id", json!("1")), "provider_id"),
        (with("user_id", json!("")), "user_id"),
        (with("user_id", json!(true)), "user_id"),
        (with("organization_id", json!(1.5)), "organization_id"),
        (with("organization_id", json!("x".repeat(256))), "organization_id"),
        (with("scopes", json!(["a b"])), "scopes[0]"),
        (with("login_hint", json!("a\nb")), "login_hint"),
        (with("login_hint", json!("x".repeat(256))), "login_hint"),
        (with("reattach", json!(1)), "reattach"),
        (with("auto_complete", json!("true")), "auto_complete"),
        (with("returnUrl", json!("x")), "returnUrl"),
        (
            json!({"purpose": "link", "return_url": "https://product.example/", "auto_complete": true}),
            "user_id",
        ),
    ] {
        app.post("/v1/link-sessions", body).await.refuses(field);
    }
}

#[tokio::test]
async fn a_session_tells_how_far_it_got() {
    for (session, expected) in [
        (fixtures::link_session(), json!({"id": 1, "status": "pending"})),
        (
            LinkSession {
                status: LinkSessionStatus::Linked,
                identity_id: Some(fixtures::IDENTITY),
                ..fixtures::link_session()
            },
            json!({"id": 1, "status": "linked", "identity_id": 1}),
        ),
        (
            LinkSession {
                status: LinkSessionStatus::Failed,
                error: Some(LinkFailure::AccessDenied),
                ..fixtures::link_session()
            },
            json!({"id": 1, "status": "failed", "error": "access_denied"}),
        ),
    ] {
        let mut mocks = Mocks::default();
        mocks.sessions.expect_find().return_once(|_| Ok(Some(session)));
        assert_eq!(mocks.app().get("/v1/link-sessions/1").await.json(), expected);
    }
    let mut mocks = Mocks::default();
    mocks.sessions.expect_find().return_once(|_| Ok(None));
    let app = mocks.app();
    app.get("/v1/link-sessions/1").await.problem(404, "not_found");
    app.get("/v1/link-sessions/one").await.refuses("id");
}

fn awaiting() -> LinkSession {
    LinkSession { status: LinkSessionStatus::AwaitingCompletion, ..fixtures::link_session() }
}

#[tokio::test]
async fn a_link_is_completed_with_its_code_and_its_user() {
    let mut mocks = Mocks::default();
    mocks
        .sessions
        .expect_find_pending()
        .withf(|claim| *claim == fixtures::completion_claim())
        .return_once(|_| Ok(Some((awaiting(), fixtures::pending_link()))));
    mocks.identities.expect_link().return_once(|_| Ok(LinkOutcome::Created(fixtures::identity())));
    let body = json!({"completion_code": "code-1", "user_id": "user-1"});
    let answer = mocks.app().post("/v1/link-sessions/1/complete", body).await;
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(
        answer.json(),
        json!({
            "status": "linked", "identity_id": 1, "user_id": "user-1", "profile": {"name": "Ada"},
        }),
    );
}

#[tokio::test]
async fn an_account_that_nobody_linked_is_told_of_without_identity_and_user() {
    let mut mocks = Mocks::default();
    mocks.sessions.expect_find_pending().return_once(|_| {
        let session = LinkSession { purpose: Purpose::SignIn, user_id: None, ..awaiting() };
        Ok(Some((session, fixtures::pending_link())))
    });
    mocks.identities.expect_link().return_once(|_| Ok(LinkOutcome::NobodyLinked));
    let body = json!({"completion_code": "code-1"});
    let answer = mocks.app().post("/v1/link-sessions/1/complete", body).await;
    assert_eq!(answer.json(), json!({"status": "unlinked", "profile": {"name": "Ada"}}));
}

#[tokio::test]
async fn another_user_does_not_complete_a_session() {
    let mut mocks = Mocks::default();
    mocks
        .sessions
        .expect_find_pending()
        .return_once(|_| Ok(Some((awaiting(), fixtures::pending_link()))));
    let body = json!({"completion_code": "code-1", "user_id": "user-2"});
    mocks.app().post("/v1/link-sessions/1/complete", body).await.refuses("user_id");
}

#[tokio::test]
async fn a_completion_that_makes_no_sense_is_refused_by_field_and_its_code_is_not_quoted() {
    let app = Mocks::default().app();
    for (body, field) in [
        (json!({}), "completion_code"),
        (json!({"completion_code": 7}), "completion_code"),
        (json!({"completion_code": "canary", "user_id": {}}), "user_id"),
        (json!({"completion_code": "canary", "user_id": ""}), "user_id"),
        (json!({"completion_code": "canary", "code": "canary"}), "code"),
        (json!({"completion_code": {"canary": 1}}), "completion_code"),
    ] {
        let answer = app.post("/v1/link-sessions/1/complete", body).await;
        answer.refuses(field);
        assert!(!answer.body.contains("canary"));
    }
    let mut mocks = Mocks::default();
    mocks.sessions.expect_find_pending().returning(|_| Ok(None));
    mocks.sessions.expect_find().returning(|id| Ok((id.0 == 1).then(fixtures::link_session)));
    let app = mocks.app();
    let body = json!({"completion_code": "wrong", "user_id": "user-1"});
    let answer = app.post("/v1/link-sessions/1/complete", body.clone()).await;
    answer.refuses("completion_code");
    app.post("/v1/link-sessions/2/complete", body).await.problem(404, "not_found");
}
