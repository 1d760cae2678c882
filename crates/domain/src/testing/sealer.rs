use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::ports::{Place, SealError, Sealer};

/// Behaves like a sealer, but anybody can open what it sealed: for tests only.
///
/// It refuses another place, an altered value and one that was never sealed, and the plain text
/// does not show in the sealed bytes; so tests find what an adapter forgot to seal or sealed for
/// the wrong row.
#[derive(Clone, Copy, Debug, Default)]
pub struct TestSealer {
    key: u32,
    /// The key with which it opens besides.
    older: Option<u32>,
}

/// Marks what this sealer wrote.
const MARK: &[u8; 4] = b"test";
/// The mark, the key's number, the nonce and the tag stand before the masked text.
const NONCE: usize = MARK.len() + 4;
const TAG: usize = NONCE + 16;
const TEXT: usize = TAG + 32;

impl TestSealer {
    /// A sealer with the key of this number; another's values are
    /// [`UnknownKey`](SealError::UnknownKey) to it.
    #[must_use]
    pub fn with_key(key: u32) -> Self {
        Self { key, older: None }
    }

    /// The same, which opens what this other key has sealed, too.
    #[must_use]
    pub fn opening(self, older: u32) -> Self {
        Self { older: Some(older), ..self }
    }

    /// The text with a stream over it that hangs on key, place and nonce; twice is not at all.
    fn mask(self, place: &Place, nonce: &[u8], text: &[u8]) -> Vec<u8> {
        let blocks = (0_u64..).flat_map(|block| {
            self.digest(b"mask", place, nonce).chain_update(block.to_be_bytes()).finalize()
        });
        text.iter().zip(blocks).map(|(byte, mask)| byte ^ mask).collect()
    }

    fn tag(self, place: &Place, nonce: &[u8], masked: &[u8]) -> [u8; 32] {
        self.digest(b"tag.", place, nonce).chain_update(masked).finalize().into()
    }

    /// Every part but the first has a fixed length, so no two places run into each other.
    fn digest(self, purpose: &[u8], place: &Place, nonce: &[u8]) -> Sha256 {
        Sha256::new()
            .chain_update(Sha256::digest(place.table))
            .chain_update(place.row.to_be_bytes())
            .chain_update(place.idp.to_be_bytes())
            .chain_update(place.generation.to_be_bytes())
            .chain_update(self.key.to_be_bytes())
            .chain_update(nonce)
            .chain_update(purpose)
    }
}

impl Sealer for TestSealer {
    fn seal(&self, place: &Place, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; TAG - NONCE];
        getrandom::fill(&mut nonce).unwrap();
        let masked = self.mask(place, &nonce, plain);
        let tag = self.tag(place, &nonce, &masked);
        Ok([MARK.as_slice(), &self.key.to_be_bytes(), &nonce, &tag, &masked].concat())
    }

    fn open(&self, place: &Place, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        if sealed.len() < TEXT || !sealed.starts_with(MARK) {
            return Err(SealError::Refused);
        }
        let (head, masked) = sealed.split_at(TEXT);
        let key = u32::from_be_bytes(head[MARK.len()..NONCE].try_into().unwrap());
        if key != self.key && Some(key) != self.older {
            return Err(SealError::UnknownKey(key));
        }
        let with = Self::with_key(key);
        let (nonce, tag) = (&head[NONCE..TAG], &head[TAG..]);
        if !bool::from(tag.ct_eq(&with.tag(place, nonce, masked))) {
            return Err(SealError::Refused);
        }
        Ok(Zeroizing::new(with.mask(place, nonce, masked)))
    }

    fn key_id(&self, sealed: &[u8]) -> Option<u32> {
        let key = sealed.strip_prefix(MARK.as_slice())?.first_chunk()?;
        (sealed.len() >= TEXT).then_some(u32::from_be_bytes(*key))
    }

    fn mark(&self) -> Vec<u8> {
        [MARK.as_slice(), &self.key.to_be_bytes()].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place = Place { table: "identities", row: 7, idp: 3, generation: 2 };
    const PLAIN: &[u8] = b"a text that is longer than one block of the stream, to see the next one";

    #[test]
    fn a_sealed_value_opens_in_its_place_and_in_no_other() {
        let it = TestSealer::default();
        let sealed = it.seal(&PLACE, PLAIN).unwrap();
        assert_eq!(it.open(&PLACE, &sealed).unwrap().as_slice(), PLAIN);
        for other in [
            Place { table: "link_sessions", ..PLACE },
            Place { row: 8, ..PLACE },
            Place { idp: 4, ..PLACE },
            Place { generation: 1, ..PLACE },
        ] {
            assert_eq!(it.open(&other, &sealed), Err(SealError::Refused), "{other:?}");
        }
    }

    #[test]
    fn what_was_altered_or_never_sealed_is_refused() {
        let it = TestSealer::default();
        let sealed = it.seal(&PLACE, PLAIN).unwrap();
        assert_eq!(it.open(&PLACE, PLAIN), Err(SealError::Refused));
        assert_eq!(it.open(&PLACE, b""), Err(SealError::Refused));
        for at in [0, NONCE, TAG, TEXT, sealed.len() - 1] {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert_eq!(it.open(&PLACE, &altered), Err(SealError::Refused), "byte {at}");
        }
    }

    #[test]
    fn another_key_is_named() {
        let sealed = TestSealer::with_key(1).seal(&PLACE, PLAIN).unwrap();
        assert_eq!(TestSealer::with_key(2).open(&PLACE, &sealed), Err(SealError::UnknownKey(1)));
    }

    #[test]
    fn an_older_key_opens_and_does_not_seal() {
        let old = TestSealer::with_key(1).seal(&PLACE, PLAIN).unwrap();
        let it = TestSealer::with_key(2).opening(1);
        assert_eq!(it.open(&PLACE, &old).unwrap().as_slice(), PLAIN);
        let new = it.seal(&PLACE, PLAIN).unwrap();
        assert_eq!((it.key_id(&old), it.key_id(&new), it.key_id(PLAIN)), (Some(1), Some(2), None));
        assert!(new.starts_with(&it.mark()) && !old.starts_with(&it.mark()));
    }

    #[test]
    fn the_plain_text_does_not_show_and_no_two_sealings_are_alike() {
        let it = TestSealer::default();
        let (one, other) = (it.seal(&PLACE, PLAIN).unwrap(), it.seal(&PLACE, PLAIN).unwrap());
        assert_ne!(one, other);
        assert!(!one.windows(4).any(|window| PLAIN.windows(4).any(|plain| plain == window)));
    }
}
