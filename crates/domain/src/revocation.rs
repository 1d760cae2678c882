//! Grants that nothing of ours owns any more, and what is needed to end them at the provider.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::{
    auth_identity::AuthIdentity,
    credentials::{Credentials, PlainCredentials, UnreadableCredentials},
    event::{Actor, EventKind, NewEvent},
    identity::{Identity, text_form},
    identity_provider::{IdentityProvider, ProviderOptions, ProviderSecrets},
    ids::{AuthIdentityId, DeviceLinkId, ExternalId, IdentityId, ProviderId, RevocationId, UserId},
    ports::{Link, SsoSignIn},
    secret::Secret,
};

/// A grant in the queue: it was taken from its owner, and is to be ended at the provider.
///
/// The grant itself lies sealed beside it, and goes when the revocation ends, however it does.
#[derive(Clone, Debug, PartialEq)]
pub struct QueuedRevocation {
    /// This entry's own name.
    pub id: RevocationId,
    /// What had the grant.
    pub owner: GrantOwner,
    /// Where to end it.
    pub provider_id: ProviderId,
    /// Whose it was.
    pub user_id: UserId,
    /// The account that it opens.
    pub external_id: ExternalId,
    /// Who took it away: the receipt names the same.
    pub actor: Actor,
    /// How far it got.
    pub status: RevocationStatus,
    /// How often it was claimed.
    pub attempts: u32,
    /// When it was queued, UTC.
    pub queued_at: DateTime<Utc>,
    /// When it may be claimed again, UTC: the end of a claim, or of a pause after a failure.
    pub due_at: DateTime<Utc>,
    /// Why the last attempt failed, in words of ours.
    pub last_error: Option<String>,
}

/// What had a grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GrantOwner {
    /// An identity.
    Identity(IdentityId),
    /// A user's account for an organization's single sign-on.
    AuthIdentity(AuthIdentityId),
    /// None of these: a device link that was over when the grant came.
    DeviceLink(DeviceLinkId),
}

impl GrantOwner {
    /// The identity, if it was one.
    #[must_use]
    pub fn identity(self) -> Option<IdentityId> {
        match self {
            Self::Identity(id) => Some(id),
            Self::AuthIdentity(_) | Self::DeviceLink(_) => None,
        }
    }

    /// The account for single sign-on, if it was one.
    #[must_use]
    pub fn auth_identity(self) -> Option<AuthIdentityId> {
        match self {
            Self::AuthIdentity(id) => Some(id),
            Self::Identity(_) | Self::DeviceLink(_) => None,
        }
    }

    /// The device link, if it was one.
    #[must_use]
    pub fn device_link(self) -> Option<DeviceLinkId> {
        match self {
            Self::DeviceLink(id) => Some(id),
            Self::Identity(_) | Self::AuthIdentity(_) => None,
        }
    }
}

impl QueuedRevocation {
    /// What the event log is told of it; `detail` is what more there is to say.
    #[must_use]
    pub fn told(&self, about: EventKind, mut detail: Map<String, Value>) -> NewEvent {
        detail.insert("revocation_id".to_owned(), self.id.0.into());
        if let Some(id) = self.owner.auth_identity() {
            detail.insert("auth_identity_id".to_owned(), id.0.into());
        }
        if let Some(id) = self.owner.device_link() {
            detail.insert("device_link_id".to_owned(), id.0.into());
        }
        NewEvent {
            identity_id: self.owner.identity(),
            provider_id: Some(self.provider_id),
            user_id: Some(self.user_id.clone()),
            detail,
            ..NewEvent::new(about, &self.actor)
        }
    }
}

/// How far a revocation got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RevocationStatus {
    /// It is to be tried, for the first time or again.
    Waiting,
    /// The provider ended the grant.
    Revoked,
    /// It was given up.
    Failed,
}

text_form!(RevocationStatus: Waiting = "waiting", Revoked = "revoked", Failed = "failed");

/// A grant that no identity owns any more.
#[derive(Clone, Debug, PartialEq)]
pub struct OrphanedGrant {
    /// What is to be revoked.
    pub credentials: Credentials,
    /// The provider instance as it was, where its own row may be gone when the revocation is
    /// tried.
    pub provider: Option<(IdentityProvider, ProviderSecrets)>,
}

impl OrphanedGrant {
    /// A grant whose provider instance stays.
    #[must_use]
    pub fn new(credentials: Credentials) -> Self {
        Self { credentials, provider: None }
    }

    /// The form that is sealed: JSON with a version, the same in every store.
    ///
    /// # Panics
    ///
    /// Never: plain texts, JSON and times always serialize.
    #[must_use]
    pub fn to_plain(&self) -> Zeroizing<Vec<u8>> {
        let provider = self.provider.as_ref().map(|(provider, secrets)| PlainProvider {
            id: provider.id.0,
            provider_type: provider.provider_type.clone(),
            external_id: provider.external_id.clone(),
            config: provider.config.clone(),
            secrets: secrets
                .iter()
                .map(|(name, secret)| (name.clone(), Zeroizing::new(secret.expose().to_owned())))
                .collect(),
            date_added: provider.date_added,
            version: provider.version,
        });
        let form =
            PlainGrant { v: 1, credentials: PlainCredentials::from(&self.credentials), provider };
        Zeroizing::new(serde_json::to_vec(&form).expect("texts, JSON and times serialize"))
    }

    /// Reads what [`to_plain`](Self::to_plain) wrote.
    ///
    /// # Errors
    ///
    /// [`UnreadableCredentials`] for anything else, a later version included.
    pub fn from_plain(plain: &[u8]) -> Result<Self, UnreadableCredentials> {
        let form: PlainGrant = serde_json::from_slice(plain).map_err(|_| UnreadableCredentials)?;
        if form.v != 1 {
            return Err(UnreadableCredentials);
        }
        let provider = form.provider.map(|it| {
            let secrets: ProviderSecrets = it
                .secrets
                .into_iter()
                .map(|(name, value)| (name, Secret::new(value.as_str())))
                .collect();
            let provider = IdentityProvider {
                id: ProviderId(it.id),
                provider_type: it.provider_type,
                external_id: it.external_id,
                config: it.config,
                secret_names: secrets.keys().cloned().collect(),
                // Nobody links at an instance that is gone.
                options: ProviderOptions::default(),
                names_issuer: false,
                date_added: it.date_added,
                version: it.version,
            };
            (provider, secrets)
        });
        Ok(Self { credentials: form.credentials.try_into()?, provider })
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainGrant {
    v: u8,
    credentials: PlainCredentials,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    provider: Option<PlainProvider>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlainProvider {
    id: i64,
    #[serde(rename = "type")]
    provider_type: String,
    external_id: Option<String>,
    config: Map<String, Value>,
    secrets: BTreeMap<String, Zeroizing<String>>,
    date_added: DateTime<Utc>,
    version: i64,
}

/// Whether the credentials of an identity must be ended at the provider when a link replaces
/// them.
///
/// Not when the same account stays linked with new credentials: a provider may end the whole grant
/// with one token ([RFC 7009 §2.1](https://www.rfc-editor.org/rfc/rfc7009#section-2.1)), and where
/// it keeps one grant per user and client, the new credentials are of the same.
#[must_use]
pub fn is_orphaned_by(replaced: &Identity, link: &Link) -> bool {
    let names = (&link.external_id, link.legacy_id.as_ref());
    is_orphaned(&replaced.external_id, names, link.credentials.is_some())
}

/// The same of an account for single sign-on, when a sign-in replaces its credentials.
#[must_use]
pub fn is_orphaned_by_sign_in(replaced: &AuthIdentity, sign_in: &SsoSignIn) -> bool {
    let names = (&sign_in.ident, sign_in.legacy_ident.as_ref());
    is_orphaned(&replaced.ident, names, sign_in.credentials.is_some())
}

fn is_orphaned(
    replaced: &ExternalId,
    (name, legacy): (&ExternalId, Option<&ExternalId>),
    has_new_credentials: bool,
) -> bool {
    let same_account = replaced == name || Some(replaced) == legacy;
    !(same_account && has_new_credentials)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fixtures;

    #[test]
    fn a_grant_survives_its_sealed_form_with_and_without_its_provider() {
        let provider = IdentityProvider { names_issuer: false, ..fixtures::identity_provider() };
        for provider in [None, Some((provider, fixtures::provider_secrets()))] {
            let grant = OrphanedGrant { credentials: fixtures::credentials(), provider };
            assert_eq!(OrphanedGrant::from_plain(&grant.to_plain()), Ok(grant));
        }
        let later = br#"{"v":2,"credentials":{"v":1}}"#;
        assert_eq!(OrphanedGrant::from_plain(later), Err(UnreadableCredentials));
    }
}
