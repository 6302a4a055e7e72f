//! `cosgate demo`: an embedded store, two users, their mounts and FTP; no account, no network.

use std::path::PathBuf;

/// What `cosgate demo` was asked for.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// `None`: a temporary directory, removed at the end.
    pub dir: Option<PathBuf>,
    pub port: u16,
}

/// Runs the demonstration until it is asked to stop.
///
/// # Errors
/// Without the right to mount, or where the port is taken.
pub fn run(_options: &DemoOptions) -> anyhow::Result<()> {
    todo!()
}
