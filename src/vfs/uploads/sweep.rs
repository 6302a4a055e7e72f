//! Clears away uploads that nobody will complete, by their entries.
//!
//! ```text
//!               process there   process gone            another machine
//! live          leave           broken                  broken 15 minutes after its newest part
//! kept          broken          broken                  broken
//! ```
//!
//! A broken one is aborted once its newest part is older than `resume_window`, or at once where nothing may
//! go on with it; then its entry goes. An entry whose upload is gone just goes. One LIST at the start and each
//! minute; what an entry says is asked for once, and the age of a part no more often than it can matter.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tracing::{info, warn};

use super::{
    Uploads,
    entry::{Entry, State, read_document},
    gateway::Life,
};
use crate::{
    cos::{CosError, ETag, Key, ListRequest, ListedObject, Reason},
    vfs::attr::PackedETag,
};

/// From one sweep to the next.
const SWEEP_EACH: Duration = Duration::from_secs(60);
/// So many sweeps from one look at the marks of outdated objects to the next.
const MARKS_EACH: u64 = 60;
/// A live upload of another machine without a new part for so long is broken.
pub(super) const QUIET_MAX: Duration = Duration::from_secs(15 * 60);
/// So long after its parts were asked for, an upload may be judged by the answer.
const ANSWER_HOLDS: Duration = Duration::from_secs(5);
/// Entries looked at in parallel: a sweep is never in a hurry.
const LOOKS_MAX: usize = 4;
/// Entries whose facts are remembered until the next sweep (about 4 MB); others are asked for again.
const SEEN_MAX: usize = 8192;
const PAGE_ENTRIES_MAX: u16 = 1000;
/// Above the body of an entry with all parts that an upload can have.
const DOCUMENT_BYTES_MAX: u64 = 4 << 20;

/// What was found out about entries, by their names.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<HashMap<String, Look>>);

/// What was found out about one entry.
#[derive(Debug, Clone)]
struct Look {
    etag: ETag,
    key: Key,
    entry: Entry,
    /// When its parts were asked for, and when the newest of them (or, without one, the upload) came.
    parts: Option<(SystemTime, SystemTime)>,
}

/// What is to be done about an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Leave,
    /// Ask for its parts, then decide again.
    AskForParts,
    /// Abort the upload and remove the entry.
    Abort,
}

/// Decides about an upload. `written`: when its entry was. `parts`: see [`Look::parts`].
pub(super) fn decide(
    entry: &Entry,
    life: Life,
    written: SystemTime,
    parts: Option<(SystemTime, SystemTime)>,
    window: Duration,
    now: SystemTime,
) -> Verdict {
    let since = |time: SystemTime| now.duration_since(time).unwrap_or_default();
    let (may_go_on, is_kept) = match entry.state {
        State::Live { may_go_on } => (may_go_on, false),
        State::Kept { .. } => (true, true),
    };
    let is_of_interest = may_go_on && window > Duration::ZERO;
    let is_broken = match life {
        Life::Own | Life::Running => is_kept,
        Life::Gone => true,
        Life::Elsewhere if is_kept => true,
        Life::Elsewhere if since(entry.begun) < QUIET_MAX => false,
        Life::Elsewhere => match parts {
            Some((_, newest)) if since(newest) < QUIET_MAX => false,
            // Asked just now: what was told then still holds.
            Some((asked, _)) if since(asked) < ANSWER_HOLDS => true,
            // Not each minute where nothing follows from it.
            Some((asked, _)) if since(asked) < QUIET_MAX && is_of_interest => return Verdict::Leave,
            Some(_) | None => return Verdict::AskForParts,
        },
    };
    if !is_broken {
        return Verdict::Leave;
    }
    if !is_of_interest {
        return Verdict::Abort;
    }
    match parts {
        None => Verdict::AskForParts,
        // The parts of a kept one were there when it was written down.
        Some((_, newest)) => match since(if is_kept { written } else { newest }) >= window {
            true => Verdict::Abort,
            false => Verdict::Leave,
        },
    }
}

impl Uploads {
    /// Sweeps now and each minute, as long as the mount is there.
    pub(in crate::vfs) fn keep_sweeping(self: &Arc<Self>) {
        let uploads = Arc::downgrade(self);
        self.writers.runtime().spawn(sweep_each_minute(uploads));
    }

    /// One sweep.
    pub(in crate::vfs) async fn sweep(self: &Arc<Self>, now: SystemTime) {
        let listed = match self.all_below(self.places.prefix()).await {
            Ok(listed) => listed,
            Err(error) => {
                warn!(%error, "open uploads cannot be listed: what was left behind stays for now");
                return;
            }
        };
        self.seen.0.lock().retain(|name, _| listed.iter().any(|entry| entry.key == *name));
        stream::iter(&listed).for_each_concurrent(LOOKS_MAX, |entry| self.sweep_one(entry, now)).await;
    }

    /// All keys of this program that begin so.
    pub(super) async fn all_below(&self, prefix: String) -> Result<Vec<ListedObject>, CosError> {
        let mut request = ListRequest { prefix, entries_max: PAGE_ENTRIES_MAX, ..ListRequest::default() };
        let mut listed = Vec::new();
        loop {
            let page = self.store.list_objects(&request).await?;
            listed.extend(page.objects);
            match page.next_marker {
                Some(next) => request.marker = next,
                None => return Ok(listed),
            }
        }
    }

    async fn sweep_one(self: &Arc<Self>, listed: &ListedObject, now: SystemTime) {
        if let Err(error) = self.judge(listed, now).await {
            // Lists lag: it may be gone already.
            if error.reason != Reason::NoSuchKey {
                warn!(entry = %listed.key, %error, "what became of an upload cannot be found out now");
            }
        }
    }

    async fn judge(self: &Arc<Self>, listed: &ListedObject, now: SystemTime) -> Result<(), CosError> {
        let Ok(place) = Key::new(&listed.key) else { return Ok(()) };
        let Some(mut look) = self.look_at(listed, &place).await? else { return Ok(()) };
        loop {
            let life = self.life_of(&look.entry);
            let mut verdict = decide(&look.entry, life, listed.last_modified, look.parts, self.window, now);
            let is_broken = life == Life::Gone || matches!(look.entry.state, State::Kept { .. });
            if verdict == Verdict::Leave && is_broken && self.is_superseded(&look.key, &place).await? {
                verdict = Verdict::Abort;
            }
            match verdict {
                Verdict::Leave => {
                    if is_broken {
                        self.note_held(&look.key, place);
                    }
                    self.remember(listed, look);
                    return Ok(());
                }
                Verdict::AskForParts => match self.store.list_parts(&look.key, &look.entry.upload).await {
                    Ok(parts) => {
                        let newest = parts.iter().filter_map(|part| part.stored_at).max();
                        look.parts = Some((now, newest.unwrap_or(look.entry.begun)));
                    }
                    Err(error) if error.reason == Reason::NoSuchUpload => {
                        info!(key = %look.key, "its upload has ended, the note of it goes");
                        return self.remove_version(&place, &look.etag).await;
                    }
                    Err(error) => return Err(error),
                },
                Verdict::Abort => {
                    self.store.abort_multipart_upload(&look.key, &look.entry.upload).await?;
                    if life == Life::Gone
                        && let Ok(object) = self.store.head_object(&look.key).await
                    {
                        self.note_outdated(&look.key, Some(PackedETag::new(&object.etag)));
                    }
                    info!(key = %look.key, upload = look.entry.upload.as_str(),
                        "an upload that was left behind is aborted");
                    return self.remove_version(&place, &look.etag).await;
                }
            }
        }
    }

    /// Whether the name was stored anew, and this entry could not be cleared away then: while an object stands there,
    /// nobody can go on with it.
    async fn is_superseded(&self, key: &Key, place: &Key) -> Result<bool, CosError> {
        if self.superseded.lock().get(place).is_none() {
            return Ok(false);
        }
        let stands = match self.store.head_object(key).await {
            Ok(_) => true,
            Err(error) if error.reason == Reason::NoSuchKey => false,
            Err(error) => return Err(error),
        };
        self.superseded.lock().pop(place);
        Ok(stands)
    }

    /// What the entry says; `None` for what is none.
    async fn look_at(&self, listed: &ListedObject, place: &Key) -> Result<Option<Look>, CosError> {
        let seen = self.seen.0.lock().get(&listed.key).filter(|look| look.etag == listed.etag).cloned();
        if seen.is_some() {
            return Ok(seen);
        }
        let meta = self.store.head_object(place).await?;
        let Some(entry) = Entry::read(&meta.metadata) else { return Ok(None) };
        let key = match self.places.key_in(&listed.key) {
            Some(key) => key,
            None => match self.read_body(place).await? {
                Some((key, _)) => key,
                None => return Ok(None),
            },
        };
        Ok(Some(Look { etag: meta.etag, key, entry, parts: None }))
    }

    /// What the body of an entry tells.
    pub(super) async fn read_body(
        &self,
        place: &Key,
    ) -> Result<Option<(Key, Vec<super::entry::HeldPart>)>, CosError> {
        let mut body = self.store.get_object(place, None, None).await?;
        if body.meta.size > DOCUMENT_BYTES_MAX {
            return Ok(None);
        }
        let mut bytes = Vec::new();
        while let Some(piece) = body.bytes.next().await {
            bytes.extend_from_slice(&piece?);
        }
        Ok(read_document(&bytes))
    }

    fn remember(&self, listed: &ListedObject, look: Look) {
        let mut seen = self.seen.0.lock();
        if seen.len() < SEEN_MAX || seen.contains_key(&listed.key) {
            seen.insert(listed.key.clone(), look);
        }
    }

    /// Removes an entry, unless another one stands there now.
    pub(super) async fn remove_version(&self, place: &Key, etag: &ETag) -> Result<(), CosError> {
        if self.store.head_object(place).await?.etag == *etag {
            self.store.delete_object(place).await?;
        }
        Ok(())
    }
}

async fn sweep_each_minute(uploads: Weak<Uploads>) {
    let mut clock = tokio::time::interval(SWEEP_EACH);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 0_u64.. {
        clock.tick().await;
        let Some(uploads) = uploads.upgrade() else { return };
        uploads.sweep(SystemTime::now()).await;
        if number.is_multiple_of(MARKS_EACH) {
            uploads.sweep_marks().await;
        }
    }
}
