//! `cosgate get`, `put` and `ls`: an FTP client for people who have none, beside the layers like the emulator.
//!
//! ```text
//! url.rs       what a URL means                     session.rs   connect, TLS, login, what the server can
//! get.rs       NAME.part, then NAME                 tls.rs       certificates that are trusted
//! put.rs       one file or a tree                   digest.rs    what arrived, against the server's checksum
//! listing.rs   lines of MLSD and LIST               password.rs  asked without echo
//! progress.rs  the bar
//! ```
//!
//! It knows nothing of this project's server but what every server may say. The protocol itself is suppaftp's.

mod digest;
mod get;
mod listing;
mod password;
mod progress;
mod put;
mod session;
mod tls;
mod url;

use std::{io, path::PathBuf};

use suppaftp::FtpError;

pub use self::{
    get::get,
    listing::ls,
    put::put,
    session::{Security, TlsWish},
    url::Url,
};

/// What every subcommand of the client is told beside its URLs.
#[derive(Debug, Clone, Default)]
pub struct ClientOptions {
    pub security: Security,
    /// Directories with all that is in them.
    pub recursive: bool,
    /// Say nothing but errors.
    pub quiet: bool,
    /// `put`: a remote file that is shorter is taken for the beginning of this one, unseen.
    pub resume: bool,
}

/// Why a file did not get where it should.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The command line makes no sense.
    #[error("{0}")]
    Usage(String),
    #[error("{doing}: {}", told(source))]
    Ftp { doing: String, source: FtpError },
    #[error("{}: {source}", path.display())]
    Local { path: PathBuf, source: io::Error },
    #[error("{0}")]
    Other(String),
    /// Each has been told already.
    #[error("{0} of the files did not get there")]
    Some(usize),
}

/// The result of the client's work.
pub type ClientResult<T> = Result<T, ClientError>;

impl ClientError {
    fn ftp(doing: impl Into<String>) -> impl FnOnce(FtpError) -> Self {
        let doing = doing.into();
        |source| Self::Ftp { doing, source }
    }

    fn local(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        |source| Self::Local { path, source }
    }

    /// Whether there is no use in going on with the next file.
    fn ends_session(&self) -> bool {
        matches!(self, Self::Ftp { source, .. } if refusal(source).is_none_or(|code| code == 421))
    }
}

/// The code of a reply that refuses; `None` where the connection failed.
fn refusal(error: &FtpError) -> Option<u32> {
    match error {
        FtpError::UnexpectedResponse(reply) => Some(reply.status.code()),
        _ => None,
    }
}

/// The server's own words, or what happened to the connection.
fn told(error: &FtpError) -> String {
    match error {
        FtpError::UnexpectedResponse(reply) => {
            format!("the server says {}", printable(&String::from_utf8_lossy(reply.body.trim_ascii_end())))
        }
        FtpError::ConnectionError(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => {
            "the server has closed the connection".to_owned()
        }
        FtpError::ConnectionError(cause) => cause.to_string(),
        other => other.to_string(),
    }
}

/// Text from a server, without what would command a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// Collects what went wrong with single files, so that one does not keep the others back.
#[derive(Debug)]
struct Failures {
    files: usize,
    failed: usize,
}

impl Failures {
    /// Of so many files.
    fn of(files: usize) -> Self {
        Self { files, failed: 0 }
    }

    /// Takes note of one file's outcome.
    ///
    /// # Errors
    /// What ends the session, or befell the only one.
    fn note(&mut self, outcome: ClientResult<()>) -> ClientResult<()> {
        match outcome {
            Ok(()) => Ok(()),
            Err(error) if error.ends_session() || self.files == 1 => Err(error),
            Err(error) => {
                eprintln!("cosgate: {error}");
                self.failed += 1;
                Ok(())
            }
        }
    }

    fn outcome(self) -> ClientResult<()> {
        if self.failed == 0 { Ok(()) } else { Err(ClientError::Some(self.failed)) }
    }
}

/// Bytes that travel at a time.
const PIECE_BYTES: usize = 256 * 1024;
/// Directories in each other at most: what is deeper is a loop of links.
const DEPTH_MAX: usize = 100;
