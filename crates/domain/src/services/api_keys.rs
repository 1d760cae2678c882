use std::sync::Arc;

use crate::{
    Error,
    api_key::{ApiKey, KeyLimits, KeyScope},
    event::Actor,
    ports::ApiKeyRepository,
    secret::{Secret, SecretHash},
};

/// Makes and recognizes the keys of calling services.
pub struct ApiKeys {
    /// Where keys are kept.
    pub keys: Arc<dyn ApiKeyRepository>,
}

/// What every key's secret starts with, so that secret scanners can find a leaked one.
pub const KEY_PREFIX: &str = "sym_";

impl ApiKeys {
    /// Makes a key without limits. The secret is in this answer and nowhere else.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] for a name that is empty or over 255 characters, or for no scope.
    pub async fn create(
        &self,
        name: &str,
        scopes: &[KeyScope],
        actor: &Actor,
    ) -> Result<(ApiKey, Secret), Error> {
        self.create_limited(name, scopes, &KeyLimits::default(), actor).await
    }

    /// Makes a key that is limited: to some organizations, provider types, provider instances,
    /// token scopes, users, or several of these. The secret is in this answer and nowhere else.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create); [`Error::InvalidRequest`] for a limit that leaves nothing.
    pub async fn create_limited(
        &self,
        name: &str,
        scopes: &[KeyScope],
        limits: &KeyLimits,
        actor: &Actor,
    ) -> Result<(ApiKey, Secret), Error> {
        Self::check_name(name)?;
        if scopes.is_empty() {
            return Err(Error::invalid("scope", "give at least one"));
        }
        if limits.organizations.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::invalid("organization", "give at least one"));
        }
        if limits.provider_types.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::invalid("provider_type", "give at least one"));
        }
        if limits.providers.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::invalid("provider", "give at least one"));
        }
        if let Some(scopes) = &limits.token_scopes
            && (scopes.is_empty() || !scopes.iter().all(|it| is_scope_token(it)))
        {
            let problem = "give at least one, each 1 to 255 printable characters without a space, \
                           a quote or a backslash";
            return Err(Error::invalid("token_scope", problem));
        }
        if limits.users.as_ref().is_some_and(Vec::is_empty) {
            return Err(Error::invalid("user", "give at least one"));
        }
        let secret = Secret::new(format!("{KEY_PREFIX}{}", Secret::random().expose()));
        let key = self.keys.insert(name, scopes, limits, &secret.hash(), actor).await?;
        Ok((key, secret))
    }

    /// Whether a key may have this name.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] when it is empty or over 255 characters.
    pub fn check_name(name: &str) -> Result<(), Error> {
        if name.is_empty() || name.chars().count() > 255 || name.chars().any(char::is_control) {
            return Err(Error::invalid("name", "must be 1 to 255 characters"));
        }
        Ok(())
    }

    /// The key with this secret.
    ///
    /// # Errors
    ///
    /// [`Error::Unauthenticated`] when there is none or it was revoked.
    pub async fn authenticate(&self, secret: &str) -> Result<ApiKey, Error> {
        if !secret.starts_with(KEY_PREFIX) {
            return Err(Error::Unauthenticated);
        }
        self.keys
            .find_by_hash(&SecretHash::of(secret))
            .await?
            .filter(|key| key.revoked_at.is_none())
            .ok_or(Error::Unauthenticated)
    }
}

/// Whether it is one scope ([RFC 6749 §3.3](https://www.rfc-editor.org/rfc/rfc6749#section-3.3)).
fn is_scope_token(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.bytes().all(|it| matches!(it, 0x21 | 0x23..=0x5b | 0x5d..=0x7e))
}
