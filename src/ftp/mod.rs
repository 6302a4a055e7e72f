//! LAYER 3: the client's words.
//!
//! The stock FTP server (libunftp over unftp-sbe-fs) executes every file command, but a **front desk** of
//! our own owns all sockets of the client: what faces the network is ours, what faces files is stock.
//!
//! ```text
//! client control ──> desk (FrontDesk) ──loopback──> inner (libunftp session, one Server per session)
//! client data    ──> SessionContext's order <── storage (MountStorage around unftp-sbe-fs) ──> the mount
//! ```
//!
//! | file | is |
//! |---|---|
//! | `listener`, `arrival`, `proxy`, `seats` | who may connect, how many |
//! | `control`, `command`, `verbs`, `names`, `path` | bytes into lines, lines into commands, names, absolute paths |
//! | `options`, `site`, `times`, `checksum` | OPTS and its kin, SITE, times and modes that are set, HASH and its kin |
//! | `live` | what all sessions share, and what a reload replaces |
//! | `desk`, `answer`, `conduct` | one session; its commands of one reply; one transfer of it |
//! | `login`, `users`, `lockout` | USER and PASS, who may log in, who has failed too often |
//! | `reply` | what is said, and the one table from errno to reply |
//! | `inner`, `storage` | the seam to libunftp, both ends |
//! | `home` | the root descriptor that must be a mount |
//! | `door`, `passive`, `active` | how the data connection comes about |
//! | `tls`, `security`, `tls_wire` | the certificate of now; AUTH and PROT; TLS on a data connection |
//! | `data`, `transfer`, `receive`, `send`, `buffers` | the data connection and the bytes on it |
//! | `conversion`, `ascii`, `deflate` | what happens to bytes in between: type A, mode Z |
//! | `quota` | what is left of one: AVBL, SITE QUOTA, ALLO |
//! | `rate` | how fast a user's bytes may move |
//! | `records` | the access log and the xferlog |
//! | `listing`, `glob` | lines of listings, patterns |
//!
//! What comes later has its place: rates in `receive` and `send`.

mod active;
mod answer;
mod arrival;
mod ascii;
mod buffers;
mod checksum;
mod command;
mod conduct;
mod control;
mod conversion;
mod data;
mod deflate;
mod desk;
mod door;
#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod gate_tests;
mod glob;
mod home;
mod inner;
mod listener;
mod listing;
mod live;
mod lockout;
mod login;
mod names;
mod options;
mod passive;
mod path;
mod proxy;
mod quota;
mod rate;
mod receive;
mod records;
mod reply;
mod resume;
mod seats;
mod security;
mod send;
mod settle;
mod site;
mod storage;
mod times;
mod tls;
#[cfg(test)]
mod tls_tests;
mod tls_wire;
mod transfer;
mod users;
mod verbs;
#[cfg(test)]
mod wire_tests;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use thiserror::Error;
use tokio::sync::watch;

pub use self::records::Records;
use self::{home::Ground, listener::Listeners, live::Front};
use crate::config::{CertificateError, FtpConfig};

/// Why the front cannot start.
#[derive(Debug, Error)]
pub enum FtpError {
    #[error("cannot listen on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: std::io::Error,
    },
    #[error("no address to listen on")]
    NoAddress,
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

/// The FTP front: bound, then served.
#[derive(Debug)]
pub struct FtpFront {
    listeners: Listeners,
    shared: Arc<Front>,
}

/// Applies new configurations to a running front.
#[derive(Debug, Clone)]
pub struct FtpControl(Arc<Front>);

impl FtpControl {
    /// Reads the certificate again. Sessions that are there go on with the one they know.
    ///
    /// # Errors
    /// Where it cannot be used: then the old one goes on.
    pub fn read_certificate(&self) -> Result<(), CertificateError> {
        self.0.now().tls.as_ref().map_or(Ok(()), |tls| tls.read_again())
    }

    /// Users, limits, rates and everything else that sessions read. Sessions of a user who is gone, or whose
    /// password, home or rights are others, are told 421 after their transfer; all others go on.
    ///
    /// The certificate is read again; one that cannot be used is logged, and the old one goes on.
    ///
    /// Returns the keys whose change needs a restart; they keep their old values.
    pub fn apply(&self, config: &FtpConfig) -> Vec<&'static str> {
        self.0.apply(config)
    }
}

/// Where the front stands on its way from start to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// No new session, no new command; transfers in flight go on.
    Draining,
    /// Transfers in flight are broken.
    Breaking,
}

/// Until the front has come to `phase`, or is no more.
async fn reached(told: &mut watch::Receiver<Phase>, phase: Phase) {
    drop(told.wait_for(|now| *now >= phase).await);
}

/// How long sessions may take to say goodbye once their transfers are broken.
const GOODBYE_TIME: Duration = Duration::from_secs(5);

impl FtpFront {
    /// Binds the control port on every address; clients wait until [`Self::serve`] accepts them. Must be
    /// called within a tokio runtime.
    ///
    /// # Errors
    /// Where a port is taken. An address family that this machine has not got is passed over with a
    /// warning, unless it is the only one.
    pub fn bind(config: &FtpConfig, records: Records) -> Result<Self, FtpError> {
        Self::on(config, Ground::Mount, records)
    }

    fn on(config: &FtpConfig, ground: Ground, records: Records) -> Result<Self, FtpError> {
        let shared = Arc::new(Front::new(config, ground, records)?);
        let implicit_port = config.tls.as_ref().and_then(|tls| tls.implicit_port);
        let listeners = Listeners::bind(&config.listen_addresses, config.listen_port, implicit_port)?;
        Ok(Self { listeners, shared })
    }

    /// What reloads it while it serves.
    pub fn control(&self) -> FtpControl {
        FtpControl(self.shared.clone())
    }

    /// The ports it listens on, one for each address.
    pub fn local_ports(&self) -> Vec<u16> {
        self.listeners.ports()
    }

    /// Those where TLS begins with the first byte.
    pub fn implicit_ports(&self) -> Vec<u16> {
        self.listeners.implicit_ports()
    }

    /// Serves until `stop` is ready. Then no new session begins, idle ones are told 421, transfers in
    /// flight may go on for `grace` and are broken after it. Returns when no session is left.
    pub async fn serve(self, stop: impl Future<Output = ()>, grace: Duration) {
        let Self { listeners, shared } = self;
        let (phase, told) = watch::channel(Phase::Serving);
        let looking_up = {
            let shared = shared.clone();
            tokio::spawn(async move { shared.keep_looking_up().await })
        };
        let keeping_certificate = {
            let shared = shared.clone();
            tokio::spawn(async move { shared.keep_certificate().await })
        };
        let mut sessions = listeners.accept(&shared, &told);
        drop(told);
        stop.await;
        looking_up.abort();
        keeping_certificate.abort();
        phase.send_replace(Phase::Draining);
        sessions.close();
        if tokio::time::timeout(grace, sessions.ended()).await.is_err() {
            phase.send_replace(Phase::Breaking);
            if tokio::time::timeout(GOODBYE_TIME, sessions.ended()).await.is_err() {
                tracing::warn!("sessions left behind at stop");
            }
        }
    }
}
