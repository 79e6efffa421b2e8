//! The disturbed join: the fourth node pulls its snapshot while faults strike by the plan.

use std::time::{Duration, Instant};

use super::DemoError;
use super::processes::LOOK_EVERY;
use super::proxy::Proxy;
use super::pull::{FlowMeter, Pulled, payload_toward_receivers};
use super::report::FaultReport;
use super::schedule::{Fault, FaultKind};
use super::stage::{NODE_ANSWERS_SECONDS, Stage};
use crate::limits::BULK_IDLE_TIMEOUT_MS;

/// A cut lasts this much longer than the idle timeout, so that the connection surely dies.
const CUT_MARGIN_MS: u64 = 1_500;
/// The receiver comes back after this long ...
const RECEIVER_DOWN: Duration = Duration::from_secs(1);
/// ... and the sending leader after this long.
const LEADER_DOWN: Duration = Duration::from_secs(5);
/// How long a pull may take to offer its first bytes, and to go on after a fault.
const FLOW_SECONDS: u64 = 120;
/// Once all bytes are there: how long verifying, installing and catching up may take.
const INSTALL_SECONDS: u64 = 300;

/// What the disturbed join showed.
#[derive(Debug)]
pub struct Disturbed {
    /// The pull at its end.
    pub pulled: Pulled,
    /// Every fault that struck.
    pub faults: Vec<FaultReport>,
    /// Payload that the proxies passed toward the receiver meanwhile.
    pub proxy_payload_bytes: u64,
    /// From the node's start until it was ready.
    pub join_seconds: f64,
}

/// A pull under faults.
struct Disturbance<'a> {
    stage: &'a mut Stage,
    /// The receiver's number ...
    number: usize,
    /// ... and its id in the cluster.
    id: u64,
    rate: u64,
    meter: FlowMeter,
}

/// Joins one more node through the proxies at `rate` bytes a second, and lets `plan` strike.
pub async fn join_disturbed(
    stage: &mut Stage,
    rate: u64,
    plan: &[Fault],
) -> Result<Disturbed, DemoError> {
    let payload_before = payload_toward_receivers(&stage.proxies);
    let (number, started) = stage.join_directly().await?;
    let id = stage.id_of(number).await?;
    let meter = FlowMeter::new(&stage.proxies, rate);
    let mut disturbance = Disturbance { stage, number, id, rate, meter };
    let mut faults = Vec::new();
    for fault in plan {
        let Some(before) = disturbance.wait_for_moment(fault).await? else {
            let screen = &disturbance.stage.screen;
            screen.line(format!("  the pull was over before {} struck", fault.kind.name()));
            break;
        };
        faults.push(disturbance.strike(fault.kind, &before).await?);
    }
    let pulled = disturbance.wait_until_installed().await?;
    stage.screen.progress_ends();
    let node = stage.node(number);
    node.wait_until_ready(INSTALL_SECONDS).await?;
    Ok(Disturbed {
        pulled,
        faults,
        proxy_payload_bytes: payload_toward_receivers(&stage.proxies) - payload_before,
        join_seconds: started.elapsed().as_secs_f64(),
    })
}

impl Disturbance<'_> {
    /// Waits until the fault may strike: its share of the bytes is there, more flow, and, if the
    /// sending leader is to fall, the sender leads. None: the pull is over already.
    async fn wait_for_moment(&mut self, fault: &Fault) -> Result<Option<Pulled>, DemoError> {
        let pulled = self.wait_for_fraction(fault.at_fraction).await?;
        match pulled {
            Some(pulled) if fault.kind == FaultKind::KillLeader => {
                self.stage.make_leader(pulled.newest.source).await?;
                // That may have taken a while, and the leader must fall while bytes flow.
                self.wait_for_fraction(fault.at_fraction).await
            }
            pulled => Ok(pulled),
        }
    }

    /// Waits until `fraction` of the snapshot is there and bytes flow. None: it is over already.
    async fn wait_for_fraction(&mut self, fraction: f64) -> Result<Option<Pulled>, DemoError> {
        let mut last_bytes = 0;
        let mut moved = Instant::now();
        loop {
            let pulled = self.stage.look_at_pull(self.number, self.id).await?;
            let flows = self.meter.flows(&self.stage.proxies);
            if let Some(pulled) = pulled {
                if pulled.has_all() {
                    return Ok(None);
                }
                if pulled.is_pulling() && flows && pulled.fraction() >= fraction {
                    return Ok(Some(pulled));
                }
                if pulled.received_bytes != last_bytes {
                    last_bytes = pulled.received_bytes;
                    moved = Instant::now();
                }
            }
            // No limit on the whole: only on standing still.
            if moved.elapsed().as_secs() >= FLOW_SECONDS {
                let target = format!("{:.0} % of it", 100.0 * fraction.min(1.0));
                return Err(self.standing_still(&target).await);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Strikes, repairs, and waits until bytes flow again.
    async fn strike(&mut self, kind: FaultKind, before: &Pulled) -> Result<FaultReport, DemoError> {
        let at_fraction = before.fraction();
        let writes_before = self.stage.workload.writes_acknowledged();
        let struck = Instant::now();
        match kind {
            FaultKind::Cut => self.cut(at_fraction).await?,
            FaultKind::KillReceiver => self.kill_receiver(at_fraction).await?,
            FaultKind::KillLeader => self.kill_leader(at_fraction, before.newest.source).await?,
        }
        let after = self.wait_for_resume(kind, before).await?;
        let seconds = struck.elapsed().as_secs_f64();
        let writes_after = self.stage.workload.writes_acknowledged();
        let report = FaultReport {
            kind: kind.name(),
            at_fraction,
            seconds,
            resumes: after.resumes - before.resumes,
            writes_acknowledged: writes_after - writes_before,
        };
        self.stage.screen.line(format!(
            "  resumed at {:.1} % after {seconds:.1} s; {} bytes sent again so far; {} writes \
             meanwhile",
            100.0 * after.fraction(),
            after.resent_bytes,
            report.writes_acknowledged,
        ));
        Ok(report)
    }

    async fn cut(&mut self, at_fraction: f64) -> Result<(), DemoError> {
        let lasts = Duration::from_millis(BULK_IDLE_TIMEOUT_MS + CUT_MARGIN_MS);
        self.stage.screen.line(format!(
            "CUT at {:.1} %: both directions blackholed for {:.1} s",
            100.0 * at_fraction,
            lasts.as_secs_f64()
        ));
        self.stage.proxies.iter().for_each(Proxy::cut);
        let until = Instant::now() + lasts;
        while Instant::now() < until {
            self.stage.look_at_pull(self.number, self.id).await?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        self.stage.proxies.iter().for_each(Proxy::heal);
        Ok(())
    }

    async fn kill_receiver(&mut self, at_fraction: f64) -> Result<(), DemoError> {
        let (number, rate) = (self.number, self.rate);
        let percent = 100.0 * at_fraction;
        self.stage
            .screen
            .line(format!("KILL -9 of the receiver, node {number}, at {percent:.1} %"));
        self.stage.node(number).kill().await?;
        tokio::time::sleep(RECEIVER_DOWN).await;
        self.stage.node(number).limits_bulk_to(Some(rate));
        self.stage.node(number).start()
    }

    async fn kill_leader(&mut self, at_fraction: f64, source: u64) -> Result<(), DemoError> {
        let number = self
            .stage
            .wait_for("a status that knows the sender", NODE_ANSWERS_SECONDS, async |stage| {
                let Ok(status) = stage.cluster.status().await else { return Ok(None) };
                Ok(stage.number_of(&status, source))
            })
            .await?;
        self.stage.screen.line(format!(
            "KILL -9 of the sending leader, node {number}, at {:.1} %; back in {} s",
            100.0 * at_fraction,
            LEADER_DOWN.as_secs()
        ));
        self.stage.node(number).kill().await?;
        let until = Instant::now() + LEADER_DOWN;
        while Instant::now() < until {
            self.stage.look_at_pull(self.number, self.id).await?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let rate = self.rate;
        self.stage.node(number).limits_bulk_to(Some(rate));
        self.stage.node(number).start()
    }

    /// Waits until the receiver has counted a resume and bytes flow, or the pull is over.
    async fn wait_for_resume(
        &mut self,
        kind: FaultKind,
        before: &Pulled,
    ) -> Result<Pulled, DemoError> {
        let healed = Instant::now();
        loop {
            let pulled = self.stage.look_at_pull(self.number, self.id).await?;
            let flows = self.meter.flows(&self.stage.proxies);
            if let Some(pulled) = pulled {
                let resumed = pulled.resumes > before.resumes
                    && pulled.received_bytes > before.received_bytes;
                if (resumed && flows && pulled.is_pulling()) || pulled.has_all() {
                    return Ok(pulled);
                }
            }
            if healed.elapsed().as_secs() >= FLOW_SECONDS {
                return Err(self
                    .standing_still(&format!("its resume after {}", kind.name()))
                    .await);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn wait_until_installed(&mut self) -> Result<Pulled, DemoError> {
        // All bytes may still be far away, after the last fault.
        self.wait_for_fraction(f64::INFINITY).await?;
        let (number, id) = (self.number, self.id);
        self.stage
            .wait_for("that the snapshot is installed", INSTALL_SECONDS, async |stage| {
                Ok(stage.look_at_pull(number, id).await?.filter(Pulled::is_installed))
            })
            .await
    }

    async fn standing_still(&mut self, what: &str) -> DemoError {
        DemoError::TooLate {
            what: format!("the pull of node {}: {what}", self.number),
            seconds: FLOW_SECONDS,
            state: self.stage.describe().await,
        }
    }
}
