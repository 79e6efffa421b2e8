//! What happened in a run, counted: a run in which nothing happened proves nothing.
//!
//! Rare paths are counted apart. A corpus of seeds has to reach every one of them.

/// Declares the counts, each with its name for people, once.
macro_rules! figures {
    ($($(#[doc = $doc:literal])* $kind:ident $field:ident $name:literal,)*) => {
        /// Counts of one run, or of several together.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct Figures {
            $($(#[doc = $doc])* pub $field: u64,)*
        }

        impl Figures {
            /// Adds what another run counted.
            pub fn add(&mut self, other: &Figures) {
                $(self.$field += other.$field;)*
            }

            fn all(&self) -> Vec<(Kind, &'static str, u64)> {
                vec![$((Kind::$kind, $name, self.$field),)*]
            }
        }
    };
}

/// How a count is to be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    /// How much happened.
    Usual,
    /// How often something happened that most runs never see.
    Rare,
}

figures! {
    /// Runs.
    Usual seeds "seeds",
    /// Events.
    Usual steps "steps",
    /// Simulated time, ms.
    Usual simulated_ms "simulated ms",
    /// Messages between nodes.
    Usual messages "messages",
    /// Elections won.
    Usual elections "elections won",
    /// Entries committed.
    Usual entries "entries committed",
    /// Crashes of nodes.
    Usual crashes "crashes",
    /// Crashes of them that took the page cache along.
    Usual power_losses "with loss of power",
    /// Links cut, in one direction each.
    Usual cuts "links cut",
    /// Processes paused.
    Usual pauses "pauses",
    /// Operations of clients with an outcome.
    Usual operations "operations",
    /// Operations whose outcome stayed unknown.
    Usual unknown "unknown outcomes",
    /// Membership changes applied.
    Usual membership_changes "membership changes",
    /// Compactions of logs.
    Usual compactions "compactions",
    /// Cold entries read for slow followers.
    Usual cold_reads "cold reads",
    /// Snapshots built.
    Usual snapshots_built "snapshots built",
    /// Pulls that began.
    Usual pulls "pulls",
    /// Snapshots pulled to the last byte.
    Usual snapshots_pulled "snapshots pulled",
    /// Those of them that went on after a cut or a crash, with bytes staged.
    Usual pulled_through_faults "through faults",
    /// Runs with at least one of these.
    Usual seeds_through_faults "seeds with such a pull",
    /// Snapshots installed.
    Usual snapshots_installed "snapshots installed",
    /// Bytes of parts delivered to receivers.
    Usual bytes_pulled "bytes pulled",
    /// Bytes of parts delivered more than once.
    Usual bytes_resent "bytes re-sent",
    /// What these may have been at most, given the faults.
    Usual bytes_resent_max "re-sent at most",
    /// Joiners all of whose contacts were gone before they were admitted.
    Usual stranded "joiners stranded",
    /// Digests of replicas compared.
    Usual digests_compared "digests compared",
    /// Histories of keys that were too tangled to search to the end.
    Usual undecided_histories "undecided histories",
    /// Pulls that a restart found and went on with.
    Rare pulls_resumed "pulls resumed at boot",
    /// Pulls that a restart found whole, and that were not installed yet.
    Rare durable_resumed "whole pulls found at boot",
    /// Installs that a crash interrupted and the next boot finished.
    Rare installs_redone "installs redone at boot",
    /// Pulls that went on with a source that had crashed meanwhile.
    Rare sources_back "sources back from a crash",
    /// Pulls given up for another snapshot.
    Rare pulls_switched "pulls switched",
    /// Pulls whose leader was asked for another snapshot.
    Rare new_offers_wanted "new offers wanted",
    /// Snapshots that the log overtook before they were installed.
    Rare pulls_overtaken "pulls overtaken by the log",
    /// Pulls given up without a snapshot.
    Rare pulls_failed "pulls failed",
    /// Parts taken from another place on the receiver's disk.
    Rare parts_reused "parts reused",
    /// Parts that another partial had begun, taken over.
    Rare parts_adopted "begun parts adopted",
    /// Stored snapshots set aside while somebody pulled them.
    Rare lost_while_served "snapshots lost while served",
    /// Stored snapshots found damaged by their source.
    Rare fenced "snapshots fenced",
    /// Parts that a source checked because its answers did not match.
    Rare parts_suspected "parts suspected",
    /// Chunk frames damaged on their way.
    Rare frames_damaged "frames damaged",
    /// Reads of stored snapshots that failed.
    Rare serving_errors "reads failed while serving",
    /// Bits flipped in what is staged.
    Rare staged_flips "bits flipped in staging",
    /// Bits flipped in stored snapshots.
    Rare stored_flips "bits flipped in the store",
    /// Staged parts found to be wrong by their digest.
    Rare staged_rot_found "staged rot found",
    /// Reads of staged parts that failed.
    Rare staged_errors "reads failed in staging",
    /// Operations that found the disk full.
    Rare disk_full "full disks",
    /// Snapshots that could be opened only at a later attempt.
    Rare prepare_retries "opened at a later attempt",
    /// Durable snapshots that turned out to be unfit.
    Rare prepares_rejected "durable snapshots rejected",
    /// Processes ended by an error of their disk, at the very step.
    Rare halts "halts by disk errors",
    /// Processes ended because the log could not be read.
    Rare log_read_halts "halts by reads of the log",
    /// Machines lost for good with all they held.
    Rare machines_lost "machines lost",
    /// Those of them that were removed, so that others could take their place.
    Rare machines_replaced "lost machines removed",
    /// Starts of the only voter after a crash.
    Rare lone_voter_boots "lone voter back",
    /// Nodes that applied their own removal.
    Rare own_removals "own removal applied",
    /// Nodes that were told that they are removed.
    Rare turned_away "removed nodes turned away",
    /// Messages dropped because their link had too much to carry.
    Rare congestion_drops "dropped by full links",
    /// Clusters that had seven members.
    Rare clusters_of_seven "clusters of seven",
}

impl Figures {
    /// Every count with its name, in the order of telling.
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        self.all().into_iter().map(|(_, name, count)| (name, count)).collect()
    }

    /// Every rare path with how often it was taken.
    pub fn rare(&self) -> Vec<(&'static str, u64)> {
        let rare = self.all().into_iter().filter(|(kind, ..)| *kind == Kind::Rare);
        rare.map(|(_, name, count)| (name, count)).collect()
    }
}
