//! What the doctor looks at.

mod database;
mod providers;

use std::{path::Path, sync::Arc};

use chrono::TimeDelta;
use symbolon_domain::ports::Sealer;
use symbolon_keyring::KeyRing;

use crate::{
    catalog::http_client,
    failure::sentence,
    settings::{Mistake, Need, Settings},
};

/// How far clocks may differ: leases and expiries are compared between machines.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(5);

/// How something was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// In order.
    Ok,
    /// Works, and should be looked at.
    Warning,
    /// Does not work.
    Problem,
}

impl Status {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    pub(super) status: Status,
    /// What was looked at.
    pub(super) name: String,
    /// How it was found.
    pub(super) finding: String,
    /// What to do about it.
    pub(super) advice: Option<String>,
}

impl Check {
    fn new(status: Status, name: &str, finding: impl Into<String>, advice: Option<&str>) -> Self {
        let advice = advice.map(str::to_owned);
        Self { status, name: name.to_owned(), finding: finding.into(), advice }
    }

    fn ok(name: &str, finding: impl Into<String>) -> Self {
        Self::new(Status::Ok, name, finding, None)
    }

    fn warning(name: &str, finding: impl Into<String>, advice: &str) -> Self {
        Self::new(Status::Warning, name, finding, Some(advice))
    }

    fn problem(name: &str, finding: impl Into<String>, advice: &str) -> Self {
        Self::new(Status::Problem, name, finding, Some(advice))
    }
}

/// Looks at everything, as far as what comes first lets it. Changes nothing.
pub(super) async fn all(config: Option<&Path>) -> Vec<Check> {
    let settings = match Settings::load(config, &[Need::Database, Need::Keyring]) {
        Ok(settings) => settings,
        Err(mistakes) => {
            let problem = |it: &Mistake| {
                let advice = "correct it; symbolon.example.toml has every key";
                Check::problem("configuration", it.to_string(), advice)
            };
            return mistakes.0.iter().map(problem).collect();
        }
    };
    let mut checks = configuration(&settings);
    let (key_check, keys) = key_ring(settings.keyring.file.as_deref().unwrap_or(Path::new("")));
    let (database_checks, database) = database::check(&settings, keys).await;
    checks.extend(database_checks);
    checks.push(key_check);
    let mut clocks = Vec::new();
    if let Some(database) = &database {
        clocks.extend(database::clock(database).await);
    }
    match http_client(&settings.http_client) {
        Ok(http) => {
            let found = providers::check(&settings, database.as_ref(), &http).await;
            checks.extend(found.checks);
            clocks.extend(found.clocks);
        }
        Err(error) => {
            let advice = "install the system's root certificates (ca-certificates)";
            checks.push(Check::problem("http client", sentence(&error), advice));
        }
    }
    checks.extend(clock(&clocks));
    checks
}

/// Another clock, and how far ours is ahead of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OtherClock {
    whose: String,
    ahead: TimeDelta,
}

fn clock(others: &[OtherClock]) -> Vec<Check> {
    if others.is_empty() {
        return vec![Check::ok("clock", "there is no other one to compare with")];
    }
    let advice = "run a time service (NTP) on every machine";
    others
        .iter()
        .map(|it| {
            let seconds = it.ahead.num_seconds().abs();
            if it.ahead.abs() <= CLOCK_TOLERANCE {
                return Check::ok("clock", format!("agrees with {}", it.whose));
            }
            let direction = if it.ahead > TimeDelta::zero() { "ahead of" } else { "behind" };
            let finding = format!("{seconds} s {direction} {}", it.whose);
            Check::warning("clock", finding, advice)
        })
        .collect()
}

fn configuration(settings: &Settings) -> Vec<Check> {
    let warnings = settings.warnings();
    if warnings.is_empty() {
        return vec![Check::ok("configuration", "understood")];
    }
    let warning = |it: &String| Check::new(Status::Warning, "configuration", it.as_str(), None);
    warnings.iter().map(warning).collect()
}

fn key_ring(file: &Path) -> (Check, Option<Arc<dyn Sealer>>) {
    match KeyRing::load(file) {
        Ok(ring) => {
            let keys = ring.status();
            let active = keys.iter().find(|it| it.active);
            let active = active
                .map_or_else(String::new, |it| format!("key {} ({}) seals", it.id, it.fingerprint));
            let plural = if keys.len() == 1 { "key" } else { "keys" };
            let finding = format!("{} {plural}, {active}, for its owner only", keys.len());
            (Check::ok("key ring", finding), Some(Arc::new(ring)))
        }
        Err(error) => {
            let advice = "without the right key ring no stored credential can be read";
            (Check::problem("key ring", sentence(&error), advice), None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_more_than_5_seconds_off_is_warned_of() {
        let check = |ahead: i64| {
            let others = [OtherClock { whose: "x".into(), ahead: TimeDelta::seconds(ahead) }];
            let checks = clock(&others);
            (checks[0].status, checks[0].finding.clone())
        };
        assert_eq!(check(5).0, Status::Ok);
        assert_eq!(check(-5).0, Status::Ok);
        assert_eq!(check(6), (Status::Warning, "6 s ahead of x".to_owned()));
        assert_eq!(check(-60), (Status::Warning, "60 s behind x".to_owned()));
        assert_eq!(clock(&[])[0].status, Status::Ok);
    }
}
