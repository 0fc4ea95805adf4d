//! epoll(7), level-triggered, and the eventfd(2) that ends a wait from another thread.
//!
//! Keys are the caller's. A socket that nothing is wanted of stays watched for its failure, by edge: its hang-up may
//! last, and told by level it would never let the waiting sleep. Never reads or writes a watched socket.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EfdFlags;

/// An epoll instance.
#[derive(Debug)]
pub struct Poller(Epoll);

/// What a socket is watched for; its failure is reported in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Interest {
    /// Bytes, a FIN or urgent data to read.
    pub reads: bool,
    /// Room to write.
    pub writes: bool,
}

/// What one wait has found.
#[derive(Debug)]
pub struct Events {
    buffer: Vec<EpollEvent>,
    len: usize,
}

/// What has happened to one socket.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The key it is watched under.
    pub key: u64,
    /// There is something to read, or an end or a failure to find by reading.
    pub readable: bool,
    /// There is room to write, or a failure to find by writing.
    pub writable: bool,
    /// The peer has ended its side; bytes before its FIN may still be unread.
    pub has_ended: bool,
    /// Urgent data has come.
    pub urgent: bool,
    /// The connection has failed.
    pub failed: bool,
}

/// Wakes a poller from another thread (eventfd(2)).
#[derive(Debug)]
pub struct EventFd(nix::sys::eventfd::EventFd);

impl Poller {
    /// An empty one.
    ///
    /// # Errors
    /// EMFILE, ENFILE or ENOMEM.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?))
    }

    /// Watches a socket under `key`. Closing the socket ends it.
    ///
    /// # Errors
    /// ENOMEM or ENOSPC.
    pub fn watch(&self, socket: impl AsFd, interest: Interest, key: u64) -> io::Result<()> {
        Ok(self.0.add(socket, EpollEvent::new(interest.flags(), key))?)
    }

    /// Watches a listening socket that other pollers watch as well, under `key`. A client that comes wakes one of them
    /// that waits: the one that has watched it longest (epoll_ctl(2), `EPOLLEXCLUSIVE`).
    ///
    /// # Errors
    /// ENOMEM or ENOSPC.
    pub fn watch_in_turn(&self, listener: impl AsFd, key: u64) -> io::Result<()> {
        let flags = EpollFlags::EPOLLIN | EpollFlags::EPOLLEXCLUSIVE;
        Ok(self.0.add(listener, EpollEvent::new(flags, key))?)
    }

    /// Watches a socket no more.
    ///
    /// # Errors
    /// None for a socket that is watched.
    pub fn forget(&self, socket: impl AsFd) -> io::Result<()> {
        Ok(self.0.delete(socket)?)
    }

    /// Watches a socket under `key` for everything, told once each time it changes.
    ///
    /// # Errors
    /// ENOMEM or ENOSPC.
    pub fn watch_edges(&self, socket: impl AsFd, key: u64) -> io::Result<()> {
        use EpollFlags as F;
        let flags = F::EPOLLIN | F::EPOLLPRI | F::EPOLLOUT | F::EPOLLRDHUP | F::EPOLLET;
        Ok(self.0.add(socket, EpollEvent::new(flags, key))?)
    }

    /// Changes what is wanted of a socket that is watched.
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

    /// Waits until something has happened, or `timeout` is over; None waits for ever.
    ///
    /// # Errors
    /// None that a peer can cause; a signal is no error.
    pub fn wait(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        // Rounded up: to wake before the time would be to wake twice.
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
    /// Room for what one wait can find.
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
    /// A silent one.
    ///
    /// # Errors
    /// EMFILE, ENFILE or ENOMEM.
    pub fn new() -> io::Result<Self> {
        Ok(Self(nix::sys::eventfd::EventFd::from_flags(
            EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK,
        )?))
    }

    /// Ends the wait of the poller that watches it. Notifications that are not reported yet count as one.
    pub fn notify(&self) {
        // Fails only after 2^64 - 2 notifications that nobody read.
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
    fn a_hang_up_that_lasts_is_told_once_when_nothing_is_wanted() {
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
    fn rings_before_a_wait_are_one() {
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
