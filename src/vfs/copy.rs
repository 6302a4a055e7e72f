//! copy_file_range(2): a whole object under a new name is copied by the store.
//!
//! The new file is an edit that lies over the old object, without a change. Nothing travels until it is published, and then
//! the store copies that very version. What else is asked for (a piece, a file that holds something already) is
//! `NotSupported`, and the kernel copies by reads and writes.
//!
//! But for the beginning of an object: the kernel cuts what is asked for to the size that it remembers, and nobody can
//! tell who wants just that from who wants all of a file that has grown meanwhile. That is `Invalid`, which the program
//! hears itself (copy_file_range(2), EINVAL), and it copies by hand up to the end that it finds.

use super::{HandleNo, Vfs, VfsError, VfsResult, handle::Handle};

/// Returns how many bytes the file at `to` has taken: all that are there behind `from_offset`, or none at the end of
/// what is copied.
pub(super) async fn copy_range(
    vfs: &Vfs,
    (from, from_offset): (HandleNo, u64),
    (to, to_offset): (HandleNo, u64),
    bytes: u64,
) -> VfsResult<u64> {
    let shared = &vfs.shared;
    let by_hand = VfsError::NotSupported { what: "copying anything but whole objects" };
    let Handle::Reader(source) = shared.handle(from)? else { return Err(by_hand) };
    let target = shared.handle(to)?.for_writing()?;
    if source.reads_an_edit(shared) {
        return Err(by_hand);
    }
    let (key, version) = source.version().await?;
    if from_offset >= version.bytes {
        return Ok(0);
    }
    if from_offset != 0 || to_offset != 0 {
        return Err(by_hand);
    }
    if bytes < version.bytes {
        return Err(VfsError::Invalid { why: "the beginning of an object is not copied by the store" });
    }
    let copied = version.bytes;
    target.copy(shared, key, version).await?;
    Ok(copied)
}
