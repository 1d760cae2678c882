use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{FromRef, State},
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use symbolon_domain::{
    Error,
    dpop::DpopRequest,
    identity::IdentityFilter,
    ids::{ExternalId, IdentityId, ProviderId, UserId},
    secret::SecretHash,
    services::{Found, Identities, IssuedToken, Rejected, TokenNeed, Vending},
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    authorization::{Authenticator, Narrow, TokensRead},
    error::ApiError,
    identities::{self, IdentityBody},
    request::{Id, JsonBody, OptionalJsonBody, ProductId, check_scopes},
};

/// What the routes that hand out tokens need.
#[derive(Clone, FromRef)]
pub(crate) struct TokenRoutes {
    pub(crate) authenticator: Authenticator,
    pub(crate) vending: Vending,
    pub(crate) identities: Arc<Identities>,
}

pub(crate) fn router(state: TokenRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(issue_token))
        .routes(routes!(issue_token_by_key))
        .routes(routes!(refresh_identity))
        .routes(routes!(report_rejected))
        .routes(routes!(prove))
        .with_state(state)
}

/// An access token for the account's provider.
#[derive(Serialize, ToSchema)]
#[schema(as = Token)]
struct TokenBody<'a> {
    /// The token.
    access_token: &'a str,
    /// How it is presented: as `Bearer`, or as `DPoP` with a proof for each request, see
    /// `POST /v1/identities/{id}/dpop-proof`.
    #[schema(example = "Bearer")]
    token_type: &'a str,
    /// When it stops working; null when the provider did not say.
    expires_at: Option<DateTime<Utc>>,
    /// What was granted.
    #[schema(example = json!(["openid", "email"]))]
    scopes: &'a [String],
    /// Whose account it opens.
    #[schema(example = 7)]
    identity_id: i64,
}

fn respond(token: &IssuedToken) -> Response {
    let body = TokenBody {
        access_token: token.access_token.expose(),
        token_type: &token.token_type,
        expires_at: token.expires_at,
        scopes: &token.scopes,
        identity_id: token.identity_id.0,
    };
    not_to_be_stored(&body)
}

fn not_to_be_stored(body: &impl Serialize) -> Response {
    let Ok(body) = serde_json::to_vec(body) else {
        return ApiError::internal().into_response();
    };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    (headers, body).into_response()
}

/// Longest remaining life that may be asked for: a year.
const MOST_SECONDS: u32 = 366 * 24 * 60 * 60;

fn need(min_ttl_seconds: u32, scopes: Vec<String>) -> Result<TokenNeed, ApiError> {
    if min_ttl_seconds > MOST_SECONDS {
        let problem = format!("must be 0 to {MOST_SECONDS}");
        return Err(ApiError::invalid("min_ttl_seconds", problem));
    }
    check_scopes(&scopes)?;
    Ok(TokenNeed { min_ttl: Duration::from_secs(min_ttl_seconds.into()), scopes })
}

/// What a caller needs of a token.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TokenRequest)]
struct TokenRequestBody {
    /// Refresh first if it expires within this time.
    #[serde(default)]
    #[schema(maximum = 31_622_400, example = 300)]
    min_ttl_seconds: u32,
    /// What must have been granted.
    #[serde(default)]
    scopes: Vec<String>,
}

/// Hands out an access token that works, refreshed first if it would expire within the margin.
#[utoipa::path(
    post,
    path = "/v1/identities/{id}/token",
    tag = "tokens",
    params(("id" = i64, Path, minimum = 1)),
    request_body(content = Option<TokenRequestBody>, description = "May be left out"),
    responses(
        (status = 200, description = "A token", body = TokenBody),
        (status = 403, description = "`forbidden`: the key may not have it; `frozen`: nothing is \
            handed out to the key, of the provider instance or of an organization that uses the \
            identity"),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`identity_not_valid`: the user must link again"),
        (status = 502, description = "`provider_misconfigured`: the operator must act"),
        (status = 503, description = "`provider_unavailable`; `service_unavailable` when it is our database that is away", headers(("Retry-After" = u64))),
    ),
)]
async fn issue_token(
    State(routes): State<TokenRoutes>,
    Narrow(caller): Narrow<TokensRead>,
    Id(id): Id,
    OptionalJsonBody(asked): OptionalJsonBody<TokenRequestBody>,
) -> Result<Response, ApiError> {
    let need = need(asked.min_ttl_seconds, asked.scopes)?;
    let token = routes.vending.issue(IdentityId(id), caller.recipient(), &need).await?;
    Ok(respond(&token))
}

/// What a caller needs of a token, and of whose.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = TokenByKeyRequest)]
struct TokenByKeyBody {
    /// Whose account.
    user_id: ProductId,
    /// At which provider instance; this, `provider_type` or `identity_id`.
    provider_id: Option<i64>,
    /// At the only provider instance of this type where the user has an account.
    #[schema(example = "github")]
    provider_type: Option<String>,
    /// Which account there, where the user has several.
    external_id: Option<String>,
    /// Which identity of the user's, where several match.
    #[schema(minimum = 1)]
    identity_id: Option<i64>,
    /// Refresh first if it expires within this time.
    #[serde(default)]
    #[schema(maximum = 31_622_400, example = 300)]
    min_ttl_seconds: u32,
    /// What must have been granted.
    #[serde(default)]
    scopes: Vec<String>,
}

/// Hands out an access token by user and provider.
#[utoipa::path(
    post,
    path = "/v1/token",
    tag = "tokens",
    request_body = TokenByKeyBody,
    responses(
        (status = 200, description = "A token", body = TokenBody),
        (status = 403, description = "`forbidden`: the key may not have it; `frozen`: nothing is \
            handed out to the key, of the provider instance or of an organization that uses the \
            identity"),
        (status = 404, description = "`not_found`: the user has no such identity"),
        (status = 409, description = "`identity_not_valid`: the user must link again; \
            `identity_ambiguous`: several match, choose by `identity_id`, or by `provider_id` and \
            `external_id`"),
        (status = 502, description = "`provider_misconfigured`: the operator must act"),
        (status = 503, description = "`provider_unavailable`; `service_unavailable` when it is our database that is away", headers(("Retry-After" = u64))),
    ),
)]
async fn issue_token_by_key(
    State(routes): State<TokenRoutes>,
    Narrow(caller): Narrow<TokensRead>,
    JsonBody(asked): JsonBody<TokenByKeyBody>,
) -> Result<Response, ApiError> {
    let need = need(asked.min_ttl_seconds, asked.scopes)?;
    let TokenByKeyBody { provider_id, provider_type, identity_id, external_id, .. } = asked;
    let both = provider_id.is_some() && provider_type.is_some();
    let neither = provider_id.is_none() && provider_type.is_none();
    if both || (neither && identity_id.is_none()) {
        return Err(ApiError::invalid("provider_id", "give either this or `provider_type`"));
    }
    let external_id = external_id.map(ExternalId::new).transpose();
    let filter = IdentityFilter {
        id: identity_id.map(IdentityId),
        user_id: Some(asked.user_id.check("user_id", UserId::new)?),
        external_id: external_id.map_err(|problem| ApiError::invalid("external_id", problem))?,
        provider_id: provider_id.map(ProviderId),
        provider_type,
        provider_types: caller.limits().provider_types.clone(),
        providers: caller.limits().providers.clone(),
        ..IdentityFilter::default()
    };
    let id = match routes.identities.first(&filter).await? {
        None => return Err(ApiError::not_linked()),
        Some(Found { others: true, .. }) => return Err(Error::IdentityAmbiguous.into()),
        Some(Found { identity, .. }) => identity.id,
    };
    let token = routes.vending.issue(id, caller.recipient(), &need).await?;
    Ok(respond(&token))
}

/// A body that says nothing.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NothingBody {}

/// Refreshes an identity's credentials now, however fresh they are.
#[utoipa::path(
    post,
    path = "/v1/identities/{id}/refresh",
    tag = "tokens",
    params(("id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "Refreshed", body = IdentityBody, headers(("ETag" = String))),
        (status = 403, description = "`forbidden`: the key may not have it; `frozen`: nothing is \
            handed out to the key, of the provider instance or of an organization that uses the \
            identity"),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`identity_not_valid`: the user must link again"),
        (status = 502, description = "`provider_misconfigured`: the operator must act"),
        (status = 503, description = "`provider_unavailable`; `service_unavailable` when it is our database that is away", headers(("Retry-After" = u64))),
    ),
)]
async fn refresh_identity(
    State(routes): State<TokenRoutes>,
    Narrow(caller): Narrow<TokensRead>,
    Id(id): Id,
    OptionalJsonBody(NothingBody {}): OptionalJsonBody<NothingBody>,
) -> Result<Response, ApiError> {
    routes.vending.refresh(IdentityId(id), caller.key()).await?;
    let identity = routes.identities.identities.find(IdentityId(id)).await?;
    Ok(identities::respond(identity.ok_or(Error::NotFound("identity"))?))
}

/// An access token that a provider refused.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RejectedToken)]
struct RejectedTokenBody {
    /// The SHA-256 of the token, as 64 hexadecimal digits: the token itself is not sent about.
    #[schema(example = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")]
    access_token_sha256: String,
}

/// What became of an access token that a provider refused.
#[derive(Serialize, ToSchema)]
#[schema(as = RejectedTokenOutcome)]
struct RejectedOutcomeBody {
    /// `replaced`: a new one is there; `already_replaced`: the one that was refused is not what is
    /// handed out. In both cases ask for a token again.
    #[schema(example = "replaced")]
    outcome: &'static str,
    /// The identity as it is now.
    identity: IdentityBody,
}

/// Tells that a provider refused an access token before its time. If it is the one that would be
/// handed out, it is replaced with the refresh token, once; if that is refused, or there is none,
/// the identity becomes invalid.
#[utoipa::path(
    post,
    path = "/v1/identities/{id}/report-rejected",
    tag = "tokens",
    params(("id" = i64, Path, minimum = 1)),
    request_body = RejectedTokenBody,
    responses(
        (status = 200, description = "There is another token", body = RejectedOutcomeBody),
        (status = 403, description = "`forbidden`; `frozen`"),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`identity_not_valid`: the user must link again, from now on"),
        (status = 429, description = "`rate_limited`: the token was obtained moments ago",
            headers(("Retry-After" = u64))),
        (status = 502, description = "`provider_misconfigured`: the operator must act"),
        (status = 503, description = "`provider_unavailable`", headers(("Retry-After" = u64))),
    ),
)]
async fn report_rejected(
    State(routes): State<TokenRoutes>,
    Narrow(caller): Narrow<TokensRead>,
    Id(id): Id,
    JsonBody(reported): JsonBody<RejectedTokenBody>,
) -> Result<Response, ApiError> {
    let token = sha256("access_token_sha256", &reported.access_token_sha256)?;
    let outcome: Rejected =
        routes.vending.report_rejected(IdentityId(id), caller.key(), &token).await?;
    let identity = routes.identities.identities.find(IdentityId(id)).await?;
    let identity = identity.ok_or(Error::NotFound("identity"))?;
    Ok(Json(RejectedOutcomeBody { outcome: outcome.as_str(), identity: identity.into() })
        .into_response())
}

/// One request with an access token whose `token_type` is `DPoP`.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DpopProofRequest)]
struct DpopProofRequestBody {
    /// The method of the request, as it is sent.
    #[schema(min_length = 1, max_length = 32, example = "GET")]
    method: String,
    /// Its absolute address; query and fragment do not matter.
    #[schema(max_length = 8192, example = "https://api.example.com/v1/files")]
    url: String,
    /// What the server sent last as `DPoP-Nonce`, if it sent one.
    #[schema(max_length = 1024)]
    nonce: Option<String>,
    /// The SHA-256 of the access token that goes along, as 64 hexadecimal digits. Without it the
    /// proof is for the token that is there now.
    #[schema(example = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")]
    access_token_sha256: Option<String>,
}

/// A proof for one request ([RFC 9449](https://www.rfc-editor.org/rfc/rfc9449)).
#[derive(Serialize, ToSchema)]
#[schema(as = DpopProof)]
struct DpopProofBody<'a> {
    /// To be sent as the header `DPoP`, at once and once.
    proof: &'a str,
    /// The SHA-256 of the access token that it is for: no other may go along.
    #[schema(example = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")]
    access_token_sha256: String,
}

/// Proves, for one request, that we hold the key that the identity's access token is bound to. The
/// key stays here. Nothing is refreshed: the token is handed out by the routes for tokens, and each
/// proof counts as a hand-out of it.
#[utoipa::path(
    post,
    path = "/v1/identities/{id}/dpop-proof",
    tag = "tokens",
    params(("id" = i64, Path, minimum = 1)),
    request_body = DpopProofRequestBody,
    responses(
        (status = 200, description = "A proof", body = DpopProofBody),
        (status = 400, description = "`invalid_request`: malformed, or the identity's access token \
            is bound to no key"),
        (status = 403, description = "`forbidden`: the key may not have the token; `frozen`"),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`access_token_replaced`: another token has taken the place of \
            the one that was named, ask for the token again; `identity_not_valid`: the user must \
            link again"),
        (status = 502, description = "`provider_misconfigured`: the operator must act"),
    ),
)]
async fn prove(
    State(routes): State<TokenRoutes>,
    Narrow(caller): Narrow<TokensRead>,
    Id(id): Id,
    JsonBody(asked): JsonBody<DpopProofRequestBody>,
) -> Result<Response, ApiError> {
    let request = DpopRequest::new(&asked.method, &asked.url, asked.nonce.as_deref())?;
    let named = asked.access_token_sha256.as_deref();
    let named = named.map(|it| sha256("access_token_sha256", it)).transpose()?;
    let recipient = caller.recipient();
    let proof = routes.vending.prove(IdentityId(id), recipient, &request, named.as_ref()).await?;
    Ok(not_to_be_stored(&DpopProofBody {
        proof: proof.proof.expose(),
        access_token_sha256: hex::encode(proof.access_token.0),
    }))
}

/// A SHA-256 in hexadecimal.
pub(crate) fn sha256(field: &str, text: &str) -> Result<SecretHash, ApiError> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash)
        .map_err(|_| ApiError::invalid(field, "must be 64 hexadecimal digits"))?;
    Ok(SecretHash(hash))
}
