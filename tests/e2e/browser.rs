//! As much of a browser as a redirect flow needs.

use std::collections::HashMap;

use reqwest::{
    Client, RequestBuilder, Response, Url,
    header::{COOKIE, LOCATION, SET_COOKIE},
    redirect::Policy,
};

/// The most redirects in a row before it is taken for a loop.
const MAX_REDIRECTS: usize = 20;

/// One user's browser: it keeps cookies and follows redirects.
///
/// Cookies go back to the host that set them, whatever their port (as RFC 6265 §8.5 has it),
/// path or `Secure`, so that a flow can be walked over plain loopback.
pub(crate) struct Browser {
    http: Client,
    /// Values by host and name.
    cookies: HashMap<(String, String), String>,
}

impl Browser {
    pub(crate) fn new() -> Self {
        Self { http: client(), cookies: HashMap::new() }
    }

    /// The values of all cookies.
    pub(crate) fn cookies(&self) -> impl Iterator<Item = &str> {
        self.cookies.values().map(String::as_str)
    }

    /// Loads one page, and follows nothing.
    pub(crate) async fn get(&mut self, url: Url) -> Response {
        let request = self.http.get(url.clone());
        self.send(url, request).await
    }

    /// Sends a form, and follows nothing.
    pub(crate) async fn post(&mut self, url: Url, fields: &[(String, String)]) -> Response {
        let request = self.http.post(url.clone()).form(fields);
        self.send(url, request).await
    }

    async fn send(&mut self, url: Url, mut request: RequestBuilder) -> Response {
        let host = url.host_str().unwrap().to_owned();
        let cookies: Vec<_> = self
            .cookies
            .iter()
            .filter(|((of, _), _)| *of == host)
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        if !cookies.is_empty() {
            request = request.header(COOKIE, cookies.join("; "));
        }
        let response = request.send().await.unwrap();
        for cookie in response.headers().get_all(SET_COOKIE) {
            let pair = cookie.to_str().unwrap().split(';').next().unwrap_or_default();
            let (name, value) = pair.split_once('=').unwrap();
            let key = (host.clone(), name.trim().to_owned());
            // An emptied cookie is how a server removes one.
            if value.is_empty() {
                self.cookies.remove(&key);
            } else {
                self.cookies.insert(key, value.to_owned());
            }
        }
        response
    }

    /// Follows redirects from `url` until one points to a URL that begins with `end`, and answers
    /// that URL without loading it.
    pub(crate) async fn follow(&mut self, url: Url, end: &str) -> Url {
        let mut url = url;
        for _ in 0..MAX_REDIRECTS {
            let response = self.get(url.clone()).await;
            let Some(location) = response.headers().get(LOCATION) else {
                let status = response.status();
                panic!("{url} answers {status} and no redirect: {}", response.text().await.unwrap())
            };
            url = url.join(location.to_str().unwrap()).unwrap();
            if url.as_str().starts_with(end) {
                return url;
            }
        }
        panic!("still redirected after {MAX_REDIRECTS} steps, now to {url}")
    }
}

/// A client that follows no redirects and asks no proxy.
pub(crate) fn client() -> Client {
    Client::builder().redirect(Policy::none()).no_proxy().build().unwrap()
}

/// The value of a query parameter.
pub(crate) fn query(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}
