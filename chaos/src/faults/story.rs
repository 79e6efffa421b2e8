//! Which failpoint is struck in which story. `POINT:NTH` strikes at its nth passing.

/// What happens around a failpoint. Each ends with a check of the whole cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Story {
    /// `init` dies; it is run again, and the node starts.
    Init,
    /// `join` dies; it is run again, and the node starts and leaves.
    Join,
    /// A node dies while it replaces its certificate.
    Renew,
    /// A leader dies while clients write.
    Lead,
    /// A node dies while it flushes its state and drops its log.
    Compact,
    /// A node dies while it builds a snapshot.
    Build,
    /// A node dies while it moves a damaged snapshot aside.
    Rot,
    /// A node dies at its start, with a torn write at the end of its log.
    Tear,
    /// A follower for which the log is gone dies on its way through a snapshot.
    Pull,
    /// The same dies after its plan was written, and again while it carries the plan out.
    Redo,
    /// A snapshot pulled whole rots, and its node dies while it goes back to pulling.
    Reopen,
    /// A node dies while it takes a part over from its own snapshots.
    Reuse,
    /// A node dies while it takes a part over that another pull has begun.
    Adopt,
    /// A node whose disk was set back dies while it notes that.
    Lose,
}

/// All of them, those first that need no cluster, those last that leave the most behind.
pub const STORIES: &[(Story, &[&str])] = &[
    (
        Story::Init,
        &[
            "data.directory.made",
            "settings.staged",
            "settings.written",
            "state.batch.begun",
            "state.batch.written",
            "state.flush.begun",
            "state.flush.done",
            "genesis.flushed",
            "current.staged",
            "current.flipped",
            "log.creation.begun",
            "log.creation.written",
            "log.creation.named",
            "profile.staged",
            "identity.directory.made",
            "identity.file.written:1",
            "identity.file.written:2",
            "identity.file.written:3",
            "identity.file.written:4",
            "identity.staged",
            "identity.named",
            "profile.named",
        ],
    ),
    (
        Story::Join,
        &[
            "data.directory.made",
            "log.creation.begun",
            "log.creation.written",
            "log.creation.named",
            "settings.staged",
            "settings.written",
            "join.admitted",
            "join.seeds.staged",
            "join.seeds.saved",
            "identity.directory.made",
            "identity.file.written:3",
            "identity.staged",
            "identity.named",
        ],
    ),
    (
        Story::Pull,
        &[
            // The leader knows of no death before there is a record, and waits for a lease to end.
            "staging.opened",
            "staging.manifest.staged",
            "staging.manifest.written",
            "staging.write.done:1",
            // From here on there is a record: its node goes on without being asked.
            "staging.write.begun:8",
            "staging.sync.begun:2",
            "staging.sync.done:2",
            "staging.record.staged:2",
            "staging.record.written",
            "staging.part.verified",
            "staging.finish.begun",
            "staging.published",
            "prepare.begun",
            "prepare.directory.made",
            "prepare.part.linked:1",
            "prepare.part.linked:3",
            "prepare.linked",
            "prepare.opened",
            "install.begun",
            "install.plan.staged",
            "install.plan.written",
            "log.reset.begun",
            "log.reset.done",
            "current.staged",
            "current.flipped",
            "install.plan.doomed",
            "install.plan.removed",
            "install.old.doomed",
            "install.old.removed",
            "staging.removal.begun",
            "staging.removal.done",
            "staging.status.staged",
            "staging.status.written",
        ],
    ),
    (
        Story::Redo,
        &[
            "install.redo.begun",
            "log.reset.begun",
            "log.reset.done",
            "current.staged",
            "current.flipped",
            "install.plan.doomed",
            "install.plan.removed",
            "install.redo.done",
            "install.old.doomed",
            "install.old.removed",
        ],
    ),
    (Story::Reuse, &["staging.candidate.checked", "staging.candidate.taken"]),
    (Story::Reopen, &["staging.reopened"]),
    (Story::Adopt, &["staging.part.adopted"]),
    (
        Story::Build,
        &[
            "snapshot.checkpoint.begun",
            "snapshot.checkpoint.made",
            "snapshot.checkpoint.done",
            "snapshot.described",
            "snapshot.frame.made",
            "snapshot.parts.moved",
            "snapshot.parts.synced",
            "snapshot.manifest.staged",
            "snapshot.manifest.written",
            "snapshot.published",
            "snapshot.digests.staged",
            "snapshot.digests.saved",
            "snapshot.removal.renamed",
            "snapshot.removal.done",
        ],
    ),
    (Story::Rot, &["snapshot.aside.begun", "snapshot.aside.moved"]),
    (
        Story::Compact,
        &["state.flush.begun", "state.flush.done", "log.compaction.begun", "log.compaction.done"],
    ),
    (
        Story::Lead,
        &[
            "log.append.begun:30",
            "log.batch.synced:30",
            "log.append.done:30",
            "state.batch.begun:30",
            "state.batch.written:30",
        ],
    ),
    (Story::Tear, &["log.tail.staged", "log.tail.kept", "log.tail.cut"]),
    (Story::Renew, &["certificate.staged", "certificate.replaced"]),
    (Story::Lose, &["lost.staged", "lost.noted"]),
];
