//! What a transfer is told, what it tells, and how it can break.
//!
//! ```text
//! desk      data connection there ── Order ──> inner session ──> MountStorage ──> receive.rs, send.rs
//!           150 <── opened                                                              │
//!           226, 4xx, 5xx <── Outcome ───────────────────────────────────────────────────┘
//! ```
//!
//! An order lies in the session's context until the stock server calls the storage; its outcome goes
//! straight back to the desk. The sender of the outcome is dropped in any case, a panic too, and a desk that
//! finds no outcome answers 451: no command is left without its final reply.

use std::{
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::io::Errno;
use tokio::sync::{Semaphore, oneshot, watch};

use super::{
    buffers::Buffers,
    command::ListRequest,
    control::ControlWatch,
    conversion::{Conversion, Garbled},
    data::{DataConnection, NotSecured},
    home::StoreHow,
    listing::Look,
    path::ClientPath,
    rate::Throttle,
    reply::{Deed, Reply, errno_of, reason},
};

/// What the next transfer is about.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) data: DataConnection,
    pub(super) work: Work,
    pub(super) path: ClientPath,
    pub(super) control: ControlWatch,
    pub(super) interrupt: watch::Receiver<Option<Interruption>>,
    /// The file is open: time for 150.
    pub(super) announcer: Announcer,
    pub(super) outcome: oneshot::Sender<Outcome>,
    pub(super) progress: Arc<AtomicU64>,
    pub(super) means: Arc<Means>,
    pub(super) throttle: Arc<Throttle>,
}

/// What is to be moved.
#[derive(Debug)]
pub(super) enum Work {
    Store {
        how: StoreHow,
        /// What ALLO has told.
        bytes_told: Option<u64>,
        conversion: Option<Conversion>,
    },
    Retrieve {
        /// From where REST says to the end, or what RANG says.
        range: Range<u64>,
        conversion: Option<Conversion>,
    },
    List {
        request: ListRequest,
        look: Look,
        conversion: Option<Conversion>,
    },
}

/// What all transfers of the front share.
#[derive(Debug)]
pub(super) struct Means {
    pub(super) buffers: Arc<Buffers>,
    /// Milliseconds: without a byte for so long, a transfer is broken.
    stall: AtomicU64,
    /// Blocking waits for the store: commits and reads. Fewer than the runtime has threads for that, so
    /// that short steps of other sessions always find one.
    pub(super) commits: Semaphore,
    /// Steps of uploads, each a few milliseconds long.
    pub(super) steps: Semaphore,
    pub(super) reads: Semaphore,
    /// Transfers in mode Z at once: each holds some 300 KiB for its windows.
    pub(super) deflates: Arc<Semaphore>,
    /// Checksums that are being computed.
    pub(super) checksums: Semaphore,
    /// Refused uploads that are listened to for a moment more.
    pub(super) drains: Arc<Semaphore>,
}

impl Means {
    pub(super) fn new(stall: Duration) -> Self {
        let means = Self {
            buffers: Arc::new(Buffers::default()),
            stall: AtomicU64::default(),
            commits: Semaphore::new(BLOCKING_WAITS_MAX),
            steps: Semaphore::new(STEPS_MAX),
            reads: Semaphore::new(BLOCKING_WAITS_MAX),
            deflates: Arc::new(Semaphore::new(DEFLATES_MAX)),
            checksums: Semaphore::new(CHECKSUMS_MAX),
            drains: Arc::new(Semaphore::new(DRAINS_MAX)),
        };
        means.set_stall(stall);
        means
    }

    /// Without a byte for so long, a transfer is broken.
    pub(super) fn stall(&self) -> Duration {
        Duration::from_millis(self.stall.load(Ordering::Relaxed))
    }

    /// For transfers that begin from now on.
    pub(super) fn set_stall(&self, stall: Duration) {
        let millis = u64::try_from(stall.as_millis()).unwrap_or(u64::MAX);
        self.stall.store(millis, Ordering::Relaxed);
    }
}

/// More would only compete for the same cores.
const STEPS_MAX: usize = 64;
/// 32 MiB at most.
const DEFLATES_MAX: usize = 100;
/// They are a matter of processors; transfers want some too.
const CHECKSUMS_MAX: usize = 8;
/// Each has a socket and 16 KiB for a second; what comes beyond them is reset.
const DRAINS_MAX: usize = 64;
/// A tokio runtime has 512 threads for blocking steps unless told otherwise.
const BLOCKING_WAITS_MAX: usize = 192;

/// What an open file says before its bytes move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Opened {
    /// Of a file to be read.
    pub(super) bytes: Option<u64>,
}

/// Tells the desk, once, that bytes are about to move.
#[derive(Debug)]
pub(super) struct Announcer(Option<oneshot::Sender<Opened>>);

impl Announcer {
    pub(super) fn new(desk: oneshot::Sender<Opened>) -> Self {
        Self(Some(desk))
    }

    pub(super) fn announce(&mut self, file: Opened) {
        // A desk that is gone already interrupts the transfer.
        self.0.take().and_then(|desk| desk.send(file).ok());
    }

    pub(super) fn has_announced(&self) -> bool {
        self.0.is_none()
    }

    /// Ends the data connection as the client has to understand it: a clean end means whole, or that
    /// nothing was ever begun.
    pub(super) fn end(&self, data: DataConnection, is_whole: bool) {
        if is_whole || !self.has_announced() { data.finish() } else { data.reset() }
    }
}

/// How a transfer ended.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) bytes: u64,
    pub(super) end: Result<Complete, Broken>,
}

/// What is good about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Complete {
    Stored,
    Sent,
    Listed {
        names: u64,
        /// `max_list_file` has left names out.
        cut: bool,
    },
}

/// Why somebody else ends a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interruption {
    Abor,
    ControlGone,
    Stopping,
}

/// Why it is not whole.
#[derive(Debug)]
pub(super) enum Broken {
    Interrupted(Interruption),
    /// No data connection came.
    NoConnection(io::Error),
    /// TLS on the data connection did not come about.
    NotSecured(NotSecured),
    /// The data ended as if the client had been killed, and `tls_strict_eof` asks for close_notify.
    NoCloseNotify,
    /// The data connection broke.
    Connection(io::Error),
    Stalled(Duration),
    SizeDiffers {
        told: u64,
        came: u64,
    },
    RestPastEnd {
        bytes: u64,
    },
    /// The file ended before its size.
    Truncated,
    /// What came is not what mode Z takes.
    Garbled(Garbled),
    Mount(Errno, Deed),
    /// Nobody has told an outcome.
    Lost,
}

impl Broken {
    /// An error of the client's socket.
    pub(super) fn of_connection(error: io::Error, stall: Duration) -> Self {
        if error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none() {
            Self::Stalled(stall)
        } else {
            Self::Connection(error)
        }
    }

    /// An error of the file.
    pub(super) fn of_mount(error: &io::Error, deed: Deed) -> Self {
        Self::Mount(errno_of(error), deed)
    }

    /// What the client reads.
    pub(super) fn reply(&self, path: &ClientPath) -> Reply {
        match self {
            Self::Interrupted(Interruption::Stopping) => {
                Reply::new(426, "Transfer aborted: the server is stopping")
            }
            Self::Interrupted(Interruption::Abor | Interruption::ControlGone) => {
                Reply::new(426, "Transfer aborted")
            }
            Self::NoConnection(error) if error.kind() == io::ErrorKind::TimedOut => {
                Reply::new(425, "No data connection came")
            }
            Self::NoConnection(_) => Reply::new(425, "Data connection failed"),
            Self::NotSecured(NotSecured::NotResumed) => Reply::new(
                522,
                "The data connection must resume the TLS session of the control connection (tls_session_reuse)",
            ),
            Self::NotSecured(NotSecured::Handshake(_)) => {
                Reply::new(425, "Data connection failed: no TLS handshake")
            }
            Self::NoCloseNotify => {
                Reply::new(426, "Transfer aborted: the data ended without close_notify (tls_strict_eof)")
            }
            Self::Connection(_) => Reply::new(426, "Data connection broke, transfer aborted"),
            Self::Stalled(time) => {
                Reply::new(426, format!("Transfer aborted: no byte for {} s", time.as_secs()))
            }
            Self::SizeDiffers { told, came } => {
                Reply::new(426, format!("Transfer aborted: ALLO told {told} bytes, {came} came"))
            }
            Self::RestPastEnd { bytes } => {
                Reply::new(554, format!("REST is past the end: {path} has {bytes} bytes"))
            }
            Self::Truncated => Reply::new(451, format!("{path}: It has become shorter meanwhile")),
            Self::Garbled(garbled) => Reply::new(426, format!("Transfer aborted: {}", garbled.why())),
            Self::Mount(errno, deed) => {
                let (code, why) = reason(*errno, *deed);
                Reply::new(code, format!("{path}: {why}"))
            }
            Self::Lost => Reply::new(451, "The server failed"),
        }
    }

    /// For the log.
    pub(super) fn why(&self) -> String {
        match self {
            Self::Interrupted(Interruption::Abor) => "ABOR".to_owned(),
            Self::Interrupted(Interruption::ControlGone) => "client has gone".to_owned(),
            Self::Interrupted(Interruption::Stopping) => "server is stopping".to_owned(),
            Self::NoConnection(error) => format!("no data connection: {error}"),
            Self::NotSecured(NotSecured::Handshake(error)) => format!("TLS handshake: {error}"),
            Self::NotSecured(NotSecured::NotResumed) => {
                "TLS session not resumed (tls_session_reuse)".to_owned()
            }
            Self::NoCloseNotify => "no close_notify (tls_strict_eof)".to_owned(),
            Self::Connection(error) => format!("data connection: {error}"),
            Self::Stalled(time) => format!("no byte for {} s", time.as_secs()),
            Self::SizeDiffers { told, came } => format!("ALLO told {told} bytes, {came} came"),
            Self::RestPastEnd { bytes } => format!("REST is past the end of {bytes} bytes"),
            Self::Truncated => "file became shorter meanwhile".to_owned(),
            Self::Garbled(garbled) => garbled.why().to_owned(),
            Self::Mount(errno, _) => errno.to_string(),
            Self::Lost => "internal failure".to_owned(),
        }
    }
}

/// Until somebody interrupts; for ever if nobody can any more.
pub(super) async fn interrupted(signal: &mut watch::Receiver<Option<Interruption>>) -> Interruption {
    match signal.wait_for(Option::is_some).await.map(|reason| *reason) {
        Ok(Some(reason)) => reason,
        // The desk itself is gone.
        Ok(None) | Err(_) => Interruption::ControlGone,
    }
}

/// Counts bytes for STAT and the log.
#[derive(Debug, Clone)]
pub(super) struct Meter(Arc<AtomicU64>);

impl Meter {
    pub(super) fn new(progress: Arc<AtomicU64>) -> Self {
        Self(progress)
    }

    pub(super) fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(super) fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
