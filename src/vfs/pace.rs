//! How long the store usually lets a reader wait, and when what stands still is asked for a second time.
//!
//! A connection that has gone silent (a dead link behind a load balancer, a server of the store that hangs)
//! would hold a reader up for `store_timeout`. So what brought nothing for a multiple of the usual time is
//! asked for again: the first connection is busy, so another one takes it. Whichever brings bytes first goes
//! on, the other is dropped. A store that is slow as a whole is not helped by that: the usual time follows
//! what is measured, and of all requests a twentieth at most is repeated so, beyond a few.
//!
//! Reads alone are repeated: they change nothing, and bytes of one version are the same from everywhere.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::cos::CosResult;

/// Second requests of one reader at a time.
const SECONDS_MAX: usize = 2;
/// Each request pays for so much of a second one.
const SHARE: f64 = 0.05;
/// Second requests that may come in one go.
const SAVED_MAX: f64 = 8.0;
/// What is a standstill, in multiples of the usual pause and its spread.
const MULTIPLE: f64 = 4.0;
/// Shorter pauses are a busy machine's, or a lost packet's.
const PATIENCE_MIN: Duration = Duration::from_millis(300);
/// As long as nothing has been measured.
const PATIENCE_FIRST: Duration = Duration::from_secs(2);

/// The pace of one bucket.
#[derive(Debug)]
pub(super) struct Pace {
    /// Patience ends here, whatever is usual.
    patience_max: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Mean and mean deviation of the longest pause of a request, in seconds (as RFC 6298 smooths round trips).
    usual: Option<(f64, f64)>,
    /// Second requests that may be sent.
    saved: f64,
}

/// Second requests of one reader that are under way.
#[derive(Debug, Clone, Default)]
pub(super) struct Seconds(Arc<AtomicUsize>);

/// The right to one second request; gives it back when dropped.
#[derive(Debug)]
pub(super) struct Second(Seconds);

impl Drop for Second {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pace {
    /// Of a store whose requests are given up after `timeout` without progress.
    pub(super) fn new(timeout: Duration) -> Self {
        Self { patience_max: timeout / 2, state: Mutex::new(State { usual: None, saved: SAVED_MAX }) }
    }

    /// How long a request may bring nothing before it is sent a second time.
    pub(super) fn patience(&self) -> Duration {
        let patience = match self.state.lock().usual {
            Some((mean, spread)) => Duration::from_secs_f64(MULTIPLE * (mean + spread)).max(PATIENCE_MIN),
            None => PATIENCE_FIRST,
        };
        patience.min(self.patience_max)
    }

    /// A request is over, and had brought nothing for `longest`.
    pub(super) fn note(&self, longest: Duration) {
        // One standstill is not the usual; many of them are.
        let pause = longest.min(self.patience()).as_secs_f64();
        let mut state = self.state.lock();
        state.saved = (state.saved + SHARE).min(SAVED_MAX);
        state.usual = Some(match state.usual {
            Some((mean, spread)) => {
                (mean + (pause - mean) / 8.0, spread + ((pause - mean).abs() - spread) / 4.0)
            }
            None => (pause, pause / 2.0),
        });
    }

    /// Whether a second request may be sent now, for a reader that has sent `seconds`.
    pub(super) fn second(&self, seconds: &Seconds) -> Option<Second> {
        let mut state = self.state.lock();
        if state.saved < 1.0 || seconds.0.load(Ordering::Relaxed) >= SECONDS_MAX {
            return None;
        }
        state.saved -= 1.0;
        seconds.0.fetch_add(1, Ordering::Relaxed);
        Some(Second(seconds.clone()))
    }

    /// What `ask` answers; asked a second time if the first answer is late.
    ///
    /// # Errors
    /// What the last of them answered.
    pub(super) async fn sooner<T, F>(&self, seconds: &Seconds, ask: impl Fn() -> F) -> CosResult<T>
    where
        F: Future<Output = CosResult<T>>,
    {
        let begun = Instant::now();
        let mut first = Box::pin(ask());
        tokio::select! {
            biased;
            answer = &mut first => {
                self.note(begun.elapsed());
                return answer;
            }
            () = sleep(self.patience()) => {}
        }
        let Some(_second) = self.second(seconds) else { return first.await };
        let mut second = Box::pin(ask());
        let answer = tokio::select! {
            biased;
            answer = &mut first => if answer.is_ok() { answer } else { second.await },
            answer = &mut second => if answer.is_ok() { answer } else { first.await },
        };
        self.note(begun.elapsed());
        answer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn patience_follows_what_is_usual() {
        let pace = Pace::new(60 * 1000 * MS);
        assert_eq!(pace.patience(), PATIENCE_FIRST);
        (0..100).for_each(|_| pace.note(20 * MS));
        assert_eq!(pace.patience(), PATIENCE_MIN);
        pace.note(3_600_000 * MS);
        assert!(pace.patience() < 1000 * MS, "one standstill: {:?}", pace.patience());
        (0..100).for_each(|_| pace.note(5000 * MS));
        assert!(pace.patience() >= 20_000 * MS && pace.patience() <= 30_000 * MS, "{:?}", pace.patience());
    }

    #[test]
    fn second_requests_are_few() {
        let pace = Pace::new(60 * 1000 * MS);
        let reader = Seconds::default();
        let held: Vec<_> = (0..3).map(|_| pace.second(&reader)).collect();
        assert_eq!(held.iter().flatten().count(), SECONDS_MAX);
        drop(held);
        let in_one_go = 2 + (0..100).filter(|_| pace.second(&reader).is_some()).count();
        assert_eq!(in_one_go, 8);
        let later = (0..1000).filter(|_| {
            pace.note(MS);
            pace.second(&reader).is_some()
        });
        assert!((49..=50).contains(&later.count()));
    }
}
