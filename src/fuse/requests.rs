//! The kernel's requests, one method each: decode, ask [`crate::vfs::Vfs`], reply.

use std::{
    ffi::OsStr,
    io,
    path::Path,
    time::{Duration, SystemTime},
};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, InitFlags, IoctlFlags,
    KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use tracing::warn;

use super::{
    FuseAdapter, GENERATION,
    answer::{Asked, QUESTION_DEADLINE, TRAVEL_DEADLINE, told},
    empty,
    errno::errno,
    handle, held,
    listing::List,
    process::{closer, process_of},
    release_late, sized, user,
    waiting::WaitingWrite,
    word,
    words::{self, attributes, fopen_flags, has, inode, open_how, time},
};
use crate::{
    ioctl::{CommitWord, PathWish, PathWord, RenameWord, Word},
    vfs::{AttributeChange, Caller, Closer, VfsError, WriteOutcome},
};

/// The kernel's page limit (sysctl `fs.fuse.max_pages_limit`).
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// RELEASE and buffered reads count; past the threshold the kernel drops read-ahead for the whole mount.
const MAX_BACKGROUND: u16 = 64;
const CONGESTION_THRESHOLD: u16 = 48;
/// Longest name of statfs, in bytes.
const NAME_BYTES_MAX: u32 = 255;
/// `XATTR_CREATE` and `XATTR_REPLACE` of setxattr(2).
const XATTR_CREATE: i32 = 1;
const XATTR_REPLACE: i32 = 2;

impl Filesystem for FuseAdapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            // Without it every buffered WRITE is preceded by a GETXATTR of security.capability.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
            InitFlags::FUSE_HAS_IOCTL_DIR,
        ];
        for capability in wanted {
            if let Err(lacking) = config.add_capabilities(capability) {
                warn!(?lacking, "this kernel's FUSE lacks a capability: slower, or some programs fail");
            }
        }
        // Err of these three tells the nearest value that the kernel takes.
        if let Err(bytes) = config.set_max_write(MAX_WRITE_BYTES) {
            config.set_max_write(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        }
        if let Err(requests) = config.set_max_background(MAX_BACKGROUND) {
            config.set_max_background(requests).map_err(|_| io::ErrorKind::InvalidInput)?;
        }
        if let Err(requests) = config.set_congestion_threshold(CONGESTION_THRESHOLD) {
            config.set_congestion_threshold(requests).map_err(|_| io::ErrorKind::InvalidInput)?;
        }
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (vfs, name, absent_ttl) = (self.vfs.clone(), name.to_owned(), self.vfs.negative_ttl());
        let work = async move { vfs.lookup(inode(parent), &name).await };
        self.ask_entry("lookup", parent, work, absent_ttl, reply);
    }

    fn forget(&self, _request: &Request, ino: INodeNo, lookups: u64) {
        self.vfs.forget(inode(ino), lookups);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let (vfs, ttl) = (self.vfs.clone(), self.attr_ttl);
        let work = async move { vfs.getattr(inode(ino), fh.map(handle)).await };
        self.ask("getattr", ino, work, move |shown| match shown {
            Ok(shown) => reply.attr(&ttl, &attributes(&shown)),
            Err(errno) => reply.error(errno),
        });
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        accessed: Option<TimeOrNow>,
        modified: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = AttributeChange {
            bytes: size,
            mode: mode.map(words::permissions),
            uid,
            gid,
            accessed: accessed.map(time),
            modified: modified.map(time),
        };
        let (vfs, ttl) = (self.vfs.clone(), self.attr_ttl);
        let work = async move { vfs.setattr(inode(ino), fh.map(handle), change).await };
        // A change of metadata may be a copy of the object onto itself.
        self.perform("setattr", ino, work, move |shown| match shown {
            Ok(shown) => reply.attr(&ttl, &attributes(&shown)),
            Err(errno) => reply.error(errno),
        });
    }

    fn mknod(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(errno(&VfsError::NotPermitted { what: "a device, a pipe or a socket" }));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (vfs, name, caller) = (self.vfs.clone(), name.to_owned(), user(request));
        let mode = words::permissions(mode);
        let work = async move { vfs.mkdir(inode(parent), &name, mode, caller).await };
        self.ask_entry("mkdir", parent, work, Duration::ZERO, reply);
    }

    fn symlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (vfs, name, target) = (self.vfs.clone(), name.to_owned(), target.to_owned());
        let work = async move { vfs.symlink(inode(parent), &name, target.as_os_str()).await };
        self.ask_entry("symlink", parent, work, Duration::ZERO, reply);
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let vfs = self.vfs.clone();
        let work = async move { vfs.readlink(inode(ino)).await };
        self.ask("readlink", ino, work, move |target| match target {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        });
    }

    fn link(&self, _request: &Request, _ino: INodeNo, _to: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.error(errno(&VfsError::NotPermitted { what: "a hard link" }));
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, name) = (self.vfs.clone(), name.to_owned());
        let work = async move { vfs.unlink(inode(parent), &name).await };
        self.ask("unlink", parent, work, empty(reply));
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, name) = (self.vfs.clone(), name.to_owned());
        let work = async move { vfs.rmdir(inode(parent), &name).await };
        self.ask("rmdir", parent, work, empty(reply));
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        // EINVAL makes mv(1) try without; ignoring a flag would break what it promises.
        if flags.intersects(RenameFlags::RENAME_EXCHANGE | RenameFlags::RENAME_WHITEOUT) {
            reply.error(Errno::EINVAL);
            return;
        }
        let no_replace = flags.contains(RenameFlags::RENAME_NOREPLACE);
        let (vfs, name, new_name) = (self.vfs.clone(), name.to_owned(), new_name.to_owned());
        let work =
            async move { vfs.rename(inode(parent), &name, inode(new_parent), &new_name, no_replace).await };
        self.perform("rename", parent, work, empty(reply));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let how = open_how(flags.0);
        let (vfs, undo, caller, thread) = (self.vfs.clone(), self.vfs.clone(), user(request), request.pid());
        let asked = Asked {
            operation: "open",
            inode: ino.0,
            deadline: QUESTION_DEADLINE,
            // A writer's process is read from /proc.
            in_place: !how.write,
        };
        self.engine.answer_or_undo(
            asked,
            async move {
                let process = if how.write { process_of(thread) } else { None };
                vfs.open(inode(ino), how, Caller { process, ..caller }).await
            },
            move |opened| match opened {
                Ok(handle) => reply.opened(FileHandle(handle.0), fopen_flags(how)),
                Err(errno) => reply.error(errno),
            },
            move |handle| release_late(undo, handle),
        );
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let how = open_how(flags);
        let (vfs, undo, name) = (self.vfs.clone(), self.vfs.clone(), name.to_owned());
        let (caller, thread, mode) = (user(request), request.pid(), words::permissions(mode));
        let asked =
            Asked { operation: "create", inode: parent.0, deadline: QUESTION_DEADLINE, in_place: false };
        self.engine.answer_or_undo(
            asked,
            async move {
                let caller = Caller { process: process_of(thread), ..caller };
                vfs.create(inode(parent), &name, mode, how, caller).await
            },
            move |created| match created {
                Ok((entry, handle)) => {
                    // The reply knows one TTL for the name and for the attributes.
                    let ttl = entry.entry_ttl.min(entry.attr_ttl);
                    let shown = attributes(&entry.attributes);
                    reply.created(&ttl, &shown, GENERATION, FileHandle(handle.0), fopen_flags(how));
                }
                Err(errno) => reply.error(errno),
            },
            move |(entry, handle)| {
                undo.forget(entry.attributes.inode, 1);
                release_late(undo, handle);
            },
        );
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let vfs = self.vfs.clone();
        let work = async move { vfs.read(handle(fh), offset, size).await };
        self.ask("read", ino, work, move |bytes| match bytes {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        });
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let append = has(flags.0, rustix::fs::OFlags::APPEND);
        match self.vfs.try_write(handle(fh), offset, data, append) {
            Ok(WriteOutcome::Written) => reply.written(u32::try_from(data.len()).unwrap_or(u32::MAX)),
            Ok(WriteOutcome::MustWait) => {
                let nonblocking = has(flags.0, rustix::fs::OFlags::NONBLOCK);
                let whole = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
                let write =
                    WaitingWrite { ino, handle: handle(fh), offset, data, append, nonblocking, whole };
                self.write_later(write, reply);
            }
            Err(error) => {
                let asked =
                    Asked { operation: "write", inode: ino.0, deadline: TRAVEL_DEADLINE, in_place: true };
                reply.error(told::<()>(asked, Err(error)).err().unwrap_or(Errno::EIO));
            }
        }
    }

    fn flush(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let (vfs, thread) = (self.vfs.clone(), request.pid());
        let work = async move {
            // Of an armed handle it is of no account who closes it.
            let who = match vfs.is_armed(handle(fh)) {
                true => Closer::UNKNOWN,
                false => closer(thread, vfs.opener(handle(fh))),
            };
            vfs.flush(handle(fh), who).await
        };
        self.perform("flush", ino, work, empty(reply));
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.bells.forget(handle(fh));
        let vfs = self.vfs.clone();
        self.perform("release", ino, async move { vfs.release(handle(fh)).await }, empty(reply));
    }

    fn fsync(&self, _request: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let vfs = self.vfs.clone();
        self.perform("fsync", ino, async move { vfs.fsync(handle(fh)).await }, empty(reply));
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (vfs, undo) = (self.vfs.clone(), self.vfs.clone());
        let asked = Asked { operation: "opendir", inode: ino.0, deadline: QUESTION_DEADLINE, in_place: true };
        self.engine.answer_or_undo(
            asked,
            async move { vfs.opendir(inode(ino)).await },
            |opened| match opened {
                Ok(handle) => reply.opened(FileHandle(handle.0), fuser::FopenFlags::empty()),
                Err(errno) => reply.error(errno),
            },
            move |handle| undo.releasedir(handle),
        );
    }

    fn readdir(&self, _request: &Request, ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.list(List { ino, handle: handle(fh), offset, plus: false }, reply);
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        self.list(List { ino, handle: handle(fh), offset, plus: true }, reply);
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.vfs.releasedir(handle(fh));
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        // What changes a directory is in COS when it is answered.
        reply.ok();
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let space = self.vfs.statfs();
        // Where numbers are nominal a large block suits programs that read in blocks; a quota is told closer.
        let block_bytes = if space.is_limited { words::QUOTA_BLOCK_BYTES } else { words::BLOCK_BYTES };
        let block = u64::from(block_bytes);
        let (total, free) = (space.bytes_total / block, space.bytes_free / block);
        reply.statfs(
            total,
            free,
            free,
            space.files_total,
            space.files_free,
            block_bytes,
            NAME_BYTES_MAX,
            block_bytes,
        );
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (vfs, name, value) = (self.vfs.clone(), name.to_owned(), value.to_vec());
        let work = async move {
            if flags & (XATTR_CREATE | XATTR_REPLACE) != 0 {
                match vfs.getxattr(inode(ino), &name).await {
                    Ok(_) if flags & XATTR_CREATE != 0 => {
                        return Err(VfsError::Exists { name: name.to_string_lossy().into_owned() });
                    }
                    Err(VfsError::NoAttribute) if flags & XATTR_CREATE != 0 => {}
                    Err(error) => return Err(error),
                    Ok(_) => {}
                }
            }
            vfs.setxattr(inode(ino), &name, &value).await
        };
        self.perform("setxattr", ino, work, empty(reply));
    }

    fn getxattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let (vfs, name) = (self.vfs.clone(), name.to_owned());
        self.ask("getxattr", ino, async move { vfs.getxattr(inode(ino), &name).await }, sized(reply, size));
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let vfs = self.vfs.clone();
        let work = async move {
            // listxattr(2): each name ends with a zero byte.
            let names = vfs.listxattr(inode(ino)).await?;
            Ok(names.iter().flat_map(|name| name.as_encoded_bytes().iter().copied().chain([0])).collect())
        };
        self.ask("listxattr", ino, work, sized(reply, size));
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (vfs, name) = (self.vfs.clone(), name.to_owned());
        let work = async move { vfs.removexattr(inode(ino), &name).await };
        self.perform("removexattr", ino, work, empty(reply));
    }

    fn access(&self, _request: &Request, _ino: INodeNo, _mask: fuser::AccessFlags, reply: ReplyEmpty) {
        // DefaultPermissions: the kernel judges by mode and owner, and does not ask.
        reply.ok();
    }

    fn ioctl(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: IoctlFlags,
        number: u32,
        data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        let (vfs, caller, handle) = (self.vfs.clone(), user(request), handle(fh));
        // Paths are told from there.
        let at_root = ino == INodeNo::ROOT;
        match Word::from_number(number) {
            Some(Word::Arm) => {
                self.ask("arm", ino, async move { vfs.arm(handle, caller) }, word(reply));
            }
            Some(Word::Prepare) => {
                self.perform("prepare", ino, async move { vfs.prepare(handle, caller).await }, word(reply));
            }
            Some(Word::Commit) => {
                let Some(CommitWord { bytes }) = CommitWord::decode(data) else {
                    return reply.error(Errno::EINVAL);
                };
                let work = async move { vfs.commit(handle, bytes, caller).await };
                self.perform("commit", ino, work, word(reply));
            }
            Some(Word::Rename) => {
                let Some(RenameWord { from, to, no_replace }) = RenameWord::decode(data).filter(|_| at_root)
                else {
                    return reply.error(Errno::EINVAL);
                };
                let (from, to) = (from.to_owned(), to.to_owned());
                let work = async move { vfs.rename_paths(&from, &to, no_replace, caller).await };
                self.perform("rename by ioctl", ino, work, word(reply));
            }
            Some(Word::Path) => {
                let Some(PathWord { path, wish }) = PathWord::decode(data).filter(|_| at_root) else {
                    return reply.error(Errno::EINVAL);
                };
                let path = path.to_owned();
                match wish {
                    PathWish::Held | PathWish::HeldToGoOn => {
                        let to_go_on = wish == PathWish::HeldToGoOn;
                        let work = async move { vfs.held(&path, to_go_on, caller).await };
                        self.perform("what is held", ino, work, held(reply));
                    }
                    PathWish::DropHeld => {
                        let work = async move { vfs.drop_held(&path, caller).await };
                        self.perform("drop what is held", ino, work, word(reply));
                    }
                    PathWish::ListAhead => {
                        let work = async move { vfs.list_ahead(&path, caller) };
                        self.ask("list ahead", ino, work, word(reply));
                    }
                }
            }
            Some(Word::GoOn) => {
                let Some(CommitWord { bytes }) = CommitWord::decode(data) else {
                    return reply.error(Errno::EINVAL);
                };
                let work = async move { vfs.go_on(handle, bytes, caller).await };
                self.perform("go on", ino, work, word(reply));
            }
            // What ioctl(2) says of a request that a file does not know; isatty(3) asks so.
            None => reply.error(Errno::ENOTTY),
        }
    }

    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.poll(self.bells.poll(&self.vfs, handle(fh), notifier));
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let Some(what) = words::allocation(mode) else {
            return reply.error(Errno::EOPNOTSUPP);
        };
        let vfs = self.vfs.clone();
        let work = async move { vfs.fallocate(handle(fh), what, offset, length).await };
        self.perform("fallocate", ino, work, empty(reply));
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let vfs = self.vfs.clone();
        // An answer has 32 bits: more than that can only be copied by hand.
        let bytes = len.min(u64::from(u32::MAX));
        let work = async move {
            let copied =
                vfs.copy_range((handle(fh_in), offset_in), (handle(fh_out), offset_out), bytes).await?;
            Ok(u32::try_from(copied).expect("no more than was asked for"))
        };
        self.perform("copy a range", ino_out, work, |copied| match copied {
            Ok(bytes) => reply.written(bytes),
            Err(errno) => reply.error(errno),
        });
    }
}
