use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::RepositoryError;
use crate::{
    auth_provider::AuthProvider,
    event::Actor,
    ids::{AuthProviderId, OrganizationId, ProviderId},
    page::{Page, PageRequest},
};

/// An organization's single sign-on to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct NewAuthProvider {
    /// Whose.
    pub organization_id: OrganizationId,
    /// The instance that is signed in with.
    pub provider_id: ProviderId,
    /// The product's own values.
    pub config: Map<String, Value>,
    /// Members who have linked no account may come in all the same.
    pub allow_unlinked: bool,
    /// The organization's directory manages its members.
    pub scim_enabled: bool,
    /// The role of a member who comes in for the first time.
    pub default_role: Option<i32>,
    /// Whether such a member gets into all of the organization.
    pub default_global_access: bool,
    /// How often members are synchronized.
    pub sync_time: Option<i32>,
}

/// New values for an organization's single sign-on: all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthProviderUpdate {
    /// Which one.
    pub id: AuthProviderId,
    /// The version that is to be replaced.
    pub version: i64,
    /// The product's own values.
    pub config: Map<String, Value>,
    /// Members who have linked no account may come in all the same.
    pub allow_unlinked: bool,
    /// The organization's directory manages its members.
    pub scim_enabled: bool,
    /// The role of a member who comes in for the first time.
    pub default_role: Option<i32>,
    /// Whether such a member gets into all of the organization.
    pub default_global_access: bool,
    /// How often members are synchronized.
    pub sync_time: Option<i32>,
    /// When they were synchronized last.
    pub last_sync: Option<DateTime<Utc>>,
}

impl AuthProviderUpdate {
    /// What leaves everything as it is; the caller sets what changes.
    #[must_use]
    pub fn of(it: &AuthProvider) -> Self {
        Self {
            id: it.id,
            version: it.version,
            config: it.config.clone(),
            allow_unlinked: it.allow_unlinked,
            scim_enabled: it.scim_enabled,
            default_role: it.default_role,
            default_global_access: it.default_global_access,
            sync_time: it.sync_time,
            last_sync: it.last_sync,
        }
    }
}

/// Which single sign-ons are meant: all conditions together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthProviderFilter {
    /// Of this organization.
    pub organization_id: Option<OrganizationId>,
    /// With this provider instance.
    pub provider_id: Option<ProviderId>,
}

/// Keeps how organizations sign in.
///
/// Each event names organization and provider instance, has the row's id as `auth_provider_id` in
/// its detail, and tells what changed.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait AuthProviderRepository: Send + Sync {
    /// Adds one and the event that tells of it.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Conflict`] when the organization has one already;
    /// [`RepositoryError::NotFound`] when there is no such provider instance.
    async fn insert(
        &self,
        new: &NewAuthProvider,
        actor: &Actor,
    ) -> Result<AuthProvider, RepositoryError>;

    /// The single sign-on, or `None` when there is none by that id.
    async fn find(&self, id: AuthProviderId) -> Result<Option<AuthProvider>, RepositoryError>;

    /// The organization's single sign-on, or `None` when it has none.
    async fn find_by_organization(
        &self,
        organization: &OrganizationId,
    ) -> Result<Option<AuthProvider>, RepositoryError>;

    /// Single sign-ons in ascending id order.
    async fn list(
        &self,
        filter: &AuthProviderFilter,
        page: PageRequest,
    ) -> Result<Page<AuthProvider>, RepositoryError>;

    /// Replaces its values and writes the event, where the version is still the one that was
    /// read; the row's version goes up by one.
    ///
    /// `None` when there is none by that id or its version is another.
    async fn update(
        &self,
        update: &AuthProviderUpdate,
        actor: &Actor,
    ) -> Result<Option<AuthProvider>, RepositoryError>;

    /// Deletes it and the accounts that were linked for it, each with its event. The detail of its
    /// own event has in `auth_identities` how many went with it. Their credentials are queued for
    /// [revocation](super::RevocationRepository).
    ///
    /// How many those were, or `None` when there is none by that id.
    async fn delete(
        &self,
        id: AuthProviderId,
        actor: &Actor,
    ) -> Result<Option<u64>, RepositoryError>;
}
