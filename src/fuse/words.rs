//! The kernel's numbers into ours, and back.

use std::time::SystemTime;

use fuser::{FileAttr, FileType, FopenFlags, INodeNo, TimeOrNow};
use rustix::fs::{FallocateFlags, OFlags};

use crate::vfs::{Allocation, Attributes, FileKind, InodeNo, OpenHow};

/// The block size that stat and statfs show: `cp` then moves pieces of 1 MiB.
pub(super) const BLOCK_BYTES: u32 = 1 << 20;
/// The unit in which a quota is told by statfs.
pub(super) const QUOTA_BLOCK_BYTES: u32 = 512;
/// What `st_blocks` counts.
const SECTOR_BYTES: u64 = 512;
const PERMISSION_BITS: u32 = 0o7777;

pub(super) fn inode(ino: INodeNo) -> InodeNo {
    InodeNo(ino.0)
}

pub(super) fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
    }
}

pub(super) fn attributes(shown: &Attributes) -> FileAttr {
    FileAttr {
        ino: INodeNo(shown.inode.0),
        size: shown.bytes,
        blocks: shown.bytes.div_ceil(SECTOR_BYTES),
        atime: shown.accessed,
        mtime: shown.modified,
        ctime: shown.modified,
        crtime: shown.modified,
        kind: kind(shown.kind),
        perm: shown.mode,
        nlink: shown.links,
        uid: shown.uid,
        gid: shown.gid,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// What an absent name leads to: inode 0, the rest is not looked at.
pub(super) fn absent() -> FileAttr {
    attributes(&Attributes {
        inode: InodeNo(0),
        kind: FileKind::File,
        bytes: 0,
        modified: SystemTime::UNIX_EPOCH,
        accessed: SystemTime::UNIX_EPOCH,
        mode: 0,
        uid: 0,
        gid: 0,
        links: 0,
    })
}

/// The permission bits of a mode.
pub(super) fn permissions(mode: u32) -> u16 {
    u16::try_from(mode & PERMISSION_BITS).unwrap_or(0)
}

pub(super) fn time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}

/// Whether `flag` stands in the flags of open(2) or fcntl(2), as the kernel hands them on.
pub(super) fn has(flags: i32, flag: OFlags) -> bool {
    OFlags::from_bits_retain(flags.cast_unsigned()).contains(flag)
}

pub(super) fn open_how(flags: i32) -> OpenHow {
    let access = OFlags::from_bits_retain(flags.cast_unsigned()) & OFlags::ACCMODE;
    OpenHow {
        read: access == OFlags::RDONLY || access == OFlags::RDWR,
        write: access == OFlags::WRONLY || access == OFlags::RDWR,
        truncate: has(flags, OFlags::TRUNC),
        append: has(flags, OFlags::APPEND),
        exclusive: has(flags, OFlags::EXCL),
        alone: has(flags, OFlags::NONBLOCK),
    }
}

/// What a mode of fallocate(2) asks for; `None`: nothing that a bucket has.
pub(super) fn allocation(mode: i32) -> Option<Allocation> {
    const KEEP_SIZE: FallocateFlags = FallocateFlags::KEEP_SIZE;
    let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
    if mode.is_empty() {
        Some(Allocation::Extend)
    } else if mode == KEEP_SIZE {
        Some(Allocation::Reserve)
    } else if mode == FallocateFlags::PUNCH_HOLE | KEEP_SIZE || mode == FallocateFlags::ZERO_RANGE | KEEP_SIZE
    {
        Some(Allocation::Punch)
    } else if mode == FallocateFlags::ZERO_RANGE {
        Some(Allocation::Zero)
    } else {
        None
    }
}

/// A reader's close needs no answer, so the kernel need not ask.
pub(super) fn fopen_flags(how: OpenHow) -> FopenFlags {
    let direct = FopenFlags::FOPEN_DIRECT_IO;
    if how.write { direct } else { direct | FopenFlags::FOPEN_NOFLUSH }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_of_open_say_how() {
        let flags = |flags: OFlags| open_how(flags.bits().cast_signed());
        let how = flags(OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::EXCL);
        assert_eq!(how, OpenHow { write: true, truncate: true, exclusive: true, ..OpenHow::default() });
        let how = flags(OFlags::RDWR | OFlags::APPEND);
        assert_eq!(how, OpenHow { read: true, write: true, append: true, ..OpenHow::default() });
        assert_eq!(flags(OFlags::RDONLY), OpenHow { read: true, ..OpenHow::default() });
    }

    #[test]
    fn only_readers_close_without_a_word() {
        let writer = OpenHow { read: true, write: true, ..OpenHow::default() };
        assert_eq!(fopen_flags(writer), FopenFlags::FOPEN_DIRECT_IO);
        let reader = OpenHow { read: true, ..OpenHow::default() };
        assert!(fopen_flags(reader).contains(FopenFlags::FOPEN_NOFLUSH));
    }

    #[test]
    fn modes_lose_the_kind_of_file() {
        assert_eq!(permissions(0o100_644), 0o644);
        assert_eq!(permissions(0o104_755), 0o4755);
    }
}
