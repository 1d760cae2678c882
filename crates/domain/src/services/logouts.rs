use std::{sync::Arc, time::Duration};

use chrono::TimeDelta;

use super::Providers;
use crate::{
    Error,
    event::Actor,
    ids::ProviderId,
    ports::{ConnectorError, LogoutOutcome, LogoutRepository, ProviderLogout},
    secret::{Secret, SecretHash},
};

/// Takes providers' word that they ended a user's session
/// ([OpenID Connect Back-Channel Logout 1.0](https://openid.net/specs/openid-connect-backchannel-1_0.html)).
///
/// It links and unlinks nothing: the product is told by an event, and ends its own sessions.
#[derive(Clone)]
pub struct Logouts {
    /// Where it is kept.
    pub logouts: Arc<dyn LogoutRepository>,
    /// How providers are reached.
    pub providers: Arc<Providers>,
    /// This replica, as events name it.
    pub replica: String,
}

/// Providers end what ends with a session after they have told of it: to look before that would
/// learn nothing.
const REFRESH_WITHIN: Duration = Duration::from_secs(30);

/// The store's clock may be ahead of the one that a token's age is judged by.
const REMEMBERED_LONGER: TimeDelta = TimeDelta::minutes(10);

/// The field of the request, as a problem names it.
const FIELD: &str = "logout_token";

impl Logouts {
    /// Takes a logout token. Answers the same whether or not somebody has linked the account.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] naming `logout_token` where the token is not one of this provider
    /// that can be acted on: it does not fit, or came before;
    /// [`Error::NotFound`] without such a provider; [`Error::ProviderUnavailable`] and
    /// [`Error::ProviderMisconfigured`] where its keys are not to be had.
    pub async fn receive(&self, provider: ProviderId, logout_token: &Secret) -> Result<(), Error> {
        let (_, connector) = self.providers.connect(provider).await?;
        let logout = match connector.verify_logout(logout_token).await {
            Ok(logout) => logout,
            Err(ConnectorError::Untrusted { detail }) => return Err(Error::invalid(FIELD, detail)),
            Err(error) => return Err(error.into()),
        };
        let word = ProviderLogout {
            provider_id: provider,
            external_id: logout.external_id,
            session_id: logout.session_id,
            token: SecretHash::of(&logout.token_id),
            forget_at: logout.refused_from + REMEMBERED_LONGER,
            refresh_within: REFRESH_WITHIN,
            actor: Actor::replica(&*self.replica).because("the provider ended the session"),
        };
        match self.logouts.log_out(&word).await? {
            LogoutOutcome::Told(links) => {
                tracing::info!(%provider, links, "the provider ended a user's session");
                Ok(())
            }
            LogoutOutcome::Replayed => Err(Error::invalid(FIELD, "was taken before")),
        }
    }
}
