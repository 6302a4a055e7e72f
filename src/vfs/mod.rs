//! LAYER 2: a file system, without a kernel.
//!
//! [`Vfs`] is the only door: one method per file operation, and behind each first the policy. A `Vfs` is
//! one FUSE session's view; the views of one bucket and prefix share everything but their policy.
//! Nothing here knows fuser or an errno; nothing below knows an inode.

mod budget;
mod error;
mod keys;
mod write;

use std::{
    ffi::{OsStr, OsString},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;

pub use budget::{Budget, Reclaimer, Room};
pub use error::{VfsError, VfsResult};
pub use keys::{Doubt, KeyLock, Keys};
pub use write::{Published, Tried, WriteHandle, Writers};

/// The number of a file or directory, as the kernel knows it. 1 is the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InodeNo(pub u64);

/// One open file or directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HandleNo(pub u64);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    /// The process (not the thread); `None` where it cannot be known (another pid namespace, the kernel itself).
    pub process: Option<u32>,
}

/// Who closes a descriptor, as far as /proc tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closer {
    pub process: Option<u32>,
    /// It is being ended by a signal.
    pub killed: bool,
    /// The process that opened the handle is there no more.
    pub opener_gone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileKind {
    File,
    Directory,
}

/// What stat shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    pub inode: InodeNo,
    pub kind: FileKind,
    pub bytes: u64,
    pub modified: SystemTime,
    pub accessed: SystemTime,
    /// Permission bits only.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    /// 0 for what has been unlinked.
    pub links: u32,
}

/// What a name leads to. It counts as one lookup, to be taken back by [`Vfs::forget`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub attributes: Attributes,
    /// How long the kernel may trust the name.
    pub entry_ttl: Duration,
    pub attr_ttl: Duration,
}

/// What open(2) asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OpenHow {
    pub read: bool,
    pub write: bool,
    pub truncate: bool,
    pub append: bool,
    /// O_EXCL: fail where the name exists.
    pub exclusive: bool,
}

/// What SETATTR asks to change; `None` = leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AttributeChange {
    pub bytes: Option<u64>,
    pub mode: Option<u16>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub accessed: Option<SystemTime>,
    pub modified: Option<SystemTime>,
}

/// One line of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryEntry {
    pub name: OsString,
    /// Where readdir goes on behind this entry.
    pub next_offset: u64,
    /// A plain readdir shows number and kind only; for readdirplus the entry counts as one lookup,
    /// unless it is `.` or `..`.
    pub entry: Entry,
}

/// A write that must not wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    Written,
    /// Hand it over: [`Vfs::write`] will wait.
    MustWait,
}

/// What the kernel must forget because it changed under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// What `name` in `parent` leads to.
    Entry { parent: InodeNo, name: OsString },
    /// Attributes (and pages, should there be any) of an inode.
    Inode { inode: InodeNo },
}

/// Tells the kernel of one session; the future ends when it has forgotten, or when a bounded wait is over.
pub type Notify = Arc<dyn Fn(Notice) -> BoxFuture<'static, ()> + Send + Sync>;

/// What statfs shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpaceUse {
    pub bytes_total: u64,
    pub bytes_free: u64,
    pub files_total: u64,
    pub files_free: u64,
}

/// A file system as one FUSE session sees it.
#[derive(Debug, Clone)]
pub struct Vfs;

impl Vfs {
    /// What the kernel of this session is told from now on.
    pub fn attach(&self, _notify: Notify) {
        todo!()
    }

    pub async fn lookup(&self, _parent: InodeNo, _name: &OsStr) -> VfsResult<Entry> {
        todo!()
    }

    /// How long an absent name may be remembered.
    pub fn negative_ttl(&self) -> Duration {
        todo!()
    }

    pub fn forget(&self, _inode: InodeNo, _lookups: u64) {
        todo!()
    }

    pub async fn getattr(&self, _inode: InodeNo, _handle: Option<HandleNo>) -> VfsResult<Attributes> {
        todo!()
    }

    pub async fn setattr(
        &self,
        _inode: InodeNo,
        _handle: Option<HandleNo>,
        _change: AttributeChange,
    ) -> VfsResult<Attributes> {
        todo!()
    }

    pub async fn mkdir(
        &self,
        _parent: InodeNo,
        _name: &OsStr,
        _mode: u16,
        _caller: Caller,
    ) -> VfsResult<Entry> {
        todo!()
    }

    pub async fn unlink(&self, _parent: InodeNo, _name: &OsStr) -> VfsResult<()> {
        todo!()
    }

    pub async fn rmdir(&self, _parent: InodeNo, _name: &OsStr) -> VfsResult<()> {
        todo!()
    }

    pub async fn rename(
        &self,
        _parent: InodeNo,
        _name: &OsStr,
        _new_parent: InodeNo,
        _new_name: &OsStr,
        _no_replace: bool,
    ) -> VfsResult<()> {
        todo!()
    }

    /// The front's rename: paths below the root. Invalidates both names before it returns.
    pub async fn rename_paths(
        &self,
        _from: &OsStr,
        _to: &OsStr,
        _no_replace: bool,
        _caller: Caller,
    ) -> VfsResult<()> {
        todo!()
    }

    pub async fn create(
        &self,
        _parent: InodeNo,
        _name: &OsStr,
        _mode: u16,
        _how: OpenHow,
        _caller: Caller,
    ) -> VfsResult<(Entry, HandleNo)> {
        todo!()
    }

    pub async fn open(&self, _inode: InodeNo, _how: OpenHow, _caller: Caller) -> VfsResult<HandleNo> {
        todo!()
    }

    /// Up to `bytes` at `offset`; fewer only at the end of the file.
    pub async fn read(&self, _handle: HandleNo, _offset: u64, _bytes: u32) -> VfsResult<Bytes> {
        todo!()
    }

    /// In the FUSE loop: never blocks. `append`: O_APPEND stands in the write's own flags.
    pub fn try_write(
        &self,
        _handle: HandleNo,
        _offset: u64,
        _data: &[u8],
        _append: bool,
    ) -> VfsResult<WriteOutcome> {
        todo!()
    }

    /// Waits for memory, unless the handle is armed and `nonblocking`: then `WouldBlock`.
    pub async fn write(
        &self,
        _handle: HandleNo,
        _offset: u64,
        _data: Bytes,
        _append: bool,
        _nonblocking: bool,
    ) -> VfsResult<()> {
        todo!()
    }

    /// Whether a write would be taken now. If not, `wake` is called once when it may be (or has failed).
    pub fn poll_writable(&self, _handle: HandleNo, _wake: Box<dyn FnOnce() + Send>) -> VfsResult<bool> {
        todo!()
    }

    /// The process that opened a handle, for [`Closer::opener_gone`].
    pub fn opener(&self, _handle: HandleNo) -> Option<u32> {
        todo!()
    }

    pub async fn flush(&self, _handle: HandleNo, _closer: Closer) -> VfsResult<()> {
        todo!()
    }

    pub async fn fsync(&self, _handle: HandleNo) -> VfsResult<()> {
        todo!()
    }

    pub async fn release(&self, _handle: HandleNo) -> VfsResult<()> {
        todo!()
    }

    pub fn arm(&self, _handle: HandleNo, _caller: Caller) -> VfsResult<()> {
        todo!()
    }

    pub async fn prepare(&self, _handle: HandleNo, _caller: Caller) -> VfsResult<()> {
        todo!()
    }

    pub async fn commit(&self, _handle: HandleNo, _bytes: u64, _caller: Caller) -> VfsResult<()> {
        todo!()
    }

    pub async fn opendir(&self, _inode: InodeNo) -> VfsResult<HandleNo> {
        todo!()
    }

    /// Entries behind `offset`, `.` and `..` first, until `take` says false (that entry is not taken and
    /// its lookup not counted). `plus`: entries count as lookups.
    pub async fn readdir(
        &self,
        _handle: HandleNo,
        _offset: u64,
        _plus: bool,
        _take: &mut (dyn FnMut(&DirectoryEntry) -> bool + Send),
    ) -> VfsResult<()> {
        todo!()
    }

    pub fn releasedir(&self, _handle: HandleNo) {
        todo!()
    }

    pub fn statfs(&self) -> SpaceUse {
        todo!()
    }

    pub async fn getxattr(&self, _inode: InodeNo, _name: &OsStr) -> VfsResult<Bytes> {
        todo!()
    }

    pub async fn setxattr(&self, _inode: InodeNo, _name: &OsStr, _value: &[u8]) -> VfsResult<()> {
        todo!()
    }

    pub async fn removexattr(&self, _inode: InodeNo, _name: &OsStr) -> VfsResult<()> {
        todo!()
    }

    pub async fn listxattr(&self, _inode: InodeNo) -> VfsResult<Vec<OsString>> {
        todo!()
    }

    /// No new work from now on; open handles may finish within `grace`, then they are discarded.
    pub async fn stop(&self, _grace: Duration) {
        todo!()
    }
}
