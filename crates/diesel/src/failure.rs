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
            Failure::Query(other) => Self::Store(Box::new(other)),
        }
    }
}

/// A pool that gives no connection, or a connection that is not made.
pub(crate) fn unreachable(
    error: impl std::error::Error + Send + Sync + 'static,
) -> RepositoryError {
    RepositoryError::Store(Box::new(error))
}
