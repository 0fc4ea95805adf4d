//! systemd: the listening sockets that it hands over (sd_listen_fds(3)) and what it is told (sd_notify(3)).
//!
//! Started by anything else, nothing is handed over and nobody is told. Never decides which socket is for what, nor
//! when the daemon is ready.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{self, Receiver, SyncSender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;

use crate::sys;

/// A listening socket that was open before the daemon started.
#[derive(Debug)]
pub struct Inherited {
    /// Its name (systemd.socket(5), `FileDescriptorName=`).
    pub name: String,
    /// Where it is bound.
    pub address: SocketAddr,
    /// The socket, with the options that the daemon gives its own.
    pub socket: TcpListener,
}

/// A socket that was handed over and cannot be a listener.
#[derive(Debug, thiserror::Error)]
#[error("the socket \"{name}\" that systemd hands over: {error}")]
pub struct InheritError {
    name: String,
    #[source]
    error: io::Error,
}

/// Takes the sockets that were handed over, and takes note of them out of the environment. Call it before there is a
/// second thread.
///
/// # Errors
/// The first one that is not a listening TCP socket, or would mix the address families.
pub fn inherit() -> Result<Vec<Inherited>, InheritError> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    let mut handed = ListenFd::from_env();
    let mut sockets = Vec::with_capacity(handed.len());
    for index in 0..handed.len() {
        let name = names
            .next()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "unknown".to_owned());
        let taken = handed.take_tcp_listener(index).and_then(|socket| {
            let socket = socket.ok_or(io::ErrorKind::NotFound)?;
            sys::take_over(&socket)?;
            Ok((socket.local_addr()?, socket))
        });
        match taken {
            Ok((address, socket)) => sockets.push(Inherited {
                name,
                address,
                socket,
            }),
            Err(error) => return Err(InheritError { name, error }),
        }
    }
    Ok(sockets)
}

/// How long systemd waits for a sign of life before it ends the daemon (`WatchdogSec=`); None: it waits for none.
#[must_use]
pub fn watchdog() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// What systemd can be told.
#[derive(Clone, Debug)]
pub enum Word {
    /// The start, or a reload, is done.
    Ready,
    /// A reload begins.
    Reloading,
    /// The stop begins.
    Stopping,
    /// Every part of the daemon is alive.
    Alive,
    /// It takes at least so much longer to start or to stop.
    Patience(Duration),
    /// One line for whoever asks `systemctl status`.
    Status(String),
}

/// Tells systemd, on a thread of its own: one that does not listen must hold nobody up. Dropped, it gives the last words a
/// moment.
#[derive(Debug)]
pub struct Teller {
    queue: Option<SyncSender<Vec<Word>>>,
    done: Mutex<Receiver<()>>,
    trouble: Arc<Mutex<Option<io::Error>>>,
}

impl Teller {
    /// Starts the thread, if somebody wants to be told.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start() -> io::Result<Option<Self>> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(None);
        }
        let (queue, words) = mpsc::sync_channel::<Vec<Word>>(WAITING_MAX);
        let (at_work, done) = mpsc::channel();
        let trouble = Arc::default();
        let teller = Self {
            queue: Some(queue),
            done: Mutex::new(done),
            trouble: Arc::clone(&trouble),
        };
        std::thread::Builder::new()
            .name("systemd".into())
            .spawn(move || {
                for together in words {
                    if let Err(error) = tell(&together) {
                        *trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    }
                }
                drop(at_work);
            })?;
        Ok(Some(teller))
    }

    /// Has systemd told all this at once; false when what was to be told before still waits, and this will not be.
    pub fn tell(&self, words: Vec<Word>) -> bool {
        self.queue
            .as_ref()
            .is_some_and(|queue| queue.try_send(words).is_ok())
    }

    /// Why it could not be told, if that was so since this was last asked.
    #[must_use]
    pub fn trouble(&self) -> Option<io::Error> {
        self.trouble
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        drop(self.queue.take());
        let done = self.done.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _said_or_in_vain = done.recv_timeout(LAST_WORDS);
    }
}

fn tell(words: &[Word]) -> io::Result<()> {
    // One line is one word: a line feed in a status would begin another.
    let lines = words.iter().map(|word| match word {
        Word::Status(text) => text
            .chars()
            .filter(|c| !c.is_control())
            .take(STATUS_CHARS_MAX)
            .collect(),
        _ => String::new(),
    });
    let lines: Vec<String> = lines.collect();
    let mut states = Vec::with_capacity(words.len() + 1);
    for (word, line) in words.iter().zip(&lines) {
        match word {
            Word::Ready => states.push(NotifyState::Ready),
            Word::Reloading => {
                states.extend([NotifyState::Reloading, NotifyState::monotonic_usec_now()?])
            }
            Word::Stopping => states.push(NotifyState::Stopping),
            Word::Alive => states.push(NotifyState::Watchdog),
            Word::Patience(time) => {
                states.push(NotifyState::ExtendTimeoutUsec(
                    u32::try_from(time.as_micros()).unwrap_or(u32::MAX),
                ));
            }
            Word::Status(_) => states.push(NotifyState::Status(line)),
        }
    }
    sd_notify::notify(&states)
}

/// What fits into a terminal's few lines.
const STATUS_CHARS_MAX: usize = 500;
/// Words that may wait for systemd to listen.
const WAITING_MAX: usize = 16;
/// For what is left to be told when the daemon ends.
const LAST_WORDS: Duration = Duration::from_millis(200);
