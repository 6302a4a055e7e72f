//! TLS of the front: the certificate of now, and what sessions make of it.
//!
//! ```text
//! files ── read, read again ──> ServerConfig ── one clone per control connection ──> SessionTls
//!                                                └─ one per data connection, sharing its Tickets ──> DataTls
//! ```
//!
//! Every control connection keeps the sessions that it can resume for itself alone. So a data connection that has
//! resumed one has proved that it belongs to that control connection, which is what `tls_session_reuse = required`
//! asks for. What a data connection could be resumed by is kept only once it has proved so: else a stranger's
//! first connection would open the door to his second one.

use std::{
    collections::VecDeque,
    fs, io,
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::{Mutex, RwLock};
use rustls::{
    ServerConfig,
    server::{NoServerSessionStorage, StoresServerSessions},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tracing::{error, info, warn};

use crate::config::{Certificate, CertificateError, TlsConfig, tls_provider};

/// How often the files are looked at.
const LOOK_PERIOD: Duration = Duration::from_secs(2);
/// Sessions of a control connection that stay until it ends: two tickets of TLS 1.3, or one session of 1.2.
const OWN_TICKETS_MAX: usize = 4;
/// Sessions of its data connections: clients that use a ticket once (RFC 8446 appendix C.4) take one of the last.
const RECENT_TICKETS_MAX: usize = 8;

/// TLS as it is set up, with the certificate of now.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) config: TlsConfig,
    server: RwLock<Arc<ServerConfig>>,
    seen: Mutex<Seen>,
}

/// Of the certificate's file and the key's.
type Stamps = [Option<Stamp>; 2];

/// What changes when a file does: a certificate is often put in place by a rename.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

/// What the files were like.
#[derive(Debug, Clone, Copy)]
struct Seen {
    /// When they were read last.
    read: Stamps,
    /// At the last look.
    last: Stamps,
}

/// The TLS of one control connection.
#[derive(Debug)]
pub(super) struct SessionTls {
    server: Arc<ServerConfig>,
    tickets: Arc<Tickets>,
    must_resume: bool,
    is_strict: bool,
}

/// What one data connection's TLS begins with.
#[derive(Debug)]
pub(super) struct DataTls {
    pub(super) config: Arc<ServerConfig>,
    pub(super) tickets: Arc<Tickets>,
    pub(super) must_resume: bool,
    /// An upload has to end with close_notify.
    pub(super) is_strict: bool,
}

impl Tls {
    /// Reads the certificate.
    ///
    /// # Errors
    /// As [`TlsConfig::read_certificate`].
    pub(super) fn new(config: &TlsConfig) -> Result<Self, CertificateError> {
        let stamps = stamps(config);
        let certificate = config.read_certificate()?;
        Ok(Self {
            config: config.clone(),
            server: RwLock::new(Arc::new(server_config(certificate.key))),
            seen: Mutex::new(Seen { read: stamps, last: stamps }),
        })
    }

    /// What `config` asks for. Where its certificate cannot be read, the old one goes on, if there is one.
    pub(super) fn renewed(old: Option<&Arc<Self>>, config: Option<&TlsConfig>) -> Option<Arc<Self>> {
        let config = config?;
        match (Self::new(config), old) {
            (Ok(new), _) => Some(Arc::new(new)),
            (Err(error), Some(old)) => {
                error!(%error, "the new certificate cannot be used, the old one goes on");
                let (server, seen) = (old.server.read().clone(), *old.seen.lock());
                Some(Arc::new(Self {
                    config: config.clone(),
                    server: RwLock::new(server),
                    seen: Mutex::new(seen),
                }))
            }
            (Err(error), None) => {
                error!(%error, "no TLS: the certificate cannot be used");
                None
            }
        }
    }

    /// Reads the files again. Sessions that are there go on with the certificate they know.
    ///
    /// # Errors
    /// As [`TlsConfig::read_certificate`]; the old certificate goes on.
    pub(super) fn read_again(&self) -> Result<(), CertificateError> {
        let stamps = stamps(&self.config);
        *self.seen.lock() = Seen { read: stamps, last: stamps };
        let Certificate { key, warnings } = self.config.read_certificate()?;
        for (setting, why) in warnings {
            warn!("[NETWORK] {setting}: {why}");
        }
        *self.server.write() = Arc::new(server_config(key));
        info!(file = %self.config.certificate_file.display(), "certificate read");
        Ok(())
    }

    /// Reads the files again where they have changed since, and not since the last look: certificate and key are two
    /// files, and between the one and the other they do not fit.
    pub(super) fn look(&self) {
        let stamps = stamps(&self.config);
        let is_new = {
            let mut seen = self.seen.lock();
            let is_settled = std::mem::replace(&mut seen.last, stamps) == stamps;
            is_settled && seen.read != stamps
        };
        if is_new && let Err(error) = self.read_again() {
            error!(%error, "the changed certificate cannot be used, the old one goes on");
        }
    }

    /// For one control connection.
    pub(super) fn session(&self) -> SessionTls {
        let mut server = ServerConfig::clone(&self.server.read());
        let tickets = Arc::new(Tickets::default());
        server.session_storage = tickets.clone();
        SessionTls {
            server: Arc::new(server),
            tickets,
            must_resume: self.config.session_reuse_required,
            is_strict: self.config.strict_eof,
        }
    }
}

/// Until the next look at the files.
pub(super) async fn until_next_look() {
    tokio::time::sleep(LOOK_PERIOD).await;
}

impl SessionTls {
    /// Of the control connection itself.
    pub(super) fn control(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// The control connection is secured: what it began can be resumed as long as it lasts.
    pub(super) fn seal(&self) {
        self.tickets.adopt_own();
    }

    /// For one data connection.
    pub(super) fn data(&self) -> DataTls {
        let tickets = Arc::new(Tickets { kept: self.tickets.kept.clone(), fresh: Mutex::default() });
        let mut config = ServerConfig::clone(&self.server);
        config.session_storage = tickets.clone();
        let config = Arc::new(config);
        DataTls { config, tickets, must_resume: self.must_resume, is_strict: self.is_strict }
    }
}

fn server_config(key: Arc<CertifiedKey>) -> ServerConfig {
    let mut config = ServerConfig::builder_with_provider(Arc::new(tls_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has suites for TLS 1.2 and 1.3")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(CertifiedKey::clone(&key))));
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // No 0-RTT: it could be replayed. And without it a ticket may be used twice, as OpenSSL's clients do.
    config.max_early_data_size = 0;
    config
}

fn stamps(config: &TlsConfig) -> Stamps {
    [&config.certificate_file, &config.key_file].map(|path| stamp(path).ok())
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    use std::os::unix::fs::MetadataExt;
    let facts = fs::metadata(path)?;
    Ok(Stamp { modified: facts.modified().ok(), bytes: facts.len(), inode: facts.ino() })
}

/// What the sessions of one handshake can be resumed by, and those of the control connection it belongs to.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    kept: Arc<Mutex<Kept>>,
    /// Of this handshake.
    fresh: Mutex<Vec<Entry>>,
}

/// By which a client names a session, and what the server needs to know.
type Entry = (Vec<u8>, Vec<u8>);

#[derive(Default)]
struct Kept {
    own: Vec<Entry>,
    recent: VecDeque<Entry>,
}

impl std::fmt::Debug for Kept {
    /// Without secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kept({} + {})", self.own.len(), self.recent.len())
    }
}

impl Tickets {
    /// A data connection has proved where it belongs.
    pub(super) fn adopt(&self) {
        let mut kept = self.kept.lock();
        for entry in self.fresh.lock().drain(..) {
            if kept.recent.len() == RECENT_TICKETS_MAX {
                kept.recent.pop_front();
            }
            kept.recent.push_back(entry);
        }
    }

    fn adopt_own(&self) {
        let own = std::mem::take(&mut *self.fresh.lock());
        self.kept.lock().own = own;
    }
}

impl StoresServerSessions for Tickets {
    fn put(&self, name: Vec<u8>, session: Vec<u8>) -> bool {
        let mut fresh = self.fresh.lock();
        let has_room = fresh.len() < OWN_TICKETS_MAX;
        if has_room {
            fresh.push((name, session));
        }
        has_room
    }

    fn get(&self, name: &[u8]) -> Option<Vec<u8>> {
        let kept = self.kept.lock();
        let mut all = kept.own.iter().chain(&kept.recent);
        all.find(|(known, _)| known == name).map(|(_, session)| session.clone())
    }

    /// Not taken away: OpenSSL's clients present the ticket of the control connection for each data connection.
    fn take(&self, name: &[u8]) -> Option<Vec<u8>> {
        self.get(name)
    }

    fn can_cache(&self) -> bool {
        true
    }
}
