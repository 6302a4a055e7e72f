//! An embedded COS: for tests, for laptops and for `cosgate demo`. Faithful in signatures, XML, limits and
//! errors; judged by the vendor's own Python SDK (`tests/emulator_sdk.rs`). As COS does, it answers S3 clients
//! too, on the same port (`dialect.rs`); boto3 is their judge (`tests/emulator_s3.rs`).
//!
//! ```text
//! connection ── request ── operation ── service ──┬─ bucket, object, copy, multipart, attributes
//!   wire, body   dialect   signature, fault       └─ store ── content ── data_dir (blobs, journal)
//!        payload           signature_v4
//! ```
//!
//! It writes HTTP/1.1 itself: hyper cannot write `ETag` in the case that SDK needs. It shares types with
//! [`crate::cos`], but neither its XML nor its signing: a mistake made twice cancels out.
//!
//! - Hosts: `BUCKET.cos.REGION.myqcloud.com` and any other `NAME-APPID.…` address a bucket; an IP address,
//!   a single label, `cos.…` and `service.…` the service, with the bucket first in the path. Absolute-form
//!   targets are taken too, so it can be given as an HTTP proxy.
//! - Data lies in memory or, with [`EmulatorOptions::data`], in a directory that survives SIGKILL (not a
//!   loss of power: nothing is fsynced).
//! - [`EmulatorOptions::fast_etag`] makes ETags of parts without MD5, which costs sixteen times what
//!   CRC-64 does; PUT Object keeps its MD5.
//! - Versions, ACLs beyond `public-read`, lifecycle and the like are not there: 501 `NotImplemented`.
//! - Faults ([`Fault`], [`FaultKind`]) come by [`Emulator::add_fault`] or the admin port (`admin.rs`).
//!
//! The emulator has threads of its own, so it goes on whatever the runtime of a test does.

mod admin;
mod alarm;
mod attributes;
mod body;
mod bucket;
mod checksum;
mod clock;
mod condition;
mod connection;
mod content;
mod copy;
mod data_dir;
mod dialect;
mod document;
mod error;
mod fault;
mod history;
mod list;
mod multipart;
mod object;
mod operation;
mod payload;
mod record;
mod request;
mod response;
mod service;
mod signature;
mod signature_v4;
mod store;
mod wire;

use std::{
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{net::TcpListener, runtime::Runtime, signal::unix::SignalKind};

pub use self::fault::{Fault, FaultKind};
use self::{
    clock::Clock,
    fault::Faults,
    operation::Operation,
    service::{Counters, Service},
    signature::Credential,
    store::Store,
    wire::Pace,
};

/// How long [`Emulator::stop`] waits for work that cannot be interrupted.
const STOP_MAX: Duration = Duration::from_secs(2);

/// What an emulator is to be. The default is a port of its own choice and everything in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmulatorOptions {
    /// Port 0 = any free one.
    pub listen: SocketAddr,
    /// Where data lies; `None` = memory.
    pub data: Option<PathBuf>,
    /// Made at the start where they are missing.
    pub buckets: Vec<String>,
    pub secret_id: String,
    pub secret_key: String,
    /// Credentials that are good only with their token.
    pub temporary: Option<TemporaryCredential>,
    /// Before the first byte of each answer.
    pub latency: Duration,
    /// Bytes per second each way; 0 = as fast as it goes.
    pub per_connection_bandwidth: u64,
    /// ETags of parts without MD5, for benchmarks.
    pub fast_etag: bool,
    pub admin: Option<SocketAddr>,
    pub region: String,
    /// Takes parts of unknown length (`Transfer-Encoding: chunked`), which COS documents for PUT Object only.
    pub chunked_parts: bool,
    /// Answers path-style requests with `PathStyleDomainForbidden`, as buckets made since 2024 do.
    pub forbid_path_style: bool,
    pub blank_order: BlankOrder,
    pub limits: EmulatorLimits,
    /// The server's clock is so many milliseconds ahead; [`Emulator::move_clock`] changes it.
    pub clock_offset_ms: i64,
}

/// Credentials with a token and an end (*Request Signature*, temporary keys).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TemporaryCredential {
    pub secret_id: String,
    pub secret_key: String,
    pub token: String,
    /// Seconds since 1970.
    pub expires: i64,
}

/// Where blanks stand in an answer whose document comes late. The documentation does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BlankOrder {
    /// Declaration, blanks, root: what the vendor's SDK can read.
    #[default]
    AfterDeclaration,
    /// Blanks, declaration, root.
    BeforeDeclaration,
    /// Blanks, root.
    NoDeclaration,
}

/// COS's limits in bytes (*Specifications and Limits*); tests make them small.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EmulatorLimits {
    /// Largest PUT, part, append object and simple copy.
    pub put_bytes_max: u64,
    /// Smallest part before the last.
    pub part_bytes_min: u64,
}

impl Default for EmulatorLimits {
    fn default() -> Self {
        Self { put_bytes_max: crate::cos::PUT_BYTES_MAX, part_bytes_min: crate::cos::PART_BYTES_MIN }
    }
}

impl Default for EmulatorOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            data: None,
            buckets: vec!["demo-1250000000".to_owned()],
            secret_id: "emulator".to_owned(),
            secret_key: "emulator-secret".to_owned(),
            temporary: None,
            latency: Duration::ZERO,
            per_connection_bandwidth: 0,
            fast_etag: false,
            admin: None,
            region: "ap-guangzhou".to_owned(),
            chunked_parts: false,
            forbid_path_style: false,
            blank_order: BlankOrder::default(),
            limits: EmulatorLimits::default(),
            clock_offset_ms: 0,
        }
    }
}

/// How often an operation was asked for, and how many bytes of bodies went each way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OperationCount {
    pub count: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
}

/// A running emulator. Dropped, it is gone: its port closes and its connections end.
#[derive(Debug)]
pub struct Emulator {
    local_addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
    service: Arc<Service>,
    runtime: Option<Runtime>,
}

impl Emulator {
    /// Starts an emulator on threads of its own. It answers when this returns.
    ///
    /// # Errors
    /// A port is taken, the data directory cannot be used, or another emulator holds it.
    pub async fn start(options: EmulatorOptions) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8)))
            .thread_name("cos-emulator")
            .enable_all()
            .build()?;
        let handle = runtime.handle().clone();
        let ready = handle.spawn(Self::prepare(options)).await.map_err(io::Error::other)?;
        let (service, listener, admin) = match ready {
            Ok(ready) => ready,
            Err(error) => {
                runtime.shutdown_background();
                return Err(error);
            }
        };
        let local_addr = listener.local_addr()?;
        let admin_addr = admin.as_ref().map(TcpListener::local_addr).transpose()?;
        if let Some(admin) = admin {
            handle.spawn(admin::listen(admin, Arc::clone(&service)));
        }
        handle.spawn(listen(listener, local_addr, Arc::clone(&service)));
        Ok(Self { local_addr, admin_addr, service, runtime: Some(runtime) })
    }

    async fn prepare(
        options: EmulatorOptions,
    ) -> io::Result<(Arc<Service>, TcpListener, Option<TcpListener>)> {
        let listener = TcpListener::bind(options.listen).await?;
        let admin = match options.admin {
            Some(address) => Some(TcpListener::bind(address).await?),
            None => None,
        };
        let store = Store::open(options.data.as_deref())?;
        let clock = Clock::ahead(options.clock_offset_ms);
        for bucket in options.buckets.iter().filter(|bucket| !store.has_bucket(bucket)) {
            store.create_bucket(bucket, clock.now()).map_err(io::Error::other)?;
        }
        let mut credentials =
            vec![Credential { id: options.secret_id, key: options.secret_key, temporary: None }];
        credentials.extend(options.temporary.map(|temporary| Credential {
            id: temporary.secret_id,
            key: temporary.secret_key,
            temporary: Some((temporary.token, temporary.expires)),
        }));
        let pace = Arc::new(Pace::default());
        pace.set(options.latency, options.per_connection_bandwidth);
        let service = Service {
            store,
            credentials,
            clock,
            faults: Faults::default(),
            counters: Counters::default(),
            pace,
            region: options.region,
            fast_etag: options.fast_etag,
            chunked_parts: options.chunked_parts,
            forbid_path_style: options.forbid_path_style,
            blank_order: options.blank_order,
            limits: options.limits,
        };
        Ok((Arc::new(service), listener, admin))
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where its admin port listens, if it has one.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// Sets a fault; the ID takes it back.
    ///
    /// # Panics
    /// Where the operation's name is none.
    pub fn add_fault(&self, fault: Fault) -> u64 {
        admin::add_fault(&self.service, fault).expect("a fault names an operation of COS, or *")
    }

    /// Takes a fault back; whether it was still there.
    pub fn remove_fault(&self, id: u64) -> bool {
        admin::remove_fault(&self.service, id)
    }

    /// Takes all faults back.
    pub fn clear_faults(&self) {
        admin::clear_faults(&self.service);
    }

    /// How often an operation was asked for; zeros for a name that is none.
    pub fn count(&self, operation: &str) -> OperationCount {
        let Some(operation) = Operation::ALL.iter().find(|known| known.name() == operation) else {
            return OperationCount::default();
        };
        let counter = self.service.counters.of(*operation);
        OperationCount {
            count: counter.requests.load(Ordering::Relaxed),
            bytes_in: counter.bytes_in.load(Ordering::Relaxed),
            bytes_out: counter.bytes_out.load(Ordering::Relaxed),
        }
    }

    /// Puts the server's clock so many milliseconds ahead of the machine's.
    pub fn move_clock(&self, offset_ms: i64) {
        self.service.clock.move_to(offset_ms);
    }

    /// The keys of a bucket in byte order.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        let buckets = self.service.store.read();
        let keys = buckets.get(bucket).into_iter().flat_map(|bucket| bucket.objects.keys());
        keys.map(|key| String::from_utf8_lossy(key).into_owned()).collect()
    }

    /// How many uploads are open, in all buckets.
    pub fn open_uploads(&self) -> usize {
        self.service.store.read().values().map(|bucket| bucket.uploads.len()).sum()
    }

    /// Closes the ports, ends all connections and lets go of the data directory; takes a moment.
    pub fn stop(mut self) {
        let Some(runtime) = self.runtime.take() else {
            return;
        };
        // On a thread of its own: a runtime may not be waited for from within another one.
        let ended = std::thread::spawn(move || runtime.shutdown_timeout(STOP_MAX)).join();
        if ended.is_err() {
            tracing::warn!("emulator: its threads did not end in order");
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Not waited for: the caller may be a task itself, which must not block.
            runtime.shutdown_background();
        }
    }
}

/// Accepts connections. While a `refuse-connection` fault wants it so, the socket is closed.
async fn listen(listener: TcpListener, address: SocketAddr, service: Arc<Service>) {
    let mut open = Some(listener);
    loop {
        let changed = service.faults.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if service.faults.refuses_all() {
            open = None;
            changed.await;
            continue;
        }
        if let Some(end) = service.faults.refuses_until() {
            open = None;
            drop(tokio::time::timeout_at(end, changed).await);
            continue;
        }
        let listener = match open.take() {
            Some(listener) => listener,
            None => match TcpListener::bind(address).await {
                Ok(listener) => listener,
                Err(error) => {
                    tracing::warn!(%error, %address, "the port could not be opened again yet");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => Some(accepted),
            () = changed => None,
        };
        open = Some(listener);
        match accepted {
            None => {}
            Some(Ok((stream, _))) if service.faults.hit_connection() => wire::reset_when_dropped(&stream),
            Some(Ok((stream, _))) => {
                tokio::spawn(connection::serve(stream, Arc::clone(&service)));
            }
            Some(Err(error)) => {
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// `cosgate emulator`: serves until SIGTERM or SIGINT. Prints where it listens, a line for each port.
///
/// # Errors
/// As [`Emulator::start`].
pub fn run(options: EmulatorOptions) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(SignalKind::terminate())?;
        let mut interrupt = tokio::signal::unix::signal(SignalKind::interrupt())?;
        let emulator = Emulator::start(options).await?;
        let mut out = io::stdout().lock();
        writeln!(out, "listening on http://{}", emulator.local_addr())?;
        if let Some(admin) = emulator.admin_addr() {
            writeln!(out, "admin on http://{admin}")?;
        }
        out.flush()?;
        drop(out);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        emulator.stop();
        Ok(())
    })
}
