//! Signals as values: SIGTERM drains, SIGUSR2 hands the tunnels over, SIGINT does so if a service
//! manager keeps the sockets and drains otherwise, SIGQUIT stops at once, SIGHUP reloads. Any other signal that
//! `sys::signals` holds back is ignored; the log names it and its sender.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, Receiver};
use tracing::{error, warn};

use crate::sys::signals::{HUP, INT, QUIT, Queue, Received, TERM, USR2};

/// The meaning of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// Drain and stop.
    Stop,
    /// Stop without a drain.
    StopAtOnce,
    /// Hand the tunnels over to the next daemon.
    HandOver,
    /// The same if a service manager keeps the sockets, otherwise drain and stop.
    HandOverOrStop,
    /// Read the configuration again.
    Reload,
}

/// The received signals.
#[derive(Debug)]
pub(super) struct Signals {
    queue: Receiver<Received>,
    /// When each ignored signal was last logged; at most one entry for each signal number.
    logged: HashMap<i32, Instant>,
}

impl Signals {
    /// Opens the kernel's queue and starts the thread that reads it. The thread ends with the
    /// process.
    pub(super) fn install() -> io::Result<Self> {
        let held = Queue::open()?;
        let (sender, queue) = mpsc::channel(WAITING_MAX);
        std::thread::Builder::new()
            .name("signals".to_owned())
            .spawn(move || {
                while let Ok(received) = held.take() {
                    if sender.blocking_send(received).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            queue,
            logged: HashMap::new(),
        })
    }

    pub(super) async fn next(&mut self) -> Signal {
        loop {
            let Some(received) = self.queue.recv().await else {
                // Without signals the daemon could only be killed, so it stops in order now.
                error!("signals can no longer be read; stopping");
                return Signal::Stop;
            };
            match meaning(received.number) {
                Some(signal) => return signal,
                None => self.log(received),
            }
        }
    }

    /// Logs an ignored signal, at most once a second, because senders can send thousands.
    fn log(&mut self, received: Received) {
        let now = Instant::now();
        if self
            .logged
            .get(&received.number)
            .is_none_or(|last| now.duration_since(*last) >= LOG_EVERY)
        {
            self.logged.insert(received.number, now);
            let Received { pid, uid, .. } = received;
            warn!(
                signal = received.name(),
                pid, uid, "ignored a signal that has no meaning here"
            );
        }
    }
}

fn meaning(number: i32) -> Option<Signal> {
    match number {
        TERM => Some(Signal::Stop),
        INT => Some(Signal::HandOverOrStop),
        USR2 => Some(Signal::HandOver),
        QUIT => Some(Signal::StopAtOnce),
        HUP => Some(Signal::Reload),
        _ => None,
    }
}

/// The least time between two lines about the same signal.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// The kernel holds more: one of each number below the real-time signals.
const WAITING_MAX: usize = 16;
