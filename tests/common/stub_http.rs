//! A COS that answers by script, byte by byte: what a real server would rarely do, and on request.
//!
//! Requests take the steps of the script in the order in which they arrive, over any number of connections;
//! the last step serves all that come after it. What arrived is kept as it stood on the wire.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// A request as it came over the wire.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// Undecoded.
    pub(crate) target: String,
    /// In order, names as they were written.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Counts connections from 0.
    pub(crate) connection: usize,
}

impl Seen {
    /// The value of a header, whatever the case of its name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// What is done with a request.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    /// Read it, answer, go on.
    Answer(Vec<u8>),
    /// Read it, answer so far, close.
    AnswerAndClose(Vec<u8>),
    /// Read it, close without a byte.
    HangUp,
    /// Read the head, close without reading the body.
    HangUpEarly,
    /// Read it and never answer.
    Stall,
    /// Read the head and nothing more, for ever.
    StallReading,
    /// Read it, send each piece after its pause.
    Drip(Vec<(Duration, Vec<u8>)>),
    /// Read the body in pieces of so many bytes, each after a pause, then answer.
    ReadSlowly(usize, Duration, Vec<u8>),
}

/// The server; it ends with the runtime of its test.
#[derive(Debug)]
pub(crate) struct Stub {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    script: Vec<Step>,
    taken: usize,
    seen: Vec<Seen>,
}

impl Stub {
    pub(crate) async fn start(script: impl IntoIterator<Item = Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let script: Vec<Step> = script.into_iter().collect();
        assert!(!script.is_empty(), "a stub needs a last step");
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State { script, taken: 0, seen: Vec::new() }));
        let served = Arc::clone(&state);
        tokio::spawn(async move {
            for connection in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(stream, connection, Arc::clone(&served)));
            }
        });
        Self { address, state }
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.lock().seen.clone()
    }
}

async fn serve(mut stream: TcpStream, connection: usize, state: Arc<Mutex<State>>) {
    let mut buffer = Vec::new();
    while let Some((mut seen, length)) = read_head(&mut stream, &mut buffer, connection).await {
        let step = {
            let mut state = state.lock();
            let step = state.script[state.taken.min(state.script.len() - 1)].clone();
            state.taken += 1;
            step
        };
        match &step {
            Step::HangUpEarly => {
                state.lock().seen.push(seen);
                return;
            }
            Step::StallReading => {
                state.lock().seen.push(seen);
                return std::future::pending().await;
            }
            _ => {}
        }
        let pace = match &step {
            Step::ReadSlowly(bytes, pause, _) => Some((*bytes, *pause)),
            _ => None,
        };
        while buffer.len() < length {
            if let Some((_, pause)) = pace {
                tokio::time::sleep(pause).await;
            }
            let mut piece = vec![0; pace.map_or(1 << 20, |(bytes, _)| bytes)];
            match stream.read(&mut piece).await {
                Ok(0) | Err(_) => return,
                Ok(read) => buffer.extend_from_slice(&piece[..read]),
            }
        }
        seen.body = buffer.drain(..length).collect();
        state.lock().seen.push(seen);
        match step {
            Step::Answer(bytes) | Step::ReadSlowly(_, _, bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Step::AnswerAndClose(bytes) => {
                drop(stream.write_all(&bytes).await);
                return;
            }
            Step::Drip(pieces) => {
                for (pause, bytes) in pieces {
                    tokio::time::sleep(pause).await;
                    if stream.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
            }
            Step::HangUp => return,
            Step::Stall => std::future::pending::<()>().await,
            Step::HangUpEarly | Step::StallReading => unreachable!("done with above"),
        }
    }
}

/// Reads a head; what was read beyond it stays in `buffer`. `None` at the end of the connection.
async fn read_head(stream: &mut TcpStream, buffer: &mut Vec<u8>, connection: usize) -> Option<(Seen, usize)> {
    let end = loop {
        if let Some(at) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            break at;
        }
        let mut piece = [0; 4096];
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => return None,
            Ok(read) => buffer.extend_from_slice(&piece[..read]),
        }
    };
    let head: Vec<u8> = buffer.drain(..end + 4).collect();
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.trim_end().split("\r\n");
    let mut words = lines.next().unwrap().split(' ');
    let (method, target) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
    assert_eq!(words.next(), Some("HTTP/1.1"));
    let headers: Vec<(String, String)> = lines
        .map(|line| line.split_once(':').unwrap())
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let seen = Seen { method, target, headers, body: Vec::new(), connection };
    assert_eq!(seen.header("transfer-encoding"), None, "a body without a length");
    let length = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    Some((seen, length))
}

/// An answer of COS, with its length and a request ID.
pub(crate) fn answer(status: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let length = body.as_ref().len().to_string();
    let mut all =
        vec![("Content-Length", length.as_str()), ("x-cos-request-id", "NWU5"), ("Server", "tencent-cos")];
    all.extend_from_slice(headers);
    bare_answer(status, &all, body)
}

/// An answer with these headers alone.
pub(crate) fn bare_answer(status: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status}\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    bytes.extend_from_slice(b"\r\n");
    bytes.extend_from_slice(body.as_ref());
    bytes
}

/// COS's document for an error.
pub(crate) fn error(status: &str, code: &str) -> Vec<u8> {
    let body = format!(
        "<?xml version='1.0' encoding='utf-8' ?>\n<Error>\n\t<Code>{code}</Code>\n\t<Message>In words.</Message>\n\
         \t<Resource>/k</Resource>\n\t<RequestId>NWU5</RequestId>\n</Error>"
    );
    answer(status, &[("Content-Type", "application/xml")], body)
}
