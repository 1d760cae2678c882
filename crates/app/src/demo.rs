//! The whole product on one machine, with nothing set up: `symbolon demo`.
//!
//! Only that command comes here. It reads no configuration, listens on loopback alone, and speaks
//! to nobody but itself, so that what is relaxed here (plain http, private addresses, a key that
//! is printed) is relaxed nowhere else.

mod catalog;
mod directory;
mod greeting;
mod product;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use symbolon_domain::{
    Error,
    api_key::KeyScope,
    event::Actor,
    identity_provider::{IdentityProvider, OptionChanges},
    ports::{ApiKeyRepository, Connectors},
    secret::Secret,
    services::{ApiKeys, ReturnUrls},
};
use symbolon_oauth2::http::HttpClient;
use symbolon_sandbox::{Client, Sandbox, SandboxSettings, StartError};
use tokio::net::TcpListener;
use url::Url;

use self::{
    catalog::{DemoCatalog, SANDBOX},
    directory::DemoDirectory,
    greeting::Greeting,
    product::ProductSettings,
};
use crate::{
    catalog::{catalog, http_client},
    cli::DemoArgs,
    commands::all_api_keys,
    database::Database,
    failure::Failure,
    output::{print, print_json},
    replica::replica_name,
    server::{answer, bound, listen, listen_near},
    service::{Service, ServiceParts},
    settings::{LogFormat, Settings},
    shutdown::Shutdown,
    system_clock::SystemClock,
    telemetry,
};

/// What the demo's API keys are called.
const KEY_NAME: &str = "symbolon demo";

/// What the demo's product may do.
const KEY_SCOPES: [KeyScope; 5] = [
    KeyScope::LinkWrite,
    KeyScope::TokensRead,
    KeyScope::IdentitiesRead,
    KeyScope::IdentitiesWrite,
    KeyScope::ProvidersRead,
];

/// Short, so that a refresh can be watched.
const TOKEN_LIFETIME: Duration = Duration::from_secs(20);

const SERVICE: SocketAddr = loopback(8080);
const SANDBOX_LISTEN: SocketAddr = loopback(8081);
const PRODUCT: SocketAddr = loopback(8082);

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port))
}

/// `symbolon demo`: runs until the process is asked to stop.
///
/// # Errors
///
/// [`Failure`] when an address or the directory cannot be used.
pub(crate) async fn run(arguments: &DemoArgs) -> Result<(), Failure> {
    telemetry::start_logging(LogFormat::Text, "warn", &telemetry::Traces::default());
    let metrics = telemetry::start_metrics();
    let shutdown = Shutdown::on_signals()?;
    let directory = DemoDirectory::open(&arguments.directory)?;
    let keys = directory.key_ring()?;

    let listener = listen_as_asked(arguments.listen, SERVICE).await?;
    let sandbox = start_sandbox(arguments.sandbox_listen).await?;
    let product_listener = listen_as_asked(arguments.product_listen, PRODUCT).await?;
    let symbolon = address_url(bound(&listener)?);
    let product = address_url(bound(&product_listener)?);
    let sandbox_url = address_url(sandbox.address());

    let settings = settings(&directory, &product)?;
    let http = http_client(&settings.http_client)?;
    let connectors: Arc<dyn Connectors> =
        Arc::new(DemoCatalog { inner: Arc::new(catalog(http.clone(), &settings.catalog)) });
    let database = Arc::new(Database::open_to_serve(&settings.database, Arc::new(keys)).await?);
    let key = new_key(database.repositories().keys).await?;
    let service = Service::new(ServiceParts {
        settings,
        database,
        connectors,
        listener,
        replica: replica_name(),
        metrics,
    })
    .await?;
    let provider = register(&service, &sandbox).await?;

    let sandbox = Arc::new(sandbox);
    let router = product::router(product_settings(
        http,
        [&symbolon, &sandbox_url, &product],
        key.clone(),
        &provider,
        Arc::clone(&sandbox),
    ));
    let greeting = Greeting {
        symbolon: &symbolon,
        sandbox: &sandbox_url,
        product: &product,
        return_url: &product::return_url(&product),
        key: key.expose(),
        provider_id: provider.id.0,
        directory: &arguments.directory,
    };
    if arguments.output.json {
        print_json(&greeting.form())?;
    } else {
        print(&greeting.to_string())?;
    }
    let (service, product) =
        tokio::join!(service.run(shutdown.clone()), answer(product_listener, router, shutdown));
    if let Some(sandbox) = Arc::into_inner(sandbox) {
        sandbox.stop().await;
    }
    service.and(product)
}

/// At the address that was asked for, or at the usual one or, when that is taken, a free one.
async fn listen_as_asked(
    asked: Option<SocketAddr>,
    usual: SocketAddr,
) -> Result<TcpListener, Failure> {
    match asked {
        Some(address) => listen(address).await,
        None => listen_near(usual).await,
    }
}

async fn start_sandbox(asked: Option<SocketAddr>) -> Result<Sandbox, Failure> {
    let start = |listen| {
        Sandbox::start(SandboxSettings {
            listen,
            clients: vec![Client {
                name: "Fernweh, by way of Symbolon".to_owned(),
                ..Client::new("symbolon-demo")
            }],
            access_token_lifetime: TOKEN_LIFETIME,
            rotate_refresh_tokens: true,
            ..SandboxSettings::default()
        })
    };
    match start(asked.unwrap_or(SANDBOX_LISTEN)).await {
        Err(StartError::Listen { source, .. })
            if asked.is_none() && source.kind() == std::io::ErrorKind::AddrInUse =>
        {
            Ok(start(loopback(0)).await?)
        }
        other => Ok(other?),
    }
}

fn address_url(address: SocketAddr) -> Url {
    format!("http://{address}/").parse().expect("an address and port make a URL")
}

fn settings(directory: &DemoDirectory, product: &Url) -> Result<Settings, Failure> {
    let mut settings = Settings::default();
    settings.database.url = Some(Secret::new(format!("sqlite:{}", directory.database().display())));
    settings.http_client.allow_http = true;
    settings.http_client.allow_private_networks = true;
    settings.link.return_urls = ReturnUrls::new([product.as_str()]).map_err(Failure::Argument)?;
    Ok(settings)
}

/// A new key; those of earlier starts are no good any more.
async fn new_key(keys: Arc<dyn ApiKeyRepository>) -> Result<Secret, Failure> {
    for old in all_api_keys(&*keys).await? {
        if old.name == KEY_NAME && old.revoked_at.is_none() {
            keys.revoke(old.id, &Actor::OPERATOR).await.map_err(Error::from)?;
        }
    }
    let (_, secret) = ApiKeys { keys }.create(KEY_NAME, &KEY_SCOPES, &Actor::OPERATOR).await?;
    Ok(secret)
}

/// Makes the provider know the Sandbox of this start, and the Sandbox the provider.
async fn register(service: &Service, sandbox: &Sandbox) -> Result<IdentityProvider, Failure> {
    let config = serde_json::json!({
        "issuer": sandbox.issuer(),
        "client_id": sandbox.client_id(),
        "client_secret": sandbox.client_secret(),
    });
    let config = config.as_object().cloned().unwrap_or_default();
    let services = &service.services;
    let provider = services
        .providers
        .ensure(SANDBOX, None, config, OptionChanges::default(), &Actor::OPERATOR)
        .await?;
    let redirect_uri = services.linking.settings.redirect_uri(provider.id);
    sandbox
        .add_redirect_uri(&sandbox.client_id(), redirect_uri)
        .map_err(|error| Failure::from(StartError::from(error)))?;
    Ok(provider)
}

fn product_settings(
    http: HttpClient,
    [symbolon, sandbox_url, product]: [&Url; 3],
    key: Secret,
    provider: &IdentityProvider,
    sandbox: Arc<Sandbox>,
) -> ProductSettings {
    ProductSettings {
        http,
        symbolon: symbolon.clone(),
        sandbox: sandbox_url.clone(),
        product: product.clone(),
        key,
        provider_id: provider.id.0,
        clock: Arc::new(SystemClock),
        refreshes: Box::new(move || sandbox.counters().refreshes),
    }
}
