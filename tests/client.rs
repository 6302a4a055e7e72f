//! `cosgate get`, `put` and `ls`: against a gateway, and against a server that breaks and lies.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    process::{Command, Output, Stdio},
    sync::Arc,
    thread,
};

use common::{Emulator, Gateway, Setup, TempTree, Watchdog};
use crc_fast::{CrcAlgorithm, checksum};
use parking_lot::Mutex;

fn cosgate(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cosgate"));
    command.args(arguments).current_dir(dir).env("COSGATE_FTP_PASSWORD", "user0-password");
    command.stdin(Stdio::null()).output().unwrap()
}

/// Its exit code and all it said.
fn run(dir: &Path, arguments: &[&str]) -> (i32, String) {
    let output = cosgate(dir, arguments);
    let said =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    (output.status.code().unwrap(), said)
}

fn good(dir: &Path, arguments: &[&str]) -> String {
    let (code, said) = run(dir, arguments);
    assert_eq!(code, 0, "{arguments:?}: {said}");
    said
}

fn content(bytes: u32) -> Vec<u8> {
    (0..bytes).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

fn gateway(lines: &str) -> (Emulator, Gateway) {
    let emulator = Emulator::start();
    let gateway = Setup::new(&emulator).account("user0", lines).serve();
    (emulator, gateway)
}

#[test]
fn files_and_trees_travel_both_ways() {
    let _watchdog = Watchdog::bark_after(90);
    let (emulator, mut gateway) = gateway("");
    let base = format!("ftp://user0@127.0.0.1:{}", gateway.ftp_port());
    let tree = TempTree::new();
    let here = tree.path();
    let big = content(3_000_001);
    fs::create_dir_all(here.join("d/深/empty")).unwrap();
    fs::write(here.join("big"), &big).unwrap();
    fs::write(here.join("d/a b;c"), b"1").unwrap();
    fs::write(here.join("d/深/名"), b"").unwrap();
    let said = good(here, &["put", "big", &format!("{base}/renamed")]);
    assert!(said.contains("3000001 bytes") && said.contains("agrees"), "{said}");
    good(here, &["put", "-r", "d", "big", &base]);
    assert_eq!(emulator.keys(), ["big", "d/", "d/a b;c", "d/深/", "d/深/empty/", "d/深/名", "renamed"]);
    let listed = good(here, &["ls", &base]);
    assert!(listed.contains("3000001  20") && listed.contains("  d/\n"), "{listed}");
    let all = good(here, &["ls", "-r", &format!("{base}/d")]);
    assert!(all.contains("d/深:") && all.contains("  名\n"), "{all}");
    fs::create_dir(here.join("back")).unwrap();
    let said = good(here, &["get", &format!("{base}/renamed"), &format!("{base}/d/a%20b;c"), "back"]);
    assert_eq!(said.lines().count(), 2, "{said}");
    assert_eq!(fs::read(here.join("back/renamed")).unwrap(), big);
    assert_eq!(fs::read(here.join("back/a b;c")).unwrap(), b"1");
    assert_eq!(good(here, &["get", "-r", "-q", &format!("{base}/d"), "back"]), "");
    assert_eq!(fs::read(here.join("back/d/深/名")).unwrap(), b"");
    assert!(here.join("back/d/深/empty").is_dir());
    // Onto something else, by its new name.
    fs::write(here.join("small"), b"new").unwrap();
    good(here, &["put", "small", &format!("{base}/renamed")]);
    good(here, &["get", &format!("{base}/renamed"), "back/renamed"]);
    assert_eq!(fs::read(here.join("back/renamed")).unwrap(), b"new");
    assert!(
        fs::read_dir(here.join("back")).unwrap().all(|entry| entry.unwrap().path().extension().is_none())
    );
}

#[test]
fn what_goes_wrong_is_said_and_told_by_the_exit_code() {
    let _watchdog = Watchdog::bark_after(90);
    let (_emulator, mut gateway) = gateway("quota = 1M");
    let port = gateway.ftp_port();
    let base = format!("ftp://user0@127.0.0.1:{port}");
    let tree = TempTree::new();
    let here = tree.path();
    fs::write(here.join("big"), content(2 << 20)).unwrap();
    fs::write(here.join("small"), b"1").unwrap();
    let expect = |arguments: &[&str], code: i32, words: &str| {
        let (ended, said) = run(here, arguments);
        assert_eq!(ended, code, "{arguments:?}: {said}");
        assert!(said.contains(words), "{arguments:?}: {said}");
        assert!(!said.contains("secret"), "{said}");
    };
    expect(&["get", &format!("{base}/absent")], 1, "550");
    expect(&["get", &format!("ftp://user0:secret@127.0.0.1:{port}/x")], 1, "login");
    expect(&["get", "ftp://user0:secret@host:0/x"], 64, "port");
    expect(&["get", "http://host/x"], 64, "ftp://");
    expect(&["get", &format!("{base}/dir/")], 64, "-r");
    expect(&["put", "small", "nowhere"], 64, "no URL");
    expect(&["put", ".", &base], 64, "-r");
    expect(&["put", "absent", &base], 1, "absent");
    expect(&["ls", "ftp://user0@127.0.0.1:1/"], 1, "refused");
    expect(&["ls", "--plain", "ftps://user0@127.0.0.1/"], 64, "cannot be plain");
    expect(&["put", "big", &base], 1, "552");
    // One that fails does not keep the others back.
    expect(&["put", "big", "small", &base], 1, "1 of the files");
    expect(&["get", &format!("{base}/small"), &format!("{base}/absent"), "."], 1, "1 of the files");
    assert!(good(here, &["ls", &base]).contains("small"));
    let (_, said) = run(here, &["put", "big", &base]);
    assert!(said.contains("the server holds nothing under big"), "{said}");
    assert!(!here.join("absent.part").exists());
}

/// What a server does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vice {
    None,
    /// The first download ends so early, with 426.
    Breaks(usize),
    /// The checksum is another file's.
    Lies,
    /// It has no HASH.
    Mute,
}

#[derive(Debug)]
struct Server {
    port: u16,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    /// Commands as they came.
    heard: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn start(vice: Vice) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Self {
            port: listener.local_addr().unwrap().port(),
            files: Arc::default(),
            heard: Arc::default(),
        };
        let (files, heard) = (Arc::clone(&server.files), Arc::clone(&server.heard));
        // Ends with the process: its clients are commands that the test waits for.
        thread::spawn(move || {
            let mut vice = vice;
            for client in listener.incoming() {
                serve(client.unwrap(), &files, &heard, &mut vice);
            }
        });
        server
    }

    fn url(&self, path: &str) -> String {
        format!("ftp://user0@127.0.0.1:{}/{path}", self.port)
    }

    fn has_heard(&self, line: &str) -> bool {
        self.heard.lock().iter().any(|heard| heard == line)
    }
}

fn serve(
    client: TcpStream,
    files: &Mutex<BTreeMap<String, Vec<u8>>>,
    heard: &Mutex<Vec<String>>,
    vice: &mut Vice,
) {
    let mut control = BufReader::new(client);
    let mut door: Option<TcpListener> = None;
    let mut offset = 0;
    let say = |control: &mut BufReader<TcpStream>, text: &str| {
        control.get_mut().write_all(format!("{text}\r\n").as_bytes()).ok();
    };
    say(&mut control, "220 ready");
    let mut line = String::new();
    while control.read_line(&mut line).unwrap_or(0) > 0 {
        let command = std::mem::take(&mut line).trim_end().to_owned();
        heard.lock().push(command.clone());
        let (verb, name) = command.split_once(' ').unwrap_or((&command, ""));
        let file = files.lock().get(name).cloned();
        match (verb, file) {
            ("USER", _) => say(&mut control, "331 password"),
            ("PASS", _) => say(&mut control, "230 in"),
            ("FEAT", _) if *vice == Vice::Mute => say(&mut control, "211-F\r\n EPSV\r\n SIZE\r\n211 end"),
            ("FEAT", _) => say(&mut control, "211-F\r\n EPSV\r\n HASH CRC64;MD5*\r\n211 end"),
            ("TYPE" | "OPTS" | "ALLO", _) => say(&mut control, "200 good"),
            ("EPSV", _) => {
                let listener = TcpListener::bind("127.0.0.1:0").unwrap();
                say(&mut control, &format!("229 (|||{}|)", listener.local_addr().unwrap().port()));
                door = Some(listener);
            }
            ("REST", _) => {
                offset = name.parse().unwrap();
                say(&mut control, "350 next");
            }
            ("SIZE", Some(file)) => say(&mut control, &format!("213 {}", file.len())),
            ("HASH", Some(file)) => {
                let sum = checksum(CrcAlgorithm::Crc64Xz, &file) ^ u64::from(*vice == Vice::Lies);
                say(&mut control, &format!("213 CRC64 0-{} {sum:016X} {name}", file.len()));
            }
            ("RETR", Some(file)) => {
                let mut data = door.take().unwrap().accept().unwrap().0;
                say(&mut control, "150 here");
                let rest = &file[std::mem::take(&mut offset)..];
                if let Vice::Breaks(bytes) = *vice {
                    *vice = Vice::None;
                    data.write_all(&rest[..bytes]).unwrap();
                    drop(data);
                    say(&mut control, "426 broken");
                } else {
                    data.write_all(rest).unwrap();
                    drop(data);
                    say(&mut control, "226 all");
                }
            }
            ("STOR", old) => {
                let mut data = door.take().unwrap().accept().unwrap().0;
                say(&mut control, "150 go on");
                let mut file = old.unwrap_or_default();
                file.truncate(std::mem::take(&mut offset));
                data.read_to_end(&mut file).unwrap();
                files.lock().insert(name.to_owned(), file);
                say(&mut control, "226 stored");
            }
            ("QUIT", _) => say(&mut control, "221 bye"),
            _ => say(&mut control, "550 no"),
        }
    }
}

#[test]
fn a_download_that_broke_goes_on_where_it_was() {
    let _watchdog = Watchdog::bark_after(60);
    let server = Server::start(Vice::Breaks(700_000));
    let tree = TempTree::new();
    let here = tree.path();
    let bytes = content(1_000_000);
    server.files.lock().insert("f".into(), bytes.clone());
    let (code, said) = run(here, &["get", &server.url("f")]);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("426") && said.contains("700000 of 1000000 bytes are in"), "{said}");
    assert!(!here.join("f").exists());
    assert_eq!(fs::read(here.join("f.part")).unwrap(), bytes[..700_000]);
    let said = good(here, &["get", &server.url("f")]);
    assert!(said.contains("CRC64 agrees"), "{said}");
    assert!(server.has_heard("REST 700000"));
    assert_eq!(fs::read(here.join("f")).unwrap(), bytes);
    assert!(!here.join("f.part").exists());
    // A part of something else is noticed, and fetched anew.
    fs::write(here.join("f.part"), b"what was there last year").unwrap();
    let said = good(here, &["get", &server.url("f")]);
    assert!(said.contains("once more from the start") && said.contains("CRC64 agrees"), "{said}");
    assert_eq!(fs::read(here.join("f")).unwrap(), bytes);
}

#[test]
fn other_bytes_than_the_servers_are_not_kept() {
    let _watchdog = Watchdog::bark_after(60);
    let server = Server::start(Vice::Lies);
    let tree = TempTree::new();
    let here = tree.path();
    fs::write(here.join("f"), b"older").unwrap();
    server.files.lock().insert("f".into(), b"newer".to_vec());
    let (code, said) = run(here, &["get", &server.url("f")]);
    assert!(code == 1 && said.contains("CRC64 differs"), "{said}");
    assert_eq!(fs::read(here.join("f")).unwrap(), b"older");
    assert!(!here.join("f.part").exists());
    let (code, said) = run(here, &["put", "f", &server.url("g")]);
    assert!(code == 1 && said.contains("CRC64 differs"), "{said}");
}

#[test]
fn an_upload_goes_on_where_the_server_holds_its_beginning() {
    let _watchdog = Watchdog::bark_after(60);
    let tree = TempTree::new();
    let here = tree.path();
    let bytes = content(900_000);
    fs::write(here.join("f"), &bytes).unwrap();
    for (vice, arguments, resumes) in [
        (Vice::None, vec!["put"], true),
        (Vice::Lies, vec!["put", "-c"], false),
        (Vice::Mute, vec!["put"], false),
        (Vice::Mute, vec!["put", "-c"], true),
    ] {
        let server = Server::start(vice);
        server.files.lock().insert("f".into(), bytes[..400_000].to_vec());
        let (_, said) = run(here, &[arguments, vec!["f", &server.url("f")]].concat());
        assert_eq!(server.has_heard("REST 400000"), resumes, "{vice:?}: {said}");
        assert_eq!(server.files.lock()["f"], bytes, "{vice:?}: {said}");
        assert_eq!(said.contains("size agrees (the server tells no checksum)"), vice == Vice::Mute, "{said}");
    }
    // Something else of that name is replaced.
    let server = Server::start(Vice::None);
    server.files.lock().insert("f".into(), vec![9; 1000]);
    good(here, &["put", "f", &server.url("f")]);
    assert!(!server.has_heard("REST 1000") && server.has_heard("ALLO 900000"));
    assert_eq!(server.files.lock()["f"], bytes);
}
