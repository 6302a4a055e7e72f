//! Random operations on `Vfs` over a bucket in memory, beside a map of names; after each one, both hold the same,
//! and the quota has counted what the bucket holds.
//!
//! Two views of one bucket take turns, lists lag and catch up, and the time for which answers are trusted is
//! nothing at all in one half of the runs. A failing run prints its seed; `COSGATE_MODEL_SEED` runs it alone,
//! `COSGATE_MODEL_RUNS` so many new ones.

#[path = "common/seeds.rs"]
mod seeds;
#[path = "common/tree.rs"]
mod tree;

use std::{collections::BTreeMap, time::Duration};

use cosgate::{
    config::QuotaConfig,
    vfs::{Vfs, VfsError, VfsResult},
};
use seeds::Story;
use tree::{
    ALL, NEW, Plan, Tree, closer, create, is_directory, list, mkdir, read_file, rename, rmdir, stat, unlink,
    write, write_file,
};

const NAME: &str = "COSGATE_MODEL";
const RUNS: u64 = 120;
const STEPS: usize = 40;
/// More than all steps can store.
const QUOTA_BYTES: u64 = 1 << 40;
const QUOTA_FILES: u64 = 1 << 20;
/// Few, so that steps meet; one is the beginning of another.
const NAMES: [&str; 4] = ["a", "b", "a-b", "深"];

/// What should be there: files with their bytes; `None` is a directory.
type Model = BTreeMap<String, Option<Vec<u8>>>;

#[derive(Debug)]
enum Step {
    Write(String, Vec<u8>),
    /// Open, write, and go away without an end: the process was killed.
    Killed(String, Vec<u8>),
    Mkdir(String),
    Unlink(String),
    Rmdir(String),
    Rename(String, String, bool),
    Lag,
    CatchUp,
}

fn name(random: &mut fastrand::Rng) -> String {
    let depth = random.usize(1..=3);
    let pieces: Vec<&str> = (0..depth).map(|_| NAMES[random.usize(..NAMES.len())]).collect();
    pieces.join("/")
}

fn step(random: &mut fastrand::Rng) -> Step {
    let content = |random: &mut fastrand::Rng| {
        let length = random.usize(0..40);
        (0..length).map(|_| random.u8(..)).collect()
    };
    match random.u8(0..20) {
        0..=5 => Step::Write(name(random), content(random)),
        6 => Step::Killed(name(random), content(random)),
        7..=9 => Step::Mkdir(name(random)),
        10..=12 => Step::Unlink(name(random)),
        13..=14 => Step::Rmdir(name(random)),
        15..=17 => Step::Rename(name(random), name(random), random.bool()),
        18 => Step::Lag,
        _ => Step::CatchUp,
    }
}

fn parent_of(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}

fn has_parent(model: &Model, path: &str) -> bool {
    parent_of(path).is_none_or(|parent| matches!(model.get(parent), Some(None)))
}

fn is_empty(model: &Model, path: &str) -> bool {
    !model.keys().any(|other| other.starts_with(&format!("{path}/")))
}

/// What POSIX says of the step; true: it succeeds, and the model has taken it.
fn expect(model: &mut Model, step: &Step) -> bool {
    match step {
        Step::Write(path, content) => {
            if !has_parent(model, path) || matches!(model.get(path), Some(None)) {
                return false;
            }
            model.insert(path.clone(), Some(content.clone()));
            true
        }
        Step::Killed(path, _) => has_parent(model, path) && !matches!(model.get(path), Some(None)),
        Step::Mkdir(path) => {
            if !has_parent(model, path) || model.contains_key(path) {
                return false;
            }
            model.insert(path.clone(), None);
            true
        }
        Step::Unlink(path) => {
            let is_file = has_parent(model, path) && matches!(model.get(path), Some(Some(_)));
            if is_file {
                model.remove(path);
            }
            is_file
        }
        Step::Rmdir(path) => {
            let can =
                has_parent(model, path) && matches!(model.get(path), Some(None)) && is_empty(model, path);
            if can {
                model.remove(path);
            }
            can
        }
        Step::Rename(from, to, no_replace) => expect_rename(model, from, to, *no_replace),
        Step::Lag | Step::CatchUp => true,
    }
}

fn expect_rename(model: &mut Model, from: &str, to: &str, no_replace: bool) -> bool {
    if !has_parent(model, from) || !has_parent(model, to) || !model.contains_key(from) {
        return false;
    }
    if from == to {
        return !no_replace;
    }
    let is_directory = model[from].is_none();
    let fits = match model.get(to) {
        None => true,
        Some(_) if no_replace => false,
        Some(None) => is_directory && is_empty(model, to),
        Some(Some(_)) => !is_directory,
    };
    if !fits || (is_directory && to.starts_with(&format!("{from}/"))) {
        return false;
    }
    let moved: Vec<String> =
        model.keys().filter(|key| *key == from || key.starts_with(&format!("{from}/"))).cloned().collect();
    model.remove(to);
    for key in moved {
        let node = model.remove(&key).expect("it was found a line above");
        model.insert(format!("{to}{}", &key[from.len()..]), node);
    }
    true
}

async fn perform(tree: &Tree, vfs: &Vfs, step: &Step) -> VfsResult<()> {
    match step {
        Step::Write(path, content) => write_file(vfs, path, content).await,
        Step::Killed(path, content) => {
            let (_, handle) = create(vfs, path, NEW).await?;
            write(vfs, handle, 0, content).await?;
            let closed = vfs.flush(handle, cosgate::vfs::Closer { killed: true, ..closer() }).await;
            // A file of no bytes is published by release; a killed process has discarded it before.
            closed.and(vfs.release(handle).await)
        }
        Step::Mkdir(path) => mkdir(vfs, path).await,
        Step::Unlink(path) => unlink(vfs, path).await,
        Step::Rmdir(path) => rmdir(vfs, path).await,
        Step::Rename(from, to, no_replace) => rename(vfs, from, to, *no_replace).await,
        Step::Lag => {
            tree.memory.lists_lag();
            Ok(())
        }
        Step::CatchUp => {
            tree.memory.lists_catch_up();
            Ok(())
        }
    }
}

/// All that a view shows, by walking it.
async fn seen(vfs: &Vfs) -> VfsResult<Model> {
    let mut model = Model::new();
    let mut open = vec![String::new()];
    while let Some(directory) = open.pop() {
        for (name, attributes) in list(vfs, &directory).await? {
            let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            let looked_up = stat(vfs, &path).await?;
            assert_eq!((looked_up.kind, looked_up.bytes), (attributes.kind, attributes.bytes), "{path}");
            if is_directory(&attributes) {
                open.push(path.clone());
                model.insert(path, None);
            } else {
                let content = read_file(vfs, &path).await?;
                assert_eq!(content.len() as u64, attributes.bytes, "{path}");
                model.insert(path, Some(content));
            }
        }
    }
    Ok(model)
}

async fn run(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let attr_ttl = if seed.is_multiple_of(2) { Duration::ZERO } else { Duration::from_secs(60) };
    let prefix = if seed.is_multiple_of(3) { "in/" } else { "" };
    let quota = QuotaConfig { bytes: Some(QUOTA_BYTES), files: Some(QUOTA_FILES) };
    let plan = Plan { attr_ttl, prefix, quota, policies: vec![ALL; 2], ..Plan::default() };
    let tree = Tree::new(&plan);
    let mut model = Model::new();
    let mut story = Story::new(NAME, seed);
    for _ in 0..STEPS {
        let step = step(&mut random);
        let should = expect(&mut model, &step);
        let view = random.usize(0..2);
        story.steps.push(format!("{view}: {step:?}"));
        let done = perform(&tree, &tree.views[view], &step).await;
        assert_eq!(done.is_ok(), should, "{done:?}");
        assert!(!matches!(done, Err(VfsError::Store { .. } | VfsError::Busy { .. })), "{done:?}");
        for vfs in &tree.views {
            assert_eq!(seen(vfs).await.expect("what is shown can be walked"), model);
        }
        for name in ["a", "a/b", "深"].into_iter().filter(|name| !model.contains_key(*name)) {
            let looked_up = stat(tree.vfs(), name).await;
            let is_absent =
                matches!(looked_up, Err(VfsError::NotFound { .. } | VfsError::NotDirectory { .. }));
            assert!(is_absent, "{name}: {looked_up:?}");
        }
        assert!(tree.memory.open_upload_keys().is_empty());
        assert_eq!(counted(&tree), stored(&tree), "what is counted is what is stored");
    }
}

/// Bytes and objects, as the quota counts them.
fn counted(tree: &Tree) -> (u64, u64) {
    let space = tree.vfs().statfs();
    (QUOTA_BYTES - space.bytes_free, QUOTA_FILES - space.files_free)
}

fn stored(tree: &Tree) -> (u64, u64) {
    let keys = tree.memory.keys();
    let sizes = keys.iter().map(|key| tree.memory.meta(key).map_or(0, |meta| meta.size));
    (sizes.sum(), keys.len() as u64)
}

#[tokio::test]
async fn a_mount_does_what_a_map_of_names_does() {
    for seed in seeds::seeds(NAME, RUNS) {
        run(seed).await;
    }
}
