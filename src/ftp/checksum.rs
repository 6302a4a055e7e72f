//! Checksums of files: HASH (draft-bryan-ftpext-hash), MD5 (draft-twine-ftpmd5), XCRC and its kin.
//!
//! What the store keeps beside an object is told without reading it: CRC-64 always, MD5 of what was stored by
//! one PUT. Everything else is read through the mount, piece by piece, while the session goes on answering
//! NOOP, STAT and ABOR.

use std::{
    io,
    ops::Range,
    os::fd::OwnedFd,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use crc_fast::{CrcAlgorithm, Digest as Crc};
use md5::Md5;
use rustix::io::Errno;
use sha1::{Digest, Sha1};
use sha2::{Sha256, Sha512};
use tokio::time::{Instant, timeout};

use super::{
    Phase,
    buffers::Piece,
    command::{Misheard, number, verb_of},
    conduct::{may_hear, progress_report},
    control::Heard,
    desk::{Flow, FrontDesk, Login},
    home::{Home, blocking, is_away},
    path::ClientPath,
    reached,
    reply::{Deed, Reply, errno_of, refusal},
    transfer::{Means, Meter},
};

/// What can be computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Algorithm {
    /// What HASH takes where nobody says.
    #[default]
    Sha256,
    Sha512,
    Sha1,
    Md5,
    Crc32,
    /// CRC-64/XZ, as the store keeps it.
    Crc64,
}

/// What HASH offers, by the names that OPTS HASH takes.
const ALGORITHMS: [(&str, Algorithm); 6] = [
    ("SHA-256", Algorithm::Sha256),
    ("SHA-512", Algorithm::Sha512),
    ("SHA-1", Algorithm::Sha1),
    ("MD5", Algorithm::Md5),
    ("CRC32", Algorithm::Crc32),
    ("CRC64", Algorithm::Crc64),
];

impl Algorithm {
    pub(super) fn find(name: &str) -> Option<Self> {
        ALGORITHMS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, found)| *found)
    }

    pub(super) fn name(self) -> &'static str {
        ALGORITHMS.iter().find(|(_, known)| *known == self).map_or("", |(name, _)| name)
    }

    /// `SHA-256*;SHA-1;…`, this one with a star.
    pub(super) fn describe(self) -> String {
        let word = |(name, known): &(&str, Self)| format!("{name}{};", if *known == self { "*" } else { "" });
        ALGORITHMS.iter().map(word).collect::<String>().trim_end_matches(';').to_owned()
    }

    /// The attribute of the mount that tells it of a whole file.
    fn attribute(self) -> Option<&'static str> {
        match self {
            Self::Crc64 => Some("user.cosgate.crc64"),
            Self::Md5 => Some("user.cosgate.md5"),
            Self::Sha256 | Self::Sha512 | Self::Sha1 | Self::Crc32 => None,
        }
    }
}

/// How the answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// `213 ALGORITHM first-last DIGITS name`
    Hash,
    /// `251 name DIGITS`
    Md5,
    /// `250 DIGITS`
    Plain,
}

/// A checksum that a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChecksumRequest {
    form: Form,
    /// `None`: what OPTS HASH has chosen.
    algorithm: Option<Algorithm>,
    path: ClientPath,
    /// As the client wrote it.
    written: String,
    /// `None`: all of the file, or what RANG has chosen.
    range: Option<Range<u64>>,
}

/// Takes the argument of HASH and its kin apart; `None` where `verb` is none of them.
pub(super) fn parse(
    verb: &str,
    argument: &str,
    cwd: &ClientPath,
) -> Option<Result<ChecksumRequest, Misheard>> {
    let (form, algorithm) = match verb {
        "HASH" => (Form::Hash, None),
        "MD5" => (Form::Md5, Some(Algorithm::Md5)),
        "XMD5" => (Form::Plain, Some(Algorithm::Md5)),
        "XCRC" => (Form::Plain, Some(Algorithm::Crc32)),
        "XSHA" | "XSHA1" => (Form::Plain, Some(Algorithm::Sha1)),
        "XSHA256" => (Form::Plain, Some(Algorithm::Sha256)),
        "XSHA512" => (Form::Plain, Some(Algorithm::Sha512)),
        _ => return None,
    };
    let target = if form == Form::Hash { Some((argument, None)) } else { path_and_range(argument) };
    Some(match target {
        Some((path, range)) if !path.is_empty() => {
            Ok(ChecksumRequest { form, algorithm, path: cwd.join(path), written: path.to_owned(), range })
        }
        _ => Err(Misheard::Syntax("a path is missing, or the range behind it is none")),
    })
}

/// A path, or one in quotes and the range behind it: first byte, and the byte behind the last one.
fn path_and_range(argument: &str) -> Option<(&str, Option<Range<u64>>)> {
    let Some((path, rest)) = argument.strip_prefix('"').and_then(|rest| rest.rsplit_once('"')) else {
        return Some((argument, None));
    };
    let mut words = rest.split_whitespace().map(number);
    match (words.next(), words.next(), words.next()) {
        (None, ..) => Some((path, None)),
        (Some(Some(start)), None, None) => Some((path, Some(start..u64::MAX))),
        (Some(Some(start)), Some(Some(end)), None) if start <= end => Some((path, Some(start..end))),
        _ => None,
    }
}

/// A checksum under way.
#[derive(Debug)]
enum Hasher {
    Sha256(Box<Sha256>),
    Sha512(Box<Sha512>),
    Sha1(Box<Sha1>),
    Md5(Box<Md5>),
    Crc32(Box<Crc>),
    Crc64(Box<Crc>),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Box::default()),
            Algorithm::Sha512 => Self::Sha512(Box::default()),
            Algorithm::Sha1 => Self::Sha1(Box::default()),
            Algorithm::Md5 => Self::Md5(Box::default()),
            Algorithm::Crc32 => Self::Crc32(Box::new(Crc::new(CrcAlgorithm::Crc32IsoHdlc))),
            Algorithm::Crc64 => Self::Crc64(Box::new(Crc::new(CrcAlgorithm::Crc64Xz))),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
            Self::Sha1(hasher) => hasher.update(bytes),
            Self::Md5(hasher) => hasher.update(bytes),
            Self::Crc32(hasher) | Self::Crc64(hasher) => hasher.update(bytes),
        }
    }

    /// Hexadecimal digits; those of CRC-32 are capitals by habit of XCRC.
    fn finish(self) -> String {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        match self {
            Self::Sha256(hasher) => hex(&hasher.finalize()),
            Self::Sha512(hasher) => hex(&hasher.finalize()),
            Self::Sha1(hasher) => hex(&hasher.finalize()),
            Self::Md5(hasher) => hex(&hasher.finalize()),
            Self::Crc32(hasher) => format!("{:08X}", hasher.finalize()),
            Self::Crc64(hasher) => format!("{:016x}", hasher.finalize()),
        }
    }
}

/// A checksum of a range of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Sum {
    range: Range<u64>,
    digits: String,
}

/// Why there is none.
#[derive(Debug)]
enum Failure {
    Mount(io::Error),
    PastEnd { bytes: u64 },
    Truncated,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Mount(error)
    }
}

/// What the mount tells of a whole file, where it does.
fn stored(file: &OwnedFd, algorithm: Algorithm) -> io::Result<Option<String>> {
    let Some(name) = algorithm.attribute() else { return Ok(None) };
    let mut value = Vec::with_capacity(ATTRIBUTE_BYTES_MAX);
    match rustix::fs::fgetxattr(file, name, rustix::buffer::spare_capacity(&mut value)) {
        Ok(_) => {}
        Err(errno) if is_away(&errno.into()) => return Err(errno.into()),
        // It knows none: an object from elsewhere, or a file that is on its way.
        Err(_) => return Ok(None),
    }
    let text = String::from_utf8_lossy(&value);
    Ok(match algorithm {
        Algorithm::Crc64 => text.parse::<u64>().ok().map(|crc64| format!("{crc64:016x}")),
        _ => Some(text.into_owned()),
    })
}

async fn compute(
    home: Arc<Home>,
    means: Arc<Means>,
    path: ClientPath,
    algorithm: Algorithm,
    range: Range<u64>,
    meter: Meter,
) -> Result<Sum, Failure> {
    let opened = home.run(move |root| {
        let (file, facts) = root.open_to_read(&path)?;
        let told = stored(&file, algorithm)?;
        Ok((file, facts, told))
    });
    let (file, facts, told) = opened.await?;
    if range.start > facts.bytes {
        return Err(Failure::PastEnd { bytes: facts.bytes });
    }
    let range = range.start..range.end.min(facts.bytes);
    if let Some(digits) = told.filter(|_| range == (0..facts.bytes)) {
        return Ok(Sum { range, digits });
    }
    let _place = means.checksums.acquire().await.map_err(io::Error::other)?;
    let (mut file, mut hasher, mut offset) = (file, Hasher::new(algorithm), range.start);
    while offset < range.end {
        let _place = means.reads.acquire().await.map_err(io::Error::other)?;
        let (piece, at, end) = (means.buffers.take(), offset, range.end);
        let bytes;
        (file, hasher, bytes) = blocking(move || {
            let bytes = take_in(&file, &mut hasher, piece, at..end)?;
            Ok((file, hasher, bytes))
        })
        .await?;
        if bytes == 0 {
            return Err(Failure::Truncated);
        }
        offset += bytes;
        meter.add(bytes);
    }
    let digits = hasher.finish();
    // The last close of a file may ask the mount too.
    blocking(move || {
        drop(file);
        Ok(())
    })
    .await?;
    Ok(Sum { range, digits })
}

/// One step: as much as a piece holds. 0 at the end of the file.
fn take_in(file: &OwnedFd, hasher: &mut Hasher, mut piece: Piece, range: Range<u64>) -> io::Result<u64> {
    let left = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
    let room = piece.spare().len().min(left);
    loop {
        match rustix::io::pread(file, &mut piece.spare()[..room], range.start) {
            Ok(bytes) => {
                piece.fill(bytes);
                hasher.update(piece.filled());
                return Ok(bytes as u64);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Longest value of an attribute that is asked for.
const ATTRIBUTE_BYTES_MAX: usize = 64;
/// Longest that a client waits: some 60 GB from a store that gives 70 MB a second.
const CHECKSUM_TIME_MAX: Duration = Duration::from_secs(15 * 60);

impl FrontDesk {
    /// Computes a checksum, and hears the client meanwhile.
    pub(super) async fn checksum(&mut self, request: ChecksumRequest) -> io::Result<Flow> {
        let Login::In(session) = &self.login else { return Ok(Flow::Next) };
        let (home, means) = (session.context.user().home.clone(), self.front.means.clone());
        let chosen = self.range.take().filter(|_| request.form == Form::Hash);
        let range = request.range.clone().or(chosen).unwrap_or(0..u64::MAX);
        let algorithm = request.algorithm.unwrap_or(self.algorithm);
        let meter = Meter::new(Arc::new(AtomicU64::new(0)));
        let computing = compute(home, means, request.path.clone(), algorithm, range, meter.clone());
        let mut computing = Box::pin(timeout(CHECKSUM_TIME_MAX, computing));
        let mut phase = self.phase.clone();
        let begun = Instant::now();
        let reply = loop {
            tokio::select! {
                biased;
                () = reached(&mut phase, Phase::Breaking) => break Reply::new(451, "The server is stopping"),
                done = &mut computing => break match done {
                    Ok(done) => told(&request, algorithm, done),
                    Err(_) => Reply::new(451, "It takes too long"),
                },
                heard = self.control.hear(), if may_hear(&self.waiting) => {
                    let Heard::Line(line) = &heard else {
                        if heard == Heard::Closed {
                            return Ok(Flow::End);
                        }
                        self.waiting.push_back(heard);
                        continue;
                    };
                    match verb_of(line).as_str() {
                        "NOOP" if self.waiting.is_empty() => {
                            self.say(Reply::new(200, "Still computing")).await?;
                        }
                        "STAT" if self.waiting.is_empty() && line.trim_ascii().len() == 4 => {
                            let report = progress_report(algorithm.name(), &request.path, &meter, begun);
                            self.say(report).await?;
                        }
                        "ABOR" => {
                            self.waiting.push_back(heard);
                            break Reply::new(426, "Checksum aborted");
                        }
                        _ => self.waiting.push_back(heard),
                    }
                }
            }
        };
        self.say(reply).await?;
        Ok(Flow::Next)
    }
}

fn told(request: &ChecksumRequest, algorithm: Algorithm, done: Result<Sum, Failure>) -> Reply {
    let ChecksumRequest { form, path, written, .. } = request;
    let Sum { range, digits } = match done {
        Ok(sum) => sum,
        Err(Failure::Mount(error)) => return refusal(errno_of(&error), Deed::Read, path),
        Err(Failure::PastEnd { bytes }) => {
            return Reply::new(554, format!("The range begins past the end: {path} has {bytes} bytes"));
        }
        Err(Failure::Truncated) => return refusal(Errno::STALE, Deed::Read, path),
    };
    match form {
        Form::Hash => {
            let last = range.end.max(range.start + 1) - 1;
            Reply::new(213, format!("{} {}-{last} {digits} {written}", algorithm.name(), range.start))
        }
        Form::Md5 if written.contains(' ') => Reply::new(251, format!("\"{written}\" {digits}")),
        Form::Md5 => Reply::new(251, format!("{written} {digits}")),
        Form::Plain => Reply::new(250, digits),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_gives_its_published_check_value() {
        for (algorithm, digits) in [
            (Algorithm::Crc32, "CBF43926"),
            (Algorithm::Crc64, "995dc9bbdf1939fa"),
            (Algorithm::Md5, "25f9e794323b453885f5181f1b624d0b"),
            (Algorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
            (Algorithm::Sha256, "15e2b0d3c33891ebb0f1ef609ec419420c20e320ce94c65fbc8c3312448eb225"),
        ] {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(b"1234");
            hasher.update(b"56789");
            assert_eq!(hasher.finish(), digits, "{algorithm:?}");
            assert_eq!(Algorithm::find(&algorithm.name().to_lowercase()), Some(algorithm));
        }
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"abc");
        assert!(hasher.finish().starts_with("ddaf35a193617abacc417349ae204131"));
        assert_eq!(Algorithm::find("MD6"), None);
        assert_eq!(Algorithm::Md5.describe(), "SHA-256;SHA-512;SHA-1;MD5*;CRC32;CRC64");
    }

    #[test]
    fn paths_may_be_in_quotes_and_have_a_range_then() {
        let heard = |verb, argument| {
            let heard = parse(verb, argument, &ClientPath::home()).unwrap();
            heard.map(|request| (request.written, request.range))
        };
        assert_eq!(heard("XCRC", "a 1 2"), Ok(("a 1 2".to_owned(), None)));
        assert_eq!(heard("XCRC", "\"a b\""), Ok(("a b".to_owned(), None)));
        assert_eq!(heard("XCRC", "\"a b\" 1 20"), Ok(("a b".to_owned(), Some(1..20))));
        assert_eq!(heard("XMD5", "\"a\" 7"), Ok(("a".to_owned(), Some(7..u64::MAX))));
        assert_eq!(heard("HASH", "\"a\" 7"), Ok(("\"a\" 7".to_owned(), None)));
        for argument in ["", "\"\"", "\"a\" x", "\"a\" 2 1", "\"a\" 1 2 3"] {
            assert!(matches!(heard("XSHA1", argument), Err(Misheard::Syntax(_))), "{argument}");
        }
        assert!(parse("RETR", "a", &ClientPath::home()).is_none());
    }
}
