//! A stage: one network with its agents, where proxies are started and measured. Removes what it made when dropped.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use crate::agents::Agents;
use crate::arguments::{Options, Pin};
use crate::host::network::{self, Network};
use crate::host::process::{self, Placement};
use crate::not_run::NotRun;
use crate::peers::catalogue::Peer;
use crate::peers::proxies::Proxy;
use crate::peers::setting::Ground;

/// The proxies of one network and its two agents. They are dropped in this order.
pub(crate) struct Stage {
    pub(crate) proxies: Vec<Option<Proxy>>,
    pub(crate) agents: Agents,
    pub(crate) ground: Ground,
    network: Option<Network>,
}

impl Stage {
    /// Agents on loopback, with upstream ports for `ports` proxies. Sealway's egress address
    /// differs from theirs.
    pub(crate) fn loopback(options: &Options, scratch: &Path, ports: usize) -> io::Result<Self> {
        let (load, proxies) = cores(options)?;
        let load = Placement {
            namespace: None,
            cores: load,
        };
        let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let agents = Agents::start(&load, &load, address, ports)?;
        let place = Placement {
            namespace: None,
            cores: proxies,
        };
        let source = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));
        let ground = Ground {
            place,
            listen: address,
            source,
            scratch: scratch.into(),
        };
        Ok(Self {
            proxies: Vec::new(),
            agents,
            ground,
            network: None,
        })
    }

    /// Agents in network namespaces, the proxies in one between them.
    pub(crate) fn veth(options: &Options, scratch: &Path, ports: usize) -> io::Result<Self> {
        let network = Network::make()?;
        let (load, proxies) = cores(options)?;
        let at = |namespace: &str, cores| Placement {
            namespace: Some(namespace.to_string()),
            cores,
        };
        let (client, upstream) = (
            at(&network.client, load.clone()),
            at(&network.upstream, load),
        );
        let agents = Agents::start(&client, &upstream, network::UPSTREAM, ports)?;
        let place = at(&network.proxy, proxies);
        let ground = Ground {
            place,
            listen: network::PROXY,
            source: network::SOURCE,
            scratch: scratch.into(),
        };
        Ok(Self {
            proxies: Vec::new(),
            agents,
            ground,
            network: Some(network),
        })
    }

    /// Starts every peer. A peer that does not start leaves its place empty, so that each keeps its
    /// number on every stage; if the options name it, or it always runs, that is an error.
    pub(crate) fn start_proxies(
        &mut self,
        options: &Options,
        peers: &[Peer],
        not_run: &mut NotRun,
    ) -> io::Result<()> {
        for (number, peer) in peers.iter().enumerate() {
            let started = match self.start(peer, number, 1) {
                Err(error)
                    if options.names_peer(&peer.name)
                        || matches!(peer.name.as_str(), "sealway" | "bare") =>
                {
                    return Err(io::Error::other(format!("{}: {error}", peer.name)));
                }
                Err(error) => {
                    let place = if self.network.is_some() {
                        "over veth"
                    } else {
                        "on loopback"
                    };
                    not_run.say(format!("NOT RUN: {} {place}: {error}", peer.name));
                    None
                }
                Ok(proxy) => Some(proxy),
            };
            self.proxies.push(started);
        }
        Ok(())
    }

    /// Whether the peer of this number runs here.
    pub(crate) fn has(&self, number: usize) -> bool {
        self.proxies.get(number).is_some_and(Option::is_some)
    }

    /// Starts one proxy with a policy of `names` names.
    pub(crate) fn start(&mut self, peer: &Peer, number: usize, names: u64) -> io::Result<Proxy> {
        let upstream = self.agents.upstreams.get(number).copied();
        let upstream = upstream.ok_or_else(|| io::Error::other("no upstream port is left"))?;
        Proxy::start(peer, &self.ground, upstream, &mut self.agents, names)
    }
}

/// The cores of the load and those of the proxies. An empty list is any core.
fn cores(options: &Options) -> io::Result<(Vec<usize>, Vec<usize>)> {
    let mut load = process::cores()?;
    let proxies: Vec<usize> = load.pop().into_iter().collect();
    match options.pin {
        Pin::Apart if load.is_empty() => Err(io::Error::other("--pin apart needs a second core")),
        Pin::Apart => Ok((load, proxies)),
        Pin::Together => Ok((proxies.clone(), proxies)),
        Pin::None => Ok((Vec::new(), Vec::new())),
    }
}
