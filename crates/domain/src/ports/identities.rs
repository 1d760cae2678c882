use async_trait::async_trait;
use serde_json::{Map, Value};

use super::RepositoryError;
use crate::{
    credentials::Credentials,
    device_link::DeviceLinkClaim,
    disconnection::{Disconnection, Guard},
    event::Actor,
    identity::{Identity, IdentityFilter},
    ids::{ExternalId, IdentityId, ProviderId, RevocationId, UserId},
    link_evidence::LinkEvidence,
    link_session::CompletionClaim,
    page::{Page, PageRequest},
};

/// An account to be linked, or recognized.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    /// Where the account lives.
    pub provider_id: ProviderId,
    /// Whose it is to be.
    pub owner: LinkOwner,
    /// Which account.
    pub external_id: ExternalId,
    /// An older name of the account: a row found under it is rewritten to `external_id`.
    pub legacy_id: Option<ExternalId>,
    /// The profile and the caller's own values.
    pub data: Map<String, Value>,
    /// What the provider gave, if anything; sealed by the store.
    pub credentials: Option<Credentials>,
    /// What the provider granted.
    pub scopes: Vec<String>,
    /// Whether an existing link of the account or of the user may be rebound.
    pub reattach: bool,
    /// Completes this session in the same transaction.
    pub session: Option<CompletionClaim>,
    /// Ends this device link in the same transaction.
    pub device_link: Option<DeviceLinkClaim>,
    /// Why it is believed; told in the event's detail as `evidence`.
    pub evidence: LinkEvidence,
    /// Who does it.
    pub actor: Actor,
}

/// Whose an account is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkOwner {
    /// This user's: a link.
    User(UserId),
    /// Whoever has linked it: a sign-in.
    Whoever,
}

/// What became of a link.
#[derive(Clone, Debug, PartialEq)]
pub enum LinkOutcome {
    /// A new row.
    Created(Identity),
    /// The same user's link of the same account, renewed in place.
    Updated(Identity),
    /// An existing row was given another user, another account, or both; it kept its id.
    Rebound(Identity),
    /// A sign-in found the account's owner.
    SignedIn(Identity),
    /// A sign-in found that nobody has linked the account. The session becomes `unlinked` and
    /// keeps what it held.
    NobodyLinked,
    /// The account, or the user's place at this provider, is taken. Nothing was changed.
    Taken(Taken),
    /// The session was completed by somebody else, or the code is not its own; or the device link
    /// has ended, or was claimed by somebody else. Nothing was linked.
    SessionUsed,
}

impl LinkOutcome {
    /// The identity that a user has by it now.
    #[must_use]
    pub fn linked(&self) -> Option<&Identity> {
        match self {
            Self::Created(it) | Self::Updated(it) | Self::Rebound(it) => Some(it),
            Self::SignedIn(_) | Self::NobodyLinked | Self::Taken(_) | Self::SessionUsed => None,
        }
    }

    /// The identity of the account that was proved.
    #[must_use]
    pub fn known(&self) -> Option<&Identity> {
        match self {
            Self::SignedIn(it) => Some(it),
            other => other.linked(),
        }
    }
}

/// What stands in the way of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The account belongs to another user; also when the user has another account besides.
    Account,
    /// The user has another account at this provider, and nobody has this one.
    User,
}

/// New values for an identity's `data`, and perhaps for its credentials.
#[derive(Clone, Debug, PartialEq)]
pub struct DataUpdate {
    /// Which identity.
    pub id: IdentityId,
    /// The whole new value.
    pub data: Map<String, Value>,
    /// New credentials, over those that are there; `None` leaves them alone.
    pub credentials: Option<Credentials>,
    /// Only where the version is still this.
    pub if_version: Option<i64>,
    /// Who does it.
    pub actor: Actor,
}

/// What became of a [`DataUpdate`].
#[derive(Clone, Debug, PartialEq)]
pub enum DataOutcome {
    /// Done; the row as it is now.
    Updated(Identity),
    /// The version is another; nothing was changed.
    VersionConflict,
    /// There is no such identity.
    Absent,
}

/// An identity that is to be unlinked.
#[derive(Clone, Debug, PartialEq)]
pub struct Unlink {
    /// Which one.
    pub id: IdentityId,
    /// Only if it is this user's.
    pub user_id: Option<UserId>,
    /// What keeps a user's last way in.
    pub guard: Guard,
    /// Whether the grant is to be ended at the provider.
    pub revoke: bool,
    /// Who does it.
    pub actor: Actor,
}

impl Unlink {
    /// Whosever it is, and whatever it leaves; the grant stays as it is.
    #[must_use]
    pub fn unguarded(id: IdentityId, actor: &Actor) -> Self {
        Self { id, user_id: None, guard: Guard::Off, revoke: false, actor: actor.clone() }
    }

    /// The same, and the grant is to be ended at the provider.
    #[must_use]
    pub fn revoking(self) -> Self {
        Self { revoke: true, ..self }
    }
}

/// What became of an [`Unlink`].
#[derive(Clone, Debug, PartialEq)]
pub enum UnlinkOutcome {
    /// It is gone, and its grant waits under this name to be ended, if there is one and that was
    /// asked for.
    Unlinked(Identity, Option<RevocationId>),
    /// The guard kept it, and this is why. Nothing was changed.
    Needed(Disconnection),
    /// There is no such identity, or it is another user's.
    Absent,
}

/// Keeps identities.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait IdentityRepository: Send + Sync {
    /// The identity, or `None` when there is none by that id.
    async fn find(&self, id: IdentityId) -> Result<Option<Identity>, RepositoryError>;

    /// Identities in ascending id order.
    async fn list(
        &self,
        filter: &IdentityFilter,
        page: PageRequest,
    ) -> Result<Page<Identity>, RepositoryError>;

    /// Links an account, or recognizes it, and completes the session it came from.
    ///
    /// The rules, with user U and account A at one provider:
    ///
    /// | there is | becomes |
    /// | --- | --- |
    /// | neither | created |
    /// | (U, A) | updated in place: `data`'s keys go over the old ones, credentials are [renewed](Credentials::renewed_by) |
    /// | (U, B), reattach | the row of U now names A; `data` and credentials are replaced |
    /// | (V, A), reattach | the row of A now belongs to U; `data` and credentials are replaced |
    /// | (U, B) and (V, A), reattach | the row of U now names A; the row of V goes, with its event |
    /// | (U, B) or (V, A), no reattach | nothing: [`LinkOutcome::Taken`] |
    ///
    /// Where the provider allows [several accounts](crate::identity_provider::ProviderOptions) of
    /// one user, (U, B) stands in nobody's way: only the rows that name A count. Where it does not
    /// any more and U has several accounts from before, they stay, another one is refused, and
    /// with reattach the first of them by id is rebound. That option is read under a lock, so it
    /// holds for whatever is linked after it was changed.
    ///
    /// A row found under `legacy_id` counts as the row of A where no row names A itself, whoever
    /// it belongs to, and is rewritten to A. A sign-in renews the row of A's owner as the owner's
    /// own link would. An existing row keeps its id and `date_added`; its status becomes valid,
    /// `date_verified` now, its scopes the link's (updated in place, they stay where the link
    /// names none), and its version goes up by one.
    ///
    /// New credentials, and their loss when they are replaced by none, are a new generation: it
    /// clears back-off and doubt and ends any lease, so that a refresh under way cannot overwrite
    /// it. A refresh token that stays, as the link brought none, stays in doubt too. Without credentials, an update in place leaves those that are there alone, unless the
    /// identity was invalid: then they are dead, and go. Nor are new ones put over dead ones: all
    /// that stays are the scopes. What a rebinding or the removal of the other row takes away is
    /// queued for [revocation](super::RevocationRepository), unless the same account stays linked
    /// with new credentials ([`is_orphaned_by`](crate::revocation::is_orphaned_by)).
    ///
    /// The session must be live, wait for completion, and have the claim's code, or the outcome is
    /// [`LinkOutcome::SessionUsed`]; that is decided first. It becomes `linked` or `signed_in`,
    /// names the identity, and drops what it held.
    ///
    /// A device link must be pending, and the claim its last one, or the outcome is
    /// [`LinkOutcome::SessionUsed`] too; it becomes `linked`, names the identity, and drops its
    /// code. Where the account is taken, it stays as it is. Credentials that come when it is over,
    /// or by an older claim, are nobody's: they are queued for revocation, as of the device link.
    ///
    /// With a session or a device link of an organization, the organization uses the linked
    /// identity from then on, as by [`attach`](super::OrganizationIdentityRepository::attach).
    ///
    /// The `sid` in the evidence is remembered with the account, for
    /// [`log_out`](super::LogoutRepository::log_out).
    ///
    /// The event names identity, provider and user, with a session or a device link of an
    /// organization that organization too, and what changed; its detail has the link's `evidence`. When a row is rebound its detail has
    /// `previous_user_id` and `previous_external_id`. The unique keys of the database decide between callers, so of two links
    /// of one account one is kept.
    ///
    /// # Errors
    ///
    /// [`RepositoryError::NotFound`] when there is no such provider.
    async fn link(&self, link: &Link) -> Result<LinkOutcome, RepositoryError>;

    /// Replaces `data`, raises the version and writes the event. New credentials go over the old
    /// ones ([`Credentials::renewed_by`]) as in [`link`](Self::link), are a new generation, and
    /// make an invalid identity valid.
    async fn update_data(&self, update: &DataUpdate) -> Result<DataOutcome, RepositoryError>;

    /// Removes the link with the [organization
    /// identities](crate::organization_identity::OrganizationIdentity) that name it, and writes the
    /// event of each; unless the guard keeps it. Where that was asked for, its credentials are
    /// queued for [revocation](super::RevocationRepository), due at once. Credentials that do not
    /// open keep no link alive: they are told of with `grant.revocation_failed` instead.
    ///
    /// The guard decides on the rows as they are while they are locked, so of a user's last ways
    /// in one stays, however many callers unlink at the same time.
    async fn unlink(&self, unlink: &Unlink) -> Result<UnlinkOutcome, RepositoryError>;
}
