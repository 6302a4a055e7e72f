//! One connection: bytes in and out, in large pieces, at the pace that is set.
//!
//! Memory leaves by writev, files by sendfile. Pacing is a schedule for each direction: after n bytes the
//! next may move n / bandwidth later, in slices of a few milliseconds, so that a slow wire is smooth.

use std::{
    fs::File,
    io::{self, IoSlice},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncWriteExt as _, Interest},
    net::TcpStream,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{
    alarm::Alarm,
    content::{Content, PIECE_BYTES, Segment},
};

/// How fast the emulator is to be; may change at any time.
#[derive(Debug, Default)]
pub(super) struct Pace {
    latency_ms: AtomicU64,
    /// Bytes per second each way; 0 = as fast as it goes.
    bandwidth: AtomicU64,
    alarm: Alarm,
}

impl Pace {
    pub(super) fn set(&self, latency: Duration, per_connection_bandwidth: u64) {
        let latency_ms = u64::try_from(latency.as_millis()).unwrap_or(u64::MAX);
        self.latency_ms.store(latency_ms, Ordering::Relaxed);
        self.bandwidth.store(per_connection_bandwidth, Ordering::Relaxed);
    }

    /// Waits as long as the first byte of an answer is to take.
    pub(super) async fn wait(&self) {
        self.alarm.sleep(Duration::from_millis(self.latency_ms.load(Ordering::Relaxed))).await;
    }
}

/// One direction's schedule.
#[derive(Debug, Default)]
struct Schedule {
    next: Option<Instant>,
}

/// A late wake-up is caught up with as far as this; a pause is not.
const CATCH_UP: Duration = Duration::from_millis(20);

impl Schedule {
    /// Waits for the next slice and tells its length in bytes.
    async fn slice(&self, pace: &Pace) -> usize {
        let bandwidth = pace.bandwidth.load(Ordering::Relaxed);
        if bandwidth == 0 {
            return usize::MAX;
        }
        if let Some(next) = self.next
            && next > Instant::now()
        {
            sleep_until(next).await;
        }
        usize::try_from(bandwidth / 250).unwrap_or(usize::MAX).clamp(1024, 256 * 1024)
    }

    fn moved(&mut self, bytes: usize, pace: &Pace) {
        let bandwidth = pace.bandwidth.load(Ordering::Relaxed);
        if bandwidth == 0 {
            self.next = None;
            return;
        }
        let earliest = Instant::now().checked_sub(CATCH_UP).unwrap_or_else(Instant::now);
        let from = self.next.map_or(earliest, |next| next.max(earliest));
        self.next = Some(from + Duration::from_nanos(bytes as u64 * 1_000_000_000 / bandwidth));
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    /// Received and not yet used.
    input: BytesMut,
    pace: Arc<Pace>,
    incoming: Schedule,
    outgoing: Schedule,
}

/// How much of the input is taken at once while a head is awaited.
const INPUT_BYTES: usize = 16 * 1024;
/// A body without a byte for so long is given up (`RequestTimeout`).
const BODY_SILENCE_MAX: Duration = Duration::from_secs(60);
/// How long a closed connection waits for the peer's end, so that our last words are not lost to a reset.
const LINGER_MAX: Duration = Duration::from_secs(1);

impl Wire {
    pub(super) fn new(stream: TcpStream, pace: Arc<Pace>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            input: BytesMut::new(),
            pace,
            incoming: Schedule::default(),
            outgoing: Schedule::default(),
        })
    }

    /// Received and not yet used.
    pub(super) fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Appends to the input; 0 = the peer has ended.
    pub(super) async fn more_input(&mut self) -> io::Result<usize> {
        self.input.reserve(INPUT_BYTES);
        let mut input = std::mem::take(&mut self.input);
        let read = self.read(&mut input, INPUT_BYTES, None).await;
        self.input = input;
        read
    }

    /// Reads at most `limit` bytes of a body behind what `out` holds; 0 = the peer has ended.
    ///
    /// # Errors
    /// The connection's, and [`io::ErrorKind::TimedOut`] after a minute of silence.
    pub(super) async fn read_body(&mut self, out: &mut BytesMut, limit: usize) -> io::Result<usize> {
        if !self.input.is_empty() {
            let length = limit.min(self.input.len());
            out.put(self.input.split_to(length));
            return Ok(length);
        }
        self.read(out, limit, Some(BODY_SILENCE_MAX)).await
    }

    async fn read(
        &mut self,
        out: &mut BytesMut,
        limit: usize,
        silence_max: Option<Duration>,
    ) -> io::Result<usize> {
        let limit = limit.min(self.incoming.slice(&self.pace).await);
        loop {
            match self.stream.try_read_buf(&mut (&mut *out).limit(limit)) {
                Ok(read) => {
                    self.incoming.moved(read, &self.pace);
                    // A busy peer must not keep the thread from the other connections.
                    tokio::task::consume_budget().await;
                    return Ok(read);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            match silence_max {
                None => self.stream.readable().await?,
                Some(limit) => timeout(limit, self.stream.readable())
                    .await
                    .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??,
            }
        }
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_slices(&mut [IoSlice::new(bytes)]).await
    }

    /// Writes a head and, behind it, a content.
    pub(super) async fn write_content(&mut self, head: Vec<u8>, content: &Content) -> io::Result<()> {
        let mut pieces = vec![Bytes::from(head)];
        for segment in content.segments() {
            match segment {
                Segment::Memory(piece) => pieces.push(piece.clone()),
                Segment::File { blob, offset, bytes } => {
                    self.write_pieces(&mut pieces).await?;
                    self.send_file(&blob.open()?, *offset, *bytes).await?;
                }
            }
            if pieces.len() >= 32 {
                self.write_pieces(&mut pieces).await?;
            }
        }
        self.write_pieces(&mut pieces).await
    }

    async fn write_pieces(&mut self, pieces: &mut Vec<Bytes>) -> io::Result<()> {
        let mut slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        self.write_slices(&mut slices).await?;
        pieces.clear();
        Ok(())
    }

    async fn write_slices(&mut self, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        IoSlice::advance_slices(&mut slices, 0);
        while !slices.is_empty() {
            let limit = self.outgoing.slice(&self.pace).await;
            let written = if limit < slices[0].len() {
                self.try_write(&[IoSlice::new(&slices[0][..limit])]).await?
            } else if limit == usize::MAX {
                self.try_write(slices).await?
            } else {
                self.try_write(&slices[..1]).await?
            };
            self.outgoing.moved(written, &self.pace);
            IoSlice::advance_slices(&mut slices, written);
        }
        Ok(())
    }

    async fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        tokio::task::consume_budget().await;
        loop {
            match self.stream.try_write_vectored(slices) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await?,
                other => return other,
            }
        }
    }

    async fn send_file(&mut self, file: &File, offset: u64, bytes: u64) -> io::Result<()> {
        let (mut at, end) = (offset, offset + bytes);
        while at < end {
            let limit = self.outgoing.slice(&self.pace).await.min(PIECE_BYTES);
            let want = usize::try_from(end - at).unwrap_or(limit).min(limit);
            tokio::task::consume_budget().await;
            let sent = self.stream.try_io(Interest::WRITABLE, || {
                let mut from = at;
                Ok(rustix::fs::sendfile(&self.stream, file, Some(&mut from), want)?)
            });
            match sent {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(sent) => {
                    at += sent as u64;
                    self.outgoing.moved(sent, &self.pace);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.stream.writable().await?,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Ends the connection with a reset instead of an end.
    pub(super) fn reset(&mut self) {
        reset_when_dropped(&self.stream);
    }

    /// Ends the connection so that the peer can still read what was sent.
    pub(super) async fn close(mut self) {
        if self.stream.shutdown().await.is_err() {
            return;
        }
        let ended = async {
            let mut scratch = BytesMut::with_capacity(INPUT_BYTES);
            while let Ok(1..) = self.read(&mut scratch, INPUT_BYTES, None).await {
                scratch.clear();
            }
        };
        tokio::select! {
            () = ended => {}
            () = sleep(LINGER_MAX) => {}
        }
    }
}

/// Has the stream end in a reset.
pub(super) fn reset_when_dropped(stream: &TcpStream) {
    if let Err(error) = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "the connection ends without a reset");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn schedule_keeps_to_the_bandwidth() {
        let pace = Pace::default();
        pace.set(Duration::ZERO, 1_000_000);
        let (mut schedule, start, mut moved) = (Schedule::default(), Instant::now(), 0_usize);
        while moved < 1_000_000 {
            let slice = schedule.slice(&pace).await;
            assert_eq!(slice, 4000);
            schedule.moved(slice, &pace);
            moved += slice;
        }
        let taken = start.elapsed();
        assert!((950..=1001).contains(&taken.as_millis()), "{taken:?}");
        pace.set(Duration::ZERO, 0);
        assert_eq!(schedule.slice(&pace).await, usize::MAX);
    }
}
