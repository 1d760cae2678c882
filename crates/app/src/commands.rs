//! What each command does.

mod keyring;

use clap::CommandFactory as _;

use crate::{
    cli::{Cli, Command},
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
        Command::Keyring(command) => keyring::run(&command, config),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "symbolon", &mut script);
            output::print(&String::from_utf8_lossy(&script))
        }
        _ => Ok(()),
    }
}
