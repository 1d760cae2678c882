use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use symbolon_domain::{
    event::{Actor, EventKind, NewEvent},
    identity::Identity,
    ids::{IdentityId, OrganizationId, OrganizationIdentityId},
    organization_identity::OrganizationIdentity,
    page::{Page, PageRequest},
    ports::{OrganizationIdentityFilter, OrganizationIdentityRepository, RepositoryError},
};

use super::{
    Conn, Db, RACES, Store, events,
    identity_row::Shown,
    in_transaction, locked, now,
    schema::{identities, organization_identities},
};
use crate::{failure::Failure, values::organization};

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = organization_identities, check_for_backend(Db))]
pub(crate) struct Row {
    id: i64,
    organization_id: String,
    identity_id: i64,
    date_added: DateTime<Utc>,
}

impl From<&OrganizationIdentity> for Row {
    fn from(it: &OrganizationIdentity) -> Self {
        Self {
            id: it.id.0,
            organization_id: it.organization_id.as_str().to_owned(),
            identity_id: it.identity_id.0,
            date_added: super::to_microseconds(it.date_added),
        }
    }
}

impl TryFrom<Row> for OrganizationIdentity {
    type Error = Failure;

    fn try_from(row: Row) -> Result<Self, Failure> {
        Ok(Self {
            id: OrganizationIdentityId(row.id),
            organization_id: organization(row.organization_id)?,
            identity_id: IdentityId(row.identity_id),
            date_added: row.date_added,
        })
    }
}

/// Lets an organization use an identity that is there; true when it did not before.
pub(crate) async fn attach(
    conn: &mut Conn,
    organization: &OrganizationId,
    identity: &Identity,
    actor: &Actor,
) -> Result<(OrganizationIdentity, bool), Failure> {
    let made: Option<Row> = diesel::insert_into(organization_identities::table)
        .values((
            organization_identities::organization_id.eq(organization.as_str()),
            organization_identities::identity_id.eq(identity.id.0),
            organization_identities::date_added.eq(now()),
        ))
        .on_conflict((
            organization_identities::organization_id,
            organization_identities::identity_id,
        ))
        .do_nothing()
        .returning(Row::as_returning())
        .get_result(conn)
        .await
        .optional()?;
    if let Some(row) = made {
        let made = OrganizationIdentity::try_from(row)?;
        let kind = EventKind::OrganizationIdentityLinked;
        let event = NewEvent::of_organization_identity(kind, actor, &made, identity);
        events::insert(conn, &event).await?;
        return Ok((made, true));
    }
    let there = organization_identities::table
        .filter(organization_identities::organization_id.eq(organization.as_str()))
        .filter(organization_identities::identity_id.eq(identity.id.0))
        .select(Row::as_select());
    // Between the two statements somebody may have ended it: look again.
    let row: Option<Row> = there.first(conn).await.optional()?;
    Ok((row.ok_or(Failure::Changed)?.try_into()?, false))
}

/// Ends every use of an identity whose row is locked, as it is about to go.
pub(crate) async fn delete_of(
    conn: &mut Conn,
    identity: &Identity,
    actor: &Actor,
) -> Result<(), Failure> {
    let of = organization_identities::identity_id.eq(identity.id.0);
    let rows: Vec<Row> = diesel::delete(organization_identities::table.filter(of))
        .returning(Row::as_returning())
        .get_results(conn)
        .await?;
    for row in rows {
        let kind = EventKind::OrganizationIdentityUnlinked;
        let gone = row.try_into()?;
        let event = NewEvent::of_organization_identity(kind, actor, &gone, identity);
        events::insert(conn, &event).await?;
    }
    Ok(())
}

async fn find_identity(conn: &mut Conn, id: IdentityId) -> Result<Option<Identity>, Failure> {
    let row = identities::table.find(id.0).select(Shown::as_select());
    let row: Option<Shown> = locked!(row).first(conn).await.optional()?;
    row.map(Identity::try_from).transpose()
}

/// The query of a list; its plan is what the tests look at.
pub(crate) fn list_query(filter: &OrganizationIdentityFilter, page: PageRequest) -> Listed<'_> {
    let mut query = organization_identities::table.select(Row::as_select()).into_boxed::<Db>();
    if let Some(of) = &filter.organization_id {
        query = query.filter(organization_identities::organization_id.eq(of.as_str()));
    }
    if let Some(id) = filter.identity_id {
        query = query.filter(organization_identities::identity_id.eq(id.0));
    }
    if let Some(types) = &filter.provider_types {
        let at = identities::table.filter(identities::idp_type.eq_any(types));
        let at = at.select(identities::id);
        query = query.filter(organization_identities::identity_id.eq_any(at));
    }
    if let Some(after) = page.after {
        query = query.filter(organization_identities::id.gt(after));
    }
    query.order(organization_identities::id).limit(i64::from(page.limit) + 1)
}

type Listed<'a> = organization_identities::BoxedQuery<
    'a,
    Db,
    diesel::dsl::SqlTypeOf<diesel::dsl::AsSelect<Row, Db>>,
>;

#[async_trait]
impl OrganizationIdentityRepository for Store {
    async fn attach(
        &self,
        organization: &OrganizationId,
        identity: IdentityId,
        actor: &Actor,
    ) -> Result<(OrganizationIdentity, bool), RepositoryError> {
        for _ in 0..RACES {
            let attached = in_transaction!(self, async |conn| {
                let Some(identity) = find_identity(conn, identity).await? else {
                    return Err(diesel::result::Error::NotFound.into());
                };
                attach(conn, organization, &identity, actor).await
            });
            match attached {
                Err(failure) if failure.is_race() => {}
                attached => return Ok(attached?),
            }
        }
        Err(Failure::Changed.into())
    }

    async fn detach(
        &self,
        organization: &OrganizationId,
        identity: IdentityId,
        actor: &Actor,
    ) -> Result<bool, RepositoryError> {
        let detached = in_transaction!(self, async |conn| {
            let Some(identity) = find_identity(conn, identity).await? else { return Ok(false) };
            let meant = organization_identities::table
                .filter(organization_identities::organization_id.eq(organization.as_str()))
                .filter(organization_identities::identity_id.eq(identity.id.0));
            let row: Option<Row> = diesel::delete(meant)
                .returning(Row::as_returning())
                .get_result(conn)
                .await
                .optional()?;
            let Some(row) = row else { return Ok(false) };
            let kind = EventKind::OrganizationIdentityUnlinked;
            let gone = row.try_into()?;
            let event = NewEvent::of_organization_identity(kind, actor, &gone, &identity);
            events::insert(conn, &event).await?;
            Ok(true)
        });
        Ok(detached?)
    }

    async fn list(
        &self,
        filter: &OrganizationIdentityFilter,
        page: PageRequest,
    ) -> Result<Page<OrganizationIdentity>, RepositoryError> {
        let conn = &mut *self.reader().await?;
        let rows: Vec<Row> = list_query(filter, page).load(conn).await.map_err(Failure::from)?;
        let found =
            rows.into_iter().map(OrganizationIdentity::try_from).collect::<Result<_, _>>()?;
        Ok(Page::cut(found, page.limit, |it: &OrganizationIdentity| it.id.0))
    }
}
