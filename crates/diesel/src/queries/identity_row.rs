//! A row of `identities`, and what becomes of it.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde_json::{Value, json};
use symbolon_domain::{
    credentials::Credentials,
    identity::{Identity, IdentityStatus, Invalid, InvalidReason},
    ids::{ExternalId, IdentityId, ProviderId, UserId},
    ports::{Link, Place, Sealer},
};

use super::{Db, schema::identities};
use crate::{
    failure::Failure,
    values::{self, object, parsed, texts},
};

/// The whole row. Changed only under the row's lock, then written back as a whole.
#[derive(Queryable, Selectable, Insertable, AsChangeset, Identifiable)]
#[diesel(table_name = identities, check_for_backend(Db), treat_none_as_null = true)]
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) idp_id: i64,
    pub(crate) user_id: String,
    pub(crate) external_id: String,
    pub(crate) data: Value,
    pub(crate) status: String,
    pub(crate) invalid_reason: Option<String>,
    pub(crate) invalid_at: Option<DateTime<Utc>>,
    pub(crate) scopes: Value,
    pub(crate) date_verified: DateTime<Utc>,
    pub(crate) date_added: DateTime<Utc>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) version: i64,
    pub(crate) credentials: Option<Vec<u8>>,
    pub(crate) generation: i64,
    pub(crate) attempt: i64,
    pub(crate) lease_holder: Option<String>,
    pub(crate) lease_until: Option<DateTime<Utc>>,
    pub(crate) unanswered: i32,
    pub(crate) retry_at: Option<DateTime<Utc>>,
    pub(crate) failures: i32,
    pub(crate) failure_class: Option<String>,
    pub(crate) failure_detail: Option<String>,
    /// Empty, or the same as `external_id`: a user has one row in each slot of a provider.
    pub(crate) user_slot: String,
    pub(crate) refresh_expires_at: Option<DateTime<Utc>>,
}

/// The columns that an [`Identity`] shows.
#[derive(Queryable, QueryableByName, Selectable)]
#[diesel(table_name = identities, check_for_backend(Db))]
pub(crate) struct Shown {
    pub(crate) id: i64,
    idp_id: i64,
    user_id: String,
    external_id: String,
    data: Value,
    status: String,
    invalid_reason: Option<String>,
    invalid_at: Option<DateTime<Utc>>,
    scopes: Value,
    date_verified: DateTime<Utc>,
    date_added: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    version: i64,
}

impl TryFrom<Shown> for Identity {
    type Error = Failure;

    fn try_from(row: Shown) -> Result<Self, Failure> {
        Ok(Self {
            id: IdentityId(row.id),
            idp_id: ProviderId(row.idp_id),
            user_id: values::user(row.user_id)?,
            external_id: ExternalId::new(row.external_id)
                .map_err(|error| Failure::unreadable(error.to_string()))?,
            data: object(row.data)?,
            status: parsed(&row.status, IdentityStatus::parse)?,
            invalid: invalid(row.invalid_reason.as_deref(), row.invalid_at)?,
            scopes: texts(row.scopes)?,
            date_verified: row.date_verified,
            date_added: row.date_added,
            expires_at: row.expires_at,
            version: row.version,
        })
    }
}

/// Why an identity is invalid, from its two columns.
pub(crate) fn invalid(
    reason: Option<&str>,
    at: Option<DateTime<Utc>>,
) -> Result<Option<Invalid>, Failure> {
    let Some((reason, at)) = reason.zip(at) else { return Ok(None) };
    Ok(Some(Invalid { reason: parsed(reason, InvalidReason::parse)?, at }))
}

/// Where an identity's credentials belong.
pub(crate) fn place(id: i64, idp: i64, generation: i64) -> Place {
    Place { table: "identities", row: id, idp, generation }
}

/// Seals credentials for their place.
pub(crate) fn seal(
    sealer: &dyn Sealer,
    place: &Place,
    credentials: &Credentials,
) -> Result<Vec<u8>, Failure> {
    sealer.seal(place, &credentials.to_plain()).map_err(|error| Failure::sealed(place, &error))
}

/// Opens credentials in their place.
pub(crate) fn open(
    sealer: &dyn Sealer,
    place: &Place,
    kept: Option<&[u8]>,
    refresh_expires_at: Option<DateTime<Utc>>,
) -> Result<Option<Credentials>, Failure> {
    let Some(kept) = kept else { return Ok(None) };
    let plain = sealer.open(place, kept).map_err(|error| Failure::sealed(place, &error))?;
    let credentials = Credentials::from_plain(&plain);
    let credentials = credentials.map_err(|error| Failure::unreadable(error.to_string()))?;
    Ok(Some(Credentials { refresh_expires_at, ..credentials }))
}

impl Row {
    /// A row that is not written yet: it has no id, and so no credentials.
    pub(crate) fn new(user: &UserId, link: &Link, several: bool, now: DateTime<Utc>) -> Self {
        Self {
            user_slot: if several { link.external_id.as_str() } else { "" }.to_owned(),
            id: 0,
            idp_id: link.provider_id.0,
            user_id: user.as_str().to_owned(),
            external_id: link.external_id.as_str().to_owned(),
            data: Value::Object(link.data.clone()),
            status: IdentityStatus::Valid.as_str().to_owned(),
            invalid_reason: None,
            invalid_at: None,
            scopes: json!(link.scopes),
            date_verified: now,
            date_added: now,
            expires_at: None,
            version: 1,
            credentials: None,
            generation: 0,
            attempt: 0,
            lease_holder: None,
            lease_until: None,
            unanswered: 0,
            retry_at: None,
            failures: 0,
            failure_class: None,
            failure_detail: None,
            refresh_expires_at: None,
        }
    }

    pub(crate) fn identity(&self) -> Result<Identity, Failure> {
        Shown {
            id: self.id,
            idp_id: self.idp_id,
            user_id: self.user_id.clone(),
            external_id: self.external_id.clone(),
            data: self.data.clone(),
            status: self.status.clone(),
            invalid_reason: self.invalid_reason.clone(),
            invalid_at: self.invalid_at,
            scopes: self.scopes.clone(),
            date_verified: self.date_verified,
            date_added: self.date_added,
            expires_at: self.expires_at,
            version: self.version,
        }
        .try_into()
    }

    pub(crate) fn open(&self, sealer: &dyn Sealer) -> Result<Option<Credentials>, Failure> {
        let place = place(self.id, self.idp_id, self.generation);
        open(sealer, &place, self.credentials.as_deref(), self.refresh_expires_at)
    }

    /// Puts other credentials in place, or none. Whoever refreshes the old ones is fenced off:
    /// the lease ends, and a write that says it was done already can't be mistaken for this one.
    pub(crate) fn replace_credentials(
        &mut self,
        sealer: &dyn Sealer,
        credentials: Option<&Credentials>,
    ) -> Result<(), Failure> {
        self.attempt += 1;
        self.lease_until = None;
        if self.credentials.is_none() && credentials.is_none() {
            return Ok(());
        }
        self.generation += 1;
        let place = place(self.id, self.idp_id, self.generation);
        self.credentials = credentials.map(|it| seal(sealer, &place, it)).transpose()?;
        self.expires_at = credentials.and_then(|it| it.expires_at).map(super::to_microseconds);
        self.refresh_expires_at =
            credentials.and_then(|it| it.refresh_expires_at).map(super::to_microseconds);
        self.unanswered = 0;
        self.retry_at = None;
        self.failures = 0;
        self.failure_class = None;
        self.failure_detail = None;
        Ok(())
    }

    /// Puts the answer of a provider over what is there, and makes the identity valid: none of the
    /// tokens that made it invalid are kept.
    pub(crate) fn renew_credentials(
        &mut self,
        sealer: &dyn Sealer,
        answer: &Credentials,
    ) -> Result<(), Failure> {
        // What does not open must not stand in the way of what mends it.
        let before = self.open(sealer).unwrap_or_else(|_| {
            tracing::warn!(identity = self.id, "the old credentials do not open and are replaced");
            None
        });
        let mut before = before.unwrap_or_default();
        if self.is_invalid() {
            before = before.without_tokens();
            self.make_valid();
        }
        // A refresh token that stays is in the doubt that it was in. While it may be on its way,
        // nobody else sends it: the lease ends with its time.
        let stays = answer.refresh_token.is_none() && before.refresh_token.is_some();
        let doubt = if stays { self.unanswered } else { 0 };
        let lease_until = self.lease_until.filter(|_| doubt > 0);
        self.replace_credentials(sealer, Some(&before.renewed_by(answer.clone())))?;
        self.unanswered = doubt;
        self.lease_until = lease_until;
        Ok(())
    }

    fn is_invalid(&self) -> bool {
        self.status == IdentityStatus::Invalid.as_str()
    }

    fn make_valid(&mut self) {
        IdentityStatus::Valid.as_str().clone_into(&mut self.status);
        self.invalid_reason = None;
        self.invalid_at = None;
    }

    /// Gives the row to a user who may have several accounts there, or has no other.
    pub(crate) fn give_to(&mut self, user: &UserId, several: bool) {
        user.as_str().clone_into(&mut self.user_id);
        self.user_slot = if several { self.external_id.clone() } else { String::new() };
    }

    /// The link was proved (again): the account may have got a newer name.
    fn verify(&mut self, link: &Link, now: DateTime<Utc>) {
        self.make_valid();
        link.external_id.as_str().clone_into(&mut self.external_id);
        if !self.user_slot.is_empty() {
            self.user_slot.clone_from(&self.external_id);
        }
        self.date_verified = now;
        self.version += 1;
    }

    /// The same user's link of the same account, proved again.
    pub(crate) fn renew(
        &mut self,
        sealer: &dyn Sealer,
        link: &Link,
        now: DateTime<Utc>,
    ) -> Result<(), Failure> {
        match &link.credentials {
            Some(answer) => self.renew_credentials(sealer, answer)?,
            None if self.is_invalid() => self.replace_credentials(sealer, None)?,
            None => {}
        }
        self.verify(link, now);
        let mut data = object(self.data.take())?;
        data.extend(link.data.clone());
        self.data = Value::Object(data);
        if !link.scopes.is_empty() {
            self.scopes = json!(link.scopes);
        }
        Ok(())
    }

    /// Another user's link, or of another account: nothing of the old one stays but the row.
    pub(crate) fn rebind(
        &mut self,
        sealer: &dyn Sealer,
        user: &UserId,
        link: &Link,
        several: bool,
        now: DateTime<Utc>,
    ) -> Result<(), Failure> {
        self.verify(link, now);
        if self.user_id != user.as_str() {
            self.give_to(user, several);
        }
        self.data = Value::Object(link.data.clone());
        self.scopes = json!(link.scopes);
        self.replace_credentials(sealer, link.credentials.as_ref())
    }
}
