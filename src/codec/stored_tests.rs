//! Golden fixtures of every persisted row: these bytes must be readable for ever.
#![allow(clippy::unwrap_used)]

use std::fmt::Debug;

use data_encoding::HEXLOWER;

use super::*;

fn golden<'a, T>(row: &T, hex: &str, bytes: &'a mut Vec<u8>)
where
    T: Row + BorrowDecode<'a, ()> + PartialEq + Debug,
{
    assert_eq!(HEXLOWER.encode(&encode(row)), hex, "{} is written otherwise than before", T::WHAT);
    *bytes = HEXLOWER.decode(hex.as_bytes()).unwrap();
    assert_eq!(&decode::<T>(bytes).unwrap(), row, "{} is read otherwise than before", T::WHAT);
}

#[test]
fn rows_of_the_cluster_keep_their_bytes() {
    golden(
        &Applied { index: 300, term: 2, time_unix_ms: 1_700_000_000_000 },
        "01fb2c0102fd0068e5cf8b010000",
        &mut Vec::new(),
    );
    golden(
        &ConfState {
            voters: vec![1, 2],
            learners: vec![3],
            voters_outgoing: vec![],
            learners_next: vec![4],
            auto_leave: true,
        },
        "01020102010300010401",
        &mut Vec::new(),
    );
    golden(
        &Cluster {
            id: [0xab; 16],
            created_unix_ms: 5,
            ca_certificate: vec![1, 2],
            sealed_ca_key: vec![3],
        },
        "01abababababababababababababababab050201020103",
        &mut Vec::new(),
    );
    golden(
        &Counters { next_node: 4, namespaces: 1, collections: 2, sessions: 250 },
        "01040102fa",
        &mut Vec::new(),
    );
    golden(
        &Node { raft: "a:1".into(), bulk: "a:2".into(), api: "a:3".into(), learner: true },
        "0103613a3103613a3203613a3301",
        &mut Vec::new(),
    );
    golden(&AtIndex { index: 251 }, "01fbfb00", &mut Vec::new());
    golden(
        &Pin { index: 9, snapshot: Some(([0x11; 32], 2)), renewed_unix_ms: 7 },
        &format!("010901{}0207", "11".repeat(32)),
        &mut Vec::new(),
    );
    golden(
        &Token { expires_unix_ms: 8, learner: false, used_by: Some(3) },
        "0108000103",
        &mut Vec::new(),
    );
}

#[test]
fn rows_of_collections_and_records_keep_their_bytes() {
    golden(&Namespace { created_index: 1, created_unix_ms: 2 }, "010102", &mut Vec::new());
    golden(&CollectionEntry { incarnation: 12, layer: 13 }, "010c0d", &mut Vec::new());
    golden(
        &Descriptor {
            namespace: "n".into(),
            name: "c".into(),
            layer: 12,
            below: vec![LayerBelow { layer: 5, ceiling: 11 }],
            created_unix_ms: 3,
            dropped: false,
        },
        "01016e01630c01050b0300",
        &mut Vec::new(),
    );
    golden(&Counts { records: 1, bytes: 10 }, "01010a", &mut Vec::new());
    golden(&Record::Tombstone, "0100", &mut Vec::new());
    golden(
        &Record::Value { expires_unix_ms: None, content_type: "t", value: b"v1" },
        "0101000174027631",
        &mut Vec::new(),
    );
    golden(
        &Record::Value { expires_unix_ms: Some(6), content_type: "", value: b"" },
        "010101060000",
        &mut Vec::new(),
    );
    golden(&Change::Put, "0100", &mut Vec::new());
    golden(&Change::Delete, "0101", &mut Vec::new());
}

#[test]
fn rows_of_sessions_keep_their_bytes() {
    let session = |outcome| {
        let answer = Answer { index: 8, command: [0xcd; 16], outcome };
        Session { last_use: 9, sequence: 4, outcome: Some(answer) }
    };
    golden(&Session { last_use: 9, sequence: 0, outcome: None }, "01090000", &mut Vec::new());
    golden(
        &session(Outcome::Done),
        "0109040108cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd00",
        &mut Vec::new(),
    );
    golden(
        &session(Outcome::Session(5)),
        "0109040108cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd0205",
        &mut Vec::new(),
    );
    golden(
        &session(Outcome::Node(6)),
        "0109040108cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd0306",
        &mut Vec::new(),
    );
    golden(
        &session(Outcome::CollectionCreated { incarnation: 7, created_unix_ms: 8 }),
        "0109040108cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd040708",
        &mut Vec::new(),
    );
    golden(
        &session(Outcome::Failed {
            code: "x".into(),
            retry: 1,
            message: "m".into(),
            hint: String::new(),
        }),
        "0109040108cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd05017801016d00",
        &mut Vec::new(),
    );
    golden(
        &session(Outcome::Written { count: 9, existed: vec![0x81, 1] }),
        "0109040108cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd0109028101",
        &mut Vec::new(),
    );
}

#[test]
fn outcomes_come_back_as_they_were_answered() {
    let existed: Vec<bool> = (0..19).map(|at| at % 3 == 0).collect();
    let results = [
        Ok(Reply::Done),
        Ok(Reply::Written { existed }),
        Ok(Reply::Written { existed: vec![] }),
        Ok(Reply::Session(7)),
        Ok(Reply::Node(NodeId(3))),
        Ok(Reply::CollectionCreated { incarnation: 4, created_unix_ms: 5 }),
        Err(Failure::new(Code::ConditionFailed, "no").hint("read first")),
    ];
    for result in results {
        assert_eq!(Outcome::from(&result).into_result().unwrap(), result);
    }
}
