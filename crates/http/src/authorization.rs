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
    ports::Clock,
    secret::SecretHash,
    services::ApiKeys,
};

use crate::error::ApiError;

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
}

impl Authenticator {
    pub(crate) fn new(keys: Arc<ApiKeys>, clock: Arc<dyn Clock>) -> Self {
        let good = Cache::builder().max_capacity(REMEMBERED).time_to_live(STALENESS).build();
        Self(Arc::new(Inner { keys, clock, good }))
    }

    async fn authenticate(&self, headers: &HeaderMap) -> Result<Arc<ApiKey>, Error> {
        let secret = bearer(headers).ok_or(Error::Unauthenticated)?;
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
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim_matches(' '))
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

scopes!(IdentitiesRead, IdentitiesWrite, TokensRead, LinkWrite, ProvidersRead, ProvidersWrite);
scopes!(SsoRead, SsoWrite);

/// The caller has a good key with this scope.
pub(crate) struct Allowed<S> {
    key: Arc<ApiKey>,
    scope: PhantomData<S>,
}

impl<S> Allowed<S> {
    /// Whom the event log names.
    pub(crate) fn actor(&self) -> Actor {
        Actor::api_key(self.key.id)
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
        let key = Authenticator::from_ref(state).authenticate(&parts.headers).await?;
        tracing::Span::current().record("key", key.id.0);
        if key.allows(S::SCOPE) {
            Ok(Self { key, scope: PhantomData })
        } else {
            Err(Error::Forbidden { scope: S::SCOPE.as_str() }.into())
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
}
