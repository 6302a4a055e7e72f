//! HTTP/1.1 over a bare socket, signed: for what no well-behaved client would send, or would hide.

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, SystemTime},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::{Digest as _, Sha1};

use super::{BUCKET, SECRET_ID, SECRET_KEY};

/// One connection to a store.
#[derive(Debug)]
pub struct RawClient {
    pub stream: TcpStream,
    input: Vec<u8>,
}

/// An answer, read to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawAnswer {
    pub status: u16,
    /// Without the status line, names as sent.
    pub headers: Vec<(String, String)>,
    /// Chunks joined.
    pub body: Vec<u8>,
}

impl RawAnswer {
    /// The header of exactly that name, case and all.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// What stands in `<name>…</name>`.
    pub fn element(&self, name: &str) -> String {
        let text = self.text();
        let inner = text.split(&format!("<{name}>")).nth(1).and_then(|rest| rest.split("</").next());
        inner.unwrap_or_default().replace("&quot;", "\"")
    }
}

/// `Authorization` for a path (decoded), nothing but method and path protected.
pub fn authorization(method: &str, path: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    let time = format!("{};{}", now - 60, now + 3600);
    let hmac = |key: &str, text: &str| {
        let mut mac = Hmac::<Sha1>::new_from_slice(key.as_bytes()).expect("any length");
        mac.update(text.as_bytes());
        hex(&mac.finalize().into_bytes())
    };
    let digest = hex(&Sha1::digest(format!("{}\n{path}\n\n\n", method.to_lowercase())));
    let signature = hmac(&hmac(SECRET_KEY, &time), &format!("sha1\n{time}\n{digest}\n"));
    format!(
        "q-sign-algorithm=sha1&q-ak={SECRET_ID}&q-sign-time={time}&q-key-time={time}&q-header-list=\
         &q-url-param-list=&q-signature={signature}"
    )
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A signed head for [`BUCKET`], without the empty line at its end. `target` is a key without escapes and
/// perhaps a query.
pub fn head(method: &str, target: &str, headers: &str) -> String {
    let path = target.split('?').next().unwrap_or_default();
    let signature = authorization(method, &format!("/{path}"));
    format!(
        "{method} /{target} HTTP/1.1\r\nHost: {BUCKET}.cos.ap-guangzhou.myqcloud.com\r\n\
         Authorization: {signature}\r\n{headers}"
    )
}

impl RawClient {
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the store listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout above zero");
        Self { stream, input: Vec::new() }
    }

    /// One signed request and its answer. Only PUT and POST carry the body.
    pub fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &str,
        body: &[u8],
    ) -> io::Result<RawAnswer> {
        self.send(method, target, headers, body)?;
        self.answer(method == "HEAD")
    }

    /// The same, on a connection of its own.
    pub fn once(
        address: SocketAddr,
        method: &str,
        target: &str,
        headers: &str,
        body: &[u8],
    ) -> io::Result<RawAnswer> {
        Self::connect(address).request(method, target, headers, body)
    }

    pub fn send(&mut self, method: &str, target: &str, headers: &str, body: &[u8]) -> io::Result<()> {
        let mut message = head(method, target, headers).into_bytes();
        if matches!(method, "PUT" | "POST") {
            message.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            message.extend_from_slice(body);
        } else {
            message.extend_from_slice(b"\r\n");
        }
        self.stream.write_all(&message)
    }

    /// Reads an answer to its end.
    ///
    /// # Errors
    /// The connection ended before it.
    pub fn answer(&mut self, is_head: bool) -> io::Result<RawAnswer> {
        let head = self.until(b"\r\n\r\n")?;
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut lines = text.trim_end().split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line.split(' ').nth(1).and_then(|text| text.parse().ok());
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let mut answer = RawAnswer {
            status: status.unwrap_or_else(|| panic!("no status in {status_line:?}")),
            headers,
            body: Vec::new(),
        };
        if is_head || answer.status == 100 {
            return Ok(answer);
        }
        answer.body = match answer.header("Content-Length") {
            Some(length) => self.exactly(length.parse().expect("a number"))?,
            None => self.chunks()?,
        };
        Ok(answer)
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.until(b"\r\n")?;
            let text = String::from_utf8_lossy(&line);
            let length = usize::from_str_radix(text.trim_end(), 16).expect("a chunk's length");
            let chunk = self.exactly(length + 2)?;
            if length == 0 {
                return Ok(body);
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }

    fn until(&mut self, end: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.input.windows(end.len()).position(|window| window == end) {
                return self.exactly(at + end.len());
            }
            self.more()?;
        }
    }

    fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.input.len() < length {
            self.more()?;
        }
        let rest = self.input.split_off(length);
        Ok(std::mem::replace(&mut self.input, rest))
    }

    fn more(&mut self) -> io::Result<()> {
        let mut buffer = [0; 64 * 1024];
        let read = self.stream.read(&mut buffer)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.input.extend_from_slice(&buffer[..read]);
        Ok(())
    }
}
