//! The whole product from the outside, and the rules of the workspace.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod arrows;
mod browser;
mod canary;
mod chaos;
mod chromium;
mod crash;
mod demo;
mod device;
mod dpop;
mod logout;
mod main_way;
mod mcp;
mod oidc_provider;
mod parity;
mod protocol;
mod sentry_rpc;
mod service;
mod side_by_side;
mod tls;
mod unlink;
mod webhooks;
mod world;
