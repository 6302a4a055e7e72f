//! Files, read: one version of an object for the life of a handle, and parallel ranges ahead of who reads
//! in order.
//!
//! The first range is asked for without a condition; its ETag and size are the handle's from then on, and
//! every later range is asked for by that ETag. So an object that is replaced meanwhile gives the old bytes
//! that are here already, or `ReplacedMeanwhile`, never a mixture.
//!
//! ```text
//!            ┌ read by now ┐┌──── window: up to 8 × what was read in order ─────────┐
//! object ────┴─────────────┴┴ fetch ┴ fetch ┴ fetch ┴ fetch ┴ … up to 6 MiB each ────┴──────
//! ```
//!
//! What is read ahead, or behind, is decided in `course.rs`; whoever jumps about gets what he asked for and
//! nothing more. Windows are bounded by the memory limit, and by a fair share of it for each who reads. A handle that reads an object from its first
//! byte to its last checks it against the store's CRC-64 on the way.

use std::{
    ops::Range,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{runtime::Handle as Runtime, sync::Mutex as AsyncMutex};
use tracing::error;

use super::{
    Budget, HandleNo, InodeNo, Room, Vfs, VfsError, VfsResult,
    attr::{Facts, PackedETag},
    budget::{Connection, Presence},
    course::Way,
    edit::Edit,
    fetch::{Fetch, PIECE_BYTES, Source, joined},
    handle::Handle,
    kept::{KeptFile, KeptFiles, Pinned},
    pace::{Pace, Seconds},
    ranges::{KEPT_RANDOM_BYTES, RANGE_BYTES_MAX, Ranges},
    shared::Shared,
};
use crate::cos::{ByteRange, CosError, Crc64, ETag, Key, ObjectMeta, ObjectStore, Reason};

/// Files up to here come in one request.
const SMALL_BYTES: u64 = 2 << 20;
/// What is fetched at least where reading goes on in order: memory comes in such blocks.
const FETCH_BYTES_MIN: u64 = 64 << 10;
/// A range is as long as this part of the window, or the larger part that follows from how many ranges a reader may have.
const RANGES_OF_WINDOW: u64 = 8;
/// One that is read, and one on its way.
const RANGES_MIN: u64 = 2;
/// Twelve ranges in flight carry ten connections' worth, and one download stays far below 160 MiB.
const WINDOW_BYTES_MAX: u64 = 12 * RANGE_BYTES_MAX;
/// The share of the memory limit that one reader's window may have.
const WINDOW_SHARE: (u64, u64) = (3, 8);
/// The share of the memory limit that small files have which nobody reads just now: one part in so many.
const KEPT_FILES_SHARE: u64 = 16;
/// What others hold is looked at this often at most.
const LEVEL_EVERY: Duration = Duration::from_millis(100);
/// What a reader that has not read for a while keeps of its window, when others lack memory.
const ABSENT_BYTES: u64 = 1 << 20;
/// Kept behind who reads in order.
const KEPT_BEHIND_BYTES: u64 = 2 << 20;

/// A file that is open for reading.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) inode: InodeNo,
    store: Arc<dyn ObjectStore>,
    runtime: Runtime,
    budget: Arc<Budget>,
    presence: Presence,
    readers: Arc<Readers>,
    key: Key,
    name: Arc<str>,
    pace: Arc<Pace>,
    seconds: Seconds,
    window_bytes_max: u64,
    /// Size of the object when it was last heard of. Of an empty one a range would be refused.
    known_bytes: Option<u64>,
    /// Its ETag then.
    known_etag: Option<ETag>,
    pinned: OnceLock<Pinned>,
    /// Reads what others write just now, rather than an object.
    edit: OnceLock<Arc<Edit>>,
    /// It never does so: a download is of one version.
    objects_only: bool,
    /// Who asks first pins the version; the others wait here.
    pinning: AsyncMutex<()>,
    ranges: Mutex<Ranges>,
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
            presence: Presence::default(),
            readers: shared.readers.clone(),
            pace: shared.pace.clone(),
            seconds: Seconds::default(),
            key,
            name: name.into(),
            window_bytes_max: WINDOW_BYTES_MAX.min(shared.memory_bytes / of * times),
            known_bytes: known.map(|facts| facts.bytes),
            known_etag: known.and_then(|facts| facts.etag.as_ref()).map(PackedETag::unpack),
            pinned: OnceLock::new(),
            edit: OnceLock::new(),
            objects_only,
            pinning: AsyncMutex::new(()),
            ranges: Mutex::new(Ranges { checked: Some(Crc64::EMPTY), ..Ranges::default() }),
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
        let kept = shared.readers.kept.file(&reader.key);
        if let Some(file) = kept.filter(|file| file.version.etag == etag && file.version.bytes == bytes) {
            reader.take_kept(file);
        }
        reader.pinned.get_or_init(|| Pinned { etag, bytes, crc64: None });
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

    /// The object and the version of it that it reads, pinned now if need be.
    ///
    /// # Errors
    /// What the store answered.
    pub(super) async fn version(&self) -> VfsResult<(Key, Pinned)> {
        let _pinning = self.pinning.lock().await;
        let pinned = match self.pinned.get() {
            Some(pinned) => pinned.clone(),
            None => self.pin_by_head().await?,
        };
        Ok((self.key.clone(), pinned))
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
                    self.ranges.lock().fetches.retain(|_, other| !other.has_failed());
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
        if self.known_bytes == Some(0) {
            return self.pin_by_head().await;
        }
        if let Some(version) = self.pin_by_kept().await? {
            return Ok(version);
        }
        let is_small = self.known_bytes.is_none_or(|known| known <= SMALL_BYTES);
        let wanted = match offset {
            0 if is_small => bytes.max(SMALL_BYTES),
            0 => bytes.max(FETCH_BYTES_MIN),
            _ => bytes.max(1),
        };
        let (length, mut room) = match self.room(wanted) {
            Some(room) => (wanted, room),
            // The smallest read of all waits for no memory.
            None => (bytes.max(1), self.budget.take_anyway(bytes)),
        };
        let range = ByteRange { first: offset, length };
        let connection = self.budget.connection().await;
        let ask = || self.store.get_object(&self.key, Some(range), None);
        let body = match self.pace.sooner(&self.seconds, ask).await {
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
        let source = self.source(&pinned);
        let fetch = Fetch::begin(&self.runtime, source, offset, end, Some(body), Some(connection), room);
        self.ranges.lock().fetches.insert(offset, fetch);
        Ok(pinned)
    }

    async fn pin_by_head(&self) -> VfsResult<Pinned> {
        let asked = self.pace.sooner(&self.seconds, || self.store.head_object(&self.key)).await;
        let meta = asked.map_err(|error| self.error(error))?;
        Ok(self.pin(&meta))
    }

    /// What is kept of the file, if it still is what is in the bucket.
    async fn pin_by_kept(&self) -> VfsResult<Option<Pinned>> {
        let kept = &self.readers.kept;
        let Some(file) = kept.file(&self.key) else { return Ok(None) };
        if self.known_etag.as_ref().is_none_or(|known| *known == file.version.etag) {
            let asked = self.pace.sooner(&self.seconds, || self.store.head_object(&self.key)).await;
            let meta = asked.map_err(|error| self.error(error))?;
            if Pinned::of(&meta) == file.version {
                return Ok(Some(self.take_kept(file)));
            }
        }
        kept.forget(&self.key);
        Ok(None)
    }

    fn take_kept(&self, file: KeptFile) -> Pinned {
        self.ranges.lock().fetches.insert(0, file.fetch);
        self.pinned.get_or_init(|| file.version).clone()
    }

    fn pin(&self, meta: &ObjectMeta) -> Pinned {
        self.pinned.get_or_init(|| Pinned::of(meta)).clone()
    }

    fn source(&self, pinned: &Pinned) -> Source {
        Source {
            store: self.store.clone(),
            key: self.key.clone(),
            name: self.name.clone(),
            etag: pinned.etag.clone(),
            pace: self.pace.clone(),
            seconds: self.seconds.clone(),
        }
    }

    fn error(&self, error: CosError) -> VfsError {
        VfsError::from_cos(error, &self.name)
    }

    /// Sees how reading goes, begins what is missing and what will be wanted next, lets go of what is done
    /// with. The ranges that hold `offset..end`, in order.
    fn steer(&self, pinned: &Pinned, offset: u64, end: u64) -> VfsResult<Vec<Arc<Fetch>>> {
        let mut ranges = self.ranges.lock();
        if let Some(error) = &ranges.corrupt {
            return Err(error.clone());
        }
        let share = self.budget.share_of(&self.presence);
        ranges.behind_bytes = KEPT_BEHIND_BYTES.min(share / 4);
        let window_bytes_max = self.window_bytes_max.min(share - ranges.behind_bytes);
        match ranges.course.follow(offset, end, window_bytes_max) {
            Way::Jump => self.complete(&mut ranges, pinned, &(offset..end)),
            Way::Forward { upto, window_bytes } => {
                let ahead = upto.saturating_add(window_bytes).min(pinned.bytes);
                self.read_ahead(&mut ranges, pinned, &(offset..end), ahead.max(end), window_bytes);
            }
            Way::Backward { downto, window_bytes } => {
                let floor = downto.saturating_sub(window_bytes);
                self.read_behind(&mut ranges, pinned, &(offset..end), floor, window_bytes);
            }
            Way::Steps { by, count } => {
                self.complete(&mut ranges, pinned, &(offset..end));
                self.foresee(&mut ranges, pinned, &(offset..end), by, count);
            }
        }
        let wanted = ranges.between(offset, end);
        ranges.let_go();
        Ok(wanted)
    }

    /// Fetches what is missing of `asked`, and nothing else.
    fn complete(&self, ranges: &mut Ranges, pinned: &Pinned, asked: &Range<u64>) {
        let mut at = asked.start;
        while at < asked.end {
            at = match ranges.holding(at) {
                Some(fetch) => fetch.end,
                None => self.fetch(ranges, pinned, at..asked.end.min(ranges.next_after(at)), asked),
            };
        }
    }

    /// Fetches what is missing from `asked` on up to `ahead`.
    fn read_ahead(
        &self,
        ranges: &mut Ranges,
        pinned: &Pinned,
        asked: &Range<u64>,
        ahead: u64,
        window_bytes: u64,
    ) {
        let range_bytes = self.range_bytes(window_bytes);
        let mut at = asked.start;
        while at < ahead {
            if let Some(fetch) = ranges.holding(at) {
                at = fetch.end;
                continue;
            }
            let next = ranges.next_after(at).min(pinned.bytes);
            let whole = aligned(at + range_bytes);
            if at < asked.end {
                let window = (at + window_bytes.max(FETCH_BYTES_MIN)).max(asked.end);
                at = self.fetch(ranges, pinned, at..whole.min(window).max(asked.end).min(next), asked);
                continue;
            }
            let stop = whole.min(next);
            // Ahead, a full range or none: many small ones cost more than they bring.
            if stop > ahead && stop < pinned.bytes {
                break;
            }
            match self.begin_ahead(ranges, pinned, at..stop) {
                true => at = stop,
                false => break,
            }
        }
    }

    /// Fetches what is missing from the end of `asked` down to `floor`.
    fn read_behind(
        &self,
        ranges: &mut Ranges,
        pinned: &Pinned,
        asked: &Range<u64>,
        floor: u64,
        window_bytes: u64,
    ) {
        let range_bytes = self.range_bytes(window_bytes);
        let mut at = asked.end;
        while at > floor.min(asked.start) {
            if let Some(fetch) = ranges.holding(at - 1) {
                at = fetch.first;
                continue;
            }
            let below = ranges.fetches.range(..at).next_back().map_or(0, |(_, fetch)| fetch.end);
            let whole = aligned(at - 1).saturating_sub(range_bytes - PIECE_BYTES);
            if at > asked.start {
                let window = at.saturating_sub(window_bytes.max(FETCH_BYTES_MIN));
                let first = whole.max(window).min(asked.start).max(below);
                let is_begun = self.begin(ranges, pinned, first..at, None);
                if !is_begun {
                    self.fetch(ranges, pinned, asked.start.max(below)..at, asked);
                }
                at = if is_begun { first } else { asked.start.max(below) };
                continue;
            }
            let first = whole.max(below);
            if (first < floor && first > 0) || !self.begin_ahead(ranges, pinned, first..at) {
                break;
            }
            at = first;
        }
    }

    /// Fetches the next `count` reads, each `by` bytes farther.
    fn foresee(&self, ranges: &mut Ranges, pinned: &Pinned, asked: &Range<u64>, by: i64, count: u64) {
        let mut first = asked.start;
        for _ in 0..count {
            let Some(next) = first.checked_add_signed(by).filter(|next| *next < pinned.bytes) else { return };
            first = next;
            let end = (first + (asked.end - asked.start)).min(pinned.bytes);
            let is_free = ranges.between(first, end).is_empty();
            if is_free && !self.begin_ahead(ranges, pinned, first..end) {
                return;
            }
        }
    }

    /// Fetches `range`, of which `asked` cannot wait: where memory is short, that piece alone. Where what is
    /// fetched ends.
    fn fetch(&self, ranges: &mut Ranges, pinned: &Pinned, range: Range<u64>, asked: &Range<u64>) -> u64 {
        if self.begin(ranges, pinned, range.clone(), None) {
            return range.end;
        }
        let stop = range.end.min(asked.end);
        let bytes = stop - range.start;
        ranges.keep(KEPT_RANDOM_BYTES.saturating_sub(bytes), asked.clone());
        // The smallest read of all waits for no memory.
        let room = self.budget.try_take(bytes).unwrap_or_else(|| self.budget.take_anyway(bytes));
        let fetch = Fetch::begin(&self.runtime, self.source(pinned), range.start, stop, None, None, room);
        ranges.fetches.insert(range.start, fetch);
        stop
    }

    /// Fetches `range`, which nobody waits for yet, if there are a connection and memory for it.
    fn begin_ahead(&self, ranges: &mut Ranges, pinned: &Pinned, range: Range<u64>) -> bool {
        let connection = self.budget.connection_ahead();
        connection.is_some() && self.begin(ranges, pinned, range, connection)
    }

    /// Fetches `range` if there is memory for it. Without a `connection` it waits for one.
    fn begin(
        &self,
        ranges: &mut Ranges,
        pinned: &Pinned,
        range: Range<u64>,
        connection: Option<Connection>,
    ) -> bool {
        let Some(room) = self.room(range.end - range.start) else {
            self.readers.level(self);
            return false;
        };
        let source = self.source(pinned);
        let fetch = Fetch::begin(&self.runtime, source, range.start, range.end, None, connection, room);
        ranges.fetches.insert(range.start, fetch);
        true
    }

    /// How long ranges are: longer ones cost fewer requests, shorter ones are there sooner. With many readers
    /// each has few on their way.
    fn range_bytes(&self, window_bytes: u64) -> u64 {
        let ranges = self.budget.ranges_of(&self.presence).clamp(RANGES_MIN, RANGES_OF_WINDOW);
        aligned(window_bytes / ranges).clamp(PIECE_BYTES, RANGE_BYTES_MAX)
    }

    /// Memory, also what kept files have.
    fn room(&self, bytes: u64) -> Option<Room> {
        let room = self.budget.try_take(bytes);
        room.or_else(
            || if self.readers.kept.give_back(bytes) > 0 { self.budget.try_take(bytes) } else { None },
        )
    }

    /// Goes on with the checksum of the whole; at its end, judges.
    fn check(&self, pinned: &Pinned, end: u64) -> VfsResult<()> {
        let mut ranges = self.ranges.lock();
        ranges.sum_up();
        ranges.fetches.retain(|_, fetch| !fetch.is_passing());
        let (Some(expected), Some(found)) = (pinned.crc64, ranges.checked) else { return Ok(()) };
        if end < pinned.bytes || ranges.checked_upto < pinned.bytes || expected == found {
            return Ok(());
        }
        error!(key = %self.key, %expected, %found, "what was read is not what the store holds");
        let cause = CosError::new("GetObject", Reason::Corrupt)
            .of_key(&self.key)
            .because("the checksum of the bytes read is not that of the object");
        let failure = VfsError::Store { cause: Arc::new(cause) };
        ranges.corrupt = Some(failure.clone());
        Err(failure)
    }
}

impl Drop for Reader {
    /// A small file that was read whole may be opened again.
    fn drop(&mut self) {
        let ranges = self.ranges.get_mut();
        let (Some(version), Some(fetch)) = (self.pinned.get(), ranges.fetches.get(&0)) else { return };
        let checksum = fetch.checksum();
        let is_right = checksum.is_some() && version.crc64.is_none_or(|expected| checksum == Some(expected));
        if fetch.end == version.bytes && is_right && !fetch.is_passing() {
            let file = KeptFile { version: version.clone(), fetch: fetch.clone() };
            self.readers.kept.keep(self.key.clone(), file);
        }
    }
}

/// All readers of a mount, to be asked for memory when others wait for it.
#[derive(Debug)]
pub(super) struct Readers {
    open: Mutex<Vec<Weak<Reader>>>,
    kept: KeptFiles,
    begun: Instant,
    /// When it was last seen to that nobody holds too much, in milliseconds from `begun`.
    levelled: AtomicU64,
}

impl Readers {
    /// Of a gateway with so much memory.
    pub(super) fn new(memory_bytes: u64) -> Self {
        Self {
            open: Mutex::default(),
            kept: KeptFiles::new(memory_bytes / KEPT_FILES_SHARE),
            begun: Instant::now(),
            levelled: AtomicU64::new(0),
        }
    }

    fn add(&self, reader: &Arc<Reader>) {
        let mut readers = self.open.lock();
        if readers.len() == readers.capacity() {
            readers.retain(|reader| reader.strong_count() > 0);
        }
        readers.push(Arc::downgrade(reader));
    }

    fn all(&self) -> Vec<Arc<Reader>> {
        self.open.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Gives back about so many bytes: what nobody waits for, the farthest ahead first.
    pub(super) fn give_back(&self, bytes: u64) {
        let mut left = bytes.saturating_sub(self.kept.give_back(bytes));
        for reader in self.all() {
            if left > 0 {
                left = left.saturating_sub(reader.ranges.lock().give_back(left));
            }
        }
    }

    /// `reader` finds no memory: others give back what they hold beyond their share, and those that do not
    /// read just now nearly all.
    fn level(&self, reader: &Reader) {
        let now = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let every = u64::try_from(LEVEL_EVERY.as_millis()).unwrap_or(u64::MAX);
        let last = self.levelled.load(Ordering::Relaxed);
        if now < last + every || self.levelled.swap(now, Ordering::Relaxed) != last {
            return;
        }
        let share = reader.budget.share_of(&reader.presence);
        for other in self.all() {
            // Whoever reads at this very moment is left alone; that is `reader` itself, too.
            let Some(mut ranges) = other.ranges.try_lock() else { continue };
            let most = if reader.budget.is_present(&other.presence) { share } else { ABSENT_BYTES };
            let bytes = ranges.memory_bytes();
            ranges.give_back(bytes.saturating_sub(most));
        }
    }
}

/// The MiB that `at` lies in: pieces end there.
fn aligned(at: u64) -> u64 {
    at / PIECE_BYTES * PIECE_BYTES
}
