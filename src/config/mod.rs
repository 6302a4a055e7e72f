//! LAYER 0: from what is written to what is meant.

mod ftp;
mod mount;
mod parts;
mod values;

use std::path::PathBuf;

pub use ftp::{FtpConfig, PassiveHost, UserConfig};
pub use mount::{Addressing, Appearance, Authority, Limits, MountConfig, PolicyConfig, StoreConfig};
pub use parts::{BLOCK_BYTES, PartSizes, largest_file_bytes, largest_part_bytes};
pub use values::{PassivePorts, Secret};

/// The whole configuration, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub mounts: Vec<MountConfig>,
    pub limits: Limits,
    pub ftp: FtpConfig,
    pub log: LogConfig,
}

/// Where log lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogConfig {
    pub level: tracing::Level,
    /// Beside the working directory where relative.
    pub directory: PathBuf,
    pub json: bool,
}
