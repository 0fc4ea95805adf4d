//! Signals as values: SIGTERM drains, SIGUSR2 hands the tunnels over, SIGINT does so if a service
//! manager keeps the sockets and drains otherwise, SIGQUIT stops at once, SIGHUP reloads. SIGWINCH announces a stop or restart
//! in which this process may outlive the service's main process. Any other signal that `sys::signals` holds back is ignored;
//! the log names it and its sender.

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, Receiver};
use tracing::{error, warn};

use crate::sys::signals::{HUP, INT, QUIT, Queue, Received, TERM, USR2, WINCH};
use crate::systemd::main_process;

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
    /// When SIGWINCH came last.
    announced: Option<Instant>,
    copies: Copies,
}

/// Tells a signal that the main process passes on from the same one that came here too: `systemctl kill` sends it to both.
#[derive(Debug, Default)]
struct Copies {
    /// The main process that has started this one.
    main_process: Option<u32>,
    /// The number of the last signal, whether the main process passed it on, and when it came.
    last: Option<(i32, bool, Instant)>,
}

impl Copies {
    /// Whether it is the copy of the one before.
    fn is_copy(&mut self, number: i32, sender: u32, now: Instant) -> bool {
        let is_passed_on = self.main_process == Some(sender);
        let is_copy = self.last.is_some_and(|(before, was_passed_on, at)| {
            before == number && was_passed_on != is_passed_on && now.duration_since(at) < TOGETHER
        });
        self.last = (!is_copy).then_some((number, is_passed_on, now));
        is_copy
    }
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
            announced: None,
            copies: Copies {
                main_process: main_process::number(),
                last: None,
            },
        })
    }

    pub(super) async fn next(&mut self) -> Signal {
        loop {
            let Some(received) = self.queue.recv().await else {
                // Without signals the daemon could only be killed, so it stops in order now.
                error!("signals can no longer be read; stopping");
                return Signal::Stop;
            };
            let Received { number, pid, .. } = received;
            if self.copies.is_copy(number, pid, Instant::now()) {
                continue;
            }
            match meaning(number) {
                Some(signal) => return signal,
                None if number == WINCH => self.announced = Some(Instant::now()),
                None => self.log(received),
            }
        }
    }

    /// Whether the last signal was announced: it ends the service's main process only.
    pub(super) fn is_announced(&self) -> bool {
        is_recent(self.announced, Instant::now())
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

/// Whether an announcement at that time counts now.
fn is_recent(announced: Option<Instant>, now: Instant) -> bool {
    announced.is_some_and(|announced| now.duration_since(announced) < ANNOUNCED)
}

/// Between a signal and its copy.
const TOGETHER: Duration = Duration::from_millis(100);
/// The signal that ends the main process follows its announcement.
const ANNOUNCED: Duration = Duration::from_secs(10);
/// The least time between two lines about the same signal.
const LOG_EVERY: Duration = Duration::from_secs(1);
/// The kernel holds more: one of each number below the real-time signals.
const WAITING_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_announcement_counts_for_the_signal_that_follows_it() {
        let now = Instant::now();
        assert!(!is_recent(None, now));
        assert!(is_recent(Some(now), now + Duration::from_secs(9)));
        assert!(!is_recent(Some(now), now + Duration::from_secs(10)));
    }

    #[test]
    fn a_signal_to_both_processes_counts_once() {
        let (main, operator, now) = (7, 9, Instant::now());
        let mut copies = Copies {
            main_process: Some(main),
            last: None,
        };
        assert!(!copies.is_copy(TERM, operator, now));
        assert!(copies.is_copy(TERM, main, now));
        assert!(!copies.is_copy(TERM, main, now), "a second one");
        assert!(!copies.is_copy(TERM, main, now), "and a third one");
        assert!(!copies.is_copy(TERM, operator, now + TOGETHER));
        assert!(!copies.is_copy(INT, main, now + TOGETHER));
    }
}
