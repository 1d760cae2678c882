use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRef, RawQuery, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbolon_domain::{
    Error,
    disconnection::Guard,
    identity::{Identity, IdentityFilter, IdentityStatus},
    ids::{ExternalId, IdentityId, InvalidId, ProviderId, UserId},
    ports::{LinkOutcome, Unlink},
    secret::Secret,
    services::{Identities, NewIdentity},
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    authorization::{Allowed, Authenticator, IdentitiesRead, IdentitiesWrite, Narrow},
    error::ApiError,
    list::ListBody,
    request::{Id, JsonBody, ProductId, QueryString, check_scopes, etag, if_match, is_known},
    sight::Sight,
};

/// What the routes under `/v1/identities` need that hand out no token.
#[derive(Clone, FromRef)]
pub(crate) struct IdentityRoutes {
    pub(crate) authenticator: Authenticator,
    pub(crate) sight: Sight,
    pub(crate) identities: Arc<Identities>,
}

pub(crate) fn router(state: IdentityRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list_identities, link_identity))
        .routes(routes!(get_identity, unlink_identity))
        .routes(routes!(update_identity_data))
        .with_state(state)
}

/// The verified link of a user to an account at a provider.
#[derive(Serialize, ToSchema)]
#[schema(as = Identity)]
pub(crate) struct IdentityBody {
    /// This link's own name; it stays when the link is rebound.
    #[schema(example = 7)]
    id: i64,
    /// The provider instance where the account lives.
    #[schema(example = 1)]
    idp_id: i64,
    /// Whose account it is, in the product's words.
    #[schema(example = "user-42")]
    user_id: String,
    /// Which account there.
    #[schema(example = "248289761001")]
    external_id: String,
    /// The profile and the product's own values; never a credential.
    #[schema(value_type = Object, example = json!({"email": "jane@example.com"}))]
    data: Map<String, Value>,
    /// `unknown` (imported, never used), `valid`, or `invalid`: the user must link again.
    #[schema(example = "valid")]
    status: &'static str,
    /// Why and since when, for an invalid one.
    #[serde(skip_serializing_if = "Option::is_none")]
    invalid: Option<InvalidBody>,
    /// What the provider granted.
    #[schema(example = json!(["openid", "email"]))]
    scopes: Vec<String>,
    /// When the user last proved to hold the account.
    date_verified: DateTime<Utc>,
    /// When it was linked first.
    date_added: DateTime<Utc>,
    /// When the access token stops working; null when unknown or when there is none.
    expires_at: Option<DateTime<Utc>>,
    /// Counts the changes, refreshes included; the `ETag`.
    #[schema(example = 1)]
    version: i64,
}

/// Why a user must link again.
#[derive(Serialize, ToSchema)]
#[schema(as = Invalid)]
struct InvalidBody {
    /// `grant_rejected`, `no_refresh_token` or `rotation_in_doubt`, or `imported`.
    #[schema(example = "grant_rejected")]
    reason: &'static str,
    /// Since when.
    at: DateTime<Utc>,
}

impl From<Identity> for IdentityBody {
    fn from(it: Identity) -> Self {
        Self {
            id: it.id.0,
            idp_id: it.idp_id.0,
            user_id: it.user_id.as_str().to_owned(),
            external_id: it.external_id.as_str().to_owned(),
            data: it.data,
            status: it.status.as_str(),
            invalid: it.invalid.map(|it| InvalidBody { reason: it.reason.as_str(), at: it.at }),
            scopes: it.scopes,
            date_verified: it.date_verified,
            date_added: it.date_added,
            expires_at: it.expires_at,
            version: it.version,
        }
    }
}

/// An identity with its `ETag`. A cache may keep it, and must ask whether it still holds.
pub(crate) fn respond(identity: Identity) -> Response {
    let headers = [
        (header::ETAG, etag(identity.version)),
        (header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache")),
    ];
    (headers, Json(IdentityBody::from(identity))).into_response()
}

/// Most account names that one list may ask for.
const MOST_EXTERNAL_IDS: usize = 1000;

/// Lists identities; filters combine with AND, and at least one is required.
#[utoipa::path(
    get,
    path = "/v1/identities",
    tag = "identities",
    params(
        ("id" = Option<i64>, Query),
        ("user_id" = Option<String>, Query),
        ("identity_ext_id" = Option<String>, Query, description = "Of this account name, at any provider"),
        ("identity_ext_ids" = Option<String>, Query, description = "Of any of these account names: `a,b`"),
        ("provider_id" = Option<i64>, Query),
        ("provider_ext_id" = Option<String>, Query),
        ("provider_type" = Option<String>, Query),
        ("status" = Option<String>, Query, description = "`unknown`, `valid` or `invalid`"),
        ("exclude_matching_external_ids" = Option<bool>, Query,
            description = "Leaves out accounts named like their provider instance; narrows nothing by itself"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "Default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the part before"),
    ),
    responses(
        (status = 200, description = "In ascending id order", body = ListBody<IdentityBody>),
        (status = 400, description = "`filter_required`: no filter; `invalid_request`"),
    ),
)]
async fn list_identities(
    State(routes): State<IdentityRoutes>,
    Narrow(caller): Narrow<IdentitiesRead>,
    RawQuery(query): RawQuery,
) -> Result<Json<ListBody<IdentityBody>>, ApiError> {
    let mut query = QueryString::parse(query.as_deref());
    let filter = IdentityFilter {
        id: query.id("id")?.map(IdentityId),
        user_id: query.parsed("user_id", UserId::new)?,
        external_id: query.parsed("identity_ext_id", ExternalId::new)?,
        external_ids: query.parsed("identity_ext_ids", |text| external_ids(&text))?,
        provider_id: query.id("provider_id")?.map(ProviderId),
        provider_external_id: query.text("provider_ext_id")?,
        provider_has_no_external_id: false,
        provider_type: query.text("provider_type")?,
        status: query.parsed("status", |text| {
            IdentityStatus::parse(&text).ok_or("must be `unknown`, `valid` or `invalid`")
        })?,
        exclude_matching_external_ids: query.flag("exclude_matching_external_ids", false)?,
        provider_types: caller.limits().provider_types.clone(),
        providers: caller.limits().providers.clone(),
        organization_id: None,
    };
    let page = query.page()?;
    query.end()?;
    match &filter.user_id {
        None if caller.limits().users.is_some() => {
            let problem = "must be there, as the API key is limited to users";
            return Err(ApiError::invalid("user_id", problem));
        }
        // Another's identities are not there for it.
        Some(user) if !caller.limits().allow_user(user) => {
            return Ok(Json(ListBody::whole(Vec::new())));
        }
        _ => {}
    }
    let page = routes.identities.list(&filter, page).await?;
    Ok(Json(ListBody::of(page, Into::into)))
}

/// `a,b`; none when the text is empty, which then matches nothing.
fn external_ids(text: &str) -> Result<Vec<ExternalId>, String> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<_> = text.split(',').collect();
    if ids.len() > MOST_EXTERNAL_IDS {
        return Err(format!("must be at most {MOST_EXTERNAL_IDS}"));
    }
    let ids: Result<_, InvalidId> = ids.into_iter().map(ExternalId::new).collect();
    ids.map_err(|problem| format!("each {problem}"))
}

/// Reads an identity.
#[utoipa::path(
    get,
    path = "/v1/identities/{id}",
    tag = "identities",
    params(
        ("id" = i64, Path, minimum = 1),
        ("If-None-Match" = Option<String>, Header, description = "Not if this is the `ETag` still"),
    ),
    responses(
        (status = 200, description = "Found", body = IdentityBody, headers(("ETag" = String))),
        (status = 304, description = "The caller has it already"),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn get_identity(
    State(routes): State<IdentityRoutes>,
    Narrow(caller): Narrow<IdentitiesRead>,
    Id(id): Id,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    routes.sight.check_identity(caller.limits(), IdentityId(id)).await?;
    let identity = routes.identities.identities.find(IdentityId(id)).await?;
    let identity = identity.ok_or(Error::NotFound("identity"))?;
    let known = is_known(&headers, identity.version);
    let mut response = respond(identity);
    if known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        *response.body_mut() = axum::body::Body::empty();
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    Ok(response)
}

/// An account that the caller vouches for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewIdentity)]
struct NewIdentityBody {
    /// Where the account lives.
    #[schema(example = 1)]
    provider_id: i64,
    /// Whose it is.
    user_id: ProductId,
    /// Which account: 1 to 255 characters. Left out for a provider type whose users bring a token
    /// that they made there: the provider is asked whose `data.access_token` is.
    #[schema(example = "248289761001")]
    external_id: Option<String>,
    /// An older name of the account: an identity under it is rewritten to `external_id`.
    legacy_id: Option<String>,
    /// The profile and the product's own values. The keys `access_token`, `refresh_token`,
    /// `id_token`, `expires` and `token_type` are taken out, sealed and kept as the credentials.
    #[serde(default)]
    #[schema(value_type = Object)]
    data: Map<String, Value>,
    /// What the provider granted.
    #[serde(default)]
    scopes: Vec<String>,
    /// Whether an existing link of the account or of the user may be rebound.
    #[serde(default)]
    reattach: bool,
}

/// Links an account without a browser.
#[utoipa::path(
    post,
    path = "/v1/identities",
    tag = "identities",
    request_body = NewIdentityBody,
    responses(
        (status = 201, description = "Linked for the first time", body = IdentityBody,
            headers(("Location" = String), ("ETag" = String))),
        (status = 200, description = "Was there already, or was rebound", body = IdentityBody,
            headers(("ETag" = String))),
        (status = 409, description = "`identity_already_linked`"),
    ),
)]
async fn link_identity(
    State(routes): State<IdentityRoutes>,
    caller: Allowed<IdentitiesWrite>,
    JsonBody(new): JsonBody<NewIdentityBody>,
) -> Result<Response, ApiError> {
    check_scopes(&new.scopes)?;
    let provider_id = ProviderId(new.provider_id);
    let user_id = new.user_id.check("user_id", UserId::new)?;
    let no_provider = || ApiError::invalid("provider_id", "there is no such identity provider");
    if !routes.sight.sees_provider(caller.limits(), provider_id).await? {
        return Err(no_provider());
    }
    let mut data = new.data;
    let external_id = if let Some(text) = new.external_id {
        ExternalId::new(text).map_err(|problem| ApiError::invalid("external_id", problem))?
    } else {
        let token = data.get("access_token").and_then(Value::as_str).ok_or_else(|| {
            ApiError::invalid("external_id", "is missing, and so is data.access_token")
        })?;
        // Pasted by hand, as a rule.
        let token = token.trim().to_owned();
        if token.is_empty() {
            return Err(ApiError::invalid("data.access_token", "must not be empty"));
        }
        data.insert("access_token".into(), token.as_str().into());
        let token = Secret::new(token);
        let account = routes.sight.providers.account_behind(provider_id, &token).await;
        let account = account.map_err(|error| match error {
            Error::NotFound(_) => no_provider(),
            other => other.into(),
        })?;
        // What the provider says goes before what the caller says of it.
        data.extend(account.profile());
        account.external_id
    };
    let new = NewIdentity {
        provider_id,
        user_id,
        external_id,
        legacy_id: new
            .legacy_id
            .map(ExternalId::new)
            .transpose()
            .map_err(|problem| ApiError::invalid("legacy_id", problem))?,
        data,
        scopes: new.scopes,
        reattach: new.reattach,
    };
    match routes.identities.link(new, caller.actor()).await? {
        LinkOutcome::Created(identity) => {
            let location = HeaderValue::try_from(format!("/v1/identities/{}", identity.id))
                .expect("a number in a path is a header value");
            Ok((StatusCode::CREATED, [(header::LOCATION, location)], respond(identity))
                .into_response())
        }
        LinkOutcome::Updated(identity) | LinkOutcome::Rebound(identity) => Ok(respond(identity)),
        // Outcomes of sign-ins and sessions, and `Taken`, which the service turns into an error.
        LinkOutcome::SignedIn(_)
        | LinkOutcome::NobodyLinked
        | LinkOutcome::Taken(_)
        | LinkOutcome::SessionUsed => Err(ApiError::internal()),
    }
}

/// Replaces an identity's `data`: the body is the whole new value.
///
/// The keys `access_token`, `refresh_token`, `id_token`, `expires` (Unix seconds) and
/// `token_type` are taken out, sealed and kept as the credentials.
#[utoipa::path(
    put,
    path = "/v1/identities/{id}/data",
    tag = "identities",
    params(
        ("id" = i64, Path, minimum = 1),
        ("If-Match" = Option<String>, Header, description = "Only if this is the `ETag` still"),
    ),
    request_body(content = Object, example = json!({"team": "T1"})),
    responses(
        (status = 200, description = "Replaced", body = IdentityBody, headers(("ETag" = String))),
        (status = 404, description = "`not_found`"),
        (status = 412, description = "`version_conflict`"),
    ),
)]
async fn update_identity_data(
    State(routes): State<IdentityRoutes>,
    caller: Allowed<IdentitiesWrite>,
    Id(id): Id,
    headers: HeaderMap,
    JsonBody(data): JsonBody<Map<String, Value>>,
) -> Result<Response, ApiError> {
    let version = if_match(&headers)?;
    routes.sight.check_identity(caller.limits(), IdentityId(id)).await?;
    let actor = caller.actor();
    let identity = routes.identities.update_data(IdentityId(id), data, version, actor).await?;
    Ok(respond(identity))
}

/// Unlinks an account, and ends the grant at the provider where it can.
///
/// The provider is asked once before this answers; where it fails, the grant waits in a queue and
/// is tried again for three days. The event log has the receipt.
#[utoipa::path(
    delete,
    path = "/v1/identities/{id}",
    tag = "identities",
    params(
        ("id" = i64, Path, minimum = 1),
        ("revoke" = Option<bool>, Query, description = "Whether to end the grant too; default true"),
        ("has_password" = Option<bool>, Query,
            description = "Whether the user has a usable password; default false"),
        ("force" = Option<bool>, Query,
            description = "Whether to take also the user's last way to sign in; default false"),
    ),
    responses(
        (status = 204, description = "Unlinked, whether or not the provider ended the grant"),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`needed_for_global_auth`: users sign in with the provider, and the user has no other way"),
    ),
)]
async fn unlink_identity(
    State(routes): State<IdentityRoutes>,
    caller: Allowed<IdentitiesWrite>,
    Id(id): Id,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, ApiError> {
    let mut query = QueryString::parse(query.as_deref());
    let revoke = query.flag("revoke", true)?;
    let has_password = query.flag("has_password", false)?;
    let force = query.flag("force", false)?;
    query.end()?;
    let id = IdentityId(id);
    routes.sight.check_identity(caller.limits(), id).await?;
    let guard = if force { Guard::Off } else { Guard::LastWayIn { has_password } };
    let unlink = Unlink { id, user_id: None, guard, revoke, actor: caller.actor() };
    routes.identities.unlink_guarded(unlink).await?;
    Ok(StatusCode::NO_CONTENT)
}
