//! The file system without a kernel, a wire and a store of its own: what each piece costs in `Vfs`, over a
//! bucket in memory.
//!
//! ```text
//! cargo bench --bench pieces [-- NAME]
//! ```
//!
//! Before and after a change on the same machine is what the figures are for; criterion keeps those of the
//! last run and tells the difference.

#![expect(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

#[path = "../tests/common/tree.rs"]
mod tree;

use std::{ffi::OsStr, hint::black_box, time::Duration};

use bytes::Bytes;
use cosgate::{
    cos::Crc64,
    vfs::{HandleNo, Vfs},
};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use tokio::runtime::Runtime;
use tree::{NEW, Plan, READ, ROOT, Tree, closer, create, open, write_file};

const MIB: u64 = 1 << 20;
const FILE_BYTES: u64 = 64 * MIB;
/// What the kernel asks for at a time.
const PIECE_BYTES: u32 = 1 << 20;
const RANDOM_BYTES: u32 = 64 << 10;
const NAMES: usize = 10_000;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

fn tree(runtime: &Runtime, attr_ttl: Duration) -> Tree {
    let _inside = runtime.enter();
    Tree::new(&Plan { attr_ttl, memory_bytes: 256 * MIB, ..Plan::default() })
}

async fn close(vfs: &Vfs, handle: HandleNo) {
    vfs.flush(handle, closer()).await.unwrap();
    vfs.release(handle).await.unwrap();
}

fn checksums(criterion: &mut Criterion) {
    let content = vec![7; PIECE_BYTES as usize];
    let sum = Crc64::of(&content);
    let mut group = criterion.benchmark_group("crc64");
    group.throughput(Throughput::Bytes(u64::from(PIECE_BYTES)));
    group.bench_function("of 1 MiB", |bencher| bencher.iter(|| Crc64::of(black_box(&content))));
    group.finish();
    criterion.bench_function("crc64 combined", |bencher| {
        bencher.iter(|| black_box(sum).followed_by(sum, u64::from(PIECE_BYTES)));
    });
}

fn contents(criterion: &mut Criterion) {
    let runtime = runtime();
    let tree = tree(&runtime, Duration::from_secs(3600));
    let vfs = tree.vfs();
    let piece = Bytes::from(vec![7; PIECE_BYTES as usize]);
    let mut group = criterion.benchmark_group("content");
    group.sample_size(20).throughput(Throughput::Bytes(FILE_BYTES));
    group.bench_function("write in order", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let (_, handle) = create(vfs, "large", NEW).await.unwrap();
                for offset in (0..FILE_BYTES).step_by(PIECE_BYTES as usize) {
                    vfs.write(handle, offset, piece.clone(), false, false).await.unwrap();
                }
                close(vfs, handle).await;
            });
        });
    });
    group.bench_function("read in order", |bencher| {
        bencher.iter(|| {
            runtime.block_on(async {
                let (_, handle) = open(vfs, "large", READ).await.unwrap();
                for offset in (0..FILE_BYTES).step_by(PIECE_BYTES as usize) {
                    black_box(vfs.read(handle, offset, PIECE_BYTES).await.unwrap());
                }
                vfs.release(handle).await.unwrap();
            });
        });
    });
    group.throughput(Throughput::Bytes(u64::from(RANDOM_BYTES)));
    let (_, handle) = runtime.block_on(open(vfs, "large", READ)).unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    group.bench_function("read at random", |bencher| {
        bencher.iter(|| {
            let offset = random.u64(0..FILE_BYTES / u64::from(RANDOM_BYTES)) * u64::from(RANDOM_BYTES);
            black_box(runtime.block_on(vfs.read(handle, offset, RANDOM_BYTES)).unwrap());
        });
    });
    runtime.block_on(vfs.release(handle)).unwrap();
    group.finish();
    let small = vec![7; 10 << 10];
    criterion.bench_function("a small file is stored", |bencher| {
        bencher.iter(|| runtime.block_on(write_file(vfs, "small", &small)).unwrap());
    });
}

/// All entries of the root, as READDIRPLUS takes them; the kernel forgets them again.
async fn list(vfs: &Vfs) -> usize {
    let handle = vfs.opendir(ROOT).await.unwrap();
    let (mut offset, mut names) = (0, 0);
    loop {
        let mut taken = Vec::with_capacity(32);
        let mut take = |entry: &cosgate::vfs::DirectoryEntry| {
            let has_room = taken.len() < 32;
            if has_room {
                taken.push((entry.next_offset, entry.entry.attributes.inode));
            }
            has_room
        };
        vfs.readdir(handle, offset, true, &mut take).await.unwrap();
        let Some(&(next, _)) = taken.last() else { break };
        offset = next;
        names += taken.len();
        taken.into_iter().filter(|(_, inode)| *inode != ROOT).for_each(|(_, inode)| vfs.forget(inode, 1));
    }
    vfs.releasedir(handle);
    names
}

fn names(criterion: &mut Criterion) {
    let runtime = runtime();
    let mut group = criterion.benchmark_group("names");
    group.sample_size(20).throughput(Throughput::Elements(NAMES as u64));
    for (what, attr_ttl) in [("list, cold", Duration::ZERO), ("list, warm", Duration::from_secs(3600))] {
        let tree = tree(&runtime, attr_ttl);
        runtime.block_on(async {
            for number in 0..NAMES {
                write_file(tree.vfs(), &format!("name-{number:05}"), b"x").await.unwrap();
            }
        });
        group.bench_function(what, |bencher| {
            bencher.iter(|| assert_eq!(runtime.block_on(list(tree.vfs())), NAMES + 2));
        });
        if attr_ttl.is_zero() {
            continue;
        }
        group.throughput(Throughput::Elements(1));
        group.bench_function("lookup of a known name", |bencher| {
            bencher.iter(|| {
                let entry = runtime.block_on(tree.vfs().lookup(ROOT, OsStr::new("name-00007"))).unwrap();
                tree.vfs().forget(entry.attributes.inode, 1);
            });
        });
    }
    group.finish();
}

criterion_group!(pieces, checksums, contents, names);
criterion_main!(pieces);
