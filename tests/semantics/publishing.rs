//! When a file becomes an object.

use std::{ffi::OsStr, time::Duration};

use cosgate::{
    cos::{Fault, Operation, Reason, Rule},
    vfs::{Caller, Closer, OpenHow, VfsError},
};

use crate::{
    begin, close, content, eventually, tree,
    tree::{
        FRONT, FRONT_UID, ME, NEW, closer, create, list, mkdir, open, read_file, rename, stat, unlink, write,
        write_file,
    },
};

const TRANSIENT: Operation = Operation::PutObject;

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
