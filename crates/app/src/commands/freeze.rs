use std::path::Path;

use serde_json::{Value, json};
use symbolon_domain::{
    Error,
    event::Actor,
    freeze::{Freeze, FreezeSubject},
    page::PageRequest,
    ports::VendingRepository,
    services,
};

use crate::{
    cli::{FreezeArgs, FreezeCommand, FreezeKind, OutputArgs, UnfreezeArgs},
    database::Database,
    failure::Failure,
    output::{print, print_json, table},
    settings::{Need, Settings},
};

/// `symbolon freeze …`.
pub(super) async fn freeze(command: &FreezeCommand, config: Option<&Path>) -> Result<(), Failure> {
    let settings = Settings::load(config, &[Need::Database])?;
    let (kind, arguments) = match command {
        FreezeCommand::Key(arguments) => (FreezeKind::Key, arguments),
        FreezeCommand::Provider(arguments) => (FreezeKind::Provider, arguments),
        FreezeCommand::Organization(arguments) => (FreezeKind::Organization, arguments),
        FreezeCommand::List(output) => {
            let database = Database::open_existing(&settings.database).await?;
            return list(&*database.repositories().vending, *output).await;
        }
    };
    let FreezeArgs { id, reason, output } = arguments;
    let subject = subject(kind, id)?;
    let actor = match reason {
        Some(reason) => Actor::OPERATOR.because(reason),
        None => Actor::OPERATOR,
    };
    let database = Database::open_existing(&settings.database).await?;
    let vending = database.repositories().vending;
    let (freeze, made) = services::freeze(&*vending, &subject, &actor).await?;
    if output.json {
        return print_json(&form(&freeze));
    }
    let since = freeze.frozen_at.format("%Y-%m-%dT%H:%M:%SZ");
    print(&if made {
        format!(
            "{subject} is frozen: no replica hands out a token from now on. Lift it with `symbolon \
             unfreeze {} {id}`.\n",
            subject.kind()
        )
    } else {
        format!("{subject} is frozen since {since}, by {}.\n", freeze.by.who)
    })
}

/// `symbolon unfreeze …`.
pub(super) async fn unfreeze(
    arguments: &UnfreezeArgs,
    config: Option<&Path>,
) -> Result<(), Failure> {
    let settings = Settings::load(config, &[Need::Database])?;
    let subject = subject(arguments.kind, &arguments.id)?;
    let actor = match &arguments.reason {
        Some(reason) => Actor::OPERATOR.because(reason),
        None => Actor::OPERATOR,
    };
    let database = Database::open_existing(&settings.database).await?;
    let lifted = services::unfreeze(&*database.repositories().vending, &subject, &actor).await;
    let freeze = lifted.map_err(|error| match error {
        Error::NotFound(_) => {
            Failure::Argument(format!("{subject} is not frozen; see `symbolon freeze list`"))
        }
        other => other.into(),
    })?;
    if arguments.output.json {
        print_json(&form(&freeze))
    } else {
        print(&format!("{subject} is not frozen any more.\n"))
    }
}

fn subject(kind: FreezeKind, id: &str) -> Result<FreezeSubject, Failure> {
    FreezeSubject::parse(kind.as_str(), id)
        .map_err(|(_, problem)| Failure::Argument(format!("the id {problem}")))
}

async fn list(vending: &dyn VendingRepository, output: OutputArgs) -> Result<(), Failure> {
    let (mut all, mut page) = (Vec::new(), PageRequest { limit: 200, after: None });
    loop {
        let read = vending.list_freezes(page).await.map_err(Error::from)?;
        all.extend(read.items);
        let Some(after) = read.next else { break };
        page.after = Some(after);
    }
    if output.json {
        return print_json(&all.iter().map(form).collect::<Vec<_>>());
    }
    let rows: Vec<_> = all
        .iter()
        .map(|it| {
            [
                it.subject.kind().to_owned(),
                it.subject.id(),
                it.frozen_at.format("%Y-%m-%dT%H:%M:%SZ").to_string(),
                it.by.who.to_string(),
                it.by.reason.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        })
        .collect();
    print(&table(["KIND", "ID", "FROZEN", "BY", "REASON"], &rows))
}

fn form(freeze: &Freeze) -> Value {
    json!({
        "kind": freeze.subject.kind(),
        "id": freeze.subject.id(),
        "frozen_at": freeze.frozen_at,
        "frozen_by": freeze.by.who.to_string(),
        "acting_user": freeze.by.acting_user.as_ref().map(symbolon_domain::ids::UserId::as_str),
        "reason": freeze.by.reason,
    })
}
