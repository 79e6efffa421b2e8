//! What happens to bytes.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;

use super::{SEEDS, mount, pattern, sync, write_at};

const BLOCK: usize = 4096;

#[test]
fn what_was_synced_survives_every_loss() {
    let Some(mounted) = mount() else { return };
    let bytes = pattern(1, 10 * BLOCK + 17);
    mounted.write_durably("file", &bytes);
    for seed in 0..SEEDS {
        let losses = mounted.power.lose_power(seed).unwrap();
        assert_eq!(losses, super::super::Losses::default(), "seed {seed}");
        assert_eq!(mounted.read("file"), bytes, "seed {seed}");
    }
}

#[test]
fn appended_bytes_that_were_not_synced_are_lost_kept_or_torn() {
    let Some(mounted) = mount() else { return };
    let (head, tail) = (pattern(2, 3 * BLOCK + 100), pattern(3, 6 * BLOCK));
    let whole = [&head[..], &tail].concat();
    let (mut gone, mut kept, mut torn) = (0, 0, 0);
    for seed in 0..2 * SEEDS {
        mounted.write_durably("file", &head);
        let mut file = OpenOptions::new().append(true).open(mounted.path("file")).unwrap();
        file.write_all(&tail).unwrap();
        drop(file);
        assert_eq!(mounted.read("file"), whole);
        let losses = mounted.power.lose_power(seed).unwrap();
        let left = mounted.read("file");
        assert!((head.len()..=whole.len()).contains(&left.len()), "seed {seed}");
        assert_eq!(left[..head.len()], head, "seed {seed}");
        for (block, whole) in left[head.len()..].chunks(1).zip(whole[head.len()..].chunks(1)) {
            assert!(block == whole || block == [0], "seed {seed}");
        }
        match left {
            left if left == head => gone += 1,
            left if left == whole => kept += 1,
            _ => torn += 1,
        }
        assert_eq!(losses.blocks_lost > 0, mounted.read("file") != whole, "seed {seed}");
    }
    assert!(gone > 0 && kept > 0 && torn > 0, "{gone} {kept} {torn}");
}

#[test]
fn bytes_written_in_place_revert_block_by_block() {
    let Some(mounted) = mount() else { return };
    let (old, new) = (pattern(4, 8 * BLOCK), pattern(5, 8 * BLOCK));
    let mut mixed = 0;
    for seed in 0..2 * SEEDS {
        mounted.write_durably("file", &old);
        write_at(&mounted.path("file"), 0, &new);
        // A second write of the same blocks must not be taken for what was durable.
        write_at(&mounted.path("file"), 0, &new);
        let losses = mounted.power.lose_power(seed).unwrap();
        let left = mounted.read("file");
        assert_eq!(left.len(), old.len());
        let mut reverted = 0;
        for number in 0..8 {
            let range = number * BLOCK..(number + 1) * BLOCK;
            let is_old = left[range.clone()] == old[range.clone()];
            assert!(is_old || left[range.clone()] == new[range], "seed {seed}, block {number}");
            reverted += u64::from(is_old);
        }
        assert_eq!(losses.blocks_lost, reverted, "seed {seed}");
        mixed += u64::from(reverted > 0 && reverted < 8);
    }
    assert!(mixed > 0);
}

#[test]
fn a_cut_that_was_not_synced_may_be_undone_and_a_synced_one_stays() {
    let Some(mounted) = mount() else { return };
    let bytes = pattern(6, 6 * BLOCK);
    let (mut undone, mut done) = (0, 0);
    for seed in 0..2 * SEEDS {
        mounted.write_durably("file", &bytes);
        let file = File::options().write(true).open(mounted.path("file")).unwrap();
        file.set_len(BLOCK as u64 + 5).unwrap();
        drop(file);
        mounted.power.lose_power(seed).unwrap();
        let left = mounted.read("file");
        assert!((BLOCK + 5..=bytes.len()).contains(&left.len()), "seed {seed}");
        assert_eq!(left[..BLOCK + 5], bytes[..BLOCK + 5], "seed {seed}");
        undone += u64::from(left == bytes);
        done += u64::from(left.len() == BLOCK + 5);
    }
    assert!(undone > 0 && done > 0, "{undone} {done}");

    let file = File::options().write(true).open(mounted.path("file")).unwrap();
    file.set_len(10).unwrap();
    file.sync_data().unwrap();
    drop(file);
    for seed in 0..SEEDS {
        mounted.power.lose_power(seed).unwrap();
        assert_eq!(mounted.read("file"), bytes[..10]);
    }
}

#[test]
fn a_file_opened_for_synchronous_writing_needs_no_sync() {
    let Some(mounted) = mount() else { return };
    mounted.write_durably("file", b"");
    let bytes = pattern(7, 2 * BLOCK);
    for flag in [rustix::fs::OFlags::DSYNC, rustix::fs::OFlags::SYNC] {
        let before = mounted.power.sync_counts();
        let flags = flag.bits() as i32;
        let path = mounted.path("file");
        let mut file = OpenOptions::new().append(true).custom_flags(flags).open(path).unwrap();
        file.write_all(&bytes).unwrap();
        drop(file);
        assert!(mounted.power.sync_counts().files > before.files);
    }
    for seed in 0..SEEDS {
        mounted.power.lose_power(seed).unwrap();
        assert_eq!(mounted.read("file"), [&bytes[..], &bytes].concat());
    }
}

#[test]
fn syncs_are_counted() {
    let Some(mounted) = mount() else { return };
    let before = mounted.power.sync_counts();
    fs::write(mounted.path("file"), b"bytes").unwrap();
    assert_eq!(mounted.power.sync_counts(), before);
    sync(&mounted.path("file"));
    mounted.sync_root();
    let after = mounted.power.sync_counts();
    assert_eq!((after.files, after.directories), (before.files + 1, before.directories + 1));
}

#[test]
fn a_handle_from_before_the_loss_is_dead() {
    let Some(mounted) = mount() else { return };
    mounted.write_durably("file", b"before");
    let mut file = File::options().append(true).open(mounted.path("file")).unwrap();
    mounted.power.lose_power(0).unwrap();
    assert!(file.write_all(b"after").is_err());
    assert_eq!(mounted.read("file"), b"before");
}
