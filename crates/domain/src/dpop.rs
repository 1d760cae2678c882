//! Requests with an access token that is bound to a key of ours
//! ([RFC 9449](https://www.rfc-editor.org/rfc/rfc9449)).

use url::Url;

use crate::Error;

/// One request that somebody else sends with such a token, for which we prove that we hold the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DpopRequest {
    /// The method, as it is sent.
    method: String,
    /// Where it goes, without query and fragment.
    url: Url,
    /// What the server wants to see in the proof.
    nonce: Option<String>,
}

/// Longest method, address and nonce, in bytes.
const LONGEST_METHOD: usize = 32;
const LONGEST_URL: usize = 8192;
const LONGEST_NONCE: usize = 1024;

impl DpopRequest {
    /// Checks what is to be proven. `nonce` is that of the server's last `DPoP-Nonce`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] naming `method`, `url` or `nonce`.
    pub fn new(method: &str, url: &str, nonce: Option<&str>) -> Result<Self, Error> {
        // RFC 9110 §5.6.2, and a method is written as it is: nobody's `get` is GET.
        let token = |it: u8| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&it);
        if !(1..=LONGEST_METHOD).contains(&method.len()) || !method.bytes().all(token) {
            let problem = "must be an HTTP method as it is sent, for example GET";
            return Err(Error::invalid("method", problem));
        }
        let problem = "must be the absolute http or https address of the request, of at most 8192 \
                       bytes, without a user name";
        let parsed = Url::parse(url).ok().filter(|it| {
            url.len() <= LONGEST_URL
                && matches!(it.scheme(), "https" | "http")
                && it.has_host()
                && it.username().is_empty()
                && it.password().is_none()
        });
        let mut htu = parsed.ok_or_else(|| Error::invalid("url", problem))?;
        htu.set_query(None);
        htu.set_fragment(None);
        if !nonce.is_none_or(is_nonce) {
            let problem = "must be what the server sent as DPoP-Nonce: 1 to 1024 visible ASCII \
                           characters";
            return Err(Error::invalid("nonce", problem));
        }
        Ok(Self { method: method.to_owned(), url: htu, nonce: nonce.map(str::to_owned) })
    }

    /// The method: the claim `htm`.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.method
    }

    /// Where it goes, without query and fragment: the claim `htu`.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// What the server wants to see: the claim `nonce`.
    #[must_use]
    pub fn nonce(&self) -> Option<&str> {
        self.nonce.as_deref()
    }
}

/// Whether a server's `DPoP-Nonce` is one that can be sent back
/// ([RFC 9449 §8.1](https://www.rfc-editor.org/rfc/rfc9449#section-8.1)), of at most 1024 bytes.
#[must_use]
pub fn is_nonce(text: &str) -> bool {
    let fits = |it: u8| matches!(it, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    (1..=LONGEST_NONCE).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_loses_its_query_and_its_fragment() {
        let request = DpopRequest::new("GET", "HTTPS://Api.Example:443/a%20b?c=d#e", None).unwrap();
        assert_eq!(request.url().as_str(), "https://api.example/a%20b");
        assert_eq!((request.method(), request.nonce()), ("GET", None));
        let nonce = Some("eyJ7S_zG.eyJH0-Z.HX4w-7v");
        assert_eq!(DpopRequest::new("PATCH", "http://a/", nonce).unwrap().nonce(), nonce);
    }

    #[test]
    fn what_no_proof_can_be_about_is_refused_by_name() {
        let long = format!("https://a.example/{}", "x".repeat(LONGEST_URL));
        for (method, url, nonce, named) in [
            ("", "https://a.example/", None, "method"),
            ("GET ", "https://a.example/", None, "method"),
            ("GET\n", "https://a.example/", None, "method"),
            ("GETGETGETGETGETGETGETGETGETGETGET", "https://a.example/", None, "method"),
            ("GET", "", None, "url"),
            ("GET", "/relative", None, "url"),
            ("GET", "ftp://a.example/", None, "url"),
            ("GET", "data:text/plain,x", None, "url"),
            ("GET", "https://user@a.example/", None, "url"),
            ("GET", "https://:pass@a.example/", None, "url"),
            ("GET", long.as_str(), None, "url"),
            ("GET", "https://a.example/", Some(""), "nonce"),
            ("GET", "https://a.example/", Some("a b"), "nonce"),
            ("GET", "https://a.example/", Some("a\"b"), "nonce"),
            ("GET", "https://a.example/", Some("a\\b"), "nonce"),
            ("GET", "https://a.example/", Some("\u{fc}"), "nonce"),
        ] {
            let refused = DpopRequest::new(method, url, nonce);
            let right =
                matches!(&refused, Err(Error::InvalidRequest { field, .. }) if field == named);
            assert!(right, "{method:?} {url:?} {nonce:?}: {refused:?}");
        }
    }
}
