use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::{Value, json};
use symbolon_domain::{
    api_key::{ApiKey, KeyLimits, KeyScope},
    event::{Actor, EventKind, NewEvent},
    ids::ApiKeyId,
    page::{Page, PageRequest},
    ports::{ApiKeyRepository, RepositoryError},
    secret::SecretHash,
};

use super::{Conn, Db, Store, events, in_transaction, maybe_now, now, schema::api_keys};
use crate::{
    failure::Failure,
    values::{object, organization, parsed, texts},
};

#[derive(Queryable, Selectable)]
#[diesel(table_name = api_keys, check_for_backend(Db))]
pub(crate) struct Row {
    id: i64,
    name: String,
    scopes: Value,
    created_at: DateTime<Utc>,
    revoked_at: Option<DateTime<Utc>>,
    organizations: Option<Value>,
    provider_types: Option<Value>,
}

impl TryFrom<Row> for ApiKey {
    type Error = Failure;

    fn try_from(row: Row) -> Result<Self, Failure> {
        let scopes = texts(row.scopes)?;
        Ok(Self {
            id: ApiKeyId(row.id),
            name: row.name,
            scopes: scopes
                .iter()
                .map(|it| parsed(it, KeyScope::parse))
                .collect::<Result<_, _>>()?,
            created_at: row.created_at,
            limits: KeyLimits {
                organizations: row
                    .organizations
                    .map(texts)
                    .transpose()?
                    .map(|all| all.into_iter().map(organization).collect())
                    .transpose()?,
                provider_types: row.provider_types.map(texts).transpose()?,
            },
            revoked_at: row.revoked_at,
        })
    }
}

async fn log(
    conn: &mut Conn,
    about: EventKind,
    key: &ApiKey,
    actor: &Actor,
) -> Result<(), Failure> {
    let detail = object(json!({"api_key_id": key.id.0, "name": key.name}))?;
    let event = NewEvent { detail, ..NewEvent::new(about, actor) };
    Ok(events::insert(conn, &event).await?)
}

#[async_trait]
impl ApiKeyRepository for Store {
    async fn insert(
        &self,
        name: &str,
        scopes: &[KeyScope],
        limits: &KeyLimits,
        hash: &SecretHash,
        actor: &Actor,
    ) -> Result<ApiKey, RepositoryError> {
        let scopes: Vec<_> = scopes.iter().map(|it| it.as_str()).collect();
        let key = in_transaction!(self, async |conn| {
            let row: Row = diesel::insert_into(api_keys::table)
                .values((
                    api_keys::name.eq(name),
                    api_keys::scopes.eq(json!(scopes)),
                    api_keys::hash.eq(hash.0.as_slice()),
                    api_keys::created_at.eq(now()),
                    api_keys::organizations.eq(limits.organization_texts().map(|it| json!(it))),
                    api_keys::provider_types.eq(limits.provider_types.as_ref().map(|it| json!(it))),
                ))
                .returning(Row::as_returning())
                .get_result(conn)
                .await?;
            let key = ApiKey::try_from(row)?;
            log(conn, EventKind::ApiKeyCreated, &key, actor).await?;
            Ok(key)
        });
        Ok(key?)
    }

    async fn find_by_hash(&self, hash: &SecretHash) -> Result<Option<ApiKey>, RepositoryError> {
        let row = self.find_api_key(hash).await?;
        Ok(row.map(ApiKey::try_from).transpose()?)
    }

    async fn list(&self, page: PageRequest) -> Result<Page<ApiKey>, RepositoryError> {
        let rows: Vec<Row> = api_keys::table
            .filter(api_keys::id.gt(page.after.unwrap_or(0)))
            .order(api_keys::id)
            .limit(i64::from(page.limit) + 1)
            .select(Row::as_select())
            .load(&mut *self.reader().await?)
            .await
            .map_err(Failure::from)?;
        let keys = rows.into_iter().map(ApiKey::try_from).collect::<Result<_, _>>()?;
        Ok(Page::cut(keys, page.limit, |it: &ApiKey| it.id.0))
    }

    async fn revoke(&self, id: ApiKeyId, actor: &Actor) -> Result<Option<ApiKey>, RepositoryError> {
        let key = in_transaction!(self, async |conn| {
            let good = api_keys::table.find(id.0).filter(api_keys::revoked_at.is_null());
            let revoked: Option<Row> = diesel::update(good)
                .set(api_keys::revoked_at.eq(maybe_now()))
                .returning(Row::as_returning())
                .get_result(conn)
                .await
                .optional()?;
            if let Some(row) = revoked {
                let key = ApiKey::try_from(row)?;
                log(conn, EventKind::ApiKeyRevoked, &key, actor).await?;
                return Ok(Some(key));
            }
            let row = api_keys::table.find(id.0).select(Row::as_select());
            let row: Option<Row> = row.first(conn).await.optional()?;
            row.map(ApiKey::try_from).transpose()
        });
        Ok(key?)
    }
}
