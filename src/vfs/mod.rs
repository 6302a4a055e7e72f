//! LAYER 2: a file system, without a kernel.
//!
//! [`Vfs`] is the only door: one method per file operation, and behind each first the policy. A `Vfs` is
//! one FUSE session's view; the views of one bucket and prefix share everything but their policy
//! ([`Shared`]). Nothing here knows fuser or an errno; nothing below knows an inode.
//!
//! | asks or does | file |
//! |---|---|
//! | what a name leads to | `resolve.rs`, over `listing.rs`, `overlay.rs`, `inode.rs` |
//! | directories, read | `dir.rs` |
//! | files, read | `read.rs`, over `course.rs`, `fetch.rs`, `pace.rs`, `kept.rs` |
//! | files, opened for writing, and when they are published | `open.rs`, `writing.rs`, `register.rs`, `close.rs`, `write/` |
//! | which uploads are open, whose they are, and which are left behind | `uploads/` |
//! | names, made and removed | `remove.rs`, `rename.rs` |
//! | symbolic links | `symlink.rs` |
//! | times, modes, extended attributes | `metadata.rs`, `posix.rs` |
//! | how much may be stored | `quota/` |

mod attr;
mod budget;
mod close;
mod content;
mod copy;
mod course;
mod dir;
mod edit;
mod error;
mod fetch;
mod handle;
mod inode;
mod kept;
mod keys;
mod listing;
mod metadata;
mod name;
mod open;
mod overlay;
mod pace;
mod policy;
mod posix;
mod quota;
mod ranges;
mod read;
mod register;
mod remove;
mod rename;
mod resolve;
mod resume;
mod shared;
mod symlink;
mod types;
mod uploads;
mod write;
mod writing;

use std::{
    ffi::{OsStr, OsString},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;

pub use budget::{Budget, Reclaimer, Room};
pub use error::{VfsError, VfsResult};
pub use keys::{Doubt, KeyLock, Keys};
pub use policy::MountPolicy;
pub use shared::Shared;
pub use types::{
    Allocation, AttributeChange, Attributes, Caller, Closer, DirectoryEntry, Entry, FileKind, HandleNo,
    InodeNo, Notice, Notify, OpenHow, SpaceUse, WriteOutcome,
};
pub use write::{Published, Tried, WriteHandle, Writers};

/// A file system as one FUSE session sees it.
#[derive(Debug, Clone)]
pub struct Vfs {
    shared: Arc<Shared>,
    policy: MountPolicy,
    /// Which of the views this is, for notices.
    view: usize,
}

impl Vfs {
    /// One more view of `shared`, under `policy`.
    pub fn new(shared: Arc<Shared>, policy: MountPolicy) -> Self {
        let view = shared.new_view();
        Self { shared, policy, view }
    }

    /// What the kernel of this session is told from now on.
    pub fn attach(&self, notify: Notify) {
        self.shared.attach(self.view, notify);
    }

    pub async fn lookup(&self, parent: InodeNo, name: &OsStr) -> VfsResult<Entry> {
        resolve::lookup(self, parent, name).await
    }

    /// How long an absent name may be remembered.
    pub fn negative_ttl(&self) -> Duration {
        self.shared.attr_ttl
    }

    pub fn forget(&self, inode: InodeNo, lookups: u64) {
        self.shared.inodes.lock().forget(inode, lookups);
        if lookups > 0 && inode.0.is_multiple_of(FORGETS_COUNTED) {
            self.shared.count_memory();
        }
    }

    pub async fn getattr(&self, inode: InodeNo, handle: Option<HandleNo>) -> VfsResult<Attributes> {
        resolve::getattr(self, inode, handle).await
    }

    pub async fn setattr(
        &self,
        inode: InodeNo,
        handle: Option<HandleNo>,
        change: AttributeChange,
    ) -> VfsResult<Attributes> {
        metadata::setattr(self, inode, handle, change).await
    }

    pub async fn mkdir(&self, parent: InodeNo, name: &OsStr, mode: u16, caller: Caller) -> VfsResult<Entry> {
        remove::mkdir(self, parent, name, mode, caller).await
    }

    /// A symbolic link to `target`, whatever that is.
    pub async fn symlink(&self, parent: InodeNo, name: &OsStr, target: &OsStr) -> VfsResult<Entry> {
        symlink::symlink(self, parent, name, target).await
    }

    /// Where a symbolic link leads to.
    pub async fn readlink(&self, inode: InodeNo) -> VfsResult<Bytes> {
        symlink::readlink(self, inode).await
    }

    pub async fn unlink(&self, parent: InodeNo, name: &OsStr) -> VfsResult<()> {
        remove::unlink(self, parent, name).await
    }

    pub async fn rmdir(&self, parent: InodeNo, name: &OsStr) -> VfsResult<()> {
        remove::rmdir(self, parent, name).await
    }

    pub async fn rename(
        &self,
        parent: InodeNo,
        name: &OsStr,
        new_parent: InodeNo,
        new_name: &OsStr,
        no_replace: bool,
    ) -> VfsResult<()> {
        let from = rename::Place { parent, name };
        let to = rename::Place { parent: new_parent, name: new_name };
        rename::rename(self, from, to, no_replace).await
    }

    /// The front's rename: paths below the root. Invalidates both names before it returns.
    pub async fn rename_paths(
        &self,
        from: &OsStr,
        to: &OsStr,
        no_replace: bool,
        caller: Caller,
    ) -> VfsResult<()> {
        rename::rename_paths(self, from, to, no_replace, caller).await
    }

    pub async fn create(
        &self,
        parent: InodeNo,
        name: &OsStr,
        mode: u16,
        how: OpenHow,
        caller: Caller,
    ) -> VfsResult<(Entry, HandleNo)> {
        open::create(self, parent, name, mode, how, caller).await
    }

    pub async fn open(&self, inode: InodeNo, how: OpenHow, caller: Caller) -> VfsResult<HandleNo> {
        open::open(self, inode, how, caller).await
    }

    /// Up to `bytes` at `offset`; fewer only at the end of the file.
    pub async fn read(&self, handle: HandleNo, offset: u64, bytes: u32) -> VfsResult<Bytes> {
        read::read(self, handle, offset, bytes).await
    }

    /// In the FUSE loop: never blocks. `append`: O_APPEND stands in the write's own flags.
    pub fn try_write(
        &self,
        handle: HandleNo,
        offset: u64,
        data: &[u8],
        append: bool,
    ) -> VfsResult<WriteOutcome> {
        self.shared.handle(handle)?.for_writing()?.try_write(&self.shared, offset, data, append)
    }

    /// Waits for memory, unless the handle is armed and `nonblocking`: then `WouldBlock`.
    pub async fn write(
        &self,
        handle: HandleNo,
        offset: u64,
        data: Bytes,
        append: bool,
        nonblocking: bool,
    ) -> VfsResult<()> {
        let file = self.shared.handle(handle)?.for_writing()?;
        file.write(&self.shared, offset, data, append, nonblocking).await
    }

    /// Whether a write would be taken now. If not, `wake` is called once when it may be (or has failed).
    pub fn poll_writable(&self, handle: HandleNo, wake: Box<dyn FnOnce() + Send>) -> VfsResult<bool> {
        self.shared.handle(handle)?.for_writing()?.poll_writable(wake)
    }

    /// Whether the handle publishes by commit alone.
    pub fn is_armed(&self, handle: HandleNo) -> bool {
        let file = self.shared.handle(handle).and_then(|handle| handle.for_writing());
        file.is_ok_and(|file| file.is_armed())
    }

    /// The process that opened a handle, for [`Closer::opener_gone`].
    pub fn opener(&self, handle: HandleNo) -> Option<u32> {
        self.shared.handle(handle).ok()?.for_writing().ok()?.opener()
    }

    /// fallocate(2): `bytes` from `offset` on.
    pub async fn fallocate(
        &self,
        handle: HandleNo,
        what: Allocation,
        offset: u64,
        bytes: u64,
    ) -> VfsResult<()> {
        let file = self.shared.handle(handle)?.for_writing()?;
        file.allocate(&self.shared, what, offset, bytes).await
    }

    /// copy_file_range(2), of whole objects into files without content; from and to: a descriptor and an offset.
    ///
    /// # Errors
    /// `Invalid` for the beginning of an object; `NotSupported` for everything else: the kernel then reads and writes.
    pub async fn copy_range(&self, from: (HandleNo, u64), to: (HandleNo, u64), bytes: u64) -> VfsResult<u64> {
        copy::copy_range(self, from, to, bytes).await
    }

    pub async fn flush(&self, handle: HandleNo, closer: Closer) -> VfsResult<()> {
        open::flush(self, handle, closer).await
    }

    pub async fn fsync(&self, handle: HandleNo) -> VfsResult<()> {
        open::fsync(self, handle).await
    }

    pub async fn release(&self, handle: HandleNo) -> VfsResult<()> {
        open::release(self, handle).await
    }

    pub fn arm(&self, handle: HandleNo, caller: Caller) -> VfsResult<()> {
        self.shared.is_front(caller)?;
        self.shared.handle(handle)?.for_writing()?.arm()
    }

    /// Goes on with the first `bytes` of a broken upload of the file's name, on an armed handle.
    pub async fn go_on(&self, handle: HandleNo, bytes: u64, caller: Caller) -> VfsResult<()> {
        self.shared.is_front(caller)?;
        let file = self.shared.handle(handle)?.for_writing()?;
        file.go_on(&self.shared, bytes).await
    }

    /// How many bytes are held of a broken upload of a name that does not exist; 0 for nothing. `path` is below
    /// the root. A transfer of it that is just being closed is waited for.
    ///
    /// # Errors
    /// `ReplacedMeanwhile` where somebody is to go on with an object that is older than an upload which broke.
    pub async fn held(&self, path: &OsStr, to_go_on: bool, caller: Caller) -> VfsResult<u64> {
        self.shared.is_front(caller)?;
        resume::held(self, path, to_go_on).await
    }

    /// A directory is about to be listed: a path below the root. Asks for all that leads there at once. Does not wait.
    pub fn list_ahead(&self, path: &OsStr, caller: Caller) -> VfsResult<()> {
        self.shared.is_front(caller)?;
        resolve::list_ahead(self, path)
    }

    /// Aborts what is held of such a name.
    pub async fn drop_held(&self, path: &OsStr, caller: Caller) -> VfsResult<()> {
        self.shared.is_front(caller)?;
        resume::drop_held(self, path).await
    }

    pub async fn prepare(&self, handle: HandleNo, caller: Caller) -> VfsResult<()> {
        self.shared.is_front(caller)?;
        self.shared.handle(handle)?.for_writing()?.prepare().await
    }

    pub async fn commit(&self, handle: HandleNo, bytes: u64, caller: Caller) -> VfsResult<()> {
        self.shared.is_front(caller)?;
        let file = self.shared.handle(handle)?.for_writing()?;
        file.commit(&self.shared, bytes).await
    }

    pub async fn opendir(&self, inode: InodeNo) -> VfsResult<HandleNo> {
        dir::opendir(self, inode).await
    }

    /// Entries behind `offset`, `.` and `..` first, until `take` says false (that entry is not taken and
    /// its lookup not counted). `plus`: entries count as lookups.
    pub async fn readdir(
        &self,
        handle: HandleNo,
        offset: u64,
        plus: bool,
        take: &mut (dyn FnMut(&DirectoryEntry) -> bool + Send),
    ) -> VfsResult<()> {
        dir::readdir(self, handle, offset, plus, take).await
    }

    pub fn releasedir(&self, handle: HandleNo) {
        dir::releasedir(self, handle);
    }

    pub fn statfs(&self) -> SpaceUse {
        let unlimited = SpaceUse {
            bytes_total: SPACE_BYTES,
            bytes_free: SPACE_BYTES,
            files_total: SPACE_FILES,
            files_free: SPACE_FILES,
            is_limited: false,
        };
        self.shared.quota.as_ref().map_or(unlimited, |quota| quota.space(unlimited))
    }

    pub async fn getxattr(&self, inode: InodeNo, name: &OsStr) -> VfsResult<Bytes> {
        metadata::getxattr(self, inode, name).await
    }

    pub async fn setxattr(&self, inode: InodeNo, name: &OsStr, value: &[u8]) -> VfsResult<()> {
        metadata::setxattr(self, inode, name, value).await
    }

    pub async fn removexattr(&self, inode: InodeNo, name: &OsStr) -> VfsResult<()> {
        metadata::removexattr(self, inode, name).await
    }

    pub async fn listxattr(&self, inode: InodeNo) -> VfsResult<Vec<OsString>> {
        metadata::listxattr(self, inode).await
    }

    /// Whether any file is open, for reading or for writing.
    pub fn has_open_files(&self) -> bool {
        self.shared.has_open_files()
    }

    /// Clears away uploads that were left behind, once.
    pub async fn sweep(&self) {
        self.shared.uploads.sweep(SystemTime::now()).await;
    }

    /// No new work from now on; open handles may finish within `grace`, then they are discarded.
    pub async fn stop(&self, grace: Duration) {
        open::stop(self, grace).await;
    }
}

/// Memory is counted anew at every so many-th inode that is forgotten.
const FORGETS_COUNTED: u64 = 1024;
/// What statfs shows where there is no quota: one EiB, which every program still counts in signed 64 bits.
const SPACE_BYTES: u64 = 1 << 60;
/// The same for files: some programs count them in signed 32 bits.
const SPACE_FILES: u64 = 1 << 30;
