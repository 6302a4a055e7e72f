//! MODE Z (draft-preston-ftpext-deflate): a zlib stream (RFC 1950) on the data connection.
//!
//! An upload is inflated into whatever room there is, so a stream that grows a thousandfold takes time but
//! no memory; `single_file_max_size` and the quota end it. Unlike in mode S, the stream itself tells where
//! it ends: one that is cut or broken is a broken transfer.

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::conversion::{Converted, Garbled};

/// Levels that OPTS MODE Z LEVEL takes.
pub(super) const LEVELS: std::ops::RangeInclusive<u32> = 0..=9;
/// What zlib itself takes where nobody says.
pub(super) const LEVEL_USUAL: u32 = 6;

/// Of a download or a listing.
#[derive(Debug)]
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new(level: u32) -> Self {
        Self(Compress::new(Compression::new(level), true))
    }

    pub(super) fn convert(
        &mut self,
        input: &[u8],
        room: &mut [u8],
        is_last: bool,
    ) -> Result<Converted, Garbled> {
        let (taken, made) = (self.0.total_in(), self.0.total_out());
        let flush = if is_last { FlushCompress::Finish } else { FlushCompress::None };
        let status = self.0.compress(input, room, flush).map_err(|_| Garbled::Broken)?;
        let taken = length(self.0.total_in() - taken);
        let made = length(self.0.total_out() - made);
        let is_done = if is_last { status == Status::StreamEnd } else { taken == input.len() };
        Ok(Converted { taken, made, is_done })
    }
}

/// Of an upload.
#[derive(Debug)]
pub(super) struct Inflater {
    stream: Decompress,
    is_over: bool,
}

impl Inflater {
    pub(super) fn new() -> Self {
        Self { stream: Decompress::new(true), is_over: false }
    }

    /// # Errors
    /// Where the stream is broken, is cut before its end, or has something behind its end.
    pub(super) fn convert(
        &mut self,
        input: &[u8],
        room: &mut [u8],
        is_last: bool,
    ) -> Result<Converted, Garbled> {
        if self.is_over {
            let done = Converted { taken: 0, made: 0, is_done: true };
            return if input.is_empty() { Ok(done) } else { Err(Garbled::Tail) };
        }
        let (taken, made) = (self.stream.total_in(), self.stream.total_out());
        let status = self.stream.decompress(input, room, FlushDecompress::None);
        self.is_over = status.map_err(|_| Garbled::Broken)? == Status::StreamEnd;
        let taken = length(self.stream.total_in() - taken);
        let made = length(self.stream.total_out() - made);
        let is_done = taken == input.len() && (self.is_over || made < room.len());
        if is_done && is_last && !self.is_over {
            return Err(Garbled::Cut);
        }
        Ok(Converted { taken, made, is_done })
    }
}

fn length(bytes: u64) -> usize {
    usize::try_from(bytes).expect("no longer than the slice that it is a part of")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ftp::conversion::{Conversion, tests::converted};

    fn deflated(bytes: &[u8]) -> Vec<u8> {
        converted(Conversion::download(false, Some(LEVEL_USUAL)).unwrap(), bytes, 1000, 100).unwrap()
    }

    fn inflated(bytes: &[u8]) -> Result<Vec<u8>, Garbled> {
        converted(Conversion::upload(false, true).unwrap(), bytes, 100, 1000)
    }

    #[test]
    fn a_cut_or_broken_stream_and_one_with_a_tail_are_told() {
        let text: Vec<u8> = (0..100_000_u32).map(|number| (number % 251) as u8).collect();
        let stream = deflated(&text);
        assert!(stream.len() < text.len() / 10);
        assert_eq!(inflated(&stream).unwrap(), text);
        for cut in [0, 1, 2, stream.len() / 2, stream.len() - 1] {
            assert_eq!(inflated(&stream[..cut]), Err(Garbled::Cut), "{cut}");
        }
        assert_eq!(inflated(&[&stream[..], b"x"].concat()), Err(Garbled::Tail));
        assert_eq!(inflated(b"this is no zlib stream"), Err(Garbled::Broken));
        let mut checksum = stream;
        *checksum.last_mut().unwrap() ^= 1;
        assert_eq!(inflated(&checksum), Err(Garbled::Broken));
    }

    #[test]
    fn an_empty_file_is_a_stream_too_and_both_conversions_go_together() {
        assert_eq!(inflated(&deflated(b"")).unwrap(), b"");
        let down = converted(Conversion::download(true, Some(9)).unwrap(), b"a\nb\n", 1, 1).unwrap();
        assert_eq!(inflated(&down).unwrap(), b"a\r\nb\r\n");
        let up = converted(Conversion::upload(true, true).unwrap(), &down, 1, 1).unwrap();
        assert_eq!(up, b"a\nb\n");
    }

    #[test]
    fn a_bomb_comes_out_piece_by_piece() {
        let stream = deflated(&vec![0; 10_000_000]);
        assert!(stream.len() < 20_000);
        let mut inflater = Inflater::new();
        let (mut at, mut bytes, mut room) = (0, 0, [1; 4096]);
        loop {
            let step = inflater.convert(&stream[at..], &mut room, true).unwrap();
            at += step.taken;
            bytes += step.made;
            if step.is_done {
                break;
            }
        }
        assert_eq!((at, bytes), (stream.len(), 10_000_000));
    }

    proptest! {
        #[test]
        fn bytes_survive_both_ways_at_every_level(
            bytes in prop::collection::vec(any::<u8>(), 0..3000), level in LEVELS, piece in 1_usize..50, room in 1_usize..50,
        ) {
            let stream = converted(Conversion::download(false, Some(level)).unwrap(), &bytes, piece, room).unwrap();
            prop_assert_eq!(converted(Conversion::upload(false, true).unwrap(), &stream, room, piece).unwrap(), bytes);
        }

        #[test]
        fn no_bytes_make_it_stumble(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1_usize..50) {
            // Whatever comes of it: it ends.
            drop(converted(Conversion::upload(true, true).unwrap(), &bytes, piece, 16));
        }
    }
}
