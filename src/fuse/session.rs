//! Mounting and unmounting: the floor, the FUSE session on it, and what a crash has left.
//!
//! ```text
//! start   dead FUSE mount of ours? take it away -> floor there? else lay it -> FUSE on top (INIT answered)
//! stop    umount -> busy: MNT_FORCE ends what waits -> MNT_DETACH -> floor away
//! ```
//!
//! **The floor** is an empty read-only tmpfs with the owner and mode of the home. Before the first mount and
//! between a crash and the next start the home would be a plain local directory, and a program writing there
//! would be told that all is well; on the floor it gets EROFS.
//!
//! Nothing here asks a mount that this process serves for anything: what is mounted where is read from
//! `/proc/self/mountinfo`, and that a mount answers is known because its INIT was answered.

use std::{
    ffi::{CString, OsString},
    fs, io,
    os::unix::{
        ffi::OsStringExt,
        fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use fuser::{BackgroundSession, MountOption, Session, SessionACL};
use rustix::{
    fs::statfs,
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use tracing::{debug, info, warn};

use super::{Engine, FuseAdapter, notify::notify};
use crate::vfs::Vfs;

/// What the floor is called in `/proc/self/mountinfo`.
const FLOOR: &str = "cosgate-home";
/// The type of our mounts there.
const FUSE_TYPE: &str = "fuse.cosgate";
/// How long a mount may take to say whether it is alive.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);
/// How long a living mount on a home may take to go: the mount process of a `serve` that was killed ends
/// in order, and whoever starts the next one at once must not be turned away for it.
const PREDECESSOR_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at it. Also the time it has, once its mount is gone, to take its floor along.
const PREDECESSOR_LOOK: Duration = Duration::from_millis(200);
/// Between two looks whether the loops of a mount that is gone have ended.
const END_LOOK: Duration = Duration::from_millis(1);
/// FUSE loops of one session. More than cores lose; one would let a system call in it stop the mount.
const LOOPS: usize = 2;
/// Symbolic links followed on the way to a home, as the kernel's own limit.
const LINKS_MAX: usize = 40;

/// How one session is mounted.
#[derive(Debug, Clone)]
pub struct SessionOptions {
    /// What `mount` and `df` show as its source.
    pub source: String,
    pub allow_other: bool,
    /// How long the kernel may trust attributes.
    pub attr_ttl: Duration,
}

/// Why a directory cannot be mounted on.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("{path} is in use: a living cosgate serves it; stop that one first", path = .path.display())]
    Served { path: PathBuf },
    #[error("{path} is a dead mount of another program ({kind}): umount -l it", path = .path.display())]
    ForeignAndDead { path: PathBuf, kind: String },
    #[error("what is mounted on {path} does not answer: umount -f it", path = .path.display())]
    Silent { path: PathBuf },
    #[error("{path} holds files, which a mount would hide: empty it, or set nonempty = true", path = .path.display())]
    NotEmpty { path: PathBuf },
    #[error("{path} is not a directory", path = .path.display())]
    NotDirectory { path: PathBuf },
    #[error("cannot {what} {path}", path = .path.display())]
    Failed {
        what: &'static str,
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

impl MountError {
    fn failed(what: &'static str, path: &Path, cause: impl Into<io::Error>) -> Self {
        Self::Failed { what, path: path.to_owned(), cause: cause.into() }
    }
}

/// The empty read-only tmpfs on a directory, with the owner of what lies below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Floor {
    path: PathBuf,
    pub uid: u32,
    pub gid: u32,
}

impl Floor {
    /// Takes away what a crash has left on `home`, and lays the floor unless it lies there still. Blocks, for
    /// ten seconds at most, while the mount process of a gateway that was killed comes to its end.
    ///
    /// # Errors
    /// Where another mount is in the way, the directory holds files, or the kernel refuses.
    pub fn lay(home: &Path, nonempty: bool) -> Result<Self, MountError> {
        let path = mount_point_of(home)?;
        outlive_predecessor(&path)?;
        lay_floor(&path, nonempty)?;
        let floor = fs::metadata(&path).map_err(|cause| MountError::failed("look at", &path, cause))?;
        Ok(Self { path, uid: floor.uid(), gid: floor.gid() })
    }
}

/// One mounted session.
#[derive(Debug)]
pub struct FuseMount {
    path: PathBuf,
    session: Option<BackgroundSession>,
}

impl FuseMount {
    /// Mounts `vfs` on its floor and serves it from threads of its own. The mount answers when this returns.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub fn new(
        vfs: &Vfs,
        floor: Floor,
        engine: &Engine,
        options: &SessionOptions,
    ) -> Result<Self, MountError> {
        let path = floor.path;
        let mut config = fuser::Config::default();
        config.mount_options = vec![
            MountOption::FSName(options.source.clone()),
            // Makes it FUSE_TYPE. MountOption::Subtype is for fusermount alone.
            MountOption::CUSTOM("subtype=cosgate".to_owned()),
            MountOption::DefaultPermissions,
        ];
        config.acl = if options.allow_other { SessionACL::All } else { SessionACL::Owner };
        config.n_threads = Some(LOOPS);
        let adapter = FuseAdapter::new(vfs.clone(), engine.clone(), options.attr_ttl);
        let session = Session::new(adapter, &path, &config)
            .map_err(|cause| MountError::failed("mount FUSE on", &path, cause))?;
        vfs.attach(notify(session.notifier(), engine.runtime().clone()));
        let session =
            session.spawn().map_err(|cause| MountError::failed("start the FUSE loops of", &path, cause))?;
        info!(path = %path.display(), source = %options.source, "mounted");
        Ok(Self { path, session: Some(session) })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it was unmounted by somebody else: nobody is served here any more.
    pub fn is_lost(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.guard.is_finished())
    }

    /// Takes the mount away, whoever uses it, and the floor with it. Blocks for as long as the kernel needs.
    pub fn unmount(mut self) {
        self.take_away();
        if let Err(error) = take_floor(&self.path) {
            warn!(%error, "the floor stays");
        }
    }

    fn take_away(&mut self) {
        let Some(session) = self.session.take() else { return };
        // One that somebody else has unmounted is not there any more, and what lies there now is not ours.
        if !session.guard.is_finished() {
            match unmount(&self.path, UnmountFlags::empty()) {
                Ok(()) => info!(path = %self.path.display(), "unmounted"),
                Err(Errno::BUSY) => {
                    warn!(path = %self.path.display(), "somebody works in it: unmounted by force");
                    force(&self.path);
                }
                // Somebody else has unmounted it.
                Err(Errno::INVAL | Errno::NOENT) => {}
                Err(error) => warn!(path = %self.path.display(), %error, "cannot be unmounted"),
            }
        }
        wait_for_end(session);
    }
}

/// With the connection gone the loops end by themselves. What fuser keeps of a session is given up and not
/// dropped: its end unmounts by the path once more, whoever has mounted there by then, our successor perhaps.
/// That costs a descriptor for each mount that goes while the process stays.
fn wait_for_end(session: BackgroundSession) {
    while !session.guard.is_finished() {
        #[expect(clippy::disallowed_methods, reason = "unmounting blocks anyway, on a thread for it")]
        thread::sleep(END_LOOK);
    }
    std::mem::forget(session);
}

impl Drop for FuseMount {
    /// The floor stays: nobody has said that this was a clean stop.
    fn drop(&mut self) {
        self.take_away();
    }
}

/// Ends all requests of a mount, often saying EBUSY all the same, and then hides it.
fn force(path: &Path) {
    if let Err(error) = unmount(path, UnmountFlags::FORCE) {
        debug!(path = %path.display(), %error, "MNT_FORCE");
    }
    match unmount(path, UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => warn!(path = %path.display(), %error, "cannot be detached"),
    }
}

/// Takes dead FUSE mounts of ours off `path`; `path` is what [`mount_point_of`] returns. Whether there was one.
///
/// # Errors
/// Where something living or foreign is in the way.
pub fn clear_dead(path: &Path) -> Result<bool, MountError> {
    let mut cleared = false;
    loop {
        let Some(top) = mounted_on(path)?.pop() else { return Ok(cleared) };
        if top.is_floor() {
            return Ok(cleared);
        }
        match sign_of_life(path) {
            None => return Err(MountError::Silent { path: path.to_owned() }),
            Some(Ok(())) if top.kind == FUSE_TYPE => {
                return Err(MountError::Served { path: path.to_owned() });
            }
            // A home may be a file system of its own.
            Some(Ok(())) => return Ok(cleared),
            Some(Err(Errno::NOTCONN | Errno::CONNABORTED)) if top.kind == FUSE_TYPE => {
                unmount(path, UnmountFlags::DETACH)
                    .map_err(|cause| MountError::failed("take away the dead mount on", path, cause))?;
                warn!(path = %path.display(), "a dead mount of an earlier run was taken away");
                cleared = true;
            }
            Some(Err(Errno::NOTCONN | Errno::CONNABORTED)) => {
                return Err(MountError::ForeignAndDead { path: path.to_owned(), kind: top.kind });
            }
            Some(Err(cause)) => return Err(MountError::failed("look at", path, cause)),
        }
    }
}

/// Clears what is dead, and waits for what may be about to end.
fn outlive_predecessor(path: &Path) -> Result<(), MountError> {
    let begun = Instant::now();
    // A predecessor that has just unmounted takes its floor away next.
    let mut has_waited = mounted_on(path)?.iter().any(Mounted::is_floor);
    loop {
        match clear_dead(path) {
            Ok(_) if !has_waited => return Ok(()),
            // Its floor may be on its way out still: once more, from what lies there a moment later.
            Ok(_) => has_waited = false,
            Err(MountError::Served { .. }) if begun.elapsed() < PREDECESSOR_PATIENCE => {
                if !has_waited {
                    info!(path = %path.display(), "a living cosgate serves it: waiting for its end");
                }
                has_waited = true;
            }
            Err(error) => return Err(error),
        }
        #[expect(clippy::disallowed_methods, reason = "mounting blocks anyway: nothing is served yet")]
        thread::sleep(PREDECESSOR_LOOK);
    }
}

/// Takes the floor away, if one lies on `path` with nothing above it.
///
/// # Errors
/// Where the kernel refuses.
pub fn take_floor(path: &Path) -> Result<(), MountError> {
    while mounted_on(path)?.pop().is_some_and(|top| top.is_floor()) {
        // A working directory may still be in it.
        unmount(path, UnmountFlags::DETACH)
            .map_err(|cause| MountError::failed("take away the floor of", path, cause))?;
    }
    Ok(())
}

/// Where `home` really is: all symbolic links followed, without a question to what may be mounted there.
///
/// # Errors
/// Where a directory on the way is missing.
pub fn mount_point_of(home: &Path) -> Result<PathBuf, MountError> {
    let failed = |cause| MountError::failed("find", home, cause);
    let mut path = home.to_owned();
    for _ in 0..LINKS_MAX {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(path) };
        let place = fs::canonicalize(parent).map_err(failed)?.join(name);
        match fs::read_link(&place) {
            // A relative target begins beside the link.
            Ok(target) => path = place.parent().unwrap_or(&place).join(target),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(failed(error)),
            Err(_) => return Ok(place),
        }
    }
    Err(failed(io::Error::from_raw_os_error(Errno::LOOP.raw_os_error())))
}

/// Lays the empty read-only tmpfs on a home, unless it lies there.
fn lay_floor(path: &Path, nonempty: bool) -> Result<(), MountError> {
    if mounted_on(path)?.pop().is_some_and(|top| top.is_floor()) {
        return Ok(());
    }
    let failed = |cause| MountError::failed("lay the floor on", path, cause);
    let home = fs::metadata(path).map_err(failed)?;
    if !home.is_dir() {
        return Err(MountError::NotDirectory { path: path.to_owned() });
    }
    if !nonempty && fs::read_dir(path).map_err(failed)?.next().is_some() {
        return Err(MountError::NotEmpty { path: path.to_owned() });
    }
    let options = format!(
        "size=4k,mode={:o},uid={},gid={}",
        home.permissions().mode() & 0o7777,
        home.uid(),
        home.gid()
    );
    let options = CString::new(options).expect("digits and letters");
    let flags = MountFlags::RDONLY | MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC;
    mount(FLOOR, path, "tmpfs", flags, options.as_c_str()).map_err(|cause| failed(cause.into()))
}

/// Whether what is mounted on `path` answers: statfs always asks the server, while stat may be answered from
/// attributes that the kernel remembers of a dead one. `None` = no answer in time; the thread that asked
/// then stays in the kernel, so this is only for a start that fails.
fn sign_of_life(path: &Path) -> Option<Result<(), Errno>> {
    let (sender, answer) = mpsc::channel();
    let path = path.to_owned();
    thread::spawn(move || sender.send(statfs(&path).map(drop)));
    answer.recv_timeout(SIGN_OF_LIFE).ok()
}

/// One line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
struct Mounted {
    kind: String,
    source: String,
}

impl Mounted {
    fn is_floor(&self) -> bool {
        self.kind == "tmpfs" && self.source == FLOOR
    }
}

/// What is mounted on `path` itself, the topmost last.
fn mounted_on(path: &Path) -> Result<Vec<Mounted>, MountError> {
    let table = fs::read("/proc/self/mountinfo")
        .map_err(|cause| MountError::failed("read /proc/self/mountinfo for", path, cause))?;
    Ok(mounted_in(&table, path))
}

/// proc_pid_mountinfo(5): fields are separated by blanks; the fifth is the mount point, and behind a single
/// dash come type and source.
fn mounted_in(table: &[u8], path: &Path) -> Vec<Mounted> {
    let mut found = Vec::new();
    for line in table.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ');
        if fields.nth(4).map(unescape).as_deref() != Some(path.as_os_str()) {
            continue;
        }
        let mut behind = fields.skip_while(|field| *field != b"-").skip(1);
        let (Some(kind), Some(source)) = (behind.next(), behind.next()) else { continue };
        let text = |field| unescape(field).to_string_lossy().into_owned();
        found.push(Mounted { kind: text(kind), source: text(source) });
    }
    found
}

/// Blanks, tabs, line feeds and backslashes stand there as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let digits = if *first == b'\\' { tail.get(..3) } else { None };
        let byte = digits.and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[3..] } else { tail };
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    const TABLE: &[u8] = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
        40 22 0:35 / /srv/a\\040b ro,nosuid shared:9 master:2 - tmpfs cosgate-home ro,size=4k\n\
        41 40 0:36 / /srv/a\\040b rw,nosuid - fuse.cosgate demo-1250000000 rw,user_id=0\n\
        42 22 0:37 / /srv/c rw - xfs /dev/sdb1 rw\n";

    #[test]
    fn the_topmost_mount_comes_last_and_blanks_are_read_back() {
        let found = mounted_in(TABLE, Path::new("/srv/a b"));
        assert_eq!(found.len(), 2);
        assert!(found[0].is_floor());
        assert_eq!(found[1], Mounted { kind: FUSE_TYPE.to_owned(), source: "demo-1250000000".to_owned() });
        assert!(!mounted_in(TABLE, Path::new("/srv/c"))[0].is_floor());
        assert_eq!(mounted_in(TABLE, Path::new("/srv")), []);
    }

    #[test]
    fn escapes_are_three_octal_digits() {
        assert_eq!(unescape(b"a\\011\\134b\\9"), OsString::from("a\t\\b\\9"));
        assert_eq!(unescape("深".as_bytes()).as_bytes(), "深".as_bytes());
    }

    #[test]
    fn links_are_followed_to_the_place_of_the_mount() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = fs::canonicalize(dir.path()).expect("it is there");
        fs::create_dir_all(root.join("real/home")).expect("two directories");
        std::os::unix::fs::symlink("real", root.join("link")).expect("a link");
        std::os::unix::fs::symlink("link/home", root.join("home")).expect("a link");
        let found = mount_point_of(&root.join("home")).expect("it is there");
        assert_eq!(found, root.join("real/home"));
        assert!(mount_point_of(&root.join("missing")).is_err());
    }
}
