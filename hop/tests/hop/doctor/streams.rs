//! A stream that is silent, cut or whole; in this process, because the program's limit is ten seconds.

use sealway_hop::doctor::checks::{self, Options};

use super::fake::{Fake, SILENCE};
use super::run::{options, tunnel};

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_is_found() {
    let fake = Fake::start().await;
    let (_daemon, proxy) = tunnel(&fake).await;
    let with = |key: &str| Options {
        key: Some(format!("CANARY-{key}").into()),
        gap: SILENCE / 2,
        ..options(&proxy, Some(&fake))
    };
    for (key, wanted) in [
        ("slow", &["stream_gap"][..]),
        ("cut", &["stream_cut"]),
        ("well", &[]),
    ] {
        let report = checks::run(with(key)).await;
        let findings = report.findings();
        let codes: Vec<_> = findings
            .iter()
            .map(|finding| finding.verdict.code)
            .collect();
        assert_eq!(codes, wanted);
    }
}
