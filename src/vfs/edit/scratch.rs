//! Scratch objects: content that has no room in memory and must not be visible yet.
//!
//! Each has a key of its own below `state_prefix`, with the Unix time at which it was begun and a random
//! number for a name, so that no two gateways meet. It is deleted when nobody needs it any more; what a process that died
//! has left is found by its age.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::runtime::Handle as Runtime;
use tracing::{info, warn};

use super::super::{VfsResult, attr::seconds, shared::Shared};
use crate::cos::{Key, ListRequest, ObjectStore};

/// Where scratch objects are, below `state_prefix`.
pub(in crate::vfs) const SCRATCH: &str = "scratch/";
/// What is left behind is removed when it is so old: no file is changed for so long without a publication, or an
/// fsync, in between.
const LEFT_BEHIND_AFTER: Duration = Duration::from_secs(24 * 60 * 60);
/// Tries to delete one, and the pause before the second; the next ones are twice as long each.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(500);

/// A scratch object, deleted when dropped.
pub(super) struct Scratch {
    pub(super) key: Key,
    store: Arc<dyn ObjectStore>,
    runtime: Runtime,
}

impl Scratch {
    /// A key below `prefix` that nobody else uses.
    pub(super) fn new(prefix: &str, store: Arc<dyn ObjectStore>, runtime: Runtime) -> VfsResult<Arc<Self>> {
        let name = format!("{prefix}{:x}-{:016x}", seconds(SystemTime::now()), fastrand::u64(..));
        let key = Key::new(name).map_err(|_| super::super::VfsError::NameTooLong)?;
        Ok(Arc::new(Self { key, store, runtime }))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let (key, store) = (self.key.clone(), self.store.clone());
        self.runtime.spawn(async move {
            for tried in 0..TRIES {
                match store.delete_object(&key).await {
                    Ok(()) => return,
                    Err(error) => warn!(%key, %error, "a scratch object could not be deleted"),
                }
                tokio::time::sleep(PAUSE * (1 << tried)).await;
            }
        });
    }
}

impl fmt::Debug for Scratch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scratch").field(&self.key).finish()
    }
}

impl Shared {
    /// Removes scratch objects that a process which died has left, and aborts its uploads of such. To be
    /// called at start; what fails is tried again at the next one.
    pub async fn sweep_scratch(&self) {
        let prefix = self.names.own(SCRATCH);
        let old = SystemTime::now() - LEFT_BEHIND_AFTER;
        let mut request = ListRequest { prefix: prefix.clone(), entries_max: 1000, ..ListRequest::default() };
        loop {
            let page = match self.store.list_objects(&request).await {
                Ok(page) => page,
                Err(error) => return warn!(%error, "scratch objects left behind cannot be listed"),
            };
            let left = page.objects.iter().filter(|object| object.last_modified < old);
            let keys: Vec<Key> = left.filter_map(|object| Key::new(&object.key).ok()).collect();
            if !keys.is_empty() {
                info!(objects = keys.len(), "removing scratch objects that were left behind");
                if let Err(error) = self.store.delete_objects(&keys).await {
                    warn!(%error, "scratch objects left behind cannot be deleted");
                }
            }
            match page.next_marker {
                Some(marker) => request.marker = marker,
                None => break,
            }
        }
        let uploads = self.store.list_multipart_uploads(&prefix).await.unwrap_or_default();
        for upload in uploads.into_iter().filter(|upload| upload.initiated < old) {
            let Ok(key) = Key::new(&upload.key) else { continue };
            if let Err(error) = self.store.abort_multipart_upload(&key, &upload.upload).await {
                warn!(%key, %error, "an upload of a scratch object that was left behind cannot be aborted");
            }
        }
    }
}
