//! The ceiling of every transfer: `CosClient` alone, 8 MiB parts and ranges over a few connections, and
//! small files one after the other.
//!
//! ```text
//! cargo bench --bench bare_client [-- --store HOST:PORT] [--gib N] [--connections N]
//! ```
//!
//! Without `--store`, a process of its own throws away what it gets and invents what it gives, so that the
//! figures are the client's. With it, the store is an emulator with default bucket and secrets.
//! Printed: MB/s, and seconds of CPU of this process (not of the store) per GiB.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use cosgate::{
    config::{Addressing, Secret, StoreConfig},
    cos::{ByteRange, CosClient, Crc64, HttpPool, Key, NewObject, ObjectStore, PartNumber, Payload},
};
use futures_util::{StreamExt, TryStreamExt, stream};

const PART_BYTES: usize = 8 << 20;
const PIECE_BYTES: usize = 64 << 10;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--sink") {
        return sink();
    }
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let number = |name: &str, default: usize| value(name).map_or(default, |text| text.parse().unwrap());
    let (gib, connections) = (number("--gib", 4), number("--connections", 4));
    let own = value("--store").is_none().then(Sink::start);
    let endpoint = value("--store").unwrap_or_else(|| own.as_ref().unwrap().address.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let client = Arc::new(client_of(endpoint));
    runtime.block_on(measure_files(&client));
    runtime.block_on(measure(client, gib, connections));
}

fn client_of(endpoint: String) -> CosClient {
    let config = StoreConfig {
        bucket: "demo-1250000000".to_owned(),
        endpoint,
        https: false,
        addressing: Addressing::Path,
        secret_id: "emulator".to_owned(),
        secret_key: Secret::new("emulator-secret"),
        token: None,
        ca_file: None,
        proxy: None,
        storage_class: None,
        sse: None,
        timeout: Duration::from_secs(60),
    };
    CosClient::new(&config, &HttpPool::new()).unwrap()
}

/// Small files, one after the other.
async fn measure_files(client: &CosClient) {
    const FILES: u32 = 2000;
    let payload = Payload::new(vec![7; 100_000]);
    let meter = Meter::start();
    for number in 0..FILES {
        let key = Key::new(format!("bench/file-{}", number % 100)).unwrap();
        client.put_object(&key, payload.clone(), &NewObject::default()).await.unwrap();
    }
    let (wall, cpu) = (meter.begun.elapsed() / FILES, (cpu_used() - meter.cpu) / FILES);
    println!("PUT 100 KB: {:.0} files/s, {} us CPU each", 1.0 / wall.as_secs_f64(), cpu.as_micros());
}

/// Parts and ranges, in rounds of 1 GiB so that a store in memory carries it.
async fn measure(client: Arc<CosClient>, gib: usize, connections: usize) {
    let key = Key::new("bench/bare-client").unwrap();
    let parts = (1 << 30) / PART_BYTES;
    let piece =
        Bytes::from((0..PIECE_BYTES).map(|at| u8::try_from(at * 7 % 251).unwrap()).collect::<Vec<u8>>());
    let pieces = vec![piece; PART_BYTES / PIECE_BYTES];
    let payload = Payload::with_crc64(pieces.clone(), Crc64::of(&pieces.concat()));
    let meter = Meter::start();
    for round in 0..gib {
        let upload = client.initiate_multipart_upload(&key, &NewObject::default()).await.unwrap();
        let sent = stream::iter(1..=parts).map(|number| {
            let (client, key, upload, payload) = (&client, &key, &upload, payload.clone());
            let number = PartNumber::new(u16::try_from(number).unwrap()).unwrap();
            async move { client.upload_part(key, upload, number, payload).await.unwrap() }
        });
        let mut sent: Vec<_> = sent.buffer_unordered(connections).collect().await;
        sent.sort_by_key(|part| part.number);
        if round + 1 < gib {
            client.abort_multipart_upload(&key, &upload).await.unwrap();
            continue;
        }
        meter.print("PUT parts", gib);
        let crc64 =
            (1..parts).fold(payload.crc64(), |crc64, _| crc64.followed_by(payload.crc64(), payload.len()));
        let expected = cosgate::cos::Expected { bytes: 1 << 30, crc64: Some(crc64) };
        client.complete_multipart_upload(&key, &upload, &sent, expected, false).await.unwrap();
    }
    let meter = Meter::start();
    for _ in 0..gib {
        let got = stream::iter(0..parts).map(|index| {
            let (client, key) = (Arc::clone(&client), key.clone());
            let range = ByteRange { first: (index * PART_BYTES) as u64, length: PART_BYTES as u64 };
            tokio::spawn(async move {
                let body = client.get_object(&key, Some(range), None).await.unwrap();
                let bytes = body.bytes.try_fold(0, async |sum, piece| Ok(sum + piece.len())).await.unwrap();
                assert_eq!(bytes, PART_BYTES);
            })
        });
        got.buffer_unordered(connections).for_each(async |done| done.unwrap()).await;
    }
    meter.print("GET ranges", gib);
}

struct Meter {
    begun: Instant,
    cpu: Duration,
}

impl Meter {
    fn start() -> Self {
        Self { begun: Instant::now(), cpu: cpu_used() }
    }

    fn print(&self, what: &str, gib: usize) {
        let (seconds, gib) = (self.begun.elapsed().as_secs_f64(), f64::from(u32::try_from(gib).unwrap()));
        let cpu = (cpu_used() - self.cpu).as_secs_f64() / gib;
        println!("{what}: {:.0} MB/s, {cpu:.2} CPU s/GiB", gib * 1_073.741_824 / seconds);
    }
}

/// User and system time of this process, in the kernel's ticks of 10 ms.
fn cpu_used() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let behind_name = stat.rsplit_once(") ").unwrap().1;
    let ticks: u64 = behind_name.split(' ').skip(11).take(2).map(|text| text.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

/// A store that keeps nothing, in a process of its own.
struct Sink {
    process: Child,
    address: String,
}

impl Sink {
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        let mut process = command.arg("--sink").stdout(Stdio::piped()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { process, address: address.trim().to_owned() }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn sink() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", listener.local_addr().unwrap());
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        std::thread::spawn(move || drop(serve(stream)));
    }
}

fn serve(stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(256 << 10, stream.try_clone()?);
    let mut writer = stream;
    let zeros = vec![0; 256 << 10];
    loop {
        let (mut line, mut method, mut length, mut range) =
            (String::new(), String::new(), 0_u64, String::new());
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let text = line.trim_end().to_ascii_lowercase();
            if text.is_empty() {
                break;
            }
            match text.split_once(": ") {
                Some(("content-length", value)) => length = value.parse().unwrap(),
                Some(("range", value)) => range = value.trim_start_matches("bytes=").to_owned(),
                None => method = text.split(' ').next().unwrap().to_owned(),
                Some(_) => {}
            }
        }
        std::io::copy(&mut (&mut reader).take(length), &mut std::io::sink())?;
        let head = "HTTP/1.1 200 OK\r\nETag: \"e\"\r\nLast-Modified: Fri, 10 Apr 2020 09:35:05 GMT\r\nx-cos-request-id: x\r\n";
        if method == "get" {
            let body = PART_BYTES;
            let head = head.replace("200 OK", "206 Partial Content");
            write!(
                writer,
                "{head}Content-Range: bytes {range}/{}\r\nContent-Length: {body}\r\n\r\n",
                1 << 30
            )?;
            for _ in 0..body / zeros.len() {
                writer.write_all(&zeros)?;
            }
            continue;
        }
        let body = "<InitiateMultipartUploadResult><UploadId>15</UploadId></InitiateMultipartUploadResult>";
        let body = if length > 0 && length < 1 << 20 {
            "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>"
        } else {
            body
        };
        write!(writer, "{head}Content-Length: {}\r\n\r\n{body}", body.len())?;
    }
}
