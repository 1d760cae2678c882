//! Statements that are prepared once for each connection.

use diesel::{
    QueryResult,
    backend::Backend,
    query_builder::{AstPass, Query, QueryFragment, QueryId},
};

/// A statement whose text is the same at every call, so that its connection keeps it prepared.
///
/// Diesel has every `UPDATE` prepared anew, as the columns of a changeset may be others next time:
/// a round trip, and the parsing and planning, at each call. Not for a statement that leaves out a
/// column where its value is `None`: each of its texts would be kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prepared<S>(pub(crate) S);

impl<DB: Backend, S: QueryFragment<DB>> QueryFragment<DB> for Prepared<S> {
    fn walk_ast<'b>(&'b self, out: AstPass<'_, 'b, DB>) -> QueryResult<()> {
        self.0.walk_ast(out)
    }

    fn is_safe_to_cache_prepared(&self, _: &DB) -> QueryResult<bool> {
        Ok(true)
    }
}

/// Told apart by its text.
impl<S> QueryId for Prepared<S> {
    type QueryId = ();

    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<S: Query> Query for Prepared<S> {
    type SqlType = S::SqlType;
}
