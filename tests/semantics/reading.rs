//! Reading: one version, checked, and no more than is asked for.

use cosgate::{
    cos::{Crc64, Fault, Operation, Rule},
    vfs::VfsError,
};

use crate::{
    content, tree,
    tree::{READ, open, read_all, read_file, stat, unlink},
};

/// > A descriptor reads one version of an object: after a replacement, the old bytes that are here already or ESTALE, never a mixture.
#[tokio::test]
async fn a_reader_never_sees_a_mixture() {
    let tree = tree();
    let (old, new) = (content(30 << 20), content((30 << 20) + 1));
    for unlinks in [false, true] {
        tree.memory.insert("a", old.clone());
        let (_, handle) = open(tree.vfs(), "a", READ).await.unwrap();
        let first = tree.vfs().read(handle, 0, 100_000).await.unwrap();
        assert_eq!(first, old[..100_000]);
        if unlinks {
            unlink(tree.vfs(), "a").await.unwrap();
        } else {
            tree.memory.insert("a", new.clone());
        }
        let mut offset = 100_000;
        let ended = loop {
            match tree.vfs().read(handle, offset as u64, 1 << 20).await {
                Ok(bytes) if bytes.is_empty() => break Ok(()),
                Ok(bytes) => {
                    assert_eq!(bytes, old[offset..offset + bytes.len()], "at {offset}");
                    offset += bytes.len();
                }
                Err(error) => break Err(error),
            }
        };
        assert!(matches!(ended, Err(VfsError::ReplacedMeanwhile { .. })), "{ended:?}");
        tree.vfs().release(handle).await.unwrap();
    }
}

/// > A whole read in order is held to the checksum that the store told; a mismatch is an error at the last read.
#[tokio::test]
async fn whole_reads_are_checked() {
    let tree = tree();
    for bytes in [1000, 25 << 20] {
        tree.memory.insert("a", content(bytes));
        assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), content(bytes));
        tree.memory.change_meta("a", |meta| meta.crc64 = Some(Crc64(1)));
        let (_, handle) = open(tree.vfs(), "a", READ).await.unwrap();
        let read = read_all(tree.vfs(), handle, 1 << 20).await;
        assert!(matches!(read, Err(VfsError::Store { .. })), "{bytes}");
        tree.vfs().release(handle).await.unwrap();
        tree.memory.change_meta("a", |meta| meta.crc64 = None);
        assert_eq!(read_file(tree.vfs(), "a").await.unwrap().len(), bytes);
    }
}

/// > A body that breaks off is asked for again from where it stopped, of the same version.
#[tokio::test]
async fn broken_bodies_go_on_where_they_stopped() {
    let tree = tree();
    let bytes = content(12 << 20);
    tree.memory.insert("a", bytes.clone());
    tree.store.inject(Rule::on(Operation::GetObject).times(3), Fault::CutBody(700_000));
    assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), bytes);
    // One that never brings a byte ends in an error.
    tree.store.inject(Rule::on(Operation::GetObject).always(), Fault::CutBody(0));
    let (_, handle) = open(tree.vfs(), "a", READ).await.unwrap();
    assert!(matches!(tree.vfs().read(handle, 0, 1000).await, Err(VfsError::Store { .. })));
}

/// > Random reads fetch the bytes that were asked for and nothing more.
#[tokio::test]
async fn random_reads_fetch_nothing_else() {
    let tree = tree();
    let bytes = content(64 << 20);
    tree.memory.insert("a", bytes.clone());
    let (_, handle) = open(tree.vfs(), "a", READ).await.unwrap();
    let mut random = fastrand::Rng::with_seed(1);
    for number in 1..=100_u64 {
        let offset = random.u64(1..1000) * 65_536;
        let read = tree.vfs().read(handle, offset, 65_536).await.unwrap();
        assert_eq!(read, bytes[usize::try_from(offset).unwrap()..][..65_536]);
        assert!(tree.store.calls(Operation::GetObject) <= number);
    }
    assert!(tree.store.bytes_asked() <= 100 * 65_536, "read-ahead would ask for a MiB and more");
}

/// > A small file is read with one request.
#[tokio::test]
async fn a_small_file_is_one_get() {
    let tree = tree();
    tree.memory.insert("a", content(1 << 20));
    stat(tree.vfs(), "a").await.unwrap();
    assert_eq!(read_file(tree.vfs(), "a").await.unwrap(), content(1 << 20));
    assert_eq!(tree.store.calls(Operation::GetObject), 1);
    assert_eq!(tree.store.calls(Operation::HeadObject), 0);
}
