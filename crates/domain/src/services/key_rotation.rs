use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::time::sleep;

use crate::{
    Error,
    ports::{RefusedBecause, RefusedValue, ResealedPage, SealedColumn, SealedValues},
};

/// How many values are sealed anew in one transaction: few enough that nobody waits long for a row.
const BATCH: u32 = 500;

/// How often everything is gone over at most. A row is passed over only while somebody else is
/// changing it, so a second time finds nearly all of what the first has left.
const PASSES: u32 = 10;

/// How long those are left to it who were changing a row.
const PAUSE: Duration = Duration::from_millis(100);

/// Seals everything under the active key, and says what does not open.
///
/// It keeps no account of how far it is: what is left is what names another key. So it may end at
/// any moment, and begin again.
pub struct KeyRotation {
    /// Everything that is sealed.
    pub values: Arc<dyn SealedValues>,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RotationProgress {
    /// Values sealed anew, or looked at, so far.
    pub values: u64,
    /// How much of the way is behind, from 0 to 1.
    pub fraction: f64,
}

/// What lies sealed in the database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SealedReport {
    /// For each column how many values name which key; `None` for those that name none.
    pub keys: BTreeMap<SealedColumn, BTreeMap<Option<u32>, u64>>,
    /// Those that do not open where they lie.
    pub refused: Vec<(SealedColumn, RefusedValue)>,
}

impl SealedReport {
    /// How many values there are.
    #[must_use]
    pub fn values(&self) -> u64 {
        self.keys.values().flat_map(BTreeMap::values).sum()
    }

    /// The keys that any value names, whether it opens or not: none of them may go.
    #[must_use]
    pub fn needed_keys(&self) -> BTreeSet<u32> {
        self.keys.values().flat_map(BTreeMap::keys).copied().flatten().collect()
    }

    /// How many values open and name another key than this one: what a rotation has left.
    #[must_use]
    pub fn left_beside(&self, active: u32) -> u64 {
        let others = self.keys.values().flatten();
        let others = others.filter(|(key, _)| key.is_some_and(|it| it != active));
        let refused = self.refused.iter().filter(|(_, it)| match it.because {
            RefusedBecause::NeverSealed => false,
            RefusedBecause::UnknownKey(key) | RefusedBecause::OutOfPlace(key) => key != active,
        });
        others.map(|(_, count)| count).sum::<u64>().saturating_sub(refused.count() as u64)
    }
}

/// Tells how far it is, over all columns: by the ids, which are cheap to know.
struct Way {
    highest: BTreeMap<SealedColumn, i64>,
    behind: i64,
    values: u64,
}

impl Way {
    #[expect(clippy::cast_precision_loss, reason = "it is a fraction to be shown")]
    fn at(&self, id: i64) -> RotationProgress {
        let all: i64 = self.highest.values().sum();
        let fraction = if all == 0 { 1.0 } else { (self.behind + id) as f64 / all as f64 };
        RotationProgress { values: self.values, fraction: fraction.clamp(0.0, 1.0) }
    }

    fn end(&mut self, column: SealedColumn) {
        self.behind += self.highest.get(&column).copied().unwrap_or(0);
    }
}

impl KeyRotation {
    async fn way(&self) -> Result<Way, Error> {
        let mut highest = BTreeMap::new();
        for column in SealedColumn::ALL {
            highest.insert(column, self.values.highest(column).await?);
        }
        Ok(Way { highest, behind: 0, values: 0 })
    }

    /// Seals everything anew that is not sealed under the active key, while everybody else goes on
    /// working; answers how many values that were. What does not open stays as it is.
    ///
    /// # Errors
    ///
    /// [`Error::Repository`]; what was sealed anew until then stays so, and the next call goes on.
    pub async fn reseal(
        &self,
        tell: &mut (dyn FnMut(RotationProgress) + Send),
    ) -> Result<u64, Error> {
        let mut all = 0;
        for _ in 0..PASSES {
            let pass = self.pass(all, tell).await?;
            all += pass.resealed;
            if pass.resealed == 0 && pass.busy == 0 {
                break;
            }
            if pass.busy > 0 {
                sleep(PAUSE).await;
            }
        }
        Ok(all)
    }

    /// Goes over everything once.
    async fn pass(
        &self,
        before: u64,
        tell: &mut (dyn FnMut(RotationProgress) + Send),
    ) -> Result<ResealedPage, Error> {
        let mut way = self.way().await?;
        let mut pass = ResealedPage::default();
        for column in SealedColumn::ALL {
            let mut after = Some(0);
            while let Some(from) = after {
                let page = self.values.reseal(column, from, BATCH).await?;
                pass.resealed += page.resealed;
                pass.busy += page.busy;
                way.values = before + pass.resealed;
                after = page.next;
                tell(way.at(after.unwrap_or(from)));
            }
            way.end(column);
        }
        Ok(pass)
    }

    /// Opens everything where it lies, and changes nothing.
    ///
    /// # Errors
    ///
    /// [`Error::Repository`].
    pub async fn check(
        &self,
        tell: &mut (dyn FnMut(RotationProgress) + Send),
    ) -> Result<SealedReport, Error> {
        Ok(self.check_until(tell, || false).await?.0)
    }

    /// The same until `enough` says so; true when nothing was left out.
    ///
    /// # Errors
    ///
    /// [`Error::Repository`].
    pub async fn check_until(
        &self,
        tell: &mut (dyn FnMut(RotationProgress) + Send),
        enough: impl Fn() -> bool + Send,
    ) -> Result<(SealedReport, bool), Error> {
        let mut way = self.way().await?;
        let mut report = SealedReport::default();
        for column in SealedColumn::ALL {
            let mut after = Some(0);
            while let Some(from) = after {
                if enough() {
                    return Ok((report, false));
                }
                let page = self.values.check(column, from, BATCH).await?;
                way.values += page.keys.values().sum::<u64>();
                let keys = report.keys.entry(column).or_default();
                for (key, count) in page.keys {
                    *keys.entry(key).or_default() += count;
                }
                report.refused.extend(page.refused.into_iter().map(|it| (column, it)));
                after = page.next;
                tell(way.at(after.unwrap_or(from)));
            }
            way.end(column);
        }
        Ok((report, true))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::ports::{MockSealedValues, SealedPage};

    const IDENTITIES: SealedColumn = SealedColumn::IdentityCredentials;

    fn rotation(mut values: MockSealedValues) -> KeyRotation {
        values.expect_highest().returning(|column| Ok(if column == IDENTITIES { 1000 } else { 0 }));
        KeyRotation { values: Arc::new(values) }
    }

    #[tokio::test(start_paused = true)]
    async fn what_somebody_was_changing_is_sealed_the_next_time_round() {
        let left = Arc::new(AtomicU64::new(3));
        let mut values = MockSealedValues::new();
        let (found, rounds) = (Arc::clone(&left), AtomicU64::new(0));
        values.expect_reseal().returning(move |column, after, _| {
            if column != IDENTITIES {
                return Ok(ResealedPage::default());
            }
            if after != 0 {
                return Ok(ResealedPage::default());
            }
            // At first none of them is free, and then one more each time; there are two stretches.
            let first = rounds.fetch_add(1, Ordering::SeqCst) == 0;
            let left = found.load(Ordering::SeqCst);
            let resealed = u64::from(!first && left > 0);
            found.store(left - resealed, Ordering::SeqCst);
            Ok(ResealedPage { resealed, busy: left - resealed, next: Some(500) })
        });
        let mut told = Vec::new();
        let resealed = rotation(values).reseal(&mut |it| told.push(it)).await.unwrap();
        assert_eq!((resealed, left.load(Ordering::SeqCst)), (3, 0));
        assert!(told.iter().any(|it| (it.fraction - 0.5).abs() < 1e-9), "{told:?}");
        assert!(told.iter().all(|it| (0.0..=1.0).contains(&it.fraction)), "{told:?}");
        assert_eq!(told.last().unwrap().values, 3);
    }

    #[tokio::test]
    async fn a_replica_that_seals_with_the_old_key_all_the_time_does_not_keep_it_for_ever() {
        let mut values = MockSealedValues::new();
        values
            .expect_reseal()
            .returning(|_, _, _| Ok(ResealedPage { resealed: 1, busy: 0, next: None }));
        let resealed = rotation(values).reseal(&mut |_| ()).await.unwrap();
        assert_eq!(resealed, u64::from(PASSES) * SealedColumn::ALL.len() as u64);
    }

    #[tokio::test]
    async fn a_check_counts_keys_and_names_what_does_not_open() {
        let mut values = MockSealedValues::new();
        values.expect_check().returning(|column, after, _| {
            let refused = |row, because| RefusedValue { row, because };
            Ok(match (column, after) {
                (SealedColumn::ProviderSecrets, _) => {
                    SealedPage { keys: [(Some(2), 1)].into(), ..SealedPage::default() }
                }
                (IDENTITIES, 0) => SealedPage {
                    keys: [(Some(1), 2), (Some(2), 497), (None, 1)].into(),
                    refused: vec![
                        refused(7, RefusedBecause::NeverSealed),
                        refused(9, RefusedBecause::OutOfPlace(1)),
                    ],
                    next: Some(500),
                },
                (IDENTITIES, _) => SealedPage {
                    keys: [(Some(1), 1), (Some(4), 1)].into(),
                    refused: vec![refused(501, RefusedBecause::UnknownKey(4))],
                    next: None,
                },
                _ => SealedPage::default(),
            })
        });
        let rotation = rotation(values);
        let report = rotation.check(&mut |_| ()).await.unwrap();
        assert_eq!(report.values(), 503);
        assert_eq!(report.needed_keys(), [1, 2, 4].into());
        let refused: Vec<_> = report.refused.iter().map(|(_, it)| it.row).collect();
        assert_eq!(refused, [7, 9, 501]);
        // Of those under key 1 one does not open, and the one under key 4 does not either.
        assert_eq!(report.left_beside(2), 2);
        assert_eq!(report.keys[&IDENTITIES][&Some(1)], 3);

        let (nothing, whole) = rotation.check_until(&mut |_| (), || true).await.unwrap();
        assert_eq!((nothing, whole), (SealedReport::default(), false));
    }
}
