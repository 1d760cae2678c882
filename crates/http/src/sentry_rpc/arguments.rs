//! What the methods take. As in Sentry, a name that a method does not know is ignored.

use std::{fmt, marker::PhantomData};

use serde::{Deserialize, Deserializer, de};
use serde_json::{Map, Value};
use symbolon_domain::{
    Error,
    event::Actor,
    identity::IdentityFilter,
    ids::{ExternalId, IdentityId, ProviderId, UserId},
};

use super::methods::MOST_IDENTITIES;
use crate::{error::ApiError, request::ProductId};

/// The body of a call.
#[derive(Deserialize)]
pub(super) struct Call<A> {
    /// By name; there are no others.
    pub(super) args: Named<A>,
    /// What Sentry tells besides.
    #[serde(default)]
    meta: Value,
}

impl<A> Call<A> {
    /// Whom the event log names: Sentry, and the user on whose behalf it says it calls.
    pub(super) fn actor(&self) -> Actor {
        let user = self.meta.pointer("/viewer_context/user_id").and_then(Value::as_i64);
        let acting_user = user.and_then(|it| UserId::new(it.to_string()).ok());
        Actor { acting_user, ..Actor::SENTRY }
    }
}

/// An object and nothing else: Serde would take a list for a struct, its fields in order.
pub(super) struct Named<T>(pub(super) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> de::Visitor<'de> for Visitor<T> {
            type Value = Named<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Named<T>, A::Error> {
                T::deserialize(de::value::MapAccessDeserializer::new(map)).map(Named)
            }
        }

        deserializer.deserialize_map(Visitor(PhantomData))
    }
}

/// A row id: an integer, or its decimal text.
#[derive(Clone, Copy)]
pub(super) struct RowId(pub(super) i64);

impl<'de> Deserialize<'de> for RowId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl de::Visitor<'_> for Visitor {
            type Value = RowId;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer of 64 bits")
            }

            fn visit_i64<E>(self, number: i64) -> Result<RowId, E> {
                Ok(RowId(number))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<RowId, E> {
                let number = i64::try_from(number);
                number.map(RowId).map_err(|_| E::invalid_type(de::Unexpected::Other("more"), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<RowId, E> {
                let number = text.parse();
                number.map(RowId).map_err(|_| E::invalid_type(de::Unexpected::Other("text"), &self))
            }
        }

        deserializer.deserialize_any(Visitor)
    }
}

/// A key of a filter. It is its presence that counts: a null is a value, that of an empty column.
#[derive(Clone, Default)]
pub(super) enum Given<T> {
    /// Not asked for.
    #[default]
    Absent,
    /// As the database's NULL.
    Null,
    /// This.
    Value(T),
}

impl<T> Given<T> {
    fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(|it| it.map_or(Self::Null, Self::Value))
    }
}

#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "Sentry's names")]
pub(super) struct GetProvider {
    #[serde(default)]
    pub(super) provider_id: Option<RowId>,
    #[serde(default)]
    pub(super) provider_type: Option<String>,
    #[serde(default)]
    pub(super) provider_ext_id: Option<String>,
}

/// `get_identities` and `get_identity`.
#[derive(Deserialize)]
pub(super) struct ByFilter {
    pub(super) filter: Named<Filter>,
}

#[derive(Deserialize)]
pub(super) struct UserIdentities {
    pub(super) user_id: ProductId,
    pub(super) provider_type: String,
    #[serde(default)]
    pub(super) exclude_matching_external_ids: bool,
}

#[derive(Deserialize)]
pub(super) struct OrganizationIdentities {
    pub(super) organization_id: ProductId,
    pub(super) user_id: ProductId,
    pub(super) provider_type: String,
}

#[derive(Deserialize)]
pub(super) struct DeleteIdentities {
    pub(super) user_id: ProductId,
    pub(super) organization_id: ProductId,
}

#[derive(Deserialize)]
pub(super) struct UpdateData {
    pub(super) identity_id: RowId,
    pub(super) data: Map<String, Value>,
}

/// Which identities are meant: the keys that are there, all together.
#[derive(Deserialize)]
#[serde(default)]
pub(super) struct Filter {
    id: Given<RowId>,
    user_id: Given<ProductId>,
    identity_ext_id: Given<String>,
    identity_ext_ids: Given<Vec<String>>,
    provider_id: Given<RowId>,
    provider_ext_id: Given<String>,
    provider_type: Given<String>,
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            id: Given::Absent,
            user_id: Given::Absent,
            identity_ext_id: Given::Absent,
            identity_ext_ids: Given::Absent,
            provider_id: Given::Absent,
            provider_ext_id: Given::Absent,
            provider_type: Given::Absent,
        }
    }
}

impl Filter {
    /// The same in our words; `None` when no row can be meant: null where no column is ever empty,
    /// or a name that is longer than names are.
    ///
    /// # Errors
    ///
    /// [`Error::FilterRequired`] when no key is there that narrows anything.
    pub(super) fn read(self) -> Result<Option<IdentityFilter>, ApiError> {
        let Self {
            id,
            user_id,
            identity_ext_id,
            identity_ext_ids,
            provider_id,
            provider_ext_id,
            provider_type,
        } = self;
        let is_empty = id.is_absent()
            && user_id.is_absent()
            && identity_ext_id.is_absent()
            && identity_ext_ids.is_absent()
            && provider_id.is_absent()
            && provider_ext_id.is_absent()
            && provider_type.is_absent();
        if is_empty {
            return Err(Error::FilterRequired.into());
        }
        let mut filter = IdentityFilter::default();
        match identity_ext_ids {
            Given::Absent => {}
            Given::Null => {
                return Err(ApiError::invalid("args.filter.identity_ext_ids", "must be a list"));
            }
            Given::Value(names) if names.len() > MOST_IDENTITIES => {
                let problem = format!("must be at most {MOST_IDENTITIES}");
                return Err(ApiError::invalid("args.filter.identity_ext_ids", problem));
            }
            Given::Value(names) => {
                let names = names.into_iter().filter_map(|it| ExternalId::new(it).ok());
                filter.external_ids = Some(names.collect());
            }
        }
        filter.provider_has_no_external_id = matches!(provider_ext_id, Given::Null);
        filter.provider_external_id = match provider_ext_id {
            Given::Value(name) => Some(name),
            Given::Absent | Given::Null => None,
        };
        let rest = (|| {
            filter.id = one(id, |it| Some(IdentityId(it.0)))?;
            filter.user_id = one(user_id, |it| UserId::new(it.into_text()).ok())?;
            filter.external_id = one(identity_ext_id, |it| ExternalId::new(it).ok())?;
            filter.provider_id = one(provider_id, |it| Some(ProviderId(it.0)))?;
            filter.provider_type = one(provider_type, Some)?;
            Some(filter)
        })();
        Ok(rest)
    }
}

/// The condition of a key; `None` when it is there and no row can meet it.
#[expect(clippy::option_option, reason = "no condition at all is an answer too")]
fn one<T, U>(given: Given<T>, read: impl FnOnce(T) -> Option<U>) -> Option<Option<U>> {
    match given {
        Given::Absent => Some(None),
        Given::Null => None,
        Given::Value(value) => read(value).map(Some),
    }
}
