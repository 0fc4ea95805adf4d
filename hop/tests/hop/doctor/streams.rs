//! A stream that is silent, cut or whole; in this process, because the program's limit is ten seconds.

use std::time::Duration;

use sealway_hop::doctor::checks::{self, Options};
use sealway_hop::doctor::environment::Variables;
use sealway_hop::doctor::path::Target;
use sealway_hop::doctor::provider::Provider;
use sealway_hop::doctor::trust::Trust;
use sealway_hop::doctor::verdict::Check;
use support::HOST;

use super::fake::{Fake, SILENCE};
use super::run::tunnel;

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_stream_is_found() {
    let fake = Fake::start().await;
    let (_daemon, proxy) = tunnel(&fake).await;
    let options = |key: &str| Options {
        provider: Provider::Gemini,
        target: Target {
            host: HOST.to_owned(),
            port: fake.address.port(),
        },
        proxy: Some(proxy.clone().into()),
        proxy_named: true,
        variables: Variables::new(),
        key: Some(format!("CANARY-{key}").into()),
        key_env: "GEMINI_API_KEY".to_owned(),
        again: "sealway doctor".to_owned(),
        model: "m".to_owned(),
        key_id: String::new(),
        egress: Vec::new(),
        proxy_trust: Trust::load(None).unwrap(),
        target_trust: Trust::load(Some(fake.ca().as_ref())).unwrap(),
        identity: None,
        quick: false,
        spent: Duration::ZERO,
        step: Duration::from_secs(25),
        idle: Duration::ZERO,
        gap: SILENCE / 2,
        ignored: vec![Check::D10],
    };
    for (key, wanted) in [
        ("slow", &["stream_gap"][..]),
        ("cut", &["stream_cut"]),
        ("well", &[]),
    ] {
        let report = checks::run(options(key)).await;
        let findings = report.findings();
        let codes: Vec<_> = findings
            .iter()
            .map(|finding| finding.verdict.code)
            .collect();
        assert_eq!(codes, wanted);
    }
}
