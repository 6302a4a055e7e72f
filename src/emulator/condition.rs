//! Preconditions (RFC 9110 section 13) and ranges of GET, HEAD and copies.

use super::{
    clock::parse_http_date,
    error::{self, ApiError},
    request::Request,
    store::Object,
};

/// What the conditions of a request say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Go,
    NotModified,
    Failed,
}

/// Judges the four conditions, whose header names begin with `prefix` (empty, or `x-cos-copy-source-`).
pub(super) fn judge(request: &Request, prefix: &str, object: &Object) -> Verdict {
    let header = |name: &str| request.header(&format!("{prefix}{name}"));
    let date = |name: &str| header(name).and_then(parse_http_date);
    if let Some(wanted) = header("if-match") {
        if !names(wanted, &object.etag) {
            return Verdict::Failed;
        }
    } else if date("if-unmodified-since").is_some_and(|limit| object.modified > limit) {
        return Verdict::Failed;
    }
    if let Some(unwanted) = header("if-none-match") {
        if names(unwanted, &object.etag) {
            return Verdict::NotModified;
        }
    } else if date("if-modified-since").is_some_and(|limit| object.modified <= limit) {
        return Verdict::NotModified;
    }
    Verdict::Go
}

fn names(list: &str, etag: &str) -> bool {
    list.split(',').map(str::trim).any(|entry| entry == "*" || entry.trim_matches('"') == etag)
}

/// First byte and length of what a `Range` header asks for; `None` = all of it. What is no single range
/// of bytes is ignored.
///
/// # Errors
/// `InvalidRange` where nothing is left of it.
pub(super) fn range(header: Option<&str>, size: u64) -> Result<Option<(u64, u64)>, ApiError> {
    let Some((first, last)) =
        header.and_then(|text| text.trim().strip_prefix("bytes=")).and_then(|range| range.split_once('-'))
    else {
        return Ok(None);
    };
    let number = |text: &str| text.trim().parse::<u64>().ok();
    match (first.trim().is_empty(), number(first), last.trim().is_empty(), number(last)) {
        // The last n bytes.
        (true, _, false, Some(tail)) => {
            if tail == 0 || size == 0 {
                return Err(error::INVALID_RANGE);
            }
            let length = tail.min(size);
            Ok(Some((size - length, length)))
        }
        (false, Some(first), is_open, last) if is_open || last.is_some_and(|last| last >= first) => {
            if first >= size {
                return Err(error::INVALID_RANGE);
            }
            let last = last.unwrap_or(u64::MAX).min(size - 1);
            Ok(Some((first, last - first + 1)))
        }
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_clipped_or_refused() {
        let of = |header: &str| range(Some(header), 10);
        assert_eq!(of("bytes=0-3"), Ok(Some((0, 4))));
        assert_eq!(of("bytes=8-99"), Ok(Some((8, 2))));
        assert_eq!(of("bytes=4-"), Ok(Some((4, 6))));
        assert_eq!(of("bytes=-3"), Ok(Some((7, 3))));
        assert_eq!(of("bytes=-30"), Ok(Some((0, 10))));
        for refused in ["bytes=10-", "bytes=10-11", "bytes=-0"] {
            assert_eq!(of(refused), Err(error::INVALID_RANGE), "{refused}");
        }
        for ignored in ["bytes=3-2", "bytes=a-b", "items=0-1", "bytes=0-1,3-4", "bytes=-"] {
            assert_eq!(of(ignored), Ok(None), "{ignored}");
        }
        assert_eq!(range(Some("bytes=0-0"), 0), Err(error::INVALID_RANGE));
        assert_eq!(range(None, 0), Ok(None));
    }

    #[test]
    fn conditions_combine_as_rfc_9110_says() {
        let object = Object {
            content: Default::default(),
            etag: "e".into(),
            crc64: 0,
            modified: 1_586_511_305,
            appendable: false,
            attributes: Default::default(),
        };
        let verdict = |headers: &str| {
            let text = format!("GET /k HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
            let (request, _) = Request::parse(text.as_bytes()).unwrap().unwrap();
            judge(&request, "", &object)
        };
        const THEN: &str = "Fri, 10 Apr 2020 09:35:05 GMT";
        assert_eq!(verdict(""), Verdict::Go);
        assert_eq!(verdict("If-Match: \"e\"\r\n"), Verdict::Go);
        assert_eq!(verdict("If-Match: e\r\n"), Verdict::Go);
        assert_eq!(verdict("If-Match: \"f\"\r\n"), Verdict::Failed);
        assert_eq!(verdict("If-None-Match: \"e\"\r\n"), Verdict::NotModified);
        assert_eq!(verdict(&format!("If-Modified-Since: {THEN}\r\n")), Verdict::NotModified);
        assert_eq!(verdict(&format!("If-None-Match: \"f\"\r\nIf-Modified-Since: {THEN}\r\n")), Verdict::Go);
        assert_eq!(verdict(&format!("If-Unmodified-Since: {THEN}\r\n")), Verdict::Go);
        assert_eq!(verdict("If-Unmodified-Since: Fri, 10 Apr 2020 09:35:04 GMT\r\n"), Verdict::Failed);
    }
}
