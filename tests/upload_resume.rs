//! Uploads that broke: what is left of them, who clears it away, and who may go on with them.

mod common;

use std::{fs::File, io::Write as _};

use common::{BUCKET, Emulator, Setup, Watchdog, eventually};

const PART: usize = 4 << 20;

/// The keys of the program itself.
fn notes(emulator: &Emulator) -> Vec<String> {
    let keys = emulator.all_objects(BUCKET).into_iter().map(|object| object.key);
    keys.filter(|key| key.starts_with(".cosgate/")).collect()
}

/// > What a killed mount process has left open and nobody may go on with is aborted by its next start.
#[test]
fn what_a_killed_mount_has_left_open_is_aborted_by_its_next_start() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user", "").mount();
    let mut file = File::create(gateway.home("user").join("f")).unwrap();
    file.write_all(&vec![7; 2 * PART + 1]).unwrap();
    assert!(eventually(20, || !emulator.uploads().is_empty() && !notes(&emulator).is_empty()));
    assert_eq!(notes(&emulator), [".cosgate/uploads/f"]);
    gateway.kill();
    drop(file);
    assert_eq!(emulator.uploads().len(), 1);
    gateway.restart();
    assert!(eventually(20, || emulator.uploads().is_empty() && notes(&emulator).is_empty()));
    assert!(emulator.keys().is_empty());
}

/// A client that counts what it sends, breaks off by resets, and comes back.
const CLIENT: &str = r#"
import ftplib, hashlib, io, random, socket, struct, sys, time
port, name, seed = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
what = sys.argv[4]
body = random.Random(seed).randbytes(11 * (1 << 20) + 12345)

user = "user", "user-password"

def login():
    ftp = ftplib.FTP()
    ftp.connect("127.0.0.1", port, timeout=60)
    ftp.login(*user)
    ftp.voidcmd("TYPE I")
    return ftp

def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()

def vanish(ftp):
    ftp.file.close()
    reset(ftp.sock)

def reply(deed, *arguments):
    try:
        return deed(*arguments)
    except ftplib.all_errors as error:
        return str(error)

def brings(start, end):
    """Sends some of it and breaks off."""
    ftp = login()
    data = ftp.transfercmd("STOR " + name, rest=start or None)
    data.sendall(body[start:end])
    return ftp, data

def break_off(start, end):
    ftp, data = brings(start, end)
    time.sleep(0.4)
    reset(data)
    vanish(ftp)

def held():
    return login().size(name)

def finish(start):
    ftp = login()
    ftp.storbinary("STOR " + name, io.BytesIO(body[start:]), rest=start or None)
    back = hashlib.sha256()
    ftp.retrbinary("RETR " + name, back.update)
    assert back.digest() == hashlib.sha256(body).digest(), "another file came back"

exec(what)
"#;

fn client(port: u16, name: &str, what: &str) {
    let seed = fastrand::u32(..).to_string();
    let output = common::run("python3", ["-c", CLIENT, &port.to_string(), name, &seed, what]);
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "seed {seed}: {said}");
}

fn assert_at_rest(emulator: &Emulator) {
    assert!(
        eventually(20, || emulator.uploads().is_empty() && notes(emulator).is_empty()),
        "{:?} {:?}",
        emulator.uploads(),
        notes(emulator)
    );
}

/// > A broken upload of a new file is held: REST at the size that SIZE and MLST tell, or APPE, goes on with it.
/// > A name that is held shows no object: RETR and RNFR answer 450, REST elsewhere than at its size 554; DELE aborts it.
#[test]
fn a_client_that_was_cut_off_goes_on_where_it_was() {
    let _watchdog = Watchdog::bark_after(180);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user", "").serve();
    let port = gateway.ftp_port();
    client(
        port,
        "f",
        r#"
break_off(0, 9 << 20)
ftp = login()
at = ftp.size(name)
assert 1 << 20 <= at < 9 << 20, at
assert f"size={at};" in ftp.sendcmd("MLST " + name).lower()
assert reply(ftp.retrbinary, "RETR " + name, print)[:3] == "450"
assert reply(ftp.sendcmd, "RNFR " + name)[:3] == "450"
for wrong in (1, at - 1, at + 1):
    assert reply(ftp.transfercmd, "STOR " + name, wrong)[:3] == "554"
break_off(at, at + (2 << 20))
later = held()
assert at <= later < at + (2 << 20), (at, later)
finish(later)
assert held() == len(body)
"#,
    );
    assert_eq!(emulator.keys(), ["f"]);
    client(
        port,
        "appended",
        r#"
ftp, data = brings(0, 6 << 20)
time.sleep(0.5)
ftp.putline("ABOR")
assert ftp.getmultiline()[:3] == "426"
data.close()
at = held()
assert 0 < at < 6 << 20, at
ftp = login()
ftp.storbinary("APPE " + name, io.BytesIO(body[at:]))
assert ftp.size(name) == len(body)
"#,
    );
    client(
        port,
        "deleted",
        r#"
break_off(0, 6 << 20)
ftp = login()
assert ftp.size(name) > 0
assert ftp.delete(name)[:3] == "250"
assert reply(ftp.size, name)[:3] == "550"
assert reply(ftp.delete, name)[:3] == "550"
"#,
    );
    // A client that stops too early after it went on: ALLO tells the whole.
    client(
        port,
        "too early",
        r#"
break_off(0, 6 << 20)
ftp, at = login(), held()
ftp.voidcmd(f"ALLO {len(body)}")
assert reply(ftp.storbinary, "STOR " + name, io.BytesIO(body[at:at + 196608]), 8192, None, at)[:3] == "426"
later = held()
assert later >= at, (at, later)
finish(later)
assert login().delete(name)[:3] == "250"
"#,
    );
    client(
        port,
        "all but its reply",
        r#"
ftp, data = brings(0, len(body))
time.sleep(0.2)
vanish(ftp)
data.close()
at = held()
assert 0 < at < len(body), at
finish(at)
"#,
    );
    assert_eq!(emulator.keys(), ["all but its reply", "appended", "f"]);
    assert_at_rest(&emulator);
}

/// > REST n and STOR keep its first n bytes and put what is sent behind them; REST beyond its end is 554.
/// > APPE puts what is sent behind a file, as a shell's `>>` does.
/// > Until 226 such a file is as it was, and so it stays if the transfer breaks.
#[test]
fn rest_goes_into_a_file_that_is_there() {
    let _watchdog = Watchdog::bark_after(180);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user", "").serve();
    let port = gateway.ftp_port();
    for (name, size) in [("large", "9 << 20"), ("small", "100_000"), ("tiny", "5")] {
        client(
            port,
            name,
            &format!(
                "size = {size}\n{}",
                r#"
def fetched():
    back = io.BytesIO()
    login().retrbinary("RETR " + name, back.write)
    return back.getvalue()

old, new = body[:size], body[-size:]
login().storbinary("STOR " + name, io.BytesIO(old))
ftp = login()
assert reply(ftp.transfercmd, "STOR " + name, size + 1)[:3] == "554"
assert reply(ftp.transfercmd, "STOR nobody", 1)[:3] == "554"
for at in (size, size - 1, size // 2, 1):
    # Broken: all of it stays.
    ftp, data = brings(at, at + 50_000)
    time.sleep(0.1)
    reset(data)
    vanish(ftp)
    time.sleep(0.2)
    assert fetched() == old, (at, "broken")
    for sent in (new, new[:2], b""):
        login().storbinary("STOR " + name, io.BytesIO(old))
        ftp = login()
        ftp.storbinary("STOR " + name, io.BytesIO(sent), rest=at)
        assert fetched() == old[:at] + sent, (at, len(sent))
        assert login().size(name) == at + len(sent)
    login().storbinary("STOR " + name, io.BytesIO(old))
    ftp = login()
    ftp.voidcmd(f"ALLO {at + len(new)}")
    ftp.storbinary("STOR " + name, io.BytesIO(new), rest=at)
    assert fetched() == old[:at] + new, (at, "with ALLO")
    login().storbinary("STOR " + name, io.BytesIO(old))
login().storbinary("APPE " + name, io.BytesIO(new))
assert fetched() == old + new
"#
            ),
        );
    }
    assert_eq!(emulator.keys(), ["large", "small", "tiny"]);
    assert_at_rest(&emulator);
}

/// > Going on (REST, APPE) with a file whose last STOR broke is 554 for an hour, until it is sent whole: what stands there is older.
#[test]
fn nobody_goes_on_with_an_older_file() {
    let _watchdog = Watchdog::bark_after(180);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user", "").serve();
    let refused = "for line, start in [('STOR ', 5), ('STOR ', 3), ('APPE ', None)]:\n\
        \x20   assert reply(login().transfercmd, line + name, start)[:3] == '554', (line, start)\n\
        assert held() == 5\n";
    for (name, sent) in [("small", "100_000"), ("large", "9 << 20")] {
        let port = gateway.ftp_port();
        let broken = format!(
            "login().storbinary('STOR ' + name, io.BytesIO(b'older'))\ntime.sleep(1.1)\nbreak_off(0, {sent})\n{refused}"
        );
        client(port, name, &broken);
        // The front remembers for the mount, the bucket for both.
        common::run("kill", ["-9", &gateway.mount_pid().to_string()]);
        client(port, name, refused);
        gateway.kill();
        gateway.restart();
        let port = gateway.ftp_port();
        client(port, name, refused);
        client(
            port,
            name,
            "finish(0)\nlogin().storbinary('STOR ' + name, io.BytesIO(body[-9:]), rest=len(body))",
        );
        client(port, name, "login().storbinary('APPE ' + name, io.BytesIO(b'more'))");
    }
    assert_at_rest(&emulator);
}

/// Their home is a directory beneath the root of the mount.
#[test]
fn guests_go_on_in_their_directory() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let setup = Setup::new(&emulator).account("user", "");
    let home = setup.home("user").join("pub/in");
    let mut gateway = setup
        .optional("enable_anonymous = true")
        .optional(&format!("anonymous_home = {}", home.display()))
        .optional("anonymous_write = true")
        .serve();
    std::fs::create_dir_all(&home).unwrap();
    client(
        gateway.ftp_port(),
        "f",
        r#"
user = "anonymous", "me@example.com"
break_off(0, 9 << 20)
at = held()
assert 0 < at < 9 << 20, at
finish(at)
break_off(0, 5 << 20)
assert reply(login().transfercmd, "STOR " + name, 5)[:3] == "554"
login().storbinary("STOR " + name, io.BytesIO(b"whole"))
name = "g"
break_off(0, 9 << 20)
assert login().delete(name)[:3] == "250"
"#,
    );
    let files: Vec<_> = emulator.keys().into_iter().filter(|key| !key.ends_with('/')).collect();
    assert_eq!(files, ["pub/in/f"]);
    assert_at_rest(&emulator);
}

#[test]
fn lftp_and_curl_go_on_with_what_is_held() {
    let _watchdog = Watchdog::bark_after(180);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user", "").serve();
    let port = gateway.ftp_port();
    let file = gateway.tree().join("local");
    std::fs::write(&file, (0..9_000_017_u32).map(|n| (n ^ (n >> 7)).to_le_bytes()[0]).collect::<Vec<_>>())
        .unwrap();
    let local = file.display();
    let lines = [
        format!("lftp -u user,user-password -e 'put -c {local} -o f; bye' ftp://127.0.0.1:{port}"),
        format!("curl -sS -u user:user-password -C - -T {local} ftp://127.0.0.1:{port}/f"),
    ];
    for line in lines {
        let begin = format!(
            "body = open({:?}, 'rb').read()\nbreak_off(0, 7 << 20)\nassert held() >= 4 << 20",
            file.display().to_string()
        );
        client(port, "f", &begin);
        emulator.forget_requests();
        let (done, said) = common::shell(&line);
        assert!(done, "{line}: {said}");
        assert!(emulator.requests("InitiateMultipartUpload") == 0, "{line}: it began anew");
        let back = std::fs::read(gateway.home("user").join("f")).unwrap();
        assert!(back == std::fs::read(&file).unwrap(), "{line}");
        std::fs::remove_file(gateway.home("user").join("f")).unwrap();
        assert_at_rest(&emulator);
    }
}

/// > After SIGKILL of the mount process an upload goes on behind the parts that COS has.
#[test]
fn an_upload_goes_on_after_a_kill_of_the_mount_process() {
    let _watchdog = Watchdog::bark_after(180);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user", "").serve();
    let port = gateway.ftp_port();
    let kill = format!(
        r#"
import os, signal
ftp, data = brings(0, 10 << 20)
time.sleep(0.5)
os.kill({}, signal.SIGKILL)
reset(data)
# While the mount comes back SIZE waits: a client that read 450 would begin anew.
at = held()
assert 0 < at < 10 << 20, at
finish(at)
"#,
        gateway.mount_pid()
    );
    client(port, "f", &kill);
    assert_eq!(emulator.keys(), ["f"]);
    assert_at_rest(&emulator);
}
