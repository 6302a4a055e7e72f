//! What readers and listings keep in memory.

use std::time::Duration;

use cosgate::{cos::Operation, vfs::DirectoryEntry};

use crate::{
    close, content,
    tree::{NEW, Plan, READ, ROOT, Tree, open, read_all, write, write_file},
};

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

/// > What is known of a file is forgotten once neither the kernel nor anybody who has it open holds it.
#[tokio::test]
async fn files_that_were_begun_anew_are_forgotten() {
    let tree = Tree::new(&Plan::default());
    let names: Vec<String> = (0..100).map(|number| number.to_string()).collect();
    for name in &names {
        tree.memory.insert(name, "before");
    }
    for name in &names {
        let (_, handle) = open(tree.vfs(), name, NEW).await.unwrap();
        write(tree.vfs(), handle, 0, b"after").await.unwrap();
        close(tree.vfs(), handle).await.unwrap();
        assert_eq!(tree.memory.content(name).unwrap(), "after");
    }
    assert!(format!("{:?}", tree.vfs()).contains("live: 1 "), "inodes that nobody holds are kept");
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
