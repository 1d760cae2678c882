use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::{
        Path, Query, Request, State,
        rejection::{JsonRejection, QueryRejection},
    },
    http::{StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{get, post},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    answer::Answer, endpoint::Endpoint, fault::Fault, faults::Times, keys::SigningAlgorithm, page,
    provider::Provider,
};

type Provided = State<Arc<Provider>>;

/// The control endpoints, below `/sandbox`.
pub(crate) fn router() -> Router<Arc<Provider>> {
    Router::new()
        .route("/faults", get(list_faults).post(inject_fault).delete(clear_faults))
        .route("/records", get(list_records))
        .route("/expire-access-tokens", post(expire_access_tokens))
        .route("/revoke-grants", post(revoke_grants))
        .route("/rotate-keys", post(rotate_keys))
        .layer(middleware::from_fn(not_from_another_site))
}

/// Refuses what another site's page makes the browser send.
async fn not_from_another_site(request: Request, next: Next) -> Response {
    let site = request.headers().get("sec-fetch-site");
    if site.is_none_or(|it| it == "same-origin" || it == "none") {
        return next.run(request).await;
    }
    Answer::text(StatusCode::FORBIDDEN, "another site has no business here\n").into_response()
}

/// The page that says what this is.
pub(crate) async fn home(State(provider): Provided) -> Response {
    let active = provider.faults.active();
    let records = provider.records();
    let overview = page::Overview {
        issuer: &provider.issuer,
        accounts: &provider.accounts,
        clients: &provider.clients(),
        access_token_lifetime: provider.access_token_lifetime,
        active: &active,
        records: &records,
    };
    Answer::page(StatusCode::OK, page::home(&overview)).into_response()
}

/// The picture of an account, by its place among the accounts.
pub(crate) async fn avatar(State(provider): Provided, Path(place): Path<usize>) -> Response {
    let Some(account) = provider.accounts.get(place) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let picture = page::avatar(account, place, 128).into_string();
    ([(header::CONTENT_TYPE, "image/svg+xml")], picture).into_response()
}

/// A fault, as it is asked for over HTTP.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FaultBody {
    endpoint: Endpoint,
    fault: Fault,
    #[serde(default)]
    times: Option<u32>,
}

async fn list_faults(State(provider): Provided) -> Json<Value> {
    Json(json!({"items": provider.faults.active()}))
}

/// 201 with all faults.
async fn inject_fault(
    State(provider): Provided,
    body: Result<Json<FaultBody>, JsonRejection>,
) -> Response {
    let FaultBody { endpoint, fault, times } = match body {
        Ok(Json(body)) => body,
        Err(rejection) => return refused(rejection.status(), &rejection.body_text()),
    };
    let times = times.map_or(Times::UntilCleared, Times::Next);
    match provider.faults.inject(endpoint, fault, times) {
        Ok(()) => (StatusCode::CREATED, list_faults(State(provider)).await).into_response(),
        Err(invalid) => refused(StatusCode::BAD_REQUEST, &invalid.to_string()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClearQuery {
    endpoint: Option<Endpoint>,
}

async fn clear_faults(
    State(provider): Provided,
    query: Result<Query<ClearQuery>, QueryRejection>,
) -> Response {
    match query {
        Ok(Query(ClearQuery { endpoint: Some(endpoint) })) => provider.faults.clear(endpoint),
        Ok(Query(ClearQuery { endpoint: None })) => provider.faults.clear_all(),
        Err(rejection) => return refused(rejection.status(), &rejection.body_text()),
    }
    StatusCode::NO_CONTENT.into_response()
}

async fn list_records(
    State(provider): Provided,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let Ok(after) = query.get("after").map_or(Ok(0), |it| it.parse::<u64>()) else {
        return refused(StatusCode::BAD_REQUEST, "after: expected a record's number");
    };
    let mut records = provider.records();
    records.items.retain(|it| it.number > after);
    Json(records).into_response()
}

async fn expire_access_tokens(State(provider): Provided) -> Json<Value> {
    let expired = provider.grants().expire_access_tokens(provider.clock.now());
    Json(json!({"expired": expired}))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeBody {
    sub: String,
}

async fn revoke_grants(
    State(provider): Provided,
    body: Result<Json<RevokeBody>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(RevokeBody { sub })) => {
            Json(json!({"revoked": provider.grants().revoke_grants_of(&sub)})).into_response()
        }
        Err(rejection) => refused(rejection.status(), &rejection.body_text()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateBody {
    #[serde(default)]
    algorithm: Option<SigningAlgorithm>,
    /// Whether the older keys are published no longer.
    #[serde(default)]
    retire: bool,
}

/// The keys that are published now.
async fn rotate_keys(
    State(provider): Provided,
    body: Result<Json<RotateBody>, JsonRejection>,
) -> Response {
    match body {
        Ok(Json(RotateBody { algorithm, retire })) => {
            let mut keys = provider.keys();
            let algorithm = algorithm.unwrap_or_else(|| keys.current().algorithm());
            keys.rotate(algorithm, retire);
            Json(keys.jwks()).into_response()
        }
        Err(rejection) => refused(rejection.status(), &rejection.body_text()),
    }
}

fn refused(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({"error": why}))).into_response()
}
