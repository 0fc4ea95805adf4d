//! What a run leaves out, and why: printed when it is found, and again in every report.

/// The lines, in the order in which they were found.
#[derive(Default)]
pub(crate) struct NotRun(Vec<String>);

impl NotRun {
    /// Prints a line to standard error and keeps it.
    pub(crate) fn say(&mut self, line: String) {
        eprintln!("{line}");
        self.0.push(line);
    }

    /// The lines.
    pub(crate) fn lines(&self) -> &[String] {
        &self.0
    }

    /// The lines as paragraphs of Markdown.
    pub(crate) fn text(&self) -> String {
        self.0.iter().map(|line| format!("\n{line}\n")).collect()
    }
}
