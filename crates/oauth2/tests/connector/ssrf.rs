//! No connection is opened to where it must not go.

use std::{io::ErrorKind, net::TcpListener, sync::Arc, time::Duration};

use serde_json::json;
use symbolon_domain::ports::{Connectors as _, Sent};
use symbolon_oauth2::{
    Registry,
    http::{HttpClient, HttpError, HttpRequest, HttpSettings},
};
use url::Url;
use wiremock::ResponseTemplate;

use crate::{
    assert_refused,
    provider::{
        DISCOVERY, Provider, TestClock, authorization_request, instance, loopback, object, ok,
    },
    raw_server::RawServer,
};

/// Listens on loopback; nobody may come.
struct Forbidden(Vec<TcpListener>);

impl Forbidden {
    fn start() -> (Self, u16) {
        let v4 = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = v4.local_addr().unwrap().port();
        // The same port on IPv6, where there is IPv6.
        let listeners = [Some(v4), TcpListener::bind(("::1", port)).ok()];
        let listeners: Vec<_> = listeners.into_iter().flatten().collect();
        for listener in &listeners {
            listener.set_nonblocking(true).unwrap();
        }
        (Self(listeners), port)
    }

    fn nobody_came(&self) -> bool {
        self.0.iter().all(|it| it.accept().is_err_and(|it| it.kind() == ErrorKind::WouldBlock))
    }
}

fn targets(port: u16) -> Vec<String> {
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.0.0.1.",
        "0.0.0.0",
        "0",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::127.0.0.1]",
        "[2002:7f00:1::]",
        "localhost",
        "LOCALHOST",
        "localhost.",
    ]
    .iter()
    .map(|host| format!("https://{host}:{port}/"))
    .collect()
}

#[tokio::test]
async fn no_connection_is_opened_to_an_address_that_is_not_public() {
    let (forbidden, port) = Forbidden::start();
    let client = HttpClient::new(HttpSettings::default()).unwrap();
    for target in targets(port) {
        let url = Url::parse(&target).unwrap();
        let result = client.send(HttpRequest::get(url)).await;
        // A name without any address is as good: nothing was opened.
        match result {
            Err(HttpError::Refused(_)) => {}
            Err(HttpError::NotSent(_)) if target.contains("localhost.") => {}
            other => panic!("{target}: {other:?}"),
        }
    }
    assert!(forbidden.nobody_came());
}

#[tokio::test]
async fn a_name_that_leads_to_loopback_is_refused_when_connecting() {
    let (forbidden, port) = Forbidden::start();
    let url = Url::parse(&format!("http://localhost:{port}/")).unwrap();
    let with = |allow_private_networks| {
        let settings = HttpSettings {
            timeout: Duration::from_secs(1),
            allow_http: true,
            allow_private_networks,
            ..HttpSettings::default()
        };
        HttpClient::new(settings).unwrap()
    };
    for request in
        [HttpRequest::get(url.clone()), HttpRequest::get(url.clone()).over_its_own_connection()]
    {
        let result = with(false).send(request).await;
        assert!(matches!(&result, Err(HttpError::Refused(_))), "{result:?}");
        assert_eq!(result.unwrap_err().sent(), Sent::No);
    }
    assert!(forbidden.nobody_came());
    // The same listener is found by a client that may go there.
    assert!(matches!(with(true).send(HttpRequest::get(url)).await, Err(HttpError::Unknown(_))));
    assert!(!forbidden.nobody_came());
}

#[tokio::test]
async fn an_issuer_that_is_not_public_is_refused_when_it_is_configured_or_asked() {
    let (forbidden, port) = Forbidden::start();
    let http = HttpClient::new(HttpSettings::default()).unwrap();
    let registry = Registry::new(http, Arc::new(TestClock::new()));
    let secrets = [].into();
    for target in targets(port) {
        let config = object(&json!({"issuer": target, "client_id": "client"}));
        match registry.connect(&instance("oidc", config), &secrets) {
            Err(error) => assert_eq!(error.field, "issuer"),
            Ok(connector) => {
                assert!(target.to_lowercase().contains("localhost"), "{target}");
                assert!(connector.authorize(&authorization_request()).await.is_err());
                assert!(connector.reachable().await.is_err());
            }
        }
    }
    assert!(forbidden.nobody_came());
}

/// That a private address in the metadata is refused is a unit test of the metadata: here the
/// provider itself is on loopback.
#[tokio::test]
async fn an_endpoint_that_is_not_allowed_is_refused_and_nothing_is_sent_there() {
    for endpoint in [
        "authorization_endpoint",
        "token_endpoint",
        "jwks_uri",
        "userinfo_endpoint",
        "revocation_endpoint",
    ] {
        for target in [
            "ftp://127.0.0.1/",
            "gopher://127.0.0.1/",
            "file:///etc/passwd",
            "http://user:password@127.0.0.1/",
            "http://127.0.0.1/#fragment",
        ] {
            let provider = Provider::start().await;
            provider.publish(&json!({endpoint: target}));
            assert_refused!(provider.exchange().await, Misconfigured);
            assert!(provider.requests("/token").await.is_empty());
        }
    }
}

#[tokio::test]
async fn redirects_are_followed_nowhere() {
    let (forbidden, port) = Forbidden::start();
    let location = format!("http://127.0.0.1:{port}/");
    for path in [DISCOVERY, "/jwks", "/token", "/userinfo", "/revoke"] {
        for status in [301, 302, 303, 307, 308] {
            let provider = Provider::start().await;
            let connector = provider.connector();
            let grant = provider.exchange().await.unwrap();
            provider.clock.advance(3600);
            provider.answer_id_token(
                &provider.id_token(&provider.claims_with(&json!({"exp": 1_800_000_000}))),
            );
            let redirect =
                ResponseTemplate::new(status).insert_header("location", location.as_str());
            provider.answer(path, redirect);
            assert!(
                provider.exchange().await.is_err()
                    || connector.build_identity(&grant).await.is_err()
                    || connector.revoke(&grant.credentials).await.is_err(),
                "{path} {status}"
            );
        }
    }
    assert!(forbidden.nobody_came());
}

/// Runs itself once more, in a process of its own that has a proxy in its environment.
#[tokio::test]
async fn a_proxy_in_the_environment_is_not_used() {
    const TARGET: &str = "SYMBOLON_TEST_TARGET";
    if let Ok(target) = std::env::var(TARGET) {
        let url = Url::parse(&target).unwrap();
        let answer = loopback().send(HttpRequest::get(url)).await.unwrap();
        assert_eq!(answer.status, 200);
        return;
    }
    let target = RawServer::saying("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let proxy = RawServer::saying("HTTP/1.1 502 Proxy\r\ncontent-length: 0\r\n\r\n").await;
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "ssrf::a_proxy_in_the_environment_is_not_used"]);
    for name in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
        child.env(name, &proxy.uri);
    }
    child.env_remove("NO_PROXY").env_remove("no_proxy").env(TARGET, &target.uri);
    let output = child.output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!((target.requests(), proxy.requests()), (1, 0));
}

#[tokio::test]
async fn nothing_is_sent_that_was_not_asked_for() {
    let provider = Provider::start().await;
    let url = Url::parse(&format!("{}/plain", provider.issuer)).unwrap();
    let client = loopback();
    provider.answer("/plain", ok(&json!({})).insert_header("set-cookie", "a=b; Path=/"));
    for _ in 0..2 {
        client.send(HttpRequest::get(url.clone())).await.unwrap();
    }
    let request = &provider.requests("/plain").await[1];
    for name in ["cookie", "referer", "authorization"] {
        assert!(!request.headers.contains_key(name), "{name}");
    }
    assert_eq!(request.headers["accept-encoding"], "identity");
}
