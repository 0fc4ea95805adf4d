//! `sealway check --deep` with the real binary: nothing is found on a healthy machine, and each fault, made real in a network
//! namespace, is the finding with its own code.

mod machine;
mod network;
mod rig;

use rig::{Rig, codes};
use support::command::{running, sealway};
use support::namespace::in_own_network;

#[test]
#[cfg_attr(
    not(feature = "system-tests"),
    ignore = "needs user namespaces, unshare(1) and ip(8)"
)]
fn a_healthy_machine_has_no_finding_twenty_times_beside_the_daemon() {
    in_own_network(
        "a_healthy_machine_has_no_finding_twenty_times_beside_the_daemon",
        async {
            let rig = Rig::start().await;
            let path = rig.write(&rig.toml());
            let _daemon = running(&[], &["run", "--config", &path]).await;
            let before = rig.files();
            for _ in 0..20 {
                let (status, result) = rig.check(&path).await;
                assert_eq!((status, codes(&result)), (0, vec![]), "{result:#}");
            }
            assert_eq!(rig.files(), before, "check left or changed a file");
            let (_, result) = rig.check(&path).await;
            let facts = result["checks"].to_string();
            for fact in [
                "192.0.2.1 leaves by v0",
                "2001:db8:2::1 leaves by v0",
                "192.0.2.1: 1 connections opened",
                "2001:db8:2::1: segments of 14",
            ] {
                assert!(facts.contains(fact), "{fact}: {facts}");
            }
            let text = sealway(&[&RUN[..], &["--config", &path]].concat()).await;
            assert_eq!(text.status, 0, "{text:?}");
            assert!(text.stdout.starts_with("ok: "), "{text:?}");
        },
    );
}

#[tokio::test]
async fn wrong_flags_and_a_wrong_configuration_are_status_2() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sealway.toml");
    std::fs::write(&path, "[limits]\ntunnels = \"many\"\n").unwrap();
    let path = path.to_str().unwrap();
    let wrong = sealway(&["check", "--deep", "--json", "--config", path]).await;
    assert_eq!((wrong.status, wrong.stdout.as_str()), (2, ""), "{wrong:?}");
    assert!(wrong.stderr.contains("limits.tunnels"), "{wrong:?}");
    for flags in [
        &["check", "--json"][..],
        &["check", "--verbose"],
        &["check", "--ignore", "T09"],
        &["check", "--deep", "--offline"],
        &["check", "--deep", "--ignore", "s3cret-canary"],
    ] {
        let refused = sealway(flags).await;
        assert_eq!(refused.status, 2, "{refused:?}");
    }
    // Without --deep a wrong configuration has the status of today.
    let shallow = sealway(&["check", "--config", path]).await;
    assert_eq!(shallow.status, 78, "{shallow:?}");
}

/// The clock and Landlock are those of the machine that runs the tests.
const RUN: [&str; 6] = ["check", "--deep", "--ignore", "T09", "--ignore", "T10"];
