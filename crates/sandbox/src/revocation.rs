use axum::http::StatusCode;

use crate::{
    answer::Answer,
    client_authentication::authenticate,
    provider::{Provider, Received},
    token::required,
};

/// The revocation endpoint ([RFC 7009 §2](https://www.rfc-editor.org/rfc/rfc7009#section-2)): a
/// token of either kind ends everything that came of the same consent. `token_type_hint` is not
/// needed.
pub(crate) fn revoke(provider: &Provider, received: &Received) -> Answer {
    let client = match authenticate(provider, received) {
        Ok(client) => client,
        Err(refusal) => return *refusal,
    };
    let token = match required(&received.form, "token") {
        Ok(token) => token,
        Err(refusal) => return *refusal,
    };
    let mut grants = provider.grants();
    if grants.client_of(token).is_some_and(|it| it != client.client_id) {
        let why = "the token was issued to another client";
        return Answer::refusal(StatusCode::BAD_REQUEST, "invalid_grant", why);
    }
    // A token that nobody knows is as good as revoked (§2.2).
    let answer = Answer::empty(StatusCode::OK).not_stored();
    if grants.revoke_family_of(token) { answer.commit() } else { answer }
}
