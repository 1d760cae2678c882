//! Values that must not be seen: credentials, client secrets, tokens that we hand out ourselves.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// A text that never shows itself: `Debug` prints stars, memory is wiped on drop, and equality
/// takes the same time wherever two values differ.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// A new unguessable value: 256 random bits as 43 characters of base64url.
    ///
    /// # Panics
    ///
    /// When the operating system has no random numbers; nothing can be kept safe then.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        getrandom::fill(bytes.as_mut_slice()).expect("the operating system gives random numbers");
        Self::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()))
    }

    /// The value. Whoever calls this answers for where it goes.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The SHA-256 of the value, by which we recognize it without keeping it.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        SecretHash::of(&self.0)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("********")
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

/// The SHA-256 of a [`Secret`] that we made ourselves.
///
/// Such a secret has 256 random bits, so one plain hash is enough: there is nothing to guess,
/// and a slow password hash would only slow us down.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SecretHash(pub [u8; 32]);

impl SecretHash {
    /// Hashes a value.
    #[must_use]
    pub fn of(value: &str) -> Self {
        Self(Sha256::digest(value.as_bytes()).into())
    }

    /// Whether this is the hash of `value`; takes the same time for every answer.
    #[must_use]
    pub fn matches(&self, value: &str) -> bool {
        self.0.ct_eq(&Self::of(value).0).into()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretHash(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_shows_stars_and_its_hash_recognizes_it() {
        let secret = Secret::random();
        assert_eq!(format!("{secret:?}"), "********");
        assert_eq!(secret.expose().len(), 43);
        assert!(secret.hash().matches(secret.expose()));
        assert!(!secret.hash().matches("something else"));
        assert_ne!(secret, Secret::random());
    }
}
