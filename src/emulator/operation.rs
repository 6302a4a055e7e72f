//! Which bucket, which key, and which of COS's operations a request means.

use super::{
    error::{self, ApiError},
    request::Request,
};

/// What a request is addressed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    Service,
    Bucket(String),
    Object { bucket: String, key: String },
}

/// How the host named the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Virtual,
    Path,
}

impl Target {
    /// Reads host and path. `is_bucket` says whether a bucket of that name exists.
    ///
    /// A host's first label is the bucket where it looks like one (`name-appid`) or is one; `service.…`,
    /// `cos.…`, addresses and single labels stand for the service, and the path begins with the bucket.
    ///
    /// # Errors
    /// `KeyTooLong`, and `InvalidURI` for the control characters COS does not take (*Object Overview*).
    pub(super) fn of(request: &Request, is_bucket: impl Fn(&str) -> bool) -> Result<(Self, Style), ApiError> {
        let host = without_port(&request.host);
        let path = request.path.strip_prefix('/').unwrap_or(&request.path);
        let (bucket, key, style) = match bucket_of_host(host, is_bucket) {
            Some(bucket) => (bucket, path, Style::Virtual),
            None => {
                let (bucket, key) = path.split_once('/').unwrap_or((path, ""));
                (bucket, key, Style::Path)
            }
        };
        if bucket.is_empty() {
            return Ok((Self::Service, style));
        }
        if key.is_empty() {
            return Ok((Self::Bucket(bucket.to_owned()), style));
        }
        check_key(key)?;
        Ok((Self::Object { bucket: bucket.to_owned(), key: key.to_owned() }, style))
    }

    /// The bucket that a host without its port names; `None` where the path does.
    pub(super) fn bucket_of(host: &str, is_bucket: impl Fn(&str) -> bool) -> Option<&str> {
        bucket_of_host(host, is_bucket)
    }

    /// The bucket, unless the service itself is meant.
    pub(super) fn bucket(&self) -> Option<&str> {
        match self {
            Self::Service => None,
            Self::Bucket(bucket) | Self::Object { bucket, .. } => Some(bucket),
        }
    }

    /// The key, if an object is meant.
    pub(super) fn key(&self) -> Option<&str> {
        match self {
            Self::Service | Self::Bucket(_) => None,
            Self::Object { key, .. } => Some(key),
        }
    }
}

/// Whether COS takes such a key (*Object Overview*, *Specifications and Limits*).
pub(super) fn check_key(key: &str) -> Result<(), ApiError> {
    if key.len() > crate::cos::KEY_BYTES_MAX {
        return Err(error::KEY_TOO_LONG);
    }
    if key.bytes().any(|byte| (0x18..=0x1b).contains(&byte)) {
        return Err(error::INVALID_URI);
    }
    Ok(())
}

/// The host without its port; an IPv6 address keeps its brackets.
pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

fn bucket_of_host(host: &str, is_bucket: impl Fn(&str) -> bool) -> Option<&str> {
    let (label, rest) = host.split_once('.')?;
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    let is_service = label == "service" || label == "cos" || label == "cos-internal";
    if is_address || is_service || host.starts_with('[') {
        return None;
    }
    let looks_like_one = label.rsplit_once('-').is_some_and(|(name, appid)| {
        !name.is_empty() && appid.len() >= 5 && appid.bytes().all(|byte| byte.is_ascii_digit())
    });
    let names_cos = rest.starts_with("cos.") || rest.starts_with("cos-internal.");
    (looks_like_one || names_cos || is_bucket(label)).then_some(label)
}

macro_rules! operations {
    ($($name:ident),* $(,)?) => {
        /// COS's operations, by their own names.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub(super) enum Operation { $($name),* }

        impl Operation {
            pub(super) const ALL: &'static [Self] = &[$(Self::$name),*];

            pub(super) fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
        }
    };
}

// A macro, so that a name and its variant cannot differ: admin scripts match by name.
operations![
    GetService,
    HeadBucket,
    PutBucket,
    DeleteBucket,
    GetBucketLocation,
    GetBucketVersioning,
    ListObjects,
    ListObjectVersions,
    HeadObject,
    GetObject,
    PutObject,
    CopyObject,
    DeleteObject,
    DeleteObjects,
    AppendObject,
    RestoreObject,
    InitiateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    ListParts,
    ListMultipartUploads,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    GetObjectTagging,
    PutObjectTagging,
    DeleteObjectTagging,
    Unsupported,
];

/// Sub-resources of COS that the emulator does not play: a request with one must not be taken for the
/// plain operation (a GET of `?acl` for a download).
const FOREIGN: &[&str] = &[
    "acl",
    "policy",
    "cors",
    "lifecycle",
    "website",
    "logging",
    "inventory",
    "replication",
    "encryption",
    "referer",
    "domain",
    "origin",
    "accelerate",
    "notification",
    "intelligenttiering",
    "retention",
    "legal-hold",
    "object-lock",
    "symlink",
    "rename",
    "recursive",
    "select",
    "torrent",
    "attributes",
    "session",
    "publicAccessBlock",
    "ownershipControls",
    "requestPayment",
    "analytics",
    "metrics",
    "policyStatus",
];

impl Operation {
    /// The operation that method, target and parameters name.
    pub(super) fn of(request: &Request, target: &Target) -> Self {
        let has = |name: &str| request.parameter(name).is_some();
        if FOREIGN.iter().any(|name| has(name)) {
            return Self::Unsupported;
        }
        match target {
            Target::Service if request.method == "GET" => Self::GetService,
            Target::Service => Self::Unsupported,
            Target::Bucket(_) => match request.method.as_str() {
                "HEAD" => Self::HeadBucket,
                "GET" if has("location") => Self::GetBucketLocation,
                "GET" if has("versioning") => Self::GetBucketVersioning,
                "GET" if has("versions") => Self::ListObjectVersions,
                "GET" if has("uploads") => Self::ListMultipartUploads,
                "GET" if !has("tagging") => Self::ListObjects,
                "PUT" if !has("versioning") && !has("tagging") => Self::PutBucket,
                "DELETE" if !has("tagging") => Self::DeleteBucket,
                "POST" if has("delete") => Self::DeleteObjects,
                _ => Self::Unsupported,
            },
            Target::Object { .. } => Self::of_object(request, has),
        }
    }

    fn of_object(request: &Request, has: impl Fn(&str) -> bool) -> Self {
        let copies = request.header("x-cos-copy-source").is_some();
        match request.method.as_str() {
            "HEAD" => Self::HeadObject,
            "GET" if has("uploadId") => Self::ListParts,
            "GET" if has("tagging") => Self::GetObjectTagging,
            "GET" => Self::GetObject,
            "PUT" if has("tagging") => Self::PutObjectTagging,
            "PUT" if has("uploadId") || has("partNumber") => {
                if copies {
                    Self::UploadPartCopy
                } else {
                    Self::UploadPart
                }
            }
            "PUT" if copies => Self::CopyObject,
            "PUT" => Self::PutObject,
            "POST" if has("uploads") => Self::InitiateMultipartUpload,
            "POST" if has("uploadId") => Self::CompleteMultipartUpload,
            "POST" if has("append") => Self::AppendObject,
            "POST" if has("restore") => Self::RestoreObject,
            "DELETE" if has("uploadId") => Self::AbortMultipartUpload,
            "DELETE" if has("tagging") => Self::DeleteObjectTagging,
            "DELETE" => Self::DeleteObject,
            _ => Self::Unsupported,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(line: &str, host: &str) -> Target {
        let text = format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let (request, _) = Request::parse(text.as_bytes()).unwrap().unwrap();
        Target::of(&request, |name| name == "odd").unwrap().0
    }

    fn object(bucket: &str, key: &str) -> Target {
        Target::Object { bucket: bucket.to_owned(), key: key.to_owned() }
    }

    #[test]
    fn both_addressings_name_the_same_object() {
        let expected = object("b-1250000000", "a/b");
        assert_eq!(target("GET /a/b", "b-1250000000.cos.ap-x.myqcloud.com"), expected);
        assert_eq!(target("GET /a/b", "b-1250000000.localhost:9980"), expected);
        assert_eq!(target("GET /b-1250000000/a/b", "127.0.0.1:9980"), expected);
        assert_eq!(target("GET /b-1250000000/a/b", "localhost:9980"), expected);
        assert_eq!(target("GET /b-1250000000/a/b", "[::1]:9980"), expected);
        assert_eq!(target("GET /b-1250000000/a/b", "cos.ap-x.myqcloud.com"), expected);
        assert_eq!(target("GET /a/b", "odd.example"), object("odd", "a/b"));
    }

    #[test]
    fn service_and_bucket_are_told_apart() {
        assert_eq!(target("GET /", "service.cos.myqcloud.com"), Target::Service);
        assert_eq!(target("GET /", "127.0.0.1:1"), Target::Service);
        assert_eq!(target("GET /b", "127.0.0.1:1"), Target::Bucket("b".into()));
        assert_eq!(target("GET /", "b-1250000000.cos.x.myqcloud.com"), Target::Bucket("b-1250000000".into()));
    }

    #[test]
    fn one_slash_is_stripped_from_a_key() {
        assert_eq!(target("GET //a", "b-1250000000.x"), object("b-1250000000", "/a"));
        assert_eq!(target("GET /a//", "b-1250000000.x"), object("b-1250000000", "a//"));
    }
}
