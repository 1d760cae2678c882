use serde_json::{Value, json};

use crate::{
    answer::Answer,
    client_authentication::authenticate,
    provider::{Provider, Received},
    token::required,
};

/// The introspection endpoint ([RFC 7662 §2](https://www.rfc-editor.org/rfc/rfc7662#section-2)).
/// A client is told of its own tokens only; those of others are inactive to it.
pub(crate) fn introspect(provider: &Provider, received: &Received) -> Answer {
    let client = match authenticate(provider, received) {
        Ok(client) => client,
        Err(refusal) => return *refusal,
    };
    if client.client_secret.is_none() {
        let why = "a public client cannot prove itself, so it is told nothing";
        return Answer::refusal(axum::http::StatusCode::UNAUTHORIZED, "invalid_client", why);
    }
    let token = match required(&received.form, "token") {
        Ok(token) => token,
        Err(refusal) => return *refusal,
    };
    Answer::json(described(provider, &client.client_id, token)).not_stored()
}

fn described(provider: &Provider, client_id: &str, token: &str) -> Value {
    let grants = provider.grants();
    let described = if let Some(access) = grants.access(token, provider.clock.now()) {
        let expires = json!({"token_type": "Bearer", "exp": access.expires_at.as_secs()});
        Some((access.consent, access.scope, expires))
    } else {
        grants.refreshable(token).map(|it| (it.clone(), it.scope, json!({})))
    };
    let own = described.filter(|(consent, ..)| consent.client_id == client_id);
    let Some((consent, scope, mut members)) = own else { return json!({"active": false}) };
    members["active"] = true.into();
    members["client_id"] = consent.client_id.into();
    members["sub"] = consent.sub.into();
    members["scope"] = scope.join(" ").into();
    members["iss"] = provider.issuer.as_str().into();
    members
}
