//! The bytes of an install plan: what a node has decided to become, so that a crash in the middle
//! of installing a snapshot can be finished at boot.
//!
//! Plain fields only; `storage/` gives them their meaning. Never decides anything.

use bincode::{Decode, Encode};

use super::frame::{self, FrameError};

/// Format this code writes.
const VERSION: u8 = 1;
/// The frame's place.
const PLACE: &[u8] = b"install plan";
/// No plan is longer, framed.
pub const INSTALL_PLAN_BYTES_MAX: usize = 256;

/// An install plan on disk.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct InstallPlanRecord {
    /// Digest of the snapshot's manifest.
    pub snapshot: [u8; 32],
    /// Index the snapshot stands for: the log will start after it.
    pub start_index: u64,
    /// Term of that entry.
    pub start_term: u64,
    /// Term of the hard state to write.
    pub term: u64,
    /// Vote of the hard state to write; 0: nobody.
    pub vote: u64,
    /// Commit index of the hard state to write.
    pub commit: u64,
    /// The generation directory that holds the snapshot's state.
    pub generation: u64,
}

/// The plan as bytes.
pub fn encode_install_plan(plan: &InstallPlanRecord) -> Vec<u8> {
    let payload = bincode::encode_to_vec(plan, config())
        .expect("plain integers always encode into a growing vector");
    frame::seal(VERSION, PLACE, &payload)
}

/// The plan in `bytes`, all of them.
pub fn decode_install_plan(bytes: &[u8]) -> Result<InstallPlanRecord, FrameError> {
    let payload = frame::open(VERSION, PLACE, bytes)?;
    let (plan, used) = bincode::decode_from_slice(payload, config())
        .map_err(|error| FrameError::Malformed(error.to_string()))?;
    if used != payload.len() {
        return Err(FrameError::Malformed(format!("{} bytes left over", payload.len() - used)));
    }
    Ok(plan)
}

fn config() -> impl bincode::config::Config {
    bincode::config::standard()
        .with_little_endian()
        .with_fixed_int_encoding()
        .with_limit::<INSTALL_PLAN_BYTES_MAX>()
}

#[cfg(test)]
mod tests {
    use data_encoding::HEXLOWER;
    use proptest::prelude::*;

    use super::*;

    fn example() -> InstallPlanRecord {
        InstallPlanRecord {
            snapshot: [7; 32],
            start_index: 1000,
            start_term: 3,
            term: 4,
            vote: 2,
            commit: 1000,
            generation: 5,
        }
    }

    #[test]
    fn version_1_reads_and_writes_its_golden_bytes() {
        let golden = concat!(
            "010b8bbfa5",
            "0707070707070707070707070707070707070707070707070707070707070707",
            "e803000000000000",
            "0300000000000000",
            "0400000000000000",
            "0200000000000000",
            "e803000000000000",
            "0500000000000000",
        );
        let bytes = encode_install_plan(&example());
        assert_eq!(HEXLOWER.encode(&bytes), golden);
        assert_eq!(decode_install_plan(&bytes), Ok(example()));
    }

    proptest! {
        #[test]
        fn a_cut_or_extended_plan_is_refused(cut in 0..80usize, extra in 1..9usize) {
            let whole = encode_install_plan(&example());
            prop_assert!(decode_install_plan(&whole[..cut.min(whole.len() - 1)]).is_err());
            let mut longer = whole;
            longer.extend(vec![0; extra]);
            prop_assert!(decode_install_plan(&longer).is_err());
        }
    }
}
