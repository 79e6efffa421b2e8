//! A directory tree as records: key = relative path, value = the file's bytes.
//!
//! Walks without following links and without holding the tree in memory. Never writes.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::cli::failure::CliError;
use crate::limits::VALUE_BYTES_MAX;

/// A directory to import and what its keys start with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root {
    /// The directory.
    pub path: PathBuf,
    /// Put before each relative path; empty or text of the caller's choice.
    pub key_prefix: Vec<u8>,
}

/// Something found in a tree that is no directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TreeEntry {
    /// Where it lies.
    pub path: PathBuf,
    /// The key it gets: prefix and relative path, raw bytes, `/` between components.
    pub key: Vec<u8>,
    /// What it is.
    pub kind: TreeKind,
}

/// What an entry of a tree is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TreeKind {
    /// A regular file of this many bytes.
    File(u64),
    /// Nothing that has a value: named for the person.
    Special(&'static str),
}

/// Roots for the directories given: with several, keys start with each directory's own name.
pub fn roots(paths: &[PathBuf], prefix: &[u8]) -> Result<Vec<Root>, CliError> {
    if let [path] = paths {
        return Ok(vec![Root { path: path.clone(), key_prefix: prefix.to_vec() }]);
    }
    let mut roots: Vec<Root> = Vec::with_capacity(paths.len());
    for path in paths {
        // `.` and `..` have no name of their own; the directory behind them has.
        let full = fs::canonicalize(path)
            .map_err(CliError::file(format!("could not open {}", path.display())))?;
        let name = path.file_name().or(full.file_name()).ok_or_else(|| {
            CliError::usage(
                format!("{} has no name to start its keys with", path.display()),
                "import it alone, without other paths",
            )
        })?;
        let mut key_prefix = prefix.to_vec();
        key_prefix.extend_from_slice(name.as_bytes());
        key_prefix.push(b'/');
        if let Some(other) = roots.iter().find(|root| root.key_prefix == key_prefix) {
            return Err(CliError::usage(
                format!("{} and {} have the same name", other.path.display(), path.display()),
                "several directories are told apart by their names; import one of them with --prefix",
            ));
        }
        roots.push(Root { path: path.clone(), key_prefix });
    }
    Ok(roots)
}

/// Everything under `root` but directories, in a fixed order.
pub fn walk(root: &Root) -> impl Iterator<Item = Result<TreeEntry, CliError>> + '_ {
    walkdir::WalkDir::new(&root.path)
        .min_depth(1)
        .follow_links(false)
        .sort_by_file_name()
        .into_iter()
        .filter(|entry| !entry.as_ref().is_ok_and(|entry| entry.file_type().is_dir()))
        .map(|entry| describe(root, entry))
}

fn describe(
    root: &Root,
    entry: Result<walkdir::DirEntry, walkdir::Error>,
) -> Result<TreeEntry, CliError> {
    let entry = entry.map_err(|error| walk_error(&root.path, error))?;
    let relative = entry
        .path()
        .strip_prefix(&root.path)
        .expect("walkdir yields paths below the root it was given");
    let mut key = root.key_prefix.clone();
    key.extend_from_slice(relative.as_os_str().as_bytes());
    let file_type = entry.file_type();
    let kind = if file_type.is_file() {
        let metadata = entry.metadata().map_err(|error| walk_error(&root.path, error))?;
        TreeKind::File(metadata.len())
    } else if file_type.is_symlink() {
        TreeKind::Special("symbolic link")
    } else if file_type.is_fifo() {
        TreeKind::Special("pipe")
    } else if file_type.is_socket() {
        TreeKind::Special("socket")
    } else {
        TreeKind::Special("device")
    };
    Ok(TreeEntry { path: entry.into_path(), key, kind })
}

fn walk_error(root: &Path, error: walkdir::Error) -> CliError {
    let path = error.path().unwrap_or(root).display().to_string();
    let cause = error
        .into_io_error()
        .unwrap_or_else(|| std::io::Error::other("the directory contains itself"));
    CliError::File { attempted: format!("could not read {path}"), cause }
}

/// The bytes of a file; None if there are more than a value may have.
pub fn read_file(path: &Path) -> Result<Option<Vec<u8>>, CliError> {
    let attempted = || format!("could not read {}", path.display());
    let file = File::open(path).map_err(CliError::file(attempted()))?;
    let mut bytes = Vec::new();
    let limit = VALUE_BYTES_MAX as u64;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(CliError::file(attempted()))?;
    Ok((bytes.len() as u64 <= limit).then_some(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    fn keys(root: &Root) -> Vec<(String, TreeKind)> {
        walk(root)
            .map(|entry| entry.unwrap())
            .map(|entry| (String::from_utf8(entry.key).unwrap(), entry.kind))
            .collect()
    }

    #[test]
    fn keys_are_relative_paths_and_links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir_all(path.join("b/c")).unwrap();
        fs::create_dir(path.join("empty")).unwrap();
        fs::write(path.join("b/c/deep"), b"12345").unwrap();
        fs::write(path.join(".hidden"), b"").unwrap();
        std::os::unix::fs::symlink("/etc", path.join("link")).unwrap();
        let root = Root { path: path.to_owned(), key_prefix: b"p/".to_vec() };
        let expected = [
            ("p/.hidden".to_owned(), TreeKind::File(0)),
            ("p/b/c/deep".to_owned(), TreeKind::File(5)),
            ("p/link".to_owned(), TreeKind::Special("symbolic link")),
        ];
        assert_eq!(keys(&root), expected);
    }

    #[test]
    fn names_that_are_no_utf8_keep_their_bytes() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(OsStr::from_bytes(b"\xff\x01")), b"x").unwrap();
        let root = Root { path: directory.path().to_owned(), key_prefix: Vec::new() };
        let entries: Vec<TreeEntry> = walk(&root).map(|entry| entry.unwrap()).collect();
        assert_eq!(entries[0].key, b"\xff\x01");
    }

    #[test]
    fn several_directories_are_told_apart_by_their_names() {
        let directory = tempfile::tempdir().unwrap();
        let paths = ["x/a", "y/a", "y/b"].map(|name| directory.path().join(name));
        for path in &paths {
            fs::create_dir_all(path).unwrap();
        }
        let distinct = roots(&paths[1..], b"p/").unwrap();
        assert_eq!(distinct[0].key_prefix, b"p/a/");
        assert_eq!(distinct[1].key_prefix, b"p/b/");
        assert!(matches!(roots(&paths, b""), Err(CliError::Usage { .. })));
        assert_eq!(roots(&paths[..1], b"").unwrap()[0].key_prefix, b"");
    }

    #[test]
    fn a_file_over_the_value_limit_is_not_read_into_memory() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("big");
        let file = File::create(&path).unwrap();
        file.set_len(VALUE_BYTES_MAX as u64).unwrap();
        assert_eq!(read_file(&path).unwrap().unwrap().len(), VALUE_BYTES_MAX);
        file.set_len(1 << 40).unwrap();
        assert_eq!(read_file(&path).unwrap(), None);
    }
}
