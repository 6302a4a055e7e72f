//! A user's home: a directory of a mount, held by a descriptor that is what it claims to be.
//!
//! Before the first mount, and between a crash and the remount, the path of a home is local disk. Nothing
//! may land there. So the front never works by path: it opens the root once, makes sure that it is FUSE and
//! that `user.cosgate.mount` names the mount of this account, and does everything below that descriptor.
//! When the mount has died (ENOTCONN, ECONNABORTED) the root is opened anew with the same check, and
//! sessions that are logged in go on. Meanwhile every file command answers 450.
//!
//! Paths are resolved by `openat2(RESOLVE_BENEATH)` here and by cap-std in the stock backend: no path and no
//! symlink leads out of the root.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use rustix::{
    fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags},
    io::Errno,
};
use tracing::{debug, info, warn};
use unftp_sbe_fs::Filesystem;

use super::{path::ClientPath, resume::Outdated};
use crate::ioctl::{self, RenameWord};

/// Where a user's files are.
#[derive(Debug)]
pub(super) struct Home {
    path: PathBuf,
    /// The home beneath that path; empty: the path itself.
    directory: PathBuf,
    /// The mount's name, which its root must bear.
    mount: String,
    ground: Ground,
    current: Mutex<Held>,
    pub(super) outdated: Outdated,
}

#[derive(Debug, Default)]
struct Held {
    root: Option<Arc<Root>>,
    /// What the log has been told: once, not with each command.
    told: Told,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Told {
    #[default]
    Nothing,
    There,
    Away,
}

/// What a home must lie on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ground {
    Mount,
    /// Any directory, for tests of the wire alone: nothing is armed or committed, and 226 promises nothing.
    #[cfg(test)]
    Plain,
}

/// The root of a home, open.
#[derive(Debug)]
pub(super) struct Root {
    dir: OwnedFd,
    /// Where the home is a directory beneath it: the root of the mount, and the path of the home.
    above: Option<(OwnedFd, PathBuf)>,
    /// The stock backend over `dir`.
    stock: Filesystem,
    ground: Ground,
}

/// How a file is opened for an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StoreHow {
    Replace,
    Append,
    /// A name that nobody has.
    New,
    /// From `at` on: the bytes before are held of a broken upload.
    GoOn {
        at: u64,
    },
    /// From `at` on: the bytes before are those of the file that is there; what it has behind them goes.
    From {
        at: u64,
    },
}

impl Home {
    /// `path`: the root of the mount; `directory`: the home beneath it, may be empty.
    pub(super) fn new(path: &Path, directory: &Path, mount: &str, ground: Ground) -> Self {
        let (path, directory) = (path.to_owned(), directory.to_owned());
        Self {
            path,
            directory,
            mount: mount.to_owned(),
            ground,
            current: Mutex::default(),
            outdated: Outdated::default(),
        }
    }

    /// Whether the home is there, as far as the mount is: asked at a login. A directory that was removed and
    /// made again is another one, so it is looked for anew.
    ///
    /// # Errors
    /// ENOENT, ENOTDIR, ELOOP: the directory beneath the root is missing, or is none. Never for a home that
    /// is the root itself, or while the mount is away: then each command says so.
    pub(super) async fn find(self: &Arc<Self>) -> io::Result<()> {
        if self.directory.as_os_str().is_empty() {
            return Ok(());
        }
        self.current.lock().root = None;
        match self.run(|_| Ok(())).await {
            Err(error) if is_missing(&error) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The open root, opened if need be. Blocks.
    ///
    /// # Errors
    /// ENOTCONN while the mount is away; EMFILE and the like.
    pub(super) fn root(&self) -> io::Result<Arc<Root>> {
        if let Some(root) = self.current.lock().root.clone() {
            return Ok(root);
        }
        match Root::open(&self.path, &self.mount, self.ground) {
            Ok(dir) => {
                let root = Arc::new(Root::beneath(dir, &self.directory, self.ground)?);
                let held = Held { root: Some(root.clone()), told: Told::There };
                if std::mem::replace(&mut *self.current.lock(), held).told != Told::There {
                    info!(home = %self.path.display(), mount = self.mount, "home is there");
                }
                Ok(root)
            }
            Err(error) if is_shortage(&error) => Err(error),
            Err(error) => {
                if std::mem::replace(&mut self.current.lock().told, Told::Away) != Told::Away {
                    warn!(home = %self.path.display(), mount = self.mount, %error, "mount is away");
                }
                Err(Errno::NOTCONN.into())
            }
        }
    }

    /// The mount behind `root` has died: the next one who asks opens it anew.
    pub(super) fn leave(&self, root: &Arc<Root>) {
        let mut current = self.current.lock();
        if current.root.as_ref().is_some_and(|held| Arc::ptr_eq(held, root)) {
            *current = Held::default();
        }
    }

    /// Runs `deed` beneath the root, on a thread where it may block; once more on a new root where the
    /// mount had died before it was asked.
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        deed: impl Fn(&Arc<Root>) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let home = self.clone();
        blocking(move || {
            let root = home.root()?;
            match deed(&root) {
                Err(error) if is_away(&error) => {
                    home.leave(&root);
                    // ECONNABORTED: it was under way when the mount died, and may have been done.
                    if Errno::from_io_error(&error) == Some(Errno::CONNABORTED) {
                        return Err(error);
                    }
                    deed(&home.root()?)
                }
                done => done,
            }
        })
        .await
    }
}

impl Root {
    /// The root of the mount, if it is what it claims to be.
    fn open(path: &Path, mount: &str, ground: Ground) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, path, flags, Mode::empty())?;
        match ground {
            Ground::Mount => check_identity(&dir, mount)?,
            #[cfg(test)]
            Ground::Plain => {}
        }
        Ok(dir)
    }

    /// The home at `directory`, which may be empty, beneath the root of a mount. No symlink is followed on
    /// the way: RENAME says the path to the mount, which follows none.
    fn beneath(root: OwnedFd, directory: &Path, ground: Ground) -> io::Result<Self> {
        let (dir, above) = if directory.as_os_str().is_empty() {
            (root, None)
        } else {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
            let dir = rustix::fs::openat2(&root, directory, flags, Mode::empty(), resolve)?;
            (dir, Some((root, directory.to_owned())))
        };
        // By way of the descriptor and not of the path, which may lead to another mount by now.
        let stock = Filesystem::new(format!("/proc/self/fd/{}", dir.as_raw_fd()))?;
        Ok(Self { dir, above, stock, ground })
    }

    /// The root of the mount, which its words are said to.
    pub(super) fn mount_root(&self) -> &OwnedFd {
        self.above.as_ref().map_or(&self.dir, |(root, _)| root)
    }

    /// A client's path as the mount knows it.
    pub(super) fn in_mount(&self, path: &ClientPath) -> PathBuf {
        self.path_in_mount(Path::new(path.relative()))
    }

    /// A path beneath the home as the mount knows it.
    fn path_in_mount(&self, beneath: &Path) -> PathBuf {
        self.above.as_ref().map_or_else(|| beneath.to_owned(), |(_, directory)| directory.join(beneath))
    }

    /// The same path without the links to directories on its way, which the mount does not follow. What the last
    /// piece names is not looked at.
    ///
    /// # Errors
    /// EXDEV where the way leads out of the home.
    fn straight(&self, path: &ClientPath) -> io::Result<PathBuf> {
        let parent = self.open_beneath(&path.parent(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        let place = |dir: &OwnedFd| std::fs::read_link(format!("/proc/self/fd/{}", dir.as_raw_fd()));
        let (home, parent) = (place(&self.dir)?, place(&parent)?);
        let beneath = parent.strip_prefix(&home).map_err(|_| Errno::XDEV)?;
        Ok(self.path_in_mount(&beneath.join(path.file_name())))
    }

    /// The directory itself.
    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.dir
    }

    pub(super) fn stock(&self) -> &Filesystem {
        &self.stock
    }

    /// Opens beneath the root. EAGAIN of openat2(2) means that something was renamed while the path was
    /// walked: worth a few tries.
    pub(super) fn open_beneath(&self, path: &ClientPath, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let mut tries = 0;
        loop {
            match rustix::fs::openat2(&self.dir, path.relative(), flags | OFlags::CLOEXEC, mode, resolve) {
                Err(Errno::AGAIN) if tries < 16 => tries += 1,
                done => return Ok(done?),
            }
        }
    }

    /// A file to be filled, armed: closing it discards, [`Self::commit`] publishes.
    pub(super) fn open_to_store(&self, path: &ClientPath, how: StoreHow) -> io::Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
        let how = match how {
            StoreHow::GoOn { at } => return self.open_to_go_on(path, at),
            StoreHow::From { at } => return self.open_to_store_from(path, at),
            StoreHow::Replace => OFlags::TRUNC,
            StoreHow::Append => OFlags::APPEND,
            StoreHow::New => OFlags::EXCL,
        };
        let file = self.open_beneath(path, flags | how, Mode::from_raw_mode(0o666))?;
        match self.ground {
            Ground::Mount => ioctl::arm(&file)?,
            #[cfg(test)]
            Ground::Plain => {}
        }
        Ok(file)
    }

    /// The last bytes are there; sends what can be sent. Blocks.
    pub(super) fn prepare(&self, file: &OwnedFd) -> io::Result<()> {
        match self.ground {
            Ground::Mount => ioctl::prepare(file),
            #[cfg(test)]
            Ground::Plain => Ok(()),
        }
    }

    /// Publishes. Blocks until the object is in COS.
    pub(super) fn commit(&self, file: &OwnedFd, bytes: u64) -> io::Result<()> {
        match self.ground {
            Ground::Mount => ioctl::commit(file, bytes),
            #[cfg(test)]
            Ground::Plain => Ok(()),
        }
    }

    /// A plain file to be read, and its facts.
    pub(super) fn open_to_read(&self, path: &ClientPath) -> io::Result<(OwnedFd, Facts)> {
        // Without O_NONBLOCK a named pipe would hold the thread until somebody writes to it.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.open_beneath(path, flags, Mode::empty())?;
        let facts = Facts::of_file(&file)?;
        match facts.kind {
            Kind::File => Ok((file, facts)),
            Kind::Directory => Err(Errno::ISDIR.into()),
            Kind::Link | Kind::Other => Err(Errno::NODEV.into()),
        }
    }

    /// A directory to be listed.
    pub(super) fn open_directory(&self, path: &ClientPath) -> io::Result<OwnedFd> {
        self.open_beneath(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// Tells the mount that a directory is about to be listed. Nothing depends on it.
    pub(super) fn will_list(&self, path: &ClientPath) {
        if self.ground == Ground::Mount
            && let Err(error) = ioctl::ahead(self.mount_root(), self.in_mount(path).as_os_str())
        {
            debug!(%error, "the mount was not told what will be listed");
        }
    }

    /// What a path leads to, links within the root followed.
    pub(super) fn look(&self, path: &ClientPath) -> io::Result<Facts> {
        let file = self.open_beneath(path, OFlags::PATH, Mode::empty())?;
        Facts::of_file(&file)
    }

    /// Renames without the locks that rename(2) takes.
    pub(super) fn rename(&self, from: &ClientPath, to: &ClientPath) -> io::Result<()> {
        match self.ground {
            Ground::Mount => {
                let rename = |from: &Path, to: &Path| {
                    let word = RenameWord { from: from.as_ref(), to: to.as_ref(), no_replace: false };
                    ioctl::rename(self.mount_root(), &word)
                };
                let written = (self.in_mount(from), self.in_mount(to));
                let done = rename(&written.0, &written.1);
                if !done.as_ref().is_err_and(|error| Errno::from_io_error(error) == Some(Errno::NOTDIR)) {
                    return done;
                }
                let straight = (self.straight(from)?, self.straight(to)?);
                if straight == written { done } else { rename(&straight.0, &straight.1) }
            }
            #[cfg(test)]
            Ground::Plain => Ok(rustix::fs::renameat(&self.dir, from.relative(), &self.dir, to.relative())?),
        }
    }
}

/// FUSE, and the mount of this account.
fn check_identity(dir: &OwnedFd, mount: &str) -> io::Result<()> {
    let kind = rustix::fs::fstatfs(dir)?.f_type;
    if u64::try_from(kind).ok() != Some(FUSE_MAGIC) {
        return Err(io::Error::other("nothing is mounted there"));
    }
    let mut name = Vec::with_capacity(NAME_BYTES_MAX);
    rustix::fs::fgetxattr(dir, "user.cosgate.mount", rustix::buffer::spare_capacity(&mut name))
        .map_err(|_| io::Error::other("another file system is mounted there"))?;
    if is_identity_of(&String::from_utf8_lossy(&name), mount) {
        Ok(())
    } else {
        Err(io::Error::other("another mount is mounted there"))
    }
}

/// A mount says `NAME BUCKET/PREFIX`: neither a space nor a slash is in the name of a bucket.
fn is_identity_of(said: &str, mount: &str) -> bool {
    let head = said.split('/').next().unwrap_or_default();
    head.rsplit_once(' ').is_some_and(|(name, _bucket)| name == mount)
}

/// FUSE_SUPER_MAGIC of <linux/magic.h>.
const FUSE_MAGIC: u64 = 0x6573_5546;
/// Longest identity: a section's name, a bucket, a prefix of at most 850 bytes.
const NAME_BYTES_MAX: usize = 4096;

/// The mount is dead, as its descriptors tell.
pub(super) fn is_away(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOTCONN | Errno::CONNABORTED))
}

/// The directory of a home beneath its root is not there.
fn is_missing(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP))
}

fn is_shortage(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM))
}

/// Runs what may block on a thread for that.
pub(super) async fn blocking<T: Send + 'static>(
    deed: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(deed).await {
        Ok(done) => done,
        Err(error) => Err(io::Error::other(error)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Link,
    Other,
}

/// What listings and SIZE, MDTM, MLST tell of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) kind: Kind,
    pub(super) bytes: u64,
    /// Seconds since 1970.
    pub(super) modified: i64,
    /// Permission bits only.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) links: u32,
    pub(super) inode: u64,
    pub(super) device: u64,
}

impl Facts {
    pub(super) fn of_file(file: impl AsFd) -> io::Result<Self> {
        Self::at(file, "", AtFlags::EMPTY_PATH)
    }

    /// As [`Self::of_file`], asking the mount again even where the kernel believes to know.
    pub(super) fn afresh(file: impl AsFd) -> io::Result<Self> {
        Self::at(file, "", AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC)
    }

    /// Of one entry of a directory, links not followed.
    pub(super) fn of_entry(dir: impl AsFd, name: &std::ffi::CStr) -> io::Result<Self> {
        Self::at(dir, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    fn at(dir: impl AsFd, path: impl rustix::path::Arg, flags: AtFlags) -> io::Result<Self> {
        Ok(Self::from_stat(&rustix::fs::statx(dir, path, flags, StatxFlags::BASIC_STATS)?))
    }

    fn from_stat(stat: &Statx) -> Self {
        let kind = match rustix::fs::FileType::from_raw_mode(u32::from(stat.stx_mode)) {
            rustix::fs::FileType::RegularFile => Kind::File,
            rustix::fs::FileType::Directory => Kind::Directory,
            rustix::fs::FileType::Symlink => Kind::Link,
            _ => Kind::Other,
        };
        Self {
            kind,
            bytes: stat.stx_size,
            modified: stat.stx_mtime.tv_sec,
            mode: stat.stx_mode & 0o7777,
            uid: stat.stx_uid,
            gid: stat.stx_gid,
            links: stat.stx_nlink,
            inode: stat.stx_ino,
            device: (u64::from(stat.stx_dev_major) << 32) | u64::from(stat.stx_dev_minor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_no_mount_is_away() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::new(dir.path(), Path::new(""), "COS_ACCOUNT_0", Ground::Mount);
        let error = home.root().unwrap_err();
        assert!(is_away(&error), "{error}");
    }

    #[test]
    fn a_mount_is_known_by_its_whole_name() {
        assert!(is_identity_of("COS_ACCOUNT_0 demo-1250000000/some prefix/", "COS_ACCOUNT_0"));
        assert!(is_identity_of("COS_ACCOUNT_0 demo-1250000000/", "COS_ACCOUNT_0"));
        assert!(is_identity_of("a b demo-1/", "a b"));
        for said in ["", "COS_ACCOUNT_0", "COS_ACCOUNT_01 demo-1/", "COS_ACCOUNT_0 x demo-1/"] {
            assert!(!is_identity_of(said, "COS_ACCOUNT_0"), "{said}");
        }
    }

    #[test]
    fn links_that_lead_out_of_the_root_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("inside"), "x").unwrap();
        std::os::unix::fs::symlink("inside", dir.path().join("good")).unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../../etc/passwd", dir.path().join("relative")).unwrap();
        let root = Home::new(dir.path(), Path::new(""), "", Ground::Plain).root().unwrap();
        let at = |name: &str| ClientPath::home().join(name);
        assert_eq!(root.look(&at("good")).unwrap().bytes, 1);
        for name in ["absolute", "relative"] {
            let error = root.open_to_read(&at(name)).unwrap_err();
            assert_eq!(Errno::from_io_error(&error), Some(Errno::XDEV));
            assert!(root.open_to_store(&at(name), StoreHow::Replace).is_err());
        }
        assert!(std::fs::metadata("/etc/passwd").unwrap().len() > 0);
    }

    #[tokio::test]
    async fn a_home_beneath_the_root_is_found_anew_and_cannot_be_left() {
        let dir = tempfile::tempdir().unwrap();
        let home = Arc::new(Home::new(dir.path(), Path::new("pub/in"), "", Ground::Plain));
        let missing = home.find().await.unwrap_err();
        assert_eq!(Errno::from_io_error(&missing), Some(Errno::NOENT));
        std::fs::create_dir_all(dir.path().join("pub/in")).unwrap();
        std::fs::write(dir.path().join("secret"), "x").unwrap();
        std::os::unix::fs::symlink("../../secret", dir.path().join("pub/in/out")).unwrap();
        home.find().await.unwrap();
        let root = home.root().unwrap();
        for name in ["out", "../../secret", "/../secret"] {
            assert!(root.open_to_read(&ClientPath::home().join(name)).is_err(), "{name}");
        }
        let written = ClientPath::home().join("a/../b");
        assert_eq!(root.path_in_mount(Path::new(written.relative())), Path::new("pub/in/b"));
        std::fs::create_dir(dir.path().join("pub/in/real")).unwrap();
        std::os::unix::fs::symlink("real", dir.path().join("pub/in/linked")).unwrap();
        std::os::unix::fs::symlink("..", dir.path().join("pub/in/above")).unwrap();
        let straight = |name: &str| root.straight(&ClientPath::home().join(name));
        assert_eq!(straight("linked/x").unwrap(), Path::new("pub/in/real/x"));
        assert_eq!(straight("linked").unwrap(), Path::new("pub/in/linked"));
        assert_eq!(Errno::from_io_error(&straight("above/x").unwrap_err()), Some(Errno::XDEV));
        // Made again, it is another directory.
        std::fs::remove_dir_all(dir.path().join("pub")).unwrap();
        std::fs::create_dir_all(dir.path().join("pub/in")).unwrap();
        std::fs::write(dir.path().join("pub/in/new"), "x").unwrap();
        home.find().await.unwrap();
        assert_eq!(home.root().unwrap().look(&ClientPath::home().join("new")).unwrap().bytes, 1);
        std::fs::remove_dir_all(dir.path().join("pub")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("pub")).unwrap();
        home.find().await.unwrap_err();
    }
}
