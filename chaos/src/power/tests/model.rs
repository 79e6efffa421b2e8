//! Random operations on the mounted file system beside a model that only remembers: each directory after
//! every change, each file as it was synced. Before a loss both must agree; after one, what is found
//! must be something that the model allows.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use proptest::prelude::*;

use super::{Mounted, mount, pattern, sync};

const BLOCK: usize = 4096;
/// The directories; both are there and durable from the beginning.
const DIRECTORIES: [&str; 2] = ["a", "b"];
const NAMES: [&str; 2] = ["x", "y"];

/// A name: which directory, and which name in it.
type At = (usize, usize);

#[derive(Clone, Debug)]
enum Operation {
    Create(At),
    Write(At, usize, usize, u64),
    Resize(At, usize),
    Link(At, At),
    Rename(At, At),
    Unlink(At),
    SyncFile(At),
    SyncDirectory(usize),
    LosePower(u64),
}

fn operations() -> impl Strategy<Value = Vec<Operation>> {
    let at = || (0..DIRECTORIES.len(), 0..NAMES.len());
    let bytes = || prop_oneof![0..4 * BLOCK, (0..5usize).prop_map(|blocks| blocks * BLOCK)];
    let one = prop_oneof![
        4 => at().prop_map(Operation::Create),
        6 => (at(), bytes(), 1..2 * BLOCK, any::<u64>())
            .prop_map(|(at, offset, length, seed)| Operation::Write(at, offset, length, seed)),
        4 => (at(), bytes()).prop_map(|(at, size)| Operation::Resize(at, size)),
        3 => (at(), at()).prop_map(|(from, to)| Operation::Link(from, to)),
        4 => (at(), at()).prop_map(|(from, to)| Operation::Rename(from, to)),
        2 => at().prop_map(Operation::Unlink),
        5 => at().prop_map(Operation::SyncFile),
        5 => (0..DIRECTORIES.len()).prop_map(Operation::SyncDirectory),
        3 => any::<u64>().prop_map(Operation::LosePower),
    ];
    prop::collection::vec(one, 1..80)
}

/// What a directory held at one moment: inode numbers by name.
type Names = BTreeMap<usize, u64>;

/// What a file holds.
#[derive(Clone, Default)]
struct Bytes {
    current: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Default)]
struct Model {
    /// Each directory since the last loss, after every change of it; the last is what it is now.
    histories: [Vec<Names>; 2],
    /// How many changes of each directory are certainly durable.
    durable: [usize; 2],
    /// For each rename across: how many changes each directory had once it was done.
    moves: Vec<[usize; 2]>,
    files: BTreeMap<u64, Bytes>,
}

impl Model {
    fn new() -> Self {
        Model { histories: [vec![Names::new()], vec![Names::new()]], ..Model::default() }
    }

    fn now(&self, directory: usize) -> &Names {
        self.histories[directory].last().unwrap()
    }

    fn inode(&self, at: At) -> Option<u64> {
        self.now(at.0).get(&at.1).copied()
    }

    fn change<T>(&mut self, directory: usize, change: impl FnOnce(&mut Names) -> T) {
        let mut names = self.now(directory).clone();
        change(&mut names);
        self.histories[directory].push(names);
    }

    fn rename(&mut self, from: At, to: At, inode: u64) {
        if from.0 == to.0 {
            self.change(from.0, |names| {
                names.remove(&from.1);
                names.insert(to.1, inode);
            });
            return;
        }
        self.change(from.0, |names| names.remove(&from.1));
        self.change(to.0, |names| names.insert(to.1, inode));
        self.moves.push([self.histories[0].len() - 1, self.histories[1].len() - 1]);
    }

    /// What a rename across makes durable in one directory it makes durable in the other.
    fn sync_directory(&mut self, directory: usize) {
        self.durable[directory] = self.histories[directory].len() - 1;
        while let Some(done) = self.moves.iter().find(|done| {
            (0..2)
                .any(|one| self.durable[one] >= done[one] && self.durable[1 - one] < done[1 - one])
        }) {
            self.durable = [0, 1].map(|one| self.durable[one].max(done[one]));
        }
    }

    /// Takes over what was found after a loss, if one may find that.
    fn accept_loss(&mut self, found: [Names; 2], contents: BTreeMap<u64, Vec<u8>>) {
        let fits = |cut: [usize; 2]| {
            (0..2).all(|one| self.histories[one][cut[one]] == found[one])
                && self.moves.iter().all(|done| (cut[0] >= done[0]) == (cut[1] >= done[1]))
        };
        let cuts = (self.durable[0]..self.histories[0].len())
            .flat_map(|a| (self.durable[1]..self.histories[1].len()).map(move |b| [a, b]));
        assert!(cuts.into_iter().any(fits), "{found:?}\n{:?} {:?}", self.histories, self.durable);
        for (inode, content) in &contents {
            self.files[inode].check_left(content);
        }
        let kept = |bytes: Vec<u8>| Bytes { current: bytes.clone(), durable: bytes };
        self.files = contents.into_iter().map(|(inode, bytes)| (inode, kept(bytes))).collect();
        self.histories = found.map(|names| vec![names]);
        self.durable = [0, 0];
        self.moves.clear();
    }
}

impl Bytes {
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        self.current.resize(self.current.len().max(end), 0);
        self.current[offset..end].copy_from_slice(bytes);
    }

    /// Panics unless a power loss may leave `left`.
    fn check_left(&self, left: &[u8]) {
        let (now, durable) = (self.current.len(), self.durable.len());
        assert!((now.min(durable)..=now.max(durable)).contains(&left.len()));
        for (number, block) in left.chunks(BLOCK).enumerate() {
            let start = number * BLOCK;
            let is = |bytes: &[u8]| {
                let known = &bytes[start.min(bytes.len())..bytes.len().min(start + block.len())];
                block.starts_with(known) && block[known.len()..].iter().all(|byte| *byte == 0)
            };
            let is_survivor = start < now && is(&self.current);
            assert!(is_survivor || is(&self.durable), "block {number} was never so");
        }
    }
}

/// The mounted file system and the model of it.
struct Pair {
    mounted: Mounted,
    model: Model,
}

impl Pair {
    fn path(&self, at: At) -> PathBuf {
        self.mounted.at.join(DIRECTORIES[at.0]).join(NAMES[at.1])
    }

    fn open(&self, at: At) -> File {
        File::options().read(true).write(true).open(self.path(at)).unwrap()
    }

    /// Does one operation on both. One that the state does not admit is left out.
    fn run(&mut self, operation: &Operation) {
        match *operation {
            Operation::Create(at) if self.model.inode(at).is_none() => {
                let inode = File::create_new(self.path(at)).unwrap().metadata().unwrap().ino();
                self.model.change(at.0, |names| names.insert(at.1, inode));
                self.model.files.insert(inode, Bytes::default());
            }
            Operation::Link(from, to) => self.link(from, to),
            Operation::Rename(from, to) => self.rename(from, to),
            Operation::SyncDirectory(directory) => {
                sync(&self.mounted.at.join(DIRECTORIES[directory]));
                self.model.sync_directory(directory);
            }
            Operation::LosePower(seed) => {
                self.mounted.power.lose_power(seed).unwrap();
                let (found, contents) = self.look();
                self.model.accept_loss(found, contents);
            }
            Operation::Write(at, ..)
            | Operation::Resize(at, _)
            | Operation::Unlink(at)
            | Operation::SyncFile(at) => {
                if let Some(inode) = self.model.inode(at) {
                    self.run_on_file(operation, at, inode);
                }
            }
            Operation::Create(_) => {}
        }
    }

    fn run_on_file(&mut self, operation: &Operation, at: At, inode: u64) {
        let path = self.path(at);
        let file = self.open(at);
        let bytes = self.model.files.get_mut(&inode).unwrap();
        match *operation {
            Operation::Write(_, offset, length, seed) => {
                let written = pattern(seed, length);
                file.write_all_at(&written, offset as u64).unwrap();
                bytes.write(offset, &written);
            }
            Operation::Resize(_, size) => {
                file.set_len(size as u64).unwrap();
                bytes.current.resize(size, 0);
            }
            Operation::SyncFile(_) => {
                file.sync_data().unwrap();
                bytes.durable = bytes.current.clone();
            }
            _ => {
                fs::remove_file(path).unwrap();
                self.model.change(at.0, |names| names.remove(&at.1));
            }
        }
    }

    fn link(&mut self, from: At, to: At) {
        let (Some(inode), None) = (self.model.inode(from), self.model.inode(to)) else { return };
        fs::hard_link(self.path(from), self.path(to)).unwrap();
        self.model.change(to.0, |names| names.insert(to.1, inode));
    }

    fn rename(&mut self, from: At, to: At) {
        let Some(inode) = self.model.inode(from) else { return };
        fs::rename(self.path(from), self.path(to)).unwrap();
        // Two names of one file stay as they are.
        if self.model.inode(to) != Some(inode) {
            self.model.rename(from, to, inode);
        }
    }

    /// What is on the file system now: names, and contents by inode number.
    fn look(&self) -> ([Names; 2], BTreeMap<u64, Vec<u8>>) {
        let mut contents = BTreeMap::new();
        let found = [0, 1].map(|directory| {
            let entries = fs::read_dir(self.mounted.at.join(DIRECTORIES[directory])).unwrap();
            let names = entries.map(|entry| {
                let entry = entry.unwrap();
                let inode = entry.metadata().unwrap().ino();
                let bytes = fs::read(entry.path()).unwrap();
                let before = contents.insert(inode, bytes.clone());
                assert!(before.is_none_or(|before| before == bytes), "hard links differ");
                let name = NAMES.iter().position(|name| entry.file_name() == **name).unwrap();
                (name, inode)
            });
            names.collect()
        });
        (found, contents)
    }

    fn check(&self) {
        let (found, contents) = self.look();
        for (directory, names) in found.iter().enumerate() {
            assert_eq!(names, self.model.now(directory));
        }
        for (inode, content) in contents {
            assert!(content == self.model.files[&inode].current, "inode {inode}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn it_does_what_a_model_does_and_loses_what_a_model_allows(operations in operations()) {
        let Some(mounted) = mount() else { return Ok(()) };
        for directory in DIRECTORIES {
            fs::create_dir(mounted.path(directory)).unwrap();
        }
        mounted.sync_root();
        let mut pair = Pair { mounted, model: Model::new() };
        for operation in &operations {
            pair.run(operation);
        }
        pair.check();
        pair.run(&Operation::LosePower(operations.len() as u64));
        pair.check();
    }
}
