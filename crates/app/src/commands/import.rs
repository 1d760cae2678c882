use std::{path::Path, sync::Arc};

use serde_json::json;
use symbolon_domain::{
    event::Actor,
    ports::{Clock as _, ImportSettings},
};

use crate::{
    SystemClock,
    archive::{self, Report, SentryParts},
    catalog::{catalog, http_client},
    cli::{ImportArgs, ImportCommand},
    database::Database,
    failure::Failure,
    output::{print, print_json},
    settings::{Need, Settings},
};

/// `symbolon import …`.
pub(super) async fn run(command: &ImportCommand, config: Option<&Path>) -> Result<(), Failure> {
    let settings = Settings::load(config, &[Need::Database, Need::Keyring])?;
    let (ImportCommand::Sentry(arguments) | ImportCommand::Symbolon(arguments)) = command;
    let keys = settings.keyring.service().load()?;
    let database = if arguments.dry_run {
        Database::open_unchanged(&settings.database, Arc::new(keys)).await?
    } else {
        Database::open_to_serve(&settings.database, Arc::new(keys)).await?
    };
    let repositories = database.repositories();
    let how = ImportSettings { actor: Actor::OPERATOR, dry_run: arguments.dry_run, tells: true };
    let mut report = Report::to(arguments.report.as_deref())?;
    let broken = match command {
        ImportCommand::Sentry(_) => {
            let parts = SentryParts {
                archive: &*repositories.archive,
                providers: &*repositories.providers,
                connectors: &catalog(http_client(&settings.http_client)?, &settings.catalog),
                settings: &how,
                now: SystemClock.now(),
            };
            archive::import_sentry(&arguments.file, &parts, &mut report).await?
        }
        ImportCommand::Symbolon(_) => {
            let (archive, events) = (&*repositories.archive, &*repositories.events);
            archive::restore(&arguments.file, archive, events, &how, &mut report).await?
        }
    };
    finish(arguments, report, broken)
}

fn finish(arguments: &ImportArgs, report: Report, broken: Option<String>) -> Result<(), Failure> {
    let summary = report.finish()?;
    if arguments.output.json {
        let mut form = summary.json();
        form.insert("dry_run".to_owned(), json!(arguments.dry_run));
        form.insert("broken".to_owned(), json!(broken));
        print_json(&form)?;
    } else {
        print(&summary.text(arguments.dry_run))?;
    }
    let file = arguments.file.display();
    if let Some(broken) = broken {
        let kept = if arguments.dry_run { "would be" } else { "is" };
        return Err(Failure::Incomplete(format!("{file}: {broken}; what came before {kept} kept")));
    }
    match summary.refused() {
        0 => Ok(()),
        refused => Err(Failure::Incomplete(format!("{refused} rows of {file} were refused"))),
    }
}
