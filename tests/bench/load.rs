use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use crate::servers::Server;

/// What a run of closed-loop callers saw.
pub(crate) struct Load {
    elapsed: Duration,
    /// Microseconds, ascending.
    latencies: Vec<u32>,
    /// Answers whose status was not 200.
    pub(crate) failures: usize,
}

impl Load {
    /// What was measured elsewhere, in microseconds; none of it failed.
    pub(crate) fn of(elapsed: Duration, mut latencies: Vec<u32>) -> Self {
        latencies.sort_unstable();
        Self { elapsed, latencies, failures: 0 }
    }

    pub(crate) fn per_second(&self) -> f64 {
        self.latencies.len() as f64 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn percentile_ms(&self, part: f64) -> f64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index")]
        let index = ((self.latencies.len() as f64 * part) as usize).min(self.latencies.len() - 1);
        f64::from(self.latencies[index]) / 1e3
    }
}

/// Each connection sends its next request when the last one is answered.
pub(crate) async fn run(server: &Server, connections: usize, time: Duration) -> Load {
    run_at(server.address, &server.requests, connections, time).await
}

/// One connection, and what was read from it.
pub(crate) struct Caller(TcpStream, Vec<u8>);

impl Caller {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap(), Vec::with_capacity(2048))
    }

    /// Sends one request, and tells whether it was answered with 200.
    pub(crate) async fn ask(&mut self, request: &[u8]) -> bool {
        self.0.write_all(request).await.unwrap();
        is_ok(&mut self.0, &mut self.1).await
    }
}

/// The same at an address.
pub(crate) async fn run_at(
    address: SocketAddr,
    requests: &Arc<Vec<Vec<u8>>>,
    connections: usize,
    time: Duration,
) -> Load {
    let start = Instant::now();
    let mut callers = JoinSet::new();
    for caller in 0..connections {
        let requests = Arc::clone(requests);
        callers.spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            let (mut latencies, mut failures) = (Vec::new(), 0);
            let mut buffer = Vec::with_capacity(8192);
            let mut turn = caller * 31;
            while start.elapsed() < time {
                let sent = Instant::now();
                stream.write_all(&requests[turn % requests.len()]).await.unwrap();
                if !is_ok(&mut stream, &mut buffer).await {
                    failures += 1;
                }
                latencies.push(u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX));
                turn += 1;
            }
            (latencies, failures)
        });
    }
    let (mut latencies, mut failures) = (Vec::new(), 0);
    for (more, failed) in callers.join_all().await {
        latencies.extend(more);
        failures += failed;
    }
    latencies.sort_unstable();
    Load { elapsed: start.elapsed(), latencies, failures }
}

/// Reads one HTTP/1.1 answer whole.
async fn is_ok(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    buffer.clear();
    loop {
        assert!(stream.read_buf(buffer).await.unwrap() > 0, "the server closed the connection");
        if let Some(end) = find(buffer, b"\r\n\r\n") {
            let length = content_length(&buffer[..end]);
            while buffer.len() < end + 4 + length {
                assert!(stream.read_buf(buffer).await.unwrap() > 0, "the answer was cut");
            }
            return buffer.starts_with(b"HTTP/1.1 200");
        }
    }
}

pub(crate) fn content_length(head: &[u8]) -> usize {
    let head = std::str::from_utf8(head).unwrap();
    let line = head
        .lines()
        .find_map(|it| it.to_ascii_lowercase().strip_prefix("content-length:").map(str::to_owned))
        .expect("the answer says how long it is");
    line.trim().parse().unwrap()
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|it| it == needle)
}
