//! A bucket at COS: one method per request.
//!
//! Each method builds its request (`request.rs`), runs it until it succeeds or nothing more can be done
//! (`retry.rs`), and judges the answer (`judge.rs`); what a lost answer leaves in doubt is settled
//! (`settle.rs`) where looking can settle it.

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use lru::LruCache;
use md5::{Digest, Md5};
use parking_lot::Mutex;
use reqwest::{Method, header::DATE};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    ByteRange, CosError, CosResult, Crc64, ETag, Expected, Key, ListPage, ListRequest, NewObject, ObjectBody,
    ObjectMeta, ObjectStore, OpenUpload, Operation, PUT_BYTES_MAX, PartNumber, PartStored, Payload, Reason,
    Stored, UploadId,
    body::{checked, extent_of},
    http::{Answer, HttpPool, Incoming, Progress, SetupError, Wants, exchange},
    judge::{
        Failure, judge_completed, judge_copied, judge_document, judge_done, judge_loss, judge_single_delete,
        judge_status, judge_stored, unix_seconds,
    },
    request::{Place, Request},
    retry::{Again, Budget, Patience},
    wire::{
        Names, complete_document, delete_document, deleted, early_marker, fits_into_xml, initiated,
        list_page, meta_of, parts_page, time_of, uploads_page,
    },
};
use crate::config::StoreConfig;

/// A bucket at COS.
#[derive(Debug)]
pub struct CosClient {
    http: reqwest::Client,
    place: Place,
    storage_class: Option<String>,
    sse: Option<String>,
    /// Longest time without progress of one call.
    timeout: Duration,
    /// Seconds that COS's clock is ahead of ours.
    clock_ahead: AtomicI64,
    budget: Budget,
    has_told_of_missing_checksums: AtomicBool,
    /// When the youngest uploads began, by COS's clock. Leaf lock.
    uploads: Mutex<LruCache<UploadId, SystemTime>>,
}

impl CosClient {
    /// A client for the bucket that `config` describes, over the connections of `pool`. Sends nothing.
    ///
    /// # Errors
    /// [`SetupError`] for an endpoint, a proxy or a certificate file that cannot be used.
    pub fn new(config: &StoreConfig, pool: &HttpPool) -> Result<Self, SetupError> {
        Ok(Self {
            http: pool.client(config)?,
            place: Place::new(config)?,
            storage_class: config.storage_class.clone(),
            sse: config.sse.clone(),
            timeout: config.timeout,
            clock_ahead: AtomicI64::new(0),
            budget: Budget::new(),
            has_told_of_missing_checksums: AtomicBool::new(false),
            uploads: Mutex::new(LruCache::new(UPLOADS_REMEMBERED)),
        })
    }

    /// Signs with the credentials of `config` from now on, requests that are tried again included.
    ///
    /// # Errors
    /// Credentials that cannot stand in a header; the old ones stay.
    pub fn renew_credentials(&self, config: &StoreConfig) -> Result<(), SetupError> {
        self.place.renew_credentials(config)
    }

    /// Longest time without progress of one call.
    pub(super) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// When `upload` began, by COS's clock, if it was begun here and not too long ago.
    pub(super) fn initiated_at(&self, upload: &UploadId) -> Option<SystemTime> {
        self.uploads.lock().peek(upload).copied()
    }

    /// HEAD Object, without progress for `limit` at most.
    pub(super) async fn head_within(&self, key: &Key, limit: Duration) -> CosResult<ObjectMeta> {
        let request = Request::of_key(Operation::HeadObject, Method::HEAD, key);
        self.run_within(limit, &request, Wants::Whole, |answer| {
            judge_document(&request, &answer, meta_of(&answer.headers, None))
        })
        .await
    }

    /// Sends `request` until `judge` takes the answer, or no further attempt makes sense.
    async fn run<T>(
        &self,
        request: &Request<'_>,
        judge: impl Fn(Answer) -> Result<T, Failure> + Send + Sync,
    ) -> CosResult<T> {
        let wants = match request.operation {
            Operation::GetObject => Wants::Stream,
            _ => Wants::Whole,
        };
        self.run_within(self.timeout, request, wants, judge).await
    }

    async fn run_within<T>(
        &self,
        limit: Duration,
        request: &Request<'_>,
        wants: Wants<'_>,
        judge: impl Fn(Answer) -> Result<T, Failure> + Send + Sync,
    ) -> CosResult<T> {
        let mut patience = Patience::new(limit);
        let (mut in_doubt, mut is_clock_adopted) = (false, false);
        loop {
            let progress = Progress::new();
            let stall = patience.for_next_attempt(request.may_be_doubled());
            let attempt = self.attempt(request, wants, stall, &progress).await;
            let Failure { mut error, mut again, asked } = match attempt.and_then(&judge) {
                Ok(value) => return Ok(value),
                Err(failure) => failure,
            };
            // Once in doubt, a later refusal does not take it back.
            in_doubt |= error.in_doubt && request.has_effect();
            error.in_doubt = in_doubt;
            match again {
                Again::ClockOff(_) if is_clock_adopted => again = Again::Never,
                Again::ClockOff(ahead) => {
                    warn!(seconds_ahead = ahead, "the clock of COS differs from ours, signing by theirs");
                    self.clock_ahead.store(ahead, Ordering::Relaxed);
                    is_clock_adopted = true;
                }
                Again::Never | Again::Few | Again::Backoff | Again::Throttled => {}
            }
            let Some(pause) = patience.pause(again, progress.last(), asked, fastrand::f64()) else {
                debug!(attempts = patience.attempts(), error = %error, "request failed");
                return Err(*error);
            };
            let queue = self.budget.take(Instant::now());
            if !patience.spend(queue) {
                return Err(*error);
            }
            if again != Again::Never {
                let (operation, pause) = (request.operation.name(), pause + queue);
                let source = error.source.as_ref().map(tracing::field::display);
                debug!(operation, ?pause, error = %error, source, "request failed, trying again");
            }
            tokio::time::sleep(pause + queue).await;
        }
    }

    async fn attempt(
        &self,
        request: &Request<'_>,
        wants: Wants<'_>,
        stall: Duration,
        progress: &Arc<Progress>,
    ) -> Result<Answer, Failure> {
        let clock_ahead = self.clock_ahead.load(Ordering::Relaxed);
        let now = u64::try_from(unix_seconds(SystemTime::now()) + clock_ahead).unwrap_or(0);
        let signed = self.place.sign(request, now).map_err(|why| Failure::lasting(refused(request, why)))?;
        match exchange(&self.http, signed, wants, stall, progress).await {
            Ok(answer) => judge_status(request, answer, SystemTime::now(), clock_ahead),
            Err(lost) => Err(judge_loss(request, lost)),
        }
    }

    /// `request` with what is sent along with each new object.
    fn for_storing<'a>(&self, request: Request<'a>) -> Request<'a> {
        request
            .header_if(Names::STORAGE_CLASS, self.storage_class.as_deref())
            .header_if(Names::SERVER_SIDE_ENCRYPTION, self.sse.as_deref())
    }

    fn note_checksum(&self, operation: Operation, crc64: Option<Crc64>) {
        if crc64.is_none() && !self.has_told_of_missing_checksums.swap(true, Ordering::Relaxed) {
            let operation = operation.name();
            warn!(operation, "answers tell no CRC-64: what is stored is checked by sizes and ETags alone");
        }
    }

    /// As [`Self::delete_page`], and once more for what may be deleted a moment later.
    async fn delete_page_again(&self, page: Vec<Key>) -> CosResult<Vec<(Key, CosError)>> {
        let (mut left, mut failed) = (page, Vec::new());
        for attempt in 1..=SINGLE_DELETES_MAX {
            let (again, lasting): (Vec<_>, Vec<_>) = self
                .delete_page(&left)
                .await?
                .into_iter()
                .partition(|(_, _, again)| *again != Again::Never && attempt < SINGLE_DELETES_MAX);
            failed.extend(lasting.into_iter().map(|(key, error, _)| (key, error)));
            left = again.into_iter().map(|(key, _, _)| key).collect();
            if left.is_empty() {
                break;
            }
            tokio::time::sleep(SINGLE_DELETE_PAUSE * attempt).await;
        }
        Ok(failed)
    }

    /// One request for up to 1,000 keys that fit into XML: those that could not be deleted.
    async fn delete_page(&self, keys: &[Key]) -> CosResult<Vec<(Key, CosError, Again)>> {
        let body = Payload::new(delete_document(keys.iter()));
        let md5 = BASE64_STANDARD.encode(md5_of(&body).await);
        let request = Request::of_bucket(Operation::DeleteObjects, Method::POST)
            .parameter("delete", "")
            .header("content-type", "application/xml")
            .header("content-md5", md5)
            .payload(body);
        let failed =
            self.run(&request, |answer| judge_document(&request, &answer, deleted(&answer.body))).await?;
        let failed = failed.into_iter().map(|outcome| {
            let (error, again) = judge_single_delete(&outcome.error);
            let key = keys.iter().find(|key| key.as_str() == outcome.key).ok_or_else(|| {
                let why = format!("the answer tells of {:?}, which was not asked for", outcome.key);
                CosError { reason: Reason::Malformed, in_doubt: true, ..refused(&request, why) }
            })?;
            Ok((key.clone(), error.of_key(key), again))
        });
        failed.collect()
    }
}

/// More uploads than one gateway has open at a time.
const UPLOADS_REMEMBERED: NonZeroUsize = NonZeroUsize::new(4096).expect("more than none");

#[async_trait]
impl ObjectStore for CosClient {
    async fn head_bucket(&self) -> CosResult<()> {
        self.run(&Request::of_bucket(Operation::HeadBucket, Method::HEAD), |_| Ok(())).await
    }

    async fn head_object(&self, key: &Key) -> CosResult<ObjectMeta> {
        self.head_within(key, self.timeout).await
    }

    /// The stream is not resumed when it breaks: whoever reads asks again for what is missing, with `if_match`
    /// of the first answer. A body that covers the whole object is checked against the object's checksum.
    async fn get_object(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> CosResult<ObjectBody> {
        let wanted = range.map(|ByteRange { first, length }| {
            format!("bytes={first}-{}", first.saturating_add(length.saturating_sub(1)))
        });
        let request = Request::of_key(Operation::GetObject, Method::GET, key)
            .header_if("range", wanted)
            .header_if("if-match", if_match.map(quoted));
        let (meta, bytes, answer) = self
            .run(&request, |answer| {
                let extent = extent_of(&answer, range);
                let (meta, bytes) = judge_document(&request, &answer, extent)?;
                Ok((meta, bytes, answer))
            })
            .await?;
        let incoming = answer.stream.map(|response| Incoming::new(response, self.timeout));
        let crc64 = meta.crc64.filter(|_| bytes == meta.size);
        Ok(ObjectBody { bytes: checked(incoming, bytes, crc64, key.clone()), meta })
    }

    async fn put_object(&self, key: &Key, payload: Payload, new: &NewObject) -> CosResult<Stored> {
        const OPERATION: Operation = Operation::PutObject;
        fits_into_one_request(OPERATION, key, payload.len())?;
        let crc64 = payload.crc64();
        let expected = Expected { bytes: payload.len(), crc64: Some(crc64) };
        let md5 = md5_of(&payload).await;
        let request =
            Request::of_key(OPERATION, Method::PUT, key).header("content-md5", BASE64_STANDARD.encode(md5));
        let request = request.new_object(key, new).map_err(|why| impossible(OPERATION, key, why))?;
        let request = self.for_storing(request).payload(payload);
        match self.run(&request, |answer| judge_stored(&request, &answer, crc64)).await {
            Ok(stored) => {
                self.note_checksum(OPERATION, stored.crc64);
                Ok(stored)
            }
            Err(error) => {
                self.settle_put(key, expected, &format!("{:032x}", u128::from_be_bytes(md5)), error).await
            }
        }
    }

    async fn copy_object(
        &self,
        source: &Key,
        target: &Key,
        if_match: Option<&ETag>,
        replace: Option<&NewObject>,
        forbid_overwrite: bool,
    ) -> CosResult<Stored> {
        const OPERATION: Operation = Operation::CopyObject;
        let mut request = Request::of_key(OPERATION, Method::PUT, target)
            .header(Names::COPY_SOURCE, self.place.copy_source(source))
            .header_if(Names::COPY_SOURCE_IF_MATCH, if_match.map(quoted))
            .payload(Payload::new(Bytes::new()));
        request = match replace {
            None => request.forbid_overwrite(forbid_overwrite),
            Some(new) => {
                let new =
                    NewObject { forbid_overwrite: new.forbid_overwrite || forbid_overwrite, ..new.clone() };
                let request = request.header(Names::METADATA_DIRECTIVE, "Replaced");
                request.new_object(target, &new).map_err(|why| impossible(OPERATION, target, why))?
            }
        };
        // Class and encryption are not the source's, whatever the directive says.
        let request = self.for_storing(request);
        match self.run(&request, |answer| judge_copied(&request, &answer, "CopyObjectResult")).await {
            Ok(stored) => Ok(stored),
            Err(error) => self.settle_copy(source, target, if_match, replace, error).await,
        }
    }

    async fn delete_object(&self, key: &Key) -> CosResult<()> {
        let request = Request::of_key(Operation::DeleteObject, Method::DELETE, key);
        match self.run(&request, |answer| judge_done(&request, &answer)).await {
            Err(error) if error.reason == Reason::NoSuchKey => Ok(()),
            outcome => outcome,
        }
    }

    async fn delete_objects(&self, keys: &[Key]) -> CosResult<Vec<(Key, CosError)>> {
        let mut failed = Vec::new();
        // There is no encoding-type here: a key that is no XML is deleted by itself.
        let (plain, odd): (Vec<Key>, Vec<Key>) = keys.iter().cloned().partition(fits_into_xml);
        let pages = stream::iter(plain.chunks(KEYS_PER_DELETE).map(<[Key]>::to_vec));
        let ended = pages.map(|page| self.delete_page_again(page)).buffer_unordered(DELETES_AT_ONCE);
        // All of them end before it is told that one has failed.
        for page in ended.collect::<Vec<_>>().await {
            failed.extend(page?);
        }
        for key in odd {
            if let Err(error) = self.delete_object(&key).await {
                failed.push((key, error));
            }
        }
        Ok(failed)
    }

    async fn list_objects(&self, wanted: &ListRequest) -> CosResult<ListPage> {
        self.list_objects_telling(wanted, &|_| {}).await
    }

    async fn list_objects_telling(
        &self,
        wanted: &ListRequest,
        tell: &(dyn Fn(String) + Send + Sync),
    ) -> CosResult<ListPage> {
        let request = Request::of_bucket(Operation::ListObjects, Method::GET)
            .parameter("prefix", &wanted.prefix)
            .parameter("delimiter", if wanted.by_directory { "/" } else { "" })
            .parameter("marker", &wanted.marker)
            .parameter("max-keys", wanted.entries_max.clamp(1, 1000).to_string())
            // Without it, a key that is no XML makes the whole page unreadable.
            .parameter("encoding-type", "url");
        let listener = |beginning: &[u8]| {
            if let Some(next) = early_marker(beginning) {
                tell(next);
            }
        };
        self.run_within(self.timeout, &request, Wants::Beginning(&listener), |answer| {
            judge_document(&request, &answer, list_page(&answer.body))
        })
        .await
    }

    /// A lost answer leaves an upload behind that nobody knows the ID of: there is nothing in it by which it
    /// could be told from an upload that somebody else has just begun under the same key, so it is left alone.
    /// It holds no bytes; a lifecycle rule for unfinished uploads removes it.
    async fn initiate_multipart_upload(&self, key: &Key, new: &NewObject) -> CosResult<UploadId> {
        const OPERATION: Operation = Operation::InitiateMultipartUpload;
        let request = Request::of_key(OPERATION, Method::POST, key).parameter("uploads", "");
        let request = request.new_object(key, new).map_err(|why| impossible(OPERATION, key, why))?;
        let request = self.for_storing(request).payload(Payload::new(Bytes::new()));
        let (upload, begun) = self
            .run(&request, |answer| {
                let upload = judge_document(&request, &answer, initiated(&answer.body))?;
                Ok((upload, time_of(&answer.headers, &DATE)))
            })
            .await?;
        if let Some(begun) = begun {
            self.uploads.lock().push(upload.clone(), begun);
        }
        Ok(upload)
    }

    async fn upload_part(
        &self,
        key: &Key,
        upload: &UploadId,
        number: PartNumber,
        payload: Payload,
    ) -> CosResult<PartStored> {
        const OPERATION: Operation = Operation::UploadPart;
        fits_into_one_request(OPERATION, key, payload.len())?;
        let (bytes, crc64) = (payload.len(), payload.crc64());
        let request = part_request(OPERATION, key, upload, number).payload(payload);
        let stored = self.run(&request, |answer| judge_stored(&request, &answer, crc64)).await?;
        self.note_checksum(OPERATION, stored.crc64);
        Ok(PartStored { number, etag: stored.etag, bytes, crc64: stored.crc64, stored_at: None })
    }

    async fn upload_part_copy(
        &self,
        key: &Key,
        upload: &UploadId,
        number: PartNumber,
        source: &Key,
        range: ByteRange,
        if_match: Option<&ETag>,
    ) -> CosResult<PartStored> {
        const OPERATION: Operation = Operation::UploadPartCopy;
        fits_into_one_request(OPERATION, key, range.length)?;
        let last = range.first.saturating_add(range.length.saturating_sub(1));
        let request = part_request(OPERATION, key, upload, number)
            .header(Names::COPY_SOURCE, self.place.copy_source(source))
            .header(Names::COPY_SOURCE_RANGE, format!("bytes={}-{last}", range.first))
            .header_if(Names::COPY_SOURCE_IF_MATCH, if_match.map(quoted))
            .payload(Payload::new(Bytes::new()));
        let stored = self.run(&request, |answer| judge_copied(&request, &answer, "CopyPartResult")).await?;
        Ok(PartStored {
            number,
            etag: stored.etag,
            bytes: range.length,
            crc64: stored.crc64,
            stored_at: None,
        })
    }

    async fn list_parts(&self, key: &Key, upload: &UploadId) -> CosResult<Vec<PartStored>> {
        let (mut parts, mut marker) = (Vec::new(), "0".to_owned());
        loop {
            let request = Request::of_key(Operation::ListParts, Method::GET, key)
                .parameter("uploadId", upload.as_str())
                .parameter("part-number-marker", &marker)
                .parameter("max-parts", "1000")
                .parameter("encoding-type", "url");
            let (page, next) = self
                .run(&request, |answer| judge_document(&request, &answer, parts_page(&answer.body)))
                .await?;
            parts.extend(page);
            match next {
                Some(next) if next == marker => return Err(stands_still(&request)),
                Some(next) => marker = next,
                None => return Ok(parts),
            }
        }
    }

    async fn list_multipart_uploads(&self, prefix: &str) -> CosResult<Vec<OpenUpload>> {
        let (mut uploads, mut marker) = (Vec::new(), (String::new(), String::new()));
        loop {
            let request = Request::of_bucket(Operation::ListMultipartUploads, Method::GET)
                .parameter("uploads", "")
                .parameter("prefix", prefix)
                .parameter("key-marker", &marker.0)
                .parameter("upload-id-marker", &marker.1)
                .parameter("max-uploads", "1000")
                .parameter("encoding-type", "url");
            let page = self
                .run(&request, |answer| judge_document(&request, &answer, uploads_page(&answer.body)))
                .await?;
            uploads.extend(page.uploads);
            match page.next {
                Some(next) if next == marker => return Err(stands_still(&request)),
                Some(next) => marker = next,
                None => return Ok(uploads),
            }
        }
    }

    async fn complete_multipart_upload(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartStored],
        expected: Expected,
        forbid_overwrite: bool,
    ) -> CosResult<Stored> {
        const OPERATION: Operation = Operation::CompleteMultipartUpload;
        let request = Request::of_key(OPERATION, Method::POST, key)
            .parameter("uploadId", upload.as_str())
            .header("content-type", "application/xml")
            // Initiate alone does not protect the finish.
            .forbid_overwrite(forbid_overwrite)
            .payload(Payload::new(complete_document(parts)));
        let outcome = self.run(&request, |answer| judge_completed(&request, &answer, expected.crc64)).await;
        let outcome = match outcome {
            Ok(stored) => {
                self.note_checksum(OPERATION, stored.crc64);
                Ok(stored)
            }
            Err(error) => self.settle_complete(key, upload, expected, error).await,
        };
        if outcome.is_ok() {
            self.uploads.lock().pop(upload);
        }
        outcome
    }

    async fn abort_multipart_upload(&self, key: &Key, upload: &UploadId) -> CosResult<()> {
        let request = Request::of_key(Operation::AbortMultipartUpload, Method::DELETE, key)
            .parameter("uploadId", upload.as_str());
        match self.run(&request, |answer| judge_done(&request, &answer)).await {
            Err(error) if error.reason != Reason::NoSuchUpload => Err(error),
            _ => {
                self.uploads.lock().pop(upload);
                Ok(())
            }
        }
    }
}

const KEYS_PER_DELETE: usize = 1000;
const DELETES_AT_ONCE: usize = 8;
/// How often a single key of a multiple delete is tried.
const SINGLE_DELETES_MAX: u32 = 4;
const SINGLE_DELETE_PAUSE: Duration = Duration::from_millis(200);

fn part_request<'a>(
    operation: Operation,
    key: &'a Key,
    upload: &UploadId,
    number: PartNumber,
) -> Request<'a> {
    Request::of_key(operation, Method::PUT, key)
        .parameter("partNumber", number.get().to_string())
        .parameter("uploadId", upload.as_str())
}

fn quoted(etag: &ETag) -> String {
    format!("\"{}\"", etag.as_str())
}

fn refused(request: &Request<'_>, why: String) -> CosError {
    let mut error = CosError::new(request.operation.name(), Reason::Refused).because(why);
    error.key = request.key.cloned();
    error
}

fn impossible(operation: Operation, key: &Key, why: String) -> CosError {
    CosError::new(operation.name(), Reason::Refused).of_key(key).because(why)
}

fn stands_still(request: &Request<'_>) -> CosError {
    let mut error = refused(request, "a list that leads back to where it stands".to_owned());
    error.reason = Reason::Malformed;
    error
}

/// *Specifications and Limits*: 5 GB for a PUT, a part, a copy of a part.
fn fits_into_one_request(operation: Operation, key: &Key, bytes: u64) -> CosResult<()> {
    if bytes <= PUT_BYTES_MAX {
        return Ok(());
    }
    Err(CosError::new(operation.name(), Reason::TooLarge)
        .of_key(key)
        .because("more than 5 GB in one request"))
}

/// The MD5 of a payload, computed aside where that takes longer than a task may go without waiting.
async fn md5_of(payload: &Payload) -> [u8; 16] {
    let digest = |payload: &Payload| {
        let mut digest = Md5::new();
        payload.pieces().iter().for_each(|piece| digest.update(piece));
        digest.finalize().into()
    };
    if payload.len() <= MD5_BYTES_MAX_IN_TASK {
        return digest(payload);
    }
    let payload = payload.clone();
    tokio::task::spawn_blocking(move || digest(&payload)).await.expect("a digest does not panic")
}

/// Half a millisecond or so.
const MD5_BYTES_MAX_IN_TASK: u64 = 256 << 10;
