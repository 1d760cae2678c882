use std::collections::BTreeMap;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::{dsl::count_star, prelude::*};
use diesel_async::RunQueryDsl;
use symbolon_domain::{
    identity::IdentityStatus,
    ids::{IdentityId, ProviderId},
    ports::{
        Death, DeathCount, DeathCursor, DeathPage, DeathReason, FailureClass, Forecast,
        RepositoryError,
    },
};

use super::{Db, Store, schema::identities, to_microseconds};
use crate::{
    failure::Failure,
    values::{self, parsed},
};

#[derive(Queryable, Selectable)]
#[diesel(table_name = identities, check_for_backend(Db))]
struct Dying {
    id: i64,
    user_id: String,
    idp_id: i64,
    dies_at: Option<DateTime<Utc>>,
    refreshable: bool,
    failure_class: Option<String>,
    unanswered: i32,
}

fn reason(refreshable: bool, class: Option<&str>, unanswered: i32) -> Result<DeathReason, Failure> {
    let class = class.map(|it| parsed(it, FailureClass::parse)).transpose()?;
    Ok(DeathReason::of(refreshable, class, u32::try_from(unanswered).unwrap_or(0)))
}

impl Dying {
    fn death(self) -> Result<Death, Failure> {
        Ok(Death {
            identity_id: IdentityId(self.id),
            user_id: values::user(self.user_id)?,
            provider_id: ProviderId(self.idp_id),
            dies_at: self.dies_at.ok_or_else(|| Failure::unreadable("no time of death"))?,
            reason: reason(self.refreshable, self.failure_class.as_deref(), self.unanswered)?,
        })
    }
}

/// A provider instance, what makes the reason, and how many.
type Group = (i64, bool, Option<String>, i32, i64);

#[async_trait]
impl Forecast for Store {
    async fn count_deaths(
        &self,
        provider: Option<ProviderId>,
        from: Option<DateTime<Utc>>,
        to: DateTime<Utc>,
    ) -> Result<Vec<DeathCount>, RepositoryError> {
        let mut conn = self.reader().await?;
        let groups = (
            identities::idp_id,
            identities::refreshable,
            identities::failure_class,
            identities::unanswered,
        );
        let mut query = identities::table
            .group_by(groups)
            .select((
                identities::idp_id,
                identities::refreshable,
                identities::failure_class,
                identities::unanswered,
                count_star(),
            ))
            .filter(identities::dies_at.le(to_microseconds(to)))
            .filter(identities::status.ne(IdentityStatus::Invalid.as_str()))
            .into_boxed();
        if let Some(from) = from {
            query = query.filter(identities::dies_at.gt(to_microseconds(from)));
        }
        if let Some(provider) = provider {
            query = query.filter(identities::idp_id.eq(provider.0));
        }
        let groups: Vec<Group> = query.load(&mut *conn).await.map_err(Failure::from)?;
        let mut counts = BTreeMap::new();
        for (provider, refreshable, class, unanswered, count) in groups {
            let reason = reason(refreshable, class.as_deref(), unanswered)?;
            *counts.entry((ProviderId(provider), reason)).or_insert(0) +=
                u64::try_from(count).unwrap_or(0);
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
        let mut conn = self.reader().await?;
        let mut query = identities::table
            .filter(identities::dies_at.le(to_microseconds(to)))
            .filter(identities::status.ne(IdentityStatus::Invalid.as_str()))
            .order((identities::dies_at, identities::id))
            .limit(i64::from(limit) + 1)
            .select(Dying::as_select())
            .into_boxed();
        if let Some(DeathCursor { dies_at, identity_id }) = after {
            let dies_at = to_microseconds(dies_at);
            let same = identities::dies_at.eq(dies_at).and(identities::id.gt(identity_id.0));
            query = query
                .filter(identities::dies_at.ge(dies_at))
                .filter(identities::dies_at.gt(dies_at).or(same));
        }
        if let Some(provider) = provider {
            query = query.filter(identities::idp_id.eq(provider.0));
        }
        let rows: Vec<Dying> = query.load(&mut *conn).await.map_err(Failure::from)?;
        let deaths = rows.into_iter().map(Dying::death).collect::<Result<_, _>>()?;
        Ok(DeathPage::cut(deaths, limit))
    }
}
