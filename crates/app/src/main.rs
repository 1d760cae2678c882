//! The `symbolon` command.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use symbolon::{cli::Cli, commands, failure::sentence};

/// A token's way through the service is a hundred small allocations on threads that take turns.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // Clap answers help with 0 and wrong usage with 2.
    let cli = Cli::parse();
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Where nobody listens there is nobody to tell.
            let _ = writeln!(io::stderr(), "symbolon: {}", sentence(&failure));
            ExitCode::FAILURE
        }
    }
}
