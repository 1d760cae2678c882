use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use axum::{
    Json,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

/// Whether this replica can serve.
#[async_trait]
pub trait Readiness: Send + Sync {
    /// What is not ready: the database does not answer, migrations are missing. Empty when
    /// requests can be served. Anybody may read it.
    async fn unready(&self) -> Vec<Unready>;
}

/// One thing that is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Unready {
    /// What, in one word, for example `database`.
    #[schema(example = "database")]
    pub name: &'static str,
    /// What to do about it, in words of ours.
    #[schema(example = "does not answer")]
    pub detail: &'static str,
}

/// Renders the process's metrics in Prometheus' text format.
pub type RenderMetrics = Arc<dyn Fn() -> String + Send + Sync>;

/// How long the check may take before it counts as failed.
const DEADLINE: Duration = Duration::from_secs(5);

/// What the operator's routes need.
#[derive(Clone)]
pub(crate) struct OperationRoutes {
    pub(crate) readiness: Arc<dyn Readiness>,
    pub(crate) metrics: RenderMetrics,
}

pub(crate) fn router(state: OperationRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(health))
        .routes(routes!(ready))
        .routes(routes!(metrics))
        .with_state(state)
}

/// Says that the process runs.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "operations",
    responses((status = 200, description = "Always", body = String, example = "ok")),
)]
async fn health() -> &'static str {
    "ok"
}

/// Whether the service can serve.
#[derive(Serialize, ToSchema)]
#[schema(as = Readiness)]
struct ReadinessBody {
    /// `ready` or `not_ready`.
    #[schema(example = "ready")]
    status: &'static str,
    /// What is not ready.
    not_ready: Vec<Unready>,
}

/// Says whether the service can serve: the database answers and its migrations are applied.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operations",
    responses(
        (status = 200, description = "Ready", body = ReadinessBody),
        (status = 503, description = "Not ready; `not_ready` says why", body = ReadinessBody),
    ),
)]
async fn ready(State(routes): State<OperationRoutes>) -> (StatusCode, Json<ReadinessBody>) {
    let check = tokio::time::timeout(DEADLINE, routes.readiness.unready()).await;
    let not_ready = check.unwrap_or_else(|_| {
        vec![Unready { name: "readiness", detail: "the check did not end in time" }]
    });
    let (code, status) = if not_ready.is_empty() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    };
    (code, Json(ReadinessBody { status, not_ready }))
}

/// The process's metrics, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    responses((status = 200, description = "Prometheus' text format", body = String)),
)]
async fn metrics(State(routes): State<OperationRoutes>) -> Response {
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    ([(header::CONTENT_TYPE, kind)], (routes.metrics)()).into_response()
}
