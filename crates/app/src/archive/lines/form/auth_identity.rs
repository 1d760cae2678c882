//! An account for single sign-on.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbolon_domain::{
    archive::AuthIdentityRecord,
    auth_identity::AuthIdentity,
    credentials::Credentials,
    ids::{AuthIdentityId, AuthProviderId, ExternalId, UserId},
};

use super::{credentials::CredentialsLine, opaque};
use crate::archive::report::Reason;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::archive::lines) struct AuthIdentityLine {
    pub(super) id: i64,
    auth_provider_id: i64,
    user_id: String,
    ident: String,
    data: Map<String, Value>,
    last_verified: DateTime<Utc>,
    last_synced: DateTime<Utc>,
    date_added: DateTime<Utc>,
    version: i64,
    generation: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credentials: Option<CredentialsLine>,
}

impl From<&AuthIdentityRecord> for AuthIdentityLine {
    fn from(record: &AuthIdentityRecord) -> Self {
        let it = &record.auth_identity;
        Self {
            id: it.id.0,
            auth_provider_id: it.auth_provider_id.0,
            user_id: it.user_id.as_str().to_owned(),
            ident: it.ident.as_str().to_owned(),
            data: it.data.clone(),
            last_verified: it.last_verified,
            last_synced: it.last_synced,
            date_added: it.date_added,
            version: it.version,
            generation: record.generation,
            credentials: record.credentials.as_ref().map(CredentialsLine::from),
        }
    }
}

impl TryFrom<AuthIdentityLine> for AuthIdentityRecord {
    type Error = Reason;

    fn try_from(it: AuthIdentityLine) -> Result<Self, Reason> {
        let auth_identity = AuthIdentity {
            id: AuthIdentityId(it.id),
            auth_provider_id: AuthProviderId(it.auth_provider_id),
            user_id: opaque("user_id", it.user_id, UserId::new)?,
            ident: opaque("ident", it.ident, ExternalId::new)?,
            data: it.data,
            last_verified: it.last_verified,
            last_synced: it.last_synced,
            date_added: it.date_added,
            version: it.version,
        };
        let credentials = it.credentials.map(Credentials::from);
        Ok(Self { auth_identity, credentials, generation: it.generation })
    }
}
