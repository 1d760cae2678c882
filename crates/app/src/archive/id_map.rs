use std::collections::{BTreeMap, HashMap};

use super::report::Reason;

/// Which row a foreign id has become. Ids that were kept cost memory only by the gaps between
/// them.
#[derive(Debug, Default)]
pub(super) struct IdMap {
    /// Ranges of kept ids, by their first.
    kept: BTreeMap<i64, i64>,
    moved: HashMap<i64, i64>,
}

impl IdMap {
    /// Remembers a row. The first word counts.
    pub(super) fn insert(&mut self, foreign: i64, ours: i64) {
        if self.get(foreign).is_some() {
            return;
        }
        if foreign != ours {
            self.moved.insert(foreign, ours);
            return;
        }
        let before = self.kept.range(..foreign).next_back().map(|(first, last)| (*first, *last));
        let after = foreign.checked_add(1).and_then(|it| self.kept.remove(&it));
        let last = after.unwrap_or(foreign);
        match before {
            Some((first, end)) if end.checked_add(1) == Some(foreign) => {
                self.kept.insert(first, last);
            }
            _ => {
                self.kept.insert(foreign, last);
            }
        }
    }

    /// Our id of the row; `None` when it was not taken.
    pub(super) fn get(&self, foreign: i64) -> Option<i64> {
        if let Some(ours) = self.moved.get(&foreign) {
            return Some(*ours);
        }
        let (_, last) = self.kept.range(..=foreign).next_back()?;
        (*last >= foreign).then_some(foreign)
    }
}

fn of(map: &IdMap, id: i64, code: &'static str, what: &str) -> Result<i64, Reason> {
    let text = || format!("the file has no {what} {id} that was taken");
    map.get(id).ok_or_else(|| Reason { code, text: text() })
}

/// The provider instance that a row refers to.
pub(super) fn of_provider(map: &IdMap, id: i64) -> Result<i64, Reason> {
    of(map, id, "no_provider", "identity provider")
}

/// The single sign-on that a row refers to.
pub(super) fn of_auth_provider(map: &IdMap, id: i64) -> Result<i64, Reason> {
    of(map, id, "no_auth_provider", "auth provider")
}

/// The identity that a row refers to.
pub(super) fn of_identity(map: &IdMap, id: i64) -> Result<i64, Reason> {
    of(map, id, "no_identity", "identity")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_in_a_row_are_one_range() {
        let mut map = IdMap::default();
        for id in [3, 1, 2, 5, 4, 1] {
            map.insert(id, id);
        }
        assert_eq!(map.kept, BTreeMap::from([(1, 5)]));
        assert!((1..=5).all(|it| map.get(it) == Some(it)));
        assert!(map.get(0).is_none() && map.get(6).is_none());
    }

    proptest! {
        #[test]
        fn it_answers_what_was_put_in_first(pairs in prop::collection::vec((0..40_i64, 0..40_i64), 0..80)) {
            let (mut map, mut plain) = (IdMap::default(), HashMap::new());
            for (foreign, ours) in pairs {
                map.insert(foreign, ours);
                plain.entry(foreign).or_insert(ours);
            }
            for id in -1..41 {
                prop_assert_eq!(map.get(id), plain.get(&id).copied());
            }
        }
    }
}
