use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRef, RawQuery, State},
    http::StatusCode,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use symbolon_domain::{
    Error,
    disconnection::IdentityCategory,
    ids::{AuthIdentityId, IdentityId, UserId},
    services::{Disconnect, SingleSignOn, UserAccount},
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    authorization::{Allowed, Authenticator, IdentitiesRead, IdentitiesWrite},
    error::ApiError,
    limits::Sight,
    list::ListBody,
    request::{Id, PathParameters, QueryString},
};

/// What the routes under `/v1/users` need.
#[derive(Clone, FromRef)]
pub(crate) struct AccountRoutes {
    pub(crate) authenticator: Authenticator,
    pub(crate) single_sign_on: Arc<SingleSignOn>,
    pub(crate) sight: Sight,
}

pub(crate) fn router(state: AccountRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list_accounts))
        .routes(routes!(get_account, disconnect_account))
        .with_state(state)
}

/// Where an account lives.
#[derive(Serialize, ToSchema)]
#[schema(as = AccountProvider)]
struct AccountProviderBody {
    /// The provider instance.
    #[schema(example = 1)]
    id: i64,
    /// The key of its type.
    #[serde(rename = "type")]
    #[schema(example = "github")]
    provider_type: String,
    /// Which instance of the type.
    external_id: Option<String>,
}

/// One of a user's accounts, as the user is shown it.
#[derive(Serialize, ToSchema)]
#[schema(as = Account)]
struct AccountBody {
    /// `global-identity`, or `org-identity` for an organization's single sign-on.
    #[schema(example = "global-identity")]
    category: &'static str,
    /// Its name within the category.
    #[schema(example = 7)]
    id: i64,
    /// Where it lives.
    provider: AccountProviderBody,
    /// Which account there.
    #[schema(example = "248289761001")]
    name: String,
    /// `can_disconnect`, `needed_for_global_auth` or `needed_for_org_auth`.
    #[schema(example = "can_disconnect")]
    status: &'static str,
    /// Whether the user signs in with it.
    is_login: bool,
    /// For which organization; null but for `org-identity`.
    organization_id: Option<String>,
    /// When it was linked first.
    date_added: DateTime<Utc>,
    /// When the user last proved to hold it.
    date_verified: DateTime<Utc>,
    /// When what the organization knows was brought up to date; null but for `org-identity`.
    date_synced: Option<DateTime<Utc>>,
}

impl From<UserAccount> for AccountBody {
    fn from(it: UserAccount) -> Self {
        Self {
            category: it.category.as_str(),
            id: it.id,
            provider: AccountProviderBody {
                id: it.provider.id.0,
                provider_type: it.provider.provider_type,
                external_id: it.provider.external_id,
            },
            name: it.name.as_str().to_owned(),
            status: it.status.as_str(),
            is_login: it.is_login,
            organization_id: it.organization_id.map(|it| it.as_str().to_owned()),
            date_added: it.date_added,
            date_verified: it.date_verified,
            date_synced: it.date_synced,
        }
    }
}

fn user(path: &PathParameters) -> Result<UserId, ApiError> {
    path.parsed("user_id", UserId::new).map_err(|problem| ApiError::invalid("user_id", problem))
}

fn category(path: &PathParameters) -> Result<IdentityCategory, ApiError> {
    let category = path.parsed("category", |text| {
        IdentityCategory::parse(&text).ok_or("must be `global-identity` or `org-identity`")
    });
    category.map_err(|problem| ApiError::invalid("category", problem))
}

/// Lists a user's accounts, and whether the user may disconnect each: identities first, then
/// those for organizations' single sign-on.
#[utoipa::path(
    get,
    path = "/v1/users/{user_id}/identities",
    tag = "identities",
    params(
        ("user_id" = String, Path),
        ("has_password" = Option<bool>, Query,
            description = "Whether the user has a usable password; default false"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "Default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the part before"),
    ),
    responses((status = 200, description = "In ascending id order by category",
        body = ListBody<AccountBody>)),
)]
async fn list_accounts(
    State(routes): State<AccountRoutes>,
    caller: Allowed<IdentitiesRead>,
    path: PathParameters,
    RawQuery(query): RawQuery,
) -> Result<Json<ListBody<AccountBody>>, ApiError> {
    let user = user(&path)?;
    let mut query = QueryString::parse(query.as_deref());
    let has_password = query.flag("has_password", false)?;
    let page = query.page()?;
    query.end()?;
    let service = &routes.single_sign_on;
    let page = service.accounts(&user, has_password, caller.limits(), page).await?;
    Ok(Json(ListBody::of(page, Into::into)))
}

/// Reads one of a user's accounts, and whether the user may disconnect it.
#[utoipa::path(
    get,
    path = "/v1/users/{user_id}/identities/{category}/{id}",
    tag = "identities",
    params(
        ("user_id" = String, Path),
        ("category" = String, Path, description = "`global-identity` or `org-identity`"),
        ("id" = i64, Path, minimum = 1),
        ("has_password" = Option<bool>, Query,
            description = "Whether the user has a usable password; default false"),
    ),
    responses(
        (status = 200, description = "Found", body = AccountBody),
        (status = 404, description = "`not_found`, also for another user's"),
    ),
)]
async fn get_account(
    State(routes): State<AccountRoutes>,
    caller: Allowed<IdentitiesRead>,
    path: PathParameters,
    Id(id): Id,
    RawQuery(query): RawQuery,
) -> Result<Json<AccountBody>, ApiError> {
    let (user, category) = (user(&path)?, category(&path)?);
    let mut query = QueryString::parse(query.as_deref());
    let has_password = query.flag("has_password", false)?;
    query.end()?;
    let service = &routes.single_sign_on;
    let found = service.account(&user, category, id, has_password, caller.limits()).await?;
    Ok(Json(found.into()))
}

/// Unlinks one of a user's accounts as the user would, unless the user needs it to sign in. End
/// the user's other sessions at the product afterwards.
#[utoipa::path(
    delete,
    path = "/v1/users/{user_id}/identities/{category}/{id}",
    tag = "identities",
    params(
        ("user_id" = String, Path),
        ("category" = String, Path, description = "`global-identity` or `org-identity`"),
        ("id" = i64, Path, minimum = 1),
        ("has_password" = Option<bool>, Query,
            description = "Whether the user has a usable password; default false"),
    ),
    responses(
        (status = 204, description = "Unlinked"),
        (status = 404, description = "`not_found`, also for another user's"),
        (status = 409, description = "`needed_for_global_auth` or `needed_for_org_auth`"),
    ),
)]
async fn disconnect_account(
    State(routes): State<AccountRoutes>,
    caller: Allowed<IdentitiesWrite>,
    path: PathParameters,
    Id(id): Id,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, ApiError> {
    let (user_id, category) = (user(&path)?, category(&path)?);
    let mut query = QueryString::parse(query.as_deref());
    let has_password = query.flag("has_password", false)?;
    query.end()?;
    if caller.limits().provider_types.is_some() {
        check_seen(&routes, &caller, category, id).await?;
    }
    let actor = caller.actor();
    let asked = Disconnect { user_id, category, id, has_password, actor };
    routes.single_sign_on.disconnect(asked, caller.limits()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Refuses an account at a provider instance of another type, as if it were not there.
async fn check_seen(
    routes: &AccountRoutes,
    caller: &Allowed<IdentitiesWrite>,
    category: IdentityCategory,
    id: i64,
) -> Result<(), ApiError> {
    if category == IdentityCategory::Global {
        return routes.sight.check_identity(caller.limits(), IdentityId(id)).await;
    }
    let absent = || Error::NotFound("auth identity");
    let service = &routes.single_sign_on;
    let found = service.auth_identities.find(AuthIdentityId(id)).await?.ok_or_else(absent)?;
    let of = service.auth_providers.find(found.auth_provider_id).await?.ok_or_else(absent)?;
    routes.sight.check_provider(caller.limits(), of.provider_id, "auth identity").await
}
