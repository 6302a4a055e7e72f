//! One range of an object, on its way into memory or there.
//!
//! A task asks for the range and copies what arrives, once, into pieces of the budget's memory that end where
//! the object's MiB end, if not before; readers are given slices of them, also while the rest is still coming. A body that breaks
//! off is asked for again from where it stopped, and only of the same version; so is, beside the first request,
//! one that stands still (`pace.rs`).

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};
use futures_util::{
    StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use parking_lot::Mutex;
use tokio::{
    runtime::Handle as Runtime,
    sync::watch,
    task::AbortHandle,
    time::{Instant as Moment, sleep_until},
};
use tracing::debug;

use super::{
    Budget, Room, VfsError, VfsResult,
    budget::{Connection, Piece},
    pace::{Pace, Second, Seconds},
};
use crate::cos::{ByteRange, CosError, Crc64, ETag, Key, ObjectBody, ObjectStore, Reason};

/// Longest contiguous piece: what the kernel reads at most at a time.
pub(super) const PIECE_BYTES: u64 = 1 << 20;
/// How often a broken body is asked for again without a byte in between.
const RETRIES_MAX: u32 = 4;
/// Before the first of them; the next ones wait twice as long each.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// How often one range is asked for beside a request that stands still.
const SECONDS_OF_RANGE: u32 = 2;

/// Which object, and which version of it.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) key: Key,
    pub(super) name: Arc<str>,
    pub(super) etag: ETag,
    pub(super) pace: Arc<Pace>,
    pub(super) seconds: Seconds,
}

/// A request and the body that it brings, as one stream: its first item is the first piece of the body.
type Flow = BoxStream<'static, Result<Bytes, Ended>>;

/// What `body` brings. It holds its connection until it is dropped.
fn flow_of(body: ObjectBody, connection: Connection) -> Flow {
    body.bytes.map_err(Ended::Broken).inspect(move |_| _ = &connection).boxed()
}

/// Why a flow ended.
enum Ended {
    /// The request failed, and has been repeated already.
    Refused(CosError),
    /// Its body broke off.
    Broken(CosError),
}

impl Source {
    /// Asks for `first..end`.
    fn flow(&self, first: u64, end: u64, connection: Connection) -> Flow {
        let source = self.clone();
        let asked = async move {
            let range = ByteRange { first, length: end - first };
            let body = source.store.get_object(&source.key, Some(range), Some(&source.etag)).await;
            body.map(|body| flow_of(body, connection)).map_err(Ended::Refused)
        };
        stream::once(asked).try_flatten().boxed()
    }

    fn error(&self, error: CosError) -> VfsError {
        match error.reason {
            // There was such an object when the handle's first bytes came.
            Reason::NoSuchKey => VfsError::ReplacedMeanwhile { name: self.name.to_string() },
            _ => VfsError::from_cos(error, &self.name),
        }
    }
}

/// A range, on its way or there. Dropping it stops the task.
pub(super) struct Fetch {
    pub(super) first: u64,
    pub(super) end: u64,
    /// When it was last read from.
    pub(super) used: Mutex<Instant>,
    inside: Arc<Inside>,
    abort: AbortHandle,
    /// The memory it is given, back when it goes.
    room: Room,
}

struct Inside {
    budget: Arc<Budget>,
    first: u64,
    end: u64,
    arrived: Mutex<Arrived>,
    /// Told at each arrival and at the end.
    news: watch::Sender<()>,
}

struct Arrived {
    pieces: Vec<Bytes>,
    filling: Option<Piece>,
    /// Where in the object what has arrived ends.
    upto: u64,
    checksum: Digest,
    outcome: Option<VfsResult<()>>,
}

impl fmt::Debug for Fetch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fetch").field("first", &self.first).field("end", &self.end).finish_non_exhaustive()
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.abort.abort();
    }
}

impl Fetch {
    /// Begins to fetch `first..end`; what `body` brings, if there is one already. Without a `connection` it waits for one.
    pub(super) fn begin(
        runtime: &Runtime,
        source: Source,
        first: u64,
        end: u64,
        body: Option<ObjectBody>,
        connection: Option<Connection>,
        room: Room,
    ) -> Arc<Self> {
        let arrived = Arrived {
            pieces: Vec::new(),
            filling: None,
            upto: first,
            checksum: Digest::new(CrcAlgorithm::Crc64Xz),
            outcome: None,
        };
        let inside = Arc::new(Inside {
            budget: room.budget().clone(),
            first,
            end,
            arrived: Mutex::new(arrived),
            news: watch::channel(()).0,
        });
        let task = runtime.spawn(run(inside.clone(), source, body, connection));
        let used = Mutex::new(Instant::now());
        Arc::new(Self { first, end, used, inside, abort: task.abort_handle(), room })
    }

    /// The bytes `from..to` of the object, which must lie in the range; waits until they are there.
    ///
    /// # Errors
    /// What ended the range before they came.
    pub(super) async fn bytes(&self, from: u64, to: u64) -> VfsResult<Bytes> {
        *self.used.lock() = Instant::now();
        let mut news = self.inside.news.subscribe();
        loop {
            if let Some(answer) = self.inside.take(from, to) {
                return answer;
            }
            if news.changed().await.is_err() {
                return Err(VfsError::Stopping);
            }
        }
    }

    /// The checksum of the whole range, once it is there.
    pub(super) fn checksum(&self) -> Option<Crc64> {
        let arrived = self.inside.arrived.lock();
        matches!(arrived.outcome, Some(Ok(()))).then(|| Crc64(arrived.checksum.finalize()))
    }

    /// Memory that it holds.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.room.bytes()
    }

    /// There was no memory to keep it in: it goes with the read that asked for it.
    pub(super) fn is_passing(&self) -> bool {
        self.room.is_beyond()
    }

    pub(super) fn has_failed(&self) -> bool {
        matches!(self.inside.arrived.lock().outcome, Some(Err(_)))
    }
}

async fn run(
    inside: Arc<Inside>,
    source: Source,
    mut body: Option<ObjectBody>,
    mut connection: Option<Connection>,
) {
    let mut tries = 0;
    let outcome = loop {
        let before = inside.upto();
        let connection = match connection.take() {
            Some(connection) => connection,
            None => inside.budget.connection().await,
        };
        let flow = match body.take() {
            Some(body) => flow_of(body, connection),
            None => source.flow(before, inside.end, connection),
        };
        match inside.fill(&source, flow).await {
            Ok(()) => break Ok(()),
            Err(Ended::Refused(error)) => break Err(source.error(error)),
            Err(Ended::Broken(error)) => {
                tries = if inside.upto() > before { 1 } else { tries + 1 };
                if error.reason == Reason::Corrupt || tries > RETRIES_MAX {
                    break Err(source.error(error));
                }
                debug!(key = %source.key, %error, at = inside.upto(), "a body broke off, going on from there");
                tokio::time::sleep(RETRY_AFTER * (1 << (tries - 1))).await;
            }
        }
    };
    inside.arrived.lock().outcome = Some(outcome);
    inside.news.send_replace(());
}

/// What happens to a range next.
enum Event {
    First(Option<Result<Bytes, Ended>>),
    Second(Option<Result<Bytes, Ended>>),
    Standstill,
}

/// The next piece of the second request; for ever where there is none.
async fn next_of(second: &mut Option<(Flow, Second)>) -> Option<Result<Bytes, Ended>> {
    match second {
        Some((flow, _)) => flow.next().await,
        None => std::future::pending().await,
    }
}

impl Inside {
    fn upto(&self) -> u64 {
        self.arrived.lock().upto
    }

    /// Takes what `flow` brings, or a second one beside it once it stands still.
    async fn fill(&self, source: &Source, mut flow: Flow) -> Result<(), Ended> {
        let pace = &source.pace;
        let mut second: Option<(Flow, Second)> = None;
        let mut seconds_left = SECONDS_OF_RANGE;
        let (mut moved, mut longest) = (Moment::now(), Duration::ZERO);
        let mut look = moved + pace.patience();
        let ended = loop {
            let event = tokio::select! {
                biased;
                piece = flow.next() => Event::First(piece),
                piece = next_of(&mut second) => Event::Second(piece),
                () = sleep_until(look) => Event::Standstill,
            };
            let piece = match event {
                Event::First(Some(Ok(piece))) => {
                    second = None;
                    piece
                }
                Event::Second(Some(Ok(piece))) => {
                    let Some((quicker, _)) = second.take() else { continue };
                    flow = quicker;
                    piece
                }
                Event::First(None) => break Ok(()),
                Event::First(Some(Err(error))) => {
                    let Some((other, _)) = second.take() else { break Err(error) };
                    flow = other;
                    continue;
                }
                // The first one may bring it yet.
                Event::Second(None | Some(Err(_))) => {
                    second = None;
                    continue;
                }
                Event::Standstill if self.upto() == self.end => break Ok(()),
                Event::Standstill => {
                    look = Moment::now() + pace.patience();
                    if seconds_left > 0
                        && let Some(connection) = self.budget.connection_ahead()
                        && let Some(right) = pace.second(&source.seconds)
                    {
                        let at = self.upto();
                        debug!(key = %source.key, at, for_ms = moved.elapsed().as_millis(), "stands still, asked for again");
                        seconds_left -= 1;
                        second = Some((source.flow(at, self.end, connection), right));
                    }
                    continue;
                }
            };
            longest = longest.max(moved.elapsed());
            moved = Moment::now();
            look = moved + pace.patience();
            self.put(&piece);
            self.news.send_replace(());
        };
        pace.note(longest.max(moved.elapsed()));
        ended?;
        if self.upto() < self.end {
            let error = CosError::new("GetObject", Reason::Unavailable).because("the body ended early");
            return Err(Ended::Broken(error));
        }
        Ok(())
    }

    fn put(&self, mut chunk: &[u8]) {
        let mut guard = self.arrived.lock();
        let arrived = &mut *guard;
        let wanted = usize::try_from(self.end - arrived.upto).unwrap_or(usize::MAX);
        chunk = &chunk[..chunk.len().min(wanted)];
        arrived.checksum.update(chunk);
        while !chunk.is_empty() {
            let piece_end = (arrived.upto / PIECE_BYTES + 1) * PIECE_BYTES;
            let missing = usize::try_from(piece_end.min(self.end) - arrived.upto).unwrap_or(usize::MAX);
            let mut filling = arrived.filling.take().unwrap_or_else(|| self.budget.piece(missing));
            let missing = missing.min(filling.room());
            let (now, later) = chunk.split_at(chunk.len().min(missing));
            filling.put(now);
            arrived.upto += now.len() as u64;
            if now.len() == missing {
                arrived.pieces.push(Bytes::from_owner(filling));
            } else {
                arrived.filling = Some(filling);
            }
            chunk = later;
        }
    }

    /// The bytes `from..to`; `None`: not yet.
    fn take(&self, from: u64, to: u64) -> Option<VfsResult<Bytes>> {
        let arrived = self.arrived.lock();
        if to > arrived.upto {
            return match &arrived.outcome {
                Some(Err(error)) => Some(Err(error.clone())),
                Some(Ok(())) | None => None,
            };
        }
        let place = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let mut start = self.first;
        let mut parts = Vec::new();
        let pieces = arrived.pieces.iter().map(Ok).chain(arrived.filling.iter().map(Err));
        for piece in pieces {
            let length = piece.map_or_else(Piece::len, Bytes::len) as u64;
            let (low, high) = (from.max(start), to.min(start + length));
            if low < high {
                let range = place(low - start)..place(high - start);
                parts.push(match piece {
                    Ok(piece) => piece.slice(range),
                    Err(filling) => Bytes::copy_from_slice(&filling.as_ref()[range]),
                });
            }
            start += length;
        }
        Some(Ok(joined(parts)))
    }
}

/// One slice where there is only one, else a copy.
pub(super) fn joined(mut parts: Vec<Bytes>) -> Bytes {
    if parts.len() == 1 {
        return parts.swap_remove(0);
    }
    let mut whole = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
    for part in parts {
        whole.extend_from_slice(&part);
    }
    whole.freeze()
}
