//! Every endpoint against every hostile answer: bounded in time and memory, with a typed error.

use std::time::Duration;

use serde_json::json;
use symbolon_domain::ports::ConnectorError;
use tokio::io::AsyncWriteExt as _;

use crate::{provider::Provider, raw_server::RawServer};

fn answer(head: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n{head}\r\n", body.len());
    [head.as_bytes(), body].concat()
}

async fn servers() -> Vec<(&'static str, RawServer)> {
    let deep = format!("{}1{}", r#"{"a":"#.repeat(10_000), "}".repeat(10_000));
    let mut gzip = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    gzip.extend([0; 100]);
    vec![
        ("empty", RawServer::saying(answer("", b"")).await),
        ("html", RawServer::saying(answer("content-type: text/html\r\n", b"<html></html>")).await),
        ("deep", RawServer::saying(answer("", deep.as_bytes())).await),
        ("twice", RawServer::saying(answer("", br#"{"sub":"a","sub":"b"}"#)).await),
        ("invalid UTF-8", RawServer::saying(answer("", b"{\"\xff\":1}")).await),
        ("infinite number", RawServer::saying(answer("", b"{\"a\":1e999}")).await),
        ("gzip", RawServer::saying(answer("content-encoding: gzip\r\n", &gzip)).await),
        ("announced too large", {
            RawServer::saying("HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n{").await
        }),
        ("many keys", {
            let keys = format!(r#"{{"keys":[{}]}}"#, vec!["{}"; 20_000].join(","));
            RawServer::saying(answer("", keys.as_bytes())).await
        }),
        ("a header without end", {
            RawServer::start(|mut stream| async move {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nx: ").await;
                while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
            })
            .await
        }),
        ("a body without end", {
            RawServer::start(|mut stream| async move {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                while stream.write_all(&[b' '; 4096]).await.is_ok() {}
            })
            .await
        }),
        ("a slow body", {
            RawServer::start(|mut stream| async move {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                while stream.write_all(b" ").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            })
            .await
        }),
        ("informational without end", {
            RawServer::start(|mut stream| async move {
                while stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_ok() {
                    tokio::task::yield_now().await;
                }
            })
            .await
        }),
    ]
}

#[tokio::test]
async fn a_hostile_answer_is_a_typed_error_and_never_a_success() {
    for (name, server) in servers().await {
        for endpoint in ["jwks_uri", "token_endpoint", "userinfo_endpoint"] {
            let provider = Provider::within(Duration::from_millis(800)).await;
            provider.publish(&json!({endpoint: server.uri}));
            let exchanged = provider.exchange().await;
            let result = match (endpoint, exchanged) {
                ("userinfo_endpoint", Ok(grant)) => {
                    provider.connector().build_identity(&grant).await.map(drop)
                }
                (_, other) => other.map(drop),
            };
            match result {
                Err(ConnectorError::Unavailable { .. }) => {}
                // A profile with no or another subject.
                Err(ConnectorError::Untrusted { .. }) if endpoint == "userinfo_endpoint" => {}
                other => panic!("{name} at {endpoint}: {other:?}"),
            }
        }
        // The discovery document itself.
        let provider = Provider::within(Duration::from_millis(800)).await;
        let connector = provider.connector_with(&json!({"issuer": server.uri}));
        match connector.reachable().await {
            Err(ConnectorError::Unavailable { .. } | ConnectorError::Misconfigured { .. }) => {}
            other => panic!("{name} as discovery document: {other:?}"),
        }
    }
}
