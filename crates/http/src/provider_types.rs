use std::sync::Arc;

use axum::{
    Json,
    extract::{FromRef, RawQuery, State},
};
use serde::Serialize;
use serde_json::Value;
use symbolon_domain::{
    Error,
    identity_provider::{Capabilities, ProviderType, Registration, Rotation},
    ports::Connectors,
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    authorization::{Allowed, Authenticator, ProvidersRead},
    error::ApiError,
    list::ListBody,
    request::{QueryString, Segment},
};

/// What the routes under `/v1/provider-types` need.
#[derive(Clone, FromRef)]
pub(crate) struct ProviderTypeRoutes {
    pub(crate) authenticator: Authenticator,
    pub(crate) connectors: Arc<dyn Connectors>,
}

pub(crate) fn router(state: ProviderTypeRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list_provider_types))
        .routes(routes!(get_provider_type))
        .with_state(state)
}

/// A kind of provider, from the catalog.
#[derive(Serialize, ToSchema)]
#[schema(as = ProviderType)]
struct ProviderTypeBody {
    /// Its key, for example `oidc`.
    #[serde(rename = "type")]
    #[schema(example = "oidc")]
    name: String,
    /// What people call it.
    #[schema(example = "OpenID Connect")]
    title: String,
    /// What it is for and what to register at the provider.
    description: String,
    /// The provider's own documentation that the type rests on.
    documentation: String,
    /// How to register a client at the provider, in the provider's own words.
    registration: RegistrationBody,
    /// What an operator must know.
    notes: Vec<String>,
    /// JSON Schema (2020-12) of `config`.
    #[schema(value_type = Object)]
    config_schema: Value,
    /// The keys of `config` that are secrets.
    #[schema(example = json!(["client_secret"]))]
    secrets: Vec<String>,
    /// What instances can do.
    capabilities: CapabilitiesBody,
}

/// How to register a client at a provider, as far as it is known.
#[derive(Serialize, ToSchema)]
#[schema(as = Registration)]
struct RegistrationBody {
    /// The page where it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    page: Option<String>,
    /// The way from there.
    #[serde(skip_serializing_if = "Option::is_none")]
    steps: Option<String>,
    /// What the redirect URI is called there.
    #[serde(skip_serializing_if = "Option::is_none")]
    redirect_uri: Option<String>,
    /// What the client id is called there.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_id: Option<String>,
    /// What the client secret is called there.
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret: Option<String>,
}

/// What a provider can do.
#[derive(Serialize, ToSchema)]
#[schema(as = Capabilities)]
#[expect(clippy::struct_excessive_bools, reason = "each is a capability of its own")]
struct CapabilitiesBody {
    /// Asks the user in a browser.
    browser: bool,
    /// Lets a device without a browser be authorized.
    device: bool,
    /// Gives refresh tokens and takes them back.
    refresh: bool,
    /// Ends a grant on request.
    revoke: bool,
    /// Vouches for who signs in.
    sign_in: bool,
    /// What becomes of a refresh token once it was used: `may_rotate` or `reusable`.
    #[schema(example = "may_rotate")]
    rotation: &'static str,
}

impl From<ProviderType> for ProviderTypeBody {
    fn from(kind: ProviderType) -> Self {
        let Capabilities { browser, device, refresh, revoke, sign_in, rotation } =
            kind.capabilities;
        let Registration { page, steps, redirect_uri, client_id, client_secret } =
            kind.registration;
        let rotation = match rotation {
            Rotation::MayRotate => "may_rotate",
            Rotation::Reusable => "reusable",
        };
        Self {
            name: kind.name,
            title: kind.title,
            description: kind.description,
            documentation: kind.documentation,
            registration: RegistrationBody { page, steps, redirect_uri, client_id, client_secret },
            notes: kind.notes,
            config_schema: kind.config_schema,
            secrets: kind.secret_names,
            capabilities: CapabilitiesBody { browser, device, refresh, revoke, sign_in, rotation },
        }
    }
}

/// Lists the catalog, all of it.
#[utoipa::path(
    get,
    path = "/v1/provider-types",
    tag = "providers",
    responses((status = 200, description = "The catalog", body = ListBody<ProviderTypeBody>)),
)]
async fn list_provider_types(
    State(routes): State<ProviderTypeRoutes>,
    _caller: Allowed<ProvidersRead>,
    RawQuery(query): RawQuery,
) -> Result<Json<ListBody<ProviderTypeBody>>, ApiError> {
    QueryString::parse(query.as_deref()).end()?;
    let types = routes.connectors.types().into_iter().map(Into::into).collect();
    Ok(Json(ListBody::whole(types)))
}

/// Reads one type of the catalog.
#[utoipa::path(
    get,
    path = "/v1/provider-types/{type}",
    tag = "providers",
    params(("type" = String, Path, example = "oidc")),
    responses(
        (status = 200, description = "Found", body = ProviderTypeBody),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn get_provider_type(
    State(routes): State<ProviderTypeRoutes>,
    _caller: Allowed<ProvidersRead>,
    Segment(name): Segment,
) -> Result<Json<ProviderTypeBody>, ApiError> {
    let kind = routes.connectors.find_type(&name).ok_or(Error::NotFound("provider type"))?;
    Ok(Json(kind.into()))
}
