//! A throwaway PostgreSQL for tests and benchmarks: a cluster of its own on a free loopback port,
//! run by an unprivileged user, without the durability that nobody needs here.
//!
//! `with-postgres COMMAND…` starts one for a whole test run and tells it to the command by
//! [`URL_VARIABLE`]; a process that finds none there starts its own. It ends when the process that
//! started it ends, be it by `kill -9`: a shell waits for the end of a pipe that the process holds.

mod cluster;
mod database;

pub use cluster::{Cluster, ServerTls, StartError};
pub use database::{TestDatabase, tables_as_text};

/// Where a cluster that is shared by many processes is: `postgres://…/postgres`.
pub const URL_VARIABLE: &str = "SYMBOLON_TEST_POSTGRES_URL";
