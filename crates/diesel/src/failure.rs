//! The one place where a database's error becomes a domain error.

use diesel::result::{DatabaseErrorKind, Error};
use symbolon_domain::ports::{Place, RepositoryError, SealError};

/// Why a transaction was rolled back.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The database refused a statement.
    Query(Error),
    /// A value does not seal or open.
    Sealed(RepositoryError),
    /// A row changed between the look and the write: look again.
    Changed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Query(error)
    }
}

impl Failure {
    /// A stored value that this version cannot read: an error, never a default.
    pub(crate) fn unreadable(what: impl Into<String>) -> Self {
        Self::Query(Error::DeserializationError(what.into().into()))
    }

    pub(crate) fn sealed(place: &Place, error: &SealError) -> Self {
        tracing::error!(table = place.table, row = place.row, %error, "a sealed value does not open");
        Self::Sealed(RepositoryError::Unsealable { table: place.table, row: place.row })
    }

    /// Whether the database is away, or has given up on the statement for a reason that may pass.
    fn is_outage(error: &Error) -> bool {
        match error {
            Error::BrokenTransactionManager
            | Error::DatabaseError(
                // The first is how a connection ends that broke under a statement, the last what a
                // server says that is no longer, or not yet, the one to write to.
                DatabaseErrorKind::UnableToSendCommand
                | DatabaseErrorKind::ClosedConnection
                | DatabaseErrorKind::ReadOnlyTransaction,
                _,
            ) => true,
            // Diesel does not pass PostgreSQL's code on (57P01 to 57P03, 57014) nor SQLite's.
            Error::DatabaseError(_, info) => [
                "terminating connection",
                "the database system is",
                "canceling statement",
                "database is locked",
            ]
            .iter()
            .any(|it| info.message().starts_with(it)),
            Error::RollbackErrorOnCommit { rollback_error, commit_error } => {
                Self::is_outage(rollback_error) || Self::is_outage(commit_error)
            }
            _ => false,
        }
    }

    /// Whether another try may end otherwise, because somebody else was first.
    pub(crate) fn is_race(&self) -> bool {
        match self {
            Self::Changed
            | Self::Query(Error::DatabaseError(
                DatabaseErrorKind::UniqueViolation
                | DatabaseErrorKind::ForeignKeyViolation
                | DatabaseErrorKind::SerializationFailure,
                _,
            )) => true,
            // Diesel knows no kind for a deadlock, and does not pass its code (40P01) on.
            Self::Query(Error::DatabaseError(_, info)) => info.message() == "deadlock detected",
            _ => false,
        }
    }
}

impl From<Failure> for RepositoryError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Sealed(error) => error,
            Failure::Changed => Self::Store("the row changes all the time".into()),
            Failure::Query(Error::DatabaseError(DatabaseErrorKind::UniqueViolation, _)) => {
                Self::Conflict
            }
            Failure::Query(
                Error::NotFound | Error::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _),
            ) => Self::NotFound,
            Failure::Query(other) if Failure::is_outage(&other) => {
                Self::Unavailable(Box::new(other))
            }
            Failure::Query(other) => Self::Store(Box::new(other)),
        }
    }
}

/// A pool that gives no connection, or a connection that is not made.
pub(crate) fn unreachable(
    error: impl std::error::Error + Send + Sync + 'static,
) -> RepositoryError {
    RepositoryError::Unavailable(Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: DatabaseErrorKind, message: &str) -> RepositoryError {
        Failure::Query(Error::DatabaseError(kind, Box::new(message.to_owned()))).into()
    }

    #[test]
    fn a_database_that_is_away_is_told_from_one_that_refuses() {
        for (kind, message) in [
            (DatabaseErrorKind::UnableToSendCommand, "connection closed"),
            (DatabaseErrorKind::ClosedConnection, "server closed the connection"),
            (DatabaseErrorKind::Unknown, "terminating connection due to administrator command"),
            (DatabaseErrorKind::Unknown, "the database system is starting up"),
            (DatabaseErrorKind::Unknown, "canceling statement due to statement timeout"),
            (DatabaseErrorKind::Unknown, "database is locked"),
            (DatabaseErrorKind::ReadOnlyTransaction, "cannot execute UPDATE"),
        ] {
            let error = said(kind, message);
            assert!(matches!(error, RepositoryError::Unavailable(_)), "{message}: {error:?}");
        }
        for (kind, message) in [
            (DatabaseErrorKind::Unknown, "relation \"x\" does not exist"),
            (DatabaseErrorKind::NotNullViolation, "null value"),
        ] {
            let error = said(kind, message);
            assert!(matches!(error, RepositoryError::Store(_)), "{message}: {error:?}");
        }
    }
}
