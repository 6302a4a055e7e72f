//! How long a client whose upload has ended may take to be seen gone.
//!
//! A program that is killed closes its connections one after the other, and on a busy machine others have their turn in
//! between. So the time depends on how many threads want to run where the client may be, too: 150 killed clients each, two
//! processors, from the end of the data connection to that of the control connection:
//!
//! | runnable threads | median | longest |
//! |---|---|---|
//! | 2 | 0.2 ms | 0.3 ms |
//! | 4 | 0.2 ms | 8.6 ms |
//! | 6 | 0.2 ms | 9.3 ms |
//! | 10 | 0.2 ms | 16.5 ms |
//! | 18 | 0.2 ms | 23 ms |
//!
//! These threads never slept. Where 16 sessions store small files, 7 to 20 threads want to run at any moment, but each only
//! briefly: 2.7 ms at most. Who never sleeps is in the smallest of many counts, so that one decides.

use std::{
    fs::File,
    num::NonZeroUsize,
    os::unix::fs::FileExt,
    sync::LazyLock,
    time::{Duration, Instant},
};

/// Shortest wait between the end of the data and the question whether the client is still there: after 2 ms
/// none of 60 killed clients of an idle machine had its control connection open.
const TIME_MIN: Duration = Duration::from_millis(2);
/// Longest that follows from the way: a client that took long to dial is not that far away.
const WAY_TIME_MAX: Duration = Duration::from_secs(1);
/// This part of the time that the data have taken is waited in any case, because nobody feels it.
const SHARE: u32 = 100;
const SHARE_TIME_MAX: Duration = Duration::from_millis(100);
/// What a thread that goes on as long as it may keeps others waiting: half as much again as was measured.
const LONG_TURN: Duration = Duration::from_millis(6);
/// The same of one that soon waits for something itself: half as much again as was measured, and more than that where they
/// are many.
const SHORT_TURN: Duration = Duration::from_micros(750);
const CROWD_TIME_MAX: Duration = Duration::from_millis(250);
/// How often it is asked who wants to run.
const SAMPLE_TIME: Duration = Duration::from_micros(500);

/// Threads that want to run on this machine, and how many can.
#[derive(Debug, Clone, Copy)]
pub(super) struct Crowd {
    runnable: u32,
    processors: u32,
}

impl Crowd {
    /// As it is now; a machine that does not tell (proc(5), `/proc/loadavg`) counts as idle.
    pub(super) fn now() -> Self {
        static PROCESSORS: LazyLock<u32> = LazyLock::new(|| {
            let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
            u32::try_from(processors).unwrap_or(u32::MAX)
        });
        // Kept open: uploads that end on a busy machine look again and again.
        static TOLD: LazyLock<Option<File>> = LazyLock::new(|| File::open("/proc/loadavg").ok());
        let mut told = [0; 128];
        let length = TOLD.as_ref().and_then(|file| file.read_at(&mut told, 0).ok()).unwrap_or(0);
        let told = str::from_utf8(&told[..length]).unwrap_or_default();
        Self { runnable: runnable(told).unwrap_or(0), processors: *PROCESSORS }
    }

    /// Until each of those that go on as long as they may has had its turn.
    fn long(self) -> Duration {
        self.turns(LONG_TURN, if self.runnable > self.processors { self.runnable } else { 0 })
    }

    /// Until each of those that come and go has had its turn, behind the shortest wait, which is
    /// enough for two on each processor.
    fn short(self) -> Duration {
        self.turns(SHORT_TURN, self.runnable.saturating_sub(2 * self.processors))
    }

    fn turns(self, each: Duration, threads: u32) -> Duration {
        (each * threads / self.processors.max(1)).min(CROWD_TIME_MAX)
    }
}

/// Of `0.20 0.18 0.12 3/80 11206` the 3.
fn runnable(told: &str) -> Option<u32> {
    told.split(' ').nth(3)?.split('/').next()?.parse().ok()
}

/// The time between the end of the data and the question whether the client is still there.
#[derive(Debug)]
pub(super) struct SettleTime {
    ended: Instant,
    least: Duration,
    /// Turns of the largest and of the smallest crowd seen.
    short: Duration,
    long: Duration,
}

impl SettleTime {
    /// Of data that came from `begun` to `ended`, over a connection that was `dialled_within` so long.
    pub(super) fn new(begun: Instant, ended: Instant, dialled_within: Duration) -> Self {
        let way = (dialled_within * 2).clamp(TIME_MIN, WAY_TIME_MAX);
        let share = (ended.saturating_duration_since(begun) / SHARE).min(SHARE_TIME_MAX);
        Self { ended, least: way.max(share), short: Duration::ZERO, long: CROWD_TIME_MAX }
    }

    /// How long to wait until this is asked again; zero: it is over.
    pub(super) fn left(&mut self, now: Instant, crowd: Crowd) -> Duration {
        let waited = now.saturating_duration_since(self.ended);
        self.short = self.short.max(crowd.short());
        self.long = self.long.min(crowd.long());
        if waited < self.least {
            return self.least - waited;
        }
        (self.least + self.short).max(self.long).saturating_sub(waited).min(SAMPLE_TIME)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Crowd = Crowd { runnable: 2, processors: 2 };
    const BUSY: Crowd = Crowd { runnable: 10, processors: 2 };

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn time(took: Duration, dialled_within: Duration) -> (SettleTime, Instant) {
        let begun = Instant::now();
        (SettleTime::new(begun, begun + took, dialled_within), begun + took)
    }

    #[test]
    fn it_depends_on_the_way_and_on_how_long_the_data_took() {
        let left = |took, dialled_within| {
            let (mut time, ended) = time(took, dialled_within);
            time.left(ended, BUSY)
        };
        assert_eq!(left(millis(5), millis(0)), millis(2));
        assert_eq!(left(millis(5), millis(40)), millis(80));
        assert_eq!(left(millis(5), millis(9000)), millis(1000));
        assert_eq!(left(millis(5000), millis(0)), millis(50));
        assert_eq!(left(millis(5_000_000), millis(0)), millis(100));
    }

    #[test]
    fn on_an_idle_machine_it_ends_then() {
        let (mut time, ended) = time(millis(1), millis(0));
        assert_eq!(time.left(ended + millis(2), IDLE), millis(0));
    }

    /// What is waited if it is asked again as soon as it says, and the crowds come in turns.
    fn waited(crowds: &[Crowd]) -> Duration {
        let (mut time, ended) = time(millis(1), millis(0));
        let mut now = ended;
        for &crowd in crowds.iter().cycle() {
            let left = time.left(now, crowd);
            if left.is_zero() {
                break;
            }
            now += left;
        }
        now - ended
    }

    #[test]
    fn on_a_busy_one_each_thread_has_its_turn_first() {
        assert_eq!(waited(&[BUSY]), millis(30));
    }

    #[test]
    fn threads_that_come_and_go_have_short_turns() {
        assert_eq!(waited(&[BUSY, IDLE]), millis(2) + SHORT_TURN * 3);
        let with_one_that_stays = Crowd { runnable: 3, processors: 2 };
        assert_eq!(waited(&[BUSY, with_one_that_stays]), millis(9));
    }

    #[test]
    fn what_the_kernel_tells_is_read() {
        assert_eq!(runnable("0.20 0.18 0.12 3/80 11206\n"), Some(3));
        assert_eq!(runnable(""), None);
        assert!(Crowd::now().runnable > 0, "this thread runs");
    }
}
