use std::{borrow::Cow, collections::BTreeMap};

use serde_json::Value;
use symbolon_domain::secret::Secret;

use super::template::{TOKEN, Values};

/// What an instance's templates are filled with: the parameters of its configuration.
#[derive(Clone, Debug)]
pub(crate) struct Parameters {
    pub(crate) client_id: String,
    pub(crate) plain: BTreeMap<String, String>,
    pub(crate) secret: BTreeMap<String, Secret>,
}

/// Parameters and facts.
pub(crate) struct Filling<'a> {
    pub(crate) parameters: &'a Parameters,
    pub(crate) facts: &'a Value,
}

/// Parameters, and a token in the place of `{token}`.
pub(crate) struct WithToken<'a> {
    filling: Filling<'a>,
    token: &'a str,
}

impl Parameters {
    /// With these facts.
    pub(crate) fn and<'a>(&'a self, facts: &'a Value) -> Filling<'a> {
        Filling { parameters: self, facts }
    }

    /// With a token, for the one address that may hold it.
    pub(crate) fn with_token<'a>(&'a self, token: &'a str) -> WithToken<'a> {
        WithToken { filling: self.alone(), token }
    }

    /// Before there are any facts.
    pub(crate) fn alone(&self) -> Filling<'_> {
        self.and(&Value::Null)
    }
}

impl Values for Filling<'_> {
    fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        let Parameters { client_id, plain, secret } = self.parameters;
        if name == "client_id" {
            return (!client_id.is_empty()).then_some(Cow::Borrowed(client_id));
        }
        let own = plain.get(name).map(String::as_str);
        own.or_else(|| secret.get(name).map(Secret::expose)).map(Cow::Borrowed)
    }

    fn facts(&self) -> &Value {
        self.facts
    }
}

impl Values for WithToken<'_> {
    fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
        if name == TOKEN { Some(Cow::Borrowed(self.token)) } else { self.filling.parameter(name) }
    }

    fn facts(&self) -> &Value {
        self.filling.facts()
    }
}
