//! The parts of a page that stand between the markers `<!-- generated: NAME -->` and `<!-- end -->` are written from the code. A test
//! compares them; with `SEALWAY_BLESS=1` it writes them.

use support::monitoring::{file, read};

const COMMAND: &str = "SEALWAY_BLESS=1 cargo test --test house generated";

/// Fails if a part of the page differs. Each part has a name and its lines.
pub fn check(page: &str, parts: &[(String, String)]) {
    let text = read(page);
    let written = with_parts(&text, parts).unwrap_or_else(|problem| panic!("{page}: {problem}"));
    if written == text {
        return;
    }
    if std::env::var_os("SEALWAY_BLESS").is_some() {
        // Renamed, because other tests read the page meanwhile.
        let new = file(&format!("{page}.new"));
        std::fs::write(&new, written).expect("write the page");
        std::fs::rename(new, file(page)).expect("replace the page");
        return;
    }
    let (old, new): (Vec<_>, Vec<_>) = (text.lines().collect(), written.lines().collect());
    let removed = old.iter().filter(|line| !new.contains(line));
    let added = new.iter().filter(|line| !old.contains(line));
    let changes = removed.map(|line| format!("- {line}"));
    let changes: Vec<_> = changes
        .chain(added.map(|line| format!("+ {line}")))
        .collect();
    panic!(
        "{page} is not what the code says; `{COMMAND}` writes it:\n{}",
        changes.join("\n")
    );
}

#[test]
fn a_part_without_a_place_or_without_a_writer_is_an_error() {
    let page = "a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n";
    let part = |name: &str| vec![(name.to_owned(), "| new |\n".to_owned())];
    let new = "a\n<!-- generated: x -->\n\n| new |\n\n<!-- end -->\nb\n";
    assert_eq!(with_parts(page, &part("x")).as_deref(), Ok(new));
    assert_eq!(with_parts(new, &part("x")).as_deref(), Ok(new));
    for (page, parts) in [
        (page, part("y")),
        (page, Vec::new()),
        (&page.replace("<!-- end -->", ""), part("x")),
        (&page.repeat(2), part("x")),
    ] {
        assert!(with_parts(page, &parts).is_err(), "{page} {parts:?}");
    }
}

/// The page with each part between its markers.
fn with_parts(page: &str, parts: &[(String, String)]) -> Result<String, String> {
    let mut page = page.to_owned();
    for (name, part) in parts {
        let begin = format!("<!-- generated: {name} -->\n");
        let parts: Vec<_> = page.split(&begin).collect();
        let [before, behind] = parts[..] else {
            return Err(format!(
                "the marker of {name} occurs {} times",
                parts.len() - 1
            ));
        };
        let (_, after) = behind
            .split_once(END)
            .ok_or_else(|| format!("{name} does not end"))?;
        page = format!("{before}{begin}\n{part}\n{END}{after}");
    }
    let marked = page.matches("<!-- generated: ").count();
    if marked == parts.len() && page.matches(END).count() == marked {
        Ok(page)
    } else {
        Err(format!(
            "{marked} parts are marked, and {} are known",
            parts.len()
        ))
    }
}

const END: &str = "<!-- end -->\n";
