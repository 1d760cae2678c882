//! Credentials, of whatever has some.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use symbolon_domain::credentials::Credentials;
use zeroize::Zeroizing;

use super::{exposed, exposed_all, hidden, hidden_all};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::archive::lines) struct CredentialsLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    access_token: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_token: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id_token: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    obtained_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_expires_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_ends_at: Option<DateTime<Utc>>,
    scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    others: BTreeMap<String, Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dpop_key: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_dpop_key: Option<Zeroizing<String>>,
}

impl From<&Credentials> for CredentialsLine {
    fn from(it: &Credentials) -> Self {
        Self {
            access_token: it.access_token.as_ref().map(exposed),
            refresh_token: it.refresh_token.as_ref().map(exposed),
            id_token: it.id_token.as_ref().map(exposed),
            token_type: it.token_type.clone(),
            expires_at: it.expires_at,
            obtained_at: it.obtained_at,
            refresh_expires_at: it.refresh_expires_at,
            refresh_ends_at: it.refresh_ends_at,
            scopes: it.scopes.clone(),
            others: exposed_all(&it.others),
            dpop_key: it.dpop_key.as_ref().map(exposed),
            refresh_dpop_key: it.refresh_dpop_key.as_ref().map(exposed),
        }
    }
}

impl From<CredentialsLine> for Credentials {
    fn from(it: CredentialsLine) -> Self {
        Self {
            access_token: it.access_token.as_ref().map(hidden),
            refresh_token: it.refresh_token.as_ref().map(hidden),
            id_token: it.id_token.as_ref().map(hidden),
            token_type: it.token_type,
            expires_at: it.expires_at,
            obtained_at: it.obtained_at,
            refresh_expires_at: it.refresh_expires_at,
            refresh_ends_at: it.refresh_ends_at,
            scopes: it.scopes,
            others: hidden_all(it.others),
            dpop_key: it.dpop_key.as_ref().map(hidden),
            refresh_dpop_key: it.refresh_dpop_key.as_ref().map(hidden),
        }
    }
}
