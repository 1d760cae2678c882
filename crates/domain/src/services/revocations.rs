use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{Providers, Tasks};
use crate::{
    Error,
    identity::IdentityFilter,
    ids::RevocationId,
    page::PageRequest,
    ports::{
        AuthIdentityFilter, AuthIdentityRepository, ClaimedRevocation, Clock, Connector,
        ConnectorError, CredentialsRepository, IdentityRepository, NewRevocation, RepositoryError,
        Revocation, RevocationEnd, RevocationRepository,
    },
    revocation::{OrphanedGrant, QueuedRevocation},
};

/// Ends grants at their providers that nothing of ours owns any more: the one place where that is
/// done.
///
/// What takes a grant from its owner queues it in its own transaction; here it is claimed, tried,
/// and settled. A failure that may pass is tried again, with growing pauses, for
/// [`GIVE_UP_AFTER`].
#[derive(Clone)]
pub struct Revocations {
    /// The queue.
    pub queue: Arc<dyn RevocationRepository>,
    /// Tell whether the account is linked again.
    pub identities: Arc<dyn IdentityRepository>,
    /// Tell whether it has a grant again.
    pub credentials: Arc<dyn CredentialsRepository>,
    /// Tell whether it signs somebody in with a grant.
    pub auth_identities: Arc<dyn AuthIdentityRepository>,
    /// How providers are reached.
    pub providers: Arc<Providers>,
    /// Now.
    pub clock: Arc<dyn Clock>,
    /// Keeps attempts going when the caller leaves.
    pub tasks: Tasks,
    /// How long a provider may take to end a grant.
    pub timeout: Duration,
}

/// How long a revocation is tried before it is given up.
pub const GIVE_UP_AFTER: Duration = Duration::from_hours(72);
/// Between two attempts; doubled with each.
const PAUSE: (Duration, Duration) = (Duration::from_mins(1), Duration::from_hours(6));
/// Longest `Retry-After` of a provider that is taken at its word.
const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(24);

impl Revocations {
    /// Tries those that are due, up to `limit` at the same time, and tells how many there were.
    ///
    /// # Errors
    ///
    /// [`Error::Repository`] when none can be claimed; a failed attempt is no error.
    pub async fn pass(&self, limit: u16) -> Result<usize, Error> {
        let claimed = self.queue.claim_due(limit, self.claim()).await?;
        let attempts: Vec<_> = claimed
            .into_iter()
            .map(|it| {
                let this = self.clone();
                self.tasks.spawn(async move { this.attempt(it).await })
            })
            .collect();
        let count = attempts.len();
        for attempt in attempts {
            // One that panics runs out of its claim, and is tried again.
            let _ = attempt.await;
        }
        Ok(count)
    }

    /// Tries this one now, if nobody else is at it. However it ends, the queue knows.
    pub async fn try_now(&self, id: RevocationId) {
        let this = self.clone();
        let attempt = self.tasks.spawn(async move {
            match this.queue.claim(id, this.claim()).await {
                Ok(Some(claimed)) => this.attempt(claimed).await,
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(%error, revocation = %id, "a revocation could not be claimed");
                }
            }
        });
        // It waits in the queue otherwise.
        let _ = attempt.await;
    }

    /// Queues a grant that came when its identity was gone already, and tries it at once. The
    /// grant is held until it is in the queue.
    pub(super) async fn revoke_late(&self, new: NewRevocation) {
        let mut pause = Duration::from_millis(50);
        let queued = loop {
            match self.queue.queue(&new).await {
                Ok(queued) => break queued,
                Err(error) => {
                    tracing::error!(%error, owner = ?new.owner, "a late grant is not in the queue yet; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(2));
                }
            }
        };
        self.try_now(queued.id).await;
    }

    /// How long an attempt has the entry for itself: the call, and time to write down its end.
    fn claim(&self) -> Duration {
        self.timeout + Duration::from_secs(30)
    }

    async fn attempt(&self, claimed: ClaimedRevocation) {
        let ClaimedRevocation { queued, grant } = claimed;
        let end = match grant {
            Some(grant) => self.revoke(&queued, &grant).await,
            // Another replica may have the key that this one lacks.
            None => self.later(&queued, None, "the sealed grant does not open".to_owned()),
        };
        match self.queue.settle(&queued, &end).await {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(revocation = %queued.id, "a revocation took longer than its claim");
            }
            // The claim runs out and it is tried again: revoking twice is revoking once.
            Err(error) => {
                tracing::error!(%error, revocation = %queued.id, "could not write down a revocation");
            }
        }
    }

    async fn revoke(&self, queued: &QueuedRevocation, grant: &OrphanedGrant) -> RevocationEnd {
        match self.is_linked_again(queued).await {
            Ok(false) => {}
            Ok(true) => {
                let why = "the account is linked; ending this grant could end that of the link, \
                           so it was left to run out";
                return RevocationEnd::Failed(why.to_owned());
            }
            Err(error) => return self.later(queued, None, error.to_string()),
        }
        let connector = match self.connect(queued, grant).await {
            Ok(connector) => connector,
            Err(Error::NotFound(_)) => {
                return RevocationEnd::Failed("the provider instance is gone".to_owned());
            }
            Err(error) => return self.later(queued, None, error.to_string()),
        };
        if !connector.capabilities().revoke {
            return unsupported();
        }
        match timeout(self.timeout, connector.revoke(&grant.credentials)).await {
            Ok(Ok(Revocation::Revoked)) => RevocationEnd::Revoked,
            Ok(Ok(Revocation::Unsupported)) => unsupported(),
            // What the provider refuses opens nothing there: asking again changes nothing.
            Ok(Err(error @ ConnectorError::GrantRejected { .. })) => {
                RevocationEnd::Failed(error.to_string())
            }
            Ok(Err(error)) => {
                let retry_after = match &error {
                    ConnectorError::Unavailable { retry_after, .. } => *retry_after,
                    _ => None,
                };
                self.later(queued, retry_after, error.to_string())
            }
            Err(_) => self.later(queued, None, "the provider did not answer".to_owned()),
        }
    }

    /// Whether an identity, or an account for single sign-on, has a grant of the same account: by
    /// now, or still.
    async fn is_linked_again(&self, queued: &QueuedRevocation) -> Result<bool, RepositoryError> {
        Ok(self.has_identity(queued).await? || self.signs_somebody_in(queued).await?)
    }

    async fn signs_somebody_in(&self, queued: &QueuedRevocation) -> Result<bool, RepositoryError> {
        let same = AuthIdentityFilter {
            provider_id: Some(queued.provider_id),
            ident: Some(queued.external_id.clone()),
            ..AuthIdentityFilter::default()
        };
        let mut page = PageRequest { limit: 200, after: None };
        loop {
            let part = self.auth_identities.list(&same, page).await?;
            for account in part.items {
                match self.auth_identities.find_credentials(account.id).await {
                    Ok(None) => {}
                    // It has some, whatever they are.
                    Ok(Some(_)) | Err(RepositoryError::Unsealable { .. }) => return Ok(true),
                    Err(error) => return Err(error),
                }
            }
            let Some(after) = part.next else { return Ok(false) };
            page.after = Some(after);
        }
    }

    async fn has_identity(&self, queued: &QueuedRevocation) -> Result<bool, RepositoryError> {
        let same = IdentityFilter {
            provider_id: Some(queued.provider_id),
            external_id: Some(queued.external_id.clone()),
            ..IdentityFilter::default()
        };
        let found = self.identities.list(&same, PageRequest { limit: 1, after: None }).await?;
        let Some(identity) = found.items.first() else { return Ok(false) };
        match self.credentials.find(identity.id).await {
            Ok(stored) => Ok(stored.is_some_and(|it| it.credentials.is_some())),
            // It has some, whatever they are.
            Err(RepositoryError::Unsealable { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// What speaks to the provider: as it is configured now, or as it was when it was deleted.
    async fn connect(
        &self,
        queued: &QueuedRevocation,
        grant: &OrphanedGrant,
    ) -> Result<Arc<dyn Connector>, Error> {
        match (self.providers.connect(queued.provider_id).await, &grant.provider) {
            (Ok((_, connector)), _) => Ok(connector),
            (Err(Error::NotFound(_)), Some((provider, secrets))) => {
                let connector = self.providers.connectors.connect(provider, secrets);
                connector
                    .map_err(|error| Error::ProviderMisconfigured { detail: error.to_string() })
            }
            (Err(error), _) => Err(error),
        }
    }

    /// The next attempt, or the end of patience.
    fn later(
        &self,
        queued: &QueuedRevocation,
        retry_after: Option<Duration>,
        error: String,
    ) -> RevocationEnd {
        let pause = pause(queued, retry_after);
        let age = (self.clock.now() - queued.queued_at).to_std().unwrap_or_default();
        if age + pause > GIVE_UP_AFTER {
            return RevocationEnd::Failed(format!(
                "given up after {} attempts: {error}",
                queued.attempts
            ));
        }
        tracing::warn!(revocation = %queued.id, error, ?pause, "a revocation is tried again later");
        RevocationEnd::Later { pause, error }
    }
}

fn unsupported() -> RevocationEnd {
    let why = "the provider offers no revocation; end the grant there by hand";
    RevocationEnd::Failed(why.to_owned())
}

/// How long to wait after a failed attempt: twice as long each time, and as long as the provider
/// asks. Spread, so that the grants of one outage do not all come back in the same second; by the
/// entry, so that a run can be repeated exactly.
fn pause(queued: &QueuedRevocation, retry_after: Option<Duration>) -> Duration {
    let doubled = PAUSE.0 * 2_u32.saturating_pow(queued.attempts.saturating_sub(1).min(16));
    let own = doubled.min(PAUSE.1);
    let spread = queued.id.0.wrapping_mul(7919).wrapping_add(queued.attempts.into()).rem_euclid(50);
    let own = own + own * u32::try_from(spread).unwrap_or(0) / 100;
    retry_after.map_or(own, |asked| asked.min(LONGEST_RETRY_AFTER).max(own))
}
