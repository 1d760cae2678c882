//! Records as they are written. A form is never changed but by a new version of the header: a
//! field that this version does not know would otherwise be lost without a word.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use symbolon_domain::{
    api_key::{ApiKey, KeyLimits, KeyScope, UserPattern},
    archive::{
        ApiKeyRecord, AuthIdentityRecord, IdentityRecord, ProviderRecord, Record, RecordKind,
        RevocationRecord, WebhookEndpointRecord,
    },
    auth_identity::AuthIdentity,
    auth_provider::AuthProvider,
    credentials::Credentials,
    event::{Actor, Event, EventKind, Who},
    identity::{Identity, IdentityStatus, Invalid, InvalidReason},
    identity_provider::{IdentityProvider, ProviderOptions},
    ids::{
        ApiKeyId, AuthIdentityId, AuthProviderId, DeviceLinkId, EventId, ExternalId, IdentityId,
        InvalidId, OrganizationId, OrganizationIdentityId, ProviderId, RevocationId, TransferId,
        UserId, WebhookEndpointId,
    },
    organization_identity::OrganizationIdentity,
    ports::{BackOff, FailureClass},
    revocation::{GrantOwner, OrphanedGrant, QueuedRevocation, RevocationStatus},
    secret::{Secret, SecretHash},
    transfer::{Transfer, TransferItem, TransferObstacle, UndoItem},
    webhook::{WebhookEndpoint, WebhookSecrets},
};
use url::Url;
use zeroize::Zeroizing;

use crate::archive::report::Reason;

/// A line after the header.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Line {
    IdentityProvider(ProviderLine),
    Identity(Box<IdentityLine>),
    AuthProvider(Box<AuthProviderLine>),
    AuthIdentity(Box<AuthIdentityLine>),
    OrganizationIdentity(OrganizationIdentityLine),
    ApiKey(ApiKeyLine),
    WebhookEndpoint(WebhookEndpointLine),
    Transfer(TransferLine),
    Revocation(Box<RevocationLine>),
    Event(Box<EventLine>),
    End(End),
}

/// The last line: a file without it is not whole.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct End {
    pub(super) records: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ProviderLine {
    id: i64,
    #[serde(rename = "type")]
    provider_type: String,
    external_id: Option<String>,
    config: Map<String, Value>,
    secret_names: Vec<String>,
    login: bool,
    multiple_accounts: bool,
    names_issuer: bool,
    date_added: DateTime<Utc>,
    version: i64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    secrets: BTreeMap<String, Zeroizing<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct IdentityLine {
    id: i64,
    idp_id: i64,
    user_id: String,
    external_id: String,
    data: Map<String, Value>,
    status: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    invalid: Option<InvalidLine>,
    scopes: Vec<String>,
    date_verified: DateTime<Utc>,
    date_added: DateTime<Utc>,
    /// For readers; the credentials' own counts.
    expires_at: Option<DateTime<Utc>>,
    version: i64,
    generation: i64,
    attempt: i64,
    unanswered: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    back_off: Option<BackOffLine>,
    /// Whether the user may have other accounts at the provider besides.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    beside_others: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    credentials: Option<CredentialsLine>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct InvalidLine {
    reason: String,
    at: DateTime<Utc>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackOffLine {
    until: DateTime<Utc>,
    class: String,
    failures: u32,
    detail: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialsLine {
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
    scopes: Vec<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    others: BTreeMap<String, Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dpop_key: Option<Zeroizing<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_dpop_key: Option<Zeroizing<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthProviderLine {
    id: i64,
    organization_id: String,
    provider_id: i64,
    config: Map<String, Value>,
    allow_unlinked: bool,
    scim_enabled: bool,
    default_role: Option<i32>,
    default_global_access: bool,
    sync_time: Option<i32>,
    last_sync: Option<DateTime<Utc>>,
    date_added: DateTime<Utc>,
    version: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AuthIdentityLine {
    id: i64,
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OrganizationIdentityLine {
    id: i64,
    organization_id: String,
    identity_id: i64,
    date_added: DateTime<Utc>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ApiKeyLine {
    id: i64,
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

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WebhookEndpointLine {
    id: i64,
    url: String,
    events: Vec<String>,
    enabled: bool,
    created_at: DateTime<Utc>,
    generation: i64,
    position: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    secrets: Option<Vec<WebhookSecretLine>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WebhookSecretLine {
    secret: Zeroizing<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<DateTime<Utc>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TransferLine {
    id: i64,
    from_user_id: String,
    to_user_id: String,
    items: Vec<TransferItemLine>,
    actor: String,
    acting_user: Option<String>,
    reason: Option<String>,
    created_at: DateTime<Utc>,
    undone_at: Option<DateTime<Utc>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TransferItemLine {
    identity_id: i64,
    provider_id: i64,
    external_id: String,
    /// Why it was not moved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    skipped: Option<String>,
    /// Of an undone transfer: whether it was given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    given_back: Option<bool>,
    /// Why it was not given back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kept: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RevocationLine {
    id: i64,
    /// What had the grant: an identity, an account for single sign-on, or a device link that was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity_id: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    auth_identity_id: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device_link_id: Option<i64>,
    provider_id: i64,
    user_id: String,
    external_id: String,
    actor: String,
    acting_user: Option<String>,
    reason: Option<String>,
    status: String,
    attempts: u32,
    queued_at: DateTime<Utc>,
    due_at: DateTime<Utc>,
    last_error: Option<String>,
    generation: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grant: Option<GrantLine>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantLine {
    credentials: CredentialsLine,
    /// The provider instance as it was, where it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider: Option<ProviderLine>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventLine {
    id: i64,
    at: DateTime<Utc>,
    event: String,
    actor: String,
    acting_user: Option<String>,
    reason: Option<String>,
    identity_id: Option<i64>,
    provider_id: Option<i64>,
    user_id: Option<String>,
    organization_id: Option<String>,
    before: Option<Map<String, Value>>,
    after: Option<Map<String, Value>>,
    detail: Map<String, Value>,
}

fn exposed(secret: &Secret) -> Zeroizing<String> {
    Zeroizing::new(secret.expose().to_owned())
}

fn exposed_all(secrets: &BTreeMap<String, Secret>) -> BTreeMap<String, Zeroizing<String>> {
    secrets.iter().map(|(name, secret)| (name.clone(), exposed(secret))).collect()
}

fn hidden(text: &Zeroizing<String>) -> Secret {
    Secret::new(text.as_str())
}

fn hidden_all(secrets: BTreeMap<String, Zeroizing<String>>) -> BTreeMap<String, Secret> {
    secrets.into_iter().map(|(name, text)| (name, hidden(&text))).collect()
}

/// A value of a closed set.
fn one_of<T>(name: &str, text: &str, parse: impl FnOnce(&str) -> Option<T>) -> Result<T, Reason> {
    parse(text).ok_or_else(|| Reason::malformed(format!("{name}: is not known")))
}

fn opaque<T>(
    name: &str,
    text: String,
    new: impl FnOnce(String) -> Result<T, InvalidId>,
) -> Result<T, Reason> {
    new(text).map_err(|error| Reason::malformed(format!("{name}: {error}")))
}

impl From<&Record> for Line {
    fn from(record: &Record) -> Self {
        match record {
            Record::IdentityProvider(it) => Self::IdentityProvider(it.into()),
            Record::Identity(it) => Self::Identity(Box::new((&**it).into())),
            Record::AuthProvider(it) => Self::AuthProvider(Box::new((&**it).into())),
            Record::AuthIdentity(it) => Self::AuthIdentity(Box::new((&**it).into())),
            Record::OrganizationIdentity(it) => Self::OrganizationIdentity(it.into()),
            Record::ApiKey(it) => Self::ApiKey(it.into()),
            Record::WebhookEndpoint(it) => Self::WebhookEndpoint(it.into()),
            Record::Transfer(it) => Self::Transfer(it.into()),
            Record::Revocation(it) => Self::Revocation(Box::new((&**it).into())),
            Record::Event(it) => Self::Event(Box::new((&**it).into())),
        }
    }
}

impl Line {
    /// What it is of, and its id.
    pub(super) fn names(&self) -> (RecordKind, i64) {
        match self {
            Self::IdentityProvider(it) => (RecordKind::IdentityProvider, it.id),
            Self::Identity(it) => (RecordKind::Identity, it.id),
            Self::AuthProvider(it) => (RecordKind::AuthProvider, it.id),
            Self::AuthIdentity(it) => (RecordKind::AuthIdentity, it.id),
            Self::OrganizationIdentity(it) => (RecordKind::OrganizationIdentity, it.id),
            Self::ApiKey(it) => (RecordKind::ApiKey, it.id),
            Self::WebhookEndpoint(it) => (RecordKind::WebhookEndpoint, it.id),
            Self::Transfer(it) => (RecordKind::Transfer, it.id),
            Self::Revocation(it) => (RecordKind::Revocation, it.id),
            Self::Event(it) => (RecordKind::Event, it.id),
            Self::End(_) => (RecordKind::Event, 0),
        }
    }

    /// Whether it names secrets that it does not have.
    pub(super) fn lacks_secrets(&self) -> bool {
        match self {
            Self::IdentityProvider(it) => {
                it.secret_names.iter().any(|name| !it.secrets.contains_key(name))
            }
            Self::Identity(it) => it.credentials.is_none() && it.expires_at.is_some(),
            _ => false,
        }
    }

    /// The record that it says.
    pub(super) fn into_record(self) -> Result<Record, Reason> {
        match self {
            Self::IdentityProvider(it) => Ok(Record::IdentityProvider(it.into())),
            Self::Identity(it) => Ok(Record::Identity(Box::new((*it).try_into()?))),
            Self::AuthProvider(it) => Ok(Record::AuthProvider(Box::new((*it).try_into()?))),
            Self::AuthIdentity(it) => Ok(Record::AuthIdentity(Box::new((*it).try_into()?))),
            Self::OrganizationIdentity(it) => Ok(Record::OrganizationIdentity(it.try_into()?)),
            Self::ApiKey(it) => Ok(Record::ApiKey(it.try_into()?)),
            Self::WebhookEndpoint(it) => Ok(Record::WebhookEndpoint(it.try_into()?)),
            Self::Transfer(it) => Ok(Record::Transfer(it.try_into()?)),
            Self::Revocation(it) => Ok(Record::Revocation(Box::new((*it).try_into()?))),
            Self::Event(it) => Ok(Record::Event(Box::new((*it).try_into()?))),
            Self::End(_) => Err(Reason::malformed("is the end of a file")),
        }
    }
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

impl From<&IdentityRecord> for IdentityLine {
    fn from(record: &IdentityRecord) -> Self {
        let it = &record.identity;
        Self {
            id: it.id.0,
            idp_id: it.idp_id.0,
            user_id: it.user_id.as_str().to_owned(),
            external_id: it.external_id.as_str().to_owned(),
            data: it.data.clone(),
            status: it.status.as_str().to_owned(),
            invalid: it
                .invalid
                .as_ref()
                .map(|it| InvalidLine { reason: it.reason.as_str().to_owned(), at: it.at }),
            scopes: it.scopes.clone(),
            date_verified: it.date_verified,
            date_added: it.date_added,
            expires_at: it.expires_at,
            version: it.version,
            generation: record.generation,
            attempt: record.attempt,
            unanswered: record.unanswered,
            back_off: record.back_off.as_ref().map(|it| BackOffLine {
                until: it.until,
                class: it.class.as_str().to_owned(),
                failures: it.failures,
                detail: it.detail.clone(),
            }),
            beside_others: record.beside_others,
            credentials: record.credentials.as_ref().map(CredentialsLine::from),
        }
    }
}

impl TryFrom<IdentityLine> for IdentityRecord {
    type Error = Reason;

    fn try_from(it: IdentityLine) -> Result<Self, Reason> {
        let invalid = it.invalid.map(|it| {
            let reason = one_of("invalid.reason", &it.reason, InvalidReason::parse)?;
            Ok::<_, Reason>(Invalid { reason, at: it.at })
        });
        let back_off = it.back_off.map(|it| {
            let class = one_of("back_off.class", &it.class, FailureClass::parse)?;
            let BackOffLine { until, failures, detail, .. } = it;
            Ok::<_, Reason>(BackOff { until, class, failures, detail })
        });
        let identity = Identity {
            id: IdentityId(it.id),
            idp_id: ProviderId(it.idp_id),
            user_id: opaque("user_id", it.user_id, UserId::new)?,
            external_id: opaque("external_id", it.external_id, ExternalId::new)?,
            data: it.data,
            status: one_of("status", &it.status, IdentityStatus::parse)?,
            invalid: invalid.transpose()?,
            scopes: it.scopes,
            date_verified: it.date_verified,
            date_added: it.date_added,
            expires_at: None,
            version: it.version,
        };
        Ok(Self {
            identity,
            credentials: it.credentials.map(Credentials::from),
            generation: it.generation,
            attempt: it.attempt,
            unanswered: it.unanswered,
            back_off: back_off.transpose()?,
            beside_others: it.beside_others,
        })
    }
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
            scopes: it.scopes,
            others: hidden_all(it.others),
            dpop_key: it.dpop_key.as_ref().map(hidden),
            refresh_dpop_key: it.refresh_dpop_key.as_ref().map(hidden),
        }
    }
}

impl From<&AuthProvider> for AuthProviderLine {
    fn from(it: &AuthProvider) -> Self {
        Self {
            id: it.id.0,
            organization_id: it.organization_id.as_str().to_owned(),
            provider_id: it.provider_id.0,
            config: it.config.clone(),
            allow_unlinked: it.allow_unlinked,
            scim_enabled: it.scim_enabled,
            default_role: it.default_role,
            default_global_access: it.default_global_access,
            sync_time: it.sync_time,
            last_sync: it.last_sync,
            date_added: it.date_added,
            version: it.version,
        }
    }
}

impl TryFrom<AuthProviderLine> for AuthProvider {
    type Error = Reason;

    fn try_from(it: AuthProviderLine) -> Result<Self, Reason> {
        Ok(Self {
            id: AuthProviderId(it.id),
            organization_id: opaque("organization_id", it.organization_id, OrganizationId::new)?,
            provider_id: ProviderId(it.provider_id),
            config: it.config,
            allow_unlinked: it.allow_unlinked,
            scim_enabled: it.scim_enabled,
            default_role: it.default_role,
            default_global_access: it.default_global_access,
            sync_time: it.sync_time,
            last_sync: it.last_sync,
            date_added: it.date_added,
            version: it.version,
        })
    }
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

impl From<&OrganizationIdentity> for OrganizationIdentityLine {
    fn from(it: &OrganizationIdentity) -> Self {
        Self {
            id: it.id.0,
            organization_id: it.organization_id.as_str().to_owned(),
            identity_id: it.identity_id.0,
            date_added: it.date_added,
        }
    }
}

impl TryFrom<OrganizationIdentityLine> for OrganizationIdentity {
    type Error = Reason;

    fn try_from(it: OrganizationIdentityLine) -> Result<Self, Reason> {
        Ok(Self {
            id: OrganizationIdentityId(it.id),
            organization_id: opaque("organization_id", it.organization_id, OrganizationId::new)?,
            identity_id: IdentityId(it.identity_id),
            date_added: it.date_added,
        })
    }
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

impl From<&WebhookEndpointRecord> for WebhookEndpointLine {
    fn from(record: &WebhookEndpointRecord) -> Self {
        let it = &record.endpoint;
        let secret = |(secret, until): &(Secret, Option<DateTime<Utc>>)| WebhookSecretLine {
            secret: exposed(secret),
            until: *until,
        };
        let secrets = record.secrets.as_ref();
        Self {
            id: it.id.0,
            url: it.url.as_str().to_owned(),
            events: it.kinds.iter().map(|it| it.as_str().to_owned()).collect(),
            enabled: it.enabled,
            created_at: it.created_at,
            generation: record.generation,
            position: record.position.0,
            secrets: secrets.map(|all| all.all().iter().map(secret).collect()),
        }
    }
}

impl TryFrom<WebhookEndpointLine> for WebhookEndpointRecord {
    type Error = Reason;

    fn try_from(it: WebhookEndpointLine) -> Result<Self, Reason> {
        let kinds = it.events.iter().map(|it| one_of("events", it, EventKind::parse));
        let secrets = it.secrets.map(|all| {
            let all = all.iter().map(|it| (hidden(&it.secret), it.until)).collect();
            WebhookSecrets::of(all).ok_or_else(|| Reason::malformed("secrets: must not be empty"))
        });
        let url = it.url.parse().ok().filter(|url: &Url| matches!(url.scheme(), "http" | "https"));
        let endpoint = WebhookEndpoint {
            id: WebhookEndpointId(it.id),
            url: url.ok_or_else(|| Reason::malformed("url: must be an address"))?,
            kinds: kinds.collect::<Result<_, _>>()?,
            enabled: it.enabled,
            created_at: it.created_at,
        };
        let position = EventId(it.position);
        Ok(Self { endpoint, secrets: secrets.transpose()?, generation: it.generation, position })
    }
}

/// Who did something, from its three fields.
fn actor(who: &str, acting_user: Option<String>, reason: Option<String>) -> Result<Actor, Reason> {
    let acting_user = acting_user.map(|it| opaque("acting_user", it, UserId::new)).transpose()?;
    Ok(Actor { who: one_of("actor", who, Who::parse)?, acting_user, reason })
}

fn acting_user(actor: &Actor) -> Option<String> {
    actor.acting_user.as_ref().map(|it| it.as_str().to_owned())
}

impl From<&Transfer> for TransferLine {
    fn from(it: &Transfer) -> Self {
        let item = |it: &TransferItem| {
            let kept = match it.undo {
                Some(UndoItem::Kept(why)) => Some(why.as_str().to_owned()),
                _ => None,
            };
            TransferItemLine {
                identity_id: it.identity_id.0,
                provider_id: it.provider_id.0,
                external_id: it.external_id.as_str().to_owned(),
                skipped: it.skipped.map(|it| it.as_str().to_owned()),
                given_back: it.undo.map(|it| it == UndoItem::GivenBack),
                kept,
            }
        };
        Self {
            id: it.id.0,
            from_user_id: it.from_user_id.as_str().to_owned(),
            to_user_id: it.to_user_id.as_str().to_owned(),
            items: it.items.iter().map(item).collect(),
            actor: it.actor.who.to_string(),
            acting_user: acting_user(&it.actor),
            reason: it.actor.reason.clone(),
            created_at: it.created_at,
            undone_at: it.undone_at,
        }
    }
}

impl TryFrom<TransferLine> for Transfer {
    type Error = Reason;

    fn try_from(it: TransferLine) -> Result<Self, Reason> {
        let obstacle = |name, text: Option<String>| {
            text.map(|text| one_of(name, &text, TransferObstacle::parse)).transpose()
        };
        let item = |it: TransferItemLine| {
            let kept = obstacle("items.kept", it.kept)?;
            let undo = match (it.given_back, kept) {
                (None, None) => None,
                (Some(true), None) => Some(UndoItem::GivenBack),
                (Some(false), Some(why)) => Some(UndoItem::Kept(why)),
                _ => {
                    return Err(Reason::malformed("items: was given back, or was kept and why"));
                }
            };
            Ok(TransferItem {
                identity_id: IdentityId(it.identity_id),
                provider_id: ProviderId(it.provider_id),
                external_id: opaque("items.external_id", it.external_id, ExternalId::new)?,
                skipped: obstacle("items.skipped", it.skipped)?,
                undo,
            })
        };
        Ok(Self {
            id: TransferId(it.id),
            from_user_id: opaque("from_user_id", it.from_user_id, UserId::new)?,
            to_user_id: opaque("to_user_id", it.to_user_id, UserId::new)?,
            items: it.items.into_iter().map(item).collect::<Result<_, Reason>>()?,
            actor: actor(&it.actor, it.acting_user, it.reason)?,
            created_at: it.created_at,
            undone_at: it.undone_at,
        })
    }
}

impl From<&RevocationRecord> for RevocationLine {
    fn from(record: &RevocationRecord) -> Self {
        let it = &record.queued;
        let grant = record.grant.as_ref().map(|grant| GrantLine {
            credentials: (&grant.credentials).into(),
            provider: grant.provider.clone().map(|(provider, secrets)| {
                let of_then = ProviderRecord { provider, secrets };
                (&of_then).into()
            }),
        });
        Self {
            id: it.id.0,
            identity_id: it.owner.identity().map(|it| it.0),
            auth_identity_id: it.owner.auth_identity().map(|it| it.0),
            device_link_id: it.owner.device_link().map(|it| it.0),
            provider_id: it.provider_id.0,
            user_id: it.user_id.as_str().to_owned(),
            external_id: it.external_id.as_str().to_owned(),
            actor: it.actor.who.to_string(),
            acting_user: acting_user(&it.actor),
            reason: it.actor.reason.clone(),
            status: it.status.as_str().to_owned(),
            attempts: it.attempts,
            queued_at: it.queued_at,
            due_at: it.due_at,
            last_error: it.last_error.clone(),
            generation: record.generation,
            grant,
        }
    }
}

impl TryFrom<RevocationLine> for RevocationRecord {
    type Error = Reason;

    fn try_from(it: RevocationLine) -> Result<Self, Reason> {
        let owner = match (it.identity_id, it.auth_identity_id, it.device_link_id) {
            (Some(id), None, None) => GrantOwner::Identity(IdentityId(id)),
            (None, Some(id), None) => GrantOwner::AuthIdentity(AuthIdentityId(id)),
            (None, None, Some(id)) => GrantOwner::DeviceLink(DeviceLinkId(id)),
            _ => {
                return Err(Reason::malformed(
                    "identity_id: that, auth_identity_id or device_link_id must be there alone",
                ));
            }
        };
        let queued = QueuedRevocation {
            id: RevocationId(it.id),
            owner,
            provider_id: ProviderId(it.provider_id),
            user_id: opaque("user_id", it.user_id, UserId::new)?,
            external_id: opaque("external_id", it.external_id, ExternalId::new)?,
            actor: actor(&it.actor, it.acting_user, it.reason)?,
            status: one_of("status", &it.status, RevocationStatus::parse)?,
            attempts: it.attempts,
            queued_at: it.queued_at,
            due_at: it.due_at,
            last_error: it.last_error,
        };
        let grant = it.grant.map(|it| OrphanedGrant {
            credentials: it.credentials.into(),
            provider: it.provider.map(|it| {
                let ProviderRecord { provider, secrets } = it.into();
                (provider, secrets)
            }),
        });
        Ok(Self { queued, grant, generation: it.generation })
    }
}

impl From<&Event> for EventLine {
    fn from(it: &Event) -> Self {
        Self {
            id: it.id.0,
            at: it.at,
            event: it.about.as_str().to_owned(),
            actor: it.actor.who.to_string(),
            acting_user: acting_user(&it.actor),
            reason: it.actor.reason.clone(),
            identity_id: it.identity_id.map(|it| it.0),
            provider_id: it.provider_id.map(|it| it.0),
            user_id: it.user_id.as_ref().map(|it| it.as_str().to_owned()),
            organization_id: it.organization_id.as_ref().map(|it| it.as_str().to_owned()),
            before: it.before.clone(),
            after: it.after.clone(),
            detail: it.detail.clone(),
        }
    }
}

impl TryFrom<EventLine> for Event {
    type Error = Reason;

    fn try_from(it: EventLine) -> Result<Self, Reason> {
        let organization_id = it
            .organization_id
            .map(|text| opaque("organization_id", text, OrganizationId::new))
            .transpose()?;
        Ok(Self {
            id: EventId(it.id),
            at: it.at,
            about: one_of("event", &it.event, EventKind::parse)?,
            actor: actor(&it.actor, it.acting_user, it.reason)?,
            identity_id: it.identity_id.map(IdentityId),
            provider_id: it.provider_id.map(ProviderId),
            user_id: it.user_id.map(|it| opaque("user_id", it, UserId::new)).transpose()?,
            organization_id,
            before: it.before,
            after: it.after,
            detail: it.detail,
        })
    }
}
