use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::Value;
use symbolon_domain::{
    archive::AuthIdentityRecord,
    auth_identity::AuthIdentity,
    auth_provider::AuthProvider,
    credentials::Credentials,
    disconnection::{Disconnection, Guard, WaysIn},
    event::{Actor, EventKind, NewEvent},
    ids::{AuthIdentityId, AuthProviderId, ExternalId, OrganizationId, ProviderId, UserId},
    link_session::LinkSessionStatus,
    page::{Page, PageRequest},
    ports::{
        AuthIdentityFilter, AuthIdentityOutcome, AuthIdentityRepository, AuthIdentityUpdate, Place,
        RepositoryError, Sealer, SsoOutcome, SsoSignIn, SsoUnlink, SsoUnlinkOutcome, Taken,
    },
    revocation::is_orphaned_by_sign_in,
};

use super::{
    Conn, Db, RACES, Store, auth_providers, events,
    identities::login_identities,
    identity_row::{open, seal},
    in_transaction, link_sessions, locked, logouts, revocations,
    schema::{auth_identities, auth_providers as providers},
    time,
};
use crate::{
    failure::Failure,
    values::{object, user},
};

/// The whole row. Changed only under the row's lock, then written back as a whole.
#[derive(Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = auth_identities, check_for_backend(Db), treat_none_as_null = true)]
pub(crate) struct Row {
    pub(crate) id: i64,
    auth_provider_id: i64,
    user_id: String,
    ident: String,
    data: Value,
    last_verified: DateTime<Utc>,
    last_synced: DateTime<Utc>,
    date_added: DateTime<Utc>,
    version: i64,
    credentials: Option<Vec<u8>>,
    generation: i64,
}

impl Row {
    /// The row of an import, under this id.
    pub(crate) fn kept(
        record: &AuthIdentityRecord,
        id: i64,
        sealer: &dyn Sealer,
    ) -> Result<Self, Failure> {
        let it = &record.auth_identity;
        let row = Self {
            id,
            auth_provider_id: it.auth_provider_id.0,
            user_id: it.user_id.as_str().to_owned(),
            ident: it.ident.as_str().to_owned(),
            data: Value::Object(it.data.clone()),
            last_verified: super::to_microseconds(it.last_verified),
            last_synced: super::to_microseconds(it.last_synced),
            date_added: super::to_microseconds(it.date_added),
            version: it.version,
            credentials: None,
            generation: record.generation,
        };
        let credentials = record.credentials.as_ref();
        let credentials = credentials.map(|it| seal(sealer, &row.place(), it)).transpose()?;
        Ok(Self { credentials, ..row })
    }

    /// The record of the row.
    pub(crate) fn record(
        &self,
        sealer: &dyn Sealer,
        with_secrets: bool,
    ) -> Result<AuthIdentityRecord, Failure> {
        Ok(AuthIdentityRecord {
            auth_identity: self.identity()?,
            credentials: if with_secrets { self.open(sealer)? } else { None },
            generation: self.generation,
        })
    }

    fn identity(&self) -> Result<AuthIdentity, Failure> {
        Ok(AuthIdentity {
            id: AuthIdentityId(self.id),
            auth_provider_id: AuthProviderId(self.auth_provider_id),
            user_id: user(self.user_id.clone())?,
            ident: ExternalId::new(self.ident.clone())
                .map_err(|error| Failure::unreadable(error.to_string()))?,
            data: object(self.data.clone())?,
            last_verified: self.last_verified,
            last_synced: self.last_synced,
            date_added: self.date_added,
            version: self.version,
        })
    }

    fn place(&self) -> Place {
        Place {
            table: "auth_identities",
            row: self.id,
            idp: self.auth_provider_id,
            generation: self.generation,
        }
    }

    fn open(&self, sealer: &dyn Sealer) -> Result<Option<Credentials>, Failure> {
        open(sealer, &self.place(), self.credentials.as_deref(), None)
    }

    /// Puts other credentials in place, or none.
    fn replace_credentials(
        &mut self,
        sealer: &dyn Sealer,
        credentials: Option<&Credentials>,
    ) -> Result<(), Failure> {
        if self.credentials.is_some() || credentials.is_some() {
            self.generation += 1;
            let place = self.place();
            self.credentials = credentials.map(|it| seal(sealer, &place, it)).transpose()?;
        }
        Ok(())
    }

    /// The account was proved: it may have got a newer name.
    fn verify(&mut self, sign_in: &SsoSignIn, now: DateTime<Utc>) {
        sign_in.ident.as_str().clone_into(&mut self.ident);
        self.last_verified = now;
        self.last_synced = now;
        self.version += 1;
    }

    fn renew(
        &mut self,
        sealer: &dyn Sealer,
        sign_in: &SsoSignIn,
        now: DateTime<Utc>,
    ) -> Result<(), Failure> {
        self.verify(sign_in, now);
        let mut data = object(self.data.take())?;
        data.extend(sign_in.data.clone());
        self.data = Value::Object(data);
        if let Some(answer) = &sign_in.credentials {
            let renewed = self.open(sealer)?.unwrap_or_default().renewed_by(answer.clone());
            self.replace_credentials(sealer, Some(&renewed))?;
        }
        Ok(())
    }

    /// Another user's account, or another account: nothing of the old one stays but the row.
    fn rebind(
        &mut self,
        sealer: &dyn Sealer,
        user: &UserId,
        sign_in: &SsoSignIn,
        now: DateTime<Utc>,
    ) -> Result<(), Failure> {
        self.verify(sign_in, now);
        user.as_str().clone_into(&mut self.user_id);
        self.data = Value::Object(sign_in.data.clone());
        self.replace_credentials(sealer, sign_in.credentials.as_ref())
    }
}

async fn save(conn: &mut Conn, row: &Row) -> Result<(), Failure> {
    let written =
        diesel::update(auth_identities::table.find(row.id)).set(row).execute(conn).await?;
    if written == 0 { Err(Failure::Changed) } else { Ok(()) }
}

/// An account's places in the single sign-ons with a provider instance.
pub(crate) async fn of_account(
    conn: &mut Conn,
    provider: ProviderId,
    ident: &ExternalId,
) -> Result<Vec<(AuthProvider, AuthIdentity)>, Failure> {
    let of: Vec<i64> = providers::table
        .filter(providers::provider_id.eq(provider.0))
        .order(providers::id)
        .select(providers::id)
        .load(conn)
        .await?;
    let meant = auth_identities::table
        .filter(auth_identities::auth_provider_id.eq_any(of))
        .filter(auth_identities::ident.eq(ident.as_str()))
        .order(auth_identities::id)
        .select(Row::as_select());
    let rows: Vec<Row> = meant.load(conn).await?;
    let mut places = Vec::with_capacity(rows.len());
    for row in rows {
        if let Some(of) = auth_providers::find(conn, AuthProviderId(row.auth_provider_id)).await? {
            places.push((of, row.identity()?));
        }
    }
    Ok(places)
}

async fn log(
    conn: &mut Conn,
    about: EventKind,
    actor: &Actor,
    of: &AuthProvider,
    before: Option<&AuthIdentity>,
    after: Option<&AuthIdentity>,
) -> Result<(), Failure> {
    let event = NewEvent::of_auth_identity(about, actor, of, before, after);
    Ok(events::insert(conn, &event).await?)
}

/// Tells of rows that are gone, and queues their grants.
async fn gone(
    conn: &mut Conn,
    sealer: &dyn Sealer,
    rows: Vec<Row>,
    of: &AuthProvider,
    actor: &Actor,
) -> Result<u64, Failure> {
    let count = rows.len() as u64;
    for row in rows {
        let identity = tell_of_removal(conn, &row, of, actor).await?;
        let held = (&identity, row.open(sealer));
        revocations::queue_account(conn, sealer, held, of, actor).await?;
    }
    Ok(count)
}

async fn tell_of_removal(
    conn: &mut Conn,
    row: &Row,
    of: &AuthProvider,
    actor: &Actor,
) -> Result<AuthIdentity, Failure> {
    let identity = row.identity()?;
    log(conn, EventKind::AuthIdentityUnlinked, actor, of, Some(&identity), None).await?;
    Ok(identity)
}

/// Deletes every account of a single sign-on, each with its event.
pub(crate) async fn delete_of(
    conn: &mut Conn,
    sealer: &dyn Sealer,
    provider: &AuthProvider,
    actor: &Actor,
) -> Result<u64, Failure> {
    let of = auth_identities::auth_provider_id.eq(provider.id.0);
    let rows: Vec<Row> = diesel::delete(auth_identities::table.filter(of))
        .returning(Row::as_returning())
        .get_results(conn)
        .await?;
    gone(conn, sealer, rows, provider, actor).await
}

/// One sign-in or link under way, in its transaction.
struct SigningIn<'a> {
    conn: &'a mut Conn,
    sealer: &'a dyn Sealer,
    sign_in: &'a SsoSignIn,
    provider: AuthProvider,
    now: DateTime<Utc>,
}

impl SigningIn<'_> {
    async fn sign_in(&mut self) -> Result<SsoOutcome, Failure> {
        let mut rows = self.candidates(None).await?;
        // A row that names the account itself goes before one under its legacy name.
        rows.sort_by_key(|row| row.ident != self.sign_in.ident.as_str());
        let Some(row) = rows.into_iter().next() else { return Ok(SsoOutcome::NobodyLinked) };
        let identity = self.renew(row, EventKind::AuthIdentitySignedIn).await?;
        Ok(SsoOutcome::SignedIn(identity))
    }

    /// The rules of [`AuthIdentityRepository::sign_in`], row by row.
    async fn link_to(&mut self, user: &UserId) -> Result<SsoOutcome, Failure> {
        let (mut own, mut account) = (None, None);
        for row in self.candidates(Some(user)).await? {
            let is_own = row.user_id == user.as_str();
            let is_account = row.ident == self.sign_in.ident.as_str();
            match (is_own, is_account) {
                (true, true) => {
                    let identity = self.renew(row, EventKind::AuthIdentityUpdated).await?;
                    return Ok(SsoOutcome::Linked { identity, new: false });
                }
                (true, false) => own = Some(row),
                (false, true) => account = Some(row),
                // Another user's row under the legacy name is not ours to touch.
                (false, false) => {}
            }
        }
        let legacy = self.sign_in.legacy_ident.as_ref().map(ExternalId::as_str);
        let identity = match (own, account) {
            (None, None) => {
                let identity = self.create(user).await?;
                return Ok(SsoOutcome::Linked { identity, new: true });
            }
            (Some(own), None) if Some(own.ident.as_str()) == legacy => {
                self.renew(own, EventKind::AuthIdentityUpdated).await?
            }
            (_, Some(_)) if !self.sign_in.reattach => {
                return Ok(SsoOutcome::Taken(Taken::Account));
            }
            (Some(_), None) if !self.sign_in.reattach => {
                return Ok(SsoOutcome::Taken(Taken::User));
            }
            (Some(row), None) | (None, Some(row)) => self.rebind(row, user).await?,
            (Some(own), Some(account)) => {
                diesel::delete(auth_identities::table.find(account.id)).execute(self.conn).await?;
                let (of, actor) = (&self.provider, &self.sign_in.actor);
                tell_of_removal(self.conn, &account, of, actor).await?;
                self.queue(&account).await?;
                self.rebind(own, user).await?
            }
        };
        Ok(SsoOutcome::Linked { identity, new: false })
    }

    /// The rows that may be meant, locked, in the order of their ids so that two callers cannot
    /// wait for each other.
    async fn candidates(&mut self, user: Option<&UserId>) -> QueryResult<Vec<Row>> {
        let mut names = vec![self.sign_in.ident.as_str()];
        names.extend(self.sign_in.legacy_ident.as_ref().map(ExternalId::as_str));
        let of_user = user.map_or("", UserId::as_str);
        let query = auth_identities::table
            .filter(auth_identities::auth_provider_id.eq(self.provider.id.0))
            .filter(auth_identities::ident.eq_any(names).or(auth_identities::user_id.eq(of_user)))
            .order(auth_identities::id)
            .select(Row::as_select());
        locked!(query).load(self.conn).await
    }

    async fn create(&mut self, user: &UserId) -> Result<AuthIdentity, Failure> {
        let mut row: Row = diesel::insert_into(auth_identities::table)
            .values((
                auth_identities::auth_provider_id.eq(self.provider.id.0),
                auth_identities::user_id.eq(user.as_str()),
                auth_identities::ident.eq(self.sign_in.ident.as_str()),
                auth_identities::data.eq(Value::Object(self.sign_in.data.clone())),
                auth_identities::last_verified.eq(self.now),
                auth_identities::last_synced.eq(self.now),
                auth_identities::date_added.eq(self.now),
                auth_identities::version.eq(1),
                auth_identities::generation.eq(0),
            ))
            .returning(Row::as_returning())
            .get_result(self.conn)
            .await?;
        if self.sign_in.credentials.is_some() {
            // The row's id is part of what the credentials are bound to.
            row.replace_credentials(self.sealer, self.sign_in.credentials.as_ref())?;
            save(self.conn, &row).await?;
        }
        let identity = row.identity()?;
        self.log(EventKind::AuthIdentityLinked, None, &identity).await?;
        Ok(identity)
    }

    async fn renew(&mut self, mut row: Row, about: EventKind) -> Result<AuthIdentity, Failure> {
        let before = row.identity()?;
        row.renew(self.sealer, self.sign_in, self.now)?;
        save(self.conn, &row).await?;
        let identity = row.identity()?;
        self.log(about, Some(&before), &identity).await?;
        Ok(identity)
    }

    /// Queues what a row held, unless its account stays linked with new credentials.
    async fn queue(&mut self, row: &Row) -> Result<(), Failure> {
        let identity = row.identity()?;
        if is_orphaned_by_sign_in(&identity, self.sign_in) {
            let held = (&identity, row.open(self.sealer));
            let (of, actor) = (&self.provider, &self.sign_in.actor);
            revocations::queue_account(self.conn, self.sealer, held, of, actor).await?;
        }
        Ok(())
    }

    async fn rebind(&mut self, mut row: Row, user: &UserId) -> Result<AuthIdentity, Failure> {
        let before = row.identity()?;
        self.queue(&row).await?;
        row.rebind(self.sealer, user, self.sign_in, self.now)?;
        save(self.conn, &row).await?;
        let identity = row.identity()?;
        self.log(EventKind::AuthIdentityUpdated, Some(&before), &identity).await?;
        Ok(identity)
    }

    async fn log(
        &mut self,
        about: EventKind,
        before: Option<&AuthIdentity>,
        after: &AuthIdentity,
    ) -> Result<(), Failure> {
        let actor = &self.sign_in.actor;
        log(self.conn, about, actor, &self.provider, before, Some(after)).await
    }
}

async fn sign_in(
    conn: &mut Conn,
    sealer: &dyn Sealer,
    asked: &SsoSignIn,
) -> Result<SsoOutcome, Failure> {
    let Some(provider) = auth_providers::find(conn, asked.auth_provider_id).await? else {
        return Err(diesel::result::Error::NotFound.into());
    };
    if let Some(claim) = &asked.session
        && link_sessions::find_waiting(conn, claim).await?.is_none()
    {
        return Ok(SsoOutcome::SessionUsed);
    }
    let now = time(conn).await?;
    let mut signing_in = SigningIn { conn, sealer, sign_in: asked, provider, now };
    let outcome = match &asked.user {
        Some(user) => signing_in.link_to(user).await?,
        None => signing_in.sign_in().await?,
    };
    if let (Some(session), Some(_)) = (&asked.provider_session, outcome.known()) {
        let account = (signing_in.provider.provider_id, &asked.ident);
        logouts::remember_session(signing_in.conn, session, account, now).await?;
    }
    if let Some(claim) = &asked.session {
        let status = match &outcome {
            SsoOutcome::SignedIn(_) => LinkSessionStatus::SignedIn,
            SsoOutcome::Linked { .. } => LinkSessionStatus::Linked,
            SsoOutcome::NobodyLinked => LinkSessionStatus::Unlinked,
            SsoOutcome::Taken(_) | SsoOutcome::SessionUsed => return Ok(outcome),
        };
        link_sessions::move_on(conn, claim, status, None).await?;
    }
    Ok(outcome)
}

async fn unlink(
    conn: &mut Conn,
    sealer: &dyn Sealer,
    unlink: &SsoUnlink,
) -> Result<SsoUnlinkOutcome, Failure> {
    let SsoUnlink { id, user_id, guard, actor } = unlink;
    let row = auth_identities::table.find(id.0).select(Row::as_select());
    let row: Option<Row> = row.first(conn).await.optional()?;
    let row = row.filter(|row| user_id.as_ref().is_none_or(|it| it.as_str() == row.user_id));
    let Some(row) = row else { return Ok(SsoUnlinkOutcome::Absent) };
    let of = auth_providers::find_locked(conn, AuthProviderId(row.auth_provider_id)).await?;
    let Some(of) = of else { return Ok(SsoUnlinkOutcome::Absent) };
    let mut needed = Disconnection::CanDisconnect;
    if let Guard::LastWayIn { has_password } = *guard {
        let login = login_identities(conn, &row.user_id).await?;
        let ways = WaysIn { has_password, login_identities: login.len() as u64 };
        needed = ways.without_auth_identity(of.allow_unlinked);
    }
    // Since the look, the row may have been given to somebody else: then it is not the one meant.
    let meant = auth_identities::table
        .find(id.0)
        .filter(auth_identities::user_id.eq(&row.user_id))
        .select(Row::as_select());
    let row: Option<Row> = locked!(meant).first(conn).await.optional()?;
    let Some(row) = row else { return Ok(SsoUnlinkOutcome::Absent) };
    if needed != Disconnection::CanDisconnect {
        return Ok(SsoUnlinkOutcome::Needed(needed));
    }
    diesel::delete(auth_identities::table.find(id.0)).execute(conn).await?;
    let identity = row.identity()?;
    gone(conn, sealer, vec![row], &of, actor).await?;
    Ok(SsoUnlinkOutcome::Unlinked(identity))
}

async fn update(
    conn: &mut Conn,
    update: &AuthIdentityUpdate,
) -> Result<AuthIdentityOutcome, Failure> {
    let row = auth_identities::table.find(update.id.0).select(Row::as_select());
    let row: Option<Row> = locked!(row).first(conn).await.optional()?;
    let Some(mut row) = row else { return Ok(AuthIdentityOutcome::Absent) };
    if update.if_version.is_some_and(|version| version != row.version) {
        return Ok(AuthIdentityOutcome::VersionConflict);
    }
    let of = auth_providers::find(conn, AuthProviderId(row.auth_provider_id)).await?;
    let Some(of) = of else { return Ok(AuthIdentityOutcome::Absent) };
    let before = row.identity()?;
    if let Some(ident) = &update.ident {
        ident.as_str().clone_into(&mut row.ident);
    }
    if let Some(data) = &update.data {
        row.data = Value::Object(data.clone());
    }
    if update.synced {
        row.last_synced = time(conn).await?;
    }
    row.version += 1;
    save(conn, &row).await?;
    let after = row.identity()?;
    let kind = EventKind::AuthIdentityUpdated;
    log(conn, kind, &update.actor, &of, Some(&before), Some(&after)).await?;
    Ok(AuthIdentityOutcome::Updated(after))
}

/// The query of a list; its plan is what the tests look at.
pub(crate) fn list_query(filter: &AuthIdentityFilter, page: PageRequest) -> Listed<'_> {
    let mut query = auth_identities::table.select(Row::as_select()).into_boxed::<Db>();
    if let Some(organization) = &filter.organization_id {
        let of = providers::table
            .filter(providers::organization_id.eq(organization.as_str()))
            .select(providers::id);
        query = query.filter(auth_identities::auth_provider_id.eq_any(of));
    }
    if let Some(id) = filter.auth_provider_id {
        query = query.filter(auth_identities::auth_provider_id.eq(id.0));
    }
    if let Some(id) = filter.provider_id {
        let of = providers::table.filter(providers::provider_id.eq(id.0)).select(providers::id);
        query = query.filter(auth_identities::auth_provider_id.eq_any(of));
    }
    if let Some(user) = &filter.user_id {
        query = query.filter(auth_identities::user_id.eq(user.as_str()));
    }
    if let Some(ident) = &filter.ident {
        query = query.filter(auth_identities::ident.eq(ident.as_str()));
    }
    if let Some(after) = page.after {
        query = query.filter(auth_identities::id.gt(after));
    }
    query.order(auth_identities::id).limit(i64::from(page.limit) + 1)
}

type Listed<'a> =
    auth_identities::BoxedQuery<'a, Db, diesel::dsl::SqlTypeOf<diesel::dsl::AsSelect<Row, Db>>>;

/// Runs a transaction until it loses no race.
macro_rules! until_settled {
    ($store:expr, async |$conn:ident| $body:expr) => {{
        for _ in 0..RACES {
            let outcome = in_transaction!($store, async |$conn| $body);
            match outcome {
                Err(failure) if failure.is_race() => {}
                outcome => return Ok(outcome?),
            }
        }
        Err(Failure::Changed.into())
    }};
}

#[async_trait]
impl AuthIdentityRepository for Store {
    async fn find(&self, id: AuthIdentityId) -> Result<Option<AuthIdentity>, RepositoryError> {
        let row = auth_identities::table.find(id.0).select(Row::as_select());
        let conn = &mut *self.reader().await?;
        let row: Option<Row> = row.first(conn).await.optional().map_err(Failure::from)?;
        Ok(row.map(|it| it.identity()).transpose()?)
    }

    async fn find_credentials(
        &self,
        id: AuthIdentityId,
    ) -> Result<Option<Credentials>, RepositoryError> {
        let row = auth_identities::table.find(id.0).select(Row::as_select());
        let conn = &mut *self.reader().await?;
        let row: Option<Row> = row.first(conn).await.optional().map_err(Failure::from)?;
        let Some(row) = row else { return Ok(None) };
        Ok(row.open(&*self.sealer)?)
    }

    async fn list(
        &self,
        filter: &AuthIdentityFilter,
        page: PageRequest,
    ) -> Result<Page<AuthIdentity>, RepositoryError> {
        let conn = &mut *self.reader().await?;
        let rows: Vec<Row> = list_query(filter, page).load(conn).await.map_err(Failure::from)?;
        let found = rows.iter().map(Row::identity).collect::<Result<_, _>>()?;
        Ok(Page::cut(found, page.limit, |it: &AuthIdentity| it.id.0))
    }

    async fn sign_in(&self, asked: &SsoSignIn) -> Result<SsoOutcome, RepositoryError> {
        until_settled!(self, async |conn| sign_in(conn, &*self.sealer, asked).await)
    }

    async fn update(
        &self,
        asked: &AuthIdentityUpdate,
    ) -> Result<AuthIdentityOutcome, RepositoryError> {
        let updated = in_transaction!(self, async |conn| update(conn, asked).await);
        match updated.map_err(RepositoryError::from) {
            Err(RepositoryError::Conflict) => Ok(AuthIdentityOutcome::Taken),
            other => other,
        }
    }

    async fn unlink(&self, asked: &SsoUnlink) -> Result<SsoUnlinkOutcome, RepositoryError> {
        until_settled!(self, async |conn| unlink(conn, &*self.sealer, asked).await)
    }

    async fn delete_for(
        &self,
        user: &UserId,
        organization: &OrganizationId,
        actor: &Actor,
    ) -> Result<u64, RepositoryError> {
        until_settled!(self, async |conn| {
            let of: Vec<i64> = providers::table
                .filter(providers::organization_id.eq(organization.as_str()))
                .order(providers::id)
                .select(providers::id)
                .load(conn)
                .await?;
            let mut count = 0;
            for id in of {
                let Some(of) = auth_providers::find(conn, AuthProviderId(id)).await? else {
                    continue;
                };
                let meant = auth_identities::table
                    .filter(auth_identities::auth_provider_id.eq(id))
                    .filter(auth_identities::user_id.eq(user.as_str()));
                let rows: Vec<Row> =
                    diesel::delete(meant).returning(Row::as_returning()).get_results(conn).await?;
                count += gone(conn, &*self.sealer, rows, &of, actor).await?;
            }
            Ok(count)
        })
    }
}
