use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{MemoryStore, Rows, page_of};
use crate::{
    event::{Actor, EventKind, NewEvent},
    identity::Identity,
    ids::{IdentityId, OrganizationId, OrganizationIdentityId},
    organization_identity::OrganizationIdentity,
    page::{Page, PageRequest},
    ports::{OrganizationIdentityFilter, OrganizationIdentityRepository, RepositoryError},
};

impl Rows {
    /// Whether an organization uses an identity.
    pub(super) fn uses(&self, organization: &OrganizationId, identity: IdentityId) -> bool {
        self.use_of(organization, identity).is_some()
    }

    fn use_of(
        &self,
        organization: &OrganizationId,
        identity: IdentityId,
    ) -> Option<&OrganizationIdentity> {
        let mut uses = self.organization_identities.values();
        uses.find(|it| it.organization_id == *organization && it.identity_id == identity)
    }

    /// Lets an organization use an identity; true when it did not before.
    pub(super) fn attach(
        &mut self,
        organization: &OrganizationId,
        identity: &Identity,
        actor: &Actor,
        now: DateTime<Utc>,
    ) -> (OrganizationIdentity, bool) {
        if let Some(there) = self.use_of(organization, identity.id) {
            return (there.clone(), false);
        }
        let made = OrganizationIdentity {
            id: OrganizationIdentityId(self.next_id()),
            organization_id: organization.clone(),
            identity_id: identity.id,
            date_added: now,
        };
        self.organization_identities.insert(made.id, made.clone());
        let kind = EventKind::OrganizationIdentityLinked;
        self.log(NewEvent::of_organization_identity(kind, actor, &made, identity), now);
        (made, true)
    }

    fn end_use(
        &mut self,
        id: OrganizationIdentityId,
        identity: &Identity,
        actor: &Actor,
        now: DateTime<Utc>,
    ) {
        let Some(gone) = self.organization_identities.remove(&id) else { return };
        let kind = EventKind::OrganizationIdentityUnlinked;
        self.log(NewEvent::of_organization_identity(kind, actor, &gone, identity), now);
    }

    /// Ends every use of an identity that is about to go.
    pub(super) fn end_uses_of(&mut self, identity: &Identity, actor: &Actor, now: DateTime<Utc>) {
        let uses = self.organization_identities.values();
        let uses: Vec<_> =
            uses.filter(|it| it.identity_id == identity.id).map(|it| it.id).collect();
        for id in uses {
            self.end_use(id, identity, actor, now);
        }
    }
}

#[async_trait]
impl OrganizationIdentityRepository for MemoryStore {
    async fn attach(
        &self,
        organization: &OrganizationId,
        identity: IdentityId,
        actor: &Actor,
    ) -> Result<(OrganizationIdentity, bool), RepositoryError> {
        self.write(|rows, now| {
            let row = rows.identities.get(&identity).ok_or(RepositoryError::NotFound)?;
            let identity = row.identity.clone();
            Ok(rows.attach(organization, &identity, actor, now))
        })
    }

    async fn detach(
        &self,
        organization: &OrganizationId,
        identity: IdentityId,
        actor: &Actor,
    ) -> Result<bool, RepositoryError> {
        Ok(self.write(|rows, now| {
            let Some(id) = rows.use_of(organization, identity).map(|it| it.id) else {
                return false;
            };
            let identity = rows.identities[&identity].identity.clone();
            rows.end_use(id, &identity, actor, now);
            true
        }))
    }

    async fn list(
        &self,
        filter: &OrganizationIdentityFilter,
        page: PageRequest,
    ) -> Result<Page<OrganizationIdentity>, RepositoryError> {
        let OrganizationIdentityFilter { organization_id, identity_id, provider_types } = filter;
        let (rows, _) = self.read();
        let meant = rows.organization_identities.values().filter(|it| {
            organization_id.as_ref().is_none_or(|wanted| *wanted == it.organization_id)
                && identity_id.is_none_or(|wanted| wanted == it.identity_id)
                && provider_types.as_ref().is_none_or(|wanted| {
                    let at = rows.identities[&it.identity_id].identity.idp_id;
                    wanted.contains(&rows.providers[&at].0.provider_type)
                })
        });
        Ok(page_of(meant, page, |it| it.id.0))
    }
}
