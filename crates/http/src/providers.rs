use std::{panic::resume_unwind, sync::Arc};

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
    identity_provider::{IdentityProvider, OptionChanges},
    ids::ProviderId,
    ports::ProviderFilter,
    services::{HIDDEN, LinkSettings, Providers},
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    authorization::{Allowed, Authenticator, ProvidersRead, ProvidersWrite},
    error::ApiError,
    list::ListBody,
    request::{Id, JsonBody, QueryString, etag, if_match},
    sight::Sight,
};

/// What the routes under `/v1/providers` need.
#[derive(Clone, FromRef)]
pub(crate) struct ProviderRoutes {
    pub(crate) authenticator: Authenticator,
    pub(crate) sight: Sight,
    pub(crate) providers: Arc<Providers>,
    /// Knows the redirect URIs.
    pub(crate) links: Arc<LinkSettings>,
}

pub(crate) fn router(state: ProviderRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(create_provider, list_providers))
        .routes(routes!(get_provider, update_provider, delete_provider))
        .with_state(state)
}

/// An instance of a provider type.
#[derive(Serialize, ToSchema)]
#[schema(as = Provider)]
struct ProviderBody {
    /// This instance's own name.
    #[schema(example = 1)]
    id: i64,
    /// The key of its type, as in `/v1/provider-types`.
    #[serde(rename = "type")]
    #[schema(example = "oidc")]
    provider_type: String,
    /// Which instance: a host, a workspace, a tenant.
    external_id: Option<String>,
    /// As the type's `config_schema` has it; secrets read as `********`.
    #[schema(value_type = Object, example = json!({
        "issuer": "https://idp.example", "client_id": "abc", "client_secret": "********",
    }))]
    config: Map<String, Value>,
    /// Users sign in to the product with it, so that unlinking may take a user's last way in.
    login: bool,
    /// A user may link several accounts of it; otherwise one.
    multiple_accounts: bool,
    /// To be registered at the provider.
    #[schema(example = "https://symbolon.example/callback/1")]
    redirect_uri: String,
    /// When it was created.
    date_added: DateTime<Utc>,
    /// Counts the changes; the `ETag`.
    #[schema(example = 1)]
    version: i64,
}

impl ProviderBody {
    fn new(provider: IdentityProvider, links: &LinkSettings) -> Self {
        let mut config = provider.config;
        for name in provider.secret_names {
            config.insert(name, HIDDEN.into());
        }
        Self {
            id: provider.id.0,
            provider_type: provider.provider_type,
            external_id: provider.external_id,
            config,
            login: provider.options.login,
            multiple_accounts: provider.options.multiple_accounts,
            redirect_uri: links.redirect_uri(provider.id).into(),
            date_added: provider.date_added,
            version: provider.version,
        }
    }
}

/// A provider instance to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewProvider)]
struct NewProviderBody {
    /// The key of a provider type.
    #[serde(rename = "type")]
    #[schema(example = "oidc")]
    provider_type: String,
    /// Tells instances of one type apart; up to 255 characters.
    external_id: Option<String>,
    /// As the type's `config_schema` has it, secrets included.
    #[schema(value_type = Object, example = json!({
        "issuer": "https://idp.example", "client_id": "abc", "client_secret": "s3cret",
    }))]
    config: Map<String, Value>,
    /// Whether users sign in to the product with it.
    #[serde(default)]
    login: bool,
    /// Whether a user may link several accounts of it.
    #[serde(default)]
    multiple_accounts: bool,
}

/// Makes a provider instance.
#[utoipa::path(
    post,
    path = "/v1/providers",
    tag = "providers",
    request_body = NewProviderBody,
    responses(
        (status = 201, description = "Made", body = ProviderBody,
            headers(("Location" = String), ("ETag" = String))),
        (status = 409, description = "`already_exists`: type and external_id are taken"),
        (status = 502, description = "`provider_misconfigured`: for a type that registers itself at the provider, which does not take it; nothing was made"),
        (status = 503, description = "`provider_unavailable`: the same, for now"),
    ),
)]
async fn create_provider(
    State(routes): State<ProviderRoutes>,
    caller: Allowed<ProvidersWrite>,
    JsonBody(new): JsonBody<NewProviderBody>,
) -> Result<Response, ApiError> {
    let NewProviderBody { provider_type, external_id, config, login, multiple_accounts } = new;
    if !caller.limits().allow_type(&provider_type) {
        return Err(ApiError::invalid("type", "is not one that the API key is limited to"));
    }
    let options = OptionChanges { login: Some(login), multiple_accounts: Some(multiple_accounts) };
    let (providers, actor) = (Arc::clone(&routes.providers), caller.actor());
    // A caller that hangs up does not leave a provider half-way to its registration.
    let created = tokio::spawn(async move {
        providers.create(&provider_type, external_id, config, options, &actor).await
    });
    let provider = match created.await {
        Ok(created) => created?,
        Err(panicked) => resume_unwind(panicked.into_panic()),
    };
    let location = HeaderValue::try_from(format!("/v1/providers/{}", provider.id))
        .expect("a number in a path is a header value");
    let headers = [(header::LOCATION, location), (header::ETAG, etag(provider.version))];
    let body = Json(ProviderBody::new(provider, &routes.links));
    Ok((StatusCode::CREATED, headers, body).into_response())
}

/// Lists provider instances.
#[utoipa::path(
    get,
    path = "/v1/providers",
    tag = "providers",
    params(
        ("type" = Option<String>, Query, description = "Instances of this type"),
        ("external_id" = Option<String>, Query, description = "Instances with this external id"),
        ("external_id_is_null" = Option<bool>, Query,
            description = "Instances without an external id; with `type` that is at most one"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "Default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the part before"),
    ),
    responses((status = 200, description = "In ascending id order", body = ListBody<ProviderBody>)),
)]
async fn list_providers(
    State(routes): State<ProviderRoutes>,
    caller: Allowed<ProvidersRead>,
    RawQuery(query): RawQuery,
) -> Result<Json<ListBody<ProviderBody>>, ApiError> {
    let mut query = QueryString::parse(query.as_deref());
    let filter = ProviderFilter {
        provider_type: query.text("type")?,
        external_id: query.text("external_id")?,
        provider_types: caller.limits().provider_types.clone(),
        without_external_id: query.flag("external_id_is_null", false)?,
    };
    let page = query.page()?;
    query.end()?;
    if filter.external_id.is_some() && filter.without_external_id {
        return Err(ApiError::invalid("external_id_is_null", "cannot be with `external_id`"));
    }
    let page = routes.providers.providers.list(&filter, page).await?;
    Ok(Json(ListBody::of(page, |it| ProviderBody::new(it, &routes.links))))
}

/// Reads a provider instance.
#[utoipa::path(
    get,
    path = "/v1/providers/{id}",
    tag = "providers",
    params(("id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "Found", body = ProviderBody, headers(("ETag" = String))),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn get_provider(
    State(routes): State<ProviderRoutes>,
    caller: Allowed<ProvidersRead>,
    Id(id): Id,
) -> Result<Response, ApiError> {
    let provider = routes.providers.providers.find(ProviderId(id)).await?;
    let provider = provider.filter(|it| caller.limits().allow_type(&it.provider_type));
    let provider = provider.ok_or(Error::NotFound("identity provider"))?;
    let tag = [(header::ETAG, etag(provider.version))];
    Ok((tag, Json(ProviderBody::new(provider, &routes.links))).into_response())
}

/// Changes to a provider instance.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ProviderChanges)]
struct ProviderChangesBody {
    /// The keys to change: null removes one, `********` leaves a secret as it is, and so does
    /// leaving a key out. A key that says whose accounts these are (`issuer`) stays as it is while
    /// the provider has identities. Where our client registers itself and is not registered, as the
    /// making of the provider was cut off, an empty one has it registered.
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"client_secret": "n3w", "scopes": null}))]
    config: Option<Map<String, Value>>,
    /// Whether users sign in to the product with it; left out, it stays as it is.
    #[serde(default)]
    login: Option<bool>,
    /// Whether a user may link several accounts of it; left out, it stays as it is. Turned off, it
    /// leaves what was linked, and refuses more.
    #[serde(default)]
    multiple_accounts: Option<bool>,
}

/// Changes single keys of a provider instance's config, or what it is used for.
#[utoipa::path(
    patch,
    path = "/v1/providers/{id}",
    tag = "providers",
    params(
        ("id" = i64, Path, minimum = 1),
        ("If-Match" = Option<String>, Header, description = "Only if this is the `ETag` still"),
    ),
    request_body = ProviderChangesBody,
    responses(
        (status = 200, description = "Changed", body = ProviderBody, headers(("ETag" = String))),
        (status = 404, description = "`not_found`"),
        (status = 412, description = "`version_conflict`"),
    ),
)]
async fn update_provider(
    State(routes): State<ProviderRoutes>,
    caller: Allowed<ProvidersWrite>,
    Id(id): Id,
    headers: HeaderMap,
    JsonBody(changes): JsonBody<ProviderChangesBody>,
) -> Result<Response, ApiError> {
    let version = if_match(&headers)?;
    let actor = caller.actor();
    let ProviderChangesBody { config, login, multiple_accounts } = changes;
    let options = OptionChanges { login, multiple_accounts };
    if config.is_none() && options == OptionChanges::default() {
        return Err(ApiError::invalid("config", "give this, `login` or `multiple_accounts`"));
    }
    let config = config.unwrap_or_default();
    routes.sight.check_provider(caller.limits(), ProviderId(id), "identity provider").await?;
    let providers = Arc::clone(&routes.providers);
    // As at its making: a change may be followed by the registration that was cut off then.
    let updated = tokio::spawn(async move {
        providers.update(ProviderId(id), &config, options, version, &actor).await
    });
    let updated = updated.await.unwrap_or_else(|panicked| resume_unwind(panicked.into_panic()));
    let provider = updated.map_err(|error| match error {
        // The domain's own words speak of an identity.
        Error::VersionConflict => ApiError::version_conflict(
            "the provider was changed since; read it again and repeat the change",
        ),
        other => other.into(),
    })?;
    let tag = [(header::ETAG, etag(provider.version))];
    Ok((tag, Json(ProviderBody::new(provider, &routes.links))).into_response())
}

/// Deletes a provider instance.
#[utoipa::path(
    delete,
    path = "/v1/providers/{id}",
    tag = "providers",
    params(
        ("id" = i64, Path, minimum = 1),
        ("cascade" = Option<bool>, Query, description = "Also its identities and the organizations' sign-in with it; default false"),
    ),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`provider_in_use`: it has identities, or organizations sign in with it"),
    ),
)]
async fn delete_provider(
    State(routes): State<ProviderRoutes>,
    caller: Allowed<ProvidersWrite>,
    Id(id): Id,
    RawQuery(query): RawQuery,
) -> Result<StatusCode, ApiError> {
    let mut query = QueryString::parse(query.as_deref());
    let cascade = query.flag("cascade", false)?;
    query.end()?;
    routes.sight.check_provider(caller.limits(), ProviderId(id), "identity provider").await?;
    routes.providers.delete(ProviderId(id), cascade, &caller.actor()).await?;
    Ok(StatusCode::NO_CONTENT)
}
