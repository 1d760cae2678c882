use url::Url;

use crate::Error;

/// Where a browser may be sent at the end of a link session.
///
/// Each entry is a prefix: scheme, host and port must be equal, and the path must begin with the
/// entry's whole path segments, so that `https://app.example/accounts` covers
/// `https://app.example/accounts/done` and not `https://app.example/accounts-evil`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReturnUrls(Vec<Url>);

impl ReturnUrls {
    /// Checks and wraps a list of prefixes.
    ///
    /// # Errors
    ///
    /// The entry that is not an absolute `http` or `https` address without user, query and
    /// fragment, and what is wrong with it.
    pub fn new<T: AsRef<str>>(prefixes: impl IntoIterator<Item = T>) -> Result<Self, String> {
        let mut urls = Vec::new();
        for prefix in prefixes {
            let prefix = prefix.as_ref();
            let url = parse(prefix).map_err(|problem| format!("{prefix:?} {problem}"))?;
            if url.query().is_some() || url.fragment().is_some() {
                return Err(format!("{prefix:?} must have no query and no fragment"));
            }
            urls.push(url);
        }
        Ok(Self(urls))
    }

    /// The address to send the browser to, if it is allowed.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidRequest`] naming `return_url`.
    pub fn check(&self, return_url: &str) -> Result<Url, Error> {
        let invalid = |problem: &str| Error::invalid("return_url", problem);
        let url = parse(return_url).map_err(invalid)?;
        if self.0.iter().any(|prefix| covers(prefix, &url)) {
            Ok(url)
        } else {
            Err(invalid("is not covered by the operator's setting link.return_urls"))
        }
    }
}

/// Parses strictly: what browsers repair (tabs, backslashes, encoded dots) is refused, because
/// the browser would go elsewhere than we checked.
fn parse(text: &str) -> Result<Url, &'static str> {
    if text.len() > 2048 {
        return Err("must be at most 2048 bytes");
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return Err("must hold no whitespace, control character or backslash");
    }
    if !(text.starts_with("https://") || text.starts_with("http://")) {
        return Err("must be an absolute http or https address");
    }
    let url = Url::parse(text).map_err(|_| "is not a valid address")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("must hold no user name or password");
    }
    let path = url.path().to_ascii_lowercase();
    if ["%2e", "%2f", "%5c", "%00"].iter().any(|it| path.contains(it)) {
        return Err("must hold no encoded dot, slash or backslash in its path");
    }
    Ok(url)
}

fn covers(prefix: &Url, url: &Url) -> bool {
    if prefix.origin() != url.origin() {
        return false;
    }
    let prefix = prefix.path().trim_end_matches('/');
    url.path().strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allowed() -> ReturnUrls {
        ReturnUrls::new(["https://app.example/accounts", "http://127.0.0.1:8080/"]).unwrap()
    }

    #[test]
    fn a_prefix_covers_whole_path_segments() {
        for good in [
            "https://app.example/accounts",
            "https://app.example/accounts/",
            "https://app.example/accounts/done?x=1#top",
            "https://APP.example:443/accounts/a/../done",
            "http://127.0.0.1:8080/anything",
        ] {
            assert!(allowed().check(good).is_ok(), "{good}");
        }
    }

    #[test]
    fn no_open_redirect_passes() {
        for evil in [
            "https://app.example/accounts-evil",
            "https://app.example/",
            "https://app.example/accounts/../admin",
            "https://app.example/accounts/%2e%2e/admin",
            "https://app.example/accounts/..%2fadmin",
            "https://app.example/accounts\\..\\admin",
            "http://app.example/accounts",
            "https://app.example:8443/accounts",
            "https://app.example.evil/accounts",
            "https://app.example@evil/accounts",
            "https://evil@app.example/accounts",
            "https:app.example/accounts",
            "https:/app.example/accounts",
            "//app.example/accounts",
            "/\\app.example/accounts",
            "java\tscript:alert(1)",
            "javascript:alert(1)",
            "data:text/html,x",
            "https://app.example/accounts\n",
            " https://app.example/accounts",
            "https://app。example.evil/accounts",
            "",
        ] {
            assert!(
                matches!(allowed().check(evil), Err(Error::InvalidRequest { field, .. }) if field == "return_url"),
                "{evil:?}"
            );
        }
    }

    #[test]
    fn a_prefix_that_means_nothing_is_refused() {
        for bad in [
            "app.example",
            "ftp://app.example/",
            "https://app.example/?x",
            "https://u@app.example/",
        ] {
            assert!(ReturnUrls::new([bad]).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn whatever_passes_has_an_allowed_origin_and_path(text in "\\PC{0,60}") {
            for text in [text.clone(), format!("https://app.example/accounts{text}"), format!("https://app.example{text}")] {
                if let Ok(url) = allowed().check(&text) {
                    prop_assert!(
                        url.as_str().starts_with("http://127.0.0.1:8080/")
                            || url.as_str() == "https://app.example/accounts"
                            || url.as_str().starts_with("https://app.example/accounts/")
                            || url.as_str().starts_with("https://app.example/accounts?")
                            || url.as_str().starts_with("https://app.example/accounts#"),
                        "{url}"
                    );
                }
            }
        }
    }
}
