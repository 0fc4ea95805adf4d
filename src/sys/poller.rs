//! epoll(7), level-triggered, and the eventfd(2) that ends a wait from another thread.
//!
//! The caller chooses the keys. A socket without an interest stays registered for its failure,
//! edge-triggered: reported by level, a lasting hang-up would never let the wait sleep. Never reads
//! or writes a watched socket.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EfdFlags;

/// An epoll instance.
#[derive(Debug)]
pub struct Poller(Epoll);

/// What a socket is watched for; its failure is always reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Bytes, a FIN or urgent data to read.
    pub reads: bool,
    /// Room to write.
    pub writes: bool,
}

/// The events of one wait.
#[derive(Debug)]
pub struct Events {
    buffer: Vec<EpollEvent>,
    len: usize,
}

/// An event of one socket.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// Its key.
    pub key: u64,
    /// Bytes, an end or a failure can be read.
    pub readable: bool,
    /// The socket accepts bytes, or a failure can be found by writing.
    pub writable: bool,
    /// The peer has sent a FIN; earlier bytes may still be unread.
    pub has_ended: bool,
    /// Urgent data has arrived.
    pub urgent: bool,
    /// The connection has failed.
    pub failed: bool,
}

/// Wakes a poller from another thread (eventfd(2)).
#[derive(Debug)]
pub struct EventFd(nix::sys::eventfd::EventFd);

impl Poller {
    /// Creates an empty poller.
    ///
    /// # Errors
    /// EMFILE, ENFILE or ENOMEM.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Watches a socket under `key`, until the socket is closed.
    ///
    /// # Errors
    /// ENOMEM or ENOSPC.
    pub fn watch(&self, socket: impl AsFd, interest: Interest, key: u64) -> io::Result<()> {
        Ok(self.0.add(socket, EpollEvent::new(interest.flags(), key))?)
    }

    /// Watches a listening socket that other pollers watch too. A new client wakes one waiting
    /// poller: the one that has watched it longest (epoll_ctl(2), `EPOLLEXCLUSIVE`).
    ///
    /// # Errors
    /// ENOMEM or ENOSPC.
    pub fn watch_in_turn(&self, listener: impl AsFd, key: u64) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
        Ok(self.0.add(listener, EpollEvent::new(flags, key))?)
    }

    /// Stops watching a socket.
    ///
    /// # Errors
    /// None for a socket that is watched.
    pub fn forget(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(self.0.delete(socket)?)
    }

    /// Watches a socket under `key` for everything, edge-triggered.
    ///
    /// # Errors
    /// ENOMEM or ENOSPC.
    pub fn watch_edges(&self, socket: impl AsFd, key: u64) -> io::Result<()> {
        use EpollFlags as F;
        let flags = F::EPOLLIN | F::EPOLLPRI | F::EPOLLOUT | F::EPOLLRDHUP | F::EPOLLET;
        Ok(self.0.add(socket, EpollEvent::new(flags, key))?)
    }

    /// Changes the interest in a watched socket.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn change(&self, socket: impl AsFd, interest: Interest, key: u64) -> io::Result<()> {
        Ok(self
            .0
            .modify(socket, &mut EpollEvent::new(interest.flags(), key))?)
    }

    /// Watches an eventfd under `key`: each notification is reported once.
    ///
    /// # Errors
    /// ENOMEM or ENOSPC.
    pub fn watch_event_fd(&self, event_fd: &EventFd, key: u64) -> io::Result<()> {
        Ok(self.0.add(
            &event_fd.0,
            EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, key),
        )?)
    }

    /// Waits for an event or until `timeout` has passed; None waits without limit.
    ///
    /// # Errors
    /// None that a peer can cause; a signal is not an error.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        // Rounded up: waking early would mean waking twice.
        let limit = timeout.map(|timeout| timeout.as_micros().div_ceil(1_000));
        let limit = limit.map_or(EpollTimeout::NONE, |ms| {
            EpollTimeout::try_from(ms).unwrap_or(EpollTimeout::MAX)
        });
        events.len = match self.0.wait(&mut events.buffer, limit) {
            Err(nix::errno::Errno::EINTR) => 0,
            found => found?,
        };
        Ok(())
    }
}

impl AsFd for Poller {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.0.as_fd()
    }
}

impl Interest {
    fn flags(self) -> EpollFlags {
        let mut flags = EpollFlags::empty();
        if self.reads {
            flags |= EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP | EpollFlags::EPOLLPRI;
        }
        if self.writes {
            flags |= EpollFlags::EPOLLOUT;
        }
        if flags.is_empty() {
            EpollFlags::EPOLLET
        } else {
            flags
        }
    }
}

impl Events {
    /// The capacity for the events of one wait.
    #[must_use]
    pub fn with_capacity(capacity: usize) -> Self {
        Self {
            buffer: vec![EpollEvent::empty(); capacity],
            len: 0,
        }
    }

    /// What the last wait has found.
    pub fn iter(&self) -> impl Iterator<Item = Event> {
        self.buffer
            .iter()
            .take(self.len)
            .map(|event| Event::of(event.data(), event.events()))
    }
}

impl Event {
    fn of(key: u64, flags: EpollFlags) -> Self {
        use EpollFlags as F;
        Self {
            key,
            readable: flags.intersects(F::EPOLLIN | F::EPOLLRDHUP | F::EPOLLHUP | F::EPOLLERR),
            writable: flags.intersects(F::EPOLLOUT | F::EPOLLHUP | F::EPOLLERR),
            has_ended: flags.intersects(F::EPOLLRDHUP | F::EPOLLHUP),
            urgent: flags.contains(F::EPOLLPRI),
            failed: flags.contains(F::EPOLLERR),
        }
    }
}

impl EventFd {
    /// Creates an eventfd without a notification.
    ///
    /// # Errors
    /// EMFILE, ENFILE or ENOMEM.
    pub fn new() -> io::Result<Self> {
        Ok(Self(nix::sys::eventfd::EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?))
    }

    /// Ends the wait of the poller that watches it. Several unreported notifications count as one.
    pub fn notify(&self) {
        // Fails only after 2^64 - 2 unread notifications.
        let _overflows = self.0.write(1);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{Shutdown, TcpListener, TcpStream};

    fn found(poller: &Poller, events: &mut Events) -> usize {
        poller.wait(events, Some(Duration::from_millis(1))).unwrap();
        events.iter().count()
    }

    #[test]
    fn a_lasting_hang_up_is_reported_once_without_interest() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        near.shutdown(Shutdown::Write).unwrap();
        drop(far);
        assert_eq!(near.read(&mut [0]).unwrap(), 0);
        let (poller, mut events) = (Poller::new().unwrap(), Events::with_capacity(1));
        poller
            .watch(
                &near,
                Interest {
                    reads: true,
                    writes: false,
                },
                7,
            )
            .unwrap();
        assert_eq!(
            (found(&poller, &mut events), found(&poller, &mut events)),
            (1, 1),
            "it lasts"
        );
        poller.change(&near, Interest::default(), 7).unwrap();
        assert_eq!(
            (found(&poller, &mut events), found(&poller, &mut events)),
            (1, 0)
        );
    }

    #[test]
    fn wakes_before_a_wait_are_merged() {
        let (poller, event_fd, mut events) = (
            Poller::new().unwrap(),
            EventFd::new().unwrap(),
            Events::with_capacity(4),
        );
        poller.watch_event_fd(&event_fd, 9).unwrap();
        event_fd.notify();
        event_fd.notify();
        assert_eq!(
            (found(&poller, &mut events), found(&poller, &mut events)),
            (1, 0)
        );
        event_fd.notify();
        assert_eq!(found(&poller, &mut events), 1);
    }
}
