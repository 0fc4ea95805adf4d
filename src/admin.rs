//! The admin listener: a page for people, `/status`, `/metrics`, `/healthz`, `/readyz`, and the
//! acts of operators (`admin/acts.rs`). It serves no secrets.
//!
//! One thread accepts, parses (hyper) and answers; other threads render the pages that take work.
//! No peer can hold a place that a newer connection needs, and every wait has a deadline.

mod access;
mod acts;
mod answer;
mod connections;
mod ending;
pub mod operation;
mod operator;
mod page;
pub mod readiness;
mod render;
pub mod report;
mod status;
mod stream;
mod tunnels;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::shared::Shared;
use crate::sys::{self, options};
use answer::{Asked, Pages};
use connections::{ConnectionPermit, Connections};
use operation::Reloaded;
use operator::Ends;
use stream::Stream;

/// A running admin listener. Dropping it stops it; [`Server::stop`] also waits for its threads.
#[derive(Debug)]
pub struct Server {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// An operator's request to read the configuration again.
#[derive(Debug)]
pub struct ReloadRequest {
    /// Receives the result of the reload. Dropping it without a result means that the daemon
    /// stops.
    pub reply: oneshot::Sender<Reloaded>,
}

/// The state that the admin thread serves from.
struct Service {
    shared: Arc<Shared>,
    connections: Arc<Connections>,
    pages: Pages,
    reloads: mpsc::Sender<ReloadRequest>,
}

impl Server {
    /// Starts the threads that accept, answer and render. The threads send the reload requests of
    /// operators to `reloads`.
    ///
    /// # Errors
    /// When the kernel refuses a thread.
    pub fn start(
        listener: std::net::TcpListener,
        shared: Arc<Shared>,
        reloads: mpsc::Sender<ReloadRequest>,
    ) -> io::Result<Self> {
        let connections = Connections::new(shared.limits.budget.admin);
        let service = Arc::new(Service {
            pages: Pages::start(&shared)?,
            connections,
            shared,
            reloads,
        });
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        // Opened here, so that a lack of descriptors fails the start.
        let mut opened = Some(open(&listener)?);
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || {
                // A fault ends only the connections of the moment; the panic hook has reported it.
                while !stopped.is_cancelled() {
                    let opened = opened.take().map_or_else(|| open(&listener), Ok);
                    let served = opened.map(|(runtime, listener)| {
                        let serve = || service.run(&runtime, &listener, &stopped);
                        catch_unwind(AssertUnwindSafe(serve))
                    });
                    if !matches!(served, Ok(Ok(()))) {
                        std::thread::sleep(BACK_OFF);
                    }
                }
            })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Closes the listener and every connection, and waits for the threads.
    pub fn stop(mut self) {
        self.stop.cancel();
        // The panic hook has reported a thread that panicked.
        let _reported = self.thread.take().map(JoinHandle::join);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Opens what the admin thread needs.
fn open(listener: &std::net::TcpListener) -> io::Result<(Runtime, TcpListener)> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let listener = {
        let _in_runtime = runtime.enter();
        TcpListener::from_std(listener.try_clone()?)?
    };
    Ok((runtime, listener))
}

impl Service {
    /// Serves until `stopped` is cancelled.
    fn run(
        self: &Arc<Self>,
        runtime: &Runtime,
        listener: &TcpListener,
        stopped: &CancellationToken,
    ) {
        runtime.block_on(stopped.run_until_cancelled(self.accept_all(listener)));
    }

    /// Accepts connections. It never waits for a place: a new connection displaces another one.
    async fn accept_all(self: &Arc<Self>, listener: &TcpListener) {
        let mut reserve = sys::spare_descriptor().ok();
        loop {
            match listener.accept().await {
                Ok((socket, peer)) => {
                    self.take_in(socket, peer);
                    reserve = reserve.or_else(|| sys::spare_descriptor().ok());
                }
                Err(error) if options::is_of_one_connection(&error) => {}
                Err(error) if self.has_made_room(&error, listener, &mut reserve) => {
                    yield_now().await
                }
                Err(_) => sleep(BACK_OFF).await,
            }
            // Lets the tasks of displaced connections run and close their sockets.
            while self.connections.is_over_full() {
                yield_now().await;
            }
        }
    }

    /// Frees a descriptor for a waiting connection: the reserve, or that of the oldest idle
    /// connection.
    fn has_made_room(
        &self,
        error: &io::Error,
        listener: &TcpListener,
        reserve: &mut Option<OwnedFd>,
    ) -> bool {
        let is_short = sys::is_out_of_descriptors(error);
        // Without a free descriptor accept(2) fails even if no connection waits.
        if is_short && !options::has_waiting(listener) {
            *reserve = reserve.take().or_else(|| sys::spare_descriptor().ok());
            return false;
        }
        self.shared.evidence.metrics.accept_errors.increment(1);
        is_short && (reserve.take().is_some() || self.connections.close_one())
    }

    fn take_in(self: &Arc<Self>, socket: TcpStream, peer: SocketAddr) {
        // This fails only if the peer has gone.
        let Ok(own) = socket.local_addr() else {
            return;
        };
        let Ok(stream) = Stream::new(socket) else {
            return;
        };
        if !self.shared.snapshot.load().config.admin_lets_in(peer.ip()) {
            return;
        }
        let permit = self.connections.enter(peer.ip());
        let number = permit.number();
        let task = tokio::spawn(Arc::clone(self).converse(stream, permit, Ends { peer, own }));
        self.connections.served_by(number, task.abort_handle());
    }

    async fn converse(self: Arc<Self>, stream: Stream, permit: ConnectionPermit, ends: Ends) {
        // A peer that sends nothing causes no allocation.
        let Ok(Ok(())) = timeout(HEAD_MAX, stream.readable()).await else {
            return;
        };
        let asked = Asked::new(permit, ends, Instant::now() + GRACEFUL_MAX);
        let service = service_fn(|request| self.answer(request, &asked));
        let mut server = http1::Builder::new();
        // Vectored writes, because all readers share the body of a page, which is never copied.
        server
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .writev(true);
        // A scraper that breaks off needs no report.
        let _broken_off = timeout(
            CONNECTION_MAX,
            server.serve_connection(TokioIo::new(stream), service),
        )
        .await;
    }
}

/// The deadline for the first byte, for the rest of a head, and between two requests.
const HEAD_MAX: Duration = Duration::from_secs(2);
/// The least that hyper accepts; a token has at most 1 KiB.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// After this time the answer to a request closes the connection.
const GRACEFUL_MAX: Duration = Duration::from_secs(10);
/// The longest life of a connection.
const CONNECTION_MAX: Duration = Duration::from_secs(15);
/// The pause when the kernel has no memory or no descriptor.
const BACK_OFF: Duration = Duration::from_millis(20);
