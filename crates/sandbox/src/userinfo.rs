use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};

use crate::{
    answer::Answer,
    provider::{Provider, Received},
    settings::Account,
};

/// The userinfo endpoint
/// ([OpenID Connect Core 1.0 §5.3](https://openid.net/specs/openid-connect-core-1_0.html#UserInfo)).
pub(crate) fn claims(provider: &Provider, received: &Received) -> Answer {
    let Some(token) = bearer(&received.headers) else {
        // Who shows no token at all is not told of an error (RFC 6750 §3.1).
        let answer = Answer::text(StatusCode::UNAUTHORIZED, "an access token is needed\n");
        let challenge = HeaderValue::from_static("Bearer realm=\"sandbox\"");
        return answer.header(header::WWW_AUTHENTICATE, challenge);
    };
    let access = provider.grants().access(token, provider.clock.now());
    let Some(access) = access else {
        return refused(
            StatusCode::UNAUTHORIZED,
            "invalid_token",
            "Bearer realm=\"sandbox\", error=\"invalid_token\", \
             error_description=\"the access token is unknown, expired or revoked\"",
        );
    };
    let holds = |scope: &str| access.scope.iter().any(|it| it == scope);
    let account = provider.account(&access.consent.sub).filter(|_| holds("openid"));
    let Some(account) = account else {
        return refused(
            StatusCode::FORBIDDEN,
            "insufficient_scope",
            "Bearer realm=\"sandbox\", error=\"insufficient_scope\", scope=\"openid\"",
        );
    };
    let mut claims: Map<String, Value> = account.claims.clone();
    claims.insert("sub".to_owned(), account.sub.as_str().into());
    if holds("profile") {
        claims.insert("name".to_owned(), account.name.as_str().into());
        claims.insert("preferred_username".to_owned(), account.sub.as_str().into());
        claims.insert("picture".to_owned(), picture(provider, account).into());
    }
    if holds("email") {
        claims.insert("email".to_owned(), account.email.as_str().into());
        claims.insert("email_verified".to_owned(), account.email_verified.into());
    }
    Answer::json(Value::Object(claims)).not_stored()
}

/// The access token in `Authorization`
/// ([RFC 6750 §2.1](https://www.rfc-editor.org/rfc/rfc6750#section-2.1)).
pub(crate) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn picture(provider: &Provider, account: &Account) -> String {
    let place = provider.accounts.iter().position(|it| it.sub == account.sub).unwrap_or_default();
    provider.url(&format!("/avatars/{place}"))
}

fn refused(status: StatusCode, error: &str, challenge: &'static str) -> Answer {
    let answer = Answer { status, ..Answer::json(json!({"error": error})) };
    Answer { error: Some(error.to_owned()), ..answer }
        .header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}
