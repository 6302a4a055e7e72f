//! The body of a GET: the bytes that were asked for, no more and no fewer, and their checksum.

use bytes::Bytes;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};

use super::{
    ByteRange, CosError, CosResult, Crc64, Key, ObjectMeta, Operation, Reason,
    http::{Answer, Incoming},
    wire::{Unreadable, content_range, meta_of},
};

/// What `answer` to a GET of `range` is about, and how many bytes follow.
pub(super) fn extent_of(answer: &Answer, range: Option<ByteRange>) -> Result<(ObjectMeta, u64), Unreadable> {
    let other = || Unreadable(format!("{} with other bytes than were asked for", answer.status));
    match (answer.status, range) {
        (206, Some(ByteRange { first, length })) => {
            let (begin, end, size) = content_range(&answer.headers)?;
            if begin != first || end != first.saturating_add(length).min(size) {
                return Err(other());
            }
            Ok((meta_of(&answer.headers, Some(size))?, end - begin))
        }
        (200, range) => {
            let meta = meta_of(&answer.headers, None)?;
            let is_all = range.is_none_or(|range| range.first == 0 && meta.size <= range.length);
            let bytes = meta.size;
            if is_all { Ok((meta, bytes)) } else { Err(other()) }
        }
        _ => Err(other()),
    }
}

/// What arrives, exactly `bytes` of it, and of the checksum `crc64` if there is one.
pub(super) fn checked(
    incoming: Option<Incoming>,
    bytes: u64,
    crc64: Option<Crc64>,
    key: Key,
) -> BoxStream<'static, CosResult<Bytes>> {
    let Some(incoming) = incoming else { return stream::empty().boxed() };
    let reading = Reading {
        incoming,
        bytes_left: bytes,
        crc64,
        digest: crc_fast::Digest::new(crc_fast::CrcAlgorithm::Crc64Xz),
        key,
    };
    stream::try_unfold(Some(reading), |reading| async move {
        let Some(mut reading) = reading else { return Ok(None) };
        Ok(reading.next().await?.map(|piece| (piece, Some(reading))))
    })
    .boxed()
}

/// The body of a GET on its way.
struct Reading {
    incoming: Incoming,
    bytes_left: u64,
    crc64: Option<Crc64>,
    digest: crc_fast::Digest,
    key: Key,
}

impl Reading {
    async fn next(&mut self) -> CosResult<Option<Bytes>> {
        let failed = |reason, why: &str| {
            CosError::new(Operation::GetObject.name(), reason).of_key(&self.key).because(why)
        };
        match self.incoming.next().await {
            Ok(Some(piece)) if piece.len() as u64 <= self.bytes_left => {
                self.bytes_left -= piece.len() as u64;
                if self.crc64.is_some() {
                    self.digest.update(&piece);
                }
                Ok(Some(piece))
            }
            Ok(Some(_)) => Err(failed(Reason::Malformed, "the body is longer than announced")),
            Ok(None) if self.bytes_left > 0 => Err(failed(Reason::Unavailable, "the body ends early")),
            Ok(None) => match self.crc64 {
                Some(crc64) if crc64.0 != self.digest.finalize() => {
                    Err(failed(Reason::Corrupt, "what arrived has another CRC-64 than the object"))
                }
                _ => Ok(None),
            },
            Err(lost) => {
                let reason = if lost.is_stalled { Reason::TimedOut } else { Reason::Unavailable };
                let mut error = failed(reason, "the body broke off");
                error.source = lost.source;
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, LAST_MODIFIED};

    use super::*;

    fn answer(status: u16, length: &str, range: Option<&str>) -> Answer {
        let mut headers = HeaderMap::new();
        headers.insert(ETAG, "\"e\"".parse().unwrap());
        headers.insert(LAST_MODIFIED, "Fri, 10 Apr 2020 09:35:05 GMT".parse().unwrap());
        headers.insert(CONTENT_LENGTH, length.parse().unwrap());
        if let Some(range) = range {
            headers.insert(CONTENT_RANGE, range.parse().unwrap());
        }
        Answer { status, headers, body: Bytes::new(), stream: None }
    }

    #[test]
    fn only_the_bytes_asked_for_are_taken() {
        let asked = Some(ByteRange { first: 2, length: 4 });
        let extent =
            |answer: &Answer, range| extent_of(answer, range).map(|(meta, bytes)| (meta.size, bytes));
        assert_eq!(extent(&answer(206, "4", Some("bytes 2-5/10")), asked), Ok((10, 4)));
        assert_eq!(extent(&answer(206, "2", Some("bytes 2-3/4")), asked), Ok((4, 2)));
        assert_eq!(extent(&answer(200, "10", None), None), Ok((10, 10)));
        assert_eq!(extent(&answer(200, "3", None), Some(ByteRange { first: 0, length: 3 })), Ok((3, 3)));
        for (told, asked) in [
            (answer(206, "4", Some("bytes 3-6/10")), asked),
            (answer(206, "3", Some("bytes 2-4/10")), asked),
            (answer(206, "4", None), asked),
            (answer(200, "10", None), asked),
            (answer(206, "10", Some("bytes 0-9/10")), None),
            (answer(204, "0", None), None),
        ] {
            extent(&told, asked).unwrap_err();
        }
    }
}
