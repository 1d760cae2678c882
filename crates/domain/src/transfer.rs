//! Moves of identities from one user to another, and the journal that undoes them.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{
    event::Actor,
    identity::text_form,
    ids::{ExternalId, IdentityId, ProviderId, TransferId, UserId},
};

/// Identities that were moved from one user to another; the journal entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Transfer {
    /// This entry's own name.
    pub id: TransferId,
    /// Whose they were.
    pub from_user_id: UserId,
    /// Whose they became.
    pub to_user_id: UserId,
    /// Every identity that was meant, in ascending id order.
    pub items: Vec<TransferItem>,
    /// Who did it.
    pub actor: Actor,
    /// When, UTC.
    pub created_at: DateTime<Utc>,
    /// When it was undone, UTC.
    pub undone_at: Option<DateTime<Utc>>,
}

/// One identity of a transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransferItem {
    /// Which identity.
    pub identity_id: IdentityId,
    /// Where its account lives.
    pub provider_id: ProviderId,
    /// Its account, when it was moved.
    pub external_id: ExternalId,
    /// What stood in the way of moving it; `None` when it was moved.
    pub skipped: Option<TransferObstacle>,
    /// Whether it was given back; `None` while the transfer is not undone, or when it was never
    /// moved.
    pub undo: Option<UndoItem>,
}

/// What became of one identity when its transfer was undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UndoItem {
    /// It belongs to its former user again.
    GivenBack,
    /// It could not be given back.
    Kept(TransferObstacle),
}

/// Why an identity could not be moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TransferObstacle {
    /// The user who is to have it has another account at this provider.
    UserHasAnother,
    /// It was unlinked since.
    Unlinked,
    /// It belongs to another user, or names another account, since.
    Changed,
}

text_form!(TransferObstacle:
    UserHasAnother = "user_has_another",
    Unlinked = "unlinked",
    Changed = "changed",
);

impl TransferItem {
    /// Whether the identity was moved.
    #[must_use]
    pub fn was_moved(&self) -> bool {
        self.skipped.is_none()
    }
}

impl Transfer {
    /// How many identities were moved.
    #[must_use]
    pub fn moved(&self) -> usize {
        self.items.iter().filter(|it| it.was_moved()).count()
    }

    /// How many were given back.
    #[must_use]
    pub fn given_back(&self) -> usize {
        self.items.iter().filter(|it| it.undo == Some(UndoItem::GivenBack)).count()
    }
}
