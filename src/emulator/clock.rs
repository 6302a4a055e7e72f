//! The emulator's clock, which tests move, and the ways a time is written.

use std::{
    sync::atomic::{AtomicI64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use time::{OffsetDateTime, format_description::StaticFormatDescription, macros::format_description};

/// The machine's clock plus an offset.
#[derive(Debug, Default)]
pub(super) struct Clock {
    offset_ms: AtomicI64,
}

impl Clock {
    /// A clock that many milliseconds ahead of the machine's.
    pub(super) fn ahead(offset_ms: i64) -> Self {
        Self { offset_ms: AtomicI64::new(offset_ms) }
    }

    /// Moves the clock to that many milliseconds ahead of the machine's.
    pub(super) fn move_to(&self, offset_ms: i64) {
        self.offset_ms.store(offset_ms, Ordering::Relaxed);
    }

    /// Seconds since 1970.
    pub(super) fn now(&self) -> i64 {
        self.now_ms().div_euclid(1000)
    }

    /// Milliseconds since 1970.
    pub(super) fn now_ms(&self) -> i64 {
        let machine = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(machine.as_millis()).unwrap_or(i64::MAX / 2) + self.offset_ms.load(Ordering::Relaxed)
    }
}

/// `Fri, 10 Apr 2020 09:35:05 GMT` (RFC 9110 section 5.6.7), for headers.
pub(super) fn http_date(seconds: i64) -> String {
    written(
        seconds,
        format_description!(
            "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
        ),
    )
}

/// `2020-12-10T03:37:30.000Z`, as lists write it.
pub(super) fn list_date(seconds: i64) -> String {
    written(seconds, format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].000Z"))
}

/// `2020-04-10T18:20:30Z`, as copy results write it.
pub(super) fn copy_date(seconds: i64) -> String {
    written(seconds, format_description!("[year]-[month]-[day]T[hour]:[minute]:[second]Z"))
}

/// Seconds since 1970 of an RFC 9110 date; the obsolete forms are not read.
pub(super) fn parse_http_date(text: &str) -> Option<i64> {
    let form = format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    let parsed = time::PrimitiveDateTime::parse(text.trim(), &form).ok()?;
    Some(parsed.assume_utc().unix_timestamp())
}

/// `20201210T033730Z`, as S3 clients sign it.
pub(super) fn amz_date(seconds: i64) -> String {
    written(seconds, format_description!("[year][month][day]T[hour][minute][second]Z"))
}

/// Seconds since 1970 of such a date.
pub(super) fn parse_amz_date(text: &str) -> Option<i64> {
    let form = format_description!("[year][month][day]T[hour][minute][second]Z");
    Some(time::PrimitiveDateTime::parse(text, &form).ok()?.assume_utc().unix_timestamp())
}

fn written(seconds: i64, form: StaticFormatDescription) -> String {
    OffsetDateTime::from_unix_timestamp(seconds)
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
        .format(&form)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_cos_writes_them() {
        assert_eq!(http_date(1_586_511_305), "Fri, 10 Apr 2020 09:35:05 GMT");
        assert_eq!(list_date(1_607_571_450), "2020-12-10T03:37:30.000Z");
        assert_eq!(copy_date(1_586_542_830), "2020-04-10T18:20:30Z");
        assert_eq!(parse_http_date("Fri, 10 Apr 2020 09:35:05 GMT"), Some(1_586_511_305));
        assert_eq!(parse_http_date("yesterday"), None);
        assert_eq!(amz_date(1_607_571_450), "20201210T033730Z");
        assert_eq!(parse_amz_date("20201210T033730Z"), Some(1_607_571_450));
        assert_eq!(parse_amz_date("20201210"), None);
    }
}
