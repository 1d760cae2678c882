use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use url::Url;

use crate::{
    account::ExternalAccount,
    credentials::Credentials,
    identity_provider::{Capabilities, IdentityProvider, ProviderSecrets, ProviderType},
    ids::ExternalId,
    secret::Secret,
};

/// Where to send the browser, and what to send along
/// ([RFC 6749 §4.1.1](https://www.rfc-editor.org/rfc/rfc6749#section-4.1.1)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthorizationRequest {
    /// Our callback of this provider instance.
    pub redirect_uri: Url,
    /// Sent along and expected back.
    pub state: Secret,
    /// Expected in the ID token.
    pub nonce: Secret,
    /// Its S256 challenge is sent along.
    pub code_verifier: Secret,
    /// What to ask for instead of the configured scopes; empty for those.
    pub scopes: Vec<String>,
    /// The account to suggest.
    pub login_hint: Option<String>,
    /// What [`new_dpop_key`](Connector::new_dpop_key) made for this trip: the thumbprint of its
    /// public half is sent along.
    pub dpop_key: Option<Secret>,
}

/// A code to be traded for tokens
/// ([RFC 6749 §4.1.3](https://www.rfc-editor.org/rfc/rfc6749#section-4.1.3)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodeExchange {
    /// What the provider sent back.
    pub code: Secret,
    /// The same as in the authorization request.
    pub redirect_uri: Url,
    /// Proves that the code is traded by whoever asked for it.
    pub code_verifier: Secret,
    /// Must be in the ID token.
    pub nonce: Secret,
    /// What came back as it was sent, for providers that want to see it again.
    pub state: Secret,
    /// Scopes that were asked for; what was granted when the answer names none.
    pub scopes: Vec<String>,
    /// What else the provider sent through the browser, which proves nothing: which company was
    /// chosen (`realmId`), which shop.
    pub parameters: BTreeMap<String, String>,
    /// The same as in the authorization request: what the code brings is bound to it.
    pub dpop_key: Option<Secret>,
}

/// Tokens that were traded for a code, verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// What to keep.
    pub credentials: Credentials,
    /// The claims of the verified ID token; empty where the provider issues none.
    pub claims: Map<String, Value>,
    /// What else the connector wants to know again when it builds the identity; never a credential.
    pub facts: Map<String, Value>,
}

/// What a provider answers to a device that wants to be authorized
/// ([RFC 8628 §3.2](https://www.rfc-editor.org/rfc/rfc8628#section-3.2)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceAuthorization {
    /// What the provider is asked with what became of it.
    pub device_code: Secret,
    /// What the user types there.
    pub user_code: String,
    /// Where.
    pub verification_uri: Url,
    /// The same with the code in it, to be shown as a picture or a link, if the provider has that.
    pub verification_uri_complete: Option<Url>,
    /// How long the provider waits for the user.
    pub expires_in: Duration,
    /// How long to wait between two polls, at least.
    pub interval: Duration,
}

/// What a provider answers to the question what became of a device authorization
/// ([RFC 8628 §3.5](https://www.rfc-editor.org/rfc/rfc8628#section-3.5)).
#[derive(Clone, Debug, PartialEq)]
pub enum DevicePoll {
    /// The user has not decided yet.
    Pending,
    /// The same, and it is asked too often: five seconds more from now on.
    SlowDown,
    /// The user said yes.
    Granted(Box<Grant>),
}

/// Credentials to be renewed
/// ([RFC 6749 §6](https://www.rfc-editor.org/rfc/rfc6749#section-6)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshRequest {
    /// What is spent.
    pub refresh_token: Secret,
    /// Whose credentials they are: an ID token in the answer must name the same account
    /// ([OpenID Connect Core 1.0 §12.2](https://openid.net/specs/openid-connect-core-1_0.html#RefreshTokenResponse)).
    pub external_id: ExternalId,
    /// Our callback of this provider instance, for providers that want to see it again.
    pub redirect_uri: Option<Url>,
    /// The key that the refresh token is bound to, see [`Credentials::key_of_refresh_token`], or
    /// the first one of a grant that is to be bound from now on; the new tokens are bound to it.
    pub dpop_key: Option<Secret>,
}

/// What a logout token says that was verified: the provider ended a session of this account
/// ([OpenID Connect Back-Channel Logout 1.0 §2.4](https://openid.net/specs/openid-connect-backchannel-1_0.html#LogoutToken)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logout {
    /// Whose; `None` where the token names the session alone.
    pub external_id: Option<ExternalId>,
    /// Which session, where the provider says so: the `sid` of the ID token that began it.
    pub session_id: Option<String>,
    /// Names the token: it counts once.
    pub token_id: String,
    /// From when on it would be refused for its age, UTC.
    pub refused_from: DateTime<Utc>,
}

/// Whether a grant was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revocation {
    /// The provider ended it, or did not know it any more.
    Revoked,
    /// The provider has no such step, or there is nothing to revoke.
    Unsupported,
}

/// Whether something that must happen once may have happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// The request never left.
    No,
    /// The provider answered, and the answer says that it did nothing.
    Answered,
    /// The request left, and what came back does not tell.
    Unknown,
}

/// Why a provider could not be made to do something. The variant says who must act.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConnectorError {
    /// The user: the grant is refused (`invalid_grant`, `access_denied` and their like).
    #[error("the provider refuses the grant ({code})")]
    GrantRejected {
        /// The registered error code, or a native one from the catalog.
        code: String,
    },
    /// The operator: our client or our request is refused (`invalid_client`,
    /// `unauthorized_client`, `invalid_scope`, a redirect URI that is not registered).
    #[error("the provider rejects our client ({code})")]
    ClientRejected {
        /// The registered error code, or a native one from the catalog.
        code: String,
    },
    /// The operator: our configuration cannot work (discovery names another issuer, a forbidden
    /// address), or the provider's administrator keeps our client out.
    #[error("the provider is misconfigured: {detail}")]
    Misconfigured {
        /// What is wrong and what to do, in words of ours.
        detail: String,
    },
    /// Nobody yet: no answer, 5xx, 429, an answer that cannot be read.
    #[error("the provider is unavailable: {detail}")]
    Unavailable {
        /// What happened, in words of ours.
        detail: String,
        /// When to try again, if the provider said so.
        retry_after: Option<Duration>,
        /// Whether what was asked for may have happened.
        sent: Sent,
    },
    /// Nobody: what the provider sent does not prove what it should (a signature, an issuer, a
    /// nonce, another subject). Nothing of it was used.
    #[error("the provider's answer is not trusted: {detail}")]
    Untrusted {
        /// Which check failed, in words of ours.
        detail: String,
    },
}

/// Speaks to one provider instance. Knows nothing of users and stores nothing.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Connector: Send + Sync {
    /// What this instance can do.
    fn capabilities(&self) -> Capabilities;

    /// The public halves of the keys that this client signs with, as JSON Web Keys
    /// ([RFC 7517](https://www.rfc-editor.org/rfc/rfc7517)); none for a client that has a secret
    /// or nothing.
    fn public_keys(&self) -> Vec<Value> {
        Vec::new()
    }

    /// A new private key, for a grant that the provider is to bind to it
    /// ([RFC 9449](https://www.rfc-editor.org/rfc/rfc9449)); `None` where it binds none. Its form
    /// is the connector's own.
    fn new_dpop_key(&self) -> Option<Secret> {
        None
    }

    /// Where to send the browser. May fetch the provider's metadata.
    async fn authorize(&self, request: &AuthorizationRequest) -> Result<Url, ConnectorError>;

    /// Checks the `iss` of an authorization response, before anything else of it is used
    /// ([RFC 9207 §2.4](https://www.rfc-editor.org/rfc/rfc9207#section-2.4)): one that is there
    /// must be the provider's; it must be there when `required` or when the provider's metadata
    /// say that it will be.
    async fn check_issuer<'a>(
        &self,
        issuer: Option<&'a str>,
        required: bool,
    ) -> Result<(), ConnectorError>;

    /// Trades a code for tokens, and verifies the ID token in full. Where the instance is to have
    /// its tokens bound to a key, a token that is not is refused.
    async fn exchange(&self, exchange: &CodeExchange) -> Result<Grant, ConnectorError>;

    /// Asks for a code that the user types on another device. `scopes` are what to ask for instead
    /// of the configured scopes; empty for those.
    async fn device_authorize(
        &self,
        scopes: &[String],
    ) -> Result<DeviceAuthorization, ConnectorError> {
        let _ = scopes;
        Err(no_device_flow())
    }

    /// Asks what became of it, and verifies the ID token of a grant in full, except for a nonce,
    /// which there is not. Where tokens are bound to a key, each poll makes its own: they are bound
    /// to that of the poll that brings them. [`ConnectorError::GrantRejected`] with `access_denied` when the user
    /// said no, and with `expired_token` when the user took too long.
    async fn device_poll(
        &self,
        device_code: &Secret,
        scopes: &[String],
    ) -> Result<DevicePoll, ConnectorError> {
        let _ = (device_code, scopes);
        Err(no_device_flow())
    }

    /// Establishes whose the grant is, from its claims and the provider's profile endpoint.
    async fn build_identity(&self, grant: &Grant) -> Result<ExternalAccount, ConnectorError>;

    /// Gets new credentials. What the provider did not send again is absent in the answer: see
    /// [`Credentials::renewed_by`]. Sends at most one request that can spend the refresh token: one
    /// that is answered "client authentication failed" cannot, since the token in it was not looked
    /// at, and may be sent again with another client secret. Nor can one that is answered
    /// "use this nonce in your proof"
    /// ([RFC 9449 §8](https://www.rfc-editor.org/rfc/rfc9449#section-8)).
    ///
    /// What is bound to a key stays bound to it, also where the instance would bind nothing any
    /// more. A provider that does not bind the new access token has issued it all the same: it is
    /// in the answer, with the key and another token type, and is not to be handed out.
    async fn refresh(&self, request: &RefreshRequest) -> Result<Credentials, ConnectorError>;

    /// Whether the provider answers at all, asked before a refresh token is risked once more;
    /// spends nothing.
    async fn reachable(&self) -> Result<(), ConnectorError>;

    /// Verifies a logout token in full, all but that it did not come before
    /// ([OpenID Connect Back-Channel Logout 1.0 §2.6](https://openid.net/specs/openid-connect-backchannel-1_0.html#Validation)):
    /// [`ConnectorError::Untrusted`] says what of it does not fit.
    async fn verify_logout(&self, logout_token: &Secret) -> Result<Logout, ConnectorError> {
        let _ = logout_token;
        let detail = "nothing of this provider type proves a logout".to_owned();
        Err(ConnectorError::Untrusted { detail })
    }

    /// Ends the grant ([RFC 7009](https://www.rfc-editor.org/rfc/rfc7009)).
    async fn revoke(&self, credentials: &Credentials) -> Result<Revocation, ConnectorError>;
}

fn no_device_flow() -> ConnectorError {
    ConnectorError::Misconfigured { detail: "this provider type has no device flow".to_owned() }
}

/// A configuration does not fit its provider type.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("config.{field}: {problem}")]
pub struct InvalidConfig {
    /// The key, for example `issuer`.
    pub field: String,
    /// What is wrong and what was expected; never quotes a secret.
    pub problem: String,
}

/// Where browsers and the provider reach us as the client of one provider instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAddresses {
    /// Where authorization responses go.
    pub redirect_uri: Url,
    /// Where the provider tells that a session ended
    /// ([OpenID Connect Back-Channel Logout 1.0](https://openid.net/specs/openid-connect-backchannel-1_0.html)).
    pub backchannel_logout_uri: Url,
}

/// What a provider told when an instance of it was made; see [`Connectors::register`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Registered {
    /// To be added to the configuration: our client's id there, whose accounts these are.
    pub config: Map<String, Value>,
    /// To be added to the secrets.
    pub secrets: ProviderSecrets,
}

/// The catalog: which provider types there are, and how to speak to their instances.
#[cfg_attr(any(test, feature = "testing"), mockall::automock)]
#[async_trait]
pub trait Connectors: Send + Sync {
    /// Every type, by name.
    fn types(&self) -> Vec<ProviderType>;

    /// One type, or `None` when there is none by that name.
    fn find_type(&self, name: &str) -> Option<ProviderType> {
        self.types().into_iter().find(|it| it.name == name)
    }

    /// Checks a configuration, secrets included, without asking anybody.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] names the first key that does not fit: unknown, missing, or of a wrong
    /// form. An unknown type is an error too.
    fn check(
        &self,
        provider_type: &str,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<(), InvalidConfig>;

    /// Asks the provider whether it can do what a configuration asks of it that fits the type.
    /// Only called where one of the type's [`asked_keys`](ProviderType::asked_keys) is there.
    async fn verify(
        &self,
        provider_type: &str,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<(), ConnectorError> {
        let _ = (provider_type, config, secrets);
        Ok(())
    }

    /// What speaks to an instance. Asks nobody.
    ///
    /// # Errors
    ///
    /// [`InvalidConfig`] as from [`check`](Self::check).
    fn connect(
        &self,
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
    ) -> Result<Arc<dyn Connector>, InvalidConfig>;

    /// Asks the provider of a new instance for what its type finds out by itself, and registers
    /// our client there where none is configured
    /// ([RFC 7591](https://www.rfc-editor.org/rfc/rfc7591)). Only called for types that have
    /// [`registered_keys`](ProviderType::registered_keys), and what it answers is among those.
    /// `None` when there is nothing to add.
    async fn register(
        &self,
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
        addresses: &ClientAddresses,
    ) -> Result<Option<Registered>, ConnectorError> {
        let _ = (provider, secrets, addresses);
        Ok(None)
    }

    /// Takes back what [`register`](Self::register) did at the provider
    /// ([RFC 7592](https://www.rfc-editor.org/rfc/rfc7592)); nothing where it did nothing, or the
    /// provider has no such step.
    async fn deregister(
        &self,
        provider: &IdentityProvider,
        secrets: &ProviderSecrets,
    ) -> Result<(), ConnectorError> {
        let _ = (provider, secrets);
        Ok(())
    }
}
