//! What the emulator is, apart from connections: settings, store, clock, faults, counters; and the way of
//! one request through them: who signed it, which operation it is, whether it may.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    BlankOrder, EmulatorLimits,
    body::Body,
    clock::Clock,
    dialect::Dialect,
    error::{self, ApiError, Failure},
    fault::{FaultKind, Faults, Trouble},
    operation::{Operation, Style, Target},
    payload::Payload,
    request::{Framing, Request},
    response::Response,
    signature::{self, Credential, Signer},
    signature_v4::{self, Claim},
    store::Store,
    wire::Pace,
};

/// Answers COS's operations.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) store: Store,
    pub(super) credentials: Vec<Credential>,
    pub(super) clock: Clock,
    pub(super) faults: Faults,
    pub(super) counters: Counters,
    pub(super) pace: Arc<Pace>,
    pub(super) region: String,
    pub(super) fast_etag: bool,
    pub(super) chunked_parts: bool,
    pub(super) forbid_path_style: bool,
    pub(super) blank_order: BlankOrder,
    pub(super) limits: EmulatorLimits,
}

/// One request, understood.
#[derive(Debug)]
pub(super) struct Call<'a> {
    pub(super) request: &'a Request,
    pub(super) target: Target,
    pub(super) style: Style,
    pub(super) operation: Operation,
    pub(super) trouble: Trouble,
}

impl Call<'_> {
    /// How the answer is to be worded.
    pub(super) fn dialect(&self) -> Dialect {
        self.request.dialect
    }

    /// The bucket's name; empty where the service itself is meant.
    pub(super) fn bucket(&self) -> &str {
        self.target.bucket().unwrap_or_default()
    }

    /// The key; empty where a bucket is meant.
    pub(super) fn key(&self) -> &str {
        self.target.key().unwrap_or_default()
    }

    /// Host and path, as errors name what was asked for.
    pub(super) fn resource(&self) -> String {
        match self.target.key() {
            Some(_) => format!("{}{}", self.request.host, self.request.path),
            None => self.request.host.clone(),
        }
    }
}

impl Service {
    /// Finds out what a request means and what is to go wrong with it; counts it.
    pub(super) fn understand<'a>(&self, request: &'a Request) -> Result<Call<'a>, ApiError> {
        let (target, style) = Target::of(request, |name| self.store.has_bucket(name))?;
        let operation = Operation::of(request, &target);
        self.counters.of(operation).requests.fetch_add(1, Ordering::Relaxed);
        let trouble = self.faults.hit(operation.name(), target.bucket(), target.key(), self.clock.now_ms());
        Ok(Call { request, target, style, operation, trouble })
    }

    /// Seconds since 1970 by the server's clock, as this request sees it.
    pub(super) fn now(&self, trouble: &Trouble) -> i64 {
        let skew_ms = trouble.of(FaultKind::ClockSkew).map_or(0, |fault| fault.milliseconds);
        (self.clock.now_ms() + skew_ms).div_euclid(1000)
    }

    /// Carries the request out.
    ///
    /// # Errors
    /// What COS would refuse; or the connection broke while the body came in.
    pub(super) async fn answer(
        self: &Arc<Self>,
        call: &Call<'_>,
        body: &mut Body<'_>,
    ) -> Result<Response, Failure> {
        body.demand(self.admit(call)?);
        match call.operation {
            Operation::PutObject => self.put_object(call, body).await,
            Operation::UploadPart => self.upload_part(call, body).await,
            Operation::AppendObject => self.append_object(call, body).await,
            Operation::CompleteMultipartUpload => self.complete_multipart_upload(call, body).await,
            Operation::DeleteObjects => self.delete_objects(call, body).await,
            Operation::PutObjectTagging => self.put_object_tagging(call, body).await,
            Operation::PutBucket | Operation::RestoreObject => {
                body.text(64 * 1024).await?;
                Ok(self.answer_plain(call)?)
            }
            _ => {
                body.settle().await;
                Ok(self.answer_plain(call)?)
            }
        }
    }

    /// The operations that read no body, or none that matters.
    fn answer_plain(self: &Arc<Self>, call: &Call<'_>) -> Result<Response, ApiError> {
        match call.operation {
            Operation::GetService => Ok(self.get_service(call)),
            Operation::HeadBucket => self.head_bucket(call),
            Operation::PutBucket => self.put_bucket(call),
            Operation::DeleteBucket => self.delete_bucket(call),
            Operation::GetBucketLocation => self.get_bucket_location(call),
            Operation::GetBucketVersioning => self.get_bucket_versioning(call),
            Operation::ListObjects => self.list_objects(call),
            Operation::ListObjectVersions => self.list_object_versions(call),
            Operation::HeadObject => self.head_object(call),
            Operation::GetObject => self.get_object(call),
            Operation::CopyObject => self.copy_object(call),
            Operation::DeleteObject => self.delete_object(call),
            Operation::RestoreObject => self.restore_object(call),
            Operation::InitiateMultipartUpload => self.initiate_multipart_upload(call),
            Operation::UploadPartCopy => self.upload_part_copy(call),
            Operation::ListParts => self.list_parts(call),
            Operation::ListMultipartUploads => self.list_multipart_uploads(call),
            Operation::AbortMultipartUpload => self.abort_multipart_upload(call),
            Operation::GetObjectTagging => self.get_object_tagging(call),
            Operation::DeleteObjectTagging => self.delete_object_tagging(call),
            Operation::Unsupported
            | Operation::PutObject
            | Operation::UploadPart
            | Operation::AppendObject
            | Operation::CompleteMultipartUpload
            | Operation::DeleteObjects
            | Operation::PutObjectTagging => Err(error::NOT_IMPLEMENTED),
        }
    }

    /// Signature, rights, addressing, framing: everything that needs no body. Tells what is to be true of
    /// the body.
    fn admit(&self, call: &Call<'_>) -> Result<Payload, ApiError> {
        let request = call.request;
        let now = self.now(&call.trouble);
        let (signer, claim) = match call.dialect() {
            Dialect::Cos => (signature::verify(request, &self.credentials, now)?, Claim::Nothing),
            Dialect::S3 => match signature_v4::verify(request, &self.credentials, now)? {
                Some(claim) => (Signer::Known, claim),
                None => (Signer::Anonymous, Claim::Nothing),
            },
        };
        if signer == Signer::Anonymous && !self.is_public(call) {
            return Err(error::ACCESS_DENIED);
        }
        if call.style == Style::Path && self.forbid_path_style && call.target != Target::Service {
            return Err(error::PATH_STYLE_FORBIDDEN);
        }
        if let Some(bucket) = call.target.bucket()
            && call.operation != Operation::PutBucket
            && !self.store.has_bucket(bucket)
        {
            return Err(error::NO_SUCH_BUCKET);
        }
        if let Some(rate) = request.header("x-cos-traffic-limit").or(request.parameter("x-cos-traffic-limit"))
            && !rate.parse::<u64>().is_ok_and(|bits| (819_200..=838_860_800).contains(&bits))
        {
            return Err(ApiError::invalid_argument("the traffic limit is outside 819200 to 838860800"));
        }
        self.check_framing(call)?;
        demanded(call, claim)
    }

    fn check_framing(&self, call: &Call<'_>) -> Result<(), ApiError> {
        let carries =
            matches!(call.operation, Operation::PutObject | Operation::UploadPart | Operation::AppendObject);
        match call.request.framing {
            Framing::Absent if carries => Err(error::MISSING_LENGTH),
            Framing::Chunked if call.operation == Operation::AppendObject => Err(error::MISSING_LENGTH),
            Framing::Chunked if call.operation == Operation::UploadPart && !self.chunked_parts => {
                Err(error::MISSING_LENGTH)
            }
            Framing::Length(bytes) if bytes > self.limits.put_bytes_max => Err(error::ENTITY_TOO_LARGE),
            _ => Ok(()),
        }
    }

    fn is_public(&self, call: &Call<'_>) -> bool {
        let reads = matches!(call.operation, Operation::GetObject | Operation::HeadObject);
        reads
            && self.store.object(call.bucket(), call.key()).is_ok_and(|object| object.attributes.public_read)
    }
}

/// What S3 clients say about their bodies; COS's own headers are checked by the operations.
fn demanded(call: &Call<'_>, claim: Claim) -> Result<Payload, ApiError> {
    match call.dialect() {
        Dialect::Cos => Ok(Payload::default()),
        // The checksums of a Complete are those of the object.
        Dialect::S3 => Payload::of(call.request, claim, call.operation != Operation::CompleteMultipartUpload),
    }
}

/// What `GET /requests` tells.
#[derive(Debug)]
pub(super) struct Counters {
    each: Vec<Counter>,
}

#[derive(Debug, Default)]
pub(super) struct Counter {
    pub(super) requests: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self { each: Operation::ALL.iter().map(|_| Counter::default()).collect() }
    }
}

impl Counters {
    pub(super) fn of(&self, operation: Operation) -> &Counter {
        &self.each[operation as usize]
    }

    pub(super) fn reset(&self) {
        for counter in &self.each {
            for number in [&counter.requests, &counter.bytes_in, &counter.bytes_out] {
                number.store(0, Ordering::Relaxed);
            }
        }
    }
}
