//! The one failure a caller of the system sees, whatever room it came from.

use std::fmt;

/// Whether sending the same request again makes sense.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Retry {
    /// It gives the same answer.
    Never,
    /// Nothing was done; it may succeed later.
    Later,
    /// The outcome is unknown: retry with a session, or read back first.
    Unknown,
}

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $retry:ident;)*) => {
        /// Stable, machine-readable reason of a failure.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Code { $($(#[$doc])* $variant,)* }

        impl Code {
            /// Every code.
            pub const ALL: &'static [Code] = &[$(Code::$variant,)*];

            /// The name that travels.
            pub fn as_str(self) -> &'static str {
                match self { $(Code::$variant => $text,)* }
            }

            /// How the code is usually retried.
            pub fn retry(self) -> Retry {
                match self { $(Code::$variant => Retry::$retry,)* }
            }
        }
    };
}

codes! {
    /// A name breaks the rule for names.
    InvalidName = "invalid_name", Never;
    /// Some other argument is malformed.
    InvalidArgument = "invalid_argument", Never;
    /// A key is empty.
    KeyEmpty = "key_empty", Never;
    /// A key is over 4 KiB.
    KeyTooLarge = "key_too_large", Never;
    /// A value is over 4 MiB.
    ValueTooLarge = "value_too_large", Never;
    /// A batch is over its limits.
    BatchTooLarge = "batch_too_large", Never;
    /// A batch names one key twice.
    DuplicateKey = "duplicate_key", Never;
    /// No such namespace.
    NamespaceNotFound = "namespace_not_found", Never;
    /// No such collection.
    CollectionNotFound = "collection_not_found", Never;
    /// No such record.
    RecordNotFound = "record_not_found", Never;
    /// The name is taken.
    AlreadyExists = "already_exists", Never;
    /// A namespace that still holds collections.
    NamespaceNotEmpty = "namespace_not_empty", Never;
    /// A condition of a write was false; nothing was written.
    ConditionFailed = "condition_failed", Never;
    /// A scan's cursor is malformed, or of a collection that is gone.
    CursorInvalid = "cursor_invalid", Never;
    /// The session was evicted; its commands are never executed again.
    SessionExpired = "session_expired", Never;
    /// A sequence older than the last one of its session.
    SequenceStale = "sequence_stale", Never;
    /// The join token is unknown.
    TokenUnknown = "token_unknown", Never;
    /// The join token was used before.
    TokenUsed = "token_used", Never;
    /// The join token is past its time.
    TokenExpired = "token_expired", Never;
    /// The token or certificate is of another cluster.
    WrongCluster = "wrong_cluster", Never;
    /// No client certificate, or not one of this cluster.
    Unauthenticated = "unauthenticated", Never;
    /// No such node.
    NodeNotFound = "node_not_found", Never;
    /// The membership change makes no sense (promote a voter, remove the last voter).
    MembershipRefused = "membership_refused", Never;
    /// The learner is not near the commit index yet.
    NotCaughtUp = "not_caught_up", Later;
    /// Another membership change is under way.
    MembershipBusy = "membership_busy", Later;
    /// No such snapshot.
    SnapshotNotFound = "snapshot_not_found", Never;
    /// No such transfer.
    TransferNotFound = "transfer_not_found", Never;
    /// Too little disk for what was asked.
    DiskFull = "disk_full", Later;
    /// The machine does not give the node what it needs: a file, a permission, a port.
    LocalFault = "local_fault", Never;
    /// Stored bytes do not match their checksum.
    Corrupt = "corrupt", Never;
    /// No leader is known, or it cannot be reached.
    Unavailable = "unavailable", Later;
    /// Too much is under way; nothing was done.
    Overloaded = "overloaded", Later;
    /// The cluster holds as many of these as it may; remove one first.
    LimitReached = "limit_reached", Never;
    /// The node has no state yet: its snapshot is still on the way.
    NotReady = "not_ready", Later;
    /// The node is shutting down.
    ShuttingDown = "shutting_down", Later;
    /// The command may or may not have been executed.
    OutcomeUnknown = "outcome_unknown", Unknown;
    /// A defect of ratoon.
    Internal = "internal", Never;
}

impl Code {
    /// The code named `text`, if there is one.
    pub fn parse(text: &str) -> Option<Code> {
        Code::ALL.iter().copied().find(|code| code.as_str() == text)
    }

    /// What to do next where the failure itself does not say.
    pub fn usual_hint(self) -> &'static str {
        match self {
            Code::InvalidName => {
                "names start with a-z or 0-9, go on with a-z 0-9 . _ - and have at most 63 characters"
            }
            Code::InvalidArgument => "correct what is named, then send it again",
            Code::KeyEmpty => "keys have 1 to 4096 bytes",
            Code::KeyTooLarge => "keys have at most 4096 bytes",
            Code::ValueTooLarge => "values have at most 4 MiB; split it over several keys",
            Code::BatchTooLarge => "send fewer records at once",
            Code::DuplicateKey => "name each key once",
            Code::NamespaceNotFound => "`ratoon namespace list` shows what exists",
            Code::CollectionNotFound => "`ratoon collection list` shows what exists",
            Code::RecordNotFound => "`ratoon scan NS/NAME` shows the keys",
            Code::AlreadyExists => "choose another name, or drop the old one first",
            Code::NamespaceNotEmpty => {
                "drop its collections first; `ratoon collection list` shows them"
            }
            Code::LimitReached => "drop what is not needed any more, then run it again",
            Code::ConditionFailed => "read the record again and decide anew",
            Code::CursorInvalid => "scan again from the start, without a cursor",
            Code::SessionExpired => "read back what was written, then open a new session",
            Code::SequenceStale => {
                "number the commands of a session upwards, and repeat only the last one"
            }
            Code::TokenUnknown | Code::TokenUsed | Code::TokenExpired => {
                "`ratoon token create` on a member makes a new one"
            }
            Code::WrongCluster => "check --profile and --endpoint: they are of another cluster",
            Code::Unauthenticated => {
                "use a profile with a client certificate of this cluster: `ratoon profile list`"
            }
            Code::NodeNotFound => "`ratoon node list` shows the nodes",
            Code::MembershipRefused => "`ratoon node list` shows each node's role",
            Code::NotCaughtUp => "wait until `ratoon status` shows it near the commit index",
            Code::MembershipBusy => "wait a moment and run it again",
            Code::SnapshotNotFound => "`ratoon snapshot list` shows what is stored",
            Code::TransferNotFound => "`ratoon transfer list` shows what is under way",
            Code::DiskFull => "free some disk on the node, then run it again",
            Code::LocalFault => "see to the file, port or permission named, then run it again",
            Code::Corrupt => "replace the node: remove it, wipe its data, and join it anew",
            Code::Unavailable => "check that a majority of nodes runs, then run it again",
            Code::Overloaded => "run it again in a moment",
            Code::NotReady => "wait until the node has its snapshot: `ratoon status`",
            Code::ShuttingDown => "ask another node with --endpoint",
            Code::OutcomeUnknown => "read back to see whether it was done, then run it again",
            Code::Internal => "this is a bug; please report it with the node's log",
        }
    }
}

/// Why a request was not done, and who must act.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The machine-readable reason.
    pub code: Code,
    /// One sentence on what went wrong.
    pub message: String,
    /// What to do next; may be empty.
    pub hint: String,
    /// Whether to send it again.
    pub retry: Retry,
}

impl Failure {
    /// A failure with the code's usual retry and no hint.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { code, message: message.into(), hint: String::new(), retry: code.retry() }
    }

    /// The same, with what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)
    }
}

impl std::error::Error for Failure {}

/// An error and what caused it, as one line: the outermost error of a transport says next to
/// nothing.
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
