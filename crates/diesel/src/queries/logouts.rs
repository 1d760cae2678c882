use async_trait::async_trait;
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use symbolon_domain::{
    event::{EventKind, NewEvent},
    identity::{Identity, IdentityStatus},
    ports::{LogoutOutcome, LogoutRepository, ProviderLogout, RepositoryError},
};

use super::{
    Conn, Store, auth_identities, events, identity_row, in_transaction, locked, now,
    schema::{identities, logout_tokens},
    time, to_microseconds,
};
use crate::failure::Failure;

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
            let mut told = 0;
            let meant = identities::table
                .filter(identities::idp_id.eq(logout.provider_id.0))
                .filter(identities::external_id.eq(logout.external_id.as_str()))
                .select(identity_row::Shown::as_select());
            let row: Option<identity_row::Shown> = locked!(meant).first(conn).await.optional()?;
            if let Some(identity) = row.map(Identity::try_from).transpose()? {
                let it = Some(&identity);
                let about = EventKind::IdentityLoggedOut;
                let event = NewEvent::of_identity(about, &logout.actor, it, it);
                events::insert(conn, &logout.told(event)).await?;
                told += 1;
                let now = time(conn).await?;
                if let Some(at) = logout.refresh_at(&identity.scopes, now) {
                    hurry(conn, &identity, to_microseconds(at), now).await?;
                }
            }
            let (provider, ident) = (logout.provider_id, &logout.external_id);
            for (of, account) in auth_identities::of_account(conn, provider, ident).await? {
                let it = Some(&account);
                let about = EventKind::AuthIdentityLoggedOut;
                let event = NewEvent::of_auth_identity(about, &logout.actor, &of, it, it);
                events::insert(conn, &logout.told(event)).await?;
                told += 1;
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
}
