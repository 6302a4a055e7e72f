//! Every key there is: where it stands, what `default` means, whether its feature is built.
//!
//! One table for the parser, `cosgate check`, the example in conf/ and the tests of the documentation.
//! What a value may be is not told here, but where it is read: `account.rs`, `ftp.rs`, `limits.rs`.

/// Kinds of sections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionKind {
    /// `[COS_ACCOUNT_x]`, and `[COS_ACCOUNT]` of the first generation.
    Account,
    /// `[FTP_ACCOUNT]` of the first generation.
    Logins,
    /// `[NETWORK]`
    Network,
    /// `[FILE_OPTION]` and `[OPTIONAL]`: a key may stand in either.
    Options,
}

/// What `default`, or leaving the key out, means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyDefault {
    /// There is none, the key must be set.
    Must,
    /// As it would be written.
    Value(&'static str),
    /// No text stands for it; this describes it.
    Described(&'static str),
}

/// Whether the feature of a key is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyState {
    Built,
    /// Refused, but for `default` and for values that ask for what is done without the feature.
    NotBuilt(&'static [&'static str]),
}

/// One key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeySpec {
    pub section: SectionKind,
    /// In lower case.
    pub name: &'static str,
    pub default: KeyDefault,
    pub state: KeyState,
}

use KeyDefault::{Described, Must, Value};
use SectionKind::{Account, Logins, Network, Options};

const fn built(section: SectionKind, name: &'static str, default: KeyDefault) -> KeySpec {
    KeySpec { section, name, default, state: KeyState::Built }
}

const fn not_built(
    section: SectionKind,
    name: &'static str,
    default: KeyDefault,
    harmless: &'static [&'static str],
) -> KeySpec {
    KeySpec { section, name, default, state: KeyState::NotBuilt(harmless) }
}

const NO: &[&str] = &["false", "no", "off", "0"];

/// All keys, in the order in which `cosgate check` prints them.
pub const KEYS: &[KeySpec] = &[
    built(Account, "cos_secretid", Must),
    built(Account, "cos_secretkey", Must),
    built(Account, "cos_token", Described("none")),
    built(Account, "cos_bucket", Must),
    built(Account, "cos_region", Described("none: then cos_endpoint must be set")),
    built(Account, "cos_endpoint", Described("cos.REGION.myqcloud.com")),
    built(Account, "cos_protocol", Value("https")),
    built(Account, "cos_addressing", Described("virtual; path where the endpoint is an IP address")),
    built(Account, "cos_prefix", Described("none: the whole bucket")),
    built(Account, "cos_ca_file", Described("none: the system's roots")),
    built(Account, "cos_proxy", Described("none")),
    built(Account, "cos_storage_class", Described("none: the bucket's own")),
    built(Account, "cos_sse", Described("none: the bucket's own")),
    built(Account, "cos_user_home_dir", Described("first generation only: there it must be set")),
    built(Account, "home_dir", Must),
    built(Account, "ftp_login_user_name", Must),
    built(Account, "ftp_login_user_password", Must),
    built(Account, "authority", Value("RW")),
    built(Account, "delete_enable", Value("true")),
    built(Account, "overwrite_enable", Value("true")),
    built(Account, "posix_metadata", Value("false")),
    built(Account, "nonempty", Value("false")),
    built(Account, "uid", Described("owner of home_dir")),
    built(Account, "gid", Described("group of home_dir")),
    built(Account, "file_mode", Value("0644")),
    built(Account, "dir_mode", Value("0755")),
    built(Account, "allow_other", Value("true")),
    built(Account, "resume_window", Value("24h")),
    not_built(Account, "resume_listed", Value("false"), NO),
    built(Account, "quota", Value("0")),
    built(Account, "quota_files", Value("0")),
    built(Account, "max_upload_rate", Value("0")),
    built(Account, "max_download_rate", Value("0")),
    built(Account, "max_upload_rate_per_session", Value("0")),
    built(Account, "max_download_rate_per_session", Value("0")),
    built(Account, "max_sessions", Value("0")),
    built(Logins, "login_users", Must),
    built(Network, "masquerade_address", Described("none: the address the client came to")),
    built(Network, "listen_port", Value("2121")),
    built(Network, "listen_address", Value("0.0.0.0,[::]")),
    built(Network, "passive_port", Value("60000,65535")),
    built(Network, "login_timeout", Value("30s")),
    built(Network, "idle_timeout", Value("300s")),
    built(Network, "stall_timeout", Value("120s")),
    built(Network, "banner", Value(super::ftp::BANNER)),
    built(Network, "name_encoding", Value("auto")),
    built(Network, "active_mode", Value("true")),
    built(Network, "data_foreign_address", Value("false")),
    built(Network, "tls_cert", Described("none")),
    built(Network, "tls_key", Described("none")),
    built(Network, "tls_required", Value("none")),
    built(Network, "tls_implicit_port", Value("0")),
    built(Network, "tls_session_reuse", Value("optional")),
    built(Network, "tls_strict_eof", Value("false")),
    built(Network, "proxy_protocol", Described("none")),
    built(Network, "max_connection_per_ip", Value("0")),
    built(Network, "failed_login_limit", Value("5")),
    built(Network, "failed_login_window", Value("300s")),
    built(Options, "single_file_max_size", Described("200G, or what memory_limit carries if less")),
    built(Options, "min_part_size", Described("4M, or memory_limit / 12 if less")),
    built(Options, "upload_thread_num", Described("4 x CPU")),
    built(Options, "max_connection_num", Value("512")),
    built(Options, "max_list_file", Described("no limit")),
    built(Options, "memory_limit", Value("256M")),
    built(Options, "attr_ttl", Value("5s")),
    built(Options, "store_timeout", Value("60s")),
    built(Options, "grace_timeout", Value("30s")),
    built(Options, "state_prefix", Value(".cosgate/")),
    built(Options, "config_check_enable", Value("true")),
    built(Options, "log_level", Value("INFO")),
    built(Options, "log_dir", Value("log")),
    built(Options, "log_format", Value("text")),
    built(Options, "xferlog", Value("off")),
    built(Options, "log_rotate_enabled", Value("false")),
    built(Options, "log_rotate_when", Value("H")),
    built(Options, "log_backup_count", Value("100")),
    built(Options, "enable_anonymous", Value("false")),
    built(Options, "anonymous_home", Described("none")),
    built(Options, "anonymous_write", Value("false")),
    not_built(Options, "metrics_listen", Value("off"), &["off"]),
];

impl SectionKind {
    /// The kind of a section, by its name in any case.
    pub(super) fn of(name: &str) -> Option<Self> {
        let name = name.to_ascii_uppercase();
        match name.as_str() {
            "COS_ACCOUNT" => Some(Self::Account),
            "FTP_ACCOUNT" => Some(Self::Logins),
            "NETWORK" => Some(Self::Network),
            "FILE_OPTION" | "OPTIONAL" => Some(Self::Options),
            _ => name.strip_prefix("COS_ACCOUNT_").filter(|rest| !rest.is_empty()).map(|_| Self::Account),
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Account => "[COS_ACCOUNT_x]",
            Self::Logins => "[FTP_ACCOUNT]",
            Self::Network => "[NETWORK]",
            Self::Options => "[OPTIONAL]",
        }
    }
}

/// The key of that name in sections of that kind.
pub(super) fn find(section: SectionKind, name: &str) -> Option<&'static KeySpec> {
    KEYS.iter().find(|key| key.section == section && key.name == name)
}

/// Why `name` is no key of such a section: where it belongs, or what it may have meant.
pub(super) fn explain_unknown(section: SectionKind, name: &str) -> String {
    if let Some(elsewhere) = KEYS.iter().find(|key| key.name == name) {
        return format!("does not belong here, allowed in {}", elsewhere.section.title());
    }
    match nearest(name, KEYS.iter().filter(|key| key.section == section).map(|key| key.name)) {
        Some(meant) => format!("unknown key, did you mean {meant}?"),
        None => match nearest(name, KEYS.iter().map(|key| key.name)) {
            Some(meant) => {
                let home = KEYS.iter().find(|key| key.name == meant).map_or("", |key| key.section.title());
                format!("unknown key, did you mean {meant} in {home}?")
            }
            None => "unknown key, allowed are those of docs/CONFIGURATION.md".to_owned(),
        },
    }
}

/// Why `name` is no section.
pub(super) fn explain_unknown_section(name: &str) -> String {
    let names = ["COS_ACCOUNT", "COS_ACCOUNT_0", "FTP_ACCOUNT", "NETWORK", "FILE_OPTION", "OPTIONAL"];
    match nearest(&name.to_ascii_uppercase(), names) {
        Some(meant) => format!("unknown section, did you mean [{meant}]?"),
        None => "unknown section, allowed are [COS_ACCOUNT_x], [COS_ACCOUNT], [FTP_ACCOUNT], [NETWORK], \
                 [FILE_OPTION], [OPTIONAL]"
            .to_owned(),
    }
}

/// The candidate that a slip of the keyboard would turn into `name`: a third of its letters at most.
fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.replace('-', "_");
    candidates
        .into_iter()
        .map(|candidate| (distance(&plain(name), candidate), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance * 3 <= candidate.len())
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements between two texts (Levenshtein).
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, other) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_stands_twice_in_the_table() {
        for (index, key) in KEYS.iter().enumerate() {
            assert!(KEYS[..index].iter().all(|other| other.name != key.name), "{}", key.name);
            assert_eq!(key.name, key.name.to_ascii_lowercase());
        }
    }

    #[test]
    fn a_misspelling_is_told_the_key_it_meant() {
        assert_eq!(explain_unknown(Account, "cos_secret_key"), "unknown key, did you mean cos_secretkey?");
        assert_eq!(explain_unknown(Network, "passiv_ports"), "unknown key, did you mean passive_port?");
        assert_eq!(
            explain_unknown(Network, "log-level"),
            "unknown key, did you mean log_level in [OPTIONAL]?"
        );
        assert_eq!(explain_unknown(Account, "log_level"), "does not belong here, allowed in [OPTIONAL]");
        assert!(explain_unknown(Account, "colour").contains("docs/CONFIGURATION.md"));
    }

    #[test]
    fn distance_counts_slips() {
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn sections_are_recognised_in_any_case() {
        assert_eq!(SectionKind::of("cos_account_A"), Some(Account));
        assert_eq!(SectionKind::of("Network"), Some(Network));
        assert_eq!(SectionKind::of("COS_ACCOUNT_"), None);
        assert!(explain_unknown_section("NETWORKS").contains("did you mean [NETWORK]?"));
    }
}
