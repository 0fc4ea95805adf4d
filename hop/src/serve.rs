//! Accepts connections: by rate and list first, which cost no cryptography, and hands them to the handshake threads.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sealway::limits::rate::Pace;
use sealway::sys::options;
use tokio::net::{TcpListener, TcpStream};

use crate::events::{Event, Kind};
use crate::handshake::{Accepted, shake};
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
    } else if hop.rates.count(address, rate, Instant::now()) == Pace::Exceeded {
        Some(Refusal::TooFast)
    } else {
        None
    };
    if let Some(refusal) = refusal {
        hop.metrics.refused(refusal);
        let event = Event::of_client(Kind::HandshakeRefused, refusal.code(), address, None);
        hop.events.add(event, &hop.metrics);
        stream.reset_on_close();
        return;
    }
    let accepted = Accepted {
        stream,
        peer,
        local,
        place: hop.places.enter(hop.bounds.waiting),
    };
    hop.handshakes
        .spawn(shake(Arc::clone(hop), Arc::clone(listener), accepted));
}

const BACK_OFF: Duration = Duration::from_millis(100);
