//! A file that is open for writing: what is known about it, and what is done with it.
//!
//! An [`OpenFile`] joins a descriptor, an inode and a key. It *begins* when it is created or truncated, or by
//! the first write where the file is empty; only then is there a [`WriteHandle`], and something to publish. A
//! file that was opened and never begun leaves its object alone. When to publish is decided in `close.rs`.
//!
//! Publications of one key take turns here too, so that what the views show is the last one.

use std::{sync::Arc, time::Instant};

use parking_lot::Mutex;
use tokio::sync::{Mutex as AsyncMutex, watch};
use tracing::{debug, info, warn};

use super::{
    AttributeChange, Caller, FileKind, InodeNo, MountPolicy, Notice, OpenHow, Published, VfsError, VfsResult,
    attr::Facts,
    close::{Standing, Verdict, Word, decide},
    content::{Content, Place},
    edit::{Beginning, Edit},
    inode::Link,
    posix::Posix,
    quota::Share,
    read::Reader,
    register::Deciding,
    shared::Shared,
    write::WriteHandle,
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
    content: Option<Content>,
    /// The content is another descriptor's, and nothing was written through this one.
    is_guest: bool,
    /// Something was written through this descriptor behind so many publications of its edit.
    wrote: Option<u64>,
    /// Bytes written through this descriptor.
    written_bytes: u64,
    armed: bool,
    /// Nothing stood under the name when it was opened.
    is_new: bool,
    published: bool,
    /// Its object is being made, and shown: until that is done nobody knows which version others go on from.
    publishing: bool,
    discarded: Option<&'static str>,
    /// It broke, and what had come is held for whoever goes on.
    held: bool,
    /// The name leads elsewhere since a rename: nothing that is begun from now on belongs there.
    orphaned: bool,
    /// The name was unlinked; how far the file reaches for its writer, whose bytes go nowhere now.
    unlinked: Option<u64>,
    opener_flushed: bool,
    /// Fail at publish where the key is taken.
    forbid_overwrite: bool,
    /// Times, mode, owner and xattrs that the object will be given.
    kept: Posix,
    /// The old object, for who reads before anything has begun.
    reader: Option<Arc<Reader>>,
    /// The object that stood there when it was opened.
    stood: Option<Facts>,
    /// The inode that has the name since this file was begun anew, pinned: nobody else may hold it.
    successor: Option<InodeNo>,
}

impl State {
    /// Of a file that is written in order.
    fn writer(&self) -> Option<&Arc<WriteHandle>> {
        match self.content.as_ref()? {
            Content::Ordered(writer) => Some(writer),
            Content::Edit(_) => None,
        }
    }

    /// Whether what stands under the name is another's by now, or nothing.
    fn has_lost_its_name(&self) -> bool {
        self.orphaned || self.unlinked.is_some()
    }

    /// Holds `content` from now on. What has befallen the name before anything was begun holds for it, too.
    fn put(&mut self, content: Content) {
        if self.orphaned {
            content.orphan();
        } else if self.unlinked.is_some() {
            content.unlink();
        }
        self.content = Some(content);
    }

    fn hold(&mut self, edit: Arc<Edit>) -> Arc<Edit> {
        if let Some(Content::Edit(held)) = &self.content {
            return held.clone();
        }
        if self.armed {
            edit.in_order();
        }
        // What was kept for the object of before is this one's by now, and its times are not.
        if self.published {
            self.kept = Posix::default();
        }
        self.put(Content::Edit(edit.clone()));
        edit
    }
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
        if state.content.is_some() {
            return;
        }
        // What another one has put there meanwhile must not be replaced by what was to stand behind it.
        let is_append = self.how.append && (self.how.alone || state.armed);
        state.forbid_overwrite = forbid_overwrite || is_append || self.policy.forbids_overwrite();
        if self.how.read {
            let nothing = Beginning::Blocks { blocks: Vec::new(), appended: !self.how.truncate };
            let edit = Edit::begin(shared, self.key.clone(), &self.name, nothing, share);
            state.put(Content::Edit(edit));
            return;
        }
        let (writers, store) = (shared.writers.clone(), shared.store.clone());
        let (keys, uploads) = (shared.keys.clone(), shared.uploads.clone());
        let writer = WriteHandle::begin_noted(writers, store, keys, self.key.clone(), uploads);
        if let Some(share) = share {
            writer.set_share(share);
        }
        if state.forbid_overwrite {
            writer.set_new_object(NewObject { forbid_overwrite: true, ..NewObject::default() });
        }
        state.put(Content::Ordered(writer));
    }

    /// Throws away what was written so far.
    ///
    /// # Errors
    /// The error that an earlier request left; `QuotaReached`.
    pub(super) async fn truncate(&self, shared: &Shared, forbid_overwrite: bool) -> VfsResult<()> {
        match self.content() {
            None => {
                let share = shared.share(&self.key, shared.stands(self.parent, &self.name))?;
                self.begin(shared, share, forbid_overwrite);
            }
            Some(Content::Ordered(writer)) => {
                // What is being published becomes an object before it is thrown away.
                while let Err(error) = writer.truncate_to_zero() {
                    if !writer.is_publishing() {
                        return Err(error);
                    }
                    self.publication_ends().await;
                }
                let mut state = self.state.lock();
                state.published = false;
                state.opener_flushed = false;
            }
            Some(Content::Edit(edit)) => {
                edit.truncate_to_zero().await?;
                let mut state = self.state.lock();
                state.opener_flushed = false;
                // Of what is empty now, this descriptor is an owner as much as any other.
                state.is_guest = false;
            }
        }
        Ok(())
    }

    pub(super) fn content(&self) -> Option<Content> {
        self.state.lock().content.clone()
    }

    pub(super) fn is_armed(&self) -> bool {
        self.state.lock().armed
    }

    /// Its content is nobody else's: a transfer is whole or nothing, whoever changes the file meanwhile.
    pub(super) fn is_alone(&self) -> bool {
        self.how.alone || self.is_armed()
    }

    /// # Errors
    /// `Invalid` where it was given up, `ReplacedMeanwhile` where the name leads elsewhere and nothing was begun before.
    pub(super) fn may_go_on(&self) -> VfsResult<()> {
        let state = self.state.lock();
        match state.discarded {
            Some(why) => Err(VfsError::Invalid { why }),
            None if state.orphaned && state.content.is_none() => Err(self.replaced()),
            None => Ok(()),
        }
    }

    /// Whether what others write to the name is not this file's any more.
    pub(super) fn is_orphaned(&self) -> bool {
        self.state.lock().orphaned
    }

    pub(super) fn exists(&self) -> VfsError {
        VfsError::Exists { name: self.name.clone() }
    }

    fn replaced(&self) -> VfsError {
        VfsError::ReplacedMeanwhile { name: self.name.clone() }
    }

    /// Holds `edit` from now on. Where another one was faster, that one.
    pub(super) fn hold(&self, edit: Arc<Edit>) -> Arc<Edit> {
        self.state.lock().hold(edit)
    }

    /// An edit of what was written in order so far, at once for all who look. `None` once a part has left, and while it is
    /// being published.
    ///
    /// # Errors
    /// `QuotaReached`.
    pub(super) fn become_edit(
        &self,
        shared: &Shared,
        _deciding: &Deciding<'_>,
    ) -> VfsResult<Option<Arc<Edit>>> {
        let is_published = self.state.lock().writer().is_some_and(|writer| writer.published().is_some());
        let other = shared.writing.edit_of(self.inode).filter(|_| is_published && !self.is_alone());
        let mut state = self.state.lock();
        let writer = match &state.content {
            None => return Ok(None),
            Some(Content::Edit(edit)) => return Ok(Some(edit.clone())),
            Some(Content::Ordered(_)) if state.publishing => return Ok(None),
            Some(Content::Ordered(writer)) => writer,
        };
        let (beginning, share) = match writer.published() {
            Some(published) => {
                if let Some(other) = other {
                    state.is_guest = true;
                    return Ok(Some(state.hold(other)));
                }
                // What has been published through other descriptors since is this file as well.
                let facts = shared.known(self.inode).map(|known| known.facts);
                let later = facts.ok().and_then(|facts| Some((facts.bytes, facts.etag?.unpack())));
                let (bytes, etag) = later.unwrap_or((published.bytes, published.etag));
                let share = shared.share(&self.key, Some(bytes))?;
                (Beginning::Object { bytes, version: Some(etag) }, share)
            }
            None => match writer.take_unsent() {
                Some((blocks, share)) => {
                    (Beginning::Blocks { blocks, appended: self.is_behind(writer) }, share)
                }
                None => return Ok(None),
            },
        };
        let edit = Edit::begin(shared, self.key.clone(), &self.name, beginning, share);
        if edit.is_dirty() {
            state.wrote = Some(edit.publications());
        }
        Ok(Some(state.hold(edit)))
    }

    /// Shares the edit of another descriptor.
    pub(super) fn share_edit(&self, edit: Arc<Edit>) {
        let mut state = self.state.lock();
        if state.content.is_none() {
            state.put(Content::Edit(edit));
            state.is_guest = true;
        }
    }

    /// The old object, for who reads before anything has begun.
    pub(super) fn reader(&self, new: impl FnOnce() -> Arc<Reader>) -> Arc<Reader> {
        self.state.lock().reader.get_or_insert_with(new).clone()
    }

    pub(super) fn reads_by(&self, reader: &Arc<Reader>) -> bool {
        self.state.lock().reader.as_ref().is_some_and(|own| Arc::ptr_eq(own, reader))
    }

    /// Another descriptor has published the file: what is read next is that, unless something is changed here.
    pub(super) fn move_on(&self, published: &Published) {
        self.state.lock().reader = None;
        if let Some(Content::Edit(edit)) = self.content().filter(|_| !self.is_alone()) {
            edit.move_on(&published.etag, published.bytes);
        }
    }

    /// Takes a write to a file that was unlinked: it goes nowhere, unless who writes can read it. The front is
    /// told instead.
    pub(super) fn swallows(&self, place: Place, bytes: usize) -> bool {
        let mut state = self.state.lock();
        let is_lost = !state.armed && !self.how.read && !matches!(state.content, Some(Content::Edit(_)));
        let Some(end) = state.unlinked.as_mut().filter(|_| is_lost) else { return false };
        *end = (*end).max(if place.append { *end } else { place.offset } + bytes as u64);
        true
    }

    /// `bytes` were written through this descriptor; 0: the file was changed in another way.
    pub(super) fn note_written(&self, bytes: usize) {
        let mut state = self.state.lock();
        state.opener_flushed = false;
        state.written_bytes += bytes as u64;
        state.wrote = state.content.as_ref().and_then(Content::edit).map(|edit| edit.publications());
    }

    /// Whether a write would be taken now, or fail now; else `wake` is called when it may.
    pub(super) fn poll_writable(&self, wake: Box<dyn FnOnce() + Send>) -> VfsResult<bool> {
        Ok(self.content().is_none_or(|content| !content.wake_on_room(wake)))
    }

    pub(super) fn arm(&self) -> VfsResult<()> {
        if !self.how.write {
            return Err(VfsError::BadHandle);
        }
        let mut state = self.state.lock();
        state.armed = true;
        match &state.content {
            Some(Content::Edit(edit)) => edit.in_order(),
            Some(Content::Ordered(writer)) if state.is_new => writer.may_go_on(),
            Some(Content::Ordered(_)) | None => {}
        }
        Ok(())
    }

    /// `facts` are those of the name that is opened.
    pub(super) fn note_stood(&self, facts: Option<Facts>) {
        self.state.lock().stood = facts.filter(|facts| facts.etag.is_some());
    }

    /// The object that a change rests on: where a writer has taken the inode from its name, what the name leads to, or
    /// stood there at open where the table has forgotten that.
    pub(super) fn stands_for(&self, shared: &Shared) -> VfsResult<Facts> {
        let known = shared.known(self.inode)?;
        if known.link != Link::Detached {
            return Ok(known.facts);
        }
        let is_object = |facts: &Facts| facts.etag.is_some();
        let named = shared.inodes.lock().named(known.parent, &known.name).map(|(_, named)| named.facts);
        if let Some(facts) = named.filter(is_object) {
            return Ok(facts);
        }
        let stood = self.state.lock().stood.clone().filter(|_| !is_object(&known.facts));
        Ok(stood.unwrap_or(known.facts))
    }

    /// `successor` has the name instead of this file's inode, and is pinned as long as the file is open.
    pub(super) fn note_successor(&self, successor: InodeNo) {
        self.state.lock().successor = Some(successor);
    }

    /// The inodes that are pinned for this file, once it is closed.
    pub(super) fn pinned(&self) -> impl Iterator<Item = InodeNo> {
        [Some(self.inode), self.state.lock().successor.take()].into_iter().flatten()
    }

    /// Nothing stands under the name.
    pub(super) fn note_new(&self) {
        self.state.lock().is_new = true;
    }

    /// Goes on with the first `bytes` of a broken upload of this name. Armed, and nothing written yet.
    ///
    /// # Errors
    /// As [`super::uploads::Uploads::claim`]; `Invalid` where something has been written or stands there.
    pub(super) async fn go_on(&self, shared: &Arc<Shared>, bytes: u64) -> VfsResult<()> {
        let writer = {
            let mut state = self.state.lock();
            let is_fresh = state.is_new && !state.published;
            // What has appeared meanwhile must not be replaced by what was begun before it.
            state.forbid_overwrite |= is_fresh;
            state.writer().filter(|writer| is_fresh && writer.bytes() == 0).cloned()
        };
        let writer = writer.ok_or(VfsError::Invalid { why: "only a new file can go on with an upload" })?;
        let held = shared.uploads.claim(&self.key, bytes).await?;
        let upload = held.upload.clone();
        if writer.resume(held) {
            return Ok(());
        }
        writer.abort_kept(upload);
        Err(VfsError::Invalid { why: "something has been written already" })
    }

    /// A transfer that broke: what has come of a new file is kept, anything else is given up.
    pub(super) async fn break_off(&self, shared: &Arc<Shared>, why: &'static str) {
        let writer = {
            let state = self.state.lock();
            let is_for_that = state.armed && state.is_new && !state.published && shared.uploads.keeps();
            state.writer().filter(|_| is_for_that).cloned()
        };
        let kept = match &writer {
            Some(writer) => writer.keep().await,
            None => None,
        };
        let (Some(writer), Some(held)) = (writer, kept) else {
            if self.standing().dirty {
                // What was held before was the beginning of another file.
                shared.uploads.replaced(&self.key);
                let in_order = self.content().is_some_and(|content| content.edit().is_none());
                // What an append leaves is not older than what was sent.
                if in_order && self.is_armed() && !self.how.append && !self.state.lock().is_new {
                    let stands = self.stands_for(shared).ok().and_then(|facts| facts.etag);
                    shared.uploads.note_outdated(&self.key, stands);
                }
            }
            return self.discard(shared, why).await;
        };
        self.state.lock().discarded = Some(why);
        match shared.uploads.keep(&self.key, held).await {
            Ok(bytes) => {
                let is_unlinked = {
                    let mut state = self.state.lock();
                    state.held = true;
                    state.unlinked.is_some()
                };
                info!(key = %self.key, why, bytes, "broken, and kept to be gone on with");
                // Deleted while it was being kept.
                if is_unlinked && let Err(error) = shared.uploads.drop_held(&self.key).await {
                    warn!(key = %self.key, %error, "deleted, but what is held of it stays for now");
                }
            }
            Err(upload) => {
                info!(key = %self.key, why, "discarded");
                writer.abort_kept(upload);
                // Nothing is sent any more; this waits for the abort.
                writer.discard(why).await;
            }
        }
        shared.hide_unpublished(self);
    }

    pub(super) async fn prepare(&self) -> VfsResult<()> {
        match self.content() {
            _ if !self.is_armed() => Err(VfsError::Invalid { why: "prepare is for armed descriptors" }),
            // Where it will stand is for commit to see.
            Some(Content::Ordered(writer)) if self.how.append && !writer.has_sent() => Ok(()),
            Some(content) => content.prepare(&self.new_object(&content)?.0).await,
            None => Ok(()),
        }
    }

    pub(super) async fn commit(&self, shared: &Arc<Shared>, bytes: u64) -> VfsResult<()> {
        let accepted = match self.content() {
            Some(Content::Ordered(writer)) => writer.bytes(),
            // The front knows what it has sent, and not what stood there before.
            Some(Content::Edit(_)) => self.state.lock().written_bytes,
            None => 0,
        };
        if self.state.lock().has_lost_its_name() && self.is_armed() {
            return Err(self.replaced());
        }
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
            Verdict::Break(why) => {
                self.break_off(shared, why).await;
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
        let _turn = self.turn.lock().await;
        self.follow_what_came(shared).await?;
        let _publishing = Publishing::begin(self);
        self.make(shared).await
    }

    /// The same of a file that is begun, empty, and that nobody has to commit: it may be published at any time. Any other one
    /// is left alone.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub(super) async fn publish_if_empty(&self, shared: &Arc<Shared>) -> VfsResult<()> {
        if !self.is_idle_and_empty() {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        let _publishing = Publishing::begin(self);
        // From here on who writes waits; before, somebody may have.
        if self.is_idle_and_empty() && self.is_unpublished() { self.make(shared).await } else { Ok(()) }
    }

    async fn make(&self, shared: &Arc<Shared>) -> VfsResult<()> {
        let (published, kept, asked) = loop {
            let Some(content) = self.content() else { return Ok(()) };
            let asked = Instant::now();
            let (new, kept) = self.new_object(&content)?;
            match content.publish(new).await {
                Err(_) if self.has_moved_from(&content) => {}
                Err(error @ VfsError::ReplacedMeanwhile { .. }) => match content.edit() {
                    Some(edit) if edit.failure().is_none() && edit.follow().await? => {}
                    Some(_) | None => return Err(error),
                },
                published => break (published?, kept, asked),
            }
        };
        {
            let mut state = self.state.lock();
            if state.has_lost_its_name() {
                // Who took the name away has seen to the object; it must not be shown again.
                return Err(self.replaced());
            }
            state.published = true;
            state.wrote = None;
            // What stands there now is this file's own.
            state.forbid_overwrite = false;
        }
        info!(key = %self.key, bytes = published.bytes, "published");
        shared.uploads.note_current(&self.key);
        let Some(facts) = shared.show_published(self, &published, &kept, asked).await else { return Ok(()) };
        if self.is_alone() && self.content().is_some_and(|content| content.edit().is_some()) {
            // Its size was not to be seen until now, and whoever asks behind the commit is to see it.
            shared.tell_all_and_wait(vec![Notice::Inode { inode: self.inode }]).await;
        }
        if !published.as_asked && shared.posix_metadata && !kept.is_empty() {
            // The upload had begun before they were set.
            shared.gather(self.key.clone(), self.parent, &self.name, facts, kept);
        }
        Ok(())
    }

    /// Whether what `writer` holds is to stand behind whatever stands there.
    fn is_behind(&self, writer: &WriteHandle) -> bool {
        !self.how.truncate && (self.how.append || writer.bytes() == 0)
    }

    /// Who appends began with nothing, and by now an object stands there: it goes behind that.
    async fn follow_what_came(&self, shared: &Shared) -> VfsResult<()> {
        let has_published = self.state.lock().published;
        let follows = match self.content() {
            Some(Content::Ordered(writer)) => !has_published && self.is_behind(&writer),
            Some(Content::Edit(edit)) => edit.is_behind_nothing(),
            None => false,
        };
        if !follows || self.state.lock().has_lost_its_name() || self.stands_for(shared)?.etag.is_none() {
            return Ok(());
        }
        let edit = self.become_edit(shared, &shared.writing.decide())?.ok_or_else(|| self.replaced())?;
        self.state.lock().forbid_overwrite = self.policy.forbids_overwrite();
        if edit.follow().await? { Ok(()) } else { Err(self.replaced()) }
    }

    /// Whether a publication is under way.
    pub(super) fn is_publishing(&self) -> bool {
        self.state.lock().publishing
    }

    /// Waits for a publication that is under way.
    pub(super) async fn publication_ends(&self) {
        drop(self.turn.lock().await);
    }

    fn new_object(&self, content: &Content) -> VfsResult<(NewObject, Posix)> {
        let inherited = content.inherited();
        let state = self.state.lock();
        let kept = state.kept.over(&inherited.metadata);
        let mut new = NewObject { forbid_overwrite: state.forbid_overwrite, ..inherited };
        kept.write(FileKind::File, &mut new.metadata)?;
        Ok((new, kept))
    }

    /// Gives up; nothing becomes visible.
    pub(super) async fn discard(&self, shared: &Arc<Shared>, why: &'static str) {
        let was_published = self.standing().published;
        self.state.lock().discarded = Some(why);
        let shared_with_others = match self.content() {
            None => false,
            Some(Content::Ordered(writer)) => {
                info!(key = %self.key, why, "discarded");
                writer.discard(why).await;
                false
            }
            Some(Content::Edit(edit)) => {
                let is_of = |other: &Arc<Self>| {
                    other
                        .content()
                        .as_ref()
                        .and_then(Content::edit)
                        .is_some_and(|held| Arc::ptr_eq(held, &edit))
                };
                let others = shared.writing.others_of(self).iter().any(is_of);
                if !others {
                    info!(key = %self.key, why, "discarded");
                    edit.discard();
                }
                others
            }
        };
        if !was_published && !shared_with_others {
            shared.hide_unpublished(self);
        }
    }

    /// Something else was renamed onto the name, or the name away: nothing that is written from now on may
    /// become visible, and who writes is told.
    pub(super) fn orphan(&self) {
        let content = {
            let mut state = self.state.lock();
            state.orphaned = true;
            state.content.clone()
        };
        if let Some(content) = content {
            content.orphan();
        }
    }

    /// The name was unlinked: nothing of this file may become visible any more. Whether something of it is held,
    /// and must be dropped.
    pub(super) fn unlink(&self) -> bool {
        let (content, is_held) = {
            let mut state = self.state.lock();
            let bytes = state.content.as_ref().map_or(0, Content::bytes);
            state.unlinked.get_or_insert(bytes);
            (state.content.clone(), state.held)
        };
        if let Some(content) = content {
            content.unlink();
        }
        is_held
    }

    pub(super) fn standing(&self) -> Standing {
        let state = self.state.lock();
        let content = state.content.as_ref();
        // Another descriptor's writes are its own to publish: a transaction of a database, perhaps, half done.
        let wrote = match content.and_then(Content::edit) {
            Some(edit) => state.wrote.is_some_and(|behind| behind == edit.publications()),
            None => true,
        };
        Standing {
            armed: state.armed,
            begun: content.is_some() && (!state.is_guest || wrote),
            dirty: content.is_some_and(Content::is_dirty) && wrote,
            published: match content.and_then(Content::edit) {
                Some(edit) => edit.is_published(),
                None => state.published,
            },
            failed: content.is_some_and(|content| content.failure().is_some()),
            discarded: state.discarded.is_some(),
            unlinked: state.unlinked.is_some(),
            opener_flushed: state.opener_flushed,
        }
    }

    fn failure(&self) -> VfsError {
        let state = self.state.lock();
        let failed = state.content.as_ref().and_then(Content::failure);
        failed.unwrap_or(VfsError::Invalid { why: state.discarded.unwrap_or("the file was given up") })
    }

    /// An object of it may stand under its key, or be on its way there.
    pub(super) fn may_be_object(&self) -> bool {
        self.content().is_some_and(|content| match content {
            Content::Ordered(writer) => writer.is_publishing() || writer.published().is_some(),
            Content::Edit(edit) => edit.is_published() || edit.is_busy(),
        })
    }

    /// Something will be published that is not yet.
    pub(super) fn is_unpublished(&self) -> bool {
        let standing = self.standing();
        let lives = standing.begun && !standing.discarded && !standing.unlinked;
        lives && (standing.dirty || !standing.published)
    }

    fn is_idle_and_empty(&self) -> bool {
        let standing = self.standing();
        let bytes = self.content().map(|content| content.bytes());
        // What the front opens it arms a moment later.
        !self.is_alone() && !standing.dirty && !standing.failed && !standing.discarded && bytes == Some(0)
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
        self.state.lock().content.is_some()
    }

    /// The size that stat shows: what was accepted so far.
    pub(super) fn shown_bytes(&self) -> Option<u64> {
        let state = self.state.lock();
        if state.discarded.is_some() {
            return None;
        }
        match &state.content {
            Some(Content::Edit(edit)) => Some(edit.bytes()),
            Some(Content::Ordered(writer)) => state.unlinked.or_else(|| Some(writer.bytes())),
            None => state.unlinked,
        }
    }

    /// What the object will be given, for stat; `None` before anything has begun.
    pub(super) fn pending_attributes(&self) -> Option<Posix> {
        let state = self.state.lock();
        let content = state.content.as_ref().filter(|content| is_pending(content, &state))?;
        Some(state.kept.over(&content.inherited().metadata))
    }

    /// Times, mode and owner for the object to be made. False where it is made already, or not begun.
    pub(super) fn set_kept(&self, change: impl FnOnce(&mut Posix)) -> bool {
        let mut state = self.state.lock();
        let pending = state.content.as_ref().filter(|content| is_pending(content, &state)).cloned();
        let Some(content) = pending.filter(|_| state.discarded.is_none()) else { return false };
        if content.edit().is_some() {
            let mut kept = state.kept.over(&content.inherited().metadata);
            change(&mut kept);
            state.kept = kept;
            return true;
        }
        change(&mut state.kept);
        if let Content::Ordered(writer) = &content {
            let mut new = NewObject { forbid_overwrite: state.forbid_overwrite, ..NewObject::default() };
            // What does not fit is refused at publish.
            if state.kept.write(FileKind::File, &mut new.metadata).is_ok() {
                writer.set_new_object(new);
            }
        }
        true
    }

    pub(super) fn change_kept(&self, change: &AttributeChange) -> bool {
        self.set_kept(|kept| kept.apply(change))
    }
}

/// A publication of a file, from before its request until its object is shown.
struct Publishing<'a>(&'a OpenFile);

impl<'a> Publishing<'a> {
    fn begin(file: &'a OpenFile) -> Self {
        file.state.lock().publishing = true;
        Self(file)
    }
}

impl Drop for Publishing<'_> {
    fn drop(&mut self) {
        self.0.state.lock().publishing = false;
    }
}

/// Whether an object is yet to be made.
fn is_pending(content: &Content, state: &State) -> bool {
    match content {
        Content::Ordered(_) => !state.published,
        Content::Edit(edit) => edit.is_dirty() || !edit.is_published(),
    }
}
