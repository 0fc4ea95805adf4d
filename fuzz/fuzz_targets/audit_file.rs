//! Property: no file makes the verifier or the report panic; the records that the writer appends
//! after the last record of any file are proved.
#![no_main]

use libfuzzer_sys::fuzz_target;
use sealway::audit::chain::{Chain, Link};
use sealway::digest::Digest;
use sealway::audit::report::Report;
use sealway::audit::verify::{LineEnd, Verifier, next_line};

fuzz_target!(|bytes: &[u8]| {
    let (mut verifier, mut report, mut rest, mut line) =
        (Verifier::default(), Report::default(), bytes, Vec::new());
    let mut proved = true;
    let mut chain = Chain::default();
    while let Ok(LineEnd::Whole) = next_line(&mut rest, &mut line) {
        report.line(&line);
        proved &= verifier.line(&line).is_ok();
        if let Ok(link) = Link::parse(&line) {
            chain = Chain {
                seq: link.seq,
                hash: Digest::of(&line),
            };
        }
    }
    if proved && chain.seq < u64::MAX {
        let mut next = Vec::new();
        chain.seal(br#"{"ts":"t","event":"audit_file"}"#, &mut next);
        assert!(verifier.line(next.trim_ascii_end()).is_ok());
    }
    assert!(
        report
            .rows()
            .all(|(day, user, _)| day.len() == 10 && user.is_ascii())
    );
});
