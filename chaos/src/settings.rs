//! What a seed makes of a cluster: every run draws its own sizes, times, budgets and rates.
//!
//! Swarm testing: a fault that is absent from a run lets others go further, so each kind of fault
//! is switched on by a coin of its own.

use ratoon::limits::{CHUNK_BYTES_MAX, CHUNK_BYTES_MIN};

use crate::random::Random;

/// Bytes of ballast, so that one part has several chunks.
pub const BALLAST_BYTES: usize = 5 << 19;

/// All that is fixed for one run. Times are in milliseconds unless named otherwise.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Members wanted from early on.
    pub members_wanted: u64,
    /// Members at most.
    pub members_max: u64,
    /// Share of joiners that stay learners, permille.
    pub learners: u64,
    /// See `raft::Config`.
    pub tick_ms: u64,
    /// See `raft::Config`.
    pub election_ticks: usize,
    /// See `raft::Config`.
    pub heartbeat_ticks: usize,
    /// See `raft::Config`.
    pub request_timeout_ms: u64,
    /// See `raft::Config`.
    pub lease_ms: u64,
    /// See `raft::Config`.
    pub pin_age_ms_max: u64,
    /// See `raft::Config`.
    pub pin_bytes_max: u64,
    /// See `raft::Config`.
    pub log_bytes_soft: u64,
    /// See `raft::Config`.
    pub log_bytes_hard: u64,
    /// See `raft::Config`.
    pub flush_bytes: u64,
    /// See `raft::Config`.
    pub promotion_lag_max: u64,
    /// Snapshots a store keeps besides pinned ones.
    pub snapshots_kept: usize,
    /// Links.
    pub network: NetworkSettings,
    /// Snapshots carry ballast, so that a part has several chunks.
    pub ballast: bool,
    /// Bytes of a chunk.
    pub chunk_bytes: u32,
    /// Pulls.
    pub transfer: TransferSettings,
    /// Disks.
    pub disk: DiskSettings,
    /// Clients.
    pub load: LoadSettings,
    /// Faults.
    pub faults: FaultSettings,
}

/// How links behave in the safety phase.
#[derive(Clone, Debug)]
pub struct NetworkSettings {
    /// What a link carries in one direction, for each lane; 0: no limit.
    pub bytes_per_second: u64,
    /// Shortest time a message takes, microseconds.
    pub delay_us: u64,
    /// What chance adds to it on average, microseconds.
    pub jitter_us: u64,
    /// Messages lost, permille.
    pub loss: u64,
    /// Messages delivered twice, permille.
    pub duplicates: u64,
    /// Messages that take a hundred times as long, permille.
    pub stragglers: u64,
    /// Chunk frames whose data arrives damaged, permille.
    pub corruption: u64,
}

/// See `transfer::receiver::Options` and `transfer::sender::Options`.
#[derive(Clone, Debug)]
pub struct TransferSettings {
    /// Parallel streams.
    pub streams: usize,
    /// What pulls left behind is removed after this.
    pub leftovers_ms: u64,
    /// Limit of what a node sends and of what it receives, bytes a second.
    pub bytes_per_second: u64,
    /// A source is given up after this.
    pub grace_ms: u64,
    /// Received bytes that may wait for the disk.
    pub unwritten_bytes_max: u64,
    /// Bytes of one request.
    pub run_bytes: u64,
    /// Receivers served at once.
    pub pulls_max: usize,
    /// Bytes a source reads ahead.
    pub buffer_bytes_max: u64,
}

/// How long work takes, microseconds on average.
#[derive(Clone, Debug)]
pub struct DiskSettings {
    /// From an input in the queue to the core.
    pub wake_us: u64,
    /// One sync of the log.
    pub sync_us: u64,
    /// One round of apply.
    pub apply_us: u64,
    /// One flush of the state.
    pub flush_us: u64,
    /// One read of cold entries.
    pub read_us: u64,
    /// Building a snapshot.
    pub build_us: u64,
    /// Opening a pulled snapshot as a generation.
    pub prepare_us: u64,
    /// Each step of an install.
    pub install_us: u64,
    /// One operation on staged parts of a snapshot.
    pub stage_us: u64,
    /// A staging operation finds the disk full, permille.
    pub full: u64,
    /// Preparing a snapshot fails, permille.
    pub prepare_failures: u64,
    /// Building a snapshot fails, permille.
    pub build_failures: u64,
    /// A staging operation fails, permille.
    pub staging_errors: u64,
    /// A read of a stored snapshot fails while it is served, permille.
    pub serving_errors: u64,
    /// Work on log or state fails, which ends the process, permille.
    pub halts: u64,
    /// After a round of apply the state flushes a part of itself, permille.
    pub early_flushes: u64,
    /// Entries that share a batch of the state at most.
    pub batch_entries_max: u64,
}

/// What clients do.
#[derive(Clone, Debug)]
pub struct LoadSettings {
    /// Closed loops.
    pub clients: u64,
    /// Records they quarrel about.
    pub keys: u64,
    /// Longest value.
    pub value_bytes_max: u64,
    /// Pause between operations, on average.
    pub think_ms: u64,
    /// Share of clients with a session, permille.
    pub sessions: u64,
    /// Share of reads, permille.
    pub reads: u64,
    /// A client gives up waiting after this.
    pub patience_ms: u64,
}

/// Mean times between faults of each kind; 0: never.
#[derive(Clone, Debug)]
pub struct FaultSettings {
    /// A node crashes.
    pub crash_ms: u64,
    /// Several nodes crash at once.
    pub massacre_ms: u64,
    /// The cluster splits in two.
    pub partition_ms: u64,
    /// Some links fail in one direction.
    pub one_way_ms: u64,
    /// Some links become very slow.
    pub clog_ms: u64,
    /// A process stops for a while.
    pub pause_ms: u64,
    /// A clock jumps.
    pub clock_ms: u64,
    /// The receiver or the source of a pull crashes or loses its link.
    pub pull_ms: u64,
    /// Compaction or a snapshot is asked for by hand.
    pub by_hand_ms: u64,
    /// A bit flips in what is staged or stored of snapshots.
    pub rot_ms: u64,
    /// A node's log cannot be read.
    pub log_read_ms: u64,
    /// A machine is lost with all it held.
    pub loss_ms: u64,
    /// Membership changes and leadership transfers.
    pub operator_ms: u64,
    /// How long faults last on average.
    pub length_ms: u64,
}

impl Settings {
    /// The settings that `seed` stands for.
    pub fn draw(random: &mut Random) -> Self {
        let r = random;
        let log_bytes_soft = r.magnitude(600, 60_000);
        let members_wanted = r.between(3, 6);
        let pin_bytes_max = r.magnitude(2_000, 1_000_000);
        let ballast = r.chance(50);
        Settings {
            members_wanted,
            members_max: (members_wanted + r.below(3)).min(7),
            learners: *r.pick(&[0, 0, 150, 400]),
            tick_ms: r.between(20, 60),
            election_ticks: r.between(5, 12) as usize,
            heartbeat_ticks: r.between(1, 3) as usize,
            request_timeout_ms: r.magnitude(300, 5_000),
            lease_ms: r.magnitude(1_500, 8_000),
            pin_age_ms_max: r.magnitude(4_000, 30_000),
            // A pin may hold as much log as there is state; ballast is no state that anybody counts.
            pin_bytes_max: if ballast { BALLAST_BYTES as u64 } else { pin_bytes_max },
            log_bytes_soft,
            log_bytes_hard: log_bytes_soft * r.between(1, 8),
            flush_bytes: r.magnitude(300, 20_000),
            promotion_lag_max: r.magnitude(5, 1_000),
            snapshots_kept: r.between(1, 3) as usize,
            ballast,
            // Without ballast every part is one chunk.
            chunk_bytes: *r.pick(&[
                CHUNK_BYTES_MIN,
                CHUNK_BYTES_MIN,
                3 << 19,
                2 << 20,
                CHUNK_BYTES_MAX,
            ]),
            transfer: TransferSettings::draw(r),
            network: NetworkSettings::draw(r),
            disk: DiskSettings::draw(r),
            load: LoadSettings::draw(r),
            faults: FaultSettings::draw(r),
        }
    }
}

impl NetworkSettings {
    fn draw(r: &mut Random) -> Self {
        let rate = r.magnitude(4_000, 2_000_000);
        NetworkSettings {
            bytes_per_second: *r.pick(&[0, 0, rate]),
            delay_us: r.magnitude(50, 3_000),
            jitter_us: r.magnitude(10, 8_000),
            loss: *r.pick(&[0, 0, 5, 30, 100]),
            duplicates: *r.pick(&[0, 0, 5, 50]),
            stragglers: *r.pick(&[0, 0, 2, 20]),
            corruption: *r.pick(&[0, 0, 50, 300]),
        }
    }
}

impl TransferSettings {
    fn draw(r: &mut Random) -> Self {
        TransferSettings {
            streams: r.between(1, 4) as usize,
            bytes_per_second: *r.pick(&[0, 0, 20_000, 200_000]),
            leftovers_ms: r.magnitude(1_000, 20_000),
            grace_ms: r.magnitude(1_000, 20_000),
            unwritten_bytes_max: r.magnitude(1_000, 10_000_000),
            run_bytes: r.magnitude(1_000, 10_000_000),
            pulls_max: r.between(1, 4) as usize,
            buffer_bytes_max: r.magnitude(1_000, 10_000_000),
        }
    }
}

impl DiskSettings {
    fn draw(r: &mut Random) -> Self {
        DiskSettings {
            wake_us: r.magnitude(5, 1_000),
            sync_us: r.magnitude(100, 30_000),
            apply_us: r.magnitude(50, 30_000),
            flush_us: r.magnitude(500, 300_000),
            read_us: r.magnitude(50, 100_000),
            build_us: r.magnitude(1_000, 1_000_000),
            prepare_us: r.magnitude(1_000, 500_000),
            install_us: r.magnitude(100, 100_000),
            stage_us: r.magnitude(100, 50_000),
            full: *r.pick(&[0, 0, 20, 100]),
            prepare_failures: *r.pick(&[0, 0, 100]),
            build_failures: *r.pick(&[0, 0, 200]),
            staging_errors: *r.pick(&[0, 0, 5, 30]),
            serving_errors: *r.pick(&[0, 0, 20, 200]),
            halts: *r.pick(&[0, 0, 1, 4]),
            early_flushes: *r.pick(&[0, 20, 300]),
            batch_entries_max: r.magnitude(1, 64),
        }
    }
}

impl LoadSettings {
    fn draw(r: &mut Random) -> Self {
        LoadSettings {
            clients: r.between(1, 6),
            keys: r.magnitude(1, 40),
            value_bytes_max: r.magnitude(8, 2_000),
            think_ms: r.magnitude(1, 200),
            sessions: *r.pick(&[0, 500, 1000]),
            reads: *r.pick(&[100, 300, 600]),
            patience_ms: r.magnitude(200, 8_000),
        }
    }
}

impl FaultSettings {
    fn draw(r: &mut Random) -> Self {
        // Through a fault is how most snapshots are to be pulled.
        let pull_ms = if r.chance(850) { r.magnitude(100, 3_000) } else { 0 };
        let mut kind = |from: u64, to: u64| if r.chance(550) { r.magnitude(from, to) } else { 0 };
        FaultSettings {
            crash_ms: kind(500, 15_000),
            massacre_ms: kind(3_000, 30_000),
            partition_ms: kind(1_000, 15_000),
            one_way_ms: kind(1_000, 15_000),
            clog_ms: kind(1_000, 15_000),
            pause_ms: kind(1_000, 15_000),
            clock_ms: kind(1_000, 15_000),
            pull_ms,
            by_hand_ms: kind(300, 10_000),
            rot_ms: kind(200, 10_000),
            log_read_ms: kind(2_000, 30_000),
            loss_ms: kind(3_000, 30_000),
            operator_ms: kind(300, 8_000),
            length_ms: r.magnitude(100, 6_000),
        }
    }
}
