//! The logger of a running node: to stderr, as text or JSON, off the threads that log.

use std::io;

use slog::{Drain, Logger, o};
use slog_async::{Async, AsyncGuard, OverflowStrategy};

use crate::config::{Log, LogFormat};
use crate::limits::LOG_LINES_WAITING_MAX;

/// A logger, and the guard that writes what still waits when it is dropped.
pub fn logger(log: &Log) -> (Logger, AsyncGuard) {
    match log.format {
        LogFormat::Text => {
            let decorator = slog_term::TermDecorator::new().stderr().build();
            let drain = slog_term::FullFormat::new(decorator)
                .use_utc_timestamp()
                .use_original_order()
                .build();
            asynchronous(drain.ignore_res(), log.level)
        }
        LogFormat::Json => {
            let drain = slog_json::Json::default(io::stderr());
            asynchronous(std::sync::Mutex::new(drain).ignore_res(), log.level)
        }
    }
}

/// A slow terminal must never hold up raft: lines beyond the queue are dropped, and counted.
fn asynchronous<D>(drain: D, level: slog::Level) -> (Logger, AsyncGuard)
where
    D: Drain<Err = slog::Never, Ok = ()> + Send + 'static,
{
    let (drain, guard) = Async::new(drain)
        .chan_size(LOG_LINES_WAITING_MAX)
        .overflow_strategy(OverflowStrategy::DropAndReport)
        .build_with_guard();
    let drain = drain.ignore_res().filter_level(level).ignore_res();
    (Logger::root(drain, o!()), guard)
}
