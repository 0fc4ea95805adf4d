//! Property: any text is a configuration or has at least one problem.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sealway::config::{Config, Overrides};

fuzz_target!(|text: &str| {
    // A users file named in the text would be read from this machine.
    if !text.contains("users_file") {
        if let Err(problems) = Config::parse(Path::new("fuzz.toml"), text, &Overrides::default()) {
            assert!(!problems.is_empty());
        }
    }
});
