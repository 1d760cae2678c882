use async_trait::async_trait;
use serde_json::{Map, Value};
use symbolon_domain::{
    account::ExternalAccount,
    credentials::Credentials,
    identity_provider::Capabilities,
    ids::ExternalId,
    ports::{
        AuthorizationRequest, CodeExchange, Connector, ConnectorError, DeviceAuthorization,
        DevicePoll, Grant, RefreshRequest, Revocation,
    },
    secret::Secret,
};
use symbolon_oauth2::{OpenIdConnector, untrusted};
use url::Url;

/// OpenID Connect as Google speaks it.
pub(crate) struct GoogleConnector {
    pub(crate) openid: OpenIdConnector,
    /// The only Workspace domain whose accounts are accepted.
    pub(crate) hosted_domain: Option<String>,
}

impl GoogleConnector {
    /// Refuses an account that is not of the configured domain.
    fn check_domain(&self, grant: &Grant) -> Result<(), ConnectorError> {
        if let Some(domain) = &self.hosted_domain
            && !hosted_domain(&grant.claims).is_some_and(|it| it.eq_ignore_ascii_case(domain))
        {
            return Err(untrusted("the account", "it is not of the configured hosted domain"));
        }
        Ok(())
    }
}

/// Refuses the way that Google does not have for a client of this type.
fn check_way(is_there: bool, other: &str) -> Result<(), ConnectorError> {
    if is_there {
        return Ok(());
    }
    let detail = format!("the client is of another type at Google (client_type): {other}");
    Err(ConnectorError::Misconfigured { detail })
}

#[async_trait]
impl Connector for GoogleConnector {
    fn capabilities(&self) -> Capabilities {
        self.openid.capabilities()
    }

    async fn authorize(&self, request: &AuthorizationRequest) -> Result<Url, ConnectorError> {
        check_way(self.capabilities().browser, "start a device link instead")?;
        self.openid.authorize(request).await
    }

    async fn check_issuer<'a>(
        &self,
        issuer: Option<&'a str>,
        required: bool,
    ) -> Result<(), ConnectorError> {
        self.openid.check_issuer(issuer, required).await
    }

    async fn exchange(&self, exchange: &CodeExchange) -> Result<Grant, ConnectorError> {
        let grant = self.openid.exchange(exchange).await?;
        self.check_domain(&grant)?;
        Ok(grant)
    }

    async fn device_authorize(
        &self,
        scopes: &[String],
    ) -> Result<DeviceAuthorization, ConnectorError> {
        check_way(self.capabilities().device, "start a link session instead")?;
        self.openid.device_authorize_unproven(scopes).await
    }

    async fn device_poll(
        &self,
        device_code: &Secret,
        scopes: &[String],
    ) -> Result<DevicePoll, ConnectorError> {
        let polled = self.openid.device_poll(device_code, scopes).await?;
        if let DevicePoll::Granted(grant) = &polled {
            self.check_domain(grant)?;
        }
        Ok(polled)
    }

    async fn build_identity(&self, grant: &Grant) -> Result<ExternalAccount, ConnectorError> {
        let mut account = self.openid.build_identity(grant).await?;
        account.legacy_id = legacy_id(&account, &grant.claims);
        if let Some(domain) = hosted_domain(&grant.claims) {
            account.claims.insert("hd".into(), domain.into());
        }
        Ok(account)
    }

    async fn refresh(&self, request: &RefreshRequest) -> Result<Credentials, ConnectorError> {
        self.openid.refresh(request).await
    }

    async fn reachable(&self) -> Result<(), ConnectorError> {
        self.openid.reachable().await
    }

    async fn revoke(&self, credentials: &Credentials) -> Result<Revocation, ConnectorError> {
        self.openid.revoke(credentials).await
    }
}

fn hosted_domain(claims: &Map<String, Value>) -> Option<&str> {
    claims.get("hd").and_then(Value::as_str).filter(|it| !it.is_empty())
}

/// The address, where Google is the authority for it: verified, and either of gmail.com or of an
/// account with a hosted domain
/// ([documentation](https://developers.google.com/identity/gsi/web/guides/verify-google-id-token)).
/// Anybody could have had any other address verified at some time. Address and domain are those
/// of the signed ID token.
fn legacy_id(account: &ExternalAccount, claims: &Map<String, Value>) -> Option<ExternalId> {
    let email = claims.get("email").and_then(Value::as_str)?;
    if account.email.as_deref() != Some(email) || !account.email_verified {
        return None;
    }
    let of_gmail = email.to_ascii_lowercase().ends_with("@gmail.com");
    if of_gmail || hosted_domain(claims).is_some() { ExternalId::new(email).ok() } else { None }
}
