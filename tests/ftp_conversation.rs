//! A conversation with the real thing: every verb, with good, missing and absurd arguments, before and after
//! login and during a transfer. Each reply is the one that its RFC names (959, 1123, 2389, 2428, 2640, 3659,
//! 4217, 7151), and the session goes on until QUIT.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod common;

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use common::{BUCKET, Emulator, Gateway, Setup, Watchdog, eventually};

struct Client {
    control: BufReader<TcpStream>,
}

impl Client {
    fn connect(gateway: &mut Gateway) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", gateway.ftp_port())).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self { control: BufReader::new(stream) };
        assert!(client.hear().starts_with("220 "));
        client
    }

    fn log_in(gateway: &mut Gateway, user: &str) -> Self {
        let mut client = Self::connect(gateway);
        client.ask(format!("USER {user}"), "331");
        client.ask(format!("PASS {user}-password"), "230");
        client
    }

    /// A whole reply; empty at the end of the connection.
    fn hear(&mut self) -> String {
        let mut reply = String::new();
        loop {
            let mut line = Vec::new();
            if self.control.read_until(b'\n', &mut line).unwrap_or(0) == 0 {
                return reply;
            }
            let line = String::from_utf8_lossy(&line).into_owned();
            reply.push_str(&line);
            if line.as_bytes().get(3) == Some(&b' ') && line.as_bytes()[..3].iter().all(u8::is_ascii_digit) {
                return reply;
            }
        }
    }

    fn expect(&mut self, start: &str) -> String {
        let reply = self.hear();
        assert!(reply.starts_with(start), "{start} expected, got {reply:?}");
        reply
    }

    fn say(&mut self, line: impl AsRef<[u8]>) {
        self.control.get_mut().write_all(&[line.as_ref(), b"\r\n"].concat()).unwrap();
    }

    fn ask(&mut self, line: impl AsRef<[u8]>, start: &str) -> String {
        self.say(line.as_ref());
        let reply = self.hear();
        let line = String::from_utf8_lossy(line.as_ref()).into_owned();
        assert!(reply.starts_with(start), "{line}: {start} expected, got {reply:?}");
        reply
    }

    fn say_all(&mut self, table: &[(&str, &str)]) {
        for (line, start) in table {
            self.ask(line, start);
        }
    }

    fn passive(&mut self) -> TcpStream {
        let reply = self.ask("EPSV", "229");
        let port = reply.split("|||").nth(1).unwrap().split('|').next().unwrap();
        TcpStream::connect(("127.0.0.1", port.parse::<u16>().unwrap())).unwrap()
    }

    fn store(&mut self, line: impl AsRef<[u8]>, content: &[u8]) -> String {
        let mut data = self.passive();
        self.say(line);
        let first = self.hear();
        if !first.starts_with("150") {
            return first;
        }
        data.write_all(content).ok();
        drop(data);
        self.hear()
    }

    fn fetch(&mut self, line: impl AsRef<[u8]>) -> Vec<u8> {
        let mut data = self.passive();
        self.ask(line, "150");
        let mut content = Vec::new();
        data.read_to_end(&mut content).unwrap();
        self.expect("226");
        content
    }
}

fn serve() -> (Emulator, Gateway) {
    let emulator = Emulator::start();
    let setup = Setup::new(&emulator).account("plain", "");
    let gateway = setup.account("kept", "posix_metadata = true\ncos_prefix = kept/").serve();
    (emulator, gateway)
}

const BEFORE_LOGIN: &[(&str, &str)] = &[
    ("NOOP", "200"),
    ("SYST", "215"),
    ("HELP", "214-"),
    ("HELP STOR", "214 Syntax: STOR <path>"),
    ("HELP FROB", "504"),
    ("FEAT", "211-"),
    ("CLNT test", "200"),
    ("HOST ftp.example.com", "220"),
    ("HOST", "501"),
    ("HOST a b", "501"),
    ("LANG", "200"),
    ("LANG EN", "200"),
    ("LANG fr", "504"),
    ("LANG ?", "501"),
    ("OPTS UTF8 ON", "200"),
    ("AUTH TLS", "431"),
    ("AUTH", "501"),
    ("PWD", "530"),
    ("CWD /", "530"),
    ("LIST", "530"),
    ("MLSD", "530"),
    ("MLST", "530"),
    ("STOR x", "530"),
    ("STOU", "530"),
    ("RETR x", "530"),
    ("APPE x", "530"),
    ("DELE x", "530"),
    ("MKD x", "530"),
    ("SIZE x", "530"),
    ("MDTM x", "530"),
    ("MFMT 20240101000000 x", "530"),
    ("HASH x", "530"),
    ("XCRC x", "530"),
    ("SITE HELP", "530"),
    ("PASV", "530"),
    ("EPSV", "530"),
    ("TYPE I", "530"),
    ("REST 1", "530"),
    ("RANG 1 2", "530"),
    ("ABOR", "530"),
    ("STAT", "530"),
    ("ACCT x", "530"),
    ("SMNT x", "502"),
    ("FROB", "500"),
    ("", "500"),
    ("PASS x", "503"),
    ("REIN", "220"),
    ("USER", "501"),
];

const AFTER_LOGIN: &[(&str, &str)] = &[
    ("HOST ftp.example.com", "503"),
    ("ACCT x", "202"),
    ("ACCT", "501"),
    ("SMNT /", "502"),
    ("TYPE A", "200"),
    ("TYPE A N", "200"),
    ("TYPE A T", "504"),
    ("TYPE E", "504"),
    ("TYPE", "501"),
    ("TYPE Q", "501"),
    ("REST 3", "504"),
    ("RANG 0 3", "504"),
    ("REST 0", "350"),
    ("TYPE I", "200"),
    ("REST 3", "350"),
    ("REST", "501"),
    ("REST -1", "501"),
    ("REST 99999999999999999999", "501"),
    ("RANG 0 3", "350"),
    ("RANG 1 0", "350"),
    ("RANG 3", "501"),
    ("RANG 3 1", "501"),
    ("MODE Z", "200"),
    ("OPTS MODE Z LEVEL 9", "200"),
    ("OPTS MODE Z LEVEL 10", "504"),
    ("OPTS MODE B", "501"),
    ("MODE S", "200"),
    ("MODE B", "504"),
    ("MODE", "501"),
    ("STRU F", "200"),
    ("STRU R", "504"),
    ("STRU", "501"),
    ("OPTS", "501"),
    ("OPTS FROB", "501"),
    ("OPTS HASH", "200 SHA-256"),
    ("OPTS HASH CRC64", "200 CRC64"),
    ("OPTS HASH FROB", "504"),
    ("OPTS MLST size;", "200 MLST OPTS size;"),
    ("OPTS MLST type;size;modify;perm;", "200 MLST OPTS type;size;modify;perm;"),
    ("OPTS UTF8 MAYBE", "501"),
    ("ALLO 10", "200"),
    ("ALLO 10 R 5", "200"),
    ("ALLO", "501"),
    ("PWD", "257 \"/\""),
    ("MKD d", "257 \"/d\""),
    ("MKD d", "550"),
    ("MKD", "501"),
    ("CWD d", "250"),
    ("CDUP", "250"),
    ("CDUP x", "501"),
    ("CWD missing", "550"),
    ("CWD", "501"),
    ("MLST d", "250-"),
    ("MLST missing", "550"),
    ("STAT", "211-"),
    ("STAT missing", "550"),
    ("SIZE missing", "550"),
    ("SIZE d", "550"),
    ("SIZE", "501"),
    ("MDTM missing", "550"),
    ("MDTM", "501"),
    ("MFMT", "501"),
    ("MFMT yesterday x", "501"),
    ("MFMT 20240230000000 x", "501"),
    ("SITE", "501"),
    ("SITE HELP", "214-"),
    ("SITE FROB", "504"),
    ("SITE CHMOD", "501"),
    ("SITE CHMOD 999 x", "501"),
    ("SITE UTIME", "501"),
    ("HASH", "501"),
    ("HASH missing", "550"),
    ("HASH d", "550"),
    ("MD5 missing", "550"),
    ("XMD5", "501"),
    ("XCRC \"missing\" 5 1", "501"),
    ("XSHA256 missing", "550"),
    ("RNTO x", "503"),
    ("RNFR missing", "550"),
    ("RNFR", "501"),
    ("DELE missing", "550"),
    ("DELE", "501"),
    ("RMD missing", "550"),
    ("RMD d", "250"),
    ("ABOR", "226"),
    ("ABOR x", "501"),
    ("RETR x", "425"),
    ("STOR x", "425"),
    ("STOU", "425"),
    ("STOR", "501"),
    ("STOR d/", "553"),
    ("STOU d/", "553"),
    ("LIST", "425"),
    ("PORT 1,2,3", "501"),
    ("PORT 127,0,0,1,0,80", "504"),
    ("EPRT", "501"),
    ("EPRT |3|x|1025|", "522"),
    ("EPSV 2", "522"),
    ("EPSV x", "501"),
    ("PBSZ 0", "503"),
    ("PROT P", "503"),
    ("CCC", "5"),
    ("LPRT 1", "502"),
    ("MFF x", "502"),
    ("USER", "501"),
    ("PASS x", "503"),
    ("FROB", "500"),
    ("\u{1}\u{2}", "500"),
    ("NOOP", "200"),
];

#[test]
fn every_verb_is_answered_as_its_rfc_says_and_the_session_goes_on() {
    let _watchdog = Watchdog::bark_after(180);
    let (_emulator, mut gateway) = serve();
    let mut client = Client::connect(&mut gateway);
    client.say_all(BEFORE_LOGIN);
    client.ask("USER plain", "331");
    client.ask("PASS plain-password", "230");
    client.say_all(AFTER_LOGIN);
    client.ask(b"DELE a\0b", "501");
    client.ask(vec![b'x'; 100_000], "500");
    // REIN forgets all of it.
    client.ask("TYPE A", "200");
    client.ask("REIN", "220");
    client.ask("PWD", "530");
    client.ask("USER plain", "331");
    client.ask("PASS plain-password", "230");
    assert!(client.ask("STAT", "211-").contains("Type: I"));
    client.ask("EPSV ALL", "200");
    client.ask("PASV", "503");
    client.ask("QUIT", "221");
    assert_eq!(client.hear(), "");
}

#[test]
fn during_a_transfer_the_client_is_heard() {
    let _watchdog = Watchdog::bark_after(180);
    let (emulator, mut gateway) = serve();
    let mut client = Client::log_in(&mut gateway, "plain");
    // Before the data connection comes.
    client.ask("EPSV", "229");
    client.say("STOR a");
    client.ask("ABOR", "42");
    client.expect("226");
    // In the middle, in three ways: plain, after Telnet IP and Synch, as urgent data.
    for way in 0..3 {
        let mut data = client.passive();
        client.ask("STOR a", "150");
        data.write_all(&[7; 5000]).unwrap();
        assert!(eventually(20, || client.ask("STAT", "211-").contains("STOR /a: 5000 bytes so far")));
        assert!(client.ask("STAT", "211-").contains(" MB/s"));
        client.say("PWD");
        match way {
            0 => client.say("ABOR"),
            1 => client.say(b"\xff\xf4\xff\xf2ABOR"),
            _ => {
                socket2::SockRef::from(client.control.get_ref()).send_out_of_band(b"ABOR\r\n").unwrap();
            }
        }
        client.expect("426");
        client.expect("257");
        client.expect("226");
    }
    assert!(emulator.keys().is_empty(), "nothing of it is in the bucket");
    // After the end, and in a download and a listing.
    assert!(client.store("STOR big", &vec![1; 20_000_000]).starts_with("226"));
    client.ask("ABOR", "226");
    let _data = client.passive();
    client.ask("RETR big", "150");
    client.ask("ABOR", "426");
    client.expect("226");
    assert!(client.fetch("NLST").starts_with(b"big\r\n"));
    client.ask("QUIT", "221");
}

/// > HASH CRC64, and MD5 of a file that was stored by one PUT, are answered from what the store keeps, without a read.
#[test]
fn checksums_come_from_the_store_where_it_has_them() {
    let _watchdog = Watchdog::bark_after(180);
    let (emulator, mut gateway) = serve();
    let mut client = Client::log_in(&mut gateway, "plain");
    assert!(client.store("STOR check it", b"123456789").starts_with("226"));
    let gets = |emulator: &Emulator| emulator.requests("GetObject");
    let before = gets(&emulator);
    client.ask("OPTS HASH CRC64", "200");
    client.ask("HASH check it", "213 CRC64 0-8 995dc9bbdf1939fa check it\r\n");
    client.ask("XMD5 check it", "250 25f9e794323b453885f5181f1b624d0b\r\n");
    client.ask("MD5 check it", "251 \"check it\" 25f9e794323b453885f5181f1b624d0b\r\n");
    assert_eq!(gets(&emulator), before);
    client.ask("XCRC check it", "250 CBF43926\r\n");
    client.ask("XCRC \"check it\" 0 9", "250 CBF43926\r\n");
    client.ask("XSHA check it", "250 f7c3bc1d808e04732adf679965ccc34ca7ae3441\r\n");
    client.ask("OPTS HASH MD5", "200");
    client.ask("RANG 0 2", "350");
    client.ask("HASH check it", "213 MD5 0-2 202cb962ac59075b964b07152d234b70 check it\r\n");
    client.ask("HASH check it", "213 MD5 0-8 25f9e794323b453885f5181f1b624d0b check it\r\n");
    client.ask("RANG 10 20", "350");
    client.ask("HASH check it", "554");
    client.ask("RANG 3 5", "350");
    assert_eq!(client.fetch("RETR check it"), b"456");
    assert!(gets(&emulator) > before);
}

/// > Times and modes that a client sets are kept with `posix_metadata`; without it they are refused with 550, and FEAT does not tell of them.
#[test]
fn times_and_modes_are_kept_or_refused() {
    let _watchdog = Watchdog::bark_after(180);
    let (_emulator, mut gateway) = serve();
    let mut plain = Client::log_in(&mut gateway, "plain");
    assert!(plain.store("STOR f", b"x").starts_with("226"));
    for line in
        ["MFMT 20200102030405 f", "MDTM 20200102030405 f", "SITE CHMOD 600 f", "SITE UTIME 202001020304 f"]
    {
        assert!(plain.ask(line, "550").contains("posix_metadata"), "{line}");
    }
    let told = plain.ask("FEAT", "211-");
    assert!(told.contains(" ALLO\r\n"), "lftp tells sizes only then: {told}");
    assert!(!told.contains("MFMT") && !told.contains("SITE CHMOD") && told.contains(" HASH SHA-256*;"));
    let mut kept = Client::log_in(&mut gateway, "kept");
    assert!(kept.ask("FEAT", "211-").contains(" MFMT\r\n"));
    assert!(kept.store("STOR f", b"x").starts_with("226"));
    kept.ask("MFMT 20200102030405 f", "213 Modify=20200102030405; /f\r\n");
    kept.ask("MDTM f", "213 20200102030405\r\n");
    assert!(kept.ask("MLST f", "250-").contains("modify=20200102030405;"));
    kept.ask("MDTM 20210102030405 f", "213");
    kept.ask("MDTM f", "213 20210102030405\r\n");
    kept.ask("SITE UTIME f 20220102030405 20220102030406 20220102030407 UTC", "200");
    kept.ask("MDTM f", "213 20220102030406\r\n");
    kept.ask("SITE CHMOD 600 f", "200");
    assert!(kept.ask("MLST f", "250-").contains("UNIX.mode=0600;"));
    // A file that is named like a time and a name.
    assert!(kept.store("STOR 20200102030405 f", b"x").starts_with("226"));
    kept.ask("MDTM 20200102030405 f", "213");
    kept.ask("MDTM f", "213 20220102030406\r\n");
    kept.ask("MFMT 20200102030405 missing", "550");
}

/// > In type A line ends are CRLF on the wire and LF in files; SIZE counts what would be sent, up to 8 MiB, and offsets are refused.
#[test]
fn type_a_converts_both_ways() {
    let _watchdog = Watchdog::bark_after(180);
    let (emulator, mut gateway) = serve();
    let mut client = Client::log_in(&mut gateway, "plain");
    client.ask("TYPE A", "200");
    assert!(client.store("STOR text", b"one\r\ntwo\r\n\rthree\n").starts_with("226 Stored, 15 bytes"));
    let object = emulator.objects(BUCKET).into_iter().find(|object| object.key == "text").unwrap();
    assert_eq!(object.bytes, 15);
    assert_eq!(client.fetch("RETR text"), b"one\r\ntwo\r\n\rthree\r\n");
    client.ask("SIZE text", "213 18\r\n");
    client.ask("TYPE I", "200");
    client.ask("SIZE text", "213 15\r\n");
    client.ask("REST 4", "350");
    client.ask("TYPE A", "200");
    let _data = client.passive();
    client.ask("RETR text", "504");
    client.ask("TYPE I", "200");
    assert!(client.store("STOR large", &vec![b'\n'; 9 << 20]).starts_with("226"));
    client.ask("TYPE A", "200");
    client.ask("SIZE large", "550");
}

/// > A deflate stream (MODE Z) that is cut or broken is a broken transfer, and leaves nothing.
#[test]
fn mode_z_deflates_and_a_broken_stream_leaves_nothing() {
    let _watchdog = Watchdog::bark_after(180);
    let (emulator, mut gateway) = serve();
    let mut client = Client::log_in(&mut gateway, "plain");
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n / 1000).to_le_bytes()[0]).collect();
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&content).unwrap();
    let stream = encoder.finish().unwrap();
    client.ask("MODE Z", "200");
    assert!(client.store("STOR cut", &stream[..stream.len() / 2]).starts_with("426"));
    assert!(client.store("STOR broken", b"no stream at all").starts_with("426"));
    assert!(emulator.keys().is_empty());
    assert!(client.store("STOR z", &stream).starts_with("226 Stored, 3000000 bytes"));
    let inflated = |bytes: Vec<u8>| {
        let mut text = Vec::new();
        flate2::read::ZlibDecoder::new(&bytes[..]).read_to_end(&mut text).unwrap();
        text
    };
    assert!(inflated(client.fetch("RETR z")) == content);
    assert_eq!(inflated(client.fetch("NLST")), b"z\r\n");
    client.ask("MODE S", "200");
    assert!(client.fetch("RETR z") == content);
    client.ask("CLNT lftp/4.9.2", "200");
    client.ask("MODE Z", "504");
    assert!(client.fetch("RETR z") == content);
}

/// > STOU stores under a name that nobody has, and tells it in both of its replies.
#[test]
fn stou_makes_up_a_name() {
    let _watchdog = Watchdog::bark_after(180);
    let (emulator, mut gateway) = serve();
    let mut client = Client::log_in(&mut gateway, "plain");
    for line in ["STOU", "STOU report.pdf"] {
        let mut data = client.passive();
        let name = client.ask(line, "150 FILE: /").trim_end()["150 FILE: /".len()..].to_owned();
        data.write_all(b"x").unwrap();
        drop(data);
        assert!(client.expect("226").contains(&name));
        assert!(emulator.keys().contains(&name), "{name}");
    }
}
