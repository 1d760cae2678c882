//! PostgreSQL: a pool for transactions and lists, two shared connections that pipeline the hot
//! reads, one that listens.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound as _, Utc};
use diesel::{
    ConnectionError, ConnectionResult, QueryResult, declare_sql_function,
    dsl::sql,
    migration::{Migration, MigrationSource as _},
    pg::data_types::PgInterval,
    prelude::*,
    sql_types::{Array, BigInt, Bool, Interval, Text, Timestamptz},
};
use diesel_async::{
    AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl, SimpleAsyncConnection,
    pooled_connection::{
        AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
        deadpool::{Object, Pool},
    },
};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use futures_util::{
    FutureExt as _, StreamExt as _, TryFutureExt as _,
    future::{BoxFuture, Shared},
};
use symbolon_domain::{
    ids::{ApiKeyId, IdentityId},
    ports::{RepositoryError, Sealer},
    refresh_plan::RefreshPlan,
    secret::SecretHash,
};
use tokio::{sync::mpsc, task::JoinError};
use tokio_postgres_rustls::MakeRustlsConnect;

use self::refreshes::Refreshes;
use crate::{
    bell::Bell,
    database::Engine,
    failure::{Failure, unreachable},
    settings::{DatabaseSettings, OpenError},
    tls,
};

pub(crate) mod schema {
    tables!(Timestamptz, Jsonb);
}

pub(crate) type Conn = AsyncPgConnection;
pub(crate) type Db = diesel::pg::Pg;
/// How times are bound.
type TimeSql = Timestamptz;
/// Passes over the rows that somebody else is taking.
const SKIP_CLAIMED: &str = "FOR UPDATE SKIP LOCKED";

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
mod refreshes;
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

#[cfg(test)]
mod plans;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/postgres");
/// The channel on which changed identities are announced, by id.
const CHANNEL: &str = "symbolon_identities";
/// Names the advisory lock under which migrations run: "symbolon" in ASCII.
const MIGRATION_LOCK: i64 = 0x7379_6d62_6f6c_6f6e;
/// Names the advisory lock under which events are given their place: the next number.
const SEQUENCE_LOCK: i64 = MIGRATION_LOCK + 1;
/// Most events that are given their place in one transaction.
const SEQUENCED_AT_ONCE: i64 = 1000;
/// How often a transaction is tried again that lost a race. Each loss is somebody's win, so a
/// crowd of this size gets through.
pub(crate) const RACES: usize = 200;

/// Runs a transaction on a connection of the pool.
macro_rules! in_transaction {
    ($store:expr, async |$conn:ident| $body:expr) => {
        async {
            let mut connection = $store.writer().await.map_err(Failure::Sealed)?;
            diesel_async::AsyncConnection::transaction::<_, Failure, _>(
                &mut *connection,
                async |$conn| $body,
            )
            .await
        }
        .await
    };
}
use in_transaction;

/// Locks the rows that a query reads until the transaction ends.
macro_rules! locked {
    ($query:expr) => {
        $query.for_update()
    };
}
use locked;

/// Locks rows against change, not against others who read them like this.
macro_rules! shared {
    ($query:expr) => {
        $query.for_share()
    };
}
use shared;

/// Locks the rows that a query reads, and leaves out those that somebody else has locked.
macro_rules! unlocked_ones {
    ($query:expr) => {
        $query.for_update().skip_locked()
    };
}
use unlocked_ones;

/// A read on a shared connection; once more on a new one when it turns out to be broken. One that
/// has no answer when the server must have given up is broken and not tried again: its caller has
/// waited long enough.
macro_rules! hot_read {
    ($store:expr, |$conn:ident| $query:expr) => {{
        let mut tried = false;
        loop {
            let shared = $store.hot().await?;
            let $conn = &mut &*shared;
            let Ok(answer) = tokio::time::timeout($store.connector.patience, $query).await else {
                $store.forget(&shared);
                return Err(unreachable(NoAnswer));
            };
            match answer.optional() {
                Ok(row) => return Ok(row),
                Err(error) => {
                    $store.forget(&shared);
                    if tried {
                        return Err(Failure::from(error).into());
                    }
                    tried = true;
                }
            }
        }
    }};
}

/// Functions of the server that statements name. As an SQL literal each would have its statement
/// prepared anew at every call.
#[declare_sql_function]
extern "SQL" {
    #[sql_name = "now"]
    fn transaction_time() -> Timestamptz;

    #[sql_name = "now"]
    fn maybe_transaction_time() -> Nullable<Timestamptz>;

    /// What the operator `+` does.
    #[sql_name = "timestamptz_pl_interval"]
    fn later(at: Timestamptz, by: Interval) -> Timestamptz;

    #[sql_name = "timestamptz_pl_interval"]
    fn maybe_later(at: Timestamptz, by: Interval) -> Nullable<Timestamptz>;

    /// Answers `void`, which reads as an empty text.
    fn pg_notify(channel: Text, payload: Text) -> Text;
}

/// The transaction's time, by the database's clock.
fn now() -> transaction_time {
    transaction_time()
}

/// That much later.
fn now_plus(time: Duration) -> later<transaction_time, PgInterval> {
    later(now(), interval(time))
}

/// The same where a column may be empty.
fn maybe_now() -> maybe_transaction_time {
    maybe_transaction_time()
}

/// That much later.
fn maybe_now_plus(time: Duration) -> maybe_later<transaction_time, PgInterval> {
    maybe_later(now(), interval(time))
}

/// A time in the server's form; three hundred years at most.
fn interval(time: Duration) -> PgInterval {
    const LONGEST: i64 = 300 * 365 * 24 * 3600 * 1_000_000;
    let microseconds = i64::try_from(time.as_micros()).unwrap_or(LONGEST).min(LONGEST);
    PgInterval::from_microseconds(microseconds)
}

async fn time(conn: &mut Conn) -> QueryResult<DateTime<Utc>> {
    diesel::select(now()).get_result(conn).await
}

/// As precise as the columns are.
fn to_microseconds(at: DateTime<Utc>) -> DateTime<Utc> {
    at.trunc_subsecs(6)
}

/// Announces a change with the transaction's end, to every replica.
async fn ring(conn: &mut Conn, identity: i64) -> QueryResult<()> {
    let notify = pg_notify(CHANNEL, identity.to_string());
    diesel::select(notify).execute(conn).await.map(drop)
}

/// Gives committed events their place in the order in which they became visible.
///
/// Ids come from a sequence, before the commit, so a row may appear with an id below one that was
/// read already. Places are given one transaction after the other, to rows that everybody sees, and
/// each only above all earlier ones: whoever has read up to a place has missed none. In a batch the
/// order is that of the ids, which for the rows of one identity is that in which they were written,
/// as that happens under the identity's lock.
async fn sequence(conn: &mut Conn) -> QueryResult<()> {
    loop {
        let waiting = sql::<Bool>("EXISTS (SELECT FROM events WHERE seq IS NULL)");
        if !diesel::select(waiting).get_result::<bool>(conn).await? {
            return Ok(());
        }
        let given = diesel_async::AsyncConnection::transaction(conn, async |conn| {
            diesel::sql_query("SELECT pg_advisory_xact_lock($1)")
                .bind::<BigInt, _>(SEQUENCE_LOCK)
                .execute(conn)
                .await?;
            // A statement of its own: it must see what the last holder of the lock has committed.
            diesel::sql_query(
                "UPDATE events SET seq = place.seq FROM ( \
                    SELECT id, (SELECT coalesce(max(seq), 0) FROM events) \
                        + row_number() OVER (ORDER BY id) AS seq \
                    FROM (SELECT id FROM events WHERE seq IS NULL ORDER BY id LIMIT $1) AS waiting \
                 ) AS place WHERE events.id = place.id",
            )
            .bind::<BigInt, _>(SEQUENCED_AT_ONCE)
            .execute(conn)
            .await
        });
        if i64::try_from(given.await?).is_ok_and(|it| it < SEQUENCED_AT_ONCE) {
            return Ok(());
        }
    }
}

/// A row of Diesel's book of migrations.
#[derive(diesel::QueryableByName)]
struct Applied {
    #[diesel(sql_type = Text)]
    version: String,
}

fn all_migrations() -> Result<Vec<Box<dyn Migration<Db>>>, OpenError> {
    MIGRATIONS.migrations().map_err(|error| OpenError::Migration(error.to_string()))
}

/// Every migration there is, in their order.
fn migration_names() -> Result<Vec<String>, OpenError> {
    Ok(sorted_names(&all_migrations()?))
}

fn sorted_names(migrations: &[Box<dyn Migration<Db>>]) -> Vec<String> {
    let mut names: Vec<_> = migrations.iter().map(|it| it.name().to_string()).collect();
    names.sort();
    names
}

/// Every repository, in one PostgreSQL database.
pub struct Store {
    pool: Pool<Conn>,
    hot: Vec<HotConnection>,
    turn: AtomicUsize,
    connector: Connector,
    sealer: Arc<dyn Sealer>,
    plan: RefreshPlan,
    /// Up to which row plans were made: the entries of what was planned stay in the index for a
    /// while, and are not to be read again for each batch of a million.
    planned_up_to: AtomicI64,
    refreshes: Refreshes,
    bell: Bell,
    listener: tokio::task::AbortHandle,
    announcements: mpsc::UnboundedSender<i64>,
    announcer: tokio::task::AbortHandle,
}

/// A connection that many share: a request does not wait for the answer of the one before.
/// Whoever comes while it is being made waits for it with the first who did: thousands may come at
/// once, and each with a connection of its own would be more than a server takes.
#[derive(Default)]
struct HotConnection(Mutex<Option<Connecting>>);

type Connecting = Shared<BoxFuture<'static, Result<Arc<Conn>, Arc<ConnectionError>>>>;

/// The server, or the network to it, says nothing.
#[derive(Debug, thiserror::Error)]
#[error("PostgreSQL does not answer")]
struct NoAnswer;

/// How long a connection may be silent before it is asked whether anybody is there, how long
/// between two such questions, and how many.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);
/// How long what was sent may stay without the other side's acknowledgement.
const UNACKNOWLEDGED: Duration = Duration::from_secs(15);

/// Makes connections.
#[derive(Clone)]
struct Connector {
    config: tokio_postgres::Config,
    tls: Option<MakeRustlsConnect>,
    /// Longest that a connection or a read by key may take: a little more than the server takes
    /// for a statement.
    patience: Duration,
}

impl Connector {
    fn new(settings: &DatabaseSettings) -> Result<Self, OpenError> {
        // libpq's stricter modes are what we do in any case once TLS is spoken.
        let url = settings
            .url
            .expose()
            .replace("sslmode=verify-full", "sslmode=require")
            .replace("sslmode=verify-ca", "sslmode=require");
        // The parser's message may quote a part of the address, and so a password.
        let mut config: tokio_postgres::Config = url.parse().map_err(|_| {
            OpenError::Malformed(
                "expected postgres://user:password@host:port/database?sslmode=…".to_owned(),
            )
        })?;
        let timeout = settings.statement_timeout.as_millis();
        let options = config.get_options().unwrap_or_default();
        config.options(format!("{options} -c statement_timeout={timeout}").trim().to_owned());
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(Duration::from_secs(5));
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(UNACKNOWLEDGED);
        }
        if config.get_keepalives_interval().is_none() {
            config.keepalives_idle(config.get_keepalives_idle().min(KEEPALIVE.0));
            config.keepalives_interval(KEEPALIVE.1);
        }
        if config.get_keepalives_retries().is_none() {
            config.keepalives_retries(KEEPALIVE.2);
        }
        if config.get_application_name().is_none() {
            config.application_name("symbolon");
        }
        let tls = if config.get_ssl_mode() == tokio_postgres::config::SslMode::Disable {
            None
        } else {
            let root = settings.tls_root_certificate.as_deref();
            Some(MakeRustlsConnect::new(tls::config(root)?))
        };
        let patience = settings.statement_timeout + Duration::from_secs(1);
        Ok(Self { config, tls, patience })
    }

    /// A connection, greeted and ready. The driver's own timeout ends with the handshake of TCP.
    async fn connect(&self) -> ConnectionResult<Conn> {
        let silent = |_| ConnectionError::BadConnection(NoAnswer.to_string());
        tokio::time::timeout(self.patience, self.establish()).await.map_err(silent)?
    }

    async fn establish(&self) -> ConnectionResult<Conn> {
        let bad = |error: tokio_postgres::Error| {
            let source = std::error::Error::source(&error).map(|it| format!(": {it}"));
            ConnectionError::BadConnection(format!("{error}{}", source.unwrap_or_default()))
        };
        if let Some(tls) = &self.tls {
            let (client, connection) = self.config.connect(tls.clone()).await.map_err(bad)?;
            Conn::try_from_client_and_connection(client, connection).await
        } else {
            let (client, connection) =
                self.config.connect(tokio_postgres::NoTls).await.map_err(bad)?;
            Conn::try_from_client_and_connection(client, connection).await
        }
    }
}

impl Store {
    /// A store over the database that the settings name, which must answer.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    pub async fn open(
        settings: &DatabaseSettings,
        sealer: Arc<dyn Sealer>,
    ) -> Result<Self, OpenError> {
        let connector = Connector::new(settings)?;
        let mut config = ManagerConfig::default();
        config.recycling_method = RecyclingMethod::Fast;
        let setup = connector.clone();
        config.custom_setup = Box::new(move |_| {
            let setup = setup.clone();
            async move { setup.connect().await }.boxed()
        });
        let manager = AsyncDieselConnectionManager::new_with_config("", config);
        let pool = Pool::builder(manager)
            .max_size(settings.max_connections.max(1))
            .wait_timeout(Some(Duration::from_secs(10)))
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .map_err(|error| OpenError::Malformed(error.to_string()))?;
        // The first connection shows whether there is a database.
        drop(pool.get().await.map_err(|error| OpenError::Unreachable(error.to_string()))?);

        let bell = Bell::new();
        let listener = tokio::spawn(listen(connector.clone(), bell.clone())).abort_handle();
        let (announcements, ended) = mpsc::unbounded_channel();
        let announcer = tokio::spawn(announce(connector.clone(), ended)).abort_handle();
        let hot = vec![HotConnection::default(), HotConnection::default()];
        let plan = settings.refresh_plan;
        let refreshes = Refreshes::new(&pool, connector.patience, &sealer, plan);
        Ok(Self {
            pool,
            hot,
            turn: AtomicUsize::new(0),
            connector,
            sealer,
            plan,
            planned_up_to: AtomicI64::new(0),
            refreshes,
            bell,
            listener,
            announcements,
            announcer,
        })
    }

    pub(crate) async fn reader(&self) -> Result<Object<Conn>, RepositoryError> {
        self.pool.get().await.map_err(unreachable)
    }

    pub(crate) async fn writer(&self) -> Result<Object<Conn>, RepositoryError> {
        self.reader().await
    }

    /// After a transaction: the database itself announces what changed.
    #[expect(clippy::unused_self, reason = "the other dialect needs it")]
    pub(crate) fn rung(&self) {}

    /// After a write under a lease: tells everybody who waits for its end, soon.
    pub(crate) fn announce(&self, id: IdentityId) {
        self.bell.ring(id);
        // Taken as long as the store lives.
        let _ = self.announcements.send(id.0);
    }

    /// One of the shared connections, made anew when it is broken.
    async fn hot(&self) -> Result<Arc<Conn>, RepositoryError> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % self.hot.len();
        let HotConnection(slot) = &self.hot[turn];
        let connecting = {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            slot.get_or_insert_with(|| self.connecting()).clone()
        };
        connecting.clone().await.map_err(|problem| {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            // The next who comes tries again.
            slot.take_if(|it| it.ptr_eq(&connecting));
            unreachable(problem)
        })
    }

    /// A connection that is made also when the first who wants it has gone.
    fn connecting(&self) -> Connecting {
        let connector = self.connector.clone();
        let made = tokio::spawn(async move { connector.connect().await });
        let broken_off = |error: JoinError| ConnectionError::BadConnection(error.to_string());
        async move { made.await.map_err(broken_off)?.map(Arc::new) }
            .map_err(Arc::new)
            .boxed()
            .shared()
    }

    /// Forgets a connection that failed, unless it was replaced already.
    fn forget(&self, conn: &Arc<Conn>) {
        for HotConnection(slot) in &self.hot {
            let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
            slot.take_if(|it| matches!(it.peek(), Some(Ok(it)) if Arc::ptr_eq(it, conn)));
        }
    }

    pub(crate) async fn find_credentials(
        &self,
        id: IdentityId,
    ) -> Result<Option<credentials::Row>, RepositoryError> {
        hot_read!(self, |conn| schema::identities::table
            .find(id.0)
            .select(credentials::Row::as_select())
            .first(conn))
    }

    pub(crate) async fn find_vendable_row(
        &self,
        id: IdentityId,
        key: Option<ApiKeyId>,
    ) -> Result<Option<vending::VendableRow>, RepositoryError> {
        // No key has this id.
        let key = key.map_or(0, |it| it.0);
        hot_read!(self, |conn| vending::vendable!(id.0, key).first(conn))
    }

    pub(crate) async fn find_identity(
        &self,
        id: IdentityId,
    ) -> Result<Option<identity_row::Shown>, RepositoryError> {
        hot_read!(self, |conn| schema::identities::table
            .find(id.0)
            .select(identity_row::Shown::as_select())
            .first(conn))
    }

    pub(crate) async fn find_api_key(
        &self,
        hash: &SecretHash,
    ) -> Result<Option<api_keys::Row>, RepositoryError> {
        hot_read!(self, |conn| schema::api_keys::table
            .filter(schema::api_keys::hash.eq(hash.0.as_slice()))
            .select(api_keys::Row::as_select())
            .first(conn))
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
}

impl Drop for Store {
    fn drop(&mut self) {
        self.listener.abort();
        self.announcer.abort();
    }
}

/// Listens for changes that any replica announces. While it cannot, waiters poll.
async fn listen(connector: Connector, bell: Bell) {
    loop {
        let heard = async {
            let mut conn = connector.connect().await.map_err(|error| error.to_string())?;
            conn.batch_execute(&format!("LISTEN {CHANNEL}"))
                .await
                .map_err(|error| error.to_string())?;
            let mut notifications = std::pin::pin!(conn.notifications_stream());
            while let Some(notification) = notifications.next().await {
                let notification = notification.map_err(|error| error.to_string())?;
                if let Ok(id) = notification.payload.parse() {
                    bell.ring(IdentityId(id));
                }
            }
            Err::<(), _>("the connection ended".to_owned())
        };
        if let Err(problem) = heard.await {
            tracing::warn!(problem, "does not hear of other replicas' refreshes; polling instead");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Announces ended refreshes to every replica, as many at once as there are.
///
/// Not in the transactions that end them: PostgreSQL lets those that announce something commit one
/// after the other, each with its wait for the disk. What is lost on the way is missed by nobody
/// for long, as whoever waits looks by itself too.
async fn announce(connector: Connector, mut ended: mpsc::UnboundedReceiver<i64>) {
    let mut kept: Option<Conn> = None;
    let mut ids = Vec::new();
    while ended.recv_many(&mut ids, 1000).await > 0 {
        let told = async {
            let mut conn = match kept.take() {
                Some(conn) => conn,
                None => connector.connect().await.map_err(|error| error.to_string())?,
            };
            diesel::sql_query("SELECT pg_notify($1, id::text) FROM unnest($2) AS id")
                .bind::<Text, _>(CHANNEL)
                .bind::<Array<BigInt>, _>(&ids)
                .execute(&mut conn)
                .await
                .map_err(|error| error.to_string())?;
            Ok::<_, String>(conn)
        };
        match tokio::time::timeout(connector.patience, told).await {
            Ok(Ok(conn)) => kept = Some(conn),
            Ok(Err(problem)) => {
                tracing::debug!(problem, "ended refreshes were not announced to other replicas");
            }
            Err(_) => tracing::debug!("ended refreshes were not announced in time"),
        }
        ids.clear();
    }
}

#[async_trait]
impl Engine for Store {
    async fn clock(&self) -> Result<DateTime<Utc>, RepositoryError> {
        let clock = sql::<Timestamptz>("clock_timestamp()");
        let mut conn = self.reader().await?;
        Ok(diesel::select(clock).get_result(&mut *conn).await.map_err(Failure::from)?)
    }

    async fn pending(&self) -> Result<Vec<String>, OpenError> {
        let failed = |error: diesel::result::Error| OpenError::Migration(error.to_string());
        let conn = self.pool.get().await;
        let mut conn = conn.map_err(|error| OpenError::Unreachable(error.to_string()))?;
        // Diesel would make its table to see whether something is in it.
        let has_any = sql::<Bool>("to_regclass('__diesel_schema_migrations') IS NOT NULL");
        let has_any = diesel::select(has_any).get_result::<bool>(&mut conn).await;
        if !has_any.map_err(failed)? {
            return migration_names();
        }
        let applied = diesel::sql_query("SELECT version FROM __diesel_schema_migrations");
        let applied: Vec<Applied> = applied.load(&mut conn).await.map_err(failed)?;
        let applied: HashSet<_> = applied.into_iter().map(|it| it.version).collect();
        let mut pending = all_migrations()?;
        pending.retain(|it| !applied.contains(&it.name().version().to_string()));
        Ok(sorted_names(&pending))
    }

    async fn migrate(&self) -> Result<Vec<String>, OpenError> {
        let failed = |error: &dyn std::fmt::Display| OpenError::Migration(error.to_string());
        let conn = self.connector.connect().await;
        let mut conn = conn.map_err(|error| OpenError::Unreachable(error.to_string()))?;
        conn.batch_execute("SET statement_timeout = 0").await.map_err(|it| failed(&it))?;
        // Held by the connection: whatever happens, its end releases it.
        diesel::sql_query("SELECT pg_advisory_lock($1)")
            .bind::<BigInt, _>(MIGRATION_LOCK)
            .execute(&mut conn)
            .await
            .map_err(|it| failed(&it))?;
        let mut harness = AsyncMigrationHarness::new(conn);
        let pending = harness.pending_migrations(MIGRATIONS).map_err(|it| failed(&it))?;
        harness.run_migrations(&pending).map_err(|it| failed(&it))?;
        Ok(pending.iter().map(|it| it.name().to_string()).collect())
    }

    fn is_embedded(&self) -> bool {
        false
    }
}
