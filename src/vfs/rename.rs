//! Rename: COS knows none, so it is a copy and a delete.
//!
//! The copy is of the version that was looked at, and the delete is of that version too, as far as COS lets
//! one know: a HEAD right before it. A directory is copied as a whole before the first of its keys is deleted,
//! so whatever interrupts a rename, nothing is lost; what is left then are copies under the new name.
//! Whoever still has one of the names open for writing is waited for where that is short, else it is `Busy`.

use std::{
    collections::HashSet,
    ffi::OsStr,
    hash::{BuildHasher, RandomState},
    sync::Arc,
    time::Instant,
};

use futures_util::{StreamExt, TryStreamExt, stream};
use tracing::warn;

use super::{
    Caller, InodeNo, Notice, Vfs, VfsError, VfsResult,
    attr::{Facts, PackedETag},
    inode::ROOT,
    name::component,
    overlay::Change,
    resolve::{PAGE_NAMES_MAX, Target, standing},
    shared::Shared,
};
use crate::cos::{
    ByteRange, CosError, Crc64, Expected, Key, ListRequest, NewObject, ObjectMeta, PARTS_MAX, PUT_BYTES_MAX,
    PartNumber, PartStored, Reason, Stored, UploadId,
};

/// Above this, parts are copied in parallel (COS copies some 100 MB/s at a time); above 5 GB they must be.
const PART_COPY_ABOVE_BYTES: u64 = 1 << 30;
const COPIED_PART_BYTES_MIN: u64 = 256 << 20;
/// Copies of one rename in flight.
const COPIES_MAX: usize = 16;

/// A name in a directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) parent: InodeNo,
    pub(super) name: &'a OsStr,
}

/// A [`Place`] with all that follows from it.
#[derive(Debug)]
pub(super) struct Spot {
    pub(super) parent: InodeNo,
    pub(super) directory: String,
    pub(super) name: String,
}

impl Spot {
    pub(super) fn key(&self, shared: &Shared) -> VfsResult<Key> {
        shared.names.key(&self.directory, &self.name)
    }

    fn marker(&self, shared: &Shared) -> VfsResult<Key> {
        shared.names.marker(&self.directory, &self.name)
    }

    fn notice(&self) -> Notice {
        Notice::Entry { parent: self.parent, name: self.name.clone().into() }
    }
}

pub(super) async fn rename(vfs: &Vfs, from: Place<'_>, to: Place<'_>, no_replace: bool) -> VfsResult<()> {
    let shared = &vfs.shared;
    shared.is_open()?;
    vfs.policy.may_change()?;
    let spot = |place: Place<'_>| -> VfsResult<Spot> {
        let name = component(place.name)?.to_owned();
        Ok(Spot { parent: place.parent, directory: shared.directory(place.parent)?, name })
    };
    let (from, to) = (spot(from)?, spot(to)?);
    let moved = move_name(vfs, &from, &to, no_replace).await?;
    shared.tell(Some(vfs.view), vec![from.notice(), to.notice()]);
    if let Some(inode) = moved {
        // The copy has a time of its own, which the kernel of this view does not know.
        shared.tell_one(vfs.view, Notice::Inode { inode });
    }
    Ok(())
}

/// The front's rename. It holds no lock of the kernel's, so every view is told before it returns.
pub(super) async fn rename_paths(
    vfs: &Vfs,
    from: &OsStr,
    to: &OsStr,
    no_replace: bool,
    caller: Caller,
) -> VfsResult<()> {
    let shared = &vfs.shared;
    shared.is_front(caller)?;
    shared.is_open()?;
    vfs.policy.may_change()?;
    let (from, to) = (walk(shared, from).await?, walk(shared, to).await?);
    let moved = move_name(vfs, &from, &to, no_replace).await;
    let mut notices = vec![from.notice(), to.notice()];
    if let Ok(Some(inode)) = &moved {
        notices.push(Notice::Inode { inode: *inode });
    }
    shared.tell_all_and_wait(notices).await;
    for parent in [from.parent, to.parent] {
        shared.inodes.lock().unpin(parent);
    }
    moved.map(|_| ())
}

/// The directory that a path below the root names, pinned, and the name in it.
pub(super) async fn walk(shared: &Shared, path: &OsStr) -> VfsResult<Spot> {
    let path =
        path.to_str().ok_or_else(|| VfsError::NameImpossible { name: path.to_string_lossy().into() })?;
    let mut pieces: Vec<&str> = path.split('/').filter(|piece| !piece.is_empty()).collect();
    let last = pieces.pop().ok_or(VfsError::Invalid { why: "the root of a mount cannot be renamed" })?;
    let name = component(OsStr::new(last))?.to_owned();
    let mut parent = ROOT;
    shared.inodes.lock().pin(parent);
    for piece in pieces {
        let step = walk_into(shared, parent, piece).await;
        shared.inodes.lock().unpin(parent);
        parent = step?;
    }
    Ok(Spot { parent, directory: shared.directory(parent)?, name })
}

async fn walk_into(shared: &Shared, parent: InodeNo, piece: &str) -> VfsResult<InodeNo> {
    let piece = component(OsStr::new(piece))?;
    let directory = shared.directory(parent)?;
    let missing = || VfsError::NotFound { name: piece.to_owned() };
    let target = shared.target(parent, &directory, piece).await?.ok_or_else(missing)?;
    if !target.facts.is_directory() {
        return Err(VfsError::NotDirectory { name: piece.to_owned() });
    }
    let mut inodes = shared.inodes.lock();
    let inode = inodes.ensure(parent, piece, &target.facts, target.seen).ok_or_else(missing)?;
    inodes.pin(inode);
    Ok(inode)
}

/// Does it. The inode that moved, where the table holds one.
async fn move_name(vfs: &Vfs, from: &Spot, to: &Spot, no_replace: bool) -> VfsResult<Option<InodeNo>> {
    let shared = &vfs.shared;
    let missing = || VfsError::NotFound { name: from.name.clone() };
    let source = shared.target(from.parent, &from.directory, &from.name).await?.ok_or_else(missing)?;
    let target = shared.target(to.parent, &to.directory, &to.name).await?;
    if (from.parent, &from.name) == (to.parent, &to.name) {
        return if no_replace { Err(VfsError::Exists { name: to.name.clone() }) } else { Ok(None) };
    }
    if no_replace && target.is_some() {
        return Err(VfsError::Exists { name: to.name.clone() });
    }
    vfs.policy.may_rename_onto(&to.name, standing(target.as_ref()))?;
    // Until the table knows.
    let _named = shared.writing.name(&from.key(shared)?).lock_owned().await;
    let has_stayed = if source.facts.is_directory() {
        move_directory(shared, from, to, target.as_ref()).await?;
        true
    } else {
        let forbid_overwrite = no_replace || vfs.policy.forbids_overwrite();
        move_file(shared, from, to, target.as_ref(), forbid_overwrite).await?
    };
    let mut inodes = shared.inodes.lock();
    if !has_stayed {
        inodes.unlink(from.parent, &from.name);
        return Ok(None);
    }
    inodes.rename(from.parent, &from.name, to.parent, &to.name);
    Ok(inodes.find(to.parent, &to.name))
}

/// False where the new name has been changed again by now.
async fn move_file(
    shared: &Arc<Shared>,
    from: &Spot,
    to: &Spot,
    target: Option<&Target>,
    forbid_overwrite: bool,
) -> VfsResult<bool> {
    if target.is_some_and(|target| target.facts.is_directory()) {
        return Err(VfsError::IsDirectory { name: to.name.clone() });
    }
    let (source_key, target_key) = (from.key(shared)?, to.key(shared)?);
    shared.settle_writers(source_key.as_str(), &from.name).await?;
    shared.settle_writers(target_key.as_str(), &to.name).await?;
    let meta = shared.store.head_object(&source_key).await;
    let meta = meta.map_err(|error| VfsError::from_cos(error, &from.name))?;
    let kept = shared.take_gathered(source_key.as_str());
    let replace = match &kept {
        Some(kept) => Some(shared.with_kept(&meta, kept)?),
        None => None,
    };
    let facts = {
        let _turn = shared.keys.lock(&target_key).await;
        shared.keys.settled(&source_key).await?;
        shared.keys.settled(&target_key).await?;
        let asked = Instant::now();
        let copied = copy(shared, &source_key, &target_key, &meta, replace.as_ref(), forbid_overwrite).await;
        let stored = copied.map_err(|error| shared.failed_change(error, &to.name))?;
        let facts = facts_of_copy(&meta, &stored);
        // Within the turn: who waits for it must not publish over what stands there now.
        for key in [&source_key, &target_key] {
            shared.writing.of_key(key.as_str()).iter().for_each(|file| file.orphan());
        }
        shared.note_made(&target_key, &facts, asked).await;
        let published = target.filter(|target| !target.is_unpublished());
        let stood = published.map(|target| target.facts.bytes);
        shared.count_change(target_key.as_str(), stood, Some(facts.bytes));
        facts
    };
    if shared.posix_metadata {
        let kept = kept.unwrap_or_else(|| super::posix::Posix::of(&meta.metadata));
        shared.keep((target_key.as_str().to_owned(), facts.clone()), Arc::new(kept));
    }
    delete_version(shared, &source_key, &from.directory, &from.name, &meta).await?;
    let now = shared.own_change(target_key.as_str());
    if now.is_some_and(|now| now != Change::Put(facts.clone())) {
        return Ok(false);
    }
    let mut inodes = shared.inodes.lock();
    if let Some(inode) = inodes.find(from.parent, &from.name) {
        inodes.update(inode, &facts, Some(Instant::now()));
    }
    Ok(true)
}

/// Deletes what was copied, if it still is that.
async fn delete_version(
    shared: &Shared,
    key: &Key,
    directory: &str,
    name: &str,
    copied: &ObjectMeta,
) -> VfsResult<()> {
    // Whoever has begun the name anew meanwhile publishes before the look, or behind the delete.
    let turn = shared.writing.turn(key);
    let _turn = turn.lock().await;
    match shared.head(key, name).await? {
        None => {
            // A writer has taken it back who was publishing it just then.
            shared.note_deleted(key.as_str(), None);
            return Ok(());
        }
        Some(now) if now.etag != Some(PackedETag::new(&copied.etag)) => {
            warn!(%key, "changed while it was being renamed: both names stay");
            return Err(VfsError::ReplacedMeanwhile { name: name.to_owned() });
        }
        Some(_) => {}
    }
    shared.keep_directory(directory, key).await?;
    shared.delete(key, name, Some(&Facts::of_meta(copied)), Some(copied.size)).await.map(|_| ())
}

fn facts_of_copy(source: &ObjectMeta, stored: &Stored) -> Facts {
    let modified = stored.last_modified.unwrap_or_else(Shared::wall_clock);
    Facts::of_object(source.size, modified, &stored.etag)
}

/// Copies one object as a list told of it; one that is another by now, as it is. The size and ETag of what was
/// copied, and what the copy is; `None` where nothing is there.
async fn copy_listed(
    shared: &Shared,
    key: &Key,
    target: &Key,
    listed: &Facts,
    name: &str,
) -> VfsResult<Option<(u64, PackedETag, Facts)>> {
    if let Some(packed) = listed.etag.clone().filter(|_| listed.bytes <= PART_COPY_ABOVE_BYTES) {
        let etag = packed.unpack();
        let permit = shared.writers.upload_permit().await;
        let copied = shared.store.copy_object(key, target, Some(&etag), None, false).await;
        drop(permit);
        match copied {
            Ok(stored) => {
                let modified = stored.last_modified.unwrap_or_else(Shared::wall_clock);
                let new = Facts::of_object(listed.bytes, modified, &stored.etag);
                return Ok(Some((listed.bytes, packed, new)));
            }
            // Lists lag: HEAD tells what is there.
            Err(error) if matches!(error.reason, Reason::NoSuchKey | Reason::PreconditionFailed) => {}
            Err(error) => return Err(shared.failed_change(error, name)),
        }
    }
    let meta = match shared.store.head_object(key).await {
        Ok(meta) => meta,
        // Gone meanwhile, or the list lags behind a delete.
        Err(failure) if failure.reason == Reason::NoSuchKey => return Ok(None),
        Err(failure) => return Err(VfsError::from_cos(failure, name)),
    };
    let copied = copy(shared, key, target, &meta, None, false).await;
    let stored = copied.map_err(|error| shared.failed_change(error, name))?;
    Ok(Some((meta.size, PackedETag::new(&meta.etag), facts_of_copy(&meta, &stored))))
}

/// Copies one object, of the version that `meta` tells.
async fn copy(
    shared: &Shared,
    source: &Key,
    target: &Key,
    meta: &ObjectMeta,
    replace: Option<&NewObject>,
    forbid_overwrite: bool,
) -> Result<Stored, CosError> {
    if meta.size <= PART_COPY_ABOVE_BYTES {
        let _permit = shared.writers.upload_permit().await;
        return shared.store.copy_object(source, target, Some(&meta.etag), replace, forbid_overwrite).await;
    }
    let mut new = replace.cloned().unwrap_or_else(|| NewObject {
        content_type: meta.content_type.clone(),
        metadata: meta.metadata.clone(),
        forbid_overwrite: false,
    });
    new.forbid_overwrite = forbid_overwrite;
    let upload = shared.store.initiate_multipart_upload(target, &new).await?;
    shared.uploads.begun(target, &upload, false);
    let part_bytes = meta.size.div_ceil(u64::from(PARTS_MAX)).clamp(COPIED_PART_BYTES_MIN, PUT_BYTES_MAX);
    let copied = copy_parts(shared, source, target, meta, part_bytes, &upload, forbid_overwrite).await;
    if copied.is_err()
        && let Err(error) = shared.store.abort_multipart_upload(target, &upload).await
    {
        warn!(key = %target, %error, "the upload of a copy that failed is left behind");
        // Its note stays with it: the next start sweeps both away.
        return copied;
    }
    shared.uploads.ended(&upload);
    copied
}

async fn copy_parts(
    shared: &Shared,
    source: &Key,
    target: &Key,
    meta: &ObjectMeta,
    part_bytes: u64,
    upload: &UploadId,
    forbid_overwrite: bool,
) -> Result<Stored, CosError> {
    let ranges = (0..meta.size.div_ceil(part_bytes)).map(|index| {
        let first = index * part_bytes;
        let number = u16::try_from(index + 1).ok().and_then(PartNumber::new);
        (number, ByteRange { first, length: part_bytes.min(meta.size - first) })
    });
    let copies = ranges.map(|(number, range)| async move {
        let number =
            number.ok_or_else(|| CosError::new("UploadPartCopy", Reason::TooLarge).of_key(source))?;
        let _permit = shared.writers.upload_permit().await;
        shared.store.upload_part_copy(target, upload, number, source, range, Some(&meta.etag)).await
    });
    let mut parts: Vec<PartStored> = stream::iter(copies).buffer_unordered(COPIES_MAX).try_collect().await?;
    parts.sort_by_key(|part| part.number);
    let combined = parts
        .iter()
        .try_fold(Crc64::EMPTY, |sum, part| part.crc64.map(|crc64| sum.followed_by(crc64, part.bytes)));
    let crc64 = meta.crc64.or(combined).ok_or_else(|| {
        let why = "neither the object nor its parts have a checksum that the copy could be held to";
        CosError::new("UploadPartCopy", Reason::Refused).of_key(source).because(why)
    })?;
    let expected = Expected { bytes: meta.size, crc64: Some(crc64) };
    let _permit = shared.writers.upload_permit().await;
    shared.store.complete_multipart_upload(target, upload, &parts, expected, forbid_overwrite).await
}

async fn move_directory(
    shared: &Arc<Shared>,
    from: &Spot,
    to: &Spot,
    target: Option<&Target>,
) -> VfsResult<()> {
    let (source, into) = (from.marker(shared)?, to.marker(shared)?);
    if into.as_str().starts_with(source.as_str()) {
        return Err(VfsError::Invalid { why: "a directory cannot be moved into itself" });
    }
    if let Some(target) = target {
        if !target.facts.is_directory() {
            return Err(VfsError::NotDirectory { name: to.name.clone() });
        }
        if !shared.is_empty(into.as_str()).await? {
            return Err(VfsError::NotEmpty { name: to.name.clone() });
        }
    }
    for file in shared.writing.below(source.as_str()) {
        shared.settle_writers(file.key.as_str(), &file.name).await?;
    }
    shared.flush_all_gathered().await;
    let copied = Copied::all(shared, &source, &into, &from.name).await?;
    for file in shared.writing.below(source.as_str()) {
        file.orphan();
    }
    shared.keep_directory(&from.directory, &source).await?;
    copied.delete(shared, &source, &from.name).await
}

/// What has been copied out of a directory, to be deleted there.
struct Copied {
    hasher: RandomState,
    /// Hashes of key and ETag: a million of them must fit.
    versions: HashSet<u64>,
    /// Own recent objects that the list did not show, and may not show the next time; with their sizes.
    unlisted: Vec<(Key, u64)>,
    /// The size of the marker that the new name had before, for the quota.
    marker_stood: Option<u64>,
}

impl Copied {
    /// Copies everything below `source`, before anything is deleted.
    async fn all(shared: &Arc<Shared>, source: &Key, into: &Key, name: &str) -> VfsResult<Self> {
        let marker_stood = match &shared.quota {
            Some(_) => shared.head(into, name).await?.map(|facts| facts.bytes),
            None => None,
        };
        let (hasher, versions, unlisted) = (RandomState::new(), HashSet::new(), Vec::new());
        let mut copied = Self { hasher, versions, unlisted, marker_stood };
        let mut seen_own = HashSet::new();
        let mut request = ListRequest {
            prefix: source.as_str().to_owned(),
            entries_max: PAGE_NAMES_MAX,
            ..ListRequest::default()
        };
        loop {
            let page = shared.store.list_objects(&request).await;
            let page = page.map_err(|error| VfsError::from_cos(error, name))?;
            let mut found = Vec::new();
            for object in &page.objects {
                let own = shared.own_change(&object.key);
                let listed = Facts::of_listed(object);
                if let Some(facts) = own.as_ref().map_or(Some(listed.clone()), |own| own.over(Some(&listed)))
                {
                    found.push((object.key.clone(), facts));
                }
                if own.is_some() {
                    seen_own.insert(object.key.clone());
                }
            }
            copied.take_over(shared, source, into, name, found).await?;
            match page.next_marker {
                Some(marker) => request.marker = marker,
                None => break,
            }
        }
        let unlisted: Vec<(String, Facts)> = shared
            .overlay
            .lock()
            .objects_below(source.as_str(), Instant::now())
            .into_iter()
            .filter(|(key, _)| !seen_own.contains(key))
            .collect();
        let sized = unlisted.iter().filter_map(|(key, facts)| Some((Key::new(key).ok()?, facts.bytes)));
        copied.unlisted = sized.collect();
        copied.take_over(shared, source, into, name, unlisted).await?;
        // Without a marker the new name would be there only as long as its files, and lists may lag.
        if !matches!(shared.own_change(into.as_str()), Some(Change::Put(_))) {
            shared.put_marker(into, &super::posix::Posix::default(), name, marker_stood).await?;
        }
        Ok(copied)
    }

    async fn take_over(
        &mut self,
        shared: &Arc<Shared>,
        source: &Key,
        into: &Key,
        name: &str,
        found: Vec<(String, Facts)>,
    ) -> VfsResult<()> {
        let marker_stood = self.marker_stood;
        let copies = found.into_iter().map(|(text, facts)| async move {
            let impossible = |_| VfsError::NameImpossible { name: text.clone() };
            let key = Key::new(&text).map_err(impossible)?;
            let rest = &text[source.as_str().len()..];
            let target =
                Key::new(format!("{into}{rest}", into = into.as_str())).map_err(|_| VfsError::NameTooLong)?;
            shared.keys.settled(&key).await?;
            let Some((bytes, etag, new)) = copy_listed(shared, &key, &target, &facts, name).await? else {
                return Ok(None);
            };
            shared.note_put(target.as_str(), new);
            // Nothing but a marker can have been there: the directory was empty.
            let stood = marker_stood.filter(|_| rest.is_empty());
            shared.count_change(target.as_str(), stood, Some(bytes));
            Ok(Some((text, Some(etag))))
        });
        let mut done = stream::iter(copies).buffer_unordered(COPIES_MAX);
        while let Some(copied) = done.next().await {
            if let Some(version) = copied? {
                self.versions.insert(self.hasher.hash_one(version));
            }
        }
        Ok(())
    }

    /// Deletes what was copied. What appeared or changed meanwhile stays, and is told.
    async fn delete(&self, shared: &Arc<Shared>, source: &Key, name: &str) -> VfsResult<()> {
        let mut request = ListRequest {
            prefix: source.as_str().to_owned(),
            entries_max: PAGE_NAMES_MAX,
            ..ListRequest::default()
        };
        let mut stays = false;
        let mut keys = self.unlisted.clone();
        loop {
            let page = shared.store.list_objects(&request).await;
            let page = page.map_err(|error| VfsError::from_cos(error, name))?;
            for object in page.objects {
                let listed = Facts::of_listed(&object);
                let own = shared.own_change(&object.key);
                let Some(facts) = own.map_or(Some(listed.clone()), |own| own.over(Some(&listed))) else {
                    continue;
                };
                let bytes = facts.bytes;
                // Own changes tell of a marker without its ETag.
                let etag = facts.etag.or(listed.etag);
                let version = self.hasher.hash_one((object.key.clone(), etag));
                match Key::new(&object.key) {
                    Ok(key) if self.versions.contains(&version) => keys.push((key, bytes)),
                    _ => stays = true,
                }
            }
            delete_all(shared, &keys, name).await?;
            keys.clear();
            match page.next_marker {
                Some(marker) => request.marker = marker,
                None => break,
            }
        }
        if stays {
            warn!(directory = %source, "something changed while it was being renamed, and stays under the old name");
            return Err(VfsError::ReplacedMeanwhile { name: name.to_owned() });
        }
        shared.note_deleted(source.as_str(), None);
        Ok(())
    }
}

async fn delete_all(shared: &Shared, sized: &[(Key, u64)], name: &str) -> VfsResult<()> {
    if sized.is_empty() {
        return Ok(());
    }
    let keys: Vec<Key> = sized.iter().map(|(key, _)| key.clone()).collect();
    let failed = shared.store.delete_objects(&keys).await;
    let failed = failed.map_err(|error| shared.failed_change(error, name))?;
    let mut gone = HashSet::new();
    for (key, bytes) in sized.iter().filter(|(key, _)| !failed.iter().any(|(failed, _)| failed == key)) {
        // What lists had missed may be among them twice.
        if gone.insert(key) {
            shared.note_deleted(key.as_str(), None);
            shared.count_change(key.as_str(), Some(*bytes), None);
        }
    }
    match failed.into_iter().next() {
        Some((_, error)) => Err(VfsError::from_cos(error, name)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cos::{MemoryStore, ObjectStore},
        vfs::shared::tests::shared,
    };

    #[tokio::test]
    async fn large_objects_are_copied_in_parts_and_checked() {
        let memory = Arc::new(MemoryStore::new());
        let shared = shared(memory.clone());
        let bytes: Vec<u8> =
            (0..3_670_016_u32).map(|number| number.to_le_bytes()[usize::from(number % 2 == 0)]).collect();
        memory.insert("source", bytes.clone());
        let (source, target) = (Key::new("source").unwrap(), Key::new("target").unwrap());
        let meta = memory.head_object(&source).await.unwrap();
        let begin =
            || async { memory.initiate_multipart_upload(&target, &NewObject::default()).await.unwrap() };
        let upload = begin().await;
        copy_parts(&shared, &source, &target, &meta, 1 << 20, &upload, false).await.unwrap();
        assert_eq!(memory.content("target").unwrap(), bytes);
        assert_eq!(memory.meta("target").unwrap().crc64, meta.crc64);
        // Another version than the one that was looked at is not copied.
        memory.insert("source", "other");
        let upload = begin().await;
        let error = copy_parts(&shared, &source, &target, &meta, 1 << 20, &upload, false).await.unwrap_err();
        assert_eq!(error.reason, Reason::PreconditionFailed);
        assert_eq!(memory.content("target").unwrap(), bytes);
    }
}
