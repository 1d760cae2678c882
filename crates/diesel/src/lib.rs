//! The repositories of [`symbolon_domain::ports`] on PostgreSQL and on embedded SQLite.
//!
//! [`open`] gives every port over one database. The queries are written once, in `queries/`, and
//! compiled for both dialects; what only one of them has (locks, notification, clocks) stands in
//! `postgres.rs` and `sqlite.rs`. Secrets are sealed here, before they reach a row, with the
//! [`Sealer`](symbolon_domain::ports::Sealer) that the store is given. No type of Diesel's leaves
//! this crate.

#![expect(clippy::duplicate_mod, reason = "the queries are compiled once for each dialect")]

#[macro_use]
mod tables;

mod batches;
mod bell;
mod database;
mod failure;
mod postgres;
mod prepared;
mod settings;
mod sqlite;
mod tls;
mod values;

pub use database::{Database, embedded_migrations, open};
pub use postgres::Store as PostgresStore;
pub use settings::{DatabaseSettings, OpenError};
pub use sqlite::Store as SqliteStore;
