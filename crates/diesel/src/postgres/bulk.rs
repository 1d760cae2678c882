//! What moving whole stores needs of PostgreSQL.

use diesel::{
    QueryResult,
    prelude::*,
    sql_types::{Array, BigInt, Binary, Text},
};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection};
use symbolon_domain::ports::{RepositoryError, SealedColumn};

use super::{Conn, SEQUENCE_LOCK, Store, sealed_values::Resealed};
use crate::failure::{Failure, unreachable};

/// Up to so many ids are passed over one by one, which no other writer can undo; beyond that the
/// sequence leaps, which only one that takes as many ids in the same instant could.
const LEAP: i64 = 10_000;

/// Inserts rows where nothing of the like is there, and answers the ids of those that went in.
macro_rules! insert_missing {
    ($conn:expr, $table:expr, $rows:expr, $id:expr) => {
        diesel::insert_into($table)
            .values($rows)
            .on_conflict_do_nothing()
            .returning($id)
            .get_results::<i64>($conn)
            .await
    };
}
pub(super) use insert_missing;

/// Inserts rows; nothing is in their way, unless somebody was faster.
macro_rules! insert_all {
    ($conn:expr, $table:expr, $rows:expr) => {
        diesel::insert_into($table).values($rows).execute($conn).await
    };
}
pub(super) use insert_all;

/// One transaction of an import. A dry run is inside its one transaction already.
macro_rules! import_transaction {
    ($conn:expr, $dry_run:expr, $take:ident($($argument:expr),*)) => {
        if $dry_run {
            $take($conn, $($argument),*).await
        } else {
            diesel_async::AsyncConnection::transaction::<_, Failure, _>($conn, async |conn| {
                $take(conn, $($argument),*).await
            })
            .await
        }
    };
}
pub(super) use import_transaction;

/// Keeps the rows that a query reads from going away until the transaction ends.
macro_rules! kept_there {
    ($query:expr) => {
        $query.for_key_share()
    };
}
pub(super) use kept_there;

/// Takes rows to write to them, but for their ids, and passes over those that somebody else has
/// taken. Nobody is kept from referring to them meanwhile.
pub(super) const TAKE_FREE_ONES: &str = "FOR NO KEY UPDATE SKIP LOCKED";

/// What a dry run works on: the database itself, in a transaction that is never committed.
pub(super) struct Rehearsal;

impl Store {
    /// A connection of its own, and for a dry run what keeps its work from staying.
    pub(super) async fn open_import(
        &self,
        dry_run: bool,
    ) -> Result<(Conn, Option<Rehearsal>), RepositoryError> {
        let mut conn = self.connector.connect().await.map_err(unreachable)?;
        if dry_run {
            conn.batch_execute("BEGIN").await.map_err(Failure::from)?;
        }
        Ok((conn, dry_run.then_some(Rehearsal)))
    }

    /// A connection that sees everything as it is now, for as long as it lives.
    pub(super) async fn open_snapshot(&self) -> Result<Conn, RepositoryError> {
        let mut conn = self.connector.connect().await.map_err(unreachable)?;
        // The snapshot is that of the first statement.
        conn.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT 1")
            .await
            .map_err(Failure::from)?;
        Ok(conn)
    }

    /// Others need no turn: the server serves them meanwhile.
    #[expect(clippy::unused_async, reason = "the other dialect has one writer at a time")]
    pub(super) async fn let_others_write() {}
}

#[derive(QueryableByName)]
struct Number {
    #[diesel(sql_type = BigInt)]
    value: i64,
}

/// Ids that nobody else is given.
pub(super) async fn new_ids(
    conn: &mut Conn,
    table: &'static str,
    count: usize,
) -> QueryResult<Vec<i64>> {
    let query = "SELECT nextval(pg_get_serial_sequence($1, 'id')) AS value \
                 FROM generate_series(1, $2)";
    let rows: Vec<Number> = diesel::sql_query(query)
        .bind::<Text, _>(table)
        .bind::<BigInt, _>(i64::try_from(count).unwrap_or(i64::MAX))
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|it| it.value).collect())
}

/// Makes every id that is given out from now on greater than this one. It does not wait for the
/// transaction's end, so that nobody is given an id that an import is about to insert.
pub(super) async fn raise_ids(conn: &mut Conn, table: &'static str, above: i64) -> QueryResult<()> {
    let last = "SELECT coalesce(pg_sequence_last_value(pg_get_serial_sequence($1, 'id')::regclass), \
                0) AS value";
    let last: Number = diesel::sql_query(last).bind::<Text, _>(table).get_result(conn).await?;
    let gap = above - last.value;
    if gap > LEAP {
        diesel::sql_query("SELECT setval(pg_get_serial_sequence($1, 'id'), $2)")
            .bind::<Text, _>(table)
            .bind::<BigInt, _>(above)
            .execute(conn)
            .await?;
    } else if gap > 0 {
        let count = usize::try_from(gap).unwrap_or(0);
        new_ids(conn, table, count).await?;
    }
    Ok(())
}

/// The places of events that are written in this transaction: above all earlier ones, and nobody
/// is given a later one before this transaction ends.
pub(super) async fn event_places(conn: &mut Conn, count: usize) -> QueryResult<Vec<Option<i64>>> {
    diesel::sql_query("SELECT pg_advisory_xact_lock($1)")
        .bind::<BigInt, _>(SEQUENCE_LOCK)
        .execute(conn)
        .await?;
    // A statement of its own: it must see what the last holder of the lock has committed.
    let last = diesel::sql_query("SELECT coalesce(max(seq), 0) AS value FROM events");
    let last: Number = last.get_result(conn).await?;
    Ok((1..).map(|it| Some(last.value + it)).take(count).collect())
}

/// The id of the row of an event that has this place: they are not the same here.
pub(super) fn event_row_id(_place: i64) -> Option<i64> {
    None
}

/// Puts values in the place of others, each only if that is still there; answers how many.
pub(super) async fn write_resealed(
    conn: &mut Conn,
    column: SealedColumn,
    changes: Vec<Resealed>,
) -> QueryResult<usize> {
    let (table, name) = (column.table(), column.name());
    let ids: Vec<_> = changes.iter().map(|it| it.id).collect();
    let (old, new): (Vec<_>, Vec<_>) = changes.into_iter().map(|it| (it.old, it.new)).unzip();
    let update = format!(
        "UPDATE {table} SET {name} = change.new FROM unnest($1, $2, $3) AS change(id, old, new) \
         WHERE {table}.id = change.id AND {table}.{name} = change.old"
    );
    diesel::sql_query(update)
        .bind::<Array<BigInt>, _>(ids)
        .bind::<Array<Binary>, _>(old)
        .bind::<Array<Binary>, _>(new)
        .execute(conn)
        .await
}

/// Adds to entries of the ledger, in one statement.
pub(super) async fn add_to_ledger(
    conn: &mut Conn,
    rows: Vec<super::ledger::NewRow>,
) -> QueryResult<()> {
    use diesel::{dsl::sql, sql_types::Timestamptz, upsert::excluded};

    use super::schema::ledger;

    diesel::insert_into(ledger::table)
        .values(rows)
        .on_conflict((ledger::token_hash, ledger::identity_id, ledger::actor, ledger::acting_user))
        .do_update()
        .set((
            ledger::times.eq(ledger::times + excluded(ledger::times)),
            ledger::first_at.eq(sql::<Timestamptz>("LEAST(ledger.first_at, excluded.first_at)")),
            ledger::last_at.eq(sql::<Timestamptz>("GREATEST(ledger.last_at, excluded.last_at)")),
            ledger::request_id.eq(sql::<Text>(
                "CASE WHEN excluded.last_at >= ledger.last_at THEN excluded.request_id \
                 ELSE ledger.request_id END",
            )),
        ))
        .execute(conn)
        .await
        .map(drop)
}
