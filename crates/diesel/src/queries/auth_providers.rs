use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::{Value, json};
use symbolon_domain::{
    auth_provider::AuthProvider,
    event::{Actor, EventKind, NewEvent},
    ids::{AuthProviderId, OrganizationId, ProviderId},
    page::{Page, PageRequest},
    ports::{
        AuthProviderFilter, AuthProviderRepository, AuthProviderUpdate, NewAuthProvider,
        RepositoryError, Sealer,
    },
};

use super::{
    Conn, Db, RACES, Store, auth_identities, events, in_transaction, locked, now,
    schema::auth_providers, to_microseconds,
};
use crate::{
    failure::Failure,
    values::{object, organization},
};

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = auth_providers, check_for_backend(Db))]
pub(crate) struct Row {
    id: i64,
    organization_id: String,
    provider_id: i64,
    config: Value,
    allow_unlinked: bool,
    scim_enabled: bool,
    default_role: Option<i32>,
    default_global_access: bool,
    sync_time: Option<i32>,
    last_sync: Option<DateTime<Utc>>,
    date_added: DateTime<Utc>,
    version: i64,
}

impl From<&AuthProvider> for Row {
    fn from(it: &AuthProvider) -> Self {
        Self {
            id: it.id.0,
            organization_id: it.organization_id.as_str().to_owned(),
            provider_id: it.provider_id.0,
            config: Value::Object(it.config.clone()),
            allow_unlinked: it.allow_unlinked,
            scim_enabled: it.scim_enabled,
            default_role: it.default_role,
            default_global_access: it.default_global_access,
            sync_time: it.sync_time,
            last_sync: it.last_sync.map(to_microseconds),
            date_added: to_microseconds(it.date_added),
            version: it.version,
        }
    }
}

impl TryFrom<Row> for AuthProvider {
    type Error = Failure;

    fn try_from(row: Row) -> Result<Self, Failure> {
        Ok(Self {
            id: AuthProviderId(row.id),
            organization_id: organization(row.organization_id)?,
            provider_id: ProviderId(row.provider_id),
            config: object(row.config)?,
            allow_unlinked: row.allow_unlinked,
            scim_enabled: row.scim_enabled,
            default_role: row.default_role,
            default_global_access: row.default_global_access,
            sync_time: row.sync_time,
            last_sync: row.last_sync,
            date_added: row.date_added,
            version: row.version,
        })
    }
}

pub(crate) async fn find(
    conn: &mut Conn,
    id: AuthProviderId,
) -> Result<Option<AuthProvider>, Failure> {
    let row = auth_providers::table.find(id.0).select(Row::as_select());
    let row: Option<Row> = row.first(conn).await.optional()?;
    row.map(AuthProvider::try_from).transpose()
}

/// The same, and until the transaction ends nobody changes it.
pub(crate) async fn find_locked(
    conn: &mut Conn,
    id: AuthProviderId,
) -> Result<Option<AuthProvider>, Failure> {
    let row = auth_providers::table.find(id.0).select(Row::as_select());
    let row: Option<Row> = locked!(row).first(conn).await.optional()?;
    row.map(AuthProvider::try_from).transpose()
}

/// How many organizations sign in with a provider instance.
pub(crate) async fn count_at(conn: &mut Conn, provider: ProviderId) -> Result<u64, Failure> {
    let at = auth_providers::table.filter(auth_providers::provider_id.eq(provider.0));
    let count: i64 = at.count().get_result(conn).await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Deletes the single sign-ons with a provider instance, and their accounts, each with its event.
pub(crate) async fn delete_at(
    conn: &mut Conn,
    sealer: &dyn Sealer,
    provider: ProviderId,
    actor: &Actor,
) -> Result<(), Failure> {
    let at = auth_providers::table.filter(auth_providers::provider_id.eq(provider.0));
    let ids: Vec<i64> = at.order(auth_providers::id).select(auth_providers::id).load(conn).await?;
    for id in ids {
        delete(conn, sealer, AuthProviderId(id), actor).await?;
    }
    Ok(())
}

async fn delete(
    conn: &mut Conn,
    sealer: &dyn Sealer,
    id: AuthProviderId,
    actor: &Actor,
) -> Result<Option<u64>, Failure> {
    // Whoever links an account for it waits until it is gone.
    let Some(provider) = find_locked(conn, id).await? else { return Ok(None) };
    let count = auth_identities::delete_of(conn, sealer, &provider, actor).await?;
    diesel::delete(auth_providers::table.find(id.0)).execute(conn).await?;
    let kind = EventKind::AuthProviderDeleted;
    let mut event = NewEvent::of_auth_provider(kind, actor, Some(&provider), None);
    event.detail.insert("auth_identities".into(), json!(count));
    events::insert(conn, &event).await?;
    Ok(Some(count))
}

#[async_trait]
impl AuthProviderRepository for Store {
    async fn insert(
        &self,
        new: &NewAuthProvider,
        actor: &Actor,
    ) -> Result<AuthProvider, RepositoryError> {
        let created = in_transaction!(self, async |conn| {
            let row: Row = diesel::insert_into(auth_providers::table)
                .values((
                    auth_providers::organization_id.eq(new.organization_id.as_str()),
                    auth_providers::provider_id.eq(new.provider_id.0),
                    auth_providers::config.eq(Value::Object(new.config.clone())),
                    auth_providers::allow_unlinked.eq(new.allow_unlinked),
                    auth_providers::scim_enabled.eq(new.scim_enabled),
                    auth_providers::default_role.eq(new.default_role),
                    auth_providers::default_global_access.eq(new.default_global_access),
                    auth_providers::sync_time.eq(new.sync_time),
                    auth_providers::date_added.eq(now()),
                    auth_providers::version.eq(1),
                ))
                .returning(Row::as_returning())
                .get_result(conn)
                .await?;
            let created = AuthProvider::try_from(row)?;
            let kind = EventKind::AuthProviderCreated;
            let event = NewEvent::of_auth_provider(kind, actor, None, Some(&created));
            events::insert(conn, &event).await?;
            Ok(created)
        });
        Ok(created?)
    }

    async fn find(&self, id: AuthProviderId) -> Result<Option<AuthProvider>, RepositoryError> {
        Ok(find(&mut *self.reader().await?, id).await?)
    }

    async fn find_by_organization(
        &self,
        organization: &OrganizationId,
    ) -> Result<Option<AuthProvider>, RepositoryError> {
        let of = auth_providers::organization_id.eq(organization.as_str());
        let row = auth_providers::table.filter(of).select(Row::as_select());
        let conn = &mut *self.reader().await?;
        let row: Option<Row> = row.first(conn).await.optional().map_err(Failure::from)?;
        Ok(row.map(AuthProvider::try_from).transpose()?)
    }

    async fn list(
        &self,
        filter: &AuthProviderFilter,
        page: PageRequest,
    ) -> Result<Page<AuthProvider>, RepositoryError> {
        let mut query = auth_providers::table.select(Row::as_select()).into_boxed::<Db>();
        if let Some(organization) = &filter.organization_id {
            query = query.filter(auth_providers::organization_id.eq(organization.as_str()));
        }
        if let Some(provider) = filter.provider_id {
            query = query.filter(auth_providers::provider_id.eq(provider.0));
        }
        if let Some(after) = page.after {
            query = query.filter(auth_providers::id.gt(after));
        }
        let rows: Vec<Row> = query
            .order(auth_providers::id)
            .limit(i64::from(page.limit) + 1)
            .load(&mut *self.reader().await?)
            .await
            .map_err(Failure::from)?;
        let found = rows.into_iter().map(AuthProvider::try_from).collect::<Result<_, _>>()?;
        Ok(Page::cut(found, page.limit, |it: &AuthProvider| it.id.0))
    }

    async fn update(
        &self,
        update: &AuthProviderUpdate,
        actor: &Actor,
    ) -> Result<Option<AuthProvider>, RepositoryError> {
        let updated = in_transaction!(self, async |conn| {
            let before = find_locked(conn, update.id).await?;
            let Some(before) = before.filter(|it| it.version == update.version) else {
                return Ok(None);
            };
            let row: Row = diesel::update(auth_providers::table.find(update.id.0))
                .set((
                    auth_providers::config.eq(Value::Object(update.config.clone())),
                    auth_providers::allow_unlinked.eq(update.allow_unlinked),
                    auth_providers::scim_enabled.eq(update.scim_enabled),
                    auth_providers::default_role.eq(update.default_role),
                    auth_providers::default_global_access.eq(update.default_global_access),
                    auth_providers::sync_time.eq(update.sync_time),
                    auth_providers::last_sync.eq(update.last_sync.map(to_microseconds)),
                    auth_providers::version.eq(update.version + 1),
                ))
                .returning(Row::as_returning())
                .get_result(conn)
                .await?;
            let after = AuthProvider::try_from(row)?;
            let kind = EventKind::AuthProviderUpdated;
            let event = NewEvent::of_auth_provider(kind, actor, Some(&before), Some(&after));
            events::insert(conn, &event).await?;
            Ok(Some(after))
        });
        Ok(updated?)
    }

    async fn delete(
        &self,
        id: AuthProviderId,
        actor: &Actor,
    ) -> Result<Option<u64>, RepositoryError> {
        for _ in 0..RACES {
            let deleted = in_transaction!(self, async |conn| {
                delete(conn, &*self.sealer, id, actor).await
            });
            match deleted {
                // Somebody linked an account in between.
                Err(failure) if failure.is_race() => {}
                deleted => return Ok(deleted?),
            }
        }
        Err(Failure::Changed.into())
    }
}
