use async_trait::async_trait;

use super::{MemoryStore, page_of};
use crate::{
    event::{Event, NewEvent},
    page::{Page, PageRequest},
    ports::{EventFilter, EventLog, RepositoryError},
};

#[async_trait]
impl EventLog for MemoryStore {
    async fn append(&self, event: &NewEvent) -> Result<(), RepositoryError> {
        self.write(|rows, now| rows.log(event.clone(), now));
        Ok(())
    }

    async fn list(
        &self,
        filter: &EventFilter,
        page: PageRequest,
    ) -> Result<Page<Event>, RepositoryError> {
        let EventFilter { kind, identity_id } = *filter;
        let (rows, _) = self.read();
        let meant = rows.events.iter().filter(|it| {
            kind.is_none_or(|wanted| wanted == it.about)
                && identity_id.is_none_or(|wanted| Some(wanted) == it.identity_id)
        });
        Ok(page_of(meant, page, |it| it.id.0))
    }
}
