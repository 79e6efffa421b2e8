//! Which keys are safe relative paths, and can all be files of one tree.
//!
//! Judged on bytes before anything is written: no key may lead out of the target directory, meet
//! another one, or be bent into a name it does not have.

use std::path::Path;

use crate::cli::failure::CliError;

/// Longest name of one file or directory, bytes.
const COMPONENT_BYTES_MAX: usize = 255;
/// Longest path the system takes, bytes, without the terminating NUL.
const PATH_BYTES_MAX: usize = 4095;

/// Judges keys in ascending order.
#[derive(Debug)]
pub struct PathChecker {
    root_bytes: usize,
    /// Keys that are byte prefixes of one another, shortest first; the last one is the key before.
    chain: Vec<Vec<u8>>,
}

impl PathChecker {
    /// For files below `root`, wherever that is seen from.
    pub fn below(root: &Path) -> Result<Self, CliError> {
        let absolute = std::path::absolute(root)
            .map_err(CliError::file(format!("could not find {}", root.display())))?;
        Ok(Self::new(absolute.as_os_str().len()))
    }

    /// For a target directory whose path has `root_bytes` bytes.
    fn new(root_bytes: usize) -> Self {
        PathChecker { root_bytes, chain: Vec::new() }
    }

    /// Whether `key` can be a file; otherwise why not. Keys come in ascending order.
    pub fn check(&mut self, key: &[u8]) -> Result<(), &'static str> {
        if let Some(problem) = unsafe_path(key) {
            return Err(problem);
        }
        if self.root_bytes + 1 + key.len() > PATH_BYTES_MAX {
            return Err("too long a path under the target directory");
        }
        // In ascending order all keys that `key` begins with came before it, one in the other, so
        // that they are exactly the chain that is left here.
        while self.chain.last().is_some_and(|last| !key.starts_with(last)) {
            self.chain.pop();
        }
        let parent = self.chain.iter().any(|shorter| key.get(shorter.len()) == Some(&b'/'));
        self.chain.push(key.to_vec());
        match parent {
            true => Err("lies under another key, which would be a file and a directory at once"),
            false => Ok(()),
        }
    }
}

/// Why `key` is no safe relative path; None if it is one.
pub fn unsafe_path(key: &[u8]) -> Option<&'static str> {
    if key.is_empty() {
        return Some("empty");
    }
    if key.contains(&0) {
        return Some("holds a NUL byte");
    }
    if key.starts_with(b"/") {
        return Some("an absolute path");
    }
    key.split(|&byte| byte == b'/').find_map(|component| match component {
        b"" => Some("has an empty component"),
        b"." => Some("has a component '.'"),
        b".." => Some("has a component '..'"),
        _ if component.len() > COMPONENT_BYTES_MAX => Some("has a component over 255 bytes"),
        _ => None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    use std::path::Component;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_that_are_no_safe_paths_are_named() {
        let long = [b'x'; 256];
        let cases: [&[u8]; 11] = [
            b"",
            b"/etc/passwd",
            b"a//b",
            b"a/",
            b"..",
            b"../a",
            b"a/../b",
            b".",
            b"a/./b",
            b"a\0b",
            &long,
        ];
        for key in cases {
            assert!(unsafe_path(key).is_some(), "{key:?} passed");
        }
        let cases: [&[u8]; 5] = [b"a", b"a/b.c", b"...", b"..a/b..", b"\xff/\n"];
        for key in cases {
            assert_eq!(unsafe_path(key), None, "{key:?} was refused");
        }
    }

    #[test]
    fn a_key_cannot_be_a_file_and_a_directory() {
        let mut checker = PathChecker::new(10);
        assert!(checker.check(b"a").is_ok());
        assert!(checker.check(b"a-b").is_ok());
        assert!(checker.check(b"a/b").is_err());
        assert!(checker.check(b"a/b/c").is_err());
        assert!(checker.check(b"b/a").is_ok());
    }

    #[test]
    fn the_whole_path_must_fit_the_system() {
        let key = ["x".repeat(250).as_str(); 16].join("/");
        assert!(PathChecker::new(50).check(key.as_bytes()).is_ok());
        assert!(PathChecker::new(200).check(key.as_bytes()).is_err());
    }

    fn key() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..12),
            "[ab./\\-]{0,10}".prop_map(String::into_bytes),
        ]
    }

    proptest! {
        #[test]
        fn a_key_that_passes_stays_inside_and_keeps_its_bytes(key in key()) {
            if unsafe_path(&key).is_none() {
                let path = Path::new(OsStr::from_bytes(&key));
                prop_assert!(path.components().all(|part| matches!(part, Component::Normal(_))));
                let joined = Path::new("/root").join(path);
                prop_assert_eq!(joined.strip_prefix("/root").unwrap().as_os_str().as_bytes(), &key);
                let again: Vec<&[u8]> =
                    path.components().map(|part| part.as_os_str().as_bytes()).collect();
                prop_assert_eq!(again.join(&b'/'), key);
            }
        }

        #[test]
        fn exactly_the_keys_below_other_keys_clash(
            keys in proptest::collection::btree_set("[ab/\\-]{1,6}", 0..20)
        ) {
            let mut checker = PathChecker::new(0);
            let safe = |key: &&String| unsafe_path(key.as_bytes()).is_none();
            for key in keys.iter().filter(safe) {
                let below = keys.iter().filter(safe).any(|other| {
                    key.strip_prefix(other.as_str()).is_some_and(|rest| rest.starts_with('/'))
                });
                prop_assert_eq!(checker.check(key.as_bytes()).is_err(), below, "{}", key);
            }
        }
    }
}
