//! The deterministic simulation of the token service, for `make test`: a few thousand worlds, and
//! every promise of the database broken once. `make simulate` runs as many as one likes.

mod sim;

use std::collections::BTreeMap;

use sim::{Mutant, Outcome};

/// Worlds of one test. The numbers are fixed: a test that fails today failed yesterday.
const WORLDS: u64 = 500;
/// How many worlds a broken promise may stay unnoticed.
const UNNOTICED: u64 = 1500;

/// What must have happened in each five hundred worlds, or the rules were never put to the test.
const SEEN: [(&str, u64); 16] = [
    ("careful retries", 100),
    ("careful retries put off", 20),
    ("crashes", 300),
    ("database answers lost", 300),
    ("database errors", 300),
    ("identities fresh in the end", 300),
    ("identities invalid in the end", 100),
    ("invalid: grant rejected", 50),
    ("invalid: no refresh token", 20),
    ("invalid: rotation in doubt", 30),
    ("late answers for nobody", 3),
    ("leases held by another", 1000),
    ("outages during a call", 30),
    ("provider answers lost", 100),
    ("stalls", 100),
    ("tokens answered", 3000),
];

fn worlds(first: u64) {
    let mut counts = BTreeMap::new();
    for seed in first..first + WORLDS {
        let outcome = sim::run(seed, None, false);
        assert_eq!(outcome.violations, [], "make simulate SEED={seed}");
        for (what, count) in outcome.counts {
            *counts.entry(what).or_insert(0) += count;
        }
    }
    for (what, least) in SEEN {
        let seen = counts.get(what).copied().unwrap_or(0);
        assert!(seen >= least, "{what}: {seen} times, and at least {least} were expected");
    }
}

macro_rules! worlds {
    ($($name:ident from $first:literal)*) => {
        $(
            #[test]
            fn $name() {
                worlds($first);
            }
        )*
    };
}

worlds! {
    no_rule_is_broken_in_worlds_0_to_499 from 0
    no_rule_is_broken_in_worlds_500_to_999 from 500
    no_rule_is_broken_in_worlds_1000_to_1499 from 1000
    no_rule_is_broken_in_worlds_1500_to_1999 from 1500
}

#[test]
fn a_world_is_its_number() {
    let same = |Outcome { violations, counts }| (violations, counts);
    for seed in 0..20 {
        assert_eq!(same(sim::run(seed, None, false)), same(sim::run(seed, None, false)), "{seed}");
    }
    assert_ne!(same(sim::run(1, None, false)), same(sim::run(2, None, false)));
}

/// Breaks a promise of the database in one world after the other, until a rule notices.
fn is_noticed(mutant: Mutant, first: u64) {
    let noticed = (first..first + UNNOTICED)
        .any(|seed| !sim::run(seed, Some(mutant), false).violations.is_empty());
    assert!(noticed, "no rule notices {mutant:?} in {UNNOTICED} worlds from {first}");
}

/// A database that goes away again while a holder waits for the one before to commit: what it waits
/// is counted while the database answers.
#[test]
fn no_rule_is_broken_in_worlds_with_two_outages_in_a_row() {
    for seed in [865_187, 877_032] {
        let Outcome { violations, .. } = sim::run(seed, None, false);
        assert!(violations.is_empty(), "make simulate SEED={seed}: {violations:?}");
    }
}

/// One test for each, and for all: from the first world on, or from a little before the first one
/// that notices.
macro_rules! broken_promises {
    ($($name:ident $mutant:ident from $first:literal)*) => {
        $(
            #[test]
            fn $name() {
                is_noticed(Mutant::$mutant, $first);
            }
        )*

        #[test]
        fn every_promise_is_broken_once() {
            assert_eq!(Mutant::ALL, [$(Mutant::$mutant),*]);
        }
    };
}

broken_promises! {
    it_is_noticed_when_a_lease_is_given_twice LeaseIgnoresTheHolder from 0
    it_is_noticed_when_a_lease_ends_during_a_call LeaseIsShort from 0
    it_is_noticed_when_a_sending_is_not_counted SendingIsNotCounted from 0
    it_is_noticed_when_a_sending_is_not_fenced SendingIsUnfenced from 0
    it_is_noticed_when_a_commit_is_not_fenced CommitIsUnfenced from 0
    it_is_noticed_when_a_late_answer_is_refused CommitNeedsTheLease from 100
    it_is_noticed_when_an_unlinked_row_comes_back CommitRevives from 0
    it_is_noticed_when_an_end_is_not_fenced EndIsUnfenced from 7900
    it_is_noticed_when_an_end_forgets_a_doubt EndForgetsTheDoubt from 0
    it_is_noticed_when_an_end_keeps_a_doubt EndKeepsTheDoubt from 0
    it_is_noticed_when_a_release_is_not_fenced ReleaseIsUnfenced from 1050
    it_is_noticed_when_a_release_keeps_a_count ReleaseKeepsTheCount from 50
    it_is_noticed_when_a_release_forgets_a_doubt ReleaseForgetsTheDoubt from 0
}
