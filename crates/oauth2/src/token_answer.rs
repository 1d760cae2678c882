//! What an answer of the token endpoint means
//! ([RFC 6749 §5](https://www.rfc-editor.org/rfc/rfc6749#section-5)), in one table.
//!
//! | status | body | class |
//! | --- | --- | --- |
//! | 2xx | an object with `access_token` and no `error` | tokens |
//! | 2xx | an object with `error` | by its code, as with 400 |
//! | 2xx | anything else, another `token_type` than Bearer (or `DPoP`, where we proved to hold a key), or broken off, or too large | unavailable, **unknown** whether it happened |
//! | 3xx | | unavailable, answered: redirects are not followed |
//! | 408, 425, 429, 5xx | | unavailable, answered, with `Retry-After` |
//! | 401 | `error` is `access_denied` | our client is rejected: `invalid_client` |
//! | other 4xx | `error` is `invalid_grant` or its like | the grant is rejected |
//! | other 4xx | `error` is `use_dpop_nonce`, and we proved to hold a key | unavailable, answered: it wants another nonce each time |
//! | other 4xx | `error` says that it may pass | unavailable, answered |
//! | other 4xx | any other `error` | our client is rejected |
//! | 401 | no readable `error` | our client is rejected |
//! | other 4xx | no readable `error` | unavailable, answered: often a proxy in between |
//! | else | | unavailable, **unknown** |
//!
//! The [rules](crate::ErrorRules) of the provider come first: an error answer that one of them knows
//! has its class, whatever the table says. Tokens are tokens all the same. A form-encoded body whose
//! `Content-Type` says so is read like an object of its fields.
//!
//! Only a registered code that says so ends a grant: nothing unknown ever does. A 5xx counts
//! as "did nothing", that of a gateway too: if the token was spent after all, the next use says so
//! with `invalid_grant`, whereas counting it as unknown would have every identity linked again
//! after an outage.

use std::{sync::LazyLock, time::Duration};

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};
use symbolon_domain::{
    credentials::DPOP,
    ports::{ConnectorError, Sent},
    secret::Secret,
};
use url::form_urlencoded;

use crate::{
    catalog::{
        entry::{Answer, ExpiresFrom, Pointers, Unit},
        template::is_secret,
    },
    dpop::USE_DPOP_NONCE,
    error_rules::{ErrorRules, Seen},
    http::BodyError,
    json, jws,
};

/// Ten years. Whoever says more means that the token does not expire, more or less.
const LONGEST_LIFE: u64 = 10 * 365 * 24 * 60 * 60;

/// Codes by which the user must act: the grant is gone, or the provider wants to see the user.
/// `invalid_grant`: RFC 6749 §5.2; `access_denied`, `expired_token`: RFC 8628 §3.5; the rest:
/// OpenID Connect Core 1.0 §3.1.2.6.
const GRANT_REJECTED: &[&str] = &[
    "invalid_grant",
    "access_denied",
    "expired_token",
    "interaction_required",
    "login_required",
    "consent_required",
    "account_selection_required",
];

/// Codes that may pass: RFC 6749 §4.1.2.1, RFC 8628 §3.5.
const MAY_PASS: &[&str] =
    &["server_error", "temporarily_unavailable", "slow_down", "authorization_pending"];

/// Other registered codes, which may be shown as they are: RFC 6749 §5.2, RFC 8707 §2, and of the
/// revocation endpoint RFC 6750 §3.1, RFC 7009 §2.2.1; RFC 9449 §5, §8.
const REGISTERED: &[&str] = &[
    "invalid_dpop_proof",
    USE_DPOP_NONCE,
    "invalid_client",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_request",
    "invalid_target",
    "invalid_token",
    "unsupported_token_type",
];

/// Tokens, as the endpoint sent them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenResponse {
    pub(crate) access_token: Secret,
    pub(crate) token_type: Option<String>,
    /// How long the access token is good for; `None` when that is not said or makes no sense.
    pub(crate) expires_in: Option<Duration>,
    pub(crate) refresh_token: Option<Secret>,
    /// How long the refresh token is good for; `None` when that is not said or it does not end.
    /// No standard names it: [GitHub](https://docs.github.com/en/apps/creating-github-apps/authenticating-with-a-github-app/refreshing-user-access-tokens)
    /// sends `refresh_token_expires_in`, Keycloak `refresh_expires_in`,
    /// [Square](https://developer.squareup.com/reference/square/o-auth/obtain-token)
    /// `refresh_token_expires_at`.
    pub(crate) refresh_expires_in: Option<Duration>,
    pub(crate) id_token: Option<Secret>,
    /// What was granted; `None` when that is not said: all that was asked for.
    pub(crate) scopes: Option<Vec<String>>,
    /// What else it said, without anything that could be a credential.
    pub(crate) rest: Value,
}

/// What came back from the token endpoint.
pub(crate) struct TokenAnswer<'a> {
    /// Which endpoint sent it, for messages.
    pub(crate) endpoint: &'static str,
    pub(crate) status: u16,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) content_type: Option<&'a str>,
    pub(crate) body: Result<&'a [u8], BodyError>,
    /// Where the provider's error answers differ from the standard.
    pub(crate) rules: &'a ErrorRules,
    /// Where things are in its answers.
    pub(crate) layout: &'a Layout,
    /// The time, UTC.
    pub(crate) now: DateTime<Utc>,
    /// Whether the request proved that we hold a key, to which tokens may be bound.
    pub(crate) proven: bool,
}

/// Where things are in the answers of one provider, and what it leaves out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) answer: Answer,
    pub(crate) unit: Unit,
    pub(crate) expires_at: Pointers,
    pub(crate) expires_from: Option<ExpiresFrom>,
    /// How long an access token lives where the answer does not say.
    pub(crate) lifetime: Option<Duration>,
    /// Token types that are used like Bearer tokens.
    pub(crate) token_types: Vec<String>,
    /// What parts the granted scopes; white space unless said, and commas too where `loose`.
    pub(crate) separator: Option<String>,
    pub(crate) loose: bool,
    pub(crate) id_token: IdToken,
}

/// What the ID token is in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IdToken {
    /// The provider issues none. Whatever it calls so is none.
    None,
    /// A token of its own.
    Own,
    /// The access token.
    AccessToken,
}

impl Layout {
    /// As RFC 6749 has it.
    pub(crate) fn standard() -> &'static Self {
        static STANDARD: LazyLock<Layout> = LazyLock::new(|| Layout {
            answer: Answer::default(),
            unit: Unit::Seconds,
            expires_at: Pointers::default(),
            expires_from: None,
            lifetime: None,
            token_types: Vec::new(),
            separator: None,
            loose: false,
            id_token: IdToken::Own,
        });
        &STANDARD
    }

    fn access_token<'a>(&self, object: &'a Value) -> Option<&'a Value> {
        at(object, &self.answer.access_token, &["access_token"])
    }
}

/// What is where the provider has it, otherwise under the first of these names that is there;
/// never null.
fn at<'a>(object: &'a Value, own: &Pointers, names: &[&str]) -> Option<&'a Value> {
    if own.0.is_empty() {
        return names.iter().find_map(|it| object.get(it).filter(|it| !it.is_null()));
    }
    own.0.iter().find_map(|it| it.find(object))
}

impl TokenAnswer<'_> {
    /// The table above. `secrets` are what was sent: an error code that holds one is not passed
    /// on.
    pub(crate) fn read(&self, secrets: &[&Secret]) -> Result<TokenResponse, ConnectorError> {
        let unavailable = |sent: Sent, detail: String| ConnectorError::Unavailable {
            detail,
            retry_after: self.retry_after,
            sent,
        };
        let object = self.object();
        let Self { endpoint, status, .. } = *self;
        if let Some(error) = self.by_rule(object.as_ref()) {
            return Err(error);
        }
        let object = object.as_ref();
        let error_code = |it| Value::as_object(it).and_then(error_code);
        match status {
            200..=299 => {
                let unreadable = |what: &str| {
                    unavailable(
                        Sent::Unknown,
                        format!("{endpoint}'s answer cannot be read: {what}"),
                    )
                };
                let object = match (&self.body, object) {
                    (Err(error), _) => return Err(unreadable(&error.to_string())),
                    (Ok(_), None) => return Err(unreadable("it is not a JSON object")),
                    (Ok(_), Some(object)) => object,
                };
                match error_code(object) {
                    Some(code) => Err(self.class_of(code, secrets)),
                    None => self.tokens(object).map_err(|error| match error {
                        Unusable::Unreadable(what) => unreadable(what),
                        // Issued all the same, and so the token that was sent may be spent.
                        Unusable::TokenType => unavailable(
                            Sent::Unknown,
                            format!(
                                "{endpoint} issues access tokens of a type other than Bearer; \
                                 configure Bearer tokens for our client"
                            ),
                        ),
                        Unusable::Bound => unavailable(
                            Sent::Unknown,
                            format!(
                                "{endpoint} issues access tokens that are bound to a key; turn dpop \
                                 on for this provider, or Bearer tokens for our client there"
                            ),
                        ),
                    }),
                }
            }
            300..=399 => Err(unavailable(
                Sent::Answered,
                format!("{endpoint} answered {status}; redirects are not followed"),
            )),
            408 | 425 | 429 | 500..=599 => {
                Err(unavailable(Sent::Answered, format!("{endpoint} answered {status}")))
            }
            400..=499 => match object.and_then(error_code) {
                Some(code) => Err(self.class_of(code, secrets)),
                None if status == 401 => {
                    Err(ConnectorError::ClientRejected { code: "http_401".into() })
                }
                None => Err(unavailable(
                    Sent::Answered,
                    format!("{endpoint} answered {status} without an OAuth error"),
                )),
            },
            _ => Err(unavailable(
                Sent::Unknown,
                format!("{endpoint} answered with the unexpected status {status}"),
            )),
        }
    }

    /// The object that the body holds, as JSON or as a form.
    fn object(&self) -> Option<Value> {
        object(self.body.ok()?, self.content_type)
    }

    /// What the provider's own rules say. Never of an answer that brings tokens.
    fn by_rule(&self, object: Option<&Value>) -> Option<ConnectorError> {
        let token = |it: &Value| self.layout.access_token(it).is_some_and(|it| *it != "");
        if (200..=299).contains(&self.status) && object.is_some_and(token) {
            return None;
        }
        let seen = Seen { status: self.status, object, bytes: self.body.ok() };
        Some(self.rules.find(&seen)?.error(self.endpoint, self.retry_after))
    }

    fn class_of(&self, code: &str, secrets: &[&Secret]) -> ConnectorError {
        if code == "access_denied" && self.status == 401 {
            // 401 is about the client's authentication (RFC 6749 §5.2). Auth0 answers so to a wrong
            // client secret; read as a lost grant, it would end every identity.
            ConnectorError::ClientRejected { code: "invalid_client".into() }
        } else if GRANT_REJECTED.contains(&code) {
            ConnectorError::GrantRejected { code: code.to_owned() }
        } else if MAY_PASS.contains(&code) || (self.proven && code == USE_DPOP_NONCE) {
            ConnectorError::Unavailable {
                detail: format!("{} answered {code}", self.endpoint),
                retry_after: self.retry_after,
                sent: Sent::Answered,
            }
        } else {
            ConnectorError::ClientRejected { code: shown_code(code, secrets) }
        }
    }
}

/// An error code as it may be shown: of the registered form, short, and none of our secrets.
pub(crate) fn shown_code(code: &str, secrets: &[&Secret]) -> String {
    if REGISTERED.contains(&code) {
        return code.to_owned();
    }
    let plain = (1..=64).contains(&code.len())
        && code.bytes().all(|it| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-'));
    let lower = |it: &Secret| it.expose().to_ascii_lowercase();
    let quotes = |it: &&Secret| {
        let secret = lower(it);
        !secret.is_empty() && (code.contains(&secret) || secret.contains(code))
    };
    if plain && !secrets.iter().any(quotes) { code.to_owned() } else { "unrecognized_error".into() }
}

/// The object that a body holds, as JSON or, where the content type says so, as a form.
pub(crate) fn object(bytes: &[u8], content_type: Option<&str>) -> Option<Value> {
    match json::object(bytes) {
        Ok(object) => Some(Value::Object(object)),
        Err(_) if content_type.is_some_and(is_form) => form(bytes).map(Value::Object),
        Err(_) => None,
    }
}

fn is_form(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// The fields of a form; `None` when one is given twice: which of them counts is anybody's guess.
fn form(bytes: &[u8]) -> Option<Map<String, Value>> {
    let mut fields = Map::new();
    for (name, value) in form_urlencoded::parse(bytes) {
        if fields.insert(name.into_owned(), Value::String(value.into_owned())).is_some() {
            return None;
        }
    }
    Some(fields)
}

/// The `error` member; `None` when there is none to speak of.
pub(crate) fn error_code(object: &Map<String, Value>) -> Option<&str> {
    object.get("error").and_then(Value::as_str).filter(|it| !it.is_empty())
}

enum Unusable {
    Unreadable(&'static str),
    TokenType,
    /// Bound to a key, and to none that we know of.
    Bound,
}

impl TokenAnswer<'_> {
    fn tokens(&self, object: &Value) -> Result<TokenResponse, Unusable> {
        let Layout { answer, .. } = self.layout;
        let secret = |value: Option<&Value>, what: &'static str| match value {
            None => Ok(None),
            Some(Value::String(text)) if text.is_empty() => Ok(None),
            // RFC 6749, appendix A: visible characters. Anything else could not be sent back.
            Some(Value::String(text)) if text.bytes().all(|it| (b' '..=b'~').contains(&it)) => {
                Ok(Some(Secret::new(text.as_str())))
            }
            Some(_) => Err(Unusable::Unreadable(what)),
        };
        let access_token =
            secret(self.layout.access_token(object), "its access_token is not a token")?
                .ok_or(Unusable::Unreadable("it has no access_token"))?;
        let bearer = |own: &str| {
            let others = self.layout.token_types.iter();
            own.eq_ignore_ascii_case("bearer")
                || others.into_iter().any(|it| it.eq_ignore_ascii_case(own))
        };
        let token_type = match at(object, &answer.token_type, &["token_type"]) {
            // Required, yet some providers leave it out; then it is Bearer in practice.
            None => None,
            Some(Value::String(own)) if bearer(own) => Some(own.clone()),
            Some(Value::String(own)) if own.eq_ignore_ascii_case(DPOP) => {
                if !self.proven {
                    return Err(Unusable::Bound);
                }
                Some(DPOP.to_owned())
            }
            Some(_) => return Err(Unusable::TokenType),
        };
        let refresh_token = at(object, &answer.refresh_token, &["refresh_token"]);
        let id_token = match self.layout.id_token {
            IdToken::None => None,
            IdToken::Own => at(object, &answer.id_token, &["id_token"]),
            IdToken::AccessToken => self.layout.access_token(object),
        };
        let scope = at(object, &answer.scope, &["scope"]);
        Ok(TokenResponse {
            access_token,
            token_type,
            expires_in: self.life(object),
            refresh_token: secret(refresh_token, "its refresh_token is not a token")?,
            refresh_expires_in: self.refresh_life(object),
            id_token: secret(id_token, "its id_token is not a token")?,
            scopes: scope.and_then(|it| self.scopes(it)),
            rest: scrubbed(object),
        })
    }

    /// How long the access token lives.
    fn life(&self, object: &Value) -> Option<Duration> {
        let Layout { answer, unit, expires_at, expires_from, lifetime, .. } = self.layout;
        let said = at(object, &answer.expires_in, &["expires_in"]).and_then(expires_in);
        let said = said.map(|it| match unit {
            Unit::Seconds => it,
            Unit::Milliseconds => Duration::from_secs((it.as_secs() / 1000).max(1)),
        });
        let until = || self.left(instant(at(object, expires_at, &[])?)?);
        let of_itself = || match expires_from {
            Some(ExpiresFrom::Jwt) => {
                let token = self.layout.access_token(object)?.as_str()?;
                self.left(instant(&jws::unverified_end(token)?)?)
            }
            None => None,
        };
        said.or_else(until).or_else(of_itself).or(*lifetime)
    }

    /// How long the refresh token lives.
    fn refresh_life(&self, object: &Value) -> Option<Duration> {
        let Answer { refresh_token_expires_in, refresh_token_expires_at, .. } = &self.layout.answer;
        let names = ["refresh_token_expires_in", "refresh_expires_in"];
        let said = at(object, refresh_token_expires_in, &names).and_then(expires_in);
        let names = ["refresh_token_expires_at", "refresh_expires_at"];
        let until = || self.left(instant(at(object, refresh_token_expires_at, &names)?)?);
        said.or_else(until)
    }

    /// How long it is until then; `None` when it is past. More than ten years count as ten.
    fn left(&self, end: DateTime<Utc>) -> Option<Duration> {
        let left = (end - self.now).to_std().ok().filter(|it| *it > Duration::ZERO)?;
        Some(left.min(Duration::from_secs(LONGEST_LIFE)))
    }

    /// Scopes parted by spaces, or, as some providers have it, as an array.
    fn scopes(&self, value: &Value) -> Option<Vec<String>> {
        let parts = |text: &str| -> Vec<String> {
            let loose = self.layout.loose;
            let any = |it: char| it.is_ascii_whitespace() || (loose && it == ',');
            let parts: Vec<&str> = match &self.layout.separator {
                Some(separator) => text.split(separator.as_str()).map(str::trim).collect(),
                None => text.split(any).collect(),
            };
            parts.into_iter().filter(|it| !it.is_empty()).map(str::to_owned).collect()
        };
        let found: Vec<String> = match value {
            Value::String(text) => parts(text),
            Value::Array(items) => {
                items.iter().map(|it| it.as_str().map(str::to_owned)).collect::<Option<_>>()?
            }
            _ => return None,
        };
        (!found.is_empty()).then_some(found)
    }
}

/// A point in time: RFC 3339, or Unix seconds or, where that would be thousands of years ahead,
/// milliseconds.
fn instant(value: &Value) -> Option<DateTime<Utc>> {
    const FIRST_MILLISECONDS: i64 = 100_000_000_000;
    let number = match value {
        #[expect(clippy::cast_possible_truncation, reason = "a cast from float saturates")]
        Value::Number(number) => number.as_i64().or_else(|| number.as_f64().map(|it| it as i64)),
        Value::String(text) => match text.parse() {
            Ok(number) => Some(number),
            Err(_) => return DateTime::parse_from_rfc3339(text).ok().map(|it| it.to_utc()),
        },
        _ => None,
    }?;
    if number >= FIRST_MILLISECONDS {
        DateTime::from_timestamp_millis(number)
    } else {
        DateTime::from_timestamp(number, 0)
    }
}

/// The answer without anything that could be a credential: what is called a token, a secret, a
/// password or a code, at any depth.
fn scrubbed(value: &Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(
            object
                .iter()
                .filter(|(name, value)| !is_secret(name) || value.is_object())
                .map(|(name, value)| (name.clone(), scrubbed(value)))
                .collect(),
        ),
        Value::Array(items) => Value::Array(items.iter().map(scrubbed).collect()),
        other => other.clone(),
    }
}

/// Seconds as a number or, as some providers have it, as a text of digits. More than ten years
/// count as ten. Zero and less say nothing of a token that was issued just now, so they count as
/// not said, like anything else that is no number.
fn expires_in(value: &Value) -> Option<Duration> {
    let seconds = match value {
        Value::Number(number) => match number.as_u64() {
            Some(whole) => whole,
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a cast from float saturates, and less than zero becomes zero"
            )]
            None => number.as_f64()? as u64,
        },
        Value::String(text) => {
            let digits = text.trim();
            if digits.is_empty() || !digits.bytes().all(|it| it.is_ascii_digit()) {
                return None;
            }
            digits.parse().unwrap_or(u64::MAX)
        }
        _ => return None,
    };
    (seconds > 0).then(|| Duration::from_secs(seconds.min(LONGEST_LIFE)))
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    static NO_RULES: LazyLock<ErrorRules> = LazyLock::new(ErrorRules::none);

    fn answer(status: u16, body: &[u8]) -> TokenAnswer<'_> {
        TokenAnswer {
            endpoint: "x",
            status,
            retry_after: Some(Duration::from_secs(7)),
            content_type: None,
            body: Ok(body),
            rules: &NO_RULES,
            layout: Layout::standard(),
            now: DateTime::UNIX_EPOCH,
            proven: false,
        }
    }

    fn read(status: u16, body: &str) -> Result<TokenResponse, ConnectorError> {
        answer(status, body.as_bytes()).read(&[&Secret::new("s3cret-token")])
    }

    fn class(result: &Result<TokenResponse, ConnectorError>) -> String {
        match result {
            Ok(_) => "tokens".into(),
            Err(ConnectorError::GrantRejected { code }) => format!("grant {code}"),
            Err(ConnectorError::ClientRejected { code }) => format!("client {code}"),
            Err(ConnectorError::Misconfigured { .. }) => "misconfigured".into(),
            Err(ConnectorError::Untrusted { .. }) => "untrusted".into(),
            Err(ConnectorError::Unavailable { sent, .. }) => format!("unavailable {sent:?}"),
        }
    }

    #[test]
    fn each_answer_has_its_class() {
        let tokens = r#"{"access_token":"a","token_type":"Bearer"}"#;
        let cases: &[(u16, &str, &str)] = &[
            (200, tokens, "tokens"),
            (201, tokens, "tokens"),
            (200, r#"{"access_token":"a"}"#, "tokens"),
            (200, r#"{"access_token":"a","token_type":"bEARER"}"#, "tokens"),
            (200, r#"{"access_token":"a","error":null}"#, "tokens"),
            (200, r#"{"access_token":"a","error":""}"#, "tokens"),
            (200, r#"{"access_token":"a","token_type":"DPoP"}"#, "unavailable Unknown"),
            (200, r#"{"access_token":"a","token_type":1}"#, "unavailable Unknown"),
            (200, r#"{"error":"invalid_grant"}"#, "grant invalid_grant"),
            (200, r#"{"access_token":"a","error":"invalid_grant"}"#, "grant invalid_grant"),
            (200, r#"{"error":"bad_verification_code"}"#, "client bad_verification_code"),
            (200, r#"{"error":"invalid_client"}"#, "client invalid_client"),
            (200, r#"{"error":{}}"#, "unavailable Unknown"),
            (200, "", "unavailable Unknown"),
            (200, "<html>welcome</html>", "unavailable Unknown"),
            (200, "access_token=a&token_type=bearer", "unavailable Unknown"),
            (200, "[]", "unavailable Unknown"),
            (200, "{}", "unavailable Unknown"),
            (200, r#"{"access_token":""}"#, "unavailable Unknown"),
            (200, r#"{"access_token":null}"#, "unavailable Unknown"),
            (200, r#"{"access_token":1}"#, "unavailable Unknown"),
            (200, r#"{"access_token":"a\nb"}"#, "unavailable Unknown"),
            (200, r#"{"access_token":"a","refresh_token":1}"#, "unavailable Unknown"),
            (200, r#"{"access_token":"a","access_token":"b"}"#, "unavailable Unknown"),
            (204, "", "unavailable Unknown"),
            (301, "", "unavailable Answered"),
            (302, tokens, "unavailable Answered"),
            (307, "", "unavailable Answered"),
            (400, r#"{"error":"invalid_grant"}"#, "grant invalid_grant"),
            (401, r#"{"error":"invalid_grant"}"#, "grant invalid_grant"),
            (403, r#"{"error":"access_denied"}"#, "grant access_denied"),
            (401, r#"{"error":"access_denied"}"#, "client invalid_client"),
            (400, r#"{"error":"interaction_required"}"#, "grant interaction_required"),
            (400, r#"{"error":"invalid_client"}"#, "client invalid_client"),
            (401, r#"{"error":"invalid_client"}"#, "client invalid_client"),
            (400, r#"{"error":"unauthorized_client"}"#, "client unauthorized_client"),
            (400, r#"{"error":"unsupported_grant_type"}"#, "client unsupported_grant_type"),
            (400, r#"{"error":"invalid_scope"}"#, "client invalid_scope"),
            (400, r#"{"error":"invalid_request"}"#, "client invalid_request"),
            (400, r#"{"error":"something_new"}"#, "client something_new"),
            (400, r#"{"error":"Invalid_Grant"}"#, "client unrecognized_error"),
            (400, r#"{"error":"invalid_grant "}"#, "client unrecognized_error"),
            (400, r#"{"error":"<script>"}"#, "client unrecognized_error"),
            (400, r#"{"error":"s3cret-token"}"#, "client unrecognized_error"),
            (400, r#"{"error":"x.s3cret-token.y"}"#, "client unrecognized_error"),
            (400, r#"{"error":"temporarily_unavailable"}"#, "unavailable Answered"),
            (400, r#"{"error":["invalid_grant"]}"#, "unavailable Answered"),
            (400, "", "unavailable Answered"),
            (400, "<html>", "unavailable Answered"),
            (401, "", "client http_401"),
            (403, "<html>", "unavailable Answered"),
            (404, "", "unavailable Answered"),
            (408, r#"{"error":"invalid_grant"}"#, "unavailable Answered"),
            (429, r#"{"error":"invalid_grant"}"#, "unavailable Answered"),
            (500, r#"{"error":"invalid_grant"}"#, "unavailable Answered"),
            (502, "", "unavailable Answered"),
            (503, "", "unavailable Answered"),
            (504, "", "unavailable Answered"),
            (504, r#"{"error":"invalid_grant"}"#, "unavailable Answered"),
            (199, "", "unavailable Unknown"),
            (600, tokens, "unavailable Unknown"),
        ];
        for (status, body, expected) in cases {
            assert_eq!(class(&read(*status, body)), *expected, "{status} {body}");
        }
        let long = format!(r#"{{"error":"{}"}}"#, "a".repeat(65));
        assert_eq!(class(&read(400, &long)), "client unrecognized_error");
    }

    #[test]
    fn a_lost_body_leaves_in_doubt_what_only_the_body_could_tell() {
        for error in [BodyError::TooLarge, BodyError::Broken, BodyError::Encoded] {
            let read =
                |status| class(&TokenAnswer { body: Err(error), ..answer(status, b"") }.read(&[]));
            assert_eq!(read(200), "unavailable Unknown");
            assert_eq!(read(503), "unavailable Answered");
            assert_eq!(read(400), "unavailable Answered");
        }
    }

    #[test]
    fn a_form_is_read_where_the_content_type_says_that_it_is_one() {
        let class = |status, content_type, body: &str| {
            let content_type = Some(content_type);
            class(&TokenAnswer { content_type, ..answer(status, body.as_bytes()) }.read(&[]))
        };
        let form = "Application/x-www-form-urlencoded; charset=utf-8";
        let tokens = "access_token=a&token_type=bearer&expires_in=3600";
        assert_eq!(class(200, form, tokens), "tokens");
        assert_eq!(class(200, "text/plain", tokens), "unavailable Unknown");
        assert_eq!(class(200, form, "access_token=a&access_token=b"), "unavailable Unknown");
        assert_eq!(class(200, form, ""), "unavailable Unknown");
        assert_eq!(class(200, form, "error=invalid_grant&x=%ff"), "grant invalid_grant");
        assert_eq!(class(400, form, "error=invalid_grant"), "grant invalid_grant");
        assert_eq!(class(400, form, "error=invalid_grant&error=x"), "unavailable Answered");
        assert_eq!(class(400, form, r#"{"error":"invalid_grant"}"#), "grant invalid_grant");
        assert_eq!(class(400, "text/html", "error=invalid_grant"), "unavailable Answered");
    }

    #[test]
    fn rules_come_before_the_table_and_never_before_tokens() {
        let rules: ErrorRules = serde_json::from_value(json!([
            {"when": [{"at": "/error", "is": "invalid_grant"}, {"at": "/busy", "is": "true"}],
             "class": "may_pass", "code": "busy", "source": "x"},
            {"status": [403], "when": [{"contains": "dead"}],
             "class": "grant_rejected", "code": "invalid_grant", "source": "x"},
            {"when": [{"at": "/ok", "is": "false"}],
             "class": "unknown", "code": "perhaps", "source": "x"},
            {"status": [418], "class": "ask_operator", "code": "teapot", "advice": "boil", "source": "x"},
        ]))
        .unwrap();
        let read = |status, body: &str| {
            TokenAnswer { rules: &rules, ..answer(status, body.as_bytes()) }.read(&[])
        };
        let class = |status, body: &str| class(&read(status, body));
        assert_eq!(class(400, r#"{"error":"invalid_grant","busy":true}"#), "unavailable Answered");
        assert_eq!(class(400, r#"{"error":"invalid_grant"}"#), "grant invalid_grant");
        assert_eq!(class(403, "<p>It is Dead.</p>"), "grant invalid_grant");
        assert_eq!(class(503, "<p>It is Dead.</p>"), "unavailable Answered");
        assert_eq!(class(200, r#"{"ok":false}"#), "unavailable Unknown");
        assert_eq!(class(200, r#"{"ok":false,"access_token":"a"}"#), "tokens");
        assert_eq!(class(418, ""), "misconfigured");
        let Err(ConnectorError::Misconfigured { detail }) = read(418, "foreign") else { panic!() };
        assert_eq!(detail, "x answered teapot: boil");
    }

    #[test]
    fn retry_after_is_passed_on() {
        let Err(ConnectorError::Unavailable { retry_after, .. }) = read(429, "") else { panic!() };
        assert_eq!(retry_after, Some(Duration::from_secs(7)));
    }

    #[test]
    fn a_life_time_is_a_positive_number_of_seconds_or_unknown() {
        let seconds = |it: u64| Some(Duration::from_secs(it));
        for (value, expected) in [
            (json!(3600), seconds(3600)),
            (json!(3599.9), seconds(3599)),
            (json!("3600"), seconds(3600)),
            (json!(" 3600 "), seconds(3600)),
            (json!(1e308), seconds(LONGEST_LIFE)),
            (json!(u64::MAX), seconds(LONGEST_LIFE)),
            (json!("99999999999999999999999999"), seconds(LONGEST_LIFE)),
            (json!(0), None),
            (json!(-1), None),
            (json!(-1e308), None),
            (json!(0.5), None),
            (json!("0"), None),
            (json!("-1"), None),
            (json!(""), None),
            (json!("never"), None),
            (json!("1e3"), None),
            (json!("inf"), None),
            (json!(null), None),
            (json!(true), None),
            (json!([3600]), None),
        ] {
            assert_eq!(expires_in(&value), expected, "{value}");
        }
    }

    /// A layout of the catalog.
    fn layout(answer: Value) -> Layout {
        let answer = serde_json::from_value(answer).unwrap();
        Layout { answer, ..Layout::standard().clone() }
    }

    fn read_by(layout: &Layout, body: &Value) -> Result<TokenResponse, ConnectorError> {
        let body = body.to_string();
        TokenAnswer { layout, ..answer(200, body.as_bytes()) }.read(&[])
    }

    #[test]
    fn of_several_places_the_first_where_something_is_counts() {
        let layout = layout(json!({
            "access_token": ["/access_token", "/data/0/access_token"],
            "expires_in": ["/data/0/lives", "/lives"],
            "scope": ["/data/0/scope", "/scope"],
        }));
        let nested = json!({"data": [{"access_token": "a", "lives": 7, "scope": "x"}], "lives": 9});
        let flat = json!({"access_token": "a", "lives": 9, "scope": "y", "expires_in": 1});
        for (body, life, scope) in [(nested, 7, "x"), (flat, 9, "y")] {
            let tokens = read_by(&layout, &body).unwrap();
            assert_eq!(tokens.access_token, Secret::new("a"));
            assert_eq!(tokens.expires_in, Some(Duration::from_secs(life)));
            assert_eq!(tokens.scopes, Some(vec![scope.to_owned()]));
        }
        let null_first = json!({"access_token": null, "data": [{"access_token": "a"}]});
        assert!(read_by(&layout, &null_first).is_ok());
        assert_eq!(class(&read_by(&layout, &json!({"data": []}))), "unavailable Unknown");
    }

    #[test]
    fn the_end_of_a_refresh_token_is_found_under_any_of_its_names() {
        let named = layout(json!({"refresh_token_expires_in": "/x_refresh_token_expires_in"}));
        let dated = layout(json!({"refresh_token_expires_at": ["/a/until", "/until"]}));
        let day = 24 * 60 * 60;
        for (layout, body, expected) in [
            (Layout::standard(), json!({"refresh_token_expires_in": day}), Some(day)),
            (Layout::standard(), json!({"refresh_expires_in": day.to_string()}), Some(day)),
            (Layout::standard(), json!({"refresh_token_expires_at": day}), Some(day)),
            (Layout::standard(), json!({"refresh_expires_at": "1970-01-02T00:00:00Z"}), Some(day)),
            (Layout::standard(), json!({"refresh_expires_in": 0, "refresh_expires_at": 0}), None),
            (Layout::standard(), json!({"x_refresh_token_expires_in": day}), None),
            (&named, json!({"x_refresh_token_expires_in": day}), Some(day)),
            (&named, json!({"refresh_token_expires_in": day}), None),
            (&dated, json!({"until": day * 2_000_000}), Some(day * 2_000)),
            (&dated, json!({"until": "9999-01-01T00:00:00Z"}), Some(LONGEST_LIFE)),
            (&dated, json!({"until": "soon"}), None),
        ] {
            let mut body = body;
            body["access_token"] = "a".into();
            let life = read_by(layout, &body).unwrap().refresh_expires_in;
            assert_eq!(life, expected.map(Duration::from_secs), "{body}");
        }
    }

    #[test]
    fn a_token_that_tells_its_own_end_is_believed_where_nothing_else_does() {
        use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
        let jwt = |claims: &str| {
            let part = |it: &str| URL_SAFE_NO_PAD.encode(it);
            format!("{}.{}.{}", part(r#"{"alg":"none"}"#), part(claims), part("unsigned"))
        };
        let asked = Layout {
            expires_from: Some(ExpiresFrom::Jwt),
            lifetime: Some(Duration::from_mins(1)),
            ..Layout::standard().clone()
        };
        let life = |layout: &Layout, body: Value| {
            read_by(layout, &body).unwrap().expires_in.map(|it| it.as_secs())
        };
        let of = |token: &str| json!({ "access_token": token });
        assert_eq!(life(&asked, of(&jwt(r#"{"exp":3600}"#))), Some(3600));
        assert_eq!(life(&asked, of(&jwt(r#"{"exp":3600.5}"#))), Some(3600));
        assert_eq!(life(&asked, of(&jwt(r#"{"exp":99999999999}"#))), Some(LONGEST_LIFE));
        let said = json!({"access_token": jwt(r#"{"exp":3600}"#), "expires_in": 9});
        assert_eq!(life(&asked, said), Some(9), "the answer goes before the token");
        for other in [
            "opaque".to_owned(),
            "a.b".to_owned(),
            jwt(r#"{"exp":-5}"#),
            jwt(r#"{"exp":"later"}"#),
            jwt(r#"{"exp":1,"exp":3600}"#),
            jwt("{}"),
            jwt("[]"),
            format!("{}.x", jwt(r#"{"exp":3600}"#)),
            format!("{}{}", jwt(r#"{"exp":3600}"#), "a".repeat(40_000)),
        ] {
            assert_eq!(life(&asked, of(&other)), Some(60), "{other}");
        }
        assert_eq!(life(Layout::standard(), of(&jwt(r#"{"exp":3600}"#))), None, "nobody asked");
    }

    #[test]
    fn what_another_than_an_openid_provider_calls_an_id_token_is_none() {
        let plain = Layout { id_token: IdToken::None, ..Layout::standard().clone() };
        for id_token in [json!(false), json!(7), json!({"a": 1}), json!([]), json!("a.b.c")] {
            let body = json!({"access_token": "a", "id_token": id_token});
            assert_eq!(read_by(&plain, &body).unwrap().id_token, None);
        }
        let access = Layout { id_token: IdToken::AccessToken, ..Layout::standard().clone() };
        let body = json!({"access_token": "a.b.c", "id_token": false});
        assert_eq!(read_by(&access, &body).unwrap().id_token, Some(Secret::new("a.b.c")));
        let body = json!({"access_token": "a", "id_token": false});
        assert_eq!(class(&read_by(Layout::standard(), &body)), "unavailable Unknown");
    }

    #[test]
    fn scopes_are_parted_by_spaces() {
        let list = |it: &[&str]| Some(it.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
        assert_eq!(answer(200, b"").scopes(&json!("a  b")), list(&["a", "b"]));
        assert_eq!(answer(200, b"").scopes(&json!(["a", "b"])), list(&["a", "b"]));
        assert_eq!(answer(200, b"").scopes(&json!("")), None);
        assert_eq!(answer(200, b"").scopes(&json!([1])), None);
        assert_eq!(answer(200, b"").scopes(&json!(null)), None);
    }

    #[test]
    fn tokens_do_not_show() {
        let tokens = read(200, r#"{"access_token":"canary","refresh_token":"canary"}"#).unwrap();
        assert!(!format!("{tokens:?}").contains("canary"));
    }

    proptest! {
        #[test]
        fn any_answer_has_a_class(
            status in any::<u16>(),
            bytes in proptest::collection::vec(any::<u8>(), 0..256),
            expires in any::<f64>(),
            text in "\\PC{0,40}",
        ) {
            let _ = answer(status, &bytes).read(&[]);
            let form = "application/x-www-form-urlencoded";
            let _ = TokenAnswer { content_type: Some(form), ..answer(status, &bytes) }.read(&[]);
            let body = json!({"access_token": text, "expires_in": expires, "scope": text});
            let body = body.to_string();
            let _ = answer(status, body.as_bytes()).read(&[]);
        }

        #[test]
        fn only_a_registered_code_ends_a_grant(status in 100_u16..1000, code in "[a-z_]{1,30}") {
            let answer = read(status, &json!({"error": code}).to_string());
            if let Err(ConnectorError::GrantRejected { code }) = answer {
                prop_assert!(GRANT_REJECTED.contains(&code.as_str()));
            }
        }
    }
}
