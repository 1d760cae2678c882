use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::json;

use super::{MemoryStore, Rows, page_of};
use crate::{
    api_key::{ApiKey, KeyLimits, KeyScope},
    event::{Actor, EventKind, NewEvent},
    ids::ApiKeyId,
    page::{Page, PageRequest},
    ports::{ApiKeyRepository, RepositoryError},
    secret::SecretHash,
};

impl Rows {
    fn log_api_key(&mut self, about: EventKind, key: &ApiKey, actor: &Actor, now: DateTime<Utc>) {
        let detail = json!({ "api_key_id": key.id.0, "name": key.name });
        let detail = detail.as_object().cloned().unwrap_or_default();
        let event = NewEvent { detail, ..NewEvent::new(about, actor) };
        self.log(event, now);
    }
}

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
            rows.log_api_key(EventKind::ApiKeyCreated, &key, actor, now);
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
                rows.log_api_key(EventKind::ApiKeyRevoked, &key, actor, now);
                return Some(key);
            }
            Some(key.clone())
        }))
    }
}
