use chrono::{DateTime, Utc};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use symbolon_domain::secret::Secret;
use symbolon_oauth2::http::{HttpClient, HttpError, HttpRequest, HttpResponse};
use url::Url;

/// The calling product's side of Symbolon's API, as a product would write it.
pub(super) struct SymbolonApi {
    /// Only this way out: it goes to our own service on loopback.
    pub(super) http: HttpClient,
    /// Where Symbolon is.
    pub(super) base: Url,
    /// The product's API key; never leaves the product's backend.
    pub(super) key: Secret,
}

/// Why Symbolon did not do as asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// Symbolon said no, and why.
    #[error("{}", .0.detail)]
    Problem(Problem),
    /// There was no answer.
    #[error(transparent)]
    NoAnswer(#[from] HttpError),
    /// There was one that makes no sense.
    #[error("Symbolon's answer cannot be read")]
    Unreadable,
}

/// An error answer ([RFC 9457](https://www.rfc-editor.org/rfc/rfc9457)).
#[derive(Debug, Deserialize)]
pub(super) struct Problem {
    pub(super) code: String,
    pub(super) detail: String,
}

/// An account that is linked.
#[derive(Debug, Deserialize)]
pub(super) struct LinkedAccount {
    pub(super) id: i64,
    pub(super) external_id: String,
    pub(super) status: String,
    pub(super) data: Value,
    pub(super) scopes: Vec<String>,
    pub(super) date_verified: Option<DateTime<Utc>>,
}

/// A link session that was started.
#[derive(Debug, Deserialize)]
pub(super) struct StartedSession {
    pub(super) url: String,
}

/// How a link session ended.
#[derive(Debug, Deserialize)]
pub(super) struct CompletedSession {
    pub(super) status: String,
}

/// An access token.
#[derive(Deserialize)]
pub(super) struct AccessToken {
    pub(super) access_token: String,
    pub(super) expires_at: Option<DateTime<Utc>>,
}

#[derive(Deserialize)]
struct Items<T> {
    items: Vec<T>,
}

impl SymbolonApi {
    /// The user's accounts at this provider.
    pub(super) async fn identities(
        &self,
        user_id: &str,
        provider_id: i64,
    ) -> Result<Vec<LinkedAccount>, ApiError> {
        let mut url = self.url(&["identities"]);
        url.query_pairs_mut()
            .append_pair("user_id", user_id)
            .append_pair("provider_id", &provider_id.to_string());
        let list: Items<LinkedAccount> = self.send(HttpRequest::get(url)).await?;
        Ok(list.items)
    }

    /// Starts linking an account; the browser is to be sent to the answer's `url`.
    pub(super) async fn start(
        &self,
        user_id: &str,
        provider_id: i64,
        return_url: &Url,
    ) -> Result<StartedSession, ApiError> {
        let body = json!({
            "user_id": user_id,
            "provider_id": provider_id,
            "return_url": return_url,
            "purpose": "link",
        });
        self.send(post(self.url(&["link-sessions"]), &body)).await
    }

    /// Completes what the browser came back with, for the user who is signed in here.
    pub(super) async fn complete(
        &self,
        session_id: &str,
        completion_code: &str,
        user_id: &str,
    ) -> Result<CompletedSession, ApiError> {
        let body = json!({ "completion_code": completion_code, "user_id": user_id });
        self.send(post(self.url(&["link-sessions", session_id, "complete"]), &body)).await
    }

    /// A token that works.
    pub(super) async fn token(&self, identity: i64) -> Result<AccessToken, ApiError> {
        let url = self.url(&["identities", &identity.to_string(), "token"]);
        self.send(post(url, &json!({}))).await
    }

    /// Unlinks an account.
    pub(super) async fn unlink(&self, identity: i64) -> Result<(), ApiError> {
        let url = self.url(&["identities", &identity.to_string()]);
        self.answer(HttpRequest::delete(url)).await.map(drop)
    }

    fn url(&self, segments: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().push("v1").extend(segments);
        }
        url
    }

    async fn send<T: DeserializeOwned>(&self, request: HttpRequest) -> Result<T, ApiError> {
        let answer = self.answer(request).await?;
        let body = answer.body.map_err(|_| ApiError::Unreadable)?;
        serde_json::from_slice(&body).map_err(|_| ApiError::Unreadable)
    }

    async fn answer(&self, request: HttpRequest) -> Result<HttpResponse, ApiError> {
        let answer = self.http.send(request.bearer(&self.key)).await?;
        if (200..300).contains(&answer.status) {
            return Ok(answer);
        }
        let problem = answer.body.ok().and_then(|it| serde_json::from_slice(&it).ok());
        Err(problem.map_or(ApiError::Unreadable, ApiError::Problem))
    }
}

fn post(url: Url, body: &Value) -> HttpRequest {
    HttpRequest::post(url, "application/json", body.to_string().into_bytes())
}
