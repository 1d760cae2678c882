use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::{Identities, already_linked, take_credentials};
use crate::{
    Error,
    api_key::KeyLimits,
    auth_identity::AuthIdentity,
    auth_provider::AuthProvider,
    disconnection::{Disconnection, Guard, IdentityCategory, WaysIn},
    event::Actor,
    identity::{Identity, IdentityFilter},
    identity_provider::IdentityProvider,
    ids::{
        AuthIdentityId, AuthProviderId, ExternalId, IdentityId, OrganizationId, ProviderId, UserId,
    },
    page::{Page, PageRequest},
    ports::{
        AuthIdentityFilter, AuthIdentityOutcome, AuthIdentityRepository, AuthIdentityUpdate,
        AuthProviderRepository, AuthProviderUpdate, NewAuthProvider,
        OrganizationIdentityRepository, RepositoryError, SsoOutcome, SsoSignIn, SsoUnlink,
        SsoUnlinkOutcome, Unlink,
    },
};

/// How organizations sign in, with which accounts, and what a user may disconnect.
#[derive(Clone)]
pub struct SingleSignOn {
    /// Where it is kept how organizations sign in.
    pub auth_providers: Arc<dyn AuthProviderRepository>,
    /// Where the accounts with which users do are kept.
    pub auth_identities: Arc<dyn AuthIdentityRepository>,
    /// Where it is kept which identities organizations use.
    pub organization_identities: Arc<dyn OrganizationIdentityRepository>,
    /// The other accounts of users.
    pub identities: Arc<Identities>,
}

/// Changes to how an organization signs in: what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AuthProviderChanges {
    /// The whole new values of the product's own.
    pub config: Option<Map<String, Value>>,
    /// Members who have linked no account may come in all the same.
    pub allow_unlinked: Option<bool>,
    /// The organization's directory manages its members.
    pub scim_enabled: Option<bool>,
    /// The role of a member who comes in for the first time, or none.
    pub default_role: Option<Option<i32>>,
    /// Whether such a member gets into all of the organization.
    pub default_global_access: Option<bool>,
    /// How often members are synchronized, or never.
    pub sync_time: Option<Option<i32>>,
    /// When they were synchronized last.
    pub last_sync: Option<Option<DateTime<Utc>>>,
}

/// An account for single sign-on that a trusted caller vouches for.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAuthIdentity {
    /// For which organization.
    pub organization_id: OrganizationId,
    /// Whose it is.
    pub user_id: UserId,
    /// Which account.
    pub ident: ExternalId,
    /// The profile and the product's own values; credential keys are taken out and sealed.
    pub data: Map<String, Value>,
    /// Whether an existing link may be rebound.
    pub reattach: bool,
}

/// One of a user's accounts, as the user is shown it.
#[derive(Clone, Debug, PartialEq)]
pub struct UserAccount {
    /// What `id` names.
    pub category: IdentityCategory,
    /// The [`IdentityId`] or [`AuthIdentityId`].
    pub id: i64,
    /// Where the account lives.
    pub provider: IdentityProvider,
    /// Which account there.
    pub name: ExternalId,
    /// Whether the user may disconnect it.
    pub status: Disconnection,
    /// Whether the user signs in with it.
    pub is_login: bool,
    /// For which organization, if it is for single sign-on.
    pub organization_id: Option<OrganizationId>,
    /// When it was linked first.
    pub date_added: DateTime<Utc>,
    /// When the user last proved to hold it.
    pub date_verified: DateTime<Utc>,
    /// When what the organization knows was brought up to date, if it is for single sign-on.
    pub date_synced: Option<DateTime<Utc>>,
}

impl UserAccount {
    /// Its place in the list: where the next part begins.
    fn place(&self) -> (IdentityCategory, i64) {
        (self.category, self.id)
    }
}

/// What is meant by [`SingleSignOn::disconnect`].
#[derive(Clone, Debug, PartialEq)]
pub struct Disconnect {
    /// Whose account it must be.
    pub user_id: UserId,
    /// What `id` names.
    pub category: IdentityCategory,
    /// The [`IdentityId`] or [`AuthIdentityId`].
    pub id: i64,
    /// Whether the user has a usable password.
    pub has_password: bool,
    /// Who does it.
    pub actor: Actor,
}

impl SingleSignOn {
    /// Gives an organization its single sign-on.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] for a provider that is not there or can sign nobody in;
    /// [`Error::AlreadyExists`] when the organization has one.
    pub async fn create(
        &self,
        new: &NewAuthProvider,
        actor: &Actor,
    ) -> Result<AuthProvider, Error> {
        let absent = || Error::invalid("provider_id", "there is no such identity provider");
        let providers = &self.identities.providers;
        let provider = providers.providers.find(new.provider_id).await?.ok_or_else(absent)?;
        let kind = providers.connectors.find_type(&provider.provider_type);
        if !kind.is_some_and(|it| it.capabilities.sign_in) {
            return Err(Error::invalid("provider_id", "this provider cannot sign users in"));
        }
        self.auth_providers.insert(new, actor).await.map_err(|error| match error {
            RepositoryError::Conflict => Error::AlreadyExists(
                "the organization has an auth provider already; delete that one first",
            ),
            RepositoryError::NotFound => absent(),
            other => other.into(),
        })
    }

    /// An organization's single sign-on of this id.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], also for another organization's.
    pub async fn find(
        &self,
        organization: &OrganizationId,
        id: AuthProviderId,
    ) -> Result<AuthProvider, Error> {
        let found = self.auth_providers.find(id).await?;
        let own = found.filter(|it| it.organization_id == *organization);
        own.ok_or(Error::NotFound("auth provider"))
    }

    /// Changes how an organization signs in. With which provider stays: other accounts would
    /// answer to the same names.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::VersionConflict`] when `if_version` is given and is not the
    /// version, or when others change it all the time.
    pub async fn update(
        &self,
        organization: &OrganizationId,
        id: AuthProviderId,
        changes: &AuthProviderChanges,
        if_version: Option<i64>,
        actor: &Actor,
    ) -> Result<AuthProvider, Error> {
        // Others may change it between read and write; then the changes go over theirs.
        for _ in 0..5 {
            let found = self.find(organization, id).await?;
            if if_version.is_some_and(|version| version != found.version) {
                return Err(Error::VersionConflict);
            }
            let mut update = AuthProviderUpdate::of(&found);
            if let Some(config) = &changes.config {
                update.config.clone_from(config);
            }
            update.allow_unlinked = changes.allow_unlinked.unwrap_or(update.allow_unlinked);
            update.scim_enabled = changes.scim_enabled.unwrap_or(update.scim_enabled);
            update.default_role = changes.default_role.unwrap_or(update.default_role);
            update.default_global_access =
                changes.default_global_access.unwrap_or(update.default_global_access);
            update.sync_time = changes.sync_time.unwrap_or(update.sync_time);
            update.last_sync = changes.last_sync.unwrap_or(update.last_sync);
            if let Some(updated) = self.auth_providers.update(&update, actor).await? {
                return Ok(updated);
            }
        }
        Err(Error::VersionConflict)
    }

    /// Takes an organization's single sign-on away, with the accounts that were linked for it;
    /// answers how many.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], also for another organization's.
    pub async fn delete(
        &self,
        organization: &OrganizationId,
        id: AuthProviderId,
        actor: &Actor,
    ) -> Result<u64, Error> {
        let found = self.find(organization, id).await?;
        let deleted = self.auth_providers.delete(found.id, actor).await?;
        deleted.ok_or(Error::NotFound("auth provider"))
    }

    /// Links an account that the caller vouches for; true with it when it is new. Doing it twice
    /// is doing it once.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the organization has no single sign-on;
    /// [`Error::IdentityAlreadyLinked`] when the account or the user's place is taken and
    /// reattaching was not asked for.
    pub async fn link(
        &self,
        new: NewAuthIdentity,
        actor: Actor,
    ) -> Result<(AuthIdentity, bool), Error> {
        let of = self.auth_providers.find_by_organization(&new.organization_id).await?;
        let of = of.ok_or(Error::NotFound("auth provider"))?;
        let now = self.identities.clock.now();
        let (data, credentials) = take_credentials(new.data, &[], now)?;
        let sign_in = SsoSignIn {
            auth_provider_id: of.id,
            ident: new.ident,
            legacy_ident: None,
            user: Some(new.user_id),
            data,
            credentials,
            reattach: new.reattach,
            provider_session: None,
            session: None,
            actor,
        };
        match self.auth_identities.sign_in(&sign_in).await {
            Ok(SsoOutcome::Linked { identity, new }) => Ok((identity, new)),
            Ok(SsoOutcome::Taken(taken)) => Err(already_linked(taken)),
            // It was deleted in between; the other outcomes are those of sign-ins and sessions.
            Ok(_) | Err(RepositoryError::NotFound) => Err(Error::NotFound("auth provider")),
            Err(error) => Err(error.into()),
        }
    }

    /// Changes an account for an organization's single sign-on.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], also for another organization's; [`Error::VersionConflict`];
    /// [`Error::IdentityAlreadyLinked`] when the new name is another row's;
    /// [`Error::InvalidRequest`] for data that holds a credential.
    pub async fn update_identity(
        &self,
        organization: &OrganizationId,
        mut update: AuthIdentityUpdate,
    ) -> Result<AuthIdentity, Error> {
        let absent = Error::NotFound("auth identity");
        let Some(found) = self.auth_identities.find(update.id).await? else { return Err(absent) };
        self.find(organization, found.auth_provider_id).await.map_err(|error| match error {
            Error::NotFound(_) => Error::NotFound("auth identity"),
            other => other,
        })?;
        if let Some(data) = update.data.take() {
            let (data, credentials) = take_credentials(data, &[], self.identities.clock.now())?;
            if credentials.is_some() {
                let problem = "must hold no credential; link the account again to renew them";
                return Err(Error::invalid("data", problem));
            }
            update.data = Some(data);
        }
        match self.auth_identities.update(&update).await? {
            AuthIdentityOutcome::Updated(identity) => Ok(identity),
            AuthIdentityOutcome::VersionConflict => Err(Error::VersionConflict),
            AuthIdentityOutcome::Taken => Err(already_linked(crate::ports::Taken::Account)),
            AuthIdentityOutcome::Absent => Err(absent),
        }
    }

    /// A user's accounts that a key with these limits may see: the identities, then the accounts
    /// for single sign-on, each with whether the user may disconnect it.
    ///
    /// What the limits hide counts all the same: it is a way in.
    ///
    /// # Errors
    ///
    /// [`Error::Repository`].
    pub async fn accounts(
        &self,
        user: &UserId,
        has_password: bool,
        limits: &KeyLimits,
        page: PageRequest,
    ) -> Result<Page<UserAccount>, Error> {
        let mut accounts = self.all_accounts(user, has_password, limits).await?;
        if let Some(after) = page.after {
            let category =
                if after & 1 == 0 { IdentityCategory::Global } else { IdentityCategory::Org };
            accounts.retain(|it| it.place() > (category, after >> 1));
        }
        accounts.truncate(usize::from(page.limit) + 1);
        // A row's id and its category in one number.
        let place =
            |it: &UserAccount| (it.id << 1) | i64::from(it.category == IdentityCategory::Org);
        Ok(Page::cut(accounts, page.limit, place))
    }

    /// One of them.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], also for another user's and for what the limits hide.
    pub async fn account(
        &self,
        user: &UserId,
        category: IdentityCategory,
        id: i64,
        has_password: bool,
        limits: &KeyLimits,
    ) -> Result<UserAccount, Error> {
        let accounts = self.all_accounts(user, has_password, limits).await?;
        let found = accounts.into_iter().find(|it| it.place() == (category, id));
        found.ok_or(Error::NotFound("identity"))
    }

    async fn all_accounts(
        &self,
        user: &UserId,
        has_password: bool,
        limits: &KeyLimits,
    ) -> Result<Vec<UserAccount>, Error> {
        let identities = self.identities_of(user).await?;
        let auth_identities = self.auth_identities_of(user).await?;
        let mut providers = BTreeMap::new();
        for identity in &identities {
            self.know(&mut providers, identity.idp_id).await?;
        }
        let is_login = |it: &&Identity| {
            providers.get(&it.idp_id).is_some_and(|provider| provider.options.login)
        };
        let login_identities = identities.iter().filter(is_login).count() as u64;
        let ways = WaysIn { has_password, login_identities };

        let mut accounts = Vec::new();
        for identity in identities {
            // Its provider may be gone since, and the identity with it.
            let Some(provider) = providers.get(&identity.idp_id) else { continue };
            let is_login = provider.options.login;
            accounts.push(UserAccount {
                category: IdentityCategory::Global,
                id: identity.id.0,
                provider: provider.clone(),
                name: identity.external_id,
                status: ways.without_identity(is_login),
                is_login,
                organization_id: None,
                date_added: identity.date_added,
                date_verified: identity.date_verified,
                date_synced: None,
            });
        }
        for identity in auth_identities {
            let Some(of) = self.auth_providers.find(identity.auth_provider_id).await? else {
                continue;
            };
            if !limits.allow_organization(&of.organization_id) {
                continue;
            }
            self.know(&mut providers, of.provider_id).await?;
            let Some(provider) = providers.get(&of.provider_id) else { continue };
            accounts.push(UserAccount {
                category: IdentityCategory::Org,
                id: identity.id.0,
                provider: provider.clone(),
                name: identity.ident,
                status: ways.without_auth_identity(of.allow_unlinked),
                is_login: true,
                organization_id: Some(of.organization_id),
                date_added: identity.date_added,
                date_verified: identity.last_verified,
                date_synced: Some(identity.last_synced),
            });
        }
        accounts.retain(|it| limits.allow_type(&it.provider.provider_type));
        Ok(accounts)
    }

    /// Unlinks one of a user's accounts as the user would, unless it is needed. The user's
    /// sessions at the product are the product's to end.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`], also for another user's; [`Error::NeededToSignIn`];
    /// [`Error::OtherOrganization`] when the limits do not reach the organization.
    pub async fn disconnect(&self, asked: Disconnect, limits: &KeyLimits) -> Result<(), Error> {
        let Disconnect { user_id, category, id, has_password, actor } = asked;
        let guard = Guard::LastWayIn { has_password };
        if category == IdentityCategory::Global {
            let unlink =
                Unlink { id: IdentityId(id), user_id: Some(user_id), guard, revoke: true, actor };
            return self.identities.unlink_guarded(unlink).await;
        }
        let absent = || Error::NotFound("auth identity");
        let id = AuthIdentityId(id);
        let found = self.auth_identities.find(id).await?.filter(|it| it.user_id == user_id);
        let found = found.ok_or_else(absent)?;
        let of = self.auth_providers.find(found.auth_provider_id).await?.ok_or_else(absent)?;
        if !limits.allow_organization(&of.organization_id) {
            return Err(Error::OtherOrganization);
        }
        let unlink = SsoUnlink { id, user_id: Some(user_id), guard, actor };
        match self.auth_identities.unlink(&unlink).await? {
            SsoUnlinkOutcome::Unlinked(_) => Ok(()),
            SsoUnlinkOutcome::Needed(why) => Err(Error::NeededToSignIn(why)),
            SsoUnlinkOutcome::Absent => Err(absent()),
        }
    }

    async fn identities_of(&self, user: &UserId) -> Result<Vec<Identity>, Error> {
        let filter = IdentityFilter { user_id: Some(user.clone()), ..IdentityFilter::default() };
        let (mut all, mut page) = (Vec::new(), PageRequest { limit: 200, after: None });
        loop {
            let part = self.identities.identities.list(&filter, page).await?;
            all.extend(part.items);
            page.after = part.next;
            if page.after.is_none() {
                return Ok(all);
            }
        }
    }

    async fn auth_identities_of(&self, user: &UserId) -> Result<Vec<AuthIdentity>, Error> {
        let filter =
            AuthIdentityFilter { user_id: Some(user.clone()), ..AuthIdentityFilter::default() };
        let (mut all, mut page) = (Vec::new(), PageRequest { limit: 200, after: None });
        loop {
            let part = self.auth_identities.list(&filter, page).await?;
            all.extend(part.items);
            page.after = part.next;
            if page.after.is_none() {
                return Ok(all);
            }
        }
    }

    /// Reads a provider that was not read yet.
    async fn know(
        &self,
        known: &mut BTreeMap<ProviderId, IdentityProvider>,
        id: ProviderId,
    ) -> Result<(), Error> {
        if !known.contains_key(&id)
            && let Some(provider) = self.identities.providers.providers.find(id).await?
        {
            known.insert(id, provider);
        }
        Ok(())
    }
}
