//! Access tokens that work: handed out while they are fresh, refreshed when they are not.

mod client_health;
mod flight;
mod freshness;
mod refresh;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};

use self::{
    client_health::ClientHealth,
    flight::{Flights, Urgency},
    freshness::{Freshness, freshness},
};
use super::{Identities, Providers, Revocations, Tasks};
use crate::{
    Error,
    error::DEFAULT_RETRY,
    identity::{IdentityStatus, Invalid, InvalidReason},
    ids::IdentityId,
    ports::{
        BackOff, Clock, CredentialsRepository, FailureClass, RepositoryError, StoredCredentials,
    },
    secret::Secret,
};

/// Hands out access tokens and keeps them fresh: the refresh protocol of `docs/architecture.md`.
///
/// A clone shares what is under way.
#[derive(Clone)]
pub struct Tokens {
    credentials: Arc<dyn CredentialsRepository>,
    providers: Arc<Providers>,
    identities: Arc<Identities>,
    /// Ends a fresh grant whose identity went away meanwhile.
    revocations: Arc<Revocations>,
    clock: Arc<dyn Clock>,
    tasks: Tasks,
    settings: Arc<TokenSettings>,
    flights: Flights,
    client_health: ClientHealth,
}

/// What the operator decided about refreshing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    /// A token that expires within this time is refreshed first; for a token that lives shorter
    /// than four times this, a quarter of its life.
    pub margin: Duration,
    /// Longest that a provider may take to answer one call. Must not be shorter than what the
    /// connectors' own deadlines add up to in one call: a call that is cut off after the request
    /// left loses a rotated token. The lease is a little over three times this: one
    /// call, a look whether the provider answers, and the one careful retry.
    pub call_timeout: Duration,
    /// Most calls to one provider instance at a time, in this process.
    pub concurrency_per_provider: usize,
    /// The name of this replica, in leases and events.
    pub replica: String,
}

impl TokenSettings {
    /// How long a lease is held at most, unless it is given back before.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.call_timeout * 3 + Duration::from_secs(2)
    }
}

/// What a caller needs of a token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenNeed {
    /// Refresh first if it expires within this time. More than nine tenths of the token's life
    /// is taken as that, so that a long wish does not refresh at every call.
    pub min_ttl: Duration,
    /// What must have been granted.
    pub scopes: Vec<String>,
}

/// An access token, for one caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedToken {
    /// Whose account it opens.
    pub identity_id: IdentityId,
    /// The token.
    pub access_token: Secret,
    /// How it is presented; `Bearer` when the provider did not say.
    pub token_type: String,
    /// When it stops working; `None` when unknown.
    pub expires_at: Option<DateTime<Utc>>,
    /// What was granted.
    pub scopes: Vec<String>,
}

/// The ports and services that [`Tokens`] works with.
pub struct TokenPorts {
    /// Where credentials are kept.
    pub credentials: Arc<dyn CredentialsRepository>,
    /// How providers are reached.
    pub providers: Arc<Providers>,
    /// Whose accounts are refreshed; ends a fresh grant whose identity went away meanwhile.
    pub identities: Arc<Identities>,
    /// Now.
    pub clock: Arc<dyn Clock>,
    /// Keeps a refresh going when its caller leaves.
    pub tasks: Tasks,
}

impl Tokens {
    /// A service with nothing under way.
    #[must_use]
    pub fn new(ports: TokenPorts, settings: TokenSettings) -> Self {
        let TokenPorts { credentials, providers, identities, clock, tasks } = ports;
        let flights = Flights::new(settings.concurrency_per_provider);
        Self {
            credentials,
            providers,
            revocations: Arc::clone(&identities.revocations),
            identities,
            clock,
            tasks,
            settings: Arc::new(settings),
            flights,
            client_health: ClientHealth::default(),
        }
    }

    /// An access token that works, refreshed first if it would expire within the margin.
    ///
    /// While a refresh fails for a reason that may pass, a token that is still alive is answered.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::IdentityNotValid`] when the user must link again;
    /// [`Error::ProviderMisconfigured`] and [`Error::ProviderUnavailable`] when there is no token
    /// that works and no new one to be had now; [`Error::InvalidRequest`] naming `scopes` when
    /// the grant does not cover them.
    pub async fn issue(&self, id: IdentityId, need: &TokenNeed) -> Result<IssuedToken, Error> {
        let stored = self.credentials.find(id).await?.ok_or(Error::NotFound("identity"))?;
        check_valid(&stored)?;
        let now = self.clock.now();
        match freshness(&stored, need.min_ttl, self.settings.margin, now) {
            Freshness::Fresh => issued(&stored, need),
            Freshness::Alive if is_backing_off(&stored, now) => issued(&stored, need),
            Freshness::Alive => match self.renew(id, stored.generation, Urgency::Usual).await {
                Ok(renewed) => issued(&renewed, need),
                // It may pass, or there is nothing to refresh with: what is alive serves until it
                // ends.
                Err(
                    Error::ProviderUnavailable { .. }
                    | Error::ProviderMisconfigured { .. }
                    | Error::Repository(_)
                    | Error::IdentityNotValid { reason: None, .. },
                ) => issued(&stored, need),
                Err(error) => Err(error),
            },
            Freshness::Dead => {
                issued(&*self.renew(id, stored.generation, Urgency::Usual).await?, need)
            }
        }
    }

    /// Refreshes now, however fresh the token is, and without waiting for the end of a back-off
    /// that began because the operator had to act.
    ///
    /// # Errors
    ///
    /// As [`issue`](Self::issue); the token that was there stays if it is alive.
    pub async fn refresh(&self, id: IdentityId) -> Result<(), Error> {
        let stored = self.credentials.find(id).await?.ok_or(Error::NotFound("identity"))?;
        check_valid(&stored)?;
        self.renew(id, stored.generation, Urgency::Forced).await.map(drop)
    }
}

fn is_backing_off(stored: &StoredCredentials, now: DateTime<Utc>) -> bool {
    stored.back_off.as_ref().is_some_and(|it| now < it.until)
}

fn check_valid(stored: &StoredCredentials) -> Result<(), Error> {
    if stored.status == IdentityStatus::Invalid {
        Err(not_valid(stored.invalid.as_ref()))
    } else {
        Ok(())
    }
}

/// What a caller is told of an invalid identity.
fn not_valid(invalid: Option<&Invalid>) -> Error {
    let reason = invalid.map(|it| it.reason);
    let detail = match reason {
        Some(InvalidReason::GrantRejected) => "the provider refused the refresh token",
        Some(InvalidReason::NoRefreshToken) => {
            "the access token has expired and the provider gave no refresh token"
        }
        Some(InvalidReason::RotationInDoubt) => {
            "a refresh token was sent, the provider's answer was lost, and the retry did not help"
        }
        Some(InvalidReason::Imported) => "the system it was imported from had it as invalid",
        None => "the identity is marked invalid",
    };
    let since = invalid.map(|it| format!(" ({})", it.at.format("%Y-%m-%dT%H:%M:%SZ")));
    Error::IdentityNotValid { reason, detail: format!("{detail}{}", since.unwrap_or_default()) }
}

/// What a caller is told while a failed refresh backs off.
fn backing_off(back_off: &BackOff, now: DateTime<Utc>) -> Error {
    match back_off.class {
        FailureClass::Misconfigured => {
            Error::ProviderMisconfigured { detail: back_off.detail.clone() }
        }
        FailureClass::Unavailable => Error::ProviderUnavailable {
            detail: back_off.detail.clone(),
            retry_after: (back_off.until - now).to_std().unwrap_or(DEFAULT_RETRY),
        },
    }
}

fn issued(stored: &StoredCredentials, need: &TokenNeed) -> Result<IssuedToken, Error> {
    let none = || Error::IdentityNotValid {
        reason: None,
        detail: "the identity has no access token".to_owned(),
    };
    let credentials = stored.credentials.as_ref().ok_or_else(none)?;
    let access_token = credentials.access_token.clone().ok_or_else(none)?;
    let missing: Vec<_> = need
        .scopes
        .iter()
        .filter(|it| !credentials.scopes.contains(it))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        let problem = format!(
            "the user has not granted {}; start a link session that asks for them",
            missing.join(", ")
        );
        return Err(Error::invalid("scopes", problem));
    }
    Ok(IssuedToken {
        identity_id: stored.identity_id,
        access_token,
        token_type: credentials.token_type.clone().unwrap_or_else(|| "Bearer".to_owned()),
        expires_at: credentials.expires_at,
        scopes: credentials.scopes.clone(),
    })
}

/// One failure for everybody who waits for the same refresh.
#[derive(Clone, Debug)]
enum Shared {
    Domain(Arc<Error>),
}

impl From<Shared> for Error {
    fn from(Shared::Domain(error): Shared) -> Self {
        match &*error {
            Self::NotFound(what) => Self::NotFound(what),
            Self::IdentityNotValid { reason, detail } => {
                Self::IdentityNotValid { reason: *reason, detail: detail.clone() }
            }
            Self::ProviderMisconfigured { detail } => {
                Self::ProviderMisconfigured { detail: detail.clone() }
            }
            Self::ProviderUnavailable { detail, retry_after } => {
                Self::ProviderUnavailable { detail: detail.clone(), retry_after: *retry_after }
            }
            _ => Self::Repository(RepositoryError::Store(Box::new(SharedSource(error)))),
        }
    }
}

/// The source of a failure that several callers share.
#[derive(Debug, thiserror::Error)]
#[error("the shared refresh failed")]
struct SharedSource(#[source] Arc<Error>);
