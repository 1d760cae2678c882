use std::fmt;

use config::{Value, ValueKind};
use serde_json::Map;
use symbolon_domain::{
    identity_provider::{OptionChanges, ProviderSecrets, ProviderType},
    ports::Connectors,
    secret::Secret,
};

use super::{
    mistake::Mistake,
    section::{Section, read_secret},
    value::{boolean, json, text},
};

/// An identity provider that is declared in the file: created or updated at the start.
#[derive(Clone, PartialEq)]
pub struct ProviderSettings {
    /// The key of its type, for example `oidc`.
    pub provider_type: String,
    /// Which instance of the type.
    pub external_id: Option<String>,
    /// What the type needs, secrets included.
    pub config: Map<String, serde_json::Value>,
    /// What the product uses it for, where the file says so.
    pub options: OptionChanges,
}

impl ProviderSettings {
    /// What the type needs, its secrets apart.
    ///
    /// # Errors
    ///
    /// The name of a secret that is not a text.
    pub(crate) fn split(
        &self,
        kind: &ProviderType,
    ) -> Result<(Map<String, serde_json::Value>, ProviderSecrets), String> {
        let mut config = self.config.clone();
        let mut secrets = ProviderSecrets::new();
        for name in &kind.secret_names {
            match config.remove(name).map(|it| it.as_str().map(Secret::new)) {
                None => {}
                Some(Some(secret)) => {
                    secrets.insert(name.clone(), secret);
                }
                Some(None) => return Err(name.clone()),
            }
        }
        Ok((config, secrets))
    }
}

impl fmt::Debug for ProviderSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Which of the keys are secret only the type knows.
        f.debug_struct("ProviderSettings")
            .field("provider_type", &self.provider_type)
            .field("external_id", &self.external_id)
            .finish_non_exhaustive()
    }
}

/// Reads the list of providers, each with the path of its keys.
pub(super) fn read(root: &mut Section<'_>) -> Vec<ProviderSettings> {
    let list = root.value("providers", "a list of tables, [[providers]]", |it| match it.kind {
        ValueKind::Array(items) => Some(items),
        _ => None,
    });
    let mut providers: Vec<ProviderSettings> = Vec::new();
    for (index, item) in list.unwrap_or_default().into_iter().enumerate() {
        let path = format!("providers[{index}]");
        let Some(provider) = read_one(root, path.clone(), item) else { continue };
        let same = |it: &&ProviderSettings| {
            it.provider_type == provider.provider_type && it.external_id == provider.external_id
        };
        if providers.iter().find(same).is_some() {
            let problem = "another provider of the list has this type and external_id; \
                           give each its own external_id";
            root.mistake(&path, problem);
        }
        providers.push(provider);
    }
    providers
}

/// `None` when there is no telling which provider is meant; that is noted.
fn read_one(root: &mut Section<'_>, path: String, item: Value) -> Option<ProviderSettings> {
    let mut table = root.item(path, item)?;
    if !table.is_set("type") {
        table.mistake("type", "is missing; expected a provider type, for example \"oidc\"");
    }
    let provider_type = table.value("type", "a provider type, for example \"oidc\"", text);
    let external_id = table.value("external_id", "a text that is not empty", text);
    let options = OptionChanges {
        login: table.value("login", "true or false", boolean),
        ..OptionChanges::default()
    };
    let mut config = Map::new();
    let mut section = table.section("config");
    for (key, value) in section.take_rest() {
        // No type has a key of its own that ends so: it names where the value of a key lies.
        if let Some(name) = key.strip_suffix("_file") {
            match text(value).ok_or_else(|| "expected the path of a file".to_owned()) {
                Ok(path) => match read_secret(&path) {
                    Ok(secret) => {
                        config.insert(name.to_owned(), secret.expose().into());
                    }
                    Err(problem) => section.mistake(&key, problem),
                },
                Err(problem) => section.mistake(&key, problem),
            }
        } else if let Some(value) = json(value) {
            if config.insert(key.clone(), value).is_some() {
                section.mistake(&key, format!("is given twice, here and as {key}_file"));
            }
        } else {
            section.mistake(&key, "expected what JSON can say");
        }
    }
    table.finish();
    Some(ProviderSettings { provider_type: provider_type?, external_id, config, options })
}

/// Holds each provider against its type. Asks nobody.
pub(super) fn check(providers: &[ProviderSettings], catalog: &dyn Connectors) -> Vec<Mistake> {
    let check_one = |(index, provider): (usize, &ProviderSettings)| {
        let path = format!("providers[{index}]");
        let Some(kind) = catalog.find_type(&provider.provider_type) else {
            let known: Vec<_> = catalog.types().into_iter().map(|it| it.name).collect();
            let problem = format!("is not a provider type; expected one of {}", known.join(", "));
            return Some(Mistake::new(format!("{path}.type"), problem));
        };
        let (config, secrets) = match provider.split(&kind) {
            Ok(parts) => parts,
            Err(name) => {
                return Some(Mistake::new(format!("{path}.config.{name}"), "expected a text"));
            }
        };
        let wrong = catalog.check(&provider.provider_type, &config, &secrets).err()?;
        Some(Mistake::new(format!("{path}.config.{}", wrong.field), wrong.problem))
    };
    providers.iter().enumerate().filter_map(check_one).collect()
}
