//! The register of files that are open for writing, and what follows for others when one of them ends.
//!
//! By key it tells who must be orphaned, waited for or refused; by inode, whose bytes give a file its
//! size. After a publication every view is shown the new object; after a discard, a name that was never
//! published goes.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Bound,
    sync::{Arc, Weak},
    time::{Instant, SystemTime},
};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Mutex as AsyncMutex;

use super::{
    HandleNo, InodeNo, Notice, VfsError, VfsResult, attr::Facts, edit::Edit, inode::Link, posix::Posix,
    shared::Shared, write::Published, writing::OpenFile,
};
use crate::cos::Key;

/// All files that are open for writing.
#[derive(Debug, Default)]
pub(super) struct Writing {
    register: Mutex<Register>,
    deciding: Mutex<()>,
}

#[derive(Debug, Default)]
struct Register {
    by_key: BTreeMap<String, Vec<Arc<OpenFile>>>,
    by_inode: HashMap<InodeNo, Vec<Arc<OpenFile>>>,
    turns: Turns,
    names: Turns,
}

/// Locks by key, as long as somebody has them.
#[derive(Debug, Default)]
struct Turns(HashMap<String, Weak<AsyncMutex<()>>>);

impl Turns {
    fn of(&mut self, key: &Key) -> Arc<AsyncMutex<()>> {
        if let Some(turn) = self.0.get(key.as_str()).and_then(Weak::upgrade) {
            return turn;
        }
        if self.0.len() == self.0.capacity() {
            self.0.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::default();
        self.0.insert(key.as_str().to_owned(), Arc::downgrade(&turn));
        turn
    }
}

/// Held while it is decided what holds the content of an inode: two that begin at once would be two files.
/// Before any other lock.
pub(super) type Deciding<'a> = MutexGuard<'a, ()>;

impl Writing {
    pub(super) fn decide(&self) -> Deciding<'_> {
        self.deciding.lock()
    }

    /// The lock that publications of a key share.
    pub(super) fn turn(&self, key: &Key) -> Arc<AsyncMutex<()>> {
        self.register.lock().turns.of(key)
    }

    /// The lock that a rename of a file holds, and whoever begins it anew: of what the kernel takes for the file, the one
    /// moves the name, and the other takes it away.
    pub(super) fn name(&self, key: &Key) -> Arc<AsyncMutex<()>> {
        self.register.lock().names.of(key)
    }

    pub(super) fn add(&self, file: &Arc<OpenFile>) {
        let mut register = self.register.lock();
        register.by_key.entry(file.key.as_str().to_owned()).or_default().push(file.clone());
        register.by_inode.entry(file.inode).or_default().push(file.clone());
    }

    pub(super) fn remove(&self, file: &Arc<OpenFile>) {
        let mut register = self.register.lock();
        if let Some(files) = register.by_key.get_mut(file.key.as_str()) {
            files.retain(|other| !Arc::ptr_eq(other, file));
            if files.is_empty() {
                register.by_key.remove(file.key.as_str());
            }
        }
        if let Some(files) = register.by_inode.get_mut(&file.inode) {
            files.retain(|other| !Arc::ptr_eq(other, file));
            if files.is_empty() {
                register.by_inode.remove(&file.inode);
            }
        }
    }

    /// The file that gives an inode its size: the last one that has begun.
    pub(super) fn of_inode(&self, inode: InodeNo) -> Option<Arc<OpenFile>> {
        self.shown_of(inode, false)
    }

    /// The file that gives an inode the size that all see. Where there is an object it is none that stands alone, and none
    /// that will not replace it.
    pub(super) fn shown_of(&self, inode: InodeNo, is_object: bool) -> Option<Arc<OpenFile>> {
        let is_apart = |file: &OpenFile| file.is_alone() || file.is_orphaned();
        let is_shown = |file: &&Arc<OpenFile>| file.is_begun() && !(is_object && is_apart(file));
        self.all_of_inode(inode).iter().rev().find(is_shown).cloned()
    }

    /// Whether somebody has a file of this inode open that is still what he opened.
    pub(super) fn is_open(&self, inode: InodeNo) -> bool {
        self.all_of_inode(inode).iter().any(|file| !file.is_orphaned())
    }

    fn all_of_inode(&self, inode: InodeNo) -> Vec<Arc<OpenFile>> {
        self.register.lock().by_inode.get(&inode).cloned().unwrap_or_default()
    }

    /// The other files on the inode of `file` that it shares a name with: an inode that is renamed takes a name that those
    /// who had it open do not publish to.
    pub(super) fn others_of(&self, file: &OpenFile) -> Vec<Arc<OpenFile>> {
        let mut files = self.all_of_inode(file.inode);
        files.retain(|other| {
            let is_self = std::ptr::eq(&raw const **other, &raw const *file);
            !is_self && other.key == file.key && !other.is_orphaned()
        });
        files
    }

    /// The edit of an inode that its descriptors share, as long as it lives.
    pub(super) fn edit_of(&self, inode: InodeNo) -> Option<Arc<Edit>> {
        let files = self.all_of_inode(inode);
        let edits =
            files.iter().filter(|file| !file.is_alone()).filter_map(|file| file.content()?.edit().cloned());
        edits.into_iter().find(|edit| edit.failure().is_none())
    }

    /// The file that was opened last on an inode.
    pub(super) fn last_of_inode(&self, inode: InodeNo) -> Option<Arc<OpenFile>> {
        self.register.lock().by_inode.get(&inode)?.last().cloned()
    }

    pub(super) fn of_key(&self, key: &str) -> Vec<Arc<OpenFile>> {
        self.register.lock().by_key.get(key).cloned().unwrap_or_default()
    }

    /// All files whose keys begin so.
    pub(super) fn below(&self, directory: &str) -> Vec<Arc<OpenFile>> {
        let register = self.register.lock();
        let below = register.by_key.range::<str, _>((Bound::Included(directory), Bound::Unbounded));
        below
            .take_while(|(key, _)| key.starts_with(directory))
            .flat_map(|(_, files)| files.iter().cloned())
            .collect()
    }

    pub(super) fn all(&self) -> Vec<Arc<OpenFile>> {
        self.below("")
    }
}

impl Shared {
    /// After a publication that was asked for at `asked`: the name, in every view, leads to the new object. `None` where
    /// that has been removed meanwhile.
    pub(super) async fn show_published(
        self: &Arc<Self>,
        file: &OpenFile,
        published: &Published,
        kept: &Posix,
        asked: Instant,
    ) -> Option<Facts> {
        let facts = Facts::of_object(published.bytes, published.last_modified, &published.etag);
        self.uploads.replaced(&file.key);
        if !self.note_made(&file.key, &facts, asked).await {
            self.hide_unpublished(file);
            return None;
        }
        // What was set on the object of before is not this one's.
        self.take_gathered(file.key.as_str());
        if self.posix_metadata {
            self.keep((file.key.as_str().to_owned(), facts.clone()), Arc::new(kept.clone()));
        }
        let now = Some(Instant::now());
        let mut inodes = self.inodes.lock();
        inodes.update(file.inode, &facts, now);
        let mut named = inodes.find(file.parent, &file.name);
        if let Some(inode) = named {
            if inodes.known(inode).is_some_and(|known| known.facts.is_link()) {
                // Another gateway's link has stood there meanwhile.
                named = inodes.ensure(file.parent, &file.name, &facts, now);
            }
            inodes.update(inode, &facts, now);
        }
        drop(inodes);
        for inode in [Some(file.inode), named].into_iter().flatten() {
            self.writing.all_of_inode(inode).iter().for_each(|other| other.move_on(published));
        }
        let mut notices = vec![Notice::Entry { parent: file.parent, name: file.name.clone().into() }];
        notices.extend(named.map(|inode| Notice::Inode { inode }));
        self.tell(Some(file.view), notices);
        if let Some(inode) = named.filter(|named| *named != file.inode) {
            self.tell_one(file.view, Notice::Inode { inode });
        }
        Some(facts)
    }

    /// A file that will never be published takes its name along.
    pub(super) fn hide_unpublished(&self, file: &OpenFile) {
        let mut inodes = self.inodes.lock();
        let known = inodes.known(file.inode);
        let had_name = known.is_some_and(|known| known.link == Link::Named && known.facts.etag.is_none());
        if had_name {
            inodes.abandon(file.inode);
        }
        drop(inodes);
        if had_name {
            self.tell(None, vec![Notice::Entry { parent: file.parent, name: file.name.clone().into() }]);
        }
    }

    /// Lets the writers of a key come to an end where that needs nobody's word: a publication that is under
    /// way, and empty files that were created and closed (their RELEASE may be late).
    ///
    /// # Errors
    /// `Busy` where one is still being written; what the store answered.
    pub(super) async fn settle_writers(self: &Arc<Self>, key: &str, name: &str) -> VfsResult<()> {
        for file in self.writing.of_key(key) {
            file.wait_closed().await;
            if file.is_unpublished() {
                file.publish_if_empty(self).await?;
            }
            if file.is_unpublished() {
                return Err(VfsError::Busy { name: name.to_owned() });
            }
        }
        Ok(())
    }

    /// A file that is open for writing, found by its descriptor or, where the kernel does not say, its inode.
    pub(super) fn open_file(&self, inode: InodeNo, handle: Option<HandleNo>) -> Option<Arc<OpenFile>> {
        let by_handle = handle.and_then(|handle| self.handle(handle).ok()?.for_writing().ok());
        by_handle.or_else(|| self.writing.last_of_inode(inode))
    }

    /// A file that exists for its writer only, beginning now.
    pub(super) fn unpublished_facts() -> Facts {
        Facts::unpublished(SystemTime::now())
    }
}
