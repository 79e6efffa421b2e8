//! Moments, settings and what becomes of clones: in requests of clients and in log entries alike.

use super::v1;
use crate::types::{Code, Dependants, Failure, Moment, Name, SettingsChange};

/// Which moment is read; a missing message means now.
pub fn moment_from(message: Option<v1::Moment>) -> Result<Moment, Failure> {
    Ok(match message.and_then(|message| message.kind) {
        None => Moment::Now,
        Some(v1::moment::Kind::Index(0)) => {
            return Err(Failure::new(Code::InvalidArgument, "a log index is never 0"));
        }
        Some(v1::moment::Kind::Index(index)) => Moment::Index(index),
        Some(v1::moment::Kind::UnixMs(time)) => Moment::Time(time),
        Some(v1::moment::Kind::Tag(tag)) => Moment::Tag(Name::parse("tag", &tag)?),
    })
}

/// The message for a moment.
pub fn moment_to(moment: &Moment) -> Option<v1::Moment> {
    let kind = match moment {
        Moment::Now => return None,
        Moment::Index(index) => v1::moment::Kind::Index(*index),
        Moment::Time(time) => v1::moment::Kind::UnixMs(*time),
        Moment::Tag(tag) => v1::moment::Kind::Tag(tag.as_str().to_owned()),
    };
    Some(v1::Moment { kind: Some(kind) })
}

/// What becomes of clones.
pub fn dependants_from(message: i32) -> Result<Dependants, Failure> {
    match v1::Dependants::try_from(message) {
        Ok(v1::Dependants::Refuse) => Ok(Dependants::Refuse),
        Ok(v1::Dependants::Detach) => Ok(Dependants::Detach),
        Ok(v1::Dependants::Cascade) => Ok(Dependants::Cascade),
        Err(_) => Err(Failure::new(
            Code::InvalidArgument,
            format!("{message} says nothing about what becomes of the clones"),
        )),
    }
}

/// The message's word for what becomes of clones.
pub fn dependants_to(dependants: Dependants) -> v1::Dependants {
    match dependants {
        Dependants::Refuse => v1::Dependants::Refuse,
        Dependants::Detach => v1::Dependants::Detach,
        Dependants::Cascade => v1::Dependants::Cascade,
    }
}

impl From<&SettingsChange> for v1::CollectionSettings {
    fn from(change: &SettingsChange) -> Self {
        let SettingsChange { history_ms, value_bytes_max, schema_label, content_type } =
            change.clone();
        v1::CollectionSettings { history_ms, value_bytes_max, schema_label, content_type }
    }
}

impl From<v1::CollectionSettings> for SettingsChange {
    fn from(message: v1::CollectionSettings) -> Self {
        let v1::CollectionSettings { history_ms, value_bytes_max, schema_label, content_type } =
            message;
        SettingsChange { history_ms, value_bytes_max, schema_label, content_type }
    }
}
