//! What an answer means: success, or a failure with its reason and with what may be done about it.
//!
//! The status is read before the body, and a 200 of Complete and of copies is judged by its body all the same:
//! COS sends it before the work is done (*Complete Multipart Upload*, *PUT Object - Copy*). Checksums are
//! compared here. Nothing is sent, nothing waits.

use std::{
    error::Error,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use reqwest::header::{DATE, LOCATION, RETRY_AFTER};

use super::{
    CosError, Crc64, Operation, Reason, Stored,
    http::{Answer, Lost},
    request::Request,
    retry::{Again, again, leaves_doubt},
    wire::{
        ErrorDocument, Names, Unreadable, completed, copied, crc64_of, error_document, etag_of, text_of,
        time_of,
    },
};

/// A failed attempt.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) error: Box<CosError>,
    pub(super) again: Again,
    /// Retry-After.
    pub(super) asked: Option<Duration>,
}

impl Failure {
    /// One that no attempt can cure.
    pub(super) fn lasting(error: CosError) -> Self {
        Self { error: Box::new(error), again: Again::Never, asked: None }
    }

    /// A success that cannot be one: it may have happened.
    fn nonsense(request: &Request<'_>, answer: &Answer, why: String) -> Self {
        let mut error = error_of(request, answer, Reason::Malformed).because(why);
        error.in_doubt = true;
        Self { error: Box::new(error), again: Again::Few, asked: None }
    }
}

/// An error about `answer`, with what support asks for.
fn error_of(request: &Request<'_>, answer: &Answer, reason: Reason) -> CosError {
    let mut error = CosError::new(request.operation.name(), reason);
    error.key = request.key.cloned();
    error.status = Some(answer.status);
    error.request_id = text_of(&answer.headers, &Names::REQUEST_ID).map(Into::into);
    error
}

/// What an attempt without a whole answer leads to.
pub(super) fn judge_loss(request: &Request<'_>, lost: Lost) -> Failure {
    let reason = if lost.is_stalled { Reason::TimedOut } else { Reason::Unavailable };
    let mut error = CosError::new(request.operation.name(), reason);
    error.key = request.key.cloned();
    error.status = lost.status;
    error.in_doubt = lost.may_have_arrived;
    if lost.status.is_some() {
        error = error.because("the answer broke off");
    }
    // Who cannot be trusted now will not be trusted in a second.
    let again = match &lost.source {
        Some(source) if refuses_certificate(&**source) => Again::Never,
        _ => Again::Backoff,
    };
    error.source = lost.source;
    Failure { error: Box::new(error), again, asked: None }
}

fn refuses_certificate(error: &(dyn Error + 'static)) -> bool {
    let mut link = Some(error);
    while let Some(error) = link {
        if matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))) {
            return true;
        }
        // The source of an I/O error is the source of what it wraps: what it wraps would be passed over.
        let wrapped = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        link = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    false
}

/// `answer` if its status is a success, and the failure that it is otherwise. `now` is our clock, on which
/// `clock_ahead` seconds were added for the signature.
pub(super) fn judge_status(
    request: &Request<'_>,
    answer: Answer,
    now: SystemTime,
    clock_ahead: i64,
) -> Result<Answer, Failure> {
    if (200..300).contains(&answer.status) {
        return Ok(answer);
    }
    let document = error_document(&answer.body).unwrap_or_default();
    let is_from_cos = answer.headers.contains_key(Names::REQUEST_ID);
    let mut failure = refusal(request, &answer, &document, is_from_cos);
    if answer.status == 403
        && let Some(ahead) = clock_off(&answer, &document, now, clock_ahead)
    {
        failure.again = Again::ClockOff(ahead);
    }
    Err(failure)
}

fn refusal(request: &Request<'_>, answer: &Answer, document: &ErrorDocument, is_from_cos: bool) -> Failure {
    let code = document.code.as_deref();
    let again = again(request.operation, answer.status, code, is_from_cos);
    let reason = match Reason::of_answer(answer.status, code) {
        _ if !is_from_cos && again == Again::Backoff => Reason::Unavailable,
        // An answer to HEAD has no body and so no code.
        Reason::NoSuchKey if request.key.is_none() => Reason::NoSuchBucket,
        Reason::Exists if again == Again::Backoff => Reason::Unavailable,
        Reason::Exists if !request.forbids_overwrite() => Reason::Refused,
        reason => reason,
    };
    let mut error = error_of(request, answer, reason);
    error.code = code.map(Into::into);
    error.message = document.message.as_deref().map(Into::into);
    error.request_id = error.request_id.or_else(|| document.request_id.as_deref().map(Into::into));
    error.in_doubt = leaves_doubt(answer.status);
    if !is_from_cos && error.message.is_none() {
        error = error.because("the answer is not from COS but from something on the way to it");
    } else if let Some(location) = text_of(&answer.headers, &LOCATION) {
        error = error.because(format!("COS points to {location}: check the endpoint"));
    }
    let asked =
        text_of(&answer.headers, &RETRY_AFTER).and_then(|text| text.parse().ok()).map(Duration::from_secs);
    Failure { error: Box::new(error), again, asked }
}

/// How far COS's clock is ahead of ours, if that can be why it refuses: the signature holds from a minute
/// before our time on (*403 Error for COS Access* names the codes, also as messages of AccessDenied).
fn clock_off(answer: &Answer, document: &ErrorDocument, now: SystemTime, clock_ahead: i64) -> Option<i64> {
    let theirs = time_of(&answer.headers, &DATE)?;
    let ahead = unix_seconds(theirs) - unix_seconds(now);
    let texts = [document.code.as_deref(), document.message.as_deref()];
    let blames_the_clock = texts.iter().flatten().any(|text| {
        text.contains("RequestTimeTooSkewed")
            || text.contains("Request has expired")
            || text.contains("too large")
    });
    // Of a HEAD, nothing but the clocks can tell.
    let is_silent = document.code.is_none();
    let off_by = (ahead - clock_ahead).abs();
    ((blames_the_clock || is_silent) && off_by >= CLOCK_TOLERANCE_SECONDS).then_some(ahead)
}

const CLOCK_TOLERANCE_SECONDS: i64 = 50;

/// Seconds since 1970, of a time that is a time.
pub(super) fn unix_seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}

/// What a PUT or an upload of a part made, whose answer must tell `sent` if it tells a checksum.
pub(super) fn judge_stored(request: &Request<'_>, answer: &Answer, sent: Crc64) -> Result<Stored, Failure> {
    let unreadable = |Unreadable(why)| Failure::nonsense(request, answer, why);
    let etag = etag_of(&answer.headers).map_err(unreadable)?;
    let crc64 = crc64_of(&answer.headers).map_err(unreadable)?;
    if let Some(stored) = crc64.filter(|stored| *stored != sent) {
        let mut error = error_of(request, answer, Reason::Corrupt);
        error.in_doubt = true;
        error = error.because(format!("COS stored bytes of CRC-64 {stored}, sent were bytes of {sent}"));
        return Err(Failure { error: Box::new(error), again: Again::Few, asked: None });
    }
    Ok(Stored { etag, crc64, last_modified: None })
}

/// What Complete made, whose answer must tell `expected` if it tells a checksum.
pub(super) fn judge_completed(
    request: &Request<'_>,
    answer: &Answer,
    expected: Option<Crc64>,
) -> Result<Stored, Failure> {
    let document = completed(&answer.body).map_err(|why| judge_body(request, answer, why))?;
    let crc64 =
        crc64_of(&answer.headers).map_err(|Unreadable(why)| Failure::nonsense(request, answer, why))?;
    if let Some((stored, expected)) = crc64.zip(expected).filter(|(stored, expected)| stored != expected) {
        let mut error = error_of(request, answer, Reason::Corrupt);
        // It stands there, and it is wrong. Sending it again would not find the upload any more.
        error.in_doubt = true;
        return Err(Failure::lasting(
            error.because(format!("the object has CRC-64 {stored} instead of {expected}")),
        ));
    }
    Ok(Stored { etag: document.etag, crc64, last_modified: None })
}

/// What a copy made. `root` is the name of its result.
pub(super) fn judge_copied(request: &Request<'_>, answer: &Answer, root: &str) -> Result<Stored, Failure> {
    let document = copied(&answer.body, root).map_err(|why| judge_body(request, answer, why))?;
    let in_header =
        crc64_of(&answer.headers).map_err(|Unreadable(why)| Failure::nonsense(request, answer, why))?;
    Ok(Stored {
        etag: document.etag,
        crc64: document.crc64.or(in_header),
        last_modified: document.last_modified,
    })
}

/// The body of a 200 that is not the result: an error that came too late for the status, or nothing readable.
fn judge_body(request: &Request<'_>, answer: &Answer, Unreadable(why): Unreadable) -> Failure {
    let Some(document) = error_document(&answer.body) else {
        let mut failure = Failure::nonsense(request, answer, why);
        failure.again = Again::Backoff;
        return failure;
    };
    let is_from_cos = true;
    let mut failure = refusal(request, answer, &document, is_from_cos);
    // What may be tried again may also have been done: of an internal error nobody knows how far it got.
    failure.error.in_doubt = failure.again != Again::Never;
    failure
}

/// An answer that has nothing to tell but that it is done: an error in its body says that it is not.
pub(super) fn judge_done(request: &Request<'_>, answer: &Answer) -> Result<(), Failure> {
    match error_document(&answer.body) {
        Some(_) => Err(judge_body(request, answer, Unreadable("an error in its body".to_owned()))),
        None => Ok(()),
    }
}

/// A document that cannot be read, of a request that only asks.
pub(super) fn judge_document<T>(
    request: &Request<'_>,
    answer: &Answer,
    read: Result<T, Unreadable>,
) -> Result<T, Failure> {
    read.map_err(|Unreadable(why)| Failure::nonsense(request, answer, why))
}

/// The outcome for one key of a multiple delete.
pub(super) fn judge_single_delete(document: &ErrorDocument) -> (CosError, Again) {
    let operation = Operation::DeleteObjects;
    let code = document.code.as_deref();
    let again = again(operation, 200, code, true);
    let mut error = CosError::answered(operation.name(), 200, code, document.message.as_deref());
    error.in_doubt = false;
    (error, again)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use reqwest::{Method, header::HeaderMap};

    use super::*;
    use crate::cos::Key;

    fn answer(status: u16, headers: &[(&'static str, &'static str)], body: &'static str) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        Answer { status, headers: map, body: Bytes::from_static(body.as_bytes()), stream: None }
    }

    fn judge(operation: Operation, method: Method, forbids: bool, answer: Answer) -> Failure {
        let key = Key::new("k").unwrap();
        let request = Request::of_key(operation, method, &key).forbid_overwrite(forbids);
        let now = UNIX_EPOCH + Duration::from_secs(1_586_511_305);
        judge_status(&request, answer, now, 0).unwrap_err()
    }

    const COS: (&str, &str) = ("x-cos-request-id", "NWU5");

    #[test]
    fn a_conflict_means_taken_only_where_overwriting_was_forbidden() {
        let taken = || answer(409, &[COS], "<Error><Code>FileAlreadyExists</Code></Error>");
        let failure = judge(Operation::PutObject, Method::PUT, true, taken());
        assert_eq!((failure.error.reason, failure.again), (Reason::Exists, Again::Never));
        let bare = judge(Operation::PutObject, Method::PUT, true, answer(409, &[COS], ""));
        assert_eq!(bare.error.reason, Reason::Exists);
        let failure = judge(Operation::PutObject, Method::PUT, false, answer(409, &[COS], ""));
        assert_eq!((failure.error.reason, failure.again), (Reason::Refused, Again::Never));
        let failure = judge(Operation::UploadPart, Method::PUT, false, answer(409, &[COS], ""));
        assert_eq!((failure.error.reason, failure.again), (Reason::Unavailable, Again::Backoff));
    }

    #[test]
    fn a_404_of_somebody_on_the_way_says_nothing_about_the_key() {
        let failure = judge(Operation::HeadObject, Method::HEAD, false, answer(404, &[], ""));
        assert_eq!((failure.error.reason, failure.again), (Reason::Unavailable, Again::Backoff));
        let failure = judge(Operation::HeadObject, Method::HEAD, false, answer(404, &[COS], ""));
        assert_eq!((failure.error.reason, failure.again), (Reason::NoSuchKey, Again::Never));
        assert_eq!(failure.error.request_id.as_deref(), Some("NWU5"));
    }

    #[test]
    fn a_wrong_clock_is_told_by_the_answer() {
        let same = ("date", "Fri, 10 Apr 2020 09:35:05 GMT");
        let later = ("date", "Fri, 10 Apr 2020 11:35:05 GMT");
        let skewed = "<Error><Code>RequestTimeTooSkewed</Code></Error>";
        let expired = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>";
        let denied = "<Error><Code>AccessDenied</Code><Message>Access Denied.</Message></Error>";
        let again = |date, body| {
            judge(Operation::GetObject, Method::GET, false, answer(403, &[COS, date], body)).again
        };
        assert_eq!(again(later, skewed), Again::ClockOff(7200));
        assert_eq!(again(later, expired), Again::ClockOff(7200));
        assert_eq!(again(later, ""), Again::ClockOff(7200));
        assert_eq!(again(later, denied), Again::Never);
        assert_eq!(again(same, skewed), Again::Never);
        assert_eq!(again(same, ""), Again::Never);
    }

    #[test]
    fn doubt_is_left_by_what_may_have_happened() {
        let doubt = |status| {
            judge(Operation::PutObject, Method::PUT, false, answer(status, &[COS], "")).error.in_doubt
        };
        assert!(doubt(500) && doubt(502) && doubt(504));
        assert!(!doubt(503) && !doubt(400) && !doubt(403) && !doubt(501));
    }

    #[test]
    fn a_redirect_is_refused_and_names_its_aim() {
        let moved = answer(301, &[COS, ("location", "https://elsewhere/")], "");
        let failure = judge(Operation::GetObject, Method::GET, false, moved);
        assert_eq!((failure.error.reason, failure.again), (Reason::Refused, Again::Never));
        assert!(failure.error.to_string().contains("https://elsewhere/"), "{}", failure.error);
    }

    #[test]
    fn the_body_of_a_200_has_the_last_word() {
        let key = Key::new("k").unwrap();
        let request = Request::of_key(Operation::CompleteMultipartUpload, Method::POST, &key);
        let judged = |body| judge_completed(&request, &answer(200, &[COS], body), Some(Crc64(1)));
        let whole = "<CompleteMultipartUploadResult><ETag>\"e-1\"</ETag></CompleteMultipartUploadResult>";
        assert_eq!(judged(whole).unwrap().etag.as_str(), "e-1");
        for (body, reason, again, in_doubt) in [
            ("  <Error><Code>InternalError</Code></Error>", Reason::Unavailable, Again::Backoff, true),
            ("<Error><Code>SlowDown</Code></Error>", Reason::Throttled, Again::Throttled, true),
            ("<Error><Code>AccessDenied</Code></Error>", Reason::AccessDenied, Again::Never, false),
            ("<Error><Code>NoSuchUpload</Code></Error>", Reason::NoSuchUpload, Again::Never, false),
            ("", Reason::Malformed, Again::Backoff, true),
            ("   ", Reason::Malformed, Again::Backoff, true),
        ] {
            let failure = judged(body).unwrap_err();
            assert_eq!(failure.error.reason, reason, "{body:?}");
            assert_eq!((failure.again, failure.error.in_doubt), (again, in_doubt), "{body:?}");
        }
    }
}
