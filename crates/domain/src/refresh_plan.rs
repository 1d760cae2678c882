//! When credentials are refreshed with nobody asking.

use std::{
    collections::{HashMap, VecDeque},
    hash::Hash,
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};

use crate::{credentials::Credentials, ids::IdentityId};

/// Credentials are not refreshed ahead of demand sooner than this after they came, however
/// shortly they live: what lives shorter is refreshed when it is asked for.
const LEAST_AGE: TimeDelta = TimeDelta::seconds(5);

/// When credentials are refreshed ahead of demand: the operator's decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshPlan {
    /// How long before its end an access token is refreshed at the earliest; half of its life at
    /// most. `None` leaves access tokens to those who ask for them.
    pub ahead: Option<Duration>,
    /// Within this time of its end a token is no longer handed out without a refresh: ahead of
    /// demand means before that.
    pub margin: Duration,
}

impl Default for RefreshPlan {
    fn default() -> Self {
        Self { ahead: Some(Duration::from_mins(15)), margin: Duration::from_mins(5) }
    }
}

/// What is planned for the credentials of one identity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planned {
    /// When to refresh them with nobody asking; `None` where there is nothing to gain.
    pub refresh_at: Option<DateTime<Utc>>,
    /// When they end if nobody does anything that they do not know of: the access token where
    /// there is nothing to refresh it with, else the grant, whose end no refresh puts off, else the
    /// refresh token; `None` when that is unknown.
    pub dies_at: Option<DateTime<Utc>>,
    /// Whether there is anything to refresh with.
    pub refreshable: bool,
}

impl RefreshPlan {
    /// The plan for the credentials that an identity got with this generation.
    ///
    /// What came at the same time is spread by the identity and the generation, so that it does
    /// not end at the same time for ever, and so that the same credentials have the same plan in
    /// every replica.
    #[must_use]
    pub fn of(
        &self,
        id: IdentityId,
        generation: i64,
        credentials: Option<&Credentials>,
    ) -> Planned {
        let Some(credentials) = credentials else { return Planned::default() };
        if credentials.refresh_token.is_none() {
            let dies_at = credentials.access_token.as_ref().and(credentials.expires_at);
            return Planned { refresh_at: None, dies_at, refreshable: false };
        }
        let share = share(id, generation);
        let access =
            self.ahead.and_then(|ahead| self.before_access_ends(ahead, credentials, share));
        let idle = before_refresh_ends(credentials, share);
        let refresh_at = [access, idle].into_iter().flatten().min();
        let dies_at = credentials.refresh_ends_at.or(credentials.refresh_expires_at);
        Planned { refresh_at, dies_at, refreshable: true }
    }

    /// Between `ahead` and the margin before the access token ends, with an eighth of that time
    /// left for the refresh itself.
    fn before_access_ends(
        &self,
        ahead: Duration,
        credentials: &Credentials,
        share: i32,
    ) -> Option<DateTime<Utc>> {
        let expires_at = credentials.expires_at?;
        let (mut margin, mut ahead) = (delta(self.margin), delta(ahead));
        if let Some(life) = credentials.lifetime() {
            margin = margin.min(life / 4);
            ahead = ahead.min(life / 2);
        }
        let window = (ahead - margin).max(TimeDelta::zero());
        let lead = margin + window / 8 + window * 7 / 8 / SHARES * share;
        let at = expires_at.checked_sub_signed(lead)?;
        Some(match credentials.obtained_at {
            Some(obtained_at) => at.max(obtained_at + LEAST_AGE),
            None => at,
        })
    }
}

/// Between half and three quarters of the time that the refresh token may lie idle.
fn before_refresh_ends(credentials: &Credentials, share: i32) -> Option<DateTime<Utc>> {
    let ends = credentials.refresh_expires_at?;
    let Some(obtained_at) = credentials.obtained_at else { return Some(ends) };
    let idle = (ends - obtained_at).max(TimeDelta::zero());
    let at = obtained_at + idle / 2 + idle / 4 / SHARES * share;
    Some(at.max(obtained_at + LEAST_AGE))
}

/// In how many parts a window is cut.
const SHARES: i32 = 1024;

/// Which of the parts of a window these credentials have: 0 to 1023, the same everywhere.
fn share(id: IdentityId, generation: i64) -> i32 {
    // SplitMix64: neighbouring ids lie far apart.
    let mut x = id.0.cast_unsigned().wrapping_add(
        generation.cast_unsigned().wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
    );
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    i32::try_from((x ^ (x >> 31)) % 1024).unwrap_or(0)
}

fn delta(duration: Duration) -> TimeDelta {
    // Ten years are as good as more, and cannot overflow a date.
    const MOST: Duration = Duration::from_hours(10 * 365 * 24);
    TimeDelta::from_std(duration.min(MOST)).unwrap_or(TimeDelta::zero())
}

/// The first `limit` of these when each tenant takes turns: with every round the next of each
/// tenant, in the order in which they came.
pub fn in_turns<K: Eq + Hash, T>(items: impl IntoIterator<Item = (K, T)>, limit: usize) -> Vec<T> {
    let mut places: HashMap<K, usize> = HashMap::new();
    let mut tenants: Vec<VecDeque<T>> = Vec::new();
    for (tenant, item) in items {
        let place = *places.entry(tenant).or_insert_with(|| {
            tenants.push(VecDeque::new());
            tenants.len() - 1
        });
        tenants[place].push_back(item);
    }
    let mut taken = Vec::new();
    while taken.len() < limit {
        let before = taken.len();
        for tenant in &mut tenants {
            if taken.len() < limit {
                taken.extend(tenant.pop_front());
            }
        }
        if taken.len() == before {
            break;
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(1_700_000_000 + seconds, 0).unwrap()
    }

    fn credentials(life: i64) -> Credentials {
        Credentials {
            access_token: Some(Secret::new("a")),
            refresh_token: Some(Secret::new("r")),
            expires_at: Some(at(life)),
            obtained_at: Some(at(0)),
            ..Credentials::default()
        }
    }

    fn plan(ahead: i64, margin: u64) -> RefreshPlan {
        let ahead = u64::try_from(ahead).ok().map(Duration::from_secs);
        RefreshPlan { ahead, margin: Duration::from_secs(margin) }
    }

    #[test]
    fn a_refresh_falls_between_ahead_and_the_margin_whoever_it_is() {
        for (life, ahead, margin, earliest, latest) in [
            (3600, 900, 300, 2700, 3300),
            // Half of the life at most, and the margin is a quarter of it at most.
            (600, 900, 300, 300, 450),
            (60, 900, 300, 30, 45),
            // An `ahead` within the margin is the margin.
            (3600, 60, 300, 3300, 3300),
        ] {
            let due = |id| plan(ahead, margin).of(IdentityId(id), 1, Some(&credentials(life)));
            let all: Vec<_> = (1..2000).map(|id| due(id).refresh_at.unwrap()).collect();
            let (first, last) = (all.iter().min().unwrap(), all.iter().max().unwrap());
            assert!(at(earliest) <= *first && *last <= at(latest), "{life}: {first} {last}");
            // Some of the window is left for the refresh itself, and the rest is used.
            let window = TimeDelta::seconds(latest - earliest);
            assert!(at(latest) - *last >= window / 9, "{life}: {last}");
            assert!(*last - *first >= window * 3 / 4, "{life}: {first} {last}");
        }
    }

    #[test]
    fn what_came_together_does_not_stay_together() {
        let plan = RefreshPlan::default();
        let mut seconds = [0_usize; 600];
        for id in 1..=60_000 {
            let due = plan.of(IdentityId(id), 3, Some(&credentials(3600))).refresh_at.unwrap();
            seconds[usize::try_from((due - at(2700)).num_seconds()).unwrap()] += 1;
        }
        let busiest = seconds.iter().max().unwrap();
        assert!(*busiest < 2 * 60_000 / 525, "{busiest} in one second");
    }

    #[test]
    fn a_token_that_lives_for_seconds_is_not_refreshed_all_the_time() {
        for life in [0, 1, 4] {
            let due = plan(900, 300).of(IdentityId(1), 1, Some(&credentials(life)));
            assert_eq!(due.refresh_at, Some(at(5)), "{life}");
        }
    }

    #[test]
    fn without_a_refresh_token_the_end_of_the_access_token_is_the_end() {
        let none = Credentials { refresh_token: None, ..credentials(3600) };
        let planned = RefreshPlan::default().of(IdentityId(1), 1, Some(&none));
        let dies_at = Some(at(3600));
        assert_eq!(planned, Planned { refresh_at: None, dies_at, refreshable: false });
        assert_eq!(RefreshPlan::default().of(IdentityId(1), 1, None), Planned::default());
    }

    #[test]
    fn an_idle_refresh_token_is_used_in_time_also_where_access_tokens_are_left_alone() {
        let lapses = Credentials {
            refresh_expires_at: Some(at(86_400)),
            expires_at: None,
            ..credentials(3600)
        };
        for plan in [plan(-1, 300), plan(900, 300)] {
            for id in 1..200 {
                let planned = plan.of(IdentityId(id), 1, Some(&lapses));
                let due = planned.refresh_at.unwrap();
                assert!((at(43_200)..=at(64_800)).contains(&due), "{due}");
                assert_eq!(planned.dies_at, Some(at(86_400)));
            }
        }
        let off = plan(-1, 300).of(IdentityId(1), 1, Some(&credentials(3600)));
        assert_eq!(off.refresh_at, None);
    }

    #[test]
    fn what_may_lie_idle_for_a_while_and_ends_in_any_case_is_kept_alive_until_then() {
        let both = Credentials {
            refresh_expires_at: Some(at(86_400)),
            refresh_ends_at: Some(at(864_000)),
            expires_at: None,
            ..credentials(3600)
        };
        for id in 1..200 {
            let planned = RefreshPlan::default().of(IdentityId(id), 1, Some(&both));
            let due = planned.refresh_at.unwrap();
            assert!((at(43_200)..=at(64_800)).contains(&due), "{due}");
            assert_eq!(planned.dies_at, Some(at(864_000)));
        }
    }

    #[test]
    fn tenants_take_turns() {
        let many = (0..100).map(|it| ("many", it));
        let few = (100..103).map(|it| ("few", it));
        assert_eq!(in_turns(many.clone().chain(few.clone()), 7), [0, 100, 1, 101, 2, 102, 3]);
        assert_eq!(in_turns(many.chain(few), 200).len(), 103);
        assert_eq!(in_turns([("a", 1)], 0), [0; 0]);
    }
}
