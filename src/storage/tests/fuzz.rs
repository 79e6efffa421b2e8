//! Fuzz targets of this room: records of the raft log and the small files of the data directory.

use std::fs;

use bytes::Bytes;

use crate::codec::{InstallPlanRecord, encode_install_plan, frame, local};
use crate::fuzz::{Target, Verdict, bounded, canonical};
use crate::raft::{HardState, LogEntry, LogStart};
use crate::storage::log_records::*;
use crate::storage::{DataDir, StorageError};

#[test]
fn records_of_the_raft_log() {
    let entry = LogEntry { index: 7, term: 3, bytes: Bytes::from_static(b"entry") };
    let state = HardState { term: 3, vote: 2, commit: 7 };
    let start = LogStart { index: 1, term: 1 };
    let examples = vec![
        ("entry", encode_entry(&entry)),
        ("hard-state", encode_hard_state(&state)),
        ("start", encode_start(&start)),
    ];
    Target::new("log-record", examples).run(|input| {
        // As it is, and behind a right checksum at each place.
        let payload = &input[input.len().min(frame::HEADER_BYTES)..];
        let sealed = |place: &[u8]| frame::seal(1, place, payload);
        let entry = |input: &[u8]| canonical(input, |bytes| decode_entry(7, bytes), encode_entry);
        let state = |input: &[u8]| canonical(input, decode_hard_state, encode_hard_state);
        let start = |input: &[u8]| canonical(input, decode_start, encode_start);
        assert!(decode_entry(8, input).is_err() && decode_entry_term(8, input).is_err());
        let verdicts = [
            entry(input),
            state(input),
            start(input),
            entry(&sealed(&entry_key(7))),
            state(&sealed(HARD_STATE_KEY)),
            start(&sealed(START_KEY)),
        ];
        if let Some(index) = entry_index(input) {
            assert_eq!(entry_key(index), input);
        }
        verdicts.into_iter().fold(Verdict::Refused, Verdict::or)
    });
}

#[test]
fn files_of_the_data_directory() {
    let root = tempfile::tempdir().unwrap();
    let directory = DataDir::open(root.path()).unwrap();
    let plan = InstallPlanRecord {
        snapshot: [7; 32],
        start_index: 1000,
        start_term: 3,
        term: 4,
        vote: 2,
        commit: 1000,
        generation: 5,
    };
    let seeds = vec![(1_u64, "a:7400".to_owned()), (2, "b:7400".to_owned())];
    let examples = vec![
        ("current", frame::seal_integers(1, b"current generation", [5])),
        ("plan", encode_install_plan(&plan)),
        ("seeds", frame::seal(1, b"seeds", &local::encode(1, &seeds))),
    ];
    let paths = ["state/CURRENT", "state/PLAN", "SEEDS", "LOST"].map(|name| root.path().join(name));
    Target::new("data-dir", examples).run(|input| {
        for path in &paths {
            fs::write(path, input).unwrap();
        }
        let read = |result: Result<bool, StorageError>| match result {
            Ok(true) => Verdict::Accepted,
            Ok(false) => panic!("a file that is there reads as none"),
            Err(error) => {
                assert!(matches!(error, StorageError::Corrupt { .. }), "{error}");
                Verdict::Refused
            }
        };
        let lost = bounded(input, || directory.check_not_lost());
        assert!(lost.is_err(), "whatever it says, that the file is there decides");
        let verdicts = [
            read(bounded(input, || directory.current_generation()).map(|it| it.is_some())),
            read(bounded(input, || directory.pending_install()).map(|it| it.is_some())),
            read(bounded(input, || directory.load_seeds()).map(|_| true)),
        ];
        verdicts.into_iter().fold(Verdict::Refused, Verdict::or)
    });
}
