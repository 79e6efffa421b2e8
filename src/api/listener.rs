//! The API's TCP listener, which holds no more connections than it may, overall and by IP address.
//!
//! A connection over the bound is closed at once: a queue would make honest callers wait behind a
//! flood. A silent one is closed after a while, so that none is held by who never speaks. Knows nothing of TLS or gRPC.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use slog::{Logger, debug, warn};
use tokio::net::TcpListener;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::limits;
use crate::net::IdleStream;

/// After a failed accept (no file descriptors, say) the listener rests this long.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// Silence after which a connection is closed. A living one answers pings more often.
const IDLE: Duration = Duration::from_millis(limits::API_IDLE_MS_MAX);

/// Open connections, counted by address.
#[derive(Default)]
struct Counts {
    all: usize,
    by_address: BTreeMap<IpAddr, usize>,
}

/// One connection's place among those that may be open; given back when dropped.
pub(super) struct Place {
    counts: Arc<Mutex<Counts>>,
    address: IpAddr,
}

impl Place {
    fn take(counts: &Arc<Mutex<Counts>>, address: IpAddr) -> Option<Place> {
        let mut counted = counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.all >= limits::API_CONNECTIONS_MAX {
            return None;
        }
        let here = counted.by_address.get(&address).copied().unwrap_or(0);
        if here >= limits::API_CONNECTIONS_PER_ADDRESS_MAX {
            return None;
        }
        counted.all += 1;
        counted.by_address.insert(address, here + 1);
        Some(Place { counts: Arc::clone(counts), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counted = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counted.all -= 1;
        match counted.by_address.get(&self.address).copied() {
            Some(here) if here > 1 => counted.by_address.insert(self.address, here - 1),
            _ => counted.by_address.remove(&self.address),
        };
    }
}

/// A stream of admitted connections that never ends.
pub(super) fn admitted(
    listener: TcpListener,
    logger: Logger,
) -> impl futures::Stream<Item = Result<Admitted, io::Error>> {
    let counts = Arc::new(Mutex::new(Counts::default()));
    futures::stream::unfold((listener, counts, logger), |(listener, counts, logger)| async move {
        let connection = accept(&listener, &counts, &logger).await;
        Some((Ok(connection), (listener, counts, logger)))
    })
}

async fn accept(listener: &TcpListener, counts: &Arc<Mutex<Counts>>, logger: &Logger) -> Admitted {
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(logger, "the API cannot accept a connection"; "error" => error.to_string());
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        let Some(place) = Place::take(counts, from.ip()) else {
            debug!(logger, "connection refused: too many are open"; "from" => from.to_string());
            continue;
        };
        if let Err(error) = stream.set_nodelay(true) {
            // It only costs latency; a connection that is already dead will say so when read.
            debug!(logger, "no TCP_NODELAY"; "error" => error.to_string());
        }
        return IdleStream::new(stream, IDLE, place);
    }
}

/// A TCP connection that counts among those open.
pub(super) type Admitted = IdleStream<Place>;

impl Connected for Admitted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        let tcp = self.tcp();
        TcpConnectInfo { local_addr: tcp.local_addr().ok(), remote_addr: tcp.peer_addr().ok() }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_every_place_and_places_come_back() {
        let counts = Arc::new(Mutex::new(Counts::default()));
        let greedy: IpAddr = "10.0.0.1".parse().unwrap();
        let other: IpAddr = "10.0.0.2".parse().unwrap();
        let mut held: Vec<Place> = (0..limits::API_CONNECTIONS_PER_ADDRESS_MAX)
            .map(|_| Place::take(&counts, greedy).unwrap())
            .collect();
        assert!(Place::take(&counts, greedy).is_none());
        let elsewhere = Place::take(&counts, other).unwrap();
        held.pop();
        assert!(Place::take(&counts, greedy).is_some());
        drop((held, elsewhere));
        let counted = counts.lock().unwrap();
        assert_eq!((counted.all, counted.by_address.len()), (0, 0));
    }

    #[test]
    fn many_addresses_together_keep_to_the_bound() {
        let counts = Arc::new(Mutex::new(Counts::default()));
        let held: Vec<Place> = (0..=limits::API_CONNECTIONS_MAX as u32)
            .filter_map(|i| Place::take(&counts, IpAddr::from(i.to_be_bytes())))
            .collect();
        assert_eq!(held.len(), limits::API_CONNECTIONS_MAX);
    }
}
