//! Multipart uploads: Initiate, Upload Part, Complete, Abort and their lists (*Multipart Upload*).

use md5::{Digest as _, Md5};

use super::{
    attributes,
    body::Body,
    bucket::{ACCOUNT, Listing, appid, is_url_encoded, page_length, write_groups},
    checksum::Combined,
    clock::list_date,
    content::{Content, Intake},
    dialect::Dialect,
    document::{Element, Xml},
    error::{self, ApiError, Failure, disk_failure},
    fault::FaultKind,
    list::group_of,
    object::{check_md5, content_md5, echo_checksums, overwrite},
    request::Request,
    response::Response,
    service::{Call, Service},
    signature::hex,
    store::{Object, Part, Upload},
};
use crate::cos::PARTS_MAX;

/// Longest document of Complete: 10,000 parts with room to spare.
const COMPLETE_BYTES_MAX: u64 = 4 << 20;

impl Service {
    pub(super) fn initiate_multipart_upload(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let attributes = attributes::read(call.request)?;
        let initiated = self.clock.now();
        let random: String = (0..4).map(|_| format!("{:016x}", fastrand::u64(..))).collect();
        let id = format!("{initiated}{random}");
        let upload = Upload { initiated, attributes, parts: std::collections::BTreeMap::new() };
        self.store.initiate(call.bucket(), call.key(), &id, upload, &overwrite(call.request))?;
        let mut xml = Xml::with_declaration(call.dialect());
        xml.open("InitiateMultipartUploadResult");
        xml.leaf("Bucket", call.bucket());
        xml.leaf("Key", call.key());
        xml.leaf("UploadId", &id);
        xml.close("InitiateMultipartUploadResult");
        Ok(Response::document(xml.finish()))
    }

    pub(super) async fn upload_part(
        &self,
        call: &Call<'_>,
        body: &mut Body<'_>,
    ) -> Result<Response, Failure> {
        let id = self.upload_id(call)?;
        let number = part_number(call.request)?;
        let expected = content_md5(call.request)?;
        self.store.with_upload(call.bucket(), call.key(), id, |_| Ok(()))?;
        let with_md5 = !self.fast_etag || expected.is_some();
        let intake = Intake::new(self.store.data(), with_md5).map_err(|error| disk_failure(&error))?;
        let received = body.receive(intake).await?;
        self.check_size(&received)?;
        check_md5(expected, &received)?;
        let (etag, crc64) = (received.etag(), received.crc64);
        let part = Part { content: received.content, etag: etag.clone(), crc64, modified: self.clock.now() };
        self.store.put_part(call.bucket(), call.key(), id, number, part)?;
        let mut response = Response::empty(200)
            .with("ETag", format!("\"{etag}\""))
            .with("x-cos-hash-crc64ecma", crc64.to_string());
        echo_checksums(&mut response, body.payload());
        Ok(response)
    }

    pub(super) async fn complete_multipart_upload(
        &self,
        call: &Call<'_>,
        body: &mut Body<'_>,
    ) -> Result<Response, Failure> {
        let id = self.upload_id(call)?;
        let expected = content_md5(call.request)?;
        let text = body.text(COMPLETE_BYTES_MAX).await?;
        if expected.is_some_and(|expected| expected != <[u8; 16]>::from(Md5::digest(&text))) {
            return Err(error::BAD_DIGEST.into());
        }
        let wanted = wanted_parts(&text)?;
        let (modified, smallest) = (self.clock.now(), self.limits.part_bytes_min);
        let (bucket, key) = (call.bucket(), call.key());
        let overwrite = overwrite(call.request);
        let object = self.store.complete(bucket, key, id, &overwrite, self.clock.now_ms(), |upload| {
            assemble(upload, id, &wanted, smallest, modified)
        })?;
        let mut xml = Xml::bare(call.dialect());
        let root = match call.dialect() {
            Dialect::Cos => {
                "CompleteMultipartUploadResult xmlns=\"http://www.qcloud.com/document/product/436/7751\""
            }
            Dialect::S3 => "CompleteMultipartUploadResult",
        };
        xml.open(root);
        xml.leaf("Location", &format!("http://{}", call.resource()));
        xml.leaf("Bucket", bucket);
        xml.leaf("Key", key);
        xml.leaf("ETag", &format!("\"{}\"", object.etag));
        xml.close(root);
        let document = xml.finish();
        Ok(Response::late(async move { Ok(document) }).with("x-cos-hash-crc64ecma", object.crc64.to_string()))
    }

    pub(super) fn abort_multipart_upload(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        self.store.abort(call.bucket(), call.key(), self.upload_id(call)?)?;
        Ok(Response::empty(204))
    }

    pub(super) fn list_parts(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let id = call.request.filled_parameter("uploadId").ok_or(error::LIST_PART_WITHOUT_ID)?;
        let length = usize::try_from(page_length(call, "max-parts")?).unwrap_or_default();
        let marker = match call.request.filled_parameter("part-number-marker") {
            None => 0,
            Some(digits) => digits
                .parse::<u16>()
                .map_err(|_| ApiError::invalid_argument("the part number marker is no number"))?,
        };
        let url_encoded = is_url_encoded(call)?;
        self.store.with_upload(call.bucket(), call.key(), id, |upload| {
            let mut xml = Xml::with_declaration(call.dialect()).url_encoded(url_encoded);
            xml.open("ListPartsResult");
            xml.leaf("Bucket", call.bucket());
            if url_encoded {
                xml.leaf("EncodingType", "url");
            }
            xml.key("Key", call.key());
            xml.leaf("UploadId", id);
            xml.account("Initiator", ACCOUNT);
            xml.account("Owner", appid(call.bucket()));
            xml.number("PartNumberMarker", u64::from(marker));
            let mut last = None;
            let behind = (std::ops::Bound::Excluded(marker), std::ops::Bound::Unbounded);
            for (number, part) in upload.parts.range(behind).take(length) {
                xml.open("Part");
                xml.number("PartNumber", u64::from(*number));
                xml.leaf("LastModified", &list_date(part.modified));
                xml.leaf("ETag", &format!("\"{}\"", part.etag));
                xml.number("Size", part.content.len());
                xml.close("Part");
                last = Some(*number);
            }
            let is_truncated = last.is_some_and(|last| upload.parts.keys().any(|number| *number > last));
            if let Some(last) = last.filter(|_| is_truncated) {
                xml.number("NextPartNumberMarker", u64::from(last));
            }
            xml.leaf("StorageClass", &upload.attributes.storage_class);
            xml.number("MaxParts", length as u64);
            xml.leaf("IsTruncated", if is_truncated { "true" } else { "false" });
            xml.close("ListPartsResult");
            Ok(Response::document(xml.finish()))
        })
    }

    pub(super) fn list_multipart_uploads(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let listing = Listing::of(call, "max-uploads")?;
        let key_marker = call.request.parameter("key-marker").unwrap_or_default();
        let id_marker = call.request.parameter("upload-id-marker").unwrap_or_default();
        let buckets = self.store.read();
        let uploads = &buckets.get(call.bucket()).ok_or(error::NO_SUCH_BUCKET)?.uploads;
        let is_behind = |key: &str, id: &str| {
            key > key_marker || (key == key_marker && !id_marker.is_empty() && id > id_marker)
        };
        let mut groups: Vec<String> = Vec::new();
        let mut entries: Vec<(&str, &str, &Upload)> = Vec::new();
        let (mut last, mut is_truncated) = (("", ""), false);
        for ((key, id), upload) in uploads {
            let key = std::str::from_utf8(key).map_err(|_| error::INTERNAL_ERROR)?;
            if !key.starts_with(listing.prefix) || !(key_marker.is_empty() || is_behind(key, id)) {
                continue;
            }
            let group = group_of(key.as_bytes(), listing.prefix.as_bytes(), listing.delimiter.as_bytes())
                .map(|group| &key[..group.len()]);
            if group
                .is_some_and(|group| groups.last().is_some_and(|known| known == group) || key_marker == group)
            {
                continue;
            }
            if (groups.len() + entries.len()) as u64 == listing.entries_max {
                is_truncated = listing.entries_max > 0;
                break;
            }
            match group {
                Some(group) => {
                    groups.push(group.to_owned());
                    last = (&key[..group.len()], "");
                }
                None => {
                    entries.push((key, id, upload));
                    last = (key, id);
                }
            }
        }
        let mut xml = Xml::with_declaration(call.dialect()).url_encoded(listing.url_encoded);
        xml.open("ListMultipartUploadsResult");
        xml.leaf("Bucket", call.bucket());
        if listing.url_encoded {
            xml.leaf("EncodingType", "url");
        }
        xml.key("KeyMarker", key_marker);
        xml.leaf("UploadIdMarker", id_marker);
        xml.number("MaxUploads", listing.entries_max);
        xml.key("Prefix", listing.prefix);
        xml.key("Delimiter", listing.delimiter);
        xml.leaf("IsTruncated", if is_truncated { "true" } else { "false" });
        if is_truncated {
            xml.key("NextKeyMarker", last.0);
            xml.leaf("NextUploadIdMarker", last.1);
        }
        for (key, id, upload) in entries {
            write_upload(&mut xml, call.bucket(), key, id, upload);
        }
        write_groups(&mut xml, &groups);
        xml.close("ListMultipartUploadsResult");
        Ok(Response::document(xml.finish()))
    }

    /// The upload that is meant; a `vanish-upload` fault takes it away first.
    fn upload_id<'a>(&self, call: &Call<'a>) -> Result<&'a str, ApiError> {
        let id = call.request.filled_parameter("uploadId").ok_or(error::NO_SUCH_UPLOAD)?;
        if call.trouble.of(FaultKind::VanishUpload).is_some() {
            self.store.abort(call.bucket(), call.key(), id)?;
        }
        Ok(id)
    }
}

fn write_upload(xml: &mut Xml, bucket: &str, key: &str, id: &str, upload: &Upload) {
    xml.open("Upload");
    xml.key("Key", key);
    xml.leaf("UploadId", id);
    xml.account("Initiator", ACCOUNT);
    xml.account("Owner", appid(bucket));
    xml.leaf("StorageClass", &upload.attributes.storage_class);
    xml.leaf("Initiated", &list_date(upload.initiated));
    xml.close("Upload");
}

/// The part number of a request.
///
/// # Errors
/// `InvalidArgument` outside 1 to 10,000.
pub(super) fn part_number(request: &Request) -> Result<u16, ApiError> {
    request
        .parameter("partNumber")
        .and_then(|digits| digits.parse().ok())
        .filter(|number| (1..=PARTS_MAX).contains(number))
        .ok_or_else(|| ApiError::invalid_argument("the part number is not 1 to 10000"))
}

/// Numbers and ETags (without quotes) that a Complete names.
fn wanted_parts(text: &[u8]) -> Result<Vec<(u64, String)>, ApiError> {
    let root = Element::parse(text)?;
    let part = |part: &Element| {
        let number = part.child_text("PartNumber").and_then(|digits| digits.trim().parse().ok());
        let etag = part.child_text("ETag").map(|etag| etag.trim().trim_matches('"').to_owned());
        number.zip(etag).ok_or(error::MALFORMED_XML)
    };
    let parts: Vec<(u64, String)> =
        root.children.iter().filter(|child| child.name == "Part").map(part).collect::<Result<_, _>>()?;
    if root.name != "CompleteMultipartUpload" || parts.is_empty() || parts.len() > usize::from(PARTS_MAX) {
        return Err(error::MALFORMED_XML);
    }
    Ok(parts)
}

/// The object that the wanted parts make.
///
/// # Errors
/// `InvalidPartOrder` unless ascending; `InvalidPart` for a gap, a number that was not uploaded, another
/// ETag; `EntityTooSmall` for a small part before the last.
fn assemble(
    upload: &Upload,
    id: &str,
    wanted: &[(u64, String)],
    part_bytes_min: u64,
    modified: i64,
) -> Result<Object, ApiError> {
    if wanted.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
        return Err(error::INVALID_PART_ORDER);
    }
    let mut content = Content::default();
    let mut crc = Combined::default();
    let mut digest = Md5::new();
    let mut has_small = false;
    digest.update(id);
    for (place, (number, etag)) in wanted.iter().enumerate() {
        // Consecutive from 1.
        let number = u16::try_from(*number).ok().filter(|number| usize::from(*number) == place + 1);
        let part = number.and_then(|number| upload.parts.get(&number)).ok_or(error::INVALID_PART)?;
        if part.etag != *etag {
            return Err(error::INVALID_PART);
        }
        // Told only if nothing worse is wrong with a later one.
        has_small |= place + 1 < wanted.len() && part.content.len() < part_bytes_min;
        content.extend(&part.content);
        crc.push(part.crc64, part.content.len());
        digest.update(etag);
    }
    if has_small {
        return Err(error::ENTITY_TOO_SMALL);
    }
    Ok(Object {
        content,
        // With the upload's ID in it, nobody can compute it.
        etag: format!("{}-{}", hex(&digest.finalize()), wanted.len()),
        crc64: crc.crc64(),
        modified,
        appendable: false,
        attributes: upload.attributes.clone(),
    })
}
