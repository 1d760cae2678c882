//! Where the database is, and how it is spoken to.

use std::{path::PathBuf, time::Duration};

use symbolon_domain::{refresh_plan::RefreshPlan, secret::Secret};

/// Where the database is.
#[derive(Clone, Debug)]
pub struct DatabaseSettings {
    /// `sqlite:PATH` or `postgres://user:password@host/database`.
    pub url: Secret,
    /// Most connections in the pool; two more to PostgreSQL carry the hot reads, and one listens.
    pub max_connections: usize,
    /// Certificates to trust for PostgreSQL in place of the system's, as a PEM file.
    pub tls_root_certificate: Option<PathBuf>,
    /// Longest that a statement may take on PostgreSQL, or wait for a lock on SQLite.
    pub statement_timeout: Duration,
    /// When credentials are refreshed with nobody asking.
    pub refresh_plan: RefreshPlan,
}

impl DatabaseSettings {
    /// Settings with the defaults for all but the address.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: Secret::new(url),
            max_connections: 16,
            tls_root_certificate: None,
            statement_timeout: Duration::from_secs(10),
            refresh_plan: RefreshPlan::default(),
        }
    }
}

/// Why a database could not be opened. Names no password.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The address is of neither kind.
    #[error("the database url must begin with `sqlite:` or `postgres://`")]
    UnknownKind,
    /// The address is of a known kind, and malformed.
    #[error("the database url is malformed: {0}")]
    Malformed(String),
    /// The certificate file cannot be used.
    #[error("the certificate file {path} cannot be used: {problem}")]
    Certificate {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The SQLite file cannot be opened or created.
    #[error("the database file {path} cannot be opened: {problem}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The server does not answer or refuses us.
    #[error("cannot connect to PostgreSQL: {0}")]
    Unreachable(String),
    /// A migration failed; those before it stay applied.
    #[error("the migration failed: {0}")]
    Migration(String),
}
