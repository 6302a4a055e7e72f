//! The ceiling of every file system in user space: it throws away what it gets and invents what it gives.
//!
//! ```text
//! cargo run --release --example null_fuse -- MOUNT_POINT
//! ```
//!
//! One directory, in which every name is a file of 1 GiB of zeros. Mounted as `cosgate mount` is: requests of
//! 1 MiB, two loops. Ends when it is unmounted.

use std::{
    ffi::OsStr,
    time::{Duration, UNIX_EPOCH},
};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo, InitFlags, KernelConfig,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite,
    Request, SessionACL, WriteFlags,
};

const FILE: INodeNo = INodeNo(2);
const FILE_BYTES: u64 = 1 << 30;
const REQUEST_BYTES: u32 = 1 << 20;
const TTL: Duration = Duration::from_secs(60);

struct NullFs {
    zeros: Vec<u8>,
}

fn attr(ino: INodeNo) -> FileAttr {
    let (kind, perm, size) = match ino {
        INodeNo::ROOT => (FileType::Directory, 0o777, 0),
        _ => (FileType::RegularFile, 0o666, FILE_BYTES),
    };
    FileAttr {
        ino,
        size,
        blocks: size / 512,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind,
        perm,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: REQUEST_BYTES,
        flags: 0,
    }
}

impl Filesystem for NullFs {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // What the kernel does not have stays at its default: slower, and still a ceiling.
        config.add_capabilities(InitFlags::FUSE_MAX_PAGES | InitFlags::FUSE_BIG_WRITES).ok();
        config.set_max_write(REQUEST_BYTES).ok();
        config.set_max_readahead(REQUEST_BYTES).ok();
        Ok(())
    }

    fn lookup(&self, _request: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEntry) {
        reply.entry(&TTL, &attr(FILE), fuser::Generation(0));
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attr(ino));
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<fuser::TimeOrNow>,
        _mtime: Option<fuser::TimeOrNow>,
        _ctime: Option<std::time::SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<std::time::SystemTime>,
        _chgtime: Option<std::time::SystemTime>,
        _bkuptime: Option<std::time::SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&TTL, &attr(ino));
    }

    fn create(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.created(&TTL, &attr(FILE), fuser::Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn open(&self, _request: &Request, _ino: INodeNo, flags: OpenFlags, reply: fuser::ReplyOpen) {
        // Writers go past the page cache, as those of cosgate do; readers have it.
        let writes = flags.acc_mode() != fuser::OpenAccMode::O_RDONLY;
        let how = if writes { FopenFlags::FOPEN_DIRECT_IO } else { FopenFlags::empty() };
        reply.opened(FileHandle(0), how);
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = usize::try_from(FILE_BYTES.saturating_sub(offset)).unwrap_or(usize::MAX);
        reply.data(&self.zeros[..left.min(size as usize).min(self.zeros.len())]);
    }

    fn write(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match u32::try_from(data.len()) {
            Ok(bytes) => reply.written(bytes),
            Err(_) => reply.error(Errno::EINVAL),
        }
    }

    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}

fn main() -> std::io::Result<()> {
    let Some(point) = std::env::args_os().nth(1) else {
        eprintln!("usage: null_fuse MOUNT_POINT");
        std::process::exit(64);
    };
    let mut config = Config::default();
    config.mount_options = vec![MountOption::FSName("null".to_owned()), MountOption::DefaultPermissions];
    config.acl = SessionACL::All;
    config.n_threads = Some(2);
    fuser::mount(NullFs { zeros: vec![0; REQUEST_BYTES as usize] }, point, &config)
}
