//! A provider's word that it ended a session.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Method, Request},
};
use serde_json::json;
use symbolon_domain::{
    ports::{
        ConnectorError, Logout, LogoutOutcome, MockConnector, ProviderLogout, RepositoryError, Sent,
    },
    secret::SecretHash,
    testing::fixtures::{self, external_id},
};

use crate::app::{Answer, App, Mocks};

const TOKEN: &str = "header.claims.signature";

fn logout() -> Logout {
    Logout {
        external_id: Some(external_id("account-1")),
        session_id: Some("session-1".into()),
        token_id: "token-1".into(),
        refused_from: fixtures::NOW,
    }
}

/// A provider that answers so when it is asked about [`TOKEN`].
fn verifying(answer: Result<Logout, ConnectorError>) -> Mocks {
    let mut mocks = Mocks::default();
    mocks.providers.expect_find_with_secrets().returning(|id| {
        let found = (fixtures::identity_provider(), fixtures::provider_secrets());
        Ok((id == fixtures::PROVIDER).then_some(found))
    });
    mocks.connectors.expect_connect().returning(move |_, _| {
        let mut connector = MockConnector::new();
        let answer = answer.clone();
        connector
            .expect_verify_logout()
            .withf(|token| token.expose() == TOKEN)
            .returning(move |_| answer.clone());
        Ok(Arc::new(connector))
    });
    mocks
}

async fn post(app: &App, path: &str, form: impl Into<Body>) -> Answer {
    let request = Request::post(path)
        .header("content-type", "application/x-www-form-urlencoded")
        .body(form.into());
    let answer = app.send(request.unwrap()).await;
    assert_eq!(answer.header("cache-control"), "no-store");
    answer
}

async fn tell(app: &App) -> Answer {
    post(app, "/backchannel-logout/1", format!("logout_token={TOKEN}")).await
}

#[track_caller]
fn refused(answer: &Answer, status: u16, error: &str) -> String {
    assert_eq!((answer.status.as_u16(), &answer.json()["error"]), (status, &json!(error)));
    assert_eq!(answer.header("content-type"), "application/json");
    answer.json()["error_description"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_logout_is_taken_whether_or_not_anybody_linked_the_account() {
    for told in [0, 1, 3] {
        let mut mocks = verifying(Ok(logout()));
        let expected = |word: &ProviderLogout| {
            word.provider_id == fixtures::PROVIDER
                && word.external_id == Some(external_id("account-1"))
                && word.session_id.as_deref() == Some("session-1")
                && word.token == SecretHash::of("token-1")
                && word.forget_at == fixtures::NOW + Duration::from_mins(10)
                && word.refresh_within == Duration::from_secs(30)
                && word.actor.who.to_string() == "replica:replica-1"
        };
        mocks
            .logouts
            .expect_log_out()
            .withf(expected)
            .return_once(move |_| Ok(LogoutOutcome::Told(told)));
        let answer = tell(&mocks.app()).await;
        assert_eq!((answer.status.as_u16(), answer.body.as_str()), (200, ""));
    }
}

#[tokio::test]
async fn a_logout_that_names_a_session_alone_is_taken_too() {
    let mut mocks = verifying(Ok(Logout { external_id: None, ..logout() }));
    let expected = |word: &ProviderLogout| {
        word.external_id.is_none() && word.session_id.as_deref() == Some("session-1")
    };
    mocks.logouts.expect_log_out().withf(expected).return_once(|_| Ok(LogoutOutcome::Told(2)));
    assert_eq!(tell(&mocks.app()).await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_form_without_one_token_is_refused_before_anything_is_looked_at() {
    let app = Mocks::default().app();
    let path = "/backchannel-logout/1";
    for form in [
        "",
        "logout_token=",
        "logout_token",
        "id_token=a.b.c",
        "logout_token=a.b.c&logout_token=a.b.c",
        "logout_token=a.b.c&logout_token=",
        "{\"logout_token\": \"a.b.c\"}",
    ] {
        let why = refused(&post(&app, path, form).await, 400, "invalid_request");
        assert!(why.starts_with("logout_token: "), "{form}: {why}");
    }
    let long = format!("logout_token={}", "a".repeat(64 * 1024));
    refused(&post(&app, path, long).await, 413, "payload_too_large");
    for provider in ["0", "x", "-1", "9223372036854775808"] {
        let path = format!("/backchannel-logout/{provider}");
        let why = refused(&post(&app, &path, "logout_token=a.b.c").await, 400, "invalid_request");
        assert!(why.starts_with("provider_id: "), "{why}");
    }
    for method in [Method::GET, Method::PUT, Method::DELETE] {
        let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
        assert_eq!(app.send(request).await.status, 405);
    }
}

#[tokio::test]
async fn a_token_that_proves_nothing_or_came_before_is_refused() {
    let detail = "its signature is wrong".to_owned();
    let app = verifying(Err(ConnectorError::Untrusted { detail })).app();
    let why = refused(&tell(&app).await, 400, "invalid_request");
    assert_eq!(why, "logout_token: its signature is wrong");

    let mut mocks = verifying(Ok(logout()));
    mocks.logouts.expect_log_out().return_once(|_| Ok(LogoutOutcome::Replayed));
    let why = refused(&tell(&mocks.app()).await, 400, "invalid_request");
    assert_eq!(why, "logout_token: was taken before");

    let answer = post(&app, "/backchannel-logout/2", format!("logout_token={TOKEN}")).await;
    refused(&answer, 404, "not_found");
}

#[tokio::test]
async fn where_it_cannot_be_told_now_the_provider_may_come_again() {
    let unavailable = ConnectorError::Unavailable {
        detail: "the key set cannot be fetched".into(),
        retry_after: None,
        sent: Sent::No,
    };
    let answer = tell(&verifying(Err(unavailable)).app()).await;
    refused(&answer, 503, "provider_unavailable");
    assert_eq!(answer.header("retry-after"), "5");

    let mut mocks = verifying(Ok(logout()));
    let gone = || RepositoryError::Unavailable("the database is away".into());
    mocks.logouts.expect_log_out().return_once(move |_| Err(gone()));
    let answer = tell(&mocks.app()).await;
    let why = refused(&answer, 503, "service_unavailable");
    assert!(!why.contains("the database is away"), "{why}");
}

#[tokio::test]
async fn an_address_whose_tokens_prove_nothing_must_wait_and_good_tokens_need_not() {
    let refusal = ConnectorError::Untrusted { detail: "its signature is wrong".into() };
    let from = |peer: &str| {
        let peer: SocketAddr = format!("{peer}:1234").parse().unwrap();
        let form = Body::from(format!("logout_token={TOKEN}"));
        let mut request = Request::post("/backchannel-logout/1").body(form).unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        request
    };
    let app = verifying(Err(refusal)).app();
    let mut refusals = 0;
    let stopped = loop {
        let answer = app.send(from("203.0.113.1")).await;
        if answer.status != 400 {
            break answer;
        }
        refusals += 1;
        assert!(refusals < 100, "nobody is stopped");
    };
    assert!(refusals >= 10);
    refused(&stopped, 429, "rate_limited");
    assert_eq!(stopped.header("retry-after"), "1");
    refused(&app.send(from("203.0.113.2")).await, 400, "invalid_request");

    let mut mocks = verifying(Ok(logout()));
    mocks.logouts.expect_log_out().returning(|_| Ok(LogoutOutcome::Told(1)));
    let app = mocks.app();
    for _ in 0..30 {
        assert_eq!(app.send(from("203.0.113.1")).await.status, 200);
    }
}
