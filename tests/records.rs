//! The logs that programs read: transfers, logins and changes, as a real gateway writes them.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{fs, path::Path, process::Command, time::Duration};

use common::{Emulator, Gateway, Setup, Watchdog, eventually, pause, require};
use rustix::process::Signal;
use serde_json::Value;

/// curl with a user's URL; whether it succeeded.
fn curl(gateway: &mut Gateway, user: &str, password: &str, path: &str, arguments: &[&str]) -> bool {
    require("curl");
    let url = format!("ftp://{user}:{password}@127.0.0.1:{}/{path}", gateway.ftp_port());
    let done =
        Command::new("curl").args(["-sS", "--max-time", "60"]).args(arguments).arg(url).output().unwrap();
    done.status.success()
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// > `xferlog` has one line for each upload and download, as wu-ftpd writes them, and `cosgate-access.log` one for each login, logout, transfer and change.
#[test]
fn every_command_that_changes_something_has_its_line() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user0", "posix_metadata = true").serve();
    fs::write(gateway.home("user0").join("f"), "abc").unwrap();
    let changes = [
        ("MKD d", "verb=MKD path=/d outcome=complete code=257"),
        ("RMD d", "verb=RMD path=/d outcome=complete code=250"),
        ("MFMT 20200101000000 f", "verb=MFMT path=/f outcome=complete code=213"),
        ("MDTM 20210101000000 f", "verb=MDTM path=/f outcome=complete code=213"),
        ("*MDTM 20210101000000 absent", "verb=MDTM path=/absent outcome=refused code=550"),
        ("SITE CHMOD 600 f", "verb=\"SITE CHMOD\" path=/f outcome=complete code=200"),
        ("SITE UTIME 20220101000000 f", "verb=\"SITE UTIME\" path=/f outcome=complete code=200"),
        ("RNTO g", "verb=RNTO path=/f to=/g outcome=complete code=250"),
        ("DELE g", "verb=DELE path=/g outcome=complete code=250"),
        ("*DELE g", "verb=DELE path=/g outcome=refused code=550"),
    ];
    // What asks changes nothing, and has none.
    let asks = ["MDTM f", "SIZE f", "SITE HELP"];
    let mut words: Vec<&str> = asks.iter().flat_map(|line| ["-Q", line]).collect();
    for (line, _) in &changes {
        words.extend(if line.starts_with("RNTO") { &["-Q", "RNFR f"][..] } else { &[] });
        words.extend(["-Q", line]);
    }
    words.extend(["-l", "-o", "/dev/null"]);
    assert!(curl(&mut gateway, "user0", "user0-password", "", &words));
    let access = gateway.tree().join("log/cosgate-access.log");
    assert!(eventually(20, || read(&access).contains(" logout ")), "{}", read(&access));
    let text = read(&access);
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(" change ")).collect();
    assert_eq!(lines.len(), changes.len(), "{text}");
    for ((_, expected), line) in changes.iter().zip(lines) {
        assert!(line.ends_with(expected), "{line}: {expected}");
    }
}

/// > `xferlog` has one line for each upload and download, as wu-ftpd writes them, and `cosgate-access.log` one for each login, logout, transfer and change.
#[test]
fn every_login_transfer_and_change_has_its_line_and_no_password() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let setup = Setup::new(&emulator).account("user0", "");
    let tree = tempfile::tempdir().unwrap();
    let xferlog = tree.path().join("xferlog");
    let mut gateway = setup.optional(&format!("xferlog = {}", xferlog.display())).serve();
    let source = tree.path().join("source");
    fs::write(&source, vec![7; 100_000]).unwrap();
    let source = source.to_str().unwrap();
    assert!(curl(&mut gateway, "user0", "user0-password", "a%20b.txt", &["-T", source]));
    assert!(curl(&mut gateway, "user0", "user0-password", "a%20b.txt", &["-o", "/dev/null"]));
    assert!(curl(
        &mut gateway,
        "user0",
        "user0-password",
        "",
        &["-l", "-Q", "DELE a b.txt", "-o", "/dev/null"]
    ));
    assert!(!curl(&mut gateway, "user0", "guessed-secret", "", &[]));
    let access = gateway.tree().join("log/cosgate-access.log");
    assert!(eventually(20, || read(&access).matches(" logout ").count() == 3), "{}", read(&access));
    let text = read(&access);
    let events: Vec<&str> = text.lines().map(|line| line.split(' ').nth(1).unwrap()).collect();
    let count = |event: &str| events.iter().filter(|&&said| said == event).count();
    assert_eq!(
        (count("login"), count("login-failed"), count("transfer"), count("change")),
        (3, 1, 3, 1),
        "{text}"
    );
    assert!(text.lines().all(|line| line.contains(" addr=127.0.0.1 user=user0")), "{text}");
    assert!(text.contains("verb=STOR path=\"/a b.txt\" bytes=100000 ") && text.contains("outcome=complete"));
    let transfers = read(&xferlog);
    let lines: Vec<Vec<&str>> = transfers.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 2, "{transfers}");
    for (line, direction) in lines.iter().zip(["i", "o"]) {
        let fields =
            ["1", "127.0.0.1", "100000", "/a_b.txt", "b", "_", direction, "r", "user0", "ftp", "0", "*", "c"];
        assert_eq!(line[5..], fields, "behind the date");
    }
    for file in ["cosgate-serve.log", "cosgate-access.log", "cosgate-mount.log"] {
        let text = read(&gateway.tree().join("log").join(file));
        assert!(!text.contains("user0-password") && !text.contains("guessed-secret"), "{file}");
    }
    // An external logrotate moves the files and sends SIGHUP.
    let moved = tree.path().join("xferlog.1");
    fs::rename(&xferlog, &moved).unwrap();
    gateway.process().signal(Signal::HUP);
    let log = gateway.tree().join("log/cosgate-serve.log");
    assert!(eventually(20, || read(&log).contains(" reloaded")));
    assert!(curl(&mut gateway, "user0", "user0-password", "c", &["-T", source]));
    assert!(eventually(20, || read(&xferlog).lines().count() == 1), "{}", read(&xferlog));
    assert_eq!(read(&moved).lines().count(), 2);
}

/// > Log files are put aside by the clock, so many of them are kept, and a log that cannot be written hurts no transfer.
#[test]
fn logs_are_put_aside_by_the_second_and_a_full_disk_hurts_nobody() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let setup = Setup::new(&emulator).account("user0", "").optional("xferlog = /dev/full\nlog_format = json");
    let rotation = "log_rotate_enabled = true\nlog_rotate_when = S\nlog_backup_count = 2";
    let mut gateway = setup.optional(rotation).serve();
    for number in 0..5 {
        assert!(curl(&mut gateway, "user0", "user0-password", &format!("f{number}"), &["-T", "/etc/passwd"]));
        pause(Duration::from_millis(1100));
    }
    assert!(curl(&mut gateway, "user0", "user0-password", "", &["-o", "/dev/null"]));
    let files = |name: &str| {
        let entries = fs::read_dir(gateway.tree().join("log")).unwrap().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let mut names: Vec<_> = names.filter(|known| known.starts_with(name)).collect();
        names.sort_unstable();
        names
    };
    for name in ["cosgate-access.log", "cosgate-serve.log"] {
        assert!(eventually(10, || files(name).len() == 3), "{:?}", files(name));
        // Such as cosgate-access.log.2026-11-21_10-00-00
        let aside = &files(name)[1];
        assert_eq!(aside.len(), name.len() + ".2026-11-21_10-00-00".len(), "{aside}");
    }
    let access = read(&gateway.tree().join("log/cosgate-access.log"));
    for line in access.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["addr"], &line["user"]), (&Value::from("127.0.0.1"), &Value::from("user0")));
    }
    assert_eq!(emulator.keys().len(), 5);
}
