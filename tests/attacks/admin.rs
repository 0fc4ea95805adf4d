//! Attacks on the admin listener: strangers must not keep probes, metrics or the status page from
//! an answer.
//!
//! Each attack holds silent connections, adds unread ones all the time and requests `/metrics` of
//! 500 users. Meanwhile a prober requests `/healthz`, `/readyz` and `/metrics` on new connections.

#![allow(clippy::disallowed_macros, reason = "prints what it measures or does")]
mod crowd;
mod look_ups;
mod single;
mod site;
mod washed_out;

use std::net::IpAddr;
use std::time::Duration;

use crowd::{Crowd, Prober};
use support::config::Config;
use support::daemon::Daemon;
use support::namespace::{in_own_network, run};
use support::users::{start_with_users, tempdir, user, with_users, write};

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// The admin listener, its attackers and its watchers: addresses of the test's own network.
struct Scene {
    admin: &'static str,
    attacker: &'static str,
    prober: &'static str,
    has_token: bool,
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn strangers_on_loopback_do_not_silence_the_admin_listener() {
    in_own_network(
        "strangers_on_loopback_do_not_silence_the_admin_listener",
        async {
            for admin in ["127.0.0.1", "::1"] {
                play(Scene {
                    admin,
                    attacker: admin,
                    prober: admin,
                    has_token: false,
                })
                .await;
            }
            let other = "127.0.0.9";
            play(Scene {
                admin: "127.0.0.1",
                attacker: other,
                prober: "127.0.0.1",
                has_token: false,
            })
            .await;
        },
    );
}

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn strangers_on_the_network_do_not_silence_the_admin_listener() {
    in_own_network(
        "strangers_on_the_network_do_not_silence_the_admin_listener",
        async {
            addresses();
            for (admin, other) in [
                ("192.0.2.1", "198.51.100.7"),
                ("2001:db8::1", "2001:db8:1::7"),
            ] {
                play(Scene {
                    admin,
                    attacker: admin,
                    prober: admin,
                    has_token: true,
                })
                .await;
                play(Scene {
                    admin,
                    attacker: other,
                    prober: admin,
                    has_token: true,
                })
                .await;
            }
        },
    );
}

fn addresses() {
    for address in [
        "192.0.2.1/32",
        "198.51.100.7/32",
        "2001:db8::1/128",
        "2001:db8:1::7/128",
    ] {
        run(&format!("ip address add {address} dev lo"));
    }
}

/// Starts the daemon and the attack, and requests each page 20 times; every answer must arrive
/// within [`BOUND`].
async fn play(scene: Scene) {
    let daemon = watched(&scene).await;
    let token = scene.has_token.then_some(TOKEN);
    let crowd = Crowd::gather(daemon.admin_addr(), address(scene.attacker), token).await;
    let prober = Prober {
        from: address(scene.prober),
        admin: daemon.admin_addr(),
        token,
    };
    let (worst, missed) = prober.ask_each(20, BOUND).await;
    let took_part = crowd.disperse();
    println!(
        "{} from {}: worst {worst:?}, late or none {missed}, crowd {took_part}",
        scene.admin, scene.attacker
    );
    assert_eq!(
        missed, 0,
        "answers later than {BOUND:?}, the worst after {worst:?}, on {}",
        scene.admin
    );
    assert!(
        took_part > 700,
        "the attack had {took_part} connections only"
    );
}

/// A daemon with 500 users whose admin listener has the scene's address.
async fn watched(scene: &Scene) -> Daemon {
    let users: String = (0..500)
        .map(|number| user(&format!("user-{number}"), "secret", ""))
        .collect();
    let config =
        Config::closed().admin_at(&std::net::SocketAddr::new(address(scene.admin), 0).to_string());
    if !scene.has_token {
        return start_with_users(config, &users, "").await;
    }
    let directory = tempdir();
    write(&directory.path().join("users.toml"), &users);
    write(&directory.path().join("token"), TOKEN);
    Daemon::start_in(
        directory,
        &with_users(config.admin("token_file = \"token\""), ""),
    )
    .await
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The default time-out of a Kubernetes probe.
const BOUND: Duration = Duration::from_secs(1);
