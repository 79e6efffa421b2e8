//! Free ports on loopback for processes that are started, killed and started again on the same
//! ones.
//!
//! They lie below the range from which the system hands out ports by itself, so that nothing takes
//! one while its node is down.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use rand::RngExt;

use super::DemoError;

/// Ports are drawn from here up ...
const FIRST: u16 = 11_000;
/// ... to here; Linux hands out 32768 and above.
const LAST: u16 = 32_000;
/// Draws before giving up.
const DRAWS_MAX: usize = 10_000;

/// Draws ports and never the same twice.
#[derive(Default)]
pub struct Ports {
    taken: BTreeSet<u16>,
}

impl Ports {
    /// An address on loopback whose port is free for UDP and TCP now. The draw is random on
    /// purpose: several demos on one machine must not meet.
    pub fn draw(&mut self) -> Result<SocketAddr, DemoError> {
        for _ in 0..DRAWS_MAX {
            let port = rand::rng().random_range(FIRST..LAST);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            let free = || UdpSocket::bind(address).is_ok() && TcpListener::bind(address).is_ok();
            if !self.taken.contains(&port) && free() {
                self.taken.insert(port);
                return Ok(address);
            }
        }
        let error = std::io::Error::from(std::io::ErrorKind::AddrInUse);
        Err(DemoError::System { attempted: "find a free port on loopback".to_owned(), error })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ports_are_distinct_and_free() {
        let mut ports = Ports::default();
        let drawn: Vec<SocketAddr> = (0..50).map(|_| ports.draw().unwrap()).collect();
        let distinct: BTreeSet<_> = drawn.iter().collect();
        assert_eq!(distinct.len(), drawn.len());
        assert!(drawn.iter().all(|address| (FIRST..LAST).contains(&address.port())));
    }
}
