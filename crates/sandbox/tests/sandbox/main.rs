//! The sandbox, seen from a relying party's side.

#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

mod authorization;
mod control;
mod endpoint_faults;
mod honest_flow;
mod pages;
mod refresh;
mod relying_party;
mod shape;
mod token_faults;
