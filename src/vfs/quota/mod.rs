//! What one bucket and prefix may hold (`quota`, `quota_files`), and whether there is room.
//!
//! ```text
//! open, create ──> Quota::open ──> Share ── room_to(end) before every write; only now and then a lock
//!                                    │ published: the claim is use now         dropped: it is given back
//! unlink, mkdir, rename ──> Quota::change            ledger.rs keeps the books
//! LISTs in the background ──> pages                  count.rs asks for them
//! ```
//!
//! Nobody is let in on a guess: who wants to write waits until the bucket has been counted once. Reading,
//! removing and renaming never wait. Without a limit there is no `Quota` at all.

mod count;
mod ledger;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{
    runtime::Handle as Runtime,
    sync::{Notify, watch},
    task::AbortHandle,
};
use tracing::warn;

use self::ledger::{ClaimNo, Full, Ledger};
use super::{SpaceUse, VfsError, VfsResult, name::Names};
use crate::{
    config::QuotaConfig,
    cos::{Key, ObjectStore},
};

/// The quota of one bucket and prefix.
#[derive(Debug)]
pub(super) struct Quota {
    books: Arc<Books>,
    counting: AbortHandle,
}

#[derive(Debug)]
struct Books {
    /// A leaf.
    ledger: Mutex<Ledger>,
    /// Whether the bucket has been counted once.
    is_counted: watch::Sender<bool>,
    /// Rung when the books are in doubt.
    doubt: Notify,
}

/// What one writer may take. What it has claimed and not published goes back when this is dropped.
#[derive(Debug)]
pub(in crate::vfs) struct Share {
    books: Arc<Books>,
    key: Key,
    number: ClaimNo,
    /// How far the object may reach.
    reach: Option<u64>,
}

impl Quota {
    /// The quota of what `names` show of `store`; `None` where there is no limit. Counting begins at once.
    pub(super) fn new(
        limits: QuotaConfig,
        store: Arc<dyn ObjectStore>,
        names: Names,
        mount: &str,
        runtime: &Runtime,
    ) -> Option<Self> {
        if limits == QuotaConfig::default() {
            return None;
        }
        let books = Arc::new(Books {
            ledger: Mutex::new(Ledger::new(limits)),
            is_counted: watch::channel(false).0,
            doubt: Notify::new(),
        });
        let count = count::Count { books: Arc::clone(&books), store, names, mount: mount.to_owned() };
        let counting = runtime.spawn(count.for_ever()).abort_handle();
        Some(Self { books, counting })
    }

    /// Waits for the first count.
    ///
    /// # Errors
    /// `QuotaUnknown` where the bucket has not been counted within half a minute.
    pub(super) async fn counted(&self) -> VfsResult<()> {
        let mut is_counted = self.books.is_counted.subscribe();
        let counted = is_counted.wait_for(|counted| *counted);
        match tokio::time::timeout(COUNTED_WITHIN, counted).await {
            Ok(_) => Ok(()),
            Err(_) => {
                warn!(
                    "refused to store: what the bucket holds is not counted yet, and the account has a quota"
                );
                Err(VfsError::QuotaUnknown)
            }
        }
    }

    /// The share of a writer of `key`, where an object of `stands` bytes is known to stand.
    ///
    /// # Errors
    /// `QuotaReached` where there is not even room for an empty object.
    pub(super) fn open(&self, key: &Key, stands: Option<u64>) -> VfsResult<Share> {
        let number = self.books.ledger.lock().open(key.as_str(), stands);
        let mut share = Share { books: Arc::clone(&self.books), key: key.clone(), number, reach: None };
        share.room_to(0)?;
        Ok(share)
    }

    /// What stands under `key` has changed, `before` as far as its author knows.
    pub(super) fn change(&self, key: &str, before: Option<u64>, after: Option<u64>) {
        let mut ledger = self.books.ledger.lock();
        ledger.change(key, before, after, Instant::now());
        if ledger.take_doubt() {
            self.books.doubt.notify_one();
        }
    }

    /// Has the bucket counted again soon: what became of a change is unknown.
    pub(super) fn doubt(&self) {
        self.books.doubt.notify_one();
    }

    /// What statfs shows. Before the first count all of it looks free.
    pub(super) fn space(&self, unlimited: SpaceUse) -> SpaceUse {
        let ledger = self.books.ledger.lock();
        let (limits, free) = (ledger.limits(), ledger.free());
        SpaceUse {
            bytes_total: limits.bytes.unwrap_or(unlimited.bytes_total),
            bytes_free: limits.bytes.map_or(unlimited.bytes_free, |_| free.bytes),
            files_total: limits.files.unwrap_or(unlimited.files_total),
            files_free: limits.files.map_or(unlimited.files_free, |_| free.files),
            is_limited: true,
        }
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        self.counting.abort();
    }
}

impl Share {
    /// Makes sure that the object may reach to `end` bytes.
    ///
    /// # Errors
    /// `QuotaReached`; what was claimed before stays.
    pub(in crate::vfs) fn room_to(&mut self, end: u64) -> VfsResult<()> {
        if self.reach.is_some_and(|reach| end <= reach) {
            return Ok(());
        }
        let claimed = self.books.ledger.lock().claim(self.key.as_str(), self.number, end, AHEAD_BYTES);
        self.reach = Some(claimed.map_err(|full| self.refusal(full))?);
        Ok(())
    }

    /// Gives back what is claimed. The writer may begin anew.
    pub(in crate::vfs) fn release(&mut self) {
        if self.reach.take().is_some() {
            self.books.ledger.lock().release(self.key.as_str(), self.number);
        }
    }

    /// An object of so many bytes is visible.
    pub(in crate::vfs) fn published(&mut self, bytes: u64) {
        self.reach = None;
        self.books.ledger.lock().published(self.key.as_str(), self.number, bytes, Instant::now());
    }

    /// A publication has failed, and perhaps not quite.
    pub(in crate::vfs) fn doubt(&self) {
        self.books.doubt.notify_one();
    }

    fn refusal(&self, full: Full) -> VfsError {
        let (setting, limit) = match full {
            Full::Bytes { limit } => ("quota", limit),
            Full::Files { limit } => ("quota_files", limit),
        };
        VfsError::QuotaReached { name: self.key.to_string(), setting, limit }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.books.ledger.lock().close(self.key.as_str(), self.number);
    }
}

/// How long a writer waits for the first count.
const COUNTED_WITHIN: Duration = Duration::from_secs(30);
/// What a writer claims beyond what it has, while there is plenty: one lock for so many bytes.
const AHEAD_BYTES: u64 = 1 << 20;
