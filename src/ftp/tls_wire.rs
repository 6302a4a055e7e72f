//! TLS on a data connection: records opened and sealed in memory, the socket elsewhere.
//!
//! ```text
//! socket ─> incoming (ciphertext, opened in place) ─> the caller's room; what has no room ─> left
//! the caller's bytes ─> outgoing (ciphertext) ─> socket
//! ```
//!
//! rustls reads 4 KiB at a time from a socket of its own: 260,000 calls per GiB. So its unbuffered form is used,
//! and several records come and go with one call. Memory is there while bytes are: a stalled transfer keeps a
//! record in pieces, at most.

use std::{fmt, io, sync::Arc};

use rustix::io::Errno;
use rustls::{
    HandshakeKind, ServerConfig,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};
use tokio::net::TcpStream;
use tracing::debug;

use super::tls::{DataTls, Tickets};

/// Bytes sealed at once.
pub(super) const WRITE_BYTES: usize = 128 * 1024;
/// Room for one record and what surrounds it: a slow client needs no more.
const READ_BYTES_MIN: usize = 20 * 1024;
/// Room where a client fills it.
const READ_BYTES_MAX: usize = 256 * 1024;
/// Largest payload of a record (RFC 8446 section 5.1).
const RECORD_BYTES: usize = 16 * 1024;
/// Largest size of what comes with a record (RFC 5246 and RFC 8446: header, nonce, tag, type).
const RECORD_OVERHEAD_BYTES: usize = 64;

/// The TLS state of one data connection.
pub(super) struct TlsWire {
    connection: UnbufferedServerConnection,
    tickets: Arc<Tickets>,
    incoming: Incoming,
    /// Plaintext of a record for which the caller had no room.
    left: Vec<u8>,
    outgoing: Vec<u8>,
    has_heard_end: bool,
    has_said_end: bool,
    /// `tls_strict_eof`
    is_strict: bool,
    /// The wire has ended, in whatever way.
    is_over: bool,
}

impl fmt::Debug for TlsWire {
    /// Without keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TlsWire({:?})", self.connection.protocol_version())
    }
}

/// Ciphertext that has come.
#[derive(Debug, Default)]
struct Incoming {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Incoming {
    fn filled(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    fn discard(&mut self, count: usize) {
        self.start += count;
    }

    /// Room behind what is there: more of it where the last one was filled.
    fn spare(&mut self) -> &mut [u8] {
        let (kept, was_full) = (self.end - self.start, self.end == self.bytes.len() && self.end > 0);
        self.bytes.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, kept);
        if self.bytes.is_empty() {
            self.bytes.resize(READ_BYTES_MIN, 0);
        } else if was_full && self.bytes.len() < READ_BYTES_MAX {
            self.bytes.resize(READ_BYTES_MAX, 0);
        }
        &mut self.bytes[kept..]
    }

    fn fill(&mut self, count: usize) {
        self.end += count;
    }

    /// Keeps what is needed.
    fn rest(&mut self) {
        let kept = self.bytes[self.start..self.end].to_vec();
        // A partial record has to find room behind it.
        *self = Self { start: 0, end: kept.len(), bytes: kept };
        if self.end > 0 {
            self.bytes.resize(self.end + READ_BYTES_MIN, 0);
        }
    }
}

/// Tickets of TLS 1.3 that a client may begin its next data connection with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TicketsSent {
    Usual,
    None,
}

impl TlsWire {
    pub(super) fn new(tls: &DataTls, tickets: TicketsSent) -> io::Result<Self> {
        let config = match tickets {
            TicketsSent::Usual => tls.config.clone(),
            TicketsSent::None => {
                let mut config = ServerConfig::clone(&tls.config);
                config.send_tls13_tickets = 0;
                Arc::new(config)
            }
        };
        let connection = UnbufferedServerConnection::new(config).map_err(io::Error::other)?;
        Ok(Self {
            connection,
            tickets: tls.tickets.clone(),
            incoming: Incoming::default(),
            left: Vec::new(),
            outgoing: Vec::new(),
            has_heard_end: false,
            has_said_end: false,
            is_strict: tls.is_strict,
            is_over: false,
        })
    }

    /// The handshake. On failure the alert that tells the client why has been sent, where it could be.
    ///
    /// # Errors
    /// What the socket says, or TLS.
    pub(super) async fn shake_hands(&mut self, stream: &TcpStream) -> io::Result<()> {
        loop {
            let advanced = self.advance(&mut []);
            while !self.outgoing.is_empty() {
                stream.writable().await?;
                match stream.try_write(&self.outgoing) {
                    Ok(count) => self.sent(count),
                    Err(error) if is_for_now(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            advanced.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if !self.connection.is_handshaking() {
                self.rest();
                return Ok(());
            }
            stream.readable().await?;
            match stream.try_read(self.incoming.spare()) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.incoming.fill(count),
                Err(error) if is_for_now(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether the session is one that the control connection began, or a descendant of it.
    pub(super) fn has_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(HandshakeKind::Resumed)
    }

    /// From now on the tickets of this handshake lead back to the control connection's session. Those of
    /// a stranger who has proved nothing must not.
    pub(super) fn adopt_tickets(&self) {
        self.tickets.adopt();
    }

    pub(super) fn has_heard_close_notify(&self) -> bool {
        self.has_heard_end
    }

    pub(super) fn lacks_close_notify(&self) -> bool {
        self.is_strict && !self.has_heard_end
    }

    /// Plaintext into `room`, ciphertext from `receive`; 0 is the end.
    ///
    /// # Errors
    /// What `receive` says; EPROTO for what is not TLS, or was cut within a record.
    pub(super) fn open(
        &mut self,
        room: &mut [u8],
        mut receive: impl FnMut(&mut [u8]) -> Result<usize, Errno>,
    ) -> Result<usize, Errno> {
        loop {
            let opened = self.advance(room).map_err(|error| {
                debug!(%error, "TLS of a data connection");
                Errno::PROTO
            })?;
            if opened > 0 || self.has_heard_end || self.is_over {
                return Ok(opened);
            }
            match receive(self.incoming.spare())? {
                0 => {
                    self.is_over = true;
                    if !self.incoming.filled().is_empty() {
                        return Err(Errno::PROTO);
                    }
                }
                count => self.incoming.fill(count),
            }
        }
    }

    /// Opens what has come, until it needs more, `room` is full, or the client has ended. Returns the bytes
    /// that are in `room`.
    fn advance(&mut self, room: &mut [u8]) -> Result<usize, rustls::Error> {
        let mut filled = take_some(&mut self.left, room);
        while self.left.is_empty() && (filled < room.len() || room.is_empty()) {
            let UnbufferedStatus { discard, state } =
                self.connection.process_tls_records(self.incoming.filled());
            let mut goes_on = true;
            let failure = match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let payload = record?.payload;
                        let fits = payload.len().min(room.len() - filled);
                        room[filled..filled + fits].copy_from_slice(&payload[..fits]);
                        filled += fits;
                        self.left.extend_from_slice(&payload[fits..]);
                    }
                    None
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(&mut self.outgoing, |room| data.encode(room));
                    None
                }
                Ok(ConnectionState::TransmitTlsData(data)) => {
                    // It lies in `outgoing`, which leaves before anybody waits for an answer to it.
                    data.done();
                    None
                }
                Ok(ConnectionState::PeerClosed) => {
                    self.has_heard_end = true;
                    None
                }
                // Nothing but more bytes can change it.
                Ok(_) => {
                    goes_on = false;
                    None
                }
                Err(error) => Some(error),
            };
            self.incoming.discard(discard);
            if let Some(error) = failure {
                self.queue_alert();
                return Err(error);
            }
            if !goes_on {
                break;
            }
        }
        Ok(filled)
    }

    /// What TLS wants to say about a failure.
    fn queue_alert(&mut self) {
        while let UnbufferedStatus { state: Ok(ConnectionState::EncodeTlsData(mut data)), .. } =
            self.connection.process_tls_records(&mut [])
        {
            encode(&mut self.outgoing, |room| data.encode(room));
        }
    }

    /// Seals at most [`WRITE_BYTES`] behind what is in [`Self::sealed`].
    ///
    /// # Errors
    /// Where the connection cannot send any more.
    pub(super) fn seal(&mut self, bytes: &[u8]) -> io::Result<()> {
        let records = bytes.len().div_ceil(RECORD_BYTES) + 1;
        self.write(bytes.len() + records * RECORD_OVERHEAD_BYTES, |traffic, room| {
            traffic.encrypt(bytes, room)
        })
    }

    /// Seals close_notify, unless it has been sealed already.
    pub(super) fn seal_end(&mut self) {
        if std::mem::replace(&mut self.has_said_end, true) {
            return;
        }
        let sealed = self.write(RECORD_OVERHEAD_BYTES, |traffic, room| traffic.queue_close_notify(room));
        if let Err(error) = sealed {
            debug!(%error, "no close_notify");
        }
    }

    fn write(
        &mut self,
        size: usize,
        deed: impl Fn(
            &mut rustls::unbuffered::WriteTraffic<'_, ServerConnectionData>,
            &mut [u8],
        ) -> Result<usize, EncryptError>,
    ) -> io::Result<()> {
        self.advance(&mut []).map_err(io::Error::other)?;
        // What a client sends where it has nothing to say is not kept.
        self.left = Vec::new();
        let UnbufferedStatus { discard, state } = self.connection.process_tls_records(self.incoming.filled());
        let Ok(ConnectionState::WriteTraffic(mut traffic)) = state else {
            return Err(io::ErrorKind::ConnectionAborted.into());
        };
        let start = self.outgoing.len();
        let mut room = size;
        let written = loop {
            self.outgoing.resize(start + room, 0);
            match deed(&mut traffic, &mut self.outgoing[start..]) {
                Ok(written) => break Ok(written),
                Err(EncryptError::InsufficientSize(told)) if told.required_size > room => {
                    room = told.required_size;
                }
                Err(error) => break Err(io::Error::other(error)),
            }
        };
        self.outgoing.truncate(start + written.as_ref().copied().unwrap_or(0));
        self.incoming.discard(discard);
        written.map(|_| ())
    }

    /// Ciphertext that is to be sent.
    pub(super) fn sealed(&self) -> &[u8] {
        &self.outgoing
    }

    /// `count` bytes of it have been.
    pub(super) fn sent(&mut self, count: usize) {
        self.outgoing.drain(..count);
    }

    /// Gives back memory that is not needed until more bytes come or go.
    pub(super) fn rest(&mut self) {
        self.incoming.rest();
        self.left.shrink_to_fit();
        self.outgoing.shrink_to_fit();
    }
}

fn take_some(from: &mut Vec<u8>, room: &mut [u8]) -> usize {
    let count = from.len().min(room.len());
    room[..count].copy_from_slice(&from[..count]);
    from.drain(..count);
    count
}

fn encode(outgoing: &mut Vec<u8>, mut deed: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let start = outgoing.len();
    let mut room = 0;
    let written = loop {
        outgoing.resize(start + room, 0);
        match deed(&mut outgoing[start..]) {
            Ok(written) => break written,
            Err(EncodeError::InsufficientSize(told)) if told.required_size > room => {
                room = told.required_size
            }
            Err(_) => break 0,
        }
    };
    outgoing.truncate(start + written);
}

fn is_for_now(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
