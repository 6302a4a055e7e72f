//! Stopping, dying and coming back: what is in flight ends well or not at all, and nothing stays behind.

mod common;

use std::{
    fs::{self, File},
    io::Write,
    time::{Duration, Instant},
};

use common::{
    Emulator, Gateway, Process, Setup, TempTree, Watchdog, children_of, eventually, is_alive, mounts_below,
    pause, shell,
};
use rustix::process::{Pid, Signal, kill_process};

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.cast_signed()).expect("a number"), signal).expect("it lives");
}

fn one_home(setup: Setup) -> (Gateway, std::path::PathBuf) {
    let gateway = setup.account("user0", "").mount();
    let home = gateway.home("user0");
    (gateway, home)
}

#[test]
fn a_write_in_flight_may_end_within_the_grace() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let (mut gateway, home) = one_home(Setup::new(&emulator).optional("grace_timeout = 20"));
    let mut file = File::create(home.join("f")).expect("create");
    file.write_all(b"half ").expect("write");
    gateway.process().signal(Signal::TERM);
    pause(Duration::from_millis(300));
    assert!(fs::write(home.join("new"), b"x").is_err(), "no new work once it stops");
    file.write_all(b"and half").expect("the open one goes on");
    file.sync_all().expect("it is published");
    drop(file);
    assert!(gateway.process().wait(10).expect("it stops").success());
    assert_eq!(gateway.mounts(), []);
    assert_eq!(emulator.keys(), ["f"]);
}

#[test]
fn a_write_that_does_not_end_is_discarded_and_its_program_is_let_go() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let (mut gateway, home) = one_home(Setup::new(&emulator).optional("grace_timeout = 1"));
    let mut file = File::create(home.join("f")).expect("create");
    file.write_all(&vec![7; 9 << 20]).expect("write");
    let began = Instant::now();
    assert!(gateway.stop(15).expect("it stops, though a file is open").success());
    assert!(began.elapsed() >= Duration::from_millis(900), "the grace was given");
    assert!(file.write_all(b"more").is_err());
    assert_eq!(gateway.mounts(), []);
    assert_eq!(emulator.keys(), [] as [&str; 0]);
    assert_eq!(emulator.uploads(), []);
}

#[test]
fn a_mount_that_somebody_works_in_is_unmounted_by_force() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let (mut gateway, home) = one_home(Setup::new(&emulator).optional("grace_timeout = 1"));
    let mut shell =
        std::process::Command::new("sleep").arg("60").current_dir(&home).spawn().expect("it starts");
    assert!(gateway.stop(15).expect("it stops").success());
    shell.kill().expect("it lives");
    shell.wait().expect("it is our child");
    assert_eq!(gateway.mounts(), []);
}

#[test]
fn an_idle_gateway_stops_at_once() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user0", "").account("user1", "").serve();
    let (serve, mount) = (gateway.process().pid(), gateway.mount_pid());
    let began = Instant::now();
    assert!(gateway.stop(10).expect("it stops").success());
    // 0.5 s are promised of a release build on a quiet machine.
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(!is_alive(serve) && !is_alive(mount));
    assert_eq!(gateway.mounts(), []);
}

#[test]
fn a_mount_child_that_is_killed_comes_back() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user0", "").serve();
    let home = gateway.home("user0");
    fs::write(home.join("f"), b"bytes").expect("create");
    for _ in 0..2 {
        let old = gateway.mount_pid();
        signal(old, Signal::KILL);
        let back = || fs::read(home.join("f")).is_ok_and(|bytes| bytes == b"bytes");
        assert!(eventually(5, back), "the mounts are back within five seconds");
        assert_ne!(gateway.mount_pid(), old);
    }
    let kinds: Vec<_> = gateway.mounts().into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(kinds, ["tmpfs", "fuse.cosgate"]);
    assert!(gateway.stop(10).expect("it stops").success());
    assert_eq!(gateway.mounts(), []);
}

#[test]
fn the_mount_child_ends_in_order_when_its_parent_is_killed() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user0", "").serve();
    let mount = gateway.mount_pid();
    gateway.kill();
    assert!(eventually(10, || !is_alive(mount)), "nobody is left to supervise it");
    assert_eq!(gateway.mounts(), [], "it took its mounts along");
}

#[test]
fn a_start_right_after_a_kill_waits_for_the_mount_process_to_end() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).optional("grace_timeout = 2").account("user0", "").serve();
    let home = gateway.home("user0");
    let mut file = File::create(home.join("f")).expect("create");
    file.write_all(b"on its way").expect("write");
    let old_mount = gateway.mount_pid();
    gateway.kill();
    assert!(is_alive(old_mount), "an open file keeps it for the grace");
    gateway.restart();
    assert!(!is_alive(old_mount));
    let mounted: Vec<_> = gateway.mounts().into_iter().map(|(_, kind)| kind).collect();
    assert_eq!(mounted, ["tmpfs", "fuse.cosgate"], "the floor, and the bucket on it");
    fs::write(home.join("g"), b"x").expect("it serves");
    drop(file);
    assert_eq!(emulator.keys(), ["g"]);
}

#[test]
fn the_demo_leaves_nothing_behind() {
    let _watchdog = Watchdog::bark_after(120);
    let tree = TempTree::new();
    let dir = tree.path().join("demo");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_cosgate"));
    command
        .args(["demo", "--tls", "--port", "0", "--dir"])
        .arg(&dir)
        .env("RUNTIME_DIRECTORY", tree.path().join("run"));
    let mut demo = Process::start("cosgate demo", &mut command);
    demo.wait_for_line(20, |line| line == "ready");
    demo.wait_for_line(5, |line| line.contains("curl -T"));
    let with_tls = demo.wait_for_line(5, |line| line.contains("curl --ssl-reqd"));
    let (is_done, said) = shell(with_tls.trim());
    assert!(is_done, "{with_tls}: {said}");
    let children: Vec<u32> = children_of(demo.pid()).into_iter().map(|(pid, _)| pid).collect();
    assert_eq!(children.len(), 2, "the store and the mounts");
    assert!(dir.join("user0/os-release").is_file(), "the line that it prints works");
    fs::write(dir.join("user0/f"), b"bytes").expect("the mount takes a file");
    fs::write(dir.join("user1/f"), b"bytes").expect("the mount takes a file");
    assert!(fs::remove_file(dir.join("user1/f")).is_err(), "user1 may not delete");
    demo.signal(Signal::INT);
    assert!(demo.wait(10).expect("it stops").success());
    assert!(children.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(mounts_below(tree.path()), []);
    assert!(dir.join("store").is_dir(), "a given directory stays");
}
