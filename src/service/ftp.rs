//! The life of `cosgate ftp`.

use crate::config::Config;

/// Serves FTP over directories that are mounted already, until it is asked to stop.
///
/// # Errors
/// Where the FTP port is taken.
pub fn run(_config: &Config) -> anyhow::Result<()> {
    todo!()
}
