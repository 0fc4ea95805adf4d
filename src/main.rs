//! Sealway.
fn main() {}
