use std::collections::BTreeSet;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::{Value, json};
use symbolon_domain::{
    disconnection::{Disconnection, Guard, WaysIn},
    event::{Actor, EventKind, NewEvent},
    identity::{Identity, IdentityFilter},
    ids::{ExternalId, IdentityId, OrganizationId, ProviderId, UserId},
    page::{Page, PageRequest},
    ports::{
        DataOutcome, DataUpdate, IdentityRepository, Link, LinkOutcome, LinkOwner, RepositoryError,
        Sealer, Taken, Unlink, UnlinkOutcome,
    },
    revocation::is_orphaned_by,
};

use super::{
    Conn, Db, RACES, Store, device_links, events,
    identity_providers::allows_several,
    identity_row::{Row, Shown},
    in_transaction, link_sessions, locked, logouts, organization_identities as organization_uses,
    revocations, ring,
    schema::{identities, identity_providers, organization_identities},
    time,
};
use crate::{failure::Failure, values};

/// Writes a row back as a whole; it was read under its lock.
pub(crate) async fn save(conn: &mut Conn, row: &Row) -> Result<(), Failure> {
    let written = diesel::update(identities::table.find(row.id)).set(row).execute(conn).await?;
    if written == 0 { Err(Failure::Changed) } else { Ok(ring(conn, row.id).await?) }
}

/// Writes the event of an identity's change.
pub(crate) async fn log(
    conn: &mut Conn,
    about: EventKind,
    actor: &Actor,
    before: Option<&Identity>,
    after: Option<&Identity>,
) -> Result<(), Failure> {
    Ok(events::insert(conn, &NewEvent::of_identity(about, actor, before, after)).await?)
}

/// How many identities a provider has.
pub(crate) async fn count_at(conn: &mut Conn, provider: ProviderId) -> Result<u64, Failure> {
    let at = identities::table.filter(identities::idp_id.eq(provider.0));
    let count: i64 = at.count().get_result(conn).await?;
    Ok(u64::try_from(count).unwrap_or(0))
}

/// Deletes a provider's identities, each with its event, and queues their grants.
pub(crate) async fn delete_at(
    conn: &mut Conn,
    sealer: &dyn Sealer,
    provider: ProviderId,
    actor: &Actor,
) -> Result<u64, Failure> {
    let at = identities::table.filter(identities::idp_id.eq(provider.0));
    let used = identities::id
        .eq_any(organization_identities::table.select(organization_identities::identity_id));
    // Before the rows go, as their uses go with them.
    let used = at.filter(used).order(identities::id).select(Shown::as_select());
    let used: Vec<Shown> = locked!(used).load(conn).await?;
    for row in used {
        organization_uses::delete_of(conn, &row.try_into()?, actor).await?;
    }
    let rows: Vec<Row> =
        diesel::delete(at).returning(Row::as_returning()).get_results(conn).await?;
    let count = rows.len() as u64;
    for row in rows {
        tell_of_removal(conn, &row, actor).await?;
        revocations::queue_row(conn, sealer, &row, actor).await?;
    }
    Ok(count)
}

async fn remove(conn: &mut Conn, id: i64, actor: &Actor) -> Result<Option<Row>, Failure> {
    // Locked first: from then on no organization begins to use it.
    let row = identities::table.find(id).select(Row::as_select());
    let row: Option<Row> = locked!(row).first(conn).await.optional()?;
    let Some(row) = row else { return Ok(None) };
    organization_uses::delete_of(conn, &row.identity()?, actor).await?;
    diesel::delete(identities::table.find(id)).execute(conn).await?;
    tell_of_removal(conn, &row, actor).await?;
    Ok(Some(row))
}

async fn tell_of_removal(conn: &mut Conn, row: &Row, actor: &Actor) -> Result<(), Failure> {
    ring(conn, row.id).await?;
    log(conn, EventKind::IdentityUnlinked, actor, Some(&row.identity()?), None).await
}

async fn remove_guarded(
    conn: &mut Conn,
    sealer: &dyn Sealer,
    unlink: &Unlink,
) -> Result<UnlinkOutcome, Failure> {
    let Unlink { id, user_id, guard, revoke, actor } = unlink;
    let meant = identities::table.find(id.0).select((identities::user_id, identities::idp_id));
    let found: Option<(String, i64)> = meant.first(conn).await.optional()?;
    let found = found.filter(|(user, _)| user_id.as_ref().is_none_or(|it| it.as_str() == user));
    let Some((user, idp)) = found else { return Ok(UnlinkOutcome::Absent) };
    if let Guard::LastWayIn { has_password } = *guard {
        let login = login_identities(conn, &user).await?;
        let ways = WaysIn { has_password, login_identities: login.len() as u64 };
        let needed = ways.without_identity(is_login(conn, idp).await?);
        if needed != Disconnection::CanDisconnect {
            // Only one of them is ever needed. Who waited for another's unlink may find it gone.
            let still = login.contains(&id.0);
            return Ok(if still { UnlinkOutcome::Needed(needed) } else { UnlinkOutcome::Absent });
        }
    }
    // Since the look, the row may have been given to somebody else: then it is looked at again.
    let meant = identities::table.find(id.0).filter(identities::user_id.eq(&user));
    let locked: Option<i64> = locked!(meant.select(identities::id)).first(conn).await.optional()?;
    if locked.is_none() {
        return Err(Failure::Changed);
    }
    let Some(row) = remove(conn, id.0, actor).await? else { return Ok(UnlinkOutcome::Absent) };
    let mut revocation = None;
    if *revoke {
        revocation = revocations::queue_row(conn, sealer, &row, actor).await?;
    }
    Ok(UnlinkOutcome::Unlinked(row.identity()?, revocation))
}

async fn is_login(conn: &mut Conn, provider: i64) -> QueryResult<bool> {
    let login = identity_providers::table.find(provider).select(identity_providers::login);
    Ok(login.first(conn).await.optional()?.unwrap_or(false))
}

/// The identities that a user signs in with, locked in the order of their ids: whoever takes one
/// away waits for whoever takes another.
pub(crate) async fn login_identities(conn: &mut Conn, user: &str) -> QueryResult<Vec<i64>> {
    let login = identity_providers::table
        .filter(identity_providers::login.eq(true))
        .select(identity_providers::id);
    let query = identities::table
        .filter(identities::user_id.eq(user.to_owned()))
        .filter(identities::idp_id.eq_any(login))
        .order(identities::id)
        .select(identities::id);
    locked!(query).load(conn).await
}

/// One link under way, in its transaction.
struct Linking<'a> {
    conn: &'a mut Conn,
    sealer: &'a dyn Sealer,
    link: &'a Link,
    now: DateTime<Utc>,
    /// Whether a user may have several accounts there.
    several: bool,
    /// The organization of the session or the device link that the link came from.
    organization: Option<OrganizationId>,
}

impl Linking<'_> {
    /// The rules of [`IdentityRepository::link`], row by row.
    async fn link_to(&mut self, user: &UserId) -> Result<LinkOutcome, Failure> {
        let mut rows = self.candidates(Some(user)).await?;
        let account = self.take_account(&mut rows);
        if let Some(row) = account {
            if row.user_id == user.as_str() {
                return self.renew(row).await;
            }
            rows.push(row);
            return self.link_taken(user, rows).await;
        }
        // Where several accounts are allowed, another one of the user's stands in nobody's way.
        let own = rows.into_iter().find(|it| !self.several && it.user_id == user.as_str());
        match own {
            None => self.create(user).await,
            Some(_) if !self.link.reattach => Ok(LinkOutcome::Taken(Taken::User)),
            Some(own) => self.rebind(own, user).await,
        }
    }

    /// The account belongs to another user: its row is the last of these.
    async fn link_taken(
        &mut self,
        user: &UserId,
        mut rows: Vec<Row>,
    ) -> Result<LinkOutcome, Failure> {
        let Some(account) = rows.pop().filter(|_| self.link.reattach) else {
            return Ok(LinkOutcome::Taken(Taken::Account));
        };
        let own = rows.into_iter().find(|it| !self.several && it.user_id == user.as_str());
        let Some(own) = own else { return self.rebind(account, user).await };
        if let Some(row) = remove(self.conn, account.id, &self.link.actor).await? {
            self.queue(&row).await?;
        }
        self.rebind(own, user).await
    }

    /// The row that counts as the account: the one that names it, else the one under its legacy
    /// name.
    fn take_account(&self, rows: &mut Vec<Row>) -> Option<Row> {
        let mut names = vec![self.link.external_id.as_str()];
        names.extend(self.link.legacy_id.as_ref().map(ExternalId::as_str));
        let at = names.iter().find_map(|name| rows.iter().position(|it| it.external_id == *name));
        at.map(|at| rows.remove(at))
    }

    /// Queues what a row held, unless its account stays linked with new credentials.
    async fn queue(&mut self, row: &Row) -> Result<(), Failure> {
        if is_orphaned_by(&row.identity()?, self.link) {
            revocations::queue_row(self.conn, self.sealer, row, &self.link.actor).await?;
        }
        Ok(())
    }

    async fn sign_in(&mut self) -> Result<LinkOutcome, Failure> {
        let mut rows = self.candidates(None).await?;
        let Some(mut row) = self.take_account(&mut rows) else {
            return Ok(LinkOutcome::NobodyLinked);
        };
        let before = row.identity()?;
        row.renew(self.sealer, self.link, self.now)?;
        save(self.conn, &row).await?;
        let identity = row.identity()?;
        self.log(EventKind::IdentitySignedIn, Some(&before), &identity).await?;
        Ok(LinkOutcome::SignedIn(identity))
    }

    /// The rows that may be meant, locked, in the order of their ids so that two links cannot
    /// wait for each other.
    async fn candidates(&mut self, user: Option<&UserId>) -> QueryResult<Vec<Row>> {
        let mut names = vec![self.link.external_id.as_str()];
        names.extend(self.link.legacy_id.as_ref().map(ExternalId::as_str));
        let of_user = user.map_or("", UserId::as_str);
        let query = identities::table
            .filter(identities::idp_id.eq(self.link.provider_id.0))
            .filter(identities::external_id.eq_any(names).or(identities::user_id.eq(of_user)))
            .order(identities::id)
            .select(Row::as_select());
        locked!(query).load(self.conn).await
    }

    async fn create(&mut self, user: &UserId) -> Result<LinkOutcome, Failure> {
        let mut row = Row::new(user, self.link, self.several, self.now);
        row.id = diesel::insert_into(identities::table)
            .values((
                identities::idp_id.eq(row.idp_id),
                identities::user_id.eq(&row.user_id),
                identities::external_id.eq(&row.external_id),
                identities::data.eq(&row.data),
                identities::status.eq(&row.status),
                identities::scopes.eq(&row.scopes),
                identities::date_verified.eq(row.date_verified),
                identities::date_added.eq(row.date_added),
                identities::version.eq(row.version),
                identities::generation.eq(row.generation),
                identities::attempt.eq(row.attempt),
                identities::unanswered.eq(row.unanswered),
                identities::failures.eq(row.failures),
                identities::user_slot.eq(&row.user_slot),
            ))
            .returning(identities::id)
            .get_result(self.conn)
            .await?;
        // The row's id is part of what the credentials are bound to.
        row.replace_credentials(self.sealer, self.link.credentials.as_ref())?;
        save(self.conn, &row).await?;
        let identity = row.identity()?;
        self.log(EventKind::IdentityLinked, None, &identity).await?;
        Ok(LinkOutcome::Created(identity))
    }

    async fn renew(&mut self, mut row: Row) -> Result<LinkOutcome, Failure> {
        let before = row.identity()?;
        row.renew(self.sealer, self.link, self.now)?;
        save(self.conn, &row).await?;
        let identity = row.identity()?;
        self.log(EventKind::IdentityRelinked, Some(&before), &identity).await?;
        Ok(LinkOutcome::Updated(identity))
    }

    async fn rebind(&mut self, mut row: Row, user: &UserId) -> Result<LinkOutcome, Failure> {
        let before = row.identity()?;
        self.queue(&row).await?;
        row.rebind(self.sealer, user, self.link, self.several, self.now)?;
        save(self.conn, &row).await?;
        let identity = row.identity()?;
        self.log(EventKind::IdentityRebound, Some(&before), &identity).await?;
        Ok(LinkOutcome::Rebound(identity))
    }

    async fn log(
        &mut self,
        about: EventKind,
        before: Option<&Identity>,
        after: &Identity,
    ) -> Result<(), Failure> {
        let mut event = NewEvent::of_identity(about, &self.link.actor, before, Some(after));
        event.organization_id.clone_from(&self.organization);
        event.detail.insert("evidence".into(), self.link.evidence.told());
        if let (EventKind::IdentityRebound, Some(before)) = (about, before) {
            event.detail.insert("previous_user_id".into(), json!(before.user_id.as_str()));
            event.detail.insert("previous_external_id".into(), json!(before.external_id.as_str()));
        }
        Ok(events::insert(self.conn, &event).await?)
    }
}

async fn link(conn: &mut Conn, sealer: &dyn Sealer, link: &Link) -> Result<LinkOutcome, Failure> {
    let several = allows_several(conn, link.provider_id).await?;
    let several = several.ok_or(diesel::result::Error::NotFound)?;
    let mut organization = None;
    if let Some(claim) = &link.session {
        match link_sessions::find_waiting(conn, claim).await? {
            None => return Ok(LinkOutcome::SessionUsed),
            Some(of) => organization = of.map(values::organization).transpose()?,
        }
    }
    if let Some(claim) = link.device_link {
        match device_links::find_held(conn, claim).await? {
            None => {
                revocations::queue_late(conn, sealer, link, claim).await?;
                return Ok(LinkOutcome::SessionUsed);
            }
            Some(of) => organization = of.map(values::organization).transpose()?,
        }
    }
    let now = time(conn).await?;
    let mut linking = Linking { conn, sealer, link, now, several, organization };
    let outcome = match &link.owner {
        LinkOwner::User(user) => linking.link_to(user).await?,
        LinkOwner::Whoever => linking.sign_in().await?,
    };
    if let (Some(session), Some(identity)) = (link.evidence.session_id(), outcome.known()) {
        let account = (link.provider_id, &identity.external_id);
        logouts::remember_session(linking.conn, session, account, now).await?;
    }
    if let (Some(organization), Some(identity)) = (&linking.organization, outcome.linked()) {
        organization_uses::attach(linking.conn, organization, identity, &link.actor).await?;
    }
    if let Some(claim) = &link.session {
        link_sessions::settle(linking.conn, claim, &outcome).await?;
    }
    if let (Some(claim), Some(identity)) = (link.device_link, outcome.linked()) {
        device_links::settle(linking.conn, claim, identity.id).await?;
    }
    Ok(outcome)
}

#[async_trait]
impl IdentityRepository for Store {
    async fn find(&self, id: IdentityId) -> Result<Option<Identity>, RepositoryError> {
        let row = self.find_identity(id).await?;
        Ok(row.map(Identity::try_from).transpose()?)
    }

    async fn list(
        &self,
        filter: &IdentityFilter,
        page: PageRequest,
    ) -> Result<Page<Identity>, RepositoryError> {
        let mut conn = self.reader().await?;
        let parts = list_parts(&mut conn, filter).await.map_err(Failure::from)?;
        let several = parts.len() > 1;
        let mut rows: Vec<Shown> = Vec::new();
        for part in parts {
            let query = list_query(&part, page);
            let more: Vec<Shown> = query.load(&mut *conn).await.map_err(Failure::from)?;
            rows.extend(more);
        }
        let mut identities =
            rows.into_iter().map(Identity::try_from).collect::<Result<Vec<_>, _>>()?;
        if several {
            identities.sort_unstable_by_key(|it| it.id);
            identities.truncate(usize::from(page.limit) + 1);
        }
        Ok(Page::cut(identities, page.limit, |it: &Identity| it.id.0))
    }

    async fn link(&self, new: &Link) -> Result<LinkOutcome, RepositoryError> {
        for _ in 0..RACES {
            let outcome = in_transaction!(self, async |conn| link(conn, &*self.sealer, new).await);
            match outcome {
                // Somebody else was first; now their row is there to be seen.
                Err(failure) if failure.is_race() => {}
                outcome => {
                    self.rung();
                    return Ok(outcome?);
                }
            }
        }
        Err(Failure::Changed.into())
    }

    async fn update_data(&self, update: &DataUpdate) -> Result<DataOutcome, RepositoryError> {
        let outcome = in_transaction!(self, async |conn| {
            let query = identities::table.find(update.id.0).select(Row::as_select());
            let row: Option<Row> = locked!(query).first(conn).await.optional()?;
            let Some(mut row) = row else { return Ok(DataOutcome::Absent) };
            if update.if_version.is_some_and(|version| version != row.version) {
                return Ok(DataOutcome::VersionConflict);
            }
            let before = row.identity()?;
            row.data = Value::Object(update.data.clone());
            row.version += 1;
            if let Some(answer) = &update.credentials {
                row.renew_credentials(&*self.sealer, answer)?;
            }
            save(conn, &row).await?;
            let identity = row.identity()?;
            let kind = EventKind::IdentityDataUpdated;
            log(conn, kind, &update.actor, Some(&before), Some(&identity)).await?;
            Ok(DataOutcome::Updated(identity))
        });
        self.rung();
        Ok(outcome?)
    }

    async fn unlink(&self, unlink: &Unlink) -> Result<UnlinkOutcome, RepositoryError> {
        for _ in 0..RACES {
            let unlinked = in_transaction!(self, async |conn| {
                remove_guarded(conn, &*self.sealer, unlink).await
            });
            match unlinked {
                Err(failure) if failure.is_race() => {}
                outcome => {
                    self.rung();
                    return Ok(outcome?);
                }
            }
        }
        Err(Failure::Changed.into())
    }
}

/// The same list in parts that an index answers each: by instance, where the filter says more than
/// one thing of the provider instances or names them by their external id, and by type, where
/// nothing but the caller's limits tells which rows are few. No more parts than there are types.
///
/// As a join, the database would read every identity in id order until it had found a page of
/// them.
pub(crate) async fn list_parts(
    conn: &mut Conn,
    filter: &IdentityFilter,
) -> QueryResult<Vec<IdentityFilter>> {
    let named = filter.provider_external_id.is_some() || filter.provider_has_no_external_id;
    let typed = filter.provider_type.is_some() || filter.provider_types.is_some();
    let limited = filter.providers.is_some() && !is_narrow(filter);
    if limited || named || (typed && filter.provider_id.is_some()) {
        parts_by_instance(conn, filter).await
    } else {
        Ok(parts_by_type(filter))
    }
}

/// Whether few rows can be meant, of whatever provider.
fn is_narrow(filter: &IdentityFilter) -> bool {
    filter.id.is_some()
        || filter.user_id.is_some()
        || filter.external_id.is_some()
        || filter.external_ids.is_some()
}

/// The list in one part for each provider instance that is meant.
async fn parts_by_instance(
    conn: &mut Conn,
    filter: &IdentityFilter,
) -> QueryResult<Vec<IdentityFilter>> {
    let mut providers = identity_providers::table.select(identity_providers::id).into_boxed::<Db>();
    if let Some(limits) = &filter.providers {
        let limits: Vec<_> = limits.iter().map(|it| it.0).collect();
        providers = providers.filter(identity_providers::id.eq_any(limits));
    }
    if let Some(external_id) = &filter.provider_external_id {
        providers = providers.filter(identity_providers::external_id.eq(external_id));
    }
    if filter.provider_has_no_external_id {
        providers = providers.filter(identity_providers::external_id.is_null());
    }
    if let Some(provider_type) = &filter.provider_type {
        providers = providers.filter(identity_providers::provider_type.eq(provider_type));
    }
    if let Some(types) = &filter.provider_types {
        providers = providers.filter(identity_providers::provider_type.eq_any(types));
    }
    if let Some(id) = filter.provider_id {
        providers = providers.filter(identity_providers::id.eq(id.0));
    }
    let ids: Vec<i64> = providers.load(conn).await?;
    let part = |id| IdentityFilter {
        provider_id: Some(ProviderId(id)),
        provider_external_id: None,
        provider_has_no_external_id: false,
        provider_type: None,
        provider_types: None,
        providers: None,
        ..filter.clone()
    };
    Ok(ids.into_iter().map(part).collect())
}

/// The list in one part for each type that the caller is limited to.
fn parts_by_type(filter: &IdentityFilter) -> Vec<IdentityFilter> {
    let Some(types) = &filter.provider_types else { return vec![filter.clone()] };
    let of = |provider_type: &String| IdentityFilter {
        provider_type: Some(provider_type.clone()),
        provider_types: None,
        ..filter.clone()
    };
    if let Some(asked) = &filter.provider_type {
        return types.iter().find(|it| *it == asked).map(of).into_iter().collect();
    }
    if is_narrow(filter) {
        return vec![filter.clone()];
    }
    // A type that is named twice is one.
    types.iter().collect::<BTreeSet<_>>().into_iter().map(of).collect()
}

/// The query of one part of a list; its plan is what the tests look at.
pub(crate) fn list_query(
    filter: &IdentityFilter,
    page: PageRequest,
) -> identities::BoxedQuery<'static, Db, diesel::dsl::SqlTypeOf<diesel::dsl::AsSelect<Shown, Db>>> {
    let mut query = identities::table.select(Shown::as_select()).into_boxed::<Db>();
    if let Some(id) = filter.id {
        query = query.filter(identities::id.eq(id.0));
    }
    if let Some(user) = &filter.user_id {
        query = query.filter(identities::user_id.eq(user.as_str().to_owned()));
    }
    if let Some(name) = &filter.external_id {
        query = query.filter(identities::external_id.eq(name.as_str().to_owned()));
    }
    if let Some(names) = &filter.external_ids {
        let names: Vec<_> = names.iter().map(|it| it.as_str().to_owned()).collect();
        query = query.filter(identities::external_id.eq_any(names));
    }
    if let Some(provider) = filter.provider_id {
        query = query.filter(identities::idp_id.eq_any(vec![provider.0]));
    }
    if let Some(provider_type) = filter.provider_type.clone() {
        query = query.filter(identities::idp_type.eq_any(vec![provider_type]));
    }
    if let Some(types) = filter.provider_types.clone() {
        query = query.filter(identities::idp_type.eq_any(types));
    }
    if let Some(providers) = &filter.providers {
        let providers: Vec<_> = providers.iter().map(|it| it.0).collect();
        query = query.filter(identities::idp_id.eq_any(providers));
    }
    if let Some(organization) = &filter.organization_id {
        let of = organization_identities::organization_id.eq(organization.as_str().to_owned());
        let used =
            organization_identities::table.filter(of).select(organization_identities::identity_id);
        query = query.filter(identities::id.eq_any(used));
    }
    if let Some(status) = filter.status {
        // Beside what comes first in the order it may be seen to be fixed: there are indexes of
        // both, in the order of ids.
        query = if filter.provider_id.is_some() || filter.provider_type.is_some() {
            query.filter(identities::status.eq(status.as_str()))
        } else {
            query.filter(identities::status.eq_any(vec![status.as_str()]))
        };
    }
    if filter.exclude_matching_external_ids {
        let same = identity_providers::table
            .filter(identity_providers::id.eq(identities::idp_id))
            .filter(identity_providers::external_id.eq(identities::external_id.nullable()));
        query = query.filter(diesel::dsl::not(diesel::dsl::exists(same)));
    }
    if let Some(after) = page.after {
        query = query.filter(identities::id.gt(after));
    }
    // What is fixed comes first in the order, and is written as a list of one so that the database
    // does not see that it is fixed: then only the index of both gives the order. By `id` alone it
    // would go through all identities and hope to meet the right ones soon, which fails where an
    // import brought them provider by provider.
    let query = if filter.provider_id.is_some() {
        query.order((identities::idp_id, identities::id))
    } else if filter.provider_type.is_some() {
        query.order((identities::idp_type, identities::id))
    } else if filter.status.is_some() {
        query.order((identities::status, identities::id))
    } else {
        query.order(identities::id)
    };
    query.limit(i64::from(page.limit) + 1)
}
