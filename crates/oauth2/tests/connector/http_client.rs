//! The guarded client by itself, as other crates use it.

use std::time::{Duration, Instant};

use symbolon_domain::ports::Sent;
use symbolon_oauth2::http::{BodyError, HttpError, HttpRequest, HttpResponse};
use tokio::io::AsyncWriteExt as _;
use url::Url;

use crate::{
    provider::{loopback, loopback_within},
    raw_server::RawServer,
};

/// What `loopback()` takes at most.
const MOST: usize = 64 * 1024;

async fn get(server: &RawServer) -> Result<HttpResponse, HttpError> {
    loopback().send(HttpRequest::get(Url::parse(&server.uri).unwrap())).await
}

#[tokio::test]
async fn a_body_up_to_the_cap_is_read_and_one_byte_more_is_not() {
    for (length, expected) in [(MOST, Ok(MOST)), (MOST + 1, Err(BodyError::TooLarge))] {
        let body = "x".repeat(length);
        for answer in [
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"),
            format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{body}"),
            format!(
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
            ),
        ] {
            let server = RawServer::saying(answer).await;
            let answer = get(&server).await.unwrap();
            assert_eq!(answer.status, 200);
            assert_eq!(answer.body.map(|it| it.len()), expected);
        }
    }
}

#[tokio::test]
async fn a_compressed_body_is_not_read() {
    let server = RawServer::saying(
        "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nx",
    )
    .await;
    assert_eq!(get(&server).await.unwrap().body, Err(BodyError::Encoded));
}

#[tokio::test]
async fn a_lost_body_does_not_hide_the_status() {
    let server = RawServer::saying("HTTP/1.1 204 No\r\nx: y\r\n\r\n").await;
    let answer = get(&server).await.unwrap();
    assert_eq!((answer.status, answer.header("x")), (204, Some("y")));

    let server = RawServer::saying("HTTP/1.1 503 No\r\ncontent-length: 9\r\n\r\nx").await;
    let answer = get(&server).await.unwrap();
    assert_eq!((answer.status, answer.body), (503, Err(BodyError::Broken)));
}

#[tokio::test]
async fn a_header_that_http_cannot_carry_is_not_sent() {
    let server = RawServer::saying("HTTP/1.1 200 OK\r\n\r\n").await;
    let url = Url::parse(&server.uri).unwrap();
    for request in [
        HttpRequest::get(url.clone()).with_header("x", "a\r\nhost: attacker.example"),
        HttpRequest::get(url.clone()).with_header("x y", "a"),
        HttpRequest::get(url).bearer(&symbolon_domain::secret::Secret::new("a\nb")),
    ] {
        let error = loopback().send(request).await.unwrap_err();
        assert!(matches!(error, HttpError::NotSent(_)), "{error}");
        assert_eq!(error.sent(), Sent::No);
    }
    assert_eq!(server.requests(), 0);
}

#[tokio::test]
async fn one_deadline_covers_the_whole_call() {
    let server = RawServer::start(|mut stream| async move {
        // Each pause by itself is far below the deadline.
        for part in "HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n".as_bytes().chunks(4) {
            let _ = stream.write_all(part).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let client = loopback_within(Duration::from_secs(1));
    let begun = Instant::now();
    let answer = client.send(HttpRequest::get(Url::parse(&server.uri).unwrap())).await.unwrap();
    assert_eq!(answer.body, Err(BodyError::Broken));
    // The server alone would take 100 seconds.
    assert!(begun.elapsed() < Duration::from_secs(30));
}
