use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use symbolon_domain::{
    event::Actor,
    freeze::{Freeze, FreezeSubject},
    ids::{ApiKeyId, FreezeId, IdentityId, ProviderId},
    page::{Page, PageRequest},
    ports::{RepositoryError, Vendable, VendingRepository},
};

use super::{
    Conn, Db, RACES, Store, credentials, events, in_transaction, now,
    schema::{api_keys, freezes, identity_providers, organization_identities},
};
use crate::{
    failure::Failure,
    values::{actor, organization, user},
};

#[derive(Queryable, Selectable)]
#[diesel(table_name = freezes, check_for_backend(Db))]
pub(crate) struct Row {
    id: i64,
    api_key_id: Option<i64>,
    provider_id: Option<i64>,
    organization_id: Option<String>,
    actor: String,
    acting_user: Option<String>,
    reason: Option<String>,
    frozen_at: DateTime<Utc>,
}

impl TryFrom<Row> for Freeze {
    type Error = Failure;

    fn try_from(row: Row) -> Result<Self, Failure> {
        let subject = match (row.api_key_id, row.provider_id, row.organization_id) {
            (Some(id), None, None) => FreezeSubject::Key(ApiKeyId(id)),
            (None, Some(id), None) => FreezeSubject::Provider(ProviderId(id)),
            (None, None, Some(id)) => FreezeSubject::Organization(organization(id)?),
            _ => return Err(Failure::unreadable("a freeze names not exactly one thing")),
        };
        Ok(Self {
            id: FreezeId(row.id),
            subject,
            by: actor(&row.actor, row.acting_user, row.reason)?,
            frozen_at: row.frozen_at,
        })
    }
}

/// What the token path reads: credentials, user, type, and whether something is frozen.
pub(crate) type VendableRow = (credentials::Row, String, Option<String>, bool);

/// The token path's one read: an identity by id, and for this key whether a freeze stands against
/// it. Each condition is a look into a unique index, and none has a `LIMIT`; the text of the
/// statement is always the same, so that it stays prepared.
macro_rules! vendable {
    ($id:expr, $key:expr) => {{
        use diesel::dsl::exists;

        use self::schema::{freezes, identities, organization_identities};

        let of_key = freezes::table.filter(freezes::api_key_id.eq($key));
        let of_provider =
            freezes::table.filter(freezes::provider_id.eq(identities::idp_id.nullable()));
        let of_organization = freezes::table.filter(
            freezes::organization_id.eq(organization_identities::organization_id.nullable()),
        );
        let of_organizations = organization_identities::table
            .filter(organization_identities::identity_id.eq(identities::id))
            .filter(exists(of_organization));
        identities::table.find($id).select((
            credentials::Row::as_select(),
            identities::user_id,
            identities::idp_type,
            exists(of_key).or(exists(of_provider)).or(exists(of_organizations)),
        ))
    }};
}
pub(crate) use vendable;

/// The row of what is frozen.
macro_rules! of {
    ($subject:expr) => {{
        let query = freezes::table.into_boxed::<Db>();
        match $subject {
            FreezeSubject::Key(id) => query.filter(freezes::api_key_id.eq(id.0)),
            FreezeSubject::Provider(id) => query.filter(freezes::provider_id.eq(id.0)),
            FreezeSubject::Organization(id) => {
                query.filter(freezes::organization_id.eq(id.as_str().to_owned()))
            }
        }
    }};
}

async fn find(conn: &mut Conn, subject: &FreezeSubject) -> Result<Option<Freeze>, Failure> {
    let row: Option<Row> = of!(subject).select(Row::as_select()).first(conn).await.optional()?;
    row.map(Freeze::try_from).transpose()
}

/// What stands against it, the key's first; `None` when it was lifted meanwhile.
async fn find_against(
    conn: &mut Conn,
    id: IdentityId,
    provider: ProviderId,
    key: Option<ApiKeyId>,
) -> Result<Option<Freeze>, Failure> {
    if let Some(key) = key
        && let Some(freeze) = find(conn, &FreezeSubject::Key(key)).await?
    {
        return Ok(Some(freeze));
    }
    if let Some(freeze) = find(conn, &FreezeSubject::Provider(provider)).await? {
        return Ok(Some(freeze));
    }
    let organizations = organization_identities::table
        .filter(organization_identities::identity_id.eq(id.0))
        .select(organization_identities::organization_id.nullable());
    let row: Option<Row> = freezes::table
        .filter(freezes::organization_id.eq_any(organizations))
        .order(freezes::id)
        .select(Row::as_select())
        .first(conn)
        .await
        .optional()?;
    row.map(Freeze::try_from).transpose()
}

/// Whether there is such a thing to freeze.
async fn is_there(conn: &mut Conn, subject: &FreezeSubject) -> QueryResult<bool> {
    let there: Option<i64> = match subject {
        FreezeSubject::Key(id) => {
            api_keys::table.find(id.0).select(api_keys::id).first(conn).await.optional()?
        }
        FreezeSubject::Provider(id) => {
            let provider = identity_providers::table.find(id.0).select(identity_providers::id);
            provider.first(conn).await.optional()?
        }
        FreezeSubject::Organization(_) => return Ok(true),
    };
    Ok(there.is_some())
}

async fn freeze(
    conn: &mut Conn,
    subject: &FreezeSubject,
    actor: &Actor,
) -> Result<(Freeze, bool), Failure> {
    if !is_there(conn, subject).await? {
        return Err(diesel::result::Error::NotFound.into());
    }
    let (key, provider, organization) = match subject {
        FreezeSubject::Key(id) => (Some(id.0), None, None),
        FreezeSubject::Provider(id) => (None, Some(id.0), None),
        FreezeSubject::Organization(id) => (None, None, Some(id.as_str())),
    };
    let row: Option<Row> = diesel::insert_into(freezes::table)
        .values((
            freezes::api_key_id.eq(key),
            freezes::provider_id.eq(provider),
            freezes::organization_id.eq(organization),
            freezes::actor.eq(actor.who.to_string()),
            freezes::acting_user
                .eq(actor.acting_user.as_ref().map(symbolon_domain::ids::UserId::as_str)),
            freezes::reason.eq(actor.reason.as_deref()),
            freezes::frozen_at.eq(now()),
        ))
        .on_conflict_do_nothing()
        .returning(Row::as_returning())
        .get_result(conn)
        .await
        .optional()?;
    if let Some(row) = row {
        let freeze = Freeze::try_from(row)?;
        events::insert(conn, &freeze.begun()).await?;
        return Ok((freeze, true));
    }
    // Between the two statements somebody may have lifted it: look again.
    Ok((find(conn, subject).await?.ok_or(Failure::Changed)?, false))
}

#[async_trait]
impl VendingRepository for Store {
    async fn find_vendable(
        &self,
        id: IdentityId,
        key: Option<ApiKeyId>,
    ) -> Result<Option<Vendable>, RepositoryError> {
        let Some((row, user_id, provider_type, is_frozen)) =
            self.find_vendable_row(id, key).await?
        else {
            return Ok(None);
        };
        let credentials = row.open(&*self.sealer)?;
        let frozen = if is_frozen {
            let conn = &mut *self.reader().await?;
            find_against(conn, id, credentials.provider_id, key).await?
        } else {
            None
        };
        let provider_type = provider_type
            .ok_or_else(|| Failure::unreadable("an identity without its provider's type"))?;
        Ok(Some(Vendable { credentials, user_id: user(user_id)?, provider_type, frozen }))
    }

    async fn freeze(
        &self,
        subject: &FreezeSubject,
        actor: &Actor,
    ) -> Result<(Freeze, bool), RepositoryError> {
        for _ in 0..RACES {
            let frozen = in_transaction!(self, async |conn| freeze(conn, subject, actor).await);
            match frozen {
                Err(failure) if failure.is_race() => {}
                frozen => return Ok(frozen?),
            }
        }
        Err(Failure::Changed.into())
    }

    async fn unfreeze(
        &self,
        subject: &FreezeSubject,
        actor: &Actor,
    ) -> Result<Option<Freeze>, RepositoryError> {
        let lifted = in_transaction!(self, async |conn| {
            let Some(there) = find(conn, subject).await? else { return Ok(None) };
            let row: Option<Row> = diesel::delete(freezes::table.find(there.id.0))
                .returning(Row::as_returning())
                .get_result(conn)
                .await
                .optional()?;
            // Somebody else was first, and has told of it.
            let Some(row) = row else { return Ok(None) };
            let freeze = Freeze::try_from(row)?;
            events::insert(conn, &freeze.lifted(actor)).await?;
            Ok(Some(freeze))
        });
        Ok(lifted?)
    }

    async fn find_freeze_of_key(&self, key: ApiKeyId) -> Result<Option<Freeze>, RepositoryError> {
        Ok(find(&mut *self.reader().await?, &FreezeSubject::Key(key)).await?)
    }

    async fn list_freezes(&self, page: PageRequest) -> Result<Page<Freeze>, RepositoryError> {
        let rows: Vec<Row> = freezes::table
            .filter(freezes::id.gt(page.after.unwrap_or(0)))
            .order(freezes::id)
            .limit(i64::from(page.limit) + 1)
            .select(Row::as_select())
            .load(&mut *self.reader().await?)
            .await
            .map_err(Failure::from)?;
        let freezes = rows.into_iter().map(Freeze::try_from).collect::<Result<_, _>>()?;
        Ok(Page::cut(freezes, page.limit, |it: &Freeze| it.id.0))
    }
}
