//! One order of events each, held by gates at the store.

use std::{ffi::OsStr, time::Duration};

use bytes::Bytes;
use cosgate::{
    cos::{Operation, Rule},
    vfs::{OpenHow, Vfs, VfsError, WriteOutcome},
};

use crate::{
    EXCLUSIVE, READ_WRITE_NEW, close, open,
    tree::{
        self, ALL, APPEND, FRONT, ME, NEW, Plan, READ, READ_WRITE, ROOT, Tree, closer, list, read_all,
        read_file, rename, stat, unlink, write_file,
    },
};

fn both_views() -> Tree {
    Tree::new(&Plan { policies: vec![ALL, ALL], ..Plan::default() })
}

/// The kernel opens an inode, by the name that it had when it was looked up; what is written there stands under the name that
/// the file has by then.
#[tokio::test]
async fn who_begins_a_file_anew_while_it_is_renamed_begins_it_under_its_new_name() {
    let tree = both_views();
    write_file(tree.vfs(), "old", b"before").await.unwrap();
    let inode = tree.vfs().lookup(ROOT, OsStr::new("old")).await.unwrap().attributes.inode;
    let gate = tree.store.block_answer(Rule::on(Operation::CopyObject));
    let vfs = tree.vfs().clone();
    let renamed = tokio::spawn(async move { rename(&vfs, "old", "new", false).await });
    gate.reached_by(1).await;
    let vfs = tree.vfs().clone();
    let opened = tokio::spawn(async move { vfs.open(inode, NEW, ME).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    gate.release();
    renamed.await.unwrap().unwrap();
    let handle = opened.await.unwrap().unwrap();
    tree::write(tree.vfs(), handle, 0, b"anew").await.unwrap();
    close(tree.vfs(), handle).await.unwrap();
    // Who holds the inode knows it as "new" by now.
    let handle = tree.vfs().open(inode, NEW, ME).await;
    if let Ok(handle) = handle {
        tree::write(tree.vfs(), handle, 0, b"once more").await.unwrap();
        close(tree.vfs(), handle).await.unwrap();
    }
    assert_eq!(tree.memory.keys(), ["new"]);
    let content = tree.memory.content("new").unwrap();
    assert!(content == "anew" || content == "once more", "{content:?}");
}

/// An inode that a writer has taken from its name is opened as that for as long as the writer has it, and not behind him: by
/// then a rename may have moved what the kernel takes for it.
#[tokio::test]
async fn what_a_writer_has_taken_from_its_name_is_opened_as_that_while_he_has_it() {
    let tree = both_views();
    write_file(tree.vfs(), "a", b"before").await.unwrap();
    let inode = tree.vfs().lookup(ROOT, OsStr::new("a")).await.unwrap().attributes.inode;
    let writer = tree.vfs().open(inode, NEW, ME).await.unwrap();
    // As /dev/stdout is.
    let again = tree.vfs().open(inode, APPEND, ME).await.unwrap();
    close(tree.vfs(), again).await.unwrap();
    tree::write(tree.vfs(), writer, 0, b"after").await.unwrap();
    close(tree.vfs(), writer).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "after");
    let late = tree.vfs().open(inode, NEW, ME).await;
    assert!(matches!(late, Err(VfsError::ReplacedMeanwhile { .. })), "{late:?}");
}

/// What the front has opened it arms a moment later. In between nobody makes the empty object that a shell's file would be.
#[tokio::test]
async fn a_transfer_that_is_not_armed_yet_is_not_published() {
    let tree = both_views();
    write_file(tree.vfs(), "a", b"before").await.unwrap();
    write_file(tree.vfs(), "b", b"other").await.unwrap();
    let (_, transfer) = open(tree.vfs(), "a", OpenHow { alone: true, ..NEW }, FRONT).await.unwrap();
    let renamed = rename(tree.vfs(), "b", "a", false).await;
    assert!(matches!(renamed, Err(VfsError::Busy { .. })), "{renamed:?}");
    assert_eq!(tree.memory.content("a").unwrap(), "before");
    tree.vfs().arm(transfer, FRONT).unwrap();
    tree::write(tree.vfs(), transfer, 0, b"whole").await.unwrap();
    tree.vfs().commit(transfer, 5, FRONT).await.unwrap();
    tree.vfs().release(transfer).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "whole");
}

#[tokio::test]
async fn what_is_written_while_the_empty_file_waits_for_its_turn_is_not_published() {
    let tree = both_views();
    write_file(tree.vfs(), "b", b"other").await.unwrap();
    let (_, second) = open(tree.vfs(), "a", NEW, ME).await.unwrap();
    let (_, first) = open(tree.vfs(), "a", NEW, ME).await.unwrap();
    tree::write(tree.vfs(), first, 0, b"first").await.unwrap();
    let gate = tree.store.block_answer(Rule::on(Operation::PutObject).of_key("a"));
    let vfs = tree.vfs().clone();
    let closed = tokio::spawn(async move { close(&vfs, first).await });
    gate.reached_by(1).await;
    let vfs = tree.vfs().clone();
    let renamed = tokio::spawn(async move { rename(&vfs, "b", "a", false).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    tree::write(tree.vfs(), second, 0, b"half").await.unwrap();
    gate.release();
    closed.await.unwrap().unwrap();
    let renamed = renamed.await.unwrap();
    assert!(matches!(renamed, Err(VfsError::Busy { .. })), "{renamed:?}");
    assert_eq!(tree.memory.content("a").unwrap(), "first");
    tree::write(tree.vfs(), second, 4, b" and half").await.unwrap();
    close(tree.vfs(), second).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "half and half");
}

/// RELEASE comes when it comes, behind a rename perhaps.
#[tokio::test]
async fn what_was_closed_and_renamed_is_shown_as_it_is() {
    let tree = both_views();
    for how in [NEW, READ_WRITE_NEW] {
        let (_, handle) = open(tree.vfs(), "a", how, ME).await.unwrap();
        tree::write(tree.vfs(), handle, 0, b"12345").await.unwrap();
        tree.vfs().flush(handle, closer()).await.unwrap();
        rename(tree.vfs(), "a", "b", false).await.unwrap();
        assert_eq!(stat(tree.vfs(), "b").await.unwrap().bytes, 5);
        let (_, reader) = open(tree.vfs(), "b", READ, FRONT).await.unwrap();
        assert_eq!(read_all(tree.vfs(), reader, 100).await.unwrap(), b"12345");
        tree.vfs().release(reader).await.unwrap();
        let (_, appender) = open(tree.vfs(), "b", APPEND, ME).await.unwrap();
        assert_eq!(stat(tree.vfs(), "b").await.unwrap().bytes, 5);
        tree.vfs().write(appender, 0, Bytes::from_static(b"67"), true, false).await.unwrap();
        assert_eq!(stat(tree.vfs(), "b").await.unwrap().bytes, 7);
        close(tree.vfs(), appender).await.unwrap();
        assert_eq!(stat(tree.vfs(), "b").await.unwrap().bytes, 7);
        tree.vfs().release(handle).await.unwrap();
        assert_eq!(tree.memory.content("b").unwrap(), "1234567");
        unlink(tree.vfs(), "b").await.unwrap();
    }
}

#[tokio::test]
async fn two_that_have_found_nothing_do_not_both_create() {
    let tree = both_views();
    let gate = tree.store.block_answer(Rule::on(Operation::HeadObject).of_key("a").always());
    let create = |vfs: &Vfs| {
        let vfs = vfs.clone();
        tokio::spawn(async move {
            vfs.create(ROOT, OsStr::new("a"), 0o644, EXCLUSIVE, ME).await.map(|made| made.1)
        })
    };
    let both = [create(&tree.views[0]), create(&tree.views[1])];
    gate.reached_by(2).await;
    gate.release();
    let [one, other] = both;
    let made = [one.await.unwrap(), other.await.unwrap()];
    assert_eq!(made.iter().filter(|made| made.is_ok()).count(), 1, "{made:?}");
    assert!(made.iter().any(|made| matches!(made, Err(VfsError::Exists { .. }))), "{made:?}");
    let (place, handle) =
        made.iter().enumerate().find_map(|(n, made)| Some((n, *made.as_ref().ok()?))).unwrap();
    close(&tree.views[place], handle).await.unwrap();
}

#[tokio::test]
async fn who_had_a_file_open_does_not_write_into_the_one_that_replaced_it() {
    for onto in [true, false] {
        let tree = both_views();
        write_file(tree.vfs(), "a", b"before").await.unwrap();
        write_file(tree.vfs(), "b", b"other").await.unwrap();
        for how in [APPEND, READ_WRITE] {
            let (_, handle) = open(tree.vfs(), "a", how, ME).await.unwrap();
            match onto {
                true => rename(tree.vfs(), "b", "a", false).await.unwrap(),
                false => rename(tree.vfs(), "a", "c", false).await.unwrap(),
            }
            let written = tree.vfs().write(handle, 0, Bytes::from_static(b"x"), how.append, false).await;
            assert!(matches!(written, Err(VfsError::ReplacedMeanwhile { .. })), "{written:?}");
            drop(close(tree.vfs(), handle).await);
            let (left, content) = if onto { ("a", "other") } else { ("c", "before") };
            assert_eq!(tree.memory.content(left).unwrap(), content);
            match onto {
                true => write_file(tree.vfs(), "b", b"other").await.unwrap(),
                false => rename(tree.vfs(), "c", "a", false).await.unwrap(),
            }
        }
    }
}

#[tokio::test]
async fn a_file_that_was_renamed_is_written_on_while_its_first_writer_has_it_open() {
    let tree = both_views();
    let (_, first) = open(tree.vfs(), "a", NEW, ME).await.unwrap();
    tree::write(tree.vfs(), first, 0, b"one").await.unwrap();
    tree.vfs().fsync(first).await.unwrap();
    rename(tree.vfs(), "a", "b", false).await.unwrap();
    let (_, second) = open(tree.vfs(), "b", APPEND, ME).await.unwrap();
    tree.vfs().write(second, 0, Bytes::from_static(b" two"), true, false).await.unwrap();
    close(tree.vfs(), second).await.unwrap();
    close(tree.vfs(), first).await.unwrap();
    assert_eq!(tree.memory.keys(), ["b"]);
    assert_eq!(tree.memory.content("b").unwrap(), "one two");
}

#[tokio::test]
async fn commit_says_that_a_file_was_unlinked_before_its_first_byte() {
    for bytes in [0, 4] {
        let tree = both_views();
        write_file(tree.vfs(), "a", b"before").await.unwrap();
        let (_, handle) = open(tree.vfs(), "a", APPEND, FRONT).await.unwrap();
        tree.vfs().arm(handle, FRONT).unwrap();
        unlink(tree.vfs(), "a").await.unwrap();
        let content = Bytes::from(vec![b'x'; bytes]);
        drop(tree.vfs().write(handle, 0, content, true, false).await);
        let committed = tree.vfs().commit(handle, bytes as u64, FRONT).await;
        assert!(matches!(committed, Err(VfsError::ReplacedMeanwhile { .. })), "{committed:?}");
        tree.vfs().release(handle).await.unwrap();
        assert_eq!(tree.memory.keys(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn who_writes_while_a_reader_has_the_empty_file_published_is_not_refused() {
    let tree = both_views();
    let (_, writer) = open(tree.vfs(), "a", NEW, ME).await.unwrap();
    let gate = tree.store.block_answer(Rule::on(Operation::PutObject));
    let vfs = tree.vfs().clone();
    let reading = tokio::spawn(async move { read_file(&vfs, "a").await });
    gate.reached_by(1).await;
    let vfs = tree.vfs().clone();
    let writing = tokio::spawn(async move {
        let tried = vfs.try_write(writer, 0, b"some", false)?;
        assert_eq!(tried, WriteOutcome::MustWait);
        vfs.write(writer, 0, Bytes::from_static(b"some"), false, false).await
    });
    tokio::time::sleep(Duration::from_millis(5)).await;
    gate.release();
    writing.await.unwrap().unwrap();
    reading.await.unwrap().unwrap();
    close(tree.vfs(), writer).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "some");
}

#[tokio::test]
async fn who_reads_an_edit_while_it_is_published_finds_the_base_of_before_or_behind() {
    let tree = both_views();
    tree.memory.insert("a", vec![b'.'; 100]);
    let (_, handle) = open(tree.vfs(), "a", READ_WRITE, ME).await.unwrap();
    tree::write(tree.vfs(), handle, 50, b"x").await.unwrap();
    let gate = tree.store.block_answer(Rule::on(Operation::PutObject));
    let vfs = tree.vfs().clone();
    let publishing = tokio::spawn(async move { vfs.flush(handle, closer()).await });
    gate.reached_by(1).await;
    let vfs = tree.vfs().clone();
    let reading = tokio::spawn(async move { vfs.read(handle, 0, 100).await });
    tokio::time::sleep(Duration::from_millis(5)).await;
    gate.release();
    let read = reading.await.unwrap().unwrap();
    assert_eq!((read.len(), read[49], read[50], read[51]), (100, b'.', b'x', b'.'));
    publishing.await.unwrap().unwrap();
    tree.vfs().release(handle).await.unwrap();
}

#[tokio::test]
async fn what_is_stored_while_a_rename_is_not_quite_done_is_shown() {
    let tree = both_views();
    write_file(tree.vfs(), "a", b"to be moved").await.unwrap();
    let gate = tree.store.block_answer(Rule::on(Operation::DeleteObject).of_key("a"));
    let vfs = tree.views[1].clone();
    let renaming = tokio::spawn(async move { rename(&vfs, "a", "c", false).await });
    gate.reached_by(1).await;
    write_file(tree.vfs(), "c", b"later").await.unwrap();
    gate.release();
    renaming.await.unwrap().unwrap();
    for vfs in &tree.views {
        assert_eq!(stat(vfs, "c").await.unwrap().bytes, 5);
        assert_eq!(read_file(vfs, "c").await.unwrap(), b"later");
        assert!(matches!(stat(vfs, "a").await, Err(VfsError::NotFound { .. })));
    }
}

#[tokio::test]
async fn what_is_stored_behind_a_deletion_is_shown_although_that_one_answers_later() {
    let tree = both_views();
    write_file(tree.vfs(), "a", b"before").await.unwrap();
    let gate = tree.store.block_answer(Rule::on(Operation::DeleteObject).of_key("a"));
    let vfs = tree.views[1].clone();
    let unlinking = tokio::spawn(async move { unlink(&vfs, "a").await });
    gate.reached_by(1).await;
    write_file(tree.vfs(), "a", b"behind it").await.unwrap();
    gate.release();
    unlinking.await.unwrap().unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "behind it");
    for vfs in &tree.views {
        assert_eq!(stat(vfs, "a").await.unwrap().bytes, 9);
        assert_eq!(list(vfs, "").await.unwrap()["a"].bytes, 9);
    }
}

#[tokio::test]
async fn who_looks_at_a_file_while_it_is_replaced_goes_on_with_what_replaced_it() {
    let tree = both_views();
    write_file(tree.vfs(), "a", b"before").await.unwrap();
    let (_, editor) = open(tree.vfs(), "a", READ_WRITE, ME).await.unwrap();
    let gate = tree.store.block_answer(Rule::on(Operation::HeadObject));
    let vfs = tree.vfs().clone();
    let written = tokio::spawn(async move { tree::write(&vfs, editor, 0, b"S").await });
    gate.reached_by(1).await;
    write_file(&tree.views[1], "a", b"stored").await.unwrap();
    gate.release();
    written.await.unwrap().unwrap();
    close(tree.vfs(), editor).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "Stored");
}
