//! Two client secrets alive at once: which of them the provider knows.
//!
//! While a secret is being replaced at the provider, both are configured: `client_secret` and
//! `client_secret_next`. Nobody has to hit the moment at which the old one stops being good: the
//! one that worked last is sent, and when the provider answers `invalid_client`, the other.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest::{Context, SHA256};
use symbolon_domain::{ids::ProviderId, ports::ConnectorError, secret::Secret};

use crate::client::{Client, ClientAuthentication};

/// So many clients are remembered at most; then all are learned anew.
const MOST_CLIENTS: usize = 10_000;

/// How often each secret was accepted or rejected, by provider instance.
const METRIC: &str = "symbolon_provider_client_secret_total";

/// Which of two secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    /// `client_secret`.
    Current,
    /// `client_secret_next`.
    Next,
}

impl Which {
    pub(crate) fn other(self) -> Self {
        match self {
            Self::Current => Self::Next,
            Self::Next => Self::Current,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Next => "next",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Current => "client_secret",
            Self::Next => "client_secret_next",
        }
    }
}

/// What this process has learned of all clients that have two secrets: those at whose providers
/// the next one worked last. A clone is the same.
#[derive(Clone, Default)]
pub(crate) struct Learned(Arc<Mutex<HashSet<[u8; 32]>>>);

/// Which secret of one client worked last.
pub(crate) struct LastWorked {
    learned: Learned,
    /// Names the client with these very secrets: when one of them is changed, it begins anew.
    key: [u8; 32],
}

impl Learned {
    /// What is known of this client. `None` when there is nothing to choose from.
    pub(crate) fn of(&self, provider: Option<ProviderId>, client: &Client) -> Option<LastWorked> {
        let (current, next) = (client.authentication.secret()?, client.next_secret.as_ref()?);
        let mut context = Context::new(&SHA256);
        context.update(&provider.map_or(0, |it| it.0).to_be_bytes());
        for part in [client.issuer.as_str(), &client.client_id, current.expose(), next.expose()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
        let mut key = [0; 32];
        key.copy_from_slice(context.finish().as_ref());
        Some(LastWorked { learned: self.clone(), key })
    }
}

impl LastWorked {
    pub(crate) fn get(&self) -> Which {
        let learned = self.learned.0.lock().unwrap_or_else(PoisonError::into_inner);
        if learned.contains(&self.key) { Which::Next } else { Which::Current }
    }

    /// Remembers it; true when it was another one until now.
    pub(crate) fn set(&self, which: Which) -> bool {
        let mut learned = self.learned.0.lock().unwrap_or_else(PoisonError::into_inner);
        match which {
            Which::Current => learned.remove(&self.key),
            Which::Next => {
                if learned.len() >= MOST_CLIENTS {
                    learned.clear();
                }
                learned.insert(self.key)
            }
        }
    }
}

/// What an answer says about the secret that it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The provider knows us by it.
    Accepted,
    /// The provider does not know us by it. Authenticating the client comes before everything
    /// else ([RFC 6749 §5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2):
    /// `invalid_client` is "client authentication failed"), so that it has looked at no code and
    /// no token: sending them once more, with the other secret, is their first use.
    Rejected,
    /// Nothing.
    Silent,
}

impl Verdict {
    /// Only the registered code counts; a provider's rules call its own words for it by that
    /// name. A bare 401 may be anybody's, a proxy's for example, and
    /// `unauthorized_client` is about a client that is known.
    pub(crate) fn of<T>(read: &Result<T, ConnectorError>) -> Self {
        match read {
            Ok(_) | Err(ConnectorError::GrantRejected { .. }) => Self::Accepted,
            Err(ConnectorError::ClientRejected { code }) if code == "invalid_client" => {
                Self::Rejected
            }
            Err(_) => Self::Silent,
        }
    }
}

/// Counts what became of a secret. Of a connector that belongs to no instance, nobody asks.
pub(crate) fn count(provider: Option<ProviderId>, which: Which, verdict: Verdict) {
    let outcome = match verdict {
        Verdict::Accepted => "accepted",
        Verdict::Rejected => "rejected",
        Verdict::Silent => return,
    };
    let Some(provider) = provider else { return };
    metrics::counter!(
        METRIC,
        "provider_id" => provider.to_string(), "secret" => which.as_str(), "outcome" => outcome
    )
    .increment(1);
}

/// Tells the operator that the provider has changed its mind.
pub(crate) fn tell_changed(provider: Option<ProviderId>, client: &Client, works: Which) {
    let provider = provider.map(|it| it.to_string()).unwrap_or_default();
    let (works_key, rejected) = (works.key(), works.other().key());
    let what_to_do = match works {
        Which::Next => "make it the client_secret, and remove client_secret_next",
        Which::Current => "the next one is not good at the provider yet, or not any more",
    };
    tracing::warn!(
        provider,
        issuer = client.issuer.as_str(),
        "the provider rejects {rejected} and accepts {works_key}: {what_to_do}"
    );
}

impl Client {
    /// How we prove to be the client, with this one of its secrets.
    pub(crate) fn authentication(&self, which: Which) -> ClientAuthentication {
        match (which, &self.next_secret) {
            (Which::Next, Some(secret)) => self.authentication.with(secret),
            _ => self.authentication.clone(),
        }
    }

    /// All that is not to be shown.
    pub(crate) fn secrets(&self) -> impl Iterator<Item = &Secret> {
        self.authentication.secret().into_iter().chain(&self.next_secret)
    }
}

#[cfg(test)]
mod tests {
    use symbolon_domain::ports::Sent;

    use super::*;

    #[test]
    fn only_the_registered_code_speaks_against_a_secret() {
        let client = |code: &str| {
            Verdict::of::<()>(&Err(ConnectorError::ClientRejected { code: code.to_owned() }))
        };
        assert_eq!(client("invalid_client"), Verdict::Rejected);
        for code in ["unauthorized_client", "http_401", "invalid_request", "unrecognized_error"] {
            assert_eq!(client(code), Verdict::Silent, "{code}");
        }
        assert_eq!(Verdict::of(&Ok(())), Verdict::Accepted);
        let grant = ConnectorError::GrantRejected { code: "invalid_grant".to_owned() };
        assert_eq!(Verdict::of::<()>(&Err(grant)), Verdict::Accepted);
        let lost = ConnectorError::Unavailable {
            detail: String::new(),
            retry_after: None,
            sent: Sent::Unknown,
        };
        assert_eq!(Verdict::of::<()>(&Err(lost)), Verdict::Silent);
    }
}
