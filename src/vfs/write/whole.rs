//! Makes an object of what somebody else has put together: one body, the parts of an upload, or a copy.
//!
//! A [`Publisher`] follows the rules of every publication (`upload.rs`): the key's turn, nothing in doubt about it,
//! the name still leads here, and afterwards the checks. Beside them it looks whether the version that the new
//! object rests on still stands, right before it is replaced.

use std::sync::Arc;

use super::{
    super::{Keys, VfsError, VfsResult, uploads::Uploads},
    Published, WriteHandle, Writers,
};
use crate::cos::{
    CosError, CosResult, ETag, Expected, Key, NewObject, ObjectStore, Operation, PartStored, Payload, Reason,
    UploadId,
};

/// Publishes one key, as often as it is asked to.
#[derive(Debug)]
pub(in crate::vfs) struct Publisher(Arc<WriteHandle>);

/// What an object is made of.
#[derive(Debug)]
pub(in crate::vfs) enum Whole {
    Bytes(Payload),
    /// All parts have arrived; `given` is what Initiate was given.
    Parts {
        upload: UploadId,
        parts: Vec<PartStored>,
        expected: Expected,
        given: NewObject,
    },
    /// Another object, in one request; up to 5 GB.
    Copy {
        source: Key,
        version: ETag,
        expected: Expected,
    },
}

impl Publisher {
    pub(in crate::vfs) fn new(
        writers: Arc<Writers>,
        store: Arc<dyn ObjectStore>,
        keys: Arc<Keys>,
        key: Key,
        uploads: Arc<Uploads>,
    ) -> Self {
        Self(WriteHandle::begin_noted(writers, store, keys, key, uploads))
    }

    pub(in crate::vfs) fn key(&self) -> &Key {
        &self.0.shared.key
    }

    /// An upload of this key, written down so that it can be found where this process ends.
    ///
    /// # Errors
    /// What the store answered.
    pub(in crate::vfs) async fn initiate(&self, new: &NewObject) -> CosResult<UploadId> {
        let shared = &self.0.shared;
        let upload = shared.store.initiate_multipart_upload(&shared.key, new).await?;
        if let Some(uploads) = &shared.uploads {
            uploads.begun(&shared.key, &upload, false);
        }
        Ok(upload)
    }

    /// The name was unlinked, or replaced by a rename: nothing may become visible any more.
    pub(in crate::vfs) fn orphan(&self) {
        self.0.orphan();
    }

    pub(in crate::vfs) fn is_orphaned(&self) -> bool {
        self.0.shared.core.lock().orphaned
    }

    /// Makes the object visible, whole and checked. `rests_on`: the version that must still stand. An upload
    /// that does not become an object is aborted.
    ///
    /// # Errors
    /// `ReplacedMeanwhile`, or what the store answered.
    pub(in crate::vfs) async fn publish(
        &self,
        whole: Whole,
        new: &NewObject,
        rests_on: Option<&ETag>,
    ) -> VfsResult<Published> {
        let shared = &self.0.shared;
        let _turn = shared.keys.lock(&shared.key).await;
        let upload = match &whole {
            Whole::Parts { upload, .. } => Some(upload.clone()),
            Whole::Bytes(_) | Whole::Copy { .. } => None,
        };
        if let Err(error) = self.may_publish(rests_on).await {
            upload.into_iter().for_each(|upload| self.abort(upload));
            return Err(error);
        }
        let (made, still_open) = match whole {
            Whole::Bytes(payload) => (shared.put(payload, new).await, false),
            Whole::Parts { upload, parts, expected, given } => {
                shared.core.lock().begun_as = Some(given);
                shared.complete(upload, parts, expected, new).await
            }
            Whole::Copy { source, version, expected } => {
                (self.copy(&source, &version, expected, new).await, false)
            }
        };
        if still_open {
            upload.into_iter().for_each(|upload| self.abort(upload));
        }
        shared.take_back_if_orphaned(made?).await
    }

    /// Aborts an upload of this key, until it has happened.
    pub(in crate::vfs) fn abort(&self, upload: UploadId) {
        let shared = &self.0.shared;
        let cleaning = shared.writers.cleaning();
        let end = shared.loose_end();
        shared.writers.runtime.spawn(async move {
            // A part may have been on its way.
            end.abort(upload, true).await;
            drop(cleaning);
        });
    }

    async fn may_publish(&self, rests_on: Option<&ETag>) -> VfsResult<()> {
        let shared = &self.0.shared;
        shared.keys.settled(&shared.key).await?;
        if self.is_orphaned() {
            return Err(shared.replaced());
        }
        let Some(version) = rests_on else { return Ok(()) };
        match shared.store.head_object(&shared.key).await {
            Ok(meta) if meta.etag == *version => Ok(()),
            Ok(_) => Err(shared.replaced()),
            Err(error) if error.reason == Reason::NoSuchKey => Err(shared.replaced()),
            Err(error) => Err(shared.error(error)),
        }
    }

    async fn copy(
        &self,
        source: &Key,
        version: &ETag,
        expected: Expected,
        new: &NewObject,
    ) -> VfsResult<Published> {
        let shared = &self.0.shared;
        let copied = {
            let _permit = shared.writers.upload_permit().await;
            let forbid_overwrite = new.forbid_overwrite;
            shared.store.copy_object(source, &shared.key, Some(version), Some(new), forbid_overwrite).await
        };
        match copied {
            Ok(stored) => shared.judge(Operation::CopyObject, stored, expected, true),
            // A copy is a PUT whose bytes are there already.
            Err(error) if error.in_doubt => shared.settle_put(error, expected).await,
            Err(error) => Err(self.source_gone(error)),
        }
    }

    /// A source that is missing was there when it was made.
    fn source_gone(&self, error: CosError) -> VfsError {
        match error.reason {
            Reason::NoSuchKey => self.0.shared.replaced(),
            _ => self.0.shared.error(error),
        }
    }
}
