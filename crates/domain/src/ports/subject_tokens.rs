use async_trait::async_trait;

use super::ConnectorError;
use crate::{ids::UserId, secret::Secret};

/// Whom a token of somebody else's proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenSubject {
    /// Who issued it.
    pub issuer: String,
    /// Which user of the product it is about.
    pub user_id: UserId,
    /// The provider types whose tokens it may be exchanged for; `None` for all.
    pub provider_types: Option<Vec<String>>,
}

/// Knows whose tokens are trusted to say who a user is
/// ([RFC 8693 §2.1](https://www.rfc-editor.org/rfc/rfc8693#section-2.1)).
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait SubjectTokens: Send + Sync {
    /// Whom a signed JWT proves.
    ///
    /// # Errors
    ///
    /// [`ConnectorError::Untrusted`] for a token of nobody who is trusted, or that does not prove
    /// what it should; [`ConnectorError::Unavailable`] and [`ConnectorError::Misconfigured`] when
    /// the issuer's keys are not to be had.
    async fn prove(&self, token: &Secret) -> Result<ProvenSubject, ConnectorError>;
}
