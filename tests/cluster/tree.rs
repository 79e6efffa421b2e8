//! Directory trees to import: the same bytes on every run, beside real files; and their comparison.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

/// Lengths of the generated files, in turn: nothing, little, odd, and the longest value there is.
const LENGTHS: &[usize] = &[0, 1, 65_536, 700_001, 4 << 20, 123_457];

/// Makes a tree of at least `bytes` bytes that do not compress, the same for the same `seed`.
pub fn make_random(directory: &Path, bytes: u64, seed: &str) -> PathBuf {
    let root = directory.join(format!("tree-{seed}"));
    let mut made = 0;
    let mut lengths = LENGTHS.iter().cycle();
    for number in 0_u32.. {
        if made >= bytes {
            break;
        }
        let folder = root.join(format!("folder {}", number % 7));
        fs::create_dir_all(&folder).expect("a folder is made");
        let length = *lengths.next().expect("it goes round");
        let mut content = vec![0; length];
        let mut hasher = blake3::Hasher::new();
        hasher.update(seed.as_bytes()).update(&number.to_le_bytes());
        hasher.finalize_xof().fill(&mut content);
        fs::write(folder.join(format!("datei-ä-{number}.bin")), content).expect("a file is made");
        made += length as u64;
    }
    root
}

/// Adds the repository's own sources to a tree: many small files of text.
pub fn add_real_files(root: &Path) {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    for folder in ["src", "docs", "proto", "tests"] {
        for (name, content) in read(&repository.join(folder)) {
            let target = root.join("repository").join(folder).join(name);
            fs::create_dir_all(target.parent().expect("it lies in a folder")).expect("it is made");
            fs::write(target, content).expect("a file is copied");
        }
    }
}

/// Fails the test unless two trees hold the same files with the same bytes.
pub fn assert_equal(expected: &Path, found: &Path) {
    let (expected, found) = (read(expected), read(found));
    let names = |tree: &BTreeMap<PathBuf, Vec<u8>>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&expected), names(&found));
    for (name, content) in &expected {
        assert!(found[name] == *content, "{} differs", name.display());
    }
}

/// All files of a tree by their path inside it.
fn read(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    for entry in WalkDir::new(root) {
        let entry = entry.expect("the tree can be walked");
        if entry.file_type().is_file() {
            let name = entry.path().strip_prefix(root).expect("it lies inside").to_owned();
            files.insert(name, fs::read(entry.path()).expect("a file can be read"));
        }
    }
    files
}
