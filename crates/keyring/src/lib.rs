//! Seals what must not lie in the open, under keys from a file: the adapter of
//! [`Sealer`](symbolon_domain::ports::Sealer).
//!
//! A [`KeyRing`] holds several keys. One is active and seals; all of them open, so that a new key
//! can be added while values under the old one are still about. `docs/decisions/0001-sealing.md`
//! says why AES-256-GCM-SIV, and what that leaves to the operator.
//!
//! Where the keys come from is a port, [`KeyService`], with adapters for a file, an environment
//! variable, and a command that prints them. A [`LiveKeyRing`] follows one, so that a running
//! service opens what was sealed under a key that was added a moment ago. `docs/keys.md` tells an
//! operator how to replace a key.
//!
//! The file is for Unix: who may read it is decided by its mode.

mod file;
mod key;
mod key_ring;
mod key_ring_error;
mod key_service;
mod live_key_ring;
mod sealed;

pub use key_ring::{KeyRing, KeyStatus};
pub use key_ring_error::KeyRingError;
pub use key_service::{KeyCommand, KeyFile, KeyService, KeyVariable, Stamp};
pub use live_key_ring::LiveKeyRing;
