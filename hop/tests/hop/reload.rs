//! New certificates, keys and lists without a restart.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use nix::sys::signal::Signal;
use support::soon;

use crate::carrying::assert_reset;
use crate::core::Core;
use crate::program::{Hop, NAME, config};
use crate::zoo::{Authority, Wanted, write};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_used_and_no_handshake_fails_meanwhile() {
    let core = Core::start().await;
    let mut hop = Hop::start(&core, "", "[limits]\naccept_rate = 0\n").await;
    let (stop, made) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (client, address) = (hop.client(), hop.address);
            let (stop, made) = (Arc::clone(&stop), Arc::clone(&made));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    client
                        .connect(address)
                        .await
                        .expect("a handshake under a reload");
                    made.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                }
            })
        })
        .collect();
    let before = shown(&hop).await;
    for _ in 0..3 {
        let own = hop.authority.server(&[NAME]);
        // The pair is torn between the two renames: such a set is refused, and the next look takes the whole one.
        write(&hop.folder, "hop.pem", &own.pem);
        write(&hop.folder, "hop.key", &own.key_pem);
        hop.signal(Signal::SIGHUP);
        hop.logged("certificates, keys and revocation lists read again")
            .await;
        assert_eq!(shown(&hop).await, own.chain[0].as_ref());
        let wanted = made.load(Ordering::Relaxed) + 20;
        support::wait_until("20 handshakes", async || {
            made.load(Ordering::Relaxed) >= wanted
        })
        .await;
    }
    assert_ne!(shown(&hop).await, before);
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        soon("the clients", client).await.unwrap();
    }
    assert_eq!(core.event("hop_reloaded").await["reason"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn changed_files_are_noticed_and_bad_ones_leave_the_old_ones() {
    let core = Core::start().await;
    let mut hop = Hop::start(&core, "", "").await;
    let before = shown(&hop).await;
    let own = hop.authority.server(&[NAME]);
    write(&hop.folder, "hop.pem", &own.pem);
    let refused = hop
        .logged("the new files are refused; the old ones stay in force")
        .await;
    assert!(
        refused["reason"].as_str().unwrap().contains("hop.key"),
        "{refused}"
    );
    assert_eq!(shown(&hop).await, before);
    let event = core.event("hop_reloaded").await;
    assert!(
        event["reason"].as_str().unwrap().contains("hop.key"),
        "{event}"
    );
    assert_eq!(hop.metrics().await[SUCCESSFUL], 0.0);
    write(&hop.folder, "hop.key", &own.key_pem);
    hop.logged("certificates, keys and revocation lists read again")
        .await;
    assert_eq!(shown(&hop).await, own.chain[0].as_ref());
    let metrics = hop.metrics().await;
    assert_eq!(metrics["sealway_hop_reloads_total{result=\"failed\"}"], 1.0);
    assert_eq!(metrics["sealway_hop_reloads_total{result=\"ok\"}"], 2.0);
    assert_eq!(metrics[SUCCESSFUL], 1.0);
}

/// `reload.watch` is off, so the configuration itself is not followed.
#[tokio::test(flavor = "multi_thread")]
async fn a_failed_reload_is_repeated_and_reported_once() {
    let core = Core::start().await;
    let mut hop = Hop::start(&core, "", "").await;
    let whole = config(core.address, "", "");
    write(&hop.folder, "sealway.toml", "[[listener");
    hop.signal(Signal::SIGHUP);
    hop.logged("the new files are refused; the old ones stay in force")
        .await;
    // Longer than two repetitions, which report nothing.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    write(&hop.folder, "sealway.toml", &whole);
    hop.logged("certificates, keys and revocation lists read again")
        .await;
    let metrics = hop.metrics().await;
    assert_eq!(metrics["sealway_hop_reloads_total{result=\"failed\"}"], 1.0);
    assert_eq!(metrics["sealway_hop_reloads_total{result=\"ok\"}"], 2.0);
    assert_eq!(metrics[SUCCESSFUL], 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_the_certificate_names_cannot_become_allowed() {
    let core = Core::start().await;
    let mut hop = Hop::start(&core, "", "").await;
    let allows = format!("[policy]\nallow = [\"{NAME}:8443\"]\n");
    write(
        &hop.folder,
        "sealway.toml",
        &config(core.address, "", &allows),
    );
    hop.signal(Signal::SIGHUP);
    let refused = hop
        .logged("the new files are refused; the old ones stay in force")
        .await;
    assert!(
        refused["reason"]
            .as_str()
            .unwrap()
            .contains("matches a host that policy allows")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_list_ends_the_sessions_that_it_names_and_no_others() {
    let core = Core::start().await;
    let authority = Authority::new("client CA");
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "ca.pem", &authority.pem());
    write(&folder, "crl.pem", &authority.list(&[], 2100));
    let hop = Hop::start_in(
        folder,
        &core,
        ", client_ca = \"ca.pem\", crl = [\"crl.pem\"]",
        "",
    )
    .await;
    let mut sessions = Vec::new();
    for serial in [7, 8] {
        let client = hop.client().with(&authority.issue(&Wanted::client(serial)));
        let session = client.connect(hop.address).await.unwrap();
        let daemon = core.client().await;
        assert_eq!(
            daemon.custom(0xe5).unwrap(),
            format!("{serial:02x}").as_bytes()
        );
        sessions.push((session, daemon.stream));
    }
    write(&hop.folder, "crl.pem", &authority.list(&[8], 2100));
    let event = core.event("certificate_revoked").await;
    assert_eq!(
        (&event["serial"], &event["client"]),
        (&"08".into(), &"127.0.0.1".into())
    );
    let (session, mut daemon) = sessions.pop().unwrap();
    assert_reset(&mut daemon).await;
    assert_reset(&mut session.into_inner().0).await;
    let metrics = hop.metrics().await;
    assert_eq!(metrics["sealway_hop_sessions"], 1.0);
    assert_eq!(metrics["sealway_hop_sessions_revoked_total"], 1.0);
    // An expired list refuses new handshakes and ends no live session.
    write(&hop.folder, "crl.pem", &authority.list(&[], 2025));
    support::wait_until("the list is read", async || {
        hop.metrics().await["sealway_hop_reloads_total{result=\"ok\"}"] == 3.0
    })
    .await;
    assert_eq!(hop.metrics().await["sealway_hop_sessions"], 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_has_expired_since_its_handshake_can_still_be_revoked() {
    let core = Core::start().await;
    let authority = Authority::new("client CA");
    let folder = tempfile::tempdir().unwrap();
    write(&folder, "ca.pem", &authority.pem());
    write(&folder, "crl.pem", &authority.list(&[], 2100));
    let keys = ", client_ca = \"ca.pem\", crl = [\"crl.pem\"]";
    let hop = Hop::start_in(folder, &core, keys, "").await;
    let expires = SystemTime::now() + Duration::from_secs(4);
    let short = authority.issue(&Wanted {
        expires: Some(expires),
        ..Wanted::client(7)
    });
    let client = hop.client().with(&short);
    let session = client.connect(hop.address).await.unwrap();
    let mut daemon = core.client().await.stream;
    let left = expires
        .duration_since(SystemTime::now())
        .unwrap_or_default();
    tokio::time::sleep(left + Duration::from_secs(1)).await;
    // In TLS 1.3 a client learns it later.
    let _refused = client.connect(hop.address).await;
    let event = core.event("handshake_refused").await;
    assert_eq!(event["reason"], "certificate_expired");
    write(&hop.folder, "crl.pem", &authority.list(&[7], 2100));
    assert_eq!(core.event("certificate_revoked").await["serial"], "07");
    assert_reset(&mut daemon).await;
    drop(session);
}

/// The certificate that the hop shows now.
async fn shown(hop: &Hop) -> Vec<u8> {
    let session = hop.connect().await;
    let chain = session.get_ref().1.peer_certificates().unwrap();
    chain[0].to_vec()
}

const SUCCESSFUL: &str = "sealway_hop_last_reload_successful";
