//! The refresh protocol: at most one use of a refresh token, over all replicas, through crashes.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, sleep, timeout};

use super::{
    Shared, Tokens, backing_off, check_valid,
    flight::{Seat, Urgency},
    is_backing_off, not_valid,
};
use crate::{
    Error,
    credentials::Credentials,
    error::DEFAULT_RETRY,
    event::Actor,
    identity::{Identity, IdentityStatus, Invalid, InvalidReason},
    identity_provider::{IdentityProvider, ProviderSecrets, Rotation},
    ids::{IdentityId, ProviderId},
    ports::{
        BackOff, Connector, ConnectorError, FailureClass, Lease, LeaseOutcome, Leased, LeasedWrite,
        NewRevocation, RefreshEnd, RefreshRequest, RepositoryError, Sent, StoredCredentials,
    },
    revocation::{GrantOwner, OrphanedGrant},
    services::linking::redirect_uri,
};

/// Longest that a holder waits before it looks again whether the lease is free; a notification
/// wakes it sooner.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Between two tries of a write that failed.
const WRITE_AGAIN: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// How long a holder waits before it sends what an earlier one has sent already: that one may have
/// the answer in its hands and a database that was away until now. Longer than the longest pause
/// between its tries.
const LATE_COMMIT: Duration = Duration::from_secs(3);
/// Between two looks, meanwhile, whether the database answers.
const STILL_THERE: Duration = Duration::from_millis(500);
/// Between two refreshes of which the first failed; doubled with each failure.
const BACK_OFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));
/// Longest `Retry-After` of a provider that is taken at its word.
pub(super) const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);

/// How one holder's part in a refresh ended.
enum Part {
    /// These are there now: the holder has brought them.
    Renewed(Box<StoredCredentials>),
    /// Newer credentials are there, or somebody else's attempt is: look again.
    LookAgain,
    /// Over: this failure is for everybody who waits.
    Failed(Error),
}

/// Credentials that are to be replaced.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stale {
    pub(super) identity_id: IdentityId,
    pub(super) provider_id: ProviderId,
    pub(super) generation: i64,
}

/// The right to send, in this process.
struct Held {
    lease: Lease,
    /// Nothing is sent whose answer could come later than this: by then others may be at it.
    until: Instant,
}

/// A write under a lease that is tried until it is through: what is known of a refresh token that
/// was sent must not be lost to a database that is away for a moment.
enum Write<'a> {
    /// New credentials in place of those that were read.
    Commit(&'a StoredCredentials, &'a Credentials),
    End(RefreshEnd),
    Release,
}

/// What came between a refresh and its commit.
enum Overtaken {
    /// The row names another account, or the same without a grant: nobody owns what the refresh of
    /// the old one brought.
    AnotherAccount,
    /// The same account was linked again, and the link brought no refresh token: the one that was
    /// sent is still there, with these credentials, and only our answer has the next.
    Link(Box<StoredCredentials>),
    /// Nothing of ours is needed any more.
    NewerCredentials,
}

/// What is refreshed, and all that is needed to end the new grant should nobody want it.
struct Refreshed {
    identity: Identity,
    provider: (IdentityProvider, ProviderSecrets),
    request: RefreshRequest,
}

impl Write<'_> {
    fn name(&self) -> &'static str {
        match self {
            Self::Commit(..) => "commit",
            Self::End(_) => "end",
            Self::Release => "release",
        }
    }
}

impl Tokens {
    /// Replaces credentials that were read just now, unless a failed try is too short a while ago.
    ///
    /// Answers credentials of a later generation.
    pub(super) async fn renew(
        &self,
        stored: &StoredCredentials,
        urgency: Urgency,
    ) -> Result<Arc<StoredCredentials>, Error> {
        self.check_may_try(stored, urgency)?;
        let (identity_id, provider_id) = (stored.identity_id, stored.provider_id);
        self.replace(Stale { identity_id, provider_id, generation: stored.generation }, urgency)
            .await
    }

    /// Replaces credentials that nobody has looked at just now. Callers in this process share one
    /// attempt; the attempt goes on when they leave.
    pub(super) async fn replace(
        &self,
        stale: Stale,
        urgency: Urgency,
    ) -> Result<Arc<StoredCredentials>, Error> {
        // A flight that took off earlier may land with just what this caller has seen already.
        loop {
            let mut flight = match self.flights.board(stale.identity_id, urgency) {
                Seat::Passenger(flight) => flight,
                Seat::Pilot(pilot) => {
                    let flight = pilot.passenger();
                    let this = self.clone();
                    self.tasks.spawn(async move {
                        let landing = this.fly(stale, urgency).await;
                        pilot.land(landing.map_err(|error| Shared::Domain(Arc::new(error))));
                    });
                    flight
                }
            };
            // Longer than a lease of somebody who crashed and an attempt of our own.
            let patience = self.settings.lease() * 2 + Duration::from_secs(5);
            let landed = timeout(patience, flight.wait_for(Option::is_some)).await;
            let landing = match landed {
                Ok(Ok(landing)) => landing.clone(),
                Ok(Err(_)) | Err(_) => None,
            };
            match landing {
                Some(Ok(renewed)) if renewed.generation > stale.generation => return Ok(renewed),
                Some(Ok(_)) => {}
                Some(Err(shared)) => return Err(shared.into()),
                None => return Err(in_progress()),
            }
        }
    }

    /// Waits for the lease, and refreshes under it, until the generation has moved or it is clear
    /// that it won't.
    async fn fly(&self, stale: Stale, urgency: Urgency) -> Result<Arc<StoredCredentials>, Error> {
        let Stale { identity_id: id, provider_id, generation } = stale;
        let give_up = Instant::now() + self.settings.lease() + Duration::from_secs(2);
        let mut look = false;
        loop {
            // Not at first: nearly always the lease is free, and tells what is there.
            if look {
                let stored = self.credentials.find(id).await?.ok_or(Error::NotFound("identity"))?;
                if stored.generation != generation {
                    return Ok(Arc::new(stored));
                }
                self.check_may_try(&stored, urgency)?;
            }
            look = true;
            // Taken before the lease, so that the lease's time does not run while it waits.
            let permit = self.admitted(provider_id, urgency).await?;
            let time = self.settings.lease();
            // Its time runs from when the database took it, which is later than this.
            let until = Instant::now() + time;
            let taken =
                self.credentials.take_lease(id, generation, &self.settings.replica, time).await?;
            match taken {
                LeaseOutcome::Taken(lease, leased) => {
                    match self.refresh_under(Held { lease, until }, *leased, urgency).await {
                        Part::Renewed(renewed) => return Ok(Arc::from(renewed)),
                        Part::LookAgain => {}
                        Part::Failed(error) => return Err(error),
                    }
                }
                LeaseOutcome::Moved => {}
                LeaseOutcome::Held if Instant::now() < give_up => {
                    drop(permit);
                    self.credentials.changed(id, LOOK_AGAIN).await;
                }
                LeaseOutcome::Held => return Err(in_progress()),
            }
        }
    }

    /// Whether a refresh of these credentials may be tried now.
    fn check_may_try(&self, stored: &StoredCredentials, urgency: Urgency) -> Result<(), Error> {
        check_valid(stored)?;
        let now = self.clock.now();
        match &stored.back_off {
            Some(BackOff { class: FailureClass::Misconfigured, .. })
                if urgency == Urgency::Forced =>
            {
                Ok(())
            }
            Some(back_off) if is_backing_off(stored, now) => Err(backing_off(back_off, now)),
            _ => Ok(()),
        }
    }

    /// One holder's part: everything between taking the lease and giving it back.
    async fn refresh_under(&self, held: Held, leased: Leased, urgency: Urgency) -> Part {
        let lease = &held.lease;
        let Leased { identity, stored } = leased;
        // Somebody may have failed and backed off between our look and our lease.
        if let Err(error) = self.check_may_try(&stored, urgency) {
            return self.give_back(lease, error).await;
        }
        let Some(refresh_token) =
            stored.credentials.as_ref().and_then(|it| it.refresh_token.clone())
        else {
            return self.without_refresh_token(lease, &stored, urgency).await;
        };
        let (provider, connector) = match self.providers.reach(stored.provider_id).await {
            Ok(reached) => reached,
            Err(error) => return self.give_back(lease, error).await,
        };
        let external_id = identity.external_id.clone();
        let redirect_uri =
            self.settings.public_url.as_ref().map(|it| redirect_uri(it, provider.0.id));
        let bound_to =
            stored.credentials.as_ref().and_then(|it| it.key_of_refresh_token().cloned());
        // What was not bound yet gets its key here and not in the call: the careful retry proves
        // the same one.
        let dpop_key = bound_to.or_else(|| connector.new_dpop_key());
        let request = RefreshRequest { refresh_token, external_id, redirect_uri, dpop_key };
        let of = Refreshed { identity, provider, request };
        self.call(held, &stored, connector.as_ref(), &of).await
    }

    /// Sends the refresh token: once, and once more with care when no answer came.
    async fn call(
        &self,
        Held { mut lease, until }: Held,
        stored: &StoredCredentials,
        connector: &dyn Connector,
        of: &Refreshed,
    ) -> Part {
        let may_rotate = connector.capabilities().rotation == Rotation::MayRotate;
        // Not at once after somebody else: its commit goes before our sending, and ours finds out.
        let mut late_commit = (may_rotate && lease.unanswered > 0).then_some(LATE_COMMIT);
        let mut pause = None;
        loop {
            let unanswered = if may_rotate { lease.unanswered } else { 0 };
            if unanswered >= 2 {
                let detail = "no answer came to the refresh and to its one careful retry";
                return self.invalidate(&lease, InvalidReason::RotationInDoubt, detail).await;
            }
            // The one retry is not wasted on a provider that does not answer at all.
            if unanswered == 1
                && let Err(error) = self.reachable(stored, connector).await
            {
                return self.fail(&lease, stored, &error, false).await;
            }
            // A provider that let us wait may still be at it, and has as long again: a token that
            // comes while its first use is under way ends the grant.
            if let Some(pause) = pause.take() {
                sleep(pause).await;
            }
            if let Some(pause) = late_commit.take() {
                self.leave_time_to_commit(lease.identity_id, pause, until).await;
            }
            match self.credentials.record_sending(&lease, self.settings.call_timeout).await {
                Ok(LeasedWrite::Done) => {}
                Ok(LeasedWrite::Superseded) => {
                    // Where it is only too late for a sending, nobody else need wait for the end.
                    self.give_back(&lease, in_progress()).await;
                    return Part::LookAgain;
                }
                Ok(LeasedWrite::Gone) => return Part::Failed(Error::NotFound("identity")),
                Err(error) => return self.give_back(&lease, error.into()).await,
            }
            // Looked at after the last wait before the sending. The lease given back says that
            // nothing was sent.
            if Instant::now() + self.settings.call_timeout > until {
                return self.give_back(&lease, in_progress()).await;
            }
            lease.unanswered += 1;

            let sent_at = Instant::now();
            let error = match self.refresh_once(stored, connector, &of.request).await {
                Ok(answer) => return self.commit(lease, stored, of, answer).await,
                Err(error) => error,
            };
            match &error {
                ConnectorError::GrantRejected { code } => {
                    return self.rejected(&lease, code, unanswered > 0).await;
                }
                ConnectorError::Unavailable { sent: Sent::Unknown, .. } if !may_rotate => {
                    return self.fail(&lease, stored, &error, true).await;
                }
                ConnectorError::Unavailable { sent: Sent::Unknown, .. } => {
                    tracing::warn!(identity = %lease.identity_id, %error, unanswered = lease.unanswered, "a refresh token was sent and no answer came");
                    pause = Some(sent_at.elapsed());
                }
                // Something came back with success, and cannot be used: the token may be spent.
                ConnectorError::Untrusted { .. } => {
                    return self.fail(&lease, stored, &error, !may_rotate).await;
                }
                _ => return self.fail(&lease, stored, &error, true).await,
            }
        }
    }

    /// Waits that long, counted while the database answers: while it is away nobody can commit.
    async fn leave_time_to_commit(&self, id: IdentityId, pause: Duration, until: Instant) {
        let mut answers_since = Instant::now();
        while answers_since.elapsed() < pause && Instant::now() < until {
            sleep(STILL_THERE).await;
            let look = timeout(STILL_THERE, self.credentials.find(id)).await;
            if !matches!(look, Ok(Ok(_))) {
                answers_since = Instant::now();
            }
        }
    }

    /// The call itself, with its deadline.
    async fn refresh_once(
        &self,
        stored: &StoredCredentials,
        connector: &dyn Connector,
        request: &RefreshRequest,
    ) -> Result<Credentials, ConnectorError> {
        let answer = timeout(self.settings.call_timeout, connector.refresh(request)).await;
        if let Ok(answer) = &answer {
            self.note_client(stored.provider_id, answer.as_ref());
        }
        let answer = answer.unwrap_or_else(|_| {
            Err(ConnectorError::Unavailable {
                detail: "it did not answer in time".to_owned(),
                retry_after: None,
                sent: Sent::Unknown,
            })
        });
        self.circuits.note(stored.provider_id, stored.identity_id, &answer);
        answer
    }

    async fn reachable(
        &self,
        stored: &StoredCredentials,
        connector: &dyn Connector,
    ) -> Result<(), ConnectorError> {
        let answer = timeout(self.settings.call_timeout, connector.reachable()).await;
        let answer = answer.unwrap_or_else(|_| {
            Err(ConnectorError::Unavailable {
                detail: "it does not answer at all".to_owned(),
                retry_after: None,
                sent: Sent::No,
            })
        });
        // That it answers this says nothing of the call that matters.
        if answer.is_err() {
            self.circuits.note(stored.provider_id, stored.identity_id, &answer);
        }
        answer
    }

    /// Keeps new credentials. A commit that fails is tried again, the call never: the tokens are
    /// held until they are safe or no longer wanted, also over a shutdown.
    async fn commit(
        &self,
        mut lease: Lease,
        stored: &StoredCredentials,
        of: &Refreshed,
        mut answer: Credentials,
    ) -> Part {
        let Refreshed { identity, provider, .. } = of;
        answer.obtained_at.get_or_insert_with(|| self.clock.now());
        let mut before = stored.credentials.clone();
        loop {
            let renewed = before.unwrap_or_default().renewed_by(answer.clone());
            match self.write(&lease, &Write::Commit(stored, &renewed)).await {
                LeasedWrite::Done => {
                    Self::count(stored, "refreshed");
                    return Part::Renewed(Box::new(StoredCredentials {
                        identity_id: stored.identity_id,
                        provider_id: stored.provider_id,
                        status: IdentityStatus::Valid,
                        invalid: None,
                        generation: lease.generation + 1,
                        credentials: Some(renewed),
                        back_off: None,
                    }));
                }
                LeasedWrite::Superseded => match self.overtaken(&lease, of, &answer).await {
                    // Under the doubt that the link has kept: it is about this very sending, and
                    // nobody else sends before our time is over.
                    Overtaken::Link(now) => {
                        lease.generation = now.generation;
                        before = now.credentials;
                    }
                    by => {
                        Self::count(stored, "superseded");
                        tracing::warn!(identity = %lease.identity_id, attempt = lease.attempt, "refreshed too late: newer credentials are there");
                        if matches!(by, Overtaken::AnotherAccount) {
                            self.revoke_late(identity, provider, renewed).await;
                        }
                        return Part::LookAgain;
                    }
                },
                LeasedWrite::Gone => {
                    Self::count(stored, "unlinked");
                    self.revoke_late(identity, provider, renewed).await;
                    return Part::Failed(Error::NotFound("identity"));
                }
            }
        }
    }

    /// Tries a write until it is through or no longer wanted, also over a shutdown.
    async fn write(&self, lease: &Lease, write: &Write<'_>) -> LeasedWrite {
        let mut pause = WRITE_AGAIN.0;
        loop {
            let written = match write {
                Write::Commit(_, credentials) => self.credentials.commit(lease, credentials).await,
                Write::End(end) => self.credentials.end(lease, end).await,
                Write::Release => self.credentials.release(lease).await,
            };
            match written {
                Ok(written) => return written,
                Err(error) => {
                    if let Write::Commit(stored, _) = write {
                        Self::count(stored, "commit_failed");
                    }
                    let write = write.name();
                    tracing::error!(identity = %lease.identity_id, write, error = %chain(&error), "what a refresh brought is not safe yet; trying again");
                    sleep(pause).await;
                    pause = (pause * 2).min(WRITE_AGAIN.1);
                }
            }
        }
    }

    /// What came before the answer to a refresh.
    async fn overtaken(&self, lease: &Lease, of: &Refreshed, answer: &Credentials) -> Overtaken {
        loop {
            match self.look_who_came_before(lease, of, answer).await {
                Ok(by) => return by,
                Err(RepositoryError::Store(error) | RepositoryError::Unavailable(error)) => {
                    tracing::warn!(identity = %lease.identity_id, error = %chain(&*error), "it is not known whose a late grant is; asking again");
                }
                // The grant may be in use: what is not known to be orphaned is left alone.
                Err(_) => return Overtaken::NewerCredentials,
            }
            sleep(WRITE_AGAIN.1).await;
        }
    }

    /// The same, at one look.
    async fn look_who_came_before(
        &self,
        lease: &Lease,
        of: &Refreshed,
        answer: &Credentials,
    ) -> Result<Overtaken, RepositoryError> {
        let id = lease.identity_id;
        match self.identities.identities.find(id).await? {
            Some(now) if now.external_id == of.identity.external_id => {}
            _ => return Ok(Overtaken::AnotherAccount),
        }
        let stored = self.credentials.find(id).await?;
        let Some(stored) = stored.filter(|it| it.credentials.is_some()) else {
            return Ok(Overtaken::AnotherAccount);
        };
        let there = stored.credentials.as_ref().and_then(|it| it.refresh_token.as_ref());
        let sent = &of.request.refresh_token;
        let brings_the_next = answer.refresh_token.as_ref().is_some_and(|it| it != sent);
        if stored.generation == lease.generation || there != Some(sent) || !brings_the_next {
            return Ok(Overtaken::NewerCredentials);
        }
        Ok(Overtaken::Link(Box::new(stored)))
    }

    /// Hands what came too late over to the queue, with all that is needed to end it.
    async fn revoke_late(
        &self,
        identity: &Identity,
        provider: &(IdentityProvider, ProviderSecrets),
        credentials: Credentials,
    ) {
        let grant = OrphanedGrant { credentials, provider: Some(provider.clone()) };
        let new = NewRevocation {
            owner: GrantOwner::Identity(identity.id),
            provider_id: identity.idp_id,
            user_id: identity.user_id.clone(),
            external_id: identity.external_id.clone(),
            grant,
            actor: Actor::replica(self.settings.replica.clone()),
        };
        self.revocations.revoke_late(new).await;
    }

    /// The provider refuses the refresh token. Another attempt may have replaced it meanwhile:
    /// the conditional write finds out, and then what is there is used.
    async fn rejected(&self, lease: &Lease, code: &str, was_in_doubt: bool) -> Part {
        let reason = if was_in_doubt {
            InvalidReason::RotationInDoubt
        } else {
            InvalidReason::GrantRejected
        };
        self.invalidate(lease, reason, code).await
    }

    /// There is nothing to refresh with. An access token that still works is left in peace.
    async fn without_refresh_token(
        &self,
        lease: &Lease,
        stored: &StoredCredentials,
        urgency: Urgency,
    ) -> Part {
        if urgency == Urgency::Rejected && stored.credentials.is_some() {
            let reason = InvalidReason::NoRefreshToken;
            let detail = "reported as refused by the provider, without a refresh token";
            return self.invalidate(lease, reason, detail).await;
        }
        let dead = stored
            .credentials
            .as_ref()
            .is_some_and(|it| it.access_token.is_some() && !it.is_alive(self.clock.now()));
        if dead {
            let reason = InvalidReason::NoRefreshToken;
            return self.invalidate(lease, reason, "expired without a refresh token").await;
        }
        let detail = match stored.credentials {
            Some(_) => "the provider gave no refresh token",
            None => "the identity was linked without credentials",
        };
        let error = Error::IdentityNotValid { reason: None, detail: detail.to_owned() };
        self.give_back(lease, error).await
    }

    async fn invalidate(&self, lease: &Lease, reason: InvalidReason, detail: &str) -> Part {
        let end = RefreshEnd::Invalid { reason, detail: detail.to_owned() };
        match self.write(lease, &Write::End(end)).await {
            LeasedWrite::Done => {
                metrics::counter!("symbolon_identities_invalidated_total", "reason" => reason.as_str())
                    .increment(1);
                tracing::warn!(identity = %lease.identity_id, reason = reason.as_str(), detail, "the user must link again");
                Part::Failed(not_valid(Some(&Invalid { reason, at: self.clock.now() })))
            }
            LeasedWrite::Superseded => Part::LookAgain,
            LeasedWrite::Gone => Part::Failed(Error::NotFound("identity")),
        }
    }

    /// Ends an attempt that may be repeated later.
    async fn fail(
        &self,
        lease: &Lease,
        stored: &StoredCredentials,
        error: &ConnectorError,
        answered: bool,
    ) -> Part {
        let now = self.clock.now();
        let back_off = back_off(lease, stored, error, now);
        Self::count(stored, back_off.class.as_str());
        tracing::warn!(identity = %lease.identity_id, provider = %stored.provider_id, %error, until = %back_off.until, "a refresh failed");
        let failure = backing_off(&back_off, now);
        let end = RefreshEnd::Failed { back_off, answered };
        match self.write(lease, &Write::End(end)).await {
            LeasedWrite::Done => Part::Failed(failure),
            LeasedWrite::Superseded => Part::LookAgain,
            LeasedWrite::Gone => Part::Failed(Error::NotFound("identity")),
        }
    }

    /// Gives a lease back under which nothing more was sent than it says. Nobody waits for that
    /// where the database is away.
    async fn give_back(&self, lease: &Lease, why: Error) -> Part {
        if self.credentials.release(lease).await.is_err() {
            let (this, lease) = (self.clone(), lease.clone());
            self.tasks.spawn(async move { this.write(&lease, &Write::Release).await });
        }
        Part::Failed(why)
    }

    fn count(stored: &StoredCredentials, outcome: &'static str) {
        let provider = stored.provider_id.to_string();
        metrics::counter!("symbolon_refreshes_total", "provider_id" => provider, "outcome" => outcome)
            .increment(1);
    }
}

/// When to try again after a failure.
fn back_off(
    lease: &Lease,
    stored: &StoredCredentials,
    error: &ConnectorError,
    now: DateTime<Utc>,
) -> BackOff {
    let failures = stored.back_off.as_ref().map_or(0, |it| it.failures).saturating_add(1);
    let (class, asked) = match error {
        ConnectorError::ClientRejected { .. } | ConnectorError::Misconfigured { .. } => {
            (FailureClass::Misconfigured, None)
        }
        ConnectorError::Unavailable { retry_after, .. } => {
            (FailureClass::Unavailable, *retry_after)
        }
        ConnectorError::GrantRejected { .. } | ConnectorError::Untrusted { .. } => {
            (FailureClass::Unavailable, None)
        }
    };
    let doubled = BACK_OFF.0 * 2_u32.saturating_pow((failures - 1).min(16));
    let own = doubled.min(BACK_OFF.1);
    // Spread, so that the identities of one outage do not all come back in the same second; by
    // the lease, so that a run can be repeated exactly.
    let spread =
        (lease.identity_id.0.wrapping_mul(7919).wrapping_add(lease.attempt)).rem_euclid(25);
    let own = own + own * u32::try_from(spread).unwrap_or(0) / 100;
    let wait = asked.map_or(own, |it| it.min(LONGEST_RETRY_AFTER).max(Duration::from_millis(100)));
    let until = now + TimeDelta::from_std(wait).unwrap_or(TimeDelta::hours(1));
    BackOff { until, class, failures, detail: error.to_string() }
}

fn in_progress() -> Error {
    Error::ProviderUnavailable {
        detail: "a refresh of this identity is under way and takes long".to_owned(),
        retry_after: DEFAULT_RETRY,
    }
}

/// An error with its causes, for a log line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
