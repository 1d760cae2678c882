use async_trait::async_trait;

use super::{MemoryStore, Rows, page_of};
use crate::{
    event::Actor,
    freeze::{Freeze, FreezeSubject},
    ids::{ApiKeyId, FreezeId, IdentityId},
    page::{Page, PageRequest},
    ports::{CredentialsRepository, RepositoryError, Vendable, VendingRepository},
};

impl Rows {
    fn freeze_of(&self, subject: &FreezeSubject) -> Option<&Freeze> {
        self.freezes.values().find(|it| it.subject == *subject)
    }

    /// What stands against handing a token of this identity to this key.
    fn freeze_against(&self, id: IdentityId, key: Option<ApiKeyId>) -> Option<Freeze> {
        let identity = &self.identities.get(&id)?.identity;
        let of_key = key.and_then(|it| self.freeze_of(&FreezeSubject::Key(it)));
        let of_organization = || {
            let mut uses = self.organization_identities.values();
            uses.find_map(|it| {
                let subject = FreezeSubject::Organization(it.organization_id.clone());
                (it.identity_id == id).then(|| self.freeze_of(&subject)).flatten()
            })
        };
        of_key
            .or_else(|| self.freeze_of(&FreezeSubject::Provider(identity.idp_id)))
            .or_else(of_organization)
            .cloned()
    }
}

#[async_trait]
impl VendingRepository for MemoryStore {
    async fn find_vendable(
        &self,
        id: IdentityId,
        key: Option<ApiKeyId>,
    ) -> Result<Option<Vendable>, RepositoryError> {
        let Some(credentials) = CredentialsRepository::find(self, id).await? else {
            return Ok(None);
        };
        let (rows, _) = self.read();
        Ok(rows.identities.get(&id).map(|row| Vendable {
            credentials,
            user_id: row.identity.user_id.clone(),
            provider_type: rows.providers[&row.identity.idp_id].0.provider_type.clone(),
            frozen: rows.freeze_against(id, key),
        }))
    }

    async fn freeze(
        &self,
        subject: &FreezeSubject,
        actor: &Actor,
    ) -> Result<(Freeze, bool), RepositoryError> {
        self.write(|rows, now| {
            let is_there = match subject {
                FreezeSubject::Key(id) => rows.api_keys.iter().any(|(key, _)| key.id == *id),
                FreezeSubject::Provider(id) => rows.providers.contains_key(id),
                FreezeSubject::Organization(_) => true,
            };
            if !is_there {
                return Err(RepositoryError::NotFound);
            }
            if let Some(there) = rows.freeze_of(subject) {
                return Ok((there.clone(), false));
            }
            let id = FreezeId(rows.next_id());
            let freeze = Freeze { id, subject: subject.clone(), by: actor.clone(), frozen_at: now };
            rows.freezes.insert(id, freeze.clone());
            rows.log(freeze.begun(), now);
            Ok((freeze, true))
        })
    }

    async fn unfreeze(
        &self,
        subject: &FreezeSubject,
        actor: &Actor,
    ) -> Result<Option<Freeze>, RepositoryError> {
        Ok(self.write(|rows, now| {
            let id = rows.freeze_of(subject)?.id;
            let lifted = rows.freezes.remove(&id)?;
            rows.log(lifted.lifted(actor), now);
            Some(lifted)
        }))
    }

    async fn find_freeze_of_key(&self, key: ApiKeyId) -> Result<Option<Freeze>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(rows.freeze_of(&FreezeSubject::Key(key)).cloned())
    }

    async fn list_freezes(&self, page: PageRequest) -> Result<Page<Freeze>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(page_of(rows.freezes.values(), page, |it| it.id.0))
    }
}
