use std::sync::Arc;

use crate::{
    Error,
    event::Actor,
    ids::TransferId,
    ports::{NewTransfer, TransferOutcome, TransferRepository, TransferSubject, UndoOutcome},
    transfer::Transfer,
};

/// Moves identities from one user to another, and takes that back.
#[derive(Clone)]
pub struct Transfers {
    /// Where they are moved, and the journal.
    pub transfers: Arc<dyn TransferRepository>,
}

impl Transfers {
    /// Moves an identity, or all of a user's, to another user.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] for an identity that is not there; [`Error::InvalidRequest`] naming
    /// `to_user_id` when it is that user's already; [`Error::TransferConflict`] when the new user
    /// has another account where one is allowed, and leaving those was not asked for.
    pub async fn transfer(&self, new: &NewTransfer) -> Result<Transfer, Error> {
        match self.transfers.transfer(new).await? {
            TransferOutcome::Done(transfer) => Ok(transfer),
            TransferOutcome::Conflict(items) => {
                let what = match new.what {
                    TransferSubject::Identity(_) => "unlink one of the two first",
                    TransferSubject::User(_) => {
                        "unlink one of each two first, or ask with `on_conflict: \"skip\"`"
                    }
                };
                let ids: Vec<_> = items.iter().map(|it| it.identity_id.to_string()).collect();
                Err(Error::TransferConflict { identities: ids.join(", "), what })
            }
            TransferOutcome::SameUser => {
                Err(Error::invalid("to_user_id", "is the user that the identities belong to"))
            }
            TransferOutcome::Absent => Err(Error::NotFound("identity")),
        }
    }

    /// Gives back what was moved and still can be; the answer says what could not.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::AlreadyUndone`].
    pub async fn undo(&self, id: TransferId, actor: &Actor) -> Result<Transfer, Error> {
        match self.transfers.undo(id, actor).await? {
            UndoOutcome::Undone(transfer) => Ok(transfer),
            UndoOutcome::AlreadyUndone(_) => Err(Error::AlreadyUndone),
            UndoOutcome::Absent => Err(Error::NotFound("transfer")),
        }
    }
}
