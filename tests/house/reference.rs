//! The tables of `docs/reference.md` that stand between the markers `<!-- generated: NAME -->` and `<!-- end -->` are written from
//! the code, and this fails if they differ. `SEALWAY_BLESS=1 cargo test --test house reference` replaces them.

mod codes;
mod keys;
mod markdown;
mod metrics;

use support::monitoring::{file, read};

const PAGE: &str = "docs/reference.md";
const COMMAND: &str = "SEALWAY_BLESS=1 cargo test --test house reference";

/// The name of each generated table, and its lines.
fn tables() -> Vec<(String, String)> {
    let mut tables = codes::tables();
    tables.extend(metrics::tables());
    tables.extend(keys::tables());
    tables
}

#[test]
fn the_tables_are_those_of_the_code() {
    let page = read(PAGE);
    let tables = tables();
    let written = with_tables(&page, &tables).unwrap_or_else(|problem| panic!("{PAGE}: {problem}"));
    if written == page {
        return;
    }
    if std::env::var_os("SEALWAY_BLESS").is_some() {
        std::fs::write(file(PAGE), written).expect("write the reference");
        return;
    }
    let (old, new): (Vec<_>, Vec<_>) = (page.lines().collect(), written.lines().collect());
    let removed = old.iter().filter(|line| !new.contains(line));
    let added = new.iter().filter(|line| !old.contains(line));
    let changes = removed.map(|line| format!("- {line}"));
    let changes: Vec<_> = changes
        .chain(added.map(|line| format!("+ {line}")))
        .collect();
    panic!(
        "{PAGE} is not what the code says; `{COMMAND}` writes it:\n{}",
        changes.join("\n")
    );
}

#[test]
fn a_table_that_has_no_place_or_that_nobody_writes_is_an_error() {
    let page = "a\n<!-- generated: x -->\nold\n<!-- end -->\nb\n";
    let table = |name: &str| vec![(name.to_owned(), "| new |\n".to_owned())];
    let new = "a\n<!-- generated: x -->\n\n| new |\n\n<!-- end -->\nb\n";
    assert_eq!(with_tables(page, &table("x")).as_deref(), Ok(new));
    assert_eq!(with_tables(new, &table("x")).as_deref(), Ok(new));
    for (page, tables) in [
        (page, table("y")),
        (page, Vec::new()),
        (&page.replace("<!-- end -->", ""), table("x")),
        (&page.repeat(2), table("x")),
    ] {
        assert!(with_tables(page, &tables).is_err(), "{page} {tables:?}");
    }
}

/// The page with each table between its markers.
fn with_tables(page: &str, tables: &[(String, String)]) -> Result<String, String> {
    let mut page = page.to_owned();
    for (name, table) in tables {
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
            .ok_or_else(|| format!("the table {name} does not end"))?;
        page = format!("{before}{begin}\n{table}\n{END}{after}");
    }
    let marked = page.matches("<!-- generated: ").count();
    if marked == tables.len() && page.matches(END).count() == marked {
        Ok(page)
    } else {
        Err(format!(
            "{marked} tables are marked, and {} are known",
            tables.len()
        ))
    }
}

const END: &str = "<!-- end -->\n";
