use zeroize::Zeroizing;

/// Where a sealed value belongs. It opens nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    /// The table of the row.
    pub table: &'static str,
    /// The row's id.
    pub row: i64,
    /// The provider instance that the row belongs to; 0 when there is none.
    pub idp: i64,
    /// Counts the values of this place, so that an older one is refused.
    pub generation: i64,
}

/// A value could not be sealed or opened.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SealError {
    /// The value names a key that this key ring does not have.
    #[error("the key {0} is not in the key ring")]
    UnknownKey(u32),
    /// The value was altered, moved, replaced by an older one, or never sealed.
    #[error("the sealed value does not belong here or was altered")]
    Refused,
}

/// Seals what must not lie in the open.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
pub trait Sealer: Send + Sync {
    /// Seals a value for its place. The same value sealed twice gives different bytes.
    ///
    /// # Errors
    ///
    /// [`SealError`] when there is no key to seal with.
    fn seal(&self, place: &Place, plain: &[u8]) -> Result<Vec<u8>, SealError>;

    /// Opens a value in its place.
    ///
    /// # Errors
    ///
    /// [`SealError`] when it does not belong there or its key is missing; a value that was never
    /// sealed is refused, not passed through.
    fn open(&self, place: &Place, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError>;

    /// Which key a value says that it is sealed under; `None` when it is not of a form that this
    /// sealer writes. Whether it opens is another question.
    fn key_id(&self, sealed: &[u8]) -> Option<u32>;

    /// What everything begins with that is sealed from now on, and nothing that is sealed under
    /// another key: so a database finds what a rotation has still to do.
    fn mark(&self) -> Vec<u8>;
}
