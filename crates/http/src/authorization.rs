use std::{marker::PhantomData, sync::Arc, time::Duration};

use axum::{
    extract::{FromRef, FromRequestParts},
    http::{HeaderMap, header::AUTHORIZATION, request::Parts},
};
use chrono::{DateTime, TimeDelta, Utc};
use moka::future::Cache;
use symbolon_domain::{
    Error,
    api_key::{ApiKey, KeyLimits, KeyScope},
    event::Actor,
    ids::UserId,
    ports::Clock,
    secret::SecretHash,
    services::{ApiKeys, Recipient},
};

use crate::{error::ApiError, limits::Limits, telemetry::RequestId};

/// How long a key that was good may still be taken for good: a revocation reaches every replica
/// within this time.
const STALENESS: Duration = Duration::from_secs(5);

/// Most keys that are remembered.
const REMEMBERED: u64 = 10_000;

/// Recognizes callers by their API keys, and remembers good keys for [`STALENESS`].
#[derive(Clone)]
pub(crate) struct Authenticator(Arc<Inner>);

struct Inner {
    keys: Arc<ApiKeys>,
    clock: Arc<dyn Clock>,
    /// Good keys with the time before which they were read. A bad one is asked for every time:
    /// whoever guesses must not fill the memory, nor a new key wait.
    good: Cache<SecretHash, (Arc<ApiKey>, DateTime<Utc>)>,
    limits: Limits,
}

impl Authenticator {
    pub(crate) fn new(keys: Arc<ApiKeys>, clock: Arc<dyn Clock>, limits: Limits) -> Self {
        let good = Cache::builder().max_capacity(REMEMBERED).time_to_live(STALENESS).build();
        Self(Arc::new(Inner { keys, clock, good, limits }))
    }

    /// The good key with this secret, unless it or its caller's address asks too often.
    pub(crate) async fn admit(
        &self,
        parts: &Parts,
        secret: Option<&str>,
    ) -> Result<Arc<ApiKey>, ApiError> {
        let limits = &self.0.limits;
        let key = match self.authenticate(secret).await {
            Err(Error::Unauthenticated) => {
                return Err(match limits.failed(parts) {
                    Ok(()) => Error::Unauthenticated.into(),
                    Err(wait) => ApiError::rate_limited(
                        "too many requests without a valid key came from this address",
                        wait,
                    ),
                });
            }
            key => key?,
        };
        tracing::Span::current().record("key", key.id.0);
        limits
            .admit(key.id)
            .map_err(|wait| ApiError::rate_limited("this key asks too often", wait))?;
        Ok(key)
    }

    async fn authenticate(&self, secret: Option<&str>) -> Result<Arc<ApiKey>, Error> {
        let secret = secret.ok_or(Error::Unauthenticated)?;
        let hash = SecretHash::of(secret);
        let now = self.0.clock.now();
        if let Some((key, read_at)) = self.0.good.get(&hash).await {
            let age = now - read_at;
            // A clock that was set back says nothing about the age.
            if age >= TimeDelta::zero() && age.to_std().is_ok_and(|it| it < STALENESS) {
                return Ok(key);
            }
        }
        let key = Arc::new(self.0.keys.authenticate(secret).await?);
        self.0.good.insert(hash, (Arc::clone(&key), now)).await;
        Ok(key)
    }
}

/// The token of `Authorization: Bearer …`
/// ([RFC 6750 §2.1](https://www.rfc-editor.org/rfc/rfc6750#section-2.1)), if there is exactly one.
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
}

/// The header in which a caller says on whose behalf it asks.
pub(crate) const ACTING_USER: &str = "Symbolon-Acting-User";
/// The header in which a caller says why.
pub(crate) const REASON: &str = "Symbolon-Reason";
/// Most characters of a reason.
const LONGEST_REASON: usize = 500;

pub(crate) fn acting_user(headers: &HeaderMap) -> Result<Option<UserId>, ApiError> {
    let user = text(headers, ACTING_USER)?.map(UserId::new).transpose();
    user.map_err(|problem| ApiError::invalid(ACTING_USER, problem))
}

fn reason(headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(reason) = text(headers, REASON)? else { return Ok(None) };
    let length = reason.chars().count();
    if (1..=LONGEST_REASON).contains(&length) && !reason.chars().any(char::is_control) {
        Ok(Some(reason.to_owned()))
    } else {
        let problem = "must be 1 to 500 characters and hold no control character";
        Err(ApiError::invalid(REASON, problem))
    }
}

/// A header that is there once or not at all, as UTF-8.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(ApiError::invalid(name, "must be given once"));
    }
    let text = std::str::from_utf8(value.as_bytes());
    text.map(|it| Some(it.trim())).map_err(|_| ApiError::invalid(name, "must be UTF-8"))
}

/// What a handler asks of the caller's key, as a type, so that it is checked before the body is
/// read.
pub(crate) trait Scope: Send + Sync {
    const SCOPE: KeyScope;
}

macro_rules! scopes {
    ($($name:ident),* $(,)?) => {$(
        /// The key scope of the same name.
        pub(crate) struct $name;

        impl Scope for $name {
            const SCOPE: KeyScope = KeyScope::$name;
        }
    )*};
}

scopes!(
    IdentitiesRead,
    IdentitiesWrite,
    TokensRead,
    LinkWrite,
    ProvidersRead,
    ProvidersWrite,
    SsoRead,
    SsoWrite,
    EventsRead,
    Admin,
);

/// The caller has a good key with this scope, which is not limited to provider instances, token
/// scopes or users: see [`Narrow`] for routes that ask about these limits.
pub(crate) struct Allowed<S> {
    key: Arc<ApiKey>,
    actor: Actor,
    request_id: Option<RequestId>,
    scope: PhantomData<S>,
}

impl<S> Allowed<S> {
    /// Whom the event log names.
    pub(crate) fn actor(&self) -> Actor {
        self.actor.clone()
    }

    /// Who is handed a token.
    pub(crate) fn recipient(&self) -> Recipient<'_> {
        Recipient {
            key: &self.key,
            acting_user: self.actor.acting_user.as_ref(),
            request_id: self.request_id.as_ref().map_or("", |it| &it.0),
        }
    }

    /// The key.
    pub(crate) fn key(&self) -> &ApiKey {
        &self.key
    }

    /// What the key is limited to.
    pub(crate) fn limits(&self) -> &KeyLimits {
        &self.key.limits
    }
}

impl<S: Scope, T: Send + Sync> FromRequestParts<T> for Allowed<S>
where
    Authenticator: FromRef<T>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &T) -> Result<Self, ApiError> {
        let Narrow(allowed) = Narrow::from_request_parts(parts, state).await?;
        if allowed.key.limits.are_narrow() { Err(ApiError::limited_key()) } else { Ok(allowed) }
    }
}

/// The caller has a good key with this scope, whatever it is limited to: what the route answers
/// and does is within every limit there is.
pub(crate) struct Narrow<S>(pub(crate) Allowed<S>);

impl<S: Scope, T: Send + Sync> FromRequestParts<T> for Narrow<S>
where
    Authenticator: FromRef<T>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &T) -> Result<Self, ApiError> {
        let authenticator = Authenticator::from_ref(state);
        let key = authenticator.admit(parts, bearer(&parts.headers)).await?;
        if !key.allows(S::SCOPE) {
            return Err(Error::Forbidden { scope: S::SCOPE.as_str() }.into());
        }
        let actor = Actor {
            acting_user: acting_user(&parts.headers)?,
            reason: reason(&parts.headers)?,
            ..Actor::api_key(key.id)
        };
        let request_id = parts.extensions.get().cloned();
        Ok(Self(Allowed { key, actor, request_id, scope: PhantomData }))
    }
}

/// The caller has a good key with this scope that is limited to nothing: what is asked for
/// concerns all organizations and provider types at once.
pub(crate) struct Unlimited<S>(Allowed<S>);

impl<S> Unlimited<S> {
    /// Whom the event log names.
    pub(crate) fn actor(&self) -> Actor {
        self.0.actor()
    }
}

impl<S: Scope, T: Send + Sync> FromRequestParts<T> for Unlimited<S>
where
    Authenticator: FromRef<T>,
{
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &T) -> Result<Self, ApiError> {
        let allowed = Allowed::from_request_parts(parts, state).await?;
        if allowed.key.limits == KeyLimits::default() {
            Ok(Self(allowed))
        } else {
            Err(ApiError::limited_key())
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        values.iter().map(|it| (AUTHORIZATION, HeaderValue::from_static(it))).collect()
    }

    #[test]
    fn only_one_bearer_token_is_taken() {
        assert_eq!(bearer(&headers(&["Bearer abc"])), Some("abc"));
        assert_eq!(bearer(&headers(&["bearer  abc "])), Some("abc"));
        assert_eq!(bearer(&headers(&["Basic abc"])), None);
        assert_eq!(bearer(&headers(&["Bearer"])), None);
        assert_eq!(bearer(&headers(&["Bearer abc", "Bearer abd"])), None);
        assert_eq!(bearer(&headers(&[])), None);
    }

    fn with(name: &'static str, value: &[u8]) -> HeaderMap {
        HeaderMap::from_iter([(
            name.parse::<axum::http::HeaderName>().unwrap(),
            HeaderValue::from_bytes(value).unwrap(),
        )])
    }

    #[test]
    fn whom_and_why_a_caller_acts_is_read_or_refused_by_its_name() {
        let user = acting_user(&with(ACTING_USER, "zoë".as_bytes())).unwrap();
        assert_eq!(user.unwrap().as_str(), "zoë");
        assert_eq!(reason(&with(REASON, b"ticket 5")).unwrap().as_deref(), Some("ticket 5"));
        assert!(reason(&with(REASON, "é".repeat(500).as_bytes())).unwrap().is_some());
        assert_eq!(
            (acting_user(&headers(&[])).unwrap(), reason(&headers(&[])).unwrap()),
            (None, None)
        );

        let long = "é".repeat(501);
        for bad in [b"".as_slice(), b" ", b"\xff", b"a\tb", long.as_bytes()] {
            let refused = format!("{:?}", reason(&with(REASON, bad)).unwrap_err());
            assert!(refused.contains("Symbolon-Reason: "), "{refused}");
            let refused = format!("{:?}", acting_user(&with(ACTING_USER, bad)).unwrap_err());
            assert!(refused.contains("Symbolon-Acting-User: "), "{refused}");
        }
        let mut twice = with(REASON, b"a");
        twice.append(REASON, HeaderValue::from_static("b"));
        assert!(reason(&twice).is_err());
    }
}
