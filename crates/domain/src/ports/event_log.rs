use async_trait::async_trait;

use super::RepositoryError;
use crate::{
    event::{Event, EventKind, NewEvent},
    ids::{EventId, IdentityId, OrganizationId, ProviderId, UserId},
    page::{Page, PageRequest},
};

/// Which events are meant: all conditions together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Events of any of these kinds; of all when empty.
    pub kinds: Vec<EventKind>,
    /// Events about this identity.
    pub identity_id: Option<IdentityId>,
    /// Events about this provider instance.
    pub provider_id: Option<ProviderId>,
    /// Events about this user.
    pub user_id: Option<UserId>,
    /// Events about this organization.
    pub organization_id: Option<OrganizationId>,
    /// Events after this one.
    pub after: Option<EventId>,
}

/// Keeps what happened. Most events are written by the other ports, with the change they tell of.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Adds an event that no other port writes.
    async fn append(&self, event: &NewEvent) -> Result<(), RepositoryError>;

    /// Events in ascending id order. What was written before the call is there, and no event
    /// appears later under an id that is lower than one which this answers: whoever goes on after
    /// the last one misses none, whoever writes at the same time.
    async fn list(
        &self,
        filter: &EventFilter,
        page: PageRequest,
    ) -> Result<Page<Event>, RepositoryError>;

    /// The latest of these events, or `None` when there is none.
    async fn find_last(&self, filter: &EventFilter) -> Result<Option<Event>, RepositoryError>;
}
