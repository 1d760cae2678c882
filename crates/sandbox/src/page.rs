use std::{sync::LazyLock, time::Duration};

use aws_lc_rs::digest;
use axum::http::{HeaderMap, HeaderValue, header};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use url::Url;

use crate::{
    faults::ActiveFault,
    records::{Outcome, Record, Records},
    settings::{Account, Client},
};

const STYLE: &str = include_str!("page.css");

/// The icon of the tab, which is the mark, in a form that needs no second request.
const ICON: &str = "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E%3Crect width='32' height='32' rx='9' fill='%23b45309'/%3E%3Cpath d='M8 23V13h3v3h3v-3h4v3h3v-3h3v10z' fill='%23fff'/%3E%3C/svg%3E";

/// Colours of the avatars; white text is readable on each.
const COLOURS: [(&str, &str); 6] = [
    ("#7c3aed", "#5b21b6"),
    ("#0f766e", "#115e59"),
    ("#be185d", "#9d174d"),
    ("#1d4ed8", "#1e40af"),
    ("#b45309", "#92400e"),
    ("#4d7c0f", "#3f6212"),
];

/// The policy of every page: nothing but its own style and inline pictures.
fn policy(form_action: &str) -> String {
    static HASH: LazyLock<String> = LazyLock::new(|| {
        STANDARD.encode(digest::digest(&digest::SHA256, STYLE.as_bytes()).as_ref())
    });
    format!(
        "default-src 'none'; style-src 'sha256-{}'; img-src data:; form-action {form_action}; \
         frame-ancestors 'none'; base-uri 'none'",
        *HASH,
    )
}

/// The policy of the page that asks.
///
/// Chromium holds `form-action` against every redirect that follows the form: to the client, and
/// from there to wherever the client sends its user. So the answer may go anywhere over HTTP, and
/// to the scheme of a native client ([RFC 8252 §7.1](https://www.rfc-editor.org/rfc/rfc8252#section-7.1)).
pub(crate) fn policy_of_consent(redirect_uri: &str) -> HeaderValue {
    let scheme = Url::parse(redirect_uri).map(|it| it.scheme().to_owned()).unwrap_or_default();
    let policy = match scheme.as_str() {
        "http" | "https" | "" => policy("http: https:"),
        native => policy(&format!("http: https: {native}:")),
    };
    HeaderValue::from_str(&policy).expect("a scheme is ASCII")
}

/// The headers of a page, unless they are there already.
pub(crate) fn protect(headers: &mut HeaderMap) {
    static POLICY: LazyLock<HeaderValue> =
        LazyLock::new(|| HeaderValue::from_str(&policy("'none'")).expect("it is ASCII"));
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY.clone()),
        (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
        (header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY")),
        (header::REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ] {
        headers.entry(name).or_insert(value);
    }
}

/// What the page that asks is about.
pub(crate) struct Question<'a> {
    pub(crate) client_name: &'a str,
    pub(crate) redirect_uri: &'a str,
    pub(crate) scope: &'a [String],
    pub(crate) accounts: &'a [Account],
    /// The account that the client suggests.
    pub(crate) hinted: Option<&'a str>,
    /// Where the answer goes.
    pub(crate) action: String,
}

/// The page that asks: which account, and whether at all.
pub(crate) fn consent(question: &Question<'_>) -> Markup {
    let back = Url::parse(question.redirect_uri).ok();
    let back = back.as_ref().and_then(|it| it.host_str().map(|host| (host, it.port())));
    frame(
        "Choose an account",
        "",
        &html! {
            header {
                h1 { "Choose an account" }
                p.lead { "to continue to " b { bdi { (question.client_name) } } }
            }
            form method="post" action=(question.action) {
                ul.accounts {
                    @for (place, account) in question.accounts.iter().enumerate() {
                        @let hinted = question.hinted == Some(account.sub.as_str());
                        li { button type="submit" name="account" value=(account.sub)
                            .hinted[hinted] autofocus[hinted] {
                            (avatar(account, place, 44))
                            span.who {
                                b { (account.name) }
                                small { (account.email)
                                    @if !account.email_verified { em { " · not verified" } }
                                }
                            }
                            (chevron())
                        } }
                    }
                }
                div.asks {
                    p { b { bdi { (question.client_name) } } " will be able to" }
                    ul {
                        @for scope in question.scope {
                            @if let Some(meaning) = meaning(scope) { li { (tick()) (meaning) } }
                            @else if scope != "openid" { li { (tick()) "use " code { (scope) } } }
                        }
                        li { (tick()) "recognize you when you come back" }
                    }
                }
                div.end {
                    small { @if let Some((host, port)) = back {
                        "You go back to " (host) @if let Some(port) = port { ":" (port) } "."
                    } }
                    button.plain type="submit" name="cancel" value="1" { "Cancel" }
                }
            }
        },
    )
}

fn meaning(scope: &str) -> Option<&'static str> {
    match scope {
        "profile" => Some("see the name and the picture"),
        "email" => Some("see the e-mail address"),
        "offline_access" => Some("keep its access while you are away"),
        _ => None,
    }
}

/// The page that says why there is nothing else to see.
pub(crate) fn problem(title: &str, why: &str) -> Markup {
    frame(
        title,
        "",
        &html! {
            header { h1 { (title) } }
            section.last { p.lead { bdi { (why) } } }
        },
    )
}

/// The page of a gateway that stands where JSON was expected.
pub(crate) fn gateway() -> Markup {
    problem(
        "Please check back later",
        "This page stands where JSON was expected. A fault was asked for.",
    )
}

/// What the first page tells of.
pub(crate) struct Overview<'a> {
    pub(crate) issuer: &'a str,
    pub(crate) accounts: &'a [Account],
    pub(crate) clients: &'a [Client],
    pub(crate) access_token_lifetime: Duration,
    pub(crate) active: &'a [ActiveFault],
    pub(crate) records: &'a Records,
}

/// The first page: what this is, and what can be done with it.
pub(crate) fn home(overview: &Overview<'_>) -> Markup {
    let issuer = overview.issuer;
    frame(
        "Sandbox",
        "wide",
        &html! {
            header {
                h1 { "An OpenID provider to play with" }
                p.lead {
                    "It signs made-up people in, hands out tokens that live "
                    (overview.access_token_lifetime.as_secs()) " seconds, and fails on request."
                }
            }
            section.last {
                h2 { "For your client" }
                dl {
                    dt { "Issuer" } dd { code { (issuer) } }
                    dt { "Metadata" } dd { a href="/.well-known/openid-configuration" { "/.well-known/openid-configuration" } }
                    dt { "Clients" } dd {
                        @for (place, client) in overview.clients.iter().enumerate() {
                            @if place > 0 { ", " } code { bdi { (client.client_id) } }
                        }
                    }
                }
                h2 { "People" }
                ul.people {
                    @for (place, account) in overview.accounts.iter().enumerate() {
                        li { (avatar(account, place, 40)) span.who { b { (account.name) } small { (account.sub) } } }
                    }
                }
                h2 { "Make it fail" }
                pre { (fault_example(issuer)) }
                @if overview.active.is_empty() { p.lead { "No fault is set." } }
                @else { (faults(overview.active)) }
                h2 { "Seen so far" }
                (records(overview.records))
            }
        },
    )
}

fn fault_example(issuer: &str) -> String {
    format!(
        "# lose the answers of the next two refreshes\n\
         curl {issuer}/sandbox/faults --json \
         '{{\"endpoint\": \"refresh\", \"fault\": {{\"kind\": \"drop_after\"}}, \"times\": 2}}'\n\n\
         # and behave again\n\
         curl -X DELETE {issuer}/sandbox/faults"
    )
}

fn faults(active: &[ActiveFault]) -> Markup {
    html! { div.scroll { table {
        tr { th { "Endpoint" } th { "Fault" } th { "For" } }
        @for it in active { tr {
            td { (it.endpoint) }
            td { code { (it.fault.kind()) } }
            td { @if let Some(times) = it.times { (times) " more" } @else { "all, until cleared" } }
        } }
    } } }
}

fn records(records: &Records) -> Markup {
    let counters = records.counters;
    html! {
        p.lead {
            (counters.requests) " requests, " (counters.refreshes) " refreshes, "
            (counters.refresh_reuses) " reuses of a spent refresh token, "
            (counters.revoked_families) " grants revoked. "
            a href="/sandbox/records" { "All as JSON" }
        }
        @if !records.items.is_empty() { div.scroll { table {
            tr { th { "#" } th { "Endpoint" } th { "Outcome" } th { "Fault" } }
            @for it in records.items.iter().rev().take(8) { tr {
                td { (it.number) }
                td { (it.endpoint) }
                td { (outcome(it)) }
                td { @for (place, kind) in it.faults.iter().enumerate() {
                    @if place > 0 { ", " } code { (kind) }
                } }
            } }
        } } }
    }
}

fn outcome(record: &Record) -> Markup {
    match &record.outcome {
        Outcome::Pending => html! { "under way" },
        Outcome::Answered { status, error: Some(error) } => {
            html! { span.bad { (status) " " bdi { (error) } } }
        }
        Outcome::Answered { status, error: None } if *status < 400 => {
            html! { span.good { (status) } }
        }
        Outcome::Answered { status, error: None } => html! { span.bad { (status) } },
        Outcome::Cut if record.committed => html! { span.bad { "done, and the answer lost" } },
        Outcome::Cut => html! { span.bad { "connection cut" } },
        Outcome::Abandoned => html! { span.bad { "the client left" } },
    }
}

fn frame(title: &str, class: &str, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                title { (title) " · Sandbox" }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body class=(class) {
                div.brand { (mark()) span { "Sandbox" } }
                main { (content) }
                aside.note aria-label="About this page" {
                    (bucket())
                    p { b { "This is a sandbox on this machine. " }
                        "The people are made up, there is no password, and no real account is involved." }
                }
            }
        }
    }
}

/// The picture of an account: its initials in a circle.
pub(crate) fn avatar(account: &Account, place: usize, size: u32) -> Markup {
    let (from, to) = COLOURS[place % COLOURS.len()];
    let gradient = format!("tint-{place}");
    html! {
        svg.avatar xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 48" width=(size) height=(size)
            aria-hidden="true" {
            defs { linearGradient id=(gradient) x1="0" y1="0" x2="1" y2="1" {
                stop offset="0" stop-color=(from) {}
                stop offset="1" stop-color=(to) {}
            } }
            circle cx="24" cy="24" r="24" fill=(format!("url(#{gradient})")) {}
            text x="24" y="24" dy=".36em" text-anchor="middle" fill="#fff" font-size="18"
                font-weight="600" font-family="system-ui, -apple-system, sans-serif" { (account.initials()) }
        }
    }
}

/// A castle of sand.
fn mark() -> Markup {
    html! { svg viewBox="0 0 32 32" width="28" height="28" aria-hidden="true" {
        rect width="32" height="32" rx="9" fill="#b45309" {}
        path d="M8 23V13h3v3h3v-3h4v3h3v-3h3v10z" fill="#fff" {}
    } }
}

fn bucket() -> Markup {
    html! { svg viewBox="0 0 24 24" width="20" height="20" fill="none" stroke="currentColor"
        stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" {
        path d="M4 9h16l-2 11H6z" {} path d="M5 9a7 7 0 0 1 14 0" {}
    } }
}

fn chevron() -> Markup {
    html! { svg.go viewBox="0 0 24 24" width="18" height="18" fill="none" stroke="currentColor"
        stroke-width="2.2" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" {
        path d="m9 5 7 7-7 7" {}
    } }
}

fn tick() -> Markup {
    html! { svg viewBox="0 0 24 24" width="14" height="14" fill="none" stroke="currentColor"
        stroke-width="3" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" {
        path d="m4 12.5 5.5 5.5L20 6.5" {}
    } }
}
