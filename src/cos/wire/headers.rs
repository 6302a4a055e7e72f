//! What stands in headers.

use std::time::SystemTime;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode, utf8_percent_encode};
use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, LAST_MODIFIED,
};

use super::{Read, Unreadable, parse_time};
use crate::cos::{Crc64, ETag, ObjectMeta, UserMetadata};

/// Names of headers that COS gave a meaning (*Common Request Headers*, *Common Response Headers*).
#[derive(Debug)]
pub(in crate::cos) struct Names;

impl Names {
    pub(in crate::cos) const CRC64: HeaderName = HeaderName::from_static("x-cos-hash-crc64ecma");
    pub(in crate::cos) const REQUEST_ID: HeaderName = HeaderName::from_static("x-cos-request-id");
    pub(in crate::cos) const COPY_SOURCE: &'static str = "x-cos-copy-source";
    pub(in crate::cos) const COPY_SOURCE_IF_MATCH: &'static str = "x-cos-copy-source-if-match";
    pub(in crate::cos) const COPY_SOURCE_RANGE: &'static str = "x-cos-copy-source-range";
    pub(in crate::cos) const FORBID_OVERWRITE: &'static str = "x-cos-forbid-overwrite";
    pub(in crate::cos) const METADATA: &'static str = "x-cos-meta-";
    pub(in crate::cos) const METADATA_DIRECTIVE: &'static str = "x-cos-metadata-directive";
    pub(in crate::cos) const SECURITY_TOKEN: &'static str = "x-cos-security-token";
    pub(in crate::cos) const SERVER_SIDE_ENCRYPTION: &'static str = "x-cos-server-side-encryption";
    pub(in crate::cos) const STORAGE_CLASS: &'static str = "x-cos-storage-class";
}

/// What HEAD and GET tell of an object of `size` bytes (which a range's Content-Length does not tell).
pub(in crate::cos) fn meta_of(headers: &HeaderMap, size: Option<u64>) -> Read<ObjectMeta> {
    let content_length = || {
        let text =
            text_of(headers, &CONTENT_LENGTH).ok_or_else(|| Unreadable("no Content-Length".to_owned()))?;
        text.parse().map_err(|_| Unreadable(format!("no Content-Length: {text:?}")))
    };
    let modified =
        text_of(headers, &LAST_MODIFIED).ok_or_else(|| Unreadable("no Last-Modified".to_owned()))?;
    let mut metadata = UserMetadata::new();
    for (name, value) in headers {
        if let Some(suffix) = name.as_str().strip_prefix(Names::METADATA) {
            metadata.insert(suffix.to_owned(), decoded(value.as_bytes()));
        }
    }
    let (size, crc64) = (size.map_or_else(content_length, Ok)?, crc64_of(headers)?);
    // An answer that lost its length on the way would make an object look empty, and an append replace it.
    if size == 0 && crc64.is_some_and(|crc64| crc64 != Crc64::EMPTY) {
        return Err(Unreadable("no bytes, but the checksum of some".to_owned()));
    }
    Ok(ObjectMeta {
        size,
        etag_is_md5: etag_is_md5(headers),
        etag: etag_of(headers)?,
        last_modified: parse_time(&modified)?,
        crc64,
        content_type: text_of(headers, &CONTENT_TYPE),
        metadata,
    })
}

fn etag_is_md5(headers: &HeaderMap) -> bool {
    let told = |name: &'static str| text_of(headers, &HeaderName::from_static(name));
    let sse = told("x-cos-server-side-encryption");
    let etag = text_of(headers, &ETAG).unwrap_or_default();
    let digits = etag.trim_matches('"');
    digits.len() == 32
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        && sse.is_none_or(|sse| sse == "AES256")
        && told("x-cos-server-side-encryption-customer-algorithm").is_none()
        && told("x-cos-object-type").is_none_or(|kind| kind == "normal")
}

/// The ETag, which every answer about an object has.
pub(in crate::cos) fn etag_of(headers: &HeaderMap) -> Read<ETag> {
    let text = text_of(headers, &ETAG).filter(|text| !text.trim_matches('"').is_empty());
    text.map(|text| ETag::new(&text)).ok_or_else(|| Unreadable("no ETag".to_owned()))
}

/// The checksum, which objects older than the feature do not have (*CRC64 Check*).
pub(in crate::cos) fn crc64_of(headers: &HeaderMap) -> Read<Option<Crc64>> {
    text_of(headers, &Names::CRC64).map(|text| parse_crc64(&text)).transpose()
}

/// An unsigned decimal.
pub(super) fn parse_crc64(text: &str) -> Read<Crc64> {
    text.trim().parse().map(Crc64).map_err(|_| Unreadable(format!("no CRC-64: {text:?}")))
}

/// The time in the header `name`, where there is one that can be read.
pub(in crate::cos) fn time_of(headers: &HeaderMap, name: &HeaderName) -> Option<SystemTime> {
    text_of(headers, name).and_then(|text| parse_time(&text).ok())
}

/// The value of a header as text.
pub(in crate::cos) fn text_of(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).trim().to_owned())
}

/// First byte, byte behind the last one, and size of the whole object, of `bytes first-last/size`.
pub(in crate::cos) fn content_range(headers: &HeaderMap) -> Read<(u64, u64, u64)> {
    let text = text_of(headers, &CONTENT_RANGE).unwrap_or_default();
    let parse = || {
        let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let (first, last): (u64, u64) = (first.parse().ok()?, last.parse().ok()?);
        let size: u64 = size.parse().ok()?;
        (first <= last && last < size).then_some((first, last + 1, size))
    };
    parse().ok_or_else(|| Unreadable(format!("no Content-Range: {text:?}")))
}

/// User metadata as headers: values in visible ASCII, everything else and `%` percent-encoded.
///
/// # Errors
/// A name that COS would fold to another one, or refuse: it takes letters (which it makes lower-case),
/// digits and dashes (*PUT Object*).
pub(in crate::cos) fn encoded_metadata(metadata: &UserMetadata) -> Result<Vec<(String, String)>, String> {
    let header = |(name, value): (&String, &String)| {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || !name.bytes().all(fits) {
            return Err(format!(
                "user metadata cannot be named {name:?}: lower-case letters, digits and dashes only"
            ));
        }
        let value = utf8_percent_encode(value, NOT_IN_VALUES).to_string();
        Ok((format!("{}{name}", Names::METADATA), value))
    };
    metadata.iter().map(header).collect()
}

/// A value that somebody else wrote may hold a `%` that begins nothing: it stays.
fn decoded(value: &[u8]) -> String {
    match percent_decode(value).decode_utf8() {
        Ok(text) => text.into_owned(),
        Err(_) => String::from_utf8_lossy(value).into_owned(),
    }
}

/// A blank inside a value would survive; one at its ends is trimmed on the way.
const NOT_IN_VALUES: &AsciiSet = &CONTROLS.add(b' ').add(b'%');

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn metadata_travels_as_ascii() {
        let metadata: UserMetadata = [("a-1", " 100 % \t报告\u{1F600}\r\n"), ("b", "plain"), ("c", "")]
            .map(|(n, v)| (n.into(), v.into()))
            .into();
        let encoded = encoded_metadata(&metadata).unwrap();
        assert_eq!(encoded[1], ("x-cos-meta-b".to_owned(), "plain".to_owned()));
        assert!(encoded.iter().all(|(_, value)| value.bytes().all(|byte| byte.is_ascii_graphic())));
        let back = encoded.iter().map(|(name, value)| {
            (name.strip_prefix("x-cos-meta-").unwrap().to_owned(), decoded(value.as_bytes()))
        });
        assert_eq!(back.collect::<UserMetadata>(), metadata);
        for name in ["", "under_score", "Upper", "ü", "dot.ted"] {
            encoded_metadata(&[(name.to_owned(), String::new())].into()).unwrap_err();
        }
    }

    #[test]
    fn foreign_metadata_is_taken_as_it_is() {
        assert_eq!(decoded(b"50%"), "50%");
        assert_eq!(decoded(b"%FF"), "%FF");
        assert_eq!(decoded("直接".as_bytes()), "直接");
    }

    #[test]
    fn an_object_is_read_from_its_headers() {
        let told = headers(&[
            ("content-length", "16"),
            ("content-type", "text/plain"),
            ("etag", "\"ee8de918d05640145b18f70f4c3aa602\""),
            ("last-modified", "Fri, 10 Apr 2020 09:35:05 GMT"),
            ("x-cos-hash-crc64ecma", "16749565679157681890"),
            ("x-cos-meta-mode", "644"),
        ]);
        let meta = meta_of(&told, None).unwrap();
        assert_eq!(
            meta,
            ObjectMeta {
                size: 16,
                etag: ETag::new("ee8de918d05640145b18f70f4c3aa602"),
                etag_is_md5: true,
                last_modified: UNIX_EPOCH + Duration::from_secs(1_586_511_305),
                crc64: Some(Crc64(16_749_565_679_157_681_890)),
                content_type: Some("text/plain".to_owned()),
                metadata: [("mode".to_owned(), "644".to_owned())].into(),
            }
        );
        assert_eq!(meta_of(&told, Some(99)).unwrap().size, 99);
        for name in ["content-length", "etag", "last-modified"] {
            let mut lacking = told.clone();
            lacking.remove(name);
            meta_of(&lacking, None).unwrap_err();
        }
        for (name, value) in [
            ("x-cos-server-side-encryption", "cos/kms"),
            ("x-cos-server-side-encryption-customer-algorithm", "AES256"),
            ("x-cos-object-type", "appendable"),
            ("etag", "\"42318fc0ec58952b0d9ab4d7a006f595-1\""),
        ] {
            let mut other = told.clone();
            other.insert(HeaderName::from_static(name), value.parse().unwrap());
            assert!(!meta_of(&other, None).unwrap().etag_is_md5, "{name}");
        }
        let mut emptied = told.clone();
        emptied.insert("content-length", "0".parse().unwrap());
        meta_of(&emptied, None).unwrap_err();
        emptied.insert("x-cos-hash-crc64ecma", "0".parse().unwrap());
        assert_eq!(meta_of(&emptied, None).unwrap().size, 0);
        let mut old = told;
        old.remove("x-cos-hash-crc64ecma");
        assert_eq!(meta_of(&old, None).unwrap().crc64, None);
    }

    #[test]
    fn ranges_must_make_sense() {
        let range = |text| content_range(&headers(&[("content-range", text)]));
        assert_eq!(range("bytes 2-5/10"), Ok((2, 6, 10)));
        for text in ["bytes 5-2/10", "bytes 2-10/10", "bytes */10", "2-5/10", "bytes 2-5/*", ""] {
            range(text).unwrap_err();
        }
    }
}
