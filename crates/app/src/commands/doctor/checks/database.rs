use std::sync::Arc;

use symbolon_domain::ports::{Clock as _, Sealer};

use super::{Check, OtherClock};
use crate::{database::Database, failure::sentence, settings::Settings, system_clock::SystemClock};

/// Whether the database answers and has its migrations; the database if it can be used.
pub(super) async fn check(
    settings: &Settings,
    keys: Option<Arc<dyn Sealer>>,
) -> (Vec<Check>, Option<Database>) {
    let name = "database";
    let database = match Database::open_to_look(&settings.database, keys).await {
        Ok(Some(database)) => database,
        Ok(None) => {
            let check = Check::ok(name, "is not there yet; `symbolon serve` makes it");
            return (vec![check], None);
        }
        Err(error) => {
            let advice = "check database.url and that the database runs";
            return (vec![Check::problem(name, sentence(&error), advice)], None);
        }
    };
    let pending = match database.pending_migrations().await {
        Ok(pending) => pending,
        Err(error) => {
            let advice = "check database.url and that the database runs";
            return (vec![Check::problem(name, sentence(&error), advice)], None);
        }
    };
    let answers = Check::ok(name, format!("answers ({})", database.kind()));
    let name = "migrations";
    let count = pending.len();
    if count == 0 {
        return (vec![answers, Check::ok(name, "all are applied")], Some(database));
    }
    let finding =
        if count == 1 { "1 is not applied".to_owned() } else { format!("{count} are not applied") };
    let migrations = if database.migrates_itself() || settings.database.auto_migrate {
        Check::warning(name, finding, "`symbolon serve` applies them when it starts")
    } else {
        Check::problem(name, finding, "run `symbolon migrate`")
    };
    // Tables that are not there cannot be looked at.
    (vec![answers, migrations], None)
}

/// The database's clock, where it runs on another machine.
pub(super) async fn clock(database: &Database) -> Option<OtherClock> {
    let before = SystemClock.now();
    let theirs = database.now().await.ok().flatten()?;
    let after = SystemClock.now();
    // The best guess of when it was asked.
    let ours = before + (after - before) / 2;
    Some(OtherClock { whose: "the database's clock".to_owned(), ahead: ours - theirs })
}
