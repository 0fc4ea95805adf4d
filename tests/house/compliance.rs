//! Each test that `docs/compliance.md` names exists. `tests/house/pages.rs` checks what else it points at.

use std::collections::BTreeSet;

use support::monitoring::read;

const PAGE: &str = "docs/compliance.md";

#[test]
fn every_test_that_is_named_exists() {
    let named: Vec<_> = words()
        .into_iter()
        .filter(|word| word.contains("::") && !word.contains(' '))
        .collect();
    assert!(named.len() > 30, "{named:?}");
    for name in named {
        let (place, test) = name.split_once("::").unwrap();
        let text = text_of(place);
        let starts = [format!("fn {test}()"), format!("fn {test}() ")];
        let at = text
            .lines()
            .position(|line| starts.iter().any(|start| line.contains(start.as_str())));
        let at = at.unwrap_or_else(|| panic!("{PAGE} names {name}"));
        let attributes = text.lines().take(at).collect::<Vec<_>>();
        let mut own = attributes
            .iter()
            .rev()
            .take_while(|line| !line.is_empty() && !line.starts_with('}'));
        assert!(
            own.any(|line| line.starts_with("#[") && line.contains("test")),
            "{name} is no test"
        );
    }
}

/// The file of tests that `place` names: `attacks/clients`, or a module of one of the other test binaries.
fn text_of(place: &str) -> String {
    let folders = ["", "behaviour/", "measured/", "tools/", "house/"];
    let file = folders
        .map(|folder| format!("tests/{folder}{place}.rs"))
        .into_iter()
        .find(|file| support::root().join(file).is_file());
    read(&file.unwrap_or_else(|| panic!("{PAGE} names {place}")))
}

/// The texts between backticks on the page, in its tables and its prose.
fn words() -> BTreeSet<String> {
    read(PAGE)
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}
