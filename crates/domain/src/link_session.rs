//! A user's way to a provider and back, from the product's request to its completion.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use crate::{
    account::ExternalAccount,
    credentials::{Credentials, PlainCredentials, UnreadableCredentials},
    event::Actor,
    identity::text_form,
    ids::{ExternalId, IdentityId, LinkSessionId, OrganizationId, ProviderId, UserId},
    link_evidence::{LinkEvidence, LinkMethod},
    secret::{Secret, SecretHash},
};

/// A link or a sign-in under way.
///
/// Its life: `pending` → (the browser comes back) → `awaiting_completion` → (the product
/// completes) → `linked`, `signed_in` or `unlinked`; from `unlinked` once more to `linked`. It
/// fails or expires from any state that is not an end.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkSession {
    /// This session's own name.
    pub id: LinkSessionId,
    /// What it is for.
    pub purpose: Purpose,
    /// Whom to link; may be told at completion.
    pub user_id: Option<UserId>,
    /// Where; chosen by the user on the hosted page when absent.
    pub provider_id: Option<ProviderId>,
    /// The organization on whose behalf; recorded with the events.
    pub organization_id: Option<OrganizationId>,
    /// Where the browser goes at the end; was checked against the allow-list.
    pub return_url: String,
    /// Scopes to ask for, instead of the provider's configured ones; empty for those.
    pub scopes: Vec<String>,
    /// The account to suggest at the provider.
    pub login_hint: Option<String>,
    /// Whether another user's link of the account may be taken over.
    pub reattach: bool,
    /// Whether the callback completes by itself, because the product vouches for the browser.
    pub auto_complete: bool,
    /// How far it got.
    pub status: LinkSessionStatus,
    /// The identity that came of it.
    pub identity_id: Option<IdentityId>,
    /// Why it failed: one of the codes of [`LinkFailure`].
    pub error: Option<LinkFailure>,
    /// Who asked for it.
    pub created_by: Actor,
    /// When it was created, UTC.
    pub created_at: DateTime<Utc>,
    /// From then on it is refused, whatever its state.
    pub expires_at: DateTime<Utc>,
}

/// A session to be kept.
#[derive(Clone, Debug, PartialEq)]
pub struct NewLinkSession {
    /// Everything but the id, which the store gives and which is ignored here.
    pub session: LinkSession,
    /// Recognizes the token in the address that the user is sent to.
    pub token: SecretHash,
}

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Link one more account to a signed-in user.
    Link,
    /// Find out who somebody is.
    SignIn,
}

/// How far a session got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkSessionStatus {
    /// The browser has not come back yet.
    Pending,
    /// The provider vouched for an account; the product must complete.
    AwaitingCompletion,
    /// The account is linked.
    Linked,
    /// The account was recognized.
    SignedIn,
    /// Nobody has linked the account; a second completion with a user links it.
    Unlinked,
    /// Nothing came of it; the session's `error` says why.
    Failed,
    /// Its time ran out.
    Expired,
}

/// Why a session failed. The product shows its own words for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkFailure {
    /// The user said no at the provider (`access_denied`, RFC 6749 §4.1.2.1).
    AccessDenied,
    /// The provider rejects our client or our request; the operator must act.
    ProviderMisconfigured,
    /// The provider could not be reached or did not make sense; trying again may help.
    ProviderUnavailable,
    /// What the provider sent does not prove who the user is.
    Untrusted,
    /// The account belongs to another user, and taking it over was not asked for.
    IdentityAlreadyLinked,
}

text_form!(Purpose: Link = "link", SignIn = "sign_in");
text_form!(LinkSessionStatus:
    Pending = "pending",
    AwaitingCompletion = "awaiting_completion",
    Linked = "linked",
    SignedIn = "signed_in",
    Unlinked = "unlinked",
    Failed = "failed",
    Expired = "expired",
);
text_form!(LinkFailure:
    AccessDenied = "access_denied",
    ProviderMisconfigured = "provider_misconfigured",
    ProviderUnavailable = "provider_unavailable",
    Untrusted = "untrusted_response",
    IdentityAlreadyLinked = "identity_already_linked",
);

/// One trip to a provider, begun by one browser. Each start replaces the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Where the browser is sent.
    pub provider_id: ProviderId,
    /// Recognizes the browser's cookie; only that browser may go on.
    pub browser: SecretHash,
    /// Recognizes the `state` that is sent along.
    pub state: SecretHash,
    /// What proves the answer to be ours; sealed by the store.
    pub proof: AttemptProof,
}

/// The secrets of one trip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptProof {
    /// Proves that the code is traded by whoever asked for it
    /// ([RFC 7636](https://www.rfc-editor.org/rfc/rfc7636)).
    pub code_verifier: Secret,
    /// Expected in the ID token (OpenID Connect Core 1.0 §3.1.2.1).
    pub nonce: Secret,
    /// The private key to which the provider binds what the code brings, where it does
    /// ([RFC 9449 §10](https://www.rfc-editor.org/rfc/rfc9449#section-10)).
    pub dpop_key: Option<Secret>,
}

/// What a session holds while the product has not completed it; sealed by the store.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingLink {
    /// Where the account lives.
    pub provider_id: ProviderId,
    /// Who the provider says it is.
    pub account: ExternalAccount,
    /// What the provider gave.
    pub credentials: Credentials,
    /// Why it is believed.
    pub evidence: LinkEvidence,
}

impl PendingLink {
    /// The form that is sealed: JSON with a version, the same in every store.
    ///
    /// # Panics
    ///
    /// Never: texts, times and JSON values always serialize.
    #[must_use]
    pub fn to_plain(&self) -> Zeroizing<Vec<u8>> {
        let form = PlainForm {
            v: 1,
            provider_id: self.provider_id.0,
            external_id: self.account.external_id.as_str().to_owned(),
            legacy_id: self.account.legacy_id.as_ref().map(|it| it.as_str().to_owned()),
            email: self.account.email.clone(),
            email_verified: self.account.email_verified,
            name: self.account.name.clone(),
            claims: self.account.claims.clone(),
            credentials: PlainCredentials::from(&self.credentials),
            evidence: Some(self.evidence.clone()),
        };
        Zeroizing::new(serde_json::to_vec(&form).expect("texts and times serialize"))
    }

    /// Reads what [`to_plain`](Self::to_plain) wrote.
    ///
    /// # Errors
    ///
    /// [`UnreadableCredentials`] for anything else, a later version included.
    pub fn from_plain(plain: &[u8]) -> Result<Self, UnreadableCredentials> {
        let form: PlainForm = serde_json::from_slice(plain).map_err(|_| UnreadableCredentials)?;
        if form.v != 1 {
            return Err(UnreadableCredentials);
        }
        let id = |text: String| ExternalId::new(text).map_err(|_| UnreadableCredentials);
        Ok(Self {
            provider_id: ProviderId(form.provider_id),
            account: ExternalAccount {
                external_id: id(form.external_id)?,
                legacy_id: form.legacy_id.map(id).transpose()?,
                email: form.email,
                email_verified: form.email_verified,
                name: form.name,
                claims: form.claims,
            },
            credentials: form.credentials.try_into()?,
            // An older version told of none; only browsers came this way then.
            evidence: form.evidence.unwrap_or_else(|| LinkEvidence::of(LinkMethod::Browser)),
        })
    }
}

/// Fields that a later version adds are passed over, so that both may run at the same time.
#[derive(Serialize, Deserialize)]
struct PlainForm {
    v: u8,
    provider_id: i64,
    external_id: String,
    #[serde(default)]
    legacy_id: Option<String>,
    #[serde(default)]
    email: Option<String>,
    email_verified: bool,
    #[serde(default)]
    name: Option<String>,
    claims: Map<String, Value>,
    credentials: PlainCredentials,
    #[serde(default)]
    evidence: Option<LinkEvidence>,
}

/// Shows that the caller may complete a session: it holds the one-time code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompletionClaim {
    /// The session.
    pub id: LinkSessionId,
    /// Recognizes the code that the browser brought back.
    pub code: SecretHash,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::fixtures;

    #[test]
    fn a_link_that_an_older_version_sealed_is_read_and_a_later_one_too() {
        let link = fixtures::pending_link();
        let mut plain: Map<String, Value> = serde_json::from_slice(&link.to_plain()).unwrap();
        plain.insert("of a later version".into(), 1.into());
        let read = PendingLink::from_plain(&serde_json::to_vec(&plain).unwrap()).unwrap();
        assert_eq!(read, link);

        plain.remove("evidence");
        let read = PendingLink::from_plain(&serde_json::to_vec(&plain).unwrap()).unwrap();
        let evidence = LinkEvidence::of(LinkMethod::Browser);
        assert_eq!(read, PendingLink { evidence, ..link });
    }
}
