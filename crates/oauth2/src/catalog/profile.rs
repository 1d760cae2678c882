//! Whose account it is: the calls of an entry, and what is found in their answers.

use serde_json::{Map, Value, json};
use symbolon_domain::{
    account::ExternalAccount,
    ids::ExternalId,
    ports::{ConnectorError, Grant, Sent},
};
use url::Url;

use super::{
    connector::{CatalogConnector, filled},
    entry::{Alternatives, Call, Confirmation, Method, Pointers},
    mcp_resource::McpResource,
    template::{Pointer, text},
};
use crate::{
    connector::to_domain,
    dpop::Presented,
    http::{HttpRequest, HttpResponse},
    json,
    metadata::misconfigured,
    profile::{self, LONGEST},
    untrusted,
};

/// Why a call has no answer.
pub(super) enum Unanswered {
    /// It is refused to this token: an answer that stays, and may be done without where the call is
    /// optional.
    Refused(ConnectorError),
    /// It failed.
    Failed(ConnectorError),
}

impl From<ConnectorError> for Unanswered {
    fn from(error: ConnectorError) -> Self {
        Self::Failed(error)
    }
}

impl CatalogConnector {
    /// All that is known of a grant: the exchange, the configuration, and the answers to the
    /// entry's calls.
    pub(super) async fn facts(&self, grant: &Grant) -> Result<Value, ConnectorError> {
        let mut facts = grant.facts.clone();
        facts.insert("claims".into(), Value::Object(grant.claims.clone()));
        facts.insert("config".into(), self.config.clone());
        let Some(access) = Presented::of(&grant.credentials)? else {
            return Ok(Value::Object(facts));
        };
        if let Some(userinfo) = self.userinfo(grant, &access).await? {
            facts.insert("userinfo".into(), Value::Object(userinfo));
        }
        let mut facts = Value::Object(facts);
        for call in &self.entry.profile {
            if let Some(answer) = self.call(call, &access, &facts).await?
                && let Some(facts) = facts.as_object_mut()
            {
                facts.insert(call.name.clone(), answer);
            }
        }
        Ok(facts)
    }

    /// The claims of the userinfo endpoint that discovery names, about the same account.
    async fn userinfo(
        &self,
        grant: &Grant,
        access: &Presented<'_>,
    ) -> Result<Option<Map<String, Value>>, ConnectorError> {
        if !self.entry.openid.as_ref().is_some_and(|it| it.userinfo && it.jwks_uri.is_none()) {
            return Ok(None);
        }
        let metadata = self.metadata().await?;
        let Some(endpoint) = &metadata.userinfo_endpoint else { return Ok(None) };
        let userinfo = self.base.userinfo(endpoint, access, &metadata).await?;
        // OpenID Connect Core 1.0 §5.3.2.
        let subject = userinfo.get("sub").filter(|it| it.is_string());
        if subject.is_none() || subject != grant.claims.get("sub") {
            return Err(untrusted("the userinfo answer", "it is about another account"));
        }
        Ok(Some(userinfo))
    }

    /// The answer to one call; `None` where it may be refused and was.
    async fn call(
        &self,
        call: &Call,
        access: &Presented<'_>,
        facts: &Value,
    ) -> Result<Option<Value>, ConnectorError> {
        let name = &call.name;
        let filling = self.parameters.and(facts);
        let url = call.url.fill_url(&filling).and_then(|it| Url::parse(&it).ok());
        let Some(url) = url else {
            return if call.optional {
                Ok(None)
            } else {
                Err(untrusted("the account", "what its profile's address is made of is missing"))
            };
        };
        if call.url.host_parts().1 {
            self.check_host(&url)?;
        }
        let answered = match &call.mcp {
            Some(uri) => McpResource { connector: self, call, url, uri, access }.read().await,
            None => self.ask(call, url, access).await,
        };
        let value = match answered {
            Ok(value) => value,
            Err(Unanswered::Refused(_)) if call.optional => return Ok(None),
            Err(Unanswered::Refused(error) | Unanswered::Failed(error)) => return Err(error),
        };
        if let Some(ok) = &call.ok
            && !ok.holds(&value)
        {
            if call.optional {
                return Ok(None);
            }
            return Err(misconfigured(&format!(
                "the call {name} was answered with an error: check the scopes of the client"
            )));
        }
        Ok(Some(value))
    }

    async fn ask(
        &self,
        call: &Call,
        url: Url,
        access: &Presented<'_>,
    ) -> Result<Value, Unanswered> {
        if matches!(call.method, Some(Method::Delete | Method::Put)) {
            return Err(misconfigured("a profile call must not change anything").into());
        }
        let make = || self.request(call, url.clone(), access);
        let answer = self.base.engine.send_proven(make, &access.into()).await.map_err(to_domain)?;
        self.check_status(call, &answer)?;
        let body = answer.body.as_ref().ok().and_then(|it| json::value(it).ok());
        Ok(body.ok_or_else(|| self.unreadable(call, &answer))?)
    }

    /// Whether the status is one of an answer.
    pub(super) fn check_status(
        &self,
        call: &Call,
        answer: &HttpResponse,
    ) -> Result<(), Unanswered> {
        let name = &call.name;
        match answer.status {
            200..=299 => Ok(()),
            status @ 400..=499 if !matches!(status, 408 | 425 | 429) => {
                Err(Unanswered::Refused(misconfigured(&format!(
                    "the call {name} was answered with {status}: check that the client may use this \
                     API, and that the scopes suffice for it"
                ))))
            }
            status => {
                let what = format!("the call {name} was answered with {status}");
                Err(self.unavailable(answer, what).into())
            }
        }
    }

    /// What an answer means that may be another one later.
    pub(super) fn unavailable(&self, answer: &HttpResponse, detail: String) -> ConnectorError {
        ConnectorError::Unavailable {
            detail,
            retry_after: answer.retry_after(self.base.engine.clock.now()),
            sent: Sent::Answered,
        }
    }

    pub(super) fn unreadable(&self, call: &Call, answer: &HttpResponse) -> ConnectorError {
        self.unavailable(answer, format!("the answer to the call {} cannot be read", call.name))
    }

    fn request(&self, call: &Call, mut url: Url, access: &Presented<'_>) -> HttpRequest {
        let token = access.token.expose();
        let form = filled(&call.form, &self.parameters.alone());
        let mut form: Vec<(&str, &str)> =
            form.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        match &call.token_parameter {
            Some(name) if form.is_empty() => {
                url.query_pairs_mut().append_pair(name, token);
            }
            Some(name) => form.push((name, token)),
            None => {}
        }
        let body = call.graphql.as_ref().map(|it| json!({ "query": it }).to_string());
        let request = match (body.or_else(|| call.json.clone()), form.is_empty()) {
            (Some(body), _) => HttpRequest::post(url, "application/json", body.into_bytes()),
            (None, false) => HttpRequest::post_form(url, &form),
            (None, true) => match call.method.unwrap_or(Method::Get) {
                Method::Post => HttpRequest::without_body(reqwest::Method::POST, url),
                // What changes something was refused before.
                Method::Get | Method::Delete | Method::Put => HttpRequest::get(url),
            },
        };
        let request = request.accept("application/json");
        let request = if call.gzip { request.accept_gzip() } else { request };
        let request = match &call.token_parameter {
            Some(_) => request,
            None => request.authorization(access.scheme(&call.scheme), token),
        };
        let headers = filled(&call.headers, &self.parameters.alone());
        headers.iter().fold(request, |it, (name, value)| it.with_header(name, value))
    }

    /// The account that the facts are about.
    pub(super) fn account(
        &self,
        grant: &Grant,
        facts: &Value,
    ) -> Result<ExternalAccount, ConnectorError> {
        let own = &self.entry.account;
        let find = |it: &Alternatives| {
            it.0.iter().find_map(|it| it.fill(&self.parameters.and(facts))).filter(is_fit)
        };
        let standard = if self.entry.openid.is_some() {
            let userinfo = facts.get("userinfo").and_then(Value::as_object);
            let userinfo = userinfo.cloned().unwrap_or_default();
            Some(profile::account(&grant.claims, &userinfo)?)
        } else {
            None
        };
        let external_id = if own.id.0.is_empty() {
            standard.as_ref().map(|it| it.external_id.clone())
        } else {
            let id = own.id.0.iter().find_map(|it| it.fill(&self.parameters.and(facts)));
            id.and_then(|it| ExternalId::new(it).ok())
        };
        let external_id = external_id
            .ok_or_else(|| untrusted("the account", "it has no id that is known to last"))?;
        let mut account = ExternalAccount {
            external_id,
            legacy_id: None,
            email: None,
            email_verified: false,
            name: None,
            claims: Map::new(),
        };
        if let Some(standard) = standard {
            account = ExternalAccount { external_id: account.external_id, ..standard };
        }
        if let Some(name) = find(&own.name) {
            account.name = Some(name);
        }
        if !own.email.0.is_empty() {
            account.email = find(&own.email);
            account.email_verified = false;
        }
        if account.email.is_some() {
            account.email_verified |= own.email_verified.0.iter().any(|it| is_verified(it, facts))
                || own.email_verified_present.as_ref().is_some_and(|it| it.find(facts).is_some());
        }
        if let Some(tenant) = find(&own.tenant) {
            account.claims.insert("tenant".into(), tenant.into());
        }
        for (name, Pointers(alternatives)) in &own.keep {
            let value = alternatives.iter().find_map(|it| it.find(facts).and_then(text));
            let value = value.map(std::borrow::Cow::into_owned);
            if let Some(value) = value.filter(is_fit) {
                account.claims.insert(name.clone(), value.into());
            }
        }
        Ok(account)
    }
}

impl Confirmation {
    /// Whether it holds of this answer.
    pub(super) fn holds(&self, answer: &Value) -> bool {
        match self {
            Self::True(pointer) => pointer.find(answer) == Some(&Value::Bool(true)),
            Self::Is(said) => {
                said.at.find(answer).and_then(text).is_some_and(|it| it == said.is.as_str())
            }
        }
    }
}

/// `true`, or, as some providers have it, the text `"true"`.
fn is_verified(pointer: &Pointer, facts: &Value) -> bool {
    match pointer.find(facts) {
        Some(Value::Bool(verified)) => *verified,
        Some(Value::String(text)) => text == "true",
        _ => false,
    }
}

/// Whether a text may be kept and shown.
#[expect(clippy::ptr_arg, reason = "it filters options of texts")]
fn is_fit(text: &String) -> bool {
    !text.is_empty() && text.chars().count() <= LONGEST && !text.chars().any(char::is_control)
}
