//! A session: copies between the client's TLS and the daemon until both have ended.
//!
//! An end is passed on as an end (close_notify or FIN from the client becomes FIN, FIN from the daemon becomes close_notify
//! and FIN), and a reset as a reset. A direction without bytes holds no buffer. Never reads more than it can hand on.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use sealway::sys::{self, options};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

use crate::buffer::Buffer;
use crate::stream::{Stream, poll_send};

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Both sides ended.
    Closed,
    /// One side reset the connection, broke TLS, or was silent for too long after the other's end.
    Reset,
}

/// The two connections of a session, and the bytes between them.
#[derive(Debug)]
pub struct Session {
    tls: Box<TlsStream<Stream>>,
    core: Arc<TcpStream>,
    up: Flow,
    down: Flow,
    /// When a byte moved last.
    moved: Instant,
    /// Whether [`Step::HalfClosed`] was returned.
    is_timed: bool,
}

/// One direction.
#[derive(Debug, Default)]
struct Flow {
    /// Bytes that the receiver has not taken yet.
    rest: Option<Buffer>,
    /// Whether the sender has ended.
    is_at_end: bool,
    /// Whether the receiver knows it.
    is_over: bool,
}

/// What a turn of copying has led to.
enum Step {
    /// The daemon has ended; the client has a limited time.
    HalfClosed,
    /// Both sides have ended.
    Over,
}

impl Session {
    /// A session that has moved no byte yet, and the first bytes of its client. The close of each connection must reset it.
    #[must_use]
    pub fn new(tls: Box<TlsStream<Stream>>, core: TcpStream, first: Buffer) -> Self {
        Self {
            tls,
            core: Arc::new(core),
            up: Flow {
                rest: Some(first),
                ..Flow::default()
            },
            down: Flow::default(),
            moved: Instant::now(),
            is_timed: false,
        }
    }

    /// Copies until both sides have ended, `ended` resolves, or the client is silent for `half_close` after the daemon's
    /// end.
    pub async fn relay(mut self, half_close: Duration, ended: impl Future<Output = ()>) -> Ending {
        let (client, core) = (self.tls.get_ref().0.clone(), Arc::clone(&self.core));
        // A reset counts even while its direction waits for the other side.
        let broken = async {
            tokio::select! {
                _ = client.0.ready(Interest::ERROR) => {}
                _ = core.ready(Interest::ERROR) => {}
                () = ended => {}
            }
        };
        tokio::pin!(broken);
        let ending = loop {
            let deadline = self.moved + half_close;
            let (is_timed, copied) = (
                self.is_timed,
                std::future::poll_fn(|context| self.poll(context)),
            );
            tokio::select! {
                biased;
                step = copied => match step {
                    Ok(Step::Over) => break Ending::Closed,
                    Ok(Step::HalfClosed) => {}
                    Err(_) => break Ending::Reset,
                },
                () = &mut broken => break Ending::Reset,
                () = tokio::time::sleep_until(deadline), if is_timed => {
                    if self.moved + half_close <= Instant::now() {
                        break Ending::Reset;
                    }
                }
            }
        };
        if ending == Ending::Closed {
            // Fails for no connected socket.
            let _set = options::end_in_order(&*client.0);
            let _set = options::end_in_order(&*core);
        }
        ending
    }

    /// Moves bytes until neither side has any, or has room for any.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Step>> {
        let up = self.poll_up(context)?;
        let down = self.poll_down(context)?;
        if up.is_ready() && down.is_ready() {
            return Poll::Ready(Ok(Step::Over));
        }
        if self.down.is_at_end && !self.is_timed {
            self.is_timed = true;
            self.moved = Instant::now();
            return Poll::Ready(Ok(Step::HalfClosed));
        }
        Poll::Pending
    }

    /// From the client to the daemon.
    fn poll_up(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.up.is_over {
            if let Some(rest) = &mut self.up.rest {
                while !rest.is_empty() {
                    let send = |socket: &TcpStream| socket.try_write(rest.filled());
                    let sent = ready!(poll_send(&self.core, context, send))?;
                    rest.consume(sent);
                    self.moved = Instant::now();
                }
                self.up.rest = None;
            }
            if self.up.is_at_end {
                sys::shutdown_write(&*self.core)?;
                self.up.is_over = true;
                break;
            }
            let mut buffer = Buffer::take();
            let mut space = ReadBuf::new(buffer.space());
            let read = match Pin::new(&mut self.tls).poll_read(context, &mut space) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => space.filled().len(),
                // A FIN without close_notify: the inner session has an end of its own.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => 0,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            };
            buffer.fill(read);
            match read {
                0 => self.up.is_at_end = true,
                _ => self.up.rest = Some(buffer),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// From the daemon to the client.
    fn poll_down(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.down.is_over {
            if let Some(rest) = &mut self.down.rest {
                while !rest.is_empty() {
                    let tls = Pin::new(&mut self.tls);
                    let sent = ready!(tls.poll_write(context, rest.filled()))?;
                    rest.consume(sent);
                    self.moved = Instant::now();
                }
                self.down.rest = None;
            }
            if self.down.is_at_end {
                ready!(Pin::new(&mut self.tls).poll_shutdown(context))?;
                self.down.is_over = true;
                break;
            }
            let mut buffer = Buffer::take();
            match self.core.poll_read_ready(context)? {
                Poll::Ready(()) => {}
                Poll::Pending => return self.poll_flush(context),
            }
            match self.core.try_read(buffer.space()) {
                Ok(0) => self.down.is_at_end = true,
                Ok(read) => {
                    buffer.fill(read);
                    self.down.rest = Some(buffer);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Sends the records that TLS still holds; the direction goes on when the daemon sends more.
    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.tls.get_ref().1.wants_write()
            && let Poll::Ready(Err(error)) = Pin::new(&mut self.tls).poll_flush(context)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Pending
    }
}
