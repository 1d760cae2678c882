use aws_lc_rs::{digest, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// 256 random bits as 43 characters of base64url.
pub(crate) fn text() -> String {
    let mut bytes = [0_u8; 32];
    rand::fill(&mut bytes).expect("the operating system gives random numbers");
    URL_SAFE_NO_PAD.encode(bytes)
}

/// By what a secret value is recognized in records: the first 16 hexadecimal digits of its
/// SHA-256.
#[must_use]
pub fn fingerprint(secret: &str) -> String {
    hex::encode(&digest::digest(&digest::SHA256, secret.as_bytes()).as_ref()[..8])
}
