use axum::{
    Json,
    extract::{FromRef, RawQuery, State},
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use symbolon_domain::{
    ids::IdentityId,
    ledger::LedgerEntry,
    services::{Ledger, Vending},
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    authorization::{Authenticator, EventsRead, Unlimited},
    error::ApiError,
    list::ListBody,
    request::QueryString,
    tokens::sha256,
};

/// What the route of the ledger needs.
#[derive(Clone, FromRef)]
pub(crate) struct LedgerRoutes {
    pub(crate) authenticator: Authenticator,
    pub(crate) ledger: Ledger,
}

impl LedgerRoutes {
    pub(crate) fn new(authenticator: Authenticator, vending: &Vending) -> Self {
        Self { authenticator, ledger: vending.ledger.clone() }
    }
}

pub(crate) fn router(state: LedgerRoutes) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(list_ledger)).with_state(state)
}

/// One access token, and one who was handed it. Never the token itself.
#[derive(Serialize, ToSchema)]
#[schema(as = LedgerEntry)]
struct LedgerEntryBody {
    /// Names the entry.
    #[schema(example = 12)]
    id: i64,
    /// Whose token it is.
    #[schema(example = 7)]
    identity_id: i64,
    /// Where the account lives.
    #[schema(example = 1)]
    provider_id: i64,
    /// Whose account it was then.
    #[schema(example = "user-42")]
    user_id: String,
    /// Who got it: `api_key:ID` or `sentry`.
    #[schema(example = "api_key:3")]
    recipient: String,
    /// On whose behalf, as the caller said.
    acting_user: Option<String>,
    /// How often.
    #[schema(example = 3)]
    times: u64,
    /// The first time.
    first_at: DateTime<Utc>,
    /// The last time.
    last_at: DateTime<Utc>,
    /// The request of the last time.
    request_id: String,
}

impl From<LedgerEntry> for LedgerEntryBody {
    fn from(it: LedgerEntry) -> Self {
        let LedgerEntry { id, hand_out, tally } = it;
        Self {
            id: id.0,
            identity_id: hand_out.identity_id.0,
            provider_id: hand_out.provider_id.0,
            user_id: hand_out.user_id.as_str().to_owned(),
            recipient: hand_out.to.to_string(),
            acting_user: hand_out.acting_user.map(|it| it.as_str().to_owned()),
            times: tally.times,
            first_at: tally.first_at,
            last_at: tally.last_at,
            request_id: tally.request_id,
        }
    }
}

/// Lists who was handed which access token, by identity, or by the SHA-256 of a token that turned
/// up somewhere. What another replica handed out is there within about a second.
#[utoipa::path(
    get,
    path = "/v1/ledger",
    tag = "tokens",
    params(
        ("identity_id" = Option<i64>, Query, description = "Tokens of this identity"),
        ("token_sha256" = Option<String>, Query,
            description = "This token: its SHA-256 as 64 hexadecimal digits"),
        ("limit" = Option<u16>, Query, description = "1 to 200; 50 without it"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the page before"),
    ),
    responses((status = 200, description = "A page", body = ListBody<LedgerEntryBody>)),
)]
async fn list_ledger(
    State(routes): State<LedgerRoutes>,
    _: Unlimited<EventsRead>,
    RawQuery(query): RawQuery,
) -> Result<Json<ListBody<LedgerEntryBody>>, ApiError> {
    let mut query = QueryString::parse(query.as_deref());
    let identity = query.id("identity_id")?.map(IdentityId);
    let token = query.text("token_sha256")?;
    let token = token.map(|it| sha256("token_sha256", &it)).transpose()?;
    let page = query.page()?;
    query.end()?;
    let page = routes.ledger.list(identity, token.as_ref(), page).await?;
    Ok(Json(ListBody::of(page, Into::into)))
}
