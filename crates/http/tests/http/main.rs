//! What callers and browsers are promised, request by request, with the services on mocks.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod app;
mod bad_input;
mod browser;
mod device_links;
mod events;
mod forecast;
mod identities;
mod limits;
mod link_sessions;
mod logouts;
mod logs;
mod openapi;
mod operations;
mod problems;
mod providers;
mod scopes;
mod sentry_rpc;
mod single_sign_on;
mod token_exchange;
mod tokens;
mod transfers;
mod vending;
mod webhooks;
mod whole_way;
