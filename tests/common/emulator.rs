//! `cosgate emulator` as a child process, and its admin port.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    process::Command,
    time::Duration,
};

use serde_json::{Value, json};

use super::{
    gateway::{SECRET_ID, SECRET_KEY},
    guards::Process,
};

/// The embedded store in a process of its own.
#[derive(Debug)]
pub struct Emulator {
    process: Process,
    address: SocketAddr,
    admin: SocketAddr,
}

/// An object as the admin port tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectSeen {
    pub key: String,
    pub bytes: u64,
    pub etag: String,
}

/// An open multipart upload as the admin port tells of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadSeen {
    pub bucket: String,
    pub key: String,
}

/// The bucket that a [`super::Setup`] uses unless told otherwise.
pub const BUCKET: &str = "demo-1250000000";

impl Emulator {
    /// One bucket, in memory.
    pub fn start() -> Self {
        Self::start_with(&[BUCKET], &[])
    }

    /// These buckets, with further arguments.
    pub fn start_with(buckets: &[&str], arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cosgate"));
        command.args(["emulator", "--supervised", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        command.args(["--secret-id", SECRET_ID, "--secret-key", SECRET_KEY]);
        for bucket in buckets {
            command.args(["--bucket", bucket]);
        }
        command.args(arguments);
        let mut process = Process::start("cosgate emulator", &mut command);
        let line = process.wait_for_line(20, |line| line.starts_with("listening on "));
        let address = address_in(&line).unwrap_or_else(|| panic!("no address in {line:?}"));
        let line = process.wait_for_line(20, |line| line.starts_with("admin on "));
        let admin = address_in(&line).unwrap_or_else(|| panic!("no address in {line:?}"));
        Self { process, address, admin }
    }

    /// Where it serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Adds a fault, such as `{"operation": "UploadPart", "kind": "status", "status": 500, "times": 1}`.
    pub fn fault(&self, fault: &Value) {
        self.ask("POST", "/faults", &fault.to_string());
    }

    /// No faults any more.
    pub fn no_faults(&self) {
        self.ask("DELETE", "/faults", "");
    }

    /// Latency of each response and bandwidth of each connection; 0 = none.
    pub fn pace(&self, latency_ms: u64, bytes_per_second: u64) {
        let pace = json!({"latency_ms": latency_ms, "per_connection_bandwidth": bytes_per_second});
        self.ask("PUT", "/pace", &pace.to_string());
    }

    /// All objects of a bucket but those of the program itself, by key.
    pub fn objects(&self, bucket: &str) -> Vec<ObjectSeen> {
        let mut objects = self.all_objects(bucket);
        objects.retain(|object| !object.key.starts_with(".cosgate/"));
        objects
    }

    /// All objects of a bucket, by key.
    pub fn all_objects(&self, bucket: &str) -> Vec<ObjectSeen> {
        let text = self.ask("GET", &format!("/objects?bucket={bucket}"), "");
        let list: Vec<Value> = serde_json::from_str(&text).expect("a list of objects");
        let mut objects: Vec<_> = list
            .iter()
            .map(|object| ObjectSeen {
                key: object["key"].as_str().unwrap_or_default().to_owned(),
                bytes: object["size"].as_u64().unwrap_or_default(),
                etag: object["etag"].as_str().unwrap_or_default().to_owned(),
            })
            .collect();
        objects.sort_by(|a, b| a.key.cmp(&b.key));
        objects
    }

    /// The keys of [`BUCKET`] but those of the program itself.
    pub fn keys(&self) -> Vec<String> {
        let objects = self.objects(BUCKET).into_iter().map(|object| object.key);
        objects.filter(|key| !key.starts_with(".cosgate/")).collect()
    }

    /// All open multipart uploads.
    pub fn uploads(&self) -> Vec<UploadSeen> {
        let list: Vec<Value> =
            serde_json::from_str(&self.ask("GET", "/uploads", "")).expect("a list of uploads");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        list.iter()
            .map(|upload| UploadSeen { bucket: text(&upload["bucket"]), key: text(&upload["key"]) })
            .collect()
    }

    /// How many requests of an operation arrived since the last [`Self::forget_requests`].
    pub fn requests(&self, operation: &str) -> u64 {
        let counts: Value = serde_json::from_str(&self.ask("GET", "/requests", "")).expect("counters");
        counts[operation]["count"].as_u64().unwrap_or(0)
    }

    /// Sets all counters to 0.
    pub fn forget_requests(&self) {
        self.ask("DELETE", "/requests", "");
    }

    /// What the admin port answers, as it stands.
    pub fn admin(&self, method: &str, path: &str, body: &str) -> Value {
        serde_json::from_str(&self.ask(method, path, body)).expect("JSON")
    }

    /// The status of what the admin port answers.
    pub fn admin_status(&self, method: &str, path: &str, body: &str) -> u16 {
        let (status, _) = self.exchange(method, path, body);
        status
    }

    fn ask(&self, method: &str, path: &str, body: &str) -> String {
        let (status, answer) = self.exchange(method, path, body);
        assert!(status == 200, "{method} {path} {body}: {status} {answer}");
        answer
    }

    fn exchange(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).expect("the admin port is open");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout above zero");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.admin,
            body.len(),
        );
        stream.write_all(head.as_bytes()).expect("the admin port takes a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the admin port answers");
        let answer = String::from_utf8(answer).expect("JSON is UTF-8");
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP response");
        let status = head.split(' ').nth(1).and_then(|text| text.parse().ok()).expect("a status");
        (status, body.to_owned())
    }
}

/// Such as in `listening on http://127.0.0.1:9980`.
fn address_in(line: &str) -> Option<SocketAddr> {
    line.rsplit(['/', ' ']).next()?.parse().ok()
}
