//! What arrived, held against the checksum that the server tells.
//!
//! HASH (draft-bryan-ftpext-hash) where the server has it: CRC64 first, which a store like COS knows without reading; then SHA-256 and
//! MD5; XMD5 of older servers. Without any of them only the size can be compared, and the client says so.

use std::fmt;

use crc_fast::CrcAlgorithm;
use md5::{Digest as _, Md5};
use sha2::Sha256;
use suppaftp::{Status, types::Features};

use super::session::Ftp;

/// How a server can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// HASH, which has been told to use this algorithm.
    Hash(Algorithm),
    /// XMD5.
    Xmd5,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Algorithm {
    /// CRC-64/XZ, 16 hexadecimal digits.
    Crc64,
    Sha256,
    Md5,
}

/// What is known about the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The server's checksum is that of the bytes here.
    Agrees(Check),
    /// Nothing but the size could be compared.
    SizeAgrees,
    /// Not even the size is known.
    Unknown,
    /// These are other bytes.
    Differs(Check),
}

/// A running checksum.
#[derive(Debug, Clone)]
pub(super) enum Running {
    Crc64(crc_fast::Digest),
    Sha256(Sha256),
    Md5(Md5),
    /// There is nothing to compare it with.
    None,
}

impl Algorithm {
    const ALL: [Self; 3] = [Self::Crc64, Self::Sha256, Self::Md5];

    fn name(self) -> &'static str {
        match self {
            Self::Crc64 => "CRC64",
            Self::Sha256 => "SHA-256",
            Self::Md5 => "MD5",
        }
    }
}

impl Check {
    /// The best that a server offers; asks it to use that.
    pub(super) fn choose(ftp: &mut Ftp, features: &Features) -> Option<Self> {
        let hash = features.get("HASH").and_then(Option::as_deref).unwrap_or_default();
        let offered: Vec<&str> = hash.split(';').map(|name| name.trim().trim_end_matches('*')).collect();
        for algorithm in Algorithm::ALL {
            let is_offered = offered.iter().any(|name| name.eq_ignore_ascii_case(algorithm.name()));
            let command = format!("OPTS HASH {}", algorithm.name());
            if is_offered && ftp.custom_command(command, &[Status::CommandOk]).is_ok() {
                return Some(Self::Hash(algorithm));
            }
        }
        features.contains_key("XMD5").then_some(Self::Xmd5)
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Self::Hash(algorithm) => algorithm,
            Self::Xmd5 => Algorithm::Md5,
        }
    }

    pub(super) fn running(check: Option<Self>) -> Running {
        match check.map(Self::algorithm) {
            Some(Algorithm::Crc64) => Running::Crc64(crc_fast::Digest::new(CrcAlgorithm::Crc64Xz)),
            Some(Algorithm::Sha256) => Running::Sha256(Sha256::new()),
            Some(Algorithm::Md5) => Running::Md5(Md5::new()),
            None => Running::None,
        }
    }

    /// What the server has of a file, in lower-case hexadecimal digits. `None` where it would not say.
    pub(super) fn ask(self, ftp: &mut Ftp, path: &str) -> Option<String> {
        let verb = match self {
            Self::Hash(_) => "HASH",
            Self::Xmd5 => "XMD5",
        };
        let good = [Status::File, Status::RequestedFileActionOk, Status::CommandOk];
        let reply = ftp.custom_command(format!("{verb} {path}"), &good).ok()?;
        self.read(&String::from_utf8_lossy(&reply.body))
    }

    /// The digest in a reply such as `213 CRC64 0-11 0123456789abcdef name` or `250 "name" d41d…`.
    fn read(self, reply: &str) -> Option<String> {
        let words: Vec<&str> = reply.split_ascii_whitespace().skip(1).collect();
        let digits = match self {
            Self::Hash(algorithm) => match words.as_slice() {
                [name, _range, digits, ..] if name.eq_ignore_ascii_case(algorithm.name()) => *digits,
                _ => return None,
            },
            Self::Xmd5 => words.iter().find(|word| word.len() == 32 && is_hexadecimal(word))?,
        };
        is_hexadecimal(digits).then(|| digits.to_ascii_lowercase())
    }
}

fn is_hexadecimal(word: &str) -> bool {
    word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

impl Running {
    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc64(running) => running.update(bytes),
            Self::Sha256(running) => running.update(bytes),
            Self::Md5(running) => running.update(bytes),
            Self::None => {}
        }
    }

    /// In lower-case hexadecimal digits.
    pub(super) fn finish(self) -> String {
        let hexadecimal = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Crc64(running) => format!("{:016x}", running.finalize()),
            Self::Sha256(running) => hexadecimal(&running.finalize()),
            Self::Md5(running) => hexadecimal(&running.finalize()),
            Self::None => String::new(),
        }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.algorithm().name())
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agrees(check) => write!(f, "{check} agrees"),
            Self::SizeAgrees => f.write_str("size agrees (the server tells no checksum)"),
            Self::Unknown => f.write_str("not compared (the server tells neither checksum nor size)"),
            Self::Differs(check) => write!(f, "{check} differs"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_the_standards() {
        let of = |check| {
            let mut running = Check::running(Some(check));
            running.update(b"1234");
            running.update(b"56789");
            running.finish()
        };
        // The check value of CRC-64/XZ in the catalogue of parametrised CRC algorithms.
        assert_eq!(of(Check::Hash(Algorithm::Crc64)), "995dc9bbdf1939fa");
        assert_eq!(of(Check::Xmd5), "25f9e794323b453885f5181f1b624d0b");
        assert!(of(Check::Hash(Algorithm::Sha256)).starts_with("15e2b0d3c33891eb"));
    }

    #[test]
    fn replies_are_read_and_foreign_ones_are_not() {
        let crc64 = Check::Hash(Algorithm::Crc64);
        let read = |check: Check, reply: &str| check.read(reply);
        assert_eq!(read(crc64, "213 CRC64 0-9 995DC9BBDF1939FA a b").as_deref(), Some("995dc9bbdf1939fa"));
        assert_eq!(read(crc64, "213 SHA-256 0-9 995dc9bbdf1939fa a"), None);
        assert_eq!(read(crc64, "213 CRC64 0-9"), None);
        assert_eq!(read(crc64, "213 CRC64 0-9 no-digits a"), None);
        let md5 = "25f9e794323b453885f5181f1b624d0b";
        assert_eq!(read(Check::Xmd5, &format!("250 {md5}")).as_deref(), Some(md5));
        assert_eq!(read(Check::Xmd5, &format!("213 \"name\" {md5}")).as_deref(), Some(md5));
        assert_eq!(read(Check::Xmd5, "250 none"), None);
    }
}
