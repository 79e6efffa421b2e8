//! All integration tests, in one binary: each link of RocksDB is large.

mod bad_input;
mod cluster;
mod corruption;
mod faults;
mod full_disk;
mod replication;
mod resume;
mod tidy;
