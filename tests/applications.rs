//! Programs that change files in place, on the real mount: each does its work, and what it left is looked at.

mod common;

use std::{fs, os::unix::fs::FileExt, path::Path};

use common::{Emulator, Gateway, Setup, TempTree, Watchdog, require, shell};

fn mounted() -> (Emulator, Gateway, std::path::PathBuf) {
    let emulator = Emulator::start();
    let gateway = Setup::new(&emulator).account("user0", "").mount();
    let home = gateway.home("user0");
    (emulator, gateway, home)
}

/// Runs each line in the directory, all of them in one shell's environment.
fn all_run(directory: &Path, lines: &[&str]) {
    for line in lines {
        let command = format!("cd {} && export HOME=$PWD && {line}", directory.display());
        let (ok, said) = shell(&command);
        assert!(ok, "{line}\n{said}");
    }
}

#[test]
fn tools_of_the_shell_change_files_in_place() {
    let _watchdog = Watchdog::bark_after(150);
    for program in ["vim", "zip", "rsync"] {
        require(program);
    }
    let (_emulator, _gateway, home) = mounted();
    let tree = TempTree::new();
    let away = tree.path().display().to_string();
    all_run(
        &home,
        &[
            "seq 1 1000 > f && echo more >> f && [ \"$(tail -1 f)\" = more ] && [ $(wc -l < f) = 1001 ]",
            "printf XYZ | dd of=f conv=notrunc bs=1 seek=4 2>/dev/null && [ \"$(head -c 7 f | tail -c 3)\" = XYZ ]",
            "truncate -s 100 f && [ $(stat -c %s f) = 100 ] && truncate -s 2M f && [ $(tr -d '\\0' < f | wc -c) = 100 ]",
            "truncate -s 3M new && [ $(stat -c %s new) = 3145728 ] && [ $(tr -d '\\0' < new | wc -c) = 0 ]",
            "fallocate -l 100000 room && [ $(stat -c %s room) = 100000 ]",
            "fallocate -p -o 10 -l 50 f && [ $(tr -d '\\0' < f | wc -c) = 50 ]",
            "seq 1 100 > s && sed -i s/50/fifty/ s && grep -q fifty s && [ $(wc -l < s) = 100 ]",
            "vim -u NONE -es -c '1s/^/first /' -c wq s < /dev/null; [ \"$(head -1 s)\" = 'first 1' ]",
            "zip -q z.zip s f && zip -q z.zip new && unzip -tq z.zip || python3 -m zipfile -t z.zip",
            &format!(
                "head -c 5000000 /dev/urandom > {away}/a && cp {away}/a big \
                 && printf changed | dd of={away}/a bs=1 seek=2000000 conv=notrunc 2>/dev/null \
                 && rsync -I --inplace --no-whole-file {away}/a big && cmp {away}/a big"
            ),
            &format!(
                "truncate -s 6M {away}/sparse && printf end | dd of={away}/sparse bs=1 seek=5000000 conv=notrunc \
                 2>/dev/null && cp --sparse=always {away}/sparse sp && cmp {away}/sparse sp"
            ),
            "for i in 1 2 3; do (for j in $(seq 20); do echo $i.$j >> log; done) & done; wait; [ $(wc -l < log) = 60 ]",
        ],
    );
}

/// > A whole file that is copied within the mount is copied by the store: no byte of it travels.
/// > The original must stand as it was until the copy is closed, else closing fails.
#[test]
fn whole_files_are_copied_by_the_store() {
    let _watchdog = Watchdog::bark_after(150);
    let emulator = Emulator::start();
    let gateway = Setup::new(&emulator).account("user0", "").account("user1", "").mount();
    let home = gateway.home("user0");
    let copies = "import os\nsource = os.open('big', os.O_RDONLY)\nhow = os.O_WRONLY | os.O_CREAT\n";
    all_run(&home, &["head -c 9000000 /dev/urandom > big", "printf abc > small", ": > empty", "seq 9 > old"]);
    emulator.forget_requests();
    let mut lines =
        vec!["cp big copy", "cp big old", "cp -p small little", "mkdir d && cp empty d/e", "cp -r d d2"];
    all_run(&home, &lines);
    let counted = emulator.admin("GET", "/requests", "");
    assert_eq!((emulator.requests("GetObject"), emulator.requests("UploadPart")), (0, 0), "{counted}");
    assert_eq!(emulator.requests("CopyObject"), 3);
    lines = vec![
        "cmp big copy && cmp big old && cmp small little && cmp empty d2/e",
        "cp big grown && echo more >> grown && [ $(stat -c %s grown) = 9000005 ] && head -c 9000000 grown | cmp - big",
        "cp big bigger && cp bigger again && rm bigger && cmp again big",
    ];
    all_run(&home, &lines);
    // Pieces travel, and arrive at the right place; who wants the beginning alone copies by hand.
    let pieces = "target = os.open('pieces', how)\n\
        try:\n    os.copy_file_range(source, target, 5_000_000, 0, 0)\n\
        except OSError as error:\n    assert error.errno == 22, error\n\
        else:\n    assert False, 'copied'\n\
        os.pwrite(target, os.pread(source, 5_000_000, 0), 0)\n\
        os.copy_file_range(source, target, 4_000_000, 5_000_000, 5_000_000)\n\
        os.close(target)\nassert open('pieces', 'rb').read() == open('big', 'rb').read()\n";
    // What lies under the copy can be read and written over before it is there.
    let changed = "target = os.open('changed', os.O_RDWR | os.O_CREAT)\n\
        assert os.copy_file_range(source, target, 9_000_000) == 9_000_000\n\
        assert os.copy_file_range(source, target, 9_000_000) == 0\n\
        assert os.pwrite(target, b'XYZ', 4_000_000) == 3\n\
        assert os.pread(target, 5, 3_999_999)[1:4] == b'XYZ'\nos.close(target)\n\
        wanted = bytearray(open('big', 'rb').read())\nwanted[4_000_000:4_000_003] = b'XYZ'\n\
        assert open('changed', 'rb').read() == wanted\n";
    // The other account has the same bucket.
    let other = gateway.home("user1").join("big").display().to_string();
    let replaced = format!(
        "target = os.open('late', how)\nassert os.copy_file_range(source, target, 9_000_000) == 9_000_000\n\
         open('{other}', 'wb').write(b'another')\n\
         try:\n    os.close(target)\nexcept OSError as error:\n    assert error.errno == 116, error\n\
         else:\n    assert False, 'closed'\n\
         import time\nbegun = time.monotonic()\n\
         while os.path.exists('late'):\n    assert time.monotonic() < begun + 10, 'it is there'\n"
    );
    for script in [pieces, changed, &replaced] {
        all_run(&home, &[&format!("python3 -c \"{copies}{script}\"")]);
    }
    assert!(emulator.uploads().is_empty());
}

#[test]
fn databases_and_repositories_live_on_a_mount() {
    let _watchdog = Watchdog::bark_after(150);
    for program in ["git", "sqlite3"] {
        require(program);
    }
    let (_emulator, _gateway, home) = mounted();
    all_run(
        &home,
        &[
            "sqlite3 db 'create table t(a, b); begin; insert into t select value, hex(randomblob(50)) \
             from generate_series(1, 2000); commit; update t set b = 1 where a % 3 = 0; delete from t where a % 7 = 0' \
             && [ \"$(sqlite3 db 'pragma integrity_check; select count(*) from t' | xargs)\" = 'ok 1715' ]",
            "sqlite3 wal 'pragma journal_mode = wal; create table t(a); insert into t values (1), (2)' \
             && [ \"$(sqlite3 wal 'select sum(a) from t')\" = 3 ]",
            "git config --global user.name a && git config --global user.email a@b && git init -q r \
             && for i in 1 2 3; do seq $i 3000 > r/a$i && git -C r add . && git -C r commit -qm c$i; done \
             && git clone -q r c && [ $(git -C c log --oneline | wc -l) = 3 ] && git -C c gc -q && git -C c fsck --strict",
        ],
    );
}

#[test]
fn headers_are_written_last_and_pages_are_mapped() {
    let _watchdog = Watchdog::bark_after(120);
    require("python3");
    let (emulator, _gateway, home) = mounted();
    fs::write(
        home.join("work.py"),
        "import mmap, os, wave\n\
         w = wave.open('a.wav', 'wb'); w.setnchannels(1); w.setsampwidth(2); w.setframerate(8000)\n\
         [w.writeframes(b'ab' * 5000) for _ in range(3)]; w.close()\n\
         assert wave.open('a.wav', 'rb').getnframes() == 15000\n\
         open('m', 'wb').write(b'x' * 10000)\n\
         f = open('m', 'r+b'); m = mmap.mmap(f.fileno(), 0); m[5000:5005] = b'hello'; m.flush()\n\
         assert os.pread(f.fileno(), 5, 5000) == b'hello'\n\
         os.pwrite(f.fileno(), b'world', 5000); assert m[5000:5005] == b'world'; m.close(); f.close()\n\
         assert open('m', 'rb').read() == b'x' * 5000 + b'world' + b'x' * 4995\n",
    )
    .expect("a program");
    all_run(&home, &["python3 work.py"]);
    assert!(emulator.keys().iter().all(|key| !key.starts_with(".cosgate/scratch")));
}

/// As fsx does: random operations on one file through the kernel, beside a vector of bytes.
#[test]
fn thousands_of_random_operations_leave_the_right_bytes() {
    const OPERATIONS: usize = 3000;
    const BYTES_MAX: usize = 600_000;
    let _watchdog = Watchdog::bark_after(170);
    let (_emulator, _gateway, home) = mounted();
    let seed = std::env::var("COSGATE_FSX_SEED")
        .map_or_else(|_| fastrand::u64(..1 << 40), |seed| seed.parse().expect("a number"));
    println!("COSGATE_FSX_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let path = home.join("fsx");
    let open = |create: bool| {
        fs::OpenOptions::new().read(true).write(true).create(create).open(&path).expect("open")
    };
    let (mut file, mut model) = (open(true), Vec::new());
    for step in 0..OPERATIONS {
        let offset = random.usize(..BYTES_MAX);
        let longest = if random.u8(..8) == 0 { 200_000 } else { 9_000 };
        let length = random.usize(1..longest).min(BYTES_MAX - offset);
        match random.u8(..100) {
            0..45 => {
                let mut data = vec![0; length];
                random.fill(&mut data);
                file.write_all_at(&data, offset as u64).expect("write");
                model.resize(model.len().max(offset + length), 0);
                model[offset..offset + length].copy_from_slice(&data);
            }
            45..85 => {
                let mut read = vec![0; length];
                let got = file.read_at(&mut read, offset as u64).expect("read");
                let end = (offset + length).min(model.len());
                assert!(read[..got] == model[offset.min(end)..end], "step {step}: {length} at {offset}");
            }
            85..95 => {
                let bytes = if random.bool() { offset } else { offset.min(model.len() + 10_000) };
                file.set_len(bytes as u64).expect("truncate");
                model.resize(bytes, 0);
            }
            95..98 => file.sync_all().expect("fsync"),
            _ => {
                drop(file);
                assert!(fs::read(&path).expect("read anew") == model, "step {step}: closed");
                file = open(false);
            }
        }
        assert_eq!(file.metadata().expect("stat").len(), model.len() as u64, "step {step}");
    }
    drop(file);
    assert!(fs::read(&path).expect("the end") == model);
}
