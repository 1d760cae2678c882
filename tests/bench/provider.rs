//! A provider in a process of its own: discovery, and a token endpoint that rotates and counts.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Form, Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What it knows, and has seen.
#[derive(Default)]
struct Provider {
    /// Which refresh token of each account is good now; an account begins with 0.
    current: Mutex<HashMap<String, u64>>,
    refreshes: AtomicU64,
    duplicates: AtomicU64,
    delay_ms: AtomicU64,
}

/// Serves at `BENCH_LISTEN`: each path `/LIFE` is an issuer whose access tokens live that long.
pub(crate) async fn serve() {
    let address = std::env::var("BENCH_LISTEN").unwrap();
    let base = format!("http://{address}");
    let discovery = move |Path(life): Path<u64>| {
        let issuer = format!("{base}/{life}");
        async move {
            Json(json!({
                "issuer": issuer,
                "authorization_endpoint": format!("{issuer}/authorize"),
                "token_endpoint": format!("{issuer}/token"),
                "jwks_uri": format!("{issuer}/jwks"),
                "response_types_supported": ["code"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }))
        }
    };
    let app = Router::new()
        .route("/{life}/.well-known/openid-configuration", get(discovery))
        .route("/{life}/token", post(token))
        .route("/delay/{ms}", post(delay))
        .route("/figures", get(figures))
        .with_state(Arc::new(Provider::default()));
    let listener = TcpListener::bind(address).await.unwrap();
    axum::serve(listener, app).await.unwrap();
}

/// The refresh token of this number of an account.
pub(crate) fn refresh_token(account: &str, number: u64) -> String {
    format!("refresh.{account}.{number}")
}

async fn token(
    State(provider): State<Arc<Provider>>,
    Path(life): Path<u64>,
    Form(form): Form<HashMap<String, String>>,
) -> (StatusCode, Json<Value>) {
    let delay = provider.delay_ms.load(Ordering::Relaxed);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    let refused = || (StatusCode::BAD_REQUEST, Json(json!({"error": "invalid_grant"})));
    let parts: Vec<&str> =
        form.get("refresh_token").map(|it| it.split('.').collect()).unwrap_or_default();
    let ["refresh", account, number] = parts.as_slice() else { return refused() };
    let Ok(number) = number.parse::<u64>() else { return refused() };
    {
        let mut current = provider.current.lock().unwrap();
        let good = current.entry((*account).to_owned()).or_default();
        if number != *good {
            provider.duplicates.fetch_add(1, Ordering::Relaxed);
            return refused();
        }
        *good += 1;
    }
    provider.refreshes.fetch_add(1, Ordering::Relaxed);
    let answer = json!({
        // As long as a signed access token usually is.
        "access_token": format!("{account}.{number:0>680}"),
        "refresh_token": refresh_token(account, number + 1),
        "token_type": "Bearer",
        "expires_in": life,
    });
    (StatusCode::OK, Json(answer))
}

async fn delay(State(provider): State<Arc<Provider>>, Path(ms): Path<u64>) {
    provider.delay_ms.store(ms, Ordering::Relaxed);
}

async fn figures(State(provider): State<Arc<Provider>>) -> Json<Value> {
    Json(json!({
        "refreshes": provider.refreshes.load(Ordering::Relaxed),
        "duplicates": provider.duplicates.load(Ordering::Relaxed),
    }))
}
