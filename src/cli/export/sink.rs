//! Where an export goes: a tree of files, one file of lines, or stdout.

use std::fs::{self, File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::path::PathChecker;
use super::tree::{TreeWriter, check_root};
use crate::cli::failure::CliError;
use crate::cli::format::Format;
use crate::cli::output::output_error;
use crate::cli::{record_line, text};
use crate::types::Record;

/// A target that has been looked at and not been touched.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sink {
    /// A directory.
    Tree(PathBuf),
    /// One file, in lines of this form.
    File(PathBuf, Format),
    /// stdout, in lines of this form.
    Stdout(Format),
}

/// A target that is being written.
pub enum OpenSink {
    /// A directory, and the judge of its keys.
    Tree(TreeWriter, PathChecker),
    /// A file that gets its name, the path, only when it is complete.
    File(BufWriter<NamedTempFile>, PathBuf, Format),
    /// stdout.
    Stdout(BufWriter<io::Stdout>, Format),
}

impl Sink {
    /// Refuses what is in the way, unless `force`.
    pub fn check(path: &Path, format: Format, force: bool) -> Result<Self, CliError> {
        match (format, path == Path::new("-")) {
            (Format::Tree, true) => Err(CliError::usage(
                "a tree cannot be written to stdout",
                "name a directory, or add --format jsonl",
            )),
            (Format::Tree, false) => {
                check_root(path, force)?;
                Ok(Sink::Tree(path.to_owned()))
            }
            (_, true) => Ok(Sink::Stdout(format)),
            (_, false) => {
                let there = fs::symlink_metadata(path).is_ok();
                if there && (path.is_dir() || !force) {
                    return Err(CliError::refused(
                        "target_exists",
                        format!("{} exists", path.display()),
                        "name another file, or add --force to replace a file",
                    ));
                }
                Ok(Sink::File(path.to_owned(), format))
            }
        }
    }

    /// Begins to write.
    pub fn open(self) -> Result<OpenSink, CliError> {
        match self {
            Sink::Tree(root) => {
                let checker = PathChecker::below(&root)?;
                Ok(OpenSink::Tree(TreeWriter::create(&root)?, checker))
            }
            Sink::Stdout(format) => Ok(OpenSink::Stdout(BufWriter::new(io::stdout()), format)),
            Sink::File(path, format) => {
                let file = tempfile::Builder::new()
                    .prefix(".ratoon-")
                    .permissions(Permissions::from_mode(0o666))
                    .tempfile_in(directory_of(&path))
                    .map_err(CliError::file(format!("could not create {}", path.display())))?;
                Ok(OpenSink::File(BufWriter::new(file), path, format))
            }
        }
    }
}

/// The directory a file lies in.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

impl OpenSink {
    /// Writes one record; false if exactly it was there already. Records come in key order.
    pub fn write(&mut self, record: &Record) -> Result<bool, CliError> {
        match self {
            OpenSink::Tree(tree, checker) => {
                if let Err(problem) = checker.check(&record.key) {
                    let key = text::shown(&record.key);
                    return Err(CliError::refused(
                        "unsafe_keys",
                        format!(
                            "the key {key} came while exporting and is no file name ({problem})"
                        ),
                        "run it again, or with --format jsonl, which carries any key",
                    ));
                }
                tree.write(&record.key, &record.value)
            }
            OpenSink::File(file, path, format) => {
                let failed = CliError::file(format!("could not write {}", path.display()));
                let line = line(record, *format)?;
                file.write_all(&line).map_err(failed).map(|()| true)
            }
            OpenSink::Stdout(stdout, format) => {
                let line = line(record, *format)?;
                stdout.write_all(&line).map_err(output_error).map(|()| true)
            }
        }
    }

    /// Everything has been written: makes it durable and gives a file its name.
    pub fn finish(self) -> Result<(), CliError> {
        match self {
            OpenSink::Tree(tree, _) => tree.finish(),
            OpenSink::Stdout(mut stdout, _) => stdout.flush().map_err(output_error),
            OpenSink::File(file, path, _) => {
                let failed = || CliError::file(format!("could not write {}", path.display()));
                let file = file.into_inner().map_err(|error| failed()(error.into_error()))?;
                file.as_file().sync_all().map_err(failed())?;
                file.persist(&path).map_err(|error| failed()(error.error))?;
                let directory = File::open(directory_of(&path)).map_err(failed())?;
                directory.sync_all().map_err(failed())
            }
        }
    }
}

/// A record as one line with its newline.
fn line(record: &Record, format: Format) -> Result<Vec<u8>, CliError> {
    let mut line = match format {
        Format::Jsonl => record_line::encode(record).into_bytes(),
        Format::Lines | Format::Tree => {
            let problem = if record.value.contains(&b'\n') {
                "has a newline in its value"
            } else if record.value.trim_ascii().is_empty() {
                "has a blank value"
            } else {
                ""
            };
            if !problem.is_empty() {
                return Err(CliError::refused(
                    "not_a_line",
                    format!("the record {} {problem}, so it is no line", text::shown(&record.key)),
                    "--format jsonl carries any value",
                ));
            }
            record.value.to_vec()
        }
    };
    line.push(b'\n');
    Ok(line)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn record(key: &'static str, value: &'static str) -> Record {
        Record { key: key.into(), value: value.into(), version: 3, content_type: String::new() }
    }

    #[test]
    fn a_file_has_its_name_only_when_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let sink = Sink::check(&path, Format::Lines, false).unwrap();
        let mut open = sink.clone().open().unwrap();
        open.write(&record("a", "{1}")).unwrap();
        drop(open);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is left over");

        let mut open = sink.open().unwrap();
        open.write(&record("a", "{1}")).unwrap();
        open.write(&record("b", "{2}\r")).unwrap();
        assert!(!path.exists());
        open.finish().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"{1}\n{2}\r\n");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_exists_is_replaced_only_by_force() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        fs::write(&path, "old").unwrap();
        let refused = Sink::check(&path, Format::Jsonl, false).unwrap_err();
        assert_eq!(refused.report().code, "target_exists");
        assert!(Sink::check(&path, Format::Jsonl, true).is_ok());
        assert!(Sink::check(directory.path(), Format::Jsonl, true).is_err());
        assert!(Sink::check(Path::new("-"), Format::Tree, true).is_err());
        assert_eq!(
            Sink::check(Path::new("-"), Format::Lines, false).unwrap(),
            Sink::Stdout(Format::Lines)
        );
    }

    #[test]
    fn values_that_are_no_lines_are_named() {
        for value in ["a\nb", "", " \t"] {
            let error = line(&record("k", value), Format::Lines).unwrap_err().report();
            assert_eq!((error.exit, error.code.as_str()), (3, "not_a_line"));
        }
        let json = line(&record("k", "a\nb"), Format::Jsonl).unwrap();
        let expected = r#"{"content_type":"","key":"k","value":"a\nb","version":3}"#;
        assert_eq!(json, format!("{expected}\n").into_bytes());
    }

    #[test]
    fn a_key_that_is_no_path_stops_a_tree_also_while_it_is_written() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("out");
        let mut open = Sink::check(&root, Format::Tree, false).unwrap().open().unwrap();
        open.write(&record("a", "1")).unwrap();
        assert_eq!(open.write(&record("a/b", "1")).unwrap_err().report().code, "unsafe_keys");
    }
}
