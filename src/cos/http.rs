//! One request on the wire, once: what it takes along, what comes back, and when nothing moves any more.
//!
//! Bodies go out as the pieces of their payload, without a copy. Progress is each piece that the connection
//! takes and each piece of the answer; an attempt ends when there was none for a while, however long the
//! request takes in all. It does not judge answers and does not repeat anything.

use std::{
    collections::HashMap,
    convert::Infallible,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use parking_lot::Mutex;
use reqwest::{
    Certificate, Client, Method, Proxy, Response, Url,
    header::{CONTENT_LENGTH, HeaderMap, HeaderName, HeaderValue},
    redirect, retry,
};
use tokio::time::{Instant, sleep_until};

use super::Payload;
use crate::config::StoreConfig;

/// Connections to COS, shared by all buckets that are reached the same way.
#[derive(Debug, Default)]
pub struct HttpPool {
    clients: Mutex<HashMap<Way, Client>>,
}

/// How a bucket is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Way {
    https: bool,
    ca_file: Option<PathBuf>,
    proxy: Option<String>,
    timeout: Duration,
}

/// Why a client cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("cannot read the certificates in {path}")]
    CaFile { path: PathBuf, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{proxy:?} is no address of a proxy")]
    Proxy { proxy: String, source: reqwest::Error },
    #[error("{endpoint:?} is no endpoint: {why}")]
    Endpoint { endpoint: String, why: String },
    #[error("cannot set up HTTP")]
    Http(#[source] reqwest::Error),
}

impl HttpPool {
    /// A pool without a connection as yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The client for the way that `config` describes.
    pub(super) fn client(&self, config: &StoreConfig) -> Result<Client, SetupError> {
        let way = Way {
            https: config.https,
            ca_file: config.ca_file.clone(),
            proxy: config.proxy.clone(),
            timeout: config.timeout,
        };
        let mut clients = self.clients.lock();
        if let Some(client) = clients.get(&way) {
            return Ok(client.clone());
        }
        let client = new_client(&way)?;
        clients.insert(way, client.clone());
        Ok(client)
    }
}

fn new_client(way: &Way) -> Result<Client, SetupError> {
    // Another crate may have installed it before: it is the only one in this program.
    drop(rustls::crypto::ring::default_provider().install_default());
    let mut builder = Client::builder()
        .http1_only()
        .redirect(redirect::Policy::none())
        .retry(retry::never())
        .referer(false)
        .user_agent(concat!("cosgate/", env!("CARGO_PKG_VERSION")))
        .tcp_nodelay(true)
        .tcp_keepalive(KEEPALIVE)
        .tcp_keepalive_interval(KEEPALIVE)
        // A peer that is gone does not acknowledge: noticed early enough for a second attempt.
        .tcp_user_timeout(way.timeout / 2)
        .connect_timeout(way.timeout)
        .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
        .pool_idle_timeout(IDLE_MAX)
        // Only what is configured: a variable of the environment must not divert a service.
        .no_proxy();
    if let Some(proxy) = &way.proxy {
        let invalid = |source| SetupError::Proxy { proxy: proxy.clone(), source };
        builder = builder.proxy(Proxy::all(proxy).map_err(invalid)?);
    }
    if let Some(path) = &way.ca_file {
        let failed = |source| SetupError::CaFile { path: path.clone(), source };
        let pem = std::fs::read(path).map_err(|error| failed(error.into()))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| failed(error.into()))?;
        if certificates.is_empty() {
            return Err(failed("there is no certificate in it".into()));
        }
        builder = builder.tls_certs_merge(certificates);
    } else if !way.https {
        // Without TLS, a system without certificates must do, and reading them would cost time at start.
        builder = builder.tls_certs_only([]);
    }
    builder.build().map_err(SetupError::Http)
}

/// Below the 75 seconds and more after which load balancers use to drop idle connections.
const IDLE_MAX: Duration = Duration::from_secs(45);
const IDLE_CONNECTIONS_MAX: usize = 1024;
const KEEPALIVE: Duration = Duration::from_secs(15);

/// A request, signed.
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) payload: Option<Payload>,
}

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// The whole body, unless it is in `stream`.
    pub(super) body: Bytes,
    pub(super) stream: Option<Response>,
}

/// Nothing, or not all, came back.
#[derive(Debug)]
pub(super) struct Lost {
    /// Whether COS may have received the whole request.
    pub(super) may_have_arrived: bool,
    /// Nothing moved any more, as opposed to a connection that broke or was refused.
    pub(super) is_stalled: bool,
    /// The status, if that much came back.
    pub(super) status: Option<u16>,
    pub(super) source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Hears the beginning of a body that is still coming, longer each time.
pub(super) type Listener<'a> = &'a (dyn Fn(&[u8]) + Send + Sync);

/// What is done with the body of a success.
#[derive(Clone, Copy)]
pub(super) enum Wants<'a> {
    Whole,
    /// All of it; its first [`BEGINNING_BYTES_MAX`] are shown to a listener as they come.
    Beginning(Listener<'a>),
    /// It is left to be read.
    Stream,
}

/// Before its entries a list says its prefix, its marker and where the next one begins: 2.5 KB each, escaped.
const BEGINNING_BYTES_MAX: usize = 16 << 10;

/// Sends `request` and reads what comes back. Gives up when nothing has moved for `stall`. `progress` tells
/// afterwards when something last did.
pub(super) async fn exchange(
    client: &Client,
    request: Signed,
    wants: Wants<'_>,
    stall: Duration,
    progress: &Arc<Progress>,
) -> Result<Answer, Lost> {
    let sends_body = request.payload.as_ref().is_some_and(|payload| !payload.is_empty());
    let lost = |is_stalled, status, error: Option<reqwest::Error>| {
        let is_connecting = error.as_ref().is_some_and(|error| error.is_connect() || error.is_builder());
        Lost {
            may_have_arrived: !is_connecting && (!sends_body || progress.is_handed_over()),
            is_stalled: is_stalled || error.as_ref().is_some_and(reqwest::Error::is_timeout),
            status,
            source: error.map(|error| error.without_url().into()),
        }
    };
    let sent = client.execute(into_http(request, progress));
    let mut response = match progress.watch(stall, sent).await {
        Err(Stalled) => return Err(lost(true, None, None)),
        Ok(Err(error)) => return Err(lost(false, None, Some(error))),
        Ok(Ok(response)) => response,
    };
    progress.answered();
    let status = response.status().as_u16();
    let headers = std::mem::take(response.headers_mut());
    let is_success = response.status().is_success();
    if matches!(wants, Wants::Stream) && is_success {
        return Ok(Answer { status, headers, body: Bytes::new(), stream: Some(response) });
    }
    let mut body = BytesMut::new();
    loop {
        match progress.watch(stall, response.chunk()).await {
            Err(Stalled) => return Err(lost(true, Some(status), None)),
            Ok(Err(error)) => return Err(lost(false, Some(status), Some(error))),
            Ok(Ok(None)) => break,
            Ok(Ok(Some(chunk))) if body.len() + chunk.len() <= DOCUMENT_BYTES_MAX => {
                let heard = body.len();
                body.extend_from_slice(&chunk);
                if let Wants::Beginning(listener) = wants
                    && is_success
                    && heard < BEGINNING_BYTES_MAX
                {
                    listener(&body[..body.len().min(BEGINNING_BYTES_MAX)]);
                    // Whoever was told something goes first: to read the rest takes its time.
                    tokio::task::yield_now().await;
                }
            }
            Ok(Ok(Some(_))) => return Err(lost(false, Some(status), None)),
        }
        progress.moved();
    }
    Ok(Answer { status, headers, body: body.freeze(), stream: None })
}

/// A list of 1,000 keys of 850 bytes, each byte escaped, has 2.5 MB; blanks of a long merge come on top.
const DOCUMENT_BYTES_MAX: usize = 16 << 20;

fn into_http(request: Signed, progress: &Arc<Progress>) -> reqwest::Request {
    let mut http = reqwest::Request::new(request.method, request.url);
    *http.headers_mut() = request.headers;
    if let Some(payload) = request.payload {
        http.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(payload.len()));
        if !payload.is_empty() {
            *http.body_mut() = Some(reqwest::Body::wrap(PieceBody::new(payload, Arc::clone(progress))));
        }
    }
    http
}

/// When something last moved.
#[derive(Debug)]
pub(super) struct Progress {
    begun: Instant,
    /// Milliseconds after `begun`.
    moved: AtomicU64,
    /// When the connection had taken all of the request's body; `NEVER` before that, and without a body.
    handed_over: AtomicU64,
    answered: AtomicBool,
}

const NEVER: u64 = u64::MAX;

/// Nothing moved for too long.
#[derive(Debug)]
pub(super) struct Stalled;

impl Progress {
    /// The progress of an exchange that begins now.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            moved: AtomicU64::new(0),
            handed_over: AtomicU64::new(NEVER),
            answered: AtomicBool::new(false),
        })
    }

    /// When something last moved; the beginning, if nothing did.
    pub(super) fn last(&self) -> Instant {
        self.begun + Duration::from_millis(self.moved.load(Ordering::Relaxed))
    }

    fn moved(&self) {
        self.moved.store(self.now(), Ordering::Relaxed);
    }

    fn handed_over(&self) {
        self.handed_over.store(self.now(), Ordering::Relaxed);
    }

    fn is_handed_over(&self) -> bool {
        self.handed_over.load(Ordering::Relaxed) != NEVER
    }

    fn answered(&self) {
        self.moved();
        self.answered.store(true, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(NEVER - 1)
    }

    /// When to give up. Between the body's last piece and the answer lies what the kernel still holds; how
    /// fast that drains shows in how fast the rest was taken. So a slow line gets more time for it.
    fn deadline(&self, stall: Duration) -> Instant {
        let deadline = self.last() + stall;
        let handed_over = self.handed_over.load(Ordering::Relaxed);
        if handed_over == NEVER || self.answered.load(Ordering::Relaxed) {
            return deadline;
        }
        deadline + Duration::from_millis(handed_over).saturating_mul(8).min(stall * 4)
    }

    /// Waits for `step`, as long as something moves.
    async fn watch<T>(&self, stall: Duration, step: impl Future<Output = T>) -> Result<T, Stalled> {
        let mut step = std::pin::pin!(step);
        loop {
            let deadline = self.deadline(stall);
            tokio::select! {
                biased;
                outcome = &mut step => return Ok(outcome),
                () = sleep_until(deadline) => {
                    if self.deadline(stall) <= Instant::now() {
                        return Err(Stalled);
                    }
                }
            }
        }
    }
}

/// The pieces of a payload as a body of exactly known length, in slices small enough to tell progress by.
#[derive(Debug)]
struct PieceBody {
    payload: Payload,
    next: usize,
    /// What is left of the piece before `next`.
    rest: Bytes,
    bytes_left: u64,
    progress: Arc<Progress>,
}

impl PieceBody {
    fn new(payload: Payload, progress: Arc<Progress>) -> Self {
        Self { next: 0, rest: Bytes::new(), bytes_left: payload.len(), payload, progress }
    }
}

/// The connection takes slices until it holds 400 KB or so, then one for each that it could pass on.
const SLICE_BYTES_MAX: usize = 128 << 10;

impl Body for PieceBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let may_end = self.payload.poll_let_go(context).is_ready();
        if self.bytes_left == 1 && !may_end {
            return Poll::Pending;
        }
        self.progress.moved();
        while self.rest.is_empty() {
            let Some(piece) = self.payload.pieces().get(self.next).cloned() else { return Poll::Ready(None) };
            self.next += 1;
            self.rest = piece;
        }
        let mut slice_bytes = self.rest.len().min(SLICE_BYTES_MAX);
        if slice_bytes as u64 == self.bytes_left && !may_end {
            slice_bytes -= 1;
        }
        let slice = self.rest.split_to(slice_bytes);
        self.bytes_left -= slice.len() as u64;
        if self.bytes_left == 0 {
            self.progress.handed_over();
            self.payload.note_taken();
        }
        Poll::Ready(Some(Ok(Frame::data(slice))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes_left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes_left)
    }
}

/// The body of a GET, piece by piece, with a deadline for each.
#[derive(Debug)]
pub(super) struct Incoming {
    response: Response,
    stall: Duration,
}

impl Incoming {
    pub(super) fn new(response: Response, stall: Duration) -> Self {
        Self { response, stall }
    }

    /// The next piece; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Lost> {
        let lost = |is_stalled, error: Option<reqwest::Error>| Lost {
            may_have_arrived: true,
            is_stalled,
            status: None,
            source: error.map(|error| error.without_url().into()),
        };
        match tokio::time::timeout(self.stall, self.response.chunk()).await {
            Err(_) => Err(lost(true, None)),
            Ok(Err(error)) => Err(lost(false, Some(error))),
            Ok(Ok(piece)) => Ok(piece),
        }
    }
}

/// Headers from names and values that are ASCII by construction.
///
/// # Errors
/// The name of the one that is not, as a storage class from the configuration may be.
pub(super) fn header_map(pairs: &[(&str, &str)]) -> Result<HeaderMap, String> {
    let pair = |(name, value): &(&str, &str)| {
        let header = HeaderName::try_from(*name).ok().zip(HeaderValue::from_str(value).ok());
        // The value may be a secret.
        header.ok_or_else(|| format!("the value for the header {name} cannot be sent"))
    };
    pairs.iter().map(pair).collect()
}
