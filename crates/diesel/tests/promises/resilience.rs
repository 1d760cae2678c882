//! What happens to a database on a bad day: broken connections, callers that leave, deadlocks,
//! several processes that start at once.

use std::{sync::Arc, time::Duration};

use symbolon_diesel::{Database, DatabaseSettings};
use symbolon_domain::{
    identity::Identity,
    ids::ProviderId,
    ports::{Link, LinkOutcome, NewIdentityProvider, ProviderDeletion, Unlink},
    testing::{TestSealer, contract::Store, fixtures},
};
use symbolon_test_postgres::TestDatabase;
use tokio_postgres::{Client, NoTls};

use crate::bench::{Bench, SqliteFile, migrated_database, store_on_postgres, store_on_sqlite};

async fn client(database: &TestDatabase) -> Client {
    let (client, connection) = tokio_postgres::connect(database.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn provider(store: &Arc<dyn Store>) -> ProviderId {
    let new: NewIdentityProvider = fixtures::new_identity_provider();
    store.providers().insert(&new, &fixtures::ACTOR).await.unwrap().id
}

async fn linked(store: &Arc<dyn Store>, at: ProviderId, name: &str) -> Identity {
    let link = Link {
        provider_id: at,
        owner: fixtures::owner(name),
        external_id: fixtures::external_id(name),
        ..fixtures::link()
    };
    match store.identities().link(&link).await.unwrap() {
        LinkOutcome::Created(identity) => identity,
        other => panic!("{other:?}"),
    }
}

async fn open(settings: &DatabaseSettings) -> Database {
    symbolon_diesel::open(settings, Arc::new(TestSealer::default())).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_connections_are_replaced() {
    let (database, settings) = migrated_database().await;
    let store: Arc<dyn Store> = Arc::new(store_on_postgres(&settings).await);
    let at = provider(&store).await;
    let identity = linked(&store, at, "u").await;
    let client = client(&database).await;
    for _ in 0..3 {
        // Every kind of connection is in use once: pooled, shared, and the one that listens.
        assert!(store.credentials().find(identity.id).await.unwrap().is_some());
        assert!(store.identities().find(identity.id).await.unwrap().is_some());
        let killed = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                      WHERE datname = current_database() AND pid <> pg_backend_pid()";
        assert!(!client.query(killed, &[]).await.unwrap().is_empty());
        // The first calls may find the wreck; soon all is well, on every connection.
        let mut good = 0;
        for _ in 0..200 {
            let reads = store.credentials().find(identity.id).await.is_ok()
                && store.identities().find(identity.id).await.is_ok();
            let writes = store.providers().record_issuer_named(at).await.is_ok();
            good = if reads && writes { good + 1 } else { 0 };
            if good == 20 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(good, 20, "it stays broken");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_store_is_woken_again_after_the_listener_broke() {
    let (database, settings) = migrated_database().await;
    let (here, there) = (store_on_postgres(&settings).await, store_on_postgres(&settings).await);
    let (here, there): (Arc<dyn Store>, Arc<dyn Store>) = (Arc::new(here), Arc::new(there));
    let at = provider(&here).await;
    let identity = linked(&here, at, "u").await;
    let client = client(&database).await;
    let killed = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                  WHERE datname = current_database() AND pid <> pg_backend_pid()";
    client.query(killed, &[]).await.unwrap();
    let listeners = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                     AND query LIKE 'LISTEN %'";
    for _ in 0..1000 {
        let count: i64 = client.query_one(listeners, &[]).await.unwrap().get(0);
        if count == 2 {
            // It is used, not only there: a waiter here learns of a commit there.
            let waiting = tokio::spawn({
                let (here, id) = (here.clone(), identity.id);
                async move { here.credentials().changed(id, Duration::from_mins(10)).await }
            });
            there
                .identities()
                .unlink(&Unlink::unguarded(identity.id, &fixtures::ACTOR))
                .await
                .unwrap();
            return waiting.await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_was_sacrificed_in_a_deadlock_is_tried_again() {
    let (database, settings) = migrated_database().await;
    let store: Arc<dyn Store> = Arc::new(store_on_postgres(&settings).await);
    let at = provider(&store).await;
    let (first, second) = (linked(&store, at, "u").await, linked(&store, at, "v").await);
    let client = client(&database).await;
    let lock = async |id: i64| {
        let query = "SELECT 1 FROM identities WHERE id = $1 FOR UPDATE";
        client.query(query, &[&id]).await.unwrap();
    };
    client.batch_execute("SET deadlock_timeout = '1min'; BEGIN").await.unwrap();
    lock(second.id.0).await;
    let deletion = tokio::spawn({
        let store = store.clone();
        async move { store.providers().delete(at, true, &fixtures::ACTOR).await }
    });
    // It has the first row, and waits for the second.
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    while client.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Now each waits for the other; the server ends the one that waited longer.
    lock(first.id.0).await;
    client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(deletion.await.unwrap().unwrap(), ProviderDeletion::Deleted(2));
}

async fn a_caller_leaves(store: Arc<dyn Store>) {
    let at = provider(&store).await;
    for number in 0..60 {
        let name = format!("u{number}");
        let link = Link {
            provider_id: at,
            owner: fixtures::owner(&name),
            external_id: fixtures::external_id(&name),
            ..fixtures::link()
        };
        let call = tokio::spawn({
            let store = store.clone();
            async move { store.identities().link(&link).await }
        });
        tokio::time::sleep(Duration::from_micros(number * 50)).await;
        call.abort();
        let _ = call.await;
        // Whole or not at all, and the store goes on: the same link again succeeds.
        let link = Link {
            provider_id: at,
            owner: fixtures::owner(&name),
            external_id: fixtures::external_id(&name),
            ..fixtures::link()
        };
        match store.identities().link(&link).await.unwrap() {
            LinkOutcome::Created(it) | LinkOutcome::Updated(it) => {
                let kept = store.credentials().find(it.id).await.unwrap().unwrap();
                assert!(kept.credentials.is_some(), "{name}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_breaks_nothing_on_postgresql() {
    let (_database, settings) = migrated_database().await;
    a_caller_leaves(Arc::new(store_on_postgres(&settings).await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_breaks_nothing_on_sqlite() {
    let file = SqliteFile::create().await;
    a_caller_leaves(Arc::new(store_on_sqlite(&file).await)).await;
}

/// Several processes that start at once apply each migration once, and all find the tables.
async fn migrate_at_once(settings: &DatabaseSettings) {
    let mut databases = Vec::new();
    for _ in 0..8 {
        databases.push(open(settings).await);
    }
    let runs: Vec<_> = databases
        .iter()
        .cloned()
        .map(|it| tokio::spawn(async move { it.migrate().await }))
        .collect();
    let mut applied = Vec::new();
    for run in runs {
        applied.extend(run.await.unwrap().unwrap());
    }
    applied.sort();
    assert_eq!(applied, symbolon_diesel::embedded_migrations().unwrap());
    for database in databases {
        assert_eq!(database.pending_migrations().await.unwrap(), [""; 0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_migrators_on_postgresql_each_step_is_done_once() {
    let database = TestDatabase::create().await.unwrap();
    migrate_at_once(&DatabaseSettings::new(database.url())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_migrators_on_sqlite_each_step_is_done_once() {
    migrate_at_once(&SqliteFile::new().settings).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_what_is_pending_changes_nothing_on_postgresql() {
    let database = TestDatabase::create().await.unwrap();
    let pending = open(&DatabaseSettings::new(database.url())).await.pending_migrations().await;
    assert_eq!(pending.unwrap(), symbolon_diesel::embedded_migrations().unwrap());
    let tables = "SELECT count(*) FROM information_schema.tables WHERE table_schema = 'public'";
    let count: i64 = client(&database).await.query_one(tables, &[]).await.unwrap().get(0);
    assert_eq!(count, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_dialects_have_the_same_tables_and_columns() {
    // The book of migrations is Diesel's, and SQLite's keys may be null in the catalog.
    let sqlite = "SELECT t.name || '.' || c.name || ': ' || iif(c.\"notnull\", 'NO', 'YES') \
                  AS value FROM sqlite_schema t, pragma_table_info(t.name) c \
                  WHERE t.type = 'table' AND t.name NOT LIKE 'sqlite#_%' ESCAPE '#' \
                  AND t.name NOT LIKE '#_%' ESCAPE '#'";
    let postgres = "SELECT table_name || '.' || column_name || ': ' || is_nullable AS value \
                    FROM information_schema.columns WHERE table_schema = 'public' \
                    AND table_name NOT LIKE '#_%' ESCAPE '#'";
    let mut sqlite = Bench::on_sqlite().await.raw.texts(sqlite).await;
    let mut postgres = Bench::on_postgres().await.raw.texts(postgres).await;
    sqlite.sort();
    postgres.sort();
    assert!(postgres.len() > 50, "{postgres:?}");
    assert_eq!(sqlite, postgres);
}
