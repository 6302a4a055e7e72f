//! Small files by FTP, counted at the store: what a file costs there, and what all of them cost together.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::collections::BTreeMap;

use common::{BUCKET, Emulator, FtpClient, Setup, Watchdog};

const FILES: u64 = 1000;
const FILE_BYTES: usize = 10 << 10;

/// What has been asked of the store since the last time.
fn asked(emulator: &Emulator) -> BTreeMap<String, u64> {
    let counts = emulator.admin("GET", "/requests", "");
    emulator.forget_requests();
    let counts = counts.as_object().unwrap();
    let asked = counts.iter().map(|(name, entry)| (name.clone(), entry["count"].as_u64().unwrap()));
    asked.filter(|(_, count)| *count > 0).collect()
}

fn content(file: u64) -> Vec<u8> {
    file.to_le_bytes().into_iter().cycle().take(FILE_BYTES).collect()
}

/// > Small files stored into one directory cost one PUT each and one LIST per `attr_ttl`.
///
/// > Small files of a directory that has been listed are downloaded by one GET each, and nothing else.
#[test]
fn a_small_file_costs_one_put_and_one_get() {
    let _watchdog = Watchdog::bark_after(300);
    let emulator = Emulator::start();
    let setup = Setup::new(&emulator).account("user0", "resume_window = 0");
    // Longer than the test takes: a listing is asked for anew when it is older.
    let mut gateway = setup.optional("attr_ttl = 600").serve();
    let mut client = FtpClient::log_in(&mut gateway, "user0");
    client.ask("MKD d", 257);
    client.ask("CWD d", 250);
    asked(&emulator);
    for file in 0..FILES {
        let (code, text) = client.store(format!("STOR f{file}"), &content(file));
        assert_eq!(code, 226, "{text}");
    }
    let up = asked(&emulator);
    assert_eq!(up.get("PutObject"), Some(&FILES), "{up:?}");
    let rest = up.iter().filter(|(name, _)| *name != "PutObject");
    assert!(rest.clone().all(|(name, count)| name == "ListObjects" && *count <= 2), "{up:?}");
    assert_eq!(emulator.objects(BUCKET).len() as u64, FILES + 1);

    assert_eq!(client.names().len() as u64, FILES);
    asked(&emulator);
    for file in 0..FILES {
        assert!(client.fetch(format!("RETR f{file}")) == content(file), "f{file} comes back");
    }
    let down = asked(&emulator);
    assert_eq!(down, BTreeMap::from([("GetObject".to_owned(), FILES)]));
}
