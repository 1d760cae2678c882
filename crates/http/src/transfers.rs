use std::sync::Arc;

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
    event::Actor,
    ids::{IdentityId, TransferId, UserId},
    ports::{NewTransfer, OnConflict, TransferSubject},
    services::Transfers,
    transfer::{Transfer, TransferItem, UndoItem},
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    authorization::{Authenticator, IdentitiesRead, IdentitiesWrite, Unlimited},
    error::ApiError,
    list::ListBody,
    request::{Id, JsonBody, OptionalJsonBody, ProductId, QueryString, UserInPath},
};

/// What the routes that move identities need.
#[derive(Clone, FromRef)]
pub(crate) struct TransferRoutes {
    pub(crate) authenticator: Authenticator,
    pub(crate) transfers: Arc<Transfers>,
}

pub(crate) fn router(state: TransferRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(transfer_identity))
        .routes(routes!(transfer_user))
        .routes(routes!(list_transfers))
        .routes(routes!(get_transfer))
        .routes(routes!(undo_transfer))
        .with_state(state)
}

/// Identities that were moved from one user to another.
#[derive(Serialize, ToSchema)]
#[schema(as = Transfer)]
struct TransferBody {
    /// This entry's own name.
    #[schema(example = 3)]
    id: i64,
    /// Whose they were.
    #[schema(example = "user-42")]
    from_user_id: String,
    /// Whose they became.
    #[schema(example = "user-7")]
    to_user_id: String,
    /// Every identity that was meant, in ascending id order.
    items: Vec<TransferItemBody>,
    /// Who did it.
    #[schema(example = "api_key:1")]
    actor: String,
    /// When.
    created_at: DateTime<Utc>,
    /// When it was undone; null while it is not.
    undone_at: Option<DateTime<Utc>>,
}

/// One identity of a transfer.
#[derive(Serialize, ToSchema)]
#[schema(as = TransferItem)]
struct TransferItemBody {
    /// Which identity; it kept its id.
    #[schema(example = 7)]
    identity_id: i64,
    /// Where its account lives.
    #[schema(example = 1)]
    provider_id: i64,
    /// Its account, when it was moved.
    #[schema(example = "248289761001")]
    external_id: String,
    /// `moved`, `skipped`, `given_back`, or `kept`: it could not be given back.
    #[schema(example = "moved")]
    status: &'static str,
    /// What stood in the way of a skipped or a kept one: `user_has_another`, `unlinked`, or
    /// `changed` (it belongs to another user or names another account since).
    #[serde(skip_serializing_if = "Option::is_none")]
    obstacle: Option<&'static str>,
}

impl From<TransferItem> for TransferItemBody {
    fn from(it: TransferItem) -> Self {
        let (status, obstacle) = match (it.skipped, it.undo) {
            (Some(why), _) => ("skipped", Some(why)),
            (None, None) => ("moved", None),
            (None, Some(UndoItem::GivenBack)) => ("given_back", None),
            (None, Some(UndoItem::Kept(why))) => ("kept", Some(why)),
        };
        Self {
            identity_id: it.identity_id.0,
            provider_id: it.provider_id.0,
            external_id: it.external_id.as_str().to_owned(),
            status,
            obstacle: obstacle.map(symbolon_domain::transfer::TransferObstacle::as_str),
        }
    }
}

impl From<Transfer> for TransferBody {
    fn from(it: Transfer) -> Self {
        Self {
            id: it.id.0,
            from_user_id: it.from_user_id.as_str().to_owned(),
            to_user_id: it.to_user_id.as_str().to_owned(),
            items: it.items.into_iter().map(Into::into).collect(),
            actor: it.actor.who.to_string(),
            created_at: it.created_at,
            undone_at: it.undone_at,
        }
    }
}

/// Where an identity goes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = IdentityTransferRequest)]
struct IdentityTransferBody {
    /// Whose it is to be.
    to_user_id: ProductId,
}

/// Where a user's identities go.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = UserTransferRequest)]
struct UserTransferBody {
    /// Whose they are to be.
    to_user_id: ProductId,
    /// What to do about those at providers where that user has another account: `fail` moves none,
    /// `skip` the others.
    #[serde(default)]
    on_conflict: OnConflictBody,
}

/// What to do about identities that cannot be moved.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OnConflict)]
enum OnConflictBody {
    #[default]
    Fail,
    Skip,
}

async fn transfer(
    routes: &TransferRoutes,
    what: TransferSubject,
    to: ProductId,
    on_conflict: OnConflict,
    actor: Actor,
) -> Result<Response, ApiError> {
    let to_user_id = to.check("to_user_id", UserId::new)?;
    let new = NewTransfer { what, to_user_id, on_conflict, actor };
    let transfer = routes.transfers.transfer(&new).await?;
    let location = HeaderValue::try_from(format!("/v1/transfers/{}", transfer.id))
        .expect("a number in a path is a header value");
    let headers = [(header::LOCATION, location)];
    Ok((StatusCode::CREATED, headers, Json(TransferBody::from(transfer))).into_response())
}

/// Moves an identity to another user.
///
/// It keeps its id and its credentials; a refresh that is under way is not disturbed.
#[utoipa::path(
    post,
    path = "/v1/identities/{id}/transfer",
    tag = "transfers",
    params(("id" = i64, Path, minimum = 1)),
    request_body = IdentityTransferBody,
    responses(
        (status = 201, description = "Moved", body = TransferBody,
            headers(("Location" = String))),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`transfer_conflict`: that user has another account there"),
    ),
)]
async fn transfer_identity(
    State(routes): State<TransferRoutes>,
    caller: Unlimited<IdentitiesWrite>,
    Id(id): Id,
    JsonBody(asked): JsonBody<IdentityTransferBody>,
) -> Result<Response, ApiError> {
    let what = TransferSubject::Identity(IdentityId(id));
    transfer(&routes, what, asked.to_user_id, OnConflict::Fail, caller.actor()).await
}

/// Moves all of a user's identities to another user, at once or not at all.
#[utoipa::path(
    post,
    path = "/v1/users/{user_id}/transfer",
    tag = "transfers",
    params(("user_id" = String, Path)),
    request_body = UserTransferBody,
    responses(
        (status = 201, description = "Moved; of a user without identities, nothing",
            body = TransferBody, headers(("Location" = String))),
        (status = 409, description = "`transfer_conflict`: that user has other accounts where one \
            is allowed, and skipping those was not asked for"),
    ),
)]
async fn transfer_user(
    State(routes): State<TransferRoutes>,
    caller: Unlimited<IdentitiesWrite>,
    UserInPath(user): UserInPath,
    JsonBody(asked): JsonBody<UserTransferBody>,
) -> Result<Response, ApiError> {
    let on_conflict = match asked.on_conflict {
        OnConflictBody::Fail => OnConflict::Fail,
        OnConflictBody::Skip => OnConflict::Skip,
    };
    let what = TransferSubject::User(user);
    transfer(&routes, what, asked.to_user_id, on_conflict, caller.actor()).await
}

/// Lists transfers.
#[utoipa::path(
    get,
    path = "/v1/transfers",
    tag = "transfers",
    params(
        ("user_id" = Option<String>, Query, description = "From or to this user"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "Default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the part before"),
    ),
    responses((status = 200, description = "In ascending id order", body = ListBody<TransferBody>)),
)]
async fn list_transfers(
    State(routes): State<TransferRoutes>,
    _caller: Unlimited<IdentitiesRead>,
    RawQuery(query): RawQuery,
) -> Result<Json<ListBody<TransferBody>>, ApiError> {
    let mut query = QueryString::parse(query.as_deref());
    let user = query.parsed("user_id", UserId::new)?;
    let page = query.page()?;
    query.end()?;
    let page = routes.transfers.transfers.list(user.as_ref(), page).await?;
    Ok(Json(ListBody::of(page, Into::into)))
}

/// Reads a transfer.
#[utoipa::path(
    get,
    path = "/v1/transfers/{id}",
    tag = "transfers",
    params(("id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "Found", body = TransferBody),
        (status = 404, description = "`not_found`"),
    ),
)]
async fn get_transfer(
    State(routes): State<TransferRoutes>,
    _caller: Unlimited<IdentitiesRead>,
    Id(id): Id,
) -> Result<Json<TransferBody>, ApiError> {
    let transfer = routes.transfers.transfers.find(TransferId(id)).await?;
    Ok(Json(transfer.ok_or(Error::NotFound("transfer"))?.into()))
}

/// A body that says nothing.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct NothingBody {}

/// Gives back what was moved and still belongs to the user it was moved to.
///
/// `items` says of each identity whether it was given back, and why not.
#[utoipa::path(
    post,
    path = "/v1/transfers/{id}/undo",
    tag = "transfers",
    params(("id" = i64, Path, minimum = 1)),
    responses(
        (status = 200, description = "Undone as far as possible", body = TransferBody),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`already_undone`"),
    ),
)]
async fn undo_transfer(
    State(routes): State<TransferRoutes>,
    caller: Unlimited<IdentitiesWrite>,
    Id(id): Id,
    OptionalJsonBody(NothingBody {}): OptionalJsonBody<NothingBody>,
) -> Result<Json<TransferBody>, ApiError> {
    Ok(Json(routes.transfers.undo(TransferId(id), &caller.actor()).await?.into()))
}
