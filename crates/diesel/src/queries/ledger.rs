use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use symbolon_domain::{
    event::Who,
    ids::{IdentityId, LedgerEntryId, ProviderId},
    ledger::{HandOut, LedgerEntry, Tally, TokenMark},
    page::{Page, PageRequest},
    ports::{LedgerFilter, LedgerRepository, Place, RepositoryError},
    secret::Secret,
};

use super::{
    Conn, Db, Store, bulk, in_transaction,
    schema::{ledger, ledger_salt},
};
use crate::{
    failure::Failure,
    values::{hash, parsed, user},
};

#[derive(Queryable, Selectable)]
#[diesel(table_name = ledger, check_for_backend(Db))]
pub(crate) struct Row {
    id: i64,
    token_hash: Vec<u8>,
    identity_id: i64,
    provider_id: i64,
    user_id: String,
    actor: String,
    acting_user: String,
    times: i64,
    first_at: DateTime<Utc>,
    last_at: DateTime<Utc>,
    request_id: String,
}

/// What is added to an entry, or is one.
#[derive(Insertable)]
#[diesel(table_name = ledger, check_for_backend(Db))]
pub(crate) struct NewRow {
    token_hash: Vec<u8>,
    identity_id: i64,
    provider_id: i64,
    user_id: String,
    actor: String,
    acting_user: String,
    times: i64,
    first_at: DateTime<Utc>,
    last_at: DateTime<Utc>,
    request_id: String,
}

impl NewRow {
    fn new((hand_out, tally): &(HandOut, Tally)) -> Self {
        Self {
            token_hash: hand_out.token.0.0.to_vec(),
            identity_id: hand_out.identity_id.0,
            provider_id: hand_out.provider_id.0,
            user_id: hand_out.user_id.as_str().to_owned(),
            actor: hand_out.to.to_string(),
            acting_user: hand_out.acting_user.as_ref().map_or("", |it| it.as_str()).to_owned(),
            times: i64::try_from(tally.times).unwrap_or(i64::MAX),
            first_at: super::to_microseconds(tally.first_at),
            last_at: super::to_microseconds(tally.last_at),
            request_id: tally.request_id.clone(),
        }
    }
}

impl TryFrom<Row> for LedgerEntry {
    type Error = Failure;

    fn try_from(row: Row) -> Result<Self, Failure> {
        let acting_user = Some(row.acting_user).filter(|it| !it.is_empty()).map(user);
        Ok(Self {
            id: LedgerEntryId(row.id),
            hand_out: HandOut {
                token: TokenMark(hash(&row.token_hash)?),
                identity_id: IdentityId(row.identity_id),
                provider_id: ProviderId(row.provider_id),
                user_id: user(row.user_id)?,
                to: parsed(&row.actor, Who::parse)?,
                acting_user: acting_user.transpose()?,
            },
            tally: Tally {
                times: u64::try_from(row.times).unwrap_or(0),
                first_at: row.first_at,
                last_at: row.last_at,
                request_id: row.request_id,
            },
        })
    }
}

/// The one row of the salt.
const SALT: i64 = 1;
/// Where it is sealed for.
const SALT_PLACE: Place = Place { table: "ledger_salt", row: SALT, idp: 0, generation: 1 };

async fn find_salt(conn: &mut Conn) -> QueryResult<Option<(Vec<u8>, i64)>> {
    let columns = (ledger_salt::sealed, ledger_salt::generation);
    ledger_salt::table.find(SALT).select(columns).first(conn).await.optional()
}

#[async_trait]
impl LedgerRepository for Store {
    async fn salt(&self) -> Result<Secret, RepositoryError> {
        let there = find_salt(&mut *self.reader().await?).await.map_err(Failure::from)?;
        let (sealed, generation) = if let Some(there) = there {
            there
        } else {
            let made = Secret::random();
            let sealed = self.sealer.seal(&SALT_PLACE, made.expose().as_bytes());
            let sealed = sealed.map_err(|error| Failure::sealed(&SALT_PLACE, &error))?;
            let conn = &mut *self.writer().await?;
            diesel::insert_into(ledger_salt::table)
                .values((
                    ledger_salt::id.eq(SALT),
                    ledger_salt::sealed.eq(sealed),
                    ledger_salt::generation.eq(SALT_PLACE.generation),
                ))
                .on_conflict_do_nothing()
                .execute(conn)
                .await
                .map_err(Failure::from)?;
            // Somebody else's, where that was faster.
            let there = find_salt(conn).await.map_err(Failure::from)?;
            there.ok_or_else(|| Failure::unreadable("the ledger's salt is gone"))?
        };
        let place = Place { generation, ..SALT_PLACE };
        let opened = self.sealer.open(&place, &sealed);
        let opened = opened.map_err(|error| Failure::sealed(&place, &error))?;
        let text = std::str::from_utf8(&opened)
            .map_err(|_| Failure::unreadable("the ledger's salt is no text"))?;
        Ok(Secret::new(text))
    }

    async fn record(&self, hand_outs: &[(HandOut, Tally)]) -> Result<(), RepositoryError> {
        if hand_outs.is_empty() {
            return Ok(());
        }
        let rows: Vec<_> = hand_outs.iter().map(NewRow::new).collect();
        let recorded = in_transaction!(self, async |conn| {
            bulk::add_to_ledger(conn, rows).await?;
            Ok::<_, Failure>(())
        });
        Ok(recorded?)
    }

    async fn list_ledger(
        &self,
        filter: &LedgerFilter,
        page: PageRequest,
    ) -> Result<Page<LedgerEntry>, RepositoryError> {
        let mut query = ledger::table.select(Row::as_select()).into_boxed::<Db>();
        if let Some(id) = filter.identity_id {
            query = query.filter(ledger::identity_id.eq(id.0));
        }
        if let Some(token) = filter.token {
            query = query.filter(ledger::token_hash.eq(token.0.0.to_vec()));
        }
        let rows: Vec<Row> = query
            .filter(ledger::id.gt(page.after.unwrap_or(0)))
            .order(ledger::id)
            .limit(i64::from(page.limit) + 1)
            .load(&mut *self.reader().await?)
            .await
            .map_err(Failure::from)?;
        let entries = rows.into_iter().map(LedgerEntry::try_from).collect::<Result<_, _>>()?;
        Ok(Page::cut(entries, page.limit, |it: &LedgerEntry| it.id.0))
    }

    async fn forget(&self, before: DateTime<Utc>, most: u16) -> Result<u64, RepositoryError> {
        let conn = &mut *self.writer().await?;
        let old: Vec<i64> = ledger::table
            .filter(ledger::last_at.lt(super::to_microseconds(before)))
            .order(ledger::last_at)
            .limit(most.into())
            .select(ledger::id)
            .load(conn)
            .await
            .map_err(Failure::from)?;
        // One that was added to meanwhile stays.
        let old = ledger::table
            .filter(ledger::id.eq_any(old))
            .filter(ledger::last_at.lt(super::to_microseconds(before)));
        let forgotten = diesel::delete(old).execute(conn).await.map_err(Failure::from)?;
        Ok(forgotten as u64)
    }
}
