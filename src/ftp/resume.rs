//! Uploads that broke and go on: what is held of a name that does not exist.
//!
//! The mount keeps the beginning of a broken upload where nothing stands under its name, and the kernel
//! knows nothing of it. So the desk asks by a word of its own wherever a client wants to know how far it came
//! (SIZE, MLST), goes on (REST and STOR, APPE), reads (RETR), renames (RNFR) or gives it up (DELE). It never
//! asks for a STOR from the start.
//!
//! The word also waits for a transfer of that name that has just been closed: a client that reconnects at
//! once is told how much of it is held, and not how much had come.

use std::{
    io,
    num::NonZeroUsize,
    os::fd::OwnedFd,
    sync::Arc,
    time::{Duration, Instant},
};

use lru::LruCache;
use parking_lot::Mutex;
use rustix::{
    fs::{Mode, OFlags, SeekFrom},
    io::Errno,
};

use super::{
    desk::{FrontDesk, Login},
    home::{Facts, Home, Kind, Root, StoreHow, is_away},
    path::ClientPath,
    reply::{Deed, Reply, errno_of, refusal},
    send::now,
    transfer::Broken,
};
use crate::{config::OUTDATED_TIME, ioctl};

/// Files that were to be replaced by uploads which broke. Each is what it was before, and its client may take that
/// for the beginning of what it has sent: going on behind it would make one file of two, and answer 226. What has come
/// there since is none of them.
#[derive(Debug)]
pub(super) struct Outdated(Mutex<LruCache<String, Stood>>);

/// When an upload broke, and what stood there: its bytes and time, where they could be told.
#[derive(Debug, Clone, Copy)]
struct Stood {
    since: Instant,
    file: Option<(u64, i64)>,
}

fn file_of(facts: &Facts) -> (u64, i64) {
    (facts.bytes, facts.modified)
}

impl Default for Outdated {
    fn default() -> Self {
        Self(Mutex::new(LruCache::new(OUTDATED_MAX)))
    }
}

impl Outdated {
    fn note(&self, path: &ClientPath, file: Option<(u64, i64)>) {
        self.0.lock().put(path.relative().to_owned(), Stood { since: Instant::now(), file });
    }

    fn forget(&self, path: &ClientPath) {
        self.0.lock().pop(path.relative());
    }

    /// Where something is known of the name: what stood there, or `None` where that could not be told.
    fn stood(&self, path: &ClientPath) -> Option<Option<(u64, i64)>> {
        let stood = self.0.lock().peek(path.relative()).copied()?;
        (stood.since.elapsed() < OUTDATED_TIME).then_some(stood.file)
    }
}

impl Home {
    /// How an upload of `path` has ended; one that broke is remembered where a file stands there. The mount does so,
    /// too; each of the two may be killed.
    pub(super) async fn note_upload(self: &Arc<Self>, path: ClientPath, how: StoreHow, is_whole: bool) {
        if is_whole {
            self.outdated.forget(&path);
        } else if how == StoreHow::Replace {
            let target = path.clone();
            match self.run(move |root| root.look(&target)).await {
                Ok(facts) => self.outdated.note(&path, Some(file_of(&facts))),
                Err(error) if errno_of(&error) == Errno::NOENT => {}
                Err(_) => self.outdated.note(&path, None),
            }
        }
    }

    /// Whether what stands there is what stood there when an upload of that name broke.
    async fn is_outdated(self: &Arc<Self>, path: &ClientPath) -> bool {
        let Some(stood) = self.outdated.stood(path) else { return false };
        let target = path.clone();
        match self.run(move |root| root.look(&target)).await {
            Ok(facts) => stood.is_none_or(|file| file == file_of(&facts)),
            Err(error) => errno_of(&error) != Errno::NOENT,
        }
    }
}

impl Root {
    /// How many bytes are held of a name that does not exist. Blocks.
    ///
    /// # Errors
    /// EBUSY where its upload is under way.
    pub(super) fn held(&self, path: &ClientPath, to_go_on: bool) -> io::Result<Option<u64>> {
        match ioctl::held(self.mount_root(), self.in_mount(path).as_os_str(), to_go_on) {
            // A path that leads nowhere; no mount of ours, which tests of the wire alone do without.
            Err(error) if matches!(errno_of(&error), Errno::NOENT | Errno::NOTDIR | Errno::NOTTY) => Ok(None),
            told => told,
        }
    }

    /// As `error`, but EBUSY where that is "no such file" and something is held of it.
    pub(super) fn busy_if_held(&self, path: &ClientPath, error: io::Error) -> io::Error {
        match errno_of(&error) {
            Errno::NOENT if matches!(self.held(path, false), Ok(Some(_))) => Errno::BUSY.into(),
            _ => error,
        }
    }

    /// Aborts what is held of a name.
    ///
    /// # Errors
    /// ENOENT where nothing is.
    fn drop_held(&self, path: &ClientPath) -> io::Result<()> {
        ioctl::drop_held(self.mount_root(), self.in_mount(path).as_os_str())
    }

    /// A file to be filled from `at` on, armed; the bytes before that are held.
    pub(super) fn open_to_go_on(&self, path: &ClientPath, at: u64) -> io::Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.open_beneath(path, flags, Mode::from_raw_mode(0o666))?;
        ioctl::arm(&file)?;
        match ioctl::go_on(&file, at) {
            // Somebody else was faster than this client.
            Err(error) if errno_of(&error) == Errno::INVAL => return Err(Errno::BUSY.into()),
            gone_on => gone_on?,
        }
        rustix::fs::seek(&file, SeekFrom::Start(at))?;
        Ok(file)
    }

    /// A file to be filled from `at` on, armed; what is there before that stays, what is behind goes, as the
    /// stock backend has it. Until commit all of it is as it was.
    pub(super) fn open_to_store_from(&self, path: &ClientPath, at: u64) -> io::Result<OwnedFd> {
        let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = self.open_beneath(path, flags, Mode::empty())?;
        ioctl::arm(&file)?;
        if Facts::of_file(&file)?.bytes < at {
            // It was longer a moment ago.
            return Err(Errno::BUSY.into());
        }
        rustix::fs::ftruncate(&file, at)?;
        rustix::fs::seek(&file, SeekFrom::Start(at))?;
        Ok(file)
    }
}

fn outdated(path: &ClientPath) -> Reply {
    Reply::new(
        554,
        format!("{path} is older than its last upload, which broke: send all of it, from the start"),
    )
}

/// Files that are remembered so.
const OUTDATED_MAX: NonZeroUsize = NonZeroUsize::new(4096).expect("not zero");
/// How long the end of an upload whose client has gone may take to be noticed, and how often that is looked for.
const HALF_DEAD_WAIT: Duration = Duration::from_secs(2);
const HALF_DEAD_LOOK: Duration = Duration::from_millis(25);
/// How long a mount process that was killed may take to be back. A client that comes back at once and reads 450 to SIZE
/// may begin anew without asking again (lftp 4.9.2).
const MOUNT_BACK_WAIT: Duration = Duration::from_secs(3);

/// What is said of an error that is over some day: busy, or a store that does not answer.
fn passing(error: &io::Error, deed: Deed, path: &ClientPath) -> Option<Reply> {
    let reply = refusal(errno_of(error), deed, path);
    (reply.code() / 100 == 4).then_some(reply)
}

impl FrontDesk {
    /// The client of an upload that is under way may have gone, and nobody has noticed yet, or the mount is just
    /// coming back: worth a moment.
    async fn held(&self, path: &ClientPath, to_go_on: bool) -> io::Result<Option<u64>> {
        let Login::In(session) = &self.login else { return Ok(None) };
        let begun = Instant::now();
        loop {
            let (home, path) = (session.context.user().home.clone(), path.clone());
            match home.run(move |root| root.held(&path, to_go_on)).await {
                Err(error) if errno_of(&error) == Errno::BUSY && begun.elapsed() < HALF_DEAD_WAIT => {}
                Err(error) if is_away(&error) && begun.elapsed() < MOUNT_BACK_WAIT => {}
                told => return told,
            }
            tokio::time::sleep(HALF_DEAD_LOOK).await;
        }
    }

    /// Facts of what is held, as of a file; `None` where nothing is. An upload under way is 450: how much has come of it
    /// is not how much will stay if it breaks. So is what cannot be found out now: told that there is nothing, a client would
    /// begin anew.
    pub(super) async fn facts_held(&self, path: &ClientPath) -> Result<Option<Facts>, Reply> {
        let bytes = match self.held(path, false).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Ok(None),
            Err(error) => return passing(&error, Deed::Look, path).map_or(Ok(None), Err),
        };
        Ok(Some(Facts {
            kind: Kind::File,
            bytes,
            modified: now(),
            mode: 0o600,
            uid: 0,
            gid: 0,
            links: 1,
            inode: 0,
            device: 0,
        }))
    }

    /// 450 instead of `reply` where something is held of that name.
    pub(super) async fn busy_if_held(&self, path: &ClientPath, reply: Reply, deed: Deed) -> Reply {
        match reply.code() {
            550 if matches!(self.held(path, false).await, Ok(Some(_))) => refusal(Errno::BUSY, deed, path),
            _ => reply,
        }
    }

    /// DELE of a name that does not exist, to which `reply` was the answer: what is held of it goes.
    pub(super) async fn delete_held(&self, path: &ClientPath, reply: Reply) -> Reply {
        let Login::In(session) = &self.login else { return reply };
        if reply.code() != 550 {
            return reply;
        }
        let (home, target) = (session.context.user().home.clone(), path.clone());
        match home.run(move |root| root.drop_held(&target)).await {
            Ok(()) => Reply::new(250, "Deleted"),
            Err(error) => passing(&error, Deed::Remove, path).unwrap_or(reply),
        }
    }

    /// How an upload begins that was asked for with `restart`: going on with what is held, where the client means that.
    pub(super) async fn where_to_begin(
        &self,
        how: StoreHow,
        restart: u64,
        path: &ClientPath,
    ) -> Result<StoreHow, Reply> {
        let asks = match how {
            StoreHow::Replace => restart != 0,
            StoreHow::Append => true,
            StoreHow::New | StoreHow::GoOn { .. } | StoreHow::From { .. } => false,
        };
        if !asks {
            return Ok(how);
        }
        let Login::In(session) = &self.login else { return Ok(how) };
        let home = session.context.user().home.clone();
        match self.held(path, true).await {
            Err(error) if errno_of(&error) == Errno::STALE => Err(outdated(path)),
            Ok(Some(at)) if how == StoreHow::Append || at == restart => Ok(StoreHow::GoOn { at }),
            Ok(Some(at)) => Err(Reply::new(554, format!("{path}: {at} bytes are held of it, say REST {at}"))),
            told => {
                if let Some(reply) = told.err().and_then(|error| passing(&error, Deed::Store, path)) {
                    Err(reply)
                } else if home.is_outdated(path).await {
                    Err(outdated(path))
                } else if how == StoreHow::Append {
                    Ok(how)
                } else {
                    self.where_in_file(restart, path).await
                }
            }
        }
    }

    /// REST into a file that is there.
    async fn where_in_file(&self, restart: u64, path: &ClientPath) -> Result<StoreHow, Reply> {
        let Login::In(session) = &self.login else { return Ok(StoreHow::Replace) };
        let (home, target) = (session.context.user().home.clone(), path.clone());
        match home.run(move |root| root.look(&target)).await {
            Ok(facts) if facts.kind == Kind::File && facts.bytes < restart => {
                Err(Broken::RestPastEnd { bytes: facts.bytes }.reply(path))
            }
            Ok(_) => Ok(StoreHow::From { at: restart }),
            Err(error) if errno_of(&error) == Errno::NOENT => {
                Err(Broken::RestPastEnd { bytes: 0 }.reply(path))
            }
            Err(error) => Err(refusal(errno_of(&error), Deed::Store, path)),
        }
    }
}
