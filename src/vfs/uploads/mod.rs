//! The register of open multipart uploads, in the bucket itself.
//!
//! COS tells which uploads are open, but not whose they are, and an upload that nobody completes or aborts
//! stays for ever, invisible and paid for. So each one that this program begins is written down beside it,
//! in a small object ([`entry`]), while its first parts travel, and the entry goes after the upload has ended:
//!
//! ```text
//! Initiate answered ── begun ──> PUT entry ┐ in the background, one after the other,
//! Complete, Abort ──── ended ──> DELETE    ┘ and nobody waits for it
//! ```
//!
//! What SIGKILL leaves behind is so known to be ours, and [`sweep`] clears it away. An upload without an
//! entry is somebody else's, and never touched. A request for an entry that fails is logged and fails nothing:
//! the worst that follows is an upload that stays open until a lifecycle rule of the bucket takes it.

mod entry;
mod gateway;
mod held;
mod outdated;
mod sweep;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    num::NonZeroUsize,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard, watch};
use tracing::{info, warn};

use super::Writers;
use crate::cos::{CosError, Key, ObjectStore, Payload, Reason, UploadId};
pub(in crate::vfs) use entry::HeldPart;
use entry::{Entry, Places, State, document};
use gateway::{Gateway, Life};
pub(in crate::vfs) use held::Held;

/// Broken uploads that are remembered (about 2 MB).
const KNOWN_MAX: NonZeroUsize = NonZeroUsize::new(8192).expect("not zero");

/// The open uploads of one mount.
pub(in crate::vfs) struct Uploads {
    store: Arc<dyn ObjectStore>,
    writers: Arc<Writers>,
    places: Places,
    gateway: Gateway,
    /// How long a broken upload may be gone on with; zero: not at all.
    window: Duration,
    /// Those of this very mount. A leaf among the locks.
    live: Mutex<HashMap<UploadId, Arc<Live>>>,
    seen: sweep::Seen,
    /// Where entries of broken uploads stand that this gateway has heard of. A leaf.
    known: Mutex<LruCache<Key, Key>>,
    /// Entries whose names were stored anew while they could not be cleared away. A leaf.
    superseded: Mutex<LruCache<Key, ()>>,
    /// Names whose object was to be replaced by a transfer that broke, and when; `None`: it has been since. A leaf.
    outdated: Mutex<LruCache<Key, Option<outdated::Outdated>>>,
    /// Held while a mark is put or removed, so that the last word stays.
    marking: AsyncMutex<()>,
    /// Requests in the background.
    busy: watch::Sender<usize>,
}

/// An upload on its way.
struct Live {
    key: Key,
    may_go_on: bool,
    begun: SystemTime,
    /// Where its entry stands; locked while a request for it is under way.
    place: Arc<AsyncMutex<Option<Key>>>,
}

impl Uploads {
    /// The uploads of a mount whose own keys begin with `root`. Broken ones may go on for `window`.
    pub(in crate::vfs) fn new(
        store: Arc<dyn ObjectStore>,
        writers: Arc<Writers>,
        root: &str,
        window: Duration,
    ) -> Arc<Self> {
        Arc::new(Self {
            store,
            writers,
            places: Places::new(root),
            gateway: Gateway::of_this_process(),
            window,
            live: Mutex::default(),
            seen: sweep::Seen::default(),
            known: Mutex::new(LruCache::new(KNOWN_MAX)),
            superseded: Mutex::new(LruCache::new(KNOWN_MAX)),
            outdated: Mutex::new(LruCache::new(KNOWN_MAX)),
            marking: AsyncMutex::new(()),
            busy: watch::channel(0).0,
        })
    }

    /// An upload has begun: it is written down in the background.
    pub(in crate::vfs) fn begun(self: &Arc<Self>, key: &Key, upload: &UploadId, may_go_on: bool) {
        let live = Live { key: key.clone(), may_go_on, begun: SystemTime::now(), place: Arc::default() };
        let place = Arc::clone(&live.place).try_lock_owned().expect("nobody knows it yet");
        let live = Arc::new(live);
        self.live.lock().insert(upload.clone(), Arc::clone(&live));
        let (uploads, upload) = (Arc::clone(self), upload.clone());
        self.in_background(async move { uploads.write_down(&live, &upload, place).await });
    }

    /// An upload is completed or aborted: its entry is removed in the background.
    pub(in crate::vfs) fn ended(self: &Arc<Self>, upload: &UploadId) {
        let Some(live) = self.live.lock().remove(upload) else { return };
        let uploads = Arc::clone(self);
        self.in_background(async move {
            // After its PUT has ended, or that would come later and stay.
            let place = live.place.lock().await.take();
            if let Some(place) = place {
                uploads.remove(&place).await;
            }
        });
    }

    /// Waits until no request is under way in the background, `grace` at most.
    pub(in crate::vfs) async fn at_rest(&self, grace: Duration) {
        let mut busy = self.busy.subscribe();
        drop(tokio::time::timeout(grace, busy.wait_for(|requests| *requests == 0)).await);
    }

    async fn write_down(
        self: Arc<Self>,
        live: &Live,
        upload: &UploadId,
        mut place: OwnedMutexGuard<Option<Key>>,
    ) {
        let Some(first) = self.places.first(&live.key) else {
            warn!(key = %live.key, "state_prefix leaves no room for a name: this upload is not written down");
            return;
        };
        let entry = self.entry(live, upload, State::Live { may_go_on: live.may_go_on });
        let mut written = self.put(&first, &live.key, &[], &entry, true).await;
        *place = Some(first.clone());
        if written.as_ref().is_err_and(|error| error.reason == Reason::Exists) {
            if self.clear_broken(&first).await {
                written = self.put(&first, &live.key, &[], &entry, false).await;
            } else {
                // Another upload of this name is on its way.
                *place = self.places.further(&live.key, upload);
                if let Some(further) = &*place {
                    written = self.put(further, &live.key, &[], &entry, false).await;
                }
            }
        }
        if let Err(error) = written {
            warn!(key = %live.key, %error, "an open upload could not be written down");
            // What is in doubt may stand there, and is to be removed.
            if !error.in_doubt {
                *place = None;
            }
        }
    }

    fn entry(&self, live: &Live, upload: &UploadId, state: State) -> Entry {
        Entry { upload: upload.clone(), gateway: self.gateway.clone(), state, begun: live.begun }
    }

    /// Whether the upload that stands at `place` is broken: then it is aborted, because a new one of this name
    /// has begun.
    async fn clear_broken(&self, place: &Key) -> bool {
        let Ok(meta) = self.store.head_object(place).await else { return false };
        let Some(entry) = Entry::read(&meta.metadata) else { return false };
        let Ok(Some((key, _))) = self.read_body(place).await else { return false };
        let (life, now) = (self.life_of(&entry), SystemTime::now());
        let verdict = sweep::decide(&entry, life, meta.last_modified, None, Duration::ZERO, now);
        if verdict != sweep::Verdict::Abort {
            return false;
        }
        info!(%key, upload = entry.upload.as_str(), "a broken upload is aborted: its name is stored anew");
        self.store.abort_multipart_upload(&key, &entry.upload).await.is_ok()
    }

    async fn put(
        &self,
        place: &Key,
        key: &Key,
        parts: &[HeldPart],
        entry: &Entry,
        forbid_overwrite: bool,
    ) -> Result<(), CosError> {
        let payload = Payload::new(document(key, parts));
        let _permit = self.writers.upload_permit().await;
        self.store.put_object(place, payload, &entry.new_object(forbid_overwrite)).await.map(drop)
    }

    async fn remove(&self, place: &Key) {
        if let Err(error) = self.store.delete_object(place).await {
            warn!(entry = %place, %error, "the note of an upload that has ended stays for now");
        }
    }

    /// What an entry's gateway is to this mount.
    fn life_of(&self, entry: &Entry) -> Life {
        match entry.gateway.seen_from(&self.gateway) {
            // An upload that this mount does not know any more: only its entry has stayed.
            Life::Own if !self.live.lock().contains_key(&entry.upload) => Life::Gone,
            life => life,
        }
    }

    fn in_background(self: &Arc<Self>, work: impl Future<Output = ()> + Send + 'static) {
        let counted = Counted::new(Arc::clone(self));
        self.writers.runtime().spawn(async move {
            work.await;
            drop(counted);
        });
    }
}

/// Counts one request of [`Uploads::busy`], until it is dropped.
struct Counted(Arc<Uploads>);

impl Counted {
    fn new(uploads: Arc<Uploads>) -> Self {
        uploads.busy.send_modify(|requests| *requests += 1);
        Self(uploads)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.busy.send_modify(|requests| *requests -= 1);
    }
}

impl fmt::Debug for Uploads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploads")
            .field("live", &self.live.lock().len())
            .field("busy", &*self.busy.borrow())
            .finish_non_exhaustive()
    }
}
