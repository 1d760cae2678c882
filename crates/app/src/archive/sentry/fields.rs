//! Columns as Django writes them, in every version.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chrono::{DateTime, Datelike as _, NaiveDateTime, SubsecRound as _, Utc};
use serde_json::{Map, Value};
use symbolon_domain::ids::{InvalidId, UserId};

use crate::archive::report::Reason;

/// The key under which Sentry keeps what it encrypts, and how that begins when it does not.
const WRAPPED: &str = "sentry_encrypted_field_value";
const ENCRYPTED: &str = "enc:";
const WRAPPED_PLAIN: &str = "enc:plaintext:";

/// The columns of one row.
pub(super) struct Fields(Map<String, Value>);

/// A column with JSON in it.
pub(super) enum Json {
    Object(Map<String, Value>),
    /// Sentry's key is needed to read it.
    Encrypted,
}

/// A column cannot be what it has to be. Never quotes it.
fn must_be(name: &str, what: &str) -> Reason {
    Reason::malformed(format!("{name}: must be {what}"))
}

/// A whole number, also as text.
pub(super) fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

impl Fields {
    pub(super) fn new(fields: Value) -> Result<Self, Reason> {
        match fields {
            Value::Object(fields) => Ok(Self(fields)),
            _ => Err(must_be("fields", "an object")),
        }
    }

    fn take(&mut self, name: &str) -> Value {
        self.0.remove(name).unwrap_or_default()
    }

    /// The first of these columns that is there.
    pub(super) fn reference(&mut self, names: &[&'static str]) -> Result<i64, Reason> {
        let value = names.iter().map(|it| self.take(it)).find(|it| !it.is_null());
        integer(&value.unwrap_or_default()).ok_or_else(|| must_be(names[0], "the id of a row"))
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, name: &'static str, max: usize) -> Result<String, Reason> {
        match self.take(name) {
            Value::String(text)
                if (1..=max).contains(&text.chars().count())
                    && !text.chars().any(char::is_control) =>
            {
                Ok(text)
            }
            _ => Err(must_be(name, &format!("1 to {max} characters and no control character"))),
        }
    }

    /// A text that may be empty or absent; a number counts as its decimal text.
    pub(super) fn maybe_text(
        &mut self,
        name: &'static str,
        max: usize,
    ) -> Result<Option<String>, Reason> {
        let text = match self.take(name) {
            Value::Null => return Ok(None),
            Value::String(text) => text,
            Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
            _ => return Err(must_be(name, "a text")),
        };
        if text.chars().count() <= max && !text.chars().any(char::is_control) {
            Ok(Some(text))
        } else {
            Err(must_be(name, &format!("at most {max} characters and no control character")))
        }
    }

    /// A name that is opaque to us; a number counts as its decimal text.
    pub(super) fn opaque<T>(
        &mut self,
        names: &[&'static str],
        new: impl FnOnce(String) -> Result<T, InvalidId>,
    ) -> Result<T, Reason> {
        let value = names.iter().map(|it| self.take(it)).find(|it| !it.is_null());
        let text = match value.unwrap_or_default() {
            Value::String(text) => text,
            Value::Number(number) if number.is_i64() || number.is_u64() => number.to_string(),
            Value::Null => return Err(must_be(names[0], "there")),
            _ => return Err(must_be(names[0], "a text or a whole number")),
        };
        new(text).map_err(|error| Reason::malformed(format!("{}: {error}", names[0])))
    }

    pub(super) fn user(&mut self) -> Result<UserId, Reason> {
        self.opaque(&["user", "user_id"], UserId::new)
    }

    /// A JSON object, also as text, also as Sentry wraps it.
    pub(super) fn json(&mut self, name: &'static str) -> Result<Json, Reason> {
        let mut value = self.take(name);
        // A text of JSON, which may itself have been written as a text of JSON.
        for _ in 0..3 {
            value = match value {
                Value::Null => return Ok(Json::Object(Map::new())),
                Value::Object(object) => match object.get(WRAPPED).and_then(Value::as_str) {
                    Some(wrapped) if object.len() == 1 => match unwrapped(wrapped) {
                        Some(value) => value,
                        None => return Ok(Json::Encrypted),
                    },
                    _ => return Ok(Json::Object(object)),
                },
                Value::String(text) if text.is_empty() => return Ok(Json::Object(Map::new())),
                Value::String(text) if text.starts_with(ENCRYPTED) => match unwrapped(&text) {
                    Some(value) => value,
                    None => return Ok(Json::Encrypted),
                },
                Value::String(text) => serde_json::from_str(&text)
                    .map_err(|_| must_be(name, "a JSON object, or the text of one"))?,
                _ => break,
            }
        }
        match value {
            Value::Object(object) => Ok(Json::Object(object)),
            _ => Err(must_be(name, "a JSON object, or the text of one")),
        }
    }

    /// Texts: a list, the text of a JSON list, or the text of a PostgreSQL array.
    pub(super) fn texts(&mut self, name: &'static str) -> Result<Vec<String>, Reason> {
        let wrong = || must_be(name, "a list of texts");
        let list = match self.take(name) {
            Value::Null => return Ok(Vec::new()),
            Value::Array(list) => list,
            Value::String(text) if text.trim().is_empty() => return Ok(Vec::new()),
            Value::String(text) => {
                if let Some(texts) = postgres_array(text.trim()) {
                    return Ok(texts);
                }
                serde_json::from_str(&text).map_err(|_| wrong())?
            }
            _ => return Err(wrong()),
        };
        let text = |value| match value {
            Value::String(text) => Ok(text),
            _ => Err(wrong()),
        };
        list.into_iter().map(text).collect()
    }

    pub(super) fn maybe_time(
        &mut self,
        name: &'static str,
    ) -> Result<Option<DateTime<Utc>>, Reason> {
        let read = match self.take(name) {
            Value::Null => return Ok(None),
            Value::String(text) => time(&text),
            _ => None,
        };
        read.map(Some).ok_or_else(|| must_be(name, "a time such as 2020-01-31T12:00:00Z"))
    }

    pub(super) fn time(&mut self, name: &'static str) -> Result<DateTime<Utc>, Reason> {
        self.maybe_time(name)?.ok_or_else(|| must_be(name, "there"))
    }

    pub(super) fn maybe_bool(&mut self, name: &'static str) -> Result<Option<bool>, Reason> {
        match self.take(name) {
            Value::Null => Ok(None),
            Value::Bool(it) => Ok(Some(it)),
            _ => Err(must_be(name, "true or false")),
        }
    }

    pub(super) fn maybe_integer(&mut self, name: &'static str) -> Result<Option<i64>, Reason> {
        match self.take(name) {
            Value::Null => Ok(None),
            value => integer(&value).map(Some).ok_or_else(|| must_be(name, "a whole number")),
        }
    }
}

/// What Sentry's wrapping without encryption holds.
fn unwrapped(text: &str) -> Option<Value> {
    let plain = STANDARD.decode(text.strip_prefix(WRAPPED_PLAIN)?).ok()?;
    serde_json::from_slice(&plain).ok()
}

/// A time as Django writes it, with or without a fraction and an offset; UTC without one.
fn time(text: &str) -> Option<DateTime<Utc>> {
    let text = text.trim().replacen(' ', "T", 1);
    let time = DateTime::parse_from_rfc3339(&text).map(|it| it.to_utc()).ok().or_else(|| {
        let without = NaiveDateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f").ok();
        without.map(|it| it.and_utc()).or_else(|| {
            DateTime::parse_from_str(&text, "%Y-%m-%dT%H:%M:%S%.f%#z").map(|it| it.to_utc()).ok()
        })
    })?;
    // What both databases keep.
    (1..=9999).contains(&time.year()).then(|| time.trunc_subsecs(6))
}

/// The texts of `{a,"b c"}`.
fn postgres_array(text: &str) -> Option<Vec<String>> {
    let mut rest = text.strip_prefix('{')?.strip_suffix('}')?.chars().peekable();
    let mut texts = Vec::new();
    if rest.peek().is_none() {
        return Some(texts);
    }
    loop {
        let mut item = String::new();
        if rest.next_if_eq(&'"').is_some() {
            loop {
                match rest.next()? {
                    '"' => break,
                    '\\' => item.push(rest.next()?),
                    other => item.push(other),
                }
            }
        } else {
            while let Some(it) = rest.next_if(|it| *it != ',') {
                // A colon outside of quotes is no array of ours but JSON.
                if matches!(it, '"' | '{' | '}') {
                    return None;
                }
                item.push(it);
            }
            if item.is_empty() {
                return None;
            }
        }
        texts.push(item);
        match rest.next() {
            None => return Some(texts),
            Some(',') => {}
            Some(_) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn fields(value: &Value) -> Fields {
        Fields::new(json!({ "it": value })).ok().unwrap()
    }

    #[test]
    fn times_are_read_in_every_form_that_django_writes() {
        for (text, expected) in [
            ("2020-01-31T12:00:00Z", "2020-01-31T12:00:00Z"),
            ("2020-01-31T12:00:00.123Z", "2020-01-31T12:00:00.123Z"),
            ("2020-01-31T12:00:00.123456789+00:00", "2020-01-31T12:00:00.123456Z"),
            ("2020-01-31T14:00:00+02:00", "2020-01-31T12:00:00Z"),
            ("2020-01-31T12:00:00", "2020-01-31T12:00:00Z"),
            ("2020-01-31 12:00:00.5", "2020-01-31T12:00:00.500Z"),
            ("2020-01-31 12:00:00+00", "2020-01-31T12:00:00Z"),
        ] {
            let read = fields(&json!(text)).time("it").unwrap();
            assert_eq!(read, expected.parse::<DateTime<Utc>>().unwrap(), "{text}");
        }
        for wrong in [
            json!("yesterday"),
            json!(5),
            json!("2020-13-01T00:00:00Z"),
            json!("+99999-01-01T00:00:00Z"),
        ] {
            assert!(fields(&wrong).time("it").is_err(), "{wrong}");
        }
        assert_eq!(fields(&Value::Null).maybe_time("it").unwrap(), None);
    }

    #[test]
    fn lists_of_texts_are_read_in_every_form() {
        for (value, expected) in [
            (json!(["a", "b c"]), vec!["a", "b c"]),
            (json!("[\"a\"]"), vec!["a"]),
            (json!("{a,\"b c\",\"d\\\"e\"}"), vec!["a", "b c", "d\"e"]),
            (json!("{repo:status}"), vec!["repo:status"]),
            (json!("{}"), vec![]),
            (json!(""), vec![]),
            (Value::Null, vec![]),
        ] {
            assert_eq!(fields(&value).texts("it").unwrap(), expected, "{value}");
        }
        for wrong in
            [json!([1]), json!({"a": 1}), json!("a"), json!("{\"a\": 1}"), json!("{a,}"), json!(1)]
        {
            assert!(fields(&wrong).texts("it").is_err(), "{wrong}");
        }
    }

    #[test]
    fn json_is_read_as_value_as_text_and_as_sentry_wraps_it() {
        let object = |value| match fields(&value).json("it") {
            Ok(Json::Object(object)) => Some(Value::Object(object)),
            _ => None,
        };
        let plain = format!("enc:plaintext:{}", STANDARD.encode("{\"a\": 1}"));
        for value in [
            json!({"a": 1}),
            json!("{\"a\": 1}"),
            json!("\"{\\\"a\\\": 1}\""),
            json!({ WRAPPED: plain }),
            json!(json!({ WRAPPED: plain }).to_string()),
        ] {
            assert_eq!(object(value.clone()), Some(json!({"a": 1})), "{value}");
        }
        assert_eq!(object(Value::Null), Some(json!({})));
        assert_eq!(object(json!("")), Some(json!({})));
        for value in [
            json!({ WRAPPED: "enc:fernet:key:gAAAA" }),
            json!("enc:fernet:key:gAAAA"),
            json!({ WRAPPED: "enc:plaintext:canary" }),
        ] {
            assert!(matches!(fields(&value).json("it"), Ok(Json::Encrypted)), "{value}");
        }
        for value in [json!([]), json!(1), json!("canary"), json!("[]")] {
            let reason = fields(&value).json("it").err().unwrap();
            assert_eq!(reason.text, "it: must be a JSON object, or the text of one");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", array in "\\{[a\",\\\\{}]*\\}") {
            for text in [text, array] {
                let _ = time(&text);
                let _ = postgres_array(&text);
                let _ = unwrapped(&text);
                let _ = fields(&json!(text.clone())).json("it").is_ok();
                let _ = fields(&json!(text)).texts("it").is_ok();
            }
        }
    }
}
