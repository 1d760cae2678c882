//! Every provider type there is, and the one way out to providers.

use std::sync::Arc;

use symbolon_oauth2::{
    Mcp, Registry,
    catalog::Catalog,
    http::{HttpClient, HttpClientError, HttpSettings},
};

use crate::{
    settings::{CatalogSettings, HttpClientSettings},
    system_clock::SystemClock,
};

/// The guarded client, as the operator set it.
///
/// # Errors
///
/// [`HttpClientError`] when there is no TLS to be had.
pub(crate) fn http_client(settings: &HttpClientSettings) -> Result<HttpClient, HttpClientError> {
    HttpClient::new(HttpSettings {
        timeout: settings.timeout,
        max_response_bytes: settings.max_response_bytes,
        allow_private_networks: settings.allow_private_networks,
        allow_http: settings.allow_http,
        stand_in: None,
    })
}

/// The catalog: the types that are code, those that are data, and the operator's own over them.
pub(crate) fn catalog(http: HttpClient, settings: &CatalogSettings) -> Registry {
    Registry::new(http, Arc::new(SystemClock))
        .with(symbolon_google::kind())
        .with(Mcp)
        .with_catalog(Catalog::built_in())
        .with_catalog(settings.own.clone())
}
