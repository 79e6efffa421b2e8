//! Of the list, the source that passes its points, and the language of the plan.

use std::collections::BTreeSet;
use std::path::Path;

use super::{Action, Plan, Point};

fn point(name: &str) -> Point {
    Point::ALL.iter().copied().find(|point| point.name() == name).unwrap()
}

fn refusal(text: &str) -> String {
    Plan::parse(text).err().unwrap()
}

#[test]
fn names_are_lower_case_words_and_no_two_points_share_one() {
    let names: BTreeSet<&str> = Point::ALL.iter().map(|point| point.name()).collect();
    assert_eq!(names.len(), Point::ALL.len());
    for name in names {
        let is_word = |word: &str| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase());
        assert!(name.split('.').all(is_word) && name.contains('.'), "{name}");
    }
}

#[test]
fn a_plan_counts_each_point_for_itself_and_strikes_once() {
    let plan = Plan::parse("install.begun:2=sleep=5, log.append.done").unwrap();
    let (begun, done) = (point("install.begun"), point("log.append.done"));
    assert_eq!(plan.pass(begun), None);
    assert_eq!(plan.pass(done), Some(Action::Kill));
    assert_eq!(plan.pass(begun), Some(Action::Sleep(5)));
    assert_eq!(plan.pass(begun), None);
    assert_eq!(plan.pass(point("install.redo.begun")), None);
}

#[test]
fn one_point_may_have_several_orders() {
    let plan = Plan::parse("log.append.begun=sleep=1,log.append.begun:3=error").unwrap();
    let passed: Vec<_> = (0..4).map(|_| plan.pass(point("log.append.begun"))).collect();
    assert_eq!(passed, [Some(Action::Sleep(1)), None, Some(Action::Error), None]);
}

#[test]
fn a_plan_that_cannot_be_carried_out_is_refused_with_the_way_out() {
    assert!(refusal("install.bogus").contains("\"install.bogus\""));
    assert!(refusal("install.bogus").contains("--list-faults"));
    assert!(refusal("").contains("no failpoint \"\""));
    for text in ["install.begun:0", "install.begun:x", "install.begun:"] {
        assert!(refusal(text).contains("which time"), "{text}");
    }
    for text in ["install.begun=stop", "install.begun=sleep", "install.begun=sleep=x"] {
        assert!(refusal(text).contains("kill, error, sleep"), "{text}");
    }
    assert!(refusal("log.append.done=error").contains("nothing can fail"));
    assert!(refusal("log.append.begun,nowhere.at.all").contains("nowhere.at.all"));
}

/// What a point says of itself is what the source does with it. Files of this room do not count.
#[test]
fn every_point_is_passed_by_the_source_and_fails_only_where_it_can() {
    let source = source_outside(Path::new(env!("CARGO_MANIFEST_DIR")).join("src").as_path());
    for point in Point::ALL {
        let (name, variant) = (point.name(), point.variant());
        let mentioned = |call: &str| {
            let text = format!("{call}Point::{variant}");
            source.match_indices(&text).any(|(at, _)| {
                let next = source[at + text.len()..].chars().next();
                !next.is_some_and(|c| c.is_alphanumeric())
            })
        };
        assert!(mentioned(""), "nobody passes {name}");
        if point.can_fail() {
            assert!(!mentioned("point("), "{name} says it can fail, and its caller cannot");
        } else {
            assert!(!mentioned("fail("), "{name} says it cannot fail, and its caller could");
        }
    }
}

fn source_outside(root: &Path) -> String {
    let mut text = String::new();
    for entry in walkdir::WalkDir::new(root).into_iter().map(Result::unwrap) {
        let is_own = entry.path().starts_with(root.join("fault"));
        if !is_own && entry.path().extension().is_some_and(|extension| extension == "rs") {
            text.push_str(&std::fs::read_to_string(entry.path()).unwrap());
        }
    }
    text
}
