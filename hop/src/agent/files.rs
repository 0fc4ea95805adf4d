//! Reads certificates, keys and authorities again when one of their files has changed. Files that cannot be used leave the
//! old ones in force.

use std::time::Duration;

use sealway::config::allow_files::Pattern;
use sealway::daemon::Seen;
use tokio::sync::watch;

use super::bundle::Bundle;
use super::settings::Settings;

/// Follows the files until the task is dropped.
pub async fn follow(settings: Settings, bundle: watch::Sender<Bundle>) {
    let files: Vec<_> = settings
        .files()
        .iter()
        .map(|file| Pattern::of_file(file))
        .collect();
    if files.is_empty() {
        return;
    }
    let (mut read, mut last) = (Seen::now(&files), None);
    loop {
        tokio::time::sleep(EVERY).await;
        let now = Seen::now(&files);
        // A file that is being written differs at the next look again.
        let has_settled = now != read && last.as_ref() == Some(&now);
        last = Some(now.clone());
        if !has_settled {
            continue;
        }
        read = now;
        match Bundle::load(&settings.options) {
            Ok(new) => {
                bundle.send_replace(new);
                tracing::info!("certificates, key and authorities read again");
            }
            Err(error) => {
                tracing::error!(%error, "the new files are refused; the old ones stay in force");
            }
        }
    }
}

/// A change is in force within two to three seconds.
const EVERY: Duration = Duration::from_secs(1);
