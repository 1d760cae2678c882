use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{endpoint::Endpoint, fault::Fault};

/// A fault that waits for requests.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ActiveFault {
    /// Where; see [`Endpoint::covers`].
    pub endpoint: Endpoint,
    /// What.
    pub fault: Fault,
    /// For how many requests more; `None` until it is cleared.
    pub times: Option<u32>,
}

/// A fault that could never happen. Nothing was changed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidFault {
    /// It is of no consequence there.
    #[error("a fault {kind:?} means nothing at {endpoint}")]
    NoConsequence {
        /// The fault's kind.
        kind: &'static str,
        /// Where it was to be.
        endpoint: Endpoint,
    },
    /// It cannot be sent over HTTP.
    #[error("a fault {kind:?} needs a status of 200 to 599, and header values in printable ASCII")]
    Unsendable {
        /// The fault's kind.
        kind: &'static str,
    },
    /// It is for no request at all.
    #[error("a fault must be for at least one request")]
    Never,
}

/// For how many requests a fault is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Times {
    /// The next so many that it concerns; at least 1.
    Next(u32),
    /// All, until it is cleared.
    UntilCleared,
}

/// The switches.
///
/// A request takes the oldest fault that concerns it; the next one waits its turn, so that a
/// sequence can be laid out in advance. Faults that only slow things down are apart: a request
/// takes the oldest [`Fault::Delay`] and the oldest [`Fault::DelayAnswer`] besides.
#[derive(Debug)]
pub struct Faults {
    active: Mutex<Vec<ActiveFault>>,
    clearings: watch::Sender<u64>,
}

/// What a request has to suffer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Suffered {
    pub(crate) delay_ms: Option<u64>,
    pub(crate) delay_answer_ms: Option<u64>,
    pub(crate) fault: Option<Fault>,
}

impl Faults {
    pub(crate) fn new() -> Self {
        Self { active: Mutex::default(), clearings: watch::Sender::new(0) }
    }

    /// Adds a fault behind those that are there.
    ///
    /// # Errors
    ///
    /// [`InvalidFault`] when it could never make a difference, so that no test passes because
    /// nothing happened; nothing is changed.
    pub fn inject(
        &self,
        endpoint: Endpoint,
        fault: Fault,
        times: Times,
    ) -> Result<(), InvalidFault> {
        let kind = fault.kind();
        let reaches = |it: Endpoint| endpoint.covers(it) && fault.concerns(it);
        if !Endpoint::ALL.into_iter().any(reaches) {
            return Err(InvalidFault::NoConsequence { kind, endpoint });
        }
        if !fault.is_sendable() {
            return Err(InvalidFault::Unsendable { kind });
        }
        let times = match times {
            Times::Next(0) => return Err(InvalidFault::Never),
            Times::Next(times) => Some(times),
            Times::UntilCleared => None,
        };
        self.lock().push(ActiveFault { endpoint, fault, times });
        Ok(())
    }

    /// Takes back the faults of one endpoint and of those that it covers. Requests that hang,
    /// wherever, are cut.
    pub fn clear(&self, endpoint: Endpoint) {
        self.lock().retain(|it| !endpoint.covers(it.endpoint));
        self.clearings.send_modify(|it| *it += 1);
    }

    /// Takes back all faults. Requests that hang are cut.
    pub fn clear_all(&self) {
        self.lock().clear();
        self.clearings.send_modify(|it| *it += 1);
    }

    /// Those that still wait for requests, oldest first.
    #[must_use]
    pub fn active(&self) -> Vec<ActiveFault> {
        self.lock().clone()
    }

    /// What a request at `endpoint` has to suffer, counted down.
    pub(crate) fn take(&self, endpoint: Endpoint) -> Suffered {
        let mut suffered = Suffered::default();
        self.lock().retain_mut(|it| {
            if !it.endpoint.covers(endpoint) || !it.fault.concerns(endpoint) {
                return true;
            }
            let taken = match &it.fault {
                Fault::Delay { delay_ms } => take_first(&mut suffered.delay_ms, *delay_ms),
                Fault::DelayAnswer { delay_ms } => {
                    take_first(&mut suffered.delay_answer_ms, *delay_ms)
                }
                other if suffered.fault.is_none() => {
                    suffered.fault = Some(other.clone());
                    true
                }
                _ => false,
            };
            if taken && let Some(times) = &mut it.times {
                *times -= 1;
            }
            it.times != Some(0)
        });
        suffered
    }

    /// Tells of clearings from now on.
    pub(crate) fn clearings(&self) -> watch::Receiver<u64> {
        self.clearings.subscribe()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<ActiveFault>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn take_first(place: &mut Option<u64>, value: u64) -> bool {
    let first = place.is_none();
    place.get_or_insert(value);
    first
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_taken_in_turn_and_end() {
        let faults = Faults::new();
        faults.inject(Endpoint::Token, Fault::status(503), Times::Next(2)).unwrap();
        faults.inject(Endpoint::Refresh, Fault::DropAfter, Times::Next(1)).unwrap();
        let statuses = [(); 4].map(|()| faults.take(Endpoint::Refresh).fault.map(|it| it.kind()));
        assert_eq!(statuses, [Some("status"), Some("status"), Some("drop_after"), None]);
        assert_eq!(faults.active(), []);
    }

    #[test]
    fn a_fault_waits_for_a_request_that_it_concerns() {
        let faults = Faults::new();
        faults.inject(Endpoint::Authorize, Fault::IssWrong, Times::Next(1)).unwrap();
        assert!(faults.take(Endpoint::Authorize).fault.is_none());
        assert!(faults.take(Endpoint::Userinfo).fault.is_none());
        assert_eq!(faults.take(Endpoint::Decision).fault, Some(Fault::IssWrong));
    }

    #[test]
    fn a_delay_goes_together_with_another_fault() {
        let faults = Faults::new();
        faults
            .inject(Endpoint::Refresh, Fault::Delay { delay_ms: 5 }, Times::UntilCleared)
            .unwrap();
        faults.inject(Endpoint::Refresh, Fault::Hang, Times::Next(1)).unwrap();
        let first = faults.take(Endpoint::Refresh);
        assert_eq!((first.delay_ms, first.fault), (Some(5), Some(Fault::Hang)));
        let second = faults.take(Endpoint::Refresh);
        assert_eq!((second.delay_ms, second.fault), (Some(5), None));
    }

    #[test]
    fn a_fault_of_no_consequence_is_refused() {
        let faults = Faults::new();
        let refused = faults.inject(Endpoint::Jwks, Fault::NoRefreshToken, Times::UntilCleared);
        assert!(matches!(refused, Err(InvalidFault::NoConsequence { .. })), "{refused:?}");
        let refused = faults.inject(Endpoint::Jwks, Fault::status(99), Times::UntilCleared);
        assert!(matches!(refused, Err(InvalidFault::Unsendable { .. })), "{refused:?}");
        assert_eq!(faults.active(), []);
    }

    #[test]
    fn a_kind_is_named_as_in_json() {
        for fault in [
            Fault::status(500),
            Fault::rate_limited(1),
            Fault::DropAfter,
            Fault::TruncatedJson,
            Fault::id_token(crate::fault::IdTokenFlaw::AlgNone),
            Fault::ExpiresIn { value: crate::fault::ExpiresIn::Zero },
        ] {
            let json = serde_json::to_value(&fault).unwrap();
            assert_eq!(json["kind"], fault.kind());
            assert_eq!(serde_json::from_value::<Fault>(json).unwrap(), fault);
        }
    }
}
