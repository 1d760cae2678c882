use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use symbolon_domain::{
    event::{Actor, EventKind, NewEvent},
    ids::{IdentityId, ProviderId, TransferId, UserId},
    page::{Page, PageRequest},
    ports::{
        NewTransfer, OnConflict, RepositoryError, TransferOutcome, TransferRepository,
        TransferSubject, UndoOutcome,
    },
    transfer::{Transfer, TransferItem, TransferObstacle, UndoItem},
};

use super::{
    Conn, Db, RACES, Store, events,
    identities::save,
    identity_providers::allows_several,
    identity_row, in_transaction, locked, now,
    schema::{identities, transfers},
    to_microseconds,
};
use crate::{
    failure::Failure,
    values::{actor, external_id, object, user},
};

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = transfers, check_for_backend(Db))]
pub(crate) struct Row {
    pub(crate) id: i64,
    from_user_id: String,
    to_user_id: String,
    items: Value,
    actor: String,
    acting_user: Option<String>,
    reason: Option<String>,
    created_at: DateTime<Utc>,
    undone_at: Option<DateTime<Utc>>,
}

/// How an item lies in the column.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Item {
    identity_id: i64,
    provider_id: i64,
    external_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    skipped: Option<TransferObstacle>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    given_back: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<TransferObstacle>,
}

impl From<&TransferItem> for Item {
    fn from(it: &TransferItem) -> Self {
        let kept = match it.undo {
            Some(UndoItem::Kept(why)) => Some(why),
            _ => None,
        };
        Self {
            identity_id: it.identity_id.0,
            provider_id: it.provider_id.0,
            external_id: it.external_id.as_str().to_owned(),
            skipped: it.skipped,
            given_back: it.undo.map(|it| it == UndoItem::GivenBack),
            kept,
        }
    }
}

impl TryFrom<Item> for TransferItem {
    type Error = Failure;

    fn try_from(it: Item) -> Result<Self, Failure> {
        let undo = match (it.given_back, it.kept) {
            (Some(true), _) => Some(UndoItem::GivenBack),
            (_, Some(why)) => Some(UndoItem::Kept(why)),
            _ => None,
        };
        Ok(Self {
            identity_id: IdentityId(it.identity_id),
            provider_id: ProviderId(it.provider_id),
            external_id: external_id(it.external_id)?,
            skipped: it.skipped,
            undo,
        })
    }
}

fn items_column(items: &[TransferItem]) -> Result<Value, Failure> {
    let items: Vec<Item> = items.iter().map(Item::from).collect();
    serde_json::to_value(items).map_err(|error| Failure::unreadable(error.to_string()))
}

impl Row {
    /// The row of an archive's entry, under this id.
    pub(crate) fn kept(it: &Transfer, id: i64) -> Result<Self, Failure> {
        Ok(Self {
            id,
            from_user_id: it.from_user_id.as_str().to_owned(),
            to_user_id: it.to_user_id.as_str().to_owned(),
            items: items_column(&it.items)?,
            actor: it.actor.who.to_string(),
            acting_user: it.actor.acting_user.as_ref().map(|it| it.as_str().to_owned()),
            reason: it.actor.reason.clone(),
            created_at: to_microseconds(it.created_at),
            undone_at: it.undone_at.map(to_microseconds),
        })
    }
}

impl TryFrom<Row> for Transfer {
    type Error = Failure;

    fn try_from(row: Row) -> Result<Self, Failure> {
        let items: Vec<Item> = serde_json::from_value(row.items)
            .map_err(|_| Failure::unreadable("a JSON column holds no items of a transfer"))?;
        Ok(Self {
            id: TransferId(row.id),
            from_user_id: user(row.from_user_id)?,
            to_user_id: user(row.to_user_id)?,
            items: items.into_iter().map(TransferItem::try_from).collect::<Result<_, _>>()?,
            actor: actor(&row.actor, row.acting_user, row.reason)?,
            created_at: row.created_at,
            undone_at: row.undone_at,
        })
    }
}

/// The rows that are meant and the rows of the user who is to have them, locked in the order in
/// which a link takes them: their providers, then the rows by id.
struct Movable {
    meant: Vec<identity_row::Row>,
    /// By provider: whether a user may have several accounts there, and whether the new user has
    /// one.
    providers: Vec<(i64, bool, bool)>,
}

impl Movable {
    async fn lock(conn: &mut Conn, ids: &[i64], to: &UserId) -> Result<Self, Failure> {
        let mut at: Vec<i64> = identities::table
            .filter(identities::id.eq_any(ids))
            .select(identities::idp_id)
            .load(conn)
            .await?;
        at.sort_unstable();
        at.dedup();
        let mut several = Vec::with_capacity(at.len());
        for id in &at {
            // One that goes takes its identities along.
            several.push(allows_several(conn, ProviderId(*id)).await?.ok_or(Failure::Changed)?);
        }
        let of_new_user =
            identities::user_id.eq(to.as_str()).and(identities::idp_id.eq_any(at.clone()));
        let query = identities::table
            .filter(identities::id.eq_any(ids).or(of_new_user))
            .order(identities::id)
            .select(identity_row::Row::as_select());
        let rows: Vec<identity_row::Row> = locked!(query).load(conn).await?;
        let providers = at
            .into_iter()
            .zip(several)
            .map(|(id, several)| {
                let has_one = rows.iter().any(|it| it.idp_id == id && it.user_id == to.as_str());
                (id, several, has_one)
            })
            .collect();
        let meant = rows.into_iter().filter(|it| ids.contains(&it.id)).collect();
        Ok(Self { meant, providers })
    }

    /// Whether the new user has no room for another account at this provider.
    fn is_full(&self, provider: i64) -> bool {
        self.providers.iter().any(|(id, several, has_one)| *id == provider && !several && *has_one)
    }

    /// The slot rule for the next row that moves to this provider: where one account is allowed,
    /// the first takes the place that is empty, and others that lie there from before theirs.
    fn take_room(&mut self, provider: i64) -> bool {
        let Some(at) = self.providers.iter_mut().find(|(id, ..)| *id == provider) else {
            return false;
        };
        std::mem::replace(&mut at.1, true)
    }
}

/// One move, with its event.
async fn give(
    conn: &mut Conn,
    row: &mut identity_row::Row,
    to: &UserId,
    several: bool,
    transfer: TransferId,
    actor: &Actor,
) -> Result<(), Failure> {
    let before = row.identity()?;
    row.give_to(to, several);
    row.version += 1;
    save(conn, row).await?;
    let after = row.identity()?;
    let kind = EventKind::IdentityTransferred;
    let mut event = NewEvent::of_identity(kind, actor, Some(&before), Some(&after));
    event.detail.insert("transfer_id".into(), json!(transfer.0));
    event.detail.insert("previous_user_id".into(), json!(before.user_id.as_str()));
    Ok(events::insert(conn, &event).await?)
}

async fn log(
    conn: &mut Conn,
    about: EventKind,
    transfer: &Transfer,
    actor: &Actor,
    detail: Value,
) -> Result<(), Failure> {
    let mut event = NewEvent::new(about, actor);
    event.user_id = Some(transfer.to_user_id.clone());
    event.detail = object(detail)?;
    Ok(events::insert(conn, &event).await?)
}

/// Whose the rows are, and which.
async fn meant(
    conn: &mut Conn,
    what: &TransferSubject,
) -> Result<Option<(UserId, Vec<i64>)>, Failure> {
    match what {
        TransferSubject::Identity(id) => {
            let row = identities::table.find(id.0).select(identities::user_id);
            let owner: Option<String> = row.first(conn).await.optional()?;
            Ok(owner.map(user).transpose()?.map(|owner| (owner, vec![id.0])))
        }
        TransferSubject::User(owner) => {
            let ids = identities::table
                .filter(identities::user_id.eq(owner.as_str()))
                .order(identities::id)
                .select(identities::id)
                .load(conn)
                .await?;
            Ok(Some((owner.clone(), ids)))
        }
    }
}

async fn transfer(conn: &mut Conn, new: &NewTransfer) -> Result<TransferOutcome, Failure> {
    let Some((from, ids)) = meant(conn, &new.what).await? else {
        return Ok(TransferOutcome::Absent);
    };
    if from == new.to_user_id {
        return Ok(TransferOutcome::SameUser);
    }
    let mut movable = Movable::lock(conn, &ids, &new.to_user_id).await?;
    let mut rows = std::mem::take(&mut movable.meant);
    // Between the look and the lock somebody may have unlinked one, or given it away.
    if rows.len() != ids.len() || rows.iter().any(|it| it.user_id != from.as_str()) {
        return Err(Failure::Changed);
    }
    let mut items = Vec::with_capacity(rows.len());
    for row in &rows {
        let full = movable.is_full(row.idp_id);
        items.push(TransferItem {
            identity_id: IdentityId(row.id),
            provider_id: ProviderId(row.idp_id),
            external_id: external_id(row.external_id.clone())?,
            skipped: full.then_some(TransferObstacle::UserHasAnother),
            undo: None,
        });
    }
    if new.on_conflict == OnConflict::Fail && items.iter().any(|it| !it.was_moved()) {
        items.retain(|it| !it.was_moved());
        return Ok(TransferOutcome::Conflict(items));
    }
    let row: Row = diesel::insert_into(transfers::table)
        .values((
            transfers::from_user_id.eq(from.as_str()),
            transfers::to_user_id.eq(new.to_user_id.as_str()),
            transfers::items.eq(items_column(&items)?),
            transfers::actor.eq(new.actor.who.to_string()),
            transfers::acting_user.eq(new.actor.acting_user.as_ref().map(UserId::as_str)),
            transfers::reason.eq(&new.actor.reason),
            transfers::created_at.eq(now()),
        ))
        .returning(Row::as_returning())
        .get_result(conn)
        .await?;
    let transfer = Transfer::try_from(row)?;
    for (row, item) in rows.iter_mut().zip(&items) {
        if item.was_moved() {
            let several = movable.take_room(row.idp_id);
            give(conn, row, &new.to_user_id, several, transfer.id, &new.actor).await?;
        }
    }
    let detail = json!({
        "transfer_id": transfer.id.0,
        "from_user_id": from.as_str(),
        "moved": transfer.moved(),
        "skipped": transfer.items.len() - transfer.moved(),
    });
    log(conn, EventKind::TransferDone, &transfer, &new.actor, detail).await?;
    Ok(TransferOutcome::Done(transfer))
}

async fn undo(conn: &mut Conn, id: TransferId, actor: &Actor) -> Result<UndoOutcome, Failure> {
    let query = transfers::table.find(id.0).select(Row::as_select());
    let row: Option<Row> = locked!(query).first(conn).await.optional()?;
    let Some(row) = row else { return Ok(UndoOutcome::Absent) };
    let mut transfer = Transfer::try_from(row)?;
    if transfer.undone_at.is_some() {
        return Ok(UndoOutcome::AlreadyUndone(transfer));
    }
    let moved = transfer.items.iter().filter(|it| it.was_moved());
    let ids: Vec<i64> = moved.map(|it| it.identity_id.0).collect();
    let mut movable = Movable::lock(conn, &ids, &transfer.from_user_id).await?;
    let mut rows = std::mem::take(&mut movable.meant);
    for item in transfer.items.iter_mut().filter(|it| it.was_moved()) {
        let row = rows.iter_mut().find(|it| it.id == item.identity_id.0);
        item.undo = Some(match row {
            None => UndoItem::Kept(TransferObstacle::Unlinked),
            Some(it)
                if it.user_id != transfer.to_user_id.as_str()
                    || it.external_id != item.external_id.as_str() =>
            {
                UndoItem::Kept(TransferObstacle::Changed)
            }
            Some(it) if movable.is_full(it.idp_id) => {
                UndoItem::Kept(TransferObstacle::UserHasAnother)
            }
            Some(row) => {
                let several = movable.take_room(row.idp_id);
                give(conn, row, &transfer.from_user_id, several, id, actor).await?;
                UndoItem::GivenBack
            }
        });
    }
    let row: Row = diesel::update(transfers::table.find(id.0))
        .set((
            transfers::items.eq(items_column(&transfer.items)?),
            transfers::undone_at.eq(super::maybe_now()),
        ))
        .returning(Row::as_returning())
        .get_result(conn)
        .await?;
    let transfer = Transfer::try_from(row)?;
    let detail = json!({
        "transfer_id": id.0,
        "given_back": transfer.given_back(),
        "kept": transfer.moved() - transfer.given_back(),
    });
    log(conn, EventKind::TransferUndone, &transfer, actor, detail).await?;
    Ok(UndoOutcome::Undone(transfer))
}

#[async_trait]
impl TransferRepository for Store {
    async fn transfer(&self, new: &NewTransfer) -> Result<TransferOutcome, RepositoryError> {
        for _ in 0..RACES {
            match in_transaction!(self, async |conn| transfer(conn, new).await) {
                // Somebody linked, unlinked or moved in between.
                Err(failure) if failure.is_race() => {}
                outcome => {
                    self.rung();
                    return Ok(outcome?);
                }
            }
        }
        Err(Failure::Changed.into())
    }

    async fn undo(&self, id: TransferId, actor: &Actor) -> Result<UndoOutcome, RepositoryError> {
        for _ in 0..RACES {
            match in_transaction!(self, async |conn| undo(conn, id, actor).await) {
                Err(failure) if failure.is_race() => {}
                outcome => {
                    self.rung();
                    return Ok(outcome?);
                }
            }
        }
        Err(Failure::Changed.into())
    }

    async fn find(&self, id: TransferId) -> Result<Option<Transfer>, RepositoryError> {
        let row: Option<Row> = transfers::table
            .find(id.0)
            .select(Row::as_select())
            .first(&mut *self.reader().await?)
            .await
            .optional()
            .map_err(Failure::from)?;
        Ok(row.map(Transfer::try_from).transpose()?)
    }

    async fn list<'a>(
        &self,
        user: Option<&'a UserId>,
        page: PageRequest,
    ) -> Result<Page<Transfer>, RepositoryError> {
        let mut query = transfers::table.select(Row::as_select()).into_boxed::<Db>();
        if let Some(user) = user {
            let from = transfers::from_user_id.eq(user.as_str());
            query = query.filter(from.or(transfers::to_user_id.eq(user.as_str())));
        }
        if let Some(after) = page.after {
            query = query.filter(transfers::id.gt(after));
        }
        let rows: Vec<Row> = query
            .order(transfers::id)
            .limit(i64::from(page.limit) + 1)
            .load(&mut *self.reader().await?)
            .await
            .map_err(Failure::from)?;
        let transfers = rows.into_iter().map(Transfer::try_from).collect::<Result<_, _>>()?;
        Ok(Page::cut(transfers, page.limit, |it: &Transfer| it.id.0))
    }
}
