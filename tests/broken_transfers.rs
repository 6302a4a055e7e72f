//! An upload over FTP breaks, in each way that there is, several times over: never a 226, no object or the old one, nothing
//! left open; and then uploads of more than the whole memory go through, so that nothing of it was lost on the way.

mod common;

use std::{
    io::Write,
    net::TcpStream,
    time::{Duration, Instant},
};

use common::{BUCKET, Emulator, FtpClient, Gateway, Setup, Watchdog, eventually, pause};
use rustix::process::Signal;
use serde_json::json;

/// More than `memory_limit` and than the upload requests that may be under way, were each break to lose its share.
const ROUNDS: usize = 8;
const MIB: usize = 1 << 20;

fn content(bytes: usize) -> Vec<u8> {
    let mut content = vec![0; bytes];
    fastrand::Rng::with_seed(bytes as u64).fill(&mut content);
    content
}

/// A gateway with little of everything, and an old object.
fn site(network: &str, optional: &str) -> (Emulator, Gateway) {
    let emulator = Emulator::start();
    let setup = Setup::new(&emulator)
        .account("user", "resume_window = 0")
        .network(network)
        .optional("memory_limit = 12M\nmin_part_size = 1M\nupload_thread_num = 2")
        .optional(optional);
    let mut gateway = setup.serve();
    let mut client = FtpClient::log_in(&mut gateway, "user");
    assert_eq!(client.store("STOR old", b"old").0, 226);
    (emulator, gateway)
}

/// An upload that is under way, with so much of it sent.
fn begun(client: &mut FtpClient, name: &str, bytes: usize) -> TcpStream {
    let mut data = client.passive();
    client.ask(format!("STOR {name}"), 150);
    data.write_all(&content(bytes)).expect("it is taken");
    data
}

/// The old object and nothing else, and room for uploads of more than the memory holds.
fn assert_unharmed(emulator: &Emulator, gateway: &mut Gateway) {
    assert!(eventually(30, || emulator.uploads().is_empty()), "{:?}", emulator.uploads());
    let objects = emulator.objects(BUCKET);
    assert_eq!(objects.iter().map(|object| (&*object.key, object.bytes)).collect::<Vec<_>>(), [("old", 3)]);
    // But for the mark that nobody is to go on with the old one.
    let notes = || {
        let keys = emulator.all_objects(BUCKET).into_iter().map(|object| object.key);
        keys.filter(|key| key.starts_with(".cosgate/uploads")).count()
    };
    assert!(eventually(10, || notes() == 0), "notes are left");
    let mut clients: Vec<_> = (0..3).map(|_| FtpClient::log_in(gateway, "user")).collect();
    std::thread::scope(|scope| {
        for (number, client) in clients.iter_mut().enumerate() {
            scope.spawn(move || {
                let (code, text) = client.store(format!("STOR after{number}"), &content(14 * MIB));
                assert_eq!(code, 226, "{text}");
            });
        }
    });
    let whole = emulator.objects(BUCKET).iter().filter(|object| object.bytes == 14 * MIB as u64).count();
    assert_eq!(whole, 3);
}

/// Breaks uploads of an old and of a new name, small and in parts; each must be answered with one of `codes`.
fn all_break(
    network: &str,
    optional: &str,
    codes: &[u16],
    mut breaks: impl FnMut(&Emulator, &mut Gateway, &mut FtpClient, &str, usize) -> u16,
) {
    let _watchdog = Watchdog::bark_after(170);
    let (emulator, mut gateway) = site(network, optional);
    for round in 0..ROUNDS {
        let (name, bytes) = (["old", "new"][round % 2], [5 * MIB, 100_000][round / 2 % 2]);
        let mut client = FtpClient::log_in(&mut gateway, "user");
        let code = breaks(&emulator, &mut gateway, &mut client, name, bytes);
        assert!(codes.contains(&code), "round {round}: {code}");
        emulator.no_faults();
    }
    assert_unharmed(&emulator, &mut gateway);
}

#[test]
fn a_reset_data_connection() {
    all_break("", "", &[426], |_, _, client, name, bytes| {
        let data = begun(client, name, bytes);
        pause(Duration::from_millis(50));
        socket2::SockRef::from(&data).set_linger(Some(Duration::ZERO)).expect("a socket");
        drop(data);
        client.hear().0
    });
}

#[test]
fn abor() {
    all_break("", "", &[426], |_, _, client, name, bytes| {
        let data = begun(client, name, bytes);
        client.say("ABOR");
        let code = client.hear().0;
        assert_eq!(client.hear().0, 226, "to ABOR itself");
        drop(data);
        code
    });
}

#[test]
fn a_control_connection_that_is_gone_when_the_data_ends() {
    all_break("", "", &[0], |_, gateway, _, name, bytes| {
        let mut other = FtpClient::log_in(gateway, "user");
        let data = begun(&mut other, name, bytes);
        drop(other);
        drop(data);
        0
    });
}

#[test]
fn a_size_that_allo_contradicts() {
    all_break("", "", &[426], |_, _, client, name, bytes| {
        client.ask(format!("ALLO {}", bytes + 1), 200);
        client.store(format!("STOR {name}"), &content(bytes)).0
    });
}

#[test]
fn a_client_that_stalls() {
    all_break("stall_timeout = 1", "", &[426, 451, 421], |_, _, client, name, bytes| {
        let _data = begun(client, name, bytes);
        client.hear().0
    });
}

#[test]
fn a_file_above_the_largest_size() {
    all_break("", "single_file_max_size = 20M", &[552], |_, _, client, name, _| {
        client.store(format!("STOR {name}"), &content(21 * MIB)).0
    });
}

#[test]
fn a_store_that_refuses_a_write() {
    all_break("", "", &[550], |emulator, _, client, name, bytes| {
        let operation = if bytes > MIB { "UploadPart" } else { "PutObject" };
        let fault =
            json!({"operation": operation, "key": name, "kind": "status", "status": 403, "times": null});
        emulator.fault(&fault);
        client.store(format!("STOR {name}"), &content(bytes)).0
    });
}

#[test]
fn a_store_that_is_down_past_its_deadline() {
    all_break("", "store_timeout = 2", &[451], |emulator, _, client, name, bytes| {
        let mut data = begun(client, name, bytes);
        emulator.fault(&json!({"operation": "*", "kind": "refuse-connection", "times": null}));
        // The server may close before it has everything.
        data.write_all(&content(100_000)).ok();
        drop(data);
        client.hear().0
    });
}

#[test]
fn a_name_that_is_unlinked_meanwhile() {
    all_break("", "", &[451], |emulator, gateway, client, name, bytes| {
        let data = begun(client, name, bytes);
        pause(Duration::from_millis(100));
        FtpClient::log_in(gateway, "user").ask(format!("DELE {name}"), 250);
        drop(data);
        let code = client.hear().0;
        assert!(!emulator.keys().contains(&name.to_owned()));
        assert_eq!(client.store("STOR old", b"old").0, 226, "the old one, for the next round");
        code
    });
}

/// A rename onto a name that is being stored is refused, and the transfer is none the worse for it.
#[test]
fn a_name_that_is_to_be_replaced_by_a_rename_meanwhile() {
    let _watchdog = Watchdog::bark_after(120);
    let (emulator, mut gateway) = site("", "");
    let (mut client, mut other) =
        (FtpClient::log_in(&mut gateway, "user"), FtpClient::log_in(&mut gateway, "user"));
    for bytes in [5 * MIB, 100_000] {
        let data = begun(&mut client, "new", bytes);
        pause(Duration::from_millis(100));
        other.ask("RNFR old", 350);
        other.ask("RNTO new", 450);
        drop(data);
        assert_eq!(client.hear().0, 226);
        assert!(client.fetch("RETR new") == content(bytes));
        other.ask("DELE new", 250);
    }
    assert_unharmed(&emulator, &mut gateway);
}

#[test]
fn a_server_that_is_stopped_and_waits_no_longer() {
    let _watchdog = Watchdog::bark_after(120);
    let (emulator, mut gateway) = site("", "grace_timeout = 1");
    for (name, bytes) in [("old", 5 * MIB), ("new", 5 * MIB), ("new", 100_000)] {
        let mut client = FtpClient::log_in(&mut gateway, "user");
        let _data = begun(&mut client, name, bytes);
        let begun = Instant::now();
        gateway.process().signal(Signal::TERM);
        let (code, text) = client.hear();
        assert!(matches!(code, 0 | 421 | 426 | 451), "{code} {text}");
        assert!(gateway.process().wait(20).expect("it stops").success());
        assert!(begun.elapsed() >= Duration::from_millis(900), "the grace was given");
        assert!(eventually(10, || emulator.uploads().is_empty()));
        gateway.restart();
    }
    assert_unharmed(&emulator, &mut gateway);
}
