use std::{
    io::{self, Write as _},
    path::Path,
    sync::Arc,
};

use serde_json::{Map, json};
use symbolon_domain::ports::Sealer;

use crate::{
    archive,
    cli::ExportArgs,
    database::Database,
    failure::Failure,
    output::{print, print_json},
    settings::{Need, Settings},
};

/// `symbolon export`.
pub(super) async fn run(arguments: &ExportArgs, config: Option<&Path>) -> Result<(), Failure> {
    let needs: &[_] =
        if arguments.with_secrets { &[Need::Database, Need::Keyring] } else { &[Need::Database] };
    let settings = Settings::load(config, needs)?;
    let keys: Option<Arc<dyn Sealer>> = if arguments.with_secrets {
        Some(Arc::new(settings.keyring.service().load()?))
    } else {
        None
    };
    let database = Database::open_existing_with(&settings.database, keys).await?;
    let ExportArgs { file, with_secrets, force, output } = arguments;
    let archive = database.repositories().archive;
    let archive::Saved { records: counts, left_out } =
        archive::save(&*archive, file, *with_secrets, *force).await?;
    if *with_secrets {
        // Where nobody listens there is nobody to tell.
        let _ = writeln!(
            io::stderr(),
            "symbolon: {} holds credentials in the clear; keep it as you keep the key ring",
            file.display()
        );
    }
    if output.json {
        let counts: Map<_, _> =
            counts.iter().map(|(kind, count)| (kind.as_str().to_owned(), json!(count))).collect();
        return print_json(&json!({
            "file": file.display().to_string(), "with_secrets": with_secrets, "records": counts,
            "left_out": { "revocation": left_out },
        }));
    }
    let total: u64 = counts.values().sum();
    let kinds: Vec<_> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let kinds = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
    let mut text = format!("{total} records{kinds} in {}\n", file.display());
    if left_out > 0 {
        text = format!(
            "{text}{left_out} revocations that wait are left out: their grants are secrets\n"
        );
    }
    print(&text)
}
