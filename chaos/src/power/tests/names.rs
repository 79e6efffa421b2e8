//! What happens to names.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::{Mounted, SEEDS, mount, sync, write_at, write_synced};

/// Does `story` again and again, with another loss each time, and returns how often `outcome` held.
fn count(mounted: &Mounted, story: impl Fn(), outcome: impl Fn() -> bool) -> u64 {
    let mut held = 0;
    for seed in 0..SEEDS {
        story();
        mounted.power.lose_power(seed).unwrap();
        held += u64::from(outcome());
    }
    held
}

fn is_sometimes(count: u64) -> bool {
    0 < count && count < SEEDS
}

#[test]
fn a_new_file_may_be_gone_until_its_directory_is_synced() {
    let Some(mounted) = mount() else { return };
    let remove = || {
        if mounted.has("new") {
            fs::remove_file(mounted.path("new")).unwrap();
            mounted.sync_root();
        }
    };
    let create = || {
        remove();
        write_synced(&mounted.path("new"), b"synced bytes");
    };
    let there = || {
        if mounted.has("new") {
            assert_eq!(mounted.read("new"), b"synced bytes");
        }
        mounted.has("new")
    };
    assert!(is_sometimes(count(&mounted, create, there)));
    let create_synced = || {
        create();
        mounted.sync_root();
    };
    assert_eq!(count(&mounted, create_synced, there), SEEDS);
}

#[test]
fn a_replaced_file_has_its_old_or_its_new_content_whole() {
    let Some(mounted) = mount() else { return };
    let replace = |content: &[u8]| {
        write_synced(&mounted.path("file.tmp"), content);
        fs::rename(mounted.path("file.tmp"), mounted.path("file")).unwrap();
    };
    let is_new = || {
        let content = mounted.read("file");
        assert!(content == b"old" || content == b"new content", "{content:?}");
        content == b"new content"
    };
    let story = || {
        mounted.write_durably("file", b"old");
        replace(b"new content");
    };
    assert!(is_sometimes(count(&mounted, story, is_new)));
    let story_synced = || {
        story();
        mounted.sync_root();
    };
    assert_eq!(count(&mounted, story_synced, is_new), SEEDS);
}

#[test]
fn a_rename_from_one_directory_to_another_happens_whole_or_not_at_all() {
    let Some(mounted) = mount() else { return };
    fs::create_dir(mounted.path("from")).unwrap();
    fs::create_dir(mounted.path("to")).unwrap();
    mounted.sync_root();
    let story = || {
        if mounted.has("to/file") {
            fs::remove_file(mounted.path("to/file")).unwrap();
            sync(&mounted.path("to"));
        }
        write_synced(&mounted.path("from/file"), b"bytes");
        sync(&mounted.path("from"));
        fs::rename(mounted.path("from/file"), mounted.path("to/file")).unwrap();
    };
    let is_moved = || {
        assert_ne!(mounted.has("from/file"), mounted.has("to/file"));
        mounted.has("to/file")
    };
    assert!(is_sometimes(count(&mounted, story, is_moved)));
    for directory in ["from", "to"] {
        let story_synced = || {
            story();
            sync(&mounted.path(directory));
        };
        assert_eq!(count(&mounted, story_synced, is_moved), SEEDS, "{directory}");
    }
}

#[test]
fn an_unlinked_file_may_come_back_until_its_directory_is_synced() {
    let Some(mounted) = mount() else { return };
    let story = || {
        mounted.write_durably("file", b"durable");
        fs::remove_file(mounted.path("file")).unwrap();
        assert!(!mounted.has("file"));
    };
    let is_back = || {
        let is_back = mounted.has("file");
        assert!(!is_back || mounted.read("file") == b"durable");
        is_back
    };
    assert!(is_sometimes(count(&mounted, story, is_back)));
    let story_synced = || {
        story();
        mounted.sync_root();
    };
    assert_eq!(count(&mounted, story_synced, is_back), 0);
}

#[test]
fn losses_of_names_are_counted() {
    let Some(mounted) = mount() else { return };
    let (mut lost, mut returned) = (0, 0);
    for seed in 0..SEEDS {
        mounted.write_durably("old", b"old");
        fs::remove_file(mounted.path("old")).unwrap();
        fs::write(mounted.path("new"), b"new").unwrap();
        let losses = mounted.power.lose_power(seed).unwrap();
        assert_eq!(losses.files_returned, u64::from(mounted.has("old")), "seed {seed}");
        assert_eq!(losses.files_lost, u64::from(!mounted.has("new")), "seed {seed}");
        assert_eq!(losses.entries_lost, losses.files_returned + losses.files_lost, "seed {seed}");
        // In order: what was made last survives only with what was done before.
        assert!(!mounted.has("new") || !mounted.has("old"), "seed {seed}");
        (lost, returned) = (lost + losses.files_lost, returned + losses.files_returned);
        if mounted.has("new") {
            fs::remove_file(mounted.path("new")).unwrap();
        }
    }
    assert!(lost > returned && returned > 0, "{lost} {returned}");
}

#[test]
fn hard_links_share_their_bytes_and_survive_with_their_names() {
    let Some(mounted) = mount() else { return };
    mounted.write_durably("one", b"shared bytes");
    fs::create_dir(mounted.path("copy")).unwrap();
    fs::hard_link(mounted.path("one"), mounted.path("copy/other")).unwrap();
    assert_eq!(fs::metadata(mounted.path("one")).unwrap().nlink(), 2);
    sync(&mounted.path("copy"));
    mounted.sync_root();
    write_at(&mounted.path("copy/other"), 0, b"SHARED");
    assert_eq!(mounted.read("one"), b"SHARED bytes");
    sync(&mounted.path("one"));
    fs::remove_file(mounted.path("one")).unwrap();
    mounted.sync_root();
    for seed in 0..SEEDS {
        mounted.power.lose_power(seed).unwrap();
        assert!(!mounted.has("one"));
        assert_eq!(mounted.read("copy/other"), b"SHARED bytes");
        assert_eq!(fs::metadata(mounted.path("copy/other")).unwrap().nlink(), 1);
    }
}

#[test]
fn a_directory_that_was_not_synced_into_its_parent_goes_with_all_it_holds() {
    let Some(mounted) = mount() else { return };
    let story = || {
        if mounted.has("directory") {
            fs::remove_dir_all(mounted.path("directory")).unwrap();
            mounted.sync_root();
        }
        fs::create_dir(mounted.path("directory")).unwrap();
        write_synced(&mounted.path("directory/file"), b"bytes");
        sync(&mounted.path("directory"));
    };
    let is_there = || {
        assert_eq!(mounted.has("directory"), mounted.has("directory/file"));
        mounted.has("directory")
    };
    assert!(is_sometimes(count(&mounted, story, is_there)));
}

#[test]
fn a_removed_directory_never_takes_along_what_was_moved_out_of_it() {
    let Some(mounted) = mount() else { return };
    fs::create_dir(mounted.path("safe")).unwrap();
    mounted.sync_root();
    for seed in 0..SEEDS {
        if mounted.has("safe/file") {
            fs::remove_file(mounted.path("safe/file")).unwrap();
            sync(&mounted.path("safe"));
        }
        fs::create_dir_all(mounted.path("old")).unwrap();
        write_synced(&mounted.path("old/file"), b"bytes");
        sync(&mounted.path("old"));
        mounted.sync_root();
        fs::rename(mounted.path("old/file"), mounted.path("safe/file")).unwrap();
        fs::remove_dir(mounted.path("old")).unwrap();
        if seed % 2 == 0 {
            mounted.sync_root();
        }
        mounted.power.lose_power(seed).unwrap();
        assert_ne!(mounted.has("old/file"), mounted.has("safe/file"), "seed {seed}");
        assert!(seed % 2 == 1 || mounted.has("safe/file"), "seed {seed}");
    }
}

#[test]
fn names_behave_as_on_any_file_system() {
    let Some(mounted) = mount() else { return };
    fs::create_dir(mounted.path("directory")).unwrap();
    fs::write(mounted.path("file"), b"bytes").unwrap();
    let kind = |result: std::io::Result<()>| result.unwrap_err().kind();
    use std::io::ErrorKind::{
        AlreadyExists, DirectoryNotEmpty, InvalidInput, IsADirectory, NotADirectory, NotFound,
    };
    assert_eq!(kind(fs::create_dir(mounted.path("file"))), AlreadyExists);
    assert_eq!(kind(fs::rename(mounted.path("file"), mounted.path("directory"))), IsADirectory);
    assert_eq!(kind(fs::rename(mounted.path("directory"), mounted.path("file"))), NotADirectory);
    assert_eq!(kind(fs::rename(mounted.path("none"), mounted.path("file"))), NotFound);
    assert_eq!(kind(fs::hard_link(mounted.path("file"), mounted.path("file"))), AlreadyExists);
    let inside = mounted.path("directory/inside");
    assert_eq!(kind(fs::rename(mounted.path("directory"), &inside)), InvalidInput);
    fs::rename(mounted.path("file"), &inside).unwrap();
    assert_eq!(kind(fs::remove_dir(mounted.path("directory"))), DirectoryNotEmpty);
    let names: Vec<_> = fs::read_dir(mounted.path("directory"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["inside"]);
    fs::remove_dir_all(mounted.path("directory")).unwrap();
    assert!(!mounted.has("directory"));
}
