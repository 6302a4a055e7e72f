//! What is written through a descriptor, and how: in order ([`WriteHandle`]) or anywhere ([`Edit`]).
//!
//! ```text
//! created or truncated, write only ──> Ordered ──out of order, before a part has left──┐
//!                                         └──written on after a publication────────────┤
//! content to keep (no O_TRUNC), or O_RDWR ─────────────────────────────────────────────> Edit
//! ```
//!
//! In order is the fast way: parts leave while the next one fills, and what has left cannot be changed any more. Where
//! that will not do the file becomes an edit, which all descriptors on the inode share. A gap that is skipped in
//! order is written as zeros.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

use super::{
    Allocation, Published, Tried, VfsError, VfsResult, WriteOutcome,
    edit::{Beginning, Edit},
    kept::Pinned,
    policy,
    read::Reader,
    register::Deciding,
    shared::Shared,
    write::WriteHandle,
    writing::OpenFile,
};
use crate::cos::{Key, NewObject};

/// What a file that is open for writing holds.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Ordered(Arc<WriteHandle>),
    Edit(Arc<Edit>),
}

/// What a write of bytes asks for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) append: bool,
    pub(super) offset: u64,
}

/// What holds the content of a file, its own or another descriptor's on the inode.
enum Found {
    Ordered(Arc<WriteHandle>),
    Edit(Arc<Edit>),
    /// This one publishes what it wrote just now; then its object is there to go on from.
    After(Arc<OpenFile>),
    Nothing,
}

/// How a write is to be taken.
enum Taking {
    Ordered(Arc<WriteHandle>, u64),
    /// Zeros come first, up to there.
    Gap(Arc<WriteHandle>, u64),
    Edit(Arc<Edit>),
    /// Once another descriptor on the inode has published what it wrote.
    After(Arc<OpenFile>),
    /// Once what was written so far is published: by an fsync, or because somebody wants to read an empty file.
    AfterOwn,
    /// It goes nowhere: the name is gone, and nobody can read it.
    Swallowed,
}

impl Content {
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Ordered(writer) => writer.bytes(),
            Self::Edit(edit) => edit.bytes(),
        }
    }

    pub(super) fn is_dirty(&self) -> bool {
        match self {
            Self::Ordered(writer) => writer.is_dirty(),
            Self::Edit(edit) => edit.is_dirty(),
        }
    }

    pub(super) fn failure(&self) -> Option<VfsError> {
        match self {
            Self::Ordered(writer) => writer.failure(),
            Self::Edit(edit) => edit.failure(),
        }
    }

    /// What the object had before beside its bytes, and keeps.
    pub(super) fn inherited(&self) -> NewObject {
        match self {
            Self::Ordered(_) => NewObject::default(),
            Self::Edit(edit) => edit.inherited(),
        }
    }

    pub(super) async fn prepare(&self, new: &NewObject) -> VfsResult<()> {
        match self {
            Self::Ordered(writer) => writer.prepare(new).await,
            // Its version has to be looked at right before it is replaced, so all of it is for commit.
            Self::Edit(_) => Ok(()),
        }
    }

    pub(super) async fn publish(&self, new: NewObject) -> VfsResult<Published> {
        match self {
            Self::Ordered(writer) => writer.publish(new).await,
            Self::Edit(edit) => edit.publish(new).await,
        }
    }

    pub(super) fn orphan(&self) {
        match self {
            Self::Ordered(writer) => writer.orphan(),
            Self::Edit(edit) => edit.orphan(),
        }
    }

    pub(super) fn unlink(&self) {
        match self {
            Self::Ordered(writer) => writer.orphan(),
            Self::Edit(edit) => edit.unlink(),
        }
    }

    pub(super) fn wake_on_room(&self, wake: Box<dyn FnOnce() + Send>) -> bool {
        match self {
            Self::Ordered(writer) => writer.wake_on_room(wake),
            Self::Edit(edit) => edit.wake_on_room(wake),
        }
    }

    pub(super) fn edit(&self) -> Option<&Arc<Edit>> {
        match self {
            Self::Ordered(_) => None,
            Self::Edit(edit) => Some(edit),
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ordered(one), Self::Ordered(other)) => Arc::ptr_eq(one, other),
            (Self::Edit(one), Self::Edit(other)) => Arc::ptr_eq(one, other),
            (Self::Ordered(_) | Self::Edit(_), _) => false,
        }
    }
}

impl OpenFile {
    pub(super) fn try_write(
        &self,
        shared: &Shared,
        offset: u64,
        data: &[u8],
        append: bool,
    ) -> VfsResult<WriteOutcome> {
        let place = Place { append, offset };
        let tried = match self.taking(shared, place, data.len())? {
            Taking::Ordered(writer, offset) => match writer.try_write(offset, data) {
                Err(_) if self.must_decide_anew(&writer) => Tried::Full,
                tried => tried?,
            },
            Taking::Edit(edit) => edit.try_write(append, offset, data)?,
            Taking::Gap(..) | Taking::After(_) | Taking::AfterOwn => Tried::Full,
            Taking::Swallowed => return Ok(WriteOutcome::Written),
        };
        Ok(match tried {
            Tried::Taken => {
                self.note_written(data.len());
                WriteOutcome::Written
            }
            Tried::Full => WriteOutcome::MustWait,
        })
    }

    pub(super) async fn write(
        &self,
        shared: &Shared,
        offset: u64,
        data: Bytes,
        append: bool,
        nonblocking: bool,
    ) -> VfsResult<()> {
        if self.is_armed() && nonblocking {
            return match self.try_write(shared, offset, &data, append)? {
                WriteOutcome::Written => Ok(()),
                WriteOutcome::MustWait => Err(VfsError::WouldBlock),
            };
        }
        let bytes = data.len();
        if bytes == 0 {
            return self.may_go_on();
        }
        loop {
            let (writer, first) = match self.taking(shared, Place { append, offset }, bytes)? {
                Taking::Edit(edit) => {
                    edit.write(append, offset, data).await?;
                    break;
                }
                Taking::After(other) => {
                    other.publication_ends().await;
                    continue;
                }
                Taking::AfterOwn => {
                    self.publication_ends().await;
                    continue;
                }
                Taking::Swallowed => return Ok(()),
                Taking::Ordered(writer, first) => (writer, first),
                Taking::Gap(writer, first) => match write_zeros(&writer, first).await {
                    Err(_) if self.must_decide_anew(&writer) => continue,
                    done => done.map(|()| (writer, first))?,
                },
            };
            match writer.write(first, data.clone()).await {
                Err(_) if self.must_decide_anew(&writer) => {}
                done => {
                    done?;
                    break;
                }
            }
        }
        self.note_written(bytes);
        Ok(())
    }

    /// Whether another descriptor has made an edit of `content` meanwhile.
    pub(super) fn has_moved_from(&self, content: &Content) -> bool {
        self.content().is_some_and(|now| !now.is(content))
    }

    /// Whether a write that was refused is to be taken in another way: the content is an edit by now, or it was published
    /// under the hand of who writes.
    fn must_decide_anew(&self, writer: &Arc<WriteHandle>) -> bool {
        self.has_moved_from(&Content::Ordered(writer.clone()))
            || (!self.is_armed() && self.is_published_by(writer))
    }

    /// Whether what `writer` holds is an object by now, or is just being made one.
    fn is_published_by(&self, writer: &WriteHandle) -> bool {
        self.is_publishing() || writer.published().is_some()
    }

    /// How a write there is to be taken; the first one into a file decides what holds it.
    fn taking(&self, shared: &Shared, place: Place, bytes: usize) -> VfsResult<Taking> {
        if !self.how.write {
            return Err(VfsError::BadHandle);
        }
        self.may_go_on()?;
        if self.swallows(place, bytes) {
            return Ok(Taking::Swallowed);
        }
        let writer = match self.find_or_begin(shared, place)? {
            Found::Edit(edit) => return Ok(Taking::Edit(edit)),
            Found::After(other) => return Ok(Taking::After(other)),
            Found::Ordered(writer) => writer,
            Found::Nothing => return Err(VfsError::BadHandle),
        };
        if self.is_publishing() && !self.is_armed() {
            return Ok(Taking::AfterOwn);
        }
        let end = writer.bytes();
        let offset = if place.append { end } else { place.offset };
        let is_empty = || writer.published().is_none_or(|published| published.bytes == 0);
        let is_next = offset == end && is_empty() && !self.is_orphaned();
        if is_next || self.is_armed() || bytes == 0 {
            return Ok(Taking::Ordered(writer, offset));
        }
        if let Some(edit) = self.to_edit(shared)? {
            return Ok(Taking::Edit(edit));
        }
        if offset > end { Ok(Taking::Gap(writer, offset)) } else { Ok(Taking::Ordered(writer, offset)) }
    }

    fn find_or_begin(&self, shared: &Shared, place: Place) -> VfsResult<Found> {
        let deciding = shared.writing.decide();
        match self.find(shared, &deciding) {
            Found::Nothing => self.begin_to_write(shared, place).map(|content| match content {
                Content::Ordered(writer) => Found::Ordered(writer),
                Content::Edit(edit) => Found::Edit(edit),
            }),
            found => Ok(found),
        }
    }

    /// What holds the first write into a file that was opened with what it has.
    fn begin_to_write(&self, shared: &Shared, place: Place) -> VfsResult<Content> {
        let facts = self.stands_for(shared)?;
        let target = if facts.etag.is_some() { policy::Standing::Published } else { policy::Standing::Free };
        self.policy.may_overwrite(&self.name, target)?;
        let stands = facts.etag.is_some().then_some(facts.bytes);
        let keeps = facts.etag.is_some() && (facts.bytes > 0 || self.how.append);
        let share = shared.share(&self.key, stands)?;
        let in_order = !self.how.read && (place.offset == 0 || place.append);
        if !keeps && in_order && (self.is_armed() || !self.how.append) {
            self.begin(shared, share, false);
            return self.content().ok_or(VfsError::BadHandle);
        }
        let beginning = match keeps {
            true => Beginning::Object { bytes: facts.bytes, version: None },
            false => Beginning::Blocks { blocks: Vec::new(), appended: true },
        };
        let edit = Edit::begin(shared, self.key.clone(), &self.name, beginning, share);
        Ok(Content::Edit(self.hold(edit)))
    }

    /// The edit of this file for a change of its content, begun where there is none.
    ///
    /// # Errors
    /// `NotSupported` once a part has left.
    pub(super) async fn edit_of(&self, shared: &Shared) -> VfsResult<Arc<Edit>> {
        let elsewhere = Place { append: false, offset: u64::MAX };
        loop {
            match self.find_or_begin(shared, elsewhere)? {
                Found::Edit(edit) => return Ok(edit),
                Found::After(other) => other.publication_ends().await,
                Found::Ordered(writer) => match self.to_edit(shared)? {
                    Some(edit) => return Ok(edit),
                    None if !self.is_armed() && self.is_published_by(&writer) => {
                        self.publication_ends().await
                    }
                    None => {
                        let what = "changing the beginning of a large file that is being written";
                        return Err(VfsError::NotSupported { what });
                    }
                },
                Found::Nothing => return Err(VfsError::BadHandle),
            }
        }
    }

    /// Shares the edit that lives on this inode, if there is one, and neither of the two stands alone.
    pub(super) fn join_edit(&self, shared: &Shared) -> Option<Arc<Edit>> {
        if self.is_alone() {
            return None;
        }
        let others = shared.writing.others_of(self);
        let edit = others
            .iter()
            .filter(|other| !other.is_alone())
            .find_map(|other| other.content()?.edit().filter(|edit| edit.failure().is_none()).cloned())?;
        self.share_edit(edit.clone());
        Some(edit)
    }

    /// What holds the content by now. Without any of its own, the edit of another descriptor on the inode, if there
    /// is one, or can be.
    fn find(&self, shared: &Shared, deciding: &Deciding<'_>) -> Found {
        match self.content() {
            Some(Content::Ordered(writer)) => return Found::Ordered(writer),
            Some(Content::Edit(edit)) => return Found::Edit(edit),
            None => {}
        }
        if self.is_alone() {
            return Found::Nothing;
        }
        if let Some(edit) = self.join_edit(shared) {
            return Found::Edit(edit);
        }
        for other in shared.writing.others_of(self) {
            let Some(Content::Ordered(writer)) = other.content() else { continue };
            if other.is_alone() || other.is_armed() || other.standing().discarded {
                continue;
            }
            match other.become_edit(shared, deciding) {
                Ok(Some(edit)) => {
                    self.share_edit(edit.clone());
                    return Found::Edit(edit);
                }
                Ok(None) if other.is_published_by(&writer) => return Found::After(other),
                // A part has left; what it fails by is for its own writer.
                Ok(None) | Err(_) => {}
            }
        }
        Found::Nothing
    }

    /// The edit of another descriptor on the inode, behind a publication that is under way.
    async fn edit_there(&self, shared: &Shared) -> Option<Arc<Edit>> {
        loop {
            let found = self.find(shared, &shared.writing.decide());
            match found {
                Found::Edit(edit) => return Some(edit),
                Found::After(other) => other.publication_ends().await,
                Found::Ordered(_) | Found::Nothing => return None,
            }
        }
    }

    /// Begins a new file with `begin`, unless there is content by now: another descriptor's on the inode, or an
    /// object that was put there since `asked`.
    pub(super) async fn begin_unless_there(
        &self,
        shared: &Shared,
        asked: Instant,
        begin: impl FnOnce(),
    ) -> bool {
        loop {
            let other = {
                let deciding = shared.writing.decide();
                match self.find(shared, &deciding) {
                    Found::Ordered(_) | Found::Edit(_) => return false,
                    Found::After(other) => other,
                    // Who has closed it meanwhile has shown its object before.
                    Found::Nothing if shared.is_object(self.inode, &self.key, asked) => return false,
                    Found::Nothing => {
                        begin();
                        return true;
                    }
                }
            };
            other.publication_ends().await;
        }
    }

    /// An edit of what is held here. `None` once a part has left.
    fn to_edit(&self, shared: &Shared) -> VfsResult<Option<Arc<Edit>>> {
        let deciding = shared.writing.decide();
        self.become_edit(shared, &deciding)
    }

    /// What a descriptor shows that can read and write: what was written, else the object.
    pub(super) async fn read(&self, shared: &Shared, offset: u64, bytes: u64) -> VfsResult<Bytes> {
        if !self.how.read {
            return Err(VfsError::BadHandle);
        }
        self.policy.may_read()?;
        loop {
            let edit = match self.content() {
                Some(Content::Edit(edit)) => Some(edit),
                Some(Content::Ordered(writer)) if writer.bytes() == 0 => return Ok(Bytes::new()),
                Some(Content::Ordered(_)) => match self.to_edit(shared)? {
                    Some(edit) => Some(edit),
                    None => return Err(VfsError::Busy { name: self.name.clone() }),
                },
                None => self.edit_there(shared).await,
            };
            if let Some(edit) = edit {
                return edit.read(shared, self.inode, offset, bytes).await;
            }
            if self.stands_for(shared)?.etag.is_none() {
                return Ok(Bytes::new());
            }
            let new = || Reader::new(shared, self.inode, self.key.clone(), &self.name, None, true);
            let reader = self.reader(new);
            let read = reader.read(offset, bytes).await;
            if read.is_ok() {
                return read;
            }
            // Another descriptor has published meanwhile, or is about to hear that it has: that is this file as well.
            self.publication_ends().await;
            if self.reads_by(&reader) {
                return read;
            }
        }
    }

    /// Gives the file another size, above or below.
    pub(super) async fn resize(&self, shared: &Shared, bytes: u64) -> VfsResult<()> {
        if !self.how.write && !self.how.truncate {
            return Err(VfsError::BadHandle);
        }
        self.may_go_on()?;
        if let Some(Content::Ordered(writer)) = self.content()
            && bytes >= writer.bytes()
            && writer.published().is_none()
            && !self.is_publishing()
            && !self.is_armed()
            && writer.has_sent()
        {
            write_zeros(&writer, bytes).await?;
        } else {
            let edit = self.edit_of(shared).await?;
            // A transfer keeps a beginning that it was told of: it makes none of zeros where there is none any more.
            if self.is_armed() && bytes > edit.bytes_now().await? {
                return Err(VfsError::ReplacedMeanwhile { name: self.name.clone() });
            }
            edit.resize(bytes).await?;
        }
        self.note_written(0);
        Ok(())
    }

    /// Makes this file, which holds nothing yet, a copy of a version of the object under `key`.
    ///
    /// # Errors
    /// `NotSupported` where it holds something, or belongs to the front.
    pub(super) async fn copy(&self, shared: &Shared, key: Key, version: Pinned) -> VfsResult<()> {
        if !self.how.write {
            return Err(VfsError::BadHandle);
        }
        self.may_go_on()?;
        let is_empty = self.content().is_none_or(|content| content.bytes() == 0);
        if !is_empty || self.is_armed() || self.standing().unlinked {
            return Err(VfsError::NotSupported { what: "copying into a file that holds something" });
        }
        let bytes = usize::try_from(version.bytes).unwrap_or(usize::MAX);
        self.edit_of(shared).await?.copy(key, version).await?;
        self.note_written(bytes);
        Ok(())
    }

    /// fallocate(2). Nothing can be reserved at COS, and there is always room.
    pub(super) async fn allocate(
        &self,
        shared: &Shared,
        what: Allocation,
        offset: u64,
        bytes: u64,
    ) -> VfsResult<()> {
        if !self.how.write {
            return Err(VfsError::BadHandle);
        }
        self.may_go_on()?;
        let end = offset.saturating_add(bytes);
        if what == Allocation::Reserve {
            return Ok(());
        }
        let size = match self.content() {
            Some(Content::Ordered(writer)) => writer.bytes(),
            Some(Content::Edit(_)) | None => self.edit_of(shared).await?.bytes_now().await?,
        };
        if matches!(what, Allocation::Extend | Allocation::Zero) && end > size {
            self.resize(shared, end).await?;
        }
        match what {
            Allocation::Zero => self.zero(shared, offset, end).await,
            Allocation::Punch => self.zero(shared, offset, end.min(size)).await,
            Allocation::Extend | Allocation::Reserve => Ok(()),
        }
    }

    /// Writes zeros over `first..end`.
    async fn zero(&self, shared: &Shared, first: u64, end: u64) -> VfsResult<()> {
        let edit = self.edit_of(shared).await?;
        let mut at = first;
        while at < end {
            let length = (end - at).min(ZEROS.len() as u64);
            let zeros = Bytes::from_static(&ZEROS[..usize::try_from(length).unwrap_or(ZEROS.len())]);
            edit.write(false, at, zeros).await?;
            self.note_written(0);
            at += length;
        }
        Ok(())
    }
}

/// Writes zeros in order, up to `end`.
async fn write_zeros(writer: &WriteHandle, end: u64) -> VfsResult<()> {
    let mut at = writer.bytes();
    while at < end {
        let length = (end - at).min(ZEROS.len() as u64);
        let zeros = Bytes::from_static(&ZEROS[..usize::try_from(length).unwrap_or(ZEROS.len())]);
        writer.write(at, zeros).await?;
        at += length;
    }
    Ok(())
}

static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
