//! The scenarios: what a storm is called, what its cluster holds, what must have happened for it to
//! count, and the story that the nemesis plays, again and again until the time is over.

mod disk;
mod faulty;
mod membership;
mod network;
mod power;
mod processes;
mod transfer;

use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use ratoon::limits::MIB;
use ratoon::types::{Action, CollectionName, Condition, Write, WriteBatch};

use super::judge::{Minimum, NodeDigest};
use super::load::COLLECTION;
use super::net::Number;
use super::timeline::FaultId;
use super::world::{FOUNDERS, World};
use crate::random::Random;

/// Collection that holds what makes the state large.
const BALLAST: &str = "default/ballast";
/// Bytes of one value of it.
const BALLAST_VALUE_BYTES: usize = 64 << 10;
/// Values written at once.
const BALLAST_BATCH: u64 = 32;
/// How long building a snapshot or compacting a log may take.
const LONG: Duration = Duration::from_secs(300);

/// A storm that can be called by its name.
#[derive(Debug)]
pub struct Scenario {
    /// The name.
    pub name: &'static str,
    /// What happens in it.
    pub about: &'static str,
    /// Whether it is about transfers: a campaign gives those more time.
    pub is_of_transfers: bool,
    /// Content of the state at the begin, which compression does not make smaller.
    pub ballast_bytes: u64,
    /// Limit of every node's bulk lane, bytes a second; 0: none.
    pub bulk_rate: u64,
    /// Settings of every node, `key=value`.
    pub settings: &'static [&'static str],
    /// Writes that must be acknowledged in a minute.
    pub writes_per_minute_min: u64,
    /// What else must have happened.
    pub minimum: Minimum,
    /// What is played.
    story: Story,
}

/// The stories.
#[derive(Clone, Copy, Debug)]
enum Story {
    Transfer(transfer::Story),
    Disk(disk::Story),
    Faulty(faulty::Story),
    Power(power::Story),
    Processes(processes::Story),
    Network(network::Story),
    Membership(membership::Story),
}

/// A scenario whose transfers are disturbed; the others of its figures are the usual ones.
const fn of_transfers(
    name: &'static str,
    about: &'static str,
    ballast_mib: u64,
    story: transfer::Story,
) -> Scenario {
    Scenario {
        name,
        about,
        is_of_transfers: true,
        ballast_bytes: ballast_mib * MIB as u64,
        bulk_rate: 4 * MIB as u64,
        settings: &[],
        writes_per_minute_min: 300,
        minimum: Minimum { writes: 0, faults: 3, installed: 1, resumes_of_one: 1 },
        story: Story::Transfer(story),
    }
}

/// A scenario about the live cluster, with little content.
const fn of_cluster(name: &'static str, about: &'static str, story: Story) -> Scenario {
    Scenario {
        name,
        about,
        is_of_transfers: false,
        ballast_bytes: 8 * MIB as u64,
        bulk_rate: 0,
        settings: &[],
        writes_per_minute_min: 200,
        minimum: Minimum { writes: 0, faults: 2, installed: 0, resumes_of_one: 0 },
        story,
    }
}

/// All scenarios, in the order of a campaign.
pub const SCENARIOS: &[Scenario] = &[
    of_transfers(
        "cuts",
        "a node joins again and again; its links are cut at bytes drawn from the seed",
        64,
        transfer::Story::Cuts,
    ),
    Scenario {
        bulk_rate: 8 * MIB as u64,
        minimum: Minimum { writes: 0, faults: 100, installed: 1, resumes_of_one: 100 },
        ..of_transfers(
            "hundred-cuts",
            "one transfer of more than 500 MB, cut more than 100 times",
            512,
            transfer::Story::HundredCuts,
        )
    },
    Scenario {
        bulk_rate: 0,
        minimum: Minimum { writes: 0, faults: 10, installed: 1, resumes_of_one: 5 },
        ..of_transfers("narrow", "8 MiB over 1 Mbit/s, cut every 5 s", 8, transfer::Story::Narrow)
    },
    Scenario {
        minimum: Minimum { writes: 0, faults: 15, installed: 1, resumes_of_one: 12 },
        ..of_transfers(
            "every-5-percent",
            "one transfer, cut at every multiple of 5 % of its bytes",
            64,
            transfer::Story::EveryFivePercent,
        )
    },
    of_transfers(
        "kill-receiver",
        "kill -9 of the node that pulls, at bytes drawn from the seed",
        64,
        transfer::Story::KillReceiver,
    ),
    of_transfers(
        "kill-source",
        "kill -9 of the node that sends, at bytes drawn from the seed",
        64,
        transfer::Story::KillSource,
    ),
    Scenario {
        minimum: Minimum { writes: 0, faults: 3, installed: 1, resumes_of_one: 0 },
        ..of_transfers(
            "leader-changes",
            "leadership is handed over, and leaders are killed, in the middle of a transfer",
            64,
            transfer::Story::LeaderChanges,
        )
    },
    Scenario {
        minimum: Minimum { writes: 0, faults: 3, installed: 3, resumes_of_one: 1 },
        ..of_transfers(
            "joiners",
            "three nodes join at once, and each of them is cut off and killed",
            48,
            transfer::Story::Joiners,
        )
    },
    Scenario {
        story: Story::Disk(disk::Story::Full),
        minimum: Minimum { writes: 0, faults: 2, installed: 1, resumes_of_one: 0 },
        ..of_transfers(
            "full-disk",
            "the disk of a node that pulls fills up, and gets room again",
            40,
            transfer::Story::Cuts,
        )
    },
    Scenario {
        story: Story::Faulty(faulty::Story::InstallKills),
        bulk_rate: 0,
        settings: &["raft.log_bytes_kept=4194304"],
        minimum: Minimum { writes: 0, faults: 15, installed: 15, resumes_of_one: 0 },
        ..of_transfers(
            "install-kills",
            "a node that joins dies at each step of staging and installing",
            24,
            transfer::Story::Cuts,
        )
    },
    Scenario {
        story: Story::Power(power::Story::Loss),
        writes_per_minute_min: 100,
        minimum: Minimum { writes: 0, faults: 4, installed: 1, resumes_of_one: 1 },
        ..of_transfers(
            "power-loss",
            "the power of receiver, source, leader or all fails, and disks forget what was not synced",
            48,
            transfer::Story::Cuts,
        )
    },
    of_cluster(
        "kills",
        "kill -9 of one node, of the leader, of a majority, of all",
        Story::Processes(processes::Story::Kills),
    ),
    of_cluster(
        "pauses",
        "SIGSTOP and SIGCONT of one node, of the leader, of a majority",
        Story::Processes(processes::Story::Pauses),
    ),
    of_cluster(
        "partitions",
        "one node, the leader, or each from each is cut off, both ways",
        Story::Network(network::Story::Partitions),
    ),
    of_cluster(
        "one-way",
        "a node is heard and hears nothing, or hears and is not heard",
        Story::Network(network::Story::OneWay),
    ),
    of_cluster(
        "ring",
        "five nodes, each of which reaches a majority, and no two the same",
        Story::Network(network::Story::Ring),
    ),
    of_cluster(
        "swizzle",
        "links are clogged one by one, and unclogged in another order",
        Story::Network(network::Story::Swizzle),
    ),
    Scenario {
        writes_per_minute_min: 100,
        ..of_cluster(
            "lossy",
            "loss, duplication, reordering and delay on every link",
            Story::Network(network::Story::Lossy),
        )
    },
    Scenario {
        minimum: Minimum { writes: 0, faults: 1, installed: 2, resumes_of_one: 0 },
        ..of_cluster(
            "members",
            "nodes are added and removed, leadership goes round, and nodes are killed meanwhile",
            Story::Membership(membership::Story::Members),
        )
    },
    Scenario {
        minimum: Minimum { writes: 0, faults: 1, installed: 1, resumes_of_one: 0 },
        ..of_cluster(
            "wipe",
            "a node loses its disk, is removed, and its machine joins anew",
            Story::Membership(membership::Story::Wipe),
        )
    },
    Scenario {
        settings: &["raft.log_bytes_kept=4194304"],
        minimum: Minimum { writes: 0, faults: 1, installed: 1, resumes_of_one: 0 },
        ..of_cluster(
            "compaction",
            "the log is compacted while a node is away, which comes back through a snapshot",
            Story::Membership(membership::Story::Compaction),
        )
    },
    Scenario {
        ballast_bytes: 32 * MIB as u64,
        bulk_rate: 4 * MIB as u64,
        writes_per_minute_min: 100,
        minimum: Minimum { writes: 0, faults: 4, installed: 1, resumes_of_one: 0 },
        ..of_cluster(
            "everything",
            "all of it, several at once, while nodes join and leave",
            Story::Membership(membership::Story::Everything),
        )
    },
];

/// The scenario of that name.
pub fn find(name: &str) -> Option<&'static Scenario> {
    SCENARIOS.iter().find(|scenario| scenario.name == name)
}

impl Scenario {
    /// How long a campaign plays it.
    pub fn duration(&self) -> Duration {
        Duration::from_secs(if self.is_of_transfers { 600 } else { 180 })
    }

    /// Whether the disks of its nodes forget.
    pub fn loses_power(&self) -> bool {
        matches!(self.story, Story::Power(_))
    }

    /// Settings of every node beside those of all storms.
    pub fn settings(&self) -> Vec<String> {
        let mut settings = vec![format!("bulk.bytes_per_second_max={}", self.bulk_rate)];
        settings.extend(self.settings.iter().map(|&setting| setting.to_owned()));
        settings
    }

    /// Bytes that one node's data may take: state, snapshots of it kept and staged, and the log with
    /// all that is pinned.
    pub fn disk_bytes_max(&self) -> u64 {
        6 * self.ballast_bytes + (2 << 30)
    }
}

/// Where a story is played, and until when.
pub struct Stage {
    /// The cluster.
    pub world: World,
    /// Content digests compared so far.
    pub digests: Vec<Vec<NodeDigest>>,
    /// Parts of the story that this machine cannot play, each with the reason.
    pub missing: Vec<String>,
    until: Instant,
}

impl Stage {
    /// A story begins now and goes on for so long.
    pub fn new(world: World, duration: Duration, missing: Vec<String>) -> Stage {
        Stage { world, digests: Vec::new(), missing, until: Instant::now() + duration }
    }

    /// Whether another round may begin.
    pub fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    /// The chance of the nemesis.
    pub fn random(&mut self) -> &mut Random {
        &mut self.world.random
    }

    /// Lets so many milliseconds pass, at least `from` and at most `to`.
    pub async fn pause(&mut self, from_ms: u64, to_ms: u64) -> Result<()> {
        let pause_ms = self.random().between(from_ms, to_ms);
        self.world.sleep(Duration::from_millis(pause_ms)).await
    }

    /// One of the founders that run.
    pub fn pick_founder(&mut self) -> Number {
        let founders: Vec<Number> =
            self.world.nodes.keys().copied().filter(|number| *number <= FOUNDERS).collect();
        *self.random().pick(&founders)
    }

    /// A fault of the live cluster ends: everything is repaired, and all are well again.
    pub async fn end_and_recover(&mut self, fault: FaultId) -> Result<()> {
        self.world.repair()?;
        self.world.timeline.end(fault);
        self.world.recover(fault).await
    }

    /// Compares the content of all nodes at one index.
    pub async fn compare(&mut self) -> Result<()> {
        let digests = super::compare_digests(&mut self.world).await?;
        self.digests.push(digests);
        Ok(())
    }
}

/// Plays the story of a scenario until its time is over.
pub async fn play(scenario: &Scenario, stage: &mut Stage) -> Result<()> {
    match scenario.story {
        Story::Transfer(story) => transfer::play(story, stage).await,
        Story::Disk(story) => disk::play(story, stage).await,
        Story::Faulty(story) => faulty::play(story, stage).await,
        Story::Power(story) => power::play(story, stage).await,
        Story::Processes(story) => processes::play(story, stage).await,
        Story::Network(story) => network::play(story, stage).await,
        Story::Membership(story) => membership::play(story, stage).await,
    }
}

/// Makes the collections, writes so many bytes of content, and has every founder build a snapshot
/// and forget its log, so that whoever joins pulls one.
pub async fn fill(world: &mut World, bytes: u64) -> Result<()> {
    for name in [COLLECTION, BALLAST] {
        world.admin.create_collection(&name.parse()?).await?;
    }
    write_ballast(world, 0, bytes).await?;
    for number in 1..=FOUNDERS {
        let client = world.node(number).client.with_timeout(LONG);
        let snapshot = client.create_snapshot().await?;
        client.compact_log().await?;
        let (bytes, parts) = (snapshot.bytes, snapshot.parts);
        world.timeline.note(format!("node {number}: snapshot of {bytes} bytes in {parts} parts"));
    }
    Ok(())
}

/// Writes content from the record number `first` on; answers the number after the last.
pub async fn write_ballast(world: &mut World, first: u64, bytes: u64) -> Result<u64> {
    let collection: CollectionName = BALLAST.parse()?;
    let after = first + bytes.div_ceil(BALLAST_VALUE_BYTES as u64);
    let mut next = first;
    while next < after {
        let numbers = next..after.min(next + BALLAST_BATCH);
        next = numbers.end;
        let writes = numbers
            .map(|number| Write {
                collection: collection.clone(),
                key: format!("{number:08}").into(),
                condition: Condition::Always,
                action: Action::Put { value: noise(number), content_type: String::new() },
            })
            .collect();
        let client = world.admin.with_timeout(LONG);
        client.write(WriteBatch { writes }).await?;
        world.check()?;
    }
    Ok(after)
}

/// Bytes that no compression makes fewer.
fn noise(seed: u64) -> Bytes {
    let mut random = Random::new(seed);
    let words = std::iter::repeat_with(|| random.next().to_le_bytes());
    words.take(BALLAST_VALUE_BYTES / 8).flatten().collect::<Vec<u8>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scenario_has_a_name_of_its_own_and_something_that_must_happen() {
        let mut names: Vec<&str> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), SCENARIOS.len());
        for scenario in SCENARIOS {
            assert!(scenario.writes_per_minute_min > 0 && scenario.minimum.faults > 0);
            assert!(scenario.minimum.installed > 0 || !scenario.is_of_transfers);
            assert!(find(scenario.name).is_some());
        }
    }
}
