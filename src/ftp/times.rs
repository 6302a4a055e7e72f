//! Times and modes that clients set: MFMT, MDTM with a time, SITE UTIME, SITE CHMOD.
//!
//! They act on the mounted directory, as utimensat(2) and chmod(2) do, so the mount's policy judges. Only
//! with `posix_metadata` does the mount keep what is set after a file has been stored; without it they are
//! refused, because a client that is told 213 relies on it.

use std::{io, os::fd::AsRawFd};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT};
use time::{Date, Month, PrimitiveDateTime, Time};

use super::{
    desk::{FrontDesk, Login},
    home::Root,
    listing::timestamp,
    path::ClientPath,
    reply::{Deed, Reply, errno_of, refusal},
};

/// A moment in UTC, as clients write it (RFC 3659 section 2.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    /// Since 1970.
    pub(super) seconds: i64,
    pub(super) nanos: u32,
}

impl Moment {
    /// `YYYYMMDDHHMMSS`, with a fraction if there is one. A leap second is taken for the one before it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (whole, fraction) = match text.split_once('.') {
            Some((whole, fraction)) => (whole, Some(fraction)),
            None => (text, None),
        };
        if whole.len() != 14 {
            return None;
        }
        let nanos = match fraction {
            None => 0,
            Some(digits) if is_digits(digits) && digits.len() <= 9 => format!("{digits:0<9}").parse().ok()?,
            Some(_) => return None,
        };
        Some(Self { seconds: seconds_of(whole)?, nanos })
    }

    /// As [`Self::parse`]; seconds may be left out, as SITE UTIME writes it.
    pub(super) fn parse_short(text: &str) -> Option<Self> {
        if text.len() == 12 { Self::parse(&format!("{text}00")) } else { Self::parse(text) }
    }

    fn timespec(self) -> Timespec {
        Timespec { tv_sec: self.seconds, tv_nsec: self.nanos.into() }
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn seconds_of(digits: &str) -> Option<i64> {
    if !is_digits(digits) {
        return None;
    }
    let number = |range: std::ops::Range<usize>| digits[range].parse::<u8>().ok();
    let month = Month::try_from(number(4..6)?).ok()?;
    let date = Date::from_calendar_date(digits[..4].parse().ok()?, month, number(6..8)?).ok()?;
    let time = Time::from_hms(number(8..10)?, number(10..12)?, number(12..14)?.min(59)).ok()?;
    // Number 60 is a leap second; beyond it there is none.
    if number(12..14)? > 60 {
        return None;
    }
    Some(PrimitiveDateTime::new(date, time).assume_utc().unix_timestamp())
}

/// What is to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Times { accessed: Option<Moment>, modified: Moment },
    Mode(u16),
}

impl Root {
    fn change(&self, path: &ClientPath, change: Change) -> io::Result<()> {
        // Neither read nor write permission is needed to change what is not content, so O_PATH; such a
        // descriptor is named by its entry in /proc.
        let file = self.open_beneath(path, OFlags::PATH, Mode::empty())?;
        let name = format!("/proc/self/fd/{}", file.as_raw_fd());
        let omit = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
        match change {
            Change::Times { accessed, modified } => {
                let times = Timestamps {
                    last_access: accessed.map_or(omit, Moment::timespec),
                    last_modification: modified.timespec(),
                };
                Ok(rustix::fs::utimensat(CWD, name, &times, AtFlags::empty())?)
            }
            Change::Mode(mode) => {
                Ok(rustix::fs::chmodat(CWD, name, Mode::from_raw_mode(mode.into()), AtFlags::empty())?)
            }
        }
    }
}

impl FrontDesk {
    /// Whether times and modes can be set at all.
    pub(super) fn keeps_metadata(&self) -> bool {
        match &self.login {
            Login::In(session) => session.context.user().keeps_metadata(),
            Login::Nobody | Login::Named(_) => false,
        }
    }

    /// Changes a file; `done` is said once it is.
    pub(super) async fn change(&self, path: ClientPath, change: Change, done: Reply) -> Reply {
        let Login::In(session) = &self.login else { return Reply::new(530, "Please log in") };
        if !self.keeps_metadata() {
            return Reply::new(550, "posix_metadata = false: times and modes are not kept");
        }
        let home = session.context.user().home.clone();
        let target = path.clone();
        match home.run(move |root| root.change(&target, change)).await {
            Ok(()) => done,
            Err(error) => refusal(errno_of(&error), Deed::Change, &path),
        }
    }

    /// MFMT, and MDTM with a time.
    pub(super) async fn set_modified(&self, moment: Moment, path: ClientPath) -> Reply {
        let done = Reply::new(213, format!("Modify={}; {path}", timestamp(moment.seconds)));
        self.change(path, Change::Times { accessed: None, modified: moment }, done).await
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::ftp::home::{Ground, Home};

    #[test]
    fn moments_are_read_and_impossible_ones_are_not() {
        let seconds = |text| Moment::parse(text).map(|moment| moment.seconds);
        assert_eq!(seconds("19700101000000"), Some(0));
        assert_eq!(seconds("20240229120000"), Some(1_709_208_000));
        assert_eq!(seconds("19691231235959"), Some(-1));
        assert_eq!(seconds("20161231235960"), Some(1_483_228_799));
        assert_eq!(Moment::parse("20240229120000.25").map(|moment| moment.nanos), Some(250_000_000));
        assert_eq!(Moment::parse_short("202402291200"), Moment::parse("20240229120000"));
        for text in [
            "",
            "2024",
            "20240230000000",
            "20241301000000",
            "20240101240000",
            "20240101006000",
            "20240101000061",
            "2024010100000",
            "202401010000000",
            "20240101000000.",
            "20240101000000.x",
            "20240101000000.1234567890",
            "+0240101000000",
            "２024010100000",
        ] {
            assert_eq!(Moment::parse(text), None, "{text}");
        }
    }

    #[test]
    fn times_and_modes_reach_the_file_and_nothing_outside() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("f"), "x").unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("out")).unwrap();
        let root = Home::new(dir.path(), Path::new(""), "", Ground::Plain).root().unwrap();
        let path = |name: &str| ClientPath::home().join(name);
        let moment = Moment { seconds: 1_000_000_000, nanos: 5 };
        let times = Change::Times { accessed: Some(moment), modified: moment };
        root.change(&path("f"), times).unwrap();
        root.change(&path("f"), Change::Mode(0o640)).unwrap();
        let facts = root.look(&path("f")).unwrap();
        assert_eq!((facts.modified, facts.mode), (1_000_000_000, 0o640));
        assert!(root.change(&path("out"), times).is_err());
        assert!(root.change(&path("missing"), times).is_err());
    }
}
