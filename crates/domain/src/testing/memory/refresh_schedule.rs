use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, TimeDelta, Utc};

use super::{MemoryStore, Rows, identities::IdentityRow, to_microseconds};
use crate::{
    identity::IdentityStatus,
    ids::ProviderId,
    ports::{DueRefresh, RefreshClaim, RefreshSchedule, RepositoryError},
    refresh_plan::{RefreshPlan, in_turns},
};

/// What is planned for an identity, and who is at it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ScheduleColumns {
    /// For which generation this was planned.
    planned: Option<i64>,
    refresh_at: Option<DateTime<Utc>>,
    pub(super) dies_at: Option<DateTime<Utc>>,
    pub(super) refreshable: bool,
    claimed_until: Option<DateTime<Utc>>,
}

/// How fast and whether at all a provider's are claimed.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LaneRow {
    /// Until when the rate is used up, were all claimed at its pace.
    next_free: DateTime<Utc>,
    paused_until: Option<DateTime<Utc>>,
}

impl IdentityRow {
    pub(super) fn plan(&mut self, plan: &RefreshPlan) {
        let planned = plan.of(self.identity.id, self.generation, self.credentials.as_ref());
        let invalid = self.identity.status == IdentityStatus::Invalid;
        self.schedule = ScheduleColumns {
            planned: Some(self.generation),
            refresh_at: planned.refresh_at.filter(|_| !invalid).map(to_microseconds),
            dies_at: planned.dies_at.filter(|_| !invalid).map(to_microseconds),
            refreshable: planned.refreshable,
            claimed_until: None,
        };
        if let Some(back_off) = &self.back_off {
            let until = self.schedule.refresh_at.max(Some(back_off.until));
            self.put_off(until.unwrap_or(back_off.until));
        }
    }

    /// A refresh failed: not before this again.
    pub(super) fn put_off(&mut self, until: DateTime<Utc>) {
        let columns = &mut self.schedule;
        columns.refresh_at = columns.refresh_at.map(|_| to_microseconds(until));
        columns.dies_at = self.identity.expires_at.or(columns.dies_at);
        columns.claimed_until = None;
    }

    /// Makes it due at this time, but for what is due before or backs off.
    pub(super) fn hurry(&mut self, at: DateTime<Utc>, now: DateTime<Utc>) {
        let backs_off = self.back_off.as_ref().is_some_and(|it| it.until > now);
        let is_invalid = self.identity.status == IdentityStatus::Invalid;
        let planned = self.schedule.refreshable && !self.is_unplanned();
        if planned && !backs_off && !is_invalid {
            let due = self.schedule.refresh_at.unwrap_or(at).min(at);
            self.schedule.refresh_at = Some(to_microseconds(due));
        }
    }

    pub(super) fn plan_nothing(&mut self) {
        self.schedule.refresh_at = None;
        self.schedule.dies_at = None;
    }

    fn is_unplanned(&self) -> bool {
        self.schedule.planned != Some(self.generation)
    }

    /// Since when it is due.
    fn due_since(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.schedule.refresh_at.filter(|it| *it <= now && !self.is_unplanned())
    }

    fn is_claimed(&self, now: DateTime<Utc>) -> bool {
        self.schedule.claimed_until.is_some_and(|it| now < it)
    }
}

impl Rows {
    fn due_at(&self, provider: ProviderId, now: DateTime<Utc>) -> impl Iterator<Item = DueRefresh> {
        let rows = self.identities.values().filter(move |row| row.identity.idp_id == provider);
        let due = rows.filter(move |row| !row.is_claimed(now)).filter_map(move |row| {
            Some(DueRefresh {
                identity_id: row.identity.id,
                provider_id: provider,
                generation: row.generation,
                refresh_at: row.due_since(now)?,
            })
        });
        let mut due: Vec<_> = due.collect();
        due.sort_unstable_by_key(|it| (it.refresh_at, it.identity_id));
        due.into_iter()
    }

    /// Whose turn an identity's refresh is.
    fn tenant(&self, due: &DueRefresh) -> String {
        let all = self.organization_identities.values();
        let its_own = all.filter(|it| it.identity_id == due.identity_id);
        match its_own.min_by_key(|it| it.id) {
            Some(by) => format!("o{}", by.organization_id.as_str()),
            None => format!("u{}", self.identities[&due.identity_id].identity.user_id.as_str()),
        }
    }
}

#[async_trait]
impl RefreshSchedule for MemoryStore {
    async fn plan_missing(&self, limit: u16) -> Result<usize, RepositoryError> {
        Ok(self.write(|rows, _| {
            let unplanned = rows.identities.values_mut().filter(|row| row.is_unplanned());
            unplanned.take(usize::from(limit)).map(|row| row.plan(&self.plan)).count()
        }))
    }

    async fn due_providers(&self) -> Result<Vec<ProviderId>, RepositoryError> {
        let (rows, now) = self.read();
        let due = rows.identities.values().filter(|row| row.due_since(now).is_some());
        let mut providers: Vec<_> = due.map(|row| row.identity.idp_id).collect();
        providers.sort_unstable();
        providers.dedup();
        Ok(providers)
    }

    async fn claim_due(&self, claim: &RefreshClaim) -> Result<Vec<DueRefresh>, RepositoryError> {
        let RefreshClaim { provider_id, limit, time, per_second, urgent_for } = *claim;
        Ok(self.write(|rows, now| {
            let mut lane = rows.refresh_lanes.get(&provider_id).copied().unwrap_or_default();
            if lane.paused_until.is_some_and(|it| now < it) {
                return Vec::new();
            }
            let limit = lane.room(now, per_second, limit);
            let urgent_from = now - TimeDelta::from_std(urgent_for).unwrap_or(TimeDelta::zero());
            let due = rows.due_at(provider_id, now);
            let (soon, overdue): (Vec<_>, Vec<_>) = due.partition(|it| it.refresh_at > urgent_from);
            let places = crate::ports::refresh_places_for_late(now, limit);
            let of_late = overdue.len().min(places.max(limit.saturating_sub(soon.len())));
            let of_soon = limit - of_late;
            let turns = |due: Vec<DueRefresh>, limit: usize| {
                in_turns(due.into_iter().map(|it| (rows.tenant(&it), it)), limit)
            };
            let mut chosen = turns(soon, of_soon);
            chosen.extend(turns(overdue, of_late));
            let until = now + TimeDelta::from_std(time).unwrap_or(TimeDelta::zero());
            for due in &chosen {
                rows.identity_mut(due.identity_id).schedule.claimed_until = Some(until);
            }
            lane.use_up(now, per_second, chosen.len());
            rows.refresh_lanes.insert(provider_id, lane);
            chosen
        }))
    }

    async fn give_back(&self, due: &[DueRefresh]) -> Result<(), RepositoryError> {
        self.write(|rows, _| {
            for due in due {
                if let Some(row) = rows.identities.get_mut(&due.identity_id)
                    && row.generation == due.generation
                {
                    row.schedule.claimed_until = None;
                }
            }
        });
        Ok(())
    }

    async fn pause(&self, provider: ProviderId, time: Duration) -> Result<(), RepositoryError> {
        self.write(|rows, now| {
            let until = now + TimeDelta::from_std(time).unwrap_or(TimeDelta::zero());
            let lane = rows.refresh_lanes.entry(provider).or_default();
            lane.paused_until = lane.paused_until.max(Some(until));
        });
        Ok(())
    }

    async fn backlog(&self, provider: ProviderId, most: u32) -> Result<u32, RepositoryError> {
        let (rows, now) = self.read();
        let at = rows.identities.values().filter(|row| row.identity.idp_id == provider);
        let due = at.filter(|row| row.due_since(now).is_some());
        Ok(u32::try_from(due.take(most as usize).count()).unwrap_or(most))
    }
}

impl LaneRow {
    /// How many may be claimed now.
    fn room(&self, now: DateTime<Utc>, per_second: u32, limit: u16) -> usize {
        let room = crate::ports::refresh_room(now, self.next_free, per_second);
        usize::from(limit).min(room)
    }

    fn use_up(&mut self, now: DateTime<Utc>, per_second: u32, claimed: usize) {
        self.next_free = crate::ports::refresh_rate_used(now, self.next_free, per_second, claimed);
    }
}
