//! Property: whatever both sides send after the 200, in any pieces, only bytes that a witness can
//! justify record by record reach the other side; no byte of or after a refused record does; and
//! the pieces do not change the verdict. The input is a byte that chooses the operator's rules, and
//! a list of turns: a byte for side and length, then that many bytes.
#![no_main]

#[path = "../../tests/support/src/conversation.rs"]
#[allow(dead_code)] // the tests use all of it
mod conversation;
#[path = "../../tests/support/src/witness.rs"]
#[allow(dead_code)] // the tests use all of it
mod witness;

use std::sync::LazyLock;

use conversation::{Rules, pieces_do_not_matter, turns_of};
use libfuzzer_sys::fuzz_target;

static RULES: LazyLock<Vec<Rules>> = LazyLock::new(|| (0..8).map(Rules::chosen_by).collect());

fuzz_target!(|input: &[u8]| {
    if let [choice, turns @ ..] = input {
        pieces_do_not_matter(&RULES[usize::from(choice % 8)], &turns_of(turns));
    }
});
