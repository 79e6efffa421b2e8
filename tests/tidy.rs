//! The rules of the house, checked from the source: floors, purity, confinement of crates, lengths,
//! openings, and documents that name only what exists.
//!
//! Each rule is proved by a planted violation as well: a check that cannot fail checks nothing.

mod documents;
mod planted;
mod rules;
mod source;

use std::path::Path;

use rules::{Exception, Violation};

/// Accepted breaches, each with its reason. The list only shrinks.
const EXCEPTIONS: &[Exception] = &[];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn assert_none(found: &[Violation]) {
    let lines: Vec<String> = found.iter().map(Violation::to_string).collect();
    assert!(found.is_empty(), "{} violations:\n{}", found.len(), lines.join("\n"));
}

fn exists(path: &str) -> bool {
    root().join(path).exists()
}

#[test]
fn source_keeps_the_rules() {
    let files = source::load(root());
    assert!(files.len() > 20, "only {} files were found", files.len());
    assert!(EXCEPTIONS.iter().all(|exception| !exception.reason.is_empty()));
    let found = files.iter().flat_map(rules::check_file).collect();
    assert_none(&rules::without_exceptions(found, EXCEPTIONS));
}

#[test]
fn every_room_of_the_ground_floor_has_its_place_in_the_order() {
    let mut order = rules::GROUND_ORDER.to_vec();
    order.sort_unstable();
    assert_eq!(order, rules::FLOORS[0]);
}

#[test]
fn documents_are_linked_and_their_links_resolve() {
    let pages = documents::load(root());
    let mut found = documents::check_links(&pages, exists);
    found.extend(documents::check_index(&pages));
    assert_none(&found);
}

#[test]
fn documents_name_only_what_exists() {
    let pages = documents::load(root());
    let files = source::load(root());
    let page = |path: &str| {
        pages.iter().find(|page| page.path == path).unwrap_or_else(|| panic!("{path} is missing"))
    };
    let makefile = std::fs::read_to_string(root().join("Makefile")).expect("Makefile is there");
    let lib = files.iter().find(|file| file.path == "src/lib.rs").expect("lib.rs is there");
    let mut found = documents::check_test_names(page("docs/testing.md"), &files, exists);
    found.extend(documents::check_make_targets(&pages, &makefile));
    found.extend(documents::check_map(page("docs/architecture.md"), lib));
    if lib.product.contains("pub mod config;") {
        let table = files.iter().find(|file| file.path == "src/config/settings.rs");
        let table = table.expect("the table of settings is in src/config/settings.rs");
        found.extend(documents::check_settings(page("docs/operating/settings.md"), table));
    }
    let metrics = files.iter().find(|file| file.path == "src/node/metrics.rs");
    let metrics = metrics.expect("the metrics are made in src/node/metrics.rs");
    found.extend(documents::check_metrics(page("docs/operating/metrics.md"), metrics));
    assert_none(&found);
}
