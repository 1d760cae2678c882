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
    #[error("{place} is not a usable key ring: {problem}")]
    Malformed {
        /// Which file, or what else it came from.
        place: String,
        /// What is wrong and where, in words of ours: a parser's message could quote a key.
        problem: String,
    },
    /// The environment variable that should hold the key ring is not there.
    #[error(
        "the environment variable {name} is not set; it should hold the key ring, as \
         `symbolon keyring generate` writes it to a file"
    )]
    NoVariable {
        /// Its name.
        name: String,
    },
    /// The command that should print the key ring did not. What it wrote to standard error is not
    /// repeated: it may hold a secret.
    #[error("{program}, the command that should print the key ring, {problem}")]
    Command {
        /// The program, without its arguments, which may hold a secret.
        program: String,
        /// What happened, and what to do.
        problem: String,
    },
    /// There is no key of this id.
    #[error("there is no key {id} in the key ring {path}; `symbolon keyring status` lists them")]
    NoSuchKey {
        /// Which file.
        path: PathBuf,
        /// The id that was asked for.
        id: u32,
    },
    /// The active key is never taken out.
    #[error("key {id} of {path} seals, and stays")]
    ActiveKey {
        /// Which file.
        path: PathBuf,
        /// Its id.
        id: u32,
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
