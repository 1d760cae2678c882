//! Who was handed which token.

use chrono::{DateTime, Utc};
use sha2::{Digest as _, Sha256};

use crate::{
    event::Who,
    ids::{IdentityId, LedgerEntryId, ProviderId, UserId},
    secret::{Secret, SecretHash},
};

/// An access token in the ledger: the SHA-256 of the installation's salt and the token's own
/// SHA-256. Without the salt, which is kept sealed, nobody finds out whether a token is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TokenMark(pub SecretHash);

impl TokenMark {
    /// The mark of the token with this SHA-256.
    #[must_use]
    pub fn of(salt: &Secret, token: &SecretHash) -> Self {
        let salted = Sha256::new().chain_update(salt.expose().as_bytes()).chain_update(token.0);
        Self(SecretHash(salted.finalize().into()))
    }
}

/// What one token and one recipient have in common.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HandOut {
    /// Which token.
    pub token: TokenMark,
    /// Of which identity.
    pub identity_id: IdentityId,
    /// Where the account lives.
    pub provider_id: ProviderId,
    /// Whose account it is.
    pub user_id: UserId,
    /// Who got it.
    pub to: Who,
    /// On whose behalf, in the caller's words.
    pub acting_user: Option<UserId>,
}

/// How often a token was handed out to a recipient, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tally {
    /// How often.
    pub times: u64,
    /// The first time, UTC.
    pub first_at: DateTime<Utc>,
    /// The last time, UTC.
    pub last_at: DateTime<Utc>,
    /// The request of the last time, as it is named in the log.
    pub request_id: String,
}

/// One token and one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerEntry {
    /// This entry's own name.
    pub id: LedgerEntryId,
    /// Which token of whom, to whom.
    pub hand_out: HandOut,
    /// How often and when.
    pub tally: Tally,
}
