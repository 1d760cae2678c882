use std::time::Duration;

use async_trait::async_trait;

use super::RepositoryError;
use crate::{
    device_link::{ClaimedDeviceLink, DeviceLink, DeviceLinkClaim, DeviceLinkEnd, NewDeviceLink},
    ids::DeviceLinkId,
};

/// Keeps device links, and decides who asks their providers.
///
/// A pending one whose time ran out reads as
/// [`Expired`](crate::device_link::DeviceLinkStatus::Expired) from every method, is claimed by
/// nobody and links nothing. The link itself is made by
/// [`IdentityRepository::link`](super::IdentityRepository::link), which ends the device link in the
/// same transaction.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait DeviceLinkRepository: Send + Sync {
    /// Adds a pending one, to be polled when its interval has passed for the first time. Its times
    /// are by the store's clock.
    async fn insert(&self, new: &NewDeviceLink) -> Result<DeviceLink, RepositoryError>;

    /// The device link, or `None` when there is none by that id.
    async fn find(&self, id: DeviceLinkId) -> Result<Option<DeviceLink>, RepositoryError>;

    /// Claims those that are due, the longest due first: nobody else gets them for this time, be
    /// it that the caller never comes back. Each claim ends the right of those before it.
    async fn claim_due(
        &self,
        limit: u16,
        time: Duration,
    ) -> Result<Vec<ClaimedDeviceLink>, RepositoryError>;

    /// Gives a claimed one back, to be polled again after this pause, with this interval from now
    /// on.
    ///
    /// False, and nothing is changed, unless it is pending and the claim is the last one.
    async fn poll_later(
        &self,
        claim: DeviceLinkClaim,
        pause: Duration,
        interval: Duration,
    ) -> Result<bool, RepositoryError>;

    /// Ends a claimed one and drops its code. One that failed has its event, by whoever created
    /// it, with `error` and `device_link_id` in its detail and the organization, if it has one.
    ///
    /// False, and nothing is changed, unless it is pending and the claim is the last one.
    async fn end(
        &self,
        claim: DeviceLinkClaim,
        end: DeviceLinkEnd,
    ) -> Result<bool, RepositoryError>;

    /// Marks what has run out as expired and drops its code; answers how many. No event.
    async fn expire(&self) -> Result<u64, RepositoryError>;
}
