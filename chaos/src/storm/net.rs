//! The links of a storm's cluster: a UDP proxy before the raft lane and one before the bulk lane of
//! every node, with a condition of its own for each ordered pair of nodes.
//!
//! Nodes are told the proxies' addresses only. A proxy tells its clients apart by the address they
//! send from, which is the one they listen at: an endpoint dials and listens on one socket. A node
//! may also dial whom it has heard, which from behind a proxy is that proxy's socket, and the
//! datagrams then pass the same proxy the other way. So all that goes from one node to another
//! passes one of two places, and both are set together.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use anyhow::{Context, Result};
use ratoon::demo::ports::Ports;
use ratoon::demo::processes::NodeAddresses;
use ratoon::demo::proxy::{Direction, Link, Proxy, ProxyOptions};

/// Counts nodes from 1, in the order in which they were added; the cluster has ids of its own.
pub type Number = usize;

/// One of the two endpoints of a node that others reach over UDP.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lane {
    /// Heartbeats, votes, entries, calls.
    Raft,
    /// Snapshots.
    Bulk,
}

impl Lane {
    /// Both.
    pub const BOTH: [Lane; 2] = [Lane::Raft, Lane::Bulk];
}

/// One lane of one node.
struct Door {
    proxy: Proxy,
    /// Where the node itself listens, and sends from.
    behind: SocketAddr,
}

/// All links.
#[derive(Default)]
pub struct Net {
    doors: BTreeMap<(Number, Lane), Door>,
}

impl Net {
    /// Puts proxies before a node; answers where it listens and what it tells others.
    pub async fn add(
        &mut self,
        number: Number,
        ports: &mut Ports,
        seed: u64,
    ) -> Result<NodeAddresses> {
        let mut addresses = NodeAddresses::draw(ports)?;
        for lane in Lane::BOTH {
            let (behind, advertised) = match lane {
                Lane::Raft => (addresses.raft, &mut addresses.raft_advertised),
                Lane::Bulk => (addresses.bulk, &mut addresses.bulk_advertised),
            };
            let seed = seed.wrapping_mul(1_000).wrapping_add(2 * number as u64 + lane as u64);
            let options = ProxyOptions { listen: ports.draw()?, target: behind, seed };
            let proxy = Proxy::start(options).await.context("start a UDP proxy on loopback")?;
            *advertised = proxy.local_address();
            self.doors.insert((number, lane), Door { proxy, behind });
        }
        Ok(addresses)
    }

    /// Takes a node's proxies away.
    pub fn remove(&mut self, number: Number) {
        Lane::BOTH.into_iter().for_each(|lane| {
            self.doors.remove(&(number, lane));
        });
    }

    /// Nodes that have proxies.
    pub fn numbers(&self) -> Vec<Number> {
        self.doors
            .keys()
            .filter(|(_, lane)| *lane == Lane::Raft)
            .map(|(number, _)| *number)
            .collect()
    }

    /// The condition of what goes from one node to another on a lane.
    pub fn link(&self, from: Number, to: Number, lane: Lane) -> Link {
        let (Some(source), Some(target)) =
            (self.doors.get(&(from, lane)), self.doors.get(&(to, lane)))
        else {
            return Link::default();
        };
        let there = target.proxy.link_of(source.behind, Direction::ToTarget).unwrap_or_default();
        let back = source.proxy.link_of(target.behind, Direction::ToClient).unwrap_or_default();
        // Where a link cuts itself at a byte, only the one of the two that is used has done so.
        Link { cut: there.cut || back.cut, ..there }
    }

    /// Sets the condition of what goes from one node to another on a lane; the way back is not
    /// touched.
    pub fn set(&self, from: Number, to: Number, lane: Lane, link: Link) {
        let (Some(source), Some(target)) =
            (self.doors.get(&(from, lane)), self.doors.get(&(to, lane)))
        else {
            return;
        };
        target.proxy.set_link_of(source.behind, Direction::ToTarget, link.clone());
        source.proxy.set_link_of(target.behind, Direction::ToClient, link);
    }

    /// Changes both ways between two nodes on both lanes.
    pub fn change_pair(&self, one: Number, other: Number, change: impl Fn(&mut Link)) {
        for lane in Lane::BOTH {
            for (from, to) in [(one, other), (other, one)] {
                let mut link = self.link(from, to, lane);
                change(&mut link);
                self.set(from, to, lane, link);
            }
        }
    }

    /// Changes all that goes to a node and comes from it, on the given lanes.
    pub fn change_node(&self, number: Number, lanes: &[Lane], change: impl Fn(&mut Link)) {
        for other in self.numbers().into_iter().filter(|other| *other != number) {
            for lane in lanes {
                for (from, to) in [(number, other), (other, number)] {
                    let mut link = self.link(from, to, *lane);
                    change(&mut link);
                    self.set(from, to, *lane, link);
                }
            }
        }
    }

    /// Makes every link good.
    pub fn heal(&self) {
        let numbers = self.numbers();
        for (from, to) in numbers.iter().flat_map(|from| numbers.iter().map(move |to| (*from, *to)))
        {
            Lane::BOTH.into_iter().for_each(|lane| self.set(from, to, lane, Link::default()));
        }
    }

    /// Bytes that proxies have passed on, and datagrams that they dropped on purpose.
    pub fn totals(&self) -> (u64, u64) {
        let mut totals = (0, 0);
        for door in self.doors.values() {
            for direction in Direction::BOTH {
                let counters = door.proxy.counters(direction);
                totals.0 += counters.bytes;
                totals.1 += counters.dropped_by_cut + counters.dropped_by_loss;
            }
        }
        totals
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_pair_is_changed_in_both_places_and_others_are_not() {
        let (mut net, mut ports) = (Net::default(), Ports::default());
        for number in 1..=3 {
            net.add(number, &mut ports, 7).await.unwrap();
        }
        net.change_pair(1, 2, |link| link.cut = true);
        for lane in Lane::BOTH {
            assert!(net.link(1, 2, lane).cut && net.link(2, 1, lane).cut);
            assert!(!net.link(1, 3, lane).cut && !net.link(3, 2, lane).cut);
        }
        net.change_node(3, &[Lane::Bulk], |link| link.loss = 0.5);
        assert_eq!(net.link(3, 1, Lane::Bulk).loss, 0.5);
        assert_eq!(net.link(3, 1, Lane::Raft).loss, 0.0);
        net.heal();
        assert_eq!(net.link(1, 2, Lane::Raft), Link::default());
        assert_eq!(net.link(2, 3, Lane::Bulk), Link::default());
        net.remove(2);
        assert_eq!(net.numbers(), [1, 3]);
    }
}
