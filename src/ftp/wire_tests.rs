//! The wire alone: the whole front over a plain directory, spoken to line by line.
//!
//! What the mount adds (226 means the object is in COS, a broken transfer leaves nothing) is proved on the
//! real thing in `tests/ftp_session.rs`.

use std::{net::SocketAddr, path::Path, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    sync::oneshot,
    task::JoinHandle,
};

use super::{FtpControl, FtpFront, Records, home::Ground};
use crate::config::{FtpConfig, PassivePorts, UserConfig};

/// A front and the directory below it.
pub(super) struct Served {
    dir: tempfile::TempDir,
    pub(super) port: u16,
    pub(super) config: FtpConfig,
    pub(super) implicit_port: Option<u16>,
    pub(super) control: FtpControl,
    stop: Option<oneshot::Sender<()>>,
    done: JoinHandle<()>,
}

impl Served {
    pub(super) fn start(change: impl FnOnce(&mut FtpConfig)) -> Self {
        Self::with_grace(change, Duration::from_secs(5))
    }

    pub(super) fn with_grace(change: impl FnOnce(&mut FtpConfig), grace: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let user = UserConfig::of_test("user", "pass word", dir.path());
        let mut config = FtpConfig {
            listen_addresses: vec!["127.0.0.1".parse().unwrap()],
            listen_port: 0,
            passive_ports: PassivePorts { first: 40_000, last: 46_999 },
            banner: "cosgate".to_owned(),
            users: vec![user],
            ..FtpConfig::default()
        };
        change(&mut config);
        let front = FtpFront::on(&config, Ground::Plain, Records::default()).unwrap();
        let (port, implicit_port) = (front.local_ports()[0], front.implicit_ports().first().copied());
        let control = front.control();
        let (stop, stopped) = oneshot::channel::<()>();
        let done = tokio::spawn(front.serve(async move { drop(stopped.await) }, grace));
        Self { dir, port, implicit_port, config, control, stop: Some(stop), done }
    }

    pub(super) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(super) async fn greeted(&self) -> Client {
        let mut client = Client::connect(([127, 0, 0, 1], self.port).into()).await;
        client.expect("220").await;
        client
    }

    pub(super) async fn logged_in(&self) -> Client {
        let mut client = self.greeted().await;
        client.ask("USER user", "331").await;
        client.ask("PASS pass word", "230").await;
        client
    }
}

/// A client that says lines and hears replies.
pub(super) struct Client {
    pub(super) control: BufReader<TcpStream>,
}

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        Self { control: BufReader::new(TcpStream::connect(address).await.unwrap()) }
    }

    pub(super) async fn say(&mut self, line: impl AsRef<[u8]>) {
        let line = [line.as_ref(), b"\r\n"].concat();
        self.control.get_mut().write_all(&line).await.unwrap();
    }

    /// The whole reply, its lines joined; empty at the end of the connection.
    pub(super) async fn hear(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = Vec::new();
            let read = self.control.read_until(b'\n', &mut line);
            let bytes = tokio::time::timeout(Duration::from_secs(20), read).await.expect("a reply in time");
            if bytes.unwrap_or(0) == 0 {
                return reply;
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            let is_last = line.len() > 3 && line.as_bytes()[..3].is_ascii() && line.as_bytes()[3] == b' ';
            reply.push_str(&line);
            if is_last && !line.starts_with(' ') {
                return reply;
            }
        }
    }

    pub(super) async fn expect(&mut self, code: &str) -> String {
        let reply = self.hear().await;
        assert!(reply.starts_with(code), "{code} expected, got: {reply:?}");
        reply
    }

    pub(super) async fn ask(&mut self, line: impl AsRef<[u8]>, code: &str) -> String {
        let line = line.as_ref();
        self.say(line).await;
        let reply = self.hear().await;
        assert!(reply.starts_with(code), "{}: {code} expected, got {reply:?}", String::from_utf8_lossy(line));
        reply
    }

    pub(super) async fn passive(&mut self) -> TcpStream {
        let reply = self.ask("EPSV", "229").await;
        let port: u16 = reply.split("|||").nth(1).unwrap().split('|').next().unwrap().parse().unwrap();
        TcpStream::connect(("127.0.0.1", port)).await.unwrap()
    }

    pub(super) async fn store(&mut self, line: impl AsRef<[u8]>, content: &[u8]) -> String {
        let mut data = self.passive().await;
        self.ask(line, "150").await;
        data.write_all(content).await.unwrap();
        drop(data);
        self.hear().await
    }

    pub(super) async fn fetch(&mut self, line: impl AsRef<[u8]>) -> Vec<u8> {
        let mut data = self.passive().await;
        self.ask(line, "150").await;
        let mut content = Vec::new();
        data.read_to_end(&mut content).await.unwrap();
        self.expect("226").await;
        content
    }

    async fn fetch_text(&mut self, line: impl AsRef<[u8]>) -> String {
        String::from_utf8(self.fetch(line).await).unwrap()
    }
}

#[tokio::test]
async fn every_verb_answers_good_missing_and_absurd_arguments_and_the_session_goes_on() {
    let served = Served::start(|_| {});
    std::fs::write(served.path().join("a file.txt"), "12345").unwrap();
    let mut client = served.logged_in().await;
    for (line, code) in [
        ("SYST", "215"),
        ("syst", "215"),
        ("SYST x", "501"),
        ("NOOP", "200"),
        ("FEAT", "211-"),
        ("HELP", "214-"),
        ("CLNT lftp", "200"),
        ("CLNT", "501"),
        ("OPTS UTF8 ON", "200"),
        ("OPTS MLST size;", "200 MLST OPTS size;"),
        ("OPTS", "501"),
        ("OPTS FROB", "501"),
        ("TYPE I", "200"),
        ("TYPE L 8", "200"),
        ("TYPE A", "200"),
        ("TYPE E", "504"),
        ("TYPE Q", "501"),
        ("TYPE", "501"),
        ("MODE S", "200"),
        ("MODE B", "504"),
        ("MODE", "501"),
        ("STRU F", "200"),
        ("STRU R", "504"),
        ("STRU Q", "501"),
        ("PWD", "257 \"/\""),
        ("XPWD", "257 \"/\""),
        ("MKD a \"b\"", "257 \"/a \"\"b\"\"\""),
        ("MKD a \"b\"", "550"),
        ("MKD", "501"),
        ("CWD a \"b\"", "250"),
        ("PWD", "257 \"/a \"\"b\"\"\""),
        ("CDUP", "250"),
        ("XCUP", "250"),
        ("CWD ../../..", "250"),
        ("PWD", "257 \"/\""),
        ("CWD missing", "550"),
        ("CWD a file.txt", "550"),
        ("CWD", "501"),
        ("XRMD a \"b\"", "250"),
        ("RMD missing", "550"),
        ("SIZE a file.txt", "213 5"),
        ("SIZE missing", "550"),
        ("SIZE /", "550"),
        ("SIZE", "501"),
        ("MDTM a file.txt", "213 20"),
        ("MDTM missing", "550"),
        ("MLST a file.txt", "250-"),
        ("MLST missing", "550"),
        ("MLST", "250-"),
        ("STAT", "211-"),
        ("STAT a file.txt", "213-"),
        ("STAT missing", "550"),
        ("REST 3", "504"),
        ("TYPE I", "200"),
        ("REST 3", "350"),
        ("REST x", "501"),
        ("REST", "501"),
        ("ALLO 5", "200"),
        ("ALLO", "501"),
        ("ALLO x", "501"),
        ("RNTO b", "503"),
        ("RNFR missing", "550"),
        ("RNFR a file.txt", "350"),
        ("NOOP", "200"),
        ("RNTO b", "503"),
        ("RNFR a file.txt", "350"),
        ("RNTO b.txt", "250"),
        ("DELE b.txt", "250"),
        ("DELE b.txt", "550"),
        ("DELE", "501"),
        ("ABOR", "226"),
        ("RETR x", "425"),
        ("STOR x", "425"),
        ("LIST", "425"),
        ("STOR dir/", "553"),
        ("STOR", "501"),
        ("PORT 127,0,0,1,4,1", "200"),
        ("PORT 127,0,0,1,4", "501"),
        ("PORT 127,0,0,1,3,255", "504"),
        ("PORT 127,0,0,2,4,1", "504"),
        ("EPRT |1|127.0.0.1|1025|", "200"),
        ("EPRT |1|127.0.0.1|999|", "504"),
        ("EPRT |2|::1|1025|", "522"),
        ("EPRT |3|x|1025|", "522"),
        ("EPRT", "501"),
        ("AUTH TLS", "431"),
        ("AUTH GSSAPI", "504"),
        ("AUTH", "501"),
        ("PROT P", "503"),
        ("CCC", "502"),
        ("SITE HELP", "214-"),
        ("PBSZ 0", "503"),
        ("REIN x", "501"),
        ("FROB", "500"),
        ("", "500"),
        ("PASS x", "503"),
        ("EPSV 2", "522"),
        ("EPSV 7", "522"),
        ("EPSV x", "501"),
        ("EPSV 1", "229"),
        ("PASV", "227"),
        ("PASV x", "501"),
        ("EPSV ALL", "200"),
        ("PASV", "503"),
        ("PORT 127,0,0,1,4,1", "503"),
        ("EPRT |1|127.0.0.1|1025|", "503"),
        ("EPSV", "229"),
        ("QUIT x", "501"),
        ("MLST /../../..", "250-"),
        ("QUIT", "221"),
    ] {
        client.ask(line, code).await;
    }
    assert_eq!(client.hear().await, "", "the connection is closed after QUIT");
}

#[tokio::test]
async fn nothing_but_a_login_is_possible_before_login() {
    let served = Served::start(|_| {});
    let mut client = served.greeted().await;
    for line in [
        "PWD", "CWD /", "LIST", "STOR x", "RETR x", "PASV", "EPSV", "DELE x", "MKD x", "STAT", "REST 1",
        "TYPE I",
    ] {
        client.ask(line, "530").await;
    }
    for (line, code) in
        [("FEAT", "211-"), ("SYST", "215"), ("NOOP", "200"), ("HELP", "214-"), ("FROB", "500")]
    {
        client.ask(line, code).await;
    }
    client.ask("PASS x", "503").await;
    client.ask("USER user", "331").await;
    client.ask("PASS wrong", "530").await;
    client.ask("PASS pass word", "503").await;
    client.ask("USER nobody", "331").await;
    client.ask("PASS pass word", "530").await;
    client.ask("USER user", "331").await;
    client.ask("PASS pass word", "230").await;
    client.ask("PWD", "257").await;
}

#[tokio::test]
async fn what_is_stored_is_read_back_and_overwritten() {
    let served = Served::start(|_| {});
    let mut client = served.logged_in().await;
    let content: Vec<u8> = (0..5_000_003_u32).map(|index| (index % 251) as u8).collect();
    let reply = client.store("STOR dir less.bin", &content).await;
    assert_eq!(reply, "226 Stored, 5000003 bytes\r\n");
    assert!(client.fetch("RETR dir less.bin").await == content);
    client.ask("REST 5000000", "350").await;
    assert!(client.fetch("RETR dir less.bin").await == content[5_000_000..]);
    client.store("STOR dir less.bin", b"short").await;
    assert_eq!(client.fetch("RETR /dir less.bin").await, b"short");
    client.store("STOR empty", b"").await;
    assert_eq!(client.fetch("RETR empty").await, b"");
    assert_eq!(client.store("APPE new", b"abc").await, "226 Stored, 3 bytes\r\n");
}

#[tokio::test]
async fn rest_never_outlives_the_command_it_was_meant_for() {
    let served = Served::start(|_| {});
    std::fs::write(served.path().join("f"), "0123456789").unwrap();
    let mut client = served.logged_in().await;
    client.ask("REST 4", "350").await;
    let mut data = client.passive().await;
    client.ask("RETR missing", "550").await;
    assert_eq!(data.read(&mut [0; 1]).await.unwrap(), 0);
    assert_eq!(client.store("STOR g", b"whole").await, "226 Stored, 5 bytes\r\n");
    assert_eq!(std::fs::read(served.path().join("g")).unwrap(), b"whole");
    client.ask("REST 4", "350").await;
    client.fetch("LIST").await;
    assert_eq!(client.fetch("RETR f").await, b"0123456789");
    client.ask("REST 8", "350").await;
    client.ask("SIZE f", "213").await;
    client.ask("FROB", "500").await;
    assert_eq!(client.fetch("RETR f").await, b"89");
    client.ask("REST 10", "350").await;
    assert_eq!(client.fetch("RETR f").await, b"");
    client.ask("REST 11", "350").await;
    drop(client.passive().await);
    client.ask("RETR f", "554").await;
    client.ask("REST 11", "350").await;
    drop(client.passive().await);
    client.ask("STOR f", "554").await;
    assert_eq!(std::fs::read(served.path().join("f")).unwrap(), b"0123456789");
}

#[tokio::test]
async fn pipelined_commands_get_their_replies_in_order() {
    let served = Served::start(|_| {});
    let mut client = served.greeted().await;
    client
        .say(
            "USER user\r\nPASS pass word\r\nPWD\r\nMKD a\r\nCWD a\r\nMKD b\r\nSIZE b\r\nNOOP\r\nPWD\r\nRMD b",
        )
        .await;
    for code in ["331", "230", "257", "257", "250", "257", "550", "200", "257 \"/a\"", "250"] {
        client.expect(code).await;
    }
    let mut data = client.passive().await;
    client.say("STOR x\r\nSIZE x\r\nNOOP\r\nDELE x").await;
    client.expect("150").await;
    data.write_all(b"1234").await.unwrap();
    drop(data);
    for code in ["226", "213 4", "200", "250"] {
        client.expect(code).await;
    }
}

#[tokio::test]
async fn abor_ends_a_transfer_at_once_and_stat_tells_how_far_it_is() {
    let served = Served::start(|_| {});
    let mut client = served.logged_in().await;
    for abor in [&b"ABOR"[..], b"\xff\xf4\xff\xf2ABOR"] {
        let mut data = client.passive().await;
        client.ask("STOR x", "150").await;
        data.write_all(&[7; 1000]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(client.ask("STAT", "211-").await.contains("STOR /x: 1000 bytes"));
        client.ask("NOOP", "200").await;
        client.ask(abor, "426").await;
        client.expect("226").await;
        client.ask("NOOP", "200").await;
    }
    // A download that the client does not read.
    std::fs::write(served.path().join("big"), vec![0; 30_000_000]).unwrap();
    let mut data = client.passive().await;
    client.ask("RETR big", "150").await;
    client.ask("ABOR", "426").await;
    client.expect("226").await;
    assert!(data.read_to_end(&mut Vec::new()).await.is_err(), "what broke does not end cleanly");
    client.ask("PWD", "257").await;
}

#[tokio::test]
async fn urgent_abor_is_understood() {
    let served = Served::start(|_| {});
    let mut client = served.logged_in().await;
    let mut data = client.passive().await;
    client.ask("STOR x", "150").await;
    data.write_all(b"abc").await.unwrap();
    // As ftplib sends it: the whole line as urgent data, so that its last byte is the urgent one.
    socket2::SockRef::from(client.control.get_ref()).send_out_of_band(b"ABOR\r\n").unwrap();
    client.expect("426").await;
    client.expect("226").await;
    for _ in 0..3 {
        client.ask("NOOP", "200").await;
    }
}

#[tokio::test]
async fn a_client_that_vanishes_or_sends_another_size_is_not_told_226() {
    let served = Served::start(|_| {});
    let mut client = served.logged_in().await;
    client.ask("ALLO 10", "200").await;
    assert!(client.store("STOR x", b"123").await.starts_with("426"));
    client.ask("ALLO 3", "200").await;
    assert!(client.store("STOR x", b"123").await.starts_with("226"));
    // ALLO is about one upload only.
    assert!(client.store("STOR x", b"12345").await.starts_with("226"));
    let mut data = client.passive().await;
    client.ask("STOR x", "150").await;
    data.write_all(b"123").await.unwrap();
    socket2::SockRef::from(&data).set_linger(Some(Duration::ZERO)).unwrap();
    drop(data);
    client.expect("426").await;
    // QUIT waits for its transfer, and a close behind it is orderly.
    let mut data = client.passive().await;
    client.ask("STOR y", "150").await;
    client.say("QUIT").await;
    data.write_all(b"123").await.unwrap();
    drop(data);
    client.expect("226").await;
    client.expect("221").await;
    assert_eq!(client.hear().await, "");
}

#[tokio::test]
async fn listings_come_in_every_form() {
    let served = Served::start(|config| config.list_names_max = Some(3));
    for name in ["a.txt", "b c.txt"] {
        std::fs::write(served.path().join(name), "xyz").unwrap();
    }
    std::fs::create_dir(served.path().join("sub")).unwrap();
    let mut client = served.logged_in().await;
    for line in ["LIST", "LIST -la", "LIST /", "LIST .", "LIST -a -l /sub/.."] {
        let lines = client.fetch_text(line).await;
        assert_eq!(lines.lines().count(), 3, "{line}: {lines}");
        assert!(lines.lines().all(|line| line.starts_with('-') || line.starts_with('d')));
    }
    let mut names: Vec<String> = client.fetch_text("NLST *.txt").await.lines().map(str::to_owned).collect();
    names.sort_unstable();
    assert_eq!(names, ["a.txt", "b c.txt"]);
    assert!(client.fetch_text("LIST b c.txt").await.ends_with(" b c.txt\r\n"));
    assert_eq!(client.fetch_text("NLST sub").await, "");
    let facts = client.fetch_text("MLSD").await;
    assert!(facts.contains("type=file;size=3;") && facts.contains("; b c.txt\r\n"), "{facts}");
    drop(client.passive().await);
    client.ask("LIST missing", "550").await;
    drop(client.passive().await);
    client.ask("MLSD a.txt", "501").await;
    std::fs::write(served.path().join("one more"), "").unwrap();
    let mut data = client.passive().await;
    client.ask("LIST", "150").await;
    let mut lines = String::new();
    data.read_to_string(&mut lines).await.unwrap();
    assert_eq!(lines.lines().count(), 3);
    assert!(client.expect("226").await.contains("max_list_file"));
    assert_eq!(client.fetch_text("MLSD").await.lines().count(), 4);
}

#[tokio::test]
async fn gbk_clients_and_utf8_clients_see_the_same_names() {
    let served = Served::start(|_| {});
    let gbk = |text: &str| encoding_rs::GBK.encode(text).0.into_owned();
    let mut old = served.logged_in().await;
    let line = gbk("STOR 报表.txt");
    assert!(old.store(&line, b"old").await.starts_with("226"));
    assert!(served.path().join("报表.txt").exists());
    assert_eq!(old.fetch("NLST").await, gbk("报表.txt\r\n"));
    assert_eq!(old.fetch(gbk("RETR 报表.txt")).await, b"old");
    let mut new = served.logged_in().await;
    assert_eq!(new.fetch_text("NLST").await, "报表.txt\r\n");
    assert_eq!(new.fetch("RETR 报表.txt").await, b"old");
    new.ask(b"DELE \x81 ", "553").await;
}

#[tokio::test]
async fn injected_and_endless_lines_do_no_harm() {
    let served = Served::start(|_| {});
    let mut client = served.logged_in().await;
    client.ask(b"MKD a\0b", "501").await;
    client.ask(b"MKD a\rDELE b", "501").await;
    client.ask(vec![b'x'; 1_000_000], "500").await;
    client.ask("PWD", "257").await;
    client.ask("CWD ../../../../etc", "550").await;
    std::os::unix::fs::symlink("/etc", served.path().join("out")).unwrap();
    client.ask("CWD out", "550").await;
    client.ask("SIZE out/passwd", "550").await;
    drop(client.passive().await);
    client.ask("RETR out/passwd", "550").await;
    drop(client.passive().await);
    client.ask("STOR out/passwd", "550").await;
    client.ask("DELE out/passwd", "550").await;
}

#[tokio::test]
async fn too_many_sessions_slow_logins_and_idle_ones_are_told_421() {
    let served = Served::start(|config| {
        config.sessions_max = 2;
        config.login_timeout = Duration::from_millis(300);
        config.idle_timeout = Duration::from_millis(600);
    });
    let mut client = served.logged_in().await;
    let mut slow = served.greeted().await;
    let mut third = Client::connect(([127, 0, 0, 1], served.port).into()).await;
    third.expect("421").await;
    assert_eq!(third.hear().await, "");
    slow.expect("421").await;
    // A transfer is never idle.
    let mut data = client.passive().await;
    client.ask("STOR x", "150").await;
    tokio::time::sleep(Duration::from_millis(800)).await;
    data.write_all(b"x").await.unwrap();
    drop(data);
    client.expect("226").await;
    client.expect("421").await;
    assert_eq!(client.hear().await, "");
    tokio::time::sleep(Duration::from_millis(50)).await;
    served.logged_in().await;
}

#[tokio::test]
async fn a_stalled_upload_and_a_missing_data_connection_end() {
    let served = Served::start(|config| config.stall_timeout = Duration::from_millis(200));
    let mut client = served.logged_in().await;
    let _data = client.passive().await;
    client.ask("STOR x", "150").await;
    assert!(client.expect("426").await.contains("no byte for"));
    client.ask("NOOP", "200").await;
}

#[tokio::test]
async fn a_stop_lets_transfers_finish_and_breaks_what_takes_too_long() {
    let mut served = Served::with_grace(|_| {}, Duration::from_millis(1500));
    let (mut idle, mut quick, mut slow) =
        (served.logged_in().await, served.logged_in().await, served.logged_in().await);
    let mut quick_data = quick.passive().await;
    quick.ask("STOR quick", "150").await;
    let _slow_data = slow.passive().await;
    slow.ask("STOR slow", "150").await;
    drop(served.stop.take());
    idle.expect("421").await;
    quick_data.write_all(b"done").await.unwrap();
    drop(quick_data);
    quick.expect("226").await;
    quick.expect("421").await;
    slow.expect("426").await;
    slow.expect("421").await;
    tokio::time::timeout(Duration::from_secs(2), &mut served.done).await.unwrap().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", served.port)).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_transfer_is_so_short_that_its_end_overtakes_its_beginning() {
    let served = Served::start(|_| {});
    std::fs::write(served.path().join("f"), "").unwrap();
    let mut client = served.logged_in().await;
    for _ in 0..500 {
        assert_eq!(client.fetch("RETR f").await, b"");
        assert_eq!(client.fetch("NLST f").await, b"f\r\n");
    }
}

#[tokio::test]
async fn many_sessions_transfer_at_once() {
    let served = Served::start(|_| {});
    let mut sessions = tokio::task::JoinSet::new();
    for number in 0..40_u8 {
        let mut client = served.logged_in().await;
        sessions.spawn(async move {
            let content = vec![number; 300_000 + usize::from(number)];
            for _ in 0..3 {
                assert!(client.store(format!("STOR f{number}"), &content).await.starts_with("226"));
                assert!(client.fetch(format!("RETR f{number}")).await == content);
            }
        });
    }
    while let Some(done) = sessions.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn pasv_tells_the_masquerade_address_and_ipv6_has_epsv() {
    let served = Served::start(|config| {
        config.listen_addresses.push("::1".parse().unwrap());
        let address = "203.0.113.7".parse().unwrap();
        config.passive_host = Some(crate::config::PassiveHost::Address(address));
    });
    let mut client = served.logged_in().await;
    assert!(client.ask("PASV", "227").await.contains("(203,0,113,7,"));
    let mut client = Client::connect((std::net::Ipv6Addr::LOCALHOST, served.port).into()).await;
    client.expect("220").await;
    client.ask("USER user", "331").await;
    client.ask("PASS pass word", "230").await;
    client.ask("PASV", "425").await;
    client.ask("EPSV 1", "522").await;
    let reply = client.ask("EPSV 2", "229").await;
    let port: u16 = reply.split("|||").nth(1).unwrap().split('|').next().unwrap().parse().unwrap();
    let mut data = TcpStream::connect((std::net::Ipv6Addr::LOCALHOST, port)).await.unwrap();
    client.ask("NLST", "150").await;
    assert_eq!(data.read(&mut [0; 1]).await.unwrap(), 0);
    client.expect("226").await;
}

#[tokio::test]
async fn a_size_that_no_longer_holds_is_asked_for_again() {
    let served = Served::start(|_| {});
    let path = served.path().join("big");
    std::fs::write(&path, vec![1; 40_000_000]).unwrap();
    let mut client = served.logged_in().await;
    let mut data = client.passive().await;
    client.ask("RETR big", "150").await;
    // What is in flight fills the buffers between us; then the file ends before its time.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(30_000_000).unwrap();
    let outcome = data.read_to_end(&mut Vec::new()).await;
    // The size is asked for again: a shorter file that was read to its end is whole.
    assert_eq!(outcome.unwrap(), 30_000_000);
    client.expect("226").await;
}

#[tokio::test]
async fn a_reload_ends_the_sessions_it_concerns_after_their_transfers_and_no_other() {
    let mut other = None;
    let mut served = Served::start(|config| {
        let mut user = config.users[0].clone();
        user.name = "other".to_owned();
        config.users.push(user.clone());
        other = Some(user);
    });
    let mut idle = served.logged_in().await;
    let mut busy = served.logged_in().await;
    let mut unconcerned = served.greeted().await;
    unconcerned.ask("USER other", "331").await;
    unconcerned.ask("PASS pass word", "230").await;
    let mut data = busy.passive().await;
    busy.say("STOR f").await;
    busy.expect("150").await;
    data.write_all(b"first half, ").await.unwrap();

    served.config.users[0].password = crate::config::Secret::new("another");
    served.config.banner = "as of now".to_owned();
    assert_eq!(served.control.apply(&served.config), Vec::<&str>::new());

    idle.expect("421").await;
    assert_eq!(idle.hear().await, "", "and the connection ends");
    unconcerned.ask("NOOP", "200").await;
    data.write_all(b"second half").await.unwrap();
    drop(data);
    busy.expect("226").await;
    busy.expect("421").await;
    assert_eq!(std::fs::read(served.path().join("f")).unwrap(), b"first half, second half");

    let mut client = Client::connect(([127, 0, 0, 1], served.port).into()).await;
    assert!(client.expect("220").await.contains("as of now"));
    client.ask("USER user", "331").await;
    client.ask("PASS pass word", "530").await;
    client.ask("USER user", "331").await;
    client.ask("PASS another", "230").await;
}

#[tokio::test]
async fn a_shorter_idle_time_counts_at_once() {
    let mut served = Served::start(|_| {});
    let mut client = served.logged_in().await;
    served.config.idle_timeout = Duration::from_millis(50);
    served.control.apply(&served.config);
    client.expect("421").await;
}

#[tokio::test]
async fn a_throttled_transfer_is_slow_and_whole_answers_stat_and_can_be_aborted() {
    let mut served = Served::start(|config| {
        config.users[0].rates.upload = Some(40_000);
        config.users[0].rates.download_per_session = Some(40_000);
        config.stall_timeout = Duration::from_millis(200);
    });
    let content: Vec<u8> = (0..40_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let (mut client, mut other) = (served.logged_in().await, served.logged_in().await);
    let begun = tokio::time::Instant::now();
    let (mut data, mut other_data) = (client.passive().await, other.passive().await);
    client.ask("STOR f", "150").await;
    other.ask("STOR g", "150").await;
    data.write_all(&content[..20_000]).await.unwrap();
    other_data.write_all(&content[..20_000]).await.unwrap();
    drop((data, other_data));
    client.expect("226").await;
    other.expect("226").await;
    // Both share the rate of their user; no upper bound, for a machine may be busy.
    assert!(begun.elapsed() > Duration::from_millis(750), "{:?}", begun.elapsed());
    assert_eq!(std::fs::read(served.path().join("f")).unwrap(), content[..20_000]);
    std::fs::write(served.path().join("h"), &content).unwrap();
    let begun = tokio::time::Instant::now();
    let mut data = client.passive().await;
    client.ask("RETR h", "150").await;
    let mut came = Vec::new();
    data.read_to_end(&mut came).await.unwrap();
    client.expect("226").await;
    assert!(came == content && begun.elapsed() > Duration::from_millis(750), "{:?}", begun.elapsed());

    // 20 bytes a second: nobody could wait for that, and nothing has to.
    served.config.users[0].rates.upload = Some(20);
    served.control.apply(&served.config);
    let mut data = client.passive().await;
    client.ask("STOR slow", "150").await;
    data.write_all(&content).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    client.ask("STAT", "211").await;
    client.ask("ABOR", "426").await;
    client.expect("226").await;
}
