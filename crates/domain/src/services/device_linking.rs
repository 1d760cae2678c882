use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use url::Url;

use super::{Providers, Tasks, linking::failure_of};
use crate::{
    Error,
    account::ExternalAccount,
    device_link::{ClaimedDeviceLink, DeviceLink, DeviceLinkEnd, NewDeviceLink},
    event::Actor,
    ids::{OrganizationId, ProviderId, UserId},
    link_evidence::LinkEvidence,
    link_session::LinkFailure,
    ports::{
        ConnectorError, DeviceLinkRepository, DevicePoll, Grant, IdentityRepository, Link,
        LinkOutcome, LinkOwner, RepositoryError, Sent,
    },
};

/// Links accounts that their users confirm on another device, for a product that has no browser on
/// this one ([RFC 8628](https://www.rfc-editor.org/rfc/rfc8628)).
///
/// The product shows the user an address and a code. Meanwhile the replicas ask the provider, each
/// device link by one of them at a time: who claims it in the store asks, and tells the store what
/// came of it. The account is linked with the answer, by the same rules as any other link. A grant that
/// comes when its device link is over is ended at the provider.
#[derive(Clone)]
pub struct DeviceLinking {
    /// Where device links are kept.
    pub links: Arc<dyn DeviceLinkRepository>,
    /// Where identities are kept.
    pub identities: Arc<dyn IdentityRepository>,
    /// How providers are reached.
    pub providers: Arc<Providers>,
    /// Keeps polls going when the caller leaves.
    pub tasks: Tasks,
    /// How long a provider may take to answer once.
    pub timeout: Duration,
}

/// Longest that a user is waited for, whatever the provider says.
pub const LONGEST_DEVICE_LINK: Duration = Duration::from_hours(1);
/// What "slow down" adds to the interval (RFC 8628 §3.5).
const SLOWER: Duration = Duration::from_secs(5);
/// Between two polls, at least and at most.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(10));

/// A device link to be started.
#[derive(Clone, Debug, PartialEq)]
pub struct StartDeviceLink {
    /// Whom to link.
    pub user_id: UserId,
    /// Where.
    pub provider_id: ProviderId,
    /// On whose behalf: what is linked is used by this organization from then on.
    pub organization_id: Option<OrganizationId>,
    /// Scopes instead of the configured ones; empty for those.
    pub scopes: Vec<String>,
    /// Who asks.
    pub actor: Actor,
}

/// A device link that was started, with what to show to the user. That is in this answer and
/// nowhere else.
#[derive(Clone, Debug, PartialEq)]
pub struct StartedDeviceLink {
    /// The link.
    pub link: DeviceLink,
    /// What the user types at the provider.
    pub user_code: String,
    /// Where.
    pub verification_uri: Url,
    /// The same with the code in it, if the provider has that.
    pub verification_uri_complete: Option<Url>,
}

impl DeviceLinking {
    /// Asks the provider for a code, and from then on what became of it.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] naming `provider_id`, which must have a device flow;
    /// [`Error::ProviderMisconfigured`] and [`Error::ProviderUnavailable`] as the provider answers.
    pub async fn start(&self, start: StartDeviceLink) -> Result<StartedDeviceLink, Error> {
        let StartDeviceLink { user_id, provider_id, organization_id, scopes, actor } = start;
        let connector = match self.providers.connect(provider_id).await {
            Ok((_, connector)) => connector,
            Err(Error::NotFound(_)) => {
                return Err(Error::invalid("provider_id", "there is no such identity provider"));
            }
            Err(error) => return Err(error),
        };
        if !connector.capabilities().device {
            let problem = "this provider has no device flow; start a link session instead";
            return Err(Error::invalid("provider_id", problem));
        }
        let asked = match timeout(self.timeout, connector.device_authorize(&scopes)).await {
            Ok(answer) => answer.map_err(refused)?,
            Err(_) => return Err(refused(silent())),
        };
        let new = NewDeviceLink {
            user_id,
            provider_id,
            organization_id,
            scopes,
            created_by: actor,
            device_code: asked.device_code,
            expires_in: asked.expires_in.min(LONGEST_DEVICE_LINK),
            interval: asked.interval.clamp(INTERVAL.0, INTERVAL.1),
        };
        let link = self.links.insert(&new).await?;
        Ok(StartedDeviceLink {
            link,
            user_code: asked.user_code,
            verification_uri: asked.verification_uri,
            verification_uri_complete: asked.verification_uri_complete,
        })
    }

    /// Asks what became of those that are due, up to `limit` at the same time, and tells how many
    /// there were.
    ///
    /// # Errors
    ///
    /// [`Error::Repository`] when none can be claimed; a poll that fails is no error.
    pub async fn pass(&self, limit: u16) -> Result<usize, Error> {
        let claimed = self.links.claim_due(limit, self.claim()).await?;
        let polls: Vec<_> = claimed
            .into_iter()
            .map(|it| {
                let this = self.clone();
                // A grant that was given must be linked, also over a shutdown.
                self.tasks.spawn(async move { this.poll(it).await })
            })
            .collect();
        let count = polls.len();
        for poll in polls {
            // One that panics runs out of its claim, and the provider is asked again.
            let _ = poll.await;
        }
        Ok(count)
    }

    /// How long a poll has the link for itself: the answer, whose account it is, each within the
    /// provider's time, and time to write it down.
    fn claim(&self) -> Duration {
        self.timeout * 2 + Duration::from_secs(30)
    }

    async fn poll(&self, claimed: ClaimedDeviceLink) {
        let id = claimed.link.id;
        let told = match self.ask(&claimed).await {
            Next::Later { pause, interval } => {
                self.links.poll_later(claimed.claim, pause, interval).await
            }
            Next::End(end) => {
                tracing::info!(device_link = %id, ?end, "a device link has ended");
                self.links.end(claimed.claim, end).await
            }
            Next::Linked => Ok(true),
        };
        match told {
            Ok(true) => {}
            Ok(false) => {
                tracing::info!(device_link = %id, "a device link ended while it was polled");
            }
            // The claim runs out, and the provider is asked again.
            Err(error) => {
                tracing::error!(%error, device_link = %id, "could not write down a poll");
            }
        }
    }

    async fn ask(&self, claimed: &ClaimedDeviceLink) -> Next {
        let ClaimedDeviceLink { link, device_code, interval, .. } = claimed;
        let interval = *interval;
        let Some(code) = device_code else {
            // Another replica may have the key that this one lacks.
            tracing::error!(device_link = %link.id, "the sealed device code does not open");
            return Next::slower(interval);
        };
        let connector = match self.providers.connect(link.provider_id).await {
            Ok((_, connector)) => connector,
            Err(Error::NotFound(_) | Error::ProviderMisconfigured { .. }) => {
                return Next::failed(LinkFailure::ProviderMisconfigured);
            }
            Err(error) => {
                tracing::warn!(%error, device_link = %link.id, "the provider of a device link cannot be looked up");
                return Next::slower(interval);
            }
        };
        let answer = match timeout(self.timeout, connector.device_poll(code, &link.scopes)).await {
            Ok(answer) => answer,
            Err(_) => Err(silent()),
        };
        let grant = match answer {
            Ok(DevicePoll::Pending) => return Next::Later { pause: interval, interval },
            Ok(DevicePoll::SlowDown) => {
                let interval = (interval + SLOWER).min(INTERVAL.1);
                return Next::Later { pause: interval, interval };
            }
            Ok(DevicePoll::Granted(grant)) => *grant,
            Err(ConnectorError::GrantRejected { code }) if code == "expired_token" => {
                return Next::End(DeviceLinkEnd::Expired);
            }
            Err(ConnectorError::GrantRejected { code }) if code == "access_denied" => {
                return Next::failed(LinkFailure::AccessDenied);
            }
            Err(error) => {
                tracing::warn!(%error, device_link = %link.id, "the provider did not say what became of a device link");
                let ConnectorError::Unavailable { retry_after, .. } = error else {
                    return Next::failed(failure_of(&error));
                };
                let interval = slower(interval);
                let pause = retry_after.map_or(interval, |it| it.min(INTERVAL.1).max(interval));
                return Next::Later { pause, interval };
            }
        };
        let account = timeout(self.timeout, connector.build_identity(&grant)).await;
        match account.unwrap_or_else(|_| Err(silent())) {
            Ok(account) => self.link(claimed, grant, account).await,
            Err(error) => {
                tracing::warn!(%error, device_link = %link.id, "the provider did not vouch for an account");
                // The code was used up.
                Next::failed(failure_of(&error))
            }
        }
    }

    /// Links the account, unless it is somebody else's.
    async fn link(
        &self,
        claimed: &ClaimedDeviceLink,
        grant: Grant,
        account: ExternalAccount,
    ) -> Next {
        let ClaimedDeviceLink { link, claim, .. } = claimed;
        let link = Link {
            provider_id: link.provider_id,
            owner: LinkOwner::User(link.user_id.clone()),
            data: account.profile(),
            external_id: account.external_id,
            legacy_id: account.legacy_id,
            scopes: grant.credentials.scopes.clone(),
            evidence: LinkEvidence::of_device(&grant.credentials, &grant.claims),
            credentials: Some(grant.credentials),
            reattach: false,
            session: None,
            device_link: Some(*claim),
            actor: link.created_by.clone(),
        };
        let mut tries = 0;
        loop {
            tries += 1;
            match self.identities.link(&link).await {
                Ok(LinkOutcome::Taken(_)) => {
                    return Next::failed(LinkFailure::IdentityAlreadyLinked);
                }
                Ok(LinkOutcome::SessionUsed) => {
                    tracing::warn!(device_link = %claim.id, "a grant came when its device link was over; it is revoked");
                    return Next::Linked;
                }
                Ok(_) => return Next::Linked,
                Err(RepositoryError::NotFound) => {
                    return Next::failed(LinkFailure::ProviderMisconfigured);
                }
                Err(error) if tries == TRIES => {
                    tracing::error!(%error, device_link = %claim.id, "a grant could not be linked");
                    return Next::failed(LinkFailure::ProviderUnavailable);
                }
                // The provider gives the grant once.
                Err(error) => {
                    tracing::warn!(%error, device_link = %claim.id, "a grant is not linked yet; trying again");
                    tokio::time::sleep(Duration::from_millis(100 << tries)).await;
                }
            }
        }
    }
}

/// How often a grant is tried to be linked while the store does not answer.
const TRIES: u32 = 6;

/// What comes after a poll.
enum Next {
    /// Another one.
    Later { pause: Duration, interval: Duration },
    /// Nothing: nothing was linked.
    End(DeviceLinkEnd),
    /// Nothing: the store knows.
    Linked,
}

impl Next {
    fn failed(why: LinkFailure) -> Self {
        Self::End(DeviceLinkEnd::Failed(why))
    }

    fn slower(interval: Duration) -> Self {
        let interval = slower(interval);
        Self::Later { pause: interval, interval }
    }
}

/// After a poll without an answer the interval is doubled (RFC 8628 §3.5).
fn slower(interval: Duration) -> Duration {
    (interval * 2).clamp(INTERVAL.0, INTERVAL.1)
}

fn silent() -> ConnectorError {
    ConnectorError::Unavailable {
        detail: "it did not answer in time".to_owned(),
        retry_after: None,
        sent: Sent::Unknown,
    }
}

/// There is no identity yet whose grant could be rejected: what is, is our request.
fn refused(error: ConnectorError) -> Error {
    match error {
        ConnectorError::GrantRejected { code } => ConnectorError::ClientRejected { code }.into(),
        error => error.into(),
    }
}
