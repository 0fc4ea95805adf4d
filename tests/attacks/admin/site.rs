//! Many networks of one IPv6 site at the admin listener. The order of the connections is the attack, not their speed.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::crowd::{open, request};
use super::{Scene, TOKEN, address, addresses, watched};
use support::namespace::{in_own_network, run};
use support::soon;

/// The prober's request follows its connection by a round trip; the attacker fills the table twice
/// meanwhile.
#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_48_does_not_displace_a_prober_of_another_site() {
    in_own_network("a_48_does_not_displace_a_prober_of_another_site", async {
        addresses();
        run("ip address add 2001:db8:2::7/128 dev lo");
        for network in 1..=NETWORKS {
            run(&format!(
                "ip address add 2001:db8:1:{network:x}::7/128 dev lo"
            ));
        }
        let (admin, attacker, prober) = ("2001:db8::1", "2001:db8:1:1::7", "2001:db8:2::7");
        let daemon = watched(&Scene {
            admin,
            attacker,
            prober,
            has_token: true,
        })
        .await;
        let (at, mut held) = (daemon.admin_addr(), Vec::new());
        for (path, token) in [
            ("/healthz", None),
            ("/metrics", Some(TOKEN)),
            ("/readyz", None),
        ] {
            let mut probe = open(at, address(prober)).await.expect("a connection");
            let mut flood = Vec::new();
            for network in 0..TABLE * 2 {
                let from = address(&format!("2001:db8:1:{:x}::7", 1 + network % NETWORKS));
                flood.push(open(at, from).await.expect("a connection"));
            }
            let mut oldest = flood.swap_remove(0);
            let end = soon(
                "the end of the attacker's oldest",
                oldest.read(&mut [0; 16]),
            )
            .await;
            assert!(!end.is_ok_and(|bytes| bytes > 0), "it asked nothing");
            probe
                .write_all(request(at, path, token, false).as_bytes())
                .await
                .expect("send");
            let mut answer = String::new();
            let read = soon("the answer", probe.read_to_string(&mut answer)).await;
            assert!(
                read.is_ok() && answer.starts_with("HTTP/1.1 200 "),
                "{path}: {read:?} {answer:.60}"
            );
            // The daemon holds the connections of the table only.
            held = flood;
        }
        drop(held);
    });
}

/// The most connections in the table.
const TABLE: usize = 256;
/// The /64s of the attacker: too many for two connections of each in the table.
const NETWORKS: usize = 300;
