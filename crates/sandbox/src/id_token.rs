use aws_lc_rs::{digest, hmac};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Map, Value, json};

use crate::{
    answer::OTHER_ISSUER, fault::IdTokenFlaw, grants::Issued, provider::Provider, random,
    settings::Client,
};

/// How long an ID token is good for, seconds.
const LIFETIME: u64 = 3600;

/// The ID token that goes with other tokens
/// ([OpenID Connect Core 1.0 §3.1.3.6](https://openid.net/specs/openid-connect-core-1_0.html#CodeIDToken)),
/// at an exchange with the nonce and at a refresh without
/// ([§12.2](https://openid.net/specs/openid-connect-core-1_0.html#RefreshTokenResponse)).
/// `None` when the flaw is that there is none.
pub(crate) fn id_token(
    provider: &Provider,
    client: &Client,
    issued: &Issued,
    nonce: Option<&str>,
    flaw: Option<&IdTokenFlaw>,
) -> Option<String> {
    let mut claims = Map::new();
    if let Some(account) = provider.account(&issued.consent.sub) {
        claims.extend(account.claims.clone());
    }
    let now = provider.clock.now().as_secs();
    let mut set = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    set("iss", provider.issuer.as_str().into());
    set("sub", issued.consent.sub.as_str().into());
    set("aud", client.client_id.as_str().into());
    set("iat", now.into());
    set("exp", (now + LIFETIME).into());
    set("auth_time", issued.consent.auth_time.as_secs().into());
    set("at_hash", half_hash(&issued.access_token).into());
    if let Some(nonce) = nonce {
        set("nonce", nonce.into());
    }

    let keys = provider.keys();
    let key = keys.current();
    let mut header = json!({"typ": "JWT", "alg": key.algorithm().as_str(), "kid": key.kid()});
    if let Some(flaw) = flaw {
        spoil(flaw, &mut header, &mut claims, now);
    }
    let message = format!("{}.{}", encode(&header), encode(&Value::Object(claims)));
    let signature = match flaw {
        Some(IdTokenFlaw::Missing) => return None,
        Some(IdTokenFlaw::AlgNone) => Vec::new(),
        Some(IdTokenFlaw::Hs256) => {
            let secret = client.client_secret.as_deref().unwrap_or_default();
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            hmac::sign(&key, message.as_bytes()).as_ref().to_vec()
        }
        Some(IdTokenFlaw::BadSignature) => key.sign(b"something else"),
        _ => key.sign(message.as_bytes()),
    };
    Some(format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

fn spoil(flaw: &IdTokenFlaw, header: &mut Value, claims: &mut Map<String, Value>, now: u64) {
    let mut set = |name: &str, value: Value| claims.insert(name.to_owned(), value);
    match flaw {
        IdTokenFlaw::OtherSubject => _ = set("sub", "mallory".into()),
        IdTokenFlaw::OtherIssuer => _ = set("iss", OTHER_ISSUER.into()),
        IdTokenFlaw::OtherNonce => _ = set("nonce", random::text().into()),
        IdTokenFlaw::OtherAudience => _ = set("aud", "another-client".into()),
        IdTokenFlaw::Expired => {
            set("iat", (now - 2 * LIFETIME).into());
            set("exp", (now - LIFETIME).into());
        }
        IdTokenFlaw::OtherAccessToken => _ = set("at_hash", half_hash("another").into()),
        IdTokenFlaw::Claim { name, value: Value::Null } => _ = claims.remove(name),
        IdTokenFlaw::Claim { name, value } => _ = set(name, value.clone()),
        IdTokenFlaw::AlgNone => *header = json!({"alg": "none"}),
        IdTokenFlaw::Hs256 => *header = json!({"typ": "JWT", "alg": "HS256"}),
        IdTokenFlaw::UnknownKid => header["kid"] = "unknown".into(),
        IdTokenFlaw::NoKid => _ = header.as_object_mut().and_then(|it| it.remove("kid")),
        IdTokenFlaw::BadSignature | IdTokenFlaw::Missing => {}
    }
}

fn encode(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

/// The left half of the SHA-256, for `at_hash`. Both our algorithms go with SHA-256.
fn half_hash(text: &str) -> String {
    let hash = digest::digest(&digest::SHA256, text.as_bytes());
    URL_SAFE_NO_PAD.encode(&hash.as_ref()[..16])
}
