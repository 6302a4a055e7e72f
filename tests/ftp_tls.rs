//! FTPS on the real thing: the clients that people have, over `cosgate serve` in a child process.
//!
//! What the wire alone can prove stands in `src/ftp/tls_tests.rs`.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use common::{Emulator, Gateway, Setup, TempTree, Watchdog, eventually, pause, require, shell};
use rcgen::{CertificateParams, KeyPair};
use rustix::process::{Pid, Signal, kill_process};

/// Python's own client, and one that resumes the session of its control connection as newer clients do.
const PYTHON: &str = r#"
import ftplib, io, ssl, sys

class Resuming(ftplib.FTP_TLS):
    def ntransfercmd(self, command, rest=None):
        data, size = ftplib.FTP.ntransfercmd(self, command, rest)
        if self._prot_p:
            data = self.context.wrap_socket(data, server_hostname=self.host, session=self.sock.session)
        return data, size

def session(kind, version=ssl.TLSVersion.TLSv1_3):
    context = ssl.create_default_context(cafile=CERTIFICATE)
    context.minimum_version = context.maximum_version = version
    ftp = kind(context=context, timeout=60)
    ftp.connect("localhost", PORT)
    ftp.login("user0", "user0-password")
    ftp.prot_p()
    return ftp
"#;

/// Makes a certificate for localhost, or replaces it.
fn make_certificate(directory: &Path) -> PathBuf {
    let names = ["localhost", "127.0.0.1"].map(str::to_owned).to_vec();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(names).unwrap().self_signed(&key).unwrap();
    fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
    fs::write(directory.join("cert.pem"), certificate.pem()).unwrap();
    directory.join("cert.pem")
}

/// A gateway with TLS, and the certificate that its clients have to trust.
struct Secured {
    emulator: Emulator,
    gateway: Gateway,
    tree: TempTree,
    certificate: PathBuf,
}

impl Secured {
    fn start(lines: &[&str]) -> Self {
        Self::start_for("", lines)
    }

    /// `account` are further keys of the account.
    fn start_for(account: &str, lines: &[&str]) -> Self {
        let (emulator, tree) = (Emulator::start(), TempTree::new());
        let certificate = make_certificate(tree.path());
        let key = tree.path().join("key.pem");
        let setup = Setup::new(&emulator)
            .account("user0", account)
            .network(&format!("tls_cert = {}", certificate.display()))
            .network(&format!("tls_key = {}", key.display()));
        let gateway = lines.iter().fold(setup, |setup, line| setup.network(line)).serve();
        Self { emulator, gateway, tree, certificate }
    }

    /// A file of bytes that differ from place to place.
    fn file(&self, name: &str, bytes: usize) -> PathBuf {
        let path = self.tree.path().join(name);
        let content: Vec<u8> = (0..bytes).map(|index| u8::try_from(index * 7 % 253).unwrap()).collect();
        fs::write(&path, content).unwrap();
        path
    }

    /// Runs a program of Python with [`PYTHON`] before it.
    fn python(&mut self, program: &str) -> (bool, String) {
        shell(&format!("python3 {}", self.script(program).display()))
    }

    fn script(&mut self, program: &str) -> PathBuf {
        require("python3");
        let path = self.tree.path().join("client.py");
        let (certificate, port) = (self.certificate.display(), self.gateway.ftp_port());
        fs::write(&path, format!("CERTIFICATE = '{certificate}'\nPORT = {port}\n{PYTHON}\n{program}\n"))
            .unwrap();
        path
    }
}

/// > With `tls_cert`, TLS protects control and data connections, after AUTH TLS and on `tls_implicit_port`, passive and active.
#[test]
fn curl_and_lftp_store_read_and_list_by_explicit_and_implicit_tls() {
    let _watchdog = Watchdog::bark_after(180);
    ["curl", "lftp"].into_iter().for_each(require);
    // Nobody else is likely to take it in between.
    let implicit = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut front = Secured::start(&[&format!("tls_implicit_port = {implicit}"), "tls_required = all"]);
    let file = front.file("up.bin", 5_000_001);
    let (file, certificate, dir) = (file.display(), front.certificate.display(), front.tree.path().display());
    let login = format!("user0:user0-password@localhost:{}", front.gateway.ftp_port());
    let at_once = format!("user0:user0-password@localhost:{implicit}");
    let lftp = format!(
        "lftp -c 'set net:max-retries 1; set ssl:ca-file {certificate}; set ftp:ssl-force yes; set cmd:fail-exit yes;"
    );
    for line in [
        format!("curl -sS --ssl-reqd --cacert {certificate} -T {file} ftp://{login}/explicit"),
        format!("curl -sS --ssl-reqd --cacert {certificate} ftp://{login}/explicit | cmp - {file}"),
        format!(
            "curl -sS --ssl-reqd --tls-max 1.2 --cacert {certificate} ftp://{login}/explicit | cmp - {file}"
        ),
        format!("curl -sS --ssl-reqd --cacert {certificate} -l ftp://{login}/ | grep -qx explicit"),
        format!("curl -sS --cacert {certificate} -T {file} ftps://{at_once}/implicit"),
        format!("curl -sS --cacert {certificate} ftps://{at_once}/implicit | cmp - {file}"),
        format!(
            "{lftp} open ftp://{login}; put {file} -o lftp; get lftp -o {dir}/back; ls' && cmp {dir}/back {file}"
        ),
        format!("{lftp} set ftp:passive-mode no; open ftp://{login}; put {file} -o lftp-active'"),
        format!("{lftp} open ftps://{at_once}; put {file} -o lftps; cat lftps' | cmp - {file}"),
    ] {
        let (is_done, said) = shell(&line);
        assert!(is_done, "{line}: {said}");
    }
    for line in [
        format!("curl -sS ftp://{login}/explicit"),
        format!("curl -sS --ftp-ssl-control --cacert {certificate} ftp://{login}/explicit"),
    ] {
        let (is_done, said) = shell(&line);
        assert!(!is_done, "in clear: {line}: {said}");
    }
    let keys = ["explicit", "implicit", "lftp", "lftp-active", "lftps"];
    assert_eq!(front.emulator.keys(), keys);
}

/// > Over TLS a whole transfer ends with close_notify, and a download that broke without it.
#[test]
fn pythons_ftplib_is_content_with_and_without_session_reuse() {
    let _watchdog = Watchdog::bark_after(120);
    let mut front = Secured::start(&[]);
    let (is_done, said) = front.python(
        r#"
content = bytes(range(251)) * 20000
for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
    for kind in ftplib.FTP_TLS, Resuming:
        ftp = session(kind, version)
        for turn in range(4):
            ftp.set_pasv(turn % 2 == 0)
            # It waits for the server's close_notify, and raises where there is none.
            assert ftp.storbinary("STOR f", io.BytesIO(content)).startswith("226 ")
            came = io.BytesIO()
            assert ftp.retrbinary("RETR f", came.write).startswith("226 ")
            assert came.getvalue() == content
            assert ftp.nlst() == ["f"]
        ftp.quit()
"#,
    );
    assert!(is_done, "{said}");
}

/// > `tls_session_reuse = required` refuses a data connection that does not resume the TLS session of its own control connection.
#[test]
fn session_reuse_can_be_required() {
    let _watchdog = Watchdog::bark_after(120);
    ["curl", "lftp"].into_iter().for_each(require);
    let mut front = Secured::start(&["tls_session_reuse = required"]);
    let (is_done, said) = front.python(
        r#"
for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
    ftp = session(Resuming, version)
    for turn in range(10):
        assert ftp.storbinary("STOR f", io.BytesIO(b"abc")).startswith("226 ")
    ftp.quit()
    ftp = session(ftplib.FTP_TLS, version)
    try:
        ftp.storbinary("STOR g", io.BytesIO(b"abc"))
        sys.exit("a session of its own was let in")
    except (ConnectionError, ssl.SSLError, ssl.SSLEOFError):
        # The reset of the data connection may be heard first: the reply is behind it.
        try:
            sys.exit("a session of its own was let in: " + ftp.getresp())
        except ftplib.error_perm as refusal:
            assert str(refusal).startswith("522 "), refusal
    except ftplib.error_perm as refusal:
        assert str(refusal).startswith("522 "), refusal
"#,
    );
    assert!(is_done, "{said}");
    assert_eq!(front.emulator.keys(), ["f"]);
    let file = front.file("up.bin", 100_000);
    let (file, certificate) = (file.display(), front.certificate.display());
    let login = format!("user0:user0-password@localhost:{}", front.gateway.ftp_port());
    for line in [
        format!("curl -sS --ssl-reqd --cacert {certificate} -T {file} ftp://{login}/curl"),
        format!("curl -sS --ssl-reqd --cacert {certificate} -T '{{{file},{file}}}' ftp://{login}/"),
        format!(
            "lftp -c 'set net:max-retries 1; set ssl:ca-file {certificate}; set cmd:fail-exit yes; open ftp://{login}; \
             put {file} -o lftp; ls; cat lftp' | tail -c 100000 | cmp - {file}"
        ),
    ] {
        let (is_done, said) = shell(&line);
        assert!(is_done, "{line}: {said}");
    }
}

/// curl uses a ticket once, and takes the next one from the last data connection, if it has seen one: an upload of a few bytes
/// could be over before.
///
/// > `tls_session_reuse = required` refuses a data connection that does not resume the TLS session of its own control connection.
#[test]
fn tickets_are_there_before_an_upload_can_end() {
    let _watchdog = Watchdog::bark_after(120);
    require("curl");
    let mut front = Secured::start(&["tls_session_reuse = required"]);
    let (is_done, said) = front.python(
        r#"
import select, socket, time
ftp = session(Resuming)
for turn in range(3):
    # TLS by hand, to stop it in the middle.
    there = socket.create_connection(("127.0.0.1", ftplib.parse229(ftp.sendcmd("EPSV"), ftp.sock.getpeername())[1]), 20)
    come, go = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ftp.context.wrap_bio(come, go, server_hostname="localhost", session=ftp.sock.session)
    def advance():
        try:
            tls.do_handshake()
            return True
        except ssl.SSLWantReadError:
            return False
        finally:
            there.sendall(go.read())
    assert not advance()
    ftp.putcmd("STOR f")
    while True:
        # Half of it: the client's Finished is still to come.
        come.write(there.recv(65536))
        assert not select.select([ftp.sock], [], [], 0.3)[0] and not ftp.sock.pending(), "150 has come before the tickets"
        if advance():
            break
    assert ftp.getresp().startswith("150 ")
    # Behind 150 they are there without waiting.
    assert select.select([there], [], [], 0)[0], "no tickets"
    tls.write(b"abc")
    there.sendall(go.read())
    there.shutdown(socket.SHUT_WR)
    assert ftp.getresp().startswith("226 ")
    there.close()
# Whoever begins TLS and goes on with it behind 150 is told 150 all the same.
there = socket.create_connection(("127.0.0.1", ftplib.parse229(ftp.sendcmd("EPSV"), ftp.sock.getpeername())[1]), 20)
come, go = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = ftp.context.wrap_bio(come, go, server_hostname="localhost", session=ftp.sock.session)
assert not advance()
assert ftp.sendcmd("STOR g").startswith("150 ")
while not advance():
    come.write(there.recv(65536))
tls.write(b"abc")
there.sendall(go.read())
there.shutdown(socket.SHUT_WR)
assert ftp.getresp().startswith("226 ")
"#,
    );
    assert!(is_done, "{said}");
    let file = front.file("up.bin", 1000);
    let (file, certificate) = (file.display(), front.certificate.display());
    let login = format!("user0:user0-password@localhost:{}", front.gateway.ftp_port());
    let files = vec![file.to_string(); 20].join(",");
    let (is_done, said) =
        shell(&format!("curl -sS --ssl-reqd --cacert {certificate} -T '{{{files}}}' ftp://{login}/"));
    assert!(is_done, "{said}");
}

/// Go's clients, rclone among them, read nothing while they upload. What lies unread when they close makes a reset of it.
///
/// > With `tls_cert`, TLS protects control and data connections, after AUTH TLS and on `tls_implicit_port`, passive and active.
#[test]
fn nothing_is_sent_to_a_client_that_uploads_without_reading() {
    let _watchdog = Watchdog::bark_after(120);
    let mut front = Secured::start(&[]);
    let (is_done, said) = front.python(
        r#"
import select
content = bytes(range(251)) * 12000
for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
    ftp = session(Resuming, version)
    for turn in range(4):
        data = ftp.transfercmd("STOR f")
        data.sendall(content[:100000])
        # What comes has come by now.
        select.select([data], [], [], 0.2)
        data.sendall(content[100000:])
        data.close()
        assert ftp.getresp().startswith("226 "), turn
        assert ftp.size("f") == len(content)
    ftp.quit()
"#,
    );
    assert!(is_done, "{said}");
}

/// > An upload that is refused half-way (quota, store) is listened to for a moment, so that the client reads why.
#[test]
fn clients_read_over_tls_too_why_an_upload_was_refused() {
    let _watchdog = Watchdog::bark_after(120);
    require("curl");
    let mut front = Secured::start_for("quota = 1M", &[]);
    let (is_done, said) = front.python(
        r#"
for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
    ftp = session(ftplib.FTP_TLS, version)
    for turn in range(3):
        try:
            sys.exit(ftp.storbinary("STOR f", io.BytesIO(bytes(7000000))))
        except ftplib.error_perm as refusal:
            assert str(refusal).startswith("552 "), refusal
    ftp.quit()
"#,
    );
    assert!(is_done, "{said}");
    let file = front.file("up.bin", 7_000_000);
    let (file, certificate, port) = (file.display(), front.certificate.display(), front.gateway.ftp_port());
    let (is_done, said) = shell(&format!(
        "curl -sSv --ssl-reqd --cacert {certificate} -T {file} ftp://user0:user0-password@localhost:{port}/f; test $? = 70"
    ));
    assert!(is_done && said.contains("< 552 /f: "), "{said}");
    assert!(front.emulator.keys().is_empty());
}

/// > A client that is killed in the middle of an upload over TLS publishes nothing.
#[test]
fn a_killed_client_leaves_no_object() {
    let _watchdog = Watchdog::bark_after(180);
    let mut front = Secured::start(&[]);
    let script = front.script(
        r#"
class Slow:
    def __init__(self):
        self.pieces = 0
    def read(self, size):
        self.pieces += 1
        if self.pieces == 40:
            print("half way", flush=True)
            import time
            time.sleep(60)
        return bytes(size)
session(ftplib.FTP_TLS).storbinary("STOR killed", Slow())
"#,
    );
    for _ in 0..10 {
        let mut client = Command::new("python3").arg(&script).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(client.stdout.as_mut().unwrap()), &mut line)
            .unwrap();
        assert_eq!(line, "half way\n");
        kill_process(Pid::from_child(&client), Signal::KILL).unwrap();
        client.wait().unwrap();
    }
    // A session after it proves that the gateway has come that far.
    let (is_done, said) = front.python(r#"session(Resuming).storbinary("STOR whole", io.BytesIO(b"abc"))"#);
    assert!(is_done, "{said}");
    pause(Duration::from_millis(500));
    assert_eq!(front.emulator.keys(), ["whole"]);
}

/// > Over TLS a whole transfer ends with close_notify, and a download that broke without it.
#[test]
fn a_download_that_the_server_breaks_does_not_look_complete() {
    let _watchdog = Watchdog::bark_after(120);
    require("curl");
    let mut front = Secured::start(&[]);
    let file = front.file("up.bin", 30_000_000);
    let (file, certificate) = (file.display().to_string(), front.certificate.display().to_string());
    let url = format!("ftp://user0:user0-password@localhost:{}/f", front.gateway.ftp_port());
    let (is_done, said) = shell(&format!("curl -sS --ssl-reqd --cacert {certificate} -T {file} {url}"));
    assert!(is_done, "{said}");
    let mut client = Command::new("curl")
        .args(["-sS", "--ssl-reqd", "--limit-rate", "2M", "--cacert", &certificate, "-o"])
        .arg(front.tree.path().join("down.bin"))
        .arg(&url)
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    assert!(eventually(20, || front.tree.path().join("down.bin").exists()));
    front.gateway.kill();
    assert!(!client.wait().unwrap().success());
}

/// > A certificate is served as soon as its files have changed; one that cannot be used changes nothing.
#[test]
fn a_replaced_certificate_is_noticed() {
    let _watchdog = Watchdog::bark_after(120);
    require("curl");
    let mut front = Secured::start(&[]);
    let url = format!("ftp://user0:user0-password@localhost:{}/", front.gateway.ftp_port());
    let line = format!("curl -sS --ssl-reqd --cacert {} {url}", front.certificate.display());
    assert!(shell(&line).0);
    // What does not fit changes nothing.
    fs::copy(&front.certificate, front.tree.path().join("trusted.pem")).unwrap();
    let trusting = format!("curl -sS --ssl-reqd --cacert {}/trusted.pem {url}", front.tree.path().display());
    fs::write(&front.certificate, "nothing").unwrap();
    pause(Duration::from_secs(5));
    assert!(shell(&trusting).0);
    make_certificate(front.tree.path());
    assert!(eventually(20, || shell(&line).0), "the new certificate is served");
    assert!(!shell(&trusting).0, "and the old one is not");
}

/// > `tls_required = control` refuses logins in clear, `all` refuses data in clear as well, however the data connection is made.
#[test]
fn what_must_be_behind_tls_is_refused_in_clear() {
    let _watchdog = Watchdog::bark_after(120);
    for (required, is_data_refused) in [("control", "False"), ("all", "True")] {
        let mut front = Secured::start(&[&format!("tls_required = {required}")]);
        let (is_done, said) = front.python(&format!(
            "REFUSED = {is_data_refused}{}",
            r#"
plain = ftplib.FTP()
plain.connect("localhost", PORT)
try:
    plain.login("user0", "user0-password")
    sys.exit("a login in clear was let in")
except ftplib.error_perm as refusal:
    assert str(refusal).startswith("530 "), refusal
for passive in True, False:
    ftp = session(ftplib.FTP_TLS)
    ftp.set_pasv(passive)
    try:
        ftp.prot_c()
        assert not REFUSED, "PROT C was let in"
    except ftplib.error_perm as refusal:
        assert REFUSED and str(refusal).startswith("534 "), refusal
    ftp.quit()
    ftp = ftplib.FTP_TLS(context=ssl.create_default_context(cafile=CERTIFICATE))
    ftp.connect("localhost", PORT)
    ftp.login("user0", "user0-password")
    ftp.set_pasv(passive)
    try:
        ftp.storbinary("STOR f", io.BytesIO(b"abc"))
        assert not REFUSED, "data in clear was let in"
    except ftplib.error_perm as refusal:
        assert REFUSED and str(refusal).startswith("522 "), refusal
"#
        ));
        assert!(is_done, "{said}");
        assert_eq!(front.emulator.keys().is_empty(), is_data_refused == "True");
    }
}

/// > With `tls_strict_eof` an upload that ends without close_notify publishes nothing.
#[test]
fn an_upload_without_close_notify_can_be_refused() {
    let _watchdog = Watchdog::bark_after(120);
    let mut front = Secured::start(&["tls_strict_eof = true"]);
    let (is_done, said) = front.python(
        r#"
ftp = session(ftplib.FTP_TLS)
data = ftp.transfercmd("STOR cut")
data.sendall(b"abc")
data.close()
try:
    sys.exit("it was taken for whole: " + ftp.getresp())
except ftplib.error_temp as refusal:
    assert str(refusal).startswith("426 "), refusal
assert ftp.storbinary("STOR whole", io.BytesIO(b"abc")).startswith("226 ")
"#,
    );
    assert!(is_done, "{said}");
    assert_eq!(front.emulator.keys(), ["whole"]);
}

/// > PORT and EPRT lead to the client's own address, and to ports from 1024 upwards, or are refused.
#[test]
fn active_mode_leads_to_the_client_and_nowhere_else() {
    let _watchdog = Watchdog::bark_after(120);
    let mut front = Secured::start(&[]);
    let (is_done, said) = front.python(
        r#"
ftp = ftplib.FTP()
ftp.connect("127.0.0.1", PORT)
ftp.login("user0", "user0-password")
for line in "PORT 127,0,0,2,100,1", "PORT 127,0,0,1,0,25", "EPRT |1|10.0.0.1|20000|", "EPRT |1|127.0.0.1|1023|":
    try:
        sys.exit(line + " was let in: " + ftp.sendcmd(line))
    except ftplib.error_perm as refusal:
        assert str(refusal).startswith("504 "), refusal
ftp.set_pasv(False)
assert ftp.storbinary("STOR f", io.BytesIO(b"abc")).startswith("226 ")
assert ftp.nlst() == ["f"]
"#,
    );
    assert!(is_done, "{said}");
    assert_eq!(front.emulator.keys(), ["f"]);
}
