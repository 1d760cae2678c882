//! Lists in pages, by ascending id.

/// Which part of a list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Most items to answer, 1 to 200.
    pub limit: u16,
    /// Only items whose id is greater.
    pub after: Option<i64>,
}

impl Default for PageRequest {
    fn default() -> Self {
        Self { limit: 50, after: None }
    }
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// In ascending id order.
    pub items: Vec<T>,
    /// What to ask for `after` to go on; `None` at the end.
    pub next: Option<i64>,
}

impl<T> Page<T> {
    /// A page from up to `limit + 1` items in ascending id order: the extra one only tells that
    /// there is more.
    pub fn cut(mut items: Vec<T>, limit: u16, id: impl Fn(&T) -> i64) -> Self {
        let more = items.len() > usize::from(limit);
        items.truncate(usize::from(limit));
        let next = if more { items.last().map(id) } else { None };
        Self { items, next }
    }

    /// The same page of other items.
    pub fn map<U>(self, f: impl FnMut(T) -> U) -> Page<U> {
        Page { items: self.items.into_iter().map(f).collect(), next: self.next }
    }
}
