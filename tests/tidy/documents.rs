//! Rules on the documents: every page can be reached, every link leads somewhere, and what they name
//! (tests, make targets, rooms) exists.

use std::collections::BTreeSet;
use std::path::Path;

use crate::tidy::rules::Violation;
use crate::tidy::source::{SourceFile, functions, relative};

/// One Markdown file.
#[derive(Clone, Debug)]
pub struct Document {
    /// Path from the root of the repository.
    pub path: String,
    /// Its text.
    pub text: String,
}

/// README.md and all of docs/, in the order of their paths.
pub fn load(root: &Path) -> Vec<Document> {
    let walk = walkdir::WalkDir::new(root.join("docs")).sort_by_file_name();
    let pages = walk.into_iter().filter_map(Result::ok).map(walkdir::DirEntry::into_path);
    std::iter::once(root.join("README.md"))
        .chain(pages.filter(|path| path.extension().is_some_and(|extension| extension == "md")))
        .map(|path| Document {
            path: relative(root, &path),
            text: std::fs::read_to_string(&path).expect("documents are UTF-8"),
        })
        .collect()
}

fn violation(rule: &'static str, path: &str, line: usize, message: String) -> Violation {
    Violation { rule, path: path.to_owned(), line, message }
}

/// The lines of a document that are prose: blocks of code keep their place but lose their text.
fn prose(text: &str) -> Vec<&str> {
    let mut fenced = false;
    text.lines()
        .map(|line| {
            let fence = line.trim_start().starts_with("```");
            fenced ^= fence;
            if fenced || fence { "" } else { line }
        })
        .collect()
}

/// Targets of `[text](target)` with their lines, from 1.
fn links(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (number, line) in prose(text).into_iter().enumerate() {
        for (at, _) in line.match_indices("](") {
            if let Some(length) = line[at + 2..].find(')') {
                found.push((number + 1, line[at + 2..at + 2 + length].to_owned()));
            }
        }
    }
    found
}

/// The path a relative link leads to, from the root; None when it climbs out of the repository.
fn target_path(page: &str, target: &str) -> Option<String> {
    let folder = page.rsplit_once('/').map_or("", |(folder, _)| folder);
    let mut names: Vec<&str> = folder.split('/').filter(|name| !name.is_empty()).collect();
    for name in target.split('/') {
        match name {
            "" | "." => {}
            ".." => {
                names.pop()?;
            }
            name => names.push(name),
        }
    }
    Some(names.join("/"))
}

/// The anchor a heading gets.
fn anchor(heading: &str) -> String {
    let kept = |c: char| match c {
        ' ' => Some('-'),
        c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
        _ => None,
    };
    heading.trim_start_matches('#').trim().chars().filter_map(kept).collect()
}

/// Every relative link leads to a file or folder that `exists`, and to a heading that is there.
pub fn check_links(documents: &[Document], exists: impl Fn(&str) -> bool) -> Vec<Violation> {
    let mut found = Vec::new();
    for document in documents {
        for (line, target) in links(&document.text) {
            if target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((&target, ""));
            let path = if file.is_empty() {
                Some(document.path.clone())
            } else {
                target_path(&document.path, file)
            };
            let page = documents.iter().find(|page| Some(&page.path) == path.as_ref());
            let reached = page.is_some() || path.is_some_and(|path| exists(&path));
            let headed = heading.is_empty()
                || page.is_some_and(|page| {
                    let mut lines = prose(&page.text).into_iter();
                    lines.any(|line| line.starts_with('#') && anchor(line) == heading)
                });
            if !reached || !headed {
                let message = format!("the link to `{target}` leads nowhere");
                found.push(violation("links", &document.path, line, message));
            }
        }
    }
    found
}

/// Every page of docs/ is linked from docs/README.md or README.md.
pub fn check_index(documents: &[Document]) -> Vec<Violation> {
    let indexes = ["README.md", "docs/README.md"];
    let linked: BTreeSet<String> = documents
        .iter()
        .filter(|document| indexes.contains(&document.path.as_str()))
        .flat_map(|index| {
            links(&index.text).into_iter().filter_map(|(_, target)| {
                target_path(&index.path, target.split('#').next().unwrap_or_default())
            })
        })
        .collect();
    documents
        .iter()
        .filter(|document| !indexes.contains(&document.path.as_str()))
        .filter(|document| !linked.contains(&document.path))
        .map(|document| {
            let message = "is linked from neither docs/README.md nor README.md".to_owned();
            violation("index", &document.path, 1, message)
        })
        .collect()
}

/// What stands between single backquotes in a line.
fn code_spans(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

/// In each table with a column headed `test`, that column names only tests and files that exist.
/// A row whose test is still to be written says `open`, without backquotes.
pub fn check_test_names(
    document: &Document,
    sources: &[SourceFile],
    exists: impl Fn(&str) -> bool,
) -> Vec<Violation> {
    let tests: BTreeSet<String> = sources
        .iter()
        .flat_map(|file| functions(&file.code))
        .filter(|function| function.is_test)
        .map(|function| function.name)
        .collect();
    let mut found = Vec::new();
    let mut column = None;
    for (number, line) in prose(&document.text).into_iter().enumerate() {
        if !line.starts_with('|') {
            column = None;
            continue;
        }
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let Some(index) = column else {
            // The first line of a table is its heading; without the column its rows are skipped.
            column = Some(cells.iter().position(|cell| *cell == "test").unwrap_or(usize::MAX));
            continue;
        };
        let Some(cell) = cells.get(index).filter(|cell| !cell.starts_with("---")) else { continue };
        let names = code_spans(cell);
        if names.is_empty() && !cell.starts_with("open") {
            let message = "names neither a test nor `open`".to_owned();
            found.push(violation("test-names", &document.path, number + 1, message));
        }
        for name in names {
            let last = name.rsplit("::").next().unwrap_or(name);
            let known = tests.contains(last) || (name.contains('/') && exists(name));
            if !known {
                let message = format!("there is no test `{name}`");
                found.push(violation("test-names", &document.path, number + 1, message));
            }
        }
    }
    found
}

/// Every `make target` that a document names, in prose or in a block, is in the Makefile.
pub fn check_make_targets(documents: &[Document], makefile: &str) -> Vec<Violation> {
    let targets: BTreeSet<&str> = makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .filter(|name| is_target(name))
        .collect();
    let mut found = Vec::new();
    for document in documents {
        for (number, line) in document.text.lines().enumerate() {
            let code = if line.starts_with("make ") { vec![line] } else { code_spans(line) };
            let named = code.iter().filter_map(|code| code.strip_prefix("make "));
            for name in named.filter_map(|rest| rest.split_whitespace().next()) {
                if is_target(name) && !targets.contains(name) {
                    let message = format!("the Makefile has no target `{name}`");
                    found.push(violation("make-targets", &document.path, number + 1, message));
                }
            }
        }
    }
    found
}

fn is_target(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '-')
}

/// The map names every room that lib.rs declares.
pub fn check_map(map: &Document, lib: &SourceFile) -> Vec<Violation> {
    let declared = lib
        .product
        .lines()
        .filter_map(|line| line.trim().strip_suffix(';'))
        .filter_map(|line| line.strip_prefix("pub mod "));
    declared
        .filter(|room| {
            let names = [format!("`{room}/`"), format!("`{room}.rs`")];
            !names.iter().any(|name| map.text.contains(name))
        })
        .map(|room| violation("map", &map.path, 1, format!("does not name the room `{room}`")))
        .collect()
}

/// The page of settings names every one in the table of `src/config/settings.rs`.
pub fn check_settings(page: &Document, table: &SourceFile) -> Vec<Violation> {
    // Keys are the literals of the form "section.name"; nothing else in the file looks like one.
    let is_part =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let literals = table.text.split('"').skip(1).step_by(2);
    literals
        .filter(|text| text.split_once('.').is_some_and(|(a, b)| is_part(a) && is_part(b)))
        .filter(|key| !page.text.contains(&format!("| `{key}` |")))
        .map(|key| {
            let message = format!("does not describe the setting `{key}`");
            violation("settings", &page.path, 1, message)
        })
        .collect()
}

/// The page of metrics and the source of metrics name the same ones: each literal of the source that
/// begins with `ratoon_` is a row of a table, and each name of the page is such a literal.
pub fn check_metrics(page: &Document, source: &SourceFile) -> Vec<Violation> {
    let is_name = |text: &&str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let literals = source.text.split('"').skip(1).step_by(2);
    let shown: BTreeSet<&str> =
        literals.filter(|text| text.starts_with("ratoon_")).filter(is_name).collect();
    let missing = shown.iter().filter(|name| !page.text.contains(&format!("| `{name}` |")));
    let mut found: Vec<Violation> = missing
        .map(|name| {
            let message = format!("does not describe the metric `{name}`");
            violation("metrics", &page.path, 1, message)
        })
        .collect();
    for (number, line) in page.text.lines().enumerate() {
        let words = line.split(|c: char| !(c.is_ascii_lowercase() || c == '_'));
        for name in words.filter(|word| word.starts_with("ratoon_") && !shown.contains(word)) {
            let message = format!("names the metric `{name}`, which no node shows");
            found.push(violation("metrics", &page.path, number + 1, message));
        }
    }
    found
}
