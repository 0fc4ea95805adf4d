//! Sockets and deadlines for the futures of one thread, on the epoll(7) instance that the relay
//! uses too.
//!
//! A worker sets tunnels up in futures and relays without them. One wait wakes both, so a tunnel
//! moves from set-up to relay without changing threads. The reactor registers sockets once,
//! edge-triggered, until the relay takes them over. It never runs a future and never decides how
//! long to wait; the worker does. Never shared between threads.

mod socket;
mod timer;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpStream;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use slab::Slab;

use crate::sys::poller::{Event, Poller};
use socket::READ_BYTES;
pub use socket::{Gone, Socket};
use timer::Timers;
pub use timer::{Elapsed, Sleep, Timeout};

/// The sockets and deadlines of one thread.
#[derive(Clone, Debug)]
pub struct Reactor(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    poller: Rc<Poller>,
    now: Cell<Instant>,
    sockets: RefCell<Slab<Readiness>>,
    timers: RefCell<Timers>,
    /// The buffer of all reads on this thread.
    arrived: RefCell<Box<[u8]>>,
}

/// The state of a socket since it was last not ready.
#[derive(Debug, Default)]
struct Readiness {
    readable: bool,
    writable: bool,
    has_ended: bool,
    urgent: bool,
    failed: bool,
    /// A read filled the whole buffer. The socket yields, so that a peer with endless bytes does
    /// not occupy the thread.
    gives_way: bool,
    /// The future that owns the socket, while it waits.
    waiting: Option<Waker>,
}

impl Reactor {
    /// Creates a reactor that watches sockets with `poller`.
    #[must_use]
    pub fn new(poller: Rc<Poller>) -> Self {
        let (now, arrived) = (
            Cell::new(Instant::now()),
            RefCell::new(vec![0; READ_BYTES].into()),
        );
        Self(Rc::new(Inner {
            poller,
            now,
            sockets: RefCell::default(),
            timers: RefCell::default(),
            arrived,
        }))
    }

    /// Registers a non-blocking socket.
    ///
    /// # Errors
    /// ENOMEM or ENOSPC.
    pub fn register(&self, stream: TcpStream) -> io::Result<Socket> {
        let key = self.0.sockets.borrow_mut().insert(Readiness::default());
        let socket = Socket::new(stream, key, self.clone());
        self.0.poller.watch_edges(&socket, SOCKET | key as u64)?;
        Ok(socket)
    }

    /// Whether the event belongs to a socket of a reactor and not to another user of the poller.
    #[must_use]
    pub fn is_of_socket(event: Event) -> bool {
        event.key & SOCKET != 0
    }

    /// Wakes the future that waits for this socket.
    pub fn on_event(&self, event: Event) {
        let mut sockets = self.0.sockets.borrow_mut();
        let key = usize::try_from(event.key & !SOCKET).unwrap_or(usize::MAX);
        // None: the socket was closed in this turn.
        if let Some(socket) = sockets.get_mut(key) {
            socket.readable |= event.readable || event.urgent;
            socket.writable |= event.writable;
            socket.has_ended |= event.has_ended;
            socket.urgent |= event.urgent;
            socket.failed |= event.failed;
            if let Some(waiting) = socket.waiting.take() {
                waiting.wake();
            }
        }
    }

    /// Sets the clock of this turn and wakes the futures with expired deadlines.
    pub fn tick(&self, now: Instant) {
        self.0.now.set(now);
        self.0.timers.borrow_mut().wake_until(now);
    }

    /// Wakes every future that waits for a socket or a deadline. A future that also depends on
    /// something rare checks it whenever it is woken, and so needs no registration for it.
    pub fn wake_all(&self) {
        let sockets = self.0.sockets.borrow();
        let waiting = sockets
            .iter()
            .filter_map(|(_, socket)| socket.waiting.as_ref());
        waiting.for_each(Waker::wake_by_ref);
        self.0.timers.borrow().wake_all();
    }

    /// The clock of this turn.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.now.get()
    }

    /// The earliest deadline of a waiting future.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.0.timers.borrow().next()
    }

    /// Completes at `at`.
    #[must_use]
    pub fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep::new(self.clone(), at)
    }

    /// Returns the output of `future` if it completes before `at`, otherwise [`Elapsed`].
    pub fn timeout_at<F: Future>(&self, at: Instant, future: F) -> Timeout<F> {
        Timeout::new(future, self.sleep_until(at))
    }

    /// Returns the output of `future` if it completes within `limit`, otherwise [`Elapsed`].
    pub fn timeout<F: Future>(&self, limit: Duration, future: F) -> Timeout<F> {
        self.timeout_at(self.now() + limit, future)
    }
}

/// Marks the poller keys of reactor sockets.
const SOCKET: u64 = 1 << 62;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(crate) mod tests {
    use super::*;
    use crate::sys::poller::Events;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::task::{Context, Poll};

    /// Runs one future to its end, as a worker does.
    pub(crate) fn run<F: Future>(future: impl FnOnce(Reactor) -> F) -> F::Output {
        let reactor = Reactor::new(Rc::new(Poller::new().unwrap()));
        let mut events = Events::with_capacity(8);
        let mut future = pin!(future(reactor.clone()));
        loop {
            if let Poll::Ready(output) = future
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
            {
                return output;
            }
            let limit = reactor
                .next_deadline()
                .map(|at| at.saturating_duration_since(Instant::now()));
            reactor.0.poller.wait(&mut events, limit).unwrap();
            reactor.tick(Instant::now());
            events.iter().for_each(|event| reactor.on_event(event));
        }
    }

    #[test]
    fn a_future_ends_at_its_deadline() {
        let started = Instant::now();
        let limit = Duration::from_millis(20);
        let late =
            run(
                |reactor| async move { reactor.timeout(limit, std::future::pending::<()>()).await },
            );
        assert!(late.is_err() && started.elapsed() >= limit);
        let in_time = run(|reactor| async move { reactor.timeout(limit, async { 7 }).await });
        assert_eq!(in_time.unwrap(), 7);
    }

    #[test]
    fn a_deadline_that_is_not_waited_for_leaves_no_trace() {
        run(|reactor| async move {
            let short = reactor.sleep_until(Instant::now() + Duration::from_millis(1));
            let long = reactor.sleep_until(Instant::now() + Duration::from_secs(60));
            tokio::select! { () = short => {}, () = long => {} }
            assert!(reactor.next_deadline().is_none());
        });
    }

    #[test]
    fn a_deadline_wakes_its_last_poller() {
        let reactor = Reactor::new(Rc::new(Poller::new().unwrap()));
        let at = Instant::now() + Duration::from_secs(60);
        let mut sleep = pin!(reactor.sleep_until(at));
        let woken = [(); 2].map(|()| std::sync::Arc::new(Woken::default()));
        for woken in &woken {
            let waker = Waker::from(std::sync::Arc::clone(woken));
            let polled = sleep.as_mut().poll(&mut Context::from_waker(&waker));
            assert!(polled.is_pending());
        }
        reactor.tick(at);
        assert_eq!(woken.map(|woken| woken.0.load(Relaxed)), [0, 1]);
    }

    /// Counts its calls.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl std::task::Wake for Woken {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    #[test]
    fn wake_all_wakes_each_future_that_waits_for_a_socket_or_a_deadline() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let reactor = Reactor::new(Rc::new(Poller::new().unwrap()));
        let socket = reactor.register(near).unwrap();
        let mut of_socket = pin!(socket.gone());
        let mut of_deadline = pin!(reactor.sleep_until(Instant::now() + Duration::from_secs(60)));
        let woken = [0; 2].map(|_| std::sync::Arc::new(Woken::default()));
        let [first, second] = woken.each_ref().map(|woken| Waker::from(woken.clone()));
        assert!(
            of_socket
                .as_mut()
                .poll(&mut Context::from_waker(&first))
                .is_pending()
        );
        assert!(
            of_deadline
                .as_mut()
                .poll(&mut Context::from_waker(&second))
                .is_pending()
        );
        for times in 1..3 {
            reactor.wake_all();
            let counts = woken.each_ref().map(|woken| woken.0.load(Relaxed));
            assert_eq!(
                counts, [times; 2],
                "they still wait, so both are woken again"
            );
        }
    }

    #[test]
    fn a_peer_that_always_has_more_gives_way_after_each_buffer() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        // An accepted socket inherits it from the listener; the default buffer may be too small for
        // this test.
        socket2::SockRef::from(&listener)
            .set_recv_buffer_size(16 * READ_BYTES)
            .unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let near = listener.accept().unwrap().0;
        std::io::Write::write_all(&mut peer, &[7; 3 * READ_BYTES]).unwrap();
        let began = Instant::now();
        while near.peek(&mut [0; 3 * READ_BYTES]).unwrap() < 3 * READ_BYTES {
            assert!(
                began.elapsed() < Duration::from_secs(30),
                "the bytes do not come"
            );
        }
        near.set_nonblocking(true).unwrap();
        let reactor = Reactor::new(Rc::new(Poller::new().unwrap()));
        let (socket, mut events) = (reactor.register(near).unwrap(), Events::with_capacity(1));
        reactor.0.poller.wait(&mut events, None).unwrap();
        events.iter().for_each(|event| reactor.on_event(event));
        let read = Cell::new(0);
        let mut reading = pin!(async {
            while read.get() < 3 * READ_BYTES {
                read.set(read.get() + socket.read_some(|_| {}).await.unwrap());
            }
        });
        let woken = std::sync::Arc::new(Woken::default());
        let waker = Waker::from(std::sync::Arc::clone(&woken));
        for buffers in 1..3 {
            assert!(
                reading
                    .as_mut()
                    .poll(&mut Context::from_waker(&waker))
                    .is_pending()
            );
            assert_eq!(
                (read.get(), woken.0.load(Relaxed)),
                (buffers * READ_BYTES, buffers)
            );
        }
        assert!(
            reading
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_ready()
        );
    }

    #[test]
    fn a_closed_peer_is_reported_while_bytes_are_unread() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        for (is_reset, wanted) in [(false, Gone::Ended), (true, Gone::Failed)] {
            let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            near.set_nonblocking(true).unwrap();
            let mut peer = listener.accept().unwrap().0;
            run(|reactor| async move {
                let socket = reactor.register(near).unwrap();
                std::io::Write::write_all(&mut peer, b"some").unwrap();
                let early = reactor
                    .timeout(Duration::from_millis(5), socket.gone())
                    .await;
                assert!(early.is_err(), "bytes are no end");
                if is_reset {
                    crate::sys::reset_on_close(&peer).unwrap();
                }
                drop(peer);
                assert_eq!(socket.gone().await, wanted);
            });
        }
    }

    #[test]
    fn bytes_an_end_and_a_failure_are_found() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let connect = || {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            stream.set_nonblocking(true).unwrap();
            (stream, listener.accept().unwrap().0)
        };
        let (near, mut peer) = connect();
        run(|reactor| async move {
            let socket = reactor.register(near).unwrap();
            let mut buffer = Vec::new();
            std::io::Write::write_all(&mut peer, b"first").unwrap();
            let mut take = |bytes: &mut [u8]| buffer.extend_from_slice(bytes);
            assert_eq!(socket.read_some(&mut take).await.unwrap(), 5);
            std::io::Write::write_all(&mut peer, b"second").unwrap();
            drop(peer);
            assert_eq!(socket.read_some(&mut take).await.unwrap(), 6);
            assert_eq!(socket.read_some(&mut take).await.unwrap(), 0);
            assert_eq!(buffer, b"firstsecond");
        });
        let (near, peer) = connect();
        run(|reactor| async move {
            let socket = reactor.register(near).unwrap();
            crate::sys::reset_on_close(&peer).unwrap();
            drop(peer);
            let error = socket.failed().await;
            assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        });
    }
}
