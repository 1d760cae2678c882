use std::{sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::{Providers, Tasks};
use crate::{
    Error,
    credentials::Credentials,
    event::{Actor, EventKind, NewEvent},
    identity::{Identity, IdentityFilter},
    ids::{ExternalId, IdentityId, ProviderId, UserId},
    page::{Page, PageRequest},
    ports::{
        Clock, DataOutcome, DataUpdate, EventLog, IdentityRepository, Link, LinkOutcome, LinkOwner,
        RepositoryError, Revocation, Taken, Unlink, UnlinkOutcome,
    },
    secret::Secret,
};

/// Links without a browser, changes and removes identities.
#[derive(Clone)]
pub struct Identities {
    /// Where identities are kept.
    pub identities: Arc<dyn IdentityRepository>,
    /// Where what happened is written down.
    pub events: Arc<dyn EventLog>,
    /// How providers are reached.
    pub providers: Arc<Providers>,
    /// Now.
    pub clock: Arc<dyn Clock>,
    /// Keeps revocations going when the caller leaves.
    pub tasks: Tasks,
    /// How long a provider may take to end a grant.
    pub revocation_timeout: Duration,
}

/// An account that a trusted caller vouches for.
#[derive(Clone, Debug, PartialEq)]
pub struct NewIdentity {
    /// Where the account lives.
    pub provider_id: ProviderId,
    /// Whose it is.
    pub user_id: UserId,
    /// Which account.
    pub external_id: ExternalId,
    /// The profile and the caller's own values; credential keys are taken out and sealed.
    pub data: Map<String, Value>,
    /// What the provider granted.
    pub scopes: Vec<String>,
    /// Whether an existing link may be rebound.
    pub reattach: bool,
}

impl Identities {
    /// Identities in ascending id order.
    ///
    /// # Errors
    ///
    /// [`Error::FilterRequired`] when nothing narrows the result: nobody reads every row by
    /// mistake.
    pub async fn list(
        &self,
        filter: &IdentityFilter,
        page: PageRequest,
    ) -> Result<Page<Identity>, Error> {
        if filter.is_empty() {
            return Err(Error::FilterRequired);
        }
        Ok(self.identities.list(filter, page).await?)
    }

    /// Links an account that the caller vouches for. Doing it twice is doing it once.
    ///
    /// # Errors
    ///
    /// [`Error::IdentityAlreadyLinked`] when the account or the user's place is taken and
    /// reattaching was not asked for; [`Error::InvalidRequest`] for a provider that is not there.
    pub async fn link(&self, new: NewIdentity, actor: Actor) -> Result<LinkOutcome, Error> {
        let (data, credentials) = take_credentials(new.data, &new.scopes, self.clock.now())?;
        let link = Link {
            provider_id: new.provider_id,
            owner: LinkOwner::User(new.user_id),
            external_id: new.external_id,
            legacy_id: None,
            data,
            credentials,
            scopes: new.scopes,
            reattach: new.reattach,
            session: None,
            actor,
        };
        match self.identities.link(&link).await {
            Ok(LinkOutcome::Taken(taken)) => Err(already_linked(taken)),
            Ok(outcome) => Ok(outcome),
            Err(RepositoryError::NotFound) => {
                Err(Error::invalid("provider_id", "there is no such identity provider"))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces an identity's `data`. The keys `access_token`, `refresh_token`, `id_token`,
    /// `expires` (Unix seconds) and `token_type` are taken out, sealed, and kept as the
    /// credentials.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::VersionConflict`] when `if_version` is not the version;
    /// [`Error::InvalidRequest`] for a credential key of a wrong form.
    pub async fn update_data(
        &self,
        id: IdentityId,
        data: Map<String, Value>,
        if_version: Option<i64>,
        actor: Actor,
    ) -> Result<Identity, Error> {
        let (data, credentials) = take_credentials(data, &[], self.clock.now())?;
        let update = DataUpdate { id, data, credentials, if_version, actor };
        match self.identities.update_data(&update).await? {
            DataOutcome::Updated(identity) => Ok(identity),
            DataOutcome::VersionConflict => Err(Error::VersionConflict),
            DataOutcome::Absent => Err(Error::NotFound("identity")),
        }
    }

    /// Removes a link, and with `revoke` ends the grant at the provider where it can. The link
    /// is gone whether or not the provider plays along; the event log says which.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn unlink(&self, id: IdentityId, revoke: bool, actor: Actor) -> Result<(), Error> {
        self.unlink_guarded(Unlink::unguarded(id, &actor), revoke).await
    }

    /// The same, unless it is another user's, or the guard keeps it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::NeededToSignIn`].
    pub async fn unlink_guarded(&self, unlink: Unlink, revoke: bool) -> Result<(), Error> {
        let (identity, credentials) = match self.identities.unlink(&unlink).await? {
            UnlinkOutcome::Unlinked(identity, credentials) => (identity, credentials),
            UnlinkOutcome::Needed(why) => return Err(Error::NeededToSignIn(why)),
            UnlinkOutcome::Absent => return Err(Error::NotFound("identity")),
        };
        let actor = unlink.actor;
        if let (true, Some(credentials)) = (revoke, credentials) {
            let this = self.clone();
            let work = self.tasks.spawn(async move {
                this.revoke(identity.id, identity.idp_id, &credentials, actor).await;
            });
            // The link is gone; how the revocation went is in the event log.
            let _ = work.await;
        }
        Ok(())
    }

    /// Ends a grant that no identity owns any more, and writes down how it went.
    pub(super) async fn revoke(
        &self,
        id: IdentityId,
        provider_id: ProviderId,
        credentials: &Credentials,
        actor: Actor,
    ) {
        let attempt = async {
            let (_, connector) = self.providers.connect(provider_id).await?;
            connector.revoke(credentials).await.map_err(Error::from)
        };
        let (about, detail) = match tokio::time::timeout(self.revocation_timeout, attempt).await {
            Ok(Ok(Revocation::Revoked)) => (EventKind::GrantRevoked, Map::new()),
            Ok(Ok(Revocation::Unsupported)) => (
                EventKind::GrantRevocationFailed,
                detail("the provider offers no revocation; end the grant there by hand"),
            ),
            Ok(Err(error)) => (EventKind::GrantRevocationFailed, detail(&error.to_string())),
            Err(_) => (EventKind::GrantRevocationFailed, detail("the provider did not answer")),
        };
        let event = NewEvent {
            identity_id: Some(id),
            provider_id: Some(provider_id),
            detail,
            ..NewEvent::new(about, &actor)
        };
        if let Err(error) = self.events.append(&event).await {
            tracing::error!(%error, identity = %id, "could not write down a revocation");
        }
    }
}

fn detail(text: &str) -> Map<String, Value> {
    Map::from_iter([("detail".to_owned(), json!(text))])
}

/// What the caller is told when a link is taken.
pub(super) fn already_linked(taken: Taken) -> Error {
    Error::IdentityAlreadyLinked(match taken {
        Taken::Account => {
            "the account is linked to another user; unlink it there, or ask with `reattach`"
        }
        Taken::User => {
            "the user has linked another account of this provider; unlink that one, or ask with `reattach`"
        }
    })
}

/// Takes the credential keys out of `data`.
pub(super) fn take_credentials(
    mut data: Map<String, Value>,
    scopes: &[String],
    now: DateTime<Utc>,
) -> Result<(Map<String, Value>, Option<Credentials>), Error> {
    let mut text = |key: &str| match data.remove(key) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) if !text.is_empty() => Ok(Some(text)),
        Some(_) => Err(Error::invalid(format!("data.{key}"), "must be a non-empty text")),
    };
    let access_token = text("access_token")?.map(Secret::new);
    let refresh_token = text("refresh_token")?.map(Secret::new);
    let id_token = text("id_token")?.map(Secret::new);
    let token_type = text("token_type")?;
    let expires_at = match data.remove("expires") {
        None | Some(Value::Null) => None,
        Some(value) => {
            let seconds = value.as_i64().or_else(|| value.as_str()?.parse().ok());
            let time = seconds.and_then(|it| DateTime::from_timestamp(it, 0));
            Some(time.ok_or_else(|| {
                Error::invalid(
                    "data.expires",
                    "must be a time in Unix seconds, for example 1800000000",
                )
            })?)
        }
    };
    if access_token.is_none() && refresh_token.is_none() && id_token.is_none() {
        if expires_at.is_some() || token_type.is_some() {
            return Err(Error::invalid(
                "data.access_token",
                "must be there when `expires` or `token_type` is",
            ));
        }
        return Ok((data, None));
    }
    let credentials = Credentials {
        access_token,
        refresh_token,
        id_token,
        token_type,
        expires_at,
        obtained_at: Some(now),
        scopes: scopes.to_vec(),
    };
    Ok((data, Some(credentials)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            _ => panic!("an object"),
        }
    }

    #[test]
    fn credential_keys_leave_the_data() {
        let now = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let (data, credentials) = take_credentials(
            object(json!({
                "team": "T1", "access_token": "a", "refresh_token": "r", "id_token": "i",
                "expires": 1_700_000_060, "token_type": "bearer"
            })),
            &["x".into()],
            now,
        )
        .unwrap();
        assert_eq!(data, object(json!({"team": "T1"})));
        let credentials = credentials.unwrap();
        assert_eq!(credentials.access_token, Some(Secret::new("a")));
        assert_eq!(credentials.lifetime(), Some(chrono::Duration::seconds(60)));
        assert_eq!(credentials.scopes, ["x"]);
    }

    #[test]
    fn data_without_credential_keys_leaves_credentials_alone() {
        let now = DateTime::UNIX_EPOCH;
        let (data, credentials) = take_credentials(object(json!({"a": 1})), &[], now).unwrap();
        assert_eq!((data, credentials), (object(json!({"a": 1})), None));
    }

    #[test]
    fn a_credential_key_of_a_wrong_form_is_named_and_not_quoted() {
        for (data, field) in [
            (json!({"access_token": 1}), "data.access_token"),
            (json!({"access_token": ""}), "data.access_token"),
            (json!({"refresh_token": ["canary"]}), "data.refresh_token"),
            (json!({"access_token": "canary", "expires": "soon"}), "data.expires"),
            (json!({"expires": 5}), "data.access_token"),
        ] {
            let error = take_credentials(object(data), &[], DateTime::UNIX_EPOCH).unwrap_err();
            assert!(!error.to_string().contains("canary"));
            assert!(matches!(error, Error::InvalidRequest { field: it, .. } if it == field));
        }
    }
}
