use std::time::Duration;

use symbolon_domain::{
    credentials::Credentials,
    event::Actor,
    ids::IdentityId,
    ports::{
        CredentialsRepository, DataUpdate, IdentityRepository, Lease, LeaseOutcome, LeasedWrite,
        RefreshEnd, RepositoryError,
    },
};

use super::world::World;

/// A promise of the database that is broken on purpose. The simulation must notice each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutant {
    /// A lease is given although somebody holds it.
    LeaseIgnoresTheHolder,
    /// A lease runs out while its holder's call is under way.
    LeaseIsShort,
    /// A sending is not counted.
    SendingIsNotCounted,
    /// A sending is written down for whoever lost the lease, too.
    SendingIsUnfenced,
    /// A commit is taken whatever came since.
    CommitIsUnfenced,
    /// A commit is refused once somebody else has the lease, even if nothing was sent since.
    CommitNeedsTheLease,
    /// A commit puts an unlinked row back.
    CommitRevives,
    /// An end is taken whatever came since.
    EndIsUnfenced,
    /// An end counts a sending as answered that was not.
    EndForgetsTheDoubt,
    /// An end counts a sending as unanswered that was answered.
    EndKeepsTheDoubt,
    /// A release frees another's lease.
    ReleaseIsUnfenced,
    /// A release counts a sending that was not made.
    ReleaseKeepsTheCount,
    /// A release forgets a sending that was made.
    ReleaseForgetsTheDoubt,
}

impl Mutant {
    pub(crate) const ALL: [Self; 13] = [
        Self::LeaseIgnoresTheHolder,
        Self::LeaseIsShort,
        Self::SendingIsNotCounted,
        Self::SendingIsUnfenced,
        Self::CommitIsUnfenced,
        Self::CommitNeedsTheLease,
        Self::CommitRevives,
        Self::EndIsUnfenced,
        Self::EndForgetsTheDoubt,
        Self::EndKeepsTheDoubt,
        Self::ReleaseIsUnfenced,
        Self::ReleaseKeepsTheCount,
        Self::ReleaseForgetsTheDoubt,
    ];

    pub(crate) async fn take_lease(
        world: &World,
        id: IdentityId,
        generation: i64,
        holder: &str,
        time: Duration,
    ) -> Result<LeaseOutcome, RepositoryError> {
        let time = if world.is(Self::LeaseIsShort) { time / 10 } else { time };
        let mut taken = world.store.take_lease(id, generation, holder, time).await?;
        if taken == LeaseOutcome::Held && world.is(Self::LeaseIgnoresTheHolder) {
            world.store.release(&world.latest(id)).await?;
            taken = world.store.take_lease(id, generation, holder, time).await?;
        }
        if let LeaseOutcome::Taken(lease, _) = &taken {
            world.set_latest(lease.clone());
        }
        Ok(taken)
    }

    pub(crate) async fn record_sending(
        world: &World,
        lease: &Lease,
        time: Duration,
    ) -> Result<LeasedWrite, RepositoryError> {
        if world.is(Self::SendingIsNotCounted) {
            return Ok(LeasedWrite::Done);
        }
        let written = world.store.record_sending(lease, time).await?;
        if written == LeasedWrite::Done {
            world.set_latest(Lease { unanswered: lease.unanswered + 1, ..lease.clone() });
        }
        if written == LeasedWrite::Superseded && world.is(Self::SendingIsUnfenced) {
            return Ok(LeasedWrite::Done);
        }
        Ok(written)
    }

    pub(crate) async fn commit(
        world: &World,
        lease: &Lease,
        credentials: &Credentials,
    ) -> Result<LeasedWrite, RepositoryError> {
        let id = lease.identity_id;
        if world.is(Self::CommitNeedsTheLease) && world.latest(id).attempt != lease.attempt {
            return Ok(LeasedWrite::Superseded);
        }
        let written = world.store.commit(lease, credentials).await?;
        let (data, credentials) = (serde_json::Map::new(), Some(credentials.clone()));
        match written {
            LeasedWrite::Superseded if world.is(Self::CommitIsUnfenced) => {
                let actor = Actor::OPERATOR;
                let update = DataUpdate { id, data, credentials, if_version: None, actor };
                world.store.update_data(&update).await?;
                Ok(LeasedWrite::Done)
            }
            LeasedWrite::Gone if world.is(Self::CommitRevives) => {
                let link = world.link(World::user(0), World::account("account-0"), credentials);
                world.store.link(&link).await?;
                Ok(LeasedWrite::Done)
            }
            _ => Ok(written),
        }
    }

    pub(crate) async fn end(
        world: &World,
        lease: &Lease,
        end: &RefreshEnd,
    ) -> Result<LeasedWrite, RepositoryError> {
        let mut end = end.clone();
        if let RefreshEnd::Failed { answered, .. } = &mut end {
            *answered |= world.is(Self::EndForgetsTheDoubt);
            *answered &= !world.is(Self::EndKeepsTheDoubt);
        }
        match world.store.end(lease, &end).await? {
            LeasedWrite::Superseded if world.is(Self::EndIsUnfenced) => {
                world.store.end(&world.as_it_is(lease).await?, &end).await
            }
            written => Ok(written),
        }
    }

    pub(crate) async fn release(
        world: &World,
        lease: &Lease,
    ) -> Result<LeasedWrite, RepositoryError> {
        let mut lease = lease.clone();
        if world.is(Self::ReleaseKeepsTheCount) {
            lease.unanswered = world.latest(lease.identity_id).unanswered;
        }
        if world.is(Self::ReleaseForgetsTheDoubt) {
            lease.unanswered = 0;
        }
        match world.store.release(&lease).await? {
            LeasedWrite::Superseded if world.is(Self::ReleaseIsUnfenced) => {
                world.store.release(&world.as_it_is(&lease).await?).await
            }
            written => Ok(written),
        }
    }
}
