use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{FromRef, RawQuery, State},
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use symbolon_domain::{
    ids::{IdentityId, ProviderId},
    ports::{Death, DeathCursor},
    services::{ForecastAnswer, ForecastRequest, ForecastStep, Forecasts},
};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    authorization::{Authenticator, IdentitiesRead, Unlimited},
    error::ApiError,
    request::{QueryString, read_cursor, row_id, write_cursor},
};

/// How far a forecast looks where nobody says otherwise.
const WITHIN: Duration = Duration::from_hours(7 * 24);
/// How far it looks at most.
const MOST_WITHIN: Duration = Duration::from_hours(366 * 24);

/// What the forecast needs.
#[derive(Clone, FromRef)]
pub(crate) struct ForecastRoutes {
    pub(crate) authenticator: Authenticator,
    pub(crate) forecasts: Arc<Forecasts>,
}

pub(crate) fn router(state: ForecastRoutes) -> OpenApiRouter {
    OpenApiRouter::new().routes(routes!(forecast)).with_state(state)
}

/// Which identities will have no token that works, unless somebody acts.
#[derive(Serialize, ToSchema)]
#[schema(as = Forecast)]
pub(crate) struct ForecastBody {
    /// Now.
    at: DateTime<Utc>,
    /// The end of the time that was looked at.
    until: DateTime<Utc>,
    /// How many die in each step of the time, by provider instance and reason; empty but in the
    /// first part of the list.
    counts: Vec<CountBody>,
    /// Which, the next to die first.
    items: Vec<DeathBody>,
    /// What to send as `cursor` to go on; null at the end.
    next_cursor: Option<String>,
}

/// How many die in a step of the time.
#[derive(Serialize, ToSchema)]
#[schema(as = ForecastCount)]
struct CountBody {
    /// The provider instance.
    #[schema(example = 1)]
    provider_id: i64,
    /// `no_refresh_token`, `refresh_token_lapses`, `provider_unavailable`,
    /// `provider_misconfigured` or `rotation_in_doubt`.
    #[schema(example = "no_refresh_token")]
    reason: &'static str,
    /// After this; null for those that have no token that works already.
    from: Option<DateTime<Utc>>,
    /// Up to this.
    to: DateTime<Utc>,
    /// How many.
    #[schema(example = 3)]
    count: u64,
}

/// An identity that will have no token that works.
#[derive(Serialize, ToSchema)]
#[schema(as = ForecastItem)]
struct DeathBody {
    /// Which.
    #[schema(example = 7)]
    identity_id: i64,
    /// Whose.
    #[schema(example = "user-42")]
    user_id: String,
    /// The provider instance.
    #[schema(example = 1)]
    provider_id: i64,
    /// As in the counts.
    #[schema(example = "no_refresh_token")]
    reason: &'static str,
    /// When.
    dies_at: DateTime<Utc>,
}

impl From<ForecastStep> for CountBody {
    fn from(it: ForecastStep) -> Self {
        Self {
            provider_id: it.count.provider_id.0,
            reason: it.count.reason.as_str(),
            from: it.from,
            to: it.to,
            count: it.count.count,
        }
    }
}

impl From<Death> for DeathBody {
    fn from(it: Death) -> Self {
        Self {
            identity_id: it.identity_id.0,
            user_id: it.user_id.as_str().to_owned(),
            provider_id: it.provider_id.0,
            reason: it.reason.as_str(),
            dies_at: it.dies_at,
        }
    }
}

impl From<ForecastAnswer> for ForecastBody {
    fn from(it: ForecastAnswer) -> Self {
        Self {
            at: it.at,
            until: it.until,
            counts: it.steps.into_iter().map(Into::into).collect(),
            next_cursor: it.deaths.next.map(write),
            items: it.deaths.items.into_iter().map(Into::into).collect(),
        }
    }
}

/// Tells which identities will have no token that works within a time, and why: what there is
/// nothing to refresh with, refresh tokens that lapse, and refreshes that fail.
///
/// What is invalid already is not in it: `GET /v1/identities?status=invalid` has that.
#[utoipa::path(
    get,
    path = "/v1/forecast",
    tag = "identities",
    params(
        ("provider_id" = Option<i64>, Query, description = "At this provider instance alone"),
        ("within" = Option<String>, Query, description = "From now on: seconds, or `90m`, `12h`, `7d`; up to 366 days, 7 without it"),
        ("limit" = Option<u16>, Query, minimum = 1, maximum = 200, description = "Default 50"),
        ("cursor" = Option<String>, Query, description = "`next_cursor` of the part before"),
    ),
    responses((status = 200, description = "Counts, and the next to die first", body = ForecastBody)),
)]
async fn forecast(
    State(routes): State<ForecastRoutes>,
    _caller: Unlimited<IdentitiesRead>,
    RawQuery(query): RawQuery,
) -> Result<Json<ForecastBody>, ApiError> {
    let mut query = QueryString::parse(query.as_deref());
    let provider = query.id("provider_id")?.map(ProviderId);
    let within = query.parsed("within", |text| {
        within(&text).ok_or("must be 1 second to 366 days, for example 3600, `90m`, `12h` or `7d`")
    })?;
    let after = query.parsed("cursor", |text| {
        read(&text).ok_or("must be the `next_cursor` of an earlier answer")
    })?;
    let limit = query.page()?.limit;
    query.end()?;
    let within = within.unwrap_or(WITHIN);
    let request = ForecastRequest { provider, within, after, limit };
    Ok(Json(routes.forecasts.look(&request).await?.into()))
}

fn within(text: &str) -> Option<Duration> {
    let (digits, unit) = match text.char_indices().next_back()? {
        (at, 's') => (&text[..at], 1),
        (at, 'm') => (&text[..at], 60),
        (at, 'h') => (&text[..at], 60 * 60),
        (at, 'd') => (&text[..at], 24 * 60 * 60),
        _ => (text, 1),
    };
    let seconds = row_id(digits).and_then(|it| u64::try_from(it).ok())?.checked_mul(unit)?;
    Some(Duration::from_secs(seconds)).filter(|it| *it <= MOST_WITHIN)
}

fn write(cursor: DeathCursor) -> String {
    let dies_at = cursor.dies_at.timestamp_micros();
    format!("{}.{}", write_cursor(dies_at), write_cursor(cursor.identity_id.0))
}

fn read(text: &str) -> Option<DeathCursor> {
    let (dies_at, id) = text.split_once('.')?;
    Some(DeathCursor {
        dies_at: DateTime::from_timestamp_micros(read_cursor(dies_at)?)?,
        identity_id: IdentityId(read_cursor(id)?),
    })
}

#[cfg(test)]
mod tests {
    use symbolon_domain::testing::fixtures;

    use super::*;

    #[test]
    fn a_time_is_seconds_or_a_number_with_its_unit() {
        for (text, seconds) in [("1", 1), ("90s", 90), ("90m", 5400), ("12h", 43_200)] {
            assert_eq!(within(text), Some(Duration::from_secs(seconds)), "{text}");
        }
        assert_eq!(within("366d"), Some(MOST_WITHIN));
        for bad in ["", "0", "d", "-1", "1.5h", "1w", "367d", "99999999999999999d", "1é"] {
            assert_eq!(within(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_place_in_the_list_comes_back_as_it_went() {
        let cursor = DeathCursor { dies_at: fixtures::NOW, identity_id: IdentityId(7) };
        assert_eq!(read(&write(cursor)), Some(cursor));
        for bad in ["", ".", "AAAAAAAAAAE", "AAAAAAAAAAE.", "AAAAAAAAAAE.x"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
