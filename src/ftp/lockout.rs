//! Failed logins: who has had too many of them, and how long each next one takes.
//!
//! | counted by | when it is full, for `failed_login_window` |
//! |---|---|
//! | network (address, or /64) | nobody logs in from there, with the right password neither |
//! | user name that exists: networks that failed with it | nobody logs in with it, but from where it was logged in with before |
//!
//! A name that were locked for everybody would let any stranger keep its owner out. So each network counts
//! once against a name, whatever it tries: one guesser locks nobody but himself, and many of them guess limit ×
//! limit times in a window. And a network that has logged in with a name within a month stays *known* to it: its
//! failures count against itself alone.
//!
//! Failures count from the first one for `window`; those met while locked are not counted, so that a lock
//! ends. A login takes away the failures that the same network had with the same name, and no others: else
//! whoever has an account could reset his count between guesses. Tables are bounded: networks by age of use,
//! names by being those of users, names of strangers as keyed hashes.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    num::NonZeroUsize,
    time::Duration,
};

use lru::LruCache;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::seats::Network;

/// Networks that are remembered for their failures: some 2 MB at most.
const NETWORKS_MAX: NonZeroUsize = NonZeroUsize::new(16_384).expect("not 0");
/// Networks that are known to a name.
const KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(64).expect("not 0");
/// How long they are.
const KNOWN_TIME: Duration = Duration::from_secs(30 * 24 * 3600);
/// Pause after the first failure; it doubles with each one.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause: the client holds a session meanwhile.
const PAUSE_MAX: Duration = Duration::from_secs(8);

/// `failed_login_limit` and `failed_login_window`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rule {
    /// 0 = nobody is ever locked out.
    pub(super) limit: u32,
    pub(super) window: Duration,
}

/// What is known of failed logins.
#[derive(Debug, Default)]
pub(super) struct Lockout {
    tables: Mutex<Tables>,
    names: RandomState,
}

#[derive(Debug)]
struct Tables {
    networks: LruCache<Network, Failures>,
    /// What a login takes away again.
    pairs: LruCache<(Network, u64), Failures>,
    names: HashMap<String, Name>,
}

/// Failures since the first one.
#[derive(Debug, Clone, Copy)]
struct Failures {
    count: u32,
    since: Instant,
    locked_until: Option<Instant>,
}

/// What is known of a user's name.
#[derive(Debug)]
struct Name {
    failures: Option<Failures>,
    /// When each logged in last.
    known: LruCache<Network, Instant>,
}

/// What a failure has led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Failed {
    /// Before the client is told.
    pub(super) pause: Duration,
    /// The network is locked from now on.
    pub(super) network_locked: bool,
    /// The name is locked from now on, but for networks that are known to it.
    pub(super) name_locked: bool,
}

impl Default for Tables {
    fn default() -> Self {
        // Not `LruCache::new`, which takes the memory of all entries at once.
        let mut tables =
            Self { networks: LruCache::unbounded(), pairs: LruCache::unbounded(), names: HashMap::new() };
        tables.networks.resize(NETWORKS_MAX);
        tables.pairs.resize(NETWORKS_MAX);
        tables
    }
}

impl Failures {
    fn begin(now: Instant) -> Self {
        Self { count: 0, since: now, locked_until: None }
    }

    fn is_locked(&self, now: Instant) -> bool {
        self.locked_until.is_some_and(|until| now < until)
    }

    fn is_over(&self, window: Duration, now: Instant) -> bool {
        match self.locked_until {
            Some(until) => now >= until,
            None => now >= self.since + window,
        }
    }

    /// Whether this one has locked it.
    fn add(&mut self, rule: Rule, now: Instant) -> bool {
        if self.is_over(rule.window, now) {
            *self = Self::begin(now);
        }
        if self.is_locked(now) {
            return false;
        }
        self.count = self.count.saturating_add(1);
        let is_full = rule.limit != 0 && self.count >= rule.limit;
        if is_full {
            self.locked_until = Some(now + rule.window);
        }
        is_full
    }

    fn take_away(&mut self, count: u32) {
        self.count = self.count.saturating_sub(count);
    }
}

impl Lockout {
    /// Whether nobody may log in from there.
    pub(super) fn is_locked(&self, network: Network, now: Instant) -> bool {
        self.tables.lock().networks.peek(&network).is_some_and(|failures| failures.is_locked(now))
    }

    /// Whether nobody may log in with this name from there.
    pub(super) fn is_name_locked(&self, name: &str, network: Network, now: Instant) -> bool {
        let mut tables = self.tables.lock();
        let Some(name) = tables.names.get_mut(name) else { return false };
        name.failures.is_some_and(|failures| failures.is_locked(now)) && !name.knows(network, now)
    }

    /// Counts a failed login. `exists`: there is a user of that name; others need no lock, and would fill
    /// the table.
    pub(super) fn fail(
        &self,
        network: Network,
        name: &str,
        exists: bool,
        rule: Rule,
        now: Instant,
    ) -> Failed {
        let hash = self.names.hash_one(name);
        let mut tables = self.tables.lock();
        let fresh = || Failures::begin(now);
        let pair = tables.pairs.get_or_insert_mut((network, hash), fresh);
        pair.add(Rule { limit: 0, ..rule }, now);
        let is_first = pair.count == 1;
        let failures = tables.networks.get_or_insert_mut(network, fresh);
        let network_locked = failures.add(rule, now);
        let pause = pause_after(failures.count);
        let mut name_locked = false;
        if exists && is_first {
            if !tables.names.contains_key(name) {
                tables.names.insert(name.to_owned(), Name::default());
            }
            let known = tables.names.get_mut(name).expect("made just now where it was not there");
            if !known.knows(network, now) {
                name_locked = known.failures.get_or_insert_with(fresh).add(rule, now);
            }
        }
        Failed { pause, network_locked, name_locked }
    }

    /// Counts a login: what the same network had against it with the same name is forgotten.
    pub(super) fn succeed(&self, network: Network, name: &str, rule: Rule, now: Instant) {
        let hash = self.names.hash_one(name);
        let mut tables = self.tables.lock();
        let pair = tables.pairs.pop(&(network, hash));
        let count = pair.filter(|pair| !pair.is_over(rule.window, now)).map_or(0, |pair| pair.count);
        if let Some(failures) = tables.networks.peek_mut(&network) {
            failures.take_away(count);
            if failures.count == 0 {
                tables.networks.pop(&network);
            }
        }
        let name = tables.names.entry(name.to_owned()).or_default();
        if let Some(failures) = &mut name.failures
            && !failures.is_locked(now)
        {
            failures.take_away(count.min(1));
        }
        name.known.put(network, now);
    }
}

impl Name {
    fn knows(&mut self, network: Network, now: Instant) -> bool {
        self.known.peek(&network).is_some_and(|last| now < *last + KNOWN_TIME)
    }
}

impl Default for Name {
    fn default() -> Self {
        let mut known = LruCache::unbounded();
        known.resize(KNOWN_MAX);
        Self { failures: None, known }
    }
}

/// The pause after the n-th failure.
pub(super) fn pause_after(count: u32) -> Duration {
    let doublings = count.saturating_sub(1).min(16);
    PAUSE.saturating_mul(1 << doublings).min(PAUSE_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { limit: 3, window: Duration::from_secs(300) };
    const SECOND: Duration = Duration::from_secs(1);

    fn network(address: &str) -> Network {
        Network::of(address.parse().unwrap())
    }

    fn fail_often(lockout: &Lockout, from: &str, name: &str, times: u32, now: Instant) -> Failed {
        let failed = (0..times).map(|_| lockout.fail(network(from), name, true, RULE, now));
        failed.last().unwrap()
    }

    #[test]
    fn a_network_is_locked_at_the_limit_for_the_window_and_begins_anew() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        let here = network("192.0.2.1");
        assert!(!fail_often(&lockout, "192.0.2.1", "a", 2, now).network_locked);
        assert!(!lockout.is_locked(here, now));
        assert!(fail_often(&lockout, "192.0.2.1", "b", 1, now + SECOND).network_locked);
        assert!(lockout.is_locked(here, now + SECOND));
        assert!(!lockout.is_locked(network("192.0.2.2"), now + SECOND));
        assert!(lockout.is_locked(here, now + RULE.window));
        let over = now + RULE.window + SECOND;
        assert!(!lockout.is_locked(here, over));
        assert!(!fail_often(&lockout, "192.0.2.1", "c", 2, over).network_locked, "the count begins anew");
    }

    #[test]
    fn failures_are_forgotten_a_window_after_the_first() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        fail_often(&lockout, "::1", "a", 2, now);
        assert!(!fail_often(&lockout, "::1", "a", 2, now + RULE.window).network_locked);
        assert!(fail_often(&lockout, "::1", "a", 1, now + RULE.window + SECOND).network_locked);
    }

    #[test]
    fn what_fails_while_locked_does_not_lengthen_the_lock() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        fail_often(&lockout, "::1", "a", 3, now);
        fail_often(&lockout, "::1", "a", 100, now + RULE.window - SECOND);
        assert!(!lockout.is_locked(network("::1"), now + RULE.window));
    }

    #[test]
    fn a_name_is_locked_for_strangers_and_open_to_whom_it_knows() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        let scanner = network("192.0.2.7");
        lockout.succeed(scanner, "bank", RULE, now);
        for stranger in ["2001:db8::1", "2001:db8:0:1::1"] {
            assert!(!fail_often(&lockout, stranger, "bank", 1, now).name_locked);
        }
        assert!(fail_often(&lockout, "2001:db8:0:2::1", "bank", 1, now).name_locked);
        assert!(lockout.is_name_locked("bank", network("2001:db8:0:3::1"), now));
        assert!(!lockout.is_name_locked("bank", scanner, now), "a stranger cannot lock the owner out");
        assert!(!lockout.is_name_locked("other", network("2001:db8:0:3::1"), now));
        assert!(!lockout.is_name_locked("bank", network("2001:db8:0:3::1"), now + RULE.window));
    }

    #[test]
    fn whom_a_name_has_not_seen_for_long_is_a_stranger() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        lockout.succeed(network("::1"), "a", RULE, now);
        let later = now + KNOWN_TIME;
        for stranger in ["192.0.2.1", "192.0.2.2"] {
            assert!(!fail_often(&lockout, stranger, "a", 9, later).name_locked, "each counts once");
        }
        assert!(fail_often(&lockout, "192.0.2.3", "a", 1, later).name_locked);
        assert!(lockout.is_name_locked("a", network("::1"), later));
        assert!(!lockout.is_name_locked("a", network("::1"), later - SECOND));
    }

    #[test]
    fn whom_a_name_knows_fails_against_himself_alone() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        lockout.succeed(network("::1"), "a", RULE, now);
        assert!(fail_often(&lockout, "::1", "a", 3, now).network_locked);
        assert!(!lockout.is_name_locked("a", network("192.0.2.1"), now));
    }

    #[test]
    fn a_login_takes_away_the_failures_with_its_own_name_alone() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        fail_often(&lockout, "::1", "mine", 2, now);
        lockout.succeed(network("::1"), "mine", RULE, now);
        assert!(!fail_often(&lockout, "::1", "mine", 2, now).network_locked, "forgiven");
        lockout.succeed(network("::1"), "mine", RULE, now);
        // Guesses at another name, with logins in between.
        for _ in 0..2 {
            assert!(!fail_often(&lockout, "::1", "victim", 1, now).network_locked);
            lockout.succeed(network("::1"), "mine", RULE, now);
        }
        assert!(fail_often(&lockout, "::1", "victim", 1, now).network_locked);
    }

    #[test]
    fn names_that_do_not_exist_leave_nothing_behind_but_a_bounded_table() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        for number in 0..40_000_u32 {
            let from = Network::of(std::net::Ipv4Addr::from_bits(number).into());
            lockout.fail(from, &"x".repeat(8000), false, RULE, now);
        }
        let tables = lockout.tables.lock();
        assert!(tables.names.is_empty());
        assert_eq!(tables.networks.len(), NETWORKS_MAX.get());
        assert_eq!(tables.pairs.len(), NETWORKS_MAX.get());
    }

    #[test]
    fn without_a_limit_nobody_is_locked_and_pauses_grow() {
        let (lockout, now) = (Lockout::default(), Instant::now());
        let rule = Rule { limit: 0, ..RULE };
        let pauses: Vec<_> =
            (0..8).map(|_| lockout.fail(network("::1"), "a", true, rule, now).pause.as_millis()).collect();
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000, 8000, 8000, 8000]);
        assert!(!lockout.is_locked(network("::1"), now));
        assert_eq!(pause_after(u32::MAX), PAUSE_MAX);
    }
}
