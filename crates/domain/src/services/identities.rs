use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::{Providers, Revocations};
use crate::{
    Error,
    credentials::Credentials,
    event::{Actor, Event, EventKind},
    identity::{Identity, IdentityFilter},
    identity_provider::{IdentityProvider, ProviderType},
    ids::{ExternalId, IdentityId, OrganizationId, ProviderId, UserId},
    link_evidence::{LinkEvidence, LinkMethod},
    page::{Page, PageRequest},
    ports::{
        Clock, DataOutcome, DataUpdate, EventFilter, EventLog, IdentityRepository, Link,
        LinkOutcome, LinkOwner, RepositoryError, Taken, Unlink, UnlinkOutcome,
    },
    secret::Secret,
};

/// Links without a browser, changes and removes identities.
#[derive(Clone)]
pub struct Identities {
    /// Where identities are kept.
    pub identities: Arc<dyn IdentityRepository>,
    /// What happened to them.
    pub events: Arc<dyn EventLog>,
    /// How providers are reached.
    pub providers: Arc<Providers>,
    /// Ends the grants of what is unlinked.
    pub revocations: Arc<Revocations>,
    /// Now.
    pub clock: Arc<dyn Clock>,
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
    /// An older name of the account: a row under it is rewritten to `external_id`.
    pub legacy_id: Option<ExternalId>,
    /// Whether an existing link may be rebound.
    pub reattach: bool,
}

/// Why an account is linked, and how it went since.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// The link as it is.
    pub identity: Identity,
    /// What made it this user's link of this account; `None` when that is not on record.
    pub linked: Option<Event>,
    /// The latest proof since then that the user holds the account.
    pub verified: Option<Event>,
    /// How refreshes ended since then, the first first.
    pub refreshes: Page<Event>,
}

/// What makes an account a user's.
const BEGINNINGS: [EventKind; 4] = [
    EventKind::IdentityLinked,
    EventKind::IdentityRebound,
    EventKind::IdentityTransferred,
    EventKind::IdentityImported,
];
/// What proves it again.
const PROOFS: [EventKind; 2] = [EventKind::IdentityRelinked, EventKind::IdentitySignedIn];
/// How refreshes end.
const REFRESHES: [EventKind; 3] = [
    EventKind::IdentityRefreshed,
    EventKind::IdentityRefreshFailed,
    EventKind::IdentityInvalidated,
];

impl Identities {
    /// Why an account is linked, as far as the event log knows; `page` is of the refreshes.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn explain(&self, id: IdentityId, page: PageRequest) -> Result<Explanation, Error> {
        let identity = self.identities.find(id).await?.ok_or(Error::NotFound("identity"))?;
        let of = |kinds: &[EventKind], after| EventFilter {
            kinds: kinds.to_vec(),
            identity_id: Some(id),
            after,
            ..EventFilter::default()
        };
        let linked = self.events.find_last(&of(&BEGINNINGS, None)).await?;
        let since = linked.as_ref().map(|it| it.id);
        let verified = self.events.find_last(&of(&PROOFS, since)).await?;
        let refreshes = self.events.list(&of(&REFRESHES, since), page).await?;
        Ok(Explanation { identity, linked, verified, refreshes })
    }

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
            legacy_id: new.legacy_id,
            data,
            credentials,
            scopes: new.scopes,
            reattach: new.reattach,
            session: None,
            device_link: None,
            evidence: LinkEvidence::of(LinkMethod::Vouched),
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
    /// is gone whether or not the provider plays along: the grant is tried once before this comes
    /// back, and waits in the queue of [`Revocations`] when that fails. The event log says how it
    /// ended.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`].
    pub async fn unlink(&self, id: IdentityId, revoke: bool, actor: Actor) -> Result<(), Error> {
        self.unlink_guarded(Unlink { revoke, ..Unlink::unguarded(id, &actor) }).await
    }

    /// The same, unless it is another user's, or the guard keeps it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::NeededToSignIn`].
    pub async fn unlink_guarded(&self, unlink: Unlink) -> Result<(), Error> {
        let revocation = match self.identities.unlink(&unlink).await? {
            UnlinkOutcome::Unlinked(_, revocation) => revocation,
            UnlinkOutcome::Needed(why) => return Err(Error::NeededToSignIn(why)),
            UnlinkOutcome::Absent => return Err(Error::NotFound("identity")),
        };
        if let Some(revocation) = revocation {
            self.revocations.try_now(revocation).await;
        }
        Ok(())
    }

    /// The first identity that is meant, by id order, and whether more are; `None` when none is.
    ///
    /// # Errors
    ///
    /// [`Error::FilterRequired`] when nothing narrows the result.
    pub async fn first(&self, filter: &IdentityFilter) -> Result<Option<Found>, Error> {
        let page = self.list(filter, PageRequest { limit: 1, after: None }).await?;
        let others = page.next.is_some();
        Ok(page.items.into_iter().next().map(|identity| Found { identity, others }))
    }

    /// Every identity of a user at any instance of a provider type, in ascending id order.
    ///
    /// With `exclude_matching_external_ids` those are left out whose account name is their
    /// instance's external id; instances without an external id leave nothing out. An unknown
    /// user or type has none. `None` as in [`all`](Self::all).
    ///
    /// # Errors
    ///
    /// [`Error::Repository`] when the store fails.
    pub async fn of_user_by_provider_type(
        &self,
        user_id: &UserId,
        provider_type: &str,
        exclude_matching_external_ids: bool,
        at_most: usize,
    ) -> Result<Option<Vec<Identity>>, Error> {
        let filter = IdentityFilter {
            user_id: Some(user_id.clone()),
            provider_type: Some(provider_type.to_owned()),
            exclude_matching_external_ids,
            ..IdentityFilter::default()
        };
        self.all(&filter, at_most).await
    }

    /// Every identity that an organization uses, of a user at any instance of a provider type, in
    /// ascending id order. `None` as in [`all`](Self::all).
    ///
    /// # Errors
    ///
    /// [`Error::Repository`] when the store fails.
    pub async fn of_organization_user_by_provider_type(
        &self,
        organization_id: &OrganizationId,
        user_id: &UserId,
        provider_type: &str,
        at_most: usize,
    ) -> Result<Option<Vec<Identity>>, Error> {
        let filter = IdentityFilter {
            organization_id: Some(organization_id.clone()),
            user_id: Some(user_id.clone()),
            provider_type: Some(provider_type.to_owned()),
            ..IdentityFilter::default()
        };
        self.all(&filter, at_most).await
    }

    /// Every identity that is meant, in ascending id order; `None` when they are more than
    /// `at_most`, so that a list is whole or not there.
    ///
    /// # Errors
    ///
    /// [`Error::FilterRequired`] when nothing narrows the result.
    pub async fn all(
        &self,
        filter: &IdentityFilter,
        at_most: usize,
    ) -> Result<Option<Vec<Identity>>, Error> {
        let (mut all, mut page) = (Vec::new(), PageRequest { limit: 200, after: None });
        loop {
            let Page { items, next } = self.list(filter, page).await?;
            all.extend(items);
            if all.len() > at_most {
                return Ok(None);
            }
            let Some(after) = next else { return Ok(Some(all)) };
            page.after = Some(after);
        }
    }

    /// The provider instance of an identity, and its type.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`] when the instance is gone; [`Error::ProviderMisconfigured`] when this
    /// version does not know its type.
    pub async fn provider_of(
        &self,
        identity: &Identity,
    ) -> Result<(IdentityProvider, ProviderType), Error> {
        let provider = self.providers.providers.find(identity.idp_id).await?;
        let provider = provider.ok_or(Error::NotFound("identity provider"))?;
        let kind = self.providers.connectors.find_type(&provider.provider_type);
        let kind = kind.ok_or_else(|| Error::ProviderMisconfigured {
            detail: format!("the provider type {:?} is not known", provider.provider_type),
        })?;
        Ok((provider, kind))
    }
}

/// An identity that a filter found.
#[derive(Clone, Debug, PartialEq)]
pub struct Found {
    /// The first, by id order.
    pub identity: Identity,
    /// Whether others match too, so that the filter does not tell which is meant.
    pub others: bool,
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
    if access_token.is_none() && (expires_at.is_some() || token_type.is_some()) {
        return Err(Error::invalid(
            "data.access_token",
            "must be there when `expires` or `token_type` is",
        ));
    }
    if access_token.is_none() && refresh_token.is_none() {
        // An ID token alone opens nothing, and is no new grant.
        if id_token.is_some() {
            return Err(Error::invalid(
                "data.access_token",
                "must be there, or `refresh_token`, when `id_token` is",
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
        ..Credentials::default()
    };
    Ok((data, Some(credentials)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
            (json!({"refresh_token": "canary", "expires": 5}), "data.access_token"),
            (json!({"id_token": "canary"}), "data.access_token"),
        ] {
            let error = take_credentials(object(data), &[], DateTime::UNIX_EPOCH).unwrap_err();
            assert!(!error.to_string().contains("canary"));
            assert!(matches!(error, Error::InvalidRequest { field: it, .. } if it == field));
        }
    }
}
