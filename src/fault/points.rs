//! The closed list of failpoints: what is on disk when a process dies there.
//!
//! A name is `what.step.moment`. `begun` comes before the step, `staged` when a file is whole and
//! synced under a temporary name, and the past of the step's verb when it is done. The names are
//! compiled only into `ratoon-faulty`.

macro_rules! points {
    ($($(#[doc = $doc:literal])+ $point:ident = $name:literal, can_fail: $can_fail:literal;)+) => {
        /// One failpoint. Its sentence says where it lies.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Point {
            $($(#[doc = $doc])+ $point,)+
        }

        #[cfg(any(test, feature = "faults"))]
        impl Point {
            /// All of them, in the order of the list.
            pub const ALL: &[Point] = &[$(Point::$point,)+];

            /// How the environment names it.
            pub fn name(self) -> &'static str {
                match self {
                    $(Point::$point => $name,)+
                }
            }

            /// Whether its step can be made to fail with an error.
            pub fn can_fail(self) -> bool {
                match self {
                    $(Point::$point => $can_fail,)+
                }
            }

            /// How the source names it.
            #[cfg(test)]
            pub(super) fn variant(self) -> &'static str {
                match self {
                    $(Point::$point => stringify!($point),)+
                }
            }
        }
    };
}

points! {
    /// A new raft log's directory is about to be made under a temporary name.
    LogCreationBegun = "log.creation.begun", can_fail: true;
    /// The new log's database is written and closed, and has its temporary name.
    LogCreationWritten = "log.creation.written", can_fail: false;
    /// The new log has its name and was never opened.
    LogCreationNamed = "log.creation.named", can_fail: false;
    /// Entries and hard state are about to be written and synced.
    LogAppendBegun = "log.append.begun", can_fail: true;
    /// A batch of the log is synced, and its number is not noted beside it.
    LogBatchSynced = "log.batch.synced", can_fail: true;
    /// Entries and hard state are durable, and nobody was told.
    LogAppendDone = "log.append.done", can_fail: false;
    /// The log's beginning is about to be dropped.
    LogCompactionBegun = "log.compaction.begun", can_fail: true;
    /// The log's beginning is dropped, and nobody was told.
    LogCompactionDone = "log.compaction.done", can_fail: false;
    /// The log is about to be reset to a snapshot.
    LogResetBegun = "log.reset.begun", can_fail: true;
    /// The log begins after the snapshot.
    LogResetDone = "log.reset.done", can_fail: false;
    /// A torn tail of the log is copied under a temporary name.
    LogTailStaged = "log.tail.staged", can_fail: true;
    /// A torn tail is kept in its file and not cut off yet.
    LogTailKept = "log.tail.kept", can_fail: true;
    /// A torn tail is cut off.
    LogTailCut = "log.tail.cut", can_fail: false;

    /// Applied entries are about to be written to the state.
    StateBatchBegun = "state.batch.begun", can_fail: true;
    /// Applied entries are in the state, not flushed, and nobody was answered.
    StateBatchWritten = "state.batch.written", can_fail: false;
    /// The state is about to be flushed.
    StateFlushBegun = "state.flush.begun", can_fail: true;
    /// The state is flushed, and nobody was told.
    StateFlushDone = "state.flush.done", can_fail: false;
    /// The name of the live generation is written under a temporary name.
    CurrentStaged = "current.staged", can_fail: true;
    /// The name of the live generation is replaced.
    CurrentFlipped = "current.flipped", can_fail: false;

    /// A checkpoint of the state is about to be made.
    SnapshotCheckpointBegun = "snapshot.checkpoint.begun", can_fail: true;
    /// The checkpoint's links are there, and its small files are not synced.
    SnapshotCheckpointMade = "snapshot.checkpoint.made", can_fail: true;
    /// The checkpoint is durable, and nothing describes it yet.
    SnapshotCheckpointDone = "snapshot.checkpoint.done", can_fail: false;
    /// The manifest is made from the checkpoint, in memory.
    SnapshotDescribed = "snapshot.described", can_fail: false;
    /// The directory of the new snapshot is made under a temporary name, empty.
    SnapshotFrameMade = "snapshot.frame.made", can_fail: true;
    /// The checkpoint was moved into it.
    SnapshotPartsMoved = "snapshot.parts.moved", can_fail: true;
    /// The parts are synced, and there is no manifest.
    SnapshotPartsSynced = "snapshot.parts.synced", can_fail: true;
    /// The manifest is written under a temporary name.
    SnapshotManifestStaged = "snapshot.manifest.staged", can_fail: true;
    /// The manifest is there; the snapshot has its temporary name.
    SnapshotManifestWritten = "snapshot.manifest.written", can_fail: true;
    /// The snapshot has its name, and its directory is not synced.
    SnapshotPublished = "snapshot.published", can_fail: true;
    /// The digests of its files are written under a temporary name.
    SnapshotDigestsStaged = "snapshot.digests.staged", can_fail: true;
    /// The digests of its files are saved.
    SnapshotDigestsSaved = "snapshot.digests.saved", can_fail: false;
    /// An old snapshot has lost its name, and its files are there.
    SnapshotRemovalRenamed = "snapshot.removal.renamed", can_fail: false;
    /// An old snapshot is removed.
    SnapshotRemovalDone = "snapshot.removal.done", can_fail: false;
    /// A damaged snapshot is about to be moved aside.
    SnapshotAsideBegun = "snapshot.aside.begun", can_fail: true;
    /// A damaged snapshot is moved aside.
    SnapshotAsideMoved = "snapshot.aside.moved", can_fail: true;

    /// The directory of a staged snapshot is there, without a manifest.
    StagingOpened = "staging.opened", can_fail: true;
    /// Parts that were durable and could not be used are partial ones again.
    StagingReopened = "staging.reopened", can_fail: true;
    /// The manifest of a staged snapshot is written under a temporary name.
    StagingManifestStaged = "staging.manifest.staged", can_fail: true;
    /// The manifest of a staged snapshot is there.
    StagingManifestWritten = "staging.manifest.written", can_fail: false;
    /// A part that lies elsewhere is here under a temporary name, checked.
    StagingCandidateChecked = "staging.candidate.checked", can_fail: true;
    /// A part that lies elsewhere has taken its place.
    StagingCandidateTaken = "staging.candidate.taken", can_fail: false;
    /// A part that another pull has begun was taken from it.
    StagingPartAdopted = "staging.part.adopted", can_fail: false;
    /// Bytes of a part are about to be written.
    StagingWriteBegun = "staging.write.begun", can_fail: true;
    /// Bytes of a part are written and not synced.
    StagingWriteDone = "staging.write.done", can_fail: false;
    /// Parts are about to be synced for the record.
    StagingSyncBegun = "staging.sync.begun", can_fail: true;
    /// Parts are synced, and the record says nothing of it.
    StagingSyncDone = "staging.sync.done", can_fail: true;
    /// The record of a pull is written under a temporary name.
    StagingRecordStaged = "staging.record.staged", can_fail: true;
    /// The record of a pull is replaced.
    StagingRecordWritten = "staging.record.written", can_fail: false;
    /// A part was read and is right; only memory knows.
    StagingPartVerified = "staging.part.verified", can_fail: false;
    /// All is verified, synced and recorded; the parts are partial by name.
    StagingFinishBegun = "staging.finish.begun", can_fail: true;
    /// The parts are durable by name, and the directory is not synced.
    StagingPublished = "staging.published", can_fail: true;
    /// A staged snapshot is about to be removed.
    StagingRemovalBegun = "staging.removal.begun", can_fail: false;
    /// A staged snapshot is removed.
    StagingRemovalDone = "staging.removal.done", can_fail: false;
    /// How a pull ended is written under a temporary name.
    StagingStatusStaged = "staging.status.staged", can_fail: true;
    /// How a pull ended is written down.
    StagingStatusWritten = "staging.status.written", can_fail: false;

    /// The next generation's number is drawn, and leftovers of that number are gone.
    PrepareBegun = "prepare.begun", can_fail: true;
    /// The next generation's directory is there, empty.
    PrepareDirectoryMade = "prepare.directory.made", can_fail: false;
    /// A part is linked or copied into it.
    PreparePartLinked = "prepare.part.linked", can_fail: true;
    /// All parts are there and synced.
    PrepareLinked = "prepare.linked", can_fail: true;
    /// The generation is open, and RocksDB has written files of its own.
    PrepareOpened = "prepare.opened", can_fail: false;

    /// Raft has taken the snapshot, and nothing on disk says so.
    InstallBegun = "install.begun", can_fail: true;
    /// The plan is written under a temporary name.
    InstallPlanStaged = "install.plan.staged", can_fail: true;
    /// The plan is there: from here on a crash leads to the end of the install.
    InstallPlanWritten = "install.plan.written", can_fail: false;
    /// The new generation is live, and the plan is about to go.
    InstallPlanDoomed = "install.plan.doomed", can_fail: true;
    /// The plan is gone, and nobody was told.
    InstallPlanRemoved = "install.plan.removed", can_fail: false;
    /// A plan was found at the start, and is about to be carried out again.
    InstallRedoBegun = "install.redo.begun", can_fail: true;
    /// What a plan said is done again; other generations are still there.
    InstallRedoDone = "install.redo.done", can_fail: true;
    /// A generation that is not live is about to be removed.
    InstallOldDoomed = "install.old.doomed", can_fail: true;
    /// A generation that was not live is removed.
    InstallOldRemoved = "install.old.removed", can_fail: false;

    /// A data directory is laid out and locked.
    DataDirectoryMade = "data.directory.made", can_fail: true;
    /// `ratoon.toml` is written under a temporary name.
    SettingsStaged = "settings.staged", can_fail: true;
    /// `ratoon.toml` is there.
    SettingsWritten = "settings.written", can_fail: false;
    /// The first state of a new cluster is flushed, and is not the live one.
    GenesisFlushed = "genesis.flushed", can_fail: false;
    /// The cluster has admitted this node, and only memory knows.
    JoinAdmitted = "join.admitted", can_fail: false;
    /// The nodes to ask are written under a temporary name.
    JoinSeedsStaged = "join.seeds.staged", can_fail: true;
    /// The nodes to ask are known.
    JoinSeedsSaved = "join.seeds.saved", can_fail: false;
    /// The directory of an identity is made under a temporary name, empty.
    IdentityDirectoryMade = "identity.directory.made", can_fail: false;
    /// A file of an identity is written.
    IdentityFileWritten = "identity.file.written", can_fail: false;
    /// All files of an identity are synced under the temporary name.
    IdentityStaged = "identity.staged", can_fail: false;
    /// The identity has its name: the directory is a node's.
    IdentityNamed = "identity.named", can_fail: false;
    /// A renewed certificate is written beside the old one.
    CertificateStaged = "certificate.staged", can_fail: false;
    /// A renewed certificate has taken the old one's place.
    CertificateReplaced = "certificate.replaced", can_fail: false;
    /// The profile of a new cluster is written under a temporary name.
    ProfileStaged = "profile.staged", can_fail: true;
    /// The profile of a new cluster has its name.
    ProfileNamed = "profile.named", can_fail: true;
    /// That this node lost acknowledged entries is written under a temporary name.
    LostStaged = "lost.staged", can_fail: true;
    /// That this node lost acknowledged entries is noted for all later starts.
    LostNoted = "lost.noted", can_fail: false;
}
