//! Storms of the network: what a person would call a bad link, and what only a test calls so.

use anyhow::Result;
use ratoon::demo::proxy::Link;
use std::time::Duration;

use super::Stage;
use crate::random::Random;
use crate::storm::net::{Lane, Number};
use crate::storm::world::FOUNDERS;

/// What happens to links.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Story {
    /// Both ways of some links are cut.
    Partitions,
    /// One way only.
    OneWay,
    /// Five nodes in a ring, of which only neighbours hear each other.
    Ring,
    /// Links are clogged one by one, and unclogged in another order.
    Swizzle,
    /// Datagrams are lost, doubled, late and out of order.
    Lossy,
}

/// Nodes of the ring: each with its two neighbours is a majority.
const RING: usize = 5;

/// Plays a story until its time is over.
pub async fn play(story: Story, stage: &mut Stage) -> Result<()> {
    if story == Story::Ring {
        while stage.world.nodes.len() < RING {
            let number = stage.world.join().await?;
            stage.world.wait_until_joined(number).await?;
        }
    }
    while stage.goes_on() {
        stage.pause(1_000, 4_000).await?;
        match story {
            Story::Partitions => partition(stage).await?,
            Story::OneWay => one_way(stage).await?,
            Story::Ring => ring(stage).await?,
            Story::Swizzle => swizzle(stage).await?,
            Story::Lossy => lossy(stage).await?,
        }
    }
    Ok(())
}

async fn partition(stage: &mut Stage) -> Result<()> {
    let (kind, alone): (_, Vec<Number>) = match stage.random().below(5) {
        0 | 1 => ("partition one", vec![stage.pick_founder()]),
        2 | 3 => ("partition leader", vec![stage.world.leader().await?]),
        _ => ("partition all", (1..=FOUNDERS).collect()),
    };
    let fault = stage.world.timeline.begin(kind, format!("{alone:?} cut off, both ways"));
    stage.world.watch.disturb();
    for number in &alone {
        stage.world.net.change_node(*number, &Lane::BOTH, |link| link.cut = true);
    }
    stage.pause(1_000, 12_000).await?;
    stage.end_and_recover(fault).await
}

async fn one_way(stage: &mut Stage) -> Result<()> {
    let target = match stage.random().below(2) {
        0 => stage.pick_founder(),
        _ => stage.world.leader().await?,
    };
    let is_deaf = stage.random().chance(500);
    let kind = if is_deaf { "deaf" } else { "mute" };
    let fault = stage.world.timeline.begin(kind, format!("node {target}"));
    stage.world.watch.disturb();
    let cut = Link { cut: true, ..Link::default() };
    for other in stage.world.net.numbers().into_iter().filter(|other| *other != target) {
        let (from, to) = if is_deaf { (other, target) } else { (target, other) };
        Lane::BOTH.into_iter().for_each(|lane| stage.world.net.set(from, to, lane, cut.clone()));
    }
    stage.pause(1_000, 12_000).await?;
    stage.end_and_recover(fault).await
}

async fn ring(stage: &mut Stage) -> Result<()> {
    let mut order: Vec<Number> = stage.world.nodes.keys().copied().collect();
    shuffle(&mut order, stage.random());
    let fault = stage.world.timeline.begin("ring", format!("{order:?}"));
    stage.world.watch.disturb();
    for (one, other) in pairs(order.len()) {
        if !are_neighbours(one, other, order.len()) {
            stage.world.net.change_pair(order[one], order[other], |link| link.cut = true);
        }
    }
    stage.pause(3_000, 15_000).await?;
    stage.end_and_recover(fault).await
}

async fn swizzle(stage: &mut Stage) -> Result<()> {
    let numbers = stage.world.net.numbers();
    // Either way of a link counts for itself.
    let mut links: Vec<(Number, Number)> = pairs(numbers.len())
        .flat_map(|(one, other)| [(numbers[one], numbers[other]), (numbers[other], numbers[one])])
        .collect();
    shuffle(&mut links, stage.random());
    links.truncate(stage.world.random.between(2, links.len() as u64) as usize);
    let fault = stage.world.timeline.begin("swizzle", format!("{links:?}"));
    stage.world.watch.disturb();
    for clog in [true, false] {
        shuffle(&mut links, stage.random());
        for (from, to) in links.clone() {
            let link = Link { cut: clog, ..Link::default() };
            Lane::BOTH
                .into_iter()
                .for_each(|lane| stage.world.net.set(from, to, lane, link.clone()));
            stage.pause(200, 2_000).await?;
        }
    }
    stage.end_and_recover(fault).await
}

async fn lossy(stage: &mut Stage) -> Result<()> {
    let random = stage.random();
    let share = |random: &mut Random, most: u64| random.below(most) as f64 / 1000.0;
    let link = Link {
        loss: share(random, 300),
        duplicate: share(random, 200),
        reorder: share(random, 200),
        reorder_by: Duration::from_millis(random.between(1, 40)),
        delay: Duration::from_millis(random.between(0, 80)),
        jitter: Duration::from_millis(random.between(0, 40)),
        ..Link::default()
    };
    let detail = format!(
        "loss {:.0} %, twice {:.0} %, reordered {:.0} %, delay {:?} and up to {:?} more",
        100.0 * link.loss,
        100.0 * link.duplicate,
        100.0 * link.reorder,
        link.delay,
        link.jitter
    );
    let fault = stage.world.timeline.begin("lossy", detail);
    stage.world.watch.disturb();
    let numbers = stage.world.net.numbers();
    for (one, other) in pairs(numbers.len()) {
        stage.world.net.change_pair(numbers[one], numbers[other], |now| now.clone_from(&link));
    }
    stage.pause(8_000, 20_000).await?;
    stage.end_and_recover(fault).await
}

/// Every two of so many.
fn pairs(count: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..count).flat_map(move |one| (one + 1..count).map(move |other| (one, other)))
}

fn are_neighbours(one: usize, other: usize, count: usize) -> bool {
    (one + 1) % count == other || (other + 1) % count == one
}

/// Puts a list in an order drawn at random.
pub fn shuffle<T>(list: &mut [T], random: &mut Random) {
    for at in (1..list.len()).rev() {
        list.swap(at, random.below(at as u64 + 1) as usize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_ring_each_node_and_its_neighbours_are_a_majority() {
        for node in 0..RING {
            let hears = |other: &usize| are_neighbours(node, *other, RING);
            assert_eq!((0..RING).filter(hears).count() + 1, RING / 2 + 1);
        }
    }

    #[test]
    fn a_shuffle_keeps_everything_and_follows_from_its_seed() {
        let order = |seed| {
            let mut list: Vec<u32> = (0..20).collect();
            shuffle(&mut list, &mut Random::new(seed));
            list
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
        let mut sorted = order(3);
        sorted.sort_unstable();
        assert!(sorted.into_iter().eq(0..20));
    }
}
