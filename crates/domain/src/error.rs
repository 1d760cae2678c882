//! Why the domain did not do as asked, by who must act.

use std::time::Duration;

use crate::{
    disconnection::Disconnection,
    freeze::Freeze,
    identity::InvalidReason,
    ports::{ConnectorError, InvalidConfig, RepositoryError},
};

/// Why a service did not do as asked. Unless a variant says otherwise, nothing was changed.
///
/// The variants are what callers treat differently; the messages say what to do and hold no
/// secret, so that they may be shown.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller: something in the request is missing, malformed or out of range.
    #[error("{field}: {problem}")]
    InvalidRequest {
        /// The field, as the request names it.
        field: String,
        /// What is wrong and what was expected.
        problem: String,
    },
    /// The caller: no valid key.
    #[error(
        "send a valid API key as `Authorization: Bearer …`; create one with `symbolon api-key create`"
    )]
    Unauthenticated,
    /// The caller: the key may not do this.
    #[error("the API key lacks the scope `{scope}`")]
    Forbidden {
        /// The scope that would allow it.
        scope: &'static str,
    },
    /// The operator: what was asked for is frozen, and no token is handed out until that is lifted.
    #[error("{}", frozen(.0))]
    Frozen(Box<Freeze>),
    /// The caller: the key may not have what the token opens.
    #[error("{0}")]
    BeyondLimits(String),
    /// The caller: another access token has taken the place of the one that was named.
    #[error("another access token has taken its place; ask for the token again")]
    AccessTokenReplaced,
    /// The caller: the same was asked for just now.
    #[error("{detail}")]
    TooSoon {
        /// What happened, and what to look at.
        detail: String,
        /// When it may be asked for again.
        retry_after: Duration,
    },
    /// The caller: the key is limited to other organizations.
    #[error("the API key is limited to other organizations")]
    OtherOrganization,
    /// The caller: identities were asked for with no filter at all.
    #[error("give at least one filter, for example `user_id`")]
    FilterRequired,
    /// The caller: there is no such thing.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The caller: the thing is there already.
    #[error("{0}")]
    AlreadyExists(&'static str),
    /// The caller: the provider has identities.
    #[error(
        "the provider has {0} identities and organizations that sign in with it; delete them first or ask with `?cascade=true`"
    )]
    ProviderInUse(u64),
    /// The user: it is the last way in, or the organization asks for it.
    #[error("{}", match .0 {
        Disconnection::NeededForOrgAuth => {
            "the organization lets nobody in without a linked account; its auth provider's `allow_unlinked` would"
        }
        _ => {
            "the user could not sign in any more; let them link another login account or set a password first, and say so with `has_password=true`"
        }
    })]
    NeededToSignIn(Disconnection),
    /// The user: the account belongs to somebody else.
    #[error("{0}")]
    IdentityAlreadyLinked(&'static str),
    /// The caller: several identities match where one is meant.
    #[error(
        "the user has several accounts there; choose one with `identity_id`, or with `provider_id` and `external_id`"
    )]
    IdentityAmbiguous,
    /// The caller: the new user has another account where one is allowed.
    #[error("the user has other accounts at the providers of the identities {identities}; {what}")]
    TransferConflict {
        /// Which identities cannot be moved.
        identities: String,
        /// What to do.
        what: &'static str,
    },
    /// The caller: the transfer was undone before.
    #[error("the transfer was undone already")]
    AlreadyUndone,
    /// The user: must link again.
    #[error("{detail}; start a link session so that the user links the account again")]
    IdentityNotValid {
        /// The recorded reason, if one is recorded.
        reason: Option<InvalidReason>,
        /// What happened.
        detail: String,
    },
    /// The caller: somebody changed it first.
    #[error("the identity was changed since; read it again and repeat the change")]
    VersionConflict,
    /// The operator: the provider rejects our client or our configuration.
    #[error("{detail}; check the provider's client id, secret, redirect URI and scopes")]
    ProviderMisconfigured {
        /// What happened.
        detail: String,
    },
    /// Nobody yet: try again.
    #[error("{detail}; try again later")]
    ProviderUnavailable {
        /// What happened.
        detail: String,
        /// When, at the earliest.
        retry_after: Duration,
    },
    /// The store failed, or a sealed value does not open. The operator must look.
    #[error(transparent)]
    Repository(#[from] RepositoryError),
}

impl Error {
    /// An [`Error::InvalidRequest`].
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self::InvalidRequest { field: field.into(), problem: problem.into() }
    }
}

/// What is frozen, since when, by whom and why: whoever reads it knows whom to ask.
fn frozen(freeze: &Freeze) -> String {
    let since = freeze.frozen_at.format("%Y-%m-%dT%H:%M:%SZ");
    let why = freeze.by.reason.as_ref().map(|it| format!(", because: {it}")).unwrap_or_default();
    format!("{} is frozen since {since} by {}{why}", freeze.subject, freeze.by.who)
}

impl From<InvalidConfig> for Error {
    fn from(error: InvalidConfig) -> Self {
        Self::invalid(format!("config.{}", error.field), error.problem)
    }
}

/// How long a caller waits after a failure whose provider did not say.
pub(crate) const DEFAULT_RETRY: Duration = Duration::from_secs(5);

impl From<ConnectorError> for Error {
    fn from(error: ConnectorError) -> Self {
        let detail = error.to_string();
        match error {
            ConnectorError::GrantRejected { .. } => Self::IdentityNotValid { reason: None, detail },
            ConnectorError::ClientRejected { .. } | ConnectorError::Misconfigured { .. } => {
                Self::ProviderMisconfigured { detail }
            }
            ConnectorError::Unavailable { retry_after, .. } => Self::ProviderUnavailable {
                detail,
                retry_after: retry_after.unwrap_or(DEFAULT_RETRY),
            },
            ConnectorError::Untrusted { .. } => {
                Self::ProviderUnavailable { detail, retry_after: DEFAULT_RETRY }
            }
        }
    }
}
