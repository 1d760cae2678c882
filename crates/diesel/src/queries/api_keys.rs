use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::{Value, json};
use symbolon_domain::{
    api_key::{ApiKey, KeyLimits, KeyScope, UserPattern},
    event::{Actor, EventKind, NewEvent},
    ids::{ApiKeyId, ProviderId},
    page::{Page, PageRequest},
    ports::{ApiKeyRepository, RepositoryError},
    secret::SecretHash,
};

use super::{Db, Store, events, in_transaction, maybe_now, now, schema::api_keys};
use crate::{
    failure::Failure,
    values::{organization, parsed, texts},
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
    providers: Option<Value>,
    token_scopes: Option<Value>,
    users: Option<Value>,
}

/// A whole row, of an import.
#[derive(Insertable)]
#[diesel(table_name = api_keys, check_for_backend(Db))]
pub(crate) struct KeptRow {
    id: i64,
    name: String,
    scopes: Value,
    hash: Vec<u8>,
    created_at: DateTime<Utc>,
    revoked_at: Option<DateTime<Utc>>,
    organizations: Option<Value>,
    provider_types: Option<Value>,
    providers: Option<Value>,
    token_scopes: Option<Value>,
    users: Option<Value>,
}

impl KeptRow {
    /// The row of a key, under this id.
    pub(crate) fn new(key: &ApiKey, id: i64, hash: SecretHash) -> Self {
        Self {
            id,
            name: key.name.clone(),
            scopes: json!(key.scopes.iter().map(|it| it.as_str()).collect::<Vec<_>>()),
            hash: hash.0.to_vec(),
            created_at: super::to_microseconds(key.created_at),
            revoked_at: key.revoked_at.map(super::to_microseconds),
            organizations: key.limits.organization_texts().map(|it| json!(it)),
            provider_types: key.limits.provider_types.as_ref().map(|it| json!(it)),
            providers: key.limits.provider_numbers().map(|it| json!(it)),
            token_scopes: key.limits.token_scopes.as_ref().map(|it| json!(it)),
            users: key.limits.user_texts().map(|it| json!(it)),
        }
    }
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
                providers: row.providers.map(providers).transpose()?,
                token_scopes: row.token_scopes.map(texts).transpose()?,
                users: row
                    .users
                    .map(texts)
                    .transpose()?
                    .map(|all| all.into_iter().map(user_pattern).collect())
                    .transpose()?,
            },
            revoked_at: row.revoked_at,
        })
    }
}

fn providers(value: Value) -> Result<Vec<ProviderId>, Failure> {
    let ids: Vec<i64> = serde_json::from_value(value)
        .map_err(|_| Failure::unreadable("a JSON column holds no list of ids"))?;
    Ok(ids.into_iter().map(ProviderId).collect())
}

fn user_pattern(text: String) -> Result<UserPattern, Failure> {
    UserPattern::new(text).map_err(|error| Failure::unreadable(error.to_string()))
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
                    api_keys::providers.eq(limits.provider_numbers().map(|it| json!(it))),
                    api_keys::token_scopes.eq(limits.token_scopes.as_ref().map(|it| json!(it))),
                    api_keys::users.eq(limits.user_texts().map(|it| json!(it))),
                ))
                .returning(Row::as_returning())
                .get_result(conn)
                .await?;
            let key = ApiKey::try_from(row)?;
            let kind = EventKind::ApiKeyCreated;
            events::insert(conn, &NewEvent::of_api_key(kind, actor, None, Some(&key))).await?;
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
                let before = ApiKey { revoked_at: None, ..key.clone() };
                let kind = EventKind::ApiKeyRevoked;
                let event = NewEvent::of_api_key(kind, actor, Some(&before), Some(&key));
                events::insert(conn, &event).await?;
                return Ok(Some(key));
            }
            let row = api_keys::table.find(id.0).select(Row::as_select());
            let row: Option<Row> = row.first(conn).await.optional()?;
            row.map(ApiKey::try_from).transpose()
        });
        Ok(key?)
    }
}
