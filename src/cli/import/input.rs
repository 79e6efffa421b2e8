//! What is to be imported: found out, checked as a whole, then read record by record.
//!
//! Checking never writes and reading never decides anew, so that an import that is refused has
//! changed nothing. Holds one record at a time, whatever the input's size.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::duplicates::{DuplicateFinder, Place};
use super::lines::{KeyPath, Line, LineReader};
use super::tree::{self, Root, TreeKind};
use crate::cli::failure::CliError;
use crate::cli::format::Format;
use crate::cli::{record_line, text};
use crate::limits::{
    CONTENT_TYPE_BYTES_MAX, IMPORT_LISTED_MAX, KEY_BYTES_MAX, RECORD_LINE_BYTES_MAX,
    VALUE_BYTES_MAX,
};
use crate::types::Record;

/// MIME type of a value that is a line of JSON.
const JSON: &str = "application/json";

/// An input whose paths exist and are of the right kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Input {
    /// Directories.
    Tree(Vec<Root>),
    /// Files of lines.
    Lines {
        /// Regular files, in the order given.
        files: Vec<PathBuf>,
        /// Put before each key.
        prefix: Vec<u8>,
        /// Where a line's key lies; None: lines are whole records.
        key: Option<KeyPath>,
    },
}

/// A few names out of many.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listing {
    /// How many there are.
    pub count: u64,
    /// The first of them, at most `IMPORT_LISTED_MAX`.
    pub names: Vec<String>,
}

/// What an import would write and leave out.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Records to write.
    pub records: u64,
    /// Bytes of their keys and values.
    pub bytes: u64,
    /// Values over the value limit and keys over the key limit.
    pub too_large: Listing,
    /// Links, pipes, sockets, devices: always left out.
    pub special: Listing,
}

impl Listing {
    fn push(&mut self, name: impl FnOnce() -> String) {
        self.count += 1;
        if self.names.len() < IMPORT_LISTED_MAX {
            self.names.push(name());
        }
    }

    /// The names, one a line, with a word on those that were left out.
    pub fn text(&self) -> String {
        let mut lines: Vec<String> = self.names.iter().map(|name| format!("  {name}")).collect();
        let more = self.count - self.names.len() as u64;
        if more > 0 {
            lines.push(format!("  and {more} more"));
        }
        lines.join("\n")
    }
}

/// What the command line says about the input.
pub struct Wanted<'a> {
    /// At least one.
    pub paths: &'a [PathBuf],
    /// None: a directory is a tree, and files with --key are lines.
    pub format: Option<Format>,
    /// Given with --key.
    pub key: Option<&'a KeyPath>,
    /// Put before each key; may be empty.
    pub prefix: &'a OsStr,
}

impl Input {
    /// Looks at the paths and settles the form.
    pub fn choose(wanted: Wanted<'_>) -> Result<Input, CliError> {
        let directories = wanted.paths.iter().map(|path| is_directory(path));
        let directories: Vec<bool> = directories.collect::<Result<_, _>>()?;
        let format = match (wanted.format, wanted.key) {
            (Some(format), _) => format,
            (None, Some(_)) => Format::Lines,
            (None, None) if directories.iter().all(|&directory| directory) => Format::Tree,
            (None, None) => {
                return Err(CliError::usage(
                    "a file is imported line by line, and no key was named",
                    "name the field that holds the key with --key FIELD, or write --format jsonl for what `export --format jsonl` wrote",
                ));
            }
        };
        let misfit = directories.iter().position(|&found| found != (format == Format::Tree));
        if let Some(at) = misfit {
            let (is, needs) = match format {
                Format::Tree => ("no directory", "directories"),
                _ => {
                    ("a directory", "files of JSON lines; leave --key and --format away for a tree")
                }
            };
            return Err(CliError::usage(
                format!("{} is {is}", wanted.paths[at].display()),
                format!("this form of import takes {needs}"),
            ));
        }
        let prefix = wanted.prefix.as_bytes().to_vec();
        let files = wanted.paths.to_vec();
        match (format, wanted.key) {
            (Format::Tree, None) => Ok(Input::Tree(tree::roots(&files, &prefix)?)),
            (Format::Lines, Some(key)) => {
                Ok(Input::Lines { files, prefix, key: Some(key.clone()) })
            }
            (Format::Jsonl, None) => Ok(Input::Lines { files, prefix, key: None }),
            (Format::Lines, None) => Err(CliError::usage(
                "--format lines needs a key",
                "name the field that holds it: --key FIELD",
            )),
            (Format::Tree | Format::Jsonl, Some(_)) => Err(CliError::usage(
                "--key is for --format lines alone",
                "leave it away: this form of input names its keys itself",
            )),
        }
    }

    /// Checks all of the input. `seen` is told the bytes looked at so far.
    ///
    /// Refused unless every record could be written; too large ones are forgiven with
    /// `skip_too_large`.
    pub fn plan(&self, skip_too_large: bool, seen: &mut dyn FnMut(u64)) -> Result<Plan, CliError> {
        let plan = match self {
            Input::Tree(roots) => plan_tree(roots, seen)?,
            Input::Lines { files, prefix, key } => plan_lines(files, prefix, key.as_ref(), seen)?,
        };
        if plan.too_large.count > 0 && !skip_too_large {
            return Err(CliError::refused(
                "too_large",
                format!(
                    "{} over the limits (keys 4 KiB, values 4 MiB); nothing was written\n{}",
                    text::counted(plan.too_large.count, "record"),
                    plan.too_large.text()
                ),
                "--skip-too-large imports the others",
            ));
        }
        Ok(plan)
    }

    /// Reads every record that a plan counts and hands it to `each`, until that says false.
    pub fn read(
        &self,
        skip_too_large: bool,
        each: &mut dyn FnMut(Record) -> bool,
    ) -> Result<(), CliError> {
        match self {
            Input::Tree(roots) => read_tree(roots, skip_too_large, each),
            Input::Lines { files, prefix, key } => {
                read_lines(files, prefix, key.as_ref(), skip_too_large, each)
            }
        }
    }
}

fn is_directory(path: &Path) -> Result<bool, CliError> {
    let metadata =
        fs::metadata(path).map_err(CliError::file(format!("could not open {}", path.display())))?;
    if metadata.is_dir() || metadata.is_file() {
        return Ok(metadata.is_dir());
    }
    Err(CliError::usage(
        format!("{} is neither a file nor a directory", path.display()),
        "the input is read twice, so that pipes do not do; write it to a file first",
    ))
}

fn plan_tree(roots: &[Root], seen: &mut dyn FnMut(u64)) -> Result<Plan, CliError> {
    let mut plan = Plan::default();
    for root in roots {
        for entry in tree::walk(root) {
            let entry = entry?;
            let name = || text::shown(entry.path.as_os_str().as_bytes());
            match entry.kind {
                TreeKind::Special(kind) => plan.special.push(|| format!("{} ({kind})", name())),
                TreeKind::File(bytes) if bytes > VALUE_BYTES_MAX as u64 => {
                    plan.too_large.push(|| format!("{} ({})", name(), text::size(bytes)));
                }
                TreeKind::File(_) if entry.key.len() > KEY_BYTES_MAX => {
                    plan.too_large.push(|| format!("{} (its path is too long a key)", name()));
                }
                TreeKind::File(bytes) => {
                    plan.records += 1;
                    plan.bytes += entry.key.len() as u64 + bytes;
                    seen(plan.bytes);
                }
            }
        }
    }
    Ok(plan)
}

fn read_tree(
    roots: &[Root],
    skip_too_large: bool,
    each: &mut dyn FnMut(Record) -> bool,
) -> Result<(), CliError> {
    for root in roots {
        for entry in tree::walk(root) {
            let entry = entry?;
            let TreeKind::File(bytes) = entry.kind else { continue };
            let too_large = bytes > VALUE_BYTES_MAX as u64 || entry.key.len() > KEY_BYTES_MAX;
            let value = match too_large {
                true => None,
                false => tree::read_file(&entry.path)?,
            };
            let Some(value) = value else {
                if skip_too_large {
                    continue;
                }
                return Err(changed(&entry.path.display().to_string()));
            };
            let record = Record {
                key: Bytes::from(entry.key),
                value: Bytes::from(value),
                version: 0,
                content_type: String::new(),
            };
            if !each(record) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// What a line amounts to.
enum LineRecord {
    Good(Record),
    TooLarge(String),
    Blank,
}

fn plan_lines(
    files: &[PathBuf],
    prefix: &[u8],
    key: Option<&KeyPath>,
    seen: &mut dyn FnMut(u64),
) -> Result<Plan, CliError> {
    let spill_failed = || CliError::file("could not use a temporary file for keys");
    let mut plan = Plan::default();
    let mut bad = Listing::default();
    let mut duplicates = DuplicateFinder::new().map_err(spill_failed())?;
    for (number, path) in files.iter().enumerate() {
        let mut reader = open_lines(path, key)?;
        while let Some(line) = next_record(&mut reader, path, prefix, key)? {
            let place = Place { file: number as u32, line: reader.number() };
            match line {
                Ok(LineRecord::Blank) => {}
                Ok(LineRecord::Good(record)) => {
                    plan.records += 1;
                    plan.bytes += (record.key.len() + record.value.len()) as u64;
                    duplicates.add(&record.key, place).map_err(spill_failed())?;
                    seen(plan.bytes);
                }
                Ok(LineRecord::TooLarge(problem)) => {
                    plan.too_large.push(|| format!("{} {problem}", shown_place(files, place)));
                }
                Err(problem) => bad.push(|| format!("{} {problem}", shown_place(files, place))),
            }
        }
    }
    duplicates
        .finish(|first, later| {
            bad.push(|| {
                let (first, later) = (shown_place(files, first), shown_place(files, later));
                format!("{later} has the same key as {first}")
            });
        })
        .map_err(spill_failed())?;
    if bad.count > 0 {
        return Err(CliError::refused(
            "bad_lines",
            format!(
                "{} cannot be imported; nothing was written\n{}",
                text::counted(bad.count, "line"),
                bad.text()
            ),
            "correct the lines named, then run it again",
        ));
    }
    Ok(plan)
}

fn read_lines(
    files: &[PathBuf],
    prefix: &[u8],
    key: Option<&KeyPath>,
    skip_too_large: bool,
    each: &mut dyn FnMut(Record) -> bool,
) -> Result<(), CliError> {
    for path in files {
        let mut reader = open_lines(path, key)?;
        while let Some(line) = next_record(&mut reader, path, prefix, key)? {
            match line {
                Ok(LineRecord::Blank) => {}
                Ok(LineRecord::Good(record)) => {
                    if !each(record) {
                        return Ok(());
                    }
                }
                Ok(LineRecord::TooLarge(_)) if skip_too_large => {}
                Ok(LineRecord::TooLarge(_)) | Err(_) => {
                    return Err(changed(&format!("{}:{}", path.display(), reader.number())));
                }
            }
        }
    }
    Ok(())
}

fn changed(what: &str) -> CliError {
    CliError::refused(
        "input_changed",
        format!("{what} changed while it was being imported"),
        "run it again: what is equal already is not written twice",
    )
}

fn shown_place(files: &[PathBuf], place: Place) -> String {
    format!("{}:{}", files[place.file as usize].display(), place.line)
}

fn open_lines(path: &Path, key: Option<&KeyPath>) -> Result<LineReader<BufReader<File>>, CliError> {
    let file =
        File::open(path).map_err(CliError::file(format!("could not open {}", path.display())))?;
    let limit = match key {
        Some(_) => VALUE_BYTES_MAX,
        None => RECORD_LINE_BYTES_MAX,
    };
    Ok(LineReader::new(BufReader::with_capacity(1 << 16, file), limit))
}

/// The next line as a record; None at the end. The inner error says what is wrong with the line.
fn next_record(
    reader: &mut LineReader<BufReader<File>>,
    path: &Path,
    prefix: &[u8],
    key: Option<&KeyPath>,
) -> Result<Option<Result<LineRecord, String>>, CliError> {
    let line =
        reader.next_line().map_err(CliError::file(format!("could not read {}", path.display())))?;
    Ok(line.map(|line| match line {
        Line::TooLong(bytes) => Ok(LineRecord::TooLarge(format!("has {}", text::size(bytes)))),
        Line::Whole(line) if line.trim_ascii().is_empty() => Ok(LineRecord::Blank),
        Line::Whole(line) => line_record(line, prefix, key),
    }))
}

fn line_record(line: &[u8], prefix: &[u8], key: Option<&KeyPath>) -> Result<LineRecord, String> {
    let mut record = match key {
        None => record_line::decode(line)?,
        Some(path) => Record {
            key: path.key_of(line)?.into(),
            value: Bytes::copy_from_slice(line),
            version: 0,
            content_type: JSON.to_owned(),
        },
    };
    if !prefix.is_empty() {
        record.key = [prefix, &record.key].concat().into();
    }
    if record.key.is_empty() {
        return Err("has an empty key".to_owned());
    }
    if record.content_type.len() > CONTENT_TYPE_BYTES_MAX {
        return Err(format!("has a content type over {CONTENT_TYPE_BYTES_MAX} bytes"));
    }
    if record.key.len() > KEY_BYTES_MAX {
        return Ok(LineRecord::TooLarge(format!("has a key of {} bytes", record.key.len())));
    }
    if record.value.len() > VALUE_BYTES_MAX {
        let size = text::size(record.value.len() as u64);
        return Ok(LineRecord::TooLarge(format!("has a value of {size}")));
    }
    Ok(LineRecord::Good(record))
}
