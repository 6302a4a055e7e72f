//! The real mount in a child process, over the embedded store: what programs and the FTP front do with it.

mod common;

use std::{
    fs::{self, File, OpenOptions},
    io::{ErrorKind, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{BUCKET, Emulator, Gateway, Setup, TempTree, Watchdog, eventually, pause, require, shell};
use cosgate::ioctl::{self, RenameWord};
use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{OFlags, XattrFlags, getxattr, setxattr},
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use serde_json::json;

fn one_home() -> (Emulator, Gateway, std::path::PathBuf) {
    let emulator = Emulator::start();
    let gateway = Setup::new(&emulator).account("user0", "").mount();
    let home = gateway.home("user0");
    (emulator, gateway, home)
}

fn errno(result: std::io::Result<impl Sized>) -> Option<i32> {
    result.err().and_then(|error| error.raw_os_error())
}

fn code(errno: Errno) -> Option<i32> {
    Some(errno.raw_os_error())
}

/// As the front opens a file that is to be stored.
fn open_like_the_front(path: &Path) -> File {
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(flags)
        .open(path)
        .expect("the file opens")
}

#[test]
fn a_file_lives_from_create_to_remove() {
    let _watchdog = Watchdog::bark_after(120);
    let (emulator, _gateway, home) = one_home();
    fs::write(home.join("a"), b"first").expect("create");
    assert_eq!(fs::read(home.join("a")).expect("read"), b"first");
    fs::write(home.join("a"), b"second, longer").expect("overwrite");
    assert_eq!(fs::read(home.join("a")).expect("read"), b"second, longer");
    assert_eq!(fs::metadata(home.join("a")).expect("stat").len(), 14);

    fs::create_dir(home.join("d")).expect("mkdir");
    fs::rename(home.join("a"), home.join("d/b")).expect("rename");
    assert_eq!(errno(fs::metadata(home.join("a"))), code(Errno::NOENT));
    assert_eq!(fs::read(home.join("d/b")).expect("read"), b"second, longer");
    assert_eq!(emulator.keys(), ["d/", "d/b"]);

    assert_eq!(errno(fs::remove_dir(home.join("d"))), code(Errno::NOTEMPTY));
    fs::remove_file(home.join("d/b")).expect("unlink");
    assert!(home.join("d").is_dir(), "the last file's removal leaves its directory");
    fs::remove_dir(home.join("d")).expect("rmdir");
    assert_eq!(fs::read_dir(&home).expect("readdir").count(), 0);
    assert_eq!(emulator.keys(), [] as [&str; 0]);
}

#[test]
fn a_large_file_comes_back_as_it_went() {
    let _watchdog = Watchdog::bark_after(150);
    let (emulator, _gateway, home) = one_home();
    let tree = TempTree::new();
    let source = tree.path().join("source");
    let bytes: Vec<u8> = (0..40_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    fs::write(&source, &bytes).expect("a source");
    let (ok, said) = shell(&format!(
        "cp {0} {1}/big && cmp {0} {1}/big && dd if={0} of={1}/again bs=300k 2>/dev/null && cmp {0} {1}/again \
         && tail -c 1000 {1}/big | cmp - <(tail -c 1000 {0})",
        source.display(),
        home.display()
    ));
    assert!(ok, "{said}");
    assert!(emulator.requests("UploadPart") > 0, "a large file leaves in parts");
    assert_eq!(emulator.uploads(), []);
}

#[test]
fn the_usual_programs_find_an_ordinary_directory() {
    let _watchdog = Watchdog::bark_after(150);
    require("vim");
    let (_emulator, _gateway, home) = one_home();
    let home = home.display();
    let lines = [
        format!("echo hello > {home}/f && [ \"$(cat {home}/f)\" = hello ]"),
        format!(
            "dd if=/dev/zero of={home}/z bs=1000 count=77 2>/dev/null && [ $(stat -c %s {home}/z) = 77000 ]"
        ),
        format!("touch {home}/empty && [ $(stat -c %s {home}/empty) = 0 ]"),
        format!("cp -p /etc/passwd {home}/p && cmp /etc/passwd {home}/p && [ $(stat -c %a {home}/p) = 644 ]"),
        format!("cp -a /etc/passwd {home}/q && cmp /etc/passwd {home}/q"),
        format!("mv {home}/p {home}/moved && cmp /etc/passwd {home}/moved && ! test -e {home}/p"),
        format!(
            "mkdir -p {home}/deep/er && cp /etc/group {home}/deep/er/ && find {home} -type f | grep -q deep/er/group"
        ),
        format!("du -s {home} > /dev/null && ls -lR {home} > /dev/null && df {home} > /dev/null"),
        format!("vim -es -u NONE -c '%print' -c 'qa!' {home}/q | head -1 | grep -q root"),
        format!(
            "head -c 10 {home}/q > /dev/null && tail -n 1 {home}/q > /dev/null && wc -c {home}/q > /dev/null"
        ),
        format!("mktemp {home}/tmp.XXXXXX > /dev/null && rm -r {home}/deep && ! ls {home}/deep 2> /dev/null"),
    ];
    for line in lines {
        let (ok, said) = shell(&line);
        assert!(ok, "{line}: {said}");
    }
}

#[test]
fn trees_go_up_and_come_back_unchanged() {
    let _watchdog = Watchdog::bark_after(150);
    require("rsync");
    require("tar");
    let (_emulator, _gateway, home) = one_home();
    let tree = TempTree::new();
    let source = tree.path().join("source");
    for number in 0..60_u32 {
        let dir = source.join(format!("dir {}/sub", number % 7));
        fs::create_dir_all(&dir).expect("a directory");
        let bytes = number.to_le_bytes().repeat((number * number * 3) as usize);
        fs::write(dir.join(format!("文件 {number}.bin")), bytes).expect("a file");
    }
    let (source, home, tree) = (source.display(), home.display(), tree.path().display());
    let lines = [
        format!("rsync -r {source}/ {home}/rsync && diff -r {source} {home}/rsync"),
        format!("rsync -r {home}/rsync/ {tree}/back && diff -r {source} {tree}/back"),
        format!("cp -r {source} {home}/cp && diff -r {source} {home}/cp"),
        format!(
            "tar -C {source} -cf {home}/all.tar . && mkdir {tree}/tar && tar -C {tree}/tar -xf {home}/all.tar"
        ),
        format!("diff -r {source} {tree}/tar"),
        format!("tar -C {home} -cf - cp | tar -tf - | wc -l | grep -q 75"),
        format!("mv {home}/cp {home}/renamed && diff -r {source} {home}/renamed && ! test -e {home}/cp"),
    ];
    for line in lines {
        let (ok, said) = shell(&line);
        assert!(ok, "{line}: {said}");
    }
}

#[test]
fn the_name_shows_the_old_object_until_the_new_one_is_published() {
    let _watchdog = Watchdog::bark_after(120);
    let (_emulator, _gateway, home) = one_home();
    let path = home.join("f");
    fs::write(&path, b"the old bytes").expect("create");
    let mut reader = File::open(&path).expect("a reader");
    let mut old = vec![0; 4];
    reader.read_exact(&mut old).expect("the first read says which object it is");
    let mut writer = File::create(&path).expect("truncation");
    writer.write_all(b"new").expect("write");
    assert_eq!(writer.metadata().expect("fstat").len(), 3, "the writer sees what it wrote");
    assert_eq!(fs::metadata(&path).expect("stat").len(), 13);
    assert_eq!(fs::read(&path).expect("read"), b"the old bytes");
    drop(writer);
    assert_eq!(fs::read(&path).expect("read"), b"new");
    match reader.read_to_end(&mut old) {
        Ok(_) => assert_eq!(old, b"the old bytes"),
        Err(error) => assert_eq!(error.raw_os_error(), code(Errno::STALE)),
    }
}

#[test]
fn a_child_that_closes_its_copy_publishes_nothing() {
    let _watchdog = Watchdog::bark_after(120);
    let (emulator, _gateway, home) = one_home();
    let home = home.display();
    for line in [
        format!("{{ echo a; /bin/echo b; echo c; }} > {home}/f"),
        format!("exec 3> {home}/g; exec 4>&3; exec 4>&-; /bin/echo a >&3; (/bin/echo b >&3); exec 3>&-"),
    ] {
        emulator.forget_requests();
        let (ok, said) = shell(&line);
        assert!(ok, "{line}: {said}");
        assert_eq!(emulator.requests("PutObject"), 1, "{line}");
    }
    assert_eq!(shell(&format!("cat {home}/f {home}/g")).1, "a\nb\nc\na\nb\n");
}

/// The kernel cuts what cp asks for to the size that it remembers.
#[test]
fn cp_of_what_another_gateway_has_replaced_is_whole() {
    let _watchdog = Watchdog::bark_after(60);
    let emulator = Emulator::start();
    let start = || Setup::new(&emulator).optional("attr_ttl = 60s").account("user0", "").mount();
    let (gateway, other) = (start(), start());
    let home = gateway.home("user0");
    fs::write(other.home("user0").join("f"), b"short").expect("create");
    assert_eq!(fs::metadata(home.join("f")).expect("stat").len(), 5);
    fs::write(other.home("user0").join("f"), b"longer than before").expect("replace");
    let (ok, said) = shell(&format!("cp {0}/f {0}/g && cat {0}/g", home.display()));
    assert_eq!((ok, said.as_str()), (true, "longer than before"));
}

/// Within execve(2) the kernel closes what is marked close-on-exec, and holds a lock meanwhile that most of /proc/PID
/// waits for.
#[test]
fn a_program_with_a_file_open_may_start_another_and_become_another() {
    let _watchdog = Watchdog::bark_after(60);
    let (emulator, _gateway, home) = one_home();
    for turn in 0..20 {
        let mut file = File::create(home.join("f")).expect("create");
        write!(file, "{turn}").expect("write");
        assert!(Command::new("true").status().expect("it starts").success());
        write!(file, " and on").expect("write");
        drop(file);
        let mut file = File::open(home.join("f")).expect("open");
        assert!(Command::new("true").status().expect("it starts").success());
        let mut content = String::new();
        file.read_to_string(&mut content).expect("read");
        assert_eq!(content, format!("{turn} and on"));
    }
    let home = home.display();
    let script = format!(
        "import os; f = os.open('{home}/g', os.O_CREAT | os.O_WRONLY); os.write(f, b'x'); os.execvp('true', ['true'])"
    );
    assert!(Command::new("python3").args(["-c", &script]).status().expect("python3").success());
    assert_eq!(emulator.keys(), ["f", "g"]);
}

#[test]
fn a_copy_that_is_killed_leaves_the_old_object() {
    let _watchdog = Watchdog::bark_after(120);
    let (emulator, gateway, home) = one_home();
    fs::write(home.join("old"), b"as it was").expect("create");
    for name in ["old", "new"] {
        let fifo = gateway.tree().join(format!("fifo-{name}"));
        let (ok, said) = shell(&format!("mkfifo {}", fifo.display()));
        assert!(ok, "{said}");
        let mut copy = Command::new("dd")
            .arg(format!("if={}", fifo.display()))
            .arg(format!("of={}", home.join(name).display()))
            .args(["bs=64k"])
            .stderr(Stdio::null())
            .spawn()
            .expect("dd starts");
        let mut feed = OpenOptions::new().write(true).open(&fifo).expect("dd reads the fifo");
        feed.write_all(&vec![7; 6 << 20]).expect("dd takes it");
        kill_process(Pid::from_raw(copy.id().cast_signed()).expect("a number"), Signal::KILL)
            .expect("it lives");
        copy.wait().expect("it is our child");
    }
    assert!(eventually(10, || emulator.uploads().is_empty()), "its upload is aborted");
    assert_eq!(fs::read(home.join("old")).expect("read"), b"as it was");
    assert_eq!(emulator.keys(), ["old"]);
    assert!(eventually(10, || !home.join("new").exists()));
}

#[test]
fn an_armed_file_is_published_by_commit_alone() {
    let _watchdog = Watchdog::bark_after(120);
    let (emulator, _gateway, home) = one_home();
    let path = home.join("f");
    fs::write(&path, b"old").expect("create");

    let mut file = open_like_the_front(&path);
    ioctl::arm(&file).expect("arm");
    file.write_all(b"never").expect("write");
    assert_eq!(errno(file.sync_all()), code(Errno::INVAL), "fsync publishes nothing on an armed handle");
    drop(file);
    assert_eq!(fs::read(&path).expect("read"), b"old");

    let mut file = open_like_the_front(&path);
    ioctl::arm(&file).expect("arm");
    file.write_all(b"bytes").expect("write");
    ioctl::prepare(&file).expect("prepare");
    assert_eq!(fs::read(&path).expect("read"), b"old", "prepare publishes nothing");
    ioctl::commit(&file, 5).expect("commit");
    assert_eq!(fs::read(&path).expect("read"), b"bytes", "it is there before close");
    drop(file);
    assert_eq!(emulator.objects(BUCKET).len(), 1);

    let mut file = open_like_the_front(&path);
    ioctl::arm(&file).expect("arm");
    file.write_all(b"four").expect("write");
    assert!(ioctl::commit(&file, 5).is_err(), "another size than was written is a broken transfer");
    drop(file);
    assert_eq!(fs::read(&path).expect("read"), b"bytes");

    // A file of before is unknown to the words; so is a file of another system.
    assert_eq!(errno(ioctl::arm(File::open("/etc/passwd").expect("it is there"))), code(Errno::NOTTY));
    assert_eq!(emulator.uploads(), []);
}

#[test]
fn a_commit_of_a_removed_name_is_stale() {
    let _watchdog = Watchdog::bark_after(120);
    let (emulator, _gateway, home) = one_home();
    let mut file = open_like_the_front(&home.join("f"));
    ioctl::arm(&file).expect("arm");
    file.write_all(b"bytes").expect("write");
    fs::remove_file(home.join("f")).expect("unlink");
    assert_eq!(errno(ioctl::commit(&file, 5)), code(Errno::STALE));
    drop(file);
    assert_eq!(emulator.keys(), [] as [&str; 0]);
}

#[test]
fn a_rename_by_word_is_seen_at_once() {
    let _watchdog = Watchdog::bark_after(120);
    let (emulator, _gateway, home) = one_home();
    fs::create_dir(home.join("d")).expect("mkdir");
    fs::write(home.join("a"), b"a").expect("create");
    fs::write(home.join("b"), b"b").expect("create");
    let root = File::open(&home).expect("the root opens");
    let rename = |from: &str, to: &str, no_replace| {
        ioctl::rename(&root, &RenameWord { from: from.as_ref(), to: to.as_ref(), no_replace })
    };
    rename("a", "d/深圳", false).expect("rename");
    assert_eq!(fs::read(home.join("d/深圳")).expect("read"), b"a");
    assert_eq!(errno(fs::metadata(home.join("a"))), code(Errno::NOENT));
    assert_eq!(errno(rename("d/深圳", "b", true)), code(Errno::EXIST));
    rename("d/深圳", "b", false).expect("rename onto");
    assert_eq!(fs::read(home.join("b")).expect("read"), b"a");
    assert_eq!(errno(rename("missing", "c", false)), code(Errno::NOENT));
    assert_eq!(emulator.keys(), ["b", "d/"]);
    // Only the root speaks this word.
    let inner = File::open(home.join("d")).expect("a directory opens");
    let word = RenameWord { from: "b".as_ref(), to: "c".as_ref(), no_replace: false };
    assert_eq!(errno(ioctl::rename(&inner, &word)), code(Errno::INVAL));
}

#[test]
fn a_front_without_memory_is_told_eagain_and_woken_by_poll() {
    const BYTES: usize = 40 << 20;
    let _watchdog = Watchdog::bark_after(150);
    let emulator = Emulator::start();
    let gateway = Setup::new(&emulator).account("user0", "").optional("memory_limit = 16M").mount();
    emulator.fault(&json!({"operation": "UploadPart", "kind": "delay", "milliseconds": 100, "times": null}));
    let mut file = open_like_the_front(&gateway.home("user0").join("f"));
    ioctl::arm(&file).expect("arm");
    let piece = vec![9_u8; 1 << 20];
    let (mut written, mut waits) = (0, 0);
    while written < BYTES {
        let rest = (BYTES - written).min(piece.len());
        #[expect(clippy::disallowed_methods, reason = "a short write is what this loop is about")]
        match file.write(&piece[..rest]) {
            Ok(bytes) => written += bytes,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                waits += 1;
                let mut polled = [PollFd::new(&file, PollFlags::OUT)];
                let patience = rustix::event::Timespec { tv_sec: 20, tv_nsec: 0 };
                assert_eq!(poll(&mut polled, Some(&patience)).expect("poll"), 1, "woken when there is room");
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(waits > 0, "40 MiB do not fit into 16 MiB");
    ioctl::commit(&file, BYTES as u64).expect("commit");
    assert_eq!(emulator.objects(BUCKET)[0].bytes, BYTES as u64);
}

#[test]
fn an_ordinary_writer_waits_for_memory_even_with_o_nonblock() {
    const BYTES: usize = 40 << 20;
    let _watchdog = Watchdog::bark_after(150);
    let emulator = Emulator::start();
    let gateway = Setup::new(&emulator).account("user0", "").optional("memory_limit = 16M").mount();
    emulator.fault(&json!({"operation": "UploadPart", "kind": "delay", "milliseconds": 100, "times": null}));
    let mut file = open_like_the_front(&gateway.home("user0").join("f"));
    file.write_all(&vec![9; BYTES]).expect("it waits");
    file.sync_all().expect("fsync publishes");
    assert_eq!(emulator.objects(BUCKET)[0].bytes, BYTES as u64);
}

#[test]
fn two_policies_on_one_home_are_two_views_of_the_same_files() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let gateway = Setup::new(&emulator).first_generation("a:a-password:RW;b:b-password:R").mount();
    let home = gateway.home("home");
    let views: Vec<_> = gateway.mounts().into_iter().filter(|(_, kind)| kind == "fuse.cosgate").collect();
    assert_eq!(views.len(), 2, "{views:?}");
    let reader = &views.iter().find(|(path, _)| *path != home).expect("the other view").0;
    assert!(reader.starts_with(gateway.runtime_dir()), "{}", reader.display());

    assert_eq!(errno(fs::metadata(reader.join("f"))), code(Errno::NOENT));
    fs::write(home.join("f"), b"bytes").expect("the home is for writing");
    assert!(eventually(5, || fs::read(reader.join("f")).is_ok_and(|bytes| bytes == b"bytes")));
    assert_eq!(errno(fs::write(reader.join("g"), b"x")), code(Errno::ROFS));
    assert_eq!(errno(fs::remove_file(reader.join("f"))), code(Errno::ROFS));
    fs::remove_file(home.join("f")).expect("unlink");
    assert!(eventually(5, || !reader.join("f").exists()), "the other view forgets a removed name");
}

#[test]
fn a_shell_cannot_delete_where_delete_enable_is_false() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let gateway = Setup::new(&emulator).account("user0", "delete_enable = false").mount();
    let home = gateway.home("user0");
    fs::write(home.join("a"), b"a").expect("create");
    fs::write(home.join("b"), b"b").expect("create");
    fs::create_dir(home.join("d")).expect("mkdir");
    let before = emulator.objects(BUCKET);
    let home = home.display();
    for line in [
        format!("rm {home}/a"),
        format!("rmdir {home}/d"),
        format!("mv -f {home}/a {home}/b"),
        format!("rm -rf {home}/d"),
    ] {
        let (ok, said) = shell(&line);
        assert!(!ok && said.contains("Operation not permitted"), "{line}: {said}");
    }
    assert_eq!(emulator.objects(BUCKET), before);
    let (ok, said) = shell(&format!("echo new > {home}/a && mv {home}/b {home}/c"));
    assert!(ok, "overwriting, and renaming to a free name, stay allowed: {said}");
    assert_eq!(emulator.keys(), ["a", "c", "d/"]);
}

#[test]
fn a_mount_that_was_killed_is_cleared_at_the_next_start() {
    let _watchdog = Watchdog::bark_after(120);
    let (emulator, mut gateway, home) = one_home();
    fs::write(home.join("f"), b"bytes").expect("create");
    let mut half = File::create(home.join("half")).expect("create");
    half.write_all(b"lost").expect("write");
    gateway.kill();
    assert!(eventually(5, || errno(fs::read_dir(&home)) == code(Errno::NOTCONN)), "the mount is dead");
    assert_eq!(errno(fs::write(home.join("g"), b"x")), code(Errno::NOTCONN));
    assert!(half.write_all(b"more").is_err(), "nobody is told that this went well");
    gateway.restart();
    assert_eq!(fs::read(home.join("f")).expect("read"), b"bytes");
    fs::write(home.join("g"), b"x").expect("create");
    assert_eq!(emulator.keys(), ["f", "g"]);
    let kinds: Vec<_> = gateway.mounts().into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(kinds, ["tmpfs", "fuse.cosgate"], "one floor, one mount, nothing dead");
}

#[test]
fn nothing_lands_on_the_disk_below() {
    let _watchdog = Watchdog::bark_after(120);
    let (_emulator, mut gateway, home) = one_home();
    gateway.kill();
    let (ok, said) = shell(&format!("umount {}", home.display()));
    assert!(ok, "{said}");
    assert_eq!(
        errno(fs::write(home.join("f"), b"x")),
        code(Errno::ROFS),
        "the floor is read-only, for root too"
    );
    // What the unit runs after a crash leaves the floor.
    gateway.restart();
    gateway.kill();
    assert!(gateway.command("mount").arg("--cleanup").status().expect("it starts").success());
    assert_eq!(errno(fs::write(home.join("f"), b"x")), code(Errno::ROFS));
    gateway.restart();
    assert!(gateway.stop(10).expect("it stops").success());
    assert_eq!(gateway.mounts(), [], "after a stop the floor is gone as well");
    assert_eq!(fs::read_dir(&home).expect("readdir").count(), 0);
}

#[test]
fn a_second_gateway_on_a_served_home_is_refused() {
    let _watchdog = Watchdog::bark_after(120);
    let (_emulator, gateway, home) = one_home();
    let second = gateway.command("mount").output().expect("it starts");
    assert!(!second.status.success());
    let said =
        String::from_utf8_lossy(&second.stderr).into_owned() + &String::from_utf8_lossy(&second.stdout);
    assert!(said.contains("in use"), "{said}");
    fs::write(home.join("f"), b"x").expect("the first one serves on");
}

#[test]
fn attributes_tell_what_the_front_and_ls_ask_for() {
    let _watchdog = Watchdog::bark_after(120);
    let (_emulator, gateway, home) = one_home();
    fs::write(home.join("f"), b"123456789").expect("create");
    let ask = |path: &Path, name: &str| {
        let mut value = vec![0; 1024];
        getxattr(path, name, &mut value[..])
            .map(|bytes| String::from_utf8_lossy(&value[..bytes]).into_owned())
    };
    let identity = ask(&home, "user.cosgate.mount").expect("the root says which mount it is");
    assert!(identity.contains("COS_ACCOUNT_0") && identity.contains(BUCKET), "{identity}");
    assert_eq!(ask(&home.join("f"), "user.cosgate.crc64").as_deref(), Ok("11051210869376104954"));
    assert!(ask(&home.join("f"), "user.cosgate.etag").is_ok());
    assert_eq!(ask(&home.join("f"), "security.selinux"), Err(Errno::OPNOTSUPP));
    assert_eq!(ask(&home.join("f"), "system.posix_acl_access"), Err(Errno::OPNOTSUPP));
    let set = |name: &str, value: &[u8]| setxattr(home.join("f"), name, value, XattrFlags::empty());
    // As cp -a sends it: version 2; owner rw, group r, others r (acl(5) in the layout of <linux/posix_acl_xattr.h>).
    let acl =
        b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x04\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    assert_eq!(set("system.posix_acl_access", acl), Err(Errno::OPNOTSUPP), "or cp -a would leave mode 600");
    assert!(set("user.cosgate.etag", b"x").is_err(), "it is read-only");

    let owner = fs::metadata(gateway.tree().join("homes")).expect("stat");
    let shown = fs::metadata(home.join("f")).expect("stat");
    assert_eq!(
        (shown.uid(), shown.gid(), shown.permissions().mode() & 0o777),
        (owner.uid(), owner.gid(), 0o644)
    );
    assert_eq!(shown.blksize(), 1 << 20, "cp then moves pieces of 1 MiB");
    let space = rustix::fs::statvfs(&home).expect("statfs");
    assert!(space.f_frsize > 0 && space.f_bavail > 0 && space.f_namemax == 255);
}

#[test]
fn names_are_any_that_a_key_can_hold() {
    let _watchdog = Watchdog::bark_after(120);
    let (_emulator, _gateway, home) = one_home();
    for name in ["a b", "深圳.txt", "new\nline", "100%+&=?#", &"x".repeat(255)] {
        fs::write(home.join(name), name).unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert_eq!(fs::read_to_string(home.join(name)).expect("read"), *name);
    }
    let mut listed: Vec<_> =
        fs::read_dir(&home).expect("readdir").map(|entry| entry.expect("an entry").file_name()).collect();
    listed.sort();
    assert_eq!(listed.len(), 5, "{listed:?}");
    assert_eq!(errno(fs::write(home.join("x".repeat(256)), b"x")), code(Errno::NAMETOOLONG));
    assert_eq!(errno(fs::hard_link(home.join("a b"), home.join("link"))), code(Errno::PERM));
}

#[test]
fn a_failed_publish_is_told_by_close_and_leaves_the_old_object() {
    let _watchdog = Watchdog::bark_after(150);
    let emulator = Emulator::start();
    let gateway = Setup::new(&emulator).account("user0", "").optional("store_timeout = 2").mount();
    let home = gateway.home("user0");
    fs::write(home.join("f"), b"old").expect("create");
    emulator.fault(&json!({"operation": "PutObject", "kind": "status", "status": 500, "code": "InternalError", "times": null}));
    let (ok, said) = shell(&format!("cp /etc/passwd {}/f", home.display()));
    assert!(!ok, "cp hears of it: {said}");
    let mut file = File::create(home.join("g")).expect("create");
    file.write_all(b"x").expect("write");
    assert!(file.sync_all().is_err());
    assert!(file.sync_all().is_err(), "a second fsync cannot look like success");
    drop(file);
    emulator.no_faults();
    assert_eq!(fs::read(home.join("f")).expect("read"), b"old");
    assert_eq!(emulator.keys(), ["f"]);
}

#[test]
fn a_slow_publish_holds_up_nobody_else() {
    let _watchdog = Watchdog::bark_after(120);
    let (emulator, _gateway, home) = one_home();
    emulator.fault(
        &json!({"operation": "PutObject", "kind": "delay", "milliseconds": 4000, "times": null, "key": "slow"}),
    );
    let slow = home.join("slow");
    let publisher = std::thread::spawn(move || fs::write(slow, b"bytes"));
    pause(Duration::from_millis(300));
    let began = Instant::now();
    let (ok, said) = shell(&format!("ls -l {0} && echo x > {0}/other && cat {0}/other", home.display()));
    assert!(ok, "{said}");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    publisher.join().expect("it does not panic").expect("it is published");
}

#[test]
fn a_bucket_that_refuses_is_mounted_all_the_same() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let gateway =
        Setup::new(&emulator).account_on("missing-1250000000", "lost", "").account("user0", "").mount();
    fs::write(gateway.home("user0").join("f"), b"x").expect("the other account does not suffer");
    let seen = errno(
        fs::read_dir(gateway.home("lost"))
            .map(|entries| entries.map(|entry| entry.map(drop)).collect::<Vec<_>>()),
    )
    .or_else(|| errno(fs::read(gateway.home("lost").join("f"))));
    assert!([code(Errno::IO), code(Errno::ACCESS)].contains(&seen), "{seen:?}");
    assert!(fs::write(gateway.home("lost").join("f"), b"x").is_err());
}

#[test]
fn many_writers_share_little_memory_and_all_finish() {
    const WRITERS: usize = 48;
    let _watchdog = Watchdog::bark_after(150);
    let emulator = Emulator::start();
    let gateway = Setup::new(&emulator).account("user0", "").optional("memory_limit = 16M").mount();
    emulator.fault(&json!({"operation": "PutObject", "kind": "delay", "milliseconds": 200, "times": null}));
    let home = gateway.home("user0");
    // More waits at once than may be copied, so some of them are told to try again.
    let writers: Vec<_> = (0..WRITERS)
        .map(|number| {
            let path = home.join(number.to_string());
            std::thread::spawn(move || fs::write(path, vec![7; 3 << 20]))
        })
        .collect();
    for writer in writers {
        writer.join().expect("it does not panic").expect("it finishes");
    }
    let objects = emulator.objects(BUCKET);
    assert_eq!(objects.iter().filter(|object| object.bytes == 3 << 20).count(), WRITERS);
}

#[test]
fn a_mount_that_somebody_takes_away_is_told_of() {
    let _watchdog = Watchdog::bark_after(120);
    let (_emulator, mut gateway, home) = one_home();
    let (ok, said) = shell(&format!("umount {}", home.display()));
    assert!(ok, "{said}");
    assert_eq!(
        errno(fs::write(home.join("f"), b"x")),
        code(Errno::ROFS),
        "the floor is read-only, for root too"
    );
    let log = gateway.tree().join("log/cosgate-mount.log");
    let told = || fs::read_to_string(&log).is_ok_and(|log| log.contains("was unmounted by somebody else"));
    assert!(eventually(10, told));
    assert!(gateway.stop(10).expect("it stops").success());
    assert_eq!(gateway.mounts(), []);
}

/// The next gateway, perhaps, that was started while this one came to its end.
#[test]
fn what_others_mount_in_its_place_is_left_alone() {
    let _watchdog = Watchdog::bark_after(120);
    let (_emulator, mut gateway, home) = one_home();
    let (ok, said) = shell(&format!("umount {0} && mount -t tmpfs somebody {0}", home.display()));
    assert!(ok, "{said}");
    fs::write(home.join("f"), b"somebody's").expect("it is theirs");
    assert!(gateway.stop(10).expect("it stops").success());
    assert_eq!(fs::read(home.join("f")).expect("it is there still"), b"somebody's");
}
