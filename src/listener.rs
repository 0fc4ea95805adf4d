//! Accepts connections and starts their tunnels. Backs off when the machine has no descriptors left, never spins,
//! never dies.
//!
//! Each worker accepts from the same listening socket: whoever is idle takes the next client. When the daemon drains,
//! what the kernel has accepted already is still answered.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep};
use tracing::warn;

use crate::tunnel::{self, Client, World};

/// Accepts until the daemon drains.
pub async fn accept_all(listener: TcpListener, address: SocketAddr, world: Arc<World>) {
    let draining = world.shared.stages.draining.clone();
    let start = |(socket, peer): (TcpStream, SocketAddr)| {
        let client = Client { socket, address: peer, listener: address, accepted: Instant::now() };
        world.tunnels.spawn(tunnel::run(client, Arc::clone(&world)));
    };
    let mut failing = false;
    loop {
        tokio::select! {
            biased;
            () = draining.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(connection) => {
                    failing = false;
                    start(connection);
                }
                Err(error) => {
                    world.shared.metrics.accept_errors.increment(1);
                    failing = recover(&error, failing).await;
                }
            },
        }
    }
    let mut waiting = 0;
    while let Some(Ok(connection)) = poll_once(listener.accept()).await {
        start(connection);
        waiting += 1;
        if waiting == WAITING_MAX {
            break;
        }
    }
}

/// A client that gave up while it waited is its own affair; anything else will not pass by itself at once. Said once
/// until it passes.
async fn recover(error: &io::Error, failing: bool) -> bool {
    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) {
        return failing;
    }
    if !failing {
        warn!(%error, "cannot accept connections; trying again every {} ms", BACK_OFF.as_millis());
    }
    sleep(BACK_OFF).await;
    true
}

/// What is there now, without waiting.
async fn poll_once<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        output = future => Some(output),
        () = std::future::ready(()) => None,
    }
}

/// Long enough for tunnels to end, short enough for a client to wait.
const BACK_OFF: Duration = Duration::from_millis(100);
/// The longest queue that the kernel keeps.
const WAITING_MAX: usize = 4_096;
