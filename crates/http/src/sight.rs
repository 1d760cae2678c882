//! What a key sees that is limited to provider types, provider instances or users. For one that is
//! not, nothing is asked.

use std::sync::Arc;

use symbolon_domain::{
    Error,
    api_key::KeyLimits,
    ids::{IdentityId, ProviderId},
    ports::IdentityRepository,
    services::Providers,
};

use crate::error::ApiError;

/// Finds out whether a limited key sees a thing.
#[derive(Clone)]
pub(crate) struct Sight {
    pub(crate) providers: Arc<Providers>,
    pub(crate) identities: Arc<dyn IdentityRepository>,
}

impl Sight {
    /// Whether the provider instance is there for a key with these limits. One that is not there
    /// at all is: whoever looks for it will say so.
    pub(crate) async fn sees_provider(
        &self,
        limits: &KeyLimits,
        id: ProviderId,
    ) -> Result<bool, ApiError> {
        if limits.provider_types.is_none() && limits.providers.is_none() {
            return Ok(true);
        }
        let found = self.providers.providers.find(id).await?;
        Ok(found.is_none_or(|it| limits.allow_provider(id, &it.provider_type)))
    }

    /// Refuses what hangs on a provider instance of another type, as if it were not there.
    pub(crate) async fn check_provider(
        &self,
        limits: &KeyLimits,
        id: ProviderId,
        noun: &'static str,
    ) -> Result<(), ApiError> {
        if self.sees_provider(limits, id).await? {
            Ok(())
        } else {
            Err(Error::NotFound(noun).into())
        }
    }

    /// Refuses an identity at another provider instance or of another user, as if it were not
    /// there.
    pub(crate) async fn check_identity(
        &self,
        limits: &KeyLimits,
        id: IdentityId,
    ) -> Result<(), ApiError> {
        let anybodys = limits.users.is_none();
        if anybodys && limits.provider_types.is_none() && limits.providers.is_none() {
            return Ok(());
        }
        let identity = self.identities.find(id).await?.ok_or(Error::NotFound("identity"))?;
        if !limits.allow_user(&identity.user_id) {
            return Err(Error::NotFound("identity").into());
        }
        self.check_provider(limits, identity.idp_id, "identity").await
    }
}
