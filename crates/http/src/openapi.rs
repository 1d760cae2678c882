//! The contract as a document, made of the same routes that are served, and its page.

use std::sync::Arc;

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response as HttpResponse},
};
use utoipa::{
    OpenApi as _,
    openapi::{
        Content, ObjectBuilder, OpenApi, PathItem, Ref, RefOr, Response, Type,
        path::{ParameterBuilder, ParameterIn},
        security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme},
    },
};
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::Config;

use crate::{
    authorization::{ACTING_USER, REASON},
    error::{ApiError, ProblemBody},
    request::Segment,
};

const SECURITY: &str = "api_key";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Symbolon",
        description = "Links the users of a product to their accounts at identity providers, keeps \
            the credentials sealed and fresh, and hands out access tokens.\n\nEvery refused or \
            failed request under `/v1` is answered with a problem (RFC 9457) whose `code` names \
            the kind.",
    ),
    components(schemas(ProblemBody)),
    tags(
        (name = "providers", description = "Provider types, and their instances"),
        (name = "identities", description = "Links of users to accounts"),
        (name = "transfers", description = "Moves of identities between users"),
        (name = "tokens", description = "Access tokens that work"),
        (name = "single sign-on", description = "How organizations sign in"),
        (name = "link sessions", description = "Links and sign-ins in the browser"),
        (name = "device links", description = "Links that users confirm on another device"),
        (name = "events", description = "What happened, and why"),
        (name = "webhooks", description = "Events, told to other services"),
        (name = "browser", description = "Where browsers come by; not for programs"),
        (name = "sentry", description = "Sentry's RPC of the identity service; only where it is on"),
        (name = "operations", description = "For those who run the service"),
    ),
)]
struct Document;

/// A router whose document has the parts that belong to no route.
pub(crate) fn document() -> OpenApiRouter {
    let mut document = Document::openapi();
    let scheme = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some("An API key; make one with `symbolon api-key create`."))
        .build();
    document
        .components
        .get_or_insert_default()
        .add_security_scheme(SECURITY, SecurityScheme::Http(scheme));
    OpenApiRouter::with_openapi(document)
}

/// What the routes of the document need.
#[derive(Clone)]
struct DocumentRoutes {
    document: Bytes,
    page: Arc<Config<'static>>,
}

/// Adds the routes that answer the document and its page. To be called last, as the document
/// tells of everything that was added before.
pub(crate) fn serve(api: OpenApiRouter) -> Router {
    let (api, mut document) = api.split_for_parts();
    let (own, own_document) = OpenApiRouter::new()
        .routes(routes!(openapi))
        .routes(routes!(docs))
        .routes(routes!(docs_page))
        .routes(routes!(docs_file))
        .split_for_parts();
    document.paths.merge(own_document.paths);
    complete(&mut document);
    let document = serde_json::to_vec(&document).expect("texts and numbers serialize");
    // Relative, so that it also holds behind a path of a reverse proxy.
    let page = Config::from("../openapi.json").validator_url("none").doc_expansion("list");
    api.merge(own.with_state(DocumentRoutes { document: document.into(), page: Arc::new(page) }))
}

/// Adds what all routes under `/v1` have in common: the key, and problems.
fn complete(document: &mut OpenApi) {
    for (path, item) in &mut document.paths.paths {
        if !path.starts_with("/v1/") {
            continue;
        }
        let PathItem { get, put, post, delete, patch, .. } = item;
        for operation in [get, put, post, delete, patch].into_iter().flatten() {
            let no_scopes: [&str; 0] = [];
            operation.security = Some(vec![SecurityRequirement::new(SECURITY, no_scopes)]);
            let parameters = operation.parameters.get_or_insert_default();
            for (name, description) in [
                (
                    ACTING_USER,
                    "The user on whose behalf this is done, for the event log: 1 to 255 characters",
                ),
                (REASON, "Why, for the event log: 1 to 500 characters"),
            ] {
                let text = ObjectBuilder::new().schema_type(Type::String).build();
                let parameter = ParameterBuilder::new()
                    .name(name)
                    .parameter_in(ParameterIn::Header)
                    .description(Some(description))
                    .schema(Some(text));
                parameters.push(RefOr::T(parameter.build()));
            }
            let responses = &mut operation.responses.responses;
            for (status, description) in [
                ("400", "`invalid_request`: `detail` names what is wrong"),
                ("401", "`unauthenticated`: no valid key"),
                ("403", "`forbidden`: the key lacks the scope or the organization"),
                (
                    "429",
                    "`rate_limited`: too many requests of this key, or without a valid key from \
                     this address; `Retry-After` says when to come back",
                ),
                ("500", "`internal_error`"),
                (
                    "503",
                    "`service_unavailable`: our database is away; `Retry-After` says when to come \
                     back",
                ),
            ] {
                responses
                    .entry(status.to_owned())
                    .or_insert_with(|| RefOr::T(Response::new(description)));
            }
            for (status, response) in responses {
                if let RefOr::T(response) = response
                    && matches!(status.as_bytes(), [b'4' | b'5', ..])
                {
                    let problem = Content::new(Some(Ref::from_schema_name("Problem")));
                    response.content.insert("application/problem+json".to_owned(), problem.into());
                }
            }
        }
    }
}

/// This document.
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "operations",
    responses((status = 200, description = "The contract of what is served", body = Object)),
)]
async fn openapi(State(routes): State<DocumentRoutes>) -> HttpResponse {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], routes.document).into_response()
}

/// Leads to the page, whose files lie beside it.
#[utoipa::path(
    get,
    path = "/docs",
    tag = "operations",
    responses((status = 308, description = "To `docs/`", headers(("Location" = String)))),
)]
async fn docs() -> HttpResponse {
    let location = HeaderValue::from_static("docs/");
    (StatusCode::PERMANENT_REDIRECT, [(header::LOCATION, location)]).into_response()
}

/// The document as a page.
#[utoipa::path(
    get,
    path = "/docs/",
    tag = "operations",
    responses((status = 200, description = "The page", body = String, content_type = "text/html")),
)]
async fn docs_page(State(routes): State<DocumentRoutes>) -> Result<HttpResponse, ApiError> {
    file(&routes, "index.html")
}

/// A file of the page.
#[utoipa::path(
    get,
    path = "/docs/{file}",
    tag = "operations",
    params(("file" = String, Path)),
    responses(
        (status = 200, description = "The file"),
        (status = 404, description = "There is no such file"),
    ),
)]
async fn docs_file(
    State(routes): State<DocumentRoutes>,
    Segment(name): Segment,
) -> Result<HttpResponse, ApiError> {
    file(&routes, &name)
}

/// The page loads nothing from elsewhere: everything is in the binary. Its scripts set styles and
/// show pictures of their own making.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' \
    'unsafe-inline'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; \
    form-action 'none'; frame-ancestors 'none'";

fn file(routes: &DocumentRoutes, name: &str) -> Result<HttpResponse, ApiError> {
    let file = utoipa_swagger_ui::serve(name, Arc::clone(&routes.page));
    let file = file.map_err(|_| ApiError::internal())?.ok_or_else(ApiError::no_route)?;
    let kind = HeaderValue::try_from(file.content_type).map_err(|_| ApiError::internal())?;
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY)),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=3600")),
    ];
    Ok((headers, file.bytes.into_owned()).into_response())
}
