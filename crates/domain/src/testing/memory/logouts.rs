use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{MemoryStore, Rows, to_microseconds};
use crate::{
    event::{EventKind, NewEvent},
    identity::Identity,
    ids::{ExternalId, ProviderId},
    ports::{
        LogoutOutcome, LogoutRepository, PROVIDER_SESSION_KEPT, ProviderLogout, RepositoryError,
    },
    secret::SecretHash,
};

impl Rows {
    /// Remembers whose account a session at a provider is.
    pub(super) fn remember_session(
        &mut self,
        provider: ProviderId,
        session: Option<&str>,
        account: &ExternalId,
        now: DateTime<Utc>,
    ) {
        let Some(session) = session else { return };
        let key = (provider, SecretHash::of(session), account.clone());
        self.provider_sessions.insert(key, to_microseconds(now + PROVIDER_SESSION_KEPT));
    }

    /// The accounts that a logout is about. The session is over, and not remembered any more.
    fn logged_out(&mut self, logout: &ProviderLogout, now: DateTime<Utc>) -> Vec<ExternalId> {
        let ended = logout.session_id.as_deref().map(SecretHash::of);
        let mut accounts: Vec<_> = logout.external_id.iter().cloned().collect();
        self.provider_sessions.retain(|(provider, session, account), forget_at| {
            let is_over = *provider == logout.provider_id && Some(*session) == ended;
            if is_over && logout.external_id.is_none() && *forget_at > now {
                accounts.push(account.clone());
            }
            !is_over
        });
        accounts.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        accounts
    }

    /// What is to be told of an account's links.
    fn events_of_logout(&self, logout: &ProviderLogout, account: &ExternalId) -> Vec<NewEvent> {
        let ProviderLogout { provider_id, actor, .. } = logout;
        let is_meant = |it: &&Identity| it.idp_id == *provider_id && it.external_id == *account;
        let identities = self.identities.values().map(|it| &it.identity).filter(is_meant);
        let of_identity =
            |it| NewEvent::of_identity(EventKind::IdentityLoggedOut, actor, Some(it), Some(it));
        let accounts = self.auth_identities.values().map(|(it, _)| it).filter_map(|it| {
            let of = &self.auth_providers[&it.auth_provider_id];
            (of.provider_id == *provider_id && it.ident == *account).then(|| {
                let about = EventKind::AuthIdentityLoggedOut;
                NewEvent::of_auth_identity(about, actor, of, Some(it), Some(it))
            })
        });
        identities.map(of_identity).chain(accounts).map(|it| logout.told(it)).collect()
    }
}

#[async_trait]
impl LogoutRepository for MemoryStore {
    async fn log_out(&self, logout: &ProviderLogout) -> Result<LogoutOutcome, RepositoryError> {
        Ok(self.write(|rows, now| {
            let token = (logout.provider_id, logout.token);
            if rows.logout_tokens.contains_key(&token) {
                return LogoutOutcome::Replayed;
            }
            rows.logout_tokens.insert(token, to_microseconds(logout.forget_at));
            let accounts = rows.logged_out(logout, now);
            let mut told = 0;
            for account in &accounts {
                for event in rows.events_of_logout(logout, account) {
                    rows.log(event, now);
                    told += 1;
                }
            }
            for row in rows.identities.values_mut() {
                let identity = &row.identity;
                if identity.idp_id == logout.provider_id
                    && accounts.contains(&identity.external_id)
                    && let Some(at) = logout.refresh_at(&identity.scopes, now)
                {
                    row.hurry(at, now);
                }
            }
            LogoutOutcome::Told(told)
        }))
    }

    async fn forget_tokens(&self) -> Result<u64, RepositoryError> {
        Ok(self.write(|rows, now| {
            let before = rows.logout_tokens.len();
            rows.logout_tokens.retain(|_, forget_at| *forget_at > now);
            (before - rows.logout_tokens.len()) as u64
        }))
    }

    async fn forget_sessions(&self) -> Result<u64, RepositoryError> {
        Ok(self.write(|rows, now| {
            let before = rows.provider_sessions.len();
            rows.provider_sessions.retain(|_, forget_at| *forget_at > now);
            (before - rows.provider_sessions.len()) as u64
        }))
    }
}
