use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::json;

use super::{MemoryStore, Rows, page_of, to_microseconds};
use crate::{
    auth_provider::AuthProvider,
    event::{Actor, EventKind, NewEvent},
    ids::{AuthIdentityId, AuthProviderId, OrganizationId},
    page::{Page, PageRequest},
    ports::{
        AuthProviderFilter, AuthProviderRepository, AuthProviderUpdate, NewAuthProvider,
        RepositoryError,
    },
};

impl Rows {
    /// Takes a single sign-on and its accounts away, and tells of it.
    pub(super) fn remove_auth_provider(
        &mut self,
        id: AuthProviderId,
        actor: &Actor,
        now: DateTime<Utc>,
    ) -> Option<u64> {
        let accounts = self.auth_identities.values().map(|(it, _)| it);
        let accounts: Vec<AuthIdentityId> =
            accounts.filter(|it| it.auth_provider_id == id).map(|it| it.id).collect();
        let count = accounts.len() as u64;
        for account in accounts {
            self.remove_auth_identity(account, actor, now);
        }
        let gone = self.auth_providers.remove(&id)?;
        let kind = EventKind::AuthProviderDeleted;
        let mut event = NewEvent::of_auth_provider(kind, actor, Some(&gone), None);
        event.detail.insert("auth_identities".into(), json!(count));
        self.log(event, now);
        Some(count)
    }
}

#[async_trait]
impl AuthProviderRepository for MemoryStore {
    async fn insert(
        &self,
        new: &NewAuthProvider,
        actor: &Actor,
    ) -> Result<AuthProvider, RepositoryError> {
        self.write(|rows, now| {
            if rows.auth_providers.values().any(|it| it.organization_id == new.organization_id) {
                return Err(RepositoryError::Conflict);
            }
            if !rows.providers.contains_key(&new.provider_id) {
                return Err(RepositoryError::NotFound);
            }
            let made = AuthProvider {
                id: AuthProviderId(rows.next_id()),
                organization_id: new.organization_id.clone(),
                provider_id: new.provider_id,
                config: new.config.clone(),
                allow_unlinked: new.allow_unlinked,
                scim_enabled: new.scim_enabled,
                default_role: new.default_role,
                default_global_access: new.default_global_access,
                sync_time: new.sync_time,
                last_sync: None,
                date_added: now,
                version: 1,
            };
            rows.auth_providers.insert(made.id, made.clone());
            let kind = EventKind::AuthProviderCreated;
            rows.log(NewEvent::of_auth_provider(kind, actor, None, Some(&made)), now);
            Ok(made)
        })
    }

    async fn find(&self, id: AuthProviderId) -> Result<Option<AuthProvider>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(rows.auth_providers.get(&id).cloned())
    }

    async fn find_by_organization(
        &self,
        organization: &OrganizationId,
    ) -> Result<Option<AuthProvider>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(rows.auth_providers.values().find(|it| it.organization_id == *organization).cloned())
    }

    async fn list(
        &self,
        filter: &AuthProviderFilter,
        page: PageRequest,
    ) -> Result<Page<AuthProvider>, RepositoryError> {
        let AuthProviderFilter { organization_id, provider_id } = filter;
        let (rows, _) = self.read();
        let meant = rows.auth_providers.values().filter(|it| {
            organization_id.as_ref().is_none_or(|wanted| *wanted == it.organization_id)
                && provider_id.is_none_or(|wanted| wanted == it.provider_id)
        });
        Ok(page_of(meant, page, |it| it.id.0))
    }

    async fn update(
        &self,
        update: &AuthProviderUpdate,
        actor: &Actor,
    ) -> Result<Option<AuthProvider>, RepositoryError> {
        Ok(self.write(|rows, now| {
            let row = rows.auth_providers.get_mut(&update.id)?;
            if row.version != update.version {
                return None;
            }
            let before = row.clone();
            row.config.clone_from(&update.config);
            row.allow_unlinked = update.allow_unlinked;
            row.scim_enabled = update.scim_enabled;
            row.default_role = update.default_role;
            row.default_global_access = update.default_global_access;
            row.sync_time = update.sync_time;
            row.last_sync = update.last_sync.map(to_microseconds);
            row.version += 1;
            let after = row.clone();
            let kind = EventKind::AuthProviderUpdated;
            rows.log(NewEvent::of_auth_provider(kind, actor, Some(&before), Some(&after)), now);
            Some(after)
        }))
    }

    async fn delete(
        &self,
        id: AuthProviderId,
        actor: &Actor,
    ) -> Result<Option<u64>, RepositoryError> {
        Ok(self.write(|rows, now| rows.remove_auth_provider(id, actor, now)))
    }
}
