//! An object being written: performs what the state machine decides.
//!
//! ```text
//! try_write, write ─> PartBuffer ──full──> send_part task ──> COS     (upload.rs)
//!                        │                     │ answers
//!                        │                     v
//!                     PartPlan            WriteState: decides         (state.rs)
//! ```
//!
//! A [`WriteHandle`] takes bytes in order and holds nothing but the part that fills and the parts on their
//! way. Requests are tasks on the mount's runtime; they hold what the handle shares, never the handle: when
//! the last handle goes without a publication, what was sent is aborted in the background.
//!
//! A handle may make several objects, one after the other: truncation to nothing begins the next *version*,
//! and answers to requests of an earlier one no longer count.
//!
//! Lock order: a key's turn, then `Shared::core` (a leaf but for the budget's and the runtime's own locks);
//! wakes are called without locks.

mod early;
mod keep;
mod part;
mod settle;
mod state;
mod upload;
mod whole;
mod writers;

use std::{
    fmt,
    pin::pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Notify, oneshot, watch};

use super::{
    Keys, VfsError, VfsResult,
    budget::{BLOCK, Block, Grant, Right, Room, SENDABLE_BLOCKS, Seat, Ticket, WRITE_BLOCKS_MAX},
    quota::Share,
    uploads::Uploads,
};
use crate::cos::{Crc64, ETag, Key, NewObject, ObjectStore, PART_BYTES_MIN};
use early::EarlyPut;
use part::{PartBuffer, PartPlan};
use state::WriteState;
use upload::Body;
pub(super) use whole::{Publisher, Whole};
pub use writers::Writers;

/// One object being written, from the first byte to its publication. Knows no inode, no name, no policy.
pub struct WriteHandle {
    shared: Arc<Shared>,
}

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
    /// Of the whole, where it is known: not of parts that another process has sent.
    pub crc64: Option<Crc64>,
    /// COS's time where its answer told one, else ours, in whole seconds.
    pub last_modified: SystemTime,
    /// False where an upload in parts had begun with other metadata or another content type than publish
    /// was given: the object stands, whole, with the former. A self-copy would give it the latter.
    pub as_asked: bool,
}

/// What a handle and the tasks of its requests share.
struct Shared {
    writers: Arc<Writers>,
    store: Arc<dyn ObjectStore>,
    keys: Arc<Keys>,
    uploads: Option<Arc<Uploads>>,
    key: Key,
    /// Lower is older.
    age: u64,
    core: Mutex<Core>,
    /// Told at each change of state.
    changed: Notify,
    /// Requests without which it cannot be said that nothing is left behind.
    loose_ends: watch::Sender<usize>,
}

/// What changes.
struct Core {
    state: WriteState<Body>,
    plan: PartPlan,
    part: PartBuffer,
    early: Option<EarlyPut>,
    /// Bytes accepted.
    bytes: u64,
    dirty: bool,
    /// What it may take of a quota, where there is one.
    share: Option<Share>,
    /// The last part is cut: nothing can follow.
    ended: bool,
    /// The name leads elsewhere now.
    orphaned: bool,
    /// What comes is the beginning of a file that may be gone on with.
    may_go_on: bool,
    /// What publish gives the object, and what Initiate has given it.
    new: NewObject,
    begun_as: Option<NewObject>,
    /// Counts truncations.
    version: u64,
    /// Dropped to end all requests of this version.
    going_on: watch::Sender<()>,
    /// Bytes cut and not yet answered.
    sending_bytes: u64,
    memory: Memory,
    /// Bytes of the write that was refused last.
    refused_bytes: usize,
    wakes: Vec<Wake>,
}

/// Told once that a write may be tried again.
type Wake = Box<dyn FnOnce() + Send>;

/// What the budget has given beside the blocks of the part.
#[derive(Default)]
struct Memory {
    /// Granted after a wait, and not yet written to.
    room: Option<Room>,
    right: Option<Right>,
    /// Of the part that fills, until it could be sent.
    seat: Option<Seat>,
    /// In the queue.
    waiting: bool,
    grants: u64,
    /// The part could leave early, and [`Writers`] knows of it.
    sendable: bool,
}

impl WriteHandle {
    /// Begins to write `key`. Nothing is sent before bytes fill a part, or before publish.
    pub fn begin(writers: Arc<Writers>, store: Arc<dyn ObjectStore>, keys: Arc<Keys>, key: Key) -> Arc<Self> {
        Self::start(writers, store, keys, key, None)
    }

    /// As [`Self::begin`]; an upload in parts is written down, so that it can be found where this process ends.
    pub(super) fn begin_noted(
        writers: Arc<Writers>,
        store: Arc<dyn ObjectStore>,
        keys: Arc<Keys>,
        key: Key,
        uploads: Arc<Uploads>,
    ) -> Arc<Self> {
        Self::start(writers, store, keys, key, Some(uploads))
    }

    fn start(
        writers: Arc<Writers>,
        store: Arc<dyn ObjectStore>,
        keys: Arc<Keys>,
        key: Key,
        uploads: Option<Arc<Uploads>>,
    ) -> Arc<Self> {
        let age = writers.next_age();
        let core = Core {
            state: WriteState::Filling,
            plan: PartPlan::new(&writers.limits),
            part: PartBuffer::new(),
            early: None,
            bytes: 0,
            dirty: false,
            share: None,
            ended: false,
            orphaned: false,
            may_go_on: false,
            new: NewObject::default(),
            begun_as: None,
            version: 0,
            going_on: watch::channel(()).0,
            sending_bytes: 0,
            memory: Memory::default(),
            refused_bytes: 0,
            wakes: Vec::new(),
        };
        let shared = Arc::new(Shared {
            writers,
            store,
            keys,
            uploads,
            key,
            age,
            core: Mutex::new(core),
            changed: Notify::new(),
            loose_ends: watch::channel(0).0,
        });
        Arc::new(Self { shared })
    }

    /// What the object is given when it is made, as far as it is known before publish: an upload in parts is
    /// given its content type and metadata when it begins, and cannot be given others later
    /// ([`Published::as_asked`] tells). Call it before the first bytes, and whenever it changes.
    pub fn set_new_object(&self, new: NewObject) {
        self.shared.core.lock().new = new;
    }

    /// From now on every byte needs room in the share of a quota.
    pub(in crate::vfs) fn set_share(&self, share: Share) {
        self.shared.core.lock().share = Some(share);
    }

    /// Takes `data` (1 MiB at most) at `offset` if that needs no waiting. Called in the FUSE loop: never blocks.
    ///
    /// # Errors
    /// `NotSupported` for an offset that is not the end of what was written, and once a publication has
    /// begun (only [`Self::truncate_to_zero`] leads on from there, unless what was published is empty);
    /// `TooLarge`; `QuotaReached`; `BadHandle` after [`Self::discard`]; or the error that an earlier request left on the handle.
    pub fn try_write(&self, offset: u64, data: &[u8]) -> VfsResult<Tried> {
        self.shared.take(&mut self.shared.core.lock(), offset, data)
    }

    /// Takes `data` at `offset`, waiting for memory where there is none. An error may come after some MiB of
    /// it were taken; [`Self::bytes`] tells.
    ///
    /// # Errors
    /// As [`Self::try_write`].
    pub async fn write(&self, offset: u64, data: Bytes) -> VfsResult<()> {
        let mut at = offset;
        for piece in data.chunks(PIECE_BYTES) {
            while self.try_write(at, piece)? == Tried::Full {
                let (wake, woken) = oneshot::channel();
                if self.wake_on_room(Box::new(move || wake.send(()).unwrap_or(()))) {
                    // An error is a wake that was dropped with the handle's last word.
                    drop(woken.await);
                }
            }
            at += piece.len() as u64;
        }
        Ok(())
    }

    /// Calls `wake` once, as soon as a write that was [`Tried::Full`] may be tried again, or has failed.
    /// Returns false, without keeping `wake`, where that is the case already. The room that a wake tells of is
    /// kept for this handle for two seconds.
    pub fn wake_on_room(&self, wake: Wake) -> bool {
        self.shared.wake_on_room(wake)
    }

    /// Bytes accepted so far.
    pub fn bytes(&self) -> u64 {
        self.shared.core.lock().bytes
    }

    /// Whether bytes were written since the beginning, the last truncation or the last publication.
    pub fn is_dirty(&self) -> bool {
        self.shared.core.lock().dirty
    }

    /// Throws away what was written; the next publish makes what is written from now on. What was sent is
    /// aborted in the background; what was published stays until the next publish.
    ///
    /// # Errors
    /// The error that an earlier request left on the handle; `Busy` while a publication is under way;
    /// `BadHandle` after [`Self::discard`].
    pub fn truncate_to_zero(&self) -> VfsResult<()> {
        let mut core = self.shared.core.lock();
        if core.state.is_publishing() {
            return Err(VfsError::Busy { name: self.shared.key.to_string() });
        }
        if let Some(Err(error)) = core.state.answer() {
            return Err(error);
        }
        self.shared.begin_anew(&mut core);
        Ok(())
    }

    /// What was published, as long as nothing was begun anew.
    pub(in crate::vfs) fn published(&self) -> Option<Published> {
        self.shared.core.lock().state.answer().and_then(Result::ok)
    }

    /// Whether a publication is under way.
    pub(in crate::vfs) fn is_publishing(&self) -> bool {
        self.shared.core.lock().state.is_publishing()
    }

    /// Whether anything has left.
    pub(in crate::vfs) fn has_sent(&self) -> bool {
        !matches!(self.shared.core.lock().state, WriteState::Filling)
    }

    /// Hands over all that was written, and ends, if nothing has left yet: its blocks, and what it may take of
    /// a quota.
    pub(in crate::vfs) fn take_unsent(&self) -> Option<(Vec<Block>, Option<Share>)> {
        let mut core = self.shared.core.lock();
        if !matches!(core.state, WriteState::Filling) || core.orphaned || core.ended {
            return None;
        }
        let part = std::mem::replace(&mut core.part, PartBuffer::new());
        let mut share = core.share.take();
        if let Some(share) = &mut share {
            share.release();
        }
        core.let_go();
        core.state = WriteState::Discarded;
        Some((part.into_blocks(), share))
    }

    /// No more bytes will come, and the object will most likely be given `new`: sends all that can be sent without
    /// publishing, and waits for it as far as parts are concerned.
    ///
    /// # Errors
    /// What the store answered; it stays on the handle.
    pub async fn prepare(&self, new: &NewObject) -> VfsResult<()> {
        self.shared.put_early(new);
        self.shared.end().await
    }

    /// Makes the object visible, whole and checked; the older one stays as it was until then. A second
    /// call without writes in between gives the first one's answer again, success or error. Publications of
    /// one key take turns. It runs in a task of its own, and to its end even where the caller goes away.
    ///
    /// # Errors
    /// What the store answered, `ReplacedMeanwhile` after [`Self::orphan`]; it stays on the handle.
    pub async fn publish(&self, new: NewObject) -> VfsResult<Published> {
        let shared = Arc::clone(&self.shared);
        // The task is lost only with the runtime: then nobody may be told that anything was published.
        self.shared.writers.runtime.spawn(shared.publish(new)).await.unwrap_or(Err(VfsError::Stopping))
    }

    /// The name was unlinked, or replaced by a rename: nothing of this handle may become visible any more.
    /// Writes fail from now on. Where a publication is under way, what it makes is deleted again, if a HEAD
    /// shows that it is still ours; between that HEAD and the DELETE another writer's object could be hit, so
    /// a rename onto the name takes [`Keys::lock`] first, and an unlink deletes after this call.
    pub fn orphan(&self) {
        let mut core = self.shared.core.lock();
        core.orphaned = true;
        self.shared.hopeless(&mut core, self.shared.replaced());
    }

    /// Gives up: aborts the upload, leaves nothing visible, frees the memory. Idempotent; waits some seconds,
    /// and keeps trying in the background where the store is down. A publication under way is not taken back:
    /// its end is waited for.
    pub async fn discard(&self, why: &'static str) {
        self.shared.give_up(why);
        drop(tokio::time::timeout(DISCARD_WAITS, self.shared.at_rest()).await);
    }

    /// The error that a failed request has left.
    pub fn failure(&self) -> Option<VfsError> {
        self.shared.core.lock().failure()
    }
}

impl Drop for WriteHandle {
    fn drop(&mut self) {
        self.shared.give_up("its handle is gone");
    }
}

impl Core {
    fn failure(&self) -> Option<VfsError> {
        self.state.answer().and_then(Result::err)
    }

    /// Blocks that a write of `bytes` needs beside what the handle has.
    fn blocks_needed(&self, bytes: usize) -> usize {
        let used = usize::try_from(self.part.bytes() % BLOCK as u64).unwrap_or(0);
        let in_last = if used == 0 { 0 } else { BLOCK - used };
        bytes.saturating_sub(in_last).div_ceil(BLOCK)
    }

    /// Whether the next blocks begin a part, and no seat is there for it yet.
    fn begins_part(&self) -> bool {
        self.part.is_empty() && !self.memory.room.as_ref().is_some_and(Room::is_seated)
    }

    /// Lets go of all memory, of all requests, and of what is claimed of a quota.
    fn let_go(&mut self) {
        if let Some(share) = &mut self.share {
            share.release();
        }
        self.part = PartBuffer::new();
        self.early = None;
        self.memory.room = None;
        self.memory.right = None;
        self.memory.seat = None;
        self.memory.sendable = false;
        self.going_on = watch::channel(()).0;
        self.sending_bytes = 0;
    }
}

impl Memory {
    fn add(&mut self, more: Room) {
        match &mut self.room {
            Some(room) => room.join(more),
            None => self.room = Some(more),
        }
    }
}

impl Shared {
    /// Takes all of `data`, or nothing.
    fn take(self: &Arc<Self>, core: &mut Core, offset: u64, data: &[u8]) -> VfsResult<Tried> {
        self.check(core, offset, data.len())?;
        if self.holds_its_part(core, data.len()) {
            core.refused_bytes = data.len();
            return Ok(Tried::Full);
        }
        let Some(room) = self.room(core, core.blocks_needed(data.len())) else {
            core.refused_bytes = data.len();
            return Ok(Tried::Full);
        };
        core.refused_bytes = 0;
        self.fill(core, data, room)?;
        Ok(Tried::Taken)
    }

    /// Whether `bytes` more have to wait for COS to answer for those before: others need memory, too.
    fn holds_its_part(&self, core: &Core, bytes: usize) -> bool {
        let held = core.sending_bytes + core.part.bytes();
        core.sending_bytes > 0 && held + bytes as u64 > self.writers.writer_bytes_max(core.plan.next_bytes())
    }

    fn check(self: &Arc<Self>, core: &mut Core, offset: u64, bytes: usize) -> VfsResult<()> {
        if let WriteState::Published(published) = &core.state
            && published.bytes == 0
            && !core.orphaned
        {
            // Behind nothing, everything is new.
            self.begin_anew(core);
        }
        if let Some(error) = core.failure() {
            return Err(error);
        }
        if core.ended || core.state.is_publishing() || core.state.answer().is_some() {
            return Err(VfsError::NotSupported { what: "writing on behind a publication" });
        }
        if offset != core.bytes {
            return Err(VfsError::NotSupported { what: "writing elsewhere than at the end" });
        }
        let bytes_max = self.writers.limits.single_file_bytes_max;
        let has_number = core.plan.next().is_some() || bytes == 0;
        if core.bytes + bytes as u64 > bytes_max || !has_number {
            let error = VfsError::TooLarge { name: self.key.to_string(), bytes_max };
            self.hopeless(core, error.clone());
            return Err(error);
        }
        self.claim(core, core.bytes + bytes as u64)
    }

    /// Makes sure that the quota, where there is one, has room for an object of `end` bytes.
    fn claim(self: &Arc<Self>, core: &mut Core, end: u64) -> VfsResult<()> {
        let Some(Err(error)) = core.share.as_mut().map(|share| share.room_to(end)) else { return Ok(()) };
        self.hopeless(core, error.clone());
        Err(error)
    }

    /// Room for `blocks`, from what was granted and from what is free; `None` where one has to wait.
    fn room(&self, core: &mut Core, blocks: usize) -> Option<Option<Room>> {
        let have = core.memory.room.as_ref().map_or(0, Room::blocks);
        if have < blocks {
            let more =
                self.writers.budget.try_blocks(core.part.bytes(), blocks - have, core.begins_part())?;
            core.memory.add(more);
        }
        Some(core.memory.room.take())
    }

    fn fill(self: &Arc<Self>, core: &mut Core, mut data: &[u8], room: Option<Room>) -> VfsResult<()> {
        let mut room = room.unwrap_or_else(|| self.writers.budget.no_room());
        core.dirty |= !data.is_empty();
        core.memory.seat = room.take_seat().or(core.memory.seat.take());
        while !data.is_empty() {
            let free = core.plan.next_bytes() - core.part.bytes();
            let length = usize::try_from(free).unwrap_or(usize::MAX).min(data.len());
            let taken = core.part.fill(&data[..length], &mut room);
            debug_assert_eq!(taken, length, "room was counted before");
            core.bytes += taken as u64;
            data = &data[taken..];
            if core.part.bytes() == core.plan.next_bytes() {
                self.cut(core);
                // The last number is gone, and more is to come.
                if !data.is_empty() && core.plan.next().is_none() {
                    self.check(core, core.bytes, data.len())?;
                }
            }
        }
        if self.writers.budget.wants_parts() {
            self.cut_early(core);
        }
        if core.part.bytes() >= PART_BYTES_MIN && !core.memory.sendable {
            core.memory.sendable = true;
            core.memory.seat = None;
            self.writers.may_leave_early(self.age, Arc::downgrade(self));
        }
        Ok(())
    }

    /// Sends what fills now if it can stand as a part.
    fn cut_early(self: &Arc<Self>, core: &mut Core) {
        let bytes = core.part.bytes();
        if bytes >= PART_BYTES_MIN && core.plan.may_leave_early(bytes) {
            self.cut(core);
        }
    }

    /// Bytes that could leave early.
    fn sendable_bytes(&self) -> u64 {
        let core = self.core.lock();
        if core.memory.sendable { core.part.bytes() } else { 0 }
    }

    fn leave_early(self: &Arc<Self>) {
        let mut core = self.core.lock();
        if core.memory.sendable {
            self.cut_early(&mut core);
        }
    }

    fn wake_on_room(self: &Arc<Self>, wake: Wake) -> bool {
        let mut core = self.core.lock();
        if core.state.answer().is_some() || core.ended || core.state.is_publishing() {
            return false;
        }
        let wanted = core.refused_bytes;
        if self.holds_its_part(&core, wanted) || core.memory.waiting {
            core.wakes.push(wake);
            return true;
        }
        let blocks = core.blocks_needed(wanted).min(WRITE_BLOCKS_MAX);
        let missing = blocks.saturating_sub(core.memory.room.as_ref().map_or(0, Room::blocks));
        if missing == 0
            || self.writers.budget.try_blocks(core.part.bytes(), missing, core.begins_part()).is_some()
        {
            return false;
        }
        let ticket = self.writers.budget.wait(self.age, core.part.bytes(), missing, core.begins_part());
        core.memory.waiting = true;
        core.wakes.push(wake);
        let going_on = core.going_on.subscribe();
        let version = core.version;
        self.writers.runtime.spawn(Arc::clone(self).wait_in_queue(ticket, version, going_on));
        true
    }

    /// Stands in the queue for memory; keeps what is granted for a while.
    async fn wait_in_queue(self: Arc<Self>, ticket: Ticket, version: u64, mut going_on: watch::Receiver<()>) {
        let grant = tokio::select! {
            grant = ticket.granted() => Some(grant),
            // Never told anything: an error is the end of this version.
            _ = going_on.changed() => None,
        };
        let (wakes, grants) = {
            let mut core = self.core.lock();
            if core.version != version {
                return;
            }
            core.memory.waiting = false;
            if let Some(Grant { room, right }) = grant
                && core.state.answer().is_none()
            {
                core.memory.grants += 1;
                core.memory.right = right.or(core.memory.right.take());
                core.memory.add(room);
            }
            (std::mem::take(&mut core.wakes), core.memory.grants)
        };
        for wake in wakes {
            wake();
        }
        let shared = Arc::downgrade(&self);
        drop(self);
        tokio::time::sleep(GRANT_KEPT).await;
        if let Some(shared) = shared.upgrade() {
            let mut core = shared.core.lock();
            // Whoever was woken has not come; others may have it.
            if core.version == version && core.memory.grants == grants {
                core.memory.room = None;
            }
        }
    }

    /// Waits for changes of state until `look` has found what it looks for.
    async fn until<T>(&self, look: impl Fn(&Core) -> Option<T>) -> T {
        loop {
            let mut changed = pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            if let Some(found) = look(&self.core.lock()) {
                return found;
            }
            changed.await;
        }
    }

    /// What a name that leads elsewhere now means to its writer.
    fn replaced(&self) -> VfsError {
        VfsError::ReplacedMeanwhile { name: self.key.to_string() }
    }
}

impl fmt::Debug for WriteHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let core = self.shared.core.lock();
        f.debug_struct("WriteHandle")
            .field("key", &self.shared.key)
            .field("bytes", &core.bytes)
            .field("sending_bytes", &core.sending_bytes)
            .field("state", &core.state)
            .finish_non_exhaustive()
    }
}

/// What [`WriteHandle::write`] takes at a time: the largest write of the kernel.
const PIECE_BYTES: usize = SENDABLE_BLOCKS * BLOCK;
/// How long memory that was granted is kept for a writer that does not come.
const GRANT_KEPT: Duration = Duration::from_secs(2);
/// How long a discard waits for COS before it leaves the rest to the background.
const DISCARD_WAITS: Duration = Duration::from_secs(10);
