//! Fuzz targets of this room: what people type and paste.
#![allow(clippy::unwrap_used)]

use super::{ClusterId, CollectionName, JoinToken, Name, SnapshotId};
use crate::fuzz::{Target, Verdict, canonical, survives};

/// Parsers of text see no bytes that are none.
fn text(input: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(input).map_err(|error| error.to_string())
}

#[test]
fn join_tokens() {
    let token = |endpoints: &[&str]| JoinToken {
        cluster: ClusterId([1; 16]),
        ca_fingerprint: [2; 32],
        secret: [3; 32],
        endpoints: endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect(),
    };
    let examples = vec![
        ("one", token(&["10.0.0.1:7402"]).to_string().into_bytes()),
        ("two", token(&["[::1]:7402", "node-2.example:7402"]).to_string().into_bytes()),
    ];
    let target =
        Target { words: &["ratoon1.", ".", ",", " "], ..Target::new("join-token", examples) };
    target.run(|input| {
        let parse = |input: &[u8]| -> Result<JoinToken, String> {
            let token: JoinToken =
                text(input)?.parse().map_err(|failure| format!("{failure:?}"))?;
            // The secret must reach no log, whatever the token looks like.
            assert!(!format!("{token:?}").contains("AwMDAwMD"));
            Ok(token)
        };
        survives(input, parse, JoinToken::to_string)
    });
}

#[test]
fn names_and_ids() {
    let examples = vec![
        ("name", b"users-2.x_y".to_vec()),
        ("collection", b"prod/users".to_vec()),
        ("cluster", ClusterId([0xab; 16]).to_string().into_bytes()),
        ("snapshot", SnapshotId::of(b"manifest").to_string().into_bytes()),
    ];
    let target = Target { words: &["/", ".", "-", "A", "\u{e9}"], ..Target::new("name", examples) };
    target.run(|input| {
        let name = |input: &[u8]| Name::parse("name", text(input).unwrap_or("\0"));
        let collection = |input: &[u8]| text(input).unwrap_or("\0").parse::<CollectionName>();
        let cluster = |input: &[u8]| text(input).unwrap_or("\0").parse::<ClusterId>();
        let snapshot = |input: &[u8]| text(input).unwrap_or("\0").parse::<SnapshotId>();
        let verdicts = [
            canonical(input, name, |name| name.to_string()),
            canonical(input, collection, |name| name.to_string()),
            survives(input, cluster, |id| id.to_string()),
            survives(input, snapshot, |id| id.to_string()),
        ];
        verdicts.into_iter().fold(Verdict::Refused, Verdict::or)
    });
}
