//! Sentry's own RPC form of the identity service, so that a Sentry deployment can call this
//! service in place of its own: `docs/sentry-rpc.md`.

mod arguments;
mod methods;
mod signature;

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header::WWW_AUTHENTICATE},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};
use symbolon_domain::{
    ports::{AuthIdentityRepository, CredentialsRepository, IdentityProviderRepository},
    secret::Secret,
    services::{Identities, Vending},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use self::signature::Signature;
use crate::{
    error::ApiError,
    request::{JSON_LIMIT, Segment, is_json, read_body},
};

/// What Sentry's RPC needs, where the operator has turned it on.
pub struct SentryRpc {
    /// What calls are signed with; any of them is good, so that they can be changed one side
    /// after the other.
    pub shared_secrets: Vec<Secret>,
    /// Whether opened credentials are answered inside `data`, as Sentry's own code expects them.
    pub include_credentials: bool,
    /// Provider instances.
    pub providers: Arc<dyn IdentityProviderRepository>,
    /// Identities.
    pub identities: Arc<Identities>,
    /// Accounts for organizations' single sign-on.
    pub auth_identities: Arc<dyn AuthIdentityRepository>,
    /// Opened credentials, unless something is frozen; asked for nothing unless they are included.
    pub vending: Vending,
    /// What was told before.
    pub credentials: Arc<dyn CredentialsRepository>,
}

pub(crate) fn router(rpc: SentryRpc) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(call)).with_state(Arc::new(rpc))
}

/// Calls a method of Sentry's identity service.
#[utoipa::path(
    post,
    path = "/api/0/internal/rpc/identity/{method}/",
    tag = "sentry",
    params(
        ("method" = String, Path, description = "For example `get_identities`"),
        ("Authorization" = String, Header,
            description = "`Rpcsignature rpc0:` and the HMAC-SHA256 of `{path}:{body}` in hexadecimal"),
    ),
    request_body(content = Object, example = json!({"args": {"filter": {"user_id": 1}}, "meta": {}})),
    responses(
        (status = 200, description = "`{\"meta\": {}, \"value\": …}`", body = Object),
        (status = 400, description = "`invalid_request`, `filter_required`"),
        (status = 401, description = "`unauthenticated`: signed with another secret, or another path or body was"),
        (status = 403, description = "`forbidden`: not signed"),
        (status = 404, description = "`not_found`: there is no such method"),
        (status = 422, description = "`too_many_identities`: ask for fewer"),
    ),
)]
async fn call(
    State(rpc): State<Arc<SentryRpc>>,
    Segment(method): Segment,
    request: Request,
) -> Response {
    match rpc.answer(&method, request).await {
        Ok(value) => Json(json!({"meta": {}, "value": value})).into_response(),
        Err(error) => {
            let mut response = error.into_response();
            if response.status() == StatusCode::UNAUTHORIZED {
                let scheme = HeaderValue::from_static("Rpcsignature");
                response.headers_mut().insert(WWW_AUTHENTICATE, scheme);
            }
            response
        }
    }
}

impl SentryRpc {
    /// The value of a call; in Sentry's order, so that each mistake has Sentry's status.
    async fn answer(&self, method: &str, request: Request) -> Result<Value, ApiError> {
        let signature = Signature::of(request.headers())?;
        let is_json = is_json(request.headers());
        let path = request.uri().path().to_owned();
        let body = read_body(request, JSON_LIMIT).await?;
        if !signature.is_of(&self.shared_secrets, &path, &body) {
            return Err(ApiError::bad_signature());
        }
        if !is_json {
            return Err(ApiError::not_json());
        }
        self.dispatch(method, &body).await
    }
}

/// The keys of `data` under which Sentry's code looks for credentials.
const CREDENTIAL_KEYS: [&str; 5] =
    ["access_token", "refresh_token", "id_token", "token_type", "expires"];

/// A JSON object.
type Object = Map<String, Value>;
