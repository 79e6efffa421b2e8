//! What keeps a node from starting, or ends it, in the terms of whoever runs it: a code by which
//! scripts act, and what to do about it.
//!
//! The causes lie on this machine more often than not: a permission, a port, a disk. None of those is
//! called a defect, and none is sent to look after the other nodes. Decides nothing else.

use std::fmt::Display;
use std::io;

use crate::api::ApiError;
use crate::http::HttpError;
use crate::kv::StoreFault;
use crate::net::NetError;
use crate::node::NodeError;
use crate::raft::Halt;
use crate::snapshot_store::StoreError;
use crate::state::StateError;
use crate::storage::StorageError;
use crate::types::{Code, Failure};

/// For what is lost or damaged on this node alone.
const REBUILD: &str = "this node's data cannot be trusted: remove the node (`ratoon node remove ID` \
                       with another one up), empty its data directory, join again with a new token";
/// For a full disk.
const MAKE_ROOM: &str = "make room on the disk and start again; nothing is to be deleted inside the \
                         data directory";
/// For what the system refused.
const LOOK_AT_IT: &str = "check the path named, its owner, its permissions and the disk, then start \
                          again";
/// For an address that cannot be listened on.
const FREE_PORT: &str = "stop whatever listens there, or choose another address with --listen-raft, \
                         --listen-bulk, --listen-api or --listen-http";
/// For a directory that holds what it should not.
const OTHER_DIRECTORY: &str = "name another directory with --data; if what lies there is not needed \
                               any more, empty it first";

fn failure(code: Code, error: &impl Display, hint: &str) -> Failure {
    Failure::new(code, error.to_string()).hint(hint)
}

/// Of network and identity.
pub(super) fn of_net(error: NetError) -> Failure {
    let code = error.code();
    let hint = match &error {
        NetError::Io { cause, .. } if is_address(cause) => FREE_PORT,
        NetError::Io { .. } if code == Code::DiskFull => MAKE_ROOM,
        NetError::Io { .. } => LOOK_AT_IT,
        NetError::IdentityExposed { .. } => "take the permissions away from others, as shown",
        NetError::IdentityMissing { .. } | NetError::IdentityDamaged { .. } => {
            "put the directory `identity` back from a copy; without one, remove the node and join \
             the machine as a new one"
        }
        NetError::IdentityExists { .. } => OTHER_DIRECTORY,
        _ => "",
    };
    failure(code, &error, hint)
}

/// Of the data directory and what lies in it.
pub(super) fn of_storage(error: StorageError) -> Failure {
    let (code, hint) = match &error {
        StorageError::InUse { .. } => {
            (Code::Unavailable, "a node runs there: stop it, or name another directory with --data")
        }
        // What was there once and is gone is lost like what is damaged.
        StorageError::Corrupt { .. } | StorageError::Missing { .. } | StorageError::Lost { .. } => {
            (Code::Corrupt, REBUILD)
        }
        StorageError::DiskFull { .. } => (Code::DiskFull, MAKE_ROOM),
        StorageError::Exists { .. } => (Code::AlreadyExists, OTHER_DIRECTORY),
        StorageError::Failed { .. } => (Code::LocalFault, LOOK_AT_IT),
        StorageError::Refused { .. } => (Code::Internal, ""),
    };
    failure(code, &error, hint)
}

/// Of a node that does not start, or had to stop.
pub(super) fn of_node(error: NodeError) -> Failure {
    match error {
        NodeError::Storage(error) => of_storage(error),
        NodeError::Net(error) => of_net(error),
        NodeError::Kv(ref store) | NodeError::State(StateError::Store(ref store)) => {
            of_fault(store.fault, &error)
        }
        NodeError::State(StateError::Corrupt { .. } | StateError::Missing) => {
            failure(Code::Corrupt, &error, REBUILD)
        }
        NodeError::State(StateError::TooOld { .. }) => failure(
            Code::LocalFault,
            &error,
            "install the release that the other nodes run, and start again",
        ),
        NodeError::Halt(Halt::Log(ref log)) => of_fault(log.fault, &error),
        NodeError::Halt(Halt::LogLost { .. } | Halt::Boot(_)) => {
            failure(Code::Corrupt, &error, REBUILD)
        }
        NodeError::Snapshots(StoreError::DiskFull { .. }) => {
            failure(Code::DiskFull, &error, MAKE_ROOM)
        }
        NodeError::Snapshots(StoreError::Io { .. }) => {
            failure(Code::LocalFault, &error, LOOK_AT_IT)
        }
        NodeError::Removed => failure(
            Code::MembershipRefused,
            &error,
            "empty its data directory and join it again with a new token",
        ),
        other => {
            failure(Code::Internal, &other, "this is a bug; please report it with the log above")
        }
    }
}

fn of_fault(fault: StoreFault, error: &NodeError) -> Failure {
    match fault {
        StoreFault::Corrupt => failure(Code::Corrupt, error, REBUILD),
        StoreFault::DiskFull => failure(Code::DiskFull, error, MAKE_ROOM),
        StoreFault::Closed | StoreFault::Other => failure(Code::LocalFault, error, LOOK_AT_IT),
    }
}

/// Of the API's door.
pub(super) fn of_api(error: ApiError) -> Failure {
    match &error {
        ApiError::Listen { .. } => failure(Code::LocalFault, &error, FREE_PORT),
        ApiError::Identity(_) => failure(Code::Corrupt, &error, REBUILD),
        ApiError::Stopped(_) => failure(Code::Internal, &error, ""),
    }
}

/// Of the HTTP door.
pub(super) fn of_http(error: HttpError) -> Failure {
    match &error {
        HttpError::Listen { .. } => failure(Code::LocalFault, &error, FREE_PORT),
        HttpError::Stopped(_) => failure(Code::Internal, &error, ""),
    }
}

fn is_address(cause: &io::Error) -> bool {
    matches!(cause.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::KvError;
    use crate::raft::LogError;
    use crate::types::{NodeId, Retry};

    fn io(kind: io::ErrorKind) -> NetError {
        NetError::Io { attempted: "listen on UDP 0.0.0.0:7400".into(), cause: kind.into() }
    }

    #[test]
    fn what_the_machine_refuses_is_no_defect_and_says_what_to_do() {
        let (attempted, cause) = (|| "writing".to_owned(), || "Permission denied".to_owned());
        let failed = StorageError::Failed { attempted: attempted(), cause: cause() };
        let exposed = NetError::IdentityExposed { path: "identity".into(), mode: 0o755 };
        let listen = || io::Error::from(io::ErrorKind::AddrInUse);
        let address = "127.0.0.1:7402".parse().expect("an address");
        let failures = [
            of_storage(failed),
            of_net(exposed),
            of_net(io(io::ErrorKind::AddrInUse)),
            of_net(io(io::ErrorKind::PermissionDenied)),
            of_api(ApiError::Listen { address, cause: listen() }),
            of_http(HttpError::Listen { address, cause: listen() }),
        ];
        for failure in failures {
            assert_eq!(
                (failure.code, failure.retry),
                (Code::LocalFault, Retry::Never),
                "{failure}"
            );
            assert!(!failure.hint.is_empty(), "{failure}");
        }
        assert!(of_net(io(io::ErrorKind::AddrInUse)).hint.contains("--listen-raft"));
    }

    #[test]
    fn a_full_disk_is_told_as_one_wherever_it_shows() {
        let (attempted, cause) = ("writing".to_owned(), "No space left on device".to_owned());
        let fault = StoreFault::DiskFull;
        let log = LogError { attempted: attempted.clone(), cause: cause.clone(), fault };
        let state = KvError { attempted: attempted.clone(), cause: cause.clone(), fault };
        for error in [
            NodeError::Halt(Halt::Log(log)),
            NodeError::Kv(state.clone()),
            NodeError::State(StateError::Store(state)),
            NodeError::Storage(StorageError::DiskFull { attempted, cause }),
            NodeError::Snapshots(StoreError::DiskFull { needed: 2, free: 1 }),
            NodeError::Net(io(io::ErrorKind::StorageFull)),
        ] {
            let failure = of_node(error);
            assert_eq!((failure.code, failure.retry), (Code::DiskFull, Retry::Later), "{failure}");
            assert!(failure.hint.contains("make room"), "{failure}");
        }
    }

    #[test]
    fn a_node_that_lost_entries_is_to_be_rebuilt() {
        let lost = Halt::LogLost { leader: NodeId(1), commit: 9, last: 3 };
        let marked = StorageError::Lost { path: "LOST".into(), reason: lost.to_string() };
        for failure in [of_node(NodeError::Halt(lost)), of_node(NodeError::Storage(marked))] {
            assert_eq!(failure.code, Code::Corrupt);
            assert!(failure.hint.contains("node remove"), "{}", failure.hint);
        }
    }

    #[test]
    fn a_directory_with_something_else_in_it_is_told_by_its_directory() {
        let failure = of_storage(StorageError::Exists { path: "data/raft".into() });
        assert_eq!(failure.code, Code::AlreadyExists);
        assert!(failure.hint.contains("--data"), "{}", failure.hint);
    }
}
