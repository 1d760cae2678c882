//! Runs the simulation over as many numbers as one likes, or one of them with all its steps.
//!
//! `simulate FIRST..LAST` runs these, on all processors; `simulate NUMBER` shows one. A second
//! argument is a [`sim::Mutant`] by its name: a promise of the database that is broken on purpose.

mod sim;

use std::{
    collections::BTreeMap,
    env,
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use self::sim::{Mutant, Violation};

const USAGE: &str = "usage: simulate FIRST..LAST|NUMBER [MUTANT]";
/// How many failures are enough.
const ENOUGH: usize = 5;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let seeds = arguments.next().unwrap_or_default();
    let mutant = match arguments.next() {
        None => None,
        Some(name) => match Mutant::ALL.into_iter().find(|it| format!("{it:?}") == name) {
            Some(mutant) => Some(mutant),
            None => return usage(&format!("mutants are {:?}", Mutant::ALL)),
        },
    };
    if let Ok(seed) = seeds.parse() {
        return show(seed, mutant);
    }
    let range = seeds.split_once("..").map(|(first, last)| (first.parse(), last.parse()));
    match range {
        Some((Ok(first), Ok(last))) => run_all(first, last, mutant),
        _ => usage(USAGE),
    }
}

fn usage(what: &str) -> ExitCode {
    eprintln!("{what}");
    ExitCode::from(2)
}

/// One run, step by step.
fn show(seed: u64, mutant: Option<Mutant>) -> ExitCode {
    let outcome = sim::run(seed, mutant, true);
    println!("{:#?}", outcome.counts);
    for (rule, what) in &outcome.violations {
        println!("BROKEN: {rule}: {what}");
    }
    ExitCode::from(u8::from(!outcome.violations.is_empty()))
}

#[derive(Default)]
struct Total {
    counts: BTreeMap<&'static str, u64>,
    broken: Vec<(u64, Violation)>,
}

fn run_all(first: u64, last: u64, mutant: Option<Mutant>) -> ExitCode {
    let (next, total) = (AtomicU64::new(first), Mutex::new(Total::default()));
    let lock = || total.lock().unwrap_or_else(PoisonError::into_inner);
    let begin = Instant::now();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= last || lock().broken.len() >= ENOUGH {
                        return;
                    }
                    let outcome = sim::run(seed, mutant, false);
                    let mut total = lock();
                    for (what, count) in outcome.counts {
                        *total.counts.entry(what).or_default() += count;
                    }
                    if let Some(violation) = outcome.violations.into_iter().next() {
                        println!("{seed} is broken: {}: {}", violation.0, violation.1);
                        total.broken.push((seed, violation));
                    }
                }
            });
        }
        // Says now and then how far it is.
        let mut shown = Duration::ZERO;
        while next.load(Ordering::Relaxed) < last && lock().broken.len() < ENOUGH {
            thread::sleep(Duration::from_millis(50));
            if begin.elapsed().saturating_sub(shown) >= Duration::from_secs(10) {
                shown = begin.elapsed();
                let done = next.load(Ordering::Relaxed) - first;
                println!("{done} worlds, {:.0} a second", rate(done, shown));
            }
        }
    });
    let done = next.load(Ordering::Relaxed).min(last) - first;
    let total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{:#?}", total.counts);
    println!("{done} worlds, {:.0} a second", rate(done, begin.elapsed()));
    for (seed, (rule, _)) in &total.broken {
        println!("{rule}: make simulate SEED={seed}");
    }
    ExitCode::from(u8::from(!total.broken.is_empty()))
}

#[expect(clippy::cast_precision_loss, reason = "it is for people")]
fn rate(done: u64, time: Duration) -> f64 {
    done as f64 / time.as_secs_f64().max(f64::MIN_POSITIVE)
}
