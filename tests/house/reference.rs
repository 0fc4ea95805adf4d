//! The tables of codes, metrics and configuration keys in `docs/reference.md` are those of the code.

mod codes;
mod keys;
mod markdown;
mod metrics;

use super::generated;

#[test]
fn the_generated_tables_are_current() {
    let mut tables = codes::tables();
    tables.extend(metrics::tables());
    tables.extend(keys::tables());
    generated::check("docs/reference.md", &tables);
}
