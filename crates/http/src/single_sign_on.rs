#![expect(clippy::option_option, reason = "left out, null and a value are three things")]

use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRef, RawQuery, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use symbolon_domain::{
    Error,
    auth_identity::AuthIdentity,
    auth_provider::AuthProvider,
    identity::IdentityFilter,
    ids::{
        AuthIdentityId, AuthProviderId, ExternalId, IdentityId, OrganizationId, ProviderId, UserId,
    },
    organization_identity::OrganizationIdentity,
    page::Page,
    ports::{
        AuthIdentityFilter, AuthIdentityUpdate, AuthProviderFilter, NewAuthProvider,
        OrganizationIdentityFilter, RepositoryError,
    },
    services::{AuthProviderChanges, NewAuthIdentity, SingleSignOn},
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    authorization::{Allowed, Authenticator, SsoRead, SsoWrite},
    error::ApiError,
    identities::IdentityBody,
    list::ListBody,
    request::{Id, JsonBody, PathParameters, ProductId, QueryString, etag, if_match},
    sight::Sight,
};

/// What the routes under `/v1/organizations` need.
#[derive(Clone, FromRef)]
pub(crate) struct SingleSignOnRoutes {
    pub(crate) authenticator: Authenticator,
    pub(crate) single_sign_on: Arc<SingleSignOn>,
    pub(crate) sight: Sight,
}

pub(crate) fn router(state: SingleSignOnRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(create_auth_provider, list_auth_providers))
        .routes(routes!(get_auth_provider, update_auth_provider, delete_auth_provider))
        .routes(routes!(link_auth_identity, list_auth_identities))
        .routes(routes!(update_auth_identity))
        .routes(routes!(delete_auth_identities))
        .routes(routes!(list_organization_user_identities))
        .routes(routes!(list_organization_identities))
        .routes(routes!(attach_identity, detach_identity))
        .with_state(state)
}

/// The organization of the path, if the key reaches it.
fn organization<S>(caller: &Allowed<S>, path: &PathParameters) -> Result<OrganizationId, ApiError> {
    let organization = path
        .parsed("org", OrganizationId::new)
        .map_err(|problem| ApiError::invalid("organization_id", problem))?;
    if caller.limits().allow_organization(&organization) {
        Ok(organization)
    } else {
        Err(Error::OtherOrganization.into())
    }
}

fn user(path: &PathParameters) -> Result<UserId, ApiError> {
    path.parsed("user_id", UserId::new).map_err(|problem| ApiError::invalid("user_id", problem))
}

/// Refuses what hangs on a single sign-on that the key does not see, as if it were not there.
async fn check_seen<S>(
    routes: &SingleSignOnRoutes,
    caller: &Allowed<S>,
    organization: &OrganizationId,
    noun: &'static str,
) -> Result<(), ApiError> {
    if caller.limits().provider_types.is_none() {
        return Ok(());
    }
    let found = routes.single_sign_on.auth_providers.find_by_organization(organization).await?;
    let Some(found) = found else { return Ok(()) };
    routes.sight.check_provider(caller.limits(), found.provider_id, noun).await
}

/// How an organization signs in.
#[derive(Serialize, ToSchema)]
#[schema(as = AuthProvider)]
struct AuthProviderBody {
    /// This setting's own name.
    #[schema(example = 2)]
    id: i64,
    /// Whose, in the product's words.
    #[schema(example = "org-7")]
    organization_id: String,
    /// The provider instance that is signed in with.
    #[schema(example = 1)]
    provider_id: i64,
    /// The product's own values.
    #[schema(value_type = Object)]
    config: Map<String, Value>,
    /// Members who have linked no account may come in all the same.
    allow_unlinked: bool,
    /// The organization's directory manages its members.
    scim_enabled: bool,
    /// The role of a member who comes in for the first time, in the product's numbers.
    default_role: Option<i32>,
    /// Whether such a member gets into all of the organization.
    default_global_access: bool,
    /// How often members are synchronized, in the product's unit.
    sync_time: Option<i32>,
    /// When they were synchronized last.
    last_sync: Option<DateTime<Utc>>,
    /// When the organization got it.
    date_added: DateTime<Utc>,
    /// Counts the changes; the `ETag`.
    #[schema(example = 1)]
    version: i64,
}

impl From<AuthProvider> for AuthProviderBody {
    fn from(it: AuthProvider) -> Self {
        Self {
            id: it.id.0,
            organization_id: it.organization_id.as_str().to_owned(),
            provider_id: it.provider_id.0,
            config: it.config,
            allow_unlinked: it.allow_unlinked,
            scim_enabled: it.scim_enabled,
            default_role: it.default_role,
            default_global_access: it.default_global_access,
            sync_time: it.sync_time,
            last_sync: it.last_sync,
            date_added: it.date_added,
            version: it.version,
        }
    }
}

fn respond_provider(status: StatusCode, provider: AuthProvider) -> Response {
    let tag = [(header::ETAG, etag(provider.version))];
    (status, tag, Json(AuthProviderBody::from(provider))).into_response()
}

/// How an organization is to sign in.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewAuthProvider)]
struct NewAuthProviderBody {
    /// The provider instance to sign in with; its type must be able to sign users in.
    #[schema(example = 1)]
    provider_id: i64,
    /// The product's own values.
    #[serde(default)]
    #[schema(value_type = Object)]
    config: Map<String, Value>,
    /// Members who have linked no account may come in all the same.
    #[serde(default)]
    allow_unlinked: bool,
    /// The organization's directory manages its members.
    #[serde(default)]
    scim_enabled: bool,
    /// The role of a member who comes in for the first time.
    default_role: Option<i32>,
    /// Whether such a member gets into all of the organization; default true.
    #[serde(default = "yes")]
    default_global_access: bool,
    /// How often members are synchronized.
    sync_time: Option<i32>,
}

fn yes() -> bool {
    true
}

/// Gives an organization its single sign-on.
#[utoipa::path(
    post,
    path = "/v1/organizations/{org}/auth-providers",
    tag = "single sign-on",
    params(("org" = String, Path)),
    request_body = NewAuthProviderBody,
    responses(
        (status = 201, description = "Made", body = AuthProviderBody, headers(("ETag" = String))),
        (status = 409, description = "`already_exists`: the organization has one"),
    ),
)]
async fn create_auth_provider(
    State(routes): State<SingleSignOnRoutes>,
    caller: Allowed<SsoWrite>,
    path: PathParameters,
    JsonBody(new): JsonBody<NewAuthProviderBody>,
) -> Result<Response, ApiError> {
    let organization_id = organization(&caller, &path)?;
    let provider_id = ProviderId(new.provider_id);
    if !routes.sight.sees_provider(caller.limits(), provider_id).await? {
        return Err(ApiError::invalid("provider_id", "there is no such identity provider"));
    }
    let new = NewAuthProvider {
        organization_id,
        provider_id,
        config: new.config,
        allow_unlinked: new.allow_unlinked,
        scim_enabled: new.scim_enabled,
        default_role: new.default_role,
        default_global_access: new.default_global_access,
        sync_time: new.sync_time,
    };
    let made = routes.single_sign_on.create(&new, &caller.actor()).await?;
    Ok(respond_provider(StatusCode::CREATED, made))
}

/// Lists how an organization signs in: one at most.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/auth-providers",
    tag = "single sign-on",
    params(
        ("org" = String, Path),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "Default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the part before"),
    ),
    responses((status = 200, description = "In ascending id order", body = ListBody<AuthProviderBody>)),
)]
async fn list_auth_providers(
    State(routes): State<SingleSignOnRoutes>,
    caller: Allowed<SsoRead>,
    path: PathParameters,
    RawQuery(query): RawQuery,
) -> Result<Json<ListBody<AuthProviderBody>>, ApiError> {
    let organization_id = Some(organization(&caller, &path)?);
    let mut query = QueryString::parse(query.as_deref());
    let page = query.page()?;
    query.end()?;
    let filter = AuthProviderFilter { organization_id, provider_id: None };
    let page = routes.single_sign_on.auth_providers.list(&filter, page).await?;
    // An organization has one at most, so that no part is cut short by this.
    let mut seen = Vec::new();
    for it in page.items {
        if routes.sight.sees_provider(caller.limits(), it.provider_id).await? {
            seen.push(it);
        }
    }
    Ok(Json(ListBody::of(Page { items: seen, next: page.next }, Into::into)))
}

/// Reads how an organization signs in.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/auth-providers/{id}",
    tag = "single sign-on",
    params(("org" = String, Path), ("id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "Found", body = AuthProviderBody, headers(("ETag" = String))),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn get_auth_provider(
    State(routes): State<SingleSignOnRoutes>,
    caller: Allowed<SsoRead>,
    path: PathParameters,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let organization = organization(&caller, &path)?;
    check_seen(&routes, &caller, &organization, "auth provider").await?;
    let found = routes.single_sign_on.find(&organization, AuthProviderId(id)).await?;
    Ok(respond_provider(StatusCode::OK, found))
}

/// A field that may be null, and may be left out.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

/// Changes to how an organization signs in: what is left out stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AuthProviderChanges)]
struct AuthProviderChangesBody {
    /// The whole new values of the product's own.
    #[schema(value_type = Option<Object>)]
    config: Option<Map<String, Value>>,
    /// Members who have linked no account may come in all the same.
    allow_unlinked: Option<bool>,
    /// The organization's directory manages its members.
    scim_enabled: Option<bool>,
    /// The role of a member who comes in for the first time; null for none.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i32>)]
    default_role: Option<Option<i32>>,
    /// Whether such a member gets into all of the organization.
    default_global_access: Option<bool>,
    /// How often members are synchronized; null for never.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<i32>)]
    sync_time: Option<Option<i32>>,
    /// When they were synchronized last.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<DateTime<Utc>>)]
    last_sync: Option<Option<DateTime<Utc>>>,
}

/// Changes how an organization signs in; with which provider stays.
#[utoipa::path(
    patch,
    path = "/v1/organizations/{org}/auth-providers/{id}",
    tag = "single sign-on",
    params(
        ("org" = String, Path),
        ("id" = i64, Path, minimum = 1),
        ("If-Match" = Option<String>, Header, description = "Only if this is the `ETag` still"),
    ),
    request_body = AuthProviderChangesBody,
    responses(
        (status = 200, description = "Changed", body = AuthProviderBody, headers(("ETag" = String))),
        (status = 404, description = "`not_found`"),
        (status = 412, description = "`version_conflict`"),
    ),
)]
async fn update_auth_provider(
    State(routes): State<SingleSignOnRoutes>,
    caller: Allowed<SsoWrite>,
    path: PathParameters,
    Id(id): Id,
    headers: HeaderMap,
    JsonBody(changes): JsonBody<AuthProviderChangesBody>,
) -> Result<Response, ApiError> {
    let organization = organization(&caller, &path)?;
    let version = if_match(&headers)?;
    check_seen(&routes, &caller, &organization, "auth provider").await?;
    let changes = AuthProviderChanges {
        config: changes.config,
        allow_unlinked: changes.allow_unlinked,
        scim_enabled: changes.scim_enabled,
        default_role: changes.default_role,
        default_global_access: changes.default_global_access,
        sync_time: changes.sync_time,
        last_sync: changes.last_sync,
    };
    let id = AuthProviderId(id);
    let updated = routes
        .single_sign_on
        .update(&organization, id, &changes, version, &caller.actor())
        .await
        .map_err(|error| match error {
            // The domain's own words speak of an identity.
            Error::VersionConflict => ApiError::version_conflict(
                "the auth provider was changed since; read it again and repeat the change",
            ),
            other => other.into(),
        })?;
    Ok(respond_provider(StatusCode::OK, updated))
}

/// Takes an organization's single sign-on away, with the accounts that were linked for it.
#[utoipa::path(
    delete,
    path = "/v1/organizations/{org}/auth-providers/{id}",
    tag = "single sign-on",
    params(("org" = String, Path), ("id" = i64, Path, minimum = 1)),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn delete_auth_provider(
    State(routes): State<SingleSignOnRoutes>,
    caller: Allowed<SsoWrite>,
    path: PathParameters,
    Id(id): Id,
) -> Result<StatusCode, ApiError> {
    let organization = organization(&caller, &path)?;
    check_seen(&routes, &caller, &organization, "auth provider").await?;
    routes.single_sign_on.delete(&organization, AuthProviderId(id), &caller.actor()).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A user's account for an organization's single sign-on.
#[derive(Serialize, ToSchema)]
#[schema(as = AuthIdentity)]
struct AuthIdentityBody {
    /// This link's own name.
    #[schema(example = 5)]
    id: i64,
    /// The single sign-on that it is for.
    #[schema(example = 2)]
    auth_provider_id: i64,
    /// Whom it signs in, in the product's words.
    #[schema(example = "user-42")]
    user_id: String,
    /// Which account at the provider.
    #[schema(example = "248289761001")]
    ident: String,
    /// The profile and the product's own values; never a credential.
    #[schema(value_type = Object)]
    data: Map<String, Value>,
    /// When the user last proved to hold it.
    last_verified: DateTime<Utc>,
    /// When what the organization knows of the user was last brought up to date.
    last_synced: DateTime<Utc>,
    /// When it was linked first.
    date_added: DateTime<Utc>,
    /// Counts the changes; the `ETag`.
    #[schema(example = 1)]
    version: i64,
}

impl From<AuthIdentity> for AuthIdentityBody {
    fn from(it: AuthIdentity) -> Self {
        Self {
            id: it.id.0,
            auth_provider_id: it.auth_provider_id.0,
            user_id: it.user_id.as_str().to_owned(),
            ident: it.ident.as_str().to_owned(),
            data: it.data,
            last_verified: it.last_verified,
            last_synced: it.last_synced,
            date_added: it.date_added,
            version: it.version,
        }
    }
}

fn respond_identity(status: StatusCode, identity: AuthIdentity) -> Response {
    let tag = [(header::ETAG, etag(identity.version))];
    (status, tag, Json(AuthIdentityBody::from(identity))).into_response()
}

/// Lists the accounts with which an organization's users sign in.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/auth-identities",
    tag = "single sign-on",
    params(
        ("org" = String, Path),
        ("user_id" = Option<String>, Query, description = "Of this user"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "Default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the part before"),
    ),
    responses((status = 200, description = "In ascending id order", body = ListBody<AuthIdentityBody>)),
)]
async fn list_auth_identities(
    State(routes): State<SingleSignOnRoutes>,
    caller: Allowed<SsoRead>,
    path: PathParameters,
    RawQuery(query): RawQuery,
) -> Result<Json<ListBody<AuthIdentityBody>>, ApiError> {
    let organization = organization(&caller, &path)?;
    let mut query = QueryString::parse(query.as_deref());
    let user_id = query.parsed("user_id", UserId::new)?;
    let page = query.page()?;
    query.end()?;
    check_seen(&routes, &caller, &organization, "auth provider").await?;
    let filter = AuthIdentityFilter {
        organization_id: Some(organization),
        user_id,
        ..AuthIdentityFilter::default()
    };
    let page = routes.single_sign_on.auth_identities.list(&filter, page).await?;
    Ok(Json(ListBody::of(page, Into::into)))
}

/// An account that the caller vouches for.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewAuthIdentity)]
struct NewAuthIdentityBody {
    /// Whose it is.
    user_id: ProductId,
    /// Which account: 1 to 255 characters.
    #[schema(example = "248289761001")]
    ident: String,
    /// The profile and the product's own values. The keys `access_token`, `refresh_token`,
    /// `id_token`, `expires` and `token_type` are taken out and sealed.
    #[serde(default)]
    #[schema(value_type = Object)]
    data: Map<String, Value>,
    /// Whether an existing link of the account or of the user may be rebound.
    #[serde(default)]
    reattach: bool,
}

fn ident(text: String) -> Result<ExternalId, ApiError> {
    ExternalId::new(text).map_err(|problem| ApiError::invalid("ident", problem))
}

/// Links an account for an organization's single sign-on without a browser.
#[utoipa::path(
    post,
    path = "/v1/organizations/{org}/auth-identities",
    tag = "single sign-on",
    params(("org" = String, Path)),
    request_body = NewAuthIdentityBody,
    responses(
        (status = 201, description = "Linked for the first time", body = AuthIdentityBody,
            headers(("ETag" = String))),
        (status = 200, description = "Was there already, or was rebound", body = AuthIdentityBody,
            headers(("ETag" = String))),
        (status = 404, description = "`not_found`: the organization has no auth provider"),
        (status = 409, description = "`identity_already_linked`"),
    ),
)]
async fn link_auth_identity(
    State(routes): State<SingleSignOnRoutes>,
    caller: Allowed<SsoWrite>,
    path: PathParameters,
    JsonBody(new): JsonBody<NewAuthIdentityBody>,
) -> Result<Response, ApiError> {
    let organization_id = organization(&caller, &path)?;
    let new = NewAuthIdentity {
        organization_id,
        user_id: new.user_id.check("user_id", UserId::new)?,
        ident: ident(new.ident)?,
        data: new.data,
        reattach: new.reattach,
    };
    check_seen(&routes, &caller, &new.organization_id, "auth provider").await?;
    let (identity, new) = routes.single_sign_on.link(new, caller.actor()).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(respond_identity(status, identity))
}

/// Changes to an account: what is left out stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = AuthIdentityChanges)]
struct AuthIdentityChangesBody {
    /// Another name of the account.
    ident: Option<String>,
    /// The whole new value; must hold no credential.
    #[schema(value_type = Option<Object>)]
    data: Option<Map<String, Value>>,
    /// Whether what the organization knows of the user is up to date now.
    #[serde(default)]
    synced: bool,
}

/// Changes a user's account for an organization's single sign-on.
#[utoipa::path(
    patch,
    path = "/v1/organizations/{org}/auth-identities/{id}",
    tag = "single sign-on",
    params(
        ("org" = String, Path),
        ("id" = i64, Path, minimum = 1),
        ("If-Match" = Option<String>, Header, description = "Only if this is the `ETag` still"),
    ),
    request_body = AuthIdentityChangesBody,
    responses(
        (status = 200, description = "Changed", body = AuthIdentityBody, headers(("ETag" = String))),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`identity_already_linked`: `ident` is another user's"),
        (status = 412, description = "`version_conflict`"),
    ),
)]
async fn update_auth_identity(
    State(routes): State<SingleSignOnRoutes>,
    caller: Allowed<SsoWrite>,
    path: PathParameters,
    Id(id): Id,
    headers: HeaderMap,
    JsonBody(changes): JsonBody<AuthIdentityChangesBody>,
) -> Result<Response, ApiError> {
    let organization = organization(&caller, &path)?;
    let update = AuthIdentityUpdate {
        id: AuthIdentityId(id),
        ident: changes.ident.map(ident).transpose()?,
        data: changes.data,
        synced: changes.synced,
        if_version: if_match(&headers)?,
        actor: caller.actor(),
    };
    check_seen(&routes, &caller, &organization, "auth identity").await?;
    let updated = routes.single_sign_on.update_identity(&organization, update).await?;
    Ok(respond_identity(StatusCode::OK, updated))
}

/// How many went.
#[derive(Serialize, ToSchema)]
#[schema(as = Deleted)]
struct DeletedBody {
    /// How many there were.
    #[schema(example = 1)]
    deleted: u64,
}

/// Removes a user's accounts for an organization's single sign-on, all or none. Whether the user
/// can still sign in is not asked: the organization takes them away.
#[utoipa::path(
    delete,
    path = "/v1/organizations/{org}/users/{user_id}/auth-identities",
    tag = "single sign-on",
    params(("org" = String, Path), ("user_id" = String, Path)),
    responses((status = 200, description = "Removed; none is no error", body = DeletedBody)),
)]
async fn delete_auth_identities(
    State(routes): State<SingleSignOnRoutes>,
    caller: Allowed<SsoWrite>,
    path: PathParameters,
) -> Result<Json<DeletedBody>, ApiError> {
    let (organization, user) = (organization(&caller, &path)?, user(&path)?);
    check_seen(&routes, &caller, &organization, "auth provider").await?;
    let accounts = &routes.single_sign_on.auth_identities;
    let deleted = accounts.delete_for(&user, &organization, &caller.actor()).await?;
    Ok(Json(DeletedBody { deleted }))
}

/// Lists the identities of a user that an organization uses.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/users/{user_id}/identities",
    tag = "single sign-on",
    params(
        ("org" = String, Path),
        ("user_id" = String, Path),
        ("provider_type" = Option<String>, Query, description = "At provider instances of this type"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "Default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the part before"),
    ),
    responses((status = 200, description = "In ascending id order", body = ListBody<IdentityBody>)),
)]
async fn list_organization_user_identities(
    State(routes): State<SingleSignOnRoutes>,
    caller: Allowed<SsoRead>,
    path: PathParameters,
    RawQuery(query): RawQuery,
) -> Result<Json<ListBody<IdentityBody>>, ApiError> {
    let (organization, user) = (organization(&caller, &path)?, user(&path)?);
    let mut query = QueryString::parse(query.as_deref());
    let filter = IdentityFilter {
        organization_id: Some(organization),
        user_id: Some(user),
        provider_type: query.text("provider_type")?,
        provider_types: caller.limits().provider_types.clone(),
        ..IdentityFilter::default()
    };
    let page = query.page()?;
    query.end()?;
    let page = routes.sight.identities.list(&filter, page).await?;
    Ok(Json(ListBody::of(page, Into::into)))
}

/// That an organization uses an identity.
#[derive(Serialize, ToSchema)]
#[schema(as = OrganizationIdentity)]
struct OrganizationIdentityBody {
    /// This use's own name.
    #[schema(example = 3)]
    id: i64,
    /// Who uses it, in the product's words.
    #[schema(example = "org-7")]
    organization_id: String,
    /// What is used.
    #[schema(example = 7)]
    identity_id: i64,
    /// Since when.
    date_added: DateTime<Utc>,
}

impl From<OrganizationIdentity> for OrganizationIdentityBody {
    fn from(it: OrganizationIdentity) -> Self {
        Self {
            id: it.id.0,
            organization_id: it.organization_id.as_str().to_owned(),
            identity_id: it.identity_id.0,
            date_added: it.date_added,
        }
    }
}

/// Lists which identities an organization uses.
#[utoipa::path(
    get,
    path = "/v1/organizations/{org}/identities",
    tag = "single sign-on",
    params(
        ("org" = String, Path),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "Default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the part before"),
    ),
    responses((status = 200, description = "In ascending id order",
        body = ListBody<OrganizationIdentityBody>)),
)]
async fn list_organization_identities(
    State(routes): State<SingleSignOnRoutes>,
    caller: Allowed<SsoRead>,
    path: PathParameters,
    RawQuery(query): RawQuery,
) -> Result<Json<ListBody<OrganizationIdentityBody>>, ApiError> {
    let organization_id = Some(organization(&caller, &path)?);
    let mut query = QueryString::parse(query.as_deref());
    let page = query.page()?;
    query.end()?;
    let provider_types = caller.limits().provider_types.clone();
    let filter = OrganizationIdentityFilter { organization_id, identity_id: None, provider_types };
    let page = routes.single_sign_on.organization_identities.list(&filter, page).await?;
    Ok(Json(ListBody::of(page, Into::into)))
}

/// Lets an organization use an identity. Doing it again changes nothing.
#[utoipa::path(
    put,
    path = "/v1/organizations/{org}/identities/{id}",
    tag = "single sign-on",
    params(("org" = String, Path), ("id" = i64, Path, minimum = 1)),
    responses(
        (status = 201, description = "Used from now on", body = OrganizationIdentityBody),
        (status = 200, description = "Was used already", body = OrganizationIdentityBody),
        (status = 404, description = "`not_found`: there is no such identity"),
    ),
)]
async fn attach_identity(
    State(routes): State<SingleSignOnRoutes>,
    caller: Allowed<SsoWrite>,
    path: PathParameters,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let organization = organization(&caller, &path)?;
    let id = IdentityId(id);
    routes.sight.check_identity(caller.limits(), id).await?;
    let uses = &routes.single_sign_on.organization_identities;
    let attached = uses.attach(&organization, id, &caller.actor()).await;
    let (made, new) = attached.map_err(|error| match error {
        RepositoryError::NotFound => Error::NotFound("identity"),
        other => other.into(),
    })?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(OrganizationIdentityBody::from(made))).into_response())
}

/// Ends an organization's use of an identity, which stays linked.
#[utoipa::path(
    delete,
    path = "/v1/organizations/{org}/identities/{id}",
    tag = "single sign-on",
    params(("org" = String, Path), ("id" = i64, Path, minimum = 1)),
    responses(
        (status = 204, description = "Not used any more"),
        (status = 404, description = "`not_found`: the organization does not use it"),
    ),
)]
async fn detach_identity(
    State(routes): State<SingleSignOnRoutes>,
    caller: Allowed<SsoWrite>,
    path: PathParameters,
    Id(id): Id,
) -> Result<StatusCode, ApiError> {
    let organization = organization(&caller, &path)?;
    let id = IdentityId(id);
    routes.sight.check_identity(caller.limits(), id).await?;
    let uses = &routes.single_sign_on.organization_identities;
    if uses.detach(&organization, id, &caller.actor()).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Error::NotFound("organization identity").into())
    }
}
