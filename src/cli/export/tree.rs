//! Writes records as files of a tree: each appears whole under its name or not at all.
//!
//! Never follows a link below the target directory. One sync of the file system at the end makes
//! the whole export durable; a file is renamed into place, never written in place.

use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::path::unsafe_path;
use crate::cli::failure::CliError;

/// Writes below one directory.
#[derive(Debug)]
pub struct TreeWriter {
    root: PathBuf,
    /// The directory made or checked last, so that neighbours need no look.
    ready: Option<PathBuf>,
}

/// Refuses a target that holds something, unless `force`. Touches nothing.
pub fn check_root(root: &Path, force: bool) -> Result<(), CliError> {
    let mut entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => {
            return Err(CliError::file(format!("could not open {}", root.display()))(error));
        }
    };
    match entries.next() {
        Some(_) if !force => Err(CliError::refused(
            "target_not_empty",
            format!("{} is not empty", root.display()),
            "name a new directory, or add --force to write into this one; its other files stay",
        )),
        _ => Ok(()),
    }
}

impl TreeWriter {
    /// Makes the target directory, which was checked before.
    pub fn create(root: &Path) -> Result<Self, CliError> {
        fs::create_dir_all(root)
            .map_err(CliError::file(format!("could not make the directory {}", root.display())))?;
        Ok(TreeWriter { root: root.to_owned(), ready: None })
    }

    /// Stores `value` as the file `key`; false if the file held exactly that already.
    pub fn write(&mut self, key: &[u8], value: &[u8]) -> Result<bool, CliError> {
        assert!(unsafe_path(key).is_none(), "keys are judged before they are written");
        let path = self.root.join(OsStr::from_bytes(key));
        let parent = path.parent().expect("a path below the root has a parent").to_owned();
        self.make_directory(&parent)?;
        if holds(&path, value) {
            return Ok(false);
        }
        let attempted = || format!("could not write {}", path.display());
        let mut file = tempfile::Builder::new()
            .prefix(".ratoon-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(&parent)
            .map_err(CliError::file(attempted()))?;
        file.write_all(value).map_err(CliError::file(attempted()))?;
        file.persist(&path).map_err(|error| CliError::file(attempted())(error.error))?;
        Ok(true)
    }

    /// Makes all that was written durable.
    pub fn finish(self) -> Result<(), CliError> {
        let attempted = || format!("could not sync {}", self.root.display());
        let root = File::open(&self.root).map_err(CliError::file(attempted()))?;
        rustix::fs::syncfs(&root).map_err(|errno| CliError::file(attempted())(errno.into()))
    }

    fn make_directory(&mut self, directory: &Path) -> Result<(), CliError> {
        if self.ready.as_deref() == Some(directory) {
            return Ok(());
        }
        let relative = directory.strip_prefix(&self.root).expect("a directory below the root");
        let mut path = self.root.clone();
        for component in relative.components() {
            path.push(component);
            make_one(&path)?;
        }
        self.ready = Some(directory.to_owned());
        Ok(())
    }
}

/// Makes one directory, or accepts it if it is there and no link.
fn make_one(path: &Path) -> Result<(), CliError> {
    let attempted = || format!("could not make the directory {}", path.display());
    match fs::create_dir(path) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let metadata = fs::symlink_metadata(path).map_err(CliError::file(attempted()))?;
            if metadata.is_dir() {
                return Ok(());
            }
            Err(CliError::refused(
                "target_in_the_way",
                format!("{} is in the way: a directory is needed there", path.display()),
                "move it away, or export to a new directory",
            ))
        }
        Err(error) => Err(CliError::file(attempted())(error)),
    }
}

/// Whether `path` is a plain file with exactly this content. Any doubt means no: it is then written.
fn holds(path: &Path, value: &[u8]) -> bool {
    let same_size = fs::symlink_metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.len() == value.len() as u64);
    same_size && fs::read(path).is_ok_and(|bytes| bytes == value)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_appear_whole_with_their_directories() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("new/out");
        let mut writer = TreeWriter::create(&root).unwrap();
        assert!(writer.write(b"a/b/c", b"one").unwrap());
        assert!(writer.write(b"a/b/\xff", b"").unwrap());
        assert!(writer.write(b"z", b"two").unwrap());
        writer.finish().unwrap();
        assert_eq!(fs::read(root.join("a/b/c")).unwrap(), b"one");
        assert_eq!(fs::read(root.join("z")).unwrap(), b"two");
        let names = fs::read_dir(root.join("a/b")).unwrap().count();
        assert_eq!(names, 2, "no temporary file is left");
    }

    #[test]
    fn a_directory_in_use_is_refused_without_force() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("mine"), b"keep").unwrap();
        let refused = check_root(directory.path(), false).unwrap_err();
        assert_eq!(refused.report().code, "target_not_empty");
        check_root(directory.path(), true).unwrap();
        check_root(&directory.path().join("new"), false).unwrap();
        let mut writer = TreeWriter::create(directory.path()).unwrap();
        assert!(writer.write(b"other", b"x").unwrap());
        assert!(!writer.write(b"other", b"x").unwrap(), "equal files are left alone");
        assert!(writer.write(b"other", b"y").unwrap());
        assert_eq!(fs::read(directory.path().join("mine")).unwrap(), b"keep");
    }

    #[test]
    fn a_link_in_the_target_never_leads_outside() {
        let directory = tempfile::tempdir().unwrap();
        let (root, outside) = (directory.path().join("root"), directory.path().join("outside"));
        fs::create_dir(&root).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, root.join("way")).unwrap();
        fs::write(outside.join("file"), b"old").unwrap();
        symlink(outside.join("file"), root.join("link")).unwrap();
        let mut writer = TreeWriter::create(&root).unwrap();
        assert_eq!(writer.write(b"way/out", b"x").unwrap_err().report().code, "target_in_the_way");
        assert!(writer.write(b"link", b"new").unwrap(), "the link itself is replaced");
        assert_eq!(fs::read(outside.join("file")).unwrap(), b"old");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }
}
