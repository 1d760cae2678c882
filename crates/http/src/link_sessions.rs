use axum::{
    Json,
    extract::{FromRef, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbolon_domain::{
    Error,
    api_key::KeyLimits,
    ids::{LinkSessionId, OrganizationId, ProviderId, UserId},
    link_session::{LinkSession, Purpose},
    secret::Secret,
    services::{Completed, Linking, StartLink},
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    authorization::{Allowed, Authenticator, LinkWrite, Narrow},
    error::ApiError,
    request::{Id, JsonBody, ProductId, check_scopes},
    sight::Sight,
};

/// What the routes under `/v1/link-sessions` need.
#[derive(Clone, FromRef)]
pub(crate) struct LinkSessionRoutes {
    pub(crate) authenticator: Authenticator,
    pub(crate) sight: Sight,
    pub(crate) linking: Linking,
}

pub(crate) fn router(state: LinkSessionRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(start_link_session))
        .routes(routes!(get_link_session))
        .routes(routes!(complete_link_session))
        .with_state(state)
}

/// A link or a sign-in to be started.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewLinkSession)]
struct NewLinkSessionBody {
    /// Whom to link; may be told at completion.
    user_id: Option<ProductId>,
    /// Where; the user chooses on the hosted page when it is left out. A sign-in to an
    /// organization goes where the organization signs in.
    #[schema(example = 1)]
    provider_id: Option<i64>,
    /// On whose behalf. A sign-in is then by the organization's single sign-on, and what is
    /// linked is used by the organization from then on.
    organization_id: Option<ProductId>,
    /// Where the browser goes at the end; must be covered by the operator's `link.return_urls`.
    #[schema(example = "https://app.example/accounts/linked")]
    return_url: String,
    /// What for.
    purpose: PurposeBody,
    /// Scopes to ask for instead of the provider's configured ones.
    #[serde(default)]
    scopes: Vec<String>,
    /// The account to suggest at the provider: up to 255 characters.
    login_hint: Option<String>,
    /// Whether another link of the account or of the user may be rebound.
    #[serde(default)]
    reattach: bool,
    /// Whether the callback completes by itself, because the product vouches for the browser.
    #[serde(default)]
    auto_complete: bool,
}

/// What a session is for.
#[derive(Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = Purpose)]
enum PurposeBody {
    /// Link one more account to a signed-in user.
    Link,
    /// Find out who somebody is.
    SignIn,
}

/// A started session.
#[derive(Serialize, ToSchema)]
#[schema(as = StartedLinkSession)]
struct StartedLinkSessionBody {
    /// This session's own name.
    #[schema(example = 3)]
    id: i64,
    /// Where to send the user; single use, and shown here only.
    #[schema(example = "https://symbolon.example/connect/7Fq…")]
    url: String,
    /// From then on it is refused.
    expires_at: DateTime<Utc>,
}

/// Starts a link or a sign-in in the browser.
#[utoipa::path(
    post,
    path = "/v1/link-sessions",
    tag = "link sessions",
    request_body = NewLinkSessionBody,
    responses(
        (status = 201, description = "Started: send the user to `url`", body = StartedLinkSessionBody,
            headers(("Location" = String))),
    ),
)]
async fn start_link_session(
    State(routes): State<LinkSessionRoutes>,
    Narrow(caller): Narrow<LinkWrite>,
    JsonBody(new): JsonBody<NewLinkSessionBody>,
) -> Result<Response, ApiError> {
    check_scopes(&new.scopes)?;
    if let Some(hint) = &new.login_hint
        && (hint.chars().count() > 255 || hint.chars().any(char::is_control))
    {
        let problem = "must be at most 255 characters and hold no control character";
        return Err(ApiError::invalid("login_hint", problem));
    }
    let start = StartLink {
        purpose: match new.purpose {
            PurposeBody::Link => Purpose::Link,
            PurposeBody::SignIn => Purpose::SignIn,
        },
        user_id: new.user_id.map(|it| it.check("user_id", UserId::new)).transpose()?,
        provider_id: new.provider_id.map(ProviderId),
        organization_id: new
            .organization_id
            .map(|it| it.check("organization_id", OrganizationId::new))
            .transpose()?,
        return_url: new.return_url,
        scopes: new.scopes,
        login_hint: new.login_hint.filter(|it| !it.is_empty()),
        reattach: new.reattach,
        auto_complete: new.auto_complete,
        actor: caller.actor(),
    };
    let asked = Asked {
        organization: start.organization_id.as_ref(),
        user: start.user_id.as_ref(),
        provider: start.provider_id,
        scopes: &start.scopes,
    };
    check_limits(&routes.sight, caller.limits(), asked).await?;
    let (session, url) = routes.linking.start(start).await?;
    let location = HeaderValue::try_from(format!("/v1/link-sessions/{}", session.id))
        .expect("a number in a path is a header value");
    let body = StartedLinkSessionBody {
        id: session.id.0,
        url: url.into(),
        expires_at: session.expires_at,
    };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(body)).into_response())
}

/// What a limited key may not ask of everybody.
pub(crate) struct Asked<'a> {
    pub(crate) organization: Option<&'a OrganizationId>,
    pub(crate) user: Option<&'a UserId>,
    pub(crate) provider: Option<ProviderId>,
    pub(crate) scopes: &'a [String],
}

/// Refuses a link that a limited key may not start.
pub(crate) async fn check_limits(
    sight: &Sight,
    limits: &KeyLimits,
    asked: Asked<'_>,
) -> Result<(), ApiError> {
    if let Some(organization) = asked.organization
        && !limits.allow_organization(organization)
    {
        return Err(Error::OtherOrganization.into());
    }
    match asked.user {
        None if limits.users.is_some() => {
            let problem = "must be there, as the API key is limited to users";
            return Err(ApiError::invalid("user_id", problem));
        }
        Some(user) if !limits.allow_user(user) => {
            return Err(Error::BeyondLimits("the API key is limited to other users".into()).into());
        }
        _ => {}
    }
    if limits.token_scopes.is_some() && asked.scopes.is_empty() {
        // Without any, those that the provider is configured with are asked for.
        let problem = "must be there, as the API key is limited to token scopes";
        return Err(ApiError::invalid("scopes", problem));
    }
    let excess = limits.excess(asked.scopes);
    if !excess.is_empty() {
        let detail = format!("the API key may not ask users for {}", excess.join(", "));
        return Err(Error::BeyondLimits(detail).into());
    }
    if limits.provider_types.is_none() && limits.providers.is_none() {
        return Ok(());
    }
    let Some(provider) = asked.provider else {
        // The hosted page would offer every provider.
        let problem = "must be there, as the API key is limited to providers";
        return Err(ApiError::invalid("provider_id", problem));
    };
    if sight.sees_provider(limits, provider).await? {
        Ok(())
    } else {
        Err(ApiError::invalid("provider_id", "there is no such identity provider"))
    }
}

/// Refuses a session that is not there for a limited key.
async fn check_seen(
    routes: &LinkSessionRoutes,
    caller: &Allowed<LinkWrite>,
    session: Option<LinkSession>,
) -> Result<LinkSession, ApiError> {
    let session = session.ok_or(Error::NotFound("link session"))?;
    if let Some(organization) = &session.organization_id
        && !caller.limits().allow_organization(organization)
    {
        return Err(Error::OtherOrganization.into());
    }
    if let Some(provider) = session.provider_id {
        routes.sight.check_provider(caller.limits(), provider, "link session").await?;
    } else if caller.limits().provider_types.is_some() || caller.limits().providers.is_some() {
        return Err(Error::NotFound("link session").into());
    }
    let theirs = session.user_id.as_ref().map(|it| caller.limits().allow_user(it));
    if !theirs.unwrap_or(caller.limits().users.is_none()) {
        return Err(Error::NotFound("link session").into());
    }
    Ok(session)
}

/// How far a session got.
#[derive(Serialize, ToSchema)]
#[schema(as = LinkSession)]
struct LinkSessionBody {
    /// This session's own name.
    #[schema(example = 3)]
    id: i64,
    /// `pending`, `awaiting_completion`, `linked`, `signed_in`, `unlinked`, `failed` or `expired`.
    #[schema(example = "linked")]
    status: &'static str,
    /// The identity that came of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 7)]
    identity_id: Option<i64>,
    /// Why it failed: `access_denied`, `provider_misconfigured`, `provider_unavailable`,
    /// `untrusted_response` or `identity_already_linked`.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
}

impl From<LinkSession> for LinkSessionBody {
    fn from(session: LinkSession) -> Self {
        Self {
            id: session.id.0,
            status: session.status.as_str(),
            identity_id: session.identity_id.map(|it| it.0),
            error: session.error.map(symbolon_domain::link_session::LinkFailure::as_str),
        }
    }
}

/// Reads how far a session got.
#[utoipa::path(
    get,
    path = "/v1/link-sessions/{id}",
    tag = "link sessions",
    params(("id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "Found", body = LinkSessionBody),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn get_link_session(
    State(routes): State<LinkSessionRoutes>,
    Narrow(caller): Narrow<LinkWrite>,
    Id(id): Id,
) -> Result<Json<LinkSessionBody>, ApiError> {
    let session = routes.linking.sessions.find(LinkSessionId(id)).await?;
    Ok(Json(check_seen(&routes, &caller, session).await?.into()))
}

/// Phase two of a link or a sign-in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = LinkSessionCompletion)]
struct CompletionBody {
    /// What the browser brought back; good once.
    completion_code: String,
    /// Who is signed in at the product: required to link, and must be the session's user where
    /// the session names one.
    user_id: Option<ProductId>,
}

/// How a session was completed.
#[derive(Serialize, ToSchema)]
#[schema(as = CompletedLinkSession)]
struct CompletedBody {
    /// `linked`, `signed_in` or `unlinked`.
    #[schema(example = "linked")]
    status: &'static str,
    /// The identity; left out when `unlinked`, and after a sign-in to an organization.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 7)]
    identity_id: Option<i64>,
    /// Whose it is; left out when `unlinked`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "user-42")]
    user_id: Option<String>,
    /// Who the provider says it is.
    #[schema(value_type = Object, example = json!({"email": "jane@example.com"}))]
    profile: Map<String, Value>,
}

impl From<Completed> for CompletedBody {
    fn from(it: Completed) -> Self {
        Self {
            status: it.status.as_str(),
            identity_id: it.identity_id.map(|it| it.0),
            user_id: it.user_id.map(|it| it.as_str().to_owned()),
            profile: it.profile,
        }
    }
}

/// Links, or answers who signs in.
///
/// To be called by the product's backend from the signed-in user's own session. After `unlinked`
/// a second call with `user_id` links the account to that user.
#[utoipa::path(
    post,
    path = "/v1/link-sessions/{id}/complete",
    tag = "link sessions",
    params(("id" = i64, Path, minimum = 1)),
    request_body = CompletionBody,
    responses(
        (status = 200, description = "Completed", body = CompletedBody),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`identity_already_linked`; the session has failed then"),
    ),
)]
async fn complete_link_session(
    State(routes): State<LinkSessionRoutes>,
    Narrow(caller): Narrow<LinkWrite>,
    Id(id): Id,
    JsonBody(completion): JsonBody<CompletionBody>,
) -> Result<Json<CompletedBody>, ApiError> {
    let code = Secret::new(completion.completion_code);
    let user_id = completion.user_id.map(|it| it.check("user_id", UserId::new)).transpose()?;
    if *caller.limits() != KeyLimits::default() {
        let session = routes.linking.sessions.find(LinkSessionId(id)).await?;
        check_seen(&routes, &caller, session).await?;
    }
    let completed =
        routes.linking.complete(LinkSessionId(id), &code, user_id, caller.actor()).await?;
    Ok(Json(completed.into()))
}
