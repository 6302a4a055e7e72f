//! The command line as scripts and units meet it: exit codes, and what is said where.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    fs,
    io::{BufRead, BufReader, Write as _},
    os::fd::AsRawFd,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::mount::{MountFlags, UnmountFlags};

const ACCOUNT: &str = "[COS_ACCOUNT_0]\ncos_secretid = AKID1\ncos_secretkey = s3cr3t\ncos_bucket = demo-1250000000\n\
    cos_endpoint = 127.0.0.1:9\ncos_protocol = http\nhome_dir = HOME\nftp_login_user_name = user0\n\
    ftp_login_user_password = pass0\n";

fn cosgate(folder: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } =
        Command::new(env!("CARGO_BIN_EXE_cosgate")).args(arguments).current_dir(folder).output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

/// A folder with a home, and the text of a good configuration.
fn good() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    fs::create_dir(&home).unwrap();
    let text = ACCOUNT.replace("HOME", home.to_str().unwrap()) + "[OPTIONAL]\nconfig_check_enable = false\n";
    (folder, text)
}

#[test]
fn a_command_line_that_makes_no_sense_ends_with_64() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &[][..],
        &["dance"],
        &["serve", "--colour"],
        &["check", "-c"],
        &["serve", "extra"],
        &["mount", "--only"],
    ] {
        let (code, stdout, stderr) = cosgate(folder.path(), arguments);
        assert_eq!((code, stdout.as_str()), (Some(64), ""), "{arguments:?}");
        assert!(stderr.contains("--help"), "{stderr}");
    }
}

#[test]
fn help_and_version_end_with_0() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&["--help"][..], &["-h"], &["help", "serve"], &["mount", "--help"], &["--version"]] {
        let (code, stdout, stderr) = cosgate(folder.path(), arguments);
        assert_eq!((code, stderr.as_str()), (Some(0), ""), "{arguments:?}");
        assert!(stdout.contains("cosgate"), "{stdout}");
    }
}

#[test]
fn passwd_prints_a_hash_that_a_configuration_takes() {
    let (folder, text) = good();
    let passwd = |input: &str| {
        let mut child = Command::new(env!("CARGO_BIN_EXE_cosgate"))
            .arg("passwd")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
        (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    };
    let (code, hash, stderr) = passwd("pass word\n");
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(hash.starts_with("$argon2id$v=19$") && hash.lines().count() == 1, "{hash}");
    fs::write(folder.path().join("good.conf"), text.replace("pass0", hash.trim_end())).unwrap();
    let (code, stdout, stderr) = cosgate(folder.path(), &["check", "-c", "good.conf"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(!stdout.contains("$argon2"), "{stdout}");
    for input in ["", "\n", "a\tb\n"] {
        let (code, stdout, stderr) = passwd(input);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{input:?}");
        assert!(stderr.starts_with("cosgate: "), "{stderr}");
    }
}

#[test]
fn a_bad_configuration_ends_with_78_and_tells_all_its_problems() {
    let (folder, text) = good();
    let text = text
        .replace("127.0.0.1:9", "ap-xxx.myqcloud.com")
        .replace("[OPTIONAL]", "colour = blue\n[OPTIONAL]\nattr_ttl = x");
    fs::write(folder.path().join("bad.conf"), text).unwrap();
    for subcommand in ["serve", "mount", "ftp", "check"] {
        let (code, stdout, stderr) = cosgate(folder.path(), &[subcommand, "-c", "bad.conf"]);
        assert_eq!((code, stdout.as_str()), (Some(78), ""), "{subcommand}");
        let lines: Vec<_> = stderr.lines().collect();
        assert_eq!(lines[0], "bad.conf: 3 problems");
        for start in ["[COS_ACCOUNT_0] colour: ", "[OPTIONAL] attr_ttl: ", "[COS_ACCOUNT_0] cos_endpoint: "] {
            assert!(lines.iter().any(|line| line.starts_with(start)), "{start} {stderr}");
        }
    }
}

#[test]
fn a_certificate_that_cannot_be_used_ends_with_78_and_an_expired_one_is_a_warning() {
    let (folder, text) = good();
    let made = |until: i32| {
        let mut params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(until, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let path = |name: &str| folder.path().join(name).display().to_string();
    let lines = format!("[NETWORK]\ntls_cert = {}\ntls_key = {}\n", path("cert.pem"), path("key.pem"));
    assert!(!text.contains("[NETWORK]"));
    fs::write(folder.path().join("tls.conf"), text.replace("[OPTIONAL]", &format!("{lines}[OPTIONAL]")))
        .unwrap();
    let (good, stranger, expired) = (made(2901), made(2901), made(2002));
    for (certificate, key, says) in [
        (None, Some(&good.1), "[NETWORK] tls_cert: "),
        (Some(&good.0), None, "[NETWORK] tls_key: "),
        (Some(&good.0), Some(&stranger.1), "[NETWORK] tls_key: "),
    ] {
        for (name, content) in [("cert.pem", certificate), ("key.pem", key)] {
            fs::write(folder.path().join(name), content.map_or("nothing", String::as_str)).unwrap();
        }
        for subcommand in ["check", "serve", "ftp"] {
            let (code, _, stderr) = cosgate(folder.path(), &[subcommand, "-c", "tls.conf"]);
            assert_eq!(code, Some(78), "{subcommand}: {stderr}");
            assert!(stderr.lines().any(|line| line.starts_with(says)), "{says} expected: {stderr}");
        }
    }
    fs::write(folder.path().join("cert.pem"), &expired.0).unwrap();
    fs::write(folder.path().join("key.pem"), &expired.1).unwrap();
    let (code, stdout, stderr) = cosgate(folder.path(), &["check", "-c", "tls.conf"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.contains("# warning: [NETWORK] tls_cert: ") && stdout.contains("has expired"), "{stdout}");
}

#[test]
fn without_a_file_the_search_order_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (code, _, stderr) = cosgate(folder.path(), &["check"]);
    // The machine that runs this may have the second one.
    if !Path::new("/etc/cosgate/cosgate.conf").exists() {
        assert_eq!(code, Some(78));
        assert!(
            stderr.contains("./conf/vsftpd.conf") && stderr.contains("/etc/cosgate/cosgate.conf"),
            "{stderr}"
        );
    }
    let (folder, text) = good();
    fs::create_dir(folder.path().join("conf")).unwrap();
    fs::write(folder.path().join("conf/vsftpd.conf"), text).unwrap();
    let (code, stdout, stderr) = cosgate(folder.path(), &["check"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(stdout.starts_with("# ./conf/vsftpd.conf, as it is meant\n"), "{stdout}");
}

#[test]
fn check_prints_a_file_that_check_takes() {
    let (folder, text) = good();
    fs::write(folder.path().join("a.conf"), text).unwrap();
    let (code, first, stderr) = cosgate(folder.path(), &["check", "-c", "a.conf"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(!first.contains("s3cr3t") && !first.contains("pass0"), "{first}");
    assert!(first.contains("listen_port = 2121   # default\n"), "{first}");
    fs::write(folder.path().join("b.conf"), &first).unwrap();
    let (code, second, stderr) = cosgate(folder.path(), &["check", "--config", "b.conf"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    let body = |text: &str| text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n");
    assert_eq!(body(&first), body(&second));
    assert!(!folder.path().join("log").exists(), "check writes no log");
}

#[test]
fn check_online_asks_every_bucket_and_fails_where_one_does_not_answer() {
    let (folder, text) = good();
    // Nobody listens on the discard port.
    fs::write(folder.path().join("a.conf"), text + "store_timeout = 1\n").unwrap();
    let (code, stdout, stderr) = cosgate(folder.path(), &["check", "--online", "-c", "a.conf"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stdout.contains("# online: [COS_ACCOUNT_0] demo-1250000000 cannot be used: "), "{stdout}");
    assert!(stderr.contains("1 of 1 buckets cannot be used"), "{stderr}");
    assert!(!stdout.contains("s3cr3t") && !stderr.contains("s3cr3t"));
}

/// Ends the child with the test.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        // It may have ended by itself.
        self.0.kill().ok();
        self.0.wait().unwrap();
    }
}

#[test]
fn check_online_is_content_with_an_emulator_of_the_command_line() {
    let arguments = [
        "emulator",
        "--listen",
        "127.0.0.1:0",
        "--bucket",
        "demo-1250000000",
        "--bucket",
        "two-1250000000",
        "--secret-id",
        "AKID1",
        "--secret-key",
        "s3cr3t",
        "--latency",
        "1",
        "--per-connection-bandwidth",
        "1000000",
        "--fast-etag",
        "--admin",
        "127.0.0.1:0",
    ];
    let mut child = Command::new(env!("CARGO_BIN_EXE_cosgate"));
    let mut child = Child(child.args(arguments).stdout(Stdio::piped()).spawn().unwrap());
    let mut line = String::new();
    // Held until the end: closed after one line, it would break the pipe under the line of the admin port.
    let mut said = BufReader::new(child.0.stdout.take().unwrap());
    said.read_line(&mut line).unwrap();
    let address =
        line.trim().strip_prefix("listening on http://").unwrap_or_else(|| panic!("{line}")).to_owned();
    let (folder, text) = good();
    let text = text.replace("127.0.0.1:9", &address);
    fs::write(folder.path().join("a.conf"), &text).unwrap();
    let (code, stdout, stderr) = cosgate(folder.path(), &["check", "--online", "-c", "a.conf"]);
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert!(stdout.ends_with("# online: [COS_ACCOUNT_0] demo-1250000000 answers\n"), "{stdout}");
    // A wrong secret is refused, and the refusal is told.
    fs::write(folder.path().join("b.conf"), text.replace("s3cr3t", "wrong")).unwrap();
    let (code, stdout, _) = cosgate(folder.path(), &["check", "--online", "-c", "b.conf"]);
    assert_eq!(code, Some(1));
    assert!(stdout.contains("cannot be used: ") && stdout.contains("403"), "{stdout}");
    drop(said);
}

/// A FUSE mount that is never answered, or (its descriptor closed) a dead one.
struct Silent {
    point: PathBuf,
    server: Option<fs::File>,
}

impl Silent {
    fn mount(point: &Path) -> Self {
        let server = fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").expect("modprobe fuse");
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0,allow_other", server.as_raw_fd());
        let data = std::ffi::CString::new(data).unwrap();
        rustix::mount::mount("silent", point, "fuse.silent", MountFlags::empty(), Some(data.as_c_str()))
            .unwrap();
        Self { point: point.to_owned(), server: Some(server) }
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        // Forced: whoever waits for an answer is released.
        let forced = rustix::mount::unmount(&self.point, UnmountFlags::FORCE);
        if forced.is_err() {
            rustix::mount::unmount(&self.point, UnmountFlags::DETACH).unwrap();
        }
    }
}

#[test]
fn a_home_on_a_mount_that_never_answers_does_not_hang_the_check() {
    let (folder, text) = good();
    fs::write(folder.path().join("a.conf"), text).unwrap();
    let mut silent = Silent::mount(&folder.path().join("home"));
    for state in ["silent", "dead"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cosgate"));
        let command =
            command.args(["check", "-c", "a.conf"]).current_dir(folder.path()).stdout(Stdio::null());
        let mut child = Child(command.spawn().unwrap());
        let patience = Instant::now() + Duration::from_secs(10);
        let status = loop {
            match child.0.try_wait().unwrap() {
                Some(status) => break status,
                None if Instant::now() > patience => {
                    drop(silent);
                    panic!("{state}: the check hangs");
                }
                #[expect(clippy::disallowed_methods, reason = "no runtime in this test")]
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        assert!(status.success(), "{state}");
        silent.server = None;
    }
}
