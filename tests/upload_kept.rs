//! Broken uploads on the file system itself: kept, asked for, gone on with, dropped; by an armed handle, as the front does.

#[path = "common/tree.rs"]
mod tree;

use std::{ffi::OsStr, time::Duration};

use bytes::Bytes;
use cosgate::{
    cos::{Fault, Operation, Reason, Rule},
    vfs::{HandleNo, OpenHow, Vfs, VfsError, VfsResult},
};
use tree::{FRONT, ME, NEW, Plan, READ, Tree, closer, create, open, stat};

const MIB: usize = 1 << 20;
const HOUR: Duration = Duration::from_secs(3600);
/// As the front opens what it goes on with.
const GO_ON: OpenHow =
    OpenHow { read: false, write: true, truncate: false, append: false, exclusive: false, alone: false };

fn plan() -> Plan {
    Plan { resume_window: HOUR, ..Plan::default() }
}

fn content(seed: u64, length: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut content = vec![0; length];
    random.fill(&mut content);
    Bytes::from(content)
}

/// A transfer begins, from `start` on, and brings bytes up to `end`.
async fn transfer(vfs: &Vfs, name: &str, content: &Bytes, start: usize, end: usize) -> VfsResult<HandleNo> {
    let how = if start == 0 { NEW } else { GO_ON };
    let handle = create(vfs, name, how).await?.1;
    vfs.arm(handle, FRONT)?;
    let brought = bring(vfs, handle, content, start, end).await;
    if brought.is_err() {
        close(vfs, handle).await;
    }
    brought.map(|()| handle)
}

async fn bring(vfs: &Vfs, handle: HandleNo, content: &Bytes, start: usize, end: usize) -> VfsResult<()> {
    if start > 0 {
        vfs.go_on(handle, start as u64, FRONT).await?;
    }
    let mut at = start;
    while at < end {
        let to = end.min(at + 300_000);
        vfs.write(handle, at as u64, content.slice(at..to), false, false).await?;
        at = to;
    }
    Ok(())
}

async fn close(vfs: &Vfs, handle: HandleNo) {
    vfs.flush(handle, closer()).await.ok();
    vfs.release(handle).await.ok();
}

/// A transfer that breaks behind `end`; how many bytes are held then.
async fn broken(vfs: &Vfs, name: &str, content: &Bytes, start: usize, end: usize) -> usize {
    let handle = transfer(vfs, name, content, start, end).await.expect("transfer");
    close(vfs, handle).await;
    held(vfs, name).await.expect("held")
}

async fn held(vfs: &Vfs, name: &str) -> VfsResult<usize> {
    vfs.held(OsStr::new(name), false, FRONT).await.map(|bytes| usize::try_from(bytes).expect("a length"))
}

async fn finish(vfs: &Vfs, name: &str, content: &Bytes, start: usize) {
    let handle = transfer(vfs, name, content, start, content.len()).await.expect("transfer");
    vfs.prepare(handle, FRONT).await.expect("prepare");
    vfs.commit(handle, content.len() as u64, FRONT).await.expect("commit");
    close(vfs, handle).await;
}

impl Tree {
    fn notes(&self) -> Vec<String> {
        self.memory.keys().into_iter().filter(|key| key.starts_with(".cosgate/uploads")).collect()
    }

    /// Nothing but objects: no upload open, no note, no memory in use.
    async fn assert_at_rest(&self, what: &str) {
        self.writers.drain(HOUR).await;
        for _ in 0..500 {
            if self.notes().is_empty() && self.memory.open_upload_keys().is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(self.memory.open_upload_keys(), Vec::<String>::new(), "{what}");
        assert_eq!(self.notes(), Vec::<String>::new(), "{what}");
        assert_eq!(self.writers.budget().used_bytes(), 0, "{what}");
    }
}

#[tokio::test]
async fn a_broken_upload_is_invisible_takes_no_memory_and_goes_on_where_it_was() {
    let tree = Tree::new(&plan());
    let vfs = tree.vfs();
    let whole = content(1, 9 * MIB + 5);
    let at = broken(vfs, "a", &whole, 0, 7 * MIB + 700_000).await;
    assert!((6 * MIB..7 * MIB + 700_000).contains(&at), "{at} bytes are held");
    assert_eq!(tree.writers.budget().used_bytes(), 0);
    assert!(matches!(stat(vfs, "a").await, Err(VfsError::NotFound { .. })));
    assert!(matches!(open(vfs, "a", READ).await, Err(VfsError::NotFound { .. })));
    assert_eq!(tree.notes(), [".cosgate/uploads/a"]);
    assert_eq!(tree.memory.open_upload_keys(), ["a"]);
    finish(vfs, "a", &whole, at).await;
    assert!(tree.memory.content("a").expect("content") == whole);
    assert_eq!(held(vfs, "a").await.expect("held"), 0, "the name exists");
    tree.assert_at_rest("gone on").await;
}

/// A client that was cut off behind its last byte must not be told the size of the whole file.
///
/// > What is held of a broken upload is less than what had come, so that no client takes it for stored.
#[tokio::test]
async fn what_is_held_is_always_less_than_what_had_come() {
    let tree = Tree::new(&plan());
    let vfs = tree.vfs();
    for (number, length) in
        [MIB + 1, 2 * MIB, 3 * MIB, 3 * MIB + 1, 5 * MIB - 1, 8 * MIB].into_iter().enumerate()
    {
        for prepared in [false, true] {
            let name = format!("{number}-{prepared}");
            let whole = content(2, length);
            let handle = transfer(vfs, &name, &whole, 0, length).await.expect("transfer");
            if prepared {
                vfs.prepare(handle, FRONT).await.expect("prepare");
            }
            close(vfs, handle).await;
            let at = held(vfs, &name).await.expect("held");
            assert!(at < length, "{at} of {length} are held");
            assert!(length < 4 * MIB || at > 0, "{name}: nothing is held of {length}");
            finish(vfs, &name, &whole, at).await;
            assert!(tree.memory.content(&name).expect("content") == whole);
        }
    }
    tree.assert_at_rest("less").await;
}

#[tokio::test]
async fn however_often_it_breaks_the_file_becomes_whole() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let memory = Tree::new(&plan()).memory;
    for number in 0..60 {
        // Sometimes another gateway goes on: it knows nothing but what stands in the bucket.
        let trees = [Tree::over(memory.clone(), &plan()), Tree::over(memory.clone(), &plan())];
        let (name, whole) = (format!("f{number}"), content(number, random.usize(0..12 * MIB)));
        let mut sent = 0;
        let mut breaks = 0;
        for _ in 0..random.usize(0..6) {
            let vfs = trees[random.usize(..2)].vfs();
            let at = held(vfs, &name).await.expect("held");
            let end = random.usize(at..=whole.len());
            let now = broken(vfs, &name, &whole, at, end).await;
            assert!(now <= end.max(at), "seed {seed}, {name}: {now} held of {end}");
            assert!(now >= at || at == 0 || now + 4 * MIB > at, "seed {seed}, {name}: {now} after {at}");
            (sent, breaks) = (sent + end - at, breaks + 1);
        }
        let vfs = trees[random.usize(..2)].vfs();
        let at = held(vfs, &name).await.expect("held");
        finish(vfs, &name, &whole, at).await;
        sent += whole.len() - at;
        assert!(memory.content(&name).expect("content") == whole, "seed {seed}, {name}");
        // A part is 1 MiB here, and up to two of it may be lost with each break.
        assert!(
            sent <= whole.len() + breaks * 2 * (MIB + MIB / 16),
            "seed {seed}, {name}: {sent} for {}",
            whole.len()
        );
        for tree in &trees {
            tree.assert_at_rest(&format!("seed {seed}, {name}")).await;
        }
    }
}

/// What was renamed onto the name, or stored there behind this gateway's back, is not the file whose upload broke.
#[tokio::test]
async fn what_has_come_there_since_may_be_gone_on_with() {
    let tree = Tree::new(&Plan { attr_ttl: Duration::ZERO, ..plan() });
    let vfs = tree.vfs();
    let whole = content(3, 5 * MIB);
    for name in ["renamed", "replaced"] {
        tree.memory.insert(name, Bytes::from("old"));
        assert_eq!(broken(vfs, name, &whole, 0, whole.len()).await, 0);
        let asked = vfs.held(OsStr::new(name), true, FRONT).await;
        assert!(matches!(asked, Err(VfsError::ReplacedMeanwhile { .. })), "{asked:?}");
    }
    tree.memory.insert("other", Bytes::from("another"));
    tree::rename(vfs, "other", "renamed", false).await.expect("rename");
    tree.memory.insert("replaced", Bytes::from("by a console"));
    for name in ["renamed", "replaced"] {
        assert_eq!(vfs.held(OsStr::new(name), true, FRONT).await.expect("held"), 0, "{name}");
    }
}

/// > A broken upload over an existing object, or of a shell, is aborted: the object stays as it was.
#[tokio::test]
async fn only_new_files_of_the_front_are_kept() {
    let tree = Tree::new(&plan());
    let vfs = tree.vfs();
    let whole = content(3, 5 * MIB);
    tree.memory.insert("old", Bytes::from("old"));
    assert_eq!(broken(vfs, "old", &whole, 0, whole.len()).await, 0);
    assert_eq!(tree.memory.content("old").expect("content"), "old");
    tree.assert_at_rest("overwrite").await;
    while !tree.memory.keys().contains(&".cosgate/outdated/old".to_owned()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    // Nobody makes one file of the old one and the end of a new one; a whole one is as good as ever.
    for gateway in [&tree, &Tree::over(tree.memory.clone(), &plan())] {
        let asked = gateway.vfs().held(OsStr::new("old"), true, FRONT).await;
        assert!(matches!(asked, Err(VfsError::ReplacedMeanwhile { .. })), "{asked:?}");
        assert_eq!(held(gateway.vfs(), "old").await.expect("held"), 0);
    }
    finish(vfs, "old", &whole, 0).await;
    assert_eq!(vfs.held(OsStr::new("old"), true, FRONT).await.expect("held"), 0);
    // A shell's writer that is killed.
    let (_, handle) = create(vfs, "shell", NEW).await.expect("create");
    vfs.write(handle, 0, whole.clone(), false, false).await.expect("write");
    let killed = cosgate::vfs::Closer { killed: true, ..closer() };
    vfs.flush(handle, killed).await.ok();
    vfs.release(handle).await.ok();
    tree.assert_at_rest("shell").await;
    // The name appeared while it was on its way.
    let handle = transfer(vfs, "late", &whole, 0, whole.len()).await.expect("transfer");
    tree.memory.insert("late", Bytes::from("other"));
    close(vfs, handle).await;
    tree.assert_at_rest("late").await;
    // Unlinked while it was on its way.
    let handle = transfer(vfs, "gone", &whole, 0, whole.len()).await.expect("transfer");
    vfs.unlink(tree::ROOT, OsStr::new("gone")).await.expect("unlink");
    close(vfs, handle).await;
    tree.assert_at_rest("unlinked").await;
    // Too little for a part.
    assert_eq!(broken(vfs, "small", &whole, 0, MIB - 1).await, 0);
    tree.assert_at_rest("small").await;
    // Not with a window of nothing.
    let tree = Tree::new(&Plan::default());
    assert_eq!(broken(tree.vfs(), "a", &whole, 0, whole.len()).await, 0);
    assert_eq!(tree.store.calls(Operation::HeadObject), 0);
    tree.assert_at_rest("no window").await;
}

#[tokio::test]
async fn going_on_elsewhere_than_at_the_end_is_refused_and_loses_nothing() {
    let tree = Tree::new(&plan());
    let vfs = tree.vfs();
    let whole = content(4, 6 * MIB);
    let at = broken(vfs, "a", &whole, 0, 5 * MIB).await;
    for wrong in [1, at - 1, at + 1, whole.len()] {
        let refused = transfer(vfs, "a", &whole, wrong, whole.len()).await;
        assert!(matches!(refused, Err(VfsError::Invalid { .. })), "{wrong}: {refused:?}");
        assert_eq!(held(vfs, "a").await.expect("held"), at);
    }
    // Only the front, and only on a new file.
    assert!(matches!(
        vfs.held(OsStr::new("a"), false, cosgate::vfs::Caller { uid: 5, ..ME }).await,
        Err(VfsError::NotTheFront)
    ));
    finish(vfs, "a", &whole, at).await;
    let refused = transfer(vfs, "a", &whole, at, whole.len()).await;
    assert!(matches!(refused, Err(VfsError::Invalid { .. })), "{refused:?}");
    assert!(tree.memory.content("a").expect("content") == whole);
    tree.assert_at_rest("elsewhere").await;
}

/// > A STOR from the start replaces what is held of its name.
#[tokio::test]
async fn deleting_the_name_or_storing_it_anew_ends_what_is_held() {
    let tree = Tree::new(&plan());
    let vfs = tree.vfs();
    let (first, second) = (content(5, 5 * MIB), content(6, 5 * MIB));
    broken(vfs, "a", &first, 0, 4 * MIB).await;
    vfs.drop_held(OsStr::new("a"), FRONT).await.expect("drop");
    tree.assert_at_rest("deleted").await;
    assert!(matches!(vfs.drop_held(OsStr::new("a"), FRONT).await, Err(VfsError::NotFound { .. })));
    // Stored anew: whole, as one PUT, and broken again.
    broken(vfs, "a", &first, 0, 4 * MIB).await;
    finish(vfs, "a", &second, 0).await;
    assert!(tree.memory.content("a").expect("content") == second);
    tree.assert_at_rest("stored anew").await;
    broken(vfs, "b", &first, 0, 4 * MIB).await;
    finish(vfs, "b", &second.slice(..1000), 0).await;
    tree.assert_at_rest("stored anew by one PUT").await;
    broken(vfs, "c", &first, 0, 4 * MIB).await;
    let at = broken(vfs, "c", &second, 0, 4 * MIB).await;
    assert_eq!(tree.memory.open_upload_keys(), ["c"]);
    finish(vfs, "c", &second, at).await;
    assert!(tree.memory.content("c").expect("content") == second);
    tree.assert_at_rest("broken anew").await;
    broken(vfs, "d", &first, 0, 4 * MIB).await;
    broken(vfs, "d", &second, 0, 1000).await;
    tree.assert_at_rest("begun anew, and little has come").await;
}

/// > Another gateway on the same bucket goes on with what is held; of two that try, one reads 450.
#[tokio::test]
async fn one_of_two_who_want_to_go_on_is_refused() {
    let tree = Tree::new(&plan());
    let vfs = tree.vfs();
    let whole = content(7, 6 * MIB);
    let at = broken(vfs, "a", &whole, 0, 5 * MIB).await;
    let first = transfer(vfs, "a", &whole, at, at + 1).await.expect("transfer");
    assert!(matches!(held(vfs, "a").await, Err(VfsError::Busy { .. })));
    let other = Tree::over(tree.memory.clone(), &plan());
    assert!(matches!(held(other.vfs(), "a").await, Err(VfsError::Busy { .. })));
    let refused = transfer(other.vfs(), "a", &whole, at, whole.len()).await;
    assert!(matches!(refused, Err(VfsError::Busy { .. })), "{refused:?}");
    close(vfs, first).await;
    finish(other.vfs(), "a", &whole, at).await;
    assert!(tree.memory.content("a").expect("content") == whole);
    tree.assert_at_rest("two").await;
    other.assert_at_rest("two").await;
}

#[tokio::test]
async fn a_request_that_fails_while_keeping_leaves_nothing_or_what_can_go_on() {
    let whole = content(8, 6 * MIB);
    for operation in [
        Operation::HeadObject,
        Operation::PutObject,
        Operation::UploadPart,
        Operation::InitiateMultipartUpload,
    ] {
        for place in 0..6 {
            for fault in [Fault::Fail(Reason::Unavailable), Fault::LoseAnswer(Reason::TimedOut)] {
                let tree = Tree::new(&plan());
                let vfs = tree.vfs();
                tree.store.inject(Rule::on(operation).after(place), fault.clone());
                let what = format!("{operation} {place} {fault:?}");
                if let Ok(handle) = transfer(vfs, "a", &whole, 0, 5 * MIB).await {
                    close(vfs, handle).await;
                }
                tree.store.heal();
                let at = held(vfs, "a").await.expect("held");
                finish(vfs, "a", &whole, at).await;
                assert!(tree.memory.content("a").expect("content") == whole, "{what}");
                tree.writers.drain(HOUR).await;
                vfs.sweep().await;
                // A lost answer to Initiate leaves an upload without parts that nobody knows.
                if operation != Operation::InitiateMultipartUpload {
                    tree.assert_at_rest(&what).await;
                }
                assert_eq!(tree.writers.budget().used_bytes(), 0, "{what}");
            }
        }
    }
}

/// The kernel knows the name until the last request of its end is done, and DELE may come before that.
#[tokio::test]
async fn a_name_that_is_deleted_while_its_broken_upload_is_being_kept_is_not_kept() {
    let whole = content(9, 6 * MIB);
    let ends = [(Operation::UploadPart, 4), (Operation::HeadObject, 0), (Operation::PutObject, 1)];
    for (operation, place) in ends {
        for answered in [false, true] {
            let tree = Tree::new(&plan());
            let vfs = tree.vfs();
            let handle = transfer(vfs, "a", &whole, 0, whole.len()).await.expect("transfer");
            let rule = Rule::on(operation).after(place);
            let gate = if answered { tree.store.block_answer(rule) } else { tree.store.block(rule) };
            let unlinked = async {
                gate.reached_by(1).await;
                vfs.unlink(tree::ROOT, OsStr::new("a")).await.expect("unlink");
                gate.release();
            };
            tokio::join!(close(vfs, handle), unlinked);
            let what = format!("{operation} {place} answered={answered}");
            assert_eq!(held(vfs, "a").await.expect("held"), 0, "{what}");
            tree.assert_at_rest(&what).await;
        }
    }
}

/// A client that cannot be told how much is held begins anew, and what was held must not stay behind its file.
#[tokio::test]
async fn what_was_held_goes_when_its_name_is_stored_anew_while_its_note_cannot_be_read() {
    const NOTE: &str = ".cosgate/uploads/a";
    let whole = content(10, 6 * MIB);
    for operation in [Operation::HeadObject, Operation::GetObject] {
        for bytes in [1000, whole.len()] {
            let tree = Tree::new(&plan());
            let vfs = tree.vfs();
            assert!(broken(vfs, "a", &whole, 0, 5 * MIB).await > 0);
            tree.store.inject(Rule::on(operation).of_key(NOTE).always(), Fault::Fail(Reason::Unavailable));
            finish(vfs, "a", &whole.slice(..bytes), 0).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
            tree.store.heal();
            vfs.sweep().await;
            tree.assert_at_rest(&format!("{operation} {bytes}")).await;
            assert_eq!(tree.memory.content("a").expect("content").len(), bytes);
        }
    }
}
