//! What S3 clients say about a body, checked as it comes in: its SHA-256, the checksums of
//! `x-amz-checksum-…` headers and trailers, and the chunks of `Content-Encoding: aws-chunked`.
//!
//! ```text
//! head ── size;chunk-signature=… ── data ── line end ── head ── … ── 0;… ── trailers ── empty line
//! ```
//!
//! No I/O: the body hands over lines and data in turn. Checksums are verified and told back, not kept.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use crc_fast::{CrcAlgorithm, Digest as CrcDigest};
use sha1::Sha1;
use sha2::{Digest as _, Sha256};

use super::{
    error::{self, ApiError},
    request::Request,
    signature_v4::{Chain, Claim},
};

/// The header of a checksum up to its algorithm's name.
const CHECKSUM: &str = "x-amz-checksum-";
/// Headers that begin like one, but say something about checksums.
const NO_CHECKSUMS: &[&str] = &["x-amz-checksum-mode", "x-amz-checksum-algorithm", "x-amz-checksum-type"];

/// All that is to be true of a body.
#[derive(Debug, Default)]
pub(super) struct Payload {
    sha256: Option<(Sha256, [u8; 32])>,
    checksums: Vec<Checksum>,
    pub(super) chunks: Option<Chunks>,
    bytes: u64,
    /// `x-amz-decoded-content-length`
    bytes_expected: Option<u64>,
}

impl Payload {
    /// What `request` and its signature say. `has_checksums`: its checksum headers are of its body, not of
    /// the object that it makes.
    ///
    /// # Errors
    /// `InvalidRequest` for a checksum that is none.
    pub(super) fn of(request: &Request, claim: Claim, has_checksums: bool) -> Result<Self, ApiError> {
        let mut payload = Self::default();
        match claim {
            Claim::Nothing => {}
            Claim::Sha256(expected) => payload.sha256 = Some((Sha256::new(), expected)),
            Claim::Chunks(chain) => {
                payload.chunks = Some(Chunks::new(chain));
                payload.bytes_expected = match request.header("x-amz-decoded-content-length") {
                    None => return Err(error::MISSING_LENGTH),
                    Some(digits) => Some(digits.parse().map_err(|_| error::MALFORMED_CHUNK)?),
                };
            }
        }
        if !has_checksums {
            return Ok(payload);
        }
        for (name, value) in request.headers() {
            if name.starts_with(CHECKSUM) && !NO_CHECKSUMS.contains(&name) {
                let value = std::str::from_utf8(value).map_err(|_| error::INVALID_CHECKSUM)?;
                payload.checksums.push(Checksum::new(name, Some(value))?);
            }
        }
        let trailers = request.header("x-amz-trailer").unwrap_or_default();
        for name in trailers.split(',').map(str::trim).filter(|name| name.starts_with(CHECKSUM)) {
            payload.checksums.push(Checksum::new(&name.to_ascii_lowercase(), None)?);
        }
        Ok(payload)
    }

    /// Whether it has a checksum of any kind.
    pub(super) fn is_checked(&self) -> bool {
        !self.checksums.is_empty()
    }

    /// Takes the next bytes of the body itself.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len() as u64;
        if let Some((digest, _)) = &mut self.sha256 {
            digest.update(bytes);
        }
        for checksum in &mut self.checksums {
            checksum.sum.update(bytes);
        }
    }

    /// Everything has come. To be asked once.
    ///
    /// # Errors
    /// `IncompleteBody`, `XAmzContentSHA256Mismatch`, `BadDigest`.
    pub(super) fn finish(&mut self) -> Result<(), ApiError> {
        if self.bytes_expected.is_some_and(|expected| expected != self.bytes) {
            return Err(error::INCOMPLETE_BODY);
        }
        if let Some((digest, expected)) = self.sha256.take()
            && <[u8; 32]>::from(digest.finalize()) != expected
        {
            return Err(error::SHA256_DIFFERS);
        }
        let trailers = self.chunks.as_ref().map_or("", |chunks| &chunks.trailers);
        for checksum in &mut self.checksums {
            if checksum.expected.is_none() {
                let mut pairs = trailers.lines().filter_map(|line| line.split_once(':'));
                let trailer = pairs.find(|(name, _)| *name == checksum.name);
                checksum.expect(trailer.ok_or(error::INVALID_CHECKSUM)?.1)?;
            }
            let computed = std::mem::replace(&mut checksum.sum, Sum::None).finish();
            if checksum.expected.as_ref() != Some(&computed) {
                return Err(error::CHECKSUM_DIFFERS);
            }
        }
        Ok(())
    }

    /// The checksums that were found true, as headers of the answer.
    pub(super) fn checked(&self) -> impl Iterator<Item = (String, String)> + '_ {
        self.checksums
            .iter()
            .filter_map(|checksum| Some((checksum.name.clone(), BASE64.encode(checksum.expected.as_ref()?))))
    }
}

/// A checksum that the client told, or promised to tell behind the body.
#[derive(Debug)]
struct Checksum {
    /// Of the header, in lower case.
    name: String,
    expected: Option<Vec<u8>>,
    sum: Sum,
}

impl Checksum {
    fn new(name: &str, value: Option<&str>) -> Result<Self, ApiError> {
        let sum = match name.strip_prefix(CHECKSUM) {
            Some("crc32") => Sum::Crc32(CrcDigest::new(CrcAlgorithm::Crc32IsoHdlc)),
            Some("crc32c") => Sum::Crc32(CrcDigest::new(CrcAlgorithm::Crc32Iscsi)),
            Some("crc64nvme") => Sum::Crc64(CrcDigest::new(CrcAlgorithm::Crc64Nvme)),
            Some("sha1") => Sum::Sha1(Sha1::new()),
            Some("sha256") => Sum::Sha256(Sha256::new()),
            _ => return Err(error::NOT_IMPLEMENTED),
        };
        let mut checksum = Self { name: name.to_owned(), expected: None, sum };
        if let Some(value) = value {
            checksum.expect(value)?;
        }
        Ok(checksum)
    }

    fn expect(&mut self, value: &str) -> Result<(), ApiError> {
        let bytes = BASE64.decode(value.trim()).map_err(|_| error::INVALID_CHECKSUM)?;
        self.expected = Some(bytes);
        Ok(())
    }
}

#[derive(Debug)]
enum Sum {
    Crc32(CrcDigest),
    Crc64(CrcDigest),
    Sha1(Sha1),
    Sha256(Sha256),
    /// It has been told.
    None,
}

impl Sum {
    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc32(digest) | Self::Crc64(digest) => digest.update(bytes),
            Self::Sha1(digest) => digest.update(bytes),
            Self::Sha256(digest) => digest.update(bytes),
            Self::None => {}
        }
    }

    fn finish(self) -> Vec<u8> {
        match self {
            Self::Crc32(digest) => digest.finalize().to_be_bytes()[4..].to_vec(),
            Self::Crc64(digest) => digest.finalize().to_be_bytes().to_vec(),
            Self::Sha1(digest) => digest.finalize().to_vec(),
            Self::Sha256(digest) => digest.finalize().to_vec(),
            Self::None => Vec::new(),
        }
    }
}

/// What comes next of an aws-chunked body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    Line,
    /// At most so many bytes of data.
    Data(u64),
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    Data(u64),
    DataEnd,
    Trailers,
    End,
}

/// Reads aws-chunked.
#[derive(Debug)]
pub(super) struct Chunks {
    state: State,
    chain: Option<Chain>,
    /// Of the chunk that is coming: its signature, and the digest of its data.
    signature: String,
    digest: Sha256,
    /// `name:value` a line, as they came.
    trailers: String,
    /// A signature of the trailers has been seen and is right.
    is_sealed: bool,
}

impl Chunks {
    fn new(chain: Option<Chain>) -> Self {
        Self {
            state: State::Head,
            chain,
            signature: String::new(),
            digest: Sha256::new(),
            trailers: String::new(),
            is_sealed: false,
        }
    }

    pub(super) fn next(&self) -> Next {
        match self.state {
            State::Data(left) => Next::Data(left),
            State::End => Next::End,
            State::Head | State::DataEnd | State::Trailers => Next::Line,
        }
    }

    /// Takes data; no more than [`Next::Data`] says.
    ///
    /// # Errors
    /// `SignatureDoesNotMatch` at the end of a chunk.
    pub(super) fn data(&mut self, bytes: &[u8]) -> Result<(), ApiError> {
        let State::Data(left) = self.state else {
            return Err(error::MALFORMED_CHUNK);
        };
        if self.chain.is_some() {
            self.digest.update(bytes);
        }
        let left = left.checked_sub(bytes.len() as u64).ok_or(error::MALFORMED_CHUNK)?;
        if left > 0 {
            self.state = State::Data(left);
            return Ok(());
        }
        self.state = State::DataEnd;
        self.check_chunk()
    }

    /// Takes a line without its end.
    ///
    /// # Errors
    /// `InvalidRequest` for what is malformed, `SignatureDoesNotMatch`.
    pub(super) fn line(&mut self, line: &str) -> Result<(), ApiError> {
        match self.state {
            State::Head => self.head(line),
            State::DataEnd if line.is_empty() => {
                self.state = State::Head;
                Ok(())
            }
            State::Trailers if line.is_empty() => self.end(),
            State::Trailers => self.trailer(line),
            State::DataEnd | State::Data(_) | State::End => Err(error::MALFORMED_CHUNK),
        }
    }

    /// The body is at its end; some clients leave out the last empty line.
    ///
    /// # Errors
    /// `IncompleteBody` where more had to come.
    pub(super) fn end(&mut self) -> Result<(), ApiError> {
        if self.state != State::Trailers {
            return Err(error::INCOMPLETE_BODY);
        }
        if self.chain.is_some() && !self.trailers.is_empty() && !self.is_sealed {
            return Err(error::SIGNATURE_DIFFERS);
        }
        self.state = State::End;
        Ok(())
    }

    fn head(&mut self, line: &str) -> Result<(), ApiError> {
        let (digits, extension) = line.split_once(';').unwrap_or((line, ""));
        let bytes = u64::from_str_radix(digits.trim(), 16).map_err(|_| error::MALFORMED_CHUNK)?;
        extension.trim().strip_prefix("chunk-signature=").unwrap_or_default().clone_into(&mut self.signature);
        if bytes > 0 {
            self.state = State::Data(bytes);
            return Ok(());
        }
        self.state = State::Trailers;
        self.check_chunk()
    }

    fn trailer(&mut self, line: &str) -> Result<(), ApiError> {
        let (name, value) = line.split_once(':').ok_or(error::MALFORMED_CHUNK)?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if name != "x-amz-trailer-signature" {
            self.trailers.push_str(&format!("{name}:{value}\n"));
            return Ok(());
        }
        if let Some(chain) = &mut self.chain
            && !chain.accepts_trailers(value, &self.trailers)
        {
            return Err(error::SIGNATURE_DIFFERS);
        }
        self.is_sealed = true;
        Ok(())
    }

    fn check_chunk(&mut self) -> Result<(), ApiError> {
        let Some(chain) = &mut self.chain else {
            return Ok(());
        };
        let sha256 = std::mem::take(&mut self.digest).finalize().into();
        if chain.accepts_chunk(&self.signature, sha256) { Ok(()) } else { Err(error::SIGNATURE_DIFFERS) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(headers: &str, claim: Claim) -> Result<Payload, ApiError> {
        let text = format!("PUT /k HTTP/1.1\r\nHost: h\r\n{headers}\r\n");
        Payload::of(&Request::parse(text.as_bytes()).unwrap().unwrap().0, claim, true)
    }

    /// The checksums of `123456789` in the catalogue of CRCs and by the tools of coreutils.
    const CHECKSUMS: &[(&str, &str)] = &[
        ("crc32", "y/Q5Jg=="),
        ("crc32c", "4waSgw=="),
        ("crc64nvme", "rosUhgp5mIg="),
        ("sha1", "98O8HYCOBHMq32eZZczDTKeuNEE="),
        ("sha256", "FeKw08M4keuw8e9gnsQZQgwg4yDOlMZfvIwzEkSOsiU="),
    ];

    #[test]
    fn checksums_of_headers_are_compared() {
        for (name, value) in CHECKSUMS {
            let header = format!("x-amz-checksum-{name}: {value}\r\nx-amz-checksum-mode: ENABLED\r\n");
            let mut right = payload(&header, Claim::Nothing).unwrap();
            right.update(b"12345");
            right.update(b"6789");
            assert_eq!(right.finish(), Ok(()), "{name}");
            let told: Vec<_> = right.checked().collect();
            assert_eq!(told, [(format!("x-amz-checksum-{name}"), (*value).to_owned())]);
            let mut wrong = payload(&header, Claim::Nothing).unwrap();
            wrong.update(b"123456780");
            assert_eq!(wrong.finish(), Err(error::CHECKSUM_DIFFERS), "{name}");
        }
        assert_eq!(
            payload("x-amz-checksum-x: AA==\r\n", Claim::Nothing).unwrap_err(),
            error::NOT_IMPLEMENTED
        );
        assert_eq!(
            payload("x-amz-checksum-sha1: ?\r\n", Claim::Nothing).unwrap_err(),
            error::INVALID_CHECKSUM
        );
        let mut digest = payload("", Claim::Sha256([0; 32])).unwrap();
        assert_eq!(digest.finish(), Err(error::SHA256_DIFFERS));
    }

    /// Runs a chunked body through, as the body does.
    fn unwrapped(mut payload: Payload, mut text: &str) -> Result<String, ApiError> {
        let mut data = String::new();
        let mut chunks = payload.chunks.take().unwrap();
        loop {
            match chunks.next() {
                Next::End => break,
                Next::Data(bytes) => {
                    let (taken, rest) = text.split_at(usize::try_from(bytes).unwrap().min(3));
                    chunks.data(taken.as_bytes())?;
                    payload.update(taken.as_bytes());
                    data.push_str(taken);
                    text = rest;
                }
                Next::Line if text.is_empty() => chunks.end()?,
                Next::Line => {
                    let (line, rest) = text.split_once("\r\n").unwrap_or((text, ""));
                    chunks.line(line)?;
                    text = rest;
                }
            }
        }
        payload.chunks = Some(chunks);
        payload.finish().map(|()| data)
    }

    #[test]
    fn chunks_and_trailers_are_read() {
        let announced = "x-amz-decoded-content-length: 9\r\nx-amz-trailer: x-amz-checksum-crc32\r\n";
        let run = |text: &str| unwrapped(payload(announced, Claim::Chunks(None)).unwrap(), text);
        let whole = "5\r\n12345\r\n4\r\n6789\r\n0\r\nx-amz-checksum-crc32:y/Q5Jg==\r\n\r\n";
        assert_eq!(run(whole).unwrap(), "123456789");
        assert_eq!(run(whole.trim_end()).unwrap(), "123456789");
        assert_eq!(run(&whole.replace("y/Q5", "y/Q6")), Err(error::CHECKSUM_DIFFERS));
        assert_eq!(run("5\r\n12345\r\n0\r\n\r\n"), Err(error::INCOMPLETE_BODY));
        assert_eq!(run("5\r\n12345\r\n"), Err(error::INCOMPLETE_BODY));
        assert_eq!(
            run("9\r\n123456789\r\n0\r\n\r\n"),
            Err(error::INVALID_CHECKSUM),
            "the trailer is missing"
        );
        assert_eq!(run("4\r\n12345\r\n"), Err(error::MALFORMED_CHUNK));
        assert_eq!(run("x\r\n"), Err(error::MALFORMED_CHUNK));
        assert_eq!(payload("", Claim::Chunks(None)).unwrap_err(), error::MISSING_LENGTH);
    }
}
