//! Following the pull of one node, as its receiver tells it and as the proxies see it.

use std::time::{Duration, Instant};

use super::DemoError;
use super::proxy::{Direction, Proxy};
use super::screen::Progress;
use super::stage::Stage;
use crate::proto::v1;
use crate::types::TransferState;

/// Bytes flow if the proxies passed at least this much payload, or a sixteenth of the rate if that
/// is less, ...
const FLOW_BYTES_MIN: u64 = 32 * 1024;
/// ... over about this long.
const FLOW_WINDOW: Duration = Duration::from_millis(300);

/// The pulls of one receiver taken together; there is one, unless a newer snapshot took over.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Pulled {
    /// The newest pull.
    pub newest: v1::Transfer,
    /// How often it went on after a fault.
    pub resumes: u64,
    /// Bytes that arrived more than once.
    pub resent_bytes: u64,
    /// Bytes given up for another snapshot.
    pub discarded_bytes: u64,
    /// Payload bytes that arrived.
    pub received_bytes: u64,
}

impl Pulled {
    /// Adds up what `transfers` say of `receiver`; None if it pulls nothing.
    pub fn of(transfers: &[v1::Transfer], receiver: u64) -> Option<Self> {
        let own = || transfers.iter().filter(|transfer| transfer.receiver == receiver);
        let newest = own().max_by_key(|transfer| (transfer.started_unix_ms, transfer.index))?;
        let sum = |figure: fn(&v1::Transfer) -> u64| own().map(figure).sum();
        Some(Pulled {
            newest: newest.clone(),
            resumes: sum(|transfer| transfer.resumes),
            resent_bytes: sum(|transfer| transfer.resent_bytes),
            discarded_bytes: sum(|transfer| transfer.discarded_bytes),
            received_bytes: sum(|transfer| transfer.received_bytes),
        })
    }

    /// Share of the snapshot that is here, 0 to 1.
    pub fn fraction(&self) -> f64 {
        self.newest.done_bytes as f64 / self.newest.total_bytes.max(1) as f64
    }

    /// Whether bytes are asked for.
    pub fn is_pulling(&self) -> bool {
        self.newest.state == TransferState::Pulling.name()
    }

    /// Whether the node runs on the snapshot.
    pub fn is_installed(&self) -> bool {
        self.newest.state == TransferState::Installed.name()
    }

    /// Whether every byte is here, though the node may not run on it yet.
    pub fn has_all(&self) -> bool {
        let present = [
            TransferState::Verifying,
            TransferState::Durable,
            TransferState::Stepped,
            TransferState::Installed,
        ];
        present.iter().any(|state| state.name() == self.newest.state)
    }

    /// For the progress bar.
    pub fn progress(&self) -> Progress {
        let transfer = &self.newest;
        let mut note = transfer.state.clone();
        if self.resumes > 0 {
            note += &format!(", resumed {} times", self.resumes);
        }
        if !transfer.stall_reason.is_empty() {
            note += &format!(", stalled: {}", transfer.stall_reason);
        }
        Progress {
            done_bytes: transfer.done_bytes,
            total_bytes: transfer.total_bytes,
            bytes_per_second: transfer.bytes_per_second,
            note,
        }
    }
}

/// Payload that all proxies have passed toward receivers.
pub fn payload_toward_receivers(proxies: &[Proxy]) -> u64 {
    proxies.iter().map(|proxy| proxy.counters(Direction::ToClient).payload_bytes).sum()
}

/// Tells whether bytes flow, from what the proxies have passed lately.
pub struct FlowMeter {
    since: Instant,
    passed_bytes: u64,
    passed_bytes_min: u64,
    flows: bool,
}

impl FlowMeter {
    /// A meter that has seen nothing flow yet, for a pull limited to `rate` bytes a second.
    pub fn new(proxies: &[Proxy], rate: u64) -> Self {
        let passed_bytes = payload_toward_receivers(proxies);
        let passed_bytes_min = FLOW_BYTES_MIN.min(rate / 16).max(1);
        FlowMeter { since: Instant::now(), passed_bytes, passed_bytes_min, flows: false }
    }

    /// Whether bytes have flowed in the last full window.
    pub fn flows(&mut self, proxies: &[Proxy]) -> bool {
        if self.since.elapsed() >= FLOW_WINDOW {
            let passed_bytes = payload_toward_receivers(proxies);
            self.flows = passed_bytes - self.passed_bytes >= self.passed_bytes_min;
            self.since = Instant::now();
            self.passed_bytes = passed_bytes;
        }
        self.flows
    }
}

impl Stage {
    /// What the receiver says of its own pull; None while it is down, or has no offer yet.
    pub async fn look_at_pull(
        &mut self,
        number: usize,
        id: u64,
    ) -> Result<Option<Pulled>, DemoError> {
        self.check()?;
        let api = self.node(number).addresses().api.to_string();
        if self.node(number).pid().is_none() {
            return Ok(None);
        }
        // A node that has just been started does not answer yet.
        let transfers = self.cluster.transfers(&api).await.unwrap_or_default();
        let pulled = Pulled::of(&transfers, id);
        if let Some(pulled) = &pulled {
            self.screen.progress(&pulled.progress());
        }
        Ok(pulled)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn transfer(receiver: u64, started_unix_ms: u64, state: TransferState) -> v1::Transfer {
        v1::Transfer {
            receiver,
            started_unix_ms,
            state: state.name().to_owned(),
            total_bytes: 200,
            done_bytes: 50,
            resumes: 2,
            resent_bytes: 3,
            discarded_bytes: 5,
            received_bytes: 7,
            ..v1::Transfer::default()
        }
    }

    #[test]
    fn the_pulls_of_one_receiver_add_up_and_those_of_others_do_not_count() {
        let transfers = [
            transfer(4, 10, TransferState::Superseded),
            transfer(4, 20, TransferState::Pulling),
            transfer(5, 30, TransferState::Pulling),
        ];
        let pulled = Pulled::of(&transfers, 4).unwrap();
        assert_eq!(pulled.newest.started_unix_ms, 20);
        assert_eq!((pulled.resumes, pulled.resent_bytes), (4, 6));
        assert_eq!((pulled.discarded_bytes, pulled.received_bytes), (10, 14));
        assert!(pulled.is_pulling() && !pulled.has_all());
        assert_eq!(pulled.fraction(), 0.25);
        assert_eq!(Pulled::of(&transfers, 6), None);
    }

    #[test]
    fn all_is_here_from_verifying_to_installed() {
        for (state, all) in [
            (TransferState::Offered, false),
            (TransferState::Pulling, false),
            (TransferState::Verifying, true),
            (TransferState::Installed, true),
            (TransferState::Superseded, false),
            (TransferState::Failed(String::new()), false),
        ] {
            let pulled = Pulled::of(&[transfer(1, 1, state.clone())], 1).unwrap();
            assert_eq!(pulled.has_all(), all, "{state:?}");
        }
    }

    #[test]
    fn an_empty_snapshot_has_no_fraction_to_divide_by() {
        assert_eq!(Pulled::default().fraction(), 0.0);
    }
}
