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
    let mut text = String::new();
    for name in &names {
        let verb = if arguments.dry_run { "would apply" } else { "applied" };
        text.push_str(&format!("{verb} {name}\n"));
    }
    if names.is_empty() {
        text.push_str("nothing to apply: the database is up to date\n");
    }
    print(&text)
}
