use axum::{
    Json,
    extract::{FromRef, RawQuery, State},
    http::StatusCode,
};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use symbolon_domain::{
    freeze::{Freeze, FreezeSubject},
    services::Vending,
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    authorization::{Admin, Authenticator, Unlimited},
    error::ApiError,
    list::ListBody,
    request::{JsonBody, PathParameters, ProductId, QueryString},
};

/// What the routes under `/v1/freezes` need.
#[derive(Clone, FromRef)]
pub(crate) struct FreezeRoutes {
    authenticator: Authenticator,
    vending: Vending,
}

impl FreezeRoutes {
    pub(crate) fn new(authenticator: Authenticator, vending: Vending) -> Self {
        Self { authenticator, vending }
    }
}

pub(crate) fn router(state: FreezeRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(list_freezes, freeze))
        .routes(routes!(unfreeze))
        .with_state(state)
}

/// What nothing is handed out to, or of, until it is lifted.
#[derive(Serialize, ToSchema)]
#[schema(as = Freeze)]
struct FreezeBody {
    /// `key`, `provider` or `organization`.
    #[schema(example = "provider")]
    kind: &'static str,
    /// Which one.
    #[schema(example = "3")]
    id: String,
    /// Since when.
    frozen_at: DateTime<Utc>,
    /// Who froze it.
    #[schema(example = "operator")]
    frozen_by: String,
    /// On whose behalf.
    acting_user: Option<String>,
    /// Why.
    reason: Option<String>,
}

impl From<Freeze> for FreezeBody {
    fn from(it: Freeze) -> Self {
        Self {
            kind: it.subject.kind(),
            id: it.subject.id(),
            frozen_at: it.frozen_at,
            frozen_by: it.by.who.to_string(),
            acting_user: it.by.acting_user.map(|it| it.as_str().to_owned()),
            reason: it.by.reason,
        }
    }
}

/// What is to be frozen.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewFreeze)]
struct NewFreezeBody {
    /// `key`, `provider` or `organization`.
    #[schema(example = "organization")]
    kind: String,
    /// Which one: the id of a key or a provider instance, or an organization of the product's.
    id: ProductId,
}

/// Lists what is frozen.
#[utoipa::path(
    get,
    path = "/v1/freezes",
    tag = "tokens",
    params(
        ("limit" = Option<u16>, Query, description = "1 to 200; 50 without it"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page", body = ListBody<FreezeBody>)),
)]
async fn list_freezes(
    State(routes): State<FreezeRoutes>,
    _: Unlimited<Admin>,
    RawQuery(query): RawQuery,
) -> Result<Json<ListBody<FreezeBody>>, ApiError> {
    let mut query = QueryString::parse(query.as_deref());
    let page = query.page()?;
    query.end()?;
    let page = routes.vending.vending.list_freezes(page).await?;
    Ok(Json(ListBody::of(page, Into::into)))
}

/// Stops handing out tokens to a key, of a provider instance's accounts, or of the identities that
/// an organization uses: at once, on every replica. What is frozen already stays as it is.
#[utoipa::path(
    post,
    path = "/v1/freezes",
    tag = "tokens",
    request_body = NewFreezeBody,
    responses(
        (status = 201, description = "Frozen", body = FreezeBody),
        (status = 200, description = "Was frozen already", body = FreezeBody),
        (status = 404, description = "`not_found`: there is no such key or provider instance"),
    ),
)]
async fn freeze(
    State(routes): State<FreezeRoutes>,
    caller: Unlimited<Admin>,
    JsonBody(new): JsonBody<NewFreezeBody>,
) -> Result<(StatusCode, Json<FreezeBody>), ApiError> {
    let subject = subject(&new.kind, &new.id.into_text())?;
    let (freeze, made) = routes.vending.freeze(&subject, &caller.actor()).await?;
    let status = if made { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(freeze.into())))
}

/// Hands out tokens again.
#[utoipa::path(
    delete,
    path = "/v1/freezes/{kind}/{id}",
    tag = "tokens",
    params(
        ("kind" = String, Path, description = "`key`, `provider` or `organization`"),
        ("id" = String, Path, description = "Which one"),
    ),
    responses(
        (status = 204, description = "Lifted"),
        (status = 404, description = "`not_found`: it is not frozen"),
    ),
)]
async fn unfreeze(
    State(routes): State<FreezeRoutes>,
    caller: Unlimited<Admin>,
    path: PathParameters,
) -> Result<StatusCode, ApiError> {
    let text = |name| path.parsed(name, Ok::<_, std::convert::Infallible>);
    let (kind, id) = (text("kind"), text("id"));
    let subject = subject(&kind.unwrap_or_default(), &id.unwrap_or_default())?;
    routes.vending.unfreeze(&subject, &caller.actor()).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn subject(kind: &str, id: &str) -> Result<FreezeSubject, ApiError> {
    FreezeSubject::parse(kind, id).map_err(|(field, problem)| ApiError::invalid(field, problem))
}
