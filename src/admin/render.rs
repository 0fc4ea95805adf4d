//! Pages that take work. A thread for each page renders it on request, once for all requests that
//! wait for it.
//!
//! A small page is rendered at most 50 times a second, and each request gets a page whose rendering
//! began after the request. A large page is rendered at most once a second, and each request gets
//! one that is about a second old at most. A flood of requests therefore costs no more CPU and
//! memory than a few requests.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use tokio::sync::watch;
use tokio::time::timeout;

/// One page. Dropping it ends its thread.
#[derive(Debug)]
pub(super) struct Page {
    signals: Arc<Signals>,
    latest: watch::Receiver<Rendered>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Signals {
    is_asked: AtomicBool,
    is_over: AtomicBool,
}

#[derive(Clone, Debug)]
struct Rendered {
    body: Bytes,
    /// The page answers requests made until this time.
    good_until: Option<Instant>,
}

impl Page {
    /// Starts the thread that renders.
    ///
    /// # Errors
    /// When the kernel refuses a thread.
    pub(super) fn start(
        name: &str,
        render: impl Fn() -> Bytes + Send + 'static,
    ) -> io::Result<Self> {
        Self::start_at(Pace::USUAL, name, render)
    }

    /// Like [`Page::start`], but with another pace.
    ///
    /// # Errors
    /// When the kernel refuses a thread.
    pub(super) fn start_at(
        pace: Pace,
        name: &str,
        render: impl Fn() -> Bytes + Send + 'static,
    ) -> io::Result<Self> {
        let signals = Arc::new(Signals::default());
        let (sender, latest) = watch::channel(Rendered {
            body: Bytes::new(),
            good_until: None,
        });
        let for_thread = Arc::clone(&signals);
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || for_thread.obey(&render, &sender, pace))?;
        Ok(Self {
            signals,
            latest,
            thread: Some(thread),
        })
    }

    /// Returns the page, or None if it is not rendered within [`RENDER_MAX`].
    pub(super) async fn get(&self) -> Option<Bytes> {
        let now = Instant::now();
        let mut latest = self.latest.clone();
        if !latest.borrow().answers(now) {
            self.signals.is_asked.store(true, Ordering::Release);
            self.wake();
        }
        let rendered = timeout(RENDER_MAX, latest.wait_for(|page| page.answers(now))).await;
        rendered.ok()?.ok().map(|page| page.body.clone())
    }

    fn wake(&self) {
        if let Some(thread) = &self.thread {
            thread.thread().unpark();
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.signals.is_over.store(true, Ordering::Release);
        self.wake();
        // The panic hook has reported a thread that panicked.
        let _reported = self.thread.take().map(JoinHandle::join);
    }
}

impl Signals {
    /// Renders on request, until the page is dropped.
    fn obey(&self, render: &dyn Fn() -> Bytes, latest: &watch::Sender<Rendered>, pace: Pace) {
        let mut next = Instant::now();
        while !self.is_over.load(Ordering::Acquire) {
            let rest = next.saturating_duration_since(Instant::now());
            if !self.is_asked.load(Ordering::Acquire) {
                thread::park();
            } else if !rest.is_zero() {
                thread::park_timeout(rest);
            } else {
                // Cleared before rendering reads any state: a request from now on may need the next
                // rendering.
                self.is_asked.store(false, Ordering::Release);
                let begun = Instant::now();
                let body = render();
                let is_large = body.len() > LARGE;
                let interval = if is_large { pace.large } else { pace.small };
                // If rendering takes longer than the interval, it uses at most half of the thread's
                // time.
                next = (begun + interval).max(Instant::now() + begun.elapsed().min(interval));
                latest.send_replace(Rendered {
                    body,
                    good_until: Some(if is_large { next } else { begun }),
                });
            }
        }
    }
}

impl Rendered {
    fn answers(&self, asked: Instant) -> bool {
        self.good_until.is_some_and(|until| asked <= until)
    }
}

/// The least time between the starts of two renderings.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    small: Duration,
    large: Duration,
}

impl Pace {
    /// A small page is exact; a large one is at most about a second old.
    const USUAL: Self = Self {
        small: Duration::from_millis(20),
        large: Duration::from_secs(1),
    };
    /// For a list that an operator acts on.
    pub(super) const CLOSE: Self = Self {
        small: Duration::from_millis(20),
        large: Duration::from_millis(100),
    };
}

/// In bytes. `/metrics` is half as large without users, and larger with 500 users.
const LARGE: usize = 64 * 1024;
/// Longer than a page of ten thousand users takes on a busy machine.
const RENDER_MAX: Duration = Duration::from_secs(3);

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    /// A page of this size, and the number of times it was rendered.
    fn counted(bytes: usize) -> (Page, Arc<AtomicUsize>) {
        let renderings = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&renderings);
        let page = Page::start("page", move || {
            let number = count.fetch_add(1, Ordering::SeqCst) + 1;
            Bytes::from(
                format!("{number}")
                    .into_bytes()
                    .into_iter()
                    .chain(vec![b' '; bytes])
                    .collect::<Vec<_>>(),
            )
        });
        (page.unwrap(), renderings)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
    }

    #[test]
    fn a_small_page_is_rendered_after_its_request() {
        let (page, renderings) = counted(10);
        runtime().block_on(async {
            for _ in 0..5 {
                let before = renderings.load(Ordering::SeqCst);
                let body = page.get().await.unwrap();
                let number: usize = std::str::from_utf8(&body).unwrap().trim().parse().unwrap();
                assert!(number > before);
            }
        });
    }

    #[test]
    fn a_large_page_is_rendered_once_for_a_flood_and_shared() {
        let (page, renderings) = counted(LARGE);
        let started = Instant::now();
        let bodies: Vec<_> = runtime().block_on(async {
            let mut bodies = Vec::new();
            for _ in 0..1_000 {
                bodies.push(page.get().await.unwrap());
            }
            bodies
        });
        let most = 2 + started.elapsed().as_secs() as usize;
        assert!(
            renderings.load(Ordering::SeqCst) <= most,
            "{renderings:?} in {:?}",
            started.elapsed()
        );
        let mut copies: Vec<_> = bodies.iter().map(|body| body.as_ptr()).collect();
        copies.dedup();
        assert!(copies.len() <= most, "one body for all");
    }

    #[test]
    fn simultaneous_requests_share_one_rendering() {
        let (page, renderings) = counted(10);
        runtime().block_on(async {
            let together = futures_util::future::join_all((0..100).map(|_| page.get()));
            assert!(together.await.iter().all(Option::is_some));
        });
        // A rendering may have begun during the requests.
        assert!(renderings.load(Ordering::SeqCst) <= 2, "{renderings:?}");
    }
}
