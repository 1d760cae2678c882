use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{
    Error,
    account::ExternalAccount,
    credentials::Credentials,
    event::Actor,
    identity_provider::{
        IdentityProvider, OptionChanges, ProviderOptions, ProviderSecrets, ProviderType,
    },
    ids::ProviderId,
    ports::{
        AuthorityUpdate, Connector, ConnectorError, Connectors, Grant, IdentityProviderRepository,
        NewIdentityProvider, ProviderDeletion, ProviderUpdate, RepositoryError,
    },
    secret::Secret,
};

/// What a secret reads as, and what leaves it as it is when it is sent back.
pub const HIDDEN: &str = "********";

/// How often a change is tried that somebody else's gets ahead of.
const TRIES: usize = 5;

/// Makes, changes and reaches provider instances.
pub struct Providers {
    /// Where instances are kept.
    pub providers: Arc<dyn IdentityProviderRepository>,
    /// The catalog.
    pub connectors: Arc<dyn Connectors>,
}

/// Which provider instance is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderKey<'a> {
    /// The one of this id.
    Id(ProviderId),
    /// The one of this type and external id.
    Name {
        /// The key of its type.
        provider_type: &'a str,
        /// Which instance; `None` means the one without an external id, not any.
        external_id: Option<&'a str>,
    },
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
    /// `if_version` is given and is not the version, or when others change it all the time;
    /// [`Error::InvalidRequest`] for another value of one of the type's
    /// [`authority_keys`](ProviderType::authority_keys) while the instance has identities, and
    /// for a secret that is left as it is and does not open.
    pub async fn update(
        &self,
        id: ProviderId,
        changes: &Map<String, Value>,
        options: OptionChanges,
        if_version: Option<i64>,
        actor: &Actor,
    ) -> Result<IdentityProvider, Error> {
        // Others may change it between read and write; then the changes go over theirs.
        for _ in 0..TRIES {
            let (provider, opened) = self.find_to_change(id).await?;
            if if_version.is_some_and(|version| version != provider.version) {
                return Err(Error::VersionConflict);
            }
            let kind = self.find_type(&provider.provider_type)?;
            if opened.is_none() {
                check_all_given(&provider, changes)?;
            }
            let mut secrets = opened.unwrap_or_default();
            let mut config = provider.config.clone();
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
            if let Some(updated) = self
                .write(&kind, &provider, config, secrets, options.over(provider.options), actor)
                .await?
            {
                return Ok(updated);
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
        let kind = self.find_type(provider_type)?;
        let (wanted, secrets) = split(&kind, config.clone())?;
        // Another replica that starts at the same time may be first.
        for _ in 0..TRIES {
            let found = self.providers.find_by_key(provider_type, external_id.as_deref()).await?;
            let Some(found) = found else {
                match self
                    .create(provider_type, external_id.clone(), config.clone(), options, actor)
                    .await
                {
                    Err(Error::AlreadyExists(_)) => continue,
                    other => return other,
                }
            };
            self.connectors.check(provider_type, &wanted, &secrets)?;
            let (provider, old_secrets) = self.find_to_change(found.id).await?;
            let options = options.over(provider.options);
            let is_so = provider.config == wanted
                && old_secrets.as_ref() == Some(&secrets)
                && provider.options == options;
            if is_so {
                return Ok(provider);
            }
            let (wanted, secrets) = (wanted.clone(), secrets.clone());
            if let Some(updated) =
                self.write(&kind, &provider, wanted, secrets, options, actor).await?
            {
                return Ok(updated);
            }
        }
        Err(Error::VersionConflict)
    }

    /// An instance and its secrets; no secrets when they do not open, or a lost key could not be
    /// mended.
    async fn find_to_change(
        &self,
        id: ProviderId,
    ) -> Result<(IdentityProvider, Option<ProviderSecrets>), Error> {
        let absent = Error::NotFound("identity provider");
        match self.providers.find_with_secrets(id).await {
            Ok(found) => {
                let (provider, secrets) = found.ok_or(absent)?;
                Ok((provider, Some(secrets)))
            }
            Err(RepositoryError::Unsealable { .. }) => {
                tracing::warn!(provider = %id, "the stored secrets do not open; they can only be replaced");
                Ok((self.providers.find(id).await?.ok_or(absent)?, None))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Replaces the configuration of `provider` as it was read; `None` when it was changed since.
    async fn write(
        &self,
        kind: &ProviderType,
        provider: &IdentityProvider,
        config: Map<String, Value>,
        secrets: ProviderSecrets,
        options: ProviderOptions,
        actor: &Actor,
    ) -> Result<Option<IdentityProvider>, Error> {
        let IdentityProvider { id, version, config: before, .. } = provider;
        let update = ProviderUpdate { id: *id, version: *version, config, secrets, options };
        let is_other = |key: &&String| before.get(*key) != update.config.get(*key);
        let Some(key) = kind.authority_keys.iter().find(is_other) else {
            return Ok(self.providers.update(&update, actor).await?);
        };
        match self.providers.update_authority(&update, actor).await? {
            AuthorityUpdate::Updated(provider) => Ok(Some(provider)),
            AuthorityUpdate::Absent => Ok(None),
            AuthorityUpdate::InUse(identities) => {
                let problem = format!(
                    "must stay as it is while {identities} identities are linked here: the same id \
                     is another account elsewhere; make another provider with its own external_id, \
                     or delete this one with its identities first"
                );
                Err(Error::invalid(format!("config.{key}"), problem))
            }
        }
    }

    /// The instance that is meant; `None` when there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Repository`] when the store fails.
    pub async fn get(&self, key: ProviderKey<'_>) -> Result<Option<IdentityProvider>, Error> {
        Ok(match key {
            ProviderKey::Id(id) => self.providers.find(id).await?,
            ProviderKey::Name { provider_type, external_id } => {
                self.providers.find_by_key(provider_type, external_id).await?
            }
        })
    }

    /// Deletes an instance, with `cascade` its identities too. Their grants are queued to be ended
    /// at the provider.
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
        let ((provider, _), connector) = self.reach(id).await?;
        Ok((provider, connector))
    }

    /// Whose account a token opens that its user made at the provider: asks the provider.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] when the instance's type asks its users in a browser, or the
    /// provider does not accept the token; [`Error::ProviderUnavailable`]; those of
    /// [`connect`](Self::connect).
    pub async fn account_behind(
        &self,
        id: ProviderId,
        access_token: &Secret,
    ) -> Result<ExternalAccount, Error> {
        let (_, connector) = self.connect(id).await?;
        if connector.capabilities().browser {
            return Err(Error::invalid(
                "external_id",
                "is missing; only types whose users bring a token can do without",
            ));
        }
        let credentials =
            Credentials { access_token: Some(access_token.clone()), ..Credentials::default() };
        let grant = Grant { credentials, claims: Map::new(), facts: Map::new() };
        connector.build_identity(&grant).await.map_err(|error| match error {
            // Its owner sees to it: it has ended, was withdrawn, or may not read the profile.
            ConnectorError::GrantRejected { .. }
            | ConnectorError::ClientRejected { .. }
            | ConnectorError::Misconfigured { .. } => Error::invalid(
                "data.access_token",
                "is not accepted by the provider, or may not read the profile there",
            ),
            other => other.into(),
        })
    }

    /// The same with the instance's secrets, for what must reach it when its row is gone.
    pub(super) async fn reach(
        &self,
        id: ProviderId,
    ) -> Result<((IdentityProvider, ProviderSecrets), Arc<dyn Connector>), Error> {
        let (provider, secrets) = self
            .providers
            .find_with_secrets(id)
            .await?
            .ok_or(Error::NotFound("identity provider"))?;
        let connector = self
            .connectors
            .connect(&provider, &secrets)
            .map_err(|error| Error::ProviderMisconfigured { detail: error.to_string() })?;
        Ok(((provider, secrets), connector))
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

/// Whether the changes give or remove every secret that is set: there is nothing to leave as it is.
fn check_all_given(provider: &IdentityProvider, changes: &Map<String, Value>) -> Result<(), Error> {
    let left = |it: &&String| changes.get(*it).is_none_or(|it| it.as_str() == Some(HIDDEN));
    match provider.secret_names.iter().find(left) {
        None => Ok(()),
        Some(key) => Err(Error::invalid(
            format!("config.{key}"),
            "the stored one does not open with the key ring; send it again, or null to remove it",
        )),
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
