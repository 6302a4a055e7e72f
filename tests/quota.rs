//! What a quota promises: over `Vfs` and a bucket in memory, and by a shell and FTP clients on a mount.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;
#[path = "common/tree.rs"]
mod tree;

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpStream,
    path::Path,
    sync::Arc,
    thread,
    time::Duration,
};

use common::{BUCKET, Emulator, Gateway, Setup, Watchdog, eventually, pause, require, shell};
use cosgate::{
    config::QuotaConfig,
    cos::{Fault, MemoryStore, Operation, Reason, Rule},
    vfs::{VfsError, VfsResult},
};
use rustix::process::{Pid, Signal, kill_process};
use tree::{
    NEW, Plan, Tree, closer, create, list, mkdir, open, read_file, rename, rmdir, unlink, write, write_file,
};

fn limited(bytes: Option<u64>, files: Option<u64>) -> Plan {
    Plan { quota: QuotaConfig { bytes, files }, ..Plan::default() }
}

fn free(tree: &Tree) -> (u64, u64) {
    let space = tree.vfs().statfs();
    (space.bytes_free, space.files_free)
}

fn is_full<T>(done: VfsResult<T>, expected: &str) -> bool {
    matches!(done, Err(VfsError::QuotaReached { setting, .. }) if setting == expected)
}

/// > With a quota a write that finds no room fails with EDQUOT and its file is never published; the older object stays.
#[tokio::test]
async fn a_file_that_does_not_fit_is_not_stored() {
    let tree = Tree::new(&limited(Some(5 << 20), None));
    write_file(tree.vfs(), "a", &[7; 3 << 20]).await.unwrap();
    for name in ["b", "a"] {
        let (_, handle) = create(tree.vfs(), name, NEW).await.unwrap();
        let mut refused = false;
        for number in 0..6_u64 {
            let written = write(tree.vfs(), handle, number << 20, &[1; 1 << 20]).await;
            refused |= is_full(written, "quota");
        }
        assert!(refused, "{name}");
        assert!(is_full(tree.vfs().flush(handle, closer()).await, "quota"));
        tree.vfs().release(handle).await.unwrap();
    }
    assert_eq!(tree.memory.keys(), ["a"]);
    assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), [7; 3 << 20]);
    assert_eq!(tree.writers.drain(Duration::from_secs(5)).await, 0);
    assert!(tree.memory.open_upload_keys().is_empty());
    write_file(tree.vfs(), "b", &[2; 2 << 20]).await.unwrap();
    assert_eq!(free(&tree).0, 0);
}

/// > An overwrite needs room for what it has more than the older object; what is removed or replaced by less is free at once.
#[tokio::test]
async fn overwriting_costs_the_difference() {
    let tree = Tree::new(&limited(Some(100), None));
    write_file(tree.vfs(), "a", &[1; 60]).await.unwrap();
    write_file(tree.vfs(), "a", &[2; 95]).await.unwrap();
    assert_eq!(free(&tree).0, 5);
    assert!(is_full(write_file(tree.vfs(), "b", &[3; 6]).await, "quota"));
    write_file(tree.vfs(), "a", &[4; 10]).await.unwrap();
    assert_eq!(free(&tree).0, 90);
    write_file(tree.vfs(), "b", &[5; 90]).await.unwrap();
    unlink(tree.vfs(), "b").await.unwrap();
    write_file(tree.vfs(), "c", &[6; 90]).await.unwrap();
    assert_eq!(free(&tree).0, 0);
    // Begun anew and released without a write: an empty object.
    let (_, handle) = open(tree.vfs(), "c", NEW).await.unwrap();
    tree.vfs().release(handle).await.unwrap();
    assert_eq!((free(&tree).0, tree.memory.content("c").unwrap().len()), (90, 0));
}

/// > Writers side by side never pass the quota together; what a writer had taken and did not publish is free again.
#[tokio::test]
async fn writers_share_what_is_left() {
    let tree = Tree::new(&limited(Some(10 << 20), None));
    let mut writers = Vec::new();
    for number in 0..8 {
        writers.push(create(tree.vfs(), &format!("f{number}"), NEW).await.unwrap().1);
    }
    let (mut taken, mut refused) = (0, 0);
    for round in 0..3_u64 {
        for handle in &writers {
            match write(tree.vfs(), *handle, round << 20, &[1; 1 << 20]).await {
                Ok(()) => taken += 1,
                Err(_) => refused += 1,
            }
        }
    }
    // Who is refused gives back all it had, so that others go on.
    assert!(refused > 0 && taken >= 10, "{taken} {refused}");
    for handle in writers {
        tree.vfs().flush(handle, closer()).await.ok();
        tree.vfs().release(handle).await.unwrap();
    }
    let stored: usize = tree.memory.keys().iter().map(|key| tree.memory.content(key).unwrap().len()).sum();
    assert!(stored > 0 && stored <= 10 << 20, "{stored}");
    assert_eq!(free(&tree).0, (10 << 20) - stored as u64);
    // Two writers of one name: the last wins, and is what counts.
    for key in tree.memory.keys() {
        unlink(tree.vfs(), &key).await.unwrap();
    }
    let (_, first) = create(tree.vfs(), "same", NEW).await.unwrap();
    let (_, second) = create(tree.vfs(), "same", NEW).await.unwrap();
    write(tree.vfs(), first, 0, &[1; 3000]).await.unwrap();
    write(tree.vfs(), second, 0, &[2; 2000]).await.unwrap();
    for handle in [first, second] {
        tree.vfs().flush(handle, closer()).await.unwrap();
        tree.vfs().release(handle).await.unwrap();
    }
    assert_eq!(free(&tree).0, (10 << 20) - 2000);
}

/// What a list that lags says of the sizes in a directory is not what is counted when that is renamed.
#[tokio::test]
async fn a_renamed_directory_is_counted_as_it_was() {
    let tree = Tree::new(&limited(Some(100), None));
    mkdir(tree.vfs(), "d").await.unwrap();
    write_file(tree.vfs(), "d/a", &[7; 10]).await.unwrap();
    tree.memory.lists_lag();
    write_file(tree.vfs(), "d/a", &[7; 30]).await.unwrap();
    rename(tree.vfs(), "d", "e", false).await.unwrap();
    assert_eq!(free(&tree).0, 70);
}

/// > A new file and a new directory need one of `quota_files` each; a rename is never refused for a quota.
#[tokio::test]
async fn names_are_counted() {
    let tree = Tree::new(&limited(None, Some(3)));
    mkdir(tree.vfs(), "d").await.unwrap();
    write_file(tree.vfs(), "d/a", b"1").await.unwrap();
    write_file(tree.vfs(), "b", b"").await.unwrap();
    assert!(is_full(write_file(tree.vfs(), "c", b"").await, "quota_files"));
    assert!(is_full(mkdir(tree.vfs(), "e").await, "quota_files"));
    write_file(tree.vfs(), "b", b"overwriting needs none").await.unwrap();
    rename(tree.vfs(), "d", "e", false).await.unwrap();
    rename(tree.vfs(), "b", "c", false).await.unwrap();
    assert_eq!(free(&tree).1, 0);
    rename(tree.vfs(), "c", "e/a", false).await.unwrap();
    assert_eq!(free(&tree).1, 1);
    unlink(tree.vfs(), "e/a").await.unwrap();
    rmdir(tree.vfs(), "e").await.unwrap();
    assert_eq!((free(&tree).1, tree.memory.keys().len()), (3, 0));
}

/// > Nothing is stored before the bucket has been counted once; reading, listing and removing do not wait for that.
#[tokio::test(start_paused = true)]
async fn writers_wait_for_the_first_count() {
    let memory = Arc::new(MemoryStore::new());
    memory.insert("a", vec![1; 80]);
    let tree = Tree::over(memory, &limited(Some(100), None));
    tree.store.inject(Rule::on(Operation::ListObjects), Fault::Fail(Reason::Unavailable));
    let gate = tree.store.block(Rule::on(Operation::ListObjects));
    // The first count fails, the second waits at the gate.
    gate.reached_by(1).await;
    assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), [1; 80]);
    assert_eq!(list(tree.vfs(), "").await.unwrap().len(), 1);
    assert_eq!(free(&tree).0, 100);
    let refused = write_file(tree.vfs(), "b", &[2; 10]).await;
    assert!(matches!(refused, Err(VfsError::QuotaUnknown)), "{refused:?}");
    assert!(matches!(mkdir(tree.vfs(), "d").await, Err(VfsError::QuotaUnknown)));
    gate.release();
    assert!(is_full(write_file(tree.vfs(), "b", &[2; 30]).await, "quota"));
    write_file(tree.vfs(), "b", &[2; 20]).await.unwrap();
    assert_eq!(free(&tree).0, 0);
}

/// > What others write into the bucket counts from the next count on, and the program's own keys do not count.
#[tokio::test(start_paused = true)]
async fn what_others_write_is_counted_later() {
    let tree = Tree::new(&Plan { prefix: "p/", ..limited(Some(100), Some(10)) });
    write_file(tree.vfs(), "a", &[1; 10]).await.unwrap();
    assert_eq!(free(&tree), (90, 9));
    for (key, bytes) in [("p/.cosgate/x", 7), ("outside", 50), ("p/b", 30), ("p//odd", 1)] {
        tree.memory.insert(key, vec![0; bytes]);
    }
    assert_eq!(free(&tree), (90, 9));
    tokio::time::sleep(Duration::from_secs(11 * 60)).await;
    assert_eq!(free(&tree), (59, 7));
    // A PUT whose answer was lost: it is there, and counted soon.
    tree.store.inject(Rule::on(Operation::PutObject), Fault::LoseAnswer(Reason::Unavailable));
    tree.store.inject(Rule::on(Operation::HeadObject).always(), Fault::Fail(Reason::Unavailable));
    assert!(write_file(tree.vfs(), "c", &[1; 9]).await.is_err());
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(free(&tree), (50, 6));
}

/// > The file system shows the quota as its size, and what is left of it as free.
#[test]
fn df_shows_the_quota_and_the_shell_feels_it() {
    let _watchdog = Watchdog::bark_after(90);
    let (emulator, mut gateway) = served("quota = 10M\nquota_files = 5");
    let home = gateway.home("user0");
    let path = home.display();
    let (ok, said) = shell(&format!("cd {path} && head -c 4M /dev/zero > a && mkdir d"));
    assert!(ok, "{said}");
    assert_eq!(space(&home), (10 << 20, 6 << 20, 5, 3));
    let (ok, said) = shell(&format!("head -c 7M /dev/zero > {path}/../big; cp {path}/../big {path}/b"));
    assert!(!ok && said.contains("Disk quota exceeded"), "{said}");
    assert_eq!(space(&home), (10 << 20, 6 << 20, 5, 3));
    assert_eq!(emulator.keys(), ["a", "d/"]);
    let (ok, said) = shell(&format!("cd {path} && rm a && cp ../big b && rm ../big"));
    assert!(ok, "{said}");
    // The mount process dies in the middle of an upload; the next one counts anew.
    let port = gateway.ftp_port();
    let upload = thread::spawn(move || put(port, "c", 2 << 20, 256 << 10));
    assert!(eventually(20, || space(&home).1 < 3 << 20));
    let mount = Pid::from_raw(i32::try_from(gateway.mount_pid()).unwrap()).unwrap();
    kill_process(mount, Signal::KILL).unwrap();
    assert!(!upload.join().unwrap());
    let home = gateway.home("user0");
    let is_right = || rustix::fs::statvfs(&home).is_ok() && space(&home) == (10 << 20, 3 << 20, 5, 3);
    assert!(eventually(20, is_right), "{:?}", space(&home));
    assert_eq!(emulator.keys(), ["b", "d/"]);
}

/// > `STOR` beyond the quota ends in 552, leaves no object, and the older object as it was.
#[test]
fn parallel_uploads_do_not_pass_the_quota() {
    let _watchdog = Watchdog::bark_after(120);
    let (emulator, mut gateway) = served("quota = 8M");
    let (port, home) = (gateway.ftp_port(), gateway.home("user0"));
    fs::write(home.join("old"), [7; 1 << 20]).unwrap();
    let mut writers: Vec<_> = (0..3)
        .map(|number| thread::spawn(move || put(port, &format!("f{number}"), 4 << 20, 64 << 10)))
        .collect();
    let path = home.join("shell").display().to_string();
    writers.push(thread::spawn(move || shell(&format!("head -c 4M /dev/zero > {path}")).0));
    let stored = writers.into_iter().map(|writer| writer.join().unwrap());
    let stored = u64::try_from(stored.filter(|stored| *stored).count()).unwrap();
    let objects = emulator.objects(BUCKET);
    let bytes: u64 = objects.iter().map(|object| object.bytes).sum();
    assert_eq!(bytes, (1 << 20) + stored * (4 << 20), "{objects:?}");
    assert!(stored <= 1, "{stored} of 4 MiB each passed the quota of 8 MiB beside 1 MiB");
    assert_eq!(space(&home).1, (8 << 20) - bytes);
    // Overwriting with too much leaves what was there.
    assert!(!put(port, "old", 9 << 20, 1 << 20));
    assert_eq!(fs::read(home.join("old")).unwrap(), [7; 1 << 20]);
    assert!(emulator.uploads().is_empty() || eventually(10, || emulator.uploads().is_empty()));
}

/// > An upload that is refused half-way (quota, store) is listened to for a moment, so that the client reads why.
#[test]
fn clients_read_why_an_upload_was_refused() {
    let _watchdog = Watchdog::bark_after(120);
    ["curl", "lftp", "python3"].into_iter().for_each(require);
    let (emulator, mut gateway) = served("quota = 2M");
    assert!(put(gateway.ftp_port(), "old", 1 << 20, 1 << 20));
    let file = gateway.home("user0").join("../big").display().to_string();
    assert!(shell(&format!("head -c 8M /dev/zero > {file}")).0);
    let url = format!("ftp://user0:user0-password@127.0.0.1:{}", gateway.ftp_port());
    for turn in 0..5 {
        // 70: no room on the server (curl's CURLE_REMOTE_DISK_FULL).
        let (ok, said) = shell(&format!("curl -sSv -T {file} {url}/old; test $? = 70"));
        assert!(ok && said.contains("< 552 /old: "), "turn {turn}: {said}");
        let (ok, said) = shell(&format!(
            "lftp --norc -c 'set net:max-retries 1; set ftp:ssl-allow no; open {url}; put {file} -o old'"
        ));
        assert!(!ok && said.contains("552 /old: "), "turn {turn}: {said}");
        let (ok, said) = shell(&format!(
            "python3 -c \"import ftplib
ftp = ftplib.FTP()
ftp.connect('127.0.0.1', {})
ftp.login('user0', 'user0-password')
try:
    ftp.storbinary('STOR old', open('{file}', 'rb'))
    raise SystemExit('stored')
except ftplib.error_perm as refusal:
    assert str(refusal).startswith('552 /old: '), refusal
assert ftp.size('old') == 1 << 20
ftp.quit()\"",
            gateway.ftp_port()
        ));
        assert!(ok, "turn {turn}: {said}");
    }
    assert_eq!(emulator.objects(BUCKET)[0].bytes, 1 << 20);
    // What comes after the moment is reset: nobody keeps the server busy with what it has refused.
    let mut client = Client::log_in(gateway.ftp_port(), "user0");
    let passive = client.ask("EPSV");
    let data_port: u16 = passive.split("|||").nth(1).unwrap().split('|').next().unwrap().parse().unwrap();
    let mut data = TcpStream::connect(("127.0.0.1", data_port)).unwrap();
    assert!(client.ask("STOR new").starts_with("150"));
    data.write_all(&[0; 3 << 20]).unwrap();
    assert!(client.ask("").starts_with("552 "));
    assert!(client.ask("NOOP").starts_with("200 "));
    assert!(eventually(20, || data.write_all(&[0; 1024]).is_err()));
    assert_eq!(emulator.keys(), ["old"]);
}

fn served(lines: &str) -> (Emulator, Gateway) {
    let emulator = Emulator::start();
    let gateway = Setup::new(&emulator).account("user0", lines).serve();
    (emulator, gateway)
}

/// Bytes in all and free, names in all and free.
fn space(home: &Path) -> (u64, u64, u64, u64) {
    rustix::fs::statvfs(home).map_or((0, 0, 0, 0), |space| {
        (space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize, space.f_files, space.f_ffree)
    })
}

/// > `AVBL` and `SITE QUOTA` tell what is left, and `ALLO` of more than the whole quota is refused with 552.
#[test]
fn ftp_clients_hear_what_is_left() {
    let _watchdog = Watchdog::bark_after(60);
    let emulator = Emulator::start();
    let limited = "quota = 10M\nquota_files = 5";
    let mut gateway = Setup::new(&emulator).account("user0", limited).account("user1", "").serve();
    assert!(put(gateway.ftp_port(), "a", 1 << 20, 1 << 20));
    let mut client = Client::log_in(gateway.ftp_port(), "user0");
    assert_eq!(client.ask("AVBL"), "213 9437184\r\n");
    assert_eq!(client.ask("AVBL /"), "213 9437184\r\n");
    assert!(client.ask("AVBL /absent").starts_with("550"));
    let told = client.ask_all("SITE QUOTA");
    assert!(told.contains("Bytes: 1048576 of 10485760 used, 9437184 left"), "{told}");
    assert!(told.contains("Objects: 1 of 5 used, 4 left"), "{told}");
    assert!(client.ask_all("FEAT").contains(" AVBL"));
    assert!(client.ask("ALLO 10485761").starts_with("552"));
    assert!(client.ask("ALLO 10485760").starts_with("200"));
    let mut other = Client::log_in(gateway.ftp_port(), "user1");
    let told = other.ask_all("SITE QUOTA");
    assert!(told.contains("Bytes: no limit") && told.contains("Objects: no limit"), "{told}");
    assert!(other.ask("ALLO 10485761").starts_with("200"));
}

/// Says lines and hears replies.
struct Client(BufReader<TcpStream>);

impl Client {
    fn log_in(port: u16, user: &str) -> Self {
        let mut client = Self(BufReader::new(TcpStream::connect(("127.0.0.1", port)).unwrap()));
        client.ask("");
        client.ask(&format!("USER {user}"));
        assert!(client.ask(&format!("PASS {user}-password")).starts_with("230"));
        client
    }

    /// The last line of the reply; to nothing, of the next one.
    fn ask(&mut self, line: &str) -> String {
        self.ask_all(line).split_inclusive('\n').next_back().unwrap().to_owned()
    }

    fn ask_all(&mut self, line: &str) -> String {
        if !line.is_empty() {
            self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        }
        let mut reply = String::new();
        loop {
            let begins = reply.len();
            assert!(self.0.read_line(&mut reply).unwrap() > 0, "hung up after {line}");
            if reply.as_bytes()[begins].is_ascii_digit() && reply.as_bytes().get(begins + 3) == Some(&b' ') {
                return reply;
            }
        }
    }
}

/// Uploads zeros by FTP. True: 226; false: 552, or the mount went away.
fn put(port: u16, name: &str, bytes: usize, piece: usize) -> bool {
    let mut client = Client::log_in(port, "user0");
    let passive = client.ask("EPSV");
    let data_port: u16 = passive.split("|||").nth(1).unwrap().split('|').next().unwrap().parse().unwrap();
    let mut data = TcpStream::connect(("127.0.0.1", data_port)).unwrap();
    let begun = client.ask(&format!("STOR {name}"));
    assert!(begun.starts_with("150"), "{begun}");
    // The server hangs up on what it does not take.
    for sent in (0..bytes).step_by(piece) {
        if data.write_all(&vec![0; piece.min(bytes - sent)]).is_err() {
            break;
        }
        pause(Duration::from_millis(20));
    }
    drop(data);
    let reply = client.ask("");
    assert!(["226", "552", "450", "451"].contains(&&reply[..3]), "{reply}");
    reply.starts_with("226")
}
