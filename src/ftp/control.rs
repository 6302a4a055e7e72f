//! The client's control connection: bounded lines in, replies out.
//!
//! Telnet (RFC 959 section 4.1.3, RFC 1123 section 4.1.2.10): option negotiations and signals (IAC IP, IAC
//! DM) are taken out of the stream, so that `ABOR` behind them is a line of its own. Urgent data stays in
//! the stream (SO_OOBINLINE); reading goes on until WouldBlock, because a read that ends at the urgent mark
//! looks like the last one to tokio, which then waits for an event that has already been.
//!
//! Under TLS all of this holds for what is inside. close_notify is the end, as a FIN is in clear: a client that has said
//! neither QUIT nor waited for its reply is gone, however politely.

use std::{
    collections::VecDeque,
    io::{self, Read, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustls::{ServerConfig, ServerConnection};
use socket2::SockRef;
use tokio::net::TcpStream;

use super::{names::Names, reply::Reply};

/// Longest line, without its end.
pub(super) const LINE_BYTES_MAX: usize = 8 * 1024;
/// A client that does not take its replies for so long is given up.
const REPLY_TIME: Duration = Duration::from_secs(30);

/// Reads in a row, of 2 KiB each, without a look at other sessions.
const READS_MAX: usize = 32;

/// What came from the client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// Without its end.
    Line(Vec<u8>),
    TooLong,
    /// The client has closed its side, or the connection broke.
    Closed,
}

/// The connection.
#[derive(Debug)]
pub(super) struct Control {
    stream: Arc<TcpStream>,
    ear: Ear,
    lines: VecDeque<Heard>,
    /// `None`: in clear. The lock is never held across a wait.
    tls: Option<Box<Mutex<ServerConnection>>>,
    /// The client has said close_notify: nothing comes any more.
    is_over: bool,
}

/// What a transfer asks the control connection when its data has ended.
#[derive(Debug, Clone)]
pub(super) struct ControlWatch {
    stream: Arc<TcpStream>,
    /// QUIT has been read: a close after it is orderly.
    quit: Arc<AtomicBool>,
}

/// What stands in the control connection right now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pending {
    /// Bytes, or an end, that have not been read.
    pub(super) unread: bool,
    /// The client's FIN, or a reset.
    pub(super) hung_up: bool,
}

impl Control {
    /// Takes over an accepted connection.
    ///
    /// # Errors
    /// Where a socket option is refused.
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        // Without it a reply waits for the client's delayed acknowledgement: 23 small files a second.
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        socket.set_out_of_band_inline(true)?;
        socket.set_keepalive(true)?;
        let (ear, lines) = (Ear::default(), VecDeque::new());
        Ok(Self { stream: Arc::new(stream), ear, lines, tls: None, is_over: false })
    }

    pub(super) fn watch(&self) -> ControlWatch {
        ControlWatch { stream: self.stream.clone(), quit: Arc::new(AtomicBool::new(false)) }
    }

    /// The next line. May be dropped while it waits.
    pub(super) async fn hear(&mut self) -> Heard {
        loop {
            if let Some(heard) = self.lines.pop_front() {
                return heard;
            }
            if self.stream.readable().await.is_err() || self.read().is_err() {
                return Heard::Closed;
            }
            if self.lines.is_empty() {
                // A line without an end must not keep a thread of the runtime to itself.
                tokio::task::yield_now().await;
            }
        }
    }

    /// A line that has arrived already, without waiting.
    pub(super) fn heard_already(&mut self) -> Option<Heard> {
        if self.lines.is_empty() && self.read().is_err() {
            self.lines.push_back(Heard::Closed);
        }
        self.lines.pop_front()
    }

    /// Whether something has come that no command was made of yet, a piece of a line too.
    pub(super) fn holds_bytes(&mut self) -> bool {
        // An end is heard again by whoever listens next.
        drop(self.read());
        !self.lines.is_empty() || !self.ear.is_idle()
    }

    /// Begins TLS, as its server.
    ///
    /// # Errors
    /// Where the handshake fails; the client has been told why, where it could be.
    pub(super) async fn secure(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        self.tls = Some(Box::new(Mutex::new(ServerConnection::new(config).map_err(io::Error::other)?)));
        while self.tls.as_ref().is_some_and(|tls| tls.lock().is_handshaking()) {
            self.stream.readable().await?;
            let read = self.read_some();
            self.flush().await?;
            read?;
        }
        Ok(())
    }

    /// Says close_notify, where there is TLS, for `time` at most.
    pub(super) async fn bid_farewell(&self, time: Duration) {
        let Some(tls) = &self.tls else { return };
        tls.lock().send_close_notify();
        // A client that does not read it will not miss it.
        drop(tokio::time::timeout(time, self.flush()).await);
    }

    /// Reads until a line is complete, nothing is left, or others should have a turn.
    fn read(&mut self) -> io::Result<()> {
        for _ in 0..READS_MAX {
            if !self.lines.is_empty() || !self.read_some()? {
                break;
            }
        }
        Ok(())
    }

    /// Reads once; false where nothing is there.
    fn read_some(&mut self) -> io::Result<bool> {
        if self.is_over {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut bytes = [0; 2048];
        loop {
            match self.stream.try_read(&mut bytes) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.take(&bytes[..count])?;
                    return Ok(true);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes lines of what has come.
    fn take(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &self.tls else {
            bytes.iter().for_each(|&byte| self.ear.take(byte, &mut self.lines));
            return Ok(());
        };
        let mut tls = tls.lock();
        let mut plain = [0; 2048];
        while !bytes.is_empty() && !self.is_over {
            tls.read_tls(&mut bytes)?;
            if let Err(error) = tls.process_new_packets() {
                // The alert that says why; a client that does not take it is not waited for.
                drop(tls.write_tls(&mut Socket(&self.stream)));
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            loop {
                match tls.reader().read(&mut plain) {
                    Ok(0) => {
                        self.is_over = true;
                        break;
                    }
                    Ok(count) => {
                        plain[..count].iter().for_each(|&byte| self.ear.take(byte, &mut self.lines));
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Sends what TLS has to say.
    async fn flush(&self) -> io::Result<()> {
        let Some(tls) = &self.tls else { return Ok(()) };
        loop {
            let written = {
                let mut tls = tls.lock();
                if !tls.wants_write() {
                    return Ok(());
                }
                tls.write_tls(&mut Socket(&self.stream))
            };
            self.wait_for_room(written).await?;
        }
    }

    /// What a write has come to; waits where the client has to read first.
    async fn wait_for_room(&self, written: io::Result<usize>) -> io::Result<usize> {
        match written {
            Ok(count) => Ok(count),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                match tokio::time::timeout(REPLY_TIME, self.stream.writable()).await {
                    Ok(ready) => ready.map(|()| 0),
                    Err(_) => Err(io::ErrorKind::TimedOut.into()),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Says a reply.
    ///
    /// # Errors
    /// Where the client does not take it within half a minute, or is gone.
    pub(super) async fn say(&self, reply: &Reply, names: Names) -> io::Result<()> {
        self.send(&reply.encode(names)).await
    }

    /// Bytes as they are.
    ///
    /// # Errors
    /// As [`Self::say`].
    pub(super) async fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let taken = match &self.tls {
                #[expect(clippy::disallowed_methods, reason = "the rest follows when its buffer has left")]
                Some(tls) => tls.lock().writer().write(bytes)?,
                None => self.wait_for_room(self.stream.try_write(bytes)).await?,
            };
            bytes = &bytes[taken..];
            self.flush().await?;
        }
        Ok(())
    }
}

/// Where TLS writes to, without waiting.
struct Socket<'a>(&'a TcpStream);

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ControlWatch {
    pub(super) fn note_quit(&self) {
        self.quit.store(true, Ordering::Release);
    }

    pub(super) fn has_quit(&self) -> bool {
        self.quit.load(Ordering::Acquire)
    }

    /// Waits, on this thread, until the client hangs up, for `time` at most. Whether it did.
    pub(super) fn linger(&self, time: Duration) -> bool {
        let Ok(time) = Timespec::try_from(time) else { return false };
        let mut fds = [PollFd::new(&*self.stream, PollFlags::RDHUP)];
        // Interrupted by a signal it is shorter; the question that follows is asked all the same.
        rustix::event::poll(&mut fds, Some(&time)).is_ok_and(|ready| ready > 0)
    }

    /// Looks without reading. Peeking would be no use: unread commands hide the FIN behind them, while
    /// POLLRDHUP tells of it at once.
    pub(super) fn pending(&self) -> Pending {
        let mut fds = [PollFd::new(&*self.stream, PollFlags::IN | PollFlags::RDHUP)];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        if rustix::event::poll(&mut fds, Some(&now)).is_err() {
            return Pending { unread: false, hung_up: false };
        }
        let seen = fds[0].revents();
        Pending {
            unread: seen.contains(PollFlags::IN),
            hung_up: seen.intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR),
        }
    }
}

/// Makes lines of bytes, one byte at a time.
#[derive(Debug, Default)]
struct Ear {
    line: Vec<u8>,
    telnet: Telnet,
    /// The line has been too long: its rest is passed over.
    deaf: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Telnet {
    #[default]
    Text,
    /// Behind IAC.
    Command,
    /// Behind IAC WILL, WONT, DO or DONT: one byte names the option.
    Option,
}

/// Interpret As Command (RFC 854).
const IAC: u8 = 255;

impl Ear {
    /// Between two lines.
    fn is_idle(&self) -> bool {
        self.line.is_empty() && self.telnet == Telnet::Text && !self.deaf
    }

    fn take(&mut self, byte: u8, lines: &mut VecDeque<Heard>) {
        match (self.telnet, byte) {
            (Telnet::Text, IAC) => self.telnet = Telnet::Command,
            (Telnet::Text, b'\n') => lines.push_back(self.end_line()),
            (Telnet::Text, _) => self.push(byte),
            (Telnet::Command, IAC) => {
                self.telnet = Telnet::Text;
                self.push(IAC);
            }
            (Telnet::Command, 251..=254) => self.telnet = Telnet::Option,
            // Signals such as IP (244) and DM (242): what they are about comes as a command.
            (Telnet::Command, 240..=250) | (Telnet::Option, _) => self.telnet = Telnet::Text,
            // No Telnet at all: a byte of a name in some other character set.
            (Telnet::Command, _) => {
                self.telnet = Telnet::Text;
                self.push(IAC);
                self.take(byte, lines);
            }
        }
    }

    fn push(&mut self, byte: u8) {
        if self.deaf {
            return;
        }
        if self.line.len() > LINE_BYTES_MAX {
            self.deaf = true;
            self.line = Vec::new();
            return;
        }
        self.line.push(byte);
    }

    fn end_line(&mut self) -> Heard {
        let mut line = std::mem::take(&mut self.line);
        if std::mem::take(&mut self.deaf) {
            return Heard::TooLong;
        }
        if line.last() == Some(&b'\r') {
            line.pop();
        }
        if line.len() > LINE_BYTES_MAX { Heard::TooLong } else { Heard::Line(line) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(bytes: &[u8]) -> Vec<Heard> {
        let (mut ear, mut lines) = (Ear::default(), VecDeque::new());
        bytes.iter().for_each(|&byte| ear.take(byte, &mut lines));
        lines.into()
    }

    fn line(bytes: &[u8]) -> Heard {
        Heard::Line(bytes.to_vec())
    }

    #[test]
    fn lines_end_in_crlf_or_lf() {
        assert_eq!(heard(b"USER a\r\nPASS b\nNO"), [line(b"USER a"), line(b"PASS b")]);
    }

    #[test]
    fn abor_behind_telnet_signals_is_a_line_of_its_own() {
        assert_eq!(heard(b"\xff\xf4\xff\xf2ABOR\r\n"), [line(b"ABOR")]);
        assert_eq!(heard(b"\xf2ABOR\r\n"), [line(b"\xf2ABOR")]);
        assert_eq!(heard(b"NO\xff\xfb\x01OP\xff\xfe\xff\r\n"), [line(b"NOOP")]);
        assert_eq!(heard(b"STOR \xff\xff\xff\x80\r\n"), [line(b"STOR \xff\xff\x80")]);
    }

    #[test]
    fn a_line_that_is_too_long_is_passed_over_to_its_end() {
        let mut bytes = vec![b'x'; LINE_BYTES_MAX];
        bytes.extend_from_slice(b"\r\n");
        assert!(matches!(&heard(&bytes)[..], [Heard::Line(line)] if line.len() == LINE_BYTES_MAX));
        let mut bytes = vec![b'x'; 1024 * 1024];
        bytes.extend_from_slice(b"\r\nNOOP\r\n");
        assert_eq!(heard(&bytes), [Heard::TooLong, line(b"NOOP")]);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_a_line_with_an_end_in_it(bytes: Vec<u8>) {
            for heard in heard(&bytes) {
                let Heard::Line(line) = heard else { continue };
                assert!(!line.contains(&b'\n'));
            }
        }
    }
}
