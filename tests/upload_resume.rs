//! Uploads that broke: what is left of them, who clears it away, and who may go on with them.

mod common;

use std::{fs::File, io::Write as _};

use common::{BUCKET, Emulator, Setup, Watchdog, eventually};

const PART: usize = 4 << 20;

/// The keys of the program itself.
fn notes(emulator: &Emulator) -> Vec<String> {
    let keys = emulator.objects(BUCKET).into_iter().map(|object| object.key);
    keys.filter(|key| key.starts_with(".cosgate/")).collect()
}

#[test]
fn what_a_killed_mount_has_left_open_is_aborted_by_its_next_start() {
    let _watchdog = Watchdog::bark_after(120);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user", "").mount();
    let mut file = File::create(gateway.home("user").join("f")).unwrap();
    file.write_all(&vec![7; 2 * PART + 1]).unwrap();
    assert!(eventually(20, || !emulator.uploads().is_empty() && !notes(&emulator).is_empty()));
    assert_eq!(notes(&emulator), [".cosgate/uploads/f"]);
    gateway.kill();
    drop(file);
    assert_eq!(emulator.uploads().len(), 1);
    gateway.restart();
    assert!(eventually(20, || emulator.uploads().is_empty() && notes(&emulator).is_empty()));
    assert!(emulator.keys().is_empty());
}
