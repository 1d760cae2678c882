use async_trait::async_trait;

use super::{MemoryStore, Rows, page_of};
use crate::{
    event::{Event, EventKind, NewEvent},
    page::{Page, PageRequest},
    ports::{EventFilter, EventLog, RepositoryError},
};

impl Rows {
    fn events_of(&self, filter: &EventFilter) -> impl DoubleEndedIterator<Item = &Event> {
        self.events.iter().filter(move |it| {
            (filter.kinds.is_empty() || filter.kinds.contains(&it.about))
                && (filter.identity_id.is_none() || filter.identity_id == it.identity_id)
                && (filter.provider_id.is_none() || filter.provider_id == it.provider_id)
                && (filter.user_id.is_none() || filter.user_id == it.user_id)
                && (filter.organization_id.is_none()
                    || filter.organization_id == it.organization_id)
                && filter.after.is_none_or(|after| it.id > after)
        })
    }
}

#[async_trait]
impl EventLog for MemoryStore {
    async fn append(&self, event: &NewEvent) -> Result<(), RepositoryError> {
        self.write(|rows, now| rows.log(event.clone(), now));
        Ok(())
    }

    async fn append_turn(
        &self,
        event: &NewEvent,
        opposite: EventKind,
        may_come_first: bool,
    ) -> Result<bool, RepositoryError> {
        let Some(provider_id) = event.provider_id else { return Ok(false) };
        let filter = EventFilter {
            kinds: vec![event.about, opposite],
            provider_id: Some(provider_id),
            ..EventFilter::default()
        };
        Ok(self.write(|rows, now| {
            let last = rows.events_of(&filter).next_back().map(|it| it.about);
            let is_turn = last.map_or(may_come_first, |it| it == opposite);
            let added = is_turn && rows.providers.contains_key(&provider_id);
            if added {
                rows.log(event.clone(), now);
            }
            added
        }))
    }

    async fn list(
        &self,
        filter: &EventFilter,
        page: PageRequest,
    ) -> Result<Page<Event>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(page_of(rows.events_of(filter), page, |it| it.id.0))
    }

    async fn find_last(&self, filter: &EventFilter) -> Result<Option<Event>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(rows.events_of(filter).next_back().cloned())
    }
}
