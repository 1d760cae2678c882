//! Seals what must not lie in the open, under keys from a file: the adapter of
//! [`Sealer`](symbolon_domain::ports::Sealer).
//!
//! A [`KeyRing`] holds several keys. One is active and seals; all of them open, so that a new key
//! can be added while values under the old one are still about. `docs/decisions/0001-sealing.md`
//! says why AES-256-GCM-SIV, and what that leaves to the operator.
//!
//! The file is for Unix: who may read it is decided by its mode.

mod file;
mod key;
mod key_ring;
mod key_ring_error;
mod sealed;

pub use key_ring::{KeyRing, KeyStatus};
pub use key_ring_error::KeyRingError;
