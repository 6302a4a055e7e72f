//! How fresh the answers are.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    sync::Arc,
    time::{Duration, Instant},
};

use cosgate::{
    config::PolicyConfig,
    vfs::{DirectoryEntry, Notice, VfsError},
};
use futures_util::FutureExt;
use parking_lot::Mutex;

use crate::{
    close, eventually, inode_of, restless,
    tree::{
        ALL, FRONT, NEW, Plan, ROOT, Tree, list, mkdir, open, read_file, rename, rmdir, stat, unlink, write,
        write_file,
    },
    under,
};

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
