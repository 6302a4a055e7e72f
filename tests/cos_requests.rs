//! `CosClient` on the wire: what it sends byte by byte, and what it makes of answers that are lost, late,
//! broken or lying. The server is a script over raw TCP (`common/stub_http.rs`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "common/stub_http.rs"]
mod stub_http;
#[path = "common/tls.rs"]
mod tls;

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use cosgate::{
    config::{Addressing, Secret, StoreConfig},
    cos::{
        ByteRange, CosClient, CosError, CosResult, Crc64, ETag, Expected, HttpPool, Key, ListRequest,
        NewObject, ObjectStore, PartNumber, PartStored, Payload, Reason, UploadId,
    },
};
use futures_util::TryStreamExt;
use parking_lot::Mutex;
use stub_http::{Seen, Step, Stub, answer, bare_answer, error};
use tls::{Handshake, TlsServer};
use tokio::sync::watch;

const ETAG: (&str, &str) = ("ETag", "\"ee8de918d05640145b18f70f4c3aa602\"");
const MODIFIED: (&str, &str) = ("Last-Modified", "Fri, 10 Apr 2020 09:35:05 GMT");

fn config(stub: &Stub) -> StoreConfig {
    StoreConfig {
        bucket: "examplebucket-1250000000".to_owned(),
        endpoint: stub.address.to_string(),
        https: false,
        addressing: Addressing::Path,
        secret_id: "test-id".to_owned(),
        secret_key: Secret::new("test-key"),
        token: None,
        ca_file: None,
        proxy: None,
        storage_class: None,
        sse: None,
        timeout: Duration::from_secs(20),
    }
}

fn client_of(config: &StoreConfig) -> CosClient {
    CosClient::new(config, &HttpPool::new()).unwrap()
}

async fn start(script: impl IntoIterator<Item = Step>) -> (Stub, CosClient) {
    let stub = Stub::start(script).await;
    let client = client_of(&config(&stub));
    (stub, client)
}

async fn start_hasty(timeout: Duration, script: impl IntoIterator<Item = Step>) -> (Stub, CosClient) {
    let stub = Stub::start(script).await;
    let client = client_of(&StoreConfig { timeout, ..config(&stub) });
    (stub, client)
}

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn crc(bytes: &[u8]) -> (&'static str, String) {
    ("x-cos-hash-crc64ecma", Crc64::of(bytes).to_string())
}

/// An answer to PUT or UploadPart of `bytes`.
fn stored(bytes: &[u8]) -> Step {
    let (name, value) = crc(bytes);
    Step::Answer(answer("200 OK", &[ETAG, (name, &value)], ""))
}

/// An answer to HEAD of an object of `bytes`.
fn head_of(bytes: &[u8], extra: &[(&str, &str)]) -> Step {
    let (name, value) = crc(bytes);
    let length = bytes.len().to_string();
    let mut headers =
        vec![ETAG, MODIFIED, ("Content-Length", &length), ("x-cos-request-id", "NWU5"), (name, &value)];
    headers.extend_from_slice(extra);
    Step::Answer(bare_answer("200 OK", &headers, ""))
}

fn not_found() -> Step {
    Step::Answer(answer("404 Not Found", &[], ""))
}

async fn put(client: &CosClient, bytes: &'static [u8], forbid_overwrite: bool) -> CosResult<()> {
    let new = NewObject { forbid_overwrite, ..NewObject::default() };
    client.put_object(&key("k"), Payload::new(bytes), &new).await.map(drop)
}

async fn read(client: &CosClient, range: Option<ByteRange>) -> CosResult<Vec<u8>> {
    let body = client.get_object(&key("k"), range, None).await?;
    body.bytes.map_ok(|chunk| chunk.to_vec()).try_concat().await
}

fn expected(bytes: &[u8]) -> Expected {
    Expected { bytes: bytes.len() as u64, crc64: Some(Crc64::of(bytes)) }
}

fn part(bytes: &[u8]) -> PartStored {
    let crc64 = Some(Crc64::of(bytes));
    PartStored {
        number: PartNumber::FIRST,
        etag: ETag::new("p1"),
        bytes: bytes.len() as u64,
        crc64,
        stored_at: None,
    }
}

async fn complete(client: &CosClient, bytes: &[u8], forbid_overwrite: bool) -> CosResult<ETag> {
    let upload = UploadId::new("1585130821cb");
    let (key, parts) = (key("k"), [part(bytes)]);
    let done = client.complete_multipart_upload(&key, &upload, &parts, expected(bytes), forbid_overwrite);
    done.await.map(|stored| stored.etag)
}

const COMPLETED: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<CompleteMultipartUploadResult xmlns="http://www.qcloud.com/document/product/436/7751">
	<Location>http://examplebucket-1250000000.cos.ap-beijing.myqcloud.com/k</Location>
	<Bucket>examplebucket-1250000000</Bucket><Key>k</Key>
	<ETag>&quot;aa259a62513358f69e98e72e59856d88-1&quot;</ETag>
</CompleteMultipartUploadResult>"#;

fn completed(bytes: &[u8]) -> Step {
    let (name, value) = crc(bytes);
    Step::Answer(answer("200 OK", &[(name, &value)], COMPLETED))
}

fn methods(seen: &[Seen]) -> Vec<&str> {
    seen.iter().map(|seen| seen.method.as_str()).collect()
}

fn reason<T: std::fmt::Debug>(result: CosResult<T>) -> (Reason, bool) {
    let error: CosError = result.expect_err("must fail");
    (error.reason, error.in_doubt)
}

// ---- bytes on the wire ----

#[tokio::test]
async fn the_exact_key_reaches_the_wire() {
    let (stub, client) = start([not_found()]).await;
    let long = "长".repeat(283) + "x";
    let long_path = "/".to_owned() + &"%E9%95%BF".repeat(283) + "x";
    let keys = [
        ("plain/file.txt", "/plain/file.txt"),
        ("a b", "/a%20b"),
        ("a+b", "/a%2Bb"),
        ("100%", "/100%25"),
        ("%2E%2E", "/%252E%252E"),
        ("x%2Fy", "/x%252Fy"),
        ("目录/文件", "/%E7%9B%AE%E5%BD%95/%E6%96%87%E4%BB%B6"),
        ("\u{1F600}", "/%F0%9F%98%80"),
        ("a/../b", "/a%2F..%2Fb"),
        ("a/b/..", "/a/b%2F.."),
        ("../a", "/..%2Fa"),
        ("./a", "/.%2Fa"),
        ("a/./b/.", "/a%2F.%2Fb%2F."),
        ("a//b", "/a//b"),
        ("a/", "/a/"),
        ("a\\b", "/a%5Cb"),
        ("a\\..\\b", "/a%5C..%5Cb"),
        ("a\tb", "/a%09b"),
        ("a\nb\r", "/a%0Ab%0D"),
        ("\u{1}\u{7f}\u{85}", "/%01%7F%C2%85"),
        (" lead and trail ", "/%20lead%20and%20trail%20"),
        ("a?b=c#d&e", "/a%3Fb%3Dc%23d%26e"),
        ("~-_.!*'()", "/~-_.%21%2A%27%28%29"),
        ("[::1]:80@x", "/%5B%3A%3A1%5D%3A80%40x"),
        ("C:|x", "/C%3A%7Cx"),
        (&long, &long_path),
    ];
    for (text, path) in &keys {
        client.head_object(&key(text)).await.unwrap_err();
        let seen = stub.seen().pop().unwrap();
        assert_eq!(seen.target, format!("/examplebucket-1250000000{path}"), "{text:?}");
    }
    assert_eq!(stub.seen().len(), keys.len());
}

#[tokio::test]
async fn a_put_carries_length_digest_type_and_metadata() {
    let stub = Stub::start([stored(b"hello, world")]).await;
    let client = client_of(&StoreConfig {
        token: Some(Secret::new("the-token")),
        storage_class: Some("STANDARD_IA".to_owned()),
        sse: Some("AES256".to_owned()),
        ..config(&stub)
    });
    let pieces = ["hello", "", ", ", "world"].map(Bytes::from).to_vec();
    let payload = Payload::with_crc64(pieces, Crc64::of(b"hello, world"));
    let metadata =
        [("mtime".to_owned(), "1700000000".to_owned()), ("x".to_owned(), "报 %".to_owned())].into();
    let new = NewObject { metadata, ..NewObject::default() };
    let stored = client.put_object(&key("a/b.txt"), payload, &new).await.unwrap();
    assert_eq!(stored.etag.as_str(), "ee8de918d05640145b18f70f4c3aa602");
    let seen = stub.seen().pop().unwrap();
    assert_eq!((seen.method.as_str(), seen.body.as_slice()), ("PUT", &b"hello, world"[..]));
    for (name, value) in [
        ("host", stub.address.to_string().as_str()),
        ("content-length", "12"),
        ("content-md5", "5NfxtO0uQtFYmPSyewGdpA=="),
        ("content-type", "text/plain"),
        ("x-cos-meta-mtime", "1700000000"),
        ("x-cos-meta-x", "%E6%8A%A5%20%25"),
        ("x-cos-security-token", "the-token"),
        ("x-cos-storage-class", "STANDARD_IA"),
        ("x-cos-server-side-encryption", "AES256"),
    ] {
        assert_eq!(seen.header(name), Some(value), "{name}");
    }
    assert_eq!(seen.header("x-cos-forbid-overwrite"), None);
    let authorization = seen.header("authorization").unwrap();
    let signed = "q-header-list=content-md5;content-type;host;x-cos-meta-mtime;x-cos-meta-x;x-cos-security-token;\
                  x-cos-server-side-encryption;x-cos-storage-class&q-url-param-list=&";
    assert!(authorization.starts_with("q-sign-algorithm=sha1&q-ak=test-id&q-sign-time="), "{authorization}");
    assert!(authorization.contains(signed), "{authorization}");
}

#[tokio::test]
async fn requests_without_a_body_say_so() {
    let (stub, client) = start([
        stored(b""),
        Step::Answer(answer("200 OK", &[], "<CopyObjectResult><ETag>\"e\"</ETag></CopyObjectResult>")),
        Step::Answer(answer(
            "200 OK",
            &[],
            "<InitiateMultipartUploadResult><Key>k</Key><UploadId>15</UploadId></InitiateMultipartUploadResult>",
        )),
        Step::Answer(answer("204 No Content", &[], "")),
    ])
    .await;
    put(&client, b"", true).await.unwrap();
    client.copy_object(&key("源/a b"), &key("k"), Some(&ETag::new("e")), None, true).await.unwrap();
    client.initiate_multipart_upload(&key("k"), &NewObject::default()).await.unwrap();
    client.delete_object(&key("k")).await.unwrap();
    let seen = stub.seen();
    assert_eq!(methods(&seen), ["PUT", "PUT", "POST", "DELETE"]);
    for request in &seen[..3] {
        assert_eq!(request.header("content-length"), Some("0"), "{}", request.target);
    }
    let forbids = |index: usize| seen[index].header("x-cos-forbid-overwrite");
    assert_eq!((forbids(0), forbids(1), forbids(2)), (Some("true"), Some("true"), None));
    let source = format!("examplebucket-1250000000.{}/%E6%BA%90/a%20b", stub.address);
    assert_eq!(seen[1].header("x-cos-copy-source"), Some(source.as_str()));
    assert_eq!(seen[1].header("x-cos-copy-source-if-match"), Some("\"e\""));
    assert_eq!(seen[1].header("x-cos-metadata-directive"), None);
    assert!(seen[2].target.ends_with("/k?uploads="), "{}", seen[2].target);
    // One connection carried them all.
    assert!(seen.iter().all(|seen| seen.connection == 0));
}

#[tokio::test]
async fn lists_ask_for_encoded_keys() {
    let list = "<?xml version='1.0'?><ListBucketResult><EncodingType>url</EncodingType><IsTruncated>false</IsTruncated>\
                <Contents><Key>a+b%2B%20</Key><LastModified>2020-12-10T03:37:30.000Z</LastModified><ETag>\"e\"</ETag>\
                <Size>20</Size></Contents></ListBucketResult>";
    let (stub, client) = start([Step::Answer(answer("200 OK", &[], list))]).await;
    let request = ListRequest {
        prefix: "目录/a b+".into(),
        by_directory: true,
        marker: "m&n".into(),
        entries_max: 100,
    };
    let page = client.list_objects(&request).await.unwrap();
    assert_eq!(page.objects[0].key, "a+b+ ");
    assert_eq!(
        stub.seen()[0].target,
        "/examplebucket-1250000000/?prefix=%E7%9B%AE%E5%BD%95%2Fa%20b%2B&delimiter=%2F&marker=m%26n&max-keys=100\
         &encoding-type=url"
    );
}

/// One page of a list with one entry.
fn page_of(entry: &str, next: &str) -> Vec<u8> {
    let list = format!(
        "<?xml version='1.0'?><ListBucketResult><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
         <NextMarker>{next}</NextMarker><Contents><Key>{entry}</Key><LastModified>2020-12-10T03:37:30.000Z</LastModified>\
         <ETag>\"e\"</ETag><Size>20</Size></Contents></ListBucketResult>"
    );
    answer("200 OK", &[], &list)
}

#[tokio::test]
async fn the_next_page_is_told_of_before_this_one_is_there() {
    let (mut begun, whole) = (page_of("a", "b%20c"), page_of("a", "b"));
    begun.truncate(begun.len() - 100);
    let told = Mutex::new(Vec::new());
    let tell = |next| told.lock().push(next);
    let (stub, client) = start([Step::AnswerAndClose(begun.clone()), Step::Answer(whole)]).await;
    let request = ListRequest::default();
    let page = client.list_objects_telling(&request, &tell).await.unwrap();
    // What broke off is no page, and another attempt may find another one.
    assert_eq!((page.next_marker.as_deref(), page.objects.len()), (Some("b"), 1));
    assert_eq!((stub.seen().len(), told.lock().join("|").as_str()), (2, "b c|b"));

    let (_stub, client) =
        start([Step::Drip(vec![(Duration::ZERO, begun), (Duration::from_secs(3600), Vec::new())])]).await;
    let (heard, hears) = watch::channel(false);
    let tell = |next| {
        heard.send_replace(next == "b c");
    };
    let mut hears = hears;
    tokio::select! {
        _ = client.list_objects_telling(&request, &tell) => panic!("it has not come"),
        told = hears.wait_for(|heard| *heard) => drop(told.unwrap()),
    }
    // A refusal tells of no page, whatever is in it.
    let refused = String::from_utf8(page_of("a", "b")).unwrap().replace("200 OK", "403 Forbidden");
    let (_stub, client) = start([Step::Answer(refused.into())]).await;
    let tell = |next| panic!("told of {next}");
    client.list_objects_telling(&request, &tell).await.unwrap_err();
}

#[tokio::test]
async fn ranges_and_conditions_are_asked_for() {
    let (name, value) = crc(b"0123456789");
    let headers = [ETAG, MODIFIED, ("Content-Range", "bytes 2-4/10"), (name, value.as_str())];
    let (stub, client) = start([Step::Answer(answer("206 Partial Content", &headers, "234"))]).await;
    let range = Some(ByteRange { first: 2, length: 3 });
    let body = client.get_object(&key("k"), range, Some(&ETag::new("e"))).await.unwrap();
    assert_eq!((body.meta.size, body.meta.crc64), (10, Some(Crc64::of(b"0123456789"))));
    assert_eq!(body.bytes.try_collect::<Vec<_>>().await.unwrap().concat(), b"234");
    let seen = stub.seen().pop().unwrap();
    assert_eq!((seen.header("range"), seen.header("if-match")), (Some("bytes=2-4"), Some("\"e\"")));
    // What is stored compressed is handed over as it is stored.
    assert_eq!(seen.header("accept-encoding"), None);
}

#[tokio::test]
async fn a_proxy_gets_the_whole_url() {
    let stub = Stub::start([not_found()]).await;
    let client = client_of(&StoreConfig {
        endpoint: "cos.ap-beijing.myqcloud.com".to_owned(),
        addressing: Addressing::Virtual,
        proxy: Some(format!("http://{}", stub.address)),
        ..config(&stub)
    });
    assert_eq!(reason(client.head_object(&key("a/../b")).await).0, Reason::NoSuchKey);
    let seen = stub.seen().pop().unwrap();
    let host = "examplebucket-1250000000.cos.ap-beijing.myqcloud.com";
    assert_eq!(seen.target, format!("http://{host}/a%2F..%2Fb"));
    assert_eq!(seen.header("host"), Some(host));
}

#[tokio::test]
async fn multiple_deletes_do_not_wait_for_each_other() {
    let pause = Duration::from_millis(200);
    let done = Step::Drip(vec![(pause, answer("200 OK", &[], "<DeleteResult/>"))]);
    let (stub, client) = start([done]).await;
    let keys: Vec<Key> = (0..3500).map(|number| key(&format!("d/{number}"))).collect();
    assert_eq!(client.delete_objects(&keys).await.unwrap().len(), 0);
    let connections: HashSet<usize> = stub.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!((stub.seen().len(), connections.len()), (4, 4));
}

#[tokio::test]
async fn a_multiple_delete_sends_what_xml_can_carry() {
    let result = "<DeleteResult><Error><Key>b&amp;</Key><Code>AccessDenied</Code><Message>no</Message></Error>\
                  <Error><Key>a</Key><Code>PathConflict</Code></Error></DeleteResult>";
    let (stub, client) = start([
        Step::Answer(answer("200 OK", &[], result)),
        Step::Answer(answer("200 OK", &[], "<DeleteResult/>")),
        Step::Answer(answer("204 No Content", &[], "")),
    ])
    .await;
    let failed = client.delete_objects(&["a", "b&", "ctl\u{1}"].map(key)).await.unwrap();
    assert_eq!(
        failed.iter().map(|(key, error)| (key.as_str(), error.reason)).collect::<Vec<_>>(),
        [("b&", Reason::AccessDenied)]
    );
    let seen = stub.seen();
    assert_eq!(methods(&seen), ["POST", "POST", "DELETE"]);
    assert!(seen[0].target.ends_with("/?delete="), "{}", seen[0].target);
    assert!(seen[0].header("content-md5").is_some());
    assert!(
        String::from_utf8_lossy(&seen[1].body)
            .contains("<Quiet>true</Quiet><Object><Key>a</Key></Object></Delete>")
    );
    assert!(seen[2].target.ends_with("/ctl%01"));
}

// ---- retries ----

#[tokio::test]
async fn what_may_pass_is_tried_again() {
    let (stub, client) = start([
        Step::Answer(error("500 Internal Server Error", "InternalError")),
        Step::Answer(error("503 Slow Down", "SlowDown")),
        Step::Answer(error("409 Conflict", "PathConflict")),
        Step::Answer(bare_answer("502 Bad Gateway", &[("Content-Length", "4")], "oops")),
        Step::HangUp,
        Step::HangUpEarly,
        Step::Answer(error("400 Bad Request", "RequestTimeout")),
        Step::Answer(error("400 Bad Request", "BadDigest")),
        stored(b"bytes"),
    ])
    .await;
    put(&client, b"bytes", false).await.unwrap();
    assert_eq!(stub.seen().len(), 9);
    assert!(stub.seen().iter().all(|seen| seen.method == "PUT"));
    let bodies: Vec<Seen> = stub.seen().into_iter().filter(|seen| !seen.body.is_empty()).collect();
    assert!(bodies.iter().all(|seen| seen.body == b"bytes"));
}

#[tokio::test]
async fn what_cannot_pass_is_told_at_once() {
    for (status, code, expected) in [
        ("403 Forbidden", "AccessDenied", Reason::AccessDenied),
        ("404 Not Found", "NoSuchBucket", Reason::NoSuchBucket),
        ("400 Bad Request", "InvalidArgument", Reason::Refused),
        ("501 Not Implemented", "NotImplemented", Reason::Refused),
        ("301 Moved Permanently", "PermanentRedirect", Reason::Refused),
        ("403 Forbidden", "InvalidObjectState", Reason::Archived),
    ] {
        let (stub, client) = start([Step::Answer(error(status, code))]).await;
        let failure = put(&client, b"bytes", false).await.unwrap_err();
        assert_eq!((failure.reason, failure.in_doubt), (expected, false), "{code}");
        assert_eq!((failure.code.as_deref(), failure.request_id.as_deref()), (Some(code), Some("NWU5")));
        assert_eq!(failure.operation, "PutObject");
        assert_eq!(stub.seen().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn a_404_without_a_request_id_is_not_believed() {
    let portal = bare_answer("404 Not Found", &[("Content-Length", "0")], "");
    let (stub, client) = start([Step::Answer(portal), head_of(b"there", &[])]).await;
    assert_eq!(client.head_object(&key("k")).await.unwrap().size, 5);
    assert_eq!(stub.seen().len(), 2);
}

#[tokio::test]
async fn retry_after_is_honoured() {
    let busy = answer("503 Service Unavailable", &[("Retry-After", "1")], "");
    let (_stub, client) = start([Step::Answer(busy), head_of(b"x", &[])]).await;
    let begun = Instant::now();
    client.head_object(&key("k")).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_store_that_is_down_is_given_up_in_time() {
    let down = Step::Answer(error("500 Internal Server Error", "InternalError"));
    let (stub, client) = start_hasty(Duration::from_secs(2), [down]).await;
    let begun = Instant::now();
    assert_eq!(reason(put(&client, b"bytes", false).await), (Reason::Unavailable, true));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert!((3..=40).contains(&stub.seen().len()), "{}", stub.seen().len());
}

#[tokio::test]
async fn a_refused_connection_is_no_doubt() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let stub = Stub::start([Step::HangUp]).await;
    let endpoint = listener.local_addr().unwrap().to_string();
    drop(listener);
    let client = client_of(&StoreConfig { endpoint, timeout: Duration::from_secs(1), ..config(&stub) });
    assert_eq!(reason(put(&client, b"bytes", false).await), (Reason::Unavailable, false));
}

#[tokio::test]
async fn a_body_that_did_not_get_through_is_no_doubt() {
    let (stub, client) = start_hasty(Duration::from_secs(1), [Step::StallReading]).await;
    let payload = Payload::with_crc64(vec![Bytes::from(vec![0; 1 << 16]); 1024], Crc64(0));
    let begun = Instant::now();
    let sent = client.upload_part(&key("k"), &UploadId::new("15"), PartNumber::FIRST, payload).await;
    // The kernel may be the first to see that nothing is acknowledged.
    let (reason, in_doubt) = reason(sent);
    assert!(matches!(reason, Reason::TimedOut | Reason::Unavailable) && !in_doubt, "{reason:?}");
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!stub.seen().is_empty());
}

// ---- checksums ----

#[tokio::test]
async fn a_wrong_checksum_is_sent_again_and_then_an_error() {
    let (stub, client) = start([stored(b"other"), stored(b"bytes")]).await;
    put(&client, b"bytes", false).await.unwrap();
    assert_eq!(stub.seen().len(), 2);
    let (stub, client) = start([stored(b"other")]).await;
    let payload = Payload::new("bytes");
    let sent = client.upload_part(&key("k"), &UploadId::new("15"), PartNumber::FIRST, payload).await;
    assert_eq!(reason(sent), (Reason::Corrupt, true));
    assert_eq!(stub.seen().len(), 3);
}

#[tokio::test]
async fn a_missing_checksum_is_no_failure() {
    let bare = Step::Answer(answer("200 OK", &[ETAG], ""));
    let (_stub, client) = start([bare]).await;
    let payload = Payload::new("bytes");
    let sent = client.upload_part(&key("k"), &UploadId::new("15"), PartNumber::FIRST, payload).await.unwrap();
    assert_eq!((sent.bytes, sent.crc64), (5, None));
}

#[tokio::test]
async fn an_answer_without_an_etag_is_no_success() {
    let nothing = Step::Answer(answer("200 OK", &[], "<html>Log in</html>"));
    let (stub, client) = start([nothing]).await;
    assert_eq!(reason(put(&client, b"bytes", false).await), (Reason::Malformed, true));
    assert_eq!(stub.seen().len(), 3);
}

#[tokio::test]
async fn bodies_are_held_to_length_and_checksum() {
    let told = |bytes: &[u8]| {
        let (name, value) = crc(bytes);
        vec![ETAG, MODIFIED, (name, value.leak() as &str)]
    };
    let (_stub, client) = start([Step::Answer(answer("200 OK", &told(b"right"), "right"))]).await;
    assert_eq!(read(&client, None).await.unwrap(), b"right");
    let (_stub, client) = start([Step::Answer(answer("200 OK", &told(b"right"), "wrong"))]).await;
    assert_eq!(reason(read(&client, None).await).0, Reason::Corrupt);
    let all = Some(ByteRange { first: 0, length: 100 });
    let mut headers = told(b"right");
    headers.push(("Content-Range", "bytes 0-4/5"));
    let (_stub, client) = start([Step::Answer(answer("206 Partial Content", &headers, "wrong"))]).await;
    assert_eq!(reason(read(&client, all).await).0, Reason::Corrupt);
    let mut headers = told(b"right");
    headers.extend([("Content-Length", "5"), ("x-cos-request-id", "NWU5")]);
    let cut = bare_answer("200 OK", &headers, "rig");
    let (_stub, client) = start([Step::AnswerAndClose(cut)]).await;
    assert_eq!(reason(read(&client, None).await).0, Reason::Unavailable);
}

// ---- answers that are lost, late or lies ----

#[tokio::test]
async fn a_late_error_of_complete_is_an_error() {
    let denied = "<?xml version='1.0' encoding='utf-8' ?>\n   \n<Error><Code>AccessDenied</Code></Error>";
    let (stub, client) = start([Step::Answer(answer("200 OK", &[], denied))]).await;
    assert_eq!(reason(complete(&client, b"bytes", false).await), (Reason::AccessDenied, false));
    assert_eq!(stub.seen().len(), 1);
    let internal = "    <Error><Code>InternalError</Code></Error>";
    let (stub, client) = start([Step::Answer(answer("200 OK", &[], internal)), completed(b"bytes")]).await;
    assert_eq!(
        complete(&client, b"bytes", false).await.unwrap().as_str(),
        "aa259a62513358f69e98e72e59856d88-1"
    );
    let seen = stub.seen();
    assert_eq!(methods(&seen), ["POST", "POST"]);
    assert_eq!(
        String::from_utf8_lossy(&seen[1].body),
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>&quot;p1&quot;</ETag></Part>\
         </CompleteMultipartUpload>"
    );
}

#[tokio::test]
async fn blanks_of_a_long_merge_are_life() {
    let (name, value) = crc(b"bytes");
    let head = format!(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nx-cos-request-id: NWU5\r\n{name}: {value}\r\n\r\n"
    );
    let pause = Duration::from_millis(400);
    let mut pieces = vec![(Duration::ZERO, head.into_bytes())];
    pieces.extend(vec![(pause, b"1\r\n \r\n".to_vec()); 6]);
    pieces.push((pause, format!("{:x}\r\n{COMPLETED}\r\n0\r\n\r\n", COMPLETED.len()).into_bytes()));
    let (stub, client) = start_hasty(Duration::from_secs(1), [Step::Drip(pieces)]).await;
    complete(&client, b"bytes", false).await.unwrap();
    assert_eq!(stub.seen().len(), 1);
}

#[tokio::test]
async fn a_complete_whose_answer_was_lost_is_found_by_its_object() {
    let chunked =
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nx-cos-request-id: NWU5\r\n\r\n1\r\n \r\n";
    for lost in [
        Step::HangUp,
        Step::AnswerAndClose(chunked.to_vec()),
        Step::Answer(answer("200 OK", &[], "")),
        Step::Answer(error("500 Internal Server Error", "InternalError")),
    ] {
        let gone = Step::Answer(error("404 Not Found", "NoSuchUpload"));
        let (stub, client) = start([lost.clone(), gone.clone(), head_of(b"bytes", &[])]).await;
        assert_eq!(complete(&client, b"bytes", false).await.unwrap().as_str(), &ETAG.1[1..33]);
        assert_eq!(methods(&stub.seen()), ["POST", "POST", "HEAD"]);
        // Another object stands there: the upload is gone, and nothing can come of it.
        let (_stub, client) = start([lost.clone(), gone.clone(), head_of(b"other", &[])]).await;
        assert_eq!(reason(complete(&client, b"bytes", false).await), (Reason::NoSuchUpload, false));
        let (_stub, client) = start([lost, gone, not_found()]).await;
        assert_eq!(reason(complete(&client, b"bytes", false).await), (Reason::NoSuchUpload, false));
    }
    // Never in doubt: the first answer is believed, whatever stands there.
    let gone = Step::Answer(error("404 Not Found", "NoSuchUpload"));
    let (stub, client) = start([gone, head_of(b"bytes", &[])]).await;
    assert_eq!(reason(complete(&client, b"bytes", false).await), (Reason::NoSuchUpload, false));
    assert_eq!(stub.seen().len(), 1);
}

#[tokio::test]
async fn an_older_object_does_not_pass_for_that_of_an_upload() {
    let lost_then_head = |modified, checksum: Option<&str>| {
        let mut headers =
            vec![ETAG, ("Content-Length", "5"), ("x-cos-request-id", "N"), ("Last-Modified", modified)];
        headers.extend(checksum.map(|value| ("x-cos-hash-crc64ecma", value)));
        let head = bare_answer("200 OK", &headers, "");
        let begun = answer(
            "200 OK",
            &[("Date", "Fri, 10 Apr 2020 09:35:05 GMT")],
            "<InitiateMultipartUploadResult><UploadId>15</UploadId></InitiateMultipartUploadResult>",
        );
        let gone = error("404 Not Found", "NoSuchUpload");
        [Step::Answer(begun), Step::HangUp, Step::Answer(gone), Step::Answer(head)]
    };
    let crc64 = Crc64::of(b"bytes").to_string();
    for (modified, checksum, is_ours) in [
        ("Fri, 10 Apr 2020 09:35:05 GMT", None, true),
        ("Fri, 10 Apr 2020 09:35:04 GMT", None, false),
        // The same bytes, stored a minute before: not what this upload made.
        ("Fri, 10 Apr 2020 09:34:05 GMT", Some(&*crc64), false),
        ("Fri, 10 Apr 2020 09:35:04 GMT", Some(&*crc64), true),
    ] {
        let (_stub, client) = start(lost_then_head(modified, checksum)).await;
        let upload = client.initiate_multipart_upload(&key("k"), &NewObject::default()).await.unwrap();
        let parts = [part(b"bytes")];
        let done =
            client.complete_multipart_upload(&key("k"), &upload, &parts, expected(b"bytes"), false).await;
        assert_eq!(done.is_ok(), is_ours, "{modified} {checksum:?}");
    }
}

#[tokio::test]
async fn a_complete_that_cannot_be_settled_stays_in_doubt() {
    let (stub, client) = start_hasty(Duration::from_secs(1), [Step::HangUp]).await;
    assert_eq!(reason(complete(&client, b"bytes", false).await), (Reason::Unavailable, true));
    assert!(methods(&stub.seen()).contains(&"HEAD"));
}

#[tokio::test]
async fn a_forbidding_put_recognises_its_own_object() {
    let taken = || Step::Answer(error("409 Conflict", "FileAlreadyExists"));
    let (stub, client) = start([Step::HangUp, taken(), head_of(b"bytes", &[])]).await;
    put(&client, b"bytes", true).await.unwrap();
    assert_eq!(methods(&stub.seen()), ["PUT", "PUT", "HEAD"]);
    let (_stub, client) = start([Step::HangUp, taken(), head_of(b"other", &[])]).await;
    assert_eq!(reason(put(&client, b"bytes", true).await), (Reason::Exists, false));
    let (stub, client) = start([taken(), head_of(b"bytes", &[])]).await;
    assert_eq!(reason(put(&client, b"bytes", true).await), (Reason::Exists, false));
    assert_eq!(stub.seen().len(), 1);
}

#[tokio::test]
async fn a_copy_recognises_its_own_work() {
    let taken = || Step::Answer(error("409 Conflict", "FileAlreadyExists"));
    let copy = async |client: &CosClient| client.copy_object(&key("a"), &key("b"), None, None, true).await;
    let (stub, client) = start([Step::HangUp, taken(), head_of(b"bytes", &[])]).await;
    copy(&client).await.unwrap();
    assert_eq!(methods(&stub.seen()), ["PUT", "PUT", "HEAD", "HEAD"]);
    let (_stub, client) =
        start([Step::HangUp, taken(), head_of(b"bytes", &[]), head_of(b"other", &[])]).await;
    assert_eq!(reason(copy(&client).await), (Reason::Exists, true));
    // A copy onto itself is known by the metadata it was to set.
    let new = NewObject { metadata: [("mode".to_owned(), "600".to_owned())].into(), ..NewObject::default() };
    let changed = || Step::Answer(error("412 Precondition Failed", "PreconditionFailed"));
    let etag = ETag::new("e");
    for (mode, is_ours) in [("600", true), ("644", false)] {
        let found = head_of(b"bytes", &[("x-cos-meta-mode", mode)]);
        let (_stub, client) = start([Step::HangUp, changed(), found]).await;
        let done = client.copy_object(&key("a"), &key("a"), Some(&etag), Some(&new), false).await;
        assert_eq!(done.is_ok(), is_ours, "{mode}");
    }
}

#[tokio::test]
async fn a_late_error_of_a_copy_is_an_error() {
    let late = |code| Step::Answer(answer("200 OK", &[], format!("  <Error><Code>{code}</Code></Error>")));
    let (_stub, client) = start([late("NoSuchKey")]).await;
    let done = client.copy_object(&key("a"), &key("b"), None, None, false).await;
    assert_eq!(reason(done), (Reason::NoSuchKey, false));
    let part = "<CopyPartResult><ETag>\"e\"</ETag></CopyPartResult>";
    let (stub, client) = start([late("SlowDown"), Step::Answer(answer("200 OK", &[], part))]).await;
    let range = ByteRange { first: 5, length: 10 };
    let (number, upload) = (PartNumber::FIRST, UploadId::new("15"));
    let copied = client.upload_part_copy(&key("b"), &upload, number, &key("a"), range, None).await.unwrap();
    assert_eq!(copied.bytes, 10);
    assert_eq!(stub.seen()[1].header("x-cos-copy-source-range"), Some("bytes=5-14"));
    assert!(stub.seen()[1].target.ends_with("/b?partNumber=1&uploadId=15"));
}

#[tokio::test]
async fn an_error_in_the_body_of_a_200_is_an_error_where_nothing_else_is_told() {
    let late = |code| Step::Answer(answer("200 OK", &[], format!("<Error><Code>{code}</Code></Error>")));
    let upload = UploadId::new("15");
    let (_stub, client) = start([late("AccessDenied"), late("AccessDenied")]).await;
    let aborted = client.abort_multipart_upload(&key("a"), &upload).await;
    assert_eq!(reason(aborted).0, Reason::AccessDenied);
    assert_eq!(reason(client.delete_object(&key("a")).await).0, Reason::AccessDenied);
    let (stub, client) =
        start([late("InternalError"), Step::Answer(answer("204 No Content", &[], ""))]).await;
    client.abort_multipart_upload(&key("a"), &upload).await.unwrap();
    assert_eq!(stub.seen().len(), 2);
}

// ---- clocks and deadlines ----

#[tokio::test]
async fn a_skewed_clock_is_adopted_once() {
    let server = SystemTime::now() + Duration::from_secs(7200);
    let date = http_date(server);
    let body = "<Error><Code>RequestTimeTooSkewed</Code></Error>";
    let skewed = || Step::Answer(answer("403 Forbidden", &[("Date", &date)], body));
    let (stub, client) = start([skewed(), stored(b"bytes"), stored(b"bytes")]).await;
    put(&client, b"bytes", false).await.unwrap();
    put(&client, b"bytes", false).await.unwrap();
    let starts: Vec<u64> = stub.seen().iter().map(sign_start).collect();
    assert_eq!(starts.len(), 3);
    let ahead = |index: usize| starts[index].abs_diff(starts[0]);
    assert!((7195..7205).contains(&ahead(1)) && (7195..7210).contains(&ahead(2)), "{starts:?}");
    // A server that is never content is not asked for ever.
    let (stub, client) = start([skewed()]).await;
    assert_eq!(reason(put(&client, b"bytes", false).await), (Reason::AccessDenied, false));
    assert_eq!(stub.seen().len(), 2);
}

fn sign_start(seen: &Seen) -> u64 {
    let authorization = seen.header("authorization").unwrap();
    let time = authorization.split("q-sign-time=").nth(1).unwrap();
    time.split(';').next().unwrap().parse().unwrap()
}

fn http_date(time: SystemTime) -> String {
    let seconds = i64::try_from(time.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    let time = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
    let form = time::macros::format_description!(
        "[weekday repr:short], [day] [month repr:short] [year] [hour]:[minute]:[second] GMT"
    );
    time.format(&form).unwrap()
}

#[tokio::test]
async fn a_silent_store_times_out() {
    let (_stub, client) = start_hasty(Duration::from_secs(1), [Step::Stall]).await;
    let begun = Instant::now();
    assert_eq!(reason(put(&client, b"bytes", false).await), (Reason::TimedOut, true));
    assert_eq!(reason(client.head_object(&key("k")).await), (Reason::TimedOut, false));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn one_silent_connection_is_no_lost_upload() {
    let bytes: &'static [u8] = &[7; 1000];
    let (name, value) = crc(bytes);
    let done = Step::Answer(answer("200 OK", &[ETAG, (name, &value)], ""));
    let (stub, client) = start_hasty(Duration::from_secs(5), [Step::Stall, done]).await;
    let payload = || Payload::with_crc64(vec![Bytes::from_static(bytes)], Crc64::of(bytes));
    client.upload_part(&key("k"), &UploadId::new("15"), PartNumber::FIRST, payload()).await.unwrap();
    assert_eq!(stub.seen().len(), 2);
    // What makes an object is at most asked for again by who knows that the first request has failed.
    let (stub, client) = start_hasty(Duration::from_secs(3), [Step::Stall, not_found()]).await;
    assert_eq!(reason(put(&client, b"bytes", false).await), (Reason::TimedOut, true));
    assert_eq!(stub.seen().len(), 1);
    let (_stub, client) = start_hasty(Duration::from_secs(5), [Step::Stall, not_found()]).await;
    assert_eq!(reason(client.head_object(&key("k")).await).0, Reason::NoSuchKey);
}

#[tokio::test]
async fn a_slow_but_moving_upload_is_never_cut() {
    let bytes: &'static [u8] = vec![7; 12 << 20].leak();
    let (name, value) = crc(bytes);
    let done = answer("200 OK", &[ETAG, (name, &value)], "");
    let slow = Step::ReadSlowly(256 << 10, Duration::from_millis(60), done);
    let (stub, client) = start_hasty(Duration::from_secs(1), [slow]).await;
    // Blocks as the vfs has them, and one large piece: progress is seen within it.
    let (blocks, large) = bytes.split_at(4 << 20);
    let mut pieces: Vec<Bytes> = blocks.chunks(64 << 10).map(Bytes::from_static).collect();
    pieces.push(Bytes::from_static(large));
    let payload = Payload::with_crc64(pieces, Crc64::of(bytes));
    let begun = Instant::now();
    client.upload_part(&key("k"), &UploadId::new("15"), PartNumber::FIRST, payload).await.unwrap();
    assert!(begun.elapsed() > Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(stub.seen().len(), 1);
    assert!(stub.seen()[0].body == bytes);
}

#[tokio::test]
async fn a_slow_but_moving_download_is_never_cut_and_a_stalled_one_is() {
    let (name, value) = crc(b"0123456789");
    let length = ("Content-Length", "10");
    let head = bare_answer("200 OK", &[ETAG, MODIFIED, length, (name, &value)], "");
    let pieces = |tail: u64| {
        let drip = b"0123456789".iter().enumerate().map(|(index, byte)| {
            let pause = if index == 9 { tail } else { 300 };
            (Duration::from_millis(pause), vec![*byte])
        });
        Step::Drip(std::iter::once((Duration::ZERO, head.clone())).chain(drip).collect())
    };
    let (_stub, client) = start_hasty(Duration::from_secs(1), [pieces(300), pieces(10_000)]).await;
    assert_eq!(read(&client, None).await.unwrap(), b"0123456789");
    assert_eq!(reason(read(&client, None).await).0, Reason::TimedOut);
}

#[tokio::test]
async fn clients_of_one_pool_share_its_connections() {
    let stub = Stub::start([not_found()]).await;
    let pool = Arc::new(HttpPool::new());
    for _ in 0..3 {
        let client = CosClient::new(&config(&stub), &pool).unwrap();
        client.head_object(&key("k")).await.unwrap_err();
    }
    assert!(stub.seen().iter().all(|seen| seen.connection == 0));
}

// ---- TLS ----

fn tls_config(server: &TlsServer, ca_file: Option<std::path::PathBuf>) -> StoreConfig {
    StoreConfig {
        bucket: "examplebucket-1250000000".to_owned(),
        endpoint: server.address.to_string(),
        https: true,
        addressing: Addressing::Path,
        secret_id: "test-id".to_owned(),
        secret_key: Secret::new("test-key"),
        token: None,
        ca_file,
        proxy: None,
        storage_class: None,
        sse: None,
        timeout: Duration::from_secs(20),
    }
}

#[tokio::test]
async fn a_certificate_of_the_configured_authority_is_trusted() {
    let server = TlsServer::start("127.0.0.1", answer("404 Not Found", &[], ""));
    let client = client_of(&tls_config(&server, Some(server.ca_file.clone())));
    assert_eq!(reason(client.head_object(&key("k")).await).0, Reason::NoSuchKey);
    assert_eq!(reason(client.head_object(&key("k")).await).0, Reason::NoSuchKey);
    // HTTP/1.1 although the server would rather speak HTTP/2, and one connection for both.
    assert!(
        server.handshakes().iter().all(|seen| *seen == Handshake { protocol: Some(b"http/1.1".to_vec()) })
    );
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused_at_once() {
    let server = TlsServer::start("elsewhere.example", answer("404 Not Found", &[], ""));
    let client = client_of(&tls_config(&server, Some(server.ca_file.clone())));
    let begun = Instant::now();
    let error = client.put_object(&key("k"), Payload::new("x"), &NewObject::default()).await.unwrap_err();
    assert_eq!((error.reason, error.in_doubt), (Reason::Unavailable, false));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    assert_eq!(server.handshakes(), []);
}

#[tokio::test]
async fn a_file_without_certificates_is_found_at_the_start() {
    let server = TlsServer::start("127.0.0.1", Vec::new());
    let empty = tempfile::NamedTempFile::new().unwrap();
    for path in [empty.path().to_owned(), "/nonexistent/ca.pem".into()] {
        let error = CosClient::new(&tls_config(&server, Some(path.clone())), &HttpPool::new()).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}
