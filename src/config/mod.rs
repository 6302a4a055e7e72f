//! LAYER 0: from what is written to what is meant.
//!
//! ```text
//! bytes ──file.rs──> FileConfig ──account, ftp, limits──> Config ──print.rs──> file as it is meant
//!                         host.rs: what only this machine knows (homes, memory, owners)
//! ```
//!
//! All problems of a file are found before any port is bound or bucket mounted, and told together. What
//! could be read but deserves a word is a warning; whoever loads the configuration logs it.

mod account;
mod anonymous;
mod certificate;
mod file;
mod ftp;
mod host;
mod keys;
mod limits;
mod mount;
mod parts;
mod password;
mod print;
mod section;
mod tls;
mod values;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

pub use account::OUTDATED_TIME;
pub use anonymous::{AnonymousConfig, is_guest_name};
pub use certificate::{Certificate, CertificateError, tls_provider};
pub use ftp::{FtpConfig, NameEncoding, PassiveHost, RateLimits, UserConfig};
pub use keys::{KEYS, KeyDefault, KeySpec, KeyState, SectionKind};
pub use limits::Limits;
pub use mount::{Addressing, Appearance, Authority, MountConfig, PolicyConfig, QuotaConfig, StoreConfig};
pub use parts::{BLOCK_BYTES, PartSizes, largest_file_bytes, largest_part_bytes};
pub use password::{HashScratch, PasswordHash, is_same};
pub use print::Secrets;
pub use tls::{TlsConfig, TlsRequired};
pub use values::{ByteSize, PassivePorts, Secret};

use file::FileConfig;
use section::Sections;

/// The file that is read where none is named, and exists.
pub const FILE_HERE: &str = "./conf/vsftpd.conf";
/// The file that is read where that one does not exist.
pub const FILE_OF_SYSTEM: &str = "/etc/cosgate/cosgate.conf";
/// Where mounts live that are not on a home, unless systemd says otherwise.
const RUNTIME_DIR: &str = "/run/cosgate";

/// The whole configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The file it was read from; `None`: built in code.
    pub source: Option<PathBuf>,
    pub mounts: Vec<MountConfig>,
    pub limits: Limits,
    pub ftp: FtpConfig,
    pub log: LogConfig,
    /// Where sessions of further policies are mounted: `RUNTIME_DIRECTORY` as systemd sets it, else
    /// `/run/cosgate`.
    pub runtime_dir: PathBuf,
    /// `config_check_enable`: refuse to start without memory to spare.
    pub check_memory: bool,
    /// What deserves a line of the log at WARN.
    pub warnings: Vec<String>,
}

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub level: tracing::Level,
    /// Beside the working directory where relative.
    pub directory: PathBuf,
    pub json: bool,
    /// `None`: the files grow.
    pub rotation: Option<LogRotation>,
}

/// When a log file is put aside, and how many of those stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRotation {
    pub period: LogPeriod,
    /// 0 = all of them.
    pub keep: usize,
}

/// `log_rotate_when`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogPeriod {
    Second,
    Minute,
    Hour,
    Day,
}

/// One thing that is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// As written, without brackets; `None` where the whole file is meant.
    pub section: Option<String>,
    pub key: Option<String>,
    /// Why, and what is allowed.
    pub why: String,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    pub source_file: Option<PathBuf>,
    /// Never empty.
    pub problems: Vec<Problem>,
}

impl Config {
    /// Reads a file and checks it against this machine.
    ///
    /// # Errors
    /// [`ConfigError`] with all problems at once.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::load_on(path, Checks::All)
    }

    /// As [`Self::load`], for a process that runs already: homes are checked (what is mounted counts as good),
    /// but memory is not, a part of which this very process uses.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_anew(path: &Path) -> Result<Self, ConfigError> {
        Self::load_on(path, Checks::Homes)
    }

    /// As [`Self::load`], but without a look at homes and memory: for the child of a process that has
    /// judged them, which has to come up again after a crash, and for cleaning up.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_again(path: &Path) -> Result<Self, ConfigError> {
        Self::load_on(path, Checks::Text)
    }

    fn load_on(path: &Path, checks: Checks) -> Result<Self, ConfigError> {
        let refuse = |problems| ConfigError { source_file: Some(path.to_owned()), problems };
        let bytes = std::fs::read(path).map_err(|error| refuse(vec![unreadable(&error)]))?;
        let mut config = Reader { problems: Vec::new() }.read(&bytes, checks).map_err(refuse)?;
        config.warnings.extend(host::file_warning(path));
        config.source = Some(path.to_owned());
        Ok(config)
    }

    /// Reads the file that [`Self::find`] finds.
    ///
    /// # Errors
    /// As [`Self::load`] and [`Self::find`].
    pub fn load_from(explicit: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load(&Self::find(explicit)?)
    }

    /// The file that was named, else `./conf/vsftpd.conf`, else `/etc/cosgate/cosgate.conf`.
    ///
    /// # Errors
    /// Where none is named, and there is neither of the two.
    pub fn find(explicit: Option<&Path>) -> Result<PathBuf, ConfigError> {
        if let Some(path) = explicit {
            return Ok(path.to_owned());
        }
        // What exists but cannot be read is a problem, not a reason to look elsewhere.
        let there = |path: &&Path| !matches!(path.try_exists(), Ok(false));
        match [Path::new(FILE_HERE), Path::new(FILE_OF_SYSTEM)].iter().copied().find(there) {
            Some(path) => Ok(path.to_owned()),
            None => {
                let why = format!(
                    "no configuration: neither {FILE_HERE} nor {FILE_OF_SYSTEM} exists, name one with -c"
                );
                Err(ConfigError { source_file: None, problems: vec![Problem::file(why)] })
            }
        }
    }

    /// Reads the bytes of a file without a look at this machine: neither homes nor memory are checked.
    ///
    /// # Errors
    /// [`ConfigError`] with all problems at once.
    pub fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        Reader { problems: Vec::new() }
            .read(bytes, Checks::Text)
            .map_err(|problems| ConfigError { source_file: None, problems })
    }

    /// Drops what opens the buckets, for a process that talks to the internet.
    pub fn forget_store_secrets(&mut self) {
        for mount in &mut self.mounts {
            mount.store.secret_id.clear();
            mount.store.secret_key = Secret::new("");
            mount.store.token = None;
        }
    }

    /// The configuration as a file: every key with its value, defaults marked. Read again, it gives an equal
    /// configuration, provided that secrets are not masked.
    pub fn to_file_text(&self, secrets: Secrets) -> String {
        print::file_text(self, secrets)
    }
}

/// What a file is checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Checks {
    /// Itself alone.
    Text,
    /// Homes and certificate files of this machine too.
    Homes,
    /// Its memory as well.
    All,
}

/// From bytes to [`Config`]; gathers the problems on the way.
struct Reader {
    problems: Vec<Problem>,
}

impl Reader {
    fn read(mut self, bytes: &[u8], checks: Checks) -> Result<Config, Vec<Problem>> {
        let file = FileConfig::parse(bytes, &mut self.problems);
        let mut sections = Sections::new(&file, self.problems);
        let runtime_dir = host::runtime_dir();
        let (limits, timeout) = limits::read(&mut sections);
        let mut accounts = account::read(&mut sections, timeout, &runtime_dir);
        let ftp = ftp::read(&mut sections);
        let anonymous = anonymous::read(&mut sections, &mut accounts, &runtime_dir);
        let log = limits::read_log(&mut sections);
        let check_memory = limits::read_check_memory(&mut sections);
        if checks >= Checks::Homes {
            host::check(&accounts, &mut sections);
            if let Some(tls) = &ftp.tls {
                tls::check(tls, &mut sections);
            }
        }
        if checks == Checks::All && check_memory {
            host::check_memory(&limits, &ftp, &mut sections);
        }
        let warnings = sections.finish()?;
        Ok(Config {
            source: None,
            mounts: accounts.mounts,
            limits,
            ftp: FtpConfig { users: accounts.users, anonymous, ..ftp },
            log,
            runtime_dir,
            check_memory,
            warnings,
        })
    }
}

impl Problem {
    fn file(why: impl Into<String>) -> Self {
        Self { section: None, key: None, why: why.into() }
    }

    fn section(section: &str, why: impl Into<String>) -> Self {
        Self { section: Some(section.to_owned()), key: None, why: why.into() }
    }

    fn key(section: &str, key: &str, why: impl Into<String>) -> Self {
        Self { section: Some(section.to_owned()), key: Some(key.to_owned()), why: why.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.section, &self.key) {
            (Some(section), Some(key)) => write!(f, "[{section}] {key}: {}", self.why),
            (Some(section), None) => write!(f, "[{section}]: {}", self.why),
            (None, _) => f.write_str(&self.why),
        }
    }
}

impl fmt::Display for ConfigError {
    /// One line for the file, one for each problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let problems = if count == 1 { "problem" } else { "problems" };
        match &self.source_file {
            Some(path) => write!(f, "{}: {count} {problems}", path.display())?,
            None => write!(f, "configuration: {count} {problems}")?,
        }
        for problem in &self.problems {
            write!(f, "\n{problem}")?;
        }
        Ok(())
    }
}

fn unreadable(error: &io::Error) -> Problem {
    Problem::file(format!("cannot be read: {error}"))
}
