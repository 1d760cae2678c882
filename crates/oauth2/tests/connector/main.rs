//! The connector against providers on loopback: every request that we send, and every bad answer
//! that we must refuse.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod authorization;
mod canary;
mod catalog_words;
mod client_keys;
mod client_secrets;
mod datadog;
mod device;
mod discovery;
mod dpop;
mod entra;
mod exchange;
mod generic;
mod hostile_answers;
mod http_client;
mod id_tokens;
mod keys;
mod logout_tokens;
mod mcp;
mod provider;
mod raw_server;
mod recorded_answers;
mod refresh;
mod registration;
mod registry;
mod revocation;
mod ssrf;
mod stand_in;
mod test_key;
mod trusted_issuers;
mod userinfo;
mod webhooks;
