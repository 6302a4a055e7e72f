//! Requests per operation, counted at the embedded store behind a whole gateway: the table in
//! docs/PERFORMANCE.md says nothing else.

mod common;

use std::{cell::RefCell, collections::BTreeMap, fmt::Write as _, fs, path::PathBuf};

use common::{BUCKET, Emulator, FtpClient, Gateway, Setup, Watchdog, shell};
use serde_json::json;

const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/PERFORMANCE.md");

/// What the columns of the table count.
const COUNTED: [&str; 7] =
    ["ListObjects", "HeadObject", "GetObject", "PutObject", "CopyObject", "DeleteObject", "DeleteObjects"];

/// The sweep of broken uploads asks the store as well, once a minute: a deed between which it falls is done
/// once more, in a directory of its own.
const ATTEMPTS: usize = 3;

/// A row of the table.
struct Row {
    label: &'static str,
    /// Objects in the directory that it is about.
    names: u32,
    /// Whether the directory has been listed a moment ago.
    known: bool,
    deed: fn(&Stage, &str),
}

/// What deeds are done with.
struct Stage {
    emulator: Emulator,
    _gateway: Gateway,
    home: PathBuf,
    ftp: RefCell<FtpClient>,
}

impl Stage {
    fn path(&self, directory: &str) -> PathBuf {
        self.home.join(directory)
    }

    fn shell(&self, line: &str, directory: &str) {
        let line = line.replace("DIR", &self.path(directory).display().to_string());
        let (is_done, said) = shell(&line);
        assert!(is_done, "{line}: {said}");
    }

    fn ask(&self, line: &str, directory: &str, code: u16) {
        self.ftp.borrow_mut().ask(line.replace("DIR", directory), code);
    }

    fn fetch(&self, line: &str, directory: &str) -> Vec<u8> {
        self.ftp.borrow_mut().fetch(line.replace("DIR", directory))
    }

    fn store(&self, line: &str, directory: &str) {
        let (code, text) = self.ftp.borrow_mut().store(line.replace("DIR", directory), b"small");
        assert_eq!(code, 226, "{text}");
    }

    fn counted(&self) -> Vec<u64> {
        COUNTED.iter().map(|operation| self.emulator.requests(operation)).collect()
    }
}

const FIRST: &str = "name-of-0000000.txt";

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row { label: "`ls -l` of 2,500 names, cold", names: 2500, known: false, deed: |stage, dir| stage.shell("ls -l DIR", dir) },
    Row { label: "`ls -l` of 2,500 names, again", names: 2500, known: true, deed: |stage, dir| stage.shell("ls -l DIR", dir) },
    Row { label: "stat of a known name", names: 3, known: true, deed: |stage, dir| stage.shell("stat DIR/name-of-0000001.txt", dir) },
    Row { label: "stat of 2,500 known names", names: 2500, known: true, deed: |stage, dir| stage.shell("stat DIR/*", dir) },
    Row { label: "stat of an unknown name, up to 1,000 names beside it", names: 3, known: false, deed: |stage, dir| stage.shell("stat DIR/name-of-0000001.txt", dir) },
    Row { label: "stat of an unknown name, more beside it", names: 1500, known: false, deed: |stage, dir| {
        stage.shell("stat DIR/name-of-0000001.txt", dir);
        // The first look has told that there are more than a page of them.
        stage.emulator.forget_requests();
        stage.shell("stat DIR/name-of-0001400.txt", dir);
    } },
    Row { label: "`cat` of a small file, known", names: 3, known: true, deed: |stage, dir| stage.shell("cat DIR/name-of-0000001.txt", dir) },
    Row { label: "`cat` of a small file, unknown", names: 3, known: false, deed: |stage, dir| stage.shell("cat DIR/name-of-0000001.txt", dir) },
    Row { label: "`cp` of a file to a new name", names: 3, known: true, deed: |stage, dir| stage.shell("cp DIR/name-of-0000001.txt DIR/copy", dir) },
    Row { label: "`mv` of a file", names: 3, known: true, deed: |stage, dir| stage.shell("mv DIR/name-of-0000001.txt DIR/moved", dir) },
    Row { label: "`mv` of a directory with 100 objects", names: 100, known: true, deed: |stage, dir| stage.shell("mv DIR DIR-moved", dir) },
    Row { label: "`rm` of a file", names: 3, known: true, deed: |stage, dir| stage.shell("rm DIR/name-of-0000001.txt", dir) },
    Row { label: "`rm -r` of 1,000 objects", names: 1000, known: false, deed: |stage, dir| stage.shell("rm -r DIR", dir) },
    Row { label: "LIST of 2,500 names, cold", names: 2500, known: false, deed: |stage, dir| {
        let lines = String::from_utf8(stage.fetch("LIST /DIR", dir)).expect("names in ASCII");
        assert_eq!(lines.lines().count(), 2500);
    } },
    Row { label: "LIST of 2,500 names, nothing known of the two directories above", names: 3, known: false, deed: |stage, dir| {
        let wanted = json!({ "bucket": BUCKET, "prefix": format!("{dir}/a/b/"), "count": 2500 });
        stage.emulator.admin("POST", "/fill", &wanted.to_string());
        stage.emulator.forget_requests();
        let lines = String::from_utf8(stage.fetch("LIST /DIR/a/b", dir)).expect("names in ASCII");
        assert_eq!(lines.lines().count(), 2500);
    } },
    Row { label: "SIZE or MDTM of a known name", names: 3, known: true, deed: |stage, dir| {
        stage.ask(&format!("SIZE /DIR/{FIRST}"), dir, 213);
        stage.ask(&format!("MDTM /DIR/{FIRST}"), dir, 213);
    } },
    Row { label: "SIZE or MDTM of an unknown name", names: 3, known: false, deed: |stage, dir| stage.ask(&format!("SIZE /DIR/{FIRST}"), dir, 213) },
    Row { label: "RETR of a small file, known", names: 3, known: true, deed: |stage, dir| {
        assert_eq!(stage.fetch(&format!("RETR /DIR/{FIRST}"), dir), b"x");
    } },
    Row { label: "RETR of a small file, unknown", names: 3, known: false, deed: |stage, dir| {
        assert_eq!(stage.fetch(&format!("RETR /DIR/{FIRST}"), dir), b"x");
    } },
    Row { label: "STOR of a new small file", names: 3, known: true, deed: |stage, dir| stage.store("STOR /DIR/new", dir) },
    Row { label: "STOR of a new small file, directory unknown", names: 3, known: false, deed: |stage, dir| stage.store("STOR /DIR/new", dir) },
    Row { label: "STOR onto a small file", names: 3, known: true, deed: |stage, dir| stage.store(&format!("STOR /DIR/{FIRST}"), dir) },
    Row { label: "RNFR and RNTO of a file", names: 3, known: true, deed: |stage, dir| {
        stage.ask(&format!("RNFR /DIR/{FIRST}"), dir, 350);
        stage.ask("RNTO /DIR/moved", dir, 250);
    } },
    Row { label: "DELE", names: 3, known: true, deed: |stage, dir| stage.ask(&format!("DELE /DIR/{FIRST}"), dir, 250) },
];

fn directory(row: usize, attempt: usize) -> String {
    format!("d{row:02}-{attempt}")
}

fn stage() -> Stage {
    let emulator = Emulator::start();
    for (number, row) in ROWS.iter().enumerate() {
        for attempt in 0..ATTEMPTS {
            let prefix = format!("{}/", directory(number, attempt));
            let wanted = json!({ "bucket": BUCKET, "prefix": prefix, "count": row.names });
            emulator.admin("POST", "/fill", &wanted.to_string());
        }
    }
    // What is known stays known for the whole test.
    let mut gateway = Setup::new(&emulator).account("user0", "").optional("attr_ttl = 300").serve();
    let (home, ftp) = (gateway.home("user0"), RefCell::new(FtpClient::log_in(&mut gateway, "user0")));
    Stage { emulator, _gateway: gateway, home, ftp }
}

/// The rows of the document's table: what is counted, by label.
fn told() -> BTreeMap<String, Vec<u64>> {
    let text = fs::read_to_string(DOCUMENT).expect("the document is there");
    let table = text.split("## Requests per operation").nth(1).expect("the section is there");
    let table = table.split("\n## ").next().unwrap_or_default();
    let cells = table.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let rows = cells.map(|line| line.split(" | ").map(str::trim).collect::<Vec<_>>());
    let number = |cell: &&str| if *cell == "-" { Some(0) } else { cell.parse().ok() };
    rows.filter_map(|row| {
        let counted: Option<Vec<u64>> = row[1..].iter().map(number).collect();
        Some((row[0].to_owned(), counted?))
    })
    .collect()
}

#[test]
fn the_table_of_requests_is_what_the_store_counts() {
    let _watchdog = Watchdog::bark_after(300);
    let (stage, told) = (stage(), told());
    let (mut differs, mut table) = (Vec::new(), String::new());
    for (number, row) in ROWS.iter().enumerate() {
        let mut counted = Vec::new();
        for attempt in 0..ATTEMPTS {
            let name = directory(number, attempt);
            // Its name is known in any case.
            stage.shell(if row.known { "ls -l DIR" } else { "stat DIR" }, &name);
            stage.emulator.forget_requests();
            (row.deed)(&stage, &name);
            counted = stage.counted();
            if told.get(row.label) == Some(&counted) {
                break;
            }
        }
        if told.get(row.label) != Some(&counted) {
            differs.push(row.label);
        }
        let cells = counted.iter().map(|count| if *count == 0 { "-".into() } else { count.to_string() });
        let cells: Vec<String> = cells.collect();
        writeln!(table, "| {} | {} |", row.label, cells.join(" | ")).expect("a String takes text");
    }
    assert!(differs.is_empty(), "docs/PERFORMANCE.md is wrong about {differs:?}; counted is\n{table}");
    assert_eq!(told.len(), ROWS.len(), "a row of the document is not counted here");
}
