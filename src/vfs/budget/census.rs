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
        let period = self.period();
        let mut counted = self.counted.lock();
        if counted.period != period {
            let is_next = counted.period + 1 == period;
            counted.readers_before = if is_next { counted.readers } else { 0 };
            (counted.readers, counted.period) = (0, period);
        }
        if presence.0.swap(period, Ordering::Relaxed) != period {
            counted.readers += 1;
        }
        counted.readers.max(counted.readers_before)
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

#[cfg(test)]
mod tests {
    use super::*;

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
