//! Each request of an upload fails once, in each way, over an old object and without one, seen by an FTP client: 226 is the new
//! object and nothing else, an error the old one, none, or the whole new one; and nothing is left open.
//!
//! `tests/acceptance/run.py fault_matrix` runs all of it, faults for ever among them, and prints a table.

mod common;

use common::{Emulator, FtpClient, Gateway, Setup, Watchdog, eventually};
use parking_lot::Mutex;
use serde_json::{Value, json};

const MIB: usize = 1 << 20;
/// Accounts, each with a bucket and a client to COS of its own: so many rows at once.
const LANES: usize = 6;

/// What a client does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Small,
    Parts,
    /// Behind what stands there.
    Append,
    /// Aborted by its client.
    Broken,
}

/// A request, whose key it has, and after how many of them.
const REQUESTS: [(Deed, &str, &str, &[u64]); 14] = [
    (Deed::Small, "PutObject", "", &[0]),
    (Deed::Parts, "InitiateMultipartUpload", "", &[0]),
    (Deed::Parts, "UploadPart", "", &[0, 2, 3]),
    (Deed::Parts, "CompleteMultipartUpload", "", &[0]),
    (Deed::Parts, "PutObject", NOTES, &[0]),
    (Deed::Parts, "DeleteObject", NOTES, &[0]),
    (Deed::Broken, "AbortMultipartUpload", "", &[0]),
    (Deed::Broken, "HeadObject", "", &[0]),
    (Deed::Broken, "PutObject", NOTES, &[0, 1]),
    (Deed::Broken, "ListParts", "", &[0]),
    (Deed::Append, "HeadObject", "", &[0, 1]),
    (Deed::Append, "UploadPartCopy", "", &[0]),
    (Deed::Append, "UploadPart", "", &[0]),
    (Deed::Append, "CompleteMultipartUpload", "", &[0]),
];
const NOTES: &str = ".cosgate/uploads/";

fn faults() -> Vec<Value> {
    vec![
        json!({"kind": "refuse-connection"}),
        json!({"kind": "reset-before"}),
        json!({"kind": "reset-after"}),
        json!({"kind": "status", "status": 500}),
        json!({"kind": "status", "status": 503}),
        json!({"kind": "status", "status": 409, "code": "PathConflict"}),
        json!({"kind": "status", "status": 409, "code": "UploadConflict"}),
        json!({"kind": "stall"}),
        json!({"kind": "error-in-200"}),
        json!({"kind": "empty-200"}),
        json!({"kind": "lost-answer"}),
        json!({"kind": "cut-body"}),
        json!({"kind": "wrong-crc"}),
        json!({"kind": "no-crc"}),
    ]
}

/// One row.
#[derive(Debug, Clone)]
struct Row {
    deed: Deed,
    has_old: bool,
    fault: Value,
    name: String,
}

impl Row {
    /// Sizes of the old object and of the new one; no two are alike.
    fn sizes(&self) -> (Option<usize>, Option<usize>) {
        match self.deed {
            Deed::Small => (self.has_old.then_some(3), Some(200_000)),
            Deed::Parts => (self.has_old.then_some(3), Some(5 * MIB + 12_345)),
            Deed::Append => (Some(5 * MIB), Some(7 * MIB)),
            Deed::Broken => (self.has_old.then_some(3), None),
        }
    }

    /// What the client is told.
    fn perform(&self, emulator: &Mutex<Emulator>, client: &mut FtpClient) -> u16 {
        let (old, new) = self.sizes();
        match self.deed {
            Deed::Small | Deed::Parts => {
                client.store(format!("STOR {}", self.name), &content(new.expect("it makes one"))).0
            }
            Deed::Append => {
                let tail = &content(7 * MIB)[old.expect("it has one")..];
                client.store(format!("APPE {}", self.name), tail).0
            }
            Deed::Broken => {
                use std::io::Write as _;
                let mut data = client.passive();
                client.say(format!("STOR {}", self.name));
                let (code, _) = client.hear();
                if code != 150 {
                    return code;
                }
                data.write_all(&content(3 * MIB)).ok();
                // Two parts are what may be kept; a third one fills.
                let parts = || parts_open(&emulator.lock(), |upload| upload["key"] == self.name);
                assert!(eventually(5, || parts() == 2), "{self:?}: {}", parts());
                client.say("ABOR");
                let code = client.hear().0;
                assert_eq!(client.hear().0, 226, "to ABOR itself");
                // What is held of a new name is given up again, at the second time if the first one hits the fault.
                client.say(format!("SIZE {}", self.name));
                client.hear();
                if !self.has_old {
                    patiently(|| {
                        client.say(format!("DELE {}", self.name));
                        matches!(client.hear().0, 250 | 550)
                    });
                }
                code
            }
        }
    }

    fn run(&self, emulator: &Mutex<Emulator>, bucket: &str, client: &mut FtpClient) {
        let (old, new) = self.sizes();
        if let Some(old) = old {
            let line = format!("STOR {}", self.name);
            patiently(|| client.store(&line, &content(7 * MIB)[..old]).0 == 226);
        }
        emulator.lock().fault(&self.fault);
        let code = self.perform(emulator, client);
        let found = emulator.lock().objects(bucket).into_iter().find(|object| object.key == self.name);
        let found = found.map(|object| usize::try_from(object.bytes).expect("a length"));
        if code == 226 {
            assert!(new.is_some() && found == new, "{self:?}: 226, and {found:?}");
        } else {
            assert!(matches!(code / 100, 4 | 5), "{self:?}: {code}");
            assert!(found == old || (new.is_some() && found == new), "{self:?}: {code}, and {found:?}");
        }
        if let Some(bytes) = found.filter(|_| found == new) {
            // The whole of an append is as long as all there is.
            let (wanted, mut back) = (content(bytes), None);
            patiently(|| {
                back = client.try_fetch(format!("RETR {}", self.name));
                back.is_some()
            });
            assert!(back == Some(wanted), "{self:?}: other bytes");
        }
    }
}

/// What no fault is in store for may still take longer than `store_timeout` on a machine that is busy.
fn patiently(mut deed: impl FnMut() -> bool) {
    assert!((0..5).any(|_| deed()), "five times in a row");
}

/// Parts of open uploads.
fn parts_open(emulator: &Emulator, is_meant: impl Fn(&Value) -> bool) -> u64 {
    let uploads = emulator.admin("GET", "/uploads", "");
    let meant = uploads.as_array().into_iter().flatten().filter(|upload| is_meant(upload));
    meant.filter_map(|upload| upload["parts"].as_u64()).sum()
}

fn content(bytes: usize) -> Vec<u8> {
    let mut content = vec![0; 7 * MIB];
    fastrand::Rng::with_seed(7).fill(&mut content);
    content.truncate(bytes);
    content
}

fn bucket(lane: usize) -> String {
    format!("lane{lane}-1250000000")
}

fn rows(lane: usize) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut number = 0;
    for (deed, operation, whose, places) in REQUESTS {
        for fault in faults() {
            for skip in places {
                for has_old in [false, true] {
                    number += 1;
                    if number % LANES != lane || (deed == Deed::Append && !has_old) {
                        continue;
                    }
                    let name = format!("f{number}");
                    let mut fault = fault.clone();
                    fault["operation"] = json!(operation);
                    fault["skip"] = json!(skip);
                    fault["bucket"] = json!(bucket(lane));
                    fault["key"] = json!(format!("{whose}{name}"));
                    rows.push(Row { deed, has_old, fault, name });
                }
            }
        }
    }
    rows
}

#[test]
fn no_fault_makes_226_of_what_is_not_there_nor_an_error_of_half_an_object() {
    let _watchdog = Watchdog::bark_after(170);
    let buckets: Vec<String> = (0..LANES).map(bucket).collect();
    let names: Vec<&str> = buckets.iter().map(String::as_str).collect();
    let emulator = Emulator::start_with(&names, &[]);
    let mut setup = Setup::new(&emulator).optional("store_timeout = 2\nmin_part_size = 1M\nattr_ttl = 0");
    for (lane, bucket) in names.iter().enumerate() {
        setup = setup.account_on(bucket, &format!("user{lane}"), "");
    }
    let mut gateway: Gateway = setup.serve();
    let mut clients: Vec<_> =
        (0..LANES).map(|lane| FtpClient::log_in(&mut gateway, &format!("user{lane}"))).collect();
    // Its output is one thread's to read.
    let emulator = Mutex::new(emulator);
    std::thread::scope(|scope| {
        for (lane, client) in clients.iter_mut().enumerate() {
            let (emulator, bucket) = (&emulator, bucket(lane));
            scope.spawn(move || {
                for row in rows(lane) {
                    row.run(emulator, &bucket, client);
                }
            });
        }
    });
    let emulator = emulator.into_inner();
    emulator.no_faults();
    // What lost its answer to Initiate is an upload without parts that nobody knows the ID of; a note waits for the sweeper.
    let left = || {
        let held = names
            .iter()
            .flat_map(|bucket| emulator.all_objects(bucket))
            .filter(|object| object.key.starts_with(NOTES));
        (parts_open(&emulator, |_| true), held.count())
    };
    assert!(eventually(90, || left() == (0, 0)), "{:?} {}", left(), emulator.admin("GET", "/uploads", ""));
}
