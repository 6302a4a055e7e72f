//! Names, made and removed: mkdir, unlink, rmdir.
//!
//! A directory is a marker object `name/`, or just a piece of its files' keys. The last of these to go would
//! take it along, so whoever removes a file leaves a marker where there is none. Nothing here waits for a
//! publication: writers of a removed name are orphaned, and make nothing visible any more.

use std::{
    ffi::OsStr,
    time::{Instant, SystemTime},
};

use bytes::Bytes;

use super::{
    Caller, Entry, FileKind, InodeNo, Notice, Vfs, VfsError, VfsResult,
    attr::{Facts, from_seconds},
    name::component,
    overlay::Change,
    policy::Standing,
    posix::Posix,
    resolve::{Target, standing},
    shared::Shared,
};
use crate::cos::{Key, ListRequest, NewObject, Payload};

/// What COS calls a directory (*Creating Folders*).
pub(super) const MARKER_TYPE: &str = "application/x-directory";

/// Names at the end of a list that are looked at for one that keeps its directory.
const LISTED_OTHERS_MAX: usize = 64;

pub(super) async fn mkdir(
    vfs: &Vfs,
    parent: InodeNo,
    name: &OsStr,
    mode: u16,
    caller: Caller,
) -> VfsResult<Entry> {
    let shared = &vfs.shared;
    shared.is_open()?;
    vfs.policy.may_change()?;
    shared.counted().await?;
    let name = component(name)?;
    let directory = shared.directory(parent)?;
    let (key, marker) = (shared.names.key(&directory, name)?, shared.names.marker(&directory, name)?);
    // Of two that make it at once, the other one finds it made.
    let _turn = shared.keys.lock(&marker).await;
    let asked = Instant::now();
    if shared.target(parent, &directory, name).await?.is_some() {
        return Err(VfsError::Exists { name: name.to_owned() });
    }
    let _share = shared.share(&marker, None)?;
    let mut kept = Posix::default();
    if shared.posix_metadata && mode != shared.shows.dir_mode && !shared.is_front_user(caller) {
        kept.mode = Some(mode);
    }
    shared.put_marker(&marker, &kept, name, None).await?;
    if shared.is_file_since(parent, name, &key, asked) {
        shared.delete(&marker, name, None, Some(0)).await?;
        return Err(VfsError::Exists { name: name.to_owned() });
    }
    let facts = shared.dated(Facts::directory(from_seconds(0)));
    vfs.show_made(parent, name, &facts, &kept)
}

impl Vfs {
    /// What was made just now, shown under a name that was free. The caller's kernel learns of it by the answer, the
    /// others are told.
    pub(super) fn show_made(
        &self,
        parent: InodeNo,
        name: &str,
        facts: &Facts,
        kept: &Posix,
    ) -> VfsResult<Entry> {
        let shared = &self.shared;
        let now = Instant::now();
        let gone = || VfsError::NotFound { name: name.to_owned() };
        let mut inodes = shared.inodes.lock();
        let inode = inodes.ensure(parent, name, facts, Some(now)).ok_or_else(gone)?;
        inodes.remember(inode);
        let known = inodes.known(inode).ok_or_else(gone)?;
        drop(inodes);
        shared.tell(Some(self.view), vec![Notice::Entry { parent, name: name.into() }]);
        Ok(shared.entry(inode, &known, Some(kept), now))
    }
}

pub(super) async fn unlink(vfs: &Vfs, parent: InodeNo, name: &OsStr) -> VfsResult<()> {
    let shared = &vfs.shared;
    shared.is_open()?;
    vfs.policy.may_change()?;
    let name = component(name)?;
    let directory = shared.directory(parent)?;
    let key = shared.names.key(&directory, name)?;
    let missing = || VfsError::NotFound { name: name.to_owned() };
    let target = shared.target(parent, &directory, name).await?.ok_or_else(missing)?;
    if target.facts.is_directory() {
        return Err(VfsError::IsDirectory { name: name.to_owned() });
    }
    vfs.policy.may_remove(name, standing(Some(&target)))?;
    let writers = shared.writing.of_key(key.as_str());
    let mut is_held = false;
    for file in &writers {
        is_held |= file.unlink();
    }
    // A writer may have published a moment ago, or be about to; what was never published asks for no request.
    let may_exist = !target.is_unpublished() || writers.iter().any(|file| file.may_be_object());
    let mut is_gone = true;
    if may_exist {
        shared.take_gathered(key.as_str());
        shared.keep_directory(&directory, &key).await?;
        let stood = (!target.is_unpublished()).then_some(target.facts.bytes);
        is_gone = shared.delete(&key, name, Some(&target.facts), stood).await?;
    }
    if is_held {
        // Its end is not quite done, so the name was there still.
        shared.uploads.drop_held(&key).await?;
    }
    if is_gone {
        shared.inodes.lock().unlink(parent, name);
    }
    for file in writers {
        shared.inodes.lock().abandon(file.inode);
    }
    shared.tell(Some(vfs.view), vec![Notice::Entry { parent, name: name.into() }]);
    Ok(())
}

pub(super) async fn rmdir(vfs: &Vfs, parent: InodeNo, name: &OsStr) -> VfsResult<()> {
    let shared = &vfs.shared;
    shared.is_open()?;
    vfs.policy.may_change()?;
    let name = component(name)?;
    let directory = shared.directory(parent)?;
    let marker = shared.names.marker(&directory, name)?;
    let missing = || VfsError::NotFound { name: name.to_owned() };
    let target: Target = shared.target(parent, &directory, name).await?.ok_or_else(missing)?;
    if !target.facts.is_directory() {
        return Err(VfsError::NotDirectory { name: name.to_owned() });
    }
    vfs.policy.may_remove(name, Standing::Published)?;
    if !shared.is_empty(marker.as_str()).await? {
        return Err(VfsError::NotEmpty { name: name.to_owned() });
    }
    shared.keep_directory(&directory, &marker).await?;
    {
        // Times that were set a moment ago would make it anew.
        let _turn = shared.keys.lock(&marker).await;
        shared.take_gathered(marker.as_str());
        shared.delete(&marker, name, None, Some(0)).await?;
    }
    shared.inodes.lock().unlink(parent, name);
    shared.tell(Some(vfs.view), vec![Notice::Entry { parent, name: name.into() }]);
    Ok(())
}

impl Shared {
    /// Makes the marker object of a directory, where `stood` says the size of what is replaced.
    pub(super) async fn put_marker(
        &self,
        marker: &Key,
        kept: &Posix,
        name: &str,
        stood: Option<u64>,
    ) -> VfsResult<()> {
        let mut new = NewObject { content_type: Some(MARKER_TYPE.to_owned()), ..NewObject::default() };
        kept.write(FileKind::Directory, &mut new.metadata)?;
        self.keys.settled(marker).await?;
        let _permit = self.writers.upload_permit().await;
        let put = self.store.put_object(marker, Payload::new(Bytes::new()), &new).await;
        put.map_err(|error| self.failed_change(error, name))?;
        let facts = Facts::directory(from_seconds(0));
        self.keep(self.version_of(marker, &facts), std::sync::Arc::new(kept.clone()));
        self.note_put(marker.as_str(), facts);
        self.count_change(marker.as_str(), stood, Some(0));
        Ok(())
    }

    /// Deletes one key, under which an object of `stood` bytes stands. Nothing in doubt about it may come to
    /// life later. False where another object has been put there behind it.
    pub(super) async fn delete(
        &self,
        key: &Key,
        name: &str,
        facts: Option<&Facts>,
        stood: Option<u64>,
    ) -> VfsResult<bool> {
        self.keys.settled(key).await?;
        let asked = Instant::now();
        let deleted = self.store.delete_object(key).await;
        deleted.map_err(|error| self.failed_change(error, name))?;
        self.count_change(key.as_str(), stood, None);
        Ok(self.note_gone(key, facts, asked).await)
    }

    /// Leaves a marker in `directory`, unless it has one: `leaving` may be the last that makes it be there.
    pub(super) async fn keep_directory(&self, directory: &str, leaving: &Key) -> VfsResult<()> {
        let Some(marker) = self.marker_of(directory).filter(|_| directory != self.names.root()) else {
            return Ok(());
        };
        if marker == *leaving || self.has_other(directory, leaving).await? {
            return Ok(());
        }
        let name = directory.trim_end_matches('/').rsplit('/').next().unwrap_or(directory).to_owned();
        self.put_marker(&marker, &Posix::default(), &name, None).await
    }

    /// Whether a directory is there without `leaving`: by its marker, or by something else in it.
    async fn has_other(&self, directory: &str, leaving: &Key) -> VfsResult<bool> {
        if let Some(Change::Put(_)) = self.own_change(directory) {
            return Ok(true);
        }
        if self.has_listed_other(directory, leaving) {
            return Ok(true);
        }
        let others = self.below(directory, Some(leaving)).await?;
        if others.iter().any(|key| key == directory) {
            // It need not be asked for again at the next file.
            self.note_put(directory, Facts::directory(from_seconds(0)));
        }
        Ok(!others.is_empty())
    }

    /// Whether a fresh list shows the marker of a directory, or a file in it beside `leaving`.
    fn has_listed_other(&self, directory: &str, leaving: &Key) -> bool {
        let (now, name) = (Instant::now(), leaving.as_str().strip_prefix(directory).unwrap_or(""));
        let mut listings = self.listings.lock();
        let fresh = listings.fresh(directory, now, self.attr_ttl);
        let Some(listing) = fresh.or_else(|| listings.ahead(directory, name, now, self.attr_ttl)) else {
            return false;
        };
        drop(listings);
        let overlay = self.overlay.lock();
        if overlay.change(directory, now).is_none() && listing.pages.iter().any(|page| page.has_marker) {
            return true;
        }
        // From the end, because `rm -r` begins at the start.
        let pages = listing.pages.iter().rev();
        let last = pages.flat_map(|page| (0..page.len()).rev().map(move |place| (page, place)));
        last.take(LISTED_OTHERS_MAX).any(|(page, place)| {
            let listed = page.name(place);
            let change = overlay.change(&format!("{directory}{listed}"), now);
            // Of what was changed, only the store can tell.
            listed != name && !listed.ends_with('/') && change.is_none()
        })
    }

    /// Whether a directory holds nothing but its marker; files that are just being written count.
    pub(super) async fn is_empty(&self, directory: &str) -> VfsResult<bool> {
        let is_written_to = self.writing.below(directory).iter().any(|file| file.is_unpublished());
        Ok(!is_written_to && self.below(directory, None).await?.iter().all(|key| key == directory))
    }

    /// Some keys at or below a directory, `leaving` apart: none if there are none, and at least one beside
    /// the marker if there is one. Own changes are laid over what the list says.
    async fn below(&self, directory: &str, leaving: Option<&Key>) -> VfsResult<Vec<String>> {
        let mut keys: Vec<String> = Vec::new();
        for (name, change) in self.overlay.lock().names(directory, Instant::now()) {
            if matches!(change, Change::Put(_)) {
                keys.push(format!("{directory}{name}"));
            }
        }
        keys.retain(|key| leaving.is_none_or(|leaving| key != leaving.as_str()));
        if !keys.is_empty() {
            return Ok(keys);
        }
        let mut request =
            ListRequest { prefix: directory.to_owned(), entries_max: 3, ..ListRequest::default() };
        loop {
            let page = self.store.list_objects(&request).await;
            let page = page.map_err(|error| VfsError::from_cos(error, directory))?;
            let now = Instant::now();
            let overlay = self.overlay.lock();
            for object in &page.objects {
                let change = overlay.change(&object.key, now).map(|(change, _)| change);
                let is_there =
                    change.is_none_or(|change| change.over(Some(&Facts::of_listed(object))).is_some());
                if is_there && leaving.is_none_or(|leaving| object.key != leaving.as_str()) {
                    keys.push(object.key.clone());
                }
            }
            drop(overlay);
            let has_found = keys.iter().any(|key| key != directory);
            match page.next_marker {
                Some(marker) if !has_found => {
                    // What lists still show of own deletes may fill whole pages.
                    request.marker = marker;
                    request.entries_max = super::resolve::PAGE_NAMES_MAX;
                }
                _ => return Ok(keys),
            }
        }
    }

    /// The wall clock, in whole seconds as lists tell times.
    pub(super) fn wall_clock() -> SystemTime {
        from_seconds(super::attr::seconds(SystemTime::now()))
    }
}
