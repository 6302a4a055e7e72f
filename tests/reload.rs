//! SIGHUP: users, passwords, limits, rates and mounts change while sessions that are not concerned go on.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use common::{Emulator, Gateway, Process, Setup, Watchdog, eventually, pause};
use rustix::process::Signal;

const OTHER_BUCKET: &str = "other-1250000000";

/// A client that says lines and hears replies.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut client = Self(BufReader::new(stream));
        client.hear(220);
        client
    }

    fn log_in(port: u16, user: &str) -> Self {
        let mut client = Self::connect(port);
        client.ask(&format!("USER {user}"), 331);
        client.ask(&format!("PASS {user}-password"), 230);
        client
    }

    fn may_log_in(port: u16, user: &str, password: &str) -> bool {
        let mut client = Self::connect(port);
        client.ask(&format!("USER {user}"), 331);
        client.say(&format!("PASS {password}"));
        client.reply().starts_with("230")
    }

    fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
    }

    fn reply(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    fn hear(&mut self, code: u16) -> String {
        let reply = self.reply();
        assert!(reply.starts_with(&code.to_string()), "{code} expected: {reply:?}");
        reply
    }

    fn ask(&mut self, line: &str, code: u16) -> String {
        self.say(line);
        self.hear(code)
    }

    fn begin(&mut self, line: &str) -> TcpStream {
        let reply = self.ask("EPSV", 229);
        let port = reply.split("|||").nth(1).unwrap().split('|').next().unwrap();
        let data = TcpStream::connect(("127.0.0.1", port.parse::<u16>().unwrap())).unwrap();
        self.ask(line, 150);
        data
    }

    fn store(&mut self, name: &str, content: &[u8]) {
        let mut data = self.begin(&format!("STOR {name}"));
        data.write_all(content).unwrap();
        drop(data);
        self.hear(226);
    }
}

fn edit(gateway: &Gateway, change: impl FnOnce(String) -> String) {
    let text = fs::read_to_string(gateway.config()).unwrap();
    fs::write(gateway.config(), change(text)).unwrap();
}

fn log(gateway: &Gateway) -> String {
    fs::read_to_string(gateway.tree().join("log/cosgate-serve.log")).unwrap()
}

fn reload(gateway: &mut Gateway) {
    let count = |gateway: &Gateway| log(gateway).matches(" reloaded").count();
    let before = count(gateway);
    gateway.process().signal(Signal::HUP);
    assert!(eventually(40, || count(gateway) > before), "{}", log(gateway));
}

/// The section of an account, from its head to its end.
fn section(text: &str, number: usize) -> String {
    let start = text.find(&format!("[COS_ACCOUNT_{number}]")).unwrap();
    let end = text[start..].find("\n\n").unwrap() + start + 2;
    text[start..end].to_owned()
}

/// > SIGHUP reads the configuration again: users, passwords, limits, rates and mounts change, and sessions that are not concerned go on.
#[test]
fn users_and_mounts_come_go_and_change_while_others_work() {
    let _watchdog = Watchdog::bark_after(180);
    let emulator = Emulator::start_with(&[common::BUCKET, OTHER_BUCKET], &[]);
    let setup = Setup::new(&emulator).optional("grace_timeout = 3").account("stays", "").account("goes", "");
    let mut gateway = setup.account("changes", "").serve();
    let (port, mount_pid) = (gateway.ftp_port(), gateway.mount_pid());
    let mut stays = Client::log_in(port, "stays");
    let mut goes = Client::log_in(port, "goes");
    let mut changes = Client::log_in(port, "changes");
    let mut moves = Client::log_in(port, "changes");
    stays.store("before", b"1");
    changes.store("old", b"1");
    let mut upload = stays.begin("STOR during");
    upload.write_all(b"first half, ").unwrap();
    let mut leaving = goes.begin("STOR last");
    leaving.write_all(b"the last ").unwrap();

    let new_home = gateway.tree().join("homes/comes");
    fs::create_dir(&new_home).unwrap();
    edit(&gateway, |text| {
        let (gone, changing) = (section(&text, 1), section(&text, 2));
        let changed = changing.replace(common::BUCKET, OTHER_BUCKET);
        let comes = gone.replace("COS_ACCOUNT_1", "COS_ACCOUNT_9").replace("goes", "comes");
        text.replace(&gone, &comes)
            .replace(&changing, &changed)
            .replace("stays-password\n", "stays-password\nmax_upload_rate = 10M\n")
    });
    gateway.process().signal(Signal::HUP);
    // Its session ends after its transfer.
    pause(Duration::from_millis(300));
    leaving.write_all(b"words").unwrap();
    drop(leaving);
    goes.hear(226);
    goes.hear(421);
    assert!(eventually(40, || log(&gateway).contains(" reloaded")), "{}", log(&gateway));

    moves.hear(421);
    upload.write_all(b"second half").unwrap();
    drop(upload);
    stays.hear(226);
    stays.ask("NOOP", 200);
    assert!(!Client::may_log_in(port, "goes", "goes-password"));
    Client::log_in(port, "comes").store("new", b"2");
    Client::log_in(port, "changes").store("moved", b"3");
    let bytes = |bucket: &str, key: &str| {
        let objects = emulator.objects(bucket);
        objects.into_iter().find(|object| object.key == key).map(|object| object.bytes)
    };
    assert_eq!(bytes(common::BUCKET, "during"), Some(23));
    assert_eq!(bytes(common::BUCKET, "last"), Some(14));
    assert_eq!(bytes(OTHER_BUCKET, "moved"), Some(1));
    assert_eq!(bytes(OTHER_BUCKET, "old"), None);
    assert_eq!(gateway.mount_pid(), mount_pid, "the mount process went on");
    let mut points: Vec<_> = gateway.mounts().into_iter().map(|(point, _)| point).collect();
    points.dedup();
    assert!(!points.contains(&gateway.home("goes")), "its floor has gone too: {points:?}");
    assert_eq!(fs::read_dir(gateway.home("goes")).unwrap().count(), 0, "a plain directory again");
    assert_eq!(fs::read(new_home.join("new")).unwrap(), b"2");
    assert!(gateway.stop(20).unwrap().success());
    assert_eq!(gateway.mounts(), []);
}

/// > A new file that makes no sense changes nothing, and the log tells all that is wrong with it.
#[test]
fn a_bad_file_changes_nothing_and_says_why() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user0", "").account("user1", "").serve();
    let port = gateway.ftp_port();
    let mut client = Client::log_in(port, "user0");
    edit(&gateway, |text| {
        let gone = section(&text, 1);
        text.replace(&gone, "").replace("[NETWORK]", "[NETWORK]\npassiv_port = 1\nidle_timeout = soon")
    });
    gateway.process().signal(Signal::HUP);
    assert!(eventually(20, || log(&gateway).contains("not reloaded")));
    let log = log(&gateway);
    assert!(log.contains("passiv_port: unknown key") && log.contains("idle_timeout: `soon`"), "{log}");
    assert_eq!(log.lines().filter(|line| line.contains("ERROR")).count(), 3, "{log}");
    client.ask("NOOP", 200);
    client.store("f", b"1");
    Client::log_in(port, "user1").store("g", b"1");
    assert!(gateway.stop(20).unwrap().success(), "and it stops in order");
}

#[test]
fn a_password_a_limit_and_credentials_change_without_unmounting() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user0", "").account("user1", "").serve();
    let port = gateway.ftp_port();
    let (mut user0, mut user1) = (Client::log_in(port, "user0"), Client::log_in(port, "user1"));
    let mut open = fs::File::create(gateway.home("user1").join("open")).unwrap();
    open.write_all(b"on its way").unwrap();
    edit(&gateway, |text| {
        text.replace("user0-password", "another")
            .replace("listen_port = 0", "listen_port = 0\nidle_timeout = 200s")
    });
    reload(&mut gateway);
    user0.hear(421);
    user1.ask("NOOP", 200);
    assert!(Client::may_log_in(port, "user0", "another"));
    assert!(!Client::may_log_in(port, "user0", "user0-password"));
    // Wrong credentials are told of, and the mount stays where it is; right ones cure it.
    edit(&gateway, |text| text.replace("emulator-secret", "wrong-secret"));
    reload(&mut gateway);
    let data = user1.begin("STOR refused");
    drop(data);
    user1.hear(550);
    edit(&gateway, |text| text.replace("wrong-secret", "emulator-secret"));
    reload(&mut gateway);
    user1.store("stored", b"1");
    open.sync_all().unwrap();
    assert_eq!(emulator.keys(), ["open", "stored"]);
}

#[test]
fn a_home_that_cannot_be_mounted_takes_no_other_one_down() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user0", "").mount();
    let log = gateway.tree().join("log/cosgate-mount.log");
    let said = |word: &str| fs::read_to_string(&log).unwrap().contains(word);
    let (bad, good) = (gateway.tree().join("homes/bad"), gateway.tree().join("homes/good"));
    fs::create_dir(&good).unwrap();
    fs::create_dir(&bad).unwrap();
    edit(&gateway, |text| {
        let account = section(&text, 0);
        let another = |number: u8, name: &str| {
            account.replace("COS_ACCOUNT_0", &format!("COS_ACCOUNT_{number}")).replace("user0", name)
        };
        format!("{}{}{text}", another(1, "bad"), another(2, "good"))
    });
    // Supervised, it does not look at homes itself: whoever supervises it has.
    fs::write(bad.join("file"), "in the way").unwrap();
    gateway.process().signal(Signal::HUP);
    assert!(eventually(20, || said("reloaded")), "{}", fs::read_to_string(&log).unwrap());
    assert!(said("not mounted: the others are"));
    fs::write(gateway.home("user0").join("f"), b"1").unwrap();
    fs::write(good.join("g"), b"1").unwrap();
    assert_eq!(fs::read_dir(&bad).unwrap().count(), 1, "no floor is left on it");
    fs::remove_file(bad.join("file")).unwrap();
    gateway.process().signal(Signal::HUP);
    assert!(eventually(20, || gateway.mounts().contains(&(bad.clone(), "fuse.cosgate".to_owned()))));
    fs::write(bad.join("h"), b"1").unwrap();
    assert_eq!(emulator.keys(), ["f", "g", "h"], "the next reload mounts it");
}

#[test]
fn ten_transfers_go_on_through_a_reload() {
    let _watchdog = Watchdog::bark_after(180);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user0", "").account("user1", "").serve();
    let port = gateway.ftp_port();
    let content: Vec<u8> = (0..2_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    Client::log_in(port, "user0").store("there", &content);
    let transfers: Vec<_> = (0..10)
        .map(|number| {
            let content = content.clone();
            thread::spawn(move || {
                let mut client = Client::log_in(port, "user0");
                if number % 2 == 0 {
                    let mut data = client.begin(&format!("STOR f{number}"));
                    for piece in content.chunks(100_000) {
                        data.write_all(piece).unwrap();
                        pause(Duration::from_millis(100));
                    }
                } else {
                    let mut data = client.begin("RETR there");
                    let (mut came, mut piece) = (Vec::new(), vec![0; 100_000]);
                    loop {
                        let bytes = data.read(&mut piece).unwrap();
                        if bytes == 0 {
                            break;
                        }
                        came.extend_from_slice(&piece[..bytes]);
                        pause(Duration::from_millis(20));
                    }
                    assert!(came == content);
                }
                client.hear(226);
                client.ask("NOOP", 200);
            })
        })
        .collect();
    pause(Duration::from_millis(500));
    for round in 0..2 {
        edit(&gateway, |text| {
            let user1 = section(&text, 1);
            text.replace(&user1, &user1.replace("user1-password", &format!("password{round}")))
        });
        reload(&mut gateway);
    }
    edit(&gateway, |text| text.replace(&section(&text, 1), ""));
    reload(&mut gateway);
    for transfer in transfers {
        transfer.join().unwrap();
    }
    let sizes: Vec<_> = emulator.objects(common::BUCKET).into_iter().map(|object| object.bytes).collect();
    assert_eq!(sizes, [2_000_000; 6]);
}

/// > Where the terminal that cosgate was started on has gone, SIGHUP stops it.
#[test]
fn a_terminal_that_goes_takes_the_program_along() {
    let _watchdog = Watchdog::bark_after(60);
    let emulator = Emulator::start();
    let gateway = Setup::new(&emulator).account("user0", "").start("ftp", &[]);
    // script(1) makes a terminal; killed, it leaves the program behind on one that has hung up.
    let pid_file = gateway.tree().join("pid");
    let line = format!(
        "echo $$ > {}; exec {} ftp -c {} > {}",
        pid_file.display(),
        env!("CARGO_BIN_EXE_cosgate"),
        gateway.config().display(),
        gateway.tree().join("said").display()
    );
    let mut command = Command::new("script");
    command.args(["-q", "-c", &line, "/dev/null"]).stderr(Stdio::null());
    let mut terminal = Process::start("script", &mut command);
    let ready = || fs::read_to_string(gateway.tree().join("said")).is_ok_and(|said| said.contains("ready"));
    assert!(eventually(20, ready));
    let pid: u32 = fs::read_to_string(pid_file).unwrap().trim().parse().unwrap();
    assert!(common::is_alive(pid));
    terminal.signal(Signal::KILL);
    assert_eq!(terminal.wait(10).unwrap().signal(), Some(9));
    assert!(eventually(20, || !common::is_alive(pid)), "nobody would stop it any more");
}

/// > A transfer that a rate holds back is not stalled, and a rate that SIGHUP changes holds for transfers under way too.
#[test]
fn a_rate_that_is_lifted_lets_a_transfer_go() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let setup = Setup::new(&emulator).network("stall_timeout = 1s");
    let mut gateway =
        setup.account("user0", "max_upload_rate = 1000\nmax_download_rate_per_session = 1000").serve();
    fs::write(gateway.home("user0").join("there"), vec![7; 1_000_000]).unwrap();
    let port = gateway.ftp_port();
    let (mut up, mut down) = (Client::log_in(port, "user0"), Client::log_in(port, "user0"));
    let mut upload = up.begin("STOR f");
    let sender = thread::spawn(move || upload.write_all(&vec![7; 1_000_000]).unwrap());
    let mut download = down.begin("RETR there");
    pause(Duration::from_millis(2500));
    // At this rate each of them would take a quarter of an hour.
    edit(&gateway, |text| text.replace("= 1000\n", "= 0\n"));
    reload(&mut gateway);
    let mut came = Vec::new();
    download.read_to_end(&mut came).unwrap();
    assert_eq!(came.len(), 1_000_000);
    sender.join().unwrap();
    up.hear(226);
    down.hear(226);
    assert_eq!(emulator.keys(), ["f", "there"]);
}
