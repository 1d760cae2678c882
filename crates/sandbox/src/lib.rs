//! A small OpenID provider on loopback, with switchable faults: for demos, for tests, and for
//! whoever writes a relying party.
//!
//! With no fault set it is a correct provider: authorization code with PKCE, ID tokens, userinfo,
//! refresh with rotation and reuse detection, revocation, introspection, discovery. With one set
//! it fails in exactly the way that was asked for, for as many requests as were asked for, and
//! [writes down](Record) what happened. Everything is in memory and gone when it stops; it listens
//! on loopback and nowhere else; its people are made up.
//!
//! ```
//! use std::{io::{Read, Write}, net::TcpStream};
//! use symbolon_sandbox::{Endpoint, Fault, Sandbox, SandboxSettings, Times};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let sandbox = Sandbox::start(SandboxSettings::default()).await?;
//!
//! let address = sandbox.address();
//! let fetch = move || -> std::io::Result<String> {
//!     let mut stream = TcpStream::connect(address)?;
//!     let path = "/.well-known/openid-configuration";
//!     write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
//!     let mut answer = String::new();
//!     stream.read_to_string(&mut answer)?;
//!     Ok(answer)
//! };
//! let answer = tokio::task::spawn_blocking(fetch).await??;
//! assert!(answer.starts_with("HTTP/1.1 200 OK"));
//! assert!(answer.contains(&format!("\"issuer\":\"{}\"", sandbox.issuer())));
//!
//! sandbox.faults().inject(Endpoint::Discovery, Fault::status(503), Times::Next(1))?;
//! let answer = tokio::task::spawn_blocking(fetch).await??;
//! assert!(answer.starts_with("HTTP/1.1 503"));
//! assert_eq!(sandbox.records()[1].faults, ["status"]);
//!
//! sandbox.stop().await;
//! # Ok(())
//! # }
//! ```
//!
//! # From outside
//!
//! The same switches over HTTP, for a sandbox that runs in another process:
//!
//! | request | does |
//! | --- | --- |
//! | `GET /sandbox/faults` | those that wait for requests: `{"items": […]}` |
//! | `POST /sandbox/faults` `{"endpoint": "refresh", "fault": {"kind": "drop_after"}, "times": 2}` | one more; without `times` until it is cleared. Kinds: [`Fault`] |
//! | `DELETE /sandbox/faults?endpoint=` | takes back those of one endpoint, or all |
//! | `GET /sandbox/records?after=` | `{"items": […], "counters": {…}}`: [`Record`], [`Counters`] |
//! | `POST /sandbox/expire-access-tokens` | lets every access token expire now |
//! | `POST /sandbox/revoke-grants` `{"sub"}` | takes back what a user has consented to |
//! | `POST /sandbox/rotate-keys` `{"algorithm"?, "retire"?}` | signs with a new key |
//!
//! A script answers the page by posting to the address of the authorization request:
//! `curl -i -d account=ada "$AUTHORIZATION_URL"`, or `-d cancel=1`.

mod answer;
mod authorization;
mod client_authentication;
mod clock;
mod connection;
mod control;
mod discovery;
mod endpoint;
mod fault;
mod faults;
mod grants;
mod id_token;
mod introspection;
mod keys;
mod page;
mod parameters;
mod provider;
mod random;
mod records;
mod revocation;
mod sandbox;
mod server;
mod settings;
pub mod shape;
mod token;
mod userinfo;

pub use endpoint::{Endpoint, UnknownEndpoint};
pub use fault::{ExpiresIn, Fault, IdTokenFlaw};
pub use faults::{ActiveFault, Faults, InvalidFault, Times};
pub use keys::SigningAlgorithm;
pub use random::fingerprint;
pub use records::{Counters, Outcome, Record, Records};
pub use sandbox::{NotApproved, Sandbox, StartError};
pub use settings::{Account, Client, InvalidSettings, SandboxSettings};
