//! Times, modes, attributes.

use std::{
    ffi::OsStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cosgate::{
    cos::{Crc64, ETag, Operation, Rule},
    vfs::{AttributeChange, VfsError},
};

use crate::{
    begin, close, eventually, inode_of, tree,
    tree::{Plan, Tree, list, mkdir, read_file, rename, rmdir, stat, unlink, write_file},
};

fn posix() -> Plan {
    Plan { posix_metadata: true, ..Plan::default() }
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn dated(seconds: u64) -> AttributeChange {
    AttributeChange { modified: Some(at(seconds)), mode: Some(0o600), ..AttributeChange::default() }
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
