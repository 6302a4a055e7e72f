//! What the FTP front is: listener, passive ports, passive host, users.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use super::{PassivePorts, PolicyConfig, Secret};

/// The FTP front.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FtpConfig {
    /// One socket each: `0.0.0.0` and `[::]` by default.
    pub listen_addresses: Vec<IpAddr>,
    /// 0 = any free one (tests), the same on every address.
    pub listen_port: u16,
    pub passive_ports: PassivePorts,
    /// What passive clients are told instead of the address they came to.
    pub passive_host: Option<PassiveHost>,
    /// 0 = as many as the descriptors allow.
    pub sessions_max: usize,
    pub login_timeout: Duration,
    pub idle_timeout: Duration,
    /// A transfer in which no byte moves for so long is broken.
    pub stall_timeout: Duration,
    pub banner: String,
    /// Names that a LIST or NLST returns at most; `None` = all.
    pub list_names_max: Option<usize>,
    pub users: Vec<UserConfig>,
}

/// `masquerade_address`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassiveHost {
    Address(IpAddr),
    /// Looked up again every minute.
    Name(String),
}

/// Who may log in, and where home is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserConfig {
    pub name: String,
    pub password: Secret,
    /// Name of the mount ([`super::MountConfig::name`]).
    pub mount: String,
    /// Where the session of this user's policy is mounted: the home itself or a directory under the runtime directory.
    pub root: PathBuf,
    pub policy: PolicyConfig,
}
