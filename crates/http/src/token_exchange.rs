//! Tokens for tokens ([RFC 8693](https://www.rfc-editor.org/rfc/rfc8693)): the caller's subject
//! token in, the access token of the user's account at a provider out.

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRef, Request, State},
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
        request::Parts,
    },
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;
use symbolon_domain::{
    Error,
    api_key::{ApiKey, KeyScope},
    identity::IdentityFilter,
    ids::{ExternalId, IdentityId, ProviderId, UserId},
    ports::{Clock, SubjectTokens},
    secret::Secret,
    services::{Found, Identities, IssuedToken, Recipient, TokenNeed, Vending},
};
use url::Url;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    authorization::{Authenticator, acting_user, bearer},
    error::ApiError,
    request::{QueryString, check_scopes, read_body, row_id},
    telemetry::RequestId,
};

const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// Types of subject tokens that are JWTs of issuers.
const JWTS: [&str; 3] = [
    "urn:ietf:params:oauth:token-type:jwt",
    "urn:ietf:params:oauth:token-type:id_token",
    ACCESS_TOKEN,
];
/// The type of a subject token that is an API key of ours.
const API_KEY: &str = "urn:symbolon:params:oauth:token-type:api-key";
/// Most bytes of a request.
const LIMIT: usize = 64 * 1024;

/// What the token endpoint needs.
#[derive(Clone, FromRef)]
pub(crate) struct TokenExchangeRoutes {
    pub(crate) authenticator: Authenticator,
    pub(crate) vending: Vending,
    pub(crate) identities: Arc<Identities>,
    pub(crate) subject_tokens: Arc<dyn SubjectTokens>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Where this service is reached: a `resource` is a provider instance of its.
    pub(crate) public_url: Url,
}

pub(crate) fn router(state: TokenExchangeRoutes) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(exchange_token)).with_state(state)
}

/// A successful exchange ([RFC 8693 §2.2.1](https://www.rfc-editor.org/rfc/rfc8693#section-2.2.1)).
#[derive(Serialize, ToSchema)]
#[schema(as = ExchangedToken)]
struct ExchangedBody {
    /// The token of the user's account.
    access_token: String,
    /// Always an access token.
    #[schema(example = "urn:ietf:params:oauth:token-type:access_token")]
    issued_token_type: &'static str,
    /// How it is presented: as `Bearer`, or as `DPoP` with a proof for each request, see
    /// `POST /v1/identities/{id}/dpop-proof`.
    #[schema(example = "Bearer")]
    token_type: String,
    /// For how many seconds it works; left out when the provider did not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<i64>,
    /// What was granted, separated by spaces; left out when that is not on record.
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

/// A refused exchange ([RFC 6749 §5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2)).
#[derive(Serialize, ToSchema)]
#[schema(as = ExchangeError)]
struct RefusedBody {
    /// What went wrong, to match on.
    #[schema(example = "invalid_target")]
    error: &'static str,
    /// What went wrong and what to do, for people.
    error_description: String,
}

/// Exchanges an API key, or a JWT of an issuer that the operator trusts, for the access token of
/// the user's account at a provider.
///
/// `audience` names the provider instance by its id or its type; `resource` is the address of the
/// instance under `/v1/providers`. With a JWT the client authenticates with an API key: as bearer
/// token, as the password of HTTP Basic, or as `client_secret`. An API key as the subject token
/// names the user with `user_id` or the identity with `identity_id`.
#[utoipa::path(
    post,
    path = "/oauth2/token",
    tag = "tokens",
    request_body(content = String, content_type = "application/x-www-form-urlencoded",
        description = "`grant_type`, `subject_token`, `subject_token_type`, and where they apply \
            `requested_token_type`, `audience`, `resource`, `scope`, `user_id`, `identity_id`, \
            `external_id`, `client_id`, `client_secret`"),
    responses(
        (status = 200, description = "Exchanged", body = ExchangedBody),
        (status = 400, description = "`invalid_request`, `invalid_target`, `invalid_scope`, \
            `invalid_grant` (the user must link again), `unauthorized_client` or \
            `unsupported_grant_type`", body = RefusedBody),
        (status = 401, description = "`invalid_client`: no valid key", body = RefusedBody),
        (status = 403, description = "`frozen`", body = RefusedBody),
        (status = 429, description = "`temporarily_unavailable`: too many requests",
            body = RefusedBody, headers(("Retry-After" = u64))),
        (status = 502, description = "`server_error`: the operator must act", body = RefusedBody),
        (status = 503, description = "`temporarily_unavailable`", body = RefusedBody,
            headers(("Retry-After" = u64))),
    ),
)]
async fn exchange_token(State(routes): State<TokenExchangeRoutes>, request: Request) -> Response {
    let answer = match exchange(&routes, request).await {
        Ok(token) => {
            let now = routes.clock.now();
            Json(ExchangedBody {
                access_token: token.access_token.expose().to_owned(),
                issued_token_type: ACCESS_TOKEN,
                token_type: token.token_type,
                expires_in: token.expires_at.map(|it| (it - now).num_seconds().max(0)),
                scope: (!token.scopes.is_empty()).then(|| token.scopes.join(" ")),
            })
            .into_response()
        }
        Err(refusal) => refusal.into_response(),
    };
    ([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], answer).into_response()
}

async fn exchange(routes: &TokenExchangeRoutes, request: Request) -> Result<IssuedToken, Refusal> {
    let (parts, body) = request.into_parts();
    let form = Form::read(&parts, Request::from_parts(parts.clone(), body)).await?;
    if form.grant_type.as_deref() != Some(GRANT_TYPE) {
        let expected = format!("grant_type must be {GRANT_TYPE}");
        return Err(Refusal::new("unsupported_grant_type", expected));
    }
    if form.requested_token_type.as_deref().is_some_and(|it| it != ACCESS_TOKEN) {
        return Err(ApiError::invalid("requested_token_type", "must be an access token").into());
    }
    if form.has_actor {
        return Err(ApiError::invalid("actor_token", "is not supported").into());
    }
    let required = |name: &str| ApiError::invalid(name, "is required");
    let token = form.subject_token.as_ref().ok_or_else(|| required("subject_token"))?;
    let kind = form.subject_token_type.as_deref();
    let kind = kind.ok_or_else(|| required("subject_token_type"))?;

    let client = form.client(&parts.headers)?;
    let (key, user_id, provider_types, acting_user) = if kind == API_KEY {
        if client.as_ref().is_some_and(|it| it != token) {
            let problem = "must be the key that the client authenticates with, if it does";
            return Err(ApiError::invalid("subject_token", problem).into());
        }
        let key = routes.authenticator.admit(&parts, Some(token.expose())).await?;
        (key, form.user_id.clone(), None, acting_user(&parts.headers)?)
    } else if JWTS.contains(&kind) {
        let key = routes.authenticator.admit(&parts, client.as_ref().map(Secret::expose)).await?;
        may_get_tokens(&key)?;
        let subject = routes.subject_tokens.prove(token).await.map_err(Refusal::of_subject)?;
        if form.user_id.as_ref().is_some_and(|it| *it != subject.user_id) {
            let problem = "is not the user of the subject token";
            return Err(ApiError::invalid("user_id", problem).into());
        }
        let user = subject.user_id;
        (key, Some(user.clone()), subject.provider_types, Some(user))
    } else {
        let problem = format!("must be {API_KEY}, or one of {}", JWTS.join(", "));
        return Err(ApiError::invalid("subject_token_type", problem).into());
    };
    may_get_tokens(&key)?;
    if user_id.is_none() && form.identity_id.is_none() {
        let problem = "must be there, or `identity_id`, as an API key is no user";
        return Err(ApiError::invalid("user_id", problem).into());
    }

    let target = form.target(&routes.public_url)?;
    if target.is_none() && form.identity_id.is_none() {
        let problem = "name the provider with `audience`: its id or its type";
        return Err(Refusal::new("invalid_target", problem.to_owned()));
    }
    let limited = key.limits.provider_types.clone();
    let provider_types = match (provider_types, limited) {
        (Some(own), Some(limit)) => Some(own.into_iter().filter(|it| limit.contains(it)).collect()),
        (one, other) => one.or(other),
    };
    let (provider_id, provider_type) = match target {
        Some(Target::Instance(id)) => (Some(id), None),
        Some(Target::Type(name)) => (None, Some(name)),
        None => (None, None),
    };
    let filter = IdentityFilter {
        id: form.identity_id,
        user_id,
        external_id: form.external_id.clone(),
        provider_id,
        provider_type,
        provider_types,
        providers: key.limits.providers.clone(),
        ..IdentityFilter::default()
    };
    let id = match routes.identities.first(&filter).await? {
        None => return Err(Error::NotFound("identity").into()),
        Some(Found { others: true, .. }) => return Err(Error::IdentityAmbiguous.into()),
        Some(Found { identity, .. }) => identity.id,
    };
    let request_id = parts.extensions.get::<RequestId>();
    let to = Recipient {
        key: &key,
        acting_user: acting_user.as_ref(),
        request_id: request_id.map_or("", |it| &it.0),
    };
    let need = TokenNeed { scopes: form.scopes, ..TokenNeed::default() };
    Ok(routes.vending.issue(id, to, &need).await?)
}

fn may_get_tokens(key: &ApiKey) -> Result<(), Error> {
    let scope = KeyScope::TokensRead;
    if key.allows(scope) { Ok(()) } else { Err(Error::Forbidden { scope: scope.as_str() }) }
}

/// Which provider's token is meant.
enum Target {
    Instance(ProviderId),
    Type(String),
}

/// What a request says. Parameters that nobody knows are ignored, and empty ones are absent
/// ([RFC 6749 §3.2](https://www.rfc-editor.org/rfc/rfc6749#section-3.2)).
struct Form {
    grant_type: Option<String>,
    subject_token: Option<Secret>,
    subject_token_type: Option<String>,
    requested_token_type: Option<String>,
    has_actor: bool,
    audience: Option<String>,
    resource: Option<String>,
    scopes: Vec<String>,
    user_id: Option<UserId>,
    identity_id: Option<IdentityId>,
    external_id: Option<ExternalId>,
    client_secret: Option<Secret>,
}

impl Form {
    async fn read(parts: &Parts, request: Request) -> Result<Self, Refusal> {
        let kind = parts.headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
        let essence = kind.unwrap_or_default().split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            let problem = "must be a form, with `Content-Type: application/x-www-form-urlencoded`";
            return Err(ApiError::invalid("body", problem).into());
        }
        let body = read_body(request, LIMIT).await?;
        let body = std::str::from_utf8(&body);
        let body = body.map_err(|_| ApiError::invalid("body", "must be UTF-8"))?;
        let mut form = QueryString::parse(Some(body));
        let mut text = |name: &str| form.text(name).map(|it| it.filter(|it| !it.is_empty()));
        let scopes: Vec<_> = text("scope")?
            .unwrap_or_default()
            .split(' ')
            .filter(|it| !it.is_empty())
            .map(str::to_owned)
            .collect();
        if check_scopes(&scopes).is_err() {
            let problem = "scope must be scopes separated by spaces";
            return Err(Refusal::new("invalid_scope", problem.to_owned()));
        }
        let user_id = text("user_id")?.map(UserId::new).transpose();
        let external_id = text("external_id")?.map(ExternalId::new).transpose();
        let identity_id =
            match text("identity_id")? {
                None => None,
                Some(text) => Some(IdentityId(row_id(&text).ok_or_else(|| {
                    ApiError::invalid("identity_id", "must be a positive integer")
                })?)),
            };
        Ok(Self {
            grant_type: text("grant_type")?,
            subject_token: text("subject_token")?.map(Secret::new),
            subject_token_type: text("subject_token_type")?,
            requested_token_type: text("requested_token_type")?,
            has_actor: text("actor_token")?.is_some(),
            audience: text("audience")?,
            resource: text("resource")?,
            scopes,
            user_id: user_id.map_err(|problem| ApiError::invalid("user_id", problem))?,
            identity_id,
            external_id: external_id
                .map_err(|problem| ApiError::invalid("external_id", problem))?,
            client_secret: text("client_secret")?.map(Secret::new),
        })
    }

    /// The API key that the client authenticates with, given in one way at most
    /// ([RFC 6749 §2.3](https://www.rfc-editor.org/rfc/rfc6749#section-2.3)).
    fn client(&self, headers: &HeaderMap) -> Result<Option<Secret>, Refusal> {
        let from_header = bearer(headers).map(Secret::new).or_else(|| basic(headers));
        if from_header.is_none() && headers.contains_key(AUTHORIZATION) {
            return Err(Error::Unauthenticated.into());
        }
        match (from_header, &self.client_secret) {
            (Some(_), Some(_)) => {
                let problem = "must not be given beside the header `Authorization`";
                Err(ApiError::invalid("client_secret", problem).into())
            }
            (header, body) => Ok(header.or_else(|| body.clone())),
        }
    }

    fn target(&self, public_url: &Url) -> Result<Option<Target>, Refusal> {
        let invalid = |problem: &str| Refusal::new("invalid_target", problem.to_owned());
        let of_resource = match &self.resource {
            None => None,
            Some(text) => {
                let base = public_url.as_str().trim_end_matches('/');
                let path = text.strip_prefix(base).and_then(|it| it.strip_prefix("/v1/providers/"));
                let id = path.and_then(row_id);
                let problem = "resource must be the address of a provider instance of this service";
                Some(ProviderId(id.ok_or_else(|| invalid(problem))?))
            }
        };
        match (&self.audience, of_resource) {
            (Some(_), Some(_)) => Err(invalid("give either audience or resource")),
            (Some(name), None) => Ok(Some(match row_id(name) {
                Some(id) => Target::Instance(ProviderId(id)),
                None => Target::Type(name.clone()),
            })),
            (None, id) => Ok(id.map(Target::Instance)),
        }
    }
}

/// The password of HTTP Basic; whatever the name is, as a key needs none.
fn basic(headers: &HeaderMap) -> Option<Secret> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, encoded) = value.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    decoded.split_once(':').map(|(_, password)| Secret::new(password))
}

/// A refused exchange.
struct Refusal {
    status: StatusCode,
    error: &'static str,
    description: String,
    retry_after: Option<u64>,
}

impl Refusal {
    fn new(error: &'static str, description: String) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error, description, retry_after: None }
    }

    /// A subject token that proves nothing is a bad request
    /// ([RFC 8693 §2.2.2](https://www.rfc-editor.org/rfc/rfc8693#section-2.2.2)).
    fn of_subject(error: symbolon_domain::ports::ConnectorError) -> Self {
        match error {
            symbolon_domain::ports::ConnectorError::Untrusted { detail } => {
                ApiError::invalid("subject_token", detail).into()
            }
            other => Error::from(other).into(),
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let scope = matches!(&error, Error::BeyondLimits(_))
            || matches!(&error, Error::InvalidRequest { field, .. } if field == "scopes");
        let refusal = Self::from(ApiError::from(error));
        if scope {
            return Self { status: StatusCode::BAD_REQUEST, error: "invalid_scope", ..refusal };
        }
        refusal
    }
}

/// The one place where a refusal of the API becomes one of RFC 6749.
impl From<ApiError> for Refusal {
    fn from(error: ApiError) -> Self {
        error.log();
        let (status, code) = match error.code() {
            "unauthenticated" => (StatusCode::UNAUTHORIZED, "invalid_client"),
            "forbidden" => (StatusCode::BAD_REQUEST, "unauthorized_client"),
            "frozen" => (StatusCode::FORBIDDEN, "frozen"),
            "not_found" | "identity_ambiguous" => (StatusCode::BAD_REQUEST, "invalid_target"),
            "identity_not_valid" => (StatusCode::BAD_REQUEST, "invalid_grant"),
            "rate_limited" | "provider_unavailable" | "service_unavailable" => {
                (error.status(), "temporarily_unavailable")
            }
            _ if error.status().is_server_error() => (error.status(), "server_error"),
            _ => (error.status(), "invalid_request"),
        };
        Self {
            status,
            error: code,
            description: error.detail().to_owned(),
            retry_after: error.retry_after_seconds(),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let body = RefusedBody { error: self.error, error_description: self.description };
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer, Basic"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
