use async_trait::async_trait;

use super::{MemoryStore, Rows, to_microseconds};
use crate::{
    event::{EventKind, NewEvent},
    identity::Identity,
    ports::{LogoutOutcome, LogoutRepository, ProviderLogout, RepositoryError},
};

impl Rows {
    /// What is to be told of the account's links.
    fn events_of_logout(&self, logout: &ProviderLogout) -> Vec<NewEvent> {
        let ProviderLogout { provider_id, external_id, actor, .. } = logout;
        let is_meant = |it: &&Identity| it.idp_id == *provider_id && it.external_id == *external_id;
        let identities = self.identities.values().map(|it| &it.identity).filter(is_meant);
        let of_identity =
            |it| NewEvent::of_identity(EventKind::IdentityLoggedOut, actor, Some(it), Some(it));
        let accounts = self.auth_identities.values().map(|(it, _)| it).filter_map(|it| {
            let of = &self.auth_providers[&it.auth_provider_id];
            (of.provider_id == *provider_id && it.ident == *external_id).then(|| {
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
            let events = rows.events_of_logout(logout);
            let told = events.len() as u64;
            for event in events {
                rows.log(event, now);
            }
            for row in rows.identities.values_mut() {
                let identity = &row.identity;
                if identity.idp_id == logout.provider_id
                    && identity.external_id == logout.external_id
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
}
