use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Where a request went, as finely as faults and records tell apart.
///
/// Two of them stand for several: [`Token`](Self::Token) covers [`Exchange`](Self::Exchange) and
/// [`Refresh`](Self::Refresh), [`Authorize`](Self::Authorize) covers
/// [`Decision`](Self::Decision).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `GET /.well-known/openid-configuration`.
    Discovery,
    /// `GET /jwks`.
    Jwks,
    /// `GET /authorize`: the page that asks. For faults, the decision too.
    Authorize,
    /// `POST /authorize`: what was answered on the page, and the redirect to the client.
    Decision,
    /// `POST /token`, whatever is asked. In records, only what is neither of the next two.
    Token,
    /// `POST /token` with a code ([RFC 6749 §4.1.3](https://www.rfc-editor.org/rfc/rfc6749#section-4.1.3)).
    Exchange,
    /// `POST /token` with a refresh token ([RFC 6749 §6](https://www.rfc-editor.org/rfc/rfc6749#section-6)).
    Refresh,
    /// `GET` or `POST /userinfo`.
    Userinfo,
    /// `POST /revoke` ([RFC 7009](https://www.rfc-editor.org/rfc/rfc7009)).
    Revoke,
    /// `POST /introspect` ([RFC 7662](https://www.rfc-editor.org/rfc/rfc7662)).
    Introspect,
}

/// A name that is no endpoint's.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no endpoint {0:?}; known are {known}", known = Endpoint::ALL.map(Endpoint::as_str).join(", "))]
pub struct UnknownEndpoint(pub String);

impl Endpoint {
    /// Every endpoint.
    pub const ALL: [Self; 10] = [
        Self::Discovery,
        Self::Jwks,
        Self::Authorize,
        Self::Decision,
        Self::Token,
        Self::Exchange,
        Self::Refresh,
        Self::Userinfo,
        Self::Revoke,
        Self::Introspect,
    ];

    /// The name it has in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Discovery => "discovery",
            Self::Jwks => "jwks",
            Self::Authorize => "authorize",
            Self::Decision => "decision",
            Self::Token => "token",
            Self::Exchange => "exchange",
            Self::Refresh => "refresh",
            Self::Userinfo => "userinfo",
            Self::Revoke => "revoke",
            Self::Introspect => "introspect",
        }
    }

    /// Whether what is said of `self` is said of `other` too.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self == other
            || (self == Self::Token && matches!(other, Self::Exchange | Self::Refresh))
            || (self == Self::Authorize && other == Self::Decision)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Endpoint {
    type Err = UnknownEndpoint;

    fn from_str(name: &str) -> Result<Self, UnknownEndpoint> {
        Self::ALL
            .into_iter()
            .find(|it| it.as_str() == name)
            .ok_or_else(|| UnknownEndpoint(name.to_owned()))
    }
}
