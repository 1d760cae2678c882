use std::sync::LazyLock;

use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest as _, Sha256};
use symbolon_domain::{
    identity_provider::IdentityProvider, ports::Connectors, services::BrowserError,
};

use crate::error::ApiError;

const STYLE: &str = include_str!("style.css");

/// Nothing but our one stylesheet, and nobody may frame us.
static CONTENT_SECURITY_POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).expect("base64 and constants are a header value")
});

/// What every response to a browser carries: its address holds a secret, so it goes nowhere.
pub(super) fn protect(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY.clone());
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    );
}

fn page(status: StatusCode, title: &str, content: &Markup) -> Response {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="robots" content="noindex";
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                main {
                    h1 { (title) }
                    (content)
                }
            }
        }
    };
    (status, page).into_response()
}

/// The hosted page: the user chooses where the account is.
pub(super) fn choose(providers: &[IdentityProvider], connectors: &dyn Connectors) -> Response {
    if providers.is_empty() {
        let content = html! {
            p { "There is no service to choose from yet. Tell the people who run this site." }
        };
        return page(StatusCode::OK, "Nothing to connect yet", &content);
    }
    let content = html! {
        p { "You will be sent there to confirm, and then come back." }
        ul {
            @for provider in providers {
                @let title = title_of(provider, connectors);
                li {
                    a href={ "?provider_id=" (provider.id) } {
                        span.mark aria-hidden="true" { (title.chars().next().unwrap_or('?')) }
                        span {
                            strong { (title) }
                            @if let Some(instance) = instance_of(provider) {
                                small { (instance) }
                            }
                        }
                    }
                }
            }
        }
    };
    page(StatusCode::OK, "Choose where your account is", &content)
}

fn title_of(provider: &IdentityProvider, connectors: &dyn Connectors) -> String {
    let kind = connectors.find_type(&provider.provider_type);
    kind.map_or_else(|| provider.provider_type.clone(), |it| it.title)
}

/// What tells this instance from others of its type: its external id, or its issuer's host.
fn instance_of(provider: &IdentityProvider) -> Option<String> {
    if let Some(id) = provider.external_id.as_deref().filter(|it| !it.is_empty()) {
        return Some(id.to_owned());
    }
    let issuer = url::Url::parse(provider.config.get("issuer")?.as_str()?).ok()?;
    issuer.host_str().map(str::to_owned)
}

/// What a person is told, in our own words: nothing that a provider or an address said is shown.
struct Explanation {
    status: StatusCode,
    title: &'static str,
    text: &'static str,
    /// Whether loading the same address again may help.
    again: bool,
}

const UNKNOWN: Explanation = Explanation {
    status: StatusCode::BAD_REQUEST,
    title: "This link does not work any more",
    text: "It was used already or is not complete. Go back to where you came from and start again.",
    again: false,
};

const EXPIRED: Explanation = Explanation {
    status: StatusCode::GONE,
    title: "This link has expired",
    text: "It was good for a few minutes only. Go back to where you came from and start again.",
    again: false,
};

const OTHER_BROWSER: Explanation = Explanation {
    status: StatusCode::BAD_REQUEST,
    title: "This was started in another browser",
    text: "Go on in the browser where you started, with cookies allowed, or go back to where you \
           came from and start again here.",
    again: false,
};

const MALFORMED: Explanation = Explanation {
    status: StatusCode::BAD_REQUEST,
    title: "We could not make sense of this",
    text: "Nothing was changed. Go back to where you came from and start again.",
    again: false,
};

const NO_PROVIDER: Explanation = Explanation {
    status: StatusCode::BAD_REQUEST,
    title: "This service is not there any more",
    text: "Nothing was changed. Go back to where you came from and choose another one.",
    again: false,
};

const UNAVAILABLE: Explanation = Explanation {
    status: StatusCode::SERVICE_UNAVAILABLE,
    title: "The service does not answer",
    text: "The service that has your account could not be reached. Nothing was changed. Wait a \
           moment and try again.",
    again: true,
};

const MISCONFIGURED: Explanation = Explanation {
    status: StatusCode::BAD_GATEWAY,
    title: "The service is not set up rightly",
    text: "Nothing was changed. Tell the people who run this site; once they have repaired it, \
           try again.",
    again: true,
};

const FAILED: Explanation = Explanation {
    status: StatusCode::INTERNAL_SERVER_ERROR,
    title: "Something went wrong on our side",
    text: "Wait a moment and try again, or go back to where you came from and start again.",
    again: true,
};

/// The page that says why a browser does not go on, and what to do.
pub(super) fn refuse(error: BrowserError, reference: &str) -> Response {
    use symbolon_domain::Error as E;
    let explanation = match &error {
        BrowserError::Unknown => UNKNOWN,
        BrowserError::Expired => EXPIRED,
        BrowserError::OtherBrowser => OTHER_BROWSER,
        BrowserError::Malformed => MALFORMED,
        BrowserError::Failed(E::NotFound(_)) => NO_PROVIDER,
        BrowserError::Failed(E::ProviderUnavailable { .. }) => UNAVAILABLE,
        BrowserError::Failed(E::ProviderMisconfigured { .. } | E::IdentityNotValid { .. }) => {
            MISCONFIGURED
        }
        BrowserError::Failed(_) => FAILED,
    };
    let mut retry_after = None;
    if let BrowserError::Failed(error) = error {
        let error = ApiError::from(error);
        error.log();
        retry_after = error.retry_after_seconds();
    }
    let content = html! {
        p { (explanation.text) }
        @if explanation.again {
            // The same address: it is not written into the page, for it holds a secret.
            p { a.again href="" { "Try again" } }
        }
        footer { "Reference " code { (reference) } }
    };
    let mut response = page(explanation.status, explanation.title, &content);
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
