//! Small files that were read whole a moment ago: their bytes stay within the memory limit for who opens them
//! again (git, sqlite, the scripts of a shell).
//!
//! Nobody is told when an object is replaced in the bucket, and whoever opens a file reads what is there now.
//! So a file that is opened again costs a HEAD, and its bytes come from here as long as the version is the same.
//! Writers and other readers come first: what is kept goes as soon as memory is short.

use std::{fmt, sync::Arc};

use lru::LruCache;
use parking_lot::Mutex;

use super::fetch::Fetch;
use crate::cos::{Crc64, ETag, Key, ObjectMeta};

/// One file may have this part of what all of them may have.
const FILE_SHARE: u64 = 4;

/// The version of an object that a handle reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pinned {
    pub(super) etag: ETag,
    pub(super) bytes: u64,
    pub(super) crc64: Option<Crc64>,
}

impl Pinned {
    /// The version that the store tells of.
    pub(super) fn of(meta: &ObjectMeta) -> Self {
        Self { etag: meta.etag.clone(), bytes: meta.size, crc64: meta.crc64 }
    }
}

/// A file that is kept, whole and checked.
#[derive(Debug, Clone)]
pub(super) struct KeptFile {
    pub(super) version: Pinned,
    pub(super) fetch: Arc<Fetch>,
}

/// What is kept of one bucket.
pub(super) struct KeptFiles {
    bytes_max: u64,
    // Leaf lock: what goes is dropped behind it.
    files: Mutex<Files>,
}

struct Files {
    by_key: LruCache<Key, KeptFile>,
    bytes: u64,
}

impl fmt::Debug for KeptFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeptFiles({} bytes)", self.files.lock().bytes)
    }
}

impl KeptFiles {
    /// Up to `bytes_max` of memory.
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, files: Mutex::new(Files { by_key: LruCache::unbounded(), bytes: 0 }) }
    }

    /// What is kept of `key`.
    pub(super) fn file(&self, key: &Key) -> Option<KeptFile> {
        self.files.lock().by_key.get(key).cloned()
    }

    /// Keeps a file, if it is small enough.
    pub(super) fn keep(&self, key: Key, file: KeptFile) {
        let bytes = file.fetch.memory_bytes();
        if bytes > self.bytes_max / FILE_SHARE {
            return;
        }
        let mut gone = Vec::new();
        let mut files = self.files.lock();
        files.bytes += bytes;
        gone.extend(files.by_key.put(key, file).map(|before| files.release(before)));
        while files.bytes > self.bytes_max
            && let Some(oldest) = files.oldest()
        {
            gone.push(oldest);
        }
        drop(files);
        drop(gone);
    }

    /// Forgets `key`: it is another version now.
    pub(super) fn forget(&self, key: &Key) {
        let gone = {
            let mut files = self.files.lock();
            files.by_key.pop(key).map(|file| files.release(file))
        };
        drop(gone);
    }

    /// Gives back about so many bytes, what was read longest ago first. How many it were.
    pub(super) fn give_back(&self, bytes: u64) -> u64 {
        let mut gone = Vec::new();
        let mut files = self.files.lock();
        let before = files.bytes;
        while before - files.bytes < bytes
            && let Some(oldest) = files.oldest()
        {
            gone.push(oldest);
        }
        let given = before - files.bytes;
        drop(files);
        drop(gone);
        given
    }
}

impl Files {
    fn oldest(&mut self) -> Option<KeptFile> {
        let (_, file) = self.by_key.pop_lru()?;
        Some(self.release(file))
    }

    fn release(&mut self, file: KeptFile) -> KeptFile {
        self.bytes -= file.fetch.memory_bytes();
        file
    }
}
