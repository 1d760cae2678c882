use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{MemoryStore, Rows, page_of};
use crate::{
    auth_identity::AuthIdentity,
    credentials::Credentials,
    disconnection::{Disconnection, Guard},
    event::{Actor, EventKind, NewEvent},
    ids::{AuthIdentityId, ExternalId, OrganizationId, UserId},
    link_session::LinkSessionStatus,
    page::{Page, PageRequest},
    ports::{
        AuthIdentityFilter, AuthIdentityOutcome, AuthIdentityRepository, AuthIdentityUpdate,
        RepositoryError, SsoOutcome, SsoSignIn, SsoUnlink, SsoUnlinkOutcome, Taken,
    },
    revocation::is_orphaned_by_sign_in,
};

impl Rows {
    /// Takes an account away and tells of it.
    pub(super) fn remove_auth_identity(
        &mut self,
        id: AuthIdentityId,
        actor: &Actor,
        now: DateTime<Utc>,
    ) -> Option<AuthIdentity> {
        let gone = self.take_auth_identity(id, actor, now)?;
        let (account, credentials) = gone;
        self.queue_account_credentials((&account, credentials), actor, now);
        Some(account)
    }

    /// The same, and what it held is the caller's.
    fn take_auth_identity(
        &mut self,
        id: AuthIdentityId,
        actor: &Actor,
        now: DateTime<Utc>,
    ) -> Option<(AuthIdentity, Option<Credentials>)> {
        let gone = self.auth_identities.remove(&id)?;
        self.log_account(EventKind::AuthIdentityUnlinked, actor, Some(&gone.0), None, now);
        Some(gone)
    }

    fn log_account(
        &mut self,
        about: EventKind,
        actor: &Actor,
        before: Option<&AuthIdentity>,
        after: Option<&AuthIdentity>,
        now: DateTime<Utc>,
    ) {
        let account = after.or(before).expect("an event about an account names it");
        let of = &self.auth_providers[&account.auth_provider_id];
        let event = NewEvent::of_auth_identity(about, actor, of, before, after);
        self.log(event, now);
    }

    fn account_where(
        &self,
        sign_in: &SsoSignIn,
        is_meant: impl Fn(&AuthIdentity) -> bool,
    ) -> Option<AuthIdentityId> {
        let accounts = self.auth_identities.values().map(|(it, _)| it);
        accounts
            .filter(|it| it.auth_provider_id == sign_in.auth_provider_id)
            .find(|it| is_meant(it))
            .map(|it| it.id)
    }

    fn account_named(&self, sign_in: &SsoSignIn, name: &ExternalId) -> Option<AuthIdentityId> {
        self.account_where(sign_in, |it| it.ident == *name)
    }

    fn sso_sign_in(&mut self, sign_in: &SsoSignIn, now: DateTime<Utc>) -> SsoOutcome {
        let by_name = |name| self.account_named(sign_in, name);
        let found =
            by_name(&sign_in.ident).or_else(|| sign_in.legacy_ident.as_ref().and_then(by_name));
        let Some(id) = found else { return SsoOutcome::NobodyLinked };
        SsoOutcome::SignedIn(self.renew_account(id, sign_in, EventKind::AuthIdentitySignedIn, now))
    }

    fn sso_link(&mut self, user: &UserId, sign_in: &SsoSignIn, now: DateTime<Utc>) -> SsoOutcome {
        let own = self.account_where(sign_in, |it| it.user_id == *user);
        let account = self.account_named(sign_in, &sign_in.ident);
        let legacy = sign_in.legacy_ident.as_ref();
        let own_is_legacy =
            own.is_some_and(|id| legacy == Some(&self.auth_identities[&id].0.ident));
        let renewed = EventKind::AuthIdentityUpdated;
        let identity = match (own, account) {
            (None, None) => {
                let identity = self.create_account(user, sign_in, now);
                return SsoOutcome::Linked { identity, new: true };
            }
            (Some(own), Some(account)) if own == account => {
                self.renew_account(own, sign_in, renewed, now)
            }
            (Some(own), None) if own_is_legacy => self.renew_account(own, sign_in, renewed, now),
            (_, Some(_)) if !sign_in.reattach => return SsoOutcome::Taken(Taken::Account),
            (Some(_), None) if !sign_in.reattach => return SsoOutcome::Taken(Taken::User),
            (Some(row), None) | (None, Some(row)) => self.rebind_account(row, user, sign_in, now),
            (Some(own), Some(account)) => {
                if let Some((gone, held)) = self.take_auth_identity(account, &sign_in.actor, now) {
                    self.queue_orphaned(&gone, held, sign_in, now);
                }
                self.rebind_account(own, user, sign_in, now)
            }
        };
        SsoOutcome::Linked { identity, new: false }
    }

    fn create_account(
        &mut self,
        user: &UserId,
        sign_in: &SsoSignIn,
        now: DateTime<Utc>,
    ) -> AuthIdentity {
        let identity = AuthIdentity {
            id: AuthIdentityId(self.next_id()),
            auth_provider_id: sign_in.auth_provider_id,
            user_id: user.clone(),
            ident: sign_in.ident.clone(),
            data: sign_in.data.clone(),
            last_verified: now,
            last_synced: now,
            date_added: now,
            version: 1,
        };
        let row = (identity.clone(), sign_in.credentials.clone());
        self.auth_identities.insert(identity.id, row);
        let kind = EventKind::AuthIdentityLinked;
        self.log_account(kind, &sign_in.actor, None, Some(&identity), now);
        identity
    }

    fn renew_account(
        &mut self,
        id: AuthIdentityId,
        sign_in: &SsoSignIn,
        about: EventKind,
        now: DateTime<Utc>,
    ) -> AuthIdentity {
        let (identity, credentials) = self.account_mut(id);
        let before = identity.clone();
        identity.prove(sign_in, now);
        identity.data.extend(sign_in.data.clone());
        if let Some(answer) = sign_in.credentials.clone() {
            *credentials = Some(credentials.take().unwrap_or_default().renewed_by(answer));
        }
        let identity = identity.clone();
        self.log_account(about, &sign_in.actor, Some(&before), Some(&identity), now);
        identity
    }

    fn rebind_account(
        &mut self,
        id: AuthIdentityId,
        user: &UserId,
        sign_in: &SsoSignIn,
        now: DateTime<Utc>,
    ) -> AuthIdentity {
        let (before, held) = self.account_mut(id).clone();
        self.queue_orphaned(&before, held, sign_in, now);
        let (identity, credentials) = self.account_mut(id);
        identity.prove(sign_in, now);
        identity.user_id = user.clone();
        identity.data.clone_from(&sign_in.data);
        credentials.clone_from(&sign_in.credentials);
        let identity = identity.clone();
        let kind = EventKind::AuthIdentityUpdated;
        self.log_account(kind, &sign_in.actor, Some(&before), Some(&identity), now);
        identity
    }

    /// Queues what a row held, unless its account stays linked with new credentials.
    fn queue_orphaned(
        &mut self,
        account: &AuthIdentity,
        held: Option<Credentials>,
        sign_in: &SsoSignIn,
        now: DateTime<Utc>,
    ) {
        if is_orphaned_by_sign_in(account, sign_in) {
            self.queue_account_credentials((account, held), &sign_in.actor, now);
        }
    }

    fn account_mut(&mut self, id: AuthIdentityId) -> &mut (AuthIdentity, Option<Credentials>) {
        self.auth_identities.get_mut(&id).expect("found under the same lock")
    }
}

impl AuthIdentity {
    /// The account was proved: it may have got a newer name.
    fn prove(&mut self, sign_in: &SsoSignIn, now: DateTime<Utc>) {
        self.ident = sign_in.ident.clone();
        self.last_verified = now;
        self.last_synced = now;
        self.version += 1;
    }
}

#[async_trait]
impl AuthIdentityRepository for MemoryStore {
    async fn find(&self, id: AuthIdentityId) -> Result<Option<AuthIdentity>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(rows.auth_identities.get(&id).map(|(it, _)| it.clone()))
    }

    async fn find_credentials(
        &self,
        id: AuthIdentityId,
    ) -> Result<Option<Credentials>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(rows.auth_identities.get(&id).and_then(|(_, it)| it.clone()))
    }

    async fn list(
        &self,
        filter: &AuthIdentityFilter,
        page: PageRequest,
    ) -> Result<Page<AuthIdentity>, RepositoryError> {
        let AuthIdentityFilter { organization_id, auth_provider_id, provider_id, user_id, ident } =
            filter;
        let (rows, _) = self.read();
        let meant = rows.auth_identities.values().map(|(it, _)| it).filter(|it| {
            let of = &rows.auth_providers[&it.auth_provider_id];
            organization_id.as_ref().is_none_or(|wanted| *wanted == of.organization_id)
                && provider_id.is_none_or(|wanted| wanted == of.provider_id)
                && auth_provider_id.is_none_or(|wanted| wanted == it.auth_provider_id)
                && user_id.as_ref().is_none_or(|wanted| *wanted == it.user_id)
                && ident.as_ref().is_none_or(|wanted| *wanted == it.ident)
        });
        Ok(page_of(meant, page, |it| it.id.0))
    }

    async fn sign_in(&self, sign_in: &SsoSignIn) -> Result<SsoOutcome, RepositoryError> {
        self.write(|rows, now| {
            if !rows.auth_providers.contains_key(&sign_in.auth_provider_id) {
                return Err(RepositoryError::NotFound);
            }
            if sign_in.session.is_some_and(|claim| rows.waiting_session(&claim, now).is_none()) {
                return Ok(SsoOutcome::SessionUsed);
            }
            let outcome = match &sign_in.user {
                Some(user) => rows.sso_link(user, sign_in, now),
                None => rows.sso_sign_in(sign_in, now),
            };
            let status = match &outcome {
                SsoOutcome::SignedIn(_) => LinkSessionStatus::SignedIn,
                SsoOutcome::Linked { .. } => LinkSessionStatus::Linked,
                SsoOutcome::NobodyLinked => LinkSessionStatus::Unlinked,
                SsoOutcome::Taken(_) | SsoOutcome::SessionUsed => return Ok(outcome),
            };
            if outcome.known().is_some() {
                let provider = rows.auth_providers[&sign_in.auth_provider_id].provider_id;
                let session = sign_in.provider_session.as_deref();
                rows.remember_session(provider, session, &sign_in.ident, now);
            }
            if let Some(claim) = sign_in.session {
                rows.move_session_on(claim.id, status, None);
            }
            Ok(outcome)
        })
    }

    async fn update(
        &self,
        update: &AuthIdentityUpdate,
    ) -> Result<AuthIdentityOutcome, RepositoryError> {
        let AuthIdentityUpdate { id, ident, data, synced, if_version, actor } = update;
        Ok(self.write(|rows, now| {
            let Some((before, _)) = rows.auth_identities.get(id).cloned() else {
                return AuthIdentityOutcome::Absent;
            };
            if if_version.is_some_and(|version| version != before.version) {
                return AuthIdentityOutcome::VersionConflict;
            }
            let taken = |name: &ExternalId| {
                rows.auth_identities.values().any(|(it, _)| {
                    it.auth_provider_id == before.auth_provider_id
                        && it.ident == *name
                        && it.id != *id
                })
            };
            if ident.as_ref().is_some_and(taken) {
                return AuthIdentityOutcome::Taken;
            }
            let (row, _) = rows.account_mut(*id);
            if let Some(ident) = ident {
                row.ident = ident.clone();
            }
            if let Some(data) = data {
                row.data.clone_from(data);
            }
            if *synced {
                row.last_synced = now;
            }
            row.version += 1;
            let after = row.clone();
            let kind = EventKind::AuthIdentityUpdated;
            rows.log_account(kind, actor, Some(&before), Some(&after), now);
            AuthIdentityOutcome::Updated(after)
        }))
    }

    async fn unlink(&self, unlink: &SsoUnlink) -> Result<SsoUnlinkOutcome, RepositoryError> {
        let SsoUnlink { id, user_id, guard, actor } = unlink;
        Ok(self.write(|rows, now| {
            let row = rows.auth_identities.get(id).map(|(it, _)| it.clone());
            let row = row.filter(|it| user_id.as_ref().is_none_or(|user| *user == it.user_id));
            let Some(row) = row else { return SsoUnlinkOutcome::Absent };
            if let Guard::LastWayIn { has_password } = *guard {
                let allow_unlinked = rows.auth_providers[&row.auth_provider_id].allow_unlinked;
                let ways = rows.ways_in(&row.user_id, has_password);
                let needed = ways.without_auth_identity(allow_unlinked);
                if needed != Disconnection::CanDisconnect {
                    return SsoUnlinkOutcome::Needed(needed);
                }
            }
            rows.remove_auth_identity(*id, actor, now);
            SsoUnlinkOutcome::Unlinked(row)
        }))
    }

    async fn delete_for(
        &self,
        user: &UserId,
        organization: &OrganizationId,
        actor: &Actor,
    ) -> Result<u64, RepositoryError> {
        Ok(self.write(|rows, now| {
            let accounts = rows.auth_identities.values().map(|(it, _)| it);
            let meant: Vec<_> = accounts
                .filter(|it| it.user_id == *user)
                .filter(|it| {
                    rows.auth_providers[&it.auth_provider_id].organization_id == *organization
                })
                .map(|it| it.id)
                .collect();
            for id in &meant {
                rows.remove_auth_identity(*id, actor, now);
            }
            meant.len() as u64
        }))
    }
}
