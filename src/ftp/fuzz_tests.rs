//! Mutated command lines against a live front: every line has one final reply, or ends the session by rule;
//! the front serves afterwards, and nothing outside the home has changed.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    verbs,
    wire_tests::{Client, Served},
};

/// Fixed, so that a failure comes back.
const SEED: u64 = 0x0063_6f73_6761_7465;
const LINES: usize = 4000;

const ARGUMENTS: &[&str] = &[
    "",
    "f",
    "d",
    "d/f",
    "../../out/secret",
    "/",
    "//..//",
    "out/secret",
    "*",
    "[a",
    "-la",
    "-- -x",
    "0",
    "1 0",
    "18446744073709551615",
    "99999999999999999999",
    "A",
    "I",
    "L 8",
    "Z",
    "S",
    "UTF8 ON",
    "UTF8 OFF",
    "MLST type;size;",
    "HASH MD5",
    "HASH CRC64",
    "MODE Z LEVEL 9",
    "19700101000000 f",
    "20240230000000 f",
    "CHMOD 600 f",
    "UTIME 202401010000 f",
    "f 20240101000000 20240101000000 20240101000000 UTC",
    "EN",
    "2",
    "ALL",
    "127,0,0,1,4,1",
    "|1|127.0.0.1|1025|",
    "|2|::1|1025|",
    "\"f\" 0 3",
    "\"f",
    "报表",
    "a\tb",
    "%s%n",
];

/// A line without an end in it: a verb, an argument, and then what chance makes of both.
fn line(random: &mut fastrand::Rng) -> Vec<u8> {
    let verbs: Vec<&str> = verbs::all().map(|verb| verb.name).filter(|name| *name != "PASS").collect();
    let verb = random.choice(&verbs).unwrap();
    // Half of them as they mostly are.
    let argument = match random.u8(0..4) {
        0 => "",
        1 => "f",
        _ => random.choice(ARGUMENTS).unwrap(),
    };
    let mut line = format!("{verb} {argument}").into_bytes();
    for _ in 0..random.usize(0..6).saturating_sub(2) {
        let at = random.usize(0..=line.len());
        match random.u8(0..8) {
            0 => line.insert(at, random.u8(..)),
            1 if at < line.len() => line[at] = random.u8(..),
            2 if at < line.len() => drop(line.remove(at)),
            3 => line.truncate(at),
            4 => line.insert(at, *random.choice(&[0, b'\r', 0xff, 0xf4, 0xfb, b'"', b'/', 0x80]).unwrap()),
            5 => line.extend_from_within(..at),
            6 if random.u8(0..20) == 0 => line.resize(random.usize(8000..9000), b'x'),
            _ => line.push(b' '),
        }
    }
    line.retain(|&byte| byte != b'\n');
    line
}

/// Replies up to the final one; empty at the end of the connection.
async fn final_reply(client: &mut Client) -> String {
    loop {
        let reply = client.hear().await;
        if !reply.starts_with('1') {
            return reply;
        }
    }
}

/// A data connection that sends nothing and takes everything.
fn dial(reply: &str) {
    let port = if let Some(text) = reply.strip_prefix("229 ") {
        text.split("|||").nth(1).and_then(|text| text.split('|').next()?.parse().ok())
    } else {
        let numbers = reply.split(['(', ')']).nth(1).unwrap_or_default();
        let numbers: Vec<u16> = numbers.split(',').filter_map(|number| number.parse().ok()).collect();
        (numbers.len() == 6).then(|| numbers[4] * 256 + numbers[5])
    };
    let port: u16 = port.unwrap();
    tokio::spawn(async move {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await else { return };
        drop(stream.shutdown().await);
        drop(stream.read_to_end(&mut Vec::new()).await);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutated_lines_are_each_answered_and_leave_the_front_and_the_world_as_they_were() {
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("secret"), "untouched").unwrap();
    let served = Served::start(|config| config.failed_login_limit = 0);
    std::os::unix::fs::symlink(outside.path(), served.path().join("out")).unwrap();
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut client = served.logged_in().await;
    let mut obeyed = 0;
    for number in 0..LINES {
        if number % 50 == 0 {
            std::fs::write(served.path().join("f"), "0123456789").ok();
            std::fs::create_dir(served.path().join("d")).ok();
        }
        let line = line(&mut random);
        client.say(&line).await;
        let reply = final_reply(&mut client).await;
        obeyed += usize::from(reply.starts_with('2'));
        let shown = String::from_utf8_lossy(&line).into_owned();
        match reply.get(..3).unwrap_or_default() {
            "227" | "229" => dial(&reply),
            "221" | "421" => {
                assert_eq!(client.hear().await, "", "{number}: {shown}");
                client = served.logged_in().await;
            }
            "220" | "331" | "530" => {
                client.say("USER user").await;
                final_reply(&mut client).await;
                client.ask("PASS pass word", "230").await;
            }
            code => assert!(code.parse::<u16>().is_ok(), "{number}: {shown:?} was answered by {reply:?}"),
        }
    }
    assert!(obeyed > LINES / 10, "{obeyed} lines were commands that could be obeyed");
    client.ask("REIN", "220").await;
    let mut client = served.logged_in().await;
    assert!(client.store("STOR end", b"whole").await.starts_with("226"));
    assert_eq!(client.fetch("RETR end").await, b"whole");
    let left: Vec<_> =
        std::fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["secret"]);
    assert_eq!(std::fs::read(outside.path().join("secret")).unwrap(), b"untouched");
}
