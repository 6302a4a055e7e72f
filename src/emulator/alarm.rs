//! Wakes a task at the time that was asked for. tokio's timers count whole milliseconds, and a round trip of 20 ms
//! would last 21 or 22: on a wire of small files, a tenth of all that is measured.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{
        OnceLock,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

/// A clock that wakes many. Its thread begins with the first sleeper, and ends once nobody can come any more.
#[derive(Debug, Default)]
pub(super) struct Alarm {
    queue: OnceLock<Sender<Sleeper>>,
}

#[derive(Debug)]
struct Sleeper {
    end: Instant,
    wake: oneshot::Sender<()>,
}

impl Alarm {
    /// Waits for `time`; not at all where that is nothing.
    pub(super) async fn sleep(&self, time: Duration) {
        if time.is_zero() {
            return;
        }
        let (wake, woken) = oneshot::channel();
        let sleeper = Sleeper { end: Instant::now() + time, wake };
        let queue = self.queue.get_or_init(|| {
            let (queue, sleepers) = channel();
            thread::spawn(move || wake_in_time(&sleepers));
            queue
        });
        // The thread ends behind the last sender; that is this one.
        queue.send(sleeper).unwrap_or(());
        drop(woken.await);
    }
}

fn wake_in_time(sleepers: &Receiver<Sleeper>) {
    let mut asleep = BinaryHeap::new();
    loop {
        let next = match asleep.peek() {
            None => sleepers.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(Reverse(first)) => {
                let first: &Sleeper = first;
                sleepers.recv_timeout(first.end.saturating_duration_since(Instant::now()))
            }
        };
        match next {
            Ok(sleeper) => asleep.push(Reverse(sleeper)),
            Err(RecvTimeoutError::Disconnected) => return,
            Err(RecvTimeoutError::Timeout) => {}
        }
        while asleep.peek().is_some_and(|Reverse(first)| first.end <= Instant::now()) {
            if let Some(Reverse(sleeper)) = asleep.pop() {
                // Whoever has gone needs no waking.
                sleeper.wake.send(()).unwrap_or(());
            }
        }
    }
}

impl PartialEq for Sleeper {
    fn eq(&self, other: &Self) -> bool {
        self.end == other.end
    }
}

impl Eq for Sleeper {}

impl PartialOrd for Sleeper {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Sleeper {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.end.cmp(&other.end)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn nobody_is_woken_early_and_everybody_is_woken() {
        let alarm = Arc::new(Alarm::default());
        alarm.sleep(Duration::ZERO).await;
        assert!(alarm.queue.get().is_none(), "who sleeps for no time needs no thread");
        let begun = Instant::now();
        let sleepers = [30, 10, 20, 10].map(|millis| {
            let alarm = alarm.clone();
            tokio::spawn(async move {
                let time = Duration::from_millis(millis);
                alarm.sleep(time).await;
                assert!(begun.elapsed() >= time);
            })
        });
        for sleeper in sleepers {
            sleeper.await.unwrap();
        }
    }
}
