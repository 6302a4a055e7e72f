//! Each request of an upload fails: once, for ever, in doubt with and without effect, at the first, a middle and the last
//! one. Nothing half-made becomes visible, no upload is left open, the old object stays, memory comes back.

#[path = "common/uploads.rs"]
mod uploads;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cosgate::{
    cos::{Fault, NewObject, ObjectStore, Operation, Reason, Rule},
    vfs::{Tried, VfsError, WriteHandle},
};
use uploads::{MIB, Site, content, write_all};

fn site() -> Site {
    Site::new(12 * MIB, MIB, 4)
}

#[tokio::test(start_paused = true)]
async fn a_small_file_is_one_put_and_nothing_else() {
    let site = site();
    let bytes = content(1, 100_000);
    let published = site.upload("a", &bytes, 30_000).await.unwrap();
    assert_eq!(site.memory.content("a").unwrap(), bytes);
    assert_eq!(published.etag, site.memory.meta("a").unwrap().etag);
    assert_eq!(published.bytes, 100_000);
    assert!(published.as_asked);
    assert_eq!(site.store.calls(Operation::PutObject), 1);
    for operation in [Operation::InitiateMultipartUpload, Operation::HeadObject, Operation::UploadPart] {
        assert_eq!(site.store.calls(operation), 0, "{operation}");
    }
    site.assert_at_rest("small").await;
}

/// A small file over an old object, prepared; places for PUTs that begin early: `places`.
async fn prepared(places: usize) -> (Site, Arc<WriteHandle>) {
    let site = Site::with_answers(12 * MIB, MIB, 4, places);
    site.memory.insert("a", "old");
    let handle = site.begin("a");
    write_all(&handle, &content(1, 1000), 1000).await.expect("there is room");
    handle.prepare(&NewObject::default()).await.expect("nothing has failed");
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(site.store.calls(Operation::PutObject), u64::from(places > 0));
    assert_eq!(site.memory.content("a").as_deref(), Some(b"old".as_slice()));
    if places > 0 {
        assert!(matches!(handle.try_write(1000, b"x"), Err(VfsError::NotSupported { .. })), "it is the end");
    }
    (site, handle)
}

#[tokio::test(start_paused = true)]
async fn a_put_that_began_early_takes_effect_by_publish_alone() {
    for places in [0, 1] {
        let (site, handle) = prepared(places).await;
        handle.publish(NewObject::default()).await.unwrap();
        assert_eq!(site.memory.content("a").unwrap(), content(1, 1000));
        assert_eq!(site.store.calls(Operation::PutObject), 1);
        site.assert_at_rest("published").await;
        // Three ways not to publish.
        for way in 0..3 {
            let (site, handle) = prepared(places).await;
            match way {
                0 => handle.discard("a test").await,
                1 => handle.orphan(),
                _ => handle.truncate_to_zero().unwrap(),
            }
            tokio::time::sleep(Duration::from_secs(10)).await;
            assert_eq!(site.memory.content("a").unwrap(), "old");
            drop(handle);
            site.assert_at_rest("given up").await;
            assert_eq!(site.memory.content("a").unwrap(), "old");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_put_that_began_early_and_will_not_do_is_sent_again() {
    // The object is to be given something else.
    let (site, handle) = prepared(1).await;
    let new = NewObject { metadata: [("mode".to_owned(), "600".to_owned())].into(), ..NewObject::default() };
    handle.publish(new.clone()).await.unwrap();
    assert_eq!(site.memory.meta("a").unwrap().metadata, new.metadata);
    assert_eq!(site.store.calls(Operation::PutObject), 2);
    site.assert_at_rest("other metadata").await;
    // It failed before it could take effect.
    let site = Site::with_answers(12 * MIB, MIB, 4, 1);
    site.store.inject(Rule::on(Operation::PutObject), Fault::Fail(Reason::Unavailable));
    let handle = site.begin("a");
    write_all(&handle, &content(1, 1000), 1000).await.unwrap();
    handle.prepare(&NewObject::default()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    handle.publish(NewObject::default()).await.unwrap();
    assert_eq!(site.memory.content("a").unwrap(), content(1, 1000));
    site.assert_at_rest("failed early").await;
}

#[tokio::test(start_paused = true)]
async fn sizes_around_a_part_arrive_whole() {
    let site = site();
    for bytes in [0, 1, MIB - 1, MIB, MIB + 1, 2 * MIB, 7 * MIB, 7 * MIB + 65_537] {
        for piece in [4_096, 100_001, 1 << 20] {
            let content = content(bytes, bytes);
            site.upload("a", &content, piece).await.unwrap();
            assert!(site.memory.content("a").unwrap() == content, "{bytes} bytes in pieces of {piece}");
            site.assert_at_rest("around").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn parts_leave_before_the_file_is_whole() {
    let site = site();
    let handle = site.begin("a");
    write_all(&handle, &content(1, 4 * MIB), 1 << 20).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(site.store.calls(Operation::UploadPart) >= 3);
    assert_eq!(site.memory.content("a"), None);
    handle.publish(NewObject::default()).await.unwrap();
    assert_eq!(site.memory.meta("a").unwrap().size, 4 * MIB);
}

/// What an upload of eight parts asks of COS, and how often.
const REQUESTS: [(Operation, u64); 3] = [
    (Operation::InitiateMultipartUpload, 1),
    (Operation::UploadPart, 8),
    (Operation::CompleteMultipartUpload, 1),
];

/// The upload of `bytes` over an old object, under one fault; returns what its writer was told.
async fn upload_under(
    rule: Rule,
    fault: Fault,
    bytes: u64,
    old: bool,
) -> (Site, Bytes, Result<(), VfsError>) {
    let site = site();
    if old {
        site.memory.insert("a", "old");
    }
    site.store.inject(rule, fault);
    let bytes = content(bytes, bytes);
    let told = site.upload("a", &bytes, 300_000).await.map(drop);
    (site, bytes, told)
}

/// Nothing but the old object or the whole new one; the new one alone if the writer was told so.
fn assert_old_or_new(site: &Site, new: &Bytes, told: &Result<(), VfsError>, old: bool, what: &str) {
    let found = site.memory.content("a");
    if told.is_ok() {
        assert!(found.as_ref() == Some(new), "{what}: told Ok, but the object is not there");
    } else if found.as_ref() != Some(new) {
        assert_eq!(found, old.then(|| Bytes::from("old")), "{what}: half an object");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_request_leaves_the_old_object_and_no_upload() {
    for (operation, calls) in REQUESTS {
        for place in [0, calls / 2, calls - 1] {
            for reason in [Reason::Unavailable, Reason::TimedOut, Reason::AccessDenied, Reason::NoSuchUpload]
            {
                for always in [false, true] {
                    for old in [false, true] {
                        let what = format!("{operation} {place} {reason:?} always={always} old={old}");
                        let rule = Rule::on(operation).after(place);
                        let rule = if always { rule.always() } else { rule };
                        let size = 7 * MIB + 5;
                        let (site, new, told) = upload_under(rule, Fault::Fail(reason), size, old).await;
                        let parts = site.store.calls(Operation::UploadPart);
                        assert!(told.is_err(), "{what}: {parts} parts");
                        assert_old_or_new(&site, &new, &told, old, &what);
                        let found = site.memory.content("a");
                        assert_eq!(found, old.then(|| Bytes::from("old")), "{what}");
                        site.assert_at_rest(&what).await;
                    }
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_settled() {
    for (operation, calls) in &REQUESTS[1..] {
        let (operation, calls) = (*operation, *calls);
        for place in [0, calls / 2, calls - 1] {
            for fault in [Fault::LoseAnswer(Reason::TimedOut), Fault::FailInDoubt(Reason::TimedOut)] {
                let what = format!("{operation} {place} {fault:?}");
                let rule = Rule::on(operation).after(place);
                let (site, new, told) = upload_under(rule, fault.clone(), 7 * MIB + 5, true).await;
                assert_old_or_new(&site, &new, &told, true, &what);
                if operation == Operation::CompleteMultipartUpload {
                    let happened = matches!(fault, Fault::LoseAnswer(_));
                    assert_eq!(told.is_ok(), happened, "{what}: {told:?}");
                }
                site.assert_at_rest(&what).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_to_initiate_leaves_nothing_but_an_upload_without_parts() {
    let lost = Fault::LoseAnswer(Reason::TimedOut);
    let rule = Rule::on(Operation::InitiateMultipartUpload);
    let (site, _, told) = upload_under(rule, lost, 7 * MIB + 5, true).await;
    assert!(matches!(told, Err(VfsError::TimedOut { .. })), "{told:?}");
    assert_eq!(site.memory.content("a").unwrap(), "old");
    assert_eq!(site.store.calls(Operation::UploadPart), 0);
    assert_eq!(site.writers.budget().used_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_put_in_doubt_is_settled_by_what_is_there() {
    let lost = Fault::LoseAnswer(Reason::TimedOut);
    let (site, new, told) = upload_under(Rule::on(Operation::PutObject), lost, 5_000, true).await;
    told.unwrap();
    assert_eq!(site.memory.content("a").unwrap(), new);
    site.assert_at_rest("lost").await;

    let failed = Fault::FailInDoubt(Reason::TimedOut);
    let (site, _, told) = upload_under(Rule::on(Operation::PutObject), failed, 5_000, true).await;
    assert!(matches!(told, Err(VfsError::TimedOut { .. })), "{told:?}");
    assert_eq!(site.memory.content("a").unwrap(), "old");
    // The next one waits until the first cannot land on it any more.
    let before = tokio::time::Instant::now();
    site.upload("a", &Bytes::from("next"), 4).await.unwrap();
    assert!(before.elapsed() > Duration::from_secs(5), "{:?}", before.elapsed());
    assert_eq!(site.memory.content("a").unwrap(), "next");
    site.assert_at_rest("failed").await;
}

#[tokio::test(start_paused = true)]
async fn a_complete_in_doubt_holds_back_the_next_publish_until_the_upload_is_gone() {
    let site = site();
    site.store.inject(Rule::on(Operation::CompleteMultipartUpload), Fault::FailInDoubt(Reason::TimedOut));
    site.store.inject(Rule::on(Operation::AbortMultipartUpload).times(6), Fault::Fail(Reason::Unavailable));
    let told = site.upload("a", &content(1, 3 * MIB), 1 << 20).await;
    assert!(told.is_err());
    assert_eq!(site.memory.open_upload_keys(), ["a"]);
    site.upload("a", &Bytes::from("next"), 4).await.unwrap();
    assert_eq!(site.memory.open_upload_keys(), Vec::<String>::new(), "the next one went before");
    assert_eq!(site.memory.content("a").unwrap(), "next");
    site.assert_at_rest("complete").await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_part_is_told_at_the_next_write_and_at_every_publish() {
    let site = site();
    site.store.inject(Rule::on(Operation::UploadPart), Fault::Fail(Reason::Unavailable));
    let handle = site.begin("a");
    handle.write(0, content(1, 2 * MIB)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(matches!(handle.try_write(2 * MIB, b"x"), Err(VfsError::Store { .. })));
    for _ in 0..3 {
        assert!(matches!(handle.publish(NewObject::default()).await, Err(VfsError::Store { .. })));
        assert!(matches!(handle.prepare(&NewObject::default()).await, Err(VfsError::Store { .. })));
    }
    assert!(matches!(handle.failure(), Some(VfsError::Store { .. })));
    // Long before the handle goes.
    site.assert_at_rest("failed part").await;
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_is_aborted_even_while_the_store_is_down() {
    for dropped in [false, true] {
        let site = site();
        let down = Rule::on(Operation::AbortMultipartUpload).times(20);
        site.store.inject(down, Fault::Fail(Reason::Unavailable));
        let handle = site.begin("a");
        handle.write(0, content(1, 5 * MIB)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(site.memory.open_upload_keys(), ["a"]);
        if !dropped {
            handle.discard("test").await;
            handle.discard("again").await;
            assert!(matches!(handle.try_write(5 * MIB, b"x"), Err(VfsError::BadHandle)));
        }
        drop(handle);
        assert_eq!(site.writers.budget().used_bytes(), 0, "memory goes first");
        assert_eq!(site.writers.drain(Duration::from_secs(1)).await, 1);
        site.assert_at_rest("down").await;
        assert_eq!(site.memory.keys(), Vec::<String>::new());
    }
}

#[tokio::test(start_paused = true)]
async fn a_discard_while_initiate_is_under_way_aborts_after_its_answer() {
    let site = site();
    let gate = site.store.block(Rule::on(Operation::InitiateMultipartUpload));
    let handle = site.begin("a");
    handle.write(0, content(1, 3 * MIB)).await.unwrap();
    gate.reached_by(1).await;
    let discard = tokio::spawn(async move { handle.discard("test").await });
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(!discard.is_finished());
    gate.release();
    discard.await.unwrap();
    assert_eq!(site.store.calls(Operation::AbortMultipartUpload), 1);
    site.assert_at_rest("initiate").await;
}

#[tokio::test(start_paused = true)]
async fn truncation_gives_up_what_was_sent_and_begins_anew() {
    let site = site();
    let handle = site.begin("a");
    for _ in 0..3 {
        handle.write(0, content(1, 5 * MIB)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(handle.is_dirty());
        handle.truncate_to_zero().unwrap();
        assert_eq!((handle.bytes(), handle.is_dirty()), (0, false));
    }
    handle.write(0, Bytes::from("short")).await.unwrap();
    handle.publish(NewObject::default()).await.unwrap();
    assert_eq!(site.memory.content("a").unwrap(), "short");
    // And after a publication.
    handle.truncate_to_zero().unwrap();
    let long = content(2, 3 * MIB + 1);
    write_all(&handle, &long, 1 << 20).await.unwrap();
    assert_eq!(site.memory.content("a").unwrap(), "short");
    handle.publish(NewObject::default()).await.unwrap();
    assert!(site.memory.content("a").unwrap() == long);
    site.assert_at_rest("truncated").await;
}

#[tokio::test(start_paused = true)]
async fn writes_elsewhere_than_at_the_end_are_refused_and_change_nothing() {
    let site = site();
    let handle = site.begin("a");
    handle.write(0, Bytes::from("abc")).await.unwrap();
    for offset in [0, 2, 4, MIB] {
        assert!(matches!(handle.try_write(offset, b"x"), Err(VfsError::NotSupported { .. })));
    }
    handle.write(3, Bytes::from("def")).await.unwrap();
    let first = handle.publish(NewObject::default()).await.unwrap();
    assert_eq!(handle.publish(NewObject::default()).await.unwrap(), first);
    assert_eq!(site.store.calls(Operation::PutObject), 1);
    assert!(matches!(handle.try_write(6, b"x"), Err(VfsError::NotSupported { .. })));
    assert_eq!(site.memory.content("a").unwrap(), "abcdef");
}

#[tokio::test(start_paused = true)]
async fn what_was_published_empty_may_be_written_on() {
    let site = site();
    let handle = site.begin("a");
    handle.publish(NewObject::default()).await.unwrap();
    assert_eq!(site.memory.content("a").unwrap(), "");
    handle.write(0, Bytes::from("abc")).await.unwrap();
    handle.publish(NewObject::default()).await.unwrap();
    assert_eq!(site.memory.content("a").unwrap(), "abc");
}

#[tokio::test(start_paused = true)]
async fn an_orphan_publishes_nothing() {
    for bytes in [10, 5 * MIB] {
        let site = site();
        let handle = site.begin("a");
        handle.write(0, content(1, bytes)).await.unwrap();
        handle.orphan();
        assert!(matches!(handle.try_write(bytes, b"x"), Err(VfsError::ReplacedMeanwhile { .. })));
        let told = handle.publish(NewObject::default()).await;
        assert!(matches!(told, Err(VfsError::ReplacedMeanwhile { .. })), "{told:?}");
        assert_eq!(site.memory.keys(), Vec::<String>::new());
        site.assert_at_rest("orphan").await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_orphan_whose_publication_is_under_way_takes_it_back() {
    for (bytes, operation) in [(10, Operation::PutObject), (5 * MIB, Operation::CompleteMultipartUpload)] {
        for replaced in [false, true] {
            let site = site();
            let handle = site.begin("a");
            handle.write(0, content(1, bytes)).await.unwrap();
            let gate = site.store.block_answer(Rule::on(operation));
            let publish = tokio::spawn({
                let handle = Arc::clone(&handle);
                async move { handle.publish(NewObject::default()).await }
            });
            gate.reached_by(1).await;
            handle.orphan();
            if replaced {
                site.memory.insert("a", "somebody else's");
            }
            gate.release();
            let told = publish.await.unwrap();
            assert!(matches!(told, Err(VfsError::ReplacedMeanwhile { .. })), "{told:?}");
            let left = site.memory.content("a");
            assert_eq!(left, replaced.then(|| Bytes::from("somebody else's")));
            site.assert_at_rest("taken back").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn publications_of_one_key_take_turns_and_the_last_one_wins() {
    let site = Arc::new(site());
    let gate = site.store.block(Rule::on(Operation::PutObject));
    let mut tasks = Vec::new();
    for number in 0..5_u8 {
        let site = Arc::clone(&site);
        tasks.push(tokio::spawn(async move {
            site.upload("a", &Bytes::from(vec![number; 1000]), 1000).await.unwrap();
        }));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(site.store.calls(Operation::PutObject), 1, "one at a time");
    gate.release();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(site.memory.content("a").unwrap(), vec![4; 1000]);
}

#[tokio::test(start_paused = true)]
async fn a_publication_goes_on_where_its_caller_goes_away() {
    let site = site();
    let handle = site.begin("a");
    handle.write(0, Bytes::from("abc")).await.unwrap();
    let gate = site.store.block(Rule::on(Operation::PutObject));
    let publish = tokio::spawn({
        let handle = Arc::clone(&handle);
        async move { handle.publish(NewObject::default()).await }
    });
    gate.reached_by(1).await;
    publish.abort();
    assert!(publish.await.is_err());
    gate.release();
    handle.discard("its end is waited for").await;
    assert_eq!(site.memory.content("a").unwrap(), "abc");
    handle.publish(NewObject::default()).await.unwrap();
    assert_eq!(site.store.calls(Operation::PutObject), 1);
}

#[tokio::test(start_paused = true)]
async fn too_large_a_file_is_refused_at_the_write_that_crosses_the_limit() {
    let mut site = site();
    let limits = cosgate::config::Limits {
        memory_bytes: 64 * MIB,
        min_part_bytes: MIB,
        single_file_bytes_max: 3 * MIB,
        upload_requests_max: 4,
        upload_answers_max: 0,
        ..cosgate::config::Limits::default()
    };
    site.writers = cosgate::vfs::Writers::new(&limits, tokio::runtime::Handle::current());
    site.upload("exact", &content(1, 3 * MIB), 1 << 20).await.unwrap();
    let handle = site.begin("a");
    handle.write(0, content(1, 3 * MIB)).await.unwrap();
    assert!(
        matches!(handle.try_write(3 * MIB, b"x"), Err(VfsError::TooLarge { bytes_max, .. }) if bytes_max == 3 * MIB)
    );
    assert!(matches!(handle.publish(NewObject::default()).await, Err(VfsError::TooLarge { .. })));
    assert_eq!(site.memory.content("a"), None);
    site.assert_at_rest("too large").await;
}

#[tokio::test(start_paused = true)]
async fn prepare_sends_all_parts_and_publishes_nothing() {
    let site = site();
    let handle = site.begin("a");
    let bytes = content(1, 5 * MIB + 7);
    write_all(&handle, &bytes, 1 << 20).await.unwrap();
    handle.prepare(&NewObject::default()).await.unwrap();
    assert_eq!(site.memory.content("a"), None);
    let sent = site.store.calls(Operation::UploadPart);
    assert!(matches!(handle.try_write(5 * MIB + 7, b"x"), Err(VfsError::NotSupported { .. })));
    handle.publish(NewObject::default()).await.unwrap();
    assert_eq!(site.store.calls(Operation::UploadPart), sent);
    assert!(site.memory.content("a").unwrap() == bytes);
    site.assert_at_rest("prepared").await;
}

#[tokio::test(start_paused = true)]
async fn what_publish_is_given_is_what_the_object_has() {
    let site = site();
    let new = |time: &str| NewObject {
        content_type: Some("text/x-test".to_owned()),
        metadata: [("mtime".to_owned(), time.to_owned())].into(),
        forbid_overwrite: false,
    };
    let handle = site.begin("small");
    handle.set_new_object(new("1"));
    handle.write(0, Bytes::from("abc")).await.unwrap();
    assert!(handle.publish(new("2")).await.unwrap().as_asked);
    assert_eq!(site.memory.meta("small").unwrap().metadata, new("2").metadata);
    for later in ["1", "2"] {
        let handle = site.begin("large");
        handle.set_new_object(new("1"));
        handle.write(0, content(1, 3 * MIB)).await.unwrap();
        assert_eq!(handle.publish(new(later)).await.unwrap().as_asked, later == "1");
        let meta = site.memory.meta("large").unwrap();
        assert_eq!(meta.content_type.as_deref(), Some("text/x-test"));
        assert_eq!(meta.metadata, new("1").metadata);
    }
}

#[tokio::test(start_paused = true)]
async fn forbidding_to_overwrite_holds_from_the_first_part_to_complete() {
    let site = site();
    let new = NewObject { forbid_overwrite: true, ..NewObject::default() };
    for bytes in [10, 3 * MIB] {
        let handle = site.begin("a");
        handle.set_new_object(new.clone());
        handle.write(0, content(1, bytes)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        site.memory.insert("a", "somebody else's");
        let told = handle.publish(new.clone()).await;
        assert!(matches!(told, Err(VfsError::Exists { .. })), "{told:?}");
        assert_eq!(site.memory.content("a").unwrap(), "somebody else's");
        site.memory.remove("a");
        site.assert_at_rest("forbidden").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_handle_is_woken_when_there_is_room() {
    let site = Site::new(2 * MIB, MIB, 1);
    let gate = site.store.block(Rule::on(Operation::UploadPart).always());
    let handle = site.begin("a");
    let bytes = content(1, 16 * MIB);
    let piece = |offset: u64| {
        let offset = usize::try_from(offset).unwrap();
        bytes.slice(offset..(offset + 65_536).min(bytes.len()))
    };
    while handle.try_write(handle.bytes(), &piece(handle.bytes())).unwrap() == Tried::Taken {}
    assert!(handle.bytes() >= 2 * MIB - 65_536, "{}", handle.bytes());
    let (wake, mut woken) = tokio::sync::oneshot::channel();
    assert!(handle.wake_on_room(Box::new(move || wake.send(()).unwrap())));
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(woken.try_recv().is_err(), "woken without room");
    gate.release();
    woken.await.unwrap();
    assert_eq!(handle.try_write(handle.bytes(), &piece(handle.bytes())).unwrap(), Tried::Taken);
    let at = usize::try_from(handle.bytes()).unwrap();
    handle.write(at as u64, bytes.slice(at..)).await.unwrap();
    handle.publish(NewObject::default()).await.unwrap();
    assert!(site.memory.content("a").unwrap() == bytes);
    site.assert_at_rest("woken").await;
}

#[tokio::test(start_paused = true)]
async fn bytes_that_cos_stored_wrong_are_never_published() {
    let site = site();
    let handle = site.begin("a");
    handle.write(0, content(1, 3 * MIB)).await.unwrap();
    handle.prepare(&NewObject::default()).await.unwrap();
    // Somebody replaces a part by another one of the same upload: Complete names the parts that were checked.
    let uploads = site.store.list_multipart_uploads("a").await.unwrap();
    let key = cosgate::cos::Key::new("a").unwrap();
    let payload = cosgate::cos::Payload::new(content(2, MIB));
    let number = cosgate::cos::PartNumber::FIRST;
    site.store.upload_part(&key, &uploads[0].upload, number, payload).await.unwrap();
    assert!(handle.publish(NewObject::default()).await.is_err());
    assert_eq!(site.memory.content("a"), None);
    site.assert_at_rest("wrong part").await;
}
