use serde::Serialize;
use symbolon_domain::page::Page;
use utoipa::ToSchema;

use crate::request::write_cursor;

/// A part of a list, in ascending id order.
#[derive(Serialize, ToSchema)]
#[schema(as = List)]
pub(crate) struct ListBody<T> {
    /// The items of this part.
    items: Vec<T>,
    /// What to send as `cursor` to go on; null at the end.
    next_cursor: Option<String>,
}

impl<T> ListBody<T> {
    /// A page, item by item.
    pub(crate) fn of<U>(page: Page<U>, render: impl FnMut(U) -> T) -> Self {
        let next_cursor = page.next.map(write_cursor);
        Self { items: page.items.into_iter().map(render).collect(), next_cursor }
    }

    /// A list that always fits one part.
    pub(crate) fn whole(items: Vec<T>) -> Self {
        Self { items, next_cursor: None }
    }
}
