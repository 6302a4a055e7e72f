//! The words between the FTP front and the mount: arm, prepare, commit, go on, rename, and what concerns a path: what is
//! held of a broken upload, and that it is about to be listed.
//!
//! The front speaks them with ioctl(2) on descriptors of the mount; the kernel hands them to the mount as
//! FUSE_IOCTL with the open handle, and without any inode lock, so that a slow commit holds up nobody
//! else in the directory. Both ends are here, so that there is one truth about their layout. This is the
//! one file with `unsafe`: ioctl(2) takes a pointer.
//!
//! ```text
//! open(O_WRONLY | O_CREAT | O_TRUNC | O_NONBLOCK)
//!   ARM        from now on only COMMIT publishes; a close without it discards
//!   GO_ON      the first bytes are held of a broken upload: what is written follows them
//!   write …    EAGAIN when the mount has no memory to spare: wait by poll(2)
//!   PREPARE    no more bytes will come: send what can be sent without publishing
//!   COMMIT     publish; returns when the object is in COS, whole and checked
//! close
//! ```

use std::{
    ffi::OsStr,
    io,
    os::{fd::AsFd, unix::ffi::OsStrExt},
};

use rustix::ioctl::{Opcode, Updater};

/// A request, as its number travels: direction, size and letter packed as `_IOWR` does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    Arm,
    Prepare,
    Commit,
    Rename,
    Path,
    GoOn,
}

/// Bytes that PATH carries: a wish, a length, a path.
pub const PATH_WORD_BYTES: usize = 8 + PATH_BYTES_MAX;
/// Bytes that ARM, PREPARE, COMMIT and GO_ON carry each way (the kernel passes 12 at least).
pub const HANDLE_WORD_BYTES: usize = 16;
/// Bytes that RENAME carries: flags, two lengths, two paths.
pub const RENAME_WORD_BYTES: usize = 8 + 2 * PATH_BYTES_MAX;
/// Longest path of a RENAME or PATH, relative to the root of the mount: above the longest key.
pub const PATH_BYTES_MAX: usize = 1024;

const NO_REPLACE: u32 = 1;

impl Word {
    const ALL: [Self; 6] = [Self::Arm, Self::Prepare, Self::Commit, Self::Rename, Self::Path, Self::GoOn];

    /// The request number of ioctl(2).
    pub const fn number(self) -> u32 {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "both lengths fit the 14 bits that a word has for them"
        )]
        let (number, bytes) = match self {
            Self::Arm => (1, HANDLE_WORD_BYTES as u32),
            Self::Prepare => (2, HANDLE_WORD_BYTES as u32),
            Self::Commit => (3, HANDLE_WORD_BYTES as u32),
            Self::Rename => (4, RENAME_WORD_BYTES as u32),
            Self::Path => (5, PATH_WORD_BYTES as u32),
            Self::GoOn => (6, HANDLE_WORD_BYTES as u32),
        };
        // _IOC(READ | WRITE, 'C', number, bytes) of <asm-generic/ioctl.h>.
        (3 << 30) | (bytes << 16) | ((b'C' as u32) << 8) | number
    }

    /// The word of a request number, if it is one of ours.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|word| word.number() == number)
    }
}

/// What COMMIT and GO_ON say. COMMIT: how many bytes the front has written. Another size than the mount's is a broken transfer.
/// GO_ON: how many are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitWord {
    pub bytes: u64,
}

impl CommitWord {
    /// As it travels.
    pub fn encode(self) -> [u8; HANDLE_WORD_BYTES] {
        let mut data = [0; HANDLE_WORD_BYTES];
        data[..8].copy_from_slice(&self.bytes.to_ne_bytes());
        data
    }

    /// From what travelled.
    pub fn decode(data: &[u8]) -> Option<Self> {
        Some(Self { bytes: u64::from_ne_bytes(data.get(..8)?.try_into().ok()?) })
    }
}

/// What RENAME says. Paths are relative to the root of the mount, without a leading slash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenameWord<'a> {
    pub from: &'a OsStr,
    pub to: &'a OsStr,
    /// Fail where `to` exists.
    pub no_replace: bool,
}

impl<'a> RenameWord<'a> {
    /// As it travels; `None` where a path is too long to be a key.
    pub fn encode(&self) -> Option<Box<[u8; RENAME_WORD_BYTES]>> {
        let (from, to) = (self.from.as_bytes(), self.to.as_bytes());
        if from.len() > PATH_BYTES_MAX || to.len() > PATH_BYTES_MAX {
            return None;
        }
        let mut data = Box::new([0; RENAME_WORD_BYTES]);
        let flags = if self.no_replace { NO_REPLACE } else { 0 };
        data[..4].copy_from_slice(&flags.to_ne_bytes());
        data[4..6].copy_from_slice(&u16::try_from(from.len()).ok()?.to_ne_bytes());
        data[6..8].copy_from_slice(&u16::try_from(to.len()).ok()?.to_ne_bytes());
        data[8..8 + from.len()].copy_from_slice(from);
        let second = 8 + PATH_BYTES_MAX;
        data[second..second + to.len()].copy_from_slice(to);
        Some(data)
    }

    /// From what travelled; `None` where it is not what [`Self::encode`] makes.
    pub fn decode(data: &'a [u8]) -> Option<Self> {
        let flags = u32::from_ne_bytes(data.get(..4)?.try_into().ok()?);
        let from_bytes = usize::from(u16::from_ne_bytes(data.get(4..6)?.try_into().ok()?));
        let to_bytes = usize::from(u16::from_ne_bytes(data.get(6..8)?.try_into().ok()?));
        if from_bytes > PATH_BYTES_MAX || to_bytes > PATH_BYTES_MAX {
            return None;
        }
        let second = 8 + PATH_BYTES_MAX;
        Some(Self {
            from: OsStr::from_bytes(data.get(8..8 + from_bytes)?),
            to: OsStr::from_bytes(data.get(second..second + to_bytes)?),
            no_replace: flags & NO_REPLACE != 0,
        })
    }
}

/// What PATH says: a path, as in RENAME, and what is wished of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathWord<'a> {
    pub path: &'a OsStr,
    pub wish: PathWish,
}

/// What PATH is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathWish {
    /// Tell how much is held of a broken upload.
    Held,
    /// Tell, to go on with it, or with the file that is there.
    HeldToGoOn,
    /// Abort what is held.
    DropHeld,
    /// It is a directory that is about to be listed.
    ListAhead,
}

impl<'a> PathWord<'a> {
    /// As it travels; `None` where the path is too long to be a key.
    pub fn encode(&self) -> Option<Box<[u8; PATH_WORD_BYTES]>> {
        let path = self.path.as_bytes();
        if path.len() > PATH_BYTES_MAX {
            return None;
        }
        let mut data = Box::new([0; PATH_WORD_BYTES]);
        let wish: u32 = match self.wish {
            PathWish::Held => 0,
            PathWish::DropHeld => 1,
            PathWish::HeldToGoOn => 2,
            PathWish::ListAhead => 3,
        };
        data[..4].copy_from_slice(&wish.to_ne_bytes());
        data[4..6].copy_from_slice(&u16::try_from(path.len()).ok()?.to_ne_bytes());
        data[8..8 + path.len()].copy_from_slice(path);
        Some(data)
    }

    /// From what travelled; `None` where it is not what [`Self::encode`] makes.
    pub fn decode(data: &'a [u8]) -> Option<Self> {
        let wish = match u32::from_ne_bytes(data.get(..4)?.try_into().ok()?) {
            0 => PathWish::Held,
            1 => PathWish::DropHeld,
            2 => PathWish::HeldToGoOn,
            3 => PathWish::ListAhead,
            _ => return None,
        };
        let bytes = usize::from(u16::from_ne_bytes(data.get(4..6)?.try_into().ok()?));
        if bytes > PATH_BYTES_MAX {
            return None;
        }
        Some(Self { path: OsStr::from_bytes(data.get(8..8 + bytes)?), wish })
    }

    /// The answer where it is asked what is held: how many bytes, 0 for nothing.
    pub fn answer(bytes: u64) -> [u8; 8] {
        bytes.to_ne_bytes()
    }
}

/// Arms an open descriptor: only [`commit`] publishes what is written to it.
///
/// # Errors
/// ENOTTY where the descriptor is not of a cosgate mount; EPERM where the caller may not.
pub fn arm(file: impl AsFd) -> io::Result<()> {
    speak::<{ Word::Arm.number() }, _>(file, &mut [0; HANDLE_WORD_BYTES])
}

/// Tells that no more bytes will come. Blocks while they travel; publishes nothing.
///
/// # Errors
/// What the store answered; the descriptor can only be closed then.
pub fn prepare(file: impl AsFd) -> io::Result<()> {
    speak::<{ Word::Prepare.number() }, _>(file, &mut [0; HANDLE_WORD_BYTES])
}

/// Publishes the `bytes` written. Blocks until the object is in COS, whole and checked.
///
/// # Errors
/// ESTALE where the name was unlinked or replaced by a rename meanwhile; EINVAL where the mount counted
/// other bytes; else what the store answered. The object of before is then as it was.
pub fn commit(file: impl AsFd, bytes: u64) -> io::Result<()> {
    speak::<{ Word::Commit.number() }, _>(file, &mut CommitWord { bytes }.encode())
}

/// Renames below the root of a mount, without the locks that rename(2) takes.
///
/// # Errors
/// As rename(2); ENAMETOOLONG where a path cannot be a key.
pub fn rename(root: impl AsFd, word: &RenameWord<'_>) -> io::Result<()> {
    let mut data = word.encode().ok_or(rustix::io::Errno::NAMETOOLONG)?;
    speak::<{ Word::Rename.number() }, _>(root, &mut data)
}

/// How many bytes are held of a broken upload of a name that does not exist, below the root of a mount; `None` where
/// nothing is. Waits for a transfer of it that is just being closed.
///
/// # Errors
/// EBUSY where its upload is under way; ESTALE where somebody is to go on, and the file that is there is older than an
/// upload which broke; else what the store answered.
pub fn held(root: impl AsFd, path: &OsStr, to_go_on: bool) -> io::Result<Option<u64>> {
    let wish = if to_go_on { PathWish::HeldToGoOn } else { PathWish::Held };
    let data = speak_of(root, path, wish)?;
    let bytes = CommitWord::decode(&data[..]).map_or(0, |answer| answer.bytes);
    Ok((bytes > 0).then_some(bytes))
}

/// Aborts what is held of such a name.
///
/// # Errors
/// ENOENT where nothing is; else as [`held`] and as unlink(2).
pub fn drop_held(root: impl AsFd, path: &OsStr) -> io::Result<()> {
    speak_of(root, path, PathWish::DropHeld).map(drop)
}

/// Tells that a directory below the root of a mount is about to be listed. Does not wait.
///
/// # Errors
/// ENOTTY where the descriptor is not of a cosgate mount; nothing depends on the word.
pub fn ahead(root: impl AsFd, path: &OsStr) -> io::Result<()> {
    speak_of(root, path, PathWish::ListAhead).map(drop)
}

/// Goes on with the `bytes` that are held of this file, armed and new: what is written follows them, from that
/// offset on.
///
/// # Errors
/// EINVAL where another number of bytes is held; EBUSY where another one goes on with it.
pub fn go_on(file: impl AsFd, bytes: u64) -> io::Result<()> {
    speak::<{ Word::GoOn.number() }, _>(file, &mut CommitWord { bytes }.encode())
}

/// Speaks PATH; returns what it carries back.
fn speak_of(root: impl AsFd, path: &OsStr, wish: PathWish) -> io::Result<Box<[u8; PATH_WORD_BYTES]>> {
    let mut data = PathWord { path, wish }.encode().ok_or(rustix::io::Errno::NAMETOOLONG)?;
    speak::<{ Word::Path.number() }, _>(root, &mut data)?;
    Ok(data)
}

fn speak<const OPCODE: Opcode, const BYTES: usize>(
    file: impl AsFd,
    data: &mut [u8; BYTES],
) -> io::Result<()> {
    // SAFETY: `OPCODE` tells the kernel to read and write exactly `BYTES` bytes at `data`, which
    // `Word::number` packs from the same constants that size the arrays given here.
    #[expect(unsafe_code, reason = "ioctl(2) takes a pointer; this is the one place that gives it one")]
    unsafe {
        rustix::ioctl::ioctl(file, Updater::<OPCODE, [u8; BYTES]>::new(data))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_survive_the_journey() {
        let word = RenameWord { from: OsStr::new("a/b c"), to: OsStr::new("深/圳"), no_replace: true };
        let data = word.encode().expect("both paths are short");
        assert_eq!(data.len(), RENAME_WORD_BYTES);
        assert_eq!(RenameWord::decode(&data[..]), Some(word));
        assert_eq!(CommitWord::decode(&CommitWord { bytes: 7 }.encode()), Some(CommitWord { bytes: 7 }));
        for wish in [PathWish::Held, PathWish::HeldToGoOn, PathWish::DropHeld, PathWish::ListAhead] {
            let word = PathWord { path: OsStr::new("深/圳"), wish };
            assert_eq!(PathWord::decode(&word.encode().expect("it is short")[..]), Some(word));
        }
        let long = "x".repeat(PATH_BYTES_MAX + 1);
        assert_eq!(PathWord { path: OsStr::new(&long), wish: PathWish::Held }.encode(), None);
        assert_eq!(
            RenameWord { from: OsStr::new(&long), to: OsStr::new("a"), no_replace: false }.encode(),
            None
        );
    }

    #[test]
    fn numbers_are_told_apart_and_strangers_refused() {
        for word in Word::ALL {
            assert_eq!(Word::from_number(word.number()), Some(word));
        }
        assert_eq!(Word::from_number(0x5413), None);
        assert_eq!(RenameWord::decode(&[0xff; 32]), None);
        assert_eq!(PathWord::decode(&[0xff; 32]), None);
    }
}
