//! What passes through the door: numbers, callers, attributes, entries, notices.
//!
//! Plain values without behaviour; the kernel's side (`fuse`) turns them into its own words.

use std::{
    ffi::OsString,
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;

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

impl Closer {
    /// Nobody has looked.
    pub const UNKNOWN: Self = Self { process: None, killed: false, opener_gone: false };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FileKind {
    File,
    Directory,
    /// A symbolic link; its bytes are its target.
    Symlink,
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

/// What a name leads to. It counts as one lookup, to be taken back by [`super::Vfs::forget`].
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
    /// O_NONBLOCK, which the front says and programs hardly do: what it writes is no other descriptor's, and what
    /// it reads are objects. Of nobody who may not use the front's words.
    pub alone: bool,
}

/// What fallocate(2) asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Allocation {
    /// That the file reaches as far at least.
    Extend,
    /// Room behind the end, without a change of the size: there always is.
    Reserve,
    /// Zeros, within the file.
    Punch,
    /// Zeros, also beyond its end.
    Zero,
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
    /// Hand it over: [`super::Vfs::write`] will wait.
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
    /// There is a quota, so that these numbers mean something.
    pub is_limited: bool,
}
