//! What each command does.

mod api_key;
mod doctor;
mod export;
mod freeze;
mod import;
mod keyring;
mod migrate;
mod provider_types;
mod serve;

use std::{future::Future, path::Path};

use clap::{CommandFactory as _, error::ErrorKind};

pub(crate) use self::api_key::all as all_api_keys;
use crate::{
    cli::{Cli, Command},
    demo,
    failure::Failure,
    output,
};

/// Does what the command line asks for.
///
/// # Errors
///
/// [`Failure`], to be told to the operator.
pub fn run(cli: Cli) -> Result<(), Failure> {
    let config = cli.config.as_deref();
    match cli.command {
        Command::Demo(arguments) => {
            refuse_config(config);
            block_on(demo::run(&arguments))
        }
        Command::Serve => block_on(serve::run(config)),
        Command::Migrate(arguments) => block_on(migrate::run(&arguments, config)),
        Command::ApiKey(command) => block_on(api_key::run(&command, config)),
        Command::Freeze(command) => block_on(freeze::freeze(&command, config)),
        Command::Unfreeze(arguments) => block_on(freeze::unfreeze(&arguments, config)),
        Command::Keyring(command) => block_on(keyring::run(&command, config)),
        Command::ProviderTypes(command) => block_on(provider_types::run(&command, config)),
        Command::Doctor(output) => block_on(doctor::run(output, config)),
        Command::Import(command) => block_on(import::run(&command, config)),
        Command::Export(arguments) => block_on(export::run(&arguments, config)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "symbolon", &mut script);
            output::print(&String::from_utf8_lossy(&script))
        }
    }
}

/// The demo is never what a configuration says. Ends the process as wrong usage.
fn refuse_config(config: Option<&Path>) {
    if config.is_some() {
        Cli::command()
            .error(
                ErrorKind::ArgumentConflict,
                "the demo reads no configuration; leave out --config",
            )
            .exit();
    }
}

/// Several threads, always: dropping a query of an embedded database blocks its thread until the
/// database is done.
fn block_on(work: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|it| Failure::System("cannot start threads", it))?
        .block_on(work)
}
