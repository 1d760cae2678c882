use std::collections::BTreeSet;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::{MemoryStore, Rows, page_of};
use crate::{
    event::{Actor, EventKind, NewEvent},
    ids::{IdentityId, ProviderId, TransferId, UserId},
    page::{Page, PageRequest},
    ports::{
        NewTransfer, OnConflict, RepositoryError, TransferOutcome, TransferRepository,
        TransferSubject, UndoOutcome,
    },
    transfer::{Transfer, TransferItem, TransferObstacle, UndoItem},
};

impl Rows {
    /// The providers where the user has no room for another account.
    fn full_providers(&self, user: &UserId) -> BTreeSet<ProviderId> {
        let of_user = self.identities.values().filter(|it| it.identity.user_id == *user);
        let providers = of_user.map(|it| it.identity.idp_id);
        providers.filter(|it| !self.allows_several(*it)).collect()
    }

    /// Gives a row to another user and tells of it.
    fn move_identity(
        &mut self,
        id: IdentityId,
        to: &UserId,
        transfer: TransferId,
        actor: &Actor,
        now: DateTime<Utc>,
    ) {
        let row = self.identity_mut(id);
        let before = row.identity.clone();
        row.identity.user_id = to.clone();
        row.identity.version += 1;
        let after = row.identity.clone();
        let kind = EventKind::IdentityTransferred;
        let mut event = NewEvent::of_identity(kind, actor, Some(&before), Some(&after));
        event.detail.insert("transfer_id".into(), json!(transfer.0));
        event.detail.insert("previous_user_id".into(), json!(before.user_id.as_str()));
        self.log(event, now);
    }

    fn log_transfer(
        &mut self,
        about: EventKind,
        transfer: &Transfer,
        actor: &Actor,
        detail: &Value,
        now: DateTime<Utc>,
    ) {
        let mut event = NewEvent::new(about, actor);
        event.user_id = Some(transfer.to_user_id.clone());
        event.detail = detail.as_object().cloned().unwrap_or_default();
        self.log(event, now);
    }

    fn transfer(&mut self, new: &NewTransfer, now: DateTime<Utc>) -> TransferOutcome {
        let (from, rows) = match &new.what {
            TransferSubject::Identity(id) => {
                let Some(row) = self.identities.get(id) else { return TransferOutcome::Absent };
                (row.identity.user_id.clone(), vec![row.identity.clone()])
            }
            TransferSubject::User(user) => {
                let all = self.identities.values().map(|it| it.identity.clone());
                (user.clone(), all.filter(|it| it.user_id == *user).collect())
            }
        };
        if from == new.to_user_id {
            return TransferOutcome::SameUser;
        }
        let full = self.full_providers(&new.to_user_id);
        let items: Vec<_> = rows
            .iter()
            .map(|it| TransferItem {
                identity_id: it.id,
                provider_id: it.idp_id,
                external_id: it.external_id.clone(),
                skipped: full.contains(&it.idp_id).then_some(TransferObstacle::UserHasAnother),
                undo: None,
            })
            .collect();
        if new.on_conflict == OnConflict::Fail && items.iter().any(|it| !it.was_moved()) {
            let refused = items.into_iter().filter(|it| !it.was_moved());
            return TransferOutcome::Conflict(refused.collect());
        }
        let transfer = Transfer {
            id: TransferId(self.next_id()),
            from_user_id: from,
            to_user_id: new.to_user_id.clone(),
            items,
            actor: new.actor.clone(),
            created_at: now,
            undone_at: None,
        };
        for item in transfer.items.iter().filter(|it| it.was_moved()) {
            self.move_identity(item.identity_id, &new.to_user_id, transfer.id, &new.actor, now);
        }
        let detail = json!({
            "transfer_id": transfer.id.0,
            "from_user_id": transfer.from_user_id.as_str(),
            "moved": transfer.moved(),
            "skipped": transfer.items.len() - transfer.moved(),
        });
        self.log_transfer(EventKind::TransferDone, &transfer, &new.actor, &detail, now);
        self.transfers.insert(transfer.id, transfer.clone());
        TransferOutcome::Done(transfer)
    }

    fn undo_transfer(&mut self, id: TransferId, actor: &Actor, now: DateTime<Utc>) -> UndoOutcome {
        let Some(mut transfer) = self.transfers.get(&id).cloned() else {
            return UndoOutcome::Absent;
        };
        if transfer.undone_at.is_some() {
            return UndoOutcome::AlreadyUndone(transfer);
        }
        let full = self.full_providers(&transfer.from_user_id);
        for item in transfer.items.iter_mut().filter(|it| it.was_moved()) {
            let undo = match self.identities.get(&item.identity_id).map(|it| &it.identity) {
                None => UndoItem::Kept(TransferObstacle::Unlinked),
                Some(it)
                    if it.user_id != transfer.to_user_id || it.external_id != item.external_id =>
                {
                    UndoItem::Kept(TransferObstacle::Changed)
                }
                Some(it) if full.contains(&it.idp_id) => {
                    UndoItem::Kept(TransferObstacle::UserHasAnother)
                }
                Some(_) => UndoItem::GivenBack,
            };
            if undo == UndoItem::GivenBack {
                self.move_identity(item.identity_id, &transfer.from_user_id, id, actor, now);
            }
            item.undo = Some(undo);
        }
        transfer.undone_at = Some(now);
        let detail = json!({
            "transfer_id": id.0,
            "given_back": transfer.given_back(),
            "kept": transfer.moved() - transfer.given_back(),
        });
        self.log_transfer(EventKind::TransferUndone, &transfer, actor, &detail, now);
        self.transfers.insert(id, transfer.clone());
        UndoOutcome::Undone(transfer)
    }
}

#[async_trait]
impl TransferRepository for MemoryStore {
    async fn transfer(&self, new: &NewTransfer) -> Result<TransferOutcome, RepositoryError> {
        Ok(self.write(|rows, now| rows.transfer(new, now)))
    }

    async fn undo(&self, id: TransferId, actor: &Actor) -> Result<UndoOutcome, RepositoryError> {
        Ok(self.write(|rows, now| rows.undo_transfer(id, actor, now)))
    }

    async fn find(&self, id: TransferId) -> Result<Option<Transfer>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(rows.transfers.get(&id).cloned())
    }

    async fn list<'a>(
        &self,
        user: Option<&'a UserId>,
        page: PageRequest,
    ) -> Result<Page<Transfer>, RepositoryError> {
        let (rows, _) = self.read();
        let meant = rows.transfers.values().filter(|it| {
            user.is_none_or(|user| *user == it.from_user_id || *user == it.to_user_id)
        });
        Ok(page_of(meant, page, |it| it.id.0))
    }
}
