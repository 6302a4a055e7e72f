//! The client's data connection: the one type that transfers read from and write to.
//!
//! However it was made (`passive`, `active`), and whatever is on the wire (clear, or TLS by `tls_wire`). TLS begins
//! after 150, because clients begin it when they have read that; a blocking step gets the socket and the TLS state
//! together ([`Lent`]), so that opening records costs no runtime thread.

use std::{
    io,
    time::{Duration, Instant},
};

use rustix::{io::Errno, net::RecvFlags};
use socket2::SockRef;
use tokio::net::TcpStream;
use tracing::{debug, warn};

use super::{
    tls::DataTls,
    tls_wire::{TicketsSent, TlsWire, WRITE_BYTES},
};

/// How long a client may take to dial a passive port, to answer when it is dialled, and for the handshake of TLS.
pub(super) const DIAL_TIME: Duration = Duration::from_secs(15);

/// How long a client that has begun TLS before it has read 150 may take for it before it is told 150.
const EARLY_TIME: Duration = Duration::from_secs(1);

/// How long a refused upload is still listened to.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);
/// How much of it, at most. A client that has sent all of its file reads why it was refused.
const DRAIN_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Thrown away at once; others have their turn in between.
const DRAIN_STEP_BYTES: usize = 16 * 1024;

/// Bytes from and to the client.
#[derive(Debug)]
pub(super) struct DataConnection {
    wire: Wire,
    protection: Protection,
    /// At least one round trip. Passive: from the opening of the port until the client had dialled it, of which
    /// it had to be told first.
    pub(super) dialled_within: Duration,
}

/// Whether the runtime watches the socket. Watched, each packet wakes the runtime, which nobody needs while
/// a blocking step reads as fast as it can: 35,000 switches per GiB.
#[derive(Debug)]
enum Wire {
    Watched(TcpStream),
    Bare(std::net::TcpStream),
    /// In the hands of a blocking step.
    Lent,
}

/// What lies between the bytes and the wire.
#[derive(Debug)]
enum Protection {
    Clear,
    /// TLS, which has not begun, or is not there yet.
    Expected {
        tls: Box<DataTls>,
        begun: Option<Box<TlsWire>>,
    },
    Tls(Box<TlsWire>),
    /// In the hands of a blocking step.
    Lent,
}

/// A data connection in the hands of a blocking step.
#[derive(Debug)]
pub(super) struct Lent {
    stream: std::net::TcpStream,
    protection: Protection,
}

/// Why TLS did not come about.
#[derive(Debug)]
pub(super) enum NotSecured {
    Handshake(io::Error),
    /// `tls_session_reuse = required`, and the client began a session of its own.
    NotResumed,
}

impl DataConnection {
    /// Over a connection that has just been made, which began at `since`.
    pub(super) fn new(stream: TcpStream, since: Instant) -> io::Result<Self> {
        // The last piece of a transfer must not wait for an acknowledgement.
        stream.set_nodelay(true)?;
        Ok(Self {
            wire: Wire::Watched(stream),
            protection: Protection::Clear,
            dialled_within: since.elapsed(),
        })
    }

    /// TLS is to be begun by [`Self::secure`] before a byte moves.
    pub(super) fn expect(&mut self, tls: DataTls) {
        self.protection = Protection::Expected { tls: Box::new(tls), begun: None };
    }

    /// Performs the handshake, where TLS is expected; within [`DIAL_TIME`].
    ///
    /// # Errors
    /// [`NotSecured`].
    pub(super) async fn secure(&mut self) -> Result<(), NotSecured> {
        self.shake_hands(TicketsSent::Usual).await
    }

    /// As [`Self::secure`], for an upload whose 150 is said by `announce`.
    ///
    /// A client that uploads need not read, and what it has not read turns its close into a reset, which takes along what
    /// it has not sent yet: Go's clients lose the end of each file to the tickets of TLS 1.3. So there are none.
    ///
    /// But where a session must be resumed, clients that use each ticket once, as curl and rustls do, need those of this connection
    /// for the next. They can be sure of them where they begin TLS before they have read 150, as curl does: then 150 is said behind
    /// the tickets. Whoever begins TLS behind 150 is not waited for.
    ///
    /// # Errors
    /// [`NotSecured`].
    pub(super) async fn secure_upload(&mut self, announce: impl FnOnce()) -> Result<(), NotSecured> {
        if !matches!(&self.protection, Protection::Expected { tls, .. } if tls.must_resume) {
            announce();
            return self.shake_hands(TicketsSent::None).await;
        }
        if self.has_begun() {
            // What has been done of it when the time is over is not lost.
            tokio::time::timeout(EARLY_TIME, self.secure()).await.unwrap_or(Ok(()))?;
        }
        announce();
        self.secure().await
    }

    /// Whether something has come already.
    fn has_begun(&self) -> bool {
        let Wire::Watched(stream) = &self.wire else { return false };
        let first = rustix::net::recv(stream, &mut [0; 1], RecvFlags::DONTWAIT | RecvFlags::PEEK);
        first.is_ok_and(|(bytes, _)| bytes > 0)
    }

    /// Where it is dropped, the next call goes on with it.
    async fn shake_hands(&mut self, tickets: TicketsSent) -> Result<(), NotSecured> {
        if !matches!(self.protection, Protection::Expected { .. }) {
            return Ok(());
        }
        self.watched().map_err(NotSecured::Handshake)?;
        let (Wire::Watched(stream), Protection::Expected { tls, begun }) = (&self.wire, &mut self.protection)
        else {
            return Ok(());
        };
        let records = match begun.take() {
            Some(records) => records,
            None => Box::new(TlsWire::new(tls, tickets).map_err(NotSecured::Handshake)?),
        };
        let records = begun.insert(records);
        let shaken = tokio::time::timeout(DIAL_TIME, records.shake_hands(stream)).await;
        shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())).map_err(NotSecured::Handshake)?;
        if tls.must_resume && !records.has_resumed() {
            return Err(NotSecured::NotResumed);
        }
        records.adopt_tickets();
        if let Some(records) = begun.take() {
            self.protection = Protection::Tls(records);
        }
        Ok(())
    }

    /// The client has said that it has sent everything. In clear nobody can.
    pub(super) fn has_heard_close_notify(&self) -> bool {
        matches!(&self.protection, Protection::Tls(records) if records.has_heard_close_notify())
    }

    /// It has ended without, and `tls_strict_eof` asks for it.
    pub(super) fn lacks_close_notify(&self) -> bool {
        matches!(&self.protection, Protection::Tls(records) if records.lacks_close_notify())
    }

    /// Until bytes, an end or an error are there.
    pub(super) async fn readable(&mut self) -> io::Result<()> {
        self.watched()?.readable().await
    }

    /// The socket and what is on it, for a blocking step that does not wait for it. To be given back by
    /// [`Self::take_back`].
    pub(super) fn lend(&mut self) -> io::Result<Lent> {
        let stream = match std::mem::replace(&mut self.wire, Wire::Lent) {
            Wire::Watched(stream) => stream.into_std()?,
            Wire::Bare(stream) => stream,
            Wire::Lent => return Err(io::ErrorKind::NotConnected.into()),
        };
        Ok(Lent { stream, protection: std::mem::replace(&mut self.protection, Protection::Lent) })
    }

    pub(super) fn take_back(&mut self, lent: Lent) {
        self.wire = Wire::Bare(lent.stream);
        self.protection = lent.protection;
        if let Protection::Tls(records) = &mut self.protection {
            records.rest();
        }
    }

    fn watched(&mut self) -> io::Result<&TcpStream> {
        self.wire = match std::mem::replace(&mut self.wire, Wire::Lent) {
            Wire::Bare(stream) => Wire::Watched(TcpStream::from_std(stream)?),
            other => other,
        };
        match &self.wire {
            Wire::Watched(stream) => Ok(stream),
            Wire::Bare(_) | Wire::Lent => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Writes all; `stall` is how long it may take until at least one byte more has gone.
    ///
    /// # Errors
    /// [`io::ErrorKind::TimedOut`] for a stall, else what the socket or TLS says.
    pub(super) async fn write_all(&mut self, bytes: &[u8], stall: Duration) -> io::Result<()> {
        self.watched()?;
        let Wire::Watched(stream) = &self.wire else { return Err(io::ErrorKind::NotConnected.into()) };
        match &mut self.protection {
            Protection::Clear => write_out(stream, bytes, stall).await.map_err(|(error, _)| error),
            Protection::Tls(records) => {
                for piece in bytes.chunks(WRITE_BYTES) {
                    records.seal(piece)?;
                    send_sealed(records, stream, stall).await?;
                }
                records.rest();
                Ok(())
            }
            Protection::Expected { .. } | Protection::Lent => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Says that everything has been sent, as TLS has it; nothing in clear, where the FIN says so.
    ///
    /// # Errors
    /// As [`Self::write_all`].
    pub(super) async fn say_end(&mut self, stall: Duration) -> io::Result<()> {
        self.watched()?;
        let (Wire::Watched(stream), Protection::Tls(records)) = (&self.wire, &mut self.protection) else {
            return Ok(());
        };
        records.seal_end();
        send_sealed(records, stream, stall).await
    }

    /// The end of what is sent: close_notify under TLS, and a FIN, which tells the client that it has everything.
    pub(super) fn finish(mut self) {
        let Ok(mut lent) = self.lend() else { return };
        lent.answer_end();
        let Lent { stream, .. } = lent;
        // A client that is gone has noticed by itself.
        drop(stream.shutdown(std::net::Shutdown::Write));
        // Bytes that nobody asked for, left unread, would turn the close into a reset that cuts the tail.
        let mut stray = [0; 512];
        while matches!(recv_now(&stream, &mut stray), Ok(bytes) if bytes > 0) {}
    }

    /// The end of an upload that is refused while the client sends: what still comes is thrown away for a moment, because many
    /// clients (curl, Python's ftplib) look for a reply only when they have sent everything, and a reset hides it from them.
    /// [`DRAIN_TIME_MAX`] and [`DRAIN_BYTES_MAX`] bound it; then it is reset.
    pub(super) async fn drain(mut self) {
        match tokio::time::timeout(DRAIN_TIME_MAX, self.pass_over()).await {
            Ok(Ok(true)) => self.finish(),
            Ok(Ok(false) | Err(_)) | Err(_) => self.reset(),
        }
    }

    /// Whether the client has come to its end within [`DRAIN_BYTES_MAX`].
    async fn pass_over(&mut self) -> io::Result<bool> {
        let mut room = vec![0; DRAIN_STEP_BYTES];
        let mut left = DRAIN_BYTES_MAX;
        loop {
            let mut lent = self.lend()?;
            let came = lent.recv_now(&mut room);
            self.take_back(lent);
            match came {
                Ok(0) => return Ok(true),
                Ok(bytes) if bytes >= left => return Ok(false),
                Ok(bytes) => {
                    left -= bytes;
                    tokio::task::yield_now().await;
                }
                Err(Errno::AGAIN) => self.readable().await?,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// The end of what broke: a RST, which nobody takes for a complete file.
    pub(super) fn reset(mut self) {
        let Ok(Lent { stream, .. }) = self.lend() else { return };
        if let Err(error) = SockRef::from(&stream).set_linger(Some(Duration::ZERO)) {
            warn!(%error, "data connection closed without reset");
        }
    }
}

impl Lent {
    /// What is there, without waiting; 0 is the end.
    ///
    /// # Errors
    /// EAGAIN where nothing is there; EPROTO for what is not TLS, or was cut within a record.
    pub(super) fn recv_now(&mut self, room: &mut [u8]) -> Result<usize, Errno> {
        match &mut self.protection {
            Protection::Clear => recv_now(&self.stream, room),
            Protection::Tls(records) => {
                let came = records.open(room, |wire| recv_now(&self.stream, wire));
                if matches!(came, Ok(0)) {
                    self.answer_end();
                }
                came
            }
            Protection::Expected { .. } | Protection::Lent => Err(Errno::NOTCONN),
        }
    }

    /// close_notify, once. Clients wait for it before they go on, so it comes as soon as their own has been read. Before it
    /// nothing was sent, or all of it has left: there is room for a few bytes more.
    fn answer_end(&mut self) {
        let Protection::Tls(records) = &mut self.protection else { return };
        records.seal_end();
        match rustix::net::send(&self.stream, records.sealed(), rustix::net::SendFlags::DONTWAIT) {
            Ok(bytes) => records.sent(bytes),
            Err(error) => debug!(%error, "close_notify not sent"),
        }
    }
}

async fn send_sealed(records: &mut TlsWire, stream: &TcpStream, stall: Duration) -> io::Result<()> {
    match write_out(stream, records.sealed(), stall).await {
        Ok(()) => {
            records.sent(records.sealed().len());
            Ok(())
        }
        Err((error, gone)) => {
            records.sent(gone);
            Err(error)
        }
    }
}

/// Writes all, or says how many bytes have gone.
async fn write_out(stream: &TcpStream, bytes: &[u8], stall: Duration) -> Result<(), (io::Error, usize)> {
    let mut gone = 0;
    while gone < bytes.len() {
        match stream.try_write(&bytes[gone..]) {
            Ok(0) => return Err((io::ErrorKind::WriteZero.into(), gone)),
            Ok(count) => gone += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match tokio::time::timeout(stall, stream.writable()).await {
                    Ok(ready) => ready.map_err(|error| (error, gone))?,
                    Err(_) => return Err((io::ErrorKind::TimedOut.into(), gone)),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err((error, gone)),
        }
    }
    Ok(())
}

/// What is there, without waiting; 0 is the end.
fn recv_now(stream: &std::net::TcpStream, room: &mut [u8]) -> Result<usize, Errno> {
    rustix::net::recv(stream, room, RecvFlags::DONTWAIT).map(|(bytes, _)| bytes)
}
