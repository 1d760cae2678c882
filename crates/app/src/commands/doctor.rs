mod checks;

use std::path::Path;

use serde_json::json;

use self::checks::{Check, Status};
use crate::{
    cli::OutputArgs,
    failure::Failure,
    output::{print, print_json},
};

/// `symbolon doctor`.
pub(super) async fn run(output: OutputArgs, config: Option<&Path>) -> Result<(), Failure> {
    let checks = checks::all(config).await;
    if output.json {
        print_json(&checks.iter().map(form).collect::<Vec<_>>())?;
    } else {
        let lines: Vec<_> = checks.iter().map(line).collect();
        print(&format!("{}\n", lines.join("\n")))?;
    }
    match checks.iter().filter(|it| it.status == Status::Problem).count() {
        0 => Ok(()),
        1 => Err(Failure::Unhealthy("there is 1 problem".to_owned())),
        many => Err(Failure::Unhealthy(format!("there are {many} problems"))),
    }
}

fn line(check: &Check) -> String {
    let status = check.status.as_str();
    let advice = check.advice.as_ref().map(|it| format!(" — {it}")).unwrap_or_default();
    format!("{status:8} {}: {}{advice}", check.name, check.finding)
}

fn form(check: &Check) -> serde_json::Value {
    json!({
        "status": check.status.as_str(),
        "name": check.name,
        "finding": check.finding,
        "advice": check.advice,
    })
}
