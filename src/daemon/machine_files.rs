//! Follows `/etc/resolv.conf` and `/etc/hosts`: checks both every second, off the DNS thread, and
//! reports the changes. Decides nothing; the resolver does.

use std::sync::Arc;
use std::time::Duration;

use tracing::{info, warn};

use crate::metrics::Metrics;
use crate::resolve::{Notice, NoticeKind};
use crate::shared::Shared;

/// Runs on the blocking thread of the DNS runtime until the runtime stops.
pub(super) async fn follow(shared: Arc<Shared>) {
    loop {
        let resolver = Arc::clone(&shared.snapshot.load().resolver);
        let looked = tokio::task::spawn_blocking(move || resolver.look_at_files()).await;
        // This fails only when the runtime stops.
        let Ok(looked) = looked else { return };
        for notice in &looked.notices {
            report(notice, &shared.evidence.metrics);
        }
        tokio::time::sleep(if looked.is_settling { SETTLING } else { LOOK }).await;
    }
}

fn report(notice: &Notice, metrics: &Metrics) {
    let (file, line, text) = (notice.file.path(), notice.line, notice.text.as_str());
    match notice.kind {
        NoticeKind::Changed => {
            metrics.dns_file_read(notice.file.label(), true);
            info!(file, line, "the file {text}");
        }
        NoticeKind::Kept | NoticeKind::Missing => {
            metrics.dns_file_read(notice.file.label(), false);
            warn!(file, line, "the file {text}");
        }
        NoticeKind::Skipped => warn!(file, line, "{text}"),
    }
}

/// The interval between two checks: two calls of stat(2).
const LOOK: Duration = Duration::from_secs(1);
/// A file that has not changed for this long counts as complete.
const SETTLING: Duration = Duration::from_millis(250);
