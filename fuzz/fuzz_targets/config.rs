//! Property: any text is a configuration or has at least one problem.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use sealway::config::{Config, Overrides};

fuzz_target!(|text: &str| {
    // A file named in the text would be read from this machine; without a slash it is in a folder
    // that does not exist.
    let names_a_file = ["users_file", "token_file", "destination_ranges"]
        .iter()
        .any(|key| text.contains(key));
    if !(names_a_file && text.contains('/')) {
        if let Err(problems) =
            Config::parse(Path::new("/nowhere/fuzz.toml"), text, &Overrides::default())
        {
            assert!(!problems.is_empty());
        }
    }
});
