use async_trait::async_trait;

use super::RepositoryError;
use crate::{
    event::{Event, EventKind, NewEvent},
    ids::IdentityId,
    page::{Page, PageRequest},
};

/// Which events are meant: all conditions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    /// Events of this kind.
    pub kind: Option<EventKind>,
    /// Events about this identity.
    pub identity_id: Option<IdentityId>,
}

/// Keeps what happened. Most events are written by the other ports, with the change they tell of.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait EventLog: Send + Sync {
    /// Adds an event that no other port writes.
    async fn append(&self, event: &NewEvent) -> Result<(), RepositoryError>;

    /// Events in ascending id order.
    async fn list(
        &self,
        filter: &EventFilter,
        page: PageRequest,
    ) -> Result<Page<Event>, RepositoryError>;
}
