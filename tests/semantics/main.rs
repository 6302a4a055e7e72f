//! The promises of `docs/SEMANTICS.md`, one test each, the promise quoted above it; a module for each chapter.
//!
//! These are over `Vfs` and a bucket in memory; what needs a kernel or an FTP client stands in other files.

#[path = "../common/tree.rs"]
mod tree;

mod editing;
mod freshness;
mod memory;
mod metadata;
mod names;
mod publishing;
mod reading;
mod requests;
mod rights;

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use cosgate::{
    config::PolicyConfig,
    vfs::{Entry, HandleNo, InodeNo, Vfs},
};
use tree::{ALL, NEW, Plan, Tree, close, create, walk, write};

fn tree() -> Tree {
    Tree::new(&Plan::default())
}

fn restless() -> Plan {
    Plan { attr_ttl: Duration::ZERO, ..Plan::default() }
}

async fn begin(vfs: &Vfs, path: &str, content: &[u8]) -> (Entry, HandleNo) {
    let (entry, handle) = create(vfs, path, NEW).await.expect("it can be created");
    write(vfs, handle, 0, content).await.expect("it takes bytes");
    (entry, handle)
}

fn content(length: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(length as u64);
    (0..length).map(|_| random.u8(..)).collect()
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..500 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} did not come to hold within 5 s");
}

fn under(policy: PolicyConfig) -> Plan {
    Plan { policies: vec![ALL, policy], ..Plan::default() }
}

async fn inode_of(vfs: &Vfs, path: &str) -> InodeNo {
    let (parent, name) = walk(vfs, path).await.expect("the directory is there");
    vfs.lookup(parent, &name).await.expect("the name is there").attributes.inode
}

/// The document and the tests say the same.
#[test]
fn every_promise_has_a_test_that_quotes_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(root.join("docs/SEMANTICS.md")).unwrap();
    let promises: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("- ")).collect();
    assert!(promises.len() > 40);
    let mut quotes = BTreeSet::new();
    let mut folders = vec![root.join("tests")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let source = fs::read_to_string(path).unwrap();
                quotes
                    .extend(source.lines().filter_map(|line| line.strip_prefix("/// > ")).map(str::to_owned));
            }
        }
    }
    for promise in &promises {
        assert!(quotes.contains(*promise), "no test quotes: {promise}");
    }
    for quote in quotes {
        assert!(promises.contains(&quote.as_str()), "docs/SEMANTICS.md does not say: {quote}");
    }
}
