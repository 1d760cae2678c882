use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request},
    http::{
        HeaderName, HeaderValue, Method,
        header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt as _;
use metrics::{counter, histogram};
use symbolon_domain::secret::Secret;
use tracing::{Instrument as _, field};

use crate::error::{self, ApiError};

/// Counts answered requests, by `route` (its template), `method` and `status`.
pub const REQUESTS: &str = "http_requests_total";

/// How long requests took to answer, in seconds, by `route` (its template), `method` and `status`.
pub const REQUEST_DURATION: &str = "http_request_duration_seconds";

/// Buckets for [`REQUEST_DURATION`], in seconds: from a token out of the database to a slow
/// provider.
pub const REQUEST_DURATION_BUCKETS: [f64; 13] =
    [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Names a request in its response, in problems and in the log.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) Arc<str>);

impl RequestId {
    /// The caller's own, where it sent a well-formed one; otherwise a new one.
    fn of(request: &Request) -> Self {
        let given = request.headers().get(&X_REQUEST_ID).and_then(|it| it.to_str().ok());
        Self(given.filter(|it| is_well_formed(it)).map_or_else(Self::next, Arc::from))
    }

    /// Unique among all replicas: a random part of this process and a count.
    fn next() -> Arc<str> {
        static PROCESS: LazyLock<String> =
            LazyLock::new(|| Secret::random().expose().chars().take(11).collect());
        static COUNT: AtomicU64 = AtomicU64::new(1);
        format!("{}.{:x}", *PROCESS, COUNT.fetch_add(1, Ordering::Relaxed)).into()
    }
}

fn is_well_formed(id: &str) -> bool {
    (1..=64).contains(&id.len())
        && id.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'.' | b'_' | b'-'))
}

/// Around every request: its id, its span, one log line, the metrics, the body of problems, and
/// what every response carries. A panic becomes an `internal_error`.
pub(crate) async fn observe(mut request: Request, next: Next) -> Response {
    let start = Instant::now();
    let id = RequestId::of(&request);
    let method = method_label(request.method());
    let matched = request.extensions().get::<MatchedPath>().cloned();
    let route = matched.as_ref().map_or("unmatched", MatchedPath::as_str);
    let span =
        tracing::info_span!("request", method, route, request_id = &*id.0, key = field::Empty,);
    request.extensions_mut().insert(id.clone());

    let answer = AssertUnwindSafe(next.run(request)).catch_unwind().instrument(span.clone()).await;
    let _entered = span.entered();
    let mut response = answer.unwrap_or_else(|_| {
        tracing::error!("a handler panicked");
        ApiError::internal().into_response()
    });
    error::render(&mut response, &id.0);
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        headers.insert(X_REQUEST_ID, id);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));

    let duration = start.elapsed();
    let status = response.status();
    let labels = [
        ("route", metrics::SharedString::from(route.to_owned())),
        ("method", metrics::SharedString::const_str(method)),
        ("status", metrics::SharedString::from(status.as_str().to_owned())),
    ];
    counter!(REQUESTS, &labels).increment(1);
    histogram!(REQUEST_DURATION, &labels).record(duration);

    let (status, duration_ms) = (status.as_u16(), duration.as_secs_f64() * 1000.0);
    if matches!(route, "/healthz" | "/readyz" | "/metrics") {
        tracing::debug!(status, duration_ms, "answered");
    } else {
        tracing::info!(status, duration_ms, "answered");
    }
    response
}

/// A method as a label: a caller's own inventions are one value, so that labels stay few.
fn method_label(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        _ => "OTHER",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_that_could_break_a_log_line_is_not_taken() {
        for (id, good) in [
            ("abc-DEF_1.2", true),
            (&*"x".repeat(64), true),
            (&*"x".repeat(65), false),
            ("", false),
            ("a b", false),
            ("a\"b", false),
            ("é", false),
        ] {
            assert_eq!(is_well_formed(id), good, "{id:?}");
        }
        assert!(is_well_formed(&RequestId::next()));
        assert_ne!(RequestId::next(), RequestId::next());
    }
}
