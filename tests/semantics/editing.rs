//! Changing files in place.

use std::time::Duration;

use bytes::Bytes;
use cosgate::vfs::{HandleNo, OpenHow, VfsError};

use crate::{
    close, content, tree,
    tree::{
        APPEND, FRONT, NEW, Plan, READ, READ_WRITE, Tree, closer, create, open, read_file, rename, stat,
        truncate, unlink, write, write_file,
    },
};

/// > A file can be written at any place, cut off, extended and appended to; the object is replaced as a whole when it is closed.
#[tokio::test]
async fn a_file_is_changed_in_place_and_replaced_as_a_whole() {
    let tree = tree();
    let etag = tree.memory.insert("b", "content");
    let how = OpenHow { truncate: false, ..NEW };
    let cases: [(u64, bool, &str); 4] =
        [(0, false, "Xontent"), (7, false, "contentX"), (3, true, "contentX"), (9, false, "content\0\0X")];
    for (offset, append, after) in cases {
        tree.memory.insert("a", "content");
        let (_, handle) = open(tree.vfs(), "a", OpenHow { append, ..how }).await.unwrap();
        tree.vfs().write(handle, offset, Bytes::from("X"), append, false).await.unwrap();
        assert_eq!(tree.memory.content("a").unwrap(), "content");
        close(tree.vfs(), handle).await.unwrap();
        assert_eq!(tree.memory.content("a").unwrap(), after);
    }
    for (bytes, after) in [(3, "con"), (9, "content\0\0")] {
        tree.memory.insert("a", "content");
        let (inode, handle) = open(tree.vfs(), "a", how).await.unwrap();
        truncate(tree.vfs(), inode, Some(handle), bytes).await.unwrap();
        close(tree.vfs(), handle).await.unwrap();
        assert_eq!(tree.memory.content("a").unwrap(), after);
        let (inode, reader) = open(tree.vfs(), "a", READ).await.unwrap();
        truncate(tree.vfs(), inode, None, 1).await.unwrap();
        assert_eq!(tree.memory.content("a").unwrap(), "c");
        tree.vfs().release(reader).await.unwrap();
    }
    // Truncation to nothing is an overwrite: what `>` does where O_TRUNC does not come with open.
    let (inode, handle) = open(tree.vfs(), "b", how).await.unwrap();
    truncate(tree.vfs(), inode, Some(handle), 7).await.unwrap();
    assert_eq!(tree.memory.meta("b").unwrap().etag, etag);
    truncate(tree.vfs(), inode, Some(handle), 0).await.unwrap();
    assert_eq!(stat(tree.vfs(), "b").await.unwrap().bytes, 7);
    write(tree.vfs(), handle, 0, b"new").await.unwrap();
    // A header that is written last.
    write(tree.vfs(), handle, 1, b"EW").await.unwrap();
    close(tree.vfs(), handle).await.unwrap();
    assert_eq!(tree.memory.content("b").unwrap(), "nEW");
}

/// > After fsync a file can be written on: the object that was published is what the next one rests on.
#[tokio::test]
async fn files_are_written_on_behind_a_publication() {
    let tree = tree();
    for how in [NEW, OpenHow { read: true, ..NEW }] {
        let (_, handle) = create(tree.vfs(), "log", how).await.unwrap();
        for (at, expected) in ["1", "12", "123"].into_iter().enumerate() {
            write(tree.vfs(), handle, at as u64, &expected.as_bytes()[at..]).await.unwrap();
            tree.vfs().fsync(handle).await.unwrap();
            assert_eq!(tree.memory.content("log").unwrap(), expected);
        }
        close(tree.vfs(), handle).await.unwrap();
        assert_eq!(tree.memory.content("log").unwrap(), "123");
    }
}

/// > Appending to a file that is empty or absent works.
#[tokio::test]
async fn appending_to_nothing_is_writing_in_order() {
    let tree = tree();
    tree.memory.insert("empty", "");
    for path in ["empty", "absent"] {
        let (_, handle) = create(tree.vfs(), path, APPEND).await.unwrap();
        for piece in ["one ", "two"] {
            // The kernel's idea of the end may be old: the flag decides.
            tree.vfs().write(handle, 0, Bytes::from(piece), true, false).await.unwrap();
        }
        close(tree.vfs(), handle).await.unwrap();
        assert_eq!(tree.memory.content(path).unwrap(), "one two");
    }
}

/// > Several processes that append to one file lose none of their writes.
#[tokio::test]
async fn appending_processes_share_one_file() {
    let tree = tree();
    tree.memory.insert("log", "0");
    let (_, one) = open(tree.vfs(), "log", APPEND).await.unwrap();
    let (_, two) = open(tree.vfs(), "log", APPEND).await.unwrap();
    for (handle, piece) in [(one, "1"), (two, "2"), (one, "3")] {
        tree.vfs().write(handle, 1, Bytes::from(piece), true, false).await.unwrap();
    }
    close(tree.vfs(), one).await.unwrap();
    assert_eq!(tree.memory.content("log").unwrap(), "0123");
    tree.vfs().write(two, 1, Bytes::from("4"), true, false).await.unwrap();
    close(tree.vfs(), two).await.unwrap();
    assert_eq!(tree.memory.content("log").unwrap(), "01234");
}

/// > What was written through one descriptor of a file that is open for reading and writing is read through all of them.
/// > A file that is written in order, write only, cannot be read before it is an object: busy.
#[tokio::test]
async fn what_was_written_is_read_before_it_is_published() {
    let tree = tree();
    let how = OpenHow { read: true, ..NEW };
    let (_, handle) = create(tree.vfs(), "a", how).await.unwrap();
    assert!(tree.vfs().read(handle, 0, 10).await.unwrap().is_empty());
    write(tree.vfs(), handle, 0, b"12345").await.unwrap();
    assert_eq!(tree.vfs().read(handle, 1, 10).await.unwrap(), "2345");
    let (_, other) = open(tree.vfs(), "a", OpenHow { truncate: false, ..how }).await.unwrap();
    write(tree.vfs(), other, 1, b"X").await.unwrap();
    assert_eq!(tree.vfs().read(handle, 0, 10).await.unwrap(), "1X345");
    assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), b"1X345");
    assert!(tree.memory.content("a").is_none());
    close(tree.vfs(), other).await.unwrap();
    close(tree.vfs(), handle).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "1X345");
    let (_, in_order) = create(tree.vfs(), "b", NEW).await.unwrap();
    write(tree.vfs(), in_order, 0, b"12345").await.unwrap();
    assert!(matches!(open(tree.vfs(), "b", READ).await, Err(VfsError::Busy { .. })));
    close(tree.vfs(), in_order).await.unwrap();
    assert_eq!(read_file(tree.vfs(), "b").await.unwrap(), b"12345");
    // Created and closed, its RELEASE still on its way: an empty file, not a busy one.
    let (_, handle) = create(tree.vfs(), "empty", NEW).await.unwrap();
    tree.vfs().flush(handle, closer()).await.unwrap();
    assert_eq!(read_file(tree.vfs(), "empty").await.unwrap(), b"");
    rename(tree.vfs(), "empty", "moved", false).await.unwrap();
    tree.vfs().release(handle).await.unwrap();
    assert!(tree.memory.keys().iter().any(|key| key == "moved"));
    assert!(!tree.memory.keys().iter().any(|key| key == "empty"));
}

/// > A descriptor for reading and writing shows what others have published through this gateway since it last read.
#[tokio::test]
async fn who_may_write_reads_what_others_have_published_meanwhile() {
    let tree = tree();
    for before in ["", "12345"] {
        tree.memory.insert("a", before);
        let (inode, idle) = open(tree.vfs(), "a", READ_WRITE).await.unwrap();
        assert_eq!(tree.vfs().read(idle, 0, 10).await.unwrap(), before);
        let (_, writer) = open(tree.vfs(), "a", READ_WRITE).await.unwrap();
        write(tree.vfs(), writer, 0, b"123").await.unwrap();
        truncate(tree.vfs(), inode, Some(writer), 3).await.unwrap();
        close(tree.vfs(), writer).await.unwrap();
        assert_eq!(tree.vfs().read(idle, 0, 10).await.unwrap(), "123", "after {before:?}");
        // The shell's `>`, which begins a file of its own under the name.
        write_file(tree.vfs(), "a", b"from the beginning").await.unwrap();
        assert_eq!(tree.vfs().read(idle, 9, 100).await.unwrap(), "beginning", "after {before:?}");
        // What is unlinked is not followed to another file of the name.
        unlink(tree.vfs(), "a").await.unwrap();
        write_file(tree.vfs(), "a", b"another").await.unwrap();
        assert_ne!(tree.vfs().read(idle, 0, 100).await.unwrap_or_default(), "another");
        close(tree.vfs(), idle).await.unwrap();
    }
}

/// What REST keeps has become shorter since the front looked: no zeros stand in for it.
#[tokio::test]
async fn a_transfer_keeps_no_more_than_there_is() {
    let tree = tree();
    tree.memory.insert("a", "content");
    let (inode, rest) = open(tree.vfs(), "a", TRANSFER).await.unwrap();
    tree.vfs().arm(rest, FRONT).unwrap();
    write_file(tree.vfs(), "a", b"co").await.unwrap();
    let kept = truncate(tree.vfs(), inode, Some(rest), 3).await;
    assert!(matches!(kept, Err(VfsError::ReplacedMeanwhile { .. })), "{kept:?}");
    tree.vfs().release(rest).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "co");
}

/// A shell's descriptor that is late to be closed for good holds up nobody's appends.
#[tokio::test]
async fn appends_of_shells_and_transfers_are_all_there() {
    let tree = tree();
    tree.memory.insert("a", "0");
    let (_, first) = open(tree.vfs(), "a", APPEND).await.unwrap();
    tree.vfs().write(first, 0, Bytes::from("1"), true, false).await.unwrap();
    tree.vfs().flush(first, closer()).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "01");
    let sent = transfer(&tree, APPENDED, None, "2").await;
    complete(&tree, sent, 1).await;
    assert_eq!(tree.memory.content("a").unwrap(), "012");
    let (_, second) = open(tree.vfs(), "a", APPEND).await.unwrap();
    tree.vfs().write(second, 0, Bytes::from("3"), true, false).await.unwrap();
    // One that has written already when a transfer is committed.
    let sent = transfer(&tree, APPENDED, None, "4").await;
    complete(&tree, sent, 1).await;
    close(tree.vfs(), second).await.unwrap();
    tree.vfs().release(first).await.unwrap();
    assert_eq!(
        tree.memory.content("a").unwrap(),
        "01243",
        "each behind what stood there when it was published"
    );
}

/// > APPE that breaks leaves nothing of itself, whoever else appends to the file meanwhile.
#[tokio::test]
async fn an_append_that_breaks_leaves_nothing() {
    let tree = tree();
    tree.memory.insert("a", "0");
    let (_, shell) = open(tree.vfs(), "a", APPEND).await.unwrap();
    tree.vfs().write(shell, 0, Bytes::from("1"), true, false).await.unwrap();
    let broken = transfer(&tree, APPENDED, None, "broken").await;
    let whole = transfer(&tree, APPENDED, None, "2").await;
    complete(&tree, whole, 1).await;
    assert_eq!(tree.memory.content("a").unwrap(), "02");
    tree.vfs().release(broken).await.unwrap();
    close(tree.vfs(), shell).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "021");
}

/// > APPE puts what is sent behind what stands there at its end, also if others have replaced the file meanwhile or are just doing so.
#[tokio::test]
async fn an_append_goes_behind_what_stands_there_at_its_end() {
    for large in [false, true] {
        let tree = tree();
        tree.memory.insert("a", "0");
        let piece = if large { vec![b'+'; 3 << 20] } else { b"+".to_vec() };
        let sent = transfer(&tree, APPENDED, None, "").await;
        tree.vfs().write(sent, 0, Bytes::from(piece.clone()), true, false).await.unwrap();
        write_file(tree.vfs(), "a", b"replaced").await.unwrap();
        // The shell's `>`, which has not come to its end.
        let (_, half) = create(tree.vfs(), "a", NEW).await.unwrap();
        write(tree.vfs(), half, 0, b"half").await.unwrap();
        complete(&tree, sent, piece.len() as u64).await;
        assert_eq!(tree.memory.content("a").unwrap(), [b"replaced".to_vec(), piece].concat());
        write(tree.vfs(), half, 4, b" and half").await.unwrap();
        close(tree.vfs(), half).await.unwrap();
        assert_eq!(tree.memory.content("a").unwrap(), "half and half");
    }
}

/// > Of APPEs at once into a file that does not exist each is there.
#[tokio::test]
async fn appends_at_once_to_what_is_absent_are_all_there() {
    let tree = tree();
    let mut sent = Vec::new();
    for piece in ["1", "2", "", "3"] {
        let (_, handle) = create(tree.vfs(), "a", APPENDED).await.unwrap();
        tree.vfs().arm(handle, FRONT).unwrap();
        tree.vfs().write(handle, 0, Bytes::from(piece), true, false).await.unwrap();
        sent.push((handle, piece.len() as u64));
    }
    for (handle, _) in &sent {
        tree.vfs().prepare(*handle, FRONT).await.unwrap();
    }
    for (handle, bytes) in sent {
        complete(&tree, handle, bytes).await;
    }
    assert_eq!(tree.memory.content("a").unwrap(), "123");
    assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), b"123");
}

/// Whoever has made the name of a file goes behind what somebody else has put there before he has closed it.
#[tokio::test]
async fn a_shell_that_has_begun_a_file_goes_behind_a_transfer() {
    let read_append = OpenHow { read: true, ..APPEND };
    let plain = OpenHow { truncate: false, ..NEW };
    let truncating = OpenHow { append: true, ..NEW };
    let cases = [
        (APPEND, "+line", "stored+line"),
        (read_append, "+line", "stored+line"),
        (APPEND, "", "stored"),
        (plain, "", "stored"),
        (truncating, "+line", "+line"),
    ];
    for (how, piece, whole) in cases {
        for transfer in [APPENDED, OpenHow { truncate: true, ..TRANSFER }] {
            let tree = tree();
            let (_, shell) = create(tree.vfs(), "a", how).await.unwrap();
            if !piece.is_empty() {
                tree.vfs().write(shell, 0, Bytes::from(piece), how.append, false).await.unwrap();
            }
            let (_, sent) = create(tree.vfs(), "a", transfer).await.unwrap();
            tree.vfs().arm(sent, FRONT).unwrap();
            tree.vfs().write(sent, 0, Bytes::from("stored"), transfer.append, false).await.unwrap();
            complete(&tree, sent, 6).await;
            close(tree.vfs(), shell).await.unwrap();
            assert_eq!(tree.memory.content("a").unwrap(), whole, "{how:?} {transfer:?}");
        }
    }
}

/// What has left already cannot follow: the later one fails, and what the other has stored may be appended to.
#[tokio::test]
async fn of_large_appends_to_what_is_absent_one_is_there() {
    let tree = tree();
    let mut sent = Vec::new();
    for _ in 0..2 {
        let (_, handle) = create(tree.vfs(), "a", APPENDED).await.unwrap();
        tree.vfs().arm(handle, FRONT).unwrap();
        for _ in 0..9 {
            tree.vfs().write(handle, 0, Bytes::from(vec![b'+'; 1 << 20]), true, false).await.unwrap();
        }
        sent.push(handle);
    }
    tree.vfs().commit(sent[0], 9 << 20, FRONT).await.unwrap();
    let later = tree.vfs().commit(sent[1], 9 << 20, FRONT).await;
    assert!(matches!(later, Err(VfsError::ReplacedMeanwhile { .. })), "{later:?}");
    for handle in sent {
        tree.vfs().release(handle).await.unwrap();
    }
    assert_eq!(
        tree.vfs().held("a".as_ref(), true, FRONT).await.unwrap(),
        0,
        "and not: older than its last upload"
    );
    let (_, handle) = open(tree.vfs(), "a", APPENDED).await.unwrap();
    tree.vfs().arm(handle, FRONT).unwrap();
    tree.vfs().write(handle, 0, Bytes::from("end"), true, false).await.unwrap();
    complete(&tree, handle, 3).await;
    assert_eq!(tree.memory.content("a").unwrap().len(), (9 << 20) + 3);
}

/// > What is appended through one gateway goes behind what another one has put there meanwhile.
#[tokio::test]
async fn gateways_append_behind_each_other() {
    let here = tree();
    let there = Tree::over(here.memory.clone(), &Plan::default());
    here.memory.insert("log", "0");
    for how in [APPEND, OpenHow { read: true, ..APPEND }] {
        here.memory.insert("log", "0");
        let (_, one) = open(here.vfs(), "log", how).await.unwrap();
        let (_, two) = open(there.vfs(), "log", how).await.unwrap();
        here.vfs().write(one, 0, Bytes::from("1"), true, false).await.unwrap();
        there.vfs().write(two, 0, Bytes::from("2"), true, false).await.unwrap();
        close(here.vfs(), one).await.unwrap();
        close(there.vfs(), two).await.unwrap();
        assert_eq!(here.memory.content("log").unwrap(), "012");
    }
}

/// A shell's descriptor that is still open, or late to be closed, is of what was published since.
#[tokio::test]
async fn who_has_changed_nothing_goes_on_with_what_was_published() {
    let tree = tree();
    tree.memory.insert("a", "12345");
    let (_, idle) = open(tree.vfs(), "a", READ_WRITE).await.unwrap();
    write(tree.vfs(), idle, 0, b"X").await.unwrap();
    tree.vfs().fsync(idle).await.unwrap();
    let sent = transfer(&tree, OpenHow { truncate: true, ..TRANSFER }, None, "stored").await;
    complete(&tree, sent, 6).await;
    assert_eq!(tree.vfs().read(idle, 0, 10).await.unwrap(), "stored");
    let (_, late) = open(tree.vfs(), "a", READ_WRITE).await.unwrap();
    write(tree.vfs(), late, 0, b"S").await.unwrap();
    close(tree.vfs(), late).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "Stored");
    close(tree.vfs(), idle).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "Stored");
}

/// > A download through the front is of one published version, whatever others do to the file meanwhile.
#[tokio::test]
async fn the_front_reads_objects() {
    let tree = tree();
    tree.memory.insert("a", "12345");
    let (inode, handle) = open(tree.vfs(), "a", READ_WRITE).await.unwrap();
    write(tree.vfs(), handle, 0, b"X").await.unwrap();
    let download = tree.vfs().open(inode, READ, FRONT).await.unwrap();
    assert_eq!(tree.vfs().read(download, 0, 10).await.unwrap(), "12345");
    close(tree.vfs(), handle).await.unwrap();
    tree.vfs().release(download).await.unwrap();
}

const TRANSFER: OpenHow = OpenHow { truncate: false, alone: true, ..NEW };
const APPENDED: OpenHow = OpenHow { append: true, ..TRANSFER };

/// A transfer that stores, appends to or goes on with `a`, armed, with all its bytes.
async fn transfer(tree: &Tree, how: OpenHow, keep: Option<u64>, piece: &'static str) -> HandleNo {
    let (inode, handle) = open(tree.vfs(), "a", how).await.expect("a transfer takes it");
    tree.vfs().arm(handle, FRONT).expect("a transfer takes it");
    if let Some(bytes) = keep {
        truncate(tree.vfs(), inode, Some(handle), bytes).await.expect("a transfer takes it");
    }
    let offset = keep.unwrap_or(0);
    tree.vfs()
        .write(handle, offset, Bytes::from(piece), how.append, false)
        .await
        .expect("a transfer takes it");
    handle
}

/// It ends well, with so many bytes sent.
async fn complete(tree: &Tree, handle: HandleNo, bytes: u64) {
    tree.vfs().commit(handle, bytes, FRONT).await.expect("committed");
    tree.vfs().release(handle).await.expect("released");
}

/// > A STOR, from the start or behind REST, shares nothing with others who write the file: it replaces what was published or leaves it, and theirs rests on that.
#[tokio::test]
async fn a_transfer_and_an_editor_are_two_files() {
    let transfers = [
        (OpenHow { truncate: true, ..TRANSFER }, None, "new", "new"),
        (TRANSFER, Some(3), "sole", "console"),
    ];
    for (how, keep, piece, whole) in transfers {
        for is_broken in [true, false] {
            let tree = tree();
            tree.memory.insert("a", "content");
            let (_, editor) = open(tree.vfs(), "a", APPEND).await.unwrap();
            tree.vfs().write(editor, 0, Bytes::from(" here"), true, false).await.unwrap();
            let (_, late) = open(tree.vfs(), "a", OpenHow { read: true, ..APPEND }).await.unwrap();
            let transfer = transfer(&tree, how, keep, piece).await;
            assert_eq!(tree.memory.content("a").unwrap(), "content");
            if is_broken {
                tree.vfs().release(transfer).await.unwrap();
                close(tree.vfs(), editor).await.unwrap();
                tree.vfs().write(late, 0, Bytes::from(" late"), true, false).await.unwrap();
                close(tree.vfs(), late).await.unwrap();
                assert_eq!(tree.memory.content("a").unwrap(), "content here late");
            } else {
                complete(&tree, transfer, piece.len() as u64).await;
                assert_eq!(tree.memory.content("a").unwrap(), whole);
                close(tree.vfs(), editor).await.unwrap();
                assert_eq!(tree.memory.content("a").unwrap(), format!("{whole} here"));
            }
        }
    }
}

/// Who has changed a file in place that was replaced meanwhile is told so, and what replaced it stays.
#[tokio::test]
async fn a_change_in_place_does_not_follow() {
    let tree = tree();
    tree.memory.insert("a", "content");
    let (_, editor) = open(tree.vfs(), "a", OpenHow { truncate: false, ..NEW }).await.unwrap();
    write(tree.vfs(), editor, 0, b"C").await.unwrap();
    let transfer = transfer(&tree, OpenHow { truncate: true, ..TRANSFER }, None, "new").await;
    complete(&tree, transfer, 3).await;
    let closed = close(tree.vfs(), editor).await;
    assert!(matches!(closed, Err(VfsError::ReplacedMeanwhile { .. })), "{closed:?}");
    assert_eq!(tree.memory.content("a").unwrap(), "new");
}

/// A name that STOR is about to replace still has what REST keeps.
#[tokio::test]
async fn two_transfers_are_two_files() {
    for is_broken in [true, false] {
        let tree = tree();
        tree.memory.insert("a", "content");
        let (inode, rest) = open(tree.vfs(), "a", TRANSFER).await.unwrap();
        tree.vfs().arm(rest, FRONT).unwrap();
        let stor = transfer(&tree, OpenHow { truncate: true, ..TRANSFER }, None, "all of it").await;
        // Whoever asks for the name and forgets it leaves nothing of it in the table.
        assert_eq!(stat(tree.vfs(), "a").await.unwrap().bytes, 7);
        truncate(tree.vfs(), inode, Some(rest), 3).await.unwrap();
        write(tree.vfs(), rest, 3, b"sole").await.unwrap();
        assert_eq!(stat(tree.vfs(), "a").await.unwrap().bytes, 7);
        complete(&tree, rest, 4).await;
        assert_eq!(tree.memory.content("a").unwrap(), "console");
        if !is_broken {
            tree.vfs().commit(stor, 9, FRONT).await.unwrap();
        }
        tree.vfs().release(stor).await.unwrap();
        assert_eq!(tree.memory.content("a").unwrap(), if is_broken { "console" } else { "all of it" });
    }
}

/// > A download through the front is of one published version, whatever others do to the file meanwhile.
#[tokio::test]
async fn a_download_shows_no_edit() {
    let tree = tree();
    tree.memory.insert("a", "content");
    let (_, editor) = open(tree.vfs(), "a", OpenHow { truncate: false, ..NEW }).await.unwrap();
    write(tree.vfs(), editor, 0, b"C").await.unwrap();
    let (_, download) = open(tree.vfs(), "a", OpenHow { alone: true, ..READ }).await.unwrap();
    assert_eq!(tree.vfs().read(download, 0, 100).await.unwrap(), "content");
    assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), b"Content");
    tree.vfs().release(download).await.unwrap();
    close(tree.vfs(), editor).await.unwrap();
}

/// > Closing a descriptor publishes what was written through it, and not what another one has just begun to change.
#[tokio::test]
async fn who_has_not_written_publishes_nothing() {
    let tree = tree();
    tree.memory.insert("db", "12345");
    let (_, writer) = open(tree.vfs(), "db", READ_WRITE).await.unwrap();
    let (_, reader) = open(tree.vfs(), "db", READ_WRITE).await.unwrap();
    write(tree.vfs(), writer, 0, b"half").await.unwrap();
    assert_eq!(tree.vfs().read(reader, 0, 5).await.unwrap(), "half5");
    close(tree.vfs(), reader).await.unwrap();
    assert_eq!(tree.memory.content("db").unwrap(), "12345");
    close(tree.vfs(), writer).await.unwrap();
    assert_eq!(tree.memory.content("db").unwrap(), "half5");
}

/// > A writer that goes back to the beginning of a file larger than its memory gets on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_goes_back_to_the_beginning_gets_on() {
    let going = tokio::spawn(async {
        for bytes in (19 << 18..=21 << 18).step_by(64 << 10) {
            let tree = Tree::new(&Plan { memory_bytes: 2 << 20, ..Plan::default() });
            let (_, handle) = create(tree.vfs(), "a", OpenHow { read: true, ..NEW }).await.unwrap();
            // The last block is not full, and the beginning that is written lies across blocks.
            let mut whole = content(bytes - 1000);
            for (number, piece) in whole.chunks(64 << 10).enumerate() {
                write(tree.vfs(), handle, (number << 16) as u64, piece).await.unwrap();
            }
            let beginning = content(1 << 20);
            write(tree.vfs(), handle, 1000, &beginning).await.unwrap();
            close(tree.vfs(), handle).await.unwrap();
            whole[1000..][..1 << 20].copy_from_slice(&beginning);
            assert!(tree.memory.content("a").unwrap() == whole, "{} bytes", whole.len());
        }
    });
    tokio::time::timeout(Duration::from_secs(30), going).await.expect("no writer goes in circles").unwrap();
}

/// > A file that is unlinked while it is open for reading and writing keeps what was written, and becomes no object.
#[tokio::test]
async fn temporary_files_without_a_name_can_be_read_back() {
    let tree = tree();
    let (_, handle) = create(tree.vfs(), "tmp", OpenHow { read: true, ..NEW }).await.unwrap();
    write(tree.vfs(), handle, 0, b"1234").await.unwrap();
    unlink(tree.vfs(), "tmp").await.unwrap();
    write(tree.vfs(), handle, 2, b"56").await.unwrap();
    assert_eq!(tree.vfs().read(handle, 0, 10).await.unwrap(), "1256");
    tree.vfs().fsync(handle).await.unwrap();
    close(tree.vfs(), handle).await.unwrap();
    assert!(tree.memory.keys().is_empty());
}

/// > What is skipped in a file that is written in order is zeros; what has left memory of it cannot be changed: not supported, and the file fails as a whole or is closed without that write.
#[tokio::test]
async fn gaps_are_zeros_and_what_has_left_stays() {
    let tree = tree();
    let (_, handle) = create(tree.vfs(), "large", NEW).await.unwrap();
    let piece = vec![7; 1 << 20];
    for at in 0..3 {
        write(tree.vfs(), handle, at << 20, &piece).await.unwrap();
    }
    write(tree.vfs(), handle, (3 << 20) + 5, b"x").await.unwrap();
    let back = write(tree.vfs(), handle, 0, b"x").await;
    assert!(matches!(back, Err(VfsError::NotSupported { .. })), "{back:?}");
    close(tree.vfs(), handle).await.unwrap();
    let content = tree.memory.content("large").unwrap();
    assert_eq!(content[3 << 20..], *b"\0\0\0\0\0x");
    assert!(content[..3 << 20].iter().all(|byte| *byte == 7));
}
