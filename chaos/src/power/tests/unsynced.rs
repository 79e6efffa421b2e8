//! The counterpart: a database whose writes are not synced keeps them through a kill and loses them with
//! the power. Without it the other stories might pass on a disk that loses nothing.

use std::path::Path;

use rocksdb::{DB, WriteOptions};

use super::{child, mount};

#[test]
fn writes_that_were_not_synced_survive_a_kill_and_not_a_power_loss() {
    let Some(mounted) = mount() else { return };
    let mut lost = 0;
    for seed in 0..8 {
        let directory = mounted.path(&format!("database-{seed}"));
        drop(DB::open_default(&directory).unwrap());
        mounted.sync_root();
        let story = "power::tests::unsynced::writes_without_sync_until_it_is_killed";
        let written = child::kill_after(story, &directory, 200)["written"];
        assert!(count(&directory) >= written, "a kill alone lost something");

        let written = child::kill_after(story, &directory, 200)["written"];
        mounted.power.lose_power(seed).unwrap();
        lost += u64::from(count(&directory) < written);
    }
    println!("writes were lost with {lost} seeds of 8");
    assert!(lost > 0);
}

/// Not a test: the process that is killed.
#[test]
#[ignore = "writes for ever; the story above starts it"]
fn writes_without_sync_until_it_is_killed() {
    let Some(directory) = child::directory() else { return };
    let database = DB::open_default(&directory).unwrap();
    let mut options = WriteOptions::default();
    options.set_sync(false);
    for index in count_in(&database).. {
        database.put_opt(index.to_be_bytes(), [7u8; 500], &options).unwrap();
        println!("written {}", index + 1);
    }
}

fn count(directory: &Path) -> u64 {
    count_in(&DB::open_default(directory).unwrap())
}

fn count_in(database: &DB) -> u64 {
    (0u64..).find(|index| database.get(index.to_be_bytes()).unwrap().is_none()).unwrap()
}
