//! A healthy set-up has no finding, a hundred times; and the output is one line.

use std::sync::Arc;

use support::config::Config;
use support::users::{start_with_users, user};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::fake::Fake;
use super::run::{Doctor, tunnel};
use crate::program::Hop;
use support::daemon::Daemon;
use support::proxied::config;

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_setup_has_no_finding_in_a_hundred_runs() {
    let fake = Fake::start().await;
    let config = Config::to(fake.address);
    let daemon = start_with_users(config, &user("alice", "CANARY-s3cr%t", ""), "").await;
    let proxy = format!("http://alice:CANARY-s3cr%25t@{}", daemon.proxy_addr());
    let turns = Arc::new(Semaphore::new(2));
    let mut runs = JoinSet::new();
    for round in 0..100 {
        let doctor = Doctor::new(&proxy, &fake)
            .key("GEMINI_API_KEY", "well")
            .with(&["--egress", "127.0.0.2"]);
        // Each tenth is a whole run, with split hellos and a stream.
        let doctor = if round % 10 == 0 {
            doctor
        } else {
            doctor.with(&["--quick"])
        };
        let turns = Arc::clone(&turns);
        runs.spawn(async move {
            let _turn = turns.acquire().await.unwrap();
            (round, doctor.codes().await)
        });
    }
    for (round, codes) in runs.join_all().await {
        assert!(codes.is_empty(), "round {round}: {codes:?}");
    }
    assert_eq!(fake.requests(), 210);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_hops_certificate_is_judged_by_its_authority() {
    let fake = Fake::start().await;
    let daemon = Daemon::start(&config(fake.address, &["127.0.0.1"])).await;
    let folder = tempfile::tempdir().unwrap();
    let hop = Hop::start_before(daemon.proxy_addr(), folder, "", "").await;
    let ca = crate::zoo::write(&hop.folder, "ca.pem", &hop.authority.pem());
    let proxy = format!("https://{}:{}", hop.address.ip(), hop.address.port());
    let doctor = Doctor::new(&proxy, &fake).key("GEMINI_API_KEY", "well");
    assert_eq!(doctor.codes().await, ["proxy_certificate_untrusted"]);
    let doctor = doctor.with(&["--proxy-ca", ca.to_str().unwrap()]);
    assert!(doctor.codes().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_text_is_one_line_and_the_facts_come_on_request() {
    let fake = Fake::start().await;
    let (_daemon, proxy) = tunnel(&fake).await;
    let mut doctor = Doctor::new(&proxy, &fake)
        .key("GEMINI_API_KEY", "well")
        .with(&["--quick"]);
    doctor.as_text();
    let ran = doctor.run().await;
    assert_eq!((ran.status, ran.stderr.as_str()), (0, ""));
    assert!(ran.stdout.starts_with("ok: gemini at "), "{}", ran.stdout);
    assert!(
        ran.stdout.lines().all(|line| line.chars().count() <= 80) && !ran.stdout.contains('\x1b'),
        "{}",
        ran.stdout
    );
    let facts = doctor.with(&["--verbose"]).run().await.stdout;
    for fact in [
        "D03 127.0.0.1:",
        "D07 the certificate is issued by \"provider CA\"",
        "X25519MLKEM768",
        "D11 count tokens: 200",
    ] {
        assert!(facts.contains(fact), "{facts}");
    }
}
