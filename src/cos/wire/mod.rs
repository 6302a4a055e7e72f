//! XML and headers, both ways.
//!
//! Reading is tolerant where COS is loose: documents are read by local name, with or without a declaration
//! and a namespace, with blanks before either (a merge that takes long sends them to stay alive), in three
//! forms of dates. It is strict where looseness would lie: a document is what its root says it is, and a
//! size or a checksum that cannot be read is an error. Writing is as the vendor's SDK writes.
//! Nothing here sends anything; no type of `quick_xml` leaves this folder.

mod headers;
mod xml;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use time::{
    OffsetDateTime, PrimitiveDateTime,
    format_description::{
        BorrowedFormatItem,
        well_known::{Rfc2822, Rfc3339},
    },
    macros::format_description,
};

pub(super) use headers::{
    Names, content_range, crc64_of, encoded_metadata, etag_of, meta_of, text_of, time_of,
};
pub(super) use xml::{
    ErrorDocument, complete_document, completed, copied, delete_document, deleted, early_marker,
    error_document, fits_into_xml, initiated, list_page, parts_page, uploads_page,
};

/// Why an answer cannot be understood, in words for the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unreadable(pub(super) String);

/// What an answer says, or why it says nothing.
pub(super) type Read<T> = Result<T, Unreadable>;

/// A point of time as COS writes it: `2020-12-10T03:37:30.000Z` in lists, `2020-04-10T18:20:30Z` (once without
/// the `Z`) in results of copies, `Tue Jan 17 16:43:37 2017` in old part lists, RFC 1123 in headers.
fn parse_time(text: &str) -> Read<SystemTime> {
    let text = text.trim();
    let unmarked = || PrimitiveDateTime::parse(text, UNMARKED).map(PrimitiveDateTime::assume_utc);
    let old = || PrimitiveDateTime::parse(text, OLD).map(PrimitiveDateTime::assume_utc);
    let parsed = OffsetDateTime::parse(text, &Rfc3339)
        .or_else(|_| OffsetDateTime::parse(text, &Rfc2822))
        .or_else(|_| unmarked())
        .or_else(|_| old())
        .map_err(|_| Unreadable(format!("no time: {text:?}")))?;
    let seconds = u64::try_from(parsed.unix_timestamp()).unwrap_or(0);
    Ok(UNIX_EPOCH + Duration::from_secs(seconds))
}

const UNMARKED: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second][optional [.[subsecond]]]");
const OLD: &[BorrowedFormatItem<'_>] = format_description!(
    "[weekday repr:short] [month repr:short] [day padding:space] [hour]:[minute]:[second] [year]"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_forms_of_dates_are_read() {
        for (text, seconds) in [
            ("2020-12-10T03:37:30.000Z", 1_607_571_450),
            ("2020-04-10T18:20:30Z", 1_586_542_830),
            ("2017-09-04T04:45:45", 1_504_500_345),
            ("2017-09-04T04:45:45.120", 1_504_500_345),
            ("Tue Jan 17 16:43:37 2017", 1_484_671_417),
            ("Thu Jan  5 16:43:37 2017", 1_483_634_617),
            ("Fri, 10 Apr 2020 09:35:05 GMT", 1_586_511_305),
        ] {
            assert_eq!(parse_time(text), Ok(UNIX_EPOCH + Duration::from_secs(seconds)), "{text}");
        }
        parse_time("yesterday").unwrap_err();
    }
}
