//! Resolves one name as the daemon would, on a temporary runtime.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::runtime::Builder;

use crate::authority::Host;
use crate::resolve::{
    Answer, Asker, DnsConfig, Families, Holder, ResolveError, Resolver, SetupError,
};

/// Why there is no answer.
pub(super) enum LookUpError {
    /// No thread could be started.
    Thread(io::Error),
    /// The resolver's configuration.
    Setup(SetupError),
    /// The answer, or that none came.
    Resolve(ResolveError),
}

/// Resolves the addresses of a name.
pub(super) fn look_up(
    dns: &DnsConfig,
    host: &Host,
    families: Families,
) -> Result<Answer, LookUpError> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(LookUpError::Thread)?;
    let resolver = Resolver::new(dns.clone(), runtime.handle().clone(), LOOK_UPS, None)
        .map_err(LookUpError::Setup)?;
    let asked = runtime.block_on(resolver.resolve(
        host,
        families,
        Asker {
            holder: Holder::of(None, Ipv4Addr::LOCALHOST.into()),
            is_named: true,
        },
    ));
    runtime.shutdown_timeout(Duration::from_millis(100));
    asked.map_err(LookUpError::Resolve)
}

/// Two kinds of names have one each.
const LOOK_UPS: usize = 2;
