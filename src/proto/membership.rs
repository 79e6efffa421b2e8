//! Addresses and conf states on the wire.

use super::error::DecodeError;
use super::{internal, v1};
use crate::limits::{ADDRESS_BYTES_MAX, NODES_MAX};
use crate::types::{Addresses, ConfState, NodeId};

impl From<&Addresses> for v1::Addresses {
    fn from(addresses: &Addresses) -> Self {
        v1::Addresses {
            raft: addresses.raft.clone(),
            bulk: addresses.bulk.clone(),
            api: addresses.api.clone(),
        }
    }
}

impl TryFrom<v1::Addresses> for Addresses {
    type Error = DecodeError;

    fn try_from(message: v1::Addresses) -> Result<Self, DecodeError> {
        for address in [&message.raft, &message.bulk, &message.api] {
            if address.len() > ADDRESS_BYTES_MAX {
                return Err(DecodeError::refused(format!(
                    "an address has {} bytes, the limit is {ADDRESS_BYTES_MAX}",
                    address.len()
                )));
            }
        }
        Ok(Addresses { raft: message.raft, bulk: message.bulk, api: message.api })
    }
}

/// An optional message's addresses, which must be there.
pub(super) fn required_addresses(message: Option<v1::Addresses>) -> Result<Addresses, DecodeError> {
    message.ok_or_else(|| DecodeError::refused("the addresses are missing"))?.try_into()
}

/// A raft id; 0 means 'nobody' to raft and names no node.
pub(super) fn node_id(id: u64) -> Result<NodeId, DecodeError> {
    match id {
        0 => Err(DecodeError::refused("node id 0 names no node")),
        id => Ok(NodeId(id)),
    }
}

impl From<&ConfState> for internal::v1::ConfState {
    fn from(conf_state: &ConfState) -> Self {
        internal::v1::ConfState {
            voters: conf_state.voters.clone(),
            learners: conf_state.learners.clone(),
            voters_outgoing: conf_state.voters_outgoing.clone(),
            learners_next: conf_state.learners_next.clone(),
            auto_leave: conf_state.auto_leave,
        }
    }
}

impl TryFrom<internal::v1::ConfState> for ConfState {
    type Error = DecodeError;

    fn try_from(message: internal::v1::ConfState) -> Result<Self, DecodeError> {
        let sorted = |what: &str, mut ids: Vec<u64>| {
            ids.sort_unstable();
            let count = ids.len();
            ids.dedup();
            if ids.len() != count || ids.first() == Some(&0) || count > NODES_MAX {
                return Err(DecodeError::malformed(
                    "conf state",
                    format!("{count} {what}, repeated, zero or too many"),
                ));
            }
            Ok(ids)
        };
        Ok(ConfState {
            voters: sorted("voters", message.voters)?,
            learners: sorted("learners", message.learners)?,
            voters_outgoing: sorted("outgoing voters", message.voters_outgoing)?,
            learners_next: sorted("next learners", message.learners_next)?,
            auto_leave: message.auto_leave,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conf_state_survives_the_wire_and_comes_back_sorted() {
        let conf_state = ConfState {
            voters: vec![1, 2, 3],
            learners: vec![7],
            voters_outgoing: vec![1, 2],
            learners_next: vec![3],
            auto_leave: true,
        };
        let mut message = internal::v1::ConfState::from(&conf_state);
        message.voters.reverse();
        assert_eq!(ConfState::try_from(message), Ok(conf_state));
    }

    #[test]
    fn a_conf_state_with_repeated_or_zero_ids_is_refused() {
        for voters in [vec![1, 1], vec![0, 1], (1..=65).collect()] {
            let message = internal::v1::ConfState { voters, ..Default::default() };
            assert!(ConfState::try_from(message).is_err());
        }
    }

    #[test]
    fn an_address_over_the_limit_is_refused() {
        let long = "a".repeat(ADDRESS_BYTES_MAX + 1);
        let message = v1::Addresses { bulk: long, ..Default::default() };
        assert!(matches!(Addresses::try_from(message), Err(DecodeError::Refused(_))));
    }
}
