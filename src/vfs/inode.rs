//! The inode table: numbers for a tree of names, held as long as the kernel or a handle holds them.
//!
//! Every inode is one node with its parent and its name, so a directory's rename relinks one node and
//! its children follow. The table holds what the kernel has looked up and not yet forgotten, what handles
//! have open, and the directories above; everything else is found again when it is asked for.
//!
//! ```text
//! (parent, name) ──index──> node ──parent──> node ── … ──> root
//! ```
//!
//! A node may lose its name: *gone* when the name was unlinked or replaced, *detached* when a writer truncated
//! it and the name now leads to a second inode with the published object. No I/O, no clock.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    time::{Duration, Instant},
};

use super::{
    FileKind, InodeNo,
    attr::{Facts, PackedETag, from_seconds, seconds},
};

/// The root of the mount.
pub(super) const ROOT: InodeNo = InodeNo(1);

const NONE: u32 = 0;
const ROOT_SLOT: u32 = 1;

/// How a node stands to the name it was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Link {
    /// The name leads here.
    Named,
    /// A writer's inode; the name leads to another one, which shows what is published.
    Detached,
    /// The name was unlinked, or something else was renamed onto it.
    Gone,
}

/// What the table tells of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) facts: Facts,
    pub(super) link: Link,
    pub(super) parent: InodeNo,
    pub(super) name: Box<str>,
    /// When the facts were true, if ever they were asked for.
    pub(super) seen: Option<Instant>,
}

#[derive(Debug)]
struct Node {
    name: Box<str>,
    etag: Option<PackedETag>,
    bytes: u64,
    /// Nanoseconds since the table's birth, plus one; 0 = never.
    seen: u64,
    lookups: u64,
    modified: u64,
    parent: u32,
    children: u32,
    pins: u32,
    /// The next node whose (parent, name) has the same hash; of a free slot the next free one.
    next: u32,
    generation: u32,
    kind: FileKind,
    link: Link,
    is_free: bool,
}

/// All inodes of one mount. Numbers are a slot and the count of its uses before, so none comes twice.
#[derive(Debug)]
pub(super) struct InodeTable {
    nodes: Vec<Node>,
    index: HashMap<u64, u32, Unhashed>,
    free: u32,
    hasher: RandomState,
    born: Instant,
    name_bytes: usize,
    live: usize,
}

impl InodeTable {
    pub(super) fn new(root: &Facts, now: Instant) -> Self {
        let mut table = Self {
            nodes: vec![Node::empty(), Node::empty()],
            index: HashMap::default(),
            free: NONE,
            hasher: RandomState::new(),
            born: now,
            name_bytes: 0,
            live: 1,
        };
        let node = table.node_mut(ROOT_SLOT);
        node.is_free = false;
        node.lookups = 1;
        node.link = Link::Named;
        table.set_facts(ROOT_SLOT, root, Some(now));
        table
    }

    /// The inode of a name, if the table holds one.
    pub(super) fn find(&self, parent: InodeNo, name: &str) -> Option<InodeNo> {
        let parent = self.slot(parent)?;
        self.find_slot(parent, name).map(|slot| self.number(slot))
    }

    /// The inode of a name, and what is known of it.
    pub(super) fn named(&self, parent: InodeNo, name: &str) -> Option<(InodeNo, Known)> {
        let inode = self.find(parent, name)?;
        Some((inode, self.known(inode)?))
    }

    /// What is known of an inode.
    pub(super) fn known(&self, inode: InodeNo) -> Option<Known> {
        let slot = self.slot(inode)?;
        let node = self.node(slot);
        Some(Known {
            facts: self.facts(slot),
            link: node.link,
            parent: self.number(if node.parent == NONE { ROOT_SLOT } else { node.parent }),
            name: node.name.clone(),
            seen: node.seen.checked_sub(1).map(|nanos| self.born + Duration::from_nanos(nanos)),
        })
    }

    /// The inode of a name, made or brought up to date with what is known now. An inode of the other kind
    /// is gone, and a new one takes the name. `None` where the parent is not a directory that exists.
    pub(super) fn ensure(
        &mut self,
        parent: InodeNo,
        name: &str,
        facts: &Facts,
        seen: Option<Instant>,
    ) -> Option<InodeNo> {
        let parent_slot = self.slot(parent)?;
        let above = self.node(parent_slot);
        if above.kind != FileKind::Directory || above.link != Link::Named {
            return None;
        }
        let named = self.find_slot(parent_slot, name);
        if let Some(slot) = named {
            let node = self.node(slot);
            if node.kind == facts.kind {
                // An answer that was asked for earlier than what is known already tells nothing new; and a file that its
                // writer alone knows becomes an object by his publication, not by an answer about the one before.
                let is_its_writers = node.kind == FileKind::File && node.etag.is_none();
                if self.since_birth(seen) >= node.seen && !is_its_writers {
                    self.set_facts(slot, facts, seen);
                }
                return Some(self.number(slot));
            }
            self.lose_name(slot, Link::Gone);
        }
        let slot = self.take_slot(name.into());
        self.set_facts(slot, facts, seen);
        self.link(slot, parent_slot);
        // Not before: the directory above may be held by it alone.
        if let Some(other) = named {
            self.reap(other);
        }
        Some(self.number(slot))
    }

    /// A second inode for a file that a writer begins anew while its name still shows what is published.
    /// It has no name of its own: `parent` and `name` only say where it will be published.
    pub(super) fn beside(&mut self, parent: InodeNo, name: &str, facts: &Facts) -> Option<InodeNo> {
        let parent_slot = self.slot(parent)?;
        let slot = self.take_slot(name.into());
        self.set_facts(slot, facts, None);
        let node = self.node_mut(slot);
        node.link = Link::Detached;
        node.parent = parent_slot;
        self.node_mut(parent_slot).children += 1;
        Some(self.number(slot))
    }

    /// Takes the name from an inode that a writer truncates, and gives it to a second one with the same facts.
    pub(super) fn detach(&mut self, inode: InodeNo) -> Option<InodeNo> {
        let slot = self.slot(inode).filter(|slot| self.node(*slot).link == Link::Named)?;
        let Known { facts, parent, name, seen, .. } = self.known(inode)?;
        self.lose_name(slot, Link::Detached);
        self.ensure(parent, &name, &facts, seen)
    }

    /// New facts for an inode, whatever its name. A link stays one: the kernel knows no inode that changes
    /// its kind.
    pub(super) fn update(&mut self, inode: InodeNo, facts: &Facts, seen: Option<Instant>) {
        if let Some(slot) = self.slot(inode) {
            let was_link = self.node(slot).kind == FileKind::Symlink;
            self.set_facts(slot, facts, seen);
            if was_link {
                self.node_mut(slot).kind = FileKind::Symlink;
            }
        }
    }

    /// The name leads nowhere any more. The inode that had it.
    pub(super) fn unlink(&mut self, parent: InodeNo, name: &str) -> Option<InodeNo> {
        let slot = self.find_slot(self.slot(parent)?, name)?;
        let number = self.number(slot);
        self.lose_name(slot, Link::Gone);
        self.reap(slot);
        Some(number)
    }

    /// Nothing has a name, says an answer that was asked for when `held` had it. What has it all the same, and keeps it:
    /// a file that its writer alone knows, or what came or changed since, which is no older than the answer.
    pub(super) fn vanish(
        &mut self,
        parent: InodeNo,
        name: &str,
        held: Option<&(InodeNo, Known)>,
    ) -> Option<(InodeNo, Known)> {
        let now = self.named(parent, name)?;
        let is_unpublished = now.1.facts.etag.is_none() && !now.1.facts.is_directory();
        if is_unpublished || held != Some(&now) {
            return Some(now);
        }
        self.unlink(parent, name);
        None
    }

    /// An inode without a name whose file will never be published.
    pub(super) fn abandon(&mut self, inode: InodeNo) {
        if let Some(slot) = self.slot(inode).filter(|slot| *slot != ROOT_SLOT) {
            if self.node(slot).link == Link::Named {
                self.lose_name(slot, Link::Gone);
                self.reap(slot);
            } else {
                self.node_mut(slot).link = Link::Gone;
            }
        }
    }

    /// What stood under one name stands under another one; what stood there is gone.
    pub(super) fn rename(&mut self, parent: InodeNo, name: &str, new_parent: InodeNo, new_name: &str) {
        self.unlink(new_parent, new_name);
        let Some(slot) = self.slot(parent).and_then(|parent| self.find_slot(parent, name)) else { return };
        let Some(new_parent) = self.slot(new_parent) else { return };
        self.take_from_index(slot);
        let old_parent = self.node(slot).parent;
        self.name_bytes = self.name_bytes + new_name.len() - self.node(slot).name.len();
        self.node_mut(slot).name = new_name.into();
        self.node_mut(old_parent).children -= 1;
        self.link(slot, new_parent);
        self.reap(old_parent);
    }

    /// The text below the root that an inode's name makes, without a slash at either end; empty for the root.
    /// `None` once it, or a directory above, is gone.
    pub(super) fn path(&self, inode: InodeNo) -> Option<String> {
        let mut pieces = Vec::new();
        let mut slot = self.slot(inode)?;
        while slot != ROOT_SLOT {
            let node = self.node(slot);
            if node.link == Link::Gone {
                return None;
            }
            pieces.push(&*node.name);
            slot = node.parent;
        }
        pieces.reverse();
        Some(pieces.join("/"))
    }

    /// The kernel holds an inode once more.
    pub(super) fn remember(&mut self, inode: InodeNo) {
        if let Some(slot) = self.slot(inode) {
            self.node_mut(slot).lookups += 1;
        }
    }

    /// The kernel holds an inode `lookups` times less.
    pub(super) fn forget(&mut self, inode: InodeNo, lookups: u64) {
        if let Some(slot) = self.slot(inode).filter(|slot| *slot != ROOT_SLOT) {
            let node = self.node_mut(slot);
            node.lookups = node.lookups.saturating_sub(lookups);
            self.reap(slot);
        }
    }

    /// A handle, or an operation under way, holds an inode.
    pub(super) fn pin(&mut self, inode: InodeNo) {
        if let Some(slot) = self.slot(inode) {
            self.node_mut(slot).pins += 1;
        }
    }

    /// The opposite of [`Self::pin`].
    pub(super) fn unpin(&mut self, inode: InodeNo) {
        if let Some(slot) = self.slot(inode) {
            let node = self.node_mut(slot);
            node.pins = node.pins.saturating_sub(1);
            self.reap(slot);
        }
    }

    /// Inodes in the table.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// Bytes of memory, about: nodes, index entries, names with their share of the allocator.
    pub(super) fn memory_bytes(&self) -> usize {
        self.nodes.capacity() * size_of::<Node>() + self.live * 48 + self.name_bytes
    }

    fn facts(&self, slot: u32) -> Facts {
        let node = self.node(slot);
        Facts {
            kind: node.kind,
            bytes: node.bytes,
            modified: from_seconds(node.modified),
            etag: node.etag.clone(),
        }
    }

    fn set_facts(&mut self, slot: u32, facts: &Facts, seen: Option<Instant>) {
        let seen = self.since_birth(seen);
        let node = self.node_mut(slot);
        node.kind = facts.kind;
        node.bytes = facts.bytes;
        node.modified = seconds(facts.modified);
        node.etag.clone_from(&facts.etag);
        node.seen = seen;
    }

    /// As [`Node::seen`] keeps it.
    fn since_birth(&self, seen: Option<Instant>) -> u64 {
        let since = |at: Instant| at.saturating_duration_since(self.born).as_nanos();
        seen.map_or(0, |at| u64::try_from(since(at)).unwrap_or(u64::MAX - 1) + 1)
    }

    fn link(&mut self, slot: u32, parent: u32) {
        let hash = self.hash(parent, &self.node(slot).name);
        let next = self.index.insert(hash, slot).unwrap_or(NONE);
        let node = self.node_mut(slot);
        node.next = next;
        node.parent = parent;
        node.link = Link::Named;
        self.node_mut(parent).children += 1;
    }

    fn lose_name(&mut self, slot: u32, link: Link) {
        self.take_from_index(slot);
        self.node_mut(slot).link = link;
    }

    fn take_from_index(&mut self, slot: u32) {
        let node = self.node(slot);
        if node.link != Link::Named {
            return;
        }
        let hash = self.hash(node.parent, &node.name);
        let next = node.next;
        let Some(first) = self.index.get(&hash).copied() else { return };
        if first == slot {
            if next == NONE {
                self.index.remove(&hash);
            } else {
                self.index.insert(hash, next);
            }
        } else {
            let mut before = first;
            while before != NONE && self.node(before).next != slot {
                before = self.node(before).next;
            }
            self.node_mut(before).next = next;
        }
        self.node_mut(slot).next = NONE;
    }

    /// Frees a node that nobody holds, and the directories above that were only held by it.
    fn reap(&mut self, mut slot: u32) {
        loop {
            let node = self.node(slot);
            let is_held = node.lookups > 0 || node.pins > 0 || node.children > 0;
            if slot == ROOT_SLOT || node.is_free || is_held {
                return;
            }
            self.take_from_index(slot);
            let free = self.free;
            let node = self.node_mut(slot);
            let parent = node.parent;
            let name = std::mem::take(&mut node.name);
            let generation = node.generation.wrapping_add(1);
            *node = Node { next: free, generation, ..Node::empty() };
            self.name_bytes -= name.len();
            self.live -= 1;
            self.free = slot;
            self.node_mut(parent).children -= 1;
            slot = parent;
        }
    }

    fn take_slot(&mut self, name: Box<str>) -> u32 {
        self.live += 1;
        self.name_bytes += name.len();
        let mut slot = self.free;
        if slot == NONE {
            slot = u32::try_from(self.nodes.len()).expect("memory ends long before four billion inodes");
            self.nodes.push(Node::empty());
        } else {
            self.free = self.node(slot).next;
        }
        let node = self.node_mut(slot);
        node.is_free = false;
        node.next = NONE;
        node.name = name;
        slot
    }

    fn find_slot(&self, parent: u32, name: &str) -> Option<u32> {
        let mut slot = self.index.get(&self.hash(parent, name)).copied()?;
        while slot != NONE {
            let node = self.node(slot);
            if node.parent == parent && &*node.name == name {
                return Some(slot);
            }
            slot = node.next;
        }
        None
    }

    fn hash(&self, parent: u32, name: &str) -> u64 {
        self.hasher.hash_one((parent, name))
    }

    fn number(&self, slot: u32) -> InodeNo {
        InodeNo((u64::from(self.node(slot).generation) << 32) | u64::from(slot))
    }

    fn slot(&self, inode: InodeNo) -> Option<u32> {
        let slot = u32::try_from(inode.0 & u64::from(u32::MAX)).ok()?;
        let node = self.nodes.get(slot as usize)?;
        (slot != NONE && !node.is_free && u64::from(node.generation) == inode.0 >> 32).then_some(slot)
    }

    fn node(&self, slot: u32) -> &Node {
        &self.nodes[slot as usize]
    }

    fn node_mut(&mut self, slot: u32) -> &mut Node {
        &mut self.nodes[slot as usize]
    }
}

impl Node {
    fn empty() -> Self {
        Self {
            name: Box::default(),
            etag: None,
            bytes: 0,
            seen: 0,
            lookups: 0,
            modified: 0,
            parent: NONE,
            children: 0,
            pins: 0,
            next: NONE,
            generation: 0,
            kind: FileKind::Directory,
            link: Link::Gone,
            is_free: true,
        }
    }
}

/// The index's keys are hashes already.
type Unhashed = std::hash::BuildHasherDefault<Identity>;

#[derive(Debug, Default)]
struct Identity(u64);

impl std::hash::Hasher for Identity {
    fn write(&mut self, _bytes: &[u8]) {
        unreachable!("the index hashes nothing but u64")
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::cos::ETag;

    fn directory() -> Facts {
        Facts::directory(SystemTime::UNIX_EPOCH)
    }

    fn file(bytes: u64) -> Facts {
        Facts::of_object(bytes, from_seconds(7), &ETag::new("ee8de918d05640145b18f70f4c3aa602"))
    }

    fn table() -> InodeTable {
        InodeTable::new(&directory(), Instant::now())
    }

    fn looked_up(table: &mut InodeTable, parent: InodeNo, name: &str, facts: &Facts) -> InodeNo {
        let inode = table.ensure(parent, name, facts, Some(Instant::now())).unwrap();
        table.remember(inode);
        inode
    }

    #[test]
    fn a_renamed_directory_takes_its_children_along() {
        let mut table = table();
        let a = looked_up(&mut table, ROOT, "a", &directory());
        let x = looked_up(&mut table, a, "x", &file(1));
        let b = looked_up(&mut table, ROOT, "b", &directory());
        table.rename(ROOT, "a", b, "c");
        assert_eq!(table.path(x).as_deref(), Some("b/c/x"));
        assert_eq!(table.find(ROOT, "a"), None);
        assert_eq!(table.find(b, "c"), Some(a));
    }

    #[test]
    fn forgotten_inodes_leave_nothing_and_numbers_never_come_twice() {
        let mut table = table();
        let a = looked_up(&mut table, ROOT, "a", &directory());
        let x = looked_up(&mut table, a, "x", &file(1));
        table.remember(x);
        table.forget(a, 1);
        assert_eq!(table.path(x).as_deref(), Some("a/x"), "the child still holds the directory");
        table.forget(x, 1);
        assert_eq!(table.len(), 3);
        table.forget(x, 1);
        assert_eq!(table.len(), 1);
        assert_eq!(table.known(x), None);
        let again = looked_up(&mut table, ROOT, "a", &directory());
        assert!(again != a && again != x, "{again:?}");
        table.forget(x, 5);
        assert_eq!(table.find(ROOT, "a"), Some(again));
    }

    #[test]
    fn a_detached_writer_keeps_its_inode_and_the_name_shows_the_old_object() {
        let mut table = table();
        let writer = looked_up(&mut table, ROOT, "f", &file(100));
        let old = table.detach(writer).unwrap();
        assert_ne!(old, writer);
        assert_eq!(table.find(ROOT, "f"), Some(old));
        assert_eq!(table.known(old).unwrap().facts, file(100));
        assert_eq!(table.known(writer).unwrap().link, Link::Detached);
        assert_eq!(table.path(writer).as_deref(), Some("f"));
        table.unlink(ROOT, "f");
        assert_eq!(table.find(ROOT, "f"), None);
        assert_eq!(table.known(old), None, "nobody held it");
        table.forget(writer, 1);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn an_answer_that_is_overtaken_takes_no_name() {
        let mut table = table();
        let held = table.named(ROOT, "f");
        let fresh = Facts::unpublished(SystemTime::UNIX_EPOCH);
        let new = table.ensure(ROOT, "f", &fresh, None).unwrap();
        assert_eq!(
            table.vanish(ROOT, "f", held.as_ref()).map(|kept| kept.0),
            Some(new),
            "its writer's alone"
        );
        let held = table.named(ROOT, "f");
        assert!(table.vanish(ROOT, "f", held.as_ref()).is_some(), "still its writer's alone");
        table.update(new, &file(1), Some(Instant::now()));
        assert_eq!(table.vanish(ROOT, "f", held.as_ref()).map(|kept| kept.0), Some(new), "published since");
        let held = table.named(ROOT, "f");
        assert_eq!(table.vanish(ROOT, "f", held.as_ref()), None);
        assert_eq!(table.find(ROOT, "f"), None);
    }

    #[test]
    fn an_answer_that_is_overtaken_tells_nothing_new() {
        let mut table = table();
        let asked = Instant::now();
        let a = table.ensure(ROOT, "a", &file(1), Some(asked)).unwrap();
        table.update(a, &file(2), Some(asked + Duration::from_micros(1)));
        table.ensure(ROOT, "a", &file(1), Some(asked));
        assert_eq!(table.known(a).unwrap().facts, file(2), "however little later the other came");
        let fresh = Facts::unpublished(SystemTime::UNIX_EPOCH);
        let b = table.ensure(ROOT, "b", &fresh, None).unwrap();
        assert_eq!(table.ensure(ROOT, "b", &file(1), Some(asked)), Some(b));
        assert_eq!(table.known(b).unwrap().facts, fresh, "what was unlinked before it was begun");
    }

    #[test]
    fn what_lost_its_name_to_another_kind_stays_as_long_as_it_is_held() {
        let mut table = table();
        table.ensure(ROOT, "a", &file(1), None).unwrap();
        let directory = looked_up(&mut table, ROOT, "a", &directory());
        assert_eq!(table.len(), 2, "nobody held the file");
        let taken = looked_up(&mut table, ROOT, "a", &file(1));
        assert_eq!(table.known(directory).unwrap().link, Link::Gone);
        table.forget(directory, 1);
        table.forget(taken, 1);
        assert_eq!(table.len(), 1);
    }

    #[test]
    fn an_inode_of_the_other_kind_takes_the_name() {
        let mut table = table();
        let was = looked_up(&mut table, ROOT, "a", &file(1));
        let is = looked_up(&mut table, ROOT, "a", &directory());
        assert_ne!(was, is);
        assert_eq!(table.path(was), None);
        assert_eq!(table.find(ROOT, "a"), Some(is));
    }

    #[test]
    fn same_hashes_are_told_apart() {
        let mut table = table();
        let a = looked_up(&mut table, ROOT, "a", &file(1));
        let b = looked_up(&mut table, ROOT, "b", &file(2));
        let c = looked_up(&mut table, ROOT, "c", &file(3));
        // Chain all three under the hash of "a", as a collision would.
        let slots = [a, b, c].map(|inode| table.slot(inode).unwrap());
        let hash = table.hash(ROOT_SLOT, "a");
        table.index.clear();
        table.index.insert(hash, slots[2]);
        table.node_mut(slots[2]).next = slots[1];
        table.node_mut(slots[1]).next = slots[0];
        assert_eq!(table.find(ROOT, "a"), Some(a));
        table.unlink(ROOT, "a");
        assert_eq!(table.find(ROOT, "a"), None);
        assert_eq!(table.known(a).unwrap().link, Link::Gone);
    }

    #[test]
    fn a_million_files_fit() {
        let mut table = table();
        let directory = looked_up(&mut table, ROOT, "d", &directory());
        for number in 0..1_000_000_u64 {
            looked_up(&mut table, directory, &format!("file-{number:07}.jpg"), &file(number));
        }
        assert!(table.memory_bytes() < 220 << 20, "{}", table.memory_bytes());
    }
}
