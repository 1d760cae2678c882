use std::{fmt, net::SocketAddr, time::Duration};

use serde_json::{Map, Value};
use url::Url;

use crate::{keys::SigningAlgorithm, random};

/// How a [`Sandbox`](crate::Sandbox) is set up.
///
/// The default: a free port of `127.0.0.1`; one client, `sandbox-client`, with a random secret and
/// no redirect URI yet; [`Account::friends`]; access tokens live an hour, refresh tokens rotate
/// with no reuse interval; ES256.
#[derive(Clone, Debug)]
pub struct SandboxSettings {
    /// Where to listen. Must be loopback; port 0 is any free one.
    pub listen: SocketAddr,
    /// Who may ask; the first is the one that [`Sandbox::client_id`](crate::Sandbox::client_id)
    /// names. At least one.
    pub clients: Vec<Client>,
    /// Who can be chosen on the page. At least one.
    pub accounts: Vec<Account>,
    /// How long an access token lives, whole seconds.
    pub access_token_lifetime: Duration,
    /// Whether a refresh token is spent by its use. A spent one that is presented again revokes
    /// its whole family ([RFC 9700 §4.14.2](https://www.rfc-editor.org/rfc/rfc9700#section-4.14.2)).
    pub rotate_refresh_tokens: bool,
    /// For how long after its use a spent refresh token is answered once more, with the same
    /// successor and a new access token, as long as that successor is unused. Zero for never.
    pub reuse_interval: Duration,
    /// Scopes that are granted when asked for, besides `openid`, `profile`, `email` and
    /// `offline_access`; others are left out silently
    /// ([OpenID Connect Core 1.0 §3.1.2.1](https://openid.net/specs/openid-connect-core-1_0.html#AuthRequest)).
    pub scopes: Vec<String>,
    /// What ID tokens are signed with.
    pub signing_algorithm: SigningAlgorithm,
}

impl Default for SandboxSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            clients: vec![Client::new("sandbox-client")],
            accounts: Account::friends(),
            access_token_lifetime: Duration::from_hours(1),
            rotate_refresh_tokens: true,
            reuse_interval: Duration::ZERO,
            scopes: Vec::new(),
            signing_algorithm: SigningAlgorithm::Es256,
        }
    }
}

/// Settings that cannot be used. Nothing was started.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidSettings {
    /// Others could reach it.
    #[error("{0} is not a loopback address; the sandbox takes 127.0.0.1 or ::1 and no other")]
    NotLoopback(SocketAddr),
    /// Nobody could ask.
    #[error("the sandbox needs at least one client")]
    NoClient,
    /// Nobody could be chosen.
    #[error("the sandbox needs at least one account")]
    NoAccount,
    /// Two clients or two accounts cannot be told apart.
    #[error("{0:?} is there twice")]
    Duplicate(String),
    /// A client id or subject is empty, longer than 255 characters, or not visible ASCII.
    #[error("{0:?} is no identifier: 1 to 255 visible ASCII characters")]
    Identifier(String),
    /// A redirect URI that [RFC 6749 §3.1.2](https://www.rfc-editor.org/rfc/rfc6749#section-3.1.2) does not allow.
    #[error("{0:?} is no redirect URI: an absolute URI in ASCII without a fragment")]
    RedirectUri(String),
    /// There is no client by that id.
    #[error("there is no client {0:?}")]
    UnknownClient(String),
}

impl SandboxSettings {
    pub(crate) fn check(&self) -> Result<(), InvalidSettings> {
        if !self.listen.ip().is_loopback() {
            return Err(InvalidSettings::NotLoopback(self.listen));
        }
        if self.clients.is_empty() {
            return Err(InvalidSettings::NoClient);
        }
        if self.accounts.is_empty() {
            return Err(InvalidSettings::NoAccount);
        }
        check_identifiers(self.clients.iter().map(|it| it.client_id.as_str()))?;
        check_identifiers(self.accounts.iter().map(|it| it.sub.as_str()))?;
        self.clients.iter().try_for_each(Client::check)
    }
}

fn check_identifiers<'a>(values: impl Iterator<Item = &'a str>) -> Result<(), InvalidSettings> {
    let mut seen = Vec::new();
    for value in values {
        let visible = value.bytes().all(|it| it.is_ascii_graphic());
        if !(1..=255).contains(&value.len()) || !visible {
            return Err(InvalidSettings::Identifier(value.to_owned()));
        }
        if seen.contains(&value) {
            return Err(InvalidSettings::Duplicate(value.to_owned()));
        }
        seen.push(value);
    }
    Ok(())
}

/// A relying party.
#[derive(Clone, PartialEq, Eq)]
pub struct Client {
    /// What it calls itself in requests.
    pub client_id: String,
    /// What it proves itself with; `None` for a public client, which PKCE alone protects.
    pub client_secret: Option<String>,
    /// What the page calls it.
    pub name: String,
    /// Where the browser may be sent back to, compared character by character.
    pub redirect_uris: Vec<String>,
}

impl Client {
    /// A client with a random secret, its id for a name, and no redirect URI yet.
    #[must_use]
    pub fn new(client_id: impl Into<String>) -> Self {
        let client_id = client_id.into();
        Self {
            name: client_id.clone(),
            client_id,
            client_secret: Some(format!("sbx_secret_{}", random::text())),
            redirect_uris: Vec::new(),
        }
    }

    pub(crate) fn check(&self) -> Result<(), InvalidSettings> {
        check_identifiers([self.client_id.as_str()].into_iter())?;
        self.redirect_uris.iter().try_for_each(|it| check_redirect_uri(it))
    }
}

pub(crate) fn check_redirect_uri(uri: &str) -> Result<(), InvalidSettings> {
    let fits = uri.bytes().all(|it| it.is_ascii_graphic())
        && Url::parse(uri).is_ok_and(|it| it.fragment().is_none());
    if fits { Ok(()) } else { Err(InvalidSettings::RedirectUri(uri.to_owned())) }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("client_id", &self.client_id)
            .field("client_secret", &self.client_secret.as_ref().map(|_| "********"))
            .field("name", &self.name)
            .field("redirect_uris", &self.redirect_uris)
            .finish()
    }
}

/// A made-up person who can be chosen on the page.
#[derive(Clone, Debug, PartialEq)]
pub struct Account {
    /// The `sub` claim: 1 to 255 visible ASCII characters.
    pub sub: String,
    /// The `name` claim, for scope `profile`.
    pub name: String,
    /// The `email` claim, for scope `email`.
    pub email: String,
    /// The `email_verified` claim, for scope `email`.
    pub email_verified: bool,
    /// Further claims, in the ID token and at the userinfo endpoint, whatever the scope. They
    /// cannot replace those that the sandbox sets.
    pub claims: Map<String, Value>,
}

impl Account {
    /// An account with a verified e-mail address and no further claims.
    #[must_use]
    pub fn new(sub: impl Into<String>, name: impl Into<String>, email: impl Into<String>) -> Self {
        Self {
            sub: sub.into(),
            name: name.into(),
            email: email.into(),
            email_verified: true,
            claims: Map::new(),
        }
    }

    /// Ada Lovelace (`ada`), Grace Hopper (`grace`) and Alan Turing (`alan`, whose e-mail address
    /// is not verified).
    #[must_use]
    pub fn friends() -> Vec<Self> {
        let alan = Self::new("alan", "Alan Turing", "alan@bletchley.example");
        vec![
            Self::new("ada", "Ada Lovelace", "ada@analytical.example"),
            Self::new("grace", "Grace Hopper", "grace@compiler.example"),
            Self { email_verified: false, ..alan },
        ]
    }

    /// The first letters of the first and the last word of the name.
    pub(crate) fn initials(&self) -> String {
        let mut words = self.name.split_whitespace();
        let first = words.next().and_then(|it| it.chars().next());
        let last = words.next_back().and_then(|it| it.chars().next());
        first.into_iter().chain(last).flat_map(char::to_uppercase).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_secret_does_not_show() {
        let client = Client::new("shop");
        let secret = client.client_secret.clone().unwrap();
        assert!(!format!("{client:?}").contains(&secret));
    }

    #[test]
    fn only_loopback_is_taken() {
        let settings =
            SandboxSettings { listen: "0.0.0.0:0".parse().unwrap(), ..SandboxSettings::default() };
        assert_eq!(settings.check(), Err(InvalidSettings::NotLoopback(settings.listen)));
    }

    #[test]
    fn redirect_uris_are_absolute_and_have_no_fragment() {
        for good in ["http://127.0.0.1:8080/callback/1", "https://shop.example/cb?x=1", "app.x:/cb"]
        {
            assert_eq!(check_redirect_uri(good), Ok(()), "{good}");
        }
        for bad in ["/callback", "https://shop.example/#x", "https://shop.example/\n", ""] {
            assert!(check_redirect_uri(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn initials_are_of_the_first_and_the_last_word() {
        assert_eq!(Account::new("x", "Augusta Ada king", "").initials(), "AK");
        assert_eq!(Account::new("x", "Plato", "").initials(), "P");
    }
}
