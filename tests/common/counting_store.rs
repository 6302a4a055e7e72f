//! A bucket that keeps sizes and checksums, and no bytes: for uploads of more than memory holds.

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use cosgate::cos::{
    ByteRange, CosError, CosResult, Crc64, ETag, Expected, Key, ListPage, ListRequest, NewObject, ObjectBody,
    ObjectMeta, ObjectStore, OpenUpload, PartNumber, PartStored, Payload, Reason, Stored, UploadId,
};
use parking_lot::Mutex;

/// A bucket of sizes and checksums, on a wire of its own.
#[derive(Debug, Default)]
pub(crate) struct CountingStore {
    /// Before each answer.
    latency: Duration,
    /// Of each request; 0 = no bound.
    bytes_per_second: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    objects: HashMap<Key, (u64, Crc64)>,
    uploads: HashMap<UploadId, HashMap<PartNumber, PartStored>>,
    begun: u64,
    /// Requests with a body, and how many of them have not sent all of it.
    running: usize,
    running_most: usize,
    sending: usize,
    sending_most: usize,
    parts: u64,
}

impl CountingStore {
    /// A bucket on a wire with this latency, and this bandwidth per request (0 = no bound).
    pub(crate) fn on_wire(latency: Duration, bytes_per_second: u64) -> Self {
        Self { latency, bytes_per_second, ..Self::default() }
    }

    pub(crate) fn object(&self, key: &str) -> Option<(u64, Crc64)> {
        self.state.lock().objects.get(&Key::new(key).expect("a key")).copied()
    }

    pub(crate) fn open_uploads(&self) -> usize {
        self.state.lock().uploads.len()
    }

    /// Most requests with a body at a time.
    pub(crate) fn running_most(&self) -> usize {
        self.state.lock().running_most
    }

    /// Most of them whose body was on its way.
    pub(crate) fn sending_most(&self) -> usize {
        self.state.lock().sending_most
    }

    pub(crate) fn parts(&self) -> u64 {
        self.state.lock().parts
    }

    async fn travel(&self, payload: &Payload) {
        {
            let mut state = self.state.lock();
            state.running += 1;
            state.running_most = state.running_most.max(state.running);
            state.sending += 1;
            state.sending_most = state.sending_most.max(state.sending);
        }
        let micros = payload.len().checked_mul(1_000_000);
        if let Some(body) = micros.and_then(|micros| micros.checked_div(self.bytes_per_second)) {
            tokio::time::sleep(Duration::from_micros(body)).await;
        }
        self.state.lock().sending -= 1;
        payload.note_taken();
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        self.state.lock().running -= 1;
    }
}

#[async_trait]
impl ObjectStore for CountingStore {
    async fn head_bucket(&self) -> CosResult<()> {
        Ok(())
    }

    async fn head_object(&self, key: &Key) -> CosResult<ObjectMeta> {
        Err(CosError::new("HeadObject", Reason::NoSuchKey).of_key(key))
    }

    async fn get_object(&self, key: &Key, _: Option<ByteRange>, _: Option<&ETag>) -> CosResult<ObjectBody> {
        Err(CosError::new("GetObject", Reason::NoSuchKey).of_key(key))
    }

    async fn put_object(&self, key: &Key, payload: Payload, _: &NewObject) -> CosResult<Stored> {
        payload.let_go().await;
        self.travel(&payload).await;
        self.state.lock().objects.insert(key.clone(), (payload.len(), payload.crc64()));
        Ok(Stored { etag: ETag::new("put"), crc64: Some(payload.crc64()), last_modified: None })
    }

    async fn copy_object(
        &self,
        source: &Key,
        _: &Key,
        _: Option<&ETag>,
        _: Option<&NewObject>,
        _: bool,
    ) -> CosResult<Stored> {
        Err(CosError::new("CopyObject", Reason::NoSuchKey).of_key(source))
    }

    async fn delete_object(&self, key: &Key) -> CosResult<()> {
        self.state.lock().objects.remove(key);
        Ok(())
    }

    async fn delete_objects(&self, _: &[Key]) -> CosResult<Vec<(Key, CosError)>> {
        Ok(Vec::new())
    }

    async fn list_objects(&self, _: &ListRequest) -> CosResult<ListPage> {
        Ok(ListPage::default())
    }

    async fn initiate_multipart_upload(&self, _: &Key, _: &NewObject) -> CosResult<UploadId> {
        tokio::time::sleep(self.latency).await;
        let mut state = self.state.lock();
        state.begun += 1;
        let upload = UploadId::new(&state.begun.to_string());
        state.uploads.insert(upload.clone(), HashMap::new());
        Ok(upload)
    }

    async fn upload_part(
        &self,
        _: &Key,
        upload: &UploadId,
        number: PartNumber,
        payload: Payload,
    ) -> CosResult<PartStored> {
        self.travel(&payload).await;
        let part = PartStored {
            number,
            etag: ETag::new(&format!("part-{}", number.get())),
            bytes: payload.len(),
            crc64: Some(payload.crc64()),
            stored_at: None,
        };
        let mut state = self.state.lock();
        state.parts += 1;
        let Some(parts) = state.uploads.get_mut(upload) else {
            return Err(CosError::new("UploadPart", Reason::NoSuchUpload));
        };
        parts.insert(number, part.clone());
        Ok(part)
    }

    async fn upload_part_copy(
        &self,
        _: &Key,
        _: &UploadId,
        _: PartNumber,
        source: &Key,
        _: ByteRange,
        _: Option<&ETag>,
    ) -> CosResult<PartStored> {
        Err(CosError::new("UploadPartCopy", Reason::NoSuchKey).of_key(source))
    }

    async fn list_parts(&self, _: &Key, _: &UploadId) -> CosResult<Vec<PartStored>> {
        Ok(Vec::new())
    }

    async fn list_multipart_uploads(&self, _: &str) -> CosResult<Vec<OpenUpload>> {
        Ok(Vec::new())
    }

    async fn complete_multipart_upload(
        &self,
        key: &Key,
        upload: &UploadId,
        parts: &[PartStored],
        expected: Expected,
        _: bool,
    ) -> CosResult<Stored> {
        tokio::time::sleep(self.latency).await;
        let mut state = self.state.lock();
        let Some(there) = state.uploads.remove(upload) else {
            return Err(CosError::new("CompleteMultipartUpload", Reason::NoSuchUpload));
        };
        let (mut bytes, mut crc64) = (0, Crc64::EMPTY);
        for (place, part) in parts.iter().enumerate() {
            assert_eq!(usize::from(part.number.get()), place + 1);
            assert_eq!(there.get(&part.number), Some(part));
            assert!(
                part.bytes >= 1 << 20 || place + 1 == parts.len(),
                "part {place} of {} bytes",
                part.bytes
            );
            bytes += part.bytes;
            crc64 = crc64.followed_by(part.crc64.expect("every part has one"), part.bytes);
        }
        assert_eq!(Expected { bytes, crc64: Some(crc64) }, expected);
        state.objects.insert(key.clone(), (bytes, crc64));
        Ok(Stored { etag: ETag::new("whole"), crc64: Some(crc64), last_modified: None })
    }

    async fn abort_multipart_upload(&self, _: &Key, upload: &UploadId) -> CosResult<()> {
        self.state.lock().uploads.remove(upload);
        Ok(())
    }
}
