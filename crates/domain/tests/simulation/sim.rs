//! The token service itself, over simulated ports, on a virtual clock: a run is one number.
//!
//! [`plan`] draws what a run is like, [`ports`] lets everything go wrong, [`provider`] keeps the
//! provider's books, [`truth`] sees everything and holds the rules, and [`mutant`] breaks the
//! database's promises to see whether the rules notice. `docs/refresh.md` has the whole of it.

mod mutant;
mod plan;
mod ports;
mod provider;
mod truth;
mod world;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use symbolon_domain::{
    Error,
    credentials::Credentials,
    event::Actor,
    ids::IdentityId,
    ports::{Clock as _, IdentityRepository as _, Unlink},
    secret::Secret,
    services::{IssuedToken, TokenNeed},
};
use tokio::{
    runtime::Builder,
    task::JoinSet,
    time::{sleep, timeout},
};

pub(crate) use self::{mutant::Mutant, truth::Violation};
use self::{
    plan::{Dice, STALL},
    provider::Answer,
    truth::Row,
    world::{Replica, World, at},
};

/// Nobody waits longer: for two attempts, each as long as the service lets a caller wait, and for
/// a database that takes its time.
const LONGEST_WAIT: Duration = Duration::from_mins(2);
/// Longer than any lease, back-off or pause.
const REST: Duration = Duration::from_mins(2);

/// How a run ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The rules that were broken; none is what we want.
    pub(crate) violations: Vec<Violation>,
    /// How often it came to what.
    pub(crate) counts: BTreeMap<&'static str, u64>,
}

/// Runs the world of this number, with a promise broken or none.
pub(crate) fn run(seed: u64, mutant: Option<Mutant>, is_traced: bool) -> Outcome {
    let runtime = Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.expect("a runtime without I/O starts");
    let world = runtime.block_on(async {
        let world = World::new(seed, mutant, is_traced).await.expect("memory does not fail");
        if is_traced {
            println!("{:#?}", world.plan);
        }
        live(&world).await;
        world
    });
    world.forget_replicas();
    drop(runtime);
    let mut truth = world.truth();
    Outcome {
        violations: std::mem::take(&mut truth.violations),
        counts: std::mem::take(&mut truth.counts),
    }
}

/// Chaos, rest, and a look at what is left.
async fn live(world: &Arc<World>) {
    for nth in 0..world.plan.accounts {
        link(world, nth, "account").await;
    }
    let mut callers = JoinSet::new();
    for _ in 0..world.plan.steps {
        let (world, begin) = (world.clone(), world.dice.millis(0, 100_000));
        // Those who wait for the same thing wake in any order: each has dice of its own.
        let dice = Dice::new(world.dice.below(u64::MAX));
        callers.spawn(async move {
            sleep(begin).await;
            act(&world, &dice).await;
        });
    }
    sleep(world.plan.chaos).await;
    world.calm();
    world.trace("world", format_args!("comes to rest"));
    while let Some(ended) = callers.join_next().await {
        if let Err(error) = ended {
            world.truth().violate("nobody panics", error.to_string());
        }
    }
    sleep(REST).await;
    let now = world.elapsed();
    world.truth().check_rest(now);
    let rows = world.truth().rows();
    for row in rows {
        rest(world, &row).await;
    }
    for replica in world.replicas() {
        let running = replica.tasks.running();
        if running > 0 {
            let what = format!("{} is still at {running} pieces of work", replica.ports.name());
            world.truth().violate("nobody waits for ever", what);
        }
    }
    world.truth().check_end();
}

/// Somebody does something.
async fn act(world: &Arc<World>, dice: &Dice) {
    let nth = dice.below(world.plan.accounts);
    let row = row_of(world, nth);
    let replica = world.some_replica(dice);
    let what = dice.below(100);
    let Some(row) = row else {
        if what < 50 {
            link(world, nth, "account").await;
        }
        return;
    };
    let id = row.stored.identity_id;
    match what {
        0..=74 => {
            // Some callers insist, as clients do that are told to come back.
            let tries = if dice.chance(400) { 20 } else { 1 };
            for _ in 0..tries {
                let Some(row) = row_of(world, nth) else { return };
                let come_back = issue(world, dice, &world.some_replica(dice), nth, &row).await;
                if !come_back || world.is_calm() {
                    return;
                }
                sleep(dice.millis(200, 1500)).await;
            }
        }
        75..=84 => {
            let forced =
                bounded(world, dice, &replica, "refresh", replica.tokens.refresh(id)).await;
            world.trace(replica.ports.name(), format_args!("a forced refresh of {id}: {forced:?}"));
        }
        85..=87 => {
            let revoke = dice.chance(500);
            let unlink = replica.identities.unlink(id, revoke, Actor::OPERATOR);
            let done = bounded(world, dice, &replica, "unlink", unlink).await;
            world.trace(replica.ports.name(), format_args!("unlinks {id}: {done:?}"));
        }
        88..=92 => link(world, nth, "account").await,
        93..=95 => link(world, nth, "other").await,
        // Somebody else's tool removes it, and asks for no revocation.
        96 => {
            let unlink = Unlink::unguarded(id, &Actor::OPERATOR);
            let done = world.store.unlink(&unlink).await;
            world.trace("operator", format_args!("unlinks {id}: {}", done.is_ok()));
            world.observe(false).await;
        }
        _ => {
            world.trace("user", format_args!("ends the grants of {}", row.account));
            let mut truth = world.truth();
            truth.provider.end_grants(&row.account);
            truth.count("grants ended by their users");
        }
    }
}

/// A user links an account, for the first time or again.
async fn link(world: &World, nth: u64, kind: &str) {
    let account = format!("{kind}-{nth}");
    let Answer { access, refresh } = {
        let now = world.elapsed();
        world.truth().provider.grant(&account, now)
    };
    // Some providers give no refresh token.
    let refresh = refresh.filter(|_| world.dice.chance(930));
    let now = world.elapsed();
    let ends = world.truth().provider.access(&access).map(|it| at(it.ends));
    let credentials = Credentials {
        access_token: Some(Secret::new(access)),
        refresh_token: refresh.clone().map(Secret::new),
        expires_at: ends,
        obtained_at: Some(at(now)),
        ..Credentials::default()
    };
    let link = world.link(World::user(nth), World::account(&account), Some(credentials));
    let linked = world.store.link(&link).await;
    world.trace("user", format_args!("links {account} with {refresh:?}: {}", linked.is_ok()));
    world.observe(true).await;
}

fn row_of(world: &World, nth: u64) -> Option<Row> {
    world.truth().rows().into_iter().find(|it| is_of(&it.account, nth))
}

fn is_of(account: &str, nth: u64) -> bool {
    account.ends_with(&format!("-{nth}"))
}

/// A caller asks a replica, and is told something in time, unless the replica dies or the caller
/// leaves.
async fn bounded<T>(
    world: &World,
    dice: &Dice,
    replica: &Replica,
    what: &str,
    call: impl Future<Output = T>,
) -> Option<T> {
    // And for a few times in which the replica stands still for longer than in most worlds.
    let longest_wait = LONGEST_WAIT + world.plan.longest_stall.saturating_sub(STALL) * 3;
    let patience = if dice.chance(100) { dice.millis(0, 3000) } else { longest_wait };
    tokio::select! {
        biased;
        () = replica.ports.death() => None,
        answer = timeout(patience, call) => {
            if answer.is_err() && patience == longest_wait {
                let what = format!("{what} at {} since {patience:?}", replica.ports.name());
                world.truth().violate("nobody waits for ever", what);
            }
            answer.ok()
        }
    }
}

/// A caller asks for a token, and whatever the answer is, it is right. Tells whether it may be
/// worth asking again.
async fn issue(world: &World, dice: &Dice, replica: &Replica, nth: u64, before: &Row) -> bool {
    let id = before.stored.identity_id;
    let min_ttl = if dice.chance(100) { Duration::from_hours(1) } else { Duration::ZERO };
    let need = TokenNeed { min_ttl, scopes: Vec::new() };
    let answer = bounded(world, dice, replica, "issue", replica.tokens.issue(id, &need)).await;
    world.trace(replica.ports.name(), format_args!("a caller of {id} is told {answer:?}"));
    match answer {
        Some(Ok(token)) => {
            check_token(world, replica, nth, &token);
            false
        }
        Some(Err(error)) => {
            check_error(world, before, &error);
            matches!(error, Error::Repository(_) | Error::ProviderUnavailable { .. })
        }
        None => {
            world.truth().count("callers who left");
            true
        }
    }
}

fn check_token(world: &World, replica: &Replica, nth: u64, token: &IssuedToken) {
    let (now, off) = (world.elapsed(), world.plan.skew * 2);
    let mut truth = world.truth();
    truth.count("tokens answered");
    let there = truth.provider.access(token.access_token.expose()).cloned();
    let Some(there) = there.filter(|it| is_of(&it.account, nth)) else {
        let what = format!("{token:?} is not of account {nth}");
        return truth.violate("a token opens the account that was asked for", what);
    };
    // By the clock of whoever answers; and by true time, as far as clocks are off.
    let is_over = token.expires_at.is_none_or(|it| it <= replica.ports.now());
    if is_over || there.ends + off <= now {
        let what = format!("{:?} ended at {:?}, and it is {now:?}", token.access_token, there.ends);
        truth.violate("no expired token", what);
    }
}

fn check_error(world: &World, before: &Row, error: &Error) {
    let now = world.now();
    let mut truth = world.truth();
    match error {
        Error::NotFound(_) | Error::IdentityNotValid { .. } => {
            truth.count("callers told that it is over");
        }
        Error::Repository(_) => truth.count("callers told of the database"),
        Error::ProviderUnavailable { .. } | Error::ProviderMisconfigured { .. } => {
            truth.count("callers told to come back");
            let rows = truth.rows();
            let row = rows.iter().find(|it| it.stored.identity_id == before.stored.identity_id);
            let same = row.filter(|it| it.stored.generation == before.stored.generation);
            let alive = same.and_then(|it| it.stored.credentials.as_ref());
            if alive.is_some_and(|it| it.is_alive(now + world.plan.skew * 2)) {
                truth.violate("what is alive serves", format!("{error:?} for {before:?}"));
            }
        }
        other => truth.violate("errors say who must act", format!("{other:?}")),
    }
}

/// When all is quiet, an identity is fresh, or honestly invalid.
async fn rest(world: &World, row: &Row) {
    let id: IdentityId = row.stored.identity_id;
    let replica = world.some_replica(&world.dice);
    let has_refresh_token =
        row.stored.credentials.as_ref().is_some_and(|it| it.refresh_token.is_some());
    let forced = replica.tokens.refresh(id).await;
    let answer = replica.tokens.issue(id, &TokenNeed::default()).await;
    let now = world.elapsed();
    let mut truth = world.truth();
    match (&forced, &answer) {
        (Ok(()), Ok(token)) => {
            truth.count("identities fresh in the end");
            if !truth.provider.accepts(token.access_token.expose(), now) {
                truth.violate("fresh in the end", format!("row {id}: {token:?} does not work"));
            }
        }
        (Err(Error::IdentityNotValid { .. }), Err(Error::IdentityNotValid { reason, .. }))
            if reason.is_some() =>
        {
            truth.count("identities invalid in the end");
        }
        (Err(Error::IdentityNotValid { reason: None, .. }), Ok(_)) if !has_refresh_token => {
            truth.count("identities without a refresh token in the end");
        }
        _ => {
            let what = format!("row {id}: {forced:?}, then {answer:?}");
            truth.violate("fresh or invalid in the end", what);
        }
    }
}
