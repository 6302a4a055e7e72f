//! FTP sessions on the real thing: `cosgate serve` in a child process, over the embedded store.
//!
//! What the wire alone can prove stands in `src/ftp/wire_tests.rs`; here is what needs a mount and a bucket:
//! 226 means that the object is in the store, and a transfer that broke leaves nothing.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{
    BUCKET, Emulator, FtpClient as Client, Gateway, Setup, TempTree, Watchdog, eventually, pause, require,
    shell,
};
use md5::{Digest, Md5};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

/// Whose broken uploads are aborted at once; what may go on has tests of its own.
fn one_user() -> (Emulator, Gateway) {
    let emulator = Emulator::start();
    let gateway = Setup::new(&emulator).account("user0", "resume_window = 0").serve();
    (emulator, gateway)
}

/// Bytes that differ from place to place.
fn content(bytes: u32) -> Vec<u8> {
    (0..bytes).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// The object and nothing else: no other key, no upload left open.
fn only(emulator: &Emulator, keys: &[&str]) -> bool {
    eventually(20, || emulator.uploads().is_empty()) && emulator.keys() == keys
}

/// > Reply 226 to an upload means that the object is in the bucket, whole.
#[test]
fn what_is_told_226_is_in_the_store_and_comes_back_whole() {
    let _watchdog = Watchdog::bark_after(180);
    let (emulator, mut gateway) = one_user();
    let mut client = Client::log_in(&mut gateway, "user0");
    for (name, bytes) in [("empty", 0), ("small", 10), ("one part", 3_000_000), ("parts", 30_000_001)] {
        let content = content(bytes);
        let (code, text) = client.store(format!("STOR {name}"), &content);
        assert_eq!(code, 226, "{text}");
        // No waiting: 226 has been said.
        let object = emulator.objects(BUCKET).into_iter().find(|object| object.key == name);
        assert_eq!(object.unwrap().bytes, u64::from(bytes));
        assert!(client.fetch(format!("RETR {name}")) == content, "{name} comes back");
        assert_eq!(client.ask(format!("SIZE {name}"), 213), format!("213 {bytes}\r\n"));
        assert!(fs::read(gateway.home("user0").join(name)).unwrap() == content, "{name} on the mount");
    }
    client.ask("REST 30000000", 350);
    assert_eq!(client.fetch("RETR parts"), content(30_000_001)[30_000_000..]);
    client.ask("REST 99", 350);
    let _data = client.passive();
    client.ask("RETR small", 554);
    assert_eq!(client.names(), ["empty", "one part", "parts", "small"]);
    assert_eq!(emulator.uploads(), []);
}

#[test]
fn file_commands_change_the_bucket() {
    let _watchdog = Watchdog::bark_after(180);
    let (emulator, mut gateway) = one_user();
    let mut client = Client::log_in(&mut gateway, "user0");
    client.ask("MKD d", 257);
    client.ask("MKD d", 550);
    assert_eq!(client.store("STOR d/a b.txt", b"12345").0, 226);
    client.ask("RMD d", 550);
    client.ask("DELE d", 550);
    client.ask("RNFR d/a b.txt", 350);
    client.ask("RNTO d/深圳.txt", 250);
    assert_eq!(emulator.keys(), ["d/", "d/深圳.txt"]);
    client.ask("CWD d", 250);
    assert_eq!(client.names(), ["深圳.txt"]);
    assert!(client.ask("MLST 深圳.txt", 250).contains("type=file;size=5;modify=20"));
    client.ask("MDTM 深圳.txt", 213);
    let lines = String::from_utf8(client.fetch("LIST -la")).unwrap();
    assert!(lines.starts_with("-rw-r--r--") && lines.ends_with(" 深圳.txt\r\n"), "{lines}");
    assert!(String::from_utf8(client.fetch("MLSD /")).unwrap().contains("type=dir;"));
    client.ask("DELE 深圳.txt", 250);
    client.ask("DELE 深圳.txt", 550);
    client.ask("SIZE 深圳.txt", 550);
    client.ask("CDUP", 250);
    client.ask("RMD d", 250);
    let _data = client.passive();
    client.ask("STOR missing/x", 550);
    assert_eq!(client.store("APPE new", b"abc").0, 226);
    assert_eq!(client.store("APPE new", b"def").0, 226);
    assert_eq!(client.fetch("RETR new"), b"abcdef");
    assert!(only(&emulator, &["new"]));
}

/// > An upload that broke (reset, ABOR, a client that died, another size than ALLO told) leaves nothing, and the older object stays.
#[test]
fn broken_uploads_leave_nothing_and_the_old_object_stays() {
    let _watchdog = Watchdog::bark_after(240);
    let (emulator, mut gateway) = one_user();
    let mut client = Client::log_in(&mut gateway, "user0");
    assert_eq!(client.store("STOR old", b"old content").0, 226);
    let old = emulator.objects(BUCKET);
    for name in ["old", "new"] {
        for bytes in [1000, 12_000_000] {
            // A reset in the middle.
            let mut data = client.passive();
            client.ask(format!("STOR {name}"), 150);
            data.write_all(&content(bytes)).unwrap();
            socket2::SockRef::from(&data).set_linger(Some(Duration::ZERO)).unwrap();
            drop(data);
            assert_eq!(client.hear().0, 426);
            // ABOR, with the data connection left open, and closed at the same time.
            for is_closed in [false, true] {
                let mut data = client.passive();
                client.ask(format!("STOR {name}"), 150);
                data.write_all(&content(bytes)).unwrap();
                client.say("ABOR");
                let kept = (!is_closed).then_some(data);
                assert_eq!(client.hear().0, 426);
                assert_eq!(client.hear().0, 226);
                drop(kept);
            }
            // ALLO tells another size.
            client.ask(format!("ALLO {}", bytes + 1), 200);
            assert_eq!(client.store(format!("STOR {name}"), &content(bytes)).0, 426);
            // The control connection goes without a QUIT.
            let mut other = Client::log_in(&mut gateway, "user0");
            let mut data = other.passive();
            other.ask(format!("STOR {name}"), 150);
            data.write_all(&content(bytes)).unwrap();
            drop(other);
            drop(data);
        }
    }
    assert!(only(&emulator, &["old"]), "{:?} {:?}", emulator.keys(), emulator.uploads());
    assert_eq!(emulator.objects(BUCKET), old);
    assert_eq!(client.fetch("RETR old"), b"old content");
    // An overwrite is seen when it is told, and not before.
    let mut data = client.passive();
    client.ask("STOR old", 150);
    data.write_all(&content(9_000_000)).unwrap();
    pause(Duration::from_millis(300));
    assert_eq!(Client::log_in(&mut gateway, "user0").fetch("RETR old"), b"old content");
    drop(data);
    assert_eq!(client.hear().0, 226);
    assert!(client.fetch("RETR old") == content(9_000_000));
}

/// Clients that upload without end, slowly enough to be killed in the middle.
fn endless_clients(port: u16, tree: &TempTree) -> Vec<(&'static str, Vec<String>)> {
    require("curl");
    require("lftp");
    require("python3");
    let source = tree.path().join("source");
    fs::write(&source, content(60_000_000)).unwrap();
    let source = source.display();
    let curl = format!("--limit-rate 8M -s -T {source} ftp://user0:user0-password@127.0.0.1:{port}/NAME");
    let lftp = format!(
        "set net:limit-rate 8000000; set ftp:use-allo no; open -u user0,user0-password ftp://127.0.0.1:{port}; \
         put {source} -o NAME"
    );
    let ftplib = format!(
        "import ftplib, time\nclass Slow:\n def read(self, n):\n  time.sleep(.005)\n  return b'x' * n\n\
         f = ftplib.FTP()\nf.connect('127.0.0.1', {port})\nf.login('user0', 'user0-password')\n\
         f.storbinary('STOR NAME', Slow(), 65536)\n"
    );
    vec![
        ("curl", curl.split(' ').map(str::to_owned).collect()),
        ("lftp", vec!["-c".to_owned(), lftp]),
        ("python3", vec!["-c".to_owned(), ftplib]),
    ]
}

/// > A client that is killed in the middle of an upload publishes nothing, on a busy machine neither.
#[test]
fn killed_clients_leave_nothing_and_the_old_object_stays() {
    let _watchdog = Watchdog::bark_after(300);
    let (emulator, mut gateway) = one_user();
    let mut client = Client::log_in(&mut gateway, "user0");
    assert_eq!(client.store("STOR old", b"old content").0, 226);
    let old = emulator.objects(BUCKET);
    let tree = TempTree::new();
    let clients = endless_clients(gateway.ftp_port(), &tree);
    for round in 0..6_u64 {
        for (program, arguments) in &clients {
            let name = if round % 2 == 0 { "old" } else { "new" };
            let arguments = arguments.iter().map(|argument| argument.replace("NAME", name));
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            pause(Duration::from_millis(400 + 170 * round));
            assert!(child.try_wait().unwrap().is_none(), "{program} is in the middle");
            child.kill().unwrap();
            child.wait().unwrap();
            pause(Duration::from_millis(100));
            assert_eq!(emulator.objects(BUCKET), old, "{program}, round {round}");
        }
    }
    assert!(only(&emulator, &["old"]), "{:?}", emulator.uploads());
    assert_eq!(client.fetch("RETR old"), b"old content");
}

/// > A client that is killed in the middle of an upload publishes nothing, on a busy machine neither.
///
/// There others have their turn between the ends of its two connections.
#[test]
fn clients_killed_on_a_busy_machine_leave_nothing() {
    const KILLS: usize = 100;
    let _watchdog = Watchdog::bark_after(170);
    require("python3");
    let (emulator, mut gateway) = one_user();
    let mut client = Client::log_in(&mut gateway, "user0");
    assert_eq!(client.store("STOR old", b"old content").0, 226);
    let old = emulator.objects(BUCKET);
    let mut killer = Command::new("python3")
        .args(["-c", KILLER, &gateway.ftp_port().to_string(), &KILLS.to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let heard = std::io::read_to_string(killer.stdout.take().unwrap()).unwrap();
    assert!(killer.wait().unwrap().success());
    assert_eq!(heard.trim(), format!("{KILLS} killed"));
    assert_eq!(emulator.objects(BUCKET), old);
    assert!(only(&emulator, &["old"]), "{:?}", emulator.uploads());
}

/// Keeps the machine busy, and kills clients in the middle of their uploads.
const KILLER: &str = r"
import ftplib, os, signal, sys, time

port, kills = int(sys.argv[1]), int(sys.argv[2])
killer, end = os.getpid(), time.time() + 120


def hog():
    while time.time() < end and os.getppid() == killer:
        pass


def upload(begun):
    class Slowly:
        reads = 0

        def read(self, size):
            self.reads += 1
            if self.reads == 5:
                os.write(begun, b'.')
            time.sleep(.002)
            return b'x' * size

    ftp = ftplib.FTP()
    ftp.connect('127.0.0.1', port)
    ftp.login('user0', 'user0-password')
    ftp.storbinary('STOR old', Slowly(), 65536)


def forked(deed, *what):
    child = os.fork()
    if child == 0:
        try:
            deed(*what)
        finally:
            os._exit(1)
    return child


def kill(child):
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


hogs = [forked(hog) for _ in range(8)]
killed = 0
for _ in range(kills):
    hears, begun = os.pipe()
    child = forked(upload, begun)
    os.close(begun)
    os.read(hears, 1)
    time.sleep(.02)
    killed += kill(child)
    os.close(hears)
for child in hogs:
    kill(child)
print(killed, 'killed')
";

/// > A store that fails at the end of an upload means a 4xx or 5xx, and the older object stays.
#[test]
fn a_store_that_fails_at_the_end_means_no_226() {
    let _watchdog = Watchdog::bark_after(240);
    let emulator = Emulator::start();
    let setup = Setup::new(&emulator).account("user0", "").optional("store_timeout = 5");
    let mut gateway = setup.serve();
    let mut client = Client::log_in(&mut gateway, "user0");
    assert_eq!(client.store("STOR old", b"old content").0, 226);
    let old = emulator.objects(BUCKET);
    for (bytes, operation) in [(1000, "PutObject"), (12_000_000, "CompleteMultipartUpload")] {
        emulator.fault(&json!({
            "operation": operation, "kind": "status", "status": 500, "code": "InternalError", "skip": 0,
            "times": null,
        }));
        let (code, text) = client.store("STOR old", &content(bytes));
        assert!(matches!(code / 100, 4 | 5), "{text}");
        emulator.no_faults();
        assert!(eventually(30, || emulator.uploads().is_empty()), "{:?}", emulator.uploads());
        assert_eq!(emulator.objects(BUCKET), old);
        client.ask("NOOP", 200);
    }
    assert_eq!(client.store("STOR old", b"new content").0, 226);
}

/// > A mount that dies in an upload means no 226; sessions that are logged in go on once it is back.
#[test]
fn a_mount_killed_in_an_upload_means_no_226_and_the_session_goes_on() {
    let _watchdog = Watchdog::bark_after(180);
    let (emulator, mut gateway) = one_user();
    let mut client = Client::log_in(&mut gateway, "user0");
    let mut idle = Client::log_in(&mut gateway, "user0");
    assert_eq!(client.store("STOR old", b"old content").0, 226);
    let mut data = client.passive();
    client.ask("STOR old", 150);
    data.write_all(&content(9_000_000)).unwrap();
    pause(Duration::from_millis(200));
    let mount = gateway.mount_pid();
    kill_process(Pid::from_raw(mount.cast_signed()).unwrap(), Signal::KILL).unwrap();
    // The server closes it once the mount is gone.
    data.write_all(&content(1_000_000)).ok();
    drop(data);
    let (code, text) = client.hear();
    assert_eq!(code / 100, 4, "{text}");
    let begun = Instant::now();
    loop {
        idle.say("SIZE old");
        match idle.hear().0 {
            213 => break,
            450 => pause(Duration::from_millis(50)),
            code => panic!("450 or 213 while the mount comes back, not {code}"),
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "the mount is back within 5 s");
    }
    assert_eq!(client.fetch("RETR old"), b"old content");
    assert_eq!(client.store("STOR new", b"x").0, 226);
    assert_eq!(idle.names(), ["new", "old"]);
    assert_eq!(emulator.keys(), ["new", "old"]);
}

/// > A front that dies in an upload publishes nothing.
#[test]
fn a_front_killed_in_an_upload_publishes_nothing() {
    let _watchdog = Watchdog::bark_after(180);
    let (emulator, mut gateway) = one_user();
    let mut client = Client::log_in(&mut gateway, "user0");
    let mut data = client.passive();
    client.ask("STOR new", 150);
    data.write_all(&content(9_000_000)).unwrap();
    pause(Duration::from_millis(200));
    gateway.kill();
    drop(data);
    pause(Duration::from_millis(500));
    assert_eq!(emulator.keys(), [] as [&str; 0]);
    gateway.restart();
    assert!(eventually(20, || emulator.uploads().is_empty()), "{:?}", emulator.uploads());
    assert_eq!(Client::log_in(&mut gateway, "user0").names(), [] as [&str; 0]);
}

/// > What an account may not do is refused with 550, and the bucket is unchanged.
#[test]
fn authority_and_delete_enable_are_felt() {
    let _watchdog = Watchdog::bark_after(180);
    let emulator = Emulator::start();
    let setup = Setup::new(&emulator).first_generation("writer:writer-password:RW;reader:reader-password:R");
    let mut gateway = setup.serve();
    let mut writer = Client::log_in(&mut gateway, "writer");
    let mut reader = Client::log_in(&mut gateway, "reader");
    assert_eq!(writer.store("STOR f", b"content").0, 226);
    assert_eq!(reader.fetch("RETR f"), b"content");
    for line in ["STOR f", "STOR g"] {
        let (code, text) = reader.store(line, b"no");
        assert_eq!(code, 550, "{line}: {text}");
    }
    reader.ask("DELE f", 550);
    reader.ask("MKD d", 550);
    reader.ask("RNFR f", 350);
    reader.ask("RNTO h", 550);
    assert!(only(&emulator, &["f"]));
    drop(gateway);

    let setup = Setup::new(&emulator).account("keeper", "delete_enable = false");
    let mut gateway = setup.serve();
    let mut keeper = Client::log_in(&mut gateway, "keeper");
    assert_eq!(keeper.store("STOR g", b"second").0, 226);
    assert!(keeper.ask("DELE f", 550).contains("delete_enable"));
    keeper.ask("MKD d", 257);
    keeper.ask("RMD d", 550);
    keeper.ask("RNFR g", 350);
    keeper.ask("RNTO f", 550);
    keeper.ask("RNFR g", 350);
    keeper.ask("RNTO free", 250);
    assert_eq!(keeper.store("STOR f", b"overwritten").0, 226);
    assert_eq!(keeper.fetch("RETR f"), b"overwritten");
    assert!(only(&emulator, &["d/", "f", "free"]));
}

/// > Names in GBK become the same UTF-8 names, and go back as GBK to a client that sent some.
#[test]
fn gbk_names_become_the_same_utf8_names() {
    let _watchdog = Watchdog::bark_after(120);
    let (emulator, mut gateway) = one_user();
    let gbk = |text: &str| encoding_rs::GBK.encode(text).0.into_owned();
    let mut old = Client::log_in(&mut gateway, "user0");
    old.ask(gbk("MKD 扫描件"), 257);
    assert_eq!(old.store(gbk("STOR 扫描件/合同 一.pdf"), b"pdf").0, 226);
    assert_eq!(emulator.keys(), ["扫描件/", "扫描件/合同 一.pdf"]);
    old.ask(gbk("CWD 扫描件"), 250);
    assert_eq!(old.fetch("NLST"), gbk("合同 一.pdf\r\n"));
    let mut new = Client::log_in(&mut gateway, "user0");
    assert_eq!(new.fetch("RETR 扫描件/合同 一.pdf"), b"pdf");
}

#[test]
fn usual_clients_work() {
    let _watchdog = Watchdog::bark_after(180);
    require("curl");
    require("lftp");
    require("python3");
    let (emulator, mut gateway) = one_user();
    let port = gateway.ftp_port();
    let tree = TempTree::new();
    let dir = tree.path();
    fs::create_dir_all(dir.join("up")).unwrap();
    fs::create_dir_all(dir.join("down")).unwrap();
    for name in ["one.txt", "two words.txt", "三.txt"] {
        fs::write(dir.join("up").join(name), content(2_000_000)).unwrap();
    }
    let (dir, url) = (dir.display(), format!("ftp://user0:user0-password@127.0.0.1:{port}"));
    let lftp = format!("lftp -c 'set net:max-retries 1; open {url}; lcd {dir}");
    for line in [
        format!("{lftp}/up; mkdir -p a/b; cd a/b; mput *.txt'"),
        format!("{lftp}/down; cd a/b; mget *.txt' && diff -r {dir}/up {dir}/down"),
        format!("{lftp}; mirror -R up mirrored && mirror mirrored back' && diff -r {dir}/up {dir}/back"),
        format!(
            "curl -sS -T {dir}/up/one.txt {url}/curl.txt && curl -sS {url}/curl.txt | cmp - {dir}/up/one.txt"
        ),
        format!("curl -sS -r 1000- {url}/curl.txt | cmp - <(tail -c +1001 {dir}/up/one.txt)"),
        format!(
            "curl -sS --ftp-create-dirs -T {dir}/up/one.txt {url}/x/y/z.txt && curl -sS -l {url}/x/y/ | grep -q z.txt"
        ),
        format!(
            "curl -sS {url}/ -Q '-RNFR curl.txt' -Q '-RNTO renamed.txt' -o /dev/null && curl -sS -I {url}/renamed.txt | grep -q 2000000"
        ),
        format!(
            "python3 -c \"
import ftplib, io
f = ftplib.FTP(); f.connect('127.0.0.1', {port}); f.login('user0', 'user0-password')
f.encoding = 'utf-8'
assert f.mkd('py') == '/py' and f.pwd() == '/'
f.storbinary('STOR py/ü.bin', io.BytesIO(b'abc' * 1000))
assert f.size('py/ü.bin') == 3000
got = io.BytesIO(); f.retrbinary('RETR py/ü.bin', got.write, rest=2997); assert got.getvalue() == b'abc'
assert f.nlst('py') == ['py/ü.bin'], f.nlst('py')
assert [n for n, _ in f.mlsd('py')] == ['ü.bin']
f.rename('py/ü.bin', 'py/v'); f.delete('py/v'); f.rmd('py'); f.quit()
\""
        ),
    ] {
        let (ok, said) = shell(&line);
        assert!(ok, "{line}\n{said}");
    }
    assert!(emulator.keys().contains(&"a/b/two words.txt".to_owned()), "{:?}", emulator.keys());
    assert_eq!(emulator.uploads(), []);
}

#[test]
fn a_hundred_sessions_store_at_once() {
    let _watchdog = Watchdog::bark_after(300);
    let (emulator, mut gateway) = one_user();
    let sessions: Vec<Client> = (0..100).map(|_| Client::log_in(&mut gateway, "user0")).collect();
    std::thread::scope(|scope| {
        for (number, mut client) in sessions.into_iter().enumerate() {
            scope.spawn(move || {
                let content = content(4_000_000 + u32::try_from(number).unwrap());
                let (code, text) = client.store(format!("STOR f{number}"), &content);
                assert_eq!(code, 226, "{text}");
                assert!(client.fetch(format!("RETR f{number}")) == content);
            });
        }
    });
    assert_eq!(emulator.keys().len(), 100);
    assert_eq!(emulator.uploads(), []);
}

/// > More uploads at once than memory holds all finish.
#[test]
fn more_writers_than_memory_all_finish() {
    let _watchdog = Watchdog::bark_after(300);
    let emulator = Emulator::start();
    let setup = Setup::new(&emulator).account("user0", "resume_window = 0").optional("memory_limit = 16M");
    let mut gateway = setup.serve();
    emulator.pace(20, 0);
    let sessions: Vec<Client> = (0..60).map(|_| Client::log_in(&mut gateway, "user0")).collect();
    std::thread::scope(|scope| {
        for (number, mut client) in sessions.into_iter().enumerate() {
            scope.spawn(move || {
                let (code, text) = client.store(format!("STOR f{number}"), &content(5_000_000));
                assert_eq!(code, 226, "{text}");
            });
        }
    });
    let objects = emulator.objects(BUCKET);
    assert_eq!(objects.iter().filter(|object| object.bytes == 5_000_000).count(), 60);
    assert_eq!(emulator.uploads(), []);
}

/// > A long publication of one upload holds up no LIST and no other upload in its directory.
#[test]
fn a_slow_publish_holds_up_nobody_else_in_its_directory() {
    let _watchdog = Watchdog::bark_after(120);
    let (emulator, mut gateway) = one_user();
    let address: SocketAddr = ([127, 0, 0, 1], gateway.ftp_port()).into();
    let mut slow = Client::log_in(&mut gateway, "user0");
    let mut other = Client::log_in(&mut gateway, "user0");
    emulator.fault(&json!({
        "operation": "CompleteMultipartUpload", "kind": "delay", "milliseconds": 4000, "times": null,
    }));
    let mut data = slow.passive();
    slow.ask("STOR slow", 150);
    data.write_all(&content(12_000_000)).unwrap();
    drop(data);
    pause(Duration::from_millis(500));
    let begun = Instant::now();
    assert_eq!(other.store("STOR quick", b"x").0, 226, "{address}");
    assert!(other.names().contains(&"quick".to_owned()));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(slow.hear().0, 226);
    assert_eq!(emulator.keys(), ["quick", "slow"]);
}

/// A checksum that has to be read may take minutes: the client is heard meanwhile.
#[test]
fn abor_ends_a_checksum_and_the_session_goes_on() {
    let _watchdog = Watchdog::bark_after(180);
    let (emulator, mut gateway) = one_user();
    let mut client = Client::log_in(&mut gateway, "user0");
    let large = content(40_000_000);
    assert_eq!(client.store("STOR large", &large).0, 226);
    assert_eq!(client.store("STOR small", b"123456789").0, 226);
    emulator.pace(0, 1_000_000);
    // More of them than may be computed at once: none may keep its place.
    for turn in 0..4 {
        for line in ["HASH large", "XMD5 large", "XSHA512 \"large\" 1000 39000000"] {
            client.say(line);
            pause(Duration::from_millis(100));
            client.ask("STAT", 211);
            let begun = Instant::now();
            client.say("ABOR");
            assert_eq!((client.hear().0, client.hear().0), (426, 226));
            assert!(begun.elapsed() < Duration::from_secs(3), "turn {turn}: {line}: {:?}", begun.elapsed());
            client.ask("NOOP", 200);
        }
    }
    assert!(client.ask("XCRC small", 250).contains("CBF43926"));
    assert_eq!(client.store("STOR after", b"abc").0, 226);
    // What was said in one go is one after the other.
    client.say("HASH large\r\nABOR\r\nNOOP");
    for code in [426, 226, 200] {
        assert_eq!(client.hear().0, code);
    }
    emulator.pace(0, 0);
    let digits: String = Md5::digest(&large).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(client.ask("XMD5 large", 250).trim_end(), format!("250 {digits}"));
}

/// > While its mount is away a session answers 450 to every file command, and nothing lands on the local disk.
#[test]
fn nothing_can_be_stored_while_the_mount_is_away() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    // The front alone: nobody has mounted anything.
    let mut gateway = Setup::new(&emulator).account("user0", "").start("ftp", &[]);
    let mut client = Client::log_in(&mut gateway, "user0");
    for line in ["SIZE f", "MKD d", "DELE f", "CWD d", "STAT f"] {
        client.ask(line, 450);
    }
    let _data = client.passive();
    client.ask("STOR f", 450);
    let _data = client.passive();
    client.ask("LIST", 450);
    client.ask("PWD", 257);
    assert_eq!(fs::read_dir(gateway.home("user0")).unwrap().count(), 0);
    // Somebody mounts, and the session goes on.
    let mount = gateway.command("mount").stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let mut mount = MountChild(mount.unwrap());
    assert!(
        eventually(20, || {
            client.say("MKD d");
            client.hear().0 == 257
        }),
        "the home is there once it is mounted"
    );
    assert_eq!(client.store("STOR d/f", b"x").0, 226);
    assert_eq!(emulator.keys(), ["d/", "d/f"]);
    mount.stop();
}

/// `cosgate mount`, ended like the gateway's own.
struct MountChild(std::process::Child);

impl MountChild {
    fn stop(&mut self) {
        let pid = Pid::from_raw(self.0.id().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).ok();
        self.0.wait().ok();
    }
}

impl Drop for MountChild {
    fn drop(&mut self) {
        self.stop();
    }
}

#[test]
fn a_listing_that_was_cut_is_told_and_logged() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user0", "").optional("max_list_file = 1500").serve();
    let wanted = json!({ "bucket": BUCKET, "prefix": "", "count": 1501 });
    emulator.admin("POST", "/fill", &wanted.to_string());
    let mut client = Client::log_in(&mut gateway, "user0");
    let lines = String::from_utf8(client.fetch("LIST")).expect("names in ASCII");
    assert_eq!(lines.lines().count(), 1500);
    let lines = String::from_utf8(client.fetch("MLSD")).expect("names in ASCII");
    assert_eq!(lines.lines().count(), 1501, "MLSD is never cut");
    let logged = || {
        let files = std::fs::read_dir(gateway.tree().join("log")).expect("the log is there");
        files.flatten().any(|file| {
            std::fs::read_to_string(file.path())
                .is_ok_and(|text| text.contains("max_list_file allows no more"))
        })
    };
    assert!(eventually(10, logged), "the log says so");
}
