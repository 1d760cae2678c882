use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{MemoryStore, Rows, identities::IdentityRow};
use crate::{
    ids::ProviderId,
    ports::{Death, DeathCount, DeathCursor, DeathPage, DeathReason, Forecast, RepositoryError},
};

impl IdentityRow {
    fn death(&self) -> Option<Death> {
        let class = self.back_off.as_ref().map(|it| it.class);
        Some(Death {
            identity_id: self.identity.id,
            user_id: self.identity.user_id.clone(),
            provider_id: self.identity.idp_id,
            dies_at: self.schedule.dies_at?,
            reason: DeathReason::of(self.schedule.refreshable, class, self.unanswered),
        })
    }
}

impl Rows {
    /// Those that die, the next first.
    fn deaths(&self, provider: Option<ProviderId>) -> Vec<Death> {
        let deaths = self.identities.values().filter_map(IdentityRow::death);
        let at = deaths.filter(|it| provider.is_none_or(|at| it.provider_id == at));
        let mut deaths: Vec<_> = at.collect();
        deaths.sort_by_key(|it| (it.dies_at, it.identity_id));
        deaths
    }
}

#[async_trait]
impl Forecast for MemoryStore {
    async fn count_deaths(
        &self,
        provider: Option<ProviderId>,
        from: Option<DateTime<Utc>>,
        to: DateTime<Utc>,
    ) -> Result<Vec<DeathCount>, RepositoryError> {
        let (rows, _) = self.read();
        let mut counts = BTreeMap::new();
        for death in rows.deaths(provider) {
            if from.is_none_or(|it| it < death.dies_at) && death.dies_at <= to {
                *counts.entry((death.provider_id, death.reason)).or_insert(0) += 1;
            }
        }
        let count = |((provider_id, reason), count)| DeathCount { provider_id, reason, count };
        Ok(counts.into_iter().map(count).collect())
    }

    async fn list_deaths(
        &self,
        provider: Option<ProviderId>,
        to: DateTime<Utc>,
        after: Option<DeathCursor>,
        limit: u16,
    ) -> Result<DeathPage, RepositoryError> {
        let (rows, _) = self.read();
        let mut deaths = rows.deaths(provider);
        deaths.retain(|it| {
            let later = after.is_none_or(|after| {
                (after.dies_at, after.identity_id) < (it.dies_at, it.identity_id)
            });
            later && it.dies_at <= to
        });
        deaths.truncate(usize::from(limit) + 1);
        Ok(DeathPage::cut(deaths, limit))
    }
}
