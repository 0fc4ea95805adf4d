//! Replaces the token for the daemon, and the daemon's address: the hop goes on with the former ones until the daemon accepts
//! the new ones, so that neither has to reload first. Reads no file.

use std::sync::Arc;
use std::time::Duration;

use crate::events;
use crate::shared::{Hop, Listener, Target};

impl Listener {
    /// Offers a target that replaces the present one once the daemon accepts it. Whether there is anything to replace.
    pub fn offer(&self, target: Target) -> bool {
        let next = (*self.target.borrow() != target).then_some(target);
        let is_new = next.is_some();
        self.next.send_replace(next);
        is_new
    }
}

/// Tries the targets that listeners are offered until the daemon accepts them or the task is dropped.
pub async fn follow(hop: Arc<Hop>) {
    let mut pause = PAUSE_MAX;
    loop {
        let is_new = tokio::select! {
            () = hop.offered.notified() => true,
            () = tokio::time::sleep(pause) => false,
        };
        pause = if is_new {
            PAUSE_MIN
        } else {
            PAUSE_MAX.min(pause * 2)
        };
        for listener in &hop.listeners {
            try_next(listener, is_new).await;
        }
    }
}

async fn try_next(listener: &Listener, is_new: bool) {
    let next = listener.next.borrow().clone();
    let Some(next) = next else { return };
    if !events::is_accepted(&next).await {
        if is_new {
            tracing::warn!(core = %next.address, "the daemon does not accept the new token of tls.token_file yet; the former one stays in use until the daemon has reloaded");
        }
        return;
    }
    // A reload may have offered another one meanwhile.
    let is_current = listener.next.send_if_modified(|offered| {
        let is_current = offered.as_ref() == Some(&next);
        if is_current {
            *offered = None;
        }
        is_current
    });
    if is_current {
        tracing::info!(core = %next.address, "the daemon accepts the new token");
        listener.target.send_replace(next);
    }
}

const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The daemon accepts a former token for a minute, so several attempts fall into it.
const PAUSE_MAX: Duration = Duration::from_secs(8);
