//! Names of things: row ids, which are ours, and the product's own ids, which are opaque to us.

use std::fmt;

macro_rules! row_id {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        ///
        /// A positive integer, given by the database in ascending order.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

row_id! {
    /// Names an [`Identity`](crate::identity::Identity).
    IdentityId;
    /// Names an [`IdentityProvider`](crate::identity_provider::IdentityProvider).
    ProviderId;
    /// Names a [`LinkSession`](crate::link_session::LinkSession).
    LinkSessionId;
    /// Names a [`DeviceLink`](crate::device_link::DeviceLink).
    DeviceLinkId;
    /// Names an [`Event`](crate::event::Event).
    EventId;
    /// Names an [`ApiKey`](crate::api_key::ApiKey).
    ApiKeyId;
    /// Names a [`QueuedRevocation`](crate::revocation::QueuedRevocation).
    RevocationId;
    /// Names a [`Transfer`](crate::transfer::Transfer).
    TransferId;
    /// Names an [`AuthProvider`](crate::auth_provider::AuthProvider).
    AuthProviderId;
    /// Names an [`AuthIdentity`](crate::auth_identity::AuthIdentity).
    AuthIdentityId;
    /// Names an [`OrganizationIdentity`](crate::organization_identity::OrganizationIdentity).
    OrganizationIdentityId;
    /// Names a [`LedgerEntry`](crate::ledger::LedgerEntry).
    LedgerEntryId;
    /// Names a [`Freeze`](crate::freeze::Freeze).
    FreezeId;
    /// Names a [`WebhookEndpoint`](crate::webhook::WebhookEndpoint).
    WebhookEndpointId;
    /// Names a [`WebhookDelivery`](crate::webhook::WebhookDelivery).
    WebhookDeliveryId;
}

/// An opaque id was empty, too long, or held a control character.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("must be {min} to {max} characters and hold no control character")]
pub struct InvalidId {
    min: usize,
    max: usize,
}

macro_rules! opaque_id {
    ($($(#[$doc:meta])* $name:ident: $max:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Most characters that a value may have.
            pub const MAX: usize = $max;

            /// Checks and wraps a value.
            ///
            /// # Errors
            ///
            /// [`InvalidId`] when it is empty, longer than [`Self::MAX`] characters, or holds a
            /// control character.
            pub fn new(value: impl Into<String>) -> Result<Self, InvalidId> {
                let value = value.into();
                let length = value.chars().count();
                if (1..=Self::MAX).contains(&length) && !value.chars().any(char::is_control) {
                    Ok(Self(value))
                } else {
                    Err(InvalidId { min: 1, max: Self::MAX })
                }
            }

            /// The value as it was given.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

opaque_id! {
    /// A user of the calling product, in the product's own words. Compared character by character.
    UserId: 255;
    /// An organization of the calling product, in the product's own words.
    OrganizationId: 255;
    /// A provider's own, never reassigned, name for an account: the `sub` claim where there is one
    /// ([OpenID Connect Core 1.0 §2](https://openid.net/specs/openid-connect-core-1_0.html#IDToken)).
    /// Compared character by character.
    ExternalId: 255;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opaque_id_has_1_to_255_characters_whatever_their_bytes() {
        assert!(UserId::new("").is_err());
        assert!(UserId::new("a\nb").is_err());
        assert!(UserId::new("é".repeat(255)).is_ok());
        assert!(UserId::new("é".repeat(256)).is_err());
    }
}
