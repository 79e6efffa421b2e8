//! What happened in a run, counted: a run in which nothing happened proves nothing.

/// Counts of one run, or of several together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Runs.
    pub seeds: u64,
    /// Events.
    pub steps: u64,
    /// Simulated time, ms.
    pub simulated_ms: u64,
    /// Messages between nodes.
    pub messages: u64,
    /// Elections won.
    pub elections: u64,
    /// Entries committed.
    pub entries: u64,
    /// Crashes of nodes.
    pub crashes: u64,
    /// Links cut, in one direction each.
    pub cuts: u64,
    /// Processes paused.
    pub pauses: u64,
    /// Operations of clients with an outcome.
    pub operations: u64,
    /// Operations whose outcome stayed unknown.
    pub unknown: u64,
    /// Membership changes applied.
    pub membership_changes: u64,
    /// Compactions of logs.
    pub compactions: u64,
    /// Cold entries read for slow followers.
    pub cold_reads: u64,
    /// Snapshots built.
    pub snapshots_built: u64,
    /// Pulls that began.
    pub pulls: u64,
    /// Pulls that went on after a cut or a crash.
    pub pulls_resumed: u64,
    /// Snapshots pulled to the last byte.
    pub snapshots_pulled: u64,
    /// Those of them that went on after a cut or a crash, with bytes staged.
    pub pulled_through_faults: u64,
    /// Runs with at least one of these.
    pub seeds_through_faults: u64,
    /// Snapshots installed.
    pub snapshots_installed: u64,
    /// Installs that a crash interrupted and the next boot finished.
    pub installs_redone: u64,
    /// Digests of replicas compared.
    pub digests_compared: u64,
    /// Histories of keys that were too tangled to search to the end.
    pub undecided_histories: u64,
}

impl Figures {
    /// Adds what another run counted.
    pub fn add(&mut self, other: &Figures) {
        for ((_, mine), (_, theirs)) in
            self.fields_mut().into_iter().zip(other.clone().fields_mut())
        {
            *mine += *theirs;
        }
    }

    /// Every count with its name, in the order of telling.
    pub fn list(&self) -> Vec<(&'static str, u64)> {
        self.clone().fields_mut().into_iter().map(|(name, count)| (name, *count)).collect()
    }

    fn fields_mut(&mut self) -> Vec<(&'static str, &mut u64)> {
        vec![
            ("seeds", &mut self.seeds),
            ("steps", &mut self.steps),
            ("simulated ms", &mut self.simulated_ms),
            ("messages", &mut self.messages),
            ("elections won", &mut self.elections),
            ("entries committed", &mut self.entries),
            ("crashes", &mut self.crashes),
            ("links cut", &mut self.cuts),
            ("pauses", &mut self.pauses),
            ("operations", &mut self.operations),
            ("unknown outcomes", &mut self.unknown),
            ("membership changes", &mut self.membership_changes),
            ("compactions", &mut self.compactions),
            ("cold reads", &mut self.cold_reads),
            ("snapshots built", &mut self.snapshots_built),
            ("pulls", &mut self.pulls),
            ("pulls resumed", &mut self.pulls_resumed),
            ("snapshots pulled", &mut self.snapshots_pulled),
            ("through faults", &mut self.pulled_through_faults),
            ("seeds with such a pull", &mut self.seeds_through_faults),
            ("snapshots installed", &mut self.snapshots_installed),
            ("installs redone", &mut self.installs_redone),
            ("digests compared", &mut self.digests_compared),
            ("undecided histories", &mut self.undecided_histories),
        ]
    }
}
