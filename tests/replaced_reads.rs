//! Whoever reads while somebody else replaces the object in the bucket: over FTP and on the mount, an error
//! behind bytes of the old one, never a mixture that looks whole.

mod common;

use std::{
    io::Read,
    process::{Command, Stdio},
};

use common::{Emulator, FtpClient, RawClient, Setup, Watchdog};

/// More than read-ahead, the front and the sockets hold together.
const BYTES: usize = 48_000_000;

fn content(seed: u64) -> Vec<u8> {
    let mut content = vec![0; BYTES];
    fastrand::Rng::with_seed(seed).fill(&mut content);
    content
}

#[test]
fn an_object_replaced_during_a_read_is_an_error_for_ftp_and_for_cat() {
    let _watchdog = Watchdog::bark_after(170);
    let emulator = Emulator::start();
    let mut gateway = Setup::new(&emulator).account("user", "").optional("memory_limit = 16M").serve();
    let path = gateway.home("user").join("a");
    let mut client = FtpClient::log_in(&mut gateway, "user");
    let (first, second, third) = (content(1), content(2), content(3));
    let replace = |content: &[u8]| {
        let answer = RawClient::once(emulator.address(), "PUT", "a", "", content).expect("it answers");
        assert_eq!(answer.status, 200);
    };
    replace(&first);

    let mut data = client.passive();
    client.ask("RETR a", 150);
    let mut got = vec![0; 100_000];
    data.read_exact(&mut got).expect("it begins");
    replace(&second);
    // It ends in a reset: what counts is the reply.
    drop(data.read_to_end(&mut got));
    drop(data);
    assert_eq!(client.hear().0, 451);
    assert!(got.len() < BYTES && first.starts_with(&got), "{} bytes over FTP", got.len());
    assert!(client.fetch("RETR a") == second, "the next open reads the new one");

    let mut cat = Command::new("cat").arg(&path).stdout(Stdio::piped()).spawn().expect("cat runs");
    let mut output = cat.stdout.take().expect("it is piped");
    let mut got = vec![0; 1000];
    output.read_exact(&mut got).expect("it begins");
    replace(&third);
    output.read_to_end(&mut got).expect("a pipe");
    assert!(!cat.wait().expect("it ends").success(), "cat tells of it");
    assert!(got.len() < BYTES && second.starts_with(&got), "{} bytes by cat", got.len());
    assert!(std::process::Command::new("cat").arg(&path).output().expect("cat runs").stdout == third);
}
