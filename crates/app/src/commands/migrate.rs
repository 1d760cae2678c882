use std::path::Path;

use serde_json::json;

use crate::{
    cli::MigrateArgs,
    database::Database,
    failure::Failure,
    output::{print, print_json},
    settings::{Need, Settings},
};

/// `symbolon migrate`.
pub(super) async fn run(arguments: &MigrateArgs, config: Option<&Path>) -> Result<(), Failure> {
    let settings = Settings::load(config, &[Need::Database])?;
    let names = if arguments.dry_run {
        Database::pending_migrations_of(&settings.database).await?
    } else {
        Database::open(&settings.database).await?.migrate().await?
    };
    if arguments.output.json {
        let key = if arguments.dry_run { "pending" } else { "applied" };
        return print_json(&json!({ key: names }));
    }
    if names.is_empty() {
        return print("nothing to apply: the database is up to date\n");
    }
    let verb = if arguments.dry_run { "would apply" } else { "applied" };
    let lines: Vec<_> = names.iter().map(|name| format!("{verb} {name}\n")).collect();
    print(&lines.concat())
}
