//! The form of a rule for error answers. What rules do is in [`error_rules`](crate::error_rules);
//! this much of them is known when the catalog is checked, too, before there is a crate.

use serde::Deserialize;

/// Most conditions of one rule, and most texts of one condition.
const MOST_PARTS: usize = 16;
/// Longest text in a rule.
const LONGEST_TEXT: usize = 300;

/// One answer, and what it means.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErrorRule {
    /// With which statuses. Without any: every 2xx that brings no access token, and every 4xx but
    /// 408, 425 and 429. Those three, 3xx and 5xx have to be named.
    #[serde(default)]
    pub status: Vec<u16>,
    /// What all has to hold. Empty only if `status` says something, and never for
    /// [`ErrorClass::GrantRejected`].
    #[serde(default)]
    pub when: Vec<Condition>,
    /// What it means.
    pub class: ErrorClass,
    /// What the failure is called: of `a-z0-9_.-`, at most 64 characters. `invalid_client` stands
    /// for every failure to authenticate the client: the other client secret is tried then
    /// (decision 44).
    pub code: String,
    /// What the operator should do; with [`ErrorClass::AskOperator`], and only there.
    pub advice: Option<String>,
    /// Where this is written: the address of the provider's page or of a public thread.
    pub source: String,
}

/// One thing that has to hold of a body: exactly one of `is`, `starts_with` and `contains`, each
/// one text or several of which one must fit. ASCII capitals make no difference.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Condition {
    /// Which value: a JSON pointer ([RFC 6901](https://www.rfc-editor.org/rfc/rfc6901)). The fields
    /// of a form-encoded body are the members of one object. Numbers and booleans are compared as
    /// their text, and of a list one element has to fit. Without it: the whole body as text, without
    /// spaces around it.
    pub at: Option<String>,
    /// The whole value.
    #[serde(default)]
    pub is: Texts,
    /// How the value begins.
    #[serde(default)]
    pub starts_with: Texts,
    /// What the value holds.
    #[serde(default)]
    pub contains: Texts,
}

/// One text or several.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct Texts(pub(crate) Vec<String>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl From<OneOrMany> for Texts {
    fn from(texts: OneOrMany) -> Self {
        match texts {
            OneOrMany::One(text) => Self(vec![text]),
            OneOrMany::Many(texts) => Self(texts),
        }
    }
}

/// What an error answer means, and so who has to act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The grant is gone: the user has to link again. The only class that makes an identity
    /// invalid.
    GrantRejected,
    /// Our client is rejected: the operator has to act. No identity is harmed.
    ClientRejected,
    /// Nothing happened, and later it may.
    MayPass,
    /// It is not known whether something happened: the refresh token may be spent.
    Unknown,
    /// The provider's administrator or our operator has to change something that is neither the
    /// grant nor our client's credentials. No identity is harmed.
    AskOperator,
}

impl ErrorRule {
    /// Says what is wrong with it.
    pub(crate) fn check(&self) -> Result<(), String> {
        let word = |it: u8| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'.' | b'-');
        if !(1..=64).contains(&self.code.len()) || !self.code.bytes().all(word) {
            return Err("its code must be of a-z0-9_.- and at most 64 characters".into());
        }
        if self.source.is_empty() || self.source.len() > 1024 {
            return Err("it must name its source".into());
        }
        if self.status.len() > MOST_PARTS || self.when.len() > MOST_PARTS {
            return Err(format!("it must have at most {MOST_PARTS} statuses and conditions"));
        }
        if self.status.iter().any(|it| !(200..=599).contains(it)) {
            return Err("its statuses must be from 200 to 599".into());
        }
        if self.when.is_empty() && self.status.is_empty() {
            return Err("it must have a status or a condition".into());
        }
        if self.class == ErrorClass::GrantRejected {
            if self.when.is_empty() {
                return Err("a status alone must not end a grant".into());
            }
            let passing = |it: &u16| matches!(it, 300..=399 | 408 | 425 | 429 | 500..=599);
            if self.status.iter().any(passing) {
                return Err("a redirect, an outage or a limit must not end a grant".into());
            }
        }
        let advice = self.advice.as_deref().map(str::len);
        if (self.class == ErrorClass::AskOperator) != advice.is_some()
            || advice.is_some_and(|it| !(1..=LONGEST_TEXT).contains(&it))
        {
            return Err(format!(
                "ask_operator, and nothing else, must have an advice of at most {LONGEST_TEXT} \
                 characters"
            ));
        }
        self.when.iter().try_for_each(Condition::check)
    }
}

impl Condition {
    fn texts(&self) -> [&Texts; 3] {
        [&self.is, &self.starts_with, &self.contains]
    }

    fn check(&self) -> Result<(), String> {
        let given = self.texts().into_iter().filter(|it| !it.0.is_empty()).collect::<Vec<_>>();
        let [texts] = given[..] else {
            return Err("a condition must have one of is, starts_with and contains".into());
        };
        let fine = |it: &String| (1..=LONGEST_TEXT).contains(&it.len());
        if texts.0.len() > MOST_PARTS || !texts.0.iter().all(fine) {
            return Err(format!(
                "a condition must have at most {MOST_PARTS} texts of at most {LONGEST_TEXT} \
                 characters, and no empty one"
            ));
        }
        if self.at.as_ref().is_some_and(|it| !it.starts_with('/') || it.len() > LONGEST_TEXT) {
            return Err("a condition's at must be a JSON pointer".into());
        }
        Ok(())
    }
}
