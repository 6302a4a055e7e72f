//! The PROXY header of a balancer (HAProxy's "The PROXY protocol", versions 1 and 2).
//!
//! It stands before everything else on a connection, TLS too, and says between whom the balancer carries
//! bytes. It is read to its last byte and no further: what follows belongs to the client.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ppp::{v1, v2};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

/// A balancer sends it with the first packet; three retransmissions fit in, as the specification asks.
pub(super) const HEADER_TIME: Duration = Duration::from_secs(5);
/// Version 1: "a 108-byte buffer is always enough", with its zero.
const TEXT_BYTES_MAX: usize = 107;
/// Version 2: the addresses take 216 at most, the rest are notes of the balancer about TLS and the like.
const BINARY_BYTES_MAX: usize = 4096;
/// Less than the shortest text (`PROXY UNKNOWN`), and the signature of version 2.
const FIRST_BYTES: usize = 12;
const SIGNATURE: &[u8; FIRST_BYTES] = b"\r\n\r\n\0\r\nQUIT\n";

/// The two ends of a connection, as the client sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) peer: SocketAddr,
    pub(super) local: SocketAddr,
}

/// Why there is no header.
#[derive(Debug, Error)]
pub(super) enum ProxyError {
    #[error("the connection ended before its header")]
    Closed,
    #[error("no PROXY header came in time")]
    Late,
    #[error("it does not begin with a PROXY header")]
    Missing,
    #[error("the PROXY header is malformed or too long")]
    Malformed,
    #[error("the PROXY header cannot be read")]
    Read(#[from] io::Error),
}

/// Reads the header. `None`: the balancer speaks for itself (LOCAL, UNKNOWN), as for its health checks, and
/// the socket's own ends count.
///
/// # Errors
/// Where no header is there within [`HEADER_TIME`].
pub(super) async fn read_header(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Ends>, ProxyError> {
    match tokio::time::timeout(HEADER_TIME, read(stream)).await {
        Ok(done) => done,
        Err(_) => Err(ProxyError::Late),
    }
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Ends>, ProxyError> {
    let mut bytes = vec![0; FIRST_BYTES];
    let mut filled = 0;
    while filled < FIRST_BYTES {
        match stream.read(&mut bytes[filled..]).await? {
            0 if filled == 0 => return Err(ProxyError::Closed),
            0 => return Err(ProxyError::Missing),
            count => filled += count,
        }
        let so_far = &bytes[..filled];
        let is_header =
            SIGNATURE.starts_with(so_far) || so_far.starts_with(TEXT_MARK) || TEXT_MARK.starts_with(so_far);
        if !is_header {
            return Err(ProxyError::Missing);
        }
    }
    if bytes == SIGNATURE { read_binary(stream, bytes).await } else { read_text(stream, bytes).await }
}

/// How version 1 begins.
const TEXT_MARK: &[u8] = b"PROXY ";

/// Its length is not told, so byte by byte to the end of the line.
async fn read_text(
    stream: &mut (impl AsyncRead + Unpin),
    mut bytes: Vec<u8>,
) -> Result<Option<Ends>, ProxyError> {
    while !bytes.ends_with(b"\r\n") {
        if bytes.len() >= TEXT_BYTES_MAX {
            return Err(ProxyError::Malformed);
        }
        bytes.push(stream.read_u8().await?);
    }
    let header = v1::Header::try_from(bytes.as_slice()).map_err(|_| ProxyError::Malformed)?;
    Ok(match header.addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(pair) => Some(ends(
            (pair.source_address.into(), pair.source_port),
            (pair.destination_address.into(), pair.destination_port),
        )),
        v1::Addresses::Tcp6(pair) => Some(ends(
            (pair.source_address.into(), pair.source_port),
            (pair.destination_address.into(), pair.destination_port),
        )),
    })
}

async fn read_binary(
    stream: &mut (impl AsyncRead + Unpin),
    mut bytes: Vec<u8>,
) -> Result<Option<Ends>, ProxyError> {
    // Version and command, family and protocol, length of the rest.
    bytes.resize(FIRST_BYTES + 4, 0);
    stream.read_exact(&mut bytes[FIRST_BYTES..]).await?;
    let head = bytes.len();
    let rest = usize::from(u16::from_be_bytes([bytes[head - 2], bytes[head - 1]]));
    if head + rest > BINARY_BYTES_MAX {
        return Err(ProxyError::Malformed);
    }
    bytes.resize(head + rest, 0);
    stream.read_exact(&mut bytes[head..]).await?;
    let header = v2::Header::try_from(bytes.as_slice()).map_err(|_| ProxyError::Malformed)?;
    if header.command == v2::Command::Local {
        return Ok(None);
    }
    Ok(match header.addresses {
        v2::Addresses::IPv4(pair) => Some(ends(
            (pair.source_address.into(), pair.source_port),
            (pair.destination_address.into(), pair.destination_port),
        )),
        v2::Addresses::IPv6(pair) => Some(ends(
            (pair.source_address.into(), pair.source_port),
            (pair.destination_address.into(), pair.destination_port),
        )),
        // "The receiver should use the real connection endpoints."
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
    })
}

/// IPv4 clients of a balancer that listens on IPv6 alone are told as mapped addresses.
fn ends(peer: (IpAddr, u16), local: (IpAddr, u16)) -> Ends {
    let address = |(ip, port): (IpAddr, u16)| SocketAddr::new(ip.to_canonical(), port);
    Ends { peer: address(peer), local: address(local) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of `bytes`, and what is left of them.
    async fn header(bytes: &[u8]) -> (Result<Option<Ends>, ProxyError>, usize) {
        let mut stream = bytes;
        let read = read_header(&mut stream).await;
        (read, stream.len())
    }

    fn binary(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE.as_slice(), &[0x20 | command, family], &length, rest].concat()
    }

    #[tokio::test]
    async fn headers_of_both_versions_tell_the_ends_and_leave_what_follows() {
        let expected =
            Ends { peer: "192.0.2.1:4000".parse().unwrap(), local: "198.51.100.2:21".parse().unwrap() };
        let text = b"PROXY TCP4 192.0.2.1 198.51.100.2 4000 21\r\nUSER a\r\n";
        assert!(matches!(header(text).await, (Ok(Some(ends)), 8) if ends == expected));
        let mapped = b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:198.51.100.2 4000 21\r\n";
        assert!(matches!(header(mapped).await, (Ok(Some(ends)), 0) if ends == expected));
        let addresses = [192, 0, 2, 1, 198, 51, 100, 2, 0x0f, 0xa0, 0, 21];
        // A note behind the addresses: type 4 (NOOP), one byte.
        let noted = [addresses.as_slice(), &[4, 0, 1, 0]].concat();
        for rest in [addresses.as_slice(), &noted] {
            let bytes = [binary(1, 0x11, rest), b"AUTH".to_vec()].concat();
            assert!(matches!(header(&bytes).await, (Ok(Some(ends)), 4) if ends == expected));
        }
        let mut six = [0; 36];
        (six[15], six[31], six[35]) = (1, 1, 21);
        let (read, _) = header(&binary(1, 0x21, &six)).await;
        assert_eq!(read.unwrap().unwrap().local, "[::1]:21".parse().unwrap());
    }

    #[tokio::test]
    async fn a_balancer_that_speaks_for_itself_tells_no_ends() {
        for bytes in [
            b"PROXY UNKNOWN\r\n".to_vec(),
            b"PROXY UNKNOWN ffff::1 ffff::1 65535 65535\r\n".to_vec(),
            binary(0, 0, b""),
            binary(0, 0x11, &[192, 0, 2, 1, 198, 51, 100, 2, 0, 1, 0, 2]),
            binary(1, 0, b""),
            binary(1, 0x31, &[0; 216]),
        ] {
            let (read, left) = header(&bytes).await;
            assert_eq!((read.unwrap(), left), (None, 0), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused_without_reading_on() {
        assert!(matches!(header(b"").await.0, Err(ProxyError::Closed)));
        assert!(matches!(header(b"USER anonymous\r\n").await.0, Err(ProxyError::Missing)));
        assert!(matches!(header(b"PROXY").await.0, Err(ProxyError::Missing)));
        assert!(matches!(header(b"PROXY TCP4 1 2 3 4\r\n").await.0, Err(ProxyError::Malformed)));
        let long = [b"PROXY TCP4 ".as_slice(), &[b'1'; 5000]].concat();
        let (read, left) = header(&long).await;
        assert!(matches!(read, Err(ProxyError::Malformed)));
        assert_eq!(left, long.len() - TEXT_BYTES_MAX);
        let long = binary(1, 0x11, &[0; 5000]);
        assert!(matches!(header(&long).await, (Err(ProxyError::Malformed), 5000)));
        let mut other_version = binary(1, 0x11, &[0; 12]);
        other_version[12] = 0x31;
        assert!(matches!(header(&other_version).await.0, Err(ProxyError::Malformed)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_header_that_does_not_come_is_not_waited_for() {
        let (mut ours, mut theirs) = tokio::io::duplex(64);
        tokio::io::AsyncWriteExt::write_all(&mut theirs, b"PROXY TCP4 19").await.unwrap();
        assert!(matches!(read_header(&mut ours).await, Err(ProxyError::Late)));
    }
}
