//! The cost of the two parsers on real input: `cargo bench --bench parse`. Nanoseconds for one
//! recorded CONNECT head and one recorded ClientHello, small, post-quantum and in several records,
//! and for the fingerprint of each. Never opens a socket.
#![allow(clippy::unwrap_used, missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use sealway::wire::ja4::Ja4;
use sealway::wire::{Parsed, client_hello, connect};

fn recorded(path: &str) -> Vec<u8> {
    std::fs::read(format!(
        "{}/tests/fixtures/{path}",
        env!("CARGO_MANIFEST_DIR")
    ))
    .unwrap()
}

fn parsers(criterion: &mut Criterion) {
    let head = recorded("connect/py-aiohttp-basic.head");
    criterion.bench_function("connect head, aiohttp with credentials", |b| {
        b.iter(|| connect::parse(black_box(&head), 16_384))
    });
    for name in ["curl-openssl", "chromium156", "openssl-3.5-recsplit512"] {
        let hello = recorded(&format!("clienthello/{name}.bin"));
        criterion.bench_function(&format!("client hello, {name}"), |b| {
            b.iter(|| client_hello::parse(black_box(&hello), 65_536))
        });
        if let Ok(Parsed::Complete { value, .. }) = client_hello::parse(&hello, 65_536) {
            criterion.bench_function(&format!("ja4, {name}"), |b| {
                b.iter(|| Ja4::of(black_box(&value)))
            });
        }
    }
}

criterion_group!(benches, parsers);
criterion_main!(benches);
