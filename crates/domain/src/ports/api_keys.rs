use async_trait::async_trait;

use super::RepositoryError;
use crate::{
    api_key::{ApiKey, KeyLimits, KeyScope},
    event::Actor,
    ids::ApiKeyId,
    page::{Page, PageRequest},
    secret::SecretHash,
};

/// Keeps API keys, without their secrets.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait ApiKeyRepository: Send + Sync {
    /// Adds a key and the event that tells of it.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Conflict`] when a key has this hash already.
    async fn insert(
        &self,
        name: &str,
        scopes: &[KeyScope],
        limits: &KeyLimits,
        hash: &SecretHash,
        actor: &Actor,
    ) -> Result<ApiKey, RepositoryError>;

    /// The key with this secret, also when it was revoked; `None` when there is none.
    async fn find_by_hash(&self, hash: &SecretHash) -> Result<Option<ApiKey>, RepositoryError>;

    /// All keys, revoked ones too, in ascending id order.
    async fn list(&self, page: PageRequest) -> Result<Page<ApiKey>, RepositoryError>;

    /// Revokes a key and writes the event. Revoking it again changes nothing.
    ///
    /// `None` when there is no such key.
    async fn revoke(&self, id: ApiKeyId, actor: &Actor) -> Result<Option<ApiKey>, RepositoryError>;
}
