use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{MemoryStore, page_of, to_microseconds};
use crate::{
    ids::LedgerEntryId,
    ledger::{HandOut, LedgerEntry, Tally},
    page::{Page, PageRequest},
    ports::{LedgerFilter, LedgerRepository, RepositoryError},
    secret::Secret,
};

#[async_trait]
impl LedgerRepository for MemoryStore {
    async fn salt(&self) -> Result<Secret, RepositoryError> {
        Ok(self.write(|rows, _| rows.ledger_salt.get_or_insert_with(Secret::random).clone()))
    }

    async fn record(&self, hand_outs: &[(HandOut, Tally)]) -> Result<(), RepositoryError> {
        self.write(|rows, _| {
            for (hand_out, tally) in hand_outs {
                let tally = Tally {
                    first_at: to_microseconds(tally.first_at),
                    last_at: to_microseconds(tally.last_at),
                    ..tally.clone()
                };
                if let Some(entry) = rows.ledger.values_mut().find(|it| it.hand_out == *hand_out) {
                    let there = &mut entry.tally;
                    there.times += tally.times;
                    there.first_at = there.first_at.min(tally.first_at);
                    if tally.last_at >= there.last_at {
                        there.last_at = tally.last_at;
                        there.request_id = tally.request_id;
                    }
                } else {
                    let id = LedgerEntryId(rows.next_id());
                    rows.ledger.insert(id, LedgerEntry { id, hand_out: hand_out.clone(), tally });
                }
            }
        });
        Ok(())
    }

    async fn list_ledger(
        &self,
        filter: &LedgerFilter,
        page: PageRequest,
    ) -> Result<Page<LedgerEntry>, RepositoryError> {
        let (rows, _) = self.read();
        let meant = rows.ledger.values().filter(|it| {
            filter.identity_id.is_none_or(|id| id == it.hand_out.identity_id)
                && filter.token.is_none_or(|token| token == it.hand_out.token)
        });
        Ok(page_of(meant, page, |it| it.id.0))
    }

    async fn forget(&self, before: DateTime<Utc>, most: u16) -> Result<u64, RepositoryError> {
        Ok(self.write(|rows, _| {
            let old: Vec<_> = rows
                .ledger
                .values()
                .filter(|it| it.tally.last_at < before)
                .take(most.into())
                .map(|it| it.id)
                .collect();
            for id in &old {
                rows.ledger.remove(id);
            }
            old.len() as u64
        }))
    }
}
