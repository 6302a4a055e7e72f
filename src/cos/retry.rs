//! What may be repeated, and after how long.
//!
//! Three things decide. The answer: [`Again`] says whether the same request can end otherwise. The clock:
//! [`Patience`] ends when a call has spent its time without moving a byte. And the [`Budget`]: all calls of a
//! client share it, so that an outage is met by a trickle of attempts and not by a storm of them.
//! What a repeated request may find changed by its own first attempt is the matter of `settle.rs`.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Operation;

/// Whether, and how, a request that failed is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    /// It will fail each time.
    Never,
    /// Three attempts in all: what is broken may be the bytes on their way, or the answer.
    Few,
    /// As long as there is patience.
    Backoff,
    /// The same, with longer pauses: COS asked for fewer requests.
    Throttled,
    /// Once, signed by a clock that is so many seconds ahead of ours.
    ClockOff(i64),
}

/// What an answer that is no success leads to (*Error Codes*). An answer without a request ID is not COS's own:
/// something on the way failed, which may be over soon, whatever its status says.
pub(super) fn again(operation: Operation, status: u16, code: Option<&str>, is_from_cos: bool) -> Again {
    match (status, code.unwrap_or_default()) {
        (407 | 501, _) => Again::Never,
        (429, _) | (_, "SlowDown" | "KmsFreqControl") => Again::Throttled,
        (
            _,
            "PathConflict" | "UploadConflict" | "InternalError" | "InternalErrror" | "ServiceUnavailable",
        ) => Again::Backoff,
        (_, "RequestTimeout" | "RequestTimeOut" | "UserNetworkTooSlow" | "IncompleteBody") => Again::Backoff,
        (_, "BadDigest") => Again::Few,
        (408 | 500.., _) => Again::Backoff,
        // COS answers so to a part that is sent twice at the same time.
        (409, _) if operation == Operation::UploadPart => Again::Backoff,
        (400.., _) if !is_from_cos => Again::Backoff,
        _ => Again::Never,
    }
}

/// Whether an answer of `status` leaves open if the request took, or will take, effect. 503 is said at the door.
pub(super) fn leaves_doubt(status: u16) -> bool {
    status >= 500 && !matches!(status, 501 | 503)
}

/// How long a call goes on.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    begun: Instant,
    /// Time in which no byte moved, pauses included.
    idle: Duration,
    attempts: u32,
    /// Attempts that came back broken: [`Again::Few`].
    broken: u32,
}

impl Patience {
    /// Patience for a call that begins now and may be without progress for `limit` in all.
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, begun: Instant::now(), idle: Duration::ZERO, attempts: 0, broken: 0 }
    }

    /// How long the next attempt may be without progress: half of the limit where it `may_be_doubled`, so that one
    /// connection which has fallen silent is not the end of the call.
    pub(super) fn for_next_attempt(&self, may_be_doubled: bool) -> Duration {
        let most = if may_be_doubled { self.limit / 2 } else { self.limit };
        self.limit.saturating_sub(self.idle).min(most).max(ATTEMPT_MIN.min(self.limit))
    }

    /// An attempt failed and had moved its last byte at `last_progress`. How long to pause before the next one;
    /// `None`: give up. `asked` is the Retry-After of the answer, `random` lies in 0..1.
    ///
    /// Bytes that moved do not buy more time, or a store that takes bodies and then fails would be tried
    /// for ever: in all, a call ends after four times its limit.
    pub(super) fn pause(
        &mut self,
        again: Again,
        last_progress: Instant,
        asked: Option<Duration>,
        random: f64,
    ) -> Option<Duration> {
        self.attempts += 1;
        self.broken += u32::from(again == Again::Few);
        self.idle += last_progress.elapsed();
        let base = match again {
            Again::Never => return None,
            Again::ClockOff(_) => return Some(Duration::ZERO),
            Again::Few if self.broken >= FEW => return None,
            Again::Few | Again::Backoff => PAUSE_FIRST,
            Again::Throttled => PAUSE_FIRST_THROTTLED,
        };
        let doubled = base.saturating_mul(1 << (self.attempts - 1).min(16)).min(PAUSE_MAX);
        // Full jitter: those who failed together do not come back together.
        let pause = asked.unwrap_or_default().max(doubled.mul_f64(random));
        self.idle += pause;
        let is_over = self.idle >= self.limit || self.begun.elapsed() + pause >= self.limit * 4;
        (!is_over).then_some(pause)
    }

    /// Waits for something else that takes `time`; whether there is patience for it.
    pub(super) fn spend(&mut self, time: Duration) -> bool {
        self.idle += time;
        self.idle < self.limit
    }

    /// How many attempts have failed.
    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }
}

const FEW: u32 = 3;
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_FIRST_THROTTLED: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// An attempt that has hardly time to connect is none.
const ATTEMPT_MIN: Duration = Duration::from_secs(2);

/// How many repeated requests a client may send: a bucket of tokens that fills by itself.
#[derive(Debug)]
pub(super) struct Budget {
    state: Mutex<Tokens>,
}

#[derive(Debug)]
struct Tokens {
    left: f64,
    filled: Instant,
}

impl Budget {
    /// A full budget.
    pub(super) fn new() -> Self {
        Self { state: Mutex::new(Tokens { left: TOKENS_MAX, filled: Instant::now() }) }
    }

    /// Takes a token, now or out of the future: how long to wait for it.
    pub(super) fn take(&self, now: Instant) -> Duration {
        let mut tokens = self.state.lock();
        let gained = now.saturating_duration_since(tokens.filled).as_secs_f64() * TOKENS_PER_SECOND;
        tokens.left = (tokens.left + gained).min(TOKENS_MAX) - 1.0;
        tokens.filled = now;
        // What is owed beyond a minute helps nobody: all who wait have given up by then.
        tokens.left = tokens.left.max(-60.0 * TOKENS_PER_SECOND);
        if tokens.left >= 0.0 {
            Duration::ZERO
        } else {
            Duration::from_secs_f64(-tokens.left / TOKENS_PER_SECOND)
        }
    }
}

/// A burst: the parts in flight on a large machine may all fail once.
const TOKENS_MAX: f64 = 100.0;
/// What a store that is down, or just coming back, hears from one client beyond first attempts.
const TOKENS_PER_SECOND: f64 = 20.0;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_decides() {
        let again = |status, code| again(Operation::PutObject, status, code, true);
        assert_eq!(again(503, Some("SlowDown")), Again::Throttled);
        assert_eq!(again(200, Some("SlowDown")), Again::Throttled);
        for (status, code) in [
            (500, None),
            (502, None),
            (520, None),
            (503, Some("ServiceUnavailable")),
            (409, Some("PathConflict")),
            (409, Some("UploadConflict")),
            (400, Some("RequestTimeout")),
            (400, Some("IncompleteBody")),
            (200, Some("InternalError")),
        ] {
            assert_eq!(again(status, code), Again::Backoff, "{status} {code:?}");
        }
        for (status, code) in [
            (400, Some("InvalidArgument")),
            (403, Some("AccessDenied")),
            (404, Some("NoSuchKey")),
            (404, None),
            (409, Some("FileAlreadyExists")),
            (409, None),
            (412, None),
            (501, None),
            (302, None),
        ] {
            assert_eq!(again(status, code), Again::Never, "{status} {code:?}");
        }
        assert_eq!(again(400, Some("BadDigest")), Again::Few);
        assert_eq!(super::again(Operation::UploadPart, 409, None, true), Again::Backoff);
        assert_eq!(super::again(Operation::HeadObject, 404, None, false), Again::Backoff);
        assert_eq!(super::again(Operation::HeadObject, 407, None, false), Again::Never);
    }

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_are_jittered_and_end() {
        let mut patience = Patience::new(Duration::from_secs(60));
        let mut pauses = Vec::new();
        while let Some(pause) = patience.pause(Again::Backoff, Instant::now(), None, 1.0) {
            tokio::time::sleep(pause).await;
            pauses.push(pause.as_millis());
        }
        assert_eq!(pauses[..7], [100, 200, 400, 800, 1600, 3200, 5000]);
        assert_eq!(pauses.iter().sum::<u128>(), 56_300);
        assert_eq!(patience.attempts(), 17);
        let mut patience = Patience::new(Duration::from_secs(60));
        let throttled = patience.pause(Again::Throttled, Instant::now(), None, 0.5);
        assert_eq!(throttled, Some(Duration::from_millis(250)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_attempt_uses_up_the_patience() {
        let mut patience = Patience::new(Duration::from_secs(60));
        assert_eq!(patience.for_next_attempt(false), Duration::from_secs(60));
        assert_eq!(patience.for_next_attempt(true), Duration::from_secs(30));
        let begun = Instant::now();
        tokio::time::advance(Duration::from_secs(45)).await;
        assert_eq!(patience.pause(Again::Backoff, begun, None, 0.0), Some(Duration::ZERO));
        assert_eq!(patience.for_next_attempt(false), Duration::from_secs(15));
        assert_eq!(patience.for_next_attempt(true), Duration::from_secs(15));
        let begun = Instant::now();
        tokio::time::advance(Duration::from_secs(15)).await;
        assert_eq!(patience.pause(Again::Backoff, begun, None, 0.0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_that_move_bytes_end_too() {
        let mut patience = Patience::new(Duration::from_secs(10));
        let mut attempts = 0;
        loop {
            tokio::time::advance(Duration::from_secs(9)).await;
            attempts += 1;
            if patience.pause(Again::Backoff, Instant::now(), None, 0.0).is_none() {
                break;
            }
        }
        assert_eq!(attempts, 5);
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_store_asks_for_is_the_least() {
        let mut patience = Patience::new(Duration::from_secs(60));
        let asked = Some(Duration::from_secs(7));
        assert_eq!(patience.pause(Again::Throttled, Instant::now(), asked, 0.9), asked);
        let asked = Some(Duration::from_secs(3600));
        assert_eq!(patience.pause(Again::Throttled, Instant::now(), asked, 0.9), None);
        assert_eq!(patience.pause(Again::Never, Instant::now(), None, 0.9), None);
    }

    #[tokio::test(start_paused = true)]
    async fn few_attempts_are_three() {
        let mut patience = Patience::new(Duration::from_secs(60));
        assert!(patience.pause(Again::Few, Instant::now(), None, 0.0).is_some());
        assert!(patience.pause(Again::Few, Instant::now(), None, 0.0).is_some());
        assert_eq!(patience.pause(Again::Few, Instant::now(), None, 0.0), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_outage_is_met_by_a_trickle() {
        let budget = Budget::new();
        let now = Instant::now();
        let waits: Vec<Duration> = (0..1000).map(|_| budget.take(now)).collect();
        assert!(waits[..100].iter().all(Duration::is_zero));
        assert_eq!(waits[119], Duration::from_secs(1));
        assert_eq!(waits[999], Duration::from_secs(45));
        tokio::time::advance(Duration::from_secs(60)).await;
        assert_eq!(budget.take(Instant::now()), Duration::ZERO);
    }
}
