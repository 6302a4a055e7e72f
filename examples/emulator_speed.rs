//! What the emulator can do: a client that does nothing but move bytes, in a process of its own.
//!
//! ```text
//! cosgate emulator --fast-etag &
//! cargo run --release --example emulator_speed -- PID [HOST:PORT] [CONNECTIONS] [GIB]
//! ```
//!
//! Parts of 8 MiB go up over keep-alive connections, ranges of 8 MiB come down; each request is signed, no
//! byte is looked at. Printed: MB/s, and seconds of CPU per GiB of this process and of the store. Beside
//! it stands `benches/bare_client.rs`, the same work by our own client.

use std::{
    error::Error,
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Instant, SystemTime},
};

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha1::{Digest as _, Sha1};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const PIECE_BYTES: usize = 8 << 20;
const BUCKET: &str = "demo-1250000000";
const KEY: &str = "speed";
/// USER_HZ, in which /proc counts on every Linux of today (proc_pid_stat(5)).
const TICKS_PER_SECOND: f64 = 100.0;

fn main() -> Outcome<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let argument = |at: usize, default: &str| arguments.get(at).cloned().unwrap_or(default.to_owned());
    let store_pid = argument(0, "");
    if store_pid.parse::<u32>().is_err() {
        return Err("usage: emulator_speed PID [HOST:PORT] [CONNECTIONS] [GIB]".into());
    }
    let address = argument(1, "127.0.0.1:9980");
    let connections: usize = argument(2, "4").parse()?;
    let gib: usize = argument(3, "4").parse()?;
    let pieces = (gib << 30) / PIECE_BYTES;

    let mut first = Connection::open(&address)?;
    let answer = first.exchange("POST", &format!("{KEY}?uploads="), "Content-Length: 0\r\n", &[])?;
    let upload = between(&answer, "<UploadId>", "</UploadId>").ok_or("no upload ID")?.to_owned();
    let body = Arc::new(vec![0x5a_u8; PIECE_BYTES]);
    measure("parts in ", &store_pid, &address, connections, pieces, {
        let upload = upload.clone();
        move |connection, at| {
            let target = format!("{KEY}?partNumber={}&uploadId={upload}", at + 1);
            let length = format!("Content-Length: {PIECE_BYTES}\r\n");
            connection.exchange("PUT", &target, &length, &body).map(drop)
        }
    })?;
    let etags = first.part_etags(&upload, pieces)?;
    let parts: String = etags
        .iter()
        .map(|(number, etag)| format!("<Part><PartNumber>{number}</PartNumber><ETag>{etag}</ETag></Part>"))
        .collect();
    let document = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    let start = Instant::now();
    let length = format!("Content-Length: {}\r\n", document.len());
    first.exchange("POST", &format!("{KEY}?uploadId={upload}"), &length, document.as_bytes())?;
    println!("complete   {:.1} ms", start.elapsed().as_secs_f64() * 1000.0);
    measure("ranges out", &store_pid, &address, connections, pieces, |connection, at| {
        let first = at * PIECE_BYTES;
        let range = format!("Range: bytes={first}-{}\r\n", first + PIECE_BYTES - 1);
        connection.exchange("GET", KEY, &range, &[]).map(drop)
    })?;
    first.exchange("DELETE", KEY, "", &[]).map(drop)
}

/// Does `work` for each number below `pieces`, over several connections, and prints how fast.
fn measure(
    name: &str,
    store_pid: &str,
    address: &str,
    connections: usize,
    pieces: usize,
    work: impl Fn(&mut Connection, usize) -> Outcome<()> + Sync,
) -> Outcome<()> {
    let next = AtomicUsize::new(0);
    let (own_before, store_before) = (cpu_seconds("self")?, cpu_seconds(store_pid)?);
    let start = Instant::now();
    thread::scope(|scope| -> Outcome<()> {
        let run = || -> Outcome<()> {
            let mut connection = Connection::open(address)?;
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= pieces {
                    return Ok(());
                }
                work(&mut connection, at)?;
            }
        };
        let workers: Vec<_> = (0..connections).map(|_| scope.spawn(run)).collect();
        for worker in workers {
            worker.join().map_err(|_| "a worker panicked")??;
        }
        Ok(())
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let bytes = (pieces * PIECE_BYTES) as f64;
    let per_gib = |before: f64, now: f64| (now - before) / (bytes / f64::from(1 << 30));
    println!(
        "{name} {:.0} MB/s   CPU s/GiB: client {:.2}, store {:.2}",
        bytes / seconds / 1e6,
        per_gib(own_before, cpu_seconds("self")?),
        per_gib(store_before, cpu_seconds(store_pid)?),
    );
    Ok(())
}

/// User and system time of a process so far, in seconds (proc_pid_stat(5), fields 14 and 15).
fn cpu_seconds(pid: &str) -> Outcome<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let behind_name = stat.rsplit(')').next().unwrap_or_default();
    let ticks: f64 =
        behind_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum();
    Ok(ticks / TICKS_PER_SECOND)
}

/// A keep-alive connection with buffers that are used again.
struct Connection {
    input: BufReader<TcpStream>,
    scratch: Vec<u8>,
}

impl Connection {
    fn open(address: &str) -> Outcome<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self { input: BufReader::with_capacity(16 * 1024, stream), scratch: vec![0; 1 << 20] })
    }

    /// One request; gives the answer's body where it is short.
    fn exchange(&mut self, method: &str, target: &str, headers: &str, body: &[u8]) -> Outcome<String> {
        let path = target.split('?').next().unwrap_or_default();
        let head = format!(
            "{method} /{target} HTTP/1.1\r\nHost: {BUCKET}.cos.ap-guangzhou.myqcloud.com\r\n\
             Authorization: {}\r\n{headers}\r\n",
            authorization(method, &format!("/{path}"))?
        );
        self.input.get_mut().write_all(head.as_bytes())?;
        self.input.get_mut().write_all(body)?;
        let mut line = String::new();
        self.input.read_line(&mut line)?;
        let is_fine = line.split(' ').nth(1).is_some_and(|status| status.starts_with('2'));
        let mut length = None;
        loop {
            let mut header = String::new();
            self.input.read_line(&mut header)?;
            if header.trim().is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("Content-Length: ") {
                length = Some(value.trim().parse::<usize>()?);
            }
        }
        let text = match length {
            Some(length) => self.read_through(length)?,
            None => self.read_chunks()?,
        };
        if is_fine { Ok(text) } else { Err(format!("{method} {target}: {line}{text}").into()) }
    }

    /// Reads so many bytes into one buffer, over and over; a short answer comes back as text.
    fn read_through(&mut self, length: usize) -> Outcome<String> {
        if length < self.scratch.len() {
            self.input.read_exact(&mut self.scratch[..length])?;
            return Ok(String::from_utf8_lossy(&self.scratch[..length]).into_owned());
        }
        let mut left = length;
        while left > 0 {
            let want = left.min(self.scratch.len());
            let read = self.input.read(&mut self.scratch[..want])?;
            if read == 0 {
                return Err("the answer ended early".into());
            }
            left -= read;
        }
        Ok(String::new())
    }

    fn read_chunks(&mut self) -> Outcome<String> {
        let mut text = String::new();
        loop {
            let mut line = String::new();
            self.input.read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim(), 16)?;
            let mut chunk = vec![0; length + 2];
            self.input.read_exact(&mut chunk)?;
            if length == 0 {
                return Ok(text);
            }
            text.push_str(&String::from_utf8_lossy(&chunk[..length]));
        }
    }

    /// Numbers and ETags of all parts, by as many lists as it takes.
    fn part_etags(&mut self, upload: &str, parts: usize) -> Outcome<Vec<(usize, String)>> {
        let mut etags = Vec::new();
        while etags.len() < parts {
            let target = format!("{KEY}?uploadId={upload}&max-parts=100&part-number-marker={}", etags.len());
            let page = self.exchange("GET", &target, "", &[])?;
            for part in page.split("<Part>").skip(1) {
                let etag = between(part, "<ETag>", "</ETag>").ok_or("no ETag")?.to_owned();
                etags.push((etags.len() + 1, etag));
            }
        }
        Ok(etags)
    }
}

fn between<'a>(text: &'a str, from: &str, to: &str) -> Option<&'a str> {
    text.split(from).nth(1)?.split(to).next()
}

fn authorization(method: &str, path: &str) -> Outcome<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let time = format!("{};{}", now - 60, now + 3600);
    let digest = hex(&Sha1::digest(format!("{}\n{path}\n\n\n", method.to_lowercase())));
    let key = hmac(b"emulator-secret", &time)?;
    let signature = hmac(key.as_bytes(), &format!("sha1\n{time}\n{digest}\n"))?;
    Ok(format!(
        "q-sign-algorithm=sha1&q-ak=emulator&q-sign-time={time}&q-key-time={time}&q-header-list=\
         &q-url-param-list=&q-signature={signature}"
    ))
}

fn hmac(key: &[u8], text: &str) -> Outcome<String> {
    let mut mac = Hmac::<Sha1>::new_from_slice(key)?;
    mac.update(text.as_bytes());
    Ok(hex(&mac.finalize().into_bytes()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
