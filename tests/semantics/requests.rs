//! What is asked: how many requests an operation costs.

use std::{ffi::OsStr, time::Duration};

use cosgate::{
    cos::{Fault, Operation, Rule},
    vfs::{Caller, DirectoryEntry, VfsError},
};

use crate::{
    content, inode_of, tree,
    tree::{FRONT, Plan, ROOT, Tree, list, mkdir, rename, stat, unlink, write_file},
};

/// A directory whose list there is no room for: what its names are has to be asked for.
fn crowded(names: usize) -> Tree {
    let tree =
        Tree::new(&Plan { attr_ttl: Duration::from_secs(60), memory_bytes: 1 << 20, ..Plan::default() });
    for number in 0..names {
        tree.memory.insert(&format!("d/{number:05}"), "1");
    }
    tree
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
