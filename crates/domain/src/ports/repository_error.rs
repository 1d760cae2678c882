/// Why a repository could not do as asked. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum RepositoryError {
    /// A uniqueness rule refused the write.
    #[error("already exists")]
    Conflict,
    /// The row to change, or one that it refers to, is not there.
    #[error("not found")]
    NotFound,
    /// A sealed value does not open: its key is missing, or it was moved, altered or replaced by
    /// an older one.
    #[error("a sealed value of {table} {row} does not open")]
    Unsealable {
        /// The table of the row.
        table: &'static str,
        /// The row's id.
        row: i64,
    },
    /// The store cannot be reached, or went away meanwhile, and may be back soon; for a write,
    /// whether it was done is unknown.
    #[error("the store is away")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store failed; for a write, whether it was done is unknown.
    #[error("the store failed")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
}
