//! What a mount is: bucket, region, prefix, home, and the policies under which it is seen.

use std::{path::PathBuf, time::Duration};

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
    /// One FUSE session each; the first, the widest, on `home`, the others under the runtime directory.
    /// Never empty, no two alike.
    pub policies: Vec<PolicyConfig>,
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
    pub attr_ttl: Duration,
    /// How long uploads in flight may go on once a stop has been asked for.
    pub grace: Duration,
    /// Keys of this program in the bucket, relative to the mounted prefix; ends in `/`.
    pub state_prefix: String,
}
