//! What readers cost: requests and bytes at the store, one test for each kind of reader; and what happens
//! when the store stands still, or memory is short.

#[path = "common/tree.rs"]
mod tree;

use std::time::Duration;

use cosgate::{
    cos::{Fault, Operation, Rule},
    vfs::HandleNo,
};
use tree::{Plan, READ, Tree, open, read_all, read_file, stat, write_file};

const KIB_64: u64 = 64 << 10;
const MIB: u64 = 1 << 20;

/// An object `a`, and a reader of it.
struct Reading {
    tree: Tree,
    handle: HandleNo,
    content: Vec<u8>,
}

impl Reading {
    async fn of(bytes: u64) -> Self {
        Self::with(bytes, &Plan::default()).await
    }

    async fn with(bytes: u64, plan: &Plan) -> Self {
        let (tree, content) = stored(bytes, plan);
        let (_, handle) = open(tree.vfs(), "a", READ).await.expect("it is there");
        Self { tree, handle, content }
    }

    async fn read(&self, offset: u64, bytes: u64) {
        let length = u32::try_from(bytes).expect("a small read");
        let read = self.tree.vfs().read(self.handle, offset, length).await.expect("it is read");
        let place = usize::try_from(offset).expect("a small object");
        let end = self.content.len().min(place + usize::try_from(bytes).expect("a small read"));
        assert!(read == self.content[place..end], "other bytes at {offset}");
    }

    fn gets(&self) -> u64 {
        self.tree.store.calls(Operation::GetObject)
    }

    /// Bytes asked for, over those that the reader wanted.
    fn excess(&self, wanted: u64) -> f64 {
        let asked = self.tree.store.bytes_asked();
        let kib = |bytes: u64| f64::from(u32::try_from(bytes / 1024).expect("less than 4 TiB"));
        kib(asked) / kib(wanted)
    }
}

/// An object `a`, and its content.
fn stored(bytes: u64, plan: &Plan) -> (Tree, Vec<u8>) {
    let (tree, content) = (Tree::new(plan), content(bytes));
    tree.memory.insert("a", content.clone());
    (tree, content)
}

fn content(bytes: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(bytes);
    let mut content = vec![0; usize::try_from(bytes).expect("a small object")];
    random.fill(&mut content);
    content
}

/// > Who reads in order gets a window of parallel ranges ahead; nothing is fetched twice.
#[tokio::test]
async fn in_order() {
    const BYTES: u64 = 32 * MIB + 5;
    for piece in [8 << 10, KIB_64, 128 << 10, MIB] {
        let reading = Reading::of(BYTES).await;
        for offset in (0..BYTES).step_by(usize::try_from(piece).unwrap()) {
            reading.read(offset, piece).await;
        }
        assert_eq!(reading.tree.store.bytes_asked(), BYTES, "in pieces of {piece}");
        assert!(reading.gets() <= 30, "{} GETs in pieces of {piece}", reading.gets());
        assert!(reading.tree.store.running_max(Operation::GetObject) >= 1);
    }
}

/// > Who reads the beginning of a large file gets little more than that.
#[tokio::test]
async fn the_beginning_alone() {
    let reading = Reading::of(64 * MIB).await;
    reading.read(0, 512).await;
    assert_eq!((reading.gets(), reading.tree.store.bytes_asked()), (1, KIB_64));
}

/// > Random reads fetch the bytes that were asked for and nothing more.
#[tokio::test]
async fn at_random() {
    const READS: u64 = 500;
    let reading = Reading::of(256 * MIB).await;
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..READS {
        reading.read(random.u64(..4096) * KIB_64, KIB_64).await;
    }
    assert!(reading.gets() <= READS, "{} GETs", reading.gets());
    assert!(reading.excess(READS * KIB_64) <= 1.05, "{}", reading.excess(READS * KIB_64));
    // Also in records of two pieces: only what is asked for, and a piece ahead at most.
    let reading = Reading::of(256 * MIB).await;
    for _ in 0..READS / 2 {
        let record = random.u64(..2047) * 2 * KIB_64;
        reading.read(record, KIB_64).await;
        reading.read(record + KIB_64, KIB_64).await;
    }
    assert!(reading.excess(READS * KIB_64) <= 1.6, "{}", reading.excess(READS * KIB_64));
}

/// > Who reads backward gets a window behind, who reads in equal steps the next ones exactly.
#[tokio::test]
async fn backward_and_in_steps() {
    const BYTES: u64 = 64 * MIB;
    for piece in [8 << 10, KIB_64, MIB] {
        let reading = Reading::of(BYTES).await;
        for number in (0..BYTES / piece).rev() {
            reading.read(number * piece, piece).await;
        }
        assert_eq!(reading.tree.store.bytes_asked(), BYTES, "in pieces of {piece}");
        assert!(reading.gets() <= 50, "{} GETs in pieces of {piece}", reading.gets());
    }
    for backward in [false, true] {
        let reading = Reading::of(BYTES).await;
        let gate = reading.tree.store.block(Rule::on(Operation::GetObject).after(4).always());
        for number in 0..64 {
            if number == 20 {
                gate.release();
            }
            let place = if backward { 63 - number } else { number };
            let read = reading.read(place * MIB, KIB_64);
            if (4..20).contains(&number) {
                // What is foreseen is on its way; whoever wants it waits.
                drop(tokio::time::timeout(Duration::from_millis(1), read).await);
            } else {
                read.await;
            }
        }
        assert!(reading.tree.store.running_max(Operation::GetObject) >= 4, "several at a time");
        assert!(reading.gets() <= 64 + 16, "{} GETs", reading.gets());
        assert!(reading.excess(64 * KIB_64) <= 1.3, "{}", reading.excess(64 * KIB_64));
    }
}

/// > Two places of one file that are read in turns, in order, get a window each.
#[tokio::test]
async fn two_places_in_turns() {
    const BYTES: u64 = 64 * MIB;
    let reading = Reading::of(2 * BYTES).await;
    for number in 0..BYTES / KIB_64 {
        reading.read(number * KIB_64, KIB_64).await;
        reading.read(BYTES + number * KIB_64, KIB_64).await;
    }
    // A window beyond where the first one ends.
    assert!(reading.excess(2 * BYTES) <= 1.1, "{}", reading.excess(2 * BYTES));
    assert!(reading.gets() <= 160, "{} GETs for {} reads", reading.gets(), 2 * BYTES / KIB_64);
}

/// > A range that stands still is asked for again on another connection, a few at a time; the first answer counts.
#[tokio::test(start_paused = true)]
async fn what_stands_still_is_asked_for_again() {
    const BYTES: u64 = 40 * MIB;
    for stall in [Fault::Delay(Duration::from_secs(3600)), Fault::StallBody(700_000), Fault::StallBody(0)] {
        for skipped in [0, 1, 5] {
            let reading = Reading::of(BYTES).await;
            reading.tree.store.inject(Rule::on(Operation::GetObject).after(skipped), stall.clone());
            let begun = tokio::time::Instant::now();
            let read = read_all(reading.tree.vfs(), reading.handle, 1 << 20).await.unwrap();
            assert!(read == reading.content, "other bytes");
            let took = begun.elapsed();
            assert!(took < Duration::from_secs(3), "{took:?} with {stall:?} at {skipped}");
        }
    }
    // A store that stands still as a whole is not flooded.
    let reading = Reading::of(BYTES).await;
    reading.read(0, MIB).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = reading.gets();
    reading.tree.store.inject(Rule::on(Operation::GetObject).always(), Fault::StallBody(0));
    let far = reading.tree.vfs().read(reading.handle, 30 * MIB, 1 << 20);
    drop(tokio::time::timeout(Duration::from_secs(3600), far).await);
    assert!(reading.gets() - before <= 1 + 8, "{} GETs", reading.gets() - before);
}

/// > A small file that is opened again and again travels once: each open asks by HEAD whether it is still the same.
#[tokio::test]
async fn small_files_are_kept() {
    const OPENS: u64 = 100;
    let tree = Tree::new(&Plan::default());
    let calls = |operation| tree.store.calls(operation);
    tree.memory.insert("script", content(10_000));
    for _ in 0..OPENS {
        assert_eq!(read_file(tree.vfs(), "script").await.unwrap(), content(10_000));
    }
    let counted = (calls(Operation::GetObject), calls(Operation::HeadObject), calls(Operation::ListObjects));
    assert_eq!(counted, (1, OPENS - 1, 1));
    // Two descriptors at a time, one of them half read, and one that jumps.
    let (_, first) = open(tree.vfs(), "script", READ).await.unwrap();
    let (_, second) = open(tree.vfs(), "script", READ).await.unwrap();
    assert_eq!(tree.vfs().read(first, 9000, 5000).await.unwrap(), content(10_000)[9000..]);
    assert_eq!(tree.vfs().read(second, 0, 5000).await.unwrap(), content(10_000)[..5000]);
    tree.vfs().release(first).await.unwrap();
    assert_eq!(tree.vfs().read(second, 5000, 5000).await.unwrap(), content(10_000)[5000..]);
    tree.vfs().release(second).await.unwrap();
    assert_eq!(calls(Operation::GetObject), 1);
    // What was stored through the gateway is known to be another one: it is not asked for in vain.
    write_file(tree.vfs(), "script", b"own").await.unwrap();
    let heads = calls(Operation::HeadObject);
    assert_eq!(read_file(tree.vfs(), "script").await.unwrap(), b"own");
    assert_eq!((calls(Operation::GetObject), calls(Operation::HeadObject)), (2, heads));
}

/// > Replaced between two opens: the second open reads the new object at once; stat tells of it after `attr_ttl` at the latest.
#[tokio::test]
async fn what_was_replaced_is_read_at_the_next_open() {
    let tree = Tree::new(&Plan { attr_ttl: Duration::from_millis(300), ..Plan::default() });
    for number in 0_u64..10 {
        let bytes = 10_000 + number * number;
        tree.memory.insert("a", content(bytes));
        for _ in 0..3 {
            assert!(read_file(tree.vfs(), "a").await.unwrap() == content(bytes), "not the new one");
        }
        if number % 3 == 0 {
            tokio::time::sleep(Duration::from_millis(300)).await;
            assert_eq!(stat(tree.vfs(), "a").await.unwrap().bytes, bytes);
        }
    }
    // Of the same size, too.
    tree.memory.insert("a", vec![7; 10_081]);
    assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), vec![7; 10_081]);
    tree.memory.remove("a");
    assert!(read_file(tree.vfs(), "a").await.is_err());
}

/// > Small files are kept in a sixteenth of the memory limit, and yield to writers and to other readers.
#[tokio::test]
async fn kept_files_take_little_memory() {
    let plan = Plan { memory_bytes: 16 << 20, ..Plan::default() };
    let tree = Tree::new(&plan);
    (0..100).for_each(|number| drop(tree.memory.insert(&format!("f{number}"), content(number + 1))));
    for number in 0..100 {
        read_file(tree.vfs(), &format!("f{number}")).await.unwrap();
    }
    let kept = tree.writers.budget().used_bytes();
    assert!(kept > 0 && kept <= (1 << 20) + (1 << 18), "{kept} bytes are kept");
    let (gets, heads) = (tree.store.calls(Operation::GetObject), tree.store.calls(Operation::HeadObject));
    read_file(tree.vfs(), "f99").await.unwrap();
    read_file(tree.vfs(), "f0").await.unwrap();
    assert_eq!(tree.store.calls(Operation::GetObject), gets + 1, "f0 is the oldest");
    assert_eq!(tree.store.calls(Operation::HeadObject), heads + 1);
}

/// > Readers share the memory: a new one finds its part of it although others were there first, reading or not.
#[tokio::test]
async fn readers_share_the_memory() {
    const READERS: usize = 8;
    const BYTES: u64 = 64 * MIB;
    let plan = Plan { memory_bytes: 64 << 20, ..Plan::default() };
    let (tree, content) = stored(BYTES, &plan);
    let mut readers = Vec::new();
    for _ in 0..READERS {
        readers.push(open(tree.vfs(), "a", READ).await.unwrap().1);
    }
    // The first ones fill their windows, and then stand still.
    for reader in &readers[..3] {
        for number in 0..8 {
            tree.vfs().read(*reader, number * MIB, 1 << 20).await.unwrap();
        }
    }
    let before = tree.store.calls(Operation::GetObject);
    let late = &readers[3..];
    for number in 0..BYTES / MIB {
        for reader in late {
            let bytes = tree.vfs().read(*reader, number * MIB, 1 << 20).await.unwrap();
            assert!(bytes == content[usize::try_from(number * MIB).unwrap()..][..1 << 20]);
            // Time for others to be looked at.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
    let gets = tree.store.calls(Operation::GetObject) - before;
    assert!(gets <= late.len() as u64 * (BYTES / MIB) * 5 / 4, "{gets} GETs");
    let asked = tree.store.bytes_asked();
    assert!(asked <= (late.len() as u64 + 3) * BYTES, "{} MiB asked for", asked / MIB);
    let most = tree.writers.budget().used_bytes_most();
    assert!(most <= plan.memory_bytes, "{} MiB held", most / MIB);
}

/// > Each connection has buffers of its own: there are no more of them than 64, however many read.
#[tokio::test]
async fn connections_are_few() {
    const READERS: usize = 200;
    const BYTES: u64 = 4 * MIB;
    let plan = Plan { memory_bytes: 256 << 20, ..Plan::default() };
    let (tree, content) = stored(BYTES, &plan);
    let slow = Fault::Delay(Duration::from_millis(20));
    tree.store.inject(Rule::on(Operation::GetObject).always(), slow);
    let reads = (0..READERS).map(|_| async {
        let (_, reader) = open(tree.vfs(), "a", READ).await.unwrap();
        let read = read_all(tree.vfs(), reader, 1 << 18).await.unwrap();
        assert!(read == content, "other bytes");
    });
    futures_util::future::join_all(reads).await;
    let running = tree.store.running_max(Operation::GetObject);
    assert!((48..=64).contains(&running), "{running} at a time");
    let most = tree.writers.budget().used_bytes_most();
    assert!(most <= plan.memory_bytes, "{} MiB held", most / MIB);
}
