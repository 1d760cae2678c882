//! What the doctor looks at.

mod database;
mod providers;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use symbolon_domain::{
    ports::Sealer,
    services::{KeyRotation, SealedReport},
};
use symbolon_keyring::KeyService;

use crate::{
    catalog::http_client,
    failure::sentence,
    settings::{Mistake, Need, Settings},
};

/// How far clocks may differ: leases and expiries are compared between machines.
const CLOCK_TOLERANCE: TimeDelta = TimeDelta::seconds(5);

/// How long sealed values are looked at: `symbolon keyring status` looks at all of them.
const SEALED_VALUES_TIME: Duration = Duration::from_secs(5);

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
    let (key_check, keys) = key_ring(&*settings.keyring.service());
    let has_keys = keys.is_some();
    let (database_checks, database) = database::check(&settings, keys).await;
    checks.extend(database_checks);
    checks.push(key_check);
    if let Some(database) = database.as_ref().filter(|_| has_keys) {
        checks.push(sealed_values(&database.key_rotation()).await);
    }
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

fn key_ring(service: &dyn KeyService) -> (Check, Option<Arc<dyn Sealer>>) {
    match service.load() {
        Ok(ring) => {
            let keys = ring.status();
            let active = keys.iter().find(|it| it.active);
            let active = active
                .map_or_else(String::new, |it| format!("key {} ({}) seals", it.id, it.fingerprint));
            let plural = if keys.len() == 1 { "key" } else { "keys" };
            let finding = format!("{} {plural}, {active}", keys.len());
            (Check::ok("key ring", finding), Some(Arc::new(ring)))
        }
        Err(error) => {
            let advice = "without the right key ring no stored credential can be read";
            (Check::problem("key ring", sentence(&error), advice), None)
        }
    }
}

/// Whether what is sealed opens where it lies, as far as there is time for it.
async fn sealed_values(rotation: &KeyRotation) -> Check {
    let name = "sealed values";
    let begun = Instant::now();
    let looked = rotation.check_until(&mut |_| (), || begun.elapsed() > SEALED_VALUES_TIME).await;
    let (report, whole) = match looked {
        Ok(looked) => looked,
        Err(error) => {
            let advice = "check that the database runs";
            return Check::problem(name, sentence(&error), advice);
        }
    };
    sealed_values_found(&report, whole)
}

fn sealed_values_found(report: &SealedReport, whole: bool) -> Check {
    let name = "sealed values";
    let (values, refused) = (report.values(), report.refused.len());
    let among = if whole {
        format!("of {values}")
    } else {
        format!("of the {values} looked at in {} s", SEALED_VALUES_TIME.as_secs())
    };
    if values == 0 {
        return Check::ok(name, "there are none");
    }
    if refused == 0 {
        return Check::ok(name, format!("all {among} open"));
    }
    let plural = if refused == 1 { "does" } else { "do" };
    let finding = format!("{refused} {among} {plural} not open");
    Check::problem(name, finding, "`symbolon keyring status` names their rows and says why")
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
