//! Names: which there are, and what removes and renames them.

use std::ffi::OsStr;

use cosgate::{
    cos::{Fault, Operation, Reason, Rule},
    vfs::VfsError,
};

use crate::{
    begin, close, restless, tree,
    tree::{
        ME, NEW, Plan, ROOT, Tree, closer, create, is_directory, list, mkdir, read_file, rename, rmdir, stat,
        unlink, write_file,
    },
};

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
