//! The description of a hand-over: no bytes cause a panic, and what is read is written and read
//! alike.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sealway::handover::format::{append, read};

fuzz_target!(|bytes: &[u8]| {
    let Ok(description) = read(bytes) else {
        return;
    };
    assert_eq!(description.tunnels.len(), description.head.tunnels);
    let mut lines = Vec::new();
    append(&description.head, &mut lines);
    for tunnel in &description.tunnels {
        let Ok(state) = &tunnel.state else { return };
        append(state, &mut lines);
    }
    let again = read(&lines).expect("what was written is read");
    assert_eq!(again.head, description.head);
    for (first, second) in description.tunnels.iter().zip(&again.tunnels) {
        assert_eq!(first.state, second.state);
    }
});
