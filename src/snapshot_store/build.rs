//! From a checkpoint's directory to its manifest.

use std::fs;
use std::path::Path;

use super::StoreError;
use super::cache::{DigestCache, FileIdentity};
use super::files::{Sums, open_part_file, sum_file};
use crate::limits::MANIFEST_PARTS_MAX;
use crate::manifest::{Manifest, Part, is_part_name};
use crate::types::{ClusterId, ConfState, Index, Term};

/// What a checkpoint stands for; read from inside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BuildOptions {
    /// The cluster whose state it is.
    pub cluster: ClusterId,
    /// The last applied index inside it.
    pub index: Index,
    /// The term of that entry.
    pub term: Term,
    /// Membership at that index.
    pub conf_state: ConfState,
    /// Bytes of a chunk.
    pub chunk_bytes: u32,
    /// Generation of the state that the checkpoint was taken from.
    pub generation: u64,
    /// By this node's clock.
    pub created_unix_ms: u64,
}

/// Describes every file of a checkpoint. Each file is read once; an SST that `cache` knows is not
/// read at all. Files without content that RocksDB leaves beside (logs, lock) are passed over.
pub fn build_manifest(
    directory: &Path,
    options: BuildOptions,
    cache: &DigestCache,
) -> Result<Manifest, StoreError> {
    let mut parts = Vec::new();
    for name in part_names(directory)? {
        let sums = sum_part(directory, &name, &options, cache)
            .map_err(|cause| StoreError::io(format!("reading part {name}"), cause))?;
        parts.push(Part {
            name,
            bytes: sums.bytes,
            digest: sums.digest,
            chunk_crc32c: sums.chunk_crc32c,
        });
    }
    let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
    cache.keep_only(&names);
    let BuildOptions { cluster, index, term, conf_state, chunk_bytes, created_unix_ms, .. } =
        options;
    let manifest =
        Manifest { cluster, index, term, conf_state, chunk_bytes, parts, created_unix_ms };
    manifest.validate()?;
    Ok(manifest)
}

/// Names of a checkpoint's files that make a snapshot, in order.
fn part_names(directory: &Path) -> Result<Vec<String>, StoreError> {
    let failed = |cause| StoreError::io(format!("listing {}", directory.display()), cause);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let metadata = entry.metadata().map_err(failed)?;
        if is_part_name(&name) && metadata.is_file() {
            names.push(name);
        } else if !is_passed_over(&name, metadata.len()) {
            return Err(StoreError::Strange(name));
        }
        if names.len() > MANIFEST_PARTS_MAX {
            return Err(StoreError::Strange(format!("more than {MANIFEST_PARTS_MAX} files")));
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// The state has no write-ahead log: its log files are empty. RocksDB makes the others anew.
fn is_passed_over(name: &str, bytes: u64) -> bool {
    name == "LOCK" || name == "IDENTITY" || name == "LOG" || (name.ends_with(".log") && bytes == 0)
}

fn sum_part(
    directory: &Path,
    name: &str,
    options: &BuildOptions,
    cache: &DigestCache,
) -> std::io::Result<Sums> {
    let file = open_part_file(&directory.join(name))?;
    if !name.ends_with(".sst") {
        return sum_file(&file, options.chunk_bytes);
    }
    let metadata = file.metadata()?;
    if cache.is_rotten(&metadata) {
        return Err(std::io::Error::other(
            "it has rotted, and the live state shares it: replace this node",
        ));
    }
    let identity = FileIdentity::new(options.generation, &metadata);
    if let Some(sums) = cache.get(name, identity, options.chunk_bytes) {
        return Ok(sums);
    }
    let sums = sum_file(&file, options.chunk_bytes)?;
    cache.put(name, identity, options.chunk_bytes, &sums);
    Ok(sums)
}
