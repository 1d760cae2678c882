//! Events.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use symbolon_domain::{
    archive::{ImportOutcome, Record, Refusal},
    event::{Event, NewEvent},
    ids::EventId,
};

use super::super::{
    Conn,
    bulk::{event_places, event_row_id, insert_all},
    events as log,
    schema::events,
    time,
};
use super::{Batch, STEP, may_be_kept};
use crate::failure::Failure;

/// Writes events of now.
pub(super) async fn tell(conn: &mut Conn, told: Vec<NewEvent>) -> Result<(), Failure> {
    let at = time(conn).await?;
    let places = event_places(conn, told.len()).await?;
    let rows: Vec<_> =
        told.into_iter().zip(places).map(|(it, seq)| log::Kept::new(it, at, seq)).collect();
    insert_all!(conn, events::table, rows)?;
    Ok(())
}

/// Takes records, and tells what became of each.
pub(super) async fn take(
    conn: &mut Conn,
    records: &[&Event],
    batch: &mut Batch<'_>,
) -> Result<Vec<ImportOutcome>, Failure> {
    // Nobody else gives places meanwhile.
    if !batch.settings.dry_run {
        event_places(conn, 0).await?;
    }
    let places = records.iter().map(|it| Some(it.id.0));
    let there = events::table.filter(events::seq.eq_any(places)).select(log::Row::as_select());
    let there: Vec<log::Row> = there.load(conn).await?;
    let there: Vec<Event> = there.into_iter().map(Event::try_from).collect::<Result<_, _>>()?;
    let mut there: HashMap<EventId, Event> = there.into_iter().map(|it| (it.id, it)).collect();

    let (mut outcomes, mut new) = (Vec::new(), Vec::new());
    for record in records {
        let event = *record;
        outcomes.push(match there.get(&event.id) {
            Some(other) if other == event => ImportOutcome::Unchanged(event.id.0),
            Some(_) => ImportOutcome::Refused(Refusal::EventIdTaken),
            None if !may_be_kept(event.id.0) => ImportOutcome::Refused(Refusal::EventIdTaken),
            None => {
                there.insert(event.id, event.clone());
                new.push(log::Kept::of(event, event_row_id(event.id.0)));
                ImportOutcome::Created(event.id.0)
            }
        });
    }
    // A row that is gone keeps its name: no later one is mistaken for what an event speaks of.
    let spoken_of = |id: fn(&Event) -> Option<i64>| records.iter().filter_map(move |it| id(it));
    batch.raise(conn, "identities", spoken_of(|it| Some(it.identity_id?.0))).await?;
    batch.raise(conn, "identity_providers", spoken_of(|it| Some(it.provider_id?.0))).await?;
    insert_all!(conn, events::table, new)?;
    Ok(outcomes)
}

/// Those that come after this one, a step of them.
pub(super) async fn step(conn: &mut Conn, after: i64) -> Result<Vec<Record>, Failure> {
    let rows: Vec<log::Row> = events::table
        .filter(events::seq.gt(after))
        .order(events::seq)
        .limit(STEP)
        .select(log::Row::as_select())
        .load(conn)
        .await?;
    rows.into_iter().map(|row| Ok(Record::Event(Box::new(Event::try_from(row)?)))).collect()
}
