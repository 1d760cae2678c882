use async_trait::async_trait;

use super::{RepositoryError, StoredCredentials};
use crate::{
    event::Actor,
    freeze::{Freeze, FreezeSubject},
    ids::{ApiKeyId, IdentityId, UserId},
    page::{Page, PageRequest},
};

/// What is read of an identity before its token is handed out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vendable {
    /// Its credentials.
    pub credentials: StoredCredentials,
    /// Whose account it is.
    pub user_id: UserId,
    /// The type of the provider instance where it lives.
    pub provider_type: String,
    /// What stands against handing it out: of the key, then of the provider instance, then of an
    /// organization that uses it.
    pub frozen: Option<Freeze>,
}

/// Keeps what is frozen, and tells of it together with the credentials.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait VendingRepository: Send + Sync {
    /// What the token path reads: the credentials of an identity, and whether a freeze stands
    /// against handing them to this key (`None` for a caller without one). `None` when there is no
    /// such identity.
    ///
    /// One read of the database and no memory of earlier ones: what was frozen before the call
    /// began is frozen in its answer, on every replica.
    async fn find_vendable(
        &self,
        id: IdentityId,
        key: Option<ApiKeyId>,
    ) -> Result<Option<Vendable>, RepositoryError>;

    /// Freezes, and writes the event; true with it when it was not frozen before. What is frozen
    /// already stays as it is, without an event: who froze it first stays on record.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::NotFound`] when there is no such key or provider instance. An
    /// organization is the product's, and always there.
    async fn freeze(
        &self,
        subject: &FreezeSubject,
        actor: &Actor,
    ) -> Result<(Freeze, bool), RepositoryError>;

    /// Lifts a freeze, and writes the event. `None` when nothing was frozen.
    async fn unfreeze(
        &self,
        subject: &FreezeSubject,
        actor: &Actor,
    ) -> Result<Option<Freeze>, RepositoryError>;

    /// The freeze that stands against this key, `None` when there is none. As fresh as
    /// [`find_vendable`](Self::find_vendable).
    async fn find_freeze_of_key(&self, key: ApiKeyId) -> Result<Option<Freeze>, RepositoryError>;

    /// What is frozen, in ascending id order.
    async fn list_freezes(&self, page: PageRequest) -> Result<Page<Freeze>, RepositoryError>;
}
