use async_trait::async_trait;
use serde_json::{Map, Value};

use super::RepositoryError;
use crate::{
    event::Actor,
    identity_provider::{IdentityProvider, ProviderOptions, ProviderSecrets},
    ids::ProviderId,
    page::{Page, PageRequest},
};

/// A provider instance to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct NewIdentityProvider {
    /// The key of its type.
    pub provider_type: String,
    /// Which instance.
    pub external_id: Option<String>,
    /// What the type needs, without its secrets.
    pub config: Map<String, Value>,
    /// Its secrets; sealed by the store.
    pub secrets: ProviderSecrets,
    /// What the product uses it for.
    pub options: ProviderOptions,
}

/// New values for a provider instance.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderUpdate {
    /// Which instance.
    pub id: ProviderId,
    /// The version that is to be replaced.
    pub version: i64,
    /// The whole new configuration, without its secrets.
    pub config: Map<String, Value>,
    /// All secrets.
    pub secrets: ProviderSecrets,
    /// What the product uses it for.
    pub options: ProviderOptions,
}

/// Which provider instances are meant: all conditions together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProviderFilter {
    /// Instances of this type.
    pub provider_type: Option<String>,
    /// Instances with this external id.
    pub external_id: Option<String>,
    /// Instances of any of these types: what the caller is limited to.
    pub provider_types: Option<Vec<String>>,
}

/// What became of a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderDeletion {
    /// It is gone, and this many identities with it.
    Deleted(u64),
    /// It has this many identities and organizations that sign in with it, and cascading was not
    /// asked for; nothing was changed.
    InUse(u64),
    /// There is no such provider.
    Absent,
}

/// Keeps provider instances and their sealed secrets.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait IdentityProviderRepository: Send + Sync {
    /// Adds an instance and the event that tells of it.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::Conflict`] when (type, external id) is taken, an absent external id
    /// counting as a value.
    async fn insert(
        &self,
        provider: &NewIdentityProvider,
        actor: &Actor,
    ) -> Result<IdentityProvider, RepositoryError>;

    /// The instance, or `None` when there is none by that id.
    async fn find(&self, id: ProviderId) -> Result<Option<IdentityProvider>, RepositoryError>;

    /// The instance of this type with exactly this external id, `None` meaning absent, not any.
    async fn find_by_key<'a>(
        &self,
        provider_type: &str,
        external_id: Option<&'a str>,
    ) -> Result<Option<IdentityProvider>, RepositoryError>;

    /// The instance together with its opened secrets.
    async fn find_with_secrets(
        &self,
        id: ProviderId,
    ) -> Result<Option<(IdentityProvider, ProviderSecrets)>, RepositoryError>;

    /// Instances in ascending id order.
    async fn list(
        &self,
        filter: &ProviderFilter,
        page: PageRequest,
    ) -> Result<Page<IdentityProvider>, RepositoryError>;

    /// Replaces configuration, secrets and options and writes the event, where the version is
    /// still the one that was read; the row's version goes up by one. The event's detail has in
    /// `changed` the keys of configuration and secrets whose value is another, in ascending
    /// order; configuration and options are in `before` and `after`, secrets nowhere.
    ///
    /// `None` when there is no such instance or its version is another.
    async fn update(
        &self,
        update: &ProviderUpdate,
        actor: &Actor,
    ) -> Result<Option<IdentityProvider>, RepositoryError>;

    /// Remembers that this provider names itself in authorization responses. The version stays,
    /// as nobody's change is in conflict with it; no event; an absent instance is left alone.
    async fn record_issuer_named(&self, id: ProviderId) -> Result<(), RepositoryError>;

    /// Deletes an instance, with `cascade` also its identities, the organizations' single sign-ons
    /// with it, and what hangs on those, each with its event. The detail of
    /// the instance's own event has in `identities` how many went with it.
    async fn delete(
        &self,
        id: ProviderId,
        cascade: bool,
        actor: &Actor,
    ) -> Result<ProviderDeletion, RepositoryError>;
}
