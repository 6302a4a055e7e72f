//! Line ends of type A (RFC 959 section 3.1.1.1): CRLF on the wire, LF in files.
//!
//! | | on the wire | in the file |
//! |---|---|---|
//! | upload | CRLF | LF |
//! | | a CR without LF behind it, an LF without CR before it | as they are |
//! | download | CRLF | LF |
//! | | CRLF | CRLF: the line has its end already |
//!
//! So a text that came in type I from a machine with CRLF line ends goes out in type A as that machine wants
//! it, without a second CR. Bytes are looked at and nothing else: a character set has no say here.

use super::conversion::Converted;

const CR: u8 = b'\r';
const LF: u8 = b'\n';

/// Of an upload.
#[derive(Debug, Default)]
pub(super) struct ToLf {
    /// A CR whose next byte has not come yet.
    held: bool,
}

impl ToLf {
    pub(super) fn convert(&mut self, input: &[u8], room: &mut [u8], is_last: bool) -> Converted {
        let (mut taken, mut made) = (0, 0);
        while made < room.len() {
            if self.held {
                match input.get(taken) {
                    Some(&LF) => {}
                    None if !is_last => break,
                    Some(_) | None => {
                        room[made] = CR;
                        made += 1;
                    }
                }
                self.held = false;
                continue;
            }
            let run = &input[taken..];
            let run = &run[..run.len().min(room.len() - made)];
            if run.is_empty() {
                break;
            }
            let bytes = run.iter().position(|&byte| byte == CR).unwrap_or(run.len());
            room[made..made + bytes].copy_from_slice(&run[..bytes]);
            made += bytes;
            taken += bytes;
            if bytes < run.len() {
                taken += 1;
                self.held = true;
            }
        }
        Converted { taken, made, is_done: taken == input.len() && !(self.held && is_last) }
    }
}

/// Of a download.
#[derive(Debug, Default)]
pub(super) struct ToCrlf {
    /// The CR of a line end has been made, its LF has not.
    owed: bool,
    /// The last byte that came was a CR.
    after_cr: bool,
}

impl ToCrlf {
    pub(super) fn convert(&mut self, input: &[u8], room: &mut [u8]) -> Converted {
        let (mut taken, mut made) = (0, 0);
        while made < room.len() {
            if std::mem::take(&mut self.owed) {
                room[made] = LF;
                made += 1;
                continue;
            }
            let run = &input[taken..];
            let run = &run[..run.len().min(room.len() - made)];
            let Some(&first) = run.first() else { break };
            if first == LF {
                taken += 1;
                room[made] = if self.after_cr { LF } else { CR };
                self.owed = !self.after_cr;
                self.after_cr = false;
                made += 1;
                continue;
            }
            let bytes = run.iter().position(|&byte| byte == LF).unwrap_or(run.len());
            room[made..made + bytes].copy_from_slice(&run[..bytes]);
            self.after_cr = run[bytes - 1] == CR;
            made += bytes;
            taken += bytes;
        }
        Converted { taken, made, is_done: taken == input.len() && !self.owed }
    }

    /// How many bytes more than `input` it would make: what SIZE has to count (RFC 3659 section 4).
    pub(super) fn growth(&mut self, input: &[u8]) -> u64 {
        let mut bytes = 0;
        for &byte in input {
            bytes += u64::from(byte == LF && !self.after_cr);
            self.after_cr = byte == CR;
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ftp::conversion::{Conversion, tests::converted};

    fn up(text: &[u8]) -> Vec<u8> {
        converted(Conversion::upload(true, false).unwrap(), text, 7, 5).unwrap()
    }

    fn down(text: &[u8]) -> Vec<u8> {
        converted(Conversion::download(true, None).unwrap(), text, 7, 5).unwrap()
    }

    #[test]
    fn line_ends_change_and_nothing_else_does() {
        assert_eq!(up(b"a\r\nb\r\n\r\n"), b"a\nb\n\n");
        assert_eq!(up(b"a\rb\nc\r\r\nd\r"), b"a\rb\nc\r\nd\r");
        assert_eq!(down(b"a\nb\n\n"), b"a\r\nb\r\n\r\n");
        assert_eq!(down(b"a\r\nb\rc\r\r\nd\r"), b"a\r\nb\rc\r\r\nd\r");
        assert_eq!((up(b""), down(b"")), (Vec::new(), Vec::new()));
    }

    proptest! {
        #[test]
        fn pieces_of_any_size_make_the_same_bytes(
            letters in prop::collection::vec(prop::sample::select(vec![b'a', b'\r', b'\n', 0]), 0..200),
            piece in 1_usize..9, room in 1_usize..9,
        ) {
            let whole = |conversion: Conversion| converted(conversion, &letters, 4096, 4096).unwrap();
            let pieces = |conversion: Conversion| converted(conversion, &letters, piece, room).unwrap();
            let (upload, download) = (|| Conversion::upload(true, false).unwrap(), || Conversion::download(true, None).unwrap());
            prop_assert_eq!(pieces(upload()), whole(upload()));
            prop_assert_eq!(pieces(download()), whole(download()));
            // SIZE counts what a download makes, whatever the pieces.
            let mut counter = ToCrlf::default();
            let growth: u64 = letters.chunks(piece).map(|piece| counter.growth(piece)).sum();
            prop_assert_eq!(whole(download()).len() as u64, letters.len() as u64 + growth);
        }

        #[test]
        fn a_text_with_lf_line_ends_survives_both_ways(text in "[a-z\n]{0,200}") {
            prop_assert_eq!(up(&down(text.as_bytes())), text.as_bytes());
        }
    }
}
