//! The shapes of real providers: what each expects and answers, as its documentation has it.
//!
//! A [`Shape`] is a file that knows nothing of the catalog entry that it tries; `docs/catalog.md`
//! describes its form. A [`ShapeServer`] wears one: it stands in for every host of that provider,
//! answers literally what is documented, and writes down what did not fit.

mod matching;
mod server;

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

pub use self::server::{Failing, ShapeServer, TOO_MANY_REQUESTS, Visit};

/// Name and text of every shape that is built in.
const BUILT_IN: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/shapes.rs"));

/// What one provider expects and answers.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shape {
    /// The pages that it was written from.
    pub sources: Vec<String>,
    /// What an operator would configure, secrets included.
    #[serde(default)]
    pub config: Map<String, Value>,
    /// How our client registers itself; then `config` has none.
    pub registration: Option<Expected>,
    /// How that is taken back.
    pub deregistration: Option<Expected>,
    /// The authorization request.
    pub authorize: Option<Authorize>,
    /// The exchange of a code.
    pub token: Option<Expected>,
    /// The second trade of a token that lives longer.
    pub long_lived: Option<Expected>,
    /// The renewal.
    pub refresh: Option<Expected>,
    /// What the token endpoint says to a wrong client secret.
    pub wrong_client: Option<Expected>,
    /// Calls with the access token.
    #[serde(default)]
    pub call: Vec<Expected>,
    /// How a grant is ended, step by step.
    #[serde(default)]
    pub revoke: Vec<Expected>,
    /// What makes it an OpenID provider.
    pub openid: Option<OpenIdShape>,
    /// What has to come out.
    pub expect: Outcome,
}

/// The authorization request that is expected.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorize {
    /// Where.
    pub url: String,
    /// With which parameters; `*` fits anything.
    #[serde(default)]
    pub query: BTreeMap<String, String>,
    /// And without which.
    #[serde(default)]
    pub absent: Vec<String>,
    /// Whether the response is posted.
    #[serde(default)]
    pub form_post: bool,
    /// What else the response brings.
    #[serde(default)]
    pub callback: BTreeMap<String, String>,
}

/// A request that is expected, and its answer.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Expected {
    /// POST for token and refresh and revocation, GET for calls, unless said.
    pub method: Option<String>,
    /// Where; of a refresh, where the exchange was unless said.
    pub url: Option<String>,
    /// Whether client id and secret are in the `Authorization` header.
    pub basic: bool,
    /// Headers that must be there; `*` fits anything.
    pub headers: BTreeMap<String, String>,
    /// The same of parameters of the query.
    pub query: BTreeMap<String, String>,
    /// The same of fields of a form.
    pub form: BTreeMap<String, String>,
    /// The same of members of a JSON object.
    pub json: Map<String, Value>,
    /// Of a call: the resource of the MCP server at `url` that it reads; the body of the answer is
    /// its text then, and comes as a stream of events where the answer's media type says so.
    pub mcp: Option<String>,
    /// Names that must not be there, in query, form or JSON.
    pub absent: Vec<String>,
    /// What is answered.
    pub answer: Answer,
    /// Of a refresh: what is answered to a token that is spent or was revoked.
    pub dead: Option<Answer>,
    /// Of a refresh: whether the token that was used is documented to stay good although the answer
    /// brings another one.
    pub stays_good: bool,
}

/// An answer, literally.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The media type.
    pub content_type: String,
    /// Further headers.
    pub headers: BTreeMap<String, String>,
    /// The body, in which `{{…}}` stand for what is made at run time.
    pub body: String,
    /// Whether it is compressed, whatever the request accepts.
    pub gzip: bool,
}

impl Default for Answer {
    fn default() -> Self {
        Self {
            status: 200,
            content_type: "application/json".into(),
            headers: BTreeMap::new(),
            body: String::new(),
            gzip: false,
        }
    }
}

/// What makes a provider an OpenID provider.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenIdShape {
    /// The claims of its ID tokens: a JSON text.
    pub claims: String,
    /// Where its discovery document is.
    pub discovery_url: Option<String>,
    /// That document: a JSON text.
    pub discovery: Option<String>,
    /// Where its keys are.
    pub jwks_url: Option<String>,
}

/// What has to come out of a link.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Outcome {
    /// The account's id.
    pub external_id: String,
    /// The account's name.
    pub name: Option<String>,
    /// Its address.
    pub email: Option<String>,
    /// Whether the provider says that the address was verified.
    pub email_verified: bool,
    /// In how many seconds the access token ends; absent when nobody knows.
    pub expires_in: Option<u64>,
    /// In how many seconds the refresh token ends unless it is used; absent when it is not looked
    /// at.
    pub refresh_expires_in: Option<u64>,
    /// In how many seconds the grant ends in any case; absent when it is not looked at.
    pub refresh_ends_in: Option<u64>,
    /// What was granted, in any order; absent when it is not looked at.
    pub scopes: Option<Vec<String>>,
    /// What is kept with the account.
    pub keep: BTreeMap<String, Value>,
    /// The older name of the account.
    pub legacy_id: Option<String>,
}

/// A text is no shape: where, and what was expected.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct InvalidShape(String);

impl Shape {
    /// Reads a shape from its TOML text.
    ///
    /// # Errors
    ///
    /// [`InvalidShape`] names the line or the key, and what was expected.
    pub fn parse(text: &str) -> Result<Self, InvalidShape> {
        let shape: Self = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|it| text.get(..it.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            InvalidShape(format!("line {line}: {}", error.message()))
        })?;
        shape.check().map_err(InvalidShape)?;
        Ok(shape)
    }

    fn check(&self) -> Result<(), String> {
        if self.sources.is_empty() {
            return Err("sources must name at least one page".into());
        }
        if self.expect.external_id.is_empty() {
            return Err("expect.external_id is missing".into());
        }
        if self.authorize.is_some() != self.token.is_some() {
            return Err("authorize and token belong together".into());
        }
        let answers = self.token.iter().chain(&self.long_lived).chain(&self.refresh);
        let answers = answers.chain(&self.wrong_client).chain(&self.call).chain(&self.revoke);
        let answers = answers.chain(&self.registration).chain(&self.deregistration);
        for answer in answers.flat_map(|it| it.dead.iter().chain([&it.answer])) {
            for gap in answer.body.split("{{").skip(1) {
                let name = gap.split("}}").next().unwrap_or_default().trim();
                let moment = ["now", "jwt"].into_iter().any(|it| {
                    name.strip_prefix(it)
                        .is_some_and(|it| it.is_empty() || it.parse::<i64>().is_ok())
                });
                if !moment && !matches!(name, "id_token" | "nonce" | "code") {
                    return Err(format!("{{{{{name}}}}} stands for nothing"));
                }
            }
        }
        if let Some(openid) = &self.openid {
            for (key, text) in
                [("claims", Some(&openid.claims)), ("discovery", openid.discovery.as_ref())]
            {
                if text.is_some_and(|it| serde_json::from_str::<Map<String, Value>>(it).is_err()) {
                    return Err(format!("openid.{key} must be the text of a JSON object"));
                }
            }
        }
        if self.registration.is_some() && self.config.contains_key("client_id") {
            return Err("registration: config has a client_id already".into());
        }
        let others = self.token.iter().chain(&self.long_lived).chain(&self.refresh);
        let others = others.chain(&self.revoke).chain(&self.registration);
        if others.chain(&self.deregistration).any(|it| it.mcp.is_some()) {
            return Err("mcp: only a call reads a resource".into());
        }
        for (what, url) in self.addresses() {
            let Some(url) = url else { return Err(format!("{what}.url is missing")) };
            if url::Url::parse(url).ok().is_none_or(|it| it.scheme() != "https") {
                return Err(format!("{what}.url must be an https address"));
            }
        }
        Ok(())
    }

    fn addresses(&self) -> Vec<(&'static str, Option<&str>)> {
        let mut all = Vec::new();
        all.extend(self.registration.iter().map(|it| ("registration", it.url.as_deref())));
        all.extend(self.deregistration.iter().map(|it| ("deregistration", it.url.as_deref())));
        all.extend(self.authorize.iter().map(|it| ("authorize", Some(it.url.as_str()))));
        all.extend(self.token.iter().map(|it| ("token", it.url.as_deref())));
        all.extend(self.long_lived.iter().map(|it| ("long_lived", it.url.as_deref())));
        all.extend(self.call.iter().map(|it| ("call", it.url.as_deref())));
        all.extend(self.revoke.iter().map(|it| ("revoke", it.url.as_deref())));
        all
    }

    /// The names of the shapes that are built in, in order.
    pub fn built_in_names() -> impl Iterator<Item = &'static str> {
        BUILT_IN.iter().map(|(name, _)| *name)
    }

    /// A shape that is built in; `None` when there is none of that name.
    ///
    /// # Errors
    ///
    /// [`InvalidShape`] when it cannot be read, which a test rules out.
    #[must_use]
    pub fn built_in(name: &str) -> Option<Result<Self, InvalidShape>> {
        let (_, text) = BUILT_IN.iter().find(|(own, _)| *own == name)?;
        Some(Self::parse(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shape_that_is_built_in_can_be_read() {
        for name in Shape::built_in_names() {
            if let Some(Err(error)) = Shape::built_in(name) {
                panic!("{name}: {error}");
            }
        }
    }

    #[test]
    fn a_mistake_is_told_with_its_place() {
        let shape = "sources = [\"x\"]\n[token]\nurl = \"https://a.example\"\n[authorize]\nurl = \
                     \"https://a.example\"\n[expect]\nexternal_id = \"1\"\n";
        assert_eq!(Shape::parse(shape).err(), None);
        for (from, to, expected) in [
            ("[token]", "[tokens]", "line 2"),
            ("\"1\"", "\"\"", "external_id"),
            ("[\"x\"]", "[]", "sources"),
            ("url = \"https://a.example\"\n[authorize]", "[authorize]", "token.url"),
            ("https://a", "http://a", "https"),
            ("[expect]", "[registration]\n[expect]", "registration.url"),
            ("[expect]", "[refresh]\nmcp = \"a:b\"\n[expect]", "only a call"),
        ] {
            let error = Shape::parse(&shape.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(expected), "{from} -> {to}: {error}");
        }
    }
}
