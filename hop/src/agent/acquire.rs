//! Finds a connection for a request: a warm one at once, otherwise a new one. Uses the next upstream when the one before has
//! not finished its handshake in time, or when another request has found that one to be down. Connects to the next upstream
//! some time before, so that many requests that change over together do not wait for as many handshakes. A connection that
//! no request needs becomes warm.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::ask::UNACKNOWLEDGED;
use super::connect::{ConnectError, Ready};
use super::upstream::Upstream;

/// The search of one request.
#[derive(Debug)]
pub struct Search {
    /// The upstreams to try, and whether a warm connection will do.
    left: VecDeque<(Arc<Upstream>, bool)>,
    results: mpsc::Receiver<Attempt>,
    result: mpsc::Sender<Attempt>,
    on_their_way: usize,
    /// The upstream that the last attempt goes to.
    latest: Option<Arc<Upstream>>,
    /// The attempt to the next upstream of `left`, before its turn.
    early: Option<Early>,
    preparation: Duration,
    patience: Duration,
    /// Why each upstream did not do, in the order of the attempts.
    pub failed: Vec<(Arc<Upstream>, String)>,
}

/// An attempt before its upstream's turn.
#[derive(Debug)]
struct Early {
    upstream: Arc<Upstream>,
    /// Its connection; None: on its way.
    ready: Option<Ready>,
}

type Attempt = (Arc<Upstream>, Result<Ready, ConnectError>);

impl Search {
    /// A search in this order.
    #[must_use]
    pub fn new(order: Vec<Arc<Upstream>>) -> Self {
        // Each upstream is tried twice at most: over a warm connection, then over a new one.
        let (result, results) = mpsc::channel(order.len().max(1) * 2);
        Self {
            left: order.into_iter().map(|upstream| (upstream, true)).collect(),
            results,
            result,
            on_their_way: 0,
            latest: None,
            early: None,
            preparation: PREPARATION,
            patience: PATIENCE,
            failed: Vec::new(),
        }
    }

    /// The upstream that is tried first.
    #[must_use]
    pub fn first(&self) -> Option<&Upstream> {
        self.left.front().map(|(upstream, _)| &**upstream)
    }

    /// A warm connection to the first upstream.
    pub fn warm(&mut self) -> Option<(Arc<Upstream>, Ready)> {
        let (upstream, _) = self.left.front()?;
        let ready = upstream.take()?;
        let (upstream, _) = self.left.pop_front()?;
        Some((upstream, ready))
    }

    /// The next connection to ask; None: no upstream is left.
    pub async fn next(&mut self) -> Option<(Arc<Upstream>, Ready)> {
        loop {
            if let Some((upstream, may_be_warm)) = self.left.pop_front() {
                if may_be_warm && let Some(ready) = upstream.take() {
                    return Some((upstream, ready));
                }
                if let Some(ready) = self.begin(&upstream) {
                    return Some((upstream, ready));
                }
            } else if !self.has_more() {
                return None;
            }
            if let Some(found) = self.wait().await {
                return Some(found);
            }
        }
    }

    /// Waits for a connection; None: it is the next upstream's turn, or an attempt has failed.
    async fn wait(&mut self) -> Option<(Arc<Upstream>, Ready)> {
        let (latest, patience) = (self.latest.clone(), self.patience);
        // A distant upstream takes longer, and is not late.
        let usual = latest.as_ref().map(|latest| latest.handshake() * 2);
        let prepare_at = Instant::now() + self.preparation.max(usual.unwrap_or_default());
        let overdue = async {
            // Requests that come at the same time find out together.
            if let Some(latest) = latest {
                let _either = timeout(patience, latest.down()).await;
            }
        };
        let mut overdue = pin!(overdue);
        loop {
            let has_next = !self.left.is_empty();
            let mut next = self.left.front().into_iter();
            let prepares = self.early.is_none() && next.any(|(next, _)| next.keeps_connections());
            tokio::select! {
                biased;
                // The sender in self keeps the channel open.
                Some((upstream, attempt)) = self.results.recv() => {
                    self.on_their_way -= 1;
                    let early = self.early.take_if(|early| Arc::ptr_eq(&early.upstream, &upstream));
                    match attempt {
                        Ok(mut ready) if early.is_some() => {
                            // It waits here as if it were warm.
                            ready.is_warm = true;
                            self.early = Some(Early { upstream, ready: Some(ready) });
                        }
                        Ok(ready) => return Some((upstream, ready)),
                        Err(error) => {
                            self.left.retain(|(left, _)| early.is_none() || !Arc::ptr_eq(left, &upstream));
                            self.failed.push((upstream, error.to_string()));
                            // An early attempt does not end the wait for the one before.
                            early.as_ref()?;
                        }
                    }
                }
                () = overdue.as_mut(), if has_next => return None,
                () = sleep_until(prepare_at), if prepares => self.prepare(),
            }
        }
    }

    /// Connects to the next upstream before its turn.
    fn prepare(&mut self) {
        if let Some((upstream, _)) = self.left.front() {
            let upstream = Arc::clone(upstream);
            self.start(Arc::clone(&upstream));
            self.early = Some(Early {
                upstream,
                ready: None,
            });
        }
    }

    /// Begins an upstream's turn. Returns its connection if an early attempt has one.
    fn begin(&mut self, upstream: &Arc<Upstream>) -> Option<Ready> {
        let early = self
            .early
            .take_if(|early| Arc::ptr_eq(&early.upstream, upstream));
        let is_on_its_way = early.as_ref().is_some_and(|early| early.ready.is_none());
        let ready = early.and_then(|early| early.ready);
        if ready.is_none() && !is_on_its_way {
            self.start(Arc::clone(upstream));
        }
        self.latest = Some(Arc::clone(upstream));
        ready
    }

    /// Tries this upstream again, first, by a new connection.
    pub fn again(&mut self, upstream: Arc<Upstream>) {
        self.left.push_front((upstream, false));
    }

    /// Whether another upstream may still do.
    #[must_use]
    pub fn has_more(&self) -> bool {
        let early = self.early.iter().filter(|early| early.ready.is_none());
        !self.left.is_empty() || self.on_their_way > early.count()
    }

    fn start(&mut self, upstream: Arc<Upstream>) {
        self.on_their_way += 1;
        let result = self.result.clone();
        tokio::spawn(async move {
            let attempt = upstream.connect().await;
            let sent = result.send((upstream, attempt)).await;
            // The request has ended meanwhile.
            if let Err(mpsc::error::SendError((upstream, Ok(ready)))) = sent {
                upstream.put(ready);
            }
        });
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.results.close();
        if let Some((upstream, ready)) = self.early.take().and_then(Early::into_ready) {
            upstream.put(ready);
        }
        while let Ok((upstream, attempt)) = self.results.try_recv() {
            if let Ok(ready) = attempt {
                upstream.put(ready);
            }
        }
    }
}

impl Early {
    fn into_ready(self) -> Option<(Arc<Upstream>, Ready)> {
        Some((self.upstream, self.ready?))
    }
}

/// Before the next upstream is used instead of one that has not finished its handshake: as for the acknowledgement of a
/// request, so that the next one still answers within a quarter of a second.
const PATIENCE: Duration = UNACKNOWLEDGED;
/// Before the connect to the next upstream, at least: thirty handshakes at once fit between this and [`PATIENCE`].
const PREPARATION: Duration = Duration::from_millis(150);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::agent::upstream::tests::{cleartext, upstream};

    const HOUR: Duration = Duration::from_secs(3_600);
    const SOON: Duration = Duration::from_secs(30);

    /// A search whose first upstream takes the connection and never answers the ClientHello, and these two.
    async fn search() -> (Search, [(Arc<Upstream>, TcpListener); 2]) {
        let ((a, silent), (b, open)) = (upstream("https").await, upstream("http").await);
        let mut search = Search::new(vec![Arc::clone(&a), Arc::clone(&b)]);
        (search.preparation, search.patience) = (HOUR, HOUR);
        (search, [(a, silent), (b, open)])
    }

    #[tokio::test]
    async fn an_upstream_that_goes_down_is_not_waited_for() {
        let (mut search, [(a, silent), (b, _open)]) = search().await;
        let failing = async {
            let _connection = silent.accept().await.unwrap();
            a.failed("another request has found out");
            // Its attempt goes on for some seconds.
            std::future::pending::<()>().await;
        };
        let found = tokio::select! {
            found = search.next() => found,
            () = failing => None,
            () = tokio::time::sleep(SOON) => None,
        };
        assert!(Arc::ptr_eq(&found.unwrap().0, &b));
        // Its attempt had not come to its own end.
        assert!(search.failed.is_empty());
    }

    /// The connection to the next upstream is there when its turn comes, and no other is made.
    #[tokio::test]
    async fn the_next_upstream_is_connected_to_before_its_turn() {
        let (mut search, [(a, _silent), (b, open)]) = search().await;
        search.preparation = Duration::ZERO;
        let preparing = async {
            let _connection = open.accept().await.unwrap();
            a.failed("another request has found out");
            std::future::pending::<()>().await;
        };
        let found = tokio::select! {
            found = search.next() => found,
            () = preparing => None,
            () = tokio::time::sleep(SOON) => None,
        };
        assert!(Arc::ptr_eq(&found.unwrap().0, &b) && search.failed.is_empty());
        // That of the first one.
        assert_eq!((search.on_their_way, search.early.is_none()), (1, true));
    }

    /// A connection to the next upstream does not take the first one's turn, and its failure does not end it.
    #[tokio::test]
    async fn an_early_connection_does_not_take_the_turn_of_the_one_before() {
        for next_is_up in [true, false] {
            let ((a, first), (b, open)) = (upstream("https").await, upstream("http").await);
            let mut search = Search::new(vec![Arc::clone(&a), Arc::clone(&b)]);
            (search.preparation, search.patience) = (Duration::ZERO, HOUR);
            let open = next_is_up.then_some(open);
            let deciding = async {
                let (connection, _) = first.accept().await.unwrap();
                while b.handshake().is_zero() && b.reason().is_none() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                // No server of TLS: the attempt fails.
                drop(connection);
                drop(first);
                std::future::pending::<()>().await;
            };
            let found = tokio::select! {
                found = search.next() => found,
                () = deciding => None,
                () = tokio::time::sleep(SOON) => panic!("no end of the search"),
            };
            assert_eq!(found.is_some(), open.is_some());
            let failed: Vec<_> = search.failed.iter().map(|(one, _)| one.place).collect();
            assert_eq!(failed.len(), if next_is_up { 1 } else { 2 });
        }
    }

    /// The daemon's listener in cleartext ends a silent connection and records it.
    #[tokio::test]
    async fn an_upstream_that_keeps_no_connection_gets_none_before_its_turn() {
        let ((a, _silent), (b, _open)) = (upstream("https").await, cleartext().await);
        let mut search = Search::new(vec![a, Arc::clone(&b)]);
        (search.preparation, search.patience) = (Duration::ZERO, Duration::from_millis(200));
        let found = timeout(SOON, search.next()).await.unwrap().unwrap();
        assert!(Arc::ptr_eq(&found.0, &b) && !found.1.is_warm);
    }

    /// The usual time of a handshake delays the early connect.
    #[tokio::test]
    async fn a_distant_upstream_is_not_late() {
        let ((a, _silent), (b, open)) = (upstream("https").await, upstream("http").await);
        a.record_handshake(HOUR);
        let mut search = Search::new(vec![a, Arc::clone(&b)]);
        (search.preparation, search.patience) = (Duration::ZERO, Duration::from_millis(200));
        let began = Instant::now();
        let found = search.next().await.unwrap();
        assert!(Arc::ptr_eq(&found.0, &b) && !found.1.is_warm);
        assert!(began.elapsed() >= Duration::from_millis(200));
        drop(open);
    }
}
