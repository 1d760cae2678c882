//! The sealed form, version 1: `1 | key id, 4 bytes | nonce, 12 bytes | ciphertext | tag, 16
//! bytes`, numbers big-endian.

use aws_lc_rs::aead::{Aad, NONCE_LEN, Nonce};
use symbolon_domain::ports::{Place, SealError};
use zeroize::Zeroizing;

use crate::key::Key;

const VERSION: u8 = 1;
const HEADER_LEN: usize = 1 + size_of::<u32>();
const BODY: usize = HEADER_LEN + NONCE_LEN;
const TAG_LEN: usize = 16;

/// The key that a sealed value names, or `None` when it is not a value of this form.
pub(crate) fn key_id(sealed: &[u8]) -> Option<u32> {
    let (&VERSION, rest) = sealed.split_first()? else { return None };
    (sealed.len() >= BODY + TAG_LEN).then_some(u32::from_be_bytes(*rest.first_chunk()?))
}

/// What every value begins with that is sealed under this key.
pub(crate) fn mark(key_id: u32) -> Vec<u8> {
    let mut mark = vec![VERSION];
    mark.extend(key_id.to_be_bytes());
    mark
}

pub(crate) fn seal(key: &Key, place: &Place, plain: &[u8]) -> Vec<u8> {
    // All of it at once: a buffer that grows would leave the plain value behind in freed memory.
    let mut sealed = Vec::with_capacity(BODY + plain.len() + TAG_LEN);
    sealed.push(VERSION);
    sealed.extend(key.id.to_be_bytes());
    sealed.extend([0; NONCE_LEN]);
    sealed.extend(plain);
    let (nonce, tag) = key
        .cipher
        .seal_in_place_separate_tag(associated_data(key.id, place), &mut sealed[BODY..])
        .expect("there are random numbers, and the value is shorter than 64 GiB");
    sealed[HEADER_LEN..BODY].copy_from_slice(nonce.as_ref());
    sealed.extend(tag.as_ref());
    sealed
}

/// Opens a value whose [`key_id`] is that of `key`.
pub(crate) fn open(
    key: &Key,
    place: &Place,
    sealed: &[u8],
) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let nonce = sealed.get(HEADER_LEN..BODY).ok_or(SealError::Refused)?;
    let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Refused)?;
    let mut plain = Zeroizing::new(sealed[BODY..].to_vec());
    let length = key
        .cipher
        .open_in_place(nonce, associated_data(key.id, place), &mut plain)
        .map_err(|_| SealError::Refused)?
        .len();
    plain.truncate(length);
    Ok(plain)
}

/// What the tag covers besides the value: the header, and the place. No two places have the same
/// bytes, since only the table's name varies in length and its length comes first.
fn associated_data(key_id: u32, place: &Place) -> Aad<Vec<u8>> {
    let Place { table, row, idp, generation } = *place;
    let mut data = Vec::with_capacity(HEADER_LEN + 4 * size_of::<u64>() + table.len());
    data.push(VERSION);
    data.extend(key_id.to_be_bytes());
    data.extend((table.len() as u64).to_be_bytes());
    data.extend(table.as_bytes());
    data.extend(row.to_be_bytes());
    data.extend(idp.to_be_bytes());
    data.extend(generation.to_be_bytes());
    Aad::from(data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_places_never_share_their_associated_data() {
        let place = Place { table: "ab", row: 1, idp: 2, generation: 3 };
        // The table's last bytes and the row's first ones cannot be shifted into each other.
        let others = [
            Place { table: "abc", ..place },
            Place { table: "a", row: i64::from_be_bytes(*b"b\0\0\0\0\0\0\0"), ..place },
            Place { row: 2, idp: 1, ..place },
            Place { idp: 3, generation: 2, ..place },
        ];
        for other in others {
            assert_ne!(associated_data(1, &place).as_ref(), associated_data(1, &other).as_ref());
        }
        assert_ne!(associated_data(1, &place).as_ref(), associated_data(2, &place).as_ref());
    }
}
