//! Who gets in, on the real thing: limits, lock-out, hashes, guests, balancers; promises of
//! `docs/SEMANTICS.md` are quoted. The details of the wire stand in `src/ftp/gate_tests.rs`.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{IpAddr, SocketAddr, TcpStream},
    process::{Command, Stdio},
    time::Duration,
};

use common::{BUCKET, Emulator, Gateway, Setup, Watchdog, eventually};
use socket2::{Domain, Socket, Type};

/// A client that says lines and hears replies.
struct Client {
    control: BufReader<TcpStream>,
}

impl Client {
    /// From an address of the loopback network.
    fn from(address: &str, gateway: &mut Gateway) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let address: IpAddr = address.parse().unwrap();
        socket.bind(&SocketAddr::new(address, 0).into()).unwrap();
        socket.connect(&SocketAddr::from(([127, 0, 0, 1], gateway.ftp_port())).into()).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Self { control: BufReader::new(socket.into()) }
    }

    fn connect(gateway: &mut Gateway) -> Self {
        Self::from("127.0.0.1", gateway)
    }

    /// The last line of the next reply; empty at the end of the connection.
    fn hear(&mut self) -> String {
        loop {
            let mut line = String::new();
            if self.control.read_line(&mut line).unwrap_or(0) == 0 || line.as_bytes().get(3) == Some(&b' ') {
                return line;
            }
        }
    }

    fn expect(&mut self, code: &str) -> String {
        let reply = self.hear();
        assert!(reply.starts_with(code), "{code} expected, got {reply:?}");
        reply
    }

    fn ask(&mut self, line: &str, code: &str) -> String {
        self.control.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        let reply = self.hear();
        assert!(reply.starts_with(code), "{line}: {code} expected, got {reply:?}");
        reply
    }

    /// USER and PASS.
    fn log_in(&mut self, user: &str, password: &str, code: &str) -> String {
        self.ask(&format!("USER {user}"), "331");
        self.ask(&format!("PASS {password}"), code)
    }

    fn passive(&mut self) -> TcpStream {
        let reply = self.ask("EPSV", "229");
        let port: u16 = reply.split('|').nth(3).unwrap().parse().unwrap();
        TcpStream::connect(("127.0.0.1", port)).unwrap()
    }

    fn fetch(&mut self, path: &str) -> String {
        let mut data = self.passive();
        self.ask(&format!("RETR {path}"), "150");
        let mut text = String::new();
        data.read_to_string(&mut text).unwrap();
        self.expect("226");
        text
    }
}

/// > After `failed_login_limit` failed logins an address is refused with the right password too; sessions that are logged in go on.
/// > Whoever guesses at a name cannot lock out an address that has logged in with it.
/// > The reply to a failed login does not tell whether the name exists.
#[test]
fn failed_logins_lock_the_guesser_out_and_not_the_owner() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user0", "").network("failed_login_limit = 2").serve();
    let mut owner = Client::connect(&mut gateway);
    owner.expect("220");
    owner.log_in("user0", "user0-password", "230");
    for guesser in ["127.0.0.2", "127.0.0.3"] {
        let mut client = Client::from(guesser, &mut gateway);
        client.expect("220");
        let unknown = client.log_in("nobody", "guess", "530");
        let mut other = Client::from(&guesser.replace("0.0", "0.1"), &mut gateway);
        other.expect("220");
        assert_eq!(other.log_in("user0", "guess", "530"), unknown);
        assert!(client.log_in("user0", "guess", "421").contains("failed_login_limit"));
        assert!(Client::from(guesser, &mut gateway).expect("421").contains("failed_login_limit"));
    }
    // By now the name is locked for strangers, and they read no more than that.
    let mut stranger = Client::from("127.0.0.9", &mut gateway);
    stranger.expect("220");
    assert_eq!(stranger.log_in("user0", "user0-password", "530"), "530 Login incorrect\r\n");
    owner.ask("NOOP", "200");
    let mut again = Client::connect(&mut gateway);
    again.expect("220");
    again.log_in("user0", "user0-password", "230");
    let log = || fs::read_to_string(gateway.tree().join("log/cosgate-serve.log")).unwrap();
    assert!(eventually(10, || log().contains("reason=\"user-locked\"")));
    let log = log();
    let line = |text: &str| assert!(log.contains(text), "{text}\n{log}");
    line("login refused address=127.0.0.2 reason=\"unknown-user\" user=\"nobody\"");
    line("login refused address=127.0.1.2 reason=\"wrong-password\" user=\"user0\"");
    line("login refused address=127.0.0.9 reason=\"user-locked\" user=\"user0\"");
    line("address locked out (failed_login_limit) address=127.0.0.2");
    assert!(!log.contains("guess"), "a password in the log");
}

/// > Sessions beyond `max_connection_num`, `max_connection_per_ip` or `max_sessions` are refused with 421 and the name of the setting.
#[test]
fn sessions_beyond_a_limit_are_refused_by_name() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator)
        .account("user0", "max_sessions = 1")
        .network("max_connection_per_ip = 2")
        .optional("max_connection_num = 3")
        .serve();
    let mut first = Client::connect(&mut gateway);
    first.expect("220");
    first.log_in("user0", "user0-password", "230");
    let mut second = Client::connect(&mut gateway);
    second.expect("220");
    assert!(Client::connect(&mut gateway).expect("421").contains("max_connection_per_ip"));
    let mut third = Client::from("127.0.0.2", &mut gateway);
    third.expect("220");
    assert!(Client::from("127.0.0.3", &mut gateway).expect("421").contains("max_connection_num"));
    assert!(third.log_in("user0", "user0-password", "421").contains("max_sessions"));
}

/// > A password in the configuration may be a hash that `cosgate passwd` prints.
#[test]
fn a_hash_of_passwd_opens_to_its_password() {
    let _watchdog = Watchdog::bark_after(120);
    let mut passwd = Command::new(env!("CARGO_BIN_EXE_cosgate"))
        .arg("passwd")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    passwd.stdin.take().unwrap().write_all(b"open sesame\n").unwrap();
    let hash = String::from_utf8(passwd.wait_with_output().unwrap().stdout).unwrap();
    let emulator = Emulator::start();
    let logins = format!("user0:{}:RW", hash.trim_end());
    let mut gateway = Setup::new(&emulator).first_generation(&logins).serve();
    let mut client = Client::connect(&mut gateway);
    client.expect("220");
    client.log_in("user0", hash.trim_end(), "530");
    client.log_in("user0", "open sesame", "230");
    client.ask("MKD made", "257");
}

/// > A guest is at home in `anonymous_home`, sees nothing above it, and changes nothing unless `anonymous_write` says so.
#[test]
fn guests_stay_where_they_are_let() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    for writes in [false, true] {
        let setup = Setup::new(&emulator).account("user0", "");
        let home = setup.home("user0").join("pub/in");
        let mut gateway = setup
            .optional("enable_anonymous = true")
            .optional(&format!("anonymous_home = {}", home.display()))
            .optional(&format!("anonymous_write = {writes}"))
            .serve();
        fs::create_dir_all(&home).unwrap();
        fs::write(gateway.home("user0").join("private"), "private").unwrap();
        fs::write(home.join("file"), "for all").unwrap();
        let mut client = Client::connect(&mut gateway);
        client.expect("220");
        client.log_in("anonymous", "me@example.com", "230");
        assert_eq!(client.fetch("/file"), "for all");
        client.ask("SIZE ../../private", "550");
        client.ask("CWD ../..", "250");
        client.ask("PWD", "257 \"/\"");
        for (line, free) in [("MKD made", "257"), ("RMD made", "250"), ("DELE file", "250")] {
            client.ask(line, if writes { free } else { "550" });
        }
        fs::write(home.join("file"), "renamed").unwrap();
        client.ask("RNFR file", "350");
        client.ask("RNTO other", if writes { "250" } else { "550" });
        let data = client.passive();
        client.ask("STOR new", if writes { "150" } else { "550" });
        drop(data);
        if writes {
            client.expect("226");
        }
        let keys: Vec<_> = emulator.objects(BUCKET).into_iter().map(|object| object.key).collect();
        let there = |key: &str| keys.iter().any(|known| known == key);
        assert_eq!(there("pub/in/new"), writes, "{keys:?}");
        assert_eq!(there("pub/in/other"), writes, "{keys:?}");
        assert!(there("private"), "{keys:?}");
    }
}

/// > Behind a balancer of `proxy_protocol` the client is whom its header names; a header of anybody else is no command.
#[test]
fn a_balancer_names_the_client() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let mut gateway =
        Setup::new(&emulator).account("user0", "").network("proxy_protocol = 127.0.0.2").serve();
    let header = "PROXY TCP4 192.0.2.77 198.51.100.2 4000 21";
    let mut client = Client::from("127.0.0.2", &mut gateway);
    client.ask(header, "220");
    client.log_in("user0", "user0-password", "230");
    assert!(client.ask("PASV", "227").contains("(198,51,100,2,"));
    let log = || fs::read_to_string(gateway.tree().join("log/cosgate-serve.log")).unwrap();
    assert!(eventually(10, || log().contains("peer=192.0.2.77:4000")), "{}", log());
    let mut other = Client::from("127.0.0.3", &mut gateway);
    other.expect("220");
    other.ask(header, "500");
    let mut headerless = Client::from("127.0.0.2", &mut gateway);
    headerless.control.get_mut().write_all(b"USER user0\r\n").unwrap();
    assert_eq!(headerless.hear(), "", "closed");
}
