use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit},
    time::{Instant, timeout},
};

use super::{Tokens, flight::Urgency, refresh::LONGEST_RETRY_AFTER};
use crate::{
    Error,
    error::DEFAULT_RETRY,
    ids::{IdentityId, ProviderId},
    ports::{ConnectorError, Sent},
};

/// So many calls in a row without an answer, each for another identity than the one before, and a
/// provider is taken to be away.
const OPENS_AT: u32 = 5;
/// How long a provider that is away is left alone; doubled each time that it still is.
const LEFT_ALONE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(1));

/// Which providers do not answer, as this process found out. A clone shares it.
///
/// Only a missing answer counts: a refusal, a 429 or a 500 is one, and comes soon.
#[derive(Clone, Debug, Default)]
pub(super) struct Circuits {
    circuits: Arc<Mutex<HashMap<ProviderId, Circuit>>>,
    opened: Arc<Notify>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Circuit {
    /// Calls in a row without an answer, each for another identity than the one before: what goes
    /// wrong with one of them alone is that one's back-off's to deal with.
    failures: u32,
    /// For which the last of these was.
    failed_for: Option<IdentityId>,
    /// How often it opened since the last answer.
    openings: u32,
    /// Until when it is open; after that one call tries.
    open_until: Option<Instant>,
    /// Somebody tries.
    probing: bool,
    /// Until when the provider asked to be left alone.
    asked_until: Option<Instant>,
}

/// The right to call a provider, while it is held.
pub(super) struct Pass {
    circuits: Circuits,
    provider: ProviderId,
    probes: bool,
}

/// The right to call a provider, and a place among the calls to it.
pub(super) struct Admission {
    _pass: Pass,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probes
            && let Some(circuit) = self.circuits.lock().get_mut(&self.provider)
        {
            circuit.probing = false;
        }
    }
}

impl Circuits {
    fn lock(&self) -> MutexGuard<'_, HashMap<ProviderId, Circuit>> {
        self.circuits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a call to this provider through, or says how long to leave it alone. A call that was
    /// asked for by name need not wait until it is tried again.
    fn enter(&self, provider: ProviderId, urgency: Urgency) -> Result<Pass, Duration> {
        let mut probes = false;
        if let Some(circuit) = self.lock().get_mut(&provider)
            && let Some(until) = circuit.open_until
        {
            let left = until.saturating_duration_since(Instant::now());
            if !left.is_zero() && urgency == Urgency::Usual {
                return Err(left);
            }
            if circuit.probing {
                return Err(left.max(DEFAULT_RETRY));
            }
            circuit.probing = true;
            probes = true;
            tell(provider, HALF_OPEN);
        }
        Ok(Pass { circuits: self.clone(), provider, probes })
    }

    /// Comes back when calls to this provider are no longer let through.
    async fn closed_to(&self, provider: ProviderId) -> Duration {
        loop {
            let opened = self.opened.notified();
            let now = Instant::now();
            let until = self.lock().get(&provider).and_then(|it| it.open_until);
            if let Some(left) = until.map(|it| it.saturating_duration_since(now))
                && !left.is_zero()
            {
                return left;
            }
            opened.await;
        }
    }

    /// What came of a call.
    pub(super) fn note<T>(
        &self,
        provider: ProviderId,
        identity: IdentityId,
        result: &Result<T, ConnectorError>,
    ) {
        let now = Instant::now();
        let mut circuits = self.lock();
        if let Err(ConnectorError::Unavailable { retry_after: Some(asked), .. }) = result {
            let until = now + (*asked).min(LONGEST_RETRY_AFTER);
            let circuit = circuits.entry(provider).or_default();
            circuit.asked_until = circuit.asked_until.max(Some(until));
        }
        if !matches!(
            result,
            Err(ConnectorError::Unavailable { sent: Sent::No | Sent::Unknown, .. })
        ) {
            let Some(circuit) = circuits.get_mut(&provider) else { return };
            if circuit.open_until.is_some() {
                tell(provider, CLOSED);
                tracing::info!(%provider, "the provider answers again");
            }
            *circuit = Circuit { asked_until: circuit.asked_until, ..Circuit::default() };
            if circuit.asked_until.is_none_or(|it| it <= now) {
                circuits.remove(&provider);
            }
            return;
        }
        let circuit = circuits.entry(provider).or_default();
        if circuit.failed_for != Some(identity) {
            circuit.failed_for = Some(identity);
            circuit.failures = circuit.failures.saturating_add(1);
        }
        // Those that were under way when it opened say nothing new.
        let still_away = circuit.probing;
        if (circuit.open_until.is_some() && !still_away) || circuit.failures < OPENS_AT {
            return;
        }
        let wait = LEFT_ALONE.0 * 2_u32.saturating_pow(circuit.openings.min(16));
        let wait = wait.min(LEFT_ALONE.1);
        // Spread, so that replicas and providers do not try together; by what is known, so that a
        // run can be repeated exactly.
        let spread = provider.0.wrapping_mul(7919).wrapping_add(i64::from(circuit.failures));
        let wait = wait + wait * u32::try_from(spread.rem_euclid(25)).unwrap_or(0) / 100;
        circuit.openings = circuit.openings.saturating_add(1);
        circuit.open_until = Some(now + wait);
        tell(provider, OPEN);
        tracing::warn!(%provider, ?wait, failures = circuit.failures, "the provider does not answer and is left alone");
        drop(circuits);
        self.opened.notify_waiters();
    }

    /// How long this provider should be left alone: it does not answer, or asked for it.
    fn wait_for(&self, provider: ProviderId) -> Option<Duration> {
        let circuit = self.lock().get(&provider).copied()?;
        let until = circuit.open_until.max(circuit.asked_until)?;
        let left = until.saturating_duration_since(Instant::now());
        (!left.is_zero()).then_some(left)
    }
}

impl Tokens {
    /// The right to call a provider: at once refused while it does not answer, and waited for
    /// while others call it.
    pub(super) async fn admitted(
        &self,
        provider: ProviderId,
        urgency: Urgency,
    ) -> Result<Admission, Error> {
        let away = |retry_after| Error::ProviderUnavailable {
            detail: "the provider has not answered the last calls and is left alone".to_owned(),
            retry_after,
        };
        let pass = self.circuits.enter(provider, urgency).map_err(away)?;
        let permit = timeout(self.settings.lease(), self.flights.permit(provider));
        let permit = if pass.probes {
            permit.await
        } else {
            tokio::select! {
                biased;
                permit = permit => permit,
                left = self.circuits.closed_to(provider) => return Err(away(left)),
            }
        };
        let Ok(Some(permit)) = permit else {
            return Err(Error::ProviderUnavailable {
                detail: "too many refreshes wait for this provider".to_owned(),
                retry_after: DEFAULT_RETRY,
            });
        };
        Ok(Admission { _pass: pass, _permit: permit })
    }

    /// How long this provider should be left alone, as this process found out: it does not
    /// answer, or its last answer asked for it.
    #[must_use]
    pub fn provider_wants_rest(&self, provider: ProviderId) -> Option<Duration> {
        self.circuits.wait_for(provider)
    }
}

const CLOSED: f64 = 0.0;
const HALF_OPEN: f64 = 1.0;
const OPEN: f64 = 2.0;

fn tell(provider: ProviderId, state: f64) {
    let provider = provider.to_string();
    metrics::gauge!("symbolon_provider_circuit_state", "provider_id" => provider).set(state);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fixtures;

    const PROVIDER: ProviderId = ProviderId(1);

    fn silence(sent: Sent) -> Result<(), ConnectorError> {
        Err(ConnectorError::Unavailable { detail: "x".into(), retry_after: None, sent })
    }

    fn fail(circuits: &Circuits, times: u32) {
        for identity in 0..times {
            circuits.note(PROVIDER, IdentityId(identity.into()), &silence(Sent::Unknown));
        }
    }

    fn refused(circuits: &Circuits) -> Option<Duration> {
        circuits.enter(PROVIDER, Urgency::Usual).err()
    }

    #[tokio::test(start_paused = true)]
    async fn five_calls_without_an_answer_open_it_and_an_answer_in_between_does_not() {
        let circuits = Circuits::default();
        fail(&circuits, 4);
        circuits.note(PROVIDER, fixtures::IDENTITY, &silence(Sent::Answered));
        fail(&circuits, 4);
        assert_eq!(refused(&circuits), None);
        circuits.note(PROVIDER, IdentityId(99), &silence(Sent::No));
        let left = refused(&circuits).unwrap();
        assert!((LEFT_ALONE.0..LEFT_ALONE.0 * 5 / 4).contains(&left), "{left:?}");
        assert!(circuits.enter(ProviderId(2), Urgency::Usual).is_ok(), "it is another provider");
    }

    #[tokio::test(start_paused = true)]
    async fn one_identity_alone_opens_nothing() {
        let circuits = Circuits::default();
        for _ in 0..20 {
            circuits.note(PROVIDER, fixtures::IDENTITY, &silence(Sent::Unknown));
        }
        assert_eq!(refused(&circuits), None);
    }

    #[tokio::test(start_paused = true)]
    async fn when_its_time_is_over_one_call_tries_and_the_others_are_refused() {
        let circuits = Circuits::default();
        fail(&circuits, 5);
        tokio::time::advance(refused(&circuits).unwrap()).await;
        let probe = circuits.enter(PROVIDER, Urgency::Usual).unwrap();
        assert!(refused(&circuits).is_some());
        // It came to nothing, not even to a call: somebody else may try.
        drop(probe);
        let probe = circuits.enter(PROVIDER, Urgency::Usual).unwrap();
        circuits.note(PROVIDER, fixtures::IDENTITY, &Ok(()));
        drop(probe);
        for _ in 0..3 {
            let pass = circuits.enter(PROVIDER, Urgency::Usual).unwrap();
            assert!(!pass.probes);
        }
        assert!(circuits.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn each_probe_that_fails_doubles_the_time_up_to_about_a_minute() {
        let circuits = Circuits::default();
        fail(&circuits, 5);
        let mut waits = Vec::new();
        for _ in 0..8 {
            let left = refused(&circuits).unwrap();
            waits.push(left.as_secs());
            tokio::time::advance(left).await;
            let probe = circuits.enter(PROVIDER, Urgency::Usual).unwrap();
            fail(&circuits, 1);
            drop(probe);
        }
        assert!(waits.windows(2).all(|it| it[1] * 10 >= it[0] * 8), "{waits:?}");
        assert!(waits[0] < 3 && (60..=75).contains(&waits[7]), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_under_way_when_it_opened_does_not_open_it_further() {
        let circuits = Circuits::default();
        fail(&circuits, 5);
        let left = refused(&circuits).unwrap();
        fail(&circuits, 100);
        assert_eq!(refused(&circuits), Some(left));
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_by_name_may_try_at_once_but_one_at_a_time() {
        let circuits = Circuits::default();
        fail(&circuits, 5);
        let probe = circuits.enter(PROVIDER, Urgency::Forced).unwrap();
        assert!(circuits.enter(PROVIDER, Urgency::Forced).is_err());
        drop(probe);
        assert!(circuits.enter(PROVIDER, Urgency::Forced).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_asks_for_time_gets_it_from_the_scheduler_and_no_circuit_opens() {
        let circuits = Circuits::default();
        let asked = Some(Duration::from_secs(30));
        let busy: Result<(), _> = Err(ConnectorError::Unavailable {
            detail: "429".into(),
            retry_after: asked,
            sent: Sent::Answered,
        });
        for _ in 0..10 {
            circuits.note(PROVIDER, fixtures::IDENTITY, &busy);
        }
        assert_eq!(circuits.wait_for(PROVIDER), asked);
        assert_eq!(refused(&circuits), None);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(circuits.wait_for(PROVIDER), None);
    }
}
