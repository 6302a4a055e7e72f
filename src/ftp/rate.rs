//! How fast a user's bytes may move: `max_upload_rate` and its like.
//!
//! ```text
//! session ──asks for a quantum──> its own bucket, and the one of all sessions of its user
//!         <── the later of both times ──  sleeps until then (no thread, no buffer), then moves the quantum
//! ```
//!
//! A bucket hands out times, not bytes: each quantum begins where the one before it ends, so the rate is exact
//! over any stretch longer than a few quanta, and sessions that ask in turn are served in turn. Whoever was
//! idle has gathered [`CREDIT`] at most. An upload that waits does not read its socket, and the client's TCP
//! window closes; a download that waits has not written.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep_until};

use crate::config::RateLimits;

/// What is made up for after a pause: so much time's worth of bytes goes at once.
const CREDIT: Duration = Duration::from_millis(100);
/// Quanta in a second, where they are not larger than [`QUANTUM_BYTES_MAX`].
const QUANTA_PER_SECOND: u64 = 50;
const QUANTUM_BYTES_MAX: u64 = 512 * 1024;

/// When the next byte may move. Pure: time is passed in.
#[derive(Debug, Default)]
struct Bucket {
    next: Option<Instant>,
}

impl Bucket {
    /// When `bytes` may begin to move, at `rate` bytes per second; they are counted as if they did.
    fn reserve(&mut self, rate: u64, bytes: u64, now: Instant) -> Instant {
        let earliest = now.checked_sub(CREDIT).unwrap_or(now);
        let begin = self.next.map_or(earliest, |next| next.max(earliest));
        self.next = Some(begin + time_of(bytes, rate));
        begin
    }

    /// `bytes` that were reserved have not moved.
    fn give_back(&mut self, rate: u64, bytes: u64) {
        self.next = self.next.and_then(|next| next.checked_sub(time_of(bytes, rate)));
    }
}

/// What `bytes` take at `rate` bytes per second.
fn time_of(bytes: u64, rate: u64) -> Duration {
    let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// Small enough to be smooth, large enough to be cheap.
fn quantum(rate: u64) -> u64 {
    (rate / QUANTA_PER_SECOND).clamp(1, QUANTUM_BYTES_MAX)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Upload,
    Download,
}

/// The rates of a user and the buckets of all his sessions. Outlives reloads, which set the rates.
#[derive(Debug, Default)]
pub(super) struct UserRates {
    /// Bytes per second, 0 = as fast as it goes: of the user and of each session, up and down.
    limits: [AtomicU64; 4],
    upload: Mutex<Bucket>,
    download: Mutex<Bucket>,
}

impl UserRates {
    pub(super) fn new(limits: RateLimits) -> Self {
        let rates = Self::default();
        rates.set(limits);
        rates
    }

    /// From now on, for transfers under way too.
    pub(super) fn set(&self, limits: RateLimits) {
        let RateLimits { upload, download, upload_per_session, download_per_session } = limits;
        for (held, limit) in
            self.limits.iter().zip([upload, download, upload_per_session, download_per_session])
        {
            held.store(limit.unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// Of the user, and of a session.
    fn limits(&self, direction: Direction) -> [Option<u64>; 2] {
        let limit = |index: usize| Some(self.limits[index].load(Ordering::Relaxed)).filter(|&rate| rate != 0);
        match direction {
            Direction::Upload => [limit(0), limit(2)],
            Direction::Download => [limit(1), limit(3)],
        }
    }

    fn bucket(&self, direction: Direction) -> &Mutex<Bucket> {
        match direction {
            Direction::Upload => &self.upload,
            Direction::Download => &self.download,
        }
    }
}

/// What holds back one session.
#[derive(Debug)]
pub(super) struct Throttle {
    user: Arc<UserRates>,
    upload: Mutex<Bucket>,
    download: Mutex<Bucket>,
}

impl Throttle {
    pub(super) fn new(user: Arc<UserRates>) -> Self {
        Self { user, upload: Mutex::default(), download: Mutex::default() }
    }

    /// Waits until bytes may move; returns how many, `wanted` at most and at least 1.
    pub(super) async fn allow(&self, direction: Direction, wanted: usize) -> usize {
        let Some((bytes, begin)) = self.reserve(direction, wanted, Instant::now()) else { return wanted };
        sleep_until(begin).await;
        bytes
    }

    /// Of what [`Self::allow`] has returned, so much has not moved.
    pub(super) fn give_back(&self, direction: Direction, bytes: usize) {
        // Nothing was held back when it was asked for, so nothing was counted.
        if bytes as u64 > QUANTUM_BYTES_MAX {
            return;
        }
        for (bucket, rate) in self.buckets(direction) {
            bucket.lock().give_back(rate, bytes as u64);
        }
    }

    /// Bytes that move at once; `None` where nothing holds them back.
    pub(super) fn quantum(&self, direction: Direction) -> Option<usize> {
        let quanta = self.buckets(direction).map(|(_, rate)| quantum(rate));
        quanta.min().map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX))
    }

    fn reserve(&self, direction: Direction, wanted: usize, now: Instant) -> Option<(usize, Instant)> {
        let bytes = self.quantum(direction)?.min(wanted.max(1));
        let times =
            self.buckets(direction).map(|(bucket, rate)| bucket.lock().reserve(rate, bytes as u64, now));
        Some((bytes, times.max()?))
    }

    /// Those that hold back, each with its rate.
    fn buckets(&self, direction: Direction) -> impl Iterator<Item = (&Mutex<Bucket>, u64)> {
        let own = match direction {
            Direction::Upload => &self.upload,
            Direction::Download => &self.download,
        };
        let [of_user, of_session] = self.user.limits(direction);
        let buckets = [(self.user.bucket(direction), of_user), (own, of_session)];
        buckets.into_iter().filter_map(|(bucket, rate)| rate.map(|rate| (bucket, rate)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(upload: Option<u64>, upload_per_session: Option<u64>) -> Arc<UserRates> {
        Arc::new(UserRates::new(RateLimits { upload, upload_per_session, ..RateLimits::default() }))
    }

    /// Bytes that each of `sessions` has moved after `time`, where all of them always have more.
    fn moved(sessions: &[Throttle], time: Duration, start: Instant) -> Vec<u64> {
        let mut bytes = vec![0; sessions.len()];
        let mut next: Vec<_> = vec![start; sessions.len()];
        loop {
            let (index, now) = next.iter().copied().enumerate().min_by_key(|(_, at)| *at).unwrap();
            if now >= start + time {
                return bytes;
            }
            let (quantum, begin) = sessions[index].reserve(Direction::Upload, usize::MAX, now).unwrap();
            let begin = begin.max(now);
            if begin < start + time {
                bytes[index] += quantum as u64;
            }
            // The bytes take no time themselves; the clock moves on all the same.
            next[index] = begin + Duration::from_nanos(1);
        }
    }

    fn is_near(bytes: u64, wanted: u64, percent: u64) -> bool {
        bytes.abs_diff(wanted) <= wanted * percent / 100 + 2
    }

    proptest! {
        #[test]
        fn ten_seconds_carry_the_rate_within_two_percent_shared_fairly(
            rate in 1_000_u64..200_000_000,
            sessions in 1_usize..8,
        ) {
            let user = limits(Some(rate), None);
            let sessions: Vec<_> = (0..sessions).map(|_| Throttle::new(user.clone())).collect();
            let bytes = moved(&sessions, Duration::from_secs(10), Instant::now());
            let all: u64 = bytes.iter().sum();
            prop_assert!(is_near(all, rate * 10, 2), "{all} of {}", rate * 10);
            let most = bytes.iter().max().unwrap();
            let least = bytes.iter().min().unwrap();
            prop_assert!(most - least <= 2 * quantum(rate), "{bytes:?}");
        }

        #[test]
        fn no_tenth_of_a_second_carries_more_than_its_share_and_the_credit(
            rate in 50_000_u64..200_000_000,
            idle_ms in 0_u64..100_000,
        ) {
            let session = Throttle::new(limits(Some(rate), None));
            let start = Instant::now();
            session.reserve(Direction::Upload, usize::MAX, start);
            let after = start + Duration::from_millis(idle_ms);
            let bytes = moved(&[session], Duration::from_millis(100), after)[0];
            prop_assert!(bytes <= rate * 20 / 100 + 2 * quantum(rate), "{bytes} at {rate}");
        }
    }

    #[test]
    fn the_tighter_of_two_rates_holds() {
        let user = limits(Some(10_000_000), Some(1_000_000));
        let two = [Throttle::new(user.clone()), Throttle::new(user.clone())];
        for bytes in moved(&two, Duration::from_secs(10), Instant::now()) {
            assert!(is_near(bytes, 10_000_000, 2), "{bytes}");
        }
        let twenty: Vec<_> = (0..20).map(|_| Throttle::new(user.clone())).collect();
        let later = Instant::now() + Duration::from_secs(100);
        let all: u64 = moved(&twenty, Duration::from_secs(10), later).iter().sum();
        assert!(is_near(all, 100_000_000, 2), "{all}");
    }

    #[test]
    fn what_is_given_back_moves_later() {
        let session = Throttle::new(limits(Some(1_000_000), None));
        let now = Instant::now();
        let (bytes, first) = session.reserve(Direction::Upload, usize::MAX, now).unwrap();
        session.give_back(Direction::Upload, bytes);
        assert_eq!(session.reserve(Direction::Upload, usize::MAX, now), Some((bytes, first)));
        assert_eq!(session.reserve(Direction::Download, usize::MAX, now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_that_changes_holds_at_once() {
        let user = limits(Some(1_000_000), None);
        let session = Throttle::new(user.clone());
        let carry = async |bytes: usize| {
            let (begun, mut left) = (Instant::now(), bytes);
            while left > 0 {
                left -= session.allow(Direction::Upload, left).await;
            }
            begun.elapsed()
        };
        let slow = carry(2_000_000).await;
        assert!(slow > Duration::from_millis(1850) && slow < Duration::from_millis(2050), "{slow:?}");
        user.set(RateLimits { upload: Some(10_000_000), ..RateLimits::default() });
        let fast = carry(2_000_000).await;
        assert!(fast > Duration::from_millis(50) && fast < Duration::from_millis(250), "{fast:?}");
        user.set(RateLimits::default());
        assert_eq!(carry(2_000_000).await, Duration::ZERO);
    }
}
