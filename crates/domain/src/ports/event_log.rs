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

    /// Adds an event that tells of a turn in the state of a provider instance, which it names, and
    /// tells whether it was added: where the latest event of its kind and of the `opposite` one
    /// about that instance is of the opposite one. Where there is neither, where it
    /// `may_come_first`. None is added for an instance that is gone.
    ///
    /// The database decides: of several that tell the same at once, one is added.
    async fn append_turn(
        &self,
        event: &NewEvent,
        opposite: EventKind,
        may_come_first: bool,
    ) -> Result<bool, RepositoryError>;

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
