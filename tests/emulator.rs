//! The embedded store on the wire: what a bare socket sees of framing, faults, pace and the admin port,
//! and what of its data survives SIGKILL. What a client means by it is judged in `emulator_sdk.rs`.

#[path = "common/mod.rs"]
mod common;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{self, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use common::{BUCKET, Emulator, RawClient, TempTree, Watchdog, eventually, head};
use cosgate::emulator::{BlankOrder, EmulatorOptions, Fault, FaultKind};
use rustix::process::Signal;
use serde_json::json;

const MIB: usize = 1 << 20;

fn put(address: SocketAddr, key: &str, body: &[u8]) -> u16 {
    RawClient::once(address, "PUT", key, "", body).expect("an answer").status
}

fn get(address: SocketAddr, key: &str) -> Option<Vec<u8>> {
    let answer = RawClient::once(address, "GET", key, "", b"").expect("an answer");
    (answer.status == 200).then_some(answer.body)
}

fn initiate(address: SocketAddr, key: &str) -> String {
    let answer = RawClient::once(address, "POST", &format!("{key}?uploads"), "", b"").expect("an answer");
    answer.element("UploadId")
}

fn complete_document(etags: &[String]) -> String {
    let parts: String = etags
        .iter()
        .enumerate()
        .map(|(at, etag)| format!("<Part><PartNumber>{}</PartNumber><ETag>{etag}</ETag></Part>", at + 1))
        .collect();
    format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>")
}

// ---- HTTP ----------------------------------------------------------------------------------------------

#[test]
fn pipelined_requests_are_answered_in_order() {
    let _watchdog = Watchdog::bark_after(60);
    let emulator = Emulator::start();
    let mut client = RawClient::connect(emulator.address());
    for at in 0..50 {
        client.send("PUT", &format!("k{at}"), "", format!("body {at}").as_bytes()).unwrap();
    }
    for at in 0..50 {
        client.send("GET", &format!("k{at}"), "", b"").unwrap();
    }
    for _ in 0..50 {
        assert_eq!(client.answer(false).unwrap().status, 200);
    }
    for at in 0..50 {
        assert_eq!(client.answer(false).unwrap().text(), format!("body {at}"));
    }
}

#[test]
fn body_is_asked_for_only_when_it_is_wanted() {
    let _watchdog = Watchdog::bark_after(60);
    let emulator = Emulator::start();
    let mut client = RawClient::connect(emulator.address());
    let expect = "Content-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    client.stream.write_all(head("PUT", "k", expect).as_bytes()).unwrap();
    assert_eq!(client.answer(false).unwrap().status, 100);
    client.stream.write_all(b"hello").unwrap();
    assert_eq!(client.answer(false).unwrap().status, 200);
    let unsigned = head("PUT", "k", expect).replace("q-signature=", "q-signature=0");
    client.stream.write_all(unsigned.as_bytes()).unwrap();
    let refused = client.answer(false).unwrap();
    assert_eq!((refused.status, refused.header("Connection")), (403, Some("close")));
    assert_eq!(get(emulator.address(), "k").unwrap(), b"hello");
}

#[test]
fn connection_goes_on_after_a_refused_body() {
    let _watchdog = Watchdog::bark_after(60);
    let emulator = Emulator::start();
    let mut client = RawClient::connect(emulator.address());
    let body = vec![7; 3 * MIB];
    let refused = client.request("PUT", "k?partNumber=1&uploadId=none", "", &body).unwrap();
    assert_eq!((refused.status, refused.element("Code").as_str()), (404, "NoSuchUpload"));
    assert_eq!(client.request("PUT", "k", "", &body).unwrap().status, 200);
}

#[test]
fn lengths_are_demanded_and_kept_to() {
    let _watchdog = Watchdog::bark_after(60);
    let emulator = Emulator::start();
    let address = emulator.address();
    let mut client = RawClient::connect(address);
    client.stream.write_all(head("PUT", "k", "\r\n").as_bytes()).unwrap();
    let refused = client.answer(false).unwrap();
    assert_eq!((refused.status, refused.element("Code").as_str()), (411, "MissingContentLength"));

    let upload = initiate(address, "k");
    let target = format!("k?partNumber=1&uploadId={upload}");
    let chunked = "Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nTrailer: 1\r\n\r\n";
    let mut client = RawClient::connect(address);
    client.stream.write_all(head("PUT", &target, chunked).as_bytes()).unwrap();
    assert_eq!(client.answer(false).unwrap().status, 411, "a part of unknown length is not taken by default");
    client.stream.write_all(head("PUT", "k", chunked).as_bytes()).unwrap();
    assert_eq!(client.answer(false).unwrap().status, 200);
    assert_eq!(get(address, "k").unwrap(), b"hello");

    let mut client = RawClient::connect(address);
    client.stream.write_all(head("PUT", "k", "Content-Length: 10\r\n\r\nshort").as_bytes()).unwrap();
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let refused = client.answer(false).unwrap();
    assert_eq!((refused.status, refused.element("Code").as_str()), (400, "IncompleteBody"));
    assert_eq!(get(address, "k").unwrap(), b"hello", "what broke replaces nothing");
}

#[test]
fn nonsense_is_answered_and_the_connection_closed() {
    let _watchdog = Watchdog::bark_after(60);
    let emulator = Emulator::start();
    let mut client = RawClient::connect(emulator.address());
    client.stream.write_all(b"\x16\x03\x01 this is TLS\r\n\r\n").unwrap();
    let answer = client.answer(false).unwrap();
    assert_eq!((answer.status, answer.element("Code").as_str()), (400, "BadRequest"));
    assert_eq!(client.answer(false).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn path_style_and_absolute_targets_reach_the_same_object() {
    let _watchdog = Watchdog::bark_after(60);
    let emulator = Emulator::start();
    let address = emulator.address();
    assert_eq!(put(address, "a/b", b"here"), 200);
    let path = format!("/{BUCKET}/a/b");
    let signature = common::authorization("GET", &path);
    let mut client = RawClient::connect(address);
    let text = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: {signature}\r\n\r\n");
    client.stream.write_all(text.as_bytes()).unwrap();
    assert_eq!(client.answer(false).unwrap().text(), "here");
    let host = format!("{BUCKET}.cos.ap-guangzhou.myqcloud.com");
    let signature = common::authorization("GET", "/a/b");
    let text =
        format!("GET http://{host}/a/b HTTP/1.1\r\nHost: {host}\r\nAuthorization: {signature}\r\n\r\n");
    client.stream.write_all(text.as_bytes()).unwrap();
    assert_eq!(client.answer(false).unwrap().text(), "here");
}

#[test]
fn of_sixteen_forbidding_writers_one_wins() {
    let _watchdog = Watchdog::bark_after(60);
    let emulator = Emulator::start();
    let address = emulator.address();
    for round in 0..5 {
        let key = format!("k{round}");
        let statuses: Vec<u16> = thread::scope(|scope| {
            let write = |at: u8| {
                let key = key.clone();
                scope.spawn(move || {
                    let header = "x-cos-forbid-overwrite: true\r\n";
                    RawClient::once(address, "PUT", &key, header, &[b'a' + at; 10_000]).unwrap().status
                })
            };
            let writers: Vec<_> = (0..16).map(write).collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 15, "{statuses:?}");
    }
}

#[test]
fn reader_keeps_what_it_began_to_read() {
    let _watchdog = Watchdog::bark_after(60);
    let directory = TempTree::new();
    for arguments in [vec![], vec!["--data", directory.path().to_str().unwrap()]] {
        let emulator = Emulator::start_with(&[BUCKET], &arguments);
        let address = emulator.address();
        // More than the sockets between us hold.
        let (old, new) = (vec![1; 32 * MIB], vec![2; 32 * MIB]);
        assert_eq!(put(address, "k", &old), 200);
        let mut reader = RawClient::connect(address);
        reader.send("GET", "k", "", b"").unwrap();
        assert_eq!(put(address, "k", &new), 200);
        assert_eq!(RawClient::once(address, "DELETE", "k", "", b"").unwrap().status, 204);
        assert!(reader.answer(false).unwrap().body == old);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn blanks_stand_where_they_are_wanted() {
    for (order, begins) in [
        (BlankOrder::AfterDeclaration, "<?xml version='1.0' encoding='utf-8' ?>\n <Copy"),
        (BlankOrder::BeforeDeclaration, " <?xml version='1.0' encoding='utf-8' ?>\n<Copy"),
        (BlankOrder::NoDeclaration, " <Copy"),
    ] {
        let options = EmulatorOptions {
            secret_id: common::SECRET_ID.to_owned(),
            secret_key: common::SECRET_KEY.to_owned(),
            blank_order: order,
            ..EmulatorOptions::default()
        };
        let emulator = cosgate::emulator::Emulator::start(options).await.unwrap();
        let address = emulator.local_addr();
        let text = tokio::task::spawn_blocking(move || {
            put(address, "k", b"x");
            let source = format!("x-cos-copy-source: {BUCKET}.cos.ap-guangzhou.myqcloud.com/k\r\n");
            RawClient::once(address, "PUT", "c", &source, b"").unwrap().text()
        });
        assert!(text.await.unwrap().starts_with(begins), "{order:?}");
        assert_eq!(emulator.count("CopyObject").count, 1);
        emulator.stop();
    }
}

// ---- faults --------------------------------------------------------------------------------------------

/// An object `k` of ten bytes, and one fault on what comes next.
fn troubled(fault: serde_json::Value) -> (Emulator, SocketAddr) {
    let emulator = Emulator::start();
    let address = emulator.address();
    assert_eq!(put(address, "k", b"0123456789"), 200);
    emulator.fault(&fault);
    (emulator, address)
}

#[test]
fn status_faults_have_no_effect_and_name_their_code() {
    let _watchdog = Watchdog::bark_after(60);
    let fault = json!({"operation": "PutObject", "kind": "status", "status": 503, "code": "SlowDown",
        "skip": 1, "times": 2, "key": "k"});
    let (_emulator, address) = troubled(fault);
    assert_eq!(put(address, "other", b"not counted"), 200);
    assert_eq!(put(address, "k", b"skipped"), 200);
    for _ in 0..2 {
        let refused = RawClient::once(address, "PUT", "k", "", b"without effect").unwrap();
        assert_eq!((refused.status, refused.element("Code").as_str()), (503, "SlowDown"));
        assert!(refused.header("x-cos-request-id").is_some());
        assert!(!refused.element("RequestId").is_empty());
    }
    assert_eq!(get(address, "k").unwrap(), b"skipped");
    assert_eq!(put(address, "k", b"again"), 200);
}

#[test]
fn a_proxys_answer_carries_no_request_id() {
    let _watchdog = Watchdog::bark_after(60);
    let (_emulator, address) = troubled(json!({"operation": "*", "kind": "status", "status": 502}));
    let answer = RawClient::once(address, "GET", "k", "", b"").unwrap();
    assert_eq!(answer.status, 502);
    assert_eq!(answer.header("x-cos-request-id"), None);
    assert!(!answer.text().contains("<Error>"));
}

#[test]
fn refused_connections_are_refused_until_the_fault_is_gone() {
    let _watchdog = Watchdog::bark_after(60);
    let emulator = Emulator::start();
    let address = emulator.address();
    let mut kept = RawClient::connect(address);
    assert_eq!(kept.request("PUT", "k", "", b"x").unwrap().status, 200);
    emulator.fault(&json!({"operation": "*", "kind": "refuse-connection", "times": null}));
    let is_refused =
        || TcpStream::connect(address).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    assert!(eventually(5, is_refused));
    assert!(kept.request("GET", "k", "", b"").is_err(), "a kept connection is gone too");
    emulator.no_faults();
    assert!(eventually(5, || TcpStream::connect(address).is_ok()));
    assert_eq!(get(address, "k").unwrap(), b"x");

    emulator.fault(&json!({"operation": "*", "kind": "refuse-connection", "times": 2}));
    for _ in 0..2 {
        assert!(RawClient::once(address, "GET", "k", "", b"").is_err());
    }
    assert_eq!(get(address, "k").unwrap(), b"x");

    // From one request on, for a time.
    emulator.fault(&json!({"operation": "PutObject", "kind": "refuse-connection", "milliseconds": 1500}));
    assert_eq!(get(address, "k").unwrap(), b"x");
    assert!(RawClient::once(address, "PUT", "k", "", b"y").is_err());
    assert!(eventually(1, is_refused));
    assert!(eventually(5, || TcpStream::connect(address).is_ok()));
    assert_eq!(get(address, "k").unwrap(), b"x", "without effect");
}

#[test]
fn resets_and_lost_answers_differ_in_their_effect() {
    let _watchdog = Watchdog::bark_after(60);
    for (kind, has_effect, ends_with) in [
        ("reset-before", false, io::ErrorKind::ConnectionReset),
        ("reset-after", true, io::ErrorKind::ConnectionReset),
        ("lost-answer", true, io::ErrorKind::UnexpectedEof),
    ] {
        let (_emulator, address) = troubled(json!({"operation": "PutObject", "kind": kind}));
        let mut client = RawClient::connect(address);
        let error = client.request("PUT", "k", "", b"new").unwrap_err();
        assert_eq!(error.kind(), ends_with, "{kind}");
        let expected: &[u8] = if has_effect { b"new" } else { b"0123456789" };
        assert!(eventually(5, || get(address, "k").unwrap() == expected), "{kind}");
    }
}

#[test]
fn stalls_and_delays_take_their_time() {
    let _watchdog = Watchdog::bark_after(60);
    let (emulator, address) = troubled(json!({"operation": "*", "kind": "stall", "milliseconds": 300}));
    let start = Instant::now();
    assert!(RawClient::once(address, "PUT", "k", "", b"new").is_err());
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(get(address, "k").unwrap(), b"0123456789", "what stalls has no effect");

    emulator.fault(&json!({"operation": "PutObject", "kind": "delay", "milliseconds": 400}));
    let start = Instant::now();
    let slow = thread::spawn(move || put(address, "k", b"new"));
    thread::park_timeout(Duration::from_millis(100));
    assert_eq!(get(address, "k").unwrap(), b"0123456789", "the effect comes at the end");
    assert!(start.elapsed() < Duration::from_millis(400), "others do not wait");
    assert_eq!(slow.join().unwrap(), 200);
    assert!(start.elapsed() >= Duration::from_millis(400));
    assert_eq!(get(address, "k").unwrap(), b"new");
}

#[test]
fn answers_are_cut_emptied_and_falsified() {
    let _watchdog = Watchdog::bark_after(60);
    let (emulator, address) = troubled(json!({"operation": "GetObject", "kind": "cut-body"}));
    let mut client = RawClient::connect(address);
    assert_eq!(client.request("GET", "k", "", b"").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);

    let crc = |method: &str| {
        let answer = RawClient::once(address, method, "k", "", b"0123456789").unwrap();
        answer.header("x-cos-hash-crc64ecma").map(|text| text.parse::<u64>().unwrap())
    };
    let right = crc("PUT").unwrap();
    emulator.fault(&json!({"operation": "PutObject", "kind": "wrong-crc"}));
    assert_ne!(crc("PUT").unwrap(), right);
    assert_eq!(crc("HEAD"), Some(right), "the object itself is whole");
    emulator.fault(&json!({"operation": "HeadObject", "kind": "no-crc"}));
    assert_eq!(crc("HEAD"), None);
    let copied = || {
        let source = format!("x-cos-copy-source: {BUCKET}.cos.ap-guangzhou.myqcloud.com/k\r\n");
        RawClient::once(address, "PUT", "copy", &source, b"").unwrap().element("CRC64")
    };
    let told = copied();
    emulator.fault(&json!({"operation": "CopyObject", "kind": "wrong-crc"}));
    assert_ne!((copied(), told.as_str()), (told.clone(), ""));

    let upload = initiate(address, "m");
    let part =
        RawClient::once(address, "PUT", &format!("m?partNumber=1&uploadId={upload}"), "", b"part").unwrap();
    let document = complete_document(&[part.header("ETag").unwrap().to_owned()]);
    emulator.fault(&json!({"operation": "CompleteMultipartUpload", "kind": "empty-200"}));
    let target = format!("m?uploadId={upload}");
    let empty = RawClient::once(address, "POST", &target, "", document.as_bytes()).unwrap();
    assert_eq!((empty.status, empty.body.len()), (200, 0));
    assert_eq!(get(address, "m").unwrap(), b"part");
}

#[test]
fn what_the_service_does_on_its_own_can_be_asked_for() {
    let _watchdog = Watchdog::bark_after(60);
    let (emulator, address) = troubled(json!({"operation": "UploadPart", "kind": "vanish-upload"}));
    let upload = initiate(address, "m");
    let target = format!("m?partNumber=1&uploadId={upload}");
    let gone = RawClient::once(address, "PUT", &target, "", b"part").unwrap();
    assert_eq!((gone.status, gone.element("Code").as_str()), (404, "NoSuchUpload"));
    assert!(emulator.uploads().is_empty());

    emulator.fault(&json!({"operation": "GetObject", "kind": "archived"}));
    let away = RawClient::once(address, "GET", "k", "", b"").unwrap();
    assert_eq!((away.status, away.element("Code").as_str()), (403, "InvalidObjectState"));

    emulator.fault(&json!({"operation": "GetObject", "kind": "force-download"}));
    let forced = RawClient::once(address, "GET", "k", "", b"").unwrap();
    assert_eq!(forced.header("x-cos-force-download"), Some("true"));
    assert_eq!(forced.header("Content-Disposition"), Some("attachment"));

    emulator.fault(&json!({"operation": "GetObject", "kind": "replace-object"}));
    let range = format!("If-Match: {}\r\nRange: bytes=0-4\r\n", forced.header("ETag").unwrap());
    let changed = RawClient::once(address, "GET", "k", &range, b"").unwrap();
    assert_eq!((changed.status, changed.element("Code").as_str()), (412, "PreconditionFailed"));
    assert_eq!(get(address, "k").unwrap(), b"5678901234");
}

#[test]
fn hot_key_is_slowed_down_and_no_other() {
    let _watchdog = Watchdog::bark_after(60);
    let fault =
        json!({"operation": "PutObject", "kind": "slow-down", "per_second": 0, "key": "k", "times": null});
    let (_emulator, address) = troubled(fault);
    let refused = RawClient::once(address, "PUT", "k", "", b"x").unwrap();
    assert_eq!((refused.status, refused.element("Code").as_str()), (503, "SlowDown"));
    assert_eq!(put(address, "other", b"x"), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_can_be_set_without_the_admin_port() {
    let options = EmulatorOptions {
        secret_id: common::SECRET_ID.to_owned(),
        secret_key: common::SECRET_KEY.to_owned(),
        ..EmulatorOptions::default()
    };
    let emulator = cosgate::emulator::Emulator::start(options).await.unwrap();
    let address = emulator.local_addr();
    let id = emulator.add_fault(Fault { times: None, ..Fault::once("PutObject", FaultKind::Status) });
    let put_one = move || put(address, "k", b"x");
    assert_eq!(tokio::task::spawn_blocking(put_one).await.unwrap(), 503);
    assert!(emulator.remove_fault(id));
    assert_eq!(tokio::task::spawn_blocking(put_one).await.unwrap(), 200);
    assert_eq!(emulator.keys(BUCKET), ["k"]);
    assert_eq!(emulator.open_uploads(), 0);
}

// ---- pace and the admin port ---------------------------------------------------------------------------

#[test]
fn pace_changes_at_the_next_request_of_an_open_connection() {
    let _watchdog = Watchdog::bark_after(60);
    let emulator = Emulator::start();
    let mut client = RawClient::connect(emulator.address());
    let body = vec![5; 2 * MIB];
    let mut timed = |method: &str| {
        let start = Instant::now();
        assert_eq!(client.request(method, "k", "", &body).unwrap().status, 200);
        start.elapsed()
    };
    timed("PUT");
    emulator.pace(0, 4 << 20);
    // Half a second each way; what the sockets hold beforehand makes it a little less.
    for method in ["PUT", "GET"] {
        let taken = timed(method);
        assert!((350..2500).contains(&taken.as_millis()), "{method}: {taken:?}");
    }
    emulator.pace(150, 0);
    let taken = timed("HEAD");
    assert!((150..1500).contains(&taken.as_millis()), "{taken:?}");
    emulator.pace(0, 0);
    // Twenty of them would be three seconds at the old pace.
    let start = Instant::now();
    for _ in 0..20 {
        timed("HEAD");
    }
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn slow_wire_is_smooth() {
    let _watchdog = Watchdog::bark_after(60);
    let emulator = Emulator::start();
    let address = emulator.address();
    assert_eq!(put(address, "k", &vec![5; 2 * MIB]), 200);
    emulator.pace(0, 2 << 20);
    let mut client = RawClient::connect(address);
    client.send("GET", "k", "", b"").unwrap();
    let (start, mut received, mut longest, mut last) = (Instant::now(), 0, Duration::ZERO, Instant::now());
    let mut buffer = vec![0; 64 * 1024];
    while received < 2 * MIB {
        received += io::Read::read(&mut client.stream, &mut buffer).unwrap();
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    let taken = start.elapsed();
    assert!((900..3000).contains(&taken.as_millis()), "{taken:?}");
    assert!(longest < Duration::from_millis(300), "a pause of {longest:?}");
}

#[test]
fn admin_port_tells_in_its_own_words() {
    let _watchdog = Watchdog::bark_after(60);
    let emulator = Emulator::start();
    let address = emulator.address();
    assert_eq!(put(address, "a b".replace(' ', "-").as_str(), b"123456789"), 200);
    let upload = initiate(address, "m");
    let target = format!("m?partNumber=3&uploadId={upload}");
    RawClient::once(address, "PUT", &target, "", b"part").unwrap();
    assert_eq!(get(address, "a-b").unwrap().len(), 9);

    assert_eq!(
        emulator.admin("GET", &format!("/objects?bucket={BUCKET}"), ""),
        json!([{"key": "a-b", "size": 9, "crc64": "11051210869376104954",
            "etag": "25f9e794323b453885f5181f1b624d0b"}])
    );
    assert_eq!(
        emulator.admin("GET", "/uploads", ""),
        json!([{"bucket": BUCKET, "key": "m", "upload_id": upload, "parts": 1, "bytes": 4}])
    );
    // Counted once the last byte has left.
    let sent = || emulator.admin("GET", "/requests", "")["GetObject"]["bytes_out"] == 9;
    assert!(eventually(5, sent));
    let counts = emulator.admin("GET", "/requests", "");
    assert_eq!(counts["PutObject"], json!({"count": 1, "bytes_in": 9, "bytes_out": 0}));
    assert_eq!(counts["GetObject"], json!({"count": 1, "bytes_in": 0, "bytes_out": 9}));
    assert_eq!(counts["DeleteObject"]["count"], 0);
    emulator.forget_requests();
    assert_eq!(emulator.requests("PutObject"), 0);

    let fault = r#"{"operation": "UploadPart", "kind": "status", "status": 503, "code": "SlowDown",
        "skip": 3, "times": null, "milliseconds": 500, "key": "k"}"#;
    assert_eq!(emulator.admin("POST", "/faults", fault), json!({"id": 1}));
    assert_eq!(emulator.admin("POST", "/faults", fault), json!({"id": 2}));
    emulator.admin("DELETE", "/faults/1", "");
    assert_eq!(emulator.admin("GET", "/faults", "")[0]["id"], 2);
    emulator.admin("DELETE", "/faults", "");
    assert_eq!(emulator.admin("GET", "/faults", ""), json!([]));
    for wrong in [
        r#"{"operation": "Nonsense", "kind": "status"}"#,
        r#"{"operation": "*", "kind": "nonsense"}"#,
        r#"{"operation": "*"}"#,
        "nonsense",
    ] {
        assert_eq!(emulator.admin_status("POST", "/faults", wrong), 400, "{wrong}");
    }
    assert_eq!(emulator.admin_status("GET", "/nonsense", ""), 404);
    assert_eq!(emulator.admin_status("GET", "/objects?bucket=none-1250000000", ""), 404);
}

// ---- the directory -------------------------------------------------------------------------------------

/// What a round of writers was told, by key: the body of the last acknowledged PUT, and of one in flight.
type Told = HashMap<String, (Option<Vec<u8>>, Option<Vec<u8>>)>;

/// Writes to keys of its own until the store is gone.
fn write_until_killed(address: SocketAddr, writer: usize, round: usize, stop: &AtomicBool) -> Told {
    let mut told = Told::new();
    let mut client = RawClient::connect(address);
    for turn in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let key = format!("w{writer}/{}", turn % 5);
        let body = vec![turn.to_le_bytes()[0]; 1 + (turn * 7919 + round * 31) % 200_000];
        let entry = told.entry(key.clone()).or_default();
        entry.1 = Some(body.clone());
        match client.request("PUT", &key, "", &body) {
            Ok(answer) if answer.status == 200 => *entry = (Some(body), None),
            _ => break,
        }
    }
    told
}

/// Files below the directory but journal and lock.
fn blobs(directory: &Path) -> usize {
    let entries =
        |path: &Path| fs::read_dir(path).expect("a directory").map(|entry| entry.expect("readable").path());
    entries(&directory.join("blobs")).map(|shard| entries(&shard).count()).sum()
}

#[test]
fn killed_emulator_keeps_what_it_acknowledged() {
    let _watchdog = Watchdog::bark_after(180);
    let directory = TempTree::new();
    let arguments = ["--data", directory.path().to_str().unwrap()];
    let mut expected: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut parts: Vec<String> = Vec::new();
    let mut upload = String::new();
    for round in 0..4 {
        let emulator = Emulator::start_with(&[BUCKET], &arguments);
        let address = emulator.address();
        let stored: Vec<String> = emulator.keys();
        assert_eq!(stored, expected.keys().cloned().collect::<Vec<_>>(), "round {round}");
        for (key, body) in &expected {
            assert!(get(address, key).as_ref() == Some(body), "round {round}: {key}");
        }
        assert_eq!(emulator.uploads().len(), usize::from(round > 0));
        assert_eq!(blobs(directory.path()), expected.len() + parts.len(), "what was half written is gone");
        if round == 0 {
            upload = initiate(address, "big");
        }
        let number = parts.len() + 1;
        let target = format!("big?partNumber={number}&uploadId={upload}");
        let part = RawClient::once(address, "PUT", &target, "", &vec![number.to_le_bytes()[0]; MIB]).unwrap();
        parts.push(part.header("ETag").unwrap().to_owned());

        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let stop = Arc::clone(&stop);
                thread::spawn(move || write_until_killed(address, writer, round, &stop))
            })
            .collect();
        thread::park_timeout(Duration::from_millis(400));
        emulator.process().signal(Signal::KILL);
        stop.store(true, Ordering::Relaxed);
        let told: Vec<Told> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        drop(emulator);

        // What was in flight may be there or not; ask the next one, then it must stay so.
        let emulator = Emulator::start_with(&[BUCKET], &arguments);
        for (key, (acknowledged, in_flight)) in told.into_iter().flatten() {
            let acknowledged = acknowledged.or_else(|| expected.get(&key).cloned());
            let found = get(emulator.address(), &key);
            assert!(found == acknowledged || (found.is_some() && found == in_flight), "round {round}: {key}");
            match found {
                Some(body) => drop(expected.insert(key, body)),
                None => drop(expected.remove(&key)),
            }
        }
        assert!(expected.len() >= 4, "the writers got somewhere");
    }
    let emulator = Emulator::start_with(&[BUCKET], &arguments);
    let target = format!("big?uploadId={upload}");
    let document = complete_document(&parts);
    let done = RawClient::once(emulator.address(), "POST", &target, "", document.as_bytes()).unwrap();
    assert!(done.element("ETag").ends_with("-4\""), "{}", done.text());
    let whole: Vec<u8> = (1..=4).flat_map(|number| vec![number; MIB]).collect();
    assert!(get(emulator.address(), "big").unwrap() == whole);
    assert_eq!(RawClient::once(emulator.address(), "DELETE", "big", "", b"").unwrap().status, 204);
    assert!(eventually(5, || blobs(directory.path()) == expected.len()), "bytes of a deleted object go");
}

#[test]
fn cut_journal_line_is_dropped() {
    let _watchdog = Watchdog::bark_after(60);
    let directory = TempTree::new();
    let arguments = ["--data", directory.path().to_str().unwrap()];
    let emulator = Emulator::start_with(&[BUCKET], &arguments);
    assert_eq!(put(emulator.address(), "k", b"x"), 200);
    drop(emulator);
    let journal = directory.path().join("journal");
    let mut file = fs::OpenOptions::new().append(true).open(&journal).unwrap();
    file.write_all(br#"{"NoObject":{"bucket":"demo-125"#).unwrap();
    let emulator = Emulator::start_with(&[BUCKET], &arguments);
    assert_eq!(get(emulator.address(), "k").unwrap(), b"x");
}

#[tokio::test]
async fn directory_belongs_to_one_emulator() {
    let directory = tempfile::tempdir().unwrap();
    let data = Some(directory.path().to_owned());
    let options = EmulatorOptions { data, ..EmulatorOptions::default() };
    let first = cosgate::emulator::Emulator::start(options.clone()).await.unwrap();
    let error = cosgate::emulator::Emulator::start(options.clone()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
    first.stop();
    cosgate::emulator::Emulator::start(options).await.expect("the first one has let go");
}

#[test]
fn bodies_do_not_pass_through_memory() {
    let _watchdog = Watchdog::bark_after(120);
    let directory = TempTree::new();
    let arguments = ["--fast-etag", "--data", directory.path().to_str().unwrap()];
    let emulator = Emulator::start_with(&[BUCKET], &arguments);
    let address = emulator.address();
    let upload = initiate(address, "big");
    let body = vec![3; 16 * MIB];
    let mut etags = Vec::new();
    for number in 1..=8 {
        let target = format!("big?partNumber={number}&uploadId={upload}");
        let part = RawClient::once(address, "PUT", &target, "", &body).unwrap();
        etags.push(part.header("ETag").unwrap().to_owned());
    }
    let start = Instant::now();
    let target = format!("big?uploadId={upload}");
    let done = RawClient::once(address, "POST", &target, "", complete_document(&etags).as_bytes()).unwrap();
    assert_eq!(done.status, 200);
    assert!(start.elapsed() < Duration::from_secs(2), "Complete moves no byte: {:?}", start.elapsed());
    assert!(get(address, "big").unwrap().len() == 8 * body.len());
    let status = fs::read_to_string(format!("/proc/{}/status", emulator.process().pid())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak_kib: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    assert!(peak_kib < 64 * 1024, "peak of {peak_kib} KiB for 128 MiB");
}
