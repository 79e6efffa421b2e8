//! What a peer's message must look like before raft-rs sees it.
//!
//! raft-rs trusts its peers: it indexes into lists and panics over what no correct peer sends, and a
//! panic ends the process. Judges form alone: whether a message is true, raft judges.

use protobuf::Message as _;
use raft::eraftpb::{Message, MessageType};

use crate::limits::{ENTRY_BYTES_MAX, TERM_LEAP_MAX};
use crate::types::{Index, Term};

/// Bytes of the context of a read: node, boot and counter, 64 bits each.
pub const READ_CONTEXT_BYTES: usize = 24;

/// What this node is, as far as the form of a message depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Own {
    /// Its term.
    pub term: Term,
    /// The last index of its log.
    pub last: Index,
    /// Whether it leads.
    pub leads: bool,
}

/// Says what is wrong with a message that no correct peer sends.
pub fn check(message: &Message, own: Own) -> Result<(), String> {
    let kind = message.get_msg_type();
    check_term(message, own)?;
    match kind {
        MessageType::MsgAppend => check_append(message),
        MessageType::MsgSnapshot => check_snapshot(message),
        MessageType::MsgReadIndex => check_read(message, Some(message.from)),
        MessageType::MsgReadIndexResp => check_read(message, None),
        // A follower that holds more than its leader would be sent entries that do not exist.
        MessageType::MsgAppendResponse if own.leads && message.index > own.last => {
            Err(format!("it speaks of index {}, the log ends at {}", message.index, own.last))
        }
        _ => Ok(()),
    }
}

fn check_term(message: &Message, own: Own) -> Result<(), String> {
    let kind = message.get_msg_type();
    // raft-rs takes a message without a term for one of its own making.
    if message.term == 0 && kind != MessageType::MsgReadIndex {
        return Err("it has no term".to_owned());
    }
    if message.term > own.term.saturating_add(TERM_LEAP_MAX) {
        return Err(format!("its term is {}, ours is {}", message.term, own.term));
    }
    Ok(())
}

/// Entries follow one another and the entry before them, and the log has room for each.
fn check_append(message: &Message) -> Result<(), String> {
    let (mut index, mut term) = (message.index, message.log_term);
    check_place(index, term)?;
    if index == Index::MAX {
        return Err("nothing can follow the last index there is".to_owned());
    }
    for entry in message.get_entries() {
        let next = index.checked_add(1);
        let is_in_order = Some(entry.index) == next && entry.term >= term;
        if !is_in_order || entry.term == 0 || entry.term > message.term {
            return Err(format!(
                "entry {} of term {} cannot follow entry {index} of term {term}",
                entry.index, entry.term
            ));
        }
        if entry.compute_size() as usize > ENTRY_BYTES_MAX {
            return Err(format!("entry {} of {} bytes", entry.index, entry.compute_size()));
        }
        (index, term) = (entry.index, entry.term);
    }
    Ok(())
}

fn check_snapshot(message: &Message) -> Result<(), String> {
    let metadata = message.get_snapshot().get_metadata();
    check_place(metadata.index, metadata.term)?;
    if metadata.term > message.term {
        return Err(format!("a snapshot of term {}, later than its own", metadata.term));
    }
    Ok(())
}

/// raft-rs takes what lies beyond the end of the log for an entry of term 0.
fn check_place(index: Index, term: Term) -> Result<(), String> {
    if index > 0 && term == 0 {
        return Err(format!("an entry {index} of term 0"));
    }
    Ok(())
}

/// The one entry of a read is its context, which begins with the node that reads.
fn check_read(message: &Message, reader: Option<u64>) -> Result<(), String> {
    let [entry] = message.get_entries() else {
        return Err(format!("{} contexts of a read, expected 1", message.get_entries().len()));
    };
    if entry.data.len() != READ_CONTEXT_BYTES {
        return Err(format!("a read's context of {} bytes", entry.data.len()));
    }
    match reader {
        Some(node) if !entry.data.starts_with(&node.to_be_bytes()) => {
            Err("a read on behalf of another node".to_owned())
        }
        _ => Ok(()),
    }
}
