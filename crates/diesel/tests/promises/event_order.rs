//! What another's transaction does to the order of events, where there can be one.

use std::sync::Arc;

use symbolon_domain::{
    event::EventKind,
    ids::EventId,
    page::PageRequest,
    ports::EventFilter,
    testing::{contract::Store, fixtures},
};

use crate::bench::Bench;

async fn read_after(store: &Arc<dyn Store>, after: Option<EventId>) -> Vec<(EventId, EventKind)> {
    let filter = EventFilter { after, ..EventFilter::default() };
    let read = store.events().list(&filter, PageRequest::default()).await.unwrap();
    read.items.into_iter().map(|it| (it.id, it.about)).collect()
}

/// An older version of the service writes like this too: it knows of no place.
const WRITE: &str = "INSERT INTO events (at, kind, actor, detail) \
    VALUES (now(), 'identity.unlinked', 'operator', '{}')";

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_is_committed_late_is_read_after_those_that_were_read_before_it() {
    let Bench { store, raw } = Bench::on_postgres().await;
    raw.execute("BEGIN").await;
    raw.execute(WRITE).await;
    store.events().append(&fixtures::new_event()).await.unwrap();
    let first = read_after(&store, None).await;
    assert_eq!(first.len(), 1);
    raw.execute("COMMIT").await;

    let ids = raw.texts("SELECT id AS value FROM events WHERE kind = 'identity.unlinked'").await;
    assert!(ids[0].parse::<i64>().unwrap() <= first[0].0.0, "it has the lower number by itself");
    let next = read_after(&store, Some(first[0].0)).await;
    assert_eq!(next.len(), 1);
    assert_eq!(next[0].1, EventKind::IdentityUnlinked);
    let all = read_after(&store, None).await;
    assert_eq!(all, [first, next].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_events_than_one_batch_get_their_places_in_order() {
    let Bench { store, raw } = Bench::on_postgres().await;
    raw.execute(
        "INSERT INTO events (at, kind, actor, detail) \
         SELECT now(), 'identity.unlinked', 'operator', '{}' FROM generate_series(1, 2500)",
    )
    .await;
    assert_eq!(read_after(&store, None).await.len(), 50);
    let wrong = raw
        .texts(
            "SELECT id::text AS value FROM (SELECT id, seq, row_number() OVER (ORDER BY id) AS nth \
             FROM events) AS e WHERE seq IS DISTINCT FROM nth",
        )
        .await;
    assert_eq!(wrong, Vec::<String>::new());
}
