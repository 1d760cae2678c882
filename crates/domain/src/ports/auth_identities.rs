use async_trait::async_trait;
use serde_json::{Map, Value};

use super::{RepositoryError, Taken};
use crate::{
    auth_identity::AuthIdentity,
    credentials::Credentials,
    disconnection::{Disconnection, Guard},
    event::Actor,
    ids::{AuthIdentityId, AuthProviderId, ExternalId, OrganizationId, ProviderId, UserId},
    link_session::CompletionClaim,
    page::{Page, PageRequest},
};

/// An account that signs in to an organization, or is to be linked for that.
#[derive(Clone, Debug, PartialEq)]
pub struct SsoSignIn {
    /// The organization's single sign-on.
    pub auth_provider_id: AuthProviderId,
    /// Which account.
    pub ident: ExternalId,
    /// An older name of the account: a row found under it is rewritten to `ident`.
    pub legacy_ident: Option<ExternalId>,
    /// Whose the account is to be: a link. `None` for whoever has linked it: a sign-in.
    pub user: Option<UserId>,
    /// The profile and the product's own values.
    pub data: Map<String, Value>,
    /// What the provider gave, if anything; sealed by the store.
    pub credentials: Option<Credentials>,
    /// Whether an existing link of the account or of the user may be rebound.
    pub reattach: bool,
    /// The session at the provider that it began with: the `sid` of the ID token.
    pub provider_session: Option<String>,
    /// Completes this session in the same transaction.
    pub session: Option<CompletionClaim>,
    /// Who does it.
    pub actor: Actor,
}

/// What became of an [`SsoSignIn`].
#[derive(Clone, Debug, PartialEq)]
pub enum SsoOutcome {
    /// A sign-in found the account's user.
    SignedIn(AuthIdentity),
    /// The account is the user's.
    Linked {
        /// The row as it is now.
        identity: AuthIdentity,
        /// Whether it was made by this; otherwise it was renewed or rebound, and kept its id.
        new: bool,
    },
    /// A sign-in found that nobody has linked the account. The session becomes `unlinked` and
    /// keeps what it held.
    NobodyLinked,
    /// The account, or the user's place in the organization, is taken. Nothing was changed.
    Taken(Taken),
    /// The session was completed by somebody else, or the code is not its own. Nothing was
    /// changed.
    SessionUsed,
}

impl SsoOutcome {
    /// The account that was proved, as it is now.
    #[must_use]
    pub fn known(&self) -> Option<&AuthIdentity> {
        match self {
            Self::SignedIn(it) | Self::Linked { identity: it, .. } => Some(it),
            Self::NobodyLinked | Self::Taken(_) | Self::SessionUsed => None,
        }
    }
}

/// New values for a user's account for single sign-on.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthIdentityUpdate {
    /// Which one.
    pub id: AuthIdentityId,
    /// Another name of the account; `None` leaves it.
    pub ident: Option<ExternalId>,
    /// The whole new `data`; `None` leaves it.
    pub data: Option<Map<String, Value>>,
    /// Whether what the organization knows of the user is up to date now.
    pub synced: bool,
    /// Only where the version is still this.
    pub if_version: Option<i64>,
    /// Who does it.
    pub actor: Actor,
}

/// What became of an [`AuthIdentityUpdate`].
#[derive(Clone, Debug, PartialEq)]
pub enum AuthIdentityOutcome {
    /// Done; the row as it is now.
    Updated(AuthIdentity),
    /// The version is another; nothing was changed.
    VersionConflict,
    /// The new name belongs to another row; nothing was changed.
    Taken,
    /// There is no such account.
    Absent,
}

/// A user's account for single sign-on that is to be unlinked.
#[derive(Clone, Debug, PartialEq)]
pub struct SsoUnlink {
    /// Which one.
    pub id: AuthIdentityId,
    /// Only if it is this user's.
    pub user_id: Option<UserId>,
    /// What keeps a user's last way in.
    pub guard: Guard,
    /// Who does it.
    pub actor: Actor,
}

/// What became of an [`SsoUnlink`].
#[derive(Clone, Debug, PartialEq)]
pub enum SsoUnlinkOutcome {
    /// It is gone.
    Unlinked(AuthIdentity),
    /// The guard kept it, and this is why. Nothing was changed.
    Needed(Disconnection),
    /// There is no such account, or it is another user's.
    Absent,
}

/// Which accounts are meant: all conditions together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthIdentityFilter {
    /// For this organization's single sign-on.
    pub organization_id: Option<OrganizationId>,
    /// For this single sign-on.
    pub auth_provider_id: Option<AuthProviderId>,
    /// For single sign-ons with this provider instance.
    pub provider_id: Option<ProviderId>,
    /// Of this user.
    pub user_id: Option<UserId>,
    /// Of this account name.
    pub ident: Option<ExternalId>,
}

/// Keeps the accounts with which users sign in to organizations.
///
/// Each event names user, organization and provider instance, has the row's id as
/// `auth_identity_id` in its detail, and tells what changed; never a credential.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait AuthIdentityRepository: Send + Sync {
    /// The account, or `None` when there is none by that id.
    async fn find(&self, id: AuthIdentityId) -> Result<Option<AuthIdentity>, RepositoryError>;

    /// The account's opened credentials; `None` when it has none or is not there.
    async fn find_credentials(
        &self,
        id: AuthIdentityId,
    ) -> Result<Option<Credentials>, RepositoryError>;

    /// Accounts in ascending id order.
    async fn list(
        &self,
        filter: &AuthIdentityFilter,
        page: PageRequest,
    ) -> Result<Page<AuthIdentity>, RepositoryError>;

    /// Recognizes an account, or links it, and completes the session it came from.
    ///
    /// A sign-in looks for a row of `ident`, then for one of `legacy_ident`. A link with user U
    /// and account A:
    ///
    /// | there is | becomes |
    /// | --- | --- |
    /// | neither | a new row |
    /// | (U, A) | renewed |
    /// | (U, the legacy name of A), and nobody has A | renewed, and names A |
    /// | (U, B), reattach | the row of U now names A; `data` and credentials are replaced |
    /// | (V, A), reattach | the row of A now belongs to U; `data` and credentials are replaced |
    /// | (U, B) and (V, A), reattach | the row of U now names A; the row of V goes, with its event |
    /// | (U, B) or (V, A), no reattach | nothing: [`SsoOutcome::Taken`] |
    ///
    /// To renew is to name A, put `data`'s keys over the old ones, and [renew the
    /// credentials](Credentials::renewed_by) where new ones came. An existing row keeps its id and
    /// `date_added`; `last_verified` and `last_synced` become now, and its version goes up by one.
    /// The unique keys of the database decide between callers. What a rebinding or the removal of
    /// the other row takes away is queued for [revocation](super::RevocationRepository), unless the
    /// same account stays linked with new credentials
    /// ([`is_orphaned_by_sign_in`](crate::revocation::is_orphaned_by_sign_in)).
    ///
    /// The session must be live, wait for completion, and have the claim's code, or the outcome
    /// is [`SsoOutcome::SessionUsed`]; that is decided first. It becomes `signed_in` or `linked`
    /// and drops what it held; it names no identity.
    ///
    /// The session at the provider is remembered with the account, for
    /// [`log_out`](super::LogoutRepository::log_out).
    ///
    /// # Errors
    ///
    /// [`RepositoryError::NotFound`] when there is no such single sign-on.
    async fn sign_in(&self, sign_in: &SsoSignIn) -> Result<SsoOutcome, RepositoryError>;

    /// Replaces values, raises the version and writes the event.
    async fn update(
        &self,
        update: &AuthIdentityUpdate,
    ) -> Result<AuthIdentityOutcome, RepositoryError>;

    /// Removes the account and writes the event, unless the guard keeps it. The guard decides on
    /// the rows as they are while they are locked, so of a user's last ways in one stays, however
    /// many callers unlink at the same time. Its credentials are queued for
    /// [revocation](super::RevocationRepository), due at once. Credentials that do not open keep
    /// nothing alive: they are told of with `grant.revocation_failed` instead.
    async fn unlink(&self, unlink: &SsoUnlink) -> Result<SsoUnlinkOutcome, RepositoryError>;

    /// Removes a user's accounts for an organization's single sign-on, all or none, each with its
    /// event; answers how many. No guard: the organization takes them away. Doing it again does
    /// nothing. Their credentials are queued as in [`unlink`](Self::unlink).
    async fn delete_for(
        &self,
        user: &UserId,
        organization: &OrganizationId,
        actor: &Actor,
    ) -> Result<u64, RepositoryError>;
}
