//! Look-ups as the daemon would do them, on a runtime of their own.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use crate::authority::Host;
use crate::resolve::{
    Asker, DnsConfig, Families, Holder, Notice, ResolveError, Resolved, Resolver,
};

/// The resolver as the daemon would set it up, and the thread that it asks from.
pub(super) struct LookUps {
    runtime: Runtime,
    resolver: Arc<Resolver>,
}

impl LookUps {
    /// Reads the machine's files, unless the configuration names servers.
    ///
    /// # Errors
    /// When there is no thread to ask from.
    pub(super) fn new(dns: &DnsConfig) -> io::Result<Self> {
        Self::of_many(dns, LOOK_UPS)
    }

    /// The same for this many look-ups at once.
    ///
    /// # Errors
    /// When there is no thread to ask from.
    pub(super) fn of_many(dns: &DnsConfig, count: usize) -> io::Result<Self> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let resolver = Resolver::new(dns.clone(), runtime.handle().clone(), count, None);
        Ok(Self { runtime, resolver })
    }

    /// What is wrong with the machine's files.
    pub(super) fn notices(&self) -> Vec<Notice> {
        self.resolver.look_at_files().notices
    }

    /// Where the addresses of a name are fixed, if they are.
    pub(super) fn fixed_in(&self, host: &Host) -> Option<&'static str> {
        self.resolver.fixed_in(host)
    }

    /// The addresses of a name.
    ///
    /// # Errors
    /// Why it has none.
    pub(super) fn ask(&self, host: &Host, families: Families) -> Result<Resolved, ResolveError> {
        self.runtime
            .block_on(self.resolver.resolve(host, families, asker()))
    }

    /// The addresses of many names, `at_once` of them at the same time, each with the time that it took. None: no result
    /// within `limit`, which holds for all together.
    pub(super) fn ask_all(
        &self,
        hosts: &[Host],
        families: Families,
        at_once: usize,
        limit: Duration,
    ) -> Vec<(Option<Result<Resolved, ResolveError>>, Duration)> {
        let until = Instant::now() + limit;
        let ask = |host: &Host| {
            let (host, resolver) = (host.clone(), Arc::clone(&self.resolver));
            async move {
                let began = Instant::now();
                let left = until.saturating_duration_since(began);
                let asked = timeout(left, resolver.resolve(&host, families, asker()));
                (asked.await.ok(), began.elapsed())
            }
        };
        let all = futures_util::stream::iter(hosts.iter().map(ask)).buffered(at_once);
        self.runtime.block_on(all.collect())
    }

    /// Ends what is still running.
    pub(super) fn end(self) {
        self.runtime.shutdown_timeout(Duration::from_millis(100));
    }
}

fn asker() -> Asker {
    Asker {
        holder: Holder::of(None, Ipv4Addr::LOCALHOST.into()),
        is_named: true,
    }
}

/// Two kinds of names have one each.
const LOOK_UPS: usize = 2;
