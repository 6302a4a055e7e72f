//! What a mount is: bucket, region, prefix, home, and the policies under which it is seen.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::Secret;

/// One bucket (or a prefix of it) on one home, seen under one or more policies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountConfig {
    /// The section it comes from, such as `COS_ACCOUNT_0`: names the mount in logs and under the runtime directory.
    pub name: String,
    pub store: StoreConfig,
    /// The part of the bucket that is mounted: empty, or ending in `/`.
    pub prefix: String,
    /// Absolute, without a trailing slash.
    pub home: PathBuf,
    /// Mount although the home holds files (they are hidden meanwhile).
    pub nonempty: bool,
    pub shows: Appearance,
    /// COS user metadata keeps times, mode, owner.
    pub posix_metadata: bool,
    pub quota: QuotaConfig,
    /// How long a broken upload may be gone on with; zero: it is aborted at once.
    pub resume_window: Duration,
    /// One FUSE session each; the first, the widest, on `home`, the others under the runtime directory.
    /// Never empty, no two alike.
    pub policies: Vec<PolicyConfig>,
}

/// What may be stored; `None` = any amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QuotaConfig {
    pub bytes: Option<u64>,
    /// Objects.
    pub files: Option<u64>,
}

/// What a user may do. Two users with equal policies on one home share a FUSE session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyConfig {
    pub authority: Authority,
    pub delete_enable: bool,
    pub overwrite_enable: bool,
}

/// `authority`: contains `R`: list and read; contains `W`: store, append, mkdir, rename, delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Authority {
    pub read: bool,
    pub write: bool,
}

/// How files look to the shell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appearance {
    /// `None`: the owner of the home directory, looked up when it is mounted.
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub file_mode: u16,
    pub dir_mode: u16,
    pub allow_other: bool,
}

/// Where a bucket is and how to speak to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreConfig {
    /// `name-appid`.
    pub bucket: String,
    /// `host[:port]` without the bucket.
    pub endpoint: String,
    pub https: bool,
    pub addressing: Addressing,
    pub secret_id: String,
    pub secret_key: Secret,
    pub token: Option<Secret>,
    /// PEM file of further root certificates.
    pub ca_file: Option<PathBuf>,
    /// `http://host:port`.
    pub proxy: Option<String>,
    pub storage_class: Option<String>,
    pub sse: Option<String>,
    /// Longest time without progress of one request.
    pub timeout: Duration,
}

/// Where the bucket's name stands in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// `bucket.endpoint/key`
    Virtual,
    /// `endpoint/bucket/key`
    Path,
}

impl MountConfig {
    /// Where the session of `policy` is mounted: the first on the home, each other in a directory of its own.
    pub fn root_of(&self, policy: &PolicyConfig, runtime_dir: &Path) -> PathBuf {
        match self.policies.first() {
            Some(widest) if widest != policy => runtime_dir.join(&self.name).join(policy.directory_name()),
            _ => self.home.clone(),
        }
    }
}

impl PolicyConfig {
    /// A name that tells this policy from every other one.
    fn directory_name(&self) -> String {
        let mut name = self.authority.to_string().to_ascii_lowercase();
        if !self.delete_enable {
            name.push_str("-nodelete");
        }
        if !self.overwrite_enable {
            name.push_str("-nooverwrite");
        }
        name
    }
}

impl Default for PolicyConfig {
    fn default() -> Self {
        Self { authority: Authority { read: true, write: true }, delete_enable: true, overwrite_enable: true }
    }
}

impl Default for Appearance {
    fn default() -> Self {
        Self { uid: None, gid: None, file_mode: 0o644, dir_mode: 0o755, allow_other: true }
    }
}

impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.read, self.write) {
            (true, true) => "RW",
            (true, false) => "R",
            (false, true) => "W",
            (false, false) => "",
        })
    }
}
