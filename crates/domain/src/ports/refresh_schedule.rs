use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

use super::RepositoryError;
use crate::ids::{IdentityId, ProviderId};

/// Credentials whose time to be refreshed has come, claimed for whoever asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DueRefresh {
    /// Whose they are.
    pub identity_id: IdentityId,
    /// Where to refresh them.
    pub provider_id: ProviderId,
    /// Which credentials: with others in place there is nothing left to do.
    pub generation: i64,
    /// When it was planned.
    pub refresh_at: DateTime<Utc>,
}

/// What somebody is ready to refresh at one provider instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RefreshClaim {
    /// Where.
    pub provider_id: ProviderId,
    /// How many at most.
    pub limit: u16,
    /// For how long nobody else may claim them.
    pub time: Duration,
    /// How many may be claimed in a second at this instance, over all who claim; 1 or more. What
    /// was not used of it is kept for one second.
    pub per_second: u32,
    /// What was due longer ago than this comes second: its token has most likely ended, and is
    /// refreshed when somebody asks for it.
    pub urgent_for: Duration,
}

/// When credentials are refreshed with nobody asking, and who does it: no replica leads, each
/// claims what it can do next. What is planned is
/// [`RefreshPlan`](crate::refresh_plan::RefreshPlan)'s to say, by the settings of the store.
///
/// A claim decides nothing: who refreshes takes the
/// [lease](super::CredentialsRepository::take_lease) like everybody else.
///
/// What is due is known to the store from
/// [`commit`](super::CredentialsRepository::commit), which plans the new credentials, and
/// [`end`](super::CredentialsRepository::end), which puts a failed refresh off until its back-off
/// is over and plans nothing for an invalid identity. Credentials that came otherwise are planned
/// by [`plan_missing`](Self::plan_missing).
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait RefreshSchedule: Send + Sync {
    /// Plans up to `limit` identities whose credentials came since they were planned last, those
    /// that another version wrote included, and tells how many these were. Credentials that do
    /// not open count, and are planned never.
    async fn plan_missing(&self, limit: u16) -> Result<usize, RepositoryError>;

    /// The provider instances with something due, by id.
    async fn due_providers(&self) -> Result<Vec<ProviderId>, RepositoryError>;

    /// Claims what is due at an instance: nothing while the instance is
    /// [paused](Self::pause), its rate is used up, or somebody else is claiming there.
    ///
    /// Three quarters of what is claimed became due within `urgent_for`, the longest due first;
    /// the rest of it is what has been due longer, the longest first. Each fills up what the other
    /// leaves. Among what comes first, organizations take turns, and users who belong to none.
    async fn claim_due(&self, claim: &RefreshClaim) -> Result<Vec<DueRefresh>, RepositoryError>;

    /// Gives claims back that were not used, so that others can claim them at once.
    async fn give_back(&self, due: &[DueRefresh]) -> Result<(), RepositoryError>;

    /// Lets nobody claim anything at an instance for this time, unless a longer pause is on.
    async fn pause(&self, provider: ProviderId, time: Duration) -> Result<(), RepositoryError>;

    /// How many are due at an instance, claimed ones too; counts no further than `most`.
    async fn backlog(&self, provider: ProviderId, most: u32) -> Result<u32, RepositoryError>;
}

/// How much of the rate at an instance may be claimed now, where `next_free` is when what was
/// claimed is over at that pace. Stores that keep that share this arithmetic.
#[must_use]
pub fn refresh_room(now: DateTime<Utc>, next_free: DateTime<Utc>, per_second: u32) -> usize {
    let unused = now - rate_begins(now, next_free);
    let room = unused.num_microseconds().unwrap_or(0) * i64::from(per_second.max(1)) / MICROSECONDS;
    usize::try_from(room).unwrap_or(0)
}

/// What `next_free` becomes when so many are claimed.
#[must_use]
pub fn refresh_rate_used(
    now: DateTime<Utc>,
    next_free: DateTime<Utc>,
    per_second: u32,
    claimed: usize,
) -> DateTime<Utc> {
    let claimed = i64::try_from(claimed).unwrap_or(i64::MAX);
    let time = claimed.saturating_mul(MICROSECONDS) / i64::from(per_second.max(1));
    rate_begins(now, next_free) + TimeDelta::microseconds(time)
}

/// How many of these places are for what has been due too long to be urgent: a quarter. Of fewer
/// than four the last digits of the time decide, so that over many claims it is a quarter too.
#[must_use]
pub fn refresh_places_for_late(now: DateTime<Utc>, places: usize) -> usize {
    let rounding = usize::try_from(now.timestamp_micros().rem_euclid(4)).unwrap_or(0);
    (places + rounding) / 4
}

const MICROSECONDS: i64 = 1_000_000;

/// What was not used is kept for one second.
fn rate_begins(now: DateTime<Utc>, next_free: DateTime<Utc>) -> DateTime<Utc> {
    next_free.max(now - TimeDelta::seconds(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarter_is_for_what_is_late_however_few_places_there_are() {
        let start = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        for places in 1..=9 {
            let at = |micros| start + TimeDelta::microseconds(micros);
            let total: usize = (0..400).map(|it| refresh_places_for_late(at(it), places)).sum();
            assert_eq!(total, 100 * places);
        }
    }

    #[test]
    fn over_any_time_no_more_is_claimed_than_the_rate_and_what_a_second_keeps() {
        let start = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let (mut next_free, mut claimed) = (DateTime::UNIX_EPOCH, 0);
        for step in 0..1000 {
            let now = start + TimeDelta::milliseconds(7 * step);
            let room = refresh_room(now, next_free, 100).min(50);
            next_free = refresh_rate_used(now, next_free, 100, room);
            claimed += room;
            let allowed = 100 + usize::try_from(7 * step / 10).unwrap();
            assert!(claimed <= allowed, "{claimed} after {} ms", 7 * step);
        }
        assert!(claimed >= 790, "{claimed}");
    }
}
