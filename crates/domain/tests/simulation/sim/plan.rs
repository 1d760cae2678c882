use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// Chaos lasts this long in most worlds; then nothing goes wrong any more.
const CHAOS: Duration = Duration::from_secs(100);
/// In the others: longer than anybody may be let wait, with somebody cut off for most of it.
const LONG_CHAOS: Duration = Duration::from_mins(4);
/// A replica stands still for this long at most, in most worlds.
pub(crate) const STALL: Duration = Duration::from_secs(20);
/// In the others: so long that a lease can run out, and the next holder have sent, meanwhile.
const LONG_STALL: Duration = Duration::from_secs(45);
/// The service's own settings.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(3);
pub(crate) const MARGIN: Duration = Duration::from_secs(10);

/// All chance of a run, from one number (splitmix64).
pub(crate) struct Dice(Mutex<u64>);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(Mutex::new(seed))
    }

    fn roll(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of `0..below`.
    pub(crate) fn below(&self, below: u64) -> u64 {
        self.roll() % below.max(1)
    }

    /// True this many times in a thousand.
    pub(crate) fn chance(&self, permille: u64) -> bool {
        self.below(1000) < permille
    }

    pub(crate) fn one_of<T: Copy>(&self, choices: &[T]) -> T {
        let nth = usize::try_from(self.below(choices.len() as u64)).unwrap_or(0);
        choices[nth]
    }

    pub(crate) fn millis(&self, from: u64, to: u64) -> Duration {
        Duration::from_millis(from + self.below(to - from + 1))
    }
}

/// What goes wrong how often, in a thousand calls.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// The replica dies before the call has left, or when it was carried out.
    pub(crate) crash: u64,
    /// The database fails and does nothing.
    pub(crate) error: u64,
    /// The database does it, and the answer is lost.
    pub(crate) commit_unknown: u64,
    /// The caller is told that it failed; it is done later.
    pub(crate) late: u64,
    /// It takes up to half a second.
    pub(crate) slow: u64,
    /// The replica stands still for many seconds, before or after.
    pub(crate) stall: u64,
    /// The provider never sees the request.
    pub(crate) lost_request: u64,
    /// The provider does it, and the answer is lost.
    pub(crate) lost_answer: u64,
    /// The provider takes about as long as it is waited for, or longer, and does it all the same.
    pub(crate) slow_provider: u64,
    /// The provider turns the request away.
    pub(crate) refused: u64,
    /// Our client is rejected.
    pub(crate) misconfigured: u64,
    /// The provider does it, and its answer cannot be used.
    pub(crate) untrusted: u64,
    /// The replica dies while the provider is at work.
    pub(crate) crash_in_call: u64,
    /// The database goes away for long while the provider is at work, for all or for this replica.
    pub(crate) away_in_call: u64,
}

/// A time in which something is away.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    pub(crate) what: Away,
    pub(crate) from: Duration,
    pub(crate) until: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Away {
    /// The database refuses everybody.
    Database,
    /// The database answers nobody until it goes on.
    Paused,
    /// One replica does not reach the database, the others do.
    Replica(usize),
    /// The provider does not answer at all.
    Provider,
}

/// What the provider makes of refresh tokens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// Says that they are good again and again, and keeps to it.
    pub(crate) reusable: bool,
    /// Gives a new one with each use.
    pub(crate) rotates: bool,
    /// Answers a spent one again within this time.
    pub(crate) reuse_interval: Duration,
    /// Ends the whole grant when a spent one comes back after that.
    pub(crate) family_revocation: bool,
    /// Access tokens live this long.
    pub(crate) lifetime: Duration,
}

/// Everything that a run draws before it begins.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) replicas: usize,
    pub(crate) accounts: u64,
    pub(crate) steps: u64,
    /// The replicas' clocks are off by up to this, in either direction.
    pub(crate) skew: Duration,
    pub(crate) rules: Rules,
    pub(crate) faults: Faults,
    pub(crate) windows: Vec<Window>,
    /// How long things go wrong.
    pub(crate) chaos: Duration,
    /// How long a replica stands still at most.
    pub(crate) longest_stall: Duration,
}

impl Plan {
    /// The plan of a world, by its number's dice and its number.
    pub(crate) fn draw(dice: &Dice, seed: u64) -> Self {
        // Half of the faults are off, so that what is left must be told apart from the others.
        let rate = |most| if dice.chance(500) { 1 + dice.below(most) } else { 0 };
        let faults = Faults {
            crash: rate(30),
            error: rate(100),
            commit_unknown: rate(100),
            late: rate(20),
            slow: rate(300),
            stall: rate(15),
            lost_request: rate(100),
            lost_answer: rate(150),
            slow_provider: rate(100),
            refused: rate(200),
            misconfigured: rate(80),
            untrusted: rate(40),
            crash_in_call: rate(100),
            away_in_call: rate(150),
        };
        let replicas = 2 + usize::try_from(dice.below(3)).unwrap_or(0);
        let reusable = dice.chance(80);
        let rotates = !reusable && dice.chance(900);
        let rules = Rules {
            reusable,
            rotates,
            reuse_interval: Duration::from_secs(dice.one_of(&[0, 0, 10, 30])),
            family_revocation: dice.chance(700),
            lifetime: Duration::from_secs(dice.one_of(&[4, 15, 30, 60])),
        };
        let windows = (0..dice.below(4)).map(|_| {
            let what = match dice.below(4) {
                0 => Away::Database,
                1 => Away::Paused,
                2 => Away::Replica(usize::try_from(dice.below(replicas as u64)).unwrap_or(0)),
                _ => Away::Provider,
            };
            let from = dice.millis(0, 80_000);
            let length = if dice.chance(250) { 90_000 } else { 25_000 };
            Window { what, from, until: (from + dice.millis(100, length)).min(CHAOS) }
        });
        let mut windows: Vec<_> = windows.collect();
        // By dice of its own: the other worlds are as they are without it.
        let long = Dice::new(!seed);
        let chaos = if long.chance(30) { LONG_CHAOS } else { CHAOS };
        if chaos == LONG_CHAOS {
            let slot = usize::try_from(long.below(replicas as u64)).unwrap_or(0);
            let what = long.one_of(&[Away::Database, Away::Replica(slot)]);
            let from = long.millis(0, 20_000);
            windows.push(Window { what, from, until: from + long.millis(150_000, 210_000) });
        }
        let longest_stall = if long.chance(100) { LONG_STALL } else { STALL };
        Self {
            replicas,
            accounts: 1 + dice.below(3),
            steps: 15 + dice.below(45),
            skew: Duration::from_millis(dice.one_of(&[0, 100, 2000])),
            rules,
            faults,
            windows,
            chaos,
            longest_stall,
        }
    }
}
