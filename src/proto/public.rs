//! Messages of the public API to domain types, validated, and back.
//!
//! Used by the API on the way in and by the client on the way out, so that both sides agree. What a
//! caller sent is judged here and nowhere later at the door; nothing here looks at any state.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::v1;
use crate::limits;
use crate::types::{
    Action, Addresses, Code, CollectionName, Condition, Consistency, Failure, Record, ScanOptions,
    ScanPage, SessionSequence, Write, WriteBatch,
};

fn invalid(message: impl Into<String>) -> Failure {
    Failure::new(Code::InvalidArgument, message)
}

/// Validates the name of a collection; a missing one is an error.
pub fn collection_from(message: Option<v1::CollectionName>) -> Result<CollectionName, Failure> {
    let message = message.ok_or_else(|| {
        invalid("the request names no collection")
            .hint("set collection.namespace and collection.name")
    })?;
    CollectionName::parse(&message.namespace, &message.name)
}

/// The message that names `collection`.
pub fn collection_to(collection: &CollectionName) -> v1::CollectionName {
    collection.into()
}

/// How fresh a read must be; a missing message means linearizable.
pub fn consistency_from(message: Option<v1::Consistency>) -> Result<Consistency, Failure> {
    let Some(message) = message else { return Ok(Consistency::Linearizable) };
    match v1::consistency::Level::try_from(message.level) {
        Ok(v1::consistency::Level::Linearizable) => Ok(Consistency::Linearizable),
        Ok(v1::consistency::Level::Stale) => {
            Ok(Consistency::Stale { min_index: message.min_index })
        }
        Err(_) => Err(invalid(format!("consistency.level {} is unknown", message.level))
            .hint("use LEVEL_LINEARIZABLE (0) or LEVEL_STALE (1)")),
    }
}

/// The message that asks for `consistency`.
pub fn consistency_to(consistency: Consistency) -> v1::Consistency {
    match consistency {
        Consistency::Linearizable => {
            v1::Consistency { level: v1::consistency::Level::Linearizable as i32, min_index: 0 }
        }
        Consistency::Stale { min_index } => {
            v1::Consistency { level: v1::consistency::Level::Stale as i32, min_index }
        }
    }
}

/// A command's place in a session; both numbers start at 1.
pub fn session_from(
    message: Option<v1::SessionSequence>,
) -> Result<Option<SessionSequence>, Failure> {
    let Some(message) = message else { return Ok(None) };
    if message.session == 0 || message.sequence == 0 {
        return Err(invalid("session and sequence are never 0")
            .hint("take the session from OpenSession and number its commands from 1"));
    }
    Ok(Some(SessionSequence { session: message.session, sequence: message.sequence }))
}

/// The message for a command's place in a session.
pub fn session_to(session: SessionSequence) -> v1::SessionSequence {
    session.into()
}

/// Checks a key's length.
pub fn key_from(key: Bytes) -> Result<Bytes, Failure> {
    if key.is_empty() {
        return Err(
            Failure::new(Code::KeyEmpty, "the key is empty").hint("a key has at least one byte")
        );
    }
    if key.len() > limits::KEY_BYTES_MAX {
        return Err(Failure::new(
            Code::KeyTooLarge,
            format!("the key has {} bytes, the limit is {}", key.len(), limits::KEY_BYTES_MAX),
        )
        .hint("store long keys under their digest, with the key in the value"));
    }
    Ok(key)
}

/// Checks the lengths of a value and its content type.
pub fn put_from(value: Bytes, content_type: String) -> Result<Action, Failure> {
    if value.len() > limits::VALUE_BYTES_MAX {
        return Err(Failure::new(
            Code::ValueTooLarge,
            format!(
                "the value has {} bytes, the limit is {}",
                value.len(),
                limits::VALUE_BYTES_MAX
            ),
        )
        .hint("split it over several keys"));
    }
    if content_type.len() > limits::CONTENT_TYPE_BYTES_MAX {
        return Err(invalid(format!(
            "the content type has {} bytes, the limit is {}",
            content_type.len(),
            limits::CONTENT_TYPE_BYTES_MAX
        )));
    }
    Ok(Action::Put { value, content_type })
}

/// What must hold before a write; a missing message means anything.
pub fn condition_from(message: Option<v1::Condition>) -> Result<Condition, Failure> {
    match message.and_then(|message| message.kind) {
        None => Ok(Condition::Always),
        Some(v1::condition::Kind::Absent(true)) => Ok(Condition::Absent),
        // It could be meant as 'must exist' or as 'whatever': writing on a guess would be worse.
        Some(v1::condition::Kind::Absent(false)) => Err(invalid("condition.absent is false")
            .hint("leave the condition out, or set absent to true or version to an index")),
        Some(v1::condition::Kind::Version(index)) => Ok(Condition::Version(index)),
    }
}

/// The message for a condition.
pub fn condition_to(condition: Condition) -> Option<v1::Condition> {
    let kind = match condition {
        Condition::Always => return None,
        Condition::Absent => v1::condition::Kind::Absent(true),
        Condition::Version(index) => v1::condition::Kind::Version(index),
    };
    Some(v1::Condition { kind: Some(kind) })
}

/// Validates one write of a batch.
fn write_from(message: v1::Write) -> Result<Write, Failure> {
    let action = match message.action {
        Some(v1::write::Action::Put(put)) => put_from(put.value, put.content_type)?,
        Some(v1::write::Action::Delete(_)) => Action::Delete,
        Some(v1::write::Action::Check(_)) => Action::Check,
        None => {
            return Err(invalid("a write has no action").hint("set one of put, delete and check"));
        }
    };
    Ok(Write {
        collection: collection_from(message.collection)?,
        key: key_from(message.key)?,
        condition: condition_from(message.condition)?,
        action,
    })
}

/// The message for one write of a batch.
pub fn write_to(write: Write) -> v1::Write {
    let action = match write.action {
        Action::Put { value, content_type } => {
            v1::write::Action::Put(v1::PutAction { value, content_type })
        }
        Action::Delete => v1::write::Action::Delete(v1::DeleteAction {}),
        Action::Check => v1::write::Action::Check(v1::CheckAction {}),
    };
    v1::Write {
        collection: Some(collection_to(&write.collection)),
        key: write.key,
        condition: condition_to(write.condition),
        action: Some(action),
    }
}

/// Validates a batch: its size, each write, and that no key is named twice. The failure names the
/// position of the first bad write.
pub fn batch_from(writes: Vec<v1::Write>) -> Result<WriteBatch, Failure> {
    if writes.is_empty() {
        return Err(invalid("the batch is empty").hint("send at least one write"));
    }
    if writes.len() > limits::BATCH_WRITES_MAX {
        return Err(batch_too_large(format!(
            "the batch has {} writes, the limit is {}",
            writes.len(),
            limits::BATCH_WRITES_MAX
        )));
    }
    let mut batch = WriteBatch { writes: Vec::with_capacity(writes.len()) };
    let mut bytes = 0usize;
    for (position, message) in writes.into_iter().enumerate() {
        let write = write_from(message).map_err(|mut failure| {
            failure.message = format!("write {position}: {}", failure.message);
            failure
        })?;
        bytes += write_bytes(&write);
        batch.writes.push(write);
    }
    if bytes > limits::BATCH_BYTES_MAX {
        return Err(batch_too_large(format!(
            "the batch has {bytes} bytes of names, keys and values, the limit is {}",
            limits::BATCH_BYTES_MAX
        )));
    }
    refuse_duplicates(&batch)?;
    Ok(batch)
}

fn batch_too_large(message: String) -> Failure {
    Failure::new(Code::BatchTooLarge, message).hint("send several smaller batches")
}

/// Bytes of one write that count towards the limit of its batch.
fn write_bytes(write: &Write) -> usize {
    let named = write.collection.namespace.as_str().len() + write.collection.name.as_str().len();
    let stored = match &write.action {
        Action::Put { value, content_type } => value.len() + content_type.len(),
        Action::Delete | Action::Check => 0,
    };
    named + write.key.len() + stored
}

fn refuse_duplicates(batch: &WriteBatch) -> Result<(), Failure> {
    let mut seen = BTreeSet::new();
    for (position, write) in batch.writes.iter().enumerate() {
        if !seen.insert((&write.collection, &write.key)) {
            return Err(Failure::new(
                Code::DuplicateKey,
                format!(
                    "write {position}: a write before it names the same key of {}",
                    write.collection
                ),
            )
            .hint("a batch names each key once; merge the writes or send two batches"));
        }
    }
    Ok(())
}

/// Validates what a scan asks for.
pub fn scan_from(message: v1::ScanRequest) -> Result<ScanOptions, Failure> {
    let bounds = [("prefix", &message.prefix), ("start", &message.start), ("end", &message.end)];
    for (name, bound) in bounds {
        if bound.len() > limits::SCAN_BOUND_BYTES_MAX {
            return Err(Failure::new(
                Code::KeyTooLarge,
                format!(
                    "{name} has {} bytes, the limit is {}",
                    bound.len(),
                    limits::SCAN_BOUND_BYTES_MAX
                ),
            ));
        }
    }
    if message.cursor.len() > limits::SCAN_BOUND_BYTES_MAX {
        return Err(Failure::new(
            Code::CursorInvalid,
            format!("the cursor has {} bytes, which no cursor has", message.cursor.len()),
        )
        .hint("pass the cursor of the page before, unchanged"));
    }
    if message.limit as usize > limits::SCAN_PAGE_RECORDS_MAX {
        return Err(invalid(format!(
            "limit is {}, a page has at most {} records",
            message.limit,
            limits::SCAN_PAGE_RECORDS_MAX
        ))
        .hint("ask for page after page, each with the cursor of the one before"));
    }
    Ok(ScanOptions {
        prefix: message.prefix,
        start: message.start,
        end: message.end,
        limit: message.limit,
        cursor: message.cursor,
        keys_only: message.keys_only,
    })
}

/// The message that asks for one page of a scan.
pub fn scan_to(
    collection: &CollectionName,
    options: &ScanOptions,
    consistency: Consistency,
) -> v1::ScanRequest {
    v1::ScanRequest {
        collection: Some(collection_to(collection)),
        prefix: options.prefix.clone(),
        start: options.start.clone(),
        end: options.end.clone(),
        limit: options.limit,
        cursor: options.cursor.clone(),
        keys_only: options.keys_only,
        consistency: Some(consistency_to(consistency)),
    }
}

/// The message for a record.
pub fn record_to(record: Record) -> v1::Record {
    v1::Record {
        key: record.key,
        value: record.value,
        version: record.version,
        content_type: record.content_type,
    }
}

/// A record a server answered with.
pub fn record_from(message: v1::Record) -> Record {
    Record {
        key: message.key,
        value: message.value,
        version: message.version,
        content_type: message.content_type,
    }
}

/// The message for one page of a scan.
pub fn page_to(page: ScanPage) -> v1::ScanResponse {
    v1::ScanResponse {
        records: page.records.into_iter().map(record_to).collect(),
        cursor: page.cursor,
        index: page.index,
    }
}

/// A page a server answered with.
pub fn page_from(message: v1::ScanResponse) -> ScanPage {
    ScanPage {
        records: message.records.into_iter().map(record_from).collect(),
        cursor: message.cursor,
        index: message.index,
    }
}

/// Bytes of a message once it is encoded.
pub fn encoded_bytes(message: &impl prost::Message) -> usize {
    message.encoded_len()
}

/// Validates the addresses at which a node says it listens.
pub fn addresses_from(message: Option<v1::Addresses>) -> Result<Addresses, Failure> {
    let message = message.ok_or_else(|| invalid("the request names no addresses"))?;
    for (name, address) in [("raft", &message.raft), ("bulk", &message.bulk), ("api", &message.api)]
    {
        check_address(address)
            .map_err(|problem| invalid(format!("addresses.{name}: {problem}")))?;
    }
    Ok(Addresses { raft: message.raft, bulk: message.bulk, api: message.api })
}

/// Checks that `address` is `host:port` with a host and a port other than 0; says what is wrong.
pub fn check_address(address: &str) -> Result<(), String> {
    if address.len() > limits::ADDRESS_BYTES_MAX {
        return Err(format!(
            "has {} bytes, the limit is {}",
            address.len(),
            limits::ADDRESS_BYTES_MAX
        ));
    }
    let Some((host, port)) = address.rsplit_once(':') else {
        return Err(format!("{address:?} is not host:port"));
    };
    let bracketed = host.starts_with('[') && host.ends_with(']');
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let host_ok = if bracketed {
        host[1..host.len() - 1].parse::<std::net::Ipv6Addr>().is_ok()
    } else {
        !host.is_empty() && host.chars().all(plain)
    };
    if !host_ok {
        return Err(format!("{address:?} has no valid host (IPv6 addresses stand in brackets)"));
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(()),
        _ => Err(format!("{address:?} has no valid port")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
