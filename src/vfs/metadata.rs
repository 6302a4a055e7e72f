//! Times, modes, owners and extended attributes: setattr and the xattr calls.
//!
//! What is set on a file before it is published is stored with it. What is set later is, with
//! `posix_metadata`, a copy of the object onto itself; without it, it is accepted and has no effect. Programs
//! set several things in a row and then rename (rsync does), so changes are gathered for a moment, and a
//! rename takes them along in its own copy. They are shown at once.

use std::{
    collections::HashMap,
    ffi::{OsStr, OsString},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parking_lot::Mutex;
use tracing::warn;

use super::{
    AttributeChange, Attributes, FileKind, HandleNo, InodeNo, Vfs, VfsError, VfsResult,
    attr::{Facts, PackedETag},
    inode::Known,
    open,
    posix::Posix,
    remove::MARKER_TYPE,
    shared::Shared,
    writing::OpenFile,
};
use crate::cos::{Key, NewObject, ObjectMeta, PUT_BYTES_MAX, Payload, Reason};

/// How long changes are gathered before they are sent.
const GATHER: Duration = Duration::from_millis(500);

const USER: &str = "user.";
const OWN: &str = "user.cosgate.";

/// Changes that have been accepted and shown, and wait to be sent; by key.
#[derive(Debug, Default)]
pub(super) struct Gathering(Mutex<HashMap<String, Gathered>>);

#[derive(Debug, Clone)]
struct Gathered {
    key: Key,
    name: String,
    parent: InodeNo,
    facts: Facts,
    kept: Posix,
}

pub(super) async fn setattr(
    vfs: &Vfs,
    inode: InodeNo,
    handle: Option<HandleNo>,
    change: AttributeChange,
) -> VfsResult<Attributes> {
    let shared = &vfs.shared;
    vfs.policy.may_change()?;
    if let Some(bytes) = change.bytes {
        resize(vfs, inode, handle, bytes).await?;
    }
    let rest = AttributeChange { bytes: None, ..change };
    if rest != AttributeChange::default() {
        let taken = shared.open_file(inode, handle).is_some_and(|file| file.change_kept(&rest));
        if !taken && shared.posix_metadata && !shared.is_root(inode) {
            change_kept(shared, inode, |kept| {
                kept.apply(&rest);
                Ok(())
            })
            .await?;
        }
    }
    let known = shared.known(inode)?;
    let kept = kept_now(shared, inode, &known).await?;
    Ok(shared.attributes(inode, &known, kept.as_deref()))
}

/// Sizes that a file can be given: none, or the one it has.
async fn resize(vfs: &Vfs, inode: InodeNo, handle: Option<HandleNo>, bytes: u64) -> VfsResult<()> {
    let shared = &vfs.shared;
    let known = shared.known(inode)?;
    if known.facts.is_directory() {
        return Err(VfsError::IsDirectory { name: known.name.into() });
    }
    if known.facts.is_link() {
        return Err(VfsError::Invalid { why: "a symbolic link cannot be given a size" });
    }
    // Without a descriptor it is said of the file, and not of a transfer.
    let file = shared.open_file(inode, handle).filter(|file| handle.is_some() || !file.is_alone());
    if let Some(file) = file.as_ref().filter(|file| !file.is_begun()) {
        file.join_edit(shared);
    }
    let now = file.as_ref().and_then(|file| file.shown_bytes()).unwrap_or(known.facts.bytes);
    match (bytes, file) {
        (0, Some(file)) if !file.how.read => open::truncate(vfs, &file).await,
        (bytes, Some(file)) if bytes != now => file.resize(shared, bytes).await,
        (bytes, None) if bytes != now => publish_resized(vfs, inode, &known, bytes).await,
        _ => Ok(()),
    }
}

/// truncate(path): nobody has the file open, so what it is then is published here and now.
async fn publish_resized(vfs: &Vfs, inode: InodeNo, known: &Known, bytes: u64) -> VfsResult<()> {
    let shared = &vfs.shared;
    vfs.policy.may_overwrite(&known.name, super::policy::Standing::Published)?;
    let key = shared.names.key(&shared.directory(known.parent)?, &known.name)?;
    let how = super::OpenHow { write: true, truncate: true, ..super::OpenHow::default() };
    let caller = super::Caller { uid: 0, gid: 0, process: None };
    let file =
        OpenFile::new(shared, inode, known.parent, &known.name, key, how, caller, vfs.policy, vfs.view);
    if bytes == 0 {
        let share = shared.share(&file.key, Some(known.facts.bytes))?;
        file.begin(shared, share, false);
    } else {
        file.resize(shared, bytes).await?;
    }
    file.publish(shared).await
}

async fn kept_now(shared: &Shared, inode: InodeNo, known: &Known) -> VfsResult<Option<Arc<Posix>>> {
    match shared.place_of(inode, known) {
        Some((directory, name)) => shared.kept_of(&directory, &name, &known.facts).await,
        None => Ok(None),
    }
}

/// Changes what is kept of something published: shown at once, sent a moment later.
async fn change_kept(
    shared: &Arc<Shared>,
    inode: InodeNo,
    change: impl FnOnce(&mut Posix) -> VfsResult<()>,
) -> VfsResult<()> {
    let known = shared.refreshed(inode, true).await?;
    let Some((directory, name)) = shared.place_of(inode, &known) else { return Ok(()) };
    let facts = known.facts;
    if !facts.is_directory() && facts.etag.is_none() {
        return Err(VfsError::Busy { name });
    }
    if facts.bytes > PUT_BYTES_MAX {
        return Err(VfsError::NotSupported { what: "changing times, mode or attributes above 5 GB" });
    }
    let kind = facts.kind;
    let key = match kind {
        FileKind::Directory => shared.names.marker(&directory, &name)?,
        FileKind::File | FileKind::Symlink => shared.names.key(&directory, &name)?,
    };
    let mut kept = shared.kept_of(&directory, &name, &facts).await?.as_deref().cloned().unwrap_or_default();
    change(&mut kept)?;
    kept.write(kind, &mut crate::cos::UserMetadata::new())?;
    shared.keep(shared.version_of(&key, &facts), Arc::new(kept.clone()));
    shared.gather(key, known.parent, &name, facts, kept);
    Ok(())
}

impl Shared {
    /// Has what is kept of a version sent in a moment, with what else is set until then.
    pub(super) fn gather(self: &Arc<Self>, key: Key, parent: InodeNo, name: &str, facts: Facts, kept: Posix) {
        let text = key.as_str().to_owned();
        let gathered = Gathered { key, name: name.to_owned(), parent, facts, kept };
        let is_first = self.gathering.0.lock().insert(text.clone(), gathered).is_none();
        if is_first {
            let shared = self.clone();
            self.runtime.spawn(async move {
                tokio::time::sleep(GATHER).await;
                if let Err(error) = shared.flush_gathered(&text).await {
                    warn!(key = text, %error, "times, mode or attributes could not be stored");
                }
            });
        }
    }

    /// Takes what waits to be sent for a key.
    pub(super) fn take_gathered(&self, key: &str) -> Option<Posix> {
        self.gathering.0.lock().remove(key).map(|gathered| gathered.kept)
    }

    /// Sends what waits for a key.
    ///
    /// # Errors
    /// `ReplacedMeanwhile` where the object is another one now; what the store answered.
    pub(super) async fn flush_gathered(&self, key: &str) -> VfsResult<()> {
        let Some(key) = self.gathering.0.lock().get(key).map(|gathered| gathered.key.clone()) else {
            return Ok(());
        };
        let _turn = self.keys.lock(&key).await;
        // Whoever had the turn before may have removed it, and with it what was to be changed.
        let Some(gathered) = self.gathering.0.lock().remove(key.as_str()) else { return Ok(()) };
        let (key, name) = (&gathered.key, gathered.name.as_str());
        self.keys.settled(key).await?;
        let error = |error| VfsError::from_cos(error, name);
        let meta = match self.store.head_object(key).await {
            Ok(meta) => Some(meta),
            Err(failure) if failure.reason == Reason::NoSuchKey => None,
            Err(failure) => return Err(error(failure)),
        };
        if gathered.facts.is_directory() {
            let mut new = NewObject { content_type: Some(MARKER_TYPE.to_owned()), ..NewObject::default() };
            let before = meta.as_ref().map(|meta| meta.size);
            new.metadata = meta.map(|meta| meta.metadata).unwrap_or_default();
            gathered.kept.write(FileKind::Directory, &mut new.metadata)?;
            let _permit = self.writers.upload_permit().await;
            self.store.put_object(key, Payload::new(Bytes::new()), &new).await.map_err(error)?;
            self.note_put(key.as_str(), Facts::directory(super::attr::from_seconds(0)));
            self.count_change(key.as_str(), before, Some(0));
            return Ok(());
        }
        let is_same = |meta: &ObjectMeta| gathered.facts.etag == Some(PackedETag::new(&meta.etag));
        let Some(meta) = meta.filter(is_same) else {
            return Err(VfsError::ReplacedMeanwhile { name: name.to_owned() });
        };
        let new = self.with_kept(&meta, &gathered.kept)?;
        let _permit = self.writers.upload_permit().await;
        let asked = Instant::now();
        let stored = self.store.copy_object(key, key, Some(&meta.etag), Some(&new), false).await;
        let stored = stored.map_err(error)?;
        let modified = stored.last_modified.unwrap_or_else(Self::wall_clock);
        let facts = Facts::of_object(meta.size, modified, &stored.etag);
        if !self.note_put_unless_deleted(key.as_str(), facts.clone(), asked) {
            return Ok(());
        }
        // Changed again meanwhile: that one's turn comes.
        let newest = self.gathering.0.lock().get_mut(key.as_str()).map(|later| {
            later.facts = facts.clone();
            later.kept.clone()
        });
        self.keep((key.as_str().to_owned(), facts.clone()), Arc::new(newest.unwrap_or(gathered.kept)));
        let mut inodes = self.inodes.lock();
        if let Some(inode) = inodes.find(gathered.parent, name) {
            inodes.update(inode, &facts, Some(Instant::now()));
        }
        Ok(())
    }

    /// Sends all that waits.
    pub(super) async fn flush_all_gathered(&self) {
        let keys: Vec<String> = self.gathering.0.lock().keys().cloned().collect();
        for key in keys {
            if let Err(error) = self.flush_gathered(&key).await {
                warn!(key, %error, "times, mode or attributes could not be stored");
            }
        }
    }

    /// An object's metadata with what is kept in it now.
    pub(super) fn with_kept(&self, meta: &ObjectMeta, kept: &Posix) -> VfsResult<NewObject> {
        let mut new = NewObject {
            content_type: meta.content_type.clone(),
            metadata: meta.metadata.clone(),
            forbid_overwrite: false,
        };
        kept.write(kept.kind(), &mut new.metadata)?;
        Ok(new)
    }
}

pub(super) async fn getxattr(vfs: &Vfs, inode: InodeNo, name: &OsStr) -> VfsResult<Bytes> {
    let shared = &vfs.shared;
    // `ls -l` asks for `security.` and `system.` names of each file, until it hears that the file system has
    // none at all: a hundred times the requests of the listing itself.
    let Some(name) = name.to_str().filter(|name| name.starts_with(USER)) else {
        return Err(VfsError::NotSupported { what: "an extended attribute outside user." });
    };
    if let Some(own) = name.strip_prefix(OWN) {
        return own_attribute(shared, inode, own).await;
    }
    if !shared.posix_metadata {
        return Err(VfsError::NoAttribute);
    }
    let xattrs = xattrs(shared, inode).await?;
    let value = xattrs.get(&name[USER.len()..]).ok_or(VfsError::NoAttribute)?;
    Ok(Bytes::copy_from_slice(value))
}

/// `user.cosgate.*`: what the store says, read-only.
async fn own_attribute(shared: &Shared, inode: InodeNo, name: &str) -> VfsResult<Bytes> {
    if shared.is_root(inode) {
        return match name {
            "mount" => Ok(Bytes::copy_from_slice(shared.identity.as_bytes())),
            _ => Err(VfsError::NoAttribute),
        };
    }
    let known = match name {
        "etag" | "crc64" | "md5" => shared.refreshed(inode, false).await?,
        _ => return Err(VfsError::NoAttribute),
    };
    let (Some(etag), Some((directory, file))) = (&known.facts.etag, shared.place_of(inode, &known)) else {
        return Err(VfsError::NoAttribute);
    };
    if name == "etag" {
        return Ok(Bytes::copy_from_slice(etag.unpack().as_str().as_bytes()));
    }
    let key = shared.names.key(&directory, &file)?;
    let meta = shared.store.head_object(&key).await.map_err(|error| VfsError::from_cos(error, &file))?;
    if name == "md5" {
        let md5 = meta.etag.as_str().to_ascii_lowercase();
        return if meta.etag_is_md5 { Ok(Bytes::from(md5)) } else { Err(VfsError::NoAttribute) };
    }
    let crc64 = meta.crc64.ok_or(VfsError::NoAttribute)?;
    Ok(Bytes::from(crc64.to_string()))
}

async fn xattrs(shared: &Shared, inode: InodeNo) -> VfsResult<std::collections::BTreeMap<String, Vec<u8>>> {
    let known = shared.known(inode)?;
    if let Some(pending) = shared.writing.of_inode(inode).and_then(|file| file.pending_attributes()) {
        return Ok(pending.xattrs);
    }
    Ok(kept_now(shared, inode, &known).await?.map(|kept| kept.xattrs.clone()).unwrap_or_default())
}

pub(super) async fn setxattr(vfs: &Vfs, inode: InodeNo, name: &OsStr, value: &[u8]) -> VfsResult<()> {
    let (shared, name) = writable(vfs, name)?;
    if shared.is_root(inode) {
        return Err(VfsError::NotSupported { what: "an extended attribute of the root" });
    }
    let file = shared.writing.of_inode(inode);
    let insert = |kept: &mut Posix| {
        kept.xattrs.insert(name.clone(), value.to_vec());
    };
    if file.is_some_and(|file| file.set_kept(insert)) {
        return Ok(());
    }
    change_kept(shared, inode, |kept| {
        insert(kept);
        Ok(())
    })
    .await
}

pub(super) async fn removexattr(vfs: &Vfs, inode: InodeNo, name: &OsStr) -> VfsResult<()> {
    let (shared, name) = writable(vfs, name)?;
    if shared.is_root(inode) || !xattrs(shared, inode).await?.contains_key(&name) {
        return Err(VfsError::NoAttribute);
    }
    let remove = |kept: &mut Posix| {
        kept.xattrs.remove(&name);
    };
    if shared.writing.of_inode(inode).is_some_and(|file| file.set_kept(remove)) {
        return Ok(());
    }
    change_kept(shared, inode, |kept| {
        remove(kept);
        Ok(())
    })
    .await
}

/// The part behind `user.` of a name that may be set.
fn writable<'a>(vfs: &'a Vfs, name: &OsStr) -> VfsResult<(&'a Arc<Shared>, String)> {
    vfs.policy.may_change()?;
    let what = "this extended attribute";
    let name = name.to_str().filter(|name| name.starts_with(USER)).ok_or(VfsError::NotSupported { what })?;
    if name.starts_with(OWN) {
        return Err(VfsError::NotSupported { what: "setting what the mount itself tells" });
    }
    if !vfs.shared.posix_metadata {
        return Err(VfsError::NotSupported { what: "an extended attribute without posix_metadata" });
    }
    Ok((&vfs.shared, name[USER.len()..].to_owned()))
}

/// Names that are kept. The program's own are not among them: whoever copies all attributes could not set them.
pub(super) async fn listxattr(vfs: &Vfs, inode: InodeNo) -> VfsResult<Vec<OsString>> {
    if !vfs.shared.posix_metadata {
        return Ok(Vec::new());
    }
    let xattrs = xattrs(&vfs.shared, inode).await?;
    Ok(xattrs.keys().map(|name| OsString::from(format!("{USER}{name}"))).collect())
}
