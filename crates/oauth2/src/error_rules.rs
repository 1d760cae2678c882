//! How a provider's error answers differ from the standard, as data.
//!
//! Providers name the same thing in many ways: GitHub and Slack say 200 to a dead token, Atlassian
//! says `unauthorized_client`, Twitch has no error code at all. [`ErrorRules`] say what such an
//! answer means. They are tried in order, before the general table of the token endpoint; the first
//! that fits decides. What fits none is read as the standard has it.
//!
//! A rule never passes on what the provider sent: its `code` and `advice` are the catalog's own
//! words. Everything is bounded, the rules when they are read and the answer when it is compared.
//!
//! The catalog's own rules are in `error_rules.json`, each with the page that it comes from. How
//! they were chosen: decision 51 and `docs/refresh-failures.md`.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use symbolon_domain::ports::{ConnectorError, Sent};
use url::Url;

pub use crate::catalog::error_rule::{Condition, ErrorClass, ErrorRule, Texts};
use crate::{catalog::is_host, metadata::Issuer};

/// Most rules of one provider.
const MOST_RULES: usize = 64;
/// So much of a value, or of a body, is compared.
const COMPARED: usize = 4096;
/// The set for every provider that is reached as `oidc` and is not known by its host.
const ANY_ISSUER: &str = "oidc";

/// What the error answers of one provider mean, where they depart from the standard.
///
/// Deserialized from a list of rules:
///
/// ```
/// let rules: symbolon_oauth2::ErrorRules = serde_json::from_str(r#"[
///   {
///     "status": [403],
///     "when": [
///       { "at": "/error", "is": "unauthorized_client" },
///       { "at": "/error_description", "is": "refresh_token is invalid" }
///     ],
///     "class": "grant_rejected",
///     "code": "invalid_grant",
///     "source": "https://github.com/raycast/extensions/issues/11836"
///   }
/// ]"#).unwrap();
/// ```
///
/// The clone of a set is the same set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Vec<ErrorRule>")]
pub struct ErrorRules(Arc<[ErrorRule]>);

/// Rules that are none: which one, and what was expected.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct InvalidErrorRules(String);

/// A body as rules see it.
pub(crate) struct Seen<'a> {
    pub(crate) status: u16,
    /// The object that it holds, if it holds one.
    pub(crate) object: Option<&'a Value>,
    /// The bytes, unless they were lost.
    pub(crate) bytes: Option<&'a [u8]>,
}

impl ErrorRules {
    /// No rules: everything is read as the standard has it.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The catalog's rules for a provider type, by its name; none for a type that needs none.
    #[must_use]
    pub fn built_in(provider_type: &str) -> Self {
        BUILT_IN.rules.get(provider_type).cloned().unwrap_or_default()
    }

    /// These rules after `first`, which decide before them.
    pub(crate) fn after(&self, first: Vec<ErrorRule>) -> Self {
        if first.is_empty() {
            return self.clone();
        }
        Self(first.into_iter().chain(self.0.iter().cloned()).collect())
    }

    /// The rules for a provider that is known by its issuer alone: those of the type that the
    /// catalog knows the issuer's host to be, otherwise those that hold for any issuer.
    #[must_use]
    pub fn of_issuer(issuer: &Issuer) -> Self {
        let url = Url::parse(issuer.as_str()).ok();
        let host = url.as_ref().filter(|it| it.scheme() == "https").and_then(Url::host_str);
        let known = host.and_then(|host| BUILT_IN.hosts.iter().find(|(it, _)| is_host(it, host)));
        Self::built_in(known.map_or(ANY_ISSUER, |(_, provider_type)| provider_type))
    }

    /// The first rule that fits.
    pub(crate) fn find(&self, seen: &Seen<'_>) -> Option<&ErrorRule> {
        self.0.iter().find(|it| it.fits(seen))
    }
}

impl ErrorRule {
    /// What the domain is told: words of the catalog alone.
    pub(crate) fn error(&self, endpoint: &str, retry_after: Option<Duration>) -> ConnectorError {
        let unavailable = |sent| ConnectorError::Unavailable {
            detail: format!("{endpoint} answered {}", self.code),
            retry_after,
            sent,
        };
        let code = self.code.clone();
        match self.class {
            ErrorClass::GrantRejected => ConnectorError::GrantRejected { code },
            ErrorClass::ClientRejected => ConnectorError::ClientRejected { code },
            ErrorClass::MayPass => unavailable(Sent::Answered),
            ErrorClass::Unknown => unavailable(Sent::Unknown),
            ErrorClass::AskOperator => ConnectorError::Misconfigured {
                detail: format!(
                    "{endpoint} answered {code}: {}",
                    self.advice.as_deref().unwrap_or_default()
                ),
            },
        }
    }

    fn fits(&self, seen: &Seen<'_>) -> bool {
        let status = if self.status.is_empty() {
            matches!(seen.status, 200..=299 | 400..=499) && !matches!(seen.status, 408 | 425 | 429)
        } else {
            self.status.contains(&seen.status)
        };
        status && self.when.iter().all(|it| it.holds(seen))
    }
}

impl Condition {
    fn holds(&self, seen: &Seen<'_>) -> bool {
        let Some(at) = &self.at else {
            let text = seen.bytes.map(|it| String::from_utf8_lossy(&it[..it.len().min(COMPARED)]));
            return text.is_some_and(|it| self.holds_of(it.trim()));
        };
        match seen.object.and_then(|it| it.pointer(at)) {
            Some(Value::Array(items)) => items.iter().any(|it| self.holds_of_value(it)),
            Some(value) => self.holds_of_value(value),
            None => false,
        }
    }

    fn holds_of_value(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.holds_of(text),
            Value::Number(number) => self.holds_of(&number.to_string()),
            Value::Bool(yes) => self.holds_of(if *yes { "true" } else { "false" }),
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        }
    }

    fn holds_of(&self, text: &str) -> bool {
        let start = &text.as_bytes()[..text.len().min(COMPARED)];
        let begins = |start: &[u8], it: &str| {
            start.get(..it.len()).is_some_and(|own| own.eq_ignore_ascii_case(it.as_bytes()))
        };
        self.is.0.iter().any(|it| it.eq_ignore_ascii_case(text))
            || self.starts_with.0.iter().any(|it| begins(start, it))
            || self.contains.0.iter().any(|it| {
                start.windows(it.len()).any(|own| own.eq_ignore_ascii_case(it.as_bytes()))
            })
    }
}

impl TryFrom<Vec<ErrorRule>> for ErrorRules {
    type Error = InvalidErrorRules;

    fn try_from(rules: Vec<ErrorRule>) -> Result<Self, Self::Error> {
        if rules.len() > MOST_RULES {
            return Err(InvalidErrorRules(format!("must be at most {MOST_RULES} rules")));
        }
        for (index, rule) in rules.iter().enumerate() {
            rule.check().map_err(|why| InvalidErrorRules(format!("rule {index}: {why}")))?;
        }
        Ok(Self(rules.into()))
    }
}

/// The embedded file.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct BuiltIn {
    /// Which provider type an issuer's host is; `*` stands for the beginning.
    hosts: BTreeMap<String, String>,
    /// The rules by provider type.
    rules: BTreeMap<String, ErrorRules>,
}

const FILE: &str = include_str!("error_rules.json");

static BUILT_IN: LazyLock<BuiltIn> = LazyLock::new(|| {
    serde_json::from_str(FILE).unwrap_or_else(|error| {
        // A test reads the file, so this is never reached; without rules the standard holds.
        tracing::error!(%error, "the built in error rules cannot be read");
        BuiltIn::default()
    })
});

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::http::{HttpClient, HttpSettings};

    fn rule(changes: &Value) -> Result<ErrorRules, String> {
        let mut rule = json!({
            "when": [{"at": "/error", "is": "gone"}],
            "class": "grant_rejected", "code": "invalid_grant", "source": "https://x.example",
        });
        for (name, value) in changes.as_object().unwrap() {
            rule[name] = value.clone();
        }
        serde_json::from_value(json!([rule])).map_err(|error| error.to_string())
    }

    fn fits(when: &Value, body: &Value) -> bool {
        let bytes = body.to_string();
        let rules = rule(&json!({"when": when})).unwrap();
        let object = Some(body).filter(|it| it.is_object());
        rules.find(&Seen { status: 400, object, bytes: Some(bytes.as_bytes()) }).is_some()
    }

    #[test]
    fn the_built_in_file_can_be_read_and_names_only_sets_that_it_has() {
        let file: BuiltIn = serde_json::from_str(FILE).unwrap();
        assert!(file.rules.len() > 15 && file.rules.contains_key(ANY_ISSUER));
        for (host, provider_type) in &file.hosts {
            assert!(file.rules.contains_key(provider_type), "{host}");
        }
        for (provider_type, rules) in &file.rules {
            assert!(!rules.0.is_empty(), "{provider_type}");
            for rule in &*rules.0 {
                assert!(rule.source.starts_with("https://"), "{provider_type}: {}", rule.source);
            }
        }
    }

    /// Which rule decides about which answer, so that no rule is there for nothing.
    #[test]
    fn every_built_in_rule_decides_about_a_recorded_answer() {
        let recorded: Value =
            serde_json::from_str(include_str!("../tests/answers/answers.json")).unwrap();
        let recorded = recorded["answers"].as_array().unwrap();
        let file: BuiltIn = serde_json::from_str(FILE).unwrap();
        for (provider_type, rules) in &file.rules {
            let decides = |rule: &ErrorRule| {
                recorded.iter().filter(|it| it["provider"] == **provider_type).any(|it| {
                    let body = it["body"].as_str().map_or(it["body"].to_string(), str::to_owned);
                    let seen = Seen {
                        status: u16::try_from(it["status"].as_u64().unwrap()).unwrap(),
                        object: Some(&it["body"]).filter(|it| it.is_object()),
                        bytes: Some(body.as_bytes()),
                    };
                    rules.find(&seen) == Some(rule)
                })
            };
            for rule in &*rules.0 {
                assert!(decides(rule), "{provider_type}: {rule:#?}");
            }
        }
    }

    #[test]
    fn rules_that_could_end_a_grant_by_chance_or_have_no_bound_are_refused() {
        for (changes, why) in [
            (json!({"when": []}), "a status or a condition"),
            (json!({"when": [], "status": [401]}), "must not end a grant"),
            (json!({"status": [503]}), "must not end a grant"),
            (json!({"status": [429]}), "must not end a grant"),
            (json!({"status": [302]}), "must not end a grant"),
            (json!({"status": [42]}), "from 200 to 599"),
            (json!({"code": ""}), "its code"),
            (json!({"code": "Bad Code"}), "its code"),
            (json!({"code": "a".repeat(65)}), "its code"),
            (json!({"source": ""}), "its source"),
            (json!({"advice": "do it"}), "ask_operator"),
            (json!({"class": "ask_operator"}), "ask_operator"),
            (json!({"when": [{"at": "error", "is": "x"}]}), "JSON pointer"),
            (json!({"when": [{"at": "/error"}]}), "one of is"),
            (json!({"when": [{"at": "/e", "is": "x", "contains": "y"}]}), "one of is"),
            (json!({"when": [{"at": "/error", "is": ""}]}), "no empty one"),
            (json!({"when": [{"at": "/error", "is": "x".repeat(301)}]}), "at most 300"),
            (json!({"when": [{"at": "/error", "is": vec!["x"; 17]}]}), "at most 16"),
            (json!({"when": vec![json!({"is": "x"}); 17]}), "at most 16"),
            (json!({"unheard": 1}), "unknown field"),
            (json!({"class": "fine"}), "unknown variant"),
        ] {
            let error = rule(&changes).unwrap_err();
            assert!(error.contains(why), "{changes}: {error}");
        }
        let many =
            vec![json!({"status": [401], "class": "may_pass", "code": "x", "source": "y"}); 65];
        assert!(serde_json::from_value::<ErrorRules>(json!(many)).is_err());
    }

    #[test]
    fn a_condition_reads_what_it_points_at() {
        let body = json!({
            "error": {"code": 190, "ok": false}, "codes": [1, "two"], "text": "The Token is GONE",
        });
        for (when, expected) in [
            (json!([{"at": "/error/code", "is": "190"}]), true),
            (json!([{"at": "/error/code", "is": "19"}]), false),
            (json!([{"at": "/error/ok", "is": "false"}]), true),
            (json!([{"at": "/error", "is": "190"}]), false),
            (json!([{"at": "/codes", "is": "1"}]), true),
            (json!([{"at": "/codes", "is": ["3", "TWO"]}]), true),
            (json!([{"at": "/codes/0", "is": "two"}]), false),
            (json!([{"at": "/text", "starts_with": "the token"}]), true),
            (json!([{"at": "/text", "starts_with": "token"}]), false),
            (json!([{"at": "/text", "contains": "token is"}]), true),
            (json!([{"at": "/text", "is": "the token is gone"}]), true),
            (json!([{"at": "/absent", "contains": "x"}]), false),
            (json!([{"contains": "gone"}]), true),
            (json!([{"contains": "gone"}, {"at": "/error/code", "is": "1"}]), false),
        ] {
            assert_eq!(fits(&when, &body), expected, "{when}");
        }
        assert!(fits(&json!([{"is": "\"plain\""}]), &json!("plain")));
    }

    #[test]
    fn a_body_is_compared_only_so_far() {
        let far = format!("{}gone", "x".repeat(COMPARED));
        assert!(!fits(&json!([{"at": "/text", "contains": "gone"}]), &json!({"text": far})));
        assert!(!fits(&json!([{"contains": "gone"}]), &json!(far)));
    }

    #[test]
    fn outages_redirects_and_limits_are_only_read_by_rules_that_name_them() {
        let body = json!({"error": "gone"});
        let finds = |rules: &ErrorRules, status| {
            rules.find(&Seen { status, object: Some(&body), bytes: None }).is_some()
        };
        let any = rule(&json!({})).unwrap();
        let named = rule(&json!({"status": [503], "class": "may_pass"})).unwrap();
        for status in [302, 408, 425, 429, 500, 503, 199, 600] {
            assert!(!finds(&any, status), "{status}");
            assert_eq!(finds(&named, status), status == 503, "{status}");
        }
        assert!(finds(&any, 200) && finds(&any, 400) && !finds(&named, 400));
    }

    #[test]
    fn an_issuer_has_the_rules_of_the_provider_that_its_host_is() {
        let http = HttpClient::new(HttpSettings::default()).unwrap();
        let of = |it: &str| ErrorRules::of_issuer(&Issuer::new(it, &http).unwrap());
        for (issuer, provider_type) in [
            ("https://accounts.google.com", "google"),
            ("https://login.microsoftonline.com/common/v2.0", "microsoft"),
            ("https://acme.my.salesforce.com", "salesforce"),
            ("https://slack.com", "slack"),
            ("https://id.twitch.tv/oauth2", "twitch"),
            ("https://my.salesforce.com", "oidc"),
            ("https://slack.com.evil.example", "oidc"),
            ("https://id.example/realms/login.microsoftonline.com", "oidc"),
        ] {
            assert_eq!(of(issuer), ErrorRules::built_in(provider_type), "{issuer}");
        }
        assert_eq!(ErrorRules::built_in("unheard_of"), ErrorRules::none());
    }

    proptest! {
        #[test]
        fn any_body_can_be_compared(bytes in proptest::collection::vec(any::<u8>(), 0..200), text in "\\PC{1,20}") {
            let rules = rule(&json!({"when": [{"contains": text}, {"starts_with": text}]})).unwrap();
            let value = Value::String(text);
            rules.find(&Seen { status: 400, object: Some(&value), bytes: Some(&bytes) });
        }
    }
}
