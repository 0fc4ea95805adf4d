//! The supervisor's process: waits for the daemon's orders, starts the hop, and starts it again when it has ended by itself.
//! Holds no secret and opens no socket.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use std::os::fd::AsFd;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep};

use super::backoff::Backoff;
use super::{CONFIG, Order, PARENT, PROGRAM, Report, clean};
use crate::sys::process::{
    ChildSignal, die_with_parent, keep_privileges_from_growing, signal_child,
};
use crate::sys::signals::release_all;

/// Runs the supervisor until the daemon orders the stop or ends.
#[must_use]
pub fn run() -> ExitCode {
    match Supervised::of_environment().and_then(|supervised| supervised.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_the_daemon_sees_the_end) => ExitCode::FAILURE,
    }
}

/// What to run.
struct Supervised {
    program: PathBuf,
    config: PathBuf,
}

/// What ends a wait.
enum Next {
    Order(Order),
    Ended(io::Result<ExitStatus>),
    /// The pause is over.
    Retry,
    /// The daemon has gone.
    Alone,
}

impl Supervised {
    fn of_environment() -> io::Result<Self> {
        let variable = |name| std::env::var_os(name).ok_or(io::ErrorKind::NotFound);
        let parent = variable(PARENT)?
            .to_str()
            .and_then(|text| text.parse().ok());
        let is_parent_alive = die_with_parent(parent.ok_or(io::ErrorKind::InvalidInput)?)?;
        if !is_parent_alive {
            return Err(io::ErrorKind::NotFound.into());
        }
        keep_privileges_from_growing()?;
        // The daemon blocks signals before it starts this process; the hop inherits the mask from it.
        release_all()?;
        Ok(Self {
            program: variable(PROGRAM)?.into(),
            config: variable(CONFIG)?.into(),
        })
    }

    fn run(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.supervise())
    }

    async fn supervise(self) -> io::Result<()> {
        let orders = io::stdin().as_fd().try_clone_to_owned()?;
        let mut orders = Orders {
            pipe: pipe::Receiver::from_owned_fd(orders)?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _hang_up: signal(SignalKind::hangup())?,
        };
        // Until then the hop would find no daemon.
        while match orders.next().await {
            Some(Order::Start) => false,
            Some(Order::Reload) => true,
            _ => return Ok(()),
        } {}
        let mut backoff = Backoff::default();
        loop {
            let started = Instant::now();
            let reason = match self.start() {
                Ok(hop) => match watch(hop, &mut orders).await {
                    Some(reason) => reason,
                    None => return Ok(()),
                },
                Err(error) => error.to_string(),
            };
            let retry = backoff.after(started.elapsed());
            report(&Report::Ended {
                reason,
                retry: Some(retry),
            })?;
            if !pause(retry, &mut orders).await {
                return Ok(());
            }
        }
    }

    fn start(&self) -> io::Result<Child> {
        let mut command = Command::from(clean(&self.program));
        command
            .arg("--config")
            .arg(&self.config)
            .arg("--supervised-by")
            .arg(std::process::id().to_string())
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command.spawn()
    }
}

/// Watches a hop until it has ended. None: the supervisor ends too.
async fn watch(mut hop: Child, orders: &mut Orders) -> Option<String> {
    let pid = hop.id()?;
    report(&Report::Started { pid }).ok()?;
    let mut is_stopping = false;
    loop {
        let next = tokio::select! {
            biased;
            ended = hop.wait() => Next::Ended(ended),
            order = orders.next() => order.map_or(Next::Alone, Next::Order),
        };
        match next {
            Next::Ended(ended) => {
                let reason =
                    ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                if !is_stopping {
                    return Some(reason);
                }
                report(&Report::Ended {
                    reason,
                    retry: None,
                })
                .ok()?;
                return None;
            }
            // Fails only for a hop that has just ended; the next turn sees that.
            Next::Order(Order::Reload) => {
                let _ended = signal_child(pid, ChildSignal::HangUp);
            }
            Next::Order(Order::Stop) => {
                is_stopping = true;
                let _ended = signal_child(pid, ChildSignal::Terminate);
            }
            Next::Order(Order::StopAtOnce) | Next::Alone => {
                let _ended = hop.kill().await;
                return None;
            }
            Next::Order(Order::Start) | Next::Retry => {}
        }
    }
}

/// Waits before the next start. False: the daemon wants none.
async fn pause(length: Duration, orders: &mut Orders) -> bool {
    let over = sleep(length);
    tokio::pin!(over);
    loop {
        let next = tokio::select! {
            () = &mut over => Next::Retry,
            order = orders.next() => order.map_or(Next::Alone, Next::Order),
        };
        match next {
            // A reload may have mended the cause.
            Next::Retry | Next::Order(Order::Reload) => return true,
            Next::Order(Order::Stop | Order::StopAtOnce) | Next::Alone => return false,
            Next::Order(Order::Start) | Next::Ended(_) => {}
        }
    }
}

/// The daemon's orders. A signal that a service manager sends to all processes of a service counts as the order to stop.
struct Orders {
    pipe: pipe::Receiver,
    terminate: Signal,
    interrupt: Signal,
    /// Kept, so that a terminal that closes does not end the process.
    _hang_up: Signal,
}

impl Orders {
    /// The next order; None: the daemon has gone.
    async fn next(&mut self) -> Option<Order> {
        loop {
            let byte = tokio::select! {
                byte = self.pipe.read_u8() => byte.ok()?,
                _ = self.terminate.recv() => return Some(Order::Stop),
                _ = self.interrupt.recv() => return Some(Order::Stop),
            };
            if let Some(order) = Order::of(byte) {
                return Some(order);
            }
        }
    }
}

fn report(report: &Report) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(report.line().as_bytes())?;
    out.flush()
}
