use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::ports::StoredCredentials;

/// Whether a token can be handed out as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Freshness {
    /// It lives long enough.
    Fresh,
    /// It works, and should be refreshed.
    Alive,
    /// It does not work, or there is none.
    Dead,
}

/// How fresh the access token is at `now`, for a caller who needs it for `min_ttl`.
///
/// One whose expiry is unknown is fresh: nothing says otherwise until a call is refused.
pub(super) fn freshness(
    stored: &StoredCredentials,
    min_ttl: Duration,
    margin: Duration,
    now: DateTime<Utc>,
) -> Freshness {
    let Some(credentials) = stored.credentials.as_ref().filter(|it| it.is_alive(now)) else {
        return Freshness::Dead;
    };
    let Some(expires_at) = credentials.expires_at else {
        return Freshness::Fresh;
    };
    let (margin, min_ttl) = (delta(margin), delta(min_ttl));
    let needed = match credentials.lifetime() {
        // A token that lives shorter than the margin would be refreshed at every call.
        Some(life) => margin.min(life / 4).max(min_ttl.min(life * 9 / 10)),
        None => margin.max(min_ttl),
    };
    if expires_at - now > needed { Freshness::Fresh } else { Freshness::Alive }
}

fn delta(duration: Duration) -> TimeDelta {
    // A century is as good as more, and cannot overflow a date.
    const MOST: Duration = Duration::from_hours(100 * 365 * 24);
    TimeDelta::from_std(duration.min(MOST)).unwrap_or(TimeDelta::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        credentials::Credentials,
        identity::IdentityStatus,
        ids::{IdentityId, ProviderId},
        secret::Secret,
    };

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn stored(expires_in: Option<i64>) -> StoredCredentials {
        StoredCredentials {
            identity_id: IdentityId(1),
            provider_id: ProviderId(1),
            status: IdentityStatus::Valid,
            invalid: None,
            generation: 1,
            credentials: Some(Credentials {
                access_token: Some(Secret::new("a")),
                expires_at: expires_in.map(at),
                obtained_at: Some(at(0)),
                ..Credentials::default()
            }),
            back_off: None,
        }
    }

    #[test]
    fn the_margin_is_the_smaller_of_the_setting_and_a_quarter_of_the_life() {
        use Freshness::{Alive, Dead, Fresh};
        for (life, margin, min_ttl, age, expected) in [
            (3600, 300, 0, 3299, Fresh),
            (3600, 300, 0, 3300, Alive),
            (3600, 300, 0, 3599, Alive),
            (3600, 300, 0, 3600, Dead),
            // Fifteen minutes of life and a margin of fifteen: fresh for most of it all the same.
            (900, 900, 0, 674, Fresh),
            (900, 900, 0, 675, Alive),
            // A caller's wish counts up to nine tenths of the life.
            (3600, 300, 1800, 1799, Fresh),
            (3600, 300, 1800, 1800, Alive),
            (3600, 300, 1_000_000, 359, Fresh),
            (3600, 300, u64::MAX, 360, Alive),
        ] {
            let wanted = freshness(
                &stored(Some(life)),
                Duration::from_secs(min_ttl),
                Duration::from_secs(margin),
                at(age),
            );
            assert_eq!(wanted, expected, "{life} {margin} {min_ttl} {age}");
        }
    }

    #[test]
    fn an_unknown_expiry_is_unknown_and_not_zero() {
        let margin = Duration::from_mins(1);
        let wanted = freshness(&stored(None), Duration::MAX, margin, at(1_000_000));
        assert_eq!(wanted, Freshness::Fresh);
        let none = StoredCredentials { credentials: None, ..stored(None) };
        assert_eq!(freshness(&none, Duration::ZERO, margin, at(0)), Freshness::Dead);
    }
}
