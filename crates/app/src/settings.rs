//! The configuration: `symbolon.toml`, and environment variables over it.
//!
//! Everything that is wrong is found in one reading and told by the name of its key; nothing
//! starts on a configuration that is not wholly understood.

mod mistake;
mod provider;
mod section;
mod value;

use std::{
    collections::HashMap,
    env, fs, io,
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
    time::Duration,
};

use config::{Config, Environment, File, FileFormat, Map, Value, ValueKind};
use symbolon_domain::{refresh_plan::RefreshPlan, secret::Secret, services::ReturnUrls};
use symbolon_keyring::{KeyCommand, KeyFile, KeyService, KeyVariable};
use symbolon_oauth2::{SigningAlg, TrustedIssuer, catalog::Catalog};
use url::Url;

pub use symbolon_http::Network;

pub use self::{
    mistake::{Mistake, Mistakes},
    provider::ProviderSettings,
};
use self::{
    section::{Findings, Section},
    value::{duration, number, text, texts},
};
use crate::{
    catalog::{catalog, http_client},
    failure::sentence,
};

/// Where the configuration is looked for when nobody says otherwise; need not be there.
pub const DEFAULT_FILE: &str = "symbolon.toml";

const PREFIX: &str = "SYMBOLON__";

/// A shared secret of fewer characters is warned of.
const LEAST_SHARED_SECRET: usize = 32;

/// What the operator decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Where the service listens and how it is reached.
    pub server: ServerSettings,
    /// Where everything is kept.
    pub database: DatabaseSettings,
    /// What seals the secrets at rest.
    pub keyring: KeyringSettings,
    /// Linking in the browser.
    pub link: LinkSettings,
    /// Refreshing access tokens.
    pub refresh: RefreshSettings,
    /// Calls to providers.
    pub http_client: HttpClientSettings,
    /// Deliveries of events.
    pub webhooks: WebhookSettings,
    /// Who was handed which token.
    pub ledger: LedgerSettings,
    /// Logs and traces.
    pub telemetry: TelemetrySettings,
    /// Sentry's RPC.
    pub sentry_rpc: SentryRpcSettings,
    /// Whose tokens may be exchanged for others.
    pub token_exchange: TokenExchangeSettings,
    /// Provider types of the operator's own.
    pub catalog: CatalogSettings,
    /// Providers declared in the file.
    pub providers: Vec<ProviderSettings>,
}

/// Section `server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// The address and port to listen on; port 0 lets the operating system choose.
    pub listen: SocketAddr,
    /// Where browsers reach the service; `http://LISTEN` when absent.
    pub public_url: Option<Url>,
    /// Proxies whose word on the caller's address is believed.
    pub trusted_proxies: Vec<Network>,
    /// Most requests of one API key in a second, to this process; absent for any number.
    pub requests_per_second_per_key: Option<NonZeroU32>,
}

/// Section `database`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseSettings {
    /// `sqlite:PATH` or `postgres://…`; may hold a password.
    pub url: Option<Secret>,
    /// Most connections of this process.
    pub max_connections: u32,
    /// How long a statement may take on PostgreSQL, waiting for locks included.
    pub statement_timeout: Duration,
    /// Certificates to trust for PostgreSQL instead of the system's, as PEM.
    pub root_certificate: Option<PathBuf>,
    /// Whether `serve` applies pending migrations on PostgreSQL; on SQLite it always does.
    pub auto_migrate: bool,
    /// What the store plans refreshes by: as section `refresh` says.
    pub refresh_plan: RefreshPlan,
}

/// Section `keyring`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyringSettings {
    /// The key ring's file.
    pub file: Option<PathBuf>,
    /// The environment variable that holds the key ring.
    pub env: Option<String>,
    /// The command that prints the key ring: a program and its arguments.
    pub command: Option<Vec<String>>,
    /// How long the command may take.
    pub command_timeout: Duration,
}

impl KeyringSettings {
    /// Where the keys come from.
    #[must_use]
    pub fn service(&self) -> Box<dyn KeyService> {
        if let Some([program, arguments @ ..]) = self.command.as_deref() {
            let arguments = arguments.to_vec();
            Box::new(KeyCommand::new(program, arguments, self.command_timeout))
        } else if let Some(name) = &self.env {
            Box::new(KeyVariable::new(name))
        } else {
            // A command that needs keys has asked for them, so that one of the three is there.
            Box::new(KeyFile::new(self.file.clone().unwrap_or_default()))
        }
    }
}

/// Section `link`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkSettings {
    /// Where browsers may be sent at the end of a link session.
    pub return_urls: ReturnUrls,
    /// How long a link session lives.
    pub session_ttl: Duration,
}

/// Section `refresh`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefreshSettings {
    /// A token that expires within this time is refreshed before it is handed out.
    pub margin: Duration,
    /// How long before its end a token is refreshed with nobody asking; `None` for never.
    pub ahead: Option<Duration>,
    /// Most refreshes at one provider instance at a time, in this process.
    pub concurrency_per_provider: usize,
    /// Most refreshes with nobody asking that begin at one provider instance in a second, over all
    /// replicas.
    pub per_second_per_provider: u32,
}

/// Section `http_client`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpClientSettings {
    /// Over a whole call, from looking up the name to the last byte.
    pub timeout: Duration,
    /// Most bytes of an answer's body.
    pub max_response_bytes: usize,
    /// Whether addresses that are not of the public internet may be called.
    pub allow_private_networks: bool,
    /// Whether plain http may be spoken.
    pub allow_http: bool,
}

/// Section `webhooks`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookSettings {
    /// How long a receiver may take to answer.
    pub timeout: Duration,
    /// How often a delivery is tried before it is given up.
    pub max_attempts: u32,
    /// How long after the first try the second one comes.
    pub first_retry: Duration,
    /// Most deliveries to one endpoint at a time, in this process.
    pub concurrency: u16,
    /// How long deliveries that arrived are remembered.
    pub retention: Duration,
}

/// Section `ledger`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerSettings {
    /// How long it is remembered who was handed a token, from the last time on.
    pub retention: Duration,
}

/// Section `catalog`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogSettings {
    /// The entries of the folder; each in place of the embedded one of its name, if there is one.
    pub own: Catalog,
}

/// Section `telemetry`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TelemetrySettings {
    /// How log lines look.
    pub log_format: LogFormat,
    /// The collector that traces are sent to, if any.
    pub otlp_endpoint: Option<Url>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

/// Section `sentry_rpc`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentryRpcSettings {
    /// What a Sentry deployment signs its calls with; none: it is off.
    pub shared_secrets: Vec<Secret>,
    /// Whether opened credentials are answered inside `data`.
    pub include_credentials: bool,
}

/// Section `token_exchange`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenExchangeSettings {
    /// Issuers whose JWTs say who a user is.
    pub issuers: Vec<TrustedIssuer>,
}

/// A key that a command cannot do without, though it has no default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `database.url`.
    Database,
    /// `keyring.file`, or another place that the keys come from.
    Keyring,
}

impl Default for Settings {
    /// What holds where nobody says anything.
    fn default() -> Self {
        Self::read(None, HashMap::new(), &[], &mut Findings::default())
    }
}

impl Settings {
    /// Reads the file, which must be there if it is named, and the environment over it.
    ///
    /// # Errors
    ///
    /// All [`Mistakes`] of both.
    pub fn load(file: Option<&Path>, needs: &[Need]) -> Result<Self, Mistakes> {
        let mut findings = Findings::default();
        let content = match read_file(file) {
            Ok(content) => content,
            Err(mistake) => {
                findings.mistakes.push(mistake);
                None
            }
        };
        let environment = read_environment(&mut findings);
        let settings = Self::read(content.as_ref(), environment, needs, &mut findings);
        if !settings.providers.is_empty()
            && let Ok(http) = http_client(&settings.http_client)
        {
            findings
                .mistakes
                .extend(provider::check(&settings.providers, &catalog(http, &settings.catalog)));
        }
        if findings.mistakes.is_empty() { Ok(settings) } else { Err(Mistakes(findings.mistakes)) }
    }

    /// Reads texts.
    fn read(
        file: Option<&FileContent>,
        environment: HashMap<String, String>,
        needs: &[Need],
        findings: &mut Findings,
    ) -> Self {
        let values = match file.map(FileContent::check).transpose() {
            Ok(_) => merge(file.map(|it| it.text.as_str()), environment, findings),
            Err(mistake) => {
                findings.mistakes.push(mistake);
                merge(None, environment, findings)
            }
        };
        // Nothing is missing from a file that could not be read.
        let needs = if findings.mistakes.is_empty() { needs } else { &[] };
        let mut root = Section::root(values, findings);
        let mut settings = Self {
            server: read_server(root.section("server")),
            database: read_database(root.section("database"), needs.contains(&Need::Database)),
            keyring: read_keyring(root.section("keyring"), needs.contains(&Need::Keyring)),
            link: read_link(root.section("link")),
            refresh: read_refresh(root.section("refresh")),
            http_client: read_http_client(root.section("http_client")),
            webhooks: read_webhooks(root.section("webhooks")),
            ledger: read_ledger(root.section("ledger")),
            telemetry: read_telemetry(root.section("telemetry")),
            sentry_rpc: read_sentry_rpc(root.section("sentry_rpc")),
            token_exchange: read_token_exchange(root.section("token_exchange")),
            catalog: read_catalog(root.section("catalog")),
            providers: provider::read(&mut root),
        };
        root.finish();
        settings.database.refresh_plan =
            RefreshPlan { ahead: settings.refresh.ahead, margin: settings.refresh.margin };
        settings
    }

    /// What is allowed and yet hardly meant; one sentence each.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.refresh.ahead.is_some_and(|it| it <= self.refresh.margin) {
            warnings.push(
                "refresh.ahead is not longer than refresh.margin: there is no time left in which \
                 tokens are refreshed before somebody has to wait for it"
                    .to_owned(),
            );
        }
        match &self.server.public_url {
            Some(url) if url.scheme() == "http" && !is_loopback(url) => warnings.push(
                "server.public_url is plain http: browsers' cookies and codes travel in the open; \
                 use https"
                    .to_owned(),
            ),
            None if !self.server.listen.ip().is_loopback() => warnings.push(
                "server.public_url is not set, and the service does not listen on this machine \
                 alone: set it to the address that browsers use"
                    .to_owned(),
            ),
            _ => {}
        }
        if self.http_client.allow_http {
            warnings.push(
                "http_client.allow_http is on: secrets may be sent to providers in the open"
                    .to_owned(),
            );
        }
        if self.http_client.allow_private_networks {
            warnings.push(
                "http_client.allow_private_networks is on: whoever may configure providers can \
                 make this service call addresses inside your network"
                    .to_owned(),
            );
        }
        if self.sentry_rpc.shared_secrets.iter().any(|it| it.expose().len() < LEAST_SHARED_SECRET) {
            warnings.push(format!(
                "sentry_rpc.shared_secrets holds a text of fewer than {LEAST_SHARED_SECRET} \
                 characters: whoever guesses it reads and changes every identity"
            ));
        }
        if self.sentry_rpc.include_credentials {
            warnings.push(if self.sentry_rpc.shared_secrets.is_empty() {
                "sentry_rpc.include_credentials is on, and there is no sentry_rpc.shared_secrets: \
                 nothing is answered to Sentry at all"
                    .to_owned()
            } else {
                "sentry_rpc.include_credentials is on: whoever holds a shared secret is told every \
                 user's tokens, refresh tokens included"
                    .to_owned()
            });
        }
        warnings
    }

    /// Where browsers reach the service that listens on `bound`.
    ///
    /// # Panics
    ///
    /// Never: an address and port make a URL.
    #[must_use]
    pub fn public_url(&self, bound: SocketAddr) -> Url {
        self.server.public_url.clone().unwrap_or_else(|| {
            let text = if bound.ip().is_unspecified() {
                format!("http://localhost:{}/", bound.port())
            } else {
                format!("http://{bound}/")
            };
            text.parse().expect("an address and port make a URL")
        })
    }
}

/// Whether only this machine is meant.
fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(url::Host::Ipv4(it)) => it.is_loopback(),
        Some(url::Host::Ipv6(it)) => it.is_loopback(),
        Some(url::Host::Domain(it)) => it == "localhost" || it.ends_with(".localhost"),
        None => false,
    }
}

/// A configuration file that was read.
struct FileContent {
    name: String,
    text: String,
}

impl FileContent {
    /// Whether it is TOML. Asked before [`config`] sees it, since its message would quote the
    /// line, and with it a secret.
    fn check(&self) -> Result<(), Mistake> {
        self.text.parse::<toml::Table>().map(drop).map_err(|error| {
            let at = error.span().map_or(0, |it| it.start);
            let line = self.text.get(..at).unwrap_or_default().matches('\n').count() + 1;
            Mistake::new(
                &self.name,
                format!("line {line} is not TOML; see symbolon.example.toml for the form"),
            )
        })
    }
}

fn read_file(file: Option<&Path>) -> Result<Option<FileContent>, Mistake> {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    let name = path.display().to_string();
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(FileContent { name, text })),
        Err(error) if error.kind() == io::ErrorKind::NotFound && file.is_none() => Ok(None),
        Err(error) => {
            Err(Mistake::new(name, format!("expected a configuration file in TOML: {error}")))
        }
    }
}

/// Our variables. The names of the others are nobody's business.
fn read_environment(findings: &mut Findings) -> HashMap<String, String> {
    let mut ours = HashMap::new();
    for (name, value) in env::vars_os() {
        let Ok(name) = name.into_string() else { continue };
        if !name.starts_with(PREFIX) {
            continue;
        }
        match value.into_string() {
            Ok(value) => {
                ours.insert(name, value);
            }
            Err(_) => findings.mistakes.push(Mistake::new(name, "expected UTF-8 text")),
        }
    }
    ours
}

fn merge(
    file: Option<&str>,
    environment: HashMap<String, String>,
    findings: &mut Findings,
) -> Map<String, Value> {
    let environment = Environment::with_prefix("SYMBOLON")
        .prefix_separator("__")
        .separator("__")
        .source(Some(environment.into_iter().collect()));
    let built = Config::builder()
        .add_source(File::from_str(file.unwrap_or_default(), FileFormat::Toml))
        .add_source(environment)
        .build()
        .and_then(|it| it.cache.into_table());
    built.unwrap_or_else(|_| {
        // The text was checked to be a table, so this is about a variable's name.
        findings.mistakes.push(Mistake::new(
            "SYMBOLON__…",
            "a variable has a name that cannot be understood; expected SYMBOLON__SECTION__KEY",
        ));
        Map::new()
    })
}

fn read_server(mut section: Section<'_>) -> ServerSettings {
    let server = ServerSettings {
        listen: section
            .value("listen", "an address and a port, for example \"127.0.0.1:8080\"", |it| {
                text(it)?.parse().ok()
            })
            .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080))),
        public_url: section.value(
            "public_url",
            "an http or https address without query and fragment, for example \
             \"https://accounts.example.com\"",
            |it| web_address(&text(it)?),
        ),
        trusted_proxies: section
            .value(
                "trusted_proxies",
                "a list of addresses or networks, for example [\"10.0.0.0/8\"]",
                |it| texts(it)?.iter().map(|it| it.parse().ok()).collect(),
            )
            .unwrap_or_default(),
        requests_per_second_per_key: whole::<u32>(
            &mut section,
            "requests_per_second_per_key",
            1,
            1_000_000,
        )
        .and_then(NonZeroU32::new),
    };
    section.finish();
    server
}

fn web_address(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    (plain && url.has_host() && matches!(url.scheme(), "http" | "https")).then_some(url)
}

fn read_database(mut section: Section<'_>, needed: bool) -> DatabaseSettings {
    const URL: &str = "\"sqlite:PATH\" or \"postgres://USER:PASSWORD@HOST/DATABASE\"";
    let missing = !section.is_set("url") && !section.is_set("url_file");
    let mut url = section.secret("url", URL);
    if let Some(given) = &url {
        let known = ["sqlite:", "postgres://", "postgresql://"]
            .iter()
            .any(|it| given.expose().strip_prefix(it).is_some_and(|rest| !rest.is_empty()));
        if !known {
            section.mistake("url", format!("expected {URL}"));
            url = None;
        }
    } else if missing && needed {
        section.mistake("url", format!("is missing; expected {URL}"));
    }
    let database = DatabaseSettings {
        refresh_plan: RefreshPlan::default(),
        url,
        max_connections: whole(&mut section, "max_connections", 4, 1000).unwrap_or(16),
        statement_timeout: length(&mut section, "statement_timeout", "1s", "10m")
            .unwrap_or(Duration::from_secs(10)),
        root_certificate: section.path("root_certificate"),
        auto_migrate: section.switch("auto_migrate"),
    };
    section.finish();
    database
}

fn read_keyring(mut section: Section<'_>, needed: bool) -> KeyringSettings {
    let given: Vec<_> =
        ["file", "env", "command"].into_iter().filter(|it| section.is_set(it)).collect();
    match given.as_slice() {
        [] if needed => section.mistake(
            "file",
            "is missing; expected the path of a key ring, made with `symbolon keyring generate \
             --file PATH`, or keyring.env or keyring.command in its place",
        ),
        [first, second, ..] => {
            let problem = format!(
                "is set, and so is keyring.{first}: the keys come from one place; leave one of \
                 file, env and command"
            );
            section.mistake(second, problem);
        }
        _ => {}
    }
    let keyring = KeyringSettings {
        file: section.path("file"),
        env: section.value("env", "the name of an environment variable", |it| {
            text(it).filter(|it| !it.contains(['=', '\0']))
        }),
        command: section.value(
            "command",
            "a program and its arguments, for example [\"vault\", \"kv\", \"get\", \
             \"-field=keyring\", \"secret/symbolon\"]",
            |it| texts(it).filter(|it| !it.is_empty()),
        ),
        command_timeout: length(&mut section, "command_timeout", "1s", "2m")
            .unwrap_or(Duration::from_secs(10)),
    };
    section.finish();
    keyring
}

fn read_link(mut section: Section<'_>) -> LinkSettings {
    let link = LinkSettings {
        return_urls: section
            .checked("return_urls", |it| {
                let list = texts(it).ok_or(
                    "expected a list of addresses, for example [\"https://app.example.com/\"]",
                )?;
                ReturnUrls::new(list).map_err(|problem| {
                    format!("expected a list of http or https addresses: {problem}")
                })
            })
            .unwrap_or_default(),
        session_ttl: length(&mut section, "session_ttl", "10s", "1d")
            .unwrap_or(Duration::from_mins(10)),
    };
    section.finish();
    link
}

fn read_refresh(mut section: Section<'_>) -> RefreshSettings {
    let refresh = RefreshSettings {
        margin: length(&mut section, "margin", "0s", "1d").unwrap_or(Duration::from_mins(5)),
        concurrency_per_provider: whole(&mut section, "concurrency_per_provider", 1, 1000)
            .unwrap_or(8),
        ahead: read_ahead(&mut section),
        per_second_per_provider: whole(&mut section, "per_second_per_provider", 1, 100_000)
            .unwrap_or(100),
    };
    section.finish();
    refresh
}

/// `refresh.ahead`: a length of time, or that tokens are left to those who ask for them.
fn read_ahead(section: &mut Section<'_>) -> Option<Duration> {
    const DEFAULT: Duration = Duration::from_mins(15);
    let expected = "a length of time from 1s to 1d, as in \"15m\", or \"off\"";
    let ahead = section.value("ahead", expected, |it| {
        if text(it.clone()).is_some_and(|it| it == "off") {
            return Some(None);
        }
        let range = Duration::from_secs(1)..=Duration::from_hours(24);
        duration(it).filter(|it| range.contains(it)).map(Some)
    });
    ahead.unwrap_or(Some(DEFAULT))
}

fn read_http_client(mut section: Section<'_>) -> HttpClientSettings {
    let http_client = HttpClientSettings {
        timeout: length(&mut section, "timeout", "1s", "2m").unwrap_or(Duration::from_secs(10)),
        max_response_bytes: whole(&mut section, "max_response_bytes", 1024, 64 * 1024 * 1024)
            .unwrap_or(1024 * 1024),
        allow_private_networks: section.switch("allow_private_networks"),
        allow_http: section.switch("allow_http"),
    };
    section.finish();
    http_client
}

fn read_webhooks(mut section: Section<'_>) -> WebhookSettings {
    const DAY: u64 = 24 * 60 * 60;
    let webhooks = WebhookSettings {
        timeout: length(&mut section, "timeout", "1s", "2m").unwrap_or(Duration::from_secs(15)),
        max_attempts: whole(&mut section, "max_attempts", 1, 100).unwrap_or(12),
        first_retry: length(&mut section, "first_retry", "100ms", "1h")
            .unwrap_or(Duration::from_secs(5)),
        concurrency: whole(&mut section, "concurrency", 1, 200).unwrap_or(8),
        retention: Duration::from_secs(
            DAY * whole(&mut section, "retention_days", 1, 3650).unwrap_or(30),
        ),
    };
    section.finish();
    webhooks
}

fn read_ledger(mut section: Section<'_>) -> LedgerSettings {
    const DAY: u64 = 24 * 60 * 60;
    let days = whole(&mut section, "retention_days", 1, 3650).unwrap_or(90);
    section.finish();
    LedgerSettings { retention: Duration::from_secs(DAY * days) }
}

fn read_catalog(mut section: Section<'_>) -> CatalogSettings {
    let own = section.checked("folder", |it| {
        let folder = text(it).ok_or("expected the path of a folder with files NAME.toml")?;
        Catalog::read(Path::new(&folder)).map_err(|error| sentence(&error))
    });
    section.finish();
    CatalogSettings { own: own.unwrap_or_default() }
}

fn read_telemetry(mut section: Section<'_>) -> TelemetrySettings {
    let otlp_endpoint = section.value(
        "otlp_endpoint",
        "an http or https address, for example \"http://127.0.0.1:4318\"",
        |it| web_address(&text(it)?),
    );
    let log_format =
        section.value("log_format", "\"text\" or \"json\"", |it| match text(it)?.as_str() {
            "text" => Some(LogFormat::Text),
            "json" => Some(LogFormat::Json),
            _ => None,
        });
    section.finish();
    TelemetrySettings { log_format: log_format.unwrap_or(LogFormat::Text), otlp_endpoint }
}

fn read_sentry_rpc(mut section: Section<'_>) -> SentryRpcSettings {
    let sentry_rpc = SentryRpcSettings {
        shared_secrets: section.secrets("shared_secrets"),
        include_credentials: section.switch("include_credentials"),
    };
    section.finish();
    sentry_rpc
}

fn read_token_exchange(mut section: Section<'_>) -> TokenExchangeSettings {
    let expected = "a list of tables, [[token_exchange.issuers]]";
    let list = section.value("issuers", expected, |it| match it.kind {
        ValueKind::Array(items) => Some(items),
        _ => None,
    });
    let mut issuers: Vec<TrustedIssuer> = Vec::new();
    for (index, item) in list.unwrap_or_default().into_iter().enumerate() {
        let path = format!("token_exchange.issuers[{index}]");
        let Some(table) = section.item(path.clone(), item) else { continue };
        let Some(issuer) = read_issuer(table) else { continue };
        if issuers.iter().any(|it| it.issuer == issuer.issuer) {
            section.mistake(
                &format!("issuers[{index}]"),
                "another entry of the list is the same issuer",
            );
        }
        issuers.push(issuer);
    }
    section.finish();
    TokenExchangeSettings { issuers }
}

/// `None` when there is no telling which issuer is meant, or for whom its tokens are; that is
/// noted.
fn read_issuer(mut table: Section<'_>) -> Option<TrustedIssuer> {
    const ISSUER: &str = "an http or https address without query and fragment";
    const AUDIENCE: &str = "a text: what the `aud` of its tokens must have in it";
    const ALGORITHMS: &str = "a list of signing algorithms, for example [\"RS256\", \"ES256\"]";
    for (key, expected) in [("issuer", ISSUER), ("audience", AUDIENCE)] {
        if !table.is_set(key) {
            table.mistake(key, format!("is missing; expected {expected}"));
        }
    }
    // Compared character by character: not normalized as an address would be.
    let issuer = table.value("issuer", ISSUER, |it| {
        let text = text(it)?;
        web_address(&text).map(|_| text)
    });
    let audience = table.value("audience", AUDIENCE, |it| text(it).filter(|it| !it.is_empty()));
    let jwks_uri = table.value("jwks_uri", "an http or https address", |it| {
        let url = Url::parse(&text(it)?).ok()?;
        matches!(url.scheme(), "http" | "https").then_some(url)
    });
    let algorithms = table.value("algorithms", ALGORITHMS, |it| {
        let names = texts(it)?;
        let known: Option<Vec<_>> = names.iter().map(|it| SigningAlg::parse(it)).collect();
        known.filter(|it| !it.is_empty())
    });
    let user_claim =
        table.value("user_claim", "the name of a claim", |it| text(it).filter(|it| !it.is_empty()));
    let provider_types =
        table.value("provider_types", "a list of provider types, for example [\"github\"]", texts);
    table.finish();
    Some(TrustedIssuer {
        issuer: issuer?,
        audience: audience?,
        jwks_uri,
        algorithms: algorithms.unwrap_or_else(|| SigningAlg::DEFAULT.to_vec()),
        user_claim: user_claim.unwrap_or_else(|| "sub".to_owned()),
        provider_types,
    })
}

/// A length of time between two bounds, which are written as in the file.
fn length(
    section: &mut Section<'_>,
    key: &'static str,
    least: &str,
    most: &str,
) -> Option<Duration> {
    let bound = |text: &str| duration(text.into()).unwrap_or_default();
    let expected = format!(
        "a length of time from {least} to {most}, as in \"90s\", \"10m\", \"1h30m\" or 90 for seconds"
    );
    section.value(key, &expected, |it| {
        duration(it).filter(|it| (bound(least)..=bound(most)).contains(it))
    })
}

fn whole<T: TryFrom<u64>>(
    section: &mut Section<'_>,
    key: &'static str,
    least: u64,
    most: u64,
) -> Option<T> {
    section.value(key, &format!("a whole number from {least} to {most}"), |it| {
        T::try_from(number(it).filter(|it| (least..=most).contains(it))?).ok()
    })
}

#[cfg(test)]
mod tests;
