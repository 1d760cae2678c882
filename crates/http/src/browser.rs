//! The pages and redirects that a user's browser meets on its way to a provider and back.

mod cookie;
mod pages;

use std::sync::Arc;

use axum::{
    Extension,
    extract::{RawQuery, Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
};
use symbolon_domain::{
    ids::ProviderId,
    ports::Connectors,
    secret::Secret,
    services::{AuthorizationResponse, BrowserError, Linking, Opened},
};
use url::{Url, form_urlencoded};
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouterExt as _},
    routes,
};

use self::cookie::{BrowserCookie, is_secret};
use crate::{
    error::ApiError,
    request::{Segment, read_body, row_id},
    telemetry::RequestId,
};

/// Most bytes of a posted authorization response.
const FORM_LIMIT: usize = 64 * 1024;

/// What the browser's routes need.
#[derive(Clone)]
pub(crate) struct BrowserRoutes {
    linking: Arc<Linking>,
    /// Knows what people call the types.
    connectors: Arc<dyn Connectors>,
    cookie: BrowserCookie,
}

impl BrowserRoutes {
    pub(crate) fn new(linking: Linking, connectors: Arc<dyn Connectors>) -> Self {
        let cookie = BrowserCookie::new(linking.settings.public_url.scheme() == "https");
        Self { linking: Arc::new(linking), connectors, cookie }
    }
}

pub(crate) fn router(state: BrowserRoutes) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(connect).map(|it| it.head(look)))
        .routes(routes!(callback, callback_form).map(|it| it.head(look)))
        .layer(middleware::map_response(|mut response: Response| async move {
            // Problems come from outside the flow (a wrong method) and are no pages.
            if response.extensions().get::<ApiError>().is_none() {
                pages::protect(response.headers_mut());
            }
            response
        }))
        .with_state(state)
}

/// `HEAD`: what only looks at an address, as mail scanners do, must not set out on the trip.
async fn look() -> StatusCode {
    StatusCode::OK
}

/// Sends a user's browser on to the provider, or shows the page where the user chooses one.
#[utoipa::path(
    get,
    path = "/connect/{token}",
    tag = "browser",
    params(
        ("token" = String, Path, description = "From a link session's `url`"),
        ("provider_id" = Option<i64>, Query, description = "What the user chose on the page"),
    ),
    responses(
        (status = 303, description = "To the provider", headers(("Location" = String), ("Set-Cookie" = String))),
        (status = 200, description = "The page where the user chooses", content_type = "text/html"),
        (status = 400, description = "A page: unknown or used, or another browser's", content_type = "text/html"),
        (status = 410, description = "A page: expired", content_type = "text/html"),
        (status = 502, description = "A page: the provider is misconfigured", content_type = "text/html"),
        (status = 503, description = "A page: the provider does not answer", content_type = "text/html"),
    ),
)]
async fn connect(
    State(routes): State<BrowserRoutes>,
    Extension(RequestId(reference)): Extension<RequestId>,
    Segment(token): Segment,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    if !is_secret(&token) {
        return pages::refuse(BrowserError::Unknown, &reference);
    }
    let Ok(choice) = chosen(query.as_deref()) else {
        return pages::refuse(BrowserError::Malformed, &reference);
    };
    match routes.linking.open(&token, routes.cookie.read(&headers), choice).await {
        Ok(Opened::Redirect { to, browser }) => {
            let cookie = [(header::SET_COOKIE, routes.cookie.write(&browser))];
            (cookie, see_other(&to)).into_response()
        }
        Ok(Opened::Choose(providers)) => pages::choose(&providers, routes.connectors.as_ref()),
        Err(error) => pages::refuse(error, &reference),
    }
}

/// The `provider_id` of a query; other parameters are nobody's business here.
fn chosen(query: Option<&str>) -> Result<Option<ProviderId>, BrowserError> {
    let mut ids = form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .filter(|(name, _)| name == "provider_id")
        .map(|(_, value)| row_id(&value).map(ProviderId).ok_or(BrowserError::Malformed));
    let chosen = ids.next().transpose()?;
    if ids.next().is_some() { Err(BrowserError::Malformed) } else { Ok(chosen) }
}

/// Takes a provider's response, and sends the browser back to the product.
#[utoipa::path(
    get,
    path = "/callback/{provider_id}",
    tag = "browser",
    params(
        ("provider_id" = i64, Path),
        ("state" = String, Query),
        ("code" = Option<String>, Query),
        ("error" = Option<String>, Query),
        ("iss" = Option<String>, Query),
    ),
    responses(
        (status = 303, description = "To the session's `return_url`, with `session_id`, `status`, and \
            `completion_code` or `error`", headers(("Location" = String))),
        (status = 400, description = "A page: malformed, unknown or used, or another browser's", content_type = "text/html"),
        (status = 410, description = "A page: expired", content_type = "text/html"),
    ),
)]
async fn callback(
    State(routes): State<BrowserRoutes>,
    Extension(RequestId(reference)): Extension<RequestId>,
    Segment(provider_id): Segment,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        let provider_id = read_provider(&provider_id)?;
        let response = read_response(query.unwrap_or_default().as_bytes())?;
        let browser = routes.cookie.read(&headers);
        routes.linking.receive(provider_id, response, browser).await
    };
    match answer.await {
        Ok(to) => see_other(&to),
        Err(error) => pages::refuse(error, &reference),
    }
}

/// Takes a provider's posted response (`response_mode=form_post`).
///
/// A post from another site carries no `Lax` cookie, so the browser is sent to the same path with
/// the parameters in the query, and then has it along. Nothing is looked up or used before that.
#[utoipa::path(
    post,
    path = "/callback/{provider_id}",
    tag = "browser",
    params(("provider_id" = i64, Path)),
    request_body(content_type = "application/x-www-form-urlencoded", content = Object),
    responses(
        (status = 303, description = "To the same path by GET", headers(("Location" = String))),
        (status = 400, description = "A page: malformed", content_type = "text/html"),
    ),
)]
async fn callback_form(
    State(routes): State<BrowserRoutes>,
    Extension(RequestId(reference)): Extension<RequestId>,
    Segment(provider_id): Segment,
    request: Request,
) -> Response {
    let answer = async {
        let provider_id = read_provider(&provider_id)?;
        let body = read_body(request, FORM_LIMIT).await.map_err(|_| BrowserError::Malformed)?;
        let response = read_response(&body)?;
        let mut to = routes.linking.settings.redirect_uri(provider_id);
        {
            let mut query = to.query_pairs_mut();
            query.extend_pairs(&response.parameters);
            let secret = |it: &Option<Secret>| it.as_ref().map(|it| it.expose().to_owned());
            for (name, value) in [
                ("state", secret(&response.state)),
                ("code", secret(&response.code)),
                ("error", response.error),
                ("iss", response.issuer),
            ] {
                if let Some(value) = value {
                    query.append_pair(name, &value);
                }
            }
        }
        Ok(to)
    };
    match answer.await {
        Ok(to) => see_other(&to),
        Err(error) => pages::refuse(error, &reference),
    }
}

fn read_provider(text: &str) -> Result<ProviderId, BrowserError> {
    row_id(text).map(ProviderId).ok_or(BrowserError::Malformed)
}

/// Reads an authorization response. A parameter without a value counts as left out, and none may
/// be repeated ([RFC 6749 §3.1](https://www.rfc-editor.org/rfc/rfc6749#section-3.1)), not even one
/// that we do not know: whoever repeats one wants two readers to read two things.
fn read_response(encoded: &[u8]) -> Result<AuthorizationResponse, BrowserError> {
    let mut response = AuthorizationResponse::default();
    let mut seen = Vec::new();
    for (name, value) in form_urlencoded::parse(encoded) {
        if seen.contains(&name) {
            return Err(BrowserError::Malformed);
        }
        if !value.is_empty() {
            match &*name {
                "state" => response.state = Some(Secret::new(&*value)),
                "code" => response.code = Some(Secret::new(&*value)),
                "error" => response.error = Some(value.into_owned()),
                "iss" => response.issuer = Some(value.into_owned()),
                _ => {
                    response.parameters.insert(name.clone().into_owned(), value.into_owned());
                }
            }
        }
        seen.push(name);
        // Nobody sends so many, and the search above is for few.
        if seen.len() > 50 {
            return Err(BrowserError::Malformed);
        }
    }
    if response.state.is_none() || response.code.is_some() == response.error.is_some() {
        return Err(BrowserError::Malformed);
    }
    Ok(response)
}

/// `303 See Other`: the browser goes on by GET
/// ([RFC 9110 §15.4.4](https://www.rfc-editor.org/rfc/rfc9110#section-15.4.4)).
fn see_other(to: &Url) -> Response {
    let location =
        HeaderValue::try_from(to.as_str()).expect("a parsed address is visible ASCII characters");
    (StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response()
}
