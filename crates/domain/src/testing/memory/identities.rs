use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::json;

use super::{MemoryStore, Rows, page_of, refresh_schedule::ScheduleColumns, to_microseconds};
use crate::{
    credentials::Credentials,
    disconnection::{Disconnection, Guard, WaysIn},
    event::{Actor, EventKind, NewEvent},
    identity::{Identity, IdentityFilter, IdentityStatus},
    ids::{ExternalId, IdentityId, OrganizationId, ProviderId, UserId},
    link_session::LinkSessionStatus,
    page::{Page, PageRequest},
    ports::{
        BackOff, DataOutcome, DataUpdate, IdentityRepository, Link, LinkOutcome, LinkOwner,
        RepositoryError, Taken, Unlink, UnlinkOutcome,
    },
    revocation::is_orphaned_by,
};

#[derive(Clone)]
pub(super) struct IdentityRow {
    pub(super) identity: Identity,
    pub(super) credentials: Option<Credentials>,
    /// Counts the credentials, their removal included.
    pub(super) generation: i64,
    /// The fencing token: what a lease writes is taken while this and the generation are its own.
    pub(super) attempt: i64,
    /// Until when the lease is held; `None` while nobody holds it.
    pub(super) leased_until: Option<DateTime<Utc>>,
    /// Who took the lease last.
    pub(super) holder: String,
    pub(super) unanswered: u32,
    pub(super) back_off: Option<BackOff>,
    pub(super) schedule: ScheduleColumns,
}

impl IdentityRow {
    /// Puts other credentials in place, or none. Whoever refreshes the old ones is fenced off:
    /// the lease ends, and a write that says it was done already can't be mistaken for this one.
    pub(super) fn replace_credentials(&mut self, credentials: Option<Credentials>) {
        self.attempt += 1;
        if self.credentials.is_some() || credentials.is_some() {
            self.store_generation(credentials);
        }
        self.forget_refreshes();
    }

    /// The next generation: no lease, no doubt and no back-off of the one before.
    pub(super) fn store_generation(&mut self, credentials: Option<Credentials>) {
        self.identity.expires_at =
            credentials.as_ref().and_then(|it| it.expires_at).map(to_microseconds);
        self.credentials = credentials;
        self.generation += 1;
        self.forget_refreshes();
    }

    fn forget_refreshes(&mut self) {
        self.leased_until = None;
        self.unanswered = 0;
        self.back_off = None;
    }

    /// Puts the answer of a provider over what is there, and makes the identity valid: none of the
    /// tokens that made it invalid are kept.
    fn renew_credentials(&mut self, answer: Credentials) {
        let mut before = self.credentials.take().unwrap_or_default();
        if self.identity.status == IdentityStatus::Invalid {
            before = before.without_tokens();
            self.make_valid();
        }
        // A refresh token that stays is in the doubt that it was in. While it may be on its way,
        // nobody else sends it: the lease ends with its time.
        let stays = answer.refresh_token.is_none() && before.refresh_token.is_some();
        let doubt = if stays { self.unanswered } else { 0 };
        let leased_until = self.leased_until.filter(|_| doubt > 0);
        self.replace_credentials(Some(before.renewed_by(answer)));
        self.unanswered = doubt;
        self.leased_until = leased_until;
    }

    pub(super) fn make_valid(&mut self) {
        self.identity.status = IdentityStatus::Valid;
        self.identity.invalid = None;
    }

    /// The link was proved (again): the account may have got a newer name.
    fn verify(&mut self, link: &Link, now: DateTime<Utc>) {
        self.make_valid();
        self.identity.external_id = link.external_id.clone();
        self.identity.date_verified = now;
        self.identity.version += 1;
    }

    /// The same user's link of the same account, proved again.
    fn renew(&mut self, link: &Link, now: DateTime<Utc>) -> Identity {
        match link.credentials.clone() {
            Some(answer) => self.renew_credentials(answer),
            None if self.identity.status == IdentityStatus::Invalid => {
                self.replace_credentials(None);
            }
            None => {}
        }
        self.verify(link, now);
        self.identity.data.extend(link.data.clone());
        if !link.scopes.is_empty() {
            self.identity.scopes.clone_from(&link.scopes);
        }
        self.identity.clone()
    }

    /// Another user's link, or of another account: nothing of the old one stays but the row.
    fn rebind(&mut self, user: &UserId, link: &Link, now: DateTime<Utc>) -> Identity {
        self.verify(link, now);
        self.identity.user_id = user.clone();
        self.identity.data.clone_from(&link.data);
        self.identity.scopes.clone_from(&link.scopes);
        self.replace_credentials(link.credentials.clone());
        self.identity.clone()
    }
}

impl Rows {
    /// The rules of [`IdentityRepository::link`], row by row.
    fn link_to(&mut self, user: &UserId, link: &Link, now: DateTime<Utc>) -> LinkOutcome {
        let account = self.account_of(link);
        if let Some(id) = account
            && self.identities[&id].identity.user_id == *user
        {
            return self.renew(id, link, now);
        }
        // Where several accounts are allowed, another one of the user's stands in nobody's way.
        let own = if self.allows_several(link.provider_id) {
            None
        } else {
            self.identity_of_user(link.provider_id, user)
        };
        match (own, account) {
            (None, None) => LinkOutcome::Created(self.create_identity(user, link, now)),
            (_, Some(_)) if !link.reattach => LinkOutcome::Taken(Taken::Account),
            (Some(_), None) if !link.reattach => LinkOutcome::Taken(Taken::User),
            (Some(id), None) | (None, Some(id)) => self.rebind(id, user, link, now),
            (Some(own), Some(account)) => {
                if let Some(row) = self.remove_identity(account, &link.actor, now)
                    && is_orphaned_by(&row.identity, link)
                {
                    self.queue_credentials(&row, &link.actor, now);
                }
                self.rebind(own, user, link, now)
            }
        }
    }

    fn sign_in(&mut self, link: &Link, now: DateTime<Utc>) -> LinkOutcome {
        let found = self.account_of(link);
        let Some(id) = found else { return LinkOutcome::NobodyLinked };
        let before = self.identity_mut(id).identity.clone();
        let identity = self.identity_mut(id).renew(link, now);
        self.log_link(EventKind::IdentitySignedIn, link, Some(&before), &identity, now);
        LinkOutcome::SignedIn(identity)
    }

    fn create_identity(&mut self, user: &UserId, link: &Link, now: DateTime<Utc>) -> Identity {
        let identity = Identity {
            id: IdentityId(self.next_id()),
            idp_id: link.provider_id,
            user_id: user.clone(),
            external_id: link.external_id.clone(),
            data: link.data.clone(),
            status: IdentityStatus::Valid,
            invalid: None,
            scopes: link.scopes.clone(),
            date_verified: now,
            date_added: now,
            expires_at: None,
            version: 1,
        };
        let mut row = IdentityRow {
            schedule: ScheduleColumns::default(),
            identity,
            credentials: None,
            generation: 0,
            attempt: 0,
            leased_until: None,
            holder: String::new(),
            unanswered: 0,
            back_off: None,
        };
        row.replace_credentials(link.credentials.clone());
        let identity = row.identity.clone();
        self.identities.insert(identity.id, row);
        self.log_link(EventKind::IdentityLinked, link, None, &identity, now);
        identity
    }

    fn renew(&mut self, id: IdentityId, link: &Link, now: DateTime<Utc>) -> LinkOutcome {
        let before = self.identity_mut(id).identity.clone();
        let identity = self.identity_mut(id).renew(link, now);
        self.log_link(EventKind::IdentityRelinked, link, Some(&before), &identity, now);
        LinkOutcome::Updated(identity)
    }

    fn rebind(
        &mut self,
        id: IdentityId,
        user: &UserId,
        link: &Link,
        now: DateTime<Utc>,
    ) -> LinkOutcome {
        let row = &self.identities[&id];
        let before = row.identity.clone();
        if is_orphaned_by(&before, link) {
            let row = row.clone();
            self.queue_credentials(&row, &link.actor, now);
        }
        let identity = self.identity_mut(id).rebind(user, link, now);
        self.log_link(EventKind::IdentityRebound, link, Some(&before), &identity, now);
        LinkOutcome::Rebound(identity)
    }

    /// Takes a row away and tells of it.
    pub(super) fn remove_identity(
        &mut self,
        id: IdentityId,
        actor: &Actor,
        now: DateTime<Utc>,
    ) -> Option<IdentityRow> {
        let identity = self.identities.get(&id)?.identity.clone();
        self.end_uses_of(&identity, actor, now);
        let row = self.identities.remove(&id)?;
        let kind = EventKind::IdentityUnlinked;
        self.log(NewEvent::of_identity(kind, actor, Some(&row.identity), None), now);
        Some(row)
    }

    /// Tells of a link. A rebound row's previous user and account are named in `detail` too.
    fn log_link(
        &mut self,
        about: EventKind,
        link: &Link,
        before: Option<&Identity>,
        after: &Identity,
        now: DateTime<Utc>,
    ) {
        let organization_id = self.organization_of(link);
        let mut event = NewEvent::of_identity(about, &link.actor, before, Some(after));
        event.organization_id = organization_id;
        event.detail.insert("evidence".into(), link.evidence.told());
        if let (EventKind::IdentityRebound, Some(before)) = (about, before) {
            event.detail.insert("previous_user_id".into(), json!(before.user_id.as_str()));
            event.detail.insert("previous_external_id".into(), json!(before.external_id.as_str()));
        }
        self.log(event, now);
    }

    /// On whose behalf a link is made.
    fn organization_of(&self, link: &Link) -> Option<OrganizationId> {
        if let Some(claim) = link.device_link {
            return self.organization_of_device_link(claim);
        }
        self.sessions.get(&link.session?.id)?.session.organization_id.clone()
    }

    /// Whether the identity's user can sign in with it.
    pub(super) fn is_login(&self, identity: &Identity) -> bool {
        self.providers[&identity.idp_id].0.options.login
    }

    /// The ways in that a user has.
    pub(super) fn ways_in(&self, user: &UserId, has_password: bool) -> WaysIn {
        let identities = self.identities.values().map(|row| &row.identity);
        let login = identities.filter(|it| it.user_id == *user && self.is_login(it));
        WaysIn { has_password, login_identities: login.count() as u64 }
    }

    /// Whether a user may have several accounts at this provider.
    pub(super) fn allows_several(&self, provider: ProviderId) -> bool {
        self.providers[&provider].0.options.multiple_accounts
    }

    /// The row that counts as the link's account: the one that names it, else the one under its
    /// legacy name.
    fn account_of(&self, link: &Link) -> Option<IdentityId> {
        let by_name = |name| self.identity_of_account(link.provider_id, name);
        by_name(&link.external_id).or_else(|| link.legacy_id.as_ref().and_then(by_name))
    }

    pub(super) fn identity_of_user(
        &self,
        provider: ProviderId,
        user: &UserId,
    ) -> Option<IdentityId> {
        self.identity_where(|it| it.idp_id == provider && it.user_id == *user)
    }

    fn identity_of_account(&self, provider: ProviderId, name: &ExternalId) -> Option<IdentityId> {
        self.identity_where(|it| it.idp_id == provider && it.external_id == *name)
    }

    fn identity_where(&self, is_meant: impl Fn(&Identity) -> bool) -> Option<IdentityId> {
        self.identities.values().find(|row| is_meant(&row.identity)).map(|row| row.identity.id)
    }

    pub(super) fn identity_mut(&mut self, id: IdentityId) -> &mut IdentityRow {
        self.identities.get_mut(&id).expect("found under the same lock")
    }

    fn is_meant(&self, filter: &IdentityFilter, identity: &Identity) -> bool {
        let IdentityFilter {
            id,
            user_id,
            external_id,
            external_ids,
            provider_id,
            provider_external_id,
            provider_has_no_external_id,
            provider_type,
            status,
            provider_types,
            providers,
            organization_id,
            exclude_matching_external_ids,
        } = filter;
        let provider = &self.providers[&identity.idp_id].0;
        let instance = provider.external_id.as_deref();
        id.is_none_or(|it| it == identity.id)
            && user_id.as_ref().is_none_or(|it| *it == identity.user_id)
            && external_id.as_ref().is_none_or(|it| *it == identity.external_id)
            && external_ids.as_ref().is_none_or(|it| it.contains(&identity.external_id))
            && provider_id.is_none_or(|it| it == identity.idp_id)
            && provider_external_id.as_ref().is_none_or(|it| Some(it.as_str()) == instance)
            && !(*provider_has_no_external_id && instance.is_some())
            && provider_type.as_ref().is_none_or(|it| *it == provider.provider_type)
            && provider_types.as_ref().is_none_or(|it| it.contains(&provider.provider_type))
            && providers.as_ref().is_none_or(|it| it.contains(&identity.idp_id))
            && organization_id.as_ref().is_none_or(|it| self.uses(it, identity.id))
            && status.is_none_or(|it| it == identity.status)
            && !(*exclude_matching_external_ids && instance == Some(identity.external_id.as_str()))
    }
}

#[async_trait]
impl IdentityRepository for MemoryStore {
    async fn find(&self, id: IdentityId) -> Result<Option<Identity>, RepositoryError> {
        let (rows, _) = self.read();
        Ok(rows.identities.get(&id).map(|row| row.identity.clone()))
    }

    async fn list(
        &self,
        filter: &IdentityFilter,
        page: PageRequest,
    ) -> Result<Page<Identity>, RepositoryError> {
        let (rows, _) = self.read();
        let identities = rows.identities.values().map(|row| &row.identity);
        Ok(page_of(identities.filter(|it| rows.is_meant(filter, it)), page, |it| it.id.0))
    }

    async fn link(&self, link: &Link) -> Result<LinkOutcome, RepositoryError> {
        self.write(|rows, now| {
            if !rows.providers.contains_key(&link.provider_id) {
                return Err(RepositoryError::NotFound);
            }
            if link.session.is_some_and(|claim| rows.waiting_session(&claim, now).is_none()) {
                return Ok(LinkOutcome::SessionUsed);
            }
            if link.device_link.is_some_and(|claim| !rows.holds_device_link(claim, now)) {
                rows.queue_late_grant(link, now);
                return Ok(LinkOutcome::SessionUsed);
            }
            let outcome = match &link.owner {
                LinkOwner::User(user) => rows.link_to(user, link, now),
                LinkOwner::Whoever => rows.sign_in(link, now),
            };
            if let Some(identity) = outcome.known() {
                let account = identity.external_id.clone();
                let session = link.evidence.session_id();
                rows.remember_session(link.provider_id, session, &account, now);
            }
            let organization = rows.organization_of(link);
            if let (Some(organization), Some(identity)) = (organization, outcome.linked()) {
                rows.attach(&organization, identity, &link.actor, now);
            }
            if let Some(claim) = link.session {
                rows.settle_session(claim.id, &outcome);
            }
            if let (Some(claim), Some(identity)) = (link.device_link, outcome.linked()) {
                rows.settle_device_link(claim.id, identity.id);
            }
            Ok(outcome)
        })
    }

    async fn update_data(&self, update: &DataUpdate) -> Result<DataOutcome, RepositoryError> {
        let DataUpdate { id, data, credentials, if_version, actor } = update;
        Ok(self.write(|rows, now| {
            let Some(row) = rows.identities.get_mut(id) else { return DataOutcome::Absent };
            if if_version.is_some_and(|version| version != row.identity.version) {
                return DataOutcome::VersionConflict;
            }
            let before = row.identity.clone();
            row.identity.data.clone_from(data);
            row.identity.version += 1;
            if let Some(answer) = credentials.clone() {
                row.renew_credentials(answer);
            }
            let identity = row.identity.clone();
            let kind = EventKind::IdentityDataUpdated;
            rows.log(NewEvent::of_identity(kind, actor, Some(&before), Some(&identity)), now);
            DataOutcome::Updated(identity)
        }))
    }

    async fn unlink(&self, unlink: &Unlink) -> Result<UnlinkOutcome, RepositoryError> {
        let Unlink { id, user_id, guard, revoke, actor } = unlink;
        Ok(self.write(|rows, now| {
            let row = rows.identities.get(id);
            let Some(row) =
                row.filter(|row| user_id.as_ref().is_none_or(|user| *user == row.identity.user_id))
            else {
                return UnlinkOutcome::Absent;
            };
            let (is_login, user) = (rows.is_login(&row.identity), row.identity.user_id.clone());
            if let Guard::LastWayIn { has_password } = *guard {
                let needed = rows.ways_in(&user, has_password).without_identity(is_login);
                if needed != Disconnection::CanDisconnect {
                    return UnlinkOutcome::Needed(needed);
                }
            }
            let Some(row) = rows.remove_identity(*id, actor, now) else {
                return UnlinkOutcome::Absent;
            };
            let revocation = if *revoke { rows.queue_credentials(&row, actor, now) } else { None };
            UnlinkOutcome::Unlinked(row.identity, revocation)
        }))
    }
}

impl LinkOutcome {
    /// How far the session got by it, and the identity that came of it; `None` leaves it as it is.
    pub(super) fn settles(&self) -> Option<(LinkSessionStatus, Option<IdentityId>)> {
        match self {
            Self::Created(it) | Self::Updated(it) | Self::Rebound(it) => {
                Some((LinkSessionStatus::Linked, Some(it.id)))
            }
            Self::SignedIn(it) => Some((LinkSessionStatus::SignedIn, Some(it.id))),
            Self::NobodyLinked => Some((LinkSessionStatus::Unlinked, None)),
            Self::Taken(_) | Self::SessionUsed => None,
        }
    }
}
