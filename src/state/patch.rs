//! JSON merge patch (RFC 7396), the same on every replica and in every release.
//!
//! Members that a patch does not name keep their bytes and their order: numbers are never read and
//! written again, since two releases of a library may write one number in two ways. Only white
//! space around what is merged goes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::value::RawValue;

use crate::limits::JSON_DEPTH_MAX;

/// The document that `patch` makes of `document`; an absent one counts as `{}`.
///
/// The error says which of the two is no JSON document that can be patched.
pub(super) fn merge_patch(document: Option<&[u8]>, patch: &[u8]) -> Result<Vec<u8>, String> {
    let patch = parse(patch).map_err(|problem| format!("the patch is no JSON: {problem}"))?;
    let document = document
        .map(parse)
        .transpose()
        .map_err(|problem| format!("the value is no JSON: {problem}"))?;
    let mut merged = String::new();
    merge(document, patch, 0, &mut merged)?;
    Ok(merged.into_bytes())
}

fn parse(bytes: &[u8]) -> Result<&RawValue, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

/// A member of an object: its name as it was written, quotes and escapes included, and its value.
type Member<'a> = (String, &'a RawValue);

/// The members of an object in order; None: it is no object. Of two of one name the last counts, in
/// the place of the first.
fn members(value: &RawValue) -> Result<Option<Vec<Member<'_>>>, String> {
    if !value.get().starts_with('{') {
        return Ok(None);
    }
    let object: Object<'_> =
        serde_json::from_str(value.get()).map_err(|error| error.to_string())?;
    Ok(Some(object.0))
}

/// Writes what `patch` makes of `document` to `merged`.
fn merge(
    document: Option<&RawValue>,
    patch: &RawValue,
    depth: usize,
    merged: &mut String,
) -> Result<(), String> {
    if depth > JSON_DEPTH_MAX {
        return Err(format!("it is nested deeper than {JSON_DEPTH_MAX}"));
    }
    let Some(changes) = members(patch)? else {
        merged.push_str(patch.get());
        return Ok(());
    };
    let before = match document {
        Some(document) => members(document)?.unwrap_or_default(),
        None => Vec::new(),
    };
    // Looked up, not searched for: both sides may have a hundred thousand members.
    let change_of: BTreeMap<&str, &RawValue> =
        changes.iter().map(|(name, change)| (name.as_str(), *change)).collect();
    let known: BTreeSet<&str> = before.iter().map(|(name, _)| name.as_str()).collect();
    merged.push('{');
    let mut first = true;
    let mut member = |name: &str, merged: &mut String| -> Result<(), String> {
        if !std::mem::take(&mut first) {
            merged.push(',');
        }
        let quoted = serde_json::to_string(name).map_err(|error| error.to_string())?;
        merged.push_str(&quoted);
        merged.push(':');
        Ok(())
    };
    for (name, value) in &before {
        match change_of.get(name.as_str()) {
            Some(change) if change.get() == "null" => {}
            Some(change) => {
                member(name, merged)?;
                merge(Some(value), change, depth + 1, merged)?;
            }
            None => {
                member(name, merged)?;
                merged.push_str(value.get());
            }
        }
    }
    for (name, change) in &changes {
        if change.get() == "null" || known.contains(name.as_str()) {
            continue;
        }
        member(name, merged)?;
        merge(None, change, depth + 1, merged)?;
    }
    merged.push('}');
    Ok(())
}

/// The members of a JSON object in the order they were written.
struct Object<'a>(Vec<Member<'a>>);

impl<'de: 'a, 'a> serde::Deserialize<'de> for Object<'a> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Vec<Member<'de>>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                mut map: A,
            ) -> Result<Self::Value, A::Error> {
                let mut members: Vec<Member<'de>> = Vec::new();
                let mut places = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    match places.get(&name) {
                        Some(place) => {
                            let (_, known): &mut Member<'de> = &mut members[*place];
                            *known = value;
                        }
                        None => {
                            places.insert(name.clone(), members.len());
                            members.push((name, value));
                        }
                    }
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Visitor).map(Object)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    fn merged(document: &str, patch: &str) -> String {
        let document = (!document.is_empty()).then_some(document.as_bytes());
        String::from_utf8(merge_patch(document, patch.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn the_examples_of_the_rfc_hold() {
        for (document, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, r#"{}"#),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, r#"null"#, r#"null"#),
            (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            (r#"[1,2]"#, r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            (r#"{}"#, r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
            ("", r#"{"a":1}"#, r#"{"a":1}"#),
        ] {
            assert_eq!(merged(document, patch), result, "{document} under {patch}");
        }
    }

    #[test]
    fn what_a_patch_does_not_name_keeps_its_bytes() {
        let document = r#"{ "price": 1.10, "big": 12345678901234567890123, "text": "\u00e9",
            "list": [ 1 , 2 ] }"#;
        let expected = r#"{"price":1.10,"big":12345678901234567890123,"text":"\u00e9","list":[ 1 , 2 ],"new":1e400}"#;
        assert_eq!(merged(document, r#"{"new":1e400}"#), expected);
    }

    #[test]
    fn names_are_compared_as_text_however_they_are_escaped() {
        assert_eq!(merged(r#"{"\u0061":1,"b":2}"#, r#"{"a":3}"#), r#"{"a":3,"b":2}"#);
        assert_eq!(merged(r#"{"a":1,"a":2}"#, r#"{}"#), r#"{"a":2}"#);
    }

    #[test]
    fn what_is_no_json_is_refused_by_its_name() {
        let problem = merge_patch(Some(b"{"), b"{}").unwrap_err();
        assert!(problem.starts_with("the value is no JSON"), "{problem}");
        let problem = merge_patch(Some(b"{}"), b"{} {}").unwrap_err();
        assert!(problem.starts_with("the patch is no JSON"), "{problem}");
        assert!(merge_patch(None, b"\xff").is_err());
        let deep = [r#"{"a":"#.repeat(200), "1".into(), "}".repeat(200)].concat();
        assert!(merge_patch(None, deep.as_bytes()).is_err());
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![Just(Value::Null), any::<i8>().prop_map(Value::from), Just("x".into())];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[abc]", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    /// The pseudocode of the RFC.
    fn reference(target: Option<Value>, patch: &Value) -> Value {
        let Value::Object(patch) = patch else { return patch.clone() };
        let mut merged = match target {
            Some(Value::Object(members)) => members,
            _ => Map::new(),
        };
        for (name, value) in patch {
            match value.is_null() {
                true => {
                    merged.remove(name);
                }
                false => {
                    let before = merged.remove(name);
                    merged.insert(name.clone(), reference(before, value));
                }
            }
        }
        Value::Object(merged)
    }

    proptest! {
        #[test]
        fn any_patch_does_what_the_rfc_says(document in prop::option::of(json()), patch in json()) {
            let bytes = document.as_ref().map(|document| serde_json::to_vec(document).unwrap());
            let patched =
                merge_patch(bytes.as_deref(), &serde_json::to_vec(&patch).unwrap()).unwrap();
            let patched: Value = serde_json::from_slice(&patched).unwrap();
            prop_assert_eq!(patched, reference(document, &patch));
        }
    }
}
