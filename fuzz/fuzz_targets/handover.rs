//! The description of a hand-over, whole or of changes: no bytes cause a panic, and what is read is written and read
//! alike.

#![no_main]

use libfuzzer_sys::fuzz_target;
use sealway::handover::format::{append, read, read_changes};

fuzz_target!(|bytes: &[u8]| {
    let Ok(description) = read(bytes) else {
        return changes(bytes);
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

fn changes(bytes: &[u8]) {
    let Ok(changes) = read_changes(bytes) else {
        return;
    };
    let mut lines = Vec::new();
    append(&changes.head, &mut lines);
    for change in changes.tunnels.iter().flat_map(|one| &one.state) {
        append(change, &mut lines);
    }
    let again = read_changes(&lines).expect("what was written is read");
    assert_eq!(again.head, changes.head);
    for (first, second) in changes.tunnels.iter().zip(&again.tunnels) {
        assert_eq!(first.state, second.state);
    }
}
