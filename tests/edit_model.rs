//! Random operations on one file through several descriptors, beside a vector of bytes: what each of them reads
//! is what the vector holds, and what the bucket holds is what it held at the last publication.
//!
//! Memory is small enough for scratch objects to be needed. A failing run prints its seed;
//! `COSGATE_EDIT_SEED` runs it alone, `COSGATE_EDIT_RUNS` so many new ones.

#[path = "common/seeds.rs"]
mod seeds;
#[path = "common/tree.rs"]
mod tree;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use cosgate::{
    cos::Operation,
    vfs::{Allocation, HandleNo, InodeNo, OpenHow},
};
use seeds::Story;
use tree::{APPEND, Plan, READ, READ_WRITE, Tree, closer, create, open, stat, truncate};

const NAME: &str = "COSGATE_EDIT";
const RUNS: u64 = 60;
const STEPS: usize = 60;
const FILE: &str = "file";
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

const WRITE: OpenHow = OpenHow { read: false, ..READ_WRITE };

struct Open {
    inode: InodeNo,
    handle: HandleNo,
    how: OpenHow,
    wrote: bool,
}

struct Run {
    tree: Tree,
    random: fastrand::Rng,
    /// What the file is now.
    content: Vec<u8>,
    /// What the bucket holds.
    published: Option<Vec<u8>>,
    /// What it held before.
    history: Vec<Vec<u8>>,
    open: Vec<Open>,
    size_max: usize,
    story: Story,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let memory_bytes = [2, 4, 12][random.usize(..3)] * MIB as u64;
        let attr_ttl = Duration::from_secs(if random.bool() { 0 } else { 60 });
        let tree = Tree::new(&Plan { memory_bytes, attr_ttl, ..Plan::default() });
        let size_max = [40 * KIB, 700 * KIB, 6 * MIB][random.usize(..3)];
        let mut run = Self {
            tree,
            content: Vec::new(),
            published: None,
            history: Vec::new(),
            open: Vec::new(),
            size_max,
            story: Story::new(NAME, seed),
            random,
        };
        run.story.steps.push(format!("memory {memory_bytes}, size {size_max}"));
        if run.random.bool() {
            let bytes = run.random.usize(0..=size_max);
            run.content = run.bytes(bytes);
            run.published = Some(run.content.clone());
            run.tree.memory.insert(FILE, run.content.clone());
            run.story.steps.push(format!("the bucket has {bytes} bytes"));
        }
        run
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.random.fill(&mut bytes);
        bytes
    }

    /// An offset: anywhere, or where blocks, parts and the file end.
    fn offset(&mut self) -> usize {
        let near = self.random.usize(0..3);
        let anywhere = self.random.usize(0..=self.size_max);
        match self.random.u8(0..10) {
            0 => self.content.len(),
            1 => 0,
            2 => (anywhere / (64 * KIB) * 64 * KIB + near).saturating_sub(1),
            3 => (anywhere / MIB * MIB + near).saturating_sub(1),
            _ => anywhere.min(self.content.len() + 100 * KIB),
        }
    }

    async fn step(&mut self) {
        let chosen = self.random.u8(0..40);
        if self.open.is_empty() || (self.open.len() < 4 && chosen < 3) {
            return self.open().await;
        }
        let which = self.random.usize(..self.open.len());
        let how = self.open[which].how;
        match chosen {
            0..=5 if self.open.len() > 1 || chosen == 0 => self.close(which).await,
            6..=8 if how.write => self.fsync(which).await,
            9..=11 if how.write => self.truncate(which).await,
            12 if how.write => self.punch(which).await,
            13..=27 if how.write => self.write(which).await,
            _ if how.read => self.read(which).await,
            _ => {}
        }
    }

    async fn open(&mut self) {
        let ways = [READ_WRITE, READ_WRITE, WRITE, APPEND, READ];
        let mut how = ways[self.random.usize(..ways.len())];
        let vfs = self.tree.vfs().clone();
        let is_there = self.published.is_some() || !self.open.is_empty();
        // What is written in order cannot be read before it is an object.
        if !is_there {
            how = READ_WRITE;
        }
        self.story.steps.push(format!("open {how:?}, there: {is_there}"));
        let (inode, handle) = if is_there {
            open(&vfs, FILE, how).await.expect("open")
        } else {
            let (entry, handle) = create(&vfs, FILE, how).await.expect("create");
            (entry.attributes.inode, handle)
        };
        let opened = Open { inode, handle, how, wrote: !is_there };
        // A reader takes what lives when it reads first.
        self.open.push(opened);
        if how == READ {
            self.read(self.open.len() - 1).await;
        }
    }

    async fn write(&mut self, which: usize) {
        let length = match self.random.u8(0..10) {
            0 => MIB,
            1..=3 => self.random.usize(1..300 * KIB),
            4 => 4 * KIB,
            _ => self.random.usize(1..2 * KIB),
        };
        let append = self.open[which].how.append;
        let offset = if append { self.content.len() } else { self.offset() };
        let length = length.min((self.size_max + MIB).saturating_sub(offset).max(1));
        let data = self.bytes(length);
        self.story.steps.push(format!("{which}: write {length} at {offset}, append {append}"));
        // What the kernel says of an append may be stale.
        let told = if append { self.random.usize(0..=offset) } else { offset };
        let vfs = self.tree.vfs().clone();
        let handle = self.open[which].handle;
        let written =
            vfs.write(handle, told as u64, Bytes::from(data.clone()), append, self.random.bool()).await;
        written.expect("write");
        if self.content.len() < offset + length {
            self.content.resize(offset + length, 0);
        }
        self.content[offset..offset + length].copy_from_slice(&data);
        self.open[which].wrote = true;
    }

    async fn truncate(&mut self, which: usize) {
        let bytes = self.offset();
        self.story.steps.push(format!("{which}: truncate to {bytes}"));
        let Open { inode, handle, .. } = self.open[which];
        if bytes == self.content.len() {
            return;
        }
        // Write-only truncation to nothing begins a file of its own.
        let bytes = if self.open[which].how.read { bytes } else { bytes.max(1) };
        truncate(self.tree.vfs(), inode, Some(handle), bytes as u64).await.expect("truncate");
        if bytes != self.content.len() {
            self.open[which].wrote = true;
        }
        self.content.resize(bytes, 0);
    }

    async fn punch(&mut self, which: usize) {
        let (offset, length) = (self.offset(), self.random.usize(1..200 * KIB));
        self.story.steps.push(format!("{which}: zeros {length} at {offset}"));
        let handle = self.open[which].handle;
        let vfs = self.tree.vfs().clone();
        vfs.fallocate(handle, Allocation::Zero, offset as u64, length as u64).await.expect("fallocate");
        self.content.resize(self.content.len().max(offset + length), 0);
        self.content[offset..offset + length].fill(0);
        self.open[which].wrote = true;
    }

    async fn read(&mut self, which: usize) {
        let offset = self.offset();
        let length = if self.random.bool() { 4 * KIB } else { self.random.usize(1..MIB) };
        self.story.steps.push(format!("{which}: read {length} at {offset}"));
        let Open { handle, how, .. } = self.open[which];
        let end = (offset + length).min(self.content.len());
        let expected = &self.content[offset.min(end)..end];
        match self.tree.vfs().read(handle, offset as u64, u32::try_from(length).expect("a length")).await {
            Ok(read) => {
                if how == READ && read != expected {
                    // It reads one version of the object, and no mixture.
                    let is_of = |whole: &Vec<u8>| {
                        let end = (offset + length).min(whole.len());
                        read == whole[offset.min(end)..end]
                    };
                    assert!(self.published.iter().chain(&self.history).any(is_of), "no version of the file");
                } else {
                    let differs = read.iter().zip(expected).position(|(read, expected)| read != expected);
                    let lengths = (read.len(), expected.len());
                    assert!(read == expected, "{lengths:?} bytes, the first that differs is {differs:?}");
                }
            }
            // Its object was replaced.
            Err(error) if how == READ => {
                assert!(error.to_string().contains("replaced"), "{error}");
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn fsync(&mut self, which: usize) {
        self.story.steps.push(format!("{which}: fsync"));
        self.tree.vfs().fsync(self.open[which].handle).await.expect("fsync");
        self.note_published(which);
    }

    async fn close(&mut self, which: usize) {
        self.story.steps.push(format!("{which}: close"));
        let handle = self.open[which].handle;
        self.tree.vfs().flush(handle, closer()).await.expect("flush");
        self.tree.vfs().release(handle).await.expect("release");
        self.note_published(which);
        self.open.remove(which);
    }

    /// One who wrote has published all there is, what others wrote included.
    fn note_published(&mut self, which: usize) {
        if std::mem::take(&mut self.open[which].wrote) {
            self.open.iter_mut().for_each(|open| open.wrote = false);
            self.history.extend(self.published.replace(self.content.clone()));
        }
    }

    async fn check(&self) {
        let held = self.tree.memory.content(FILE);
        let same = match (&held, &self.published) {
            (Some(held), Some(published)) => *held == published[..],
            (None, None) => true,
            // A file that was only created is published when it is closed.
            _ => false,
        };
        assert!(same, "the bucket has {:?} bytes", held.map(|held| held.len()));
        if self.open.iter().any(|open| open.how.write) {
            let shown = stat(self.tree.vfs(), FILE).await.expect("stat");
            assert_eq!(shown.bytes, self.content.len() as u64, "stat");
        }
    }
}

async fn run(seed: u64) -> u64 {
    let mut run = Run::new(seed);
    for _ in 0..STEPS {
        run.step().await;
        run.check().await;
    }
    while !run.open.is_empty() {
        run.close(0).await;
        run.check().await;
    }
    assert!(run.content == run.published.clone().unwrap_or_default());
    for _ in 0..200 {
        if run.tree.memory.keys() == [FILE] && run.tree.memory.open_upload_keys().is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(run.tree.memory.keys(), [FILE], "nothing is left below state_prefix");
    assert!(run.tree.memory.open_upload_keys().is_empty());
    run.tree.store.calls(Operation::UploadPart)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_holds_what_a_vector_of_bytes_does() {
    let mut parts = 0;
    let seeds = seeds::seeds(NAME, RUNS);
    let are_many = seeds.clone().count() > 1;
    for seed in seeds {
        parts += run(seed).await;
    }
    assert!(parts > 0 || !are_many, "no file was ever larger than one request");
}

/// Creates or opens, appends and closes, over and over; every turn a new file, whose creation they all fight for.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_appends_to_a_new_file_at_once_loses_nothing() {
    const WRITERS: u8 = 6;
    const WRITES: u8 = 4;
    let tree = Arc::new(Tree::new(&Plan::default()));
    for turn in 0..100 {
        let name = format!("log{turn}");
        let writers = (0..WRITERS).map(|writer| {
            let (tree, name) = (tree.clone(), name.clone());
            tokio::spawn(async move {
                for write in 0..WRITES {
                    let (_, handle) = create(tree.vfs(), &name, APPEND).await.expect("create");
                    let piece = Bytes::from(vec![writer * WRITES + write]);
                    tree.vfs().write(handle, 0, piece, true, false).await.expect("write");
                    tree.vfs().flush(handle, closer()).await.expect("flush");
                    tree.vfs().release(handle).await.expect("release");
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.expect("a writer");
        }
        let mut written = tree.memory.content(&name).expect("an object").to_vec();
        written.sort_unstable();
        assert_eq!(written, (0..WRITERS * WRITES).collect::<Vec<_>>(), "{name}");
    }
}
