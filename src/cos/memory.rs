//! A bucket in memory, for tests of everything above.
//!
//! It behaves as COS does where a caller can tell: a PUT replaces as a whole or not at all, an upload is
//! invisible until Complete, parts under 1 MB but the last make Complete fail, lists go by bytes and count
//! groups, the ETag of a multipart object follows from its upload ID and from nothing that could be
//! recomputed. Payloads are copied in, as a network would, so whoever counts the memory behind them sees it
//! come back. It never fails by itself: `FaultyStore` does. It is not what `cosgate emulator` serves; the two
//! share no code.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    ops::Bound,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use md5::{Digest, Md5};
use parking_lot::Mutex;

use super::{
    ByteRange, CosError, CosResult, Crc64, ETag, Expected, Key, ListPage, ListRequest, ListedObject,
    NewObject, ObjectBody, ObjectMeta, ObjectStore, OpenUpload, Operation, PART_BYTES_MIN, PartNumber,
    PartStored, Payload, Stored, UploadId, media_type::media_type_of,
};

/// A bucket in memory.
#[derive(Debug, Default)]
pub struct MemoryStore {
    bucket: Mutex<Bucket>,
}

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<(String, UploadId), Upload>,
    uploads_begun: u64,
    /// What lists show while they lag.
    listed: Option<BTreeMap<String, Object>>,
}

#[derive(Debug, Clone)]
struct Object {
    meta: ObjectMeta,
    bytes: Bytes,
}

#[derive(Debug)]
struct Upload {
    new: NewObject,
    initiated: SystemTime,
    parts: BTreeMap<PartNumber, Part>,
}

#[derive(Debug, Clone)]
struct Part {
    etag: ETag,
    bytes: Bytes,
    crc64: Crc64,
    stored_at: SystemTime,
}

impl MemoryStore {
    /// An empty bucket.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes under `key`.
    pub fn content(&self, key: &str) -> Option<Bytes> {
        self.bucket.lock().objects.get(key).map(|object| object.bytes.clone())
    }

    /// What HEAD would tell of `key`.
    pub fn meta(&self, key: &str) -> Option<ObjectMeta> {
        self.bucket.lock().objects.get(key).map(|object| object.meta.clone())
    }

    /// All keys, in byte order.
    pub fn keys(&self) -> Vec<String> {
        self.bucket.lock().objects.keys().cloned().collect()
    }

    /// Keys of the uploads that are neither completed nor aborted, in byte order.
    pub fn open_upload_keys(&self) -> Vec<String> {
        self.bucket.lock().uploads.keys().map(|(key, _)| key.clone()).collect()
    }

    /// Puts an object there as somebody else would, also under a text that [`Key::new`] refuses.
    pub fn insert(&self, key: &str, bytes: impl Into<Bytes>) -> ETag {
        let bytes = bytes.into();
        let etag = ETag::new(&hex(&Md5::digest(&bytes)));
        let object = Object::new(bytes, etag.clone(), None, BTreeMap::new());
        self.bucket.lock().objects.insert(key.to_owned(), object);
        etag
    }

    /// Changes what the bucket tells of `key`, such as its time or its checksum; the bytes stay.
    ///
    /// # Panics
    /// Where there is no such object.
    pub fn change_meta(&self, key: &str, change: impl FnOnce(&mut ObjectMeta)) {
        let mut bucket = self.bucket.lock();
        change(&mut bucket.objects.get_mut(key).expect("the object is there").meta);
    }

    /// Removes an object as somebody else would.
    pub fn remove(&self, key: &str) {
        self.bucket.lock().objects.remove(key);
    }

    /// Lists show what is there now until [`Self::lists_catch_up`]; COS promises no more
    /// (*GET Bucket (List Objects)*).
    pub fn lists_lag(&self) {
        let mut bucket = self.bucket.lock();
        bucket.listed = Some(bucket.objects.clone());
    }

    /// Lists show the bucket as it is again.
    pub fn lists_catch_up(&self) {
        self.bucket.lock().listed = None;
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn head_bucket(&self) -> CosResult<()> {
        Ok(())
    }

    async fn head_object(&self, key: &Key) -> CosResult<ObjectMeta> {
        self.meta(key.as_str()).ok_or_else(|| no_such_key(Operation::HeadObject, key))
    }

    async fn get_object(
        &self,
        key: &Key,
        range: Option<ByteRange>,
        if_match: Option<&ETag>,
    ) -> CosResult<ObjectBody> {
        let object = self.bucket.lock().source(Operation::GetObject, key, if_match)?;
        let bytes = match range {
            None => object.bytes,
            Some(range) => slice(Operation::GetObject, key, &object.bytes, range)?,
        };
        Ok(ObjectBody { meta: object.meta, bytes: in_chunks(bytes).boxed() })
    }

    async fn put_object(&self, key: &Key, payload: Payload, new: &NewObject) -> CosResult<Stored> {
        payload.let_go().await;
        let bytes = gather(&payload);
        let etag = ETag::new(&hex(&Md5::digest(&bytes)));
        self.bucket.lock().publish(Operation::PutObject, key, bytes, etag, new)
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
        let mut bucket = self.bucket.lock();
        let object = bucket.source(OPERATION, source, if_match)?;
        if source == target && replace.is_none() {
            let message = "a copy onto itself must replace the metadata";
            return Err(refusal(OPERATION, target, 400, "InvalidRequest", message));
        }
        let mut new = replace.cloned().unwrap_or(NewObject {
            content_type: object.meta.content_type,
            metadata: object.meta.metadata,
            forbid_overwrite: false,
        });
        new.forbid_overwrite |= forbid_overwrite;
        let mut stored = bucket.publish(OPERATION, target, object.bytes, object.meta.etag, &new)?;
        // What was never computed for the source is not computed by copying it.
        if object.meta.crc64.is_none() {
            bucket.objects.get_mut(target.as_str()).expect("just stored").meta.crc64 = None;
            stored.crc64 = None;
        }
        stored.last_modified = bucket.objects.get(target.as_str()).map(|object| object.meta.last_modified);
        Ok(stored)
    }

    async fn delete_object(&self, key: &Key) -> CosResult<()> {
        self.remove(key.as_str());
        Ok(())
    }

    async fn delete_objects(&self, keys: &[Key]) -> CosResult<Vec<(Key, CosError)>> {
        for key in keys {
            self.remove(key.as_str());
        }
        Ok(Vec::new())
    }

    async fn list_objects(&self, request: &ListRequest) -> CosResult<ListPage> {
        let bucket = self.bucket.lock();
        Ok(page_of(bucket.listed.as_ref().unwrap_or(&bucket.objects), request))
    }

    async fn initiate_multipart_upload(&self, key: &Key, new: &NewObject) -> CosResult<UploadId> {
        let mut bucket = self.bucket.lock();
        if new.forbid_overwrite && bucket.objects.contains_key(key.as_str()) {
            return Err(taken(Operation::InitiateMultipartUpload, key));
        }
        bucket.uploads_begun += 1;
        let id = UploadId::new(&format!("{:010}{:016x}", seconds(now()), bucket.uploads_begun));
        let upload = Upload { new: new.clone(), initiated: now(), parts: BTreeMap::new() };
        bucket.uploads.insert((key.as_str().to_owned(), id.clone()), upload);
        Ok(id)
    }

    async fn upload_part(
        &self,
        key: &Key,
        upload: &UploadId,
        number: PartNumber,
        payload: Payload,
    ) -> CosResult<PartStored> {
        let bytes = gather(&payload);
        let mut bucket = self.bucket.lock();
        let upload = bucket.upload(Operation::UploadPart, key, upload)?;
        Ok(upload.store(number, bytes))
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
        let mut bucket = self.bucket.lock();
        let object = bucket.source(OPERATION, source, if_match)?;
        let upload = bucket.upload(OPERATION, key, upload)?;
        if range.first.saturating_add(range.length) > object.meta.size {
            let message = "the range is not within the source";
            return Err(refusal(OPERATION, key, 400, "InvalidArgument", message));
        }
        Ok(upload.store(number, slice(OPERATION, key, &object.bytes, range)?))
    }

    async fn list_parts(&self, key: &Key, upload: &UploadId) -> CosResult<Vec<PartStored>> {
        let mut bucket = self.bucket.lock();
        let upload = bucket.upload(Operation::ListParts, key, upload)?;
        // ListParts tells no checksum.
        let listed = |(number, part): (&PartNumber, &Part)| PartStored {
            number: *number,
            etag: part.etag.clone(),
            bytes: part.bytes.len() as u64,
            crc64: None,
            stored_at: Some(part.stored_at),
        };
        Ok(upload.parts.iter().map(listed).collect())
    }

    async fn list_multipart_uploads(&self, prefix: &str) -> CosResult<Vec<OpenUpload>> {
        let bucket = self.bucket.lock();
        let matching = bucket.uploads.iter().filter(|((key, _), _)| key.starts_with(prefix));
        let open = matching.map(|((key, id), upload)| OpenUpload {
            key: key.clone(),
            upload: id.clone(),
            initiated: upload.initiated,
        });
        Ok(open.collect())
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
        let mut bucket = self.bucket.lock();
        let begun = bucket.upload(OPERATION, key, upload)?;
        let bytes = begun.merge(key, parts)?;
        let mut new = begun.new.clone();
        // Initiate alone does not protect the finish: the header counts on the request that carries it.
        new.forbid_overwrite = forbid_overwrite;
        let etag = composite_etag(upload, parts);
        let stored = bucket.publish(OPERATION, key, bytes, etag, &new)?;
        bucket.uploads.remove(&(key.as_str().to_owned(), upload.clone()));
        if expected.crc64.is_some_and(|crc64| stored.crc64 != Some(crc64)) {
            let found = format!("{:?} instead of {:?}", stored.crc64, expected.crc64);
            return Err(CosError::new(OPERATION.name(), super::Reason::Corrupt).of_key(key).because(found));
        }
        Ok(stored)
    }

    async fn abort_multipart_upload(&self, key: &Key, upload: &UploadId) -> CosResult<()> {
        self.bucket.lock().uploads.remove(&(key.as_str().to_owned(), upload.clone()));
        Ok(())
    }
}

impl Object {
    /// Stored now.
    fn new(
        bytes: Bytes,
        etag: ETag,
        content_type: Option<String>,
        metadata: BTreeMap<String, String>,
    ) -> Self {
        let meta = ObjectMeta {
            size: bytes.len() as u64,
            etag_is_md5: !etag.as_str().contains('-'),
            etag,
            last_modified: now(),
            crc64: Some(Crc64::of(&bytes)),
            content_type,
            metadata,
        };
        Self { meta, bytes }
    }
}

impl Bucket {
    fn source(&self, operation: Operation, key: &Key, if_match: Option<&ETag>) -> CosResult<Object> {
        let object = self.objects.get(key.as_str()).ok_or_else(|| no_such_key(operation, key))?;
        if if_match.is_some_and(|etag| *etag != object.meta.etag) {
            return Err(refusal(operation, key, 412, "PreconditionFailed", "Precondition not match."));
        }
        Ok(object.clone())
    }

    fn upload(&mut self, operation: Operation, key: &Key, id: &UploadId) -> CosResult<&mut Upload> {
        self.uploads
            .get_mut(&(key.as_str().to_owned(), id.clone()))
            .ok_or_else(|| refusal(operation, key, 404, "NoSuchUpload", "The upload does not exist."))
    }

    fn publish(
        &mut self,
        operation: Operation,
        key: &Key,
        bytes: Bytes,
        etag: ETag,
        new: &NewObject,
    ) -> CosResult<Stored> {
        if new.forbid_overwrite && self.objects.contains_key(key.as_str()) {
            return Err(taken(operation, key));
        }
        let content_type = new.content_type.clone().unwrap_or_else(|| media_type_of(key).to_owned());
        let object = Object::new(bytes, etag.clone(), Some(content_type), new.metadata.clone());
        let crc64 = object.meta.crc64;
        self.objects.insert(key.as_str().to_owned(), object);
        Ok(Stored { etag, crc64, last_modified: None })
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket")
            .field("objects", &self.objects.len())
            .field("uploads", &self.uploads.len())
            .finish_non_exhaustive()
    }
}

impl Upload {
    fn store(&mut self, number: PartNumber, bytes: Bytes) -> PartStored {
        let etag = ETag::new(&hex(&Md5::digest(&bytes)));
        let crc64 = Crc64::of(&bytes);
        let length = bytes.len() as u64;
        let told =
            PartStored { number, etag: etag.clone(), bytes: length, crc64: Some(crc64), stored_at: None };
        self.parts.insert(number, Part { etag, bytes, crc64, stored_at: SystemTime::now() });
        told
    }

    /// The object that `parts` make, judged by the rules of *Complete Multipart Upload*.
    fn merge(&self, key: &Key, parts: &[PartStored]) -> CosResult<Bytes> {
        const OPERATION: Operation = Operation::CompleteMultipartUpload;
        let refuse = |code, message| Err(refusal(OPERATION, key, 400, code, message));
        if parts.is_empty() {
            return refuse("MalformedXML", "no part is listed");
        }
        let mut merged = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            if index > 0 && parts[index - 1].number >= part.number {
                return refuse("InvalidPartOrder", "part numbers do not ascend");
            }
            if usize::from(part.number.get()) != index + 1 {
                return refuse("InvalidPart", "part numbers have a gap");
            }
            let Some(stored) = self.parts.get(&part.number).filter(|stored| stored.etag == part.etag) else {
                return refuse("InvalidPart", "a part was not sent, or under another ETag");
            };
            if index + 1 < parts.len() && (stored.bytes.len() as u64) < PART_BYTES_MIN {
                return refuse("EntityTooSmall", "a part that is not the last is under 1 MB");
            }
            debug_assert_eq!(stored.crc64, Crc64::of(&stored.bytes));
            merged.extend_from_slice(&stored.bytes);
        }
        Ok(merged.into())
    }
}

/// One page, as *GET Bucket (List Objects)* tells: after `marker`, groups counted like objects, and a marker
/// that is a group skips all of it.
fn page_of(objects: &BTreeMap<String, Object>, request: &ListRequest) -> ListPage {
    let entries_max = usize::from(request.entries_max.clamp(1, 1000));
    let mut page = ListPage::default();
    let mut last = None;
    let start = request.marker.as_str().max(request.prefix.as_str());
    let behind = objects.range::<str, _>((Bound::Included(start), Bound::Unbounded));
    for (key, object) in behind.take_while(|(key, _)| key.starts_with(&request.prefix)) {
        if !request.marker.is_empty() && *key <= request.marker {
            continue;
        }
        let group = if request.by_directory { group_of(key, request.prefix.len()) } else { None };
        if let Some(group) = group
            && (group == request.marker || page.prefixes.last().is_some_and(|known| known == group))
        {
            continue;
        }
        if page.objects.len() + page.prefixes.len() == entries_max {
            page.next_marker = last;
            return page;
        }
        match group {
            Some(group) => page.prefixes.push(group.to_owned()),
            None => page.objects.push(ListedObject {
                key: key.clone(),
                size: object.meta.size,
                etag: object.meta.etag.clone(),
                last_modified: object.meta.last_modified,
            }),
        }
        last = Some(group.unwrap_or(key).to_owned());
    }
    page
}

fn group_of(key: &str, prefix_bytes: usize) -> Option<&str> {
    key[prefix_bytes..].find('/').map(|at| &key[..=prefix_bytes + at])
}

/// Opaque, and another one for each upload of the same bytes, as seen at COS.
fn composite_etag(upload: &UploadId, parts: &[PartStored]) -> ETag {
    let mut digest = Md5::new();
    digest.update(upload.as_str());
    for part in parts {
        digest.update(part.etag.as_str());
    }
    ETag::new(&format!("{}-{}", hex(&digest.finalize()), parts.len()))
}

fn gather(payload: &Payload) -> Bytes {
    payload.pieces().concat().into()
}

fn slice(operation: Operation, key: &Key, bytes: &Bytes, range: ByteRange) -> CosResult<Bytes> {
    let size = bytes.len() as u64;
    if range.first >= size || range.length == 0 {
        return Err(refusal(operation, key, 416, "InvalidRange", "the range begins behind the end"));
    }
    let end = range.first.saturating_add(range.length).min(size);
    let index = |at: u64| usize::try_from(at).expect("within what lies in memory");
    Ok(bytes.slice(index(range.first)..index(end)))
}

fn in_chunks(mut bytes: Bytes) -> impl stream::Stream<Item = CosResult<Bytes>> + Send {
    stream::iter(std::iter::from_fn(move || {
        (!bytes.is_empty()).then(|| Ok(bytes.split_to(bytes.len().min(CHUNK_BYTES))))
    }))
}

/// A little more than one packet and less than one part, so that readers meet boundaries.
const CHUNK_BYTES: usize = 100_000;

fn no_such_key(operation: Operation, key: &Key) -> CosError {
    refusal(operation, key, 404, "NoSuchKey", "The specified key does not exist.")
}

fn taken(operation: Operation, key: &Key) -> CosError {
    refusal(operation, key, 409, "FileAlreadyExists", "The object already exists.")
}

fn refusal(operation: Operation, key: &Key, status: u16, code: &str, message: &str) -> CosError {
    CosError::answered(operation.name(), status, Some(code), Some(message)).of_key(key)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
        text
    })
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// In whole seconds, as COS tells times.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds(SystemTime::now()))
}
