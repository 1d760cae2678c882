use std::sync::Arc;

use chrono::{DateTime, TimeDelta};
use serde_json::Value;
use symbolon_domain::{
    Error,
    identity_provider::{IdentityProvider, ProviderOptions},
    ids::ProviderId,
    page::PageRequest,
    ports::{Clock as _, Connector, ConnectorError, Connectors, ProviderFilter, RepositoryError},
    services::Providers,
};
use symbolon_oauth2::http::{HttpClient, HttpRequest};
use tokio::task::JoinSet;
use url::Url;

use super::{Check, OtherClock};
use crate::{
    catalog::catalog,
    database::Database,
    failure::sentence,
    settings::{ProviderSettings, Settings},
    system_clock::SystemClock,
};

/// Stored providers that are looked at; more would take too long.
const MOST: u16 = 200;

/// What was found out about the providers.
#[derive(Default)]
pub(super) struct Found {
    pub(super) checks: Vec<Check>,
    pub(super) clocks: Vec<OtherClock>,
}

/// A provider that can be asked.
struct Candidate {
    name: String,
    connector: Arc<dyn Connector>,
    /// Where it is, if its configuration says.
    issuer: Option<Url>,
}

/// Whether the discovery of each provider works: of those in the configuration, and of those in
/// the database.
pub(super) async fn check(
    settings: &Settings,
    database: Option<&Database>,
    http: &HttpClient,
) -> Found {
    let connectors: Arc<dyn Connectors> = Arc::new(catalog(http.clone(), &settings.catalog));
    let mut found = Found::default();
    let mut candidates = Vec::new();
    for provider in &settings.providers {
        match declared(provider, &*connectors) {
            Some(candidate) => candidates.push(candidate),
            None => found.checks.push(Check::problem(
                &name(&provider.provider_type, provider.external_id.as_deref()),
                "does not fit its type",
                "correct its entry in the configuration",
            )),
        }
    }
    if let Some(database) = database {
        stored(settings, database, connectors, &mut candidates, &mut found).await;
    }
    let mut asking = JoinSet::new();
    for (place, candidate) in candidates.into_iter().enumerate() {
        let http = http.clone();
        asking.spawn(async move { (place, ask(candidate, &http).await) });
    }
    let mut answers = asking.join_all().await;
    answers.sort_by_key(|(place, _)| *place);
    for (_, (check, clock)) in answers {
        found.checks.push(check);
        found.clocks.extend(clock);
    }
    if found.checks.is_empty() {
        found.checks.push(Check::ok("providers", "there are none yet"));
    }
    found
}

fn name(provider_type: &str, external_id: Option<&str>) -> String {
    match external_id {
        Some(id) => format!("provider {provider_type} {id}"),
        None => format!("provider {provider_type}"),
    }
}

fn declared(provider: &ProviderSettings, connectors: &dyn Connectors) -> Option<Candidate> {
    let kind = connectors.find_type(&provider.provider_type)?;
    let (config, secrets) = provider.split(&kind).ok()?;
    let row = IdentityProvider {
        id: ProviderId(0),
        provider_type: provider.provider_type.clone(),
        external_id: provider.external_id.clone(),
        config,
        secret_names: Vec::new(),
        options: ProviderOptions::default(),
        names_issuer: false,
        date_added: SystemClock.now(),
        version: 1,
    };
    Some(Candidate {
        name: name(&row.provider_type, row.external_id.as_deref()),
        issuer: issuer(&row),
        connector: connectors.connect(&row, &secrets).ok()?,
    })
}

fn issuer(provider: &IdentityProvider) -> Option<Url> {
    provider.config.get("issuer").and_then(Value::as_str)?.parse().ok()
}

/// Adds the providers that only the database knows, and what is wrong with them.
async fn stored(
    settings: &Settings,
    database: &Database,
    connectors: Arc<dyn Connectors>,
    candidates: &mut Vec<Candidate>,
    found: &mut Found,
) {
    let providers =
        Providers { providers: database.repositories().providers, connectors, public_url: None };
    let page = PageRequest { limit: MOST, after: None };
    let page = match providers.providers.list(&ProviderFilter::default(), page).await {
        Ok(page) => page,
        Err(error) => {
            let advice = "see the database's own log";
            found.checks.push(Check::problem("providers", sentence(&error), advice));
            return;
        }
    };
    if page.next.is_some() {
        let finding = format!("only the first {MOST} are looked at");
        found.checks.push(Check::ok("providers", finding));
    }
    for row in page.items {
        let is_declared = settings
            .providers
            .iter()
            .any(|it| it.provider_type == row.provider_type && it.external_id == row.external_id);
        // Of a declared one the secrets that are stored are looked at too.
        let connected = providers.connect(row.id).await;
        match connected {
            Ok(_) if is_declared => {}
            Ok((row, connector)) => candidates.push(Candidate {
                name: name(&row.provider_type, row.external_id.as_deref()),
                issuer: issuer(&row),
                connector,
            }),
            Err(error) => {
                let advice = match error {
                    Error::Repository(RepositoryError::Unsealable { .. }) => {
                        "bring back the key ring that sealed it, or give it its secrets again"
                    }
                    _ => "correct it with PATCH /v1/providers/{id}",
                };
                let name = name(&row.provider_type, row.external_id.as_deref());
                found.checks.push(Check::problem(&name, sentence(&error), advice));
            }
        }
    }
}

async fn ask(candidate: Candidate, http: &HttpClient) -> (Check, Option<OtherClock>) {
    let Candidate { name, connector, issuer } = candidate;
    let check = match connector.reachable().await {
        Ok(()) => Check::ok(&name, "answers, and its discovery document is as configured"),
        Err(error) => {
            let advice = match error {
                ConnectorError::Misconfigured { .. } | ConnectorError::ClientRejected { .. } => {
                    "correct the provider's configuration"
                }
                _ => "try again; if it stays so, look at the network between here and there",
            };
            Check::problem(&name, error.to_string(), advice)
        }
    };
    let clock = match issuer {
        Some(issuer) => clock(http, issuer).await,
        None => None,
    };
    (check, clock)
}

/// A provider's clock, by the date of an answer
/// ([RFC 9110 §6.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-6.6.1)).
async fn clock(http: &HttpClient, issuer: Url) -> Option<OtherClock> {
    let whose = format!("the clock of {}", issuer.host_str()?);
    let path = format!("{}/.well-known/openid-configuration", issuer.path().trim_end_matches('/'));
    let mut url = issuer;
    url.set_path(&path);
    let before = SystemClock.now();
    let answer = http.send(HttpRequest::get(url)).await.ok()?;
    let after = SystemClock.now();
    let theirs = DateTime::parse_from_rfc2822(answer.header("date")?).ok()?;
    // The header has whole seconds, cut off.
    let theirs = theirs.to_utc() + TimeDelta::milliseconds(500);
    Some(OtherClock { whose, ahead: before + (after - before) / 2 - theirs })
}
