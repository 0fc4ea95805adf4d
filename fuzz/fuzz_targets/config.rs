//! Property: any text is a configuration or has at least one problem, and a users file shows no secret in its problems.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sealway::config::{Config, Overrides, users};

fuzz_target!(|text: &str| {
    // A users file named in the text would be read from this machine.
    if !text.contains("users_file") {
        if let Err(problems) = Config::parse(Path::new("fuzz.toml"), text, &Overrides::default()) {
            assert!(!problems.is_empty());
        }
    }
    if let Err(problems) = users::parse(Path::new("users.toml"), text) {
        assert!(!problems.is_empty());
    }
});
