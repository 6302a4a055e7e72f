//! Who gets in, on the wire: limits, lock-out, PROXY headers, guests, time-outs; over a plain directory.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::wire_tests::{Client, Served};
use crate::config::{AnonymousConfig, PasswordHash, Secret, UserConfig};

/// A client from another address of the loopback network.
async fn from(address: &str, served: &Served) -> Client {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(format!("{address}:0").parse().unwrap()).unwrap();
    let stream = socket.connect(([127, 0, 0, 1], served.port).into()).await.unwrap();
    Client { control: tokio::io::BufReader::new(stream) }
}

/// A client behind a balancer that says `header`.
async fn through(header: impl AsRef<[u8]>, served: &Served) -> Client {
    let mut client = Client::connect(([127, 0, 0, 1], served.port).into()).await;
    client.control.get_mut().write_all(header.as_ref()).await.unwrap();
    client
}

async fn log_in(client: &mut Client, password: &str, code: &str) -> String {
    client.ask("USER user", "331").await;
    client.ask(format!("PASS {password}"), code).await
}

#[tokio::test]
async fn sessions_of_an_address_are_limited_and_given_back() {
    let served = Served::start(|config| config.sessions_per_address_max = 2);
    let (mut first, second) = (served.greeted().await, served.greeted().await);
    let mut third = Client::connect(([127, 0, 0, 1], served.port).into()).await;
    assert!(third.expect("421").await.contains("max_connection_per_ip"));
    assert_eq!(third.hear().await, "", "and the connection ends");
    from("127.0.0.2", &served).await.expect("220").await;
    first.ask("QUIT", "221").await;
    first.hear().await;
    drop(second);
    settled(&served).await;
    let _both = (served.greeted().await, served.greeted().await);
}

/// Until a session is open to this address again: the last one's end may take a moment.
async fn settled(served: &Served) {
    for _ in 0..200 {
        let mut client = Client::connect(([127, 0, 0, 1], served.port).into()).await;
        if client.hear().await.starts_with("220") {
            client.ask("QUIT", "221").await;
            client.hear().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no session becomes free");
}

#[tokio::test]
async fn sessions_of_a_user_are_limited_at_his_password_and_given_back() {
    let served = Served::start(|config| config.users[0].sessions_max = 1);
    let mut first = served.logged_in().await;
    let mut second = served.greeted().await;
    assert!(log_in(&mut second, "wrong", "530").await.contains("Login incorrect"), "no word of limits");
    assert!(log_in(&mut second, "pass word", "421").await.contains("max_sessions"));
    assert_eq!(second.hear().await, "", "and the connection ends");
    // Logging in again on the same session takes its own seat.
    log_in(&mut first, "pass word", "230").await;
    first.ask("USER somebody", "331").await;
    log_in(&mut served.greeted().await, "pass word", "230").await;
}

#[tokio::test]
async fn limits_of_a_reload_count_for_the_next_ones() {
    let mut served = Served::start(|config| config.sessions_max = 1);
    let _first = served.greeted().await;
    let mut second = Client::connect(([127, 0, 0, 1], served.port).into()).await;
    assert!(second.expect("421").await.contains("max_connection_num"));
    served.config.sessions_max = 2;
    served.control.apply(&served.config);
    let _second = served.greeted().await;
}

#[tokio::test]
async fn an_address_that_fails_too_often_is_refused_with_the_right_password_too() {
    let served = Served::start(|config| config.failed_login_limit = 2);
    let mut open_before = served.greeted().await;
    let mut logged_in = served.logged_in().await;
    let mut client = served.greeted().await;
    log_in(&mut client, "wrong", "530").await;
    assert!(log_in(&mut client, "wrong", "421").await.contains("failed_login_limit"));
    assert_eq!(client.hear().await, "");
    log_in(&mut open_before, "pass word", "421").await;
    let mut late = Client::connect(([127, 0, 0, 1], served.port).into()).await;
    assert!(late.expect("421").await.contains("failed_login_limit"));
    logged_in.ask("NOOP", "200").await;
    // Other addresses are not concerned, and the name is locked only by as many failures of strangers.
    let mut other = from("127.0.0.2", &served).await;
    other.expect("220").await;
    log_in(&mut other, "pass word", "230").await;
}

#[tokio::test]
async fn a_name_under_attack_is_locked_for_strangers_and_open_to_its_owner() {
    let served = Served::start(|config| config.failed_login_limit = 2);
    log_in(&mut served.greeted().await, "pass word", "230").await;
    for stranger in ["127.0.0.2", "127.0.0.3"] {
        let mut client = from(stranger, &served).await;
        client.expect("220").await;
        log_in(&mut client, "wrong", "530").await;
    }
    let mut stranger = from("127.0.0.4", &served).await;
    stranger.expect("220").await;
    let locked = log_in(&mut stranger, "pass word", "530").await;
    stranger.ask("USER nobody", "331").await;
    // The second failure of its address.
    stranger.ask("PASS pass word", "421").await;
    assert_eq!(locked, "530 Login incorrect\r\n", "as for a name that does not exist");
    log_in(&mut served.greeted().await, "pass word", "230").await;
}

#[tokio::test]
async fn a_client_that_leaves_during_its_pause_is_not_kept() {
    let served = Served::start(|config| {
        config.sessions_max = 1;
        config.failed_login_limit = 0;
    });
    let mut client = served.greeted().await;
    for _ in 0..2 {
        log_in(&mut client, "wrong", "530").await;
    }
    client.ask("USER user", "331").await;
    client.say("PASS wrong").await;
    drop(client);
    let begun = Instant::now();
    settled(&served).await;
    assert!(begun.elapsed() < Duration::from_millis(1900), "the third pause takes two seconds");
}

#[tokio::test]
async fn hashed_passwords_open_and_the_hash_itself_does_not() {
    let hash = PasswordHash::make("hashed word").unwrap();
    let served = Served::start(|config| config.users[0].password = Secret::new(&hash));
    let mut client = served.greeted().await;
    log_in(&mut client, &hash, "530").await;
    log_in(&mut client, "hashed word", "230").await;
    client.ask("PWD", "257").await;
}

#[tokio::test]
async fn a_balancer_that_is_trusted_says_who_the_client_is() {
    let served = Served::start(|config| {
        config.proxy_networks = vec!["127.0.0.0/29".parse().unwrap()];
        config.sessions_per_address_max = 1;
    });
    let header = b"PROXY TCP4 192.0.2.1 198.51.100.2 4000 21\r\n";
    let mut client = through(header, &served).await;
    client.expect("220").await;
    log_in(&mut client, "pass word", "230").await;
    assert!(client.ask("STAT", "211").await.contains("from 192.0.2.1,"));
    let reply = client.ask("PASV", "227").await;
    assert!(reply.contains("(198,51,100,2,"), "the address that the client came to: {reply}");
    // The limit counts the client and not the balancer.
    through(header, &served).await.expect("421").await;
    let mut six = through(b"PROXY TCP6 2001:db8::1 2001:db8::2 4000 21\r\n", &served).await;
    six.expect("220").await;
    log_in(&mut six, "pass word", "230").await;
    six.ask("EPSV 2", "229").await;
    // Health checks: the balancer speaks for itself.
    through(b"PROXY UNKNOWN\r\n", &served).await.expect("220").await;
}

#[tokio::test]
async fn a_header_and_lines_in_one_packet_come_apart() {
    let served = Served::start(|config| config.proxy_networks = vec!["127.0.0.1/32".parse().unwrap()]);
    let binary =
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\x0f\xa0\0\x15USER user\r\n";
    let mut client = through(binary, &served).await;
    client.expect("220").await;
    client.expect("331").await;
    client.ask("PASS pass word", "230").await;
}

#[tokio::test]
async fn a_trusted_peer_without_a_header_is_closed_and_a_header_of_others_is_no_command() {
    let served = Served::start(|config| config.proxy_networks = vec!["127.0.0.1/32".parse().unwrap()]);
    for bytes in [b"USER user\r\n".as_slice(), b"PROXY TCP4 nonsense\r\n", &[0; 200]] {
        let mut client = through(bytes, &served).await;
        assert_eq!(client.hear().await, "");
    }
    let mut other = from("127.0.0.2", &served).await;
    other.expect("220").await;
    other.ask("PROXY TCP4 192.0.2.1 198.51.100.2 4000 21", "500").await;
    log_in(&mut other, "pass word", "230").await;
    assert!(other.ask("STAT", "211").await.contains("from 127.0.0.2,"));
}

#[tokio::test]
async fn a_byte_now_and_then_ends_with_the_time_to_log_in() {
    let served = Served::start(|config| config.login_timeout = Duration::from_millis(400));
    let mut slow = served.greeted().await;
    let begun = Instant::now();
    let (mut reader, mut writer) = slow.control.into_inner().into_split();
    let trickle = tokio::spawn(async move {
        while writer.write_all(b"N").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    // What was never read ends the connection by a reset, behind the reply.
    let mut said = Vec::new();
    reader.read_to_end(&mut said).await.ok();
    assert!(said.starts_with(b"421"), "{said:?}");
    assert!(begun.elapsed() < Duration::from_secs(10));
    trickle.await.unwrap();
    // Commands that need no login do not put it off, and neither does a pause.
    slow = served.greeted().await;
    slow.ask("NOOP", "200").await;
    slow.ask("USER user", "331").await;
    slow.ask("PASS wrong", "421").await;
}

#[tokio::test]
async fn whoever_logs_out_has_time_to_log_in_again() {
    let served = Served::start(|config| config.login_timeout = Duration::from_millis(500));
    let mut client = served.logged_in().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    log_in(&mut client, "pass word", "230").await;
}

#[tokio::test]
async fn refused_connections_are_closed_on_the_spot() {
    let served = Served::start(|config| config.sessions_max = 1);
    let _only = served.greeted().await;
    let mut refused = Vec::new();
    for _ in 0..200 {
        refused.push(TcpStream::connect(("127.0.0.1", served.port)).await.unwrap());
    }
    for stream in &mut refused {
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        assert!(said.starts_with("421 "), "{said:?}");
    }
}

#[tokio::test]
async fn guests_get_in_without_a_name_of_their_own_where_they_are_let() {
    let served = Served::start(|config| {
        let user = UserConfig { directory: "pub".into(), ..config.users[0].clone() };
        let user = UserConfig { name: "anonymous".to_owned(), password: Secret::new(""), ..user };
        config.anonymous = Some(AnonymousConfig { home: "/nowhere/pub".into(), write: false, user });
    });
    std::fs::write(served.path().join("private"), "x").unwrap();
    let mut client = served.greeted().await;
    client.ask("USER anonymous", "331").await;
    let missing = client.ask("PASS me@example.com", "530").await;
    assert!(missing.contains("home is missing"), "{missing}");
    std::fs::create_dir(served.path().join("pub")).unwrap();
    std::fs::write(served.path().join("pub/file"), "for all").unwrap();
    for name in ["ftp", "Anonymous"] {
        let asked = client.ask(format!("USER {name}"), "331").await;
        assert!(asked.contains("e-mail address"), "{asked}");
        client.ask("PASS me@example.com", "230").await;
        assert_eq!(client.fetch("RETR file").await, b"for all");
        client.ask("RNFR file", "350").await;
        client.ask("RNTO other", "250").await;
        client.ask("RNFR other", "350").await;
        client.ask("RNTO file", "250").await;
        for path in ["private", "../private", "/../private", "pub/../../private"] {
            client.ask(format!("SIZE {path}"), "550").await;
        }
        client.ask("CWD ..", "250").await;
        client.ask("PWD", "257 \"/\"").await;
    }
    client.ask("USER user", "331 Password, please").await;
    client.ask("PASS me@example.com", "530").await;
}

#[tokio::test]
async fn without_guests_their_names_are_like_any_other() {
    let served = Served::start(|_| {});
    let mut client = served.greeted().await;
    client.ask("USER anonymous", "331 Password, please").await;
    client.ask("PASS me@example.com", "530 Login incorrect").await;
}
