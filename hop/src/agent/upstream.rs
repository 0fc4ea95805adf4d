//! One upstream: its health, its warm connections, its counters. Decides nothing about tunnels.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use super::bundle::Bundle;
use super::connect::{self, ConnectError, Ready};
use super::endpoint::Endpoint;
use super::health::{Health, Rank};
use super::metrics::Counts;
use super::recent::Recent;

/// The state of one upstream.
#[derive(Debug)]
pub struct Upstream {
    /// Its place in the settings.
    pub place: usize,
    /// `HOST:PORT`.
    pub name: String,
    /// Its URL.
    pub endpoint: Endpoint,
    /// The settings of TLS, which all upstreams share.
    pub bundle: watch::Receiver<Bundle>,
    /// Something has changed that the keeper has to look at.
    pub changed: Notify,
    /// The destinations that it has reached of late.
    pub recent: Recent,
    /// What is counted.
    pub counts: Counts,
    health: watch::Sender<Health>,
    /// The oldest first.
    warm: Mutex<VecDeque<Ready>>,
    warm_max: usize,
    tunnels: AtomicUsize,
    /// Microseconds of the last TCP and TLS handshakes.
    handshake: AtomicU64,
}

/// An open tunnel through an upstream, or one that is being set up.
#[derive(Debug)]
pub struct TunnelPermit(pub Arc<Upstream>);

/// The end of a warm connection.
#[derive(Debug)]
pub struct Death {
    /// How long it was warm.
    pub age: Duration,
    /// The alert of TLS by which the upstream ended it, or why TLS failed.
    pub refusal: Option<String>,
}

impl Upstream {
    /// An upstream that has not been tried.
    #[must_use]
    pub fn new(
        (place, endpoint): (usize, Endpoint),
        bundle: watch::Receiver<Bundle>,
        warm: usize,
    ) -> Self {
        Self {
            place,
            name: endpoint.name(),
            // The daemon's own listener ends a silent connection in cleartext after timeouts.request, and records it.
            warm_max: if endpoint.tls.is_some() { warm } else { 0 },
            endpoint,
            bundle,
            changed: Notify::new(),
            recent: Recent::default(),
            counts: Counts::default(),
            health: watch::Sender::default(),
            warm: Mutex::default(),
            tunnels: AtomicUsize::default(),
            handshake: AtomicU64::default(),
        }
    }

    /// Connects, and learns from the result.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn connect(&self) -> Result<Ready, ConnectError> {
        let config = Arc::clone(&self.bundle.borrow().config);
        let connected = connect::connect(&self.endpoint, config).await;
        self.counts.connected(connected.is_ok());
        match &connected {
            Ok(ready) => {
                self.record_handshake(ready.took);
                self.connected();
            }
            Err(error) => self.failed(&error.to_string()),
        }
        connected
    }

    /// Records how long a connection took to be made.
    pub fn record_handshake(&self, took: Duration) {
        let took = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.handshake.store(took.max(1), Ordering::Relaxed);
    }

    /// Whether a connection may wait for a request.
    #[must_use]
    pub fn keeps_connections(&self) -> bool {
        self.warm_max > 0
    }

    /// How long the last connection took to be made: TCP and TLS. Zero: there was none.
    #[must_use]
    pub fn handshake(&self) -> Duration {
        Duration::from_micros(self.handshake.load(Ordering::Relaxed))
    }

    fn connected(&self) {
        let mut is_new = false;
        self.health
            .send_modify(|health| is_new = health.connected());
        if is_new {
            tracing::info!(upstream = self.name, "the upstream is up");
            self.changed.notify_one();
        }
    }

    /// The upstream has answered a request with anything but a 503.
    pub fn answered(&self) {
        self.health.send_if_modified(|health| {
            health.answered();
            false
        });
    }

    /// A connection has failed: no new tunnel takes this upstream until a probe succeeds.
    pub fn failed(&self, reason: &str) {
        let mut is_new = false;
        self.health.send_modify(|health| {
            is_new = health.failed(Instant::now(), reason.to_owned(), chance());
        });
        if is_new {
            self.counts.failed();
            tracing::warn!(upstream = self.name, reason, "the upstream is down");
        }
        // What stands there may be as dead, and each would cost a tunnel its wait.
        self.warm().clear();
        self.changed.notify_one();
    }

    /// The upstream has answered 503: the others come first for a while.
    pub fn avoid(&self, code: &str) {
        self.health.send_if_modified(|health| {
            health.avoid(Instant::now(), code.to_owned(), chance());
            false
        });
    }

    /// A client needs an upstream that is down.
    pub fn hasten(&self) {
        let mut is_sooner = false;
        self.health.send_if_modified(|health| {
            is_sooner = health.hasten();
            false
        });
        if is_sooner {
            self.changed.notify_one();
        }
    }

    /// Its rank; None while it is down.
    #[must_use]
    pub fn rank(&self, now: Instant) -> Option<Rank> {
        self.health.borrow().rank(now)
    }

    /// Why it is down.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.health.borrow().reason().map(str::to_owned)
    }

    /// When the next probe is due; None while it is not down.
    #[must_use]
    pub fn probe_at(&self) -> Option<Instant> {
        self.health.borrow().probe_at()
    }

    /// Whether its last connection succeeded.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.health.borrow().is_up()
    }

    /// Resolves when it is down.
    pub async fn down(&self) {
        let mut health = self.health.subscribe();
        // Fails only when the sender is gone, and it is in self.
        let _down = health.wait_for(|health| health.reason().is_some()).await;
    }

    /// A permit for one tunnel.
    #[must_use]
    pub fn tunnel(self: &Arc<Self>) -> TunnelPermit {
        self.tunnels.fetch_add(1, Ordering::Relaxed);
        TunnelPermit(Arc::clone(self))
    }

    /// Its tunnels.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        self.tunnels.load(Ordering::Relaxed)
    }

    /// Takes the youngest warm connection that its upstream has not ended and that is not too old.
    #[must_use]
    pub fn take(&self) -> Option<Ready> {
        self.drop_old(Instant::now());
        let mut warm = self.warm();
        let mut context = Context::from_waker(Waker::noop());
        let found = loop {
            let Some(mut ready) = warm.pop_back() else {
                break None;
            };
            if poll_end(&mut ready, &mut context).is_pending() {
                break Some(ready);
            }
        };
        drop(warm);
        if found.is_some() {
            self.changed.notify_one();
        }
        found
    }

    /// Keeps a connection that no tunnel needs, if there is room.
    pub fn put(&self, mut ready: Ready) {
        let mut warm = self.warm();
        if warm.len() < self.warm_max && self.is_up() {
            ready.is_warm = true;
            warm.push_back(ready);
            drop(warm);
            self.changed.notify_one();
        }
    }

    /// How many warm connections it has, and how many it should have.
    #[must_use]
    pub fn warmth(&self) -> (usize, usize) {
        (self.warm().len(), self.warm_max)
    }

    /// Closes what has been warm for too long, and says when the next one will have been.
    pub fn drop_old(&self, now: Instant) -> Option<Instant> {
        let mut warm = self.warm();
        while warm.front().is_some_and(|ready| ready.since + WARM <= now) {
            drop(warm.pop_front());
        }
        warm.front().map(|ready| ready.since + WARM)
    }

    /// Closes every warm connection.
    pub fn cool(&self) {
        self.warm().clear();
        self.changed.notify_one();
    }

    /// Waits for the end of a warm connection, and drops it.
    pub fn poll_death(&self, context: &mut Context<'_>) -> Poll<Death> {
        let mut warm = self.warm();
        for place in 0..warm.len() {
            let Some(ready) = warm.get_mut(place) else {
                break;
            };
            if let Poll::Ready(refusal) = poll_end(ready, context) {
                let age = ready.since.elapsed();
                drop(warm.remove(place));
                return Poll::Ready(Death { age, refusal });
            }
        }
        Poll::Pending
    }

    fn warm(&self) -> MutexGuard<'_, VecDeque<Ready>> {
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for TunnelPermit {
    fn drop(&mut self) {
        self.0.tunnels.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits for the end of a connection that carries nothing: why TLS refused it, if it did. An upstream that speaks first is
/// no proxy.
pub fn poll_end(ready: &mut Ready, context: &mut Context<'_>) -> Poll<Option<String>> {
    let mut byte = [0; 1];
    let mut space = ReadBuf::new(&mut byte);
    match Pin::new(&mut ready.remote).poll_read(context, &mut space) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(())) => Poll::Ready(None),
        Poll::Ready(Err(error)) => Poll::Ready(refusal(&error)),
    }
}

/// The error of TLS within an error of I/O.
fn refusal(error: &io::Error) -> Option<String> {
    let inner = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    Some(format!("TLS: {inner}"))
}

/// A number from 0 to 1.
fn chance() -> f64 {
    let random = RandomState::new().hash_one(());
    f64::from(u32::try_from(random >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

/// Shorter than hop.idle, and than what most middleboxes allow.
const WARM: Duration = Duration::from_secs(45);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use rustls::{ClientConfig, RootCertStore};
    use sealway::config::tls::Profile;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::agent::remote::Remote;
    use crate::protocol;
    use crate::stream::Stream;

    /// An upstream that trusts nobody and keeps connections, with its socket.
    pub(in crate::agent) async fn upstream(scheme: &str) -> (Arc<Upstream>, TcpListener) {
        let (mut upstream, listener) = as_configured(scheme).await;
        upstream.warm_max = 2;
        (Arc::new(upstream), listener)
    }

    /// An upstream in cleartext, with its socket.
    pub(in crate::agent) async fn cleartext() -> (Arc<Upstream>, TcpListener) {
        let (upstream, listener) = as_configured("http").await;
        (Arc::new(upstream), listener)
    }

    async fn as_configured(scheme: &str) -> (Upstream, TcpListener) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("{scheme}://{}", listener.local_addr().unwrap());
        let config = ClientConfig::builder_with_provider(protocol::provider(Profile::Default))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(RootCertStore::empty())
            .with_no_client_auth();
        let (config, expires) = (Arc::new(config), None);
        let (_, bundle) = watch::channel(Bundle { config, expires });
        let endpoint = Endpoint::parse(&url, false).unwrap();
        (Upstream::new((0, endpoint), bundle, 2), listener)
    }

    #[tokio::test]
    async fn a_warm_connection_is_used_for_45_seconds_and_then_closed() {
        let (upstream, listener) = upstream("https").await;
        upstream.connected();
        let ready = async |age| {
            let socket = TcpStream::connect(listener.local_addr().unwrap());
            let remote = Remote::Plain(Stream(Arc::new(socket.await.unwrap())));
            let since = Instant::now()
                .checked_sub(Duration::from_secs(age))
                .unwrap();
            let (took, is_warm) = (Duration::ZERO, false);
            Ready {
                remote,
                since,
                took,
                is_warm,
            }
        };
        for age in [46, 43] {
            upstream.put(ready(age).await);
        }
        assert_eq!(upstream.warmth(), (2, 2));
        let due = upstream.drop_old(Instant::now()).unwrap() - Instant::now();
        assert!(due <= Duration::from_secs(2) && upstream.warmth().0 == 1);
        assert!(upstream.take().is_some_and(|ready| ready.is_warm));
        // The keeper has not looked yet.
        upstream.put(ready(46).await);
        assert!(upstream.take().is_none() && upstream.warmth().0 == 0);
    }
}
