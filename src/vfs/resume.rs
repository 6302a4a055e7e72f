//! Broken uploads, as the front asks for them: by the path of a name that does not exist.
//!
//! The kernel never asks: for it such a name is simply not there. So nothing here is on the way of a lookup, and a
//! name that exists costs no request.

use std::{
    ffi::OsStr,
    time::{Duration, Instant},
};

use super::{
    Notice, Vfs, VfsError, VfsResult,
    policy::Standing,
    rename::{Spot, walk},
    shared::Shared,
};

/// How long a transfer that is being closed is waited for: its last parts travel, and its note is written.
const CLOSING_WAITS: Duration = Duration::from_secs(60);

pub(super) async fn held(vfs: &Vfs, path: &OsStr, to_go_on: bool) -> VfsResult<u64> {
    let shared = &vfs.shared;
    let spot = walk(shared, path).await?;
    let held = held_at(shared, &spot, to_go_on).await;
    shared.inodes.lock().unpin(spot.parent);
    Ok(held?.unwrap_or(0))
}

pub(super) async fn drop_held(vfs: &Vfs, path: &OsStr) -> VfsResult<()> {
    let shared = &vfs.shared;
    shared.is_open()?;
    let spot = walk(shared, path).await?;
    let dropped = drop_at(vfs, &spot).await;
    shared.inodes.lock().unpin(spot.parent);
    dropped
}

async fn held_at(shared: &Shared, spot: &Spot, to_go_on: bool) -> VfsResult<Option<u64>> {
    let key = spot.key(shared)?;
    if !wait_for_closing(shared, spot, key.as_str()).await {
        return Err(VfsError::Busy { name: spot.name.clone() });
    }
    let Some(target) = shared.target(spot.parent, &spot.directory, &spot.name).await? else {
        return shared.uploads.held(&key).await;
    };
    // Whoever goes on with that would make a file of two.
    if to_go_on && shared.uploads.is_outdated(&key, &target.facts).await? {
        return Err(VfsError::ReplacedMeanwhile { name: spot.name.clone() });
    }
    Ok(None)
}

async fn drop_at(vfs: &Vfs, spot: &Spot) -> VfsResult<()> {
    let shared = &vfs.shared;
    vfs.policy.may_remove(&spot.name, Standing::Free)?;
    let key = spot.key(shared)?;
    wait_for_closing(shared, spot, key.as_str()).await;
    let missing = shared.target(spot.parent, &spot.directory, &spot.name).await?.is_none();
    if missing && shared.uploads.drop_held(&key).await? {
        return Ok(());
    }
    Err(VfsError::NotFound { name: spot.name.clone() })
}

/// Waits for the transfers of a name that the front has closed; false where one of them, or another one, goes on.
async fn wait_for_closing(shared: &Shared, spot: &Spot, key: &str) -> bool {
    let deadline = Instant::now() + CLOSING_WAITS;
    let files = shared.writing.of_key(key);
    for file in &files {
        let left = deadline.saturating_duration_since(Instant::now());
        drop(tokio::time::timeout(left, file.wait_closed()).await);
    }
    if !files.is_empty() {
        // The kernel may still believe in the name.
        let name = spot.name.clone().into();
        shared.tell_all_and_wait(vec![Notice::Entry { parent: spot.parent, name }]).await;
    }
    !files.iter().any(|file| file.is_unpublished())
}
