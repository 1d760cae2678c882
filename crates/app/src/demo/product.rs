//! The page that plays the calling product: a small web application with one signed-in user, its
//! own backend, and an API key. What it does with Symbolon goes over HTTP, as a product's would.

mod page;
mod symbolon;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::{
    Form, Router,
    extract::{Query, Request, State},
    http::{Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Redirect, Response},
    routing::{get, post},
};
use chrono::{DateTime, Utc};
use serde::Deserialize;
use symbolon_domain::{ports::Clock, secret::Secret};
use symbolon_oauth2::http::HttpClient;
use url::Url;

use self::{
    page::{Links, Page},
    symbolon::{ApiError, LinkedAccount, SymbolonApi},
};

/// The demo's user, as the product names her. Symbolon takes the product's word for it.
pub(super) const USER_ID: &str = "demo-user";

/// Where the browser comes back to.
const RETURN_PATH: &str = "/linked";

/// What the product needs.
pub(super) struct ProductSettings {
    /// Calls Symbolon.
    pub(super) http: HttpClient,
    /// Where Symbolon is.
    pub(super) symbolon: Url,
    /// Where the Sandbox is.
    pub(super) sandbox: Url,
    /// Where this page is.
    pub(super) product: Url,
    /// The product's API key.
    pub(super) key: Secret,
    /// The provider whose accounts are linked.
    pub(super) provider_id: i64,
    /// Now.
    pub(super) clock: Arc<dyn Clock>,
    /// How many refreshes the Sandbox has seen.
    pub(super) refreshes: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// Where the browser comes back to, at a product that is there.
pub(super) fn return_url(product: &Url) -> Url {
    let mut url = product.clone();
    url.set_path(RETURN_PATH);
    url
}

struct Product {
    api: SymbolonApi,
    settings: ProductSettings,
    /// The signed-in user's session. A real product has one for each user.
    session: Mutex<Session>,
}

#[derive(Default)]
struct Session {
    /// Shown once.
    notice: Option<Notice>,
    /// What was got last.
    token: Option<ShownToken>,
}

/// What the page says about what was just done.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Notice {
    good: bool,
    text: String,
}

/// A token, as far as it is shown.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ShownToken {
    identity: i64,
    masked: String,
    expires_at: Option<DateTime<Utc>>,
    /// Whether it is another one than the last.
    is_new: bool,
}

impl Product {
    fn session(&self) -> MutexGuard<'_, Session> {
        // Nothing is left half done by a panic.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, good: bool, text: impl Into<String>) {
        self.session().notice = Some(Notice { good, text: text.into() });
    }

    fn tell_error(&self, error: &ApiError) {
        let code = match error {
            ApiError::Problem(problem) => format!(" ({})", problem.code),
            _ => String::new(),
        };
        self.tell(false, format!("{error}{code}"));
    }

    /// The account that the user has linked. Which one is never taken from the browser.
    async fn account(&self) -> Result<Option<LinkedAccount>, ApiError> {
        Ok(self.api.identities(USER_ID, self.settings.provider_id).await?.into_iter().next())
    }
}

/// The pages.
pub(super) fn router(settings: ProductSettings) -> Router {
    let api = SymbolonApi {
        http: settings.http.clone(),
        base: settings.symbolon.clone(),
        key: settings.key.clone(),
    };
    let product = Arc::new(Product { api, settings, session: Mutex::default() });
    Router::new()
        .route("/", get(show))
        .route("/connect", post(connect))
        .route(RETURN_PATH, get(linked))
        .route("/token", post(token))
        .route("/unlink", post(unlink))
        .layer(middleware::from_fn_with_state(Arc::clone(&product), only_own_pages))
        .with_state(product)
}

/// Lets nobody in through a foreign name for this address, and takes forms from own pages only:
/// other sites in the same browser reach loopback too.
async fn only_own_pages(
    State(product): State<Arc<Product>>,
    request: Request,
    next: Next,
) -> Response {
    if !is_own(&request, &product.settings.product) {
        return (StatusCode::FORBIDDEN, "This page takes requests of its own only.\n")
            .into_response();
    }
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'",
        ),
    ] {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    response
}

fn is_own(request: &Request, product: &Url) -> bool {
    let own = product.origin().ascii_serialization();
    let text = |name| request.headers().get(name).and_then(|it| it.to_str().ok());
    let own_host = text(header::HOST).is_some_and(|it| format!("http://{it}") == own);
    own_host && (request.method() == Method::GET || text(header::ORIGIN).is_none_or(|it| it == own))
}

/// `GET /`: what is linked.
async fn show(State(product): State<Arc<Product>>) -> Response {
    let account = product.account().await;
    let (notice, token) = {
        let mut session = product.session();
        (session.notice.take(), session.token.clone())
    };
    let settings = &product.settings;
    let (account, notice) = match account {
        Ok(account) => (account, notice),
        Err(error) => (None, Some(Notice { good: false, text: error.to_string() })),
    };
    let token = token.filter(|it| account.as_ref().is_some_and(|that| that.id == it.identity));
    Page {
        account: account.as_ref(),
        notice: notice.as_ref(),
        token: token.as_ref(),
        refreshes: (settings.refreshes)(),
        now: settings.clock.now(),
        links: Links { symbolon: &settings.symbolon, sandbox: &settings.sandbox },
    }
    .render()
    .into_response()
}

/// `POST /connect`: the product's backend starts a session and sends its user's browser there.
async fn connect(State(product): State<Arc<Product>>) -> Redirect {
    let settings = &product.settings;
    let return_url = return_url(&settings.product);
    match product.api.start(USER_ID, settings.provider_id, &return_url).await {
        Ok(session) => Redirect::to(&session.url),
        Err(error) => {
            product.tell_error(&error);
            Redirect::to("/")
        }
    }
}

/// What the browser brings back from Symbolon.
#[derive(Deserialize)]
struct Returned {
    session_id: Option<String>,
    completion_code: Option<String>,
    error: Option<String>,
}

/// `GET /linked`: the browser is back. Only now is anything linked, by the product's backend, to
/// the user who is signed in here.
async fn linked(State(product): State<Arc<Product>>, Query(returned): Query<Returned>) -> Redirect {
    match (returned.session_id, returned.completion_code) {
        (Some(id), Some(code)) => match product.api.complete(&id, &code, USER_ID).await {
            Ok(done) if done.status == "linked" => {
                product.session().token = None;
                product.tell(true, "Your Sandbox account is connected.");
            }
            Ok(done) => product.tell(false, format!("The session ended as {}.", done.status)),
            Err(error) => product.tell_error(&error),
        },
        _ => product.tell(
            false,
            match returned.error.as_deref() {
                Some("access_denied") => "You said no at the Sandbox; nothing was connected.",
                Some("provider_unavailable") => "The Sandbox does not answer; try again.",
                Some("provider_misconfigured") => "The Sandbox rejects this demo's client.",
                _ => "Nothing was connected.",
            },
        ),
    }
    Redirect::to("/")
}

/// `POST /token`: gets a token for the linked account, as a backend does before it calls the
/// provider's API.
async fn token(State(product): State<Arc<Product>>) -> Redirect {
    let got = async {
        let Some(account) = product.account().await? else { return Ok(None) };
        Ok(Some((account.id, product.api.token(account.id).await?)))
    };
    match got.await {
        Ok(Some((identity, token))) => {
            let masked = mask(&token.access_token);
            let mut session = product.session();
            let is_new = session.token.as_ref().is_none_or(|it| it.masked != masked);
            session.token =
                Some(ShownToken { identity, masked, expires_at: token.expires_at, is_new });
        }
        Ok(None) => product.tell(false, "Connect an account first."),
        Err(error) => {
            product.session().token = None;
            product.tell_error(&error);
        }
    }
    Redirect::to("/")
}

/// What the form says, for a confirmation that needs no script.
#[derive(Deserialize)]
struct Unlink {
    sure: Option<String>,
}

/// `POST /unlink`: removes the link; Symbolon ends the grant at the provider.
async fn unlink(State(product): State<Arc<Product>>, Form(form): Form<Unlink>) -> Redirect {
    let done = async {
        let Some(account) = product.account().await? else { return Ok(()) };
        product.api.unlink(account.id).await
    };
    if form.sure.is_some() {
        match done.await {
            Ok(()) => {
                product.session().token = None;
                product.tell(true, "Unlinked, and the grant was ended at the Sandbox.");
            }
            Err(error) => product.tell_error(&error),
        }
    }
    Redirect::to("/")
}

/// Enough of a token to tell it from the next one, and not enough to use it.
fn mask(token: &str) -> String {
    let characters: Vec<char> = token.chars().collect();
    let shown = (characters.len() / 4).min(6);
    let tail: String = characters[characters.len() - shown..].iter().collect();
    format!("••••••••••••{tail}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_masked_token_shows_a_quarter_of_it_at_most() {
        assert_eq!(mask("0123456789abcdefghijklmnopqrstuv"), "••••••••••••qrstuv");
        assert_eq!(mask("abcdefgh"), "••••••••••••gh");
        assert_eq!(mask("abc"), "••••••••••••");
    }
}
