use axum::http::{Method, StatusCode, header};

use crate::{
    answer::Answer,
    endpoint::Endpoint,
    grants::Consent,
    page,
    parameters::{Parameters, words},
    provider::{Provider, Received},
    settings::Client,
};

/// What an authorization request is: the page, or what was answered on it.
pub(crate) fn endpoint(method: &Method, form: &Parameters) -> Endpoint {
    let decided = form.get("account").is_some() || form.get("cancel").is_some();
    if method == Method::POST && decided { Endpoint::Decision } else { Endpoint::Authorize }
}

/// An authorization request that may be put before the user
/// ([RFC 6749 §4.1.1](https://www.rfc-editor.org/rfc/rfc6749#section-4.1.1),
/// [OpenID Connect Core 1.0 §3.1.2.1](https://openid.net/specs/openid-connect-core-1_0.html#AuthRequest)).
struct AuthorizationRequest {
    client: Client,
    redirect_uri: String,
    state: Option<String>,
    scope: Vec<String>,
    nonce: Option<String>,
    code_challenge: String,
    login_hint: Option<String>,
}

/// Shows the page that asks the user.
pub(crate) fn ask(provider: &Provider, received: &Received) -> Answer {
    let mut parameters = received.query.clone();
    parameters.append(received.form.clone());
    let request = match AuthorizationRequest::parse(provider, &parameters) {
        Ok(request) => request,
        Err(refusal) => return *refusal,
    };
    let prompts = parameters.get("prompt").map(words).unwrap_or_default();
    if prompts.iter().any(|it| it == "none") {
        // Nobody is ever signed in here, so there is always something to ask.
        let (error, why) = if prompts.len() == 1 {
            ("login_required", "an account must be chosen on the page")
        } else {
            ("invalid_request", "prompt=none goes with no other")
        };
        return request.refusal(provider, StatusCode::FOUND, error, why);
    }
    let hinted = request.login_hint.as_deref().and_then(|hint| {
        provider.accounts.iter().find(|it| it.sub == hint || it.email.eq_ignore_ascii_case(hint))
    });
    let question = page::Question {
        client_name: &request.client.name,
        redirect_uri: &request.redirect_uri,
        scope: &request.scope,
        accounts: &provider.accounts,
        hinted: hinted.map(|it| it.sub.as_str()),
        action: format!("/authorize?{}", parameters.encoded()),
    };
    Answer::page(StatusCode::OK, page::consent(&question))
        .header(header::CONTENT_SECURITY_POLICY, page::policy_of_consent(&request.redirect_uri))
}

/// Sends the browser back with what was answered: `account=SUB` or `cancel` in the body, the
/// authorization request in the query.
pub(crate) fn decide(provider: &Provider, received: &Received) -> Answer {
    // Another site's page must not answer in the user's place. Every browser says so itself.
    let site = received.headers.get("sec-fetch-site");
    if site.is_some_and(|it| it != "same-origin") {
        let why = "The answer came from another site's page, so it does not count.";
        return Answer::page(StatusCode::FORBIDDEN, page::problem("Not your answer", why));
    }
    let mut form = received.form.clone();
    let (account, cancelled) = (form.take("account"), form.take("cancel").is_some());
    let mut parameters = received.query.clone();
    parameters.append(form);
    let request = match AuthorizationRequest::parse(provider, &parameters) {
        Ok(request) => request,
        Err(refusal) => return *refusal,
    };
    if cancelled {
        let why = "the user did not agree";
        return request.refusal(provider, StatusCode::SEE_OTHER, "access_denied", why);
    }
    let Some(account) = account.as_deref().and_then(|it| provider.account(it)) else {
        let why = "There is no such account in this sandbox. Go back and choose another one.";
        return Answer::page(StatusCode::BAD_REQUEST, page::problem("No such account", why));
    };
    let now = provider.clock.now();
    let consent = Consent {
        client_id: request.client.client_id.clone(),
        sub: account.sub.clone(),
        scope: request.scope.clone(),
        nonce: request.nonce.clone(),
        auth_time: now,
    };
    let code =
        provider.grants().authorize(consent, &request.redirect_uri, &request.code_challenge, now);
    request
        .response(provider, StatusCode::SEE_OTHER, vec![("code".to_owned(), code.clone())])
        .commit()
        .issue("code", &code)
}

impl AuthorizationRequest {
    /// # Errors
    ///
    /// The answer that refuses it: a page while it is not sure where the browser may be sent,
    /// then a redirect ([RFC 6749 §4.1.2.1](https://www.rfc-editor.org/rfc/rfc6749#section-4.1.2.1)).
    fn parse(provider: &Provider, parameters: &Parameters) -> Result<Self, Box<Answer>> {
        let repeated = parameters.repeated();
        if let Some(name @ ("client_id" | "redirect_uri")) = repeated {
            return Err(stop(&format!("The request has {name} more than once.")).into());
        }
        let client_id = parameters.get("client_id");
        let client_id = client_id.ok_or_else(|| stop("The request has no client_id."))?;
        let client = provider.client(client_id);
        let client = client.ok_or_else(|| {
            stop(&format!("No application is registered here as \u{201c}{client_id}\u{201d}."))
        })?;
        let redirect_uri = parameters.get("redirect_uri");
        let redirect_uri = redirect_uri.ok_or_else(|| stop("The request has no redirect_uri."))?;
        if !client.redirect_uris.iter().any(|it| it == redirect_uri) {
            return Err(stop(&format!(
                "The redirect_uri \u{201c}{redirect_uri}\u{201d} is not registered for \
                 \u{201c}{}\u{201d}. It must be the same, character by character.",
                client.name,
            ))
            .into());
        }
        let text = |name| parameters.get(name).map(str::to_owned);
        let asked = text("scope").unwrap_or_default();
        let request = Self {
            redirect_uri: redirect_uri.to_owned(),
            state: text("state"),
            scope: words(&asked).into_iter().filter(|it| provider.scopes.contains(it)).collect(),
            nonce: text("nonce"),
            code_challenge: text("code_challenge").unwrap_or_default(),
            login_hint: text("login_hint"),
            client,
        };
        match request.mistake(parameters) {
            None => Ok(request),
            Some((error, why)) => {
                Err(request.refusal(provider, StatusCode::FOUND, error, why).into())
            }
        }
    }

    fn mistake(&self, parameters: &Parameters) -> Option<(&'static str, &'static str)> {
        if parameters.repeated().is_some() {
            return Some(("invalid_request", "a parameter is there more than once"));
        }
        if parameters.get("request").is_some() {
            return Some(("request_not_supported", "send plain parameters"));
        }
        if parameters.get("request_uri").is_some() {
            return Some(("request_uri_not_supported", "send plain parameters"));
        }
        match parameters.get("response_type") {
            Some("code") => {}
            None => return Some(("invalid_request", "response_type is missing")),
            Some(_) => return Some(("unsupported_response_type", "response_type must be code")),
        }
        if parameters.get("response_mode").is_some_and(|it| it != "query") {
            return Some(("invalid_request", "response_mode must be query"));
        }
        if !self.scope.iter().any(|it| it == "openid") {
            return Some(("invalid_scope", "scope must have openid"));
        }
        if parameters.get("code_challenge_method") != Some("S256") {
            return Some(("invalid_request", "PKCE is required: code_challenge_method=S256"));
        }
        // The S256 of anything is 43 characters of base64url.
        let allowed = |it: u8| it.is_ascii_alphanumeric() || it == b'-' || it == b'_';
        if self.code_challenge.len() != 43 || !self.code_challenge.bytes().all(allowed) {
            return Some(("invalid_request", "code_challenge is no SHA-256 in base64url"));
        }
        None
    }

    fn refusal(&self, provider: &Provider, status: StatusCode, error: &str, why: &str) -> Answer {
        let parameters = [("error", error), ("error_description", why)];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let answer = self.response(provider, status, parameters.to_vec());
        Answer { error: Some(error.to_owned()), ..answer }
    }

    /// The authorization response, with `state` and `iss`
    /// ([RFC 9207 §2](https://www.rfc-editor.org/rfc/rfc9207#section-2)).
    fn response(
        &self,
        provider: &Provider,
        status: StatusCode,
        mut parameters: Vec<(String, String)>,
    ) -> Answer {
        parameters.extend(self.state.iter().map(|it| ("state".to_owned(), it.clone())));
        parameters.push(("iss".to_owned(), provider.issuer.clone()));
        Answer::redirect(status, &self.redirect_uri, parameters).not_stored()
    }
}

fn stop(why: &str) -> Answer {
    let page = page::problem("This request cannot be answered", why);
    let answer = Answer::page(StatusCode::BAD_REQUEST, page);
    Answer { error: Some("invalid_request".to_owned()), ..answer }
}
