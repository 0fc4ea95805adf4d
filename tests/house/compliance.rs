//! `docs/compliance.md` has a row for each requirement, and each test that it names exists. `tests/house/pages.rs` holds what else
//! it points at. It cannot hold that a requirement is met.

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

/// Every requirement of the issue has its row; one that is added is a row more.
#[test]
fn every_requirement_has_a_row() {
    let page = read(PAGE);
    let rows: Vec<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .collect();
    let wanted = [
        "(a)(1)",
        "(a)(2)(i)",
        "(a)(2)(ii)",
        "(a)(2)(iii)",
        "(a)(2)(iv)",
        "(b)",
        "(c)(1)",
        "(d)",
        "(e)(1)",
    ]
    .into_iter()
    .chain([
        "(e)(2)(i)",
        "(e)(2)(ii)",
        "4.2.1 ",
        "8.3.1 ",
        "8.3.2 ",
        "8.3.4 ",
        "8.3.9 ",
        "10.2.1 ",
        "10.2.2 ",
    ])
    .chain(["10.3.1", "10.3.3", "10.3.4", "10.4.1", "10.5.1", "10.6.1"]);
    for requirement in wanted {
        let row = rows.iter().find(|row| row.starts_with(requirement));
        let cells = row
            .unwrap_or_else(|| panic!("{requirement} has no row"))
            .split(" |")
            .count();
        assert!(cells >= 5, "{requirement}: {row:?}");
    }
}

/// What stands between backticks on the page, in its tables and its text.
fn words() -> BTreeSet<String> {
    read(PAGE)
        .split('`')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}
