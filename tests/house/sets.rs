//! `cargo test` passes with Rust and a C compiler alone: a test with a network of its own is in the
//! second set, `cargo test -- --ignored`. `tests/bare/run` proves it for each other need.

use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn every_test_with_its_own_network_is_in_the_second_set() {
    let mut tests = 0;
    for path in sources(&support::root().join("tests")) {
        let text = fs::read_to_string(&path).expect("read a test");
        for test in text.split("test]\n").skip(1) {
            let test = test.split("\n}\n").next().unwrap_or(test);
            if !test.contains(" in_own_network(\n") && !test.contains(" in_own_network(\"") {
                continue;
            }
            tests += 1;
            assert!(
                test.contains("#[cfg_attr(\n    not(feature = \"system-tests\"),\n    ignore ="),
                "{}: let this one be ignored without the feature system-tests:\n{test}",
                path.display()
            );
        }
    }
    assert!(tests > 40, "only {tests} tests make a network");
}

/// The Rust files below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("read a folder") {
        let path = entry.expect("read a folder").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}
