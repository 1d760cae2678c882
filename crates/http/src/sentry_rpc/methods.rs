use axum::body::Bytes;
use futures_util::future::try_join_all;
use serde::Serialize;
use serde_json::{Value, json};
use symbolon_domain::{
    Error,
    credentials::Credentials,
    event::Actor,
    identity::Identity,
    identity_provider::IdentityProvider,
    ids::{IdentityId, OrganizationId, ProviderId, UserId},
};

use super::{
    CREDENTIAL_KEYS, Object, SentryRpc,
    arguments::{
        ByFilter, Call, DeleteIdentities, GetProvider, OrganizationIdentities, RowId, UpdateData,
        UserIdentities,
    },
};
use crate::{
    error::ApiError,
    request::{ProductId, parse},
};

/// Most identities of one answer. Sentry's form knows no pages, and nobody's answer may grow
/// without end.
pub(super) const MOST_IDENTITIES: usize = 10_000;

/// Most credentials that are opened at the same time for one call.
const AT_A_TIME: usize = 16;

/// A provider instance as Sentry knows it.
#[derive(Serialize)]
struct RpcIdentityProvider {
    id: i64,
    #[serde(rename = "type")]
    provider_type: String,
    external_id: Option<String>,
}

impl From<IdentityProvider> for RpcIdentityProvider {
    fn from(it: IdentityProvider) -> Self {
        Self { id: it.id.0, provider_type: it.provider_type, external_id: it.external_id }
    }
}

/// An identity as Sentry knows it.
#[derive(Serialize)]
struct RpcIdentity {
    id: i64,
    idp_id: i64,
    user_id: Value,
    external_id: String,
    data: Object,
}

/// Sentry's users are integers; a text that is one is told as one.
fn integer_or_text(id: &UserId) -> Value {
    let text = id.as_str();
    match text.parse::<i64>() {
        Ok(number) if number.to_string() == text => number.into(),
        _ => text.into(),
    }
}

impl SentryRpc {
    /// Calls the method.
    pub(super) async fn dispatch(&self, method: &str, body: &Bytes) -> Result<Value, ApiError> {
        match method {
            "get_provider" => self.get_provider(parse::<Call<_>>(body)?.args.0).await,
            "get_identities" => {
                let filter = parse::<Call<ByFilter>>(body)?.args.0.filter.0.read()?;
                let found = match filter {
                    Some(filter) => self.identities.all(&filter, MOST_IDENTITIES).await?,
                    None => Some(Vec::new()),
                };
                self.list(found).await
            }
            "get_identity" => self.get_identity(parse::<Call<_>>(body)?.args.0).await,
            "get_user_identities_by_provider_type" => {
                self.get_user_identities(parse::<Call<_>>(body)?.args.0).await
            }
            "get_org_user_identities_by_provider_type" => {
                self.get_organization_identities(parse::<Call<_>>(body)?.args.0).await
            }
            "delete_identities" => {
                let call = parse::<Call<_>>(body)?;
                let actor = call.actor();
                self.delete_identities(call.args.0, &actor).await
            }
            "update_data" => {
                let call = parse::<Call<_>>(body)?;
                let actor = call.actor();
                self.update_data(call.args.0, actor).await
            }
            _ => {
                parse::<Call<Object>>(body)?;
                Err(Error::NotFound("method").into())
            }
        }
    }

    async fn get_provider(&self, args: GetProvider) -> Result<Value, ApiError> {
        let found = match (args.provider_id, args.provider_type) {
            (Some(RowId(id)), _) if id != 0 => self.providers.find(ProviderId(id)).await?,
            // A type that is null is nobody's.
            (_, None) => None,
            (_, Some(provider_type)) => {
                let external_id = args.provider_ext_id.as_deref();
                self.providers.find_by_key(&provider_type, external_id).await?
            }
        };
        Ok(json!(found.map(RpcIdentityProvider::from)))
    }

    async fn get_identity(&self, args: ByFilter) -> Result<Value, ApiError> {
        let Some(filter) = args.filter.0.read()? else { return Ok(Value::Null) };
        let found = self.identities.first(&filter).await?;
        self.one(found.map(|it| it.identity)).await
    }

    async fn get_user_identities(&self, args: UserIdentities) -> Result<Value, ApiError> {
        let UserIdentities { user_id, provider_type, exclude_matching_external_ids } = args;
        let Ok(user_id) = UserId::new(user_id.into_text()) else { return Ok(json!([])) };
        let found = self.identities.of_user_by_provider_type(
            &user_id,
            &provider_type,
            exclude_matching_external_ids,
            MOST_IDENTITIES,
        );
        self.list(found.await?).await
    }

    async fn get_organization_identities(
        &self,
        args: OrganizationIdentities,
    ) -> Result<Value, ApiError> {
        let OrganizationIdentities { organization_id, user_id, provider_type } = args;
        let (Some(organization), Some(user)) = named(organization_id, user_id) else {
            return Ok(json!([]));
        };
        let found = self.identities.of_organization_user_by_provider_type(
            &organization,
            &user,
            &provider_type,
            MOST_IDENTITIES,
        );
        self.list(found.await?).await
    }

    async fn delete_identities(
        &self,
        args: DeleteIdentities,
        actor: &Actor,
    ) -> Result<Value, ApiError> {
        if let (Some(organization), Some(user)) = named(args.organization_id, args.user_id) {
            self.auth_identities.delete_for(&user, &organization, actor).await?;
        }
        Ok(Value::Null)
    }

    async fn update_data(&self, args: UpdateData, actor: Actor) -> Result<Value, ApiError> {
        let UpdateData { identity_id: RowId(id), mut data } = args;
        let id = IdentityId(id);
        if self.include_credentials {
            self.leave_out_known(id, &mut data).await?;
        }
        match self.identities.update_data(id, data, None, actor).await {
            Ok(identity) => self.one(Some(identity)).await,
            Err(Error::NotFound(_)) => Ok(Value::Null),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes out the credentials that the caller was told and sends back as they are: they are
    /// not new ones, which would cut off a refresh under way.
    async fn leave_out_known(&self, id: IdentityId, data: &mut Object) -> Result<(), ApiError> {
        let stored = self.credentials.find(id).await?.and_then(|it| it.credentials);
        let known = stored.as_ref().map(told).unwrap_or_default();
        if CREDENTIAL_KEYS
            .iter()
            .all(|key| data.get(*key).is_none_or(|it| known.get(*key) == Some(it)))
        {
            for key in CREDENTIAL_KEYS {
                data.remove(key);
            }
        }
        Ok(())
    }

    /// A whole list, or an error where it is not whole.
    async fn list(&self, identities: Option<Vec<Identity>>) -> Result<Value, ApiError> {
        let whole = || ApiError::too_many_identities(MOST_IDENTITIES);
        let identities = identities.ok_or_else(whole)?;
        let mut values = Vec::with_capacity(identities.len());
        let mut rest = identities.into_iter();
        loop {
            let part: Vec<_> = rest.by_ref().take(AT_A_TIME).map(|it| self.show(it)).collect();
            if part.is_empty() {
                return Ok(json!(values));
            }
            values.extend(try_join_all(part).await?);
        }
    }

    async fn one(&self, identity: Option<Identity>) -> Result<Value, ApiError> {
        match identity {
            Some(identity) => Ok(json!(self.show(identity).await?)),
            None => Ok(Value::Null),
        }
    }

    async fn show(&self, identity: Identity) -> Result<RpcIdentity, ApiError> {
        let mut data = identity.data;
        if self.include_credentials {
            // What is frozen is told of without its tokens: Sentry's form knows no refusal of one
            // row in a list.
            if let Some(credentials) = self.vending.open_for_sentry(identity.id).await? {
                data.extend(told(&credentials));
            }
        }
        Ok(RpcIdentity {
            id: identity.id.0,
            idp_id: identity.idp_id.0,
            user_id: integer_or_text(&identity.user_id),
            external_id: identity.external_id.as_str().to_owned(),
            data,
        })
    }
}

/// An organization and a user; `None` for a text that can't name one, so that nothing is theirs.
fn named(organization: ProductId, user: ProductId) -> (Option<OrganizationId>, Option<UserId>) {
    (OrganizationId::new(organization.into_text()).ok(), UserId::new(user.into_text()).ok())
}

/// Credentials as Sentry keeps them in `data`.
fn told(credentials: &Credentials) -> Object {
    let text = |it: &Option<symbolon_domain::secret::Secret>| {
        it.as_ref().map(|it| Value::from(it.expose()))
    };
    let values = [
        text(&credentials.access_token),
        text(&credentials.refresh_token),
        text(&credentials.id_token),
        credentials.token_type.as_deref().map(Value::from),
        credentials.expires_at.map(|it| it.timestamp().into()),
    ];
    let pairs = CREDENTIAL_KEYS.into_iter().zip(values);
    pairs.filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}
