//! Access tokens that work: handed out while they are fresh, refreshed when they are not.

mod circuit;
mod client_health;
mod flight;
mod freshness;
mod refresh;

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use url::Url;

use self::{
    circuit::Circuits,
    client_health::ClientHealth,
    flight::{Flights, Urgency},
    freshness::{Freshness, freshness},
    refresh::Stale,
};
use super::{Identities, Providers, Revocations, Tasks};
use crate::{
    Error,
    credentials::DPOP,
    error::DEFAULT_RETRY,
    identity::{IdentityStatus, Invalid, InvalidReason},
    ids::IdentityId,
    ports::{
        BackOff, Clock, CredentialsRepository, DueRefresh, FailureClass, RepositoryError,
        StoredCredentials,
    },
    secret::{Secret, SecretHash},
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
    circuits: Circuits,
    client_health: ClientHealth,
}

/// Younger than this, an access token that is reported as rejected is not replaced.
const NEW_TOKEN: Duration = Duration::from_secs(30);

/// What became of an access token that a provider rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    /// It is not what would be handed out: ask for the token that is.
    AlreadyReplaced,
    /// A new one is there.
    Replaced,
}

impl Rejected {
    /// The outcome as it is sent.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AlreadyReplaced => "already_replaced",
            Self::Replaced => "replaced",
        }
    }
}

/// What the operator decided about refreshing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenSettings {
    /// A token that expires within this time is refreshed first; for a token that lives shorter
    /// than four times this, a quarter of its life.
    pub margin: Duration,
    /// Longest that a provider may take to answer one call. Must not be shorter than what the
    /// connectors' own deadlines add up to in one call: a call that is cut off after the request
    /// left loses a rotated token. The lease is a little over four times this: one
    /// call, a look whether the provider answers, a pause, and the one careful retry.
    pub call_timeout: Duration,
    /// Most calls to one provider instance at a time, in this process.
    pub concurrency_per_provider: usize,
    /// The name of this replica, in leases and events.
    pub replica: String,
    /// Where browsers reach this service: some providers want to see the redirect URI again when
    /// they are asked for new tokens. Without it they are not shown one.
    pub public_url: Option<Url>,
}

impl TokenSettings {
    /// How long a lease is held at most, unless it is given back before.
    #[must_use]
    pub fn lease(&self) -> Duration {
        self.call_timeout * 4 + Duration::from_secs(5)
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
    /// How it is presented; `Bearer` when the provider did not say. One that is bound to a key is
    /// [`DPOP`], with a proof for each request.
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
            circuits: Circuits::default(),
            client_health: ClientHealth::default(),
        }
    }

    /// The access token that is there, however fresh, of credentials that were read just now, and
    /// the key that it is bound to.
    ///
    /// # Errors
    ///
    /// [`Error::IdentityNotValid`] also where there is no token; [`Error::ProviderMisconfigured`]
    /// as from [`issue`](Self::issue); [`Error::InvalidRequest`] for one that is bound to none.
    pub(super) fn bound_token(stored: &StoredCredentials) -> Result<(IssuedToken, Secret), Error> {
        check_valid(stored)?;
        let token = issued(stored, &TokenNeed::default())?;
        let key = stored.credentials.as_ref().and_then(|it| it.dpop_key.clone());
        let key = key.ok_or_else(|| {
            let problem = "its access token is bound to no key of ours, and needs no proof: present \
                           it as its token_type says";
            Error::invalid("id", problem)
        })?;
        Ok((token, key))
    }

    /// An access token that works, refreshed first if it would expire within the margin.
    ///
    /// A token that the provider did not bind to our key, although it is to, is handed to nobody.
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
        Ok(self.issue_stored(&stored, need).await?.0)
    }

    /// The same for credentials that were read just now; with the token comes the generation that
    /// it is of, later than what was read where it was refreshed first.
    ///
    /// # Errors
    ///
    /// As [`issue`](Self::issue).
    pub(super) async fn issue_stored(
        &self,
        stored: &StoredCredentials,
        need: &TokenNeed,
    ) -> Result<(IssuedToken, i64), Error> {
        check_valid(stored)?;
        let now = self.clock.now();
        let issued = |it: &StoredCredentials| Ok((issued(it, need)?, it.generation));
        match freshness(stored, need.min_ttl, self.settings.margin, now) {
            Freshness::Fresh => issued(stored),
            Freshness::Alive if is_backing_off(stored, now) => issued(stored),
            Freshness::Alive => match self.renew_alive(stored).await {
                Ok(renewed) => issued(&renewed),
                // It may pass, or there is nothing to refresh with: what is alive serves until it
                // ends, which may have been while we waited.
                Err(
                    Error::ProviderUnavailable { .. }
                    | Error::ProviderMisconfigured { .. }
                    | Error::Repository(_)
                    | Error::IdentityNotValid { reason: None, .. },
                ) if self.is_alive(stored) => issued(stored),
                Err(error) => Err(error),
            },
            Freshness::Dead => issued(&*self.renew_alive(stored).await?),
        }
    }

    /// Credentials of a later generation with an access token that works. A short-lived one may
    /// have expired before it was safe, or before this caller was told of it.
    async fn renew_alive(
        &self,
        stored: &StoredCredentials,
    ) -> Result<Arc<StoredCredentials>, Error> {
        let mut renewed = self.renew(stored, Urgency::Usual).await?;
        if !self.is_alive(&renewed) {
            renewed = self.renew(&renewed, Urgency::Usual).await?;
        }
        check_valid(&renewed)?;
        if self.is_alive(&renewed) {
            return Ok(renewed);
        }
        Err(Error::ProviderUnavailable {
            detail: "the new access token had expired already when it could be handed out".into(),
            retry_after: DEFAULT_RETRY,
        })
    }

    fn is_alive(&self, stored: &StoredCredentials) -> bool {
        stored.credentials.as_ref().is_some_and(|it| it.is_alive(self.clock.now()))
    }

    /// Refreshes now, however fresh the token is, and without waiting for the end of a back-off
    /// that began because the operator had to act.
    ///
    /// # Errors
    ///
    /// As [`issue`](Self::issue); the token that was there stays if it is alive.
    pub async fn refresh(&self, id: IdentityId) -> Result<(), Error> {
        let stored = self.credentials.find(id).await?.ok_or(Error::NotFound("identity"))?;
        self.renew(&stored, Urgency::Forced).await.map(drop)
    }

    /// Refreshes what is due, with nobody asking for a token. With other credentials in place there
    /// is nothing to do, and they count as refreshed.
    ///
    /// # Errors
    ///
    /// As [`issue`](Self::issue).
    pub async fn refresh_ahead(&self, due: &DueRefresh) -> Result<(), Error> {
        let DueRefresh { identity_id, provider_id, generation, .. } = *due;
        self.replace(Stale { identity_id, provider_id, generation }, Urgency::Usual).await.map(drop)
    }

    /// A provider refused an access token before its time. The caller names it by its SHA-256; if
    /// it is the one that would be handed out, its refresh token is used once: what comes replaces
    /// it, and a refused one, or none at all, makes the identity invalid.
    ///
    /// # Errors
    ///
    /// As [`refresh`](Self::refresh), without passing over any back-off; [`Error::TooSoon`] for a
    /// token that was obtained moments ago: a provider that refuses every new one is not asked for
    /// another each time.
    pub(super) async fn replace_rejected(
        &self,
        stored: &StoredCredentials,
        rejected: &SecretHash,
    ) -> Result<Rejected, Error> {
        check_valid(stored)?;
        let current = stored.credentials.as_ref().and_then(|it| it.access_token.as_ref());
        if !current.is_some_and(|it| rejected.matches(it.expose())) {
            return Ok(Rejected::AlreadyReplaced);
        }
        let obtained = stored.credentials.as_ref().and_then(|it| it.obtained_at);
        let age = obtained.and_then(|at| (self.clock.now() - at).to_std().ok());
        if let Some(age) = age
            && age < NEW_TOKEN
        {
            return Err(Error::TooSoon {
                detail: format!(
                    "the access token is {} seconds old; if the provider still refuses it, look at \
                     what the call asks for",
                    age.as_secs()
                ),
                retry_after: NEW_TOKEN.saturating_sub(age),
            });
        }
        self.renew(stored, Urgency::Rejected).await?;
        Ok(Rejected::Replaced)
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
            "the access token has expired or was refused, and the provider gave no refresh token"
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
    let mut token_type = credentials.token_type.clone().unwrap_or_else(|| "Bearer".to_owned());
    if credentials.has_lost_its_key() {
        // Whoever steals it can use it: what was asked for is just that nobody can.
        let detail = "the provider issued an access token that is not bound to our key, although \
                      this grant is; have it bind our client's tokens again (DPoP), then refresh";
        return Err(Error::ProviderMisconfigured { detail: detail.to_owned() });
    }
    if credentials.dpop_key.is_some() {
        DPOP.clone_into(&mut token_type);
    }
    Ok(IssuedToken {
        identity_id: stored.identity_id,
        access_token,
        token_type,
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
            Self::Repository(RepositoryError::Unavailable(_)) => {
                Self::Repository(RepositoryError::Unavailable(Box::new(SharedSource(error))))
            }
            _ => Self::Repository(RepositoryError::Store(Box::new(SharedSource(error)))),
        }
    }
}

/// The source of a failure that several callers share.
#[derive(Debug, thiserror::Error)]
#[error("the shared refresh failed")]
struct SharedSource(#[source] Arc<Error>);
