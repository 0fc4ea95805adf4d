//! Where a proxy runs and what it is configured with: plain values.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use crate::host::process::Placement;

/// The place of a proxy between its agents.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) place: Placement,
    /// The address clients connect to.
    pub(crate) listen: IpAddr,
    /// The address it connects from, if it can be configured.
    pub(crate) source: IpAddr,
    /// The harness's directory, in which each proxy gets one of its own.
    pub(crate) scratch: PathBuf,
}

/// What a configuration is made from.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) listen: SocketAddr,
    pub(crate) source: IpAddr,
    pub(crate) upstream: SocketAddr,
    /// The directory of this proxy, for its files.
    pub(crate) directory: PathBuf,
    /// How many names the policy has.
    pub(crate) names: u64,
    /// How many descriptors a process may have.
    pub(crate) descriptors: u64,
}
