//! Rows of Sentry's tables as records of ours.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use symbolon_domain::{
    archive::{AuthIdentityRecord, IdentityRecord, ProviderRecord},
    auth_identity::AuthIdentity,
    auth_provider::AuthProvider,
    credentials::Credentials,
    identity::{Identity, IdentityStatus, Invalid, InvalidReason},
    identity_provider::{IdentityProvider, ProviderOptions},
    ids::{
        AuthIdentityId, AuthProviderId, ExternalId, IdentityId, OrganizationId,
        OrganizationIdentityId, ProviderId,
    },
    organization_identity::OrganizationIdentity,
};

use super::{
    Parts,
    fields::{Fields, Json},
};
use crate::archive::{
    id_map::{IdMap, of_auth_provider, of_identity, of_provider},
    report::{Note, Reason},
    secrets::{secret, take_secrets},
};

/// `sentry.identityprovider`.
pub(super) fn provider(
    pk: i64,
    mut fields: Fields,
    parts: &Parts<'_>,
) -> Result<ProviderRecord, Reason> {
    let provider_type = fields.text("type", 64)?;
    let external_id = fields.maybe_text("external_id", 255)?;
    let Json::Object(mut config) = fields.json("config")? else {
        return Err(Reason::malformed("config: is encrypted"));
    };
    let mut secrets = take_secrets(&mut config);
    let kind = parts.connectors.find_type(&provider_type);
    for name in kind.into_iter().flat_map(|it| it.secret_names) {
        if let Some(value) = config.remove(&name).as_ref().and_then(secret) {
            secrets.insert(name, value);
        }
    }
    let provider = IdentityProvider {
        id: ProviderId(pk),
        provider_type,
        external_id,
        config,
        secret_names: secrets.keys().cloned().collect(),
        options: ProviderOptions::default(),
        names_issuer: false,
        date_added: fields.maybe_time("date_added")?.unwrap_or(parts.now),
        version: 1,
    };
    Ok(ProviderRecord { provider, secrets })
}

/// `sentry.identity`.
pub(super) fn identity(
    pk: i64,
    mut fields: Fields,
    providers: &IdMap,
) -> Result<(IdentityRecord, Vec<Note>), Reason> {
    let mut notes = Vec::new();
    let idp = fields.reference(&["idp", "idp_id"])?;
    let idp_id = ProviderId(of_provider(providers, idp)?);
    let user_id = fields.user()?;
    let external_id = fields.opaque(&["external_id"], ExternalId::new)?;
    let scopes = fields.texts("scopes")?;
    let date_verified = fields.time("date_verified")?;
    let date_added = fields.time("date_added")?;
    let mut status = match fields.maybe_integer("status")? {
        None | Some(0) => IdentityStatus::Unknown,
        Some(1) => IdentityStatus::Valid,
        Some(2) => IdentityStatus::Invalid,
        Some(_) => return Err(Reason::malformed("status: must be 0, 1 or 2")),
    };
    let (data, credentials) = match fields.json("data")? {
        Json::Object(mut data) => {
            let credentials = credentials(&mut data, &scopes, &mut notes);
            (data, credentials)
        }
        Json::Encrypted => {
            notes.push(Note::Encrypted);
            status = IdentityStatus::Unknown;
            (Map::new(), None)
        }
    };
    let invalid = (status == IdentityStatus::Invalid)
        .then_some(Invalid { reason: InvalidReason::Imported, at: date_verified });
    let identity = Identity {
        id: IdentityId(pk),
        idp_id,
        user_id,
        external_id,
        data,
        status,
        invalid,
        scopes,
        date_verified,
        date_added,
        expires_at: None,
        version: 1,
    };
    Ok((IdentityRecord::new(identity, credentials), notes))
}

/// `sentry.authprovider`, for the instance that its type stands for.
pub(super) fn auth_provider(
    pk: i64,
    provider_id: ProviderId,
    mut fields: Fields,
    now: DateTime<Utc>,
) -> Result<(AuthProvider, bool), Reason> {
    let organization_id =
        fields.opaque(&["organization", "organization_id"], OrganizationId::new)?;
    let Json::Object(mut config) = fields.json("config")? else {
        return Err(Reason::malformed("config: is encrypted"));
    };
    // There is no place for them: what is signed in with is the provider instance's.
    let had_secrets = !take_secrets(&mut config).is_empty();
    let flags = fields.maybe_integer("flags")?.unwrap_or(0);
    let small = |name: &str, value: Option<i64>| {
        value
            .map(i32::try_from)
            .transpose()
            .map_err(|_| Reason::malformed(format!("{name}: must be a whole number of 32 bits")))
    };
    let made = AuthProvider {
        id: AuthProviderId(pk),
        organization_id,
        provider_id,
        config,
        allow_unlinked: flags & ALLOW_UNLINKED != 0,
        scim_enabled: flags & SCIM_ENABLED != 0,
        default_role: small("default_role", fields.maybe_integer("default_role")?)?,
        default_global_access: fields.maybe_bool("default_global_access")?.unwrap_or(true),
        sync_time: small("sync_time", fields.maybe_integer("sync_time")?)?,
        last_sync: fields.maybe_time("last_sync")?,
        date_added: fields.maybe_time("date_added")?.unwrap_or(now),
        version: 1,
    };
    Ok((made, had_secrets))
}

/// Bits of an auth provider's `flags`.
const ALLOW_UNLINKED: i64 = 1;
const SCIM_ENABLED: i64 = 2;

/// `sentry.authidentity`.
pub(super) fn auth_identity(
    pk: i64,
    mut fields: Fields,
    auth_providers: &IdMap,
) -> Result<(AuthIdentityRecord, Vec<Note>), Reason> {
    let mut notes = Vec::new();
    let at = fields.reference(&["auth_provider", "auth_provider_id"])?;
    let auth_provider_id = AuthProviderId(of_auth_provider(auth_providers, at)?);
    let user_id = fields.user()?;
    let ident = fields.opaque(&["ident"], ExternalId::new)?;
    let (data, credentials) = match fields.json("data")? {
        Json::Object(mut data) => {
            let credentials = credentials(&mut data, &[], &mut notes);
            (data, credentials)
        }
        Json::Encrypted => {
            notes.push(Note::Encrypted);
            (Map::new(), None)
        }
    };
    let date_added = fields.time("date_added")?;
    let last_verified = fields.maybe_time("last_verified")?.unwrap_or(date_added);
    let auth_identity = AuthIdentity {
        id: AuthIdentityId(pk),
        auth_provider_id,
        user_id,
        ident,
        data,
        last_verified,
        last_synced: fields.maybe_time("last_synced")?.unwrap_or(last_verified),
        date_added,
        version: 1,
    };
    let generation = i64::from(credentials.is_some());
    Ok((AuthIdentityRecord { auth_identity, credentials, generation }, notes))
}

/// `sentry.organizationidentity`.
pub(super) fn organization_identity(
    pk: i64,
    mut fields: Fields,
    identities: &IdMap,
    now: DateTime<Utc>,
) -> Result<OrganizationIdentity, Reason> {
    let organization_id =
        fields.opaque(&["organization", "organization_id"], OrganizationId::new)?;
    let identity = fields.reference(&["identity", "identity_id"])?;
    Ok(OrganizationIdentity {
        id: OrganizationIdentityId(pk),
        organization_id,
        identity_id: IdentityId(of_identity(identities, identity)?),
        date_added: fields.maybe_time("date_added")?.unwrap_or(now),
    })
}

/// Takes the credentials out of `data`, and every other secret with them.
fn credentials(
    data: &mut Map<String, Value>,
    scopes: &[String],
    notes: &mut Vec<Note>,
) -> Option<Credentials> {
    let mut others = take_secrets(data);
    let mut token = |name: &str| others.remove(name);
    let (access_token, refresh_token) = (token("access_token"), token("refresh_token"));
    let id_token = token("id_token");
    let token_type = match data.remove("token_type") {
        Some(Value::String(text)) if !text.is_empty() => Some(text),
        _ => None,
    };
    let expires = data.remove("expires").filter(|it| !it.is_null());
    let expires_at = expires.as_ref().and_then(unix_time);
    if expires.is_some() && expires_at.is_none() {
        notes.push(Note::UnknownExpiry);
    }
    let tokens = [&access_token, &refresh_token, &id_token];
    if tokens.iter().all(|it| it.is_none()) && others.is_empty() {
        return None;
    }
    Some(Credentials {
        access_token,
        refresh_token,
        id_token,
        token_type,
        expires_at,
        obtained_at: None,
        refresh_expires_at: None,
        refresh_ends_at: None,
        scopes: scopes.to_vec(),
        others,
        dpop_key: None,
        refresh_dpop_key: None,
    })
}

/// Seconds since 1970, as a number or its text.
fn unix_time(value: &Value) -> Option<DateTime<Utc>> {
    let seconds = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().parse::<f64>().ok()?,
        _ => return None,
    };
    // To the year 9999, which both databases keep.
    if !(0.0..=253_402_300_799.0).contains(&seconds) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "it is in range")]
    let seconds = seconds as i64;
    DateTime::from_timestamp(seconds, 0)
}
