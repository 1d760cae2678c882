//! A provider instance.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbolon_domain::{
    archive::ProviderRecord,
    identity_provider::{IdentityProvider, ProviderOptions},
    ids::ProviderId,
};
use zeroize::Zeroizing;

use super::{exposed_all, hidden_all};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::archive::lines) struct ProviderLine {
    pub(super) id: i64,
    #[serde(rename = "type")]
    provider_type: String,
    external_id: Option<String>,
    config: Map<String, Value>,
    pub(super) secret_names: Vec<String>,
    login: bool,
    multiple_accounts: bool,
    names_issuer: bool,
    date_added: DateTime<Utc>,
    version: i64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) secrets: BTreeMap<String, Zeroizing<String>>,
}

impl From<&ProviderRecord> for ProviderLine {
    fn from(record: &ProviderRecord) -> Self {
        let it = &record.provider;
        Self {
            id: it.id.0,
            provider_type: it.provider_type.clone(),
            external_id: it.external_id.clone(),
            config: it.config.clone(),
            secret_names: it.secret_names.clone(),
            login: it.options.login,
            multiple_accounts: it.options.multiple_accounts,
            names_issuer: it.names_issuer,
            date_added: it.date_added,
            version: it.version,
            secrets: exposed_all(&record.secrets),
        }
    }
}

impl From<ProviderLine> for ProviderRecord {
    fn from(it: ProviderLine) -> Self {
        let provider = IdentityProvider {
            id: ProviderId(it.id),
            provider_type: it.provider_type,
            external_id: it.external_id,
            config: it.config,
            secret_names: it.secret_names,
            options: ProviderOptions { login: it.login, multiple_accounts: it.multiple_accounts },
            names_issuer: it.names_issuer,
            date_added: it.date_added,
            version: it.version,
        };
        Self { provider, secrets: hidden_all(it.secrets) }
    }
}
