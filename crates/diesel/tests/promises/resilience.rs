//! What happens to a database on a bad day: broken connections, callers that leave, deadlocks,
//! several processes that start at once.

use std::{sync::Arc, time::Duration};

use chrono::DateTime;
use futures_util::{StreamExt as _, stream};
use symbolon_diesel::{Database, DatabaseSettings};
use symbolon_domain::{
    credentials::Credentials,
    identity::Identity,
    ids::{IdentityId, ProviderId},
    ports::{
        BackOff, FailureClass, LeaseOutcome, LeasedWrite, Link, LinkOutcome, NewIdentityProvider,
        ProviderDeletion, RefreshEnd, Unlink,
    },
    testing::{TestSealer, contract::Store, fixtures},
};
use symbolon_test_postgres::TestDatabase;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::JoinSet,
};
use tokio_postgres::{AsyncMessage, Client, NoTls};

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

/// More than the server takes connections.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_who_come_first_do_not_open_a_connection_each() {
    let (_database, settings) = migrated_database().await;
    let store: Arc<dyn Store> = Arc::new(store_on_postgres(&settings).await);
    let mut readers = JoinSet::new();
    for _ in 0..1000 {
        let store = Arc::clone(&store);
        readers.spawn(async move { store.identities().find(IdentityId(1)).await.unwrap() });
    }
    assert_eq!(readers.join_all().await, vec![None; 1000]);
}

/// Those that are written together wait for nobody; whose row somebody has in hand waits alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_somebody_has_in_hand_holds_up_no_other_refresh() {
    let (database, settings) = migrated_database().await;
    let store: Arc<dyn Store> = Arc::new(store_on_postgres(&settings).await);
    let at = provider(&store).await;
    let (in_hand, free) = (linked(&store, at, "u").await.id, linked(&store, at, "v").await.id);
    let other = client(&database).await;
    other.batch_execute("BEGIN").await.unwrap();
    let lock = "SELECT id FROM identities WHERE id = $1 FOR UPDATE";
    assert_eq!(other.query(lock, &[&in_hand.0]).await.unwrap().len(), 1);

    let refresh = |id| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let (credentials, time) = (store.credentials(), Duration::from_mins(1));
            let taken = credentials.take_lease(id, 1, "replica-1", time).await.unwrap();
            let LeaseOutcome::Taken(lease, _) = taken else { panic!("{taken:?}") };
            let recorded = credentials.record_sending(&lease, Duration::from_secs(1)).await;
            assert_eq!(recorded.unwrap(), LeasedWrite::Done);
            credentials.commit(&lease, &fixtures::credentials()).await.unwrap()
        })
    };
    let (waits, goes) = (refresh(in_hand), refresh(free));
    let gone = tokio::time::timeout(Duration::from_secs(5), goes).await;
    assert_eq!(gone.expect("it waits for a row of another").unwrap(), LeasedWrite::Done);
    assert!(!waits.is_finished());
    other.batch_execute("COMMIT").await.unwrap();
    assert_eq!(waits.await.unwrap(), LeasedWrite::Done);
}

/// What the database refuses of one does not cost the others theirs.
#[tokio::test(flavor = "multi_thread")]
async fn a_value_that_the_database_refuses_fails_alone() {
    let (_database, settings) = migrated_database().await;
    let store: Arc<dyn Store> = Arc::new(store_on_postgres(&settings).await);
    let at = provider(&store).await;
    let mut refreshes = JoinSet::new();
    for number in 0..20 {
        let (id, store) = (linked(&store, at, &format!("u{number}")).await.id, Arc::clone(&store));
        refreshes.spawn(async move {
            let (credentials, time) = (store.credentials(), Duration::from_mins(1));
            let taken = credentials.take_lease(id, 1, "replica-1", time).await.unwrap();
            let LeaseOutcome::Taken(lease, _) = taken else { panic!("{taken:?}") };
            // A jsonb holds no such character.
            let scope = if number == 7 { "\u{0}" } else { "a" };
            let renewed = Credentials { scopes: vec![scope.into()], ..fixtures::credentials() };
            (number, credentials.commit(&lease, &renewed).await)
        });
    }
    for (number, committed) in refreshes.join_all().await {
        match committed {
            Ok(done) => assert_eq!((number != 7, done), (true, LeasedWrite::Done)),
            Err(error) => assert_eq!(number, 7, "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_lease_is_announced_to_every_replica() {
    let (database, settings) = migrated_database().await;
    let store: Arc<dyn Store> = Arc::new(store_on_postgres(&settings).await);
    let at = provider(&store).await;
    let id = linked(&store, at, "u").await.id;

    let (client, mut connection) = tokio_postgres::connect(database.url(), NoTls).await.unwrap();
    let (tell, mut heard) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        let mut messages = stream::poll_fn(move |context| connection.poll_message(context));
        while let Some(Ok(message)) = messages.next().await {
            if let AsyncMessage::Notification(it) = message {
                tell.send(it.payload().to_owned()).unwrap();
            }
        }
    });
    client.batch_execute("LISTEN symbolon_identities").await.unwrap();

    let credentials = store.credentials();
    let time = Duration::from_mins(1);
    for end in ["released", "ended", "committed"] {
        let generation = credentials.find(id).await.unwrap().unwrap().generation;
        let taken = credentials.take_lease(id, generation, "r", time).await.unwrap();
        let LeaseOutcome::Taken(lease, _) = taken else { panic!("{end}: {taken:?}") };
        let back_off = BackOff {
            until: DateTime::UNIX_EPOCH,
            class: FailureClass::Unavailable,
            failures: 1,
            detail: String::new(),
        };
        let written = match end {
            "released" => credentials.release(&lease).await,
            "ended" => {
                let end = RefreshEnd::Failed { back_off, answered: true };
                credentials.end(&lease, &end).await
            }
            _ => credentials.commit(&lease, &fixtures::credentials()).await,
        };
        assert_eq!(written.unwrap(), LeasedWrite::Done, "{end}");
        assert_eq!(heard.recv().await, Some(id.to_string()), "{end}");
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

/// The way to a database, which can fall silent: connections stay, and nothing comes through.
struct Network {
    url: String,
    silent: watch::Sender<bool>,
    connections: Arc<std::sync::atomic::AtomicUsize>,
}

impl Network {
    async fn to(database: &TestDatabase) -> Self {
        let rest = database.url().split_once('@').unwrap().1;
        let server = rest.split_once('/').unwrap().0.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = database.url().replace(&server, &listener.local_addr().unwrap().to_string());
        let silent = watch::Sender::new(false);
        let connections = Arc::<std::sync::atomic::AtomicUsize>::default();
        let (hear, count) = (silent.subscribe(), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                let (mut hear, server) = (hear.clone(), server.clone());
                tokio::spawn(async move {
                    let flow = async {
                        let mut far = TcpStream::connect(server).await.unwrap();
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    };
                    let silence = async { hear.wait_for(|it| *it).await.is_ok() };
                    tokio::select! {
                        () = flow => {}
                        _ = silence => std::future::pending().await,
                    }
                });
            }
        });
        Self { url, silent, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(std::sync::atomic::Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_falls_silent_fails_a_read_in_time() {
    let (database, _) = migrated_database().await;
    let network = Network::to(&database).await;
    let settings = DatabaseSettings {
        statement_timeout: Duration::from_secs(1),
        ..DatabaseSettings::new(network.url.clone())
    };
    let store: Arc<dyn Store> = Arc::new(store_on_postgres(&settings).await);
    let at = provider(&store).await;
    let identity = linked(&store, at, "u").await;
    assert!(store.credentials().find(identity.id).await.unwrap().is_some());

    network.silent.send_replace(true);
    // On the connection that is there, and on the one that is to be made.
    for _ in 0..3 {
        let read =
            tokio::time::timeout(Duration::from_secs(8), store.credentials().find(identity.id));
        assert!(read.await.expect("it waits for ever").is_err());
    }
    network.silent.send_replace(false);
    assert!(store.credentials().find(identity.id).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_what_is_pending_makes_no_connection_of_its_own() {
    let (database, _) = migrated_database().await;
    let network = Network::to(&database).await;
    let database = open(&DatabaseSettings::new(network.url.clone())).await;
    database.pending_migrations().await.unwrap();
    // The one that listens is made beside.
    tokio::time::timeout(Duration::from_secs(30), async {
        while network.connections() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .unwrap();
    for _ in 0..5 {
        assert_eq!(database.pending_migrations().await.unwrap(), [""; 0]);
    }
    assert_eq!(network.connections(), 2);
}
