//! The two small languages of entries: pointers into the facts, and texts made of parts.

use std::{borrow::Cow, fmt::Write as _};

use serde::Deserialize;
use serde_json::Value;

/// What stands for the token in the address at which it is revoked.
pub(crate) const TOKEN: &str = "token";

/// Names a value of the facts: a JSON pointer
/// ([RFC 6901](https://www.rfc-editor.org/rfc/rfc6901)) in which `[key=value]` takes the first
/// element of a list whose member `key` is `value`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Pointer(Vec<Step>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Step {
    Name(String),
    Where { key: String, value: String },
}

impl TryFrom<String> for Pointer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl Pointer {
    fn parse(text: &str) -> Result<Self, String> {
        let Some(steps) = text.strip_prefix('/') else {
            return Err(format!("{text} is no pointer: it must begin with /"));
        };
        steps.split('/').map(Step::parse).collect::<Result<_, _>>().map(Self)
    }

    /// The first name in it.
    pub(crate) fn root(&self) -> &str {
        match self.0.first() {
            Some(Step::Name(name)) => name,
            _ => "",
        }
    }

    /// What it names; `None` when there is no such thing, or null.
    pub(crate) fn find<'a>(&self, facts: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(facts, |at, step| step.of(at)).filter(|it| !it.is_null())
    }
}

impl Pointer {
    /// Whether it names something that is taken out of a token answer.
    pub(crate) fn is_of_secret(&self) -> bool {
        matches!(self.0.last(), Some(Step::Name(name)) if is_secret(name))
    }
}

/// Whether a member of this name could be a credential: what is called a token, a secret, a
/// password or a code is none of the facts, whatever it is in truth.
pub(crate) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name != "token_type"
        && ["token", "secret", "password", "assertion"].iter().any(|it| name.contains(it))
        || name == "code"
}

impl Step {
    fn parse(text: &str) -> Result<Self, String> {
        if let Some(inner) = text.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
            let (key, value) =
                inner.split_once('=').ok_or_else(|| format!("[{inner}] must be [key=value]"))?;
            return Ok(Self::Where { key: key.to_owned(), value: value.to_owned() });
        }
        if text.is_empty() {
            return Err("a pointer must have no empty step".into());
        }
        Ok(Self::Name(text.replace("~1", "/").replace("~0", "~")))
    }

    fn of<'a>(&self, at: &'a Value) -> Option<&'a Value> {
        match (self, at) {
            (Self::Name(name), Value::Object(object)) => object.get(name),
            (Self::Name(index), Value::Array(items)) => items.get(index.parse::<usize>().ok()?),
            (Self::Where { key, value }, Value::Array(items)) => items
                .iter()
                .find(|it| it.get(key).and_then(text).is_some_and(|own| own == value.as_str())),
            _ => None,
        }
    }
}

/// A text, a number or a boolean as text; nothing else is one, and neither is the empty text.
pub(crate) fn text(value: &Value) -> Option<Cow<'_, str>> {
    match value {
        Value::String(text) if text.is_empty() => None,
        Value::String(text) => Some(Cow::Borrowed(text)),
        Value::Number(number) => Some(Cow::Owned(number.to_string())),
        Value::Bool(yes) => Some(Cow::Borrowed(if *yes { "true" } else { "false" })),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A text made of parts: `https://{host}/api`, `{/token/team/id}:{/profile/id}`. One that begins
/// with `/` is a pointer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Parameter(String),
    Fact(Pointer),
}

impl TryFrom<String> for Template {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

/// Where the values of a template come from.
pub(crate) trait Values {
    /// The value of a parameter.
    fn parameter(&self, name: &str) -> Option<Cow<'_, str>>;
    /// All facts; null where there are none yet.
    fn facts(&self) -> &Value;
}

impl Template {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self { parts: vec![Part::Fact(Pointer::parse(text)?)] });
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (name, after) =
                after.split_once('}').ok_or_else(|| format!("{text}: a brace is not closed"))?;
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            parts.push(if name.starts_with('/') {
                Part::Fact(Pointer::parse(name)?)
            } else if is_name(name) {
                Part::Parameter(name.to_owned())
            } else {
                return Err(format!("{text}: {{{name}}} is neither a parameter nor a pointer"));
            });
            rest = after;
        }
        if rest.contains('}') {
            return Err(format!("{text}: a brace is not opened"));
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        Ok(Self { parts })
    }

    /// The parameters that it uses.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|it| match it {
            Part::Parameter(name) => Some(name.as_str()),
            _ => None,
        })
    }

    /// The facts that it uses.
    pub(crate) fn pointers(&self) -> impl Iterator<Item = &Pointer> {
        self.parts.iter().filter_map(|it| match it {
            Part::Fact(pointer) => Some(pointer),
            _ => None,
        })
    }

    /// The names of parameters that stand in the host of this address, and whether a fact does.
    pub(crate) fn host_parts(&self) -> (Vec<&str>, bool) {
        let (mut names, mut fact) = (Vec::new(), false);
        // Before the first slash after the scheme. What begins the template brings its scheme along.
        let mut seen = String::new();
        for (index, part) in self.parts.iter().enumerate() {
            let in_host = || {
                let host = seen.split_once("://").map(|(_, it)| it);
                index > 0 && host.is_some_and(|it| !it.contains(['/', '?']))
            };
            match part {
                Part::Text(text) => seen.push_str(text),
                Part::Parameter(name) => {
                    if in_host() {
                        names.push(name.as_str());
                    }
                    seen.push_str(if index == 0 { "x://x" } else { "x" });
                }
                Part::Fact(_) => {
                    fact |= index == 0 || in_host();
                    seen.push_str(if index == 0 { "x://x" } else { "x" });
                }
            }
        }
        (names, fact)
    }

    /// What begins it, where that is a parameter: an origin.
    pub(crate) fn origin(&self) -> Option<&str> {
        match self.parts.first() {
            Some(Part::Parameter(name)) => Some(name),
            _ => None,
        }
    }

    /// The text with examples in its gaps.
    pub(crate) fn sample<'a>(&self, example: impl Fn(&str) -> Option<&'a str>) -> String {
        let mut text = String::new();
        for (index, part) in self.parts.iter().enumerate() {
            match part {
                Part::Text(own) => text.push_str(own),
                Part::Parameter(name) => text.push_str(example(name).unwrap_or("x")),
                Part::Fact(_) if index == 0 => text.push_str("https://x.example"),
                Part::Fact(_) => text.push('x'),
            }
        }
        text
    }

    /// The text; `None` when a part has no value.
    pub(crate) fn fill(&self, values: &impl Values) -> Option<String> {
        self.fill_with(values, |_, value, text| {
            text.push_str(value);
            Some(())
        })
    }

    /// Whether the text is what this template makes of some facts or other, each a name without a
    /// slash.
    pub(crate) fn could_be(&self, text: &str, values: &impl Values) -> bool {
        let mut rest = text;
        let mut open = false;
        for part in &self.parts {
            let fixed = match part {
                Part::Text(own) => Some(Cow::Borrowed(own.as_str())),
                Part::Parameter(name) => match values.parameter(name) {
                    Some(value) => Some(value),
                    None => return false,
                },
                Part::Fact(_) => None,
            };
            let Some(fixed) = fixed else {
                open = true;
                continue;
            };
            let at = if open { rest.find(&*fixed) } else { Some(0) };
            let Some((gap, from)) = at.and_then(|it| rest.split_at_checked(it)) else {
                return false;
            };
            let (true, Some(after)) = (!open || is_name_of_one(gap), from.strip_prefix(&*fixed))
            else {
                return false;
            };
            (rest, open) = (after, false);
        }
        if open { is_name_of_one(rest) } else { rest.is_empty() }
    }

    /// An address: every value but one that begins it is percent-encoded, so that none reaches
    /// beyond its place; `.` and `..` have no place at all, as they climb even when encoded.
    pub(crate) fn fill_url(&self, values: &impl Values) -> Option<String> {
        self.fill_with(values, |index, value, text| {
            match value {
                "." | ".." => return None,
                _ if index == 0 => text.push_str(value),
                _ => percent_encode(value, text),
            }
            Some(())
        })
    }

    fn fill_with(
        &self,
        values: &impl Values,
        append: impl Fn(usize, &str, &mut String) -> Option<()>,
    ) -> Option<String> {
        let mut filled = String::new();
        for (index, part) in self.parts.iter().enumerate() {
            match part {
                Part::Text(text) => filled.push_str(text),
                Part::Parameter(name) => append(index, &values.parameter(name)?, &mut filled)?,
                Part::Fact(pointer) => {
                    append(index, &text(pointer.find(values.facts())?)?, &mut filled)?;
                }
            }
        }
        Some(filled)
    }
}

fn is_name_of_one(text: &str) -> bool {
    !text.is_empty() && !text.contains(['/', '?', '#'])
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|it| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'_'))
}

/// Encodes everything but the unreserved characters of
/// [RFC 3986 §2.3](https://www.rfc-editor.org/rfc/rfc3986#section-2.3).
fn percent_encode(value: &str, text: &mut String) {
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            _ => {
                // Writing to a String does not fail.
                let _ = write!(text, "%{byte:02X}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;
    use url::Url;

    use super::*;

    struct Fixed(Value);

    impl Values for Fixed {
        fn parameter(&self, name: &str) -> Option<Cow<'_, str>> {
            self.0.get("parameters")?.get(name)?.as_str().map(Cow::Borrowed)
        }

        fn facts(&self) -> &Value {
            &self.0
        }
    }

    fn pointer(text: &str) -> Pointer {
        Pointer::parse(text).unwrap()
    }

    #[test]
    fn a_pointer_goes_through_objects_and_lists() {
        let facts = json!({
            "token": {"team": {"id": "T1"}, "a/b": 1, "none": null},
            "emails": [{"email": "a", "primary": false}, {"email": "b", "primary": true}],
        });
        let find = |text: &str| pointer(text).find(&facts).cloned();
        assert_eq!(find("/token/team/id"), Some(json!("T1")));
        assert_eq!(find("/token/a~1b"), Some(json!(1)));
        assert_eq!(find("/emails/0/email"), Some(json!("a")));
        assert_eq!(find("/emails/[primary=true]/email"), Some(json!("b")));
        for absent in ["/token/none", "/token/team/id/x", "/emails/[primary=no]/email", "/emails/9"]
        {
            assert_eq!(find(absent), None, "{absent}");
        }
        for malformed in ["", "token", "/a//b", "/[a]"] {
            assert!(Pointer::parse(malformed).is_err(), "{malformed}");
        }
    }

    #[test]
    fn a_template_has_no_value_when_one_of_its_parts_has_none() {
        let values = Fixed(json!({"parameters": {"host": "a"}, "token": {"id": 7, "empty": ""}}));
        let fill = |text: &str| Template::parse(text).unwrap().fill(&values);
        assert_eq!(fill("{host}:{/token/id}").as_deref(), Some("a:7"));
        assert_eq!(fill("/token/id").as_deref(), Some("7"));
        for none in ["{other}", "{host}{/token/x}", "/token/empty", "/token"] {
            assert_eq!(fill(none), None, "{none}");
        }
        for malformed in ["{", "}", "a{b", "{A}", "{}", "a}b"] {
            assert!(Template::parse(malformed).is_err(), "{malformed}");
        }
    }

    #[test]
    fn what_stands_in_a_host_is_known() {
        let hosts = |text: &str| {
            let template = Template::parse(text).unwrap();
            let (names, fact) = template.host_parts();
            (names.join(","), fact)
        };
        assert_eq!(hosts("https://{a}.x.example/{b}"), ("a".to_owned(), false));
        assert_eq!(hosts("https://x.example/{a}?b={c}"), (String::new(), false));
        assert_eq!(hosts("https://x{a}{b}/c"), ("a,b".to_owned(), false));
        assert_eq!(hosts("{origin}/a/{b}"), (String::new(), false));
        assert_eq!(hosts("{/token/url}/a"), (String::new(), true));
        assert_eq!(hosts("https://{/token/dc}.x.example/a"), (String::new(), true));
        assert_eq!(hosts("https://x.example/{/token/id}"), (String::new(), false));
    }

    #[test]
    fn a_text_could_be_a_template_with_some_facts() {
        let values = Fixed(json!({"parameters": {"host": "login.example"}}));
        let template = Template::parse("https://{host}/{/claims/tid}/v2.0").unwrap();
        assert!(template.could_be("https://login.example/tenant-1/v2.0", &values));
        for other in [
            "https://login.example//v2.0",
            "https://login.example/a/b/v2.0",
            "https://login.example/a/v2.0/",
            "https://login.example/a",
            "https://evil.example/a/v2.0",
            "https://login.example/a?/v2.0",
            "",
        ] {
            assert!(!template.could_be(other, &values), "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_value_leaves_its_place_in_an_address(value in "\\PC{1,40}") {
            let template = Template::parse("https://x.example/a/{b}/c?d={b}").unwrap();
            let values = Fixed(json!({"parameters": {"b": value}}));
            if let Some(text) = template.fill_url(&values) {
                let url = Url::parse(&text).unwrap();
                prop_assert_eq!(url.host_str(), Some("x.example"));
                prop_assert!(url.path().starts_with("/a/") && url.path().ends_with("/c"));
                prop_assert_eq!(url.path().matches('/').count(), 3);
                prop_assert_eq!(url.query_pairs().count(), 1);
                prop_assert!(url.fragment().is_none());
            } else {
                prop_assert!(value == "." || value == "..");
            }
        }
    }
}
