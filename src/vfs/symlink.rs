//! Symbolic links: objects whose content is the target, and whose kept `mode` says so (`posix.rs`).
//!
//! s3fs and cosfs keep them in the same way. Lists show them as files, so the kind of what may be a link is
//! decided where its metadata is asked for (`resolve.rs`, `dir.rs`); without `posix_metadata` nobody asks, and
//! there are none. A link is made by one PUT, like any other object, and never changes: whoever wants another
//! target makes another link.

use std::{ffi::OsStr, sync::Arc};

use bytes::Bytes;

use super::{
    Entry, InodeNo, Vfs, VfsError, VfsResult,
    attr::{Facts, TARGET_BYTES_MAX},
    name::component,
    posix::Posix,
    read::Reader,
    shared::Shared,
    write::{Publisher, Whole},
};
use crate::cos::{Key, NewObject, Payload};

pub(super) async fn symlink(vfs: &Vfs, parent: InodeNo, name: &OsStr, target: &OsStr) -> VfsResult<Entry> {
    let shared = &vfs.shared;
    shared.is_open()?;
    vfs.policy.may_change()?;
    if !shared.posix_metadata {
        return Err(VfsError::NotPermitted { what: "a symbolic link without posix_metadata" });
    }
    let target = content(target)?;
    shared.counted().await?;
    let name = component(name)?;
    let directory = shared.directory(parent)?;
    let key = shared.names.key(&directory, name)?;
    if is_there(shared, parent, &directory, name, &key).await? {
        return Err(VfsError::Exists { name: name.to_owned() });
    }
    let kept = Posix { is_link: true, ..Posix::default() };
    let facts = make(shared, &key, target.clone(), &kept).await?;
    let of = shared.version_of(&key, &facts);
    let kept = Arc::new(kept);
    shared.targets.lock().put(of.clone(), target);
    shared.keep(of, kept.clone());
    shared.uploads.replaced(&key);
    shared.take_gathered(key.as_str());
    shared.note_put(key.as_str(), facts.clone());
    let facts = facts.judged_by(Some(&kept));
    vfs.show_made(parent, name, &facts, &kept)
}

/// What the object of a link will hold.
fn content(target: &OsStr) -> VfsResult<Bytes> {
    let target = target.as_encoded_bytes();
    if target.is_empty() {
        // symlink(2)
        return Err(VfsError::NotFound { name: "target".to_owned() });
    }
    if target.len() as u64 > TARGET_BYTES_MAX {
        return Err(VfsError::NameTooLong);
    }
    if target.contains(&0) {
        return Err(VfsError::Invalid { why: "the target of a link holds a zero byte" });
    }
    Ok(Bytes::copy_from_slice(target))
}

/// Whether the name is taken. No list and no memory of ours is good enough for that.
async fn is_there(
    shared: &Shared,
    parent: InodeNo,
    directory: &str,
    name: &str,
    key: &Key,
) -> VfsResult<bool> {
    if shared.target(parent, directory, name).await?.is_some() {
        return Ok(true);
    }
    // One that was unlinked may be on its way into the bucket, to be taken back there.
    for file in shared.writing.of_key(key.as_str()) {
        file.wait_closed().await;
    }
    Ok(shared.head(key, name).await?.is_some())
}

/// Makes the object, where nothing stands.
async fn make(shared: &Shared, key: &Key, target: Bytes, kept: &Posix) -> VfsResult<Facts> {
    let mut new = NewObject { forbid_overwrite: true, ..NewObject::default() };
    kept.write(kept.kind(), &mut new.metadata)?;
    let bytes = target.len() as u64;
    let mut share = shared.share(key, None)?;
    if let Some(share) = &mut share {
        share.room_to(bytes)?;
    }
    let turn = shared.writing.turn(key);
    let _turn = turn.lock().await;
    let (writers, store) = (shared.writers.clone(), shared.store.clone());
    let publisher = Publisher::new(writers, store, shared.keys.clone(), key.clone(), shared.uploads.clone());
    let made = publisher.publish(Whole::Bytes(Payload::new(target)), &new, None).await;
    if let Some(share) = &mut share {
        match &made {
            Ok(_) => share.published(bytes),
            Err(_) => share.doubt(),
        }
    }
    let made = made?;
    Ok(Facts::of_object(made.bytes, made.last_modified, &made.etag))
}

pub(super) async fn readlink(vfs: &Vfs, inode: InodeNo) -> VfsResult<Bytes> {
    vfs.policy.may_read()?;
    let shared = &vfs.shared;
    let known = shared.known(inode)?;
    let replaced = || VfsError::ReplacedMeanwhile { name: known.name.to_string() };
    let (true, Some(etag)) = (known.facts.is_link(), &known.facts.etag) else {
        return Err(VfsError::Invalid { why: "not a symbolic link" });
    };
    let (directory, name) = shared.place_of(inode, &known).ok_or_else(replaced)?;
    let key = shared.names.key(&directory, &name)?;
    let of = shared.version_of(&key, &known.facts);
    if let Some(target) = shared.targets.lock().get(&of) {
        return Ok(target.clone());
    }
    let bytes = known.facts.bytes;
    let reader = Reader::of_version(shared, inode, key, &name, etag.unpack(), bytes);
    // Not the buffer that it lies in.
    let target = Bytes::copy_from_slice(&reader.read(0, bytes).await?);
    shared.targets.lock().put(of, target.clone());
    Ok(target)
}
