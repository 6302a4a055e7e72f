//! Scenarios with dice: each with many seeds.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use cosgate::vfs::{OpenHow, Vfs, VfsError};

use crate::{
    EXCLUSIVE, READ_APPEND, Run, close, join, open, run_all,
    tree::{
        APPEND, FRONT, ME, NEW, READ, READ_WRITE, closer, list, mkdir, read_all, read_file, rename, rmdir,
        stat, truncate, unlink, write_file,
    },
};

/// Pieces that tell who wrote them.
const PIECE: usize = 4;

fn piece(writer: usize, number: usize) -> Vec<u8> {
    format!("{writer:x}{number:02x}.").into_bytes()
}

#[test]
fn who_appends_reads_and_looks_at_once_loses_nothing_and_hears_of_no_error() {
    const WRITERS: usize = 4;
    const TURNS: usize = 4;
    run_all(|_, run| async move {
        let names = ["a", "b"];
        let mut tasks = Vec::new();
        for writer in 0..WRITERS {
            let run = run.clone();
            tasks.push(tokio::spawn(async move {
                for turn in 0..TURNS {
                    for name in names {
                        let vfs = run.vfs();
                        let how = run.one(&[APPEND, APPEND, READ_APPEND]);
                        let (_, handle) = open(vfs, name, how, ME).await.expect("open to append");
                        run.pause().await;
                        let piece = piece(writer, turn);
                        run.write(vfs, handle, 0, piece.clone(), how).await.expect("append");
                        if run.below(4) == 0 {
                            vfs.fsync(handle).await.expect("fsync");
                        }
                        if how.read {
                            let read = read_all(vfs, handle, 100_000).await.expect("read what was appended");
                            assert!(read.chunks(PIECE).any(|chunk| chunk == piece), "own piece is read");
                        }
                        close(vfs, handle).await.expect("close");
                        let shown = stat(vfs, name).await.expect("stat of what was published");
                        assert!(shown.bytes >= ((turn + 1) * PIECE) as u64);
                        let content = run.tree.memory.content(name).expect("an object");
                        assert!(content.chunks(PIECE).any(|chunk| chunk == piece), "published by its close");
                    }
                }
            }));
        }
        for _ in 0..2 {
            let run = run.clone();
            tasks.push(tokio::spawn(async move {
                for _ in 0..20 {
                    let (vfs, name) = (run.vfs(), run.one(&names));
                    run.pause().await;
                    match run.below(3) {
                        0 => match stat(vfs, name).await {
                            Ok(shown) => assert_eq!(shown.bytes % PIECE as u64, 0),
                            Err(VfsError::NotFound { .. }) => {}
                            Err(error) => panic!("stat: {error}"),
                        },
                        1 => {
                            list(vfs, "").await.expect("list");
                        }
                        _ => {
                            let caller = run.one(&[ME, FRONT]);
                            let (_, handle) = match open(vfs, name, READ, caller).await {
                                Ok(opened) => opened,
                                // New, and not an object yet.
                                Err(VfsError::NotFound { .. } | VfsError::Busy { .. }) => continue,
                                Err(error) => panic!("open to read: {error}"),
                            };
                            match read_all(vfs, handle, 100_000).await {
                                Ok(read) => assert_eq!(read.len() % PIECE, 0, "whole pieces"),
                                Err(VfsError::ReplacedMeanwhile { .. }) => {}
                                Err(error) => panic!("read: {error}"),
                            }
                            vfs.release(handle).await.expect("release");
                        }
                    }
                }
            }));
        }
        join(tasks).await;
        for name in names {
            let content = run.tree.memory.content(name).expect("an object");
            let found: BTreeSet<&[u8]> = content.chunks(PIECE).collect();
            assert_eq!(content.len(), WRITERS * TURNS * PIECE, "{name}: {content:?}");
            assert_eq!(found.len(), WRITERS * TURNS, "{name}: {content:?}");
        }
    });
}

#[test]
fn who_creates_with_excl_is_the_only_one() {
    run_all(|_, run| async move {
        let names = ["a", "b", "c"];
        let won: Arc<[AtomicUsize; 3]> = Arc::default();
        let mut tasks = Vec::new();
        for writer in 0..4 {
            let (run, won) = (run.clone(), won.clone());
            tasks.push(tokio::spawn(async move {
                for (number, name) in names.into_iter().enumerate() {
                    run.pause().await;
                    let vfs = run.vfs();
                    let how = run.one(&[EXCLUSIVE, OpenHow { read: true, ..EXCLUSIVE }]);
                    match open(vfs, name, how, ME).await {
                        Ok((_, handle)) => {
                            won[number].fetch_add(1, Ordering::SeqCst);
                            run.pause().await;
                            run.write(vfs, handle, 0, piece(writer, 0), how).await.expect("write");
                            close(vfs, handle).await.expect("close");
                        }
                        Err(VfsError::Exists { .. }) => {}
                        Err(error) => panic!("create: {error}"),
                    }
                }
            }));
        }
        join(tasks).await;
        for (number, name) in names.into_iter().enumerate() {
            assert_eq!(won[number].load(Ordering::SeqCst), 1, "{name}");
            assert_eq!(run.tree.memory.content(name).expect("an object").len(), PIECE);
        }
    });
}

/// A content that tells whether it is whole.
fn whole(writer: usize, turn: usize, bytes: usize) -> Vec<u8> {
    let mut content = format!("{writer:x}{turn:02x} {bytes:08}\n").into_bytes();
    let byte = u8::try_from(writer * 16 + turn).expect("few of both");
    content.resize(bytes.max(content.len()), byte);
    content
}

fn is_whole(content: &[u8]) -> bool {
    let Some((head, rest)) = content.split_at_checked(13) else { return false };
    let Ok(head) = std::str::from_utf8(head) else { return false };
    let number = |from: usize, to: usize, radix| usize::from_str_radix(&head[from..to], radix).unwrap_or(99);
    let byte = u8::try_from(number(0, 1, 16) * 16 + number(1, 3, 16)).unwrap_or(0);
    head[4..12].parse() == Ok(content.len()) && rest.iter().all(|other| *other == byte)
}

#[test]
fn of_those_who_write_a_whole_file_each_is_whole() {
    const SIZES: [usize; 4] = [13, 400, 70_000, 2_500_000];
    run_all(|_, run| async move {
        let names = ["a", "b"];
        if run.below(2) == 0 {
            write_file(run.vfs(), "a", &whole(15, 0, 4000)).await.expect("the first");
        }
        let mut tasks = Vec::new();
        for writer in 0..4 {
            let run = run.clone();
            tasks.push(tokio::spawn(async move {
                for turn in 0..4 {
                    run.pause().await;
                    let (vfs, name) = (run.vfs(), run.one(&names));
                    let bytes = run.one(&SIZES[..if turn == 3 { 4 } else { 3 }]);
                    let content = whole(writer, turn, bytes);
                    let is_front = run.below(3) == 0;
                    let caller = if is_front { FRONT } else { ME };
                    let (_, handle) = open(vfs, name, NEW, caller).await.expect("open to write");
                    if is_front {
                        vfs.arm(handle, FRONT).expect("arm");
                    }
                    let commits = run.below(3) > 0;
                    let written = if commits { content.len() } else { run.below(content.len()) };
                    let step = run.one(&[content.len(), content.len() / 2 + 1, 1 << 20]);
                    for (number, piece) in content[..written].chunks(step).enumerate() {
                        run.write(vfs, handle, (number * step) as u64, piece.to_vec(), NEW)
                            .await
                            .expect("write");
                        run.pause().await;
                    }
                    match (is_front, commits) {
                        (true, true) => {
                            if run.below(2) == 0 {
                                vfs.prepare(handle, FRONT).await.expect("prepare");
                            }
                            vfs.commit(handle, written as u64, FRONT).await.expect("commit");
                            vfs.flush(handle, closer()).await.expect("flush");
                        }
                        (true, false) => vfs.flush(handle, closer()).await.expect("flush"),
                        (false, true) => {
                            if run.below(3) == 0 {
                                vfs.fsync(handle).await.expect("fsync");
                            }
                            vfs.flush(handle, closer()).await.expect("flush");
                        }
                        (false, false) => {
                            let killed = cosgate::vfs::Closer { killed: true, ..closer() };
                            vfs.flush(handle, killed).await.expect("flush of one who was killed");
                        }
                    }
                    run.pause().await;
                    vfs.release(handle).await.expect("release");
                }
            }));
        }
        for _ in 0..2 {
            let run = run.clone();
            tasks.push(tokio::spawn(async move {
                for _ in 0..15 {
                    run.pause().await;
                    let (vfs, name) = (run.vfs(), run.one(&names));
                    let (_, handle) = match open(vfs, name, READ, run.one(&[ME, FRONT])).await {
                        Ok(opened) => opened,
                        Err(VfsError::NotFound { .. } | VfsError::Busy { .. }) => continue,
                        Err(error) => panic!("open to read: {error}"),
                    };
                    run.pause().await;
                    match read_all(vfs, handle, 50_000).await {
                        Ok(read) => {
                            assert!(is_whole(&read), "{name}: read {} bytes of a mixture", read.len())
                        }
                        Err(VfsError::ReplacedMeanwhile { .. }) => {}
                        // Its writer has just given it up.
                        Err(VfsError::NotFound { .. }) => {}
                        Err(error) => panic!("read: {error}"),
                    }
                    vfs.release(handle).await.expect("release");
                }
            }));
        }
        join(tasks).await;
        for name in names {
            let content = run.tree.memory.content(name);
            assert!(content.is_none_or(|content| is_whole(&content)), "{name} is a mixture");
        }
    });
}

#[test]
fn who_writes_a_record_each_in_place_finds_all_of_them() {
    const WRITERS: usize = 4;
    const TURNS: usize = 4;
    run_all(|_, run| async move {
        write_file(run.vfs(), "a", &[b'.'; WRITERS * PIECE]).await.expect("the first");
        let mut tasks = Vec::new();
        for writer in 0..WRITERS {
            let run = run.clone();
            tasks.push(tokio::spawn(async move {
                for turn in 0..TURNS {
                    run.pause().await;
                    let vfs = run.vfs();
                    let how = run.one(&[READ_WRITE, READ_WRITE, OpenHow { read: false, ..READ_WRITE }]);
                    let (inode, handle) = open(vfs, "a", how, ME).await.expect("open to write");
                    let (place, piece) = (writer * PIECE, piece(writer, turn));
                    run.write(vfs, handle, place as u64, piece.clone(), how).await.expect("write in place");
                    match run.below(4) {
                        0 => vfs.fsync(handle).await.expect("fsync"),
                        1 => {
                            truncate(vfs, inode, Some(handle), (WRITERS * PIECE) as u64)
                                .await
                                .expect("truncate");
                        }
                        _ => run.pause().await,
                    }
                    if how.read {
                        let read = vfs.read(handle, place as u64, 4).await.expect("read");
                        assert_eq!(read, piece, "who writes reads what he wrote");
                    }
                    close(vfs, handle).await.expect("close");
                    let read = run.tree.memory.content("a").expect("an object");
                    assert_eq!(read[place..place + PIECE], piece, "published by its close");
                }
            }));
        }
        let watching = run.clone();
        tasks.push(tokio::spawn(async move {
            let vfs = watching.vfs();
            for _ in 0..20 {
                watching.pause().await;
                let (_, handle) =
                    open(vfs, "a", READ, watching.one(&[ME, FRONT])).await.expect("open to read");
                match read_all(vfs, handle, 100).await {
                    Ok(read) => assert_eq!(read.len(), WRITERS * PIECE),
                    Err(VfsError::ReplacedMeanwhile { .. }) => {}
                    Err(error) => panic!("read: {error}"),
                }
                vfs.release(handle).await.expect("release");
                assert_eq!(stat(vfs, "a").await.expect("stat").bytes, (WRITERS * PIECE) as u64);
            }
        }));
        join(tasks).await;
        let expected: Vec<u8> = (0..WRITERS).flat_map(|writer| piece(writer, TURNS - 1)).collect();
        assert_eq!(run.tree.memory.content("a").expect("an object"), expected);
    });
}

/// Each turn: some have the file open, in every way; then they write and close while one takes the name away.
#[test]
fn what_was_unlinked_or_replaced_does_not_come_back() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    enum Deed {
        Unlink,
        RenameAway,
        RenameOnto,
    }
    run_all(|_, run| async move {
        for turn in 0..4 {
            let deed = run.one(&[Deed::Unlink, Deed::RenameAway, Deed::RenameOnto]);
            if run.below(3) > 0 {
                write_file(run.vfs(), "a", b"before").await.expect("before");
            }
            let other = format!("other {turn}");
            if deed == Deed::RenameOnto {
                write_file(run.vfs(), "b", other.as_bytes()).await.expect("another");
            }
            let mut opened = Vec::new();
            for _ in 0..run.below(4) {
                let how = run.one(&[NEW, APPEND, READ_WRITE, READ_APPEND, OpenHow { read: true, ..NEW }]);
                let (caller, vfs) = (run.one(&[ME, ME, FRONT]), run.vfs().clone());
                let (_, handle) = open(&vfs, "a", how, caller).await.expect("open");
                if caller == FRONT {
                    vfs.arm(handle, FRONT).expect("arm");
                }
                if run.below(2) == 0 {
                    run.write(&vfs, handle, 0, b"early".to_vec(), how).await.expect("write");
                }
                opened.push((vfs, handle, how, caller));
            }
            let mut tasks = Vec::new();
            let had_writers = !opened.is_empty();
            for (vfs, handle, how, caller) in opened {
                let run = run.clone();
                tasks.push(tokio::spawn(async move {
                    run.pause().await;
                    let written = run.write(&vfs, handle, 5, vec![b'x'; 7], how).await;
                    run.pause().await;
                    if caller == FRONT && written.is_ok() {
                        // One that was there already may be as long as it likes.
                        for bytes in [12, 7] {
                            vfs.commit(handle, bytes, FRONT).await.unwrap_or(());
                        }
                    }
                    vfs.flush(handle, closer()).await.unwrap_or(());
                    run.pause().await;
                    vfs.release(handle).await.unwrap_or(());
                }));
            }
            run.pause().await;
            let vfs = run.vfs();
            let done = match deed {
                Deed::Unlink => unlink(vfs, "a").await,
                Deed::RenameAway => rename(vfs, "a", "c", false).await,
                Deed::RenameOnto => rename(vfs, "b", "a", false).await,
            };
            join(tasks).await;
            // What was orphaned while it was being published is taken back behind its close.
            tokio::time::sleep(Duration::from_millis(20)).await;
            match (done, deed) {
                (Ok(()), Deed::Unlink | Deed::RenameAway) => {
                    let content = run.tree.memory.content("a");
                    assert_eq!(content, None, "{deed:?}");
                    let shown = stat(run.vfs(), "a").await;
                    assert!(matches!(shown, Err(VfsError::NotFound { .. })), "{deed:?}: {shown:?}");
                    assert!(!list(run.vfs(), "").await.expect("list").contains_key("a"));
                }
                (Ok(()), Deed::RenameOnto) => {
                    let content = run.tree.memory.content("a");
                    assert_eq!(content.as_deref(), Some(other.as_bytes()), "{deed:?}");
                    assert_eq!(run.tree.memory.content("b"), None);
                    assert_eq!(read_file(run.vfs(), "a").await.expect("read"), other.as_bytes());
                }
                (Err(VfsError::NotFound { .. }), Deed::Unlink | Deed::RenameAway) => {}
                (
                    Err(VfsError::Busy { .. } | VfsError::ReplacedMeanwhile { .. }),
                    Deed::RenameAway | Deed::RenameOnto,
                ) if had_writers => {}
                (Err(error), _) => panic!("{deed:?}: {error}"),
            }
            for name in ["a", "b", "c"] {
                match unlink(run.vfs(), name).await {
                    Ok(()) | Err(VfsError::NotFound { .. }) => {}
                    Err(error) => panic!("unlink of {name}: {error}"),
                }
                assert_eq!(run.tree.memory.content(name), None);
            }
        }
    });
}

#[test]
fn of_those_who_rename_without_replacing_one_wins_and_nobody_loses_a_file() {
    run_all(|_, run| async move {
        const RENAMERS: usize = 4;
        for writer in 0..RENAMERS {
            write_file(run.vfs(), &format!("from{writer}"), &whole(writer, 0, 20)).await.expect("write");
        }
        let won: Arc<AtomicUsize> = Arc::default();
        let mut tasks = Vec::new();
        for writer in 0..RENAMERS {
            let (run, won) = (run.clone(), won.clone());
            tasks.push(tokio::spawn(async move {
                run.pause().await;
                let from = format!("from{writer}");
                let vfs = run.vfs();
                let done = match run.below(2) {
                    0 => rename(vfs, &from, "to", true).await,
                    _ => vfs.rename_paths(OsStr::new(&from), OsStr::new("to"), true, FRONT).await,
                };
                match done {
                    Ok(()) => {
                        won.fetch_add(1, Ordering::SeqCst);
                        assert_eq!(run.tree.memory.content(&from), None);
                    }
                    Err(VfsError::Exists { .. }) => {
                        let content = run.tree.memory.content(&from).expect("the source stays");
                        assert_eq!(content, whole(writer, 0, 20));
                        assert_eq!(read_file(run.vfs(), &from).await.expect("read"), content);
                    }
                    Err(error) => panic!("rename: {error}"),
                }
            }));
        }
        join(tasks).await;
        assert_eq!(won.load(Ordering::SeqCst), 1);
        assert!(is_whole(&run.tree.memory.content("to").expect("an object")));
        assert_eq!(run.tree.memory.keys().len(), RENAMERS);
    });
}

#[test]
fn who_makes_a_name_is_the_only_one() {
    run_all(|_, run| async move {
        let won: Arc<AtomicUsize> = Arc::default();
        let mut tasks = Vec::new();
        for writer in 0..4 {
            let (run, won) = (run.clone(), won.clone());
            tasks.push(tokio::spawn(async move {
                run.pause().await;
                let vfs = run.vfs();
                let made = match writer {
                    0 => match open(vfs, "a", EXCLUSIVE, ME).await {
                        Ok((_, handle)) => close(vfs, handle).await,
                        Err(error) => Err(error),
                    },
                    _ => mkdir(vfs, "a").await,
                };
                match made {
                    Ok(()) => drop(won.fetch_add(1, Ordering::SeqCst)),
                    Err(VfsError::Exists { .. } | VfsError::IsDirectory { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }));
        }
        join(tasks).await;
        assert!(won.load(Ordering::SeqCst) <= 1, "{:?}", run.tree.memory.keys());
        assert_eq!(run.tree.memory.keys().len(), won.load(Ordering::SeqCst));
    });
}

/// Everything at once; only what holds whatever happened is looked at.
#[test]
fn whatever_is_done_at_once_all_agree_in_the_end() {
    run_all(|_, run| async move {
        let names = ["a", "b", "c"];
        let mut tasks = Vec::new();
        for writer in 0..5 {
            let run = run.clone();
            tasks.push(tokio::spawn(async move {
                for turn in 0..8 {
                    run.pause().await;
                    let (vfs, name) = (run.vfs(), run.one(&names));
                    // Each may fail where another was faster; it only has to end, and to leave nothing half done.
                    match run.below(12) {
                        0..=4 => at_random(&run, vfs, name, writer, turn).await,
                        5 => unlink(vfs, name).await.unwrap_or(()),
                        6 => rename(vfs, name, run.one(&names), run.below(2) == 0).await.unwrap_or(()),
                        7 => {
                            let to = run.one(&names);
                            let done = vfs.rename_paths(OsStr::new(name), OsStr::new(to), false, FRONT).await;
                            done.unwrap_or(());
                        }
                        8 => mkdir(vfs, run.one(&["d", "a"])).await.unwrap_or(()),
                        9 => rmdir(vfs, run.one(&["d", "a"])).await.unwrap_or(()),
                        10 => {
                            list(vfs, "").await.expect("list");
                        }
                        _ => match read_file(vfs, name).await {
                            Ok(_)
                            | Err(
                                VfsError::NotFound { .. }
                                | VfsError::Busy { .. }
                                | VfsError::IsDirectory { .. }
                                | VfsError::ReplacedMeanwhile { .. },
                            ) => {}
                            Err(error) => panic!("read: {error}"),
                        },
                    }
                }
            }));
        }
        join(tasks).await;
    });
}

/// Opens a file in some way, does something to it, and closes it.
async fn at_random(run: &Run, vfs: &Vfs, name: &str, writer: usize, turn: usize) {
    let read_new = OpenHow { read: true, ..NEW };
    let ways = [NEW, NEW, APPEND, READ_WRITE, READ_APPEND, read_new, EXCLUSIVE];
    let (how, caller) = (run.one(&ways), run.one(&[ME, ME, ME, FRONT]));
    let Ok((inode, handle)) = open(vfs, name, how, caller).await else { return };
    if caller == FRONT {
        vfs.arm(handle, FRONT).expect("arm");
    }
    run.pause().await;
    let content = whole(writer, turn, run.one(&[13, 300, 80_000]));
    let mut is_written = run.write(vfs, handle, 0, content.clone(), how).await.is_ok();
    for _ in 0..run.below(3) {
        run.pause().await;
        match run.below(5) {
            0 => vfs.fsync(handle).await.unwrap_or(()),
            1 => truncate(vfs, inode, Some(handle), run.one(&[0, 5, 100])).await.unwrap_or(()),
            2 if how.read => drop(read_all(vfs, handle, 10_000).await),
            3 => is_written &= run.write(vfs, handle, 3, vec![b'y'; 9], how).await.is_ok(),
            _ => drop(vfs.getattr(inode, Some(handle)).await),
        }
    }
    if caller == FRONT && is_written {
        vfs.commit(handle, content.len() as u64, FRONT).await.unwrap_or(());
    }
    vfs.flush(handle, closer()).await.unwrap_or(());
    run.pause().await;
    vfs.release(handle).await.unwrap_or(());
}
