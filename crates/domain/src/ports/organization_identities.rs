use async_trait::async_trait;

use super::RepositoryError;
use crate::{
    event::Actor,
    ids::{IdentityId, OrganizationId},
    organization_identity::OrganizationIdentity,
    page::{Page, PageRequest},
};

/// Which uses are meant: all conditions together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OrganizationIdentityFilter {
    /// By this organization.
    pub organization_id: Option<OrganizationId>,
    /// Of this identity.
    pub identity_id: Option<IdentityId>,
    /// Of identities at provider instances of any of these types: what the caller is limited to.
    pub provider_types: Option<Vec<String>>,
}

/// Keeps which identities organizations use. To read the identities themselves, ask
/// [`IdentityRepository::list`](super::IdentityRepository::list) for those of an organization.
///
/// Each event names identity, provider instance, user and organization.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait OrganizationIdentityRepository: Send + Sync {
    /// Lets an organization use an identity, and writes the event; true with it when it was made
    /// by this. One that is there already stays as it is, without an event.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::NotFound`] when there is no such identity.
    async fn attach(
        &self,
        organization: &OrganizationId,
        identity: IdentityId,
        actor: &Actor,
    ) -> Result<(OrganizationIdentity, bool), RepositoryError>;

    /// Ends an organization's use of an identity, and writes the event. The identity stays.
    ///
    /// False when the organization does not use it.
    async fn detach(
        &self,
        organization: &OrganizationId,
        identity: IdentityId,
        actor: &Actor,
    ) -> Result<bool, RepositoryError>;

    /// Uses in ascending id order.
    async fn list(
        &self,
        filter: &OrganizationIdentityFilter,
        page: PageRequest,
    ) -> Result<Page<OrganizationIdentity>, RepositoryError>;
}
