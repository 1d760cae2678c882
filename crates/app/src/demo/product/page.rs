use chrono::{DateTime, Utc};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use url::Url;

use super::{Notice, ShownToken, symbolon::LinkedAccount};

/// No script and nothing from elsewhere; light and dark, wide and narrow.
const STYLE: &str = include_str!("page.css");

/// What the product's one page shows.
pub(super) struct Page<'a> {
    pub(super) account: Option<&'a LinkedAccount>,
    pub(super) notice: Option<&'a Notice>,
    pub(super) token: Option<&'a ShownToken>,
    pub(super) refreshes: u64,
    pub(super) now: DateTime<Utc>,
    pub(super) links: Links<'a>,
}

/// Where the other parts of the demo are.
pub(super) struct Links<'a> {
    pub(super) symbolon: &'a Url,
    pub(super) sandbox: &'a Url,
}

impl Links<'_> {
    fn docs(&self) -> Url {
        let mut url = self.symbolon.clone();
        url.set_path("/docs");
        url
    }
}

impl Page<'_> {
    pub(super) fn render(&self) -> Markup {
        html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    // Once the countdown is at its end the page says so.
                    @if let Some(left) = self.seconds_left().filter(|it| *it > 0) {
                        meta http-equiv="refresh" content=(left + 1);
                    }
                    title { "Fernweh · Connected accounts" }
                    link rel="icon" href="data:,";
                    style { (PreEscaped(STYLE)) }
                }
                body {
                    header {
                        span.brand { span.mark aria-hidden="true" { "F" } "Fernweh" }
                        span.user title="signed in" {
                            span.avatar aria-hidden="true" { "RD" }
                            span { "Robin Doe" small { (super::USER_ID) } }
                        }
                    }
                    main {
                        p.stage {
                            "This page plays " b { "your product" } ". It is made up; Symbolon \
                             behind it, at " a href=(self.links.docs()) { (host(self.links.symbolon)) }
                            ", is real."
                        }
                        h1 { "Connected accounts" }
                        @if let Some(notice) = self.notice {
                            p.notice.good[notice.good].bad[!notice.good] role="status" { (notice.text) }
                        }
                        section.card aria-label="Sandbox" { (self.connection()) }
                        @if self.account.is_some_and(is_valid) {
                            section.card aria-label="Access token" { (self.token()) }
                        }
                    }
                    footer {
                        a href=(self.links.docs()) { "Symbolon's API" }
                        a href=(self.links.sandbox.as_str()) { "The Sandbox provider" }
                    }
                }
            }
        }
    }

    fn connection(&self) -> Markup {
        html! {
            div.row {
                span.logo aria-hidden="true" { "S" }
                div.grow {
                    h2 { "Sandbox" }
                    @match self.account {
                        None => p.muted { "Not connected" },
                        Some(account) => (who(account)),
                    }
                }
                @match self.account {
                    None => {},
                    Some(account) if is_valid(account) => span.badge.good { "Connected" },
                    Some(_) => span.badge.bad { "Connect again" },
                }
            }
            @match self.account {
                None => {
                    p { "Fernweh would like to read your Sandbox profile. You will be sent to the \
                         Sandbox to say yes or no." }
                    (connect("Connect your Sandbox account"))
                },
                Some(account) if is_valid(account) => {
                    (facts(account))
                    (unlink())
                },
                Some(_) => {
                    p { "The Sandbox no longer honours this connection: its memory does not survive \
                         a restart of the demo, or the grant was ended there. Connect again and \
                         everything goes on as before." }
                    (connect("Connect again"))
                    (unlink())
                },
            }
        }
    }

    fn token(&self) -> Markup {
        let left = self.seconds_left();
        html! {
            h2 { "Access token" }
            p.muted {
                "Before it calls the Sandbox's API, your backend asks Symbolon for a token. It gets \
                 one that works: these live 20 seconds, and one that is about to end is refreshed \
                 first."
            }
            @if let Some(token) = self.token {
                div.token {
                    code { (token.masked) }
                    @match left {
                        Some(left) if left > 0 => {
                            // The style counts down by itself; see page.css.
                            span.countdown style={ "--from:" (left) ";animation-duration:" (left) "s" } {
                                span.sr { "expires in " (left) " seconds" }
                            }
                        },
                        Some(_) => span.countdown.over { "expired" },
                        None => span.countdown.over { "no known end" },
                    }
                }
                @if left.is_some_and(|it| it > 0) {
                    div.bar aria-hidden="true" {
                        div style={ "animation-duration:20s;animation-delay:-" (20 - left.unwrap_or(0).clamp(0, 20)) "s" } {}
                    }
                }
            }
            div.row {
                form method="post" action="/token" {
                    button.primary {
                        @match (self.token, left) {
                            (None, _) => "Get a token",
                            (Some(_), Some(left)) if left <= 0 => "Get a token that works",
                            (Some(_), _) => "Get it again",
                        }
                    }
                }
                p.muted.grow {
                    @if let Some(token) = self.token {
                        @if token.is_new { "A new token. " } @else { "Still the same token. " }
                    }
                    "The Sandbox has seen " b { (self.refreshes) }
                    @if self.refreshes == 1 { " refresh." } @else { " refreshes." }
                }
            }
        }
    }

    /// Rounded down, so that the page never says more than there is.
    fn seconds_left(&self) -> Option<i64> {
        Some((self.token?.expires_at? - self.now).num_seconds())
    }
}

fn is_valid(account: &LinkedAccount) -> bool {
    account.status == "valid"
}

fn who(account: &LinkedAccount) -> Markup {
    let text = |key: &str| account.data.get(key).and_then(|it| it.as_str());
    html! {
        p.muted {
            (text("name").unwrap_or(&account.external_id))
            @if let Some(email) = text("email") { " · " (email) }
        }
    }
}

fn facts(account: &LinkedAccount) -> Markup {
    html! {
        dl {
            div { dt { "Identity" } dd { (account.id) } }
            div { dt { "External id" } dd { code { (account.external_id) } } }
            div { dt { "Scopes" } dd { (account.scopes.join(" ")) } }
            @if let Some(at) = account.date_verified {
                div { dt { "Verified" } dd { (at.format("%Y-%m-%d %H:%M UTC")) } }
            }
        }
    }
}

fn connect(label: &str) -> Markup {
    html! { form method="post" action="/connect" { button.primary { (label) } } }
}

fn unlink() -> Markup {
    html! {
        details {
            summary { "Unlink" }
            form method="post" action="/unlink" {
                p { "Symbolon forgets the account and its credentials, and ends the grant at the \
                     Sandbox." }
                button.danger name="sure" value="yes" { "Yes, unlink" }
            }
        }
    }
}

fn host(url: &Url) -> String {
    url.origin().ascii_serialization().replace("http://", "")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn account(status: &str) -> LinkedAccount {
        LinkedAccount {
            id: 1,
            external_id: "ada".into(),
            status: status.into(),
            data: json!({"name": "<script>alert(1)</script>"}),
            scopes: vec!["openid".into()],
            date_verified: None,
        }
    }

    fn render(account: Option<&LinkedAccount>, token: Option<&ShownToken>) -> String {
        let url = Url::parse("http://127.0.0.1:1/").unwrap();
        let links = Links { symbolon: &url, sandbox: &url };
        let now = DateTime::UNIX_EPOCH;
        Page { account, notice: None, token, refreshes: 2, now, links }.render().into_string()
    }

    fn token(expires_in: i64) -> ShownToken {
        ShownToken {
            identity: 1,
            masked: "••••abc".into(),
            expires_at: DateTime::from_timestamp(expires_in, 0),
            is_new: true,
        }
    }

    #[test]
    fn the_page_offers_what_can_be_done() {
        let nothing = render(None, None);
        assert!(nothing.contains("Connect your Sandbox account") && !nothing.contains("/token"));
        let valid = render(Some(&account("valid")), None);
        assert!(valid.contains("Get a token") && valid.contains("/unlink"));
        let invalid = render(Some(&account("invalid")), None);
        assert!(invalid.contains("Connect again") && !invalid.contains("/token"));
    }

    #[test]
    fn what_a_provider_says_is_text_and_the_page_has_no_script() {
        let page = render(Some(&account("valid")), Some(&token(5)));
        assert!(!page.contains("<script"), "{page}");
    }

    #[test]
    fn a_token_counts_down_until_it_has_expired() {
        let alive = render(Some(&account("valid")), Some(&token(5)));
        assert!(alive.contains("expires in 5 seconds") && alive.contains("content=\"6\""));
        let over = render(Some(&account("valid")), Some(&token(0)));
        assert!(over.contains("expired") && !over.contains("http-equiv"));
        assert!(over.contains("<b>2</b> refreshes."));
    }
}
