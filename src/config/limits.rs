//! What all mounts share, and where the log goes: `[FILE_OPTION]` and `[OPTIONAL]`.

use std::{path::PathBuf, thread, time::Duration};

use super::{
    LogConfig, LogPeriod, LogRotation,
    account::parse_prefix,
    keys::SectionKind,
    parts::{PartSizes, largest_part_bytes},
    section::{Place, Sections},
    values::{ByteSize, parse_bool, parse_duration, parse_number, parse_timeout, parse_word},
};

/// What all mounts share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes for parts, dirty cells, read-ahead, cached blocks and the inode table of all mounts.
    pub memory_bytes: u64,
    /// Size of the first part; grows with the part number.
    pub min_part_bytes: u64,
    pub single_file_bytes_max: u64,
    /// Upload requests in flight.
    pub upload_requests_max: usize,
    /// Parts beside them whose last byte has left, and which COS has yet to answer for.
    pub upload_answers_max: usize,
    pub attr_ttl: Duration,
    /// How long uploads in flight may go on once a stop has been asked for.
    pub grace: Duration,
    /// Keys of this program in the bucket, relative to the mounted prefix; ends in `/`.
    pub state_prefix: String,
}

/// For so many upload requests, one part may wait for its answer besides.
const ANSWERS_SHARE: usize = 4;
/// Smallest part in bytes, the last one excepted (*Specifications and Limits*).
const PART_BYTES_MIN: u64 = 1 << 20;
/// Twelve parts of the smallest size.
const MEMORY_BYTES_MIN: u64 = 12 << 20;
const MEMORY_BYTES: u64 = 256 << 20;
const MIN_PART_BYTES: u64 = 4 << 20;
const SINGLE_FILE_BYTES_MAX: u64 = 200 << 30;
pub(super) const STORE_TIMEOUT: Duration = Duration::from_secs(60);

/// The words of the replaced tool beside those of tracing. The first of a level is the one that is printed.
pub(super) const LEVELS: &[(&str, tracing::Level)] = &[
    ("TRACE", tracing::Level::TRACE),
    ("DEBUG", tracing::Level::DEBUG),
    ("INFO", tracing::Level::INFO),
    ("WARNING", tracing::Level::WARN),
    ("WARN", tracing::Level::WARN),
    ("ERROR", tracing::Level::ERROR),
    ("CRITICAL", tracing::Level::ERROR),
];

/// `log_rotate_when`.
pub(super) const PERIODS: &[(&str, LogPeriod)] =
    &[("S", LogPeriod::Second), ("M", LogPeriod::Minute), ("H", LogPeriod::Hour), ("D", LogPeriod::Day)];
/// `log_backup_count`.
pub(super) const LOG_BACKUPS: usize = 100;

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory_bytes: MEMORY_BYTES,
            min_part_bytes: default_min_part_bytes(MEMORY_BYTES),
            single_file_bytes_max: default_single_file_bytes(
                MEMORY_BYTES,
                default_min_part_bytes(MEMORY_BYTES),
            ),
            upload_requests_max: default_upload_requests(),
            upload_answers_max: default_upload_requests() / ANSWERS_SHARE,
            attr_ttl: Duration::from_secs(5),
            grace: Duration::from_secs(30),
            state_prefix: ".cosgate/".to_owned(),
        }
    }
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { level: tracing::Level::INFO, directory: PathBuf::from("log"), json: false, rotation: None }
    }
}

/// `min_part_size` where none is set.
pub(super) fn default_min_part_bytes(memory_bytes: u64) -> u64 {
    MIN_PART_BYTES.min(largest_part_bytes(memory_bytes))
}

/// `single_file_max_size` where none is set.
pub(super) fn default_single_file_bytes(memory_bytes: u64, min_part_bytes: u64) -> u64 {
    SINGLE_FILE_BYTES_MAX.min(PartSizes::new(memory_bytes, min_part_bytes).bytes_in_all())
}

fn default_upload_requests() -> usize {
    4 * thread::available_parallelism().map_or(1, usize::from)
}

/// The limits, and how long a request to the store may make no progress.
pub(super) fn read(sections: &mut Sections<'_>) -> (Limits, Duration) {
    let place = sections.place(SectionKind::Options, "OPTIONAL");
    let default = Limits::default();
    let memory_bytes = sections.value(&place, "memory_limit", default.memory_bytes, |text| {
        let bytes = ByteSize::parse(text)?.0;
        let least = ByteSize(MEMORY_BYTES_MIN);
        if bytes < MEMORY_BYTES_MIN {
            Err(format!("{text} is too little, allowed is {least} or more"))
        } else {
            Ok(bytes)
        }
    });
    let min_part_bytes = read_min_part(sections, &place, memory_bytes);
    let single_file_bytes_max = read_single_file(sections, &place, memory_bytes, min_part_bytes);
    let upload_requests_max =
        sections.value(&place, "upload_thread_num", default.upload_requests_max, |text| {
            parse_count(text, 1, 1024)
        });
    // Whoever sets another number means it.
    let upload_answers_max =
        if upload_requests_max == default.upload_requests_max { default.upload_answers_max } else { 0 };
    let limits = Limits {
        memory_bytes,
        min_part_bytes,
        single_file_bytes_max,
        upload_requests_max,
        upload_answers_max,
        attr_ttl: sections.value(&place, "attr_ttl", default.attr_ttl, parse_duration),
        grace: sections.value(&place, "grace_timeout", default.grace, parse_duration),
        state_prefix: sections.value(&place, "state_prefix", default.state_prefix, |text| {
            let prefix = parse_prefix(text)?;
            if prefix.is_empty() {
                Err("empty, allowed is a name that ends in /".to_owned())
            } else {
                Ok(prefix)
            }
        }),
    };
    let timeout = sections.value(&place, "store_timeout", STORE_TIMEOUT, parse_timeout);
    (limits, timeout)
}

/// Old files must load, so a size outside the bounds is moved to the bound it passed.
fn read_min_part(sections: &mut Sections<'_>, place: &Place<'_>, memory_bytes: u64) -> u64 {
    let default = default_min_part_bytes(memory_bytes);
    let Some(set) = sections.optional(place, "min_part_size", |text| Ok(ByteSize::parse(text)?.0)) else {
        return default;
    };
    let most = largest_part_bytes(memory_bytes);
    let moved = set.clamp(PART_BYTES_MIN, most);
    if moved != set {
        let (set, moved, least, most) =
            (ByteSize(set), ByteSize(moved), ByteSize(PART_BYTES_MIN), ByteSize(most));
        let why =
            format!("{set} is moved to {moved}, allowed is {least} to {most} (a twelfth of memory_limit)");
        sections.warn(place, "min_part_size", &why);
    }
    moved
}

fn read_single_file(
    sections: &mut Sections<'_>,
    place: &Place<'_>,
    memory_bytes: u64,
    min_part_bytes: u64,
) -> u64 {
    let default = default_single_file_bytes(memory_bytes, min_part_bytes);
    sections.value(place, "single_file_max_size", default, |text| {
        let bytes = ByteSize::parse(text)?.0;
        let largest = PartSizes::new(memory_bytes, min_part_bytes).bytes_in_all();
        if bytes == 0 {
            return Err("0 would refuse every file, allowed is 1 or more".to_owned());
        }
        if bytes <= largest {
            return Ok(bytes);
        }
        let memory = match memory_bytes_for(bytes, min_part_bytes) {
            Some(memory) => format!("for {text} set memory_limit to {} or more", ByteSize(memory)),
            None => format!("no memory_limit carries {text}"),
        };
        let limit = ByteSize(memory_bytes);
        Err(format!("10,000 parts within memory_limit = {limit} carry {largest} bytes at most; {memory}"))
    })
}

/// The smallest `memory_limit`, in bytes but whole MiB, that carries a file of so many bytes; `None`:
/// none does.
fn memory_bytes_for(file_bytes: u64, min_part_bytes: u64) -> Option<u64> {
    let enough =
        |mebibytes: u64| PartSizes::new(mebibytes << 20, min_part_bytes).bytes_in_all() >= file_bytes;
    // A twelfth of 60 GiB is the largest part there is.
    let (mut below, mut above) = (0, 60 << 10);
    if !enough(above) {
        return None;
    }
    while above - below > 1 {
        let middle = u64::midpoint(below, above);
        if enough(middle) { above = middle } else { below = middle }
    }
    Some(above << 20)
}

/// `log_level`, `log_dir`, `log_format`.
pub(super) fn read_log(sections: &mut Sections<'_>) -> LogConfig {
    let place = sections.place(SectionKind::Options, "OPTIONAL");
    let default = LogConfig::default();
    LogConfig {
        level: sections.value(&place, "log_level", default.level, |text| parse_word(text, LEVELS)),
        directory: sections.value(&place, "log_dir", default.directory, |text| Ok(PathBuf::from(text))),
        json: sections.value(&place, "log_format", default.json, |text| {
            parse_word(text, &[("text", false), ("json", true)])
        }),
        rotation: read_rotation(sections, &place),
    }
}

fn read_rotation(sections: &mut Sections<'_>, place: &Place<'_>) -> Option<LogRotation> {
    let enabled = sections.value(place, "log_rotate_enabled", false, parse_bool);
    let period = sections.value(place, "log_rotate_when", LogPeriod::Hour, |text| parse_word(text, PERIODS));
    let keep = sections.value(place, "log_backup_count", LOG_BACKUPS, |text| parse_count(text, 0, 1_000_000));
    enabled.then_some(LogRotation { period, keep })
}

/// `config_check_enable`.
pub(super) fn read_check_memory(sections: &mut Sections<'_>) -> bool {
    let place = sections.place(SectionKind::Options, "OPTIONAL");
    sections.value(&place, "config_check_enable", true, parse_bool)
}

/// A number of things.
pub(super) fn parse_count(text: &str, least: u64, most: u64) -> Result<usize, String> {
    parse_number(text, least, most).map(|number| usize::try_from(number).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_for_a_file_is_the_smallest_that_carries_it() {
        let carries = |memory, file| PartSizes::new(memory, PART_BYTES_MIN).bytes_in_all() >= file;
        for file in [20_u64 << 30, 200 << 30, 5 << 40] {
            let memory = memory_bytes_for(file, PART_BYTES_MIN).unwrap();
            assert!(carries(memory, file) && !carries(memory - (1 << 20), file), "{file}");
        }
        assert_eq!(memory_bytes_for(u64::MAX, PART_BYTES_MIN), None);
    }
}
