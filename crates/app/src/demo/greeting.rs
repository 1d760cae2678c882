use std::{fmt, path::Path};

use serde_json::{Value, json};
use url::Url;

use super::{catalog::SANDBOX, product::USER_ID};

/// What the demo prints: the pages to open, and three lines to paste.
pub(super) struct Greeting<'a> {
    pub(super) symbolon: &'a Url,
    pub(super) sandbox: &'a Url,
    pub(super) product: &'a Url,
    pub(super) return_url: &'a Url,
    pub(super) key: &'a str,
    pub(super) provider_id: i64,
    pub(super) directory: &'a Path,
}

impl Greeting<'_> {
    fn post(&self, path: &str, body: &Value) -> String {
        format!(
            "curl -sS {}v1/{path} -H 'Authorization: Bearer {}' -H 'Content-Type: application/json' \
             -d '{body}' -w '\\n'",
            self.symbolon, self.key
        )
    }

    fn link_session(&self) -> String {
        let body = json!({
            "user_id": USER_ID,
            "provider_id": self.provider_id,
            "return_url": self.return_url,
            "purpose": "link",
        });
        self.post("link-sessions", &body)
    }

    fn token(&self) -> String {
        self.post("token", &json!({ "user_id": USER_ID, "provider_type": SANDBOX }))
    }

    fn identity(&self) -> String {
        format!(
            "curl -sS '{}v1/identities?user_id={USER_ID}' -H 'Authorization: Bearer {}' -w '\\n'",
            self.symbolon, self.key
        )
    }
}

impl Greeting<'_> {
    /// The same for programs.
    pub(super) fn form(&self) -> Value {
        let Self { symbolon, sandbox, product, key, provider_id, directory, .. } = self;
        json!({
            "pages": {
                "product": product,
                "docs": format!("{symbolon}docs"),
                "sandbox": sandbox,
            },
            "api_key": key,
            "provider_id": provider_id,
            "curl": [self.link_session(), self.token(), self.identity()],
            "directory": directory.display().to_string(),
        })
    }
}

impl fmt::Display for Greeting<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { symbolon, sandbox, product, directory, .. } = self;
        write!(
            f,
            "\
Symbolon runs. Open your product's page and connect an account:

  your product   {product}
  Symbolon       {symbolon}docs
  the Sandbox    {sandbox}

Or paste these. The first prints a url: open it, and choose somebody.

{}

An access token for the account, which lives 20 seconds. Ask again later: it is a new one.

{}

What is linked.

{}

Everything is kept in {}, and nobody but this machine reaches it. Ctrl-C stops it.
",
            self.link_session(),
            self.token(),
            self.identity(),
            directory.display()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_three_lines_to_paste() {
        let url = |port: u16| Url::parse(&format!("http://127.0.0.1:{port}/")).unwrap();
        let text = Greeting {
            symbolon: &url(1),
            sandbox: &url(2),
            product: &url(3),
            return_url: &url(3).join("/linked").unwrap(),
            key: "sym_x",
            provider_id: 1,
            directory: Path::new("symbolon-demo"),
        }
        .to_string();
        let lines: Vec<_> = text.lines().filter(|it| it.starts_with("curl ")).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines.iter().all(|it| it.contains("Bearer sym_x")), "{text}");
    }
}
