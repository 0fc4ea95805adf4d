//! Reloads certificates, keys, authorities and revocation lists: at SIGHUP together with the configuration, and when one of
//! the files has changed. Either all listeners use the new files or none does.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use sealway::config::Config;
use sealway::config::allow_files::Pattern;
use sealway::config::tls::TlsListener;
use sealway::config::{Overrides, file::Problem};
use sealway::daemon::Seen;
use sealway::wire::terminator::EventKind;
use tokio::sync::Notify;

use crate::events::Event;
use crate::material::Material;
use crate::shared::{Hop, Listener, unix_now};
use crate::target;

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The file; None: the defaults, which have no TLS listener.
    pub path: Option<PathBuf>,
    /// What flags and the role of the program change.
    pub overrides: Overrides,
}

/// What to read again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    /// The files that the configuration in force names.
    Files,
    /// The configuration too.
    All,
}

impl Origin {
    /// Reads the configuration.
    ///
    /// # Errors
    /// One line for each problem.
    pub fn load(&self) -> Result<Config, Vec<String>> {
        Config::load(self.path.as_deref(), &self.overrides)
            .map_err(|problems| problems.iter().map(Problem::to_string).collect())
    }
}

/// A reload that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failed {
    what: What,
    reason: String,
}

/// Follows the files, and reads everything again at each `ask`, until the task is dropped. Repeats a failed reload until
/// one succeeds.
pub async fn follow(hop: Arc<Hop>, origin: Origin, ask: Arc<Notify>) {
    let files = watched(&hop, &origin);
    let mut read = Seen::now(&files);
    let (mut last, mut failed) = (None, None::<Failed>);
    loop {
        let asked = tokio::select! {
            () = ask.notified() => Some(What::All),
            () = tokio::time::sleep(EVERY) => {
                let now = look(&hop, &origin).await;
                // A file that is being written differs at the next look again.
                let has_settled = now != read && last.as_ref() == Some(&now);
                last = Some(now);
                has_settled.then(|| match hop.config.borrow().watch {
                    true => What::All,
                    false => What::Files,
                })
            }
        };
        let repeated = failed.as_ref().map(|failed| failed.what);
        let Some(what) = asked.max(repeated) else {
            continue;
        };
        // A repetition that fails as before says nothing.
        let known = failed.take().filter(|_| asked.is_none());
        // Before the reading, so that the next look finds a change during it.
        read = look(&hop, &origin).await;
        let (hop, origin) = (Arc::clone(&hop), origin.clone());
        let reading = tokio::task::spawn_blocking(move || reload(&hop, &origin, what, known));
        // Fails only when the program ends.
        failed = reading.await.unwrap_or_default();
    }
}

async fn look(hop: &Arc<Hop>, origin: &Origin) -> Seen {
    let files = watched(hop, origin);
    tokio::task::spawn_blocking(move || Seen::now(&files))
        .await
        .unwrap_or_default()
}

/// The files whose change is followed: those of TLS always, the configuration with `reload.watch`.
fn watched(hop: &Hop, origin: &Origin) -> Vec<Pattern> {
    let config = hop.config.borrow();
    let of_tls = config.tls.listeners.iter().flat_map(Material::files);
    let own = origin.path.iter().filter(|_| config.watch).cloned();
    let mut files: Vec<_> = of_tls
        .chain(own)
        .map(|file| Pattern::of_file(&file))
        .collect();
    if config.watch {
        files.extend(config.allow_files.iter().cloned());
    }
    files
}

/// Reloads, and reports the result unless it is the failure that is `known`. Returns the failure.
fn reload(hop: &Hop, origin: &Origin, what: What, known: Option<Failed>) -> Option<Failed> {
    let result = match what {
        What::Files => {
            let config = Arc::clone(&hop.config.borrow());
            put_in_force(hop, &config)
        }
        What::All => origin
            .load()
            .map_err(|problems| problems.join("; "))
            .and_then(|config| {
                let config = Arc::new(config);
                put_in_force(hop, &config)?;
                hop.config.send_replace(config);
                Ok(())
            }),
    };
    let failed = result.as_ref().err().map(|reason| Failed {
        what,
        reason: reason.clone(),
    });
    if failed.is_some() && failed == known {
        return failed;
    }
    hop.metrics.reloaded(result.is_ok(), unix_now());
    let reason = match result {
        Ok(()) => {
            tracing::info!("certificates, keys and revocation lists read again");
            "ok".to_owned()
        }
        Err(reason) => {
            tracing::error!(%reason, "the new files are refused; the old ones stay in force");
            reason
        }
    };
    hop.events
        .add(Event::of_hop(EventKind::HopReloaded, reason), &hop.metrics);
    failed
}

/// Loads the files of every listener, and then puts them in force.
fn put_in_force(hop: &Hop, config: &Config) -> Result<(), String> {
    let mut loaded = Vec::with_capacity(hop.listeners.len());
    for (place, listener) in hop.listeners.iter().enumerate() {
        let Some(now) = counterpart(listener, place, &config.tls.listeners) else {
            tracing::warn!(address = %listener.address, "the configuration no longer has this TLS listener; it closes with a restart only");
            continue;
        };
        let material = Material::load(now, config.policy.names());
        let material = material.map_err(|error| error.to_string())?;
        loaded.push((listener, material, target::of(now)?));
    }
    if loaded.len() < config.tls.listeners.len() {
        tracing::warn!("new TLS listeners open with a restart only");
    }
    let mut is_offered = false;
    for (listener, material, target) in loaded {
        is_offered |= listener.offer(target);
        listener.material.send_replace(Arc::new(material));
    }
    if is_offered {
        hop.offered.notify_one();
    }
    Ok(())
}

/// The section of a running listener in a new configuration: the one in the same place, or with the same address.
fn counterpart<'c>(
    listener: &Listener,
    place: usize,
    sections: &'c [TlsListener],
) -> Option<&'c TlsListener> {
    let is_same = |section: &&TlsListener| section.address == listener.configured;
    let in_place = sections.get(place).filter(is_same);
    in_place.or_else(|| sections.iter().find(is_same))
}

/// A change is in force within two to three seconds.
const EVERY: Duration = Duration::from_secs(1);
