//! The Symbolon service: configuration, wiring, telemetry and the command.

mod archive;
mod catalog;
pub mod cli;
pub mod commands;
mod database;
mod demo;
mod device_poller;
pub mod failure;
mod key_follower;
mod ledger;
mod output;
mod progress;
mod refresher;
mod replica;
mod revoker;
mod server;
mod service;
mod services;
pub mod settings;
mod shutdown;
mod sweeper;
mod system_clock;
pub mod telemetry;
pub mod trial;
mod webhooks;

pub use self::{replica::replica_name, shutdown::Shutdown, system_clock::SystemClock};
