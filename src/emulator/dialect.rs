//! The two ways to speak to the store: COS's own, and that of S3 clients, which COS takes too
//! (*Using AWS S3 SDKs to Access COS*).
//!
//! Everything behind the head is shared. The operations know the names of COS alone: [`Request::header`]
//! finds `x-amz-…` where they ask for `x-cos-…`, and answers are renamed as they leave. What else differs is
//! asked for by name: the signature, the root's name space, and a handful of values and rules.

use std::borrow::Cow;

use super::request::Request;

const COS: &str = "x-cos-";
const S3: &str = "x-amz-";
/// What S3 has no name for, and COS tells S3 clients under its own.
const COS_ONLY: &[&str] = &["x-cos-hash-crc64ecma"];

/// How a request is worded, and so its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Dialect {
    #[default]
    Cos,
    S3,
}

impl Dialect {
    /// S3 where the signature is one of S3 or, without any, where a header is.
    pub(super) fn of(request: &Request) -> Self {
        let authorization = request.header("authorization").unwrap_or_default();
        if authorization.starts_with("AWS") {
            return Self::S3;
        }
        if !authorization.is_empty() || request.parameter("q-sign-algorithm").is_some() {
            return Self::Cos;
        }
        let is_presigned =
            ["X-Amz-Algorithm", "AWSAccessKeyId"].iter().any(|name| request.parameter(name).is_some());
        let has_header = request.headers().any(|(name, _)| name.starts_with(S3));
        if is_presigned || has_header { Self::S3 } else { Self::Cos }
    }

    /// Whether a client's header `sent` is the one that COS calls `name`; both in lower case.
    pub(super) fn is_header(self, sent: &str, name: &str) -> bool {
        match (self, name.strip_prefix(COS)) {
            (Self::S3, Some(rest)) => sent.strip_prefix(S3) == Some(rest),
            _ => sent == name,
        }
    }

    /// The name of an answer's header that COS calls `name`.
    pub(super) fn header_name(self, name: &str) -> Cow<'_, str> {
        match (self, name.strip_prefix(COS)) {
            (Self::S3, Some(rest)) if !COS_ONLY.contains(&name) => Cow::Owned(format!("{S3}{rest}")),
            _ => Cow::Borrowed(name),
        }
    }

    /// The name COS gives to the client's metadata header `sent`, if it is one.
    pub(super) fn metadata_name(self, sent: &str) -> Option<String> {
        let own = match self {
            Self::Cos => COS,
            Self::S3 => S3,
        };
        let rest = sent.strip_prefix(own).filter(|rest| rest.starts_with("meta-"))?;
        Some(format!("{COS}{rest}"))
    }

    /// What stands in the root element of an answer's document.
    pub(super) fn name_space(self) -> &'static str {
        match self {
            Self::Cos => "",
            Self::S3 => " xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\"",
        }
    }

    /// Whether a directive of a copy says that the request's own values count, not those of the source.
    /// `None` = it says neither.
    pub(super) fn is_replacing(self, directive: Option<&str>) -> Option<bool> {
        match (self, directive.unwrap_or_default()) {
            (_, "") | (Self::Cos, "Copy") | (Self::S3, "COPY") => Some(false),
            (Self::Cos, "Replaced") | (Self::S3, "REPLACE") => Some(true),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dialect(line: &str, header: &str) -> Dialect {
        let text = format!("{line} HTTP/1.1\r\nHost: h\r\n{header}\r\n\r\n");
        Request::parse(text.as_bytes()).unwrap().unwrap().0.dialect
    }

    #[test]
    fn signature_tells_the_dialect_and_else_a_header() {
        assert_eq!(dialect("GET /k", "A: b"), Dialect::Cos);
        assert_eq!(dialect("GET /k", "x-amz-acl: private"), Dialect::S3);
        assert_eq!(dialect("GET /k", "Authorization: AWS4-HMAC-SHA256 Credential=x"), Dialect::S3);
        assert_eq!(
            dialect("GET /k", "Authorization: q-sign-algorithm=sha1\r\nx-amz-acl: private"),
            Dialect::Cos
        );
        assert_eq!(dialect("GET /k?X-Amz-Algorithm=AWS4-HMAC-SHA256", "A: b"), Dialect::S3);
        assert_eq!(dialect("GET /k?q-sign-algorithm=sha1", "x-amz-acl: private"), Dialect::Cos);
    }

    #[test]
    fn names_are_those_of_the_dialect() {
        assert!(Dialect::S3.is_header("x-amz-acl", "x-cos-acl"));
        assert!(!Dialect::S3.is_header("x-cos-acl", "x-cos-acl"));
        assert!(!Dialect::Cos.is_header("x-amz-acl", "x-cos-acl"));
        assert!(Dialect::S3.is_header("range", "range"));
        assert_eq!(Dialect::S3.header_name("x-cos-meta-a"), "x-amz-meta-a");
        assert_eq!(Dialect::S3.header_name("x-cos-hash-crc64ecma"), "x-cos-hash-crc64ecma");
        assert_eq!(Dialect::S3.header_name("ETag"), "ETag");
        assert_eq!(Dialect::Cos.header_name("x-cos-meta-a"), "x-cos-meta-a");
        assert_eq!(Dialect::S3.metadata_name("x-amz-meta-a").unwrap(), "x-cos-meta-a");
        assert_eq!(Dialect::S3.metadata_name("x-cos-meta-a"), None);
    }
}
