//! The state that a new cluster begins with.
//!
//! It stands at index 1, so that raft's log begins at index 2 and every node that joins later
//! starts from a snapshot: a node that replayed its own addition from an empty state would fail.

use crate::codec::stored::{self, Applied, AtIndex, Counters};
use crate::kv::Batch;
use crate::limits::{ADDRESS_BYTES_MAX, KIB};
use crate::types::{ClusterId, ConfState, Index, Name, Node, Term};

use super::key::Key;

/// The namespace that every cluster begins with.
pub const DEFAULT_NAMESPACE: &str = "default";
/// Index of the genesis state.
const GENESIS_INDEX: Index = 1;
/// Term of the genesis state.
const GENESIS_TERM: Term = 1;
/// Longest CA certificate and sealed key, bytes each.
const CA_BYTES_MAX: usize = 64 * KIB;

/// What `init` decides about a new cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Genesis {
    /// A random id.
    pub cluster: ClusterId,
    /// The founder, its only voter.
    pub node: Node,
    /// The CA's key, sealed by the cluster secret; at most 64 KiB.
    pub sealed_ca_key: Vec<u8>,
    /// DER bytes of the CA certificate; at most 64 KiB.
    pub ca_certificate: Vec<u8>,
    /// The founder's clock.
    pub created_unix_ms: u64,
}

/// All rows of the genesis state, for an empty store: index 1, term 1, the founder as the only
/// voter, the namespace `default`.
pub fn genesis(genesis: &Genesis) -> Batch {
    let Genesis { cluster, node, sealed_ca_key, ca_certificate, created_unix_ms } = genesis;
    assert!(node.id.0 != 0, "raft takes id 0 for nobody");
    assert!(sealed_ca_key.len() <= CA_BYTES_MAX && ca_certificate.len() <= CA_BYTES_MAX);
    for address in [&node.addresses.raft, &node.addresses.bulk, &node.addresses.api] {
        assert!(address.len() <= ADDRESS_BYTES_MAX, "the configuration bounds addresses");
    }
    let default = Name::parse("namespace", DEFAULT_NAMESPACE).expect("the constant is a name");
    let conf_state = ConfState { voters: vec![node.id.0], ..ConfState::default() };
    let mut batch = Batch::default();
    let mut put = |key: Key, row: Vec<u8>| batch.put(key.family(), key.encode(), row);
    put(
        Key::Cluster,
        stored::encode(&stored::Cluster {
            id: cluster.0,
            created_unix_ms: *created_unix_ms,
            ca_certificate: ca_certificate.clone(),
            sealed_ca_key: sealed_ca_key.clone(),
        }),
    );
    put(Key::ConfState, stored::encode(&stored::ConfState::from(&conf_state)));
    put(
        Key::Counters,
        stored::encode(&Counters {
            next_node: node.id.0 + 1,
            namespaces: 1,
            collections: 0,
            sessions: 0,
        }),
    );
    put(Key::Node(node.id), stored::encode(&stored::Node::from(node)));
    put(
        Key::Namespace(default),
        stored::encode(&stored::Namespace {
            created_index: GENESIS_INDEX,
            created_unix_ms: *created_unix_ms,
        }),
    );
    put(Key::Time(*created_unix_ms), stored::encode(&AtIndex { index: GENESIS_INDEX }));
    put(
        Key::Applied,
        stored::encode(&Applied {
            index: GENESIS_INDEX,
            term: GENESIS_TERM,
            time_unix_ms: *created_unix_ms,
        }),
    );
    batch
}
