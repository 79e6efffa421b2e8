//! `ratoon` holds nothing of the failpoints: neither their names nor the variable that sets them.
//!
//! Why it matters: whoever may set the environment of a node must not be able to make it die.

use std::path::Path;

/// Names of all failpoints, as the source lists them.
fn points() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/fault/points.rs");
    let source = std::fs::read_to_string(path).expect("the list of failpoints is there");
    let literals = source.lines().filter(|line| line.contains(", can_fail: "));
    literals.filter_map(|line| line.split('"').nth(1)).map(str::to_owned).collect()
}

#[test]
fn the_program_that_people_run_holds_no_failpoint() {
    let program = std::fs::read(env!("CARGO_BIN_EXE_ratoon")).expect("the program was built");
    let finds = |text: &str| {
        let first = text.as_bytes()[0];
        let mut places = program.iter().enumerate().filter(|(_, byte)| **byte == first);
        places.any(|(at, _)| program[at..].starts_with(text.as_bytes()))
    };
    assert!(finds("RATOON_CONFIG_DIR"), "what is in the program is found in it");
    let points = points();
    assert!(points.len() > 50, "only {} failpoints are listed", points.len());
    let names = points.iter().map(String::as_str).chain(["RATOON_FAULT", "--list-faults"]);
    let found: Vec<&str> = names.filter(|name| finds(name)).collect();
    assert!(found.is_empty(), "{found:?}");
}
