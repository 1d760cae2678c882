use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value};
use symbolon_domain::{
    identity_provider::{IdentityProvider, ProviderSecrets, ProviderType},
    ports::{ClientAddresses, Connector, ConnectorError, Connectors, InvalidConfig, Registered},
};

/// The demo's provider type.
pub(super) const SANDBOX: &str = "sandbox";

/// What it is besides its name.
const OIDC: &str = "oidc";

/// The catalog with one more type, `sandbox`, which is `oidc` under a name of its own: so the
/// demo's provider cannot be taken for a real one.
pub(super) struct DemoCatalog {
    /// The catalog that knows `oidc`.
    pub(super) inner: Arc<dyn Connectors>,
}

impl DemoCatalog {
    fn real_name(name: &str) -> &str {
        if name == SANDBOX { OIDC } else { name }
    }
}

#[async_trait]
impl Connectors for DemoCatalog {
    fn types(&self) -> Vec<ProviderType> {
        let mut types = self.inner.types();
        types.extend(self.find_type(SANDBOX));
        types
    }

    fn find_type(&self, name: &str) -> Option<ProviderType> {
        let found = self.inner.find_type(Self::real_name(name))?;
        Some(if name == SANDBOX {
            ProviderType {
                name: SANDBOX.to_owned(),
                title: "Sandbox".to_owned(),
                description: "The small OpenID provider that `symbolon demo` brings along. It is \
                              there only while the demo runs."
                    .to_owned(),
                // Its accounts are the same at whatever port the next demo finds.
                authority_keys: Vec::new(),
                ..found
            }
        } else {
            found
        })
    }

    fn check(
        &self,
        provider_type: &str,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<(), InvalidConfig> {
        self.inner.check(Self::real_name(provider_type), config, secrets)
    }

    fn connect(
        &self,
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
    ) -> Result<Arc<dyn Connector>, InvalidConfig> {
        let provider_type = Self::real_name(&provider.provider_type).to_owned();
        self.inner.connect(&IdentityProvider { provider_type, ..provider.clone() }, secrets)
    }

    async fn register(
        &self,
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
        addresses: &ClientAddresses,
    ) -> Result<Option<Registered>, ConnectorError> {
        self.inner.register(provider, secrets, addresses).await
    }

    async fn deregister(
        &self,
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
    ) -> Result<(), ConnectorError> {
        self.inner.deregister(provider, secrets).await
    }
}
