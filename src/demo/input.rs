//! What the demo imports: the caller's file or tree, or the sources of this program's own crates.
//!
//! Cargo.lock is compiled in, so that the program knows which crates it was built from; their
//! sources lie in cargo's registry folder of any machine that has just built it. The demo only
//! reads them.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use walkdir::WalkDir;

use super::DemoError;
use super::report::{STATE_BYTES_MIN, bytes};
use crate::limits::{MIB, VALUE_BYTES_MAX};

/// The crates this program was built from.
const CARGO_LOCK: &str = include_str!("../../Cargo.lock");
/// Lines read to find out which field of a JSON-lines file is the key.
const SAMPLE_LINES: usize = 1_000;
/// Longest line of the sample, bytes.
const SAMPLE_LINE_BYTES_MAX: u64 = 2 * VALUE_BYTES_MAX as u64;
/// Largest sample, bytes.
const SAMPLE_BYTES_MAX: usize = 64 * MIB;
/// Fields that hold the key by convention, most likely first.
const KEY_FIELDS: [&str; 5] = ["key", "id", "_id", "uuid", "name"];

type Object = serde_json::Map<String, Value>;

/// What to import, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Input {
    /// Directories, or one file of JSON lines.
    pub paths: Vec<PathBuf>,
    /// Fields of a line that may hold the key, likeliest first; none for directories.
    pub keys: Vec<String>,
}

/// Finds the input: `path` if there is one, else the crates' sources.
/// `key` names the key field of a JSON-lines file; None finds it out.
pub fn find(path: Option<&Path>, key: Option<&str>) -> Result<Input, DemoError> {
    let Some(path) = path else {
        return choose_crates(&registry_folders()?);
    };
    let unreadable = |error| DemoError::Input(format!("cannot read {}: {error}", path.display()));
    let path = fs::canonicalize(path).map_err(unreadable)?;
    if path.is_dir() {
        return Ok(Input { paths: vec![path], keys: Vec::new() });
    }
    let keys = match key {
        Some(key) => vec![key.to_owned()],
        None => find_keys(BufReader::new(File::open(&path).map_err(unreadable)?), &path)?,
    };
    Ok(Input { paths: vec![path], keys })
}

#[derive(Deserialize)]
struct Lock {
    package: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    source: Option<String>,
}

/// `NAME-VERSION` of each crate in the lock file that comes from a registry.
fn locked_crates(lock: &str) -> Vec<String> {
    let lock: Lock = toml::from_str(lock).expect("cargo has read this very file");
    let from_registry = |package: &Package| {
        package.source.as_deref().is_some_and(|source| source.starts_with("registry+"))
    };
    let packages = lock.package.into_iter().filter(from_registry);
    packages.map(|package| format!("{}-{}", package.name, package.version)).collect()
}

/// Every folder below cargo's home that holds unpacked crates, one for each registry.
fn registry_folders() -> Result<Vec<PathBuf>, DemoError> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let missing = |what: String| {
        DemoError::Input(format!("{what}: the default input, cargo's crate sources, is not here"))
    };
    let home = home.ok_or_else(|| missing("there is no home directory".to_owned()))?;
    // The import runs in another directory, so that a relative CARGO_HOME must be resolved here.
    let home = fs::canonicalize(&home)
        .map_err(|error| missing(format!("cannot find {}: {error}", home.display())))?;
    let sources = home.join("registry/src");
    let entries = fs::read_dir(&sources)
        .map_err(|error| missing(format!("cannot read {}: {error}", sources.display())))?;
    let mut folders: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir()).collect();
    folders.sort();
    Ok(folders)
}

/// The directories of all locked crates that are there, if they hold enough.
fn choose_crates(folders: &[PathBuf]) -> Result<Input, DemoError> {
    let mut state_bytes = 0;
    let mut paths = Vec::new();
    let mut absent = Vec::new();
    for name in locked_crates(CARGO_LOCK) {
        let found = folders.iter().map(|folder| folder.join(&name)).find(|path| path.is_dir());
        match found {
            Some(path) => {
                state_bytes += importable_bytes(&path)?;
                paths.push(path);
            }
            None => absent.push(name),
        }
    }
    if state_bytes < STATE_BYTES_MIN {
        let (is, least) = (bytes(state_bytes), bytes(STATE_BYTES_MIN));
        let some: Vec<&str> = absent.iter().take(8).map(String::as_str).collect();
        return Err(DemoError::Input(format!(
            "the crate sources found in {folders:?} hold {is}, the demo needs {least}; {} crates of \
             Cargo.lock are not there ({}, ...); run `cargo fetch`, or give --input PATH",
            absent.len(),
            some.join(", "),
        )));
    }
    Ok(Input { paths, keys: Vec::new() })
}

/// Bytes of the plain files below `path` that are small enough for a value.
fn importable_bytes(path: &Path) -> Result<u64, DemoError> {
    let mut total = 0;
    for entry in WalkDir::new(path) {
        let entry = entry.map_err(|error| DemoError::Input(error.to_string()))?;
        if entry.file_type().is_file() {
            let metadata = entry.metadata().map_err(|error| DemoError::Input(error.to_string()))?;
            total += if metadata.len() <= VALUE_BYTES_MAX as u64 { metadata.len() } else { 0 };
        }
    }
    Ok(total)
}

/// Which fields may be the key, judged by the first lines: in each a text or an integer, and
/// different in all of them. The likeliest is first.
fn find_keys(lines: impl BufRead, path: &Path) -> Result<Vec<String>, DemoError> {
    let sample = read_sample(lines, path)?;
    let own = sample.first().into_iter().flat_map(|object| object.keys().map(String::as_str));
    let by_name = |field: &&str| !KEY_FIELDS.contains(field);
    let fields = KEY_FIELDS.into_iter().chain(own.filter(by_name));
    // A dot would lead into an inner object.
    let fields = fields.filter(|field| !field.contains('.') && is_key(&sample, field));
    let keys: Vec<String> = fields.map(str::to_owned).collect();
    if sample.is_empty() || keys.is_empty() {
        return Err(DemoError::Input(format!(
            "no field of {} tells its lines apart; name the key field with --key FIELD",
            path.display()
        )));
    }
    Ok(keys)
}

fn is_key(sample: &[Object], field: &str) -> bool {
    let values: Option<BTreeSet<String>> = sample
        .iter()
        .map(|object| match object.get(field)? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) if !number.is_f64() => Some(number.to_string()),
            _ => None,
        })
        .collect();
    values.is_some_and(|values| values.len() == sample.len())
}

/// The first lines of a file of JSON lines; blank ones are passed over.
fn read_sample(mut lines: impl BufRead, path: &Path) -> Result<Vec<Object>, DemoError> {
    let path = path.display();
    let mut sample = Vec::new();
    let mut sampled_bytes = 0;
    for number in 1..=SAMPLE_LINES {
        let mut line = Vec::new();
        let read = lines.by_ref().take(SAMPLE_LINE_BYTES_MAX).read_until(b'\n', &mut line);
        let length =
            read.map_err(|error| DemoError::Input(format!("cannot read {path}: {error}")))?;
        sampled_bytes += length;
        if length == 0 || sampled_bytes > SAMPLE_BYTES_MAX {
            break;
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        let object = serde_json::from_slice(&line).map_err(|error| {
            DemoError::Input(format!(
                "line {number} of {path} is no JSON object ({error}); --input takes a directory or \
                 a file of JSON lines"
            ))
        })?;
        sample.push(object);
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn keys_of(lines: &str) -> Result<Vec<String>, DemoError> {
        find_keys(lines.as_bytes(), Path::new("test.jsonl"))
    }

    #[test]
    fn the_lock_file_compiled_in_names_the_crates() {
        let crates = locked_crates(CARGO_LOCK);
        assert!(crates.len() > 100);
        assert!(crates.iter().any(|name| name.starts_with("librocksdb-sys-")));
        assert!(
            !crates.iter().any(|name| name.starts_with("ratoon-")),
            "our own is in no registry"
        );
    }

    #[test]
    fn the_key_field_is_found_by_convention_and_by_what_differs() {
        let lines = "{\"a\":1,\"id\":\"x\"}\n\n{\"a\":2,\"id\":\"y\"}\n";
        assert_eq!(keys_of(lines).unwrap(), ["id", "a"]);
        let lines = "{\"id\":1,\"x.y\":1,\"word\":\"x\"}\n{\"id\":1,\"x.y\":2,\"word\":\"y\"}";
        assert_eq!(keys_of(lines).unwrap(), ["word"]);
    }

    #[test]
    fn a_file_without_a_key_field_is_refused_with_the_flag_to_use() {
        for lines in
            ["{\"a\":1}\n{\"a\":1}\n", "{\"a\":{}}\n{\"a\":1.5}\n", "", "{\"a\":1}\n{\"b\":2}\n"]
        {
            let message = keys_of(lines).unwrap_err().to_string();
            assert!(message.contains("--key FIELD"), "{lines:?}: {message}");
        }
        let message = keys_of("{\"a\":1}\nno json\n").unwrap_err().to_string();
        assert!(message.contains("line 2"), "{message}");
    }

    #[test]
    fn too_few_crate_sources_are_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let registry = directory.path().join("registry");
        let one = locked_crates(CARGO_LOCK).remove(0);
        fs::create_dir_all(registry.join(&one)).unwrap();
        fs::write(registry.join(&one).join("lib.rs"), "fn main() {}").unwrap();
        let message = choose_crates(&[registry]).unwrap_err().to_string();
        assert!(message.contains("cargo fetch") && message.contains("12 B"), "{message}");
    }

    #[test]
    fn what_cannot_be_imported_does_not_count() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir_all(directory.path().join("src/empty")).unwrap();
        fs::write(directory.path().join("src/lib.rs"), "twelve bytes").unwrap();
        fs::write(directory.path().join("huge"), vec![0; VALUE_BYTES_MAX + 1]).unwrap();
        std::os::unix::fs::symlink("src", directory.path().join("loop")).unwrap();
        assert_eq!(importable_bytes(directory.path()).unwrap(), 12);
    }

    #[test]
    fn a_given_directory_is_taken_as_it_is_and_a_missing_one_refused() {
        let directory = tempfile::tempdir().unwrap();
        let input = find(Some(directory.path()), None).unwrap();
        assert_eq!((input.paths.len(), input.keys.len()), (1, 0));
        let message = find(Some(&directory.path().join("none")), None).unwrap_err().to_string();
        assert!(message.contains("cannot read"), "{message}");
    }
}
