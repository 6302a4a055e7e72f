//! A log file: put aside by the clock, opened anew when it is asked for, and never in anybody's way.
//!
//! ```text
//! put (any task) ──queue, bounded──> a thread of its own ──> file
//!      full: the line is lost           rotated, reopened; cannot be written: the line is lost, and told once
//! ```
//!
//! A file holds the lines of one period of local time: the first line of the next one renames it, as Python's
//! TimedRotatingFileHandler names its files (`name.2026-11-21_10`). [`reopen`] makes every file be opened by
//! its name again, so that logrotate and its like may move it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
};

use chrono::{DateTime, Local, NaiveDateTime};
use tracing::{info, warn};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};

use crate::config::{LogPeriod, LogRotation};

/// Lines that may wait for a slow disk.
const LINES_MAX: usize = 8192;
/// Seconds between tries to open a file that cannot be written.
const RETRY_SECONDS: i64 = 5;

/// How often files have been asked to be opened anew.
static REOPENED: AtomicU64 = AtomicU64::new(0);

/// Every log file of this process is opened by its name again, before its next line.
pub fn reopen() {
    REOPENED.fetch_add(1, Ordering::Relaxed);
}

/// A file of lines, written by a thread of its own. Nobody who puts a line ever waits or fails.
#[derive(Debug)]
pub struct Lines {
    writer: NonBlocking,
    lost: ErrorCounter,
    path: PathBuf,
    /// Writes what still waits when it is dropped.
    _worker: WorkerGuard,
}

impl Lines {
    /// Begins a log at `path`. A file that cannot be opened is told of by a warning, and tried again.
    pub fn to_file(path: &Path, rotation: Option<LogRotation>) -> Self {
        Self::to(LogFile::open(path, rotation), path)
    }

    fn to(file: LogFile, path: &Path) -> Self {
        let builder = NonBlockingBuilder::default().buffered_lines_limit(LINES_MAX).lossy(true);
        let (writer, worker) = builder.finish(file);
        Self { lost: writer.error_counter(), writer, path: path.to_owned(), _worker: worker }
    }

    /// Adds a line, which brings its own line end; lost where too many wait.
    pub fn put(&self, line: &str) {
        let mut writer = self.writer.clone();
        // A queue that is full says nothing and counts.
        writer.write_all(line.as_bytes()).ok();
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let lost = self.lost.dropped_lines();
        if lost != 0 {
            warn!(path = %self.path.display(), lost, "lines were lost: the disk could not follow");
        }
    }
}

/// What the thread writes to.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    rotation: Option<LogRotation>,
    file: Option<File>,
    /// The period that the lines in the file belong to, as it stands in names.
    period: String,
    /// The second that was looked at last.
    looked_at: i64,
    opened_as: u64,
    /// Since when it cannot be written, in seconds since 1970, and how many lines that has cost.
    failing: Option<(i64, u64)>,
}

impl LogFile {
    /// Opens it, or will try again.
    pub(super) fn open(path: &Path, rotation: Option<LogRotation>) -> Self {
        let mut file = Self {
            path: path.to_owned(),
            rotation,
            file: None,
            period: String::new(),
            looked_at: i64::MIN,
            opened_as: 0,
            failing: None,
        };
        file.open_now(Local::now());
        file
    }

    pub(super) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    /// `line` at `now`; whether it stands in the file.
    fn put(&mut self, line: &[u8], now: DateTime<Local>) -> bool {
        self.make_ready(now);
        let written = match &mut self.file {
            Some(file) => append(file, line),
            None => return self.count_loss(),
        };
        match written {
            Ok(()) => {
                if let Some((_, lost)) = self.failing.take() {
                    info!(path = %self.path.display(), lost, "the log file can be written again");
                }
                true
            }
            Err(error) => {
                self.fail(&error, now);
                self.count_loss()
            }
        }
    }

    fn count_loss(&mut self) -> bool {
        if let Some((_, lost)) = &mut self.failing {
            *lost += 1;
        }
        false
    }

    /// Opens anew, or rotates, where it is time.
    fn make_ready(&mut self, now: DateTime<Local>) {
        let second = now.timestamp();
        let is_asked = self.opened_as != REOPENED.load(Ordering::Relaxed);
        let may_retry = self.failing.is_none_or(|(since, _)| second >= since + RETRY_SECONDS);
        if is_asked || (self.file.is_none() && may_retry) {
            self.open_now(now);
        }
        let Some(rotation) = self.rotation else { return };
        if second == self.looked_at {
            return;
        }
        self.looked_at = second;
        let period = now.format(pattern(rotation.period)).to_string();
        if period != self.period {
            self.put_aside(rotation);
            self.period = period;
        }
    }

    fn open_now(&mut self, now: DateTime<Local>) {
        self.opened_as = REOPENED.load(Ordering::Relaxed);
        let opened = self.path.parent().map_or(Ok(()), fs::create_dir_all);
        match opened.and_then(|()| OpenOptions::new().create(true).append(true).open(&self.path)) {
            Ok(file) => {
                // What stands in it already belongs to the period of its last line.
                let written = file.metadata().ok().filter(|facts| facts.len() > 0);
                let then = written.and_then(|facts| facts.modified().ok()).map_or(now, DateTime::from);
                if let Some(rotation) = self.rotation {
                    self.period = then.format(pattern(rotation.period)).to_string();
                    self.looked_at = i64::MIN;
                }
                self.file = Some(file);
            }
            Err(error) => self.fail(&error, now),
        }
    }

    /// Told once, not with each line.
    fn fail(&mut self, error: &io::Error, now: DateTime<Local>) {
        self.file = None;
        let lost = match self.failing {
            Some((_, lost)) => lost,
            None => {
                warn!(path = %self.path.display(), %error, "the log file cannot be written, its lines are lost");
                0
            }
        };
        self.failing = Some((now.timestamp(), lost));
    }

    /// Renames the file to the name of its period and begins another one.
    fn put_aside(&mut self, rotation: LogRotation) {
        let Some(file) = &self.file else { return };
        let aside = name_of(&self.path, &self.period);
        // A name that is there already (a clock set back): the lines stay where they are.
        let is_empty = file.metadata().is_ok_and(|facts| facts.len() == 0);
        if is_empty || aside.exists() {
            return;
        }
        match fs::rename(&self.path, &aside) {
            Ok(()) => {
                self.file = OpenOptions::new().create(true).append(true).open(&self.path).ok();
                if rotation.keep != 0 {
                    self.prune(rotation);
                }
            }
            Err(error) => warn!(path = %self.path.display(), %error, "the log file cannot be put aside"),
        }
    }

    /// Keeps the newest of the files that were put aside.
    fn prune(&self, rotation: LogRotation) {
        let (Some(directory), Some(name)) = (self.path.parent(), self.path.file_name()) else { return };
        let start = format!("{}.", name.to_string_lossy());
        let is_period = |suffix: &str| {
            let full = format!("{suffix}{}", rest_of_time(rotation.period));
            NaiveDateTime::parse_from_str(&full, pattern(LogPeriod::Second)).is_ok()
        };
        let names = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.file_name());
        let mut aside: Vec<String> = names
            .filter_map(|name| name.into_string().ok())
            .filter(|name| name.strip_prefix(&start).is_some_and(is_period))
            .collect();
        aside.sort_unstable();
        let surplus = aside.len().saturating_sub(rotation.keep);
        for name in &aside[..surplus] {
            if let Err(error) = fs::remove_file(directory.join(name)) {
                warn!(name, %error, "an old log file stays");
            }
        }
    }
}

/// A line, or nothing of it: half a line would spoil the next one too.
fn append(file: &mut File, line: &[u8]) -> io::Result<()> {
    let before = file.metadata()?.len();
    file.write_all(line).inspect_err(|_| {
        file.set_len(before).ok();
    })
}

impl Write for LogFile {
    /// Never fails: what cannot be written is lost and told of.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.put(bytes, Local::now());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What Python's TimedRotatingFileHandler appends.
fn pattern(period: LogPeriod) -> &'static str {
    match period {
        LogPeriod::Second => "%Y-%m-%d_%H-%M-%S",
        LogPeriod::Minute => "%Y-%m-%d_%H-%M",
        LogPeriod::Hour => "%Y-%m-%d_%H",
        LogPeriod::Day => "%Y-%m-%d",
    }
}

/// What makes a full time of it.
fn rest_of_time(period: LogPeriod) -> &'static str {
    match period {
        LogPeriod::Second => "",
        LogPeriod::Minute => "-00",
        LogPeriod::Hour => "-00-00",
        LogPeriod::Day => "_00-00-00",
    }
}

fn name_of(path: &Path, period: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(period);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let entries = fs::read_dir(dir).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort_unstable();
        names
    }

    fn at(text: &str) -> DateTime<Local> {
        let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S").unwrap();
        time.and_local_timezone(Local).earliest().unwrap()
    }

    #[test]
    fn a_file_is_put_aside_under_the_name_of_its_period() {
        for (period, aside) in [
            (LogPeriod::Second, "x.log.2026-11-21_10-20-30"),
            (LogPeriod::Minute, "x.log.2026-11-21_10-20"),
            (LogPeriod::Hour, "x.log.2026-11-21_10"),
            (LogPeriod::Day, "x.log.2026-11-21"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let mut file = LogFile::open(&dir.path().join("x.log"), Some(LogRotation { period, keep: 0 }));
            assert!(file.put(b"one\n", at("2026-11-21 10:20:30")));
            assert!(file.put(b"two\n", at("2026-11-21 10:20:30")));
            assert!(file.put(b"three\n", at("2026-11-23 10:20:30")));
            assert_eq!(names(dir.path()), ["x.log", aside]);
            assert_eq!(fs::read_to_string(dir.path().join(aside)).unwrap(), "one\ntwo\n");
            assert_eq!(fs::read_to_string(dir.path().join("x.log")).unwrap(), "three\n");
        }
    }

    #[test]
    fn so_many_are_kept_and_strangers_stay() {
        let dir = tempfile::tempdir().unwrap();
        let rotation = LogRotation { period: LogPeriod::Second, keep: 2 };
        let strangers = ["x.log.1", "x.log.2026-11-21", "y.log.2026-11-21_10-20-30"];
        for name in strangers {
            fs::write(dir.path().join(name), "").unwrap();
        }
        let mut file = LogFile::open(&dir.path().join("x.log"), Some(rotation));
        for second in 10..20 {
            file.put(b"line\n", at(&format!("2026-11-21 10:20:{second}")));
        }
        let kept = [
            "x.log",
            "x.log.1",
            "x.log.2026-11-21",
            "x.log.2026-11-21_10-20-17",
            "x.log.2026-11-21_10-20-18",
        ];
        assert_eq!(names(dir.path())[..5], kept);
        assert_eq!(names(dir.path()).len(), 6);
    }

    #[test]
    fn lines_of_an_earlier_run_are_put_aside_by_their_own_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.log");
        fs::write(&path, "of yesterday\n").unwrap();
        let yesterday = std::time::SystemTime::now() - Duration::from_secs(36 * 3600);
        File::options().append(true).open(&path).unwrap().set_modified(yesterday).unwrap();
        let rotation = LogRotation { period: LogPeriod::Day, keep: 5 };
        LogFile::open(&path, Some(rotation)).put(b"of today\n", Local::now());
        let aside = format!("x.log.{}", DateTime::<Local>::from(yesterday).format("%Y-%m-%d"));
        assert_eq!(names(dir.path()), ["x.log", &aside]);
        assert_eq!(fs::read_to_string(dir.path().join(aside)).unwrap(), "of yesterday\n");
    }

    #[test]
    fn a_file_that_was_moved_away_is_begun_anew_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let (path, moved) = (dir.path().join("x.log"), dir.path().join("x.log.1"));
        let mut file = LogFile::open(&path, None);
        file.put(b"one\n", Local::now());
        fs::rename(&path, &moved).unwrap();
        file.put(b"two\n", Local::now());
        reopen();
        file.put(b"three\n", Local::now());
        assert_eq!(fs::read_to_string(&moved).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
    }

    #[test]
    fn what_cannot_be_written_is_lost_until_it_can() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d/x.log");
        fs::write(dir.path().join("d"), "a file where a directory should be").unwrap();
        let mut file = LogFile::open(&path, None);
        let now = Local::now();
        assert!(!file.is_open() && !file.put(b"lost\n", now));
        fs::remove_file(dir.path().join("d")).unwrap();
        assert!(!file.put(b"lost too\n", now), "not tried with every line");
        assert!(file.put(b"there\n", now + chrono::Duration::seconds(RETRY_SECONDS)));
        assert_eq!(fs::read_to_string(&path).unwrap(), "there\n");
    }

    #[test]
    fn a_full_disk_loses_lines_and_says_nothing_to_those_who_put_them() {
        let mut file = LogFile::open(Path::new("/dev/full"), None);
        assert!(file.is_open());
        assert!(!file.put(b"lost\n", Local::now()));
        assert!(file.write_all(b"lost\n").is_ok());
        Lines::to_file(Path::new("/dev/full"), None).put("lost\n");
    }
}
