//! A look at a raft message's first fields, without raft-rs: a check must not share its parser.

use std::fmt;

/// Fields of a raft message that checks and traces need.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Message {
    /// Its type's number.
    pub kind: u64,
    /// Its term.
    pub term: u64,
    /// Term of the entry before.
    pub log_term: u64,
    /// An index; what it means depends on the type.
    pub index: u64,
    /// Entries it carries.
    pub entries: u64,
    /// The sender's commit index.
    pub commit: u64,
    /// It says no.
    pub reject: bool,
}

const KINDS: [&str; 19] = [
    "hup",
    "beat",
    "propose",
    "append",
    "append ok",
    "vote?",
    "vote",
    "snapshot",
    "heartbeat",
    "heartbeat ok",
    "unreachable",
    "snap status",
    "check quorum",
    "transfer",
    "timeout now",
    "read index",
    "read index ok",
    "pre-vote?",
    "pre-vote",
];

/// Append response.
pub const APPEND_RESPONSE: u64 = 4;
/// Request for a vote.
pub const REQUEST_VOTE: u64 = 5;
/// Answer to it.
pub const VOTE_RESPONSE: u64 = 6;
/// Request for a pre-vote.
pub const REQUEST_PRE_VOTE: u64 = 17;
/// Answer to it.
pub const PRE_VOTE_RESPONSE: u64 = 18;

impl Message {
    /// The type's name.
    pub fn kind(&self) -> &'static str {
        KINDS.get(self.kind as usize).copied().unwrap_or("?")
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Message { term, log_term, index, entries, commit, .. } = self;
        let no = if self.reject { " REJECT" } else { "" };
        write!(
            f,
            "{}{no} term {term} at {index}/{log_term} entries {entries} commit {commit}",
            self.kind()
        )
    }
}

/// Reads what it can; the bytes come from the core itself.
pub fn peek(bytes: &[u8]) -> Message {
    let (mut message, mut rest) = (Message::default(), bytes);
    while let Some(tag) = varint(&mut rest) {
        let value = match tag & 7 {
            0 => varint(&mut rest).unwrap_or(0),
            2 => {
                let length = varint(&mut rest).unwrap_or(0) as usize;
                rest = rest.get(length..).unwrap_or(&[]);
                0
            }
            _ => return message,
        };
        match tag >> 3 {
            1 => message.kind = value,
            4 => message.term = value,
            5 => message.log_term = value,
            6 => message.index = value,
            7 => message.entries += 1,
            8 => message.commit = value,
            10 => message.reject = value != 0,
            _ => {}
        }
    }
    message
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
