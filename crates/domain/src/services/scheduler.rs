use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{Tasks, Tokens};
use crate::{
    Error,
    ids::ProviderId,
    ports::{Clock, DueRefresh, RefreshClaim, RefreshSchedule},
};

/// Most identities that are planned in one pass.
const PLANNED_AT_ONCE: u16 = 500;
/// Longest that a provider is left alone for failures of a kind that may pass; begins with a
/// second and doubles.
const LEFT_ALONE: Duration = Duration::from_mins(1);
/// So many failures in a row, and one refresh at a time tries whether it has passed.
const TRIES_ONE: u32 = 3;
/// How far a backlog is counted.
const MOST_BACKLOG: u32 = 100_000;

/// Refreshes credentials before anybody asks, so that nobody has to wait for it.
///
/// Any number of these, in any number of processes, share the work: each claims what it can do
/// next, provider by provider, and refreshes it by the protocol of [`Tokens`]. None leads, and a
/// claim whose holder is gone runs out. The rate at a provider is one for all of them.
///
/// Callers come first: of the places among the calls to a provider a quarter is left to them.
#[derive(Clone)]
pub struct Scheduler {
    schedule: Arc<dyn RefreshSchedule>,
    tokens: Tokens,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    settings: Arc<SchedulerSettings>,
    lanes: Arc<Mutex<HashMap<ProviderId, Lane>>>,
    /// Which provider is first in the next pass.
    turn: Arc<AtomicUsize>,
    stopped: Arc<AtomicBool>,
}

/// What the operator decided about refreshing ahead of demand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchedulerSettings {
    /// How many refreshes in a second may begin at one provider instance, over all replicas.
    pub per_second_per_provider: u32,
    /// Most of them at one provider instance at a time, in this process.
    pub at_once_per_provider: usize,
    /// What was due longer ago than this comes second.
    pub urgent_for: Duration,
    /// How long a claim lasts: longer than a refresh can take.
    pub claim: Duration,
}

/// What this process has to do at one provider instance.
#[derive(Debug, Default)]
struct Lane {
    waiting: VecDeque<DueRefresh>,
    running: usize,
    /// Refreshes in a row that failed for a reason of the provider's.
    failures: u32,
    rests_until: Option<Instant>,
}

/// What one pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerPass {
    /// How many identities were planned.
    pub planned: usize,
    /// How many refreshes were claimed and are under way.
    pub claimed: usize,
}

impl Scheduler {
    /// A scheduler with nothing under way.
    #[must_use]
    pub fn new(
        schedule: Arc<dyn RefreshSchedule>,
        tokens: Tokens,
        clock: Arc<dyn Clock>,
        tasks: Tasks,
        settings: SchedulerSettings,
    ) -> Self {
        Self {
            schedule,
            tokens,
            clock,
            tasks,
            settings: Arc::new(settings),
            lanes: Arc::default(),
            turn: Arc::default(),
            stopped: Arc::default(),
        }
    }

    /// Looks once what is due, claims as much of it as there is room for, and begins with it. Does
    /// not wait for a provider.
    ///
    /// # Errors
    ///
    /// [`Error::Repository`] when it cannot be known; what was claimed before goes on.
    pub async fn pass(&self) -> Result<SchedulerPass, Error> {
        let planned = self.schedule.plan_missing(PLANNED_AT_ONCE).await?;
        let mut providers = self.schedule.due_providers().await?;
        if !providers.is_empty() {
            let turn = self.turn.fetch_add(1, Ordering::Relaxed) % providers.len();
            providers.rotate_left(turn);
        }
        let mut claimed = 0;
        for provider_id in providers {
            let limit = self.room(provider_id);
            if limit == 0 || self.is_stopped() {
                continue;
            }
            let claim = RefreshClaim {
                provider_id,
                limit,
                time: self.settings.claim,
                per_second: self.settings.per_second_per_provider,
                urgent_for: self.settings.urgent_for,
            };
            let due = self.schedule.claim_due(&claim).await?;
            claimed += due.len();
            self.begin(provider_id, due);
        }
        Ok(SchedulerPass { planned, claimed })
    }

    /// Tells, as metrics, how much is due at each provider.
    ///
    /// # Errors
    ///
    /// [`Error::Repository`].
    pub async fn tell_backlog(&self) -> Result<(), Error> {
        let due = self.schedule.due_providers().await?;
        let mut known: Vec<_> = self.lanes().keys().copied().collect();
        known.extend(due);
        known.sort_unstable();
        known.dedup();
        for provider in known {
            let backlog = self.schedule.backlog(provider, MOST_BACKLOG).await?;
            let provider = provider.to_string();
            metrics::gauge!("symbolon_refresh_backlog", "provider_id" => provider).set(backlog);
        }
        Ok(())
    }

    /// Begins with nothing more: what has not begun is given back, for others to claim. What is
    /// under way is a task that is waited for.
    pub async fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        let providers: Vec<_> = self.lanes().keys().copied().collect();
        for provider in providers {
            self.empty(provider).await;
        }
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }

    fn lanes(&self) -> MutexGuard<'_, HashMap<ProviderId, Lane>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many more of this provider's are taken now: work for about half a second, or none while
    /// half of that waits still, as each look for more costs the database.
    fn room(&self, provider: ProviderId) -> u16 {
        let mut lanes = self.lanes();
        let Some(lane) = lanes.get_mut(&provider) else { return self.most() };
        if lane.rests_until.is_some_and(|it| Instant::now() < it) {
            return 0;
        }
        if lane.failures >= TRIES_ONE {
            return u16::from(lane.waiting.is_empty() && lane.running == 0);
        }
        let (most, waiting) = (self.most(), u16::try_from(lane.waiting.len()).unwrap_or(u16::MAX));
        if waiting > most / 2 { 0 } else { most - waiting }
    }

    fn most(&self) -> u16 {
        let half_a_second = self.settings.per_second_per_provider as usize / 2;
        let most = half_a_second.max(self.settings.at_once_per_provider * 2).clamp(1, 1000);
        u16::try_from(most).unwrap_or(u16::MAX)
    }

    fn begin(&self, provider: ProviderId, due: Vec<DueRefresh>) {
        let mut lanes = self.lanes();
        let lane = lanes.entry(provider).or_default();
        lane.waiting.extend(due);
        while lane.running < self.settings.at_once_per_provider.max(1) {
            let Some(first) = lane.waiting.pop_front() else { break };
            lane.running += 1;
            let this = self.clone();
            self.tasks.spawn(async move { this.work(first).await });
        }
    }

    /// Refreshes one after the other, as long as some wait.
    async fn work(&self, first: DueRefresh) {
        let provider = first.provider_id;
        let mut next = Some(first);
        while let Some(due) = next {
            if self.is_stopped() || self.rests(provider) {
                self.give_back(&[due]).await;
                self.empty(provider).await;
            } else {
                let result = self.tokens.refresh_ahead(&due).await;
                self.note(&due, result).await;
            }
            let mut lanes = self.lanes();
            let lane = lanes.entry(provider).or_default();
            next = lane.waiting.pop_front();
            if next.is_none() {
                lane.running -= 1;
                if lane.running == 0
                    && lane.failures == 0
                    && lane.rests_until.is_none_or(|it| it <= Instant::now())
                {
                    lanes.remove(&provider);
                }
            }
        }
    }

    fn rests(&self, provider: ProviderId) -> bool {
        let until = self.lanes().get(&provider).and_then(|it| it.rests_until);
        until.is_some_and(|it| Instant::now() < it)
    }

    /// Gives back what waits here.
    async fn empty(&self, provider: ProviderId) {
        let waiting = self.lanes().get_mut(&provider).map(|it| std::mem::take(&mut it.waiting));
        let waiting: Vec<_> = waiting.unwrap_or_default().into();
        if !waiting.is_empty() {
            self.give_back(&waiting).await;
        }
    }

    async fn give_back(&self, due: &[DueRefresh]) {
        if let Err(error) = self.schedule.give_back(due).await {
            // The claims run out.
            tracing::warn!(%error, "claims of due refreshes could not be given back");
        }
    }

    /// What a refresh says of its provider.
    async fn note(&self, due: &DueRefresh, result: Result<(), Error>) {
        let provider = due.provider_id;
        let outcome = match &result {
            Ok(()) => {
                let late = (self.clock.now() - due.refresh_at).as_seconds_f64().max(0.0);
                metrics::histogram!("symbolon_scheduled_refresh_lateness_seconds").record(late);
                "refreshed"
            }
            Err(Error::ProviderUnavailable { .. }) => "unavailable",
            Err(Error::ProviderMisconfigured { .. }) => "misconfigured",
            Err(Error::IdentityNotValid { .. }) => "not_valid",
            Err(Error::NotFound(_)) => "gone",
            Err(_) => "failed",
        };
        let label = provider.to_string();
        metrics::counter!("symbolon_scheduled_refreshes_total", "provider_id" => label, "outcome" => outcome)
            .increment(1);
        match result {
            Ok(()) | Err(Error::IdentityNotValid { .. } | Error::NotFound(_)) => {
                if let Some(lane) = self.lanes().get_mut(&provider) {
                    lane.failures = 0;
                }
            }
            Err(Error::ProviderUnavailable { .. }) => self.rest(provider, false).await,
            // The next would be rejected too.
            Err(Error::ProviderMisconfigured { .. }) => self.rest(provider, true).await,
            // The database is away: the claim runs out.
            Err(error) => {
                tracing::debug!(%error, identity = %due.identity_id, "a due refresh could not be tried");
            }
        }
    }

    /// Leaves a provider alone: as long as it asked for, or as its failures say.
    async fn rest(&self, provider: ProviderId, rejected: bool) {
        let failures = {
            let mut lanes = self.lanes();
            let lane = lanes.entry(provider).or_default();
            lane.failures = lane.failures.saturating_add(if rejected { TRIES_ONE } else { 1 });
            lane.failures
        };
        let asked = self.tokens.provider_wants_rest(provider);
        let own = if rejected {
            Some(LEFT_ALONE)
        } else {
            let doubled = failures.checked_sub(TRIES_ONE).map(|it| 1_u64 << it.min(6));
            doubled.map(|it| Duration::from_secs(it).min(LEFT_ALONE))
        };
        let Some(wait) = own.max(asked) else { return };
        // Spread, so that providers that failed together are not tried together; by what is
        // known, so that a run can be repeated exactly.
        let spread = provider.0.wrapping_mul(7919).wrapping_add(i64::from(failures));
        let wait = wait + wait * u32::try_from(spread.rem_euclid(20)).unwrap_or(0) / 100;
        if let Some(lane) = self.lanes().get_mut(&provider) {
            lane.rests_until = lane.rests_until.max(Some(Instant::now() + wait));
        }
        // Every replica would find the same, each at the price of a call.
        if let Err(error) = self.schedule.pause(provider, wait).await {
            tracing::warn!(%error, %provider, "a provider's rest could not be told to other replicas");
        }
    }
}
