use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{
    Error,
    event::Actor,
    identity_provider::{
        IdentityProvider, OptionChanges, ProviderOptions, ProviderSecrets, ProviderType,
    },
    ids::ProviderId,
    ports::{
        Connector, Connectors, IdentityProviderRepository, NewIdentityProvider, ProviderDeletion,
        ProviderUpdate, RepositoryError,
    },
    secret::Secret,
};

/// What a secret reads as, and what leaves it as it is when it is sent back.
pub const HIDDEN: &str = "********";

/// Makes, changes and reaches provider instances.
pub struct Providers {
    /// Where instances are kept.
    pub providers: Arc<dyn IdentityProviderRepository>,
    /// The catalog.
    pub connectors: Arc<dyn Connectors>,
}

impl Providers {
    /// Adds an instance. `config` holds its secrets too.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] names the key that does not fit the type;
    /// [`Error::AlreadyExists`] when (type, external id) is taken.
    pub async fn create(
        &self,
        provider_type: &str,
        external_id: Option<String>,
        config: Map<String, Value>,
        options: OptionChanges,
        actor: &Actor,
    ) -> Result<IdentityProvider, Error> {
        let kind = self.find_type(provider_type)?;
        check_external_id(external_id.as_deref())?;
        let (config, secrets) = split(&kind, config)?;
        self.connectors.check(provider_type, &config, &secrets)?;
        let provider = NewIdentityProvider {
            provider_type: provider_type.to_owned(),
            external_id,
            config,
            secrets,
            options: options.over(ProviderOptions::default()),
        };
        self.providers.insert(&provider, actor).await.map_err(|error| match error {
            RepositoryError::Conflict => {
                Error::AlreadyExists("a provider of this type and external_id is there already")
            }
            other => other.into(),
        })
    }

    /// Changes single keys of an instance's configuration, and its options: `null` removes a key, [`HIDDEN`]
    /// leaves a secret as it is, and so does leaving a key out.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create); [`Error::NotFound`]; [`Error::VersionConflict`] when
    /// `if_version` is given and is not the version, or when others change it all the time.
    pub async fn update(
        &self,
        id: ProviderId,
        changes: &Map<String, Value>,
        options: OptionChanges,
        if_version: Option<i64>,
        actor: &Actor,
    ) -> Result<IdentityProvider, Error> {
        // Others may change it between read and write; then the changes go over theirs.
        for _ in 0..5 {
            let (provider, mut secrets) = self
                .providers
                .find_with_secrets(id)
                .await?
                .ok_or(Error::NotFound("identity provider"))?;
            if if_version.is_some_and(|version| version != provider.version) {
                return Err(Error::VersionConflict);
            }
            let kind = self.find_type(&provider.provider_type)?;
            let mut config = provider.config;
            for (key, value) in changes {
                if value.is_null() {
                    config.remove(key);
                    secrets.remove(key);
                } else if kind.secret_names.contains(key) {
                    if value.as_str() != Some(HIDDEN) {
                        secrets.insert(key.clone(), secret(key, value)?);
                    }
                } else {
                    config.insert(key.clone(), value.clone());
                }
            }
            self.connectors.check(&provider.provider_type, &config, &secrets)?;
            let update = ProviderUpdate {
                id,
                version: provider.version,
                config,
                secrets,
                options: options.over(provider.options),
            };
            let updated = self.providers.update(&update, actor).await?;
            if let Some(provider) = updated {
                return Ok(provider);
            }
        }
        Err(Error::VersionConflict)
    }

    /// Creates the instance of this type and external id, or makes the one that is there have
    /// exactly this configuration, and these options where they are set. Writes nothing when it has it already.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create) and [`update`](Self::update).
    pub async fn ensure(
        &self,
        provider_type: &str,
        external_id: Option<String>,
        config: Map<String, Value>,
        options: OptionChanges,
        actor: &Actor,
    ) -> Result<IdentityProvider, Error> {
        let found = self.providers.find_by_key(provider_type, external_id.as_deref()).await?;
        let Some(found) = found else {
            match self
                .create(provider_type, external_id.clone(), config.clone(), options, actor)
                .await
            {
                // Another replica that starts at the same time was first.
                Err(Error::AlreadyExists(_)) => {}
                other => return other,
            }
            return Box::pin(self.ensure(provider_type, external_id, config, options, actor)).await;
        };
        let kind = self.find_type(provider_type)?;
        let (config, secrets) = split(&kind, config)?;
        self.connectors.check(provider_type, &config, &secrets)?;
        let (provider, old_secrets) = self
            .providers
            .find_with_secrets(found.id)
            .await?
            .ok_or(Error::NotFound("identity provider"))?;
        let options = options.over(provider.options);
        if provider.config == config && old_secrets == secrets && provider.options == options {
            return Ok(provider);
        }
        let update =
            ProviderUpdate { id: provider.id, version: provider.version, config, secrets, options };
        self.providers.update(&update, actor).await?.ok_or(Error::VersionConflict)
    }

    /// Deletes an instance, with `cascade` its identities too. Their grants are not revoked at
    /// the provider.
    ///
    /// # Errors
    ///
    /// [`Error::ProviderInUse`] without `cascade` when it has identities; [`Error::NotFound`].
    pub async fn delete(&self, id: ProviderId, cascade: bool, actor: &Actor) -> Result<u64, Error> {
        match self.providers.delete(id, cascade, actor).await? {
            ProviderDeletion::Deleted(identities) => Ok(identities),
            ProviderDeletion::InUse(identities) => Err(Error::ProviderInUse(identities)),
            ProviderDeletion::Absent => Err(Error::NotFound("identity provider")),
        }
    }

    /// An instance and what speaks to it.
    ///
    /// # Errors
    ///
    /// [`Error::NotFound`]; [`Error::ProviderMisconfigured`] when its stored configuration does
    /// not fit its type any more.
    pub async fn connect(
        &self,
        id: ProviderId,
    ) -> Result<(IdentityProvider, Arc<dyn Connector>), Error> {
        let (provider, secrets) = self
            .providers
            .find_with_secrets(id)
            .await?
            .ok_or(Error::NotFound("identity provider"))?;
        let connector = self
            .connectors
            .connect(&provider, &secrets)
            .map_err(|error| Error::ProviderMisconfigured { detail: error.to_string() })?;
        Ok((provider, connector))
    }

    fn find_type(&self, name: &str) -> Result<ProviderType, Error> {
        self.connectors.find_type(name).ok_or_else(|| {
            let known: Vec<_> = self.connectors.types().into_iter().map(|it| it.name).collect();
            Error::invalid("type", format!("unknown; known types are {}", known.join(", ")))
        })
    }
}

fn check_external_id(external_id: Option<&str>) -> Result<(), Error> {
    match external_id {
        Some(id) if id.chars().count() > 255 || id.chars().any(char::is_control) => {
            Err(Error::invalid("external_id", "must be at most 255 characters"))
        }
        _ => Ok(()),
    }
}

fn secret(key: &str, value: &Value) -> Result<Secret, Error> {
    match value.as_str() {
        Some(HIDDEN) => {
            Err(Error::invalid(format!("config.{key}"), "is the placeholder, not the secret"))
        }
        Some(text) if !text.is_empty() => Ok(Secret::new(text)),
        _ => Err(Error::invalid(format!("config.{key}"), "must be a non-empty text")),
    }
}

fn split(
    kind: &ProviderType,
    mut config: Map<String, Value>,
) -> Result<(Map<String, Value>, ProviderSecrets), Error> {
    let mut secrets = ProviderSecrets::new();
    for name in &kind.secret_names {
        match config.remove(name) {
            None | Some(Value::Null) => {}
            Some(value) => {
                secrets.insert(name.clone(), secret(name, &value)?);
            }
        }
    }
    Ok((config, secrets))
}
