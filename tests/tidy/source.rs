//! Reads Rust source the way the rules need it: comments and literals blanked, test code blanked or
//! kept, paths with their `use` trees spread out, functions with their lengths.
//!
//! A scanner, not a parser: it understands what well-formatted code looks like and knows no types.

use std::path::{Path, PathBuf};

/// One Rust file of the tree.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// Path from the root of the repository, with `/`.
    pub path: String,
    /// As it stands on disk.
    pub text: String,
    /// The same with comments and the content of literals blanked; lines stay where they are.
    pub code: String,
    /// `code` with every item under `#[cfg(test)]` blanked too; empty for a file of tests.
    pub product: String,
}

impl SourceFile {
    /// Prepares one file. A file named `tests.rs`, or below a folder `tests`, is all test.
    pub fn new(path: &str, text: &str) -> SourceFile {
        let code = blank_comments_and_literals(text);
        let product = if is_test_path(path) { String::new() } else { blank_test_items(&code) };
        SourceFile { path: path.to_owned(), text: text.to_owned(), code, product }
    }

    /// The room the file belongs to: `src/node/handle.rs` and `src/node.rs` are both `node`.
    pub fn room(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("src/")?;
        let first = inside.split('/').next()?;
        Some(first.strip_suffix(".rs").unwrap_or(first))
    }

    /// Names of the modules between the crate's root and this file.
    fn module(&self) -> Vec<String> {
        let inside = self.path.split_once("src/").map_or(self.path.as_str(), |(_, rest)| rest);
        let mut names: Vec<String> =
            inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if matches!(names.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            names.pop();
        }
        names
    }
}

fn is_test_path(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.starts_with("tests/") || path.contains("/tests/")
}

/// All Rust files of the repository, in the order of their paths. Modules that are declared under
/// `#[cfg(test)]` count as test code wherever they lie.
pub fn load(root: &Path) -> Vec<SourceFile> {
    let mut files = Vec::new();
    for folder in ["src", "tests", "chaos", "benches"] {
        let walk = walkdir::WalkDir::new(root.join(folder)).sort_by_file_name();
        for entry in walk.into_iter().filter_map(Result::ok) {
            if entry.path().extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(entry.path()).expect("source is UTF-8");
                files.push(SourceFile::new(&relative(root, entry.path()), &text));
            }
        }
    }
    files.push(SourceFile::new(
        "build.rs",
        &std::fs::read_to_string(root.join("build.rs")).expect("build.rs is there"),
    ));
    let test_modules: Vec<String> = files.iter().flat_map(test_modules).collect();
    for file in &mut files {
        let is_test = test_modules.iter().any(|module| {
            file.path == format!("{module}.rs") || file.path.starts_with(&format!("{module}/"))
        });
        if is_test {
            file.product.clear();
        }
    }
    files
}

/// A path below `root`, with `/` whatever the system.
pub fn relative(root: &Path, path: &Path) -> String {
    let inside: PathBuf = path.strip_prefix(root).expect("walked from the root").to_path_buf();
    inside.to_string_lossy().replace('\\', "/")
}

/// Paths (without `.rs`) of modules that this file declares under `#[cfg(test)]`.
fn test_modules(file: &SourceFile) -> Vec<String> {
    let folder = match file.path.rsplit_once('/') {
        Some((folder, "mod.rs" | "lib.rs" | "main.rs")) => folder.to_owned(),
        _ => file.path.trim_end_matches(".rs").to_owned(),
    };
    let mut found = Vec::new();
    for (start, marker) in file.code.match_indices("#[cfg(test)]") {
        let item = skip_attributes(&file.code[start + marker.len()..]);
        let declared = item.strip_prefix("mod ").and_then(|rest| rest.split_once(';'));
        if let Some((name, _)) = declared
            && name.chars().all(is_identifier)
        {
            found.push(format!("{folder}/{name}"));
        }
    }
    found
}

fn skip_attributes(text: &str) -> &str {
    let mut rest = text.trim_start();
    while rest.starts_with("#[") {
        let Some(end) = rest.find(']') else { return rest };
        rest = rest[end + 1..].trim_start();
    }
    rest
}

fn is_identifier(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The text with comments, and what stands between the quotes of literals, turned into spaces.
pub fn blank_comments_and_literals(text: &str) -> String {
    let source: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < source.len() {
        let end = token_to_blank(&source, at);
        if end == at {
            out.push(source[at]);
            at += 1;
        } else {
            out.extend(source[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    out
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none starts there.
fn token_to_blank(source: &[char], at: usize) -> usize {
    let peek = |distance: usize| source.get(at + distance).copied().unwrap_or('\0');
    let after_identifier = at > 0 && is_identifier(source[at - 1]);
    match source[at] {
        '/' if peek(1) == '/' => line_end(source, at),
        '/' if peek(1) == '*' => block_comment_end(source, at),
        '"' => string_end(source, at),
        'r' | 'b' | 'c' if !after_identifier => prefixed_string_end(source, at),
        '\'' if peek(1) == '\\' => char_end(source, at),
        '\'' if peek(2) == '\'' => at + 3,
        _ => at,
    }
}

fn line_end(source: &[char], at: usize) -> usize {
    source[at..].iter().position(|&c| c == '\n').map_or(source.len(), |length| at + length)
}

fn block_comment_end(source: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut index = at;
    while index + 1 < source.len() {
        match (source[index], source[index + 1]) {
            ('/', '*') => (depth, index) = (depth + 1, index + 2),
            ('*', '/') => (depth, index) = (depth - 1, index + 2),
            _ => index += 1,
        }
        if depth == 0 {
            return index;
        }
    }
    source.len()
}

fn string_end(source: &[char], quote: usize) -> usize {
    let mut index = quote + 1;
    while index < source.len() {
        match source[index] {
            '\\' => index += 2,
            '"' => return index + 1,
            _ => index += 1,
        }
    }
    source.len()
}

fn char_end(source: &[char], quote: usize) -> usize {
    // Past the backslash and the character it escapes, which may itself be a quote.
    let rest = &source[(quote + 3).min(source.len())..];
    rest.iter().position(|&c| c == '\'').map_or(source.len(), |length| quote + 4 + length)
}

/// `b"..."`, `c"..."`, `r"..."`, `r#"..."#`, `br#"..."#` and `b'x'`; else `at`.
fn prefixed_string_end(source: &[char], at: usize) -> usize {
    let mut index = at;
    while index < source.len() && matches!(source[index], 'r' | 'b' | 'c') && index - at < 2 {
        index += 1;
    }
    let raw = source[at..index].contains(&'r');
    let hashes = source[index..].iter().take_while(|&&c| c == '#').count();
    match source.get(index + hashes) {
        Some('"') if raw => raw_string_end(source, index + hashes, hashes),
        Some('"') if hashes == 0 => string_end(source, index),
        _ => at,
    }
}

fn raw_string_end(source: &[char], quote: usize, hashes: usize) -> usize {
    let mut index = quote + 1;
    while index < source.len() {
        let closing = source[index] == '"'
            && source[index + 1..].iter().take(hashes).filter(|&&c| c == '#').count() == hashes;
        if closing {
            return index + 1 + hashes;
        }
        index += 1;
    }
    source.len()
}

/// `code` with each item under `#[cfg(test)]` blanked.
fn blank_test_items(code: &str) -> String {
    let mut out = code.to_owned();
    for (start, marker) in code.match_indices("#[cfg(test)]") {
        let end = start + marker.len() + item_length(&code[start + marker.len()..]);
        let blank = |c: char| if c == '\n' { "\n".to_owned() } else { " ".repeat(c.len_utf8()) };
        out.replace_range(start..end, &code[start..end].chars().map(blank).collect::<String>());
    }
    out
}

/// Bytes of the item at the start of `code`: up to its `;`, or to the brace that closes it.
fn item_length(code: &str) -> usize {
    let attributes = code.len() - skip_attributes(code).len();
    let mut depth = 0;
    for (offset, c) in code[attributes..].char_indices() {
        match c {
            ';' if depth == 0 => return attributes + offset + 1,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth <= 0 {
                    return attributes + offset + 1;
                }
            }
            _ => {}
        }
    }
    code.len()
}

/// A path as written, `use` trees spread out, `self` and `super` resolved to `crate`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CodePath {
    /// Line it stands on, from 1.
    pub line: usize,
    /// Its names, from the left.
    pub names: Vec<String>,
    /// It was written in a `use` declaration.
    pub imported: bool,
}

impl CodePath {
    /// Whether it starts with these names.
    pub fn starts_with(&self, prefix: &[&str]) -> bool {
        self.names.len() >= prefix.len() && self.names.iter().zip(prefix).all(|(a, b)| a == b)
    }
}

/// Every path of two names or more, and every imported one, in the order of the text.
pub fn paths(file: &SourceFile, code: &str) -> Vec<CodePath> {
    let tokens = tokenize(code);
    let mut module = file.module();
    // For each open brace: whether a module opened it.
    let mut braces = Vec::new();
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let previous = at.checked_sub(1).map_or("", |index| tokens[index].text.as_str());
        match tokens[at].text.as_str() {
            "use" => {
                let mut trees = Vec::new();
                at = use_tree(&tokens, at + 1, &[], &mut trees);
                found.extend(trees.into_iter().map(|path| resolve(path, &module)));
            }
            "{" => {
                let named = at >= 2 && tokens[at - 2].text == "mod";
                if named {
                    module.push(previous.to_owned());
                }
                braces.push(named);
                at += 1;
            }
            "}" => {
                if braces.pop() == Some(true) {
                    module.pop();
                }
                at += 1;
            }
            text if text.starts_with(is_identifier) => {
                let (path, next) = inline_path(&tokens, at);
                if path.names.len() > 1 {
                    found.push(resolve(path, &module));
                }
                at = next;
            }
            _ => at += 1,
        }
    }
    found
}

struct Token {
    line: usize,
    text: String,
}

fn tokenize(code: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let length = if is_identifier(first) {
                rest.find(|c| !is_identifier(c)).unwrap_or(rest.len())
            } else if rest.starts_with("::") {
                2
            } else {
                first.len_utf8()
            };
            tokens.push(Token { line: number + 1, text: rest[..length].to_owned() });
            rest = rest[length..].trim_start();
        }
    }
    tokens
}

/// Reads one tree of a `use` declaration; answers where it stopped.
fn use_tree(tokens: &[Token], at: usize, prefix: &[String], out: &mut Vec<CodePath>) -> usize {
    let mut names = prefix.to_vec();
    let mut index = at;
    let line = tokens.get(at).map_or(0, |token| token.line);
    while let Some(token) = tokens.get(index) {
        match token.text.as_str() {
            "::" => index += 1,
            "as" => index += 2,
            "{" => {
                index += 1;
                while tokens.get(index).is_some_and(|token| token.text != "}") {
                    index = use_tree(tokens, index, &names, out);
                    if tokens.get(index).is_some_and(|token| token.text == ",") {
                        index += 1;
                    }
                }
                return index + 1;
            }
            "," | ";" | "}" => break,
            "self" if !names.is_empty() => index += 1,
            text => {
                names.push(text.to_owned());
                index += 1;
            }
        }
    }
    if !names.is_empty() {
        out.push(CodePath { line, names, imported: true });
    }
    index
}

fn inline_path(tokens: &[Token], at: usize) -> (CodePath, usize) {
    let mut names = vec![tokens[at].text.clone()];
    let mut index = at + 1;
    while index + 1 < tokens.len()
        && tokens[index].text == "::"
        && tokens[index + 1].text.starts_with(is_identifier)
    {
        names.push(tokens[index + 1].text.clone());
        index += 2;
    }
    (CodePath { line: tokens[at].line, names, imported: false }, index)
}

/// Turns a leading `self` or chain of `super` into a path from `crate`.
fn resolve(path: CodePath, module: &[String]) -> CodePath {
    let ups = path.names.iter().take_while(|name| *name == "super").count();
    let own = usize::from(path.names[0] == "self");
    if ups + own == 0 {
        return path;
    }
    let kept = module.len().saturating_sub(ups);
    let mut names = vec!["crate".to_owned()];
    names.extend(module[..kept].iter().cloned());
    names.extend(path.names[ups + own..].iter().cloned());
    CodePath { names, ..path }
}

/// A function and the lines from its `fn` to its closing brace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Line of its `fn`, from 1.
    pub line: usize,
    /// Lines it takes.
    pub lines: usize,
    /// An attribute marks it as a test.
    pub is_test: bool,
}

/// Every function with a body, nested ones too.
pub fn functions(code: &str) -> Vec<Function> {
    let tokens = tokenize(code);
    let mut found = Vec::new();
    for at in 0..tokens.len().saturating_sub(1) {
        let name = &tokens[at + 1].text;
        if tokens[at].text != "fn" || !name.starts_with(is_identifier) {
            continue;
        }
        if let Some(last) = body_end(&tokens, at) {
            found.push(Function {
                name: name.clone(),
                line: tokens[at].line,
                lines: tokens[last].line - tokens[at].line + 1,
                is_test: is_marked_test(&tokens, at),
            });
        }
    }
    found
}

/// The token that closes the body of the function at `at`; None for a declaration.
fn body_end(tokens: &[Token], at: usize) -> Option<usize> {
    let mut depth = 0;
    // Parentheses and brackets, in which a `;` belongs to an array type.
    let mut nested = 0;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text.as_str() {
            "(" | "[" => nested += 1,
            ")" | "]" => nested -= 1,
            ";" if depth == 0 && nested == 0 => return None,
            "{" => depth += 1,
            "}" => {
                depth -= 1;
                if depth <= 0 {
                    return Some(index);
                }
            }
            _ => {}
        }
    }
    None
}

/// Whether one of the attributes before the `fn` at `at` is `#[test]` or ends in `::test`.
fn is_marked_test(tokens: &[Token], at: usize) -> bool {
    for index in (0..at).rev() {
        match tokens[index].text.as_str() {
            "{" | "}" | ";" => return false,
            "test" => {
                let before = index.checked_sub(1).map_or("", |index| tokens[index].text.as_str());
                if matches!(before, "[" | "::") {
                    return true;
                }
            }
            _ => {}
        }
    }
    false
}
