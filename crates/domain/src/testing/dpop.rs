use crate::{
    dpop::DpopRequest,
    ports::{DpopProofs, UnreadableDpopKey},
    secret::Secret,
};

/// Proofs that say in the clear what they are about, and prove nothing. The key of
/// [`UNREADABLE`](Self::UNREADABLE) is none.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainProofs;

impl PlainProofs {
    /// A text that is taken for no key.
    pub const UNREADABLE: &str = "unreadable";

    /// What is made of this: method, address, nonce (`-` for none), and the SHA-256 of token and
    /// key in hexadecimal.
    #[must_use]
    pub fn text(key: &Secret, request: &DpopRequest, access_token: &Secret) -> String {
        format!(
            "{} {} {} {} {}",
            request.method(),
            request.url(),
            request.nonce().unwrap_or("-"),
            hex(access_token),
            hex(key)
        )
    }
}

fn hex(secret: &Secret) -> String {
    use std::fmt::Write as _;
    secret.hash().0.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl DpopProofs for PlainProofs {
    fn prove(
        &self,
        key: &Secret,
        request: &DpopRequest,
        access_token: &Secret,
    ) -> Result<Secret, UnreadableDpopKey> {
        if key.expose() == Self::UNREADABLE {
            return Err(UnreadableDpopKey);
        }
        Ok(Secret::new(Self::text(key, request, access_token)))
    }
}
