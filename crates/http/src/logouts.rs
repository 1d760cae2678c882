//! Providers that tell that a user's session ended
//! ([OpenID Connect Back-Channel Logout 1.0](https://openid.net/specs/openid-connect-backchannel-1_0.html)).

use std::sync::Arc;

use axum::{
    Json,
    extract::{Request, State},
    http::{
        HeaderValue, StatusCode,
        header::{CACHE_CONTROL, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;
use symbolon_domain::{ids::ProviderId, secret::Secret, services::Logouts};
use url::form_urlencoded;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    error::ApiError,
    limits::Limits,
    request::{Segment, read_body, row_id},
};

/// Most bytes of a request: twice the longest token, as a form writes it.
const LIMIT: usize = 64 * 1024;

/// What the route needs.
#[derive(Clone)]
pub(crate) struct LogoutRoutes {
    pub(crate) logouts: Arc<Logouts>,
    /// Tokens that prove nothing are counted like keys that are none.
    pub(crate) limits: Limits,
}

pub(crate) fn router(state: LogoutRoutes) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(log_out)).with_state(state)
}

/// A logout that was not taken.
#[derive(Serialize, ToSchema)]
#[schema(as = LogoutError)]
struct RefusedBody {
    /// What went wrong, to match on.
    #[schema(example = "invalid_request")]
    error: &'static str,
    /// What went wrong and what to do, for people.
    error_description: String,
}

/// Takes a provider's word that it ended a user's session.
///
/// It is the `backchannel_logout_uri` to register there. Needs no API key: the token is signed by
/// the provider. Each link of the account is told of by an event, `identity.logged_out` or
/// `auth_identity.logged_out`; an account that nobody has linked is answered the same.
#[utoipa::path(
    post,
    path = "/backchannel-logout/{provider_id}",
    tag = "browser",
    params(("provider_id" = i64, Path)),
    request_body(content = String, content_type = "application/x-www-form-urlencoded",
        description = "`logout_token`"),
    responses(
        (status = 200, description = "Taken", headers(("Cache-Control" = String))),
        (status = 400, description = "`invalid_request`: the token is not one of this provider that \
            can be acted on, or was taken before", body = RefusedBody),
        (status = 404, description = "`not_found`", body = RefusedBody),
        (status = 413, description = "`payload_too_large`", body = RefusedBody),
        (status = 429, description = "`rate_limited`: too many tokens from this address that prove \
            nothing", body = RefusedBody, headers(("Retry-After" = u64))),
        (status = 502, description = "`provider_misconfigured`", body = RefusedBody),
        (status = 503, description = "`provider_unavailable` or `service_unavailable`",
            body = RefusedBody, headers(("Retry-After" = u64))),
    ),
)]
async fn log_out(
    State(routes): State<LogoutRoutes>,
    Segment(provider_id): Segment,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let request = Request::from_parts(parts.clone(), body);
    let answer = match take(&routes, &provider_id, request).await {
        Ok(()) => StatusCode::OK.into_response(),
        Err(error) if error.status().is_client_error() => match routes.limits.failed(&parts) {
            Ok(()) => refused(&error),
            Err(wait) => {
                let detail = "too many logouts from this address were refused; try again later";
                refused(&ApiError::rate_limited(detail, wait))
            }
        },
        Err(error) => refused(&error),
    };
    ([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], answer).into_response()
}

async fn take(routes: &LogoutRoutes, provider: &str, request: Request) -> Result<(), ApiError> {
    let provider = row_id(provider).map(ProviderId);
    let provider =
        provider.ok_or_else(|| ApiError::invalid("provider_id", "must be a positive integer"))?;
    let token = logout_token(&read_body(request, LIMIT).await?)?;
    Ok(routes.logouts.receive(provider, &token).await?)
}

/// The one `logout_token` of a form; what else is in it is nobody's business here (§2.5).
fn logout_token(form: &[u8]) -> Result<Secret, ApiError> {
    let mut tokens = form_urlencoded::parse(form).filter(|(name, _)| name == "logout_token");
    match (tokens.next(), tokens.next()) {
        (Some((_, token)), None) if !token.is_empty() => Ok(Secret::new(&*token)),
        (None, _) | (Some(_), None) => {
            Err(ApiError::invalid("logout_token", "is missing: send it in a form"))
        }
        (Some(_), Some(_)) => Err(ApiError::invalid("logout_token", "must not be repeated")),
    }
}

fn refused(error: &ApiError) -> Response {
    error.log();
    let body = RefusedBody { error: error.code(), error_description: error.detail().to_owned() };
    let mut response = (error.status(), Json(body)).into_response();
    if let Some(seconds) = error.retry_after_seconds() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
