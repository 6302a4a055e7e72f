//! What an object carries beside its bytes, from headers and back: content headers, user metadata, storage
//! class, ACL, tags (*PUT Object*, *PUT Object tagging*).

use std::borrow::Cow;

use super::{
    body::Body,
    dialect::Dialect,
    document::{Element, Xml},
    error::{self, ApiError, Failure},
    request::{Request, decode},
    response::Response,
    service::{Call, Service},
    store::Attributes,
};

/// Longest value of one `x-cos-meta-` header, and of all together with their names, in bytes.
const METADATA_BYTES_MAX: usize = 2048;
const METADATA_BYTES_TOTAL_MAX: usize = 4096;
/// Most tags of one object.
const TAGS_MAX: usize = 10;
const TAG_KEY_MAX: usize = 127;
const TAG_VALUE_MAX: usize = 255;
/// Headers that are stored and answered as they came, in the case of COS.
const STORED: &[&str] = &[
    "Content-Type",
    "Cache-Control",
    "Content-Disposition",
    "Content-Encoding",
    "Content-Language",
    "Expires",
    "x-cos-server-side-encryption",
];
const CLASSES: &[&str] =
    &["STANDARD", "STANDARD_IA", "INTELLIGENT_TIERING", "ARCHIVE", "DEEP_ARCHIVE", "COLD"];

/// Reads what a PUT, a replacing copy or an Initiate sets.
///
/// # Errors
/// `InvalidArgument` for metadata that COS does not take; `NotSupportedStorageClass`, `InvalidTag`.
pub(super) fn read(request: &Request) -> Result<Attributes, ApiError> {
    let mut attributes = Attributes {
        storage_class: storage_class(request)?,
        public_read: is_public_read(request)?,
        ..Attributes::default()
    };
    for name in STORED {
        let Some(value) = request.header(&name.to_ascii_lowercase()) else {
            continue;
        };
        // How the body came is no property of the object.
        if value.contains("aws-chunked") {
            let codings = value.split(',').map(str::trim).filter(|coding| *coding != "aws-chunked");
            let codings = codings.collect::<Vec<_>>().join(",");
            if !codings.is_empty() {
                attributes.headers.push(((*name).to_owned(), codings));
            }
            continue;
        }
        attributes.headers.push(((*name).to_owned(), value.to_owned()));
    }
    let mut total = 0;
    for (name, value) in request.headers() {
        let Some(name) = request.dialect.metadata_name(name) else {
            continue;
        };
        let suffix = &name["x-cos-meta-".len()..];
        let is_visible = value.iter().all(|byte| (0x20..0x7f).contains(byte));
        let is_name = suffix.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if !is_visible || !is_name || suffix.is_empty() {
            return Err(ApiError::invalid_argument(format!(
                "{name}: letters, digits and dashes in the name, visible ASCII in the value"
            )));
        }
        total += name.len() + value.len();
        if value.len() > METADATA_BYTES_MAX || total > METADATA_BYTES_TOTAL_MAX {
            return Err(ApiError::new(
                400,
                "MetadataTooLarge",
                "Your metadata headers exceed the maximum allowed metadata size.",
            ));
        }
        attributes.metadata.insert(name, String::from_utf8_lossy(value).into_owned());
    }
    if let Some(tags) = request.header("x-cos-tagging") {
        attributes.tags = tags_of_header(tags)?;
    }
    Ok(attributes)
}

/// The class a request wants; `STANDARD` where it says nothing.
///
/// # Errors
/// `NotSupportedStorageClass`
pub(super) fn storage_class(request: &Request) -> Result<String, ApiError> {
    let class = request.header("x-cos-storage-class").filter(|class| !class.is_empty());
    let class = class.unwrap_or("STANDARD");
    if CLASSES.contains(&class) {
        return Ok(class.to_owned());
    }
    Err(ApiError::new(400, "NotSupportedStorageClass", "The storage class is not supported."))
}

/// # Errors
/// `InvalidArgument` for an ACL that COS does not know.
pub(super) fn is_public_read(request: &Request) -> Result<bool, ApiError> {
    match request.header("x-cos-acl") {
        None | Some("" | "default" | "private") => Ok(false),
        // Canned ACLs of S3 that change nothing where everything belongs to one account.
        Some("bucket-owner-read" | "bucket-owner-full-control") if request.dialect == Dialect::S3 => {
            Ok(false)
        }
        Some("public-read") => Ok(true),
        Some(_) => Err(ApiError::invalid_argument("the ACL is not default, private or public-read")),
    }
}

/// Whether objects of the class must be restored before they can be read.
pub(super) fn is_archive(class: &str) -> bool {
    matches!(class, "ARCHIVE" | "DEEP_ARCHIVE")
}

/// Puts them into the head of an answer.
pub(super) fn write(response: &mut Response, attributes: &Attributes) {
    let mut put = |name: &str, value: &str| {
        response.headers.push((Cow::Owned(name.to_owned()), value.to_owned()));
    };
    if !attributes.headers.iter().any(|(name, _)| name == "Content-Type") {
        put("Content-Type", "application/octet-stream");
    }
    for (name, value) in &attributes.headers {
        put(name, value);
    }
    for (name, value) in &attributes.metadata {
        put(name, value);
    }
    if !attributes.tags.is_empty() {
        put("x-cos-tagging-count", &attributes.tags.len().to_string());
    }
    if is_archive(&attributes.storage_class) && attributes.restored {
        put("x-cos-restore", "ongoing-request=\"false\", expiry-date=\"Fri, 01 Jan 2100 00:00:00 GMT\"");
    }
    echo_class(response, attributes);
}

/// The class, unless it is STANDARD.
pub(super) fn echo_class(response: &mut Response, attributes: &Attributes) {
    if attributes.storage_class != "STANDARD" {
        let class = attributes.storage_class.clone();
        response.headers.push((Cow::Borrowed("x-cos-storage-class"), class));
    }
}

/// `response-…` parameters replace headers of this one answer.
///
/// # Errors
/// `InvalidRequest` without a signature.
pub(super) fn override_headers(response: &mut Response, request: &Request) -> Result<(), ApiError> {
    for name in STORED.iter().filter(|name| !name.starts_with("x-cos-")) {
        let Some(value) = request.filled_parameter(&format!("response-{}", name.to_ascii_lowercase())) else {
            continue;
        };
        if request.header("authorization").is_none_or(str::is_empty)
            && !["q-signature", "X-Amz-Signature"].iter().any(|name| request.parameter(name).is_some())
        {
            return Err(ApiError::invalid_request("response headers cannot be set without a signature"));
        }
        if value.bytes().any(|byte| byte.is_ascii_control()) {
            return Err(ApiError::invalid_argument("control characters in a response header"));
        }
        response.headers.retain(|(known, _)| known != name);
        response.headers.push((Cow::Borrowed(name), value.to_owned()));
    }
    Ok(())
}

fn tags_of_header(text: &str) -> Result<Vec<(String, String)>, ApiError> {
    let tags = text
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key, true)?, decode(value, true)?))
        })
        .collect::<Result<Vec<_>, ApiError>>()?;
    check_tags(tags)
}

fn check_tags(tags: Vec<(String, String)>) -> Result<Vec<(String, String)>, ApiError> {
    let fits = |(key, value): &(String, String)| {
        (1..=TAG_KEY_MAX).contains(&key.chars().count()) && value.chars().count() <= TAG_VALUE_MAX
    };
    let is_twice =
        tags.iter().enumerate().any(|(at, (key, _))| tags[..at].iter().any(|(other, _)| other == key));
    if tags.len() > TAGS_MAX || !tags.iter().all(fits) || is_twice {
        return Err(error::INVALID_TAG);
    }
    Ok(tags)
}

impl Service {
    pub(super) fn get_object_tagging(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        let object = self.store.object(call.bucket(), call.key())?;
        if object.attributes.tags.is_empty() && call.dialect() == Dialect::Cos {
            return Err(error::NO_SUCH_TAG_SET);
        }
        let mut xml = Xml::with_declaration(call.dialect());
        xml.open("Tagging");
        xml.open("TagSet");
        for (key, value) in &object.attributes.tags {
            xml.open("Tag");
            xml.leaf("Key", key);
            xml.leaf("Value", value);
            xml.close("Tag");
        }
        xml.close("TagSet");
        xml.close("Tagging");
        Ok(Response::document(xml.finish()))
    }

    pub(super) async fn put_object_tagging(
        &self,
        call: &Call<'_>,
        body: &mut Body<'_>,
    ) -> Result<Response, Failure> {
        let root = Element::parse(&body.text(64 * 1024).await?)?;
        let set = root.children.iter().find(|child| child.name == "TagSet").ok_or(error::MALFORMED_XML)?;
        let tag = |tag: &Element| {
            let key = tag.child_text("Key").ok_or(error::MALFORMED_XML)?;
            Ok((key.to_owned(), tag.child_text("Value").unwrap_or_default().to_owned()))
        };
        let tags = check_tags(set.children.iter().map(tag).collect::<Result<_, ApiError>>()?)?;
        self.set_tags(call, tags)?;
        Ok(Response::empty(200))
    }

    pub(super) fn delete_object_tagging(&self, call: &Call<'_>) -> Result<Response, ApiError> {
        self.set_tags(call, Vec::new())?;
        Ok(Response::empty(204))
    }

    fn set_tags(&self, call: &Call<'_>, tags: Vec<(String, String)>) -> Result<(), ApiError> {
        self.store.edit(call.bucket(), call.key(), self.clock.now_ms(), |present| {
            let mut object = present.ok_or(error::NO_SUCH_KEY)?.clone();
            object.attributes.tags = tags;
            Ok(object)
        })?;
        Ok(())
    }
}
