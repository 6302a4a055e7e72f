//! The promises of `docs/SEMANTICS.md`, one test each, the promise quoted above it.
//!
//! These are over `Vfs` and a bucket in memory; what needs a kernel or an FTP client stands in other files.

#[path = "common/tree.rs"]
mod tree;

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use cosgate::{
    config::{Authority, PolicyConfig},
    cos::{Crc64, ETag, Fault, Operation, Reason, Rule},
    vfs::{
        AttributeChange, Caller, Closer, DirectoryEntry, Entry, HandleNo, InodeNo, Notice, OpenHow, Vfs,
        VfsError, VfsResult,
    },
};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tree::{
    ALL, FRONT, FRONT_UID, ME, NEW, Plan, READ, ROOT, Tree, closer, create, is_directory, list, mkdir, open,
    read_all, read_file, rename, rmdir, stat, truncate, unlink, walk, write, write_file,
};

const TRANSIENT: Operation = Operation::PutObject;

fn tree() -> Tree {
    Tree::new(&Plan::default())
}

fn restless() -> Plan {
    Plan { attr_ttl: Duration::ZERO, ..Plan::default() }
}

fn posix() -> Plan {
    Plan { posix_metadata: true, ..Plan::default() }
}

async fn close(vfs: &Vfs, handle: HandleNo) -> VfsResult<()> {
    let flushed = vfs.flush(handle, closer()).await;
    flushed.and(vfs.release(handle).await)
}

async fn begin(vfs: &Vfs, path: &str, content: &[u8]) -> (Entry, HandleNo) {
    let (entry, handle) = create(vfs, path, NEW).await.expect("it can be created");
    write(vfs, handle, 0, content).await.expect("it takes bytes");
    (entry, handle)
}

fn content(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(length as u64);
    (0..length).map(|_| random.u8(..)).collect()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come to hold within 5 s");
}

/// > A file becomes an object when its writer closes it, whole; until then nothing new is visible in the bucket.
#[tokio::test]
async fn close_makes_the_object() {
    let tree = tree();
    let bytes = content(5 << 20);
    let (_, handle) = create(tree.vfs(), "a", NEW).await.unwrap();
    for (number, piece) in bytes.chunks(1 << 20).enumerate() {
        write(tree.vfs(), handle, (number << 20) as u64, piece).await.unwrap();
        assert!(tree.memory.keys().is_empty());
    }
    close(tree.vfs(), handle).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), bytes);
    assert!(tree.memory.open_upload_keys().is_empty());
    assert_eq!(stat(tree.vfs(), "a").await.unwrap().bytes, bytes.len() as u64);
}

/// > While a file is overwritten, its name shows the old object: its size, and its bytes to whoever opens it.
#[tokio::test]
async fn an_overwrite_shows_the_old_object_until_it_is_published() {
    let tree = tree();
    for opens_by_create in [true, false] {
        write_file(tree.vfs(), "a", b"old").await.unwrap();
        let (inode, handle) = if opens_by_create {
            let (entry, handle) = create(tree.vfs(), "a", NEW).await.unwrap();
            (entry.attributes.inode, handle)
        } else {
            open(tree.vfs(), "a", NEW).await.unwrap()
        };
        write(tree.vfs(), handle, 0, b"longer").await.unwrap();
        assert_eq!(stat(tree.vfs(), "a").await.unwrap().bytes, 3);
        assert_eq!(list(tree.vfs(), "").await.unwrap()["a"].bytes, 3);
        assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), b"old");
        assert_eq!(tree.vfs().getattr(inode, Some(handle)).await.unwrap().bytes, 6);
        close(tree.vfs(), handle).await.unwrap();
        assert_eq!(stat(tree.vfs(), "a").await.unwrap().bytes, 6);
        assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), b"longer");
    }
}

/// > A new file that is still being written answers to its name, and is not listed.
#[tokio::test]
async fn a_new_file_is_there_by_name_and_not_listed() {
    let tree = tree();
    let (_, handle) = begin(tree.vfs(), "a", b"12345").await;
    assert_eq!(stat(tree.vfs(), "a").await.unwrap().bytes, 5);
    assert!(list(tree.vfs(), "").await.unwrap().is_empty());
    close(tree.vfs(), handle).await.unwrap();
    assert_eq!(list(tree.vfs(), "").await.unwrap()["a"].bytes, 5);
}

/// > Nothing written since open publishes nothing: a close before the first write is not the end of the file.
#[tokio::test]
async fn a_close_before_the_first_write_publishes_nothing() {
    let tree = tree();
    write_file(tree.vfs(), "a", b"old").await.unwrap();
    let (_, handle) = open(tree.vfs(), "a", NEW).await.unwrap();
    tree.vfs().flush(handle, closer()).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "old");
    write(tree.vfs(), handle, 0, b"new").await.unwrap();
    close(tree.vfs(), handle).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "new");
}

/// > An empty file is published by fsync, or when its last descriptor is closed.
#[tokio::test]
async fn empty_files_are_published_by_fsync_and_release() {
    let tree = tree();
    let (_, handle) = create(tree.vfs(), "synced", NEW).await.unwrap();
    tree.vfs().fsync(handle).await.unwrap();
    assert_eq!(tree.memory.content("synced").unwrap(), "");
    let (_, other) = create(tree.vfs(), "closed", NEW).await.unwrap();
    tree.vfs().flush(other, closer()).await.unwrap();
    assert_eq!(tree.memory.content("closed"), None);
    tree.vfs().release(other).await.unwrap();
    assert_eq!(tree.memory.content("closed").unwrap(), "");
    tree.vfs().release(handle).await.unwrap();
    assert_eq!(tree.store.calls(Operation::PutObject), 2);
}

/// > A close by a child that inherited the descriptor publishes nothing while the process that opened it goes on.
#[tokio::test]
async fn a_childs_close_is_not_the_end() {
    let tree = tree();
    let (_, handle) = begin(tree.vfs(), "a", b"a\n").await;
    let child = Closer { process: Some(4712), killed: false, opener_gone: false };
    tree.vfs().flush(handle, child).await.unwrap();
    assert!(tree.memory.keys().is_empty());
    write(tree.vfs(), handle, 2, b"c\n").await.unwrap();
    close(tree.vfs(), handle).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "a\nc\n");
    assert_eq!(tree.store.calls(Operation::PutObject), 1);
    // The opener has gone: nobody else will say that it is the end.
    let (_, handle) = begin(tree.vfs(), "b", b"b").await;
    tree.vfs().flush(handle, Closer { opener_gone: true, ..child }).await.unwrap();
    assert_eq!(tree.memory.content("b").unwrap(), "b");
}

/// > A process killed by a signal publishes nothing; the older object stays as it was.
#[tokio::test]
async fn a_killed_process_publishes_nothing() {
    let tree = tree();
    write_file(tree.vfs(), "a", b"old").await.unwrap();
    for bytes in [3 << 20, 3] {
        let (_, handle) = begin(tree.vfs(), "a", &content(bytes)).await;
        tree.vfs().flush(handle, Closer { killed: true, ..closer() }).await.unwrap();
        tree.vfs().release(handle).await.unwrap();
        assert_eq!(tree.memory.content("a").unwrap(), "old");
        assert!(tree.memory.open_upload_keys().is_empty());
    }
    let (_, handle) = begin(tree.vfs(), "new", b"half").await;
    tree.vfs().flush(handle, Closer { killed: true, ..closer() }).await.unwrap();
    tree.vfs().release(handle).await.unwrap();
    assert!(matches!(stat(tree.vfs(), "new").await, Err(VfsError::NotFound { .. })));
}

/// > A failed publication leaves the older object, and every later fsync and close tells the error again.
#[tokio::test]
async fn errors_stay_on_the_handle() {
    let tree = tree();
    write_file(tree.vfs(), "a", b"old").await.unwrap();
    tree.store.inject(Rule::on(TRANSIENT), Fault::Fail(Reason::Unavailable));
    let (_, handle) = begin(tree.vfs(), "a", b"new").await;
    for _ in 0..2 {
        assert!(matches!(tree.vfs().flush(handle, closer()).await, Err(VfsError::Store { .. })));
        assert!(matches!(tree.vfs().fsync(handle).await, Err(VfsError::Store { .. })));
    }
    tree.vfs().release(handle).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "old");
    assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), b"old");
}

/// > Of two writers of one name the last to publish wins, and each object is whole.
#[tokio::test]
async fn the_last_publication_wins() {
    let tree = tree();
    let (_, first) = begin(tree.vfs(), "a", b"first").await;
    let (_, second) = begin(tree.vfs(), "a", b"second!").await;
    close(tree.vfs(), second).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "second!");
    close(tree.vfs(), first).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "first");
    assert_eq!(stat(tree.vfs(), "a").await.unwrap().bytes, 5);
    assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), b"first");
}

/// > What is unlinked or replaced by a rename while it is written is never published, and commit says so.
#[tokio::test]
async fn an_unlinked_upload_is_never_published() {
    let tree = tree();
    write_file(tree.vfs(), "a", b"old").await.unwrap();
    for path in ["a", "new"] {
        let (entry, handle) = begin(tree.vfs(), path, b"late").await;
        tree.vfs().arm(handle, FRONT).unwrap();
        unlink(tree.vfs(), path).await.unwrap();
        assert!(matches!(stat(tree.vfs(), path).await, Err(VfsError::NotFound { .. })));
        let seen = tree.vfs().getattr(entry.attributes.inode, Some(handle)).await.unwrap();
        assert_eq!(seen.links, 0);
        let committed = tree.vfs().commit(handle, 4, FRONT).await;
        assert!(matches!(committed, Err(VfsError::ReplacedMeanwhile { .. })), "{committed:?}");
        tree.vfs().release(handle).await.unwrap();
        assert!(tree.memory.keys().is_empty());
    }
}

/// > Who writes to a file that was unlinked goes on undisturbed, as POSIX has it, and nothing of it becomes visible.
#[tokio::test]
async fn an_unlinked_file_takes_writes_to_nowhere() {
    let tree = tree();
    let (entry, handle) = begin(tree.vfs(), "a", b"late").await;
    unlink(tree.vfs(), "a").await.unwrap();
    write(tree.vfs(), handle, 4, b"r").await.unwrap();
    let seen = tree.vfs().getattr(entry.attributes.inode, Some(handle)).await.unwrap();
    assert_eq!((seen.links, seen.bytes), (0, 5));
    tree.vfs().fsync(handle).await.unwrap();
    // Meanwhile somebody else takes the name.
    write_file(tree.vfs(), "a", b"other").await.unwrap();
    close(tree.vfs(), handle).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "other");
    assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), b"other");
    assert_eq!(tree.memory.keys(), ["a"]);
}

/// > An existing file that is opened for writing and closed without a write is left alone.
#[tokio::test]
async fn opening_for_writing_alone_changes_nothing() {
    let tree = tree();
    let etag = tree.memory.insert("a", "old");
    let puts = tree.store.calls(Operation::PutObject);
    let how = OpenHow { truncate: false, ..NEW };
    let (_, handle) = open(tree.vfs(), "a", how).await.unwrap();
    tree.vfs().fsync(handle).await.unwrap();
    close(tree.vfs(), handle).await.unwrap();
    let (_, handle) = create(tree.vfs(), "a", how).await.unwrap();
    close(tree.vfs(), handle).await.unwrap();
    assert_eq!(tree.memory.meta("a").unwrap().etag, etag);
    assert_eq!(tree.store.calls(Operation::PutObject), puts);
}

/// > O_EXCL makes a new object or none, also against another gateway.
#[tokio::test]
async fn exclusive_creation_never_replaces() {
    let tree = tree();
    let how = OpenHow { exclusive: true, ..NEW };
    assert!(matches!(stat(tree.vfs(), "a").await, Err(VfsError::NotFound { .. })));
    tree.memory.insert("a", "foreign");
    assert!(matches!(create(tree.vfs(), "a", how).await, Err(VfsError::Exists { .. })));
    let (_, handle) = create(tree.vfs(), "b", how).await.unwrap();
    write(tree.vfs(), handle, 0, b"ours").await.unwrap();
    tree.memory.insert("b", "foreign");
    assert!(matches!(close(tree.vfs(), handle).await, Err(VfsError::Exists { .. })));
    assert_eq!(tree.memory.content("b").unwrap(), "foreign");
}

/// > An armed descriptor publishes by commit alone: closing it without commit discards, and fsync is refused.
#[tokio::test]
async fn an_armed_descriptor_publishes_by_commit_alone() {
    let tree = tree();
    write_file(tree.vfs(), "a", b"old").await.unwrap();
    let (_, handle) = begin(tree.vfs(), "a", b"broken").await;
    tree.vfs().arm(handle, FRONT).unwrap();
    assert!(matches!(tree.vfs().fsync(handle).await, Err(VfsError::Invalid { .. })));
    close(tree.vfs(), handle).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "old");
    let (_, handle) = begin(tree.vfs(), "a", b"whole").await;
    tree.vfs().arm(handle, FRONT).unwrap();
    tree.vfs().prepare(handle, FRONT).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "old");
    tree.vfs().commit(handle, 5, FRONT).await.unwrap();
    assert_eq!(tree.memory.content("a").unwrap(), "whole");
    close(tree.vfs(), handle).await.unwrap();
    let (_, handle) = create(tree.vfs(), "empty", NEW).await.unwrap();
    tree.vfs().arm(handle, FRONT).unwrap();
    tree.vfs().commit(handle, 0, FRONT).await.unwrap();
    close(tree.vfs(), handle).await.unwrap();
    assert_eq!(tree.memory.content("empty").unwrap(), "");
}

/// > Commit refuses to publish when the front counted other bytes than the mount.
#[tokio::test]
async fn commit_counts_bytes() {
    let tree = tree();
    let (_, handle) = begin(tree.vfs(), "a", b"12345").await;
    assert!(matches!(tree.vfs().commit(handle, 5, FRONT).await, Err(VfsError::Invalid { .. })), "not armed");
    tree.vfs().arm(handle, FRONT).unwrap();
    assert!(matches!(tree.vfs().commit(handle, 6, FRONT).await, Err(VfsError::Invalid { .. })));
    close(tree.vfs(), handle).await.unwrap();
    assert!(tree.memory.keys().is_empty());
}

/// > Only root, the owner of the home and the front's own user may arm, prepare, commit, or rename by ioctl.
#[tokio::test]
async fn the_fronts_words_are_not_for_everybody() {
    let tree = tree();
    let (_, handle) = begin(tree.vfs(), "a", b"1").await;
    let stranger = Caller { uid: 4000, ..ME };
    let (a, b) = (OsStr::new("a"), OsStr::new("b"));
    assert!(matches!(tree.vfs().arm(handle, stranger), Err(VfsError::NotTheFront)));
    assert!(matches!(tree.vfs().prepare(handle, stranger).await, Err(VfsError::NotTheFront)));
    assert!(matches!(tree.vfs().commit(handle, 1, stranger).await, Err(VfsError::NotTheFront)));
    assert!(matches!(tree.vfs().rename_paths(a, b, false, stranger).await, Err(VfsError::NotTheFront)));
    for uid in [0, 1000, FRONT_UID] {
        tree.vfs().arm(handle, Caller { uid, ..ME }).unwrap();
    }
    tree.vfs().commit(handle, 1, FRONT).await.unwrap();
    close(tree.vfs(), handle).await.unwrap();
    mkdir(tree.vfs(), "d").await.unwrap();
    tree.vfs().rename_paths(a, OsStr::new("d/b"), false, FRONT).await.unwrap();
    assert_eq!(read_file(tree.vfs(), "d/b").await.unwrap(), b"1");
    assert!(matches!(stat(tree.vfs(), "a").await, Err(VfsError::NotFound { .. })));
}

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
    let how = OpenHow { truncate: false, append: true, ..NEW };
    for path in ["empty", "absent"] {
        let (_, handle) = create(tree.vfs(), path, how).await.unwrap();
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
    let how = OpenHow { truncate: false, append: true, ..NEW };
    let (_, one) = open(tree.vfs(), "log", how).await.unwrap();
    let (_, two) = open(tree.vfs(), "log", how).await.unwrap();
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
    let how = OpenHow { read: true, truncate: false, ..NEW };
    for before in ["", "12345"] {
        tree.memory.insert("a", before);
        let (inode, idle) = open(tree.vfs(), "a", how).await.unwrap();
        assert_eq!(tree.vfs().read(idle, 0, 10).await.unwrap(), before);
        let (_, writer) = open(tree.vfs(), "a", how).await.unwrap();
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

/// > A download through the front is of one published version, whatever others do to the file meanwhile.
#[tokio::test]
async fn the_front_reads_objects() {
    let tree = tree();
    tree.memory.insert("a", "12345");
    let how = OpenHow { read: true, truncate: false, ..NEW };
    let (inode, handle) = open(tree.vfs(), "a", how).await.unwrap();
    write(tree.vfs(), handle, 0, b"X").await.unwrap();
    let download = tree.vfs().open(inode, READ, FRONT).await.unwrap();
    assert_eq!(tree.vfs().read(download, 0, 10).await.unwrap(), "12345");
    close(tree.vfs(), handle).await.unwrap();
    tree.vfs().release(download).await.unwrap();
}

/// > Closing a descriptor publishes what was written through it, and not what another one has just begun to change.
#[tokio::test]
async fn who_has_not_written_publishes_nothing() {
    let tree = tree();
    tree.memory.insert("db", "12345");
    let how = OpenHow { read: true, truncate: false, ..NEW };
    let (_, writer) = open(tree.vfs(), "db", how).await.unwrap();
    let (_, reader) = open(tree.vfs(), "db", how).await.unwrap();
    write(tree.vfs(), writer, 0, b"half").await.unwrap();
    assert_eq!(tree.vfs().read(reader, 0, 5).await.unwrap(), "half5");
    close(tree.vfs(), reader).await.unwrap();
    assert_eq!(tree.memory.content("db").unwrap(), "12345");
    close(tree.vfs(), writer).await.unwrap();
    assert_eq!(tree.memory.content("db").unwrap(), "half5");
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

/// > A descriptor reads one version of an object: after a replacement, the old bytes that are here already or ESTALE, never a mixture.
#[tokio::test]
async fn a_reader_never_sees_a_mixture() {
    let tree = tree();
    let (old, new) = (content(30 << 20), content((30 << 20) + 1));
    for unlinks in [false, true] {
        tree.memory.insert("a", old.clone());
        let (_, handle) = open(tree.vfs(), "a", READ).await.unwrap();
        let first = tree.vfs().read(handle, 0, 100_000).await.unwrap();
        assert_eq!(first, old[..100_000]);
        if unlinks {
            unlink(tree.vfs(), "a").await.unwrap();
        } else {
            tree.memory.insert("a", new.clone());
        }
        let mut offset = 100_000;
        let ended = loop {
            match tree.vfs().read(handle, offset as u64, 1 << 20).await {
                Ok(bytes) if bytes.is_empty() => break Ok(()),
                Ok(bytes) => {
                    assert_eq!(bytes, old[offset..offset + bytes.len()], "at {offset}");
                    offset += bytes.len();
                }
                Err(error) => break Err(error),
            }
        };
        assert!(matches!(ended, Err(VfsError::ReplacedMeanwhile { .. })), "{ended:?}");
        tree.vfs().release(handle).await.unwrap();
    }
}

/// > A whole read in order is held to the checksum that the store told; a mismatch is an error at the last read.
#[tokio::test]
async fn whole_reads_are_checked() {
    let tree = tree();
    for bytes in [1000, 25 << 20] {
        tree.memory.insert("a", content(bytes));
        assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), content(bytes));
        tree.memory.change_meta("a", |meta| meta.crc64 = Some(Crc64(1)));
        let (_, handle) = open(tree.vfs(), "a", READ).await.unwrap();
        let read = read_all(tree.vfs(), handle, 1 << 20).await;
        assert!(matches!(read, Err(VfsError::Store { .. })), "{bytes}");
        tree.vfs().release(handle).await.unwrap();
        tree.memory.change_meta("a", |meta| meta.crc64 = None);
        assert_eq!(read_file(tree.vfs(), "a").await.unwrap().len(), bytes);
    }
}

/// > A body that breaks off is asked for again from where it stopped, of the same version.
#[tokio::test]
async fn broken_bodies_go_on_where_they_stopped() {
    let tree = tree();
    let bytes = content(12 << 20);
    tree.memory.insert("a", bytes.clone());
    tree.store.inject(Rule::on(Operation::GetObject).times(3), Fault::CutBody(700_000));
    assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), bytes);
    // One that never brings a byte ends in an error.
    tree.store.inject(Rule::on(Operation::GetObject).always(), Fault::CutBody(0));
    let (_, handle) = open(tree.vfs(), "a", READ).await.unwrap();
    assert!(matches!(tree.vfs().read(handle, 0, 1000).await, Err(VfsError::Store { .. })));
}

/// > Random reads fetch the bytes that were asked for and nothing more.
#[tokio::test]
async fn random_reads_fetch_nothing_else() {
    let tree = tree();
    let bytes = content(64 << 20);
    tree.memory.insert("a", bytes.clone());
    let (_, handle) = open(tree.vfs(), "a", READ).await.unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    for number in 1..=100_u64 {
        let offset = random.u64(1..1000) * 65_536;
        let read = tree.vfs().read(handle, offset, 65_536).await.unwrap();
        assert_eq!(read, bytes[usize::try_from(offset).unwrap()..][..65_536]);
        assert!(tree.store.calls(Operation::GetObject) <= number);
    }
    assert!(tree.store.bytes_asked() <= 100 * 65_536, "read-ahead would ask for a MiB and more");
}

/// > Readers, however many and however they jump, keep no more than the memory limit.
#[tokio::test]
async fn readers_that_jump_keep_little() {
    const READERS: u64 = 12;
    let plan = Plan { memory_bytes: 16 << 20, ..Plan::default() };
    let tree = Tree::new(&plan);
    let bytes = content(24 << 20);
    tree.memory.insert("a", bytes.clone());
    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(open(tree.vfs(), "a", READ).await.unwrap().1);
    }
    let mut random = fastrand::Rng::with_seed(2);
    for turn in 0..300 {
        for reader in &readers {
            let offset = random.usize(..bytes.len() - 300_000);
            let length = if turn % 10 == 0 { 300_000 } else { 4096 };
            let read = tree.vfs().read(*reader, offset as u64, length).await.unwrap();
            assert_eq!(read, bytes[offset..][..read.len()]);
            assert_eq!(read.len(), length as usize);
        }
    }
    let most = tree.writers.budget().used_bytes_most();
    assert!(most <= plan.memory_bytes + (1 << 20), "{most} bytes were held");
}

/// > A small file is read with one request.
#[tokio::test]
async fn a_small_file_is_one_get() {
    let tree = tree();
    tree.memory.insert("a", content(1 << 20));
    stat(tree.vfs(), "a").await.unwrap();
    assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), content(1 << 20));
    assert_eq!(tree.store.calls(Operation::GetObject), 1);
    assert_eq!(tree.store.calls(Operation::HeadObject), 0);
}

/// > Keys that cannot be names of files are not shown, nor shown as something else.
#[tokio::test]
async fn impossible_names_are_not_shown() {
    let tree = tree();
    for key in ["good", "d//b", "d/../c", "./e", "x\u{1a}", &"y".repeat(256)] {
        tree.memory.insert(key, "1");
    }
    let names: Vec<_> = list(tree.vfs(), "").await.unwrap().into_keys().collect();
    assert_eq!(names, ["d", "good"]);
    assert!(list(tree.vfs(), "d").await.unwrap().is_empty());
}

/// > An object `a` beside a directory `a/` is not shown: the directory has the name.
#[tokio::test]
async fn a_directory_wins_its_name() {
    for plan in [Plan::default(), restless()] {
        let tree = Tree::new(&plan);
        tree.memory.insert("a", "object");
        tree.memory.insert("a/b", "1");
        // So many names in between that `a` and `a/` stand on different pages.
        for number in 0..1100 {
            tree.memory.insert(&format!("a-{number:04}"), "1");
        }
        let names = list(tree.vfs(), "").await.unwrap();
        assert!(is_directory(&names["a"]));
        assert_eq!(names.len(), 1101);
        assert!(is_directory(&stat(tree.vfs(), "a").await.unwrap()));
        assert_eq!(read_file(tree.vfs(), "a/b").await.unwrap(), b"1");
    }
}

/// > The program's own keys (`state_prefix`) can be neither seen nor reached.
#[tokio::test]
async fn own_keys_are_hidden() {
    let tree = Tree::new(&Plan { prefix: "in/", ..Plan::default() });
    tree.memory.insert("in/.cosgate/uploads/x", "1");
    tree.memory.insert("in/a", "1");
    let names: Vec<_> = list(tree.vfs(), "").await.unwrap().into_keys().collect();
    assert_eq!(names, ["a"]);
    assert!(matches!(stat(tree.vfs(), ".cosgate").await, Err(VfsError::NotFound { .. })));
    assert!(matches!(create(tree.vfs(), ".cosgate", NEW).await, Err(VfsError::NameImpossible { .. })));
    assert!(matches!(mkdir(tree.vfs(), ".cosgate").await, Err(VfsError::NameImpossible { .. })));
    assert!(matches!(rename(tree.vfs(), "a", ".cosgate", false).await, Err(VfsError::NameImpossible { .. })));
    assert_eq!(
        tree.vfs().getxattr(ROOT, OsStr::new("user.cosgate.mount")).await.unwrap(),
        "COS_ACCOUNT_0 demo-1250000000/in/"
    );
}

/// > A name has at most 255 bytes, its key at most 850, and both are UTF-8.
#[tokio::test]
async fn names_have_bounds() {
    use std::os::unix::ffi::OsStrExt;
    let tree = tree();
    let longest = "x".repeat(255);
    assert!(matches!(create(tree.vfs(), &"x".repeat(256), NEW).await, Err(VfsError::NameTooLong)));
    let deep = format!("{longest}/{longest}/{longest}");
    for (end, _) in deep.match_indices('/') {
        mkdir(tree.vfs(), &deep[..end]).await.unwrap();
    }
    mkdir(tree.vfs(), &deep).await.unwrap();
    write_file(tree.vfs(), &format!("{deep}/{}", "y".repeat(82)), b"850").await.unwrap();
    assert!(matches!(
        create(tree.vfs(), &format!("{deep}/{}", "y".repeat(83)), NEW).await,
        Err(VfsError::NameTooLong)
    ));
    let invalid = OsStr::from_bytes(b"\xff");
    let created = tree.vfs().create(ROOT, invalid, 0o644, NEW, ME).await;
    assert!(matches!(created, Err(VfsError::NameImpossible { .. })));
    assert!(matches!(tree.vfs().lookup(ROOT, invalid).await, Err(VfsError::NotFound { .. })));
}

/// > Removing the last file of a directory does not remove the directory.
#[tokio::test]
async fn directories_outlive_their_files() {
    for plan in [Plan::default(), restless()] {
        let tree = Tree::new(&plan);
        tree.memory.insert("d/e/a", "1");
        tree.memory.insert("f/a", "1");
        unlink(tree.vfs(), "d/e/a").await.unwrap();
        assert!(list(tree.vfs(), "d/e").await.unwrap().is_empty());
        rename(tree.vfs(), "f/a", "d/a", false).await.unwrap();
        assert!(is_directory(&stat(tree.vfs(), "f").await.unwrap()));
        rmdir(tree.vfs(), "d/e").await.unwrap();
        assert_eq!(list(tree.vfs(), "d").await.unwrap().into_keys().collect::<Vec<_>>(), ["a"]);
        assert_eq!(list(tree.vfs(), "").await.unwrap().len(), 2);
    }
}

/// > A directory that is not empty cannot be removed, also when all in it is a file that is still being written.
#[tokio::test]
async fn rmdir_is_for_empty_directories() {
    let tree = tree();
    mkdir(tree.vfs(), "d").await.unwrap();
    let (_, handle) = begin(tree.vfs(), "d/a", b"1").await;
    assert!(matches!(rmdir(tree.vfs(), "d").await, Err(VfsError::NotEmpty { .. })));
    close(tree.vfs(), handle).await.unwrap();
    assert!(matches!(rmdir(tree.vfs(), "d").await, Err(VfsError::NotEmpty { .. })));
    assert!(matches!(unlink(tree.vfs(), "d").await, Err(VfsError::IsDirectory { .. })));
    assert!(matches!(rmdir(tree.vfs(), "d/a").await, Err(VfsError::NotDirectory { .. })));
    unlink(tree.vfs(), "d/a").await.unwrap();
    rmdir(tree.vfs(), "d").await.unwrap();
    assert!(tree.memory.keys().is_empty());
}

/// > A rename of a directory copies everything before it deletes anything: interrupted, it has lost nothing.
#[tokio::test]
async fn an_interrupted_rename_of_a_directory_loses_nothing() {
    let tree = tree();
    for number in 0..30 {
        tree.memory.insert(&format!("d/{number}"), format!("{number}"));
    }
    let is_whole = |tree: &Tree, directory: &str| {
        (0..30).all(|number| {
            tree.memory
                .content(&format!("{directory}/{number}"))
                .is_some_and(|content| content == format!("{number}"))
        })
    };
    tree.store.inject(Rule::on(Operation::CopyObject).after(20), Fault::Fail(Reason::Unavailable));
    assert!(rename(tree.vfs(), "d", "e", false).await.is_err());
    assert!(is_whole(&tree, "d"));
    assert_eq!(tree.store.calls(Operation::DeleteObject) + tree.store.calls(Operation::DeleteObjects), 0);
    tree.store.inject(Rule::on(Operation::DeleteObjects), Fault::Fail(Reason::Unavailable));
    assert!(rename(tree.vfs(), "d", "f", false).await.is_err());
    assert!(is_whole(&tree, "f"));
    let tree = Tree::over(tree.memory.clone(), &Plan::default());
    rename(tree.vfs(), "d", "g", false).await.unwrap();
    assert!(is_whole(&tree, "g"));
    assert!(!tree.memory.keys().iter().any(|key| key.starts_with("d/")));
    assert!(matches!(rename(tree.vfs(), "g", "g/h", false).await, Err(VfsError::Invalid { .. })));
}

/// > A rename with NOREPLACE replaces nothing.
#[tokio::test]
async fn noreplace_replaces_nothing() {
    let tree = tree();
    write_file(tree.vfs(), "a", b"a").await.unwrap();
    write_file(tree.vfs(), "b", b"b").await.unwrap();
    assert!(matches!(rename(tree.vfs(), "a", "b", true).await, Err(VfsError::Exists { .. })));
    // Another gateway was faster: the store refuses.
    assert!(matches!(stat(tree.vfs(), "c").await, Err(VfsError::NotFound { .. })));
    tree.memory.insert("c", "foreign");
    assert!(matches!(rename(tree.vfs(), "a", "c", true).await, Err(VfsError::Exists { .. })));
    assert_eq!(tree.memory.content("c").unwrap(), "foreign");
    assert_eq!(tree.memory.content("a").unwrap(), "a");
    rename(tree.vfs(), "a", "b", false).await.unwrap();
    assert_eq!(read_file(tree.vfs(), "b").await.unwrap(), b"a");
}

/// > A name that is being written can neither be renamed nor renamed onto: busy.
#[tokio::test]
async fn names_being_written_are_busy() {
    let tree = tree();
    write_file(tree.vfs(), "other", b"1").await.unwrap();
    mkdir(tree.vfs(), "d").await.unwrap();
    let (_, handle) = begin(tree.vfs(), "d/a", b"1").await;
    for (from, to) in [("d/a", "b"), ("other", "d/a"), ("d", "e")] {
        assert!(
            matches!(rename(tree.vfs(), from, to, false).await, Err(VfsError::Busy { .. })),
            "{from} {to}"
        );
    }
    // What was closed may be renamed at once, also before its RELEASE has come.
    tree.vfs().flush(handle, closer()).await.unwrap();
    rename(tree.vfs(), "d/a", "b", false).await.unwrap();
    tree.vfs().release(handle).await.unwrap();
    assert_eq!(read_file(tree.vfs(), "b").await.unwrap(), b"1");
    assert_eq!(tree.memory.content("d/a"), None);
}

fn under(policy: PolicyConfig) -> Plan {
    Plan { policies: vec![ALL, policy], ..Plan::default() }
}

/// > Without W in `authority` nothing can be changed.
#[tokio::test]
async fn a_reader_changes_nothing() {
    let tree = Tree::new(&under(PolicyConfig { authority: Authority { read: true, write: false }, ..ALL }));
    write_file(&tree.views[0], "a", b"1").await.unwrap();
    let vfs = &tree.views[1];
    let inode = stat(vfs, "a").await.unwrap().inode;
    let how = OpenHow { truncate: false, ..NEW };
    assert!(matches!(write_file(vfs, "a", b"2").await, Err(VfsError::ReadOnly)));
    assert!(matches!(write_file(vfs, "b", b"2").await, Err(VfsError::ReadOnly)));
    assert!(matches!(open(vfs, "a", how).await, Err(VfsError::ReadOnly)));
    assert!(matches!(unlink(vfs, "a").await, Err(VfsError::ReadOnly)));
    assert!(matches!(mkdir(vfs, "d").await, Err(VfsError::ReadOnly)));
    assert!(matches!(rmdir(vfs, "d").await, Err(VfsError::ReadOnly)));
    assert!(matches!(rename(vfs, "a", "b", false).await, Err(VfsError::ReadOnly)));
    let renamed = vfs.rename_paths(OsStr::new("a"), OsStr::new("b"), false, FRONT).await;
    assert!(matches!(renamed, Err(VfsError::ReadOnly)));
    assert!(matches!(truncate(vfs, inode, None, 0).await, Err(VfsError::ReadOnly)));
    assert!(matches!(vfs.setxattr(inode, OsStr::new("user.x"), b"1").await, Err(VfsError::ReadOnly)));
    assert_eq!(read_file(vfs, "a").await.unwrap(), b"1");
    assert_eq!(tree.memory.keys(), ["a"]);
}

/// > Without R in `authority` nothing can be listed or read, and files can still be stored.
#[tokio::test]
async fn a_writer_stores_and_sees_nothing() {
    let tree = Tree::new(&under(PolicyConfig { authority: Authority { read: false, write: true }, ..ALL }));
    let vfs = &tree.views[1];
    write_file(vfs, "a", b"1").await.unwrap();
    assert!(matches!(read_file(vfs, "a").await, Err(VfsError::WriteOnly)));
    assert!(matches!(list(vfs, "").await, Err(VfsError::WriteOnly)));
    let both = OpenHow { read: true, truncate: false, ..NEW };
    assert!(matches!(open(vfs, "a", both).await, Err(VfsError::WriteOnly)));
    assert_eq!(tree.memory.content("a").unwrap(), "1");
}

/// > `delete_enable = false` refuses to remove what is published and to rename onto it.
#[tokio::test]
async fn delete_enable_false_keeps_what_is_published() {
    let tree = Tree::new(&under(PolicyConfig { delete_enable: false, ..ALL }));
    let vfs = &tree.views[1];
    for path in ["a", "b"] {
        write_file(vfs, path, path.as_bytes()).await.unwrap();
    }
    mkdir(vfs, "d").await.unwrap();
    assert!(matches!(unlink(vfs, "a").await, Err(VfsError::DeleteDisabled { .. })));
    assert!(matches!(rmdir(vfs, "d").await, Err(VfsError::DeleteDisabled { .. })));
    assert!(matches!(rename(vfs, "a", "b", false).await, Err(VfsError::DeleteDisabled { .. })));
    let renamed = vfs.rename_paths(OsStr::new("a"), OsStr::new("b"), false, FRONT).await;
    assert!(matches!(renamed, Err(VfsError::DeleteDisabled { .. })));
    assert_eq!(tree.memory.keys(), ["a", "b", "d/"]);
    assert_eq!(tree.memory.content("b").unwrap(), "b");
}

/// > `delete_enable = false` still lets a file be overwritten by writing, renamed to a free name, and removed before it was ever published.
#[tokio::test]
async fn delete_enable_false_lets_work_go_on() {
    let tree = Tree::new(&under(PolicyConfig { delete_enable: false, ..ALL }));
    let vfs = &tree.views[1];
    write_file(vfs, "a", b"1").await.unwrap();
    write_file(vfs, "a", b"2").await.unwrap();
    rename(vfs, "a", "b", false).await.unwrap();
    assert_eq!(tree.memory.content("b").unwrap(), "2");
    let (_, handle) = begin(vfs, "temporary", b"1").await;
    unlink(vfs, "temporary").await.unwrap();
    close(vfs, handle).await.unwrap();
    assert_eq!(tree.memory.keys(), ["b"]);
}

/// > `overwrite_enable = false` lets no existing object be replaced, neither by writing nor by renaming.
#[tokio::test]
async fn overwrite_enable_false_replaces_nothing() {
    let tree = Tree::new(&under(PolicyConfig { overwrite_enable: false, ..ALL }));
    let vfs = &tree.views[1];
    write_file(vfs, "a", b"a").await.unwrap();
    write_file(vfs, "b", b"b").await.unwrap();
    assert!(matches!(write_file(vfs, "a", b"2").await, Err(VfsError::OverwriteDisabled { .. })));
    assert!(matches!(open(vfs, "a", NEW).await, Err(VfsError::OverwriteDisabled { .. })));
    let (inode, handle) = open(vfs, "a", OpenHow { truncate: false, ..NEW }).await.unwrap();
    assert!(matches!(truncate(vfs, inode, Some(handle), 0).await, Err(VfsError::OverwriteDisabled { .. })));
    close(vfs, handle).await.unwrap();
    let inode = inode_of(vfs, "a").await;
    assert!(matches!(truncate(vfs, inode, None, 0).await, Err(VfsError::OverwriteDisabled { .. })));
    assert!(matches!(rename(vfs, "a", "b", false).await, Err(VfsError::OverwriteDisabled { .. })));
    // Against another gateway the store itself refuses.
    let (_, handle) = begin(vfs, "c", b"ours").await;
    tree.memory.insert("c", "foreign");
    assert!(matches!(close(vfs, handle).await, Err(VfsError::Exists { .. })));
    for (path, bytes) in [("a", "a"), ("b", "b"), ("c", "foreign")] {
        assert_eq!(tree.memory.content(path).unwrap(), bytes);
    }
    // A file of one's own may be written on after an fsync of nothing.
    let (_, handle) = create(vfs, "d", NEW).await.unwrap();
    vfs.fsync(handle).await.unwrap();
    write(vfs, handle, 0, b"d").await.unwrap();
    close(vfs, handle).await.unwrap();
    assert_eq!(tree.memory.content("d").unwrap(), "d");
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn dated(seconds: u64) -> AttributeChange {
    AttributeChange { modified: Some(at(seconds)), mode: Some(0o600), ..AttributeChange::default() }
}

async fn inode_of(vfs: &Vfs, path: &str) -> InodeNo {
    let (parent, name) = walk(vfs, path).await.expect("the directory is there");
    vfs.lookup(parent, &name).await.expect("the name is there").attributes.inode
}

/// > Without `posix_metadata`, times and modes set before the first part of a file leaves are stored with the object, and set later have no effect.
#[tokio::test]
async fn without_posix_metadata_times_are_last_modified() {
    let tree = tree();
    let (entry, handle) = begin(tree.vfs(), "a", b"1").await;
    tree.vfs().setattr(entry.attributes.inode, None, dated(1000)).await.unwrap();
    close(tree.vfs(), handle).await.unwrap();
    let stored = tree.memory.meta("a").unwrap();
    assert_eq!(stored.metadata["mtime"], "1000");
    let seen = stat(tree.vfs(), "a").await.unwrap();
    assert_eq!(seen.mode, 0o644);
    assert!(seen.modified > at(1000));
    let inode = inode_of(tree.vfs(), "a").await;
    tree.vfs().setattr(inode, None, dated(2000)).await.unwrap();
    tree.vfs().stop(Duration::ZERO).await;
    assert_eq!(tree.memory.meta("a").unwrap(), stored);
}

/// > With `posix_metadata`, times, modes and `user.*` attributes are kept with the object and seen by another gateway.
#[tokio::test]
async fn with_posix_metadata_times_and_modes_are_kept() {
    let tree = Tree::new(&posix());
    let user = OsStr::new("user.project");
    let (entry, handle) = begin(tree.vfs(), "before", b"1").await;
    tree.vfs().setattr(entry.attributes.inode, Some(handle), dated(1000)).await.unwrap();
    tree.vfs().setxattr(entry.attributes.inode, user, b"\x00x").await.unwrap();
    close(tree.vfs(), handle).await.unwrap();
    assert_eq!(tree.store.calls(Operation::CopyObject), 0);
    write_file(tree.vfs(), "later", b"2").await.unwrap();
    tree.memory.change_meta("later", |meta| {
        meta.metadata.insert("author".to_owned(), "李".to_owned());
    });
    let inode = inode_of(tree.vfs(), "later").await;
    let shown = tree.vfs().setattr(inode, None, dated(1000)).await.unwrap();
    assert_eq!((shown.mode, shown.modified), (0o600, at(1000)));
    tree.vfs().setxattr(inode, user, b"\x00x").await.unwrap();
    mkdir(tree.vfs(), "d").await.unwrap();
    let directory = inode_of(tree.vfs(), "d").await;
    tree.vfs().setattr(directory, None, dated(1000)).await.unwrap();
    eventually("the copy onto itself", || tree.store.calls(Operation::CopyObject) == 1).await;
    eventually("the marker", || {
        tree.memory.meta("d/").is_some_and(|meta| meta.metadata.contains_key("mtime"))
    })
    .await;
    assert_eq!(tree.memory.meta("later").unwrap().metadata["author"], "李");
    let other = Tree::over(tree.memory.clone(), &posix());
    let names = list(other.vfs(), "").await.unwrap();
    for path in ["before", "later", "d"] {
        assert_eq!((names[path].mode, names[path].modified), (0o600, at(1000)), "{path}");
        let looked_up = stat(other.vfs(), path).await.unwrap();
        assert_eq!((looked_up.mode, looked_up.modified), (0o600, at(1000)), "{path}");
    }
    for path in ["before", "later"] {
        let inode = inode_of(other.vfs(), path).await;
        assert_eq!(other.vfs().getxattr(inode, user).await.unwrap(), "\x00x");
        assert_eq!(other.vfs().listxattr(inode).await.unwrap(), [user]);
        assert_eq!(read_file(other.vfs(), path).await.unwrap().len(), 1);
    }
    let crc64 =
        other.vfs().getxattr(inode_of(other.vfs(), "later").await, OsStr::new("user.cosgate.crc64")).await;
    assert_eq!(crc64.unwrap(), Crc64::of(b"2").to_string());
}

/// Programs that copy a tree set the times of a directory last, and may remove it at once.
#[tokio::test]
async fn a_directory_whose_times_were_set_stays_removed() {
    for is_under_way in [false, true] {
        let tree = Tree::new(&posix());
        mkdir(tree.vfs(), "d").await.unwrap();
        let gate = tree.store.block(Rule::on(Operation::PutObject));
        let inode = inode_of(tree.vfs(), "d").await;
        tree.vfs().setattr(inode, None, dated(1000)).await.unwrap();
        if is_under_way {
            eventually("the change", || tree.store.calls(Operation::PutObject) == 2).await;
            let opens = async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                gate.release();
            };
            tokio::join!(rmdir(tree.vfs(), "d"), opens).0.unwrap();
        } else {
            gate.release();
            rmdir(tree.vfs(), "d").await.unwrap();
        }
        tree.vfs().stop(Duration::ZERO).await;
        assert_eq!(tree.memory.keys(), [] as [&str; 0], "{is_under_way}");
    }
}

/// The same of a file, whose removal waits for nobody.
#[tokio::test]
async fn a_file_whose_times_were_set_stays_removed() {
    for renamed in [false, true] {
        let tree = Tree::new(&posix());
        mkdir(tree.vfs(), "d").await.unwrap();
        write_file(tree.vfs(), "d/f", b"1").await.unwrap();
        let gate = tree.store.block_answer(Rule::on(Operation::CopyObject));
        let inode = inode_of(tree.vfs(), "d/f").await;
        tree.vfs().setattr(inode, None, dated(1000)).await.unwrap();
        eventually("the change", || tree.store.calls(Operation::CopyObject) == 1).await;
        if renamed {
            rename(tree.vfs(), "d/f", "g", false).await.unwrap();
        } else {
            unlink(tree.vfs(), "d/f").await.unwrap();
        }
        gate.release();
        tree.vfs().stop(Duration::ZERO).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(matches!(stat(tree.vfs(), "d/f").await, Err(VfsError::NotFound { .. })), "{renamed}");
        assert!(list(tree.vfs(), "d").await.unwrap().is_empty(), "{renamed}");
    }
}

/// > Changes of metadata before a rename travel with the rename's own copy.
#[tokio::test]
async fn rename_takes_gathered_changes_along() {
    let tree = Tree::new(&posix());
    write_file(tree.vfs(), ".a.x7", b"1").await.unwrap();
    let inode = inode_of(tree.vfs(), ".a.x7").await;
    tree.vfs().setattr(inode, None, dated(1000)).await.unwrap();
    rename(tree.vfs(), ".a.x7", "a", false).await.unwrap();
    assert_eq!(tree.store.calls(Operation::CopyObject), 1);
    let seen = stat(tree.vfs(), "a").await.unwrap();
    assert_eq!((seen.mode, seen.modified), (0o600, at(1000)));
    tree.vfs().stop(Duration::ZERO).await;
    assert_eq!(tree.store.calls(Operation::CopyObject), 1);
    assert_eq!(tree.memory.meta("a").unwrap().metadata["mode"], "33152");
}

/// > Metadata of an object above 2 KB is refused.
#[tokio::test]
async fn metadata_has_a_bound() {
    let tree = Tree::new(&posix());
    write_file(tree.vfs(), "a", b"1").await.unwrap();
    let inode = inode_of(tree.vfs(), "a").await;
    let set = tree.vfs().setxattr(inode, OsStr::new("user.big"), &[7; 2000]).await;
    assert!(matches!(set, Err(VfsError::Invalid { .. })));
    assert!(matches!(tree.vfs().getxattr(inode, OsStr::new("user.big")).await, Err(VfsError::NoAttribute)));
    let acl = tree.vfs().setxattr(inode, OsStr::new("system.posix_acl_access"), &[0; 8]).await;
    assert!(matches!(acl, Err(VfsError::NotSupported { .. })));
}

/// > Small files stored into one directory cost one PUT each and one LIST per `attr_ttl`.
#[tokio::test]
async fn small_files_cost_a_put_each() {
    let tree = Tree::new(&Plan { attr_ttl: Duration::from_secs(60), ..Plan::default() });
    mkdir(tree.vfs(), "d").await.unwrap();
    let lists = tree.store.calls(Operation::ListObjects);
    for number in 0..200 {
        let path = format!("d/{number}");
        assert!(matches!(stat(tree.vfs(), &path).await, Err(VfsError::NotFound { .. })));
        write_file(tree.vfs(), &path, &content(1000)).await.unwrap();
        stat(tree.vfs(), &path).await.unwrap();
    }
    assert_eq!(tree.store.calls(Operation::PutObject), 201);
    assert_eq!(tree.store.calls(Operation::ListObjects), lists + 1);
    assert_eq!(tree.store.calls(Operation::HeadObject), 0);
    assert_eq!(list(tree.vfs(), "d").await.unwrap().len(), 200);
}

/// > A listed directory answers for its names for `attr_ttl`, absent ones too, without a request.
#[tokio::test]
async fn a_listing_answers_for_its_names() {
    let tree = Tree::new(&Plan { attr_ttl: Duration::from_secs(60), ..Plan::default() });
    for number in 0..2500 {
        tree.memory.insert(&format!("d/{number:04}"), "1");
    }
    assert_eq!(list(tree.vfs(), "d").await.unwrap().len(), 2500);
    let lists = tree.store.calls(Operation::ListObjects);
    for number in 0..2500 {
        stat(tree.vfs(), &format!("d/{number:04}")).await.unwrap();
        let absent = stat(tree.vfs(), &format!("d/{number:04}x")).await;
        assert!(matches!(absent, Err(VfsError::NotFound { .. })));
    }
    list(tree.vfs(), "d").await.unwrap();
    assert_eq!(tree.store.calls(Operation::ListObjects), lists);
    assert_eq!(tree.store.calls(Operation::HeadObject), 0);
}

/// A directory whose list there is no room for: what its names are has to be asked for.
fn crowded(names: usize) -> Tree {
    let tree =
        Tree::new(&Plan { attr_ttl: Duration::from_secs(60), memory_bytes: 1 << 20, ..Plan::default() });
    for number in 0..names {
        tree.memory.insert(&format!("d/{number:05}"), "1");
    }
    tree
}

/// > The first entries of a listing are there as soon as its first page is, and the next page is on its way meanwhile.
#[tokio::test]
async fn entries_come_page_by_page() {
    let tree = Tree::new(&Plan::default());
    for number in 0..3000 {
        tree.memory.insert(&format!("{number:05}"), "1");
    }
    let gate = tree.store.block(Rule::on(Operation::ListObjects).after(1));
    let handle = tree.vfs().opendir(ROOT).await.unwrap();
    let mut seen = Vec::new();
    let mut take = |line: &DirectoryEntry| {
        seen.push(line.name.clone());
        seen.len() < 188
    };
    let patience = Duration::from_secs(30);
    let read = tree.vfs().readdir(handle, 0, true, &mut take);
    tokio::time::timeout(patience, read).await.expect("the second page is not waited for").unwrap();
    assert_eq!(seen.len(), 188);
    tokio::time::timeout(patience, gate.reached_by(1)).await.expect("it has been asked for");
    gate.release();
    tree.vfs().releasedir(handle);
}

/// > The page behind a page is asked for while the entries of that one are still on their way.
#[tokio::test]
async fn the_next_page_is_not_kept_waiting() {
    let tree = Tree::new(&Plan::default());
    for number in 0..4000 {
        tree.memory.insert(&format!("{number:05}"), "1");
    }
    // What is foretold behind the first page does not come true: the second is asked for as it is.
    tree.store.inject(Rule::on(Operation::ListObjects), Fault::Foretell("03500".to_owned()));
    let gate = tree.store.block_answer(Rule::on(Operation::ListObjects).after(1));
    let all = list(tree.vfs(), "");
    let watch = async {
        gate.reached_by(1).await;
        while tree.store.calls(Operation::ListObjects) < 4 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        // No more than that, however long the second one takes.
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(tree.store.calls(Operation::ListObjects), 4);
        gate.release();
    };
    let both = async { tokio::join!(all, watch) };
    let (all, ()) = tokio::time::timeout(Duration::from_secs(30), both).await.expect("it is asked for");
    let wanted: Vec<String> = (0..4000).map(|number| format!("{number:05}")).collect();
    assert_eq!(all.unwrap().into_keys().collect::<Vec<_>>(), wanted);
    // Four pages, and the one that was foretold in vain.
    assert_eq!(tree.store.calls(Operation::ListObjects), 5);
}

/// > LIST, NLST and MLSD over FTP of a path that is not known ask for all directories on it at once.
#[tokio::test]
async fn a_path_is_listed_at_once() {
    let patience = Duration::from_secs(30);
    let tree = Tree::new(&Plan { attr_ttl: Duration::from_secs(60), ..Plan::default() });
    for number in 0..2500 {
        tree.memory.insert(&format!("a/b/c/{number:05}"), "1");
    }
    tree.memory.insert("a/file", "1");
    let ahead = |path: &str| tree.vfs().list_ahead(OsStr::new(path), FRONT);
    let lists = || tree.store.calls(Operation::ListObjects);
    let all = Rule::on(Operation::ListObjects).always();
    let gate = tree.store.block(all);
    ahead("a/b/c").unwrap();
    tokio::time::timeout(patience, gate.reached_by(4)).await.expect("all four at once");
    tree.store.heal();
    gate.release();
    assert_eq!(list(tree.vfs(), "a/b/c").await.unwrap().len(), 2500);
    // The root, a, b, and three pages: as many as without.
    assert_eq!(lists(), 6);
    // What is known needs no request, and what is not there, or is no directory, is not listed.
    for path in ["a/b/c", "a/b", "", "a/file", "a/file/x", "gone/x/y", "a//b", "../x", ".cosgate/x"] {
        ahead(path).unwrap();
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(lists(), 6);
    let stranger = Caller { uid: 4711, gid: 4711, process: None };
    let told = tree.vfs().list_ahead(OsStr::new("a"), stranger);
    assert!(matches!(told, Err(VfsError::NotTheFront)), "{told:?}");
}

/// Where nothing is remembered nothing is asked for beforehand, and of a long path no more than a few directories.
#[tokio::test]
async fn listing_ahead_has_bounds() {
    let tree = Tree::new(&Plan { attr_ttl: Duration::ZERO, ..Plan::default() });
    tree.vfs().list_ahead(OsStr::new("a/b"), FRONT).unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(tree.store.calls(Operation::ListObjects), 0);
    let tree = Tree::new(&Plan::default());
    let gate = tree.store.block(Rule::on(Operation::ListObjects).always());
    tree.vfs().list_ahead(OsStr::new(&"x/".repeat(300)), FRONT).unwrap();
    tokio::time::timeout(Duration::from_secs(30), gate.reached_by(8)).await.expect("they are asked for");
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(tree.store.calls(Operation::ListObjects), 8);
    gate.release();
}

/// Names of a list that is too large to be kept are looked up while it is read.
#[tokio::test]
async fn a_page_that_is_listed_answers_for_its_names() {
    let tree = crowded(5000);
    let inode = inode_of(tree.vfs(), "d").await;
    let handle = tree.vfs().opendir(inode).await.unwrap();
    let mut offset = 0;
    loop {
        let mut batch = Vec::new();
        let mut take = |line: &DirectoryEntry| {
            if batch.len() == 683 {
                return false;
            }
            batch.push((line.name.to_str().unwrap().to_owned(), line.next_offset));
            true
        };
        tree.vfs().readdir(handle, offset, false, &mut take).await.unwrap();
        let Some((_, last)) = batch.last() else { break };
        offset = *last;
        for (name, _) in batch.iter().filter(|(name, _)| !name.starts_with('.')) {
            stat(tree.vfs(), &format!("d/{name}")).await.unwrap();
        }
    }
    tree.vfs().releasedir(handle);
    assert_eq!(tree.store.calls(Operation::HeadObject), 0);
    // Of the root, and five pages.
    assert_eq!(tree.store.calls(Operation::ListObjects), 6);
    tree.vfs().forget(inode, 1);
}

/// > However long a listing takes, each entry is trusted for `attr_ttl` from when its own page was asked for.
#[tokio::test]
async fn a_page_is_as_fresh_as_itself() {
    let attr_ttl = Duration::from_secs(1);
    let tree = Tree::new(&Plan { attr_ttl, ..Plan::default() });
    for number in 0..3000 {
        tree.memory.insert(&format!("{number:05}"), "1");
    }
    let handle = tree.vfs().opendir(ROOT).await.unwrap();
    let (mut offset, mut last) = (0, Duration::ZERO);
    let mut seen = 0;
    // The third page is asked for when the second one is begun: long after the listing was.
    for (names, pause) in [(500, attr_ttl * 2), (2500, attr_ttl * 2), (3002, Duration::ZERO)] {
        let (from, begun) = (offset, Instant::now());
        let mut take = |line: &DirectoryEntry| {
            if seen == names {
                return false;
            }
            (offset, last) = (line.next_offset, line.entry.entry_ttl);
            seen += 1;
            true
        };
        tree.vfs().readdir(handle, from, false, &mut take).await.unwrap();
        if names == 2500 {
            assert!(!last.is_zero() || begun.elapsed() >= attr_ttl, "of the third page, just asked for");
        }
        tokio::time::sleep(pause).await;
    }
    assert!(last.is_zero(), "what was asked for before the last pause is old");
    tree.vfs().releasedir(handle);
}

/// > Names that are asked for in order, in a directory of more than a page, cost one LIST per thousand names once they are four.
#[tokio::test]
async fn names_in_order_are_listed_ahead() {
    let tree = crowded(2500);
    for number in 0..2500 {
        assert_eq!(stat(tree.vfs(), &format!("d/{number:05}")).await.unwrap().bytes, 1);
        let absent = stat(tree.vfs(), &format!("d/{number:05}x")).await;
        assert!(matches!(absent, Err(VfsError::NotFound { .. })));
    }
    assert!(tree.store.calls(Operation::HeadObject) <= 3);
    // Of the root, of the first page, one beside each HEAD, and the three thousands.
    assert!(tree.store.calls(Operation::ListObjects) <= 8, "{}", tree.store.calls(Operation::ListObjects));
    // Own changes win over what was listed ahead.
    unlink(tree.vfs(), "d/02400").await.unwrap();
    write_file(tree.vfs(), "d/02400-", b"new").await.unwrap();
    assert!(matches!(stat(tree.vfs(), "d/02400").await, Err(VfsError::NotFound { .. })));
    assert_eq!(stat(tree.vfs(), "d/02400-").await.unwrap().bytes, 3);
}

/// > However many ask for one name at a time, the store is asked once.
#[tokio::test]
async fn one_name_is_looked_for_once() {
    let at_once = async |tree: &Tree, path: &'static str| {
        let calls = tree.store.calls_in_all();
        let tasks: Vec<_> = (0..100)
            .map(|_| {
                let vfs = tree.vfs().clone();
                tokio::spawn(async move { stat(&vfs, path).await.is_ok() })
            })
            .collect();
        let mut found = 0;
        for task in tasks {
            found += u32::from(task.await.unwrap());
        }
        (found, tree.store.calls_in_all() - calls)
    };
    let small = Tree::new(&Plan { attr_ttl: Duration::from_secs(60), ..Plan::default() });
    small.memory.insert("d/a", "1");
    stat(small.vfs(), "d").await.unwrap();
    assert_eq!(at_once(&small, "d/absent").await, (0, 1), "a LIST of the page");
    assert_eq!(at_once(&small, "d/a").await, (100, 0), "which has told of all names");
    let large = crowded(2500);
    stat(large.vfs(), "d/00000").await.unwrap();
    assert_eq!(at_once(&large, "d/02000").await, (100, 2), "HEAD, and a LIST of what would be below");
    assert_eq!(at_once(&large, "d/01999x").await, (0, 2));
}

/// > Files removed in order cost one DELETE each and one LIST per thousand, also where the directory has no marker.
#[tokio::test]
async fn files_removed_in_order_cost_a_delete_each() {
    let tree = crowded(2500);
    for number in 0..2500 {
        unlink(tree.vfs(), &format!("d/{number:05}")).await.unwrap();
    }
    assert_eq!(tree.store.calls(Operation::DeleteObject), 2500);
    assert!(tree.store.calls(Operation::HeadObject) <= 3);
    // Of the root, of the first page, two for each name before the walk began, the three thousands, and
    // the end, where only the store can tell whether another one is left.
    let lists = tree.store.calls(Operation::ListObjects);
    assert!(lists <= 80, "{lists}");
    assert_eq!(tree.memory.keys(), ["d/"], "the directory stays");
}

/// > A directory's rename costs one COPY for each object, and one LIST and one multiple DELETE more per thousand.
#[tokio::test]
async fn a_directory_is_renamed_by_a_copy_each() {
    let tree = Tree::new(&Plan::default());
    for number in 0..1500 {
        tree.memory.insert(&format!("d/{number:05}"), "1");
    }
    stat(tree.vfs(), "d").await.unwrap();
    let calls = |operation| tree.store.calls(operation);
    let lists = calls(Operation::ListObjects);
    rename(tree.vfs(), "d", "e", false).await.unwrap();
    assert_eq!((calls(Operation::CopyObject), calls(Operation::HeadObject)), (1500, 0));
    assert_eq!((calls(Operation::DeleteObjects), calls(Operation::PutObject)), (2, 1));
    assert_eq!(calls(Operation::ListObjects) - lists, 4);
    assert_eq!(tree.memory.keys().len(), 1501, "all of it, and the marker");
}

/// A list that lags tells of a version that is not there any more.
#[tokio::test]
async fn a_lagging_list_does_not_break_a_rename() {
    let tree = Tree::new(&restless());
    let other = Tree::over(tree.memory.clone(), &restless());
    tree.memory.insert("d/a", "1");
    tree.memory.insert("d/b", "1");
    tree.memory.lists_lag();
    write_file(other.vfs(), "d/a", b"other").await.unwrap();
    unlink(other.vfs(), "d/b").await.unwrap();
    let renamed = rename(tree.vfs(), "d", "e", false).await;
    assert!(matches!(renamed, Err(VfsError::ReplacedMeanwhile { .. })), "{renamed:?}");
    assert_eq!(tree.memory.content("e/a").unwrap(), "other");
    assert_eq!(tree.memory.content("d/a").unwrap(), "other", "what the list does not tell of stays");
    assert_eq!(tree.memory.content("e/b"), None);
}

/// > What another gateway changed is seen after `attr_ttl`.
#[tokio::test]
async fn foreign_changes_are_seen() {
    let tree = Tree::new(&restless());
    let other = Tree::over(tree.memory.clone(), &restless());
    write_file(tree.vfs(), "a", b"1").await.unwrap();
    write_file(tree.vfs(), "b", b"1").await.unwrap();
    assert_eq!(read_file(other.vfs(), "a").await.unwrap(), b"1");
    tree.memory.change_meta("a", |meta| meta.last_modified -= Duration::from_secs(100));
    let tree = Tree::over(tree.memory.clone(), &restless());
    assert_eq!(stat(tree.vfs(), "a").await.unwrap().bytes, 1);
    write_file(other.vfs(), "a", b"other").await.unwrap();
    unlink(other.vfs(), "b").await.unwrap();
    assert_eq!(stat(tree.vfs(), "a").await.unwrap().bytes, 5);
    assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), b"other");
    assert!(matches!(stat(tree.vfs(), "b").await, Err(VfsError::NotFound { .. })));
    assert_eq!(list(tree.vfs(), "").await.unwrap().into_keys().collect::<Vec<_>>(), ["a"]);
}

/// > Own changes are seen at once, also where the store's lists lag behind.
#[tokio::test]
async fn lagging_lists_hide_no_own_change() {
    let tree = Tree::new(&restless());
    write_file(tree.vfs(), "old", b"1").await.unwrap();
    write_file(tree.vfs(), "d/x", b"1").await.unwrap_err();
    mkdir(tree.vfs(), "d").await.unwrap();
    write_file(tree.vfs(), "d/x", b"1").await.unwrap();
    tree.memory.lists_lag();
    write_file(tree.vfs(), "new", b"22").await.unwrap();
    unlink(tree.vfs(), "old").await.unwrap();
    unlink(tree.vfs(), "d/x").await.unwrap();
    rmdir(tree.vfs(), "d").await.unwrap();
    mkdir(tree.vfs(), "e").await.unwrap();
    let names = list(tree.vfs(), "").await.unwrap();
    assert_eq!(names.keys().collect::<Vec<_>>(), ["e", "new"]);
    assert_eq!(names["new"].bytes, 2);
    assert!(matches!(stat(tree.vfs(), "d").await, Err(VfsError::NotFound { .. })));
    rename(tree.vfs(), "new", "e/new", false).await.unwrap();
    rename(tree.vfs(), "e", "f", false).await.unwrap();
    tree.memory.lists_catch_up();
    assert_eq!(tree.memory.keys(), ["f/", "f/new"]);
}

/// > A listing asks for one page per thousand names, and for nothing else without `posix_metadata`.
#[tokio::test]
async fn a_listing_is_a_page_per_thousand_names() {
    let tree = tree();
    for number in 0..10_000 {
        tree.memory.insert(&format!("d/{number:05}"), "1");
    }
    let inode = inode_of(tree.vfs(), "d").await;
    let lists = tree.store.calls(Operation::ListObjects);
    assert_eq!(list(tree.vfs(), "d").await.unwrap().len(), 10_000);
    assert_eq!(tree.store.calls(Operation::ListObjects) - lists, 10);
    assert_eq!(tree.store.calls(Operation::HeadObject), 0);
    tree.vfs().forget(inode, 1);
}

/// > Offsets of a directory stay valid as long as it is open.
#[tokio::test]
async fn offsets_stay_valid() {
    // Once remembered as a whole, once with room for the current page alone.
    for memory_bytes in [64 << 20, 1 << 20] {
        let tree = Tree::new(&Plan { memory_bytes, ..Plan::default() });
        for number in 0..3500 {
            tree.memory.insert(&format!("{number:05}"), "1");
        }
        write_file(tree.vfs(), "01000-own", b"1").await.unwrap();
        let handle = tree.vfs().opendir(ROOT).await.unwrap();
        let mut offsets = Vec::new();
        let mut offset = 0;
        loop {
            let mut last = None;
            tree.vfs()
                .readdir(handle, offset, false, &mut |entry| {
                    offsets.push((offset, entry.name.clone()));
                    offset = entry.next_offset;
                    last = Some(());
                    true
                })
                .await
                .unwrap();
            if last.is_none() {
                break;
            }
        }
        assert_eq!(offsets.len(), 3503);
        assert_eq!(offsets.iter().map(|(offset, _)| offset).collect::<BTreeSet<_>>().len(), 3503);
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..50 {
            let (offset, name) = random.choice(&offsets).unwrap();
            let mut first = None;
            tree.vfs()
                .readdir(handle, *offset, false, &mut |entry| {
                    first.get_or_insert_with(|| entry.name.clone());
                    false
                })
                .await
                .unwrap();
            assert_eq!(first.as_ref(), Some(name));
        }
        tree.vfs().releasedir(handle);
    }
}

/// > While one publication takes long, other names in its directory are listed, made, removed and stored at once.
#[tokio::test]
async fn a_slow_publication_holds_up_nobody() {
    let tree = tree();
    write_file(tree.vfs(), "old", b"1").await.unwrap();
    let gate = tree.store.block(Rule::on(Operation::PutObject).of_key("slow"));
    let (_, handle) = begin(tree.vfs(), "slow", b"slow").await;
    let vfs = tree.vfs().clone();
    let closing = tokio::spawn(async move { close(&vfs, handle).await });
    gate.reached_by(1).await;
    let others = async {
        list(tree.vfs(), "").await.unwrap();
        write_file(tree.vfs(), "other", b"1").await.unwrap();
        mkdir(tree.vfs(), "d").await.unwrap();
        rename(tree.vfs(), "other", "d/other", false).await.unwrap();
        unlink(tree.vfs(), "old").await.unwrap();
        // Even the name itself: its publication leaves nothing behind then.
        unlink(tree.vfs(), "slow").await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(1), others).await.unwrap();
    gate.release();
    closing.await.unwrap().unwrap();
    eventually("the end of what was unlinked", || tree.memory.keys() == ["d/", "d/other"]).await;
}

/// > Users of one bucket under different policies see each other's changes at once.
#[tokio::test]
async fn views_are_told_of_each_others_changes() {
    let tree = Tree::new(&under(PolicyConfig { delete_enable: false, ..ALL }));
    let told: Arc<Mutex<Vec<(usize, Notice)>>> = Arc::default();
    for (view, vfs) in tree.views.iter().enumerate() {
        let told = told.clone();
        vfs.attach(Arc::new(move |notice| {
            told.lock().push((view, notice));
            async {}.boxed()
        }));
    }
    let entry = |name: &str| Notice::Entry { parent: ROOT, name: name.into() };
    let is_told = |view: usize, notice: &Notice| told.lock().contains(&(view, notice.clone()));
    assert!(matches!(stat(&tree.views[1], "a").await, Err(VfsError::NotFound { .. })));
    write_file(&tree.views[0], "a", b"1").await.unwrap();
    eventually("a notice of the new name", || is_told(1, &entry("a"))).await;
    assert_eq!(stat(&tree.views[1], "a").await.unwrap().bytes, 1);
    assert!(told.lock().iter().all(|(view, _)| *view == 1), "the own kernel knows what it did");
    told.lock().clear();
    // Truncation in OPEN: the own kernel forgets the name before it hears of the handle.
    let held = inode_of(&tree.views[0], "a").await;
    let (_, handle) = open(&tree.views[0], "a", NEW).await.unwrap();
    assert!(is_told(0, &entry("a")) && is_told(1, &entry("a")));
    let shown = inode_of(&tree.views[0], "a").await;
    assert_ne!(shown, held);
    write(&tree.views[0], handle, 0, b"22").await.unwrap();
    close(&tree.views[0], handle).await.unwrap();
    for view in 0..2 {
        eventually("a notice of the new size", || is_told(view, &Notice::Inode { inode: shown })).await;
        assert_eq!(stat(&tree.views[view], "a").await.unwrap().bytes, 2);
    }
    told.lock().clear();
    tree.views[0].rename_paths(OsStr::new("a"), OsStr::new("b"), false, FRONT).await.unwrap();
    for view in 0..2 {
        assert!(is_told(view, &entry("a")) && is_told(view, &entry("b")), "before the reply");
    }
    unlink(&tree.views[0], "b").await.unwrap();
    eventually("a notice of the removal", || is_told(1, &entry("b"))).await;
    assert!(matches!(stat(&tree.views[1], "b").await, Err(VfsError::NotFound { .. })));
}

/// > A directory of any size is listed within the memory limit, a page at a time.
#[tokio::test]
async fn large_directories_need_little_memory() {
    let tree = Tree::new(&Plan { memory_bytes: 8 << 20, ..Plan::default() });
    let names = 60_000_usize;
    for number in 0..names {
        tree.memory.insert(&format!("{number:06}"), "1");
    }
    let handle = tree.vfs().opendir(ROOT).await.unwrap();
    let (mut offset_of_last, mut seen, mut calls) = (0, 0, 0);
    loop {
        let before = seen;
        let (from, mut room) = (offset_of_last, 683);
        let mut take = |entry: &DirectoryEntry| {
            room -= 1;
            if room < 0 {
                return false;
            }
            offset_of_last = entry.next_offset;
            seen += 1;
            true
        };
        tree.vfs().readdir(handle, from, false, &mut take).await.unwrap();
        calls += 1;
        if seen == before {
            break;
        }
        assert!(tree.writers.budget().used_bytes() <= 1 << 20, "after {seen}");
    }
    tree.vfs().releasedir(handle);
    assert_eq!(seen, names + 2);
    assert!(calls > names / 683);
    assert_eq!(tree.store.calls(Operation::ListObjects), 60);
}

/// > Memory that reading ahead has taken yields to whoever writes.
#[tokio::test]
async fn reading_ahead_yields_to_writers() {
    let tree = Tree::new(&Plan { memory_bytes: 16 << 20, ..Plan::default() });
    let bytes = content(40 << 20);
    tree.memory.insert("read", bytes.clone());
    let (_, handle) = open(tree.vfs(), "read", READ).await.unwrap();
    for offset in 0..8 {
        tree.vfs().read(handle, offset << 20, 1 << 20).await.unwrap();
    }
    let written =
        tokio::time::timeout(Duration::from_secs(20), write_file(tree.vfs(), "written", &bytes[..30 << 20]));
    written.await.expect("memory comes back").unwrap();
    assert_eq!(read_all(tree.vfs(), handle, 1 << 20).await.unwrap(), bytes);
    tree.vfs().release(handle).await.unwrap();
    let budget = tree.writers.budget();
    assert!(budget.used_bytes_most() <= budget.bytes() + budget.slack_bytes() + (2 << 20));
}

/// The document and the tests say the same.
#[test]
fn every_promise_has_a_test_that_quotes_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/SEMANTICS.md")).unwrap();
    let promises: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("- ")).collect();
    assert!(promises.len() > 40);
    let mut quotes = BTreeSet::new();
    for entry in fs::read_dir(root.join("tests")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let source = fs::read_to_string(path).unwrap();
            quotes.extend(source.lines().filter_map(|line| line.strip_prefix("/// > ")).map(str::to_owned));
        }
    }
    for promise in &promises {
        assert!(quotes.contains(*promise), "no test quotes: {promise}");
    }
    for quote in quotes {
        assert!(promises.contains(&quote.as_str()), "docs/SEMANTICS.md does not say: {quote}");
    }
}

/// Whoever has the file open for reading keeps what it has, and knows whose ETag it reads.
#[tokio::test]
async fn the_etag_of_a_file_is_told() {
    let tree = tree();
    let etag: ETag = tree.memory.insert("a", "1");
    let inode = inode_of(tree.vfs(), "a").await;
    let told = tree.vfs().getxattr(inode, OsStr::new("user.cosgate.etag")).await.unwrap();
    assert_eq!(told, etag.as_str().as_bytes());
    let other = tree.vfs().getxattr(inode, OsStr::new("user.other")).await;
    assert!(matches!(other, Err(VfsError::NoAttribute)));
    // ls(1) asks for these once, and for no other file of the mount once it has heard that there are none.
    for name in ["security.selinux", "system.posix_acl_access"] {
        let told = tree.vfs().getxattr(inode, OsStr::new(name)).await;
        assert!(matches!(told, Err(VfsError::NotSupported { .. })), "{told:?}");
    }
}
