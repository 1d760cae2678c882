use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::endpoint::Endpoint;

/// One way to misbehave.
///
/// In JSON an object with `kind`, for example `{"kind": "status", "status": 503}`. Faults of one
/// request come in this order: it arrives, is delayed, is refused or processed, its answer is
/// spoiled, the answer is delayed, the connection is cut. "Processed" means that everything the
/// request is for has happened: the code is spent, the refresh token rotated.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Fault {
    /// Answers with this status. Not processed, unless `after_processing`.
    Status {
        /// 200 to 599.
        status: u16,
        /// Sent as `text/plain`.
        #[serde(default)]
        body: String,
        /// Whether the request is processed all the same, as behind a gateway that gave up.
        #[serde(default)]
        after_processing: bool,
    },
    /// Answers 429 with this `Retry-After`. Not processed.
    RateLimited {
        /// Seconds, or an HTTP date ([RFC 9110 §10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)).
        retry_after: String,
    },
    /// Waits, then processes, whether or not the client is still there. Goes together with other
    /// faults of the same request.
    Delay {
        /// Milliseconds.
        delay_ms: u64,
    },
    /// Processes, then waits before it answers. Goes together with other faults of the same
    /// request.
    DelayAnswer {
        /// Milliseconds.
        delay_ms: u64,
    },
    /// Never answers. Not processed. The connection is cut once faults are cleared.
    Hang,
    /// Cuts the connection, not processed.
    DropBefore,
    /// Processes, then cuts the connection: what was done is done, and its answer is lost.
    DropAfter,
    /// Redirects there with 307. Not processed.
    Redirect {
        /// The value of `Location`.
        location: String,
    },
    /// Processes, then answers 200 with a page instead of JSON.
    Html,
    /// Processes, then sends the first half of the JSON, with a `Content-Length` that fits.
    TruncatedJson,
    /// Processes, then sends valid JSON in which one member more is this long.
    Oversized {
        /// Bytes. Nothing of it is held in memory.
        bytes: u64,
    },
    /// Replaces one member of the JSON answer.
    Member {
        /// Its name.
        name: String,
        /// What stands there instead; `null` removes it.
        value: Value,
    },
    /// Another `expires_in` than the token's real one.
    ExpiresIn {
        /// Which.
        value: ExpiresIn,
    },
    /// Answers without a refresh token. At a refresh, the one that was presented stays good, as
    /// at a provider that does not rotate; at an exchange there is none.
    NoRefreshToken,
    /// Grants less than was asked for.
    NarrowerScope {
        /// Separated by spaces; what was not asked for is left out.
        scope: String,
    },
    /// An ID token that must not be trusted.
    IdToken {
        /// What is wrong with it.
        flaw: IdTokenFlaw,
    },
    /// Refuses with an OAuth error, whatever was asked. Not processed. Status 200 is how some
    /// providers do it against [RFC 6749 §5.2](https://www.rfc-editor.org/rfc/rfc6749#section-5.2).
    Refuse {
        /// 200 to 599.
        status: u16,
        /// The value of `error`.
        error: String,
    },
    /// An authorization response without `iss`, though it is promised.
    IssMissing,
    /// An authorization response with another issuer's `iss`.
    IssWrong,
    /// Replaces one parameter of the authorization response.
    Parameter {
        /// Its name.
        name: String,
        /// What stands there instead; `None` removes it.
        #[serde(default)]
        value: Option<String>,
    },
}

/// What may stand where a number of seconds should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpiresIn {
    /// The right number, as a JSON string.
    Text,
    /// A JSON string that is no number.
    Words,
    /// 0.
    Zero,
    /// -1.
    Negative,
    /// More than any clock holds: 1e308.
    Huge,
    /// No member at all.
    Missing,
}

/// What is wrong with an ID token. Everything else about it is right.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum IdTokenFlaw {
    /// `sub` is somebody else's.
    OtherSubject,
    /// `iss` is another issuer.
    OtherIssuer,
    /// `nonce` is another one, or one where none belongs.
    OtherNonce,
    /// `aud` is another client.
    OtherAudience,
    /// `exp` is an hour ago.
    Expired,
    /// `at_hash` is of another access token.
    OtherAccessToken,
    /// Unsigned: `alg` is `none` ([RFC 7519 §6](https://www.rfc-editor.org/rfc/rfc7519#section-6)).
    AlgNone,
    /// Signed with HMAC and the client's secret as the key.
    Hs256,
    /// The signature is of something else.
    BadSignature,
    /// The header names a key that is not published.
    UnknownKid,
    /// The header names no key.
    NoKid,
    /// One claim replaced, or removed by `null`.
    Claim {
        /// Its name.
        name: String,
        /// What stands there instead.
        value: Value,
    },
    /// No ID token at all.
    Missing,
}

impl Fault {
    /// `status` with an empty body, not processed.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self::Status { status, body: String::new(), after_processing: false }
    }

    /// 429 with a `Retry-After` of so many seconds.
    #[must_use]
    pub fn rate_limited(seconds: u32) -> Self {
        Self::RateLimited { retry_after: seconds.to_string() }
    }

    /// The client is not accepted: 401 `invalid_client`.
    #[must_use]
    pub fn invalid_client() -> Self {
        Self::Refuse { status: 401, error: "invalid_client".to_owned() }
    }

    /// An OAuth error with HTTP status 200.
    #[must_use]
    pub fn error_with_200(error: impl Into<String>) -> Self {
        Self::Refuse { status: 200, error: error.into() }
    }

    /// An ID token with a flaw.
    #[must_use]
    pub fn id_token(flaw: IdTokenFlaw) -> Self {
        Self::IdToken { flaw }
    }

    /// A member of the JSON answer replaced, or removed by `null`.
    #[must_use]
    pub fn member(name: impl Into<String>, value: impl Into<Value>) -> Self {
        Self::Member { name: name.into(), value: value.into() }
    }

    /// The name of its kind, as in JSON.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::RateLimited { .. } => "rate_limited",
            Self::Delay { .. } => "delay",
            Self::DelayAnswer { .. } => "delay_answer",
            Self::Hang => "hang",
            Self::DropBefore => "drop_before",
            Self::DropAfter => "drop_after",
            Self::Redirect { .. } => "redirect",
            Self::Html => "html",
            Self::TruncatedJson => "truncated_json",
            Self::Oversized { .. } => "oversized",
            Self::Member { .. } => "member",
            Self::ExpiresIn { .. } => "expires_in",
            Self::NoRefreshToken => "no_refresh_token",
            Self::NarrowerScope { .. } => "narrower_scope",
            Self::IdToken { .. } => "id_token",
            Self::Refuse { .. } => "refuse",
            Self::IssMissing => "iss_missing",
            Self::IssWrong => "iss_wrong",
            Self::Parameter { .. } => "parameter",
        }
    }

    /// Whether it can make a difference to a request that went exactly there.
    #[must_use]
    pub fn concerns(&self, endpoint: Endpoint) -> bool {
        use Endpoint as E;
        let page = matches!(endpoint, E::Authorize | E::Decision);
        match self {
            Self::Status { .. }
            | Self::RateLimited { .. }
            | Self::Delay { .. }
            | Self::DelayAnswer { .. }
            | Self::Hang
            | Self::DropBefore
            | Self::DropAfter
            | Self::Redirect { .. } => true,
            // A revocation is answered without a body.
            Self::Html | Self::TruncatedJson | Self::Oversized { .. } | Self::Member { .. } => {
                !page && endpoint != E::Revoke
            }
            Self::ExpiresIn { .. }
            | Self::NoRefreshToken
            | Self::NarrowerScope { .. }
            | Self::IdToken { .. } => matches!(endpoint, E::Exchange | E::Refresh),
            Self::Refuse { .. } => !page && !matches!(endpoint, E::Discovery | E::Jwks),
            Self::IssMissing | Self::IssWrong | Self::Parameter { .. } => endpoint == E::Decision,
        }
    }

    /// Whether its numbers and texts can be sent.
    pub(crate) fn is_sendable(&self) -> bool {
        let in_header =
            |it: &str| !it.is_empty() && it.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        match self {
            Self::Status { status, .. } | Self::Refuse { status, .. } => {
                (200..=599).contains(status)
            }
            Self::RateLimited { retry_after: text } | Self::Redirect { location: text } => {
                in_header(text)
            }
            _ => true,
        }
    }
}
