use std::collections::BTreeSet;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::{MemoryStore, Rows, page_of};
use crate::{
    event::{Actor, EventKind, NewEvent},
    identity_provider::{IdentityProvider, ProviderSecrets},
    ids::{IdentityId, ProviderId},
    page::{Page, PageRequest},
    ports::{
        AuthorityUpdate, IdentityProviderRepository, NewIdentityProvider, ProviderDeletion,
        ProviderFilter, ProviderUpdate, RepositoryError,
    },
};

impl Rows {
    fn provider_by_key(
        &self,
        provider_type: &str,
        external_id: Option<&str>,
    ) -> Option<&IdentityProvider> {
        self.providers.values().map(|(provider, _)| provider).find(|it| {
            it.provider_type == provider_type && it.external_id.as_deref() == external_id
        })
    }

    fn update_provider(
        &mut self,
        update: &ProviderUpdate,
        actor: &Actor,
        now: DateTime<Utc>,
    ) -> Option<IdentityProvider> {
        let ProviderUpdate { id, version, config, secrets, options } = update;
        let (provider, kept) = self.providers.get_mut(id)?;
        if provider.version != *version {
            return None;
        }
        let before = provider.clone();
        let mut changed = changed_keys(
            before.config.keys().chain(config.keys()),
            |key| before.config.get(key),
            |key| config.get(key),
        );
        changed.extend(changed_keys(
            kept.keys().chain(secrets.keys()),
            |key| kept.get(key),
            |key| secrets.get(key),
        ));
        provider.config.clone_from(config);
        provider.secret_names = secrets.keys().cloned().collect();
        provider.options = *options;
        provider.version += 1;
        kept.clone_from(secrets);
        let provider = provider.clone();
        let detail = Map::from_iter([("changed".to_owned(), json!(changed))]);
        let kind = EventKind::ProviderUpdated;
        self.log_provider(kind, actor, Some(&before), Some(&provider), detail, now);
        Some(provider)
    }

    fn log_provider(
        &mut self,
        about: EventKind,
        actor: &Actor,
        before: Option<&IdentityProvider>,
        after: Option<&IdentityProvider>,
        detail: Map<String, Value>,
        now: DateTime<Utc>,
    ) {
        let event = NewEvent::of_provider(about, actor, before, after);
        self.log(NewEvent { detail, ..event }, now);
    }
}

/// The keys whose value is another, the ones that are there only before or after included.
fn changed_keys<'a, V: PartialEq + 'a>(
    keys: impl Iterator<Item = &'a String>,
    before: impl Fn(&str) -> Option<&'a V>,
    after: impl Fn(&str) -> Option<&'a V>,
) -> BTreeSet<String> {
    keys.filter(|key| before(key) != after(key)).cloned().collect()
}

#[async_trait]
impl IdentityProviderRepository for MemoryStore {
    async fn insert(
        &self,
        provider: &NewIdentityProvider,
        actor: &Actor,
    ) -> Result<IdentityProvider, RepositoryError> {
        let NewIdentityProvider { provider_type, external_id, config, secrets, options } = provider;
        self.write(|rows, now| {
            if rows.provider_by_key(provider_type, external_id.as_deref()).is_some() {
                return Err(RepositoryError::Conflict);
            }
            let provider = IdentityProvider {
                id: ProviderId(rows.next_id()),
                provider_type: provider_type.clone(),
                external_id: external_id.clone(),
                config: config.clone(),
                secret_names: secrets.keys().cloned().collect(),
                options: *options,
                names_issuer: false,
                date_added: now,
                version: 1,
            };
            rows.providers.insert(provider.id, (provider.clone(), secrets.clone()));
            let kind = EventKind::ProviderCreated;
            rows.log_provider(kind, actor, None, Some(&provider), Map::new(), now);
            Ok(provider)
        })
    }

    async fn find(&self, id: ProviderId) -> Result<Option<IdentityProvider>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(rows.providers.get(&id).map(|(provider, _)| provider.clone()))
    }

    async fn find_by_key<'a>(
        &self,
        provider_type: &str,
        external_id: Option<&'a str>,
    ) -> Result<Option<IdentityProvider>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(rows.provider_by_key(provider_type, external_id).cloned())
    }

    async fn find_with_secrets(
        &self,
        id: ProviderId,
    ) -> Result<Option<(IdentityProvider, ProviderSecrets)>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(rows.providers.get(&id).cloned())
    }

    async fn list(
        &self,
        filter: &ProviderFilter,
        page: PageRequest,
    ) -> Result<Page<IdentityProvider>, RepositoryError> {
        let ProviderFilter { provider_type, external_id, provider_types, without_external_id } =
            filter;
        let (rows, _) = self.read();
        let meant = rows.providers.values().map(|(provider, _)| provider).filter(|it| {
            provider_type.as_ref().is_none_or(|wanted| *wanted == it.provider_type)
                && provider_types.as_ref().is_none_or(|types| types.contains(&it.provider_type))
                && external_id.as_ref().is_none_or(|wanted| Some(wanted) == it.external_id.as_ref())
                && !(*without_external_id && it.external_id.is_some())
        });
        Ok(page_of(meant, page, |it| it.id.0))
    }

    async fn update(
        &self,
        update: &ProviderUpdate,
        actor: &Actor,
    ) -> Result<Option<IdentityProvider>, RepositoryError> {
        Ok(self.write(|rows, now| rows.update_provider(update, actor, now)))
    }

    async fn update_authority(
        &self,
        update: &ProviderUpdate,
        actor: &Actor,
    ) -> Result<AuthorityUpdate, RepositoryError> {
        let id = update.id;
        Ok(self.write(|rows, now| {
            if rows.providers.get(&id).is_none_or(|(it, _)| it.version != update.version) {
                return AuthorityUpdate::Absent;
            }
            let identities = rows.identities.values().filter(|it| it.identity.idp_id == id);
            let count = identities.count() as u64;
            if count > 0 {
                return AuthorityUpdate::InUse(count);
            }
            rows.expire_sessions_sent_to(id);
            rows.expire_device_links_of(id);
            rows.providers.entry(id).and_modify(|(it, _)| it.names_issuer = false);
            let updated = rows.update_provider(update, actor, now);
            updated.map_or(AuthorityUpdate::Absent, AuthorityUpdate::Updated)
        }))
    }

    async fn record_issuer_named(&self, id: ProviderId) -> Result<(), RepositoryError> {
        self.write(|rows, _| {
            rows.providers.entry(id).and_modify(|(provider, _)| provider.names_issuer = true);
        });
        Ok(())
    }

    async fn delete(
        &self,
        id: ProviderId,
        cascade: bool,
        actor: &Actor,
    ) -> Result<ProviderDeletion, RepositoryError> {
        Ok(self.write(|rows, now| {
            if !rows.providers.contains_key(&id) {
                return ProviderDeletion::Absent;
            }
            let identities: Vec<IdentityId> = rows
                .identities
                .values()
                .filter(|row| row.identity.idp_id == id)
                .map(|row| row.identity.id)
                .collect();
            let count = identities.len() as u64;
            let single_sign_ons: Vec<_> = rows
                .auth_providers
                .values()
                .filter(|it| it.provider_id == id)
                .map(|it| it.id)
                .collect();
            let in_use = count + single_sign_ons.len() as u64;
            if in_use > 0 && !cascade {
                return ProviderDeletion::InUse(in_use);
            }
            for auth_provider in single_sign_ons {
                rows.remove_auth_provider(auth_provider, actor, now);
            }
            for identity in identities {
                if let Some(row) = rows.remove_identity(identity, actor, now) {
                    rows.queue_credentials(&row, actor, now);
                }
            }
            let removed = rows.providers.remove(&id);
            if let Some(copy) = &removed {
                rows.keep_provider_for_revocations(copy);
            }
            let provider = removed.map(|(provider, _)| provider);
            let detail = Map::from_iter([("identities".to_owned(), json!(count))]);
            let kind = EventKind::ProviderDeleted;
            rows.log_provider(kind, actor, provider.as_ref(), None, detail, now);
            ProviderDeletion::Deleted(count)
        }))
    }
}
