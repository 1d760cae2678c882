//! What moving whole stores needs of SQLite.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use diesel::{
    QueryResult, SqliteConnection,
    connection::SimpleConnection as _,
    prelude::*,
    sql_types::{BigInt, Binary, Text},
};
use diesel_async::{
    RunQueryDsl, SimpleAsyncConnection, sync_connection_wrapper::SyncConnectionWrapper,
};
use symbolon_domain::{
    ports::{RepositoryError, SealedColumn},
    secret::Secret,
};

use super::{Conn, Store, connect, sealed_values::Resealed};
use crate::failure::{Failure, unreachable};

/// Inserts rows where nothing of the like is there, and answers the ids of those that went in.
/// One statement for each, prepared once, is faster here than one for all.
macro_rules! insert_missing {
    ($conn:expr, $table:expr, $rows:expr, $id:expr) => {{
        let rows = $rows;
        $conn
            .spawn_blocking(move |conn| {
                let mut ids = Vec::new();
                for row in &rows {
                    let insert = diesel::insert_into($table).values(row).on_conflict_do_nothing();
                    if diesel::RunQueryDsl::execute(insert, conn)? == 1 {
                        ids.push(row.id);
                    }
                }
                Ok(ids)
            })
            .await
    }};
}
pub(super) use insert_missing;

/// Inserts rows; nothing is in their way.
macro_rules! insert_all {
    ($conn:expr, $table:expr, $rows:expr) => {{
        let rows = $rows;
        $conn
            .spawn_blocking(move |conn| {
                for row in &rows {
                    diesel::RunQueryDsl::execute(diesel::insert_into($table).values(row), conn)?;
                }
                Ok(rows.len())
            })
            .await
    }};
}
pub(super) use insert_all;

/// One transaction of an import. A dry run works on a copy, so it is committed like any other.
macro_rules! import_transaction {
    ($conn:expr, $dry_run:expr, $take:ident($($argument:expr),*)) => {
        $conn
            .immediate_transaction::<_, Failure, _>(async |conn| {
                $take(conn, $($argument),*).await
            })
            .await
    };
}
pub(super) use import_transaction;

/// Nothing to do: the transaction holds the lock of the whole database.
macro_rules! kept_there {
    ($query:expr) => {
        $query
    };
}
pub(super) use kept_there;

/// Nothing to say: the transaction holds the lock of the whole database.
pub(super) const TAKE_FREE_ONES: &str = "";

/// How long others can write between two transactions of an import. Who waits for the write lock
/// looks again every few milliseconds, and would find it taken each time.
const TURN: Duration = Duration::from_millis(5);

/// What a dry run works on: a copy of the database in a directory of its own, beside it.
pub(super) struct Rehearsal(PathBuf);

impl Rehearsal {
    /// Copies the database as it is, and keeps nobody from writing to it meanwhile.
    fn of(
        path: &Path,
        busy_timeout: Duration,
    ) -> Result<(Self, SqliteConnection), RepositoryError> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".dry-run-{}", Secret::random().expose()));
        let directory = path.with_file_name(name);
        let mut builder = std::fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&directory).map_err(unreachable)?;
        // From here on it is removed, whatever happens.
        let rehearsal = Self(directory);
        let copy = rehearsal.0.join("copy.db");
        let mut conn = connect(path, busy_timeout).map_err(unreachable)?;
        let copied = diesel::sql_query("VACUUM INTO ?").bind::<Text, _>(copy.to_string_lossy());
        diesel::RunQueryDsl::execute(copied, &mut conn).map_err(Failure::from)?;
        let mut conn = connect(&copy, busy_timeout).map_err(unreachable)?;
        conn.batch_execute("PRAGMA journal_mode = MEMORY; PRAGMA synchronous = OFF")
            .map_err(Failure::from)?;
        Ok((rehearsal, conn))
    }
}

impl Drop for Rehearsal {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(%error, path = %self.0.display(), "the copy of a dry run stays");
        }
    }
}

impl Store {
    /// A connection of its own, and for a dry run what keeps its work from staying.
    pub(super) async fn open_import(
        &self,
        dry_run: bool,
    ) -> Result<(Conn, Option<Rehearsal>), RepositoryError> {
        let (path, busy_timeout) = (self.path.clone(), self.busy_timeout);
        let opened = tokio::task::spawn_blocking(move || {
            if dry_run {
                let (rehearsal, conn) = Rehearsal::of(&path, busy_timeout)?;
                return Ok((SyncConnectionWrapper::new(conn), Some(rehearsal)));
            }
            let conn = connect(&path, busy_timeout).map_err(unreachable)?;
            Ok((SyncConnectionWrapper::new(conn), None))
        });
        opened.await.map_err(unreachable)?
    }

    /// A connection that sees everything as it is now, for as long as it lives.
    pub(super) async fn open_snapshot(&self) -> Result<Conn, RepositoryError> {
        let (mut conn, _) = self.open_import(false).await?;
        // The snapshot is that of the first read.
        conn.batch_execute("BEGIN; SELECT count(*) FROM sqlite_schema")
            .await
            .map_err(Failure::from)?;
        Ok(conn)
    }

    /// There is one writer at a time: lets others have their turn.
    pub(super) async fn let_others_write() {
        tokio::time::sleep(TURN).await;
    }
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

async fn last_id(conn: &mut Conn, table: &'static str) -> QueryResult<Option<i64>> {
    let last: Option<Number> =
        diesel::sql_query("SELECT seq AS value FROM sqlite_sequence WHERE name = ?")
            .bind::<Text, _>(table)
            .get_result(conn)
            .await
            .optional()?;
    Ok(last.map(|it| it.value))
}

/// Ids that nobody else is given: inserting them is what uses them up, in this transaction.
pub(super) async fn new_ids(
    conn: &mut Conn,
    table: &'static str,
    count: usize,
) -> QueryResult<Vec<i64>> {
    let last = last_id(conn, table).await?.unwrap_or(0);
    Ok((1..).map(|it| last + it).take(count).collect())
}

/// Makes every id that is given out from now on greater than this one.
pub(super) async fn raise_ids(conn: &mut Conn, table: &'static str, above: i64) -> QueryResult<()> {
    let statement = match last_id(conn, table).await? {
        Some(last) if last >= above => return Ok(()),
        Some(_) => "UPDATE sqlite_sequence SET seq = ? WHERE name = ?",
        None => "INSERT INTO sqlite_sequence (seq, name) VALUES (?, ?)",
    };
    diesel::sql_query(statement)
        .bind::<BigInt, _>(above)
        .bind::<Text, _>(table)
        .execute(conn)
        .await?;
    Ok(())
}

/// The places of events that are written in this transaction: a trigger gives them.
pub(super) async fn event_places(_conn: &mut Conn, count: usize) -> QueryResult<Vec<Option<i64>>> {
    Ok(vec![None; count])
}

/// The id of the row of an event that has this place: the same.
#[expect(clippy::unnecessary_wraps, reason = "the other dialect lets the database give it")]
pub(super) fn event_row_id(place: i64) -> Option<i64> {
    Some(place)
}

/// Puts values in the place of others, each only if that is still there; answers how many.
pub(super) async fn write_resealed(
    conn: &mut Conn,
    column: SealedColumn,
    changes: Vec<Resealed>,
) -> QueryResult<usize> {
    let (table, name) = (column.table(), column.name());
    let update = format!("UPDATE {table} SET {name} = $1 WHERE id = $2 AND {name} = $3");
    conn.spawn_blocking(move |conn| {
        let mut written = 0;
        for change in changes {
            let update = diesel::sql_query(&update)
                .bind::<Binary, _>(change.new)
                .bind::<BigInt, _>(change.id)
                .bind::<Binary, _>(change.old);
            written += diesel::RunQueryDsl::execute(update, conn)?;
        }
        Ok(written)
    })
    .await
}

/// Adds to entries of the ledger, one after the other: prepared once, that is faster here than one
/// statement for all. Times are texts that sort as the times do.
pub(super) async fn add_to_ledger(
    conn: &mut Conn,
    rows: Vec<super::ledger::NewRow>,
) -> QueryResult<()> {
    use diesel::{dsl::sql, sql_types::TimestamptzSqlite, upsert::excluded};

    use super::schema::ledger;

    conn.spawn_blocking(move |conn| {
        for row in &rows {
            let add = diesel::insert_into(ledger::table)
                .values(row)
                .on_conflict((
                    ledger::token_hash,
                    ledger::identity_id,
                    ledger::actor,
                    ledger::acting_user,
                ))
                .do_update()
                .set((
                    ledger::times.eq(ledger::times + excluded(ledger::times)),
                    ledger::first_at
                        .eq(sql::<TimestamptzSqlite>("min(ledger.first_at, excluded.first_at)")),
                    ledger::last_at
                        .eq(sql::<TimestamptzSqlite>("max(ledger.last_at, excluded.last_at)")),
                    ledger::request_id.eq(sql::<Text>(
                        "CASE WHEN excluded.last_at >= ledger.last_at THEN excluded.request_id \
                         ELSE ledger.request_id END",
                    )),
                ));
            diesel::RunQueryDsl::execute(add, conn)?;
        }
        Ok(())
    })
    .await
}
