use std::path::Path;

use serde_json::{Value, json};
use symbolon_domain::{
    Error,
    api_key::{ApiKey, KeyLimits, KeyScope, UserPattern},
    event::Actor,
    ids::{ApiKeyId, OrganizationId, ProviderId},
    page::PageRequest,
    ports::ApiKeyRepository,
    services::ApiKeys,
};

use crate::{
    cli::{ApiKeyCommand, CreateApiKeyArgs, OutputArgs},
    database::Database,
    failure::Failure,
    output::{print, print_json, table},
    settings::{Need, Settings},
};

/// `symbolon api-key …`.
pub(super) async fn run(command: &ApiKeyCommand, config: Option<&Path>) -> Result<(), Failure> {
    let settings = Settings::load(config, &[Need::Database])?;
    match command {
        ApiKeyCommand::Create(arguments) => {
            limits(arguments)?;
            let database = Database::open_migrated(&settings.database).await?;
            create(arguments, &database).await
        }
        ApiKeyCommand::List(output) => {
            let database = Database::open_existing(&settings.database).await?;
            list(&*database.repositories().keys, *output).await
        }
        ApiKeyCommand::Revoke { id, output } => {
            let database = Database::open_existing(&settings.database).await?;
            let keys = database.repositories().keys;
            let revoked = keys.revoke(ApiKeyId(*id), &Actor::OPERATOR).await;
            let Some(key) = revoked.map_err(Error::from)? else {
                let text = format!("there is no API key {id}; see `symbolon api-key list`");
                return Err(Failure::Argument(text));
            };
            if output.json {
                print_json(&form(&key))
            } else {
                print(&format!(
                    "API key {id} ({}) is revoked. Replicas refuse it within seconds.\n",
                    key.name
                ))
            }
        }
    }
}

async fn create(arguments: &CreateApiKeyArgs, database: &Database) -> Result<(), Failure> {
    let keys = ApiKeys { keys: database.repositories().keys };
    let mut scopes: Vec<KeyScope> = Vec::new();
    for scope in &arguments.scopes {
        if !scopes.contains(scope) {
            scopes.push(*scope);
        }
    }
    let limits = limits(arguments)?;
    let (key, secret) =
        keys.create_limited(&arguments.name, &scopes, &limits, &Actor::OPERATOR).await?;
    if arguments.output.json {
        let mut form = form(&key);
        form["secret"] = secret.expose().into();
        return print_json(&form);
    }
    print(&format!(
        "{}\n\nThis is API key {} ({}). It is shown now and never again; revoke it with `symbolon \
         api-key revoke {}`.\n",
        secret.expose(),
        key.id,
        key.name,
        key.id,
    ))
}

/// What the key is limited to; what is not named is not limited.
fn limits(arguments: &CreateApiKeyArgs) -> Result<KeyLimits, Failure> {
    let some = |texts: &[String]| (!texts.is_empty()).then(|| texts.to_vec());
    let organizations = some(&arguments.organizations)
        .map(|texts| texts.into_iter().map(OrganizationId::new).collect::<Result<Vec<_>, _>>());
    let organizations = organizations
        .transpose()
        .map_err(|problem| Failure::Argument(format!("--organization {problem}")))?;
    let users = some(&arguments.users)
        .map(|texts| texts.into_iter().map(UserPattern::new).collect::<Result<Vec<_>, _>>());
    let users =
        users.transpose().map_err(|problem| Failure::Argument(format!("--user {problem}")))?;
    let providers: Vec<_> = arguments.providers.iter().copied().map(ProviderId).collect();
    Ok(KeyLimits {
        organizations,
        provider_types: some(&arguments.provider_types),
        providers: (!providers.is_empty()).then_some(providers),
        token_scopes: some(&arguments.token_scopes),
        users,
    })
}

async fn list(keys: &dyn ApiKeyRepository, output: OutputArgs) -> Result<(), Failure> {
    let keys = all(keys).await?;
    if output.json {
        return print_json(&keys.iter().map(form).collect::<Vec<_>>());
    }
    let time = |it: chrono::DateTime<chrono::Utc>| it.format("%Y-%m-%dT%H:%M:%SZ").to_string();
    let rows: Vec<_> = keys
        .iter()
        .map(|key| {
            [
                key.id.to_string(),
                key.name.clone(),
                time(key.created_at),
                key.revoked_at.map_or_else(|| "-".to_owned(), time),
                scope_texts(key).join(" "),
                limit_texts(&key.limits),
            ]
        })
        .collect();
    print(&table(["ID", "NAME", "CREATED", "REVOKED", "SCOPES", "LIMITED TO"], &rows))
}

/// Every key there is, page by page.
pub(crate) async fn all(keys: &dyn ApiKeyRepository) -> Result<Vec<ApiKey>, Failure> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let page = keys.list(PageRequest { limit: 200, after }).await.map_err(Error::from)?;
        all.extend(page.items);
        after = page.next;
        if after.is_none() {
            return Ok(all);
        }
    }
}

fn scope_texts(key: &ApiKey) -> Vec<&'static str> {
    key.scopes.iter().map(|it| it.as_str()).collect()
}

/// What a key is limited to, in words.
fn limit_texts(limits: &KeyLimits) -> String {
    let organizations = limits.organization_texts().unwrap_or_default();
    let organizations = organizations.into_iter().map(|it| format!("organization={it}"));
    let types = limits.provider_types.iter().flatten().map(|it| format!("provider-type={it}"));
    let providers = limits.providers.iter().flatten().map(|it| format!("provider={it}"));
    let scopes = limits.token_scopes.iter().flatten().map(|it| format!("token-scope={it}"));
    let users = limits.users.iter().flatten().map(|it| format!("user={}", it.as_str()));
    let texts: Vec<_> =
        organizations.chain(types).chain(providers).chain(scopes).chain(users).collect();
    if texts.is_empty() { "-".to_owned() } else { texts.join(" ") }
}

fn form(key: &ApiKey) -> Value {
    json!({
        "id": key.id.0,
        "name": key.name,
        "scopes": scope_texts(key),
        "organizations": key.limits.organization_texts(),
        "provider_types": key.limits.provider_types,
        "providers": key.limits.provider_numbers(),
        "token_scopes": key.limits.token_scopes,
        "users": key.limits.user_texts(),
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
    })
}
