//! `with-postgres COMMAND…`: runs a command with a throwaway PostgreSQL beside it.

use std::process::{Command, ExitCode};

use symbolon_test_postgres::{Cluster, URL_VARIABLE};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let Some(program) = arguments.next() else {
        eprintln!("usage: with-postgres COMMAND [ARGUMENT…]");
        return ExitCode::from(2);
    };
    let cluster = match Cluster::start() {
        Ok(cluster) => cluster,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let status = Command::new(&program).args(arguments).env(URL_VARIABLE, cluster.url()).status();
    drop(cluster);
    match status {
        Ok(status) => {
            let code = status.code().and_then(|it| u8::try_from(it).ok());
            code.map_or(ExitCode::FAILURE, ExitCode::from)
        }
        Err(error) => {
            eprintln!("{} cannot be run: {error}", program.to_string_lossy());
            ExitCode::FAILURE
        }
    }
}
