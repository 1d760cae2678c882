use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use symbolon_domain::{
    credentials::Credentials,
    identity::{IdentityStatus, InvalidReason},
    ids::IdentityId,
    ports::{FailureClass, StoredCredentials},
    secret::Secret,
};

use super::{
    plan::{Away, CALL_TIMEOUT, Plan, Window},
    provider::Provider,
};

/// A rule that was broken: the rule's short name, and what happened.
pub(crate) type Violation = (&'static str, String);

/// What an all-knowing observer has seen, and what it holds against it.
pub(crate) struct Truth {
    pub(crate) provider: Provider,
    pub(crate) processes: Vec<Process>,
    pub(crate) violations: Vec<Violation>,
    pub(crate) counts: BTreeMap<&'static str, u64>,
    /// Refresh tokens that are in the queue of revocations.
    pub(crate) queued: BTreeSet<String>,
    rows: BTreeMap<IdentityId, Row>,
    gone: BTreeSet<IdentityId>,
    /// What was done with each refresh token since it became its row's.
    uses: BTreeMap<String, Vec<Use>>,
    /// Access tokens that came into a row.
    committed: BTreeSet<String>,
    orphans: Vec<Orphan>,
    /// Refresh tokens that came in an answer, and the use that they came for.
    brought: BTreeMap<String, Use>,
    last_use: u64,
    pub(crate) windows: Vec<Window>,
    skew: Duration,
    reusable: bool,
}

/// One start of one replica.
pub(crate) struct Process {
    pub(crate) name: String,
    pub(crate) slot: usize,
    pub(crate) crashed: Option<Duration>,
    /// When it last stood still for long, or was told late what had become of a write.
    pub(crate) stalled: Option<Duration>,
    /// When the database last failed it by itself.
    pub(crate) failed: Option<Duration>,
    /// When the provider last answered whether it does.
    pub(crate) sign_of_life: Option<Duration>,
}

/// A row, as it was seen last.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) account: String,
    pub(crate) stored: StoredCredentials,
}

/// A refresh token was sent, or was about to be.
#[derive(Clone)]
struct Use {
    id: u64,
    process: usize,
    recorded: Duration,
    sent: Option<Duration>,
    in_flight: bool,
    /// Somebody linked again, and kept the refresh token.
    overtaken: bool,
    end: Option<End>,
}

/// Tokens that a process has, and that no row wants.
struct Orphan {
    account: String,
    token: String,
    process: usize,
}

/// What its sender came to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The provider did nothing.
    Nothing,
    /// It brought tokens.
    Brought,
    /// The token was refused.
    Refused,
    /// No answer came, or none that says anything.
    Lost,
}

impl Truth {
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            provider: Provider::new(plan.rules),
            processes: Vec::new(),
            violations: Vec::new(),
            counts: BTreeMap::new(),
            queued: BTreeSet::new(),
            rows: BTreeMap::new(),
            gone: BTreeSet::new(),
            uses: BTreeMap::new(),
            committed: BTreeSet::new(),
            orphans: Vec::new(),
            brought: BTreeMap::new(),
            last_use: 0,
            windows: plan.windows.clone(),
            skew: plan.skew,
            reusable: plan.rules.reusable,
        }
    }

    pub(crate) fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    pub(crate) fn violate(&mut self, rule: &'static str, what: String) {
        self.violations.push((rule, what));
    }

    /// The rows may have changed, by a service or by somebody who links.
    pub(crate) fn observe(&mut self, rows: Vec<Row>, by_link: bool, now: Duration) {
        let ids: BTreeSet<_> = rows.iter().map(|it| it.stored.identity_id).collect();
        let unlinked = self.rows.keys().filter(|it| !ids.contains(it));
        self.gone.extend(unlinked.copied().collect::<Vec<_>>());
        self.rows.retain(|id, _| ids.contains(id));
        for row in rows {
            let id = row.stored.identity_id;
            if by_link && self.rows.get(&id) != Some(&row) {
                // The grant of an account that is linked again is left alone.
                self.orphans.retain(|it| it.account != row.account);
            }
            match self.rows.insert(id, row.clone()) {
                None if self.gone.contains(&id) || !by_link => {
                    self.violate("unlinked is unlinked", format!("row {id} came back"));
                }
                Some(before) if before != row => self.compare(&before, &row, by_link, now),
                _ => {}
            }
        }
    }

    fn compare(&mut self, before: &Row, after: &Row, by_link: bool, now: Duration) {
        let id = after.stored.identity_id;
        if before.stored.generation != after.stored.generation {
            let (old, new) = (refresh_token(&before.stored), refresh_token(&after.stored));
            if let (Some(old), Some(new)) = (&old, &new)
                && !by_link
            {
                let lost = self.provider.works(old, now) && !self.provider.works(new, now);
                if lost || self.provider.is_older(new, old) {
                    let what = format!("row {id}: {new} over {old}");
                    self.violate("nothing newer is overwritten", what);
                }
            }
            // What came of it shows that the same one is still good.
            let uses = new.and_then(|it| self.uses.get_mut(&it));
            match uses {
                Some(uses) if by_link => uses.iter_mut().for_each(|it| it.overtaken = true),
                Some(uses) => uses.retain(|it| it.in_flight || it.sent.is_none()),
                None => {}
            }
        }
        let is_invalid = after.stored.status == IdentityStatus::Invalid;
        if is_invalid && before.stored.status != IdentityStatus::Invalid {
            self.check_invalid(after, now);
        }
        if before.stored.status == IdentityStatus::Invalid && !is_invalid && !by_link {
            self.count("rescued by a late answer");
        }
    }

    /// An identity was made invalid: it must be true.
    fn check_invalid(&mut self, row: &Row, now: Duration) {
        let reason = row.stored.invalid.as_ref().map(|it| it.reason);
        let token = refresh_token(&row.stored);
        let works = token.as_ref().is_some_and(|it| self.provider.works(it, now));
        let doubts = token
            .as_ref()
            .and_then(|it| self.uses.get(it))
            .map_or(0, |uses| uses.iter().filter(|it| self.is_in_doubt(it, now)).count());
        let honest = match reason {
            Some(InvalidReason::GrantRejected) => {
                self.count("invalid: grant rejected");
                token.is_some() && !works
            }
            Some(InvalidReason::RotationInDoubt) => {
                self.count("invalid: rotation in doubt");
                token.is_some() && (!works || doubts >= 2)
            }
            Some(InvalidReason::NoRefreshToken) => {
                self.count("invalid: no refresh token");
                let access = row.stored.credentials.as_ref();
                let access = access.and_then(|it| it.access_token.as_ref());
                let ends = access.and_then(|it| self.provider.access(it.expose()));
                token.is_none() && ends.is_some_and(|it| it.ends <= now + self.skew * 2)
            }
            Some(InvalidReason::Imported) | None => false,
        };
        if !honest {
            let what = format!(
                "row {}: {reason:?}, but {token:?} works: {works}, and {doubts} uses are in doubt",
                row.stored.identity_id
            );
            self.violate("invalid only in truth", what);
        }
    }

    /// A process wrote down that it is about to send a row's refresh token.
    pub(crate) fn recorded(&mut self, process: usize, id: IdentityId, now: Duration) {
        let token = self.rows.get(&id).and_then(|it| refresh_token(&it.stored));
        let Some(token) = token else { return };
        let recorded = self.new_use(process, now);
        self.uses.entry(token).or_default().push(recorded);
    }

    fn new_use(&mut self, process: usize, now: Duration) -> Use {
        self.last_use += 1;
        let id = self.last_use;
        let (in_flight, overtaken) = (false, false);
        Use { id, process, recorded: now, sent: None, in_flight, overtaken, end: None }
    }

    /// A process sends a refresh token. The answer names this use.
    pub(crate) fn send(&mut self, process: usize, token: &str, now: Duration) -> u64 {
        self.count("refresh tokens sent");
        let mut uses = self.uses.remove(token).unwrap_or_default();
        let name = self.processes[process].name.clone();

        let at_it = uses.iter().find(|it| {
            let gone = self.processes[it.process].crashed.is_some();
            it.in_flight && !(gone && it.sent.is_some_and(|at| now >= at + CALL_TIMEOUT))
        });
        if let Some(other) = at_it {
            let other = self.processes[other.process].name.clone();
            self.violate("one use in flight", format!("{name} sends {token}, {other} does too"));
        }
        let earlier = uses.iter().filter(|it| it.sent.is_some() && it.end != Some(End::Nothing));
        let earlier: Vec<_> = earlier.collect();
        if !self.reusable {
            if earlier.len() > 1 {
                let what = format!("{name} sends {token} for the third time");
                self.violate("one careful retry", what);
            }
            if let Some(last) = earlier.last() {
                self.count("careful retries");
                if !self.has_cause(last, now) {
                    let what = format!("{name} sends {token} again, and nothing was lost");
                    self.violate("a retry only in doubt", what);
                }
                if self.processes[process].sign_of_life < last.sent {
                    let what = format!("{name} sends {token} again, and has not asked before");
                    self.violate("a retry only after a sign of life", what);
                }
            }
        }
        if let Some(row) = self.rows.values().find(|it| is_about(&it.stored, token))
            && let Some(back_off) = &row.stored.back_off
            && back_off.class == FailureClass::Unavailable
            && super::at(now) + self.skew * 2 < back_off.until
        {
            let what = format!("{name} sends {token} before {}", back_off.until);
            self.violate("a provider is given the time it needs", what);
        }

        let own = |it: &Use| it.process == process && it.sent.is_none();
        let nth = uses.iter().rposition(own).unwrap_or_else(|| {
            let what = format!("{name} sends {token}, which is written down nowhere");
            self.violate("written down before it is sent", what);
            uses.push(self.new_use(process, now));
            uses.len() - 1
        });
        uses[nth].sent = Some(now);
        uses[nth].in_flight = true;
        let id = uses[nth].id;
        self.uses.insert(token.to_owned(), uses);
        id
    }

    /// The sender of a use came to know something, or gave up.
    pub(crate) fn ended(&mut self, token: &str, id: u64, end: End) {
        let uses = self.uses.get_mut(token).into_iter().flatten();
        for it in uses.filter(|it| it.id == id && it.in_flight) {
            it.in_flight = false;
            it.end = Some(end);
        }
    }

    /// New credentials are safe.
    pub(crate) fn committed(&mut self, credentials: &Credentials) {
        let token = credentials.access_token.as_ref().map(Secret::expose);
        self.committed.extend(token.map(str::to_owned));
    }

    /// New credentials are for nobody: they must be revoked.
    pub(crate) fn orphaned(&mut self, process: usize, credentials: &Credentials) {
        let access = credentials.access_token.as_ref().map(Secret::expose);
        if access.is_some_and(|it| self.committed.contains(it)) {
            // A second try that came after the unlink.
            return;
        }
        self.count("late answers for nobody");
        let account = access.and_then(|it| self.provider.access(it)).map(|it| it.account.clone());
        let token = credentials.refresh_token.as_ref().map(|it| it.expose().to_owned());
        if let (Some(account), Some(token)) = (account, token) {
            self.orphans.push(Orphan { account, token, process });
        }
    }

    /// Whether a lost answer, a crash or a process that was cut off explains that nobody else
    /// knows how this use ended.
    fn has_cause(&self, it: &Use, now: Duration) -> bool {
        let process = &self.processes[it.process];
        let since = |at: Option<Duration>| at.is_some_and(|at| at >= it.recorded);
        let cut_off = self.was_away(it.recorded, now, |what| what == Away::Replica(process.slot));
        // Back from an outage, a holder has time for its commit before others go on; one that has
        // no tokens has nothing to lose.
        let outage = self.was_away(it.recorded, now, is_database);
        it.end == Some(End::Lost)
            || it.overtaken
            || process.crashed.is_some()
            || since(process.stalled)
            || cut_off
            || (outage && (since(process.failed) || it.end == Some(End::Refused)))
    }

    /// Whether it counts as a use whose end is unknown.
    fn is_in_doubt(&self, it: &Use, now: Duration) -> bool {
        // How it ended, or that it never was one, is known to nobody else when the database was
        // away for longer than the lease.
        self.has_cause(it, now) || self.was_away(it.recorded, now, is_database)
    }

    fn was_away(&self, from: Duration, now: Duration, what: impl Fn(Away) -> bool) -> bool {
        self.windows.iter().any(|it| what(it.what) && it.from <= now && it.until >= from)
    }

    /// An answer came to its sender, with the next refresh token.
    pub(crate) fn brought(&mut self, sent: &str, id: u64, next: &str) {
        let mut uses = self.uses.get(sent).into_iter().flatten();
        if let Some(it) = uses.rfind(|it| it.id == id) {
            self.brought.insert(next.to_owned(), it.clone());
        }
    }

    /// What must be so when everything has come to rest, but for what follows from it.
    pub(crate) fn check_rest(&mut self, now: Duration) {
        for row in self.rows() {
            let Some(token) = refresh_token(&row.stored) else { continue };
            let next = self.provider.successor(&token).filter(|it| self.provider.works(it, now));
            let brought = next.as_ref().and_then(|it| self.brought.get(it));
            let brought = brought.map(|it| Use { overtaken: false, ..it.clone() });
            if let Some(next) = &next
                && brought.is_some_and(|it| !self.has_cause(&it, now))
            {
                self.violate("no answer is thrown away", format!("{next} came after {token}"));
            }
        }
    }

    /// What must be so when all work is done.
    pub(crate) fn check_end(&mut self) {
        for Orphan { token, process, .. } in std::mem::take(&mut self.orphans) {
            if self.processes[process].crashed.is_none() && !self.queued.contains(&token) {
                self.violate("nothing is left behind", format!("{token} is not revoked"));
            }
        }
    }

    pub(crate) fn rows(&self) -> Vec<Row> {
        self.rows.values().cloned().collect()
    }
}

fn is_database(what: Away) -> bool {
    matches!(what, Away::Database | Away::Paused)
}

fn refresh_token(stored: &StoredCredentials) -> Option<String> {
    let token = stored.credentials.as_ref()?.refresh_token.as_ref()?;
    Some(token.expose().to_owned())
}

fn is_about(stored: &StoredCredentials, token: &str) -> bool {
    refresh_token(stored).is_some_and(|it| it == token)
}
