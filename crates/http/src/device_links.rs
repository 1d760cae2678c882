use axum::{
    Json,
    extract::{FromRef, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use symbolon_domain::{
    Error,
    device_link::DeviceLink,
    ids::{DeviceLinkId, OrganizationId, ProviderId, UserId},
    link_session::LinkFailure,
    services::{DeviceLinking, StartDeviceLink},
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    authorization::{Authenticator, LinkWrite, Narrow},
    error::ApiError,
    link_sessions::{Asked, check_limits},
    request::{Id, JsonBody, ProductId, check_scopes},
    sight::Sight,
};

/// What the routes under `/v1/device-links` need.
#[derive(Clone, FromRef)]
pub(crate) struct DeviceLinkRoutes {
    pub(crate) authenticator: Authenticator,
    pub(crate) sight: Sight,
    pub(crate) device_linking: DeviceLinking,
}

pub(crate) fn router(state: DeviceLinkRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(start_device_link))
        .routes(routes!(get_device_link))
        .with_state(state)
}

/// A link that the user confirms on another device.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewDeviceLink)]
struct NewDeviceLinkBody {
    /// Whom to link.
    user_id: ProductId,
    /// Where: an instance of a type that has a device flow.
    #[schema(example = 1)]
    provider_id: i64,
    /// On whose behalf: what is linked is used by the organization from then on.
    organization_id: Option<ProductId>,
    /// Scopes to ask for instead of the provider's configured ones.
    #[serde(default)]
    scopes: Vec<String>,
}

/// A started device link, with what to show to the user.
#[derive(Serialize, ToSchema)]
#[schema(as = StartedDeviceLink)]
struct StartedDeviceLinkBody {
    /// This link's own name.
    #[schema(example = 3)]
    id: i64,
    /// What the user types at the provider; shown here only.
    #[schema(example = "WDJB-MJHT")]
    user_code: String,
    /// Where the user types it.
    #[schema(example = "https://provider.example/device")]
    verification_uri: String,
    /// The same with the code in it, for a picture or a link, if the provider has that.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "https://provider.example/device?user_code=WDJB-MJHT")]
    verification_uri_complete: Option<String>,
    /// From then on the provider is not asked any more.
    expires_at: DateTime<Utc>,
}

/// Starts a link with no browser on this machine (RFC 8628).
///
/// Show the user `verification_uri` and `user_code`, and ask for the device link until it has
/// ended: the service asks the provider meanwhile.
#[utoipa::path(
    post,
    path = "/v1/device-links",
    tag = "device links",
    request_body = NewDeviceLinkBody,
    responses(
        (status = 201, description = "Started: show the user where to type the code",
            body = StartedDeviceLinkBody, headers(("Location" = String))),
        (status = 502, description = "`provider_misconfigured`"),
        (status = 503, description = "`provider_unavailable`"),
    ),
)]
async fn start_device_link(
    State(routes): State<DeviceLinkRoutes>,
    Narrow(caller): Narrow<LinkWrite>,
    JsonBody(new): JsonBody<NewDeviceLinkBody>,
) -> Result<Response, ApiError> {
    check_scopes(&new.scopes)?;
    let start = StartDeviceLink {
        user_id: new.user_id.check("user_id", UserId::new)?,
        provider_id: ProviderId(new.provider_id),
        organization_id: new
            .organization_id
            .map(|it| it.check("organization_id", OrganizationId::new))
            .transpose()?,
        scopes: new.scopes,
        actor: caller.actor(),
    };
    let asked = Asked {
        organization: start.organization_id.as_ref(),
        user: Some(&start.user_id),
        provider: Some(start.provider_id),
        scopes: &start.scopes,
    };
    check_limits(&routes.sight, caller.limits(), asked).await?;
    let started = routes.device_linking.start(start).await?;
    let location = HeaderValue::try_from(format!("/v1/device-links/{}", started.link.id))
        .expect("a number in a path is a header value");
    let body = StartedDeviceLinkBody {
        id: started.link.id.0,
        user_code: started.user_code,
        verification_uri: started.verification_uri.into(),
        verification_uri_complete: started.verification_uri_complete.map(Into::into),
        expires_at: started.link.expires_at,
    };
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(body)).into_response())
}

/// How far a device link got.
#[derive(Serialize, ToSchema)]
#[schema(as = DeviceLink)]
struct DeviceLinkBody {
    /// This link's own name.
    #[schema(example = 3)]
    id: i64,
    /// `pending`, `linked`, `failed` or `expired`.
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

impl From<DeviceLink> for DeviceLinkBody {
    fn from(link: DeviceLink) -> Self {
        Self {
            id: link.id.0,
            status: link.status.as_str(),
            identity_id: link.identity_id.map(|it| it.0),
            error: link.error.map(LinkFailure::as_str),
        }
    }
}

/// Reads how far a device link got.
#[utoipa::path(
    get,
    path = "/v1/device-links/{id}",
    tag = "device links",
    params(("id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "Found", body = DeviceLinkBody),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn get_device_link(
    State(routes): State<DeviceLinkRoutes>,
    Narrow(caller): Narrow<LinkWrite>,
    Id(id): Id,
) -> Result<Json<DeviceLinkBody>, ApiError> {
    let noun = "device link";
    let link = routes.device_linking.links.find(DeviceLinkId(id)).await?;
    let link = link.ok_or(Error::NotFound(noun))?;
    if let Some(organization) = &link.organization_id
        && !caller.limits().allow_organization(organization)
    {
        return Err(Error::OtherOrganization.into());
    }
    routes.sight.check_provider(caller.limits(), link.provider_id, noun).await?;
    if !caller.limits().allow_user(&link.user_id) {
        return Err(Error::NotFound(noun).into());
    }
    Ok(Json(link.into()))
}
