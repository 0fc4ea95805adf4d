//! Tables as text, which is Markdown too.

/// A table with its head; cells are padded, so that the text reads well unrendered.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these columns.
    pub(crate) fn new(head: impl IntoIterator<Item = String>) -> Self {
        Self {
            rows: vec![head.into_iter().collect()],
        }
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The text.
    pub(crate) fn text(&self) -> String {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|cell| cell.chars().count())
                .max()
                .unwrap_or(0)
                .max(2)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut lines: Vec<String> = self.rows.iter().map(|row| line(row, &widths)).collect();
        let rule = widths.iter().enumerate().map(|(at, width)| {
            let (dashes, end) = if at == 0 {
                ("-".repeat(width + 2), "")
            } else {
                ("-".repeat(width + 1), ":")
            };
            format!("|{dashes}{end}")
        });
        lines.insert(1, format!("{}|", rule.collect::<String>()));
        lines.join("\n") + "\n"
    }
}

/// The first column is aligned to the left, numbers to the right.
fn line(cells: &[String], widths: &[usize]) -> String {
    let padded = cells
        .iter()
        .zip(widths)
        .enumerate()
        .map(|(at, (cell, width))| {
            let space = " ".repeat(width.saturating_sub(cell.chars().count()));
            if at == 0 {
                format!("| {cell}{space} ")
            } else {
                format!("| {space}{cell} ")
            }
        });
    format!("{}|", padded.collect::<String>())
}
