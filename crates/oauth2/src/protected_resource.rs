//! What a protected resource says about itself
//! ([RFC 9728](https://www.rfc-editor.org/rfc/rfc9728)), as an
//! [MCP server](https://modelcontextprotocol.io/specification/2025-11-25/basic/authorization) does.

use serde_json::{Map, Value, json};
use symbolon_domain::ports::ConnectorError;
use url::Url;

use crate::{
    http::{HttpClient, HttpError, HttpRequest},
    metadata::{first_document, misconfigured, unavailable, well_known},
};

const NAME: &str = "oauth-protected-resource";

/// Most scopes that are taken over.
const MOST_SCOPES: usize = 100;

/// What it says, checked to be about the address that was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProtectedResource {
    /// Its name of itself, which tokens are for ([RFC 8707](https://www.rfc-editor.org/rfc/rfc8707)).
    pub(crate) resource: String,
    /// Who issues tokens for it, in its order.
    pub(crate) authorization_servers: Vec<String>,
    /// What to ask for; empty where it does not say.
    pub(crate) scopes: Vec<String>,
}

/// What a server wants of somebody without a token
/// ([RFC 9728 §5.1](https://www.rfc-editor.org/rfc/rfc9728#section-5.1)).
#[derive(Debug, Default, PartialEq, Eq)]
struct Challenge {
    resource_metadata: Option<Url>,
    scopes: Vec<String>,
}

impl ProtectedResource {
    /// Finds out about the MCP server at `url`: from where its challenge says, else from the
    /// well-known address for its path, else from the one for its host.
    pub(crate) async fn discover(http: &HttpClient, url: &Url) -> Result<Self, ConnectorError> {
        let what = "MCP server's protected-resource metadata";
        let challenge = challenge(http, url).await?;
        let mut root = url.clone();
        root.set_path("/");
        root.set_query(None);
        let of_path = well_known(url, NAME);
        let mut found = if let Some(told) = &challenge.resource_metadata {
            // Where a server's word is all there is, it must be about that very server: anybody
            // on a host that many share could name a neighbour. What stands at the host's
            // well-known addresses is the host's word.
            let is_hosts = told.origin() == url.origin()
                && told.path().strip_prefix("/.well-known/").is_some_and(|it| {
                    it.strip_prefix(NAME).is_some_and(|it| it.is_empty() || it.starts_with('/'))
                });
            let object = first_document(http, vec![told.clone()], what).await?;
            Self::read(&object, url, is_hosts)?
        } else {
            let object = first_document(http, vec![of_path, well_known(&root, NAME)], what).await?;
            Self::read(&object, url, true)?
        };
        if !challenge.scopes.is_empty() {
            found.scopes = challenge.scopes;
        }
        Ok(found)
    }

    fn read(
        object: &Map<String, Value>,
        url: &Url,
        may_be_wider: bool,
    ) -> Result<Self, ConnectorError> {
        let texts = |name: &str| {
            let items = object.get(name).and_then(Value::as_array);
            items.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned)
        };
        let resource = object.get("resource").and_then(Value::as_str).unwrap_or_default();
        let is_ours = Url::parse(resource).is_ok_and(|it| covers(&it, url, may_be_wider));
        if !is_ours || resource.len() > 2048 {
            return Err(misconfigured(
                "the MCP server's protected-resource metadata are about another resource than its address",
            ));
        }
        let authorization_servers: Vec<String> = texts("authorization_servers").collect();
        if authorization_servers.is_empty() {
            return Err(misconfigured(
                "the MCP server's protected-resource metadata name no authorization server",
            ));
        }
        let scopes = texts("scopes_supported").filter(|it| is_scope(it)).take(MOST_SCOPES);
        Ok(Self { resource: resource.to_owned(), authorization_servers, scopes: scopes.collect() })
    }
}

/// Whether a resource's name is that of the address, or, where it may be wider, of what the address
/// is in: the same origin, and each of its path's segments.
fn covers(resource: &Url, url: &Url, may_be_wider: bool) -> bool {
    let same_place = resource.origin() == url.origin()
        && resource.fragment().is_none()
        && resource.username().is_empty()
        && resource.password().is_none();
    let segments = |it: &Url| it.path().trim_end_matches('/').to_owned();
    let (base, path) = (segments(resource), segments(url));
    let is_same = base == path && resource.query() == url.query();
    let is_in = path.strip_prefix(&base).is_some_and(|it| it.is_empty() || it.starts_with('/'));
    same_place && (is_same || (may_be_wider && is_in && resource.query().is_none()))
}

/// Asks the server as a client without a token does, for what it then wants.
async fn challenge(http: &HttpClient, url: &Url) -> Result<Challenge, ConnectorError> {
    let initialize = json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25", "capabilities": {},
            "clientInfo": {"name": "symbolon", "version": env!("CARGO_PKG_VERSION")},
        },
    });
    let body = initialize.to_string().into_bytes();
    let request = HttpRequest::post(url.clone(), "application/json", body);
    let answer = match http.send(request.accept("application/json, text/event-stream")).await {
        Ok(answer) => answer,
        Err(HttpError::Refused(why)) => return Err(misconfigured(&why)),
        Err(error) => {
            return Err(unavailable(&format!("the MCP server does not answer: {error}")));
        }
    };
    if answer.status != 401 {
        return Ok(Challenge::default());
    }
    Ok(answer.header("www-authenticate").map(Challenge::parse).unwrap_or_default())
}

impl Challenge {
    /// Reads a `WWW-Authenticate` header
    /// ([RFC 9110 §11.6.1](https://www.rfc-editor.org/rfc/rfc9110#section-11.6.1)). Which of its
    /// schemes a parameter belongs to is not looked at: the names are those of Bearer alone.
    fn parse(header: &str) -> Self {
        let scopes = parameter(header, "scope").unwrap_or_default();
        let scopes = scopes.split(' ').filter(|it| is_scope(it)).take(MOST_SCOPES);
        Self {
            resource_metadata: parameter(header, "resource_metadata")
                .and_then(|it| Url::parse(&it).ok()),
            scopes: scopes.map(str::to_owned).collect(),
        }
    }
}

/// The value of the first parameter of this name.
fn parameter(header: &str, name: &str) -> Option<String> {
    let mut rest = header;
    while let Some(at) = rest.find('=') {
        let before = rest[..at].trim_end();
        let found = before.rsplit([' ', ',', '\t']).next().unwrap_or_default();
        let is_it = found.eq_ignore_ascii_case(name);
        let after = rest[at + 1..].trim_start();
        let (value, left) = if let Some(quoted) = after.strip_prefix('"') {
            unquote(quoted)?
        } else {
            let end = after.find([' ', ',', '\t']).unwrap_or(after.len());
            (after[..end].to_owned(), &after[end..])
        };
        if is_it {
            return Some(value);
        }
        rest = left;
    }
    None
}

/// A quoted text up to its closing quote, and what follows.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(characters.next()?.1),
            other => value.push(other),
        }
    }
    None
}

/// [RFC 6749 §3.3](https://www.rfc-editor.org/rfc/rfc6749#section-3.3).
fn is_scope(text: &str) -> bool {
    let fits = |it: u8| matches!(it, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    (1..=255).contains(&text.len()) && text.bytes().all(fits)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_resource_is_the_address_or_what_it_is_in() {
        let at = url("https://mcp.example/a/mcp");
        for (resource, same, within) in [
            ("https://mcp.example/a/mcp", true, true),
            ("https://mcp.example/a/mcp/", true, true),
            ("HTTPS://MCP.EXAMPLE:443/a/mcp", true, true),
            ("https://mcp.example/a", false, true),
            ("https://mcp.example/", false, true),
            ("https://mcp.example", false, true),
            ("https://mcp.example/a/mc", false, false),
            ("https://mcp.example/b", false, false),
            ("https://mcp.example/a/mcp/x", false, false),
            ("https://mcp.example/a/mcp?x", false, false),
            ("https://mcp.example/a/../b", false, false),
            ("https://mcp.example/a/mcp#x", false, false),
            ("https://user@mcp.example/a/mcp", false, false),
            ("http://mcp.example/a/mcp", false, false),
            ("https://mcp.example:8443/a/mcp", false, false),
            ("https://evil.example/a/mcp", false, false),
            ("https://mcp.example.evil.example/a/mcp", false, false),
        ] {
            assert_eq!(covers(&url(resource), &at, false), same, "{resource}");
            assert_eq!(covers(&url(resource), &at, true), within, "{resource}");
        }
    }

    #[test]
    fn a_challenge_is_read_as_the_standard_writes_it() {
        let at = |it: &str| Some(url(it));
        for (header, resource_metadata, scopes) in [
            (r#"Bearer resource_metadata="https://a.example/m""#, at("https://a.example/m"), ""),
            ("Bearer resource_metadata=https://a.example/m", at("https://a.example/m"), ""),
            (
                r#"Basic realm="resource_metadata=\"https://b.example\"", Bearer error="invalid_token", Resource_Metadata = "https://a.example/m", scope="a b""#,
                at("https://a.example/m"),
                "a b",
            ),
            (r#"Bearer xresource_metadata="https://a.example/m""#, None, ""),
            (r#"Bearer resource_metadata="https://a.example/m"#, None, ""),
            (r#"Bearer resource_metadata="not an address", scope=one"#, None, "one"),
            ("Bearer", None, ""),
            ("", None, ""),
        ] {
            let scopes = scopes.split_terminator(' ').map(str::to_owned).collect();
            assert_eq!(
                Challenge::parse(header),
                Challenge { resource_metadata, scopes },
                "{header}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_header_is_read(header in "\\PC{0,200}") {
            let _ = Challenge::parse(&header);
            let _ = Challenge::parse(&format!("Bearer resource_metadata=\"{header}\""));
        }
    }
}
