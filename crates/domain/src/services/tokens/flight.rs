use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
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
    bulkheads: Arc<Mutex<HashMap<ProviderId, Arc<Semaphore>>>>,
    per_provider: usize,
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
    /// share.
    pub(super) async fn permit(&self, provider: ProviderId) -> Option<OwnedSemaphorePermit> {
        let bulkhead = {
            let mut bulkheads = self.bulkheads.lock().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Semaphore::new(self.per_provider));
            Arc::clone(bulkheads.entry(provider).or_insert_with(new))
        };
        bulkhead.acquire_owned().await.ok()
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
