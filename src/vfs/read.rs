//! Files, read: one version of an object for the life of a handle, and parallel ranges ahead of who reads
//! in order.
//!
//! The first range is asked for without a condition; its ETag and size are the handle's from then on, and
//! every later range is asked for by that ETag. So an object that is replaced meanwhile gives the old bytes
//! that are here already, or `ReplacedMeanwhile`, never a mixture.
//!
//! ```text
//!            ┌ read by now ┐┌────────── window: 8 × what was read in order ──────────┐
//! object ────┴─────────────┴┴ fetch ┴ fetch ┴ fetch ┴ fetch ┴ … up to 6 MiB each ────┴──────
//! ```
//!
//! Whoever jumps about gets what he asked for and nothing more. A handle that reads an object from its first
//! byte to its last checks it against the store's CRC-64 on the way.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, OnceLock, Weak},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{runtime::Handle as Runtime, sync::Mutex as AsyncMutex};
use tracing::error;

use super::{
    Budget, HandleNo, InodeNo, Vfs, VfsError, VfsResult,
    attr::Facts,
    edit::Edit,
    fetch::{Fetch, PIECE_BYTES, Source, joined},
    handle::Handle,
    shared::Shared,
};
use crate::cos::{ByteRange, CosError, Crc64, ETag, Key, ObjectMeta, ObjectStore, Reason};

/// What a read from the beginning fetches at first: small files come in one request.
const FIRST_BYTES: u64 = 2 << 20;
/// Longest range: at 20 ms of latency and 40 MB/s per connection, the latency is an eighth of it.
const RANGE_BYTES_MAX: u64 = 6 << 20;
/// How far the window reaches beyond what was read in order so far.
const WINDOW_GROWTH: u64 = 8;
/// Twelve ranges in flight carry ten connections' worth, and one download stays far below 160 MiB.
const WINDOW_BYTES_MAX: u64 = 12 * RANGE_BYTES_MAX;
/// The share of the memory limit that one reader's window may have.
const WINDOW_SHARE: (u64, u64) = (3, 8);
/// Requests of one reader that come in order may arrive a little out of it.
const DISORDER_BYTES: u64 = 2 << 20;
/// Kept behind who reads in order, and for who does not.
const KEPT_BEHIND_BYTES: u64 = 2 << 20;
const KEPT_RANDOM_BYTES: u64 = 8 << 20;

/// A file that is open for reading.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) inode: InodeNo,
    store: Arc<dyn ObjectStore>,
    runtime: Runtime,
    budget: Arc<Budget>,
    key: Key,
    name: Arc<str>,
    window_bytes_max: u64,
    /// The object was empty when it was last heard of: a range of it would be refused.
    seems_empty: bool,
    pinned: OnceLock<Pinned>,
    /// Reads what others write just now, rather than an object.
    edit: OnceLock<Arc<Edit>>,
    /// It never does so: a download is of one version.
    objects_only: bool,
    /// Who asks first pins the version; the others wait here.
    pinning: AsyncMutex<()>,
    course: Mutex<Course>,
}

/// The version that a handle reads.
#[derive(Debug, Clone)]
struct Pinned {
    etag: ETag,
    bytes: u64,
    crc64: Option<Crc64>,
}

/// One version of an object.
#[derive(Debug, Clone)]
pub(super) struct Version {
    pub(super) key: Key,
    pub(super) etag: ETag,
    pub(super) bytes: u64,
    pub(super) crc64: Option<Crc64>,
}

/// Where the reader is, what is here and what is coming.
#[derive(Debug, Default)]
struct Course {
    /// By first byte; no two overlap.
    fetches: BTreeMap<u64, Arc<Fetch>>,
    /// Where the next read begins, if it goes on in order.
    expected: u64,
    /// Bytes read in order so far; 0: the last read was a jump.
    run: u64,
    /// The object is checked up to here, from its first byte.
    checked_upto: u64,
    checked: Option<Crc64>,
    corrupt: Option<VfsError>,
}

pub(super) async fn read(vfs: &Vfs, handle: HandleNo, offset: u64, bytes: u32) -> VfsResult<Bytes> {
    let reader = match vfs.shared.handle(handle)? {
        Handle::Reader(reader) => reader,
        Handle::File(file) => return file.read(&vfs.shared, offset, u64::from(bytes)).await,
        Handle::Directory(_) => return Err(VfsError::IsDirectory { name: "directory".to_owned() }),
    };
    match reader.edit(&vfs.shared) {
        Some(edit) => edit.read(&vfs.shared, reader.inode, offset, u64::from(bytes)).await,
        None => reader.read(offset, u64::from(bytes)).await,
    }
}

impl Reader {
    /// A reader of what `key` leads to when its first byte is asked for. `known`: what was last heard of it.
    /// `objects_only`: also while an edit of the file is under way.
    pub(super) fn new(
        shared: &Shared,
        inode: InodeNo,
        key: Key,
        name: &str,
        known: Option<&Facts>,
        objects_only: bool,
    ) -> Arc<Self> {
        let (times, of) = WINDOW_SHARE;
        let reader = Arc::new(Self {
            inode,
            store: shared.store.clone(),
            runtime: shared.runtime.clone(),
            budget: shared.writers.budget().clone(),
            key,
            name: name.into(),
            window_bytes_max: WINDOW_BYTES_MAX.min(shared.memory_bytes / of * times),
            seems_empty: known.is_some_and(|facts| facts.bytes == 0),
            pinned: OnceLock::new(),
            edit: OnceLock::new(),
            objects_only,
            pinning: AsyncMutex::new(()),
            course: Mutex::new(Course { checked: Some(Crc64::EMPTY), ..Course::default() }),
        });
        shared.readers.add(&reader);
        reader
    }

    /// A reader of one version, of `bytes`.
    pub(super) fn of_version(
        shared: &Shared,
        inode: InodeNo,
        key: Key,
        name: &str,
        etag: ETag,
        bytes: u64,
    ) -> Arc<Self> {
        let reader = Self::new(shared, inode, key, name, None, true);
        // It is as old as the line above.
        reader.pinned.set(Pinned { etag, bytes, crc64: None }).unwrap_or(());
        reader
    }

    /// The edit it reads: the one that lives on its inode when it reads for the first time.
    fn edit(&self, shared: &Shared) -> Option<&Arc<Edit>> {
        if let Some(edit) = self.edit.get() {
            // What was given up leaves the object.
            return Some(edit).filter(|edit| edit.failure().is_none());
        }
        if self.objects_only || self.pinned.get().is_some() {
            return None;
        }
        let edit = shared.writing.edit_of(self.inode)?;
        Some(self.edit.get_or_init(|| edit))
    }

    /// Whether it shows what others write just now.
    pub(super) fn reads_an_edit(&self, shared: &Shared) -> bool {
        self.edit(shared).is_some()
    }

    /// The version it reads, pinned now if need be.
    ///
    /// # Errors
    /// What the store answered.
    pub(super) async fn version(&self) -> VfsResult<Version> {
        let pinned = match self.pinned.get() {
            Some(pinned) => pinned.clone(),
            None => {
                let _pinning = self.pinning.lock().await;
                match self.pinned.get() {
                    Some(pinned) => pinned.clone(),
                    None => self.pin_by_head().await?,
                }
            }
        };
        let Pinned { etag, bytes, crc64 } = pinned;
        Ok(Version { key: self.key.clone(), etag, bytes, crc64 })
    }

    /// Up to `bytes` at `offset`; fewer only at the end of the object.
    ///
    /// # Errors
    /// `ReplacedMeanwhile`, or what the store answered.
    pub(super) async fn read(&self, offset: u64, bytes: u64) -> VfsResult<Bytes> {
        let pinned = self.pinned(offset, bytes).await?;
        let end = offset.saturating_add(bytes).min(pinned.bytes);
        if offset >= end {
            return Ok(Bytes::new());
        }
        let fetches = self.steer(&pinned, offset, end)?;
        let mut parts = Vec::with_capacity(fetches.len());
        for fetch in &fetches {
            match fetch.bytes(offset.max(fetch.first), end.min(fetch.end)).await {
                Ok(part) => parts.push(part),
                Err(error) => {
                    // The next read may try again.
                    self.course.lock().fetches.retain(|_, other| !other.has_failed());
                    return Err(error);
                }
            }
        }
        self.check(&pinned, end)?;
        Ok(joined(parts))
    }

    /// The version this handle reads; the first caller's range pins it.
    async fn pinned(&self, offset: u64, bytes: u64) -> VfsResult<Pinned> {
        if let Some(pinned) = self.pinned.get() {
            return Ok(pinned.clone());
        }
        let _pinning = self.pinning.lock().await;
        if let Some(pinned) = self.pinned.get() {
            return Ok(pinned.clone());
        }
        if self.seems_empty {
            return self.pin_by_head().await;
        }
        let wanted = if offset == 0 { bytes.max(FIRST_BYTES) } else { bytes.max(1) };
        let (length, mut room) = match self.budget.try_take(wanted) {
            Some(room) => (wanted, room),
            // The smallest read of all waits for no memory.
            None => (bytes.max(1), self.budget.take_anyway(bytes)),
        };
        let range = ByteRange { first: offset, length };
        let body = match self.store.get_object(&self.key, Some(range), None).await {
            Ok(body) => body,
            // Behind the end, or empty.
            Err(error) if error.reason == Reason::InvalidRange => return self.pin_by_head().await,
            Err(error) => return Err(self.error(error)),
        };
        let pinned = self.pin(&body.meta);
        let end = (offset + range.length).min(pinned.bytes);
        if offset >= end {
            return Ok(pinned);
        }
        room.shrink_to(end - offset);
        let fetch = Fetch::begin(&self.runtime, self.source(&pinned), offset, end, Some(body), room);
        self.course.lock().fetches.insert(offset, fetch);
        Ok(pinned)
    }

    async fn pin_by_head(&self) -> VfsResult<Pinned> {
        let meta = self.store.head_object(&self.key).await.map_err(|error| self.error(error))?;
        Ok(self.pin(&meta))
    }

    fn pin(&self, meta: &ObjectMeta) -> Pinned {
        let pinned = Pinned { etag: meta.etag.clone(), bytes: meta.size, crc64: meta.crc64 };
        self.pinned.get_or_init(|| pinned).clone()
    }

    fn source(&self, pinned: &Pinned) -> Source {
        Source {
            store: self.store.clone(),
            key: self.key.clone(),
            name: self.name.clone(),
            etag: pinned.etag.clone(),
        }
    }

    fn error(&self, error: CosError) -> VfsError {
        VfsError::from_cos(error, &self.name)
    }

    /// Sees whether reading goes on in order, begins what is missing and what will be wanted next, lets go of
    /// what is done with. The ranges that hold `offset..end`, in order.
    fn steer(&self, pinned: &Pinned, offset: u64, end: u64) -> VfsResult<Vec<Arc<Fetch>>> {
        let mut course = self.course.lock();
        if let Some(error) = &course.corrupt {
            return Err(error.clone());
        }
        course.follow(offset, end);
        let window = (course.run * WINDOW_GROWTH).min(self.window_bytes_max);
        let ahead = if course.run > 0 { (course.expected + window).min(pinned.bytes) } else { end };
        let range_bytes =
            (window / WINDOW_GROWTH / PIECE_BYTES * PIECE_BYTES).clamp(PIECE_BYTES, RANGE_BYTES_MAX);
        let mut at = offset;
        while at < end.max(ahead) {
            if let Some(fetch) = course.holding(at) {
                at = fetch.end;
                continue;
            }
            let next = course.fetches.range(at..).next().map_or(pinned.bytes, |(first, _)| *first);
            let is_wanted = at < end;
            let whole = if is_wanted && course.run == 0 { end } else { aligned(at + range_bytes) };
            let stop = whole.max(if is_wanted { end.min(at + RANGE_BYTES_MAX) } else { 0 }).min(next);
            // Ahead, a full range or none: many small ones cost more than they bring.
            if !is_wanted && stop > ahead && stop < pinned.bytes {
                break;
            }
            let (stop, room) = match self.budget.try_take(stop - at) {
                Some(room) => (stop, room),
                None if !is_wanted => break,
                None => {
                    let stop = stop.min(end);
                    course.keep(KEPT_RANDOM_BYTES.saturating_sub(stop - at), offset..end);
                    // The smallest read of all waits for no memory.
                    let room = self.budget.try_take(stop - at);
                    (stop, room.unwrap_or_else(|| self.budget.take_anyway(stop - at)))
                }
            };
            let fetch = Fetch::begin(&self.runtime, self.source(pinned), at, stop, None, room);
            course.fetches.insert(at, fetch);
            at = stop;
        }
        let wanted = course.between(offset, end);
        course.let_go(offset);
        Ok(wanted)
    }

    /// Goes on with the checksum of the whole; at its end, judges.
    fn check(&self, pinned: &Pinned, end: u64) -> VfsResult<()> {
        let mut course = self.course.lock();
        course.sum_up();
        course.fetches.retain(|_, fetch| !fetch.is_passing());
        let (Some(expected), Some(found)) = (pinned.crc64, course.checked) else { return Ok(()) };
        if end < pinned.bytes || course.checked_upto < pinned.bytes || expected == found {
            return Ok(());
        }
        error!(key = %self.key, %expected, %found, "what was read is not what the store holds");
        let cause = CosError::new("GetObject", Reason::Corrupt)
            .of_key(&self.key)
            .because("the checksum of the bytes read is not that of the object");
        let failure = VfsError::Store { cause: Arc::new(cause) };
        course.corrupt = Some(failure.clone());
        Err(failure)
    }
}

/// All readers of a mount, to be asked for memory when writers wait for it.
#[derive(Debug, Default)]
pub(super) struct Readers(Mutex<Vec<Weak<Reader>>>);

impl Readers {
    fn add(&self, reader: &Arc<Reader>) {
        let mut readers = self.0.lock();
        if readers.len() == readers.capacity() {
            readers.retain(|reader| reader.strong_count() > 0);
        }
        readers.push(Arc::downgrade(reader));
    }

    /// Gives back about so many bytes: what nobody waits for, the farthest ahead first.
    pub(super) fn give_back(&self, mut bytes: u64) {
        let readers: Vec<_> = self.0.lock().iter().filter_map(Weak::upgrade).collect();
        for reader in readers {
            let mut course = reader.course.lock();
            course.sum_up();
            let idle = |fetch: &Arc<Fetch>| Arc::strong_count(fetch) == 1;
            while bytes > 0
                && let Some(first) =
                    course.fetches.iter().rev().find(|(_, fetch)| idle(fetch)).map(|(first, _)| *first)
                && let Some(fetch) = course.fetches.remove(&first)
            {
                bytes = bytes.saturating_sub(fetch.end - fetch.first);
            }
        }
    }
}

impl Course {
    fn follow(&mut self, offset: u64, end: u64) {
        let is_next = offset == self.expected;
        let is_near = self.run > 0
            && offset <= self.expected + DISORDER_BYTES
            && offset + DISORDER_BYTES >= self.expected;
        if is_next || is_near {
            self.run += end.saturating_sub(self.expected);
            self.expected = self.expected.max(end);
        } else {
            self.run = 0;
            self.expected = end;
        }
    }

    fn holding(&self, at: u64) -> Option<&Arc<Fetch>> {
        self.fetches.range(..=at).next_back().map(|(_, fetch)| fetch).filter(|fetch| fetch.end > at)
    }

    fn between(&self, offset: u64, end: u64) -> Vec<Arc<Fetch>> {
        let first = self.holding(offset).map_or(offset, |fetch| fetch.first);
        self.fetches.range(first..end).map(|(_, fetch)| fetch.clone()).collect()
    }

    /// Drops what will not be read again soon. Who waits for a range holds it himself.
    fn let_go(&mut self, offset: u64) {
        self.sum_up();
        if self.run > 0 {
            let behind = offset.saturating_sub(KEPT_BEHIND_BYTES);
            // Ahead of a reader in order, nothing is left of an older run beyond the longest window.
            let beyond = self.expected + WINDOW_BYTES_MAX + RANGE_BYTES_MAX;
            self.fetches.retain(|first, fetch| fetch.end > behind && *first < beyond);
            return;
        }
        self.keep(KEPT_RANDOM_BYTES, 0..0);
    }

    /// Keeps up to `bytes` of memory, what was read last, and what is asked for now.
    fn keep(&mut self, bytes: u64, asked: Range<u64>) {
        let mut held: u64 = self.fetches.values().map(|fetch| fetch.memory_bytes()).sum();
        while held > bytes && self.fetches.len() > 1 {
            let others =
                self.fetches.values().filter(|fetch| fetch.end <= asked.start || fetch.first >= asked.end);
            let oldest = others.min_by_key(|fetch| *fetch.used.lock()).map(|fetch| fetch.first);
            let Some(dropped) = oldest.and_then(|first| self.fetches.remove(&first)) else { return };
            held -= dropped.memory_bytes();
        }
    }

    /// Adds the checksums of ranges that are whole and follow what is summed up already.
    fn sum_up(&mut self) {
        while let Some(sum) = self.checked
            && let Some(fetch) = self.fetches.get(&self.checked_upto)
            && let Some(next) = fetch.checksum()
        {
            self.checked = Some(sum.followed_by(next, fetch.end - fetch.first));
            self.checked_upto = fetch.end;
        }
    }
}

/// The end of the MiB that `at` lies in: pieces end there.
fn aligned(at: u64) -> u64 {
    at / PIECE_BYTES * PIECE_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn course(reads: &[(u64, u64)]) -> Course {
        let mut course = Course::default();
        for (offset, bytes) in reads {
            course.follow(*offset, offset + bytes);
        }
        course
    }

    #[test]
    fn reading_in_order_is_seen_although_requests_overtake_each_other() {
        let in_order: Vec<_> = (0..8).map(|number| (number << 17, 1 << 17)).collect();
        assert_eq!(course(&in_order).run, 1 << 20);
        let mut shuffled = in_order.clone();
        shuffled.swap(2, 3);
        shuffled.swap(5, 7);
        let course = course(&shuffled);
        assert_eq!((course.run, course.expected), (1 << 20, 1 << 20));
    }

    #[test]
    fn a_jump_ends_the_run_and_the_next_read_behind_it_begins_one() {
        let jumped = course(&[(0, 65_536), (65_536, 65_536), (100 << 20, 65_536)]);
        assert_eq!(jumped.run, 0);
        let resumed = course(&[(100 << 20, 65_536), ((100 << 20) + 65_536, 65_536)]);
        assert_eq!(resumed.run, 65_536);
    }
}
