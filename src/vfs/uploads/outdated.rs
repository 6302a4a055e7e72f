//! Objects that were to be replaced by transfers which broke.
//!
//! Such an object is as it was, which is promised. But clients that go on by themselves (lftp, `curl -C -`) ask for the
//! size of what stands there and send what is behind it: the beginning of an old file and the end of a new one would be
//! stored as one, and acknowledged. So the name is remembered, here and by a mark in the bucket, for other gateways and
//! for the next process, until it is stored as a whole:
//!
//! ```text
//! STATE_PREFIX outdated/KEY         younger than the object under KEY: nobody goes on with that
//! STATE_PREFIX outdated-more/HASH   where that is too long
//! ```

use std::{
    sync::Arc,
    time::{Instant, SystemTime},
};

use bytes::Bytes;
use tracing::warn;

use super::{Uploads, entry::seconds};
use crate::{
    config::OUTDATED_TIME,
    cos::{Key, NewObject, Payload, Reason},
    vfs::{
        VfsError, VfsResult,
        attr::{Facts, PackedETag},
    },
};

/// That a name's object was to be replaced by a transfer which broke.
#[derive(Debug)]
pub(super) struct Outdated {
    since: Instant,
    /// The object that stood there, where that is known: what has come there since is not outdated.
    object: Option<PackedETag>,
}

impl Outdated {
    fn concerns(&self, facts: &Facts) -> bool {
        let is_that = self.object.is_none() || self.object == facts.etag;
        is_that && self.since.elapsed() < OUTDATED_TIME
    }
}

impl Uploads {
    /// A transfer that was to replace `object` under `key` broke.
    pub(in crate::vfs) fn note_outdated(self: &Arc<Self>, key: &Key, object: Option<PackedETag>) {
        self.outdated.lock().put(key.clone(), Some(Outdated { since: Instant::now(), object }));
        let Some(mark) = self.places.mark(key) else { return };
        let (uploads, key) = (Arc::clone(self), key.clone());
        self.in_background(async move {
            let _turn = uploads.marking.lock().await;
            if uploads.outdated.lock().peek(&key).is_some_and(Option::is_none) {
                return;
            }
            let put =
                uploads.store.put_object(&mark, Payload::new(Bytes::new()), &NewObject::default()).await;
            if let Err(error) = put {
                warn!(%key, %error, "that its last upload broke is known to this process alone");
            }
        });
    }

    /// The object under `key` was stored as a whole.
    pub(in crate::vfs) fn note_current(self: &Arc<Self>, key: &Key) {
        match self.outdated.lock().get_mut(key) {
            // The mark may stay for a moment.
            Some(noted) if noted.is_some() => *noted = None,
            Some(_) | None => return,
        }
        let Some(mark) = self.places.mark(key) else { return };
        let uploads = Arc::clone(self);
        self.in_background(async move {
            let _turn = uploads.marking.lock().await;
            uploads.remove(&mark).await;
        });
    }

    /// Whether the object under `key` was to be replaced since it was stored.
    ///
    /// # Errors
    /// What the store answered.
    pub(in crate::vfs) async fn is_outdated(&self, key: &Key, facts: &Facts) -> VfsResult<bool> {
        if let Some(noted) = self.outdated.lock().peek(key) {
            return Ok(noted.as_ref().is_some_and(|noted| noted.concerns(facts)));
        }
        let Some(mark) = self.places.mark(key) else { return Ok(false) };
        match self.store.head_object(&mark).await {
            Ok(meta) => {
                // HEAD tells whole seconds. Of two in the same second the mark counts: a file sent whole is never wrong.
                let is_outdated =
                    seconds(meta.last_modified) >= seconds(facts.modified) && !is_over(meta.last_modified);
                if is_outdated {
                    // Whoever stores it as a whole takes the mark away.
                    let noted = Outdated { since: Instant::now(), object: facts.etag.clone() };
                    self.outdated.lock().put(key.clone(), Some(noted));
                }
                Ok(is_outdated)
            }
            Err(error) if error.reason == Reason::NoSuchKey => Ok(false),
            Err(error) => Err(VfsError::from_cos(error, key.as_str())),
        }
    }

    /// Removes marks that mean nothing any more.
    pub(super) async fn sweep_marks(&self) {
        let marks = match self.all_below(self.places.marks_prefix()).await {
            Ok(marks) => marks,
            Err(error) => {
                warn!(%error, "marks of broken uploads cannot be listed, and stay for now");
                return;
            }
        };
        for mark in marks.into_iter().filter(|mark| is_over(mark.last_modified)) {
            if let Ok(mark) = Key::new(&mark.key) {
                self.remove(&mark).await;
            }
        }
    }
}

fn is_over(marked: SystemTime) -> bool {
    marked.elapsed().is_ok_and(|since| since >= OUTDATED_TIME)
}
