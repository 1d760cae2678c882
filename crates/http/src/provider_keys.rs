//! The public halves of the keys that our clients sign with, for the providers that verify them.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{HeaderName, header},
};
use serde_json::{Value, json};
use symbolon_domain::{ids::ProviderId, services::Providers};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    error::ApiError,
    request::{Segment, row_id},
};

/// Providers may keep them so long. A key that is to sign next is published well before.
const CACHE: &str = "public, max-age=300";

pub(crate) fn router(providers: Arc<Providers>) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(provider_keys)).with_state(providers)
}

/// Answers the keys of our client at one provider instance, as a JSON Web Key Set (RFC 7517).
///
/// It is the `jwks_uri` to register there for `private_key_jwt`. Needs no API key.
#[utoipa::path(
    get,
    path = "/jwks/{provider_id}",
    tag = "browser",
    params(("provider_id" = i64, Path)),
    responses(
        (status = 200, description = "The keys; none where the client has a secret or nothing", body = Object),
        (status = 400, description = "`invalid_request`"),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn provider_keys(
    State(providers): State<Arc<Providers>>,
    Segment(provider_id): Segment,
) -> Result<([(HeaderName, &'static str); 1], Json<Value>), ApiError> {
    let id = row_id(&provider_id).map(ProviderId);
    let id = id.ok_or_else(|| ApiError::invalid("provider_id", "must be a positive integer"))?;
    let (_, connector) = providers.connect(id).await?;
    let keys = json!({ "keys": connector.public_keys() });
    Ok(([(header::CACHE_CONTROL, CACHE)], Json(keys)))
}
