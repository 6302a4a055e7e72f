//! Carries the content of an edit to COS: publish, spill into a scratch object, seal what is behind the writer.
//!
//! All of it happens under the edit's `gate`, and while it is `busy` nothing that is carried changes. Blocks
//! travel as they are; what is clean between them in a part is read from the base first, by ranges that ask for its
//! ETag. That memory comes from what readers may have; where there is none, one part at a time is put together
//! outside the budget.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::SemaphorePermit;

use super::{
    Base, Core, Inside, Version,
    cells::{Segment, Source},
    plan::{self, Part},
    scratch::Scratch,
};
use crate::{
    config::PartSizes,
    cos::{
        ByteRange, CosError, Crc64, Expected, NewObject, Operation, PartNumber, PartStored, Payload, Reason,
        UploadId,
    },
    vfs::{
        Published, Room, VfsError, VfsResult,
        budget::{BLOCK, Block},
        write::{Publisher, Whole},
    },
};

/// The beginning of a file that grows at its end: parts of an upload that is still open.
#[derive(Debug)]
pub(super) struct Sealed {
    publisher: Arc<Publisher>,
    /// `None`: the upload is of the key itself.
    scratch: Option<Arc<Scratch>>,
    upload: UploadId,
    given: NewObject,
    parts: Vec<PartStored>,
}

impl Sealed {
    /// How far it reaches.
    pub(super) fn bytes(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum()
    }

    pub(super) fn abort(self) {
        self.publisher.abort(self.upload);
    }

    fn next(&self) -> Option<PartNumber> {
        self.parts.last().map_or(Some(PartNumber::FIRST), |part| part.number.next())
    }

    fn whole(self) -> Whole {
        let expected = Expected { bytes: self.bytes(), crc64: combined(&self.parts) };
        Whole::Parts { upload: self.upload, parts: self.parts, expected, given: self.given }
    }
}

impl Inside {
    /// The whole of a publication.
    pub(super) async fn publish(self: Arc<Self>, new: NewObject) -> VfsResult<Published> {
        let _gate = self.gate.lock().await;
        {
            let mut core = self.core.lock();
            core.alive()?;
            if let Some(last) = core.last.as_ref().filter(|_| core.published && !core.dirty) {
                return Ok(last.clone());
            }
            let bytes = core.cells.bytes();
            self.check(&mut core, bytes)?;
            core.busy = true;
        }
        let made = self.make(&new).await;
        let mut core = self.core.lock();
        core.busy = false;
        match &made {
            Ok(published) => core.has_published(self.publisher.key().clone(), published, new),
            // It is whole still, for `follow`.
            Err(VfsError::ReplacedMeanwhile { .. }) if core.may_follow() && !self.publisher.is_orphaned() => {
            }
            Err(error) => {
                if let Some(share) = &core.share {
                    share.doubt();
                }
                core.failure.get_or_insert_with(|| error.clone());
            }
        }
        if core.cells.bytes() > self.put_bytes_max() {
            core.cells.drop_clean();
        }
        if core.failure.is_some() {
            self.let_go(&mut core);
        }
        made
    }

    async fn make(&self, new: &NewObject) -> VfsResult<Published> {
        let (to_key, to_scratch) = {
            let mut core = self.core.lock();
            let is_scratch = core.sealed.as_ref().is_some_and(|sealed| sealed.scratch.is_some());
            (if is_scratch { None } else { core.sealed.take() }, is_scratch)
        };
        if let Some(sealed) = to_key {
            return self.make_sealed(sealed, new).await;
        }
        if to_scratch {
            self.unseal().await?;
        }
        let (bytes, parts, unchanged, rests_on) = {
            let core = self.core.lock();
            let bytes = core.cells.bytes();
            let is_clean = core.cells.first_dirty().is_none() && core.cells.base_bytes() == bytes;
            let unchanged = core.base.object().filter(|base| is_clean && base.bytes == bytes).cloned();
            (bytes, plan::parts(&core.cells, bytes), unchanged, core.rests_on.clone())
        };
        let whole = match unchanged {
            Some(base) if base.scratch.is_none() && base.key == *self.publisher.key() => {
                // It was changed, and changed back.
                return Ok(base.published());
            }
            Some(base) if bytes <= COPY_BYTES_MAX => {
                let expected = Expected { bytes, crc64: base.crc64 };
                Whole::Copy { source: base.key, version: base.etag, expected }
            }
            _ if bytes <= self.put_bytes_max() => {
                let (payload, _memory) = self.assemble(0, bytes).await?;
                Whole::Bytes(payload)
            }
            _ => self.upload(self.publisher.clone(), new.clone(), parts).await?.whole(),
        };
        self.publisher.publish(whole, new, rests_on.as_ref()).await
    }

    /// Makes the object of an upload of the key itself that has begun already.
    async fn make_sealed(&self, mut sealed: Sealed, new: &NewObject) -> VfsResult<Published> {
        let (end, rests_on, sizes) = {
            let core = self.core.lock();
            (core.cells.bytes(), core.rests_on.clone(), self.sizes())
        };
        let (mut at, mut next, mut rest) = (sealed.bytes(), sealed.next(), Vec::new());
        while at < end {
            let Some(number) = next else {
                sealed.abort();
                let bytes_max = self.writers.limits.single_file_bytes_max;
                return Err(VfsError::TooLarge { name: self.name.to_string(), bytes_max });
            };
            let length = sizes.bytes(number.get()).min(end - at);
            rest.push((number, Part::Send { first: at, length }));
            at += length;
            next = number.next();
        }
        match self.send_all(&sealed.publisher, &sealed.upload, rest).await {
            Ok(parts) => sealed.parts.extend(parts),
            Err(error) => {
                sealed.abort();
                return Err(error);
            }
        }
        self.publisher.publish(sealed.whole(), new, rests_on.as_ref()).await
    }

    /// See [`super::Edit::follow`].
    pub(super) async fn follow(&self) -> VfsResult<bool> {
        let _gate = self.gate.lock().await;
        let (tail, first) = {
            let mut core = self.core.lock();
            core.alive()?;
            if !core.may_follow() {
                return Ok(false);
            }
            core.busy = true;
            let first = core.cells.base_bytes();
            core.base = Base::Expected(None);
            (core.cells.segments(first, core.cells.bytes()), first)
        };
        let mut done = self.open().await;
        if done.is_ok() {
            done = self.append_again(tail, first);
        }
        self.core.lock().busy = false;
        done.inspect_err(|error| self.fail(error)).map(|()| true)
    }

    /// Puts behind the base what stood behind another one, from `first` on.
    fn append_again(&self, tail: Vec<Segment>, first: u64) -> VfsResult<()> {
        let mut core = self.core.lock();
        let end = core.cells.bytes();
        let bytes = tail.last().map_or(0, |last| last.end - first);
        self.check(&mut core, end + bytes)?;
        let blocks = core.cells.blocks_missing(end, size(bytes));
        // What is there is not waited for with what is there.
        let mut room = self.writers.budget().try_blocks(0, blocks, false).ok_or_else(|| self.replaced())?;
        for Segment { first: from, end: to, source } in tail {
            if let Source::Memory(block, place) = source {
                let piece = &(*block).as_ref()[place..place + size(to - from)];
                core.cells.write(end + (from - first), piece, &mut room);
            }
        }
        core.dirty = true;
        Ok(())
    }

    /// Gives the memory of what is dirty back, by way of the store. To be called under `gate`.
    pub(super) async fn yield_memory(&self) -> VfsResult<()> {
        {
            let mut core = self.core.lock();
            core.cells.drop_clean();
            if core.cells.dirty_memory_bytes() == 0 {
                return Ok(());
            }
            core.busy = true;
        }
        let done = self.seal_or_spill().await;
        let mut core = self.core.lock();
        core.busy = false;
        if core.failure.is_some() {
            self.let_go(&mut core);
        }
        done
    }

    async fn seal_or_spill(&self) -> VfsResult<()> {
        let beginning = {
            let core = self.core.lock();
            let (from, next) = core
                .sealed
                .as_ref()
                .map_or((0, Some(PartNumber::FIRST)), |sealed| (sealed.bytes(), sealed.next()));
            let cells = &core.cells;
            let copied = cells.base_bytes() / crate::cos::PART_BYTES_MIN * crate::cos::PART_BYTES_MIN;
            let grows = cells.first_dirty().is_some_and(|first| from > 0 || first >= copied);
            let parts = plan::beginning(cells, self.sizes(), from, cells.content_end(), next);
            let reach = parts.last().map_or(0, |(_, part)| part.first() + part.length());
            // Copies alone give nothing back, and who waits for memory would come again.
            let sends = parts.iter().any(|(_, part)| matches!(part, Part::Send { .. }));
            (grows && sends && reach >= cells.base_bytes()).then_some(parts)
        };
        match beginning {
            Some(parts) => self.seal(parts).await,
            None => {
                self.unseal().await?;
                self.spill().await
            }
        }
    }

    /// Sends what is behind the writer.
    async fn seal(&self, parts: Vec<(PartNumber, Part)>) -> VfsResult<()> {
        let begun = self.core.lock().sealed.take();
        let mut sealed = match begun {
            Some(sealed) => sealed,
            None => self.begin_sealing().await?,
        };
        match self.send_all(&sealed.publisher, &sealed.upload, parts).await {
            Ok(parts) => sealed.parts.extend(parts),
            Err(error) => {
                sealed.abort();
                return Err(error);
            }
        }
        let mut core = self.core.lock();
        core.hidden_bytes = sealed.bytes();
        core.cells.forget_below(sealed.bytes());
        core.sealed = Some(sealed);
        Ok(())
    }

    async fn begin_sealing(&self) -> VfsResult<Sealed> {
        let given = {
            let core = self.core.lock();
            core.in_order.then(|| core.inherited.clone())
        };
        match given {
            Some(given) => self.initiate(self.publisher.clone(), None, given).await,
            None => {
                let (scratch, publisher) = self.new_scratch()?;
                self.initiate(publisher, Some(scratch), NewObject::default()).await
            }
        }
    }

    /// Completes what was sealed, into a scratch object that becomes the base.
    pub(super) async fn unseal(&self) -> VfsResult<()> {
        let (sealed, was_busy) = {
            let mut core = self.core.lock();
            let Some(sealed) = core.sealed.take() else { return Ok(()) };
            (sealed, std::mem::replace(&mut core.busy, true))
        };
        let (publisher, scratch) = (sealed.publisher.clone(), sealed.scratch.clone());
        let made = match scratch {
            Some(scratch) => {
                let made = publisher.publish(sealed.whole(), &NewObject::default(), None).await;
                made.map(|made| Version::of_scratch(scratch, &made))
            }
            None => {
                sealed.abort();
                Err(VfsError::NotSupported { what: "changing what was sent already" })
            }
        };
        let mut core = self.core.lock();
        core.busy = was_busy;
        let version = made?;
        core.hidden_bytes = 0;
        core.cells.based(version.bytes);
        core.put_under(version);
        Ok(())
    }

    /// Puts all there is into a scratch object, which becomes the base.
    async fn spill(&self) -> VfsResult<()> {
        let (scratch, publisher) = self.new_scratch()?;
        let (bytes, parts) = {
            let core = self.core.lock();
            let bytes = core.cells.content_end();
            (bytes, plan::parts(&core.cells, bytes))
        };
        let new = NewObject::default();
        let whole = if bytes <= self.put_bytes_max() {
            let (payload, _memory) = self.assemble(0, bytes).await?;
            Whole::Bytes(payload)
        } else {
            self.upload(publisher.clone(), new.clone(), parts).await?.whole()
        };
        let made = publisher.publish(whole, &new, None).await?;
        let mut core = self.core.lock();
        core.cells.based(bytes);
        core.put_under(Version::of_scratch(scratch, &made));
        Ok(())
    }

    fn new_scratch(&self) -> VfsResult<(Arc<Scratch>, Arc<Publisher>)> {
        let (store, runtime) = (self.store.clone(), self.writers.runtime.clone());
        let scratch = Scratch::new(&self.scratch, store, runtime)?;
        let (writers, store, keys) = (self.writers.clone(), self.store.clone(), self.keys.clone());
        let (key, uploads) = (scratch.key.clone(), self.uploads.clone());
        let publisher = Arc::new(Publisher::new(writers, store, keys, key, uploads));
        Ok((scratch, publisher))
    }

    /// An upload with all its parts; it is aborted where one of them fails.
    async fn upload(
        &self,
        publisher: Arc<Publisher>,
        given: NewObject,
        parts: Vec<Part>,
    ) -> VfsResult<Sealed> {
        let mut sealed = self.initiate(publisher, None, given).await?;
        let numbered: Option<Vec<_>> = parts
            .into_iter()
            .enumerate()
            .map(|(place, part)| Some((PartNumber::new(u16::try_from(place + 1).ok()?)?, part)))
            .collect();
        let sent = match numbered {
            Some(numbered) => self.send_all(&sealed.publisher, &sealed.upload, numbered).await,
            None => Err(VfsError::Invalid { why: "more parts than an upload has" }),
        };
        match sent {
            Ok(parts) => {
                sealed.parts = parts;
                Ok(sealed)
            }
            Err(error) => {
                sealed.abort();
                Err(error)
            }
        }
    }

    async fn initiate(
        &self,
        publisher: Arc<Publisher>,
        scratch: Option<Arc<Scratch>>,
        given: NewObject,
    ) -> VfsResult<Sealed> {
        let upload = publisher.initiate(&given).await.map_err(|error| self.error(error))?;
        Ok(Sealed { publisher, scratch, upload, given, parts: Vec::new() })
    }

    async fn send_all(
        &self,
        publisher: &Publisher,
        upload: &UploadId,
        parts: Vec<(PartNumber, Part)>,
    ) -> VfsResult<Vec<PartStored>> {
        let at_once = self.writers.limits.upload_requests_max.clamp(1, REQUESTS_MAX);
        stream::iter(parts.into_iter().map(|(number, part)| self.send(publisher, upload, number, part)))
            .buffered(at_once)
            .try_collect()
            .await
    }

    async fn send(
        &self,
        publisher: &Publisher,
        upload: &UploadId,
        number: PartNumber,
        part: Part,
    ) -> VfsResult<PartStored> {
        let (stored, crc64) = match part {
            Part::Copy { first, length } => {
                let base = self.core.lock().base.object().cloned().ok_or_else(|| self.replaced())?;
                let range = ByteRange { first, length };
                let _permit = self.writers.upload_permit().await;
                let copied = self.store.upload_part_copy(
                    publisher.key(),
                    upload,
                    number,
                    &base.key,
                    range,
                    Some(&base.etag),
                );
                (copied.await, None)
            }
            Part::Send { first, length } => {
                let (payload, _memory) = self.assemble(first, length).await?;
                let crc64 = payload.crc64();
                let transit = self.writers.budget().transit();
                let stored = {
                    let _permit = self.writers.upload_permit().await;
                    self.store.upload_part(publisher.key(), upload, number, payload).await
                };
                drop(transit);
                (stored, Some(crc64))
            }
        };
        let stored = stored.map_err(|error| self.error(error))?;
        let differs = crc64.zip(stored.crc64).is_some_and(|(sent, stored)| sent != stored);
        if stored.number != number || stored.bytes != part.length() || differs {
            let error = CosError::new(Operation::UploadPart.name(), Reason::Corrupt);
            return Err(self.error(error.because(format!("part {}: COS has other bytes", number.get()))));
        }
        // Of what is copied the store alone can tell.
        Ok(PartStored { crc64: crc64.or(stored.crc64), ..stored })
    }

    /// The bytes of one body: what is here as it is, what the base has fetched, zeros.
    async fn assemble(&self, first: u64, length: u64) -> VfsResult<(Payload, Memory<'_>)> {
        let segments = self.core.lock().cells.segments(first, first + length);
        let ranges = gaps(&segments);
        let wanted: u64 = ranges.iter().map(|(first, end)| end - first).sum();
        let memory = self.memory_for(wanted).await;
        let mut fetched = Vec::with_capacity(ranges.len());
        for (first, end) in ranges {
            fetched.push((first, self.fetch(first, end).await?));
        }
        let mut pieces = Vec::with_capacity(segments.len());
        for segment in segments {
            let length = size(segment.end - segment.first);
            match segment.source {
                Source::Memory(block, from) => {
                    pieces.push(Bytes::from_owner(Carried(block)).slice(from..from + length));
                }
                Source::Base => {
                    let place = fetched.partition_point(|(first, _)| *first <= segment.first);
                    let (first, bytes) = &fetched[place - 1];
                    let from = size(segment.first - first);
                    pieces.push(bytes.slice(from..from + length));
                }
                Source::Zeros => {
                    let mut left = length;
                    while left > 0 {
                        pieces.push(Bytes::from_static(&ZEROS[..left.min(BLOCK)]));
                        left -= left.min(BLOCK);
                    }
                }
            }
        }
        let mut digest = crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Xz);
        pieces.iter().for_each(|piece| digest.update(piece));
        let crc64 = if length == 0 { Crc64::EMPTY } else { Crc64(digest.finalize()) };
        Ok((Payload::with_crc64(pieces, crc64), memory))
    }

    async fn memory_for(&self, bytes: u64) -> Memory<'_> {
        if bytes == 0 {
            return Memory { _room: self.writers.budget().no_room(), _turn: None };
        }
        if let Some(room) = self.writers.budget().try_take(bytes) {
            return Memory { _room: room, _turn: None };
        }
        let turn = self.writers.merging().await;
        Memory { _room: self.writers.budget().take_anyway(bytes), _turn: Some(turn) }
    }

    fn error(&self, error: CosError) -> VfsError {
        match error.reason {
            // What is copied or read stood there when the edit began.
            Reason::NoSuchKey => self.replaced(),
            _ => VfsError::from_cos(error, &self.name),
        }
    }

    fn sizes(&self) -> PartSizes {
        let limits = &self.writers.limits;
        PartSizes::new(limits.memory_bytes, limits.min_part_bytes)
    }

    /// What is put into one request rather than into parts.
    fn put_bytes_max(&self) -> u64 {
        self.writers.limits.min_part_bytes.clamp(crate::cos::PART_BYTES_MIN, PUT_BYTES_MAX)
    }
}

impl Core {
    /// Whether all that was changed can be put behind another object.
    pub(super) fn may_follow(&self) -> bool {
        let is_here = self.hidden_bytes == 0 && self.sealed.is_none();
        let is_own = match &self.base {
            Base::None => true,
            Base::Expected(_) => false,
            Base::Object(base) => base.scratch.is_none(),
        };
        self.appended && is_here && is_own
    }

    fn has_published(&mut self, key: crate::cos::Key, published: &Published, new: NewObject) {
        if let Some(share) = &mut self.share {
            share.published(published.bytes);
        }
        self.put_under(Version {
            key,
            etag: published.etag.clone(),
            bytes: published.bytes,
            crc64: published.crc64,
            modified: published.last_modified,
            scratch: None,
        });
        self.hidden_bytes = 0;
        self.cells.published();
        self.rests_on = Some(published.etag.clone());
        self.inherited = NewObject { forbid_overwrite: false, ..new };
        self.dirty = false;
        self.appended = true;
        self.published = true;
        self.publications += 1;
        self.last = Some(published.clone());
    }
}

impl Base {
    pub(super) fn object(&self) -> Option<&Version> {
        match self {
            Self::Object(version) => Some(version),
            Self::None | Self::Expected(_) => None,
        }
    }
}

impl Version {
    fn of_scratch(scratch: Arc<Scratch>, made: &Published) -> Self {
        Self {
            key: scratch.key.clone(),
            etag: made.etag.clone(),
            bytes: made.bytes,
            crc64: made.crc64,
            modified: made.last_modified,
            scratch: Some(scratch),
        }
    }

    fn published(&self) -> Published {
        Published {
            etag: self.etag.clone(),
            bytes: self.bytes,
            crc64: self.crc64,
            last_modified: self.modified,
            as_asked: true,
        }
    }
}

/// A block on its way.
struct Carried(Arc<Block>);

impl AsRef<[u8]> for Carried {
    fn as_ref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

/// What counts the bytes that were fetched, until they are sent.
struct Memory<'a> {
    _room: Room,
    _turn: Option<SemaphorePermit<'a>>,
}

/// The ranges of the base to be fetched: what lies close together in one.
fn gaps(segments: &[Segment]) -> Vec<(u64, u64)> {
    let mut ranges: Vec<(u64, u64)> = Vec::new();
    for segment in segments.iter().filter(|segment| matches!(segment.source, Source::Base)) {
        match ranges.last_mut() {
            Some((_, end)) if segment.first - *end < NEAR_BYTES => *end = segment.end,
            _ => ranges.push((segment.first, segment.end)),
        }
    }
    ranges
}

fn combined(parts: &[PartStored]) -> Option<Crc64> {
    parts
        .iter()
        .try_fold(Crc64::EMPTY, |sum, part| part.crc64.map(|crc64| sum.followed_by(crc64, part.bytes)))
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

static ZEROS: [u8; BLOCK] = [0; BLOCK];
/// Requests of one edit in flight.
const REQUESTS_MAX: usize = 8;
/// Most bytes of a PUT: all of it may have to be fetched.
const PUT_BYTES_MAX: u64 = 4 << 20;
/// Up to here one copy does it; above, parts are copied in parallel.
const COPY_BYTES_MAX: u64 = 1 << 30;
/// Fetching so much in between costs less than another request.
const NEAR_BYTES: u64 = 512 << 10;
