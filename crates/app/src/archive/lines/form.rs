//! Records as they are written. A form is never changed but by a new version of the header: a
//! field that this version does not know would otherwise be lost without a word.

mod api_key;
mod auth_identity;
mod auth_provider;
mod credentials;
mod event;
mod identity;
mod identity_provider;
mod organization_identity;
mod revocation;
mod transfer;
mod webhook_endpoint;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use symbolon_domain::{
    archive::{Record, RecordKind},
    event::{Actor, Who},
    ids::{InvalidId, UserId},
    secret::Secret,
};
use zeroize::Zeroizing;

use self::{
    api_key::ApiKeyLine, auth_identity::AuthIdentityLine, auth_provider::AuthProviderLine,
    event::EventLine, identity::IdentityLine, identity_provider::ProviderLine,
    organization_identity::OrganizationIdentityLine, revocation::RevocationLine,
    transfer::TransferLine, webhook_endpoint::WebhookEndpointLine,
};
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

/// Who did something, from its three fields.
fn actor(who: &str, acting_user: Option<String>, reason: Option<String>) -> Result<Actor, Reason> {
    let acting_user = acting_user.map(|it| opaque("acting_user", it, UserId::new)).transpose()?;
    Ok(Actor { who: one_of("actor", who, Who::parse)?, acting_user, reason })
}

fn acting_user(actor: &Actor) -> Option<String> {
    actor.acting_user.as_ref().map(|it| it.as_str().to_owned())
}
