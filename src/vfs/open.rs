//! Files, opened and closed: create, open, flush, fsync, release; and the end of all of them, stop.
//!
//! One inode has one size, so whoever begins an existing file anew gets an inode of his own: until he
//! publishes, the name leads to another one with the old object's size and ETag. In OPEN the kernel must
//! forget the name before it hears of the handle; in CREATE the new inode is simply not kept under the name.

use std::{
    ffi::OsStr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::sync::OwnedMutexGuard;
use tracing::{error, info, warn};

use super::{
    Caller, Closer, Entry, HandleNo, InodeNo, Notice, OpenHow, Vfs, VfsError, VfsResult,
    attr::Facts,
    close::Word,
    handle::Handle,
    inode::{Known, Link},
    name::component,
    policy::Standing,
    quota::Share,
    read::Reader,
    resolve::{Target, standing},
    shared::Shared,
    writing::{Closed, OpenFile},
};
use crate::cos::Key;

/// How often a stop looks whether handles have closed.
const STOP_LOOKS_EVERY: Duration = Duration::from_millis(20);
/// How long a stop waits for notes of uploads that have ended: what stays is found by the next start.
const UPLOADS_REST: Duration = Duration::from_secs(2);

pub(super) async fn create(
    vfs: &Vfs,
    parent: InodeNo,
    name: &OsStr,
    mode: u16,
    how: OpenHow,
    caller: Caller,
) -> VfsResult<(Entry, HandleNo)> {
    let shared = &vfs.shared;
    shared.is_open()?;
    vfs.policy.may_change()?;
    shared.counted().await?;
    let name = component(name)?;
    let directory = shared.directory(parent)?;
    let key = shared.names.key(&directory, name)?;
    let how = as_may_be(shared, how, caller);
    let place = place_to_create(vfs, parent, &directory, name, &key, how).await?;
    let (inode, is_absent) = (place.inode, place.stands.is_none());
    let file = OpenFile::new(shared, inode, parent, name, key, how, caller, vfs.policy, vfs.view);
    file.note_stood(place.stands.clone());
    let handle = register(shared, &file);
    match begin_created(shared, &file, place).await {
        Err(error) => {
            release(vfs, handle).await.unwrap_or(());
            return Err(error);
        }
        Ok(true) => {
            if is_absent {
                file.note_new();
            }
            if shared.posix_metadata && mode != shared.shows.file_mode && !shared.is_front_user(caller) {
                file.set_kept(|kept| kept.mode = Some(mode));
            }
        }
        Ok(false) => {}
    }
    let mut inodes = shared.inodes.lock();
    inodes.remember(inode);
    let known = inodes.known(inode).ok_or(VfsError::BadHandle)?;
    drop(inodes);
    shared.tell(Some(vfs.view), vec![Notice::Entry { parent, name: name.into() }]);
    Ok((shared.entry(inode, &known, None, Instant::now()), handle))
}

/// Where a file is created.
struct Place {
    /// Pinned.
    inode: InodeNo,
    /// The file begins anew; else what is there is opened.
    begins: bool,
    /// The object that has the name.
    stands: Option<Facts>,
    share: Option<Share>,
    /// When the name was looked up.
    asked: Instant,
}

async fn place_to_create(
    vfs: &Vfs,
    parent: InodeNo,
    directory: &str,
    name: &str,
    key: &Key,
    how: OpenHow,
) -> VfsResult<Place> {
    let shared = &vfs.shared;
    loop {
        let asked = Instant::now();
        let target = shared.target(parent, directory, name).await?;
        if how.exclusive {
            // One that was unlinked may be on its way into the bucket, to be taken back there.
            for file in shared.writing.of_key(key.as_str()) {
                file.wait_closed().await;
            }
        }
        // O_EXCL is a promise: no list and no memory of ours is good enough for it.
        if target.is_none() && how.exclusive && shared.head(key, name).await?.is_some() {
            return Err(VfsError::Exists { name: name.to_owned() });
        }
        // A directory has been made meanwhile.
        let marker = shared.names.marker(directory, name).ok();
        if target.is_none() && marker.is_some_and(|marker| shared.is_put_since(&marker, asked)) {
            continue;
        }
        let begins = may_create(vfs, name, how, target.as_ref())?;
        let published = target.as_ref().filter(|target| !target.is_unpublished());
        let stands = published.map(|target| target.facts.clone());
        let bytes = stands.as_ref().map(|facts| facts.bytes);
        let share = if begins { shared.share(key, bytes)? } else { None };
        if let Some(inode) = inode_to_create(shared, parent, name, target.as_ref(), begins)? {
            return Ok(Place { inode, begins, stands, share, asked });
        }
    }
}

/// Gives a created file its content: false where it shares what is there.
async fn begin_created(shared: &Arc<Shared>, file: &OpenFile, place: Place) -> VfsResult<bool> {
    if !place.begins {
        return Ok(false);
    }
    let begin = || file.begin(shared, place.share, file.how.exclusive);
    if !file.how.truncate || file.how.exclusive {
        let begins = file.begin_unless_there(shared, place.asked, begin).await;
        // Another was faster.
        return if begins || !file.how.exclusive { Ok(begins) } else { Err(file.exists()) };
    }
    if file.join_edit(shared).is_some() {
        return file.truncate(shared, false).await.map(|()| false);
    }
    begin();
    Ok(true)
}

/// Whether the name may be created; true: the file begins anew, false: what is there is opened.
fn may_create(vfs: &Vfs, name: &str, how: OpenHow, target: Option<&Target>) -> VfsResult<bool> {
    match target {
        Some(target) if target.facts.is_directory() => Err(VfsError::IsDirectory { name: name.to_owned() }),
        Some(_) if how.exclusive => Err(VfsError::Exists { name: name.to_owned() }),
        // Another gateway's, and the kernel does not know yet: it looks again, and follows.
        Some(target) if target.facts.is_link() => Err(VfsError::ReplacedMeanwhile { name: name.to_owned() }),
        Some(target) if !how.truncate && !target.is_unpublished() => Ok(false),
        Some(_) | None => vfs.policy.may_overwrite(name, standing(target)).map(|()| true),
    }
}

/// The inode, pinned. `None`: the name has come, or gone, since it was looked up, and is to be looked at anew.
fn inode_to_create(
    shared: &Shared,
    parent: InodeNo,
    name: &str,
    target: Option<&Target>,
    begins: bool,
) -> VfsResult<Option<InodeNo>> {
    let mut inodes = shared.inodes.lock();
    let fresh = Shared::unpublished_facts();
    let inode = match target {
        Some(target) if begins && !target.is_unpublished() => inodes.beside(parent, name, &fresh),
        Some(Target { inode: Some(inode), .. })
            if inodes.known(*inode).is_some_and(|known| known.link != Link::Gone) =>
        {
            Some(*inode)
        }
        Some(target) if target.is_unpublished() => return Ok(None),
        Some(target) => inodes.ensure(parent, name, &target.facts, target.seen),
        // Another was faster: with O_EXCL both would be told that they are the one.
        None if inodes.find(parent, name).is_some() => return Ok(None),
        None => inodes.ensure(parent, name, &fresh, None),
    };
    let inode = inode.ok_or_else(|| VfsError::NotFound { name: name.to_owned() })?;
    inodes.pin(inode);
    Ok(Some(inode))
}

/// Takes over the pin of the inode.
fn register(shared: &Shared, file: &Arc<OpenFile>) -> HandleNo {
    shared.writing.add(file);
    shared.open_handle(Handle::File(file.clone()))
}

pub(super) async fn open(vfs: &Vfs, inode: InodeNo, how: OpenHow, caller: Caller) -> VfsResult<HandleNo> {
    let shared = &vfs.shared;
    shared.is_open()?;
    let (known, key) = openable(shared, inode)?;
    let how = as_may_be(shared, how, caller);
    if !how.write && !how.truncate {
        return open_for_reading(vfs, inode, &known, key, how.alone || shared.is_front_user(caller)).await;
    }
    vfs.policy.may_change()?;
    shared.counted().await?;
    if how.read {
        vfs.policy.may_read()?;
    }
    let (named, known, key) = match how.truncate {
        true => {
            let (guard, known, key) = hold_name(shared, inode, key).await?;
            (Some(guard), known, key)
        }
        false => (None, known, key),
    };
    let (parent, name) = (known.parent, &*known.name);
    let file = OpenFile::new(shared, inode, parent, name, key, how, caller, vfs.policy, vfs.view);
    file.note_stood(Some(known.facts.clone()));
    let is_detached = how.truncate && begin_anew(vfs, &file).await?;
    shared.inodes.lock().pin(file.inode);
    let handle = register(shared, &file);
    drop(named);
    if is_detached {
        forget_name(shared, &file).await;
    }
    Ok(handle)
}

/// What an inode is that may be opened as a file, and its key.
fn openable(shared: &Shared, inode: InodeNo) -> VfsResult<(Known, Key)> {
    let known = shared.known(inode)?;
    let name = &*known.name;
    if known.facts.is_directory() {
        return Err(VfsError::IsDirectory { name: name.to_owned() });
    }
    if known.facts.is_link() {
        return Err(VfsError::Invalid { why: "a symbolic link is followed, not opened" });
    }
    // What its writer has taken from its name is his. The kernel may take it for what has been renamed meanwhile; told so,
    // it looks the name up again.
    let is_taken = known.link == Link::Detached && !shared.writing.is_open(inode);
    if known.link == Link::Gone || is_taken {
        return Err(VfsError::ReplacedMeanwhile { name: name.to_owned() });
    }
    let key = shared.names.key(&shared.directory(known.parent)?, name)?;
    Ok((known, key))
}

/// The same of an inode that was `key`, once no rename of it is under way, and none begins as long as the guard lives.
async fn hold_name(
    shared: &Shared,
    inode: InodeNo,
    mut key: Key,
) -> VfsResult<(OwnedMutexGuard<()>, Known, Key)> {
    loop {
        let guard = shared.writing.name(&key).lock_owned().await;
        let (known, now) = openable(shared, inode)?;
        if now == key {
            return Ok((guard, known, key));
        }
        key = now;
    }
}

/// Standing alone is for the front.
fn as_may_be(shared: &Shared, how: OpenHow, caller: Caller) -> OpenHow {
    OpenHow { alone: how.alone && shared.is_front(caller).is_ok(), ..how }
}

async fn open_for_reading(
    vfs: &Vfs,
    inode: InodeNo,
    known: &Known,
    key: Key,
    objects_only: bool,
) -> VfsResult<HandleNo> {
    vfs.policy.may_read()?;
    let shared = &vfs.shared;
    let is_unpublished = known.facts.etag.is_none() || known.link == Link::Detached;
    // A download is of one version, whatever others do to the file meanwhile.
    let is_edited = !objects_only && shared.writing.edit_of(inode).is_some();
    if is_unpublished && !is_edited {
        shared.settle_writers(key.as_str(), &known.name).await?;
    }
    let facts = shared.known(inode)?.facts;
    let reader = Reader::new(shared, inode, key, &known.name, Some(&facts), objects_only);
    shared.inodes.lock().pin(inode);
    Ok(shared.open_handle(Handle::Reader(reader)))
}

/// Cuts a file that is open to nothing.
pub(super) async fn truncate(vfs: &Vfs, file: &Arc<OpenFile>) -> VfsResult<()> {
    let named = vfs.shared.writing.name(&file.key).lock_owned().await;
    let is_detached = begin_anew(vfs, file).await?;
    drop(named);
    if is_detached {
        forget_name(&vfs.shared, file).await;
    }
    Ok(())
}

/// Begins a file anew, under the lock of its name. True: that leads to another inode now, and before the kernel hears of
/// success, it is to forget that it led to this one.
async fn begin_anew(vfs: &Vfs, file: &Arc<OpenFile>) -> VfsResult<bool> {
    let shared = &vfs.shared;
    if file.is_begun() || file.join_edit(shared).is_some() {
        file.truncate(shared, false).await?;
        return Ok(false);
    }
    let known = shared.known(file.inode)?;
    if known.link == Link::Gone {
        return Err(VfsError::ReplacedMeanwhile { name: file.name.clone() });
    }
    let is_published = known.facts.etag.is_some() || known.link == Link::Detached;
    let target = if is_published { Standing::Published } else { Standing::Free };
    vfs.policy.may_overwrite(&file.name, target)?;
    file.truncate(shared, false).await?;
    if target == Standing::Free {
        file.note_new();
    }
    if known.facts.etag.is_none() {
        return Ok(false);
    }
    let mut inodes = shared.inodes.lock();
    let successor = inodes.detach(file.inode);
    inodes.update(file.inode, &Shared::unpublished_facts(), None);
    if let Some(successor) = successor {
        inodes.pin(successor);
        file.note_successor(successor);
    }
    Ok(successor.is_some())
}

async fn forget_name(shared: &Shared, file: &OpenFile) {
    let name = file.name.clone().into();
    shared.tell_all_and_wait(vec![Notice::Entry { parent: file.parent, name }]).await;
}

pub(super) async fn flush(vfs: &Vfs, handle: HandleNo, closer: Closer) -> VfsResult<()> {
    match vfs.shared.handle(handle)? {
        Handle::File(file) => {
            if file.standing().armed {
                // The front has closed it: RELEASE follows, and whoever asks what is held waits for that.
                file.close(Closed::Closing);
            }
            let word = Word::Flush { opener: file.opener(), closer };
            file.perform(&vfs.shared, word).await
        }
        // Readers flush too.
        Handle::Reader(_) | Handle::Directory(_) => Ok(()),
    }
}

pub(super) async fn fsync(vfs: &Vfs, handle: HandleNo) -> VfsResult<()> {
    match vfs.shared.handle(handle)? {
        Handle::File(file) => {
            file.perform(&vfs.shared, Word::Fsync).await?;
            vfs.shared.flush_gathered(file.key.as_str()).await
        }
        Handle::Reader(_) | Handle::Directory(_) => Ok(()),
    }
}

pub(super) async fn release(vfs: &Vfs, handle: HandleNo) -> VfsResult<()> {
    let shared = &vfs.shared;
    match shared.close_handle(handle) {
        None => Err(VfsError::BadHandle),
        Some(Handle::Directory(_)) => Err(VfsError::BadHandle),
        Some(Handle::Reader(reader)) => {
            shared.inodes.lock().unpin(reader.inode);
            Ok(())
        }
        Some(Handle::File(file)) => {
            file.close(Closed::Closing);
            let standing = file.standing();
            if standing.dirty && !standing.armed && !standing.discarded {
                warn!(key = %file.key, "closed for good with something unpublished");
            }
            let done = file.perform(shared, Word::Release).await;
            if let Err(failure) = &done {
                let is_anothers =
                    matches!(failure, VfsError::ReplacedMeanwhile { .. } | VfsError::Exists { .. });
                if is_anothers && !standing.dirty {
                    info!(key = %file.key, error = %failure, "created, and not written: the name is another's");
                } else {
                    error!(key = %file.key, error = %failure, "nobody can be told: the file is lost");
                }
                file.discard(shared, "its publication failed").await;
            }
            shared.writing.remove(&file);
            file.close(Closed::Done);
            let mut inodes = shared.inodes.lock();
            file.pinned().for_each(|inode| inodes.unpin(inode));
            done
        }
    }
}

/// No new work; what is open may finish, then it is discarded.
pub(super) async fn stop(vfs: &Vfs, grace: Duration) {
    let shared = &vfs.shared;
    shared.begin_stop();
    let deadline = Instant::now() + grace;
    while Instant::now() < deadline && shared.writing.all().iter().any(|file| file.is_unpublished()) {
        tokio::time::sleep(STOP_LOOKS_EVERY).await;
    }
    shared.flush_all_gathered().await;
    let left = shared.writing.all().into_iter().filter(|file| file.is_unpublished());
    join_all(left.map(|file| async move { file.break_off(shared, "the mount is being stopped").await }))
        .await;
    shared.uploads.at_rest(UPLOADS_REST).await;
}
