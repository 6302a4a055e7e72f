//! What every `ObjectStore` promises to the layers above: one suite, run over each implementation.
//!
//! A contract is a function of a store over an empty bucket; the modules at the end make a test of each
//! pair. `CosClient` is asked in both addressings, against the embedded emulator.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use cosgate::{
    config::{Addressing, Secret, StoreConfig},
    cos::{
        ByteRange, CosClient, CosResult, Crc64, ETag, Expected, HttpPool, Key, Latch, ListRequest,
        MemoryStore, NewObject, ObjectStore, PartNumber, PartStored, Payload, Reason, Stored, UploadId,
    },
    emulator::{BlankOrder, Emulator, EmulatorLimits, EmulatorOptions, Fault, FaultKind},
};
use futures_util::{StreamExt, TryStreamExt};

const MIB: usize = 1 << 20;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn part(number: u16) -> PartNumber {
    PartNumber::new(number).unwrap()
}

/// Bytes that differ from place to place and from seed to seed.
fn noise(bytes: usize, seed: u64) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..)).take(bytes).collect()
}

async fn put(store: &dyn ObjectStore, name: &str, bytes: impl Into<Bytes>) -> Stored {
    store.put_object(&key(name), Payload::new(bytes), &NewObject::default()).await.unwrap()
}

async fn get(store: &dyn ObjectStore, name: &str, range: Option<(u64, u64)>) -> CosResult<Vec<u8>> {
    let range = range.map(|(first, length)| ByteRange { first, length });
    let body = store.get_object(&key(name), range, None).await?;
    body.bytes.map_ok(|chunk| chunk.to_vec()).try_concat().await
}

async fn exists(store: &dyn ObjectStore, name: &str) -> bool {
    match store.head_object(&key(name)).await {
        Ok(_) => true,
        Err(error) if error.reason == Reason::NoSuchKey => false,
        Err(error) => panic!("HEAD {name}: {error}"),
    }
}

fn reason<T: std::fmt::Debug>(result: CosResult<T>) -> Reason {
    result.expect_err("must fail").reason
}

/// Initiates and sends `pieces` as parts, from the last to the first: any order will do.
async fn upload(
    store: &dyn ObjectStore,
    name: &str,
    pieces: &[Bytes],
) -> (UploadId, Vec<PartStored>, Expected) {
    let id = store.initiate_multipart_upload(&key(name), &NewObject::default()).await.unwrap();
    let mut parts = Vec::new();
    for (index, piece) in pieces.iter().enumerate().rev() {
        let number = part(u16::try_from(index + 1).unwrap());
        let sent = store.upload_part(&key(name), &id, number, Payload::new(piece.clone())).await.unwrap();
        assert_eq!((sent.number, sent.bytes), (number, piece.len() as u64));
        assert_eq!(sent.crc64, Some(Crc64::of(piece)));
        parts.insert(0, sent);
    }
    let whole = pieces.concat();
    let expected = Expected { bytes: whole.len() as u64, crc64: Some(Crc64::of(&whole)) };
    (id, parts, expected)
}

async fn complete(
    store: &dyn ObjectStore,
    name: &str,
    (id, parts, expected): &(UploadId, Vec<PartStored>, Expected),
) -> CosResult<Stored> {
    store.complete_multipart_upload(&key(name), id, parts, *expected, false).await
}

async fn list_all(
    store: &dyn ObjectStore,
    prefix: &str,
    by_directory: bool,
    entries_max: u16,
) -> Vec<String> {
    let mut request =
        ListRequest { prefix: prefix.to_owned(), by_directory, marker: String::new(), entries_max };
    let mut names = Vec::new();
    loop {
        let page = store.list_objects(&request).await.unwrap();
        let mut entries = page.prefixes.clone();
        assert!(page.prefixes.is_sorted() && page.objects.is_sorted_by_key(|object| object.key.clone()));
        entries.extend(page.objects.into_iter().map(|object| object.key));
        assert!(entries.len() <= usize::from(entries_max));
        entries.sort();
        names.extend(entries);
        match page.next_marker {
            Some(marker) => request.marker = marker,
            None => return names,
        }
    }
}

async fn what_was_put_is_read_back(store: Arc<dyn ObjectStore>) {
    let bytes = noise(300_000, 1);
    let pieces = vec![bytes.slice(..1000), Bytes::new(), bytes.slice(1000..)];
    let payload = Payload::with_crc64(pieces, Crc64::of(&bytes));
    let new = NewObject {
        metadata: [("mtime".to_owned(), "17".to_owned()), ("comment".to_owned(), "100 % 报告 \t".to_owned())]
            .into(),
        ..NewObject::default()
    };
    let stored = store.put_object(&key("a/报告.pdf"), payload, &new).await.unwrap();
    assert_eq!(stored.crc64, Some(Crc64::of(&bytes)));
    assert_eq!(get(&*store, "a/报告.pdf", None).await.unwrap(), bytes);
    let meta = store.head_object(&key("a/报告.pdf")).await.unwrap();
    assert_eq!((meta.size, &meta.etag, meta.crc64), (300_000, &stored.etag, Some(Crc64::of(&bytes))));
    assert_eq!(meta.content_type.as_deref(), Some("application/pdf"));
    assert_eq!(meta.metadata, new.metadata);
    let age = SystemTime::now().duration_since(meta.last_modified).unwrap_or_default();
    assert!(age.as_secs() < 60, "{age:?}");
    let body = store.get_object(&key("a/报告.pdf"), None, None).await.unwrap();
    assert_eq!(body.meta, meta);
}

async fn an_empty_object_is_an_object(store: Arc<dyn ObjectStore>) {
    let stored = put(&*store, "dir/", "").await;
    assert_eq!(stored.crc64, Some(Crc64::EMPTY));
    assert_eq!(get(&*store, "dir/", None).await.unwrap(), b"");
    let meta = store.head_object(&key("dir/")).await.unwrap();
    assert_eq!((meta.size, meta.content_type.as_deref()), (0, Some("application/x-directory")));
    assert!(!exists(&*store, "dir").await);
}

async fn ranges_are_clipped_at_the_end(store: Arc<dyn ObjectStore>) {
    put(&*store, "digits", "0123456789").await;
    assert_eq!(get(&*store, "digits", Some((2, 3))).await.unwrap(), b"234");
    assert_eq!(get(&*store, "digits", Some((8, 100))).await.unwrap(), b"89");
    assert_eq!(get(&*store, "digits", Some((0, u64::MAX))).await.unwrap(), b"0123456789");
    assert_eq!(reason(get(&*store, "digits", Some((10, 1))).await), Reason::InvalidRange);
    let body = store.get_object(&key("digits"), Some(ByteRange { first: 9, length: 1 }), None).await.unwrap();
    assert_eq!((body.meta.size, body.meta.crc64), (10, Some(Crc64::of(b"0123456789"))));
}

async fn a_read_is_of_the_version_asked_for(store: Arc<dyn ObjectStore>) {
    let old = put(&*store, "k", "old").await.etag;
    store.get_object(&key("k"), None, Some(&old)).await.unwrap();
    put(&*store, "k", "new").await;
    let changed = store.get_object(&key("k"), None, Some(&old)).await;
    assert_eq!(reason(changed), Reason::PreconditionFailed);
}

async fn what_is_not_there_is_no_such_key(store: Arc<dyn ObjectStore>) {
    store.head_bucket().await.unwrap();
    assert_eq!(reason(store.head_object(&key("nothing")).await), Reason::NoSuchKey);
    assert_eq!(reason(get(&*store, "nothing", None).await), Reason::NoSuchKey);
    store.delete_object(&key("nothing")).await.unwrap();
    let copied = store.copy_object(&key("nothing"), &key("k"), None, None, false).await;
    assert_eq!(reason(copied), Reason::NoSuchKey);
    let nobody = UploadId::new("0000000000aaaaaaaa");
    assert_eq!(reason(store.list_parts(&key("nothing"), &nobody).await), Reason::NoSuchUpload);
    let sent = store.upload_part(&key("nothing"), &nobody, part(1), Payload::new("x")).await;
    assert_eq!(reason(sent), Reason::NoSuchUpload);
    store.abort_multipart_upload(&key("nothing"), &nobody).await.unwrap();
}

async fn forbidding_overwrite_protects_what_is_there(store: Arc<dyn ObjectStore>) {
    let forbid = NewObject { forbid_overwrite: true, ..NewObject::default() };
    store.put_object(&key("k"), Payload::new("first"), &forbid).await.unwrap();
    let second = store.put_object(&key("k"), Payload::new("second"), &forbid).await;
    assert_eq!(reason(second), Reason::Exists);
    put(&*store, "source", "third").await;
    let copied = store.copy_object(&key("source"), &key("k"), None, None, true).await;
    assert_eq!(reason(copied), Reason::Exists);
    let begun = store.initiate_multipart_upload(&key("k"), &forbid).await;
    assert_eq!(reason(begun), Reason::Exists);
    let (id, parts, expected) = upload(&*store, "k", &[Bytes::from("fourth")]).await;
    let completed = store.complete_multipart_upload(&key("k"), &id, &parts, expected, true).await;
    assert_eq!(reason(completed), Reason::Exists);
    assert_eq!(get(&*store, "k", None).await.unwrap(), b"first");
    store.complete_multipart_upload(&key("k"), &id, &parts, expected, false).await.unwrap();
    assert_eq!(get(&*store, "k", None).await.unwrap(), b"fourth");
}

async fn a_copy_keeps_or_replaces_the_metadata(store: Arc<dyn ObjectStore>) {
    let new = NewObject {
        content_type: Some("text/x-old".to_owned()),
        metadata: [("mode".to_owned(), "644".to_owned())].into(),
        forbid_overwrite: false,
    };
    let source = "源 +%.bin";
    let stored = store.put_object(&key(source), Payload::new("bytes"), &new).await.unwrap();
    let copied =
        store.copy_object(&key(source), &key("kept"), Some(&stored.etag), None, false).await.unwrap();
    assert_eq!(copied.crc64, Some(Crc64::of(b"bytes")));
    assert!(copied.last_modified.is_some());
    let kept = store.head_object(&key("kept")).await.unwrap();
    assert_eq!((kept.content_type, kept.metadata), (new.content_type.clone(), new.metadata.clone()));
    let replace =
        NewObject { metadata: [("mode".to_owned(), "600".to_owned())].into(), ..NewObject::default() };
    store.copy_object(&key("kept"), &key("kept"), None, Some(&replace), false).await.unwrap();
    let replaced = store.head_object(&key("kept")).await.unwrap();
    assert_eq!(replaced.content_type.as_deref(), Some("application/octet-stream"));
    assert_eq!(replaced.metadata, replace.metadata);
    assert_eq!(get(&*store, "kept", None).await.unwrap(), b"bytes");
    let stale = ETag::new("0123456789abcdef0123456789abcdef");
    let refused = store.copy_object(&key(source), &key("kept"), Some(&stale), None, false).await;
    assert_eq!(reason(refused), Reason::PreconditionFailed);
}

async fn a_put_that_is_held_back_makes_nothing_until_it_is_let_go(store: Arc<dyn ObjectStore>) {
    for bytes in [1, 2, 100_000, 300_001] {
        put(&*store, "k", "old").await;
        let content = noise(bytes, 1);
        let begin = || {
            let latch = Arc::new(Latch::default());
            let payload = Payload::new(content.clone()).held_by(Arc::clone(&latch));
            let store = Arc::clone(&store);
            let request =
                tokio::spawn(
                    async move { store.put_object(&key("k"), payload, &NewObject::default()).await },
                );
            (latch, request)
        };
        // Given up: what has travelled is thrown away.
        let (_, request) = begin();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(!request.is_finished());
        request.abort();
        assert!(request.await.is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(get(&*store, "k", None).await.unwrap(), b"old");
        // Let go.
        let (latch, request) = begin();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(get(&*store, "k", None).await.unwrap(), b"old");
        latch.open();
        let stored = request.await.unwrap().unwrap();
        assert_eq!(stored.crc64, Some(Crc64::of(&content)));
        assert_eq!(get(&*store, "k", None).await.unwrap(), content);
    }
}

async fn an_upload_is_invisible_until_it_is_complete(store: Arc<dyn ObjectStore>) {
    put(&*store, "k", "old").await;
    let pieces = [noise(MIB, 1), noise(MIB + 5, 2), noise(10, 3)];
    let begun = upload(&*store, "k", &pieces).await;
    assert_eq!(get(&*store, "k", None).await.unwrap(), b"old");
    assert_eq!(list_all(&*store, "", false, 1000).await, ["k"]);
    let listed = store.list_parts(&key("k"), &begun.0).await.unwrap();
    let told =
        |parts: &[PartStored]| parts.iter().map(|p| (p.number, p.etag.clone(), p.bytes)).collect::<Vec<_>>();
    assert_eq!(told(&listed), told(&begun.1));
    assert!(listed.iter().all(|part| part.stored_at.is_some()));
    let stored = complete(&*store, "k", &begun).await.unwrap();
    assert_eq!(stored.crc64, begun.2.crc64);
    assert_eq!(get(&*store, "k", None).await.unwrap(), pieces.concat());
    let meta = store.head_object(&key("k")).await.unwrap();
    assert_eq!((meta.etag, meta.crc64), (stored.etag, begun.2.crc64));
    assert_eq!(reason(store.list_parts(&key("k"), &begun.0).await), Reason::NoSuchUpload);
    // Another upload of the same bytes: what its ETag will be cannot be known.
    let before = store.head_object(&key("k")).await.unwrap().etag;
    let again = upload(&*store, "k", &pieces).await;
    assert_ne!(complete(&*store, "k", &again).await.unwrap().etag, before);
}

async fn a_part_sent_again_replaces_the_first(store: Arc<dyn ObjectStore>) {
    let (id, _, _) = upload(&*store, "k", &[Bytes::from("wrong")]).await;
    let sent = store.upload_part(&key("k"), &id, part(1), Payload::new("right")).await.unwrap();
    let expected = Expected { bytes: 5, crc64: Some(Crc64::of(b"right")) };
    complete(&*store, "k", &(id, vec![sent], expected)).await.unwrap();
    assert_eq!(get(&*store, "k", None).await.unwrap(), b"right");
}

async fn an_aborted_upload_leaves_nothing(store: Arc<dyn ObjectStore>) {
    let begun = upload(&*store, "dir/k", &[Bytes::from("bytes")]).await;
    upload(&*store, "other", &[Bytes::from("bytes")]).await;
    let open = store.list_multipart_uploads("dir/").await.unwrap();
    assert_eq!(
        open.iter().map(|open| (open.key.as_str(), &open.upload)).collect::<Vec<_>>(),
        [("dir/k", &begun.0)]
    );
    let age = SystemTime::now().duration_since(open[0].initiated).unwrap_or_default();
    assert!(age.as_secs() < 60, "{age:?}");
    store.abort_multipart_upload(&key("dir/k"), &begun.0).await.unwrap();
    store.abort_multipart_upload(&key("dir/k"), &begun.0).await.unwrap();
    assert!(store.list_multipart_uploads("dir/").await.unwrap().is_empty());
    assert_eq!(store.list_multipart_uploads("").await.unwrap().len(), 1);
    assert_eq!(reason(complete(&*store, "dir/k", &begun).await), Reason::NoSuchUpload);
    assert!(!exists(&*store, "dir/k").await);
}

async fn impossible_part_lists_are_refused(store: Arc<dyn ObjectStore>) {
    let (id, parts, expected) = upload(&*store, "k", &[noise(1000, 1), noise(MIB, 2), noise(5, 3)]).await;
    // A part that is not the last, under 1 MB.
    assert_eq!(reason(complete(&*store, "k", &(id.clone(), parts.clone(), expected)).await), Reason::Refused);
    let big = store.upload_part(&key("k"), &id, part(1), Payload::new(noise(MIB, 4))).await.unwrap();
    // The ETag that part 1 had before.
    assert_eq!(reason(complete(&*store, "k", &(id.clone(), parts.clone(), expected)).await), Reason::Refused);
    let gap = vec![big.clone(), parts[2].clone()];
    assert_eq!(reason(complete(&*store, "k", &(id.clone(), gap, expected)).await), Reason::Refused);
    assert!(!exists(&*store, "k").await);
    let right = vec![big, parts[1].clone()];
    let crc64 = Crc64::of(&[noise(MIB, 4), noise(MIB, 2)].concat());
    let expected = Expected { bytes: 2 * MIB as u64, crc64: Some(crc64) };
    complete(&*store, "k", &(id, right, expected)).await.unwrap();
}

async fn parts_are_copied_from_ranges(store: Arc<dyn ObjectStore>) {
    let bytes = noise(3 * MIB, 1);
    let etag = put(&*store, "source", bytes.clone()).await.etag;
    let id = store.initiate_multipart_upload(&key("k"), &NewObject::default()).await.unwrap();
    let range = ByteRange { first: MIB as u64, length: MIB as u64 + 1 };
    let (source, target) = (key("source"), key("k"));
    let stale = ETag::new("stale");
    let refused = store.upload_part_copy(&target, &id, part(1), &source, range, Some(&stale)).await;
    assert_eq!(reason(refused), Reason::PreconditionFailed);
    let copied = store.upload_part_copy(&target, &id, part(1), &source, range, Some(&etag)).await.unwrap();
    assert_eq!((copied.number, copied.bytes), (part(1), MIB as u64 + 1));
    let sent = store.upload_part(&target, &id, part(2), Payload::new("tail")).await.unwrap();
    let whole = [&bytes[MIB..2 * MIB + 1], b"tail"].concat();
    let expected = Expected { bytes: whole.len() as u64, crc64: Some(Crc64::of(&whole)) };
    complete(&*store, "k", &(id, vec![copied, sent], expected)).await.unwrap();
    assert_eq!(get(&*store, "k", None).await.unwrap(), whole);
}

async fn lists_are_paged_grouped_and_in_byte_order(store: Arc<dyn ObjectStore>) {
    for name in ["a", "b/", "b/1", "b/2/x", "b/2/y", "b/3", "b!", "c/x", "目录/文 件+%", "\u{1F600}", "z\tz"]
    {
        put(&*store, name, "1").await;
    }
    let all = ["a", "b!", "b/", "b/1", "b/2/x", "b/2/y", "b/3", "c/x", "z\tz", "目录/文 件+%", "\u{1F600}"];
    let root = ["a", "b!", "b/", "c/", "z\tz", "目录/", "\u{1F600}"];
    for entries_max in [1, 2, 3, 1000] {
        assert_eq!(list_all(&*store, "", false, entries_max).await, all, "{entries_max}");
        assert_eq!(list_all(&*store, "", true, entries_max).await, root, "{entries_max}");
        assert_eq!(list_all(&*store, "b/", true, entries_max).await, ["b/", "b/1", "b/2/", "b/3"]);
        assert_eq!(list_all(&*store, "目录/", true, entries_max).await, ["目录/文 件+%"]);
        assert!(list_all(&*store, "nothing/", true, entries_max).await.is_empty());
    }
    let page =
        store.list_objects(&ListRequest { prefix: "a".into(), entries_max: 10, ..Default::default() }).await;
    let page = page.unwrap();
    let head = store.head_object(&key("a")).await.unwrap();
    let listed = &page.objects[0];
    assert_eq!((listed.size, &listed.etag, listed.last_modified), (1, &head.etag, head.last_modified));
}

async fn many_are_deleted_at_once(store: Arc<dyn ObjectStore>) {
    let names = ["a", "目录/b c", "d+e%20", "ctl\u{1}", "<&>\"'"];
    let mut keys = Vec::new();
    for name in names {
        put(&*store, name, "x").await;
        keys.push(key(name));
    }
    put(&*store, "stays", "x").await;
    keys.push(key("was never there"));
    assert!(store.delete_objects(&keys).await.unwrap().is_empty());
    assert_eq!(list_all(&*store, "", false, 1000).await, ["stays"]);
    assert!(store.delete_objects(&[]).await.unwrap().is_empty());
    store.delete_object(&key("stays")).await.unwrap();
    assert!(!exists(&*store, "stays").await);
}

async fn odd_keys_name_one_object_each(store: Arc<dyn ObjectStore>) {
    let long = "长".repeat(283) + "x";
    assert_eq!(long.len(), 850);
    let names = [
        "a b",
        "a+b",
        "a%20b",
        "a%2Fb",
        "a/b",
        "a\\b",
        "a\tb",
        "a?b",
        "a#b",
        "a&b=c",
        "x/../y",
        "x/./y",
        "y",
        "x/y",
        "%2E%2E",
        "~tilde",
        "ü",
        "u\u{308}",
        "\u{1F600}",
        "a\u{1}b",
        "a\u{7f}b",
        "a\nb",
        ";",
        "x/..",
        &long,
    ];
    let mut names: Vec<&str> = names.into();
    // Folds to nothing, which a key must not.
    names.retain(|name| Key::new(name).is_ok());
    for name in &names {
        put(&*store, name, name.as_bytes().to_vec()).await;
    }
    for name in &names {
        assert_eq!(get(&*store, name, None).await.unwrap(), name.as_bytes(), "{name:?}");
    }
    let mut sorted: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    sorted.sort();
    assert_eq!(list_all(&*store, "", false, 7).await, sorted);
    for name in &names {
        store.delete_object(&key(name)).await.unwrap();
        assert!(!exists(&*store, name).await, "{name:?}");
    }
}

async fn a_running_read_is_not_mixed_with_a_newer_object(store: Arc<dyn ObjectStore>) {
    let (old, new) = (noise(3 * MIB, 1), noise(3 * MIB, 2));
    put(&*store, "k", old.clone()).await;
    let mut body = store.get_object(&key("k"), None, None).await.unwrap();
    let first = body.bytes.next().await.unwrap().unwrap();
    put(&*store, "k", new).await;
    let mut read = first.to_vec();
    while let Some(chunk) = body.bytes.next().await {
        match chunk {
            Ok(chunk) => read.extend_from_slice(&chunk),
            Err(_) => return,
        }
    }
    assert_eq!(read, old);
}

async fn parallel_puts_of_one_key_leave_one_of_them(store: Arc<dyn ObjectStore>) {
    let puts = (0..8_u8).map(|number| {
        let store = Arc::clone(&store);
        async move { put(&*store, "k", vec![number; 50_000]).await }
    });
    futures_util::future::join_all(puts).await;
    let read = get(&*store, "k", None).await.unwrap();
    assert_eq!(read.len(), 50_000);
    assert!(read.iter().all(|byte| *byte == read[0]));
}

/// A test of each contract over what `store()` of the calling module makes, and keeps what must live as long.
macro_rules! contracts {
    ($($contract:ident),* $(,)?) => {
        macro_rules! over_each_contract {
            () => {
                $(#[tokio::test]
                async fn $contract() {
                    let (store, _kept) = store().await;
                    super::$contract(store).await;
                })*
            };
        }
        use over_each_contract;
    };
}
contracts!(
    what_was_put_is_read_back,
    an_empty_object_is_an_object,
    ranges_are_clipped_at_the_end,
    a_read_is_of_the_version_asked_for,
    what_is_not_there_is_no_such_key,
    forbidding_overwrite_protects_what_is_there,
    a_copy_keeps_or_replaces_the_metadata,
    a_put_that_is_held_back_makes_nothing_until_it_is_let_go,
    an_upload_is_invisible_until_it_is_complete,
    a_part_sent_again_replaces_the_first,
    an_aborted_upload_leaves_nothing,
    impossible_part_lists_are_refused,
    parts_are_copied_from_ranges,
    lists_are_paged_grouped_and_in_byte_order,
    many_are_deleted_at_once,
    odd_keys_name_one_object_each,
    a_running_read_is_not_mixed_with_a_newer_object,
    parallel_puts_of_one_key_leave_one_of_them,
);

mod memory {
    use super::*;

    async fn store() -> (Arc<dyn ObjectStore>, ()) {
        (Arc::new(MemoryStore::new()), ())
    }

    #[tokio::test]
    async fn lists_may_lag_and_catch_up() {
        let store = MemoryStore::new();
        put(&store, "old", "x").await;
        store.lists_lag();
        put(&store, "new", "x").await;
        store.remove("old");
        assert_eq!(list_all(&store, "", false, 10).await, ["old"]);
        assert!(exists(&store, "new").await);
        store.lists_catch_up();
        assert_eq!(list_all(&store, "", false, 10).await, ["new"]);
    }

    super::over_each_contract!();
}

mod client_by_path {
    use super::{emulated::serve, *};

    async fn store() -> (Arc<dyn ObjectStore>, Emulator) {
        let (client, emulator) = serve(Addressing::Path, EmulatorOptions::default()).await;
        (Arc::new(client), emulator)
    }

    super::over_each_contract!();
}

mod client_by_host {
    use super::{emulated::serve, *};

    async fn store() -> (Arc<dyn ObjectStore>, Emulator) {
        let options = EmulatorOptions { forbid_path_style: true, ..EmulatorOptions::default() };
        let (client, emulator) = serve(Addressing::Virtual, options).await;
        (Arc::new(client), emulator)
    }

    super::over_each_contract!();
}

/// What the client makes of faults of the store, in the end: the right object or the right error.
mod emulated {
    use super::*;

    const BUCKET: &str = "contract-1250000000";

    pub(super) async fn serve(addressing: Addressing, options: EmulatorOptions) -> (CosClient, Emulator) {
        let options = EmulatorOptions { buckets: vec![BUCKET.to_owned()], ..options };
        let emulator = Emulator::start(options).await.unwrap();
        let address = emulator.local_addr();
        let (endpoint, proxy) = match addressing {
            Addressing::Path => (address.to_string(), None),
            // A name that leads nowhere: the emulator is reached as a proxy.
            Addressing::Virtual => {
                ("cos.ap-beijing.myqcloud.com".to_owned(), Some(format!("http://{address}")))
            }
        };
        let config = StoreConfig {
            bucket: BUCKET.to_owned(),
            endpoint,
            https: false,
            addressing,
            secret_id: "emulator".to_owned(),
            secret_key: Secret::new("emulator-secret"),
            token: None,
            ca_file: None,
            proxy,
            storage_class: None,
            sse: None,
            timeout: Duration::from_secs(30),
        };
        (CosClient::new(&config, &HttpPool::new()).unwrap(), emulator)
    }

    async fn start() -> (CosClient, Emulator) {
        serve(Addressing::Path, EmulatorOptions::default()).await
    }

    /// What may befall a request that changes something, and must not be seen from above.
    const PASSING: [FaultKind; 5] = [
        FaultKind::ResetBefore,
        FaultKind::ResetAfter,
        FaultKind::LostAnswer,
        FaultKind::CutBody,
        FaultKind::WrongCrc,
    ];

    #[tokio::test]
    async fn a_put_survives_what_passes() {
        for kind in PASSING {
            let (client, emulator) = start().await;
            emulator.add_fault(Fault::once("PutObject", kind));
            let forbid = NewObject { forbid_overwrite: true, ..NewObject::default() };
            client.put_object(&key("k"), Payload::new("bytes"), &forbid).await.unwrap_or_else(|error| {
                panic!("{kind:?}: {error}");
            });
            assert_eq!(get(&client, "k", None).await.unwrap(), b"bytes", "{kind:?}");
        }
    }

    #[tokio::test]
    async fn an_upload_survives_what_passes() {
        let late = [FaultKind::ErrorIn200, FaultKind::Empty200, FaultKind::SlowMerge];
        for kind in PASSING.into_iter().chain(late) {
            // A wrong checksum of a whole object is not cured by asking again.
            if kind == FaultKind::WrongCrc {
                continue;
            }
            let (client, emulator) = start().await;
            for operation in ["InitiateMultipartUpload", "UploadPart", "CompleteMultipartUpload"] {
                emulator.add_fault(Fault { milliseconds: 300, ..Fault::once(operation, kind) });
            }
            let pieces = [noise(MIB, 1), noise(100, 2)];
            let begun = upload(&client, "k", &pieces).await;
            let stored =
                complete(&client, "k", &begun).await.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            let meta = client.head_object(&key("k")).await.unwrap();
            assert_eq!((meta.etag, meta.crc64), (stored.etag, begun.2.crc64), "{kind:?}");
            assert_eq!(get(&client, "k", None).await.unwrap(), pieces.concat());
        }
    }

    #[tokio::test]
    async fn a_copy_survives_what_passes() {
        let late = [FaultKind::ErrorIn200, FaultKind::Empty200, FaultKind::SlowMerge];
        for kind in PASSING.into_iter().chain(late) {
            let (client, emulator) = start().await;
            put(&client, "source", "bytes").await;
            emulator.add_fault(Fault { milliseconds: 300, ..Fault::once("CopyObject", kind) });
            let copied = client.copy_object(&key("source"), &key("k"), None, None, true).await;
            copied.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
            assert_eq!(get(&client, "k", None).await.unwrap(), b"bytes", "{kind:?}");
        }
    }

    #[tokio::test]
    async fn a_complete_with_a_wrong_checksum_is_an_error() {
        let (client, emulator) = start().await;
        let begun = upload(&client, "k", &[Bytes::from("bytes")]).await;
        emulator.add_fault(Fault::once("CompleteMultipartUpload", FaultKind::WrongCrc));
        assert_eq!(reason(complete(&client, "k", &begun).await), Reason::Corrupt);
    }

    #[tokio::test]
    async fn a_store_without_checksums_will_do() {
        let (client, emulator) = start().await;
        emulator.add_fault(Fault { times: None, ..Fault::once("*", FaultKind::NoCrc) });
        let whole = noise(MIB + 100, 1);
        let id = client.initiate_multipart_upload(&key("k"), &NewObject::default()).await.unwrap();
        let sent = client.upload_part(&key("k"), &id, part(1), Payload::new(whole.clone())).await.unwrap();
        assert_eq!(sent.crc64, None);
        emulator.add_fault(Fault::once("CompleteMultipartUpload", FaultKind::LostAnswer));
        let expected = Expected { bytes: whole.len() as u64, crc64: Some(Crc64::of(&whole)) };
        complete(&client, "k", &(id, vec![sent], expected)).await.unwrap();
        assert_eq!(get(&client, "k", None).await.unwrap(), whole);
    }

    #[tokio::test]
    async fn blanks_may_stand_anywhere() {
        for blank_order in
            [BlankOrder::AfterDeclaration, BlankOrder::BeforeDeclaration, BlankOrder::NoDeclaration]
        {
            let options = EmulatorOptions { blank_order, ..EmulatorOptions::default() };
            let (client, emulator) = serve(Addressing::Path, options).await;
            let begun = upload(&client, "k", &[Bytes::from("bytes")]).await;
            emulator.add_fault(Fault { milliseconds: 300, ..Fault::once("*", FaultKind::SlowMerge) });
            complete(&client, "k", &begun).await.unwrap_or_else(|error| panic!("{blank_order:?}: {error}"));
        }
    }

    #[tokio::test]
    async fn a_clock_that_differs_is_no_obstacle() {
        for hours in [-5_i64, 30] {
            let options =
                EmulatorOptions { clock_offset_ms: hours * 3_600_000, ..EmulatorOptions::default() };
            let (client, _emulator) = serve(Addressing::Path, options).await;
            // Of a HEAD, whose refusal has no body.
            assert!(!exists(&client, "k").await);
            put(&client, "k", "bytes").await;
        }
    }

    #[tokio::test]
    async fn a_cut_download_is_an_error_and_a_wrong_one_too() {
        let (client, emulator) = start().await;
        put(&client, "k", noise(300_000, 1)).await;
        emulator.add_fault(Fault::once("GetObject", FaultKind::CutBody));
        assert_eq!(reason(get(&client, "k", None).await), Reason::Unavailable);
        emulator.add_fault(Fault::once("GetObject", FaultKind::WrongCrc));
        assert_eq!(reason(get(&client, "k", None).await), Reason::Corrupt);
        emulator.add_fault(Fault::once("GetObject", FaultKind::Archived));
        assert_eq!(reason(get(&client, "k", None).await), Reason::Archived);
        assert_eq!(get(&client, "k", None).await.unwrap(), noise(300_000, 1));
    }

    #[tokio::test]
    async fn a_vanished_upload_is_told() {
        let (client, emulator) = start().await;
        let begun = upload(&client, "k", &[Bytes::from("bytes")]).await;
        emulator.add_fault(Fault::once("CompleteMultipartUpload", FaultKind::VanishUpload));
        let error = complete(&client, "k", &begun).await.unwrap_err();
        assert_eq!((error.reason, error.in_doubt), (Reason::NoSuchUpload, false));
        assert!(!exists(&client, "k").await);
    }

    #[tokio::test]
    async fn wrong_secrets_and_wrong_buckets_are_told_apart() {
        let (client, emulator) = start().await;
        emulator.add_fault(Fault {
            status: Some(403),
            code: Some("AccessDenied".into()),
            ..Fault::once("HeadBucket", FaultKind::Status)
        });
        assert_eq!(reason(client.head_bucket().await), Reason::AccessDenied);
        client.head_bucket().await.unwrap();
        let options = EmulatorOptions { secret_key: "other".to_owned(), ..EmulatorOptions::default() };
        let (client, _emulator) = serve(Addressing::Path, options).await;
        let error = client.put_object(&key("k"), Payload::new("x"), &NewObject::default()).await.unwrap_err();
        assert_eq!(
            (error.reason, error.code.as_deref()),
            (Reason::AccessDenied, Some("SignatureDoesNotMatch"))
        );
    }

    #[tokio::test]
    async fn long_lists_of_parts_and_uploads_are_read_to_the_end() {
        let limits = EmulatorLimits { part_bytes_min: 1, ..EmulatorLimits::default() };
        let (client, _emulator) =
            serve(Addressing::Path, EmulatorOptions { limits, ..EmulatorOptions::default() }).await;
        let mut uploads = Vec::new();
        for _ in 0..1005 {
            uploads
                .push(client.initiate_multipart_upload(&key("目录/k"), &NewObject::default()).await.unwrap());
        }
        assert_eq!(client.list_multipart_uploads("目录/").await.unwrap().len(), 1005);
        for number in 1..=1005 {
            client.upload_part(&key("目录/k"), &uploads[0], part(number), Payload::new("x")).await.unwrap();
        }
        let parts = client.list_parts(&key("目录/k"), &uploads[0]).await.unwrap();
        assert_eq!(
            parts.iter().map(|part| part.number.get()).collect::<Vec<_>>(),
            (1..=1005).collect::<Vec<_>>()
        );
    }
}
