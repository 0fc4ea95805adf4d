//! systemd: takes the listening sockets that it passes (sd_listen_fds(3)) and sends it
//! notifications (sd_notify(3)).
//!
//! Under any other parent there are no sockets and no notifications. Never decides what a socket is
//! for, nor when the daemon is ready.

pub mod main_process;
mod store;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;

use crate::sys;
pub use store::{
    CLAIM, HANDOVER, LISTENER, barrier, fall_silent, forget, is_manager, store,
    store_while_connected,
};

/// A listening socket that systemd opened.
#[derive(Debug)]
pub struct Inherited {
    /// Its name (systemd.socket(5), `FileDescriptorName=`).
    pub name: String,
    /// Its address.
    pub address: SocketAddr,
    /// The socket, with the same options as the daemon's own sockets.
    pub socket: TcpListener,
    /// Whether an earlier daemon opened it, and not a socket unit.
    pub is_stored: bool,
}

/// The passed descriptors.
#[derive(Debug, Default)]
pub struct Handed {
    /// Listening sockets.
    pub listeners: Vec<Inherited>,
    /// Queues into which an earlier daemon has put its tunnels; at most one is not empty.
    pub queues: Vec<UnixDatagram>,
    /// Streams to earlier daemons that may still carry their tunnels; at most one is connected.
    pub claims: Vec<UnixStream>,
}

/// A passed socket that cannot be a listener.
#[derive(Debug, thiserror::Error)]
#[error("the socket \"{name}\" that systemd passes: {error}")]
pub struct InheritError {
    name: String,
    #[source]
    error: io::Error,
}

/// Takes the passed descriptors and removes them from the environment. Call it before a second thread
/// starts.
///
/// # Errors
/// The first one that is not a listening TCP socket, or would mix the address families.
pub fn inherit() -> Result<Handed, InheritError> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let mut passed = ListenFd::from_env();
    let mut handed = Handed::default();
    for index in 0..passed.len() {
        let name = names
            .next()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "unknown".to_owned());
        if name == HANDOVER {
            let queue = passed.take_unix_datagram(index);
            let queue = queue.map_err(|error| InheritError { name, error })?;
            handed.queues.extend(queue);
            continue;
        }
        if name == CLAIM {
            let stream =
                passed.take_custom::<UnixStream>(index, sys::AF_UNIX, sys::SOCK_STREAM, "a stream");
            let stream = stream.map_err(|error| InheritError { name, error })?;
            handed.claims.extend(stream);
            continue;
        }
        let taken = passed.take_tcp_listener(index).and_then(|socket| {
            let socket = socket.ok_or(io::ErrorKind::NotFound)?;
            sys::take_over(&socket)?;
            Ok((socket.local_addr()?, socket))
        });
        match taken {
            Ok((address, socket)) => handed.listeners.push(Inherited {
                is_stored: name == LISTENER,
                name,
                address,
                socket,
            }),
            Err(error) => return Err(InheritError { name, error }),
        }
    }
    Ok(handed)
}

/// The period in which systemd expects a sign of life (`WatchdogSec=`); None if it expects none.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// A notification.
#[derive(Clone, Debug)]
pub enum Message {
    /// The start, or a reload, is complete.
    Ready,
    /// A reload has begun.
    Reloading,
    /// The stop has begun.
    Stopping,
    /// Every part of the daemon is alive.
    Alive,
    /// The start or the stop needs this much longer.
    ExtendTimeout(Duration),
    /// One line for `systemctl status`.
    Status(String),
}

/// Sends notifications from a thread of its own, because a systemd that does not read must not
/// block the daemon. On drop it waits a moment for the last ones.
#[derive(Debug)]
pub struct Notifier {
    queue: Option<SyncSender<Vec<Message>>>,
    done: Mutex<Receiver<()>>,
    trouble: Arc<Mutex<Option<io::Error>>>,
}

impl Notifier {
    /// Starts the thread if the daemon runs under systemd.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start() -> io::Result<Option<Self>> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(None);
        }
        let (queue, messages) = mpsc::sync_channel::<Vec<Message>>(WAITING_MAX);
        let (at_work, done) = mpsc::channel();
        let trouble = Arc::default();
        let notifier = Self {
            queue: Some(queue),
            done: Mutex::new(done),
            trouble: Arc::clone(&trouble),
        };
        std::thread::Builder::new()
            .name("systemd".into())
            .spawn(move || {
                for together in messages {
                    if let Err(error) = notify(&together) {
                        *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    }
                }
                drop(at_work);
            })?;
        Ok(Some(notifier))
    }

    /// Queues notifications that belong together. Returns false if the queue is full and they were
    /// dropped.
    pub fn notify(&self, messages: Vec<Message>) -> bool {
        self.queue
            .as_ref()
            .is_some_and(|queue| queue.try_send(messages).is_ok())
    }

    /// Returns the error since the last call, if sending failed.
    #[must_use]
    pub fn trouble(&self) -> Option<io::Error> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        drop(self.queue.take());
        let done = self.done.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _said_or_in_vain = done.recv_timeout(LAST_WORDS);
    }
}

fn notify(messages: &[Message]) -> io::Result<()> {
    // A line feed in a status would start another assignment.
    let lines = messages.iter().map(|message| match message {
        Message::Status(text) => text
            .chars()
            .filter(|c| !c.is_control())
            .take(STATUS_CHARS_MAX)
            .collect(),
        _ => String::new(),
    });
    let lines: Vec<String> = lines.collect();
    let mut states = Vec::with_capacity(messages.len() + 1);
    for (message, line) in messages.iter().zip(&lines) {
        match message {
            Message::Ready => states.push(NotifyState::Ready),
            Message::Reloading => {
                states.extend([NotifyState::Reloading, NotifyState::monotonic_usec_now()?])
            }
            Message::Stopping => states.push(NotifyState::Stopping),
            Message::Alive => states.push(NotifyState::Watchdog),
            Message::ExtendTimeout(time) => {
                states.push(NotifyState::ExtendTimeoutUsec(
                    u32::try_from(time.as_micros()).unwrap_or(u32::MAX),
                ));
            }
            Message::Status(_) => states.push(NotifyState::Status(line)),
        }
    }
    if store::is_silent() {
        return Ok(());
    }
    let lines = states.iter().map(NotifyState::to_string);
    store::send(&lines.collect::<Vec<_>>().join("\n"), &[])
}

/// Fits into a few terminal lines.
const STATUS_CHARS_MAX: usize = 500;
/// The length of the queue.
const WAITING_MAX: usize = 16;
/// The time for the last notifications when the daemon ends.
const LAST_WORDS: Duration = Duration::from_millis(200);
