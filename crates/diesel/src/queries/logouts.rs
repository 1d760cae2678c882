use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use symbolon_domain::{
    event::{EventKind, NewEvent},
    identity::{Identity, IdentityStatus},
    ids::{ExternalId, ProviderId},
    ports::{
        LogoutOutcome, LogoutRepository, PROVIDER_SESSION_KEPT, ProviderLogout, RepositoryError,
    },
    secret::SecretHash,
};

use super::{
    Conn, Store, auth_identities, events, identity_row, in_transaction, locked, now,
    schema::{identities, logout_tokens, provider_sessions},
    time, to_microseconds,
};
use crate::{failure::Failure, values::external_id};

/// Remembers whose account a session at a provider is.
pub(crate) async fn remember_session(
    conn: &mut Conn,
    session: &str,
    (provider, account): (ProviderId, &ExternalId),
    now: DateTime<Utc>,
) -> QueryResult<()> {
    let forget_at = to_microseconds(now + PROVIDER_SESSION_KEPT);
    diesel::insert_into(provider_sessions::table)
        .values((
            provider_sessions::provider_id.eq(provider.0),
            provider_sessions::session_hash.eq(&SecretHash::of(session).0[..]),
            provider_sessions::external_id.eq(account.as_str()),
            provider_sessions::forget_at.eq(forget_at),
        ))
        .on_conflict((
            provider_sessions::provider_id,
            provider_sessions::session_hash,
            provider_sessions::external_id,
        ))
        .do_update()
        .set(provider_sessions::forget_at.eq(forget_at))
        .execute(conn)
        .await
        .map(drop)
}

/// A session at a provider as it is remembered.
macro_rules! session {
    ($logout:expr, $session:expr) => {
        provider_sessions::table
            .filter(provider_sessions::provider_id.eq($logout.provider_id.0))
            .filter(provider_sessions::session_hash.eq(SecretHash::of($session).0.to_vec()))
    };
}

/// The accounts that a logout is about.
async fn logged_out(conn: &mut Conn, logout: &ProviderLogout) -> QueryResult<Vec<String>> {
    match (&logout.external_id, &logout.session_id) {
        (Some(account), _) => Ok(vec![account.as_str().to_owned()]),
        (None, Some(session)) => {
            let heard_of =
                session!(logout, session.as_str()).filter(provider_sessions::forget_at.gt(now()));
            let accounts = heard_of.select(provider_sessions::external_id);
            accounts.order(provider_sessions::external_id).load(conn).await
        }
        (None, None) => Ok(Vec::new()),
    }
}

/// Tells of each link of these accounts, and answers how many there are.
async fn tell(
    conn: &mut Conn,
    logout: &ProviderLogout,
    accounts: Vec<String>,
) -> Result<u64, Failure> {
    let mut told = 0;
    let meant = identities::table
        .filter(identities::idp_id.eq(logout.provider_id.0))
        .filter(identities::external_id.eq_any(accounts.clone()))
        .order(identities::id)
        .select(identity_row::Shown::as_select());
    let rows: Vec<identity_row::Shown> = locked!(meant).load(conn).await?;
    let now = time(conn).await?;
    for row in rows {
        let identity = Identity::try_from(row)?;
        let it = Some(&identity);
        let about = EventKind::IdentityLoggedOut;
        let event = NewEvent::of_identity(about, &logout.actor, it, it);
        events::insert(conn, &logout.told(event)).await?;
        told += 1;
        if let Some(at) = logout.refresh_at(&identity.scopes, now) {
            hurry(conn, &identity, to_microseconds(at), now).await?;
        }
    }
    for account in accounts {
        let account = external_id(account)?;
        for (of, it) in auth_identities::of_account(conn, logout.provider_id, &account).await? {
            let (about, it) = (EventKind::AuthIdentityLoggedOut, Some(&it));
            let event = NewEvent::of_auth_identity(about, &logout.actor, &of, it, it);
            events::insert(conn, &logout.told(event)).await?;
            told += 1;
        }
    }
    Ok(told)
}

/// The credentials are due at this time, unless they are before or back off.
async fn hurry(
    conn: &mut Conn,
    identity: &Identity,
    at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> QueryResult<()> {
    let planned = identities::table
        .find(identity.id.0)
        .filter(identities::refreshable.eq(true))
        .filter(identities::planned_generation.eq(identities::generation.nullable()))
        .filter(identities::status.ne(IdentityStatus::Invalid.as_str()))
        .filter(identities::retry_at.is_null().or(identities::retry_at.le(now)))
        .filter(identities::refresh_at.is_null().or(identities::refresh_at.gt(at)));
    diesel::update(planned).set(identities::refresh_at.eq(at)).execute(conn).await?;
    Ok(())
}

#[async_trait]
impl LogoutRepository for Store {
    async fn log_out(&self, logout: &ProviderLogout) -> Result<LogoutOutcome, RepositoryError> {
        let outcome = in_transaction!(self, async |conn| {
            // Who brings the same token meanwhile waits here for the end of this transaction.
            let new = diesel::insert_into(logout_tokens::table)
                .values((
                    logout_tokens::provider_id.eq(logout.provider_id.0),
                    logout_tokens::token_hash.eq(&logout.token.0[..]),
                    logout_tokens::forget_at.eq(to_microseconds(logout.forget_at)),
                ))
                .on_conflict_do_nothing()
                .execute(conn)
                .await?;
            if new == 0 {
                return Ok(LogoutOutcome::Replayed);
            }
            let accounts = logged_out(conn, logout).await?;
            let told = tell(conn, logout, accounts).await?;
            // Last, as a link has its rows before it has the session.
            if let Some(session) = &logout.session_id {
                diesel::delete(session!(logout, session.as_str())).execute(conn).await?;
            }
            Ok(LogoutOutcome::Told(told))
        });
        Ok(outcome?)
    }

    async fn forget_tokens(&self) -> Result<u64, RepositoryError> {
        let over = logout_tokens::table.filter(logout_tokens::forget_at.le(now()));
        let forgotten = diesel::delete(over)
            .execute(&mut *self.writer().await?)
            .await
            .map_err(Failure::from)?;
        Ok(forgotten as u64)
    }

    async fn forget_sessions(&self) -> Result<u64, RepositoryError> {
        let over = provider_sessions::table.filter(provider_sessions::forget_at.le(now()));
        let forgotten = diesel::delete(over)
            .execute(&mut *self.writer().await?)
            .await
            .map_err(Failure::from)?;
        Ok(forgotten as u64)
    }
}
