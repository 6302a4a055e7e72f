//! A file that is open for writing: what is known about it, and what is done with it.
//!
//! An [`OpenFile`] joins a descriptor, an inode and a key. It *begins* when it is created or truncated, or by
//! the first write where the file is empty; only then is there a [`WriteHandle`], and something to publish. A
//! file that was opened and never begun leaves its object alone. When to publish is decided in `close.rs`.
//!
//! Publications of one key take turns here too, so that what the views show is the last one.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tracing::{debug, info};

use super::{
    AttributeChange, Caller, FileKind, InodeNo, MountPolicy, OpenHow, VfsError, VfsResult, WriteOutcome,
    close::{Standing, Verdict, Word, decide},
    policy,
    posix::Posix,
    quota::Share,
    read::Reader,
    shared::Shared,
    write::{Tried, WriteHandle},
};
use crate::cos::{Key, NewObject};

/// A file that is open for writing.
#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) inode: InodeNo,
    /// Where it will be published.
    pub(super) parent: InodeNo,
    pub(super) name: String,
    pub(super) key: Key,
    pub(super) how: OpenHow,
    pub(super) opener: Caller,
    pub(super) policy: MountPolicy,
    pub(super) view: usize,
    /// The publications of this key, one at a time.
    turn: Arc<AsyncMutex<()>>,
    /// Whether the last descriptor is closed, and all that follows is done.
    closed: watch::Sender<Closed>,
    state: Mutex<State>,
}

/// How far a file's end has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Closed {
    No,
    /// The last descriptor is closed; what is left to do is under way.
    Closing,
    Done,
}

#[derive(Debug, Default)]
struct State {
    writer: Option<Arc<WriteHandle>>,
    armed: bool,
    published: bool,
    discarded: Option<&'static str>,
    /// The name was unlinked; how far the file reaches for its writer, whose bytes go nowhere now.
    unlinked: Option<u64>,
    opener_flushed: bool,
    /// Fail at publish where the key is taken.
    forbid_overwrite: bool,
    /// Times, mode, owner and xattrs that the object will be given.
    kept: Posix,
    /// The old object, for who reads before anything has begun.
    reader: Option<Arc<Reader>>,
}

impl OpenFile {
    /// A descriptor on the file that will be `key`. Nothing has begun.
    #[expect(clippy::too_many_arguments, reason = "all of it is said when a file is opened, and never again")]
    pub(super) fn new(
        shared: &Shared,
        inode: InodeNo,
        parent: InodeNo,
        name: &str,
        key: Key,
        how: OpenHow,
        opener: Caller,
        policy: MountPolicy,
        view: usize,
    ) -> Arc<Self> {
        let turn = shared.writing.turn(&key);
        let state = Mutex::new(State::default());
        let closed = watch::channel(Closed::No).0;
        Arc::new(Self {
            closed,
            inode,
            parent,
            name: name.to_owned(),
            key,
            how,
            opener,
            policy,
            view,
            turn,
            state,
        })
    }

    pub(super) fn opener(&self) -> Option<u32> {
        self.opener.process
    }

    /// Begins the file anew: it will be published, be it empty. `forbid_overwrite`: as a new one only.
    /// `share`: of [`Shared::share`].
    pub(super) fn begin(&self, shared: &Shared, share: Option<Share>, forbid_overwrite: bool) {
        let mut state = self.state.lock();
        if state.writer.is_none() {
            let (writers, store) = (shared.writers.clone(), shared.store.clone());
            let (keys, uploads) = (shared.keys.clone(), shared.uploads.clone());
            let writer = WriteHandle::begin_noted(writers, store, keys, self.key.clone(), uploads);
            if let Some(share) = share {
                writer.set_share(share);
            }
            state.forbid_overwrite = forbid_overwrite || self.policy.forbids_overwrite();
            if state.forbid_overwrite {
                writer.set_new_object(NewObject { forbid_overwrite: true, ..NewObject::default() });
            }
            state.writer = Some(writer);
        }
    }

    /// Throws away what was written so far.
    ///
    /// # Errors
    /// The error that an earlier request left; `QuotaReached`.
    pub(super) fn truncate(&self, shared: &Shared, forbid_overwrite: bool) -> VfsResult<()> {
        let begun = self.state.lock().writer.clone();
        match begun {
            None => {
                let share = shared.share(&self.key, shared.stands(self.parent, &self.name))?;
                self.begin(shared, share, forbid_overwrite);
            }
            Some(writer) => {
                writer.truncate_to_zero()?;
                let mut state = self.state.lock();
                state.published = false;
                state.opener_flushed = false;
            }
        }
        Ok(())
    }

    pub(super) fn try_write(
        &self,
        shared: &Shared,
        offset: u64,
        data: &[u8],
        append: bool,
    ) -> VfsResult<WriteOutcome> {
        if self.swallows(offset, data.len(), append) {
            return Ok(WriteOutcome::Written);
        }
        let writer = self.writer_at(shared, offset, append)?;
        let offset = if append { writer.bytes() } else { offset };
        match writer.try_write(offset, data)? {
            Tried::Taken => {
                self.note_written();
                Ok(WriteOutcome::Written)
            }
            Tried::Full => Ok(WriteOutcome::MustWait),
        }
    }

    pub(super) async fn write(
        &self,
        shared: &Shared,
        offset: u64,
        data: Bytes,
        append: bool,
        nonblocking: bool,
    ) -> VfsResult<()> {
        if self.state.lock().armed && nonblocking {
            return match self.try_write(shared, offset, &data, append)? {
                WriteOutcome::Written => Ok(()),
                WriteOutcome::MustWait => Err(VfsError::WouldBlock),
            };
        }
        if self.swallows(offset, data.len(), append) {
            return Ok(());
        }
        let writer = self.writer_at(shared, offset, append)?;
        let offset = if append { writer.bytes() } else { offset };
        writer.write(offset, data).await?;
        self.note_written();
        Ok(())
    }

    /// Takes a write to a file that was unlinked: it goes nowhere. The front is told instead.
    fn swallows(&self, offset: u64, bytes: usize, append: bool) -> bool {
        let mut state = self.state.lock();
        let armed = state.armed;
        let Some(end) = state.unlinked.as_mut().filter(|_| !armed && self.how.write) else { return false };
        *end = (*end).max(if append { *end } else { offset } + bytes as u64);
        true
    }

    fn note_written(&self) {
        self.state.lock().opener_flushed = false;
    }

    /// The writer for a write at `offset`; the first write into an empty file begins it.
    fn writer_at(&self, shared: &Shared, offset: u64, append: bool) -> VfsResult<Arc<WriteHandle>> {
        if !self.how.write {
            return Err(VfsError::BadHandle);
        }
        let state = self.state.lock();
        if let Some(why) = state.discarded {
            return Err(VfsError::Invalid { why });
        }
        if let Some(writer) = &state.writer {
            return Ok(writer.clone());
        }
        drop(state);
        let facts = shared.known(self.inode)?.facts;
        if facts.bytes > 0 {
            let what =
                if append { "appending to a file with content" } else { "writing into an existing file" };
            return Err(VfsError::NotSupported { what });
        }
        if offset > 0 && !append {
            return Err(VfsError::NotSupported { what: "writing behind the end of a file" });
        }
        let target = if facts.etag.is_some() { policy::Standing::Published } else { policy::Standing::Free };
        self.policy.may_overwrite(&self.name, target)?;
        let share = shared.share(&self.key, facts.etag.is_some().then_some(0))?;
        self.begin(shared, share, false);
        self.state.lock().writer.clone().ok_or(VfsError::BadHandle)
    }

    /// Whether a write would be taken now, or fail now; else `wake` is called when it may.
    pub(super) fn poll_writable(&self, wake: Box<dyn FnOnce() + Send>) -> VfsResult<bool> {
        let writer = self.state.lock().writer.clone();
        Ok(writer.is_none_or(|writer| !writer.wake_on_room(wake)))
    }

    pub(super) fn arm(&self) -> VfsResult<()> {
        if !self.how.write {
            return Err(VfsError::BadHandle);
        }
        self.state.lock().armed = true;
        Ok(())
    }

    pub(super) async fn prepare(&self) -> VfsResult<()> {
        let (writer, armed) = {
            let state = self.state.lock();
            (state.writer.clone(), state.armed)
        };
        match writer {
            _ if !armed => Err(VfsError::Invalid { why: "prepare is for armed descriptors" }),
            Some(writer) => writer.prepare().await,
            None => Ok(()),
        }
    }

    pub(super) async fn commit(&self, shared: &Arc<Shared>, bytes: u64) -> VfsResult<()> {
        let accepted = self.state.lock().writer.as_ref().map_or(0, |writer| writer.bytes());
        if decide(self.standing(), Word::Commit) == Verdict::Publish && bytes != accepted {
            return Err(VfsError::Invalid { why: "the front counted other bytes than the mount" });
        }
        self.perform(shared, Word::Commit).await
    }

    /// What follows from a word, done.
    pub(super) async fn perform(&self, shared: &Arc<Shared>, word: Word) -> VfsResult<()> {
        let standing = self.standing();
        let verdict = decide(standing, word);
        debug!(key = %self.key, ?word, ?verdict, "file open for writing");
        if let Word::Flush { opener, closer } = word
            && opener == closer.process
            && standing.dirty
        {
            self.state.lock().opener_flushed = true;
        }
        match verdict {
            Verdict::Nothing => Ok(()),
            Verdict::Publish => match self.publish(shared).await {
                // Unlinked while it was on its way: nobody is to be told but the front.
                Err(_) if self.standing().unlinked && !standing.armed => Ok(()),
                published => published,
            },
            Verdict::Discard(why) => {
                self.discard(shared, why).await;
                Ok(())
            }
            Verdict::TellAgain => Err(self.failure()),
            Verdict::Invalid(why) => Err(VfsError::Invalid { why }),
        }
    }

    /// Makes the object, and shows it.
    ///
    /// # Errors
    /// What the store answered; it stays on the handle.
    pub(super) async fn publish(&self, shared: &Arc<Shared>) -> VfsResult<()> {
        let writer = self.state.lock().writer.clone();
        let Some(writer) = writer else { return Ok(()) };
        let _turn = self.turn.lock().await;
        let (new, kept) = self.new_object()?;
        let published = writer.publish(new).await?;
        {
            let mut state = self.state.lock();
            state.published = true;
            // What stands there now is this file's own.
            state.forbid_overwrite = false;
        }
        info!(key = %self.key, bytes = published.bytes, "published");
        let facts = shared.show_published(self, &published, &kept);
        if !published.as_asked && shared.posix_metadata && !kept.is_empty() {
            // The upload had begun before they were set.
            shared.gather(self.key.clone(), self.parent, &self.name, facts, kept);
        }
        Ok(())
    }

    fn new_object(&self) -> VfsResult<(NewObject, Posix)> {
        let state = self.state.lock();
        let mut new = NewObject { forbid_overwrite: state.forbid_overwrite, ..NewObject::default() };
        state.kept.write(FileKind::File, &mut new.metadata)?;
        Ok((new, state.kept.clone()))
    }

    /// Gives up; nothing becomes visible.
    pub(super) async fn discard(&self, shared: &Arc<Shared>, why: &'static str) {
        let (writer, was_published) = {
            let mut state = self.state.lock();
            state.discarded = Some(why);
            (state.writer.clone(), state.published)
        };
        if let Some(writer) = writer {
            info!(key = %self.key, why, "discarded");
            writer.discard(why).await;
        }
        if !was_published {
            shared.hide_unpublished(self);
        }
    }

    /// Something else was renamed onto the name, or the name away: nothing that is written from now on may
    /// become visible, and who writes is told.
    pub(super) fn orphan(&self) {
        if let Some(writer) = &self.state.lock().writer {
            writer.orphan();
        }
    }

    /// The name was unlinked: nothing of this file may become visible any more.
    pub(super) fn unlink(&self) {
        let mut state = self.state.lock();
        let bytes = state.writer.as_ref().map_or(0, |writer| writer.bytes());
        state.unlinked.get_or_insert(bytes);
        drop(state);
        self.orphan();
    }

    pub(super) fn standing(&self) -> Standing {
        let state = self.state.lock();
        Standing {
            armed: state.armed,
            begun: state.writer.is_some(),
            dirty: state.writer.as_ref().is_some_and(|writer| writer.is_dirty()),
            published: state.published,
            failed: state.writer.as_ref().is_some_and(|writer| writer.failure().is_some()),
            discarded: state.discarded.is_some(),
            unlinked: state.unlinked.is_some(),
            opener_flushed: state.opener_flushed,
        }
    }

    fn failure(&self) -> VfsError {
        let state = self.state.lock();
        let failed = state.writer.as_ref().and_then(|writer| writer.failure());
        failed.unwrap_or(VfsError::Invalid { why: state.discarded.unwrap_or("the file was given up") })
    }

    /// Something will be published that is not yet.
    pub(super) fn is_unpublished(&self) -> bool {
        let standing = self.standing();
        let lives = standing.begun && !standing.discarded && !standing.unlinked;
        lives && (standing.dirty || !standing.published)
    }

    /// Begun, empty, and nobody has to commit it: it may be published at any time.
    pub(super) fn is_idle_and_empty(&self) -> bool {
        let standing = self.standing();
        let bytes = self.state.lock().writer.as_ref().map(|writer| writer.bytes());
        !standing.armed && !standing.dirty && !standing.failed && !standing.discarded && bytes == Some(0)
    }

    pub(super) fn close(&self, closed: Closed) {
        self.closed.send_replace(closed);
    }

    /// Waits for the end of a file whose last descriptor is closed.
    pub(super) async fn wait_closed(&self) {
        let mut closed = self.closed.subscribe();
        if *closed.borrow_and_update() == Closed::Closing {
            // The sender is this file's own.
            drop(closed.wait_for(|closed| *closed == Closed::Done).await);
        }
    }

    pub(super) fn is_begun(&self) -> bool {
        self.state.lock().writer.is_some()
    }

    /// The size that stat shows: what was accepted so far.
    pub(super) fn shown_bytes(&self) -> Option<u64> {
        let state = self.state.lock();
        if state.discarded.is_some() {
            return None;
        }
        state.unlinked.or_else(|| state.writer.as_ref().map(|writer| writer.bytes()))
    }

    /// What the object will be given, for stat; `None` before anything has begun.
    pub(super) fn pending_attributes(&self) -> Option<Posix> {
        let state = self.state.lock();
        (state.writer.is_some() && !state.published).then(|| state.kept.clone())
    }

    /// Times, mode and owner for the object to be made. False where it is made already, or not begun.
    pub(super) fn set_kept(&self, change: impl FnOnce(&mut Posix)) -> bool {
        let mut state = self.state.lock();
        let takes = state.writer.is_some() && !state.published && state.discarded.is_none();
        if takes {
            change(&mut state.kept);
            if let Some(writer) = &state.writer {
                let mut new = NewObject { forbid_overwrite: state.forbid_overwrite, ..NewObject::default() };
                // What does not fit is refused at publish.
                if state.kept.write(FileKind::File, &mut new.metadata).is_ok() {
                    writer.set_new_object(new);
                }
            }
        }
        takes
    }

    pub(super) fn change_kept(&self, change: &AttributeChange) -> bool {
        self.set_kept(|kept| kept.apply(change))
    }

    /// For who reads through a descriptor that can also write; `None` where there is nothing yet.
    ///
    /// # Errors
    /// `Busy` once something was written: it can be read when it is published.
    pub(super) fn reader(&self, shared: &Shared) -> VfsResult<Option<Arc<Reader>>> {
        if !self.how.read {
            return Err(VfsError::BadHandle);
        }
        self.policy.may_read()?;
        let mut state = self.state.lock();
        if let Some(writer) = &state.writer {
            return if writer.bytes() == 0 {
                Ok(None)
            } else {
                Err(VfsError::Busy { name: self.name.clone() })
            };
        }
        let new = || Reader::new(shared, self.inode, self.key.clone(), &self.name, None);
        Ok(Some(state.reader.get_or_insert_with(new).clone()))
    }
}
