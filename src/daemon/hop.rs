//! The hop that this daemon has started: passes reloads and the stop on to its supervisor, and logs what that reports.
//! Knows nothing of TLS.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::supervisor::{Report, Reports, Supervisor};

/// A supervisor and what it has reported.
#[derive(Debug)]
pub(super) struct Hop {
    supervisor: Supervisor,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    /// The hop accepts no more clients, and the daemon has its events.
    drains: CancellationToken,
    /// The supervisor has ended, and the hop with it.
    gone: CancellationToken,
    /// Its end was ordered.
    is_stopping: CancellationToken,
}

impl Hop {
    /// Lets the hop start and follows its reports.
    pub(super) fn start(mut supervisor: Supervisor, service: &Runtime) -> io::Result<Self> {
        let _within = service.enter();
        let reports = supervisor.reports()?;
        let seen = Arc::<Seen>::default();
        service.spawn(follow(reports, Arc::clone(&seen)));
        supervisor.start_hop();
        Ok(Self { supervisor, seen })
    }

    /// Resolves when the supervisor has ended without an order, so that nothing serves the TLS listeners any more.
    pub(super) fn lost(&self) -> impl Future<Output = ()> + use<> {
        let seen = Arc::clone(&self.seen);
        async move { seen.gone.cancelled().await }
    }

    pub(super) fn reload(&mut self) {
        self.supervisor.reload();
    }

    /// Lets the hop drain. Returns when it accepts no more clients and has sent its events, which the daemon must still
    /// accept, or after a short time.
    pub(super) async fn drain(&mut self) {
        self.seen.is_stopping.cancel();
        self.supervisor.stop();
        let quiet = async {
            tokio::select! {
                () = self.seen.drains.cancelled() => {}
                () = self.seen.gone.cancelled() => {}
            }
        };
        if timeout(LAST_EVENTS, quiet).await.is_err() {
            warn!(
                "sealway-hop does not confirm the stop in time; its last events may be missing from the audit"
            );
        }
    }

    /// Waits for the end of the hop and of its supervisor, and kills what is left.
    pub(super) fn finish(mut self, is_hurried: bool) {
        self.seen.is_stopping.cancel();
        let patience = match is_hurried {
            true => {
                self.supervisor.stop_at_once();
                super::AT_ONCE
            }
            false => LAST,
        };
        if !self.supervisor.wait(patience) && !is_hurried {
            warn!("sealway-hop did not stop in time and was killed");
        }
    }
}

async fn follow(mut reports: Reports, seen: Arc<Seen>) {
    while let Some(report) = reports.next().await {
        match report {
            Report::Started { pid } => info!(pid, "sealway-hop started"),
            Report::Ended {
                reason,
                retry: Some(retry),
            } => {
                let retry_ms = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX);
                error!(
                    %reason,
                    retry_ms,
                    "sealway-hop ended: its tunnels are reset, and no TLS client can connect until it starts again"
                );
            }
            Report::Ended { reason, .. } => info!(%reason, "sealway-hop stopped"),
            Report::Drains => seen.drains.cancel(),
        }
    }
    if !seen.is_stopping.is_cancelled() {
        error!("the supervisor of sealway-hop was ended, and the hop with it; the daemon stops");
    }
    seen.gone.cancel();
}

/// For the hop to close its listeners and send its events.
const LAST_EVENTS: Duration = Duration::from_secs(2);
/// For the hop to end after its last session.
const LAST: Duration = Duration::from_millis(2_500);
