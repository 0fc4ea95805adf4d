//! A new token between the hop and the daemon, while clients connect all the time: none is refused, whichever of the two
//! reloads first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use support::client::connect_head;
use support::config::Config;
use support::daemon::Daemon;
use support::proxied::listener;
use support::raw::RawUpstream;
use support::{soon, users, wait_until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

use crate::core::TOKEN;
use crate::program::Hop;
use crate::zoo::write;

const ACCEPTED: &str = "the daemon accepts the new token";

/// A daemon that demands the token, the hop before it, and clients.
struct Pair {
    daemon: Daemon,
    config: String,
    hop: Hop,
    stop: Arc<AtomicBool>,
    /// The connections so far.
    made: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<()>>,
}

impl Pair {
    async fn start() -> Pair {
        let upstream = RawUpstream::start().await;
        let keys = ", identity = true, token_file = \"core.token\"";
        let config = Config::to(upstream.addr())
            .listener(&listener(&["127.0.0.1"], keys))
            .section("[auth]\nclients = [\"0.0.0.0/0\"]\n[limits]\nconnect_rate = 0");
        let folder = users::tempdir();
        write(&folder, "core.token", TOKEN);
        let daemon = Daemon::start_in(folder, &config).await;
        let limits = "[limits]\naccept_rate = 0\n";
        let hop = Hop::start_before(daemon.proxy_addr(), users::tempdir(), "", limits).await;
        let (stop, made) = (Arc::default(), Arc::default());
        let config = config.to_toml();
        let mut pair = Pair {
            daemon,
            config,
            hop,
            stop,
            made,
            clients: Vec::new(),
        };
        pair.clients = (0..4).map(|_| pair.client()).collect();
        pair.some_more().await;
        pair
    }

    /// Connects again and again. Each answer must be of the policy: a wrong token has no such answer.
    fn client(&self) -> JoinHandle<()> {
        let (client, address) = (self.hop.client(), self.hop.address);
        let (stop, made) = (Arc::clone(&self.stop), Arc::clone(&self.made));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let mut stream = client.connect(address).await.expect("a handshake");
                let head = connect_head("elsewhere.example.com:443", &[]);
                stream.write_all(head.as_bytes()).await.expect("a request");
                let mut reply = String::new();
                // The daemon may reset the connection after its reply.
                let _end = soon("the reply", stream.read_to_string(&mut reply)).await;
                assert!(reply.contains("host_denied"), "{reply:?}");
                made.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    }

    async fn some_more(&self) {
        let wanted = self.made.load(Ordering::Relaxed) + 20;
        let enough = async || {
            assert!(
                self.clients.iter().all(|client| !client.is_finished()),
                "a client was refused"
            );
            self.made.load(Ordering::Relaxed) >= wanted
        };
        wait_until("20 connections", enough).await;
    }

    async fn reload_daemon(&mut self, token: &str) {
        std::fs::write(self.daemon.path("core.token"), token).unwrap();
        let config = self.config.clone();
        assert_eq!(self.daemon.reload(&config).await["result"], "ok");
    }

    fn reload_hop(&self, token: &str) {
        write(&self.hop.folder, "hop.token", token);
        self.hop.signal(Signal::SIGHUP);
    }

    async fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            soon("the clients", client)
                .await
                .expect("a client was refused");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_changes_in_any_order_and_no_connection_is_refused() {
    let mut pair = Pair::start().await;
    let token = |number: usize| format!("{number:064}");
    // The daemon first; a second change before the hop has taken the first.
    pair.reload_daemon(&token(1)).await;
    pair.some_more().await;
    pair.reload_daemon(&token(2)).await;
    pair.some_more().await;
    pair.reload_hop(&token(2));
    pair.hop.logged(ACCEPTED).await;
    pair.some_more().await;
    // The hop first; it takes another token before the daemon has any.
    for number in [3, 4] {
        pair.reload_hop(&token(number));
        pair.hop.logged("the daemon does not accept the new token of tls.token_file yet; the former one stays in use until the daemon has reloaded").await;
        pair.some_more().await;
    }
    pair.reload_daemon(&token(4)).await;
    pair.hop.logged(ACCEPTED).await;
    pair.some_more().await;
    // Back to a former token.
    pair.reload_daemon(&token(2)).await;
    pair.reload_hop(&token(2));
    pair.hop.logged(ACCEPTED).await;
    pair.some_more().await;
    pair.end().await;
}
