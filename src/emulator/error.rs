//! What the emulator refuses, in the words of COS (*Error Codes*).
//!
//! An [`ApiError`] becomes an answer with an XML body. A [`Failure`] may also be a connection that broke:
//! then there is nobody to answer.

use std::{borrow::Cow, fmt, io};

/// An error answer: status, code and message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ApiError {
    pub(super) status: u16,
    pub(super) code: Cow<'static, str>,
    pub(super) message: Cow<'static, str>,
}

impl ApiError {
    pub(super) const fn new(status: u16, code: &'static str, message: &'static str) -> Self {
        Self { status, code: Cow::Borrowed(code), message: Cow::Borrowed(message) }
    }

    /// 400 `InvalidArgument` with words of our own.
    pub(super) fn invalid_argument(message: impl Into<Cow<'static, str>>) -> Self {
        Self { status: 400, code: Cow::Borrowed("InvalidArgument"), message: message.into() }
    }

    /// 400 `InvalidRequest` with words of our own.
    pub(super) const fn invalid_request(message: &'static str) -> Self {
        Self::new(400, "InvalidRequest", message)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.status, self.code, self.message)
    }
}

impl std::error::Error for ApiError {}

/// Why a request has no regular answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The client is told.
    #[error("refused")]
    Refused(#[from] ApiError),
    /// The connection is no longer usable; nothing can be told.
    #[error("connection broken")]
    Broken(#[source] io::Error),
}

/// The disk failed under the store: the client reads 500, the operator reads the log.
pub(super) fn disk_failure(error: &io::Error) -> ApiError {
    tracing::error!(%error, "emulator: the data directory failed");
    INTERNAL_ERROR
}

pub(super) const ACCESS_DENIED: ApiError = ApiError::new(403, "AccessDenied", "Access Denied.");
pub(super) const REQUEST_EXPIRED: ApiError = ApiError::new(403, "AccessDenied", "Request has expired");
pub(super) const UNKNOWN_ACCESS_KEY: ApiError =
    ApiError::new(403, "InvalidAccessKeyId", "The Access Key Id you provided does not exist in our records");
pub(super) const TIME_TOO_SKEWED: ApiError = ApiError::new(
    403,
    "RequestTimeTooSkewed",
    "The difference between the request time and the current time is too large.",
);
pub(super) const SIGNATURE_DIFFERS: ApiError =
    ApiError::new(403, "SignatureDoesNotMatch", "The Signature you specified is invalid.");
pub(super) const INVALID_TOKEN: ApiError =
    ApiError::new(403, "InvalidToken", "The provided token is malformed or otherwise invalid.");
pub(super) const EXPIRED_TOKEN: ApiError =
    ApiError::new(400, "ExpiredToken", "The provided token has expired.");
pub(super) const PATH_STYLE_FORBIDDEN: ApiError = ApiError::new(
    403,
    "PathStyleDomainForbidden",
    "The bucket you are attempting to access must be addressed using COS virtual-styled domain.",
);
pub(super) const NOT_YET_VALID: ApiError = ApiError::new(403, "AccessDenied", "Request is not yet valid.");
pub(super) const UNSIGNED_HEADERS: ApiError =
    ApiError::new(403, "AccessDenied", "There were headers present in the request which were not signed.");
pub(super) const OTHER_SIGNATURE_VERSION: ApiError = ApiError::invalid_request(
    "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256.",
);
pub(super) const MALFORMED_AUTHORIZATION: ApiError =
    ApiError::new(400, "AuthorizationHeaderMalformed", "The authorization that you provided is not valid.");
pub(super) const MALFORMED_AUTHORIZATION_QUERY: ApiError = ApiError::new(
    400,
    "AuthorizationQueryParametersError",
    "The authorization parameters of the query are not valid.",
);
pub(super) const MISSING_SHA256: ApiError =
    ApiError::invalid_request("Missing required header for this request: x-amz-content-sha256");
pub(super) const SHA256_DIFFERS: ApiError = ApiError::new(
    400,
    "XAmzContentSHA256Mismatch",
    "The provided 'x-amz-content-sha256' header does not match what was computed.",
);
pub(super) const CHECKSUM_DIFFERS: ApiError =
    ApiError::new(400, "BadDigest", "The x-amz-checksum you specified did not match what we received.");
pub(super) const INVALID_CHECKSUM: ApiError =
    ApiError::invalid_request("The value of an x-amz-checksum header is invalid.");
pub(super) const MALFORMED_CHUNK: ApiError =
    ApiError::invalid_request("The aws-chunked body of the request is malformed.");
pub(super) const ARCHIVED: ApiError = ApiError::new(
    403,
    "InvalidObjectState",
    "The operation is not valid for the object's storage class or access tier.",
);
pub(super) const NO_SUCH_BUCKET: ApiError =
    ApiError::new(404, "NoSuchBucket", "The specified bucket does not exist.");
pub(super) const NO_SUCH_KEY: ApiError = ApiError::new(404, "NoSuchKey", "The specified key does not exist.");
pub(super) const NO_SUCH_UPLOAD: ApiError = ApiError::new(
    404,
    "NoSuchUpload",
    "The specified multipart upload does not exist. The upload ID might be invalid, or the multipart upload \
     might have been aborted or completed.",
);
pub(super) const NO_SUCH_TAG_SET: ApiError = ApiError::new(404, "NoSuchTagSet", "The TagSet does not exist.");
/// Spelt as COS sends it.
pub(super) const COPY_TOO_LARGE: ApiError = ApiError::new(
    405,
    "MethodNotAllowed",
    "The source object size is too large (more thran 5GB) to copy.Please use UploadPart-Copy API.",
);
pub(super) const BUCKET_EXISTS: ApiError =
    ApiError::new(409, "BucketAlreadyOwnedByYou", "The requested bucket name is not available.");
pub(super) const BUCKET_NOT_EMPTY: ApiError =
    ApiError::new(409, "BucketNotEmpty", "The bucket you tried to delete is not empty.");
pub(super) const FILE_EXISTS: ApiError =
    ApiError::new(409, "FileAlreadyExists", "The specified key already exists and may not be overwritten.");
pub(super) const APPEND_POSITION: ApiError =
    ApiError::new(409, "AppendPositionErr", "The position is not equal to the length of the object.");
pub(super) const NOT_APPENDABLE: ApiError = ApiError::new(
    409,
    "ObjectNotAppendable",
    "The operation is not valid for the current state of the object",
);
pub(super) const MISSING_LENGTH: ApiError =
    ApiError::new(411, "MissingContentLength", "You must provide the Content-Length HTTP header.");
pub(super) const PRECONDITION_FAILED: ApiError =
    ApiError::new(412, "PreconditionFailed", "Precondition not match.");
pub(super) const INVALID_RANGE: ApiError =
    ApiError::new(416, "InvalidRange", "The requested range is not satisfiable");
pub(super) const INTERNAL_ERROR: ApiError =
    ApiError::new(500, "InternalError", "We encountered an internal error. Please try again.");
pub(super) const SLOW_DOWN: ApiError = ApiError::new(503, "SlowDown", "Please reduce your request rate.");
pub(super) const DOWNLOAD_FORBIDDEN: ApiError = ApiError::new(
    403,
    "DownloadForbidden",
    "The APK/IPA file is not allowed to be distributed in a public network using COS default domain, please use \
     custom domain instead.",
);
pub(super) const NOT_IMPLEMENTED: ApiError = ApiError::new(
    501,
    "NotImplemented",
    "A header or a parameter you provided implies functionality that is not implemented.",
);
pub(super) const MALFORMED_XML: ApiError = ApiError::new(
    400,
    "MalformedXML",
    "The XML you provided was not well-formed or did not validate against our published schema.",
);
pub(super) const BAD_DIGEST: ApiError =
    ApiError::new(400, "BadDigest", "The Content-MD5 you specified did not match what we received.");
pub(super) const INVALID_DIGEST: ApiError =
    ApiError::new(400, "InvalidDigest", "The Content-MD5 you specified is not valid.");
pub(super) const MISSING_MD5: ApiError =
    ApiError::new(400, "MissingContentMD5", "You must provide the Content-MD5 HTTP header.");
pub(super) const ENTITY_TOO_LARGE: ApiError =
    ApiError::new(400, "EntityTooLarge", "Your proposed upload exceeds the maximum allowed object size.");
pub(super) const ENTITY_TOO_SMALL: ApiError = ApiError::new(
    400,
    "EntityTooSmall",
    "Your proposed upload is smaller than the minimum allowed object size.",
);
pub(super) const INCOMPLETE_BODY: ApiError = ApiError::new(
    400,
    "IncompleteBody",
    "You did not provide the number of bytes specified by the Content-Length HTTP header.",
);
pub(super) const REQUEST_TIMEOUT: ApiError = ApiError::new(
    400,
    "RequestTimeout",
    "Your socket connection to the server was not read from or written to within the timeout period.",
);
pub(super) const INVALID_PART: ApiError = ApiError::new(
    400,
    "InvalidPart",
    "One or more of the specified parts could not be found. The part might not have been uploaded, or the \
     specified entity tag might not have matched the part's entity tag.",
);
pub(super) const INVALID_PART_ORDER: ApiError = ApiError::new(
    400,
    "InvalidPartOrder",
    "The list of parts was not in ascending order. Parts list must be specified in order by part number.",
);
pub(super) const LIST_PART_WITHOUT_ID: ApiError =
    ApiError::new(400, "ListPartUploadIdIsEmpty", "The upload ID is empty.");
pub(super) const INVALID_URI: ApiError =
    ApiError::new(400, "InvalidURI", "Couldn't parse the specified URI.");
pub(super) const KEY_TOO_LONG: ApiError = ApiError::new(400, "KeyTooLong", "Your key is too long.");
pub(super) const INVALID_BUCKET_NAME: ApiError =
    ApiError::new(400, "InvalidBucketName", "The specified bucket is not valid.");
pub(super) const INVALID_COPY_SOURCE: ApiError =
    ApiError::new(400, "InvalidCopySource", "The copy source is not valid.");
pub(super) const INVALID_TAG: ApiError =
    ApiError::new(400, "InvalidTag", "The tag provided was not a valid tag.");
pub(super) const MISSING_HOST: ApiError =
    ApiError::new(400, "MissingHost", "You must provide the Host HTTP header.");
pub(super) const BAD_REQUEST: ApiError = ApiError::new(400, "BadRequest", "The request is not valid HTTP.");
