//! A key of the configuration of instances that an entry asks for, and what it admits.

use std::{collections::BTreeMap, fmt, sync::OnceLock};

use regex::Regex;
use serde::Deserialize;
use serde_json::{Value, json};
use url::Url;

/// Characters of a host, to see what a pattern admits.
const NO_HOST: &[&str] =
    &["/", "@", ":", "?", "#", "\\", "a/b", "a@b", "a:b", "a?b", "a#b", "a\\b"];

/// One key of the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Parameter {
    /// What it is.
    pub(crate) description: String,
    /// A value that fits.
    pub(crate) example: String,
    /// A regular expression for the whole value.
    pub(crate) pattern: Option<Pattern>,
    /// The values that there are.
    #[serde(default)]
    pub(crate) one_of: Vec<String>,
    /// What it is when nothing is said; without it the key is required, unless it is optional.
    pub(crate) default: Option<String>,
    /// The same where it follows from what another one is.
    pub(crate) default_by: Option<DefaultBy>,
    /// Whether it may be left out: what is made of it is left out then.
    #[serde(default)]
    pub(crate) optional: bool,
    /// Whether it is sealed.
    #[serde(default)]
    pub(crate) secret: bool,
    /// Whether it decides whose accounts the ids are.
    #[serde(default)]
    pub(crate) authority: bool,
    /// What kind of value it is.
    #[serde(default)]
    pub(crate) kind: ParameterKind,
}

/// A default that follows from another parameter.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DefaultBy {
    /// Which one; it has a list of values.
    pub(crate) parameter: String,
    /// What the default is for each of them.
    pub(crate) values: BTreeMap<String, String>,
}

/// A regular expression for the whole of a value.
///
/// It is compiled when it is needed first and then kept: connectors are made for each call.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "String")]
pub(crate) struct Pattern {
    text: String,
    compiled: OnceLock<Option<Regex>>,
}

impl Pattern {
    /// The expression; `None` when the text is none.
    pub(crate) fn regex(&self) -> Option<&Regex> {
        let compile = || Regex::new(&format!("^(?:{})$", self.text)).ok();
        self.compiled.get_or_init(compile).as_ref()
    }
}

impl fmt::Display for Pattern {
    /// As it is written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<String> for Pattern {
    fn from(text: String) -> Self {
        Self { text, compiled: OnceLock::new() }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Pattern {}

/// Kinds of values.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ParameterKind {
    /// A text.
    #[default]
    Text,
    /// `https://host[:port][/path]`, without a slash at its end.
    Origin,
}

impl Parameter {
    /// Whether this value fits.
    pub(crate) fn admits(&self, value: &str) -> bool {
        if value.is_empty() || value.len() > 2048 || value.chars().any(char::is_control) {
            return false;
        }
        if !self.one_of.is_empty() {
            return self.one_of.iter().any(|it| it == value);
        }
        if self.kind == ParameterKind::Origin {
            let url = Url::parse(value).ok();
            return url.is_some_and(|it| {
                matches!(it.scheme(), "https" | "http")
                    && it.has_host()
                    && it.username().is_empty()
                    && it.password().is_none()
                    && it.query().is_none()
                    && it.fragment().is_none()
            }) && !value.ends_with(['/', '?', '#'])
                && !value.contains(char::is_whitespace);
        }
        self.pattern.as_ref().is_none_or(|it| it.regex().is_some_and(|it| it.is_match(value)))
    }

    /// Whether it may stay unsaid.
    pub(crate) fn may_be_left_out(&self) -> bool {
        self.optional || self.default.is_some() || self.default_by.is_some()
    }

    /// Whether every value is a part of a host.
    pub(crate) fn is_of_a_host(&self) -> bool {
        if !self.one_of.is_empty() {
            return !self.one_of.iter().any(|it| it.contains(['/', '@', ':', '?', '#', '\\']));
        }
        self.pattern.is_some() && !NO_HOST.iter().any(|it| self.admits(it))
    }

    /// What is expected of a value, for people.
    pub(crate) fn expected(&self) -> String {
        if !self.one_of.is_empty() {
            return format!("must be one of {}", self.one_of.join(", "));
        }
        let example = &self.example;
        match (self.kind, &self.pattern) {
            (ParameterKind::Origin, _) => {
                format!("must be an address without a slash at its end, for example {example}")
            }
            (_, Some(pattern)) => format!("must match {pattern}, for example {example}"),
            (_, None) => format!("must be 1 to 2048 characters, for example {example}"),
        }
    }

    /// As a part of a JSON schema.
    pub(crate) fn schema(&self) -> Value {
        let mut schema = json!({
            "type": "string", "minLength": 1, "maxLength": 2048,
            "description": self.description, "examples": [self.example],
        });
        if let Some(object) = schema.as_object_mut() {
            if let Some(pattern) = &self.pattern {
                object.insert("pattern".into(), format!("^(?:{pattern})$").into());
            }
            if !self.one_of.is_empty() {
                object.insert("enum".into(), self.one_of.clone().into());
            }
            if self.kind == ParameterKind::Origin {
                object.insert("format".into(), "uri".into());
            }
            if let Some(default) = &self.default {
                object.insert("default".into(), default.as_str().into());
            }
            if self.secret {
                object.insert("writeOnly".into(), true.into());
            }
        }
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_an_address_and_nothing_more() {
        let origin = Parameter {
            description: String::new(),
            example: String::new(),
            pattern: None,
            one_of: Vec::new(),
            default: None,
            default_by: None,
            optional: false,
            secret: false,
            authority: true,
            kind: ParameterKind::Origin,
        };
        for fine in ["https://git.example", "https://git.example:8443", "https://a.example/git"] {
            assert!(origin.admits(fine), "{fine}");
        }
        for wrong in [
            "git.example",
            "https://git.example/",
            "https://u:p@git.example",
            "https://git.example?x",
            "https://git.example#x",
            "ftp://git.example",
            "https://git.example /a",
            "",
        ] {
            assert!(!origin.admits(wrong), "{wrong}");
        }
    }
}
