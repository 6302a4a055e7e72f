//! TLS and active mode on the wire: the whole front over a plain directory, with a rustls client.

use std::{
    fs,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, StreamOwned, SupportedProtocolVersion,
    pki_types::{CertificateDer, pem::PemObject},
    version::{TLS12, TLS13},
};
use socket2::SockRef;
use tokio::runtime::Runtime;

use super::wire_tests::Served;
use crate::config::{FtpConfig, TlsConfig, TlsRequired, tls_provider};

/// A front, its certificate, and the runtime it lives in.
struct Secured {
    served: Option<Served>,
    certificate: tempfile::TempDir,
    runtime: Runtime,
}

impl Secured {
    fn start(change: impl FnOnce(&mut FtpConfig, &mut TlsConfig)) -> Self {
        let certificate = tempfile::tempdir().unwrap();
        make_certificate(certificate.path());
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let served = {
            let _inside = runtime.enter();
            let mut tls = TlsConfig::of_test(certificate.path());
            Served::start(|config| {
                change(config, &mut tls);
                config.tls = Some(tls);
            })
        };
        Self { served: Some(served), certificate, runtime }
    }

    fn served(&self) -> &Served {
        self.served.as_ref().unwrap()
    }

    fn trusting(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        trusting(self.certificate.path(), versions)
    }

    fn greeted(&self) -> Session {
        let mut session = Session::connect(([127, 0, 0, 1], self.served().port).into());
        session.expect("220");
        session
    }

    /// Behind TLS, PROT P, logged in.
    fn logged_in(&self, tls: &Arc<ClientConfig>) -> Session {
        let mut session = self.greeted();
        session.ask("AUTH TLS", "234");
        session.secure(tls);
        session.ask("PBSZ 0", "200");
        session.ask("PROT P", "200");
        session.log_in();
        session
    }

    fn stored(&self, name: &str) -> Option<Vec<u8>> {
        fs::read(self.served().path().join(name)).ok()
    }
}

impl Drop for Secured {
    fn drop(&mut self) {
        let _inside = self.runtime.enter();
        drop(self.served.take());
    }
}

fn make_certificate(directory: &Path) {
    let key = KeyPair::generate().unwrap();
    let certificate =
        CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    fs::write(directory.join("key.pem"), key.serialize_pem()).unwrap();
    fs::write(directory.join("cert.pem"), certificate.pem()).unwrap();
}

fn trusting(directory: &Path, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(directory.join("cert.pem")).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(tls_provider()))
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

/// A connection in clear or behind TLS.
enum Wire {
    Clear(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Gone,
}

impl Wire {
    fn secure(&mut self, tls: &Arc<ClientConfig>) -> io::Result<()> {
        let Self::Clear(mut socket) = std::mem::replace(self, Self::Gone) else { panic!("secured already") };
        let mut connection = ClientConnection::new(tls.clone(), "localhost".try_into().unwrap()).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        *self = Self::Tls(Box::new(StreamOwned::new(connection, socket)));
        Ok(())
    }

    fn socket(&self) -> &TcpStream {
        match self {
            Self::Clear(socket) => socket,
            Self::Tls(stream) => &stream.sock,
            Self::Gone => panic!("gone"),
        }
    }

    fn tls(&mut self) -> &mut StreamOwned<ClientConnection, TcpStream> {
        let Self::Tls(stream) = self else { panic!("in clear") };
        stream
    }

    /// close_notify, and what the server answers: clean only if it says close_notify too.
    fn unwrap(&mut self) -> io::Result<usize> {
        let stream = self.tls();
        stream.conn.send_close_notify();
        stream.flush()?;
        stream.read(&mut [0; 1])
    }
}

impl Read for Wire {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Clear(socket) => socket.read(room),
            Self::Tls(stream) => stream.read(room),
            Self::Gone => Ok(0),
        }
    }
}

impl Write for Wire {
    #[expect(clippy::disallowed_methods, reason = "this is such a method itself")]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Clear(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
            Self::Gone => Ok(0),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Clear(socket) => socket.flush(),
            Self::Tls(stream) => stream.flush(),
            Self::Gone => Ok(()),
        }
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    socket
}

/// A client.
struct Session {
    control: Wire,
    server: SocketAddr,
    /// What its data connections begin TLS with.
    tls: Option<Arc<ClientConfig>>,
}

impl Session {
    fn connect(server: SocketAddr) -> Self {
        Self { control: Wire::Clear(connect(server)), server, tls: None }
    }

    fn secure(&mut self, tls: &Arc<ClientConfig>) {
        self.control.secure(tls).unwrap();
        self.tls = Some(tls.clone());
    }

    fn log_in(&mut self) {
        self.ask("USER user", "331");
        self.ask("PASS pass word", "230");
    }

    fn say(&mut self, line: &str) {
        self.control.write_all(format!("{line}\r\n").as_bytes()).unwrap();
        self.control.flush().unwrap();
    }

    /// One reply; empty at the end.
    fn hear(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = Vec::new();
            while line.last() != Some(&b'\n') {
                let mut byte = [0];
                match self.control.read(&mut byte) {
                    Ok(1) => line.push(byte[0]),
                    _ => return reply,
                }
            }
            let line = String::from_utf8(line).unwrap();
            reply.push_str(&line);
            if line.as_bytes()[3] == b' ' && !line.starts_with(' ') {
                return reply;
            }
        }
    }

    fn expect(&mut self, code: &str) -> String {
        let reply = self.hear();
        assert!(reply.starts_with(code), "{code} expected, got {reply:?}");
        reply
    }

    fn ask(&mut self, line: &str, code: &str) -> String {
        self.say(line);
        let reply = self.hear();
        assert!(reply.starts_with(code), "{line}: {code} expected, got {reply:?}");
        reply
    }

    fn passive(&mut self) -> Wire {
        let reply = self.ask("EPSV", "229");
        let port = reply.split("|||").nth(1).unwrap().split('|').next().unwrap().parse().unwrap();
        Wire::Clear(connect(SocketAddr::new(self.server.ip(), port)))
    }

    /// The data connection of a transfer, secured where the session is.
    fn begin(&mut self, line: &str) -> Wire {
        let mut data = self.passive();
        self.ask(line, "150");
        if let Some(tls) = &self.tls {
            data.secure(tls).unwrap();
        }
        data
    }

    fn store(&mut self, name: &str, content: &[u8]) -> String {
        let mut data = self.begin(&format!("STOR {name}"));
        data.write_all(content).unwrap();
        data.flush().unwrap();
        if self.tls.is_some() {
            assert_eq!(data.unwrap().unwrap(), 0, "close_notify is answered by close_notify");
        }
        drop(data);
        self.hear()
    }

    fn fetch(&mut self, line: &str) -> Vec<u8> {
        let mut data = self.begin(line);
        let mut content = Vec::new();
        data.read_to_end(&mut content).expect("a clean end");
        self.expect("226");
        content
    }
}

fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

#[test]
fn both_versions_of_tls_carry_uploads_downloads_and_listings_to_a_clean_end() {
    let front = Secured::start(|_, _| {});
    for version in [&TLS12, &TLS13] {
        let mut session = front.logged_in(&front.trusting(&[version]));
        assert!(session.ask("FEAT", "211-").contains("\r\n AUTH TLS\r\n"));
        assert!(session.ask("STAT", "211-").contains("behind TLS"));
        for bytes in [0, 1, 16_384, 16_385, 3_000_001] {
            let content = content(bytes);
            assert_eq!(session.store("f", &content), format!("226 Stored, {bytes} bytes\r\n"));
            assert!(front.stored("f").unwrap() == content);
            assert!(session.fetch("RETR f") == content);
        }
        assert!(session.fetch("LIST").ends_with(b" f\r\n"));
        session.ask("QUIT", "221");
        assert_eq!(session.control.read(&mut [0; 1]).unwrap(), 0, "close_notify ends the control connection");
    }
}

#[test]
fn auth_pbsz_and_prot_answer_as_rfc_4217_names_it() {
    let front = Secured::start(|_, _| {});
    let tls = front.trusting(&[&TLS13]);
    let mut session = front.greeted();
    for (line, code) in
        [("PBSZ 0", "503"), ("PROT P", "503"), ("CCC", "502"), ("AUTH X", "504"), ("AUTH", "501")]
    {
        session.ask(line, code);
    }
    session.log_in();
    session.ask("AUTH TLS", "234");
    session.secure(&tls);
    session.ask("PWD", "530");
    session.log_in();
    for (line, code) in [
        ("AUTH TLS", "503"),
        ("PROT P", "503"),
        ("PBSZ x", "501"),
        ("PBSZ 4294967296", "501"),
        ("PBSZ 16384", "200 PBSZ=0"),
        ("PROT S", "536"),
        ("PROT E", "536"),
        ("PROT X", "504"),
        ("PROT", "501"),
        ("CCC", "534"),
    ] {
        session.ask(line, code);
    }
    // Until PROT P data is in clear, and after PROT C again.
    session.tls = None;
    assert!(session.store("clear", b"1").starts_with("226"));
    session.ask("PROT P", "200");
    session.tls = Some(tls.clone());
    assert!(session.store("private", b"2").starts_with("226"));
    session.ask("PROT C", "200");
    session.tls = None;
    assert_eq!(session.fetch("RETR private"), b"2");
    // The old name means data as well.
    let mut old = front.greeted();
    old.ask("AUTH SSL", "234");
    old.secure(&tls);
    old.log_in();
    assert_eq!(old.fetch("RETR clear"), b"1");
}

#[test]
fn what_is_said_in_clear_behind_auth_is_never_taken_for_a_command() {
    let front = Secured::start(|_, _| {});
    for injected in ["AUTH TLS\r\nUSER user", "AUTH TLS\r\nNOO"] {
        let mut session = front.greeted();
        session.control.write_all(format!("{injected}\r\n").trim_end_matches("\r\n").as_bytes()).unwrap();
        let mut heard = String::new();
        if injected.ends_with("user") {
            session.control.write_all(b"\r\n").unwrap();
        }
        session.control.read_to_string(&mut heard).ok();
        assert!(heard.starts_with("421 ") && heard.lines().count() == 1, "{heard:?}");
    }
    // Where it comes too late to be seen, it is no handshake.
    let mut session = front.greeted();
    session.ask("AUTH TLS", "234");
    session.control.write_all(b"USER user\r\nPASS pass word\r\n").unwrap();
    let mut heard = Vec::new();
    session.control.read_to_end(&mut heard).ok();
    assert!(!heard.starts_with(b"331"), "{heard:?}");
}

#[test]
fn the_implicit_port_begins_with_tls_and_protects_data() {
    let front = Secured::start(|_, tls| tls.implicit_port = Some(0));
    let port = front.served().implicit_port.unwrap();
    let mut session = Session::connect(([127, 0, 0, 1], port).into());
    session.secure(&front.trusting(&[&TLS13]));
    session.expect("220");
    session.log_in();
    session.ask("AUTH TLS", "503");
    assert!(session.store("f", b"abc").starts_with("226"));
    assert_eq!(session.fetch("RETR f"), b"abc");
    // The other port is as it was.
    front.greeted().log_in();
}

#[test]
fn what_has_to_be_behind_tls_is_refused_in_clear() {
    let front = Secured::start(|_, tls| tls.required = TlsRequired::Control);
    let mut session = front.greeted();
    session.ask("USER user", "530");
    session.ask("PASS pass word", "530");
    session.ask("AUTH TLS", "234");
    session.secure(&front.trusting(&[&TLS13]));
    session.log_in();
    session.tls = None;
    assert!(session.store("f", b"abc").starts_with("226"), "control leaves data free");

    let front = Secured::start(|_, tls| tls.required = TlsRequired::All);
    let tls = front.trusting(&[&TLS13]);
    let mut session = front.greeted();
    session.ask("USER user", "530");
    session.ask("AUTH TLS", "234");
    session.secure(&tls);
    session.log_in();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for door in ["PASV", "EPSV", &port_argument(port), &format!("EPRT |1|127.0.0.1|{port}|")] {
        for transfer in ["STOR f", "RETR f", "LIST", "NLST", "MLSD", "APPE f"] {
            session.ask(door, "2");
            session.ask(transfer, "522");
        }
    }
    assert_eq!(front.stored("f"), None);
    session.ask("PBSZ 0", "200");
    session.ask("PROT C", "534");
    session.ask("PROT P", "200");
    assert!(session.store("f", b"abc").starts_with("226"));
}

fn port_argument(port: u16) -> String {
    let [high, low] = port.to_be_bytes();
    format!("PORT 127,0,0,1,{high},{low}")
}

#[test]
fn sessions_are_resumed_on_data_connections_again_and_again() {
    for version in [&TLS12, &TLS13] {
        let front = Secured::start(|_, tls| tls.session_reuse_required = true);
        let mut session = front.logged_in(&front.trusting(&[version]));
        for _ in 0..20 {
            let mut data = session.begin("STOR f");
            data.write_all(b"abc").unwrap();
            assert_eq!(data.unwrap().unwrap(), 0);
            assert_eq!(data.tls().conn.handshake_kind(), Some(HandshakeKind::Resumed));
            session.expect("226");
        }
    }
}

#[test]
fn a_data_connection_that_does_not_resume_its_control_connections_session_is_refused() {
    for version in [&TLS12, &TLS13] {
        let front = Secured::start(|_, tls| tls.session_reuse_required = true);
        let mut session = front.logged_in(&front.trusting(&[version]));
        // A thief with sessions of his own, once without and then with what his first try has given him, and one
        // who is logged in himself.
        let stranger = front.trusting(&[version]);
        let other = front.trusting(&[version]);
        front.logged_in(&other);
        for tls in [&stranger, &stranger, &other] {
            let mut data = session.passive();
            session.ask("STOR f", "150");
            if data.secure(tls).is_ok() {
                assert!(data.read(&mut [0; 1]).is_err(), "a reset");
            }
            assert!(session.expect("522").contains("tls_session_reuse"));
            assert_eq!(front.stored("f").unwrap_or_default(), b"");
        }
        assert!(session.store("f", b"abc").starts_with("226"));
    }
}

#[test]
fn an_upload_without_close_notify_is_judged_as_the_setting_says() {
    let front = Secured::start(|_, _| {});
    let mut session = front.logged_in(&front.trusting(&[&TLS13]));
    let mut data = session.begin("STOR lenient");
    data.write_all(b"abc").unwrap();
    data.socket().shutdown(Shutdown::Write).unwrap();
    assert!(session.expect("226").contains("3 bytes"));
    drop(data);

    let front = Secured::start(|_, tls| tls.strict_eof = true);
    let mut session = front.logged_in(&front.trusting(&[&TLS13]));
    let mut data = session.begin("STOR strict");
    data.write_all(b"abc").unwrap();
    data.socket().shutdown(Shutdown::Write).unwrap();
    assert!(session.expect("426").contains("tls_strict_eof"));
    assert!(session.store("strict", b"abc").starts_with("226"));
}

#[test]
fn what_is_cut_within_a_record_or_is_no_record_breaks_the_upload() {
    let front = Secured::start(|_, _| {});
    let mut session = front.logged_in(&front.trusting(&[&TLS13]));
    for tail in [&b"\x17\x03\x03\x40\x00half"[..], b"this is no record of TLS"] {
        let mut data = session.begin("STOR f");
        data.write_all(b"abc").unwrap();
        data.socket().write_all(tail).unwrap();
        data.socket().shutdown(Shutdown::Write).unwrap();
        session.expect("426");
    }
    session.ask("NOOP", "200");
}

#[test]
fn a_broken_download_does_not_look_complete() {
    let front = Secured::start(|_, _| {});
    fs::write(front.served().path().join("big"), vec![0; 30_000_000]).unwrap();
    let mut session = front.logged_in(&front.trusting(&[&TLS13]));
    let mut data = session.begin("RETR big");
    session.ask("ABOR", "426");
    session.expect("226");
    assert!(data.read_to_end(&mut Vec::new()).is_err(), "neither close_notify nor a clean end");
}

#[test]
fn a_data_handshake_that_fails_or_stops_half_way_ends_in_a_reply() {
    let front = Secured::start(|_, _| {});
    let mut session = front.logged_in(&front.trusting(&[&TLS13]));
    for (transfer, garbage) in
        [("STOR f", &b"\x16\x03\x01"[..]), ("LIST", b"in clear"), ("STOR f", b"in clear")]
    {
        let mut data = session.passive();
        session.ask(transfer, "150");
        data.write_all(garbage).unwrap();
        // The server may have hung up already.
        data.socket().shutdown(Shutdown::Write).ok();
        session.expect("425");
    }
    // It waits: ABOR ends it.
    let _data = session.passive();
    session.ask("STOR f", "150");
    session.ask("ABOR", "426");
    session.expect("226");
    session.ask("NOOP", "200");
}

#[test]
fn a_control_handshake_that_stops_half_way_ends_with_the_time_for_logins() {
    let front = Secured::start(|config, tls| {
        config.login_timeout = Duration::from_millis(300);
        tls.implicit_port = Some(0);
    });
    let mut explicit = front.greeted();
    explicit.ask("AUTH TLS", "234");
    let implicit = Session::connect(([127, 0, 0, 1], front.served().implicit_port.unwrap()).into());
    for mut session in [explicit, implicit] {
        session.control.write_all(b"\x16\x03\x01").unwrap();
        let mut heard = Vec::new();
        session.control.read_to_end(&mut heard).ok();
        assert!(!heard.starts_with(b"220"), "an alert at most: {heard:?}");
    }
}

#[test]
fn a_changed_certificate_is_taken_and_a_bad_one_changes_nothing() {
    let front = Secured::start(|_, _| {});
    let old = front.trusting(&[&TLS13]);
    let mut session = front.logged_in(&old);
    make_certificate(front.certificate.path());
    front.served().control.read_certificate().unwrap();
    let new = front.trusting(&[&TLS13]);
    assert!(front.logged_in(&new).store("f", b"abc").starts_with("226"));
    let mut stale = front.greeted();
    stale.ask("AUTH TLS", "234");
    assert!(stale.control.secure(&trusting_other()).is_err());
    // Who was there goes on with what he knows.
    assert!(session.store("f", b"abcd").starts_with("226"));
    fs::write(front.certificate.path().join("key.pem"), "nothing").unwrap();
    assert!(front.served().control.read_certificate().unwrap_err().to_string().contains("tls_key"));
    assert!(front.logged_in(&new).store("f", b"abc").starts_with("226"));
}

fn trusting_other() -> Arc<ClientConfig> {
    let directory = tempfile::tempdir().unwrap();
    make_certificate(directory.path());
    trusting(directory.path(), &[&TLS13])
}

#[test]
fn control_gone_in_a_secured_upload_breaks_it_and_quit_does_not() {
    let front = Secured::start(|_, _| {});
    let tls = front.trusting(&[&TLS13]);
    let mut session = front.logged_in(&tls);
    let mut data = session.begin("STOR gone");
    data.write_all(b"abc").unwrap();
    drop(session);
    assert!(data.read(&mut [0; 1]).is_err(), "a reset");
    let mut session = front.logged_in(&tls);
    let mut data = session.begin("STOR quit");
    session.say("QUIT");
    data.write_all(b"abc").unwrap();
    assert_eq!(data.unwrap().unwrap(), 0);
    session.expect("226");
    session.expect("221");
}

#[test]
fn active_mode_dials_the_client_in_clear_and_behind_tls() {
    let front = Secured::start(|_, _| {});
    let tls = front.trusting(&[&TLS13]);
    let mut clear = front.greeted();
    clear.log_in();
    for mut session in [clear, front.logged_in(&tls)] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        for door in [port_argument(port), format!("EPRT |1|127.0.0.1|{port}|")] {
            session.ask(&door, "200");
            session.say("STOR f");
            let (socket, from) = listener.accept().unwrap();
            assert_eq!(from.ip(), IpAddr::V4(Ipv4Addr::LOCALHOST));
            session.expect("150");
            let mut data = Wire::Clear(socket);
            if let Some(tls) = &session.tls {
                data.secure(tls).unwrap();
            }
            data.write_all(door.as_bytes()).unwrap();
            if session.tls.is_some() {
                assert_eq!(data.unwrap().unwrap(), 0);
            }
            drop(data);
            session.expect("226");
            assert_eq!(front.stored("f").unwrap(), door.as_bytes());
        }
        // Nobody listens there any more.
        drop(listener);
        session.ask(&port_argument(port), "200");
        session.ask("STOR g", "425");
        assert_eq!(front.stored("g"), None);
    }
}

#[test]
fn ipv6_has_eprt_and_epsv() {
    let front = Secured::start(|config, _| config.listen_addresses.push(Ipv6Addr::LOCALHOST.into()));
    let mut session = Session::connect((Ipv6Addr::LOCALHOST, front.served().port).into());
    session.expect("220");
    session.log_in();
    assert!(session.store("f", b"abc").starts_with("226"));
    let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    session.ask(&format!("EPRT |2|::1|{port}|"), "200");
    session.say("RETR f");
    let (mut data, _) = listener.accept().unwrap();
    session.expect("150");
    let mut content = String::new();
    data.read_to_string(&mut content).unwrap();
    assert_eq!(content, "abc");
    session.expect("226");
    for (line, code) in [
        (format!("EPRT |1|127.0.0.1|{port}|"), "522"),
        (port_argument(port), "522"),
        (format!("EPRT |2|::2|{port}|"), "504"),
        ("EPSV ALL".to_owned(), "200"),
        (format!("EPRT |2|::1|{port}|"), "503"),
        ("PASV".to_owned(), "503"),
        ("EPSV 2".to_owned(), "229"),
    ] {
        session.ask(&line, code);
    }
}

#[test]
fn active_mode_can_be_switched_off_and_foreign_addresses_allowed() {
    let front = Secured::start(|config, _| config.active_mode = false);
    let mut session = front.greeted();
    assert!(!session.ask("FEAT", "211-").contains("EPRT"));
    session.log_in();
    session.ask("PORT 127,0,0,1,100,1", "502");
    session.ask("EPRT |1|127.0.0.1|20000|", "502");

    let front = Secured::start(|config, _| config.data_foreign_address = true);
    let mut session = front.greeted();
    session.log_in();
    session.ask("PORT 127,0,0,2,3,255", "504");
    let listener = TcpListener::bind("127.0.0.2:0").unwrap();
    let [high, low] = listener.local_addr().unwrap().port().to_be_bytes();
    session.ask(&format!("PORT 127,0,0,2,{high},{low}"), "200");
    session.say("STOR f");
    let (mut data, _) = listener.accept().unwrap();
    session.expect("150");
    data.write_all(b"abc").unwrap();
    drop(data);
    session.expect("226");
    // Passive, from elsewhere.
    let reply = session.ask("EPSV", "229");
    let port: u16 = reply.split("|||").nth(1).unwrap().split('|').next().unwrap().parse().unwrap();
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 2], 0)).into()).unwrap();
    socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).unwrap();
    session.ask("RETR f", "150");
    let mut content = String::new();
    TcpStream::from(socket).read_to_string(&mut content).unwrap();
    assert_eq!(content, "abc");
}

#[test]
fn a_new_way_to_meet_replaces_the_older_one() {
    let front = Secured::start(|_, _| {});
    let mut session = front.greeted();
    session.log_in();
    let first = session.passive();
    let second = session.passive();
    assert_eq!(first.socket().peek(&mut [0; 1]).unwrap_or(0), 0, "the first port is closed");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    session.ask(&port_argument(listener.local_addr().unwrap().port()), "200");
    assert_eq!(second.socket().peek(&mut [0; 1]).unwrap_or(0), 0, "the second port is closed");
    // A refused one leaves none.
    session.ask("PORT 127,0,0,1,0,1", "504");
    session.ask("LIST", "425");
}

#[test]
fn a_reset_in_a_secured_upload_breaks_it() {
    let front = Secured::start(|_, _| {});
    let mut session = front.logged_in(&front.trusting(&[&TLS13]));
    let mut data = session.begin("STOR f");
    data.write_all(b"abc").unwrap();
    while !session.ask("STAT", "211-").contains(" 3 bytes") {}
    SockRef::from(data.socket()).set_linger(Some(Duration::ZERO)).unwrap();
    drop(data);
    session.expect("426");
}
