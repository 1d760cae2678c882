use crate::{dpop::DpopRequest, secret::Secret};

/// Proves the possession of keys that tokens are bound to.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait DpopProofs: Send + Sync {
    /// A proof for this one request with this access token, to be sent at once as the header
    /// `DPoP` ([RFC 9449 §4.2](https://www.rfc-editor.org/rfc/rfc9449#section-4.2)). Each is
    /// another, also for the same request.
    ///
    /// # Errors
    ///
    /// [`UnreadableDpopKey`].
    fn prove(
        &self,
        key: &Secret,
        request: &DpopRequest,
        access_token: &Secret,
    ) -> Result<Secret, UnreadableDpopKey>;
}

/// A text is no key of the form that connectors make.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the key that the token is bound to cannot be read")]
pub struct UnreadableDpopKey;
