//! Why a request to COS failed.
//!
//! A [`CosError`] keeps what support asks for (operation, status, COS code, request ID) and one
//! [`Reason`], on which alone the layers above decide.

use std::{error::Error, fmt};

use super::types::Key;

/// What a caller can act upon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// 404 of a key, also of a copy's source.
    NoSuchKey,
    NoSuchBucket,
    /// The upload was completed, aborted, or never begun.
    NoSuchUpload,
    /// 403 of any kind: secret, policy, hotlink rule, `DownloadForbidden`.
    AccessDenied,
    /// The key is taken and overwriting was forbidden (409).
    Exists,
    /// If-Match or a copy's condition did not hold (412).
    PreconditionFailed,
    /// The range begins behind the end (416).
    InvalidRange,
    /// Larger than COS takes in this way.
    TooLarge,
    /// The object lies in an archive class and must be restored first.
    Archived,
    /// 503 SlowDown, after all retries.
    Throttled,
    /// COS or the way to it is down: 5xx, connection refused or reset, after all retries.
    Unavailable,
    /// No progress within the deadline, after all retries.
    TimedOut,
    /// What COS stored, or what arrived from it, is not what was sent: CRC, ETag or length differ.
    Corrupt,
    /// An answer that is no COS answer: XML that cannot be read, a header that is missing.
    Malformed,
    /// Any other 4xx: a request that COS will never take.
    Refused,
}

impl Reason {
    /// What an answer of `status` means. The code decides where it is known, because COS spreads some codes
    /// over several statuses (*Error Codes*); an unknown one falls back to the class of the status. Some
    /// answers name the cause in the message alone, under the code `AccessDenied`.
    pub fn of_answer(status: u16, code: Option<&str>) -> Self {
        match code.unwrap_or_default() {
            "NoSuchKey" | "NoSuchCopySource" | "NoSuchVersion" => Self::NoSuchKey,
            "NoSuchBucket" => Self::NoSuchBucket,
            "NoSuchUpload" => Self::NoSuchUpload,
            "InvalidObjectState" => Self::Archived,
            // An answer whose status went out as 200 has nothing but its code.
            "AccessDenied" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "RequestTimeTooSkewed" => {
                Self::AccessDenied
            }
            "DownloadForbidden" | "ExpiredToken" | "InvalidToken" | "BucketLocked" | "ObjectLocked" => {
                Self::AccessDenied
            }
            "InvalidBucketState" | "ObjectNotAppendable" | "RestoreAlreadyInProgress" => Self::Refused,
            "FileAlreadyExists" => Self::Exists,
            "PreconditionFailed" => Self::PreconditionFailed,
            "InvalidRange" => Self::InvalidRange,
            // COS answers 405 MethodNotAllowed to a simple copy above 5 GB.
            "EntityTooLarge" | "MethodNotAllowed" => Self::TooLarge,
            "BadDigest" => Self::Corrupt,
            "SlowDown" | "KmsFreqControl" => Self::Throttled,
            "InternalError" | "InternalErrror" | "ServiceUnavailable" | "PathConflict" | "UploadConflict" => {
                Self::Unavailable
            }
            "RequestTimeout" | "RequestTimeOut" | "UserNetworkTooSlow" => Self::TimedOut,
            _ => Self::of_status(status),
        }
    }

    fn of_status(status: u16) -> Self {
        match status {
            // 402 and 451: the account is in arrears, or the object is barred.
            401..=403 | 451 => Self::AccessDenied,
            404 => Self::NoSuchKey,
            408 => Self::TimedOut,
            409 => Self::Exists,
            412 => Self::PreconditionFailed,
            413 => Self::TooLarge,
            416 => Self::InvalidRange,
            429 => Self::Throttled,
            501 => Self::Refused,
            500.. => Self::Unavailable,
            _ => Self::Refused,
        }
    }
}

/// A failed request.
#[derive(Debug)]
pub struct CosError {
    /// COS's name of the request, such as `UploadPart`.
    pub operation: &'static str,
    pub key: Option<Key>,
    pub reason: Reason,
    pub status: Option<u16>,
    /// COS's code, such as `SlowDown`.
    pub code: Option<Box<str>>,
    /// COS's message, or what is wrong with its answer.
    pub message: Option<Box<str>>,
    pub request_id: Option<Box<str>>,
    /// Whether the request may have taken effect, now or later, although it failed.
    pub in_doubt: bool,
    pub source: Option<Box<dyn Error + Send + Sync>>,
}

impl CosError {
    /// An error of `operation` with nothing but its reason.
    pub fn new(operation: &'static str, reason: Reason) -> Self {
        Self {
            operation,
            key: None,
            reason,
            status: None,
            code: None,
            message: None,
            request_id: None,
            in_doubt: false,
            source: None,
        }
    }

    /// What COS answered to `operation`.
    pub fn answered(operation: &'static str, status: u16, code: Option<&str>, message: Option<&str>) -> Self {
        Self {
            status: Some(status),
            code: code.map(Box::from),
            message: message.map(Box::from),
            ..Self::new(operation, Reason::of_answer(status, code))
        }
    }

    /// The same, of `key`.
    #[must_use]
    pub fn of_key(mut self, key: &Key) -> Self {
        self.key = Some(key.clone());
        self
    }

    /// The same, with words of explanation.
    #[must_use]
    pub fn because(mut self, message: impl Into<Box<str>>) -> Self {
        self.message = Some(message.into());
        self
    }
}

impl fmt::Display for CosError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.operation)?;
        if let Some(key) = &self.key {
            write!(f, " of {key}")?;
        }
        write!(f, " failed")?;
        if let Some(status) = self.status {
            write!(f, ": {status}")?;
        }
        if let Some(code) = &self.code {
            write!(f, " {code}")?;
        } else if self.status.is_none() {
            write!(f, ": {:?}", self.reason)?;
        }
        if let Some(message) = &self.message {
            write!(f, " ({message})")?;
        }
        if let Some(id) = &self.request_id {
            write!(f, " [request {id}]")?;
        }
        Ok(())
    }
}

impl Error for CosError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}
