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

use std::{
    num::NonZeroUsize,
    sync::LazyLock,
    time::{Duration, Instant},
};

/// Shortest wait between the end of the data and the question whether the client is still there: after 2 ms
/// none of 60 killed clients of an idle machine had its control connection open.
const TIME_MIN: Duration = Duration::from_millis(2);
/// What a client that is being killed needs once it has a processor: half as much again as was measured.
const MOMENT: Duration = Duration::from_micros(500);
/// Longest that follows from the way: a client that took long to dial is not that far away.
const WAY_TIME_MAX: Duration = Duration::from_secs(1);
/// This part of the time that the data have taken is waited in any case, because nobody feels it.
const SHARE: u32 = 100;
const SHARE_TIME_MAX: Duration = Duration::from_millis(100);
/// What a turn of all runnable threads takes, for each of them that a processor has: half as much again as was measured.
const TURN: Duration = Duration::from_millis(6);
const CROWD_TIME_MAX: Duration = Duration::from_millis(250);

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
        let told = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        Self { runnable: runnable(&told).unwrap_or(0), processors: *PROCESSORS }
    }

    fn waits(self) -> bool {
        self.runnable > self.processors
    }

    /// Until each of them has had its turn.
    fn turn(self) -> Duration {
        (TURN * self.runnable / self.processors.max(1)).min(CROWD_TIME_MAX)
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
    /// Waited for the sake of a crowd.
    most: Duration,
    crowd_seen: Option<Instant>,
}

impl SettleTime {
    /// Of data that came from `begun` to `ended`, over a connection that was `dialled_within` so long.
    pub(super) fn new(begun: Instant, ended: Instant, dialled_within: Duration) -> Self {
        let way = (dialled_within * 2).clamp(TIME_MIN, WAY_TIME_MAX);
        let share = (ended.saturating_duration_since(begun) / SHARE).min(SHARE_TIME_MAX);
        Self { ended, least: way.max(share), most: Duration::ZERO, crowd_seen: None }
    }

    /// How long to wait until this is asked again; zero: it is over.
    pub(super) fn left(&mut self, now: Instant, crowd: impl FnOnce() -> Crowd) -> Duration {
        let waited = now.saturating_duration_since(self.ended);
        if waited < self.least {
            return self.least - waited;
        }
        let crowd = crowd();
        if crowd.waits() {
            self.crowd_seen = Some(now);
            self.most = self.most.max(crowd.turn());
        }
        // Who could not run before needs a moment, too.
        let Some(until) = self.crowd_seen.map(|seen| seen + MOMENT) else { return Duration::ZERO };
        until.min(self.ended + self.most).saturating_duration_since(now)
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
            time.left(ended, || panic!("not asked yet"))
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
        assert_eq!(time.left(ended + millis(2), || IDLE), millis(0));
    }

    #[test]
    fn on_a_busy_one_each_thread_has_its_turn_first() {
        let (mut time, ended) = time(millis(1), millis(0));
        let mut now = ended;
        loop {
            let left = time.left(now, || BUSY);
            if left.is_zero() {
                break;
            }
            now += left;
        }
        assert_eq!(now - ended, millis(30));
    }

    #[test]
    fn a_crowd_that_is_gone_is_not_waited_for() {
        let (mut time, ended) = time(millis(1), millis(0));
        assert_eq!(time.left(ended + millis(2), || BUSY), MOMENT);
        assert_eq!(time.left(ended + millis(2) + MOMENT / 2, || IDLE), MOMENT / 2, "a moment more");
        assert_eq!(time.left(ended + millis(3), || IDLE), millis(0));
    }

    #[test]
    fn what_the_kernel_tells_is_read() {
        assert_eq!(runnable("0.20 0.18 0.12 3/80 11206\n"), Some(3));
        assert_eq!(runnable(""), None);
        assert!(Crowd::now().runnable > 0, "this thread runs");
    }
}
