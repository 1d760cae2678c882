//! Why a link is believed: told with the link, and explained later.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{credentials::Credentials, identity::text_form};

/// Why an account is believed to be a user's. Holds no token and no other secret, and nothing that
/// was not verified.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkEvidence {
    /// How the account came to be linked.
    pub method: LinkMethod,
    /// The checks that had to pass, in their order.
    #[serde(default)]
    pub checks: Vec<LinkCheck>,
    /// Who vouched for the account: the `iss` of the verified ID token.
    #[serde(default)]
    pub issuer: Option<String>,
    /// What the verified ID token says of itself; `None` where the provider issues none.
    #[serde(default)]
    pub id_token: Option<IdTokenEvidence>,
}

/// What a verified ID token says of itself
/// ([OpenID Connect Core 1.0 §2](https://openid.net/specs/openid-connect-core-1_0.html#IDToken)).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdTokenEvidence {
    /// The algorithm of its signature.
    #[serde(default)]
    pub alg: Option<String>,
    /// For whom it was issued.
    #[serde(default)]
    pub aud: Vec<String>,
    /// When it was issued, UTC.
    #[serde(default)]
    pub iat: Option<DateTime<Utc>>,
    /// When the user signed in at the provider, UTC.
    #[serde(default)]
    pub auth_time: Option<DateTime<Utc>>,
    /// How strong that was, in the provider's words.
    #[serde(default)]
    pub acr: Option<String>,
    /// By what means.
    #[serde(default)]
    pub amr: Vec<String>,
    /// The session at the provider, as a [logout](crate::ports::Logout) may name it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
}

/// How an account can come to be linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkMethod {
    /// The user's browser was at the provider and came back.
    Browser,
    /// A trusted caller said so.
    Vouched,
    /// It was taken over from another system.
    Import,
    /// The user confirmed it at the provider on another device (RFC 8628).
    Device,
}

/// What had to be right before the account was believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LinkCheck {
    /// The response had a `state` of ours that was not used before.
    State,
    /// The browser that came back is the one that left.
    Browser,
    /// An `iss` in the response was the provider's.
    ResponseIssuer,
    /// The code was traded with the verifier of this trip (RFC 7636).
    Pkce,
    /// The ID token's signature is of a key of the issuer.
    IdTokenSignature,
    /// The ID token is of this issuer.
    Issuer,
    /// The ID token is for our client.
    Audience,
    /// The ID token is fresh.
    Expiry,
    /// The ID token was made for this trip.
    Nonce,
    /// The product completed from the session of the user that it was started for.
    Completion,
}

text_form!(LinkMethod:
    Browser = "browser",
    Vouched = "vouched",
    Import = "import",
    Device = "device",
);
text_form!(LinkCheck:
    State = "state",
    Browser = "browser",
    ResponseIssuer = "response_issuer",
    Pkce = "pkce",
    IdTokenSignature = "id_token_signature",
    Issuer = "issuer",
    Audience = "audience",
    Expiry = "expiry",
    Nonce = "nonce",
    Completion = "completion",
);

macro_rules! serde_by_text_form {
    ($($type:ident)*) => {$(
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(self.as_str())
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                let text = String::deserialize(from)?;
                Self::parse(&text).ok_or_else(|| serde::de::Error::custom("is not known"))
            }
        }
    )*};
}

serde_by_text_form!(LinkMethod LinkCheck);

impl LinkEvidence {
    /// Nothing is known but the method.
    #[must_use]
    pub const fn of(method: LinkMethod) -> Self {
        Self { method, checks: Vec::new(), issuer: None, id_token: None }
    }

    /// A browser's trip whose grant was verified: `claims` are those of the verified ID token,
    /// empty where the provider issues none. `named` says whether the response named its issuer.
    #[must_use]
    pub fn of_browser(credentials: &Credentials, claims: &Map<String, Value>, named: bool) -> Self {
        let mut checks = vec![LinkCheck::State, LinkCheck::Browser];
        if named {
            checks.push(LinkCheck::ResponseIssuer);
        }
        checks.push(LinkCheck::Pkce);
        let mut evidence = Self { checks, ..Self::of(LinkMethod::Browser) };
        if evidence.add_id_token(credentials, claims) {
            evidence.checks.push(LinkCheck::Nonce);
        }
        evidence
    }

    /// A grant that the user confirmed on another device, verified: `claims` are as in
    /// [`of_browser`](Self::of_browser). There is no trip, and so no nonce that could be of it.
    #[must_use]
    pub fn of_device(credentials: &Credentials, claims: &Map<String, Value>) -> Self {
        let mut evidence = Self::of(LinkMethod::Device);
        evidence.add_id_token(credentials, claims);
        evidence
    }

    /// Adds what a verified ID token shows, if there is one.
    fn add_id_token(&mut self, credentials: &Credentials, claims: &Map<String, Value>) -> bool {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
        self.issuer = text("iss");
        if self.issuer.is_none() {
            return false;
        }
        self.checks.extend([
            LinkCheck::IdTokenSignature,
            LinkCheck::Issuer,
            LinkCheck::Audience,
            LinkCheck::Expiry,
        ]);
        self.id_token = Some(IdTokenEvidence {
            alg: credentials.id_token.as_ref().and_then(|it| alg(it.expose())),
            aud: texts(claims.get("aud")),
            iat: time(claims.get("iat")),
            auth_time: time(claims.get("auth_time")),
            acr: text("acr"),
            amr: texts(claims.get("amr")),
            sid: text("sid"),
        });
        true
    }

    /// The session at the provider that it began with, where that names it.
    #[must_use]
    pub fn session_id(&self) -> Option<&str> {
        self.id_token.as_ref()?.sid.as_deref().filter(|it| !it.is_empty())
    }

    /// As it is told in the detail of a link's event, under `evidence`.
    #[must_use]
    pub fn told(&self) -> Value {
        json!(self)
    }

    /// Reads [`told`](Self::told) back; `None` when an event tells of none, or in words of a later
    /// version.
    #[must_use]
    pub fn from_detail(detail: &Map<String, Value>) -> Option<Self> {
        serde_json::from_value(detail.get("evidence")?.clone()).ok()
    }
}

/// The signing algorithm in the header of a token that was verified with it.
fn alg(token: &str) -> Option<String> {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next()?).ok()?;
    let header: Map<String, Value> = serde_json::from_slice(&header).ok()?;
    header.get("alg")?.as_str().map(str::to_owned)
}

fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(all)) => {
            all.iter().filter_map(|it| it.as_str().map(str::to_owned)).collect()
        }
        _ => Vec::new(),
    }
}

fn time(value: Option<&Value>) -> Option<DateTime<Utc>> {
    let value = value?;
    #[expect(clippy::cast_possible_truncation, reason = "a cast from float saturates")]
    let seconds = value.as_i64().or_else(|| value.as_f64().map(|it| it as i64))?;
    DateTime::from_timestamp(seconds, 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        secret::Secret,
        testing::fixtures::{self, object},
    };

    fn signed_with(alg: &str) -> Credentials {
        let header = URL_SAFE_NO_PAD.encode(json!({"alg": alg}).to_string());
        let id_token = Secret::new(format!("{header}.canary.canary"));
        Credentials { id_token: Some(id_token), ..fixtures::credentials() }
    }

    #[test]
    fn what_a_verified_id_token_says_is_evidence_and_the_token_is_not() {
        let claims = object(json!({
            "iss": "https://idp.example", "sub": "canary", "aud": ["a", "b"], "nonce": "canary",
            "iat": 1_700_000_000, "auth_time": 1_699_999_990.5, "acr": "high", "amr": ["pwd", 5],
            "sid": "session-1",
        }));
        let evidence = LinkEvidence::of_browser(&signed_with("ES256"), &claims, true);
        let told = evidence.told();
        assert!(!told.to_string().contains("canary"), "{told}");
        assert_eq!(
            told,
            json!({
                "method": "browser",
                "checks": [
                    "state", "browser", "response_issuer", "pkce", "id_token_signature", "issuer",
                    "audience", "expiry", "nonce",
                ],
                "issuer": "https://idp.example",
                "id_token": {
                    "alg": "ES256", "aud": ["a", "b"], "iat": "2023-11-14T22:13:20Z",
                    "auth_time": "2023-11-14T22:13:10Z", "acr": "high", "amr": ["pwd"],
                    "sid": "session-1",
                },
            })
        );
        let detail = Map::from_iter([("evidence".to_owned(), told)]);
        assert_eq!(LinkEvidence::from_detail(&detail), Some(evidence));
    }

    #[test]
    fn a_grant_confirmed_on_another_device_claims_no_trip_and_no_nonce() {
        let claims = object(json!({"iss": "https://idp.example", "sub": "canary", "aud": "a"}));
        let evidence = LinkEvidence::of_device(&signed_with("ES256"), &claims);
        assert_eq!(evidence.method, LinkMethod::Device);
        let checks = ["id_token_signature", "issuer", "audience", "expiry"];
        assert_eq!(evidence.told()["checks"], json!(checks));
        assert_eq!(evidence.issuer.as_deref(), Some("https://idp.example"));
        let without = LinkEvidence::of_device(&fixtures::credentials(), &Map::new());
        assert_eq!(without, LinkEvidence::of(LinkMethod::Device));
    }

    #[test]
    fn without_an_id_token_nothing_is_claimed_of_one() {
        let evidence = LinkEvidence::of_browser(&fixtures::credentials(), &Map::new(), false);
        assert_eq!(evidence.checks, [LinkCheck::State, LinkCheck::Browser, LinkCheck::Pkce]);
        assert_eq!((evidence.issuer, evidence.id_token), (None, None));
    }

    #[test]
    fn an_event_of_an_older_version_tells_of_no_evidence() {
        for detail in [json!({}), json!({"evidence": {"method": "telepathy"}})] {
            assert_eq!(LinkEvidence::from_detail(&object(detail)), None);
        }
    }
}
