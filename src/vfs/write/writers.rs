//! What all writers of all mounts share: the memory budget, the permits of upload requests, the limits, and
//! what still has to be cleaned up behind uploads that were given up.

use std::{
    collections::HashMap,
    fmt,
    pin::pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch},
};

use super::{super::budget::Budget, Shared};
use crate::config::Limits;

/// What all writers of all mounts share.
pub struct Writers {
    pub(in crate::vfs) budget: Arc<Budget>,
    pub(in crate::vfs) limits: Limits,
    pub(in crate::vfs) runtime: Handle,
    /// Fair: who asked first is served first, whichever file it belongs to.
    requests: Semaphore,
    /// Parts that COS has yet to answer for, and whose place among the requests another one has taken.
    answers: Arc<Semaphore>,
    ages: AtomicU64,
    /// Writers whose part could leave early, by age; some may have gone on since. Lock order: a leaf, taken
    /// by writers that hold their own lock.
    sendable: Mutex<HashMap<u64, Weak<Shared>>>,
    /// Who puts a part together outside the budget, and which edit yields its memory: one at a time.
    merging: Semaphore,
    yields: Arc<Semaphore>,
    /// Tasks that clean up behind uploads given up.
    cleaning: watch::Sender<usize>,
}

/// Counts one task of [`Writers::cleaning`].
pub(super) struct Cleaning {
    writers: Arc<Writers>,
}

impl Writers {
    /// The writers of all mounts, whose requests are sent by tasks on `runtime`.
    pub fn new(limits: &Limits, runtime: Handle) -> Arc<Self> {
        let requests_max = limits.upload_requests_max.clamp(1, Semaphore::MAX_PERMITS);
        let writers = Arc::new(Self {
            budget: Budget::new(limits.memory_bytes, requests_max),
            limits: limits.clone(),
            runtime: runtime.clone(),
            requests: Semaphore::new(requests_max),
            answers: Arc::new(Semaphore::new(limits.upload_answers_max)),
            ages: AtomicU64::new(0),
            sendable: Mutex::default(),
            merging: Semaphore::new(1),
            yields: Arc::new(Semaphore::new(1)),
            cleaning: watch::channel(0).0,
        });
        runtime.spawn(send_early(Arc::clone(&writers.budget), Arc::downgrade(&writers)));
        writers
    }

    /// The one memory budget: writers and readers of all mounts take from it.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Where requests are sent.
    pub(in crate::vfs) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The turn of an upload request: PUT, part, part copy, Complete. `upload_requests_max` are in flight at
    /// a time in this process, and `upload_answers_max` parts whose answer is on its way; LIST, HEAD and reads
    /// ask for none.
    pub async fn upload_permit(&self) -> SemaphorePermit<'_> {
        self.requests.acquire().await.expect("never closed")
    }

    /// Sends a part in its turn. The turn ends when its last byte has left, for a connection to be busy while
    /// this one waits for a round trip and for COS: a tenth of the time that a part takes.
    pub(super) async fn in_turn<T>(&self, left: &Notify, request: impl Future<Output = T>) -> T {
        let turn = self.upload_permit().await;
        let mut request = pin!(request);
        tokio::select! {
            biased;
            answer = &mut request => return answer,
            () = left.notified() => {}
        }
        let place = self.place_for_answer();
        // Where all places are taken, the turn goes on.
        let _turn = place.is_none().then_some(turn);
        request.await
    }

    /// A place among the requests that wait for something else than their turn, if there is one.
    pub(super) fn place_for_answer(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.answers).try_acquire_owned().ok()
    }

    /// The turn of one who puts a part together beyond the budget.
    pub(in crate::vfs) async fn merging(&self) -> SemaphorePermit<'_> {
        self.merging.acquire().await.expect("never closed")
    }

    /// The turn of an edit that gives its memory back because others wait.
    pub(in crate::vfs) fn yields(&self) -> &Arc<Semaphore> {
        &self.yields
    }

    /// Waits until nothing is left to clean up behind uploads that were given up, `grace` at most. Returns
    /// how many uploads may still be open at COS.
    pub async fn drain(&self, grace: Duration) -> usize {
        let mut cleaning = self.cleaning.subscribe();
        match tokio::time::timeout(grace, cleaning.wait_for(|tasks| *tasks == 0)).await {
            Ok(_) => 0,
            Err(_) => *self.cleaning.borrow(),
        }
    }

    /// Most bytes that one writer holds, filling and on their way: half the budget, 96 MiB at most, so that a
    /// single upload of 20 GiB stays well below the budget of all; but never less than two parts.
    pub(super) fn writer_bytes_max(&self, part_bytes: u64) -> u64 {
        (self.budget.bytes() / 2).min(WRITER_BYTES_MAX).max(2 * part_bytes)
    }

    /// The age of a new writer: lower is older.
    pub(in crate::vfs) fn next_age(&self) -> u64 {
        self.ages.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes a writer whose part has become large enough to be sent.
    pub(super) fn may_leave_early(&self, age: u64, writer: Weak<Shared>) {
        self.sendable.lock().insert(age, writer);
    }

    /// Counts a task that cleans up, unless there are too many already.
    pub(super) fn cleaning(self: &Arc<Self>) -> Option<Cleaning> {
        let counted = self.cleaning.send_if_modified(|tasks| {
            let room = *tasks < CLEANING_MAX;
            *tasks += usize::from(room);
            room
        });
        counted.then(|| Cleaning { writers: Arc::clone(self) })
    }

    fn send_largest_early(&self) {
        if !self.budget.wants_parts() {
            return;
        }
        // A statement of its own: the lock ends here, before those of the writers begin.
        let noted = std::mem::take(&mut *self.sendable.lock());
        let mut sendable: Vec<_> = noted
            .into_iter()
            .filter_map(|(age, writer)| writer.upgrade().map(|writer| (writer.sendable_bytes(), age, writer)))
            .filter(|(bytes, ..)| *bytes > 0)
            .collect();
        sendable.sort_by_key(|(bytes, ..)| std::cmp::Reverse(*bytes));
        for (_, age, writer) in sendable {
            if self.budget.wants_parts() {
                writer.leave_early();
            }
            if writer.sendable_bytes() > 0 {
                self.may_leave_early(age, Arc::downgrade(&writer));
            }
        }
    }
}

impl Drop for Cleaning {
    fn drop(&mut self) {
        self.writers.cleaning.send_modify(|tasks| *tasks -= 1);
    }
}

impl fmt::Debug for Writers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writers")
            .field("budget", &self.budget)
            .field("requests_idle", &self.requests.available_permits())
            .field("sendable", &self.sendable.lock().len())
            .field("cleaning", &*self.cleaning.borrow())
            .finish_non_exhaustive()
    }
}

/// While somebody waits for memory and upload requests are idle: sends what can stand as a part, the largest
/// first, whether its writer goes on or stalls. A writer that goes on sees to that itself; this is for those
/// that write no more, and for the moment when waiting begins.
async fn send_early(budget: Arc<Budget>, writers: Weak<Writers>) {
    loop {
        // Writers that are gone press no more; they are looked for now and then.
        let pressed = tokio::time::timeout(Duration::from_secs(60), budget.pressed()).await;
        let Some(writers) = writers.upgrade() else { return };
        if pressed.is_ok() {
            writers.send_largest_early();
            budget.let_some_grow();
        }
    }
}

/// What one writer holds at most, unless two of its parts are more.
const WRITER_BYTES_MAX: u64 = 96 << 20;
/// Uploads that are being cleaned up behind at a time; what comes on top stays open at COS, and is logged.
const CLEANING_MAX: usize = 10_000;

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        task::{Context, Waker},
    };

    use super::*;

    #[tokio::test]
    async fn a_part_that_waits_for_its_answer_makes_room_for_another_but_not_for_all() {
        let limits = Limits { upload_requests_max: 4, upload_answers_max: 1, ..Limits::default() };
        let writers = Writers::new(&limits, Handle::current());
        let left: Vec<Notify> = (0..7).map(|_| Notify::new()).collect();
        let begun = AtomicU64::new(0);
        let send = |left| {
            Box::pin(writers.in_turn(left, async {
                begun.fetch_add(1, Ordering::Relaxed);
                pending::<()>().await;
            }))
        };
        let mut parts: Vec<_> = left.iter().map(send).collect();
        let mut begun_by_now = || {
            // Twice, for those who have just been given a turn to take it.
            for _ in 0..2 {
                for part in &mut parts {
                    assert!(part.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
                }
            }
            begun.load(Ordering::Relaxed)
        };
        assert_eq!(begun_by_now(), 4);
        left[0].notify_one();
        assert_eq!(begun_by_now(), 5, "its turn is another's");
        left[1].notify_one();
        assert_eq!(begun_by_now(), 5, "one waits for its answer besides, as the limit says");
    }
}
