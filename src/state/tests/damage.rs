//! Damaged and too new rows: typed errors, never a panic, never a guess.

use bytes::Bytes;
use proptest::prelude::*;

use crate::kv::{Batch, Family};
use crate::state::testing::*;
use crate::state::{RequestError, State, StateError, content_digest, read};
use crate::types::{Code, Command, Failure, Payload, ScanOptions};

/// A replica with rows of every kind.
fn full_replica() -> Replica {
    let mut replica = Replica::with_collection();
    let node = replica.enrol("two");
    replica.conf_change(Command::AddLearner(node), members(&[1], &[2]));
    let other = replica.enrol("three");
    replica.conf_change(Command::RemoveNode(other), members(&[1], &[2]));
    replica.run(Command::OpenSession).unwrap();
    let session = replica.state.applied();
    replica.run_in(session, 1, Command::DropCollection(collection("nope"))).reply.unwrap_err();
    replica.put("a", "1");
    replica.put("a", "2");
    replica.put("b", "1");
    replica.write(vec![delete("b")]).unwrap();
    replica.write_batch();
    replica
}

/// Reads and writes about everything; the first error, if any.
fn exercise(replica: &mut Replica) -> Result<(), RequestError> {
    replica.state = State::load(&replica.view)?;
    let view = &replica.view;
    read::list_namespaces(view)?;
    read::list_collections(view, None)?;
    read::cluster(view)?;
    read::removed_nodes(view)?;
    read::get(view, &collection("c"), b"a")?;
    let index = replica.state.applied();
    read::scan(view, &collection("c"), &ScanOptions::default(), index)?;
    content_digest(view)?;
    let hash = [5; 32];
    let expires_unix_ms = replica.state.last_time_unix_ms().saturating_add(5);
    for command in [
        Command::Write(crate::types::WriteBatch { writes: vec![put("a", "3"), delete("b")] }),
        Command::OpenSession,
        Command::CreateToken { secret_hash: hash, expires_unix_ms, learner: false },
        Command::RedeemToken { secret_hash: hash, addresses: addresses("four") },
        Command::DropCollection(collection("c")),
    ] {
        let request = crate::types::Request { session: None, command };
        let entry = crate::codec::encode_entry(0, &crate::codec::encode_request(&request));
        replica.apply(Payload::Command(entry))?;
    }
    Ok(())
}

#[test]
fn an_undamaged_state_passes_the_exercise() {
    exercise(&mut full_replica()).unwrap();
}

#[test]
fn a_row_of_a_newer_format_halts_and_says_so() {
    let pristine = full_replica();
    for family in [Family::Meta, Family::Records] {
        for (key, mut value) in pristine.view.rows(family) {
            value[0] = 9;
            let mut replica = full_replica();
            let mut batch = Batch::default();
            batch.put(family, key.clone(), value);
            replica.view.write(&batch);
            match exercise(&mut replica) {
                Err(RequestError::State(error @ StateError::TooOld { .. })) => {
                    assert_eq!(Failure::from(error).code, Code::Internal);
                }
                // Hidden versions, descriptors and uses of sessions need not be looked at.
                Ok(()) => {}
                Err(other) => panic!("{key:02x?}: {other}"),
            }
        }
    }
}

#[test]
fn a_name_without_its_descriptor_or_counts_is_corrupt() {
    for tag in [0x12, 0x13] {
        let mut replica = full_replica();
        let mut batch = Batch::default();
        for (key, _) in replica.view.rows(Family::Meta) {
            if key[0] == tag {
                batch.delete(Family::Meta, key);
            }
        }
        replica.view.write(&batch);
        let error = read::describe(&replica.view, &collection("c")).unwrap_err();
        assert_refused(Err::<(), _>(error), Code::Corrupt);
    }
}

#[test]
fn counts_that_cannot_be_right_halt_the_write() {
    let mut replica = full_replica();
    let mut batch = Batch::default();
    for (key, value) in replica.view.rows(Family::Meta) {
        if key[0] == 0x13 {
            assert_eq!(value, [1, 1, 2]);
            batch.put(Family::Meta, key, vec![1, 0, 0]);
        }
    }
    replica.view.write(&batch);
    let request = crate::types::Request {
        session: None,
        command: Command::Write(crate::types::WriteBatch { writes: vec![delete("a")] }),
    };
    let entry = crate::codec::encode_entry(0, &crate::codec::encode_request(&request));
    let error = replica.apply(Payload::Command(entry)).unwrap_err();
    assert!(matches!(error, StateError::Corrupt { .. }));
}

proptest! {
    #[test]
    fn no_damage_to_a_row_makes_anything_panic(
        row in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        in_key in any::<bool>(),
        cut in any::<bool>(),
    ) {
        let mut replica = full_replica();
        let rows: Vec<_> = [Family::Meta, Family::Records]
            .into_iter()
            .flat_map(|family| {
                replica.view.rows(family).into_iter().map(move |(key, value)| (family, key, value))
            })
            .collect();
        let (family, mut key, mut value) = rows[row.index(rows.len())].clone();
        let mut batch = Batch::default();
        batch.delete(family, key.clone());
        let damaged = if in_key { &mut key } else { &mut value };
        let place = place.index(damaged.len());
        damaged[place] = byte;
        if cut {
            damaged.truncate(place);
        }
        batch.put(family, key, value);
        replica.view.write(&batch);
        if let Err(RequestError::Refused(failure)) = exercise(&mut replica) {
            // A changed name or layer looks like something that is not there.
            let absent = [Code::CollectionNotFound, Code::InvalidArgument];
            prop_assert!(absent.contains(&failure.code), "{failure}");
        }
    }

    #[test]
    fn no_cursor_makes_a_scan_panic(bytes in prop::collection::vec(any::<u8>(), 0..60), plausible in any::<bool>()) {
        let replica = full_replica();
        let mut bytes = bytes;
        if plausible && bytes.len() > 17 {
            bytes[..17].copy_from_slice(&[1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 9]);
        }
        let options = ScanOptions { cursor: Bytes::from(bytes), ..ScanOptions::default() };
        let index = replica.state.applied();
        if let Err(error) = read::scan(&replica.view, &collection("c"), &options, index) {
            let failure = Failure::from(error);
            prop_assert!(
                [Code::CursorInvalid, Code::Unavailable].contains(&failure.code), "{failure}"
            );
        }
    }
}
