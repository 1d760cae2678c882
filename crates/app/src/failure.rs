//! Why a command fails, and how that is said.

use std::{error::Error, io, net::SocketAddr, path::PathBuf};

use symbolon_keyring::KeyRingError;
use symbolon_oauth2::http::HttpClientError;
use symbolon_sandbox::StartError;

use crate::settings::Mistakes;

/// Why a command did not do as asked. Shown to the operator as one sentence, its causes behind it.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The configuration cannot be used; nothing was started.
    #[error(transparent)]
    Settings(#[from] Mistakes),
    /// The key ring cannot be used.
    #[error(transparent)]
    Keyring(#[from] KeyRingError),
    /// A rule of the domain says no, or the store failed.
    #[error(transparent)]
    Domain(#[from] symbolon_domain::Error),
    /// The database cannot be opened or brought up to date.
    #[error(transparent)]
    Database(#[from] symbolon_diesel::OpenError),
    /// There is no TLS to be had.
    #[error(transparent)]
    HttpClient(#[from] HttpClientError),
    /// There is no client that could send traces.
    #[error("cannot send traces to telemetry.otlp_endpoint")]
    Traces(#[source] Box<dyn Error + Send + Sync>),
    /// The demo's provider did not start.
    #[error(transparent)]
    Sandbox(#[from] StartError),
    /// An argument that only the service could judge.
    #[error("{0}")]
    Argument(String),
    /// Somebody else listens there, or this process may not.
    #[error("cannot listen on {address}; is something else listening there?")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// A file or directory that the demo keeps.
    #[error("cannot {action} {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// The operating system refused something that is always there.
    #[error("{0}")]
    System(&'static str, #[source] io::Error),
    /// Standard output cannot be written to.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// A part of what was asked for is done; the report says what is not.
    #[error("{0}")]
    Incomplete(String),
    /// At least one check found a problem; the report says which.
    #[error("{0}")]
    Unhealthy(String),
}

/// An error with its causes, each after a colon; a cause that its error quotes is not repeated.
#[must_use]
pub fn sentence(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
