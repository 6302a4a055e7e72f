//! A file that is changed in place: written anywhere, cut off, extended, read while it is written.
//!
//! ```text
//! write, resize ──> Cells (memory) ── over ── base: an object, pinned by its ETag    (cells.rs)
//!                      │ publish: parts copied by the store, parts sent              (plan.rs, carry.rs)
//!                      v
//!                  one new object, which is the next base
//! ```
//!
//! An [`Edit`] belongs to an inode; all descriptors on it share it. Nothing is written to disk: when dirty
//! blocks exceed the edit's part of the memory budget, or others wait for memory, the content goes into a
//! hidden *scratch* object under `state_prefix`, which becomes the base (`scratch.rs`). A file that merely
//! grows at its end is *sealed* instead: an upload is begun, and what is behind the writer goes into its parts.
//!
//! Whatever waits for COS holds `gate`, and what it carries is not changed under it (`busy`). An error stays,
//! as with every file that is being written; the object is then as it was.
//!
//! Lock order: `gate`, then a key's turn, then `core` (a leaf but for the budget's own locks).

mod carry;
mod cells;
mod plan;
mod scratch;

use std::{
    sync::{Arc, OnceLock, Weak},
    time::{Duration, SystemTime},
};

use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tracing::debug;

use super::{
    InodeNo, Keys, Published, Reclaimer, Room, Tried, VfsError, VfsResult, Writers,
    budget::{BLOCK, Block, Right},
    fetch::{Fetch, Source as FetchSource},
    kept::Pinned,
    pace::{Pace, Seconds},
    quota::Share,
    read::Reader,
    shared::Shared,
    uploads::Uploads,
    write::Publisher,
};
use crate::cos::{Crc64, ETag, Key, NewObject, ObjectStore, Reason};
use carry::Sealed;
use cells::{Cells, Source};
pub(super) use scratch::SCRATCH;
use scratch::Scratch;

/// A file that is changed in place. The last to let go of it gives up what is not published.
#[derive(Debug)]
pub(super) struct Edit {
    inside: Arc<Inside>,
}

/// What an edit begins with.
#[derive(Debug)]
pub(super) enum Beginning {
    /// The object under the key, of so many bytes as was last heard; of this version, if one must be.
    Object { bytes: u64, version: Option<ETag> },
    /// What was written in order so far, and is in no object. `appended`: to nothing, and where something stands there by the
    /// time it is published, to that.
    Blocks { blocks: Vec<Block>, appended: bool },
}

/// What an edit and its tasks share.
struct Inside {
    writers: Arc<Writers>,
    store: Arc<dyn ObjectStore>,
    keys: Arc<Keys>,
    uploads: Arc<Uploads>,
    publisher: Arc<Publisher>,
    name: Arc<str>,
    /// Where scratch objects are.
    scratch: Arc<str>,
    pace: Arc<Pace>,
    seconds: Seconds,
    gate: AsyncMutex<()>,
    core: Mutex<Core>,
    reclaimer: OnceLock<Reclaimer>,
}

#[derive(Debug)]
struct Core {
    cells: Cells,
    base: Base,
    /// What must still stand under the key when it is replaced.
    rests_on: Option<ETag>,
    /// What the object was given before, and is given again.
    inherited: NewObject,
    sealed: Option<Sealed>,
    /// How far the beginning of the file can be seen by nobody: it is in parts.
    hidden_bytes: u64,
    /// Something is in no object yet.
    dirty: bool,
    /// What is in no object yet was put behind the end, all of it.
    appended: bool,
    /// The object that was published last is what the file was, until it became dirty.
    published: bool,
    last: Option<Published>,
    publications: u64,
    failure: Option<VfsError>,
    /// Written in order by one who asks for nothing back: what is sealed goes under the key itself.
    in_order: bool,
    /// A request carries what is here.
    busy: bool,
    share: Option<Share>,
    room: Option<Room>,
    right: Option<Right>,
    grants: u64,
    refused: Wanted,
    reader: Option<Arc<Reader>>,
    /// Counts bases.
    generation: u64,
}

/// What lies under the blocks.
#[derive(Debug, Clone)]
enum Base {
    None,
    /// The object under the key, not looked at yet.
    Expected(Option<ETag>),
    Object(Version),
}

/// An object whose bytes lie under the blocks.
#[derive(Debug, Clone)]
struct Version {
    key: Key,
    etag: ETag,
    bytes: u64,
    crc64: Option<Crc64>,
    modified: SystemTime,
    /// Keeps a scratch object alive.
    scratch: Option<Arc<Scratch>>,
}

/// What somebody is about to do.
#[derive(Debug, Clone, Copy, Default)]
struct Wanted {
    append: bool,
    first: u64,
    /// Of a write; 0 for a read.
    bytes: usize,
}

/// What has to be done before.
#[derive(Debug)]
enum Need {
    Nothing,
    Open,
    Unseal,
    Fill(u64),
    Yield,
    Memory(usize),
}

impl Edit {
    /// An edit of `key`. Asks the store for nothing as yet.
    pub(super) fn begin(
        shared: &Shared,
        key: Key,
        name: &str,
        beginning: Beginning,
        share: Option<Share>,
    ) -> Arc<Self> {
        let (writers, store, keys) = (shared.writers.clone(), shared.store.clone(), shared.keys.clone());
        let (cells, base, appended) = match beginning {
            Beginning::Object { bytes, version } => (Cells::over_base(bytes), Base::Expected(version), true),
            Beginning::Blocks { blocks, appended } => (Cells::of_blocks(blocks), Base::None, appended),
        };
        let is_old = matches!(base, Base::Expected(_));
        let core = Core {
            dirty: !is_old && cells.bytes() > 0,
            appended,
            published: is_old,
            cells,
            base,
            rests_on: None,
            inherited: NewObject::default(),
            sealed: None,
            hidden_bytes: 0,
            last: None,
            publications: 0,
            failure: None,
            in_order: false,
            busy: false,
            share,
            room: None,
            right: None,
            grants: 0,
            refused: Wanted::default(),
            reader: None,
            generation: 0,
        };
        let publisher =
            Publisher::new(writers.clone(), store.clone(), keys.clone(), key, shared.uploads.clone());
        let inside = Arc::new(Inside {
            writers,
            store,
            keys,
            uploads: shared.uploads.clone(),
            publisher: Arc::new(publisher),
            name: name.into(),
            scratch: shared.names.own(SCRATCH).into(),
            pace: shared.pace.clone(),
            seconds: Seconds::default(),
            gate: AsyncMutex::new(()),
            core: Mutex::new(core),
            reclaimer: OnceLock::new(),
        });
        let weak = Arc::downgrade(&inside);
        let reclaimer = inside.writers.budget().on_pressure(move |_| yield_to_others(&weak));
        // It was empty a line above.
        inside.reclaimer.set(reclaimer).unwrap_or(());
        Arc::new(Self { inside })
    }

    /// The front writes: in order, and it reads nothing back.
    pub(super) fn in_order(&self) {
        self.inside.core.lock().in_order = true;
    }

    /// Takes `data` (1 MiB at most) at `offset`, or at the end, if that needs no waiting.
    ///
    /// # Errors
    /// `TooLarge`, `QuotaReached`; or what an earlier request has left.
    pub(super) fn try_write(&self, append: bool, offset: u64, data: &[u8]) -> VfsResult<Tried> {
        self.inside.take(append, offset, data)
    }

    /// As [`Self::try_write`], waiting for what it takes.
    pub(super) async fn write(&self, append: bool, offset: u64, data: Bytes) -> VfsResult<()> {
        let mut at = offset;
        for piece in data.chunks(PIECE_BYTES) {
            while self.inside.take(append, at, piece)? == Tried::Full {
                self.inside.ready(Wanted { append, first: at, bytes: piece.len() }).await?;
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Calls `wake` once a write that was refused may be tried again. False, without keeping `wake`, where it
    /// may now.
    pub(super) fn wake_on_room(&self, wake: Box<dyn FnOnce() + Send>) -> bool {
        let wanted = {
            let core = self.inside.core.lock();
            let may_now = !core.busy && matches!(self.inside.need(&core, core.refused), Need::Nothing);
            if core.failure.is_some() || core.refused.bytes == 0 || may_now {
                return false;
            }
            core.refused
        };
        let inside = self.inside.clone();
        self.inside.writers.runtime.spawn(async move {
            // What it fails by is left for the write that follows.
            inside.ready(wanted).await.unwrap_or(());
            let grants = inside.core.lock().grants;
            wake();
            let weak = Arc::downgrade(&inside);
            drop(inside);
            tokio::time::sleep(GRANT_KEPT).await;
            if let Some(inside) = weak.upgrade() {
                let mut core = inside.core.lock();
                if core.grants == grants {
                    core.room = None;
                }
            }
        });
        true
    }

    /// Up to `bytes` at `offset`, as they are now; fewer only at the end of the file.
    ///
    /// # Errors
    /// What the store answered, `ReplacedMeanwhile` where the base is gone.
    pub(super) async fn read(
        &self,
        shared: &Shared,
        inode: InodeNo,
        offset: u64,
        bytes: u64,
    ) -> VfsResult<Bytes> {
        let inside = &self.inside;
        loop {
            let Some((pieces, reader, generation)) = inside.look(shared, inode, offset, bytes)? else {
                inside.ready(Wanted { append: false, first: offset, bytes: 0 }).await?;
                continue;
            };
            let mut content = BytesMut::new();
            let outcome = async {
                for piece in pieces {
                    match piece {
                        Piece::Here(bytes) => content.extend_from_slice(&bytes),
                        Piece::Base(first, length) => {
                            let reader = reader.as_ref().ok_or(VfsError::BadHandle)?;
                            content.extend_from_slice(&reader.read(first, length).await?);
                        }
                    }
                }
                Ok(())
            }
            .await;
            match outcome {
                Ok(()) => return Ok(content.freeze()),
                Err(error) => {
                    // A publication puts another base under it, and there the bytes are the same; one that is under way
                    // may have taken the old one away before its answer is here.
                    drop(inside.gate.lock().await);
                    if inside.core.lock().generation == generation {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Gives the file another size.
    ///
    /// # Errors
    /// `TooLarge`, `QuotaReached`; or what an earlier request has left.
    pub(super) async fn resize(&self, bytes: u64) -> VfsResult<()> {
        let inside = &self.inside;
        inside.ready(Wanted { append: false, first: bytes, bytes: 0 }).await?;
        let _gate = inside.gate.lock().await;
        let mut core = inside.core.lock();
        inside.check(&mut core, bytes)?;
        if core.cells.bytes() != bytes {
            core.cells.resize(bytes);
            core.dirty = true;
            core.appended = false;
        }
        Ok(())
    }

    /// Lies over another object from now on, as it is.
    ///
    /// # Errors
    /// `NotSupported` where it has content already; `TooLarge`, `QuotaReached`; or what an earlier request has left.
    pub(super) async fn copy(&self, key: Key, source: Pinned) -> VfsResult<()> {
        let inside = &self.inside;
        inside.ready(Wanted { append: false, first: u64::MAX, bytes: 0 }).await?;
        let _gate = inside.gate.lock().await;
        let mut core = inside.core.lock();
        if core.cells.bytes() > 0 || core.sealed.is_some() || core.busy {
            return Err(VfsError::NotSupported { what: "copying into a file that holds something" });
        }
        inside.check(&mut core, source.bytes)?;
        core.cells = Cells::over_base(source.bytes);
        let Pinned { etag, bytes, crc64 } = source;
        core.put_under(Version { key, etag, bytes, crc64, modified: SystemTime::UNIX_EPOCH, scratch: None });
        core.dirty = true;
        core.appended = false;
        Ok(())
    }

    /// Throws the content away; the next publish makes what is written from now on, on top of nothing.
    ///
    /// # Errors
    /// What an earlier request has left.
    pub(super) async fn truncate_to_zero(&self) -> VfsResult<()> {
        let inside = &self.inside;
        let _gate = inside.gate.lock().await;
        let mut core = inside.core.lock();
        core.alive()?;
        inside.let_go(&mut core);
        core.cells = Cells::default();
        core.base = Base::None;
        core.rests_on = None;
        core.generation += 1;
        core.reader = None;
        core.dirty = false;
        core.appended = false;
        core.published = false;
        Ok(())
    }

    /// Makes the object, whole and checked; what stands under the key stays as it was until then. Without
    /// changes since the last publication, that one's answer again.
    ///
    /// # Errors
    /// `ReplacedMeanwhile` where somebody else has replaced what it rests on, or what the store answered; it
    /// stays.
    pub(super) async fn publish(&self, new: NewObject) -> VfsResult<Published> {
        let inside = self.inside.clone();
        let runtime = inside.writers.runtime.clone();
        // The task is lost only with the runtime: then nobody may be told that anything was published.
        runtime.spawn(inside.publish(new)).await.unwrap_or(Err(VfsError::Stopping))
    }

    /// After a [`Self::publish`] that has found what it rests on replaced: puts what was appended behind what stands there by
    /// now. False where more than that was changed, or some of it has left already.
    ///
    /// # Errors
    /// What the store answered, `ReplacedMeanwhile` where nothing stands there; it stays.
    pub(super) async fn follow(&self) -> VfsResult<bool> {
        self.inside.follow().await
    }

    /// Whether all there is was appended to nothing.
    pub(super) fn is_behind_nothing(&self) -> bool {
        let core = self.inside.core.lock();
        matches!(core.base, Base::None) && core.may_follow()
    }

    /// Something else was published under the key, of so many bytes: without changes of its own this is that from now on.
    pub(super) fn move_on(&self, published: &ETag, bytes: u64) {
        let mut core = self.inside.core.lock();
        let is_it = core.base.object().is_some_and(|base| base.etag == *published);
        if is_it || core.dirty || !core.published || core.busy || core.failure.is_some() {
            return;
        }
        core.cells = Cells::over_base(bytes);
        core.base = Base::Expected(None);
        core.last = None;
        core.generation += 1;
        core.reader = None;
    }

    /// The size of the file.
    pub(super) fn bytes(&self) -> u64 {
        self.inside.core.lock().cells.bytes()
    }

    /// The size of the file, once the object has been looked at.
    ///
    /// # Errors
    /// What the store answered, or an earlier request has left.
    pub(super) async fn bytes_now(&self) -> VfsResult<u64> {
        self.inside.ready(Wanted { append: false, first: u64::MAX, bytes: 0 }).await?;
        Ok(self.bytes())
    }

    /// Whether something is in no object yet.
    pub(super) fn is_dirty(&self) -> bool {
        self.inside.core.lock().dirty
    }

    /// Whether there is an object, and nothing was thrown away since.
    pub(super) fn is_published(&self) -> bool {
        self.inside.core.lock().published
    }

    /// Whether a request carries what is here.
    pub(super) fn is_busy(&self) -> bool {
        self.inside.core.lock().busy
    }

    /// How often it was published.
    pub(super) fn publications(&self) -> u64 {
        self.inside.core.lock().publications
    }

    /// The error that a failed request has left.
    pub(super) fn failure(&self) -> Option<VfsError> {
        self.inside.core.lock().failure.clone()
    }

    /// What the object had before beside its bytes.
    pub(super) fn inherited(&self) -> NewObject {
        self.inside.core.lock().inherited.clone()
    }

    /// The name leads elsewhere: nothing may become visible any more, and who writes is told.
    pub(super) fn orphan(&self) {
        self.inside.publisher.orphan();
        self.inside.fail(&self.inside.replaced());
    }

    /// The name was unlinked: nothing may become visible any more. The content stays for who has it open.
    pub(super) fn unlink(&self) {
        self.inside.publisher.orphan();
    }

    /// Gives up what is not published.
    pub(super) fn discard(&self) {
        self.inside.fail(&VfsError::BadHandle);
    }
}

impl Drop for Edit {
    fn drop(&mut self) {
        self.inside.fail(&VfsError::BadHandle);
    }
}

impl Core {
    /// # Errors
    /// What an earlier request has left.
    fn alive(&self) -> VfsResult<()> {
        self.failure.clone().map_or(Ok(()), Err)
    }

    fn add_room(&mut self, more: Room) {
        self.grants += 1;
        match &mut self.room {
            Some(room) => room.join(more),
            None => self.room = Some(more),
        }
    }

    /// Reads the base.
    fn reader(&mut self, shared: &Shared, inode: InodeNo, name: &str) -> Option<Arc<Reader>> {
        let Base::Object(base) = &self.base else { return None };
        let (key, etag, bytes) = (base.key.clone(), base.etag.clone(), base.bytes);
        let new = || Reader::of_version(shared, inode, key, name, etag, bytes);
        Some(self.reader.get_or_insert_with(new).clone())
    }

    /// Another object lies under the blocks.
    fn put_under(&mut self, base: Version) {
        self.base = Base::Object(base);
        self.generation += 1;
        self.reader = None;
    }
}

impl Inside {
    fn take(&self, append: bool, offset: u64, data: &[u8]) -> VfsResult<Tried> {
        let mut core = self.core.lock();
        core.alive()?;
        let mut wanted = Wanted { append, first: offset, bytes: data.len() };
        core.refused = wanted;
        if core.busy || matches!(core.base, Base::Expected(_)) {
            return Ok(Tried::Full);
        }
        if append {
            wanted.first = core.cells.bytes();
        }
        let end = wanted.first.saturating_add(data.len() as u64);
        if let Err(error) = self.check(&mut core, end) {
            // As with every file that is written: what is not whole becomes no object.
            core.failure = Some(error.clone());
            self.let_go(&mut core);
            return Err(error);
        }
        match self.need(&core, wanted) {
            Need::Nothing => {}
            Need::Memory(blocks) => match self.writers.budget().try_blocks(0, blocks, false) {
                Some(more) => core.add_room(more),
                None => return Ok(Tried::Full),
            },
            Need::Open | Need::Unseal | Need::Fill(_) | Need::Yield => return Ok(Tried::Full),
        }
        if !data.is_empty() {
            let mut room = core.room.take().unwrap_or_else(|| self.writers.budget().no_room());
            core.cells.write(wanted.first, data, &mut room);
            core.room = Some(room).filter(|room| room.blocks() > 0);
            core.dirty = true;
            core.appended &= append;
        }
        core.refused = Wanted::default();
        Ok(Tried::Taken)
    }

    /// What a reader of `bytes` at `offset` gets, the reader of the base, and which base that is. `None`:
    /// something has to be done before.
    #[expect(clippy::type_complexity, reason = "read a few lines further on, and nowhere else")]
    fn look(
        &self,
        shared: &Shared,
        inode: InodeNo,
        offset: u64,
        bytes: u64,
    ) -> VfsResult<Option<(Vec<Piece>, Option<Arc<Reader>>, u64)>> {
        let mut core = self.core.lock();
        core.alive()?;
        let wanted = Wanted { append: false, first: offset, bytes: 0 };
        if !matches!(self.need(&core, wanted), Need::Nothing) {
            return Ok(None);
        }
        let end = offset.saturating_add(bytes).min(core.cells.bytes());
        let pieces = core.cells.segments(offset, end.max(offset)).iter().map(piece).collect();
        let reader = core.reader(shared, inode, &self.name);
        Ok(Some((pieces, reader, core.generation)))
    }

    /// Whether the file may reach to `end`.
    fn check(&self, core: &mut Core, end: u64) -> VfsResult<()> {
        core.alive()?;
        let bytes_max = self.writers.limits.single_file_bytes_max;
        if end > bytes_max {
            return Err(VfsError::TooLarge { name: self.name.to_string(), bytes_max });
        }
        match &mut core.share {
            Some(share) if end > core.cells.bytes() => share.room_to(end),
            Some(_) | None => Ok(()),
        }
    }

    /// What has to be done before `wanted`.
    fn need(&self, core: &Core, wanted: Wanted) -> Need {
        if matches!(core.base, Base::Expected(_)) {
            return Need::Open;
        }
        let first = if wanted.append { core.cells.bytes() } else { wanted.first };
        if first < core.hidden_bytes {
            return Need::Unseal;
        }
        if wanted.bytes == 0 {
            return Need::Nothing;
        }
        if let Some(number) = core.cells.must_fill(first, wanted.bytes) {
            return Need::Fill(number);
        }
        let missing = core.cells.blocks_missing(first, wanted.bytes);
        let dirty = core.cells.dirty_memory_bytes();
        if missing > 0 && dirty > 0 && dirty + (missing * BLOCK) as u64 > self.memory_bytes_max() {
            return Need::Yield;
        }
        match missing.saturating_sub(core.room.as_ref().map_or(0, Room::blocks)) {
            0 => Need::Nothing,
            blocks => Need::Memory(blocks),
        }
    }

    /// Does what `wanted` needs; then it finds nothing in its way, unless another was faster.
    async fn ready(self: &Arc<Self>, wanted: Wanted) -> VfsResult<()> {
        loop {
            let gate = self.gate.lock().await;
            let need = {
                let core = self.core.lock();
                core.alive()?;
                self.need(&core, wanted)
            };
            let done = match need {
                Need::Nothing => return Ok(()),
                Need::Open => self.open().await,
                Need::Unseal => self.unseal().await,
                Need::Fill(number) => self.fill(number).await,
                Need::Yield => self.yield_memory().await,
                Need::Memory(blocks) => {
                    // Others wait too, and may want what is here.
                    drop(gate);
                    let ticket = self.writers.budget().wait(self.writers.next_age(), 0, blocks, false);
                    let grant = ticket.granted().await;
                    let mut core = self.core.lock();
                    core.add_room(grant.room);
                    core.right = grant.right.or(core.right.take());
                    return Ok(());
                }
            };
            if let Err(error) = done {
                self.fail(&error);
                return Err(error);
            }
        }
    }

    /// Looks at the object that lies under the blocks.
    async fn open(&self) -> VfsResult<()> {
        let (expected, generation) = {
            let core = self.core.lock();
            match &core.base {
                Base::Expected(version) => (version.clone(), core.generation),
                Base::None | Base::Object(_) => return Ok(()),
            }
        };
        let answer = self.store.head_object(self.publisher.key()).await;
        let mut core = self.core.lock();
        if core.generation != generation {
            // Something else was published meanwhile, and that is to be looked at.
            return Ok(());
        }
        let meta = match answer {
            Ok(meta) => meta,
            Err(error) if error.reason == Reason::NoSuchKey => return Err(self.replaced()),
            Err(error) => return Err(VfsError::from_cos(error, &self.name)),
        };
        if expected.is_some_and(|version| version != meta.etag) {
            return Err(self.replaced());
        }
        core.cells = Cells::over_base(meta.size);
        core.rests_on = Some(meta.etag.clone());
        core.inherited =
            NewObject { content_type: meta.content_type, metadata: meta.metadata, forbid_overwrite: false };
        let key = self.publisher.key().clone();
        core.put_under(Version {
            key,
            etag: meta.etag,
            bytes: meta.size,
            crc64: meta.crc64,
            modified: meta.last_modified,
            scratch: None,
        });
        Ok(())
    }

    /// Fills the gaps of a block from the base.
    async fn fill(&self, number: u64) -> VfsResult<()> {
        let range = self.core.lock().cells.base_of(number);
        let base = if range.is_empty() { Bytes::new() } else { self.fetch(range.start, range.end).await? };
        self.core.lock().cells.fill(number, &base);
        Ok(())
    }

    /// `first..end` of the base.
    async fn fetch(&self, first: u64, end: u64) -> VfsResult<Bytes> {
        let version = match &self.core.lock().base {
            Base::Object(base) => FetchSource {
                store: self.store.clone(),
                key: base.key.clone(),
                name: self.name.clone(),
                etag: base.etag.clone(),
                pace: self.pace.clone(),
                seconds: self.seconds.clone(),
            },
            Base::None | Base::Expected(_) => return Err(self.replaced()),
        };
        // Who fetches has counted the memory already.
        let room = self.writers.budget().no_room();
        let fetch = Fetch::begin(&self.writers.runtime, version, first, end, None, None, room);
        fetch.bytes(first, end).await
    }

    /// Leaves `failure`, unless there is one; lets go of all memory and of what was begun at COS.
    fn fail(&self, failure: &VfsError) {
        let mut core = self.core.lock();
        if core.failure.is_none() {
            debug!(key = %self.publisher.key(), error = %failure, dirty = core.dirty, "an edit ends");
            core.failure = Some(failure.clone());
        }
        if !core.busy {
            self.let_go(&mut core);
        }
    }

    /// Lets go of memory, of what was begun at COS, and of what is claimed of a quota.
    fn let_go(&self, core: &mut Core) {
        if let Some(sealed) = core.sealed.take() {
            sealed.abort();
        }
        if let Some(share) = &mut core.share {
            share.release();
        }
        core.cells.resize(0);
        core.hidden_bytes = 0;
        core.room = None;
        core.right = None;
        core.base = Base::None;
        core.reader = None;
    }

    fn replaced(&self) -> VfsError {
        VfsError::ReplacedMeanwhile { name: self.name.to_string() }
    }

    /// Dirty memory of one edit: a quarter of the budget, and never less than two writes.
    fn memory_bytes_max(&self) -> u64 {
        (self.writers.budget().bytes() / 4).clamp(2 * PIECE_BYTES as u64, MEMORY_BYTES_MAX)
    }
}

/// Bytes of the file for a reader.
enum Piece {
    Here(Bytes),
    Base(u64, u64),
}

fn piece(segment: &cells::Segment) -> Piece {
    let length = segment.end - segment.first;
    let bytes = usize::try_from(length).unwrap_or(usize::MAX);
    match &segment.source {
        // Copied, so that a write need not.
        Source::Memory(block, from) => {
            Piece::Here(Bytes::copy_from_slice(&(**block).as_ref()[*from..*from + bytes]))
        }
        Source::Base => Piece::Base(segment.first, length),
        Source::Zeros => Piece::Here(Bytes::from(vec![0; bytes])),
    }
}

/// Somebody waits for memory: gives back what is a cache at once, and what is dirty by way of the store, one
/// edit at a time.
fn yield_to_others(edit: &Weak<Inside>) {
    let Some(inside) = edit.upgrade() else { return };
    let is_dirty = {
        let mut core = inside.core.lock();
        if !core.busy {
            core.cells.drop_clean();
        }
        core.cells.dirty_memory_bytes() > 0 && core.failure.is_none()
    };
    if !is_dirty {
        return;
    }
    let Ok(turn) = inside.writers.yields().clone().try_acquire_owned() else { return };
    let runtime = inside.writers.runtime.clone();
    runtime.spawn(async move {
        let _turn = turn;
        let _gate = inside.gate.lock().await;
        if inside.core.lock().failure.is_some() {
            return;
        }
        // That it fails stays with it, and its memory comes back either way.
        if let Err(error) = inside.yield_memory().await {
            inside.fail(&error);
        }
    });
}

impl std::fmt::Debug for Inside {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Edit").field("key", &self.publisher.key()).finish_non_exhaustive()
    }
}

/// What is taken of a write at a time: the largest of the kernel's.
const PIECE_BYTES: usize = 1 << 20;
/// Dirty memory of one edit at most.
const MEMORY_BYTES_MAX: u64 = 64 << 20;
/// How long memory that was granted is kept for a writer that does not come.
const GRANT_KEPT: Duration = Duration::from_secs(2);
