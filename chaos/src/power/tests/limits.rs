//! A disk that is full, many names, large files, and a mount that goes away.

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::time::Instant;

use super::super::Refusal;
use super::{mount, pattern, sync};

#[test]
fn a_full_disk_refuses_and_room_lets_it_go_on() {
    let Some(mounted) = mount() else { return };
    fs::write(mounted.path("old"), vec![1; 100_000]).unwrap();
    mounted.power.set_free_bytes(Some(50_000));
    let free = || {
        let space = rustix::fs::statvfs(&mounted.at).unwrap();
        space.f_bavail * space.f_frsize
    };
    assert_eq!(free(), 50_000 / 4096 * 4096);
    let mut file = File::create(mounted.path("new")).unwrap();
    file.write_all(&[2; 40_000]).unwrap();
    assert_eq!(file.write_all(&[2; 40_000]).unwrap_err().kind(), ErrorKind::StorageFull);
    assert!(free() < 10_000);
    fs::remove_file(mounted.path("old")).unwrap();
    file.write_all(&[2; 40_000]).unwrap();
    mounted.power.set_free_bytes(None);
    file.write_all(&[2; 1_000_000]).unwrap();
    assert!(free() > 1_000_000);
}

#[test]
fn changes_are_refused_as_often_as_asked_and_do_not_happen() {
    let Some(mounted) = mount() else { return };
    mounted.write_durably("file", b"durable");
    let mut file = File::options().append(true).open(mounted.path("file")).unwrap();
    let refusals =
        [(Refusal::Full, rustix::io::Errno::NOSPC), (Refusal::Broken, rustix::io::Errno::IO)];
    for (refusal, expected) in refusals {
        let errors = |result: std::io::Result<()>| result.unwrap_err();
        mounted.power.refuse_next(4, refusal);
        for error in [
            errors(file.write_all(b"more")),
            errors(file.sync_all()),
            errors(fs::rename(mounted.path("file"), mounted.path("other"))),
            errors(fs::create_dir(mounted.path("directory"))),
        ] {
            assert_eq!(error.raw_os_error(), Some(expected.raw_os_error()));
        }
        assert_eq!(mounted.read("file"), b"durable");
        assert_eq!(fs::read_dir(&mounted.at).unwrap().count(), 1);
    }
    file.write_all(b" and more").unwrap();
    assert_eq!(mounted.read("file"), b"durable and more");
}

#[test]
fn a_directory_of_many_names_is_listed_whole() {
    let Some(mounted) = mount() else { return };
    for number in 0..2_000 {
        File::create(mounted.path(&format!("a name of some length {number:05}"))).unwrap();
    }
    assert_eq!(fs::read_dir(&mounted.at).unwrap().count(), 2_000);
    mounted.sync_root();
    mounted.power.lose_power(0).unwrap();
    assert_eq!(fs::read_dir(&mounted.at).unwrap().count(), 2_000);
}

#[test]
fn a_large_file_goes_through_quickly_and_unchanged() {
    let Some(mounted) = mount() else { return };
    const BYTES: usize = 128 << 20;
    let chunk = pattern(8, 4 << 20);
    let start = Instant::now();
    let mut file = File::create(mounted.path("large")).unwrap();
    for _ in 0..BYTES / chunk.len() {
        file.write_all(&chunk).unwrap();
    }
    drop(file);
    let seconds = start.elapsed().as_secs_f64();
    println!("{:.0} MB/s written", BYTES as f64 / 1e6 / seconds);
    sync(&mounted.path("large"));
    mounted.sync_root();
    mounted.power.lose_power(0).unwrap();
    let start = Instant::now();
    let read = mounted.read("large");
    println!("{:.0} MB/s read", BYTES as f64 / 1e6 / start.elapsed().as_secs_f64());
    assert_eq!(read.len(), BYTES);
    assert!(read.chunks(chunk.len()).all(|part| part == chunk));
}

#[test]
fn an_unmount_takes_place_though_a_file_is_open() {
    let Some(mounted) = mount() else { return };
    let mut file = File::create(mounted.path("file")).unwrap();
    let at = mounted.at.clone();
    drop(mounted.power);
    assert_eq!(fs::read_dir(at).unwrap().count(), 0);
    // Writing goes on until the file is closed: what is detached is served as long as it is used.
    file.write_all(b"bytes").unwrap();
}
