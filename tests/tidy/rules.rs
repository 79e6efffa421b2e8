//! The rules of `docs/architecture.md` and `docs/style.md` that a scanner can check, each a function
//! from source to the violations it found. What they are checked against stands in `tidy.rs`.

use crate::tidy::source::{CodePath, SourceFile, functions, paths};

/// Longest function, from `fn` to the closing brace.
pub const FUNCTION_LINES_MAX: usize = 70;
/// Longest file.
pub const FILE_LINES_MAX: usize = 800;

/// Rooms by floor. A room imports only from floors below its own.
pub const FLOORS: &[&[&str]] = &[
    &["codec", "fault", "fuzz", "kv", "limits", "manifest", "metrics", "proto", "types"],
    &["anti_entropy", "raft", "snapshot", "state", "transfer"],
    &["net", "snapshot_store", "storage"],
    &["node"],
    &["api", "client", "config", "http"],
    &["server"],
    &["demo"],
    &["cli"],
    &["faulty", "main"],
];

/// The ground floor has an order of its own: a room there imports only from those before it.
pub const GROUND_ORDER: &[&str] =
    &["fuzz", "limits", "types", "kv", "manifest", "fault", "metrics", "proto", "codec"];

/// Highest floor that does no IO, reads no clock and draws no randomness of its own.
const PURE_FLOOR_MAX: usize = 1;

/// What the pure floors must not name, and why not.
const IMPURE: &[(&[&str], &str)] = &[
    (&["tokio"], "no runtime here: the core is told what happened"),
    (&["std", "fs"], "no files here: say what to write"),
    (&["std", "net"], "no sockets here: say what to send"),
    (&["std", "process"], "no processes here"),
    (&["std", "thread"], "no threads here"),
    (&["std", "env"], "no environment here: options are arguments"),
    (&["std", "collections", "*"], "name what is used: HashMap may hide here"),
    (&["std", "time", "*"], "name what is used: clocks may hide here"),
    (&["rand", "rng"], "the seed is an argument"),
    (&["rand", "random"], "the seed is an argument"),
    (&["rand", "thread_rng"], "the seed is an argument"),
];

/// Plain data inside what is impure otherwise.
const PURE_INSIDE: &[&[&str]] = &[
    &["std", "net", "IpAddr"],
    &["std", "net", "Ipv4Addr"],
    &["std", "net", "Ipv6Addr"],
    &["std", "net", "SocketAddr"],
];

/// Names that the pure floors must not have in any path.
const IMPURE_NAMES: &[(&str, &str)] = &[
    ("SystemTime", "`now` is an argument"),
    ("Instant", "`now` is an argument"),
    ("UNIX_EPOCH", "`now` is an argument"),
    ("thread_rng", "the seed is an argument"),
    ("OsRng", "the seed is an argument"),
    ("SysRng", "the seed is an argument"),
    ("HashMap", "its order differs from run to run: use BTreeMap"),
    ("HashSet", "its order differs from run to run: use BTreeSet"),
];

/// Crates, and the only places that may know them.
pub const CONFINED: &[(&str, &[&str])] = &[
    ("rocksdb", &["src/storage/"]),
    ("quinn", &["src/net/"]),
    ("quinn_proto", &["src/net/"]),
    ("rustls", &["src/net/"]),
    ("tokio_rustls", &["src/net/"]),
    ("rcgen", &["src/net/"]),
    ("bincode", &["src/codec/"]),
    ("fuser", &["chaos/src/power/"]),
    // The benchmark speaks the peer's messages, which are none of ours.
    ("prost", &["src/codec/", "src/proto/", "build.rs", "benches/writes/etcd.rs"]),
    ("raft", &["src/raft/"]),
    ("raft_proto", &["src/raft/"]),
    ("eraftpb", &["src/raft/"]),
    ("protobuf", &["src/raft/"]),
    ("axum", &["src/http/", "src/api/"]),
    ("clap", &["src/cli/", "src/main.rs", "chaos/src/bin/"]),
    ("anyhow", &["src/main.rs", "chaos/"]),
];

/// An accepted breach of a rule. The list only shrinks: one that is not needed any more fails.
pub struct Exception {
    /// The rule's name, as it stands in the violation.
    pub rule: &'static str,
    /// The file.
    pub path: &'static str,
    /// What in it: a name in the violation's message.
    pub what: &'static str,
    /// Why it may stand.
    pub reason: &'static str,
}

/// A breach of a rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The rule's name.
    pub rule: &'static str,
    /// The file.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong.
    pub message: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.message)
    }
}

fn violation(rule: &'static str, path: &str, line: usize, message: String) -> Violation {
    Violation { rule, path: path.to_owned(), line, message }
}

/// The floor of a room.
pub fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

/// All rules on one file.
pub fn check_file(file: &SourceFile) -> Vec<Violation> {
    let mut found: Vec<Violation> = opening(file).into_iter().collect();
    found.extend(lengths(file));
    found.extend(unfinished(file));
    found.extend(imports(file));
    found.extend(purity(file));
    found.extend(confinement(file));
    found
}

/// A file opens with `//!`.
fn opening(file: &SourceFile) -> Option<Violation> {
    let opens = file.text.starts_with("//! ");
    let message = || "opens without `//!`: say what it is, why, and what it never does".to_owned();
    (!opens).then(|| violation("opening", &file.path, 1, message()))
}

/// Functions and files have a greatest length.
fn lengths(file: &SourceFile) -> Vec<Violation> {
    let mut found = Vec::new();
    let lines = file.text.lines().count();
    if lines > FILE_LINES_MAX {
        let message = format!("`{}` has {lines} lines, the limit is {FILE_LINES_MAX}", file.path);
        found.push(violation("file-length", &file.path, 1, message));
    }
    for function in functions(&file.code) {
        if function.lines > FUNCTION_LINES_MAX {
            let message = format!(
                "`{}` has {} lines, the limit is {FUNCTION_LINES_MAX}",
                function.name, function.lines
            );
            found.push(violation("function-length", &file.path, function.line, message));
        }
    }
    found
}

/// Nothing unfinished is committed.
fn unfinished(file: &SourceFile) -> Vec<Violation> {
    let mut found = Vec::new();
    for (number, line) in file.code.lines().enumerate() {
        for mark in ["todo!", "unimplemented!", "dbg!"] {
            if line.contains(mark) {
                let message = format!("`{mark}` must not be committed");
                found.push(violation("unfinished", &file.path, number + 1, message));
            }
        }
        if line.contains("allow(dead_code)") {
            let message = "dead code goes, it is not allowed".to_owned();
            found.push(violation("unfinished", &file.path, number + 1, message));
        }
    }
    found
}

/// A room imports only from floors below it. Tests inside a room obey as well.
fn imports(file: &SourceFile) -> Vec<Violation> {
    let Some(room) = file.room() else { return Vec::new() };
    let Some(own) = floor(room) else {
        // lib.rs only declares the rooms; any other file must belong to one.
        let message = format!("room `{room}` stands on no floor: add it to FLOORS");
        return if room == "lib" {
            declared_rooms(file)
        } else {
            vec![violation("floors", &file.path, 1, message)]
        };
    };
    let root = if matches!(room, "faulty" | "main") { "ratoon" } else { "crate" };
    let mut found = Vec::new();
    for path in paths(file, &file.code) {
        if path.names[0] != root || path.names.len() < 2 || path.names[1] == room {
            continue;
        }
        let other = path.names[1].as_str();
        let problem = match floor(other) {
            None => format!("`{root}::{other}` is no room"),
            Some(0) if own == 0 && !is_earlier(other, room) => {
                format!("`{room}` imports `{other}`, which comes after it on the ground floor")
            }
            Some(theirs) if own > 0 && theirs == own => {
                format!("`{room}` imports its sibling `{other}` (floor {own})")
            }
            Some(theirs) if theirs > own => {
                format!("`{room}` (floor {own}) imports `{other}` (floor {theirs})")
            }
            Some(_) => continue,
        };
        found.push(violation("floors", &file.path, path.line, problem));
    }
    found
}

fn is_earlier(other: &str, room: &str) -> bool {
    let place = |name| GROUND_ORDER.iter().position(|&other| other == name);
    place(other) < place(room)
}

/// Every room that lib.rs declares stands on a floor.
fn declared_rooms(file: &SourceFile) -> Vec<Violation> {
    let mut found = Vec::new();
    for (number, line) in file.product.lines().enumerate() {
        let declared = line.trim().strip_suffix(';').and_then(|line| line.rsplit_once("mod "));
        if let Some((_, name)) = declared
            && floor(name).is_none()
        {
            let message = format!("room `{name}` stands on no floor: add it to FLOORS");
            found.push(violation("floors", &file.path, number + 1, message));
        }
    }
    found
}

/// Floors 0 and 1 do no IO, read no clock, draw no randomness, and iterate in a fixed order.
/// Their tests may.
fn purity(file: &SourceFile) -> Vec<Violation> {
    let pure = file.room().and_then(floor).is_some_and(|floor| floor <= PURE_FLOOR_MAX);
    if !pure {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut report = |line: usize, what: String, why: &str| {
        found.push(violation("purity", &file.path, line, format!("`{what}`: {why}")));
    };
    let all = paths(file, &file.product);
    let is_data = |path: &CodePath| PURE_INSIDE.iter().any(|data| path.starts_with(data));
    for path in all.iter().filter(|path| !is_data(path)) {
        for (prefix, why) in IMPURE {
            if path.starts_with(prefix) {
                report(path.line, prefix.join("::"), why);
            }
        }
        for (name, why) in IMPURE_NAMES {
            if path.names.iter().any(|other| other == name) {
                report(path.line, (*name).to_owned(), why);
            }
        }
    }
    found
}

/// Some crates are known to one room only; tests may use them to make what is wrong on purpose.
fn confinement(file: &SourceFile) -> Vec<Violation> {
    let all = paths(file, &file.product);
    let mut found = Vec::new();
    for (name, places) in CONFINED {
        let at_home = places.iter().any(|place| file.path.starts_with(place));
        if at_home || is_room_in_scope(&all, name) {
            continue;
        }
        for path in all.iter().filter(|path| path.names[0] == *name) {
            let message = format!("`{name}` is known only to {}", places.join(", "));
            found.push(violation("confinement", &file.path, path.line, message));
        }
    }
    found
}

/// Whether the file imports a room of that name, so that `raft::X` means `crate::raft::X`.
fn is_room_in_scope(all: &[CodePath], name: &str) -> bool {
    all.iter().any(|path| {
        path.imported
            && matches!(path.names[0].as_str(), "crate" | "ratoon")
            && path.names.last().is_some_and(|last| last == name)
    })
}

/// Takes out what the exceptions cover. An exception that covers nothing is a violation itself.
pub fn without_exceptions(found: Vec<Violation>, exceptions: &[Exception]) -> Vec<Violation> {
    let covers = |exception: &Exception, violation: &Violation| {
        exception.rule == violation.rule
            && exception.path == violation.path
            && violation.message.contains(&format!("`{}`", exception.what))
    };
    let mut left: Vec<Violation> = exceptions
        .iter()
        .filter(|exception| !found.iter().any(|violation| covers(exception, violation)))
        .map(|exception| {
            let message = format!("`{}` needs no exception any more: take it out", exception.what);
            violation("exceptions", exception.path, 1, message)
        })
        .collect();
    left.extend(
        found
            .into_iter()
            .filter(|violation| !exceptions.iter().any(|exception| covers(exception, violation))),
    );
    left
}
