//! How many readers there are to share the memory: those that have read lately.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use parking_lot::Mutex;

/// Who has not read in this period, nor in the one before, is not counted: an open file costs nobody memory.
const PERIOD: Duration = Duration::from_secs(2);

/// The readers of all mounts.
#[derive(Debug)]
pub(super) struct Census {
    begun: Instant,
    counted: Mutex<Counted>,
}

#[derive(Debug, Default)]
struct Counted {
    period: u64,
    readers: u64,
    readers_before: u64,
}

/// When a reader was last counted.
#[derive(Debug, Default)]
pub(in crate::vfs) struct Presence(AtomicU64);

impl Census {
    pub(super) fn new() -> Self {
        Self { begun: Instant::now(), counted: Mutex::default() }
    }

    /// Counts a reader that reads now: how many there are, itself included.
    pub(super) fn count(&self, presence: &Presence) -> u64 {
        let now = self.period();
        self.counted.lock().count(presence, now)
    }

    /// Whether a reader has read lately.
    pub(super) fn is_present(&self, presence: &Presence) -> bool {
        presence.0.load(Ordering::Relaxed) + 1 >= self.period()
    }

    /// 2 at first: 0 is never.
    fn period(&self) -> u64 {
        self.begun.elapsed().as_secs() / PERIOD.as_secs() + 2
    }
}

impl Counted {
    /// `now` may be a period that is over: who looked at the clock first need not be counted first.
    fn count(&mut self, presence: &Presence, now: u64) -> u64 {
        let period = now.max(self.period);
        if self.period != period {
            let is_next = self.period + 1 == period;
            self.readers_before = if is_next { self.readers } else { 0 };
            (self.readers, self.period) = (0, period);
        }
        if presence.0.swap(period, Ordering::Relaxed) != period {
            self.readers += 1;
        }
        self.readers.max(self.readers_before)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_late_is_counted_in_the_period_that_has_begun() {
        let mut counted = Counted::default();
        let (late, early) = (Presence::default(), Presence::default());
        assert_eq!(counted.count(&late, 2), 1);
        assert_eq!(counted.count(&early, 3), 1);
        assert_eq!(counted.count(&late, 2), 2, "itself included");
        assert_eq!(counted.count(&early, 3), 2);
    }

    #[test]
    fn who_reads_is_counted_once() {
        let census = Census::new();
        let readers: Vec<_> = (0..5).map(|_| Presence::default()).collect();
        assert!(!census.is_present(&readers[0]));
        let counts: Vec<_> = readers.iter().chain(&readers).map(|reader| census.count(reader)).collect();
        assert_eq!(counts, [1, 2, 3, 4, 5, 5, 5, 5, 5, 5]);
        assert!(readers.iter().all(|reader| census.is_present(reader)));
    }
}
