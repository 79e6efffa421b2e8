//! An ordered map whose versions share what they have in common: a copy costs nothing.
//!
//! A treap with path copying. The priority of a key is a hash of it, so equal content has equal
//! shape, whatever its history. Never shared with code that is measured: it is for the simulation.

use std::cmp::Ordering;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use bytes::Bytes;

/// Keys in byte order, each with a value and how often it was put since it was last removed.
#[derive(Clone, Default)]
pub struct Map {
    root: Link,
}

type Link = Option<Arc<Node>>;

#[derive(Clone)]
struct Node {
    entry: Entry,
    priority: u64,
    left: Link,
    right: Link,
}

/// One key of a map.
#[derive(Clone)]
pub struct Entry {
    pub key: Bytes,
    pub value: Bytes,
    /// Puts since the key was absent; at least 1.
    pub puts: u64,
}

impl Map {
    pub fn get(&self, key: &[u8]) -> Option<&Entry> {
        let mut link = &self.root;
        while let Some(node) = link {
            link = match key.cmp(&node.entry.key) {
                Ordering::Less => &node.left,
                Ordering::Greater => &node.right,
                Ordering::Equal => return Some(&node.entry),
            };
        }
        None
    }

    /// The first key after `key`, or at it if `inclusive`.
    pub fn first_from(&self, key: &[u8], inclusive: bool) -> Option<&Entry> {
        let (mut link, mut best) = (&self.root, None);
        while let Some(node) = link {
            let fits = node.entry.key > key || (inclusive && node.entry.key == key);
            link = if fits { &node.left } else { &node.right };
            best = if fits { Some(&node.entry) } else { best };
        }
        best
    }

    /// The last key before `key`, or at it if `inclusive`.
    pub fn last_to(&self, key: &[u8], inclusive: bool) -> Option<&Entry> {
        let (mut link, mut best) = (&self.root, None);
        while let Some(node) = link {
            let fits = node.entry.key < key || (inclusive && node.entry.key == key);
            link = if fits { &node.right } else { &node.left };
            best = if fits { Some(&node.entry) } else { best };
        }
        best
    }

    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        let puts = self.get(key).map_or(0, |entry| entry.puts) + 1;
        let entry =
            Entry { key: Bytes::copy_from_slice(key), value: Bytes::copy_from_slice(value), puts };
        self.root = Some(insert(&self.root, entry, priority(key)));
    }

    pub fn remove(&mut self, key: &[u8]) {
        if self.get(key).is_some() {
            self.root = remove(&self.root, key);
        }
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> u64 {
        fn sum(link: &Link) -> u64 {
            link.as_ref().map_or(0, |node| {
                let own = node.entry.key.len() + node.entry.value.len();
                own as u64 + sum(&node.left) + sum(&node.right)
            })
        }
        sum(&self.root)
    }
}

fn priority(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

fn insert(link: &Link, entry: Entry, priority: u64) -> Arc<Node> {
    let Some(node) = link else {
        return Arc::new(Node { entry, priority, left: None, right: None });
    };
    let mut copy = Node::clone(node);
    match entry.key.cmp(&node.entry.key) {
        Ordering::Equal => copy.entry = entry,
        // The key order breaks ties, so that the shape depends on the content alone.
        order if (priority, &entry.key) > (node.priority, &node.entry.key) => {
            debug_assert_ne!(order, Ordering::Equal);
            let (left, right) = split(link, &entry.key);
            return Arc::new(Node { entry, priority, left, right });
        }
        Ordering::Less => copy.left = Some(insert(&node.left, entry, priority)),
        Ordering::Greater => copy.right = Some(insert(&node.right, entry, priority)),
    }
    Arc::new(copy)
}

/// Keys before `key` and keys after it; `key` itself is absent.
fn split(link: &Link, key: &[u8]) -> (Link, Link) {
    let Some(node) = link else { return (None, None) };
    let mut copy = Node::clone(node);
    if node.entry.key < key {
        let (middle, right) = split(&node.right, key);
        copy.right = middle;
        (Some(Arc::new(copy)), right)
    } else {
        let (left, middle) = split(&node.left, key);
        copy.left = middle;
        (left, Some(Arc::new(copy)))
    }
}

fn remove(link: &Link, key: &[u8]) -> Link {
    let node = link.as_ref()?;
    let mut copy = Node::clone(node);
    match key.cmp(&node.entry.key) {
        Ordering::Less => copy.left = remove(&node.left, key),
        Ordering::Greater => copy.right = remove(&node.right, key),
        Ordering::Equal => return merge(&node.left, &node.right),
    }
    Some(Arc::new(copy))
}

/// One tree of two, all keys of `left` being before all of `right`.
fn merge(left: &Link, right: &Link) -> Link {
    let (Some(a), Some(b)) = (left, right) else { return left.clone().or_else(|| right.clone()) };
    if (a.priority, &a.entry.key) > (b.priority, &b.entry.key) {
        let mut copy = Node::clone(a);
        copy.right = merge(&a.right, right);
        Some(Arc::new(copy))
    } else {
        let mut copy = Node::clone(b);
        copy.left = merge(left, &b.left);
        Some(Arc::new(copy))
    }
}
