//! Who a provider says somebody is.

use serde_json::{Map, Value};

use crate::ids::ExternalId;

/// An account at a provider, as a [`Connector`](crate::ports::Connector) established it.
#[derive(Clone, Debug, PartialEq)]
pub struct ExternalAccount {
    /// The provider's never reassigned name for the account.
    pub external_id: ExternalId,
    /// An older name under which the account may have been stored (Google: the e-mail address).
    /// Only set where the provider is the authority for that name, as others could claim it.
    pub legacy_id: Option<ExternalId>,
    /// The address, for display only: it never links anything.
    pub email: Option<String>,
    /// Whether the provider says that it checked the address; false when it says nothing.
    pub email_verified: bool,
    /// A name to show.
    pub name: Option<String>,
    /// Further claims worth keeping, in the clear.
    pub claims: Map<String, Value>,
}

impl ExternalAccount {
    /// The profile as it is kept in an identity's `data` and shown to callers: the claims with
    /// `email`, `email_verified` and `name` over them.
    #[must_use]
    pub fn profile(&self) -> Map<String, Value> {
        let mut profile = self.claims.clone();
        if let Some(email) = &self.email {
            profile.insert("email".into(), email.as_str().into());
            profile.insert("email_verified".into(), self.email_verified.into());
        }
        if let Some(name) = &self.name {
            profile.insert("name".into(), name.as_str().into());
        }
        profile
    }
}
