use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{FromRef, RawQuery, State},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use symbolon_domain::{
    Error,
    event::EventKind,
    ids::{WebhookDeliveryId, WebhookEndpointId},
    ports::WebhookEndpointUpdate,
    secret::Secret,
    services::Webhooks,
    webhook::{DeliveryStatus, WebhookDelivery, WebhookEndpoint},
};
use url::Url;
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    authorization::{Admin, Authenticator, EventsRead, Unlimited},
    error::ApiError,
    events,
    list::ListBody,
    request::{Id, IdAndId, JsonBody, OptionalJsonBody, QueryString},
};

/// What the routes under `/v1/webhooks` need.
#[derive(Clone, FromRef)]
pub(crate) struct WebhookRoutes {
    pub(crate) authenticator: Authenticator,
    pub(crate) webhooks: Arc<Webhooks>,
}

pub(crate) fn router(state: WebhookRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(create_webhook, list_webhooks))
        .routes(routes!(get_webhook, update_webhook, delete_webhook))
        .routes(routes!(rotate_webhook_secret))
        .routes(routes!(test_webhook))
        .routes(routes!(list_webhook_deliveries))
        .routes(routes!(replay_webhook_delivery))
        .routes(routes!(replay_dead_webhook_deliveries))
        .with_state(state)
}

/// Where events are told.
#[derive(Serialize, ToSchema)]
#[schema(as = Webhook)]
struct WebhookBody {
    /// This endpoint's own name.
    #[schema(example = 1)]
    id: i64,
    /// Where events are posted.
    #[schema(example = "https://product.example/hooks/symbolon")]
    url: String,
    /// The types of events that it is told; all when empty.
    #[schema(example = json!(["identity.linked", "identity.unlinked"]))]
    types: Vec<&'static str>,
    /// Whether anything is sent.
    enabled: bool,
    /// When it was created; it is told what happened from then on.
    created_at: DateTime<Utc>,
    /// What deliveries are signed with; in the answer that made it, and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: Option<String>,
}

impl WebhookBody {
    fn new(it: WebhookEndpoint, secret: Option<&Secret>) -> Self {
        Self {
            id: it.id.0,
            url: it.url.into(),
            types: it.kinds.iter().map(|it| it.as_str()).collect(),
            enabled: it.enabled,
            created_at: it.created_at,
            secret: secret.map(|it| it.expose().to_owned()),
        }
    }
}

/// An endpoint to be made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewWebhook)]
struct NewWebhookBody {
    /// Where events are posted; https, and at a public address, unless the operator allows more.
    #[schema(example = "https://product.example/hooks/symbolon")]
    url: String,
    /// The types of events that it is told; all when left out or empty.
    #[serde(default)]
    #[schema(example = json!(["identity.linked"]))]
    types: Vec<String>,
    /// Whether anything is sent; true when left out.
    #[serde(default = "yes")]
    enabled: bool,
}

fn yes() -> bool {
    true
}

fn url_of(text: &str) -> Result<Url, ApiError> {
    const EXPECTED: &str = "must be an https address of at most 2048 characters";
    let url = Url::parse(text).ok().filter(|_| text.len() <= 2048);
    url.ok_or_else(|| ApiError::invalid("url", EXPECTED))
}

fn kinds_of(names: &[String]) -> Result<Vec<EventKind>, ApiError> {
    let kinds: Result<Vec<_>, _> = names.iter().map(|it| events::kind(it)).collect();
    let mut kinds = kinds.map_err(|problem| ApiError::invalid("types", problem))?;
    kinds.sort_unstable_by_key(|it| it.as_str());
    kinds.dedup();
    Ok(kinds)
}

/// A secret must not stay in a cache on the way.
fn with_secret(status: StatusCode, body: WebhookBody) -> Response {
    let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    (status, headers, Json(body)).into_response()
}

/// Makes a webhook endpoint. The answer has its secret, which is told nowhere else.
#[utoipa::path(
    post,
    path = "/v1/webhooks",
    tag = "webhooks",
    request_body = NewWebhookBody,
    responses((status = 201, description = "Made", body = WebhookBody)),
)]
async fn create_webhook(
    State(routes): State<WebhookRoutes>,
    caller: Unlimited<Admin>,
    JsonBody(new): JsonBody<NewWebhookBody>,
) -> Result<Response, ApiError> {
    let (url, kinds) = (url_of(&new.url)?, kinds_of(&new.types)?);
    let made = routes.webhooks.create(url, kinds, new.enabled, &caller.actor()).await?;
    let (endpoint, secret) = made;
    Ok(with_secret(StatusCode::CREATED, WebhookBody::new(endpoint, Some(&secret))))
}

/// Lists webhook endpoints.
#[utoipa::path(
    get,
    path = "/v1/webhooks",
    tag = "webhooks",
    params(
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "Default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the part before"),
    ),
    responses((status = 200, description = "In ascending id order", body = ListBody<WebhookBody>)),
)]
async fn list_webhooks(
    State(routes): State<WebhookRoutes>,
    _caller: Unlimited<EventsRead>,
    RawQuery(query): RawQuery,
) -> Result<Json<ListBody<WebhookBody>>, ApiError> {
    let mut query = QueryString::parse(query.as_deref());
    let page = query.page()?;
    query.end()?;
    let page = routes.webhooks.webhooks.list(page).await?;
    Ok(Json(ListBody::of(page, |it| WebhookBody::new(it, None))))
}

/// Reads a webhook endpoint.
#[utoipa::path(
    get,
    path = "/v1/webhooks/{id}",
    tag = "webhooks",
    params(("id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "Found", body = WebhookBody),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn get_webhook(
    State(routes): State<WebhookRoutes>,
    _caller: Unlimited<EventsRead>,
    Id(id): Id,
) -> Result<Json<WebhookBody>, ApiError> {
    let endpoint = routes.webhooks.webhooks.find(WebhookEndpointId(id)).await?;
    let endpoint = endpoint.ok_or(Error::NotFound("webhook"))?;
    Ok(Json(WebhookBody::new(endpoint, None)))
}

/// Changes to a webhook endpoint; what is left out stays.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookChanges)]
struct WebhookChangesBody {
    /// Where events are posted.
    #[schema(example = "https://product.example/hooks/symbolon")]
    url: Option<String>,
    /// The types of events that it is told; all when empty.
    types: Option<Vec<String>>,
    /// Whether anything is sent. What happened meanwhile is sent when it is switched on again.
    enabled: Option<bool>,
}

/// Changes a webhook endpoint, or switches it off and on.
#[utoipa::path(
    patch,
    path = "/v1/webhooks/{id}",
    tag = "webhooks",
    params(("id" = i64, Path, minimum = 1)),
    request_body = WebhookChangesBody,
    responses(
        (status = 200, description = "Changed", body = WebhookBody),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn update_webhook(
    State(routes): State<WebhookRoutes>,
    caller: Unlimited<Admin>,
    Id(id): Id,
    JsonBody(changes): JsonBody<WebhookChangesBody>,
) -> Result<Json<WebhookBody>, ApiError> {
    let update = WebhookEndpointUpdate {
        url: changes.url.as_deref().map(url_of).transpose()?,
        kinds: changes.types.as_deref().map(kinds_of).transpose()?,
        enabled: changes.enabled,
    };
    let endpoint = routes.webhooks.update(WebhookEndpointId(id), &update, &caller.actor()).await?;
    Ok(Json(WebhookBody::new(endpoint, None)))
}

/// Deletes a webhook endpoint with its deliveries.
#[utoipa::path(
    delete,
    path = "/v1/webhooks/{id}",
    tag = "webhooks",
    params(("id" = i64, Path, minimum = 1)),
    responses(
        (status = 204, description = "Deleted"),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn delete_webhook(
    State(routes): State<WebhookRoutes>,
    caller: Unlimited<Admin>,
    Id(id): Id,
) -> Result<StatusCode, ApiError> {
    if routes.webhooks.webhooks.delete(WebhookEndpointId(id), &caller.actor()).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Error::NotFound("webhook").into())
    }
}

/// How a secret is replaced.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = SecretRotation)]
struct SecretRotationBody {
    /// How long the old secrets sign too, so that the receiver can change over: 0 (for one that
    /// leaked) to 604800, a day when left out.
    #[serde(default = "a_day")]
    #[schema(example = 86400, maximum = 604_800)]
    overlap_seconds: u32,
}

impl Default for SecretRotationBody {
    fn default() -> Self {
        Self { overlap_seconds: a_day() }
    }
}

fn a_day() -> u32 {
    86_400
}

/// Longest time for which an old secret signs too.
const LONGEST_OVERLAP: u32 = 604_800;

/// Gives a webhook endpoint a new secret. The answer has it, and it is told nowhere else.
#[utoipa::path(
    post,
    path = "/v1/webhooks/{id}/rotate-secret",
    tag = "webhooks",
    params(("id" = i64, Path, minimum = 1)),
    request_body = SecretRotationBody,
    responses(
        (status = 200, description = "Replaced", body = WebhookBody),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn rotate_webhook_secret(
    State(routes): State<WebhookRoutes>,
    caller: Unlimited<Admin>,
    Id(id): Id,
    OptionalJsonBody(rotation): OptionalJsonBody<SecretRotationBody>,
) -> Result<Response, ApiError> {
    let seconds = rotation.overlap_seconds;
    if seconds > LONGEST_OVERLAP {
        return Err(ApiError::invalid("overlap_seconds", "must be 0 to 604800"));
    }
    let overlap = Duration::from_secs(seconds.into());
    let rotated =
        routes.webhooks.rotate_secret(WebhookEndpointId(id), overlap, &caller.actor()).await?;
    let (endpoint, secret) = rotated;
    Ok(with_secret(StatusCode::OK, WebhookBody::new(endpoint, Some(&secret))))
}

/// How a test message went.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookTest)]
struct WebhookTestBody {
    /// Whether the receiver took it.
    delivered: bool,
    /// What it answered; null when it did not.
    #[schema(example = 204)]
    status: Option<u16>,
    /// Why it did not take it.
    error: Option<String>,
}

/// Sends a webhook endpoint a message of type `webhook_endpoint.test`, once and now.
#[utoipa::path(
    post,
    path = "/v1/webhooks/{id}/test",
    tag = "webhooks",
    params(("id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "Tried", body = WebhookTestBody),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn test_webhook(
    State(routes): State<WebhookRoutes>,
    _caller: Unlimited<Admin>,
    Id(id): Id,
) -> Result<Json<WebhookTestBody>, ApiError> {
    let tried = routes.webhooks.test(WebhookEndpointId(id)).await?;
    let (status, error) = match tried {
        Ok(answer) if (200..=299).contains(&answer.status) => (Some(answer.status), None),
        Ok(answer) => {
            (Some(answer.status), Some(format!("the receiver answered {}", answer.status)))
        }
        Err(error) => (None, Some(error)),
    };
    Ok(Json(WebhookTestBody { delivered: error.is_none(), status, error }))
}

/// An event on its way to a webhook endpoint, or arrived, or given up.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookDelivery)]
struct DeliveryBody {
    /// This delivery's own name.
    #[schema(example = 1)]
    id: i64,
    /// Where to.
    #[schema(example = 1)]
    webhook_id: i64,
    /// Which event; the `webhook-id` is `evt_` and this.
    #[schema(example = 42)]
    event_id: i64,
    /// What it is about.
    #[serde(rename = "type")]
    #[schema(example = "identity.linked")]
    kind: &'static str,
    /// The identity concerned, whose events arrive in their order.
    identity_id: Option<i64>,
    /// `pending`, `delivered` or `dead`: given up, and to be replayed.
    #[schema(example = "pending")]
    status: &'static str,
    /// How often it was tried since it was made or replayed.
    attempts: u32,
    /// When it is tried next; null when it is settled.
    next_attempt_at: Option<DateTime<Utc>>,
    /// What the receiver answered last, if it did.
    last_status: Option<u16>,
    /// Why the last try failed.
    last_error: Option<String>,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it arrived or was given up.
    settled_at: Option<DateTime<Utc>>,
}

impl From<WebhookDelivery> for DeliveryBody {
    fn from(it: WebhookDelivery) -> Self {
        let pending = it.status == DeliveryStatus::Pending;
        Self {
            id: it.id.0,
            webhook_id: it.endpoint_id.0,
            event_id: it.event_id.0,
            kind: it.kind.as_str(),
            identity_id: it.identity_id.map(|it| it.0),
            status: it.status.as_str(),
            attempts: it.attempts,
            next_attempt_at: pending.then_some(it.next_attempt_at),
            last_status: it.last_status,
            last_error: it.last_error,
            created_at: it.created_at,
            settled_at: it.settled_at,
        }
    }
}

/// Lists the deliveries of a webhook endpoint.
#[utoipa::path(
    get,
    path = "/v1/webhooks/{id}/deliveries",
    tag = "webhooks",
    params(
        ("id" = i64, Path, minimum = 1),
        ("status" = Option<String>, Query, description = "`pending`, `delivered` or `dead`"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "Default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the part before"),
    ),
    responses(
        (status = 200, description = "In ascending id order", body = ListBody<DeliveryBody>),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn list_webhook_deliveries(
    State(routes): State<WebhookRoutes>,
    _caller: Unlimited<EventsRead>,
    Id(id): Id,
    RawQuery(query): RawQuery,
) -> Result<Json<ListBody<DeliveryBody>>, ApiError> {
    let mut query = QueryString::parse(query.as_deref());
    let status = query.parsed("status", |text| {
        DeliveryStatus::parse(&text).ok_or("must be `pending`, `delivered` or `dead`")
    })?;
    let page = query.page()?;
    query.end()?;
    let id = WebhookEndpointId(id);
    routes.webhooks.webhooks.find(id).await?.ok_or(Error::NotFound("webhook"))?;
    let page = routes.webhooks.webhooks.list_deliveries(id, status, page).await?;
    Ok(Json(ListBody::of(page, Into::into)))
}

/// Sends one delivery again that was given up or that arrived; one under way goes on.
#[utoipa::path(
    post,
    path = "/v1/webhooks/{id}/deliveries/{delivery_id}/replay",
    tag = "webhooks",
    params(("id" = i64, Path, minimum = 1), ("delivery_id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "As it is now", body = DeliveryBody),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn replay_webhook_delivery(
    State(routes): State<WebhookRoutes>,
    caller: Unlimited<Admin>,
    IdAndId(id, delivery): IdAndId,
) -> Result<Json<DeliveryBody>, ApiError> {
    let (id, delivery) = (WebhookEndpointId(id), WebhookDeliveryId(delivery));
    let replayed = routes.webhooks.webhooks.replay(id, delivery, &caller.actor()).await?;
    Ok(Json(replayed.ok_or(Error::NotFound("delivery"))?.into()))
}

/// How many deliveries are sent again.
#[derive(Serialize, ToSchema)]
#[schema(as = Replayed)]
struct ReplayedBody {
    /// That many.
    #[schema(example = 3)]
    replayed: u64,
}

/// Sends all deliveries of a webhook endpoint again that were given up.
#[utoipa::path(
    post,
    path = "/v1/webhooks/{id}/replay",
    tag = "webhooks",
    params(("id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "They are pending", body = ReplayedBody),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn replay_dead_webhook_deliveries(
    State(routes): State<WebhookRoutes>,
    caller: Unlimited<Admin>,
    Id(id): Id,
) -> Result<Json<ReplayedBody>, ApiError> {
    let id = WebhookEndpointId(id);
    routes.webhooks.webhooks.find(id).await?.ok_or(Error::NotFound("webhook"))?;
    let replayed = routes.webhooks.webhooks.replay_dead(id, &caller.actor()).await?;
    Ok(Json(ReplayedBody { replayed }))
}
