//! What happens to one key at a time: publications take turns, and nothing builds on a request whose fate
//! is unknown.
//!
//! COS has no conditional PUT or DELETE, so order is kept here, inside one gateway:
//!
//! - [`Keys::lock`]: who is about to replace what a key leads to by something that must not be undone (a
//!   publication, the copy of a rename onto the name) takes its turn. First come, first served: the last
//!   publication of a name wins, and each is whole. An unlink takes no turn: it must not wait for a
//!   publication. It orphans the writers of the name instead, and they clean up behind themselves.
//! - [`Keys::doubt`]: the answer to a PUT or Complete was lost and COS may yet carry it out. Until that is
//!   settled, [`Keys::settled`] holds back whoever is about to publish, delete or rename that key, so that a
//!   late merge never lands on something acknowledged after it.
//!
//! One `Keys` per bucket, shared by all mounts of it. Another gateway, or a console, is not held back.
//! Lock order: a key's turn comes before any lock of a handle; the map below is a leaf.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::sync::{OwnedMutexGuard, watch};

use super::{VfsError, VfsResult};
use crate::cos::{CosError, Key, Reason};

/// The keys of one bucket that something is being done to.
#[derive(Debug, Default)]
pub struct Keys {
    entries: Mutex<HashMap<Key, Arc<Entry>>>,
}

#[derive(Debug)]
struct Entry {
    turn: Arc<tokio::sync::Mutex<()>>,
    /// How many requests are in doubt.
    doubts: watch::Sender<usize>,
}

/// The turn of one who replaces what a key leads to. Ends when dropped.
#[derive(Debug)]
pub struct KeyLock {
    guard: Option<OwnedMutexGuard<()>>,
    _using: Using,
}

/// A request of unknown fate. Drop it once it can take effect no more.
#[derive(Debug)]
pub struct Doubt {
    using: Using,
}

/// Keeps an entry of the map alive; the last one takes it out.
#[derive(Debug)]
struct Using {
    keys: Arc<Keys>,
    key: Key,
    entry: Option<Arc<Entry>>,
}

impl Keys {
    /// The keys of one bucket.
    pub fn new() -> Arc<Self> {
        Arc::new(Self::default())
    }

    /// Waits for one's turn with `key`; bounded by what those before do, each of which has its deadlines.
    pub async fn lock(self: &Arc<Self>, key: &Key) -> KeyLock {
        let using = self.using(key);
        let guard = Arc::clone(&using.entry().turn).lock_owned().await;
        KeyLock { guard: Some(guard), _using: using }
    }

    /// Notes that a request for `key` may yet take effect, although it has failed.
    #[must_use]
    pub fn doubt(self: &Arc<Self>, key: &Key) -> Doubt {
        let using = self.using(key);
        using.entry().doubts.send_modify(|doubts| *doubts += 1);
        Doubt { using }
    }

    /// Waits until nothing is in doubt about `key`. To be asked before a publication, a DELETE or a copy onto it.
    ///
    /// # Errors
    /// `TimedOut` where COS has not let it be settled within a minute.
    pub async fn settled(self: &Arc<Self>, key: &Key) -> VfsResult<()> {
        let using = {
            // Nearly always there is nothing: no entry is made for asking.
            let entries = self.entries.lock();
            if entries.get(key).is_none_or(|entry| *entry.doubts.borrow() == 0) {
                return Ok(());
            }
            drop(entries);
            self.using(key)
        };
        let mut doubts = using.entry().doubts.subscribe();
        let settled = tokio::time::timeout(SETTLED_WITHIN, doubts.wait_for(|doubts| *doubts == 0)).await;
        match settled {
            Ok(_) => Ok(()),
            Err(_) => Err(VfsError::TimedOut {
                cause: Arc::new(
                    CosError::new("HeadObject", Reason::TimedOut)
                        .of_key(key)
                        .because("what became of an earlier request cannot be found out"),
                ),
            }),
        }
    }

    fn using(self: &Arc<Self>, key: &Key) -> Using {
        let entry = Arc::clone(
            self.entries
                .lock()
                .entry(key.clone())
                .or_insert_with(|| Arc::new(Entry { turn: Arc::default(), doubts: watch::channel(0).0 })),
        );
        Using { keys: Arc::clone(self), key: key.clone(), entry: Some(entry) }
    }
}

impl Using {
    fn entry(&self) -> &Entry {
        self.entry.as_ref().expect("taken out by drop alone")
    }
}

impl Drop for Using {
    fn drop(&mut self) {
        let mut entries = self.keys.entries.lock();
        drop(self.entry.take());
        // Entries are cloned under this lock alone: a count of one is the map's own, and stays so.
        if entries.get(&self.key).is_some_and(|entry| Arc::strong_count(entry) == 1) {
            entries.remove(&self.key);
        }
    }
}

impl Drop for KeyLock {
    fn drop(&mut self) {
        // The turn ends before the entry may go, or the next one would find a fresh entry beside it.
        drop(self.guard.take());
    }
}

impl Drop for Doubt {
    fn drop(&mut self) {
        self.using.entry().doubts.send_modify(|doubts| *doubts -= 1);
    }
}

/// How long one waits for the fate of somebody else's request: as long as a request may go without progress.
const SETTLED_WITHIN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> Key {
        Key::new("a").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn turns_are_taken_in_the_order_of_asking() {
        let keys = Keys::new();
        let order = Arc::new(Mutex::new(Vec::new()));
        let first = keys.lock(&key()).await;
        let mut tasks = Vec::new();
        for number in 0..5 {
            let (keys, order) = (Arc::clone(&keys), Arc::clone(&order));
            tasks.push(tokio::spawn(async move {
                let _lock = keys.lock(&key()).await;
                order.lock().push(number);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert!(order.lock().is_empty());
        drop(first);
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock(), [0, 1, 2, 3, 4]);
        assert!(keys.entries.lock().is_empty(), "nothing is remembered of keys at rest");
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_in_doubt_holds_back_until_all_doubts_are_settled() {
        let keys = Keys::new();
        keys.settled(&key()).await.unwrap();
        let (one, other) = (keys.doubt(&key()), keys.doubt(&key()));
        let waiting = tokio::spawn({
            let keys = Arc::clone(&keys);
            async move { keys.settled(&key()).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(one);
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        keys.settled(&Key::new("b").unwrap()).await.unwrap();
        drop(other);
        waiting.await.unwrap().unwrap();
        assert!(keys.entries.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_doubt_that_lasts_is_told_as_a_time_out() {
        let keys = Keys::new();
        let _doubt = keys.doubt(&key());
        assert!(matches!(keys.settled(&key()).await, Err(VfsError::TimedOut { .. })));
    }

    #[tokio::test]
    async fn one_who_gives_up_waiting_leaves_the_queue() {
        let keys = Keys::new();
        let held = keys.lock(&key()).await;
        let waiting = tokio::spawn({
            let keys = Arc::clone(&keys);
            async move { keys.lock(&key()).await }
        });
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.is_err());
        drop(held);
        drop(keys.lock(&key()).await);
        assert!(keys.entries.lock().is_empty());
    }
}
