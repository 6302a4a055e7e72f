//! Writers over a bucket in memory, for the tests of uploads.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cosgate::{
    config::Limits,
    cos::{FaultyStore, Key, MemoryStore, NewObject},
    vfs::{Keys, Published, VfsError, WriteHandle, Writers},
};

pub(crate) const MIB: u64 = 1 << 20;

/// A bucket in memory that fails on demand, and writers to it.
pub(crate) struct Site {
    pub(crate) memory: Arc<MemoryStore>,
    pub(crate) store: Arc<FaultyStore>,
    pub(crate) keys: Arc<Keys>,
    pub(crate) writers: Arc<Writers>,
}

impl Site {
    /// To be made on the runtime that is to send the requests.
    pub(crate) fn new(memory_bytes: u64, min_part_bytes: u64, upload_requests_max: usize) -> Self {
        Self::with_answers(memory_bytes, min_part_bytes, upload_requests_max, 0)
    }

    /// As [`Self::new`], with so many places beside the requests in flight.
    pub(crate) fn with_answers(
        memory_bytes: u64,
        min_part_bytes: u64,
        upload_requests_max: usize,
        upload_answers_max: usize,
    ) -> Self {
        let memory = Arc::new(MemoryStore::new());
        let store = Arc::new(FaultyStore::new(Arc::clone(&memory) as _));
        let limits = Limits {
            memory_bytes,
            min_part_bytes,
            single_file_bytes_max: 200 << 30,
            upload_requests_max,
            upload_answers_max,
            ..Limits::default()
        };
        let writers = Writers::new(&limits, tokio::runtime::Handle::current());
        Self { memory, store, keys: Keys::new(), writers }
    }

    pub(crate) fn begin(&self, key: &str) -> Arc<WriteHandle> {
        let key = Key::new(key).expect("a key");
        WriteHandle::begin(
            Arc::clone(&self.writers),
            Arc::clone(&self.store) as _,
            Arc::clone(&self.keys),
            key,
        )
    }

    /// Writes and publishes `content` in pieces of `piece` bytes.
    pub(crate) async fn upload(
        &self,
        key: &str,
        content: &Bytes,
        piece: usize,
    ) -> Result<Published, VfsError> {
        let handle = self.begin(key);
        write_all(&handle, content, piece).await?;
        handle.publish(NewObject::default()).await
    }

    /// Fails unless all is as it was before the first upload: no memory in use, no upload open.
    pub(crate) async fn assert_at_rest(&self, what: &str) {
        assert_eq!(self.writers.drain(Duration::from_secs(7200)).await, 0, "{what}: not cleaned up");
        for _ in 0..200 {
            if self.writers.budget().used_bytes() == 0 && self.memory.open_upload_keys().is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(self.memory.open_upload_keys(), Vec::<String>::new(), "{what}: upload left open");
        assert_eq!(self.writers.budget().used_bytes(), 0, "{what}: memory kept, {:?}", self.writers);
    }
}

pub(crate) async fn write_all(handle: &WriteHandle, content: &Bytes, piece: usize) -> Result<(), VfsError> {
    let mut offset = 0;
    while offset < content.len() {
        let end = content.len().min(offset + piece);
        handle.write(offset as u64, content.slice(offset..end)).await?;
        offset = end;
    }
    Ok(())
}

/// Bytes that differ everywhere, and between seeds.
pub(crate) fn content(seed: u64, bytes: u64) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut content = vec![0; usize::try_from(bytes).expect("fits into memory")];
    random.fill(&mut content);
    Bytes::from(content)
}
