use std::{io, path::PathBuf};

/// A key ring's file could not be read or written. Messages name the file and what to do, and
/// never hold a byte of a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyRingError {
    /// There is no such file.
    #[error(
        "there is no key ring at {path}; make one with `symbolon keyring generate --file {path}`"
    )]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A key ring is never written over another file.
    #[error(
        "{path} exists already and is left as it is; add a key to it with \
         `symbolon keyring generate --add --file {path}`"
    )]
    Exists {
        /// Where it was to be written.
        path: PathBuf,
    },
    /// Somebody other than the owner may read or change the file.
    #[error("{path} has mode {mode:03o} and is open to others; run `chmod 600 {path}`")]
    TooOpen {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not a key ring of a form that this version knows.
    #[error("{path} is not a usable key ring: {problem}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// What is wrong and where, in words of ours: a parser's message could quote a key.
        problem: String,
    },
    /// The operating system refused.
    #[error("cannot {action} the key ring {path}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}
