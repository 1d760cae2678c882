use async_trait::async_trait;

use super::{MemoryStore, page_of};
use crate::{
    api_key::{ApiKey, KeyLimits, KeyScope},
    event::{Actor, EventKind, NewEvent},
    ids::ApiKeyId,
    page::{Page, PageRequest},
    ports::{ApiKeyRepository, RepositoryError},
    secret::SecretHash,
};

#[async_trait]
impl ApiKeyRepository for MemoryStore {
    async fn insert(
        &self,
        name: &str,
        scopes: &[KeyScope],
        limits: &KeyLimits,
        hash: &SecretHash,
        actor: &Actor,
    ) -> Result<ApiKey, RepositoryError> {
        self.write(|rows, now| {
            if rows.api_keys.iter().any(|(_, taken)| taken == hash) {
                return Err(RepositoryError::Conflict);
            }
            let key = ApiKey {
                id: ApiKeyId(rows.next_id()),
                name: name.to_owned(),
                scopes: scopes.to_vec(),
                limits: limits.clone(),
                created_at: now,
                revoked_at: None,
            };
            rows.api_keys.push((key.clone(), *hash));
            let kind = EventKind::ApiKeyCreated;
            rows.log(NewEvent::of_api_key(kind, actor, None, Some(&key)), now);
            Ok(key)
        })
    }

    async fn find_by_hash(&self, hash: &SecretHash) -> Result<Option<ApiKey>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(rows.api_keys.iter().find(|(_, it)| it == hash).map(|(key, _)| key.clone()))
    }

    async fn list(&self, page: PageRequest) -> Result<Page<ApiKey>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(page_of(rows.api_keys.iter().map(|(key, _)| key), page, |it| it.id.0))
    }

    async fn revoke(&self, id: ApiKeyId, actor: &Actor) -> Result<Option<ApiKey>, RepositoryError> {
        Ok(self.write(|rows, now| {
            let (key, _) = rows.api_keys.iter_mut().find(|(key, _)| key.id == id)?;
            if key.revoked_at.is_none() {
                key.revoked_at = Some(now);
                let key = key.clone();
                let before = ApiKey { revoked_at: None, ..key.clone() };
                let kind = EventKind::ApiKeyRevoked;
                rows.log(NewEvent::of_api_key(kind, actor, Some(&before), Some(&key)), now);
                return Some(key);
            }
            Some(key.clone())
        }))
    }
}
