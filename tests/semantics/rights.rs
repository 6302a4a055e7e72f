//! Who may do what.

use std::ffi::OsStr;

use cosgate::{
    config::{Authority, PolicyConfig},
    vfs::{OpenHow, VfsError},
};

use crate::{
    begin, close, inode_of,
    tree::{
        ALL, FRONT, NEW, Tree, create, list, mkdir, open, read_file, rename, rmdir, stat, truncate, unlink,
        write, write_file,
    },
    under,
};

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
