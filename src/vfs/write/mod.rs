//! An object being written: performs what the state machine decides.

use std::{sync::Arc, time::SystemTime};

use bytes::Bytes;

use super::{Keys, VfsError, VfsResult};
use crate::{
    config::Limits,
    cos::{Crc64, ETag, Key, NewObject, ObjectStore},
};

/// What all writers of all mounts share: memory budget, upload permits, limits.
#[derive(Debug)]
pub struct Writers;

/// One object being written, from the first byte to its publication. Knows no inode, no name, no policy.
#[derive(Debug)]
pub struct WriteHandle;

/// What became of a write that must not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tried {
    /// All bytes are taken.
    Taken,
    /// Not one byte is taken: there is no memory for them now, or the answer has to wait for COS.
    Full,
}

/// The object that a publish has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    pub etag: ETag,
    pub bytes: u64,
    pub crc64: Crc64,
    /// COS's time where its answer told one, else ours, in whole seconds.
    pub last_modified: SystemTime,
    /// False where an upload in parts had begun with other metadata or another content type than publish
    /// was given: the object stands, whole, with the former. A self-copy would give it the latter.
    pub as_asked: bool,
}

impl Writers {
    /// The writers of all mounts, whose requests are sent by tasks on `runtime`.
    pub fn new(_limits: &Limits, _runtime: tokio::runtime::Handle) -> Arc<Self> {
        todo!()
    }
}

impl WriteHandle {
    /// Begins to write `key`. Nothing is sent before bytes fill a part, or before publish.
    pub fn begin(
        _writers: Arc<Writers>,
        _store: Arc<dyn ObjectStore>,
        _keys: Arc<Keys>,
        _key: Key,
    ) -> Arc<Self> {
        todo!()
    }

    /// What the object is given when it is made, as far as it is known before publish: an upload in parts is
    /// given its content type and metadata when it begins, and cannot be given others later.
    pub fn set_new_object(&self, _new: NewObject) {
        todo!()
    }

    /// Takes `data` at `offset` if that needs no waiting. Called in the FUSE loop: never blocks.
    ///
    /// # Errors
    /// `NotSupported` for an offset that is not the end of what was written, `TooLarge`, or the error
    /// that an earlier request left on the handle.
    pub fn try_write(&self, _offset: u64, _data: &[u8]) -> VfsResult<Tried> {
        todo!()
    }

    /// Takes `data` at `offset`, waiting for memory where there is none.
    ///
    /// # Errors
    /// As [`Self::try_write`].
    pub async fn write(&self, _offset: u64, _data: Bytes) -> VfsResult<()> {
        todo!()
    }

    /// Calls `wake` once, as soon as a write that was [`Tried::Full`] may be tried again, or has failed.
    /// Returns false, without keeping `wake`, where that is the case already.
    pub fn wake_on_room(&self, _wake: Box<dyn FnOnce() + Send>) -> bool {
        todo!()
    }

    /// Bytes accepted so far.
    pub fn bytes(&self) -> u64 {
        todo!()
    }

    /// Whether bytes were written since the beginning, the last truncation or the last publication.
    pub fn is_dirty(&self) -> bool {
        todo!()
    }

    /// Throws away what was written; the next publish makes what is written from now on.
    ///
    /// # Errors
    /// The error that an earlier request left on the handle.
    pub fn truncate_to_zero(&self) -> VfsResult<()> {
        todo!()
    }

    /// No more bytes will come: sends all that can be sent without publishing, and waits for it.
    ///
    /// # Errors
    /// What the store answered; it stays on the handle.
    pub async fn prepare(&self) -> VfsResult<()> {
        todo!()
    }

    /// Makes the object visible, whole and checked; the older one stays as it was until then. A second
    /// call without writes in between gives the first one's answer again, success or error.
    ///
    /// # Errors
    /// What the store answered, `ReplacedMeanwhile` after [`Self::orphan`]; it stays on the handle.
    pub async fn publish(&self, _new: NewObject) -> VfsResult<Published> {
        todo!()
    }

    /// The name was unlinked, or replaced by a rename: nothing of this handle may become visible any more.
    pub fn orphan(&self) {
        todo!()
    }

    /// Gives up: aborts the upload, leaves nothing visible, frees the memory. Idempotent; keeps trying in
    /// the background where the store is down.
    pub async fn discard(&self, _why: &'static str) {
        todo!()
    }

    /// The error that a failed request has left.
    pub fn failure(&self) -> Option<VfsError> {
        todo!()
    }
}
