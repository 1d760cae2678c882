use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::Shared;
use crate::{
    ids::{IdentityId, ProviderId},
    ports::StoredCredentials,
};

/// How a refresh ended, for everybody who waits for it.
pub(super) type Landing = Result<Arc<StoredCredentials>, Shared>;

/// Which refresh it is.
type Name = (IdentityId, Urgency);

/// The refreshes under way in this process, at most one for an identity and an urgency; the lease
/// lets one of the two through. A clone shares them.
#[derive(Clone, Debug)]
pub(super) struct Flights {
    under_way: Arc<Mutex<HashMap<Name, watch::Receiver<Option<Landing>>>>>,
    bulkheads: Arc<Mutex<HashMap<ProviderId, Bulkhead>>>,
    per_provider: usize,
}

/// The places among the calls to one provider, and how many wait for one.
#[derive(Clone, Debug)]
struct Bulkhead {
    places: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
}

/// So many refreshes may wait for each place among the calls to a provider.
const QUEUE_PER_PLACE: usize = 256;

/// Somebody who waits for a place.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether a refresh waits while a failed one backs off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Urgency {
    /// It waits.
    Usual,
    /// Somebody asked for it by name, after mending what the operator had to mend: it waits only
    /// where the provider itself needs the time.
    Forced,
    /// The access token does not work: it waits like the usual one, and without a refresh token
    /// the user must link again, although the access token should be alive.
    Rejected,
}

/// A seat on a flight: the first who asks flies it, the others wait.
pub(super) enum Seat {
    Pilot(Pilot),
    Passenger(watch::Receiver<Option<Landing>>),
}

impl Flights {
    pub(super) fn new(per_provider: usize) -> Self {
        Self {
            under_way: Arc::default(),
            bulkheads: Arc::default(),
            per_provider: per_provider.max(1),
        }
    }

    pub(super) fn board(&self, id: IdentityId, urgency: Urgency) -> Seat {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let name = (id, urgency);
        if let Some(flight) = under_way.get(&name) {
            return Seat::Passenger(flight.clone());
        }
        let (landing, flight) = watch::channel(None);
        under_way.insert(name, flight.clone());
        Seat::Pilot(Pilot { flights: self.clone(), name, landing, flight })
    }

    /// A place among the calls to one provider, so that one that hangs takes no more than its
    /// share. `None` at once when too many wait for one already.
    pub(super) async fn permit(&self, provider: ProviderId) -> Option<OwnedSemaphorePermit> {
        let Bulkhead { places, waiting } = {
            let mut bulkheads = self.bulkheads.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Bulkhead {
                places: Arc::new(Semaphore::new(self.per_provider)),
                waiting: Arc::default(),
            };
            bulkheads.entry(provider).or_insert_with(new).clone()
        };
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(waiting);
        if before >= self.per_provider.saturating_mul(QUEUE_PER_PLACE) {
            return None;
        }
        places.acquire_owned().await.ok()
    }
}

/// Flies: does the work and tells the passengers. If it never lands, they are told by the drop.
pub(super) struct Pilot {
    flights: Flights,
    name: (IdentityId, Urgency),
    landing: watch::Sender<Option<Landing>>,
    flight: watch::Receiver<Option<Landing>>,
}

impl Pilot {
    pub(super) fn passenger(&self) -> watch::Receiver<Option<Landing>> {
        self.flight.clone()
    }

    /// Lands: from now on a new flight can start, and everybody on this one is told.
    pub(super) fn land(self, landing: Landing) {
        let told = self.landing.clone();
        drop(self);
        told.send_replace(Some(landing));
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        let mut under_way = self.flights.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        under_way.remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn so_many_wait_for_a_place_and_the_next_is_refused_at_once() {
        let flights = Flights::new(1);
        let provider = ProviderId(1);
        let held = flights.permit(provider).await.unwrap();
        let waiting: Vec<_> = (0..QUEUE_PER_PLACE)
            .map(|_| {
                let flights = flights.clone();
                tokio::spawn(async move { flights.permit(provider).await.map(drop) })
            })
            .collect();
        let in_line = || {
            let bulkheads = flights.bulkheads.lock().unwrap();
            bulkheads[&provider].waiting.load(Ordering::Relaxed)
        };
        while in_line() < QUEUE_PER_PLACE {
            tokio::task::yield_now().await;
        }
        assert!(flights.permit(provider).await.is_none());
        assert!(flights.permit(ProviderId(2)).await.is_some(), "it has places of its own");
        drop(held);
        for waiting in waiting {
            assert_eq!(waiting.await.unwrap(), Some(()));
        }
        assert!(flights.permit(provider).await.is_some(), "nobody waits any more");
    }
}
