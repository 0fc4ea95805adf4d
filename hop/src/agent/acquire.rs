//! Finds a connection for a request: a warm one at once, otherwise a new one. The next upstream is tried beside one that has
//! not finished its handshake in time, or that another request has found to be down. What no request needs becomes warm.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;

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
    patience: Duration,
    /// Why each upstream did not do, in the order of the attempts.
    pub failed: Vec<(Arc<Upstream>, String)>,
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
                self.start(upstream);
            } else if self.on_their_way == 0 {
                return None;
            }
            let (latest, patience) = (self.latest.clone(), self.patience);
            let overdue = async {
                // Requests that come at the same time find out together.
                if let Some(latest) = latest {
                    let _either = timeout(patience, latest.down()).await;
                }
            };
            tokio::select! {
                biased;
                // The sender in self keeps the channel open.
                Some((upstream, attempt)) = self.results.recv() => {
                    self.on_their_way -= 1;
                    match attempt {
                        Ok(ready) => return Some((upstream, ready)),
                        Err(error) => self.failed.push((upstream, error.to_string())),
                    }
                }
                () = overdue, if !self.left.is_empty() => {}
            }
        }
    }

    /// Tries this upstream again, first, by a new connection.
    pub fn again(&mut self, upstream: Arc<Upstream>) {
        self.left.push_front((upstream, false));
    }

    /// Whether another upstream may still do.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.left.is_empty() || self.on_their_way > 0
    }

    fn start(&mut self, upstream: Arc<Upstream>) {
        self.on_their_way += 1;
        self.latest = Some(Arc::clone(&upstream));
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
        while let Ok((upstream, attempt)) = self.results.try_recv() {
            if let Ok(ready) = attempt {
                upstream.put(ready);
            }
        }
    }
}

/// Before the next upstream is tried beside one that has not finished its handshake: as for the acknowledgement of a request,
/// so that the next one still answers within a quarter of a second.
const PATIENCE: Duration = UNACKNOWLEDGED;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::agent::upstream::tests::upstream;

    #[tokio::test]
    async fn an_upstream_that_goes_down_is_not_waited_for() {
        // The first one takes the connection and never answers the ClientHello.
        let ((a, silent), (b, _open)) = (upstream("https").await, upstream("http").await);
        let mut search = Search::new(vec![Arc::clone(&a), Arc::clone(&b)]);
        search.patience = Duration::from_secs(3600);
        let failing = async {
            let _connection = silent.accept().await.unwrap();
            a.failed("another request has found out");
            // Its attempt goes on for some seconds.
            std::future::pending::<()>().await;
        };
        let found = tokio::select! {
            found = search.next() => found,
            () = failing => None,
        };
        assert!(Arc::ptr_eq(&found.unwrap().0, &b));
        // Its attempt had not come to its own end.
        assert!(search.failed.is_empty());
    }
}
