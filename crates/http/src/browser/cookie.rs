use axum::http::{HeaderMap, HeaderValue, header::COOKIE};
use symbolon_domain::secret::Secret;

/// How long a browser keeps the cookie, in seconds: longer than any session needs.
const MAX_AGE: u32 = 60 * 60;

/// The cookie that tells browsers apart: one unguessable value per browser, for all its sessions.
/// It names nobody and opens nothing by itself.
#[derive(Clone, Copy)]
pub(super) struct BrowserCookie {
    /// Whether browsers reach us over https.
    secure: bool,
}

impl BrowserCookie {
    pub(super) fn new(secure: bool) -> Self {
        Self { secure }
    }

    /// With the prefix `__Host-` no other host and no plain http can set it
    /// ([RFC 6265bis §4.1.3.2](https://datatracker.ietf.org/doc/html/draft-ietf-httpbis-rfc6265bis#section-4.1.3.2)).
    fn name(self) -> &'static str {
        if self.secure { "__Host-symbolon" } else { "symbolon" }
    }

    /// What the browser sent, if it is of our making.
    pub(super) fn read(self, headers: &HeaderMap) -> Option<Secret> {
        headers
            .get_all(COOKIE)
            .iter()
            .filter_map(|it| it.to_str().ok())
            .flat_map(|it| it.split(';'))
            .filter_map(|it| it.trim().split_once('='))
            .find(|(name, value)| *name == self.name() && is_secret(value))
            .map(|(_, value)| Secret::new(value))
    }

    /// What the browser is to keep. `Lax`: it comes along when the provider sends the user back.
    pub(super) fn write(self, browser: &Secret) -> HeaderValue {
        let secure = if self.secure { "; Secure" } else { "" };
        let name = self.name();
        let cookie = format!(
            "{name}={}; Path=/; Max-Age={MAX_AGE}; HttpOnly; SameSite=Lax{secure}",
            browser.expose()
        );
        HeaderValue::try_from(cookie).expect("base64url and constants are a header value")
    }
}

/// Whether a text has the form of [`Secret::random`].
pub(super) fn is_secret(text: &str) -> bool {
    text.len() == 43
        && text.bytes().all(|it| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_value_of_our_making_is_read_and_only_under_the_name_in_use() {
        let value = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNO-_";
        let read = |secure, header: String| {
            let headers = HeaderMap::from_iter([(COOKIE, header.parse().unwrap())]);
            BrowserCookie::new(secure).read(&headers).map(|it| it.expose().to_owned())
        };
        assert_eq!(read(false, format!("a=b; symbolon={value}")).as_deref(), Some(value));
        assert_eq!(read(true, format!("__Host-symbolon={value};x")).as_deref(), Some(value));
        assert_eq!(read(true, format!("symbolon={value}")), None);
        assert_eq!(read(false, format!("symbolon={value}x")), None);
        assert_eq!(read(false, format!("symbolon={}", value.replace('-', "."))), None);
    }
}
