//! The findings of `sealway check --deep` in `docs/operate.md` are those of the table.

use std::fmt::Write;

use sealway::commands::check::kinds::{ALL, Check};
use sealway::commands::check::report::Finding;

use super::generated;

#[test]
fn the_generated_part_of_the_page_is_current() {
    let mut page = String::new();
    for check in Check::ALL {
        writeln!(page, "#### {check}: {}\n", check.subject()).unwrap();
        for kind in ALL.iter().filter(|kind| kind.check == *check) {
            let finding = Finding::new(kind);
            let text = |text: String| text.replace('<', "&lt;").replace('*', "\\*");
            writeln!(
                page,
                "- **`{}`** ({}): {}.\n  Cure: {}.\n\n  ```sh\n  {}\n  ```\n",
                kind.code,
                kind.severity,
                text(finding.cause()),
                text(finding.cure()),
                finding.command()
            )
            .unwrap();
        }
    }
    let part = page.trim_end().to_owned() + "\n";
    generated::check("docs/operate.md", &[("deep".to_owned(), part)]);
}
