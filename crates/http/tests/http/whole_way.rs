//! The whole way over the in-memory store: what the pieces promise fits together.

use std::sync::Arc;

use axum::http::{HeaderValue, Method};
use chrono::TimeDelta;
use serde_json::json;
use symbolon_domain::{
    credentials::Credentials,
    event::Actor,
    identity_provider::{IdentityProvider, ProviderSecrets},
    ports::{Clock as _, Grant, IdentityProviderRepository as _, MockConnector, MockConnectors},
    secret::Secret,
    services::ApiKeys,
    testing::{MemoryStore, RunningClock, fixtures},
};
use url::Url;

use crate::app::{Answer, App, Ports, request};

/// What the provider gives: good for an hour.
fn credentials(access_token: &str) -> Credentials {
    let now = RunningClock.now();
    Credentials {
        access_token: Some(Secret::new(access_token)),
        refresh_token: Some(Secret::new("canary-refresh")),
        expires_at: Some(now + TimeDelta::hours(1)),
        obtained_at: Some(now),
        ..fixtures::credentials()
    }
}

/// A provider that vouches for `account-1`, whatever the code.
fn connectors() -> MockConnectors {
    let mut connectors = MockConnectors::new();
    connectors.expect_find_type().returning(|_| Some(fixtures::provider_type()));
    connectors.expect_check().returning(|_, _, _| Ok(()));
    connectors.expect_connect().returning(|_: &IdentityProvider, _: &ProviderSecrets| {
        let mut connector = MockConnector::new();
        connector.expect_capabilities().return_const(fixtures::capabilities());
        connector.expect_new_dpop_key().return_const(None);
        connector.expect_authorize().returning(|request| {
            let mut url: Url = "https://op.example/authorize".parse().unwrap();
            url.query_pairs_mut().append_pair("state", request.state.expose());
            Ok(url)
        });
        connector.expect_check_issuer().returning(|_, _| Ok(()));
        connector
            .expect_exchange()
            .returning(|_| Ok(Grant { credentials: credentials("canary-1"), ..fixtures::grant() }));
        connector.expect_refresh().returning(|_| Ok(credentials("canary-2")));
        connector.expect_build_identity().returning(|_| Ok(fixtures::account()));
        Ok(Arc::new(connector))
    });
    connectors
}

async fn app() -> (App, Secret) {
    let store = Arc::new(MemoryStore::default());
    store.insert(&fixtures::new_identity_provider(), &Actor::OPERATOR).await.unwrap();
    let keys = ApiKeys { keys: store.clone() };
    let scopes = [symbolon_domain::api_key::KeyScope::Admin];
    let (_, secret) = keys.create("product", &scopes, &Actor::OPERATOR).await.unwrap();
    let ports = Ports {
        keys: store.clone(),
        identities: store.clone(),
        providers: store.clone(),
        connectors: Arc::new(connectors()),
        credentials: store.clone(),
        sessions: store.clone(),
        events: store.clone(),
        auth_providers: store.clone(),
        auth_identities: store.clone(),
        organization_identities: store.clone(),
        revocations: store.clone(),
        transfers: store,
        clock: Arc::new(RunningClock),
        ..Ports::default()
    };
    (ports.app(), secret)
}

fn path_of(url: &str) -> String {
    let url: Url = url.parse().unwrap();
    url.query().map_or_else(|| url.path().to_owned(), |query| format!("{}?{query}", url.path()))
}

fn parameter(url: &str, name: &str) -> String {
    let url: Url = url.parse().unwrap();
    url.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned()
}

#[tokio::test]
async fn a_link_is_started_confirmed_completed_and_gives_tokens() {
    let (app, key) = app().await;
    let call = async |method: &str, path: &str, body: Option<serde_json::Value>| -> Answer {
        app.send(request(method.parse().unwrap(), path, key.expose(), body)).await
    };
    let body = json!({
        "user_id": 42, "purpose": "link", "return_url": "https://product.example/linked",
    });
    let started = call("POST", "/v1/link-sessions", Some(body)).await.json();
    let address = path_of(started["url"].as_str().unwrap());

    // The user chooses; the browser gets its cookie and goes to the provider.
    let page = app.browse(&address, None).await;
    assert_eq!(page.status, 200);
    let link = page.body.split_once("href=\"?").unwrap().1.split_once('"').unwrap().0;
    let sent = app.browse(&format!("{address}?{link}"), None).await;
    let cookie = sent.header("set-cookie").split_once(';').unwrap().0.to_owned();
    let state = parameter(sent.header("location"), "state");

    // It comes back: another browser in vain, its own once.
    let callback = format!("/callback/1?state={state}&code=c");
    assert_eq!(app.browse(&callback, None).await.status, 400);
    let back = app.browse(&callback, Some(&cookie)).await;
    assert_eq!(back.status, 303, "{back:?}");
    assert_eq!(app.browse(&callback, Some(&cookie)).await.status, 400);
    let to = back.header("location");
    assert!(to.starts_with("https://product.example/linked?"), "{to}");
    assert_eq!(parameter(to, "status"), "awaiting_completion");
    assert!(!to.contains("canary"));
    let session = format!("/v1/link-sessions/{}", parameter(to, "session_id"));
    assert_eq!(call("GET", &session, None).await.json()["status"], "awaiting_completion");

    // The product completes, once.
    let body = json!({"completion_code": parameter(to, "completion_code"), "user_id": "42"});
    let complete = format!("{session}/complete");
    let completed = call("POST", &complete, Some(body.clone())).await;
    assert_eq!(completed.json()["status"], "linked", "{completed:?}");
    assert_eq!(completed.json()["user_id"], "42");
    call("POST", &complete, Some(body)).await.refuses("completion_code");
    let id = &completed.json()["identity_id"];
    assert_eq!(call("GET", &session, None).await.json()["identity_id"], *id);

    // The token is in the token's answer and nowhere else.
    let token =
        call("POST", "/v1/token", Some(json!({"user_id": 42, "provider_type": "oidc"}))).await;
    assert_eq!(token.json()["access_token"], "canary-1");
    assert!(!token.body.contains("canary-refresh"));
    for path in [format!("/v1/identities/{id}"), "/v1/identities?user_id=42".into(), session] {
        let answer = call("GET", &path, None).await;
        assert_eq!(answer.status, 200);
        assert!(!answer.body.contains("canary"), "{answer:?}");
    }

    // A forced refresh replaces it, and answers the identity.
    let before = call("GET", &format!("/v1/identities/{id}"), None).await;
    let forced = call("POST", &format!("/v1/identities/{id}/refresh"), None).await;
    assert_eq!((forced.status.as_u16(), &forced.json()["id"]), (200, id), "{forced:?}");
    assert_ne!(forced.header("etag"), before.header("etag"));
    assert!(!forced.body.contains("canary"), "{forced:?}");
    let token = call("POST", &format!("/v1/identities/{id}/token"), None).await;
    assert_eq!(token.json()["access_token"], "canary-2");

    let removed = call("DELETE", &format!("/v1/identities/{id}?revoke=false"), None).await;
    assert_eq!(removed.status, 204);
    call("POST", &format!("/v1/identities/{id}/token"), None).await.problem(404, "not_found");
}

#[tokio::test]
async fn what_comes_of_a_session_tells_for_whom_and_why_it_was_asked_for() {
    let (app, key) = app().await;
    let start = async |user: u32| {
        let body = json!({
            "user_id": user, "provider_id": 1, "purpose": "link", "auto_complete": true,
            "return_url": "https://product.example/linked",
        });
        let mut request = request(Method::POST, "/v1/link-sessions", key.expose(), Some(body));
        let headers = request.headers_mut();
        headers.insert("symbolon-acting-user", HeaderValue::from_static("support-9"));
        headers.insert("symbolon-reason", HeaderValue::from_static("ticket 4711"));
        let started = app.send(request).await.json();
        let address = path_of(started["url"].as_str().unwrap());
        let sent = app.browse(&address, None).await;
        let cookie = sent.header("set-cookie").split_once(';').unwrap().0.to_owned();
        (cookie, parameter(sent.header("location"), "state"))
    };
    for (user, answer, kind) in [
        // Completed by the callback itself; said no; the account is taken by then.
        (42, "code=c", "identity.linked"),
        (43, "error=access_denied", "link_session.failed"),
        (44, "code=c", "link_session.failed"),
    ] {
        let (cookie, state) = start(user).await;
        let back = app.browse(&format!("/callback/1?state={state}&{answer}"), Some(&cookie)).await;
        assert_eq!(back.status, 303, "{back:?}");
        let events = request(Method::GET, "/v1/events", key.expose(), None);
        let events = app.send(events).await.json();
        let event = events["items"].as_array().unwrap().last().unwrap().clone();
        assert_eq!((&event["type"], &event["user_id"]), (&json!(kind), &json!(user.to_string())));
        assert_eq!(event["acting_user"], "support-9", "{event}");
        assert_eq!(event["reason"], "ticket 4711", "{event}");
        assert!(event["actor"].as_str().unwrap().starts_with("api_key:"), "{event}");
    }
}
