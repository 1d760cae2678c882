use std::{borrow::Cow, error::Error as StdError, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use serde::Serialize;
use symbolon_domain::{Error, ports::RepositoryError};
use utoipa::ToSchema;

/// A refused or failed request.
///
/// As a response it is only marked; [`render`] writes the body, because only there the request's
/// id is known.
#[derive(Clone, Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    /// A documented word that a program may match on.
    code: &'static str,
    /// What to do; holds no secret and nothing that a provider wrote.
    detail: Cow<'static, str>,
    retry_after: Option<Duration>,
    /// Logged, never sent.
    cause: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The body of every refused or failed request
/// ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem, example = json!({
    "type": "about:blank",
    "title": "Bad Request",
    "status": 400,
    "code": "invalid_request",
    "detail": "user_id: must be 1 to 255 characters and hold no control character",
    "request_id": "l2v8CwyyWgc-1f",
}))]
pub(crate) struct ProblemBody<'a> {
    /// Always `about:blank`: `code` tells the kind of problem.
    #[serde(rename = "type")]
    #[schema(example = "about:blank")]
    kind: &'static str,
    /// The status in words.
    title: &'static str,
    /// The status.
    status: u16,
    /// What went wrong, to match on.
    #[schema(example = "invalid_request")]
    code: &'static str,
    /// What went wrong and what to do, for people.
    detail: &'a str,
    /// Names this request in the logs.
    request_id: &'a str,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, code, detail: detail.into(), retry_after: None, cause: None }
    }

    /// Something in the request is missing, malformed or out of range.
    pub(crate) fn invalid(field: &str, problem: impl std::fmt::Display) -> Self {
        Error::invalid(field, problem.to_string()).into()
    }

    /// Of the accounts that a user has linked, none is meant.
    pub(crate) fn not_linked() -> Self {
        let detail = "the user has linked no such account, or none that this key may see: have it \
                      linked with POST /v1/link-sessions";
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// There is nothing at the path.
    pub(crate) fn no_route() -> Self {
        Error::NotFound("path").into()
    }

    /// The path does not take the method.
    pub(crate) fn method_not_allowed() -> Self {
        let detail = "this path does not take the method; the header `Allow` lists what it takes";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
    }

    /// The body is over the limit.
    pub(crate) fn too_large(limit: usize) -> Self {
        let detail = format!("the body must be at most {limit} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "payload_too_large", detail)
    }

    /// The body is of another type than JSON.
    pub(crate) fn not_json() -> Self {
        let detail = "send the body as JSON, with `Content-Type: application/json`";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail)
    }

    /// Something was changed since the caller read it.
    pub(crate) fn version_conflict(detail: &'static str) -> Self {
        Self::new(StatusCode::PRECONDITION_FAILED, "version_conflict", detail)
    }

    /// The caller asks too often.
    pub(crate) fn rate_limited(detail: &'static str, wait: Duration) -> Self {
        let retry_after = Some(wait);
        Self { retry_after, ..Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limited", detail) }
    }

    /// A key that is limited asks for what concerns everybody.
    pub(crate) fn limited_key() -> Self {
        let detail = "the API key is limited (to organizations, provider types, provider instances, \
                      token scopes or users), and this concerns more than that; use a key without \
                      such limits";
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// A call that must be signed is not.
    pub(crate) fn unsigned() -> Self {
        let detail =
            "sign the call: `Authorization: Rpcsignature rpc0:…`, and only one such header";
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// A call's signature is none, or of another secret, path or body.
    pub(crate) fn bad_signature() -> Self {
        let detail = "the signature is not that of this path and body under a shared secret";
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", detail)
    }

    /// More identities were asked for than one answer holds.
    pub(crate) fn too_many_identities(limit: usize) -> Self {
        let detail = format!("more than {limit} identities are meant; narrow the filter");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "too_many_identities", detail)
    }

    /// Our own fault; the log has the cause under the request's id.
    pub(crate) fn internal() -> Self {
        let detail = "the service failed; its log tells why under this request_id";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal_error", detail)
    }

    /// Our database is away; it is for nobody to do anything but to ask again.
    fn unavailable() -> Self {
        let detail = "the service cannot reach its database; try again later";
        let retry_after = Some(Duration::from_secs(1));
        Self {
            retry_after,
            ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", detail)
        }
    }

    /// The status.
    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// The documented word.
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// What to do.
    pub(crate) fn detail(&self) -> &str {
        &self.detail
    }

    /// How long to wait before the next try, in whole seconds, at least one.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        let wait = self.retry_after?;
        let whole = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        Some(whole.max(1))
    }

    /// Writes the log line of a failure that is not the caller's. Called once per request.
    pub(crate) fn log(&self) {
        if let Some(cause) = &self.cause {
            let mut causes = cause.to_string();
            let mut source = cause.source();
            while let Some(error) = source {
                causes = format!("{causes}: {error}");
                source = error.source();
            }
            tracing::error!(code = self.code, error = causes, "the request failed");
        } else if self.status.is_server_error() {
            tracing::warn!(code = self.code, detail = %self.detail, "the request failed");
        }
    }
}

/// The one place where an error of the domain becomes one of HTTP.
impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        let (status, code) = match &error {
            Error::InvalidRequest { .. } => (StatusCode::BAD_REQUEST, "invalid_request"),
            Error::FilterRequired => (StatusCode::BAD_REQUEST, "filter_required"),
            Error::Unauthenticated => (StatusCode::UNAUTHORIZED, "unauthenticated"),
            Error::Forbidden { .. } | Error::OtherOrganization => {
                (StatusCode::FORBIDDEN, "forbidden")
            }
            Error::BeyondLimits(_) => (StatusCode::FORBIDDEN, "forbidden"),
            Error::Frozen(_) => (StatusCode::FORBIDDEN, "frozen"),
            Error::AccessTokenReplaced => (StatusCode::CONFLICT, "access_token_replaced"),
            Error::TooSoon { .. } => (StatusCode::TOO_MANY_REQUESTS, "rate_limited"),
            Error::NotFound(_) => (StatusCode::NOT_FOUND, "not_found"),
            Error::AlreadyExists(_) => (StatusCode::CONFLICT, "already_exists"),
            Error::ProviderInUse(_) => (StatusCode::CONFLICT, "provider_in_use"),
            Error::IdentityAlreadyLinked(_) => (StatusCode::CONFLICT, "identity_already_linked"),
            Error::NeededToSignIn(why) => (StatusCode::CONFLICT, why.as_str()),
            Error::IdentityAmbiguous => (StatusCode::CONFLICT, "identity_ambiguous"),
            Error::TransferConflict { .. } => (StatusCode::CONFLICT, "transfer_conflict"),
            Error::AlreadyUndone => (StatusCode::CONFLICT, "already_undone"),
            Error::IdentityNotValid { .. } => (StatusCode::CONFLICT, "identity_not_valid"),
            Error::VersionConflict => (StatusCode::PRECONDITION_FAILED, "version_conflict"),
            Error::ProviderMisconfigured { .. } => {
                (StatusCode::BAD_GATEWAY, "provider_misconfigured")
            }
            Error::ProviderUnavailable { .. } => {
                (StatusCode::SERVICE_UNAVAILABLE, "provider_unavailable")
            }
            Error::Repository(RepositoryError::Unavailable(_)) => {
                return Self { cause: Some(Arc::new(error)), ..Self::unavailable() };
            }
            Error::Repository(_) => {
                return Self { cause: Some(Arc::new(error)), ..Self::internal() };
            }
        };
        let retry_after = match &error {
            Error::ProviderUnavailable { retry_after, .. } | Error::TooSoon { retry_after, .. } => {
                Some(*retry_after)
            }
            _ => None,
        };
        Self { retry_after, ..Self::new(status, code, error.to_string()) }
    }
}

impl From<RepositoryError> for ApiError {
    fn from(error: RepositoryError) -> Self {
        Error::from(error).into()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after_seconds() {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// Gives a response that is an [`ApiError`] its body, and leaves others alone.
pub(crate) fn render(response: &mut Response, request_id: &str) {
    let Some(error) = response.extensions_mut().remove::<ApiError>() else { return };
    error.log();
    let body = ProblemBody {
        kind: "about:blank",
        title: error.status.canonical_reason().unwrap_or("Error"),
        status: error.status.as_u16(),
        code: error.code,
        detail: &error.detail,
        request_id,
    };
    // Texts and a number always serialize; an empty body would be the worst of it.
    *response.body_mut() = Body::from(serde_json::to_vec(&body).unwrap_or_default());
    let headers = response.headers_mut();
    headers.remove(CONTENT_LENGTH);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_rounded_up_to_whole_seconds_and_at_least_one() {
        for (wait, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (59_999, 60)] {
            let error = ApiError::from(Error::ProviderUnavailable {
                detail: "no answer".into(),
                retry_after: Duration::from_millis(wait),
            });
            assert_eq!(error.retry_after_seconds(), Some(seconds), "{wait} ms");
        }
    }
}
