//! The bytes of objects and parts: segments in memory or in files, shared and never copied.
//!
//! A part of an upload, a copy and a range of an object all point to the same segments, so that Complete
//! and copies of any size move no byte. [`Intake`] turns the body of a request into a [`Content`].

use std::{io, os::unix::fs::FileExt as _, sync::Arc};

use bytes::{Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest as CrcDigest};
use md5::{Digest as _, Md5};

use super::{
    data_dir::{Blob, BlobWriter, DataDir},
    signature::hex,
};

/// How much of a body is taken into one piece, in bytes.
pub(super) const PIECE_BYTES: usize = 1 << 20;

/// Some bytes that lie in one place.
#[derive(Debug, Clone)]
pub(super) enum Segment {
    Memory(Bytes),
    File { blob: Arc<Blob>, offset: u64, bytes: u64 },
}

impl Segment {
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Memory(piece) => piece.len() as u64,
            Self::File { bytes, .. } => *bytes,
        }
    }

    /// `length` bytes from `first` on; both lie within the segment.
    fn slice(&self, first: u64, length: u64) -> Self {
        match self {
            Self::Memory(piece) => {
                let from = usize::try_from(first).expect("a segment in memory fits into it");
                let length = usize::try_from(length).expect("a segment in memory fits into it");
                Self::Memory(piece.slice(from..from + length))
            }
            Self::File { blob, offset, .. } => {
                Self::File { blob: Arc::clone(blob), offset: offset + first, bytes: length }
            }
        }
    }
}

/// A sequence of bytes.
#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    /// Each with the offset of its end.
    segments: Vec<(u64, Segment)>,
}

impl Content {
    pub(super) fn len(&self) -> u64 {
        self.segments.last().map_or(0, |(end, _)| *end)
    }

    pub(super) fn push(&mut self, segment: Segment) {
        if segment.len() > 0 {
            self.segments.push((self.len() + segment.len(), segment));
        }
    }

    /// Puts all of `other` behind this one.
    pub(super) fn extend(&mut self, other: &Self) {
        for (_, segment) in &other.segments {
            self.push(segment.clone());
        }
    }

    pub(super) fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.segments.iter().map(|(_, segment)| segment)
    }

    /// `length` bytes from `first` on, clipped at the end.
    pub(super) fn slice(&self, first: u64, length: u64) -> Self {
        let end = self.len().min(first.saturating_add(length));
        let mut sliced = Self::default();
        let from = self.segments.partition_point(|(segment_end, _)| *segment_end <= first);
        for (segment_end, segment) in &self.segments[from..] {
            let start = segment_end - segment.len();
            if start >= end {
                break;
            }
            let (low, high) = (first.max(start), end.min(*segment_end));
            sliced.push(segment.slice(low - start, high - low));
        }
        sliced
    }

    /// Reads everything through `sink`, from files in pieces. Blocks.
    pub(super) fn read(&self, mut sink: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = Vec::new();
        for segment in self.segments() {
            match segment {
                Segment::Memory(piece) => sink(piece),
                Segment::File { blob, offset, bytes } => {
                    buffer.resize(PIECE_BYTES, 0);
                    let file = blob.open()?;
                    let (mut at, end) = (*offset, offset + bytes);
                    while at < end {
                        let want = usize::try_from(end - at).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
                        file.read_exact_at(&mut buffer[..want], at)?;
                        sink(&buffer[..want]);
                        at += want as u64;
                    }
                }
            }
        }
        Ok(())
    }
}

/// What a body turned out to be.
#[derive(Debug)]
pub(super) struct Received {
    pub(super) content: Content,
    pub(super) crc64: u64,
    /// Where it was asked for.
    pub(super) md5: Option<[u8; 16]>,
}

impl Received {
    /// The 32 digits of an ETag: the MD5, or without one a text that equal bytes share.
    pub(super) fn etag(&self) -> String {
        match self.md5 {
            Some(digest) => hex(&digest),
            None => fast_etag(self.crc64, self.content.len()),
        }
    }
}

/// An ETag of 32 digits without an MD5, for `--fast-etag`.
pub(super) fn fast_etag(crc64: u64, bytes: u64) -> String {
    format!("{crc64:016x}{:016x}", crc64.rotate_left(23) ^ bytes.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Takes bytes in: checksums on the fly, storage in memory or in a new blob.
pub(super) struct Intake {
    crc: CrcDigest,
    md5: Option<Md5>,
    content: Content,
    blob: Option<BlobWriter>,
}

impl Intake {
    /// An intake into `data`, or into memory. A blob that is not finished vanishes.
    pub(super) fn new(data: Option<&Arc<DataDir>>, with_md5: bool) -> io::Result<Self> {
        Ok(Self {
            crc: CrcDigest::new(CrcAlgorithm::Crc64Xz),
            md5: with_md5.then(Md5::new),
            content: Content::default(),
            blob: data.map(DataDir::new_blob).transpose()?,
        })
    }

    /// Whether the pieces go to a file, so that their buffer can be used again.
    pub(super) fn is_file(&self) -> bool {
        self.blob.is_some()
    }

    /// Counts bytes into the checksums; each byte once, in order.
    pub(super) fn digest(&mut self, bytes: &[u8]) {
        self.crc.update(bytes);
        if let Some(md5) = &mut self.md5 {
            md5.update(bytes);
        }
    }

    /// Stores a piece whose bytes have been digested. With a file the buffer comes back empty.
    pub(super) fn store(&mut self, piece: &mut BytesMut) -> io::Result<()> {
        if piece.is_empty() {
            return Ok(());
        }
        match &mut self.blob {
            Some(blob) => {
                blob.write_all(piece)?;
                piece.clear();
            }
            None => self.content.push(Segment::Memory(compact(piece))),
        }
        Ok(())
    }

    /// Everything is there.
    pub(super) fn finish(mut self) -> io::Result<Received> {
        if let Some(blob) = self.blob.take() {
            let bytes = blob.len();
            if bytes > 0 {
                self.content.push(Segment::File { blob: blob.finish()?, offset: 0, bytes });
            }
        }
        Ok(Received {
            content: self.content,
            crc64: self.crc.finalize(),
            md5: self.md5.map(|md5| md5.finalize().into()),
        })
    }
}

/// The piece as shared bytes, copied where most of its buffer would be wasted.
fn compact(piece: &mut BytesMut) -> Bytes {
    if piece.len() * 2 < piece.capacity() {
        let copy = Bytes::copy_from_slice(piece);
        piece.clear();
        return copy;
    }
    std::mem::take(piece).freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(pieces: &[&'static str]) -> Content {
        let mut content = Content::default();
        for piece in pieces {
            content.push(Segment::Memory(Bytes::from_static(piece.as_bytes())));
        }
        content
    }

    fn text(content: &Content) -> String {
        let mut all = Vec::new();
        content.read(|piece| all.extend_from_slice(piece)).unwrap();
        String::from_utf8(all).unwrap()
    }

    #[test]
    fn slices_cross_segments_and_are_clipped() {
        let whole = content(&["abc", "", "defg", "h"]);
        assert_eq!(whole.len(), 8);
        for first in 0..9 {
            for length in 0..10 {
                let end = (first + length).min(8);
                let expected = "abcdefgh".get(first..end).unwrap_or("");
                assert_eq!(text(&whole.slice(first as u64, length as u64)), expected, "{first}+{length}");
            }
        }
    }

    #[test]
    fn checksums_are_those_of_the_bytes() {
        let mut intake = Intake::new(None, true).unwrap();
        let mut piece = BytesMut::from(&b"123456789"[..]);
        intake.digest(&piece);
        intake.store(&mut piece).unwrap();
        let received = intake.finish().unwrap();
        assert_eq!(received.crc64, 11_051_210_869_376_104_954);
        assert_eq!(received.etag(), "25f9e794323b453885f5181f1b624d0b");
        assert_eq!(fast_etag(received.crc64, 9).len(), 32);
    }
}
