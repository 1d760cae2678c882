use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use chrono::TimeDelta;
use serde_json::{Map, Value};
use symbolon_domain::{
    identity_provider::{IdentityProvider, ProviderSecrets, ProviderType, meant_type},
    ports::{
        ClientAddresses, Clock, Connector, ConnectorError, Connectors, InvalidConfig, Registered,
    },
};

use crate::{
    catalog::{Catalog, Generic},
    config::invalid,
    engine::Engine,
    http::HttpClient,
    metadata::{Issuer, misconfigured},
    oidc::Oidc,
};

/// A provider type and how to speak to its instances.
#[async_trait]
pub trait ProviderKind: Send + Sync {
    /// What the catalog shows.
    fn provider_type(&self) -> ProviderType;

    /// What speaks to an instance with this configuration. Asks nobody.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] names the first key that does not fit.
    fn connect(
        &self,
        engine: &Engine,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<Arc<dyn Connector>, InvalidConfig>;

    /// Who is to be asked whether it binds tokens to keys of ours, where this configuration has
    /// them bound and an OpenID provider can tell.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] names the first key that does not fit.
    fn binds_at(
        &self,
        engine: &Engine,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<Option<Issuer>, InvalidConfig> {
        let _ = (engine, config, secrets);
        Ok(None)
    }

    /// Asks the provider whether it can do what a configuration asks of it; see
    /// [`Connectors::verify`].
    async fn verify(
        &self,
        engine: &Engine,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<(), ConnectorError> {
        match self.binds_at(engine, config, secrets) {
            Ok(Some(issuer)) => engine.fresh_metadata(&issuer).await?.check_dpop(),
            Ok(None) => Ok(()),
            Err(error) => Err(misconfigured(&error.to_string())),
        }
    }

    /// Asks the provider of a new instance for what the type finds out by itself; see
    /// [`Connectors::register`].
    async fn register(
        &self,
        engine: &Engine,
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
        addresses: &ClientAddresses,
    ) -> Result<Option<Registered>, ConnectorError> {
        let _ = (engine, provider, secrets, addresses);
        Ok(None)
    }

    /// Takes that back at the provider; see [`Connectors::deregister`].
    async fn deregister(
        &self,
        engine: &Engine,
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
    ) -> Result<(), ConnectorError> {
        let _ = (engine, provider, secrets);
        Ok(())
    }
}

/// The catalog of provider types: `oidc`, `oauth2`, and those that are added.
#[derive(Clone)]
pub struct Registry {
    engine: Engine,
    kinds: BTreeMap<String, Arc<dyn ProviderKind>>,
}

impl Registry {
    /// A catalog of the types `oidc` and `oauth2`, which are by their configuration.
    #[must_use]
    pub fn new(http: HttpClient, clock: Arc<dyn Clock>) -> Self {
        let registry = Self { engine: Engine::new(http, clock), kinds: BTreeMap::new() };
        registry.with(Oidc).with(Generic)
    }

    /// Adds a type, in place of one of the same name.
    #[must_use]
    pub fn with(mut self, kind: impl ProviderKind + 'static) -> Self {
        self.kinds.insert(kind.provider_type().name, Arc::new(kind));
        self
    }

    /// Adds every type of a catalog, in place of those of the same names.
    #[must_use]
    pub fn with_catalog(mut self, catalog: Catalog) -> Self {
        for kind in catalog.into_kinds() {
            self.kinds.insert(kind.name.clone(), Arc::new(kind));
        }
        self
    }

    /// How far providers' clocks may differ from ours; a minute unless set.
    #[must_use]
    pub fn with_clock_leeway(self, leeway: TimeDelta) -> Self {
        Self { engine: self.engine.with_clock_leeway(leeway), ..self }
    }

    fn kind(&self, name: &str) -> Result<&Arc<dyn ProviderKind>, InvalidConfig> {
        self.kinds.get(name).ok_or_else(|| {
            let meant = meant_type(name, self.kinds.keys().map(String::as_str));
            invalid("type", format!("is not known; {meant}"))
        })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("engine", &self.engine)
            .field("types", &self.kinds.keys())
            .finish()
    }
}

#[async_trait]
impl Connectors for Registry {
    fn types(&self) -> Vec<ProviderType> {
        self.kinds.values().map(|it| it.provider_type()).collect()
    }

    fn find_type(&self, name: &str) -> Option<ProviderType> {
        self.kinds.get(name).map(|it| it.provider_type())
    }

    fn check(
        &self,
        provider_type: &str,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<(), InvalidConfig> {
        self.kind(provider_type)?.connect(&self.engine, config, secrets).map(drop)
    }

    async fn verify(
        &self,
        provider_type: &str,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<(), ConnectorError> {
        let Ok(kind) = self.kind(provider_type) else { return Ok(()) };
        kind.verify(&self.engine, config, secrets).await
    }

    fn connect(
        &self,
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
    ) -> Result<Arc<dyn Connector>, InvalidConfig> {
        let engine = self.engine.of(provider.id);
        self.kind(&provider.provider_type)?.connect(&engine, &provider.config, secrets)
    }

    async fn register(
        &self,
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
        addresses: &ClientAddresses,
    ) -> Result<Option<Registered>, ConnectorError> {
        let Ok(kind) = self.kind(&provider.provider_type) else { return Ok(None) };
        kind.register(&self.engine.of(provider.id), provider, secrets, addresses).await
    }

    async fn deregister(
        &self,
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
    ) -> Result<(), ConnectorError> {
        let Ok(kind) = self.kind(&provider.provider_type) else { return Ok(()) };
        kind.deregister(&self.engine.of(provider.id), provider, secrets).await
    }
}
