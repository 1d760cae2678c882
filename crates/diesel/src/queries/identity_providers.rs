use std::collections::BTreeSet;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::{Map, Value, json};
use symbolon_domain::{
    event::{Actor, EventKind, NewEvent},
    identity_provider::{IdentityProvider, ProviderOptions, ProviderSecrets},
    ids::ProviderId,
    page::{Page, PageRequest},
    ports::{
        AuthorityUpdate, IdentityProviderRepository, NewIdentityProvider, Place, ProviderDeletion,
        ProviderFilter, ProviderUpdate, RepositoryError, Sealer,
    },
    secret::Secret,
};
use zeroize::Zeroizing;

use super::{
    Conn, Db, Store, auth_providers, device_links, events, identities, in_transaction,
    link_sessions, locked, now, revocations, schema, shared,
};
use crate::{
    failure::Failure,
    values::{object, texts},
};
use schema::identity_providers as table;

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = table, check_for_backend(Db))]
pub(crate) struct Row {
    id: i64,
    provider_type: String,
    external_id: Option<String>,
    config: Value,
    secret_names: Value,
    secrets: Option<Vec<u8>>,
    login: bool,
    multiple_accounts: bool,
    names_issuer: bool,
    date_added: DateTime<Utc>,
    version: i64,
}

impl Row {
    /// The whole row of an import.
    pub(crate) fn new(
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
        sealer: &dyn Sealer,
    ) -> Result<Self, Failure> {
        let (id, version) = (provider.id.0, provider.version);
        Ok(Self {
            id,
            provider_type: provider.provider_type.clone(),
            external_id: provider.external_id.clone(),
            config: Value::Object(provider.config.clone()),
            secret_names: json!(provider.secret_names),
            secrets: seal(sealer, id, version, secrets)?,
            login: provider.options.login,
            multiple_accounts: provider.options.multiple_accounts,
            names_issuer: provider.names_issuer,
            date_added: super::to_microseconds(provider.date_added),
            version,
        })
    }
}

impl TryFrom<Row> for IdentityProvider {
    type Error = Failure;

    fn try_from(row: Row) -> Result<Self, Failure> {
        Ok(Self {
            id: ProviderId(row.id),
            provider_type: row.provider_type,
            external_id: row.external_id,
            config: object(row.config)?,
            secret_names: texts(row.secret_names)?,
            options: ProviderOptions { login: row.login, multiple_accounts: row.multiple_accounts },
            names_issuer: row.names_issuer,
            date_added: row.date_added,
            version: row.version,
        })
    }
}

fn place(id: i64, version: i64) -> Place {
    Place { table: "identity_providers", row: id, idp: id, generation: version }
}

fn seal(
    sealer: &dyn Sealer,
    id: i64,
    version: i64,
    secrets: &ProviderSecrets,
) -> Result<Option<Vec<u8>>, Failure> {
    if secrets.is_empty() {
        return Ok(None);
    }
    let plain: std::collections::BTreeMap<_, _> =
        secrets.iter().map(|(name, secret)| (name, secret.expose())).collect();
    let plain = Zeroizing::new(
        serde_json::to_vec(&plain).map_err(|error| Failure::unreadable(error.to_string()))?,
    );
    let place = place(id, version);
    sealer.seal(&place, &plain).map(Some).map_err(|error| Failure::sealed(&place, &error))
}

pub(crate) fn open(sealer: &dyn Sealer, row: &Row) -> Result<ProviderSecrets, Failure> {
    let Some(kept) = &row.secrets else { return Ok(ProviderSecrets::new()) };
    let place = place(row.id, row.version);
    let plain = sealer.open(&place, kept).map_err(|error| Failure::sealed(&place, &error))?;
    let plain: std::collections::BTreeMap<String, Zeroizing<String>> =
        serde_json::from_slice(&plain)
            .map_err(|_| Failure::unreadable("an opened value holds no secrets"))?;
    Ok(plain.into_iter().map(|(name, value)| (name, Secret::new(value.as_str()))).collect())
}

async fn find(conn: &mut Conn, id: ProviderId) -> QueryResult<Option<Row>> {
    table::table.find(id.0).select(Row::as_select()).first(conn).await.optional()
}

/// Whether a user may have several accounts at this provider; `None` when there is no such
/// provider. Locked, so that it stays so until the transaction ends.
pub(crate) async fn allows_several(conn: &mut Conn, id: ProviderId) -> QueryResult<Option<bool>> {
    let query = table::table.find(id.0).select(table::multiple_accounts);
    shared!(query).first(conn).await.optional()
}

async fn log(
    conn: &mut Conn,
    about: EventKind,
    actor: &Actor,
    before: Option<&IdentityProvider>,
    after: Option<&IdentityProvider>,
    detail: Value,
) -> Result<(), Failure> {
    let event = NewEvent::of_provider(about, actor, before, after);
    Ok(events::insert(conn, &NewEvent { detail: object(detail)?, ..event }).await?)
}

fn changed(
    row: &Row,
    secrets: &ProviderSecrets,
    config: &Map<String, Value>,
    now: &ProviderSecrets,
) -> BTreeSet<String> {
    let empty = Map::new();
    let before = row.config.as_object().unwrap_or(&empty);
    let values = before.keys().chain(config.keys()).filter(|it| before.get(*it) != config.get(*it));
    let hidden = secrets.keys().chain(now.keys()).filter(|it| secrets.get(*it) != now.get(*it));
    values.chain(hidden).cloned().collect()
}

/// Replaces what `before` holds where its version is still the same, and writes the event.
async fn replace(
    conn: &mut Conn,
    sealer: &dyn Sealer,
    before: Row,
    update: &ProviderUpdate,
    actor: &Actor,
) -> Result<Option<IdentityProvider>, Failure> {
    let ProviderUpdate { id, version, config, secrets, options } = update;
    // What does not open can be replaced: otherwise a lost key could not be mended.
    let kept = open(sealer, &before).unwrap_or_default();
    let changed = changed(&before, &kept, config, secrets);
    let kept_secrets = seal(sealer, id.0, version + 1, secrets)?;
    let names: Vec<_> = secrets.keys().collect();
    let row = table::table.find(id.0).filter(table::version.eq(version));
    let row: Option<Row> = diesel::update(row)
        .set((
            table::config.eq(Value::Object(config.clone())),
            table::secret_names.eq(json!(names)),
            table::secrets.eq(kept_secrets),
            table::login.eq(options.login),
            table::multiple_accounts.eq(options.multiple_accounts),
            table::version.eq(version + 1),
        ))
        .returning(Row::as_returning())
        .get_result(conn)
        .await
        .optional()?;
    let Some(row) = row else { return Ok(None) };
    let (before, after) = (before.try_into()?, row.try_into()?);
    let (kind, detail) = (EventKind::ProviderUpdated, json!({ "changed": changed }));
    log(conn, kind, actor, Some(&before), Some(&after), detail).await?;
    Ok(Some(after))
}

#[async_trait]
impl IdentityProviderRepository for Store {
    async fn insert(
        &self,
        provider: &NewIdentityProvider,
        actor: &Actor,
    ) -> Result<IdentityProvider, RepositoryError> {
        let names: Vec<_> = provider.secrets.keys().collect();
        let created = in_transaction!(self, async |conn| {
            let row: Row = diesel::insert_into(table::table)
                .values((
                    table::provider_type.eq(&provider.provider_type),
                    table::external_id.eq(&provider.external_id),
                    table::config.eq(Value::Object(provider.config.clone())),
                    table::secret_names.eq(json!(names)),
                    table::login.eq(provider.options.login),
                    table::multiple_accounts.eq(provider.options.multiple_accounts),
                    table::names_issuer.eq(false),
                    table::date_added.eq(now()),
                    table::version.eq(1),
                ))
                .returning(Row::as_returning())
                .get_result(conn)
                .await?;
            // The row's id is part of what the secrets are bound to.
            let secrets = seal(&*self.sealer, row.id, 1, &provider.secrets)?;
            diesel::update(table::table.find(row.id))
                .set(table::secrets.eq(secrets))
                .execute(conn)
                .await?;
            let created = IdentityProvider::try_from(row)?;
            let kind = EventKind::ProviderCreated;
            log(conn, kind, actor, None, Some(&created), json!({})).await?;
            Ok(created)
        });
        Ok(created?)
    }

    async fn find(&self, id: ProviderId) -> Result<Option<IdentityProvider>, RepositoryError> {
        let row = find(&mut *self.reader().await?, id).await.map_err(Failure::from)?;
        Ok(row.map(IdentityProvider::try_from).transpose()?)
    }

    async fn find_by_key<'a>(
        &self,
        provider_type: &str,
        external_id: Option<&'a str>,
    ) -> Result<Option<IdentityProvider>, RepositoryError> {
        let mut query = table::table
            .filter(table::provider_type.eq(provider_type))
            .select(Row::as_select())
            .into_boxed::<Db>();
        query = match external_id {
            Some(external_id) => query.filter(table::external_id.eq(external_id)),
            None => query.filter(table::external_id.is_null()),
        };
        let row: Option<Row> =
            query.first(&mut *self.reader().await?).await.optional().map_err(Failure::from)?;
        Ok(row.map(IdentityProvider::try_from).transpose()?)
    }

    async fn find_with_secrets(
        &self,
        id: ProviderId,
    ) -> Result<Option<(IdentityProvider, ProviderSecrets)>, RepositoryError> {
        let row = find(&mut *self.reader().await?, id).await.map_err(Failure::from)?;
        let Some(row) = row else { return Ok(None) };
        let secrets = open(&*self.sealer, &row)?;
        Ok(Some((row.try_into()?, secrets)))
    }

    async fn list(
        &self,
        filter: &ProviderFilter,
        page: PageRequest,
    ) -> Result<Page<IdentityProvider>, RepositoryError> {
        let mut query = table::table.select(Row::as_select()).into_boxed::<Db>();
        if let Some(provider_type) = &filter.provider_type {
            query = query.filter(table::provider_type.eq(provider_type));
        }
        if let Some(external_id) = &filter.external_id {
            query = query.filter(table::external_id.eq(external_id));
        }
        if let Some(types) = &filter.provider_types {
            query = query.filter(table::provider_type.eq_any(types));
        }
        if filter.without_external_id {
            query = query.filter(table::external_id.is_null());
        }
        if let Some(after) = page.after {
            query = query.filter(table::id.gt(after));
        }
        let rows: Vec<Row> = query
            .order(table::id)
            .limit(i64::from(page.limit) + 1)
            .load(&mut *self.reader().await?)
            .await
            .map_err(Failure::from)?;
        let providers =
            rows.into_iter().map(IdentityProvider::try_from).collect::<Result<_, _>>()?;
        Ok(Page::cut(providers, page.limit, |it: &IdentityProvider| it.id.0))
    }

    async fn update(
        &self,
        update: &ProviderUpdate,
        actor: &Actor,
    ) -> Result<Option<IdentityProvider>, RepositoryError> {
        let ProviderUpdate { id, version, .. } = update;
        let updated = in_transaction!(self, async |conn| {
            let Some(before) = find(conn, *id).await?.filter(|it| it.version == *version) else {
                return Ok(None);
            };
            replace(conn, &*self.sealer, before, update, actor).await
        });
        Ok(updated?)
    }

    async fn update_authority(
        &self,
        update: &ProviderUpdate,
        actor: &Actor,
    ) -> Result<AuthorityUpdate, RepositoryError> {
        let ProviderUpdate { id, version, .. } = update;
        for _ in 0..super::RACES {
            let updated = in_transaction!(self, async |conn| {
                // The lock keeps links out that would bring an identity in between.
                let query = table::table.find(id.0).select(Row::as_select());
                let before: Option<Row> = locked!(query).first(conn).await.optional()?;
                let Some(before) = before.filter(|it| it.version == *version) else {
                    return Ok(AuthorityUpdate::Absent);
                };
                let count = identities::count_at(conn, *id).await?;
                if count > 0 {
                    return Ok(AuthorityUpdate::InUse(count));
                }
                link_sessions::expire_sent_to(conn, *id).await?;
                device_links::expire_of(conn, *id).await?;
                diesel::update(table::table.find(id.0))
                    .set(table::names_issuer.eq(false))
                    .execute(conn)
                    .await?;
                let updated = replace(conn, &*self.sealer, before, update, actor).await?;
                Ok(updated.map_or(AuthorityUpdate::Absent, AuthorityUpdate::Updated))
            });
            match updated {
                // A session of it was being completed.
                Err(failure) if failure.is_race() => {}
                updated => return Ok(updated?),
            }
        }
        Err(Failure::Changed.into())
    }

    async fn record_issuer_named(&self, id: ProviderId) -> Result<(), RepositoryError> {
        diesel::update(table::table.find(id.0))
            .set(table::names_issuer.eq(true))
            .execute(&mut *self.writer().await?)
            .await
            .map_err(Failure::from)?;
        Ok(())
    }

    async fn delete(
        &self,
        id: ProviderId,
        cascade: bool,
        actor: &Actor,
    ) -> Result<ProviderDeletion, RepositoryError> {
        for _ in 0..super::RACES {
            let done = in_transaction!(self, async |conn| {
                // Locked before its identities are, in the order that a link takes them.
                let query = table::table.find(id.0).select(Row::as_select());
                let row: Option<Row> = locked!(query).first(conn).await.optional()?;
                let Some(row) = row else { return Ok(ProviderDeletion::Absent) };
                // What does not open must not stand in the way: its grants go unrevoked, and are
                // told of.
                let secrets = open(&*self.sealer, &row).ok();
                let provider = IdentityProvider::try_from(row)?;
                if !cascade {
                    let count = identities::count_at(conn, id).await?
                        + auth_providers::count_at(conn, id).await?;
                    if count > 0 {
                        return Ok(ProviderDeletion::InUse(count));
                    }
                }
                auth_providers::delete_at(conn, &*self.sealer, id, actor).await?;
                let count = identities::delete_at(conn, &*self.sealer, id, actor).await?;
                revocations::keep_provider(conn, &*self.sealer, &provider, secrets).await?;
                diesel::delete(table::table.find(id.0)).execute(conn).await?;
                let (kind, detail) = (EventKind::ProviderDeleted, json!({ "identities": count }));
                log(conn, kind, actor, Some(&provider), None, detail).await?;
                Ok(ProviderDeletion::Deleted(count))
            });
            match done {
                // Somebody linked an account in between.
                Err(failure) if failure.is_race() => {}
                done => return Ok(done?),
            }
        }
        Err(Failure::Changed.into())
    }
}
