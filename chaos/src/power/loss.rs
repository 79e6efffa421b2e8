//! What a power loss does to the file system: a seed decides which of all that was not durable survives.
//!
//! It never takes away what was synced.

use std::collections::BTreeMap;
use std::io;

use super::Losses;
use super::disk::{Body, Disk, ROOT, write};
use crate::random::Random;

impl Disk {
    /// Takes the file system to a state that a power loss may leave, which is durable from then on, and
    /// closes all handles.
    pub fn lose_power(&mut self, seed: u64) -> io::Result<Losses> {
        let mut random = Random::new(seed);
        let mut losses = Losses::default();
        let had_name: BTreeMap<u64, bool> =
            self.nodes.iter().map(|(number, node)| (*number, !node.is_removed())).collect();

        let survival_permille = draw_survival(&mut random);
        let (survivors, lost) = self.journal.take_survivors(&mut random, survival_permille);
        losses.entries_lost = lost;
        for change in survivors {
            self.make_durable(change);
        }
        self.handles.clear();
        let links = self.durable_links();
        for (number, had_name) in had_name {
            let is_there = links.contains_key(&number);
            let is_file = self.nodes.get(&number).is_some_and(|node| !node.is_directory());
            losses.files_lost += u64::from(had_name && !is_there && is_file);
            losses.files_returned += u64::from(!had_name && is_there && is_file);
            if !is_there {
                self.forget(number);
            }
        }

        let survival_permille = draw_survival(&mut random);
        for (number, node) in &mut self.nodes {
            (node.links, node.durable_links) = (links[number], links[number]);
            (node.pending_links, node.handles) = (0, 0);
            match &mut node.body {
                Body::Directory(directory) => directory.names = directory.durable.clone(),
                Body::File(content) => {
                    losses.blocks_lost +=
                        write(content).lose_power(&mut random, survival_permille)?;
                }
            }
        }
        Ok(losses)
    }

    /// How many durable names each node has that can be reached from the root.
    fn durable_links(&self) -> BTreeMap<u64, u32> {
        let mut links = BTreeMap::from([(ROOT, 1)]);
        let mut waiting = vec![ROOT];
        while let Some(number) = waiting.pop() {
            let Ok(directory) = self.directory(number) else { continue };
            for child in directory.durable.values() {
                *links.entry(*child).or_default() += 1;
                waiting.push(*child);
            }
        }
        links
    }
}

/// How likely what is not durable is to survive. All and nothing come often: they are the losses that
/// an assumption about order or about luck meets.
fn draw_survival(random: &mut Random) -> u64 {
    match random.below(8) {
        0..=2 => 0,
        3 => 1000,
        _ => random.between(1, 999),
    }
}
