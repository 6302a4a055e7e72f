//! The body of a request: by length or chunked (RFC 9112 section 7.1), taken in or passed over. What S3
//! clients wrap it in is taken off, and what they say about it checked (`payload.rs`).

use std::time::Duration;

use bytes::BytesMut;
use tokio::time::sleep;

use super::{
    content::{Intake, PIECE_BYTES, Received},
    error::{self, ApiError, Failure, disk_failure},
    payload::{Chunks, Next, Payload},
    request::{Framing, Request},
    wire::Wire,
};

/// How much a refused request may still send before its connection is given up, in bytes.
const DRAIN_BYTES_MAX: u64 = 64 << 20;
/// Longest line of a chunk's head or of a trailer, in bytes.
const LINE_BYTES_MAX: usize = 4096;
/// How much is taken at once while a line of aws-chunked is looked for: what is too much is copied.
const AHEAD_BYTES: usize = 256;
/// Buffer of a body that goes to a file, or whose length is not known.
const BUFFER_BYTES: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rest {
    /// So many bytes, and nothing behind them.
    Length(u64),
    /// So many bytes of a chunk, and its line end behind them.
    InChunk(u64),
    /// A chunk's head comes next.
    Chunk,
    Done,
}

/// A body that is still on its way.
pub(super) struct Body<'a> {
    wire: &'a mut Wire,
    rest: Rest,
    /// The client waits for 100 before it sends anything.
    awaits_continue: bool,
    /// A wait of the server once everything is there, before it acts.
    delay: Duration,
    payload: Payload,
    /// Taken from the wire while a line of aws-chunked was looked for.
    ahead: BytesMut,
    pub(super) bytes_in: u64,
}

impl<'a> Body<'a> {
    pub(super) fn new(wire: &'a mut Wire, request: &Request, delay: Duration) -> Self {
        let rest = match request.framing {
            Framing::Absent | Framing::Length(0) => Rest::Done,
            Framing::Length(bytes) => Rest::Length(bytes),
            Framing::Chunked => Rest::Chunk,
        };
        let awaits_continue = request.expects_continue && rest != Rest::Done;
        let (payload, ahead) = (Payload::default(), BytesMut::new());
        Self { wire, rest, awaits_continue, delay, payload, ahead, bytes_in: 0 }
    }

    /// What is to be true of it from now on.
    pub(super) fn demand(&mut self, payload: Payload) {
        self.payload = payload;
    }

    /// What was to be true of it, and once it is taken in, is.
    pub(super) fn payload(&self) -> &Payload {
        &self.payload
    }

    /// Takes everything in.
    ///
    /// # Errors
    /// `IncompleteBody`, `RequestTimeout`, or the end of the connection.
    pub(super) async fn receive(&mut self, mut intake: Intake) -> Result<Received, Failure> {
        let mut piece = BytesMut::new();
        while !self.is_done() {
            let capacity = self.piece_bytes(intake.is_file());
            piece.reserve(capacity);
            while piece.len() < capacity {
                let before = piece.len();
                if self.read(&mut piece, capacity - before).await? == 0 {
                    break;
                }
                intake.digest(&piece[before..]);
            }
            intake.store(&mut piece).map_err(|error| disk_failure(&error))?;
        }
        self.payload.finish()?;
        self.settle().await;
        Ok(intake.finish().map_err(|error| disk_failure(&error))?)
    }

    /// Takes a document in.
    ///
    /// # Errors
    /// `MalformedXML` above `bytes_max`, and those of [`Body::receive`].
    pub(super) async fn text(&mut self, bytes_max: u64) -> Result<Vec<u8>, Failure> {
        let mut text = BytesMut::new();
        while !self.is_done() {
            text.reserve(BUFFER_BYTES.min(64 * 1024));
            self.read(&mut text, 64 * 1024).await?;
            if text.len() as u64 > bytes_max {
                return Err(error::MALFORMED_XML.into());
            }
        }
        self.payload.finish()?;
        self.settle().await;
        Ok(text.to_vec())
    }

    /// Waits as long as a `delay` fault wants, once.
    pub(super) async fn settle(&mut self) {
        let delay = std::mem::take(&mut self.delay);
        if !delay.is_zero() {
            sleep(delay).await;
        }
    }

    /// Passes over what is left; `false` where the connection cannot be used again.
    pub(super) async fn drain(&mut self) -> bool {
        if self.awaits_continue {
            return false;
        }
        let mut scratch = BytesMut::new();
        let mut passed = 0;
        while self.rest != Rest::Done {
            scratch.clear();
            scratch.reserve(BUFFER_BYTES);
            match self.read_framed(&mut scratch, BUFFER_BYTES).await {
                Ok(read) => passed += read as u64,
                Err(_) => return false,
            }
            if passed > DRAIN_BYTES_MAX {
                return false;
            }
        }
        true
    }

    fn piece_bytes(&self, to_file: bool) -> usize {
        match self.rest {
            Rest::Length(bytes) => {
                let most = if to_file { BUFFER_BYTES } else { PIECE_BYTES };
                usize::try_from(bytes).unwrap_or(most).min(most)
            }
            Rest::InChunk(_) | Rest::Chunk | Rest::Done => BUFFER_BYTES,
        }
    }

    fn is_done(&self) -> bool {
        match &self.payload.chunks {
            Some(chunks) => chunks.next() == Next::End,
            None => self.rest == Rest::Done,
        }
    }

    /// Appends at most `limit` bytes to `out`; 0 at the end of the body.
    async fn read(&mut self, out: &mut BytesMut, limit: usize) -> Result<usize, Failure> {
        let before = out.len();
        let read = match self.payload.chunks {
            Some(_) => self.read_unwrapped(out, limit).await?,
            None => self.read_framed(out, limit).await?,
        };
        self.payload.update(&out[before..]);
        Ok(read)
    }

    /// The same, out of aws-chunked.
    async fn read_unwrapped(&mut self, out: &mut BytesMut, limit: usize) -> Result<usize, Failure> {
        loop {
            match self.payload.chunks.as_ref().map_or(Next::End, |chunks| chunks.next()) {
                Next::End => return Ok(0),
                Next::Data(left) => {
                    let (before, want) = (out.len(), usize::try_from(left).unwrap_or(limit).min(limit));
                    if self.ahead.is_empty() {
                        self.read_framed(out, want).await?;
                    } else {
                        let length = want.min(self.ahead.len());
                        out.extend_from_slice(&self.ahead.split_to(length));
                    }
                    if out.len() == before {
                        return Err(error::INCOMPLETE_BODY.into());
                    }
                    self.unwrap(|chunks| chunks.data(&out[before..]))?;
                    return Ok(out.len() - before);
                }
                Next::Line => match self.unwrapped_line().await? {
                    Some(line) => self.unwrap(|chunks| chunks.line(&line))?,
                    None => self.unwrap(Chunks::end)?,
                },
            }
        }
    }

    fn unwrap(&mut self, step: impl FnOnce(&mut Chunks) -> Result<(), ApiError>) -> Result<(), ApiError> {
        self.payload.chunks.as_mut().map_or(Ok(()), step)
    }

    /// The next line of aws-chunked; `None` where the body ends.
    async fn unwrapped_line(&mut self) -> Result<Option<String>, Failure> {
        loop {
            if let Some(end) = self.ahead.iter().position(|byte| *byte == b'\n') {
                let line = self.ahead.split_to(end + 1);
                return Ok(Some(String::from_utf8_lossy(line.trim_ascii_end()).into_owned()));
            }
            if self.ahead.len() > LINE_BYTES_MAX {
                return Err(error::MALFORMED_CHUNK.into());
            }
            let mut ahead = std::mem::take(&mut self.ahead);
            ahead.reserve(AHEAD_BYTES);
            let read = self.read_framed(&mut ahead, AHEAD_BYTES).await;
            self.ahead = ahead;
            if read? == 0 {
                let rest = self.ahead.split();
                let rest = String::from_utf8_lossy(rest.trim_ascii_end()).into_owned();
                return Ok(Some(rest).filter(|line| !line.is_empty()));
            }
        }
    }

    /// The same as it was framed.
    async fn read_framed(&mut self, out: &mut BytesMut, limit: usize) -> Result<usize, Failure> {
        if std::mem::take(&mut self.awaits_continue) {
            self.wire.write(b"HTTP/1.1 100 Continue\r\n\r\n").await.map_err(Failure::Broken)?;
        }
        if self.rest == Rest::Chunk {
            self.next_chunk().await?;
        }
        let left = match self.rest {
            Rest::Length(left) | Rest::InChunk(left) => left,
            Rest::Chunk | Rest::Done => return Ok(0),
        };
        let want = usize::try_from(left).unwrap_or(limit).min(limit);
        let read = match self.wire.read_body(out, want).await {
            Ok(0) => return Err(error::INCOMPLETE_BODY.into()),
            Ok(read) => read,
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
                return Err(error::REQUEST_TIMEOUT.into());
            }
            Err(error) => return Err(Failure::Broken(error)),
        };
        self.bytes_in += read as u64;
        let left = left - read as u64;
        self.rest = match self.rest {
            Rest::InChunk(_) if left > 0 => Rest::InChunk(left),
            Rest::InChunk(_) => {
                if !self.line().await?.is_empty() {
                    return Err(error::BAD_REQUEST.into());
                }
                Rest::Chunk
            }
            _ if left > 0 => Rest::Length(left),
            _ => Rest::Done,
        };
        Ok(read)
    }

    /// Reads the head of a chunk; behind the last one its trailers.
    async fn next_chunk(&mut self) -> Result<(), Failure> {
        let head = self.line().await?;
        let digits = head.split(';').next().unwrap_or_default().trim();
        let bytes = u64::from_str_radix(digits, 16).map_err(|_| error::BAD_REQUEST)?;
        if bytes > 0 {
            self.rest = Rest::InChunk(bytes);
            return Ok(());
        }
        while !self.line().await?.is_empty() {}
        self.rest = Rest::Done;
        Ok(())
    }

    async fn line(&mut self) -> Result<String, Failure> {
        loop {
            let input = self.wire.input();
            if let Some(end) = input.iter().position(|byte| *byte == b'\n') {
                let line = input.split_to(end + 1);
                return Ok(String::from_utf8_lossy(line.trim_ascii_end()).into_owned());
            }
            if input.len() > LINE_BYTES_MAX {
                return Err(error::BAD_REQUEST.into());
            }
            if self.wire.more_input().await.map_err(Failure::Broken)? == 0 {
                return Err(error::INCOMPLETE_BODY.into());
            }
        }
    }
}
