//! What a reader has of its object: the ranges that are here or coming, how it goes through them, and the checksum
//! of what it has read from the first byte on.

use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{VfsError, course::Course, fetch::Fetch};
use crate::cos::Crc64;

/// Longest range: at 20 ms of latency and 40 MB/s per connection, the latency is an eighth of it.
pub(super) const RANGE_BYTES_MAX: u64 = 6 << 20;
/// Kept for who does not read in order.
pub(super) const KEPT_RANDOM_BYTES: u64 = 8 << 20;

/// How the reader goes, what is here and what is coming.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    pub(super) course: Course,
    /// By first byte; no two overlap.
    pub(super) fetches: BTreeMap<u64, Arc<Fetch>>,
    /// Kept behind who reads in order.
    pub(super) behind_bytes: u64,
    /// The object is checked up to here, from its first byte.
    pub(super) checked_upto: u64,
    pub(super) checked: Option<Crc64>,
    pub(super) corrupt: Option<VfsError>,
}

impl Ranges {
    pub(super) fn holding(&self, at: u64) -> Option<&Arc<Fetch>> {
        self.fetches.range(..=at).next_back().map(|(_, fetch)| fetch).filter(|fetch| fetch.end > at)
    }

    /// Where the first range behind `at` begins.
    pub(super) fn next_after(&self, at: u64) -> u64 {
        self.fetches.range(at..).next().map_or(u64::MAX, |(first, _)| *first)
    }

    pub(super) fn between(&self, offset: u64, end: u64) -> Vec<Arc<Fetch>> {
        let first = self.holding(offset).map_or(offset, |fetch| fetch.first);
        self.fetches.range(first..end).map(|(_, fetch)| fetch.clone()).collect()
    }

    /// Drops what will not be read again soon. Who waits for a range holds it himself.
    pub(super) fn let_go(&mut self) {
        self.sum_up();
        let kept_bytes = if self.course.jumps() { KEPT_RANDOM_BYTES } else { 0 };
        self.keep(kept_bytes, 0..0);
    }

    /// Of what no place in order wants, keeps up to `bytes` of memory, what was read last, and what is asked for now.
    pub(super) fn keep(&mut self, bytes: u64, asked: Range<u64>) {
        let course = &self.course;
        let mut others: Vec<_> = self
            .fetches
            .values()
            .filter(|fetch| !course.wants(&(fetch.first..fetch.end), self.behind_bytes, RANGE_BYTES_MAX))
            .map(|fetch| (*fetch.used.lock(), fetch.first, fetch.end, fetch.memory_bytes()))
            .collect();
        let mut held_bytes: u64 = others.iter().map(|(.., bytes)| bytes).sum();
        if held_bytes <= bytes {
            return;
        }
        others.sort_unstable();
        for (_, first, end, memory_bytes) in others {
            if held_bytes <= bytes {
                return;
            }
            if end <= asked.start || first >= asked.end {
                self.fetches.remove(&first);
                held_bytes -= memory_bytes;
            }
        }
    }

    pub(super) fn memory_bytes(&self) -> u64 {
        self.fetches.values().map(|fetch| fetch.memory_bytes()).sum()
    }

    /// Drops about so many bytes that nobody waits for, the farthest ahead first. How many it were.
    pub(super) fn give_back(&mut self, bytes: u64) -> u64 {
        self.sum_up();
        let mut given = 0;
        let idle = |fetch: &Arc<Fetch>| Arc::strong_count(fetch) == 1;
        while given < bytes
            && let Some(first) =
                self.fetches.iter().rev().find(|(_, fetch)| idle(fetch)).map(|(first, _)| *first)
            && let Some(fetch) = self.fetches.remove(&first)
        {
            given += fetch.memory_bytes();
        }
        given
    }

    /// Adds the checksums of ranges that are whole and follow what is summed up already.
    pub(super) fn sum_up(&mut self) {
        while let Some(sum) = self.checked
            && let Some(fetch) = self.fetches.get(&self.checked_upto)
            && let Some(next) = fetch.checksum()
        {
            self.checked = Some(sum.followed_by(next, fetch.end - fetch.first));
            self.checked_upto = fetch.end;
        }
    }
}
