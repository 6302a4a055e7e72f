//! PUT Object - Copy and Upload Part - Copy. A copy points to the source's bytes; none is moved.

use super::{
    attributes,
    clock::copy_date,
    condition::{Verdict, judge},
    content::{Content, fast_etag},
    dialect::Dialect,
    document::Xml,
    error::{self, ApiError, disk_failure},
    multipart::part_number,
    object::{overwrite, refuse_archived},
    operation::{Target, check_key, without_port},
    request::{Request, decode},
    response::Response,
    service::{Call, Service},
    signature::hex,
    store::{Object, Part},
};
use crc_fast::{CrcAlgorithm, Digest as CrcDigest};
use md5::{Digest as _, Md5};
use std::sync::Arc;

impl Service {
    pub(super) fn copy_object(self: &Arc<Self>, call: &Call<'_>) -> Result<Response, ApiError> {
        let request = call.request;
        let (source_bucket, source_key) = self.copy_source(request)?;
        let directive = |name| call.dialect().is_replacing(request.header(name));
        let is_replacing = directive("x-cos-metadata-directive")
            .ok_or_else(|| ApiError::invalid_argument("the metadata directive is not Copy or Replaced"))?;
        if (source_bucket.as_str(), source_key.as_str()) == (call.bucket(), call.key()) && !is_replacing {
            return Err(ApiError::invalid_request(
                "A copy onto itself is only allowed with x-cos-metadata-directive: Replaced.",
            ));
        }
        let source = self.read_source(call, &source_bucket, &source_key)?;
        if source.content.len() > self.limits.put_bytes_max {
            return Err(error::COPY_TOO_LARGE);
        }
        let mut copied = attributes::read(request)?;
        if !is_replacing {
            copied.headers.clone_from(&source.attributes.headers);
            copied.metadata.clone_from(&source.attributes.metadata);
        }
        if directive("x-cos-tagging-directive") != Some(true) {
            copied.tags.clone_from(&source.attributes.tags);
        }
        let object = Object {
            content: source.content.clone(),
            etag: source.etag.clone(),
            crc64: source.crc64,
            modified: self.clock.now(),
            appendable: false,
            attributes: copied,
        };
        let now_ms = self.clock.now_ms();
        let object = self.store.put(call.bucket(), call.key(), object, &overwrite(request), now_ms)?;
        let mut xml = Xml::bare(call.dialect());
        xml.open("CopyObjectResult");
        xml.leaf("ETag", &format!("\"{}\"", object.etag));
        xml.leaf("CRC64", &object.crc64.to_string());
        xml.leaf("LastModified", &copy_date(object.modified));
        xml.close("CopyObjectResult");
        let document = xml.finish();
        Ok(Response::late(async move { Ok(document) }))
    }

    pub(super) fn upload_part_copy(self: &Arc<Self>, call: &Call<'_>) -> Result<Response, ApiError> {
        let request = call.request;
        let id = request.filled_parameter("uploadId").ok_or(error::NO_SUCH_UPLOAD)?.to_owned();
        let number = part_number(request)?;
        self.store.with_upload(call.bucket(), call.key(), &id, |_| Ok(()))?;
        let (source_bucket, source_key) = self.copy_source(request)?;
        let source = self.read_source(call, &source_bucket, &source_key)?;
        let size = source.content.len();
        let (first, length) =
            match request.header("x-cos-copy-source-range").filter(|range| !range.is_empty()) {
                None => (0, size),
                Some(text) => copy_range(text, size)?,
            };
        if length > self.limits.put_bytes_max {
            return Err(error::ENTITY_TOO_LARGE);
        }
        let content = source.content.slice(first, length);
        let is_whole = length == size;
        let (service, modified, dialect) = (Arc::clone(self), self.clock.now(), call.dialect());
        let (bucket, key) = (call.bucket().to_owned(), call.key().to_owned());
        Ok(Response::late(async move {
            let (etag, crc64) = service.sums(content.clone(), is_whole.then_some(source)).await?;
            let part = Part { content, etag: etag.clone(), crc64, modified };
            service.store.put_part(&bucket, &key, &id, number, part)?;
            let mut xml = Xml::bare(dialect);
            xml.open("CopyPartResult");
            xml.leaf("ETag", &format!("\"{etag}\""));
            xml.leaf("CRC64", &crc64.to_string());
            xml.leaf("LastModified", &copy_date(modified));
            xml.close("CopyPartResult");
            Ok(xml.finish())
        }))
    }

    /// ETag and CRC-64 of a copied part; read only where they do not follow from the source.
    async fn sums(&self, content: Content, whole: Option<Arc<Object>>) -> Result<(String, u64), ApiError> {
        let is_fast = self.fast_etag;
        if let Some(source) = whole {
            if is_fast {
                return Ok((fast_etag(source.crc64, content.len()), source.crc64));
            }
            if !source.etag.contains('-') && !source.appendable {
                return Ok((source.etag.clone(), source.crc64));
            }
        }
        let sums = move || -> std::io::Result<(String, u64)> {
            let (mut crc, mut md5) = (CrcDigest::new(CrcAlgorithm::Crc64Xz), Md5::new());
            content.read(|piece| {
                crc.update(piece);
                if !is_fast {
                    md5.update(piece);
                }
            })?;
            let crc64 = crc.finalize();
            let etag = if is_fast { fast_etag(crc64, content.len()) } else { hex(&md5.finalize()) };
            Ok((etag, crc64))
        };
        match tokio::task::spawn_blocking(sums).await {
            Ok(Ok(sums)) => Ok(sums),
            Ok(Err(error)) => Err(disk_failure(&error)),
            Err(_) => Err(error::INTERNAL_ERROR),
        }
    }

    /// The source, if its conditions hold and it can be read.
    fn read_source(&self, call: &Call<'_>, bucket: &str, key: &str) -> Result<Arc<Object>, ApiError> {
        let source = self.store.object(bucket, key)?;
        // A copy knows no 304: every condition that does not hold is a 412.
        if judge(call.request, "x-cos-copy-source-", &source) != Verdict::Go {
            return Err(error::PRECONDITION_FAILED);
        }
        refuse_archived(call, &source)?;
        if source.appendable {
            return Err(error::NOT_APPENDABLE);
        }
        Ok(source)
    }

    /// Bucket and key of `x-cos-copy-source: HOST/KEY` or `x-amz-copy-source: BUCKET/KEY`, the key
    /// percent-encoded.
    fn copy_source(&self, request: &Request) -> Result<(String, String), ApiError> {
        let text = request.header("x-cos-copy-source").unwrap_or_default();
        let text = text.split_once('?').map_or(text, |(path, _)| path);
        let text = text.trim_start_matches('/');
        let (host, path) = text.split_once('/').ok_or(error::INVALID_COPY_SOURCE)?;
        let path = decode(path, false).map_err(|_| error::INVALID_COPY_SOURCE)?;
        let of_host = Target::bucket_of(without_port(host), |name| self.store.has_bucket(name));
        let (bucket, key) = match of_host {
            _ if request.dialect == Dialect::S3 => (decode(host, false)?, path),
            Some(bucket) => (bucket.to_owned(), path),
            None => {
                let (bucket, key) = path.split_once('/').ok_or(error::INVALID_COPY_SOURCE)?;
                (bucket.to_owned(), key.to_owned())
            }
        };
        if key.is_empty() {
            return Err(error::INVALID_COPY_SOURCE);
        }
        check_key(&key)?;
        Ok((bucket, key))
    }
}

/// First byte and length of `bytes=first-last`, both within the source.
fn copy_range(text: &str, size: u64) -> Result<(u64, u64), ApiError> {
    let malformed = || ApiError::invalid_argument("the copy source range is not bytes=first-last");
    let (first, last) =
        text.strip_prefix("bytes=").and_then(|range| range.split_once('-')).ok_or_else(malformed)?;
    let first: u64 = first.parse().map_err(|_| malformed())?;
    let last: u64 = last.parse().map_err(|_| malformed())?;
    if last < first {
        return Err(malformed());
    }
    if last >= size {
        return Err(error::INVALID_RANGE);
    }
    Ok((first, last - first + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copy_ranges_lie_within_the_source() {
        assert_eq!(copy_range("bytes=0-9", 10), Ok((0, 10)));
        assert_eq!(copy_range("bytes=9-9", 10), Ok((9, 1)));
        assert_eq!(copy_range("bytes=0-10", 10), Err(error::INVALID_RANGE));
        for malformed in ["0-9", "bytes=9-0", "bytes=-5", "bytes=5-", "bytes=a-b"] {
            assert_eq!(copy_range(malformed, 10).unwrap_err().code, "InvalidArgument", "{malformed}");
        }
    }
}
