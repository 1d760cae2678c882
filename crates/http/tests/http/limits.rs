//! Who asks too often is told to wait.

use std::{net::SocketAddr, num::NonZeroU32};

use axum::{
    body::Body,
    extract::ConnectInfo,
    http::{Method, Request},
};
use symbolon_domain::{api_key::KeyScope, ports::MockConnectors};
use symbolon_http::LimitSettings;

use crate::app::{ADMIN, App, Mocks, key_with, request};

const PATH: &str = "/v1/provider-types";

fn app(limits: LimitSettings) -> App {
    let mut connectors = MockConnectors::new();
    connectors.expect_types().returning(Vec::new);
    Mocks { connectors, ..Mocks::default() }.app_with(limits)
}

fn from(peer: &str, key: &str, forwarded: Option<&str>) -> Request<Body> {
    let mut request = request(Method::GET, PATH, key, None);
    let peer: SocketAddr = format!("{peer}:1234").parse().unwrap();
    request.extensions_mut().insert(ConnectInfo(peer));
    if let Some(forwarded) = forwarded {
        request.headers_mut().insert("x-forwarded-for", forwarded.parse().unwrap());
    }
    request
}

/// How many requests without a valid key are refused as such before the address must wait.
async fn failures(app: &App, peer: &str, forwarded: Option<&str>) -> usize {
    for number in 0..100 {
        let answer = app.send(from(peer, "sym_guess", forwarded)).await;
        if answer.status == 429 {
            answer.problem(429, "rate_limited");
            assert_eq!(answer.header("retry-after"), "1");
            return number;
        }
        answer.problem(401, "unauthenticated");
    }
    panic!("nobody is stopped");
}

#[tokio::test]
async fn an_address_that_guesses_keys_must_wait_and_its_neighbours_and_good_keys_need_not() {
    let app = app(LimitSettings::default());
    // More come through where the machine takes seconds for them.
    assert!(failures(&app, "203.0.113.1", None).await >= 10);
    assert_eq!(app.send(from("203.0.113.1", ADMIN, None)).await.status, 200);
    app.send(from("203.0.113.2", "sym_guess", None)).await.problem(401, "unauthenticated");
}

#[tokio::test]
async fn behind_a_trusted_proxy_the_forwarded_address_counts_and_otherwise_it_does_not() {
    let trusted_proxies = vec!["10.0.0.0/8".parse().unwrap()];
    let app = app(LimitSettings { trusted_proxies, ..LimitSettings::default() });
    failures(&app, "10.0.0.1", Some("198.51.100.1")).await;
    let other = from("10.0.0.1", "sym_guess", Some("198.51.100.2"));
    app.send(other).await.problem(401, "unauthenticated");

    failures(&app, "203.0.113.1", Some("198.51.100.3")).await;
    let invented = from("203.0.113.1", "sym_guess", Some("198.51.100.4"));
    app.send(invented).await.problem(429, "rate_limited");
}

#[tokio::test]
async fn a_key_has_as_many_requests_a_second_as_the_operator_says() {
    let requests_per_second_per_key = NonZeroU32::new(1);
    let app = app(LimitSettings { requests_per_second_per_key, ..LimitSettings::default() });
    let key = key_with(KeyScope::ProvidersRead);
    let mut refused = 0;
    for _ in 0..20 {
        let answer = app.send(from("203.0.113.1", &key, None)).await;
        if answer.status == 429 {
            answer.problem(429, "rate_limited");
            assert_eq!(answer.header("retry-after"), "1");
            refused += 1;
        } else {
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    }
    assert!(refused > 0);
    let unlimited = self::app(LimitSettings::default());
    for _ in 0..20 {
        assert_eq!(unlimited.send(from("203.0.113.1", &key, None)).await.status, 200);
    }
}
