//! One request as it came over the wire: head parsed by httparse, target split and decoded once.
//!
//! Nothing is folded: `.`, `..` and `//` stay as they are, `+` is a plus in a path and a blank in a query.
//! Both forms of a target are read: `/key?query` and `http://host/key?query` (what an HTTP proxy gets).

use std::fmt::Write as _;

use super::{
    dialect::Dialect,
    error::{self, ApiError},
};

/// Longest head in bytes that is read.
pub(super) const HEAD_BYTES_MAX: usize = 64 * 1024;
const HEADERS_MAX: usize = 128;

/// How the body of a request is framed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// Neither Content-Length nor chunked: no body.
    Absent,
    Length(u64),
    Chunked,
}

/// A parsed head.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// As sent: method names are case-sensitive (RFC 9110 section 9.1).
    pub(super) method: String,
    /// Decoded once, beginning with `/`.
    pub(super) path: String,
    /// Decoded, in the order sent.
    pub(super) query: Vec<(String, String)>,
    /// Names in lower case, values as sent without outer blanks.
    headers: Vec<(String, Vec<u8>)>,
    /// As sent, with its port if there was one.
    pub(super) host: String,
    pub(super) framing: Framing,
    pub(super) keep_alive: bool,
    pub(super) expects_continue: bool,
    pub(super) dialect: Dialect,
}

impl Request {
    /// Reads a head from the start of `bytes`; `None` while it is not whole.
    ///
    /// # Errors
    /// What COS would answer to a head that is no HTTP, has no host, or a target that cannot be decoded.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, ApiError> {
        let mut fields = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut head = httparse::Request::new(&mut fields);
        let length = match head.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
            Ok(httparse::Status::Partial) | Err(_) => return Err(error::BAD_REQUEST),
        };
        let (Some(method), Some(target), Some(version)) = (head.method, head.path, head.version) else {
            return Err(error::BAD_REQUEST);
        };
        let headers: Vec<(String, Vec<u8>)> = head
            .headers
            .iter()
            .map(|field| (field.name.to_ascii_lowercase(), field.value.trim_ascii().to_vec()))
            .collect();
        let (authority, path_and_query) = split_target(target);
        let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        let mut request = Self {
            method: method.to_owned(),
            path: decode(path, false)?,
            query: split_query(query)?,
            headers,
            host: String::new(),
            framing: Framing::Absent,
            keep_alive: version == 1,
            expects_continue: false,
            dialect: Dialect::Cos,
        };
        request.dialect = Dialect::of(&request);
        request.host = match (request.header("host"), authority) {
            (Some(host), _) if !host.is_empty() => host.to_owned(),
            (_, Some(authority)) => authority.to_owned(),
            _ => return Err(error::MISSING_HOST),
        };
        request.framing = request.read_framing()?;
        if let Some(connection) = request.header("connection") {
            request.keep_alive = match connection.to_ascii_lowercase().as_str() {
                "close" => false,
                "keep-alive" => true,
                _ => request.keep_alive,
            };
        }
        request.expects_continue = version == 1
            && request.header("expect").is_some_and(|value| value.eq_ignore_ascii_case("100-continue"));
        Ok(Some((request, length)))
    }

    /// The first header that COS calls by that (lower-case) name, if it is UTF-8; see [`Dialect`].
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| self.dialect.is_header(known, name))
            .and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// All headers as sent, names in lower case.
    pub(super) fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }

    /// The first query parameter of that name, decoded.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The same, where an empty value counts as absent.
    pub(super) fn filled_parameter(&self, name: &str) -> Option<&str> {
        self.parameter(name).filter(|value| !value.is_empty())
    }

    fn read_framing(&self) -> Result<Framing, ApiError> {
        if let Some(coding) = self.header("transfer-encoding") {
            return match coding.to_ascii_lowercase().as_str() {
                "chunked" => Ok(Framing::Chunked),
                "identity" => Ok(Framing::Absent),
                _ => Err(error::NOT_IMPLEMENTED),
            };
        }
        match self.header("content-length") {
            None => Ok(Framing::Absent),
            Some(digits) => digits.parse().map(Framing::Length).map_err(|_| error::BAD_REQUEST),
        }
    }
}

/// Authority (absolute form only) and path with query.
fn split_target(target: &str) -> (Option<&str>, &str) {
    let Some(rest) = target.strip_prefix("http://").or_else(|| target.strip_prefix("https://")) else {
        return (None, target);
    };
    match rest.find(['/', '?']) {
        Some(at) if rest.as_bytes()[at] == b'/' => (Some(&rest[..at]), &rest[at..]),
        // `http://host?query` has an empty path, which is `/`; the query alone is kept.
        Some(at) => (Some(&rest[..at]), &rest[at..]),
        None => (Some(rest), "/"),
    }
}

fn split_query(query: &str) -> Result<Vec<(String, String)>, ApiError> {
    query
        .split('&')
        .filter(|piece| !piece.is_empty())
        .map(|piece| {
            let (name, value) = piece.split_once('=').unwrap_or((piece, ""));
            Ok((decode(name, true)?, decode(value, true)?))
        })
        .collect()
}

/// Percent-decodes once. `plus_is_blank` is the rule of a query.
///
/// # Errors
/// `InvalidURI` for a broken escape or bytes that are not UTF-8.
pub(super) fn decode(text: &str, plus_is_blank: bool) -> Result<String, ApiError> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len().max(1));
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'%' => {
                let digit =
                    |offset: usize| bytes.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
                let (Some(high), Some(low)) = (digit(1), digit(2)) else {
                    return Err(error::INVALID_URI);
                };
                decoded.push(u8::try_from(high * 16 + low).map_err(|_| error::INVALID_URI)?);
                at += 3;
                continue;
            }
            b'+' if plus_is_blank => decoded.push(b' '),
            byte => decoded.push(byte),
        }
        at += 1;
    }
    String::from_utf8(decoded).map_err(|_| error::INVALID_URI)
}

/// Percent-encodes everything but `A-Z a-z 0-9 - _ . ~`, and `/` where `keep_slash`.
pub(super) fn encode(bytes: &[u8], keep_slash: bool) -> String {
    let mut encoded = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(char::from(byte));
            }
            b'/' if keep_slash => encoded.push('/'),
            _ => write!(encoded, "%{byte:02X}").expect("a String takes every write"),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Request {
        Request::parse(text.as_bytes()).unwrap().unwrap().0
    }

    #[test]
    fn path_is_decoded_once_and_never_folded() {
        let request = parse("GET /a/..%2Fb+c%2520//d?x=a+b%2B&uploads&y= HTTP/1.1\r\nHost: h\r\n\r\n");
        assert_eq!(request.path, "/a/../b+c%20//d");
        assert_eq!(request.parameter("x"), Some("a b+"));
        assert_eq!(request.parameter("uploads"), Some(""));
        assert_eq!(request.filled_parameter("y"), None);
    }

    #[test]
    fn absolute_targets_and_hosts_are_read() {
        let request = parse("GET http://b.example:80/k?p=1 HTTP/1.1\r\nHOST: b.example\r\n\r\n");
        assert_eq!((request.path.as_str(), request.host.as_str()), ("/k", "b.example"));
        let request = parse("GET http://b.example HTTP/1.0\r\n\r\n");
        assert_eq!((request.path.as_str(), request.host.as_str()), ("/", "b.example"));
        assert!(!request.keep_alive);
        assert_eq!(Request::parse(b"GET / HTTP/1.1\r\n\r\n").unwrap_err(), error::MISSING_HOST);
    }

    #[test]
    fn broken_escapes_and_foreign_bytes_are_refused() {
        for text in ["%", "%4", "%zz", "%FF", "a%c3"] {
            assert_eq!(decode(text, false), Err(error::INVALID_URI), "{text}");
        }
        assert!(Request::parse(b"GET / HTTP/1.1\r\nHo").unwrap().is_none());
        assert!(Request::parse(b"\x00\x01\x02\r\n\r\n").is_err());
    }

    #[test]
    fn framing_follows_the_headers() {
        assert_eq!(
            parse("PUT /a HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\n").framing,
            Framing::Length(5)
        );
        let chunked =
            parse("PUT /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n");
        assert_eq!(chunked.framing, Framing::Chunked);
        assert!(chunked.expects_continue);
        assert_eq!(parse("GET /a HTTP/1.1\r\nHost: h\r\n\r\n").framing, Framing::Absent);
    }
}
