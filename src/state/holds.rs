//! Holds: what keeps a layer readable at an index that garbage collection has passed. Clones, tags
//! and leases take them.
//!
//! A hold is taken only where the layer can still be read: at or above its floor, or where somebody
//! holds it already. That is judged in the entry that takes it, so that no collection of garbage
//! comes between. Leases end by commit time, and once their collection has grown too much: a client
//! that died cannot fill the disk.

use crate::codec::stored::{Applied, Hold, Layer, Lease, Tag};
use crate::kv::Family;
use crate::limits::{HOLDS_PER_LAYER_MAX, LEASE_TTL_MS_MAX, LEASES_OPEN_MAX};
use crate::types::{
    Code, CollectionName, CreateTag, Failure, Index, Moment, Name, OpenLease, Reply,
};

use super::apply::Execution;
use super::error::{RequestError, StateError};
use super::key::{Holder, Key, Kind};
use super::rows;
use super::sight::{Resolved, Sight, below_floor, resolve, tag_not_found, time_at};

impl Execution<'_> {
    /// Keeps a layer readable at an index for `owner`.
    pub(super) fn hold(
        &mut self,
        layer: u64,
        index: Index,
        owner: Holder,
        name: &CollectionName,
    ) -> Result<(), RequestError> {
        let row = self.layer(layer)?;
        let held = self.first_hold(layer, index)?;
        let time_unix_ms = match held {
            Some(hold) => hold.time_unix_ms,
            None if index == self.index() => self.time_unix_ms(),
            None if index >= row.floor => {
                let applied: Applied = rows::required(&self.transaction, &Key::Applied)?;
                time_at(&self.transaction, index, &applied)?
            }
            None => return Err(below_floor(name, index, &row).into()),
        };
        let holds =
            self.transaction.rows(Family::Meta, &Kind::holds(layer), HOLDS_PER_LAYER_MAX)?;
        if holds.len() >= HOLDS_PER_LAYER_MAX {
            return Err(Failure::new(
                Code::LimitReached,
                format!("{name} has its limit of {HOLDS_PER_LAYER_MAX} clones, tags and leases"),
            )
            .hint("drop what is not needed any more")
            .into());
        }
        self.transaction.put(&Key::Hold { layer, index, owner }, &Hold { time_unix_ms });
        Ok(())
    }

    /// Ends a hold. What it kept counts as superfluous again.
    pub(super) fn release(
        &mut self,
        layer: u64,
        index: Index,
        owner: Holder,
    ) -> Result<(), StateError> {
        self.transaction.delete(&Key::Hold { layer, index, owner });
        if let Some(mut row) = self.find::<Layer>(&Key::Layer(layer))? {
            row.stored.superseded += std::mem::take(&mut row.stored.held_back);
            self.transaction.put(&Key::Layer(layer), &row);
        }
        Ok(())
    }

    fn first_hold(&self, layer: u64, index: Index) -> Result<Option<Hold>, StateError> {
        let found = rows::first::<Hold>(&self.transaction, &Kind::holds_at(layer, index))?;
        Ok(found.map(|(_, hold)| hold))
    }

    pub(super) fn create_tag(&mut self, tag: &CreateTag) -> Result<Reply, RequestError> {
        let CreateTag { collection, tag, moment } = tag;
        let Resolved { incarnation, sight } = self.moment(collection, moment)?;
        let key = Key::Tag { incarnation, name: tag.clone() };
        if self.find::<Tag>(&key)?.is_some() {
            return Err(Failure::new(
                Code::AlreadyExists,
                format!("{collection} has a tag {tag} already"),
            )
            .hint("drop it first, or choose another name")
            .into());
        }
        let owner = Holder::Tag { incarnation, name: tag.clone() };
        let row = self.hold_sight(&sight, &owner, collection)?;
        self.transaction.put(&key, &row);
        Ok(Reply::Moment { lease: 0, index: row.index, time_unix_ms: row.time_unix_ms })
    }

    pub(super) fn drop_tag(
        &mut self,
        collection: &CollectionName,
        tag: &Name,
    ) -> Result<Reply, RequestError> {
        let incarnation = self.collection(collection)?.incarnation;
        let key = Key::Tag { incarnation, name: tag.clone() };
        let Some(row) = self.find::<Tag>(&key)? else {
            return Err(tag_not_found(collection, tag).into());
        };
        self.transaction.delete(&key);
        self.release(row.layer, row.index, Holder::Tag { incarnation, name: tag.clone() })?;
        Ok(Reply::Done)
    }

    pub(super) fn open_lease(&mut self, lease: &OpenLease) -> Result<Reply, RequestError> {
        let OpenLease { collection, moment, ttl_ms, bytes_max } = lease;
        validate_ttl(*ttl_ms)?;
        self.end_leases()?;
        if self.facts.counters.leases >= LEASES_OPEN_MAX {
            let mut failure = Failure::new(
                Code::LimitReached,
                format!("the cluster has its limit of {LEASES_OPEN_MAX} leases"),
            );
            // Later, because leases end by themselves.
            failure.retry = crate::types::Retry::Later;
            return Err(failure.hint("wait until some of them end").into());
        }
        let Resolved { incarnation, sight } = self.moment(collection, moment)?;
        let id = self.index();
        let moment = self.hold_sight(&sight, &Holder::Lease(id), collection)?;
        let row = Lease {
            incarnation,
            index: moment.index,
            layer: moment.layer,
            expires_unix_ms: self.time_unix_ms().saturating_add(*ttl_ms),
            bytes_max: *bytes_max,
            bytes_then: self.layer(moment.layer)?.stored.bytes,
        };
        self.transaction.put(&Key::Lease(id), &row);
        self.facts.counters.leases += 1;
        Ok(Reply::Moment { lease: id, index: row.index, time_unix_ms: moment.time_unix_ms })
    }

    pub(super) fn renew_lease(&mut self, lease: u64, ttl_ms: u64) -> Result<Reply, RequestError> {
        validate_ttl(ttl_ms)?;
        self.end_leases()?;
        let row = self.lease(lease)?;
        let expires_unix_ms = self.time_unix_ms().saturating_add(ttl_ms);
        self.transaction.put(&Key::Lease(lease), &Lease { expires_unix_ms, ..row });
        Ok(Reply::Done)
    }

    pub(super) fn close_lease(&mut self, lease: u64) -> Result<Reply, RequestError> {
        let row = self.lease(lease)?;
        self.end_lease(lease, &row)?;
        Ok(Reply::Done)
    }

    fn lease(&self, lease: u64) -> Result<Lease, RequestError> {
        self.find(&Key::Lease(lease))?.ok_or_else(|| {
            Failure::new(Code::LeaseExpired, format!("there is no lease {lease} any more")).into()
        })
    }

    /// Ends the leases whose time has come, or whose collection has grown too much.
    pub(super) fn end_leases(&mut self) -> Result<(), StateError> {
        if self.facts.counters.leases == 0 {
            return Ok(());
        }
        for (key, row) in self.transaction.rows(Family::Meta, &Kind::leases(), usize::MAX)? {
            let key = Key::decode(Family::Meta, &key)?;
            let row: Lease = rows::decode(&key, &row)?;
            let Key::Lease(lease) = key else { continue };
            let layer: Option<Layer> = self.find(&Key::Layer(row.layer))?;
            let grown = layer.map_or(0, |layer| layer.stored.bytes.saturating_sub(row.bytes_then));
            if row.expires_unix_ms <= self.time_unix_ms() || grown > row.bytes_max {
                self.end_lease(lease, &row)?;
            }
        }
        Ok(())
    }

    fn end_lease(&mut self, lease: u64, row: &Lease) -> Result<(), StateError> {
        self.transaction.delete(&Key::Lease(lease));
        let leases = &mut self.facts.counters.leases;
        *leases = leases
            .checked_sub(1)
            .ok_or_else(|| StateError::corrupt("fewer leases are counted than exist"))?;
        self.release(row.layer, row.index, Holder::Lease(lease))
    }

    /// A collection at a moment; now is this entry.
    fn moment(
        &self,
        collection: &CollectionName,
        moment: &Moment,
    ) -> Result<Resolved, RequestError> {
        let incarnation = self.collection(collection)?.incarnation;
        match moment {
            Moment::Now => {
                let sight = self.sight_of(collection, incarnation, self.index())?;
                Ok(Resolved { incarnation, sight })
            }
            earlier => {
                let resolved = resolve(&self.transaction, collection, earlier)?;
                let first = resolved.sight.levels.first().map(|level| self.layer(level.layer));
                match first.transpose()? {
                    Some(layer) if layer.incarnation == incarnation => Ok(resolved),
                    _ => Err(Failure::new(
                        Code::InvalidArgument,
                        format!("{collection} was created later than that moment"),
                    )
                    .hint("name its source instead: it held the same")
                    .into()),
                }
            }
        }
    }

    /// Holds the first layer of a sight: those below it are held by that layer.
    fn hold_sight(
        &mut self,
        sight: &Sight,
        owner: &Holder,
        name: &CollectionName,
    ) -> Result<Tag, RequestError> {
        let level = sight.levels.first().ok_or_else(|| {
            Failure::new(Code::CollectionNotFound, format!("{name} held nothing at that moment"))
        })?;
        let (layer, index) = (level.layer, level.ceiling);
        self.hold(layer, index, owner.clone(), name)?;
        let held = self.first_hold(layer, index)?;
        let time_unix_ms = held.map_or(sight.time_unix_ms, |hold| hold.time_unix_ms);
        Ok(Tag { index, time_unix_ms, layer })
    }
}

fn validate_ttl(ttl_ms: u64) -> Result<(), Failure> {
    match ttl_ms {
        1..=LEASE_TTL_MS_MAX => Ok(()),
        _ => Err(Failure::new(
            Code::InvalidArgument,
            format!("a lease lives 1 to {LEASE_TTL_MS_MAX} ms from one renewal to the next"),
        )),
    }
}
