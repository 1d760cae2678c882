use std::sync::Arc;

use serde_json::{Map, Value};
use url::Url;

use crate::{
    Error,
    account::ExternalAccount,
    credentials::Credentials,
    event::Actor,
    identity_provider::{
        IdentityProvider, OptionChanges, ProviderOptions, ProviderSecrets, ProviderType, meant_type,
    },
    ids::ProviderId,
    ports::{
        AuthorityUpdate, ClientAddresses, Connector, ConnectorError, Connectors, Grant,
        IdentityProviderRepository, NewIdentityProvider, ProviderDeletion, ProviderUpdate,
        Registered, RepositoryError,
    },
    secret::Secret,
    services::linking::{backchannel_logout_uri, redirect_uri},
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
    /// Where browsers reach this service: what is registered at a provider has a redirect URI
    /// there. Without it, instances of types that register themselves cannot be made.
    pub public_url: Option<Url>,
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
    /// Adds an instance. `config` holds its secrets too. Where its type
    /// [finds out](ProviderType::registered_keys) more, the provider is asked, and the answer is
    /// kept in one conditional write; when that fails, the instance goes again. Must not be dropped
    /// half-way: then the instance stays without what was to be found out, until it is
    /// [changed](Self::update) or [declared](Self::ensure) again.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] names the key that does not fit the type;
    /// [`Error::AlreadyExists`] when (type, external id) is taken;
    /// [`Error::ProviderMisconfigured`] and [`Error::ProviderUnavailable`] when the provider does
    /// not tell what is to be found out, or cannot do what the configuration
    /// [asks of it](ProviderType::asked_keys).
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
        self.verify(&kind, &config, &secrets).await?;
        let provider = NewIdentityProvider {
            provider_type: provider_type.to_owned(),
            external_id,
            config,
            secrets,
            options: options.over(ProviderOptions::default()),
        };
        let made = self.providers.insert(&provider, actor).await.map_err(|error| match error {
            RepositoryError::Conflict => {
                Error::AlreadyExists("a provider of this type and external_id is there already")
            }
            other => other.into(),
        })?;
        if kind.registered_keys.is_empty() {
            return Ok(made);
        }
        let id = made.id;
        let registered = self.register(&kind, made, provider.secrets, actor).await;
        if registered.is_err() {
            // Nobody can have linked with it, so it has nothing that would go along.
            if let Err(error) = self.providers.delete(id, false, actor).await {
                tracing::warn!(provider = %id, %error, "a provider that could not be registered stays; delete it");
            }
        }
        registered
    }

    /// Asks the provider whether it can do what a configuration asks of it, where it asks for
    /// something that not every one can. One that cannot be asked just now is taken at its word:
    /// whoever links there finds out.
    async fn verify(
        &self,
        kind: &ProviderType,
        config: &Map<String, Value>,
        secrets: &ProviderSecrets,
    ) -> Result<(), Error> {
        if !kind.asked_keys.iter().any(|it| config.contains_key(it)) {
            return Ok(());
        }
        match self.connectors.verify(&kind.name, config, secrets).await {
            Err(error @ ConnectorError::Unavailable { .. }) => {
                tracing::warn!(provider_type = kind.name, %error, "a provider could not be asked whether it can do what is configured");
                Ok(())
            }
            asked => Ok(asked?),
        }
    }

    /// Asks an instance's provider for what its type finds out, and adds the answer to the
    /// configuration.
    async fn register(
        &self,
        kind: &ProviderType,
        provider: IdentityProvider,
        secrets: ProviderSecrets,
        actor: &Actor,
    ) -> Result<IdentityProvider, Error> {
        let Some(public_url) = &self.public_url else {
            let detail = "this process does not know where browsers reach the service, so it has no redirect URI to register".to_owned();
            return Err(Error::ProviderMisconfigured { detail });
        };
        let addresses = ClientAddresses {
            redirect_uri: redirect_uri(public_url, provider.id),
            backchannel_logout_uri: backchannel_logout_uri(public_url, provider.id),
        };
        let asked = self.connectors.register(&provider, &secrets, &addresses).await?;
        let Some(registered) = asked else { return Ok(provider) };
        let at = provider.clone();
        let kept = self.keep_registered(kind, provider, secrets, &registered, actor).await;
        if kept.is_err() {
            self.take_back(at, &registered).await;
        }
        kept
    }

    async fn keep_registered(
        &self,
        kind: &ProviderType,
        mut provider: IdentityProvider,
        mut secrets: ProviderSecrets,
        registered: &Registered,
        actor: &Actor,
    ) -> Result<IdentityProvider, Error> {
        // Somebody may change it at once; then this goes over theirs.
        for _ in 0..TRIES {
            // What the operator gave stays as it is.
            let config = added(provider.config.clone(), &registered.config);
            for (name, secret) in &registered.secrets {
                secrets.entry(name.clone()).or_insert_with(|| secret.clone());
            }
            self.connectors.check(&kind.name, &config, &secrets)?;
            let options = provider.options;
            let written = self.write(kind, &provider, config, secrets, options, actor).await?;
            if let Some(written) = written {
                return Ok(written);
            }
            let id = provider.id;
            let found = self.providers.find_with_secrets(id).await?;
            (provider, secrets) = found.ok_or(Error::NotFound("identity provider"))?;
            if is_registered(kind, &provider) {
                // Somebody else was asked to mend it, too, and was first.
                self.take_back(provider.clone(), registered).await;
                return Ok(provider);
            }
        }
        Err(Error::VersionConflict)
    }

    /// Takes back at the provider what was registered there for this instance, and is not kept.
    async fn take_back(&self, provider: IdentityProvider, registered: &Registered) {
        let id = provider.id;
        let mut config = provider.config;
        config.retain(|key, _| !is_of_client(key));
        let config = added(config, &registered.config);
        let orphan = IdentityProvider { config, ..provider };
        if let Err(error) = self.connectors.deregister(&orphan, &registered.secrets).await {
            tracing::warn!(provider = %id, %error, "our client stays registered at the provider, and nobody uses it");
        }
    }

    /// Changes single keys of an instance's configuration, and its options: `null` removes a key, [`HIDDEN`]
    /// leaves a secret as it is, and so does leaving a key out. Where its client was not registered,
    /// as whoever made it was interrupted, or the `client_id` is removed, one is registered after
    /// that, be there anything to change or not; the old one's secrets go with it.
    ///
    /// # Errors
    ///
    /// As [`create`](Self::create), the changes being kept where it is the registration that
    /// fails; [`Error::NotFound`]; [`Error::VersionConflict`] when
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
            let registers = kind.registered_keys.iter().any(|it| it == "client_id");
            if registers && changes.get("client_id").is_some_and(Value::is_null) {
                config.retain(|key, _| !is_of_client(key));
                secrets.retain(|key, _| !is_of_client(key));
            }
            self.connectors.check(&provider.provider_type, &config, &secrets)?;
            if config != provider.config {
                self.verify(&kind, &config, &secrets).await?;
            }
            let options = options.over(provider.options);
            let written =
                self.write(&kind, &provider, config, secrets.clone(), options, actor).await?;
            let Some(updated) = written else { continue };
            if is_registered(&kind, &updated) {
                return Ok(updated);
            }
            return self.register(&kind, updated, secrets, actor).await;
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
            let (mut wanted, mut secrets) = (wanted.clone(), secrets.clone());
            keep_found_out(&kind, &mut wanted, &mut secrets, &provider, old_secrets.as_ref());
            let options = options.over(provider.options);
            let is_so = provider.config == wanted
                && old_secrets.as_ref() == Some(&secrets)
                && provider.options == options;
            let provider = if is_so {
                provider
            } else {
                if provider.config != wanted {
                    self.verify(&kind, &wanted, &secrets).await?;
                }
                let (wanted, secrets) = (wanted, secrets.clone());
                match self.write(&kind, &provider, wanted, secrets, options, actor).await? {
                    Some(updated) => updated,
                    None => continue,
                }
            };
            if is_registered(&kind, &provider) {
                return Ok(provider);
            }
            // Whoever made it was interrupted.
            return self.register(&kind, provider, secrets, actor).await;
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
        if !kind.registered_keys.is_empty() && !kind.registered_keys.contains(key) {
            let problem = "must stay as it is: the rest was found out there; make another provider \
                           with its own external_id, or delete this one first";
            return Err(Error::invalid(format!("config.{key}"), problem));
        }
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
    /// at the provider. Our client that was [registered](Connectors::register) there is taken back
    /// where no identities went along: theirs are ended as that client.
    ///
    /// # Errors
    ///
    /// [`Error::ProviderInUse`] without `cascade` when it has identities; [`Error::NotFound`].
    pub async fn delete(&self, id: ProviderId, cascade: bool, actor: &Actor) -> Result<u64, Error> {
        let registered = self.find_registered(id).await?;
        match self.providers.delete(id, cascade, actor).await? {
            ProviderDeletion::Deleted(0) => {
                if let Some((provider, secrets)) = registered
                    && let Err(error) = self.connectors.deregister(&provider, &secrets).await
                {
                    tracing::warn!(provider = %id, %error, "our client stays registered at the provider, and nobody uses it");
                }
                Ok(0)
            }
            ProviderDeletion::Deleted(identities) => Ok(identities),
            ProviderDeletion::InUse(identities) => Err(Error::ProviderInUse(identities)),
            ProviderDeletion::Absent => Err(Error::NotFound("identity provider")),
        }
    }

    /// An instance with its secrets, if its type registers clients and there is something to take
    /// back.
    async fn find_registered(
        &self,
        id: ProviderId,
    ) -> Result<Option<(IdentityProvider, ProviderSecrets)>, Error> {
        // Most catalogs have few such types, and most instances are of others.
        let Some(provider) = self.providers.find(id).await? else { return Ok(None) };
        let kind = self.connectors.find_type(&provider.provider_type);
        if kind.is_none_or(|it| it.registered_keys.is_empty()) {
            return Ok(None);
        }
        match self.providers.find_with_secrets(id).await {
            Err(RepositoryError::Unsealable { .. }) => Ok(None),
            other => Ok(other?),
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
        let capabilities = connector.capabilities();
        if capabilities.browser || capabilities.device {
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
            let known = self.connectors.types();
            let meant = meant_type(name, known.iter().map(|it| it.name.as_str()));
            Error::invalid("type", format!("unknown; {meant}"))
        })
    }
}

/// These keys, and the others where there is none of the name.
fn added(mut config: Map<String, Value>, others: &Map<String, Value>) -> Map<String, Value> {
    for (key, value) in others {
        config.entry(key.clone()).or_insert_with(|| value.clone());
    }
    config
}

/// Whether there is all that the type finds out for every instance: a client, and whose accounts
/// these are.
fn is_registered(kind: &ProviderType, provider: &IdentityProvider) -> bool {
    let mut keys = kind.registered_keys.iter();
    keys.all(|it| {
        let needed = it == "client_id" || kind.authority_keys.contains(it);
        !needed || provider.config.contains_key(it)
    })
}

/// Whether a key goes with the `client_id` beside it, and means nothing beside another.
fn is_of_client(key: &str) -> bool {
    key.starts_with("client_id")
        || key.starts_with("client_secret")
        || key.starts_with("registration_")
        || key == "token_endpoint_auth_method"
}

/// A configuration that is declared does not have what was found out; it stays. Who declares a
/// client brings all that goes with it.
fn keep_found_out(
    kind: &ProviderType,
    wanted: &mut Map<String, Value>,
    secrets: &mut ProviderSecrets,
    provider: &IdentityProvider,
    old_secrets: Option<&ProviderSecrets>,
) {
    let own_client = wanted.contains_key("client_id");
    for key in kind.registered_keys.iter().filter(|it| !(own_client && is_of_client(it))) {
        if kind.secret_names.contains(key) {
            if let Some(secret) = old_secrets.and_then(|it| it.get(key)) {
                secrets.entry(key.clone()).or_insert_with(|| secret.clone());
            }
        } else if let Some(value) = provider.config.get(key) {
            wanted.entry(key.clone()).or_insert_with(|| value.clone());
        }
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
    // As good as left out, where a key that is there counts: a client_id, for one.
    config.retain(|_, value| !value.is_null());
    let mut secrets = ProviderSecrets::new();
    for name in &kind.secret_names {
        if let Some(value) = config.remove(name) {
            secrets.insert(name.clone(), secret(name, &value)?);
        }
    }
    Ok((config, secrets))
}
