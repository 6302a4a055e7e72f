//! What happens to bytes between the data connection and a file: line ends (type A), deflate (mode Z).
//!
//! A conversion takes bytes and fills whatever room it is given; it never asks for more. In type I and mode S
//! there is none, and pieces travel as they are.
//!
//! ```text
//! upload     socket ── inflate ── CRLF -> LF ──> file
//! download   file ──── LF -> CRLF ── deflate ──> socket
//! ```

use tokio::sync::OwnedSemaphorePermit;

use super::{
    ascii::{ToCrlf, ToLf},
    deflate::{Deflater, Inflater},
};

/// What one step of a conversion has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Converted {
    /// Bytes of the input that are used up.
    pub(super) taken: usize,
    /// Bytes of the room that are filled.
    pub(super) made: usize,
    /// The input is used up, and nothing more comes out without more of it.
    pub(super) is_done: bool,
}

/// Why a stream cannot be converted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Garbled {
    Broken,
    Cut,
    Tail,
}

impl Garbled {
    pub(super) fn why(self) -> &'static str {
        match self {
            Self::Broken => "the deflate stream is broken",
            Self::Cut => "the deflate stream was cut before its end",
            Self::Tail => "there is something behind the end of the deflate stream",
        }
    }
}

/// One or two steps, the second fed by the first.
#[derive(Debug)]
pub(super) struct Conversion {
    first: Stage,
    second: Option<Second>,
    /// Held for as long as it lives: zlib's windows take memory.
    _place: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
struct Second {
    stage: Stage,
    /// What the first has made and this has not taken yet.
    between: Box<[u8]>,
    start: usize,
    end: usize,
    first_is_done: bool,
}

#[derive(Debug)]
enum Stage {
    ToLf(ToLf),
    ToCrlf(ToCrlf),
    Inflate(Box<Inflater>),
    Deflate(Box<Deflater>),
}

/// Between two stages.
const BETWEEN_BYTES: usize = 8 * 1024;

impl Stage {
    fn convert(&mut self, input: &[u8], room: &mut [u8], is_last: bool) -> Result<Converted, Garbled> {
        match self {
            Self::ToLf(stage) => Ok(stage.convert(input, room, is_last)),
            Self::ToCrlf(stage) => Ok(stage.convert(input, room)),
            Self::Inflate(stage) => stage.convert(input, room, is_last),
            Self::Deflate(stage) => stage.convert(input, room, is_last),
        }
    }
}

impl Conversion {
    /// Of an upload; `None` where nothing is to be done.
    pub(super) fn upload(is_ascii: bool, is_deflated: bool) -> Option<Self> {
        let inflate = is_deflated.then(|| Stage::Inflate(Box::new(Inflater::new())));
        Self::of([inflate, is_ascii.then(|| Stage::ToLf(ToLf::default()))])
    }

    /// Of a download or a listing, deflated at `level`; `None` where nothing is to be done.
    pub(super) fn download(is_ascii: bool, level: Option<u32>) -> Option<Self> {
        let deflate = level.map(|level| Stage::Deflate(Box::new(Deflater::new(level))));
        Self::of([is_ascii.then(|| Stage::ToCrlf(ToCrlf::default())), deflate])
    }

    fn of(stages: [Option<Stage>; 2]) -> Option<Self> {
        let mut stages = stages.into_iter().flatten();
        let first = stages.next()?;
        let second = stages.next().map(|stage| Second {
            stage,
            between: vec![0; BETWEEN_BYTES].into(),
            start: 0,
            end: 0,
            first_is_done: false,
        });
        Some(Self { first, second, _place: None })
    }

    /// Keeps `place` for as long as it lives.
    #[must_use]
    pub(super) fn holding(self, place: Option<OwnedSemaphorePermit>) -> Self {
        Self { _place: place, ..self }
    }

    /// Converts what it can. `is_last`: `input` ends the stream, and what is held back comes out too.
    ///
    /// # Errors
    /// Where an upload is not what it claims to be.
    pub(super) fn convert(
        &mut self,
        input: &[u8],
        room: &mut [u8],
        is_last: bool,
    ) -> Result<Converted, Garbled> {
        let Some(second) = &mut self.second else { return self.first.convert(input, room, is_last) };
        let (mut taken, mut made) = (0, 0);
        loop {
            if second.start == second.end {
                let step = self.first.convert(&input[taken..], &mut second.between, is_last)?;
                taken += step.taken;
                (second.start, second.end, second.first_is_done) = (0, step.made, step.is_done);
            }
            let is_end = is_last && second.first_is_done;
            let between = &second.between[second.start..second.end];
            let step = second.stage.convert(between, &mut room[made..], is_end)?;
            second.start += step.taken;
            made += step.made;
            if step.is_done && second.first_is_done {
                return Ok(Converted { taken, made, is_done: true });
            }
            if made == room.len() {
                return Ok(Converted { taken, made, is_done: false });
            }
        }
    }
}

/// What has come from the socket and is not converted yet.
#[derive(Debug)]
pub(super) struct Intake {
    conversion: Conversion,
    raw: Box<[u8]>,
    start: usize,
    end: usize,
    is_ended: bool,
    is_over: bool,
}

/// From the socket at once.
const RAW_BYTES: usize = 64 * 1024;

impl Intake {
    pub(super) fn new(conversion: Conversion) -> Self {
        let raw = vec![0; RAW_BYTES].into();
        Self { conversion, raw, start: 0, end: 0, is_ended: false, is_over: false }
    }

    /// Converts what is here into `room`, and tells how much that is. All is used up where room is left.
    ///
    /// # Errors
    /// As [`Conversion::convert`].
    pub(super) fn pour(&mut self, room: &mut [u8]) -> Result<usize, Garbled> {
        let mut made = 0;
        while made < room.len() && !self.is_over {
            let input = &self.raw[self.start..self.end];
            let step = self.conversion.convert(input, &mut room[made..], self.is_ended)?;
            self.start += step.taken;
            made += step.made;
            if step.is_done {
                self.is_over = self.is_ended;
                break;
            }
        }
        Ok(made)
    }

    /// Room for more from the socket: not empty once all is used up.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        &mut self.raw[self.end..]
    }

    /// `bytes` of the room have been filled.
    pub(super) fn fill(&mut self, bytes: usize) {
        self.end += bytes;
    }

    /// Nothing more will come from the socket.
    pub(super) fn end(&mut self) {
        self.is_ended = true;
    }

    /// It has ended, and all of it has been poured out.
    pub(super) fn is_over(&self) -> bool {
        self.is_over
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// `input` converted in pieces of `piece` bytes into rooms of `room` bytes.
    pub(in crate::ftp) fn converted(
        mut conversion: Conversion,
        input: &[u8],
        piece: usize,
        room: usize,
    ) -> Result<Vec<u8>, Garbled> {
        let mut output = Vec::new();
        let mut room = vec![0; room];
        let mut pieces = input.chunks(piece).peekable();
        loop {
            let mut piece = pieces.next().unwrap_or_default();
            let is_last = pieces.peek().is_none();
            loop {
                let step = conversion.convert(piece, &mut room, is_last)?;
                output.extend_from_slice(&room[..step.made]);
                piece = &piece[step.taken..];
                if step.is_done {
                    break;
                }
            }
            if is_last {
                return Ok(output);
            }
        }
    }
}
