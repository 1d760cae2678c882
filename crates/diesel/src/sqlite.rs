//! Embedded SQLite: one connection that writes, some that read off the runtime's threads, and some
//! whose reads by key run where they are called, because they take microseconds.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, PoisonError, TryLockError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use diesel::{
    Connection as _, QueryResult, SqliteConnection,
    connection::SimpleConnection as _,
    migration::{Migration, MigrationSource as _},
    prelude::*,
};
use diesel_async::{
    pooled_connection::{
        AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
        deadpool::{Object, Pool},
    },
    sync_connection_wrapper::SyncConnectionWrapper,
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use futures_util::FutureExt as _;
use symbolon_domain::{
    credentials::Credentials,
    ids::{ApiKeyId, IdentityId},
    ports::{Lease, LeasedWrite, RepositoryError, Sealer},
    refresh_plan::RefreshPlan,
    secret::SecretHash,
};

use crate::{
    bell::Bell,
    database::Engine,
    failure::{Failure, unreachable},
    settings::{DatabaseSettings, OpenError},
};

pub(crate) mod schema {
    tables!(TimestamptzSqlite, Json);
}

pub(crate) type Conn = SyncConnectionWrapper<SqliteConnection>;
pub(crate) type Db = diesel::sqlite::Sqlite;
/// How times are bound.
type TimeSql = diesel::sql_types::TimestamptzSqlite;
/// Nobody else is taking any: the transaction holds the lock of the whole database.
const SKIP_CLAIMED: &str = "";

#[path = "queries/api_keys.rs"]
mod api_keys;
#[path = "queries/archive.rs"]
mod archive;
#[path = "queries/auth_identities.rs"]
mod auth_identities;
#[path = "queries/auth_providers.rs"]
mod auth_providers;
mod bulk;
#[path = "queries/credentials.rs"]
mod credentials;
#[path = "queries/device_links.rs"]
mod device_links;
#[path = "queries/events.rs"]
mod events;
#[path = "queries/forecast.rs"]
mod forecast;
#[path = "queries/identities.rs"]
mod identities;
#[path = "queries/identity_providers.rs"]
mod identity_providers;
#[path = "queries/identity_row.rs"]
mod identity_row;
#[path = "queries/ledger.rs"]
mod ledger;
#[path = "queries/link_sessions.rs"]
mod link_sessions;
#[path = "queries/logouts.rs"]
mod logouts;
#[path = "queries/organization_identities.rs"]
mod organization_identities;
#[path = "queries/refresh_schedule.rs"]
mod refresh_schedule;
#[path = "queries/revocations.rs"]
mod revocations;
#[path = "queries/sealed_values.rs"]
mod sealed_values;
#[path = "queries/transfers.rs"]
mod transfers;
#[path = "queries/vending.rs"]
mod vending;
#[path = "queries/webhooks.rs"]
mod webhooks;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/sqlite");
/// Writers come one after the other, so a race is lost only to another process.
pub(crate) const RACES: usize = 8;
/// Connections for reads by key; more than runtime threads are never in use at the same time.
const HOT: usize = 8;

/// Runs a transaction on the one connection that writes. It takes SQLite's write lock at once: one
/// that reads first and writes later fails when another has written in between.
macro_rules! in_transaction {
    ($store:expr, async |$conn:ident| $body:expr) => {
        async {
            let mut connection = $store.writer().await.map_err(Failure::Sealed)?;
            connection.immediate_transaction::<_, Failure, _>(async |$conn| $body).await
        }
        .await
    };
}
use in_transaction;

/// A read by key on this thread; where the file is locked, on a connection that waits off the
/// runtime's threads.
macro_rules! hot_read {
    ($store:expr, $query:expr) => {{
        let row = match $store.hot(|conn| $query.get_result(conn)).optional() {
            Err(error) if is_locked(&error) => {
                let mut conn = $store.reader().await?;
                diesel_async::RunQueryDsl::get_result($query, &mut *conn).await.optional()
            }
            row => row,
        };
        Ok(row.map_err(Failure::from)?)
    }};
}

/// Nothing to do: the transaction holds the lock of the whole database.
macro_rules! locked {
    ($query:expr) => {
        $query
    };
}
use locked;
// The same goes for both.
use locked as shared;
use locked as unlocked_ones;

/// The process's clock: it is the database's too.
#[expect(clippy::disallowed_methods, reason = "SQLite decides by the machine's clock")]
fn now() -> DateTime<Utc> {
    to_microseconds(Utc::now())
}

fn maybe_now() -> DateTime<Utc> {
    now()
}

/// That much later.
fn now_plus(time: Duration) -> DateTime<Utc> {
    let time = TimeDelta::from_std(time).ok();
    time.and_then(|it| now().checked_add_signed(it)).unwrap_or(DateTime::<Utc>::MAX_UTC)
}

fn maybe_now_plus(time: Duration) -> DateTime<Utc> {
    now_plus(time)
}

async fn time(_conn: &mut Conn) -> QueryResult<DateTime<Utc>> {
    Ok(now())
}

/// As precise as the other dialect's columns are.
fn to_microseconds(at: DateTime<Utc>) -> DateTime<Utc> {
    at.trunc_subsecs(6)
}

/// Nothing to do inside the transaction: who waits is in this process, and is woken after it.
async fn ring(_conn: &mut Conn, _identity: i64) -> QueryResult<()> {
    Ok(())
}

/// Nothing to do: the one writer commits in the order of the ids, and a trigger gives the place.
async fn sequence(_conn: &mut Conn) -> QueryResult<()> {
    Ok(())
}

/// Every migration there is, in their order.
pub(crate) fn migration_names() -> Result<Vec<String>, OpenError> {
    let all: Vec<Box<dyn Migration<Db>>> =
        MIGRATIONS.migrations().map_err(|error| OpenError::Migration(error.to_string()))?;
    let mut names: Vec<_> = all.iter().map(|it| it.name().to_string()).collect();
    names.sort();
    Ok(names)
}

/// Every repository, in one SQLite file.
pub struct Store {
    path: PathBuf,
    busy_timeout: Duration,
    writer: Pool<Conn>,
    readers: Pool<Conn>,
    hot: Vec<Mutex<SqliteConnection>>,
    turn: AtomicUsize,
    sealer: Arc<dyn Sealer>,
    plan: RefreshPlan,
    /// Up to which row plans were made: the entries of what was planned stay in the index for a
    /// while, and are not to be read again for each batch of a million.
    planned_up_to: AtomicI64,
    bell: Bell,
}

impl Store {
    /// A store in this file, which is created where it is not there.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn open(
        path: &Path,
        settings: &DatabaseSettings,
        sealer: Arc<dyn Sealer>,
    ) -> Result<Self, OpenError> {
        let (path, busy_timeout) = (path.to_owned(), settings.statement_timeout);
        create_private(&path)?;
        let file = |problem: String| OpenError::File { path: path.clone(), problem };
        let hot = tokio::task::spawn_blocking({
            let path = path.clone();
            move || {
                let hot = || connect(&path, busy_timeout).and_then(impatient).map(Mutex::new);
                (0..HOT).map(|_| hot()).collect()
            }
        });
        let hot: Result<Vec<_>, _> = hot.await.map_err(|error| file(error.to_string()))?;
        let hot = hot.map_err(|error| file(error.to_string()))?;
        let readers = settings.max_connections.clamp(1, 8);
        Ok(Self {
            writer: pool(&path, busy_timeout, 1)?,
            readers: pool(&path, busy_timeout, readers)?,
            path,
            busy_timeout,
            hot,
            turn: AtomicUsize::new(0),
            planned_up_to: AtomicI64::new(0),
            sealer,
            plan: settings.refresh_plan,
            bell: Bell::new(),
        })
    }

    pub(crate) async fn reader(&self) -> Result<Object<Conn>, RepositoryError> {
        self.readers.get().await.map_err(unreachable)
    }

    pub(crate) async fn writer(&self) -> Result<Object<Conn>, RepositoryError> {
        self.writer.get().await.map_err(unreachable)
    }

    /// After a transaction: wakes who waits in this process. Other processes poll.
    pub(crate) fn rung(&self) {
        self.bell.ring_for_all();
    }

    /// After a write under a lease: the same.
    pub(crate) fn announce(&self, id: IdentityId) {
        self.bell.ring(id);
    }

    /// There is one writer: nothing is taken together.
    #[expect(clippy::unused_async, reason = "the other dialect needs it")]
    pub(crate) async fn take_lease_together(
        &self,
        _: IdentityId,
        _: i64,
        _: &str,
        _: Duration,
    ) -> Result<Option<credentials::Taken>, RepositoryError> {
        Ok(None)
    }

    /// Nor written.
    #[expect(clippy::unused_async, reason = "the other dialect needs it")]
    pub(crate) async fn record_sending_together(
        &self,
        _: &Lease,
        _: Duration,
    ) -> Result<Option<LeasedWrite>, RepositoryError> {
        Ok(None)
    }

    /// Nor committed.
    #[expect(clippy::unused_async, reason = "the other dialect needs it")]
    pub(crate) async fn commit_together(
        &self,
        _: &Lease,
        _: &Credentials,
    ) -> Result<Option<LeasedWrite>, RepositoryError> {
        Ok(None)
    }

    /// A connection for a read that takes microseconds, on this thread.
    ///
    /// Its queries are by a unique key and have no `LIMIT`: SQLite prepares a statement again each
    /// time a bound limit is set, which costs more than the read.
    fn hot<T>(&self, read: impl FnOnce(&mut SqliteConnection) -> T) -> T {
        let start = self.turn.fetch_add(1, Ordering::Relaxed);
        for offset in 0..self.hot.len() {
            match self.hot[(start + offset) % self.hot.len()].try_lock() {
                Ok(mut conn) => return read(&mut conn),
                Err(TryLockError::Poisoned(conn)) => return read(&mut conn.into_inner()),
                Err(TryLockError::WouldBlock) => {}
            }
        }
        // All are in use, by other threads and for microseconds.
        let conn = &self.hot[start % self.hot.len()];
        read(&mut conn.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) async fn find_credentials(
        &self,
        id: IdentityId,
    ) -> Result<Option<credentials::Row>, RepositoryError> {
        hot_read!(self, schema::identities::table.find(id.0).select(credentials::Row::as_select()))
    }

    pub(crate) async fn find_vendable_row(
        &self,
        id: IdentityId,
        key: Option<ApiKeyId>,
    ) -> Result<Option<vending::VendableRow>, RepositoryError> {
        // No key has this id.
        let key = key.map_or(0, |it| it.0);
        hot_read!(self, vending::vendable!(id.0, key))
    }

    pub(crate) async fn find_identity(
        &self,
        id: IdentityId,
    ) -> Result<Option<identity_row::Shown>, RepositoryError> {
        hot_read!(
            self,
            schema::identities::table.find(id.0).select(identity_row::Shown::as_select())
        )
    }

    pub(crate) async fn find_api_key(
        &self,
        hash: &SecretHash,
    ) -> Result<Option<api_keys::Row>, RepositoryError> {
        hot_read!(
            self,
            schema::api_keys::table
                .filter(schema::api_keys::hash.eq(hash.0.as_slice()))
                .select(api_keys::Row::as_select())
        )
    }

    pub(crate) async fn wait_for_change(&self, id: IdentityId, at_most: Duration) {
        let mut ear = self.bell.listen();
        let under_way = || {
            async move {
                let mut conn = self.reader().await?;
                let attempt = credentials::attempt_under_way(&mut conn, id).await;
                Ok(attempt.map_err(Failure::from)?)
            }
            .boxed()
        };
        crate::bell::wait_for_change(&mut ear, id, at_most, under_way).await;
    }

    /// Runs a piece of work on a connection of its own, off the runtime's threads.
    async fn aside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut SqliteConnection) -> Result<T, OpenError> + Send + 'static,
    ) -> Result<T, OpenError> {
        let (path, busy_timeout) = (self.path.clone(), self.busy_timeout);
        let work = tokio::task::spawn_blocking(move || {
            let conn = connect(&path, busy_timeout);
            work(&mut conn.map_err(|error| OpenError::File { path, problem: error.to_string() })?)
        });
        work.await.map_err(|error| OpenError::Migration(error.to_string()))?
    }
}

fn pool(path: &Path, busy_timeout: Duration, size: usize) -> Result<Pool<Conn>, OpenError> {
    let mut config = ManagerConfig::default();
    config.recycling_method = RecyclingMethod::Fast;
    let owned = path.to_owned();
    config.custom_setup = Box::new(move |_| {
        let path = owned.clone();
        async move {
            let conn = tokio::task::spawn_blocking(move || connect(&path, busy_timeout)).await;
            let conn =
                conn.map_err(|error| ConnectionError::BadConnection(error.to_string()))??;
            Ok(SyncConnectionWrapper::new(conn))
        }
        .boxed()
    });
    let manager = AsyncDieselConnectionManager::new_with_config("", config);
    Pool::builder(manager)
        .max_size(size)
        .build()
        .map_err(|error| OpenError::File { path: path.to_owned(), problem: error.to_string() })
}

/// A connection, set up.
///
/// The busy timeout comes first, or switching to WAL fails while another does the same.
/// `synchronous = FULL` costs an fsync with each commit, and is what keeps a refresh token that the
/// provider has rotated through a power cut: in WAL mode `NORMAL` may lose the last commits.
fn connect(path: &Path, busy_timeout: Duration) -> ConnectionResult<SqliteConnection> {
    let url = path.to_string_lossy();
    let mut conn = SqliteConnection::establish(&url)?;
    let setup = format!(
        "PRAGMA busy_timeout = {}; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
         PRAGMA foreign_keys = ON; PRAGMA temp_store = MEMORY;",
        busy_timeout.as_millis()
    );
    conn.batch_execute(&setup)
        .map_err(|error| ConnectionError::BadConnection(error.to_string()))?;
    Ok(conn)
}

/// Lets a connection say at once that the file is locked: what it reads runs on a thread that
/// others need.
fn impatient(mut conn: SqliteConnection) -> ConnectionResult<SqliteConnection> {
    conn.batch_execute("PRAGMA busy_timeout = 0")
        .map_err(|error| ConnectionError::BadConnection(error.to_string()))?;
    Ok(conn)
}

/// Whether waiting helps (`SQLITE_BUSY`, for which Diesel knows no kind).
fn is_locked(error: &diesel::result::Error) -> bool {
    matches!(error, diesel::result::Error::DatabaseError(_, info)
        if info.message() == "database is locked")
}

/// Applies one migration that is lacking, if any, and names it. It looks and writes under one
/// lock, so that of two processes the later finds the step done.
fn next_migration(conn: &mut SqliteConnection) -> Result<Option<String>, OpenError> {
    let step = conn.exclusive_transaction(|conn| {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| Stopped(error.to_string());
        let pending = conn.pending_migrations(MIGRATIONS).map_err(failed)?;
        let Some(next) = pending.first() else { return Ok(None) };
        conn.run_migration(next).map_err(failed)?;
        Ok(Some(next.name().to_string()))
    });
    step.map_err(|Stopped(why)| OpenError::Migration(why))
}

/// Why a migration was rolled back.
struct Stopped(String);

impl From<diesel::result::Error> for Stopped {
    fn from(error: diesel::result::Error) -> Self {
        Self(error.to_string())
    }
}

/// Creates the file for its owner alone, where it is not there yet.
fn create_private(path: &Path) -> Result<(), OpenError> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(path) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(OpenError::File { path: path.to_owned(), problem: error.to_string() }),
    }
}

#[async_trait]
impl Engine for Store {
    async fn clock(&self) -> Result<DateTime<Utc>, RepositoryError> {
        let mut conn = self.reader().await?;
        let one = diesel::select(1.into_sql::<diesel::sql_types::Integer>());
        diesel_async::RunQueryDsl::get_result::<i32>(one, &mut *conn)
            .await
            .map_err(Failure::from)?;
        Ok(now())
    }

    async fn pending(&self) -> Result<Vec<String>, OpenError> {
        self.aside(|conn| {
            let pending = conn.pending_migrations(MIGRATIONS);
            let pending = pending.map_err(|error| OpenError::Migration(error.to_string()))?;
            Ok(pending.iter().map(|it| it.name().to_string()).collect())
        })
        .await
    }

    async fn migrate(&self) -> Result<Vec<String>, OpenError> {
        self.aside(|conn| {
            let mut applied = Vec::new();
            while let Some(name) = next_migration(conn)? {
                applied.push(name);
            }
            Ok(applied)
        })
        .await
    }

    fn is_embedded(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use symbolon_domain::{
        ports::{IdentityProviderRepository as _, IdentityRepository as _, LinkOutcome},
        testing::{TestSealer, fixtures},
    };

    use super::*;

    /// A store whose hot connections can be locked out: in WAL mode only a recovery does that, in
    /// the mode without it every transaction of another process that is exclusive.
    async fn store_without_wal(path: &Path) -> Store {
        let settings = DatabaseSettings::new(format!("sqlite:{}", path.display()));
        let sealer = Arc::new(TestSealer::default());
        let mut store = Store::open(path, &settings, sealer).await.unwrap();
        store.migrate().await.unwrap();
        store.hot.clear();
        let mut conn = SqliteConnection::establish(&path.to_string_lossy()).unwrap();
        conn.batch_execute("PRAGMA journal_mode = DELETE").unwrap();
        // As `connect` leaves it, but for the mode.
        let mut plain = SqliteConnection::establish(&path.to_string_lossy()).unwrap();
        plain.batch_execute("PRAGMA busy_timeout = 10000").unwrap();
        store.hot = vec![Mutex::new(impatient(plain).unwrap())];
        store
    }

    #[tokio::test]
    async fn a_read_of_a_locked_file_waits_and_holds_up_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("symbolon.db");
        let provider = fixtures::new_identity_provider();
        let identity = {
            let settings = DatabaseSettings::new(format!("sqlite:{}", path.display()));
            let store =
                Store::open(&path, &settings, Arc::new(TestSealer::default())).await.unwrap();
            store.migrate().await.unwrap();
            let provider_id = store.insert(&provider, &fixtures::ACTOR).await.unwrap().id;
            let link = symbolon_domain::ports::Link { provider_id, ..fixtures::link() };
            match store.link(&link).await.unwrap() {
                LinkOutcome::Created(identity) => identity.id,
                other => panic!("{other:?}"),
            }
        };
        let store = store_without_wal(&path).await;
        let mut other = SqliteConnection::establish(&path.to_string_lossy()).unwrap();
        other.batch_execute("BEGIN EXCLUSIVE").unwrap();
        let locked = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(1));
            other.batch_execute("COMMIT").unwrap();
        });

        let started = Instant::now();
        let ticks = async {
            let mut longest = Duration::ZERO;
            let mut last = Instant::now();
            while started.elapsed() < Duration::from_millis(900) {
                tokio::time::sleep(Duration::from_millis(10)).await;
                longest = longest.max(last.elapsed());
                last = Instant::now();
            }
            longest
        };
        let (found, longest) = tokio::join!(store.find_identity(identity), ticks);

        assert!(found.unwrap().is_some());
        assert!(started.elapsed() >= Duration::from_millis(900), "nothing was locked");
        assert!(longest < Duration::from_millis(500), "the runtime stood still for {longest:?}");
        locked.join().unwrap();
    }
}
