//! Accepts connections on the threads of handshakes: judges them by list and rate, which cost no cryptography, and starts their
//! handshakes. Never reads a byte of a client, and never wakes a thread of sessions.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sealway::limits::client::ClientNetwork;
use sealway::limits::rate::{Pace, count_connection};
use sealway::sys::options;
use sealway::wire::terminator::EventKind;
use tokio::net::{TcpListener, TcpStream};

use crate::events::Event;
use crate::handshake::{self, Accepted};
use crate::refusal::Refusal;
use crate::shared::{Hop, Listener};
use crate::stream::Stream;

/// Accepts until the task is dropped.
pub async fn accept_all(hop: Arc<Hop>, listener: Arc<Listener>, socket: TcpListener) {
    loop {
        match socket.accept().await {
            Ok((client, peer)) => take_in(&hop, &listener, client, peer),
            Err(error) if options::is_of_one_connection(&error) => {}
            // Mostly no descriptor is left; sessions end and return some.
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

fn take_in(
    hop: &Arc<Hop>,
    listener: &Arc<Listener>,
    client: TcpStream,
    peer: std::net::SocketAddr,
) {
    let stream = Stream(Arc::new(client));
    // Fails only if the client has gone.
    let Ok(local) = stream.0.local_addr() else {
        return;
    };
    let address = peer.ip().to_canonical();
    let (is_listed, rate) = {
        let config = hop.config.borrow();
        (config.auth.lets_in(address), config.limits.accept_rate)
    };
    let refusal = if !is_listed {
        Some(Refusal::NotListed)
    } else if is_too_fast(hop, address, rate) {
        Some(Refusal::TooFast)
    } else {
        None
    };
    if let Some(refusal) = refusal {
        hop.metrics.refused(refusal);
        let event = Event::of_client(EventKind::HandshakeRefused, refusal.code(), address, None);
        hop.events.add(event, &hop.metrics);
        stream.reset_on_close();
        return;
    }
    let accepted = Accepted {
        stream,
        peer,
        local,
        place: hop.places.enter(address, hop.bounds.waiting),
    };
    hop.handshakes.spawn(handshake::perform(
        Arc::clone(hop),
        Arc::clone(listener),
        accepted,
    ));
}

fn is_too_fast(hop: &Hop, address: IpAddr, rate: u32) -> bool {
    let (client, now) = (ClientNetwork::of(address), Instant::now());
    count_connection(&hop.rates, &hop.site_rates, client, rate, now) == Pace::Exceeded
}

const BACK_OFF: Duration = Duration::from_millis(100);
