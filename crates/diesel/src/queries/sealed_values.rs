use async_trait::async_trait;
use diesel::{
    QueryResult,
    prelude::*,
    sql_types::{BigInt, Binary, Nullable},
};
use diesel_async::RunQueryDsl;
use symbolon_domain::ports::{
    Place, RefusedBecause, RefusedValue, RepositoryError, ResealedPage, SealError, SealedColumn,
    SealedPage, SealedValues, Sealer,
};

use super::{
    Conn, Store,
    bulk::{TAKE_FREE_ONES, write_resealed},
    in_transaction,
};
use crate::failure::Failure;

/// Rows of one look: whatever little is to be found among them, one statement is done with them in
/// a small part of its time.
const STRETCH: u32 = 20_000;

/// A value as it lies there.
#[derive(QueryableByName)]
struct Value {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = BigInt)]
    idp: i64,
    #[diesel(sql_type = BigInt)]
    generation: i64,
    #[diesel(sql_type = Binary)]
    sealed: Vec<u8>,
}

/// A value that takes the place of another one.
pub(super) struct Resealed {
    pub(super) id: i64,
    pub(super) old: Vec<u8>,
    pub(super) new: Vec<u8>,
}

#[derive(QueryableByName)]
struct Id {
    #[diesel(sql_type = BigInt)]
    id: i64,
}

#[derive(QueryableByName)]
struct MaybeId {
    #[diesel(sql_type = Nullable<BigInt>)]
    id: Option<i64>,
}

impl Value {
    fn place(&self, column: SealedColumn) -> Place {
        let Self { id, idp, generation, .. } = *self;
        Place { table: column.table(), row: id, idp, generation }
    }

    /// Why it does not open; `None` when it does.
    fn refused(&self, column: SealedColumn, sealer: &dyn Sealer) -> Option<RefusedValue> {
        let error = sealer.open(&self.place(column), &self.sealed).err()?;
        let because = match (error, sealer.key_id(&self.sealed)) {
            (SealError::UnknownKey(key), _) => RefusedBecause::UnknownKey(key),
            (SealError::Refused, Some(key)) => RefusedBecause::OutOfPlace(key),
            (SealError::Refused, None) => RefusedBecause::NeverSealed,
        };
        Some(RefusedValue { row: self.id, because })
    }
}

/// Provider and generation of a value's place, as columns of its row or as numbers: what the
/// queries of each table seal with.
fn place_columns(column: SealedColumn) -> (&'static str, &'static str) {
    match column {
        SealedColumn::ProviderSecrets => ("id", "version"),
        SealedColumn::IdentityCredentials => ("idp_id", "generation"),
        SealedColumn::SessionProof => ("0", "1"),
        SealedColumn::SessionPending => ("0", "2"),
        SealedColumn::RevocationGrant => ("provider_id", "generation"),
        SealedColumn::DeviceCode => ("provider_id", "1"),
        SealedColumn::WebhookSecrets | SealedColumn::LedgerSalt => ("0", "generation"),
        SealedColumn::AuthIdentityCredentials => ("auth_provider_id", "generation"),
    }
}

/// The columns of a [`Value`].
fn value_columns(column: SealedColumn) -> String {
    let ((idp, generation), name) = (place_columns(column), column.name());
    format!(
        "id, CAST({idp} AS bigint) AS idp, CAST({generation} AS bigint) AS generation, \
         {name} AS sealed"
    )
}

/// The last row of the stretch after this one.
async fn end_of_stretch(
    conn: &mut Conn,
    column: SealedColumn,
    after: i64,
) -> QueryResult<Option<i64>> {
    let table = column.table();
    let last: MaybeId = diesel::sql_query(format!(
        "SELECT max(id) AS id FROM \
         (SELECT id FROM {table} WHERE id > $1 ORDER BY id LIMIT {STRETCH}) AS stretch"
    ))
    .bind::<BigInt, _>(after)
    .get_result(conn)
    .await?;
    Ok(last.id)
}

/// Where to go on after what was found among the rows up to `end`: a page that is full ends with
/// its last row.
fn next(last_found: Option<i64>, found: usize, limit: u32, end: i64) -> i64 {
    let full = u32::try_from(found).is_ok_and(|it| it >= limit);
    last_found.filter(|_| full).unwrap_or(end)
}

#[async_trait]
impl SealedValues for Store {
    async fn highest(&self, column: SealedColumn) -> Result<i64, RepositoryError> {
        let conn = &mut *self.reader().await?;
        let highest = format!("SELECT max(id) AS id FROM {}", column.table());
        let highest = diesel::sql_query(highest).get_result::<MaybeId>(conn).await;
        Ok(highest.map_err(Failure::from)?.id.unwrap_or(0))
    }

    async fn check(
        &self,
        column: SealedColumn,
        after: i64,
        limit: u32,
    ) -> Result<SealedPage, RepositoryError> {
        let (found, end) = {
            let conn = &mut *self.reader().await?;
            let end = end_of_stretch(conn, column, after).await.map_err(Failure::from)?;
            let Some(end) = end else { return Ok(SealedPage::default()) };
            let query = format!(
                "SELECT {} FROM {} WHERE id > $1 AND id <= $2 AND {} IS NOT NULL \
                 ORDER BY id LIMIT {limit}",
                value_columns(column),
                column.table(),
                column.name()
            );
            let found = diesel::sql_query(query)
                .bind::<BigInt, _>(after)
                .bind::<BigInt, _>(end)
                .load::<Value>(conn)
                .await;
            (found.map_err(Failure::from)?, end)
        };
        let mut page = SealedPage {
            next: Some(next(found.last().map(|it| it.id), found.len(), limit, end)),
            ..SealedPage::default()
        };
        for value in &found {
            *page.keys.entry(self.sealer.key_id(&value.sealed)).or_default() += 1;
            page.refused.extend(value.refused(column, &*self.sealer));
        }
        Ok(page)
    }

    async fn reseal(
        &self,
        column: SealedColumn,
        after: i64,
        limit: u32,
    ) -> Result<ResealedPage, RepositoryError> {
        let (table, name) = (column.table(), column.name());
        let mark = self.sealer.mark();
        // The first bytes say under which key a value is.
        let to_do = format!("{name} IS NOT NULL AND substr({name}, 1, {}) <> ", mark.len());
        let (found, end) = {
            let conn = &mut *self.reader().await?;
            let end = end_of_stretch(conn, column, after).await.map_err(Failure::from)?;
            let Some(end) = end else { return Ok(ResealedPage::default()) };
            let found = diesel::sql_query(format!(
                "SELECT id FROM {table} WHERE id > $1 AND id <= $2 AND {to_do} $3 \
                 ORDER BY id LIMIT {limit}"
            ))
            .bind::<BigInt, _>(after)
            .bind::<BigInt, _>(end)
            .bind::<Binary, _>(&mark)
            .load::<Id>(conn)
            .await;
            (found.map_err(Failure::from)?, end)
        };
        let next = next(found.last().map(|it| it.id), found.len(), limit, end);
        if found.is_empty() {
            return Ok(ResealedPage { next: Some(next), ..ResealedPage::default() });
        }
        let ids: Vec<_> = found.iter().map(|it| it.id.to_string()).collect();
        let query = format!(
            "SELECT {} FROM {table} WHERE id IN ({}) AND {to_do} $1 ORDER BY id {TAKE_FREE_ONES}",
            value_columns(column),
            ids.join(", ")
        );
        let resealed = in_transaction!(self, async |conn| {
            // Locked from here to the end of the transaction, so that place and value belong
            // together; rows that somebody else holds are left for another time, since waiting
            // with rows in hand is how two come to wait for each other.
            let values = diesel::sql_query(&query).bind::<Binary, _>(&mark);
            let values: Vec<Value> = values.load(conn).await?;
            let free = values.len();
            let mut changes = Vec::with_capacity(values.len());
            for value in values {
                let place = value.place(column);
                let Ok(plain) = self.sealer.open(&place, &value.sealed) else { continue };
                let new = self.sealer.seal(&place, &plain);
                let new = new.map_err(|error| Failure::sealed(&place, &error))?;
                changes.push(Resealed { id: value.id, old: value.sealed, new });
            }
            Ok((free, write_resealed(conn, column, changes).await?))
        });
        let (free, resealed) = resealed?;
        Self::let_others_write().await;
        let count = |it: usize| u64::try_from(it).unwrap_or(u64::MAX);
        let busy = count(found.len().saturating_sub(free));
        Ok(ResealedPage { resealed: count(resealed), busy, next: Some(next) })
    }
}
