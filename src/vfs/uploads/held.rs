//! Broken uploads that may go on: kept, asked for, gone on with, dropped.
//!
//! ```text
//! broken ── keep ──> "kept" ── held: how many bytes? ── claim ──> "live", of this gateway
//!                      │            (of a dead process: by ListParts)
//!                      └── drop, replaced, window over ──> aborted
//! ```
//!
//! COS has no conditional write, so whoever claims an entry writes it and then looks whether it still says so;
//! before it takes one of another gateway it waits a moment between the two. Should two gateways believe to have
//! it all the same, the first Complete names parts that the other has replaced, and fails: no object is made of both.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tracing::{info, warn};

use super::{
    Live, Uploads,
    entry::{Entry, HeldPart, State},
    gateway::Life,
    sweep::QUIET_MAX,
};
use crate::{
    cos::{CosError, Key, ObjectMeta, PART_BYTES_MIN, Reason, UploadId},
    vfs::{VfsError, VfsResult},
};

/// An open upload, and what COS has of it from its first part on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::vfs) struct Held {
    pub(in crate::vfs) upload: UploadId,
    pub(in crate::vfs) parts: Vec<HeldPart>,
}

impl Held {
    pub(in crate::vfs) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.stored.bytes).sum()
    }

    /// Leaves out parts at the end until there are fewer than `bytes`, and none that cannot stand before others.
    pub(in crate::vfs) fn shorten_below(&mut self, bytes: u64) {
        let mut held = self.bytes();
        while let Some(last) = self.parts.last().map(|part| part.stored.bytes)
            && (held >= bytes || last < PART_BYTES_MIN)
        {
            held -= last;
            self.parts.pop();
        }
    }
}

/// An entry as it stands in the bucket.
struct Found {
    place: Key,
    meta: ObjectMeta,
    entry: Entry,
    life: Life,
}

impl Uploads {
    /// Whether a broken upload may go on at all.
    pub(in crate::vfs) fn keeps(&self) -> bool {
        !self.window.is_zero()
    }

    /// Keeps a broken upload of a name that does not exist. How many bytes are held.
    ///
    /// # Errors
    /// Hands the upload back where it must not be kept: it is to be aborted.
    pub(in crate::vfs) async fn keep(self: &Arc<Self>, key: &Key, held: Held) -> Result<u64, UploadId> {
        let live = self.live.lock().get(&held.upload).cloned();
        let Some(live) = live.filter(|_| !held.parts.is_empty()) else { return Err(held.upload) };
        if self.store.head_object(key).await.is_ok() {
            // An overwrite: the object that stands there is the truth.
            return Err(held.upload);
        }
        let mut place = live.place.lock().await;
        let Some(first) = self.places.first(key) else { return Err(held.upload) };
        let bytes = held.bytes();
        let entry = self.entry(&live, &held.upload, State::Kept { bytes });
        let is_first = place.as_ref() == Some(&first);
        let mut written = self.put(&first, key, &held.parts, &entry, !is_first).await;
        if written.as_ref().is_err_and(|error| error.reason == Reason::Exists) {
            if !self.clear_broken(&first).await {
                return Err(held.upload);
            }
            written = self.put(&first, key, &held.parts, &entry, false).await;
        }
        if let Err(error) = written {
            warn!(%key, %error, "a broken upload could not be written down, and cannot go on");
            return Err(held.upload);
        }
        self.live.lock().remove(&held.upload);
        if let Some(other) = place.take().filter(|place| *place != first) {
            self.remove(&other).await;
        }
        self.note_held(key, first);
        Ok(bytes)
    }

    /// How many bytes of `key` are held for somebody to go on with.
    ///
    /// # Errors
    /// `Busy` where the upload is under way; what the store answered.
    pub(in crate::vfs) async fn held(&self, key: &Key) -> VfsResult<Option<u64>> {
        let Some(found) = self.find(key).await? else { return Ok(None) };
        Ok(self.parts_of(key, &found).await?.map(|held| held.bytes()).filter(|bytes| *bytes > 0))
    }

    /// Takes what is held of `key`, all `bytes` of it, to go on with.
    ///
    /// # Errors
    /// `Invalid` where another number of bytes is held, or none; `Busy` where another one has it;
    /// `ReplacedMeanwhile` where the upload is gone; what the store answered.
    pub(in crate::vfs) async fn claim(self: &Arc<Self>, key: &Key, bytes: u64) -> VfsResult<Held> {
        let other_size = VfsError::Invalid { why: "another number of bytes is held of this file" };
        let Some(found) = self.find(key).await? else { return Err(other_size) };
        let Some(held) = self.parts_of(key, &found).await? else { return Err(other_size) };
        if held.bytes() != bytes || bytes == 0 {
            return Err(other_size);
        }
        let live = Arc::new(Live {
            key: key.clone(),
            may_go_on: true,
            begun: found.entry.begun,
            place: Arc::default(),
        });
        let mut place = Arc::clone(&live.place).lock_owned().await;
        if self.live.lock().insert(held.upload.clone(), Arc::clone(&live)).is_some() {
            return Err(VfsError::Busy { name: key.to_string() });
        }
        let claimed = self.write_claim(key, &found, &live, &held).await;
        if let Err(error) = claimed {
            self.live.lock().remove(&held.upload);
            return Err(error);
        }
        *place = Some(found.place);
        self.known.lock().pop(key);
        info!(%key, bytes, "a broken upload goes on");
        if held.parts.iter().any(|part| part.crc64.is_none()) {
            warn!(%key, "another process has sent a part of this file: its size is checked, not its checksum");
        }
        Ok(held)
    }

    /// Aborts what is held of `key`; false where there is nothing.
    ///
    /// # Errors
    /// `Busy` where the upload is under way; what the store answered.
    pub(in crate::vfs) async fn drop_held(&self, key: &Key) -> VfsResult<bool> {
        let Some(found) = self.find(key).await? else { return Ok(false) };
        if matches!(found.entry.state, State::Live { .. }) && self.parts_of(key, &found).await?.is_none() {
            return Ok(false);
        }
        let failed = |error| VfsError::from_cos(error, key.as_str());
        self.store.abort_multipart_upload(key, &found.entry.upload).await.map_err(failed)?;
        self.remove(&found.place).await;
        self.known.lock().pop(key);
        info!(%key, "a broken upload is aborted: its name was deleted");
        Ok(true)
    }

    /// Something else stands, or is to stand, under `key`: what this gateway knows to be held of it is dropped in the
    /// background.
    pub(in crate::vfs) fn replaced(self: &Arc<Self>, key: &Key) {
        let known = self.known.lock().pop(key);
        let Some(place) = known else { return };
        let uploads = Arc::clone(self);
        self.in_background(async move {
            if uploads.clear_broken(&place).await {
                uploads.remove(&place).await;
            } else {
                uploads.superseded.lock().put(place, ());
            }
        });
    }

    /// Remembers that something is held, to drop it when its name is stored anew.
    pub(super) fn note_held(&self, key: &Key, place: Key) {
        self.known.lock().put(key.clone(), place);
    }

    async fn find(&self, key: &Key) -> VfsResult<Option<Found>> {
        let Some(place) = self.places.first(key).filter(|_| self.keeps()) else { return Ok(None) };
        let meta = match self.store.head_object(&place).await {
            Ok(meta) => meta,
            Err(error) if error.reason == Reason::NoSuchKey => return Ok(None),
            Err(error) => return Err(VfsError::from_cos(error, key.as_str())),
        };
        let Some(entry) = Entry::read(&meta.metadata) else { return Ok(None) };
        let life = self.life_of(&entry);
        Ok(Some(Found { place, meta, entry, life }))
    }

    /// What of an upload can be gone on with; `None` where it is not for that, or not any more.
    async fn parts_of(&self, key: &Key, found: &Found) -> VfsResult<Option<Held>> {
        let failed = |error: CosError| VfsError::from_cos(error, key.as_str());
        let upload = found.entry.upload.clone();
        let listed = match self.store.list_parts(key, &upload).await {
            Ok(listed) => listed,
            Err(error) if error.reason == Reason::NoSuchUpload => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        if let State::Kept { .. } = found.entry.state {
            let body = self.read_body(&found.place).await.map_err(failed)?;
            let Some((_, parts)) = body.filter(|(noted, _)| noted == key) else { return Ok(None) };
            let is_there = parts.iter().zip(&listed).all(|(part, there)| {
                (part.stored.number, &part.stored.etag, part.stored.bytes)
                    == (there.number, &there.etag, there.bytes)
            });
            let is_whole = is_there && parts.len() <= listed.len();
            return Ok((is_whole && self.is_open(found.meta.last_modified)).then_some(Held { upload, parts }));
        }
        let newest = listed.iter().filter_map(|part| part.stored_at).max().unwrap_or(found.entry.begun);
        let is_broken = match found.life {
            Life::Gone => true,
            Life::Elsewhere => since(newest) >= QUIET_MAX,
            Life::Own | Life::Running => false,
        };
        if !is_broken {
            return Err(VfsError::Busy { name: key.to_string() });
        }
        if found.entry.state != (State::Live { may_go_on: true }) || !self.is_open(newest) {
            return Ok(None);
        }
        let contiguous =
            listed.into_iter().zip(1..).take_while(|(part, number)| part.number.get() == *number);
        let parts = contiguous.map(|(stored, _)| HeldPart { stored, crc64: None }).collect();
        let mut held = Held { upload, parts };
        // The last one may be the end of the file.
        held.shorten_below(held.bytes());
        Ok(Some(held))
    }

    async fn write_claim(&self, key: &Key, found: &Found, live: &Live, held: &Held) -> VfsResult<()> {
        let failed = |error: CosError| VfsError::from_cos(error, key.as_str());
        let entry = self.entry(live, &held.upload, State::Live { may_go_on: true });
        self.put(&found.place, key, &[], &entry, false).await.map_err(failed)?;
        if found.entry.gateway != self.gateway {
            tokio::time::sleep(CLAIM_PAUSE).await;
        }
        let meta = self.store.head_object(&found.place).await.map_err(failed)?;
        match Entry::read(&meta.metadata) {
            Some(now) if now == entry => Ok(()),
            Some(_) | None => Err(VfsError::Busy { name: key.to_string() }),
        }
    }

    /// Whether something broken since then may still go on.
    fn is_open(&self, broken_at: SystemTime) -> bool {
        since(broken_at) < self.window
    }
}

fn since(time: SystemTime) -> Duration {
    SystemTime::now().duration_since(time).unwrap_or_default()
}

/// Between writing a claim on another gateway's upload and looking at it again: longer than the same two requests
/// of a rival take.
const CLAIM_PAUSE: Duration = Duration::from_millis(500);
