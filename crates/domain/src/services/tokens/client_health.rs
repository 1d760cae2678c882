//! Whether a provider takes our client: told when that changes, not at every refresh.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};

use super::{Tokens, refresh::chain};
use crate::{
    credentials::Credentials,
    event::{Actor, EventKind, NewEvent},
    ids::ProviderId,
    ports::{ConnectorError, RepositoryError},
};

/// The code that says by itself that our client is not authenticated (RFC 6749 §5.2). Any other
/// may be about a single request or scope.
const CERTAIN: &str = "invalid_client";
/// So many rejections with another code, and nothing accepted in between, say the same.
const IN_A_ROW: u32 = 3;
/// After this time it is looked up again what the log says: another replica may have written it.
const LOOK_AGAIN: TimeDelta = TimeDelta::minutes(10);

/// 1 while this replica has its client rejected by the provider instance, else 0.
const METRIC: &str = "symbolon_provider_client_rejected";

#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    Accepted,
    /// With the code that the provider gave.
    Rejected(String),
}

impl Standing {
    fn kind(&self) -> EventKind {
        match self {
            Self::Accepted => EventKind::ProviderClientAccepted,
            Self::Rejected(_) => EventKind::ProviderClientRejected,
        }
    }
}

/// What is known of one provider instance.
#[derive(Debug, Default)]
struct Known {
    /// What its answers say; `None` before the first that says something.
    now: Option<Standing>,
    /// Rejections with an uncertain code since it accepted us.
    in_a_row: u32,
    /// What the log last said, and when that was looked up.
    logged: Option<(EventKind, DateTime<Utc>)>,
    /// Somebody is writing.
    telling: bool,
}

/// What this process knows of all providers. A clone is the same.
#[derive(Clone, Debug, Default)]
pub(super) struct ClientHealth(Arc<Mutex<HashMap<ProviderId, Known>>>);

impl ClientHealth {
    fn with<T>(&self, id: ProviderId, act: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        act(known.entry(id).or_default())
    }
}

impl Known {
    /// Takes note of an answer; says what the standing has become if it has changed.
    fn note(&mut self, answer: Standing) -> Option<Standing> {
        let answer = match answer {
            Standing::Accepted => {
                self.in_a_row = 0;
                answer
            }
            Standing::Rejected(code) => {
                self.in_a_row = self.in_a_row.saturating_add(1);
                if code != CERTAIN && self.in_a_row < IN_A_ROW {
                    return None;
                }
                Standing::Rejected(code)
            }
        };
        let kind = |it: &Standing| it.kind();
        let changed = self.now.as_ref().map(kind) != Some(answer.kind());
        // The first code stays: it began with that.
        if changed {
            self.now = Some(answer);
        }
        self.now.clone().filter(|_| changed)
    }

    /// Whether the log has to be looked at.
    fn is_due(&self, now: DateTime<Utc>) -> bool {
        match (&self.now, &self.logged) {
            (None, _) => false,
            (Some(_), None) => true,
            (Some(standing), Some((logged, at))) => {
                *logged != standing.kind() || now - *at >= LOOK_AGAIN
            }
        }
    }
}

impl Tokens {
    /// Takes note of what an answer to a refresh says about our client. When that changes it is
    /// told: by a log line and a metric here, by an event in the background.
    pub(super) fn note_client(
        &self,
        id: ProviderId,
        answer: Result<&Credentials, &ConnectorError>,
    ) {
        let standing = match answer {
            // Whoever looks at the grant has accepted the client (RFC 6749 §3.2.1).
            Ok(_) | Err(ConnectorError::GrantRejected { .. }) => Standing::Accepted,
            Err(ConnectorError::ClientRejected { code }) => Standing::Rejected(code.clone()),
            Err(_) => return,
        };
        let now = self.clock.now();
        let (changed, tell) = self.client_health.with(id, |known| {
            let changed = known.note(standing);
            let tell = !known.telling && known.is_due(now);
            known.telling |= tell;
            (changed, tell)
        });
        if let Some(standing) = changed {
            show(id, &standing);
        }
        if tell {
            let this = self.clone();
            self.tasks.spawn(async move { this.tell_of_client(id).await });
        }
    }

    /// Brings the log up to date. One at a time for each provider, so that the events of this
    /// process are in order.
    async fn tell_of_client(&self, id: ProviderId) {
        loop {
            let now = self.clock.now();
            let standing = self.client_health.with(id, |known| {
                let due = known.now.clone().filter(|_| known.is_due(now));
                known.telling = due.is_some();
                due
            });
            let Some(standing) = standing else { return };
            let logged = match self.log_client(id, &standing).await {
                Ok(()) => Some((standing.kind(), now)),
                Err(error) => {
                    tracing::warn!(provider = %id, error = %chain(&error), "whether a provider takes our client could not be written to the events; tried again with its next answer");
                    None
                }
            };
            let failed = logged.is_none();
            self.client_health.with(id, |known| {
                known.logged = logged;
                known.telling = !failed;
            });
            if failed {
                return;
            }
        }
    }

    /// Appends what the standing has become, unless that is what the log says already: another
    /// replica, or this one before it was started anew, may have told.
    async fn log_client(&self, id: ProviderId, standing: &Standing) -> Result<(), RepositoryError> {
        let mut event =
            NewEvent::new(standing.kind(), &Actor::replica(self.settings.replica.clone()));
        event.provider_id = Some(id);
        if let Standing::Rejected(code) = standing {
            event.detail.insert("error".to_owned(), code.as_str().into());
        }
        let (opposite, may_come_first) = match standing {
            Standing::Rejected(_) => (EventKind::ProviderClientAccepted, true),
            // That a client is accepted is worth an event only after it was not.
            Standing::Accepted => (EventKind::ProviderClientRejected, false),
        };
        self.identities.events.append_turn(&event, opposite, may_come_first).await.map(drop)
    }
}

fn show(id: ProviderId, standing: &Standing) {
    let gauge = metrics::gauge!(METRIC, "provider_id" => id.to_string());
    match standing {
        Standing::Rejected(code) => {
            gauge.set(1.0);
            tracing::error!(
                provider = %id, %code,
                "a provider rejects our client: compare client id, client secret and redirect URI \
                 with the provider's console, then update the provider; identities stay valid and \
                 are refreshed again once it accepts us"
            );
        }
        Standing::Accepted => {
            gauge.set(0.0);
            tracing::info!(provider = %id, "a provider accepts our client");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(code: &str) -> Standing {
        Standing::Rejected(code.to_owned())
    }

    #[test]
    fn the_certain_code_counts_at_once_and_another_after_three_in_a_row() {
        let mut known = Known::default();
        assert_eq!(known.note(rejected("invalid_client")), Some(rejected("invalid_client")));
        assert_eq!(known.note(rejected("invalid_client")), None);

        let mut known = Known::default();
        assert_eq!(known.note(Standing::Accepted), Some(Standing::Accepted));
        for _ in 0..3 {
            assert_eq!(known.note(rejected("invalid_scope")), None);
            assert_eq!(known.note(rejected("invalid_scope")), None);
            assert_eq!(known.note(Standing::Accepted), None);
        }
        assert_eq!(known.note(rejected("invalid_scope")), None);
        assert_eq!(known.note(rejected("http_401")), None);
        assert_eq!(known.note(rejected("invalid_scope")), Some(rejected("invalid_scope")));
        assert_eq!(known.note(Standing::Accepted), Some(Standing::Accepted));
    }
}
