//! Who somebody is, from the claims of an ID token and of the userinfo endpoint
//! ([OpenID Connect Core 1.0 §5](https://openid.net/specs/openid-connect-core-1_0.html#Claims)).

use serde_json::{Map, Value};
use symbolon_domain::{account::ExternalAccount, ids::ExternalId, ports::ConnectorError};
use url::Url;

use crate::{id_token, untrusted};

/// Longest claim that is kept, in characters; a longer one is left out.
pub(crate) const LONGEST: usize = 2048;

/// Further claims that are kept as they are.
const KEPT: [&str; 2] = ["preferred_username", "locale"];

/// The account that both sets of claims are about. The signed ID token goes first, claim by claim;
/// an address and whether it was verified are taken from the same set.
pub(crate) fn account(
    id_token: &Map<String, Value>,
    userinfo: &Map<String, Value>,
) -> Result<ExternalAccount, ConnectorError> {
    let subject = id_token::subject(id_token).map_err(|why| untrusted("the ID token", why))?;
    let external_id = ExternalId::new(subject)
        .map_err(|_| untrusted("the ID token", "its sub is not 1 to 255 ASCII characters"))?;
    let sources = [id_token, userinfo];
    let find = |name: &str| sources.into_iter().find_map(|it| text(it, name));

    let mut claims = Map::new();
    for name in KEPT {
        if let Some(value) = find(name) {
            claims.insert(name.into(), value.into());
        }
    }
    // Shown in the product's pages one day, so nothing but a web address.
    if let Some(picture) = find("picture").filter(|it| is_web_address(it)) {
        claims.insert("picture".into(), picture.into());
    }
    let mail = sources.into_iter().find_map(|it| text(it, "email").map(|email| (it, email)));
    Ok(ExternalAccount {
        external_id,
        legacy_id: None,
        email: mail.map(|(_, email)| email.to_owned()),
        email_verified: mail.is_some_and(|(source, _)| is_verified(source)),
        name: find("name").map(str::to_owned),
        claims,
    })
}

/// `email_verified` is `true`, or, as some providers have it, the text `"true"`; anything else
/// is not verified.
fn is_verified(claims: &Map<String, Value>) -> bool {
    match claims.get("email_verified") {
        Some(Value::Bool(verified)) => *verified,
        Some(Value::String(text)) => text == "true",
        _ => false,
    }
}

fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a str> {
    let value = claims.get(name)?.as_str()?;
    let fits = !value.is_empty()
        && value.chars().count() <= LONGEST
        && !value.chars().any(char::is_control);
    fits.then_some(value)
}

fn is_web_address(text: &str) -> bool {
    Url::parse(text).is_ok_and(|it| matches!(it.scheme(), "https" | "http"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: &Value) -> Map<String, Value> {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn an_address_counts_as_verified_only_when_the_provider_says_so() {
        for (value, verified) in [
            (json!(true), true),
            (json!("true"), true),
            (json!(false), false),
            (json!("false"), false),
            (json!("True"), false),
            (json!("1"), false),
            (json!("0"), false),
            (json!(1), false),
            (json!(null), false),
            (json!([true]), false),
        ] {
            let claims = map(&json!({"sub": "a", "email": "a@b.example", "email_verified": value}));
            let account = account(&claims, &Map::new()).unwrap();
            assert_eq!(account.email_verified, verified, "{value}");
        }
        let silent = map(&json!({"sub": "a", "email": "a@b.example"}));
        assert!(!account(&silent, &Map::new()).unwrap().email_verified);
    }

    #[test]
    fn one_address_is_not_verified_by_what_is_said_of_another() {
        let id_token = map(&json!({"sub": "a", "email": "victim@b.example"}));
        let userinfo = map(&json!({"sub": "a", "email": "own@b.example", "email_verified": true}));
        let account = account(&id_token, &userinfo).unwrap();
        assert_eq!(account.email.as_deref(), Some("victim@b.example"));
        assert!(!account.email_verified);
    }

    #[test]
    fn claims_of_a_wrong_form_are_left_out() {
        let id_token = map(&json!({
            "sub": "a", "name": "x".repeat(LONGEST + 1), "locale": 1,
            "picture": "javascript:alert(1)", "preferred_username": "a\u{0}b", "email": ["a"],
            "access_token": "canary", "groups": ["admin"],
        }));
        let account = account(&id_token, &Map::new()).unwrap();
        assert_eq!(account.name, None);
        assert_eq!(account.email, None);
        assert_eq!(account.claims, Map::new());
    }

    #[test]
    fn profile_claims_are_picked_from_both_sets() {
        let id_token = map(&json!({"sub": "a", "name": "Alice", "locale": "de"}));
        let userinfo = map(&json!({
            "sub": "a", "name": "Mallory", "preferred_username": "alice",
            "picture": "https://p.example/a.png", "email": "a@b.example", "email_verified": true,
        }));
        let account = account(&id_token, &userinfo).unwrap();
        assert_eq!(account.name.as_deref(), Some("Alice"));
        assert!(account.email_verified);
        assert_eq!(
            Value::Object(account.claims),
            json!({
                "preferred_username": "alice", "locale": "de", "picture": "https://p.example/a.png",
            })
        );
    }
}
