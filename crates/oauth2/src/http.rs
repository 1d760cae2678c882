//! The guarded client: the only way out of the process.
//!
//! Addresses come from tenants and from what providers say about themselves, so every one is
//! treated as hostile: https unless allowed otherwise, no address that is not of the public
//! internet (checked when the connection is made, on the addresses that are then used), no
//! redirects, no proxies from the environment, no cookies, no decompression but where it is asked
//! for, one deadline over the whole call, and a cap on what is read and on what becomes of it.

mod addresses;
mod request;

use std::{
    error::Error as StdError,
    fmt,
    io::{self, Read as _},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use chrono::{DateTime, Utc};
use flate2::read::GzDecoder;
use reqwest::{
    dns::{Addrs, Name, Resolve, Resolving},
    header::{ACCEPT_ENCODING, CONTENT_ENCODING, HOST, HeaderMap, HeaderValue},
    redirect, retry,
};
use symbolon_domain::ports::Sent;
use tokio::time::{Instant, timeout_at};
use url::{Host, Position, Url};

pub use self::request::HttpRequest;
use self::{addresses::is_public, request::Coding};

/// What the client permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpSettings {
    /// Over the whole call: looking up the name, connecting, sending, and reading the last byte of
    /// the answer. Half of it at most goes into connecting.
    pub timeout: Duration,
    /// Most bytes of an answer's body.
    pub max_response_bytes: usize,
    /// Whether addresses that are not of the public internet may be connected to.
    pub allow_private_networks: bool,
    /// Whether plain http may be spoken.
    pub allow_http: bool,
    /// Where every request goes instead, in plain http with the host that was meant in its `Host`
    /// header, after its address was checked as ever. Only for trying out provider types; no
    /// configuration can ask for it.
    pub stand_in: Option<SocketAddr>,
}

impl Default for HttpSettings {
    /// Ten seconds, one mebibyte, public addresses and https only.
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            max_response_bytes: 1024 * 1024,
            allow_private_networks: false,
            allow_http: false,
            stand_in: None,
        }
    }
}

/// The client could not be set up: there is no TLS to be had on this machine.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP client cannot be set up")]
pub struct HttpClientError(#[source] Box<dyn StdError + Send + Sync>);

/// Why there is no answer. No variant holds anything of the request but its host.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum HttpError {
    /// The operator: our rules forbid the address. Nothing was sent, no connection was made.
    #[error("{0}")]
    Refused(String),
    /// The request never left: no such host, no connection, no TLS.
    #[error("{0}")]
    NotSent(String),
    /// The request left, or may have, and no answer came back in time.
    #[error("{0}")]
    Unknown(String),
}

impl HttpError {
    /// Whether the other side may have acted on the request.
    #[must_use]
    pub fn sent(&self) -> Sent {
        match self {
            Self::Refused(_) | Self::NotSent(_) => Sent::No,
            Self::Unknown(_) => Sent::Unknown,
        }
    }
}

/// Why the body of an answer could not be read, though its status is known.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
pub enum BodyError {
    /// It is larger than [`HttpSettings::max_response_bytes`]; reading stopped there.
    #[error("the answer is too large")]
    TooLarge,
    /// It broke off, or was not complete by the deadline.
    #[error("the answer broke off or took too long")]
    Broken,
    /// It is compressed, though we said that we take none.
    #[error("the answer is compressed, which was not asked for")]
    Encoded,
}

/// An answer. Its status says what became of the request even where the body is lost.
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    headers: HeaderMap,
    /// Whether the request proved that we hold a key
    /// ([RFC 9449](https://www.rfc-editor.org/rfc/rfc9449)).
    pub(crate) proven: bool,
    /// The body, or why there is none.
    pub body: Result<Vec<u8>, BodyError>,
}

impl HttpResponse {
    /// A header's value; `None` when it is absent or not plain text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Every value of a header that is plain text.
    pub(crate) fn headers(&self, name: &str) -> impl Iterator<Item = &str> {
        self.headers.get_all(name).iter().filter_map(|it| it.to_str().ok())
    }

    /// How long the other side asks us to wait
    /// ([RFC 9110 §10.2.3](https://www.rfc-editor.org/rfc/rfc9110#section-10.2.3)): seconds or a
    /// date. At least a second, at most an hour.
    #[must_use]
    pub fn retry_after(&self, now: DateTime<Utc>) -> Option<Duration> {
        retry_after(self.header("retry-after")?, now)
    }
}

fn retry_after(value: &str, now: DateTime<Utc>) -> Option<Duration> {
    let value = value.trim();
    let seconds = if !value.is_empty() && value.bytes().all(|it| it.is_ascii_digit()) {
        value.parse().unwrap_or(u64::MAX)
    } else {
        let until = DateTime::parse_from_rfc2822(value).ok()?;
        u64::try_from((until.with_timezone(&Utc) - now).num_seconds()).unwrap_or(0)
    };
    Some(Duration::from_secs(seconds.clamp(1, 3600)))
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpResponse").field("status", &self.status).finish_non_exhaustive()
    }
}

/// The guarded client. Cheap to clone.
#[derive(Clone)]
pub struct HttpClient {
    settings: Arc<HttpSettings>,
    /// Keeps connections for the next request.
    pooled: reqwest::Client,
    /// Opens one connection for each request.
    single: reqwest::Client,
}

impl HttpClient {
    /// Sets up a client.
    ///
    /// # Errors
    ///
    /// [`HttpClientError`] when there is no TLS to be had, for example no root certificates.
    pub fn new(settings: HttpSettings) -> Result<Self, HttpClientError> {
        let build = |idle: usize| {
            reqwest::Client::builder()
                .user_agent(concat!("symbolon/", env!("CARGO_PKG_VERSION")))
                .redirect(redirect::Policy::none())
                .retry(retry::never())
                .referer(false)
                .no_proxy()
                .no_gzip()
                .no_brotli()
                .no_deflate()
                .no_zstd()
                .http1_only()
                .https_only(!settings.allow_http && settings.stand_in.is_none())
                // Shorter than the deadline, so that a failure to connect is known as one.
                .connect_timeout(settings.timeout / 2)
                .pool_max_idle_per_host(idle)
                .pool_idle_timeout(Duration::from_secs(20))
                .dns_resolver(GuardedResolver { allow_private: settings.allow_private_networks })
                .build()
                .map_err(|error| HttpClientError(error.into()))
        };
        Ok(Self { pooled: build(8)?, single: build(0)?, settings: Arc::new(settings) })
    }

    /// What this client permits.
    #[must_use]
    pub fn settings(&self) -> &HttpSettings {
        &self.settings
    }

    /// Whether a request to this address would be let out, as far as its text tells: the addresses
    /// behind a host's name are only known, and checked, when connecting.
    ///
    /// # Errors
    ///
    /// [`HttpError::Refused`] says which rule forbids it.
    pub fn check(&self, url: &Url) -> Result<(), HttpError> {
        let refused = |why: &str| Err(HttpError::Refused(why.to_owned()));
        match url.scheme() {
            "https" => {}
            "http" if self.settings.allow_http => {}
            "http" => {
                return refused(
                    "plain http is not allowed; use https or set http_client.allow_http",
                );
            }
            _ => return refused("only https addresses are allowed"),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refused("an address with a user name or a password in it is not allowed");
        }
        // A literal address never reaches the resolver, so it is checked here.
        let literal = match url.host() {
            Some(Host::Domain(_)) => None,
            Some(Host::Ipv4(it)) => Some(IpAddr::V4(it)),
            Some(Host::Ipv6(it)) => Some(IpAddr::V6(it)),
            None => return refused("an address without a host is not allowed"),
        };
        match literal {
            Some(it) if !self.settings.allow_private_networks && !is_public(it) => {
                Err(HttpError::Refused(not_public(&it.to_string())))
            }
            _ => Ok(()),
        }
    }

    /// Sends a request and reads the answer, whatever its status.
    ///
    /// # Errors
    ///
    /// [`HttpError`] when there is no answer; it tells whether the request may have left. A body
    /// that is lost after the status was read is in [`HttpResponse::body`].
    pub async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.send_until(request, &mut |_| false).await
    }

    /// The same, and no more of the body is read than is wanted: `enough` gets every piece of it,
    /// in their order, and says when it was the last. For streams that may stay open.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub(crate) async fn send_until(
        &self,
        request: HttpRequest,
        enough: &mut (dyn FnMut(&[u8]) -> bool + Send),
    ) -> Result<HttpResponse, HttpError> {
        let patience = self.settings.timeout;
        let deadline = Instant::now() + request.within.map_or(patience, |it| it.min(patience));
        self.check(&request.url)?;
        if request.malformed {
            return Err(HttpError::NotSent("a header holds what HTTP cannot carry".into()));
        }
        let host = shown_host(&request.url);
        let client = if request.own_connection { &self.single } else { &self.pooled };
        let (proven, coding) = (request.proven, request.coding);
        let (mut url, mut headers) = (request.url, request.headers);
        if let Some(stand_in) = self.settings.stand_in {
            let meant = url[Position::BeforeHost..Position::AfterPort].to_owned();
            let led_there = url.set_scheme("http").is_ok()
                && url.set_ip_host(stand_in.ip()).is_ok()
                && url.set_port(Some(stand_in.port())).is_ok();
            let Some(meant) = HeaderValue::from_str(&meant).ok().filter(|_| led_there) else {
                return Err(HttpError::NotSent("the address cannot be led elsewhere".into()));
            };
            headers.insert(HOST, meant);
        }
        let mut outgoing = client
            .request(request.method, url)
            .headers(headers)
            .header(ACCEPT_ENCODING, HeaderValue::from_static(coding.name()));
        if let Some(body) = request.body {
            outgoing = outgoing.body(body.to_vec());
        }
        let answer = match timeout_at(deadline, outgoing.send()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(told_apart(&error, &host)),
            Err(_) => {
                return Err(HttpError::Unknown(format!("{host} did not answer in time")));
            }
        };
        let status = answer.status().as_u16();
        tracing::debug!(host, status, "answered");
        let headers = answer.headers().clone();
        let body = match timeout_at(deadline, self.read(answer, coding, enough)).await {
            Ok(read) => read,
            Err(_) => Err(BodyError::Broken),
        };
        Ok(HttpResponse { status, headers, proven, body })
    }

    async fn read(
        &self,
        mut answer: reqwest::Response,
        coding: Coding,
        enough: &mut (dyn FnMut(&[u8]) -> bool + Send),
    ) -> Result<Vec<u8>, BodyError> {
        let most = self.settings.max_response_bytes;
        let encoding = answer.headers().get(CONTENT_ENCODING);
        let readable = [Coding::Identity, coding].map(Coding::name);
        let reads = |it: &HeaderValue| {
            readable.iter().any(|name| it.as_bytes().eq_ignore_ascii_case(name.as_bytes()))
        };
        if encoding.is_some_and(|it| !reads(it)) {
            return Err(BodyError::Encoded);
        }
        if answer.content_length().is_some_and(|it| it > most as u64) {
            return Err(BodyError::TooLarge);
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|_| BodyError::Broken)? {
            if body.len() + chunk.len() > most {
                return Err(BodyError::TooLarge);
            }
            body.extend_from_slice(&chunk);
            if enough(&chunk) {
                break;
            }
        }
        if coding == Coding::Gzip && body.starts_with(GZIP) {
            unzipped(&body, most)
        } else {
            Ok(body)
        }
    }
}

/// How what is compressed with gzip begins (RFC 1952 §2.3.1).
const GZIP: &[u8] = &[0x1f, 0x8b];

/// What is in a body that is compressed, up to the cap: a little of it may hold a lot.
fn unzipped(body: &[u8], most: usize) -> Result<Vec<u8>, BodyError> {
    let mut plain = Vec::new();
    // One byte more than is allowed tells that there is more.
    let mut bounded = GzDecoder::new(body).take(most as u64 + 1);
    bounded.read_to_end(&mut plain).map_err(|_| BodyError::Broken)?;
    if plain.len() > most { Err(BodyError::TooLarge) } else { Ok(plain) }
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpClient").field("settings", &self.settings).finish_non_exhaustive()
    }
}

/// The one place where an error of the HTTP library becomes ours. Its own text is dropped: it
/// could quote the address with its query.
fn told_apart(error: &reqwest::Error, host: &str) -> HttpError {
    if chain(error).any(<dyn StdError>::is::<ForbiddenAddress>) {
        return HttpError::Refused(not_public(host));
    }
    if error.is_dns() {
        HttpError::NotSent(format!("the host {host} was not found"))
    } else if error.is_connect() {
        HttpError::NotSent(
            chain(error)
                .find_map(|it| no_connection(it, host))
                .unwrap_or_else(|| format!("no connection to {host} could be made")),
        )
    } else if error.is_builder() {
        HttpError::NotSent(format!("the request to {host} could not be built"))
    } else {
        HttpError::Unknown(format!("{host} gave no readable answer"))
    }
}

/// An error's sources, the nearest first.
fn chain(error: &reqwest::Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(error.source(), |it| wrapped_by(*it))
}

/// The next source. What an I/O error wraps is one, though its own `source` passes it over.
fn wrapped_by<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => error.source(),
    }
}

/// Why no connection came about, where the operator can do something about it. TLS names a host
/// and its certificate, never the request.
fn no_connection(error: &(dyn StdError + 'static), host: &str) -> Option<String> {
    if let Some(tls) = error.downcast_ref::<rustls::Error>() {
        return Some(match tls {
            rustls::Error::InvalidCertificate(why) => {
                format!("the certificate of {host} is not trusted: {}", printable(&why.to_string()))
            }
            other => format!("no TLS with {host}: {}", printable(&other.to_string())),
        });
    }
    let refused = error.downcast_ref::<io::Error>()?.kind() == io::ErrorKind::ConnectionRefused;
    refused.then(|| format!("{host} refused the connection"))
}

/// A text in which the other side may have a word, fit for one line of a log.
fn printable(text: &str) -> String {
    text.chars().filter(|it| !it.is_control()).take(300).collect()
}

fn not_public(host: &str) -> String {
    format!(
        "{host} is not at an address of the public internet; set http_client.allow_private_networks if that is meant"
    )
}

/// A host's name to show, of bounded length.
fn shown_host(url: &Url) -> String {
    match url.host_str() {
        Some(host) if host.len() <= 253 => host.to_owned(),
        _ => "the host".to_owned(),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the name leads to an address that is not public")]
struct ForbiddenAddress;

/// Looks names up and lets only permitted addresses through; what it answers is what is connected
/// to, so a name cannot change between check and use.
struct GuardedResolver {
    allow_private: bool,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let admitted = admit(found, allow_private)?;
            Ok(Box::new(admitted.into_iter()) as Addrs)
        })
    }
}

/// All of the addresses, or none: a name that leads inside with one of them is not to be trusted
/// with the others.
fn admit(found: Vec<SocketAddr>, allow_private: bool) -> Result<Vec<SocketAddr>, ForbiddenAddress> {
    if allow_private || found.iter().all(|it| is_public(it.ip())) {
        Ok(found)
    } else {
        Err(ForbiddenAddress)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(settings: HttpSettings) -> HttpClient {
        HttpClient::new(settings).unwrap()
    }

    #[test]
    fn an_address_that_is_not_public_https_is_refused_before_anything_is_sent() {
        let client = client(HttpSettings::default());
        for refused in [
            "http://example.com/",
            "ftp://example.com/",
            "file:///etc/passwd",
            "data:text/plain,x",
            "https://user@example.com/",
            "https://user:pass@example.com/",
            "https://:pass@example.com/",
            "https://127.0.0.1/",
            "https://127.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0177.0.0.1/",
            "https://127.0.0.1./",
            "https://0/",
            "https://10.0.0.1/",
            "https://169.254.169.254/latest/meta-data/",
            "https://[::1]/",
            "https://[::]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://[::127.0.0.1]/",
            "https://[64:ff9b::7f00:1]/",
            "https://[2002:7f00:1::]/",
            "https://[fd00::1]/",
            "https://[fe80::1]/",
        ] {
            let url = Url::parse(refused).unwrap();
            assert!(matches!(client.check(&url), Err(HttpError::Refused(_))), "{refused}");
        }
    }

    #[test]
    fn a_public_https_address_is_let_out() {
        let client = client(HttpSettings::default());
        for allowed in ["https://example.com/x?y", "https://8.8.8.8/", "https://example.com:8443/"]
        {
            assert_eq!(client.check(&Url::parse(allowed).unwrap()), Ok(()), "{allowed}");
        }
    }

    #[test]
    fn one_private_address_among_public_ones_refuses_the_name() {
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        assert!(admit(vec![address("8.8.8.8:0")], false).is_ok());
        let mixed = vec![address("8.8.8.8:0"), address("127.0.0.1:0")];
        assert!(admit(mixed.clone(), false).is_err());
        assert!(admit(mixed, true).is_ok());
    }

    #[test]
    fn a_wait_is_seconds_or_a_date_and_bounded() {
        let now = DateTime::parse_from_rfc2822("Sun, 06 Nov 1994 08:49:37 GMT").unwrap().to_utc();
        for (value, seconds) in [
            ("120", Some(120)),
            ("0", Some(1)),
            ("86400", Some(3600)),
            ("99999999999999999999999", Some(3600)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:49:30 GMT", Some(1)),
            ("Sun, 06 Nov 2094 08:49:37 GMT", None),
            ("Sat, 06 Nov 2094 08:49:37 GMT", Some(3600)),
            ("-1", None),
            ("1.5", None),
            ("", None),
            ("soon", None),
        ] {
            assert_eq!(retry_after(value, now), seconds.map(Duration::from_secs), "{value}");
        }
    }

    #[test]
    fn a_request_shows_its_host_and_nothing_else() {
        let request = HttpRequest::post_form(
            Url::parse("https://example.com/canary?canary").unwrap(),
            &[("canary", "canary")],
        )
        .authorization("Basic", "canary");
        assert!(!format!("{request:?}").contains("canary"));
    }
}
