use async_trait::async_trait;

use super::RepositoryError;
use crate::{
    event::Actor,
    ids::{IdentityId, TransferId, UserId},
    page::{Page, PageRequest},
    transfer::{Transfer, TransferItem},
};

/// Identities to be moved to another user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTransfer {
    /// Which.
    pub what: TransferSubject,
    /// Whose they are to be.
    pub to_user_id: UserId,
    /// What to do about those that cannot be moved.
    pub on_conflict: OnConflict,
    /// Who does it.
    pub actor: Actor,
}

/// Which identities are to be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TransferSubject {
    /// This one.
    Identity(IdentityId),
    /// All of this user's.
    User(UserId),
}

/// What to do about an identity that cannot be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnConflict {
    /// Move none.
    Fail,
    /// Leave it where it is and move the others.
    Skip,
}

/// What became of a transfer.
#[derive(Clone, Debug, PartialEq)]
pub enum TransferOutcome {
    /// Done, as the journal has it.
    Done(Transfer),
    /// These cannot be moved, and leaving them was not asked for. Nothing was changed.
    Conflict(Vec<TransferItem>),
    /// It is that user's already. Nothing was changed.
    SameUser,
    /// There is no such identity.
    Absent,
}

/// What became of an undoing.
#[derive(Clone, Debug, PartialEq)]
pub enum UndoOutcome {
    /// Done, as the journal has it now.
    Undone(Transfer),
    /// It was undone before; as the journal has it. Nothing was changed.
    AlreadyUndone(Transfer),
    /// There is no such transfer.
    Absent,
}

/// Moves identities between users, and keeps the journal of it.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait TransferRepository: Send + Sync {
    /// Moves identities to another user and writes the journal.
    ///
    /// A moved row keeps its id, its credentials and their generation, so a refresh that is under
    /// way ends as if nothing had happened; its user changes and its version goes up by one. Each
    /// is told of with `identity.transferred`, whose detail has `transfer_id` and
    /// `previous_user_id`, and the whole with `transfer.done`, whose detail has `transfer_id`,
    /// `from_user_id`, and how many were `moved` and `skipped`. A user without identities gives a
    /// transfer of nothing.
    ///
    /// An identity cannot be moved where the new user has another account at its provider, unless
    /// the provider allows [several](crate::identity_provider::ProviderOptions). The unique keys
    /// of the database decide between this and a link at the same time.
    async fn transfer(&self, new: &NewTransfer) -> Result<TransferOutcome, RepositoryError>;

    /// Gives back what was moved and still belongs to the user it was moved to, under the name of
    /// the same account; the journal says what could not be given back and why. Each is told of
    /// as in [`transfer`](Self::transfer), the whole with `transfer.undone`, whose detail has
    /// `transfer_id`, and how many were `given_back` and `kept`.
    async fn undo(&self, id: TransferId, actor: &Actor) -> Result<UndoOutcome, RepositoryError>;

    /// The transfer, or `None` when there is none by that id.
    async fn find(&self, id: TransferId) -> Result<Option<Transfer>, RepositoryError>;

    /// Transfers in ascending id order, with a user those from or to that user.
    async fn list<'a>(
        &self,
        user: Option<&'a UserId>,
        page: PageRequest,
    ) -> Result<Page<Transfer>, RepositoryError>;
}
