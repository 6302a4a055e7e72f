//! Object operations: HEAD, GET, PUT, DELETE, append, multiple delete, restore.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use crc_fast::{CrcAlgorithm, Digest as CrcDigest};
use md5::{Digest as _, Md5};

use super::{
    attributes,
    body::Body,
    checksum::Combined,
    clock::http_date,
    condition::{Verdict, judge, range},
    content::{Intake, Received},
    dialect::Dialect,
    document::{Element, Xml},
    error::{self, ApiError, Failure, disk_failure},
    fault::FaultKind,
    operation::check_key,
    payload::Payload,
    request::Request,
    response::{Response, ResponseBody},
    service::{Call, Service},
    signature::hex,
    store::{Object, Overwrite},
};

/// Most keys of one multiple delete (*DELETE Multiple Objects*).
const DELETES_MAX: usize = 1000;
/// Longest document of a multiple delete: 1,000 keys, each byte of them escaped.
const DELETE_BYTES_MAX: u64 = 8 << 20;

impl Service {
    pub(super) fn head_object(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let object = self.store.object(call.bucket(), call.key())?;
        match judge(call.request, "", &object) {
            Verdict::Go => {}
            Verdict::NotModified => {
                return Ok(Response::empty(304).with("Content-Type", "application/xml"));
            }
            Verdict::Failed => return Err(error::PRECONDITION_FAILED),
        }
        let mut response = describe(Response::empty(200), &object);
        if object.appendable {
            response = response.with("x-cos-next-append-position", object.content.len().to_string());
        }
        response.body = ResponseBody::Length(object.content.len());
        Ok(response)
    }

    pub(super) fn get_object(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        if call.trouble.of(FaultKind::ReplaceObject).is_some() {
            self.replace_by_another(call)?;
        }
        let object = self.store.object(call.bucket(), call.key())?;
        match judge(call.request, "", &object) {
            Verdict::Go => {}
            Verdict::NotModified => {
                return Ok(Response::empty(304)
                    .with("Content-Type", "application/xml")
                    .with("ETag", format!("\"{}\"", object.etag))
                    .with("x-cos-hash-crc64ecma", object.crc64.to_string()));
            }
            Verdict::Failed => return Err(error::PRECONDITION_FAILED),
        }
        refuse_archived(call, &object)?;
        let size = object.content.len();
        let range = range(call.request.header("range"), size)?;
        let mut response = describe(Response::empty(200), &object).with("Accept-Ranges", "bytes");
        attributes::override_headers(&mut response, call.request)?;
        if call.trouble.of(FaultKind::ForceDownload).is_some() {
            if call.key().ends_with(".apk") || call.key().ends_with(".ipa") {
                return Err(error::DOWNLOAD_FORBIDDEN);
            }
            response.headers.retain(|(name, _)| name != "Content-Disposition");
            response =
                response.with("x-cos-force-download", "true").with("Content-Disposition", "attachment");
        }
        response.body = match range {
            None => ResponseBody::Content(object.content.clone()),
            Some((first, length)) => {
                response.status = 206;
                let last = first + length - 1;
                response = response.with("Content-Range", format!("bytes {first}-{last}/{size}"));
                ResponseBody::Content(object.content.slice(first, length))
            }
        };
        Ok(response)
    }

    /// Does what another client would do between two ranges of a reader.
    fn replace_by_another(&self, call: &Call<'_>) -> Result<(), ApiError> {
        let mut object = (*self.store.object(call.bucket(), call.key())?).clone();
        let middle = object.content.len() / 2;
        let mut exchanged = object.content.slice(middle, u64::MAX);
        exchanged.extend(&object.content.slice(0, middle));
        let (mut crc, mut md5) = (CrcDigest::new(CrcAlgorithm::Crc64Xz), Md5::new());
        exchanged
            .read(|piece| {
                crc.update(piece);
                md5.update(piece);
            })
            .map_err(|error| disk_failure(&error))?;
        object.content = exchanged;
        object.crc64 = crc.finalize();
        object.etag = hex(&md5.finalize());
        object.modified = self.clock.now();
        self.store.put(call.bucket(), call.key(), object, &Overwrite::Allowed, self.clock.now_ms())?;
        Ok(())
    }

    pub(super) async fn put_object(&self, call: &Call<'_>, body: &mut Body<'_>) -> Result<Response, Failure> {
        let attributes = attributes::read(call.request)?;
        let expected = content_md5(call.request)?;
        let intake = Intake::new(self.store.data(), true).map_err(|error| disk_failure(&error))?;
        let received = body.receive(intake).await?;
        self.check_size(&received)?;
        check_md5(expected, &received)?;
        let object = Object {
            etag: received.etag(),
            crc64: received.crc64,
            content: received.content,
            modified: self.clock.now(),
            appendable: false,
            attributes,
        };
        let now_ms = self.clock.now_ms();
        let object = self.store.put(call.bucket(), call.key(), object, &overwrite(call.request), now_ms)?;
        let mut response = Response::empty(200)
            .with("ETag", format!("\"{}\"", object.etag))
            .with("x-cos-hash-crc64ecma", object.crc64.to_string());
        attributes::echo_class(&mut response, &object.attributes);
        echo_checksums(&mut response, body.payload());
        Ok(response)
    }

    pub(super) fn delete_object(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        self.store.delete(call.bucket(), call.key(), self.clock.now_ms())?;
        Ok(Response::empty(204))
    }

    pub(super) async fn append_object(
        &self,
        call: &Call<'_>,
        body: &mut Body<'_>,
    ) -> Result<Response, Failure> {
        let position: u64 = call
            .request
            .parameter("position")
            .and_then(|digits| digits.parse().ok())
            .ok_or_else(|| ApiError::invalid_argument("the position is missing or no number"))?;
        let attributes = attributes::read(call.request)?;
        let expected = content_md5(call.request)?;
        let intake = Intake::new(self.store.data(), !self.fast_etag || expected.is_some())
            .map_err(|error| disk_failure(&error))?;
        let received = body.receive(intake).await?;
        check_md5(expected, &received)?;
        let most = self.limits.put_bytes_max;
        let appended = received.etag();
        let modified = self.clock.now();
        let object = self.store.edit(call.bucket(), call.key(), self.clock.now_ms(), move |present| {
            let Some(present) = present else {
                if position != 0 {
                    return Err(error::APPEND_POSITION);
                }
                return Ok(Object {
                    content: received.content,
                    etag: appended,
                    crc64: received.crc64,
                    modified,
                    appendable: true,
                    attributes,
                });
            };
            if !present.appendable {
                return Err(error::NOT_APPENDABLE);
            }
            if position != present.content.len() {
                return Err(error::APPEND_POSITION);
            }
            let added = received.content.len();
            if position + added > most {
                return Err(error::ENTITY_TOO_LARGE);
            }
            let mut object = present.clone();
            object.content.extend(&received.content);
            let mut crc = Combined::from(present.crc64);
            crc.push(received.crc64, added);
            object.crc64 = crc.crc64();
            // Not the MD5 of the whole: nobody shall count on it.
            object.etag = hex(&Md5::digest(format!("{}{appended}", present.etag)));
            object.modified = modified;
            Ok(object)
        })?;
        Ok(Response::empty(200)
            .with("ETag", format!("\"{}\"", object.etag))
            .with("x-cos-hash-crc64ecma", object.crc64.to_string())
            .with("x-cos-next-append-position", object.content.len().to_string()))
    }

    pub(super) async fn delete_objects(
        &self,
        call: &Call<'_>,
        body: &mut Body<'_>,
    ) -> Result<Response, Failure> {
        let expected = content_md5(call.request)?;
        // S3 clients may send a checksum of another kind instead.
        if expected.is_none() && !body.payload().is_checked() {
            return Err(error::MISSING_MD5.into());
        }
        let text = body.text(DELETE_BYTES_MAX).await?;
        if expected.is_some_and(|expected| expected != <[u8; 16]>::from(Md5::digest(&text))) {
            return Err(error::BAD_DIGEST.into());
        }
        let root = Element::parse(&text)?;
        let keys: Vec<&str> = root
            .children
            .iter()
            .filter(|child| child.name == "Object")
            .map(|object| object.child_text("Key").ok_or(error::MALFORMED_XML))
            .collect::<Result<_, _>>()?;
        if root.name != "Delete" || keys.is_empty() || keys.len() > DELETES_MAX {
            return Err(error::MALFORMED_XML.into());
        }
        let is_quiet = root.child_text("Quiet").is_some_and(|text| text.trim() == "true");
        let mut xml = Xml::with_declaration(call.dialect());
        xml.open("DeleteResult");
        for key in keys {
            let outcome = match check_key(key) {
                // Told as deleted while nothing happens (FAQ of the vendor).
                Ok(()) if key.starts_with('/') => Ok(()),
                Ok(()) => self.store.delete(call.bucket(), key, self.clock.now_ms()),
                Err(error) => Err(error),
            };
            match outcome {
                Ok(()) if is_quiet => {}
                Ok(()) => {
                    xml.open("Deleted");
                    xml.leaf("Key", key);
                    xml.close("Deleted");
                }
                Err(error) => {
                    xml.open("Error");
                    xml.leaf("Key", key);
                    xml.leaf("Code", &error.code);
                    xml.leaf("Message", &error.message);
                    xml.close("Error");
                }
            }
        }
        xml.close("DeleteResult");
        Ok(Response::document(xml.finish()))
    }

    /// A restore is done as soon as it is asked for.
    pub(super) fn restore_object(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let mut was_restored = false;
        self.store.edit(call.bucket(), call.key(), self.clock.now_ms(), |present| {
            let mut object = present.ok_or(error::NO_SUCH_KEY)?.clone();
            if !attributes::is_archive(&object.attributes.storage_class) {
                return Err(ApiError::new(405, "RestoreNonArchiveObject", "The object is not archived."));
            }
            was_restored = object.attributes.restored;
            object.attributes.restored = true;
            Ok(object)
        })?;
        Ok(Response::empty(if was_restored { 200 } else { 202 }))
    }

    pub(super) fn check_size(&self, received: &Received) -> Result<(), ApiError> {
        if received.content.len() > self.limits.put_bytes_max {
            return Err(error::ENTITY_TOO_LARGE);
        }
        Ok(())
    }
}

/// Puts what HEAD and GET tell about an object into the head.
fn describe(mut response: Response, object: &Object) -> Response {
    attributes::write(&mut response, &object.attributes);
    if object.appendable {
        response = response.with("x-cos-object-type", "appendable");
    }
    response
        .with("ETag", format!("\"{}\"", object.etag))
        .with("Last-Modified", http_date(object.modified))
        .with("x-cos-hash-crc64ecma", object.crc64.to_string())
}

/// Archived objects are read only after a restore.
pub(super) fn refuse_archived(call: &Call<'_>, object: &Object) -> Result<(), ApiError> {
    let is_away = attributes::is_archive(&object.attributes.storage_class) && !object.attributes.restored;
    if is_away || call.trouble.of(FaultKind::Archived).is_some() {
        return Err(error::ARCHIVED);
    }
    Ok(())
}

/// Whether the write may replace what is there.
pub(super) fn overwrite(request: &Request) -> Overwrite {
    if request.dialect == Dialect::S3 {
        if request.header("if-none-match") == Some("*") {
            return Overwrite::IfAbsent;
        }
        if let Some(etag) = request.header("if-match") {
            return Overwrite::IfMatch(etag.trim_matches('"').to_owned());
        }
    }
    match request.header("x-cos-forbid-overwrite") {
        Some(value) if value.eq_ignore_ascii_case("true") => Overwrite::Forbidden,
        _ => Overwrite::Allowed,
    }
}

/// Tells an S3 client which of its checksums were compared.
pub(super) fn echo_checksums(response: &mut Response, payload: &Payload) {
    response.headers.extend(payload.checked().map(|(name, value)| (name.into(), value)));
}

/// The MD5 that the client announces.
///
/// # Errors
/// `InvalidDigest` where it is not base64 of 16 bytes.
pub(super) fn content_md5(request: &Request) -> Result<Option<[u8; 16]>, ApiError> {
    let Some(text) = request.header("content-md5") else {
        return Ok(None);
    };
    let bytes = BASE64.decode(text).map_err(|_| error::INVALID_DIGEST)?;
    bytes.try_into().map(Some).map_err(|_| error::INVALID_DIGEST)
}

pub(super) fn check_md5(expected: Option<[u8; 16]>, received: &Received) -> Result<(), ApiError> {
    if expected.is_some() && expected != received.md5 {
        return Err(error::BAD_DIGEST);
    }
    Ok(())
}
