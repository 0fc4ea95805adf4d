//! Property: whatever both sides say in whatever pieces, what may pass is never more than what was said, and once a
//! side is refused nothing of it passes. The input is a list of turns: a byte for side and length, then that many
//! bytes.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use sealway::authority::Authority;
use sealway::greeting::negotiation::Negotiation;
use sealway::policy::guard::AddressGuard;
use sealway::policy::{NameRules, Policy, Verdict};
use sealway::wire::client_hello::TlsVersion;

static POLICY: LazyLock<Policy> = LazyLock::new(|| {
    let names = NameRules::parse([HOST]).unwrap_or_default();
    Policy::new(names, AddressGuard::new(Vec::new()), TlsVersion::Tls12, true)
});

const HOST: &str = "generativelanguage.googleapis.com";

fuzz_target!(|input: &[u8]| {
    let Ok(authority) = Authority::parse(&format!("{HOST}:443")) else { return };
    let Verdict::Allow(authorised) = POLICY.judge(authority, None) else { return };
    let (early_data, mut rest) = (input.first().is_some_and(|first| first & 1 == 1), input.get(1..).unwrap_or_default());
    let mut negotiation = Negotiation::new(&POLICY, &authorised, 65_536, early_data);
    let mut pending = [Vec::new(), Vec::new()];
    while let [turn, tail @ ..] = rest {
        let (bytes, behind) = tail.split_at(usize::from(turn >> 1).min(tail.len()));
        rest = behind;
        let side = usize::from(turn & 1);
        pending[side].extend_from_slice(bytes);
        let passed = match side {
            0 => negotiation.client_says(&pending[0]),
            _ => negotiation.upstream_says(&pending[1]),
        };
        let Ok(passed) = passed else { return };
        assert!(passed <= pending[side].len());
        pending[side].drain(..passed);
        if negotiation.outcome().is_some() {
            return;
        }
    }
});
