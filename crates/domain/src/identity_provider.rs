//! Provider types, and their instances.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use crate::{ids::ProviderId, secret::Secret};

/// An instance of a provider type: `gitlab` at one host, `oidc` at one issuer.
///
/// (type, external id) is unique, an absent external id counting as a value of its own.
#[derive(Clone, Debug, PartialEq)]
pub struct IdentityProvider {
    /// This instance's own name.
    pub id: ProviderId,
    /// The key of its [`ProviderType`].
    pub provider_type: String,
    /// Which instance: a host, a workspace, a tenant; up to 255 characters.
    pub external_id: Option<String>,
    /// What the type needs, without its secrets.
    pub config: Map<String, Value>,
    /// Names of the secrets that are set; their values are sealed.
    pub secret_names: Vec<String>,
    /// What the product uses it for.
    pub options: ProviderOptions,
    /// Whether this provider was seen to name itself in authorization responses, so that one
    /// without `iss` is refused from then on
    /// ([RFC 9207 §2.4](https://www.rfc-editor.org/rfc/rfc9207#section-2.4)).
    pub names_issuer: bool,
    /// When it was created, UTC.
    pub date_added: DateTime<Utc>,
    /// Counts the changes of this row; starts at 1.
    pub version: i64,
}

impl IdentityProvider {
    /// What the event log tells of an instance; never a secret.
    #[must_use]
    pub fn facts(&self) -> Map<String, Value> {
        let facts = json!({
            "type": self.provider_type,
            "external_id": self.external_id,
            "config": self.config,
            "login": self.options.login,
            "multiple_accounts": self.options.multiple_accounts,
            "version": self.version,
        });
        match facts {
            Value::Object(facts) => facts,
            _ => Map::new(),
        }
    }
}

/// What the product uses a provider instance for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProviderOptions {
    /// Users sign in to the product with it, so that unlinking may take a user's last way in.
    pub login: bool,
    /// A user may link several accounts of it; otherwise one.
    pub multiple_accounts: bool,
}

/// What of [`ProviderOptions`] is to be set; the rest stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OptionChanges {
    /// Whether users sign in to the product with it.
    pub login: Option<bool>,
    /// Whether a user may link several accounts of it.
    pub multiple_accounts: Option<bool>,
}

impl OptionChanges {
    /// These changes over what there is.
    #[must_use]
    pub fn over(self, options: ProviderOptions) -> ProviderOptions {
        ProviderOptions {
            login: self.login.unwrap_or(options.login),
            multiple_accounts: self.multiple_accounts.unwrap_or(options.multiple_accounts),
        }
    }
}

/// A provider's secret configuration values, by name.
pub type ProviderSecrets = BTreeMap<String, Secret>;

/// A kind of provider, from the catalog.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderType {
    /// The key, for example `oidc`: lower-case letters, digits, `_` and `-`.
    pub name: String,
    /// What people call it, for example `OpenID Connect`.
    pub title: String,
    /// One or two sentences: what it is for and what to register at the provider.
    pub description: String,
    /// The provider's own documentation that the type rests on.
    pub documentation: String,
    /// How to register our client at the provider.
    pub registration: Registration,
    /// What an operator must know, each in a sentence or two: what the provider does not have, and
    /// what to do about it.
    pub notes: Vec<String>,
    /// JSON Schema (2020-12) of `config`; secrets are marked `writeOnly`.
    pub config_schema: Value,
    /// The keys of `config` that are secrets.
    pub secret_names: Vec<String>,
    /// The keys of `config` that say whose accounts an instance's ids are, `issuer` for example:
    /// with another value the same id is another account, so they stay as they are while the
    /// instance has identities.
    pub authority_keys: Vec<String>,
    /// The keys of `config`, secrets among them, that are found out when an instance is made, by
    /// asking the provider: our client that was registered there, for example. Empty where the
    /// operator brings all of them. See [`Connectors::register`](crate::ports::Connectors::register).
    pub registered_keys: Vec<String>,
    /// The keys of `config` that ask something of the provider which not every one can do: where one
    /// of them is set, the provider is asked before the configuration is kept. See
    /// [`Connectors::verify`](crate::ports::Connectors::verify).
    pub asked_keys: Vec<String>,
    /// What instances can do.
    pub capabilities: Capabilities,
}

/// Most types that are told to whoever names one that is not there.
const TOLD: usize = 10;

/// What may have been meant by a type that is not among these: all of them where they are few,
/// otherwise those that begin like it.
pub fn meant_type<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    if known.len() <= TOLD {
        return format!("known types are {}", known.join(", "));
    }
    let start: String = name.chars().take(3).collect();
    let near: Vec<&str> =
        known.iter().copied().filter(|it| it.starts_with(&start)).take(TOLD).collect();
    if near.is_empty() || start.is_empty() {
        return format!("the list of provider types has all {}", known.len());
    }
    format!("is it {}?", near.join(", "))
}

/// How to register our client at a provider, in the provider's own words, as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registration {
    /// The page where it is done.
    pub page: Option<String>,
    /// The way from there.
    pub steps: Option<String>,
    /// What the redirect URI is called there.
    pub redirect_uri: Option<String>,
    /// What the client id is called there.
    pub client_id: Option<String>,
    /// What the client secret is called there.
    pub client_secret: Option<String>,
}

/// What a provider can do; known before it is asked.
#[expect(clippy::struct_excessive_bools, reason = "each is a capability of its own")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Asks the user in a browser. Without it, users bring a token that they made at the provider.
    pub browser: bool,
    /// Lets a device without a browser be authorized
    /// ([RFC 8628](https://www.rfc-editor.org/rfc/rfc8628)).
    pub device: bool,
    /// Sends refresh tokens and takes them back.
    pub refresh: bool,
    /// Ends a grant on request.
    pub revoke: bool,
    /// Vouches for who signs in, with a verified ID token or the like.
    pub sign_in: bool,
    /// What becomes of a refresh token once it was used.
    pub rotation: Rotation,
}

/// What becomes of a refresh token once it was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rotation {
    /// It may be spent: a use whose answer was lost leaves the grant in doubt.
    MayRotate,
    /// It is good again and again, so a lost answer loses nothing.
    Reusable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_names_no_type_is_told_what_may_have_been_meant() {
        assert_eq!(meant_type("x", ["a", "b"]), "known types are a, b");
        let many: Vec<String> = (0..20).map(|it| format!("git{it:02}")).collect();
        let many = || many.iter().map(String::as_str);
        assert!(meant_type("gitx", many()).starts_with("is it git00, git01, "));
        for other in ["", "zzz", "\u{fc}ber"] {
            assert_eq!(meant_type(other, many()), "the list of provider types has all 20");
        }
    }
}
