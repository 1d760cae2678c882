use std::fmt;

use aws_lc_rs::{
    aead::{AES_256_GCM_SIV, RandomizedNonceKey},
    digest, rand,
};
use chrono::{DateTime, Utc};
use zeroize::Zeroizing;

/// The bytes of a key, wiped when dropped.
pub(crate) type KeyBytes = Zeroizing<[u8; 32]>;

/// A new key.
///
/// # Panics
///
/// When the operating system has no random numbers; nothing can be kept safe then.
pub(crate) fn random_bytes() -> KeyBytes {
    let mut bytes = KeyBytes::default();
    rand::fill(bytes.as_mut_slice()).expect("the operating system gives random numbers");
    bytes
}

/// A key, ready for use. The library that holds it wipes it when it is freed.
pub(crate) struct Key {
    pub(crate) id: u32,
    pub(crate) created_at: DateTime<Utc>,
    /// Recognizes the key without telling it: the first 8 hexadecimal digits of its SHA-256. The
    /// key is 256 random bits, so there is nothing to guess it from.
    pub(crate) fingerprint: String,
    pub(crate) cipher: RandomizedNonceKey,
}

impl Key {
    pub(crate) fn new(id: u32, created_at: DateTime<Utc>, bytes: &KeyBytes) -> Self {
        let hash = digest::digest(&digest::SHA256, bytes.as_slice());
        Self {
            id,
            created_at,
            fingerprint: hex::encode(&hash.as_ref()[..4]),
            cipher: RandomizedNonceKey::new(&AES_256_GCM_SIV, bytes.as_slice())
                .expect("the cipher takes 32 bytes"),
        }
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}
