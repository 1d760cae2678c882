//! An API key.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use symbolon_domain::{
    api_key::{ApiKey, KeyLimits, KeyScope, UserPattern},
    archive::ApiKeyRecord,
    ids::{ApiKeyId, OrganizationId, ProviderId},
    secret::SecretHash,
};

use super::{one_of, opaque};
use crate::archive::report::Reason;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::archive::lines) struct ApiKeyLine {
    pub(super) id: i64,
    name: String,
    scopes: Vec<String>,
    /// Absent for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    organizations: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider_types: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    providers: Option<Vec<i64>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_scopes: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    users: Option<Vec<String>>,
    created_at: DateTime<Utc>,
    revoked_at: Option<DateTime<Utc>>,
    /// SHA-256 of the secret, in hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
}

impl From<&ApiKeyRecord> for ApiKeyLine {
    fn from(record: &ApiKeyRecord) -> Self {
        let it = &record.key;
        Self {
            id: it.id.0,
            name: it.name.clone(),
            scopes: it.scopes.iter().map(|it| it.as_str().to_owned()).collect(),
            organizations: it
                .limits
                .organization_texts()
                .map(|all| all.into_iter().map(str::to_owned).collect()),
            provider_types: it.limits.provider_types.clone(),
            providers: it.limits.provider_numbers(),
            token_scopes: it.limits.token_scopes.clone(),
            users: it.limits.user_texts().map(|all| all.into_iter().map(str::to_owned).collect()),
            created_at: it.created_at,
            revoked_at: it.revoked_at,
            hash: record.hash.map(|it| hex::encode(it.0)),
        }
    }
}

impl TryFrom<ApiKeyLine> for ApiKeyRecord {
    type Error = Reason;

    fn try_from(it: ApiKeyLine) -> Result<Self, Reason> {
        let hash = it.hash.map(|text| {
            let mut bytes = [0; 32];
            hex::decode_to_slice(text, &mut bytes)
                .map_err(|_| Reason::malformed("hash: must be 64 hexadecimal digits"))?;
            Ok::<_, Reason>(SecretHash(bytes))
        });
        let scopes = it
            .scopes
            .iter()
            .map(|it| one_of("scopes", it, KeyScope::parse))
            .collect::<Result<_, _>>();
        let organizations = it.organizations.map(|all| {
            let organization = |it| opaque("organizations", it, OrganizationId::new);
            all.into_iter().map(organization).collect::<Result<Vec<_>, Reason>>()
        });
        let users = it.users.map(|all| {
            let pattern = |it| opaque("users", it, UserPattern::new);
            all.into_iter().map(pattern).collect::<Result<Vec<_>, Reason>>()
        });
        let key = ApiKey {
            id: ApiKeyId(it.id),
            name: it.name,
            scopes: scopes?,
            limits: KeyLimits {
                organizations: organizations.transpose()?,
                provider_types: it.provider_types,
                providers: it.providers.map(|all| all.into_iter().map(ProviderId).collect()),
                token_scopes: it.token_scopes,
                users: users.transpose()?,
            },
            created_at: it.created_at,
            revoked_at: it.revoked_at,
        };
        Ok(Self { key, hash: hash.transpose()? })
    }
}
